"""A stand-in of the hub's side of an upload, for the real client: it keeps what arrives."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub.utils._http as client_http
import pytest
from huggingface_hub import constants

from luthier.config.load import Environment, environment

NAME = "me/tuned"


class Stand(ThreadingHTTPServer):
    """repo: file -> content, None before it is made; stored: LFS objects by sha256; puts: what was sent, in order;
    fail: part of a path -> status; cards: what other models' cards say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo: dict[str, bytes] | None = None
        self.private = True
        self.stored: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.fail: dict[str, int] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.writes = 0


class Handler(BaseHTTPRequestHandler):
    server: Stand
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._take()

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def _take(self) -> None:  # noqa: C901  the interface's paths, one after the other
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.server, self.path
        told = next((status for part, status in hub.fail.items() if part in path), None)
        if told is not None:
            return self._answer(told, {"error": "as told"})
        if self.command == "PUT":
            hub.puts.append(path.rsplit("/", 1)[1])
            hub.stored[path.rsplit("/", 1)[1]] = body
            return self._answer(200, {})
        if path == "/api/validate-yaml":
            bad = "not: [yaml" in json.loads(body)["content"]
            return self._answer(400 if bad else 200, {"errors": [{"message": "bad head"}] * bad, "warnings": []})
        if path.startswith("/api/repos/create"):
            hub.writes += 1
            if hub.repo is not None:
                return self._answer(409, {"error": "exists", "url": f"http://127.0.0.1:{hub.server_address[1]}/{NAME}"})
            hub.repo, hub.private = {}, json.loads(body).get("visibility") == "private"
            return self._answer(200, {"url": f"http://127.0.0.1:{hub.server_address[1]}/{NAME}"})
        if path.startswith("/api/models/") and path.removeprefix("/api/models/") in hub.cards:
            value = {"id": path.removeprefix("/api/models/"), "siblings": [], "tags": []}
            return self._answer(200, {**value, "cardData": hub.cards[value["id"]]})
        if hub.repo is None or NAME not in path.replace(f"/{NAME}.git", f"/{NAME}"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if _large(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                if each["oid"] not in hub.stored:
                    href = f"http://127.0.0.1:{hub.server_address[1]}/put/{each['oid']}"
                    each["actions"] = {"upload": {"href": href}}
            return self._answer(200, {"objects": objects, "transfer": "basic"})
        if "/commit/" in path:
            hub.writes += 1
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.repo[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.repo[value["path"]] = hub.stored[value["oid"]]
            return self._answer(
                200, {"commitUrl": f"http://127.0.0.1:{hub.server_address[1]}/{NAME}/commit/c", "commitOid": "c" * 40}
            )
        siblings: list[dict[str, Any]] = []
        for name, content in hub.repo.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append({"rfilename": name, "size": len(content), "blobId": blob})
            if _large(name):
                sha = hashlib.sha256(content).hexdigest()
                siblings[-1] |= {"blobId": "p", "lfs": {"sha256": sha, "size": len(content), "pointerSize": 1}}
        self._answer(200, {"id": NAME, "sha": "c" * 40, "private": hub.private, "siblings": siblings, "tags": []})

    def _answer(self, status: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _large(name: str) -> bool:
    return name.endswith(".safetensors")


def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    """For a fixture: one that runs, with a token."""
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the LFS way: xet's servers have no stand-in
    monkeypatch.setattr(client_http.time, "sleep", lambda seconds: None)
    with Stand() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def at(stand: Stand) -> Environment:
    return dataclasses.replace(
        environment(), hf_offline=False, hf_endpoint=f"http://127.0.0.1:{stand.server_address[1]}"
    )
