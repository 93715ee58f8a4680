"""LoRA training on a CPU: Luthier against TRL + PEFT, the same rows, tokens and random weights.

    python bench/train.py [SHAPE] [ROUNDS]      # smollm2-135m (default), qwen2.5-0.5b, or tiny; 3 rounds

First both train a few steps in float32 from one adapter, and their losses have to agree; then seconds per optimizer
step are measured: each side in a process of its own, by turns, the first step of each process left out, medians given.

* `ours`: a recipe with nothing set but the rank.
* `trl`: `SFTTrainer` with its defaults (float32 weights under bf16 autocast, activation checkpointing, padding).
* `trl best`: bf16 weights, no checkpointing, packed.

Every step has eight rows of 70 to 480 tokens, of which about 80 % are learnt: Alpaca's lengths. Needs the `bench`
extra.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

LENGTHS = ((70, 50), (95, 72), (120, 95), (150, 120), (190, 155), (230, 185), (300, 245), (480, 400))
"""Tokens of a row, and those of its answer."""
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 4096, "model_type": "llama"},
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152, "model_type": "llama"},
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "model_type": "qwen2"},
}
SIDES = ("ours", "trl", "trl best")
RANK, RATE, SEED = 16, 1e-4, 0
STEPS, CHECKED_STEPS = 3, 4
LOSS_BOUND = 1e-5
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# ------------------------------------------------------------------------------------------------------ beginnings


def make(folder: Path, shape: str) -> None:
    """A model folder with random weights, an adapter to begin from, and rows as each side wants them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from luthier import nano
    from luthier.config.schema import RunConfig
    from luthier.data.templates import load_renderer

    given = dict(SHAPES[shape])
    config = AutoConfig.for_model(given.pop("model_type"), **given, tie_word_embeddings=True)
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    for file in nano.folder().iterdir():
        if file.name != "renderer.json" and not file.name.endswith((".safetensors", "config.json")):
            (folder / "model" / file.name).write_bytes(file.read_bytes())
    (folder / "model" / "tokenizer_config.json").write_bytes((nano.folder() / "tokenizer_config.json").read_bytes())
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR))
    adapted.save_pretrained(folder / "adapter")

    renderer = load_renderer(folder / "model", RunConfig.model_validate({"model": "m", "data": {"train": "x"}}))
    rng = random.Random(SEED)

    def say(tokens: int) -> str:
        words = ""
        while len(renderer.vocabulary.ids(words)) < tokens:
            words += " " + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))
        return words.strip()

    chats = [
        [{"role": "user", "content": say(whole - answer)}, {"role": "assistant", "content": say(answer)}]
        for whole, answer in LENGTHS
    ]
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "tokens.json").write_text(json.dumps([tokens_of(renderer, chat) for chat in chats]), encoding="utf-8")


def tokens_of(renderer: Any, chat: list[dict[str, str]]) -> dict[str, list[int]]:
    from luthier.data.formats import Chat, Message

    ids, weights = renderer.train(Chat(tuple(Message(**turn) for turn in chat)))
    return {"input_ids": ids.tolist(), "completion_mask": (weights > 0).astype(int).tolist()}


# ------------------------------------------------------------------------------------------------------------ sides


def ours(folder: Path, *, exact: bool) -> tuple[list[float], list[float]]:
    """Losses and seconds of every step."""
    import luthier

    recipe: dict[str, Any] = {
        "model": {"path": str(folder / "model"), **({"dtype": "float32"} if exact else {})},
        "data": {"train": str(folder / "rows.jsonl"), "validation": 0.0},
        "tune": {"kind": "lora", "from": str(folder / "adapter")} if exact else {"kind": "lora", "rank": RANK},
        "optim": {"lr": RATE, "schedule": "constant", "warmup": 0, "batch": len(LENGTHS)}
        | {"steps": CHECKED_STEPS if exact else 1 + STEPS},
        "run": {"name": "ours", "dir": str(folder / f"runs-{time.time_ns()}"), "device": "cpu", "save_every": 10_000},
    }
    events = [each for each in luthier.train(recipe).events if each.kind == "step"]
    times = [each.time_s for each in events]
    return [each.data["loss"] for each in events], [b - a for a, b in itertools.pairwise(times)]


def peer(folder: Path, how: str, *, exact: bool) -> tuple[list[float], list[float]]:
    import datasets
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.monotonic() - self.begun)

    seconds: list[float] = []
    best = how == "trl best"
    dtype = torch.bfloat16 if best and not exact else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype)
    if exact:
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    settings: dict[str, Any] = {"gradient_checkpointing": False} if exact or best else {}
    if best and not exact:
        settings |= {"packing": True, "max_length": sum(whole + 20 for whole, _ in LENGTHS)}
    rows = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            bf16=not exact,
            per_device_train_batch_size=1 if settings.get("packing") else len(LENGTHS),
            max_steps=CHECKED_STEPS if exact else 1 + STEPS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            completion_only_loss=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=None if exact else LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR),
        callbacks=[Clock()],
    )
    trainer.train()
    return [each["loss"] for each in trainer.state.log_history if "loss" in each], seconds[1:]


def one(side: str, folder: Path, *, exact: bool) -> dict[str, Any]:
    """A side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, str(folder), "exact" if exact else "fast"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def share_of_matmul_rate(folder: Path, seconds: float) -> tuple[float, float]:
    """10^12 FLOPs of our step as counted (attention, a few per cent, left out); the share of the step that they take
    at the rate at which this machine multiplies matrices of the model's own shapes, in the dtype that is chosen."""
    import torch

    from luthier.arch import families, flops
    from luthier.config.schema import Lora
    from luthier.engine import backend

    arch = families.read(folder / "model")
    masks = [row["completion_mask"] for row in json.loads((folder / "tokens.json").read_text(encoding="utf-8"))]
    # A row's last learnt token is only a target: it and what follows do not enter the model.
    lengths = [max(at for at, learnt in enumerate(mask) if learnt) for mask in masks]
    scored = sum(map(sum, masks))
    counted = flops.step(arch, Lora(rank=RANK), flops.Rows(lengths, scored, last=scored))
    dtype = backend.choose("cpu", "auto").compute_dtype
    shapes = Counter((unit.in_features, unit.out_features) for unit in arch.units)
    done = took = 0.0
    for (inputs, outputs), count in shapes.items():
        x, w = torch.randn(sum(lengths), inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        y, times = torch.empty(sum(lengths), outputs, dtype=dtype), []
        for _ in range(7):
            started = time.perf_counter()
            torch.mm(x, w.T, out=y)
            times.append(time.perf_counter() - started)
        done += count * 2.0 * sum(lengths) * inputs * outputs
        took += count * statistics.median(times)
    work = counted.total - counted.attention
    return work / 1e12, work / (done / took) / seconds


def report(side: str, folder: Path, how: str) -> None:
    exact = how == "exact"
    losses, seconds = ours(folder, exact=exact) if side == "ours" else peer(folder, side, exact=exact)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    mib = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"losses": losses, "seconds": seconds, "mib": mib}))


def main(shape: str, rounds: int) -> None:
    import torch

    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as name:
        folder = Path(name)
        make(folder, shape)
        rows = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        tokens = sum(len(row["input_ids"]) for row in rows)
        learnt = sum(sum(row["completion_mask"]) for row in rows) / tokens
        threads = torch.get_num_threads()
        print(f"{shape}: {len(rows)} rows, {tokens:,} tokens a step, {learnt:.0%} learnt, {threads} threads")
        mine, theirs = (one(side, folder, exact=True)["losses"] for side in ("ours", "trl"))
        furthest = max(abs(a - b) / b for a, b in zip(mine, theirs, strict=True))
        print(f"losses in float32: ours {mine}, trl {theirs}; they differ by {furthest:.1e} at most", flush=True)
        if furthest > LOSS_BOUND:
            raise SystemExit(f"they should agree to {LOSS_BOUND}: {theirs}")
        found: dict[str, list[float]] = {side: [] for side in SIDES}
        mib = dict.fromkeys(SIDES, 0.0)
        for number in range(rounds):
            for side in SIDES:
                made = one(side, folder, exact=False)
                found[side] += made["seconds"]
                mib[side] = max(mib[side], made["mib"])
                print(
                    f"round {number + 1} {side}: {', '.join(f'{each:.2f}' for each in made['seconds'])} s", flush=True
                )
        middle = {side: statistics.median(seconds) for side, seconds in found.items() if seconds}
        for side in middle:
            speed = f"{tokens / middle[side]:,.0f} tokens/s, {middle['ours'] / middle[side]:.3f} of ours"
            print(f"{side}: {middle[side]:.2f} s a step, {speed}, peak {mib[side]:,.0f} MiB")
        if rounds:
            work, share = share_of_matmul_rate(folder, middle["ours"])
            print(f"ours: {work:.3f} TFLOP a step as counted, {share:.2f} of the step at the rate of bare matmuls")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        report(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", int(sys.argv[2]) if len(sys.argv) > 2 else 3)
