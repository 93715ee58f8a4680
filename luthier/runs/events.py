"""The event log of a run: one JSON object per line, only ever appended to.

What goes in: a kind and its data, from the one process that owns the run. What comes out: numbered events that any
number of readers can follow; a line torn by a crash is ignored by readers and cut off by the next writer. What an
earlier attempt did after the checkpoint that a later one resumed from is superseded (`effective`).
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic_core import from_json

from luthier.runs.files import FORMAT, plain, redact, user_errors

KINDS: dict[str, tuple[bool, str]] = {
    # kind: (forced to the disk at once, what its data holds)
    "started": (True, "num_steps, steps_per_epoch; begins the first attempt"),
    "resumed": (True, "from_step, reason, num_steps, steps_per_epoch; begins a further attempt"),
    "rehearsal": (
        True,
        "kernel_kills {boot, machine, group, in_group}: so often had the kernel killed for want of memory; the longest "
        "micro-batch, an evaluation and a save are now tried",
    ),
    "data": (
        False,
        "sources [path, sequences, seen], read, kept, excluded {reason: rows}, train, validation, truncated, tokens, "
        "loss_tokens",
    ),
    "model": (False, "structure (text), trainable, total"),
    "plan": (False, "what plan.json holds"),
    "step": (
        False,
        "loss, lr, grad_norm, epoch, num_steps, tokens, tokens_per_s, computed_tokens, memory_bytes; measures {name: "
        "mean over the step's examples} where the method has some",
    ),
    "validation": (
        False,
        "loss, terms {name: loss}; measures {name: {mean, count, low, high: 95 % interval}} where the method has some; "
        "or reward, low, high, gain... of its own answers",
    ),
    "samples": (
        False,
        "samples [{prompt, reference, answer}]: what the model answers to the first held-out examples, as texts, each "
        "shortened to 2000 characters; reference is null where there is none",
    ),
    "reference": (True, "sequences, source (run, cache, computed): what the reference thinks of every answer is known"),
    "rewards": (
        False,
        "rows, real, fakes {name: reward}, failures {reason: times}: what reference answers and fakes are worth",
    ),
    "agreement": (
        False,
        "tokens, difference, spread, bound: of the sampler's and the trainer's log-probabilities of the same tokens",
    ),
    "rollout": (
        False,
        "round, update, reward, reward_deviation, answers, groups, dead, resampled, failed, failures {reason: times}, "
        "answer_tokens, longest, cut, entropy, kl, difference (of the sampler's and the trainer's log-probabilities), "
        "seconds {generate, reward, score, update}; of ppo value_error, explained, kl_answer, kl_weight",
    ),
    "alarm": (True, "alarm, text: something that goes wrong with training on judged answers, and what to try"),
    "checkpoint": (False, "folder; the folder itself is complete only once it has its final name"),
    "best": (True, "loss"),
    "fault": (True, "what, rows, in_a_row: an update that was not applied"),
    "revised": (
        True,
        "changes [[field, old, new]], reason: recipe, data or plan changed on an unfinished run; from_step, error: "
        "where memory ran out, and how that was told",
    ),
    "note": (False, "text: anything a reader of the receipt should know"),
    "interrupted": (True, "signal; a full checkpoint was written before"),
    "failed": (True, "problem: why training had to stop by itself"),
    "died": (
        True,
        "code, signal: how the process ended, where that is known; said [its last lines]; written by the queue, as the "
        "process could not",
    ),
    "finished": (True, "steps, tokens, computed_tokens, seconds, peak_memory_bytes, outputs [folders]"),
}
FIRST_OF_ATTEMPT = ("started", "resumed")
ENDS = ("interrupted", "failed", "finished")
"""Said by the run itself."""
TOLD_ENDS = (*ENDS, "died")
AT_ONCE = 200
"""Lines that are parsed in one go: several times as fast as one by one, and twice as fast as 2000, which no longer stay
in a processor's cache."""
_FIELDS = ("format", "run", "seq", "attempt", "time_s", "step", "kind", "data")


@dataclass(frozen=True)
class Event:
    """One line of the log.

    Attributes:
        run: name of the run.
        seq: 1, 2, 3... without gaps over all attempts; also the id of a server-sent event.
        attempt: 1 for the first process that trained, one more for each that resumed.
        time_s: seconds since 1970, of the machine's clock.
        step: optimizer steps done when it happened; None where that says nothing.
        kind: a key of KINDS.
        data: see KINDS; numbers that are not finite are null.
    """

    run: str
    seq: int
    attempt: int
    time_s: float
    step: int | None
    kind: str
    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class Stretch:
    """Steps of one attempt that follow each other in the log, as columns: read in a third of the time that an object
    for each takes.

    Attributes:
        seq, time_s, step, data: of each event, as `Event` has them; at least one.
    """

    attempt: int
    seq: Sequence[int]
    time_s: Sequence[float]
    step: Sequence[int]
    data: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.seq)


class EventLog:
    """The writing end; one per run, held by the owner of the run's lock.

    Opening it cuts off a torn last line. Each event is one `write` of one line to a file opened for appending.

    Raises (all methods):
        RunError: the disk is full or refuses; what was written of the line is taken back.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        with user_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._size = _whole_bytes(path)
            os.ftruncate(self._file, self._size)
        last = read(path)[-1:]
        self.seq = last[0].seq if last else 0
        self.attempt = last[0].attempt if last else 0

    def emit(self, kind: str, data: Mapping[str, Any] | None = None, step: int | None = None) -> Event:
        """Append one event. `started` and `resumed` begin a new attempt, so they come first in it."""
        assert kind in KINDS, kind
        attempt = self.attempt + 1 if kind in FIRST_OF_ATTEMPT else self.attempt
        event = Event(self.run, self.seq + 1, attempt, round(time.time(), 3), step, kind, plain(data or {}))
        line = redact(json.dumps(event.to_json(), ensure_ascii=False)).encode() + b"\n"
        with user_errors(self.path, len(line)):
            try:
                _write_whole(self._file, line)
                if KINDS[kind][0]:
                    os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
        self._size += len(line)
        self.seq, self.attempt = event.seq, attempt
        return event

    def close(self) -> None:
        os.close(self._file)


def _write_whole(file: int, line: bytes) -> None:
    """One write where the system takes the line at once, as it does unless the disk is all but full."""
    while line:
        line = line[os.write(file, line) :]


def _whole_bytes(path: Path) -> int:
    """Length of the file up to its last line end."""
    return path.read_bytes().rfind(b"\n") + 1


# ---------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> list[Event]:
    """All whole events in order; an absent file has none. Lines that cannot be read are left out (see `damage`)."""
    return [event for event in parsed(_lines(path)) if event is not None]


def damage(path: Path) -> list[int]:
    """Numbers (from 1) of the finished lines that are no events, and of those whose `seq` is not the next one."""
    bad, expected = [], 1
    for number, event in enumerate(parsed(_lines(path)), start=1):
        if event is None or event.seq != expected:
            bad.append(number)
        expected = event.seq + 1 if event else expected + 1
    return bad


def skim(path: Path) -> Iterator[Event | Stretch]:
    """What `read` gives, with steps in stretches."""
    return filter(None, skimmed(_lines(path)))


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return content.split(b"\n")[:-1]  # what follows the last line end is torn, or nothing


def parsed(lines: Sequence[bytes]) -> Iterator[Event | None]:
    """The event of each line; None where it is none, or of a newer format."""
    for values in _values(lines):
        yield from map(_event, values)


def skimmed(lines: Sequence[bytes]) -> Iterator[Event | Stretch | None]:
    """What `parsed` gives, with steps in stretches, each of AT_ONCE lines at most."""
    for values in _values(lines):
        try:
            columns = tuple(zip(*map(itemgetter(*_FIELDS), values), strict=True))
            sound = {*map(len, values)} == {len(_FIELDS)} and _sound(*columns)
        except (TypeError, KeyError):
            sound = False
        # Where not all are events, each is judged by itself.
        yield from _in_stretches(*columns) if sound else map(_event, values)


def _sound(form: Any, _run: Any, seq: Any, attempt: Any, time_s: Any, step: Any, kind: Any, data: Any) -> bool:
    """Whether all rows of these columns are events, by the looks of their types."""
    wanted = ((seq, {int}), (attempt, {int}), (time_s, {int, float}), (step, {int, NoneType}), (kind, {str}))
    return {*form} == {FORMAT} and all({*map(type, column)} <= types for column, types in (*wanted, (data, {dict})))


def _in_stretches(
    _form: Any, run: Any, seq: Any, attempt: Any, time_s: Any, step: Any, kind: Any, data: Any
) -> Iterator[Event | Stretch]:
    told = [of if what == "step" and at is not None else None for what, at, of in zip(kind, step, attempt, strict=True)]
    end = 0
    for of, group in itertools.groupby(told):
        start, end = end, end + len(list(group))
        if of is None:
            for row in range(start, end):
                yield Event(run[row], seq[row], attempt[row], time_s[row], step[row], kind[row], data[row])
        else:
            yield Stretch(of, seq[start:end], time_s[start:end], step[start:end], data[start:end])


def gathered(told: Iterable[Event | Stretch]) -> Iterator[Event | Stretch]:
    """The same, with steps that come one by one in stretches; one that has no number stays as it is."""

    def attempt(each: Event | Stretch) -> int | None:
        return each.attempt if isinstance(each, Event) and each.kind == "step" and each.step is not None else None

    for of, group in itertools.groupby(told, attempt):
        if of is None:
            yield from group
            continue
        while some := list(itertools.islice(group, AT_ONCE)):
            yield Stretch(of, *([getattr(each, name) for each in some] for name in ("seq", "time_s", "step", "data")))


def _values(lines: Sequence[bytes]) -> Iterator[list[Any]]:
    """What lines say, AT_ONCE in one go; None for one that says nothing."""
    for start in range(0, len(lines), AT_ONCE):
        some = lines[start : start + AT_ONCE]
        try:
            values = from_json(b"[%b]" % b",".join(some))
        except ValueError:
            values = []
        # A damaged line may be a part of another one's array: then each is judged by itself.
        yield values if len(values) == len(some) else [*map(_value, some)]


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _event(value: Any) -> Event | None:
    try:
        if value.pop("format") > FORMAT:
            return None
        event = Event(**value)
    except (TypeError, KeyError, AttributeError):
        return None
    numbered = isinstance(event.seq, int) and isinstance(event.attempt, int) and isinstance(event.step, (int, NoneType))
    whole = numbered and isinstance(event.time_s, (int, float)) and isinstance(event.data, dict)
    return event if whole and isinstance(event.kind, str) else None


def effective(events: Iterable[Event]) -> list[Event]:
    """The events that led to the run as it is now.

    An attempt that resumes from step s takes the place of whatever older attempts did after step s; one that resumes
    from step 0 starts without a checkpoint and takes the place of all their steps.
    """
    kept: list[Event] = []
    for event in events:
        if event.kind in FIRST_OF_ATTEMPT:
            start = int(event.data.get("from_step", 0))
            kept = [old for old in kept if old.step is None or (start > 0 and old.step <= start)]
        kept.append(event)
    return kept


def follow(path: Path, after: int = 0, ended: Callable[[], bool] | None = None, poll_s: float = 0.3) -> Iterator[Event]:
    """Events with `seq` greater than `after`, then new ones as they come.

    Args:
        ended: asked whenever nothing new is there; the generator stops once it says True and all was read. None goes
            on for ever.
        poll_s: pause between looks; 0.3 s is quick to the eye and costs nothing measurable.
    """
    position = 0
    while True:
        last_look = ended() if ended is not None else False  # asked before reading: nothing written since is missed
        lines, position = _new_lines(path, position)
        for event in parsed(lines):
            if event is not None and event.seq > after:
                yield event
        if last_look:
            return
        time.sleep(poll_s)


def _new_lines(path: Path, position: int) -> tuple[list[bytes], int]:
    try:
        with open(path, "rb") as file:
            file.seek(position)
            content = file.read()
    except FileNotFoundError:
        return [], position
    whole = content.rfind(b"\n") + 1
    return content[:whole].split(b"\n")[:-1], position + whole
