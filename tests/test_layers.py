"""Holds every import of the package to the layer table, and every dependency to its one door.

The tables below are the law; a module that is in none of them fails, so that whoever adds one has to place it.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "luthier"

RANKS: dict[str, float] = {
    "text": 0,
    "errors": 0.5,
    "config": 1,
    "batch": 1,
    "compiled": 0.5,
    "disk": 0.5,
    "machine": 0.5,
    "devices": 1,
    "nano": 1,
    "arch": 1.5,
    "runs": 2,
    "data": 2,
    "kernels": 2,
    "losses": 3,
    "models": 3,
    "holdings": 2.5,
    "moments": 2.75,
    "planner": 3,
    "auxiliary": 3.25,
    "workload": 3.5,
    "engine": 4,
    "sampling": 3,
    "generate": 5,
    "writing": 5.5,
    "samples": 5.5,
    "methods": 6,
    "scoring": 5.5,
    "session": 6,
    "proof": 6,
    "run": 7,
    "finish": 7,
    "parent": 7,
    "planning": 7,
    "teaching": 7,
    "paper": 7,
    "tightening": 7,
    "frozen": 7,
    "staged": 7,
    "reinforcing": 7,
    "training": 7,
    "launch": 7,
    "worker": 7,
    "checks": 7,
    "tuner": 7,
    "chat": 7,
    "columns": 1,
    "answering": 7,
    "doctor": 7,
    "demo": 7,
    "importing": 7,
    "export": 7,
    "serving": 7,
    "evaluate": 7,
    "search": 7,
    "queue": 7,
    "workspace": 7,
    "supervisor": 7.5,
    "submit": 8,
    "detached": 8.5,
    "progress": 8,
    "outcome": 8,
    "web": 8,
    "cli": 9,
    "__main__": 9.5,
}
"""Folder or file of the package -> rank; imports go to lower ranks only."""

SAME_RANK: tuple[str, ...] = (
    "session",
    "proof",
    "parent",
    "teaching",
    "planning",
    "tightening",
    "frozen",
    "reinforcing",
    "checks",
    "export",
    "answering",
    "run",
    "finish",
    "queue",
    "launch",
    "staged",
    "training",
    "worker",
    "tuner",
    "demo",
)
"""Single files that may import earlier ones of this list at their own rank."""

CONFIG_ORDER = ("schema", "fields", "presets", "rules", "tree", "complaints", "stages", "load", "recipe", "characters")
"""Files of config/: each imports earlier ones only. In every other folder some order must exist."""

SURFACE = "__init__"
"""The public surface may name everything; it loads nothing before its first use."""

DOORS: dict[str, tuple[str, ...]] = {
    "bitsandbytes": ("models/quantize.py",),
    "datasets": ("data/hub.py",),
    "fastapi": ("serving/", "web/"),
    "uvicorn": ("serving/listen.py",),
    "starlette": ("serving/", "web/"),
    "llguidance": ("serving/guide.py",),
    "prometheus_client": ("serving/metrics.py",),
    "gguf": ("export/",),
    "huggingface_hub": ("models/",),
    "modelscope": ("models/",),
    "pyarrow": ("data/columnar.py",),
    "regex": ("data/words.py", "data/expressions.py"),
    "rich": ("cli.py", "progress.py", "runs/tables.py", "runs/receipt_page.py"),
    "safetensors": ("models/", "engine/checkpoint.py", "nano/make.py"),
    "swanlab": ("runs/",),
    "tensorboard": ("runs/",),
    "torch.distributed": ("engine/backend.py",),
    "transformers": ("models/", "data/templates.py"),
    "triton": ("kernels/triton_ops.py",),
    "typer": ("cli.py",),
    "wandb": ("runs/",),
    "xllamacpp": ("export/gguf/llama.py", "export/gguf/native.py", "serving/llama.py"),
    "yaml": ("config/",),
}
"""Dependency -> the only places that import it (runs/ measures the width of text with rich's cells, draws nothing)."""

ENVIRONMENT_DOORS = ("config/load.py", "engine/backend.py")
TORCH_FREE = (
    "__init__",
    "__main__",
    "arch",
    "batch",
    "cli",
    "config",
    "data",
    "devices",
    "disk",
    "errors",
    "holdings",
    "importing",
    "machine",
    "moments",
    "nano",
    "outcome",
    "paper",
    "planner",
    "progress",
    "queue",
    "runs",
    "supervisor",
    "text",
    "web",
    "workload",
    "workspace",
)
OPTIONAL = (
    "bitsandbytes",
    "datasets",
    "modelscope",
    "swanlab",
    "tensorboard",
    "torch.utils.tensorboard",
    "triton",
    "wandb",
    "xllamacpp",
)
"""Extras: imported where they are used, so that everything else works without them."""
NANO_MAKERS = ("nano.make", "nano.start")
"""They made the weights that the package ships; nothing that runs for users imports them."""
HEAVY_CLIENTS = (
    "luthier.models.hub_huggingface",
    "luthier.models.hub_modelscope",
    "luthier.models.hub_upload",
)
"""Half a second of imports or an extra, needed only where a model is fetched; `models/hub.py` loads them then."""
NOT_WITHOUT_TORCH_INSTALLED = ("data/templates.py",)
"""Imports no torch itself, but transformers, which does when it is installed."""


def name_of(path: Path) -> str:
    """luthier/config/load.py -> config.load; packages by their own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Absolute dotted names of everything imported anywhere in a file, lazily or for type checking too."""
    return tuple(imported(ast.walk(parsed(path))))


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    """Modules of the package that a module imports."""
    found = set()
    for target in imports(FILES[name]):
        first, _, rest = target.partition(".")
        if first == "luthier":
            while rest and rest not in FILES:
                rest = rest.rpartition(".")[0]
            found.add(rest or SURFACE)
    return found - {name}


def top(name: str) -> str:
    return name.partition(".")[0]


def is_allowed(importer: str, imported: str) -> bool:
    a, b = top(importer), top(imported)
    if a == b:
        return True  # the order within a folder is judged apart
    if RANKS[b] < RANKS[a]:
        return True
    ordered = a in SAME_RANK and b in SAME_RANK and RANKS[a] == RANKS[b]
    return ordered and SAME_RANK.index(b) < SAME_RANK.index(a)


def test_the_rule_itself() -> None:
    assert is_allowed("models.decoder", "kernels.head")
    assert is_allowed("training", "run")
    assert not is_allowed("run", "training")
    assert not is_allowed("kernels.head", "models.decoder")
    assert not is_allowed("data.pack", "runs.store"), "folders of one rank do not know each other"
    assert not is_allowed("losses.likelihood", "planner")


def test_every_module_has_a_rank() -> None:
    unplaced = {top(name) for name in FILES} - {SURFACE} - RANKS.keys()
    assert not unplaced, f"add these to RANKS: {unplaced}"


@pytest.mark.parametrize("name", [name for name in FILES if name != SURFACE])
def test_imports_only_lower_ranks(name: str) -> None:
    wrong = {other for other in own_imports(name) if other != SURFACE and not is_allowed(name, other)}
    assert not wrong, f"luthier.{name} (rank {RANKS[top(name)]}) must not import {wrong}"
    # The version is all that anyone needs of the surface.
    if SURFACE in own_imports(name):
        assert name in ("cli", "runs.manifest", "runs.receipt", "doctor", "web.app", "web.runs"), (
            f"{name} imports the public surface"
        )


def test_files_of_a_folder_have_an_order() -> None:
    for folder in sorted({top(name) for name in FILES}):
        graph = {
            name: {other for other in own_imports(name) if top(other) == folder and other != folder}
            for name in FILES
            if top(name) == folder and name != folder
        }
        graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_order_of_config() -> None:
    assert {f"config.{name}" for name in CONFIG_ORDER} == {name for name in FILES if name.startswith("config.")}
    for position, name in enumerate(CONFIG_ORDER):
        earlier = {"config", *(f"config.{other}" for other in CONFIG_ORDER[:position])}
        inside = {other for other in own_imports(f"config.{name}") if top(other) == "config"}
        assert inside <= earlier, f"config/{name}.py imports {inside - earlier}"


@pytest.mark.parametrize("dependency", DOORS)
def test_doors(dependency: str) -> None:
    for path in FILES.values():
        place = path.relative_to(PACKAGE).as_posix()
        uses = [target for target in imports(path) if f"{target}.".startswith(f"{dependency}.")]
        if uses:
            assert place.startswith(DOORS[dependency]), f"{place} imports {uses}; its doors are {DOORS[dependency]}"


def test_environment_is_read_at_its_doors_only() -> None:
    for path in FILES.values():
        place = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(parsed(path)):
            named = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
            assert not (named and place not in ENVIRONMENT_DOORS), f"{place} reads the environment"
        assert not any(target in ("os.environ", "os.getenv") for target in imports(path)), place


def test_imports_stand_at_the_top() -> None:
    """Except in the command line, and for optional packages at their door."""
    for path in FILES.values():
        if path.name == "cli.py":
            continue
        inner = [
            target
            for function in ast.walk(parsed(path))
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
            for target in imported(ast.walk(function))
        ]
        wrong = [
            each
            for each in inner
            if not f"{each}.".startswith(tuple(f"{name}." for name in (*OPTIONAL, *HEAVY_CLIENTS)))
        ]
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong} inside a function"


def test_torch_free_modules_do_not_name_torch() -> None:
    for name in (name for name in FILES if top(name) in TORCH_FREE):
        if name == SURFACE or name in NANO_MAKERS:
            continue
        optional = ("torch.utils.tensorboard",)
        uses = [
            target
            for target in imports(FILES[name])
            if top(target) == "torch" and not target.startswith(optional) and name != "cli"
        ]
        assert not uses, f"luthier.{name} imports {uses}"


def test_torch_free_modules_load_no_torch() -> None:
    """In one fresh process: what they import does not bring it in either."""
    names = [
        f"luthier.{name}" if name != SURFACE else "luthier"
        for name, path in FILES.items()
        if top(name) in TORCH_FREE
        and path.relative_to(PACKAGE).as_posix() not in NOT_WITHOUT_TORCH_INSTALLED
        and not any("transformers" in target or ".templates" in target for target in imports(path))
        and name not in ("__main__", *NANO_MAKERS)
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nano_needs_the_standard_library_only() -> None:
    """So that corpus and task can be made again anywhere."""
    allowed = {*sys.stdlib_module_names, "luthier"}
    for name in (name for name in FILES if top(name) == "nano" and name not in NANO_MAKERS):
        assert {top(target) for target in imports(FILES[name])} <= allowed, name
        assert not own_imports(name) & set(NANO_MAKERS)
