"""What methods that learn from their own answers have in common: rounds.

What goes in: steps that name prompts. What comes out: the same steps filled with answers that the model wrote by the
weights that train, judged and scored. A round is: answer, judge, score (what the reference and the policy before the
updates think of every token), update as often as the recipe says; `luthier.methods.grpo` and `luthier.methods.ppo` say
what is learnt then. A round's answers are a pure function of the weights and of (seed, round, prompt, sample), and lie
in the checkpoint while updates with them are still to come.

Shape legend: M scored rows of a micro-batch, A tokens of one answer.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.batch import Batch, Floats, Step
from luthier.config import schema
from luthier.config.schema import Policy
from luthier.data.examples import Chat
from luthier.data.renderer import RowRenderer
from luthier.data.rollouts import Rollout, RolloutBatch, packed
from luthier.data.rounds import Prompts, Rounds, answer_seed
from luthier.engine import measures, memory
from luthier.engine.loop import Emit, Loss
from luthier.errors import Problem, TrainingFailed
from luthier.losses import policy
from luthier.methods import writing
from luthier.methods.agreement import Agreement
from luthier.methods.alarms import Alarms
from luthier.methods.round import Round
from luthier.methods.writing import Ask
from luthier.models.decoder import Decoder, Scores, Want
from luthier.samples import Sample, sample
from luthier.scoring import trial
from luthier.scoring.rewards import Answer, Rewards, Scored, reasons
from luthier.scoring.verifiers import Asked

ADVANTAGE, SAMPLED, OLD, REFERENCE = "advantage", "sampled", "old", "reference"
"""Names of what is known of each row."""
KL = "kl"
COMPARED = 16
"""Answers whose tokens are compared before the first update. Chosen, not tuned."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """The policy at step 0. decoder: None is the one that trains, with the adapter named, or none, in place of its
    own."""

    decoder: Decoder | None = None
    adapter: str | None = None


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a method that answers needs beside its section of the recipe.

    Attributes:
        adapter: name of the adapter that trains; None trains base weights.
        prompts, held_out: rows that ask; rounds: which of them when.
        renderer: turns answers into text, and knows the tokens that end one.
        reference: for the divergence; None where the recipe weighs it with 0.
        call_tokens: as in `luthier.data.prefix.shared`.
        texts: that are written at once.
        write_fewer: told where memory runs out for that, with the step and how it was said; how many it is from now on,
            0 where it cannot be fewer.
    """

    adapter: str | None
    seed: int
    prompts: Prompts
    held_out: Prompts | None
    rounds: Rounds
    rewards: Rewards
    renderer: RowRenderer
    reference: Reference | None
    emit: Emit
    call_tokens: int | None
    texts: int
    write_fewer: Callable[[int, str], int]


class Online(abc.ABC):
    """A method that learns from its own answers, but for what it learns."""

    def __init__(self, method: schema.Online, setting: Setting, policies: Sequence[Policy] = ()) -> None:
        self.method = method
        self.setting = setting
        self.policies = policies
        self.alarms = Alarms()
        self.stops = method.alarms == "stop"
        self._raised: list[Problem] = []
        self._round: Round | None = None
        self._spare: Round | None = None
        self._agreement = Agreement()
        self._texts = setting.texts
        self._steps = 0
        self._trial: trial.Trial | None = None
        self._told = -1
        self._update = 0
        self._facts: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}
        self._held_out: list[Rollout] = []

    # -------------------------------------------------------------------------------------------------- the loop's

    def prepare(self, step: Step, model: nn.Module) -> Step:
        if step.micro:  # of a rehearsal, which brings its own
            return step
        assert isinstance(model, Decoder)
        self._steps = step.index
        number, update = divmod(step.index, self.setting.rounds.updates)
        if self._round is None or self._round.number != number:
            spare = self._spare
            self._round = spare if spare is not None and spare.number == number else self._rolled(number, step, model)
        self._spare, made = self._round, self._round
        micro = self._micro(made, step.index)
        if not made.scored:
            began = time.monotonic()
            made.known = self._score(made, micro, model)
            self._seconds["score"] = time.monotonic() - began
        self._facts = self._account(made)
        if made.number > self._told:
            self._told = made.number
            self._watch(step.index)
        self._update = update
        self._agreement.begin()
        ready = tuple(batch.knowing(made.known) for batch in micro)
        denom = self._denominators(made)
        tokens = sum(len(each.prompt) + len(each.answer) - 1 for each in made.rollouts)
        return dataclasses.replace(step, micro=ready, denom=denom, tokens=tokens)

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss: ...

    def watch(self, found: Mapping[str, Any], held_out: float | None) -> list[Problem]:
        """What the last evaluation raised; the alarms of a round are raised before its updates."""
        raised, self._raised = self._raised, []
        return raised

    def state_dict(self) -> dict[str, Any]:
        made = self._round
        pending = made is not None and self._update + 1 < self.setting.rounds.updates
        return {
            "round": made.to_json() if made is not None and pending else None,
            "update": self._update,
            "told": self._told,
            "alarms": self.alarms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state.get("round")
        self._round = Round.from_json(saved) if saved is not None else None
        self._update, self._told = state.get("update", 0), state.get("told", -1)
        self.alarms.load_state_dict(state.get("alarms", {}))

    def close(self) -> None:
        self.setting.rewards.close()

    def updated(self, step: Step, seconds: float) -> None:
        """Told of an update that was made: the round's account goes to the event log with it.

        Raises:
            TrainingFailed: the answers were not written by the weights that were trained.
        """
        self._steps = step.index + 1
        facts = {**self._facts, "update": self._update, "seconds": {**self._seconds, "update": seconds}}
        if (difference := self._agreement.noted()) is not None:
            facts["difference"] = difference
        self.setting.emit("rollout", facts, step.index + 1)
        self._seconds = {}
        self._agreement.hold_noted(difference)

    # -------------------------------------------------------------------------------------------------- a round

    def _rolled(self, number: int, step: Step, model: Decoder) -> Round:
        """Answer and judge; prompts of which nothing can be learnt give way to others, where that is asked for."""
        if self._trial is not None:
            self._warn_of_fakes(self._trial.fooled_by())
        self._seconds = {"generate": 0.0, "reward": 0.0}
        asked = list(step.uids)
        tried = list(asked)
        made: list[_Group] = []
        resampled = 0
        for attempt in range(self._attempts):
            groups = self._answered(number, attempt, asked, model)
            last = attempt == self._attempts - 1
            kept = [each for each in groups if last or not _dead(each[1])]
            made += kept
            resampled += len(groups) - len(kept)
            missing = len(groups) - len(kept)
            asked = list(self.setting.rounds.others(number, tried, missing)) if missing else []
            tried += asked
            if missing > len(asked):  # no others are left: dead ones stay
                made += [each for each in groups if _dead(each[1]) and not last][: missing - len(asked)]
            if not asked:
                break
        rollouts = [each for group, _ in made for each in group]
        scored = [each for _, group in made for each in group]
        if not self._agreement.compared:
            self._compare(rollouts, model, number)
        values = [each.value for each in scored]
        return Round(number, rollouts, values, self.method.samples, resampled, failures=reasons(scored))

    @property
    def _attempts(self) -> int:
        """How often prompts are asked of which nothing can be learnt before they stay."""
        return 1

    def _answered(self, number: int, attempt: int, uids: Sequence[int], model: Decoder) -> list[_Group]:
        """The answers to each prompt, with their rewards."""
        began = time.monotonic()
        prompts, samples = self.setting.prompts, self.method.samples
        asks = [
            Ask(uid, prompts.ids(uid), answer_seed(self.setting.seed, number, attempt, place, sample))
            for place, uid in enumerate(uids)
            for sample in range(samples)
        ]
        rollouts = self._write(model, asks)
        between = time.monotonic()
        scored = self._judge(rollouts, prompts)
        self._seconds["generate"] += between - began
        self._seconds["reward"] += time.monotonic() - between
        parts = range(0, len(rollouts), samples)
        return [(rollouts[at : at + samples], scored[at : at + samples]) for at in parts]

    def _write(self, model: Decoder, asks: Sequence[Ask], greedy: bool = False) -> list[Rollout]:
        """Answers; fewer of them at once from now on where memory runs out."""
        setting = self.setting
        stops, most = setting.renderer.stop_ids, self.method.max_new_tokens

        def write() -> list[Rollout]:
            return writing.write(model, setting.adapter, asks, stops, most, texts=self._texts, greedy=greedy)

        def fewer(reason: str) -> bool:
            left = setting.write_fewer(self._steps, reason)
            self._texts = left or self._texts
            return left > 0

        return memory.redone(write, lambda: None, fewer, "engine.answers_out_of_memory")

    def _judge(self, rollouts: Sequence[Rollout], prompts: Prompts) -> list[Scored]:
        answers = [Answer(self._text(each), _asked(prompts, each.uid)) for each in rollouts]
        return self.setting.rewards.score(answers)

    def _text(self, rollout: Rollout) -> str:
        ids = rollout.answer[:-1] if rollout.ended else rollout.answer
        return self.setting.renderer.decode(ids.tolist())

    def _micro(self, made: Round, step: int) -> tuple[RolloutBatch, ...]:
        """Answers that anything can be learnt from; where there is none, one that changes nothing."""
        weights, teaches = self._weights(made), self._teaches(made)
        learnt = [at for at, weight in enumerate(weights) if weight and teaches[at]]
        budget = self.setting.rounds.budget(step)
        return packed(made.rollouts, learnt or [0], weights, budget, self.setting.call_tokens)

    @abc.abstractmethod
    def _teaches(self, made: Round) -> list[bool]:
        """Of each answer whether anything is to be learnt from it."""

    @abc.abstractmethod
    def _weights(self, made: Round) -> list[float]:
        """Of a token of each answer; 0 where its reward failed."""

    @abc.abstractmethod
    def _denominators(self, made: Round) -> dict[str, float]:
        """Of each term of the loss."""

    @abc.abstractmethod
    def _score(self, made: Round, micro: Sequence[RolloutBatch], model: Decoder) -> dict[str, list[Floats]]:
        """What is known of every token before the first update."""

    @torch.no_grad()
    def _tables(
        self, rollouts: Sequence[Rollout], micro: Sequence[RolloutBatch], scores: Callable[[RolloutBatch], Tensor]
    ) -> list[Floats]:
        """A number of every token of every answer; 0 where the answer is in no micro-batch."""
        tables: list[Floats] = [np.zeros(len(each.answer), dtype=np.float32) for each in rollouts]
        for batch in micro:
            batch.spread(scores(batch).float().cpu().numpy(), tables)
        return tables

    def _logp(self, model: Decoder, batch: Batch) -> Tensor:
        adapter = self.setting.adapter
        want = Want(model.head_mode(adapter))
        scores: Scores = model(batch, want, adapter=adapter, policies=self.policies)
        return scores.logp

    def _reference(self, model: Decoder, batch: Batch) -> Tensor:
        reference = self.setting.reference
        assert reference is not None, "a divergence that counts has a reference"
        scores: Scores = (reference.decoder or model)(batch, Want("unit"), adapter=reference.adapter)
        return scores.logp

    # ------------------------------------------------------------------------------------------------ what is told

    def _account(self, made: Round) -> dict[str, Any]:
        facts = made.facts()
        if REFERENCE in made.known:
            divergences = [
                policy.k3(torch.from_numpy(each.logp), torch.from_numpy(reference)).numpy()
                for each, reference in zip(made.rollouts, made.known[REFERENCE], strict=True)
                if reference.any()
            ]
            if divergences:
                facts[KL] = float(np.concatenate(divergences).mean())
        return facts

    def _watch(self, step: int) -> None:
        """Raise the alarms of a round; the first one shows what rewards without references are fooled by."""
        if self._trial is not None and self._trial.real is None:
            self._warn_of_fakes(self._trial.fooled_by(self._facts["reward"]))
        self._trial = None
        self._raise(self.alarms.round(self._facts), step)

    def _raise(self, raised: Sequence[Problem], step: int) -> None:
        for problem in raised:
            self.setting.emit("alarm", {"alarm": problem.id, "text": str(problem)}, step)
            if self.stops:
                raise TrainingFailed(problem)

    def begin(self, model: Any, budget_tokens: int, step: int) -> dict[str, Any] | None:
        """Rehearse the rewards, before step 1."""
        if step:
            return None
        prompts = self.setting.prompts
        self._trial = found = trial.rehearse(
            self.setting.rewards, [_asked(prompts, uid) for uid in range(min(len(prompts), trial.ROWS))]
        )
        return {"rows": found.rows, "real": found.real, "fakes": dict(found.fakes), "failures": dict(found.failures)}

    def _warn_of_fakes(self, names: Sequence[str]) -> None:
        if names:
            self.setting.emit("note", {"text": str(Problem("rewards.fooled", values={"fakes": ", ".join(names)}))})

    # ----------------------------------------------------------------------------------- the sampler and the trainer

    @torch.no_grad()
    def _compare(self, rollouts: Sequence[Rollout], model: Decoder, number: int) -> None:
        """Hold the sampler's log-probabilities to the trainer's, once for each attempt.

        Raises:
            TrainingFailed: they differ by more than rounding: what is learnt would not be what was sampled.
        """
        some = rollouts[:COMPARED]
        ones = [1.0] * len(some)
        budget = self.setting.rounds.budget(number * self.setting.rounds.updates)
        together = packed(some, range(len(some)), ones, budget, self.setting.call_tokens)
        alone = [batch for at in range(len(some)) for batch in packed(some, [at], ones, budget, None)]
        trained_A, alone_A = (
            np.concatenate(self._tables(some, batches, lambda batch: self._logp(model, batch)))
            for batches in (together, alone)
        )
        sampled_A = np.concatenate([each.logp for each in some])
        facts = self._agreement.compare(sampled_A, trained_A, alone_A, model.compute_dtype)
        self.setting.emit("agreement", facts, number * self.setting.rounds.updates)
        self._agreement.hold(facts)

    def _note(self, logp_M: Tensor, sampled_M: Tensor) -> None:
        """The same of a micro-batch, as long as weights are those that wrote the answers."""
        if self._update == 0:
            self._agreement.note(logp_M, sampled_M)

    # ------------------------------------------------------------------------------------------------- held-out rows

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Mapping[str, Any]:
        """Rewards of the likeliest answers to prompts that nothing is learnt from."""
        assert isinstance(model, Decoder)
        prompts = self.setting.held_out
        assert prompts is not None
        rollouts = self._write(model, [Ask(uid, prompts.ids(uid), 0) for uid in range(len(prompts))], greedy=True)
        values = [each.value for each in self._judge(rollouts, prompts)]
        found = gain(values, self.alarms.held_out_before)
        self._raised = self.alarms.held_out(values, found)
        tokens = float(np.mean([len(each.answer) for each in rollouts]))
        self._held_out = rollouts
        return {**found, "measures": measured(found), "rewards": values, "answer_tokens": tokens}

    def samples(self, count: int) -> dict[int, Sample]:
        """The first of the answers that `evaluate` judged last."""
        prompts, renderer = self.setting.held_out, self.setting.renderer
        assert prompts is not None
        return {
            each.uid: sample(renderer, each.prompt.tolist(), prompts.rows[each.uid].answer, self._text(each))
            for each in self._held_out[:count]
        }


_Group = tuple[list[Rollout], list[Scored]]
"""The answers to one prompt, and what they are worth."""


def _asked(prompts: Prompts, uid: int) -> Asked:
    row = prompts.rows[uid]
    turns = [{"role": each.role, "content": each.content} for each in row.messages]
    return Asked(turns, row.answer, row.columns, Chat(row.messages, row.tools))


def _dead(scored: Sequence[Scored]) -> bool:
    """Whether answers are all worth the same, so that nothing can be learnt from them."""
    return len({each.value for each in scored if each.value is not None}) < 2


def gain(values: Sequence[float | None], before: Sequence[float | None] | None) -> dict[str, Any]:
    """Mean reward with its 95 % interval; and the difference to rewards of the same prompts before, with its own."""
    found = _interval([value for value in values if value is not None])
    facts: dict[str, Any] = {"reward": found[0], "low": found[1], "high": found[2], "rows": len(values)}
    facts["failed"] = sum(value is None for value in values)
    if before is not None and len(before) == len(values):
        both = [(now, then) for now, then in zip(values, before, strict=True) if now is not None and then is not None]
        mean, low, high = _interval([now - then for now, then in both])
        facts |= {"gain": mean, "gain_low": low, "gain_high": high}
    return facts


def measured(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What the receipt shows, before and after: the reward, and what was gained on the same prompts."""
    count = found["rows"] - found["failed"]
    reward = {"mean": found["reward"], "count": count, "low": found["low"], "high": found["high"]}
    gained = {"mean": found.get("gain", 0.0), "low": found.get("gain_low", 0.0), "high": found.get("gain_high", 0.0)}
    return {"reward": reward, "gain": {**gained, "count": count}}


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and mean less and plus 1.96 standard errors; of a single value, that value."""
    if not values:
        return math.nan, math.nan, math.nan
    mean, spread = measures.normal(values, 1.96)
    return mean, mean - spread, mean + spread
