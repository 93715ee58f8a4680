"""Examples to token ids with loss weights, and ids back to text: the one renderer of training, chat and export.

What goes in: a tokenizer's vocabulary and a recipe's choices (template, system prompt, stop token), then examples or
messages. What comes out: ids and weights for training, prompts for inference, the tokens that end an answer. How they
come from files, and are written to some, is `luthier.data.templates`' business.

Shape legend: T tokens of one example.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np

from luthier.data import laws, lessons, stops
from luthier.data import template_files as files
from luthier.data.formats import Chat, Completion, Example, Message, Prompt, Text
from luthier.data.laws import LawReport, Shapes, Trained
from luthier.data.learnt import Weighted
from luthier.data.lessons import Lesson, Task
from luthier.data.sandbox import PINNED_DATE, Template
from luthier.data.spans import Conversations, unusable
from luthier.data.vocabulary import TextStream, Vocabulary
from luthier.errors import DataError, ModelError, Problem

SHOWN = 3
"""Violations of one kind that are spelt out."""
FORMAT = 1
"""Version of what a renderer keeps of itself (`renderer.json`), and of its fingerprint."""


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the recipe decides besides the template; see `Renderer`."""

    system: str | None = None
    train_on: Literal["all", "last"] = "all"
    trained: Trained = "chat"
    accept_unread: Sequence[str] = ()


class RowRenderer:
    """Renders with one tokenizer and one template. It can be pickled; `luthier.data.templates` makes it from files.

    Attributes:
        folder: holds the tokenizer's files.
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
        self.folder = folder
        self.stop_id = stops.after_answer(template_source, vocabulary)[0] if template_source else None
        ends = [self.stop_id, vocabulary.eos_id, *files.declared_ends(folder)]
        self.stop_ids = tuple(dict.fromkeys(end for end in ends if end is not None))
        self._conversations = self._prepare()

    def bare(self) -> RowRenderer:
        """The same, without what a subclass knows besides."""
        made = RowRenderer.__new__(RowRenderer)
        vars(made).update(vars(self))
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_conversations": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
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
    def goes_by_words(self) -> bool:
        """Whether tokens are told by words where they can be (`luthier.data.words`)."""
        return self.vocabulary.words is not None

    def distrust_words(self) -> None:
        """From here on the tokenizer alone is asked."""
        self.vocabulary.words = None

    @property
    def vocab_size(self) -> int:
        return self.vocabulary.size

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides which ids and weights come out, and which rows may become some."""
        parts = [FORMAT, self.vocabulary.fingerprint, self.template_source, self.system, self.train_on, self.date]
        return hashlib.sha256(json.dumps([*parts, self.stop_ids, sorted(self.accept_unread)]).encode()).hexdigest()

    @property
    def rendering(self) -> dict[str, str]:
        """What decides how a prompt looks and where an answer ends, each part as a hash: equal for an adapter and the
        model that it is put on. Which rows and answers were learnt does not count here."""
        parts = {
            "tokenizer": self.vocabulary.fingerprint,
            "template": self.template_source,
            "system": self.system,
            "stop tokens": sorted(self.stop_ids),
            "date": self.date,
            "rows": self.trained,
        }
        return {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in parts.items()}

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

    def trained_on(self, trained: Trained) -> Self:
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
        for kind, render in (
            (Chat, self._chats),
            (Text, self._texts),
            (Completion, self._completions),
            (Prompt, self._prompts),
        ):
            of_kind = [index for index, example in enumerate(examples) if isinstance(example, kind)]
            for index, result in zip(of_kind, render([examples[index] for index in of_kind]), strict=True):
                made[index] = result
        return made

    def _chats(self, chats: Sequence[Any]) -> list[list[Weighted] | Problem]:
        if not chats:
            return []
        return lessons.sequences(self._chat(), [self._task(chat) for chat in chats])

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

    def _prompts(self, prompts: Sequence[Any]) -> list[list[Weighted] | Problem]:
        """What an answer is to follow. Nothing of it is learnt: the weight of its last token only says that it counts
        as one example."""
        if not prompts:
            return []
        chat = self._chat()
        layouts = [
            chat.arrange(self._messages(each.messages), each.tools, {}, generation_prompt=True) for each in prompts
        ]
        encoded = iter(chat.encode([layout for layout in layouts if not isinstance(layout, Problem)]))
        made: list[list[Weighted] | Problem] = []
        for layout in layouts:
            if isinstance(layout, Problem):
                made.append(layout)
                continue
            ids = np.asarray(next(encoded).tokens.ids, dtype=np.int32)
            weights = np.zeros(len(ids), dtype=np.float32)
            weights[-1] = 1
            made.append([(ids, weights)])
        return made

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
            prefix, context, learnt = self.vocabulary.document_prefix, *ids[2 * index : 2 * index + 2]
            row = np.concatenate([np.asarray(prefix, np.int32), context, learnt, np.asarray([self._eos()], np.int32)])
            weights = np.ones(len(row), dtype=np.float32)
            weights[: 1 if learn_prefix else max(len(prefix) + len(context), 1)] = 0
            made.append([(row, weights)])
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

    def text(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, generation_prompt: bool = False) -> str:
        """The conversation as the template writes it.

        Args:
            generation_prompt: end with the beginning of an assistant turn.

        Raises:
            TemplateFault: the template refuses it.
        """
        return self._chat().text(self._messages(messages), tools, generation_prompt=generation_prompt)

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
            raise ModelError(Problem("templates.none", where=str(self.folder), field="data.template"))
        values = {"name": self.template_name, "eos": self.vocabulary.eos_token or "</s>"}
        raise ModelError(Problem("templates.no_stop", where=str(self.folder), field="data.template", values=values))

    def _eos(self) -> int:
        if self.vocabulary.eos_id is None:
            raise ModelError(Problem("templates.no_eos", where=str(self.folder)))
        return self.vocabulary.eos_id
