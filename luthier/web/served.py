"""Models that answer: a `luthier serve` for each base, in a process that ends with this one.

What goes in: a model or runs. What comes out: a process that loads them, and says what it is called by, what is wrong
with it, and where it can be asked. Several adapters of one base share its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx2

from luthier.config.load import handed_on
from luthier.errors import Problem, RunError
from luthier.runs.store import RunFolder
from luthier.text import language
from luthier.web.jobs import LOCALES
from luthier.web.refusals import Busy

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+(?=/v1)")
"""In the line by which `luthier serve` says that it answers."""
LOOK_S, LATER_S = 0.1, 0.5
"""Between two looks at a process that is loading, and at one that answers."""
SAID_LINES, SAID_BYTES = 10, 16 * 2**10
END_S = 10.0
"""That a process is given to end by itself; answers under way end with their clients."""
OTHER_PROMPT = "chat.other_template"
"""Why adapters of one base cannot share a process."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to answer. target: a model or a run, as `luthier serve` takes it; runs: whose adapters go on it, the
    target too where it is such a run; base: the same for what can share a process; template: for a model that has
    none."""

    target: str
    runs: tuple[Path, ...]
    base: str
    device: str
    template: str

    @classmethod
    def of(cls, target: RunFolder | str, runs: Sequence[RunFolder], home: Path, device: str, template: str) -> Wanted:
        """Args:
        home: where the path of a model starts from.
        """
        if isinstance(target, RunFolder) and (target.path / "adapter").is_dir():
            runs = [target, *(each for each in runs if each.path != target.path)]
        paths = tuple(each.path for each in runs)
        if isinstance(target, RunFolder):
            base = target.base if target.path in paths else str(target.path)
            return cls(str(target.path), paths, base, device, template)
        local = home / os.path.expanduser(target)
        base = str(local.resolve()) if target != "nano" and os.path.exists(local) else target
        # A run brings its template, and the base along with it.
        first = str(paths[0]) if paths and runs[0].base == base else target
        return cls(first, paths, base, device, template)


class Served:
    """Attributes: voices: what can be asked, as its process calls them; adapters: those of them that are adapters."""

    def __init__(self, wanted: Wanted, home: Path) -> None:
        self.id, self.wanted = secrets.token_hex(6), wanted
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.problems: list[dict[str, Any]] = []
        self.voices: list[str] = []
        self.address, self._key, self._last = "", secrets.token_urlsafe(24), ""
        self._due = [each for each in wanted.runs if str(each) != wanted.target]
        self._names = {path.name: path for path in wanted.runs if str(path) == wanted.target}
        self._loading = asyncio.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="luthier-chat-"))
        (self._folder / "key").write_text(self._key + "\n", encoding="utf-8")
        command = [sys.executable, "-P", "-m", "luthier", "serve", "--json", "--port", "0", "--end-with-stdin"]
        command += ["--grace", "1", "--api-key-file", str(self._folder / "key"), "--device", wanted.device]
        command += ["--template", wanted.template, "--", wanted.target]
        with (self._folder / "out").open("wb") as out, (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=home,
                env=handed_on({"LC_ALL": LOCALES[language()], "PYTHONUTF8": "1"}),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )
        self._watching = asyncio.ensure_future(self._watch())

    @property
    def adapters(self) -> list[str]:
        return [each for each in self.voices if each in self._names]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "target": self.wanted.target,
            "base": next((each for each in self.voices if each not in self._names), None),
            "adapters": self.adapters,
            "voices": self.voices,
            "state": self.state,
            "problems": self.problems,
            "device": self.wanted.device,
            "said": self._said(1) if self.state == "loading" else "",
        }

    # ------------------------------------------------------------------------------------------------ its process

    async def _watch(self) -> None:
        """Until the process has ended: that it answers, then what it is to load besides, then why it ended.

        Its files go with this, even where the server ends before the process does.
        """
        try:
            while self._process.poll() is None:
                found = ADDRESS.search(self._said()) if not self.address else None
                if found is not None:
                    (self._folder / "key").unlink()
                    self.address = found.group()
                    await self._begin()
                await asyncio.sleep(LOOK_S if self.state == "loading" else LATER_S)
            self.state, self.problems, self._last = "failed", self._why(), self._said(SAID_LINES)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _begin(self) -> None:
        try:
            async with self.asking() as client:
                self.voices = [each["id"] for each in _told(await client.get("/v1/models"))["data"]]
        except Busy:
            return  # it has ended, and its log says why
        for run in self._due:  # more may come meanwhile
            try:
                await self._load(run)
            except RunError as error:  # what is there can be asked all the same
                self.problems += [each.to_json() for each in error.problems]
        self.state = "ready"

    def _why(self) -> list[dict[str, Any]]:
        """By its own word, or by its log."""
        try:
            told = json.loads((self._folder / "out").read_text(encoding="utf-8"))
            return list(told["error"]["problems"])
        except (OSError, ValueError, KeyError, TypeError):
            return [Problem("web.chat_ended", values={"lines": self._said(SAID_LINES)}).to_json()]

    def _said(self, lines: int | None = None) -> str:
        """The end of its log."""
        try:
            with (self._folder / "log").open("rb") as log:
                log.seek(max(log.seek(0, 2) - SAID_BYTES, 0))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return text if lines is None else "\n".join(text.strip().splitlines()[-lines:])

    def close(self) -> None:
        """Have it end; it does so too when this process does, however that ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def ended(self) -> None:
        """Once it has; one that does not is killed."""
        try:
            await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------ asking it

    def line(self) -> httpx2.AsyncClient:
        """To its process; whoever takes it closes it."""
        headers = {"authorization": f"Bearer {self._key}"}
        return httpx2.AsyncClient(base_url=self.address, headers=headers, timeout=None, trust_env=False)

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A line to it, for a word or two.

        Raises:
            Busy: it has ended.
        """
        try:
            async with self.line() as client:
                yield client
        except httpx2.HTTPError as error:
            values = {"lines": self._last or self._said(SAID_LINES)}
            raise Busy(Problem("web.chat_ended", value=self.wanted.target, values=values)) from error

    def require(self) -> None:
        """Raises Busy where it cannot be asked, yet or any more."""
        if self.state == "loading":
            raise Busy(Problem("web.chat_loading", value=self.wanted.target))
        if self.state == "failed":
            raise Busy(Problem("web.chat_ended", value=self.wanted.target, values={"lines": self._last}))

    async def load(self, run: Path) -> None:
        """Put a further adapter on, once the process answers.

        Raises:
            Busy: as `require`. Unfit: it cannot be put on this one.
        """
        if self.state == "loading":
            self._due.append(run)
            return
        self.require()
        await self._load(run)

    async def _load(self, run: Path) -> None:
        async with self._loading, self.asking() as client:
            if run.name not in self._names:
                name = _told(await client.post("/v1/adapters", json={"path": str(run)}))["id"]
                self._names[name] = run
                self.voices = [*self.voices, name]

    async def unload(self, name: str) -> None:
        """Raises Unfit where it is no adapter of this one."""
        self.require()
        async with self.asking() as client:
            _told(await client.delete(f"/v1/adapters/{quote(name, safe='')}"))
        self._names.pop(name, None)
        self.voices = [each for each in self.voices if each != name]

    async def mix(self, strengths: Mapping[str, float]) -> str:
        """The voice of adapters with strengths.

        Raises:
            Unfit: one of them is not there.
        """
        self.require()
        async with self.asking() as client:
            return str(_told(await client.post("/v1/mixes", json={"strengths": dict(strengths)}))["id"])


class Unfit(RunError):
    """What the process of a model has refused. code: its word for why."""

    def __init__(self, reason: str, code: str) -> None:
        self.code = code
        super().__init__(Problem("web.chat_refused", values={"reason": reason}))


def _told(answer: httpx2.Response) -> Any:
    if answer.is_success:
        return answer.json()
    error = answer.json()["error"]
    raise Unfit(error["message"], error["code"])
