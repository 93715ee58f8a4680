"""The demonstration: its machinery on a tiny model, and, where `nano` is there, the whole of it."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from transformers import AutoModelForCausalLM

from luthier import demo, proof
from luthier.config import load as config_load
from luthier.errors import RunError
from luthier.nano import task
from luthier.text import set_language
from luthier.training import train

NANO = resources.files("luthier.nano") / "base" / "config.json"


@pytest.fixture(scope="module")
def done(tiny_model, tmp_path_factory):
    """The demonstration with `nano` replaced by a tiny model and few rows; the recipe is otherwise its own."""
    folder = tmp_path_factory.mktemp("demo")
    small = {
        "model": str(tiny_model("qwen2", max_position_embeddings=512)),
        "optim.warmup": 0,
        "run.device": "cpu",
        "data.max_tokens": 512,
    }
    events = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
        patch.setattr(demo, "TRAIN_ROWS", 64)
        patch.setattr(demo, "TEST_ROWS", 4)
        patch.setattr(demo, "LONGEST_ANSWER", 8)
        patch.setattr(demo, "train", lambda config, **how: train(config, small, **how))
        first = demo.demo(folder / "runs", on_event=events.append)
    return first, events


def test_it_leaves_a_run_like_any_other(done):
    found, events = done
    assert found.run.name == "demo" and found.run.state == "finished"
    assert [event.kind for event in events][-1] == "finished"
    steps = [event for event in events if event.kind == "step"]
    assert len(steps) == 4 and steps[-1].data["num_steps"] == 4
    checks = {check.name: check.status for check in found.run.receipt.checks}
    assert {checks[name] for name in ("rows_counted", "prompt_law", "stop_token", "effect")} == {"pass"}


def test_it_learns_from_the_task_and_not_from_what_is_asked(done):
    found, _ = done
    rows = [json.loads(line) for line in (found.run.path.parent / "demo-data" / "train.jsonl").open()]
    assert rows == task.examples(0, 64)
    questions = {example.question for example in found.examples}
    assert questions and not questions & {f"{row['instruction']}\n{row['input']}" for row in rows}
    for example in found.examples:
        assert task.score(example.expected, example.expected) == 1


def test_both_models_are_asked_and_the_merged_one_agrees(done):
    found, _ = done
    assert found.merged_agrees == (4, 4)
    assert 0 <= found.base_score <= 1 and 0 <= found.tuned_score <= 1
    AutoModelForCausalLM.from_pretrained(found.merged_path)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_printed_names_scores_and_places(done, language):
    found, _ = done
    set_language(language)
    text = "\n".join(demo.lines(found))
    for word in (str(found.run.path), str(found.merged_path), found.examples[0].question.splitlines()[-1]):
        assert word in text
    for check in found.run.receipt.checks:
        assert check.sentence in text and check.evidence in text


@pytest.mark.parametrize("place", ["file/runs", "file"])
def test_a_folder_that_cannot_be_written_is_the_user_s_to_mend(tmp_path, place):
    (tmp_path / "file").touch()  # also root cannot make a folder in a file
    with pytest.raises(RunError) as caught:
        demo.demo(tmp_path / place)
    assert str(tmp_path / "file") in str(caught.value)


def test_the_recipe_is_sound():
    recipe = resources.files("luthier.nano") / "recipes" / "demo.yaml"
    config = config_load.load(recipe, {"data.train": "x.jsonl"})
    assert config.model.path == "nano" and config.method.kind == "sft"


@pytest.mark.long
@pytest.mark.skipif(not NANO.is_file(), reason="nano is not in this checkout")
def test_nano_learns_the_task(tmp_path):
    found = demo.demo(tmp_path)
    assert found.base_score < 0.10 and found.tuned_score >= 0.90
    agreed, asked = found.merged_agrees
    assert agreed == asked > 0
