"""Pushing: what is chosen, shown, refused and sent; the real client against a stand-in of the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from push_server import NAME, Stand, at, serving
from test_merge import make_adapter

import luthier
from luthier import cli
from luthier.errors import UserError
from luthier.export.push import push
from luthier.runs.store import FILES

KEY = "hf_" + "aB3dE6gH9j" * 4


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    for server in serving(monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", at(server).hf_endpoint)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield server


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder with an adapter that PEFT might have left, beside what its trainer kept."""
    folder = tmp_path / "adapter"
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "tokenizer_config.json").write_text("{}")
    for kept in (
        "events.jsonl",
        "excluded.jsonl",
        "trainer_state.json",
        "recipe.txt.py",
        ".env",
        "checkpoint-1/a.json",
    ):
        (folder / kept).write_text("{}")
    return folder


def refused(*given: Any, **options: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        push(*given, NAME, **options)
    assert str(caught.value)
    return [each.id for each in caught.value.problems]


def test_a_run_goes_up_with_card_and_receipt_and_nothing_else_of_it(
    stand: Stand, tiny_model: Any, write_rows: Any, tmp_path: Path, runs_dir: Path, no_fresh_process: None, capsys: Any
) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = write_rows("rows.jsonl", [{"instruction": f"say {n}", "output": f"it is {n}"} for n in range(24)])
    run = luthier.train(
        {
            "model": str(tmp_path / "base"),
            "data": {"train": str(rows), "max_tokens": 64},
            "optim": {"steps": 3, "lr": 0.01, "warmup": 0},
            "run": {"name": "small", "dir": str(runs_dir), "device": "cpu"},
        }
    )
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    shown = run.push(NAME, dry_run=True)
    assert shown.commit is None and not shown.exists and not shown.public and stand.writes == 0
    assert set(shown.changes.values()) == {"new"} and all(shown.bytes.values())
    capsys.readouterr()
    assert cli.run(["push", str(run.path), "--repo", NAME, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["commit"] == "c" * 40 and told["url"].endswith(NAME) and stand.repo is not None and stand.private
    assert set(stand.repo) == set(told["changes"]) == set(shown.changes)
    there = {path.name for path in (run.path / "adapter").iterdir()}
    assert set(stand.repo) == there | {"README.md", "receipt.json", "receipt.md"}
    assert not set(stand.repo) & (FILES.keys() - {"receipt.json", "receipt.md"})
    sent = b"".join(content for name, content in stand.repo.items() if not name.endswith(".safetensors"))
    assert str(tmp_path).encode() not in sent and b"rows.jsonl" not in sent, "no place of this machine, no data file"
    assert json.loads(stand.repo["adapter_config.json"])["base_model_name_or_path"] == "base"
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    paper = json.loads(stand.repo["receipt.json"])
    assert paper["run"] == "small" and "recipe" not in paper
    assert [check["name"] for check in paper["checks"]] == [check.name for check in run.receipt.checks]
    for name, entry in paper["files"].items():
        assert hashlib.sha256(stand.repo[name]).hexdigest() == entry["sha256"], name
    card = stand.repo["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "mit" and head["library_name"] == "peft" and "base_model" not in head
    # Again: nothing is sent; with --what, what was made of the run.
    writes = stand.writes
    again = run.push(NAME)
    assert set(again.changes.values()) == {"same"} and again.commit is None and stand.writes == writes
    assert refused(run.path, what="model") == ["export.push_no_model"]
    assert refused(run.path, what="gguf") == ["export.push_no_gguf"]
    merged = run.merge()
    made = push(run.path, NAME, what="model", dry_run=True)
    assert made.changes.keys() == {path.name for path in merged.iterdir()} and made.changes["README.md"] == "changed"


def test_a_folder_is_sent_without_what_its_trainer_kept(stand: Stand, adapter: Path) -> None:
    stand.cards = {"org/base": {"license": "apache-2.0"}}
    done = push(adapter, NAME)
    assert stand.repo is not None
    assert set(stand.repo) == {"adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json", "README.md"}
    assert done.left_out == ("checkpoint-1/", "events.jsonl", "excluded.jsonl", "recipe.txt.py", "trainer_state.json")
    head = yaml.safe_load(stand.repo["README.md"].decode().split("---")[1])
    assert head["base_model"] == "org/base" and head["license"] == "apache-2.0"
    assert stand.repo["adapter_config.json"] == (adapter / "adapter_config.json").read_bytes()
    # A card that was written there is kept, one that is given here replaces it.
    stand.repo["README.md"] = b"theirs"
    assert push(adapter, NAME).changes["README.md"] == "kept" and stand.repo["README.md"] == b"theirs"
    (adapter / "README.md").write_text("---\nlicense: mit\n---\nours\n")
    assert push(adapter, NAME).changes["README.md"] == "changed" and b"ours" in stand.repo["README.md"]
    (adapter / "README.md").write_text("---\nnot: [yaml\n---\n")
    with pytest.raises(UserError, match="bad head"):
        push(adapter, NAME)


def test_a_repository_that_is_public_or_holds_other_things_is_asked_for(
    stand: Stand, adapter: Path, capsys: Any
) -> None:
    stand.repo, stand.private = {".gitattributes": b"", "theirs.bin": b"x"}, False
    assert refused(adapter) == ["export.push_public", "export.push_others"]
    assert refused(adapter, public=True) == ["export.push_others"]
    assert stand.writes == 0
    shown = push(adapter, NAME, dry_run=True)
    assert shown.public and shown.others == ("theirs.bin",) and any("--public" in note for note in shown.notes)
    assert cli.run(["push", str(adapter), "--repo", NAME]) == 2
    assert "--add" in capsys.readouterr().err
    assert push(adapter, NAME, public=True, add=True).commit
    assert stand.repo["theirs.bin"] == b"x" and not stand.private
    stand.repo, stand.private = {}, True
    assert not push(adapter, NAME, public=True).public and stand.private, "what is private stays so"
    stand.repo = None
    assert push(adapter, NAME, public=True).public and not stand.private


@pytest.mark.parametrize("name", ["chat_template.jinja", "README.md", "adapter_model.safetensors", "notes.txt"])
def test_a_file_with_a_key_is_named_and_not_sent(stand: Stand, adapter: Path, name: str, capsys: Any) -> None:
    with (adapter / name).open("ab") as file:
        file.write(f"\n{KEY}\n".encode())
    assert refused(adapter) == refused(adapter, dry_run=True) == ["export.push_secret"]
    assert cli.run(["push", str(adapter), "--repo", NAME, "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["problems"][0]["value"] == name and KEY not in told.out + told.err
    assert stand.repo is None and stand.writes == 0


def test_files_are_sent_as_given_or_refused_by_name(stand: Stand, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "small-q8.gguf").write_bytes(b"GGUF")
    (tmp_path / "receipt.json").write_text('{"base": {"path": "org/base"}}')
    push(tmp_path / "small-q8.gguf", NAME)
    assert stand.repo is not None and set(stand.repo) == {"small-q8.gguf", "README.md"}
    assert b"base_model: org/base" in stand.repo["README.md"]
    rows, other = tmp_path / "rows.jsonl", tmp_path / "other"
    rows.write_text("{}")
    shutil.copytree(adapter, other)
    assert refused([rows, tmp_path / "absent.gguf"]) == ["export.push_not_sent", "export.push_not_a_file"]
    assert refused([adapter / "adapter_config.json", other / "adapter_config.json"]) == ["export.push_twice"]
    assert refused(tmp_path / "absent") == ["export.push_unknown"]
    shown = push(tmp_path, NAME, what="gguf", dry_run=True)
    assert shown.changes.keys() == {"small-q8.gguf", "receipt.json", "README.md"}
    assert refused(adapter, what="model") == refused(adapter / "checkpoint-1") == ["export.push_nothing"]
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.yaml", "receipt.json"):
        (run / name).write_text("{}")
    assert refused(run / "receipt.json") == ["export.push_not_sent"], "a run's own receipt holds its recipe"


def test_the_command_line(stand: Stand, adapter: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run(["push", str(adapter), "--repo", NAME, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "adapter_model.safetensors" in shown and "private" in shown and "nothing was sent" in shown
    assert stand.writes == 0
    for wrong in (["push", str(adapter)], ["push", str(adapter), "--repo", NAME, "--what", "all"]):
        assert cli.run(wrong) == 2
    assert cli.run(["push", str(adapter), "--repo", "tuned"]) == 2
    stand.fail = {"/commit/": 409}
    assert cli.run(["push", str(adapter), "--repo", NAME]) == 2
    assert "somebody else" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.run(["push", str(adapter), "--repo", NAME]) == 2


def test_an_adapter_that_peft_saved_is_found(stand: Stand, tiny_model: Any, tmp_path: Path) -> None:
    make_adapter(tiny_model("qwen2"), tmp_path / "tuned", torch.float32, target_modules=["q_proj"])
    shown = push(tmp_path / "tuned", NAME, dry_run=True)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= shown.changes.keys()
    assert any("adapter_config.json" in note for note in shown.notes), "the base's folder stays here"
