"""What each element-wise chain and each way of attention costs on a GPU: python bench/gpu_kernels.py [DEVICE] [SCALE]

For the shapes of Qwen2.5-0.5B and Llama-3.1-8B in bfloat16: milliseconds of each chain as plain torch, as a Triton
kernel, and as torch.compile makes it of the definition in `kernels/reference.py` (a region; its first call, which
compiles, is told apart); attention of packed documents per segment and in one call; and a step of a few layers, whole.
Before anything is timed, both sides must agree. What comes out: a table in Markdown, to go into bench/RESULTS.md with
the name of the device.

Ways are timed in turn, each figure is the median of `REPEATS`. SCALE (1) divides all sizes: 64 runs on a CPU through
triton's interpreter (`TRITON_INTERPRET=1`), which shows that the script works and times nothing.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.arch.families import FAMILIES
from luthier.arch.spec import Rope
from luthier.batch import Batch, Segments
from luthier.kernels import reference, rotary, select
from luthier.kernels.attention import Attend, Layout
from luthier.models import weights
from luthier.models.decoder import Want

REPEATS = 15
AGREE = 0.02
"""Largest difference over largest magnitude: a few roundings to bfloat16."""
LAYERS = 4

Run = Callable[[], Any]


class Shape(NamedTuple):
    name: str
    tokens: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    documents: tuple[int, ...]


SHAPES = (
    Shape("Qwen2.5-0.5B", 16384, 896, 4864, 14, 2, 64, 151936, (256,) * 64),
    Shape("Llama-3.1-8B", 16384, 4096, 14336, 32, 8, 128, 128256, (512, 1024, 2560) * 4),
)


def main(device: str = "cuda", scale: str = "1") -> None:
    choice = select.choose(device, torch.bfloat16).to_json()
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu, interpreted: figures mean nothing"
    print(f"{name}, torch {torch.__version__}; chosen: {choice}\n")
    print("| shape | what | torch ms | triton ms | compiled ms | first compiled call s |\n|---|---|---|---|---|---|")
    for shape in SHAPES:
        made = _scaled(shape, int(scale))
        for what, ways in (*_chains(made, device), _attention(made, device), _step(made, device)):
            print(f"| {shape.name} | {what} | {_cells(ways, device)} |", flush=True)


def _scaled(shape: Shape, by: int) -> Shape:
    documents = tuple(max(each // by, 2) for each in shape.documents)
    small = shape._replace(width=max(shape.width // by, 16), mlp=max(shape.mlp // by, 16), documents=documents)
    if by > 1:
        small = small._replace(heads=4, kv_heads=2, head_dim=16, vocabulary=max(shape.vocabulary // by, 8))
    return small._replace(tokens=max(shape.tokens // by, 8))


def _chains(shape: Shape, device: str) -> Iterator[tuple[str, dict[str, Run]]]:
    def random(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.bfloat16)

    n, rope = shape.tokens, Rope("default", 1e6, shape.head_dim)
    x, dy, weight = random(n, shape.width), random(n, shape.width), random(shape.width)
    yield "norm", _ways(lambda c: c.norm(x, weight, 1e-6)[0], lambda: reference.rms_norm(x.float(), weight, 1e-6))
    rstd = select.PLAIN.reciprocal_rms(x, 1e-6)
    yield "norm backward", _ways(lambda c: c.norm_backward(x, rstd, weight, dy, True)[0])
    q, k = random(n, shape.heads, shape.head_dim), random(n, shape.kv_heads, shape.head_dim)
    cos, sin = rotary.tables(rope, torch.arange(n, device=device), shape.head_dim, torch.bfloat16)
    half = shape.head_dim // 2
    turn = (cos[:, :half].contiguous(), sin[:, half:].contiguous())
    yield (
        "rotary on q and k",
        _ways(lambda c: c.rotate((q, k), cos, sin, rope, False)[0], lambda: reference.rotate(q, *turn, False)),
    )
    e, g, dm = (random(n, shape.mlp) for _ in range(3))
    yield "gate", _ways(lambda c: c.gated(e, g, "silu"), lambda: reference.gated(e, g, "silu"))

    def backward(c: select.Chains) -> Tensor:
        a, _ = c.gated_again(e, g, "silu", True)
        return c.gated_backward(dm.clone(), e, g, a, "silu")[1]

    yield "gate again and backward", _ways(backward)
    rows = max(256 * 2**20 // 2 // shape.vocabulary, 1) if device == "cuda" else 4
    logits, targets = random(rows, shape.vocabulary), torch.zeros(rows, dtype=torch.int64, device=device)
    ones, logp = torch.ones(rows, device=device), torch.empty(rows, device=device)

    def softmax(c: select.Chains) -> Tensor:
        scratch = logits.clone()
        c.softmax_(scratch, targets, ones, logp, None)
        return scratch

    yield f"softmax and gradient of {rows} rows (with a copy)", _ways(softmax)


def _ways(run: Callable[[select.Chains], Tensor], plain: Callable[[], Tensor] | None = None) -> dict[str, Run]:
    def chosen(which: select.Which) -> Run:
        def call() -> Tensor:
            with select.using(which):
                return run(select.chains(torch.empty(0)))

        return call

    ways = {"torch": chosen("torch"), "triton": chosen("triton")}
    return ways if plain is None else {**ways, "compiled": torch.compile(plain)}


def _attention(shape: Shape, device: str) -> tuple[str, dict[str, Run]]:
    """Forward and backward; the one call stands in the column of triton."""
    layout = Layout.of(_segments(shape.documents))
    count = int(layout.end[-1])
    q, k, v = (
        torch.randn(count, heads, shape.head_dim, device=device, dtype=torch.bfloat16, requires_grad=True)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
    )
    dy = torch.randn(count, shape.heads * shape.head_dim, device=device, dtype=torch.bfloat16)
    usual = select.attention

    def attend(per_segment: bool) -> Run:
        def call() -> Tensor:
            select.attention = (lambda x: "torch") if per_segment else usual
            try:
                out = torch.cat(Attend(layout)(q, k, v))
                return torch.autograd.grad(out, q, dy)[0]
            finally:
                select.attention = usual

        return call

    return "attention, per segment or in one call", {"torch": attend(True), "triton": attend(False)}


def _step(shape: Shape, device: str) -> tuple[str, dict[str, Run]]:
    """Forward and backward of a few layers and the head, of which the norms train, so that gradients go through all."""
    fields = {
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    arch = FAMILIES["llama"](fields, "config.json")
    decoder = weights.random(
        arch, 0, dtype=torch.bfloat16, device=device, trainable=lambda name: name.endswith("layernorm.weight")
    )
    batch = _batch(shape)
    want = Want("linear", -torch.ones(len(batch.rows), device=device))

    def step(which: select.Which) -> Run:
        def call() -> Tensor:
            decoder.zero_grad(set_to_none=True)
            with select.using(which):
                total = decoder(batch, want).total
                total.backward()
            return total.detach()

        return call

    return f"step of {LAYERS} layers, {batch.num_tokens} tokens", {"torch": step("torch"), "triton": step("triton")}


def _segments(lengths: Sequence[int]) -> Segments:
    end = np.cumsum(np.asarray(lengths, dtype=np.int64))
    zeros = np.zeros_like(end)
    return Segments(end - np.asarray(lengths), end, zeros - 1, zeros, zeros, zeros)


def _batch(shape: Shape) -> Batch:
    """Documents whose every token but the last is learnt from."""
    segments = _segments(shape.documents)
    count = int(segments.end[-1])
    ids = np.random.default_rng(0).integers(0, shape.vocabulary, count)
    positions = np.concatenate([np.arange(each) for each in shape.documents])
    rows = np.setdiff1d(np.arange(count), segments.end - 1)
    uid = np.repeat(np.arange(len(shape.documents)), shape.documents)
    ones = {"nll": np.ones(len(rows), dtype=np.float32)}
    return Batch(ids, positions, np.full(count, -1), uid, segments, rows, ids[rows + 1], uid[rows], ones, {})


def _cells(ways: dict[str, Run], device: str) -> str:
    first: dict[str, float] = {}
    results = {}
    for way, run in ways.items():
        started = time.perf_counter()
        results[way] = run()
        _wait(device)
        first[way] = time.perf_counter() - started
    expected = results["torch"].float()
    for way, result in results.items():
        error = float((result.float() - expected).abs().max() / expected.abs().max())
        assert error <= AGREE, f"{way} is {error:.3f} off"
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS if device == "cuda" else 1):
        for way, run in ways.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            times[way].append(1e3 * (time.perf_counter() - started))
    cells = [f"{statistics.median(times[way]):.3f}" if way in times else "" for way in ("torch", "triton", "compiled")]
    return " | ".join([*cells, f"{first['compiled']:.1f}" if "compiled" in first else ""])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
