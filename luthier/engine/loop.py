"""The one training loop.

What goes in: a model, a `Method` that turns a micro-batch into a `Loss`, a stream of steps, an optimizer, and a run
folder. What comes out: a trained model, and in the run folder events, checkpoints and the best weights so far. The loop
knows nothing of data formats, adapters or objectives.

A step is: sum the gradients of its micro-batches, each term divided by its denominator over the whole step, so that the
result does not depend on the split; clip; update. A step whose loss or gradient is not finite is not applied.

On a GPU the host does not wait for a step: whether it may be applied is decided on the device, and what came of it is
read where a step is logged, before a validation and before a checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from luthier.batch import Batch, Step
from luthier.config.schema import OptimSection, RunSection
from luthier.engine import checkpoint, memory, optim
from luthier.engine.backend import Backend, peak_memory_bytes
from luthier.engine.checkpoint import TrainState
from luthier.engine.measures import Measure, Measures
from luthier.engine.ranks import Ranks
from luthier.errors import Interrupted, Problem, TrainingFailed
from luthier.runs.events import Event
from luthier.runs.store import RunFolder
from luthier.text import say

T = TypeVar("T")
MAX_BAD_STEPS = 3
"""Updates skipped in a row before the run stops: one bad row spoils one step; three in a row is a broken run."""
SCALE_GROWTH_STEPS = 2000
"""Good steps after which the fp16 loss scale doubles (Micikevicius et al. 2018, arXiv 1710.03740)."""
MIN_SCALE = 1.0
SAVES_PER_RUN = 10
SAVE_SECONDS = 900.0
"""Without `run.save_every`: a tenth of the run, an epoch, or this long, whichever comes first."""
VALIDATIONS_PER_RUN = 4
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run after a full checkpoint."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a method returns for one micro-batch; device tensors, nothing read back.

    sums: term -> sum over the micro-batch, still attached to the graph; the loop divides by the step's denominator.
    metrics: name -> (sum, count) for logging.
    counts: term -> its share of the denominator, where that is not the sum of the batch's weights of that name.
    each: name -> a number per example, [G], without gradients: what is worth watching.
    """

    sums: Mapping[str, Tensor]
    metrics: Mapping[str, tuple[Tensor, float]]
    counts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    each: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


class Method(Protocol):
    """An objective. Holds no weights; `state_dict` is for what adapts during training."""

    def begin(self, model: Any, budget_tokens: int, step: int) -> dict[str, Any] | None:
        """What has to be known before the first step is made, where `step` were made in earlier attempts; what to say
        of it."""
        ...

    def prepare(self, step: Step, model: nn.Module) -> Step: ...

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """`step` keys the dropout; -1 evaluates without any."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Evaluating(Protocol):
    """A method whose validation is something else than its loss on validation batches."""

    def evaluate(self, model: nn.Module) -> Mapping[str, Any]:
        """What the event says; `reward` is what is to be high."""
        ...


@runtime_checkable
class Watching(Protocol):
    """A method that notices what goes wrong with it."""

    stops: bool
    """Whether that ends the run."""

    def watch(self, found: Mapping[str, Measure], held_out: float | None) -> Sequence[Problem]:
        """What has gone wrong, by the measures of a step or, where `held_out` is their loss, of the rows held out."""
        ...


class Steps(Protocol):
    """A stream: `step(i)` is a pure function of i."""

    @property
    def num_steps(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def step(self, index: int) -> Step: ...

    def largest(self, index: int, whole: bool) -> Step:
        """One micro-batch, no smaller than any that comes from step `index` on. whole: steps are never split."""
        ...


class Emit(Protocol):
    def __call__(self, kind: str, data: Mapping[str, Any] | None = None, step: int | None = None) -> Event: ...


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything a run needs, put together by `luthier.train`."""

    model: nn.Module
    named: Sequence[optim.Named]
    method: Method
    stream: Steps
    validation: Sequence[Batch]
    room: memory.Room
    optimizer: torch.optim.Optimizer
    optim: OptimSection
    learning_rate: float
    settings: RunSection
    backend: Backend
    run: RunFolder
    emit: Emit
    """Appends to the event log and tells whoever watches."""
    locate: Callable[[int], str]
    """uid -> `file:row`, to name the rows of a fault."""
    ranks: Ranks = dataclasses.field(default_factory=Ranks)
    """The processes that train together; `run` and `emit` are real on rank 0 only."""
    updated: Callable[[Step, float], None] | None = None
    """Told of every update, and how many seconds it took."""
    samples: Callable[[], Mapping[int, Mapping[str, Any]]] | None = None
    """What the model answers now to this rank's share of a few held-out examples, by their places among all."""


@dataclasses.dataclass(frozen=True)
class StepResult:
    """loss: per unit of weight; grad_norm: before clipping; applied: whether the weights moved; measures: of a step
    that is logged."""

    loss: float
    grad_norm: float
    applied: bool
    measures: Measures | None = None


@dataclasses.dataclass(frozen=True)
class Unread:
    """The same on the device, as scalars."""

    loss: Tensor
    grad_norm: Tensor
    measures: Measures | None = None

    def read(self) -> StepResult:
        loss, norm = float(self.loss), float(self.grad_norm)
        return StepResult(loss, norm, math.isfinite(loss) and math.isfinite(norm), self.measures)


@dataclasses.dataclass(frozen=True)
class Taken:
    """A step that was taken. number: counted from 1; seconds: that the host spent on it; computed_tokens: of all
    ranks."""

    number: int
    step: Step
    learning_rate: float
    seconds: float
    result: StepResult | Unread
    computed_tokens: int


def fit(job: Job, state: TrainState) -> TrainState:
    """Train from `state.step` to the end of the stream.

    Raises:
        Interrupted: SIGINT, SIGTERM, SIGHUP or `luthier runs stop`; a full checkpoint was written first.
        TrainingFailed: the loss was not finite in three steps running, or memory ran out for good.
    """
    job.method.load_state_dict(state.method)
    last_save_s, taken = time.monotonic(), list[Taken]()
    with signals() as stop, _failures(job, state):
        if state.step == 0:
            _validate(job, state)
        while state.step < job.stream.num_steps:
            started = time.monotonic()
            learning_rate = optim.rate(state.step, job.stream.num_steps, job.optim, job.learning_rate)
            optim.set_rate(job.optimizer, learning_rate)
            step, result = _next_step(job, state)
            state.step += 1
            state.tokens += step.tokens
            computed = int(job.ranks.total(torch.tensor(step.computed_tokens)))
            state.computed_tokens += computed
            state.loss_weight += sum(step.denom.values())
            seconds = time.monotonic() - started
            state.seconds += seconds
            taken.append(Taken(state.step, step, learning_rate, seconds, result, computed))
            if isinstance(result, StepResult) or _logged(job, state.step):
                _settle(job, state, taken)
            if job.validation and _due(state.step, job.settings.validate_every, job.stream, VALIDATIONS_PER_RUN):
                _settle(job, state, taken)
                _validate(job, state)
            asked = stop[0] if stop else signal.SIGTERM if job.run.stop_requested() else 0
            overdue = job.settings.save_every is None and time.monotonic() - last_save_s > SAVE_SECONDS
            asked, overdue = job.ranks.orders(int(asked), overdue)
            if asked or overdue or _save_due(state.step, job):
                _settle(job, state, taken)
                folder = _save(job, state)
                last_save_s = time.monotonic()
                if asked and state.step < job.stream.num_steps:
                    job.emit("interrupted", {"signal": asked}, step=state.step)
                    job.ranks.wait()
                    raise Interrupted(asked, folder)
    return state


def begin(job: Job, state: TrainState, budget_tokens: Callable[[], int]) -> dict[str, Any] | None:
    """Let the method find out what it has to know before step 1; what to say of it."""
    return within_memory(
        job,
        state.step,
        lambda: job.method.begin(job.model, budget_tokens(), state.step),
        lambda: None,
        budget_tokens,
        split_only=True,
    )


@contextmanager
def _failures(job: Job, state: TrainState) -> Iterator[None]:
    """Write down why training had to stop."""
    try:
        yield
    except TrainingFailed as failure:
        job.emit("failed", {"problem": failure.problem.to_json()}, step=state.step)
        raise


def evaluate(job: Job) -> tuple[dict[str, float], dict[str, Measure]]:
    """Mean of each loss term over the validation batches, per unit of weight, and what else is measured there; empty
    without validation rows."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    measures = Measures()
    with torch.no_grad():
        for place in range(job.ranks.index, len(job.validation), job.ranks.size):
            batch = job.validation[place]
            loss = job.method.loss(job.model, batch, -1)
            _watch(measures, loss)
            for term, value in loss.sums.items():
                own = loss.counts[term] if term in loss.counts else float(batch.weights[term].sum(dtype="float64"))
                sums[term] = sums.get(term, 0.0) + float(value)
                weights[term] = weights.get(term, 0.0) + own
    sums, weights = (_added(job.ranks.gather(each)) for each in (sums, weights))
    return {term: sums[term] / weights[term] for term in sums if weights[term] > 0}, measures.read(job.ranks)


def _watch(measures: Measures | None, loss: Loss) -> None:
    """A mean of a term of the loss is in the loss already."""
    if measures is not None:
        measures.add(loss.each, {name: pair for name, pair in loss.metrics.items() if name not in loss.sums})


def _added(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    terms = dict.fromkeys(term for table in tables for term in table)
    return {term: math.fsum(table.get(term, 0.0) for table in tables) for term in terms}


# -------------------------------------------------------------------------------------------------- one step


def within_memory(
    job: Job, step: int, work: Callable[[], T], undo: Callable[[], None], tokens: Callable[[], int], **how: bool
) -> T:
    """The result of `work`; where memory runs out, micro-batches hold less from `step` on, and it is done again.

    Args:
        undo: puts everything back into the state that `work` began with.
        tokens: of the largest micro-batch in `work`, as it is when asked. `work` fails on all ranks or on none.
        how: `split_only` of `Room.tighten`.

    Raises:
        TrainingFailed: nothing can be held less.
    """
    return memory.redone(work, undo, lambda reason: job.room.tighten(step, job.ranks.most(tokens()), reason, **how))


def _next_step(job: Job, state: TrainState) -> tuple[Step, StepResult | Unread]:
    """Make a step, if need be again with less in a micro-batch: weights have not moved when memory runs out, and
    everything else is put back."""
    before = state.loss_scale, state.good_steps, copy.deepcopy(job.method.state_dict())

    prepared: list[Step] = []

    def largest() -> int:
        known = prepared or [job.stream.step(state.step)]
        batches = known[-1].micro or job.stream.largest(state.step, False).micro
        return max(batch.num_tokens for batch in batches)

    def work() -> tuple[Step, StepResult | Unread]:
        step = job.method.prepare(job.stream.step(state.step), job.model)
        prepared.append(step)
        began = time.monotonic()
        result = _train_step(job, step, state)
        if job.updated is not None:
            job.updated(step, time.monotonic() - began)
        return step, result

    def undo() -> None:
        state.loss_scale, state.good_steps, method = before
        job.method.load_state_dict(method)
        job.optimizer.zero_grad(set_to_none=True)

    try:
        return within_memory(job, state.step, work, undo, largest)
    except memory.Spoilt as error:
        reason = str(error)
    # What is in memory is lost, but the next attempt, from the last checkpoint, has more room here.
    job.room.tighten(state.step, largest(), reason)
    raise TrainingFailed(Problem("engine.spoilt_by_memory", values={"reason": reason}))


def _train_step(job: Job, step: Step, state: TrainState) -> StepResult | Unread:
    """Accumulate, clip, update. In fp16 an overflow halves the loss scale and the same step is done again; where no
    scale helps, the row is at fault and the scale stays as it was."""
    if job.optim.in_backward:
        return _train_in_backward(job, step)
    if _waits_for_nothing(job):
        return _train_unread(job, step)
    before = state.loss_scale, state.good_steps
    while True:
        job.optimizer.zero_grad(set_to_none=True)
        scale = state.loss_scale if job.backend.loss_scaling else 1.0
        measures = _measures(job, step)
        loss = float(accumulate(job, step, scale, measures))
        parameters = [p for _, p in job.named]
        if scale != 1.0:
            _unscale(parameters, scale)
        loss, norm = job.ranks.agreed(loss, float(optim.clip(parameters, job.optim.clip)))
        finite = math.isfinite(norm)
        if finite and math.isfinite(loss):
            with job.ranks.together():
                optim.reserve(job.optimizer)
            with memory.updating():
                job.optimizer.step()
            if job.backend.loss_scaling:
                _grow_scale(state)
            return StepResult(loss, norm, applied=True, measures=measures)
        if not job.backend.loss_scaling or not math.isfinite(loss) or state.loss_scale <= MIN_SCALE:
            state.loss_scale, state.good_steps = before
            return StepResult(loss, norm, applied=False)
        state.loss_scale, state.good_steps = state.loss_scale / 2, 0


def _waits_for_nothing(job: Job) -> bool:
    """On a CPU there is nothing to wait for; fp16 does a step again by what came of it; and only torch's fused AdamW
    leaves a step out by a flag on the device."""
    fused = isinstance(job.optimizer, torch.optim.AdamW)
    return job.backend.device.startswith("cuda") and not job.backend.loss_scaling and fused


def _train_unread(job: Job, step: Step) -> Unread:
    """Accumulate, clip, update, without waiting for the device. A step that is left out leaves the optimizer's moments
    and its count of steps as they were."""
    job.optimizer.zero_grad(set_to_none=True)
    measures = _measures(job, step)
    loss = accumulate(job, step, 1.0, measures)
    norm = optim.clip([p for _, p in job.named], job.optim.clip)
    bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
    vars(job.optimizer)["found_inf"] = bad.to(torch.float32)  # where torch's fused kernels look for such a flag
    job.optimizer.step()
    del vars(job.optimizer)["found_inf"]
    return Unread(loss, norm, measures)


def _train_in_backward(job: Job, step: Step) -> StepResult:
    """Update while gradients come in. A loss that is not finite is noticed before anything has changed; a gradient that
    is not finite, when some of the weights have."""
    (batch,) = step.micro
    measures = _measures(job, step)
    objective = _objective(job, step, batch, measures)
    loss = float(objective.detach())
    if not math.isfinite(loss):
        return StepResult(loss, math.nan, applied=False)
    with memory.updating(), optim.in_backward(job.optimizer, [p for _, p in job.named]) as norms:
        objective.backward()  # type: ignore[no-untyped-call]
    norm = float(torch.linalg.vector_norm(torch.stack([norms[place] for place in sorted(norms)])))
    return StepResult(loss, norm, applied=math.isfinite(norm), measures=measures)


def _measures(job: Job, step: Step) -> Measures | None:
    """None where nobody is going to read them."""
    return Measures() if _logged(job, step.index + 1) else None


def _objective(job: Job, step: Step, batch: Batch, measures: Measures | None = None) -> Tensor:
    """A micro-batch's share of the step's loss."""
    loss = job.method.loss(job.model, batch, step.index)
    _watch(measures, loss)
    objective = sum(value / step.denom[term] for term, value in loss.sums.items())
    assert isinstance(objective, Tensor)
    return objective


def accumulate(job: Job, step: Step, scale: float, measures: Measures | None = None) -> Tensor:
    """Sum the micro-batches' gradients into `.grad`, over all ranks; returns the step's loss, a scalar on the
    device."""
    total = torch.zeros((), dtype=torch.float64, device=job.backend.device)
    with job.ranks.together():
        for batch in step.micro:
            objective = _objective(job, step, batch, measures)
            (objective * scale).backward()  # type: ignore[no-untyped-call]
            total = total + objective.detach().double()
    job.ranks.sum_gradients([p for _, p in job.named])
    return job.ranks.total(total)


def _unscale(parameters: list[nn.Parameter], scale: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(scale)


def _grow_scale(state: TrainState) -> None:
    state.good_steps += 1
    if state.good_steps >= SCALE_GROWTH_STEPS:
        state.loss_scale, state.good_steps = state.loss_scale * 2, 0


def _settle(job: Job, state: TrainState, taken: list[Taken]) -> None:
    """Read what came of the steps taken since the last time, log and judge them, in order."""
    started = time.monotonic()
    results = [each.result.read() if isinstance(each.result, Unread) else each.result for each in taken]
    waited = time.monotonic() - started
    state.seconds += waited
    seconds = waited + sum(each.seconds for each in taken)
    tokens_per_s = sum(each.step.tokens for each in taken) / max(seconds, 1e-9)
    for each, result in zip(taken, results, strict=True):
        _log(job, state, each, result, tokens_per_s)
        _judge(job, state, each, result)
    taken.clear()


def _judge(job: Job, state: TrainState, taken: Taken, result: StepResult) -> None:
    """Name the rows of a step that was not applied; stop after several in a row, and at once where some of the weights
    have changed nevertheless: what the last checkpoint holds is then the newest whole model."""
    if result.applied:
        state.bad_streak = 0
        return
    state.bad_streak += 1
    rows = _bad_rows(job, taken.step)
    what = "gradient" if math.isfinite(result.loss) else "loss"
    job.emit("fault", {"what": what, "rows": rows, "in_a_row": state.bad_streak}, step=taken.number)
    spoilt = job.optim.in_backward and what == "gradient"
    if spoilt or state.bad_streak >= MAX_BAD_STEPS:
        rule = "engine.spoilt_in_backward" if spoilt else "engine.not_finite"
        problem = Problem(rule, where=", ".join(rows[:5]), values={"what": what, "steps": MAX_BAD_STEPS})
        job.ranks.wait()
        raise TrainingFailed(problem)


def _bad_rows(job: Job, step: Step) -> list[str]:
    """Rows whose own loss is not finite; every row of the step where it is only their gradient."""
    bad = []
    with torch.no_grad():
        for batch in step.micro:
            values = list(job.method.loss(job.model, batch, step.index).sums.values())
            if not all(bool(torch.isfinite(value)) for value in values):
                bad.extend(sorted({int(uid) for uid in batch.uid}))
    everywhere = dict.fromkeys(uid for each in job.ranks.gather(bad) for uid in each)
    return list(dict.fromkeys(job.locate(uid) for uid in everywhere or step.uids))


# -------------------------------------------------------------------------------------- events, validation, saving


def _logged(job: Job, number: int) -> bool:
    return number % job.settings.log_every == 0 or number == job.stream.num_steps


def _log(job: Job, state: TrainState, taken: Taken, result: StepResult, tokens_per_s: float) -> None:
    if not _logged(job, taken.number):
        return
    data: dict[str, Any] = {
        "loss": result.loss,
        "lr": taken.learning_rate,
        "grad_norm": result.grad_norm,
        "epoch": round(taken.number / job.stream.steps_per_epoch, 4),
        "num_steps": job.stream.num_steps,
        "tokens": taken.step.tokens,
        "tokens_per_s": tokens_per_s,
        "computed_tokens": taken.computed_tokens,
        "memory_bytes": peak_memory_bytes(job.backend.device),
    }
    if job.backend.loss_scaling:
        data["loss_scale"] = state.loss_scale
    measured = result.measures.read(job.ranks) if result.measures is not None else {}
    if measured:
        data["measures"] = {name: each.mean for name, each in measured.items()}
    job.emit("step", data, step=taken.number)
    _watched(job, taken.number, measured, None)


def _watched(job: Job, step: int, found: Mapping[str, Measure], held_out: float | None) -> None:
    """Let the method say what goes wrong.

    Raises:
        TrainingFailed: something does, and it is to end the run.
    """
    if not isinstance(job.method, Watching):
        return
    for problem in job.method.watch(found, held_out):
        job.emit("alarm", {"alarm": problem.id, "text": str(problem)}, step=step)
        if job.method.stops:
            job.ranks.wait()
            raise TrainingFailed(problem)


def _validate(job: Job, state: TrainState) -> None:
    """Validation loss; the weights go into the best slot when it is the lowest so far. Then what the model answers."""
    if not job.validation:
        return
    measured: Mapping[str, Measure] = {}
    if isinstance(job.method, Evaluating):
        found = job.method.evaluate(job.model)
        loss, data = 0.0 - found["reward"], found
    else:
        loss, data, measured = _validation_loss(job, state)
    job.emit("validation", {"loss": loss, **data}, step=state.step)
    if state.step and (state.best_loss is None or loss < state.best_loss):
        state.best_loss, state.best_step = loss, state.step
        if job.ranks.first:
            with job.run.save_best(state.step) as folder:
                checkpoint.save(folder, job.named, None, state)
            _prune_best(job, state)
            job.emit("best", {"loss": loss}, step=state.step)
    _watched(job, state.step, measured, loss)
    if job.samples is not None:
        _sample(job, state, job.samples)


def _validation_loss(job: Job, state: TrainState) -> tuple[float, Mapping[str, Any], Mapping[str, Measure]]:
    losses, measured = within_memory(
        job,
        state.step,
        lambda: evaluate(job),
        lambda: None,
        lambda: max(batch.num_tokens for batch in job.validation),
        split_only=True,
    )
    more = {"measures": {name: each.to_json() for name, each in measured.items()}} if measured else {}
    return sum(losses.values()), {"terms": losses, **more}, measured


def _sample(job: Job, state: TrainState, samples: Callable[[], Mapping[int, Mapping[str, Any]]]) -> None:
    """Write down what the model answers. Nothing that is learnt depends on it, so where memory runs out, on any rank,
    that is told instead, and the run goes on."""
    own, reason = dict[int, Mapping[str, Any]](), None
    try:
        with job.ranks.together():
            own.update(samples())
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        reason = memory.words(error)
    if reason is not None:  # out here nothing refers to the error any more, whose frames hold what was computed
        memory.release()
        problem = Problem("engine.samples_out_of_memory", field="run.samples", values={"reason": reason})
        job.emit("note", {"text": str(problem)}, step=state.step)
        return
    everywhere = {place: each for share in job.ranks.gather(own) for place, each in share.items()}
    job.emit("samples", {"samples": [everywhere[place] for place in sorted(everywhere)]}, step=state.step)


def _save(job: Job, state: TrainState) -> str:
    state.method = job.method.state_dict()
    if not job.ranks.first:
        return str(job.run.checkpoint_dir(state.step))
    state.event_seq = job.emit("checkpoint", {"folder": f"checkpoints/step-{state.step}"}, step=state.step).seq
    with memory.saving(), job.run.checkpoint(state.step) as folder:
        checkpoint.save(folder, job.named, job.optimizer, state)
    job.run.prune(job.settings.keep)
    _prune_best(job, state)
    return str(job.run.checkpoint_dir(state.step))


def _prune_best(job: Job, state: TrainState) -> None:
    """Keep the best weights of now, and those of every checkpoint that a resume may begin from: until a checkpoint
    knows of the new ones, a kill takes the run back to a time when the old ones were the best."""
    known = {checkpoint.best_step(job.run.checkpoint_dir(step)) for step in job.run.checkpoints()}
    job.run.prune_best({step for step in (*known, state.best_step) if step is not None})


def _save_due(step: int, job: Job) -> bool:
    if step == job.stream.num_steps:
        return True
    if job.settings.save_every is None and step % job.stream.steps_per_epoch == 0:
        return True
    return _due(step, job.settings.save_every, job.stream, SAVES_PER_RUN)


def _due(step: int, every: int | None, stream: Steps, per_run: int) -> bool:
    """Whether something that happens every `every` steps (None: `per_run` times in all, and at the end) is due."""
    every = every or max(stream.num_steps // per_run, 1)
    return step % every == 0 or step == stream.num_steps


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP (a closed terminal) instead of dying of them; a second one has its usual
    effect, and one that is ignored, as under `nohup`, stays so. Signals reach only the main thread: elsewhere (a
    notebook's worker) the list stays empty and `luthier runs stop` does the same."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with suppress(OSError):  # a write of the system's own: a handler may interrupt any other
            os.write(2, f"\n{say('engine.stopping')}\n".encode())
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
