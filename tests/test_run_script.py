"""`./run`: finding a Python, setting up once, going on after an interruption, choosing a PyTorch. pip is faked."""

from __future__ import annotations

import fcntl
import http.server
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = ("python3.13", "python3.12", "python3.11", "python3", "python")
PROBE_OK, TOO_OLD, NO_VENV = 0, 3, 4


# ------------------------------------------------------------------------------------------ finding a Python


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The few files that `./run` reads, in a folder with a space in its name."""
    root = tmp_path / "my repo"
    (root / "tools").mkdir(parents=True)
    for name in ("run", "tools/run.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, root / name)
    return root


@pytest.fixture
def start(repository: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`start({"python3": script}, *arguments, LANG=...)`: `./run` from another folder, with these programs on PATH."""

    def run(programs: dict[str, str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name in ("dirname", "head"):
            (folder / name).symlink_to(shutil.which(name) or name)
        for name, script in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return subprocess.run(
            [str(repository / "run"), *arguments],
            env={"PATH": str(folder), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def python_that_answers(status: int, version: str) -> str:
    """A stand-in for a Python: its version on -V, a status for the probe, 3.10 for the name of the package."""
    return f"""case "$1" in
    -V) echo 'Python {version}' ;;
    -c) echo python3.10-venv ;;
    *) exit {status} ;;
esac"""


def test_an_old_python_is_refused_with_what_to_install(start: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = start({"python3": python_that_answers(TOO_OLD, "3.9.2")}, "demo")
    assert done.returncode == 2 and done.stdout == ""
    assert "needs Python 3.11 or newer; here is only Python 3.9.2" in done.stderr
    for way in ("apt install", "dnf install", "brew install", "winget install"):
        assert way in done.stderr


def test_no_python_at_all(start: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = start({}, "demo")
    assert done.returncode == 2 and "no Python was found" in done.stderr


def test_a_python_without_venv_names_the_package(start: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = start({"python3": python_that_answers(NO_VENV, "3.11.2")}, "demo")
    assert done.returncode == 2
    assert "lacks the venv module" in done.stderr and "apt install python3.10-venv" in done.stderr


def test_it_speaks_chinese(start: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    old = {"python3": python_that_answers(TOO_OLD, "3.9.2")}
    assert "需要 Python 3.11" in start(old, LANG="zh_CN.UTF-8").stderr


def test_it_speaks_chinese_about_venv(start: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = start({"python3": python_that_answers(NO_VENV, "3.11.2")}, LC_ALL="zh_TW.UTF-8", LANG="en_US.UTF-8")
    assert "缺少 venv" in done.stderr


def test_the_first_usable_python_gets_the_arguments(
    start: Callable[..., subprocess.CompletedProcess[str]], repository: Path
) -> None:
    """One is broken (as pyenv's are for versions that are not chosen), one too old, one lacks venv."""
    good = 'for last; do :; done; case "$3" in -c) exit 0 ;; esac; echo "$0"; shift; for each; do echo "[$each]"; done'
    programs = {
        "python3.13": "exit 127",
        "python3.12": python_that_answers(NO_VENV, "3.12.1"),
        "python3.11": good,
        "python3": python_that_answers(TOO_OLD, "3.9.2"),
    }
    done = start(programs, "train", "my recipe.yaml", "a=b c")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("/python3.11")
    assert lines[1:] == [f"[{repository}/tools/run.py]", "[train]", "[my recipe.yaml]", "[a=b c]"]


def test_an_environment_that_is_there_is_used_first(
    start: Callable[..., subprocess.CompletedProcess[str]], repository: Path
) -> None:
    (repository / ".venv" / "bin").mkdir(parents=True)
    (repository / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (repository / "tools" / "run.py").write_text("import sys; print(sys.executable, sys.argv[1:], sys.flags.isolated)")
    done = start({}, "a", "b c")
    assert done.stdout.strip() == f"{repository}/.venv/bin/python ['a', 'b c'] 1"


def test_continuous_integration_passes_the_exit_status_through(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "run").write_text('#!/bin/sh\necho "$@"\necho "no tests ran in 0.01s"\nexit 5\n')
    (tmp_path / "run").chmod(0o755)
    done = subprocess.run([str(tmp_path / ".ci" / "run")], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (5, ["test", "no tests ran in 0.01s"])


# --------------------------------------------------------------------------------------------- setting up


class Builder:
    """`tools/run.py` over a folder of its own, its phases recorded and faked."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.venv = root, root / ".venv"
        self.module = load(root)
        self.phases: list[str] = []
        self.stop_at: str | None = None
        monkeypatch.setattr(self.module, "phase", self.phase)
        monkeypatch.setattr(self.module, "answers", lambda url: False)
        monkeypatch.setattr(self.module, "hardware", lambda: self.hardware)
        monkeypatch.setattr(self.module, "find_gpu", lambda: None)
        self.hardware = "cpu"

    def phase(self, title: str, command: list[str]) -> None:
        kind = "venv" if "venv" in command else " ".join(command[command.index("constraints.txt") + 1 :])
        self.phases.append(kind)
        if self.stop_at is not None and kind.startswith(self.stop_at):
            raise KeyboardInterrupt
        if kind == "venv":
            assert not (self.venv / "lib").exists()
            (self.venv / "bin").mkdir()
            (self.venv / "bin" / "python").symlink_to(sys.executable)
            (self.venv / "lib").mkdir()
        elif kind.startswith("-e"):
            (self.venv / "bin" / "luthier").touch()

    def prepare(self, *extras: str) -> list[str]:
        self.phases.clear()
        self.module.prepare(set(extras))
        return list(self.phases)

    @property
    def stamp(self) -> dict[str, object]:
        return dict(json.loads((self.venv / "luthier-setup.json").read_text()))


def load(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_under_test", root / "tools" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def builder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(repository, monkeypatch)


WHOLE = ["venv", "torch==2.13.0", "-e ."]


def test_set_up_happens_once(builder: Builder) -> None:
    assert builder.prepare() == WHOLE
    assert builder.stamp["state"] == "ready"
    assert builder.prepare() == []


def test_further_extras_are_added_in_place_and_kept(builder: Builder) -> None:
    builder.prepare()
    assert builder.prepare("test") == ["torch==2.13.0", "-e .[test]"]
    assert builder.prepare() == [] and builder.prepare("test") == []
    (builder.root / "constraints.txt").write_text("torch==2.13.0\nnumpy==2.0\n")
    assert builder.prepare() == ["torch==2.13.0", "-e .[test]"]


def test_changed_dependencies_are_installed_and_other_changes_are_not(builder: Builder) -> None:
    builder.prepare()
    project = builder.root / "pyproject.toml"
    project.write_text(project.read_text().replace("line-length = 120", "line-length = 100"))
    assert builder.prepare() == []
    project.write_text(project.read_text().replace('"rich",', '"rich",\n    "more",'))
    assert builder.prepare() == ["torch==2.13.0", "-e ."]


@pytest.mark.parametrize("stop_at", ["venv", "torch", "-e"])
def test_an_interrupted_set_up_starts_afresh(builder: Builder, stop_at: str) -> None:
    builder.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        builder.prepare()
    assert builder.stamp["state"] == "begun"
    (builder.venv / "lib" / "half").mkdir(parents=True)  # the faked venv asserts that leftovers are gone
    builder.stop_at = None
    assert builder.prepare() == WHOLE
    assert builder.prepare() == []


def test_an_interrupted_update_starts_afresh(builder: Builder) -> None:
    builder.prepare()
    builder.stop_at = "-e"
    with pytest.raises(KeyboardInterrupt):
        builder.prepare("test")
    builder.stop_at = None
    assert builder.prepare() == WHOLE


@pytest.mark.parametrize("damage", ["torn stamp", "no python", "no command", "gpu", "moved"])
def test_an_environment_that_no_longer_fits_is_made_anew(
    builder: Builder, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.prepare()
    expected = WHOLE
    if damage == "torn stamp":
        (builder.venv / "luthier-setup.json").write_text('{"state": "re')
    elif damage == "no python":
        (builder.venv / "bin" / "python").unlink()
    elif damage == "no command":
        (builder.venv / "bin" / "luthier").unlink()
        expected = WHOLE[1:]
    elif damage == "gpu":
        builder.hardware = "gpu"
    else:
        builder.root.rename(tmp_path / "moved")
        builder = Builder(tmp_path / "moved", monkeypatch)
        expected = WHOLE[1:]  # an editable install knows its place: installed again
    assert builder.prepare() == expected
    assert builder.prepare() == []


def test_the_users_own_environment_is_kept(builder: Builder) -> None:
    (builder.venv / "bin").mkdir(parents=True)
    (builder.venv / "bin" / "python").symlink_to(sys.executable)
    (builder.venv / "mine").touch()
    assert builder.prepare() == WHOLE[1:]
    assert (builder.venv / "mine").exists() and builder.prepare() == []


def test_a_small_disk_is_said_before_anything_is_written(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder.module, "NEEDED_BYTES", {"cpu": 10**18})
    with pytest.raises(builder.module.SetupFailed, match="GB are free"):
        builder.prepare()
    assert not builder.venv.exists()


def test_a_failing_phase_shows_the_end_of_its_log_and_a_remedy(repository: Path) -> None:
    module = load(repository)
    module.VENV.mkdir()
    noise = "import sys\nfor line in range(50): print('line', line)\nsys.exit('ERROR: No space left on device')"
    with pytest.raises(module.SetupFailed) as caught:
        module.phase("title", [sys.executable, "-c", noise])
    text = str(caught.value)
    assert "line 49" in text and "line 20" not in text and "No space left" in text and "disk is full" in text


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "Retrying after connection broken by 'NewConnectionError'\nNo matching distribution found for torch",
            "mirror",
        ),
        ("ReadTimeoutError: Read timed out.", "HTTPS_PROXY"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no fitting file"),
        ("something else", "begins afresh"),
    ],
)
def test_remedies(repository: Path, written: str, remedy: str) -> None:
    assert remedy in load(repository).failure_text(written)


def test_every_message_of_the_set_up_reads_in_both_languages(repository: Path) -> None:
    for message, (english, chinese) in load(repository).TEXT.items():
        names = [{part.split("}")[0] for part in text.split("{")[1:]} for text in (english, chinese)]
        assert english and chinese and names[0] == names[1], message


# --------------------------------------------------------------------------------------- one set-up at a time

BUILD_SLOWLY = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("tool", sys.argv[1])
tool = importlib.util.module_from_spec(spec); spec.loader.exec_module(tool)
def phase(title, command):
    with open(tool.ROOT / "phases", "a") as log: print(title, file=log)
    time.sleep(0.3)
    if "venv" in command:
        (tool.VENV / "bin").mkdir(); (tool.VENV / "bin" / "python").symlink_to(sys.executable)
    if "-e" in command: (tool.VENV / "bin" / "luthier").touch()
tool.phase, tool.answers, tool.find_gpu = phase, lambda url: False, lambda: None
tool.prepare(set())
"""


def test_two_calls_at_once_set_up_once(repository: Path) -> None:
    command = [sys.executable, "-c", BUILD_SLOWLY, str(repository / "tools" / "run.py")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len((repository / "phases").read_text().splitlines()) == len(WHOLE)
    assert sum("waiting" in text for text in said) == 1


def test_the_pip_of_a_killed_set_up_is_waited_for(repository: Path) -> None:
    """pip inherits the lock, so the next call cannot clear the environment under its hands."""
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tool", sys.argv[1])
tool = importlib.util.module_from_spec(spec); spec.loader.exec_module(tool)
tool.VENV.mkdir()
wait = "import os, pathlib, time\\nopen('started', 'w').close()\\nwhile not os.path.exists('go'): time.sleep(0.02)"
with tool.lock(): tool.phase("pip", [sys.executable, "-c", wait])
"""
    script = repository / "tools" / "run.py"
    parent = subprocess.Popen([sys.executable, "-c", code, str(script)], stderr=subprocess.DEVNULL)
    wait_until(lambda: (repository / "started").exists())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    with script.open("r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (repository / "go").touch()
        fcntl.flock(file, fcntl.LOCK_EX)  # comes back once the child has ended


def wait_until(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------- which PyTorch


@pytest.mark.parametrize(
    ("platform", "cuda", "capability", "build"),
    [
        ("linux", None, None, "cpu"),
        ("darwin", None, None, None),
        ("win32", None, None, None),
        ("linux", (13, 0), (8, 0), None),
        ("linux", (13, 2), (7, 5), None),
        ("linux", (13, 0), (7, 0), "cu126"),  # V100
        ("linux", (12, 4), (8, 0), "cu126"),
        ("linux", (12, 8), (12, 0), "cu126"),  # Blackwell: told to update the driver
        ("linux", (12, 4), None, "cu126"),
        ("win32", (13, 0), (8, 9), "cu130"),
    ],
)
def test_the_build_follows_driver_and_gpu(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    platform: str,
    cuda: tuple[int, int] | None,
    capability: tuple[int, int] | None,
    build: str | None,
) -> None:
    module = load(repository)
    monkeypatch.setattr(module.sys, "platform", platform)
    assert module.torch_build(None if cuda is None else module.Gpu(cuda, capability)) == build
    assert ("update the driver" in capsys.readouterr().err) == (capability == (12, 0))


def test_the_gpu_is_read_from_the_driver(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(repository)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in --query*) printf "9.0\\n7.0\\n" ;; *) echo "| CUDA Version: 12.4 |" ;; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert module.find_gpu() == module.Gpu((12, 4), (7, 0)) and module.hardware() == "gpu"
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert module.find_gpu() is None


def test_the_cpu_index_is_used_only_where_it_answers(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(repository)
    monkeypatch.setattr(module.sys, "platform", "linux")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnIndex) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        monkeypatch.setattr(module, "TORCH_INDEXES", url)
        assert module.torch_index(None) == url + "cpu"
        server.shutdown()
    assert module.torch_index(None) is None
    assert "LUTHIER_TORCH_INDEX" in capsys.readouterr().err


class AnIndex(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/cpu/torch/" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_another_index_can_be_named_or_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(repository)
    monkeypatch.setenv("LUTHIER_TORCH_INDEX", "http://mirror.invalid/cpu")
    assert module.torch_index(None) == "http://mirror.invalid/cpu"
    monkeypatch.setenv("LUTHIER_TORCH_INDEX", "")
    assert module.torch_index(None) is None


# ------------------------------------------------------------------------------------------------ ./run test


def test_checks_run_first_and_pytest_gets_the_arguments(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(repository)
    ran: list[list[str]] = []

    def call(command: list[str], **_: object) -> int:
        ran.append(command)
        return int("mypy" in command)

    monkeypatch.chdir(repository)
    monkeypatch.setenv("RUN_CHECKS_FAILED", "")
    monkeypatch.setattr(module.subprocess, "call", call)
    monkeypatch.setattr(module, "hand_over", lambda command: ran.append(command) or 0)
    module.check(["--long", "-k", "x"])
    assert [command[2] for command in ran] == ["ruff", "ruff", "mypy", "pytest"]
    assert ran[-1][-3:] == ["--long", "-k", "x"] and "-n" in ran[-1]
    assert os.environ["RUN_CHECKS_FAILED"] == "mypy"


@pytest.mark.parametrize(("failed", "status"), [("", 0), ("ruff check, mypy", 1)])
def test_a_failed_check_fails_the_tests_and_the_closing_line_stays_last(
    tmp_path: Path, failed: str, status: int
) -> None:
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path)  # what it imports is found where it lies
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "RUN_CHECKS_FAILED": failed, "PYTHONPATH": str(REPOSITORY / "tests")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout
    lines = done.stdout.strip().splitlines()
    assert lines[-1].startswith("1 passed")
    assert ("ruff check, mypy" in done.stdout) == bool(failed)


@pytest.mark.long
def test_a_fresh_copy_sets_itself_up(tmp_path: Path) -> None:
    """The real thing, with pip as it is configured: minutes, and some 1.5 GB."""
    root = tmp_path / "fresh copy"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    first = subprocess.run([str(root / "run"), "doctor", "--json"], cwd="/", capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["versions"]["torch"].startswith("2.13.0")
    assert "Ready after" in first.stderr
    assert "Ready after" not in subprocess.run([str(root / "run"), "--help"], capture_output=True, text=True).stderr
