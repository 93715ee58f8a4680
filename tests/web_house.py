"""A page to ask, in this process or over the wire, and a browser to see it with.

What goes in: a folder. What comes out: a `House` in it; a client of its application behind the door; a server on a
thread of this process; Debian's Chromium, where it is installed.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from luthier.serving.door import Keys
from luthier.web.app import make
from luthier.web.door import Door
from luthier.web.house import House
from luthier.web.page import Page

GUARD = {"X-Luthier": "1"}
HERE = "http://127.0.0.1:7860"


def house(folder: Path, base: str = "/", tokens: tuple[str, ...] = ()) -> House:
    """Works in the folder; its runs are below `runs`. Set LUTHIER_CACHE, or call it where `place` is a fixture."""
    return House(folder, folder / "runs", base, Keys(tokens))


def client(of: House, **headers: str) -> TestClient:
    """Asks as the page does, from this machine."""
    door = Door(make(of), of, 7860, io.StringIO())
    return TestClient(door, base_url=HERE, headers={**GUARD, **headers}, raise_server_exceptions=False)


HEAVY = ("torch", "transformers", "tokenizers", "huggingface_hub")
ASKING = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from web_house import HEAVY, client, house
page = client(house(Path.cwd()))
exec(sys.argv[1])
print(json.dumps([name for name in HEAVY if name in sys.modules]))
"""


def heavy_after(code: str) -> list[str]:
    """What of `HEAVY` a process has loaded after code in which `page` is a client for the current folder."""
    done = subprocess.run([sys.executable, "-c", ASKING, code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout))


@contextlib.contextmanager
def server(folder: Path, base: str = "/", tokens: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a server for the folder, on a thread of this process; ends with a slash. The folder is to be the
    current one."""
    page = Page(folder / "runs", ("127.0.0.1", 0), base, tokens, io.StringIO())
    page.start(open_page=False, block=False)
    try:
        yield page.url.partition("?")[0]
    finally:
        page.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, the current one, with a cache and a queue of its own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
