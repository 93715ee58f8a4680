"""Talking to a run or a model in a terminal.

What goes in: an open session, and lines that a person types. What comes out: streamed answers, with `compare` the
base's beside the tuned model's. Input and output are passed in, so that tests and notebooks use
the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from luthier.data.formats import Message
from luthier.generate import Sampling
from luthier.session import Session
from luthier.text import say

RESET, QUIT = "/new", "/quit"


def chat(
    session: Session,
    lines: Iterable[str],
    write: Callable[[str], Any],
    *,
    compare: bool = False,
    system: str | None = None,
    sampling: Sampling | None = None,
) -> int:
    """Answer each line in turn, keeping the conversation; returns the number of questions answered.

    `/new` starts over, `/quit` (or the end of the lines) ends. With `compare`, every question is put to tuned model and
    base, each with its own history; the session has to hold both.
    """
    write(say("chat.greeting", label=session.label, quit=QUIT, reset=RESET) + "\n")
    sides = [True, False] if compare else [True]
    start: tuple[Message, ...] = (Message("system", system),) if system else ()
    histories = {tuned: start for tuned in sides}
    asked = 0
    for line in lines:
        question = line.strip()
        if question == QUIT:
            break
        if question == RESET:
            histories = {tuned: start for tuned in sides}
            write(say("chat.new") + "\n")
        elif question:
            asked += 1
            for tuned in sides:
                histories[tuned] = _turn(session, histories[tuned], question, tuned, len(sides) > 1, sampling, write)
    return asked


def _turn(
    session: Session,
    history: tuple[Message, ...],
    question: str,
    tuned: bool,
    labelled: bool,
    sampling: Sampling | None,
    write: Callable[[str], Any],
) -> tuple[Message, ...]:
    """Put the question, stream the answer, return the longer history."""
    history = (*history, Message("user", question))
    if labelled:
        write(f"[{session.label if tuned else session.base_label}] ")
    answer = session.answer(history, sampling, tuned=tuned, on_text=write)
    write("\n")
    return (*history, Message("assistant", answer))
