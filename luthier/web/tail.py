"""Logs of runs, followed for all who watch."""

from __future__ import annotations

from pathlib import Path


class Tails:
    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir

    def close(self) -> None:
        pass
