"""The rows of a recipe, as far as a plan on paper needs them, without reading or tokenising any.

What goes in: the recipe and the cache of token stores, or what a check of the data counted. What comes out: how long
rows are, from the stores of the training files where an earlier command has built them; else as long as the recipe
allows, which is said. Torch-free.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from luthier.config.schema import Judged, Kto, Method, RunConfig
from luthier.data.pack import largest
from luthier.data.store import META, TokenStore, read_meta
from luthier.data.stream import mixed, most_times

AUTO_SHARE, AUTO_MOST, AUTO_LEAST = 0.05, 500, 100
"""What `data.validation: auto` holds out: `luthier.data.split`, which needs the rows themselves."""


@dataclass(frozen=True)
class RowFacts:
    """longest: tokens of the longest row that enter the model; tokens, scored: of a row, on average; rows: that are
    learnt in an epoch; None where nothing is known of them; stores: folders that it was taken from; checked: whether a
    check of the data counted them; missing: training files that are not there; fullest: tokens of the longest rows of a
    step together, most_scored: of those that carry loss likewise; held_out: of all rows that are held out. None where
    that is not known."""

    longest: int
    tokens: float
    scored: float
    rows: int | None
    stores: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    checked: bool = False
    fullest: int | None = None
    most_scored: int | None = None
    held_out: int | None = None

    @property
    def assumed(self) -> bool:
        return not self.stores and not self.checked


def of_check(config: RunConfig, counted: RowFacts) -> RowFacts:
    """What a check counted without a bound, within the recipe's."""
    most = config.data.max_tokens
    tokens, scored = (min(each, float(most)) for each in (counted.tokens, counted.scored))
    return replace(counted, longest=min(counted.longest, most), tokens=tokens, scored=scored, checked=True)


def find(config: RunConfig, cache_dir: Path, home: Path = Path()) -> RowFacts:
    """From the newest store of each training file, whatever tokenizer made it; assumed unless every file has one.

    Args:
        home: where relative paths start from.
    """
    stores = [_newest(home / source.path, cache_dir, home) for source in config.data.train]
    known = [store for store in stores if store is not None and len(store)]
    if len(known) < len(stores):
        most = config.data.max_tokens - 1
        paths = [source.path for source in config.data.train if not source.path.startswith("hub:")]
        missing = tuple(path for path in paths if not os.path.exists(home / path))
        return RowFacts(most, float(most), float(most), None, missing=missing)
    return _measured(config, known)


def _measured(config: RunConfig, stores: Sequence[TokenStore]) -> RowFacts:
    most = config.data.max_tokens
    sequences = sum(map(len, stores))
    computed = sum(float(store.computed.clip(max=most).sum()) for store in stores)
    scored = sum(float(store.loss_weight.sum()) for store in stores)
    of_a_step = config.optim.batch * per_example(config.method)
    weights = [source.weight for source in config.data.train]
    often = mixed([len(store) for store in stores], weights, config.data.temperature, config.data.max_repeats)
    longest, learnt = (
        largest(np.concatenate(each), of_a_step, most_times(often))
        for each in (
            [store.computed.clip(max=most) for store in stores],
            [store.learnt.clip(max=most) for store in stores],
        )
    )
    held_out = _held_out(config.data.validation, sequences)
    tokens = max(computed / sequences, 1.0)
    return RowFacts(
        longest=int(longest.max()),
        tokens=tokens,
        scored=min(max(scored / sequences, 1.0), tokens),
        rows=sequences - held_out,
        stores=tuple(store.path.name[:12] for store in stores),
        fullest=int(longest.sum()),
        most_scored=int(learnt.sum()),
        held_out=None if isinstance(config.data.validation, tuple) else math.ceil(held_out * tokens),
    )


def per_example(method: Method) -> int:
    """Sequences: the two of a pair."""
    return 2 if isinstance(method, Judged) and not isinstance(method, Kto) else 1


def _held_out(validation: object, rows: int) -> int:
    if validation == "auto":
        return 0 if rows < AUTO_LEAST else min(round(rows * AUTO_SHARE), AUTO_MOST)
    return round(rows * validation) if isinstance(validation, float) else 0


def _newest(file: Path, cache_dir: Path, home: Path) -> TokenStore | None:
    """The store that was used last of those made from a file as it is now; None where there is none."""
    folder = cache_dir / "tokens"
    if not os.path.isfile(file) or not folder.is_dir():
        return None
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            meta = (path / META).stat()
            known, size = _made_from(path, meta.st_mtime_ns)
            same = size == file.stat().st_size and (home / known).resolve() == file.resolve()
            if same and meta.st_mtime >= file.stat().st_mtime:
                found.append((meta.st_mtime, path))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return TokenStore(max(found)[1]) if found else None
    return None


@functools.lru_cache(maxsize=4096)
def _made_from(store: Path, written_ns: int) -> tuple[str, int]:
    """The file that a store was made from, and its size then. A plan is made anew at each change of a recipe, and what
    a store knows of its rows may be large."""
    account = read_meta(store)["account"]
    return str(account["path"]), int(account["bytes"])
