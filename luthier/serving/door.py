"""What every request passes before and after its route: keys, sizes, times, the log.

What goes in: an ASGI application. What comes out: one that answers every refusal in OpenAI's shape, never with a
traceback, and writes one line per request without bodies or keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from luthier.serving.limits import Limits
from luthier.serving.protocol import Refused, error_of, refuse

OPEN_PATHS = ("/health", "/openapi.json")
"""Answered without a key: they tell nothing of anybody."""

Scope = dict[str, Any]


class Keys:
    """The keys that open the server; all are compared, in constant time, so that nothing is learnt from how long a
    refusal takes."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def fits(self, given: str) -> bool:
        digest = hashlib.sha256(given.strip().encode("latin-1", "replace")).digest()
        return any([hmac.compare_digest(digest, known) for known in self._digests])

    def open(self, header: str) -> bool:
        kind, _, given = header.partition(" ")
        fits = self.fits(given)
        return kind.lower() == "bearer" and fits


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Door:
    """In front of the application, for every request."""

    def __init__(
        self, app: Any, keys: Keys, limits: Limits, log: TextIO, on_status: Callable[[str, int], None]
    ) -> None:
        self._app, self._keys, self._limits, self._log, self._on_status = app, keys, limits, log, on_status
        self._draining = False

    def close(self) -> None:
        """Refuse whatever comes from now on with 503: the server is told to end."""
        self._draining = True

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def tell(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._judge(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _replay(body, receive), tell)
        except Refused as fault:
            await answer(tell, fault)
        except Exception:  # noqa: BLE001  the operator sees the fault, the client does not
            traceback.print_exc(file=self._log)
            if not status:
                await answer(tell, refuse("serve.internal", 500))
        finally:
            client = (scope.get("client") or ("-",))[0]
            path = scope["path"].encode("unicode_escape").decode()[:200]
            taken = time.monotonic() - began
            self._on_status(scope["path"], status)
            print(f"{client} {scope['method']} {path} {status or 'gone'} {taken:.3f}s", file=self._log, flush=True)

    def _judge(self, scope: Scope) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._draining:
            raise refuse("serve.draining", 503)
        if self._keys:
            if scope["path"] not in OPEN_PATHS and not self._keys.open(headers.get(b"authorization", "")):
                raise refuse("serve.wrong_key", 401, code="invalid_api_key")
        else:
            # A page in a browser on this machine must not speak to the model under a name of its own.
            host = headers.get(b"host", "")
            name = host[: host.rfind(":")] if host.rpartition(":")[2].isdigit() else host
            if not is_loopback(name):
                raise refuse("serve.foreign_host", 403, host=name[:100])
            origin = headers.get(b"origin")
            if origin and not is_loopback(origin.partition("://")[2].rpartition(":")[0] or origin.partition("://")[2]):
                raise refuse("serve.foreign_host", 403, host=origin[:100])
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise refuse("serve.too_large", 413, limit=self._limits.body_bytes)

    async def _body(self, scope: Scope, receive: Any) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise refuse("serve.gone", 499)
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limits.body_bytes:
                        raise refuse("serve.too_large", 413, limit=self._limits.body_bytes)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            raise refuse("serve.slow_body", 408, limit=self._limits.body_s) from error


def _replay(body: bytes, receive: Any) -> Callable[[], Any]:
    given = False

    async def again() -> dict[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return dict(await receive())

    return again


async def answer(send: Any, fault: Refused) -> None:
    content = json.dumps(error_of(fault), ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if fault.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if fault.status in (413, 408):
        headers.append((b"connection", b"close"))
    if fault.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
