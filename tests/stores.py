"""Token stores and sequences of examples that are at hand, for tests that do not care about files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.config.schema import RunConfig
from luthier.data import tokens
from luthier.data.check import Given, Rows
from luthier.data.formats import Example, RowFault
from luthier.data.readers import Fault, Row
from luthier.data.scan import Account, FileScan, Kept, Taken, Taker, Tally, content_hash
from luthier.data.sequences import Sequences
from luthier.data.templates import Renderer
from luthier.data.tokens import Built


class ExampleScan(FileScan):
    """A scan whose rows are given; its file holds them spelt out, so that its bytes change when they do."""

    def __init__(self, path: Path, examples: Sequence[Example]) -> None:
        # repr keeps the order of mappings, which templates may write out.
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != ascii(examples):
            path.write_text(ascii(examples), encoding="utf-8")
        super().__init__(str(path), "text")
        self.examples = examples

    def _raw(self) -> Iterator[Row | Fault]:
        return (Row(str(self.path), number, example, number) for number, example in enumerate(self.examples, 1))

    def _choose(self, values: Sequence[Any]) -> Taker | None:
        return _Given(str(self.path), self.format, self.names, lambda example: example)


class _Given(Taker):
    """Takes every example as it is."""

    def take(self, rows: Sequence[Row | Fault]) -> Taken:
        taken = Taken([], Account(self.path, read=len(rows)))
        for row in rows:
            assert isinstance(row, Row)
            try:
                digest = content_hash(row.value)
            except RowFault:
                digest = bytes(16)
            taken.account.kinds.setdefault(type(row.value).__name__, Tally()).add(row.where)
            taken.kept.append(Kept(row.value, row.path, row.number, row.line, digest))
        return taken


def build(examples: Sequence[Example], renderer: Renderer, folder: Path, *, source: int = 0) -> Built:
    """A store of the examples below `folder`, which also holds their file `data<source>.json`."""
    scan = ExampleScan(folder / f"data{source}.json", examples)
    return tokens.build(scan, renderer, folder, role="train", source_index=source)


def rows_of(*given: Given) -> Rows:
    """All of their rows."""
    return Rows(given, tuple(np.arange(len(each.table)) for each in given))


def sequences(config: RunConfig, *built: Built) -> Sequences:
    """What a run with all the rows would learn from."""
    stores = [each.store for each in built]
    assert all(store is not None for store in stores)
    return Sequences(
        rows_of(*(each.given for each in built)),
        [store for store in stores if store is not None],
        config.data.max_tokens,
        config.data.too_long,
    )
