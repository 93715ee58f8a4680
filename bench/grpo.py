"""A GRPO step by phase, here and in TRL.

    python bench/grpo.py [MODEL] [STEPS]     # nano (default) or a shape of bench/train.py; 5 steps

What goes in: 8 prompts, 8 answers of at most 64 tokens to each, and one reward for both that varies and costs nothing,
so that no group is dead. What comes out: seconds to generate and to learn per step, the middle of some, the first left
out; each side in a process of its own. Needs the extra `bench`.

* `ours`: a recipe with nothing set but the rank; nano in float32, as on the other side.
* `trl`: `GRPOTrainer` with its defaults (activation checkpointing; for shapes float32 weights under bf16 autocast).
* `trl best`: no checkpointing; for shapes bf16 weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES, NEW_TOKENS, RANK = 8, 8, 64, 16
SIDES = ("ours", "trl", "trl best")
REWARD = "def varied(answer, row):\n    return len(answer) % 7\n"
Found = dict[str, float]
"""Seconds of each phase, and `tokens` of an answer."""


def rows() -> list[dict[str, str]]:
    from luthier.nano import task

    made = task.examples(1, 64)
    return [{"prompt": f"{each['instruction']}\n{each['input']}", "answer": each["output"]} for each in made]


def ours(model: str, steps: int, folder: Path) -> Found:
    import luthier

    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    (folder / "rewarding.py").write_text(REWARD, encoding="utf-8")
    method = {"kind": "grpo", "rewards": "rewarding:varied", "samples": SAMPLES, "max_new_tokens": NEW_TOKENS}
    with contextlib.chdir(folder):  # where the user's own functions are looked for
        run = luthier.train(
            {
                "model": {"path": model, **({"dtype": "float32"} if model == "nano" else {})},
                "data": {"train": str(data), "validation": 0},
                "method": method,
                "tune": {"kind": "lora", "rank": RANK},
                "optim": {"steps": steps, "batch": PROMPTS},
                "run": {"dir": str(folder), "name": "bench", "save_every": steps},
            }
        )
    rounds = [event.data for event in run.events if event.kind == "rollout"][1:]
    found = {name: statistics.median(each["seconds"][name] for each in rounds) for name in rounds[0]["seconds"]}
    return {**found, "tokens": statistics.median(each["answer_tokens"] for each in rounds)}


def theirs(model: str, steps: int, folder: Path, *, best: bool) -> Found:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from luthier.config.schema import ModelSection
    from luthier.session import find_base

    seconds: dict[str, list[float]] = {"generate": [], "step": []}

    class Timed(GRPOTrainer):
        def _generate(self, *args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            made = super()._generate(*args, **more)
            seconds["generate"].append(time.perf_counter() - began)
            return made

        def training_step(self, *args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            made = super().training_step(*args, **more)
            seconds["step"].append(time.perf_counter() - began)
            return made

    def reward(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
        return [float(len(each[0]["content"]) % 7) for each in completions]

    half = model != "nano"
    path = find_base(ModelSection(path=model)).folder
    decoder = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if best and half else torch.float32)
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=NEW_TOKENS,
        use_cpu=not torch.cuda.is_available(),
        bf16=half,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        gradient_checkpointing=not best,
    )
    trainer = Timed(
        decoder,
        reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows()]),
        processing_class=AutoTokenizer.from_pretrained(path, padding_side="left"),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"),
    )
    trainer.train()
    generate, step = (statistics.median(seconds[name][1:]) for name in ("generate", "step"))
    lengths = [each["completions/mean_length"] for each in trainer.state.log_history if "loss" in each][1:]
    return {"generate": generate, "judge, score and learn": step - generate, "tokens": statistics.median(lengths)}


def report(side: str, model: str, steps: int, folder: Path) -> None:
    made = ours(model, steps, folder) if side == "ours" else theirs(model, steps, folder, best=side == "trl best")
    print(json.dumps(made))


def main(model: str, steps: int) -> None:
    import train

    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as name:
        folder = Path(name)
        if model in train.SHAPES:
            train.make(folder, model)
        path = str(folder / "model") if model in train.SHAPES else model
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, path, str(steps), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
            found: Found = json.loads(done.stdout.splitlines()[-1])
            tokens = found.pop("tokens")
            phases = ", ".join(f"{phase} {seconds:.3f}" for phase, seconds in found.items())
            print(f"{model} {side}: {phases}; {sum(found.values()):.3f} s, {tokens:.1f} tokens an answer", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        report(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        asked.add_argument("model", nargs="?", default="nano")
        asked.add_argument("steps", nargs="?", type=int, default=5)
        given = asked.parse_args()
        main(given.model, given.steps)
