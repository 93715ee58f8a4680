"""What training finds in rows before it starts.

What goes in: small files with planted faults and near duplicates. What comes out: the findings of `data check`, the
groups that a split keeps together, and how often a file was read for it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_tokenizers as toy

from luthier.config.load import load
from luthier.data import check, report, survey, tokens
from luthier.data.findings import Findings, brief
from luthier.data.scan import FileScan, Kept
from luthier.data.survey import Surveyed
from luthier.data.templates import load_renderer
from luthier.data.tokens import Built
from luthier.text import set_language

WriteRows = Callable[..., Path]
FAULTS = {
    "findings.damage_control": "The \x07river is wide and the boats are old.",
    "findings.damage_mojibake": "Donâ€™t ask, itâ€™s a river of old boats.",
    "findings.unclosed_fence": "Here it is, the code.\n```python\nprint(1)",
    "findings.unclosed_think": "<think>It is a river, or a sea, or both of them.",
    "findings.secret_key": f"Use sk-proj-{'aB3dE5fG7hI9' * 3} for it, then all will go well.",
}


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(500)]
    said = [" ".join(rng.choices(words, k=20)).capitalize() + "." for _ in range(count)]
    return [{"instruction": f"question {seed} {number}", "output": each} for number, each in enumerate(said)]


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., list[Built]]:
    """Tokenises files, the one named `validation` for that."""
    model = toy.save(toy.chatml(), tmp_path / "model")

    def build(*paths: Path) -> list[Built]:
        renderer = load_renderer(model, load({"model": str(model), "data": {"train": "-"}}))
        scans = [FileScan(str(path), "auto") for path in paths]
        roles = ["validation" if "validation" in path.name else "train" for path in paths]
        return [
            tokens.build(scan, renderer, tmp_path / "cache", role=role, source_index=0)  # type: ignore[arg-type]
            for scan, role in zip(scans, roles, strict=True)
        ]

    return build


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    found: list[str] = []
    scan_rows = FileScan.rows

    def counted(scan: FileScan) -> Iterator[Kept]:
        found.append(scan.path.name)
        return scan_rows(scan)

    monkeypatch.setattr(FileScan, "rows", counted)
    return found


def surveyed(built: list[Built]) -> Surveyed:
    found = survey.survey(built)
    assert found is not None
    return found


def test_it_finds_what_data_check_finds(built: Callable[..., list[Built]], write_rows: WriteRows) -> None:
    values = rows(80)
    values[40:40] = [{"instruction": f"What is {id}?", "output": fault} for id, fault in FAULTS.items()]
    path = write_rows("a.jsonl", [*values, {**values[7], "output": values[7]["output"] + " Yes."}])
    found = surveyed(built(path))
    look = report.Look(Findings())
    checked = report.make(check.check_path(str(path), watcher=look), look)
    assert [each.to_json() for each in found.findings] == [each.to_json() for each in checked.findings]
    warned = {each.problem.id: each for each in found.findings if each.severity == "warning"}
    assert warned.keys() == FAULTS.keys()
    assert f"{path}:41" in warned["findings.damage_control"].problem.rule
    assert (found.alike.earlier.tolist(), found.alike.later.tolist()) == ([7], [85])


def test_a_later_run_reads_nothing_and_an_edited_file_is_read(
    built: Callable[..., list[Built]], write_rows: WriteRows, readings: list[str]
) -> None:
    paths = [write_rows("a.jsonl", [*rows(60), *rows(1)]), write_rows("validation.jsonl", [*rows(5, 1), *rows(1)])]
    stores = built(*paths)
    readings.clear()
    first = surveyed(stores)
    assert readings == ["a.jsonl", "validation.jsonl"] and first.rows == first.looked == 67
    again = surveyed(built(*paths))
    assert readings == ["a.jsonl", "validation.jsonl"]
    assert again.to_json() == first.to_json() == json.loads(json.dumps(first.to_json()))
    surveyed(built(paths[0]))
    assert readings[2:] == ["a.jsonl"], "another set of files is another question"
    write_rows("a.jsonl", rows(61))
    assert surveyed(built(paths[0])).looked == 61


@pytest.mark.parametrize("damage", ["", "{", '{"rows": 1}', '{"findings": 3, "alike": [1]}'])
def test_what_is_kept_may_be_damaged(built: Callable[..., list[Built]], write_rows: WriteRows, damage: str) -> None:
    stores = built(write_rows("a.jsonl", rows(60)))
    first = surveyed(stores)
    assert stores[0].store is not None
    (kept,) = stores[0].store.path.glob("survey-*.json")
    kept.write_text(damage)
    assert surveyed(stores).to_json() == first.to_json()


def test_a_file_at_fault_gives_nothing(built: Callable[..., list[Built]], write_rows: WriteRows) -> None:
    assert survey.survey(built(write_rows("a.jsonl", [*rows(5), {"instruction": "q"}]))) is None
    assert survey.survey([]) is None


def test_of_many_rows_the_first_of_each_file_are_looked_at_and_it_is_said(
    built: Callable[..., list[Built]], write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "MOST_ROWS", 50)
    planted = {"instruction": "What?", "output": FAULTS["findings.damage_control"]}
    found = surveyed(built(write_rows("a.jsonl", [planted, *rows(79)]), write_rows("b.jsonl", [*rows(19, 1), planted])))
    assert (found.rows, found.looked) == (100, 50)
    (line, last) = brief(found.findings, found.looked, found.rows)
    assert line.startswith("1 rows hold control characters") and "50 of 100 rows" in last
    set_language("zh")
    assert "100 条中的 50 条" in brief((), found.looked, found.rows)[0]
    assert brief((), 5, 5) == []


def test_near_duplicates_are_joined_with_the_first_of_their_group() -> None:
    """However many pairs there are, no more is kept than one for each row."""
    one, other = np.triu_indices(40, 1)
    pairs = survey.Pairs(one + 3, other + 3, 50, False).joined(50)
    assert set(pairs.earlier.tolist()) == {3} and pairs.later.tolist() == list(range(4, 43))
