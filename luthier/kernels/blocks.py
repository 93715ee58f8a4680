"""The three blocks of a decoder layer, each a pure forward and a pure backward function.

What goes in: the residual stream and the block's weights. What comes out: the block's outputs and the least set of
tensors from which the backward pass needs no matmul twice: the residual stream itself, the projections' outputs where
nobody else keeps them, and adapters' inner rows. Normed inputs and activations are formed again element-wise.

    attention_inputs   norm, q, k, v, q/k norm, rotary       keeps h (q, k, v are kept by attention)
    attention_output   o projection, residual                keeps the attention output, as attention does anyway
    mlp                norm, gate, up, activation, down, residual      keeps h, gate, up

`mlp_again` forms what `mlp` keeps once more from h alone. `attention_inputs` computes queries of chosen rows only,
where nobody reads the others. `luthier.kernels.autograd` puts the blocks under autograd.

Shape legend: N flat tokens, U rows whose queries are computed (N of them unless rows are chosen), D hidden, H heads,
K key/value heads, E features per head, F MLP width, S sum of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from luthier.arch.spec import Rope
from luthier.kernels import select
from luthier.kernels.dropout import Dropout
from luthier.kernels.linear import Grads, Linear, Need, inner_rows, project, project_backward, reads_input


class Kept(NamedTuple):
    """A normed input that can be formed again: rows, reciprocal RMS, weight. Without a norm the rows are the input."""

    h_ND: Tensor
    rstd_N1: Tensor | None
    weight_D: Tensor | None

    def normed(self) -> Tensor:
        if self.rstd_N1 is None or self.weight_D is None:
            return self.h_ND
        return select.chains(self.h_ND).normalise(self.h_ND, self.rstd_N1, self.weight_D)


def keep(h_ND: Tensor, weight_D: Tensor | None, eps: float) -> Kept:
    if weight_D is None:
        return Kept(h_ND, None, None)
    return Kept(h_ND, select.chains(h_ND).reciprocal_rms(h_ND, eps), weight_D)


def normed(h_ND: Tensor, weight_D: Tensor | None, eps: float) -> tuple[Tensor, Kept]:
    """The normed input, and what forms it again."""
    if weight_D is None:
        return h_ND, Kept(h_ND, None, None)
    x_ND, rstd_N1 = select.chains(h_ND).norm(h_ND, weight_D, eps)
    return x_ND, Kept(h_ND, rstd_N1, weight_D)


def _norm_backward(
    kept: Kept, dx_ND: Tensor, need_weight: bool, residual_ND: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the rows before the norm, plus what bypasses it, and of the norm's weight."""
    if kept.weight_D is None:
        return (dx_ND if residual_ND is None else dx_ND.add_(residual_ND)), None
    return select.chains(dx_ND).norm_backward(*kept, dx_ND, need_weight, residual_ND)


# ------------------------------------------------------------------------------------------- attention's inputs


@dataclass(frozen=True)
class QkvShape:
    """eps: of all norms; rope: None without rotary; drop: on the adapters' input; rows: the rows whose queries are
    computed, each once, None for all."""

    eps: float
    head_dim: int
    rope: Rope | None = None
    drop: Dropout | None = None
    rows_U: Tensor | None = None


class QkvSaved(NamedTuple):
    """q, k: kept only under q/k norm, before it; cos, sin: None without rotary. inner_US: where queries are of chosen
    rows only, the inner rows of their own adapter; `inner_NS` is then of keys and values."""

    input: Kept
    inner_NS: Tensor | None
    q: Kept | None
    k: Kept | None
    cos_NE: Tensor | None
    sin_NE: Tensor | None
    inner_US: Tensor | None = None


class QkvNeed(NamedTuple):
    h: bool
    norm: bool
    q_norm: bool
    k_norm: bool
    linears: tuple[Need, ...]


class QkvGrads(NamedTuple):
    h_ND: Tensor | None
    norm_D: Tensor | None
    q_norm_E: Tensor | None
    k_norm_E: Tensor | None
    linears: list[Grads]


def attention_inputs(
    h_ND: Tensor,
    norm_D: Tensor | None,
    qk_norms: tuple[Tensor, Tensor] | None,
    angles: tuple[Tensor, Tensor] | None,
    linears: Sequence[Linear],
    shape: QkvShape,
) -> tuple[tuple[Tensor, Tensor, Tensor], QkvSaved]:
    """Queries [U, H, E], keys and values [N, K, E], normed and rotated, ready for attention.

    Args:
        norm_D: None where the input is not normed.
        qk_norms: weights of the norms on q and k, where the model has them: [E] on each head, or on all heads together.
        angles: `rotary.tables` of the tokens, where the model is rotary.
        linears: q, k, v.
    """
    (x_ND, kept), inner_US = normed(h_ND, norm_D, shape.eps), None
    if shape.rows_U is None:
        projected, inner_NS = project(x_ND, linears, shape.drop)
    else:
        keys_values, inner_NS = project(x_ND, linears[1:], shape.drop)
        queries, inner_US = project(x_ND[shape.rows_U], linears[:1], _at(shape.drop, shape.rows_U))
        projected = [*queries, *keys_values]
    q, k, v = projected
    q_kept = k_kept = None
    if qk_norms is not None:
        (q, q_kept), (k, k_kept) = (
            normed(y_NO.view(len(y_NO), -1, len(weight)), weight, shape.eps)
            for y_NO, weight in zip((q, k), qk_norms, strict=True)
        )
    q, k, v = (y.view(len(y), -1, shape.head_dim) for y in (q, k, v))
    if shape.rope is not None and angles is not None:
        q, k = _rotate(q, k, angles, shape)
    cos_NE, sin_NE = angles or (None, None)
    return (q, k, v), QkvSaved(kept, inner_NS, q_kept, k_kept, cos_NE, sin_NE, inner_US)


def attention_inputs_backward(
    saved: QkvSaved,
    grads: tuple[Tensor, Tensor, Tensor],
    linears: Sequence[Linear],
    shape: QkvShape,
    need: QkvNeed,
) -> QkvGrads:
    """Gradients of the residual stream (this branch only) and of the block's weights, as far as needed."""
    dq, dk, dv = grads
    dq_norm = dk_norm = None
    if shape.rope is not None and saved.cos_NE is not None and saved.sin_NE is not None:
        dq, dk = _rotate(dq, dk, (saved.cos_NE, saved.sin_NE), shape, adjoint=True)
    if saved.q is not None and saved.k is not None:
        norm_backward = select.chains(dq).norm_backward
        dq, dq_norm = norm_backward(*saved.q, dq.reshape(saved.q.h_ND.shape), need.q_norm)
        dk, dk_norm = norm_backward(*saved.k, dk.reshape(saved.k.h_ND.shape), need.k_norm)
    dys = [dy.flatten(1) for dy in (dq, dk, dv)]
    dx_ND, linear_grads = _qkv_backward(saved, dys, linears, shape, need)
    if dx_ND is None:
        return QkvGrads(None, None, dq_norm, dk_norm, linear_grads)
    dh_ND, dnorm_D = _norm_backward(saved.input, dx_ND, need.norm)
    return QkvGrads(dh_ND, dnorm_D, dq_norm, dk_norm, linear_grads)


def _qkv_backward(
    saved: QkvSaved, dys: Sequence[Tensor], linears: Sequence[Linear], shape: QkvShape, need: QkvNeed
) -> tuple[Tensor | None, list[Grads]]:
    """Gradients of the normed input and of the projections."""
    x_ND = saved.input.normed() if reads_input(need.linears) else None
    need_dx, needs, rows_U = need.h or need.norm, need.linears, shape.rows_U
    if rows_U is None:
        return project_backward(x_ND, saved.inner_NS, dys, linears, needs, shape.drop, need_dx)
    dx_ND, grads = project_backward(x_ND, saved.inner_NS, dys[1:], linears[1:], needs[1:], shape.drop, need_dx)
    x_UD, drop = None if x_ND is None else x_ND[rows_U], _at(shape.drop, rows_U)
    dx_UD, q_grads = project_backward(x_UD, saved.inner_US, dys[:1], linears[:1], needs[:1], drop, need_dx)
    if dx_ND is not None and dx_UD is not None:
        dx_ND.index_add_(0, rows_U, dx_UD)
    return dx_ND, [*q_grads, *grads]


def _at(drop: Dropout | None, rows: Tensor | slice) -> Dropout | None:
    return None if drop is None else drop.at(rows)


def _rotate(
    q: Tensor, k: Tensor, angles: tuple[Tensor, Tensor], shape: QkvShape, adjoint: bool = False
) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by the angles of their tokens."""
    assert shape.rope is not None
    rotate = select.chains(q).rotate
    if shape.rows_U is None:
        q, k = rotate((q, k), *angles, shape.rope, adjoint)
        return q, k
    cos_UE, sin_UE = (each[shape.rows_U] for each in angles)
    (q,), (k,) = rotate((q,), cos_UE, sin_UE, shape.rope, adjoint), rotate((k,), *angles, shape.rope, adjoint)
    return q, k


# ------------------------------------------------------------------------------------------- attention's output


class OutputNeed(NamedTuple):
    attended: bool
    linear: Need


def attention_output(
    attended_NO: Tensor, h_ND: Tensor | None, linear: Linear, drop: Dropout | None
) -> tuple[Tensor, Tensor | None]:
    """h + o(attended), [N, D], and the adapter's inner rows. Without h, o(attended)."""
    (y_ND,), inner_NS = project(attended_NO, (linear,), drop, residual_NO=h_ND)
    return y_ND, inner_NS


def attention_output_backward(
    attended_NO: Tensor | None,
    inner_NS: Tensor | None,
    dy_ND: Tensor,
    linear: Linear,
    drop: Dropout | None,
    need: OutputNeed,
) -> tuple[Tensor | None, Grads]:
    """Gradients of the attention output and of the weights; that of h is dy itself."""
    dattended_NO, (grads,) = project_backward(
        attended_NO, inner_NS, (dy_ND,), (linear,), (need.linear,), drop, need.attended
    )
    return dattended_NO, grads


# ------------------------------------------------------------------------------------------------------- MLP


@dataclass(frozen=True)
class MlpShape:
    """eps: of the norm; act: key of `gated.ACTIVATIONS`; drop: on the adapters of gate and up; drop_down: of down;
    residual: whether what enters is added to what comes out."""

    eps: float
    act: str
    drop: Dropout | None = None
    drop_down: Dropout | None = None
    residual: bool = True

    def at(self, rows: slice) -> MlpShape:
        """The same for some of the rows."""
        return replace(self, drop=_at(self.drop, rows), drop_down=_at(self.drop_down, rows))


class MlpSaved(NamedTuple):
    input: Kept
    inner_NS: Tensor | None
    e_NF: Tensor
    g_NF: Tensor
    inner_down_NR: Tensor | None


class MlpNeed(NamedTuple):
    h: bool
    norm: bool
    linears: tuple[Need, ...]


class MlpGrads(NamedTuple):
    h_ND: Tensor
    norm_D: Tensor | None
    linears: list[Grads]


def mlp(h_ND: Tensor, norm_D: Tensor | None, linears: Sequence[Linear], shape: MlpShape) -> tuple[Tensor, MlpSaved]:
    """h + down(act(gate(x)) * up(x)) with x = norm(h), [N, D]; without h in front where the shape says so. linears:
    gate, up, down."""
    gate, up, down = linears
    x_ND, kept = normed(h_ND, norm_D, shape.eps)
    (e_NF, g_NF), inner_NS = project(x_ND, (gate, up), shape.drop)
    del x_ND  # formed again where it is needed
    m_NF = select.chains(e_NF).gated(e_NF, g_NF, shape.act)
    (y_ND,), inner_down_NR = project(m_NF, (down,), shape.drop_down, residual_NO=h_ND if shape.residual else None)
    return y_ND, MlpSaved(kept, inner_NS, e_NF, g_NF, inner_down_NR)


def mlp_again(kept: Kept, linears: Sequence[Linear], shape: MlpShape) -> MlpSaved:
    """What `mlp` keeps, bit for bit, from its input alone: gate and up once more, and no product with down's weight."""
    gate, up, down = linears
    (e_NF, g_NF), inner_NS = project(kept.normed(), (gate, up), shape.drop)
    if not down.rank:
        return MlpSaved(kept, inner_NS, e_NF, g_NF, None)
    m_NF = select.chains(e_NF).gated(e_NF, g_NF, shape.act)
    return MlpSaved(kept, inner_NS, e_NF, g_NF, inner_rows(m_NF, (down,), shape.drop_down))


def mlp_backward(saved: MlpSaved, dy_ND: Tensor, linears: Sequence[Linear], shape: MlpShape, need: MlpNeed) -> MlpGrads:
    """Gradients of the residual stream (both branches) and of the block's weights, as far as needed."""
    gate, up, down = linears
    *need_inputs, need_down = need.linears
    need_dx = need.h or need.norm
    need_dm = need_dx or any(any(each) for each in need_inputs)
    chains = select.chains(saved.e_NF)
    a_NF, m_NF = chains.gated_again(saved.e_NF, saved.g_NF, shape.act, reads_input((need_down,)))
    dm_NF, (down_grads,) = project_backward(
        m_NF, saved.inner_down_NR, (dy_ND,), (down,), (need_down,), shape.drop_down, need_dm
    )
    if dm_NF is None:
        return MlpGrads(dy_ND, None, [Grads(), Grads(), down_grads])
    del m_NF  # the widest tensors of the layer: at most three of them live at once
    de_NF, dg_NF = chains.gated_backward(dm_NF, saved.e_NF, saved.g_NF, a_NF, shape.act)
    x_ND = saved.input.normed() if reads_input(need_inputs) else None
    dx_ND, input_grads = project_backward(
        x_ND, saved.inner_NS, (de_NF, dg_NF), (gate, up), need_inputs, shape.drop, need_dx
    )
    if dx_ND is None:
        return MlpGrads(dy_ND, None, [*input_grads, down_grads])
    dh_ND, dnorm_D = _norm_backward(saved.input, dx_ND, need.norm, dy_ND if shape.residual else None)
    return MlpGrads(dh_ND, dnorm_D, [*input_grads, down_grads])
