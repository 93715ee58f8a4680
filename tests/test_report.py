"""The report of `luthier data check`: on a terminal, as JSON, as a page.

What goes in: files, with and without a model at hand. What comes out: the three outputs, held to one another and to
what the page promises: one file, no script, nothing from elsewhere, nothing of the data unescaped.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores

from luthier import cli
from luthier.config.load import load
from luthier.data import check, report, report_page
from luthier.data.findings import Findings
from luthier.data.report import Report
from luthier.data.scan import FileScan, Kept
from luthier.data.statistics import lengths
from luthier.data.templates import load_renderer
from luthier.text import set_language

WriteRows = Callable[..., Path]
NASTY = "</style><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def rows(count: int) -> list[dict[str, str]]:
    rng = random.Random(0)
    return [
        {"instruction": f"question {number}", "output": " ".join(rng.choices("abcdefghij", k=rng.randint(3, 60))) + "."}
        for number in range(count)
    ]


def made(path: Path, model: Path | None = None, **data: Any) -> Report:
    if model is None:
        look = report.Look(Findings(), None, "no model")
        return report.make(check.check_path(str(path), "auto", look), look)
    config = load({"model": str(model), "data": {"train": str(path), **data}})
    look = report.Look(Findings(config.data.max_tokens, config.data.too_long), load_renderer(model, config))
    return report.make(check.inspect(config, look), look)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["data", "check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "name", ["identity.json", "alpaca_en_demo.json", "glaive_toolcall_en_demo.json", "reason_tool_use_demo_50.jsonl"]
)
def test_real_files(real_data: Callable[[str], Path], name: str) -> None:
    """Every kept row is looked at, nothing is lost on the way to any output, and no clean file stops."""
    report_ = made(real_data(name))
    numbers = report_.statistics
    assert numbers.rows == sum(file.kept for file in report_.checked.files)
    assert numbers.characters is not None
    assert sum(each.rows for each in numbers.characters.histogram) == numbers.rows
    assert not report_.stops
    told = json.loads(json.dumps(report.to_json(report_)))
    shown = "\n".join(report.lines(report_))
    page = report_page.page(report_, "0")
    assert len(told["findings"]) == len(report_.findings)
    for each in report_.findings:
        assert str(each.problem) in shown
    assert page.count('class="card finding') == len(report_.findings)


def test_the_alarm_for_few_rows_repeated_is_in_all_three(write_rows: WriteRows) -> None:
    report_ = made(write_rows("a.json", rows(2) * 50))
    alarm = "ONLY 2 OF 100 ROWS"
    assert report_.findings[0].problem.id == "data.few_distinct" and report_.findings[0].severity == "warning"
    assert alarm in "\n".join(report.lines(report_)) and alarm in report_page.page(report_, "0")
    assert alarm in report.to_json(report_)["findings"][0]["rule"]


def test_what_stops_comes_first_and_rows_left_out_are_named(write_rows: WriteRows) -> None:
    path = write_rows("a.jsonl", [*rows(60), {"instruction": "q", "output": ""}, {"instruction": "q"}])
    report_ = made(path)
    assert report_.stops and [each.severity for each in report_.findings] == sorted(
        (each.severity for each in report_.findings), key=("error", "warning", "note").index
    )
    page = report_page.page(report_, "0")
    for place in (f"{path}:61", f"{path}:62"):
        assert place in page and place in "\n".join(report.lines(report_))
    assert "Errors: training would stop" in page


def test_tokens_are_those_of_training(write_rows: WriteRows, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """The store that training reads is the oracle, with its own account of what is too long."""
    path, model = write_rows("a.jsonl", rows(80)), tiny_model()
    report_ = made(path, model, max_tokens=60, too_long="drop", validation=0.1)
    tokens = report_.statistics.tokens
    assert tokens is not None and report_.why_no_tokens == ""
    recipe = {"model": str(model), "data": {"train": str(path), "too_long": "drop"}}
    items = [*report_.checked.train, *report_.checked.validation]
    built = stores.build([item.example for item in items], load_renderer(model, load(recipe)), tmp_path)
    whole = stores.sequences(load(recipe), built)
    measured = whole.lengths
    assert tokens.lengths == lengths(measured)
    assert tokens.learnt == sum(int((whole[uid].weights > 0).sum()) for uid in range(len(whole)))
    long = measured[measured > 60]
    assert tokens.too_long == len(long) > 0
    costs = {cost.policy: cost.tokens for cost in tokens.costs}
    assert costs == {"stop": measured.sum(), "drop": long.sum(), "truncate": long.sum() - 60 * len(long)}
    for policy, kept in (("drop", measured.sum() - costs["drop"]), ("truncate", measured.sum() - costs["truncate"])):
        bounded = load(recipe, {"data.max_tokens": 60, "data.too_long": policy})
        assert stores.sequences(bounded, built).num_tokens == kept


@pytest.mark.parametrize(("header", "readings"), [("", 1), ("rule " * 40, 2)])
def test_files_are_read_once_and_again_only_for_stretches_that_many_rows_share(
    write_rows: WriteRows,
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    header: str,
    readings: int,
) -> None:
    given = [{**row, "instruction": header + row["instruction"]} for row in rows(150)]
    path, model, read = write_rows("a.jsonl", given), tiny_model(), []
    scan_rows = FileScan.rows

    def counted(scan: FileScan) -> Iterator[Kept]:
        read.append(scan.path)
        return scan_rows(scan)

    monkeypatch.setattr(FileScan, "rows", counted)
    report_ = made(path, model, validation=0.1)
    assert read == [path] * readings
    assert report_.statistics.tokens is not None and report_.statistics.tokens.lengths.rows == 150
    assert len(report_.checked.validation) == 15


def test_rows_that_are_too_long_stop_as_training_does(
    write_rows: WriteRows, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = write_rows("a.jsonl", rows(20)), tiny_model()
    code, out, _ = run(capsys, f"model={model}", f"data.train={path}", "data.max_tokens=40", "optim.batch=2")
    assert code == 2 and "longer than data.max_tokens = 40" in out
    code, out, _ = run(capsys, f"model={model}", f"data.train={path}", "data.max_tokens=40", "data.too_long=drop")
    assert code == 0 and "too_long: drop" in out


def test_tokens_are_counted_without_any_weights(
    write_rows: WriteRows, tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check of data downloads no model: configuration and tokenizer are enough."""
    folder = tmp_path / "no-weights"
    shutil.copytree(tiny_model(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    code, out, _ = run(capsys, f"model={folder}", f"data.train={write_rows('a.jsonl', rows(20))}")
    assert code == 0 and "tokens per row" in out


def test_prompts_alone_are_counted_and_told_which_methods_they_are_for(
    write_rows: WriteRows, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows("a.jsonl", [{"prompt": "q"}] * 3)
    code, out, _ = run(capsys, f"model={tiny_model()}", f"data.train={path}")
    assert code == 2 and "method=grpo" in out and "tokens per row" in out and "\n1 errors" in out


def test_a_model_without_a_template_stops_and_all_else_is_told(
    write_rows: WriteRows, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = write_rows("a.jsonl", rows(20)), tiny_model(template=False)
    code, out, _ = run(capsys, f"model={model}", f"data.train={path}")
    assert code == 2 and "data.template" in out and "characters per row" in out
    assert run(capsys, f"model={model}", f"data.train={path}", "data.template=chatml")[0] == 0


# ----------------------------------------------------------------------------------------------------------- page


class Reader(HTMLParser):
    """Notes every tag with its attributes, and holds tags to their nesting."""

    VOID = frozenset(("meta", "br", "line", "rect"))

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_whole_and_needs_nothing_else(
    write_rows: WriteRows, tiny_model: Callable[..., Path], language: Any
) -> None:
    """With hostile text in every place that shows data: answers, file names, reasons, values of fields."""
    bad = [{"instruction": NASTY, "output": ""}, {"messages": NASTY}]
    judged = [{"instruction": f"q {number}", "output": NASTY} for number in range(40)]
    path = write_rows("<b>&amp;'\".jsonl", [*rows(60), *judged, *bad])
    set_language(language)
    page = report_page.page(made(path, tiny_model(), max_tokens=50, bad_rows="drop"), "<0>")
    reader = read(page)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "b>"}
    for _, attributes in reader.tags:
        assert not {name for name in attributes if name.startswith("on")} | attributes.keys() & {"src", "href"}
    assert "url(" not in page and "@import" not in page and "://" not in page
    assert NASTY[:40] in "".join(reader.text), "the data is shown as text"
    assert "prefers-color-scheme: dark" in page and f'<html lang="{language}">' in page
    assert {"svg", "table"} <= tags
    words = re.sub(r"[^\u4e00-\u9fff]", "", page)
    assert bool(words) == (language == "zh")


def test_bars_and_the_line_at_max_tokens() -> None:
    values = lengths(np.asarray([*range(1, 100), 5000]))
    assert values is not None
    svg = report_page.histogram(values, 50)
    reader = read(svg)
    bars = [attributes for tag, attributes in reader.tags if tag == "rect"]
    assert len(bars) == len(values.histogram)
    tallest = max(bars, key=lambda bar: float(bar["height"] or 0))
    most = max(values.histogram, key=lambda each: each.rows)
    assert bars.index(tallest) == values.histogram.index(most)
    (line,) = (attributes for _, attributes in reader.tags if attributes.get("class") == "bound")
    beyond = [float(bar["x"] or 0) for bar in bars if bar["class"] == "over"]
    before = [float(bar["x"] or 0) + float(bar["width"] or 0) for bar in bars if bar["class"] == "bin"]
    assert max(before) <= float(line["x1"] or 0) + 2 and min(beyond) >= float(line["x1"] or 0) - 2
    assert "max_tokens 9,000 →" not in svg
    assert "max_tokens 9,000" in report_page.histogram(values, 9000)


def test_a_page_of_a_file_without_rows(write_rows: WriteRows) -> None:
    path = write_rows("a.json", [])
    read(report_page.page(made(path), "0"))
    assert report.lines(made(path))


# ------------------------------------------------------------------------------------------------------ command line


def test_html_is_written(write_rows: WriteRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows("a.jsonl", rows(30))
    code, out, _ = run(capsys, str(path), "--html", str(tmp_path / "r.html"))
    assert code == 0 and str(tmp_path / "r.html") in out.splitlines()[-1]
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    code, out, _ = run(capsys, str(path), "--json", "--html", str(tmp_path / "r.html"))
    value = json.loads(out)
    assert value["statistics"]["rows"] == 30 and value["statistics"]["tokens"] is None
    assert "no recipe was given" in value["statistics"]["why_no_tokens"]


def test_a_page_that_cannot_be_written(
    write_rows: WriteRows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows("a.jsonl", rows(30))
    code, _, err = run(capsys, str(path), "--html", str(tmp_path / "absent" / "r.html"))
    assert code == 2 and "cannot be written" in err and "Traceback" not in err


def test_without_the_model_all_else_is_told(write_rows: WriteRows, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows("a.jsonl", rows(30))
    code, out, _ = run(capsys, "model=./absent-model", f"data.train={path}")
    assert code == 0 and "tokens are not counted" in out and "characters per row" in out


def test_the_benchmark_runs() -> None:
    """With few rows: it finds what it planted, and says how fast."""
    command = [sys.executable, str(Path(__file__).parents[1] / "bench" / "check.py"), "600"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "600 rows in" in done.stdout and "rows/s" in done.stdout and "nearly the same" in done.stdout
