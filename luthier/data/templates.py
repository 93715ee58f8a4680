"""Examples to token ids with loss weights, and ids back to text: the one renderer of training, chat and export.

What goes in: a model folder's tokenizer and the recipe's choices (template, system prompt, stop token), then examples
or messages. What comes out: ids and weights for training, prompts for inference, the tokens that end an answer. The one
door to `transformers`' tokenizers; nothing is fetched and no remote code runs.

Shape legend: T tokens of one example.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import transformers
from numpy.typing import NDArray
from tokenizers import AddedToken

from luthier.batch import Floats
from luthier.config.schema import Lora, RunConfig, Sft
from luthier.data import laws, lessons, stops
from luthier.data import template_files as files
from luthier.data.formats import Chat, Completion, Example, Message, Text
from luthier.data.laws import LawReport, Shapes, Trained
from luthier.data.lessons import Lesson, Task
from luthier.data.sandbox import PINNED_DATE, Template
from luthier.data.spans import Conversations, unusable
from luthier.data.stops import EmbeddingRows
from luthier.data.vocabulary import TextStream, Vocabulary
from luthier.errors import DataError, ModelError, Problem

__all__ = ["LawReport", "Renderer", "load_renderer"]

Weighted = tuple[NDArray[np.int32], Floats]
"""ids [T] and weights [T] of one training sequence (`luthier.batch.Rendered`)."""

SHOWN = 3
"""Violations of one kind that are spelt out."""
FORMAT = 1
"""Version of `renderer.json`."""
PROBE_TEXT = "A probe: 3.14 naïve café  — 你好，世界。\n\tdef f(x): return x\n"
"""Encoded on saving and again on loading: scripts, spaces and digits that tokenizers differ in."""


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the recipe decides besides the template; see `Renderer`."""

    system: str | None = None
    train_on: Literal["all", "last"] = "all"
    trained: Trained = "chat"
    accept_unread: Sequence[str] = ()


class Renderer:
    """Renders with one tokenizer and one template. Made by `load_renderer` or `Renderer.load`.

    Attributes:
        template_source: the Jinja source in use, byte for byte what `save` writes; empty where there is none.
        template_name: model, chatml, alpaca, or the name of the user's file.
        stop_ids: tokens that end an answer; the template's own first.
        date: the day that templates see (`luthier.data.sandbox.PINNED_DATE`).
        trained: what the rows were: `chat`, or raw text that a bare question has to look like too.
        accept_unread: fields that the template may leave out (`data.accept_unread`).
        new_tokens: what the recipe adds to the tokenizer's vocabulary; new_ids: the ids they got, none for those that
            the tokenizer has already; notes: those, for the user.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        folder: Path,
        template_name: str,
        template_source: str,
        choices: Choices,
        new_tokens: Mapping[str, int | None] = MappingProxyType({}),
    ) -> None:
        self.new_tokens = tuple(new_tokens)
        self.new_ids = tuple(each for each in new_tokens.values() if each is not None)
        self.notes = [
            Problem("templates.token_known", field="data.new_tokens", value=token)
            for token, identity in new_tokens.items()
            if identity is None
        ]
        self.vocabulary = vocabulary
        self.template_name = template_name
        self.template_source = template_source
        self.system = choices.system
        self.train_on = choices.train_on
        self.trained = choices.trained
        self.accept_unread = tuple(choices.accept_unread)
        self.date = PINNED_DATE
        self._folder = folder
        self.stop_id = stops.after_answer(template_source, vocabulary)[0] if template_source else None
        ends = [self.stop_id, vocabulary.eos_id, *files.declared_ends(folder)]
        self.stop_ids = tuple(dict.fromkeys(end for end in ends if end is not None))
        self._conversations = self._prepare()

    def _prepare(self) -> Conversations | None:
        """None where conversations cannot be rendered; `_chat` says why when one is met."""
        if not self.template_source or self.stop_id is None:
            return None
        template = Template(self.template_source, self.vocabulary.variables, self.date)
        opening = stops.opening_tokens(self.template_source, self.vocabulary)
        guard = self.vocabulary.guard({*opening, *self.stop_ids} & self.vocabulary.added.keys())
        needs_tools = "tools" not in self.accept_unread
        return Conversations(template, self.vocabulary, guard, self.stop_ids, needs_tools=needs_tools)

    @property
    def vocab_size(self) -> int:
        return self.vocabulary.size

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides which ids and weights come out, and which rows may become some."""
        parts = [FORMAT, self.vocabulary.fingerprint, self.template_source, self.system, self.train_on, self.date]
        return hashlib.sha256(json.dumps([*parts, self.stop_ids, sorted(self.accept_unread)]).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What the manifest keeps: the fingerprint, the template's name and hash, the stop tokens."""
        texts = [self.vocabulary.decode([each], skip_special=False) for each in self.stop_ids]
        return {
            "fingerprint": self.fingerprint,
            "template": self.template_name,
            "template_sha256": hashlib.sha256(self.template_source.encode()).hexdigest(),
            "stop_ids": list(self.stop_ids),
            "stop_tokens": texts,
            "system": self.system,
            "date": self.date,
            "accept_unread": list(self.accept_unread),
        }

    def trained_on(self, trained: Trained) -> Renderer:
        """The same renderer, knowing what the rows were; `save` keeps it for chat."""
        made = copy.copy(self)
        made.trained = trained
        return made

    # ------------------------------------------------------------------------------------------------ training

    def train(self, example: Example) -> Weighted:
        """ids int32 [T] and the weight of the loss of predicting each, float32 [T], of an example that is one sequence.

        Raises:
            DataError: the template refuses the example, or training and chat would differ on it.
            ModelError: it is a conversation and the model has no chat template, or none that ends answers.
        """
        made = self.train_many([example])[0]
        if isinstance(made, Problem):
            raise DataError(made)
        assert len(made) == 1, "a conversation was unrolled: `train_many` gives all of its sequences"
        return made[0]

    def train_many(self, examples: Sequence[Example]) -> list[list[Weighted] | Problem]:
        """As `train`, for many and in one batch; a problem takes the place of what cannot be rendered.

        An example is one sequence, except where the template rewrites what was said before: such a conversation is
        unrolled into one sequence per learnt answer (`luthier.data.lessons`).
        """
        made: list[list[Weighted] | Problem] = [Problem("templates.none")] * len(examples)
        for kind, render in ((Chat, self._chats), (Text, self._texts), (Completion, self._completions)):
            of_kind = [index for index, example in enumerate(examples) if isinstance(example, kind)]
            for index, result in zip(of_kind, render([examples[index] for index in of_kind]), strict=True):
                made[index] = result
        return made

    def _chats(self, chats: Sequence[Any]) -> list[list[Weighted] | Problem]:
        if not chats:
            return []
        found = lessons.lessons(self._chat(), [self._task(chat) for chat in chats])
        return [each if isinstance(each, Problem) else [_weighted(lesson) for lesson in each] for each in found]

    def _task(self, chat: Chat) -> Task:
        """The conversation with the answers that are to be learnt."""
        messages = self._messages(chat.messages)
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        learnt = answers[-1:] if self.train_on == "last" else answers
        return Task(messages, chat.tools, {index: messages[index].weight for index in learnt})

    def _texts(self, texts: Sequence[Any]) -> list[list[Weighted] | Problem]:
        return self._raw([("", text.text) for text in texts])

    def _completions(self, completions: Sequence[Any]) -> list[list[Weighted] | Problem]:
        return self._raw([(each.prompt, each.completion) for each in completions], learn_prefix=False)

    def _raw(self, pairs: Sequence[tuple[str, str]], *, learn_prefix: bool = True) -> list[list[Weighted] | Problem]:
        """The tokenizer's own first token, context and learnt text, tokenised apart so that the context's ids are those
        of a prompt, and the end-of-text token. Control tokens in raw text are control tokens: it is the user's corpus.
        """
        faults = [unusable(pair) for pair in pairs]
        ids = self.vocabulary.ids_many(
            ["" if fault else part for fault, pair in zip(faults, pairs, strict=True) for part in pair]
        )
        made: list[list[Weighted] | Problem] = []
        for index, fault in enumerate(faults):
            if fault:
                made.append(Problem("templates.unusable_character", values={"code": fault}))
                continue
            context = [*self.vocabulary.document_prefix, *ids[2 * index]]
            learnt = [*ids[2 * index + 1], self._eos()]
            weights = np.ones(len(context) + len(learnt), dtype=np.float32)
            weights[: 1 if learn_prefix else max(len(context), 1)] = 0
            made.append([(np.asarray([*context, *learnt], dtype=np.int32), weights)])
        return made

    # ----------------------------------------------------------------------------------------------- inference

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """ids that an answer to these messages is to follow.

        Raises:
            DataError: the template refuses the messages.
            ModelError: the model has no chat template.
        """
        layout = self._chat().arrange(self._messages(messages), tools, {}, generation_prompt=True)
        if isinstance(layout, Problem):
            raise DataError(layout)
        return self._chat().encode([layout])[0].tokens.ids

    def prompt_text(self, prompt: str) -> list[int]:
        """ids of a raw prompt, as in prompt/completion rows."""
        return [*self.vocabulary.document_prefix, *self.vocabulary.ids(prompt)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, control tokens left out."""
        return self.vocabulary.decode([int(each) for each in ids])

    def stream_decoder(self) -> TextStream:
        """`.push(id) -> str` and `.flush() -> str`: text in pieces of whole characters."""
        return self.vocabulary.stream()

    # ------------------------------------------------------------------------------------------------ checking

    def laws(self, examples: Sequence[Example], places: Sequence[str] | None = None) -> LawReport:
        """Check on one example of each shape that training and chat see the same tokens.

        Args:
            places: where each example comes from (`data.jsonl:117`), for the message.

        Raises:
            ModelError: naming the shape, where chat and training part, and the remedy; the first violations of each
                kind, as one fault of a template shows in many shapes.
        """
        shapes = Shapes()
        for index, example in enumerate(examples):
            shapes.add(example, places[index] if places else "")
        return self.hold(shapes)

    def hold(self, shapes: Shapes) -> LawReport:
        """As `laws`, for shapes that were collected one row at a time."""
        report = laws.check(self, shapes)
        if report.violations:
            kinds = dict.fromkeys((problem.id, problem.field) for problem in report.violations)
            raise ModelError(
                [p for kind in kinds for p in [v for v in report.violations if (v.id, v.field) == kind][:SHOWN]]
            )
        return report

    def text(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """The conversation as the template writes it.

        Raises:
            TemplateFault: the template refuses it.
        """
        return self._chat().text(self._messages(messages), tools)

    def lessons(self, chat: Chat) -> list[Lesson] | Problem:
        """The training sequences of a conversation, with their messages and learnt answers."""
        return lessons.lessons(self._chat(), [self._task(chat)])[0]

    def _messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """With the recipe's system prompt where the conversation has none."""
        if self.system is None or any(message.role == "system" for message in messages):
            return tuple(messages)
        return (Message("system", self.system), *messages)

    def _chat(self) -> Conversations:
        if self._conversations is not None:
            return self._conversations
        if not self.template_source:
            raise ModelError(Problem("templates.none", where=str(self._folder), field="data.template"))
        values = {"name": self.template_name, "eos": self.vocabulary.eos_token or "</s>"}
        raise ModelError(Problem("templates.no_stop", where=str(self._folder), field="data.template", values=values))

    def _eos(self) -> int:
        if self.vocabulary.eos_id is None:
            raise ModelError(Problem("templates.no_eos", where=str(self._folder)))
        return self.vocabulary.eos_id

    # -------------------------------------------------------------------------------------------------- saving

    def save(self, folder: Path) -> None:
        """Write what chat and export need: the tokenizer's files as they came, the template in use, the stop tokens.

        The files are read back; where a tokenizer does not come out the same without the model's config.json beside it,
        it is written as `transformers` holds it.

        Raises:
            ModelError: the saved files give other tokens.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() != self._folder.resolve():
            for name in files.TOKENIZER_FILES:
                if (self._folder / name).is_file():
                    shutil.copyfile(self._folder / name, folder / name)
        self._write_choices(folder)
        if not self._same_tokenizer(folder):
            tokenizer = _load_tokenizer(self._folder)
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
        files.write_json(folder / files.OWN_FILE, own)
        generation = {
            **files.read_json(self._folder / files.GENERATION_FILE),
            **files.read_json(folder / files.GENERATION_FILE),
        }
        files.write_json(folder / files.GENERATION_FILE, {**generation, "eos_token_id": list(self.stop_ids)})
        if not self.template_source:
            return
        (folder / files.TEMPLATE_FILE).write_text(self.template_source, encoding="utf-8", newline="")
        config = files.read_json(folder / files.CONFIG_FILE)
        if config.get("chat_template", self.template_source) != self.template_source:
            files.write_json(folder / files.CONFIG_FILE, {**config, "chat_template": self.template_source})

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
    train_on = config.method.train_on if isinstance(config.method, Sft) else "all"
    choices = Choices(config.data.system, train_on, accept_unread=config.data.accept_unread)
    renderer = Renderer(vocabulary, model_folder, name, source, choices, new_tokens)
    trains = _trains_head(config) or renderer.stop_id in renderer.new_ids
    if renderer.stop_id is not None and embedding_rows is not None and not trains:
        stops.check_trained(renderer.stop_id, vocabulary, embedding_rows)
    return renderer


def _weighted(lesson: Lesson) -> Weighted:
    ids = lesson.encoded.tokens.ids
    weights = np.zeros(len(ids), dtype=np.float32)
    for span in lesson.spans:
        weights[span.first : span.stop + 1] = span.answer.weight
    weights[:1] = 0
    return np.asarray(ids, dtype=np.int32), weights


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
