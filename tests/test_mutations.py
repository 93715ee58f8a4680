"""Each fault of `mutations.py` fits the code as it is; with `--long`, each is planted and must be noticed."""

from __future__ import annotations

import ast
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation
from zygote import BROKEN, FOREIGN, TIMED_OUT, Outcome, Zygote

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
    """Package, tests and settings; the tests look for both beside themselves.

    The package comes compiled, checked by the contents of its sources: a planted fault is seen, whatever time and
    length its file has, and only its file is compiled again.
    """
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache")
    for name in ("luthier", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        shutil.copyfile(ROOT / name, folder / name)
    by_contents = py_compile.PycInvalidationMode.CHECKED_HASH
    assert compileall.compile_dir(folder / "luthier", quiet=1, invalidation_mode=by_contents)
    probe = [sys.executable, "-c", "import luthier; print(luthier.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    home = subprocess.run(probe, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(home.strip()).is_relative_to(folder), f"the copy is not what a new process imports: {home}"
    return folder


class Bench:
    """A copy of the repository, and what its tests say with and without faults."""

    def __init__(self, copy: Path, zygote: Zygote) -> None:
        self._copy = copy
        self._zygote = zygote
        self._unmutated: dict[str, Outcome] = {}

    def write(self, test_file: str, code: str) -> None:
        (self._copy / "tests" / test_file).write_text(code, encoding="utf-8")

    def outcome(self, *tests: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Of these tests, against the package in the copy."""
        paths = [f"tests/{test}" for test in tests]
        return self._zygote.run_pytest(self._copy, "-x", *paths, timeout_s=timeout_s * len(tests))

    def unmutated(self, test: str) -> Outcome:
        """Of the test on the code as it is. All tests of its file that faults name are run together, once."""
        if test not in self._unmutated:
            file = test.partition("::")[0]
            tests = sorted({each.test for each in MUTATIONS.values() if each.test.startswith(f"{file}::")})
            together = self.outcome(*tests)
            self._unmutated |= dict.fromkeys(tests, together) if together.status == PASSED else {}
        if test not in self._unmutated:  # one of them fails: perhaps another
            self._unmutated[test] = self.outcome(test)
        return self._unmutated[test]

    def mutated(self, mutation: Mutation) -> Outcome:
        path = self._copy / "luthier" / mutation.file
        source = path.read_text(encoding="utf-8")
        try:
            path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
            return self.outcome(mutation.test)
        finally:
            path.write_text(source, encoding="utf-8")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    copy = copy_of_the_repository(tmp_path_factory.mktemp("mutated"))
    with Zygote(tmp_path_factory.mktemp("outputs")) as zygote:
        yield Bench(copy, zygote)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ENDINGS = {
    "assert True": PASSED,
    "assert False": FAILED,
    "import os; os._exit(1)": BROKEN,  # no test said so
    "import os; os.kill(os.getpid(), 9)": BROKEN,
    "import time; time.sleep(60)": TIMED_OUT,
    "import sys; sys.modules['luthier'].__file__ = '/elsewhere/luthier/__init__.py'": FOREIGN,
}


@pytest.mark.long
@needs_fork
def test_how_a_run_ends_is_told_apart(bench: Bench) -> None:
    """Only a test that fails is a fault that was noticed."""
    for code, status in ENDINGS.items():
        bench.write("test_ending.py", f"def test() -> None:\n    {code}\n")
        assert bench.outcome("test_ending.py::test", timeout_s=10).status == status, code


@pytest.mark.long
@needs_fork
@pytest.mark.parametrize("name", sorted(MUTATIONS, key=lambda name: MUTATIONS[name].test.partition("::")[0]))
def test_is_noticed(name: str, bench: Bench) -> None:
    mutation = MUTATIONS[name]
    plain = bench.unmutated(mutation.test)
    assert plain.status == PASSED, f"without the fault, {mutation.test} does not pass:\n{plain.tail}"
    faulty = bench.mutated(mutation)
    assert faulty.status == FAILED, f"{name}: {mutation.test} does not notice:\n{faulty.tail}"
    for other in ("SyntaxError", "ImportError"):
        assert other not in faulty.tail, f"{name}: fails for another reason:\n{faulty.tail}"
