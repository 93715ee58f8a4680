"""Every Triton kernel and every compiled chain against the plain chain of its name, and whole models against
themselves.

What goes in: a case. For Triton `TRITON_INTERPRET=1` in the environment where there is no GPU, set before this file is
run as a script: triton reads it when it is imported, so a process that has tested anything else is of no use. What
comes out: a list in JSON of what was compared, how far it is off and how far it may be; `tests/test_kernels_triton.py`
reads it. `tests/test_kernels_chained.py` calls `compare`.

Errors are the largest difference over the largest magnitude. Bounds: float32 1e-5, sums in another order; bfloat16 one
unit in the last place at the largest magnitude, 2^-7, because the plain chain rounds between operations and triton's
interpreter cuts off where a device rounds.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.arch.spec import Rope
from luthier.kernels import gated, reference, rotary, select

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
Pairs = Iterator[tuple[str, Tensor | None, Tensor | None]]


def norm(dtype: torch.dtype, device: str) -> Pairs:
    """Widths on both sides of powers of two, one row and many, heads in between."""
    for shape in ((1, 5), (7, 64), (3, 4, 33), (70, 130), (2100, 3), (2, 4097)):
        x, dy, residual = (torch.randn(shape, device=device).to(dtype) for _ in range(3))
        weight = torch.randn(shape[-1], device=device).to(dtype)
        ours, plain = select.chains(x), select.PLAIN
        (y, rstd), (expected, expected_rstd) = ours.norm(x, weight, 1e-5), plain.norm(x, weight, 1e-5)
        yield f"norm {shape}", y, expected
        yield f"norm rstd {shape}", rstd, expected_rstd
        yield f"norm rstd alone {shape}", ours.reciprocal_rms(x, 1e-5) - rstd, torch.zeros_like(rstd)
        yield f"norm again {shape}", ours.normalise(x, rstd, weight) - y, torch.zeros_like(y)
        for need, added in itertools.product((False, True), (None, residual)):
            name = f"norm backward {shape} dweight={need} residual={added is not None}"
            for part, one, other in zip(
                ("dx", "dweight"),
                ours.norm_backward(x, rstd, weight, dy, need, added),
                plain.norm_backward(x, rstd, weight, dy, need, added),
                strict=True,
            ):
                yield f"{name} {part}", one, other
        if dtype == torch.float32:
            yield f"norm is its definition {shape}", y, reference.rms_norm(x, weight, 1e-5)


def rotate(dtype: torch.dtype, device: str) -> Pairs:
    """Both conventions, whole heads and parts, one tensor and two; rows that do not lie side by side."""
    for interleaved, (dim, width), heads in itertools.product(
        (False, True), ((8, 8), (6, 10), (2, 5), (64, 64)), ((3,), (5, 2), (1, 1), (70, 8))
    ):
        rope = Rope("default", 1e4, dim, interleaved=interleaved)
        cos, sin = rotary.tables(rope, torch.tensor([0, 3, 1, 900, 7], device=device), width, dtype)
        given = [torch.randn(count, 5, width, device=device).to(dtype).transpose(0, 1) for count in heads]
        for adjoint in (False, True):
            made = select.chains(given[0]).rotate(given, cos, sin, rope, adjoint)
            expected = select.PLAIN.rotate(given, cos, sin, rope, adjoint)
            for index, (one, other) in enumerate(zip(made, expected, strict=True)):
                yield f"rotate {interleaved} {dim} of {width} heads {heads} {adjoint} {index}", one, other
        if dtype == torch.float32 and dim > 2:
            cos_F, sin_F = (each[:, ::2] if interleaved else each[:, dim // 2 :] for each in (cos, sin))
            sin_F = sin[:, 1:dim:2] if interleaved else sin_F
            definition = reference.rotate(given[0], cos_F[:, : dim // 2], sin_F[:, : dim // 2], interleaved)
            made = select.chains(given[0]).rotate(given, cos, sin, rope, False)
            yield f"rotate is its definition {interleaved} {dim} of {width} heads {heads}", made[0], definition


def gates(dtype: torch.dtype, device: str) -> Pairs:
    for act, shape in itertools.product(gated.ACTIVATIONS, ((1, 1), (3, 341), (5, 1024), (2, 2049))):
        e, g, dm = (3 * torch.randn(shape, device=device).to(dtype) for _ in range(3))
        ours, plain = select.chains(e), select.PLAIN
        yield f"gate {act} {shape}", ours.gated(e, g, act), plain.gated(e, g, act)
        a, m = ours.gated_again(e, g, act, True)
        yield f"gate again {act} {shape}", m, plain.gated_again(e, g, act, True)[1]
        made = ours.gated_backward(dm.clone(), e, g, a, act)
        tracked = [each.float().requires_grad_() for each in (e, g)]
        expected = torch.autograd.grad(reference.gated(*tracked, act), tracked, dm.float())
        for name, one, other in zip(("de", "dg"), made, expected, strict=True):
            yield f"gate backward {act} {shape} {name}", one, other


def softmax(dtype: torch.dtype, device: str) -> Pairs:
    """Vocabularies of less than a block and of several; logits far from 0; rows that are wider than they are read."""
    for (rows, vocabulary), scale in itertools.product(((1, 2), (5, 333), (3, 4096), (2, 9001)), (1.0, 60.0)):
        wide = scale * torch.randn(rows, vocabulary + 3, device=device)
        targets = torch.randint(vocabulary, (rows,), device=device)
        c = torch.randn(rows, device=device)
        for gradient, entropy in itertools.product((False, True), (False, True)):
            results = []
            for chains in (select.chains(wide), select.PLAIN):
                logits = wide.to(dtype, copy=True)[:, :vocabulary]
                logp = torch.empty(rows, device=device)
                h = torch.empty(rows, device=device) if entropy else None
                chains.softmax_(logits, targets, c if gradient else None, logp, h)
                results.append((logp, h, logits if gradient else None))
            for name, one, other in zip(("logp", "entropy", "gradient"), *results, strict=True):
                yield f"softmax {(rows, vocabulary)} x {scale} {gradient} {entropy} {name}", one, other
        logits = wide[:, :vocabulary].to(dtype).float().clone().requires_grad_()
        expected = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
        (gradient_CV,) = torch.autograd.grad(expected, logits, c)
        mine, logp = wide.to(dtype, copy=True)[:, :vocabulary], torch.empty(rows, device=device)
        select.chains(wide).softmax_(mine, targets, c, logp, None)
        yield f"softmax is its definition {(rows, vocabulary)} x {scale} logp", logp, expected.detach()
        yield f"softmax is its definition {(rows, vocabulary)} x {scale} gradient", mine, gradient_CV


def nothing(dtype: torch.dtype, device: str) -> Pairs:
    """No rows at all."""
    x, weight = torch.empty(0, 6, dtype=dtype, device=device), torch.ones(6, dtype=dtype, device=device)
    ours = select.chains(x)
    y, rstd = ours.norm(x, weight, 1e-5)
    yield "no rows: norm", y, x
    dx, dweight = ours.norm_backward(x, rstd, weight, x, True)
    yield "no rows: norm backward", dx, x
    yield "no rows: dweight", dweight, torch.zeros(6, device=device)
    yield "no rows: gate", ours.gated(x, x, "silu"), x


def models(dtype: torch.dtype, device: str) -> Pairs:
    """Loss and every gradient of whole models, plain and in Triton, with what layers keep and without."""
    from test_decoder import (
        ALL_LINEAR,
        FAMILY_CASES,
        add_adapter,
        decoder_of,
        documents,
        everything,
        flat,
        gradients,
        sparse,
    )
    from tiny_models import build

    from luthier.models.decoder import DropoutKey, Want

    def run(name: str, policies: Sequence[str]) -> dict[str, Tensor]:
        decoder = decoder_of(build(name).to(dtype), name, dtype, everything)
        add_adapter(decoder, ranks=ALL_LINEAR, dropout=0.3)
        decoder.to(device)
        batch = flat(sparse(documents()))
        coefficients = -torch.from_numpy(batch.weights["nll"]).to(device)
        want = Want("linear", coefficients)
        total = decoder(batch, want, adapter="a.b", dropout=DropoutKey(11, 4), policies=policies).total
        total.backward()
        return {"loss": total.detach(), **gradients(decoder)}

    for name in FAMILY_CASES:
        made = run(name, ())
        with select.using("torch"):
            expected = run(name, ())
        for key in expected:
            yield f"model {name} {key}", made[key], expected[key]
        for policy in ("drop_mlp", "drop_layer"):
            again = run(name, (policy,) * 3)
            for key in again:
                yield f"model {name} {policy} {key}", again[key] - made[key], torch.zeros_like(made[key])


CASES: dict[str, tuple[Callable[[torch.dtype, str], Pairs], tuple[torch.dtype, ...]]] = {
    "norm": (norm, (torch.float32, torch.bfloat16)),
    "rotate": (rotate, (torch.float32, torch.bfloat16)),
    "gates": (gates, (torch.float32, torch.bfloat16)),
    "softmax": (softmax, (torch.float32, torch.bfloat16)),
    "nothing": (nothing, (torch.float32,)),
    "models": (models, (torch.float32,)),
}


class Compared(NamedTuple):
    case: str
    error: float
    bound: float


def compare(case: str, device: str, which: select.Which = "triton") -> list[Compared]:
    make, dtypes = CASES[case]
    compared = []
    with select.using(which):
        for dtype in dtypes:
            torch.manual_seed(0)
            pairs = make(dtype, device)
            compared += [Compared(f"{name} {dtype}", _error(one, other), BOUNDS[dtype]) for name, one, other in pairs]
    return compared


def _error(one: Tensor | None, other: Tensor | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else float("inf")
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    one, other = one.double().cpu(), other.double().cpu()
    difference = (one - other).abs().max() / other.abs().max().clamp_min(1e-30)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


if __name__ == "__main__":
    print(json.dumps(compare(*sys.argv[1:])))
