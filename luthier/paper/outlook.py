"""A recipe's memory and time on a device, before any weight is loaded.

What goes in: the recipe and what it is planned for. What comes out: an `Outlook`: bytes by part, what was chosen, the
time of a step, the largest context and micro-batch that fit, and, where nothing fits, the least change that would. All
from `config.json`; torch-free.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier import auxiliary, holdings, moments, planner
from luthier.arch import adapter_config, count, families, flops
from luthier.arch import tokens as arch_tokens
from luthier.arch.count import AnyTune
from luthier.arch.spec import Architecture
from luthier.arch.values import valued
from luthier.auxiliary import Models
from luthier.config import load as config_load
from luthier.config.schema import ON_DEVICE, Lora, ModelSection, Online, Reward, RunConfig
from luthier.errors import ConfigError, Problem
from luthier.models import hub
from luthier.paper import remedies, rows, target
from luthier.paper.kept import Kept
from luthier.paper.remedies import Case, Remedy
from luthier.paper.rows import RowFacts
from luthier.paper.target import Target
from luthier.planner import MemoryPlan

MOST_TOKENS = 2**24
"""Beyond this no context or micro-batch is looked for."""
MOST_DEVICES = 2**14
WEIGHT_PASSES = {"keep": 2, "drop_mlp": 3, "drop_layer": 3}
"""Times that a micro-batch reads a layer's weights: forward, backward, and once more where it is computed again."""


@dataclass(frozen=True)
class Speed:
    """Of one optimizer step over all devices, with full micro-batches as `micro` counts them on each.

    flops: of a device; bound: what takes the time, `arithmetic` or `memory`; steps: of the whole run, None where the
    number of rows is not known.
    """

    step_s: float
    tokens_per_s: float
    flops: int
    micro: int
    bound: str
    steps: int | None

    @property
    def run_s(self) -> float | None:
        return None if self.steps is None else self.steps * self.step_s


@dataclass(frozen=True)
class Sharded:
    """Weights, gradients and states split over devices, activations not (ZeRO-3, arXiv 1910.02054; FSDP). On paper
    alone: it cannot be trained yet.

    devices: that it is planned for, or, of one, as many as it takes; peak_bytes: of each; least: devices from which on
    it fits, None where even the activations of one row are too large.
    """

    devices: int
    peak_bytes: int
    fits: bool
    least: int | None


@dataclass(frozen=True)
class Outlook:
    """Attributes:
    head_rows: rows of logits that the head forms at once; vocab_bytes: of one of them.
    context: the longest row that fits, with layers keeping least. context_moved: bytes that they then keep in the
    host's memory. batch_tokens: the largest micro-batch, with layers keeping what was chosen. remedy: where nothing
    fits; None where nothing short of another device helps.
    """

    model: str
    family: str
    max_positions: int
    parameters: int
    trainable: int
    target: Target
    rows: RowFacts
    memory: MemoryPlan
    head_rows: int
    vocab_bytes: int
    speed: Speed | None
    context: int
    context_moved: int
    batch_tokens: int
    remedy: Remedy | None
    sharded: Sharded | None

    @property
    def fits(self) -> bool:
        return self.memory.fits

    def to_json(self) -> dict[str, Any]:
        memory = {**self.memory.to_json(), "policies": list(self.memory.policies), "fits": self.fits}
        aim = asdict(self.target) | {"share_of_peak": self.target.share}
        del aim["notes"]
        speed = None if self.speed is None else {**asdict(self.speed), "run_s": self.speed.run_s}
        largest = {
            "context_tokens": self.context,
            "context_host_bytes": self.context_moved,
            "micro_batch_tokens": self.batch_tokens,
        }
        return {
            "model": {"path": self.model, "family": self.family, "parameters": self.parameters},
            "trainable": self.trainable,
            "device": aim,
            "rows": {**asdict(self.rows), "assumed": self.rows.assumed},
            "memory": memory,
            "head_rows": self.head_rows,
            "speed": speed,
            "largest": largest,
            "remedy": None if self.remedy is None else self.remedy.to_json(),
            "sharded": None if self.sharded is None else asdict(self.sharded),
        }


def plan(
    config: RunConfig,
    device: str | None = None,
    *,
    home: Path = Path(),
    facts: RowFacts | None = None,
    kept: Kept | None = None,
) -> Outlook:
    """Plan a recipe for a device of the table, such as `8xH100-80GB`, or for this machine.

    Args:
        home: where relative paths start from.
        facts: of the rows, where they are known.
        kept: what hubs and drivers said a moment ago, where that will do.

    Raises:
        ConfigError: the device is not known. ModelError: the model, its family, or what is to be tuned is not.
    """
    kept = kept or Kept()
    aim = target.find(config, device, kept)
    arch = families.read(_folder(config.model, home, kept))
    facts = facts or rows.find(config, config_load.environment().cache_dir, home)
    config = config.model_copy(update={"tune": _placed(config, home)})
    models = auxiliary.find(config, (home, home / config.run.dir), lambda model: _folder(model, home, kept))
    return outlook(config, arch, aim, facts, models)


def _folder(model: ModelSection, home: Path, kept: Kept) -> Path:
    """Where the model's configuration is; a hub is asked for one that is not here."""

    def found() -> Path:
        environment = config_load.environment()
        return hub.resolve(model.path, model.revision, environment, weights=False, home=home).folder

    local = model.path == hub.NANO or os.path.exists(home / model.path)
    return found() if local else kept.ask((model.path, model.revision), found)


def outlook(
    config: RunConfig, arch: Architecture, aim: Target, facts: RowFacts, models: Models | None = None
) -> Outlook:
    """The same for an architecture and rows that are known.

    Args:
        models: beside the one that trains, where there are any.
    """
    if config.optim.paged and aim.kind == "cpu":
        raise ConfigError(Problem("engine.paged_on_cpu", field="optim.paged", value="true"))
    arch = valued(arch) if isinstance(config.method, Reward) else arch
    tune = adapter_config.with_score(adapter_config.settle(config.tune, arch), arch)
    arch = _with_tokens(arch, tune, len(config.data.new_tokens))
    case = Case(config, arch, tune, aim, longest(config, facts), models, facts)
    memory, counts = case.plan(), count.count(arch, tune)
    context, context_moved = case.longest_context(MOST_TOKENS)
    sharded = None if memory.fits else _sharded(case)
    return Outlook(
        model=config.model.path,
        family=arch.spec.family,
        max_positions=arch.spec.max_positions,
        parameters=arch.num_parameters,
        trainable=counts.trainable,
        target=aim,
        rows=facts,
        memory=memory,
        head_rows=moments.head_rows(arch.spec, memory.micro_tokens, case.compute_bytes),
        vocab_bytes=arch.spec.vocab * case.compute_bytes,
        speed=None if isinstance(config.method, Online) or not memory.fits else _speed(case, memory, facts),
        context=context,
        context_moved=context_moved,
        batch_tokens=case.largest_batch(memory.policies, MOST_TOKENS),
        remedy=None if memory.fits else remedies.cheapest(case),
        sharded=sharded,
    )


def _placed(config: RunConfig, home: Path) -> AnyTune:
    """An adapter that a run made is found under the run's name."""
    tune = config.tune
    if isinstance(tune, Lora) and tune.from_ is not None:
        folder = home / tune.from_
        there = folder if os.path.exists(folder) else home / config.run.dir / tune.from_
        return tune.model_copy(update={"from_": str(there)})
    return tune


def _with_tokens(arch: Architecture, tune: AnyTune, new: int) -> Architecture:
    """As if every new token needed a row of its own; the tokenizer, which may have spare ones, is not read."""
    extend = arch_tokens.beside if isinstance(tune, Lora) else arch_tokens.widened
    return extend(arch, range(arch.spec.vocab, arch.spec.vocab + new))


def longest(config: RunConfig, facts: RowFacts) -> int:
    """What a micro-batch has to hold: a row, with an answer where the model writes some, or a step where it cannot be
    split. How long the longest step is depends on the order of rows; no longer than the longest rows together."""
    if isinstance(config.method, Online):
        return facts.longest + config.method.max_new_tokens
    if not config.optim.in_backward:
        return facts.longest
    most = config.optim.batch * rows.per_example(config.method) * facts.longest
    return max(facts.longest, most if facts.fullest is None else min(facts.fullest, most))


# ------------------------------------------------------------------------------------------------------- time


def _speed(case: Case, memory: MemoryPlan, facts: RowFacts) -> Speed | None:
    """Arithmetic at the assumed share of the peak, or the traffic of weights and states, whichever takes longer; None
    where the peak is not known."""
    aim, optim = case.aim, case.config.optim
    if aim.tflops is None:
        return None
    examples = max(math.ceil(optim.batch / aim.count), 1)
    length, scored = max(round(facts.tokens), 1), max(round(facts.scored * examples), 1)
    batch = flops.Rows([length] * examples, scored, last=scored)
    work = flops.step(case.arch, case.tune, batch, memory.policies).total
    micro = max(math.ceil(examples * length / memory.budget_tokens), 1)
    arithmetic_s = work / (aim.tflops * 1e12 * aim.share)
    memory_s = 0.0
    if aim.bandwidth_gbs is not None:
        passes = max(WEIGHT_PASSES[ON_DEVICE.get(policy, policy)] for policy in memory.policies)
        states = 2 * (memory.optimizer + memory.trainable) + memory.gradients
        memory_s = (micro * passes * (memory.weights + memory.trainable) + states) / (aim.bandwidth_gbs * 1e9)
    step_s = max(arithmetic_s, memory_s)
    bound = "arithmetic" if arithmetic_s >= memory_s else "memory"
    tokens = optim.batch * length
    return Speed(step_s, tokens / step_s, work, micro, bound, _steps(case.config, facts))


def _steps(config: RunConfig, facts: RowFacts) -> int | None:
    if config.optim.steps is not None:
        return config.optim.steps
    if facts.rows is None:
        return None
    return max(math.ceil(math.ceil(facts.rows / config.optim.batch) * config.optim.epochs), 1)


# ---------------------------------------------------------------------------------------------------- sharding


def _sharded(case: Case) -> Sharded | None:
    """For a model that no single device holds; None where its activations alone are what does not fit."""
    load = case.load()
    policies = planner.choose(case.arch.spec, load, load.longest_tokens, planner.Room(0, case.aim.kind))
    work = moments.step_bytes(case.arch.spec, load, policies, load.longest_tokens, case.aim.kind).most
    # A layer is gathered while it computes, and the next one on its way.
    gathered = 2 * case.layer_parameters() * load.compute_bytes
    held = holdings.held_bytes(load)

    def peak(devices: int) -> int:
        return -(-held // devices) + work + gathered

    most = case.aim.free_bytes
    least = next((2**power for power in range(MOST_DEVICES.bit_length()) if peak(2**power) <= most), None)
    if case.aim.there == 1 and least is None:
        return None
    devices = case.aim.there if case.aim.there > 1 else least or 1
    return Sharded(devices, peak(devices), peak(devices) <= most, least)
