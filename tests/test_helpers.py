"""Blocks made by other processes: the same store, whoever makes it and whoever dies."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import toy_tokenizers as toy

from luthier.config.schema import RunConfig
from luthier.data import helpers, scan, tokens
from luthier.data.blocks import Block, BlockMaker
from luthier.data.scan import FileScan
from luthier.data.store import COLUMNS, TokenStore
from luthier.data.templates import Renderer, load_renderer
from luthier.data.tokens import Built
from luthier.errors import DataError, ModelError

ROWS = 400


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers at once, however short the file is."""
    monkeypatch.setattr(helpers, "START_AFTER_S", 0.0)
    monkeypatch.setattr(helpers, "cores", lambda: 3)
    monkeypatch.setattr(scan, "BLOCK_ROWS", 10)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = toy.save(toy.chatml(), tmp_path_factory.mktemp("model"))
    return load_renderer(folder, RunConfig.model_validate({"model": "m", "data": {"train": "a"}}))


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"No. {number}"}]}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    return path


def build(path: Path, renderer: Renderer, cache: Path, **how: Any) -> Built:
    return tokens.build(FileScan(str(path), "auto"), renderer, cache, role="train", source_index=0, **how)


def content(store: TokenStore | None) -> dict[str, bytes]:
    assert store is not None
    return {name: (store.path / f"{name}.bin").read_bytes() for name in ("ids", "weights", *COLUMNS)}


def helped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The answers that helpers gave."""
    given: list[Any] = []
    make = helpers._Helper.make

    def counted(self: helpers._Helper, *args: Any) -> Block | None:
        given.append(make(self, *args))
        return given[-1]

    monkeypatch.setattr(helpers._Helper, "make", counted)
    return given


def mixed(count: int = ROWS) -> list[Any]:
    """Conversations of two shapes, with rows among them that cannot be used."""
    rows: list[Any] = [row(number) for number in range(count)]
    rows[7] = {"messages": []}
    rows[count // 2] = {"messages": [*row(0)["messages"], *row(1)["messages"]], "source": "x"}
    rows[count - 3] = {
        "messages": [{"role": "user", "content": "{{name}}?"}, {"role": "assistant", "content": "<|im_end|>"}]
    }
    return rows


def test_helpers_change_nothing(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl", mixed())
    given = helped(monkeypatch)
    mine = build(path, renderer, tmp_path / "a", drop_bad_rows=True)
    assert sum(each is not None for each in given) >= 10, "helpers did much of it"
    monkeypatch.setattr(helpers, "MOST_HELPERS", 0)
    alone = build(path, renderer, tmp_path / "b", drop_bad_rows=True)
    assert content(mine.store) == content(alone.store)
    assert mine.given.account == alone.given.account and mine.laws == alone.laws
    assert mine.given.account.counts == {"data.empty_conversation": 1}
    assert mine.given.account.placeholders.rows == mine.given.account.unmapped.rows == 1


def test_lines_that_are_no_rows_are_named_whoever_parses_them(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps(each).encode() + b"\r\n"[number % 2 :] for number, each in enumerate(mixed())]
    for place, bad in ((333, b" \r\n"), (300, b"\xc2\xa0\n"), (250, b"\xff\n"), (150, b'{"messages": [}\n')):
        lines.insert(place, bad)
    lines.insert(100, b'{"messages": NaN}\n')
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(lines))
    given = helped(monkeypatch)
    mine = build(path, renderer, tmp_path / "a", drop_bad_rows=True)
    assert sum(each is not None for each in given) >= 10, "helpers did much of it"
    monkeypatch.setattr(helpers, "MOST_HELPERS", 0)
    alone = build(path, renderer, tmp_path / "b", drop_bad_rows=True)
    assert content(mine.store) == content(alone.store) and mine.given.account == alone.given.account
    account = mine.given.account
    assert account.read == ROWS + 3 and [number for number, *_ in account.excluded] == [8, 101, 152, 253]
    (bad,) = account.faults["data.not_utf8"]
    assert bad.values["byte"] == path.read_bytes().index(b"\xff") and account.faults["data.json_syntax"][0].where == (
        f"{path}:152:15"
    )


def test_a_file_at_fault_is_read_to_its_end(renderer: Renderer, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*mixed(), "no row at all"])
    built = build(path, renderer, tmp_path / "cache")
    assert built.store is None and built.given.account.read == ROWS + 1
    assert built.given.account.counts == {"data.empty_conversation": 1, "data.row_type": 1}


@pytest.mark.parametrize("whom", ["one", "all"])
def test_a_helper_that_dies_costs_no_row(
    whom: str, renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl", mixed())
    started: list[helpers._Helper] = []
    make = helpers._Helper.make

    def killed(self: helpers._Helper, *args: Any) -> Block | None:
        if self not in started:
            started.append(self)
        elif whom == "all" or self is started[0]:
            os.kill(self._process.pid, signal.SIGKILL)
        return make(self, *args)

    monkeypatch.setattr(helpers._Helper, "make", killed)
    mine = build(path, renderer, tmp_path / "a", drop_bad_rows=True)
    assert started
    monkeypatch.setattr(helpers, "MOST_HELPERS", 0)
    assert content(mine.store) == content(build(path, renderer, tmp_path / "b", drop_bad_rows=True).store)


def test_without_helpers_it_is_done_here(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl", mixed())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "no-python"))
        mine = build(path, renderer, tmp_path / "a", drop_bad_rows=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false" if Path("/bin/false").exists() else sys.executable)
        other = build(path, renderer, tmp_path / "b", drop_bad_rows=True)
    assert content(mine.store) == content(other.store)


def test_what_a_helper_cannot_make_is_told_here(tmp_path: Path) -> None:
    folder = toy.save(toy.chatml(toy.ENDLESS), tmp_path / "model")
    renderer = load_renderer(folder, RunConfig.model_validate({"model": "m", "data": {"train": "a"}}))
    path = write(tmp_path / "rows.jsonl", [{"text": "fine"}] * 50)
    texts = build(path, renderer, tmp_path / "cache")
    assert texts.store is not None, texts.given.account
    with pytest.raises(ModelError, match="stop"):
        build(write(tmp_path / "chats.jsonl", mixed()), renderer, tmp_path / "cache", drop_bad_rows=True)


def test_rows_that_cannot_be_rendered_are_all_named(renderer: Renderer, tmp_path: Path) -> None:
    rows = mixed()
    for number in (33, 250, 251):
        rows[number] = row(number)
        rows[number]["messages"][0]["content"] = "\ufdd0"
    with pytest.raises(DataError) as caught:
        build(write(tmp_path / "rows.jsonl", rows), renderer, tmp_path / "cache", drop_bad_rows=True)
    assert [problem.where.rsplit(":")[-1] for problem in caught.value.problems] == ["34", "251", "252"]


def test_an_interrupted_build_leaves_no_helper_and_goes_on(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl", mixed())
    started: list[int] = []
    begin = helpers._Helper.__init__

    def noted(self: helpers._Helper, first: bytes) -> None:
        begin(self, first)
        started.append(self._process.pid)

    monkeypatch.setattr(helpers._Helper, "__init__", noted)
    monkeypatch.setattr(tokens, "PROGRESS_S", 0.0)
    take = tokens._Writer._take

    def interrupted(self: Any, *args: Any) -> None:
        take(self, *args)
        if self._rows >= ROWS // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokens._Writer, "_take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(path, renderer, tmp_path / "a", drop_bad_rows=True)
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    mine = build(path, renderer, tmp_path / "a", drop_bad_rows=True)
    monkeypatch.setattr(helpers, "MOST_HELPERS", 0)
    assert content(mine.store) == content(build(path, renderer, tmp_path / "b", drop_bad_rows=True).store)


def test_words_that_a_helper_distrusts_are_distrusted(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.jsonl", mixed())
    right = content(build(path, renderer, tmp_path / "a", drop_bad_rows=True).store)
    made = load_renderer(renderer.folder, RunConfig.model_validate({"model": "m", "data": {"train": "a"}}))
    make = BlockMaker.make
    wrong: list[int] = []

    def distrusts(self: BlockMaker, *args: Any) -> Block:
        if self.renderer.goes_by_words:
            wrong.append(1)
            if len(wrong) == 3:
                self.renderer.distrust_words()
        return make(self, *args)

    monkeypatch.setattr(helpers, "MOST_HELPERS", 0)
    monkeypatch.setattr(BlockMaker, "make", distrusts)
    again = build(path, made, tmp_path / "b", drop_bad_rows=True)
    assert len(wrong) == 3 and not made.goes_by_words and content(again.store) == right


def test_the_users_own_format_needs_no_helpers(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "from luthier.data.formats import Text\ndef text(row):\n    return Text(row['said'])\n"
    (tmp_path / "own_helped_format.py").write_text(source, encoding="utf-8")
    path = write(tmp_path / "rows.jsonl", [{"said": f"{number}"} for number in range(ROWS)])
    given = helped(monkeypatch)
    own = FileScan(str(path), "own_helped_format:text")
    built = tokens.build(own, renderer, tmp_path / "cache", role="train", source_index=0)
    assert built.store is not None and len(built.store) == ROWS and not given


def test_short_files_start_no_process(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "START_AFTER_S", 60.0)
    monkeypatch.setattr(helpers, "_Helper", None)
    started = time.monotonic()
    assert build(write(tmp_path / "rows.jsonl", mixed()), renderer, tmp_path, drop_bad_rows=True).store is not None
    assert time.monotonic() - started < 60
