"""Sets up `.venv` where needed, then does what `./run` was asked.

What goes in: the command line of `./run`. What comes out: an environment at the versions of `constraints.txt`, and the
exit status of `luthier COMMAND ...` or, for `test`, of the checks and tests. Standard library only, because nothing
else is there yet; what it says goes to stderr, so that a command's stdout is its own.

The environment's state stands in `.venv/luthier-setup.json`: `begun` is written before anything else and `ready` after
everything else, so an interrupted set-up is known by the next call, which starts it afresh.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "luthier-setup.json"
LOG = VENV / "luthier-setup.log"
BIN = VENV / ("Scripts" if sys.platform == "win32" else "bin")
LUTHIER = BIN / ("luthier.exe" if sys.platform == "win32" else "luthier")
PYTHON = BIN / ("python.exe" if sys.platform == "win32" else "python")

TORCH_INDEXES = "https://download.pytorch.org/whl/"
PROBE_TIMEOUT_S = 3.0
"""How long the index may take to answer; pip itself would try for more than a minute."""
CUDA_13 = (13, 0)
"""PyPI's Linux wheel of the pinned torch is built for CUDA 13.0. Its other CUDA build, 12.6, is for older drivers."""
CUDA_13_OLDEST_CAPABILITY = (7, 5)
"""CUDA 13 builds have no kernels for GPUs before Turing; the CUDA 12.6 build has (matrix in PyTorch's RELEASE.md)."""
NEEDED_BYTES = {"cpu": 2 * 10**9, "gpu": 9 * 10**9}
"""Room for a whole environment. CPU: 1.65 GB measured with the test extra. GPU: the CUDA libraries add about 6 GB
unpacked, judged from the published wheel sizes, not measured."""

CHECKS = {
    "ruff check": ["ruff", "check", "--quiet", "."],
    "ruff format": ["ruff", "format", "--check", "--quiet", "."],
    "mypy": ["mypy", "--no-error-summary"],
}
MOST_WORKERS = 8
"""Each test worker holds its own torch, about half a gigabyte."""

TEXT = {
    "create": (
        "Setting up Luthier in .venv (once; later calls start at once).",
        "正在 .venv 中安装 Luthier（只需一次，之后会直接启动）。",
    ),
    "rebuild": (
        "The environment in .venv is unfinished or does not fit this machine any more: setting it up afresh.",
        "现有的 .venv 不完整或不再适用于本机：重新安装。",
    ),
    "update": ("Bringing .venv up to date.", "正在更新 .venv。"),
    "wait": ("Another ./run is setting up .venv: waiting for it.", "另一个 ./run 正在安装 .venv：等待其完成。"),
    "venv": ("Python {python} environment", "Python {python} 运行环境"),
    "torch_cpu": ("{torch}, CPU build (0.2 GB to download)", "{torch}，CPU 版（下载 0.2 GB）"),
    "torch_gpu": ("{torch}, CUDA build (3 GB to download)", "{torch}，CUDA 版（下载 3 GB）"),
    "torch_any": (
        "{torch}, as pip is configured (0.2 GB to download, or 3 GB if that is a CUDA build)",
        "{torch}，按 pip 的配置（下载 0.2 GB；若为 CUDA 版则为 3 GB）",
    ),
    "rest": ("everything else (up to 0.2 GB to download)", "其余依赖（最多下载 0.2 GB）"),
    "no_index": (
        "  {url} does not answer, so pip's own configuration decides which build of PyTorch is taken. "
        "Another index can be named in LUTHIER_TORCH_INDEX.",
        "  {url} 没有响应，将由 pip 自身的配置决定安装哪个 PyTorch 版本。可用 LUTHIER_TORCH_INDEX 指定其他索引。",
    ),
    "old_driver": (
        "  The NVIDIA driver supports CUDA {cuda} only, too old for this GPU's PyTorch: update the driver to 580 "
        "or newer, then delete .venv and start ./run again.",
        "  NVIDIA 驱动仅支持 CUDA {cuda}，无法使用适合该 GPU 的 PyTorch：请更新驱动（580 或更新），"
        "然后删除 .venv 并重新运行 ./run。",
    ),
    "disk": (
        "Setting up needs about {need} GB on the disk of {root}, and {free} GB are free. Free some, then start "
        "./run again.",
        "安装需要 {root} 所在磁盘约 {need} GB，目前剩余 {free} GB。请清理后重新运行 ./run。",
    ),
    "failed": ("failed. The last lines of {log}:", "失败。{log} 的最后几行："),
    "remedy_disk": (
        "The disk is full. Free some space, then start ./run again.",
        "磁盘已满。请清理空间后重新运行 ./run。",
    ),
    "remedy_network": (
        "The package index could not be reached. Check the network; behind a proxy set HTTPS_PROXY; for a mirror use "
        "`pip config set global.index-url URL`. Then start ./run again.",
        "无法连接软件包索引。请检查网络；使用代理时设置 HTTPS_PROXY；使用镜像时运行 "
        "`pip config set global.index-url URL`。然后重新运行 ./run。",
    ),
    "remedy_missing": (
        "The package index has no fitting file for Python {python} on this machine. Python 3.11 to 3.13 have the "
        "most; if pip is configured with a mirror, it may lag behind.",
        "软件包索引中没有适合本机 Python {python} 的文件。Python 3.11 到 3.13 支持最全；"
        "若 pip 配置了镜像，镜像可能尚未同步。",
    ),
    "remedy_other": (
        "Start ./run again; it begins afresh. The whole log is {log}.",
        "请重新运行 ./run，它会从头开始。完整日志见 {log}。",
    ),
    "ready": ("Ready after {seconds:.0f} s.", "完成，用时 {seconds:.0f} 秒。"),
    "interrupted": (
        "Set-up interrupted; the next ./run starts it afresh.",
        "安装被中断；下次运行 ./run 会重新开始。",
    ),
    "check_ok": ("{name}: ok", "{name}：通过"),
    "check_failed": ("{name}: FAILED", "{name}：未通过"),
}
REMEDIES = (
    ("remedy_disk", re.compile(r"No space left|Errno 28|Disk quota", re.I)),
    (
        "remedy_network",
        re.compile(
            r"Connection|timed out|Temporary failure|resolve|ProxyError|SSLError|CERTIFICATE|Network is unreachable",
            re.I,
        ),
    ),
    ("remedy_missing", re.compile(r"No matching distribution|not a supported wheel|requires a different Python", re.I)),
)
"""First match decides: a mirror that cannot be reached also ends in `No matching distribution`."""


class SetupFailed(Exception):
    """Carries what the user is told, in full."""


class Gpu(NamedTuple):
    """What nvidia-smi says: the newest CUDA that the driver supports; the oldest GPU's compute capability."""

    cuda: tuple[int, int]
    capability: tuple[int, int] | None


def say(message: str, **values: Any) -> str:
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return TEXT[message][locale.startswith("zh")].format(**values)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Set up where needed and hand over to what was asked; returns only where the set-up failed or on Windows."""
    testing = arguments[:1] == ["test"]
    try:
        prepare({"test"} if testing else set())
    except SetupFailed as failure:
        tell(str(failure))
        return 2
    except KeyboardInterrupt:
        tell("\n" + say("interrupted"))
        return 130
    if testing:
        return check(arguments[1:])
    return hand_over([str(LUTHIER), *(arguments or ["--help"])])


def hand_over(command: list[str]) -> int:
    """Become the command, so that signals and the terminal are its own; Windows cannot, and waits for it."""
    if sys.platform == "win32":
        return subprocess.call(command)
    os.execv(command[0], command)


def check(arguments: list[str]) -> int:
    """Linter, formatter, type checker and tests; each runs whatever the others say.

    `tests/conftest.py` reads RUN_CHECKS_FAILED: it repeats the failures above pytest's closing line, which stays last,
    and lets them fail the session.
    """
    os.chdir(ROOT)
    failed = []
    for name, command in CHECKS.items():
        passed = subprocess.call([str(PYTHON), "-m", *command]) == 0
        tell(say("check_ok" if passed else "check_failed", name=name))
        if not passed:
            failed.append(name)
    os.environ["RUN_CHECKS_FAILED"] = ", ".join(failed)
    # A file's tests stay on one worker, because its fixtures (trained runs) are dear. Files come in the order of
    # tests/conftest.py; pytest-xdist's own, by the number of tests, puts those of few and long tests last.
    workers = ["-n", str(min(usable_cores(), MOST_WORKERS)), "--dist", "loadfile", "--no-loadscope-reorder"]
    return hand_over([str(PYTHON), "-m", "pytest", *workers, *arguments])


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --------------------------------------------------------------------------------------------------- the state


def prepare(extras: set[str]) -> None:
    """Make `.venv` hold the package with these extras at the pinned versions; a few milliseconds where it does."""
    wanted = fingerprint()
    if is_ready(read_stamp(), wanted, extras):
        return
    with lock():
        stamp = read_stamp()
        if is_ready(stamp, wanted, extras):  # by the call that held the lock
            return
        started = time.monotonic()
        build(stamp, wanted, extras)
        tell(say("ready", seconds=time.monotonic() - started))


def fingerprint() -> str:
    """Of all that decides what is installed: dependencies, pins, what is compiled, the place (an editable install knows
    it by path), and whether there is an NVIDIA driver."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    facts = [
        project["build-system"],
        project["project"],
        (ROOT / "constraints.txt").read_text(encoding="utf-8"),
        [path.read_text(encoding="utf-8") for path in sorted([*ROOT.glob("setup.py"), *ROOT.glob("luthier/*/*.c")])],
        str(ROOT),
        hardware(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def hardware() -> str:
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def read_stamp() -> dict[str, Any] | None:
    """None where the environment was not made here, or is not there."""
    try:
        return dict(json.loads(STAMP.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # torn by a power cut: as good as unfinished
        return {"state": "begun"}


def write_stamp(**facts: Any) -> None:
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    os.replace(temporary, STAMP)


def is_ready(stamp: dict[str, Any] | None, wanted: str, extras: set[str]) -> bool:
    return (
        stamp is not None
        and stamp["state"] == "ready"
        and stamp["fingerprint"] == wanted
        and LUTHIER.exists()
        and extras <= set(stamp["extras"])
        and stamp["python"] == venv_python()
    )


def venv_python() -> str | None:
    """`3.11`, the version that `.venv` runs; None where it does not run."""
    if Path(sys.prefix) == VENV:
        return f"{sys.version_info[0]}.{sys.version_info[1]}"
    probe = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([str(PYTHON), "-I", "-c", probe], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """One set-up at a time. The kernel frees the lock when the holder dies, and pip inherits it, so that a killed
    set-up's pip is waited for and not overtaken."""
    with open(__file__, "r+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # far behind the end: locks nobody's reading
            while True:
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:  # it gives up after ten seconds
                    tell(say("wait"))
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(say("wait"))
                fcntl.flock(file, fcntl.LOCK_EX)
            os.set_inheritable(file.fileno(), True)
        yield


# --------------------------------------------------------------------------------------------------- the work


def build(stamp: dict[str, Any] | None, wanted: str, extras: set[str]) -> None:
    """Install in place where `.venv` is whole and fits this hardware, or is the user's own; else from nothing."""
    python = venv_python()
    reusable = python is not None and (
        stamp is None or (stamp["state"] == "ready" and stamp["python"] == python and stamp["hardware"] == hardware())
    )
    if reusable:
        tell(say("update"))
        extras = extras | set(stamp["extras"] if stamp else ())
        write_stamp(state="begun")
    else:
        tell(say("rebuild" if VENV.exists() else "create"))
        check_disk()
        clear()
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        # The interpreter below the environment, because this one may run from the folder that was just cleared.
        base = getattr(sys, "_base_executable", sys.executable)
        phase(say("venv", python=python), [base, "-I", "-m", "venv", str(VENV)])
    if subprocess.call([str(PYTHON), "-I", "-c", "import pip"], stderr=subprocess.DEVNULL):
        phase("pip", [str(PYTHON), "-I", "-m", "ensurepip"])
    gpu = find_gpu()
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    index = torch_index(gpu)
    kind = "torch_gpu" if gpu else "torch_cpu" if index or sys.platform != "linux" else "torch_any"
    phase(
        say(kind, torch=torch.replace("==", " ")),
        pip_install(torch, *(["--extra-index-url", index] if index else [])),
    )
    names = sorted(extras | ({"gpu"} if gpu else set()))
    phase(say("rest"), pip_install("-e", f".[{','.join(names)}]" if names else "."))
    write_stamp(state="ready", fingerprint=wanted, python=venv_python(), extras=names, hardware=hardware())


def check_disk() -> None:
    need, free = NEEDED_BYTES[hardware()], shutil.disk_usage(ROOT).free
    if free < need:
        raise SetupFailed(say("disk", need=round(need / 1e9), free=round(free / 1e9, 1), root=ROOT))


def clear() -> None:
    """Empty `.venv`, keeping the word that it is unfinished: a call that is killed here must not leave a half
    environment that looks like the user's own."""
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    VENV.mkdir(exist_ok=True)
    write_stamp(state="begun")
    for child in VENV.iterdir():
        if child == STAMP:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def pip_install(*arguments: str) -> list[str]:
    return [str(PYTHON), "-I", "-m", "pip", "install", "--progress-bar", "off", "-c", "constraints.txt", *arguments]


def phase(title: str, command: list[str]) -> None:
    """Run one part of the set-up with its output in the log; one line on the screen, with the seconds so far.

    Raises:
        SetupFailed: with the end of the log and what to do.
    """
    # pip's own configuration holds, but for what cannot work in an environment or would wait for an answer.
    environment = {**os.environ, "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    started = time.monotonic()
    line = f"  {title} ..."
    print(line, end="", file=sys.stderr, flush=True)
    with open(LOG, "ab") as log:
        begin = log.tell()
        # close_fds=False: the inheritable lock goes along (see `lock`).
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, close_fds=False)
        while True:
            try:
                status = process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if sys.stderr.isatty():
                    print(f"\r{line} {time.monotonic() - started:.0f} s", end="", file=sys.stderr, flush=True)
    if status:
        with open(LOG, "rb") as log:
            log.seek(begin)
            written = log.read().decode("utf-8", errors="replace")
        raise SetupFailed(failure_text(written))
    print(
        f"\r{line}" if sys.stderr.isatty() else "", f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True
    )


def failure_text(written: str) -> str:
    """The last 20 lines of what pip wrote, and the remedy that they point to."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    remedy = next((name for name, pattern in REMEDIES if pattern.search(written)), "remedy_other")
    tail = ["    " + line for line in written.splitlines()[-20:]]
    return "\n".join([" " + say("failed", log=LOG), *tail, say(remedy, python=python, log=LOG)])


# --------------------------------------------------------------------------------------------- which PyTorch


def find_gpu() -> Gpu | None:
    """The NVIDIA GPU as its driver describes it; None where there is none or the driver does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        screen = subprocess.run([tool], capture_output=True, text=True, timeout=30, check=True).stdout
        query = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
        capabilities = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    cuda = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", screen)
    if cuda is None:
        return None
    found = [(int(major), int(minor)) for major, minor in re.findall(r"^(\d+)\.(\d+)\s*$", capabilities, re.M)]
    return Gpu((int(cuda[1]), int(cuda[2])), min(found, default=None))


def torch_index(gpu: Gpu | None) -> str | None:
    """The index to add to pip's own for the fitting build of torch; None where pip's own has it or nothing answers.

    A wheel with a local version (2.13.0+cpu) sorts above the plain one, so that adding the index is enough, and an
    index or a wheel folder that pip is already configured with keeps its say.
    """
    asked = os.environ.get("LUTHIER_TORCH_INDEX")
    if asked is not None:
        return asked or None
    name = torch_build(gpu)
    if name is None:
        return None
    url = TORCH_INDEXES + name
    if answers(url + "/torch/"):
        return url
    tell(say("no_index", url=url))
    return None


def torch_build(gpu: Gpu | None) -> str | None:
    """Name of PyTorch's index with the fitting build; None where the one on PyPI fits (CPU on macOS and Windows, the
    newest CUDA on Linux)."""
    if gpu is None:
        return "cpu" if sys.platform == "linux" else None
    if gpu.capability is not None and gpu.capability < CUDA_13_OLDEST_CAPABILITY:
        return "cu126"
    if gpu.cuda < CUDA_13:
        if gpu.capability is not None and gpu.capability >= (10, 0):  # Blackwell came after CUDA 12.6
            tell(say("old_driver", cuda="{}.{}".format(*gpu.cuda)))
        return "cu126"
    return "cu130" if sys.platform == "win32" else None


def answers(url: str) -> bool:
    """Whether a server answers within PROBE_TIMEOUT_S; in a thread, because looking a name up heeds no time-out."""
    import urllib.request

    reached = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S):
            reached.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_TIMEOUT_S + 0.5)
    return reached.is_set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
