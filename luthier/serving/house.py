"""The server's process: model, engine, routes and door put together, from the first request to the last.

What goes in: checked settings. What comes out: the signal that ended it. On SIGTERM or Ctrl-C what is being answered is
finished within the grace time and nothing new is taken; a second signal ends at once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from luthier.serving.app import make
from luthier.serving.door import Door, Keys
from luthier.serving.engine import Engine
from luthier.serving.front import Desk, Front
from luthier.serving.limits import Limits
from luthier.serving.listen import Server, address, bind
from luthier.serving.voices import Voices
from luthier.session import open_session
from luthier.text import say

KEEP_ALIVE_S = 30
"""That a client's connection may be idle between two requests."""


def run(
    targets: Sequence[str], host: str, port: int, keys: Keys, limits: Limits, log: TextIO, how: Mapping[str, Any]
) -> int:
    with bind(host, port) as listener:
        voices = Voices(open_session(targets[0], **how))
        for target in targets[1:]:
            voices.load(target)
        server, engine = assemble(voices, keys, limits, log)
        print(ready(listener, voices.names), file=log, flush=True)
        engine.start()
        try:
            asyncio.run(server.serve([listener]))
        finally:
            engine.close()
        print(say("serve.ended"), file=log, flush=True)
        return server.ended_by


def ready(listener: socket.socket, names: Iterable[str]) -> str:
    """The line that says where it listens."""
    return say("serve.ready", where=address(listener), models=", ".join(names))


def assemble(voices: Voices, keys: Keys, limits: Limits, log: TextIO) -> tuple[Server, Engine]:
    """A server for these names that does not run yet, and the engine that it asks."""
    engine = Engine(voices.session, sequences=limits.sequences, most=limits.queue)
    front = Front(voices, engine, limits, keyed=bool(keys))
    return dressed(make(front), front, keys, limits, log), engine


def dressed(app: Any, desk: Desk, keys: Keys, limits: Limits, log: TextIO) -> Server:
    """The application behind its door."""
    door = Door(app, keys, limits, log, desk.count)
    return Server(door, door.close, grace_s=max(int(limits.grace_s), 1), keep_alive_s=KEEP_ALIVE_S)
