"""What would make a run fit that does not, in the order of the harm that it does.

What goes in: a recipe and its device. What comes out: the first change, or the fewest of them, with which it fits. The
earlier ones change no bit of the result or hardly any; shorter answers, fewer targets and a lower rank train another
model, so they are only ever proposed. How many answers are written at once is the plan's own choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier import holdings, moments, planner
from luthier.arch.count import AnyTune
from luthier.arch.spec import Architecture
from luthier.auxiliary import Models
from luthier.config.schema import Dpo, Full, Kto, Lora, Online, Qlora, RunConfig
from luthier.holdings import Answering, Tokens, Workload
from luthier.moments import Policies
from luthier.paper.rows import RowFacts, per_example
from luthier.paper.target import Target
from luthier.planner import MemoryPlan
from luthier.workload import workload

FEWER_TARGETS = ("q_proj", "v_proj")
"""The two that the paper of LoRA tunes."""
LOW_RANK = 4
SHORT_ANSWER = 32
"""Tokens; shorter ones are not proposed. Chosen, not tuned."""
ADAPTER, QUANTISED = "tune=lora", "tune=qlora"


@dataclass(frozen=True)
class Remedy:
    """changes: in order, each a setting of the recipe; proposed: whether one of them trains another model;
    memory: the plan with them."""

    changes: tuple[str, ...]
    proposed: bool
    memory: MemoryPlan

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": list(self.changes),
            "only_proposed": self.proposed,
            "peak_bytes": self.memory.peak_bytes,
        }


@dataclass(frozen=True)
class Case:
    """A recipe on a device."""

    config: RunConfig
    arch: Architecture
    tune: AnyTune
    aim: Target
    longest: int
    models: Models | None = None
    facts: RowFacts | None = None

    @property
    def compute_bytes(self) -> int:
        return 4 if self.aim.dtype == "float32" else 2

    def load(self, longest: int | None = None) -> Workload:
        tokens = self._tokens(self.longest if longest is None else longest)
        size, method = self.compute_bytes, self.config.method
        return workload(self.config.optim, self.arch, self.tune, tokens, size, self.aim.kind, method, self.models)

    def _tokens(self, longest: int) -> Tokens:
        """As a run counts them (`luthier.training`), as far as rows are known."""
        optim, method, facts = self.config.optim, self.config.method, self.facts
        if isinstance(method, Online):
            most = optim.batch * method.samples * longest
            return Tokens(longest, most, most)
        passed = None if facts is None else facts.held_out
        if isinstance(method, Dpo | Kto) and facts is not None:
            passed = None if facts.rows is None else math.ceil(facts.rows * facts.tokens * per_example(method))
        if optim.in_backward:
            return Tokens(longest, longest, passed)
        most = optim.batch * per_example(method) * longest
        if facts is None or facts.fullest is None:
            return Tokens(longest, most, passed)
        return Tokens(longest, max(min(most, facts.fullest), longest), passed, facts.most_scored)

    def plan(self) -> MemoryPlan:
        """As a run decides it on its first start (`luthier.planning`)."""
        activations = self.config.optim.activations
        fixed: Policies | None = None
        if activations != "auto":
            fixed = planner.possible(planner.uniform(self.arch.spec, activations), self.aim.kind)
        return planner.plan(
            self.arch.spec,
            self.load(),
            free_bytes=self.aim.free_bytes,
            device=self.aim.kind,
            asked_tokens=self.config.optim.budget_tokens,
            policies=fixed,
            bounds=planner.Bounds(host_bytes=self.aim.host_bytes),
        )

    def longest_context(self, cap: int) -> tuple[int, int]:
        """The longest row that a micro-batch of its own may have, with layers keeping least; an answer included, which
        has to be written too. And the bytes that layers then keep in the host's memory."""
        spec, load, kind = self.arch.spec, self.load(1), self.aim.kind
        room = self._room(load)
        stacks = planner.least(spec, load, kind)
        tokens = [planner.most_tokens(spec, load, each, room, cap) for each in stacks]
        most = max(tokens)
        policies = stacks[tokens.index(most)]
        if load.answering is not None:
            most = self._longest_written(load, load.answering, room, most)
        return most, moments.moved_bytes(spec, load, policies, most)

    def _longest_written(self, load: Workload, what: Answering, room: planner.Room, cap: int) -> int:
        """Of the rows up to `cap`, the longest that can be written and judged too."""

        def written(tokens: int) -> bool:
            alone = replace(what, text_tokens=tokens, prompt_tokens=tokens)
            return moments.answer_bytes(self.arch.spec, load, alone, 1, room.kind) <= room.bytes

        return planner.largest(written, cap)

    def largest_batch(self, policies: Policies, cap: int) -> int:
        """Tokens of the largest micro-batch, with layers keeping what they are to keep."""
        load = self.load()
        return planner.most_tokens(self.arch.spec, load, policies, self._room(load), cap)

    def layer_parameters(self) -> int:
        """Of the largest layer."""
        sizes = [0] * len(self.arch.spec.layers)
        for unit in self.arch.units:
            sizes[unit.layer] += unit.in_features * unit.out_features
        return max(sizes)

    def changed(self, **optim: Any) -> Case:
        settings = self.config.optim.model_copy(update=optim)
        return self.with_(config=self.config.model_copy(update={"optim": settings}))

    def with_(self, **fields: Any) -> Case:
        return Case(**{**self.__dict__, **fields})

    def _room(self, load: Workload) -> planner.Room:
        """What a micro-batch may fill."""
        left_bytes = planner.usable(self.aim.free_bytes) - holdings.held_bytes(load)
        return planner.Room(left_bytes, self.aim.kind, self.aim.host_bytes)


@dataclass(frozen=True)
class _Change:
    """setting: as a person writes it; case: with it."""

    setting: str
    case: Case
    proposed: bool = False


Step = Callable[[Case], _Change | None]


def cheapest(case: Case) -> Remedy | None:
    """Of the changes that are enough those whose worst one does the least harm, and of these no more than are needed,
    the more harmful ones let go first. None where all of them are not enough."""
    for worst in range(len(STEPS)):
        steps = STEPS[: worst + 1]
        if found := _with(case, steps):
            for place in reversed(range(worst)):
                rest = steps[:place] + steps[place + 1 :]
                if fewer := _with(case, rest):
                    steps, found = rest, fewer
            return found
    return None


def _with(case: Case, steps: Sequence[Step]) -> Remedy | None:
    """All of these changes, as far as they are any; None where they are not enough."""
    made: list[_Change] = []
    for step in steps:
        change = step(made[-1].case if made else case)
        if change is not None:
            made.append(change)
    if not made or not (memory := made[-1].case.plan()).fits:
        return None
    settings = [each.setting for each in made]
    changes = tuple(each for each in settings if each != ADAPTER or QUANTISED not in settings)  # one kind of tuning
    return Remedy(changes, any(each.proposed for each in made), memory)


def _budget(case: Case) -> _Change | None:
    given = case.config.optim.budget_tokens
    if given is None or given <= case.longest:
        return None
    return _Change(f"optim.budget_tokens={case.longest}", case.changed(budget_tokens=case.longest))


def _policy(case: Case) -> _Change | None:
    if case.config.optim.activations == "auto":
        return None
    return _Change("optim.activations=auto", case.changed(activations="auto"))


def _states(case: Case) -> _Change | None:
    if case.config.optim.kind != "adamw" or case.config.optim.states == "8bit":
        return None
    return _Change("optim.states=8bit", case.changed(states="8bit"))


def _adapter(case: Case) -> _Change | None:
    """Where the base itself trains: a model that is trained in another way, hence a proposal."""
    if not isinstance(case.tune, Full):
        return None
    return _Change(ADAPTER, case.with_(tune=Lora()), proposed=True)


def _quantised(case: Case) -> _Change | None:
    if not isinstance(case.tune, Lora) or isinstance(case.tune, Qlora):
        return None
    fields = {key: getattr(case.tune, key) for key in Lora.model_fields if key != "kind"}
    return _Change(QUANTISED, case.with_(tune=Qlora().model_copy(update=fields)))


def _shorter(case: Case) -> _Change | None:
    """Answers as long as fits, where the model writes some."""
    method = case.config.method
    if not isinstance(method, Online):
        return None
    tokens = case.longest_context(case.longest)[0] - (case.longest - method.max_new_tokens)
    if not SHORT_ANSWER <= tokens < method.max_new_tokens:
        return None
    shorter = case.config.model_copy(update={"method": method.model_copy(update={"max_new_tokens": tokens})})
    longest = case.longest - method.max_new_tokens + tokens
    return _Change(f"method.max_new_tokens={tokens}", case.with_(config=shorter, longest=longest), proposed=True)


def _targets(case: Case) -> _Change | None:
    if not isinstance(case.tune, Lora) or case.tune.targets == FEWER_TARGETS:
        return None
    tune = case.tune.model_copy(update={"targets": FEWER_TARGETS, "rank_pattern": {}, "alpha_pattern": {}})
    return _Change(f"tune.targets={','.join(FEWER_TARGETS)}", case.with_(tune=tune), proposed=True)


def _rank(case: Case) -> _Change | None:
    if not isinstance(case.tune, Lora) or case.tune.rank <= LOW_RANK:
        return None
    tune = case.tune.model_copy(update={"rank": LOW_RANK, "rank_pattern": {}, "alpha_pattern": {}})
    return _Change(f"tune.rank={LOW_RANK}", case.with_(tune=tune), proposed=True)


STEPS: tuple[Step, ...] = (
    _budget,
    _policy,
    _states,
    _quantised,
    _adapter,
    _quantised,
    _shorter,
    _targets,
    _rank,
)
"""In the order of harm; from the adapter on another model is trained. A base that trains cannot be quantised, so that
comes again behind the adapter."""
