"""The run folder: names, one writer, atomic files, checkpoints that survive anything, and what may change."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.config.load import dump, resolved
from luthier.config.schema import RunConfig
from luthier.errors import RunError
from luthier.runs import files, lock, slots
from luthier.runs.recipe import difference, run_name, safe_name
from luthier.runs.store import RunFolder, index

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def recipe(folder: Path, **changes: Any) -> RunConfig:
    """A recipe whose runs are in `folder`; `changes` are dotted fields, `__` for the dot."""
    value: dict[str, Any] = {
        "model": {"path": "nano"},
        "data": {"train": "data/alpaca.json"},
        "optim": {},
        "run": {"dir": str(folder)},
    }
    for name, given in changes.items():
        section, field = name.split("__")
        value[section][field] = given
    return RunConfig.model_validate(value)


def claim(folder: Path, **changes: Any) -> RunFolder:
    config = recipe(folder, **changes)
    return RunFolder.claim(config, dump(config))


def begin(folder: Path, **changes: Any) -> None:
    """A run that was killed after it had started."""
    with claim(folder, **changes) as run:
        run.emit("started", {"num_steps": 4})


def save(run: RunFolder, step: int, content: bytes = b"weights") -> Path:
    with run.checkpoint(step) as folder:
        (folder / "trainable.safetensors").write_bytes(content + str(step).encode())
        (folder / "state.json").write_text(json.dumps({"step": step}))
    return run.checkpoint_dir(step)


def child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python process that has this module's helpers."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_runs_store import *\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["first", "llama-3.1-8b", "a.b.c", "运行-1", "X_2"])
def test_good_names_stay(tmp_path: Path, name: str) -> None:
    assert run_name(recipe(tmp_path, run__name=name)) == name


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", ".hidden", "", "..", "a b", "a\nb", "x" * 300, "nul\0"])
def test_bad_names_are_refused_with_a_good_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError) as caught:
        claim(tmp_path / "runs", run__name=name)
    safe = caught.value.problems[0].values["safe"]
    assert safe == safe_name(safe) and "/" not in safe and not safe.startswith(".")
    assert run_name(recipe(tmp_path, run__name=safe)) == safe
    assert not (tmp_path / "runs").exists()


def test_made_up_name_is_from_model_method_and_data(tmp_path: Path) -> None:
    config = recipe(tmp_path, model__path="org/Qwen2.5-0.5B", data__train="x/my data.v2.jsonl.gz")
    assert run_name(config) == "Qwen2.5-0.5B-sft-my-data"


# ---------------------------------------------------------------------------------------------------- opening


def test_new_run_holds_its_recipe(tmp_path: Path) -> None:
    with claim(tmp_path, run__name="a.b") as run:
        assert resolved(run.config()) == resolved(recipe(tmp_path, run__name="a.b"))
        assert run.path == tmp_path / "a.b" and run.state == "running"
    assert RunFolder.open(tmp_path / "a.b").state == "new"


def test_create_refuses_a_taken_name_and_says_a_free_one(tmp_path: Path) -> None:
    config = recipe(tmp_path, run__name="x")
    RunFolder.create(config, dump(config)).close()
    (tmp_path / "x-2").mkdir()
    with pytest.raises(RunError, match=r"run\.name=x-3"):
        RunFolder.create(config, dump(config))
    claim(tmp_path, run__name="x").close()  # the refusal left no lock behind


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.doc").write_text("mine")
    with pytest.raises(RunError, match=r"thesis\.doc"):
        claim(tmp_path, run__name="x")
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["thesis.doc"]


def test_open_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        RunFolder.open(tmp_path)


def test_finished_run_is_refused_by_name(tmp_path: Path) -> None:
    with claim(tmp_path, run__name="x") as run:
        run.emit("started", {"num_steps": 1})
        run.emit("finished", {}, step=1)
    with pytest.raises(RunError, match="run x is finished") as caught:
        claim(tmp_path, run__name="x")
    assert caught.value.exit_code == 2
    assert "run.name=x-2" in str(caught.value)


def test_states_follow_from_events_and_lock(tmp_path: Path) -> None:
    states = []
    for kind in ("interrupted", "failed", "finished"):
        with claim(tmp_path, run__name="x") as run:
            run.emit("resumed" if states else "started", {"from_step": 0})
            states.append(run.state)
            run.emit(kind, {}, step=1)
        states.append(RunFolder.open(run.path).state)
    assert states == ["running", "interrupted", "running", "failed", "running", "finished"]
    with RunFolder.open(run.path, write=True) as run:  # `runs extend`
        run.emit("revised", {"changes": [["optim.steps", 1, 2]], "reason": "extend"})
    assert RunFolder.open(run.path).state == "interrupted"


def test_a_run_in_an_absolute_folder_says_nothing_of_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / "runs", run__name="x")
    with RunFolder.open("runs/x").at_home():
        assert Path.cwd() == tmp_path


# ---------------------------------------------------------------------------------------------------- changes


def test_a_start_that_failed_binds_nothing(tmp_path: Path) -> None:
    with claim(tmp_path, run__device="cuda") as run:
        run.write_json("plan.json", {})
        run.emit("failed", {"problem": {}}, step=0)
    config = recipe(tmp_path, run__device="cpu")
    assert RunFolder.begun(config) is None
    with claim(tmp_path, run__device="cpu") as run:
        assert run.config().run.device == "cpu" and not run.has("plan.json") and run.events() == []
        save(run, 3)  # whoever deletes the events does not lose the checkpoints
    assert RunFolder.begun(config) is not None
    with pytest.raises(RunError, match=r"run\.device"):
        claim(tmp_path, run__device="cuda")


def test_a_finished_run_whose_result_is_gone_can_be_finished_again(tmp_path: Path) -> None:
    begin(tmp_path)
    with claim(tmp_path) as run:
        with run.replace("adapter") as folder:
            (folder / "w").write_text("one")
        run.emit("finished", {"outputs": ["adapter"]}, step=4)
    with pytest.raises(RunError, match="finished"):
        claim(tmp_path)
    (run.path / "adapter" / "w").unlink()
    (run.path / "adapter").rmdir()
    claim(tmp_path).close()


@pytest.mark.parametrize("file", ["runs", "runs/x"])
def test_a_file_where_a_folder_has_to_be_is_named(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("not a folder")
    config = recipe(tmp_path / "runs", run__name="x")
    for attempt in (RunFolder.refuse_finished, lambda config: RunFolder.claim(config, dump(config))):
        with pytest.raises(RunError) as caught:
            attempt(config)
        (problem,) = caught.value.problems
        assert (problem.id, problem.where) == ("runs.not_a_folder", str(path))


def test_same_recipe_goes_on(tmp_path: Path) -> None:
    begin(tmp_path)
    with claim(tmp_path) as run:
        assert [event.kind for event in run.events()] == ["started"]


def test_changed_recipe_stops_and_lists_every_difference(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(RunError) as caught:
        claim(tmp_path, optim__lr=1e-3, data__max_tokens=512, optim__epochs=5)
    found = {p.field: (p.values["old"], p.values["new"]) for p in caught.value.problems}
    assert found == {"data.max_tokens": (2048, 512), "optim.lr": (2e-4, 1e-3), "optim.epochs": (3.0, 5.0)}
    text = str(caught.value)
    assert "run.on_change=continue" in text and "luthier runs extend" in text
    assert not lock.held(tmp_path / "nano-sft-alpaca" / "lock")


def test_change_goes_on_when_told_to_and_is_recorded(tmp_path: Path) -> None:
    begin(tmp_path)
    with claim(tmp_path, optim__lr=1e-3, run__on_change="continue") as run:
        _, event = run.events()
        assert (event.kind, event.data["changes"]) == ("revised", [["optim.lr", 2e-4, 1e-3]])
        assert run.config().optim.lr == 1e-3


def test_bookkeeping_may_change_freely(tmp_path: Path) -> None:
    begin(tmp_path)
    changes = {"run__keep": 5, "run__log_every": 10, "run__save_every": 7, "run__report": "tensorboard"}
    with claim(tmp_path, **changes) as run:
        assert run.config().run.keep == 5
        assert len(run.events()[-1].data["changes"]) == 4


def test_difference_of_another_kind_names_all_its_fields(tmp_path: Path) -> None:
    new = RunConfig.model_validate({**recipe(tmp_path).model_dump(by_alias=True), "tune": "full"})
    fields = {each.field: each.new for each in difference(recipe(tmp_path), new)}
    assert fields["tune.kind"] == "full" and fields["tune.rank"] is None


# ---------------------------------------------------------------------------------------------------- one writer


def test_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    process = child("run = claim(Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)", tmp_path)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with pytest.raises(RunError, match=f"process {process.pid} on "):
            claim(tmp_path)
        path = tmp_path / "nano-sft-alpaca"
        with pytest.raises(RunError, match="another process"):
            RunFolder.open(path, write=True)
        assert RunFolder.open(path).state == "running"
    finally:
        process.kill()
        process.communicate()
    assert RunFolder.open(path).state == "new"
    claim(tmp_path).close()


def test_readers_that_look_never_keep_a_writer_out(tmp_path: Path) -> None:
    claim(tmp_path).close()
    path = tmp_path / "nano-sft-alpaca"
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            lock.held(path / "lock")

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(30):
            RunFolder.open(path, write=True).close()
    finally:
        done.set()
        for reader in readers:
            reader.join()


def test_stop_is_asked_by_anyone_and_forgotten_by_the_next_attempt(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        assert not run.stop_requested()
        RunFolder.open(run.path).request_stop()
        assert run.stop_requested()
    with claim(tmp_path) as run:
        assert not run.stop_requested()


# ---------------------------------------------------------------------------------------------------- files


def test_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        run.write_json("plan.json", {"value": 1})
    code = """
        run = RunFolder.open(sys.argv[1], write=True)
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        run.write_json("plan.json", {"value": 2})
    """
    assert child(code, run.path).wait() == -signal.SIGKILL
    leftovers = [p.name for p in run.path.iterdir() if files.TEMP_MARK in p.name]
    assert len(leftovers) == 1
    assert RunFolder.open(run.path).read_json("plan.json")["value"] == 1
    RunFolder.open(run.path, write=True).close()
    assert not [p.name for p in run.path.iterdir() if files.TEMP_MARK in p.name]


@pytest.mark.parametrize("content", ["", "{", '{"format": 1', "[]", "null", '{"a": 1}', "\xff", '{"format": "1"}'])
def test_damaged_json_is_a_clear_error(tmp_path: Path, content: str) -> None:
    with claim(tmp_path) as run:
        (run.path / "plan.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(RunError, match=r"plan\.json: the file is damaged"):
            run.read_json("plan.json")


def test_missing_and_newer_json(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        with pytest.raises(RunError, match="not there"):
            run.read_json("plan.json")
        (run.path / "plan.json").write_text('{"format": 99}')
        with pytest.raises(RunError, match="newer Luthier"):
            run.read_json("plan.json")


def test_json_is_strict(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        run.write_json("plan.json", {"loss": float("nan"), "rates": (float("inf"), 0.5), "path": Path("x")})
        text = (run.path / "plan.json").read_text()
    assert json.loads(text, parse_constant=lambda _: pytest.fail("not JSON")) == {
        "format": 1,
        "loss": None,
        "rates": [None, 0.5],
        "path": "x",
    }


def test_secrets_reach_no_file(tmp_path: Path) -> None:
    address = f"https://me:{'p' * 12}@host/org/model?access_token={'q' * 20}"
    with claim(tmp_path, run__name="x", model__path=address) as run:
        run.emit("note", {"text": f"401 for {TOKEN}, Authorization: Bearer {'z' * 30}"})
        run.write_json("plan.json", {"from": address})
        run.write_jsonl("excluded.jsonl", [{"text": TOKEN}])
    everything = b"".join(p.read_bytes() for p in run.path.rglob("*") if p.is_file()).decode()
    for secret in (TOKEN, "p" * 12, "q" * 20, "z" * 30):
        assert secret not in everything
    with claim(tmp_path, run__name="x", model__path=address):
        pass  # cutting secrets out is no change of the recipe


@pytest.mark.parametrize("text", ["task-generation-of-long-names", "a" * 64, "hf_transfer", "runs/risk-free", "key=1"])
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert files.redact(text) == text


# ---------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        for step in (9, 10, 100, 2):
            save(run, step)
        assert run.checkpoints() == [2, 9, 10, 100]
        assert run.newest_valid_checkpoint() == (run.checkpoint_dir(100), [])
        assert run.prune(2, protect=[2]) == [9]
        assert run.checkpoints() == [2, 10, 100]


def damage_truncate(folder: Path) -> None:
    with open(folder / "trainable.safetensors", "r+b") as file:
        file.truncate(3)


def damage_flip(folder: Path) -> None:
    content = bytearray((folder / "trainable.safetensors").read_bytes())
    content[2] ^= 1
    (folder / "trainable.safetensors").write_bytes(content)


def damage_remove(folder: Path) -> None:
    (folder / "state.json").unlink()


def damage_hashes(folder: Path) -> None:
    (folder / "hashes.json").write_text('{"format": 1, "files": [1]}')


def damage_no_hashes(folder: Path) -> None:
    (folder / "hashes.json").unlink()


@pytest.mark.parametrize(
    "damage", [damage_truncate, damage_flip, damage_remove, damage_hashes, damage_no_hashes], ids=lambda f: f.__name__
)
def test_damaged_checkpoint_is_passed_over_and_kept(tmp_path: Path, damage: Any) -> None:
    with claim(tmp_path) as run:
        save(run, 10)
        damage(save(run, 20))
    reader = RunFolder.open(run.path)
    path, problems = reader.newest_valid_checkpoint()
    assert path == run.checkpoint_dir(10) and len(problems) == 1 and "step-20" in problems[0].where
    assert reader.checkpoints() == [10, 20]  # a reader changes nothing
    with RunFolder.open(run.path, write=True) as writer:
        assert writer.newest_valid_checkpoint()[0] == run.checkpoint_dir(10)
        assert (run.path / "checkpoints" / "damaged-step-20").is_dir()
        save(writer, 20)
        writer.prune(1)
        assert writer.checkpoints() == [20]


def test_rotation_never_counts_a_damaged_checkpoint(tmp_path: Path) -> None:
    """After falling back from step 20 to 10, the new step 15 is the newest, not the damaged 20."""
    with claim(tmp_path) as run:
        save(run, 10)
        damage_flip(save(run, 20))
        run.newest_valid_checkpoint()
        save(run, 15)
        run.prune(1)
        assert run.newest_valid_checkpoint()[0] == run.checkpoint_dir(15)


def test_nothing_valid(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        assert run.newest_valid_checkpoint() == (None, [])
        damage_flip(save(run, 1))
        path, problems = run.newest_valid_checkpoint()
        assert path is None and len(problems) == 1


def test_best_weights_stay_until_nothing_refers_to_them(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        for step in (1, 2, 3):
            with run.save_best(step) as folder:
                (folder / "w").write_text(str(step))
        run.prune_best({1, 3})
        assert run.bests() == [1, 3]
        assert (run.best_dir(3) / "w").read_text() == "3" and slots.verify_folder(run.best_dir(3)) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim(tmp_path) as run:
        for content in ("one", "two"):
            with run.replace("adapter") as folder:
                (folder / "w").write_text(content)
        calls = []

        def dies_between_the_renames(source: Any, target: Any) -> None:
            calls.append(source)
            if len(calls) == 2:
                raise KeyboardInterrupt
            os.replace(source, target)

        monkeypatch.setattr(os, "rename", dies_between_the_renames)
        with pytest.raises(KeyboardInterrupt), run.replace("adapter") as folder:
            (folder / "w").write_text("three")
        monkeypatch.undo()
    with RunFolder.open(run.path, write=True):
        assert (run.path / "adapter" / "w").read_text() == "two"


def test_failing_block_leaves_the_old_result(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        with run.replace("adapter") as folder:
            (folder / "w").write_text("one")
        with pytest.raises(ZeroDivisionError), run.replace("adapter") as folder:
            (folder / "w").write_text("two")
            1 / 0  # noqa: B018
        assert (run.path / "adapter" / "w").read_text() == "one"
        assert sorted(p.name for p in (run.path / "adapter").iterdir()) == ["w"]
        assert not [p for p in run.path.iterdir() if files.TEMP_MARK in p.name]


STORM = """
    run = RunFolder.open(sys.argv[1], write=True)
    path, problems = run.newest_valid_checkpoint()
    assert not problems, problems
    step = int(path.name.split("-")[1]) if path else 0
    assert not any(slots.verify_folder(run.best_dir(step)) for step in run.bests())
    run.emit("resumed", {"from_step": step})
    print(step, flush=True)
    while True:
        step += 1
        run.emit("step", {"loss": 1.0}, step=step)
        with run.save_best(step) as folder:
            (folder / "w").write_bytes(os.urandom(20000))
        run.prune_best({step - 1, step})
        save(run, step, os.urandom(200000))
        print(step, flush=True)
        run.prune(2)
"""


def storm(tmp_path: Path, kills: int) -> None:
    """kill -9 a process that does nothing but save, at random moments: each next one finds everything in order."""
    claim(tmp_path).close()
    path, last, draw = tmp_path / "nano-sft-alpaca", 0, random.Random(0)
    for _ in range(kills):
        process = child(STORM, path)
        assert process.stdout is not None
        for wait in range(draw.randint(2, 4)):  # where it begins, and one or more whole checkpoints
            line = process.stdout.readline()
            assert line, "the process found the folder damaged"
            assert int(line) >= last if wait == 0 else int(line) == last + 1
            last = int(line)
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        process.communicate()
    with RunFolder.open(path, write=True) as run:
        found, problems = run.newest_valid_checkpoint()
        assert found is not None and problems == []
        hidden = [p for folder in (path, path / "checkpoints") for p in folder.iterdir() if p.name.startswith(".")]
        assert hidden == []
        assert len(run.checkpoints()) <= 3  # keep 2, and one that was not yet pruned
        assert [e.seq for e in run.events()] == list(range(1, len(run.events()) + 1))


def test_kills_while_saving(tmp_path: Path) -> None:
    storm(tmp_path, 8)


@pytest.mark.long
def test_many_kills_while_saving(tmp_path: Path) -> None:
    storm(tmp_path, 200)


# ---------------------------------------------------------------------------------------------------- full disks


def test_full_disk_while_saving(tmp_path: Path) -> None:
    """A real refusal of the kernel: the process may write files of 100 kB at most."""
    with claim(tmp_path) as run:
        save(run, 1)
    code = """
        from luthier.errors import RunError
        run = RunFolder.open(sys.argv[1], write=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(run, 2, b"x" * 200_000)
        except RunError as error:
            print(error.problems[0].id, run.checkpoints(), run.newest_valid_checkpoint()[0].name)
    """
    out, _ = child(code, run.path).communicate()
    assert out == "runs.no_room_left [1] step-1\n"
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-1"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "library"],
)
def test_full_disk_says_needed_and_free(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _: 1_000)
    with claim(tmp_path) as run:
        save(run, 1, b"x" * 5_000_000)
        with pytest.raises(RunError, match=r"5\.0 MB to write, 1\.0 kB free") as caught, run.checkpoint(2) as folder:
            (folder / "half").write_bytes(b"y")
            raise error
        assert caught.value.__cause__ is error
        assert run.checkpoints() == [1] and run.newest_valid_checkpoint()[0] == run.checkpoint_dir(1)
        assert len(list((run.path / "checkpoints").iterdir())) == 1


def test_full_disk_while_committing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim(tmp_path) as run:
        save(run, 1)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        for step in (1, 2):  # over an existing one too
            with pytest.raises(RunError, match="no room"):
                save(run, step)
        with pytest.raises(RunError, match="no room"):
            run.write_text("plan.json", "{}")
        monkeypatch.undo()
        assert run.newest_valid_checkpoint() == (run.checkpoint_dir(1), [])
        assert not run.has("plan.json")
        assert not [p for p in run.path.rglob("*") if files.TEMP_MARK in p.name]


def test_what_is_needed_is_never_said_to_be_less_than_what_is_free(tmp_path: Path) -> None:
    free = files.free_bytes(tmp_path)
    for needed in (10, free + free // 10**6):  # less than is free; more, but the same when it is told
        found = files.trouble(OSError(errno.ENOSPC, "No space left on device"), tmp_path, needed)
        assert found is not None and found.problems[0].id == "runs.no_room_left"
    found = files.trouble(OSError(errno.ENOSPC, "No space left on device"), tmp_path, 10 * free)
    assert found is not None and found.problems[0].id == "runs.no_room"


def test_other_exceptions_pass_unchanged(tmp_path: Path) -> None:
    with claim(tmp_path) as run, pytest.raises(ValueError, match="shape"), run.checkpoint(1):
        raise ValueError("shape")


def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    code = """
        from luthier.errors import RunError
        if os.geteuid() == 0:
            os.setgid(65534); os.setuid(65534)
        try:
            claim(Path(sys.argv[1]) / "runs")
        except RunError as error:
            print(error.problems[0].id, error.problems[0].values["reason"])
    """
    tmp_path.chmod(0o555)
    try:
        out, _ = child(code, tmp_path).communicate()
    finally:
        tmp_path.chmod(0o755)
    assert out == "runs.refused Permission denied\n"


# ---------------------------------------------------------------------------------------------------- the index


def test_index_is_made_from_the_folders(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with claim(tmp_path, run__name=name) as run:
            run.emit("started", {"num_steps": 4})
            run.emit("step", {"loss": 0.5, "num_steps": 4}, step=3)
            if name == "old":
                run.emit("finished", {}, step=4)
        time.sleep(0.01)
    (tmp_path / "no run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.yaml").write_text("model: [")
    found = index(tmp_path)
    assert [(info.name, info.state) for info in found] == [("new", "new"), ("old", "finished"), ("broken", "damaged")]
    assert found[0].summary is not None and (found[0].summary.step, found[0].summary.loss) == (3, 0.5)
    assert "recipe.yaml" in found[2].problem
    assert index(tmp_path / "absent") == []


def test_no_torch() -> None:
    modules = "luthier.runs.commands, luthier.runs.reporters, luthier.runs.verify, luthier.progress"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


assert resource  # used by the child of test_full_disk_while_saving
