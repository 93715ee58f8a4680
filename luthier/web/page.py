"""The page's process: house, application, door and server put together.

What goes in: checked settings. What comes out: a server that answers, on this thread or on one of its own.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from luthier.config.load import environment
from luthier.serving.door import Keys
from luthier.serving.listen import Server, address, bind
from luthier.text import say
from luthier.web.app import make
from luthier.web.board import FIRST_READ_S
from luthier.web.door import Door
from luthier.web.house import House

GRACE_S = 3
"""That requests under way are given when the server is told to end; streams are ended at once."""
KEEP_ALIVE_S = 5
"""That a browser's connection may be idle between two requests."""


class Page:
    """Attributes:
    url: of the page, with the token where one is needed.
    ended_by: the signal that ended the server, 0 where none did.
    """

    def __init__(self, runs_dir: Path, where: tuple[str, int], base: str, tokens: Sequence[str], log: TextIO) -> None:
        self._listener, self._log = bind(*where), log
        self._house = House(Path.cwd(), runs_dir, base, Keys(tokens))
        link = f"?token={tokens[0]}" if tokens else ""
        self.url = f"{address(self._listener)}{base}{link}"
        door = Door(make(self._house), self._house, self._listener.getsockname()[1], log)
        self._server = Server(door, self._house.close, grace_s=GRACE_S, keep_alive_s=KEEP_ALIVE_S)
        self._thread: threading.Thread | None = None
        # Long logs are read while a browser finds its way here.
        self._ahead = threading.Thread(target=self._house.board.runs, args=(FIRST_READ_S,), daemon=True)

    @property
    def ended_by(self) -> int:
        return self._server.ended_by

    def start(self, *, open_page: bool, block: bool) -> None:
        print(say("web.ready", url=self.url), file=self._log, flush=True)
        self._ahead.start()
        if open_page and environment().display:
            threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()
        if block:
            gc.freeze()  # collections look through a log's events, not through all modules: a fifth of its time
            self._serve()
            print(say("web.ended"), file=self._log, flush=True)
        else:
            self._thread = threading.Thread(target=self._serve, name="luthier-ui", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the server; runs and jobs go on."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._ahead.join()
            self._thread = None

    def _serve(self) -> None:
        with self._listener:
            asyncio.run(self._server.serve([self._listener]))
