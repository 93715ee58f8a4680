"""Answers to a whole file, in another file.

What goes in: an open session and a file of prompts: conversations, prompts or plain text, in any layout that training
reads. What comes out: JSON lines in its order, each with the prompt, the answers, why they ended and how long they are.
A row that has its line is not answered again, so that the same command goes on after it was stopped. No answer depends
on which others are written beside it, except where the rounding of products of other sizes tips a choice. With a judge,
each answer has its reward, and the best one of a row comes first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.data import detection, readers
from luthier.data.formats import FORMATS, Chat, Completion, RowFault, Text
from luthier.data.readers import Fault
from luthier.disk import write_json
from luthier.errors import DataError, Problem, RunError
from luthier.generate import MAX_SEQUENCES
from luthier.models.reward import Judge
from luthier.sampling import Sampling
from luthier.session import Conversation, Session, chat_of
from luthier.writing import Ask, Writer, Writing

BASE = "base"
"""What the base is called among those that answer."""
AHEAD = 4
"""Rows that are read and queued for each answer that is written at once: none of those waits for a file, and what is
held does not grow with it. Chosen, not tuned."""


@dataclasses.dataclass(frozen=True)
class Answered:
    """made, kept: rows that were answered now, and before; bad: rows that could not be, with their places."""

    made: int
    kept: int
    bad: tuple[Problem, ...]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A row to answer. number: in the file; where: its place, for messages."""

    number: int
    where: str
    prompt: Conversation


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row whose answers are being written, each with its voice and seed."""

    asked: Asked
    writings: tuple[tuple[str, int, Writing], ...]

    @property
    def done(self) -> bool:
        return all(writing.request.finish is not None for _, _, writing in self.writings)

    def to_json(self, judge: Judge | None) -> dict[str, Any]:
        """Raises DataError where the judge's template refuses the conversation."""
        answers = [
            {"voice": voice, **dataclasses.asdict(writing.close()), "seed": seed}
            for voice, seed, writing in self.writings
        ]
        if judge is not None:
            chat = chat_of(self.asked.prompt)
            rewards = judge.score([(chat, each["text"]) for each in answers])
            answers = [{**each, "reward": reward} for each, reward in zip(answers, rewards, strict=True)]
            answers.sort(key=lambda each: -each["reward"])
        return {"row": self.asked.number, "prompt": _plain(self.asked.prompt), "answers": answers}


def answer_file(
    session: Session,
    source: Path,
    target: Path,
    sampling: Sampling | None = None,
    *,
    n: int = 1,
    voices: Sequence[str] = (),
    judge: Judge | None = None,
    on_row: Callable[[int], None] | None = None,
) -> Answered:
    """Answer every row of `source` into `target`, going on where it stops. Beside it, a file tells how the answers were
    made.

    Args:
        sampling: every answer has a seed of its own, made of this one's, the row and which of the `n` it is.
        n: answers of each voice to each row; they differ where the temperature is above 0.
        voices: who answers, of the session's voices, or `base`; empty for what the session was opened with.
        judge: gives every answer its reward.
        on_row: called with the number of rows answered so far.

    Raises:
        RunError: `target` cannot be written, or was made from other rows, by other weights or with other settings.
    """
    sampling = sampling or Sampling()
    voices = list(dict.fromkeys(voices)) or [session.label]
    speakers = {voice: (voice != BASE, voice if voice != BASE else None) for voice in voices}
    how = {
        "sampling": dataclasses.asdict(sampling),
        "n": n,
        "voices": {voice: session.fingerprint(*who) for voice, who in speakers.items()},
        "judge": None if judge is None else judge.fingerprint(),
    }
    bad: list[Problem] = []
    made = kept = 0
    try:
        before = _before(target, json.loads(json.dumps(how)))
        with target.open("a", encoding="utf-8") as out:
            for each in _rows(session, source, target, before, _Manner(sampling, n, speakers), bad):
                if each is None:
                    kept += 1
                elif (line := _line(each, judge, bad)) is not None:
                    out.write(line + "\n")
                    out.flush()
                    made += 1
                if on_row is not None:
                    on_row(made + kept)
    except OSError as error:
        raise RunError(Problem("chat.not_saved", str(target), values={"reason": error.strerror or ""})) from error
    return Answered(made, kept, tuple(bad))


class _Manner(NamedTuple):
    """How rows are answered. speakers: voice -> (tuned, voice) of the session."""

    sampling: Sampling
    n: int
    speakers: dict[str, tuple[bool, str | None]]


def _rows(
    session: Session, source: Path, target: Path, before: dict[int, Any], manner: _Manner, bad: list[Problem]
) -> Iterator[_Row | None]:
    """The rows in their order, each once it is answered; None for one that was before."""
    writer = Writer(session.renderer)
    queued: deque[_Row] = deque()
    for each in asked(source):
        if isinstance(each, Problem):
            bad.append(each)
        elif each.number in before:
            if _plain(each.prompt) != before[each.number]:
                raise RunError(Problem("chat.other_rows", str(target), values={"row": each.number}))
            yield None
        elif row := _begin(session, writer, each, manner, bad):
            queued.append(row)
        while len(queued) > MAX_SEQUENCES * AHEAD:
            writer.step()
            yield from _ended(queued)
    while writer.step():
        yield from _ended(queued)
    yield from _ended(queued)


def _line(row: _Row, judge: Judge | None, bad: list[Problem]) -> str | None:
    """A row as it is written; None, and a problem more, where it cannot be judged."""
    try:
        return json.dumps(row.to_json(judge), ensure_ascii=False)
    except DataError as error:
        bad += [dataclasses.replace(problem, where=row.asked.where) for problem in error.problems]
    return None


def _ended(queued: deque[_Row]) -> Iterator[_Row]:
    while queued and queued[0].done:
        yield queued.popleft()


def _begin(session: Session, writer: Writer, each: Asked, manner: _Manner, bad: list[Problem]) -> _Row | None:
    """Put a row's answers to the writer; None, and a problem more, where it cannot be answered."""
    try:
        prompt = session.prompt(each.prompt)
        writings = []
        for voice, who in manner.speakers.items():
            decoder, adapter = session.speaker(*who)
            for index in range(manner.n):
                seed = seed_of(manner.sampling.seed, each.number, index)
                way = dataclasses.replace(manner.sampling, seed=seed)
                writings.append((voice, seed, writer.add(Ask(prompt, way, decoder, adapter))))
        return _Row(each, tuple(writings))
    except DataError as error:
        bad += [dataclasses.replace(problem, where=each.where) for problem in error.problems]
    except ValueError:
        bad.append(Problem("chat.no_room", each.where))
    return None


def seed_of(seed: int, row: int, index: int) -> int:
    """The seed of one answer: the same whatever else is answered, another for every row and every answer to it."""
    digest = hashlib.sha256(f"{seed} {row} {index}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def asked(source: Path) -> Iterator[Asked | Problem]:
    """What each row asks; an answer at the end of a row is left off. Rows without answers need not be in a format."""
    for each in readers.read(source):
        if isinstance(each, Fault):
            yield each.problem
            continue
        try:
            yield Asked(each.number, each.where, question(each.value))
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


def _plain(prompt: Conversation) -> Any:
    if isinstance(prompt, Chat):
        return [{"role": each.role, "content": each.content} for each in prompt.messages]
    return prompt


def how_file(target: Path) -> Path:
    """Where it stands how the answers in a file were made."""
    return target.with_name(target.name + ".how.json")


def _before(target: Path, how: dict[str, Any]) -> dict[int, Any]:
    """Row -> its prompt, of the lines that are there; a line that was cut in the middle is taken off.

    Raises:
        RunError: it is another file, or was made in another way. OSError: it cannot be read or written.
    """
    if not target.exists() or not target.stat().st_size:
        write_json(how_file(target), how)
        return {}
    try:
        then = {"judge": None, **json.loads(how_file(target).read_bytes())}
        different = [name for name in how if then[name] != how[name]]
        content = target.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        found = {line["row"]: line["prompt"] for line in map(json.loads, whole.splitlines())}
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise RunError(Problem("chat.no_answers_file", str(target))) from error
    if different:
        values = {"different": ", ".join(_differences(then, how, different))}
        raise RunError(Problem("chat.other_settings", str(target), values=values))
    if len(whole) < len(content):
        with target.open("r+b") as stream:
            stream.truncate(len(whole))
    return found


def _differences(then: dict[str, Any], how: dict[str, Any], different: list[str]) -> Iterator[str]:
    """What was made in another way: a setting with both values, or a voice whose weights are others."""
    for name in different:
        if not isinstance(how[name], dict):
            yield f"{name} {then[name]} -> {how[name]}"
            continue
        for key in {**then[name], **how[name]}:
            old, new = then[name].get(key), how[name].get(key)
            if old != new:
                yield key if name == "voices" else f"{key} {old} -> {new}"
