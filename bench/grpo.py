"""A GRPO step by phase, here and in TRL.

What goes in: a model folder (or nano), prompts and a reward that costs nothing. What comes out: seconds to generate and
to learn per step of either, the middle of some. `python bench/grpo.py [--model nano] [--steps 5]`; needs the extra
`bench`. TRL's own defaults, but the same prompts, answers, lengths, adapter and dtype.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import luthier
from luthier.config.schema import ModelSection
from luthier.nano import task
from luthier.session import find_base

PROMPTS, SAMPLES, NEW_TOKENS = 8, 8, 64


def rows() -> list[dict[str, str]]:
    made = task.examples(1, 64)
    return [{"prompt": f"{each['instruction']}\n{each['input']}", "answer": each["output"]} for each in made]


def ours(model: str, steps: int, folder: Path) -> dict[str, float]:
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    method = {"kind": "grpo", "rewards": "json_fields", "samples": SAMPLES, "max_new_tokens": NEW_TOKENS}
    run = luthier.train(
        {
            "model": {"path": model, "dtype": "float32"},
            "data": {"train": str(data), "validation": 0},
            "method": method,
            "optim": {"steps": steps, "batch": PROMPTS},
            "run": {"dir": str(folder), "name": "bench", "save_every": steps},
        }
    )
    phases = [event.data["seconds"] for event in run.folder.events() if event.kind == "rollout"][1:]
    return {name: statistics.median(each[name] for each in phases) for name in phases[0]}


def theirs(model: str, steps: int, folder: Path) -> dict[str, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

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

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(each) % 7) for each in completions]

    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=NEW_TOKENS,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
    )
    path = str(find_base(ModelSection(path=model)).folder)
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    trainer = Timed(path, reward, args=config, train_dataset=Dataset.from_list(rows()), peft_config=adapter)
    trainer.train()
    middle = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    return {"generate": middle["generate"], "judge and learn": middle["step"] - middle["generate"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in (("luthier", ours), ("trl", theirs)):
            found = measure(asked.model, asked.steps, Path(folder))
            print(name, {phase: round(value, 3) for phase, value in found.items()}, round(sum(found.values()), 3))


if __name__ == "__main__":
    main()
