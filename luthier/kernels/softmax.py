"""The softmax of a chunk of logits: log-probabilities, entropies and the gradient, written over the logits.

What goes in: logits in the compute dtype. What comes out: float32 (or wider) figures per row; nothing of the chunk's
size is allocated.

Shape legend: C rows of a chunk, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from luthier.kernels.norm import wide
from luthier.kernels.tiles import tiles


def forward_(
    logits_CV: Tensor, targets_C: Tensor, coefficients_C: Tensor | None, logp_C: Tensor, entropy_C: Tensor | None
) -> None:
    """Fill in log-probabilities and entropies; with coefficients, overwrite the logits with the gradient
    c * (onehot - softmax)."""
    dtype = wide(logits_CV.dtype)
    for rows in tiles(len(logits_CV), logits_CV.shape[1] * dtype.itemsize, logits_CV.device):
        tile = logits_CV[rows].to(dtype)  # the same memory where the compute dtype is wide enough already
        target = targets_C[rows, None]
        tile -= tile.amax(-1, keepdim=True)
        at_target = tile.gather(1, target)
        mean_source = tile.clone() if entropy_C is not None else None
        tile.exp_()
        sum_ = tile.sum(-1, keepdim=True)
        log_sum = sum_.log()
        logp_C[rows] = (at_target - log_sum)[:, 0]
        if mean_source is not None:
            assert entropy_C is not None
            entropy_C[rows] = (log_sum - mean_source.mul_(tile).sum(-1, keepdim=True) / sum_)[:, 0]
        if coefficients_C is None:
            continue
        c = coefficients_C[rows, None].to(dtype)
        tile *= -c / sum_
        tile.scatter_add_(1, target, c)
        if tile.dtype != logits_CV.dtype:
            logits_CV[rows] = tile
