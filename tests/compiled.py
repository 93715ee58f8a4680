"""The compiled part for tests: the installed one, or one that is made here where there is a C compiler."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path

from luthier.data import native

installed = native.library


@functools.cache
def library() -> ctypes.CDLL | None:
    """None where nothing can be compiled."""
    found = installed()
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is not None or compiler is None:
        return found
    folder = Path(tempfile.mkdtemp(prefix="luthier-native-"))
    built_of = f"-DSOURCE={zlib.crc32(native.SOURCE.read_bytes())}u"
    command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", built_of]
    subprocess.run([*command, str(native.SOURCE), "-o", str(folder / "_native.so")], check=True)
    found = installed(folder)
    shutil.rmtree(folder)  # it is loaded
    return found
