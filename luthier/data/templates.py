"""Renderers from a model folder's files, and their files again.

What goes in: a model folder's tokenizer and the recipe's choices (template, system prompt, stop token). What comes out:
the `Renderer` of training, chat and export, and on saving the files that give the same one again. The one door to
`transformers`' tokenizers; nothing is fetched and no remote code runs.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken

from luthier.config.schema import Answers, Lora, RunConfig
from luthier.data import stops
from luthier.data import template_files as files
from luthier.data.renderer import FORMAT, Choices, RowRenderer
from luthier.data.stops import EmbeddingRows
from luthier.data.vocabulary import Vocabulary
from luthier.disk import write_json
from luthier.errors import ModelError, Problem

__all__ = ["Renderer", "load_renderer"]

PROBE_TEXT = "A probe: 3.14 naïve café  — 你好，世界。\n\tdef f(x): return x\n"
"""Encoded on saving and again on loading: scripts, spaces and digits that tokenizers differ in."""


class Renderer(RowRenderer):
    """A renderer that knows the folder it came from. Made by `load_renderer` or `Renderer.load`."""

    def save(self, folder: Path) -> None:
        """Write what chat and export need: the tokenizer's files as they came, the template in use, the stop tokens.

        The files are read back; where a tokenizer does not come out the same without the model's config.json beside it,
        it is written as `transformers` holds it.

        Raises:
            ModelError: the saved files give other tokens.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() != self.folder.resolve():
            for name in files.TOKENIZER_FILES:
                if (self.folder / name).is_file():
                    shutil.copyfile(self.folder / name, folder / name)
        self._write_choices(folder)
        if not self._same_tokenizer(folder):
            tokenizer = _load_tokenizer(self.folder)
            _add(tokenizer, self.new_tokens)
            tokenizer.save_pretrained(str(folder))
            self._write_choices(folder)
            if not self._same_tokenizer(folder):
                raise ModelError(Problem("templates.changed", where=str(folder)))

    def _same_tokenizer(self, folder: Path) -> bool:
        return Vocabulary(_load_tokenizer(folder)).fingerprint == self.vocabulary.fingerprint

    def _write_choices(self, folder: Path) -> None:
        own = {
            "format": FORMAT,
            "template_name": self.template_name,
            "system": self.system,
            "train_on": self.train_on,
            "trained": self.trained,
            "accept_unread": list(self.accept_unread),
            "date": self.date,
            "stop_ids": list(self.stop_ids),
            "probe": {"text": PROBE_TEXT, "ids": self.vocabulary.ids(PROBE_TEXT)},
        }
        write_json(folder / files.OWN_FILE, own)
        generation = {
            **files.read_json(self.folder / files.GENERATION_FILE),
            **files.read_json(folder / files.GENERATION_FILE),
        }
        write_json(folder / files.GENERATION_FILE, {**generation, "eos_token_id": list(self.stop_ids)})
        if not self.template_source:
            return
        (folder / files.TEMPLATE_FILE).write_text(self.template_source, encoding="utf-8", newline="")
        config = files.read_json(folder / files.CONFIG_FILE)
        if config.get("chat_template", self.template_source) != self.template_source:
            write_json(folder / files.CONFIG_FILE, {**config, "chat_template": self.template_source})

    @classmethod
    def load(cls, folder: Path) -> Renderer:
        """Open what `save` wrote, or a model folder with its own template.

        Raises:
            ModelError: no usable tokenizer, or not the one that was saved.
        """
        tokenizer, own = _load_tokenizer(folder), files.read_json(folder / files.OWN_FILE)
        source, name = _own_source(tokenizer), own.get("template_name", "model")
        choices = Choices(**{each.name: own[each.name] for each in dataclasses.fields(Choices) if each.name in own})
        renderer = cls(Vocabulary(tokenizer), folder, name, files.compiled(source, folder), choices)
        if own and (
            renderer.vocabulary.ids(own["probe"]["text"]) != own["probe"]["ids"]
            or list(renderer.stop_ids) != own["stop_ids"]
            or renderer.date != own["date"]
        ):
            raise ModelError(Problem("templates.changed", where=str(folder)))
        return renderer


def same_tokenizer(renderer: Renderer, folder: Path) -> bool:
    """Whether a model's tokenizer cuts text into the same tokens as the renderer's.

    Raises:
        ModelError: no usable tokenizer there.
    """
    return Vocabulary(_load_tokenizer(folder)).fingerprint == renderer.vocabulary.fingerprint


def load_renderer(model_folder: Path, config: RunConfig, embedding_rows: EmbeddingRows | None = None) -> Renderer:
    """The renderer of a recipe.

    Args:
        model_folder: holds the tokenizer.
        embedding_rows: token ids -> rows [n, D] of the matrix that scores tokens; given, a stop token that was never
            trained is refused, unless the tuning trains that matrix.

    Raises:
        ModelError: no usable tokenizer, template or stop token.
    """
    tokenizer = _load_tokenizer(model_folder)
    new_tokens = _add(tokenizer, config.data.new_tokens)
    vocabulary = Vocabulary(tokenizer)
    name, source = files.choose(config.data.template, _own_source(tokenizer), vocabulary.begins_with_bos)
    source = files.compiled(source, model_folder if name == "model" else Path(config.data.template))
    if config.data.stop_token is not None and source:
        source = stops.with_stop_token(source, config.data.stop_token, vocabulary)
    train_on = config.method.train_on if isinstance(config.method, Answers) else "all"
    choices = Choices(config.data.system, train_on, accept_unread=config.data.accept_unread)
    renderer = Renderer(vocabulary, model_folder, name, source, choices, new_tokens)
    trains = _trains_head(config) or renderer.stop_id in renderer.new_ids
    if renderer.stop_id is not None and embedding_rows is not None and not trains:
        stops.check_trained(renderer.stop_id, vocabulary, embedding_rows)
    return renderer


def _trains_head(config: RunConfig) -> bool:
    if isinstance(config.tune, Lora):
        return bool({"embed_tokens", "lm_head"} & set(config.tune.modules_to_save))
    return config.tune.kind == "full"


def _load_tokenizer(folder: Path) -> Any:
    """The folder's fast tokenizer, from its files alone."""
    if not any((folder / name).is_file() for name in files.TOKENIZER_FILES):
        raise ModelError(Problem("templates.tokenizer_missing", where=str(folder)))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # the tokenizers library raises plain Exception for a file it cannot parse
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            Problem("templates.tokenizer_unreadable", where=str(folder), values={"reason": reason})
        ) from error
    if not tokenizer.is_fast:
        values = {"kind": type(tokenizer).__name__}
        raise ModelError(Problem("templates.tokenizer_slow", where=str(folder), values=values))
    return tokenizer


def _add(tokenizer: Any, tokens: Sequence[str]) -> dict[str, int | None]:
    """Add tokens to a tokenizer; the id of each, None where it has that token already.

    They are ordinary tokens and no control tokens: a control token in a message's words stays words, and is left out
    when an answer is written, but these are what the words of the rows are to hold. One that the template writes is
    guarded like the template's others.
    """
    known = tokenizer.get_vocab()
    fresh = [token for token in dict.fromkeys(tokens) if token not in known]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in fresh])
    return {token: tokenizer.convert_tokens_to_ids(token) if token in fresh else None for token in tokens}


def _own_source(tokenizer: Any) -> str:
    """The model's template; of several named ones the one called default."""
    own = tokenizer.chat_template
    return str((own.get("default") or "") if isinstance(own, dict) else (own or ""))
