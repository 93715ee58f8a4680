"""Attention of all segments of a batch in one call of torch's FlashAttention for rows of unequal length (CUDA, half
precision).

What goes in: queries, keys and values of all tokens, and runs of queries. What comes out: attended values; in the
backward pass the gradients. A run is consecutive queries that lie behind one another in one list of keys, the last of
them at its end: a document; a segment behind its ancestors; the part of either that a window reaches; the scored rows
of one answer. The kernel aligns the last query with the last key, so each sees the keys up to its own. Lists that
several runs share (a common prompt) are laid out once per run; queries are not, and neither copy is kept: the backward
pass makes it again.

The kernel is called below `torch.nn.attention.varlen`, whose signature differs from one version of torch to the next
and which has no deterministic backward pass under `warn_only`; the operations beneath it have stayed the same since
torch 2.5.

Shape legend: U queries, N keys, H heads, K key/value heads, E features per head, L rows of all lists, R runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from luthier.batch import Ints
from luthier.kernels import reference
from luthier.kernels.host import to_device
from luthier.kernels.norm import wide

MIN_CAPABILITY = (8, 0)
MAX_WIDTH, WIDTH_STEP = 256, 8
"""Features of a head that the kernel takes: at most so many, and a multiple of that."""
PROBE_BOUND = 0.02
"""Error of the probe, over the largest magnitude: a few roundings to bfloat16 (2^-8 each)."""


@dataclass(frozen=True)
class Runs:
    """bounds_q, bounds_k: where each run's queries and keys begin and end, [R + 1]. rows: of the keys, in the order of
    the lists, [L]; None where the lists are all keys in their own order."""

    bounds_q: Ints
    bounds_k: Ints
    rows: Ints | None

    def on(self, device: torch.device) -> DeviceRuns:
        queries, keys = (int(np.diff(bounds).max()) for bounds in (self.bounds_q, self.bounds_k))
        bounds_q, bounds_k = (to_device(each.astype(np.int32), device) for each in (self.bounds_q, self.bounds_k))
        return DeviceRuns(
            bounds_q, bounds_k, queries, keys, None if self.rows is None else to_device(self.rows, device)
        )


class DeviceRuns(NamedTuple):
    """The same on the device, and the longest of each."""

    bounds_q: Tensor
    bounds_k: Tensor
    longest_q: int
    longest_k: int
    rows_L: Tensor | None


class Kept(NamedTuple):
    """What the forward kernel leaves for the backward kernel."""

    out_UHE: Tensor
    log_sums: Tensor
    random: Tensor
    unused: Tensor


class How(NamedTuple):
    """window: keys a query sees, itself included; None for all. scale: multiplier of q.k; None for 1/sqrt(E)."""

    window: int | None
    scale: float | None


def attend(q_UHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, runs: DeviceRuns, how: How) -> Tensor:
    """Attended values, [U, H, E], differentiable."""
    return cast(Tensor, _Attend.apply(q_UHE, k_NKE, v_NKE, runs, how))  # type: ignore[no-untyped-call]


def refusal(dtype: torch.dtype, width: int | None = None) -> str | None:
    """Why the kernel cannot be used on the CUDA device; None where it can. width: of a head, where it is known."""
    if dtype not in (torch.bfloat16, torch.float16):
        return "FlashAttention takes half precision only"
    if width is not None and (width > MAX_WIDTH or width % WIDTH_STEP):
        return f"FlashAttention does not take heads of {width} features"
    return _refused(dtype)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, runs: DeviceRuns, how: How) -> Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        kept = _forward(q, _listed(k, runs), _listed(v, runs), runs, how)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.runs, ctx.how = runs, how
        return kept.out_UHE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        runs = ctx.runs
        with _strictly_deterministic():
            dq, dk_LKE, dv_LKE = _backward(
                dout.contiguous(), (q, _listed(k, runs), _listed(v, runs)), Kept(*kept), runs, ctx.how
            )
        return dq, _summed(dk_LKE, k, runs), _summed(dv_LKE, v, runs), None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, runs: DeviceRuns, how: How) -> Kept:
    out, log_sums, random, unused, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, *runs[:4], 0.0, how.window is None, False, **_options(how)
    )
    return Kept(out, log_sums, random, unused)


def _backward(
    dout: Tensor, qkv: tuple[Tensor, Tensor, Tensor], kept: Kept, runs: DeviceRuns, how: How
) -> tuple[Tensor, Tensor, Tensor]:
    out, log_sums, random, unused = kept
    grads = torch.ops.aten._flash_attention_backward(
        dout, *qkv, out, log_sums, *runs[:4], 0.0, how.window is None, random, unused, **_options(how)
    )
    return cast(tuple[Tensor, Tensor, Tensor], grads)


def _options(how: How) -> dict[str, Any]:
    """The kernel's windows say how many keys before and behind a query's own it sees; -1 is all."""
    before = -1 if how.window is None else how.window - 1
    return {"scale": how.scale, "window_size_left": before, "window_size_right": 0}


def _listed(x_NKE: Tensor, runs: DeviceRuns) -> Tensor:
    return x_NKE if runs.rows_L is None else x_NKE[runs.rows_L]


def _summed(d_LKE: Tensor, like_NKE: Tensor, runs: DeviceRuns) -> Tensor:
    """A key's gradient is the sum of those of all lists that it stands in, in float32."""
    if runs.rows_L is None:
        return d_LKE
    sums_NKE = torch.zeros(like_NKE.shape, dtype=wide(d_LKE.dtype), device=d_LKE.device)
    return sums_NKE.index_add_(0, runs.rows_L, d_LKE.to(sums_NKE.dtype)).to(d_LKE.dtype)


@contextmanager
def _strictly_deterministic() -> Iterator[None]:
    """Where deterministic algorithms are asked for with a warning only, torch's FlashAttention takes the other ones."""
    strict = torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    if strict:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if strict:
            torch.use_deterministic_algorithms(True, warn_only=True)


@functools.cache
def _refused(dtype: torch.dtype) -> str | None:
    """Two documents and a segment behind the first, forward and backward, against the masked softmax in float32."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.cuda.get_device_capability() < MIN_CAPABILITY or not torch.backends.cuda.is_flash_attention_available():
        return "FlashAttention needs compute capability 8.0 and a torch that was built with it"
    bounds, parents = [0, 33, 70, 75], [-1, -1, 0]
    rows = np.array([*range(70), *range(33), *range(70, 75)])
    runs = Runs(np.array(bounds), np.array([0, 33, 70, 108]), rows).on(torch.device("cuda"))
    seen_NN = reference.seen(bounds[:-1], bounds[1:], parents, 20).to("cuda")
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(75, heads, 32, generator=generator).to("cuda", dtype) for heads in (4, 2, 2, 4)]
    results = []
    try:
        for exact in (False, True):
            q, k, v, dout = (x.to(torch.float32) if exact else x for x in given)
            q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
            out = reference.attention(q, k, v, seen_NN) if exact else attend(q, k, v, runs, How(20, None))
            results.append([out.detach(), *torch.autograd.grad(out, (q, k, v), dout)])
    except (
        AttributeError,
        RuntimeError,
        TypeError,
    ) as error:  # no such kernel, or with other arguments
        said = next(iter(str(error).strip().splitlines()), "")
        return f"FlashAttention does not work here: {type(error).__name__}: {said}"
    errors = [float((one.float() - other).abs().max() / other.abs().max()) for one, other in zip(*results, strict=True)]
    return None if max(errors) <= PROBE_BOUND else "FlashAttention computes wrongly here"
