"""Processes that outlive the tests that started them, ended however the tests end.

What goes in: a folder that belongs to the tests. What comes out: a process that waits until who started it is gone,
also by SIGKILL, and then ends every process whose environment names the folder: supervisors, jobs, trainings, which are
made to need nobody.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WATCH = """
import os, pathlib, signal, sys
place = os.fsencode(sys.argv[1]) + b"/"
sys.stdin.buffer.read()  # nobody writes: it comes back once all who hold the other end are gone
found = True
while found:  # one may have started another just before it ended
    found = False
    for each in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if place in (each / "environ").read_bytes():
                os.kill(int(each.name), signal.SIGKILL)
                found = True
        except OSError:
            pass
"""


def watch(folder: Path) -> subprocess.Popen[bytes]:
    """Closing its stdin ends it; so does the end of this process."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WATCH, str(folder)],
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
