"""The plan's peak against the bytes that tensors really hold, in runs that hold more than the model that trains and its
micro-batch: a reference, a teacher, a reward model, a critic of its own, and answers that are written."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from test_peak import Live

import luthier
from luthier import moments, planner, training
from luthier.data import pack
from luthier.engine import loop, rehearsal
from luthier.engine.loop import Job
from luthier.kernels import select
from luthier.models import reward
from luthier.planner import MemoryPlan

WIDE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_attention_heads": 8,
    "num_hidden_layers": 3,
    "vocab_size": 2048,
}
WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor"]


class Trained(Exception):
    """Two steps are made, and nothing more is asked."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A folder with rows of every shape, and two runs: `adapter` and, with a judge, `judge`."""
    folder = tmp_path_factory.mktemp("peaks")
    text = {n: " ".join(WORDS[(n + i) % 8] for i in range(30)) for n in range(16)}
    pairs = [{"prompt": f"Say {text[n]}", "chosen": text[(n + 1) % 16], "rejected": text[(n + 3) % 16]} for n in text]
    rows: dict[str, list[dict[str, Any]]] = {
        "pairs": pairs,
        "marked": [{"prompt": each["prompt"], "completion": each["chosen"], "label": n % 2 == 0}
                   for n, each in enumerate(pairs)],
        "answers": [{"instruction": each["prompt"], "output": each["chosen"]} for each in pairs],
        "prompts": [{"prompt": each["prompt"], "answer": each["chosen"]} for each in pairs],
        # No two begin alike, or beginnings would be computed once.
        "texts": [{"text": f"{WORDS[n % 8]} {n} " + " ".join([text[n % 16]] * (1 + n % 5))} for n in range(48)],
        "own": [{"instruction": f"{WORDS[n % 8]} {n} {text[n % 16]}", "output": text[(n + 1) % 16]} for n in range(24)],
        "judged": [{"prompt": f"{WORDS[n % 8]} {n} {text[n % 16]}", "chosen": text[(n + 1) % 16],
                    "rejected": text[(n + 3) % 16]} for n in range(24)],
    }  # fmt: skip
    for name, each in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(each), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        patch.setattr("luthier.proof.reload_in_fresh_process", lambda run: "not made in this test")
        for name, method in (("adapter", "sft"), ("judge", "reward")):
            luthier.train(recipe(folder, tiny_model, method, name=name))
    return folder


ROWS = {"sft": "answers", "distill": "answers", "kto": "marked", "grpo": "prompts", "ppo": "prompts"}


def recipe(place: Path, tiny_model: Callable[..., Path], method: Any, **sections: Any) -> dict[str, Any]:
    kind = method if isinstance(method, str) else method["kind"]
    name, dtype = sections.pop("name", "run"), sections.pop("dtype", "float32")
    return {
        "model": {"path": str(tiny_model("llama", **WIDE)), "dtype": dtype},
        "data": {"train": str(place / f"{ROWS.get(kind, 'pairs')}.json"), "max_tokens": 400},
        "method": method,
        "tune": {"kind": "lora", "rank": 8},
        "optim": {"lr": 1e-3, "steps": 2, "batch": 8, **sections.pop("optim", {})},
        "run": {"name": name, "device": "cpu", "dir": str(place / "runs")},
        **sections,
    }


class Seen(NamedTuple):
    """peak: bytes that tensors held at most; planned: for the largest micro-batch that there was, and for the most
    tokens that a reward model read at once."""

    peak: int
    planned: MemoryPlan

    @property
    def share(self) -> float:
        return self.planned.peak_bytes / self.peak

    def near(self) -> bool:
        return abs(self.share - 1) < 0.05

    def __repr__(self) -> str:
        return f"planned {self.share:.3f} of {self.peak:,} bytes: {self.planned}"


def storages() -> dict[int, torch.Tensor]:
    """Of every tensor that there is and has one: what another file's tests left may be packed for a library."""
    there = (each for each in gc.get_objects() if issubclass(type(each), torch.Tensor))
    return {each.untyped_storage()._cdata: each for each in there if torch._C._has_storage(each)}


@pytest.fixture
def measure(
    place: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Seen]]:
    """Trains by a recipe from where the rehearsal would be, and counts. In plain chains, whose buffers the plan counts
    whether or not somebody compiled them (`test_peak.py`). whole: with the rehearsal, against the plan as it is written
    before anything is loaded."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    live, jobs, shapes = Live(), list[Job](), set[tuple[int, int]]()
    objective, fit, judged, microbatches = loop._objective, loop.fit, [0], pack.microbatches
    rehearse, rehearsed = rehearsal.rehearse, [False]

    def begun(job: Job, state: Any) -> None:
        jobs.append(job)
        for key, tensor in storages().items():
            if key not in before:
                live.hold(tensor)
        live.__enter__()
        if rehearsed[0]:
            rehearse(job, state)

    def made(job: Job, state: Any) -> Any:
        try:
            fit(job, state)
        finally:
            live.__exit__(None, None, None)
        raise Trained

    def watched(job: Job, step: Any, batch: Any, measures: Any = None) -> Any:
        shapes.add((batch.num_tokens, len(batch.rows)))
        return objective(job, step, batch, measures)

    def asked(*given: Any) -> Any:
        found = microbatches(*given)
        judged.extend(each.num_tokens for each in found)
        return found

    monkeypatch.setattr(reward, "pack", SimpleNamespace(microbatches=asked, call_tokens=pack.call_tokens))
    monkeypatch.setattr(rehearsal, "rehearse", begun)
    monkeypatch.setattr(training, "_start", lambda *given: None)  # asks a few prompts, for the receipt
    monkeypatch.setattr(training.loop, "fit", made)
    monkeypatch.setattr(loop, "_objective", watched)
    gc.collect()
    before = storages()

    def run(method: Any, *, whole: bool = False, **sections: Any) -> Seen:
        rehearsed[0] = whole
        sections.setdefault("run", {"name": "run", "device": "cpu", "dir": str(tmp_path / "runs")})
        with pytest.raises(Trained), select.using("torch"):
            luthier.train(recipe(place, tiny_model, method, **sections))
        plan, (tokens, rows) = jobs[0].room.plan, max(shapes)
        if whole:
            assert jobs[0].run.read_json("plan.json")["memory"] == plan.memory.to_json()
            return Seen(live.peak, plan.memory)
        spec, load = plan.limits.spec, plan.limits.load
        texts = plan.memory.answer_texts or None
        monkeypatch.setattr(moments, "JUDGED_TOKENS", max(judged))
        return Seen(live.peak, planner.at(spec, load, plan.policies, tokens, "cpu", 2**40, rows, texts))

    yield run


FULL = {"kind": "full"}
DTYPES = ["float32", pytest.param("bfloat16", marks=pytest.mark.long)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("method", "tune"),
    [
        ("dpo", "fresh"),
        ("dpo", "continued"),
        ("dpo", "full"),
        ("kto", "fresh"),
        ("reward", "fresh"),
        ("reward", "full"),
    ],
)
def test_judged_answers(measure: Callable[..., Seen], place: Path, method: str, tune: str, dtype: str) -> None:
    """The reference is asked before step 1, when it is the model itself: it takes no bytes of its own."""
    tuned = {"fresh": {"rank": 8}, "continued": {"from": str(place / "runs" / "adapter")}, "full": FULL}[tune]
    seen = measure(method, tune=tuned, dtype=dtype, optim={"budget_tokens": 1000})
    assert seen.planned.reference == 0
    assert seen.near(), seen


@pytest.mark.parametrize("held_out", [None, 0.4])
@pytest.mark.parametrize(
    ("method", "tune", "batch"),
    [("pretrain", "fresh", 4), ("pretrain", "full", 4), ("sft", "fresh", 2), ("dpo", "fresh", 5)],
)
def test_the_plan_that_is_written(
    measure: Callable[..., Seen], place: Path, method: str, tune: str, batch: int, held_out: float | None
) -> None:
    """Of steps that fill a small part of the budget; rows that are held out come more at once."""
    rows = {"pretrain": "texts", "sft": "own", "dpo": "judged"}[method]
    data = {"train": str(place / f"{rows}.json"), "max_tokens": 400}
    data |= {} if held_out is None else {"validation": held_out}
    tuned = {"fresh": {"rank": 8}, "full": FULL}[tune]
    seen = measure(method, whole=True, tune=tuned, data=data, optim={"batch": batch})
    assert seen.planned.micro_tokens < seen.planned.budget_tokens
    assert seen.near(), seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("top_k", [None, 8])
def test_a_teacher(
    measure: Callable[..., Seen], tiny_model: Callable[..., Path], top_k: int | None, dtype: str
) -> None:
    """Whose logits, and what comes of them, are nearly all that is held."""
    teacher = tiny_model("llama", seed=1, **WIDE | {"hidden_size": 192})
    seen = measure({"kind": "distill", "teacher": str(teacher), "top_k": top_k}, dtype=dtype)
    assert seen.planned.teacher > 0 and seen.near(), seen


GRPO = {"kind": "grpo", "rewards": "exact", "samples": 4, "max_new_tokens": 32, "updates": 2}
FEW = {"batch": 3, "budget_tokens": 500}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tune", ["fresh", "continued", "full"])
def test_a_reference_of_ones_own_answers(measure: Callable[..., Seen], place: Path, tune: str, dtype: str) -> None:
    """Under a fresh adapter it is the base, which is there; one that goes on is copied, and so is a whole model."""
    tuned = {"fresh": {"rank": 8}, "continued": {"from": str(place / "runs" / "adapter")}, "full": FULL}[tune]
    seen = measure({**GRPO, "kl": 0.1}, tune=tuned, dtype=dtype, optim=FEW)
    assert (seen.planned.reference > 0) is (tune != "fresh")
    assert seen.near(), seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_critic(measure: Callable[..., Seen], critic: str, dtype: str) -> None:
    """One of its own is a second adapter, with a second pass whose layers keep as much as those of the first."""
    seen = measure({**GRPO, "kind": "ppo", "kl": 0.1, "critic": critic}, dtype=dtype, optim=FEW)
    assert seen.near(), seen


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reward_model(measure: Callable[..., Seen], place: Path, dtype: str) -> None:
    """It is loaded as it was trained, in float32 here, whatever the policy computes in. It reads most when rewards are
    rehearsed, before there are gradients."""
    judge = place / "runs" / "judge"
    seen = measure({**GRPO, "rewards": f"model:{judge}"}, dtype=dtype, optim=FEW)
    held = sum(each.stat().st_size for each in (judge / "adapter").glob("*.safetensors"))
    assert seen.planned.judges > held and seen.near(), seen
    assert seen.planned.answers > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tune", ["fresh", "full"])
@pytest.mark.parametrize("texts", [None, 4])
def test_answers_that_take_more_than_an_update(
    measure: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch, tune: str, texts: int | None, dtype: str
) -> None:
    """A cache of keys and values of many long texts, and the prompts that are read; of fewer texts less than an update,
    which is of several micro-batches here: gradients are all there then."""
    if texts is not None:
        monkeypatch.setattr(planner, "_answer_texts", lambda *given: texts)
    method = {**GRPO, "updates": 1, **({"samples": 16, "max_new_tokens": 64} if texts is None else {"kl": 0.1})}
    optim = {"batch": 4, "budget_tokens": 400} if texts is None else FEW
    tuned = {"fresh": {"rank": 8}, "full": FULL}[tune]
    seen = measure(method, tune=tuned, dtype=dtype, optim=optim)
    assert seen.planned.answer_texts == (texts or 64)
    assert seen.near(), seen
    assert (seen.planned.answers > 0) is (texts is None)
