"""How much one server takes on.

What goes in: numbers that an operator may set. What comes out: one frozen record that every part of the server reads.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Attributes:
    body_bytes: of a request; more is refused with 413. 4 MiB is a million tokens of text.
    queue: answers that may wait or run at once; more are refused with 429, so that nobody waits for what will not come.
    sequences: answers that run at once; the others wait for their turn.
    time_s: that one request may take, from its last byte to its answer's; then 504.
    body_s: that a request's body may take to come; then 408.
    grace_s: that running answers are given when the server is told to end.
    max_tokens: of an answer whose request names no number; one that names it may ask for all that the context holds.
    choices: answers that one request may ask for (n times its prompts).
    """

    body_bytes: int = 4 * 2**20
    queue: int = 256
    sequences: int = 64
    time_s: float = 600.0
    body_s: float = 30.0
    grace_s: float = 30.0
    max_tokens: int = 4096
    choices: int = 128
