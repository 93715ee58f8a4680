"""The head on scored rows: log-probabilities of targets without ever holding all logits.

What goes in: normed hidden states of the M scored rows, the head's weight, the targets. What comes out: log p(target)
per row in float32, differentiable in one of three ways:

    linear      the loss is sum(c * logp) with c known: the gradient is formed in the forward pass, two matmuls of the
                head's size (three if it trains)
    unit        the loss is any function of each row's logp: d logp / d hidden is kept and scaled in the backward pass;
                two matmuls, frozen head only
    recompute   any loss, any head: only hidden states are kept, logits formed again; three matmuls, four if the head
                trains

Logits are formed for a chunk of rows at a time in the compute dtype; softmax is taken in float32, tile by tile. A few
tokens may have rows of their own in place of the weight's (`Rows`): only those train then, and no gradient of the
weight's size is ever formed.

Shape legend: M scored rows, D hidden, V vocabulary, C rows of a chunk, T tokens with rows of their own.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.kernels import packed, products, select
from luthier.kernels.linear import weight_grad
from luthier.kernels.norm import wide
from luthier.kernels.tiles import chunks

Mode = Literal["linear", "unit", "recompute"]

CHUNK_BYTES = 256 * 2**20
"""Logits of a chunk, in the compute dtype. The head's weight is read once per chunk, so few rows are slow: with 151936
tokens, D = 896, bf16 (one AMX core) 220 rows run at 60 % of the rate of 880 rows (256 MiB)."""


class Rows(NamedTuple):
    """Rows that stand in place of the weight's.

    Attributes:
        ids_T: the tokens they are of, ascending; those from V on come without a gap, and make the vocabulary longer.
        values_TD: the rows; float32 where they train.
        within: how many of the ids are below V.
    """

    ids_T: Tensor
    values_TD: Tensor
    within: int


class Head(NamedTuple):
    """logp_M: log p(target), float32. total: sum(c * logp), differentiable, in linear mode (logp_M is then not).
    entropy_M: of the distribution, in nats, not differentiable; None unless asked for."""

    logp_M: Tensor
    total: Tensor | None
    entropy_M: Tensor | None


def score(
    x_MD: Tensor,
    weight_VD: Tensor,
    targets_M: Tensor,
    mode: Mode,
    coefficients_M: Tensor | None = None,
    entropy: bool = False,
    rows: Rows | None = None,
    softcap: float | None = None,
) -> Head:
    """Log-probabilities of the targets.

    Args:
        x_MD: normed hidden states in the compute dtype.
        weight_VD: the head; a float32 master where it trains.
        coefficients_M: of linear mode.
        rows: what stands in place of some rows of a frozen head.
        softcap: logits are cap * tanh(logits / cap).
    """
    values, how = (None if rows is None else rows.values_TD), _How(entropy, rows, softcap)
    assert values is None or not weight_VD.requires_grad, "a head that trains needs no rows of its own"
    tracked = torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in (x_MD, weight_VD, values)
    )
    if not tracked:
        scores = _forward(x_MD, weight_VD.to(x_MD.dtype), targets_M, how)
        total = None if coefficients_M is None else _total(coefficients_M, scores.logp_M)
        return Head(scores.logp_M, total, scores.entropy_M)
    if mode == "linear":
        assert coefficients_M is not None, "linear mode needs the coefficients"
        total, logp_M, entropy_M = _Linear.apply(  # type: ignore[no-untyped-call]
            x_MD, weight_VD, targets_M, coefficients_M, values, how
        )
        return Head(logp_M, total, entropy_M)
    if mode == "unit":
        frozen = not weight_VD.requires_grad and (values is None or not values.requires_grad)
        assert frozen, "unit mode needs a frozen head"
        logp_M, entropy_M = _Unit.apply(x_MD, weight_VD, targets_M, how)  # type: ignore[no-untyped-call]
    else:
        logp_M, entropy_M = _Recompute.apply(  # type: ignore[no-untyped-call]
            x_MD, weight_VD, targets_M, values, how
        )
    return Head(logp_M, None, entropy_M)


class _How(NamedTuple):
    """What else `score` was asked."""

    entropy: bool
    rows: Rows | None
    softcap: float | None


def capped(logits_MV: Tensor, softcap: float | None) -> Tensor:
    """cap * tanh(logits / cap), written over the logits."""
    return logits_MV if softcap is None else logits_MV.div_(softcap).tanh_().mul_(softcap)


def logits(x_MD: Tensor, weight_VD: Tensor, rows: Rows | None = None, layout: Tensor | None = None) -> Tensor:
    """All logits of a few rows, [M, V] in float32 or wider; for generation. layout: the weight as
    `luthier.kernels.packed` has it."""
    dtype = x_MD.dtype
    known_MV = x_MD @ weight_VD.to(dtype).T if layout is None else packed.linear(x_MD, layout)
    return _with_own(known_MV, x_MD, _rounded(rows, dtype)).to(wide(dtype))


def largest_of(coefficients_M: Tensor) -> Tensor:
    """What brings coefficients to size 1 for a gradient that is stored: with loss scaling, the scale arrives only in
    the backward pass, and small coefficients would underflow in half precision before that."""
    largest = coefficients_M.abs().amax() if len(coefficients_M) else coefficients_M.new_ones(())
    return largest.clamp_min(torch.finfo(coefficients_M.dtype).tiny)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MD: Tensor,
        weight_VD: Tensor,
        targets_M: Tensor,
        coefficients_M: Tensor,
        values_TD: Tensor | None,
        how: _How,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        need_x, need_weight, *_, need_rows, _ = ctx.needs_input_grad
        need = _Need(need_x, need_weight, need_rows)
        largest = largest_of(coefficients_M)
        scores = _forward(x_MD, weight_VD.to(x_MD.dtype), targets_M, how, coefficients_M / largest, need)
        ctx.save_for_backward(scores.dx_MD, scores.dweight_VD, scores.drows_TD, largest)
        constant = [each for each in (scores.logp_M, scores.entropy_M) if each is not None]
        ctx.mark_non_differentiable(*constant)
        return _total(coefficients_M, scores.logp_M), scores.logp_M, scores.entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        dx_MD, dweight_VD, drows_TD, largest = ctx.saved_tensors
        factor = dtotal * largest
        dx = None if dx_MD is None else (dx_MD * factor).to(dx_MD.dtype)
        dweight = None if dweight_VD is None else dweight_VD * factor
        drows = None if drows_TD is None else drows_TD * factor
        return dx, dweight, None, None, drows, None


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, how: _How
    ) -> tuple[Tensor, Tensor | None]:
        ones_M = torch.ones(len(x_MD), dtype=wide(x_MD.dtype), device=x_MD.device)
        scores = _forward(x_MD, weight_VD.to(x_MD.dtype), targets_M, how, ones_M, _Need(x=True))
        ctx.save_for_backward(scores.dx_MD)
        if scores.entropy_M is not None:
            ctx.mark_non_differentiable(scores.entropy_M)
        return scores.logp_M, scores.entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogp_M: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
        (unit_MD,) = ctx.saved_tensors
        return (unit_MD * dlogp_M[:, None]).to(unit_MD.dtype), None, None, None


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MD: Tensor,
        weight_VD: Tensor,
        targets_M: Tensor,
        values_TD: Tensor | None,
        how: _How,
    ) -> tuple[Tensor, Tensor | None]:
        scores = _forward(x_MD, weight_VD.to(x_MD.dtype), targets_M, how)
        ctx.save_for_backward(x_MD, weight_VD, targets_M, values_TD)
        ctx.rows = None if how.rows is None else (how.rows.ids_T, how.rows.within)
        ctx.softcap = how.softcap
        if scores.entropy_M is not None:
            ctx.mark_non_differentiable(scores.entropy_M)
        return scores.logp_M, scores.entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogp_M: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x_MD, weight_VD, targets_M, values_TD = ctx.saved_tensors
        need_x, need_weight, *_, need_rows, _ = ctx.needs_input_grad
        need = _Need(need_x, need_weight, need_rows)
        rows = None if ctx.rows is None else Rows(ctx.rows[0], values_TD, ctx.rows[1])
        how = _How(False, rows, ctx.softcap)
        scores = _forward(x_MD, weight_VD.to(x_MD.dtype), targets_M, how, dlogp_M, need)
        return scores.dx_MD, scores.dweight_VD, None, scores.drows_TD, None


class _Scores(NamedTuple):
    logp_M: Tensor
    entropy_M: Tensor | None
    dx_MD: Tensor | None
    dweight_VD: Tensor | None
    drows_TD: Tensor | None


class _Need(NamedTuple):
    """Which gradients are wanted."""

    x: bool = False
    weight: bool = False
    rows: bool = False


def _forward(
    x_MD: Tensor,
    weight_VD: Tensor,
    targets_M: Tensor,
    how: _How,
    coefficients_M: Tensor | None = None,
    need: _Need = _Need(),  # noqa: B008  a tuple
) -> _Scores:
    """One pass over the rows: log-probabilities, and the gradients of sum(coefficients * logp) where wanted."""
    dtype, device, softmax_ = wide(x_MD.dtype), x_MD.device, select.chains(x_MD).softmax_
    rows = _rounded(how.rows, x_MD.dtype)
    logp_M = torch.empty(len(x_MD), dtype=dtype, device=device)
    entropy_M = torch.empty_like(logp_M) if how.entropy else None
    dx_MD = torch.empty_like(x_MD) if need.x else None
    dweight_VD = torch.zeros(weight_VD.shape, dtype=dtype, device=device) if need.weight else None
    drows_TD = torch.zeros(rows.values_TD.shape, dtype=dtype, device=device) if need.rows and rows else None
    for part in chunks(len(x_MD), weight_VD.shape[0] * x_MD.element_size(), CHUNK_BYTES):
        logits_CV = capped(_logits(x_MD[part], weight_VD, rows), how.softcap)
        wanted = coefficients_M[part] if coefficients_M is not None and any(need) else None
        slope_CV = None if wanted is None else _slope(logits_CV, how.softcap)
        softmax_(logits_CV, targets_M[part], wanted, logp_M[part], None if entropy_M is None else entropy_M[part])
        if slope_CV is not None:
            logits_CV.mul_(slope_CV)
        own_CT = None
        if rows is not None and wanted is not None:
            own_CT = logits_CV[:, rows.ids_T]
            logits_CV = logits_CV.index_fill_(1, rows.ids_T, 0)[:, : len(weight_VD)]
        if dx_MD is not None:
            dx_MD[part] = products.back(logits_CV, weight_VD)
            if rows is not None and own_CT is not None:
                dx_MD[part].addmm_(own_CT, rows.values_TD)
        if dweight_VD is not None:
            dweight_VD += weight_grad(logits_CV, x_MD[part])
        if drows_TD is not None and own_CT is not None:
            drows_TD += weight_grad(own_CT, x_MD[part])
    return _Scores(logp_M, entropy_M, dx_MD, dweight_VD, drows_TD)


def _slope(capped_CV: Tensor, softcap: float | None) -> Tensor | None:
    """How much of a change of a logit the cap lets through: 1 - tanh^2."""
    return None if softcap is None else (capped_CV / softcap).square_().neg_().add_(1)


def _rounded(rows: Rows | None, dtype: torch.dtype) -> Rows | None:
    return None if rows is None else rows._replace(values_TD=rows.values_TD.detach().to(dtype))


def _logits(x_CD: Tensor, weight_VD: Tensor, rows: Rows | None) -> Tensor:
    return _with_own(products.linear(x_CD, weight_VD), x_CD, rows)


def _with_own(logits_CV: Tensor, x_CD: Tensor, rows: Rows | None) -> Tensor:
    """With the logits of tokens that have rows of their own."""
    if rows is None:
        return logits_CV
    own_CT = x_CD @ rows.values_TD.T
    if rows.within < own_CT.shape[1]:
        logits_CV = torch.cat([logits_CV, own_CT[:, rows.within :]], 1)
    return logits_CV.index_copy_(1, rows.ids_T[: rows.within], own_CT[:, : rows.within])


def _total(coefficients_M: Tensor, logp_M: Tensor) -> Tensor:
    return (coefficients_M * logp_M).sum()
