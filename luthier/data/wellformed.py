"""What holds for every example, whatever format it came in.

What goes in: an example, shipped formats' or the user's own. What comes out: nothing, or a `RowFault`: empty text, an
order of roles that no chat has, or nothing to learn. What a chat template would silently drop is the business of the
rendering laws, not of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luthier.data.examples import (
    Chat,
    Completion,
    Example,
    Labelled,
    Message,
    Messages,
    Preference,
    Prompt,
    RowFault,
    Text,
)
from luthier.data.strict_json import shorten
from luthier.data.turns import filled
from luthier.text import say


def parse(format: Callable[[Any], Example], row: Any) -> Example:
    """The example in a row, checked.

    Raises:
        RowFault: it cannot be used.
    """
    example = format(row)
    check(example)
    return example


def check(example: Example) -> None:
    """What holds for every example, wherever it came from.

    Raises:
        RowFault: empty text, an order of roles that no chat has, or nothing to learn.
    """
    match example:
        case Text(text):
            filled(text, "text", "data.empty_text")
        case Completion(prompt, completion):
            filled(prompt, "prompt", "data.empty_question")
            filled(completion, "completion", "data.empty_answer")
        case Chat(messages):
            _check_chat(messages)
        case Preference(messages, chosen, rejected):
            _check_prompt(messages)
            _check_answer(messages, chosen)
            _check_answer(messages, rejected)
        case Labelled(messages, answer):
            _check_prompt(messages)
            _check_answer(messages, answer)
        case Prompt(messages):
            _check_prompt(messages)


def _check_prompt(messages: Messages) -> None:
    """Turns that somebody is to answer."""
    _check_turns(messages)
    if messages[-1].role not in ("user", "tool"):
        raise RowFault("data.prompt_end", say("data.turn", number=len(messages), role=messages[-1].role))


def _check_answer(messages: Messages, answer: Messages) -> None:
    """Turns that go on from a prompt. An answer's weight counts nowhere here."""
    if not answer or answer[0].role != "assistant":
        raise RowFault("data.no_answer")
    _check_turns((*messages, *answer))
    for message in answer:
        if message.role == "assistant" and "tool_calls" not in message.extra:
            filled(message.content, say("data.turn", number=len(messages) + 1, role="assistant"), "data.empty_answer")


def _check_turns(messages: Sequence[Message]) -> None:
    if not messages:
        raise RowFault("data.empty_conversation")
    place = 0
    try:
        for place, message in enumerate(messages):
            _check_turn(messages[place - 1] if place else None, message)
    except RowFault as fault:
        fault.field = say("data.turn", number=place + 1, role=messages[place].role)
        raise


def _check_chat(messages: Sequence[Message]) -> None:
    _check_turns(messages)
    if not any(message.role == "assistant" for message in messages):
        raise RowFault("data.no_answer")
    if not any(message.role == "assistant" and message.weight > 0 for message in messages):
        raise RowFault("data.nothing_to_learn")


def _check_turn(before: Message | None, message: Message) -> None:
    """Its place and its content."""
    _check_order(before, message)
    if message.role == "user":
        filled(message.content, "", "data.empty_question")
    elif message.role == "assistant" and message.weight > 0 and "tool_calls" not in message.extra:
        filled(message.content, "", "data.empty_answer")


def _check_order(before: Message | None, message: Message) -> None:
    """A system prompt first, then questions and answers by turns, tools only after an answer."""
    role, last = message.role, before.role if before is not None else ""
    if role not in ("system", "user", "assistant", "tool"):
        raise RowFault("data.unknown_role", value=shorten(role), roles="system, user, assistant, tool", hint="")
    if role == "system" and before is not None:
        raise RowFault("data.system_late")
    if role == "assistant" and last in ("", "system"):
        raise RowFault("data.answer_first")
    if role == "tool" and last not in ("assistant", "tool"):
        raise RowFault("data.tool_first")
    # Calls of several tools may stand in turns of their own.
    parallel = role == "assistant" and before is not None and "tool_calls" in before.extra
    if role == last and role in ("user", "assistant") and not parallel:
        raise RowFault("data.same_role", role=role)
