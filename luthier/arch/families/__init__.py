"""The model families that Luthier runs natively, one file each.

What goes in: a checkpoint folder. What comes out: its `Architecture`, read from `config.json` alone. A new family is a
file with a function `architecture(config, where)` and a line in `FAMILIES`. Torch-free.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.arch.families import gemma, granite, llama, mistral, olmo2, phi3, qwen2, qwen3
from luthier.arch.families.fields import shown
from luthier.arch.spec import Architecture
from luthier.arch.values import as_causal, valued
from luthier.errors import ModelError, Problem

FAMILIES: dict[str, Callable[[Mapping[str, Any], str], Architecture]] = {
    "llama": llama.architecture,
    "mistral": mistral.architecture,
    "qwen2": qwen2.architecture,
    "qwen3": qwen3.architecture,
    "gemma": gemma.gemma,
    "gemma2": gemma.gemma2,
    "gemma3_text": gemma.gemma3,
    "phi3": phi3.architecture,
    "olmo2": olmo2.architecture,
    "granite": granite.architecture,
}


def read(folder: Path) -> Architecture:
    """The architecture of a checkpoint folder.

    Raises:
        ModelError: no usable `config.json`, an adapter instead of a model, an unknown family, or a family's feature
            that Luthier does not do.
    """
    path = folder / "config.json"
    config = read_config(folder)
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ModelError(Problem("models.no_model_type", str(path), values={"known": ", ".join(FAMILIES)}))
    if family not in FAMILIES:
        values = {"known": ", ".join(FAMILIES), "nearest": _nearest(family)}
        raise ModelError(Problem("models.unknown_family", str(path), "model_type", shown(family), values))
    below_head = as_causal(config)
    if below_head is not None:
        return valued(FAMILIES[family](below_head, str(path)))
    return FAMILIES[family](config, str(path))


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed `config.json` of a checkpoint folder.

    Raises:
        ModelError: the folder or the file is missing, unreadable or no JSON object.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(Problem("models.no_folder", str(folder)))
    if not path.is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        raise ModelError(Problem("models.is_adapter" if is_adapter else "models.no_config", str(folder)))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(Problem("models.bad_config", str(path), values={"reason": str(error)})) from error
    if not isinstance(config, dict):
        raise ModelError(Problem("models.bad_config", str(path), values={"reason": shown(config)}))
    return config


def _nearest(family: str) -> str:
    close = difflib.get_close_matches(family.lower(), FAMILIES, n=1, cutoff=0.6)
    return close[0] if close else "-"
