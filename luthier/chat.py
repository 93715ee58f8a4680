"""Talking to a run or a model in a terminal.

What goes in: an open session, and lines that a person types. What comes out: streamed answers, with `compare` the
base's beside the tuned model's. A model that was trained on raw text continues each line instead. Input and output are
passed in, so that tests and notebooks use the same code.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from luthier.data.formats import Message
from luthier.errors import Problem, RunError
from luthier.generate import Sampling
from luthier.session import Session
from luthier.text import say

RESET, QUIT = "/new", "/quit"
COMMAND = re.compile(r"/[a-z]+")
"""A single word behind a slash is meant for the chat, not for the model."""
AGAIN_S = 1.0
"""A second Ctrl-C within this time means the chat, not the next answer. Chosen, not tuned."""

History = tuple[Message, ...]


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

    `/new` starts over, `/quit` (or the end of the lines) ends. Ctrl-C ends the answer that is being given, and where
    none is, or pressed again, the chat. With `compare`, every question is put to tuned model and base, each with its
    own history; the session has to hold both.

    Raises:
        RunError: a system prompt is given, and the model continues text.
    """
    if system and session.continues_text:
        raise RunError(Problem("chat.no_system", where=session.label, value=system))
    words = {"label": session.label, "quit": QUIT, "reset": RESET}
    write(say("chat.greeting_text" if session.continues_text else "chat.greeting", **words) + "\n")
    sides = [True, False] if compare else [True]
    start: History = (Message("system", system),) if system else ()
    histories = {tuned: start for tuned in sides}
    asked, stopped_s = 0, -math.inf
    for line in _until_interrupted(lines, write):
        # Spaces of a text that is continued are part of it.
        question = line.rstrip("\r\n") if session.continues_text else line.strip()
        if question.strip() == QUIT:
            break
        if question.strip() == RESET:
            histories = {tuned: start for tuned in sides}
            write(say("chat.new") + "\n")
        elif COMMAND.fullmatch(question.strip()) and not session.continues_text:
            write(say("chat.commands", **words) + "\n")
        elif question.strip():
            asked += 1
            try:
                for tuned in sides:
                    if compare:
                        write(f"[{session.label if tuned else session.base_label}] ")
                    _turn(session, histories, question, tuned, sampling, write)
            except KeyboardInterrupt:
                if time.monotonic() - stopped_s < AGAIN_S:
                    break
                stopped_s = time.monotonic()
                write(f"\n{say('chat.stopped')}\n")
    return asked


def _until_interrupted(lines: Iterable[str], write: Callable[[str], Any]) -> Iterator[str]:
    """The lines, up to Ctrl-C while one is waited for."""
    waiting = iter(lines)
    while True:
        try:
            line = next(waiting)
        except StopIteration:
            return
        except KeyboardInterrupt:
            write("\n")
            return
        yield line


def _turn(
    session: Session,
    histories: dict[bool, History],
    question: str,
    tuned: bool,
    sampling: Sampling | None,
    write: Callable[[str], Any],
) -> None:
    """Put the question, stream the answer, add both to the side's history; of a stopped answer, what was said."""
    history = (*histories[tuned], Message("user", question))
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        write(text)

    try:
        session.answer(question if session.continues_text else history, sampling, tuned=tuned, on_text=tell)
    finally:
        histories[tuned] = (*history, Message("assistant", "".join(said)))
    write("\n")
