"""Talking to a run or a model in a terminal.

What goes in: an open session, and lines that a person types. What comes out: streamed answers, with `compare` those of
the base or of another voice beside them. A model that was trained on raw text continues each line instead. Input and
output are passed in, so that tests and notebooks use the same code.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from luthier import columns
from luthier.arch.adapter_config import STRONGEST
from luthier.data.formats import Message
from luthier.errors import Problem, RunError, UserError
from luthier.sampling import Sampling
from luthier.session import Session
from luthier.text import say
from luthier.writing import Ask, Reply

RESET, QUIT = "/new", "/quit"
COMMAND = re.compile(r"(/[a-z]+)(?:\s+(.*))?", re.DOTALL)
"""A word behind a slash at the start of a line is meant for the chat, not for the model."""
AGAIN_S = 1.0
"""A second Ctrl-C within this time means the chat, not the next answer. Chosen, not tuned."""
DIM, PLAIN = "\x1b[2m", "\x1b[0m"

History = tuple[Message, ...]
SIDES = (True, False)
"""What is talked to, and what it is compared with."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One message of the conversation. adapter: what answered; tokens, seconds: of an answer."""

    role: str
    content: str
    adapter: str | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a chat is to be led. compare: put every question to another voice too, `base` for the base; voice: what
    answers, None for what the session was opened with; greeting: what the model says first; speed: tell it after each
    answer; width: of the terminal, whose two columns show answers that are compared where they fit; 0 for none."""

    compare: str | None = None
    voice: str | None = None
    system: str | None = None
    greeting: str = ""
    sampling: Sampling | None = None
    speed: bool = False
    width: int = 0


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

    Lines that begin with a slash are commands: `/help` lists them. `/quit` (or the end of the lines) ends. Ctrl-C ends
    the answer that is being given, and where none is, or pressed again, the chat. With `compare`, every question is put
    to tuned model and base, each with its own history; the session has to hold both.

    Raises:
        RunError: a system prompt is given, and the model continues text.
    """
    turns = talk(session, lines, write, Manner("base" if compare else None, system=system, sampling=sampling))
    return sum(turn.role == "user" for turn in turns)


def talk(session: Session, lines: Iterable[str], write: Callable[[str], Any], manner: Manner) -> list[Turn]:
    """As `chat`; returns everything that was said."""
    if manner.system and session.continues_text:
        raise RunError(Problem("chat.no_system", where=session.label, value=manner.system))
    made = _Talk(session, write, manner)
    words = {"label": made.called(True), "quit": QUIT, "reset": RESET}
    write(say("chat.greeting_text" if session.continues_text else "chat.greeting", **words) + "\n")
    if manner.greeting:
        write(manner.greeting + "\n")
    with session.remembering():
        made.hear_all(_until_interrupted(lines, write))
    return made.turns


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


class _Talk:
    """A conversation under way. histories: side -> what was said; the side True is what is talked to, False what it is
    compared with."""

    def __init__(self, session: Session, write: Callable[[str], Any], manner: Manner) -> None:
        self.session, self.write = session, write
        self.compare, self.voice = manner.compare, manner.voice
        self.speed, self.width = manner.speed, manner.width
        self.system, self.sampling = manner.system, manner.sampling or Sampling()
        self.turns: list[Turn] = []
        self.restart()

    def restart(self) -> None:
        start: History = (Message("system", self.system),) if self.system else ()
        self.histories = {True: start, False: start}

    def hear_all(self, lines: Iterable[str]) -> None:
        stopped_s = -math.inf
        for line in lines:
            try:
                if not self.hear(line):
                    break
            except KeyboardInterrupt:
                if time.monotonic() - stopped_s < AGAIN_S:
                    break
                stopped_s = time.monotonic()
                self.write(f"\n{say('chat.stopped')}\n")

    def hear(self, line: str) -> bool:
        """Do what a line says; False ends the chat."""
        # Spaces of a text that is continued are part of it.
        question = line.rstrip("\r\n") if self.session.continues_text else line.strip()
        command = COMMAND.fullmatch(question.strip())
        if question.strip() == QUIT:
            return False
        if command and (question.strip() == RESET or not self.session.continues_text):
            self.obey(command[1], (command[2] or "").strip())
        elif question.strip():
            self.put(question)
        return True

    def put(self, question: str) -> None:
        self.turns.append(Turn("user", question))
        for side in SIDES:
            self.histories[side] = (*self.histories[side], Message("user", question))
        self.answer_all()

    def answer_all(self) -> None:
        """Answer the last question, on both sides where they are compared."""
        if self.compare and columns.fits(self.width):
            self.answer_beside()
            return
        for side in SIDES if self.compare else SIDES[:1]:
            if self.compare:
                self.write(f"[{self.called(side)}] ")
            self.answer(side)

    def answer_beside(self) -> None:
        """Both answers at once, each in its column. What a stopped answer has said is kept."""
        shown = columns.Columns(self.width, self.write, (self.called(True), self.called(False)))
        said: dict[bool, list[str]] = {side: [] for side in SIDES}

        def teller(side: bool) -> Callable[[str], None]:
            def tell(text: str) -> None:
                said[side].append(text)
                shown.push(SIDES.index(side), text)

            return tell

        asks = []
        for side in SIDES:
            put, (tuned, voice) = self.question_of(side), self.speaker_of(side)
            ids = self.session.prompt(put)
            asks.append(Ask(ids, self.sampling, *self.session.speaker(tuned, voice), teller(side)))
        begun, replies = time.perf_counter(), list[Reply]()
        try:
            replies = self.session.write(asks)
        finally:
            seconds = time.perf_counter() - begun
            for at, side in enumerate(SIDES):
                shown.close(at)
                tokens = replies[at].tokens if replies else None
                self.keep(side, "".join(said[side]), tokens, seconds)
        self.tell_speed(sum(each.tokens for each in replies), seconds)

    def called(self, side: bool) -> str:
        if side:
            return self.voice or self.session.label
        return self.session.base_label if self.compare == "base" else str(self.compare)

    def answer(self, side: bool) -> None:
        """Stream the answer to a side's history and add it there; of a stopped answer, what was said."""
        said: list[str] = []

        def tell(text: str) -> None:
            said.append(text)
            self.write(text)

        put, (tuned, voice) = self.question_of(side), self.speaker_of(side)
        begun, tokens = time.perf_counter(), None
        try:
            tokens = self.session.reply(put, self.sampling, tuned=tuned, voice=voice, on_text=tell).tokens
        finally:
            seconds = time.perf_counter() - begun
            self.keep(side, "".join(said), tokens, seconds)
        self.write("\n")
        self.tell_speed(tokens, seconds)

    def question_of(self, side: bool) -> str | History:
        history = self.histories[side]
        return history[-1].content if self.session.continues_text else history

    def speaker_of(self, side: bool) -> tuple[bool, str | None]:
        """(tuned, voice), for the session."""
        if side:
            return True, self.voice
        return (False, None) if self.compare == "base" else (True, self.compare)

    def keep(self, side: bool, text: str, tokens: int | None, seconds: float) -> None:
        self.histories[side] = (*self.histories[side], Message("assistant", text))
        self.turns.append(Turn("assistant", text, self.called(side), tokens, seconds))

    def tell_speed(self, tokens: int, seconds: float) -> None:
        if self.speed:
            told = say("chat.speed", tokens=tokens, speed=tokens / max(seconds, 1e-9))
            self.write(f"{DIM}{told}{PLAIN}\n")

    # ------------------------------------------------------------------------------------------------ commands

    def obey(self, command: str, rest: str) -> None:
        if command not in COMMANDS:
            self.help("")
            return
        try:
            COMMANDS[command](self, rest)
        except UserError as error:
            self.write("".join(f"{problem}\n" for problem in error.problems))

    def new(self, _: str) -> None:
        self.restart()
        self.write(say("chat.new") + "\n")

    def help(self, _: str) -> None:
        self.write(say("chat.commands", quit=QUIT, reset=RESET) + "\n")

    def retry(self, _: str) -> None:
        """The last question once more, with another seed."""
        if not any(message.role == "user" for message in self.histories[True]):
            raise RunError(Problem("chat.nothing_to_retry"))
        self.sampling = dataclasses.replace(self.sampling, seed=self.sampling.seed + 1)
        for side in SIDES:
            history = self.histories[side]
            if history and history[-1].role == "assistant":
                self.histories[side] = history[:-1]
        self.answer_all()

    def save(self, file: str) -> None:
        """The conversation as one more row of training data."""
        messages = [{"role": each.role, "content": each.content} for each in self.histories[True]]
        if not file or not any(each["role"] == "assistant" for each in messages):
            raise RunError(Problem("chat.nothing_to_save" if file else "chat.file_wanted"))
        try:
            with Path(file).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            values = {"reason": error.strerror or str(error)}
            raise RunError(Problem("chat.not_saved", file, values=values)) from error
        self.write(say("chat.saved", file=file, count=len(messages)) + "\n")

    def set_system(self, text: str) -> None:
        self.system = text or None
        self.new("")

    def set_adapter(self, rest: str) -> None:
        name, _, dial = rest.rpartition(" ")
        strength = _strength(dial) if name.strip() else None
        if strength is None:
            name = rest
        name = name.strip()
        if name not in self.session.voices:
            there = ", ".join(self.session.voices)
            raise RunError(Problem("chat.no_voice", value=name, values={"there": there}))
        self.voice = name if strength is None else self.session.mix({name: strength})
        self.write(say("chat.now", label=self.voice) + "\n")

    def set_base(self, _: str) -> None:
        """From here on the base answers, where the decoder is one."""
        base = next((name for name, adapter in self.session.voices.items() if adapter is None), None)
        if base is None or (self.session.adapter is None and self.session.base is not self.session.decoder):
            raise RunError(Problem("chat.no_base", where=self.session.label))
        self.set_adapter(base)

    def set_compare(self, name: str) -> None:
        """Compare with the base or another voice; once more, not any longer."""
        if self.compare and name in ("", self.compare):
            self.compare = None
        else:
            self.compare = comparable(self.session, name or "base")
            self.histories[False] = self.histories[True]
        label = self.called(False) if self.compare else ""
        self.write(say("chat.comparing" if self.compare else "chat.alone", label=label) + "\n")

    def set_sampling(self, rest: str) -> None:
        """Change a setting; without one, show them all."""
        if not rest:
            self.write("  ".join(f"{name}={_setting(getattr(self.sampling, name))}" for name in SETTINGS) + "\n")
            return
        name, _, text = (part.strip() for part in rest.partition("="))
        try:
            value = SETTINGS[name](text)
            self.sampling = dataclasses.replace(self.sampling, **{name: value})
        except (KeyError, ValueError) as error:
            raise RunError(Problem("chat.bad_setting", value=rest)) from error
        self.write(say("chat.set", name=name, value=_setting(value)) + "\n")


def _stops(text: str) -> tuple[str, ...]:
    """Texts with commas between them, or a JSON list, which can hold line breaks and commas.

    Raises:
        ValueError: it begins as a list and is none of texts.
    """
    if not text.startswith("["):
        return tuple(part for each in text.split(",") if (part := each.strip()))
    given = json.loads(text)
    if not all(isinstance(each, str) and each for each in given):
        raise ValueError(text)
    return tuple(given)


def _setting(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else str(value)


SETTINGS: dict[str, Callable[[str], Any]] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "stop": _stops,
    "seed": int,
}
"""What `/set` changes -> how it is read."""
COMMANDS: dict[str, Callable[[_Talk, str], None]] = {
    RESET: _Talk.new,
    "/help": _Talk.help,
    "/retry": _Talk.retry,
    "/save": _Talk.save,
    "/system": _Talk.set_system,
    "/adapter": _Talk.set_adapter,
    "/base": _Talk.set_base,
    "/compare": _Talk.set_compare,
    "/set": _Talk.set_sampling,
}


def comparable(session: Session, name: str) -> str:
    """The name of what answers are compared with.

    Raises:
        RunError: this session does not hold it.
    """
    session.speaker(*((False, None) if name == "base" else (True, name)))
    return name


def _strength(text: str) -> float | None:
    """A number is a strength; a word belongs to a name."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not 0 <= value <= STRONGEST:
        raise RunError(Problem("chat.bad_strength", value=text, values={"most": STRONGEST}))
    return value
