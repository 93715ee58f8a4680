"""What a model folder on a hub or a disk holds.

What goes in: the names of a repository's files, or a folder. What comes out: which of them Luthier reads, and which are
missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

Progress = Callable[[int, int], None]
"""Called with (bytes there, bytes in all) while files come; from several threads, one at a time."""


def missing(folder: Path, weights: bool = True) -> tuple[str, ...]:
    """Names of the files that a model folder lacks: config.json, and the weights that its index (or none) promises."""
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not weights or (folder / SINGLE).is_file():
        return tuple(lacking)
    if not (folder / INDEX).is_file():
        return (*lacking, SINGLE)
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError):
        return (*lacking, INDEX)
    return (*lacking, *(name for name in shards if not (folder / name).is_file()))


def wanted(names: list[str], weights: bool = True) -> tuple[str, ...]:
    """Which files of a hub repository are fetched: configuration, tokenizer, templates, and one set of safetensors.

    Copies of the weights in other formats, in subfolders or under other names (`original/`, `consolidated.safetensors`,
    `onnx/`, `*.bin`, `*.gguf`) stay on the hub.
    """
    text = [
        name
        for name in names
        if ("/" not in name and name.endswith((".json", ".jinja", ".model", ".tiktoken")) and name != INDEX)
        or name in ("vocab.txt", "merges.txt")
        or re.fullmatch(r"additional_chat_templates/[^/]+\.jinja", name)
    ]
    if not weights:
        return tuple(text)
    if SINGLE in names:
        return (*text, SINGLE)
    shards = [name for name in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    return (*text, *([INDEX] if INDEX in names else []), *shards)
