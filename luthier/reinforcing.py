"""What a run needs that learns from its own answers: its prompts, rewards and reference, put together.

What goes in: the recipe, what was gathered for the run, and the model. What comes out: the method with its steps; and
the files of the user's rewards, for the manifest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from luthier.arch.count import AnyTune
from luthier.config.schema import JUDGE, Grpo, Lora, Online, Ppo, Qlora, RunConfig
from luthier.data import pack
from luthier.data.check import Checked
from luthier.data.renderer import RowRenderer
from luthier.data.rounds import Prompts, Rounds
from luthier.data.sequences import Sequences
from luthier.engine.backend import Backend
from luthier.engine.loop import Emit
from luthier.methods import grpo, ppo
from luthier.methods.online import Online as OnlineMethod
from luthier.methods.online import Reference, Setting
from luthier.models import adapters, weights
from luthier.models.decoder import Decoder
from luthier.models.reward import Judge
from luthier.planning import Plan
from luthier.scoring import rewards
from luthier.session import ADAPTER, Base, open_judge

CRITIC = "critic"
"""The module that gives values, and the adapter that it reads where that is one of its own."""
REFERENCE = "reference"
"""The adapter that holds what the trained one was at step 0."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a run and how they are written."""

    train: Sequences
    validation: Sequences | None
    checked: Checked
    renderer: RowRenderer


def plugins(config: RunConfig) -> dict[str, Path]:
    """The user's own rewards, and the files they come from.

    Raises:
        ConfigError: no such module or function.
    """
    return rewards.plugins(config.method.rewards) if isinstance(config.method, Online) else {}


def open_rewards(config: RunConfig, models: Mapping[str, rewards.ScoreModel] | None = None) -> rewards.Rewards:
    """Raises:
    ConfigError: one of them cannot be used.
    """
    method = config.method
    assert isinstance(method, Online)
    return rewards.Rewards(method.rewards, method.reward_weights, method.reward_seconds, models)


def judges(config: RunConfig, chosen: Backend) -> dict[str, rewards.ScoreModel]:
    """The reward models among the rewards, loaded beside a model that trains on a backend: the same on every attempt.

    Raises:
        ModelError, RunError: one of them is none, or cannot be loaded.
    """
    method = config.method
    assert isinstance(method, Online)
    opened = {name: open_judge(name, spare=False, beside=chosen) for name in method.judges}
    return {f"{JUDGE}{name}": _asking(judge) for name, judge in opened.items()}


def _asking(judge: Judge) -> rewards.ScoreModel:
    def score(answers: Sequence[rewards.Answer]) -> list[float]:
        return judge.score([(each.asked.chat or each.asked.prompt, each.text) for each in answers])

    return score


def build(
    config: RunConfig,
    rows: Rows,
    base: Base,
    tune: AnyTune,
    decoder: Decoder,
    plan: Plan,
    emit: Emit,
    write_fewer: Callable[[int, str], int],
) -> tuple[OnlineMethod, Rounds]:
    """The method and its steps.

    Args:
        write_fewer: as of `methods.online.Setting`.

    Raises:
        ConfigError: a reward cannot be used. DataError: a file has changed since it was tokenised.
    """
    method = config.method
    assert isinstance(method, (Grpo, Ppo))
    prompts = Prompts.of(rows.train, rows.checked.train)
    held_out = Prompts.of(rows.validation, rows.checked.validation) if rows.validation is not None else None
    names = grpo.known_names(method) if isinstance(method, Grpo) else ppo.known_names(method)
    rounds = Rounds(prompts, config, plan.budgets, names)
    setting = Setting(
        adapter=ADAPTER if isinstance(tune, Lora) else None,
        seed=config.run.seed,
        prompts=prompts,
        held_out=held_out,
        rounds=rounds,
        rewards=open_rewards(config, judges(config, plan.backend)),
        renderer=rows.renderer,
        reference=reference(config, base, tune, decoder, plan.backend) if method.kl else None,
        emit=emit,
        call_tokens=pack.call_tokens(plan.backend.device),
        texts=plan.memory.answer_texts,
        write_fewer=write_fewer,
    )
    if isinstance(method, Grpo):
        return grpo.Group(method, setting, plan.policies), rounds
    critic = cast(ppo.Critic, decoder.get_submodule(CRITIC))
    return ppo.Proximal(method, setting, plan.policies, critic), rounds


def attach_critic(config: RunConfig, base: Base, tune: AnyTune, decoder: Decoder) -> None:
    """Put on what estimates values, where the method has something that does; it trains with the rest."""
    method = config.method
    if not isinstance(method, Ppo):
        return
    own = None
    if method.critic == "separate":
        assert isinstance(tune, Lora), "a rule of the recipe"
        settings = tune.model_copy(update={"from_": None})
        adapters.attach(decoder, base.arch, settings, name=CRITIC, seed=config.run.seed + 1)
        own = CRITIC
    decoder.add_module(CRITIC, ppo.Critic(decoder.spec.d, decoder.device, own))


def reference(config: RunConfig, base: Base, tune: AnyTune, decoder: Decoder, chosen: Backend) -> Reference:
    """The policy at step 0: the base itself under a fresh adapter; a frozen copy of an adapter that goes on, or of one
    with rows of its own for new tokens; a second model where the weights themselves train."""
    if isinstance(tune, Lora):
        if tune.from_ is not None:
            adapters.load_adapter(decoder, base.arch, Path(tune.from_), REFERENCE)
            return Reference(None, REFERENCE)
        if base.arch.new_ids:
            adapters.attach(decoder, base.arch, tune, name=REFERENCE, seed=config.run.seed, trainable=False)
            return Reference(None, REFERENCE)
        return Reference()
    assert not isinstance(tune, Qlora)
    if config.model.init == "random":
        return Reference(weights.random(base.arch, config.run.seed, dtype=chosen.compute_dtype, device=chosen.device))
    copy = weights.load(base.folder, base.arch, dtype=chosen.compute_dtype, device=chosen.device)
    weights.start_tokens(copy, base.arch)
    return Reference(copy)
