"""The longest context that fits, on paper, beside what Unsloth publishes.

    python bench/context.py

Llama-3.1-8B's shape, QLoRA of rank 32 on every linear module, one row in a micro-batch, with layers keeping least, by
the same arithmetic as `luthier plan` (from `config.json` alone). Unsloth's figures, and those it gives for Hugging Face
with FlashAttention 2, are its own (unsloth.ai/docs/basics/unsloth-benchmarks, read 2026-08): nothing of theirs is
measured here. Needs no GPU; `tests/test_gpu.py` holds the plan to the allocator's peak.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from luthier.config import load
from luthier.paper import outlook

SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
DEVICES = {
    "RTX4060Ti-16GB": (40_724, 2_551),
    "RTX4090-24GB": (78_475, 5_789),
    "A100-40GB": (153_977, 12_264),
    "L40S-48GB": (191_728, 15_502),
    "H100-80GB": (342_733, 28_454),
    "H200-141GB": (None, None),
}
"""Name in the table of devices -> tokens by Unsloth, and by Hugging Face with FlashAttention 2, as published."""


def main() -> None:
    print("| device | ours, planned | Unsloth, published | Hugging Face + FA2, published by Unsloth |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
        (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
        recipe = {
            "model": {"path": str(folder)},
            "data": {"train": str(folder / "rows.jsonl"), "validation": 0.0},
            "tune": {"kind": "qlora", "rank": 32},
            "optim": {"batch": 1},
        }
        for device, published in DEVICES.items():
            found = outlook.plan(load.load(recipe), device)
            theirs = " | ".join("-" if each is None else f"{each:,}" for each in published)
            print(f"| {device} | {found.context:,} | {theirs} |")


if __name__ == "__main__":
    main()
