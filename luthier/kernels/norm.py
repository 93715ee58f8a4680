"""RMS normalisation, forward and backward, element-wise in at least float32.

What goes in: rows in the compute dtype. What comes out: normalised rows, or the gradients of rows and weight, from the
input and its reciprocal root mean square alone: normalised rows are formed again in the backward pass, never stored.

Shape legend: N rows, D features (leading dimensions of any number are rows).
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and softmaxes: float32, or float64 where the compute dtype is."""
    return torch.promote_types(dtype, torch.float32)


def reciprocal_rms(x_ND: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), [N, 1] in `wide`."""
    norm_N1: Tensor = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=wide(x_ND.dtype))
    return norm_N1.square_().mul_(1 / x_ND.shape[-1]).add_(eps).rsqrt_()


def normalise(x_ND: Tensor, rstd_N1: Tensor, weight_D: Tensor) -> Tensor:
    """x * rstd * weight in the dtype of x."""
    return (x_ND.to(rstd_N1.dtype) * rstd_N1).mul_(weight_D).to(x_ND.dtype)


def backward(
    x_ND: Tensor,
    rstd_N1: Tensor,
    weight_D: Tensor,
    dy_ND: Tensor,
    need_dweight: bool,
    residual_ND: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the rows (plus `residual_ND`, the gradient that bypasses the norm) and of the weight.

    With xhat = x * rstd and g = dy * weight: dx = (g - xhat * mean(g * xhat)) * rstd.
    """
    xhat_ND = x_ND.to(rstd_N1.dtype) * rstd_N1
    g_ND = dy_ND.to(rstd_N1.dtype)
    product_ND = g_ND * xhat_ND
    dweight_D = product_ND.flatten(0, -2).sum(0) if need_dweight else None
    weight_D = weight_D.to(rstd_N1.dtype)
    mean_N1 = (product_ND @ weight_D).mul_(1 / x_ND.shape[-1]).unsqueeze(-1)
    torch.mul(g_ND, weight_D, out=product_ND)
    dx_ND = product_ND.addcmul_(xhat_ND, mean_N1, value=-1).mul_(rstd_N1)
    if residual_ND is not None:
        dx_ND += residual_ND
    return dx_ND.to(x_ND.dtype), dweight_D
