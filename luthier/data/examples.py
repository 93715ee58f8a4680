"""What one row becomes: the types of examples, and why a row cannot become one.

What goes in: texts and turns, whole and in order. What comes out: frozen values that rendering, hashing and the methods
read. To add a type: a class here, its laws in `wellformed.py`, what methods learn from it in `LEARNS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import Problem


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: system, user, assistant or tool.
        content: its text.
        weight: what the loss of its tokens is multiplied with; only an assistant's turns are learnt.
        extra: what else a chat template may render: tool_calls, reasoning_content, name, tool_call_id.
    """

    role: str
    content: str
    weight: float = 1.0
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Messages = tuple[Message, ...]
Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, rendered with the chat template. `tools`: the schemas offered to the assistant."""

    messages: Messages
    tools: Tools = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A document; all of it is learnt."""

    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what follows it, joined without a chat template; the completion is learnt."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two ways on from one prompt, of which `chosen` is the better.

    Attributes:
        messages: the shared prompt.
        margin: by how much, where the data says so.
    """

    messages: Messages
    chosen: Messages
    rejected: Messages
    tools: Tools = ()
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer that somebody judged. `label`: whether it is wanted."""

    messages: Messages
    answer: Messages
    label: bool
    tools: Tools = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to be answered by the model itself.

    Attributes:
        answer: the reference that answers are judged by, where there is one.
        columns: everything else in the row, for the user's own rewards.
    """

    messages: Messages
    tools: Tools = ()
    answer: str | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Example = Chat | Text | Completion | Preference | Labelled | Prompt

LEARNS: dict[str, tuple[type, ...]] = {
    "sft": (Chat, Completion),
    "pretrain": (Text,),
    "distill": (Chat, Completion),
    "dpo": (Preference,),
    "ipo": (Preference,),
    "simpo": (Preference,),
    "orpo": (Preference,),
    "cpo": (Preference,),
    "reward": (Preference,),
    "kto": (Labelled,),
    "grpo": (Prompt,),
    "ppo": (Prompt,),
}
"""Kind of method -> the examples that it learns from."""

MISFITS: dict[type, str] = {
    Text: "data.sft_on_text",
    Chat: "data.pretrain_on_chat",
    Completion: "data.pretrain_on_chat",
    Preference: "data.preference",
    Labelled: "data.feedback",
    Prompt: "data.prompt_only",
}
"""Example -> the message that says for which methods it is, where the recipe's is another."""


def misfit(kind: type, method: str | None) -> str:
    """The id of the message that says why a method cannot learn from examples of a type; empty where it can, or where
    any method is fine (None)."""
    if method is None or kind in LEARNS[method]:
        return ""
    judged = Preference in LEARNS[method] or Labelled in LEARNS[method]
    return "data.not_judged" if judged and kind in (Chat, Text, Completion) else MISFITS[kind]


def parts(example: Example) -> tuple[tuple[Example, int], ...]:
    """What becomes a token sequence of an example, each part with its side: 1 for an answer that is wanted, -1 for one
    that is not, 0 where nobody judged. Of a judged example the answers are learnt and the prompt is context, whatever
    weights its turns have."""
    match example:
        case Preference(messages, chosen, rejected, tools):
            return ((_answered(messages, chosen, tools), 1), (_answered(messages, rejected, tools), -1))
        case Labelled(messages, answer, label, tools):
            return ((_answered(messages, answer, tools), 1 if label else -1),)
        case _:
            return ((example, 0),)


def _answered(messages: Messages, answer: Messages, tools: Tools) -> Chat:
    asked = tuple(dataclasses.replace(each, weight=0.0) if each.role == "assistant" else each for each in messages)
    return Chat((*asked, *(dataclasses.replace(each, weight=1.0) for each in answer)), tools)


def texts(example: Example) -> Iterator[str]:
    """All that is said in an example."""
    match example:
        case Text(text):
            yield text
        case Completion(prompt, completion):
            yield prompt
            yield completion
        case _:
            yield from (message.content for message in all_messages(example))


def all_messages(example: Example) -> Iterator[Message]:
    """Every turn of an example, those of all answers too."""
    match example:
        case Chat(messages) | Prompt(messages):
            yield from messages
        case Labelled(messages, answer):
            yield from (*messages, *answer)
        case Preference(messages, chosen, rejected):
            yield from (*messages, *chosen, *rejected)


def content(example: Example) -> list[Any]:
    """Plain lists that are equal for equal examples only."""
    match example:
        case Text(text):
            return ["text", text]
        case Completion(prompt, completion):
            return ["completion", prompt, completion]
        case Chat(messages, tools):
            return ["chat", _plain(messages), list(tools)]
        case Preference(messages, chosen, rejected, tools, margin):
            return ["preference", _plain(messages), _plain(chosen), _plain(rejected), list(tools), margin]
        case Labelled(messages, answer, label, tools):
            return ["labelled", _plain(messages), _plain(answer), label, list(tools)]
        case Prompt(messages, tools, reference, columns):
            return ["prompt", _plain(messages), list(tools), reference, dict(columns)]


def _plain(messages: Messages) -> list[list[Any]]:
    return [[each.role, each.content, each.weight, dict(each.extra)] for each in messages]


class RowFault(Exception):
    """A row that cannot be used; message id, the field at fault, and what fills the message."""

    def __init__(self, id: str, field: str = "", value: str = "", **values: Any) -> None:
        super().__init__(id)
        self.id = id
        self.field = field
        self.value = value
        self.values = values

    def problem(self, where: str) -> Problem:
        return Problem(self.id, where, self.field, self.value, self.values)
