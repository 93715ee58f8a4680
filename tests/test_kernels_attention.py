"""Segment attention against a masked softmax over all rows, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from luthier.batch import Segments
from luthier.kernels import flash, reference, swept, tiled
from luthier.kernels.attention import Attend, Layout, attend_cache, attend_last
from tests import compiled

CASES: dict[str, list[tuple[int, int]]] = {
    # (length, parent)
    "one": [(9, -1)],
    "single tokens": [(1, -1), (1, -1), (2, -1)],
    "equal": [(5, -1), (5, -1), (5, -1)],
    "mixed": [(7, -1), (3, -1), (7, -1), (12, -1), (3, -1)],
    "shared prompt": [(6, -1), (4, 0), (5, 0), (4, 0)],
    "nested": [(3, -1), (2, 0), (4, 1), (1, 1), (5, 0), (2, 4)],
    "longer than a tile": [(50, -1), (30, 0), (25, -1), (26, 1)],
    "prompts of equal length": [(4, -1), (3, 0), (4, -1), (3, 2), (2, 2), (4, -1)],
}


def segments_of(case: list[tuple[int, int]]) -> Segments:
    lengths, parents = (np.array(column, dtype=np.int64) for column in zip(*case, strict=True))
    end = np.cumsum(lengths)
    zeros = np.zeros_like(end)
    return Segments(end - lengths, end, parents, zeros, zeros, zeros)


def runs_softmax(q, k, v, runs, how):
    """What FlashAttention promises for runs: the last query of each lies at its last key."""
    outputs = []
    for run in range(len(runs.bounds_q) - 1):
        queries, keys = (slice(int(bounds[run]), int(bounds[run + 1])) for bounds in runs[:2])
        count, lead = queries.stop - queries.start, keys.stop - keys.start - (queries.stop - queries.start)
        assert count <= runs.longest_q and keys.stop - keys.start <= runs.longest_k and lead >= 0
        other, place = torch.arange(count + lead), torch.arange(lead, lead + count)[:, None]
        seen = (other <= place) & (other > place - (how.window or len(k) + 1))
        q_all = torch.cat([q.new_zeros(lead, *q.shape[1:]), q[queries]])
        seen = torch.cat([torch.ones(lead, count + lead, dtype=torch.bool), seen])
        outputs.append(reference.attention(q_all, k[keys], v[keys], seen, how.scale)[lead:])
    return torch.cat(outputs)


def flash_forward(q, k, v, runs, how):
    nothing = torch.empty(0)
    return flash.Kept(runs_softmax(q, k, v, runs, how).detach(), nothing, nothing, nothing)


def flash_backward(dout, qkv, kept, runs, how):
    with torch.enable_grad():
        tracked = [x.detach().requires_grad_() for x in qkv]
        return torch.autograd.grad(runs_softmax(*tracked, runs, how), tracked, dout)


def choose(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """torch and flash: what runs on a GPU, on the CPU, the flash kernel as the table of what it does. Tiles: of a few
    queries of one sequence, so that short segments have several."""
    monkeypatch.setattr("luthier.kernels.select.attention", lambda *_: (kernel, "asked for"))
    monkeypatch.setattr("luthier.kernels.flash._forward", flash_forward)
    monkeypatch.setattr("luthier.kernels.flash._backward", flash_backward)
    if kernel == "swept":
        if compiled.attend_library() is None:
            pytest.skip("no C compiler here")
        monkeypatch.setattr("luthier.kernels.swept.library", compiled.attend_library)
    monkeypatch.setattr("luthier.kernels.tiled.QUERIES", 3)
    monkeypatch.setattr("luthier.kernels.tiled.TILE_BYTES", 200)


DTYPES = {"swept": torch.float32, "tiled": torch.float64, "torch": torch.float64, "flash": torch.float64}
"""The widest that each computes in."""


def near(ours: torch.Tensor, expected: torch.Tensor, kernel: str) -> None:
    """To float64, or to float32 over the largest value."""
    if DTYPES[kernel] == torch.float64:
        torch.testing.assert_close(ours, expected)
    else:
        assert (ours - expected).abs().max() <= 3e-6 * expected.abs().max()


@pytest.mark.parametrize("kernel", ["swept", "tiled", "torch", "flash"])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 64])
@pytest.mark.parametrize("name", CASES)
def test_equals_masked_softmax_forward_and_backward(
    name: str, window: int | None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, kernel)
    monkeypatch.setattr("luthier.kernels.attention.MIN_WINDOW_BLOCK", 2)  # so that short segments have blocks too
    segments = segments_of(CASES[name])
    layout = Layout.of(segments)
    count = int(segments.end[-1])
    torch.manual_seed(0)
    q, k, v = (torch.randn(count, heads, 16, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    dy = torch.randn(count, 64, dtype=torch.float64)
    seen = reference.seen(*(each.tolist() for each in (segments.start, segments.end, segments.parent)), window)
    expected = reference.attention(q, k, v, seen, scale=0.3).flatten(1)
    order = torch.from_numpy(layout.place(np.arange(count)))
    back = torch.from_numpy(layout.rows(np.arange(count)))
    given = (each[order].to(DTYPES[kernel]) for each in (q, k, v))
    ours = torch.cat(Attend(layout)(*given, window, 0.3)).double()[back]
    near(ours, expected, kernel)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (q, k, v), dy), torch.autograd.grad(expected, (q, k, v), dy), strict=True
    ):
        near(mine, theirs, kernel)


@pytest.mark.parametrize("kernel", ["swept", "tiled", "torch", "flash"])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 64])
@pytest.mark.parametrize("name", CASES)
def test_chosen_rows_are_attended_as_if_all_were(
    name: str, window: int | None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward."""
    choose(monkeypatch, kernel)
    monkeypatch.setattr("luthier.kernels.attention.CHOSEN_BLOCK", 2)
    segments = segments_of(CASES[name])
    layout = Layout.of(segments)
    count = int(segments.end[-1])
    seen = reference.seen(*(each.tolist() for each in (segments.start, segments.end, segments.parent)), window)
    order = torch.from_numpy(layout.place(np.arange(count)))
    for step in (1, 2, 3):
        rows = np.sort(layout.rows(np.arange(step // 2, count, step)))
        torch.manual_seed(0)
        q, k, v = (torch.randn(count, heads, 16, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
        expected = reference.attention(q, k, v, seen, scale=0.3).flatten(1)[order][rows]
        chosen = torch.from_numpy(rows)
        given = (each.to(DTYPES[kernel]) for each in (q[order][chosen], k[order], v[order]))
        pieces = Attend(layout, rows)(*given, window, 0.3, chosen)
        assert kernel in ("flash", "swept") or max(len(piece) for piece in pieces) <= 2
        ours = torch.cat(pieces).double()
        near(ours, expected, kernel)
        dy = torch.randn_like(expected)
        for mine, theirs in zip(
            torch.autograd.grad(ours, (q, k, v), dy), torch.autograd.grad(expected, (q, k, v), dy), strict=True
        ):
            near(mine, theirs, kernel)


def test_chosen_rows_read_no_key_beyond_the_last_of_their_block() -> None:
    layout = Layout.of(segments_of([(300, -1), (1000, -1), (450, 1)]))
    rows = np.array([3, 10, 400, 999, 1299, 1300, 1749])

    def keys(window: int | None) -> list[tuple[tuple[int, int], int]]:
        calls = layout.chosen_calls(rows, window)
        return [(call.queries, sum(end - start for start, end in call.keys)) for call in calls]

    # places 3 and 10; 100, 699 and 999; 1000 and 1449 behind the parent's 1000
    assert keys(None) == [((0, 2), 11), ((2, 5), 1000), ((5, 7), 1450)]
    assert keys(256) == [((0, 2), 11), ((2, 5), 1000), ((5, 7), 255 + 450)]


@pytest.mark.parametrize("kernel", ["tiled", "torch"])
def test_the_mask_of_chosen_rows_is_not_kept(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, kernel)
    layout = Layout.of(segments_of([(64, -1)]))
    q, k, v = (torch.randn(rows, 2, 8, requires_grad=True) for rows in (32, 64, 64))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        Attend(layout, np.arange(32, 64))(q, k, v, chosen_U=torch.arange(32, 64))
    assert kept and not any(tuple(tensor.shape[-2:]) == (32, 64) for tensor in kept)


@pytest.mark.parametrize("kernel", ["tiled", "torch"])
def test_what_a_continuation_sees_of_its_prompt_is_not_kept_again(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is its mask: of 4 continuations of 8 tokens, nothing as long as the prompt of 100 is kept but the prompt's
    own."""
    monkeypatch.setattr("luthier.kernels.select.attention", lambda *_: (kernel, "asked for"))
    layout = Layout.of(segments_of([(100, -1), *[(8, 0)] * 4]))
    q, k, v = (torch.randn(132, 2, 8, requires_grad=True) for _ in range(3))
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        outputs = Attend(layout)(q, k, v)
    for x in (q, k, v):
        kept.pop(x.untyped_storage().data_ptr(), None)
    # The values, and a log-sum-exp per head.
    assert sum(kept.values()) <= sum(each.untyped_storage().nbytes() for each in outputs) + 132 * 2 * 4


def test_segments_of_equal_length_share_a_call_wherever_they_lie() -> None:
    layout = Layout.of(segments_of(CASES["mixed"]))
    calls = layout.calls(None)
    assert [(call.count, (call.queries[1] - call.queries[0]) // call.count) for call in calls] == [
        (2, 3),
        (2, 7),
        (1, 12),
    ]
    assert not any(call.masked for call in calls)


def test_a_batch_in_order_is_not_moved() -> None:
    assert Layout.of(segments_of(CASES["equal"])).order is None
    assert Layout.of(segments_of(CASES["shared prompt"])).order is None


def test_runs_of_parentless_documents_are_the_batch_itself() -> None:
    layout = Layout.of(segments_of(CASES["mixed"]))
    runs = layout.runs(None)
    assert runs.rows is None and runs.bounds_q.tolist() == runs.bounds_k.tolist() == [0, 3, 6, 13, 20, 32]


def test_scattered_rows_are_not_listed_as_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "flash")
    layout = Layout.of(segments_of([(400, -1)]))
    for rows, listed in ((np.arange(0, 400, 2), False), (np.r_[100:130, 300:400], True)):
        attend = Attend(layout, rows)
        assert (attend._runs_of(None, True, torch.device("cpu")) is not None) == listed
        q, k, v = (torch.randn(count, 2, 8) for count in (len(rows), 400, 400))
        chosen = torch.from_numpy(rows)
        all_q = torch.zeros(400, 2, 8).index_copy(0, chosen, q)
        expected = reference.attention(all_q, k, v, reference.seen([0], [400], [-1], None)).flatten(1)[chosen]
        torch.testing.assert_close(torch.cat(attend(q, k, v, chosen_U=chosen)), expected)


def test_every_row_is_attended_once_and_reads_only_what_its_window_reaches() -> None:
    layout = Layout.of(segments_of([(1000, -1), (300, -1), (450, 0)]))
    calls = layout.calls(256)
    assert [row for call in calls for row in range(*call.queries)] == list(range(1750))
    for call in calls:
        keys = sum(end - start for start, end in call.keys)
        assert keys <= 256 - 1 + (call.queries[1] - call.queries[0])


def test_rows_of_other_documents_cannot_leak() -> None:
    segments = segments_of(CASES["mixed"])
    torch.manual_seed(0)
    q, k, v = torch.randn(32, 2, 8), torch.randn(32, 2, 8), torch.randn(32, 2, 8)
    layout = Layout.of(segments)
    before = torch.cat(Attend(layout)(q, k, v))
    start, end = int(layout.start[2]), int(layout.end[2])
    others = [row for row in range(32) if not start <= row < end]
    k[others], v[others] = torch.nan, torch.nan
    torch.testing.assert_close(torch.cat(Attend(layout)(q, k, v))[start:end], before[start:end])


@pytest.mark.parametrize("window", [None, 3])
def test_cached_attention_equals_that_over_the_whole_sequence(window: int | None) -> None:
    torch.manual_seed(0)
    lengths = [7, 4, 1]
    k, v = torch.randn(3, 9, 2, 8), torch.randn(3, 9, 2, 8)
    q = torch.randn(3, 4, 8)
    ours = attend_cache(q, k, v, torch.tensor(lengths), window, None)
    for sequence, length in enumerate(lengths):
        seen = reference.seen([0], [length], [-1], window)
        whole = torch.zeros(length, 4, 8)
        whole[-1] = q[sequence]
        expected = reference.attention(whole, k[sequence, :length], v[sequence, :length], seen)[-1].flatten()
        torch.testing.assert_close(ours[sequence], expected)


@pytest.mark.parametrize("window", [None, 3])
def test_attention_of_the_last_rows(window: int | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(9, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    expected = reference.attention(q, k, v, reference.seen([0], [9], [-1], window)).flatten(1)
    torch.testing.assert_close(attend_last(q[6:], k, v, window, None), expected[6:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [5, 127, 129, 300])
def test_half_precision_gradients_are_as_good_as_torch_s(dtype: torch.dtype, length: int) -> None:
    segments = segments_of([(length, -1)] * 2)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2 * length, heads, 8, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
    dy = torch.randn(2 * length, 32, dtype=dtype)
    seen = reference.seen(*(each.tolist() for each in (segments.start, segments.end, segments.parent)), None)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    truth = torch.autograd.grad(reference.attention(*exact, seen).flatten(1), exact, dy.double())
    ours = torch.autograd.grad(torch.cat(Attend(Layout.of(segments))(q, k, v)), (q, k, v), dy)
    stacked = [x.view(2, length, -1, 8).transpose(1, 2) for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(*stacked, is_causal=True, enable_gqa=True)
    theirs = torch.autograd.grad(out.transpose(1, 2).reshape(2 * length, 32), (q, k, v), dy)
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - true).norm() <= 1.2 * (other.double() - true).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tiles_leave_torch_s_matmuls_as_they_were(dtype: torch.dtype) -> None:
    """In bfloat16 the factors of attention's products are rounded; nobody else's are, not even after a fault."""
    torch.manual_seed(0)
    a, b = torch.randn(64, 64), torch.randn(64, 64)
    before = a @ b
    q, k, v = (torch.randn(1, 2, 9, 8, dtype=dtype, requires_grad=True) for _ in range(3))
    seen = tiled.Seen(torch.arange(9))
    tiled.attend(q, [k], [v], seen, tiled.How()).sum().backward()
    with pytest.raises(RuntimeError):
        tiled.attend(q, [k[..., :7]], [v], seen, tiled.How())
    assert torch.equal(a @ b, before) and torch.backends.mkldnn.matmul.fp32_precision != "bf16"


def test_scratch_memory_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 9, 8) for _ in range(3))
    seen = tiled.Seen(torch.arange(9))
    expected = tiled.attend(q, [k], [v], seen, tiled.How())
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))
    assert torch.equal(tiled.attend(q, [k], [v], seen, tiled.How()), expected)


def test_tiles_read_no_key_that_none_of_their_queries_sees() -> None:
    def tiles(window: int | None) -> list[tuple[int, int, int]]:
        q, k = torch.empty(1, 4, 300, 8), torch.empty(1, 2, 340, 8)
        made = tiled._tiles(q, k, tiled.Seen(torch.arange(40, 340), window), buffers=1)
        return [(each.queries.stop, each.keys.start, each.keys.stop) for each in made]

    assert tiles(None) == [(100, 0, 140), (200, 0, 240), (300, 0, 340)]
    assert tiles(64) == [(100, 0, 140), (200, 77, 240), (300, 177, 340)]


def test_tiles_hold_no_more_than_their_limit() -> None:
    for count, queries in ((64, 128), (3, 4000), (1, 20000)):
        shape = torch.empty(count, 4, queries, 8, device="meta")
        made = list(tiled._tiles(shape, shape, tiled.Seen(torch.arange(queries)), buffers=1))
        assert max(each.buffers[0].untyped_storage().nbytes() for each in made) <= tiled.TILE_BYTES
        rows = sum(
            (each.queries.stop - each.queries.start) * (each.sequences.stop - each.sequences.start) for each in made
        )
        assert rows == count * queries


@pytest.fixture
def sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, "swept")


def swept_all(dtype: torch.dtype, width: int, filler: int = 0) -> list[torch.Tensor]:
    """Attended values and gradients of a batch with shared beginnings, its rows views into one tensor."""
    layout = Layout.of(segments_of([(50, -1), (30, 0), (25, -1), (26, 1), (1, -1)]))
    torch.manual_seed(0)
    qkv = torch.randn(int(layout.end[-1]) + filler, 10, width).to(dtype).requires_grad_()
    q, k, v = qkv[:, :6], qkv[:, 6:8], qkv[:, 8:]
    (out,) = Attend(layout)(q, k, v, 40, None)
    dy = torch.randn(out.shape).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, [qkv], dy)]


@pytest.mark.parametrize("width", [16, 48, 64, 80, 128])
def test_sweeps_of_every_width(width: int, sweeping: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 closer to the truth than tiles, whose probabilities are rounded."""
    full, half = swept_all(torch.float32, width), swept_all(torch.bfloat16, width)
    monkeypatch.setattr("luthier.kernels.select.attention", lambda *_: ("tiled", "asked for"))
    torch.manual_seed(0)
    wide, rounded = swept_all_tiled(torch.float64, width), swept_all_tiled(torch.bfloat16, width)
    exact_half = swept_all_tiled(torch.float64, width, torch.bfloat16)
    for ours, truth in zip(full, wide, strict=True):
        assert (ours.double() - truth).abs().max() <= 3e-6 * truth.abs().max()
    for ours, theirs, truth in zip(half, rounded, exact_half, strict=True):
        assert (ours.double() - truth).norm() <= 1.01 * (theirs.double() - truth).norm()


def swept_all_tiled(dtype: torch.dtype, width: int, through: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The same rows in another dtype, by tiles; `through` is what they were rounded to before."""
    layout = Layout.of(segments_of([(50, -1), (30, 0), (25, -1), (26, 1), (1, -1)]))
    torch.manual_seed(0)
    qkv = torch.randn(int(layout.end[-1]), 10, width).to(through).to(dtype).requires_grad_()
    out = torch.cat(Attend(layout)(qkv[:, :6], qkv[:, 6:8], qkv[:, 8:], 40, None))
    dy = torch.randn(out.shape).to(through).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, [qkv], dy)]


def test_sweeps_give_the_same_bits_with_any_number_of_threads_and_whatever_memory_held(
    sweeping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = swept_all(torch.bfloat16, 64)
        torch.set_num_threads(3)
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))
        three = swept_all(torch.bfloat16, 64)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_filler_behind_the_segments_is_swept_to_zero(sweeping: None) -> None:
    for each in swept_all(torch.float32, 16, filler=7):
        assert each[:-7].any() and not each[-7:].any()


def test_scores_of_any_size_are_swept(sweeping: None) -> None:
    """Large ones are shifted before they become powers, and minus infinity is no key at all."""
    q, k, v = (torch.randn(40, heads, 16) for heads in (2, 1, 1))
    layout = Layout.of(segments_of([(40, -1)]))
    out = torch.cat(Attend(layout)(q * 1e4, k, v))
    seen = reference.seen([0], [40], [-1], None)
    torch.testing.assert_close(
        out, reference.attention((q * 1e4).double(), k.double(), v.double(), seen).flatten(1).float()
    )


def test_families_deeper_than_a_sweep_knows_are_tiled(sweeping: None) -> None:
    case = [(1, -1), *((1, above) for above in range(swept.DEEPEST))]
    layout = Layout.of(segments_of(case))
    assert swept.Families.of(layout.start, layout.end, layout.parent) is None
    q, k, v = (torch.randn(len(case), heads, 16, dtype=torch.float32) for heads in (2, 1, 1))
    seen = reference.seen([0], [len(case)], [-1], None)
    torch.testing.assert_close(torch.cat(Attend(layout)(q, k, v)), reference.attention(q, k, v, seen).flatten(1))


def test_what_is_not_swept(sweeping: None) -> None:
    assert swept.refusal(torch.float32, 16) is None and swept.refusal(torch.bfloat16, 64) is None
    assert swept.refusal(torch.float32, 8) and swept.refusal(torch.float64, 16) and swept.refusal(torch.float16, 16)
