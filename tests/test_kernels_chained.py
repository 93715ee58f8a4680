"""The compiled chains against the plain ones and against their definitions, forward and backward."""

from __future__ import annotations

import pytest
import torch
from triton_parity import CASES, compare

from luthier.arch.spec import Rope
from luthier.kernels import chained, rotary, select
from tests import compiled

pytestmark = pytest.mark.skipif(compiled.chains_library() is None, reason="no C compiler here")


@pytest.fixture(autouse=True)
def _compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chained, "library", compiled.chains_library)


@pytest.mark.parametrize("case", CASES)
def test_chains_equal_the_plain_ones(case: str) -> None:
    compared = compare(case, "cpu", "compiled")
    assert compared and [each for each in compared if not each.error <= each.bound] == []


def all_chains(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x, dy, residual = (torch.randn(301, 70).to(dtype) for _ in range(3))
    weight = torch.randn(70)
    y, rstd = chained.norm(x, weight, 1e-5)
    rope = Rope("default", 1e4, 6)
    angles = rotary.tables(rope, torch.arange(301), 10, dtype)
    e, g = (torch.randn(301, 512).to(dtype) for _ in range(2))
    logits, logp, entropy = torch.randn(301, 900).to(dtype), torch.empty(301), torch.empty(301)
    chained.softmax_(logits, torch.arange(301), torch.rand(301), logp, entropy)
    return [
        *(y, rstd, chained.norm_backward(x, rstd, weight, dy, False, residual)[0]),
        *chained.rotate_all([x.view(301, 7, 10)], *angles, rope),
        *(chained.gated(e, g, "silu"), *chained.gated_backward(e.clone(), e, g, None, "silu")),
        *(logits, logp, entropy),
    ]


@pytest.mark.parametrize("dtype", chained.DTYPES)
def test_the_same_bits_with_any_number_of_threads(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chained, "PER_THREAD", 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = all_chains(dtype)
        torch.set_num_threads(3)
        three = all_chains(dtype)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_what_is_no_number_stays_none() -> None:
    """A step that is spoilt has to be seen as spoilt."""
    for spoilt in (torch.nan, torch.inf):
        logits, logp = torch.randn(2, 40), torch.empty(2)
        logits[1, 17] = spoilt
        chained.softmax_(logits, torch.tensor([3, 3]), torch.ones(2), logp, None)
        assert logp[0].isfinite() and not logp[1].isfinite() and logits[0].isfinite().all()
        x = torch.randn(2, 40)
        x[1, 5] = spoilt
        y, _ = chained.norm(x, torch.ones(40), 1e-5)
        assert y[0].isfinite().all() and not y[1].isfinite().all()
        m = chained.gated(x, torch.ones_like(x), "silu")
        assert not m[1].isfinite().all()


def test_gates_far_from_zero() -> None:
    e = torch.tensor([-1e4, -100.0, -88.0, 0.0, 88.0, 1e4])
    expected = torch.nn.functional.silu(e.double())
    assert (chained.gated(e, torch.ones(6), "silu").double() - expected).abs().max() < 1e-30 + 1e-6 * 1e4
    de, dg = chained.gated_backward(torch.ones(6), e, torch.ones(6), None, "silu")
    torch.testing.assert_close(de, torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(dg.double(), expected, atol=1e-6, rtol=1e-6)


def test_where_they_are_taken() -> None:
    x = torch.ones(2, 3)
    assert select.chains(x) is select.COMPILED and select.chains(x.bfloat16()) is select.COMPILED
    assert select.chains(x.half()) is select.PLAIN and select.chains(x.double()) is select.PLAIN
