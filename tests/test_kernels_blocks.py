"""The fused blocks against plain autograd in float64, over combinations of what may be there and what may train."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from luthier.arch.spec import Rope
from luthier.kernels import autograd, linear, reference, rotary
from luthier.kernels.blocks import MlpShape, QkvShape
from luthier.kernels.dropout import Dropout, DropoutKey, site, token_hashes
from luthier.kernels.linear import Linear, weight_grad

N, D, E, WIDTH, EPS = 5, 6, 4, 10, 1e-3


def _random(*shape: int, trains: bool) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=trains)


def _linear(inputs: int, outputs: int, *, bias: bool, rank: int, trains: str) -> Linear:
    """trains: any of w (weight), b (bias), a (adapter)."""
    return Linear(
        _random(outputs, inputs, trains="w" in trains),
        _random(outputs, trains="b" in trains) if bias else None,
        _random(rank, inputs, trains="a" in trains) if rank else None,
        _random(outputs, rank, trains="a" in trains) if rank else None,
        0.7,
    )


def _drop(p: float, number: int) -> Dropout | None:
    return site(token_hashes(torch.arange(N)), DropoutKey(1, 2), number, p)


def _plain(x: Tensor, linear: Linear, drop: Dropout | None) -> Tensor:
    keep = None if drop is None else (~drop.mask(x.shape[1])).double() * drop.survivor_scale
    return reference.linear(x, *linear[:4], linear.scale, keep)


def _same_gradients(ours: Sequence[Tensor], theirs: Sequence[Tensor], inputs: Sequence[Tensor | None]) -> None:
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    assert wanted
    weights = [torch.randn_like(output) for output in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    got, expected = (
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), wanted)
        for ys in (ours, theirs)
    )
    for mine, other in zip(got, expected, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other)


TRAINS = [
    ("h", "a"),  # LoRA in the middle of the model
    ("", "a"),  # LoRA in the lowest layer: no gradient of h
    ("h", ""),  # a frozen layer above trained ones
    ("hn", "wb"),  # everything
    ("", "wb"),  # the lowest layer of `freeze`, embedding frozen
    ("n", ""),  # norms alone
    ("hn", "wba"),
]


@pytest.mark.parametrize(("stream", "weights"), TRAINS)
@pytest.mark.parametrize(
    ("bias", "ranks", "qk_norm", "pairs", "p"),
    [
        (False, (2, 2, 2), False, 2, 0.0),
        (True, (1, 0, 3), True, 2, 0.4),
        (True, (0, 0, 0), True, 0, 0.0),
        (False, (0, 9, 0), False, 1, 0.4),  # a rank above the width; rotation of half of each head
    ],
)
def test_attention_inputs(
    stream: str, weights: str, bias: bool, ranks: tuple[int, int, int], qk_norm: bool, pairs: int, p: float
) -> None:
    if weights == "a" and not any(ranks):
        stream = "h"
    torch.manual_seed(0)
    h, norm = _random(N, D, trains="h" in stream), _random(D, trains="n" in stream)
    sizes = (3 * E, E, E)
    linears = [_linear(D, o, bias=bias, rank=r, trains=weights) for o, r in zip(sizes, ranks, strict=True)]
    qk = (_random(E, trains="n" in stream), _random(E, trains="n" in stream)) if qk_norm else None
    rope = Rope("default", 100.0, 2 * pairs, interleaved=bias) if pairs else None
    angles = rotary.tables(rope, torch.arange(N), E, torch.float64) if rope else None
    drop = _drop(p, 0)
    ours = autograd.attention_inputs(h, norm, qk, angles, linears, QkvShape(EPS, E, rope, drop))

    x = reference.rms_norm(h, norm, EPS)
    q, k, v = (_plain(x, linear, drop).view(N, -1, E) for linear in linears)
    if qk is not None:
        q, k = reference.rms_norm(q, qk[0], EPS), reference.rms_norm(k, qk[1], EPS)
    if angles is not None:
        step = 2 if bias else 1  # the first of each pair, from the interleaved or the half layout
        cos, sin = angles[0][:, : step * pairs : step], -angles[1][:, : step * pairs : step]
        q, k = reference.rotate(q, cos, sin, bias), reference.rotate(k, cos, sin, bias)
    used = [h, norm, *(qk or ()), *(tensor for linear in linears for tensor in linear[:4])]
    _same_gradients(ours, (q, k, v), used)


@pytest.mark.parametrize(("stream", "weights"), [each for each in TRAINS if each != ("n", "")])
@pytest.mark.parametrize(("bias", "rank", "p"), [(False, 3, 0.0), (True, 2, 0.4), (True, 0, 0.0)])
def test_attention_output(stream: str, weights: str, bias: bool, rank: int, p: float) -> None:
    if weights == "a" and not rank:
        stream = "h"
    torch.manual_seed(0)
    h, attended = _random(N, D, trains="h" in stream), _random(N, 8, trains="h" in stream)
    linear = _linear(8, D, bias=bias, rank=rank, trains=weights)
    drop = _drop(p, 1)
    ours = autograd.attention_output(torch.split(attended, 2), h, linear, drop)
    _same_gradients([ours], [h + _plain(attended, linear, drop)], [h, attended, *linear[:4]])


@pytest.mark.parametrize(("stream", "weights"), TRAINS)
@pytest.mark.parametrize(
    ("act", "bias", "ranks", "p"),
    [
        ("silu", False, (2, 2, 2), 0.0),
        ("gelu", True, (1, 0, 3), 0.4),
        ("gelu_tanh", True, (0, 0, 2), 0.4),
        ("silu", True, (0, 2, 0), 0.0),
    ],
)
def test_mlp(stream: str, weights: str, act: str, bias: bool, ranks: tuple[int, int, int], p: float) -> None:
    torch.manual_seed(0)
    h, norm = _random(N, D, trains="h" in stream), _random(D, trains="n" in stream)
    shapes = ((D, WIDTH), (D, WIDTH), (WIDTH, D))
    linears = [_linear(i, o, bias=bias, rank=r, trains=weights) for (i, o), r in zip(shapes, ranks, strict=True)]
    drop, drop_down = _drop(p, 2), _drop(p, 3)
    ours = autograd.mlp(h, norm, linears, MlpShape(EPS, act, drop, drop_down))

    x = reference.rms_norm(h, norm, EPS)
    e, g = _plain(x, linears[0], drop), _plain(x, linears[1], drop)
    theirs = h + _plain(reference.gated(e, g, act), linears[2], drop_down)
    _same_gradients([ours], [theirs], [h, norm, *(tensor for linear in linears for tensor in linear[:4])])


def test_gradcheck_of_the_blocks() -> None:
    torch.manual_seed(0)
    linears = [_linear(D, E, bias=True, rank=2, trains="wba") for _ in range(3)]
    flat = [tensor for linear in linears for tensor in linear[:4] if tensor is not None]
    h, norm = _random(3, D, trains=True), _random(D, trains=True)
    rope = Rope("default", 100.0, E)
    angles = rotary.tables(rope, torch.arange(3), E, torch.float64)

    def rebuild(flat: Sequence[Tensor]) -> list[Linear]:
        return [Linear(*flat[4 * index : 4 * index + 4], 0.7) for index in range(3)]

    def attention(h: Tensor, norm: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        return autograd.attention_inputs(h, norm, None, angles, rebuild(flat), QkvShape(EPS, E, rope))

    assert torch.autograd.gradcheck(attention, (h, norm, *flat))

    shapes = ((D, WIDTH), (D, WIDTH), (WIDTH, D))
    linears = [_linear(i, o, bias=True, rank=2, trains="wba") for i, o in shapes]
    flat = [tensor for linear in linears for tensor in linear[:4] if tensor is not None]

    def mlp(h: Tensor, norm: Tensor, *flat: Tensor) -> Tensor:
        return autograd.mlp(h, norm, rebuild(flat), MlpShape(EPS, "silu"))

    assert torch.autograd.gradcheck(mlp, (h, norm, *flat))


@pytest.mark.parametrize("tile_bytes", [1, 2 * D * 8, 2**20])
@pytest.mark.parametrize("train_weight", [False, True])
def test_rms_norm(train_weight: bool, tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.kernels.tiles.TILE_BYTES", tile_bytes)
    x, weight = _random(N, D, trains=True), _random(D, trains=train_weight)
    _same_gradients([autograd.rms_norm(x, weight, EPS)], [reference.rms_norm(x, weight, EPS)], [x, weight])


def test_nothing_is_kept_where_nothing_trains() -> None:
    h, norm = torch.randn(N, D), torch.ones(D)
    linears = [Linear(torch.randn(E, D)) for _ in range(3)]
    q, _, _ = autograd.attention_inputs(h, norm, None, None, linears, QkvShape(EPS, E))
    assert q.grad_fn is None
    adapted = Linear(torch.randn(D, D), None, torch.randn(2, D, requires_grad=True), torch.randn(D, 2), 1.0)
    with torch.no_grad():
        assert autograd.attention_output((h,), h, adapted, None).grad_fn is None


def test_a_second_backward_pass_gives_the_same() -> None:
    """The backward pass works in place only on what it made itself."""
    h = torch.randn(N, D, requires_grad=True)
    linears = [Linear(torch.randn(WIDTH, D)), Linear(torch.randn(WIDTH, D)), Linear(torch.randn(D, WIDTH))]
    y = autograd.mlp(h, torch.ones(D), linears, MlpShape(EPS, "silu"))
    first, second = (torch.autograd.grad(y.sum(), h, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("outputs", "inputs"), [(3, 8), (8, 3), (5, 5)])
def test_weight_grad_in_every_precision(dtype: torch.dtype, outputs: int, inputs: int) -> None:
    torch.manual_seed(0)
    dy, x = torch.randn(16, outputs, dtype=dtype), torch.randn(16, inputs, dtype=dtype)
    exact = dy.double().T @ x.double()
    assert float((weight_grad(dy, x).double() - exact).abs().max() / exact.abs().max()) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("master", [torch.float32, torch.bfloat16])
def test_gradients_have_the_dtype_of_their_parameters(master: torch.dtype) -> None:
    h = torch.randn(N, D, dtype=torch.bfloat16, requires_grad=True)

    def parameter(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=master, requires_grad=True)

    linear = Linear(parameter(D, D), parameter(D), parameter(2, D), parameter(D, 2), 0.5)
    autograd.attention_output((h,), h, linear, None).sum().backward()
    assert h.grad is not None and h.grad.dtype == torch.bfloat16
    for tensor in linear[:4]:
        assert isinstance(tensor, Tensor) and tensor.grad is not None and tensor.grad.dtype == master


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_an_embedding_is_summed_in_float32(dtype):
    """In bfloat16 the sum of 3000 times 1/1024 stands still at 1/2."""
    weight_VD = torch.nn.Parameter(torch.randn(5, 4).to(dtype))
    weight_VD.grad_dtype = torch.float32
    ids_N = torch.tensor([2] * 3000 + [4])
    rows_ND = autograd.embedding(ids_N, weight_VD, torch.bfloat16)
    assert torch.equal(rows_ND, weight_VD.detach()[ids_N].bfloat16())
    rows_ND.backward(torch.full_like(rows_ND, 1 / 1024))
    expected = torch.zeros(5, 4)
    expected[2], expected[4] = 3000 / 1024, 1 / 1024
    assert torch.equal(weight_VD.grad, expected)


def test_parts_of_a_projection_are_its_rows_whatever_the_weight_is() -> None:
    """A tensor and a weight in fewer bytes, with bias, adapter and spans: the same numbers as the whole's rows."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 6), torch.randn(9, 6), torch.randn(9)
    a, b = torch.randn(2, 6), torch.randn(9, 2)

    class Kept:
        shape = (9, 6)

        def dense(self, dtype: torch.dtype) -> torch.Tensor:
            return weight.to(dtype)

    span = linear.Span(slice(1, 3), a, b)
    for whole in (
        linear.Linear(weight, bias, a, b, 0.5),
        linear.Linear(Kept(), bias, a, b, 0.5),
        linear.Linear(Kept(), None, spans=(span,)),
    ):
        (expected,), _ = linear.project(x, (whole,), None)
        parts = linear.split(whole, (4, 2, 3))
        assert [tuple(part.weight_OI.shape) for part in parts] == [(4, 6), (2, 6), (3, 6)]
        found, _ = linear.project(x, parts, None)
        torch.testing.assert_close(torch.cat(found, 1), expected)
