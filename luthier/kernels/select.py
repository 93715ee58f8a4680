"""Which implementation of each operation is used on a device, and why.

What goes in: a device. What comes out: a `Choice` that names one implementation per operation with its reason, which
the plan of a run records; and the element-wise chains themselves, as one table (`Chains`) that everything else calls.

Triton's kernels are taken on a CUDA device where one of them has been run there and gave what the plain chain gives;
triton is not imported anywhere else. Why not, where not, is the reason in the table.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from luthier.arch.spec import DecoderSpec, Rope
from luthier.kernels import chained, flash, gated, norm, rotary, softmax, swept

Which = Literal["torch", "triton", "compiled"]


class Chains(NamedTuple):
    """The element-wise chains of a decoder: signatures and meaning as in `norm`, `rotary`, `gated` and `softmax`."""

    reciprocal_rms: Callable[[Tensor, float], Tensor]
    norm: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    normalise: Callable[[Tensor, Tensor, Tensor], Tensor]
    norm_backward: Callable[..., tuple[Tensor, Tensor | None]]
    rotate: Callable[[Sequence[Tensor], Tensor, Tensor, Rope, bool], tuple[Tensor, ...]]
    gated: Callable[[Tensor, Tensor, str], Tensor]
    gated_again: Callable[[Tensor, Tensor, str, bool], tuple[Tensor | None, Tensor | None]]
    gated_backward: Callable[[Tensor, Tensor, Tensor, Tensor | None, str], tuple[Tensor, Tensor]]
    softmax_: Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor | None], None]


PLAIN = Chains(
    norm.reciprocal_rms,
    norm.forward,
    norm.normalise,
    norm.backward,
    rotary.rotate_all,
    gated.forward,
    gated.again,
    gated.backward,
    softmax.forward_,
)

COMPILED = Chains(
    chained.reciprocal_rms,
    chained.norm,
    chained.normalise,
    chained.norm_backward,
    chained.rotate_all,
    chained.gated,
    chained.gated_again,
    chained.gated_backward,
    chained.softmax_,
)


@dataclass(frozen=True)
class Choice:
    """Operation -> (implementation, reason)."""

    operations: tuple[tuple[str, str, str], ...]

    def to_json(self) -> dict[str, dict[str, str]]:
        return {name: {"implementation": which, "reason": why} for name, which, why in self.operations}


class Heads(NamedTuple):
    """Features of a head, and whether its scores are capped."""

    width: int = 64
    capped: bool = False


def heads_of(spec: DecoderSpec) -> list[Heads]:
    """Of each layer."""
    return [Heads(layer.mixer.head_dim, layer.mixer.softcap is not None) for layer in spec.layers]


def choose(device: torch.device | str, dtype: torch.dtype, all_heads: Sequence[Heads] = (Heads(),)) -> Choice:
    """The implementations that run on this device in this compute dtype, for layers with such heads."""
    kind = torch.device(device).type
    which, why = _of_chains(kind)
    tiled = kind == "cpu" and which == "torch"
    return Choice(
        (
            ("blocks", "torch, tiled rows" if tiled else which, why),
            ("attention", *_attention_in_words(kind, dtype, all_heads)),
            ("head", "torch, tiled softmax" if tiled else which, why),
        )
    )


def chains(x: Tensor) -> Chains:
    """What works on tensors like this one. float64 is for tests of the arithmetic: the kernels sum in float32."""
    which, _ = _of_chains(x.device.type)
    if which == "compiled" and x.dtype in chained.DTYPES:
        return COMPILED
    return _triton() if which == "triton" and x.dtype != torch.float64 else PLAIN


Attends = Literal["swept", "tiled", "flash", "torch"]
IN_WORDS: dict[Attends, str] = {
    "swept": "compiled tiles, all segments in one call",
    "tiled": "matmuls and softmax per segment, tiles of queries",
    "flash": "torch FlashAttention, all segments in one call",
    "torch": "torch scaled_dot_product_attention per segment",
}


def attention(kind: str, dtype: torch.dtype, heads: Heads) -> tuple[Attends, str]:
    """What attends on a device of a kind, and why: `swept`, `tiled`, `flash`, or torch's choice for each segment."""
    if heads.capped:
        return "tiled", "scores are capped, which no kernel of torch's does"
    if kind == "cpu":
        refused = swept.refusal(dtype, heads.width)
        return ("tiled", refused) if refused else ("swept", "measured faster than tiles of matmuls")
    refused = flash.refusal(dtype, heads.width)
    return ("torch", refused) if refused else ("flash", "no padding, no masks; tried on this device and equal")


def _attention_in_words(kind: str, dtype: torch.dtype, all_heads: Sequence[Heads]) -> tuple[str, str]:
    """Of all layers; those that are alike share a word."""
    found = dict.fromkeys(attention(kind, dtype, heads) for heads in all_heads)
    which, why = zip(*found, strict=True)
    return "; ".join(dict.fromkeys(IN_WORDS[each] for each in which)), "; ".join(why)


_forced: Which | None = None


@contextmanager
def using(which: Which) -> Iterator[None]:
    """Within this block, these chains whatever the device: for tests, and to time one against the other."""
    global _forced
    before, _forced = _forced, which
    try:
        yield
    finally:
        _forced = before


def _of_chains(kind: str) -> tuple[Which, str]:
    if _forced is not None:
        return _forced, "asked for"
    if kind == "cpu" and chained.library() is not None:
        return "compiled", "one pass over memory per chain"
    if kind != "cuda":
        return "torch", "element-wise chains stay in a core's cache"
    refused = _refused()
    if refused is not None:
        return "torch", refused
    return "triton", "one pass over memory per chain; tried on this device and equal"


@functools.cache
def _triton() -> Chains:
    ops = importlib.import_module("luthier.kernels.triton_ops")
    return Chains(**{name: getattr(ops, name) for name in Chains._fields})


@functools.cache
def _refused() -> str | None:
    """Why Triton's kernels cannot be used on the CUDA device; None where they can. The first launch compiles, for which
    triton needs a C compiler and a place to write: what is missing shows only when one is run."""
    try:
        x_ND = torch.linspace(-2, 2, 3 * 40, device="cuda").view(3, 40)
        weight_D = torch.linspace(0, 1, 40, device="cuda")
        y_ND, _ = _triton().norm(x_ND, weight_D, 1e-6)
    except ImportError:
        return "triton is not installed"
    except Exception as error:  # noqa: BLE001 - a compiler, a linker and a driver of others: anything may come
        said = next(iter(str(error).strip().splitlines()), "")
        return f"triton does not work here: {type(error).__name__}: {said}"
    expected_ND, _ = norm.forward(x_ND, weight_D, 1e-6)
    return None if torch.allclose(y_ND, expected_ND, rtol=1e-4, atol=1e-5) else "triton computes wrongly here"
