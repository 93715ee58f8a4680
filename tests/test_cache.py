"""The cache of token stores: listed, cleared, kept within bounds, and never taken from under a builder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest
import stores
import toy_tokenizers as toy

from luthier.config.schema import RunConfig
from luthier.data import cache
from luthier.data.formats import Chat, Message
from luthier.data.templates import load_renderer
from luthier.data.tokens import BUILDING
from luthier.errors import DataError

CONFIG = RunConfig.model_validate({"model": "m", "data": {"train": "-"}})
DAY_S = 86400.0


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A cache with three stores, used three, two and one days ago."""
    renderer = load_renderer(toy.save(toy.chatml(), tmp_path / "model"), CONFIG)
    for days, rows in ((3, 10), (2, 20), (1, 30)):
        chats = [Chat((Message("user", "Hello"), Message("assistant", str(number)))) for number in range(rows)]
        store = stores.build(chats, renderer, tmp_path, source=rows).store
        assert store is not None
        used_s = time.time() - days * DAY_S
        os.utime(store.path / "meta.json", (used_s, used_s))
    return tmp_path


def test_stores_are_listed_with_what_they_hold(filled: Path) -> None:
    found = cache.entries(filled)
    assert [entry.sequences for entry in found] == [30, 20, 10]
    assert [Path(entry.data).name for entry in found] == ["data30.json", "data20.json", "data10.json"]
    assert all(entry.bytes == sum(file.stat().st_size for file in entry.path.iterdir()) for entry in found)
    text = "\n".join(cache.lines(found))
    assert "30 sequences" in text and "3 stores" in text and found[0].key in text
    assert cache.entries(filled / "nowhere") == []


def test_clearing_some_and_all(filled: Path) -> None:
    oldest = cache.entries(filled)[-1]
    with pytest.raises(DataError, match=oldest.key):
        cache.clear(filled, ["zzz"])
    assert [entry.sequences for entry in cache.clear(filled, [oldest.key[:6]])] == [10]
    assert len(cache.entries(filled)) == 2
    assert len(cache.clear(filled)) == 2 and not cache.entries(filled)


def test_the_longest_unused_goes_first_and_what_was_just_used_stays(filled: Path) -> None:
    every = cache.entries(filled)
    assert cache.trim(filled, sum(entry.bytes for entry in every)) == []
    assert [entry.sequences for entry in cache.trim(filled, every[0].bytes + every[1].bytes)] == [10]
    os.utime(every[0].path / "meta.json")
    assert [entry.sequences for entry in cache.trim(filled, 0)] == [20]
    assert [entry.sequences for entry in cache.entries(filled)] == [30]


def test_a_store_that_is_read_may_be_cleared(filled: Path) -> None:
    from luthier.data.store import TokenStore

    store = TokenStore.open(cache.entries(filled)[0].path)
    before = store.ids(0, 50).tolist()
    cache.clear(filled)
    assert store.ids(0, 50).tolist() == before


def test_what_is_being_built_stays_and_what_was_left_goes(filled: Path) -> None:
    cache.clear(filled)
    begun = filled / "tokens" / f"{BUILDING}abc"
    begun.mkdir()
    (begun / "ids.bin").write_bytes(b"1234")
    lock = begun.with_name(f"{begun.name}.lock")
    with open(lock, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (entry,) = cache.entries(filled)
        assert not entry.whole and entry.key == "abc" and entry.bytes == 4
        assert "not finished" in cache.lines([entry])[0]
        assert cache.clear(filled) == [] and begun.exists()
    assert len(cache.clear(filled)) == 1 and not begun.exists()
