"""What the reference thinks of every answer: the policy at step 0, asked once.

What goes in: the model as it is before step 1, and the sequences of a run. What comes out: a log-probability per
sequence, from one packed pass that keeps nothing for a backward pass and computes shared prompts once. The numbers lie
in the run's folder, so that a resume has the same bits, and in the cache under the hash of all they depend on, so that
other runs (another beta, another loss, a restart) need no pass.

Shape legend: M scored rows, Q sequences of a micro-batch, n sequences of a store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.batch import Batch, Floats
from luthier.methods import groups
from luthier.models.decoder import Decoder, Want

FILE = "reference.npz"
FORMAT = 2
ABOUT = "about"
"""The array of the file that says which sequences the others are of."""

Tables = dict[str, Floats]
"""Name of a store (`train`, `validation`) -> log-probabilities [n]."""


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Where the numbers of a run are kept.

    Attributes:
        run: the run's folder; None where another process writes it.
        cache: folder of the cache that all runs share.
        facts: all that the numbers depend on: weights, sequences, budget, dtype, versions.
        stores: name -> fingerprint of the sequences; a resume may have another budget, but no others.
    """

    run: Path | None
    cache: Path
    facts: Mapping[str, Any]
    stores: Mapping[str, str]

    @property
    def key(self) -> str:
        facts = {"format": FORMAT, **self.facts, **self.stores}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def find(self, sizes: Mapping[str, int]) -> tuple[Tables, str] | None:
        """The numbers of so many sequences, and where they were: `run` or `cache`."""
        own = _read(self.run / FILE, sizes, self.stores) if self.run is not None else None
        if own is not None:
            return own, "run"
        shared = _read(self._shared, sizes, self.stores)
        if shared is None:
            return None
        os.utime(self._shared)
        return shared, "cache"

    def keep(self, tables: Tables) -> None:
        """A cache that takes nothing is no harm; the run's own folder has to.

        Raises:
            OSError: the run's folder refuses it.
        """
        if self.run is not None:
            _write(self.run / FILE, tables, self.stores)
        try:
            self._shared.parent.mkdir(parents=True, exist_ok=True)
            _write(self._shared, tables, self.stores)
        except OSError:
            return

    @property
    def _shared(self) -> Path:
        return self.cache / "references" / f"{self.key}.npz"


def _read(path: Path, sizes: Mapping[str, int], stores: Mapping[str, str]) -> Tables | None:
    """None where it is not there, damaged, or of other sequences."""
    try:
        with np.load(path) as stored:
            if str(stored[ABOUT]) != _about(stores):
                return None
            tables = {name: stored[name].astype(np.float32) for name in stored.files if name != ABOUT}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return tables if {name: len(each) for name, each in tables.items()} == dict(sizes) else None


def _about(stores: Mapping[str, str]) -> str:
    return json.dumps(dict(stores), sort_keys=True)


def _write(path: Path, tables: Tables, stores: Mapping[str, str]) -> None:
    """There whole or not at all."""
    temp = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with open(temp, "wb") as file:
            arrays: dict[str, Any] = {**tables, ABOUT: np.array(_about(stores))}
            np.savez(file, **arrays)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------- the pass


@torch.no_grad()
def per_row(decoder: Decoder, adapter: str | None, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with log p(target) of its scored rows, [M] in their order, on the device; without dropout."""
    for batch in batches:
        yield batch, decoder(batch, Want("unit"), adapter=adapter).logp


def logps(decoder: Decoder, adapter: str | None, batches: Sequence[Batch], count: int) -> Floats:
    """The log-probability of each sequence's learnt tokens by uid, float32 [count]; 0 for those in no batch."""
    found = np.zeros(count, dtype=np.float32)
    for batch, logp_M in per_row(decoder, adapter, batches):
        found[batch.uid] = groups.over_rows(logp_M, batch).cpu().numpy()
    return found


def together(parts: Sequence[Floats]) -> Floats:
    """What several ranks found, each of sequences of its own."""
    total: Floats = np.sum(np.stack(parts), axis=0, dtype=np.float32)
    return total
