"""The main job through the command line, on tiny models: train, talk, see the demonstration."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luthier import cli, demo, proof
from luthier.runs.store import RunFolder
from luthier.session import open_session
from luthier.text import say
from luthier.training import train

ROWS = [{"instruction": f"Say {n}", "output": f"It is {n}."} for n in range(12)]


@pytest.fixture(scope="module")
def place(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows and a recipe of two steps."""
    folder = tmp_path_factory.mktemp("main-job")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    recipe = {
        "model": {"path": str(tiny_model("qwen2")), "dtype": "float32"},
        "data": {"train": "rows.json", "validation": 0.0},
        "tune": {"rank": 4},
        "optim": {"lr": 1e-2, "steps": 2, "batch": 4},
        "run": {"name": "first", "device": "cpu"},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # YAML holds JSON
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(place)
    yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`run("chat", "first", typed="Hello\\n")`: exit code, stdout, stderr."""

    def call(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """The run of the recipe, made by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert cli.run(["train", "recipe.yaml"]) == 0
    return place / "runs" / "first"


# ---------------------------------------------------------------------------------------------------- train


def test_train_ends_well_and_says_how_to_talk_to_it(run: Any, trained: Path) -> None:
    code, out, err = run("train", "recipe.yaml", "run.name=second")
    assert code == 0, err
    assert "runs/second" in out and "0 failed" in out and "luthier chat" in out
    assert (Path("runs/second/adapter/adapter_config.json")).is_file()
    events = RunFolder.open("runs/second").events()
    structure = next(event.data["structure"] for event in events if event.kind == "model")
    assert len(structure) > 10 and "\n".join(structure) in err, "the structure is shown at the start"
    assert "step 2/2" in err and "finished" in err


def test_train_tells_programs_what_came_of_it(run: Any, trained: Path) -> None:
    code, out, _ = run("train", "recipe.yaml", "run.name=third", "--json")
    value = json.loads(out)
    assert code == 0 and value["state"] == "finished" and value["checks"]["failed"] == 0
    assert Path(value["output"]).is_dir() and value["receipt"]["checks"]


def test_a_check_that_fails_fails_the_command(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "reload_in_fresh_process", lambda run: "the files are gone")
    code, out, _ = run("train", "recipe.yaml", "run.name=broken")
    assert code == 1 and "1 failed" in out
    assert Path("runs/broken/adapter").is_dir(), "nothing is taken away for it"


# ---------------------------------------------------------------------------------------------------- chat


def test_chat_answers_what_comes_through_a_pipe(run: Any, trained: Path) -> None:
    code, out, err = run("chat", "first", "--max-tokens", "8", typed="Say 1\n/new\n")
    assert (code, err) == (0, "")
    answer = open_session(trained).answer("Say 1", cli_sampling(8))
    greeting = say("chat.greeting", label="first", reset="/new", quit="/quit")
    assert out == f"{greeting}\n{answer}\n{say('chat.new')}\n"


def cli_sampling(max_tokens: int) -> Any:
    from luthier.generate import Sampling

    return Sampling(max_tokens=max_tokens)


def test_chat_compares_with_the_base(run: Any, trained: Path) -> None:
    code, out, _ = run("chat", "first", "--compare", "base", "--max-tokens", "8", typed="Say 1\n")
    session = open_session(trained, compare=True)
    tuned, base = (session.answer("Say 1", cli_sampling(8), tuned=side) for side in (True, False))
    assert code == 0 and f"[first] {tuned}\n[{session.base_label}] {base}\n" in out


def test_chat_gives_programs_one_object(run: Any, trained: Path) -> None:
    code, out, _ = run("chat", "first", "--json", "--max-tokens", "8", typed="Say 1\nSay 2\n")
    value = json.loads(out)
    assert code == 0 and [turn["role"] for turn in value["turns"]] == ["user", "assistant"] * 2
    assert open_session(trained).answer("Say 1", cli_sampling(8)) == value["turns"][1]["content"]


@pytest.mark.parametrize("template", ["chatml", "no-such-file.jinja"])
def test_a_run_is_not_talked_to_with_another_template(run: Any, trained: Path, template: str) -> None:
    code, out, err = run("chat", "first", "--template", template, typed="Say 1\n")
    assert (code, out) == (2, "") and template in err and "data.template" in err


def test_ctrl_c_at_the_prompt_ends_the_chat_without_a_complaint(
    run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed() -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    monkeypatch.setattr(cli, "questions", pressed)
    code, _, err = run("chat", "first")
    assert (code, err) == (0, "")


# ---------------------------------------------------------------------------------------------------- demo


def test_the_demonstration_prints_what_it_showed(
    run: Any, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "model": str(tiny_model("qwen2", max_position_embeddings=512)),
        "optim.warmup": 0,
        "run.device": "cpu",
        "data.max_tokens": 512,
    }
    for name, value in (("TRAIN_ROWS", 32), ("TEST_ROWS", 2), ("LONGEST_ANSWER", 4)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "train", lambda config, **how: train(config, small, **how))
    code, out, err = run("demo", "--dir", "shown")
    assert code == 0, err
    for words in ("luthier chat shown/demo --compare base", "shown/demo/model", "2 of 2"):
        assert words in out
    assert "step" in err and Path("shown/demo/receipt.md").is_file()
    monkeypatch.setattr(proof, "reload_in_fresh_process", lambda run: "the files are gone")
    code, out, _ = run("demo", "--dir", "shown", "--json")
    value = json.loads(out)
    assert code == 1, "a check failed"
    assert value["run"] == "shown/demo-2" and value["merged_agrees"] == [2, 2]


def test_a_demonstration_without_a_place_is_the_user_s_to_mend(run: Any) -> None:
    Path("file").touch()  # also root cannot make a folder in a file
    code, out, err = run("demo", "--dir", "file/runs")
    assert (code, out) == (2, "") and "file" in err and "should not" not in err
