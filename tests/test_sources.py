"""Sources to files.

What goes in: paths, folders, patterns and data sets of a hub (from disk: there is no network here). What comes out: the
files, in order, each read on its own with the settings of its source.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.config.load import load
from luthier.config.schema import Source
from luthier.data import check, hub, sources
from luthier.data.check import Checked
from luthier.errors import DataError
from luthier.text import set_language


def rows(name: str, count: int = 3) -> str:
    return "".join(json.dumps({"question": f"{name} {n}", "answer": "a"}) + "\n" for n in range(count))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of several kinds below `data`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.jsonl", "deep/er/c.jsonl", ".hidden.jsonl", ".git/x.jsonl", "deep/_tmp.jsonl"):
        path = Path("data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows(name))
    for name in ("README.md", "picture.png", "dataset_infos.json"):
        (Path("data") / name).write_text("{}")
    return Path("data")


def inspect(train: Any, **data: Any) -> Checked:
    return check.inspect(load({"model": "-", "data": {"train": train, "validation": 0.0, **data}}))


def test_a_folder_stands_for_its_data_files_in_order(folder: Path) -> None:
    checked = inspect({"path": "data", "weight": 2})
    assert [file.path for file in checked.files] == ["data/a.jsonl", "data/b.jsonl", "data/deep/er/c.jsonl"]
    assert [file.kept for file in checked.files] == [3, 3, 3] and not checked.problems
    assert {item.source_index for item in checked.train} == {0}, "all have the settings of the one source"
    (note,) = [each for each in checked.notes if each.id == "data.folder_read"]
    assert note.values["files"] == 3 and note.values["skipped"] == 6
    assert "README.md" in note.values["names"] and "picture.png" in note.values["names"]


def test_a_folder_that_the_library_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"question": "2 + 3?", "answer": "5"}] * 3).save_to_disk(tmp_path / "saved")
    found = sources.find(Source(path=str(tmp_path / "saved")))
    assert [Path(each).suffix for each in found.files] == [".arrow"]
    assert {"dataset_info.json", "state.json"} <= {*found.notes[0].values["names"].split(", ")}
    (tmp_path / "states" / "state.json").parent.mkdir()
    (tmp_path / "states" / "state.json").write_text("[]")
    assert sources.find(Source(path=str(tmp_path / "states"))).files, "a file of that name alone is data"


def test_what_runs_wrote_is_no_data(folder: Path) -> None:
    run = folder / "runs" / "first"
    (run / "adapter").mkdir(parents=True)
    for name in ("recipe.yaml", "events.jsonl", "receipt.json", "adapter/adapter_config.json"):
        (run / name).write_text("{}")
    found = sources.find(Source(path="data"))
    assert found.files == ("data/a.jsonl", "data/b.jsonl", "data/deep/er/c.jsonl")
    assert "runs/first" in found.notes[0].values["names"]
    assert sources.find(Source(path=str(run))).problems[0].id == "data.folder_empty"


def test_a_pattern_stands_for_what_matches(folder: Path) -> None:
    assert sources.find(Source(path="data/*.jsonl")).files == ("data/a.jsonl", "data/b.jsonl")
    found = sources.find(Source(path="data/**/[bc].jsonl")).files
    assert found == ("data/b.jsonl", "data/deep/er/c.jsonl")
    strange = folder / "x[1].jsonl"
    strange.write_text(rows("x"))
    assert sources.find(Source(path=str(strange))).files == (str(strange),), "a file of that very name comes first"


def test_settings_of_the_source_hold_for_each_of_its_files(folder: Path) -> None:
    source = {"path": "data/?.jsonl", "format": "alpaca", "columns": {"instruction": "question", "output": "answer"}}
    checked = inspect([source, "data/deep"])
    assert [file.format for file in checked.files] == ["alpaca", "alpaca", "qa"]
    assert [item.source_index for item in checked.train] == [0] * 6 + [1] * 3


def test_a_file_is_not_read_twice_by_folder_and_name(folder: Path) -> None:
    assert [each.id for each in inspect(["data", "data/a.jsonl"]).problems] == ["data.file_twice"]


@pytest.mark.parametrize(
    ("path", "id"), [("empty", "data.folder_empty"), ("empty/*.jsonl", "data.glob_empty"), ("x.jsonl", "data.no_file")]
)
@pytest.mark.parametrize("bad_rows", ["stop", "drop"])
def test_nothing_found_is_an_error(folder: Path, path: str, id: str, bad_rows: str) -> None:
    Path("empty").mkdir()
    (Path("empty") / "notes.docx").write_text("x")
    for language in ("en", "zh"):
        set_language(language)
        checked = inspect([path, "data"], bad_rows=bad_rows)
        assert [problem.id for problem in checked.problems] == [id] and str(checked.problems[0])
    assert id != "data.folder_empty" or "notes.docx" in str(checked.problems[0])


def test_a_folder_without_permission(tmp_path: Path) -> None:
    """In a process that has dropped root, which may read everything."""
    locked = tmp_path / "data" / "locked"
    locked.mkdir(parents=True)
    (locked / "a.jsonl").write_text(rows("a"))
    (tmp_path / "data" / "b.jsonl").write_text(rows("b"))
    for each in tmp_path.parents:  # pytest's own folders are closed to others
        if Path(tempfile.gettempdir()) in each.parents:
            each.chmod(each.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    locked.chmod(0)
    code = (
        "import os, sys; from luthier.data.check import check_path\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "checked = check_path(sys.argv[1])\n"
        "print([(each.id, each.values['reason']) for each in checked.problems], len(checked.train))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")], capture_output=True, text=True, check=False
    )
    locked.chmod(0o700)
    assert done.stdout.strip() == "[('data.unreadable', 'Permission denied')] 0", done.stderr


# ---------------------------------------------------------------------------------------------------------- hubs


@pytest.fixture
def data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set as hubs have them, on disk, read through the real library."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    where = tmp_path / "org" / "name"
    where.mkdir(parents=True)
    (where / "train.jsonl").write_text(rows("train", 2500))
    (where / "test.jsonl").write_text(rows("test", 7))
    return where


def test_a_data_set_is_read_from_its_local_files(data_set: Path) -> None:
    checked = inspect({"path": f"hub:{data_set}"}, validation=[{"path": f"hub:{data_set}", "split": "test"}])
    assert not checked.problems
    assert [file.kept for file in checked.files] == [2500, 7] and checked.files[0].format == "qa"
    assert list(checked.train)[2499].example.messages[0].content == "train 2499"  # type: ignore[union-attr]
    notes = [each for each in checked.notes if each.id == "data.hub_read"]
    assert [each.values["rows"] for each in notes] == [2500, 7] and "2500 rows of split train" in notes[0].rule


@pytest.mark.parametrize(
    ("path", "more", "id", "said"),
    [
        ("", {"split": "dev"}, "data.hub_refused", "dev"),
        ("", {"subset": "other"}, "data.hub_refused", "other"),
        ("", {"split": "train[:5]"}, "data.hub_split", "train[:5]"),
        ("/nowhere", {}, "data.hub_refused", "nowhere"),
    ],
)
def test_a_data_set_that_cannot_be_had(data_set: Path, path: str, more: dict[str, str], id: str, said: str) -> None:
    (problem,) = inspect({"path": f"hub:{data_set}{path}", **more}).problems
    assert problem.id == id and said in str(problem) and problem.remedy


def test_the_commit_is_read_from_what_was_downloaded() -> None:
    address = f"hf://datasets/org/name@{'ab' * 20}/data/train.parquet"
    assert hub._commit(SimpleNamespace(download_checksums={address: {"num_bytes": 1}})) == "ab" * 20
    assert hub._commit(SimpleNamespace(download_checksums=None)) == ""


def test_where_rows_come_from_is_told_of_each_file(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was given comes from nowhere. The library knows no commit of a folder on disk."""
    monkeypatch.setattr(hub, "_commit", lambda info: "ab" * 20)
    path = data_set / "test.jsonl"
    checked = inspect([{"path": f"hub:{data_set}", "revision": "main"}, str(path)])
    from_hub, by_hand = checked.files
    assert from_hub.origin == hub.Origin(f"hub:{data_set}", None, "train", "main", "ab" * 20)
    assert by_hand.path == str(path) and by_hand.origin is None
    told = json.loads(json.dumps(check.report(checked)))["files"]
    assert told[0]["origin"]["commit"] == "ab" * 20 and told[1]["origin"] is None


def test_without_the_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        hub.fetch("hub:org/name", None, "train", None)
    (problem,) = inspect("hub:org/name").problems
    assert problem.id == "data.hub_extra"


def test_tokens_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(f"401 for https://user:secret@mirror/{'hf_' + 'a' * 20}")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    (problem,) = inspect("hub:org/name").problems
    assert "401" in str(problem) and "hf_" not in str(problem) and "secret" not in str(problem)
