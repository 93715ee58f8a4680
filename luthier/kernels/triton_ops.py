"""Element-wise chains as one Triton kernel each, for CUDA devices: the only place that imports triton.

What goes in and what comes out: as the functions of the same name in `norm`, `rotary`, `gated` and `softmax` beside
this file, in tensors of the same shapes and dtypes. All arithmetic is float32 and rounds once, when it is stored, where
the plain chains round after every operation. Every sum has a fixed order, so the same input gives the same bits.

A gradient of the norm's weight is summed by at most `PARTS` programs, each over rows of its own, whose sums are then
added: no atomics. Rows of a norm lie in one block, so that what formed them in the forward pass forms them again to the
bit. The softmax reads its row twice and never holds a float32 copy of it.

With `TRITON_INTERPRET=1` in the environment when triton is first imported, the same kernels run on CPU tensors.

Shape legend: N rows, D features, H heads, E features per head, F MLP width, C rows of a chunk, V vocabulary; in
kernels R rows and B columns of a block.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.arch.spec import Rope

BLOCK = 4096
"""Elements of a block of rows, where one row is shorter. Chosen, not tuned: 16 to a thread."""
FLAT_BLOCK = 1024
PARTS = 512
"""Most partial sums of a weight's gradient; chosen as a few times the multiprocessors of the largest devices."""


# ------------------------------------------------------------------------------------------------------ RMSNorm


@triton.jit
def _norm_kernel(  # noqa: PLR0913
    x,
    rstd,
    weight,
    y,
    rows,
    width,
    eps,
    GIVEN: tl.constexpr,
    STORED: tl.constexpr,
    R: tl.constexpr,
    B: tl.constexpr,
):
    """GIVEN: the reciprocal is read, not made; STORED: normalised rows are wanted."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    column = tl.arange(0, B)
    here = (row[:, None] < rows) & (column[None, :] < width)
    place = row[:, None] * width + column[None, :]
    x_RB = tl.load(x + place, mask=here, other=0.0).to(tl.float32)
    if GIVEN:
        rstd_R = tl.load(rstd + row, mask=row < rows, other=0.0)
    else:
        rstd_R = tl.rsqrt(tl.sum(x_RB * x_RB, 1) / width + eps)
        tl.store(rstd + row, rstd_R, mask=row < rows)
    if STORED:
        weight_B = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
        y_RB = x_RB * rstd_R[:, None] * weight_B[None, :]
        tl.store(y + place, y_RB.to(y.dtype.element_ty), mask=here)


@triton.jit
def _norm_backward_kernel(  # noqa: PLR0913
    x,
    rstd,
    weight,
    dy,
    residual,
    dx,
    dweight,
    rows,
    width,
    BLOCKS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    DWEIGHT: tl.constexpr,
    R: tl.constexpr,
    B: tl.constexpr,
):
    """BLOCKS: of rows, that one program works on. dweight: one row of sums per program."""
    column = tl.arange(0, B)
    weight_B = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    dweight_B = tl.zeros([B], dtype=tl.float32)
    for block in range(BLOCKS):
        row = (tl.program_id(0).to(tl.int64) * BLOCKS + block) * R + tl.arange(0, R)
        here = (row[:, None] < rows) & (column[None, :] < width)
        place = row[:, None] * width + column[None, :]
        rstd_R1 = tl.load(rstd + row, mask=row < rows, other=0.0)[:, None]
        xhat_RB = tl.load(x + place, mask=here, other=0.0).to(tl.float32) * rstd_R1
        dy_RB = tl.load(dy + place, mask=here, other=0.0).to(tl.float32)
        if DWEIGHT:
            dweight_B += tl.sum(dy_RB * xhat_RB, 0)
        g_RB = dy_RB * weight_B[None, :]
        mean_R = tl.sum(g_RB * xhat_RB, 1) / width
        dx_RB = (g_RB - xhat_RB * mean_R[:, None]) * rstd_R1
        if RESIDUAL:
            dx_RB += tl.load(residual + place, mask=here, other=0.0).to(tl.float32)
        tl.store(dx + place, dx_RB.to(dx.dtype.element_ty), mask=here)
    if DWEIGHT:
        tl.store(dweight + tl.program_id(0) * width + column, dweight_B, mask=column < width)


def reciprocal_rms(x_ND: Tensor, eps: float) -> Tensor:
    x_ND = x_ND.contiguous()
    rstd_N1 = _one_per_row(x_ND)
    _launch_norm(x_ND, rstd_N1, None, None, eps, given=False)
    return rstd_N1


def norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x_ND = x_ND.contiguous()
    rstd_N1, y_ND = _one_per_row(x_ND), torch.empty_like(x_ND)
    _launch_norm(x_ND, rstd_N1, weight_D, y_ND, eps, given=False)
    return y_ND, rstd_N1


def normalise(x_ND: Tensor, rstd_N1: Tensor, weight_D: Tensor) -> Tensor:
    x_ND = x_ND.contiguous()
    y_ND = torch.empty_like(x_ND)
    _launch_norm(x_ND, rstd_N1, weight_D, y_ND, 0.0, given=True)
    return y_ND


def norm_backward(
    x_ND: Tensor,
    rstd_N1: Tensor,
    weight_D: Tensor,
    dy_ND: Tensor,
    need_dweight: bool,
    residual_ND: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    x_ND, dy_ND = x_ND.contiguous(), dy_ND.contiguous()
    residual_ND = None if residual_ND is None else residual_ND.contiguous()
    dx_ND = torch.empty_like(x_ND)
    rows, width, height, blocks = _blocks(x_ND)
    # a power of two, because each number of its own would be a kernel of its own
    each = triton.next_power_of_2(max(triton.cdiv(blocks, PARTS), 1)) if need_dweight else 1
    programs = triton.cdiv(blocks, each)
    parts_PD = torch.empty((programs, width), dtype=torch.float32, device=x_ND.device) if need_dweight else None
    if rows:
        _norm_backward_kernel[(programs,)](
            x_ND,
            rstd_N1,
            weight_D,
            dy_ND,
            residual_ND,
            dx_ND,
            parts_PD,
            rows,
            width,
            BLOCKS=each,
            RESIDUAL=residual_ND is not None,
            DWEIGHT=need_dweight,
            R=height,
            B=triton.next_power_of_2(width),
            num_warps=_warps(width),
        )
    return dx_ND, None if parts_PD is None else parts_PD.sum(0)


def _launch_norm(
    x_ND: Tensor, rstd_N1: Tensor, weight_D: Tensor | None, y_ND: Tensor | None, eps: float, given: bool
) -> None:
    rows, width, height, blocks = _blocks(x_ND)
    if rows:
        _norm_kernel[(blocks,)](
            x_ND,
            rstd_N1,
            weight_D,
            y_ND,
            rows,
            width,
            eps,
            GIVEN=given,
            STORED=y_ND is not None,
            R=height,
            B=triton.next_power_of_2(width),
            num_warps=_warps(width),
        )


def _one_per_row(x_ND: Tensor) -> Tensor:
    return torch.empty((*x_ND.shape[:-1], 1), dtype=torch.float32, device=x_ND.device)


def _blocks(x_ND: Tensor) -> tuple[int, int, int, int]:
    """Rows in all, their width, rows of a block, and blocks."""
    width = x_ND.shape[-1]
    rows = x_ND.numel() // width
    height = max(BLOCK // triton.next_power_of_2(width), 1)
    return rows, width, height, triton.cdiv(rows, height)


def _warps(width: int) -> int:
    return 4 if width <= BLOCK else 8 if width <= 2 * BLOCK else 16


# ------------------------------------------------------------------------------------------------------- rotary


@triton.jit
def _turn(  # noqa: PLR0913
    x,
    y,
    cos_E,
    sin_E,
    row,
    column,
    partner,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BH: tl.constexpr,
):
    """All heads of one row."""
    for first in range(0, HEADS, BH):
        head = first + tl.arange(0, BH)
        here = (head[:, None] < HEADS) & (column[None, :] < WIDTH)
        start = (row * HEADS + head)[:, None] * WIDTH
        x_HE = tl.load(x + start + column[None, :], mask=here, other=0.0).to(tl.float32)
        swapped_HE = tl.load(x + start + partner[None, :], mask=here, other=0.0).to(tl.float32)
        y_HE = x_HE * cos_E[None, :] + swapped_HE * sin_E[None, :]
        tl.store(y + start + column[None, :], y_HE.to(y.dtype.element_ty), mask=here)


@triton.jit
def _rotate_kernel(  # noqa: PLR0913
    x,
    y,
    other_x,
    other_y,
    cos,
    sin,
    HEADS: tl.constexpr,
    OTHER_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    ADJOINT: tl.constexpr,
    BH: tl.constexpr,
    BE: tl.constexpr,
):
    """One program per row. partner: the other feature of each one's pair; its own place where it has none."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BE)
    if INTERLEAVED:
        partner = tl.where(column < 2 * PAIRS, column ^ 1, column)
    else:
        partner = tl.where(column < 2 * PAIRS, tl.where(column < PAIRS, column + PAIRS, column - PAIRS), column)
    here = column < WIDTH
    cos_E = tl.load(cos + row * WIDTH + column, mask=here, other=0.0).to(tl.float32)
    if ADJOINT:
        sin_E = tl.load(sin + row * WIDTH + partner, mask=here, other=0.0).to(tl.float32)
    else:
        sin_E = tl.load(sin + row * WIDTH + column, mask=here, other=0.0).to(tl.float32)
    _turn(x, y, cos_E, sin_E, row, column, partner, HEADS, WIDTH, BH)
    if OTHER_HEADS > 0:
        _turn(other_x, other_y, cos_E, sin_E, row, column, partner, OTHER_HEADS, WIDTH, BH)


def rotate(
    heads: Sequence[Tensor], cos_NE: Tensor, sin_NE: Tensor, rope: Rope, adjoint: bool = False
) -> tuple[Tensor, ...]:
    """One or two tensors [N, H, E] whose rows have the same angles, in one launch."""
    given = [x_NHE.contiguous() for x_NHE in heads]
    made = [torch.empty_like(x_NHE) for x_NHE in given]
    rows, width = cos_NE.shape
    if rows:
        counts = [x_NHE.shape[1] for x_NHE in given]
        block_e = triton.next_power_of_2(width)
        block_h = min(triton.next_power_of_2(max(counts)), max(BLOCK // block_e, 1))
        _rotate_kernel[(rows,)](
            given[0],
            made[0],
            given[-1],
            made[-1],
            cos_NE.contiguous(),
            sin_NE.contiguous(),
            HEADS=counts[0],
            OTHER_HEADS=counts[1] if len(counts) > 1 else 0,
            WIDTH=width,
            PAIRS=rope.dim // 2,
            INTERLEAVED=rope.interleaved,
            ADJOINT=adjoint,
            BH=block_h,
            BE=block_e,
        )
    return tuple(made)


# --------------------------------------------------------------------------------------------------------- gate


@triton.jit
def _activate(e, ACT: tl.constexpr):
    """act(e) and its derivative. The tanh of GELU's approximation is written as a sigmoid: (1 + tanh(u)) / 2 is
    sigmoid(2 u)."""
    if ACT == "silu":
        share = tl.sigmoid(e)
        slope = share * (1.0 + e * (1.0 - share))
    elif ACT == "gelu":
        share = 0.5 * (1.0 + tl.erf(e * 0.7071067811865476))
        slope = share + e * tl.exp(-0.5 * e * e) * 0.3989422804014327  # 1 / sqrt(2 pi)
    else:
        twice = 1.5957691216057308 * (e + 0.044715 * e * e * e)  # 2 sqrt(2 / pi)
        share = tl.sigmoid(twice)
        slope = share + e * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * e * e)
    return e * share, slope


@triton.jit
def _gated_kernel(e, g, m, count, ACT: tl.constexpr, B: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    here = place < count
    a_B, _ = _activate(tl.load(e + place, mask=here, other=0.0).to(tl.float32), ACT)
    m_B = a_B * tl.load(g + place, mask=here, other=0.0).to(tl.float32)
    tl.store(m + place, m_B.to(m.dtype.element_ty), mask=here)


@triton.jit
def _gated_backward_kernel(dm, e, g, dg, count, ACT: tl.constexpr, B: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    here = place < count
    a_B, slope_B = _activate(tl.load(e + place, mask=here, other=0.0).to(tl.float32), ACT)
    dm_B = tl.load(dm + place, mask=here, other=0.0).to(tl.float32)
    g_B = tl.load(g + place, mask=here, other=0.0).to(tl.float32)
    tl.store(dg + place, (dm_B * a_B).to(dg.dtype.element_ty), mask=here)
    tl.store(dm + place, (dm_B * g_B * slope_B).to(dm.dtype.element_ty), mask=here)


def gated(e_NF: Tensor, g_NF: Tensor, act: str) -> Tensor:
    e_NF, g_NF = e_NF.contiguous(), g_NF.contiguous()
    m_NF = torch.empty_like(e_NF)
    if count := e_NF.numel():
        _gated_kernel[(triton.cdiv(count, FLAT_BLOCK),)](e_NF, g_NF, m_NF, count, ACT=act, B=FLAT_BLOCK)
    return m_NF


def gated_again(e_NF: Tensor, g_NF: Tensor, act: str, need_product: bool) -> tuple[Tensor | None, Tensor | None]:
    """The backward kernel forms the activation itself."""
    return None, gated(e_NF, g_NF, act) if need_product else None


def gated_backward(dm_NF: Tensor, e_NF: Tensor, g_NF: Tensor, a_NF: Tensor | None, act: str) -> tuple[Tensor, Tensor]:
    dm_NF, e_NF, g_NF = dm_NF.contiguous(), e_NF.contiguous(), g_NF.contiguous()
    dg_NF = torch.empty_like(dm_NF)
    if count := dm_NF.numel():
        grid = (triton.cdiv(count, FLAT_BLOCK),)
        _gated_backward_kernel[grid](dm_NF, e_NF, g_NF, dg_NF, count, ACT=act, B=FLAT_BLOCK)
    return dm_NF, dg_NF


# ------------------------------------------------------------------------------------------------------ softmax


@triton.jit
def _softmax_kernel(  # noqa: PLR0913
    logits,
    targets,
    coefficients,
    logp,
    entropy,
    stride,
    VOCABULARY: tl.constexpr,
    ENTROPY: tl.constexpr,
    GRADIENT: tl.constexpr,
    B: tl.constexpr,
):
    """One program per row. Each lane of the block keeps, of the columns that fall to it, a maximum m, the sum of
    exp(x - m) and, for the entropy, that of (x - m) exp(x - m); they are brought together at the end. With x itself in
    place of x - m a small entropy would be the difference of large numbers."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    lane = tl.arange(0, B)
    highest_B = tl.full([B], -3.4e38, dtype=tl.float32)  # finite: -inf - -inf is not a number
    sum_B = tl.zeros([B], dtype=tl.float32)
    mean_B = tl.zeros([B], dtype=tl.float32)
    for first in range(0, VOCABULARY, B):
        here = first + lane < VOCABULARY
        x_B = tl.load(logits + first + lane, mask=here, other=-3.4e38).to(tl.float32)
        now_B = tl.maximum(highest_B, x_B)
        shrink_B, weight_B = tl.exp(highest_B - now_B), tl.where(here, tl.exp(x_B - now_B), 0.0)
        if ENTROPY:
            mean_B = (mean_B + (highest_B - now_B) * sum_B) * shrink_B + (x_B - now_B) * weight_B
        sum_B = sum_B * shrink_B + weight_B
        highest_B = now_B
    highest = tl.max(highest_B, 0)
    shrink_B = tl.exp(highest_B - highest)
    sum_ = tl.sum(sum_B * shrink_B, 0)
    log_sum = tl.log(sum_)
    target = tl.load(targets + row)
    tl.store(logp + row, tl.load(logits + target).to(tl.float32) - highest - log_sum)
    if ENTROPY:
        mean = tl.sum((mean_B + (highest_B - highest) * sum_B) * shrink_B, 0) / sum_
        tl.store(entropy + row, log_sum - mean)
    if GRADIENT:
        coefficient = tl.load(coefficients + row).to(tl.float32)
        for first in range(0, VOCABULARY, B):
            here = first + lane < VOCABULARY
            x_B = tl.load(logits + first + lane, mask=here, other=-3.4e38).to(tl.float32)
            p_B = tl.exp(x_B - highest) / sum_
            d_B = coefficient * (tl.where(first + lane == target, 1.0, 0.0) - p_B)
            tl.store(logits + first + lane, d_B.to(logits.dtype.element_ty), mask=here)


def softmax_(
    logits_CV: Tensor, targets_C: Tensor, coefficients_C: Tensor | None, logp_C: Tensor, entropy_C: Tensor | None
) -> None:
    assert logits_CV.stride(1) == 1
    rows, vocabulary = logits_CV.shape
    if rows:
        _softmax_kernel[(rows,)](
            logits_CV,
            targets_C,
            coefficients_C,
            logp_C,
            entropy_C,
            logits_CV.stride(0),
            VOCABULARY=vocabulary,
            ENTROPY=entropy_C is not None,
            GRADIENT=coefficients_C is not None,
            B=min(triton.next_power_of_2(vocabulary), BLOCK),
            num_warps=8,
        )
