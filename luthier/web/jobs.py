"""Jobs: processes of their own that outlive the server."""

from __future__ import annotations

from pathlib import Path


class Jobs:
    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
