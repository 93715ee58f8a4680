"""Sending files to a hub: the real client against a stand-in that keeps what arrives."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.utils._http as client_http
import pytest
from huggingface_hub import constants

from luthier.config.load import Environment, environment
from luthier.errors import ModelError
from luthier.models import hub_upload

NAME = "me/tuned"


class Stand(ThreadingHTTPServer):
    """repo: file -> content, None before it is made; stored: LFS objects by sha256; puts: what was sent, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo: dict[str, bytes] | None = None
        self.private = True
        self.stored: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.fail: dict[str, int] = {}
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
            return self._answer(200, {"errors": [], "warnings": []})
        if path.startswith("/api/repos/create"):
            hub.writes += 1
            if hub.repo is not None:
                return self._answer(409, {"error": "exists", "url": f"http://127.0.0.1:{hub.server_address[1]}/{NAME}"})
            hub.repo, hub.private = {}, json.loads(body).get("visibility") == "private"
            return self._answer(200, {"url": f"http://127.0.0.1:{hub.server_address[1]}/{NAME}"})
        if hub.repo is None:
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


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the LFS way: xet's servers have no stand-in
    monkeypatch.setattr(client_http.time, "sleep", lambda seconds: None)
    with Stand() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {"a.safetensors": b"a" * 100_000, "b.safetensors": b"b" * 100_000, "config.json": b"{}"}
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in made}


def at(stand: Stand) -> Environment:
    return dataclasses.replace(
        environment(), hf_offline=False, hf_endpoint=f"http://127.0.0.1:{stand.server_address[1]}"
    )


def test_looks_first_then_sends_and_knows_what_is_there(stand: Stand, files: dict[str, Path]) -> None:
    planned = hub_upload.look(NAME, files, at(stand))
    assert planned.private is None and set(planned.changes.values()) == {"new"} and stand.writes == 0
    assert hub_upload.send(NAME, files, at(stand), public=False, message="m") == "c" * 40
    assert stand.repo == {name: path.read_bytes() for name, path in files.items()} and stand.private
    files["config.json"].write_bytes(b"[]")
    stand.repo["other.txt"] = b"x"
    planned = hub_upload.look(NAME, files, at(stand))
    assert planned.changes == {"a.safetensors": "same", "b.safetensors": "same", "config.json": "changed"}
    assert planned.others == ("other.txt",) and planned.private


def test_an_interrupted_upload_goes_on(stand: Stand, files: dict[str, Path]) -> None:
    lost = hashlib.sha256(files["b.safetensors"].read_bytes()).hexdigest()
    stand.fail = {f"/put/{lost}": 400}
    with pytest.raises(ModelError, match="not sent again"):
        hub_upload.send(NAME, files, at(stand), public=False, message="m")
    assert stand.repo == {} and len(stand.puts) == 1
    stand.fail = {}
    hub_upload.send(NAME, files, at(stand), public=False, message="m")
    assert len(stand.puts) == 2 and set(stand.repo) == set(files), "what had arrived was not sent again"


@pytest.mark.parametrize(("status", "kind"), [(401, "bad_token"), (403, "forbidden"), (409, "status"), (500, "status")])
def test_refusals_are_named(stand: Stand, files: dict[str, Path], status: int, kind: str) -> None:
    stand.fail = {"/api/models/": status}
    for call in (
        lambda: hub_upload.look(NAME, files, at(stand)),
        lambda: hub_upload.send(NAME, files, at(stand), public=False, message="m"),
    ):
        with pytest.raises(ModelError) as caught:
            call()
        assert caught.value.problems[0].id == f"hub.push_{kind}" and "hf_test" not in str(caught.value)


def test_no_token_no_name_no_network(stand: Stand, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tuned", "me/a b", "a/b/c"):
        with pytest.raises(ModelError, match="cannot be the name"):
            hub_upload.look(name, files, at(stand))
    away = dataclasses.replace(at(stand), hf_endpoint="http://127.0.0.1:9")
    with pytest.raises(ModelError, match="connection"):
        hub_upload.look(NAME, files, away)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        hub_upload.look(NAME, files, dataclasses.replace(at(stand), hf_offline=True))
    monkeypatch.setattr(hub_upload, "get_token", lambda: None)
    with pytest.raises(ModelError, match="needs a token"):
        hub_upload.look(NAME, files, at(stand))
