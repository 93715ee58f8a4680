"""The queue and its supervisor: order, room, and runs that belong to nobody."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import waiting

from luthier import cli, machine, queue, supervisor
from luthier.config import load
from luthier.config.schema import RunConfig
from luthier.errors import RunError
from luthier.machine import Gpu
from luthier.runs import lock
from luthier.runs.store import RunFolder

GB = 10**9


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a queue of its own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(queue.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"Say {word}.", "output": word} for word in ("one", "two", "three", "four")]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def recipe(name: str, **more: Any) -> RunConfig:
    values = {"optim.steps": 3, "optim.batch": 2, "data.validation": 0, "run.device": "cpu", **more}
    return load.settle(load.load(None, {"model": "nano", "data.train": "rows.json", "run.name": name, **values}))


def until(true: Callable[[], bool], limit_s: float = 240) -> None:
    assert waiting.until(true, limit_s), "waited in vain"


def names() -> list[str]:
    return [path.name for path in queue.waiting()]


# ---------------------------------------------------------------------------------------------------- order


def test_runs_wait_in_the_order_in_which_they_were_asked_for(place: Path) -> None:
    for name in ("a", "b", "c"):
        assert queue.submit(recipe(name)).state == "queued"
    queue.submit(recipe("a"))  # asked for twice: one run, which keeps its place
    assert names() == ["a", "b", "c"]
    queue.first(RunFolder(Path("runs/c")))
    assert names() == ["c", "a", "b"]
    assert queue.withdraw(RunFolder(Path("runs/a")))
    assert names() == ["c", "b"]
    assert RunFolder(Path("runs/a")).state == "new", "its folder stays, and it has not run"
    assert not queue.withdraw(RunFolder(Path("runs/a")))
    with pytest.raises(RunError) as caught:
        queue.first(RunFolder(Path("runs/a")))
    assert caught.value.problems[0].id == "queue.not_waiting"


@pytest.mark.parametrize("damage", ["gone", "garbage", "rows"])
def test_the_order_is_found_again_from_the_folders(place: Path, damage: str) -> None:
    for name in ("a", "b", "c"):
        queue.submit(recipe(name))
        time.sleep(0.002)  # marks are told apart by milliseconds
    file = queue.folder() / "order.sqlite"
    if damage == "gone":
        file.unlink()
    elif damage == "garbage":
        file.write_bytes(b"no order at all" * 500)
    else:
        with sqlite3.connect(file) as order:
            order.execute("DELETE FROM waiting WHERE run LIKE '%/a'")
    queue.watch_over(Path("runs"))
    assert names() == (["b", "c", "a"] if damage == "rows" else ["a", "b", "c"])


def test_a_run_whose_folder_is_deleted_is_forgotten(place: Path) -> None:
    queue.submit(recipe("a"))
    queue.submit(recipe("b"))
    shutil.rmtree("runs/a")
    assert names() == ["b"]


def test_a_run_started_by_hand_leaves_the_queue(place: Path) -> None:
    queue.submit(recipe("a"))
    config = recipe("a")
    with RunFolder.claim(config, load.dump(config)) as run:
        assert run.state == "running"
        assert names() == []


# ---------------------------------------------------------------------------------------------------- room


class Running:
    """Children that need so many bytes each."""

    def __init__(self, *needed: tuple[int, tuple[int, ...]]) -> None:
        self.supervisor = supervisor.Supervisor()
        for number, (size, gpus) in enumerate(needed):
            path = Path(f"none-{number}")
            self.supervisor.children[path] = supervisor.Child(path, None, gpus, size)

    def room(self, needed: int, wanted: int | None) -> tuple[int, ...] | None:
        return self.supervisor._room(needed, wanted)


def test_on_a_cpu_memory_and_cores_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory_bytes", lambda: 10 * GB)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert Running().room(10 * GB, 0) == ()
    assert Running().room(10 * GB + 1, 0) is None
    assert Running((4 * GB, ())).room(6 * GB, 0) == (), "the other one will take 4 of the 10 that are free"
    assert Running((4 * GB, ())).room(6 * GB + 1, 0) is None
    assert Running(*[(0, ())] * 3).room(1, 0) == ()
    assert Running(*[(0, ())] * 4).room(1, 0) is None, "two cores each"


def test_on_gpus_the_emptiest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    there = tuple(Gpu("x", free * GB, (9, 0), 40 * GB) for free in (10, 40, 20))
    monkeypatch.setattr(machine, "gpus", lambda: there)
    assert Running().room(15 * GB, 1) == (1,)
    assert Running().room(15 * GB, 2) == (1, 2)
    assert Running().room(15 * GB, None) is None, "all of them, of which one is too small"
    assert Running().room(5 * GB, None) == (0, 1, 2)
    # What a run has been promised counts until it holds it.
    assert Running((35 * GB, (1,))).room(15 * GB, 1) == (2,)
    assert Running((35 * GB, (1,))).room(25 * GB, 1) is None


# ------------------------------------------------------------------------------------------- the whole way


def child_of(run: RunFolder) -> int:
    pid = run.holder()["pid"]
    assert isinstance(pid, int)
    return pid


def supervisor_pid() -> int:
    return int(lock.last(queue.folder() / "lock")["pid"])


def steps(run: RunFolder) -> int:
    return sum(event.kind == "step" for event in run.events())


@pytest.fixture
def tidy(place: Path) -> Iterator[Path]:
    """Nothing goes on after a test."""
    yield place
    for path in (place / "runs").glob("*"):
        run = RunFolder(path)
        if run.locked:
            os.kill(child_of(run), signal.SIGKILL)
    if lock.held(queue.folder() / "lock"):
        os.kill(supervisor_pid(), signal.SIGKILL)


def test_runs_go_one_after_the_other_and_nothing_is_left(
    tidy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}={value}" for key, value in (("optim.steps", 2), ("data.validation", 0), ("run.device", "cpu"))]
    for name in ("a", "b"):
        assert cli.run(["train", "model=nano", "data.train=rows.json", f"run.name={name}", *words, "--detach"]) == 0
    said = capsys.readouterr().out
    assert "number 1 in the queue" in said and "luthier runs watch" in said
    assert cli.run(["runs", "watch", "b"]) == 0
    out = capsys.readouterr()
    assert "b: finished." in out.out and "step 2/2" in out.err
    a, b = RunFolder(Path("runs/a")), RunFolder(Path("runs/b"))
    assert (a.state, b.state) == ("finished", "finished")
    ended = max(event.time_s for event in a.events())
    assert all(event.time_s > ended for event in b.events()), "two cores: one run at a time"
    assert "step 2/2" in (b.path / "log").read_text(encoding="utf-8")
    until(lambda: not lock.held(queue.folder() / "lock"), 30)
    assert cli.run(["runs", "queue"]) == 0
    assert capsys.readouterr().out.strip() == "Nothing waits."


def test_a_mistake_in_the_data_is_told_in_the_run(tidy: Path) -> None:
    Path("rows.json").write_text('[{"instruction": "x"}]', encoding="utf-8")
    run = queue.submit(recipe("bad"))
    supervisor.ensure()
    until(lambda: run.state == "failed")
    problem = run.events()[-1].data["problem"]
    assert "rows.json" in problem["where"]
    assert "rows.json" in (run.path / "log").read_text(encoding="utf-8")
    # Nothing had begun: the mended file is a fresh start.
    Path("rows.json").write_text('[{"instruction": "x", "output": "3"}, {"instruction": "y", "output": "4"}]')
    queue.submit(recipe("bad"))
    supervisor.ensure()
    until(lambda: run.state == "finished")


def test_a_run_outlives_its_supervisor_and_a_killed_one_is_told_of(
    tidy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Supervisor killed: the run goes on, a new one watches it and starts it no second time. Run killed: told of with
    the signal; resumed when asked. Machine restarted: resumed unasked."""
    run = queue.submit(recipe("long", **{"optim.steps": 2000, "run.save_every": 3, "optim.batch": 1}))
    supervisor.ensure()
    until(lambda: steps(run) >= 4)
    first = child_of(run)
    os.kill(supervisor_pid(), signal.SIGKILL)
    until(lambda: not lock.held(queue.folder() / "lock"))
    done = steps(run)
    until(lambda: steps(run) > done)
    supervisor.ensure(Path("runs"))
    time.sleep(1.0)
    assert (child_of(run), run.state) == (first, "running")
    assert [event.kind for event in run.events()].count("started") == 1

    os.kill(first, signal.SIGKILL)
    until(lambda: run.events()[-1].kind == "died" and not run.locked)
    assert run.state == "died"
    said = run.events()[-1].data["said"]
    assert any("step" in line for line in said), said
    assert cli.run(["runs", "show", "long"]) == 0
    assert said[-1] in capsys.readouterr().out

    assert cli.run(["runs", "resume", "long", "--detach"]) == 0
    until(lambda: run.state == "running" and any(event.kind == "resumed" for event in run.events()))
    until(lambda: run.events()[-1].kind == "step")
    second = child_of(run)
    os.kill(supervisor_pid(), signal.SIGKILL)
    os.kill(second, signal.SIGKILL)
    until(lambda: not run.locked)
    known = lock.last(run.path / "lock")
    assert known["detached"] and known["boot"] == machine.boot()
    (run.path / "lock").write_text(json.dumps({**known, "boot": "another"}), encoding="utf-8")
    supervisor.ensure(Path("runs"))
    until(lambda: run.state == "running" and child_of(run) not in (first, second))
    until(lambda: [event.kind for event in run.events()].count("resumed") == 2)

    assert cli.run(["runs", "stop", "long"]) == 0
    until(lambda: run.state == "interrupted")
    assert run.events()[-1].kind == "interrupted"
    queue.again(run)
    assert run.state == "queued"
    assert cli.run(["runs", "stop", "long"]) == 0, "one that waits is taken out of the queue"
    assert run.state == "interrupted"


def test_a_process_that_is_about_to_begin_is_not_started_again(tidy: Path) -> None:
    """Between its start and the run's lock it holds the mark."""
    run = queue.submit(recipe("a"))
    code = (
        "import fcntl, os, sys, time; file = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path / "queued")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        watching = supervisor.Supervisor()
        assert watching.look()
        (child,) = watching.children.values()
        assert child.process is None, "adopted, not started"
        other.kill()
    watching.look()
    assert run.events()[-1].kind == "died", "it ended before it had begun"
    assert names() == []


def test_python_submits(tidy: Path) -> None:
    import luthier

    run = luthier.submit(recipe("python", **{"optim.steps": 1}))
    assert run.state in ("queued", "running")
    until(lambda: run.state == "finished")
