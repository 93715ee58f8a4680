"""Token stores and sequences: what is in them, when a store is reused, long rows, damage, full disks."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores
import toy_tokenizers as toy

from luthier.config.schema import RunConfig
from luthier.data import helpers, scan, store, tokens
from luthier.data.check import Rows
from luthier.data.formats import Chat, Completion, Example, Message, Text
from luthier.data.scan import FileScan, fingerprint
from luthier.data.sequences import NAMED, Sequences, chunks
from luthier.data.store import FORMAT, META, TokenStore, computed_tokens
from luthier.data.templates import Renderer, load_renderer
from luthier.errors import DataError, ModelError, Problem
from luthier.text import set_language


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.save(toy.chatml(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return load_renderer(folder, config())


def config(**data: Any) -> RunConfig:
    return RunConfig.model_validate({"model": "m", "data": {"train": ["a", "b"], **data}})


def chat(answer: str, weight: float = 1.0) -> Chat:
    return Chat((Message("user", "Hello"), Message("assistant", answer, weight)))


MIXED: tuple[Example, ...] = (chat("Fine."), Text("The capital of France"), chat("Paris", 0.1), Completion("a", "b"))


def made(examples: Any, renderer: Renderer, folder: Path, **data: Any) -> Sequences:
    """The sequences of a run over one file."""
    return stores.sequences(config(**data), stores.build(examples, renderer, folder))


def kept_store(examples: Any, renderer: Renderer, folder: Path) -> TokenStore:
    built = stores.build(examples, renderer, folder).store
    assert built is not None
    return built


def test_what_is_read_back_is_what_was_rendered(renderer: Renderer, tmp_path: Path) -> None:
    built = [stores.build(MIXED, renderer, tmp_path), stores.build([chat("x")], renderer, tmp_path, source=1)]
    found = stores.sequences(config(), *built)
    assert (len(found), found.num_rows, found.excluded, found.too_long, built[0].reused) == (5, 5, (), None, False)
    for uid, example in enumerate((*MIXED, chat("x"))):
        ids, weights = renderer.train(example)
        row = found[uid]
        assert row.uid == uid and row.ids.dtype == np.int32 and row.weights.dtype == np.float32
        assert row.ids.tolist() == ids.tolist()
        assert row.weights.tobytes() == weights.tobytes(), "0.1 has to stay the float32 it was"
        assert found.lengths[uid] == len(ids) and found.computed[uid] == np.flatnonzero(weights)[-1]
        assert found.loss_weight[uid] == np.float32(weights.sum(dtype=np.float64))
    assert found.num_tokens == found.lengths.sum()
    assert found.sources.tolist() == [0, 0, 0, 0, 1]
    assert [found.locate(uid).removeprefix(f"{tmp_path}/") for uid in (0, 3, 4)] == [
        "data0.json:1",
        "data0.json:4",
        "data1.json:1",
    ]
    with pytest.raises(IndexError):
        found[5]
    assert len(list(found)) == 5  # type: ignore[call-overload]


def test_chosen_rows_are_those_that_are_there(renderer: Renderer, tmp_path: Path) -> None:
    built = stores.build([chat(str(number)) for number in range(10)], renderer, tmp_path)
    assert built.store is not None
    rows = Rows((built.given,), (np.array([2, 3, 7]),))
    found = Sequences(rows, [built.store], 2048, "stop")
    assert [found.locate(uid).rsplit(":")[-1] for uid in range(len(found))] == ["3", "4", "8"]
    assert [renderer.decode(found[uid].ids[found[uid].weights > 0]) for uid in range(3)] == ["2", "3", "7"]
    assert found.num_rows == 3


def test_many_different_weights_are_kept_exactly(renderer: Renderer, tmp_path: Path) -> None:
    values = [float(np.float32(value)) for value in np.random.default_rng(0).uniform(0.01, 1, 400)]
    examples = [chat("a", value) for value in values]
    found = made(examples, renderer, tmp_path)
    assert [float(found[uid].weights.max()) for uid in range(len(found))] == values
    again = stores.build(examples, renderer, tmp_path)
    assert again.reused and float(stores.sequences(config(), again)[399].weights.max()) == values[399]


def test_blocks_do_not_show(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(MIXED, renderer, tmp_path / "a")
    monkeypatch.setattr(scan, "BLOCK_ROWS", 1)
    single = made(MIXED, renderer, tmp_path / "b")
    assert len(whole) == len(single)
    for uid in range(len(whole)):
        assert whole[uid].ids.tolist() == single[uid].ids.tolist()
        assert whole[uid].weights.tolist() == single[uid].weights.tolist()


# -------------------------------------------------------------------------------------------------------- reuse


def test_the_same_data_is_tokenised_once(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stores.build(MIXED, renderer, tmp_path)
    monkeypatch.setattr(Renderer, "train_many", None)
    again = stores.build(MIXED, renderer, tmp_path)
    assert again.reused and again.store is not None and first.store is not None
    assert again.store.path == first.store.path
    assert again.given.account == first.given.account and again.laws == first.laws
    assert again.given.table.hashes.tobytes() == first.given.table.hashes.tobytes()
    tokens_of = [stores.sequences(config(), each)[2].weights.tobytes() for each in (first, again)]
    assert tokens_of[0] == tokens_of[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda: ([chat("Fine!"), *MIXED[1:]], {}),
        lambda: (MIXED[::-1], {}),
        lambda: (MIXED, {"system": "Be brief."}),
    ],
    ids=["words", "order", "system"],
)
def test_whatever_changes_ids_makes_another_store(
    folder: Path, renderer: Renderer, tmp_path: Path, change: Any
) -> None:
    changed, data = change()
    first = stores.build(MIXED, renderer, tmp_path)
    other = stores.build(changed, load_renderer(folder, config(**data)), tmp_path)
    assert first.store is not None and other.store is not None
    assert not other.reused and other.store.key != first.store.key


@pytest.mark.parametrize("data", [{"max_tokens": 100}, {"too_long": "drop"}, {"validation": 0.5}])
def test_bounds_and_splits_are_no_reason_to_tokenise_again(
    folder: Path, renderer: Renderer, tmp_path: Path, data: dict[str, Any]
) -> None:
    stores.build(MIXED, renderer, tmp_path)
    assert stores.build(MIXED, load_renderer(folder, config(**data)), tmp_path).reused


def test_a_file_that_was_moved_is_told_under_its_new_name(renderer: Renderer, tmp_path: Path) -> None:
    rows = [{"text": "a {{name}}"}, {"text": ""}]
    here, there = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    here.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in (here, there):
        scan = FileScan(str(path), "auto")
        built = tokens.build(scan, renderer, tmp_path, role="train", source_index=0, drop_bad_rows=True)
        account = built.given.account
        assert built.reused is (path == there) and account.path == str(path)
        assert account.placeholders.places == [f"{path}:1"] and account.excluded[0][1] == f"{path}:2"
        assert [problem.where for problem in account.row_problems()] == [f"{path}:2"]
        if path == here:
            here.rename(there)


def test_a_row_at_fault_stops_the_tokenising_and_not_the_reading(renderer: Renderer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["a", "", "b", ""]))
    for _ in range(2):
        built = tokens.build(FileScan(str(path), "auto"), renderer, tmp_path, role="train", source_index=0)
        assert built.store is None and [row[0] for row in built.given.account.excluded] == [2, 4]
        assert not [each for each in (tmp_path / "tokens").iterdir() if each.is_dir()]


def test_order_within_tools_matters(renderer: Renderer, tmp_path: Path) -> None:
    """Templates write tools as JSON, in the order of their keys."""
    one, other = ({"name": "f", "x": 1}, {"x": 1, "name": "f"})
    found = [made([Chat((*chat("a").messages,), (tool,))], renderer, tmp_path) for tool in (one, other)]
    assert found[0][0].ids.tolist() != found[1][0].ids.tolist()


def test_a_store_can_be_pickled_by_its_path(renderer: Renderer, tmp_path: Path) -> None:
    kept = kept_store(MIXED, renderer, tmp_path)
    packed = pickle.dumps(kept)
    assert len(packed) < 1000
    assert pickle.loads(packed).ids(0, 9).tolist() == kept.ids(0, 9).tolist()


def _build(renderer: Renderer, cache: Path, start: Any, queue: Any) -> None:
    start.wait()
    found = made(MIXED, renderer, cache)
    queue.put([found[uid].ids.tolist() for uid in range(4)])


def test_several_processes_at_once(renderer: Renderer, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, queue = context.Barrier(4), context.Queue()
    stores.ExampleScan(tmp_path / "data0.json", MIXED)
    workers = [context.Process(target=_build, args=(renderer, tmp_path, start, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    expected = [renderer.train(example)[0].tolist() for example in MIXED]
    assert [queue.get(timeout=100) for _ in workers] == [expected] * 4
    for worker in workers:
        worker.join()
    assert len(list((tmp_path / "tokens").iterdir())) == 1, "neither scratch folder nor lock is left"


def _build_slowly(renderer: Renderer, cache: Path) -> None:
    scan.BLOCK_ROWS, tokens.PROGRESS_S, helpers.MOST_HELPERS = 16, 0.0, 0  # helpers do not know `stores`
    stores.build(MANY, renderer, cache)


MANY = [chat("word " * (number % 23 + 1), 1.0 if number % 3 else 0.25) for number in range(4000)]


@pytest.mark.parametrize("blocks", [1, 7, 60])
def test_a_build_that_was_killed_goes_on_where_it_stopped(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    whole = kept_store(MANY, renderer, tmp_path / "whole")
    stores.ExampleScan(tmp_path / "data0.json", MANY)
    child = multiprocessing.get_context("fork").Process(target=_build_slowly, args=(renderer, tmp_path))
    child.start()
    deadline = time.monotonic() + 60

    def noted() -> int:
        try:
            (progress,) = (tmp_path / "tokens").glob(f"{tokens.BUILDING}*/{tokens.PROGRESS}")
            return int(json.loads(progress.read_text())["rows"])
        except ValueError:
            return 0

    while child.is_alive() and noted() < 16 * blocks and time.monotonic() < deadline:
        time.sleep(0.001)
    child.kill()
    child.join()
    reached = noted()
    assert reached >= 16 * blocks
    rendered = []
    real = Renderer.train_many
    monkeypatch.setattr(
        Renderer, "train_many", lambda self, examples: rendered.extend(examples) or real(self, examples)
    )
    again = kept_store(MANY, renderer, tmp_path)
    # Rendering besides is that of the laws, one example of each shape.
    assert len(MANY) - reached <= len(rendered) < len(MANY) - reached + 20
    for name in ("ids.bin", "weights.bin", *(f"{column}.bin" for column in store.COLUMNS)):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def rows_file(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"question": "q", "answer": text}) + "\n" for text in texts))
    return path


def built(path: Path, renderer: Renderer, cache: Path, **how: Any) -> tokens.Built:
    return tokens.build(FileScan(str(path), "auto"), renderer, cache, role="train", source_index=0, **how)


def test_a_file_that_changes_between_its_hash_and_its_rows_is_refused(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens must not lie under the hash of other bytes, from where its old content would fetch them."""
    path = rows_file(tmp_path / "a.jsonl", "old", "old")
    real = tokens._key

    def key_and_edit(*args: Any) -> str:
        made = real(*args)
        rows_file(path, "new", "new")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "_key", key_and_edit)
        found = built(path, renderer, tmp_path)
    assert found.store is None and [problem.id for problem in found.given.account.fatal] == ["data.changed"]
    rows_file(path, "old", "old")
    again = built(path, renderer, tmp_path)
    assert not again.reused and again.store is not None
    ids = again.store.ids(0, int(again.store.ends[0])).tolist()
    assert "old" in renderer.decode(ids) and "new" not in renderer.decode(ids)


def interrupted(path: Path, renderer: Renderer, cache: Path, monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    """A build that stops after some blocks of one row, each noted."""
    monkeypatch.setattr(scan, "BLOCK_ROWS", 1)
    monkeypatch.setattr(tokens, "PROGRESS_S", 0.0)
    real, taken = tokens._Writer._take, [0]

    def take(self: Any, *block: Any) -> None:
        if taken[0] == blocks:
            raise KeyboardInterrupt
        taken[0] += 1
        real(self, *block)

    with monkeypatch.context() as patch:
        patch.setattr(tokens._Writer, "_take", take)
        with pytest.raises(KeyboardInterrupt):
            built(path, renderer, cache)


def test_a_beginning_with_other_rows_is_not_gone_on_with(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rows_file(tmp_path / "a.jsonl", *"abcdef")
    expected = built(path, renderer, tmp_path / "straight").store
    with monkeypatch.context() as patch:
        # The hash is that of the file as it will be; the rows are read from another one.
        key = tokens._key(FileScan(str(path), "auto"), renderer, fingerprint(path)[0])
        rows_file(path, *"uvwxyz")
        patch.setattr(tokens, "_key", lambda *_: key)
        interrupted(path, renderer, tmp_path, patch, 4)
    rows_file(path, *"abcdef")
    again = built(path, renderer, tmp_path).store
    assert expected is not None and again is not None and again.key == key
    assert (again.path / "ids.bin").read_bytes() == (expected.path / "ids.bin").read_bytes()


def test_a_row_that_cannot_be_rendered_is_named_after_an_interruption_too(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rows_file(tmp_path / "a.jsonl", "🎻", "\ufdd0", "b", "c", "d")
    for _ in range(2):
        interrupted(path, renderer, tmp_path, monkeypatch, 4)
    with pytest.raises((DataError, ModelError), match="U\\+FDD0"):
        built(path, renderer, tmp_path)


def test_other_code_makes_other_stores(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rows_file(tmp_path / "a.jsonl", "a")
    built(path, renderer, tmp_path)
    assert built(path, renderer, tmp_path).reused
    monkeypatch.setattr(tokens, "_code", lambda: ["another version"])
    assert not built(path, renderer, tmp_path).reused


def test_what_the_users_format_imports_counts_too(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edited within one process, as in a notebook, and between processes."""
    monkeypatch.chdir(tmp_path)
    path = rows_file(tmp_path / "a.jsonl", "a")
    Path("own_store_helper.py").write_text("WORD = 'one'\n")
    Path("own_store_format.py").write_text(
        "import own_store_helper\n\ndef chat(row):\n"
        "    return {'question': 'q', 'answer': own_store_helper.WORD + ' first'}\n"
    )

    def said() -> tuple[str, bool]:
        scan = FileScan(str(path), "own_store_format:chat")
        found = tokens.build(scan, renderer, tmp_path, role="train", source_index=0)
        assert found.store is not None
        return renderer.decode(found.store.ids(0, int(found.store.ends[0])).tolist()), found.reused

    assert "one first" in said()[0] and said()[1]
    source = Path("own_store_format.py").read_text()
    Path("own_store_format.py").write_text(source.replace("first", "second"))
    text, reused = said()
    assert "one second" in text and not reused
    Path("own_store_helper.py").write_text("WORD = 'three'\n")
    assert not said()[1], "this process still has the old helper, a new one will not"


def test_a_whole_store_of_somebody_else_is_read(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rows_file(tmp_path / "a.jsonl", "a")
    built(path, renderer, tmp_path)

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    assert built(path, renderer, tmp_path).reused
    monkeypatch.setattr(tokens, "verified", refused)
    with pytest.raises(DataError, match="Permission denied"):
        built(path, renderer, tmp_path)
    monkeypatch.undo()
    assert built(path, renderer, tmp_path).reused, "what cannot be read for a while is not taken away"


def test_many_files_fit_into_few_file_descriptors(renderer: Renderer, tmp_path: Path) -> None:
    files = [rows_file(tmp_path / f"{number}.jsonl", str(number)) for number in range(60)]
    before = len(os.listdir("/proc/self/fd"))
    kept = [built(file, renderer, tmp_path).store for file in files]
    assert len(os.listdir("/proc/self/fd")) - before <= 60 and all(each is not None for each in kept)


# ------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["ids.bin", "weights.bin", "ends.bin", "numbers.bin", META])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_damaged_store_is_built_again(renderer: Renderer, tmp_path: Path, name: str, harm: str) -> None:
    found = made(MIXED, renderer, tmp_path)
    expected = [found[uid].ids.tolist() for uid in range(4)]
    path = kept_store(MIXED, renderer, tmp_path).path / name
    content = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:-3])
    elif harm == "flip" and name != META:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "flip":
        path.write_bytes(content.replace(f'"format": {FORMAT}'.encode(), b'"format": 9'))
    again = stores.build(MIXED, renderer, tmp_path)
    assert not again.reused
    assert [stores.sequences(config(), again)[uid].ids.tolist() for uid in range(4)] == expected


def test_a_store_is_verified_once_and_again_when_a_file_has_changed(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept_store(MIXED, renderer, tmp_path).path
    summed: list[str] = []
    real = store.checksum
    monkeypatch.setattr(store, "checksum", lambda file: summed.append(file.name) or real(file))
    assert stores.build(MIXED, renderer, tmp_path).reused and not summed
    os.utime(path / "ids.bin")
    assert stores.build(MIXED, renderer, tmp_path).reused and "ids.bin" in summed


@pytest.mark.parametrize("harm", ["cut", "version", "gone"])
def test_opening_a_torn_store_by_its_path_says_so(renderer: Renderer, tmp_path: Path, harm: str) -> None:
    path = kept_store(MIXED, renderer, tmp_path).path
    if harm == "cut":
        (path / "ids.bin").write_bytes(b"")
    elif harm == "version":
        (path / META).write_text(json.dumps({"format": 99}), encoding="utf-8")
    else:
        path = path.parent / "nothing"
    with pytest.raises(DataError, match="incomplete or of another version"):
        TokenStore.open(path)


def test_a_full_disk_is_an_error_that_leaves_nothing(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        stores.build(MIXED, renderer, tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def _build_as_nobody(renderer: Renderer, cache: Path, path: Path, queue: Any) -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        tokens.build(FileScan(str(path), "auto"), renderer, cache, role="train", source_index=0)
    except DataError as error:
        queue.put(str(error))
    else:
        queue.put("built")


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read only", "closed"])
def test_a_cache_folder_without_permission(renderer: Renderer, mode: int) -> None:
    """In a child process, because root may write anywhere; outside pytest's folders, which others may not enter."""
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        outer.chmod(0o755)
        locked, data = outer / "locked", outer / "a.jsonl"
        data.write_text('{"text": "a"}')
        locked.mkdir()
        locked.chmod(mode)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        worker = context.Process(target=_build_as_nobody, args=(renderer, locked / "cache", data, queue))
        worker.start()
        message = queue.get(timeout=100)
        worker.join()
        locked.chmod(0o755)
    assert "Permission denied" in message and "LUTHIER_CACHE" in message


# ---------------------------------------------------------------------------------------------------- long rows


def long_rows(renderer: Renderer) -> tuple[list[Example], list[int]]:
    rows: list[Example] = [chat("Fine."), chat("Paris " * 30), chat("Hello there, " * 40), chat("Tokyo")]
    return rows, [len(renderer.train(row)[0]) for row in rows]


def test_long_rows_stop_with_a_table(renderer: Renderer, tmp_path: Path) -> None:
    rows, lengths = long_rows(renderer)
    with pytest.raises(DataError) as caught:
        made(rows, renderer, tmp_path, max_tokens=40)
    text = str(caught.value)
    assert f"2 of 4 rows are longer than this many tokens (the longest has {max(lengths)};" in text
    assert f"{sum(lengths[1:3]) - 80} tokens in all" in text
    assert f"data0.json:2 ({lengths[1]}), {tmp_path}/data0.json:3 ({lengths[2]})" in text
    assert f"50 %: {sorted(lengths)[2]}" in text and f"100 %: {max(lengths)}" in text
    assert "data.max_tokens = 40" in text and "data.too_long: drop" in text


def test_the_first_long_rows_are_named_over_all_files(renderer: Renderer, tmp_path: Path) -> None:
    built = [stores.build([chat("Paris " * 30)] * 7, renderer, tmp_path, source=source) for source in range(3)]
    with pytest.raises(DataError) as caught:
        stores.sequences(config(max_tokens=40), *built)
    named = caught.value.problems[0].values["first"]
    assert len(named) == NAMED and named[7][0].endswith("data1.json:1")
    assert "21 of 21" in str(caught.value) and f"(+{21 - NAMED})" in str(caught.value)


def test_dropped_rows_are_accounted_for(renderer: Renderer, tmp_path: Path) -> None:
    rows, lengths = long_rows(renderer)
    found = made(rows, renderer, tmp_path, max_tokens=40, too_long="drop")
    assert len(found) + len(found.excluded) == len(rows)
    assert [(row.path, row.number, row.where, row.reason_id) for row in found.excluded] == [
        (f"{tmp_path}/data0.json", number, f"{tmp_path}/data0.json:{number}", "tokens.too_long_dropped")
        for number in (2, 3)
    ]
    assert str(lengths[1]) in found.excluded[0].reason
    assert found.too_long is not None and (found.too_long.rows, found.too_long.total) == (2, 4)
    assert found.too_long.percentiles[100] == max(lengths) and found.truncated == 0
    assert [found.locate(uid).rsplit(":")[-1] for uid in (0, 1)] == ["1", "4"]
    set_language("zh")
    reason = made(rows, renderer, tmp_path, max_tokens=40, too_long="drop").excluded[0].reason
    assert "词元" in reason, "reasons are told in the reader's language, not the builder's"


def test_truncated_rows_are_cut_without_a_false_end(renderer: Renderer, tmp_path: Path) -> None:
    rows, _ = long_rows(renderer)
    found = made(rows, renderer, tmp_path, max_tokens=40, too_long="truncate")
    assert (len(found), found.truncated, found.excluded) == (4, 2, ())
    whole_ids, whole_weights = renderer.train(rows[1])
    assert found[1].ids.tolist() == whole_ids[:40].tolist()
    assert found[1].weights.tolist() == whole_weights[:40].tolist()
    assert found[1].ids[-1] not in renderer.stop_ids
    assert found.loss_weight[1] == whole_weights[:40].sum() and found.computed[1] == 39


def test_a_row_that_loses_its_answer_is_left_out(renderer: Renderer, tmp_path: Path) -> None:
    rows = [Chat((Message("user", "Hello there, " * 30), Message("assistant", "Fine"))), chat("Fine")]
    found = made(rows, renderer, tmp_path, max_tokens=40, too_long="truncate")
    assert [(row.number, row.reason_id) for row in found.excluded] == [(1, "tokens.answer_cut_off")]
    assert (len(found), found.truncated) == (1, 0)
    assert all((found[uid].weights > 0).any() for uid in range(len(found)))


@pytest.fixture(scope="module")
def rewriter(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return load_renderer(toy.save(toy.chatml(toy.THINKING), tmp_path_factory.mktemp("rewriter")), config())


def talk(*answers: str) -> Chat:
    return Chat(tuple(m for each in answers for m in (Message("user", "Hello"), Message("assistant", each))))


def test_an_unrolled_row_is_one_row_of_several_sequences(rewriter: Renderer, tmp_path: Path) -> None:
    rows = [chat("Fine."), talk("a", "b", "c"), chat("Tokyo")]
    found = made(rows, rewriter, tmp_path)
    assert (len(found), found.num_rows, found.excluded) == (5, 3, ())
    assert found.conversations is not None and found.conversations.tolist() == [0, 1, 1, 1, 2]
    assert made(rows[::2], rewriter, tmp_path).conversations is None
    assert [found.locate(uid).rsplit(":")[-1] for uid in range(5)] == ["1", "2", "2", "2", "3"]
    expected = rewriter.train_many([rows[1]])[0]
    assert not isinstance(expected, Problem)
    for uid, (ids, weights) in enumerate(expected, 1):
        assert found[uid].ids.tolist() == ids.tolist()
        assert found[uid].weights.tolist() == weights.tolist()


def test_an_unrolled_row_is_dropped_as_a_whole_and_cut_sequence_by_sequence(rewriter: Renderer, tmp_path: Path) -> None:
    """Rows read = rows kept + rows left out: no row is both."""
    rows = [talk("a", "Paris " * 30, "c"), chat("Fine.")]
    dropped = made(rows, rewriter, tmp_path, max_tokens=60, too_long="drop")
    assert [(row.number, row.reason_id) for row in dropped.excluded] == [(1, "tokens.too_long_dropped")]
    assert (len(dropped), dropped.num_rows) == (1, 1)
    cut = made(rows, rewriter, tmp_path, max_tokens=60, too_long="truncate")
    # The third sequence ends within the long answer's words as context, and has nothing left to learn.
    assert (len(cut), cut.num_rows, cut.truncated, cut.excluded) == (3, 2, 2, ())
    assert cut.too_long is not None and (cut.too_long.rows, cut.too_long.total) == (1, 2)
    assert all((cut[uid].weights > 0).any() for uid in range(3)) and max(cut.lengths) == 60


def test_rows_without_anything_to_learn_are_left_out(renderer: Renderer, tmp_path: Path) -> None:
    found = made([chat("a", 0.0), chat("b"), Text("")], renderer, tmp_path)
    assert [(row.number, row.reason_id) for row in found.excluded] == [
        (1, "tokens.nothing_learnt"),
        (3, "tokens.nothing_learnt"),
    ]
    with pytest.raises(DataError, match="of 1 rows none is left"):
        made([chat("a", 0.0)], renderer, tmp_path)


@pytest.mark.parametrize("extra", range(12))
def test_long_text_becomes_chunks_that_lose_nothing(renderer: Renderer, tmp_path: Path, extra: int) -> None:
    text = "The capital of France is Paris. " * 9 + "x " * extra
    whole, _ = renderer.train(Text(text))
    found = made([Text("Oslo"), Text(text), Text("Tokyo")], renderer, tmp_path, max_tokens=8)
    pieces = [found[uid] for uid in range(len(found)) if found.locate(uid).endswith("data0.json:2")]
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == whole.tolist()
    for piece in pieces:
        assert 2 <= len(piece.ids) <= 8
        assert piece.weights.tolist() == [0.0] + [1.0] * (len(piece.ids) - 1)
        assert found.computed[piece.uid] == len(piece.ids) - 1 == found.loss_weight[piece.uid]
    ends = [renderer.vocabulary.eos_id in piece.ids for piece in pieces]
    assert ends == [False] * (len(pieces) - 1) + [True]
    assert found.num_rows == 3 and len(found) == len(pieces) + 2


def test_chunks_of_any_length() -> None:
    for length in range(1, 60):
        cut = chunks(length, 8)
        assert [place for chunk in cut for place in range(*chunk)] == list(range(length))
        assert all(end - start <= 8 for start, end in cut)
        assert length == 1 or all(end - start >= 2 for start, end in cut), "a single token teaches nothing"


# --------------------------------------------------------------------------------------------------------- memory

BUILD = """
import sys
from pathlib import Path
from luthier.config.schema import RunConfig
from luthier.data import check, helpers, tokens
from luthier.data.sequences import Sequences
from luthier.data.templates import load_renderer

helpers.START_AFTER_S = 0.0  # they too take some memory, whatever the file's size

held = []  # by helpers at most, in bytes
end = helpers._Helper.end

def most(process):  # getrusage begins with the size of the process that started this one
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def noted(self):
    held.append(most(self._process.pid))
    end(self)

helpers._Helper.end = noted

def peak():
    return most("self") + sum(held)

for path in sys.argv[3:]:
    config = RunConfig.model_validate({"model": "m", "data": {"train": path}})
    found = check.scans(config.data)
    (scan,) = (each[0] for each in found.files)
    renderer = load_renderer(Path(sys.argv[1]), config)
    held.clear()
    built = tokens.build(scan, renderer, Path(sys.argv[2]), role="train", source_index=0)
    checked = check.judge(config.data, 0, "sft", found, [built.given])
    found = Sequences(checked.train, [built.store], 1 << 20, "stop")
    print(len(found) + len(checked.validation), peak())
"""


def _peaks(folder: Path, cache: Path, *paths: Path) -> list[tuple[int, int]]:
    """(rows kept, peak of the process so far and its helpers in bytes) after each file has become a store."""
    command = [sys.executable, "-c", BUILD, str(folder), str(cache), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [(int(rows), int(peak)) for rows, peak in (line.split() for line in done.stdout.splitlines())]


def _write_rows(path: Path, rows: int, answer_bytes: int) -> Path:
    answer = " ".join(f"word{number % 97}" for number in range(answer_bytes // 7))
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(json.dumps({"instruction": f"question {number}", "output": answer}) + "\n")
    return path


def test_memory_does_not_grow_with_the_file(folder: Path, tmp_path: Path) -> None:
    """After 8 MB, 120 MB more may cost what 60,000 rows need in numbers, and blocks of one size: how many of those are
    on their way when the peak is reached varies by 18 MB on a busy machine."""
    small = _write_rows(tmp_path / "small.jsonl", 4_000, 2_000)
    large = _write_rows(tmp_path / "large.jsonl", 64_000, 2_000)
    (_, before), (rows, after) = _peaks(folder, tmp_path, small, large)
    assert rows == 64_000 and large.stat().st_size > 128e6
    assert after - before < 40e6


@pytest.mark.long
def test_five_gigabytes_in_less_than_one(folder: Path, tmp_path: Path) -> None:
    path = _write_rows(tmp_path / "huge.jsonl", 500_000, 10_400)
    assert path.stat().st_size > 5e9
    ((rows, peak),) = _peaks(folder, tmp_path, path)
    assert rows == 500_000 and peak < 1e9


# ------------------------------------------------------------------------------------------------------- bad rows


def test_rows_that_cannot_be_rendered_are_named(renderer: Renderer, tmp_path: Path) -> None:
    # Answers that begin alike: the first row of a kind is the laws' business.
    with pytest.raises(DataError, match="U\\+D800") as caught:
        stores.build([chat("🎻"), *[chat("\ud800")] * 30], renderer, tmp_path)
    assert caught.value.problems[0].where == f"{tmp_path}/data0.json:2"
    assert len(caught.value.problems) == tokens.PROBLEMS + 1
    assert "10 more rows" in str(caught.value.problems[-1])
    assert not list((tmp_path / "tokens").iterdir())


def test_real_rows(renderer: Renderer, tmp_path: Path, real_data: Any) -> None:
    """Every row of a real file is kept, and every learnt stretch ends with the stop token."""
    rows = json.loads(real_data("identity.json").read_text(encoding="utf-8"))
    examples = [Chat((Message("user", r["instruction"]), Message("assistant", r["output"]))) for r in rows]
    built = stores.build(examples, renderer, tmp_path)
    assert built.laws.shapes == 1
    found = stores.sequences(config(), built)
    assert len(found) == len(rows)
    for uid in range(len(found)):
        row = found[uid]
        assert row.ids[computed_tokens(row.weights)] == renderer.stop_ids[0]
