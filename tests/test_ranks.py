"""Several processes make one step together: the same order, denominators and gradients, whatever their number.

The oracle is the run of one process, whose gradients `test_decoder.py` and `test_train.py` hold against transformers.
Ranks come from a fork server that has everything imported, placed as torchrun places its processes; what Luthier
starts itself is tested through the command line.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rank_child
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_resume import last_step
from torch.distributed import TCPStore

import luthier
from luthier import launch, training
from luthier.batch import TERM, Rendered
from luthier.config.load import load
from luthier.data import pack
from luthier.engine import backend, ranks, rehearsal
from luthier.errors import ConfigError, PeerLost

BOUND = 1e-5
PATIENCE_S = 120.0
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["luthier.training", "luthier.finish", "rank_child"])
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 4, "dropout": 0.1},
    "full": {"kind": "full"},
    "freeze": {"kind": "freeze", "layers": 1},
}


@pytest.fixture
def recipe(tiny_model, write_rows, runs_dir) -> dict[str, Any]:
    """Rows of many lengths, small micro-batches; a step of 7 leaves ranks with unequal shares, the last has 3."""
    rows = [{"instruction": f"Count to {i}", "output": " ".join(map(str, range(1 + i * i % 23)))} for i in range(40)]
    return {
        "model": {"path": str(tiny_model("qwen2")), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.jsonl", rows)), "validation": 0.2, "max_tokens": 128},
        "tune": KINDS["lora"],
        "optim": {"kind": "sgd", "lr": 0.05, "steps": 1, "batch": 7, "clip": 0, "budget_tokens": 128, "warmup": 0},
        "run": {"name": "one", "device": "cpu", "dir": str(runs_dir), "save_every": 1, "validate_every": 2},
    }


def start(
    recipe: dict[str, Any], size: int, *, finishes: bool = False, short: bool = False
) -> tuple[list[Any], Any, Path]:
    """`size` processes that train one run; the store they find each other by; rank 0's gradients."""
    gradients = Path(recipe["run"]["dir"]) / f"{recipe['run']['name']}.gradients"
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    children = []
    for rank in range(size):
        place = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else {}
        child = CONTEXT.Process(
            target=rank_child.train, args=(recipe, place, str(gradients)), kwargs={"finishes": finishes, "short": short}
        )
        child.start()
        children.append(child)
    return children, store, gradients


def end(children: list[Any]) -> list[int | None]:
    """Exit codes, once all have ended."""
    for child in children:
        child.join(PATIENCE_S)
    return [child.exitcode for child in children]


def trained(
    recipe: dict[str, Any], size: int, *, finishes: bool = False, short: bool = False, **others: Any
) -> tuple[luthier.Run, dict[str, torch.Tensor]]:
    recipe = {**recipe, **others, "run": {**recipe["run"], "name": f"by-{size}"}}
    children, _store, gradients = start(recipe, size, finishes=finishes, short=short)
    assert end(children) == [0] * size
    return luthier.Run(Path(recipe["run"]["dir"]) / f"by-{size}"), load_file(gradients)


def tensors_of(run: luthier.Run, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.path / "checkpoints" / f"step-{step}" / "trainable.safetensors")


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of a tensor, max|a-b| / max|b|."""
    assert ours.keys() == theirs.keys() and ours
    gaps = [float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-30)) for name in ours]
    return max(gaps)


# ---------------------------------------------------------------------------------------------- shares of a step

lengths_of = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(lambda each: np.array(each, dtype=np.int64))


@given(lengths_of, st.integers(1, 9))
@settings(deadline=None)
def test_every_example_is_computed_by_one_rank_and_the_load_is_even(lengths, size):
    shares = pack.shared_out(lengths, size)
    assert len(shares) == size
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in shares)
    loads = [int(lengths[share].sum()) for share in shares]
    assert max(loads) - min(loads) <= int(lengths.max())
    if len(lengths) >= size:
        assert min(loads) > 0


def test_one_rank_gets_everything_in_its_order():
    lengths = np.array([3, 9, 1, 9], dtype=np.int64)
    assert pack.shared_out(lengths, 1) == [[0, 1, 2, 3]]


def test_a_filler_weighs_nothing():
    example = Rendered(7, np.arange(5, dtype=np.int32), np.array([0, 0, 1, 1, 1], dtype=np.float32))
    batch = pack.filler(example)
    assert (batch.num_tokens, batch.ids.tolist(), batch.uid.tolist(), batch.rows.tolist()) == (1, [0], [7], [0])
    assert batch.weights[TERM].tolist() == [0.0]


def test_buckets_hold_every_parameter_in_order(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET_ELEMENTS", 10)
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (4, 6, 1, 30, 2, 8)]
    sizes = [[p.numel() for p in bucket] for bucket in ranks._buckets(parameters)]
    assert sizes == [[4, 6], [1], [30], [2, 8]]


# ---------------------------------------------------------------------------------------------- one step, one run


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_on_1_2_and_4_ranks(recipe, kind):
    one, expected = trained(recipe, 1, tune=KINDS[kind])
    for size in (2, 4):
        several, gradients = trained(recipe, size, tune=KINDS[kind])
        assert difference(gradients, expected) <= BOUND
        assert difference(tensors_of(several, 1), tensors_of(one, 1)) <= BOUND
        for ours, theirs in zip(facts(several), facts(one), strict=True):
            assert ours == pytest.approx(theirs, rel=BOUND)


def facts(run: luthier.Run) -> list[tuple[float, ...]]:
    """Loss, gradient norm and tokens of every step, and every validation."""
    steps = [(e.data["loss"], e.data["grad_norm"], e.data["tokens"]) for e in run.events if e.kind == "step"]
    return [*steps, *[(e.data["loss"],) for e in run.events if e.kind == "validation"]]


def answers(run: luthier.Run) -> dict[int | None, list[dict[str, str]]]:
    """Those to held-out examples, by step."""
    return {event.step: event.data["samples"] for event in run.events if event.kind == "samples"}


def test_a_whole_run_is_the_same_on_2_ranks_and_written_by_one(recipe):
    optim = {**recipe["optim"], "steps": 12, "clip": 1.0, "momentum": 0.9}
    recipe["run"] |= {"samples": 3, "sample_tokens": 4}
    one, _ = trained(recipe, 1, optim=optim)
    two, _ = trained(recipe, 2, optim=optim, finishes=True)
    assert difference(tensors_of(two, 12), tensors_of(one, 12)) <= 12 * BOUND
    for ours, theirs in zip(facts(two), facts(one), strict=True):
        assert ours == pytest.approx(theirs, rel=BOUND)
    assert answers(two) == answers(one) and [len(each) for each in answers(two).values()] == [3] * 7
    assert [event.seq for event in two.events] == list(range(1, len(two.events) + 1)), "one writer"
    assert [e.kind for e in two.events if e.kind not in ("note", "finished")] == [
        e.kind for e in one.events if e.kind != "note"
    ]
    # What has nothing in common with the rest costs the same wherever it is computed; a rank's own share alone is less.
    computed = [sum(e.data["computed_tokens"] for e in run.events if e.kind == "step") for run in (one, two)]
    assert computed[1] >= computed[0]
    assert two.receipt.failed == 0 and two.folder.read_json("plan.json")["backend"]["devices"] == 2


def test_ranks_keep_what_frozen_layers_make(recipe):
    """Two epochs, in which a row comes to another rank."""
    optim = {**recipe["optim"], "steps": None, "epochs": 2}
    two, _ = trained(recipe, 2, tune=KINDS["freeze"], optim=optim, finishes=True)
    assert two.folder.read_json("plan.json")["bottom_layers"] > 0
    one, _ = trained(recipe, 1, tune=KINDS["freeze"], optim=optim)
    steps = len(facts(one))
    assert steps == len(facts(two))
    for ours, theirs in zip(facts(two), facts(one), strict=True):
        assert ours == pytest.approx(theirs, rel=steps * BOUND)


def test_the_same_number_of_ranks_gives_the_same_bits(recipe):
    optim = {**recipe["optim"], "steps": 3, "kind": "adamw", "lr": 1e-3}
    del optim["budget_tokens"]
    first, _ = trained(recipe, 2, optim=optim)
    first.path.rename(first.path.with_name("before"))
    second, _ = trained(recipe, 2, optim=optim)
    before = load_file(first.path.with_name("before") / "checkpoints" / "step-3" / "trainable.safetensors")
    assert all(torch.equal(before[name], value) for name, value in tensors_of(second, 3).items())


@pytest.mark.parametrize("activations", ["auto", "keep"])
def test_where_one_rank_has_no_memory_all_hold_less(recipe, activations):
    """Layers keep less, which changes no bit; or micro-batches are split further. Answers to held-out examples are left
    out once."""
    recipe["optim"] |= {"steps": 3, "activations": activations}
    recipe["run"] |= {"samples": 3, "sample_tokens": 4}
    plain, _ = trained(recipe, 2)
    plain.path.rename(plain.path.with_name("plain"))
    short, _ = trained(recipe, 2, short=True)
    (revision,) = [event.data for event in short.events if event.kind == "revised"]
    field = "plan.activations" if activations == "auto" else "plan.budget_tokens"
    assert revision["changes"][0][0] == field and revision["from_step"] == 1
    assert revision["error"] == "rank 1: not enough memory"
    assert answers(short).keys() == {2, 3} and {"prompt", "reference", "answer"} == answers(short)[3][2].keys()
    (note,) = [event for event in short.events if event.kind == "note" and "run.samples" in event.data["text"]]
    assert note.step == 0 and "rank 1: not enough memory" in note.data["text"]
    expected = load_file(plain.path.with_name("plain") / "checkpoints" / "step-3" / "trainable.safetensors")
    assert difference(tensors_of(short, 3), expected) <= (0 if activations == "auto" else 3 * BOUND)


# ---------------------------------------------------------------------------------------------- ends


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def test_a_signal_to_any_rank_stops_all_after_the_same_step(recipe):
    recipe["optim"]["steps"] = 200
    children, _store, _ = start(recipe, 2)
    path = Path(recipe["run"]["dir"]) / "one"
    wait_for(lambda: last_step(path) >= 3)
    os.kill(children[1].pid, signal.SIGTERM)
    assert end(children) == [143, 143]
    run = luthier.Run(path)
    assert run.state == "interrupted"
    stopped = max(run.folder.checkpoints())
    assert stopped == last_step(path) < 200
    recipe["optim"]["steps"], recipe["run"]["on_change"] = stopped + 2, "continue"
    children, _store, _ = start(recipe, 3)
    assert end(children) == [0] * 3
    changes = [change for event in run.events if event.kind == "revised" for change in event.data["changes"]]
    assert ["plan.devices", 2, 3] in changes
    assert last_step(path) == stopped + 2


def test_rows_whose_loss_is_not_finite_are_named_by_whichever_rank_has_them(recipe):
    broken = Path(recipe["run"]["dir"]).parent / "broken"
    shutil.copytree(recipe["model"]["path"], broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    recipe["model"]["path"] = str(broken)
    recipe["optim"]["steps"] = 9
    children, _store, _ = start(recipe, 2)
    assert end(children) == [1, 1], "all stop together"
    run = luthier.Run(Path(recipe["run"]["dir"]) / "one")
    faults = [event.data["rows"] for event in run.events if event.kind == "fault"]
    assert len(faults) == 3 and all(len(set(rows)) == 7 for rows in faults), "of all ranks, each once"


# ---------------------------------------------------------------------------------------------- how many


def test_auto_is_every_gpu_or_one_process_on_a_cpu(monkeypatch):
    assert backend.devices("auto", "cpu", most=16) == 1
    assert backend.devices(3, "cpu", most=16) == 3
    assert backend.devices("auto", "cpu", most=16, saved=2) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert backend.devices("auto", "auto", most=16) == 4
    assert backend.devices("auto", "auto", most=3) == 3, "no device without examples"
    assert backend.devices("auto", "auto", most=16, saved=2) == 2, "the plan's own number, as long as it can be had"
    assert backend.devices("auto", "auto", most=16, saved=8) == 4
    with pytest.raises(ConfigError) as error:
        backend.devices(5, "cuda", most=16)
    assert error.value.problems[0].id == "engine.too_few_devices"


def test_a_launcher_decides_how_many(monkeypatch, recipe):
    for name, value in zip(backend.PLACE, ("1", "2", "1", "2", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    assert backend.placed() == backend.Place(1, 2, 1, 2)
    assert backend.devices("auto", "cpu", most=16) == backend.devices(2, "cpu", most=16) == 2
    with pytest.raises(ConfigError) as error:
        backend.devices(4, "cpu", most=16)
    assert error.value.problems[0].id == "engine.devices_of_launcher"
    answers = {**recipe, "method": {"kind": "grpo", "rewards": "exact"}, "tune": {"kind": "lora", "rank": 4}}
    with pytest.raises(ConfigError) as error:
        training._devices(load(answers), None)
    assert error.value.problems[0].id == "config.answers_alone", "each would write the same answers"
    within = {**recipe, "tune": KINDS["full"], "optim": {"in_backward": True, "clip": 0}}
    with pytest.raises(ConfigError) as error:
        training._devices(load(within), None)
    assert error.value.problems[0].id == "config.in_backward_alone"
    monkeypatch.delenv("MASTER_PORT")
    assert backend.placed() is None, "a variable of that name alone means nothing"


# ---------------------------------------------------------------------------------------------- started by us


def command(recipe: dict[str, Any], *rest: str) -> list[str]:
    file = Path(recipe["run"]["dir"]).parent / "recipe.json"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    return [sys.executable, "-m", "luthier", "train", str(file), *rest]


def ranks_below(pid: int) -> dict[int, int]:
    """rank -> process id of the processes that a command has started."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        given_ = dict(
            each.split("=", 1) for each in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in each
        )
        if "RANK" in given_:
            found[int(given_["RANK"])] = int(child)
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_a_killed_rank_ends_all_and_says_which_and_the_run_goes_on(recipe):
    recipe["optim"]["steps"], recipe["run"]["devices"] = 300, 2
    path = Path(recipe["run"]["dir"]) / "one"
    parent = subprocess.Popen(command(recipe), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: last_step(path) >= 3 or parent.poll() is not None)
    pids = ranks_below(parent.pid)
    assert pids.keys() == {0, 1}
    os.kill(pids[1], signal.SIGKILL)
    _, errors = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 1, errors
    assert "rank 1 of 2 ended by signal 9 (SIGKILL)" in errors and f"luthier runs resume {path}" in errors
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    run = luthier.Run(path)
    assert run.state == "failed"
    reached = max(run.folder.checkpoints())
    run = luthier.train(recipe, {"run.devices": 1, "optim.steps": reached + 2, "run.on_change": "continue"})
    assert run.state == "finished"
    resumed = next(event for event in run.events if event.kind == "resumed")
    assert resumed.data["from_step"] == reached
    changes = [change for event in run.events if event.kind == "revised" for change in event.data["changes"]]
    assert ["run.devices", 2, 1] in changes and ["plan.devices", 2, 1] in changes


@pytest.mark.parametrize(
    ("codes", "blamed"),
    [
        ({0: launch.PEER_LOST, 1: -signal.SIGKILL}, 1),
        ({0: -signal.SIGKILL, 1: launch.PEER_LOST}, 0),
        ({0: -signal.SIGTERM, 1: launch.PEER_LOST, 2: 1}, 2),
        ({0: 1, 1: -signal.SIGSEGV}, 1),
    ],
)
def test_of_several_that_ended_the_one_that_nobody_ended_is_blamed(codes, blamed, tmp_path):
    """Which of them is seen to have ended first is chance."""
    workers = SimpleNamespace(exit_codes=codes, said=lambda rank: f"last word of {rank}")
    told = str(launch._died(workers, 3, tmp_path / "run", tmp_path))
    assert f"rank {blamed} of 3" in told and f"last word of {blamed}" in told


def test_ctrl_c_is_passed_on_and_ends_with_a_checkpoint(recipe):
    recipe["optim"]["steps"], recipe["run"]["devices"] = 300, 2
    path = Path(recipe["run"]["dir"]) / "one"
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests may have it ignored
    try:
        parent = subprocess.Popen(command(recipe, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, heard)
    wait_for(lambda: last_step(path) >= 3 or parent.poll() is not None)
    parent.send_signal(signal.SIGINT)
    out, errors = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 130, errors
    assert json.loads(out)["error"]["problems"][0]["id"] == "engine.interrupted"
    run = luthier.Run(path)
    assert run.state == "interrupted" and max(run.folder.checkpoints()) == last_step(path)


def test_what_is_wrong_is_told_once_before_anything_is_started(recipe):
    recipe["run"]["devices"] = 2
    recipe["data"]["train"] = "nowhere.jsonl"
    done = subprocess.run(command(recipe), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2 and done.stderr.count("nowhere.jsonl") == 1, done.stderr


def test_an_error_of_the_ranks_is_the_error_of_the_run(recipe):
    """Here, of the plan, which rank 0 makes."""
    recipe["run"]["devices"] = 2
    recipe["optim"] |= {"kind": "adamw", "paged": True}
    seen = []
    with pytest.raises(ConfigError) as error:
        luthier.train(recipe, on_event=seen.append)
    assert error.value.problems[0].id == "engine.paged_on_cpu"
    assert not seen


def test_a_process_lost_in_the_rehearsal_is_not_called_too_large(monkeypatch):
    def lost(*_: Any) -> None:
        raise PeerLost("connection closed")

    monkeypatch.setattr(rehearsal, "_compute", lost)
    with pytest.raises(PeerLost):
        rehearsal.rehearse(None, None)


def test_a_second_ctrl_c_leaves_no_folder_behind(recipe, monkeypatch, tmp_path):
    killed: list[bool] = []

    class Processes:
        def __init__(self, *_: Any) -> None:
            assert len(list(tmp_path.glob("luthier-ranks-*"))) == 1

        def kill(self) -> None:
            killed.append(True)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "Workers", Processes)
    monkeypatch.setattr(launch, "_watch", interrupted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        launch.run(load(recipe), 2, None, None, None)
    assert killed and not list(tmp_path.glob("luthier-ranks-*"))
