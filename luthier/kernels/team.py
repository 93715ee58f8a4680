"""Threads for the compiled parts of this folder: torch's own.

What goes in: a part's function, and where what it works on lies. What comes out: all of it is done, by several threads
that take one piece after another. Other threads than torch's would wait for a processor on which those still spin after
their last product: two of them took as long as one.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

Fork = Callable[[Any, int, int, int], None]

_ADDRESS, _NUMBER = ctypes.c_void_p, ctypes.c_int64
TAKE: tuple[Any, list[Any]] = (None, [_ADDRESS])
"""What a function gives and takes that threads call together."""
ON_ROWS: tuple[Any, list[Any]] = (ctypes.c_int, [_ADDRESS, _NUMBER, _NUMBER])
"""The same of one that does some rows of a job."""
PARTS = 4
"""Per thread: one that is held up leaves its later ones to others. Chosen, not tuned."""


class Shared(ctypes.Structure):
    """As in `numbers.h`."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("does", "job")),
        *((name, _NUMBER) for name in ("rows", "parts", "next", "failed")),
    ]


def by_rows(take: Any, does: Any, job: ctypes.Structure, rows: int, threads: int) -> None:
    """Do all rows of a job.

    Raises:
        MemoryError: there is none for a row.
    """
    parts = 1 if threads <= 1 else min(PARTS * threads, rows)
    shared = Shared(ctypes.cast(does, _ADDRESS), ctypes.addressof(job), rows, parts, 0, 0)
    together(take, shared, threads)
    if shared.failed:
        raise MemoryError


def together(take: Any, given: ctypes.Structure, threads: int) -> None:
    """Have several threads call a part's function on the same, and wait for all."""
    address = ctypes.addressof(given)
    fork = _fork() if threads > 1 else None
    if fork is not None:
        fork(take, address, threads, 0)
        return
    others = [_pool(threads).submit(take, address) for _ in range(1, threads)]
    take(address)
    for each in others:
        each.result()


@functools.cache
def _fork() -> Fork | None:
    """How OpenMP begins a parallel region, in the library that torch runs on; None where that is another one.

    `GOMP_parallel` of libgomp's ABI, which LLVM's and Intel's libraries have too.
    """
    try:
        found = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    found.restype, found.argtypes = None, [ctypes.c_void_p, _ADDRESS, ctypes.c_uint, ctypes.c_uint]
    return lambda take, address, threads, flags: found(ctypes.cast(take, _ADDRESS), address, threads, flags)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Where torch's threads cannot be had."""
    return ThreadPoolExecutor(threads, "luthier-compiled")
