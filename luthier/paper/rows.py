"""The rows of a recipe, as far as a plan on paper needs them, without reading or tokenising any.

What goes in: the recipe and the cache of token stores. What comes out: how long rows are, from the stores of the
training files where an earlier command has built them; else as long as the recipe allows, which is said. Torch-free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.config.schema import RunConfig
from luthier.data.store import META, TokenStore, read_meta

AUTO_SHARE, AUTO_MOST, AUTO_LEAST = 0.05, 500, 100
"""What `data.validation: auto` holds out: `luthier.data.split`, which needs the rows themselves."""


@dataclass(frozen=True)
class RowFacts:
    """longest: tokens of the longest row that enter the model; tokens, scored: of a row, on average; rows: that are
    learnt in an epoch; None where nothing is known of them; stores: folders that it was taken from, none where it is
    assumed; missing: training files that are not there."""

    longest: int
    tokens: float
    scored: float
    rows: int | None
    stores: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def assumed(self) -> bool:
        return not self.stores


def find(config: RunConfig, cache_dir: Path) -> RowFacts:
    """From the newest store of each training file, whatever tokenizer made it; assumed unless every file has one."""
    stores = [_newest(Path(source.path), cache_dir) for source in config.data.train]
    known = [store for store in stores if store is not None and len(store)]
    if len(known) < len(stores):
        most = config.data.max_tokens - 1
        paths = [source.path for source in config.data.train if not source.path.startswith("hub:")]
        missing = tuple(path for path in paths if not Path(path).exists())
        return RowFacts(most, float(most), float(most), None, missing=missing)
    return _measured(config, known)


def _measured(config: RunConfig, stores: Sequence[TokenStore]) -> RowFacts:
    most = config.data.max_tokens
    sequences = sum(map(len, stores))
    computed = sum(float(store.computed.clip(max=most).sum()) for store in stores)
    scored = sum(float(store.loss_weight.sum()) for store in stores)
    longest = max(int(store.computed.clip(max=most).max()) for store in stores)
    rows = sequences - _held_out(config.data.validation, sequences)
    tokens = max(computed / sequences, 1.0)
    names = tuple(store.path.name[:12] for store in stores)
    return RowFacts(longest, tokens, min(max(scored / sequences, 1.0), tokens), rows, names)


def _held_out(validation: object, rows: int) -> int:
    if validation == "auto":
        return 0 if rows < AUTO_LEAST else min(round(rows * AUTO_SHARE), AUTO_MOST)
    return round(rows * validation) if isinstance(validation, float) else 0


def _newest(file: Path, cache_dir: Path) -> TokenStore | None:
    """The store that was used last of those made from a file as it is now; None where there is none."""
    folder = cache_dir / "tokens"
    if not file.is_file() or not folder.is_dir():
        return None
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            account = read_meta(path)["account"]
            same = Path(account["path"]).resolve() == file.resolve() and account["bytes"] == file.stat().st_size
            used_s = (path / META).stat().st_mtime
            if same and used_s >= file.stat().st_mtime:
                found.append((used_s, path))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return TokenStore(max(found)[1]) if found else None
    return None
