"""The counter-based dropout masks: equal to their plain definition, and keyed by what they are drawn for alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from luthier.kernels import reference
from luthier.kernels.dropout import Dropout, DropoutKey, site, token_hashes


def _drop(keys: list[int], *, seed: int = 3, step: int = 5, number: int = 2, p: float = 0.3) -> Dropout:
    dropout = site(token_hashes(torch.tensor(keys)), DropoutKey(seed, step), number, p)
    assert dropout is not None
    return dropout


@pytest.mark.parametrize(
    ("seed", "step", "number", "p"), [(0, 0, 0, 0.5), (2**32 - 1, 10**7, 95, 0.05), (2**40 + 7, 1, 3, 0.999)]
)
@pytest.mark.parametrize("width", [1, 7, 16])
def test_mask_is_its_plain_definition(
    seed: int, step: int, number: int, p: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.kernels.tiles.TILE_BYTES", 2 * 4 * 8)
    keys = [0, 1, 2**31 + 5, 2**40 + 9, -1, -(2**63), 2**63 - 1]
    mask = _drop(keys, seed=seed, step=step, number=number, p=p).mask(width)
    expected = [
        [reference.dropped(seed, step, number, key, feature, round(p * 65536)) for feature in range(width)]
        for key in keys
    ]
    assert mask.tolist() == expected


def test_mask_depends_on_every_part_of_its_key_and_not_on_the_row() -> None:
    base = _drop([4, 5, 9]).mask(64)
    again = _drop([9, 5]).mask(64)
    assert torch.equal(again, base[[2, 1]])
    others = [
        _drop([4], seed=4),
        _drop([4], step=6),
        _drop([4], number=3),
        _drop([5]),
        _drop([4 + 2**32]),
    ]
    rows: list[Tensor] = [base[0], *(other.mask(64)[0] for other in others)]
    assert all(not torch.equal(one, two) for one, two in itertools.combinations(rows, 2))


def test_shares_and_independence() -> None:
    """Each feature, token and pair of neighbours is dropped as often as chance says, within five standard errors."""
    count, width, p = 2000, 512, 0.3
    mask = _drop(list(range(count)), p=p).mask(width).double()
    for dims, samples in ((0, count), (1, width)):
        assert float((mask.mean(dims) - p).abs().max()) < 5 * (p * (1 - p) / samples) ** 0.5
    centred = mask - p
    pairs = (
        centred[1:] * centred[:-1],  # next position
        centred[:, 1:] * centred[:, :-1],  # next feature: both halves of a word, and neighbouring words
        centred * (_drop(list(range(count)), number=3, p=p).mask(width).double() - p),  # next site
        centred * (_drop(list(range(count)), step=6, p=p).mask(width).double() - p),  # next step
    )
    for product in pairs:
        assert abs(float(product.mean())) < 5 * p * (1 - p) / product.numel() ** 0.5


def test_survivors_make_up_for_the_dropped() -> None:
    dropout = _drop([1], p=0.25)
    assert dropout.survivor_scale * (1 - dropout.threshold / 65536) == 1.0


def test_no_dropout_is_none() -> None:
    assert site(token_hashes(torch.tensor([1])), DropoutKey(0, 0), 0, 0.0) is None
