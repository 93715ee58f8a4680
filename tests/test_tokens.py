"""The token store: what is in it, when it is reused, what happens to long rows, to damage and to full disks."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_tokenizers as toy

from luthier.config.schema import RunConfig
from luthier.data import tokens
from luthier.data.formats import Chat, Completion, Example, Message, Text
from luthier.data.scan import Item
from luthier.data.store import META, computed_tokens
from luthier.data.templates import Renderer, load_renderer
from luthier.data.tokens import TokenStore
from luthier.errors import DataError, Problem
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


def items(*examples: Example, source: int = 0) -> tuple[Item, ...]:
    return tuple(Item(example, f"data{source}.json", number, source) for number, example in enumerate(examples, 1))


MIXED = items(chat("Fine."), Text("The capital of France"), chat("Paris", 0.1), Completion("a", "b"))


def test_what_is_read_back_is_what_was_rendered(renderer: Renderer, tmp_path: Path) -> None:
    built = tokens.build((*MIXED, *items(chat("x"), source=1)), renderer, config(), tmp_path)
    store = built.store
    assert (len(store), store.num_rows, built.excluded, built.too_long, built.reused) == (5, 5, (), None, False)
    for uid, item in enumerate((*MIXED, *items(chat("x"), source=1))):
        ids, weights = renderer.train(item.example)
        row = store[uid]
        assert row.uid == uid and row.ids.dtype == np.int32 and row.weights.dtype == np.float32
        assert row.ids.tolist() == ids.tolist()
        assert row.weights.tobytes() == weights.tobytes(), "0.1 has to stay the float32 it was"
        assert store.lengths[uid] == len(ids) and store.computed[uid] == np.flatnonzero(weights)[-1]
        assert store.loss_weight[uid] == np.float32(weights.sum(dtype=np.float64))
    assert store.num_tokens == store.lengths.sum()
    assert store.sources.tolist() == [0, 0, 0, 0, 1]
    assert [store.locate(uid) for uid in (0, 3, 4)] == ["data0.json:1", "data0.json:4", "data1.json:1"]
    with pytest.raises(IndexError):
        store[5]
    assert len(list(store)) == 5  # type: ignore[call-overload]


def test_many_different_weights_are_kept_exactly(renderer: Renderer, tmp_path: Path) -> None:
    values = [float(np.float32(value)) for value in np.random.default_rng(0).uniform(0.01, 1, 400)]
    made = tokens.build(items(*(chat("a", value) for value in values)), renderer, config(), tmp_path).store
    assert [float(made[uid].weights.max()) for uid in range(len(made))] == values
    again = tokens.build(items(*(chat("a", value) for value in values)), renderer, config(), tmp_path)
    assert again.reused and float(again.store[399].weights.max()) == values[399]


def test_blocks_do_not_show(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokens.build(MIXED, renderer, config(), tmp_path / "a").store
    monkeypatch.setattr(tokens, "BLOCK_ROWS", 1)
    single = tokens.build(MIXED, renderer, config(), tmp_path / "b").store
    assert len(whole) == len(single)
    for uid in range(len(whole)):
        assert whole[uid].ids.tolist() == single[uid].ids.tolist()
        assert whole[uid].weights.tolist() == single[uid].weights.tolist()


# -------------------------------------------------------------------------------------------------------- reuse


def test_the_same_data_is_tokenised_once(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokens.build(MIXED, renderer, config(), tmp_path)
    monkeypatch.setattr(Renderer, "train_many", None)
    again = tokens.build(MIXED, renderer, config(), tmp_path)
    assert again.reused and again.store.path == first.store.path
    assert again.store[2].weights.tobytes() == first.store[2].weights.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda: (items(chat("Fine!"), *[i.example for i in MIXED[1:]]), {}),
        lambda: (MIXED[::-1], {}),
        lambda: (items(*[i.example for i in MIXED], source=1), {}),
        lambda: (MIXED, {"max_tokens": 100}),
        lambda: (MIXED, {"too_long": "drop"}),
        lambda: (MIXED, {"system": "Be brief."}),
    ],
    ids=["words", "order", "place", "bound", "policy", "system"],
)
def test_whatever_changes_ids_makes_another_store(
    folder: Path, renderer: Renderer, tmp_path: Path, change: Any
) -> None:
    changed, data = change()
    first = tokens.build(MIXED, renderer, config(), tmp_path)
    other = tokens.build(changed, load_renderer(folder, config(**data)), config(**data), tmp_path)
    assert not other.reused and other.store.fingerprint != first.store.fingerprint


def test_order_within_tools_matters(folder: Path, renderer: Renderer, tmp_path: Path) -> None:
    """Templates write tools as JSON, in the order of their keys."""
    one, other = ({"name": "f", "x": 1}, {"x": 1, "name": "f"})
    stores = [
        tokens.build(items(Chat(chat("a").messages, (tool,))), renderer, config(), tmp_path).store
        for tool in (one, other)
    ]
    assert stores[0][0].ids.tolist() != stores[1][0].ids.tolist()


def test_a_store_can_be_pickled_by_its_path(renderer: Renderer, tmp_path: Path) -> None:
    store = tokens.build(MIXED, renderer, config(), tmp_path).store
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    assert pickle.loads(packed)[1].ids.tolist() == store[1].ids.tolist()


def _build(renderer: Renderer, cache: Path, start: Any, queue: Any) -> None:
    start.wait()
    built = tokens.build(MIXED, renderer, config(), cache)
    queue.put([built.store[uid].ids.tolist() for uid in range(4)])


def test_several_processes_at_once(renderer: Renderer, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, queue = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_build, args=(renderer, tmp_path, start, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    expected = [renderer.train(item.example)[0].tolist() for item in MIXED]
    assert [queue.get(timeout=100) for _ in workers] == [expected] * 4
    for worker in workers:
        worker.join()
    assert len(list((tmp_path / "tokens").iterdir())) == 1, "no scratch folder is left"


def test_the_slower_of_two_takes_the_faster_ones_folder(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokens.build(MIXED, renderer, config(), tmp_path)
    kept = (first.store.path / META).stat().st_ino
    real = tokens._reopen
    calls = [0]

    def reopen(path: Path) -> Any:
        calls[0] += 1
        return None if calls[0] == 1 else real(path)

    monkeypatch.setattr(tokens, "_reopen", reopen)
    again = tokens.build(MIXED, renderer, config(), tmp_path)
    assert (again.store.path / META).stat().st_ino == kept and len(list((tmp_path / "tokens").iterdir())) == 1


# ------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["ids.bin", "weights.bin", "offsets.npy", "places.npy", META])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_damaged_store_is_built_again(renderer: Renderer, tmp_path: Path, name: str, harm: str) -> None:
    store = tokens.build(MIXED, renderer, config(), tmp_path).store
    expected = [store[uid].ids.tolist() for uid in range(4)]
    path = store.path / name
    content = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:-3])
    elif harm == "flip" and name != META:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "flip":
        path.write_bytes(content.replace(b'"format": 1', b'"format": 9'))
    again = tokens.build(MIXED, renderer, config(), tmp_path)
    assert not again.reused
    assert [again.store[uid].ids.tolist() for uid in range(4)] == expected


@pytest.mark.parametrize("harm", ["cut", "version", "gone"])
def test_opening_a_torn_store_by_its_path_says_so(renderer: Renderer, tmp_path: Path, harm: str) -> None:
    path = tokens.build(MIXED, renderer, config(), tmp_path).store.path
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
        tokens.build(MIXED, renderer, config(), tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def _build_as_nobody(renderer: Renderer, cache: Path, queue: Any) -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        tokens.build(MIXED, renderer, config(), cache)
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
        locked = outer / "locked"
        locked.mkdir()
        locked.chmod(mode)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        worker = context.Process(target=_build_as_nobody, args=(renderer, locked / "cache", queue))
        worker.start()
        message = queue.get(timeout=100)
        worker.join()
        locked.chmod(0o755)
    assert "Permission denied" in message and "LUTHIER_CACHE" in message


# ---------------------------------------------------------------------------------------------------- long rows


def long_items(renderer: Renderer) -> tuple[tuple[Item, ...], list[int]]:
    rows = items(chat("Fine."), chat("Paris " * 30), chat("Hello there, " * 40), chat("Tokyo"))
    return rows, [len(renderer.train(row.example)[0]) for row in rows]


def test_long_rows_stop_with_a_table(renderer: Renderer, tmp_path: Path) -> None:
    rows, lengths = long_items(renderer)
    with pytest.raises(DataError) as caught:
        tokens.build(rows, renderer, config(max_tokens=40), tmp_path)
    text = str(caught.value)
    assert f"2 of 4 rows are longer than this many tokens (the longest has {max(lengths)};" in text
    assert f"{sum(lengths[1:3]) - 80} tokens in all" in text
    assert f"data0.json:2 ({lengths[1]}), data0.json:3 ({lengths[2]})" in text
    assert f"50 %: {sorted(lengths)[2]}" in text and f"100 %: {max(lengths)}" in text
    assert "data.max_tokens = 40" in text and "data.too_long: drop" in text
    assert not list((tmp_path / "tokens").iterdir())


def test_dropped_rows_are_accounted_for(renderer: Renderer, tmp_path: Path) -> None:
    rows, lengths = long_items(renderer)
    for reused in (False, True):
        built = tokens.build(rows, renderer, config(max_tokens=40, too_long="drop"), tmp_path)
        assert built.reused is reused and len(built.store) + len(built.excluded) == len(rows)
        assert [(row.path, row.number, row.reason_id) for row in built.excluded] == [
            ("data0.json", 2, "tokens.too_long_dropped"),
            ("data0.json", 3, "tokens.too_long_dropped"),
        ]
        assert str(lengths[1]) in built.excluded[0].reason
        assert built.too_long is not None and (built.too_long.rows, built.too_long.total) == (2, 4)
        assert built.too_long.percentiles[100] == max(lengths) and built.truncated == 0
        assert [built.store.locate(uid) for uid in (0, 1)] == ["data0.json:1", "data0.json:4"]
    set_language("zh")
    reason = tokens.build(rows, renderer, config(max_tokens=40, too_long="drop"), tmp_path).excluded[0].reason
    assert "词元" in reason, "reasons are told in the reader's language, not the builder's"


def test_truncated_rows_are_cut_without_a_false_end(renderer: Renderer, tmp_path: Path) -> None:
    rows, _ = long_items(renderer)
    built = tokens.build(rows, renderer, config(max_tokens=40, too_long="truncate"), tmp_path)
    assert (len(built.store), built.truncated, built.excluded) == (4, 2, ())
    whole_ids, whole_weights = renderer.train(rows[1].example)
    assert built.store[1].ids.tolist() == whole_ids[:40].tolist()
    assert built.store[1].weights.tolist() == whole_weights[:40].tolist()
    assert built.store[1].ids[-1] not in renderer.stop_ids


def test_a_row_that_loses_its_answer_is_left_out(renderer: Renderer, tmp_path: Path) -> None:
    rows = items(Chat((Message("user", "Hello there, " * 30), Message("assistant", "Fine"))), chat("Fine"))
    built = tokens.build(rows, renderer, config(max_tokens=40, too_long="truncate"), tmp_path)
    assert [(row.number, row.reason_id) for row in built.excluded] == [(1, "tokens.answer_cut_off")]
    assert (len(built.store), built.truncated) == (1, 0)
    assert all((built.store[uid].weights > 0).any() for uid in range(len(built.store)))


@pytest.fixture(scope="module")
def rewriter(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return load_renderer(toy.save(toy.chatml(toy.THINKING), tmp_path_factory.mktemp("rewriter")), config())


def talk(*answers: str) -> Chat:
    return Chat(tuple(m for each in answers for m in (Message("user", "Hello"), Message("assistant", each))))


def test_an_unrolled_row_is_one_row_of_several_sequences(rewriter: Renderer, tmp_path: Path) -> None:
    rows = items(chat("Fine."), talk("a", "b", "c"), chat("Tokyo"))
    built = tokens.build(rows, rewriter, config(), tmp_path)
    assert (len(built.store), built.store.num_rows, built.excluded) == (5, 3, ())
    places = [built.store.locate(uid) for uid in range(5)]
    assert places == ["data0.json:1", *["data0.json:2"] * 3, "data0.json:3"]
    made = rewriter.train_many([rows[1].example])[0]
    assert not isinstance(made, Problem)
    for uid, (ids, weights) in enumerate(made, 1):
        assert built.store[uid].ids.tolist() == ids.tolist()
        assert built.store[uid].weights.tolist() == weights.tolist()


def test_an_unrolled_row_is_dropped_as_a_whole_and_cut_sequence_by_sequence(rewriter: Renderer, tmp_path: Path) -> None:
    """Rows read = rows kept + rows left out: no row is both."""
    rows = items(talk("a", "Paris " * 30, "c"), chat("Fine."))
    dropped = tokens.build(rows, rewriter, config(max_tokens=60, too_long="drop"), tmp_path)
    assert [(row.number, row.reason_id) for row in dropped.excluded] == [(1, "tokens.too_long_dropped")]
    assert (len(dropped.store), dropped.store.num_rows) == (1, 1)
    cut = tokens.build(rows, rewriter, config(max_tokens=60, too_long="truncate"), tmp_path)
    # The third sequence ends within the long answer's words as context, and has nothing left to learn.
    assert (len(cut.store), cut.store.num_rows, cut.truncated, cut.excluded) == (3, 2, 1, ())
    assert cut.too_long is not None and (cut.too_long.rows, cut.too_long.total) == (1, 2)
    assert all((cut.store[uid].weights > 0).any() for uid in range(3)) and max(cut.store.lengths) == 60


def test_rows_without_anything_to_learn_are_left_out(renderer: Renderer, tmp_path: Path) -> None:
    rows = items(chat("a", 0.0), chat("b"), Text(""))
    built = tokens.build(rows, renderer, config(), tmp_path)
    assert [(row.number, row.reason_id) for row in built.excluded] == [
        (1, "tokens.nothing_learnt"),
        (3, "tokens.nothing_learnt"),
    ]
    with pytest.raises(DataError, match="of 1 rows none is left"):
        tokens.build(items(chat("a", 0.0)), renderer, config(), tmp_path)


@pytest.mark.parametrize("extra", range(12))
def test_long_text_becomes_chunks_that_lose_nothing(renderer: Renderer, tmp_path: Path, extra: int) -> None:
    text = "The capital of France is Paris. " * 9 + "x " * extra
    whole, _ = renderer.train(Text(text))
    store = tokens.build(items(Text(text), Text("Tokyo")), renderer, config(max_tokens=8), tmp_path).store
    pieces = [store[uid] for uid in range(len(store)) if store.locate(uid) == "data0.json:1"]
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == whole.tolist()
    for piece in pieces:
        assert 2 <= len(piece.ids) <= 8
        assert piece.weights.tolist() == [0.0] + [1.0] * (len(piece.ids) - 1)
    ends = [renderer.vocabulary.eos_id in piece.ids for piece in pieces]
    assert ends == [False] * (len(pieces) - 1) + [True]
    assert store.num_rows == 2


def test_chunks_of_any_length() -> None:
    for length in range(1, 60):
        chunks = list(tokens._chunks(length, 8))
        assert [place for chunk in chunks for place in range(*chunk)] == list(range(length))
        assert all(end - start <= 8 for start, end in chunks)
        assert length == 1 or all(end - start >= 2 for start, end in chunks), "a single token teaches nothing"


# ------------------------------------------------------------------------------------------------------- bad rows


def test_rows_that_cannot_be_rendered_are_named(renderer: Renderer, tmp_path: Path) -> None:
    rows = items(chat("a"), *[chat("\ud800")] * 30)
    with pytest.raises(DataError, match="U\\+D800") as caught:
        tokens.build(rows, renderer, config(), tmp_path)
    assert caught.value.problems[0].where == "data0.json:2"
    assert len(caught.value.problems) == tokens.PROBLEMS + 1
    assert "10 more rows" in str(caught.value.problems[-1])
    assert not list((tmp_path / "tokens").iterdir())


def test_real_rows(renderer: Renderer, tmp_path: Path, real_data: Any) -> None:
    """Every row of a real file is kept, and every learnt stretch ends with the stop token."""
    rows = json.loads(real_data("identity.json").read_text(encoding="utf-8"))
    made = items(*(Chat((Message("user", r["instruction"]), Message("assistant", r["output"]))) for r in rows))
    assert renderer.laws([item.example for item in made]).shapes == 1
    store = tokens.build(made, renderer, config(), tmp_path).store
    assert len(store) == len(rows)
    for uid in range(len(store)):
        row = store[uid]
        assert row.ids[computed_tokens(row.weights)] == renderer.stop_ids[0]
