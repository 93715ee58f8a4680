"""What layers keep for the backward pass, held in the host's memory while other layers are computed.

What goes in: the layers' forward passes, each inside `Offload.layer()`. What comes out: the same gradients, bit for
bit. Each piece of memory that a layer keeps is copied away once, however many saved tensors lie in it, while the layer
is still being computed; it is let go when the layer ends. The backward pass of a layer brings its own back, unless that
was done already, and begins to bring back what the layer below keeps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Mover(Protocol):
    """Copies that run beside the computation, in the order in which they are asked for."""

    def away(self, near: Tensor) -> Tensor:
        """Begin to copy to the host."""
        ...

    def back(self, far: Tensor) -> Tensor:
        """Begin to copy to the device."""
        ...

    def wait(self) -> None:
        """From here on the computation may read what was brought back."""
        ...


class Copies:
    """`Mover` of a CUDA device: pinned memory, and a stream of its own."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def away(self, near: Tensor) -> Tensor:
        far = torch.empty_like(near, device="cpu", pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream())  # it has to be computed first
        with torch.cuda.stream(self._stream):
            far.copy_(near, non_blocking=True)
        near.record_stream(self._stream)  # its memory is not given to others before the copy is done
        return far

    def back(self, far: Tensor) -> Tensor:
        with torch.cuda.stream(self._stream):
            near = torch.empty_like(far, device="cuda")
            near.copy_(far, non_blocking=True)
        near.record_stream(torch.cuda.current_stream())
        return near

    def wait(self) -> None:
        torch.cuda.current_stream().wait_stream(self._stream)

    def follow(self, other: torch.cuda.Stream) -> None:
        """Copies that are asked for from here on begin after what another stream was asked for."""
        self._stream.wait_stream(other)


@functools.cache
def copies() -> Copies:
    """The one of this process: with every further stream the allocator would hold memory that others cannot have."""
    return Copies()


class _Place(NamedTuple):
    """Where a saved tensor lies: in which memory of which layer, and how."""

    layer: _Layer
    memory: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Layer:
    """The memory that one layer keeps. near: on the device, None while it is away; far: on the host."""

    def __init__(self, mover: Mover, below: _Layer | None) -> None:
        self._mover = mover
        self._places: dict[tuple[int, torch.dtype], int] = {}
        self.below = below
        self.above: _Layer | None = None
        self.near: list[Tensor] | None = []
        self.far: list[Tensor] = []

    def put(self, tensor: Tensor) -> _Place:
        key = tensor.untyped_storage().data_ptr(), tensor.dtype
        if key not in self._places:
            assert self.near is not None, "the layer has ended"
            whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
            self._places[key] = len(self.far)
            self.near.append(whole)  # until the layer ends, so that no other tensor comes to lie at this address
            self.far.append(self._mover.away(whole))
        return _Place(self, self._places[key], tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def let_go(self) -> None:
        self.near = None

    def fetch(self) -> None:
        if self.near is None:
            self.near = [self._mover.back(far) for far in self.far]

    def get(self, place: _Place) -> Tensor:
        if self.near is None or self.above is not None:
            self._begin()
        assert self.near is not None
        return self.near[place.memory].as_strided(place.size, place.stride, place.offset)

    def _begin(self) -> None:
        """The backward pass has come to this layer: the one above is done with."""
        if self.above is not None:
            self.above.let_go()
            self.above = None
        self.fetch()
        self._mover.wait()
        if self.below is not None:
            self.below.above = self
            self.below.fetch()


class Offload:
    """Moves what the layers of one forward pass keep.

    Args:
        mover: does the copies.
        stays: tensors that lie on the device anyway, such as weights.
    """

    def __init__(self, mover: Mover, stays: Iterable[Tensor]) -> None:
        self._mover = mover
        self._stays = {tensor.untyped_storage().data_ptr() for tensor in stays}
        self._last: _Layer | None = None

    @contextmanager
    def layer(self, stays: Iterable[Tensor] = ()) -> Iterator[None]:
        """The forward pass of a layer, from the lowest up. stays: further tensors that lie on the device anyway."""
        layer = self._last = _Layer(self._mover, self._last)
        here = self._stays.union(tensor.untyped_storage().data_ptr() for tensor in stays)

        def pack(tensor: Tensor) -> Tensor | _Place:
            return tensor if tensor.untyped_storage().data_ptr() in here else layer.put(tensor)

        def unpack(packed: Tensor | _Place) -> Tensor:
            return packed.layer.get(packed) if isinstance(packed, _Place) else packed

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
        layer.let_go()
