"""Projections of one shared input, each with its base weight and, where there is one, a low-rank adapter.

What goes in: rows and the weights of the projections that read them (q, k and v; gate and up; o; down). What comes out:
their outputs, and in the backward pass the gradients that are asked for and no others. The input is read once for all
adapters: their A matrices are multiplied as one. The order of products is always (x A) B, never A B.

Shape legend: N rows, I in, O out, R rank of one adapter, S sum of the ranks of all projections of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from luthier.kernels import packed, products
from luthier.kernels.dropout import Dropout


class Weight(Protocol):
    """A frozen weight that is kept in fewer bytes than a tensor of floats."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The values it stands for, the same each time; made for one matmul and let go after it."""


class Span(NamedTuple):
    """An adapter that some rows go through, as generation has it: A and scale * B in the compute dtype."""

    rows: slice
    a_RI: Tensor
    b_OR: Tensor


class Linear(NamedTuple):
    """One projection: y = W x + bias + scale * B A x; `a_RI` and `b_OR` are both None without an adapter. Where nothing
    is trained, `spans` can give each stretch of rows an adapter of its own instead, and `packed` be the weight as
    `luthier.kernels.packed` has it."""

    weight_OI: Tensor | Weight
    bias_O: Tensor | None = None
    a_RI: Tensor | None = None
    b_OR: Tensor | None = None
    scale: float = 1.0
    spans: tuple[Span, ...] = ()
    packed: Tensor | None = None

    @property
    def rank(self) -> int:
        return 0 if self.a_RI is None else self.a_RI.shape[0]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The base weight, [O, I]; a tensor is in the dtype already."""
        return self.weight_OI if isinstance(self.weight_OI, Tensor) else self.weight_OI.dense(dtype)


@dataclass(frozen=True)
class Slice:
    """Some rows of a weight that is kept in fewer bytes."""

    whole: Weight
    first: int
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.whole.shape[1:])

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.whole.dense(dtype)[self.first : self.first + self.rows]


def split(linear: Linear, rows: Sequence[int]) -> list[Linear]:
    """A projection whose rows play several roles as one projection for each: views, which share the adapter's A."""
    if len(rows) == 1:
        return [linear]

    def parts(tensor: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * len(rows) if tensor is None else torch.split(tensor, list(rows))

    firsts = [sum(rows[:index]) for index in range(len(rows))]
    weights: Sequence[Tensor | Weight | None]
    if isinstance(linear.weight_OI, Tensor):
        weights = parts(linear.weight_OI)
    else:
        weights = [Slice(linear.weight_OI, first, count) for first, count in zip(firsts, rows, strict=True)]
    made = []
    for index, (weight, bias, b) in enumerate(zip(weights, parts(linear.bias_O), parts(linear.b_OR), strict=True)):
        assert weight is not None
        own = slice(firsts[index], firsts[index] + rows[index])
        spans = tuple(Span(each.rows, each.a_RI, each.b_OR[own]) for each in linear.spans)
        made.append(Linear(weight, bias, linear.a_RI, b, linear.scale, spans))
    return made


class Need(NamedTuple):
    """Which gradients of one projection are wanted."""

    weight: bool = False
    bias: bool = False
    a: bool = False
    b: bool = False


class Grads(NamedTuple):
    """Gradients of one projection in the dtypes of its parameters."""

    weight_OI: Tensor | None = None
    bias_O: Tensor | None = None
    a_RI: Tensor | None = None
    b_OR: Tensor | None = None


def project(
    x_NI: Tensor, linears: Sequence[Linear], drop: Dropout | None, residual_NO: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """Outputs [N, O] of each projection and the adapters' inner rows x A^T, [N, S] (None without adapters).

    Args:
        x_NI: input in the compute dtype; base weights are in it already.
        drop: dropout on the adapters' input.
        residual_NO: added to the output of a single projection.
    """
    inner_NS = inner_rows(x_NI, linears, drop)
    outputs, column = [], 0
    for linear in linears:
        y_NO = _base(x_NI, linear, residual_NO)
        if linear.rank:
            assert inner_NS is not None and linear.b_OR is not None
            y_NO.addmm_(inner_NS[:, column : column + linear.rank], _scaled_b(linear, x_NI.dtype, drop).T)
            column += linear.rank
        for rows, a_RI, b_OR in linear.spans:
            y_NO[rows].addmm_(x_NI[rows] @ a_RI.T, b_OR.T)
        outputs.append(y_NO)
    return outputs, inner_NS


def inner_rows(x_NI: Tensor, linears: Sequence[Linear], drop: Dropout | None) -> Tensor | None:
    """The adapters' inner rows x A^T, [N, S]; None without adapters."""
    a_SI = _stacked_a(linears, x_NI.dtype)
    if a_SI is None:
        return None
    if drop is not None:
        x_NI = x_NI.masked_fill(drop.mask(x_NI.shape[1]), 0)
    return x_NI @ a_SI.T


def project_backward(
    x_NI: Tensor | None,
    inner_NS: Tensor | None,
    dys: Sequence[Tensor],
    linears: Sequence[Linear],
    needs: Sequence[Need],
    drop: Dropout | None,
    need_dx: bool,
) -> tuple[Tensor | None, list[Grads]]:
    """Gradients of the shared input and of every projection's parameters, as far as they are needed.

    Args:
        x_NI: the input; None where `reads_input(needs)` is False.
        inner_NS: from `project`.
        dys: gradients of the outputs, [N, O] each.
    """
    need_inner = need_dx or any(need.a for need in needs)
    mask_NI = None if drop is None or inner_NS is None or not need_inner else drop.mask(linears[0].weight_OI.shape[1])
    dinner_NS = _inner_backward(dys, linears, drop) if need_inner and inner_NS is not None else None
    da_SI = None
    if dinner_NS is not None and any(need.a for need in needs):
        assert x_NI is not None
        da_SI = dinner_NS.T @ (x_NI if mask_NI is None else x_NI.masked_fill(mask_NI, 0))
    grads, column = [], 0
    for linear, need, dy_NO in zip(linears, needs, dys, strict=True):
        rows = slice(column, column + linear.rank)
        column += linear.rank
        grads.append(_parameter_grads(x_NI, inner_NS, da_SI, rows, dy_NO, linear, need, drop))
    return (_input_grad(dys, linears, dinner_NS, mask_NI) if need_dx else None), grads


def reads_input(needs: Sequence[Need]) -> bool:
    """Whether the backward pass of these projections reads their input."""
    return any(need.weight or need.a for need in needs)


def weight_grad(dy_NO: Tensor, x_NI: Tensor) -> Tensor:
    """dy^T x, [O, I]. In half precision oneDNN on CPU is half as fast where its left operand is transposed, so the
    narrower operand is transposed in memory first (measured: 2048 rows, 896 x 4864, AMX: 18 ms against 31 ms)."""
    if dy_NO.device.type != "cpu" or dy_NO.dtype not in (torch.bfloat16, torch.float16):
        return products.outer(dy_NO, x_NI)
    if dy_NO.shape[1] <= x_NI.shape[1]:
        return dy_NO.T.contiguous() @ x_NI
    return (x_NI.T.contiguous() @ dy_NO).T


def _base(x_NI: Tensor, linear: Linear, residual_NO: Tensor | None) -> Tensor:
    if linear.packed is not None:
        return packed.linear(x_NI, linear.packed, linear.bias_O, residual_NO)
    return products.linear(x_NI, linear.dense(x_NI.dtype), linear.bias_O, residual_NO)


def _stacked_a(linears: Sequence[Linear], dtype: torch.dtype) -> Tensor | None:
    parts = [linear.a_RI for linear in linears if linear.a_RI is not None]
    if not parts:
        return None
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(dtype)


def _scale(linear: Linear, drop: Dropout | None) -> float:
    """The adapter's scale; dropout's 1/(1-p) is folded in, so that survivors need not be multiplied."""
    return linear.scale if drop is None else linear.scale * drop.survivor_scale


def _scaled_b(linear: Linear, dtype: torch.dtype, drop: Dropout | None) -> Tensor:
    assert linear.b_OR is not None
    return (linear.b_OR * _scale(linear, drop)).to(dtype)


def _inner_backward(dys: Sequence[Tensor], linears: Sequence[Linear], drop: Dropout | None) -> Tensor:
    parts = [
        dy_NO @ _scaled_b(linear, dy_NO.dtype, drop)
        for dy_NO, linear in zip(dys, linears, strict=True)
        if linear.b_OR is not None
    ]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _parameter_grads(
    x_NI: Tensor | None,
    inner_NS: Tensor | None,
    da_SI: Tensor | None,
    rows: slice,
    dy_NO: Tensor,
    linear: Linear,
    need: Need,
    drop: Dropout | None,
) -> Grads:
    weight_OI = bias_O = a_RI = b_OR = None
    if need.weight:
        assert x_NI is not None
        weight_OI = weight_grad(dy_NO, x_NI)
    if need.bias:
        bias_O = dy_NO.sum(0, dtype=torch.promote_types(dy_NO.dtype, torch.float32))
    if need.a:
        assert da_SI is not None and linear.a_RI is not None
        a_RI = da_SI[rows].to(linear.a_RI.dtype)
    if need.b:
        assert inner_NS is not None and linear.b_OR is not None
        b_OR = (inner_NS[:, rows].T @ dy_NO).T.to(linear.b_OR.dtype) * _scale(linear, drop)
    return Grads(weight_OI, bias_O, a_RI, b_OR)


def _input_grad(
    dys: Sequence[Tensor], linears: Sequence[Linear], dinner_NS: Tensor | None, mask_NI: Tensor | None
) -> Tensor:
    dx_NI = products.back(dys[0], linears[0].dense(dys[0].dtype))
    for dy_NO, linear in zip(dys[1:], linears[1:], strict=True):
        products.back(dy_NO, linear.dense(dy_NO.dtype), dx_NI)
    if dinner_NS is None:
        return dx_NI
    a_SI = _stacked_a(linears, dx_NI.dtype)
    assert a_SI is not None
    if mask_NI is None:
        return dx_NI.addmm_(dinner_NS, a_SI)
    return dx_NI.add_((dinner_NS @ a_SI).masked_fill_(mask_NI, 0))
