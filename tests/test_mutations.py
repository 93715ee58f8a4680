"""Each fault of `mutations.py` fits the code as it is; with `--long`, each is planted and must be noticed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[1]
PASSED, FAILED = 0, 1
"""Exit statuses of pytest; any other means that no test ran."""
TIMEOUT_S = 600


def named(mutation: Mutation) -> tuple[Path, str]:
    file, _, function = mutation.test.partition("::")
    return ROOT / "tests" / file, function


@pytest.mark.parametrize("name", MUTATIONS)
def test_fits_the_code(name: str) -> None:
    mutation = MUTATIONS[name]
    source = (ROOT / "luthier" / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, (
        f"{mutation.file}: {mutation.old!r} occurs {source.count(mutation.old)} times"
    )
    if mutation.file.endswith(".py"):
        ast.parse(source.replace(mutation.old, mutation.new))
    file, function = named(mutation)
    assert file.is_file(), file.name
    functions = {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if hasattr(node, "name")}
    assert function in functions, mutation.test


def test_every_part_has_a_fault() -> None:
    parts = {mutation.file.partition("/")[0] for mutation in MUTATIONS.values()}
    assert {"arch", "config", "data", "engine", "finish.py", "generate.py", "kernels", "models", "runs"} <= parts
    assert len({(mutation.file, mutation.old) for mutation in MUTATIONS.values()}) == len(MUTATIONS) >= 40


def copy_of_the_repository(folder: Path) -> Path:
    """Package, tests and settings; the tests look for both beside themselves."""
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache")
    for name in ("luthier", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def outcome(copy: Path, test: str) -> tuple[int, str]:
    """Exit status and output of one test against the package in the copy."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RUN_CHECKS"))},
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    probe = [sys.executable, "-c", "import luthier; print(luthier.__file__)"]
    home = subprocess.run(probe, cwd=copy, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(home.strip()).is_relative_to(copy), f"the copy is not what is imported: {home}"
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/{test}"]
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return done.returncode, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_repository(tmp_path_factory.mktemp("mutated"))


@pytest.fixture(scope="module")
def unmutated() -> dict[str, tuple[int, str]]:
    """Outcomes of the tests on the code as it is; several faults share a test."""
    return {}


@pytest.mark.long
@pytest.mark.parametrize("name", MUTATIONS)
def test_is_noticed(name: str, repository: Path, unmutated: dict[str, tuple[int, str]]) -> None:
    mutation = MUTATIONS[name]
    if mutation.test not in unmutated:
        unmutated[mutation.test] = outcome(repository, mutation.test)
    status, output = unmutated[mutation.test]
    assert status == PASSED, f"without the fault, {mutation.test} does not pass:\n{output}"
    path = repository / "luthier" / mutation.file
    source = path.read_text(encoding="utf-8")
    try:
        path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
        status, output = outcome(repository, mutation.test)
    finally:
        path.write_text(source, encoding="utf-8")
    assert status == FAILED, f"{name}: {mutation.test} does not notice:\n{output}"
    assert "SyntaxError" not in output and "ImportError" not in output, f"{name}: fails for another reason:\n{output}"
