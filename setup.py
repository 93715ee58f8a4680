"""The compiled parts of the package; all else is in `pyproject.toml`.

Optional: without a C compiler they are left out, and `luthier/data/words.py` and the plain operations of
`luthier/kernels` do the same in Python. They take nothing of Python's own headers, so one build serves every version.
SOURCE says what each was built of (`luthier/compiled.py`).
"""

import os
import zlib
from pathlib import Path

from setuptools import Extension, setup

PARTS = {
    "luthier.data._native": ("luthier/data/native.c",),
    "luthier.kernels._step": ("luthier/kernels/step.c", "luthier/kernels/numbers.h"),
    "luthier.kernels._chains": ("luthier/kernels/chains.c", "luthier/kernels/numbers.h"),
    "luthier.kernels._attend": ("luthier/kernels/attend.c", "luthier/kernels/numbers.h"),
}
"""Name -> its source, and what that includes."""


def checksum(sources):
    return zlib.crc32(b"".join(Path(each).read_bytes() for each in sources))


setup(
    ext_modules=[
        Extension(
            name,
            [source],
            depends=list(included),
            define_macros=[("SOURCE", f"{checksum((source, *included))}u")],
            extra_compile_args=[] if os.name == "nt" else ["-O3"],
            libraries=[] if os.name == "nt" else ["m"],
            optional=True,
            py_limited_api=True,
        )
        for name, (source, *included) in PARTS.items()
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
