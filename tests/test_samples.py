"""Answers to held-out examples at validations: they are the model's own, each method asks what it learns from, and
nothing that is learnt depends on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from test_train import WORDS, Killed, final_state, killed_at, same_bits
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier import samples
from luthier.batch import Rendered
from luthier.errors import ConfigError
from luthier.runs import commands
from luthier.samples import SHOWN_CHARACTERS, TEXT_TOKENS, Sampler, shortened
from luthier.scoring.rewards import Rewards, Scored
from luthier.text import say

pytestmark = pytest.mark.usefixtures("no_fresh_process")
NEW = 12
"""Tokens of an answer."""


@pytest.fixture
def chats(write_rows: Callable[..., Path]) -> tuple[Path, Path]:
    """Rows to learn from, and held-out ones."""
    made = [
        {"instruction": f"Say {WORDS[i % 12]} {i}", "output": " ".join(WORDS[j % 12] for j in range(i, i + 1 + i % 7))}
        for i in range(30)
    ]
    return write_rows("train.json", made[:24]), write_rows("held-out.json", made[24:])


@pytest.fixture
def recipe(tiny_model: Callable[..., Path], chats: tuple[Path, Path], runs_dir: Path) -> dict[str, Any]:
    """Six steps in float32, validated at 0, 3 and 6."""
    train, held_out = chats
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(train), "validation": str(held_out), "max_tokens": 256},
        "tune": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "optim": {"lr": 1e-2, "epochs": 1, "batch": 4},
        "run": {
            "name": "first", "device": "cpu", "dir": str(runs_dir), "validate_every": 3, "save_every": 2,
            "samples": 4, "sample_tokens": NEW,
        },
    }  # fmt: skip


def changed(recipe: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {
        **recipe,
        **{name: {**recipe[name], **each} if isinstance(each, dict) else each for name, each in sections.items()},
    }


def answered(run: luthier.Run) -> list[tuple[int | None, list[dict[str, Any]]]]:
    return [(event.step, event.data["samples"]) for event in run.events if event.kind == "samples"]


def likeliest(model: Any, tokenizer: Any, question: str) -> tuple[str, str]:
    """The prompt by the tokenizer's own template, and transformers' greedy answer to it."""
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        made = model.generate(ids, max_new_tokens=NEW, do_sample=False, attention_mask=torch.ones_like(ids))
    return prompt, tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


# -------------------------------------------------------------------------------------------------- what is written


def test_the_answers_are_those_that_transformers_gives_before_and_after(recipe: dict[str, Any]) -> None:
    run = luthier.train(recipe)
    found = answered(run)
    assert [step for step, _ in found] == [0, 3, 6]
    (finished,) = [event.data for event in run.events if event.kind == "finished"]
    assert finished["weights_of_step"] == 6, "the adapter is the one that answered last"
    tokenizer = AutoTokenizer.from_pretrained(recipe["model"]["path"])
    base = AutoModelForCausalLM.from_pretrained(recipe["model"]["path"], dtype=torch.float32).eval()

    def expected(model: Any) -> list[dict[str, str]]:
        rows = []
        for i in range(24, 28):
            prompt, answer = likeliest(model, tokenizer, f"Say {WORDS[i % 12]} {i}")
            reference = " ".join(WORDS[j % 12] for j in range(i, i + 1 + i % 7))
            rows.append({"prompt": prompt, "reference": reference, "answer": answer})
        return rows

    assert found[0][1] == expected(base)
    tuned = peft.PeftModel.from_pretrained(base, str(run.path / "adapter")).eval()
    assert found[2][1] == expected(tuned)
    assert found[2][1] != found[0][1]


@pytest.mark.parametrize("tune", [{"kind": "lora", "rank": 4, "dropout": 0.1}, {"kind": "full"}])
def test_what_is_learnt_is_the_same_with_and_without_them_and_on_a_resume(
    recipe: dict[str, Any], tune: dict[str, Any]
) -> None:
    recipe = {**recipe, "tune": tune}
    without = luthier.train(changed(recipe, run={"name": "without", "samples": 0, "sample_tokens": 128}))
    assert not answered(without)
    whole = luthier.train(recipe)
    assert same_bits(final_state(whole), final_state(without))
    broken = changed(recipe, run={"name": "broken"})
    with pytest.raises(Killed):
        luthier.train(broken, on_event=killed_at("samples", 3))
    again = luthier.train(broken)
    assert same_bits(final_state(again), final_state(without))
    assert answered(again)[-1] == answered(whole)[-1]
    assert [step for step, _ in answered(again)] == [0, 3, 3, 6], "those of step 3 are written again with it"


def test_they_may_be_asked_for_on_an_unfinished_run(recipe: dict[str, Any]) -> None:
    with pytest.raises(Killed):
        luthier.train(changed(recipe, run={"samples": 0, "sample_tokens": 128}), on_event=killed_at("step", 5))
    assert [step for step, _ in answered(luthier.train(recipe))] == [6]


def test_as_many_as_there_are_where_more_are_asked_for(recipe: dict[str, Any]) -> None:
    run = luthier.train(changed(recipe, run={"samples": 64, "sample_tokens": 2}, optim={"steps": 1}))
    assert [len(each) for _, each in answered(run)] == [6, 6]


# ---------------------------------------------------------------------------------------------------- each method

ASKED = "<|im_start|>user\nSay 3<|im_end|>\n<|im_start|>assistant\n"
METHODS: dict[str, tuple[Any, dict[str, Any], tuple[str, str | None]]] = {
    "dpo": ("dpo", {"prompt": "Say 3", "chosen": "three", "rejected": "four"}, (ASKED, "three")),
    "kto, wanted": ("kto", {"prompt": "Say 3", "completion": "three", "label": True}, (ASKED, "three")),
    "kto, not wanted": ("kto", {"prompt": "Say 3", "completion": "four", "label": False}, (ASKED, None)),
    "completion": ("sft", {"prompt": "Three and four are ", "completion": "7"}, ("Three and four are ", "7")),
    "several turns": (
        "sft",
        {
            "messages": [
                {"role": "user", "content": "Say 3"},
                {"role": "assistant", "content": "three"},
                {"role": "user", "content": "And 4?"},
                {"role": "assistant", "content": "four"},
            ]
        },
        (ASKED, "three"),
    ),
    "grpo": (
        {"kind": "grpo", "rewards": "exact", "samples": 2, "max_new_tokens": 6},
        {"prompt": "Say 3", "answer": "three"},
        (ASKED, "three"),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_asks_what_it_learns_from(
    name: str, recipe: dict[str, Any], write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    def worth(self: Rewards, answers: Any) -> list[Scored]:
        judged[:] = [each.text for each in answers]
        return [Scored(float(len(each.text))) for each in answers]

    monkeypatch.setattr(Rewards, "score", worth)
    method, row, expected = METHODS[name]
    kind = "prompt" if name == "completion" else "auto"
    file = str(write_rows("held.json", [row]))
    train = [{**row, "prompt": f"{row['prompt']} {i}"} if "prompt" in row else row for i in range(4)]
    data = {"train": str(write_rows("rows.json", train)), "validation": file, "max_tokens": 256, "format": kind}
    run = {**recipe["run"], "samples": 1}
    if name == "grpo":
        del run["sample_tokens"]
    recipe = {**recipe, "method": method, "data": data, "run": run, "optim": {"lr": 1e-3, "steps": 1, "batch": 2}}
    made = luthier.train({**recipe, "tune": {"kind": "lora", "rank": 2}})
    assert [step for step, _ in answered(made)] == [0, 1]
    for _, each in answered(made):
        assert [(one["prompt"], one["reference"]) for one in each] == [expected]
        assert isinstance(each[0]["answer"], str)
    if name == "grpo":
        assert [one["answer"] for one in answered(made)[-1][1]] == judged, "what was judged, not written again"


def test_a_text_is_continued_from_a_beginning_of_it(recipe: dict[str, Any], write_rows: Callable[..., Path]) -> None:
    text = "Under the old bridge a slow green river carries three boats past the mill. " * 4
    rows = [{"text": text}]
    file = str(write_rows("texts.json", rows))
    held_out = str(write_rows("held.json", [{"text": "Far away. " + text}]))
    data = {"train": file, "validation": held_out, "max_tokens": 200}
    run = {**recipe["run"], "samples": 1}
    made = luthier.train({**recipe, "method": "pretrain", "data": data, "run": run, "optim": {"steps": 1, "batch": 1}})
    ((one,), _) = (each for _, each in answered(made))
    tokenizer = AutoTokenizer.from_pretrained(recipe["model"]["path"])
    ids = tokenizer("Far away. " + text).input_ids
    assert one["prompt"] == tokenizer.decode(ids[:TEXT_TOKENS])
    assert one["reference"] == tokenizer.decode(ids[TEXT_TOKENS : TEXT_TOKENS + NEW])


def test_what_an_answer_follows() -> None:
    def opening(*weights: float) -> int:
        row = np.asarray(weights, dtype=np.float32)
        return Rendered(0, np.zeros(len(row), dtype=np.int32), row).opening

    assert opening(0, 0, 0, 1, 1, 0) == 3
    assert opening(0, 1, 1, 1, 1, 1) == 3, "of a text half"
    assert opening(0, 1) == 1


# ----------------------------------------------------------------------------------------------------- what goes wrong


def test_memory_that_runs_out_costs_the_answers_only(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    without = luthier.train(changed(recipe, run={"name": "without", "samples": 0, "sample_tokens": 128}))
    own, failures = samples.generate, iter([False, True, False])

    def short(*arguments: Any, **named: Any) -> Any:
        made = own(*arguments, **named)
        if next(failures):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return made

    monkeypatch.setattr(samples, "generate", short)
    run = luthier.train(recipe)
    assert [step for step, _ in answered(run)] == [0, 6]
    (note,) = [event for event in run.events if event.kind == "note" and "run.samples" in event.data["text"]]
    assert note.step == 3 and "Tried to allocate 2 GiB" in note.data["text"]
    assert same_bits(final_state(run), final_state(without))


def test_another_error_is_not_taken_for_that(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(samples, "generate", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        luthier.train(recipe)


def test_keys_and_values_take_half_of_what_a_step_has_or_what_one_answer_needs(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other they are answered as at once."""
    token_bytes = 2 * 2 * 2 * 8 * 4  # keys and values of 2 layers, 2 heads of 8 numbers in float32
    lengths = [20, 100, 40]
    rooms = []
    own = Sampler._room

    def room(self: Sampler, given: list[int]) -> int:
        for step_bytes in (0, 2 * 140 * token_bytes, 2**40):
            monkeypatch.setattr(self, "_step_bytes", lambda step_bytes=step_bytes: step_bytes)
            rooms.append(own(self, lengths))
        monkeypatch.setattr(self, "_step_bytes", lambda: 0)
        return own(self, given)

    monkeypatch.setattr(Sampler, "_room", room)
    alone = luthier.train(recipe)
    assert rooms[:3] == [128, 140, 32 + 128 + 64], "whole blocks of 32 for each"
    monkeypatch.setattr(Sampler, "_room", own)
    assert answered(luthier.train(changed(recipe, run={"name": "at-once"}))) == answered(alone)


@pytest.mark.parametrize("validation", ["auto", 0.0])
def test_where_nothing_is_held_out_they_are_refused(recipe: dict[str, Any], validation: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        luthier.train(changed(recipe, data={"validation": validation}, run={"validate_every": None}))
    assert [each.id for each in caught.value.problems] == ["config.samples_of_nothing"]
    assert not (Path(recipe["run"]["dir"]) / "first").exists()


# ------------------------------------------------------------------------------------------------------ what is shown


def test_a_long_text_is_shortened_and_no_half_of_a_secret_stays() -> None:
    assert shortened("a" * SHOWN_CHARACTERS) == "a" * SHOWN_CHARACTERS
    half = SHOWN_CHARACTERS // 2
    assert shortened("b" * half + "c" * 30 + "d" * half) == "b" * half + " […30…] " + "d" * half
    secret = "hf_" + "s" * 34
    for at in (half - 20, half - 40):
        text = shortened("x" * at + " " + secret + " " + "y" * 3 * half)
        assert "sss" not in text
    assert len(shortened("z" * 10 * half)) < SHOWN_CHARACTERS + 20


def test_the_last_ones_are_shown_with_the_run(recipe: dict[str, Any]) -> None:
    run = luthier.train(recipe)
    shown = commands.show(run.folder)
    step, last = answered(run)[-1]
    assert shown.value["samples"] == {"step": step, "samples": last}
    lines = list(shown.lines())
    start = lines.index(say("runs.show.samples", step="6"))
    text = "\n".join(lines[start:])
    for each in last:
        for part in ("prompt", "reference", "answer"):
            assert all(line in text for line in each[part].splitlines())
    assert say("runs.show.sample_prompt") in text and say("runs.show.sample_reference") in text
