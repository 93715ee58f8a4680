"""The manifest: hashes that coreutils agrees with, differences that matter, and nothing that is nobody's business."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_runs_store import TOKEN, claim

from luthier.errors import RunError
from luthier.runs import manifest
from luthier.runs.manifest import DataFile, Manifest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for part in (1, 2):
        (folder / f"model-{part}.safetensors").write_bytes(bytes([part]) * 100)
    return folder


@pytest.fixture
def build(tmp_path: Path, model: Path) -> Callable[..., Manifest]:
    data, plugin = tmp_path / "rows.jsonl", tmp_path / "mine.py"
    data.write_text("{}\n")
    plugin.write_text("def rows(row): return row\n")

    def make(**changes: Any) -> Manifest:
        facts = manifest.file_fingerprint(data)
        given: dict[str, Any] = {
            "base": {"path": "org/base", "revision": None, "commit": "abc", "init": "pretrained"},
            "model_folder": model,
            "tokenizer": {"fingerprint": "t1", "template": "chatml", "stop_ids": [2]},
            "data": [DataFile("rows.jsonl", "train", **facts, read=10, kept=7, excluded={"long": 2, "empty": 1})],
            "plugins": {"mine:rows": plugin},
            "seed": 3,
        }
        return manifest.build("x", **{**given, **changes})

    return make


def test_fingerprint_is_what_sha256sum_says(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(range(256)) * 9999)
    said = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert manifest.file_fingerprint(path) == {"sha256": said, "bytes": 256 * 9999}


def test_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        manifest.file_fingerprint(tmp_path / "gone")


def test_saved_and_loaded(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    made = build(parent=None)
    with claim(tmp_path, run__name="y") as run:
        made.save(run)
        assert manifest.load(run) == replace(made, run="y")
        assert run.read_json("manifest.json")["format"] == 1
    assert (made.read, made.kept, made.excluded) == (10, 7, {"long": 2, "empty": 1})


def test_damaged_manifest(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    with claim(tmp_path, run__name="y") as run:
        run.write_json("manifest.json", {"run": "y", "data": []})
        with pytest.raises(RunError, match="damaged"):
            manifest.load(run)


def test_versions_are_those_installed() -> None:
    found = manifest.versions()
    assert found["numpy"] == importlib.metadata.version("numpy") and found["luthier"]
    assert set(found) <= {"python", "platform", *manifest.PACKAGES}


def test_weights_have_one_hash_that_knows_each_file(model: Path) -> None:
    before = manifest.weights_fingerprint(model)
    assert sorted(before["files"]) == ["model-1.safetensors", "model-2.safetensors"]
    (model / "model-2.safetensors").write_bytes(b"\2" * 99 + b"\3")
    after = manifest.weights_fingerprint(model)
    assert after["sha256"] != before["sha256"] and after["config_sha256"] == before["config_sha256"]


def test_no_git_is_no_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = manifest.code_revision.__wrapped__()
    assert found["commit"] is None and found["modified"] is None and len(found["source_sha256"]) == 64


def test_somebody_elses_repository_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "/somewhere/else"}
    monkeypatch.setattr(manifest, "_git", lambda _, command, *rest: answers[command])
    assert manifest.code_revision.__wrapped__()["commit"] is None


def test_no_secret_and_no_environment_gets_in(
    tmp_path: Path, build: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "SOME_SETTING"):
        monkeypatch.setenv(name, TOKEN)
    base = {"path": f"https://user:{'p' * 12}@host/base?token={'q' * 12}", "note": TOKEN}
    with claim(tmp_path, run__name="y") as run:
        build(base=base).save(run)
        text = (run.path / "manifest.json").read_text()
    assert TOKEN not in text and "p" * 12 not in text and "q" * 12 not in text


def test_paths_below_the_working_directory_are_told_from_there(
    tmp_path: Path, build: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert build().plugins["mine:rows"]["path"] == "mine.py"


def changed_file(old: Manifest, **change: Any) -> Manifest:
    return replace(old, data=(replace(old.data[0], **change),))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: replace(m, base={**m.base, "sha256": "0" * 64}), "base.weights"),
        (lambda m: replace(m, base={**m.base, "config_sha256": None}), "base.config"),
        (lambda m: replace(m, tokenizer={"fingerprint": "t2"}), "tokenizer"),
        (lambda m: replace(m, parent={"path": "p", "sha256": "0" * 64, "files": {}}), "parent"),
        (lambda m: changed_file(m, sha256="1" * 64), "data.train: rows.jsonl"),
        (lambda m: changed_file(m, kept=8), "data.train: rows.jsonl (rows kept)"),
        (lambda m: replace(m, data=()), "data.train: rows.jsonl"),
        (lambda m: replace(m, plugins={}), "plugin mine:rows"),
    ],
)
def test_differences_that_matter(build: Callable[..., Manifest], change: Any, field: str) -> None:
    old = build()
    new = change(old)
    assert manifest.differences(old, old) == []
    found = {each.field for one, other in ((old, new), (new, old)) for each in manifest.differences(one, other)}
    assert field in found


def test_another_commit_is_told_where_the_rows_are_others(build: Callable[..., Manifest]) -> None:
    origins = [
        {"source": "hub:org/name", "subset": None, "split": "train", "revision": None, "commit": commit * 40}
        for commit in "ab"
    ]
    old, same = (changed_file(build(), origin=origin) for origin in origins)
    assert manifest.differences(old, same) == []
    other = changed_file(same, sha256="1" * 64)
    assert ("data.train: rows.jsonl (commit)", "a" * 40, "b" * 40) in manifest.differences(old, other)


def test_another_version_is_another_environment_but_no_difference(build: Callable[..., Manifest]) -> None:
    old = build()
    new = replace(old, versions={**old.versions, "torch": "9"}, code={"source_sha256": "2" * 64})
    assert manifest.differences(old, new) == []
    assert {each.field for each in manifest.environment(old, new)} == {"versions.torch", "code"}


def test_changed_data_stops_a_resume(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    old = build()
    new = changed_file(old, sha256="1" * 64)
    with claim(tmp_path, run__name="y") as run:
        with pytest.raises(RunError, match=r"data\.train: rows\.jsonl: was .* when this run began"):
            run.settle(manifest.differences(old, new), "stop")
        assert run.events() == []
        assert run.settle(manifest.differences(old, new), "continue")
        assert run.events()[0].data["changes"][0][0] == "data.train: rows.jsonl"
