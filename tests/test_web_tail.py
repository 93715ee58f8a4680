"""Logs of runs as the page sees them: read once, told to each watcher without a gap and nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.runs import events, lock
from luthier.runs.events import EventLog
from luthier.web import tail as tails
from luthier.web.tail import END, RESET, Tail, Tails

NAME = "a"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are looked at all the time, and nothing but what is new wakes who waits."""
    monkeypatch.setattr(tails, "POLL_S", 0.01)
    monkeypatch.setattr(tails, "KEEPALIVE_S", 1000)


class Written:
    """A run folder that is being written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.path.mkdir()
        (self.path / "recipe.yaml").write_text("model: nano\n")
        self._lock = lock.take(self.path / "lock", NAME)
        self.log = EventLog(self.path / "events.jsonl", NAME)
        self.step = 0

    def begin(self, from_step: int | None = None) -> None:
        self.step = from_step or 0
        self.log.emit("started" if from_step is None else "resumed", {"from_step": self.step, "num_steps": 1000})

    def steps(self, count: int, **data: Any) -> None:
        for _ in range(count):
            self.step += 1
            self.log.emit("step", {"loss": 1 / self.step, "tokens": 10, "tokens_per_s": 5.0, **data}, self.step)

    def end(self, kind: str | None = "finished") -> None:
        if kind is not None:
            self.log.emit(kind, {}, self.step)
        self.log.close()
        os.close(self._lock)


@pytest.fixture
def run(tmp_path: Path) -> Written:
    return Written(tmp_path)


def seqs(pieces: list[bytes]) -> list[int]:
    return [int(each) for each in re.findall(rb"(?m)^id: (\d+)$", b"".join(pieces))]


async def all_of(watched: AsyncIterator[bytes], until: Callable[[list[bytes]], bool] | None = None) -> list[bytes]:
    """What a watcher is told until it is the end, or enough."""
    told: list[bytes] = []
    async with asyncio.timeout(20):
        async for piece in watched:
            told.append(piece)
            if until is not None and until(told):
                break
    await watched.aclose()  # type: ignore[attr-defined]
    return told


def go(work: Awaitable[Any]) -> Any:
    async def within() -> Any:
        return await work

    return asyncio.run(within())


# ---------------------------------------------------------------------------------------------------- histories


def test_what_is_shown_is_what_the_log_comes_to(run: Written) -> None:
    run.begin()
    run.steps(5, lr=0.1, measures={"margin": 2.0})
    run.log.emit("validation", {"loss": 0.5}, 5)
    run.begin(from_step=3)
    run.steps(1)
    shown = Tail(run.path).shown(100)
    assert shown["series"]["step"] == [1, 2, 3, 4]
    assert shown["series"]["loss"] == [1 / step for step in (1, 2, 3, 4)]
    assert shown["series"]["lr"] == [0.1, 0.1, 0.1, None]
    assert shown["series"]["measure.margin"] == [2.0, 2.0, 2.0, None]
    assert shown["validation"] == [], "it was of a step that was taken back"
    assert [each["kind"] for each in shown["events"]] == ["started", "validation", "resumed"]
    assert (shown["last"], shown["steps_total"], shown["thinned"]) == (9, 4, False)
    json.dumps(shown, allow_nan=False)


def test_a_log_is_read_where_it_was_left(run: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    run.begin()
    run.steps(3)
    tail = Tail(run.path)
    tail.refresh()
    seen: list[bytes] = []
    monkeypatch.setattr(tails, "skimmed", lambda lines: seen.extend(lines) or events.skimmed(lines))
    tail.refresh()
    run.steps(2)
    tail.refresh()
    assert [json.loads(line)["seq"] for line in seen] == [5, 6]
    assert tail.numbers().summary == events_summary(run.path)
    assert tail.numbers() is tail.numbers(), "nothing is added up again while nothing is new"


def test_numbers_that_do_not_rise_are_passed_over(run: Written) -> None:
    """As in a log that was put together by hand: also amid steps that are read at once."""
    run.begin()
    run.steps(300)
    lines = run.log.path.read_bytes().splitlines(keepends=True)
    lines[100:100] = [lines[50], *lines[90:120]]  # 51, and 91 to 120: those up to 100 were told before
    run.log.path.write_bytes(b"".join(lines))
    tail = Tail(run.path)
    assert tail.shown(1000)["series"]["step"] == list(range(1, 301))
    told = go(all_of(tail.watch(0), lambda told: 301 in seqs(told)))
    assert seqs(told) == list(range(1, 302))
    assert b"".join(re.findall(rb"(?m)^data: (.*\n)", b"".join(told))) == b"".join(
        [*lines[:100], *lines[111:131], *lines[151:]]
    )


def events_summary(path: Path) -> Any:
    from luthier.runs.store import RunFolder

    return RunFolder(path).summary()


def test_lows_and_highs_survive_thinning(run: Written) -> None:
    run.begin()
    for step in range(1, 5001):
        loss = {1234: 99.0, 4321: -99.0, 2000: None}.get(step, 1.0 + step % 7)
        run.log.emit("step", {"loss": loss}, step)
    tail = Tail(run.path)
    shown = tail.shown(200)
    column = shown["series"]["loss"]
    assert shown["thinned"] and shown["steps_total"] == 5000
    assert 100 <= len(column) <= 202
    assert 99.0 in column and -99.0 in column
    assert shown["series"]["step"][0] == 1 and shown["series"]["step"][-1] == 5000
    part = tail.shown(200, 1200, 1300)
    assert part["series"]["step"] == list(range(1200, 1301)) and not part["thinned"]
    assert tail.shown(10, 1995, 2005)["series"]["loss"].count(None) <= 1


def test_the_spark_is_the_course_of_the_loss(run: Written) -> None:
    run.begin()
    for step in range(1, 601):
        run.log.emit("step", {"loss": None if step % 2 else float(step)}, step)
    tail = Tail(run.path)
    tail.refresh()
    spark = tail.numbers().spark
    assert len(spark) == tails.SPARK_POINTS and spark == sorted(spark)
    assert math.isclose(spark[0], (2 + 4 + 6 + 8 + 10) / 5)


# ---------------------------------------------------------------------------------------------------- watching


def test_a_watcher_gets_the_whole_and_then_the_end(run: Written) -> None:
    run.begin()
    run.steps(2500)
    run.end()
    told = go(all_of(Tail(run.path).watch(0)))
    assert seqs(told) == list(range(1, 2503)) and told[-1] == END
    lines = re.findall(rb"(?m)^data: (.*)$", b"".join(told[:-1]))
    assert b"\n".join(lines) + b"\n" == (run.path / "events.jsonl").read_bytes()
    assert max(map(len, told)) < 2**20, "in pieces, however much there is"


@pytest.mark.parametrize("after", [0, 1, 999, 1000, 1001, 1500])
def test_from_any_number_on_nothing_is_missing_and_nothing_comes_twice(run: Written, after: int) -> None:
    run.begin()
    run.steps(1499)
    run.end(None)
    assert seqs(go(all_of(Tail(run.path).watch(after)))) == list(range(after + 1, 1501))


def test_many_watchers_of_one_log_share_its_bytes(run: Written) -> None:
    tail = Tail(run.path)
    run.begin()

    async def watchers() -> list[list[bytes]]:
        watching = [asyncio.create_task(all_of(tail.watch(0), lambda told: 400 in seqs(told))) for _ in range(50)]
        for _ in range(4):
            await asyncio.sleep(0.03)
            run.steps(100)
        return await asyncio.gather(*watching)

    told = go(watchers())
    for each in told:
        assert seqs(each)[:400] == list(range(1, 401))
    assert len({id(piece) for each in told for piece in each}) < 50, "framed once, not once for each"
    run.end()


def test_what_another_reader_has_read_is_told_too(run: Written) -> None:
    """The list of runs reads the same log meanwhile."""
    tail = Tail(run.path)
    run.begin()

    async def both() -> list[bytes]:
        watching = asyncio.create_task(all_of(tail.watch(0), lambda told: 101 in seqs(told)))
        for _ in range(100):
            run.steps(1)
            tail.refresh()
            await asyncio.sleep(0.001)
        return await watching

    assert seqs(go(both())) == list(range(1, 102))
    run.end()


def test_a_torn_line_is_told_when_it_is_whole(run: Written) -> None:
    run.begin()
    tail = Tail(run.path)
    whole = json.dumps({"format": 1, **dict(run="a", seq=2, attempt=1, time_s=1.0, step=1, kind="step", data={})})
    log = run.path / "events.jsonl"

    async def torn() -> list[bytes]:
        watching = asyncio.create_task(all_of(tail.watch(0), lambda told: 2 in seqs(told)))
        with open(log, "ab") as file:
            file.write(whole[:30].encode())
            file.flush()
            await asyncio.sleep(0.05)
            assert tail.history.last_seq == 1
            file.write(whole[30:].encode() + b"\n")
        return await watching

    assert seqs(go(torn())) == [1, 2]


def test_damaged_lines_are_passed_over(run: Written) -> None:
    run.begin()
    run.steps(2)
    run.end(None)
    log = run.path / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(
        lines[0] + b"\x00\xff{\n" + b"[1,2]\n" + lines[1] + lines[1] + b"\n" + lines[2] + lines[0] + b'{"torn'
    )
    tail = Tail(run.path)
    told = go(all_of(tail.watch(0)))
    assert seqs(told) == [1, 2, 3]
    sent = [json.loads(each) for each in re.findall(rb"(?m)^data: (.*)$", b"".join(told[:-1]))]
    assert [each["seq"] for each in sent] == [1, 2, 3]


def test_a_resumed_attempt_goes_on_in_the_same_stream(run: Written) -> None:
    run.begin()
    run.steps(5)
    tail = Tail(run.path)

    async def on() -> list[bytes]:
        watching = asyncio.create_task(all_of(tail.watch(3)))
        await asyncio.sleep(0.03)
        run.log.emit("interrupted", {}, 5)
        run.begin(from_step=4)  # the lock was never free: nobody was told of an end
        run.steps(3)
        await asyncio.sleep(0.03)
        run.end()
        return await watching

    told = go(on())
    assert seqs(told) == list(range(4, 13)) and told[-1] == END
    assert tail.shown(100)["series"]["step"] == [1, 2, 3, 4, 5, 6, 7]


def test_how_a_run_died_is_told_although_it_is_written_later(run: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "LAST_WORD_S", 5.0)
    run.begin()
    tail = Tail(run.path)

    async def dying() -> list[bytes]:
        watched = tail.watch(0)
        first = await anext(watched)
        run.end(None)
        watching = asyncio.create_task(all_of(watched))
        await asyncio.sleep(0.05)
        log = EventLog(run.path / "events.jsonl", NAME)
        log.emit("died", {"code": -9})
        log.close()
        return [first, *await watching]

    told = go(dying())
    assert b'"kind": "died"' in b"".join(told) and told[-1] == END


def test_nobody_waits_for_the_last_word_of_a_run_that_was_not_seen_alive(run: Written) -> None:
    run.begin()
    run.end(None)

    async def at_once() -> list[bytes]:
        async with asyncio.timeout(tails.LAST_WORD_S / 2):
            return await all_of(Tail(run.path).watch(0))

    assert go(at_once())[-1] == END


@pytest.mark.parametrize("longer", [False, True])
def test_a_log_that_took_the_place_of_another_is_told_anew(run: Written, longer: bool) -> None:
    """As where a run that had not begun is started again: its folder is cleared."""
    run.begin()
    run.steps(3)
    tail = Tail(run.path)

    async def replaced() -> list[bytes]:
        watching = asyncio.create_task(
            all_of(tail.watch(2), lambda told: RESET in told and bool(seqs(told[told.index(RESET) :])))
        )
        await asyncio.sleep(0.05)
        (run.path / "events.jsonl").unlink()
        log = EventLog(run.path / "events.jsonl", NAME)
        for number in range(20 if longer else 2):
            log.emit("note", {"text": f"new {number}"})
        log.close()
        return await watching

    told = go(replaced())
    at = told.index(RESET)
    assert seqs(told[:at]) == [3, 4]
    assert seqs(told[at:])[:2] == [1, 2]
    assert not tail.shown(10)["series"]["step"]


def test_a_number_that_the_log_does_not_have_is_one_of_another_log(run: Written) -> None:
    run.begin()
    run.end(None)
    assert go(all_of(Tail(run.path).watch(77)))[0] == RESET


def test_a_run_without_a_log_ends_when_it_leaves_the_queue(run: Written) -> None:
    run.end(None)
    (run.path / "events.jsonl").unlink()
    (run.path / "queued").touch()
    tail = Tail(run.path)

    async def waiting() -> list[bytes]:
        watching = asyncio.create_task(all_of(tail.watch(0)))
        await asyncio.sleep(0.05)
        assert not watching.done()
        (run.path / "queued").unlink()
        return await watching

    assert go(waiting()) == [END]


def test_silence_is_broken_now_and_then(run: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "KEEPALIVE_S", 0.02)
    run.begin()
    told = go(all_of(Tail(run.path).watch(1), lambda told: len(told) == 2))
    assert told == [tails.KEEPALIVE] * 2
    run.end()


def test_nobody_looks_at_a_log_that_nobody_watches(run: Written) -> None:
    run.begin()
    tail = Tail(run.path)

    async def watched() -> None:
        await all_of(tail.watch(0), lambda told: True)
        await asyncio.sleep(0.05)
        assert tail._look is None
        assert [each for each in asyncio.all_tasks() if each is not asyncio.current_task()] == []

    go(watched())
    run.end()


def test_the_end_of_the_server_ends_what_is_watched(run: Written) -> None:
    run.begin()
    several = Tails(run.path.parent)

    async def closing() -> list[bytes]:
        watching = asyncio.create_task(all_of(several.of(NAME).watch(0)))
        await asyncio.sleep(0.05)
        several.close()
        return await watching

    assert seqs(go(closing())) == [1], "and no end is told: the run goes on"
    run.end()


def test_a_deleted_run_is_forgotten(run: Written) -> None:
    run.begin()
    run.end(None)
    several = Tails(run.path.parent)
    known = several.of(NAME)
    known.refresh()
    shutil.rmtree(run.path)
    known.refresh()
    assert known.shown(10)["last"] == 0
    several.forget_all_but(set())
    assert several.of(NAME) is not known


def test_a_watcher_that_goes_away_leaves_the_others(run: Written) -> None:
    run.begin()
    tail = Tail(run.path)

    async def some() -> list[bytes]:
        goes = tail.watch(0)
        stays = asyncio.create_task(all_of(tail.watch(0), lambda told: 4 in seqs(told)))
        assert seqs([await anext(goes)]) == [1]
        with contextlib.suppress(asyncio.CancelledError):
            await goes.aclose()  # type: ignore[attr-defined]
        run.steps(3)
        return await stays

    assert seqs(go(some())) == [1, 2, 3, 4]
    run.end()
