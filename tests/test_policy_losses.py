"""Losses of policy gradients: values by hand, derivatives by gradcheck, and TRL's own code on the same numbers."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from luthier.losses import policy


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- by hand


def test_surrogate_by_hand() -> None:
    """Ratios 1.5 and 0.5, bounds 0.8 and 1.3. A gain is cut at the bound, a loss is not: min(1.5 * 2, 1.3 * 2) = 2.6;
    min(1.5 * -2, 1.3 * -2) = -3; min(0.5 * 2, 0.8 * 2) = 1; min(0.5 * -2, 0.8 * -2) = -1.6."""
    logp = torch.log(f64(1.5, 1.5, 0.5, 0.5))
    loss = policy.surrogate(logp, torch.zeros_like(logp), f64(2, -2, 2, -2), low=0.2, high=0.3)
    torch.testing.assert_close(loss, f64(-2.6, 3.0, -1.0, 1.6))


def test_where_it_is_cut_nothing_is_learnt() -> None:
    logp = torch.log(f64(1.5, 1.5, 0.5, 0.5)).requires_grad_()
    policy.surrogate(logp, torch.zeros(4, dtype=torch.float64), f64(2, -2, 2, -2), low=0.2, high=0.3).sum().backward()
    torch.testing.assert_close(logp.grad, f64(0.0, 3.0, -1.0, 0.0))


def test_ratio_of_answers_by_hand() -> None:
    """Two answers, of two tokens and of one: exp((ln 2 + ln 8) / 2) = 4 and 3."""
    logp, owner = torch.log(f64(2, 8, 3)), torch.tensor([0, 0, 1])
    ratio = policy.sequence_ratio(logp, torch.zeros_like(logp), owner, 2)
    torch.testing.assert_close(ratio, f64(4, 4, 3))


def test_estimators_by_hand() -> None:
    """At a difference of ln 2: ln 2, (ln 2)^2 / 2, and 1/2 + ln 2 - 1."""
    logp, reference, two = f64(math.log(2)), f64(0.0), math.log(2)
    assert policy.k1(logp, reference).item() == pytest.approx(two)
    assert policy.k2(logp, reference).item() == pytest.approx(two * two / 2)
    assert policy.k3(logp, reference).item() == pytest.approx(two - 0.5)


def test_estimators_estimate_the_divergence() -> None:
    """Over a distribution of three outcomes, with the sum in place of samples: k1 and k3 give KL itself; the gradients
    of k2 and, at the reference, of k3 give its gradient."""
    logits, other = f64(0.3, -1.2, 0.5).requires_grad_(), f64(-0.4, 0.1, 0.2).log_softmax(0)
    logp = logits.log_softmax(0)
    exact = (logp.exp() * (logp - other)).sum()
    for estimator in (policy.k1, policy.k3):
        torch.testing.assert_close((logp.exp() * estimator(logp, other)).sum(), exact)
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (found,) = torch.autograd.grad((logp.exp().detach() * policy.k2(logp, other)).sum(), logits, retain_graph=True)
    torch.testing.assert_close(found, wanted)
    (nothing,) = torch.autograd.grad((logp.exp().detach() * policy.k1(logp, other)).sum(), logits)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing), atol=1e-12, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_penalties_pull_as_the_divergence_does(estimator: policy.Estimator) -> None:
    """Over all of three outcomes, sampled from a policy that has moved since: the gradient of each is KL's own."""
    logits, other = f64(0.3, -1.2, 0.5).requires_grad_(), f64(-0.4, 0.1, 0.2).log_softmax(0)
    logp, old = logits.log_softmax(0), f64(1.0, 0.2, -0.3).log_softmax(0)
    (wanted,) = torch.autograd.grad((logp.exp() * (logp - other)).sum(), logits, retain_graph=True)
    sampled = old.exp() * policy.penalty(estimator, logp, other, torch.exp(logp - old))
    (found,) = torch.autograd.grad(sampled.sum(), logits)
    torch.testing.assert_close(found, wanted)


def test_group_advantages_by_hand() -> None:
    """Rewards 1, 0, 0, 1: mean 1/2, deviation of n - 1 sqrt(1/3). A failed one counts nowhere."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 3.0, math.nan, 2.0]], dtype=torch.float64)
    plain = policy.group_advantages(rewards, "none")
    torch.testing.assert_close(plain[0], f64(0.5, -0.5, -0.5, 0.5))
    torch.testing.assert_close(plain[1], f64(-1.0, 1.0, 0.0, 0.0))
    scaled = policy.group_advantages(rewards, "group")
    torch.testing.assert_close(scaled[0], f64(0.5, -0.5, -0.5, 0.5) / (math.sqrt(1 / 3) + 1e-4))
    torch.testing.assert_close(scaled[1], f64(-1.0, 1.0, 0.0, 0.0) / (1 + 1e-4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_teach_nothing(scale: policy.Scale) -> None:
    rewards = torch.tensor([[0.7] * 4, [math.nan] * 4, [math.nan, math.nan, math.nan, 1.0]])
    assert not policy.group_advantages(rewards, scale)[1:].any()
    assert policy.group_advantages(rewards[:1], scale).abs().max() < 1e-2


def test_advantages_by_hand() -> None:
    """gamma 0.5, lambda 0.5; rewards 0, 0, 4, values 1, 2, 3. delta: 0 + 1 - 1 = 0, 0 + 1.5 - 2 = -0.5, 4 - 3 = 1;
    from behind: 1, -0.5 + 0.25 = -0.25, 0 - 0.0625."""
    found = policy.advantages(f64(0, 0, 4), f64(1, 2, 3), gamma=0.5, lam=0.5)
    torch.testing.assert_close(found, f64(-0.0625, -0.25, 1.0))


def test_advantages_are_those_of_their_definition() -> None:
    """lambda 1: discounted rewards to come less the value. lambda 0: the error of one step."""
    torch.manual_seed(0)
    rewards, values, gamma = torch.randn(7).double(), torch.randn(7).double(), 0.9
    to_come = torch.stack([sum(gamma ** (s - t) * rewards[s] for s in range(t, 7)) for t in range(7)])
    torch.testing.assert_close(policy.advantages(rewards, values, gamma, 1.0), to_come - values)
    following = torch.cat([values[1:], f64(0.0)])
    torch.testing.assert_close(policy.advantages(rewards, values, gamma, 0.0), rewards + gamma * following - values)
    assert policy.advantages(rewards[:0], values[:0], gamma, 0.9).shape == (0,)


def test_whitened() -> None:
    made = policy.whitened(f64(1, 2, 3, 10))
    assert made.mean().item() == pytest.approx(0, abs=1e-12) and made.std().item() == pytest.approx(1)
    assert policy.whitened(f64(5.0)).tolist() == [0.0]


def test_value_loss_by_hand() -> None:
    """Return 2, old 0, clip 0.5. A value of 1 is taken for 0.5: max(1, 2.25) / 2. One of -1 for -0.5: max(9, 6.25) / 2.
    One of 0.2 is not touched: 3.24 / 2."""
    loss = policy.value_loss(f64(1, -1, 0.2), f64(0, 0, 0), f64(2, 2, 2), clip=0.5)
    torch.testing.assert_close(loss, f64(2.25, 9, 3.24) / 2)


def test_adapted_by_hand() -> None:
    """KL at twice its target counts as 20 % above: 0.1 * (1 + 0.2 * 64 / 640)."""
    assert policy.adapted(0.1, 2.0, 1.0, 64, 640) == pytest.approx(0.102)
    assert policy.adapted(0.1, 0.9, 1.0, 64, 640) == pytest.approx(0.099)
    assert policy.adapted(0.1, 1.0, 1.0, 64, 640) == 0.1


def test_at_their_ends() -> None:
    """A token that became e^50 times likelier, or less likely: a gain is cut and a loss counts in full; nothing that is
    kept within bounds overflows. One token, no token, an answer without tokens among others."""
    logp = f64(50.0, 50.0, -50.0, -50.0).requires_grad_()
    loss = policy.surrogate(logp, torch.zeros_like(logp), f64(1, -1, 1, -1), 0.2, 0.3)
    assert loss.tolist() == pytest.approx([-1.3, math.exp(50), 0.0, 0.8], abs=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert gradient.tolist() == pytest.approx([0.0, math.exp(50), 0.0, 0.0], abs=1e-12)
    assert policy.advantages(f64(4), f64(3), 0.5, 0.5).tolist() == [1.0]
    assert policy.sequence_ratio(f64(math.log(2)), f64(0), torch.tensor([1]), 2).tolist() == pytest.approx([2.0])
    none = f64()
    for empty in (
        policy.surrogate(none, none, none, 0.2, 0.3),
        policy.sequence_ratio(none, none, torch.zeros(0, dtype=torch.long), 2),
        policy.value_loss(none, none, none, 0.2),
        policy.whitened(none),
        *(each(none, none) for each in policy.ESTIMATORS.values()),
    ):
        assert empty.shape == (0,)
    same = f64(-1.0, -2.0)
    assert all(not each(same, same).any() for each in policy.ESTIMATORS.values())


# ---------------------------------------------------------------------------------------------------- derivatives


def test_derivatives() -> None:
    torch.manual_seed(1)
    logp, old, advantage = (torch.randn(12).double() for _ in range(3))
    owner = torch.arange(12) % 3
    logp.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy.surrogate(x, old, advantage, 0.2, 0.3), (logp,))
    assert torch.autograd.gradcheck(lambda x: policy.sequence_ratio(x, old, owner, 3), (logp,))
    for estimator in policy.ESTIMATORS.values():
        assert torch.autograd.gradcheck(lambda x, e=estimator: e(x, old), (logp,))
    assert torch.autograd.gradcheck(lambda x: policy.value_loss(x, old, advantage, 0.2), (logp,))


# ------------------------------------------------------------------------------------------------------------ TRL


class _Trl:
    """TRL's `GRPOTrainer._compute_loss` on log-probabilities that are given, with its own masks of padded answers."""

    def __init__(self, **settings: Any) -> None:
        grpo = pytest.importorskip("trl.trainer.grpo_trainer")
        config = pytest.importorskip("trl").GRPOConfig
        defaults = {name: p.default for name, p in inspect.signature(config).parameters.items()}
        self.args = SimpleNamespace(**{**defaults, **settings})
        self.compute = grpo.GRPOTrainer._compute_loss

    def loss(self, logp_BT: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        entropy = torch.zeros_like(logp_BT)
        args = self.args
        trainer = SimpleNamespace(
            args=args,
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level=args.importance_sampling_level,
            beta=args.beta,
            epsilon_low=args.epsilon,
            epsilon_high=args.epsilon_high or args.epsilon,
            loss_type=args.loss_type,
            max_completion_length=args.max_completion_length,
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            model=SimpleNamespace(training=True),
            current_gradient_accumulation_steps=1,
            accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
            _entropy_bonus_enabled=False,
            _metrics={"train": _Lists(), "eval": _Lists()},
            _get_per_token_logps_and_entropies=lambda *_, **__: (logp_BT, entropy, None),
        )
        trainer.args.steps_per_generation = 1
        return self.compute(trainer, trainer.model, inputs)


class _Lists(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        self[key] = []
        return self[key]


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("beta", "corrected"), [(0.0, False), (0.3, False), (0.3, True)])
def test_loss_is_trls(loss_type: str, level: str, beta: float, corrected: bool) -> None:
    torch.manual_seed(2)
    lengths, most = torch.tensor([5, 3, 1, 4]), 6
    mask = (torch.arange(5)[None] < lengths[:, None]).double()
    logp, old, reference = (-torch.rand(4, 5).double() * 2 for _ in range(3))
    logp.requires_grad_()
    advantage = torch.randn(4).double()
    prompt = torch.zeros(4, 2, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.zeros(4, 5, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    settings = {"loss_type": loss_type, "importance_sampling_level": level, "beta": beta, "epsilon": 0.2}
    settings["use_bias_correction_kl"] = corrected
    theirs = _Trl(**settings, epsilon_high=0.28, max_completion_length=most).loss(logp, inputs)

    there = mask.bool()
    owner = torch.arange(4)[:, None].expand(4, 5)[there]
    if level == "sequence":
        ratio = policy.sequence_ratio(logp[there], old[there], owner, 4)
        ours = policy.clipped(ratio, advantage[owner], 0.2, 0.28)
    else:
        ours = policy.surrogate(logp[there], old[there], advantage[owner], 0.2, 0.28)
        ratio = torch.exp(logp[there] - old[there])
    kl = policy.penalty("k3", logp[there], reference[there], ratio)
    ours = ours + beta * (kl if corrected else policy.k3(logp[there], reference[there]))
    weights = 1 / lengths[owner].double() if loss_type == "grpo" else torch.ones(13)
    denom = {"grpo": 4, "bnpo": 13, "dapo": 13, "dr_grpo": 4 * most}[loss_type]
    mine = (ours * weights).sum() / denom
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)
    gradients = [torch.autograd.grad(each, logp, retain_graph=True)[0] for each in (mine, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_trls(scale: policy.Scale) -> None:
    """TRL's own, from its `_generate_and_score_completions` on rewards that are given: usual ones, equal ones, and ones
    that failed in part or all."""
    grpo = pytest.importorskip("trl.trainer.grpo_trainer")
    none = math.nan
    rewards = torch.tensor([[1.0, 0.0, 0.0, 4.0], [0.7] * 4, [1.0, none, none, 3.0], [none] * 4])
    ids = [[1, 2]] * 16
    everything = mock.MagicMock(
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, process_index=0),
        model=torch.nn.Module(),
        environment_factories=None, environments=None, tools=None, pad_to_multiple_of=None,
        mask_truncated_completions=False, use_vllm=False, beta=0.0, num_generations=4, num_iterations=1,
        scale_rewards=scale,
        multi_objective_aggregation="sum_then_normalize", reward_weights=torch.ones(1), reward_func_names=["worth"],
        _metrics={"train": _Lists()}, _pending_extra_logs={}, _pending_metrics={},
        args=SimpleNamespace(
            per_device_train_batch_size=16, steps_per_generation=1, gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
        ),
    )  # fmt: skip
    everything.model.is_gradient_checkpointing = False
    everything._tokenizer.pad_token_id = 0
    everything._generate.return_value = (ids, ids, None, [""] * 16, None, {}, None, None)
    everything._calculate_rewards.return_value = rewards.view(-1, 1)
    inputs = [{"prompt": ""}] * 16
    theirs = grpo.GRPOTrainer._generate_and_score_completions(everything, inputs)["advantages"]
    assert theirs.abs().max() > 1
    torch.testing.assert_close(policy.group_advantages(rewards, scale).view(-1), theirs, rtol=1e-6, atol=1e-7)


def test_deviation_is_trls() -> None:
    utils = pytest.importorskip("trl.trainer.utils")
    rewards = torch.tensor([[1.0, 0.0, math.nan, 4.0], [2.0, 2.0, 2.0, 2.0], [1.0, -1.0, 0.5, 0.25]])
    torch.testing.assert_close(policy.deviation(rewards), utils.nanstd(rewards, dim=1))
