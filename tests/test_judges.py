"""Reward models once they are trained: merged as transformers reads them, refused where text is asked for, asked as
rewards and for the best of several answers, and right about conversations of several turns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_tokenizers as toy
from safetensors.torch import load_file, save_file
from test_train import WORDS
from transformers import AutoConfig, AutoModelForSequenceClassification

import luthier
from luthier import checks, cli
from luthier.data.examples import Chat, Message
from luthier.errors import DataError, ModelError, UserError
from luthier.export.merge import merge
from luthier.export.weights import Source
from luthier.models.reward import Judge
from luthier.run import Run
from luthier.runs.store import RunFolder
from luthier.serving import vllm
from luthier.session import open_judge, open_session

pytestmark = pytest.mark.usefixtures("no_fresh_process")

QUESTION = [{"role": "user", "content": "Say a word 3"}]
ANSWERS = [f"{WORDS[0]} 3", f"{WORDS[7]} 3", "something else"]


def recipe_of(model: Path, data: Path, runs: Path, **sections: Any) -> dict[str, Any]:
    """Of two words the first one of the list is the better one."""
    return {
        "model": {"path": str(model), "dtype": "float32"},
        "data": {"train": str(data), "validation": 0.1, "max_tokens": 256},
        "method": {"kind": "reward"},
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 1e-2, "epochs": 2, "batch": 8},
        "run": {"name": "judge", "device": "cpu", "dir": str(runs)},
        **sections,
    }


def pairs() -> list[dict[str, Any]]:
    better, worse = WORDS[:5], WORDS[5:]
    return [
        {"prompt": f"Say a word {n}", "chosen": f"{better[n % 5]} {n}", "rejected": f"{worse[n % 7]} {n}"}
        for n in range(44)
    ]


def bfloat16(folder: Path, out: Path) -> Path:
    """The same model in bfloat16."""
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file({name: each.bfloat16() for name, each in tensors.items()}, out / "model.safetensors", {"format": "pt"})
    return out


@pytest.fixture(scope="module")
def judged(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A trained judge by how it is tuned; with a head for tokens of its own where `tied` is false."""
    made: dict[tuple[str, bool], Run] = {}
    folder = tmp_path_factory.mktemp("judges")
    (folder / "pairs.json").write_text(json.dumps(pairs()))

    def make(tune: str = "lora", tied: bool = False) -> Run:
        if (tune, tied) not in made:
            base = bfloat16(tiny_model("qwen2", tie_word_embeddings=tied), folder / f"{tune}-{tied}")
            recipe = recipe_of(base, folder / "pairs.json", folder / f"runs-{tune}-{tied}", tune={"kind": tune})
            if tune == "full":
                recipe["optim"]["lr"] = 2e-3
                recipe["model"]["dtype"] = "bfloat16"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("luthier.proof.reload_in_fresh_process", lambda run: "not made in this test")
                made[tune, tied] = luthier.train(recipe)
        return made[tune, tied]

    return make


def by_transformers(folder: Path, judge: Judge, answers: list[str]) -> list[float]:
    """The numbers that transformers gives, in float32; every tensor of the folder has its place there."""
    oracle, told = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(told[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert oracle.config.num_labels == 1
    oracle.config.pad_token_id = None
    with torch.no_grad():
        rows = [torch.from_numpy(judge.ids(QUESTION, answer))[None] for answer in answers]
        return [oracle.eval()(input_ids=row).logits.item() for row in rows]


# -------------------------------------------------------------------------------------------------- what it becomes


@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_judge_is_what_transformers_reads(judged: Callable[..., Run], tied: bool, tmp_path: Path) -> None:
    run = judged("lora", tied)
    made = merge(run.path, tmp_path / "merged", device="cpu")
    assert {check.name: check.status for check in made.receipt.checks} == {"base": "pass", "agreement": "pass"}
    before, after = open_judge(run.path), open_judge(made.path, device="cpu")
    scored = [before.score([(QUESTION, answer) for answer in ANSWERS])]
    spread = max(scored[0]) - min(scored[0])
    assert scored[0][0] > scored[0][1] and spread > 0.1
    assert "lm_head.weight" not in load_file(made.path / "model.safetensors"), "nothing there asks it"
    scored += [after.score([(QUESTION, answer) for answer in ANSWERS])]
    oracle = by_transformers(made.path, before, ANSWERS)
    assert scored[0] == pytest.approx(oracle, abs=0.05 * spread), "the sum is rounded to the base's bfloat16"
    assert scored[1] == pytest.approx(oracle, abs=0.05 * spread)
    again = merge(run.path / "adapter", tmp_path / "again", device="cpu").path  # its own settings say it too
    assert (again / "model.safetensors").read_bytes() == (made.path / "model.safetensors").read_bytes()
    assert "pipeline_tag: text-classification" in (made.path / "README.md").read_text()


def test_a_merge_that_gives_other_rewards_is_not_written(
    judged: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Source.tensor
    monkeypatch.setattr(Source, "tensor", lambda self, name: own(self, name) * (1.5 if "score" in name else 1))
    with pytest.raises(ModelError, match="standard deviation"):
        merge(judged("lora", True).path, tmp_path / "merged", device="cpu")
    assert not (tmp_path / "merged").exists()


def test_a_judge_tuned_whole_is_what_transformers_reads(judged: Callable[..., Run]) -> None:
    run = judged("full")
    judge = open_judge(run.path)
    mine = judge.score([(QUESTION, answer) for answer in ANSWERS])
    oracle = by_transformers(run.path / "model", judge, ANSWERS)
    assert mine == pytest.approx(oracle, abs=0.05 * (max(mine) - min(mine))), "computed in bfloat16"
    assert checks.again(run.folder)["adapter_reload"]().status == "pass"
    tensors = load_file(run.path / "model" / "model.safetensors")
    assert {name for name, each in tensors.items() if each.dtype != torch.bfloat16} == {"score.weight"}
    head = tensors["score.weight"]
    assert head.dtype == torch.float32 and not torch.equal(head, head.bfloat16().float()), "as it was trained"
    with pytest.raises(ModelError, match="whole model already"):
        merge(run.path)


def test_a_judge_that_others_made_opens(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """As TRL and others save one: no head for tokens, whatever the base had."""
    folder = tiny_model("qwen2")
    config = AutoConfig.from_pretrained(folder, num_labels=1)
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "theirs")
    for path in [*folder.glob("token*"), *folder.glob("*.jinja")]:
        (tmp_path / "theirs" / path.name).write_bytes(path.read_bytes())
    judge = open_judge(tmp_path / "theirs", device="cpu")
    mine = judge.score([(QUESTION, answer) for answer in ANSWERS])
    theirs = by_transformers(tmp_path / "theirs", judge, ANSWERS)
    assert mine == pytest.approx(theirs, rel=0.02), "computed in bfloat16"


def test_the_receipt_notices_another_head(judged: Callable[..., Run], tmp_path: Path) -> None:
    run = judged("lora", True)
    shutil.copytree(run.path, tmp_path / "runs" / "judge")
    place = RunFolder.open(tmp_path / "runs" / "judge")
    assert checks.again(place)["adapter_reload"]().status == "pass"
    file = place.path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    assert any("score" in name for name in tensors)
    save_file({name: each * (1.5 if "score" in name else 1) for name, each in tensors.items()}, file)
    assert checks.again(place)["adapter_reload"]().status == "fail"


# -------------------------------------------------------------------------------------------------- where it is refused


def test_a_judge_writes_nothing_and_says_what_it_is_for(
    judged: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = judged("lora", True)
    merged = merge(run.path, tmp_path / "merged", device="cpu").path
    (tmp_path / "asked.txt").write_text("Say a word\n")
    for target in (run.path, merged, judged("full").path):
        for command in (
            ["chat", str(target)],
            ["generate", str(target), str(tmp_path / "asked.txt"), "-o", str(tmp_path / "out.jsonl")],
            ["export", str(target), "--gguf", "f16", "-o", str(tmp_path / "gguf")],
            ["serve", str(target), "--port", "0"],
        ):
            assert cli.run(command) == 2
            told = capsys.readouterr().err
            assert "this is a reward model" in told and f"--judge {target}" in told, command
        with pytest.raises(ModelError, match="reward model"):
            vllm.offer([str(target)], {})
    assert not (tmp_path / "out.jsonl").exists() and not (tmp_path / "gguf").exists()


def test_a_judge_is_no_base_for_text(
    judged: Callable[..., Run], tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    run = judged("lora", True)
    merged = merge(run.path, tmp_path / "merged", device="cpu").path
    rows = write_rows("sft.json", [{"instruction": f"Say {n}", "output": str(n)} for n in range(8)])
    recipe = recipe_of(merged, rows, tmp_path / "runs", method="sft")
    with pytest.raises(ModelError, match="reward model"):
        luthier.train(recipe)
    recipe = recipe_of(Path(run.config.model.path), rows, tmp_path / "runs")
    recipe["method"] = {"kind": "distill", "teacher": str(run.path)}
    with pytest.raises(ModelError, match="reward model"):
        luthier.train(recipe)
    with pytest.raises(UserError):
        open_session(recipe["model"]["path"], device="cpu").load(run.path)


# -------------------------------------------------------------------------------------------------- what it is asked


def test_the_best_of_several_answers_comes_first(
    judged: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = judged("lora", True), judged("lora", False)
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": f"Say a word {n}"}) + "\n" for n in range(3)))
    out = tmp_path / "out.jsonl"
    base = str(run.config.model.path)
    command = ["generate", base, str(tmp_path / "asked.jsonl"), "-o", str(out), "--n", "4", "--temperature", "1"]
    command += ["--max-tokens", "6", "--device", "cpu"]
    assert cli.run([*command, "--judge", str(run.path)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    judge = open_judge(run.path, device="cpu")
    for line in lines:
        rewards = [each["reward"] for each in line["answers"]]
        assert rewards == sorted(rewards, reverse=True) and len(set(rewards)) > 1
        asked = [{"role": "user", "content": line["prompt"]}]
        again = judge.score([(asked, each["text"]) for each in line["answers"]])
        assert rewards == pytest.approx(again, abs=1e-5)
    capsys.readouterr()
    assert cli.run([*command, "--judge", str(run.path)]) == 0
    assert "0 rows answered, 3 were there" in capsys.readouterr().out
    for judging in ([], ["--judge", str(other.path)]):
        assert cli.run([*command, *judging]) == 2
        assert "judge" in capsys.readouterr().err
    assert cli.run([*command[:-2], "--judge", base]) == 2, "a model without a scalar head judges nothing"


def test_a_judge_as_a_reward_hears_of_tools(
    judged: Callable[..., Run], tmp_path: Path, write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = judged("lora", True)
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    rows = write_rows("asks.json", [{"prompt": [*QUESTION], "tools": tools} for _ in range(4)])
    heard: list[Any] = []

    def score(self: Judge, answered: Any) -> list[float]:
        heard.extend(asked for asked, _ in answered)
        return [float(len(text)) for _, text in answered]

    monkeypatch.setattr(Judge, "score", score)
    recipe = recipe_of(Path(run.config.model.path), rows, tmp_path / "runs")
    recipe["method"] = {"kind": "grpo", "rewards": f"model:{run.path}", "samples": 2, "max_new_tokens": 4}
    recipe["data"] |= {"validation": 0.0, "accept_unread": ["tools"]}
    recipe["optim"] = {"lr": 1e-3, "steps": 1, "batch": 2}
    trained = luthier.train(recipe)
    assert [event.data["failures"] for event in trained.events if event.kind == "rollout"] == [{}]
    assert heard and all(isinstance(asked, Chat) and asked.tools for asked in heard)
    assert heard[0].messages == (Message("user", QUESTION[0]["content"]),)
    with pytest.raises(DataError, match="no place for them"):  # and its own template is held to showing them
        open_judge(run.path).ids(heard[0], "amber")


@pytest.mark.parametrize("rewrites", [False, True])
def test_the_last_answer_of_a_conversation_is_what_is_judged(
    rewrites: bool, tiny_model: Callable[..., Path], tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    """Pairs that go on for two answers, under a template that leaves what was said as it is, and under one that
    rewrites it: what validation says of them is what the judge says of their last answers."""

    def way(n: int, word: str) -> list[dict[str, str]]:
        said = [f"<think>\nhm {n}\n</think>\n\n{word}", f"{word} {n}"]
        middle = {"role": "user", "content": f"And {n}?"}
        return [{"role": "assistant", "content": said[0]}, middle, {"role": "assistant", "content": said[1]}]

    asked = [[{"role": "user", "content": f"Say a word {n}"}] for n in range(12)]
    rows = [
        {"prompt": asked[n], "chosen": way(n, WORDS[n % 5]), "rejected": way(n, WORDS[5 + n % 7])} for n in range(12)
    ]
    model, train = tiny_model("llama", max_position_embeddings=256), write_rows("rows.json", rows)
    recipe = recipe_of(model, train, tmp_path / "runs")
    recipe["data"]["validation"] = str(write_rows("held.json", rows))
    recipe["optim"] = {"lr": 1e-2, "steps": 3, "batch": 4}
    if rewrites:
        (tmp_path / "rewrites.jinja").write_text(toy.THINKING)
        recipe["data"]["template"] = str(tmp_path / "rewrites.jinja")
    run = luthier.train(recipe)
    best = [event.data["measures"] for event in run.events if event.kind == "validation"][-1]
    judge = open_judge(run.path)
    for side in ("chosen", "rejected"):
        scores = judge.score([([*row["prompt"], *row[side][:2]], row[side][2]["content"]) for row in rows])
        assert sum(scores) / len(scores) == pytest.approx(best[f"reward_{side}"]["mean"], abs=1e-4)
    ids = judge.ids([*rows[0]["prompt"], *rows[0]["chosen"][:2]], rows[0]["chosen"][2]["content"])
    assert ("hm 0" in judge.renderer.vocabulary.decode(ids.tolist())) != rewrites, "the template rewrote the history"
