"""The plan of a run: device, dtype and micro-batch budget, decided before the run folder is touched.

What goes in: the recipe, the base, the longest row, and the plan of an earlier attempt where there is one. What comes
out: a `Plan`, with what had to change since then; or the problem, with the field that mends it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from luthier import planner
from luthier.arch import count
from luthier.arch.count import AnyTune
from luthier.arch.families.gated import EMBEDDING, HEAD
from luthier.config.schema import Lora, RunConfig
from luthier.engine import backend
from luthier.engine.backend import Backend
from luthier.errors import Problem, RunError
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
        ConfigError: the device cannot be used; RunError: not even the longest row fits, or a budget asked for does not.
    """
    lost: list[str] = []
    if saved is None:
        chosen = backend.choose(config.run.device, config.model.dtype)
    else:
        chosen, lost = backend.restore(saved["backend"])
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
    else:
        problem = Problem("engine.row_too_large", field="data.max_tokens", values=values)
    raise RunError(problem)


def _workload(config: RunConfig, base: Base, tune: AnyTune, longest_tokens: int, chosen: Backend) -> Workload:
    trained = count.count(base.arch, tune).trainable
    in_place = 0 if isinstance(tune, Lora) else trained
    head = (EMBEDDING if base.arch.spec.tied else HEAD) + ".weight"
    head_trains = head in count.trained_tensors(base.arch, tune)
    return Workload(
        trainable_parameters=trained,
        frozen_parameters=base.arch.num_parameters - in_place,
        first_trained_layer=count.first_trained_layer(base.arch, tune),
        compute_bytes=chosen.compute_dtype.itemsize,
        optimizer_slots=2 if config.optim.kind == "adamw" else int(config.optim.momentum > 0),
        longest_tokens=longest_tokens,
        inner_features=sum(rank for _, rank, _ in count.select_units(base.arch, tune)) if isinstance(tune, Lora) else 0,
        cast_parameters=in_place,
        head_parameters=math.prod(base.arch.tensors[head]) if head_trains else 0,
    )
