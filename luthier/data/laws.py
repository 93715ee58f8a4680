"""What must hold between training and chat, checked on every kind of conversation in the data.

What goes in: a renderer and the shapes of the examples. What comes out: how many shapes there are, which laws are
broken and where, and which fields the template leaves out with the user's word. Examples of one shape take the same
way through the template, so one of each is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

from luthier.batch import Floats
from luthier.config.schema import RowField
from luthier.data import coverage
from luthier.data.examples import Chat, Completion, Example, Labelled, Message, Preference, parts
from luthier.data.lessons import Lesson
from luthier.data.vocabulary import Vocabulary
from luthier.errors import Problem

CONTEXT_TOKENS = 6
"""Tokens quoted on each side where two sequences part."""

Trained = Literal["chat", "completion", "text"]
"""What a model was taught to answer: conversations, raw prompts, or the beginning of a text."""


@dataclasses.dataclass(frozen=True)
class LawReport:
    """Attributes:
    shapes: distinct shapes of examples; checked: prompts compared.
    violations: what is wrong, empty if all is well.
    unused: fields (`reasoning_content`) whose words the template leaves out, and may: `data.accept_unread` names them,
        or they only say which message belongs to which.
    kinds: types of examples (`Chat`, `Preference`), those that there are.
    unrolled: shapes whose conversations become one sequence per learnt answer, because the template rewrites what was
        said before.
    """

    shapes: int
    checked: int
    violations: tuple[Problem, ...]
    unused: tuple[str, ...]
    kinds: tuple[str, ...]
    unrolled: int = 0

    @property
    def trained(self) -> Trained:
        """What the rows teach; a few raw texts among conversations do not make the model one that continues text."""
        if not {"Completion", "Text"}.issuperset(self.kinds):
            return "chat"
        return "completion" if "Completion" in self.kinds else "text"


def joined(*reports: LawReport) -> LawReport:
    """What several reports come to; shapes that stand in more than one of them are counted in each."""
    return LawReport(
        sum(each.shapes for each in reports),
        sum(each.checked for each in reports),
        tuple(problem for each in reports for problem in each.violations),
        tuple(sorted({field for each in reports for field in each.unused})),
        tuple(sorted({kind for each in reports for kind in each.kinds})),
        sum(each.unrolled for each in reports),
    )


class Subject(Protocol):
    """What the laws need to know of a renderer."""

    vocabulary: Vocabulary
    accept_unread: tuple[str, ...]

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]: ...

    def prompt_text(self, prompt: str) -> list[int]: ...

    def text(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str: ...

    def train_many(self, examples: Sequence[Example]) -> list[list[tuple[Any, Floats]] | Problem]: ...

    def lessons(self, chat: Chat) -> list[Lesson] | Problem: ...


class Shapes:
    """The first example of each shape that `add` was given, with its place; nothing else is kept."""

    def __init__(self) -> None:
        self.examples: list[tuple[Example, str]] = []
        self._seen: set[tuple[Any, ...]] = set()

    def add(self, example: Example, where: str = "") -> None:
        """where: the example's place (`data.jsonl:117`), for messages."""
        new = [key for key in keys(example) if key not in self._seen]
        if new:
            self._seen.update(new)
            self.examples.append((example, where))

    def __len__(self) -> int:
        return sum(map(is_shape, self._seen))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Types of example among them."""
        return tuple(sorted({key[0] for key in self._seen if is_shape(key)}))


@dataclasses.dataclass
class _Findings:
    """What one example shows; `unread` fields were not accepted."""

    checked: int = 0
    problems: list[Problem] = dataclasses.field(default_factory=list)
    unused: set[str] = dataclasses.field(default_factory=set)
    unrolled: bool = False


def check(subject: Subject, shapes: Shapes) -> LawReport:
    """Look at one example of each shape."""
    found = [(_check_one(subject, example), where) for example, where in shapes.examples]
    return LawReport(
        shapes=len(shapes),
        checked=sum(each.checked for each, _ in found),
        violations=tuple(dataclasses.replace(p, where=where) for each, where in found for p in each.problems),
        unused=tuple(sorted({field for each, _ in found for field in each.unused})),
        kinds=shapes.kinds,
        unrolled=sum(each.unrolled for each, _ in found),
    )


def is_shape(key: tuple[Any, ...]) -> bool:
    """Whether a key is that of a shape, and not of the border between a prompt and its answer."""
    return bool(key[0] != "border")


def keys(example: Example) -> Iterator[tuple[Any, ...]]:
    """The shape, and for each answer the kind of character it begins with: a tokenizer may join it to the prompt. A
    judged example has a shape for each of its answers."""
    for part, _ in parts(example):
        if isinstance(part, Chat):
            yield from _chat_keys(part, type(example).__name__)
        else:
            yield (type(example).__name__,)


def _chat_keys(example: Chat, kind: str) -> Iterator[tuple[Any, ...]]:
    yield (
        kind,
        bool(example.tools),
        tuple(
            [
                # Templates take other ways for turns without words, and for words that hold thoughts.
                (each.role, each.weight > 0, not each.content.strip(), "</think>" in each.content, *sorted(each.extra))
                if each.extra
                else (each.role, each.weight > 0, not each.content.strip(), "</think>" in each.content)
                for each in example.messages
            ]
        ),
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


def _check_one(subject: Subject, example: Example) -> _Findings:
    if isinstance(example, (Chat, Preference, Labelled)):
        return _together([_check_chat(subject, part) for part, _ in parts(example) if isinstance(part, Chat)])
    made = subject.train_many([example])[0]
    if isinstance(made, Problem):
        return _Findings(1, [made])
    if not isinstance(example, Completion):
        return _Findings()
    prompt = subject.prompt_text(example.prompt)
    found = _prefix(subject, prompt, [int(each) for each in made[0][0]], len(prompt), type(example).__name__)
    return _Findings(1, [found] if found else [])


def _together(found: Sequence[_Findings]) -> _Findings:
    """Of all parts of an example; what is wrong with several of them is said once."""
    return _Findings(
        checked=sum(each.checked for each in found),
        problems=list({str(problem): problem for each in found for problem in each.problems}.values()),
        unused={field for each in found for field in each.unused},
        unrolled=any(each.unrolled for each in found),
    )


def _check_chat(subject: Subject, chat: Chat) -> _Findings:
    lessons = subject.lessons(chat)
    if isinstance(lessons, Problem):
        return _Findings(1, [lessons])
    findings = _Findings(unrolled=len(lessons) > 1)
    for lesson in lessons:
        ids, shape = lesson.encoded.tokens.ids, lesson.encoded.layout.shape
        prompts = [subject.prompt(lesson.messages[: span.answer.message], chat.tools) for span in lesson.spans]
        pairs = zip(prompts, lesson.spans, strict=True)
        problems = [_prefix(subject, prompt, ids, span.first, shape) for prompt, span in pairs]
        problems.append(_double_bos(subject, ids, shape))
        findings.checked += len(prompts)
        findings.problems += [problem for problem in problems if problem]
    findings.problems += [problem for problem in (_tags(subject, chat, lessons),) if problem]
    _note_unread(subject, lessons[-1], chat.tools, findings)
    return findings


def _note_unread(subject: Subject, lesson: Lesson, tools: Sequence[Any], findings: _Findings) -> None:
    """Fields that the template leaves out: what only links messages and what is accepted is noted, the rest wrong."""
    for field in dict.fromkeys(coverage.left_out(subject.text, lesson.messages, tools)):
        if field in coverage.LINKS or field in subject.accept_unread:
            findings.unused.add(field)
            continue
        id = "templates.field_unread" if field in get_args(RowField) else "templates.own_field_unread"
        findings.problems.append(
            Problem(id, field=field, values={"shape": lesson.encoded.layout.shape, "field": field})
        )


def _double_bos(subject: Subject, ids: list[int], shape: str) -> Problem | None:
    bos = subject.vocabulary.bos_id
    if bos is None or bos == subject.vocabulary.eos_id or ids[:2] != [bos, bos]:
        return None
    text = subject.vocabulary.decode([bos], skip_special=False)
    return Problem("templates.double_bos", values={"bos": text, "shape": shape})


def _prefix(subject: Subject, prompt: list[int], training: list[int], first: int, shape: str) -> Problem | None:
    """The law: the prompt's tokens are those of training up to the first learnt one."""
    if prompt == training[:first]:
        return None
    at = _common(prompt, training[:first])
    near = slice(max(at - CONTEXT_TOKENS, 0), at + CONTEXT_TOKENS)
    values = {
        "shape": shape,
        "at": at,
        "prompt": subject.vocabulary.decode(prompt[near], skip_special=False),
        "training": subject.vocabulary.decode(training[:first][near], skip_special=False),
    }
    return Problem("templates.prompt_law", values=values)


def _tags(subject: Subject, chat: Chat, lessons: list[Lesson]) -> Problem | None:
    """Where the template tags answers itself, the tags and the rendering have to agree, in every turn.

    A tag may take in the beginning of the assistant's turn, which the prompt gives away already, and what the template
    writes behind the stop token. The mask is the rendering's either way.
    """
    if not any(lesson.encoded.layout.generated for lesson in lessons):
        return None
    answers = [dataclasses.replace(each, weight=1.0) if each.role == "assistant" else each for each in chat.messages]
    with_all = subject.lessons(dataclasses.replace(chat, messages=tuple(answers)))
    for lesson in lessons if isinstance(with_all, Problem) else with_all:
        at = _wrong_tag(subject, lesson, chat.tools)
        if at is not None:
            token = subject.vocabulary.decode([lesson.encoded.tokens.ids[at]], skip_special=False)
            values = {"shape": lesson.encoded.layout.shape, "at": at, "token": token}
            return Problem("templates.generation_tags", values=values)
    return None


def _wrong_tag(subject: Subject, lesson: Lesson, tools: Sequence[Any]) -> int | None:
    """The first token of an answer that is not tagged, or that is tagged and nobody's answer."""
    encoded, ids = lesson.encoded, lesson.encoded.tokens.ids
    tagged = {at for start, end in encoded.layout.generated for at in range(encoded.at(start), encoded.at(end))}
    allowed: set[int] = set()
    begins = []
    for span in lesson.spans:
        before = subject.vocabulary.ids(subject.text(lesson.messages[: span.answer.message], tools))
        begins.append(_common(before, ids[: span.first]))
        allowed.update(range(begins[-1], span.bound))
    missed = [at for span in lesson.spans for at in range(span.first, span.stop) if at not in tagged]
    # Answers that are not learnt here stand before those that are: in a lesson of their own, or in none.
    others = sum(each.role == "assistant" for each in lesson.messages) > len(lesson.spans)
    start = min(begins, default=len(ids)) if others else 0
    return min([*missed, *(at for at in tagged - allowed if at >= start)], default=None)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
