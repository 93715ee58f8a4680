"""The queue and its supervisor: order, room, and runs that belong to nobody."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import waiting
from safetensors.torch import load_file

from luthier import cli, detached, machine, queue, staged, supervisor
from luthier.config import load
from luthier.config.schema import RunConfig
from luthier.config.stages import Stage
from luthier.errors import DataError, Problem, RunError
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


def test_a_run_that_is_just_being_put_in_is_neither_watched_nor_called_dead(place: Path) -> None:
    """Who puts it in holds its lock for a moment, with the mark there already."""
    run = queue.submit(recipe("a"))
    watching = supervisor.Supervisor()
    with RunFolder.open(run.path, write=True):
        watching.look()
        assert not watching.children
    assert names() == ["a"] and not run.events()


# ------------------------------------------------------------------------------------------------- stages


class Doing:
    """Stands for the process of a run; `code` is what it ends with."""

    code: int | None = None

    def poll(self) -> int | None:
        return self.code


@pytest.fixture
def begun(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Doing]:
    """The runs that supervisors start, by name, each in the place of the one before; they do nothing."""
    made: dict[str, Doing] = {}

    def begin(run: RunFolder, mark: queue.Mark, gpus: tuple[int, ...], needed: int) -> supervisor.Child:
        made[run.name] = doing = Doing()
        (run.path / "queued").unlink()
        with RunFolder.open(run.path, write=True) as writer:
            writer.emit("started", {"num_steps": 1})
        queue.forget(run.path)
        return supervisor.Child(run.path, doing, gpus, needed)

    monkeypatch.setattr(supervisor, "_begin", begin)
    monkeypatch.setattr(supervisor, "_needed", lambda run: 0)
    monkeypatch.setattr(supervisor, "ensure", lambda runs_dir=None: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    return made


def stages(**more: Any) -> tuple[Stage, ...]:
    """a, then b, then c on both merged."""
    values = {"optim.steps": 3, "optim.batch": 2, "data.validation": 0, "run.device": "cpu", "run.name": "all", **more}
    given = [{"name": "a"}, {"name": "b"}, {"name": "c", "start": "merge"}]
    return load.stages({"model": "nano", "data": {"train": "rows.json"}, "stages": given}, values)


def end(name: str, kind: str, doing: Doing, **facts: Any) -> None:
    """A run says how it ended, and its process is gone."""
    if kind != "died":  # of which it can say nothing
        with RunFolder.open(Path("runs") / name, write=True) as writer:
            writer.emit(kind, facts)
    doing.code = -signal.SIGKILL if kind == "died" else 0


def listed() -> list[tuple[str, tuple[str, str] | None]]:
    """What waits, and for which run, and how far that is."""
    return [
        (each["name"], each["after"] and (each["after"]["name"], each["after"]["state"])) for each in queue.listing()
    ]


@pytest.mark.parametrize("kind", ["failed", "interrupted", "died"])
def test_a_stage_starts_when_the_one_before_is_finished_and_holds_up_nobody_else(
    begun: dict[str, Doing], kind: str
) -> None:
    queue.submit_stages(stages())
    queue.submit(recipe("other"))
    assert listed() == [
        ("all-a", None),
        ("all-b", ("all-a", "queued")),
        ("all-c", ("all-b", "queued")),
        ("other", None),
    ]
    watching = supervisor.Supervisor()
    watching.look()
    assert list(begun) == ["all-a", "other"]

    end("all-a", kind, begun["all-a"])
    end("other", "finished", begun["other"])
    assert watching.look(), "what waits for another run is still waited with"
    assert listed() == [("all-b", ("all-a", kind)), ("all-c", ("all-b", "queued"))]
    assert RunFolder(Path("runs/all-b")).state == "queued"
    # Neither the supervisor nor the order is needed to know what waits for what.
    (queue.folder() / "order.sqlite").unlink()
    queue.watch_over(Path("runs"))
    assert {name for name, _ in listed()} == {"all-b", "all-c"}
    watching = supervisor.Supervisor()
    watching.look()
    assert list(begun) == ["all-a", "other"]

    queue.again(RunFolder(Path("runs/all-a")))
    watching.look()
    assert listed()[0][0] == "all-b" and begun["all-a"].code is None, "it goes on"
    end("all-a", "finished", begun["all-a"])
    watching.look()
    assert list(begun) == ["all-a", "other", "all-b"]
    end("all-b", "finished", begun["all-b"])
    watching.look()
    assert list(begun) == ["all-a", "other", "all-b", "all-c"]
    end("all-c", "finished", begun["all-c"])
    assert not watching.look()


def test_a_finished_run_whose_result_is_gone_is_waited_for(begun: dict[str, Doing]) -> None:
    queue.submit_stages(stages())
    watching = supervisor.Supervisor()
    watching.look()
    end("all-a", "finished", begun["all-a"], outputs=["adapter"])
    watching.look()
    assert list(begun) == ["all-a"]
    shutil.rmtree("runs/all-a")
    assert listed()[0] == ("all-b", ("all-a", "gone"))


def test_a_stopped_stage_leaves_those_behind_it_waiting(
    begun: dict[str, Doing], capsys: pytest.CaptureFixture[str]
) -> None:
    queue.submit_stages(stages())
    assert cli.run(["runs", "stop", "all-b"]) == 0
    said = capsys.readouterr().out
    assert "all-c goes on waiting" in said and f"luthier runs stop {Path('runs/all-c').resolve()}" in said
    assert names() == ["all-a", "all-c"]
    assert cli.run(["runs", "resume", "all-b", "--detach"]) == 0
    assert "all-b starts once all-a is finished; number 3" in capsys.readouterr().out
    assert listed() == [("all-a", None), ("all-c", ("all-b", "queued")), ("all-b", ("all-a", "queued"))]

    watching = supervisor.Supervisor()
    watching.look()
    end("all-a", "interrupted", begun["all-a"])
    watching.look()
    assert cli.run(["runs", "queue"]) == 0
    table = capsys.readouterr().out
    assert "all-b (waiting)" in table and "all-a (interrupted)" in table
    assert cli.run(["runs", "show", "all-b"]) == 0
    assert "waiting (for all-a (interrupted))" in capsys.readouterr().out


def test_the_same_command_again_goes_on_and_another_recipe_changes_nothing(begun: dict[str, Doing]) -> None:
    queue.submit_stages(stages())
    watching = supervisor.Supervisor()
    watching.look()
    end("all-a", "failed", begun["all-a"])
    watching.look()
    assert names() == ["all-b", "all-c"]
    with pytest.raises(RunError) as caught:
        queue.submit_stages(stages(**{"stages.a.optim.lr": 1e-3}))
    assert [(each.id, each.field) for each in caught.value.problems] == [("runs.changed", "optim.lr")]
    assert names() == ["all-b", "all-c"]
    queue.submit_stages(stages())
    assert names() == ["all-b", "all-c", "all-a"], "what waits keeps its place"
    watching.look()
    end("all-a", "finished", begun["all-a"])
    queue.submit_stages(stages())
    assert listed()[0] == ("all-b", None) and "all-a" not in names()


def test_a_later_stage_that_cannot_go_on_keeps_all_out_of_the_queue(begun: dict[str, Doing]) -> None:
    for run in queue.submit_stages(stages()):
        queue.withdraw(run)
    with RunFolder.open(Path("runs/all-b"), write=True) as writer:
        writer.emit("started", {"num_steps": 1})
    with pytest.raises(RunError, match=r"optim\.lr"):
        queue.submit_stages(stages(**{"stages.b.optim.lr": 1e-3}))
    assert names() == []


def test_a_run_that_is_no_stage_any_more_waits_for_nobody(begun: dict[str, Doing]) -> None:
    queue.submit_stages(stages())
    queue.submit(recipe("all-b"))
    assert listed()[1] == ("all-b", None)


def test_stages_that_are_trained_by_hand_leave_the_queue(begun: dict[str, Doing]) -> None:
    queue.submit_stages(stages()[:2])
    seen: list[tuple[str | None, list[str]]] = []

    def train(config: RunConfig) -> Any:
        seen.append((config.run.name, names()))

    staged.carry_out(stages()[:2], train, lambda config: None)
    assert seen == [("all-a", []), ("all-b", [])]


def test_wrong_rows_of_a_later_stage_are_told_in_its_own_run(begun: dict[str, Doing]) -> None:
    a, b, c = queue.submit_stages(stages(**{"stages.b.data.train": "bad.json"}))
    looked: list[tuple[str, str]] = []

    def look(config: RunConfig) -> None:
        looked.append((config.model.path, config.data.train[0].path))
        if config.data.train[0].path == "bad.json":
            raise DataError(Problem("data.changed", "bad.json"))

    staged.look_ahead(a, look)
    assert looked == [("nano", "bad.json"), ("nano", "rows.json")], "with the base of the first one, before any is made"
    assert (b.state, c.state, names()) == ("failed", "queued", ["all-a", "all-c"])
    assert b.events()[-1].data["problem"]["where"] == "bad.json"
    assert listed()[1] == ("all-c", ("all-b", "failed"))
    with RunFolder.claim(b.placed(), load.dump(b.placed())) as again:  # by hand, before its first step
        assert not again.has("events.jsonl")
    queue.again(b)
    assert listed()[2] == ("all-b", ("all-a", "queued"))


def test_a_stage_that_is_withdrawn_while_it_is_made_ready_is_not_trained(
    begun: dict[str, Doing], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue.submit(recipe("a"))
    trained: list[str] = []
    monkeypatch.setattr(detached, "resume", lambda path, on_event: trained.append(path))
    monkeypatch.setattr(staged, "make_ready", queue.withdraw)
    assert detached.main(str(run.path)) == 0 and not trained
    child = supervisor.Child(run.path, Doing())
    child.process.code = 0
    supervisor.settle(child)
    assert run.state == "new" and not run.events()
    queue.again(run)
    monkeypatch.setattr(staged, "make_ready", lambda run: None)
    assert detached.main(str(run.path)) == 0 and trained == [str(run.path)]


def test_a_stage_is_planned_before_what_it_is_trained_on_is_there(place: Path) -> None:
    *_, c = queue.submit_stages(stages())
    assert supervisor._needed(c) == supervisor._needed(queue.submit(recipe("plain"))) > 0


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


def test_stages_end_as_by_hand_though_everything_was_killed_on_the_way(
    tidy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first stage and the supervisor are killed while the second one, which trains on the merged model, waits."""
    text = """
        model: {path: nano, dtype: bfloat16}
        data: {train: rows.json, validation: 0}
        optim: {steps: 40, batch: 2}
        run: {name: all, device: cpu, save_every: 2}
        stages: [{name: a}, {name: b, start: merge, optim: {steps: 3}}]
    """
    (tidy / "staged.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
    assert cli.run(["train", "staged.yaml", "--detach"]) == 0
    said = capsys.readouterr().out
    assert "all-a waits for its turn, number 1" in said and "all-b starts once all-a is finished; number 2" in said
    a, b = RunFolder(Path("runs/all-a")), RunFolder(Path("runs/all-b"))
    until(lambda: steps(a) >= 3)
    os.kill(supervisor_pid(), signal.SIGKILL)
    os.kill(child_of(a), signal.SIGKILL)
    until(lambda: not a.locked)
    supervisor.ensure(Path("runs"))
    until(lambda: a.state == "died")
    assert b.state == "queued" and not b.events()
    assert cli.run(["runs", "resume", "all-a", "--detach"]) == 0
    assert cli.run(["runs", "watch", "all-b"]) == 0
    assert "all-b waits for: all-a" in capsys.readouterr().err
    assert (a.state, b.state) == ("finished", "finished")
    assert [event.kind for event in a.events() if event.kind in ("started", "died", "resumed")] == [
        "started",
        "died",
        "resumed",
    ]
    command = [sys.executable, "-m", "luthier", "train", "staged.yaml", "run.dir=by-hand"]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("all-a", "all-b"):
        ours, theirs = (
            load_file(place / name / "adapter" / "adapter_model.safetensors")
            for place in (Path("runs"), Path("by-hand"))
        )
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[part], theirs[part]) for part in ours), name


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


def test_python_submits_stages(begun: dict[str, Doing]) -> None:
    import luthier

    given = {"model": "nano", "data": {"train": "rows.json"}, "stages": [{"name": "a"}, {"name": "b"}]}
    last = luthier.submit(given, {"run.name": "all"})
    assert (last.name, list(last.stages), last.stages["b"].path) == ("all-b", ["a", "b"], last.path)
    assert listed() == [("all-a", None), ("all-b", ("all-a", "queued"))]
