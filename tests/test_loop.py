"""The loop alone, on a torch module of nine numbers: arithmetic of a step, faults, schedules, signals, resume."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

from luthier.batch import Batch, Segments, Step
from luthier.config import load as config_load
from luthier.config.schema import OptimSection, RunSection
from luthier.engine import checkpoint, loop, optim
from luthier.engine.backend import Backend
from luthier.engine.checkpoint import TrainState
from luthier.errors import Interrupted, TrainingFailed
from luthier.runs.store import RunFolder

TERM = "nll"
RATE = 0.1


def batch_of(uids: list[int]) -> Batch:
    """One scored row per example; its weight grows with the uid, so that a wrong denominator shows."""
    count = len(uids)
    rows = np.arange(count)
    zeros = np.zeros(count, dtype=np.int64)
    segments = Segments(rows, rows + 1, zeros - 1, rows, rows, zeros)
    weights = {TERM: np.array([1.0 + uid for uid in uids], dtype=np.float32)}
    ids = np.array(uids, dtype=np.int64)
    return Batch(ids, zeros, zeros - 1, ids, segments, rows, ids, rows, weights, {}, ids)


class FakeSteps:
    """16 examples per step, split into micro-batches of `size`."""

    def __init__(self, num_steps: int, size: int = 16, per_epoch: int = 100) -> None:
        self.num_steps, self.size, self.steps_per_epoch = num_steps, size, per_epoch

    def step(self, index: int) -> Step:
        uids = [int(uid) for uid in np.random.default_rng(index).permutation(64)[:16]]
        micro = tuple(batch_of(uids[at : at + self.size]) for at in range(0, 16, self.size))
        denom = {TERM: float(sum(1.0 + uid for uid in uids))}
        return Step(index, index // self.steps_per_epoch, tuple(uids), micro, denom, 16)

    def largest(self, index: int, whole: bool) -> Step:
        step = self.step(index)
        return dataclasses.replace(step, micro=step.micro[:1])


class NoRoom:
    def tighten(self, step, tokens, reason, *, split_only=False):
        return False


class FakeMethod:
    """Weighted squared error of a linear model on inputs drawn from the uid; counts what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.seen = 0

    def prepare(self, step: Step, model: nn.Module) -> Step:
        self.seen += len(step.uids)
        return step

    def loss(self, model: nn.Module, batch: Batch, step: int) -> loop.Loss:
        self.calls.append((step, len(batch.uid)))
        x = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(int(uid))) for uid in batch.uid])
        error = model(x)[:, 0] - torch.from_numpy(batch.uid.astype(np.float32)) / 64
        total = (torch.from_numpy(batch.weights[TERM]) * error.square()).sum()
        return loop.Loss({TERM: total}, {TERM: (total.detach(), float(batch.weights[TERM].sum()))})

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.seen = state.get("seen", 0)


class Cast(torch.autograd.Function):
    """The identity whose backward pass is as wide as a narrow float: beyond `limit`, infinite."""

    @staticmethod
    def forward(ctx, x, limit):
        ctx.limit = limit
        return x.clone()

    @staticmethod
    def backward(ctx, dx):
        return torch.where(dx.abs() > ctx.limit, torch.full_like(dx, math.inf), dx), None


class Overflowing(FakeMethod):
    """Gradients overflow where the loss scale is above `limit`."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def loss(self, model: nn.Module, batch: Batch, step: int) -> loop.Loss:
        found = super().loss(model, batch, step)
        # The gradient of a sum is the scale over the denominator; here it is made the scale itself.
        denom = FakeSteps(1).step(step).denom[TERM]
        return loop.Loss({TERM: Cast.apply(found.sums[TERM] / denom, self.limit) * denom}, found.metrics)


@pytest.fixture
def make_job(runs_dir, request):
    """`make_job(name, method=, steps=, size=, run={...}, optim={...}, dtype=)`: a job whose run folder is locked."""
    opened = []

    def make(
        name="r", *, method=None, steps=10, size=16, per_epoch=100, dtype="float32", validation=(), room=None, **given
    ):
        settings = {"name": name, "dir": str(runs_dir), **given.get("run", {})}
        recipe = {"model": "m", "data": {"train": "x.json"}, "run": settings}
        config = config_load.load(recipe)
        run = RunFolder.claim(config, config_load.dump(config))
        opened.append(run)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Linear(8, 1)
        section = OptimSection(**{"schedule": "constant", "warmup": 0, "clip": 0, **given.get("optim", {})})
        named = list(model.named_parameters())
        return loop.Job(
            model=model,
            named=named,
            method=method or FakeMethod(),
            stream=FakeSteps(steps, size, per_epoch),
            validation=validation,
            room=room or NoRoom(),
            optimizer=optim.build(named, section, RATE),
            optim=section,
            learning_rate=RATE,
            settings=RunSection(**settings),
            backend=Backend("cpu", dtype, 1, "test", "test"),
            run=run,
            emit=lambda kind, data=None, step=None: run.emit(kind, data, step),
            locate=lambda uid: f"rows.json:{uid}",
        )

    yield make
    for run in opened:
        run.close()


def weights_of(job) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for _, p in job.named])


def events_of(job, kind):
    return [event for event in job.run.events() if event.kind == kind]


# ------------------------------------------------------------------------------------------------------- one step


def test_a_step_is_the_weighted_mean_over_the_whole_step_however_it_is_split(make_job):
    gradients = []
    for size in (16, 4, 1):
        job = make_job(f"split-{size}", size=size, steps=1)
        step = job.stream.step(0)
        loss = loop.accumulate(job, step, 1.0)
        gradients.append(torch.cat([p.grad.flatten() for _, p in job.named]))
        whole = batch_of(list(step.uids))
        expected = job.method.loss(job.model, whole, 0).sums[TERM] / whole.weights[TERM].sum()
        assert loss == pytest.approx(expected.item(), rel=1e-6)
        by_hand = torch.autograd.grad(expected, [p for _, p in job.named])
        torch.testing.assert_close(gradients[-1], torch.cat([g.flatten() for g in by_hand]), rtol=1e-5, atol=1e-7)
        assert len(step.micro) == 16 // size
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-5, atol=1e-7)


class Roomy:
    """Halves the micro-batches of `FakeSteps` as often as it is asked to."""

    def __init__(self) -> None:
        self.stream, self.asked = None, []

    def tighten(self, step, tokens, reason, *, split_only=False):
        self.asked.append((step, tokens, reason))
        self.stream.size //= 2
        return self.stream.size > 0


class Hungry(Overflowing):
    """Runs out of memory in micro-batches of more than 4 examples, in the middle of a step."""

    def loss(self, model, batch, step):
        if step == 2 and len(batch.uid) > 4 and self.calls and self.calls[-1][0] == step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().loss(model, batch, step)


def test_a_step_that_is_made_again_begins_where_it_began(make_job):
    """Gradients, loss scale and what the method adapts are put back; the step is that of the smaller micro-batches."""
    ends = []
    for name, method, size in (("hungry", Hungry(2.0**13), 8), ("small", Overflowing(2.0**13), 4)):
        room = Roomy()
        job = make_job(name, method=method, size=size, steps=3, dtype="float16", room=room)
        room.stream = job.stream
        state = TrainState(loss_scale=2.0**14)
        if name == "small":
            job.stream.size = 8
            while state.step < 2:
                loop._next_step(job, state)
                state.step += 1
            job.stream.size = 4
        state = loop.fit(job, state)
        ends.append((weights_of(job), state.loss_scale, state.good_steps, method.seen))
        assert room.asked == ([(2, 8, "CUDA out of memory. Tried to allocate 2 GiB")] if name == "hungry" else [])
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1:3] == ends[1][1:3]
    assert ends[0][3] == 3 * 16, "each step was prepared once"


def test_each_term_has_a_denominator_of_its_own(make_job):
    class Two(FakeMethod):
        def loss(self, model, batch, step):
            one = super().loss(model, batch, step).sums[TERM]
            return loop.Loss({TERM: one, "extra": model.bias.sum() * len(batch.uid)}, {})

    job = make_job(method=Two(), size=4, steps=1)
    step = job.stream.step(0)
    loss = loop.accumulate(job, dataclasses.replace(step, denom={**step.denom, "extra": 16.0}), 1.0)
    plain = make_job("plain", size=16, steps=1)
    expected = loop.accumulate(plain, step, 1.0) + plain.model.bias.item()
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_clipping_limits_the_norm_and_reports_it_as_it_was(make_job, clip):
    job = make_job(steps=1, optim={"clip": clip, "kind": "sgd"})
    before = weights_of(job)
    loop.fit(job, TrainState())
    moved = float((weights_of(job) - before).norm()) / RATE
    (event,) = events_of(job, "step")
    assert event.data["grad_norm"] > 0.01
    assert moved == pytest.approx(clip or event.data["grad_norm"], rel=1e-4)


def test_the_rate_of_a_step_is_that_of_its_index(make_job):
    job = make_job(steps=6, optim={"schedule": "linear", "warmup": 2})
    loop.fit(job, TrainState())
    expected = [optim.rate(step, 6, job.optim, RATE) for step in range(6)]
    assert [event.data["lr"] for event in events_of(job, "step")] == expected


# --------------------------------------------------------------------------------------- the step within backward

IN_BACKWARD = {"in_backward": True, "clip": 0}


@pytest.mark.parametrize("given", [{}, {"kind": "sgd", "momentum": 0.9}, {"states": "8bit"}, {"states": "bfloat16"}])
def test_within_the_backward_pass_every_bit_is_that_of_the_ordinary_step(make_job, given):
    ordinary = make_job("ordinary", optim=given)
    loop.fit(ordinary, TrainState())
    job = make_job(optim={**given, **IN_BACKWARD})
    loop.fit(job, TrainState())
    assert checkpoint.compare(ordinary.run.checkpoint_dir(10), job.run.checkpoint_dir(10))["same"]
    slots, theirs = (optim.state_tensors(each.optimizer, each.named) for each in (job, ordinary))
    assert slots.keys() == theirs.keys() and all(torch.equal(slots[key], theirs[key]) for key in slots)
    for ours, usual in zip(events_of(job, "step"), events_of(ordinary, "step"), strict=True):
        assert ours.data["loss"] == usual.data["loss"] and ours.data["lr"] == usual.data["lr"]
        assert ours.data["grad_norm"] == pytest.approx(usual.data["grad_norm"], rel=1e-6)


def test_within_the_backward_pass_one_gradient_lives_at_a_time(make_job, monkeypatch):
    job = make_job(steps=1, optim=IN_BACKWARD)
    held = []
    step = job.optimizer.step

    def counted():
        held.append([name for name, parameter in job.named if parameter.grad is not None])
        step()

    monkeypatch.setattr(job.optimizer, "step", counted)
    loop.fit(job, TrainState())
    assert sorted(held) == [["bias"], ["weight"]]
    assert all(parameter.grad is None for _, parameter in job.named)
    assert [len(group["params"]) for group in job.optimizer.param_groups] == [1, 1]


def test_within_the_backward_pass_a_loss_that_is_not_finite_changes_nothing(make_job):
    uid = FakeSteps(1).step(0).uids[5]
    job = make_job(method=Spoilt({uid}, "loss"), steps=1, optim=IN_BACKWARD)
    before = weights_of(job)
    state = loop.fit(job, TrainState())
    assert torch.equal(weights_of(job), before) and not job.optimizer.state and state.bad_streak == 1


def test_within_the_backward_pass_a_gradient_that_is_not_finite_ends_the_run_unsaved(make_job):
    uid = FakeSteps(1).step(0).uids[5]
    job = make_job(method=Spoilt({uid}, "gradient"), optim=IN_BACKWARD)
    with pytest.raises(TrainingFailed, match=r"optim\.in_backward=false"):
        loop.fit(job, TrainState())
    (fault,) = events_of(job, "fault")
    assert fault.data["what"] == "gradient" and fault.step == 1
    assert not job.run.checkpoints()


# ---------------------------------------------------------------------------------------------------------- faults


class Spoilt(FakeMethod):
    """Row `uid` has a loss, or only a gradient, that is not finite."""

    def __init__(self, bad: set[int], what: str) -> None:
        super().__init__()
        self.bad, self.what = bad, what

    def loss(self, model, batch, step):
        found = super().loss(model, batch, step)
        if not self.bad & {int(uid) for uid in batch.uid}:
            return found
        if self.what == "loss":
            return loop.Loss({TERM: found.sums[TERM] + math.nan}, found.metrics)
        return loop.Loss({TERM: Cast.apply(found.sums[TERM], -1.0)}, found.metrics)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_spoilt_step_is_left_out_and_the_log_tells_loss_from_gradient(make_job, what):
    clean = make_job("clean", size=4, steps=1)
    uids = clean.stream.step(0).uids
    job = make_job(method=Spoilt({uids[5]}, what), size=4, steps=1)
    before = weights_of(job)
    state = loop.fit(job, TrainState())
    assert torch.equal(weights_of(job), before) and not job.optimizer.state and state.bad_streak == 1
    (fault,) = events_of(job, "fault")
    assert fault.data["what"] == what and fault.data["in_a_row"] == 1
    named = {f"rows.json:{uid}" for uid in (uids[4:8] if what == "loss" else uids)}
    assert set(fault.data["rows"]) == named


def test_three_in_a_row_end_it_and_a_good_step_forgives(make_job):
    class AtSteps(FakeMethod):
        def loss(self, model, batch, step):
            found = super().loss(model, batch, step)
            return loop.Loss({TERM: found.sums[TERM] * math.inf}, {}) if step in {1, 2, 4, 5, 7, 8, 9} else found

    job = make_job(method=AtSteps(), steps=20)
    with pytest.raises(TrainingFailed, match=r"optim\.lr"):
        loop.fit(job, TrainState())
    assert [event.data["in_a_row"] for event in events_of(job, "fault")] == [1, 2, 1, 2, 1, 2, 3]
    (failed,) = events_of(job, "failed")
    assert failed.step == 10 and failed.data["problem"]["id"] == "engine.not_finite"
    assert torch.isfinite(weights_of(job)).all()


# --------------------------------------------------------------------------- as on a GPU: read only where it is logged


@pytest.fixture
def unread(monkeypatch):
    monkeypatch.setattr(loop, "_waits_for_nothing", lambda job: True)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_read_late_a_spoilt_step_is_left_out_to_the_bit(make_job, monkeypatch, what):
    """Step 1 of 7 is spoilt: weights, moments and counts are those of a run that reads every step."""

    class AtStep(Spoilt):
        def loss(self, model, batch, step):
            return super().loss(model, batch, step) if step == 1 else FakeMethod.loss(self, model, batch, step)

    uids = make_job("uids", size=4).stream.step(1).uids
    results, steps = [], []
    for late in (False, True):
        monkeypatch.setattr(loop, "_waits_for_nothing", lambda job, late=late: late)
        run = {"log_every": 5, "save_every": 7}
        given = {"optim": {"clip": 1.0}, "run": run}
        job = make_job(f"late-{late}", method=AtStep({uids[0]}, what), size=4, steps=7, **given)
        state = loop.fit(job, TrainState())
        assert state.bad_streak == 0
        states = optim.state_tensors(job.optimizer, job.named)
        results.append([weights_of(job), *(states[key] for key in sorted(states))])
        steps.append([(event.step, event.data["loss"], event.data["grad_norm"]) for event in events_of(job, "step")])
        (fault,) = events_of(job, "fault")
        assert fault.step == 2 and fault.data["what"] == what and f"rows.json:{uids[0]}" in fault.data["rows"]
    assert steps[0] == steps[1] and [step for step, *_ in steps[0]] == [5, 7]
    assert len(results[0]) == 7 and all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_read_late_nothing_is_read_between_steps_that_are_logged(make_job, unread, monkeypatch):
    read = []
    monkeypatch.setattr(loop.Unread, "read", lambda self: read.append(self) or loop.StepResult(1.0, 1.0, True))
    counts = []

    class Counting(FakeMethod):
        def loss(self, model, batch, step):
            counts.append(len(read))
            return super().loss(model, batch, step)

    loop.fit(make_job(method=Counting(), steps=9, size=64, run={"log_every": 4, "save_every": 9}), TrainState())
    assert counts == [0, 0, 0, 0, 4, 4, 4, 4, 8] and len(read) == 9


@pytest.mark.parametrize("given", [{"save_every": 2}, {"save_every": 100, "validate_every": 2}])
def test_read_late_no_checkpoint_and_no_validation_comes_before_the_judgement(make_job, unread, given):
    class Broken(FakeMethod):
        def loss(self, model, batch, step):
            found = super().loss(model, batch, step)
            return loop.Loss({TERM: found.sums[TERM] * math.inf}, {}) if step in {1, 2, 3} else found

    job = make_job(method=Broken(), steps=50, validation=(batch_of([1]),), run={"log_every": 50, **given})
    with pytest.raises(TrainingFailed):
        loop.fit(job, TrainState())
    assert [event.step for event in events_of(job, "fault")] == [2, 3, 4]
    assert events_of(job, "failed")[0].step == 4
    assert job.run.checkpoints() == ([2] if given["save_every"] == 2 else [])


# --------------------------------------------------------------------------------------------------- fp16 scaling


def test_an_overflow_halves_the_scale_and_does_the_same_step_again(make_job):
    plain = make_job("plain", steps=6)
    loop.fit(plain, TrainState())
    method = Overflowing(4096.0)
    job = make_job(method=method, steps=6, dtype="float16", run={"save_every": 2})
    state = loop.fit(job, TrainState())
    assert state.loss_scale == 4096.0
    # 65536 -> 4096 are four halvings, all in step 0; each repeats the step, and none is skipped.
    assert [step for step, _ in method.calls] == [0] * 5 + [1, 2, 3, 4, 5]
    assert not events_of(job, "fault")
    torch.testing.assert_close(weights_of(job), weights_of(plain), rtol=1e-6, atol=1e-8)
    assert [event.data["loss_scale"] for event in events_of(job, "step")] == [4096.0] * 6
    stored = json.loads((job.run.checkpoint_dir(6) / "state.json").read_text())
    assert stored["loss_scale"] == 4096.0 and stored["good_steps"] == 6


def test_scaling_by_a_power_of_two_changes_no_bit_where_nothing_overflows(make_job):
    results = []
    for name, dtype in (("plain", "float32"), ("scaled", "float16")):
        job = make_job(name, steps=5, dtype=dtype, optim={"clip": 1.0})
        loop.fit(job, TrainState())
        results.append((weights_of(job), [event.data["grad_norm"] for event in events_of(job, "step")]))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]


def test_the_scale_doubles_after_many_good_steps(make_job, monkeypatch):
    assert loop.SCALE_GROWTH_STEPS == 2000
    monkeypatch.setattr(loop, "SCALE_GROWTH_STEPS", 3)
    job = make_job(steps=7, dtype="float16")
    state = loop.fit(job, TrainState(loss_scale=8.0))
    scales = [event.data["loss_scale"] for event in events_of(job, "step")]
    assert scales == [8.0, 8.0, 16.0, 16.0, 16.0, 32.0, 32.0] and state.good_steps == 1


def test_a_row_that_no_scale_helps_is_a_fault_and_leaves_the_scale_alone(make_job):
    """Else one bad row would leave a scale of 1, and small gradients would be lost for 2000 steps."""
    uid = FakeSteps(1).step(0).uids[0]
    job = make_job(method=Spoilt({uid}, "gradient"), steps=1, dtype="float16")
    state = loop.fit(job, TrainState(loss_scale=1024.0, good_steps=7))
    assert len(events_of(job, "fault")) == 1
    assert (state.loss_scale, state.good_steps) == (1024.0, 7)


# ------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("run", "per_epoch", "expected"),
    [
        ({"save_every": 3}, 100, [3, 6, 9, 10]),
        ({}, 100, list(range(1, 11))),
        ({"save_every": 100}, 4, [10]),
    ],
)
def test_checkpoints_come_as_asked_and_at_the_end(make_job, run, per_epoch, expected):
    job = make_job(per_epoch=per_epoch, run={**run, "keep": 2})
    loop.fit(job, TrainState())
    assert [event.step for event in events_of(job, "checkpoint")] == expected
    assert job.run.checkpoints() == expected[-2:]


def test_unasked_there_are_ten_in_a_run_and_one_per_epoch(make_job):
    job = make_job(steps=40, per_epoch=7)
    loop.fit(job, TrainState())
    saved = [event.step for event in events_of(job, "checkpoint")]
    assert saved == sorted({*range(4, 41, 4), *range(7, 41, 7)})


def test_unasked_a_slow_run_saves_by_the_clock(make_job, monkeypatch):
    clock = itertools.count(0, 400)
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    job = make_job(steps=20, per_epoch=1000)
    monkeypatch.setattr(loop, "SAVES_PER_RUN", 1)
    loop.fit(job, TrainState())
    # The clock moves on by 1200 s in each step: it is read at a step's beginning and end, and to see what is overdue.
    assert [event.step for event in events_of(job, "checkpoint")] == list(range(1, 21))
    asked = make_job("asked", steps=20, run={"save_every": 10})
    loop.fit(asked, TrainState())
    assert [event.step for event in events_of(asked, "checkpoint")] == [10, 20]


def test_keep_keeps_that_many(make_job):
    job = make_job(run={"save_every": 1, "keep": 3})
    loop.fit(job, TrainState())
    assert job.run.checkpoints() == [8, 9, 10]


@pytest.mark.parametrize(("every", "expected"), [(4, [0, 4, 8, 10]), (None, [0, 2, 4, 6, 8, 10])])
def test_validation_comes_before_the_first_step_as_asked_and_at_the_end(make_job, every, expected):
    job = make_job(validation=(batch_of([1, 2]), batch_of([3])), run={"validate_every": every})
    loop.fit(job, TrainState())
    assert [event.step for event in events_of(job, "validation")] == expected
    assert all(step != -1 or size in (1, 2) for step, size in job.method.calls)


def test_the_log_is_thinned_but_never_without_the_last_step(make_job):
    job = make_job(run={"log_every": 4})
    loop.fit(job, TrainState())
    assert [event.step for event in events_of(job, "step")] == [4, 8, 10]


def test_validation_is_the_weighted_mean_over_all_its_batches(make_job):
    one = make_job("one", validation=(batch_of([1, 2, 3, 9]),))
    split = make_job("split", validation=(batch_of([1, 2]), batch_of([3]), batch_of([9])))
    assert loop.evaluate(one)[0][TERM] == pytest.approx(loop.evaluate(split)[0][TERM], rel=1e-6)
    assert loop.evaluate(make_job("none")) == ({}, {})


def test_the_best_slot_holds_the_weights_of_the_lowest_validation_loss(make_job, monkeypatch):
    losses = iter([1.0, 3.0, 2.0, 2.5, 2.0, 2.0])
    seen = {}
    job = make_job(validation=(batch_of([1]),), run={"validate_every": 2})

    def told(job):
        seen[len(seen) * 2] = weights_of(job)
        return {TERM: next(losses)}, {}

    monkeypatch.setattr(loop, "evaluate", told)
    state = loop.fit(job, TrainState())
    assert (state.best_loss, state.best_step) == (2.0, 4)  # step 0 is the base, and the first of equals stays
    checkpoint.load(job.run.best_dir(4), job.named, None)
    assert job.run.bests() == [4]
    assert torch.equal(weights_of(job), seen[4])


# --------------------------------------------------------------------------------------------------------- signals


class Hit(FakeMethod):
    """A signal arrives in the middle of a step."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__()
        self.number, self.at = number, step

    def loss(self, model, batch, step):
        if step == self.at:
            self.at = -5
            os.kill(os.getpid(), self.number)
        return super().loss(model, batch, step)


@pytest.fixture
def usual_signals():
    """As in a terminal: tests may be started under nohup or in the background, where a run obeys what it finds."""
    before = {each: signal.getsignal(each) for each in loop.STOPS}
    for each in before:
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_finishes_the_step_saves_and_says_so(make_job, number, code):
    before = {each: signal.getsignal(each) for each in loop.STOPS}
    job = make_job(method=Hit(number, 3), run={"save_every": 100})
    with pytest.raises(Interrupted) as caught:
        loop.fit(job, TrainState())
    assert caught.value.exit_code == code and "step-4" in caught.value.checkpoint
    assert job.run.checkpoints() == [4]
    (told,) = events_of(job, "interrupted")
    assert told.data["signal"] == number and told.step == 4
    assert {each: signal.getsignal(each) for each in before} == before
    state = checkpoint.load(job.run.checkpoint_dir(4), job.named, job.optimizer)
    loop.fit(job, state)
    straight = make_job("straight")
    loop.fit(straight, TrainState())
    assert torch.equal(weights_of(job), weights_of(straight))


@pytest.mark.usefixtures("usual_signals")
def test_a_second_signal_has_its_usual_effect(make_job):
    class Twice(FakeMethod):
        def loss(self, model, batch, step):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().loss(model, batch, step)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(make_job(method=Twice()), TrainState())
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_is_ignored_stays_ignored(make_job):
    """`nohup luthier train ...` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert loop.fit(make_job(method=Hit(signal.SIGHUP, 3)), TrainState()).step == 10
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_in_the_last_step_lets_the_run_end(make_job):
    job = make_job(method=Hit(signal.SIGTERM, 9))
    assert loop.fit(job, TrainState()).step == 10
    assert not events_of(job, "interrupted") and job.run.checkpoints()[-1] == 10


def test_handlers_are_restored_after_a_failure_too(make_job):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingFailed):
        loop.fit(make_job(method=Spoilt(set(range(64)), "loss")), TrainState())
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_a_request_to_stop_does_the_same(make_job):
    job = make_job()
    job.run.request_stop()
    caught = []

    def work():
        try:
            loop.fit(job, TrainState())
        except Interrupted as error:
            caught.append(error.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == [143] and job.run.checkpoints() == [1]


# ---------------------------------------------------------------------------------------------------------- resume


def test_resumed_from_any_checkpoint_every_bit_is_the_same(make_job):
    straight = make_job("straight", size=4, run={"save_every": 1, "keep": 10})
    loop.fit(straight, TrainState())
    for step in (1, 5, 9):
        job = make_job(f"from-{step}", size=4)
        state = checkpoint.load(straight.run.checkpoint_dir(step), job.named, job.optimizer)
        assert state.step == step and state.tokens == 16 * step
        loop.fit(job, state)
        same = checkpoint.compare(straight.run.checkpoint_dir(10), job.run.checkpoint_dir(10))
        assert same["same"] and same["tensors"] == 2
        slots = optim.state_tensors(straight.optimizer, straight.named)
        again = optim.state_tensors(job.optimizer, job.named)
        assert slots.keys() == again.keys() and all(torch.equal(slots[key], again[key]) for key in slots)


def test_what_the_method_learns_about_itself_is_saved(make_job):
    job = make_job(steps=4)
    loop.fit(job, TrainState())
    stored = json.loads((job.run.checkpoint_dir(4) / "state.json").read_text())
    assert stored["method"] == {"seen": 64}
    further = make_job("further", steps=6)
    state = checkpoint.load(job.run.checkpoint_dir(4), further.named, further.optimizer)
    loop.fit(further, state)
    assert further.method.seen == 96


def test_a_finished_state_trains_nothing(make_job):
    job = make_job(steps=3)
    before = weights_of(job)
    assert loop.fit(job, TrainState(step=3)).step == 3
    assert torch.equal(weights_of(job), before) and not job.method.calls
