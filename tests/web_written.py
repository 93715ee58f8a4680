"""Runs that nobody trained: folders with the events that training would have left, as many as wanted at once.

What goes in: a folder and a name. What comes out: a run folder, being written or done with.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.config import load as config_load
from luthier.runs.files import FORMAT
from luthier.runs.store import RunFolder

TOKENS = 2048
RATE = 4096.0


def recipe(runs_dir: Path, name: str, values: Mapping[str, Any]) -> Any:
    """`values`: dotted overrides."""
    given = {"model": "nano", "data": {"train": "rows.jsonl", "max_tokens": 256}, "method": "sft", "tune": "lora"}
    return config_load.load(given, {"run.name": name, "run.dir": str(runs_dir), **values})


def begun(runs_dir: Path, name: str, steps: int, **values: Any) -> RunFolder:
    """A run that is being written by this process, before its first step; close it."""
    config = recipe(runs_dir, name, values)
    run = RunFolder.claim(config, config_load.dump(config))
    run.emit("started", {"num_steps": steps, "steps_per_epoch": steps})
    run.emit("data", {"train": 400, "validation": 20, "excluded": {"empty": 3}, "tokens": 81920})
    run.emit("model", {"trainable": 1_000_000, "total": 20_000_000, "structure": ["nano"]})
    return run


def step_data(step: int, steps: int, seed: int = 0) -> dict[str, Any]:
    """What a step would say; the loss falls, with noise."""
    noise = random.Random(f"{seed}/{step}").gauss(0, 0.06)
    return {
        "loss": 2.4 * math.exp(-3 * step / steps) + 0.35 + noise,
        "lr": 1e-3 * (1 - step / steps),
        "grad_norm": 0.6 + 0.4 * abs(noise) + math.exp(-step / 20),
        "epoch": step / steps,
        "num_steps": steps,
        "tokens": TOKENS,
        "tokens_per_s": RATE * (1 + noise / 2),
        "memory_bytes": 900_000_000 + 40_000_000 * (step > steps // 3),
    }


def go_on(run: RunFolder, first: int, last: int, steps: int, *, every: int = 50, seed: int = 0) -> None:
    """Steps `first` to `last`, with a validation and its samples after each `every`."""
    for step in range(first, last + 1):
        run.emit("step", step_data(step, steps, seed), step=step)
        if step % every == 0:
            loss = 2.5 * math.exp(-3 * step / steps) + 0.42
            run.emit("validation", {"loss": loss, "terms": {"loss": loss}}, step=step)
            run.emit("samples", samples(step), step=step)
            run.emit("checkpoint", {"folder": f"checkpoints/step-{step}"}, step=step)


def samples(step: int) -> dict[str, Any]:
    answers = [("What is the capital of France?", "Paris."), ("Say it in one word: the opposite of cold.", "Warm.")]
    return {
        "samples": [
            {"prompt": prompt, "reference": answer, "answer": f"{answer} ({step})"} for prompt, answer in answers
        ],
    }


def finish(run: RunFolder, steps: int) -> None:
    seconds = steps * TOKENS / RATE
    facts = {"steps": steps, "tokens": steps * TOKENS, "seconds": seconds, "peak_memory_bytes": 940_000_000}
    run.emit("finished", {**facts, "outputs": []}, step=steps)


def done(runs_dir: Path, name: str, steps: int = 200, seed: int = 0, **values: Any) -> None:
    """A run from its beginning to its end."""
    run = begun(runs_dir, name, steps, **values)
    go_on(run, 1, steps, steps, seed=seed)
    finish(run, steps)
    run.close()


def long_log(run: RunFolder, steps: int, after: int = 0) -> None:
    """Appends so many steps behind what was said, in one go; each through `emit` takes a minute for a hundred
    thousand."""
    seq, now = run.events()[-1].seq, time.time() - steps
    lines = []
    for number in range(1, steps + 1):
        step, kind, data = after + number, "step", step_data(after + number, after + steps)
        event = {"run": run.name, "seq": seq + number, "attempt": 1, "time_s": now + number, "step": step, "kind": kind}
        lines.append(json.dumps({"format": FORMAT, **event, "data": data}))
    with open(run.path / "events.jsonl", "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
