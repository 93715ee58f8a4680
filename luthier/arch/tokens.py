"""Tokens that a recipe adds to a model's vocabulary.

What goes in: an `Architecture` and ids of new tokens. What comes out: the architecture that knows of them. Rows that a
padded embedding has beyond its tokenizer's size are used first; only what lies beyond them makes the matrix longer.
Torch-free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from luthier.arch.spec import EMBEDDING, HEAD, Architecture


def token_modules(arch: Architecture) -> tuple[str, ...]:
    """The modules with a row for each token: the embedding, and a head of its own (a tied one follows)."""
    return (EMBEDDING,) if arch.spec.tied else (EMBEDDING, HEAD)


def beside(arch: Architecture, ids: Sequence[int]) -> Architecture:
    """With rows of their own for new tokens beside a base that stays as it is. Ids between the end of the embedding and
    the first new one, which some tokenizers have, get a row too: the vocabulary has no gap."""
    if not ids:
        return arch
    return dataclasses.replace(arch, new_ids=tuple(sorted({*ids, *range(arch.spec.vocab, max(ids) + 1)})))


def widened(arch: Architecture, ids: Sequence[int]) -> Architecture:
    """With new tokens in the matrices themselves, which grow where they are too short."""
    arch = beside(arch, ids)
    if not ids:
        return arch
    spec = dataclasses.replace(arch.spec, vocab=max(arch.spec.vocab, max(ids) + 1))
    grown = {f"{module}.weight": (spec.vocab, spec.d) for module in token_modules(arch)}
    return dataclasses.replace(arch, spec=spec, tensors={**arch.tensors, **grown})
