"""The package's compiled parts, loaded by ctypes.

What goes in: the name of a part and what its functions take. What comes out: the library; None where nothing was
compiled, because there was no C compiler when Luthier was installed, or where it was built of another source than lies
beside it. Every part has a twin in Python.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Functions = Mapping[str, tuple[Any, list[Any]]]
"""Name, less the part's prefix -> what it gives, what it takes."""


def library(folder: Path, name: str, sources: Sequence[Path], prefix: str, functions: Functions) -> ctypes.CDLL | None:
    """A part as it lies in a folder under one of Python's own suffixes for compiled modules."""
    paths = [folder / f"{name}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    for path in filter(Path.exists, paths):
        try:
            found = ctypes.CDLL(str(path))
            built_of = getattr(found, f"{prefix}source")
            built_of.restype = ctypes.c_uint32
            if built_of() != zlib.crc32(b"".join(each.read_bytes() for each in sources)):
                continue
            for each, (gives, takes) in functions.items():
                function = getattr(found, prefix + each)
                function.restype, function.argtypes = gives, takes
        except (OSError, AttributeError):  # of another machine, or no such library
            continue
        return found
    return None
