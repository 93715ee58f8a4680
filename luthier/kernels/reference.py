"""The truth of every operation, in the plainest torch there is.

What goes in: the tensors of one operation. What comes out: its result as autograd and textbook formulas give it. The
fast kernels beside this file are tested against it, forward and backward.

Shape legend: N flat tokens, M scored rows, D hidden, I in, O out, R rank, H heads, K key/value heads, E features per
head, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    return x_ND * torch.rsqrt(x_ND.pow(2).mean(-1, keepdim=True) + eps) * weight_D


def rotate(x_NHE: Tensor, cos_NF: Tensor, sin_NF: Tensor, interleaved: bool) -> Tensor:
    """Turn each pair of the first 2 F features by its angle (Su et al. 2021, arXiv 2104.09864)."""
    half = cos_NF.shape[-1]
    turned, rest = x_NHE[..., : 2 * half], x_NHE[..., 2 * half :]
    pairs = turned.reshape(*turned.shape[:-1], *((half, 2) if interleaved else (2, half)))
    first, second = pairs.unbind(-1 if interleaved else -2)
    cos, sin = cos_NF[:, None], sin_NF[:, None]
    parts = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat((torch.stack(parts, -1 if interleaved else -2).flatten(-2), rest), -1)


def linear(
    x_NI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    a_RI: Tensor | None,
    b_OR: Tensor | None,
    scale: float,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """W x + b + scale * B A (dropped x) (Hu et al. 2021, arXiv 2106.09685); `keep_NI` is 0 or 1/(1-p)."""
    y_NO = x_NI @ weight_OI.T
    if bias_O is not None:
        y_NO = y_NO + bias_O
    if a_RI is not None and b_OR is not None:
        dropped_NI = x_NI if keep_NI is None else x_NI * keep_NI
        y_NO = y_NO + scale * (dropped_NI @ a_RI.T @ b_OR.T)
    return y_NO


def gated(e_NF: Tensor, g_NF: Tensor, act: str) -> Tensor:
    """act(e) * g (Shazeer 2020, arXiv 2002.05202)."""
    if act == "silu":
        return e_NF * torch.sigmoid(e_NF) * g_NF
    if act == "gelu":
        return 0.5 * e_NF * (1 + torch.erf(e_NF / math.sqrt(2))) * g_NF
    assert act == "gelu_tanh", act
    inner_NF = math.sqrt(2 / math.pi) * (e_NF + 0.044715 * e_NF**3)  # constants of Hendrycks and Gimpel, 1606.08415
    return 0.5 * e_NF * (1 + torch.tanh(inner_NF)) * g_NF


def attention(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, seen_NN: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale) v over the keys that `seen_NN` (bool) allows each query; returns [N, H, E]."""
    repeats = q_NHE.shape[1] // k_NKE.shape[1]
    k_NHE, v_NHE = k_NKE.repeat_interleave(repeats, 1), v_NKE.repeat_interleave(repeats, 1)
    scale = q_NHE.shape[-1] ** -0.5 if scale is None else scale
    scores_HNN = torch.einsum("nhe,mhe->hnm", q_NHE, k_NHE) * scale
    weights_HNN = scores_HNN.masked_fill(~seen_NN, -torch.inf).softmax(-1)
    return torch.einsum("hnm,mhe->nhe", weights_HNN, v_NHE)


def seen(start: list[int], end: list[int], parent: list[int], window: int | None) -> Tensor:
    """Which keys each row may see, bool [N, N]: its own segment up to itself and its ancestors, within the window."""
    count = end[-1]
    allowed_NN = torch.zeros(count, count, dtype=torch.bool)
    for segment in range(len(start)):
        path = [segment]
        while parent[path[-1]] >= 0:
            path.append(parent[path[-1]])
        rows = [row for each in reversed(path) for row in range(start[each], end[each])]
        for place, row in enumerate(rows):
            if row < start[segment]:
                continue
            lowest = 0 if window is None else max(place - window + 1, 0)
            allowed_NN[row, rows[lowest : place + 1]] = True
    return allowed_NN


def log_probability(x_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
    """log softmax(W x) at the target, [M]."""
    return torch.log_softmax(x_MD @ weight_VD.T, -1).gather(1, targets_M[:, None])[:, 0]


def entropy(x_MD: Tensor, weight_VD: Tensor) -> Tensor:
    """-sum p log p of softmax(W x), in nats, [M]."""
    logp_MV = torch.log_softmax(x_MD @ weight_VD.T, -1)
    return -(logp_MV.exp() * logp_MV).sum(-1)


def mix(value: int) -> int:
    """The 32-bit mixer `lowbias32` of Chris Wellons ("Prospecting for Hash Functions", nullprogram.com, 2018)."""
    value ^= value >> 16
    value = value * 0x7FEB352D & 0xFFFFFFFF
    value ^= value >> 15
    value = value * 0x846CA68B & 0xFFFFFFFF
    return value ^ value >> 16


def dropped(seed: int, step: int, site: int, key: int, feature: int, threshold: int) -> bool:
    """Whether dropout removes one feature of one token: 16 bits of its hash, read as a signed number, lie among the
    `threshold` lowest of 65536."""
    where = mix(mix(mix(seed & 0xFFFFFFFF) ^ step & 0xFFFFFFFF) ^ site)
    token = mix(mix(key & 0xFFFFFFFF) ^ key >> 32 & 0xFFFFFFFF)
    word = mix(mix(token ^ where) + mix(feature // 2) & 0xFFFFFFFF)
    bits = word >> 16 * (feature % 2) & 0xFFFF
    return bits - (bits >> 15 << 16) < threshold - 32768
