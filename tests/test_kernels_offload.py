"""Offloading with copies that only pretend to move: what is moved, when, and that no bit changes.

Streams and pinned memory are for `tests/test_gpu.py`.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from test_decoder import ALL_LINEAR, add_adapter, build, decoder_of, documents, everything, flat, gradients, nll
from torch import Tensor

from luthier.config.schema import Policy
from luthier.kernels.offload import Offload
from luthier.models.decoder import Decoder, DropoutKey

STACKS: list[tuple[Policy, ...]] = [
    ("offload", "offload", "keep"),
    ("offload",) * 3,
    ("drop_mlp", "offload", "keep"),
    ("offload_input", "offload_input", "drop_layer"),
    ("offload_input",) * 3,
    ("drop_layer", "offload_input", "offload"),
]


class Pretended:
    """A `Mover` that copies at once, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.moved: list[Tensor] = []
        self.left: list[Any] = []

    def away(self, near: Tensor) -> Tensor:
        self.log.append("away")
        self.left.append(weakref.ref(near.untyped_storage()))
        self.moved.append(near.clone())
        return self.moved[-1]

    def back(self, far: Tensor) -> Tensor:
        self.log.append("back")
        return far.clone()

    def wait(self) -> None:
        self.log.append("wait")


@pytest.fixture
def mover(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    made = Pretended()
    monkeypatch.setattr(Decoder, "_mover", lambda decoder: made)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", ["llama_biased", "mistral_window", "qwen2_tied", "qwen3"])
def test_no_bit_changes(name: str, kind: str, dtype: torch.dtype, mover: Pretended) -> None:
    model = build(name).to(dtype)
    decoder = decoder_of(model, name, dtype, everything if kind == "full" else lambda _: False)
    options: dict[str, Any] = {}
    if kind == "lora":
        add_adapter(decoder, ranks=ALL_LINEAR, dropout=0.3)
        options = {"adapter": "a.b", "dropout": DropoutKey(11, 4)}
    results = []
    for policies in (("keep",) * 3, *STACKS):
        nll(decoder, flat(documents()), policies=policies, **options).backward()
        results.append(gradients(decoder))
    assert mover.log.count("away") == mover.log.count("back") > 0
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        assert all(torch.equal(other[key], results[0][key]) for key in other)


def test_each_memory_goes_once_and_nothing_that_stays(mover: Pretended) -> None:
    """Of a layer: h twice with its reciprocal RMS, q, k, v, gate, up and inner rows of four inputs; of each piece of
    attention its values. Neither weights nor rotary tables."""
    decoder = decoder_of(build("llama"), "llama")
    add_adapter(decoder, ranks=ALL_LINEAR)
    batch = flat(documents([12, 20, 31]))
    loss = nll(decoder, batch, adapter="a.b", policies=("offload", "offload", "keep"))
    assert mover.log == ["away"] * 2 * (4 + 3 + 2 + 4 + 3)
    spec, tokens = decoder.spec, batch.num_tokens
    mixer, width = spec.layers[0].mixer, spec.layers[0].ffn.width
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    layer = 2 * spec.d + 2 + 2 * query + 2 * key + 2 * width + 7 * 4
    assert sum(far.untyped_storage().nbytes() for far in mover.moved) == 2 * 4 * tokens * layer
    assert [left for left in mover.left if left() is not None] == [], "nothing of them stays on the device"
    loss.backward()
    assert mover.log.count("back") == len(mover.moved) and mover.log.count("wait") == 2


def test_of_a_layer_that_is_run_again_its_input_goes_and_nothing_else(mover: Pretended) -> None:
    decoder = decoder_of(build("llama"), "llama")
    add_adapter(decoder, ranks=ALL_LINEAR)
    batch = flat(documents([12, 20, 31]))
    loss = nll(decoder, batch, adapter="a.b", policies=("offload_input", "offload_input", "drop_layer"))
    assert mover.log == ["away"] * 2
    assert [far.numel() for far in mover.moved] == [batch.num_tokens * decoder.spec.d] * 2
    assert [left for left in mover.left if left() is not None] == [], "nothing of them stays on the device"
    loss.backward()
    # The middle one's input is fetched when it is needed, the lowest one's while the middle one is computed.
    assert mover.log[2:] == ["back", "wait", "back", "wait"]


def test_the_layer_below_is_fetched_ahead_and_the_one_above_let_go() -> None:
    mover = Pretended()
    offload = Offload(mover, ())
    weights = [torch.full((4,), float(index + 2), requires_grad=True) for index in range(3)]
    y = x = torch.ones(4)
    for weight in weights:
        with offload.layer([weight]):
            y = (y * weight).exp()
    del weight
    assert mover.log == ["away"] * 6  # the factor, and the result that exp keeps
    mover.log.clear()
    fetched: list[Any] = []
    back = mover.back

    def remember(far: Tensor) -> Tensor:
        near = back(far)
        fetched.append(weakref.ref(near))
        return near

    mover.back = remember  # type: ignore[method-assign]
    alive: list[int] = []

    def computed(_: Tensor) -> None:
        mover.log.append("computed")
        alive.append(sum(each() is not None for each in fetched))

    for weight in weights:
        weight.register_hook(computed)
    y.sum().backward()
    layer = ["back", "back", "computed", "wait"]
    assert mover.log == ["back", "back", "wait", *layer, *layer, "computed"]
    assert max(alive) <= 4, "at most two layers' memory is back at once"
    assert weights[0].grad is not None and x.sum() == 4


def test_a_graph_that_is_kept_can_be_run_again() -> None:
    mover = Pretended()
    offload = Offload(mover, ())
    weight = torch.tensor([0.5, 2.0], requires_grad=True)
    y = weight
    for _ in range(2):
        with offload.layer():
            y = y * y
    grads = [torch.autograd.grad(y.sum(), weight, retain_graph=True)[0] for _ in range(2)]
    torch.testing.assert_close(grads[0], 4 * weight.detach() ** 3)
    assert torch.equal(*grads)
