"""AdamW whose moments lie in the host's memory and are on the device only while a page of parameters is updated.

What goes in: an optimizer's own update. What comes out: the same update, bit for bit, because it reads nothing of a
parameter but its own state. While one page is updated the state of the next comes in and that of the one before goes
out, each on a stream of its own, through page-locked memory; the host waits for nothing. On a CPU, where tests run it,
the copies are plain ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from luthier.engine import adamw
from luthier.kernels import offload

PAGE_BYTES = 2**26
"""State of a page, at least one parameter's: some 3 ms of PCIe, long enough that launches do not count; two of them are
a small part of what the activations leave free. Chosen, not tuned. `luthier.holdings` counts with the same."""

Page = tuple[dict[str, Any], list[nn.Parameter]]


class Paged(torch.optim.Optimizer):
    """In front of an optimizer class, keeps what that one keeps for each element of a parameter in the host's memory.
    Step counters stay where they are."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        groups, pages = self.param_groups, list(self._pages())
        if pages:
            self._begin(pages[0][1][0])
        try:
            near = self._fetched(pages[0]) if pages else []
            for at, (group, parameters) in enumerate(pages):
                self._wait()
                following = self._fetched(pages[at + 1]) if at + 1 < len(pages) else []
                far = [self.state[each] for each in parameters]
                for parameter, state in zip(parameters, near, strict=True):
                    self.state[parameter] = state
                self.param_groups = [{**group, "params": parameters}]
                super().step()
                for parameter, home in zip(parameters, far, strict=True):
                    self.state[parameter] = self._away(self.state[parameter], home)
                near = following
        finally:
            self.param_groups = groups

    def take_home(self, parameter: nn.Parameter) -> None:
        """Keep the state of a parameter in the host's memory from here on."""
        self._begin(parameter)
        self.state[parameter] = self._away(self.state[parameter], {})
        self.settle()

    def settle(self) -> None:
        """Wait until the host's memory holds what the last update left."""
        if self._out is not None:
            self._out.synchronize()

    _out: torch.cuda.Stream | None = None

    def _begin(self, parameter: nn.Parameter) -> None:
        if parameter.device.type == "cuda":
            if self._out is None:
                self._out = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            offload.copies().follow(self._out)  # what comes in now has to have gone out before

    def _pages(self) -> Iterator[Page]:
        for group in self.param_groups:
            page: list[nn.Parameter] = []
            held = 0
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                size = sum(each.nbytes for each in self.state[parameter].values() if each.ndim)
                if page and held + size > PAGE_BYTES:
                    yield group, page
                    page, held = [], 0
                page.append(parameter)
                held += size
            if page:
                yield group, page

    def _fetched(self, page: Page) -> list[dict[str, Tensor]]:
        """The state of a page's parameters on its way to the device."""
        back = Tensor.clone if self._out is None else offload.copies().back
        states = [self.state[each] for each in page[1]]
        return [{slot: back(each) if each.ndim else each for slot, each in state.items()} for state in states]

    def _wait(self) -> None:
        if self._out is not None:
            offload.copies().wait()

    def _away(self, near: dict[str, Tensor], home: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state where it was at home, with the values that the device has; room is made where there was none."""
        return {slot: self._put(each, home.get(slot)) if each.ndim else each for slot, each in near.items()}

    def _put(self, near: Tensor, far: Tensor | None) -> Tensor:
        if far is None:
            far = torch.empty_like(near, device="cpu", pin_memory=self._out is not None)
        if self._out is None:
            return far.copy_(near)
        self._out.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._out):
            far.copy_(near, non_blocking=True)
        near.record_stream(self._out)
        return far


class PagedAdamW(Paged, torch.optim.AdamW):
    """torch's, in float32."""


class PagedCompactAdamW(Paged, adamw.AdamW):
    """That of few bytes."""


def scratch_bytes(optimizer: Paged) -> int:
    """What two pages take on the device while parameters are updated."""
    sizes = [
        sum(each.nbytes for each in optimizer.state[parameter].values() if each.ndim)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    return two_pages(sizes)


def two_pages(sizes: Sequence[int]) -> int:
    """sizes: state of each parameter."""
    return min(2 * max(PAGE_BYTES, max(sizes, default=0)), sum(sizes))
