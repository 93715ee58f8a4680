"""Waiting for what another thread or process does.

What goes in: what is to hold, and how long to wait at most. What comes out: whether it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], object], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
