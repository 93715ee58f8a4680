"""llama.cpp's own quantiser, where an installed package brings it along.

What goes in: float32 rows and the name of a type. What comes out: the bytes of `ggml_quantize_chunk`, a plain C
function that xllamacpp and llama-cpp-python export. Rows do not know each other, so threads share them; ctypes lets go
of the interpreter's lock for as long as a call takes.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

KINDS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
)
"""What it writes here; the smaller IQ types want an importance matrix."""
ONLY_NATIVE = ("Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS")
"""What Luthier has no code of its own for."""
LIBRARIES: dict[str, tuple[str, ...]] = {
    "xllamacpp": ("xllamacpp*.so", "xllamacpp*.pyd", "xllamacpp*.dylib"),
    "llama_cpp": ("lib/libggml-base*", "lib/ggml-base*"),
}
"""Package -> where in its folder the library lies."""
_CHUNK_VALUES = 1 << 18
"""Values a thread takes at once: a millisecond and more of work, small enough that all threads end together."""


class Native:
    """`ggml_quantize_chunk` of one library, on `threads` threads."""

    def __init__(self, library: ctypes.CDLL, package: str, threads: int) -> None:
        self.package = package
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads)  # has no threads before it is used
        self._quantise = library.ggml_quantize_chunk
        self._quantise.restype = ctypes.c_size_t
        number, address = ctypes.c_int64, ctypes.c_void_p
        self._quantise.argtypes = [ctypes.c_int, address, address, number, number, number, address]
        self._initialise = library.ggml_quantize_init
        self._initialise.restype = None
        self._initialise.argtypes = [ctypes.c_int]

    def quantise(self, values_RC: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
        """float32 [rows, columns] -> uint8 [rows, bytes per row], for a kind of `KINDS` whose blocks fill a row."""
        assert kind in KINDS and values_RC.dtype == np.float32 and values_RC.ndim == 2
        number = int(gguf.GGMLQuantizationType[kind])
        rows, columns = values_RC.shape
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        assert columns % block == 0, (kind, columns)
        values_RC = np.ascontiguousarray(values_RC)
        out = np.empty((rows, columns // block * size), dtype=np.uint8)
        self._initialise(number)
        step = max(1, min(_CHUNK_VALUES // max(columns, 1), -(-rows // self.threads)))

        def part(first: int) -> None:
            count = min(step, rows - first)
            at = first * columns
            wrote = self._quantise(number, values_RC.ctypes.data, out.ctypes.data, at, count, columns, None)
            assert wrote == count * out.shape[1], (kind, wrote)

        starts = range(0, rows, step)
        if self.threads == 1 or len(starts) < 2:
            for first in starts:
                part(first)
        else:
            list(self._pool.map(part, starts))
        return out


def installed() -> bool:
    """Whether some package brings it, which loading it may still show to be broken."""
    return any(True for _ in _candidates())


def find(threads: int) -> Native | None:
    """The quantiser of the first installed package that has one; None where none has."""
    for package, path in _candidates():
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue  # built for another machine, or a library of its own is missing
        if hasattr(library, "ggml_quantize_chunk") and hasattr(library, "ggml_quantize_init"):
            return Native(library, package, threads)
    return None


def _candidates() -> Iterator[tuple[str, Path]]:
    for package, patterns in LIBRARIES.items():
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            for pattern in patterns:
                yield from ((package, path) for path in sorted(Path(folder).glob(pattern)))
