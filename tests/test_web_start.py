"""`luthier ui` as people start it: quick, light, and of no importance to what runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import waiting
import web_written
from web_house import GUARD, place, server

import luthier
from luthier import queue
from luthier.errors import RunError
from luthier.runs import lock
from luthier.runs.store import RunFolder
from luthier.serving import start as serving_start
from luthier.web import page as pages
from luthier.web.tail import Tail

__all__ = ["place"]


class Server:
    """`luthier ui` in a process of its own."""

    def __init__(self, port: int = 0, *more: str) -> None:
        command = [sys.executable, "-m", "luthier", "ui", "--no-open", "--port", str(port), *more]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "http://" in line, line + self.process.stderr.read()
        self.url = line[line.index("http://") :].split()[0]
        self.port = int(self.url.split(":")[2].split("/")[0])
        self.http = httpx.Client(base_url=f"{self.url}api/", headers=GUARD, trust_env=False, timeout=60)

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def post(self, path: str, **body: Any) -> Any:
        return self.http.post(path, json=body).raise_for_status().json()

    def end(self, number: int) -> str:
        """What it said until the end."""
        assert self.process.stderr is not None
        self.process.send_signal(number)
        said = self.process.stderr.read()
        self.process.wait()
        return said


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            each.process.kill()
        each.process.wait()


def test_the_server_loads_neither_torch_nor_transformers(place: Path) -> None:
    """After the page, the state, the lists and the interface's description."""
    code = (
        "import io, sys, urllib.request, luthier\n"
        "page = luthier.ui(port=0, open_page=False, block=False, log=io.StringIO())\n"
        "paths = ('', 'app.js', *map('api/'.__add__, ('state', 'runs', 'jobs', 'openapi.json', 'fields', 'presets')))\n"
        "for path in paths:\n"
        "    assert urllib.request.urlopen(page.url + path).status == 200, path\n"
        "page.close()\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'gguf', 'datasets', 'playwright'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to_also_while_somebody_watches(
    place: Path, servers: list[Server], number: int
) -> None:
    (server,) = servers[:] = [Server()]
    with server.http.stream("GET", "overview") as watched:
        told = watched.iter_lines()
        assert next(told).startswith("data: ")
        assert "ended" in server.end(number)
        assert not any(told), "and the one who watches is told by the line's end"
    assert server.process.returncode == 128 + number


def test_a_port_that_is_taken_is_said(place: Path, servers: list[Server]) -> None:
    servers.append(Server())
    with pytest.raises(RunError) as caught:
        luthier.ui(port=servers[0].port, open_page=False, block=False)
    assert caught.value.problems[0].id == "serve.port"


def test_without_the_extra_it_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_start, "_is_there", lambda name: name != "uvicorn")
    with pytest.raises(RunError) as caught:
        luthier.ui(open_page=False)
    assert caught.value.problems[0].id == "web.no_extra" and "uvicorn" in str(caught.value)


@pytest.mark.parametrize(("display", "opened"), [(":0", True), ("", False)])
def test_a_browser_is_opened_where_there_is_a_screen(
    place: Path, monkeypatch: pytest.MonkeyPatch, display: str, opened: bool
) -> None:
    urls: list[str] = []
    monkeypatch.setattr(pages.webbrowser, "open", urls.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    log = io.StringIO()
    page = luthier.ui(port=0, block=False, log=log)
    page.close()
    page.close()
    assert page.url in log.getvalue()
    assert not opened or waiting.until(lambda: urls == [page.url])
    assert bool(urls) == opened


def test_logs_are_read_before_anybody_asks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web_written.done(place / "runs", "first", steps=20)
    read: list[Tail] = []
    monkeypatch.setattr(Tail, "refresh", lambda self, real=Tail.refresh: read.append(self) or real(self))
    with server(place):
        assert waiting.until(lambda: [each.run.name for each in read if each.is_read] == ["first"])


def test_a_notebook_gets_a_page_and_goes_on(place: Path) -> None:
    before = threading.active_count()
    page = luthier.ui("runs", port=0, open_page=False, block=False, log=io.StringIO())
    assert httpx.get(f"{page.url}api/state", trust_env=False).json()["runs_dir"] == str(place / "runs")
    page.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(page.url, trust_env=False)
    assert waiting.until(lambda: threading.active_count() <= before + 1)
    assert page.ended_by == 0


# ---------------------------------------------------------------------------------------------------- while it trains


ROWS = [{"instruction": f"Say {n}", "output": "one two three"} for n in range(64)]
RECIPE = """
model: nano
data: {train: rows.json, validation: 0.1}
optim: {steps: 60, batch: 4}
run: {name: long, device: cpu}
"""


@pytest.fixture
def nobody_left(place: Path) -> Iterator[None]:
    """What the supervisor has started ends with the test, and so does the supervisor."""
    yield
    for holder in (place / "runs" / "long" / "lock", queue.folder() / "lock"):
        pid = lock.last(holder).get("pid")
        if lock.held(holder) and isinstance(pid, int):
            os.kill(pid, signal.SIGKILL)
    assert waiting.until(lambda: not lock.held(queue.folder() / "lock"))


def events_told(server: Server, after: int, enough: Any) -> list[dict[str, Any]]:
    """Events of the run as a browser has them that reconnects by itself: from its last one on."""
    found: list[dict[str, Any]] = []
    with (
        contextlib.suppress(httpx.HTTPError),
        server.http.stream("GET", "runs/long/events", headers={"Last-Event-ID": str(after)}) as told,
    ):
        for line in told.iter_lines():
            if line.startswith('data: {"format"'):
                found.append(json.loads(line[6:]))
            if line == "event: end" or enough(found):
                break
    return found


def test_the_server_killed_and_started_again_mid_run(place: Path, servers: list[Server], nobody_left: None) -> None:
    """The run goes on, and whoever watches sees its whole history: each event once."""
    (place / "rows.json").write_text(json.dumps(ROWS))
    servers.append(Server())
    assert servers[0].post("runs", recipe=RECIPE, key="one-for-all-time")["name"] == "long"
    seen = events_told(servers[0], 0, lambda found: sum(each["kind"] == "step" for each in found) >= 5)
    servers[0].end(signal.SIGKILL)
    run = RunFolder(place / "runs" / "long")
    at = run.summary().step
    assert run.locked, "it belongs to nobody's terminal"
    assert waiting.until(lambda: run.summary().step > at or not run.locked, 60)
    servers.append(Server(servers[0].port))
    assert servers[1].post("runs", recipe=RECIPE, key="one-for-all-time")["name"] == "long", "a click that was repeated"
    past = servers[1].get("runs/long/history")
    assert past["series"]["step"] == list(range(1, past["steps_total"] + 1))
    seen += events_told(servers[1], seen[-1]["seq"], lambda found: False)
    assert [each["seq"] for each in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["kind"] == "finished" and run.state == "finished"
    assert seen == [each.to_json() for each in run.events()]
    (line,) = servers[1].get("runs")["runs"]
    assert (line["name"], line["state"], line["step"]) == ("long", "finished", 60)
