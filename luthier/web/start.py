"""Starting the page: what has to be so before anything is loaded, and nothing that needs the extra.

What goes in: a folder of runs, where to listen, and who may come. What comes out: a running server, until it is told to
end; runs, and what else it has started, go on.
"""

from __future__ import annotations

import importlib
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote, unquote

from luthier.errors import Problem, RunError
from luthier.serving.door import is_loopback
from luthier.serving.start import EXTRA, missing, read_keys

if TYPE_CHECKING:
    from luthier.web.page import Page


def ui(
    runs_dir: str | Path = "runs",
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    base_path: str = "/",
    token_file: str | Path | None = None,
    open_page: bool = True,
    block: bool = True,
    log: TextIO | None = None,
) -> Page:
    """Show the page in a browser: choose, check, plan, train, watch, compare, chat, export.

    Args:
        runs_dir: the runs that are shown; new ones are made there. Files are chosen in the working folder.
        host: other than loopback only with a token, which is made where none is given.
        port: 0 takes a free one.
        base_path: that a proxy puts before the page's, such as `/user/me/proxy/7860/`; asks for a token too.
        token_file: one token per line; the first one is in the link.
        open_page: in this machine's browser, where it has a screen.
        block: until Ctrl-C or SIGTERM; False returns at once, and `close()` ends the page.
        log: where its lines go; stderr.

    Returns:
        the page: its `url`, and `close()`.

    Raises:
        RunError: the extra is missing, the tokens are unusable, the port is taken.
    """
    lacking = missing(EXTRA)
    if lacking:
        raise RunError(Problem("web.no_extra", values={"missing": ", ".join(lacking)}))
    base = "/" + "".join(f"{quote(unquote(part))}/" for part in base_path.split("/") if part)
    tokens = read_keys(Path(token_file)) if token_file is not None else []
    if not tokens and not (is_loopback(host) and base == "/"):
        tokens = [secrets.token_urlsafe(32)]
    page = importlib.import_module("luthier.web.page")
    made: Page = page.Page(Path(runs_dir), (host, port), base, tokens, log or sys.stderr)
    made.start(open_page=open_page, block=block)
    return made
