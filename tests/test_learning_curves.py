"""The learning curve against a plain loop that nobody here wrote the parts of: transformers' model and chat template,
PEFT's adapter, torch's AdamW, one example at a time with padding nowhere."""

from __future__ import annotations

import json
import random
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

import luthier
from luthier.arch import families
from luthier.batch import Step
from luthier.config.schema import Lora
from luthier.data.stream import Stream
from luthier.models import adapters, weights

STEPS, BATCH, SEED = 60, 8, 3
CLIP, WEIGHT_DECAY, BETAS, EPS = 1.0, 0.01, (0.9, 0.95), 1e-8
RATES = {"lora": 5e-3, "full": 1e-3}
LOSS_BOUND = 1e-5
"""Relative, at every step: the house's bound for float32. Measured: 1.7e-7 at most."""

Plain = dict[tuple[int, ...], list[int]]
"""ids of a row, up to the last one that anything is predicted from -> what each predicts, -100 where nothing is learnt.
"""


def rows() -> list[dict[str, str]]:
    made = random.Random(SEED)
    words = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor"]
    return [
        {"instruction": f"Say {each} {n} times", "output": " ".join([each] * n)}
        for each, n in ((made.choice(words), made.randint(1, 9)) for _ in range(160))
    ]


def plain_rows(folder: Path) -> Plain:
    """Every row by transformers' own chat template: the answer and the token that ends it are learnt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: Plain = {}
    for row in rows():
        asked = [{"role": "user", "content": row["instruction"]}]
        whole = [*asked, {"role": "assistant", "content": row["output"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(whole, return_dict=False)
        end = max(at for at, token in enumerate(ids) if token == tokenizer.eos_token_id)
        found[tuple(ids[:end])] = [ids[at] if at >= len(prompt) else -100 for at in range(1, end + 1)]
    return found


def ids_of(stream: Stream, index: int) -> list[tuple[int, ...]]:
    """The examples of a step, in their order, without the tokens behind the last learnt one's predecessor."""
    store = stream._store
    return [tuple(store[uid].ids[: store.computed[uid]].tolist()) for uid in stream.step_uids(index)[1]]


def plain_model(folder: Path, tune: str, scratch: Path) -> torch.nn.Module:
    """The same beginning: the base's weights, and an adapter that Luthier drew and PEFT reads."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()
    if tune == "full":
        return base
    arch, settings = families.read(folder), Lora(rank=4)
    decoder = weights.load(folder, arch, dtype=torch.float32, device=torch.device("cpu"))
    adapters.attach(decoder, arch, settings, seed=SEED)
    adapters.save_adapter(decoder, scratch, settings, str(folder))
    return PeftModel.from_pretrained(base, scratch, is_trainable=True).train()


def plain_curve(model: torch.nn.Module, order: list[list[tuple[int, ...]]], labels: Plain, rate: float) -> list[float]:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([each for each in groups if each["params"]], lr=rate, betas=BETAS, eps=EPS)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, STEPS)
    curve = []
    for step in order:
        learnt = sum(label != -100 for ids in step for label in labels[ids])
        total = 0.0
        for ids in step:
            logits = model(input_ids=torch.tensor([ids])).logits[0]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[ids]), reduction="sum") / learnt
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        curve.append(total)
    return curve


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_loss_follows_a_plain_loop_step_by_step(
    family: str, tune: str, tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(family)
    (tmp_path / "rows.json").write_text(json.dumps(rows()))
    order: dict[int, list[tuple[int, ...]]] = {}
    taken = Stream.step

    def noted(self: Stream, index: int) -> Step:
        order[index] = ids_of(self, index)
        return taken(self, index)

    monkeypatch.setattr(Stream, "step", noted)
    recipe: dict[str, Any] = {
        "model": {"path": str(folder), "dtype": "float32"},
        "data": {"train": str(tmp_path / "rows.json"), "validation": 0.0, "max_tokens": 256},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.0} if tune == "lora" else "full",
        "optim": {
            "lr": RATES[tune],
            "steps": STEPS,
            "batch": BATCH,
            "schedule": "linear",
            "warmup": 0,
            "min_lr_ratio": 0.0,
            "clip": CLIP,
            "weight_decay": WEIGHT_DECAY,
            "betas": list(BETAS),
            "eps": EPS,
            "budget_tokens": 256,
        },
        "run": {"name": "curve", "dir": str(tmp_path / "runs"), "device": "cpu", "seed": SEED, "log_every": 1},
    }
    run = luthier.train(recipe)
    ours = [event.data["loss"] for event in run.events if event.kind == "step"]
    labels = plain_rows(folder)
    ordered = [order[index] for index in range(STEPS)]
    theirs = plain_curve(plain_model(folder, tune, tmp_path / "adapter"), ordered, labels, RATES[tune])
    assert len(ours) == len(theirs) == STEPS
    differences = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
    print(f"{family} {tune}: {theirs[0]:.4f} -> {theirs[-1]:.4f}, largest relative difference {max(differences):.2g}")
    assert theirs[-1] < 0.7 * theirs[0], "something is learnt"
    assert max(differences) < LOSS_BOUND, (
        f"first at step {next(i for i, d in enumerate(differences) if d > LOSS_BOUND)}"
    )


# ------------------------------------------------------------------------------------- judged answers and rewards


@pytest.fixture(scope="module")
def learning() -> dict[str, Any]:
    """What `bench/learning.py` runs, whose figures stand in docs/preference.md and docs/reinforcement.md."""
    return runpy.run_path(str(Path(__file__).parents[1] / "bench" / "learning.py"))


@pytest.fixture(scope="module")
def began(learning: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> luthier.Run:
    return learning["start"](tmp_path_factory.mktemp("learning"))


@pytest.mark.long
def test_pairs_teach_which_answer_is_better(learning: dict[str, Any], began: luthier.Run) -> None:
    """On prompts that nothing was learnt from, about people who occur nowhere else: after dpo the reference is likelier
    than what the start said instead, beyond chance and beyond what it was before, and it loses less than a tenth of
    what the other loses; a reward model tells the two apart better than their lengths do, and the answers that it takes
    for the best have more fields right."""
    folder = began.path.parents[1]
    data = learning["pairs"](folder, began)
    held = Path(data["validation"])
    before = learning["preference"](began.merge(folder / "sft-merged"), held)
    run = learning["dpo"](folder, began, data)
    after = learning["preference"](run.merge(folder / "dpo-merged"), held)
    print(f"dpo: {before} -> {after}")
    assert after["low"] > max(before["high"], 0.5) and after["mean"] > 0.9
    better, worse = (
        points[-1]["mean"] - points[0]["mean"]
        for points in (learning["curve"](run, name) for name in ("logp_chosen", "logp_rejected"))
    )
    assert worse < 0 and better > 0.1 * worse
    judge = learning["reward"](folder, data)
    accuracy = learning["curve"](judge, "accuracy")[-1]
    best = learning["best_of"](folder, began, judge)
    print(f"reward: {accuracy}; best of {learning['BEST_OF']}: {best}")
    assert accuracy["low"] > max(learning["longer"](held)["high"], 0.85)
    assert best["low"] > 0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_rewards_lift_a_task_that_can_be_checked(kind: str, learning: dict[str, Any], began: luthier.Run) -> None:
    """From a short supervised start the share of right fields on held-out prompts rises by a margin that is not chance;
    ppo raises no alarm."""
    run = learning["rewarded"](began.path.parents[1], began, kind)
    gain, sampled = learning["curve"](run, "gain")[-1], learning["sampled"](run)
    print(f"{kind}: {gain}, alarms {learning['alarms'](run)}")
    assert gain["mean"] >= 0.04 and gain["low"] > 0
    assert sum(sampled[-5:]) / 5 > sum(sampled[:3]) / 3
    assert kind == "grpo" or not learning["alarms"](run)
