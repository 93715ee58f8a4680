"""The compiled parts for tests: the installed ones, or such as are made here where there is a C compiler."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from luthier.data import native
from luthier.kernels import chained, step, swept

Installed = Callable[..., ctypes.CDLL | None]
installed, installed_step = native.library, step.library
installed_attend, installed_chains = swept.library, chained.library


@functools.cache
def library() -> ctypes.CDLL | None:
    """Of words; None where nothing can be compiled."""
    return _made(installed, (native.SOURCE,), "_native")


@functools.cache
def step_library() -> ctypes.CDLL | None:
    """Of generation; None where nothing can be compiled."""
    return _made(installed_step, step.SOURCES, "_step")


@functools.cache
def attend_library() -> ctypes.CDLL | None:
    """Of attention; None where nothing can be compiled."""
    return _made(installed_attend, swept.SOURCES, "_attend")


@functools.cache
def chains_library() -> ctypes.CDLL | None:
    """Of element-wise chains; None where nothing can be compiled."""
    return _made(installed_chains, chained.SOURCES, "_chains")


def _made(installed: Installed, sources: Sequence[Path], name: str) -> ctypes.CDLL | None:
    found = installed()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is not None or compiler is None:
        return found
    folder = Path(tempfile.mkdtemp(prefix="luthier-native-"))
    built_of = f"-DSOURCE={zlib.crc32(b''.join(each.read_bytes() for each in sources))}u"
    command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", built_of]
    subprocess.run([*command, str(sources[0]), "-o", str(folder / f"{name}.so"), "-lm"], check=True)
    found = installed(folder)
    shutil.rmtree(folder)  # it is loaded
    return found
