"""Memory that runs out: found before step 1, mended on the way, and never at the cost of a bit that was promised.

An allocator of limited size stands in for a small machine: it raises torch's own error when the tensors made within a
step would hold more than it has. One test runs into a limit of the operating system's, in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import luthier
import luthier.proof
from luthier import machine as this_machine
from luthier import moments, planner, tightening
from luthier.engine import backend, checkpoint, loop, memory, optim, rehearsal
from luthier.errors import Interrupted, RunError, TrainingFailed

WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]


pytestmark = pytest.mark.usefixtures("no_fresh_process")


@pytest.fixture
def recipe(tiny_model, write_rows, runs_dir):
    """Eight steps of eight rows in float32, each step one micro-batch."""
    rows = [
        {"instruction": f"Say {WORDS[i % 12]} {i}", "output": " ".join(WORDS[j % 12] for j in range(i, i + 4 + i % 5))}
        for i in range(64)
    ]
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.json", rows)), "max_tokens": 100},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "optim": {"lr": 1e-2, "epochs": 1, "batch": 8, "activations": "keep"},
        "run": {"name": "first", "device": "cpu", "dir": str(runs_dir), "save_every": 2},
    }


class Allocator(TorchDispatchMode):
    """Gives out at most `limit` bytes to tensors that live at one time."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.peak, self._now = limit, 0, 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._sizes:
                size = tensor.untyped_storage().nbytes()
                if self._now + size > self.limit:
                    raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: "
                                       f"you tried to allocate {size} bytes.\nStack")  # fmt: skip
                self._sizes[key] = size
                self._now += size
                self.peak = max(self.peak, self._now)
                weakref.finalize(tensor.untyped_storage(), self._freed, key)
        return made

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


class Machine:
    """A machine whose memory for a step's tensors changes; measures what steps take."""

    def __init__(self, monkeypatch) -> None:
        self.limits: dict[int, float] = {}  # optimizer step -> bytes
        self.peaks: list[int] = []
        self.tokens: list[int] = []
        self._plain = loop.accumulate
        monkeypatch.setattr(loop, "accumulate", self._accumulate)

    def _accumulate(self, job, step, scale, *watching):
        self.tokens.append(max(batch.num_tokens for batch in step.micro))
        rehearsing = not job.run.has_begun
        with Allocator(self.limits.get(-1 if rehearsing else step.index, float("inf"))) as allocator:
            loss = self._plain(job, step, scale, *watching)
        self.peaks.append(allocator.peak)
        return loss


@pytest.fixture
def machine(monkeypatch) -> Machine:
    return Machine(monkeypatch)


def named(recipe: dict[str, Any], name: str, **optim_settings: Any) -> dict[str, Any]:
    return {**recipe, "run": {**recipe["run"], "name": name}, "optim": {**recipe["optim"], **optim_settings}}


def folder_of(recipe: dict[str, Any]) -> Path:
    return Path(recipe["run"]["dir"]) / recipe["run"]["name"]


def final(path: Path) -> dict[str, torch.Tensor]:
    newest = max((path / "checkpoints").iterdir(), key=lambda each: int(each.name.split("-")[1]))
    return {**load_file(newest / "trainable.safetensors"), **load_file(newest / "optim.safetensors")}


def same(one: Path, other: Path) -> bool:
    a, b = final(one), final(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def revisions(path: Path) -> list[dict]:
    return [event.data for event in luthier.Run(path).events if event.kind == "revised"]


def plan_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "plan.json").read_text())


# --------------------------------------------------------------------------------------------------- the rehearsal


@pytest.mark.parametrize("resumed", [False, True])
def test_it_is_undone_to_the_bit(recipe, monkeypatch, resumed):
    recipe["data"]["validation"] = 0.2
    if resumed:
        with pytest.raises(KeyboardInterrupt):
            luthier.train(recipe, on_event=stopping_at("step", 3))
    seen = []

    def snapshot(job, state):
        files = {path: path.read_bytes() for path in job.run.path.rglob("*") if path.is_file() and path.name != "lock"}
        weights = {name: p.detach().clone() for name, p in job.model.named_parameters()}
        slots = {key: value.clone() for key, value in optim.state_tensors(job.optimizer, job.named).items()}
        grads = [p.grad for _, p in job.named]
        return files, weights, slots, grads, torch.get_rng_state(), repr(state), job.method.state_dict()

    def watched(job, state):
        before = snapshot(job, state)
        plain(job, state)
        seen.append((before, snapshot(job, state)))

    plain = rehearsal.rehearse
    monkeypatch.setattr(rehearsal, "rehearse", watched)
    luthier.train(recipe)
    ((before, after),) = seen
    assert before[0] == after[0], "the run folder, events and all"
    assert before[1].keys() == after[1].keys()
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert after[3] == [None] * len(after[3]) and torch.equal(before[4], after[4]) and before[5:] == after[5:]
    if resumed:
        assert (
            all(torch.equal(before[2][key], after[2][key]) for key in before[2]) and before[2].keys() == after[2].keys()
        )
        assert any(value.any() for value in before[2].values())
    else:
        assert not before[2] and len(after[2]) == 3 * len(after[3]), (
            "moments are there before the first step needs them"
        )
        assert not any(value.any() for value in after[2].values())


def test_no_bit_of_a_run_depends_on_it(recipe, monkeypatch):
    luthier.train(recipe)
    monkeypatch.setattr(rehearsal, "rehearse", lambda job, state: None)
    luthier.train(named(recipe, "unrehearsed"))
    assert same(folder_of(recipe), folder_of(named(recipe, "unrehearsed")))


def test_its_micro_batch_is_no_smaller_than_any_of_the_run(recipe, machine):
    for name, budget in (("whole", 4096), ("split", 150)):
        machine.tokens.clear()
        luthier.train(named(recipe, name, budget_tokens=budget))
        assert len(machine.tokens) == 9 and machine.tokens[0] == max(machine.tokens) <= budget


def test_what_does_not_fit_is_held_less_before_the_first_step(recipe, machine):
    luthier.train(named(recipe, "large"))
    machine.limits[-1] = machine.peaks[0] * 0.6
    luthier.train(recipe)
    path = folder_of(recipe)
    (revision,) = revisions(path)
    plan = plan_of(path)
    ((field, before, now),) = revision["changes"]
    assert (field, revision["reason"], revision["from_step"]) == ("plan.budget_tokens", "memory", 0)
    assert "DefaultCPUAllocator" in revision["error"]
    assert plan["budgets"] == [[0, now]] and plan["budget_tokens"] == now < before
    luthier.train(named(recipe, "small", budget_tokens=now))
    assert same(path, folder_of(named(recipe, "small"))), "as if the plan had been that from the start"


def test_where_nothing_can_be_held_less_it_ends_before_anything_binds(recipe, machine):
    machine.limits[-1] = 1000
    with pytest.raises(RunError, match="memory ran out"):
        luthier.train(recipe)
    run = luthier.Run(folder_of(recipe))
    assert run.state == "failed" and not run.folder.has_begun and not run.folder.checkpoints()
    machine.limits.clear()
    recipe["tune"]["rank"] = 8
    assert luthier.train(recipe).state == "finished", "another recipe may take the name"
    assert not revisions(folder_of(recipe)), "and starts anew"


@pytest.mark.parametrize("resumed", [False, True])
def test_a_full_disk_is_found_before_the_first_step(recipe, monkeypatch, resumed):
    if resumed:
        with pytest.raises(KeyboardInterrupt):
            luthier.train(recipe, on_event=stopping_at("step", 3))

    def full(tensors, path):
        path.write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted((folder_of(recipe) / "checkpoints").glob("*")) if resumed else []
    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"disk|room|space"):
        patch.setattr(checkpoint, "save_file", full)
        luthier.train(recipe)
    run = luthier.Run(folder_of(recipe))
    assert max((event.step or 0 for event in run.events), default=0) == (3 if resumed else 0)
    assert sorted((run.path / "checkpoints").iterdir()) == before, "nothing is left behind"
    assert luthier.train(recipe).state == "finished"


def test_an_evaluation_that_does_not_fit_splits_and_leaves_layers_alone(recipe, monkeypatch):
    recipe["data"]["validation"] = 0.4
    recipe["optim"]["activations"] = "auto"
    sizes = []

    def loss(self, model, batch, step):
        if step == -1:
            sizes.append(batch.num_tokens)
            if batch.num_tokens > 200:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return supervised(self, model, batch, step)

    supervised = luthier.methods.Supervised.loss
    monkeypatch.setattr(luthier.methods.Supervised, "loss", loss)
    luthier.train(recipe)
    assert sizes[0] > 200 and max(sizes[-4:]) <= 200
    plan = plan_of(folder_of(recipe))
    assert set(plan["activations"]) == {"keep"} and plan["budget_tokens"] <= 200
    assert {change[0] for revision in revisions(folder_of(recipe)) for change in revision["changes"]} == {
        "plan.budget_tokens"
    }


# ------------------------------------------------------------------------------------------------------ on the way


def stopping_at(kind: str, step: int):
    """Stands for a kill: nothing more is written."""

    def listen(event):
        if (event.kind, event.step) == (kind, step):
            raise KeyboardInterrupt

    return listen


def test_layers_keep_less_first_and_no_bit_changes(recipe, machine):
    recipe["optim"]["activations"] = "auto"
    luthier.train(named(recipe, "straight"))
    kept = list(machine.peaks)
    machine.peaks.clear()
    luthier.train(named(recipe, "least", activations="drop_layer"))
    assert machine.peaks[4] < kept[4]
    machine.limits[3] = (kept[4] + machine.peaks[4]) / 2
    luthier.train(recipe)
    path = folder_of(recipe)
    assert all(revision["changes"][0][0] == "plan.activations" for revision in revisions(path)) and revisions(path)
    plan = plan_of(path)
    assert set(plan["activations"]) != {"keep"} and len(plan["budgets"]) == 1
    assert same(path, folder_of(named(recipe, "straight")))
    found = luthier.reproduce(path)
    assert found["same"] and found["revised"] == []


def test_a_smaller_budget_is_recorded_replayed_to_the_bit_and_near_the_run_that_had_it_all_along(recipe, machine):
    luthier.train(named(recipe, "straight"))
    machine.limits[3] = machine.peaks[4] * 0.7
    run = luthier.train(recipe)
    path = folder_of(recipe)
    (revision,) = revisions(path)
    ((field, before, now),) = revision["changes"]
    assert (field, revision["from_step"]) == ("plan.budget_tokens", 3) and now < before
    assert plan_of(path)["budgets"] == [[0, before], [3, now]] and plan_of(path)["budget_tokens"] == now
    assert [event.step for event in run.events if event.kind == "step"] == list(range(1, 9)), "each step is made once"
    assert not same(path, folder_of(named(recipe, "straight")))
    assert f"{before} → {now}" in (path / "receipt.md").read_text()
    machine.limits.clear()

    found = luthier.reproduce(path)
    assert found["same"] and found["revised"] == []

    luthier.train(named(recipe, "small", budget_tokens=now))
    mine, other = final(path), final(folder_of(named(recipe, "small")))
    assert not same(path, folder_of(named(recipe, "small")))
    for name in mine:
        if "//" not in name:
            assert torch.linalg.vector_norm(mine[name] - other[name]) <= 1e-5 * torch.linalg.vector_norm(other[name]), (
                name
            )


def test_a_run_killed_after_its_memory_ran_out_ends_with_the_same_bits(recipe, machine):
    """Steps that are made again have the budget they had."""
    luthier.train(named(recipe, "straight"))
    machine.limits[3] = machine.peaks[4] * 0.7
    luthier.train(named(recipe, "revised"))
    recipe["run"]["save_every"] = 4
    for moment in (("revised", 3), ("step", 4), ("step", 6)):
        with pytest.raises(KeyboardInterrupt):
            luthier.train(recipe, on_event=stopping_at(*moment))
    luthier.train(recipe)
    assert same(folder_of(recipe), folder_of(named(recipe, "revised")))
    assert len(revisions(folder_of(recipe))) == 1


def test_an_earlier_budget_that_no_longer_fits_is_not_obeyed(recipe, machine, monkeypatch):
    luthier.train(named(recipe, "straight"))
    machine.limits[3] = machine.peaks[4] * 0.7
    recipe["run"]["save_every"] = 8
    with pytest.raises(KeyboardInterrupt):
        luthier.train(recipe, on_event=stopping_at("step", 6))
    plan = plan_of(folder_of(recipe))
    (_, before), (_, now) = plan["budgets"]
    free = plan["memory"]["peak_bytes"] + (before - now) * plan["memory"]["bytes_per_token"] // 2
    monkeypatch.setattr(backend, "free_memory_bytes", lambda device: free)
    luthier.train(recipe)
    assert plan_of(folder_of(recipe))["budgets"] == [[0, now]]
    assert revisions(folder_of(recipe))[-1] == {"changes": [["plan.budget_tokens", before, now]], "reason": "plan"}
    luthier.train(named(recipe, "small", budget_tokens=now))
    assert same(folder_of(recipe), folder_of(named(recipe, "small")))


def test_where_it_runs_out_for_good_the_last_checkpoint_goes_on(recipe, machine):
    luthier.train(named(recipe, "straight"))
    machine.limits[5] = 1000
    with pytest.raises(TrainingFailed, match="memory ran out"):
        luthier.train(recipe)
    run = luthier.Run(folder_of(recipe))
    assert run.state == "failed" and run.folder.checkpoints()[-1] == 4
    machine.limits.clear()
    assert luthier.train(recipe).state == "finished"
    assert luthier.reproduce(run.path)["same"]


@pytest.mark.parametrize("settings", [{}, {"states": "8bit"}, {"kind": "sgd", "momentum": 0.9}])
def test_memory_that_runs_out_within_an_update_leaves_no_half_moved_weights(recipe, monkeypatch, settings):
    recipe["optim"] |= {**settings, "activations": "auto"}
    luthier.train(named(recipe, "straight"))
    calls = []

    def step(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1)
            raise MemoryError
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        kind = type(optim.build([("w", torch.nn.Parameter(torch.zeros(2, 2)))], section(recipe), 0.1))
        plain = kind.step
        patched.setattr(kind, "step", step)
        with pytest.raises(TrainingFailed, match="while weights were being changed"):
            luthier.train(recipe)
    path = folder_of(recipe)
    assert luthier.Run(path).state == "failed" and luthier.Run(path).folder.checkpoints() == [2]
    assert revisions(path)[-1]["changes"][0][0] == "plan.activations", "the next attempt holds less"
    luthier.train(recipe)
    assert same(path, folder_of(named(recipe, "straight")))


def section(recipe):
    return luthier.config.schema.OptimSection(**{"epochs": 1, **recipe["optim"]})


@pytest.mark.parametrize("rehearsed", [True, False])
def test_weights_that_change_in_the_backward_pass_are_not_redone(recipe, machine, monkeypatch, rehearsed):
    recipe["tune"] = {"kind": "full"}
    recipe["optim"] |= {"in_backward": True, "clip": 0}
    luthier.train(named(recipe, "straight"))
    if rehearsed:
        machine.limits[-1] = machine.peaks[0] * 0.7
        with pytest.raises(RunError, match=r"optim\.in_backward"):
            luthier.train(recipe)
        assert not luthier.Run(folder_of(recipe)).folder.has_begun
        return
    calls, plain = [], torch.Tensor.backward

    def backward(self, *args, **kwargs):
        calls.append(None)
        plain(self, *args, **kwargs)
        if len(calls) == 5:  # the rehearsal's, and four steps'
            raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "backward", backward)
        with pytest.raises(TrainingFailed, match=r"optim\.in_backward=false"):
            luthier.train(recipe)
    assert luthier.Run(folder_of(recipe)).folder.checkpoints() == [2]
    luthier.train(recipe)
    assert same(folder_of(recipe), folder_of(named(recipe, "straight")))


def test_a_save_that_memory_does_not_suffice_for_is_told_in_words(recipe, monkeypatch):
    plain, calls = checkpoint.save_file, []

    def save_file(tensors, path):
        calls.append(path)
        if len(calls) > 2 * after:
            raise MemoryError
        plain(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    for after, error in ((0, RunError), (2, TrainingFailed)):
        calls.clear()
        with pytest.raises(error, match="while a checkpoint was written"):
            luthier.train(recipe)
        run = luthier.Run(folder_of(recipe))
        assert run.state == "failed" and run.folder.checkpoints() == ([2] if after else [])
    monkeypatch.undo()


def test_what_is_no_want_of_memory_is_not_caught(recipe, monkeypatch):
    def broken(job, step, scale):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(loop, "accumulate", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        luthier.train(recipe)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul primitive"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_want_of_memory_is_known_by_its_words(error, expected):
    assert memory.ran_out(error) is expected


def test_torch_itself_says_it_in_words_that_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory.ran_out(caught.value)


REAL = """
import json, resource, sys
from pathlib import Path
import torch
import luthier, luthier.training
from luthier.kernels import products
products.can = lambda: False  # oneDNN's own buffers are no tensors, and this limit is too near for them
torch.set_num_threads(1)
recipe, room = json.loads(sys.argv[1]), int(sys.argv[2])
used = next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").read_text().splitlines() if "VmData" in l)
resource.setrlimit(resource.RLIMIT_DATA, (used + room, resource.RLIM_INFINITY))
luthier.train(recipe)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of this kind are Linux's")
def test_a_limit_of_the_operating_system_s(recipe, tiny_model, runs_dir):
    """What one micro-batch of all rows of a step would keep is more than this process may have."""
    path = tiny_model("llama", hidden_size=128, intermediate_size=1024, num_hidden_layers=6)
    recipe["model"]["path"] = str(path)
    recipe["optim"] |= {"activations": "auto", "batch": 64, "steps": 2}
    room = 130 * 2**20
    command = [sys.executable, "-c", REAL, json.dumps(recipe), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    run = luthier.Run(folder_of(recipe))
    assert run.state == "finished" and revisions(run.path), plan_of(run.path)
    luthier.train(named(recipe, "roomy"))
    if len(plan_of(run.path)["budgets"]) == 1 and plan_of(run.path)["budget_tokens"] == 4096:
        assert same(run.path, folder_of(named(recipe, "roomy")))


# ------------------------------------------------------------------------------------------ the kernel's own killer


@pytest.mark.parametrize(
    ("after", "share", "tightened"),
    [
        ({"machine": 8, "in_group": 3}, 0.9, True),
        ({"machine": 8, "in_group": 2}, 0.9, False),  # outside of this container somebody was
        ({"machine": 7, "in_group": 2}, 0.9, False),  # nobody was: somebody sent SIGKILL
        ({"machine": 8, "group": "new", "in_group": 0}, 0.9, True),  # a container that was started again
        ({"machine": 8, "in_group": 3, "boot": "later"}, 0.9, False),
        ({"machine": 8, "in_group": 3}, 0.1, False),  # somebody was who had much more
    ],
)
def test_a_run_that_the_kernel_killed_goes_on_with_less(recipe, monkeypatch, after, share, tightened):
    recipe["optim"]["activations"] = "auto"
    luthier.train(named(recipe, "straight"))
    before = {"boot": "today", "machine": 7, "group": "own", "in_group": 2}
    monkeypatch.setattr(this_machine, "kernel_kills", lambda: before)
    with pytest.raises(KeyboardInterrupt):
        luthier.train(recipe, on_event=stopping_at("step", 3))
    path = folder_of(recipe)
    used = [event.data["memory_bytes"] for event in luthier.Run(path).events if event.kind == "step"]
    monkeypatch.setattr(this_machine, "memory_limit_bytes", lambda: int(max(used) / share))
    monkeypatch.setattr(this_machine, "kernel_kills", lambda: {**before, **after})
    run = luthier.train(recipe)
    notes = [event.data["text"] for event in run.events if event.kind == "note"]
    assert any("killed by the system" in note for note in notes) is tightened
    assert bool(revisions(path)) is tightened and (set(plan_of(path)["activations"]) != {"keep"}) is tightened
    assert same(path, folder_of(named(recipe, "straight"))), "layers keep less first, which changes no bit"


def test_a_smaller_budget_after_such_a_kill_holds_from_where_the_run_goes_on(recipe, monkeypatch):
    counts = iter(range(100))
    monkeypatch.setattr(this_machine, "memory_limit_bytes", lambda: 1)
    monkeypatch.setattr(this_machine, "kernel_kills", lambda: {"boot": "today", "machine": next(counts)})
    with pytest.raises(KeyboardInterrupt):
        luthier.train(recipe, on_event=stopping_at("step", 3))
    ((_, before),) = plan_of(folder_of(recipe))["budgets"]
    largest = plan_of(folder_of(recipe))["memory"]["micro_tokens"]
    luthier.train(recipe)
    now = plan_of(folder_of(recipe))["budget_tokens"]
    assert plan_of(folder_of(recipe))["budgets"] == [[0, before], [2, now]] and now == largest // 2 < before
    found = luthier.reproduce(folder_of(recipe))
    assert found["same"] and found["revised"] == []


def test_one_that_said_how_it_ended_was_not_killed(recipe, monkeypatch):
    recipe["optim"]["activations"] = "auto"
    counts = iter(range(100))
    monkeypatch.setattr(this_machine, "memory_limit_bytes", lambda: 1)
    monkeypatch.setattr(this_machine, "kernel_kills", lambda: {"boot": "today", "machine": next(counts)})

    def stop(event):
        if (event.kind, event.step) == ("step", 3):
            luthier.Run(folder_of(recipe)).folder.request_stop()

    with pytest.raises(Interrupted):
        luthier.train(recipe, on_event=stop)
    luthier.train(recipe)
    assert not revisions(folder_of(recipe))


def test_one_killed_in_rehearsal_starts_with_less_each_time(recipe, monkeypatch):
    """Before its first step, where nothing binds yet."""
    kills = iter(range(100))
    monkeypatch.setattr(this_machine, "memory_limit_bytes", lambda: 1)
    monkeypatch.setattr(this_machine, "kernel_kills", lambda: {"boot": "today", "machine": next(kills)})
    seen = []
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            luthier.train(recipe, on_event=stopping_at("rehearsal", None))
        seen.append(plan_of(folder_of(recipe))["budget_tokens"])
    assert seen[0] > seen[1] > seen[2]
    monkeypatch.setattr(this_machine, "kernel_kills", lambda: None)
    assert luthier.train(recipe).state == "finished"
    assert plan_of(folder_of(recipe))["budget_tokens"] == seen[0], "without evidence it starts as it would have"


def test_the_kernel_s_counts_are_read(tmp_path, monkeypatch):
    for name, text in {"boot": "abc\n", "vmstat": "nr_free 5\noom_kill 3\n", "group": "0::/user/x\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(this_machine, "BOOT", tmp_path / "boot")
    monkeypatch.setattr(this_machine, "VMSTAT", tmp_path / "vmstat")
    monkeypatch.setattr(this_machine, "OWN_GROUP", tmp_path / "group")
    monkeypatch.setattr(this_machine, "CGROUP", tmp_path)
    assert this_machine.kernel_kills() == {"boot": "abc", "machine": 3}
    (tmp_path / "user" / "x").mkdir(parents=True)
    (tmp_path / "user" / "x" / "memory.events").write_text("low 0\noom 9\noom_kill 2\n")
    group = f"user/x:{(tmp_path / 'user' / 'x').stat().st_ino}"
    assert this_machine.kernel_kills() == {"boot": "abc", "machine": 3, "group": group, "in_group": 2}
    assert this_machine.memory_limit_bytes() > 2**28
    (tmp_path / "memory.max").write_text("4096\n")
    assert this_machine.memory_limit_bytes() == 4096
    (tmp_path / "vmstat").unlink()
    assert this_machine.kernel_kills() is None


# ---------------------------------------------------------------------------------------------------------- rungs


def test_dense_copies_of_a_quantised_base_go_first(recipe, monkeypatch, machine):
    pytest.importorskip("bitsandbytes")
    recipe["tune"] = {"kind": "qlora", "rank": 2}
    recipe["optim"] |= {"activations": "keep", "steps": 2}
    luthier.train(recipe)
    whole, short = folder_of(recipe), folder_of(named(recipe, "short"))
    assert plan_of(whole)["dense_layers"] > 0
    machine.limits[-1] = 1000
    luthier.train(named(recipe, "short"), on_event=lambda event: event.kind == "revised" and machine.limits.clear())
    (revision,) = revisions(short)
    assert revision["changes"] == [["plan.dense_layers", plan_of(whole)["dense_layers"], 0]]
    assert plan_of(short)["dense_layers"] == 0 and same(whole, short)


def test_rungs_go_down_to_the_least_and_end(recipe, monkeypatch):
    recipe["optim"] |= {"activations": "auto", "steps": 1}
    seen = []
    plain = tightening.Tightening.__init__

    def watched(self, plan, *rest):
        seen.append(plan)
        plain(self, plan, *rest)

    monkeypatch.setattr(tightening.Tightening, "__init__", watched)
    luthier.train(recipe)
    (plan,) = seen
    spec, load = plan.limits.spec, plan.limits.load

    def most(policies):
        return moments.step_bytes(spec, load, policies, budgets[0], "cpu").most

    budgets = [plan.budget_tokens]
    held = [most(plan.policies)]
    while (found := tightening.tighter(plan, 5, 4096)) is not None:
        plan, _ = found
        held.append(most(plan.policies))
        budgets.append(plan.budget_tokens)
        assert len(held) < 50
    least = next(i for i in range(1, len(budgets)) if budgets[i] != budgets[i - 1])
    assert held[:least] == sorted(held[:least], reverse=True) and held[least - 1 :] == [held[-1]] * (
        len(held) - least + 1
    )
    assert (
        held[-1] == most(planner.choose(spec, load, budgets[0], planner.Room(0))) and budgets[-1] == load.longest_tokens
    )
    assert budgets == sorted(budgets, reverse=True) and plan.budgets == ((0, budgets[0]), (5, budgets[-1]))


# ------------------------------------------------------------------------------------------------ memory that is freed

FAULTS = """
import resource, sys, torch
from luthier.engine import memory

def step():
    del [torch.ones(2**20) for _ in range(16)][:]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

step()
with memory.pages_kept():
    for _ in range(3):
        step()
    print(faults())
memory._keep(2**17, 2**17)
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_what_a_step_frees_the_next_one_takes():
    """Sixteen blocks of 4 MiB: each of their pages is filled with zeros by the kernel where it was given back."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, given_back = map(int, done.stdout.split())
    assert kept < given_back / 8 and given_back >= 16


def test_memory_is_kept_where_it_is_spare(recipe, monkeypatch):
    entered = []
    monkeypatch.setattr(memory, "pages_kept", lambda: contextlib.nullcontext(entered.append(None)))
    luthier.train(recipe)
    assert len(entered) == 1
    monkeypatch.setattr(luthier.training, "SPARE", 0.0)
    luthier.train(named(recipe, "tight"))
    assert len(entered) == 1
