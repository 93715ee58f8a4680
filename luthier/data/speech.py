"""What is said in an example, and by whom: the one place that analyses of text read examples through.

What goes in: an example of any kind. What comes out: its `Speech`. A new kind of example needs one more case here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from luthier.data.examples import Chat, Completion, Example, Labelled, Message, Messages, Preference, Prompt, Text


@dataclass(frozen=True, slots=True)
class Speech:
    """Attributes:
    frame: system prompts, which many rows share.
    asked: what the model is shown, turn by turn: questions, prompts, results of tools, answers without weight.
    answers: what it learns to say in reply, turn by turn.
    document: text that nobody asked for; all of it is learnt.
    further: thoughts, the texts inside of tool calls, and answers that are not wanted.
    label: how the answer was judged; empty where nobody judged it.
    """

    frame: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    document: str = ""
    further: tuple[str, ...] = ()
    label: str = ""

    @property
    def all(self) -> str:
        """Every text of the example."""
        return "\n".join((*self.frame, *self.own, *self.further))

    @property
    def own(self) -> tuple[str, ...]:
        """What belongs to this row alone."""
        return (*self.asked, *self.answers, self.document) if self.document else (*self.asked, *self.answers)

    @property
    def own_text(self) -> str:
        """The same as one text, by which rows are compared."""
        return "\n".join(self.own)


def speech(example: Example) -> Speech:
    match example:
        case Text(text):
            return Speech(document=text)
        case Completion(prompt, completion):
            return Speech(asked=(prompt,), answers=(completion,))
        case Chat(messages):
            return _turns((), messages)
        case Preference(messages, chosen, rejected):
            made = _turns(messages, chosen)
            return replace(made, further=(*made.further, *(each.content for each in rejected)))
        case Labelled(messages, answer, label):
            return replace(_turns(messages, answer), label="true" if label else "false")
        case Prompt(messages, _, reference):
            return replace(_turns(messages, ()), answers=(reference,) if reference else ())


def _turns(prompt: Messages, answer: Messages) -> Speech:
    """What is said in a prompt, of which nothing is learnt, and in the turns that follow it."""
    shown = (*prompt, *(each for each in answer if not _learnt(each)))
    return Speech(
        frame=tuple(each.content for each in shown if each.role == "system"),
        asked=tuple(each.content for each in shown if each.role != "system"),
        answers=tuple(each.content for each in answer if _learnt(each) and each.content),
        further=tuple(text for each in (*prompt, *answer) if each.extra for text in _strings(each.extra)),
    )


def _learnt(message: Message) -> bool:
    return message.role == "assistant" and message.weight > 0


def _strings(value: Any) -> Iterator[str]:
    """Every text inside of plain values, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)
