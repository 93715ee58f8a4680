"""Frozen weights laid out as oneDNN multiplies with them, for passes of few rows on a CPU.

What goes in: a weight. What comes out: a copy of it in blocks, and products with that. A generated token reads every
weight for a handful of rows; laid out anew for each product, as torch does it, that takes 1.6 times as long (bf16, 8
rows, 576 x 1536 to 896 x 151936, AMX; the same bits) and in float32, where torch asks MKL, 2.4 times on an AMD core
(the same up to rounding).

Shape legend: N rows, I in, O out.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW_ROWS = 8
"""The layout is chosen for so many rows; it serves 512 as well as the plain weight does."""


def can(weight_OI: Tensor) -> bool:
    """Whether such a weight can be packed on this machine."""
    if weight_OI.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight_OI.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight_OI.dtype == torch.float32


def pack(weight_OI: Tensor) -> Tensor:
    """As many bytes again as the weight has."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), FEW_ROWS)  # type: ignore[no-any-return]


def linear(x_NI: Tensor, packed: Tensor, bias_O: Tensor | None = None, residual_NO: Tensor | None = None) -> Tensor:
    """x W^T + bias, [N, O]; with the residual added before the sum is rounded."""
    if residual_NO is None:
        return torch.ops.mkldnn._linear_pointwise(x_NI, packed, bias_O, "none", [], "")  # type: ignore[no-any-return]
    y_NO: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_NI, residual_NO, packed, None, "add")
    return y_NO if bias_O is None else y_NO.add_(bias_O)
