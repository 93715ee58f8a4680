"""Another engine in a process beside this one, behind the same front; llama.cpp is one.

What goes in: a GGUF file, or a process that answers already, and checked settings. What comes out: the signal that
ended the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from luthier.errors import EngineFailed, ModelError, Problem
from luthier.serving.door import Keys
from luthier.serving.house import dressed, ready
from luthier.serving.limits import Limits
from luthier.serving.listen import bind
from luthier.serving.relay import Relay, Upstream, make
from luthier.text import say


@contextlib.contextmanager
def started(file: Path, sequences: int, device: str | None) -> Iterator[tuple[Upstream, subprocess.Popen[str]]]:
    """The process, with the file loaded. It has a group of its own: Ctrl-C is for the front, which lets it finish.

    Raises:
        ModelError: llama.cpp cannot load the file.
    """
    key = secrets.token_urlsafe(24)
    command = [sys.executable, "-m", "luthier.serving.llama"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        asked = {"file": str(file), "key": key, "sequences": sequences, "gpu": device != "cpu"}
        child.stdin.write(json.dumps(asked) + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
        told = json.loads(line) if line else {"error": f"exit {child.wait()}"}
        if "error" in told:
            raise ModelError(Problem("serve.not_loaded", where=str(file), values={"reason": told["error"]}))
        yield Upstream(told["address"], key, (file.stem,)), child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def run(file: Path, host: str, port: int, keys: Keys, limits: Limits, log: TextIO, device: str | None) -> int:
    with bind(host, port) as listener, started(file, limits.sequences, device) as (upstream, child):
        ended_by = answer(upstream, child, listener, keys, limits, log)
        if not ended_by:
            raise EngineFailed(Problem("serve.engine_ended", values={"lines": "-"}))
        print(say("serve.ended"), file=log, flush=True)
        return ended_by


def answer(
    upstream: Upstream,
    child: subprocess.Popen[str],
    listener: socket.socket,
    keys: Keys,
    limits: Limits,
    log: TextIO,
    *notes: str,
) -> int:
    """Answer from there; the signal that ended it, 0 where the engine ended, as nothing could be answered ever again.

    Args:
        notes: said with where it listens.
    """
    relay = Relay(upstream, limits, keyed=bool(keys))
    server = dressed(make(relay), relay, keys, limits, log)

    def watch() -> None:
        child.wait()
        server.should_exit = True  # of one that has ended it changes nothing

    threading.Thread(target=watch, name="luthier-watch", daemon=True).start()
    print(ready(listener, upstream.names), *notes, file=log, flush=True)
    asyncio.run(server.serve([listener]))
    return server.ended_by
