"""What all routes share: the folders that the page works in, and how a refusal is told apart from a fault.

What goes in: a home folder, where relative paths start from, and the folder of runs. What comes out: runs by their
names, and paths that lie below one of the two, whatever a request calls them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

from luthier.config.load import environment
from luthier.errors import Problem, RunError
from luthier.runs.store import RunFolder
from luthier.serving.door import Keys
from luthier.web.board import Board
from luthier.web.jobs import Jobs
from luthier.web.refusals import Missing
from luthier.web.tail import Tails

NAME_BYTES = 255
"""Of a folder: file systems know no longer ones."""


class House:
    """Attributes:
    home: where relative paths start from and files are chosen; the server's working folder.
    runs_dir: of the runs that are shown and made.
    base: path that the page lies under, for a proxy that puts one before it; as it stands in an address, with a
        slash at both ends.
    keys: that let people in; none where only this machine's own can come.
    cache: what the page keeps beside the runs: folders of jobs, and which request made which run.
    on_close: called in the server's loop when it is told to end.
    """

    def __init__(self, home: Path, runs_dir: Path, base: str = "/", keys: Keys | None = None) -> None:
        self.home, self.runs_dir, self.base = home.resolve(), runs_dir.resolve(), base
        self.keys = keys or Keys(())
        place = hashlib.sha256(str(self.runs_dir).encode()).hexdigest()[:16]
        self.cache = environment().cache_dir.absolute() / "web" / place
        self.jobs = Jobs(self.cache / "jobs", self.home, self.runs_dir)
        self.tails = Tails(self.runs_dir)
        self.board = Board(self.runs_dir, self.tails, self.jobs)
        self.on_close: list[Callable[[], None]] = [self.tails.close, self.board.close]

    def inside(self, path: str | Path) -> Path:
        """The path as it is after all links, where it lies below the home folder or that of the runs.

        Raises:
            RunError: it lies elsewhere, or is none.
        """
        try:
            found = (self.home / path).resolve()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                found.lstat()
        except (OSError, ValueError, RuntimeError) as error:  # a null byte, a name too long, links in a circle
            raise RunError(Problem("web.outside", value=_shown(path), values={"home": self.home})) from error
        if not found.is_relative_to(self.home) and not found.is_relative_to(self.runs_dir):
            raise RunError(Problem("web.outside", value=_shown(path), values={"home": self.home}))
        return found

    def run(self, name: str) -> RunFolder:
        """The run of this name, with an absolute path.

        Raises:
            Missing: there is none.
        """
        path = self.runs_dir / name
        known = len(name.encode()) <= NAME_BYTES and (path / "recipe.yaml").is_file()
        if not known or path.parent != self.runs_dir or self.inside(path) != path:
            raise Missing(Problem("web.no_run", value=_shown(name)))
        return RunFolder(path)

    def close(self) -> None:
        for each in self.on_close:
            each()


def _shown(value: object) -> str:
    """A value in a message, shortened."""
    return repr(str(value))[1:-1][:200]
