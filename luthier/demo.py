"""The demonstration: a small model learns a task in front of your eyes, and proves it.

What goes in: nothing; the base model `nano` and the task come with the package. What comes out: base against tuned
model on sentences neither has seen, a merged model that was written and read back, and the run's receipt, all in an
ordinary run folder.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from luthier.config import load as config_load
from luthier.generate import Sampling
from luthier.nano import task
from luthier.run import Run
from luthier.runs import files, receipt_page
from luthier.runs.events import Event
from luthier.runs.recipe import free_name
from luthier.session import Session, open_session
from luthier.text import say
from luthier.training import train

TRAIN_ROWS, TEST_ROWS, SHOWN = 4000, 100, 3
"""Rows to learn from; held-out rows to score, which give a standard error of at most 5 points; rows to show."""
LONGEST_ANSWER = 120
"""Tokens; the task's answers have at most about 90."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One held-out row with both answers."""

    question: str
    expected: str
    base: str
    tuned: str


@dataclasses.dataclass(frozen=True)
class Demo:
    """base_score, tuned_score: share of held-out rows answered exactly; merged_agrees: how many of the answers asked
    again of the merged model, read back from disk, came out the same, of how many."""

    run: Run
    base_score: float
    tuned_score: float
    examples: tuple[Example, ...]
    merged_path: Path
    merged_agrees: tuple[int, int]
    seconds: float


def demo(directory: str | Path = "runs", *, on_event: Callable[[Event], None] | None = None) -> Demo:
    """Run it; writes `<directory>/demo` (or demo-2...), beside it its rows and, of an adapter, the merged model, and
    nothing else.

    Raises:
        RunError: the directory cannot be written.
    """
    started = time.monotonic()
    path = Path(directory) / "demo"
    if path.exists():
        path = path.with_name(free_name(path))
    rows = _write_rows(path.parent / f"{path.name}-data")
    recipe = resources.files("luthier.nano") / "recipes" / "demo.yaml"
    overrides = {"data.train": str(rows), "run.name": path.name, "run.dir": str(directory)}
    run = train(config_load.load(Path(str(recipe)), overrides), on_event=on_event)
    held_out = task.examples(1, TEST_ROWS, held_out=True)
    questions = [f"{row['instruction']}\n{row['input']}" for row in held_out]
    expected = [row["output"] for row in held_out]
    session = open_session(run.path, compare=True)
    base, tuned = (_answers(session, questions, side) for side in (False, True))
    merged = _merge(run)
    again = _answers(open_session(merged), questions, True)
    shown = [Example(*four) for four in zip(questions, expected, base, tuned, strict=True)][:SHOWN]
    return Demo(
        run=run,
        base_score=_score(base, expected),
        tuned_score=_score(tuned, expected),
        examples=tuple(shown),
        merged_path=merged,
        merged_agrees=(sum(a == b for a, b in zip(again, tuned, strict=True)), len(tuned)),
        seconds=time.monotonic() - started,
    )


def lines(done: Demo) -> list[str]:
    """What the command prints when it is over: answers, scores, the receipt."""
    shown = []
    for each in done.examples:
        shown += [
            say("demo.question", text=each.question.splitlines()[-1]),
            say("demo.base", text=" ".join(each.base.split())[:160]),
            say("demo.tuned", text=each.tuned),
            "",
        ]
    agreed, asked = done.merged_agrees
    receipt = done.run.receipt
    return [
        *shown,
        say("demo.score", base=100 * done.base_score, tuned=100 * done.tuned_score, rows=TEST_ROWS),
        say("demo.merged", path=done.merged_path, agreed=agreed, asked=asked),
        "",
        say("demo.receipt", path=done.run.path / "receipt.md"),
        *receipt_page.check_lines(receipt.checks),
        "",
        say("demo.next", path=done.run.path, seconds=done.seconds),
    ]


def _write_rows(folder: Path) -> Path:
    path = folder / "train.jsonl"
    rows = task.examples(0, TRAIN_ROWS)
    with files.user_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _answers(session: Session, questions: list[str], tuned: bool) -> list[str]:
    return session.answers(questions, Sampling(max_tokens=LONGEST_ANSWER), tuned=tuned)


def _score(answers: list[str], expected: list[str]) -> float:
    return sum(map(task.score, answers, expected)) / len(expected)


def _merge(run: Run) -> Path:
    """The tuned model as one ordinary folder; where whole weights were tuned, the run has it already."""
    if run.model_path is not None:
        return run.model_path
    return run.merge()
