"""Killed at any moment, a run ends with the same bits as one that was left alone.

Children come from a fork server that has everything imported and has computed nothing, so a kill costs milliseconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import unmeasured
from safetensors.torch import load_file

import luthier
from luthier import proof
from luthier.engine import backend
from luthier.errors import RunError

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["luthier.training", "luthier.finish"])
PATIENCE_S = 120.0
SUITE_KILLS, LONG_KILLS = 8, 200


def run_in_child(recipe: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    backend._measured = unmeasured.products
    proof.reload_in_fresh_process = lambda run: "not made in this test"  # takes longer than the training
    luthier.train(recipe)


def start(recipe: dict[str, Any]) -> Any:
    child = CONTEXT.Process(target=run_in_child, args=(recipe,))
    child.start()
    return child


@pytest.fixture
def recipe(tiny_model, runs_dir):
    return recipe_at(runs_dir, tiny_model)


def recipe_at(runs: Path, tiny_model: Any) -> dict[str, Any]:
    """Thirty steps with a checkpoint after each, so that most kills fall into the writing of one."""
    rows = [{"instruction": f"Count to {i}", "output": " ".join(map(str, range(i % 9 + 1)))} for i in range(60)]
    file = runs.parent / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": {"path": str(tiny_model("qwen2")), "dtype": "float32"},
        "data": {"train": str(file), "validation": 0.1, "max_tokens": 128},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.05},
        "optim": {"lr": 5e-3, "steps": 30, "batch": 4},
        "run": {"name": "straight", "device": "cpu", "dir": str(runs), "save_every": 1, "validate_every": 7},
    }


def last_step(run: Path) -> int:
    try:
        lines = (run / "events.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] or 0 for line in lines), default=0)


def result(run: Path) -> dict[str, bytes]:
    """Every byte that must not depend on how often the run was killed."""
    checkpoint = run / "checkpoints" / "step-30"
    files = [
        checkpoint / "trainable.safetensors",
        checkpoint / "optim.safetensors",
        *run.glob("best/*/trainable.safetensors"),
    ]
    assert len(files) >= 3
    files.append(run / "adapter" / "adapter_model.safetensors")
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, tiny_model) -> dict[str, bytes]:
    """The result of a run that was left alone."""
    runs = tmp_path_factory.mktemp("straight") / "runs"
    straight = start(recipe_at(runs, tiny_model))
    straight.join(PATIENCE_S)
    assert straight.exitcode == 0
    return result(runs / "straight")


def kill_often(recipe: dict[str, Any], kills: int, seed: int) -> Path:
    """Start the run again and again, killing it after a random moment of progress; then let it finish."""
    rng = random.Random(seed)
    run = Path(recipe["run"]["dir"]) / recipe["run"]["name"]
    for _ in range(kills):
        child = start(recipe)
        reached, deadline = last_step(run) + rng.randint(0, 3), time.monotonic() + PATIENCE_S
        while child.is_alive() and last_step(run) < reached and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        child.kill()
        child.join()
        if (run / "receipt.md").exists():
            break
    child = start(recipe)
    child.join(PATIENCE_S)
    assert child.exitcode in (0, 1), "it neither finished nor had finished"  # 1: the kills came after its end
    return run


@pytest.mark.parametrize("kills", [SUITE_KILLS, pytest.param(LONG_KILLS, marks=pytest.mark.long)])
def test_a_run_killed_often_ends_with_the_same_bits(recipe, expected, kills):
    done, storm = 0, 0
    while done < kills:
        recipe["run"]["name"] = f"killed-{storm}"
        killed = kill_often(recipe, min(SUITE_KILLS, kills - done), seed=storm)
        assert result(killed) == expected
        assert len(list((killed / "checkpoints").glob("step-*"))) == 2, "two are kept"
        assert not list(killed.rglob(".*tmp-*")), "nothing half written is left behind"
        done, storm = done + SUITE_KILLS, storm + 1


def test_sigterm_ends_with_a_full_checkpoint_and_the_same_command_goes_on(recipe):
    recipe["optim"]["steps"] = steps = 50
    path = Path(recipe["run"]["dir"]) / "straight"
    file = path.parent / "recipe.json"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    command = [sys.executable, "-m", "luthier", "train", str(file)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_S
    while last_step(path) < 3 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert luthier.Run(path).state == "interrupted"
    stopped = max(int(each.name.split("-")[1]) for each in (path / "checkpoints").iterdir())
    assert 3 <= stopped < steps
    again = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "Traceback" not in again.stderr and luthier.Run(path).state == "finished", again.stderr
    resumed = next(event for event in luthier.Run(path).events if event.kind == "resumed")
    assert resumed.data["from_step"] == stopped
    done = [event.step for event in luthier.Run(path).events if event.kind == "step"]
    assert done == list(range(1, steps + 1)), "every step was made once"


def interrupted_at(recipe: dict[str, Any], step: int) -> Path:
    """A run that was killed soon after a step."""
    path = Path(recipe["run"]["dir"]) / recipe["run"]["name"]
    child = start(recipe)
    deadline = time.monotonic() + PATIENCE_S
    while last_step(path) < step and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()
    child.join()
    return path


@pytest.mark.parametrize("file", ["trainable.safetensors", "optim.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(recipe, expected, file, no_fresh_process):
    recipe["run"]["name"] = "damaged"
    path = interrupted_at(recipe, 6)
    newest = max((path / "checkpoints").glob("step-*"), key=lambda p: int(p.name.split("-")[1]))
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[: len(content) // 2])
    run = luthier.train(recipe)
    assert result(path) == expected
    notes = [event.data["text"] for event in run.events if event.kind == "note"]
    assert any(file in note for note in notes)


def test_a_changed_recipe_stops_a_resume_and_shows_what_differs(recipe):
    interrupted_at(recipe, 3)
    recipe["tune"]["rank"] = 8
    with pytest.raises(RunError, match=r"tune\.rank"):
        luthier.train(recipe)


def test_a_stop_request_from_another_process_is_obeyed(recipe):
    recipe["optim"]["steps"] = 400
    path = Path(recipe["run"]["dir"]) / "straight"
    child = start(recipe)
    deadline = time.monotonic() + PATIENCE_S
    while last_step(path) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    luthier.Run(path).folder.request_stop()
    child.join(PATIENCE_S)
    assert luthier.Run(path).state == "interrupted"


def test_two_writers_are_refused(recipe):
    recipe["optim"]["steps"] = 400
    path = Path(recipe["run"]["dir"]) / "straight"
    child = start(recipe)
    deadline = time.monotonic() + PATIENCE_S
    while last_step(path) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        with pytest.raises(RunError, match=str(child.pid)):
            luthier.train(recipe)
    finally:
        child.kill()
        child.join()


def test_a_disk_that_fills_up_is_a_clear_error_and_loses_nothing(recipe, tmp_path, no_fresh_process):
    """The run folder lies on a small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this sandbox allows no mounts")
    try:
        recipe["run"] |= {"dir": str(disk), "keep": 20}
        with pytest.raises(RunError) as caught:
            luthier.train(recipe)
        assert "disk" in str(caught.value).lower() or "room" in str(caught.value).lower()
        run = luthier.Run(disk / "straight")
        kept, problems = run.folder.newest_valid_checkpoint()
        assert kept is not None and not problems
        step = json.loads((kept / "state.json").read_text())["step"]
        assert step >= 1 and load_file(kept / "trainable.safetensors")
        for old in run.folder.checkpoints()[:-1]:
            shutil.rmtree(run.folder.checkpoint_dir(old))
        recipe["run"]["keep"] = 1
        assert luthier.train(recipe).state == "finished"
    finally:
        subprocess.run(["umount", str(disk)], check=False)
