"""The blocks of `luthier.kernels.blocks` under autograd.

What goes in: tensors that may require gradients, trainable weights as float32 masters. What comes out: the block's
outputs, differentiable where anything that went in is. Where nothing is, nothing is kept. Masters are cast to the
compute dtype once per forward pass. The backward pass computes exactly the gradients that autograd asks for.

How much is kept is a choice: `mlp` can keep its input alone, and so can a whole function under `recomputed`. The
backward pass then does again what the forward pass did, with the same operations on the same shapes, so that gradients
come out with the same bits. Where there are many rows, an MLP works on some of them at a time, whatever is kept.

Shape legend: as in `luthier.kernels.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.kernels import blocks, norm, select, sizes
from luthier.kernels.blocks import Kept, MlpNeed, MlpSaved, MlpShape, OutputNeed, QkvNeed, QkvSaved, QkvShape
from luthier.kernels.dropout import Dropout
from luthier.kernels.linear import Grads, Linear, Need, Span, Weight, reads_input

PARAMETERS = 4
"""Tensors of one `Linear`: weight, bias, A, B."""

Fixed = tuple[tuple[float, Weight | None, tuple[Span, ...], Tensor | None], ...]
"""What of each `Linear` autograd need not know: the adapter's scale, the weight where it is no tensor, and what is only
there where nothing trains: adapters of some rows, the packed weight."""

MlpKeep = Literal["all", "input", "unread"]
"""What `mlp` keeps: all that its matmuls made; its input alone; or that, where nobody will read its output either,
because it is run again for its backward pass: nothing is then computed before that."""


def attention_inputs(
    h_ND: Tensor,
    norm_D: Tensor | None,
    qk_norms: tuple[Tensor, Tensor] | None,
    angles: tuple[Tensor, Tensor] | None,
    linears: Sequence[Linear],
    shape: QkvShape,
) -> tuple[Tensor, Tensor, Tensor]:
    """`blocks.attention_inputs` with gradients."""
    flat, fixed = _flat(linears)
    q_norm_E, k_norm_E = qk_norms if qk_norms is not None else (None, None)
    if not _tracked(h_ND, norm_D, q_norm_E, k_norm_E, *flat):
        return blocks.attention_inputs(h_ND, norm_D, qk_norms, angles, _linears(flat, fixed, h_ND.dtype), shape)[0]
    outputs = _AttentionInputs.apply(  # type: ignore[no-untyped-call]
        shape, fixed, angles, h_ND, norm_D, q_norm_E, k_norm_E, *flat
    )
    return cast(tuple[Tensor, Tensor, Tensor], outputs)


def attention_output(pieces: Sequence[Tensor], h_ND: Tensor | None, linear: Linear, drop: Dropout | None) -> Tensor:
    """`blocks.attention_output` with gradients. pieces: attended values of consecutive rows, [n, H * E] each."""
    flat, fixed = _flat((linear,))
    if not _tracked(h_ND, *flat, *pieces):
        return blocks.attention_output(_joined(pieces), h_ND, _linears(flat, fixed, pieces[0].dtype)[0], drop)[0]
    return cast(Tensor, _AttentionOutput.apply(drop, fixed, h_ND, *flat, *pieces))  # type: ignore[no-untyped-call]


def mlp(
    h_ND: Tensor, norm_D: Tensor | None, linears: Sequence[Linear], shape: MlpShape, keep: MlpKeep = "all"
) -> Tensor:
    """`blocks.mlp` with gradients."""
    flat, fixed = _flat(linears)
    if not _tracked(h_ND, norm_D, *flat):
        of_dtype = _linears(flat, fixed, h_ND.dtype)
        return _by_parts(h_ND, _parts(h_ND, of_dtype), lambda h, at: blocks.mlp(h, norm_D, of_dtype, shape.at(at))[0])
    return cast(Tensor, _Mlp.apply(shape, fixed, keep, h_ND, norm_D, *flat))  # type: ignore[no-untyped-call]


def recomputed(run: Callable[[Tensor, bool], Tensor], h_ND: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """run(h), of which nothing is kept for the backward pass but h: it is run again there.

    Args:
        run: called with h, and whether it is run again: the values of its output are not read then.
        parameters: what trains inside, leaves all of them.
    """
    if not _tracked(h_ND, *parameters):
        return run(h_ND, False)
    return cast(Tensor, _Recomputed.apply(run, parameters, h_ND, *parameters))  # type: ignore[no-untyped-call]


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Normalised rows; keeps the rows themselves."""
    if not _tracked(x_ND, weight_D):
        return blocks.normed(x_ND, weight_D, eps)[0]
    return cast(Tensor, _RmsNorm.apply(eps, x_ND, weight_D))  # type: ignore[no-untyped-call]


def embedding(ids_N: Tensor, weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of the weight, [N, D] in `dtype`. A gradient is summed in float32 whatever the weight is: in bfloat16 a
    token that comes often would stop counting once its sum is 256 times what is added."""
    if not _tracked(weight_VD):
        return torch.nn.functional.embedding(ids_N, weight_VD).to(dtype)
    return cast(Tensor, _Embedding.apply(ids_N, weight_VD, dtype))  # type: ignore[no-untyped-call]


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids_N: Tensor, weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(ids_N)
        ctx.rows = len(weight_VD)
        return torch.nn.functional.embedding(ids_N, weight_VD).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[None, Tensor, None]:
        (ids_N,) = ctx.saved_tensors
        wide_ND = dy_ND.to(norm.wide(dy_ND.dtype))
        return None, torch.ops.aten.embedding_dense_backward(wide_ND, ids_N, ctx.rows, -1, False), None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eps: float, x_ND: Tensor, weight_D: Tensor) -> Tensor:
        y_ND, kept = blocks.normed(x_ND, weight_D, eps)
        ctx.save_for_backward(*kept)
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        x_ND, rstd_N1, weight_D = ctx.saved_tensors
        norm_backward = select.chains(x_ND).norm_backward
        dx_ND, dweight_D = norm_backward(x_ND, rstd_N1, weight_D, dy_ND, ctx.needs_input_grad[2])
        return None, dx_ND, dweight_D


class _AttentionInputs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        shape: QkvShape,
        fixed: Fixed,
        angles: tuple[Tensor, Tensor] | None,
        h_ND: Tensor,
        norm_D: Tensor | None,
        q_norm_E: Tensor | None,
        k_norm_E: Tensor | None,
        *flat: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        linears = _linears(flat, fixed, h_ND.dtype)
        qk_norms = None if q_norm_E is None or k_norm_E is None else (q_norm_E, k_norm_E)
        outputs, saved = blocks.attention_inputs(h_ND, norm_D, qk_norms, angles, linears, shape)
        ctx.shape, ctx.fixed = shape, fixed
        ctx.save_for_backward(
            *saved.input,
            saved.inner_NS,
            saved.inner_US,
            *(saved.q or (None,) * 3),
            *(saved.k or (None,) * 3),
            *(angles or (None, None)),
            *_flat(linears)[0],
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Any, ...]:
        h_ND, rstd_N1, norm_D, inner_NS, inner_US, *rest = ctx.saved_tensors
        q, k, (cos_NE, sin_NE, *flat) = rest[:3], rest[3:6], rest[6:]
        saved = QkvSaved(
            Kept(h_ND, rstd_N1, norm_D),
            inner_NS,
            None if q[0] is None else Kept(*q),
            None if k[0] is None else Kept(*k),
            cos_NE,
            sin_NE,
            inner_US,
        )
        wanted = ctx.needs_input_grad
        need_h, need_norm, need_q_norm, need_k_norm = wanted[3:7]
        need = QkvNeed(need_h, need_norm, need_q_norm, need_k_norm, _needs(wanted[7:]))
        grads = blocks.attention_inputs_backward(saved, (dq, dk, dv), _linears(flat, ctx.fixed), ctx.shape, need)
        *of_stream, of_linears = grads
        return (None, None, None, *of_stream, *_flat_grads(of_linears))


class _AttentionOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, drop: Dropout | None, fixed: Fixed, h_ND: Tensor | None, *rest: Tensor | None) -> Tensor:
        flat, pieces = rest[:PARAMETERS], cast(tuple[Tensor, ...], rest[PARAMETERS:])
        (linear,) = _linears(flat, fixed, pieces[0].dtype)
        y_ND, inner_NS = blocks.attention_output(_joined(pieces), h_ND, linear, drop)
        ctx.drop, ctx.fixed, ctx.sizes = drop, fixed, [len(piece) for piece in pieces]
        read = reads_input(_needs(ctx.needs_input_grad[3 : 3 + PARAMETERS]))
        ctx.save_for_backward(inner_NS, *_flat((linear,))[0], *(pieces if read else ()))
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Any, ...]:
        inner_NS, *rest = ctx.saved_tensors
        flat, pieces = rest[:PARAMETERS], rest[PARAMETERS:]
        need_h, wanted = ctx.needs_input_grad[2], ctx.needs_input_grad[3:]
        need = OutputNeed(any(wanted[PARAMETERS:]), _needs(wanted[:PARAMETERS])[0])
        (linear,) = _linears(flat, ctx.fixed)
        attended_NO = _joined(pieces) if pieces else None
        dattended_NO, grads = blocks.attention_output_backward(attended_NO, inner_NS, dy_ND, linear, ctx.drop, need)
        dpieces = [None] * len(ctx.sizes) if dattended_NO is None else torch.split(dattended_NO, ctx.sizes)
        return (None, None, dy_ND if need_h else None, *_flat_grads([grads]), *dpieces)


class _Mlp(torch.autograd.Function):
    """Seven tensors are kept for each part of the rows: its input, and what `MlpSaved` names, or None."""

    @staticmethod
    def forward(
        ctx: Any,
        shape: MlpShape,
        fixed: Fixed,
        keep: MlpKeep,
        h_ND: Tensor,
        norm_D: Tensor | None,
        *flat: Tensor | None,
    ) -> Tensor:
        linears = _linears(flat, fixed, h_ND.dtype)
        ctx.shape, ctx.fixed, ctx.parts = shape, fixed, _parts(h_ND, linears)
        kept: list[Tensor | None] = []

        def part(h_nD: Tensor, at: slice) -> Tensor:
            y_nD, (of_input, *made) = blocks.mlp(h_nD, norm_D, linears, shape.at(at))
            kept.extend((*of_input, *(made if keep == "all" else [None] * 4)))
            return y_nD

        if keep == "unread":
            y_ND = h_ND.new_empty(()).expand_as(h_ND)
            for at in ctx.parts:
                kept += [*blocks.keep(_rows(h_ND, at), norm_D, shape.eps), *[None] * 4]
        else:
            y_ND = _by_parts(h_ND, ctx.parts, part)
        ctx.save_for_backward(*_flat(linears)[0], *kept)
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Any, ...]:
        saved = list(ctx.saved_tensors)
        linears = _linears(saved[: 3 * PARAMETERS], ctx.fixed)
        del saved[: 3 * PARAMETERS]
        need_h, need_norm = ctx.needs_input_grad[3:5]
        need = MlpNeed(need_h, need_norm, _needs(ctx.needs_input_grad[5:]))
        sums: list[Tensor | None] = []

        def part(dy_nD: Tensor, at: slice) -> Tensor:
            (h_nD, rstd_n1, norm_D, inner_nS, e_nF, g_nF, inner_down_nR), shape = saved[:7], ctx.shape.at(at)
            del saved[:7]
            kept = Kept(h_nD, rstd_n1, norm_D)
            if e_nF is None:
                made = blocks.mlp_again(kept, linears, shape)
            else:
                made = MlpSaved(kept, inner_nS, e_nF, g_nF, inner_down_nR)
            grads = blocks.mlp_backward(made, dy_nD, linears, shape, need)
            _add(sums, [grads.norm_D, *_flat_grads(grads.linears)], many=len(ctx.parts) > 1)
            return grads.h_ND

        dh_ND = _by_parts(dy_ND, ctx.parts, part)
        return (None, None, None, dh_ND if need_h else None, *sums)


class _Recomputed(torch.autograd.Function):
    """Both times with gradients enabled, because what is tracked may run other kernels than what is not."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Tensor, bool], Tensor], parameters: Sequence[Tensor], h_ND: Tensor, *_: Tensor
    ) -> Tensor:
        ctx.run, ctx.parameters = run, parameters
        ctx.save_for_backward(h_ND)
        # What is tracked here is let go at once: whoever moves what is kept away has no business with it.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
            return run(h_ND.detach().requires_grad_(ctx.needs_input_grad[2]), False).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        (h_ND,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            h_ND = h_ND.detach().requires_grad_(wanted[0])
            y_ND = ctx.run(h_ND, True)
        inputs = [each for each, want in zip((h_ND, *ctx.parameters), wanted, strict=True) if want]
        found = iter(torch.autograd.grad(y_ND, inputs, dy_ND, allow_unused=True))
        return (None, None, *(next(found) if want else None for want in wanted))


def _parts(h_ND: Tensor, linears: Sequence[Linear]) -> list[slice]:
    """The rows that an MLP works on at once. linears: down the last of them."""
    each = sizes.mlp_rows(len(h_ND), linears[-1].weight_OI.shape[1], h_ND.element_size())
    return [slice(first, first + each) for first in range(0, len(h_ND), each)] or [slice(0, 0)]


def _rows(x_ND: Tensor, at: slice) -> Tensor:
    """Some of the rows; all of them are the tensor itself."""
    return x_ND if at.start == 0 and at.stop >= len(x_ND) else x_ND[at]


def _by_parts(x_ND: Tensor, parts: Sequence[slice], make: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """What is made of each part, as one tensor like `x_ND`; no two parts' work is there at once."""
    if len(parts) == 1:
        return make(x_ND, parts[0])
    y_ND = torch.empty_like(x_ND)
    for at in parts:
        y_ND[at] = make(x_ND[at], at)
    return y_ND


def _add(sums: list[Tensor | None], found: Sequence[Tensor | None], *, many: bool) -> None:
    """Add gradients of weights to those of the parts before; of several parts, in float32 at least."""
    if many:
        found = [None if each is None else each.to(norm.wide(each.dtype)) for each in found]
    if not sums:
        sums.extend(found)
        return
    for total, each in zip(sums, found, strict=True):
        if total is not None and each is not None:
            total.add_(each)


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(pieces)) if len(pieces) > 1 else pieces[0]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _tracked(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _flat(linears: Sequence[Linear]) -> tuple[list[Tensor | None], Fixed]:
    """All tensors of the projections in a row, and the rest."""
    tensors, fixed = [], []
    for each in linears:
        weight_OI, other = (each.weight_OI, None) if isinstance(each.weight_OI, Tensor) else (None, each.weight_OI)
        tensors += [weight_OI, each.bias_O, each.a_RI, each.b_OR]
        fixed.append((each.scale, other, each.spans, each.packed))
    return tensors, tuple(fixed)


def _linears(flat: Sequence[Tensor | None], fixed: Fixed, dtype: torch.dtype | None = None) -> list[Linear]:
    """The projections, their base weights in `dtype` (None: as they are); adapters are cast where they are used, and
    weights in fewer bytes where they are multiplied with."""
    linears = []
    for index, (scale, other, spans, packed) in enumerate(fixed):
        weight_OI, bias_O, a_RI, b_OR = flat[index * PARAMETERS : (index + 1) * PARAMETERS]
        if dtype is not None:
            weight_OI = None if weight_OI is None else weight_OI.to(dtype)
            bias_O = None if bias_O is None else bias_O.to(dtype)
        weight = weight_OI if weight_OI is not None else other
        assert weight is not None, "a projection has a weight"
        linears.append(Linear(weight, bias_O, a_RI, b_OR, scale, spans, packed))
    return linears


def _needs(wanted: Sequence[bool]) -> tuple[Need, ...]:
    return tuple(Need(*wanted[start : start + PARAMETERS]) for start in range(0, len(wanted), PARAMETERS))


def _flat_grads(grads: Sequence[Grads]) -> list[Tensor | None]:
    return [tensor for each in grads for tensor in each]
