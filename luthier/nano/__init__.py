"""nano: a small base model that ships inside the package, and everything it was made from.

Its corpus (`corpus`) and its demonstration task (`task`) are seeded code, and its weights come out of Luthier's own
`pretrain` method with the recipes in `recipes/`; `make` writes what those recipes read. Whoever doubts the model can
make it again.
"""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """Return the packaged base model: a folder in the Hugging Face layout."""
    return Path(__file__).parent / "base"
