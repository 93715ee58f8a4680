"""The compiled part of generation gives what the plain operations give, over odd shapes, and is left out where it
cannot be used."""

from __future__ import annotations

from typing import Any

import compiled
import numpy as np
import pytest
import torch
from test_generate import FAMILIES, PROMPTS, decoder_of, ids_of
from torch import Tensor

from luthier.arch import families
from luthier.arch.spec import Attention, Rope
from luthier.kernels import gated, norm, rotary, step, team
from luthier.kernels.attention import attend_cache
from luthier.models import weights
from luthier.models.cache import BLOCK, Cache, Place
from luthier.models.decoder import Part

pytestmark = pytest.mark.skipif(compiled.step_library() is None, reason="no C compiler here")

BOUND = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
"""Relative to the largest value: rounding of float32 sums; one unit in the last place of bfloat16."""
EPS = 1e-6
LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "phi3")
"""Families of which every layer is built as Llama's."""


@pytest.fixture(params=(torch.float32, torch.bfloat16), ids=str)
def does(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> step.Step:
    monkeypatch.setattr(step, "library", compiled.step_library)
    made = step.of(request.param, BLOCK)
    assert made is not None
    made.dtype = request.param  # type: ignore[attr-defined]
    return made


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(one: Tensor, other: Tensor) -> bool:
    """The other in float32 or wider, where both were made of the same rounded numbers."""
    return float((one.float() - other).abs().max() / other.abs().max()) <= BOUND[one.dtype]


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (2, 16), (5, 33), (8, 576)])
def test_norm(does: step.Step, rows: int, width: int) -> None:
    h, weight = drawn(rows, width, dtype=does.dtype), drawn(width, dtype=torch.float32, seed=1)
    assert close(does.norm(h, weight, EPS), norm.forward(h.float(), weight, EPS)[0])


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (2, 256), (5, 257), (4, 1536)])
def test_gate(does: step.Step, rows: int, width: int) -> None:
    both = drawn(rows, 2 * width, dtype=does.dtype) * 5
    both[-1, 0] = both[-1, 0] if rows == 1 else -200  # the activation of what lies far below is nothing, and no fault
    e, g = both.float().chunk(2, 1)
    made = does.gate(both)
    assert close(made, gated.forward(e, g, "silu")) and (rows == 1 or abs(float(made[-1, 0])) < 1e-30)


ROPES = (None, Rope("default", 1e4, 6), Rope("default", 1e4, 4, interleaved=True))


@pytest.mark.parametrize("rope", ROPES, ids=("none", "halves", "interleaved"))
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 6), (3, 1, 33), (6, 6, 64), (5, 5, 128), (2, 1, 80)])
@pytest.mark.parametrize("window", [None, 1, 40])
@pytest.mark.parametrize("normed", [False, True], ids=("bare", "qk-norm"))
def test_attention(
    does: step.Step, rope: Rope | None, heads: int, kv_heads: int, width: int, window: int | None, normed: bool
) -> None:
    lengths = np.array([1, 2, BLOCK, BLOCK + 1, 3 * BLOCK - 1, 70])
    spec = Attention(
        heads,
        kv_heads,
        width,
        qk_norm="head" if normed else None,
        rope=rope,
        window=window,
        scale=0.3 if normed else None,
    )
    rows, blocks = len(lengths), 3
    order = torch.randperm(rows * blocks, generator=torch.Generator().manual_seed(2)).numpy()
    table = order.reshape(rows, blocks)
    places = np.array([table[row, (n - 1) // BLOCK] * BLOCK + (n - 1) % BLOCK for row, n in enumerate(lengths)])
    room = (rows * blocks * BLOCK, kv_heads, width)
    keys, values = drawn(*room, dtype=does.dtype, seed=3), drawn(*room, dtype=does.dtype, seed=4)
    qkv = drawn(rows, (heads + 2 * kv_heads) * width, dtype=does.dtype, seed=5)
    norms = (drawn(width, dtype=torch.float32, seed=6), drawn(width, dtype=torch.float32, seed=7)) if normed else None

    q, k, v = (
        x.unflatten(1, (-1, width)) for x in qkv.float().split([n * width for n in (heads, kv_heads, kv_heads)], 1)
    )
    if norms is not None:
        q, k = (norm.forward(x.contiguous(), weight, EPS)[0] for x, weight in zip((q, k), norms, strict=True))
    angles = None if rope is None else rotary.tables(rope, torch.from_numpy(lengths - 1), width, does.dtype)
    if rope is not None and angles is not None:
        q, k = rotary.rotate_all((q, k), *(each.float() for each in angles), rope)
    known = [
        x.float().index_copy(0, torch.from_numpy(places), y) for x, y in ((keys, k.to(does.dtype).float()), (values, v))
    ]
    laid = [x.view(rows * blocks, BLOCK, kv_heads, width)[torch.from_numpy(table)].flatten(1, 2) for x in known]
    expected = attend_cache(q.contiguous(), *laid, torch.from_numpy(lengths), window, spec.scale)

    round_ = step.Round(places, lengths, table)
    mixer = step.Mixer(spec, does.dtype, EPS, norms)
    told = round_.told(rope, lambda: angles)
    out = does.attend(mixer, told, round_, qkv, (keys.data_ptr(), values.data_ptr()))
    assert close(out, expected)
    assert close(keys, known[0]) and torch.equal(values.float(), known[1])


def test_threads_divide_rows_and_change_no_bit(does: step.Step, monkeypatch: pytest.MonkeyPatch) -> None:
    def attended() -> Tensor:
        keys, values = (drawn(8 * BLOCK, 2, 16, dtype=does.dtype, seed=seed) for seed in (1, 2))
        lengths, table = np.full(8, BLOCK), np.arange(8)[:, None]
        round_ = step.Round(table[:, 0] * BLOCK + BLOCK - 1, lengths, table)
        mixer = step.Mixer(Attention(4, 2, 16), does.dtype, EPS, None)
        told = round_.told(None, lambda: None)
        return does.attend(
            mixer, told, round_, drawn(8, 8 * 16, dtype=does.dtype), (keys.data_ptr(), values.data_ptr())
        )

    alone, divided = attended(), []
    monkeypatch.setattr(step, "PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    plain = team.together

    def together(take: Any, given: team.Shared, threads: int) -> None:
        divided.append((given.rows, threads))
        plain(take, given, threads)

    monkeypatch.setattr(team, "together", together)
    assert torch.equal(attended(), alone) and divided == [(8, 3)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [None, "default"])
def test_a_model_writes_the_same_without_it(tiny_model, family: str, adapter: str | None, monkeypatch) -> None:
    """And one whose layers are of another build than Llama's goes without it."""
    decoder, answers = decoder_of(tiny_model(family), adapter=adapter is not None), []
    for library in (compiled.step_library, lambda: None):
        monkeypatch.setattr(step, "library", library)
        decoder.unpack()
        answers.append(ids_of(decoder, adapter=adapter))
        assert (decoder._quick is not None) == (library is compiled.step_library and family in LLAMAS)
    assert answers[0] == answers[1] and len(answers[0]) == len(PROMPTS)


def test_weights_that_change_are_read_anew(tiny_model, monkeypatch) -> None:
    decoder, seen = decoder_of(tiny_model("qwen2")), []

    def logits(library) -> Tensor:
        monkeypatch.setattr(step, "library", library)
        cache, place = Cache(decoder, BLOCK), Place()
        assert cache.reserve(place, 1)
        return decoder.extend([Part([7], place)], cache)

    for name in ("self_attn.q_proj.bias", "self_attn.v_proj.weight", "input_layernorm.weight", None):
        quick = logits(compiled.step_library)
        made = decoder._quick
        assert made is not None and made.stands
        if name is not None:
            with torch.no_grad():
                decoder.get_parameter(f"model.layers.1.{name}").mul_(-3.0)
            assert not made.stands
        seen.append(quick)
    assert not torch.equal(seen[1], seen[2]) and not torch.equal(seen[2], seen[3])
    decoder.unpack()
    assert close(seen[3], logits(lambda: None))


def test_what_was_made_of_norms_is_made_anew_once_they_moved(tiny_model, monkeypatch) -> None:
    """An optimizer may change values and no version: whoever trains says so."""
    monkeypatch.setattr(step, "library", compiled.step_library)
    folder = tiny_model("qwen2")
    decoder = weights.load(folder, families.read(folder), dtype=torch.bfloat16)

    def logits() -> Tensor:
        cache, place = Cache(decoder, BLOCK), Place()
        assert cache.reserve(place, 1)
        return decoder.extend([Part([7], place)], cache)

    before, norm_D = logits(), decoder.get_parameter("model.layers.1.input_layernorm.weight")
    version = norm_D._version
    norm_D.data.mul_(-3.0)
    assert norm_D._version == version and torch.equal(logits(), before)
    decoder.moved()
    assert not torch.equal(logits(), before)


def test_another_source_is_not_used(tmp_path, monkeypatch) -> None:
    assert compiled.installed_step(tmp_path) is None, "nothing was built"
    monkeypatch.setattr(step, "library", lambda: None)
    assert step.of(torch.float32, BLOCK) is None
    monkeypatch.setattr(step, "library", compiled.step_library)
    assert step.of(torch.float32, BLOCK // 2) is None, "the cache has blocks of another size"
    assert step.of(torch.float64, BLOCK) is None
