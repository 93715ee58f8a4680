"""A stand-in for the Hugging Face hub, on the loopback device.

What goes in: repositories as dictionaries of files, and how the server shall misbehave. What comes out: the part of the
hub's HTTP interface that its client uses for downloads (repository info, search, refs, files with ranges, the headers
and error codes), and a log of what was asked.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repo:
    """files: name -> content. refs: branch or tag -> commit. gated: only for `Hub.token_of_reader`. private: looks like
    missing to anyone without a token. tags: of its page, such as `license:mit`."""

    files: dict[str, bytes]
    refs: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    gated: bool = False
    private: bool = False
    tags: list[str] = field(default_factory=list)

    def commit(self, revision: str) -> str | None:
        return revision if revision in self.refs.values() else self.refs.get(revision)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


class Hub:
    """A server that runs while the `with` block does.

    Attributes:
        log: every request, in order.
        cut_after: file name -> bytes after which the connection is closed, every time; cut_once: the first time.
        delay_s: how long each answer is held back.
        status: answer everything with this status, if set.
        corrupt: file names whose content arrives altered.
    """

    KNOWN_TOKENS = ("hf_reader", "hf_stranger")
    READER = "hf_reader"

    def __init__(self, **repos: Repo) -> None:
        self.repos = {name.replace("__", "/"): repo for name, repo in repos.items()}
        self.log: list[Request] = []
        self.cut_after: dict[str, int] = {}
        self.cut_once: dict[str, int] = {}
        self.delay_s = 0.0
        self.status: int | None = None
        self.corrupt: set[str] = set()
        hub = self

        class Handler(_Handler):
            def handle_one_request(self) -> None:
                self.hub = hub
                super().handle_one_request()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def asked(self, part: str, method: str = "GET") -> list[Request]:
        return [each for each in self.log if part in each.path and each.method == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in `Hub.log`."""

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.token = token if scheme == "Bearer" else None
        self.hub.log.append(Request(self.command, path, self.headers.get("Range"), self.token))
        time.sleep(self.hub.delay_s)
        if self.hub.status is not None:
            return self._answer(self.hub.status, {"error": "as told"})
        if self.token is not None and self.token not in Hub.KNOWN_TOKENS:
            return self._answer(
                401, {"error": "bad token"}, {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        if path == "/api/models":
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            found = [
                {"id": name}
                for name in self.hub.repos
                if query.get("search", "") in name and query.get("author", name.split("/")[0]) == name.split("/")[0]
            ]
            return self._answer(200, found)
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        name = "/".join(parts[:2])
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token is None):
            if self.token is None:
                return self._answer(401, {"error": "-"}, {"X-Error-Message": "Invalid username or password."})
            return self._answer(404, {"error": "-"}, {"X-Error-Code": "RepoNotFound"})
        if api:
            return self._api(name, repo, parts[2:])
        return self._file(repo, parts[2:])

    def _api(self, name: str, repo: Repo, rest: list[str]) -> None:
        if rest == ["refs"]:
            branches = [{"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": to} for ref, to in repo.refs.items()]
            return self._answer(200, {"branches": branches, "converts": [], "tags": []})
        commit = repo.commit("/".join(rest[1:]) if rest else "main")
        if commit is None:
            return self._answer(404, {"error": "-"}, {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for filename, content in repo.files.items():
            entry: dict[str, Any] = {"rfilename": filename, "size": len(content), "blobId": _sha(content)[:40]}
            if _is_large(filename):
                entry["lfs"] = {"sha256": _sha(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        self._answer(200, {"id": name, "sha": commit, "siblings": siblings, "tags": repo.tags, "private": repo.private})

    def _file(self, repo: Repo, rest: list[str]) -> None:
        commit, filename = repo.commit(rest[1]), "/".join(rest[2:])
        if commit is None:
            return self._answer(404, {"error": "-"}, {"X-Error-Code": "RevisionNotFound"})
        if repo.gated and self.token != Hub.READER:
            return self._answer(401 if self.token is None else 403, {"error": "-"}, {"X-Error-Code": "GatedRepo"})
        content = repo.files.get(filename)
        if content is None:
            return self._answer(404, {"error": "-"}, {"X-Error-Code": "EntryNotFound"})
        etag = _sha(content) if _is_large(filename) else _sha(content)[:40]
        if filename in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = self.hub.cut_once.pop(filename, self.hub.cut_after.get(filename, len(content)))
        self.wfile.write(content[start:end])
        if end < len(content):
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_large(filename: str) -> bool:
    return filename.endswith((".safetensors", ".bin"))
