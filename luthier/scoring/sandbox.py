"""Programs that a model wrote, run at arm's length.

What goes in: Python code and tests. What comes out: how many of the tests hold, or why nothing can be said. Each
program is a process of its own in a folder that is gone afterwards, with an empty environment, bounds on time, memory,
files and output, no processes of its own, no network where the system lets a process give it up (a Linux namespace) and
none through Python's own doors anywhere, and no writing outside its folder. When its time is over the whole process
group is killed. This holds off what a model writes by accident or for reward; it is no jail for a determined attacker,
for whom a virtual machine is the right place.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 5.0
MEMORY_BYTES = 2**30
"""Address space; Python alone takes some 30 MB. Chosen, not tuned."""
MAX_RESULT = 4096

_CHILD = r"""
import json, os, resource, sys
results, given = int(sys.argv[1]), sys.stdin.buffer
task = json.loads(given.readline())
def bound(which, most):
    try:
        resource.setrlimit(which, (most, most))
    except (ValueError, OSError):
        pass
bound(resource.RLIMIT_CPU, task["cpu_s"])
bound(resource.RLIMIT_AS, task["memory_bytes"])
bound(resource.RLIMIT_FSIZE, 2**20)
bound(resource.RLIMIT_CORE, 0)
bound(resource.RLIMIT_NOFILE, 64)
try:
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, 9, 0, 0, 0)  # die with the parent
    libc.unshare(0x10000000 | 0x40000000)  # a user and a network namespace of its own: no way out
except Exception:
    pass
bound(resource.RLIMIT_NPROC, 0)
home = os.path.realpath(os.getcwd())
refused = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
           "ctypes.", "pty.", "signal.pthread_kill", "os.putenv")
changing = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink",
            "os.truncate", "shutil.")
def watch(event, args, real=os.path.realpath, isint=isinstance, text=os.fsdecode):
    if event.startswith(refused):
        raise PermissionError(event)
    writes = event == "open" and (set(args[1] or "") & set("wax+") or (args[2] or 0) & 0o1103)
    if (writes or event.startswith(changing)) and args and isint(args[0], (str, bytes)):
        place = real(text(args[0]))
        if place != home and not place.startswith(home + os.sep) and place != os.devnull:
            raise PermissionError(event)
sys.addaudithook(watch)
sys.stdin = open(os.devnull)
own = {"__name__": "__main__", "__builtins__": __builtins__}
answered = True
try:
    exec(compile(task["code"], "answer", "exec"), own)
except BaseException:
    answered = False
rest = json.loads(given.readline())
passed = 0
for test in rest["tests"] if answered else ():
    try:
        exec(compile(test, "test", "exec"), own)
        passed += 1
    except BaseException:
        pass
os.write(results, (rest["token"] + " " + str(passed)).encode())
"""


@dataclass(frozen=True)
class Outcome:
    """passed: tests that hold, of `total`; ended: `done`, `time` where its time was over, `died` where it ended before
    its tests were through."""

    passed: int
    total: int
    ended: str


def run(code: str, tests: Sequence[str], *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Outcome:
    """Run a program, and then each test among what it defined; a program that raises passes none."""
    token = secrets.token_hex(8)
    task = {"code": code, "cpu_s": math.ceil(seconds), "memory_bytes": memory_bytes}
    told = "".join(json.dumps(each) + "\n" for each in (task, {"tests": list(tests), "token": token}))
    results, write_end = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="luthier-sandbox-", ignore_cleanup_errors=True) as folder:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CHILD, str(write_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"HOME": folder, "LANG": "C.UTF-8"},
                pass_fds=(write_end,),
                start_new_session=True,
            )
            os.close(write_end)
            write_end = -1
            try:
                said, late = _heard(process, told.encode(), results, seconds)
            finally:
                _kill(process)
    finally:
        os.close(results)
        if write_end >= 0:
            os.close(write_end)
    words = said.split()
    if len(words) == 2 and words[0] == token and words[1].isdigit():
        return Outcome(min(int(words[1]), len(tests)), len(tests), "done")
    return Outcome(0, len(tests), "time" if late else "died")


def _heard(process: subprocess.Popen[bytes], told: bytes, results: int, seconds: float) -> tuple[str, bool]:
    """What the program's process says before its time is over, and whether that is over."""
    end = time.monotonic() + seconds
    assert process.stdin is not None
    to, unsaid, heard = process.stdin.fileno(), told, b""
    os.set_blocking(to, False)
    while True:
        left = end - time.monotonic()
        if left <= 0:
            return "", True
        readable, writable, _ = select.select([results], [to] if unsaid else [], [], left)
        if writable:
            try:
                unsaid = unsaid[os.write(to, unsaid) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                unsaid = b""
        if readable:
            piece = os.read(results, MAX_RESULT)
            heard += piece
            if not piece or len(heard) > MAX_RESULT:
                return heard.decode(errors="replace"), False


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
