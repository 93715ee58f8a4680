"""What happens when memory runs out.

What goes in: work that can be done again, and a `Room` that knows what may be held less. What comes out: the work's
result. An out-of-memory error is caught, what the work left half done is undone, the room is tightened, and the work is
done again from the same state; where nothing can be held less, the run ends with a message. Weights move in one place
only (`updating`), and from there is no way back.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol, TypeVar

import torch

from luthier.errors import Problem, TrainingFailed

T = TypeVar("T")

NO_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|DefaultCPUAllocator|bad_alloc|out of memory|_ALLOC_FAILED"
    r"|could not create a primitive$",
    re.IGNORECASE,
)
"""How torch's CPU allocator, the C++ library, libraries of CUDA's, and oneDNN, which compiles a kernel for each shape,
spell it; CUDA's own allocator has a type."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's `malloc.h`."""
MOST_KEPT = 2**31 - 1
GLIBC_KEEPS = (2**25, 2**26)
"""As far as glibc raises its two thresholds by itself."""


class Room(Protocol):
    """What micro-batches may hold, as it is now."""

    def tighten(self, step: int, tokens: int, reason: str, *, split_only: bool = False) -> bool:
        """Hold less from `step` on, and write that down; False where nothing can be held less.

        Args:
            tokens: of the micro-batch that did not fit.
            split_only: nothing was kept for a backward pass, so keeping less would not help.
        """
        ...


class Spoilt(Exception):
    """Memory ran out while weights were being changed: some have moved, others have not."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def redone(
    work: Callable[[], T],
    undo: Callable[[], None],
    tighten: Callable[[str], bool],
    problem: str = "engine.out_of_memory",
) -> T:
    """The result of `work`, which is done again for as long as memory runs out and `tighten` finds something.

    Args:
        problem: id of the message where it does not.

    Raises:
        TrainingFailed: it does not fit, and nothing can be held less.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            reason = words(error)
        # Out here nothing refers to the error any more, whose frames hold what was computed.
        undo()
        release()
        if not tighten(reason):
            raise TrainingFailed(Problem(problem, values={"reason": reason}))


def updating() -> AbstractContextManager[None]:
    """Around what changes weights.

    Raises:
        Spoilt: memory ran out inside.
    """
    return _raising(Spoilt)


def saving() -> AbstractContextManager[None]:
    """Around what writes a checkpoint: it copies tensors on their way to the disk, and there nothing can be held less.

    Raises:
        TrainingFailed: memory ran out inside.
    """
    return _raising(lambda reason: TrainingFailed(Problem("engine.save_out_of_memory", values={"reason": reason})))


@contextmanager
def _raising(failure: Callable[[str], Exception]) -> Iterator[None]:
    """Where memory runs out inside, an error of another kind, made of its words."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise failure(words(error)) from None


def words(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def release() -> None:
    """Give back what nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU was used
    _glibc("malloc_trim", 0)


@contextmanager
def pages_kept() -> Iterator[None]:
    """On a CPU what is freed inside stays with the process, as on a GPU the allocator has it: the next step takes as
    much again, and the kernel would have to fill every page with zeros anew (4 % of a step of SmolLM2-135M's shape).
    Pieces that nothing fits into make it up to a quarter more than what is in use: for where memory is spare."""
    _keep(MOST_KEPT, MOST_KEPT)
    try:
        yield
    finally:
        _keep(*GLIBC_KEEPS)
        release()


def _keep(block_bytes: int, spare_bytes: int) -> None:
    """Blocks up to so many bytes are taken from memory that was freed; of what is free at its end so much stays."""
    _glibc("mallopt", M_MMAP_THRESHOLD, block_bytes)
    _glibc("mallopt", M_TRIM_THRESHOLD, spare_bytes)


def _glibc(name: str, *given: int) -> None:
    """A function of glibc's allocator; elsewhere nothing."""
    with suppress(OSError, TypeError, AttributeError):
        getattr(ctypes.CDLL(None), name)(*given)
