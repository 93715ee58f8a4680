"""The event log: appended whole lines, torn ends, attempts that take each other's place, and what it sums up to."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from luthier.errors import RunError
from luthier.runs import events
from luthier.runs.events import Event, EventLog, Stretch
from luthier.runs.history import History, Summary, summarise


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def step(number: int, **data: Any) -> tuple[str, dict[str, Any], int]:
    return "step", {"loss": 1.0, "tokens": 100, "tokens_per_s": 50.0, "num_steps": 8, **data}, number


def write(path: Path, *given: tuple[Any, ...]) -> list[Event]:
    log = EventLog(path, "x")
    try:
        return [log.emit(*each) for each in given]
    finally:
        log.close()


def summary(path: Path) -> Summary:
    return summarise(events.read(path))


# ---------------------------------------------------------------------------------------------------- lines


def test_a_line_holds_the_fields_of_the_format(path: Path) -> None:
    (event,) = write(path, ("step", {"loss": 0.5, "text": "两\u2028行\n"}, 3))
    (line,) = path.read_bytes().split(b"\n")[:-1]
    value = json.loads(line)
    assert abs(value.pop("time_s") - time.time()) < 60
    data = {"loss": 0.5, "text": "两\u2028行\n"}
    assert value == {"format": 1, "run": "x", "seq": 1, "attempt": 0, "step": 3, "kind": "step", "data": data}
    assert events.read(path) == [event]


def test_each_event_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, written, real = EventLog(path, "x"), [], os.write
    monkeypatch.setattr(os, "write", lambda file, data: written.append(bytes(data)) or real(file, data))
    for number in range(3):
        log.emit(*step(number))
    assert len(written) == 3 and all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in written)


def test_important_kinds_are_forced_to_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, forced = EventLog(path, "x"), []
    monkeypatch.setattr(os, "fsync", lambda _: forced.append(log.seq + 1))
    for kind in ("step", "validation", "finished", "interrupted", "failed", "note", "fault"):
        log.emit(kind)
    assert forced == [3, 4, 5, 7]


def test_numbers_that_are_not_finite_are_null(path: Path) -> None:
    write(path, step(1, loss=float("nan"), grad_norm=float("inf")))
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert summary(path).loss is None


def test_unknown_kinds_are_our_mistake(path: Path) -> None:
    with pytest.raises(AssertionError):
        write(path, ("happened", {}))


# ---------------------------------------------------------------------------------------------------- torn lines


def test_any_cut_leaves_whole_events_and_the_next_writer_goes_on(path: Path) -> None:
    written = write(path, ("started", {"num_steps": 3}), step(1), step(2))
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        survived = whole[:cut].count(b"\n")
        assert events.read(path) == written[:survived]
        (new,) = write(path, step(3))
        assert new.seq == survived + 1
        assert events.read(path) == [*written[:survived], new]
        assert events.damage(path) == []


def test_torn_line_of_a_full_disk_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, real = EventLog(path, "x"), os.write
    log.emit(*step(1))

    def full(file: int, line: bytes) -> int:
        if len(line) > 10:
            return real(file, line[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", lambda file, line: full(file, line[:11]))
    with pytest.raises(RunError, match="no room"):
        log.emit(*step(2))
    monkeypatch.undo()
    assert log.emit(*step(2)).seq == 2
    assert [event.seq for event in events.read(path)] == [1, 2] and events.damage(path) == []


def test_damage_in_the_middle_is_found(path: Path) -> None:
    write(path, *(step(number) for number in range(1, 6)))
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:-5]
    path.write_bytes(b"\n".join(lines))
    assert events.damage(path) == [2]
    assert [event.seq for event in events.read(path)] == [1, 3, 4, 5]
    del lines[3]
    path.write_bytes(b"\n".join(lines))
    assert events.damage(path) == [2, 4]  # line 4 is number 5 where 4 should be


ODD = b'{"format": 1, "run": "x", "seq": "1", "attempt": 1, "time_s": 1, "step": null, "kind": "step", "data": {}}'


@pytest.mark.parametrize(
    "line", [b"[]", b"null", b"1", b'{"format": 1}', b'"x"', b"\xff", b'{"format": 99}', b"{}", ODD, b"{},{}"]
)
def test_foreign_lines_are_no_events(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    assert events.read(path) == [] and events.damage(path) == [1]


CHANGES: tuple[dict[str, Any], ...] = (
    # Each makes a line that is an event of a step into another event, or into none.
    *({"kind": kind} for kind in ("validation", "started", None, ["step"])),
    *({"step": step} for step in (None, True, 2.0, "2")),
    *({"seq": seq} for seq in (None, "1", 2**70, -1)),
    *({"attempt": attempt} for attempt in (2, None, True)),
    *({"time_s": time_s} for time_s in (7, None, "x")),
    *({"format": form} for form in (0, 2, None, [], "1")),
    *({"data": data} for data in (None, [], {}, {"loss": "x"}, {"loss": None, "measures": {"margin": 1, "odd": "x"}})),
    {"more": 1},
    {"run": "y"},
)
FOREIGN = (b"[]", b"null", b"1", b'"formatts"', b"{}", b"{},{}", b"\xff", b"", b"[1,2,3,4,5,6,7,8]", b'{"format": 1}')


def line_of(seq: int, change: dict[str, Any] | None = None) -> bytes:
    data = {"loss": 1 / seq, "tokens": 10, "tokens_per_s": 2.5, "measures": {"margin": seq}}
    value = {"format": 1, "run": "x", "seq": seq, "attempt": 1, "time_s": 0.5 * seq, "step": seq, "kind": "step"}
    return json.dumps({**value, "data": data, **(change or {})}).encode()


@given(
    st.integers(1, 3 * events.AT_ONCE),
    st.dictionaries(st.integers(1, 3 * events.AT_ONCE), st.sampled_from((*CHANGES, *FOREIGN, "torn", "missing"))),
)
@example(3, {2: {"step": None}})
def test_a_log_read_in_stretches_is_what_its_lines_say(length: int, odd: dict[int, Any]) -> None:
    lines = [line_of(seq) for seq in range(1, length + 1)]
    for seq in odd.keys() & set(range(1, length + 1)):
        change, line = odd[seq], lines[seq - 1]
        other = {"torn": line[:-9], "missing": line.replace(b'"run"', b'"ran"')}
        lines[seq - 1] = line_of(seq, change) if isinstance(change, dict) else other.get(change, change)
    alone = [event for line in lines for event in events.parsed([line])]
    told = list(events.skimmed(lines))
    apart: list[Event | None] = []
    for each in told:
        if isinstance(each, Stretch):
            columns = zip(each.seq, each.time_s, each.step, each.data, strict=True)
            apart += [Event("x", seq, each.attempt, at, step, "step", data) for seq, at, step, data in columns]
        else:
            apart.append(each and dataclasses.replace(each, run="x"))
    assert apart == [each if each is None else dataclasses.replace(each, run="x") for each in alone]
    if not odd:
        assert len(told) == math.ceil(length / events.AT_ONCE), "an object for each step is what takes time"
    whole, pieces = History(), History()
    whole.add(each for each in told if each is not None)
    for event in alone:
        pieces.add([] if event is None else [event])
    assert whole.others == pieces.others and whole.last_seq == pieces.last_seq
    assert whole.steps.columns.keys() == pieces.steps.columns.keys()
    for name, column in whole.steps.columns.items():
        assert np.array_equal(column, pieces.steps.columns[name], equal_nan=True), name
    assert whole.summary() == dataclasses.replace(pieces.summary(), seconds=whole.summary().seconds)
    assert whole.seconds_left() == pieces.seconds_left()


def test_absent_log_is_empty(path: Path) -> None:
    assert events.read(path) == [] and events.damage(path) == []


# ---------------------------------------------------------------------------------------------------- attempts


def test_attempts_are_counted_over_processes(path: Path) -> None:
    write(path, ("started", {}), step(1))
    written = write(path, ("revised", {}), ("resumed", {"from_step": 1}), step(2))
    assert [(event.seq, event.attempt) for event in written] == [(3, 1), (4, 2), (5, 2)]


def test_resumed_steps_take_the_place_of_later_ones(path: Path) -> None:
    write(path, ("started", {}), ("validation", {"loss": 9.0}, 0), step(1, loss=8.0), step(2, loss=7.0))
    write(path, step(3, loss=666.0), ("fault", {}, 3))  # after the checkpoint at step 2
    write(path, ("resumed", {"from_step": 2}), step(3, loss=6.0), step(4, loss=5.0))
    kept = events.effective(events.read(path))
    assert [e.data["loss"] for e in kept if e.kind == "step"] == [8.0, 7.0, 6.0, 5.0]
    assert [e.step for e in kept if e.kind == "validation"] == [0]
    assert not [e for e in kept if e.kind == "fault"]


def test_resume_from_the_beginning_takes_the_place_of_everything(path: Path) -> None:
    write(path, ("started", {}), ("validation", {"loss": 9.0}, 0), step(1), ("note", {"text": "a"}))
    write(path, ("resumed", {"from_step": 0}), ("validation", {"loss": 9.0}, 0))
    kept = events.effective(events.read(path))
    assert [e.kind for e in kept] == ["started", "note", "resumed", "validation"]


def test_summary_by_hand(path: Path) -> None:
    write(path, ("started", {"num_steps": 8}), ("validation", {"loss": 3.0}, 0), step(1), step(2, memory_bytes=70))
    write(path, step(3, tokens=10**6), ("validation", {"loss": 0.1}, 3))
    write(path, ("resumed", {"from_step": 2, "reason": "checkpoint"}), step(3, loss=0.25, memory_bytes=50))
    write(path, ("validation", {"loss": 2.0}, 3), ("validation", {"loss": 2.5}, 4), ("interrupted", {"signal": 2}, 4))
    found = summary(path)
    assert (found.step, found.num_steps, found.loss) == (4, 8, 0.25)
    assert found.validation == ((0, 3.0), (3, 2.0), (4, 2.5)) and found.best == (3, 2.0)
    assert (found.tokens, found.seconds, found.tokens_per_s) == (300, 6.0, 50.0)
    assert (found.peak_memory_bytes, found.ended, found.faults) == (70, "interrupted", 0)
    assert [(a.number, a.from_step, a.to_step, a.end, a.reason) for a in found.attempts] == [
        (1, 0, 3, None, ""),
        (2, 2, 4, "interrupted", "checkpoint"),
    ]


def test_what_the_end_says_counts(path: Path) -> None:
    write(path, ("started", {}), step(1), ("finished", {"tokens": 7, "seconds": 2.0, "peak_memory_bytes": 5}, 1))
    found = summary(path)
    assert (found.tokens, found.seconds, found.peak_memory_bytes, found.ended) == (7, 2.0, 5, "finished")
    assert found.computed_tokens is None and not found.shares
    write(path, step(2, computed_tokens=60))
    assert summary(path).computed_tokens == 60
    write(path, ("finished", {"tokens": 7, "computed_tokens": 6, "seconds": 2.0}, 2))
    assert summary(path).computed_tokens == 6 and summary(path).shares


def log_of(draws: list[tuple[int, int]]) -> list[Event]:
    """Attempts of so many steps, each from an earlier step on, with a validation in every one and an end here and
    there."""
    made: list[Event] = []

    def tell(kind: str, attempt: int, step: int | None, **data: Any) -> None:
        made.append(Event("x", len(made) + 1, attempt, 1000.0 + len(made), step, kind, data))

    at = 0
    for number, (back, steps) in enumerate(draws, start=1):
        at = max(at - back, 0)
        tell("resumed" if number > 1 else "started", number, None, from_step=at, num_steps=99 + number)
        for _ in range(steps):
            at += 1
            facts = {"tokens": 10 * at, "tokens_per_s": 5.0 * number, "memory_bytes": 1000 * number - at}
            tell("step", number, at, loss=None if at % 7 == 0 else 1 / at, measures={"margin": at}, **facts)
        tell("validation", number, at, loss=2.0 / (at + 1))
        if steps % 3:
            tell(("interrupted", "died", "finished")[back % 3], number, at)
    return made


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6), st.integers(1, 30))
def test_a_log_comes_to_the_same_in_any_pieces(draws: list[tuple[int, int]], size: int) -> None:
    told = log_of(draws)
    history = History()
    for start in range(0, len(told), size):
        history.add(told[start : start + size])
    kept = events.effective(told)
    steps = [each for each in kept if each.kind == "step"]
    assert history.others == [each for each in kept if each.kind != "step"]
    assert list(history.steps.columns["seq"]) == [each.seq for each in steps]
    losses = [math.nan if each.data["loss"] is None else each.data["loss"] for each in steps]
    assert np.array_equal(history.steps.columns["loss"], losses, equal_nan=True)
    assert list(history.steps.columns.get("measure.margin", [])) == [each.step for each in steps]
    found = history.summary()
    assert found == dataclasses.replace(summarise(told), seconds=found.seconds)
    assert found.tokens == sum(each.data["tokens"] for each in steps)
    assert found.seconds == pytest.approx(sum(each.data["tokens"] / each.data["tokens_per_s"] for each in steps))
    assert found.peak_memory_bytes == max((each.data["memory_bytes"] for each in steps), default=None)
    assert found.step == max((each.step for each in kept if each.step is not None), default=0)
    assert found.num_steps == (99 + len(draws) if draws else None)
    assert [each.to_step for each in found.attempts] == [
        max([each.data["from_step"]] + [other.step for other in told if other.attempt == each.attempt and other.step])
        for each in told
        if each.kind in events.FIRST_OF_ATTEMPT
    ]


def test_nothing_is_summed_up_to_nothing() -> None:
    found = summarise([])
    assert (found.step, found.loss, found.best, found.ended, found.tokens_per_s) == (0, None, None, None, None)


# ---------------------------------------------------------------------------------------------------- following


def test_follower_sees_each_event_once_also_torn_ones(path: Path) -> None:
    write(path, ("started", {}), step(1))
    done = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        seen.extend(event.seq for event in events.follow(path, after=1, ended=done.is_set, poll_s=0.002))

    watcher = threading.Thread(target=watch)
    watcher.start()
    log = EventLog(path, "x")
    for number in range(2, 12):
        log.emit(*step(number))
        if number == 5:
            with open(path, "ab") as file:
                file.write(b'{"torn')
            time.sleep(0.02)
            log.close()
            log = EventLog(path, "x")  # heals
    done.set()
    watcher.join(10)
    assert not watcher.is_alive() and seen == list(range(2, 13))


def test_following_a_log_that_is_not_there_yet(path: Path) -> None:
    answers = iter((False, True))
    assert list(events.follow(path, ended=lambda: next(answers), poll_s=0.001)) == []
