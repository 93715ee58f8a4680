"""Several adapters in one session: loading, taking off, blending, the strength dial."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_adapters import as_peft, load, shake
from tiny_models import BOUND, TOKENS, difference, logits_of, save

from luthier.arch.spec import EMBEDDING
from luthier.config.schema import Lora
from luthier.errors import ModelError
from luthier.models import adapters

SETTINGS = {
    "one": Lora(rank=4),
    "two": Lora(rank=2, alpha=7, targets=("q_proj", "down_proj")),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """`base`, and the adapters `one` and `two` of it."""
    folder = tmp_path_factory.mktemp("two")
    save("qwen2", folder / "base")
    for seed, (name, lora) in enumerate(SETTINGS.items()):
        decoder = load(folder / "base")
        adapters.attach(decoder, decoder.arch, lora, name=name, seed=seed)
        shake(decoder, name)
        adapters.save_adapter(decoder, folder / name, lora, str(folder / "base"), name)
    return folder


@pytest.fixture
def both(two):
    decoder = load(two / "base")
    for name in SETTINGS:
        adapters.load_adapter(decoder, decoder.arch, two / name, name)
    return decoder


@torch.no_grad()
def test_strength_0_is_the_base_and_1_the_adapter_to_the_bit(both):
    assert adapters.blend(both, "none", {"one": 0.0, "two": 0}) is None
    assert adapters.blend(both, "same", {"one": 1.0, "two": 0}) == "same"
    assert torch.equal(logits_of(both, adapter="same"), logits_of(both, adapter="one"))
    assert not torch.equal(logits_of(both, adapter="same"), logits_of(both))


@torch.no_grad()
@pytest.mark.parametrize("strengths", [{"one": 0.3, "two": 1.5}, {"one": 1.0, "two": 1.0}, {"two": 0.7}])
def test_a_blend_is_peft_s_weighted_sum(both, two, strengths):
    peft = as_peft(two / "base", two / "one")
    peft.load_adapter(str(two / "two"), "two")
    peft.add_weighted_adapter(
        ["default" if each == "one" else each for each in strengths], list(strengths.values()), "mix", "cat"
    )
    peft.set_adapter("mix")
    expected = peft(torch.tensor([TOKENS])).logits[0]
    assert adapters.blend(both, "mix", strengths) == "mix"
    assert difference(logits_of(both, adapter="mix"), expected) < BOUND


@torch.no_grad()
def test_one_strength_scales_b(both, two):
    adapters.blend(both, "half", {"one": 0.5})
    for unit in both.units.values():
        if "one" in unit.deltas:
            assert unit.deltas["half"].A.data_ptr() == unit.deltas["one"].A.data_ptr(), "no memory for a strength"
            unit.deltas["one"].B.mul_(0.5)
            unit.deltas["half"].scale, unit.deltas["half"].B = unit.deltas["one"].scale, unit.deltas["one"].B
    scaled = logits_of(both, adapter="one")
    fresh = load(two / "base")
    adapters.load_adapter(fresh, fresh.arch, two / "one", "one")
    adapters.blend(fresh, "half", {"one": 0.5})
    assert difference(logits_of(fresh, adapter="half"), scaled) < BOUND


def test_an_adapter_is_taken_off_without_its_blends(both):
    adapters.blend(both, "mix", {"one": 0.5, "two": 0.5})
    before = logits_of(both, adapter="mix")
    adapters.remove(both, "one")
    assert both.adapters == {"two", "mix"}
    assert torch.equal(logits_of(both, adapter="mix"), before)
    with pytest.raises(ModelError, match="mix"):
        adapters.remove(both, "one")
    with pytest.raises(ModelError, match="one"):
        adapters.blend(both, "again", {"one": 1})
    with pytest.raises(ModelError, match="already"):
        adapters.blend(both, "mix", {"two": 1})


# ------------------------------------------------------------------------------- modules saved whole, rows of tokens


@torch.no_grad()
@pytest.mark.parametrize("strengths", [{"one": 0.3, "two": 1.5}, {"one": 1.25}, {"two": 0.5}])
@pytest.mark.parametrize("tied", [False, True])
def test_a_blend_of_saved_modules_and_new_rows_is_the_sum_of_what_each_changes(tied, strengths, tmp_path):
    """The oracle: base + sum(strength * (own - base)) for every weight, formed here from what the adapters hold."""
    save("qwen2_tied" if tied else "qwen3", tmp_path / "base")
    decoder = load(tmp_path / "base")
    size = len(decoder.weighted[EMBEDDING].weight)
    with_rows = dataclasses.replace(decoder.arch, new_ids=(size - 2, size - 1))
    adapters.attach(decoder, with_rows, Lora(rank=2), name="one", seed=0)
    modules = ("embed_tokens",) if tied else ("embed_tokens", "lm_head", "norm")
    adapters.attach(decoder, decoder.arch, Lora(rank=2, modules_to_save=modules), name="two", seed=1)
    for name in ("one", "two"):
        shake(decoder, name)
    adapters.blend(decoder, "mix", strengths)
    for module_name, module in decoder.weighted.items():
        base = module.weight.float()
        expected = base.clone()
        touched = False
        for name, strength in strengths.items():
            own = base.clone()
            if name in module.copies:
                own, touched = module.copies[name].weight.clone(), True
            if name in module.rows:
                own[torch.as_tensor(module.rows[name].ids)], touched = module.rows[name].weight.clone(), True
            expected += strength * (own - base)
        made = module.copies["mix"].weight.clone() if "mix" in module.copies else base.clone()
        if "mix" in module.rows:
            made[torch.as_tensor(module.rows["mix"].ids)] = module.rows["mix"].weight
        assert torch.allclose(made, expected, rtol=1e-5, atol=1e-6), module_name
        assert touched == ("mix" in module.copies or "mix" in module.rows), module_name


def test_a_fingerprint_is_of_what_applies(both):
    known = {name: adapters.fingerprint(both, name) for name in (None, "one", "two")}
    adapters.blend(both, "half", {"one": 0.5})
    adapters.blend(both, "same", {"one": 1.0})
    assert adapters.fingerprint(both, "same") == known["one"]
    assert len({*known.values(), adapters.fingerprint(both, "half")}) == 4
