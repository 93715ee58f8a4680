"""Several processes that make one step together, each on a device of its own.

What goes in: what one process has found (gradients, a loss, a signal). What comes out: what all of them have found, the
same in every process to the bit, so that no process decides alone. Every rank holds all weights; a step's examples are
shared out by `data.stream`, its denominators are over the whole step, so gradients are summed, never averaged.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from luthier.engine import backend, memory
from luthier.engine.backend import Group

BUCKET_ELEMENTS = 25 * 2**18
"""Gradients per exchange: 25 MiB in float32, as in torch's own data parallel module (Li et al. 2020, arXiv 2006.15704,
figure 7: between 10 and 50 MB nothing is gained by more)."""


class Ranks:
    """This process among those of its run. Without a group it is alone and every method gives back what it got."""

    def __init__(self, group: Group | None = None) -> None:
        self._group = group
        self.index, self.size = (group.rank, group.size) if group is not None else (0, 1)
        self._parent = os.getppid()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes the run folder."""
        return self.index == 0

    # ------------------------------------------------------------------------------------------ of a step

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each `.grad` by its sum over all ranks, added in float32. A parameter that no rank has a gradient of
        stays without."""
        if self._group is None:
            return
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        self._group.largest(there)
        for bucket in _buckets([p for p, any_rank in zip(parameters, there.tolist(), strict=True) if any_rank]):
            flat = torch.cat([_gradient(p).reshape(-1).float() for p in bucket])
            self._group.sum(flat)
            for p, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                p.grad = torch.empty_like(p, dtype=p.grad_dtype or p.dtype) if p.grad is None else p.grad
                p.grad.copy_(part.view_as(p))

    def total(self, value: Tensor) -> Tensor:
        """A number summed over all ranks."""
        if self._group is not None:
            value = value.clone()
            self._group.sum(value)
        return value

    def agreed(self, *numbers: float) -> tuple[float, ...]:
        """Rank 0's numbers: what is decided by them is decided alike, even where a device rounds differently."""
        if self._group is None:
            return numbers
        row = torch.tensor(numbers if self.first else [0.0] * len(numbers), dtype=torch.float64)
        self._group.sum(row)
        return tuple(row.tolist())

    def orders(self, signal_number: int, overdue: bool) -> tuple[int, bool]:
        """What to do after a step: the signal that any rank got (0: none), and whether a checkpoint is overdue. A rank
        whose launcher is gone asks to stop, so that nothing runs on that nobody watches."""
        if self._group is None:
            return signal_number, overdue
        if not signal_number and os.getppid() != self._parent:
            signal_number = signal.SIGTERM
        row = torch.tensor([signal_number, overdue], dtype=torch.int64)
        self._group.largest(row)
        return int(row[0]), bool(row[1])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what one rank may have no memory for: then all of them fail alike, and can try again alike.

        Raises:
            MemoryError: memory ran out on this rank, or on another one.
        """
        reason = None
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if self._group is None or not memory.ran_out(error):
                raise
            reason = memory.words(error)
        if self._group is None:
            return
        failed = torch.tensor([reason is not None], dtype=torch.uint8)
        self._group.largest(failed)
        if failed.item():
            reasons = [(rank, each) for rank, each in enumerate(self._group.gather(reason)) if each is not None]
            raise MemoryError("; ".join(f"rank {rank}: {each}" for rank, each in reasons))

    def most(self, value: int) -> int:
        """The largest of all ranks' numbers."""
        if self._group is None:
            return value
        row = torch.tensor([value], dtype=torch.int64)
        self._group.largest(row)
        return int(row)

    # ------------------------------------------------------------------------------------------ of a run

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank."""
        return [value] if self._group is None else self._group.gather(value)

    def told(self, value: Any) -> Any:
        """Rank 0's value; the others give None."""
        return value if self._group is None else self._group.told(value)

    def wait(self) -> None:
        """Until every rank is here."""
        if self._group is not None:
            self._group.sum(torch.zeros(1))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Rank 0 goes first through the block, the others together after it: they find made what it makes."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Connect with the other processes of the run, where a launcher started this one as one of several."""
    group = Group(device) if backend.placed() is not None else None
    ranks = Ranks(group)
    yield ranks
    if group is not None:
        ranks.wait()  # a process that ends early takes the connections of the others with it
        group.leave()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """In order, each of at most BUCKET_ELEMENTS, or one larger parameter alone."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
