"""Conversations as training sequences: whole, or unrolled where the template rewrites what was said before.

What goes in: conversations with the answers that are to be learnt. What comes out: for each its lessons, or only their
ids and weights (`sequences`, which is faster). Mostly that is one, the whole conversation. Some templates show an
answer differently once others follow it (Qwen3 drops earlier thoughts): there each learnt answer is a lesson of its
own, rendered as if it were the last, which is what the model will see when it is to write it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from luthier.data.formats import Message
from luthier.data.layout import Layout
from luthier.data.learnt import Weighted
from luthier.data.spans import Conversations, Encoded, Span
from luthier.errors import Problem

REWRITES = frozenset(["templates.prompt_differs", "templates.rewrites_history"])
"""What is found where the text up to an answer, or the answer itself, reads otherwise once the conversation goes on.
Both can also be true of the answer alone; then unrolling finds them again, and they stand."""

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Task:
    """A conversation to learn from. weights: index of an answer -> weight of its loss; what is absent is context."""

    messages: tuple[Message, ...]
    tools: Sequence[Any]
    weights: Mapping[int, float]

    def unrolled(self) -> Iterator[Task]:
        """For each learnt answer the conversation up to it, with nothing else to learn."""
        for index, weight in self.weights.items():
            if weight:
                yield Task(self.messages[: index + 1], self.tools, {index: weight})


@dataclasses.dataclass(frozen=True)
class Lesson:
    """One training sequence: the messages in it, their tokens, and the learnt answers among these."""

    messages: tuple[Message, ...]
    encoded: Encoded
    spans: tuple[Span, ...]


def lessons(conversations: Conversations, tasks: Sequence[Task]) -> list[list[Lesson] | Problem]:
    """The lessons of each task, tokenised in one batch; a problem takes the place of what cannot be learnt from."""
    return _unrolling(functools.partial(_lessons, conversations), tasks)


def sequences(conversations: Conversations, tasks: Sequence[Task]) -> list[list[Weighted] | Problem]:
    """As `lessons`, ids and weights alone: told by words where they can be.

    In every call one sequence that was told so is held against the tokenizer. Should they ever differ, words are not
    asked again (`Conversations.goes_by_words` turns false), neither here nor later.
    """
    return _unrolling(functools.partial(_sequences, conversations), tasks)


def _unrolling(
    each: Callable[[Sequence[Task]], list[Made | Problem]], tasks: Sequence[Task]
) -> list[list[Made] | Problem]:
    """What `each` makes of the tasks; where a template rewrites history, of the parts that they unroll to."""
    made: list[list[Made] | Problem] = [one if isinstance(one, Problem) else [one] for one in each(tasks)]
    rewritten = [index for index, one in enumerate(made) if isinstance(one, Problem) and one.id in REWRITES]
    parts = [list(tasks[index].unrolled()) for index in rewritten]
    results = iter(each([task for part in parts for task in part]))
    for index, part in zip(rewritten, parts, strict=True):
        made[index] = _all([next(results) for _ in part])
    return made


def _all(parts: Sequence[Made | Problem]) -> list[Made] | Problem:
    """All lessons of a conversation, or what is wrong with the first that is none: half a row is not learnt."""
    found: list[Made] = []
    for each in parts:
        if isinstance(each, Problem):
            return each
        found.append(each)
    return found


def _lessons(conversations: Conversations, tasks: Sequence[Task]) -> list[Lesson | Problem]:
    """Every task as one lesson."""
    return _encoded(conversations, tasks, _arranged(conversations, tasks))


def _sequences(conversations: Conversations, tasks: Sequence[Task]) -> list[Weighted | Problem]:
    """Every task as one sequence."""
    layouts = _arranged(conversations, tasks)
    told: list[Weighted | None] = [None] * len(tasks)
    if conversations.goes_by_words:
        found = iter(conversations.by_words([layout for layout in layouts if not isinstance(layout, Problem)]))
        told = [None if isinstance(layout, Problem) else next(found) for layout in layouts]
        if not _holds(conversations, tasks, layouts, told):
            conversations.distrust_words()
            told = [None] * len(tasks)
    rest = [index for index, each in enumerate(told) if each is None]
    encoded = iter(_encoded(conversations, [tasks[index] for index in rest], [layouts[index] for index in rest]))
    return [_weighted(next(encoded)) if each is None else each for each in told]


def _holds(
    conversations: Conversations,
    tasks: Sequence[Task],
    layouts: Sequence[Layout | Problem],
    told: Sequence[Weighted | None],
) -> bool:
    """Whether the first sequence that was told by words is the one that the tokenizer tells."""
    place = next((index for index, each in enumerate(told) if each is not None), None)
    if place is None:
        return True
    mine, other = told[place], _weighted(_encoded(conversations, [tasks[place]], [layouts[place]])[0])
    return mine is not None and not isinstance(other, Problem) and all(map(np.array_equal, mine, other))


def _arranged(conversations: Conversations, tasks: Sequence[Task]) -> list[Layout | Problem]:
    return [conversations.arrange(task.messages, task.tools, task.weights) for task in tasks]


def _encoded(
    conversations: Conversations, tasks: Sequence[Task], layouts: Sequence[Layout | Problem]
) -> list[Lesson | Problem]:
    """The lessons of tasks that are laid out, tokenised in one batch."""
    encoded = iter(conversations.encode([layout for layout in layouts if not isinstance(layout, Problem)]))
    made: list[Lesson | Problem] = []
    for task, layout in zip(tasks, layouts, strict=True):
        if isinstance(layout, Problem):
            made.append(layout)
            continue
        tokens = next(encoded)
        spans = conversations.spans(tokens)
        made.append(spans if isinstance(spans, Problem) else Lesson(task.messages, tokens, spans))
    return made


def _weighted(lesson: Lesson | Problem) -> Weighted | Problem:
    if isinstance(lesson, Problem):
        return lesson
    ids = lesson.encoded.tokens.ids
    weights = np.zeros(len(ids), dtype=np.float32)
    for span in lesson.spans:
        weights[span.first : span.stop + 1] = span.answer.weight
    weights[:1] = 0
    return np.asarray(ids, dtype=np.int32), weights
