"""Export: what a run has come to, what can be made of it, and how large that would be.

What goes in: a run. What comes out: its results and what was exported from it, each with its files, sizes and checks,
and the sizes of everything else that can be made. Making it is a job.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from luthier.errors import RunError
from luthier.runs import files
from luthier.runs.receipt import Check
from luthier.runs.recipe import free_name
from luthier.runs.store import RunFolder
from luthier.web.house import House

KINDS = {"merge": "merged", "gguf": "gguf", "lora-gguf": "lora_gguf"}
"""Kind of an export's receipt -> what it is of."""
DEFAULT = {"merged": "merged", "gguf": "gguf"}
"""What is made -> what its folder's name ends with, as the command line has it."""


def routes(house: House) -> APIRouter:
    router = APIRouter(tags=["export"])

    @router.get("/runs/{name}/exports")
    def exports(name: str) -> dict[str, Any]:
        """What there is of a run, with files and checks, and the sizes of what can be made of it."""
        run = house.run(name)
        sizes = importlib.import_module("luthier.export.sizes")  # loads llama.cpp's tables, which nothing else needs
        found = sizes.sizes(run)
        return {
            "run": run.name,
            "made": made(run),
            "adapter": _bytes(found.adapter),
            "model": _bytes(found.model),
            "merged": _bytes(found.merged),
            "gguf": _types(found.gguf, found.needs_native),
            "lora_gguf": _types(found.lora_gguf),
            "problems": [each.to_json() for each in found.problems],
            "extras": {"gguf": found.native},
            "out": {what: str(_free(run.path, end)) for what, end in DEFAULT.items()},
            "free_bytes": found.free_bytes,
        }

    return router


def _bytes(size: int | None) -> dict[str, int] | None:
    return None if size is None else {"bytes": size}


def _types(sizes: Mapping[str, int], lacking: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [{"type": name, "bytes": size, "needs_extra": name in lacking} for name, size in sizes.items()]


def _free(run: Path, end: str) -> Path:
    """The folder that the command line writes to, or, where that is taken, one with a number."""
    folder = run.with_name(f"{run.name}-{end}")
    return folder.with_name(free_name(folder)) if folder.exists() else folder


# ---------------------------------------------------------------------------------------------------- what is there


def made(run: RunFolder) -> list[dict[str, Any]]:
    """The run's results, and what was exported from it."""
    return [*_results(run), *_exported(run)]


def _results(run: RunFolder) -> Iterator[dict[str, Any]]:
    for what in ("adapter", "model"):
        if (run.path / what).is_dir():
            yield _told(what, run.path / what, _receipt(run.path) or {})


def _exported(run: RunFolder) -> Iterator[dict[str, Any]]:
    """What lies beside the run and says in its receipt that it was made of it, the newest first."""
    beside = [each for each in run.path.parent.iterdir() if each.name.startswith(f"{run.name}-") and each.is_dir()]
    for folder in sorted(beside, key=lambda each: each.stat().st_mtime, reverse=True):
        receipt = _receipt(folder) or {}
        if receipt.get("kind") in KINDS and run.name in str(receipt.get("run")).split(", "):
            yield _told(KINDS[receipt["kind"]], folder, receipt)


def _receipt(folder: Path) -> dict[str, Any] | None:
    try:
        return files.read_json(folder / "receipt.json")
    except RunError:
        return None


def _told(what: str, folder: Path, receipt: Mapping[str, Any]) -> dict[str, Any]:
    listed = [
        {"name": each.relative_to(folder).as_posix(), "path": str(each), "bytes": each.stat().st_size}
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    ]
    return {
        "what": what,
        "name": folder.name,
        "path": str(folder),
        "bytes": sum(each["bytes"] for each in listed),
        "files": listed,
        "made_s": os.path.getmtime(folder),
        "forced": bool(receipt.get("forced")),
        "checks": [_check(each) for each in receipt.get("checks", ())],
    }


def _check(told: Mapping[str, Any]) -> dict[str, Any]:
    check = Check(**told)
    return {**told, "sentence": check.sentence}
