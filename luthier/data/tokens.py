"""Examples to token stores.

What goes in: examples and a renderer. What comes out: a store of token ids and loss weights in a folder named by the
hash of everything that went in, so that the same data is never tokenised twice and another process opens what one has
built; and an account of what did not fit. A folder appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats
from luthier.config.schema import RunConfig
from luthier.data.formats import Text
from luthier.data.scan import Excluded, Item
from luthier.data.store import FORMAT, META, TokenStore, checksum, computed_tokens, read_meta
from luthier.data.templates import Renderer
from luthier.errors import DataError, Problem
from luthier.text import say

__all__ = ["Built", "TokenStore", "TooLong", "build"]

BLOCK_ROWS, BLOCK_CHARS = 1024, 2**22
"""Rows and characters tokenised at once: enough for the tokenizer's threads, little beside the tokens. Not tuned."""
NAMED = 10
"""Rows named in a message."""
PROBLEMS = 20
"""Problems spelt out before the rest is only counted."""
PERCENTILES = (50, 90, 99, 100)


@dataclasses.dataclass(frozen=True)
class TooLong:
    """Rows longer than `data.max_tokens`.

    Attributes:
        rows, total: how many of how many; longest: in tokens; over: tokens beyond the bound, all together.
        percentiles: percent -> length of rows, too long or not.
        first: (place, length) of the first of them.
    """

    max_tokens: int
    rows: int
    total: int
    longest: int
    over: int
    percentiles: dict[int, int]
    first: tuple[tuple[str, int], ...]

    def lines(self) -> list[str]:
        """The table for people."""
        lengths = ", ".join(f"{percent} %: {length}" for percent, length in self.percentiles.items())
        named = ", ".join(f"{place} ({length})" for place, length in self.first)
        more = f", … (+{self.rows - len(self.first)})" if self.rows > len(self.first) else ""
        return [say("tokens.lengths", lengths=lengths), say("tokens.first_long", named=named + more)]


@dataclasses.dataclass(frozen=True)
class Built:
    """A store and its account.

    Attributes:
        excluded: rows left out, with the reason.
        too_long: table of the rows beyond the bound; None where there are none.
        truncated: how many rows were cut and kept.
        reused: whether the store was there already.
    """

    store: TokenStore
    excluded: tuple[Excluded, ...]
    too_long: TooLong | None
    truncated: int
    reused: bool


def build(items: Sequence[Item], renderer: Renderer, config: RunConfig, cache_dir: Path) -> Built:
    """Tokenise examples into a store below `cache_dir`, or open the store that is already there.

    Plain texts longer than `data.max_tokens` become several sequences. For other examples that are longer
    `data.too_long` says what happens.

    Raises:
        DataError: rows cannot be rendered, are too long under `stop`, or none is left; or the disk is full.
        ModelError: the model has no chat template, or none that ends answers.
    """
    key = _key(items, renderer, config)
    parent = cache_dir / "tokens"
    path = parent / key
    try:
        found = _reopen(path)
        if found is not None:
            return found
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=".building-"))
        try:
            _Writer(scratch, renderer, config).write(items, key)
            _move(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        made = _reopen(path)
    except OSError as error:
        raise _disk_error(parent, error) from error
    if made is None:
        raise DataError(Problem("tokens.damaged", where=str(path)))
    return dataclasses.replace(made, reused=False)


def _disk_error(path: Path, error: OSError) -> DataError:
    return DataError(Problem("tokens.disk", where=str(path), values={"reason": error.strerror or str(error)}))


def _key(items: Iterable[Item], renderer: Renderer, config: RunConfig) -> str:
    """SHA-256 over what decides the content: the examples in order with their places, the renderer, the bounds."""
    digest = hashlib.sha256()
    digest.update(repr((FORMAT, renderer.fingerprint, config.data.max_tokens, config.data.too_long)).encode())
    for item in items:
        # repr keeps the order of mappings, which templates may write out.
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _move(scratch: Path, path: Path) -> None:
    """Give a finished folder its name. Where another process was faster, its folder holds the same and stays."""
    try:
        scratch.rename(path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES) or not path.is_dir():
            raise
    else:
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Make a folder's entries survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ---------------------------------------------------------------------------------------------------- reopening


def _reopen(path: Path) -> Built | None:
    """The store, if it is there and whole; what is damaged is taken away."""
    if not path.exists():
        return None
    try:
        meta = read_meta(path)
        whole = all(checksum(path / name) == tuple(written) for name, written in meta["files"].items())
        if whole:
            return _built(TokenStore(path), meta)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shutil.rmtree(path, ignore_errors=True)
    return None


def _built(store: TokenStore, meta: dict[str, Any]) -> Built:
    excluded = [Excluded(path, number, id, say(id, **values)) for path, number, id, values in meta["excluded"]]
    table = meta["too_long"]
    if table is not None:
        percentiles = {int(percent): length for percent, length in table["percentiles"].items()}
        first = tuple((place, length) for place, length in table["first"])
        table = TooLong(**{**table, "percentiles": percentiles, "first": first})
    return Built(store, tuple(excluded), table, meta["truncated"], True)


# ------------------------------------------------------------------------------------------------------ building


class _Writer:
    """Fills one folder."""

    def __init__(self, folder: Path, renderer: Renderer, config: RunConfig) -> None:
        self._folder = folder
        self._renderer = renderer
        self._max_tokens = config.data.max_tokens
        self._policy = config.data.too_long
        self._lengths: list[int] = []
        self._computed: list[int] = []
        self._loss_weight: list[float] = []
        self._sources: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._paths: dict[str, int] = {}
        self._row_lengths: list[int] = []
        self._long: list[tuple[str, int]] = []
        self._excluded: list[tuple[str, int, str, dict[str, Any]]] = []
        self._problems: list[Problem] = []
        self._truncated = self._rows = 0

    def write(self, items: Sequence[Item], key: str) -> None:
        """Render, bound and write every item; ends with the folder complete and on the disk."""
        with open(self._folder / "ids.bin", "wb") as ids, _Weights(self._folder / "weights.bin") as weights:
            for block in _blocks(items):
                made = self._renderer.train_many([item.example for item in block])
                pairs = [pair for item, result in zip(block, made, strict=True) for pair in self._take(item, result)]
                if pairs:
                    ids.write(np.concatenate([pair[0] for pair in pairs]).astype(np.int32).tobytes())
                    weights.write(np.concatenate([pair[1] for pair in pairs]))
            table = weights.table
        too_long = self._too_long()
        if self._problems:
            rest = len(self._problems) - PROBLEMS
            more = [Problem("tokens.more", values={"rows": rest})] if rest > 0 else []
            raise DataError([*self._problems[:PROBLEMS], *more])
        if too_long is not None and self._policy == "stop":
            values = {**dataclasses.asdict(too_long), "table": "\n    ".join(too_long.lines())}
            value = str(self._max_tokens)
            raise DataError(Problem("tokens.too_long", field="data.max_tokens", value=value, values=values))
        if not self._lengths:
            raise DataError(Problem("tokens.empty", values={"rows": len(items), "excluded": len(self._excluded)}))
        self._finish(key, table, too_long)

    def _take(self, item: Item, made: Any) -> Iterator[tuple[NDArray[np.int32], Floats]]:
        """The sequences that one item becomes. A row whose conversation was unrolled is as long as its longest one."""
        if isinstance(made, Problem):
            self._problems.append(dataclasses.replace(made, where=f"{item.path}:{item.number}"))
            return
        chunked = isinstance(item.example, Text)
        longest = max(len(ids) for ids, _ in made)
        if not chunked:
            self._row_lengths.append(longest)
        cut = longest > self._max_tokens and not chunked
        if cut:
            self._long.append((f"{item.path}:{item.number}", longest))
            if self._policy == "drop":
                self._exclude(item, "tokens.too_long_dropped", tokens=longest, max_tokens=self._max_tokens)
                return
            made = [(ids[: self._max_tokens], weights[: self._max_tokens]) for ids, weights in made]
        made = [(ids, weights) for ids, weights in made if weights.any()]
        if not made:
            values = {"max_tokens": self._max_tokens} if cut else {}
            self._exclude(item, "tokens.answer_cut_off" if cut else "tokens.nothing_learnt", **values)
            return
        self._truncated += cut
        self._rows += 1
        for ids, weights in made:
            for start, end in _chunks(len(ids), self._max_tokens):
                piece = weights[start:end].copy()
                piece[0] = 0
                self._note(item, piece)
                yield ids[start:end], piece

    def _exclude(self, item: Item, reason: str, **values: Any) -> None:
        self._excluded.append((item.path, item.number, reason, values))

    def _note(self, item: Item, weights: Floats) -> None:
        self._lengths.append(len(weights))
        self._computed.append(computed_tokens(weights))
        self._loss_weight.append(float(weights.sum(dtype=np.float64)))
        self._sources.append(item.source_index)
        self._places.append((self._paths.setdefault(item.path, len(self._paths)), item.number))

    def _too_long(self) -> TooLong | None:
        if not self._long:
            return None
        lengths = [length for _, length in self._long]
        # The upper of two neighbours, so that every number is the length of a row.
        measured = np.percentile(self._row_lengths, PERCENTILES, method="higher")
        return TooLong(
            max_tokens=self._max_tokens,
            rows=len(lengths),
            total=len(self._row_lengths),
            longest=max(lengths),
            over=sum(lengths) - self._max_tokens * len(lengths),
            percentiles={percent: int(length) for percent, length in zip(PERCENTILES, measured, strict=True)},
            first=tuple(self._long[:NAMED]),
        )

    def _finish(self, key: str, table: list[float] | None, too_long: TooLong | None) -> None:
        offsets = np.concatenate([[0], np.cumsum(self._lengths)])
        columns: dict[str, tuple[Any, type[np.generic]]] = {
            "offsets": (offsets, np.int64),
            "computed": (self._computed, np.int64),
            "loss_weight": (self._loss_weight, np.float32),
            "sources": (self._sources, np.int32),
            "places": (self._places, np.int64),
        }
        for name, (values, dtype) in columns.items():
            np.save(self._folder / f"{name}.npy", np.asarray(values, dtype=dtype))
        names = ["ids.bin", "weights.bin", *(f"{name}.npy" for name in columns)]
        meta = {
            "format": FORMAT,
            "key": key,
            "rows": self._rows,
            "weight_table": table,
            "paths": list(self._paths),
            "excluded": self._excluded,
            "truncated": self._truncated,
            "too_long": dataclasses.asdict(too_long) if too_long else None,
            "files": {name: checksum(self._folder / name) for name in names},
        }
        (self._folder / META).write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")
        for name in [*names, META]:
            with open(self._folder / name, "rb+") as file:
                os.fsync(file.fileno())
        _sync(self._folder)


class _Weights:
    """A file of loss weights: one byte per token into a table while there are at most 256 different ones (almost always
    0 and 1), plain float32 from then on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._codes: dict[float, int] | None = {}

    def __enter__(self) -> _Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def table(self) -> list[float] | None:
        return None if self._codes is None else list(self._codes)

    def write(self, weights: Floats) -> None:
        different, places = np.unique(weights, return_inverse=True)
        if self._codes is not None:
            for value in different.tolist():
                self._codes.setdefault(value, len(self._codes))
            if len(self._codes) <= 256:
                codes = np.asarray([self._codes[value] for value in different.tolist()], dtype=np.uint8)
                self._file.write(codes[places].tobytes())
                return
            self._spell_out(list(self._codes))
        self._file.write(weights.astype(np.float32).tobytes())

    def _spell_out(self, table: list[float]) -> None:
        """Rewrite what is there as float32."""
        self._file.close()
        codes = np.fromfile(self._path, dtype=np.uint8)
        self._file = open(self._path, "wb")  # noqa: SIM115 - closed by __exit__
        self._file.write(np.asarray(table, dtype=np.float32)[codes].tobytes())
        self._codes = None


def _blocks(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items in blocks of bounded size; a text of any length is a block of its own at worst."""
    block: list[Item] = []
    chars = 0
    for item in items:
        block.append(item)
        chars += len(item.example.text) if isinstance(item.example, Text) else 0
        if len(block) >= BLOCK_ROWS or chars >= BLOCK_CHARS:
            yield block
            block, chars = [], 0
    if block:
        yield block


def _chunks(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Half-open pieces of at most `most` tokens. A piece's first token is predicted from nothing, so a last piece of
    one token would teach nothing: the piece before gives it one of its own."""
    start = 0
    while start < length:
        end = min(start + most, length)
        if length - end == 1:
            end -= 1
        yield start, end
        start = end
