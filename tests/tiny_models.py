"""Tiny random models of every family, made by transformers, and the decoder's logits beside theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.models.decoder import Decoder
from luthier.proof import next_token_logits

TINY = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama_tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama_biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama_head_dim": {"model_type": "llama", "head_dim": 16, "hidden_act": "gelu"},
    "llama_llama3": {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3},
    "llama_linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral_window": {"model_type": "mistral", "sliding_window": 5},
    "mistral_plain": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6},
    "qwen2_tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2_window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen2_yarn": {"model_type": "qwen2", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "gemma": {"model_type": "gemma", "pad_token_id": None, "head_dim": 8, "tie_word_embeddings": True},
    "gemma2": {
        "model_type": "gemma2",
        "pad_token_id": None,
        "head_dim": 12,
        "sliding_window": 5,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "pad_token_id": None,
        "head_dim": 16,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 64,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "gemma3_capped": {
        "model_type": "gemma3_text",
        "pad_token_id": None,
        "head_dim": 8,
        "sliding_window": 4,
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    },
    "phi3": {"model_type": "phi3", "pad_token_id": None},
    "phi3_window": {"model_type": "phi3", "pad_token_id": None, "sliding_window": 5, "tie_word_embeddings": True},
    "olmo2": {"model_type": "olmo2", "pad_token_id": None},
    "olmo2_tied": {"model_type": "olmo2", "pad_token_id": None, "tie_word_embeddings": True, "attention_bias": True},
    "granite": {
        "model_type": "granite",
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.2,
        "logits_scaling": 8.0,
    },
    "qwen3_biased": {"model_type": "qwen3", "head_dim": 12, "attention_bias": True, "tie_word_embeddings": True},
}
TOKENS = [3, 17, 41, 5, 5, 29, 0, 46, 11, 8, 30, 2]
"""Longer than the windows above."""
BOUND = 1e-5
"""Relative error allowed in float32: max|a-b| / max|b|."""


def config_of(name: str) -> dict[str, Any]:
    return {**TINY, **CASES[name]}


def build(name: str) -> Any:
    """The transformers model of a case in float32. Biases and norms are random too: at their initial 0 and 1 they would
    hide mistakes; matrices are large enough that every part matters in the logits."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config_of(name)), dtype=torch.float32).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
            else:
                parameter.copy_(0.3 * torch.randn(parameter.shape) + (0 if key.endswith("bias") else 1))
    return model


def save(name: str, folder: Path, **options: Any) -> Any:
    """Build, write as a checkpoint folder, and return the transformers model."""
    model = build(name)
    model.save_pretrained(folder, **options)
    return model


def write_config(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


@torch.no_grad()
def logits_of(decoder: Decoder, adapter: str | None = None, tokens: Sequence[int] = TOKENS) -> Tensor:
    """The decoder's next-token logits after every prefix [T, V]."""
    prompts = [list(tokens[: length + 1]) for length in range(len(tokens))]
    return torch.from_numpy(next_token_logits(decoder, prompts, adapter))


@torch.no_grad()
def reference_logits(model: Any, tokens: Sequence[int] = TOKENS) -> Tensor:
    """The same of a transformers or PEFT model."""
    logits: Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].float()
    return logits


def difference(one: Tensor, other: Tensor) -> float:
    """max|a-b| / max|b|."""
    return float((one - other).abs().max() / other.abs().max())
