"""An OpenAI-compatible server for a model and its adapters. `luthier.serve(...)` and `luthier serve` start it."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _Serving(types.ModuleType):
    """`luthier.serve` is this package as soon as any of it is imported, and has to stay the function of that name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("luthier.serve.start").serve(*arguments, **options)


sys.modules[__name__].__class__ = _Serving
