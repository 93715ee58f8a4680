"""The files of a tokenizer and its template.

What goes in: a model folder, or what the recipe says about the template. What comes out: the template's source, checked
to be valid, and the few JSON files beside a tokenizer that say how answers end.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from luthier.data.sandbox import Template, TemplateFault
from luthier.errors import ModelError, Problem

BUILT_IN = ("chatml", "alpaca")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.txt",
)
TEMPLATE_FILE, CONFIG_FILE, GENERATION_FILE, OWN_FILE = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "generation_config.json",
    "renderer.json",
)


def choose(template: str, own: str, begins_with_bos: bool) -> tuple[str, str]:
    """Name and source of `data.template`.

    Args:
        own: the model's own template, empty where it has none.
        begins_with_bos: whether the tokenizer's convention is a BOS at the start; built-in templates then write it.

    Raises:
        ModelError: there is no such file.
    """
    if template == "model":
        return "model", own
    if template in BUILT_IN:
        source = resources.files("luthier.data").joinpath("jinja", f"{template}.jinja").read_text(encoding="utf-8")
        return template, ("{{- bos_token -}}" if begins_with_bos else "") + source
    try:
        return Path(template).name, Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem("templates.file_missing", field="data.template", value=template, values={"reason": reason})
        raise ModelError(problem) from error


def compiled(source: str, where: Path) -> str:
    """The source, once it has been seen to be valid."""
    try:
        Template(source, {})
    except TemplateFault as fault:
        problem = Problem("templates.invalid", where=str(where), field="data.template", values={"reason": str(fault)})
        raise ModelError(problem) from fault
    return source


def declared_ends(folder: Path) -> list[int]:
    """End tokens that the model's maker declares in generation_config.json."""
    ends = read_json(folder / GENERATION_FILE).get("eos_token_id")
    return [int(end) for end in (ends if isinstance(ends, list) else [ends]) if end is not None]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            Problem("templates.tokenizer_unreadable", where=str(path), values={"reason": str(error)})
        ) from error
    return value if isinstance(value, dict) else {}
