"""Runs pytest many times without importing the same libraries many times.

What goes in: lines of JSON on stdin, each a working directory, pytest's arguments, a file for the output and a time
limit. What comes out: a line of JSON for each, with exit status and processor time. Every run is a child forked from
this process, which has imported what is heavy and not ours: libraries only, never the package or its tests, so that
each child imports those afresh from its own working directory.

`run_pytest` is the caller's side of it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

HEAVY = (
    "datasets",
    "fastapi.testclient",
    "gguf",
    "hypothesis",
    "openai",
    "peft",
    "rich.live",
    "schemathesis.pytest.plugin",
    "torch.distributed.fsdp",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "trl",
    "typer",
    "uvicorn",
    "xdist",
)
ALREADY = "Module already imported so cannot be rewritten"
"""Pytest's warning about its plugins, which are among the libraries."""
TIMED_OUT, BROKEN, FOREIGN = -1, -2, -3
"""Statuses beside pytest's own: stopped at its time limit; ended without one; the package came from somewhere else."""
EXIT_OF_FOREIGN, EXITS_OF_PYTEST = 99, 100
"""What a child exits with: pytest's own from 100 on, so that one that breaks (1) is not taken for a test that fails."""


# ------------------------------------------------------------------------------------------- the caller's side


class Outcome(NamedTuple):
    status: int
    output: str
    processor_s: float

    @property
    def tail(self) -> str:
        return self.output[-4000:]


class Zygote:
    """`with Zygote(scratch) as zygote: zygote.run_pytest(repository, "tests/test_x.py")`"""

    def __init__(self, scratch: Path) -> None:
        """`scratch` is a folder of its own, which holds outputs and what the tests write."""
        self._scratch = scratch
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RUN_CHECKS"))}
        # One thread, because a pool that was begun does not live on in a child. The libraries read HF_HOME on import,
        # so it is one folder for all runs; it is emptied before each.
        settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HOME": str(scratch / "hf")}
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(
            command, env=kept | settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run_pytest(self, repository: Path, *arguments: str, timeout_s: float) -> Outcome:
        """Run pytest in the repository, with the repository first on the path."""
        assert self._process.stdin is not None and self._process.stdout is not None
        output = self._scratch / "output"
        for name in ("hf", "temporary"):
            shutil.rmtree(self._scratch / name, ignore_errors=True)
        own = ["-p", "no:cacheprovider", "-W", f"ignore:{ALREADY}", "--basetemp", str(self._scratch / "temporary")]
        request = {
            "repository": str(repository),
            "arguments": [*own, *arguments],
            "output": str(output),
            "timeout_s": timeout_s,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Outcome(answer["status"], output.read_text(encoding="utf-8", errors="replace"), answer["processor_s"])

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


# --------------------------------------------------------------------------------------------- the process itself


def serve() -> int:
    del sys.path[0]  # this file's folder: a child's own tests must be found in its working directory
    for name in HEAVY:
        with contextlib.suppress(ImportError):  # tests of a library that is not there skip themselves
            importlib.import_module(name)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("luthier", "conftest")]
    assert not ours, ours
    gc.collect()
    gc.freeze()  # what stands here is not written to by the children's collections
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return become(request)
        print(json.dumps(wait(child, request["timeout_s"])), flush=True)
    return 0


def become(request: dict[str, Any]) -> int:
    """In the child: look like a process that was started in the repository, and be pytest."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for new, old in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(new, old)
    repository = request["repository"]
    os.chdir(repository)
    os.environ["PYTHONPATH"] = repository  # for processes that the tests start
    sys.path.insert(0, repository)
    sys.argv[:] = ["pytest", *request["arguments"]]

    import pytest

    status = int(pytest.main(request["arguments"]))
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "luthier"]
    homes = [str(vars(module).get("__file__")) for module in ours]
    foreign = [home for home in homes if not Path(home).is_relative_to(repository)]
    if foreign or not homes:
        print(f"the copy is not what was imported: {foreign}")
        return EXIT_OF_FOREIGN
    return EXITS_OF_PYTEST + status


def wait(child: int, timeout_s: float) -> dict[str, Any]:
    """Until the child is done or its time is up; then none of its own processes is left."""
    end = time.monotonic() + timeout_s
    while True:
        done, how, used = os.wait4(child, os.WNOHANG)
        if done or time.monotonic() > end:
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not done:
        _, how, used = os.wait4(child, 0)
    return {"status": status_of(how) if done else TIMED_OUT, "processor_s": used.ru_utime + used.ru_stime}


def status_of(how: int) -> int:
    code = os.waitstatus_to_exitcode(how)
    if code == EXIT_OF_FOREIGN:
        return FOREIGN
    return code - EXITS_OF_PYTEST if code >= EXITS_OF_PYTEST else BROKEN


if __name__ == "__main__":
    sys.exit(serve())
