"""Cutting an answer at stop strings, wherever they begin and end among its tokens.

What goes in: text in pieces. What comes out: text that can be shown for certain: never a stop string, never the
beginning of one that may still come.
"""

from __future__ import annotations

from collections.abc import Sequence


class Cutter:
    """Attributes:
    stopped: whether a stop string has come; what follows it is dropped.
    length: characters given out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        self.length = 0

    def push(self, piece: str) -> str:
        """What can be shown, now that `piece` has come."""
        if self.stopped:
            return ""
        text = self._held + piece
        # Of several the one that begins first, as if the whole answer had been there to cut.
        found = min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped, self._held = True, ""
            return self._tell(text[:found])
        held = self._possible(text)
        self._held = text[len(text) - held :]
        return self._tell(text[: len(text) - held])

    def flush(self) -> str:
        """What was held back, now that nothing more comes."""
        rest, self._held = self._held, ""
        return self._tell(rest)

    def _tell(self, text: str) -> str:
        self.length += len(text)
        return text

    def _possible(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
