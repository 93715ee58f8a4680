"""How far a student's distribution of the next token is from a teacher's, without ever holding all logits.

What goes in: the student's normed hidden states of the M scored rows, the head's weight, the targets, and what the
teacher says of each row: its own hidden states and head, or its k most likely tokens. What comes out: the sum over rows
of c * (T^2 * KL + s * nll), differentiable, with the gradient formed in the forward pass as in `head`'s linear mode.

    forward   KL(p || q) = sum p (log p - log q): the student covers all that the teacher finds likely
    reverse   KL(q || p) = sum q (log q - log p): the student keeps to what the teacher finds likely

p and q are softmax(z / T) of teacher and student. T^2 keeps the gradient's size independent of T (Hinton et al. 2015,
arXiv 1503.02531, section 2). Of k tokens, all others count as one more outcome, the tail: the distributions stay whole,
the divergence is a lower bound of the full one and reaches it with k = V. Where the two vocabularies differ in size,
the tokens that both have are compared: checkpoints pad theirs to different multiples.

Shape legend: M scored rows, C rows of a chunk, D hidden, V vocabulary, W tokens that both have, K most likely tokens, B
outcomes: K and the tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.kernels import head
from luthier.kernels.linear import weight_grad
from luthier.kernels.norm import wide
from luthier.kernels.tiles import chunks

COPIES = 4
"""Arrays of a chunk's logits in float32 that are alive at once, where the teacher gives its whole distribution: two of
the student's, to its own temperature and to the lesson's, and two that come of the teacher's; one less of its most
likely tokens."""


class How(NamedTuple):
    """temperature: T; sft_weight: s, of the data's own words beside the teacher's."""

    reverse: bool = False
    temperature: float = 1.0
    sft_weight: float = 0.0


class Whole(NamedTuple):
    """The teacher's normed hidden states of the scored rows, and its head."""

    x_MD: Tensor
    weight_VD: Tensor


class Top(NamedTuple):
    """The teacher's most likely tokens, and log-probabilities at temperature T; the tail's is the last."""

    ids_MK: Tensor
    logp_MB: Tensor


class Lesson(NamedTuple):
    """What there is to be learnt of the scored rows, and how."""

    teacher: Whole | Top
    how: How


class Taught(NamedTuple):
    """total: differentiable; logp_M: log p(target) of the student; divergence_M: KL. The last two are not."""

    total: Tensor
    logp_M: Tensor
    divergence_M: Tensor


def distil(
    x_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, coefficients_M: Tensor, teacher: Whole | Top, how: How
) -> Taught:
    """sum(c * (T^2 * KL + s * nll)) over the rows.

    Args:
        x_MD: normed hidden states in the compute dtype.
        weight_VD: the student's head; a float32 master where it trains.
    """
    return Taught(*_Distil.apply(x_MD, weight_VD, targets_M, coefficients_M, teacher, how))  # type: ignore[no-untyped-call]


def most_likely(x_MD: Tensor, weight_VD: Tensor, k: int, temperature: float, width: int) -> Top:
    """The k most likely of the first `width` tokens, with log-probabilities at a temperature and that of all others."""
    k = min(k, width)
    ids, logps = [], []
    for part in _parts(x_MD, weight_VD):
        z_CW = head.logits(x_MD[part], weight_VD)[:, :width] / temperature
        total_C = z_CW.logsumexp(1)
        top_CK, at_CK = z_CW.topk(k, 1)
        tail_C = z_CW.scatter(1, at_CK, -torch.inf).logsumexp(1)
        ids.append(at_CK)
        logps.append(torch.cat([top_CK, tail_C[:, None]], 1) - total_C[:, None])
    return Top(torch.cat(ids), torch.cat(logps))


class _Distil(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MD: Tensor,
        weight_VD: Tensor,
        targets_M: Tensor,
        coefficients_M: Tensor,
        teacher: Whole | Top,
        how: How,
    ) -> tuple[Tensor, Tensor, Tensor]:
        need_x, need_weight, *_ = ctx.needs_input_grad
        dtype = wide(x_MD.dtype)
        largest = head.largest_of(coefficients_M)
        unit_M = (coefficients_M / largest).to(dtype)
        logp_M = torch.empty(len(x_MD), dtype=dtype, device=x_MD.device)
        divergence_M = torch.empty_like(logp_M)
        dx_MD = torch.empty_like(x_MD) if need_x else None
        dweight_VD = torch.zeros(weight_VD.shape, dtype=dtype, device=x_MD.device) if need_weight else None
        weight = weight_VD.to(x_MD.dtype)
        for part in _parts(x_MD, weight):
            made = _chunk(head.logits(x_MD[part], weight), targets_M[part], _of(teacher, part), how)
            logp_M[part], divergence_M[part], dz_CV = made
            del made
            dz_CV = dz_CV.mul_(unit_M[part, None]).to(x_MD.dtype)
            if dx_MD is not None:
                torch.mm(dz_CV, weight, out=dx_MD[part])
            if dweight_VD is not None:
                dweight_VD += weight_grad(dz_CV, x_MD[part])
        ctx.save_for_backward(dx_MD, dweight_VD, largest)
        ctx.mark_non_differentiable(logp_M, divergence_M)
        per_row_M = how.temperature**2 * divergence_M - how.sft_weight * logp_M
        return (coefficients_M * per_row_M).sum(), logp_M, divergence_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        dx_MD, dweight_VD, largest = ctx.saved_tensors
        factor = dtotal * largest
        dx = None if dx_MD is None else (dx_MD * factor).to(dx_MD.dtype)
        return dx, None if dweight_VD is None else dweight_VD * factor, None, None, None, None


def _parts(x_MD: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    row_bytes = COPIES * len(weight_VD) * wide(x_MD.dtype).itemsize
    return chunks(len(x_MD), row_bytes, head.CHUNK_BYTES)


def _of(teacher: Whole | Top, part: slice) -> Whole | Top:
    if isinstance(teacher, Top):
        return Top(teacher.ids_MK[part], teacher.logp_MB[part])
    return Whole(teacher.x_MD[part], teacher.weight_VD)


def _chunk(z_CV: Tensor, targets_C: Tensor, teacher: Whole | Top, how: How) -> tuple[Tensor, Tensor, Tensor]:
    """log p(target), KL, and the gradient of T^2 * KL + s * nll by the logits, which are used up."""
    logq_CV = z_CV.log_softmax(1)
    logp_C = logq_CV.gather(1, targets_C[:, None])[:, 0]
    if isinstance(teacher, Top):
        width = z_CV.shape[1]
        tempered_CW = z_CV.div_(how.temperature).log_softmax(1)
        del z_CV
        divergence_C, dz_CW = _of_outcomes(tempered_CW, teacher, how.reverse)
    else:
        t_CV = head.logits(teacher.x_MD, teacher.weight_VD)
        width = min(t_CV.shape[1], z_CV.shape[1])
        logp_CW = t_CV[:, :width].div_(how.temperature).log_softmax(1)
        del t_CV
        tempered_CW = z_CV[:, :width].div_(how.temperature).log_softmax(1)
        del z_CV
        divergence_C, dz_CW = _of_all(tempered_CW, logp_CW, how.reverse)
        del logp_CW
    dz_CV = logq_CV.exp_().mul_(how.sft_weight)
    dz_CV.scatter_add_(1, targets_C[:, None], dz_CV.new_full((len(dz_CV), 1), -how.sft_weight))
    dz_CV[:, :width] += dz_CW.mul_(how.temperature)  # T^2 of the loss, 1 / T of the softmax
    return logp_C, divergence_C, dz_CV


def _of_all(logq_CW: Tensor, logp_CW: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """KL over all tokens, and its gradient by the student's logits (at temperature T); both tables are used up."""
    if reverse:
        q_CW, f_CW = logq_CW.exp(), logq_CW.sub_(logp_CW)
        kl_C = torch.mul(q_CW, f_CW, out=logp_CW).sum(1)
        return kl_C, q_CW.mul_(f_CW.sub_(kl_C[:, None]))
    p_CW = logp_CW.exp()
    kl_C = logp_CW.sub_(logq_CW).mul_(p_CW).sum(1)
    return kl_C, logq_CW.exp_().sub_(p_CW)


def _of_outcomes(logq_CV: Tensor, teacher: Top, reverse: bool) -> tuple[Tensor, Tensor]:
    """The same over K tokens and the tail. With dlogq(b) / dz(v) = [v in b] q(v) / q(b) - q(v):

    forward: q(v) - p(b) q(v) / q(b);  reverse: q(v) (f(b) - KL), f = log q - log p;  b the outcome that v belongs to.
    """
    ids_CK, logp_CB = teacher.ids_MK, teacher.logp_MB.to(logq_CV.dtype)
    top_CK = logq_CV.gather(1, ids_CK)
    others_CV = logq_CV.scatter(1, ids_CK, -torch.inf)
    most_C1 = others_CV.amax(1, keepdim=True).clamp_min(torch.finfo(others_CV.dtype).min)  # where there is no other
    tail_C1 = others_CV.sub_(most_C1).exp_().sum(1, keepdim=True).log_().add_(most_C1)
    del others_CV
    logq_CB = torch.cat([top_CK, tail_C1], 1)
    if reverse:
        q_CB, f_CB = logq_CB.exp(), logq_CB - logp_CB
        kl_C1 = torch.where(q_CB > 0, q_CB * f_CB, 0).sum(1, keepdim=True)
        own_CK = q_CB[:, :-1] * (f_CB[:, :-1] - kl_C1)
        dz_CV = logq_CV.exp_().mul_(f_CB[:, -1:] - kl_C1)
        return kl_C1[:, 0], dz_CV.scatter_(1, ids_CK, own_CK)
    p_CB = logp_CB.exp()
    kl_C = torch.where(p_CB > 0, p_CB * (logp_CB - logq_CB), 0).sum(1)
    own_CK = logq_CB[:, :-1].exp() - p_CB[:, :-1]
    # p(tail) * q(v) / q(tail) in logarithms, because q(tail) may be too small for a number.
    of_tail_CV = (logq_CV - tail_C1).add_(logp_CB[:, -1:]).exp_()
    return kl_C, logq_CV.exp_().sub_(of_tail_CV).scatter_(1, ids_CK, own_CK)
