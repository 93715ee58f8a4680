"""Numbers of rows: those that a CPU multiplies fast in half precision, and how many an MLP works on at once.

What goes in: how many rows there are. What comes out: how many to compute, the rest of them filler; or into how large
parts they are cut, because what is as wide as an MLP need not be there for all rows at once. oneDNN runs a
product of 1739 rows at 540 to 880 GFLOP/s and one of 1744 or 1792 at 1000 (bfloat16, two cores of an AMD EPYC, the
shapes of SmolLM2-135M and Qwen2.5-0.5B); and it makes new primitives for every number of rows that it has not seen,
which takes a step of a small model 20 % longer and keeps 15 MB each. So numbers are rounded up to few, even ones.
Torch-free.
"""

from __future__ import annotations

LEAST = 128
"""Below this, filler costs as much as it gains."""
PER_OCTAVE = 32
"""Sizes between a number and its double: filler is at most 3 %, 1.5 % on average."""
EVEN = 8
MLP_BYTES = 2**27
"""Of a buffer as wide as an MLP, at most: 4,681 rows of Llama 8B in half precision, on a CPU more than a micro-batch
has. A GPU's matrix products run at full rate from a few thousand rows on (not studied)."""
MLP_STEP = 128
"""Rows of a part are a multiple of this, as the tiles of a GPU's matrix products are."""


def filled(rows: int) -> int:
    """The next size, at least `rows`."""
    if rows < LEAST:
        return rows
    step = max(EVEN, (1 << rows.bit_length() - 1) // PER_OCTAVE)
    return -(-rows // step) * step


def fillers(tokens: int, rows: int) -> tuple[int, int]:
    """Filler tokens, and how many of them stand beside the `rows` of the tokens that a last layer computes: no more
    than there are, for filler of one layer is not to cost much in the others."""
    of_tokens, of_rows = filled(tokens) - tokens, filled(rows) - rows
    if of_rows > of_tokens:
        of_rows = -rows % EVEN if rows >= LEAST else 0
    return of_tokens + EVEN * (of_rows > of_tokens), of_rows


def mlp_rows(rows: int, width: int, item_bytes: int) -> int:
    """How many of so many rows an MLP of a width works on at once, the last part aside, which may have fewer: nearly
    equal parts, whose buffers have at most `MLP_BYTES`."""
    most = max(MLP_BYTES // (width * item_bytes) // MLP_STEP, 1) * MLP_STEP
    return rows if rows <= most else -(-rows // -(-rows // most) // MLP_STEP) * MLP_STEP
