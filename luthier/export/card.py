"""Model cards: what a hub reads and shows first.

What goes in: what a folder holds, the base's name, a receipt where there is one. What comes out: the lines of
`README.md`, with the head that hubs read. Folders of this machine are named without their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from luthier.export import receipt
from luthier.export.receipt import ExportReceipt
from luthier.text import say

NAME = "README.md"
LIBRARIES: Mapping[str, str | None] = {"model": "transformers", "adapter": "peft", "gguf": None}
"""What a folder holds -> the library that a hub shows code for."""


def hub_id(path: str) -> str | None:
    """The name of a model on a hub; None for a folder of this machine, which wins over a hub where both could be."""
    return path if re.fullmatch(r"\w[\w.\-]*/[\w.\-]+", path, re.A) and not Path(path).is_dir() else None


def licence_of(folder: Path) -> str | None:
    """What a model folder's own card calls its licence; None where it has none or says nothing."""
    try:
        head = (folder / NAME).read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
    except OSError:
        return None
    found = re.search(r"^license:[ \t]*['\"]?([\w.+\-]+)['\"]?[ \t]*$", head, re.M | re.A)
    return found[1] if found else None


def page(
    what: str,
    text: str,
    base: str | None,
    made: ExportReceipt | None,
    licence: str | None = None,
    judge: bool = False,
) -> list[str]:
    """The lines of a card.

    Args:
        what: model, adapter or gguf.
        text: what it is, in words.
        base: the base as a hub knows it; None where it does not.
        licence: of the base, as a hub spells it.
        judge: whether it is a reward model.
    """
    library = LIBRARIES[what]
    head = [f"library_name: {library}"] if library else []
    head.append(f"pipeline_tag: text-{'classification' if judge else 'generation'}")
    head += [f"base_model: {base}"] if base else []
    head += [f"license: {licence}"] if licence else []
    lines = ["---", *head, "tags:", "- luthier", "---", "", f"# {say('export.card.title')}", "", text]
    if made is not None:
        lines += ["", *(f"#{line}" if line.startswith("#") else line for line in receipt.lines(made))]
    return lines
