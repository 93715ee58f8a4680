"""A plan that turned out too large is made smaller, and that is written down.

What goes in: the plan, and what it did not fit into: an out-of-memory error of this process, or an earlier attempt that
the kernel's out-of-memory killer ended. What comes out: the next smaller plan, in `plan.json` and in a `revised` event.
A quantised base is no longer kept dense beside its codes, then layers keep less, neither of which changes a bit; then
micro-batches are split further, at the same examples per step, which changes how sums are rounded. Where it was the
writing of answers that did not fit, fewer are written at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from luthier import machine, moments, planner, planning
from luthier.config.schema import Policy, RunConfig
from luthier.data.stream import Budgets, budget_at, split_from
from luthier.engine.loop import Emit
from luthier.errors import Problem
from luthier.moments import Policies
from luthier.planning import Plan
from luthier.runs.events import ENDS, Event
from luthier.runs.recipe import difference, run_name
from luthier.runs.store import RunFolder

RUNG = 0.75
"""What layers keep next is at most so much of what they keep now: smaller rungs mean more tries, larger ones more work
done again than needed. Chosen, not tuned."""
NEAR_LIMIT = 0.5
"""The kernel's killer takes the largest process as a rule. One that used less than this of what it could have is more
likely to have been ended by somebody while another one was taken. Chosen, not tuned."""


class Pliable(Protocol):
    """A method whose layers can keep less."""

    policies: Sequence[Policy]


class Splittable(Protocol):
    """A stream, or validation batches."""

    def split(self, budget: Any) -> None: ...


class Tightening:
    """`engine.memory.Room` over a plan. Holds the plan as it is now, and passes on what changes in it.

    Args:
        run: where the plan is written; None where another process does that.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder | None,
        emit: Emit,
        stream: Splittable,
        held_out: Splittable | None,
        method: Pliable,
        forget_dense: Callable[[], None],
    ) -> None:
        self.plan = plan
        self._run, self._emit = run, emit
        self._stream, self._held_out, self._method = stream, held_out, method
        self._forget_dense = forget_dense

    def tighten(self, step: int, tokens: int, reason: str, *, split_only: bool = False) -> bool:
        found = tighter(self.plan, step, tokens, split_only=split_only)
        if found is None:
            return False
        change = self._take(*found, step, reason)
        self._stream.split(self.plan.budgets)
        if self._held_out is not None:
            self._held_out.split(self.plan.budget_tokens)
        self._method.policies = self.plan.policies
        if change[0] == planning.DENSE:
            self._forget_dense()
        return True

    def write_fewer(self, step: int, reason: str) -> int:
        """How many answers are written at once from `step` on; 0 where it is one already."""
        found = _fewer_texts(self.plan)
        if found is None:
            return 0
        self._take(*found, step, reason)
        return self.plan.memory.answer_texts

    def _take(self, plan: Plan, change: planning.Change, step: int, reason: str) -> planning.Change:
        """Write the plan down before anything is computed with it: whatever happens to this process, the next one
        knows."""
        self.plan = plan
        if self._run is not None:
            plan.write(self._run)
        data = {"changes": [list(change)], "reason": "memory", "from_step": step, "error": reason}
        self._emit("revised", data, step)
        return change


def tighter(plan: Plan, step: int, tokens: int, *, split_only: bool = False) -> tuple[Plan, planning.Change] | None:
    """The next smaller plan from a step on, and what differs; None where there is none.

    Args:
        tokens: of the micro-batch that did not fit: half of them are to fit next time.
        split_only: leave what layers keep alone.
    """
    limits, now, dense = plan.limits, budget_at(plan.budgets, step), plan.memory.dense_layers
    tokens = min(now, tokens)
    if dense and not split_only:
        return _replanned(plan, plan.budgets, plan.policies, dense=0), (planning.DENSE, dense, 0)
    if limits.may_keep_less and not split_only:
        kind = planner.kind_of(plan.backend.device)
        held = moments.step_bytes(limits.spec, limits.load, plan.policies, tokens, kind).most
        room = planner.Room(int(held * RUNG), kind, limits.host_bytes)
        lower = planner.choose(limits.spec, limits.load, tokens, room)
        if moments.step_bytes(limits.spec, limits.load, lower, tokens, kind).most < held:
            change = (planning.KEPT, planner.in_words(plan.policies), planner.in_words(lower))
            return _replanned(plan, plan.budgets, lower), change
    smaller = max(tokens // 2, limits.load.longest_tokens)
    if limits.may_split and smaller < now:
        budgets = split_from(plan.budgets, step, smaller)
        return _replanned(plan, budgets, plan.policies), (planning.BUDGET, now, smaller)
    return None


def _fewer_texts(plan: Plan) -> tuple[Plan, planning.Change] | None:
    """Half as many answers at once; None where it is one already, or where none are written."""
    texts = plan.memory.answer_texts
    if texts < 2:
        return None
    return _replanned(plan, plan.budgets, plan.policies, texts=texts // 2), (planning.TEXTS, texts, texts // 2)


def _replanned(
    plan: Plan, budgets: Budgets, policies: Policies, *, dense: int | None = None, texts: int | None = None
) -> Plan:
    bounds = planner.Bounds(
        plan.memory.dense_layers if dense is None else dense,
        texts or plan.memory.answer_texts or None,
        plan.limits.host_bytes,
    )
    memory = planner.plan(
        plan.limits.spec,
        plan.limits.load,
        free_bytes=plan.memory.free_bytes,
        device=plan.backend.device,
        asked_tokens=budgets[-1][1],
        policies=policies,
        bounds=bounds,
    )
    return dataclasses.replace(plan, memory=memory, budgets=budgets)


# ------------------------------------------------------------------------------------------ the kernel's own killer


def killed_attempt(config: RunConfig) -> RunFolder | None:
    """The recipe's run, where its last attempt was ended by the kernel for want of memory; to be read before it is
    claimed."""
    run = RunFolder(Path(config.run.dir) / run_name(config))
    if not run.has("recipe.yaml") or not run.has("plan.json") or run.locked:
        return None
    if not killed(run.events(), run.read_json("plan.json")):
        return None
    return run if not difference(run.config(), config) or run.has_begun else None


def killed(events: Sequence[Event], plan: dict[str, Any]) -> bool:
    """Whether the kernel's out-of-memory killer ended the last attempt, as far as that can be known: the attempt said
    nothing when it ended; since it began, the kernel has killed for want of memory where it ran; and it used much of
    what it could have. A process that somebody killed fails the second: the kernel's count stands still."""
    place = next((i for i in reversed(range(len(events))) if events[i].kind == "rehearsal"), None)
    if place is None or str(plan["backend"]["device"]).startswith("cuda"):
        return False
    attempt = events[place:]
    if any(event.kind in ENDS for event in attempt) or not _more(attempt[0].data.get("kernel_kills")):
        return False
    used = [int(event.data.get("memory_bytes") or 0) for event in attempt if event.kind == "step"]
    most = max([*used, int(plan["memory"]["peak_bytes"])])
    return most >= NEAR_LIMIT * machine.memory_limit_bytes()


def _more(before: dict[str, Any] | None) -> bool:
    """Whether the kernel's count has risen since."""
    now = machine.kernel_kills()
    if before is None or now is None or before["boot"] != now["boot"]:
        return False
    same_group = "group" in now and before.get("group") == now["group"]
    place = "in_group" if same_group else "machine"
    return bool(now[place] > before[place])


def after_kill(plan: Plan) -> tuple[Plan, Problem]:
    """The plan of an attempt that follows one that was killed for want of memory, and what to say about it: of what by
    the plan takes most there is less. From which step on a smaller budget holds is known once there is a checkpoint
    (`Plan.starting`): what was done stays as it was.
    """
    found = _fewer_texts(plan) if plan.memory.answers else None
    found = found or tighter(plan, plan.budgets[-1][0], plan.memory.micro_tokens)
    if found is None:
        return plan, Problem("engine.killed_by_memory_again")
    tightened, change = found
    tightened = dataclasses.replace(tightened, budgets=plan.budgets, changes=(*plan.changes, change))
    return tightened, Problem("engine.killed_by_memory", field=change[0], values={"old": change[1], "new": change[2]})
