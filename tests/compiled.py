"""The compiled parts for tests: the installed ones, or such as are made here where there is a C compiler."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from luthier.data import native
from luthier.kernels import step

Installed = Callable[..., ctypes.CDLL | None]
installed, installed_step = native.library, step.library


@functools.cache
def library() -> ctypes.CDLL | None:
    """Of words; None where nothing can be compiled."""
    return _made(installed, native.SOURCE, "_native")


@functools.cache
def step_library() -> ctypes.CDLL | None:
    """Of generation; None where nothing can be compiled."""
    return _made(installed_step, step.SOURCE, "_step")


def _made(installed: Installed, source: Path, name: str) -> ctypes.CDLL | None:
    found = installed()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is not None or compiler is None:
        return found
    folder = Path(tempfile.mkdtemp(prefix="luthier-native-"))
    built_of = f"-DSOURCE={zlib.crc32(source.read_bytes())}u"
    command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", built_of]
    subprocess.run([*command, str(source), "-o", str(folder / f"{name}.so"), "-lm"], check=True)
    found = installed(folder)
    shutil.rmtree(folder)  # it is loaded
    return found
