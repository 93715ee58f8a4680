"""Routes of runs, queue and stream."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from fastapi import APIRouter

from luthier import __version__, disk, machine
from luthier.runs import commands
from luthier.text import language
from luthier.web.house import House


def routes(house: House) -> APIRouter:
    router = APIRouter()

    @router.get("/state")
    def state() -> dict[str, Any]:
        gpus = machine.gpus()
        devices: list[dict[str, Any]] = [
            {"name": gpu.name, "kind": "gpu", "total_bytes": None, "free_bytes": gpu.free_bytes} for gpu in gpus
        ]
        host = {"total_bytes": machine.memory_limit_bytes(), "free_bytes": machine.free_memory_bytes()}
        devices.append({"name": f"CPU x {os.cpu_count()}", "kind": "cpu", **host})
        return {
            "version": __version__,
            "language": language(),
            "home": str(house.home),
            "runs_dir": str(house.runs_dir),
            "base": house.base,
            "devices": devices,
            "disk": {"free_bytes": disk.free_bytes(house.runs_dir)},
            "extras": {"gguf": find_spec("xllamacpp") is not None},
        }

    @router.get("/runs")
    def runs() -> dict[str, Any]:
        return {"runs": commands.list_runs(house.runs_dir).value}

    @router.get("/runs/{name}")
    def run(name: str) -> Any:
        return commands.show(house.run(name)).value

    return router
