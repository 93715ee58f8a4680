"""A server's address and its end, whatever it serves.

What goes in: an ASGI application and an address. What comes out: a listening socket, and a server that says which
signal ended it. Torch-free.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from luthier.errors import Problem, RunError


class Server(uvicorn.Server):
    """Remembers what ended it.

    Args:
        closing: called in its loop when it is to end, before it waits for what is under way.
        grace_s: that requests under way are given then. keep_alive_s: that a connection may be idle.
    """

    ended_by = 0

    def __init__(self, app: Any, closing: Callable[[], None], *, grace_s: int, keep_alive_s: int) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=grace_s,
            timeout_keep_alive=keep_alive_s,
        )
        super().__init__(config)
        self._closing = closing

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The library's own way raises the signal once more at the end, which would pass over what closes after it."""
        if threading.current_thread() is not threading.main_thread():  # as in a test or a notebook
            yield
            return
        kept = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in kept.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.ended_by:
            self.force_exit = True
        self.ended_by = self.ended_by or sig
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """Before anything slow: a port that is taken is said at once.

    Raises:
        RunError: it is taken, not allowed, or there is no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        raise RunError(Problem("serve.port", where=f"{host}:{port}", values={"reason": str(error)})) from error


def address(listener: socket.socket) -> str:
    """Where it can be reached, without a slash at the end; where it listens at all addresses, by the machine's name."""
    host, port = listener.getsockname()[:2]
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return "http://{}:{}".format(f"[{host}]" if ":" in host else host, port)
