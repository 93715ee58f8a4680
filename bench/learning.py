"""Learning from judged answers and from rewards on `nano`, minutes on two cores: what each method does for answers to
prompts that nothing was learnt from.

    python bench/learning.py FOLDER          runs all of it into an empty folder, and prints what came of it
    python bench/learning.py FOLDER --draw   also puts tables and a picture into docs/

What goes in: the demonstration's task and a deliberately short supervised start, which gets few fields right. What
comes out: `FOLDER/learning.json`: of each method a curve, and for pairs how often the better answer is the likelier
one, as transformers computes it from the merged model, and how often it is the longer one, which is what a judge gets
right that knows nothing. The long tests hold these numbers to their bounds. Needs nothing but the package.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier.engine import measures
from luthier.nano import task
from luthier.scoring.verifiers import Asked, json_fields

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROWS, HELD_OUT, PROMPTS = 500, 128, 400
BEST_OF = 4
Curve = list[dict[str, float]]
"""Points {step, mean, low, high}; the interval holds the true mean in 95 of 100 cases."""


# ---------------------------------------------------------------------------------------------------- what is learnt


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompts(examples: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return [{"prompt": f"{each['instruction']}\n{each['input']}", "answer": each["output"]} for each in examples]


def train(folder: Path, name: str, **sections: Any) -> luthier.Run:
    run = {"name": name, "dir": str(folder / "runs"), "device": "cpu", **sections.pop("run", {})}
    return luthier.train({"model": {"path": "nano", "dtype": "float32"}, **sections, "run": run})


def start(folder: Path) -> luthier.Run:
    """Two epochs of `sft`; beside it lie `asks.jsonl` and `held.jsonl`, whose names of people occur nowhere else."""
    rows = task.examples(1, ROWS + PROMPTS)
    write(folder / "asks.jsonl", prompts(rows[ROWS:]))
    write(folder / "held.jsonl", prompts(task.examples(9, HELD_OUT, held_out=True)))
    data = {"train": write(folder / "sft.jsonl", rows[:ROWS]), "validation": 0}
    return train(folder, "sft", data=data, optim={"epochs": 2})


def pairs(folder: Path, began: luthier.Run) -> dict[str, str]:
    """The reference is the better answer; the worse one is what the start itself says, wrong as it is."""
    made = {}
    for seed, name in enumerate(("asks", "held")):
        rows = read(folder / f"{name}.jsonl")
        sampling = luthier.Sampling(max_tokens=64, temperature=1.0, seed=1000 * seed)
        said = began.session.answers([row["prompt"] for row in rows], sampling)
        made[name] = write(
            folder / f"{name}-pairs.jsonl",
            [
                {"prompt": row["prompt"], "chosen": row["answer"], "rejected": answer}
                for row, answer in zip(rows, said, strict=True)
                if answer.strip() and not task.score(answer, row["answer"])
            ],
        )
    return {"train": made["asks"], "validation": made["held"]}


def dpo(folder: Path, began: luthier.Run, data: dict[str, str]) -> luthier.Run:
    optim = {"batch": 16, "steps": 40, "lr": 2e-4, "schedule": "constant"}
    return train(
        folder, "dpo", data=data, method="dpo", tune={"from": str(began.path)}, optim=optim, run={"validate_every": 10}
    )


def reward(folder: Path, data: dict[str, str]) -> luthier.Run:
    optim = {"batch": 16, "steps": 20, "lr": 2e-3}
    return train(folder, "reward", data=data, method="reward", optim=optim, run={"validate_every": 5})


def rewarded(folder: Path, began: luthier.Run, kind: str) -> luthier.Run:
    """`grpo` or `ppo`: thirty rounds of 64 answers each."""
    data = {"train": str(folder / "asks.jsonl"), "validation": str(folder / "held.jsonl")}
    how = {"grpo": {"samples": 8}, "ppo": {"samples": 4, "updates": 2}}[kind]
    updates = how.get("updates", 1)
    method = {"kind": kind, "rewards": "json_fields", "max_new_tokens": 64, **how}
    optim = {"batch": 64 // how["samples"], "steps": 30 * updates, "lr": 2e-4, "schedule": "constant"}
    every = {"validate_every": 10 * updates}
    return train(folder, kind, data=data, method=method, tune={"from": str(began.path)}, optim=optim, run=every)


# ---------------------------------------------------------------------------------------------------- what came of it


def curve(run: luthier.Run, name: str) -> Curve:
    """A measure on rows held out, before step 1 and after."""
    found = [(event.step or 0, event.data["measures"][name]) for event in run.events if event.kind == "validation"]
    return [{"step": step, **{part: each[part] for part in ("mean", "low", "high")}} for step, each in found]


def sampled(run: luthier.Run) -> list[float]:
    """The mean reward of each round's answers."""
    return [event.data["reward"] for event in run.events if event.kind == "rollout" and event.data["update"] == 0]


def alarms(run: luthier.Run) -> list[str]:
    return [event.data["alarm"] for event in run.events if event.kind == "alarm"]


@torch.no_grad()
def preference(model: Path, rows: Path) -> dict[str, float]:
    """How often the better answer is likelier than the worse one, by transformers: mean, and its interval."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def likelihood(prompt: str, answer: str) -> float:
        asked = [{"role": "user", "content": prompt}]
        before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        whole = [*asked, {"role": "assistant", "content": answer}]
        ids = torch.tensor([tokenizer.apply_chat_template(whole, return_dict=False)])
        end = int((ids[0] == tokenizer.eos_token_id).nonzero().max())
        logp = decoder(input_ids=ids).logits[0].log_softmax(-1)
        places = range(len(before), end + 1)
        return sum(float(logp[place - 1, ids[0, place]]) for place in places)

    return share([likelihood(p["prompt"], p["chosen"]) > likelihood(p["prompt"], p["rejected"]) for p in read(rows)])


def longer(rows: Path) -> dict[str, float]:
    """How often the better answer is the longer one."""
    return share([len(pair["chosen"]) > len(pair["rejected"]) for pair in read(rows)])


def share(held: Sequence[bool]) -> dict[str, float]:
    found = measures.of_examples(held)
    assert found.low is not None and found.high is not None
    return {"mean": found.mean, "low": found.low, "high": found.high, "count": found.count}


def best_of(folder: Path, began: luthier.Run, judge: luthier.Run) -> dict[str, float]:
    """Fields that are right in the best of some answers by the judge, less those in the mean of the same answers."""
    out = folder / "best.jsonl"
    began.generate(folder / "held.jsonl", out, n=BEST_OF, judge=judge.path, max_tokens=64, temperature=1.0)
    judged = [
        [json_fields(each["text"], Asked((), row["answer"])) for each in said["answers"]]
        for said, row in zip(read(out), read(folder / "held.jsonl"), strict=True)
    ]
    means, bests = [sum(row) / len(row) for row in judged], [row[0] for row in judged]
    gain, spread = measures.normal([best - mean for best, mean in zip(bests, means, strict=True)])
    best, mean = (sum(each) / len(each) for each in (bests, means))
    return {"best": best, "mean": mean, "gain": gain, "low": gain - spread, "high": gain + spread}


def main(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def timed(name: str, act: Callable[[], luthier.Run]) -> luthier.Run:
        began = time.process_time()
        run = act()
        seconds[name] = time.process_time() - began
        return run

    began = timed("sft", lambda: start(folder))
    data = pairs(folder, began)
    held = folder / "held-pairs.jsonl"
    preferring, judging = timed("dpo", lambda: dpo(folder, began, data)), timed("reward", lambda: reward(folder, data))
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "preference": {
            "before": preference(began.merge(folder / "sft-merged"), held),
            "after": preference(preferring.merge(folder / "dpo-merged"), held),
            "longer": longer(held),
        },
        "dpo": {name: curve(preferring, name) for name in ("accuracy", "logp_chosen", "logp_rejected")},
        "reward": {name: curve(judging, name) for name in ("accuracy", "confidence")},
        "best_of": best_of(folder, began, judging),
    }
    for kind in ("grpo", "ppo"):
        run = timed(kind, lambda kind=kind: rewarded(folder, began, kind))  # type: ignore[misc]
        found[kind] = curve(run, "reward")
        found[f"{kind}_gain"] = curve(run, "gain")
        found[f"{kind}_sampled"] = sampled(run)
        found[f"{kind}_alarms"] = alarms(run)
    found["seconds"] = seconds
    (folder / "learning.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


# ---------------------------------------------------------------------------------------------------- shown

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 290, 48, 30, 56, 36
COLOURS = ("#2a6fdb", "#c8553d")
Line = tuple[str, Curve, Sequence[float]]
"""Name; the curve of rows held out; what was sampled while learning, one number a round, or nothing."""


def picture(lines: Sequence[Line], top: float, run: str, what: str) -> str:
    """An SVG of curves with their intervals.

    Args:
        top: the upper end of the scale, which begins at 0; in tenths.
        run: what was run; what: is shown.
    """
    across = max(point["step"] for _, points, _ in lines for point in points)

    def at(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / across
        return f"{x:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(value, top) / top):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for part in range(round(10 * top) + 1):
        value = part / 10
        x, y = at(0, value).split(",")
        parts.append(f'<path d="M{at(0, value)} L{at(across, value)}" stroke="#dddddd"/>')
        parts.append(f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end" fill="#444444">{value:g}</text>')
    for step in sorted({int(point["step"]) for _, points, _ in lines for point in points}):
        x, y = at(step, 0).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle" fill="#444444">{step}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="16" text-anchor="middle" fill="#222222">{run}</text>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle" fill="#444444">{what}</text>')
    highest = sorted(lines, key=lambda line: -line[1][-1]["mean"])
    for (name, points, rounds), colour in zip(lines, COLOURS, strict=True):
        for index, value in enumerate(rounds):
            x, y = at(across * (index + 0.5) / len(rounds), value).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="1.6" fill="{colour}" fill-opacity="0.5"/>')
        band = [at(p["step"], p["high"]) for p in points] + [at(p["step"], p["low"]) for p in reversed(points)]
        parts.append(f'<polygon points="{" ".join(band)}" fill="{colour}" fill-opacity="0.15"/>')
        path = " ".join(at(p["step"], p["mean"]) for p in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = at(points[-1]["step"], points[-1]["mean"]).split(",")
        below = 14 * [line[0] for line in highest].index(name) - 3  # two that end alike are told apart
        parts.append(f'<text x="{float(x) + 8}" y="{float(y) + below}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def by_round(points: Curve, updates: int) -> Curve:
    return [{**point, "step": point["step"] / updates} for point in points]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def cell(point: dict[str, float], digits: int = 2) -> str:
    return f"{point['mean']:.{digits}f} ({point['low']:.{digits}f} to {point['high']:.{digits}f})"


def put(page: str, text: str) -> None:
    """Between the marks on a page."""
    path = DOCS / page
    begin, end = "<!-- bench/learning.py -->", "<!-- end -->"
    old = path.read_text(encoding="utf-8")
    assert old.count(begin) == 1, page
    new = re.sub(f"(?s){begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", old)
    path.write_text(new, encoding="utf-8")


def draw(found: dict[str, Any]) -> None:
    """Tables and a picture in docs/."""
    dated = f"`python bench/learning.py FOLDER --draw`, {found['date']}"
    asked, dpo, judge, best = found["preference"], found["dpo"], found["reward"], found["best_of"]
    gained = f"{best['best']:.3f}; gain {best['gain']:.3f} ({best['low']:.3f} to {best['high']:.3f})"
    rows = [
        ["`dpo`: the better one is likelier (transformers)", cell(asked["before"]), cell(asked["after"])],
        ["`reward`: the better one has the higher reward", "", cell(judge["accuracy"][-1])],
        [f"right fields: mean of {BEST_OF} answers, best of {BEST_OF} by it", f"{best['mean']:.3f}", gained],
    ]
    ends = table([f"{int(asked['after']['count'])} held-out prompts", "before", "after"], rows)
    rows = [
        [str(int(right["step"])), cell(right), *(f"{each['mean']:.1f}" for each in logp)]
        for right, *logp in zip(dpo["accuracy"], dpo["logp_chosen"], dpo["logp_rejected"], strict=True)
    ]
    by_dpo = table(["`dpo`, step", "accuracy", "`logp_chosen`", "`logp_rejected`"], rows)
    rows = [
        [str(int(right["step"])), cell(right), f"{sure['mean']:.2f}"]
        for right, sure in zip(judge["accuracy"], judge["confidence"], strict=True)
    ]
    by_judge = table(["`reward`, step", "accuracy", "`confidence`"], rows)
    took = f"{found['seconds']['dpo']:.0f} and {found['seconds']['reward']:.0f} s of processor time"
    told = f"The better one of a pair is the longer one in {cell(asked['longer'])}."
    put("preference.md", f"{ends}\n\n{told}\n\n{by_dpo}\n\n{by_judge}\n\n({dated}; {took}.)")

    lines: list[Line] = [("grpo", found["grpo"], found["grpo_sampled"])]
    lines.append(("ppo", by_round(found["ppo"], 2), found["ppo_sampled"]))
    highest = max(max(rounds) for _, _, rounds in lines)
    run = "nano after a short sft, reward json_fields: thirty rounds of 64 answers, lr 2e-4"
    what = f"round; {HELD_OUT} held-out prompts, likeliest answers, 95 % (lines); mean of what was sampled (dots)"
    svg = picture(lines, math.ceil(10 * highest) / 10, run, what)
    (DOCS / "reinforcement.svg").write_text(svg, encoding="utf-8")
    rows = []
    for place, point in enumerate(found["grpo"]):
        cells = [(cell(found[kind][place], 3), _gain(found, kind, place)) for kind in ("grpo", "ppo")]
        rows.append([str(int(point["step"])), *(text for pair in cells for text in pair)])
    names = ["round", "`grpo`: held-out reward", "gain over round 0", "`ppo`: held-out reward", "gain over round 0"]
    told = ", ".join(f"of `{kind}` {', '.join(found[f'{kind}_alarms']) or 'none'}" for kind in ("grpo", "ppo"))
    took = f"{found['seconds']['grpo']:.0f} and {found['seconds']['ppo']:.0f} s of processor time"
    put(
        "reinforcement.md",
        f"{table(names, rows)}\n\n![Rewards of held-out and of sampled answers by round](reinforcement.svg)\n\n"
        f"({dated}; {took}.\nAlarms: {told}.)",
    )


def _gain(found: dict[str, Any], kind: str, place: int) -> str:
    return cell(found[f"{kind}_gain"][place], 3) if place else ""


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("folder", type=Path)
    asked.add_argument("--draw", action="store_true", help="put tables and pictures into docs/")
    given = asked.parse_args()
    ready = given.folder / "learning.json"
    made = json.loads(ready.read_text(encoding="utf-8")) if ready.exists() else main(given.folder)
    print(json.dumps(made, indent=1))
    if given.draw:
        draw(made)
