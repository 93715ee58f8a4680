"""Merging: what comes out is what PEFT's own merge gives, and what the adapter says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import save
from transformers import AutoModelForCausalLM

from luthier.arch import families
from luthier.export import weights as source
from luthier.session import Base

PEFT_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"target_modules": ["q_proj", "v_proj", "up_proj"]}),
    "rslora": ("qwen2", {"target_modules": "all-linear", "use_rslora": True}),
    "patterns": ("qwen2", {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"q_proj": 2}, "lora_alpha": 5}),
    "dora": ("qwen3", {"target_modules": "all-linear", "use_dora": True}),
    "dora_rslora": ("llama_biased", {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "use_rslora": True}),
    "saved": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]}),
    "saved_tied": (
        "qwen2_tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    ),
    "tokens": (
        "llama",
        {"target_modules": ["v_proj"], "trainable_token_indices": {"embed_tokens": [3, 9], "lm_head": [3, 9]}},
    ),
}


def base_of(folder: Path) -> Base:
    return Base(str(folder), folder, None, None, families.read(folder))


def shake(model: Any, seed: int = 0) -> None:
    """Every trained tensor moves, so that nothing is left out unseen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.requires_grad:
                each.mul_(1 + 0.2 * torch.randn_like(each)) if "magnitude" in name else each.add_(
                    0.1 * torch.randn_like(each)
                )


def make_adapter(base: Path, folder: Path, dtype: torch.dtype, seed: int = 0, **settings: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    config = LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", **settings})
    wrapped = get_peft_model(model, config)
    shake(wrapped, seed)
    wrapped.save_pretrained(folder, save_embedding_layers=False)


def make_base(family: str, folder: Path, dtype: torch.dtype) -> None:
    save(family, folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)


def merged_by_peft(base: Path, adapter: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter)
    return dict(model.merge_and_unload().state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("case", PEFT_CASES)
def test_every_tensor_is_that_of_pefts_own_merge(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    family, settings = PEFT_CASES[case]
    make_base(family, tmp_path / "base", dtype)
    make_adapter(tmp_path / "base", tmp_path / "adapter", dtype, **settings)
    expected = merged_by_peft(tmp_path / "base", tmp_path / "adapter", dtype)
    made = source.merged(base_of(tmp_path / "base"), [(tmp_path / "adapter", 1.0)])
    base = load_file(tmp_path / "base" / "model.safetensors")
    moved = 0
    for name in made.names:
        got, want = made.tensor(name), expected[name]
        assert got.dtype == dtype and got.shape == want.shape == made.shapes[name]
        # PEFT rounds the product to the base's dtype before it adds it, and the sum again.
        room = 1e-6 if dtype == torch.float32 else 2**-7
        assert float((got.float() - want.float()).abs().max()) <= room * float(want.float().abs().max()), name
        assert made.changed(name) == (not torch.equal(got, base[name])), name
        moved += made.changed(name)
    assert moved
