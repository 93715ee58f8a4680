"""The plan of a run: device, dtype, micro-batch budget and what layers keep, decided before the run folder is touched.

What goes in: the recipe, the base, the tokens that a micro-batch has to hold and may come to, and the plan of an
earlier attempt where there is one. What comes out: a `Plan`, with what had to change since then; or the problem, with
the field that mends it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from luthier import planner
from luthier.arch.count import AnyTune
from luthier.arch.spec import DecoderSpec
from luthier.auxiliary import Models
from luthier.config.schema import ON_DEVICE, Qlora, RunConfig
from luthier.data.stream import Budgets, budget_at, split_from
from luthier.engine import backend
from luthier.engine.backend import Backend
from luthier.errors import ConfigError, Problem, RunError
from luthier.holdings import Tokens, Workload
from luthier.kernels import select
from luthier.moments import Policies
from luthier.planner import MemoryPlan
from luthier.runs.store import RunFolder
from luthier.session import Base
from luthier.workload import workload

BUDGET, KEPT, DENSE = "plan.budget_tokens", "plan.activations", "plan.dense_layers"
TEXTS = "plan.answer_texts"
OF_MEMORY = frozenset({BUDGET, KEPT, DENSE, TEXTS})
"""Changes that are written into `plan.json`."""
Change = tuple[str, Any, Any]
"""Field, before, now."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a plan may become when memory turns out to be short.

    may_keep_less: the recipe leaves to the plan what layers keep; may_split: steps may be split; host_bytes: that
    layers may keep in the host's memory, None on a device without another one.
    """

    spec: DecoderSpec
    load: Workload
    may_keep_less: bool
    may_split: bool
    host_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """changes: what an earlier attempt's plan says and cannot be had any more.
    budgets: of every step, past ones included; the last of them is what `memory` is planned for.
    quantised: whether the base is.
    bottom_layers: how many of the lowest layers are computed once per sequence and kept (`luthier.frozen`).
    """

    backend: Backend
    memory: MemoryPlan
    changes: tuple[Change, ...]
    saved: Mapping[str, Any] | None
    budgets: Budgets
    limits: Limits
    quantised: bool = False
    bottom_layers: int = 0

    @property
    def budget_tokens(self) -> int:
        return self.memory.budget_tokens

    @property
    def policies(self) -> Policies:
        return self.memory.policies

    def save(self, run: RunFolder) -> None:
        """Write `plan.json`, unless the one that is obeyed is there already. A device that is back later is used again;
        a budget stays as small as it once had to be, and layers keep as little."""
        changed = not OF_MEMORY.isdisjoint(field for field, _, _ in self.changes)
        if self.saved is None or changed or not run.has("plan.json"):
            self.write(run)

    def write(self, run: RunFolder) -> None:
        """Write `plan.json`."""
        facts = self.saved
        if facts is None:
            heads = select.heads_of(self.limits.spec)
            kernels = select.choose(self.backend.device, self.backend.compute_dtype, heads).to_json()
            facts = {"backend": self.backend.to_json(), "kernels": kernels}
        budget = {"budget_tokens": self.budget_tokens, "budgets": self.budgets, "activations": self.policies}
        dense = {"dense_layers": self.memory.dense_layers} if self.quantised else {}
        bottom = {"bottom_layers": self.bottom_layers} if self.bottom_layers else {}
        run.write_json("plan.json", {**facts, **budget, **dense, **bottom, "memory": self.memory.to_json()})

    def starting(self, step: int) -> Plan:
        """The plan of an attempt that begins at a step. Steps that are made again have the budget they had, so that
        they come out with the same bits, unless it does not fit any more."""
        then, now = budget_at(self.budgets, step), self.budget_tokens
        forced = any(field == BUDGET for field, _, _ in self.changes)
        need_bytes = self.memory.peak_bytes + max(then - now, 0) * self.memory.bytes_per_token
        if then == now or not (forced or need_bytes > self.memory.free_bytes):
            return self
        changes = self.changes if forced else (*self.changes, (BUDGET, then, now))
        return dataclasses.replace(self, budgets=split_from(self.budgets, step, now), changes=changes)


def decide(
    config: RunConfig,
    base: Base,
    tune: AnyTune,
    tokens: Tokens,
    saved: Mapping[str, Any] | None,
    devices: int = 1,
    models: Models | None = None,
) -> Plan:
    """Choose the plan, or restore the saved one as far as this machine can give it.

    Args:
        models: beside the one that trains.

    Raises:
        ConfigError: the device cannot be used, or not with `optim.in_backward` or `optim.paged`.
        RunError: what one micro-batch has to hold does not fit, or a budget asked for does not.
    """
    # Weights kept in bfloat16 are computed with as they are, on whatever device.
    kept: Literal["bfloat16"] | None = None if config.optim.weights == "float32" else "bfloat16"
    lost: list[str] = []
    if saved is None:
        chosen = backend.choose(config.run.device, kept or config.model.dtype, devices=devices)
    else:
        chosen, lost = backend.restore(saved["backend"], kept, devices)
    if config.optim.in_backward and chosen.loss_scaling:
        raise ConfigError(Problem("engine.float16_in_backward", field="optim.in_backward"))
    if config.optim.paged and chosen.device == "cpu":
        raise ConfigError(Problem("engine.paged_on_cpu", field="optim.paged", value="true"))
    size, method = chosen.compute_dtype.itemsize, config.method
    load = workload(config.optim, base.arch, tune, tokens, size, chosen.device, method, models)
    host_bytes = planner.usable(backend.free_memory_bytes("cpu")) if chosen.device != "cpu" else None
    auto, may_split = config.optim.activations == "auto", not config.optim.in_backward
    limits = Limits(base.arch.spec, load, auto, may_split, host_bytes)
    memory = _memory(config, limits, base, chosen, saved)
    changes = (
        [(f"plan.{field}", saved["backend"].get(field, 1), getattr(chosen, field)) for field in lost] if saved else []
    )
    if saved is not None and saved["budget_tokens"] != memory.budget_tokens:
        changes.append((BUDGET, saved["budget_tokens"], memory.budget_tokens))
    if saved is not None and (before := _saved_policies(base, saved)) != memory.policies:
        changes.append((KEPT, planner.in_words(before), planner.in_words(memory.policies)))
    if saved is not None and saved.get("dense_layers", 0) != memory.dense_layers:
        changes.append((DENSE, saved.get("dense_layers", 0), memory.dense_layers))
    if (texts := _saved_texts(saved)) is not None and texts != memory.answer_texts:
        changes.append((TEXTS, texts, memory.answer_texts))
    budgets = _saved_budgets(saved, memory)
    return Plan(chosen, memory, tuple(changes), saved, budgets, limits, isinstance(tune, Qlora))


def _memory(
    config: RunConfig, limits: Limits, base: Base, chosen: Backend, saved: Mapping[str, Any] | None
) -> MemoryPlan:
    """Budget and policies of the saved plan, or of the recipe. Where less memory is free than when the plan was made,
    layers keep less, which changes no bit, and fewer answers are written at once; then the budget is made smaller, as
    long as it holds the longest row. A recipe's own policy stands, and its own budget is not made smaller on a first
    start."""
    spec, load = limits.spec, limits.load
    asked = int(saved["budget_tokens"]) if saved else config.optim.budget_tokens
    if config.optim.in_backward and config.optim.budget_tokens is not None:
        _refuse_split(config.optim.budget_tokens, load.longest_tokens)
    free_bytes, activations = backend.free_memory_bytes(chosen.device), config.optim.activations
    fixed = None if activations == "auto" else planner.possible(planner.uniform(spec, activations), chosen.device)
    most_dense = saved.get("dense_layers", 0) if saved else None

    def plan(tokens: int | None, policies: Policies | None, answer_texts: int | None = None) -> MemoryPlan:
        return planner.plan(
            spec,
            load,
            free_bytes=free_bytes,
            device=chosen.device,
            asked_tokens=tokens,
            policies=policies,
            bounds=planner.Bounds(most_dense, answer_texts, limits.host_bytes),
        )

    policies = fixed or (planner.possible(_saved_policies(base, saved), chosen.device) if saved else None)
    memory = plan(asked, policies, _saved_texts(saved))
    if not memory.fits:
        memory = plan(asked, fixed)
    if memory.fits:
        return memory
    smallest = plan(None, fixed)
    if smallest.fits and saved is not None:
        return smallest
    short = memory if smallest.fits else smallest
    need, free = (f"{each / 2**30:.1f} GiB" for each in (short.peak_bytes, short.free_bytes))
    values = {"tokens": load.longest_tokens, "need": need, "free": free, "most": smallest.budget_tokens}
    if smallest.fits:
        problem = Problem("engine.budget_too_large", field="optim.budget_tokens", value=str(asked), values=values)
    elif config.optim.in_backward:
        problem = Problem("engine.step_too_large", field="optim.batch", value=str(config.optim.batch), values=values)
    else:
        problem = Problem("engine.row_too_large", field="data.max_tokens", values=values)
    raise RunError(problem)


def told(config: RunConfig, plan: Plan) -> list[Problem]:
    """What to say of what is not as the recipe says."""
    asked = config.optim.activations
    if asked == "auto" or asked not in ON_DEVICE or plan.backend.device != "cpu":
        return []
    values = {"kept": ON_DEVICE[asked]}
    return [Problem("engine.offload_on_cpu", field="optim.activations", value=asked, values=values)]


def _saved_policies(base: Base, saved: Mapping[str, Any]) -> Policies:
    """A plan without them is of a version that kept everything."""
    return tuple(saved.get("activations", planner.uniform(base.arch.spec, "keep")))


def _saved_budgets(saved: Mapping[str, Any] | None, memory: MemoryPlan) -> Budgets:
    """A plan without them is of a version that knew one for all steps."""
    if saved is None:
        return ((0, memory.budget_tokens),)
    return tuple((step, tokens) for step, tokens in saved.get("budgets", ((0, saved["budget_tokens"]),)))


def _saved_texts(saved: Mapping[str, Any] | None) -> int | None:
    """None where the method writes none, or where the plan is of a version that did not count them."""
    return saved["memory"].get("answer_texts") if saved is not None and "memory" in saved else None


def _refuse_split(budget_tokens: int, step_tokens: int) -> None:
    """Weights that change in the backward pass allow one micro-batch per step.

    Raises:
        RunError: the budget is smaller than the largest step.
    """
    if budget_tokens < step_tokens:
        values = {"tokens": step_tokens}
        field, value = "optim.budget_tokens", str(budget_tokens)
        raise RunError(Problem("engine.split_in_backward", field=field, value=value, values=values))
