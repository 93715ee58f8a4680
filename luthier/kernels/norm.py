"""RMS normalisation, forward and backward, element-wise in at least float32.

What goes in: rows in the compute dtype. What comes out: normalised rows, or the gradients of rows and weight, from the
input and its reciprocal root mean square alone: normalised rows are formed again in the backward pass, never stored.

Rows are worked on in tiles that stay in a core's cache.

Shape legend: N rows, D features (x may have further dimensions between them, such as heads).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from luthier.kernels.tiles import tiles


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and softmaxes: float32, or float64 where the compute dtype is."""
    return torch.promote_types(dtype, torch.float32)


def reciprocal_rms(x_ND: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps), [N, 1] in `wide`."""
    norm_N1: Tensor = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=wide(x_ND.dtype))
    return norm_N1.square_().mul_(1 / x_ND.shape[-1]).add_(eps).rsqrt_()


def forward(x_ND: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normalised rows, and their reciprocal root mean squares."""
    rstd_N1 = reciprocal_rms(x_ND, eps)
    return normalise(x_ND, rstd_N1, weight_D), rstd_N1


def normalise(x_ND: Tensor, rstd_N1: Tensor, weight_D: Tensor) -> Tensor:
    """x * rstd * weight in the dtype of x."""
    y_ND = torch.empty_like(x_ND, memory_format=torch.contiguous_format)
    weight_D = weight_D.to(rstd_N1.dtype)
    for rows, (scaled,) in _tiles(x_ND, rstd_N1.dtype, 1):
        scaled.copy_(x_ND[rows]).mul_(rstd_N1[rows]).mul_(weight_D)
        y_ND[rows] = scaled
    return y_ND


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
    dx_ND = torch.empty_like(x_ND, memory_format=torch.contiguous_format)
    weight_D = weight_D.to(rstd_N1.dtype)
    dweight_D = torch.zeros_like(weight_D) if need_dweight else None
    for rows, (xhat, g, result) in _tiles(x_ND, rstd_N1.dtype, 3):
        xhat.copy_(x_ND[rows]).mul_(rstd_N1[rows])
        g.copy_(dy_ND[rows])
        torch.mul(g, xhat, out=result)
        if dweight_D is not None:
            dweight_D += result.flatten(0, -2).sum(0)
        mean = (result @ weight_D).mul_(1 / x_ND.shape[-1]).unsqueeze(-1)
        torch.mul(g, weight_D, out=result).addcmul_(xhat, mean, value=-1).mul_(rstd_N1[rows])
        dx_ND[rows] = result if residual_ND is None else result.add_(g.copy_(residual_ND[rows]))
    return dx_ND, dweight_D


def _tiles(x_ND: Tensor, dtype: torch.dtype, count: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Tiles of rows, each with `count` buffers of its shape that are the same memory every time."""
    row_bytes = x_ND[:1].numel() * dtype.itemsize
    buffers: tuple[Tensor, ...] = ()
    for rows in tiles(len(x_ND), max(row_bytes, 1), x_ND.device):
        size = rows.stop - rows.start
        if not buffers or len(buffers[0]) < size:
            shape = (size, *x_ND.shape[1:])
            buffers = tuple(torch.empty(shape, dtype=dtype, device=x_ND.device) for _ in range(count))
        yield rows, tuple(buffer[:size] for buffer in buffers)
