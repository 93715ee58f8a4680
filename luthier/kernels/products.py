"""Products of rows with a weight, by whichever library multiplies float32 matrices faster on this CPU.

What goes in: rows and a weight, or rows and rows. What comes out: x W^T, x W, or the sum of outer products. torch asks
MKL for float32, which on an AMD processor takes 2.2 times as long as oneDNN (100 against 225 GFLOP/s on one core, 512
and 1744 rows, 576 x 576 to 1536 x 576, also where the weight is transposed; sums of outer products 105 against 190).
Elsewhere that is not known, so it is measured when a run starts, and `plan.json` holds what was chosen, because bits
depend on it. In bfloat16 torch asks oneDNN itself.

Shape legend: N rows, I in, O out.
"""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Library = Literal["torch", "onednn"]
WORTH = 1.25
"""How much faster oneDNN has to be, so that noise does not choose where the two are alike."""
ROWS, WIDTH, REPEATS = 512, 1024, 7

_library: Library = "torch"


def use(library: Library) -> None:
    """From here on, in this process."""
    global _library
    _library = library


def can() -> bool:
    return bool(torch._C._has_mkldnn)


def measured() -> tuple[Library, str]:
    """The faster one on this machine, and what was measured."""
    if not can():
        return "torch", "this torch has no oneDNN"
    x_NI, weight_OI = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    # By turns, each with the one beside it: what else the machine does comes and goes, and mostly slows both.
    pairs = [[_seconds(each, x_NI, weight_OI) for each in (False, True)] for _ in range(REPEATS + 1)]
    del pairs[0]  # it warms up
    rates = [2 * ROWS * WIDTH * WIDTH / min(each) / 1e9 for each in zip(*pairs, strict=True)]
    said = "float32 matmul GFLOP/s: torch {:.0f}, oneDNN {:.0f}".format(*rates)
    gain = statistics.median(torch_s / onednn_s for torch_s, onednn_s in pairs)
    return ("onednn" if gain > WORTH else "torch"), said


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, residual_NO: Tensor | None = None) -> Tensor:
    """x W^T + bias + residual, [N, O]."""
    if _applies(x_NI, weight_OI):
        y_NO = _onednn(x_NI, weight_OI, bias_O)
        return y_NO if residual_NO is None else y_NO.add_(residual_NO)
    if residual_NO is None:
        return F.linear(x_NI, weight_OI, bias_O)
    y_NO = torch.addmm(residual_NO, x_NI, weight_OI.T)
    return y_NO if bias_O is None else y_NO.add_(bias_O)


def back(dy_NO: Tensor, weight_OI: Tensor, added_NI: Tensor | None = None) -> Tensor:
    """dy W, [N, I]; written onto what is there already, where that is given."""
    if _applies(dy_NO, weight_OI):
        dx_NI = _onednn(dy_NO, weight_OI.T, None)
        return dx_NI if added_NI is None else added_NI.add_(dx_NI)
    return dy_NO @ weight_OI if added_NI is None else added_NI.addmm_(dy_NO, weight_OI)


def outer(dy_NO: Tensor, x_NI: Tensor) -> Tensor:
    """dy^T x, [O, I]."""
    return _onednn(dy_NO.T, x_NI.T, None) if _applies(dy_NO, x_NI) else dy_NO.T @ x_NI


def _applies(x_NI: Tensor, weight_OI: Tensor) -> bool:
    return _library == "onednn" and x_NI.dtype == weight_OI.dtype == torch.float32 and x_NI.device.type == "cpu"


def _onednn(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    tensors = [None if each is None else each.detach() for each in (x_NI, weight_OI, bias_O)]
    return torch.ops.mkldnn._linear_pointwise(*tensors, "none", [], "")  # type: ignore[no-any-return]


def _seconds(onednn: bool, x_NI: Tensor, weight_OI: Tensor) -> float:
    begun = time.perf_counter()
    _onednn(x_NI, weight_OI, None) if onednn else F.linear(x_NI, weight_OI)
    return time.perf_counter() - begun
