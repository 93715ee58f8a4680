"""FLOPs on paper against torch's own counter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from test_decoder import add_adapter, build, decoder_of, documents, flat, flop_counter, nll

from luthier.arch import count, flops
from luthier.config.schema import Freeze, Full, Lora

LORAS: dict[str, Any] = {
    "all": Lora(rank=4),
    "down of the top layer": Lora(rank=4, targets=("down_proj",), layers=(2,)),
    "gate of the middle": Lora(rank=4, targets=("gate_proj",), layers=(1, 2)),
    "o everywhere": Lora(rank=4, targets=("o_proj",)),
    "k alone": Lora(rank=4, targets=("k_proj",), layers=(1,)),
}


FUSED = {"gate_proj": "gate_up_proj", "k_proj": "qkv_proj"}
"""What Phi-3 has in their place."""


def counted(name: str, tune: Any, policies: Any = ()) -> tuple[int, Any, Any]:
    """FLOPs that torch counts, the architecture, and the batch."""
    arch = decoder_of(build(name), name).arch
    trained = count.trained_tensors(arch, tune)
    decoder = decoder_of(build(name), name, trains=lambda key: key in trained)
    options: dict[str, Any] = {"policies": policies}
    if isinstance(tune, Lora):
        add_adapter(
            decoder, ranks={unit.name.removeprefix("model."): rank for unit, rank, _ in count.select_units(arch, tune)}
        )
        options["adapter"] = "a.b"
    batch = flat(documents([12, 20]))
    with flop_counter() as counter:
        nll(decoder, batch, **options).backward()
    return counter.get_total_flops(), arch, batch


@pytest.mark.parametrize("tune", LORAS)
@pytest.mark.parametrize("name", ["llama", "qwen2_tied", "qwen3", "phi3", "olmo2"])
def test_a_lora_step(name: str, tune: str) -> None:
    check(name, LORAS[tune])


@pytest.mark.parametrize("tune", [Full(), Freeze(layers=1), Freeze(layers=2)], ids=["full", "freeze 1", "freeze 2"])
@pytest.mark.parametrize("name", ["llama", "qwen2_tied"])
def test_a_step_in_place(name: str, tune: Any) -> None:
    check(name, tune)


@pytest.mark.parametrize("policies", [("drop_mlp",) * 3, ("drop_layer",) * 3, ("drop_layer", "drop_mlp", "keep")])
@pytest.mark.parametrize("tune", [*LORAS.values(), Full(), Freeze(layers=2)], ids=[*LORAS, "full", "freeze"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "phi3"])
def test_what_layers_do_again(name: str, tune: Any, policies: Any) -> None:
    check(name, tune, policies)


def check(name: str, tune: Any, policies: Any = ()) -> None:
    if name == "phi3" and isinstance(tune, Lora) and not isinstance(tune.targets, str):
        tune = tune.model_copy(update={"targets": tuple(FUSED.get(each, each) for each in tune.targets)})
    total, arch, batch = counted(name, tune, policies)
    lengths = [int(end - start) for start, end in zip(batch.segments.start, batch.segments.end, strict=True)]
    rows = flops.Rows(lengths, len(batch.rows), last=len(batch.rows))
    made = flops.step(arch, tune, rows, policies)
    assert (made.again > 0) == bool(policies) or count.first_trained_layer(arch, tune) >= 2
    # Attention is a kernel of its own, whose products torch's counter does not see.
    assert total == dataclasses.replace(made, attention=0).total


def test_attention_of_a_dropped_layer_is_done_again() -> None:
    arch = decoder_of(build("llama"), "llama").arch
    rows = flops.Rows([9], 9)
    kept, dropped = (flops.step(arch, Full(), rows, (each,) * 3).attention for each in ("keep", "drop_layer"))
    assert dropped - kept == 3 * flops.attention_flops(arch.spec.layers[0].mixer, 9)
    assert flops.step(arch, Full(), rows, ("drop_mlp",) * 3).attention == kept


def test_attention_counts_what_each_query_may_see() -> None:
    mixer = decoder_of(build("llama"), "llama").spec.layers[0].mixer
    features = mixer.heads * mixer.head_dim
    assert flops.attention_flops(mixer, 3) == 4 * (1 + 2 + 3) * features
    windowed = dataclasses.replace(mixer, window=2)
    assert flops.attention_flops(windowed, 4) == 4 * (1 + 2 + 2 + 2) * features
