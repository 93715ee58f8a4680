"""Luthier: fine-tune open language models, fast, within your memory, with a receipt.

    import luthier

    run = luthier.train("recipe.yaml", {"tune.rank": 32})
    print(run.chat("Who are you?"))

The names in `__all__` are the public surface. They are loaded at first use, so that the command line can print its help
or a recipe's mistakes without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.errors import (
        ConfigError,
        DataError,
        Interrupted,
        LuthierError,
        ModelError,
        RunError,
        TrainingFailed,
        UserError,
    )
    from luthier.export.merge import merge
    from luthier.generate import Sampling
    from luthier.run import Run
    from luthier.serving.start import serve
    from luthier.session import Session, open_session
    from luthier.submit import submit
    from luthier.training import reproduce, resume, train
    from luthier.tuner import Tuner
    from luthier.web.start import ui

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "DataError",
    "Interrupted",
    "LuthierError",
    "ModelError",
    "Run",
    "RunError",
    "Sampling",
    "Session",
    "TrainingFailed",
    "Tuner",
    "UserError",
    "merge",
    "open_session",
    "reproduce",
    "resume",
    "serve",
    "submit",
    "train",
    "ui",
]

_HOMES = {
    "Run": "luthier.run",
    "Sampling": "luthier.generate",
    "Session": "luthier.session",
    "Tuner": "luthier.tuner",
    "merge": "luthier.export.merge",
    "open_session": "luthier.session",
    "reproduce": "luthier.training",
    "resume": "luthier.training",
    "serve": "luthier.serving.start",
    "submit": "luthier.submit",
    "train": "luthier.training",
    "ui": "luthier.web.start",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES.get(name, "luthier.errors")), name)
    return value
