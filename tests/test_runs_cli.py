"""`luthier runs ...` on real runs of a tiny model: every command once as it is meant, and what `verify` says when
things are gone or altered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, Repo
from safetensors.torch import load_file, save_file

import luthier
from luthier import cli, proof
from luthier.errors import Interrupted, ModelError
from luthier.runs.verify import VERIFIED

ROWS = [{"instruction": f"Say {i}", "output": "yes " * (1 + i % 5)} for i in range(24)]
FURTHER = {"base_unchanged", "parent", "tokenizer", "base_untouched", "adapter_reload", "effect"}
"""The checks that need more than the run folder."""


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch):
    """As in test_train: the saved files are loaded without a process of its own."""
    monkeypatch.setattr(proof, "reload_in_fresh_process", reloaded)


def reloaded(run):
    session = luthier.open_session(run.path)
    return proof.next_token_logits(session.decoder, proof.Probe.load(run).prompts, session.adapter)


def recipe_of(name: str, **tune: object) -> dict:
    return {
        "model": {"path": "base", "dtype": "float32"},
        "data": {"train": "rows.json", "validation": 0.0},
        "tune": {"kind": "lora", **tune},
        "optim": {"lr": 1e-2, "steps": 4, "batch": 4},
        "run": {"name": name, "device": "cpu"},
    }


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory) -> Path:
    """A project with a base, rows, a finished run `first`, and `second`, which goes on from it."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_model("llama", seed=3), project / "base")
    (project / "rows.json").write_text(json.dumps(ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr(proof, "reload_in_fresh_process", reloaded)
        luthier.train(recipe_of("first", rank=4))
        luthier.train(recipe_of("second", **{"from": "first"}))
    return project


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    """The same, to spoil; the working directory."""
    copy = shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(copy)
    return copy


def ask(capsys, *arguments: str) -> tuple[int, dict]:
    """Exit code and the one JSON object."""
    code = cli.run(["--json", "runs", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, json.loads(captured.out)


def verified(capsys, name: str) -> tuple[int, dict[str, str]]:
    code, answer = ask(capsys, "verify", name)
    return code, {check["name"]: check["status"] for check in answer["checks"]}


# ---------------------------------------------------------------------------------------------- the commands


def test_a_run_is_stopped_shown_resumed_extended_compared_and_reproduced(project, capsys, monkeypatch):
    stopped = []

    def stop(event):
        if event.kind == "step" and event.step == 2:
            stopped.append(ask(capsys, "stop", "third"))

    with pytest.raises(Interrupted):
        luthier.train(recipe_of("third", rank=2), on_event=stop)
    assert [(code, answer["run"], answer["pid"]) for code, answer in stopped] == [(0, "third", os.getpid())]
    code, shown = ask(capsys, "show", "third")
    assert (code, shown["state"], shown["checkpoints"][-1]) == (0, "interrupted", 2)
    code, resumed = ask(capsys, "resume", "third")
    assert (code, resumed["state"]) == (0, "finished")
    code, _ = ask(capsys, "extend", "third", "--epochs", "0.5")  # 3 steps, and 4 are done
    assert code == 2
    code, extended = ask(capsys, "extend", "third", "--epochs", "1")
    assert (code, extended["from_step"]) == (0, 4)
    code, resumed = ask(capsys, "resume", "third")
    assert (code, resumed["receipt"]["summary"]["step"]) == (0, 6)
    code, compared = ask(capsys, "compare", "first", "third")
    assert (code, compared["recipe"]["tune.rank"], compared["results"]["steps"]) == (0, [4, 2], [4, 6])
    code, again = ask(capsys, "reproduce", "first")
    assert "error" not in again, again
    assert (code, again["same"], again["revised"]) == (0, True, [])
    _, listed = ask(capsys, "list")
    assert {run["name"] for run in listed["runs"]} == {"first", "second", "third"}


def test_the_script_prints_for_people(project, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["luthier", "runs", "verify", "second"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert "Everything that could be checked holds." in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- verify


def test_every_check_is_made(project, capsys):
    code, found = verified(capsys, "second")
    assert code == 0 and found == dict.fromkeys([*VERIFIED, *FURTHER], "pass") | {"plugins": "not run"}
    assert verified(capsys, "first")[1]["parent"] == "not run"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_theta(project: Path) -> None:
    config = json.loads((project / "base" / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    (project / "base" / "config.json").write_text(json.dumps(config))


def without_format(project: Path) -> None:
    file = project / "runs" / "second" / "manifest.json"
    fields = json.loads(file.read_text())
    del fields["format"]
    file.write_text(json.dumps(fields))


def without_tokenizer(project: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (project / "runs" / "second" / "adapter" / name).unlink()


NEED_MODEL = {"base_untouched", "adapter_reload"}
SPOILT = {
    "the base is gone": (lambda p: shutil.rmtree(p / "base"), set(), {"base_unchanged", *NEED_MODEL}),
    "its weights differ": (
        lambda p: flip(p / "base" / "model.safetensors"),
        {"base_unchanged", *NEED_MODEL},
        set(),
    ),
    "its config differs": (other_theta, {"base_unchanged", *NEED_MODEL}, set()),
    "the adapter is gone": (
        lambda p: shutil.rmtree(p / "runs" / "second" / "adapter"),
        {"outputs"},
        {"tokenizer", *NEED_MODEL},
    ),
    "the adapter is torn": (
        lambda p: os.truncate(p / "runs" / "second" / "adapter" / "adapter_model.safetensors", 100),
        {"outputs", *NEED_MODEL},
        set(),
    ),
    "the tokenizer is gone": (without_tokenizer, {"outputs"}, {"tokenizer", *NEED_MODEL}),
    "the manifest has no format": (
        without_format,
        {"data_unchanged", "plugins", "rows_counted", "source", "base_unchanged", "parent", "tokenizer"}
        | {"outputs", "receipt", *NEED_MODEL},
        set(),
    ),
    "the probe is gone": (
        lambda p: (p / "runs" / "second" / "probe.npz").unlink(),
        set(),
        {"effect", *NEED_MODEL},
    ),
    "the parent differs": (
        lambda p: flip(p / "runs" / "first" / "adapter" / "adapter_model.safetensors"),
        {"parent"},
        set(),
    ),
    "the parent is gone": (lambda p: shutil.rmtree(p / "runs" / "first"), set(), {"parent"}),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_what_differs_fails_and_what_is_gone_is_not_run_and_the_rest_is_still_checked(project, capsys, spoilt):
    spoil, failing, gone = SPOILT[spoilt]
    spoil(project)
    code, found = verified(capsys, "second")
    assert found.keys() == {*VERIFIED, *FURTHER}
    assert {name for name, status in found.items() if status == "fail"} == failing
    assert {name for name, status in found.items() if status == "not run"} == gone | (
        set() if "plugins" in failing else {"plugins"}
    )
    assert code == (1 if failing else 0)


def test_chat_does_not_answer_with_another_config(project):
    luthier.open_session("second")
    other_theta(project)
    with pytest.raises(ModelError, match=r"config\.json"):
        luthier.open_session("second")


# ---------------------------------------------------------------------------------------------- the hub

CHILD = """
import json, sys
import luthier
from luthier import proof
proof.reload_in_fresh_process = lambda run: "not made in this test"

def listen(event):
    if "--stop" in sys.argv and event.kind == "step" and event.step == 2:
        luthier.Run("runs/pinned").folder.request_stop()

try:
    luthier.train(json.loads(sys.argv[1]), on_event=listen)
except luthier.Interrupted:
    pass
"""


def test_a_resume_reads_the_commit_that_the_run_began_with(project, tmp_path):
    """The branch moves to other weights while the run is stopped."""
    files = {path.name: path.read_bytes() for path in (project / "base").iterdir()}
    recipe = recipe_of("pinned", rank=2)
    recipe["model"]["path"] = "org/tiny"
    with Hub(org__tiny=Repo(dict(files))) as server:
        settings = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}

        def child(*flags: str) -> None:
            command = [sys.executable, "-c", CHILD, json.dumps(recipe), *flags]
            done = subprocess.run(command, env=settings, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

        child("--stop")
        tensors = load_file(project / "base" / "model.safetensors")
        save_file({name: tensor * 2 for name, tensor in tensors.items()}, project / "other.safetensors")
        repo = server.repos["org/tiny"]
        repo.files["model.safetensors"] = (project / "other.safetensors").read_bytes()
        repo.refs.update(main="b" * 40, before="a" * 40)
        child()
    run = luthier.Run("runs/pinned")
    assert run.state == "finished"
    assert json.loads((run.path / "manifest.json").read_text())["base"]["commit"] == "a" * 40
