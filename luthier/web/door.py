"""What every request passes before and after its route: who may come, how much they may send, what a browser may do
with the answer, and in which language it is.

What goes in: an ASGI application. What comes out: one that answers other machines only with the token, and other pages
in the same browser never.
"""

from __future__ import annotations

import json
import traceback
from http.cookies import CookieError, SimpleCookie
from typing import Any, TextIO
from urllib.parse import parse_qs, unquote

from starlette.exceptions import HTTPException

from luthier.errors import Problem
from luthier.serving.door import is_loopback
from luthier.text import Language, language, speaking
from luthier.web.house import House
from luthier.web.refusals import told

BODY_BYTES = 8 * 2**20
"""Of a request that is no upload: a recipe, a conversation. Chosen, not tuned."""
UPLOADS = "/api/files/"
"""What is PUT below it is counted where it is written."""
GUARD = b"x-luthier"
"""A header that a form of another page cannot send, and a script of one only after asking, which nobody answers."""
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

Scope = dict[str, Any]


class Refused(Exception):
    """A request that does not get to its route."""

    def __init__(self, status: int, id: str, **values: Any) -> None:
        self.status, self.problem = status, Problem(id, values=values)
        super().__init__(id)


class Door:
    """Args:
    port: in the cookie's name, because browsers give the cookies of one port to all others of the same host.
    log: where the traceback of a fault goes.
    """

    def __init__(self, app: Any, house: House, port: int, log: TextIO) -> None:
        self._app, self._house, self._log = app, house, log
        self._cookie = f"luthier-{port}"

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return  # no web socket is opened
        scope = self._unprefixed(scope)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        is_told = False

        async def tell(message: dict[str, Any]) -> None:
            nonlocal is_told
            if message["type"] == "http.response.start":
                is_told = True
                message = {**message, "headers": [*message["headers"], *_headers(scope["path"])]}
            await send(message)

        with speaking(_language(headers)):
            try:
                if await self._let_in(scope, headers, tell):
                    self._judge(scope, headers)
                    await self._app(scope, _counted(scope, receive), tell)
            except Refused as fault:
                await _answer(tell, scope["path"], fault)
            except Exception:  # noqa: BLE001  the operator sees the fault, the browser does not
                traceback.print_exc(file=self._log)
                if not is_told:
                    await _answer(tell, scope["path"], Refused(500, "web.internal"))

    def _unprefixed(self, scope: Scope) -> Scope:
        """The request as the routes know it, whether a proxy has taken the base path away or not."""
        path, base = scope["path"], unquote(self._house.base)
        if base != "/" and f"{path}/".startswith(base):
            path = "/" + path[len(base) :]
        return {**scope, "path": path, "raw_path": path.encode()}

    async def _let_in(self, scope: Scope, headers: dict[bytes, str], send: Any) -> bool:
        """Whether the request may go on; one that comes by the link gets its cookie instead, and is sent on without
        the token, which is then in no history and no log.

        The page sends itself on: a browser that came from elsewhere would not show the cookie after a redirect.
        """
        if not self._house.keys:
            return True
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._house.keys.fits(given):
            cookie = f"{self._cookie}={given}; Path={self._house.base}; HttpOnly; SameSite=Strict"
            extra = [(b"set-cookie", cookie.encode()), (b"refresh", f"0; url={self._house.base}".encode())]
            await _respond(send, 200, b"text/plain; charset=utf-8", b"", extra)
            return False
        if not self._house.keys.open(headers.get(b"authorization", "")) and not self._house.keys.fits(
            _cookie_of(headers, self._cookie)
        ):
            raise Refused(401, "web.no_token")
        return True

    def _judge(self, scope: Scope, headers: dict[bytes, str]) -> None:
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not self._house.keys:
            # A page in a browser on this machine must not come here under a name of its own.
            name = host[: host.rfind(":")] if host.rpartition(":")[2].isdigit() else host
            if not is_loopback(name):
                raise Refused(403, "web.foreign", host=host[:100])
            if origin is not None and origin.partition("://")[2].lower() != host.lower():
                raise Refused(403, "web.foreign", host=origin[:100])
        if scope["path"].startswith("/api") and headers.get(b"sec-fetch-site") == "cross-site":
            raise Refused(403, "web.foreign", host=(origin or "-")[:100])
        if scope["method"] not in ("GET", "HEAD") and headers.get(GUARD) != "1":
            raise Refused(403, "web.no_guard")
        length = headers.get(b"content-length", "0")
        if not _is_upload(scope) and length.isdigit() and int(length) > BODY_BYTES:
            raise Refused(413, "web.too_large", limit=BODY_BYTES)


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "PUT" and str(scope["path"]).startswith(UPLOADS)


def _counted(scope: Scope, receive: Any) -> Any:
    """`receive` that ends a body which is larger than its head said, or said nothing."""
    if _is_upload(scope):
        return receive
    size = 0

    async def counted() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > BODY_BYTES:
            raise HTTPException(413)  # the one exception that the framework does not make another of
        return message

    return counted


def _cookie_of(headers: dict[bytes, str], name: str) -> str:
    try:
        found = SimpleCookie(headers.get(b"cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _language(headers: dict[bytes, str]) -> Language:
    """What the page asks for, else what the browser prefers, else the process's own."""
    for wanted in (headers.get(b"x-language", ""), *headers.get(b"accept-language", "").split(",")):
        match wanted.strip()[:2].lower():
            case "zh":
                return "zh"
            case "en":
                return "en"
    return language()


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    """Files may be kept as long as it is asked each time whether they are still the same."""
    return [*HEADERS, (b"cache-control", b"no-store" if path.startswith("/api") else b"no-cache")]


async def _answer(send: Any, path: str, fault: Refused) -> None:
    if path.startswith("/api"):
        body = json.dumps(told([fault.problem], fault.status)[1], ensure_ascii=False)
        kind = b"application/json"
    else:
        body, kind = f"Luthier: {fault.problem}\n", b"text/plain; charset=utf-8"
    extra = [(b"connection", b"close")] if fault.status == 413 else []
    await _respond(send, fault.status, kind, body.encode(), extra)


async def _respond(send: Any, status: int, kind: bytes, body: bytes, extra: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
