"""What must hold between training and chat, checked on every kind of conversation in the data.

What goes in: a renderer and examples. What comes out: how many shapes of conversation there are, which laws are broken
and where, and which fields of the messages the template never writes. Examples of one shape take the same way through
the template, so one of each is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from luthier.batch import Floats
from luthier.data.formats import Chat, Completion, Example, Message
from luthier.data.sandbox import TemplateFault
from luthier.data.spans import Encoded, Span
from luthier.data.vocabulary import Vocabulary
from luthier.errors import Problem

CONTEXT_TOKENS = 6
"""Tokens quoted on each side where two sequences part."""


@dataclasses.dataclass(frozen=True)
class LawReport:
    """shapes: distinct shapes of examples; checked: prompts compared; violations: what is wrong, empty if all is well;
    unused: fields (`assistant.reasoning_content`) whose words the template leaves out."""

    shapes: int
    checked: int
    violations: tuple[Problem, ...]
    unused: tuple[str, ...]


def joined(*reports: LawReport) -> LawReport:
    """What several reports come to; shapes that stand in more than one of them are counted in each."""
    return LawReport(
        sum(each.shapes for each in reports),
        sum(each.checked for each in reports),
        tuple(problem for each in reports for problem in each.violations),
        tuple(sorted({field for each in reports for field in each.unused})),
    )


class Subject(Protocol):
    """What the laws need to know of a renderer."""

    vocabulary: Vocabulary

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]: ...

    def prompt_text(self, prompt: str) -> list[int]: ...

    def text(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str: ...

    def train_many(self, examples: Sequence[Example]) -> list[tuple[Any, Floats] | Problem]: ...

    def spans(self, chat: Chat) -> tuple[tuple[Message, ...], Encoded, tuple[Span, ...]] | Problem: ...


def check(subject: Subject, examples: Sequence[Example], places: Sequence[str] | None = None) -> LawReport:
    """Look at one example of each shape.

    Args:
        places: where each example comes from, for the messages.
    """
    seen: dict[Any, int] = {}
    for index, example in enumerate(examples):
        for key in keys(example):
            seen.setdefault(key, index)
    violations, unused, checked = [], set(), 0
    for index in sorted(set(seen.values())):
        example, where = examples[index], places[index] if places else ""
        compared, found = _check_one(subject, example)
        checked += compared
        violations += [dataclasses.replace(problem, where=where) for problem in found]
        if isinstance(example, Chat):
            unused |= set(_unused(subject, example))
    return LawReport(sum(map(is_shape, seen)), checked, tuple(violations), tuple(sorted(unused)))


def is_shape(key: tuple[Any, ...]) -> bool:
    """Whether a key is that of a shape, and not of the border between a prompt and its answer."""
    return bool(key[0] != "border")


def keys(example: Example) -> Iterator[tuple[Any, ...]]:
    """The shape, and for each answer the kind of character it begins with: a tokenizer may join it to the prompt."""
    if not isinstance(example, Chat):
        yield (type(example).__name__,)
        return
    yield (
        "Chat",
        bool(example.tools),
        tuple((each.role, each.weight > 0, tuple(sorted(each.extra))) for each in example.messages),
    )
    for message in example.messages:
        if message.role == "assistant":
            yield ("border", _kind(message.content[:1]))


def _kind(char: str) -> str:
    """Class of a character as tokenizers tell them apart."""
    if not char:
        return "none"
    if char in "\r\n":
        return "line break"
    if char.isspace():
        return "space"
    if char.isdigit():
        return "digit"
    if char.isalpha():
        return "letter" if char.isascii() else "other letter"
    return "sign" if char.isascii() else "other sign"


def _check_one(subject: Subject, example: Example) -> tuple[int, list[Problem]]:
    """Number of prompts compared, and what is wrong."""
    if isinstance(example, Chat):
        return _check_chat(subject, example)
    made = subject.train_many([example])[0]
    if isinstance(made, Problem):
        return 1, [made]
    if not isinstance(example, Completion):
        return 0, []
    prompt = subject.prompt_text(example.prompt)
    found = _prefix(subject, prompt, [int(each) for each in made[0]], len(prompt), type(example).__name__)
    return 1, [found] if found else []


def _check_chat(subject: Subject, chat: Chat) -> tuple[int, list[Problem]]:
    learnt = subject.spans(chat)
    if isinstance(learnt, Problem):
        return 1, [learnt]
    messages, encoded, spans = learnt
    ids, shape = encoded.tokens.ids, encoded.layout.shape
    found = [
        _prefix(subject, subject.prompt(messages[: span.answer.message], chat.tools), ids, span.first, shape)
        for span in spans
    ]
    bos = subject.vocabulary.bos_id
    if bos is not None and bos != subject.vocabulary.eos_id and ids[:2] == [bos, bos]:
        text = subject.vocabulary.decode([bos], skip_special=False)
        found.append(Problem("templates.double_bos", values={"bos": text, "shape": shape}))
    found.append(_tags(subject, encoded, spans))
    return len(spans), [problem for problem in found if problem]


def _prefix(subject: Subject, prompt: list[int], training: list[int], first: int, shape: str) -> Problem | None:
    """The law: the prompt's tokens are those of training up to the first learnt one."""
    if prompt == training[:first]:
        return None
    pairs = zip(prompt, training[:first], strict=False)
    at = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(prompt), first))
    near = slice(max(at - CONTEXT_TOKENS, 0), at + CONTEXT_TOKENS)
    values = {
        "shape": shape,
        "at": at,
        "prompt": subject.vocabulary.decode(prompt[near], skip_special=False),
        "training": subject.vocabulary.decode(training[:first][near], skip_special=False),
    }
    return Problem("templates.prompt_law", values=values)


def _tags(subject: Subject, encoded: Encoded, spans: Sequence[Span]) -> Problem | None:
    """Where the template tags answers itself, the tags and the rendering have to agree.

    They may differ about the stop token and the line break after it: the stop token is always learnt, what follows it
    never.
    """
    if not encoded.layout.generated:
        return None
    tagged = {at for start, end in encoded.layout.generated for at in range(encoded.at(start), encoded.at(end))}
    for span in spans:
        wrong = [at for at in range(span.first, span.stop) if at not in tagged]
        # The prompt's last token: a tag that begins too early takes it in.
        wrong += [at for at in (span.first - 1,) if at in tagged]
        if wrong:
            token = subject.vocabulary.decode([encoded.tokens.ids[wrong[0]]], skip_special=False)
            values = {"shape": encoded.layout.shape, "at": wrong[0], "token": token}
            return Problem("templates.generation_tags", values=values)
    return None


def _unused(subject: Subject, chat: Chat) -> Iterator[str]:
    """Fields whose words do not appear in the rendered text."""
    try:
        text = subject.text(chat.messages, chat.tools)
    except TemplateFault:
        return
    for message in chat.messages:
        fields = {"content": message.content, **message.extra}
        for name, value in fields.items():
            words = [word for word in _strings(value) if word.strip()]
            if words and not any(word.strip() in text or _escaped(word) in text for word in words):
                yield f"{message.role}.{name}"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)


def _escaped(word: str) -> str:
    """As JSON would write it, without the quotes."""
    return word.strip().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
