"""The plan of a run: device, dtype and micro-batch budget, decided before the run folder is touched.

What goes in: the recipe, the base, the tokens that one micro-batch has to hold, and the plan of an earlier attempt
where there is one. What comes out: a `Plan`, with what had to change since then; or the problem, with the field that
mends it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from luthier import planner
from luthier.arch import count
from luthier.arch.count import AnyTune
from luthier.arch.families.gated import EMBEDDING, HEAD
from luthier.config.schema import Lora, RunConfig
from luthier.engine import backend
from luthier.engine.backend import Backend
from luthier.errors import ConfigError, Problem, RunError
from luthier.kernels import select
from luthier.planner import MemoryPlan, Workload
from luthier.runs.store import RunFolder
from luthier.session import Base


@dataclasses.dataclass(frozen=True)
class Plan:
    """changes: [field, before, now] of what an earlier attempt's plan says and cannot be had any more."""

    backend: Backend
    memory: MemoryPlan
    changes: tuple[tuple[str, Any, Any], ...]
    saved: Mapping[str, Any] | None

    @property
    def budget_tokens(self) -> int:
        return self.memory.budget_tokens

    def save(self, run: RunFolder) -> None:
        """Write `plan.json`, unless the one that is obeyed is there already. A device that is back later is used again;
        a budget stays as small as it once had to be."""
        if self.saved is None:
            kernels = select.choose(self.backend.device).to_json()
            facts = {"backend": self.backend.to_json(), **self._budget(), "kernels": kernels}
            run.write_json("plan.json", facts)
        elif self.saved["budget_tokens"] != self.budget_tokens or not run.has("plan.json"):
            run.write_json("plan.json", {**self.saved, **self._budget()})

    def _budget(self) -> dict[str, Any]:
        return {"budget_tokens": self.budget_tokens, "memory": self.memory.to_json()}


def decide(config: RunConfig, base: Base, tune: AnyTune, longest_tokens: int, saved: Mapping[str, Any] | None) -> Plan:
    """Choose the plan, or restore the saved one as far as this machine can give it.

    Raises:
        ConfigError: the device cannot be used, or its arithmetic not with `optim.in_backward`.
        RunError: what one micro-batch has to hold does not fit, or a budget asked for does not.
    """
    # Weights kept in bfloat16 are computed with as they are, on whatever device.
    kept: Literal["bfloat16"] | None = None if config.optim.weights == "float32" else "bfloat16"
    lost: list[str] = []
    if saved is None:
        chosen = backend.choose(config.run.device, kept or config.model.dtype)
    else:
        chosen, lost = backend.restore(saved["backend"], kept)
    if config.optim.in_backward and chosen.loss_scaling:
        raise ConfigError(Problem("engine.float16_in_backward", field="optim.in_backward"))
    memory = _memory(config, _workload(config, base, tune, longest_tokens, chosen), base, chosen, saved)
    changes = [(f"plan.{field}", saved["backend"][field], getattr(chosen, field)) for field in lost] if saved else []
    if saved is not None and saved["budget_tokens"] != memory.budget_tokens:
        changes.append(("plan.budget_tokens", saved["budget_tokens"], memory.budget_tokens))
    return Plan(chosen, memory, tuple(changes), saved)


def _memory(
    config: RunConfig, load: Workload, base: Base, chosen: Backend, saved: Mapping[str, Any] | None
) -> MemoryPlan:
    """The budget of the saved plan or of the recipe. Where less memory is free than when the plan was made, a smaller
    one that still holds the longest row; a recipe's own budget is not made smaller on a first start."""
    asked = int(saved["budget_tokens"]) if saved else config.optim.budget_tokens
    if config.optim.in_backward and config.optim.budget_tokens is not None:
        _refuse_split(config.optim.budget_tokens, load.longest_tokens)
    free_bytes = backend.free_memory_bytes(chosen.device)

    def plan(tokens: int | None) -> MemoryPlan:
        spec = base.arch.spec
        return planner.plan(spec, load, free_bytes=free_bytes, device=chosen.device, asked_tokens=tokens)

    memory = plan(asked)
    if memory.fits:
        return memory
    smallest = plan(None)
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


def _refuse_split(budget_tokens: int, step_tokens: int) -> None:
    """Weights that change in the backward pass allow one micro-batch per step.

    Raises:
        RunError: the budget is smaller than the largest step.
    """
    if budget_tokens < step_tokens:
        values = {"tokens": step_tokens}
        field, value = "optim.budget_tokens", str(budget_tokens)
        raise RunError(Problem("engine.split_in_backward", field=field, value=value, values=values))


def _workload(config: RunConfig, base: Base, tune: AnyTune, longest_tokens: int, chosen: Backend) -> Workload:
    optim = config.optim
    trained = planner.trained(
        count.trained_shapes(base.arch, tune),
        optim.in_backward,
        weights=optim.weights,
        states=optim.states,
        slots=2 if optim.kind == "adamw" else int(optim.momentum > 0),
    )
    in_place = 0 if isinstance(tune, Lora) else trained.vectors + sum(trained.matrices)
    head = (EMBEDDING if base.arch.spec.tied else HEAD) + ".weight"
    head_trains = head in count.trained_tensors(base.arch, tune)
    return Workload(
        trained=trained,
        frozen_parameters=base.arch.num_parameters - in_place,
        first_trained_layer=count.first_trained_layer(base.arch, tune),
        compute_bytes=chosen.compute_dtype.itemsize,
        longest_tokens=longest_tokens,
        inner_features=sum(rank for _, rank, _ in count.select_units(base.arch, tune)) if isinstance(tune, Lora) else 0,
        cast_parameters=in_place if optim.weights == "float32" else trained.vectors,
        head_parameters=math.prod(base.arch.tensors[head]) if head_trains else 0,
    )
