"""The longest context that fits: on paper beside what Unsloth publishes, and on a device as planned for it.

    python bench/context.py                                      # the table; needs no GPU
    python bench/context.py --run llama-3.1-8b [--tokens N]      # on this machine's GPU, or CPU

The table: Llama-3.1-8B's shape, QLoRA of rank 32 on every linear module, one row in a micro-batch, with layers keeping
least, by the same arithmetic as `luthier plan` (from `config.json` alone). Unsloth's figures, and those it gives for
Hugging Face with FlashAttention 2, are its own (unsloth.ai/docs/basics/unsloth-benchmarks, read 2026-08): nothing of
theirs is measured here.

`--run` trains two steps of one row of so many tokens (by default as many as are planned to fit) in a shape of
`bench/train.py` with random weights, and prints what the plan says beside the device's peak.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import train

from luthier.config import load
from luthier.paper import outlook

RANK = 32
DEVICES = {
    "RTX4060Ti-16GB": (40_724, 2_551),
    "RTX4090-24GB": (78_475, 5_789),
    "A100-40GB": (153_977, 12_264),
    "L40S-48GB": (191_728, 15_502),
    "H100-80GB": (342_733, 28_454),
    "H200-141GB": (None, None),
}
"""Name in the table of devices -> tokens by Unsloth, and by Hugging Face with FlashAttention 2, as published."""


def recipe(folder: Path, **sections: Any) -> dict[str, Any]:
    return {
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "rows.jsonl"), "validation": 0.0},
        "method": {"kind": "pretrain"},
        "tune": {"kind": "qlora", "rank": RANK},
        "optim": {"batch": 1},
        **sections,
    }


def table() -> None:
    print("| device | ours, planned | of it in the host's memory | Unsloth | Hugging Face + FA2 |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        shape = {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, **train.SHAPES["llama-3.1-8b"]}
        (folder / "model" / "config.json").write_text(json.dumps(shape), encoding="utf-8")
        (folder / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
        for device, published in DEVICES.items():
            found = outlook.plan(load.load(recipe(folder)), device)
            theirs = " | ".join("-" if each is None else f"{each:,}" for each in published)
            print(f"| {device} | {found.context:,} | {found.context_moved / 1e9:.0f} GB | {theirs} |")


def run(shape: str, tokens: int | None) -> None:
    import torch

    import luthier
    from luthier.engine.backend import peak_memory_bytes

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as name:
        folder = Path(name)
        train.make(folder, shape, device=device)
        if tokens is None:
            tokens = outlook.plan(load.load(recipe(folder))).context
        letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz     ", k=8 * tokens)
        (folder / "rows.jsonl").write_text(json.dumps({"text": "".join(letters)}) + "\n", encoding="utf-8")
        data = {"train": str(folder / "rows.jsonl"), "validation": 0.0, "max_tokens": tokens}
        where = {"name": "context", "dir": str(folder / "runs"), "device": device, "save_every": 10_000}
        made = luthier.train(recipe(folder, data=data, optim={"batch": 1, "steps": 2}, run=where))
        planned = json.loads((folder / "runs" / "context" / "plan.json").read_text(encoding="utf-8"))["memory"]
        losses = [each.data["loss"] for each in made.events if each.kind == "step"]
        peak, moved = peak_memory_bytes(device), planned.get("moved", 0)
        need = planned["peak_bytes"]
        print(f"{shape}, one row of {tokens:,} tokens, losses {losses}: peak {peak / 1e9:.2f} GB,")
        print(f"planned {need / 1e9:.2f} GB ({need / peak:.3f} of it), and {moved / 1e9:.2f} GB on the host")


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("--run", choices=train.SHAPES)
    asked.add_argument("--tokens", type=int)
    given = asked.parse_args()
    if given.run is None:
        table()
    else:
        run(given.run, given.tokens)
