"""The compiled part of the package; all else is in `pyproject.toml`.

Optional: without a C compiler it is left out, and `luthier/data/words.py` does the same in Python. It takes nothing of
Python's own headers, so one build serves every version. SOURCE says what it was built of (`luthier/data/native.py`).
"""

import zlib
from pathlib import Path

from setuptools import Extension, setup

source = "luthier/data/native.c"
setup(
    ext_modules=[
        Extension(
            "luthier.data._native",
            [source],
            define_macros=[("SOURCE", f"{zlib.crc32(Path(source).read_bytes())}u")],
            optional=True,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
