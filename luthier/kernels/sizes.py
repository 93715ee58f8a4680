"""Numbers of rows that a CPU multiplies fast in half precision.

What goes in: how many rows there are. What comes out: how many to compute, the rest of them filler. oneDNN runs a
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
