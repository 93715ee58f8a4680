"""Answers to a whole file, in another file.

What goes in: an open session and a file of prompts: conversations, prompts or plain text, in any layout that training
reads. What comes out: JSON lines in its order, each with the prompt, the answers, why they ended and how long they are.
A row that has its line is not answered again, so that the same command goes on after it was stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from luthier.data import detection, readers
from luthier.data.formats import FORMATS, Chat, Completion, RowFault, Text
from luthier.data.readers import Fault
from luthier.errors import DataError, Problem, RunError
from luthier.generate import Sampling
from luthier.session import Conversation, Reply, Session

BATCH = 16
"""Rows that are answered together, and lost together when the command is killed. Chosen, not tuned."""


@dataclasses.dataclass(frozen=True)
class Answered:
    """made, kept: rows that were answered now, and before; bad: rows that could not be, with their places."""

    made: int
    kept: int
    bad: tuple[Problem, ...]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A row to answer. number: in the file."""

    number: int
    prompt: Conversation


def answer_file(
    session: Session,
    source: Path,
    target: Path,
    sampling: Sampling | None = None,
    *,
    n: int = 1,
    voice: str | None = None,
    compare: bool = False,
    on_row: Callable[[int], None] | None = None,
) -> Answered:
    """Answer every row of `source` into `target`, going on where it stops.

    Args:
        n: answers to each row; those after the first need a temperature above 0 to differ.
        compare: add the base's answer.
        on_row: called with the number of rows answered so far.

    Raises:
        RunError: `target` cannot be written, or was made from other rows or with other settings.
    """
    sampling = sampling or Sampling()
    settings = {"sampling": dataclasses.asdict(sampling), "n": n, "voice": voice or session.label, "compare": compare}
    before = _before(target, settings)
    bad: list[Problem] = []
    todo: list[Asked] = []
    made = kept = 0
    try:
        with target.open("a", encoding="utf-8") as out:
            for each in (*asked(source), None):
                if isinstance(each, Problem):
                    bad.append(each)
                elif each is not None and each.number in before:
                    _same_row(each, before[each.number], target)
                    kept += 1
                elif each is not None:
                    todo.append(each)
                if todo and (each is None or len(todo) == BATCH):
                    for row in _answer(session, todo, sampling, n, voice, compare, bad):
                        out.write(json.dumps({**row, "settings": settings}, ensure_ascii=False) + "\n")
                        made += 1
                    out.flush()
                    todo = []
                    if on_row is not None:
                        on_row(made + kept)
    except OSError as error:
        raise RunError(Problem("chat.not_saved", str(target), values={"reason": error.strerror or ""})) from error
    return Answered(made, kept, tuple(bad))


def asked(source: Path) -> Iterator[Asked | Problem]:
    """What each row asks; an answer at the end of a row is left off. Rows without answers need not be in a format."""
    for each in readers.read(source):
        if isinstance(each, Fault):
            yield each.problem
            continue
        try:
            yield Asked(each.number, question(each.value))
        except RowFault as fault:
            yield fault.problem(each.where)


def question(row: Any) -> Conversation:
    """The question of a row.

    Raises:
        RowFault: there is none.
    """
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        return str(row["prompt"])
    if isinstance(row, dict) and set(row) == {"text"}:
        return str(row["text"])
    if isinstance(row, dict) and isinstance(row.get("instruction"), str) and "output" not in row:
        return "\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    turns_alone = isinstance(row, list) or (isinstance(row, dict) and isinstance(row.get("messages"), list))
    form = "messages" if turns_alone else detection.detect([row])[0]
    made = FORMATS[form].parse(row)
    match made:
        case Chat():
            turns = made.messages
            return Chat(turns[:-1] if turns and turns[-1].role == "assistant" else turns, made.tools)
        case Completion():
            return made.prompt
        case Text():
            return made.text
    raise RowFault("chat.no_question")


def _answer(
    session: Session,
    rows: list[Asked],
    sampling: Sampling,
    n: int,
    voice: str | None,
    compare: bool,
    bad: list[Problem],
) -> Iterator[dict[str, Any]]:
    good = []
    for each in rows:
        try:
            session.prompt(each.prompt)
            good.append(each)
        except DataError as error:
            bad += [dataclasses.replace(problem, where=f"row {each.number}") for problem in error.problems]
    prompts = [each.prompt for each in good]
    # One row at a time where chance comes in: its stream must not depend on the batch.
    answers = [
        _replies(session, prompts, dataclasses.replace(sampling, seed=sampling.seed + k), True, voice) for k in range(n)
    ]
    base = _replies(session, prompts, sampling, False, None) if compare else []
    for at, each in enumerate(good):
        row = {"row": each.number, "prompt": _plain(each.prompt)}
        row["answers"] = [dataclasses.asdict(several[at]) for several in answers]
        if compare:
            row["base"] = dataclasses.asdict(base[at])
        yield row


def _replies(
    session: Session, prompts: list[Conversation], sampling: Sampling, tuned: bool, voice: str | None
) -> list[Reply]:
    if sampling.temperature:
        return [session.reply(each, sampling, tuned=tuned, voice=voice) for each in prompts]
    return session.replies(prompts, sampling, tuned=tuned, voice=voice)


def _plain(prompt: Conversation) -> Any:
    if isinstance(prompt, Chat):
        return [{"role": each.role, "content": each.content} for each in prompt.messages]
    return prompt


def _before(target: Path, settings: dict[str, Any]) -> dict[int, Any]:
    """Row -> its prompt, of the lines that are there; a line that was cut in the middle is taken off.

    Raises:
        RunError: it is another file, or was made with other settings.
    """
    if not target.exists():
        return {}
    try:
        content = target.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        if any(line["settings"] != settings for line in lines):
            raise RunError(Problem("chat.other_settings", str(target)))
        if len(whole) < len(content):
            with target.open("r+b") as stream:
                stream.truncate(len(whole))
        return {line["row"]: line["prompt"] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(Problem("chat.no_answers_file", str(target))) from error
    except OSError as error:
        raise RunError(Problem("chat.not_saved", str(target), values={"reason": error.strerror or ""})) from error


def _same_row(each: Asked, prompt: Any, target: Path) -> None:
    if _plain(each.prompt) != prompt:
        raise RunError(Problem("chat.other_rows", str(target), values={"row": each.number}))
