"""The process of a job: runs one command of the command line, and writes down how it ended.

What goes in: the job's folder, whose file `asked.json` holds the command's arguments, and the number of the open file
that is the job's lock. What comes out: `out`, the command's one JSON object, `log`, what it said, and `ended.json`. It
belongs to no terminal and to no server; the lock is held until the command and all of this have ended. Needs the
standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(folder: Path, lock: int) -> None:
    (folder / "pid").write_text(str(os.getpid()), encoding="ascii")
    # Ctrl-C is for the command, which is in the same group; how it ends then is still to be written down.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    arguments = json.loads((folder / "asked.json").read_text(encoding="utf-8"))["argv"]
    command = [sys.executable, "-P", "-m", "luthier", *arguments, "--json"]
    with open(folder / "out", "wb") as out, open(folder / "log", "wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, pass_fds=(lock,))
        if (folder / "cancelled").exists():  # asked for before there was anybody to hear it
            child.send_signal(signal.SIGINT)
        code = child.wait()
    unfinished = folder / ".ended.json"
    unfinished.write_text(json.dumps({"code": code, "ended_s": round(time.time(), 3)}), encoding="ascii")
    unfinished.rename(folder / "ended.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
