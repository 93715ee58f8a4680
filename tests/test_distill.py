"""Distillation: the divergence against plain torch and TRL, the teacher's cache, and whole runs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.kernels import divergence, head
from luthier.kernels.divergence import How, Top, Whole

BOUND = 1e-5
HOWS = [How(reverse, t, s) for reverse, t, s in itertools.product((False, True), (1.0, 2.5), (0.0, 0.7))]


def parts(seed: int = 0, rows: int = 7, vocab: int = 11, taught: int = 11, dtype: torch.dtype = torch.float64) -> Any:
    """x, head, targets, coefficients of a student; hidden states and head of a teacher of another width."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    targets = torch.randint(0, vocab, (rows,), generator=draw)
    coefficients = normal(rows).abs().to(torch.promote_types(dtype, torch.float32))
    return normal(rows, 5), normal(vocab, 5), targets, coefficients, Whole(normal(rows, 3), normal(taught, 3))


def plain(x: Tensor, weight: Tensor, targets: Tensor, c: Tensor, logp: Tensor, how: How, outcomes: Any) -> Tensor:
    """The same sum written down as it is defined, for autograd; outcomes: log-probabilities of tokens -> of outcomes."""
    logits = x @ weight.T
    q, p = outcomes((logits / how.temperature).log_softmax(-1)), logp
    divergence_M = (q.exp() * (q - p)).sum(1) if how.reverse else (p.exp() * (p - q)).sum(1)
    nll_M = F.cross_entropy(logits, targets, reduction="none")
    return (c * (how.temperature**2 * divergence_M + how.sft_weight * nll_M)).sum()


def of_top(ids: Tensor) -> Any:
    def outcomes(logq: Tensor) -> Tensor:
        rest = torch.ones_like(logq).scatter(1, ids, 0)
        return torch.cat([logq.gather(1, ids), (logq.exp() * rest).sum(1, keepdim=True).log()], 1)

    return outcomes


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("k", [None, 1, 4])
@pytest.mark.parametrize("chunk", [1, 2**28])
def test_value_and_every_gradient_are_those_of_plain_torch(how, k, chunk, monkeypatch) -> None:
    monkeypatch.setattr(head, "CHUNK_BYTES", chunk)
    x, weight, targets, c, teacher = parts()
    logits = teacher.x_MD @ teacher.weight_VD.T / how.temperature
    outcomes, logp, taught = (lambda logq: logq), logits.log_softmax(-1), teacher
    if k is not None:
        taught = divergence.most_likely(teacher.x_MD, teacher.weight_VD, k, how.temperature, 11)
        outcomes = of_top(taught.ids_MK)
        logp = outcomes(logp)
        assert torch.allclose(taught.logp_MB, logp, atol=1e-12)
    given = [each.clone().requires_grad_() for each in (x, weight)]
    expected = plain(*given, targets, c, logp, how, outcomes)
    wanted = torch.autograd.grad(expected, given)
    mine = [each.clone().requires_grad_() for each in (x, weight)]
    made = divergence.distil(*mine, targets, c, taught, how)
    assert relative(made.total, expected) < 1e-12
    for got, want in zip(torch.autograd.grad(3 * made.total, mine), wanted, strict=True):
        assert relative(got, 3 * want) < 1e-12
    assert torch.autograd.gradcheck(lambda *each: divergence.distil(*each, targets, c, taught, how).total, mine)
    assert torch.allclose(made.logp_M, (x @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0])


@pytest.mark.parametrize("how", HOWS)
def test_all_tokens_as_outcomes_are_the_full_divergence_and_fewer_are_less(how) -> None:
    x, weight, targets, c, teacher = parts(1)
    full = divergence.distil(x, weight, targets, c, teacher, how).divergence_M
    last = torch.zeros_like(full)
    for k in (1, 3, 6, 11):
        top = divergence.most_likely(teacher.x_MD, teacher.weight_VD, k, how.temperature, 11)
        mine = [each.clone().requires_grad_() for each in (x, weight)]
        made = divergence.distil(*mine, targets, c, top, how)
        assert bool((made.divergence_M >= last - 1e-12).all()), "a finer view of two distributions shows more"
        last = made.divergence_M
        assert all(bool(each.isfinite().all()) for each in torch.autograd.grad(made.total, mine))
    assert torch.allclose(last, full)


def test_by_hand() -> None:
    """Student (1/2, 1/2), teacher (3/4, 1/4): KL(p||q) = 3/4 ln 3/2 + 1/4 ln 1/2; KL(q||p) = 1/2 ln 2/3 + 1/2 ln 2."""
    x, weight = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    teacher = Whole(torch.ones(1, 1, dtype=torch.float64), torch.tensor([[math.log(3)], [0.0]], dtype=torch.float64))
    one, target = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    forward = divergence.distil(x, weight, target, one, teacher, How()).total
    reverse = divergence.distil(x, weight, target, one, teacher, How(reverse=True)).total
    assert float(forward) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(reverse) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    mixed = divergence.distil(x, weight, target, one, teacher, How(sft_weight=2.0)).total
    assert float(mixed - forward) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(reverse) -> None:
    x, weight, targets, c, _ = parts()
    for taught in (Whole(x, weight), divergence.most_likely(x, weight, 3, 2.0, 11)):
        mine = [each.clone().requires_grad_() for each in (x, weight)]
        made = divergence.distil(*mine, targets, c, taught, How(reverse, 2.0))
        assert float(made.total.detach().abs()) < 1e-12
        assert all(float(each.abs().max()) < 1e-12 for each in torch.autograd.grad(made.total, mine))


@pytest.mark.parametrize("how", [How(False, 1.0), How(True, 1.0), How(False, 2.0), How(True, 2.0)])
def test_equal_to_trl(how) -> None:
    """GKD's loss with beta 0 and 1. TRL takes no T^2; its top-k with a tail is that of its distillation from servers."""
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    x, weight, targets, c, teacher = parts(2)
    mine = x.clone().requires_grad_()
    made = divergence.distil(mine, weight, targets, torch.ones_like(c), teacher, how).total
    theirs = x.clone().requires_grad_()
    loss = gkd.GKDTrainer.generalized_jsd_loss(
        (theirs @ weight.T)[None],
        (teacher.x_MD @ teacher.weight_VD.T)[None],
        beta=float(how.reverse),
        temperature=how.temperature,
        reduction="sum",
    )
    scale = how.temperature**2
    assert relative(made, scale * loss) < 1e-10
    assert relative(torch.autograd.grad(made, mine)[0], scale * torch.autograd.grad(loss, theirs)[0]) < 1e-10


def test_the_tail_is_trls() -> None:
    served = pytest.importorskip("trl.experimental.async_distillation.async_distillation_trainer")
    _, _, _, _, teacher = parts(3)
    top = divergence.most_likely(teacher.x_MD, teacher.weight_VD, 4, 1.0, 11)
    theirs, _ = served._add_tail_bucket(top.logp_MB[:, :-1], torch.ones(7, 4, dtype=torch.bool))
    assert torch.allclose(top.logp_MB, theirs, atol=1e-9)


@pytest.mark.parametrize(("vocab", "taught"), [(11, 14), (14, 11)])
def test_vocabularies_padded_otherwise_are_compared_where_both_are(vocab, taught) -> None:
    x, weight, targets, c, teacher = parts(4, vocab=vocab, taught=taught)
    targets = targets.clamp_max(10)
    mine = weight.clone().requires_grad_()
    made = divergence.distil(x, mine, targets, c, teacher, How())
    p = (teacher.x_MD @ teacher.weight_VD.T)[:, :11].log_softmax(-1)
    q = (x @ weight.T)[:, :11].log_softmax(-1)
    assert torch.allclose(made.divergence_M, (p.exp() * (p - q)).sum(1))
    (gradient,) = torch.autograd.grad(made.total, mine)
    assert not gradient[11:].any()


@pytest.mark.parametrize("how", [How(True, 2.0, 0.5), How(False, 1.0)])
def test_extreme_logits_stay_finite(how) -> None:
    x, weight, targets, c, teacher = parts(5, dtype=torch.float32)
    for k in (None, 2):
        given = teacher._replace(x_MD=teacher.x_MD * 60)
        taught = given if k is None else divergence.most_likely(given.x_MD, given.weight_VD, k, how.temperature, 11)
        mine = (x * 60).requires_grad_()
        made = divergence.distil(mine, weight, targets, c, taught, how)
        assert math.isfinite(float(made.total)) and bool(torch.autograd.grad(made.total, mine)[0].isfinite().all())


def test_half_precision_is_near_and_small_coefficients_survive() -> None:
    x, weight, targets, c, teacher = parts(6, dtype=torch.float32)
    exact = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(divergence.distil(exact, weight, targets, c, teacher, How()).total, exact)
    half = x.half().requires_grad_()
    made = divergence.distil(half, weight.half(), targets, c * 1e-9, Whole(*(e.half() for e in teacher)), How())
    (got,) = torch.autograd.grad(made.total * 1e9, half)
    assert relative(got.float(), want) < 1e-2
