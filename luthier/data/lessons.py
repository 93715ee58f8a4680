"""Conversations as training sequences: whole, or unrolled where the template rewrites what was said before.

What goes in: conversations with the answers that are to be learnt. What comes out: for each its lessons. Mostly that is
one, the whole conversation. Some templates show an answer differently once others follow it (Qwen3 drops earlier
thoughts): there each learnt answer is a lesson of its own, rendered as if it were the last, which is what the model
will see when it is to write it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.data.formats import Message
from luthier.data.spans import Conversations, Encoded, Span
from luthier.errors import Problem

REWRITES = frozenset(["templates.prompt_differs", "templates.rewrites_history"])
"""What is found where the text up to an answer, or the answer itself, reads otherwise once the conversation goes on.
Both can also be true of the answer alone; then unrolling finds them again, and they stand."""


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
    made: list[list[Lesson] | Problem] = [
        each if isinstance(each, Problem) else [each] for each in _each(conversations, tasks)
    ]
    rewritten = [index for index, each in enumerate(made) if isinstance(each, Problem) and each.id in REWRITES]
    parts = [list(tasks[index].unrolled()) for index in rewritten]
    results = iter(_each(conversations, [task for part in parts for task in part]))
    for index, part in zip(rewritten, parts, strict=True):
        made[index] = _all([next(results) for _ in part])
    return made


def _each(conversations: Conversations, tasks: Sequence[Task]) -> list[Lesson | Problem]:
    """Every task as one lesson."""
    layouts = [conversations.arrange(task.messages, task.tools, task.weights) for task in tasks]
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


def _all(parts: Sequence[Lesson | Problem]) -> list[Lesson] | Problem:
    """All lessons of a conversation, or what is wrong with the first that is none: half a row is not learnt."""
    found: list[Lesson] = []
    for each in parts:
        if isinstance(each, Problem):
            return each
        found.append(each)
    return found
