"""Chat: models that are open, what they answer, and answers that are kept as rows to train on.

What goes in: which model and runs are to answer, and requests in OpenAI's shape. What comes out: the answers of a
`luthier serve` for each base, byte for byte as it gives them.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any, Literal

import httpx2
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from luthier.config import characters
from luthier.data import wellformed
from luthier.data.formats import FORMATS, RowFault
from luthier.errors import DataError, Problem, RunError
from luthier.runs.files import user_errors
from luthier.runs.recipe import safe_name
from luthier.runs.store import RunFolder
from luthier.serving.client import Gone, while_asked
from luthier.web.house import House
from luthier.web.refusals import Busy, Missing
from luthier.web.served import OTHER_PROMPT, Served, Unfit, Wanted

FORMAT_OF = {"sft": "messages", "preference": "preference", "labelled": "labelled"}
"""Kind of row -> the format that training reads it by."""
UPLOADS = "uploads"
PRINTABLE = r"^[^\x00-\x1f]+$"
GONE = 499
"""The status of an answer that nobody waits for, as of other servers."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OpenRequest(Strict):
    target: str = Field(
        max_length=1000, pattern=PRINTABLE, description="A run's name, a model's folder or hub id, or nano."
    )
    adapters: list[str] = Field(default=[], max_length=16, description="Names of runs that tuned an adapter of it.")
    device: str = Field(default="auto", pattern=r"^[a-z0-9:]{1,16}$")
    template: str = Field(
        default="model", max_length=1000, pattern=PRINTABLE, description="For a model that brings no chat template."
    )


class AdapterRequest(Strict):
    run: str


class MixRequest(Strict):
    strengths: dict[str, float] = Field(min_length=1, max_length=16, description="0 is the base, 1 as trained.")


class Turn(Strict):
    role: Literal["system", "user", "assistant"]
    content: str


class RowRequest(Strict):
    """messages: the whole conversation; of a preference all but the answer that is compared."""

    file: str = Field(min_length=1, max_length=200)
    kind: Literal["sft", "preference", "labelled"]
    messages: list[Turn] = Field(min_length=1)
    chosen: str | None = None
    rejected: str | None = None
    label: bool | None = None

    def row(self) -> dict[str, Any]:
        """As training reads it."""
        turns = [each.model_dump() for each in self.messages]
        if self.kind == "preference":
            answers = {"chosen": self.chosen, "rejected": self.rejected}
            return {
                "prompt": turns,
                **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()},
            }
        return {"messages": turns} if self.kind == "sft" else {"messages": turns, "label": self.label}


class Open:
    """Models that are open."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.all: list[Served] = []
        house.on_close.append(self._close)

    def _close(self) -> None:
        for each in self.all:
            each.close()

    def find(self, id: str) -> Served:
        """Raises Missing where it is not open."""
        found = next((each for each in self.all if each.id == id), None)
        if found is None:
            raise Missing(Problem("web.no_chat", value=id[:100]))
        return found

    async def open(self, asked: OpenRequest) -> Served:
        """What is open for the same base already, with the adapters put on; else a new process.

        Raises:
            Missing: there is no such run. Unfit: an adapter does not go on its base.
        """
        runs = [self._house.run(each) for each in asked.adapters]
        wanted = Wanted.of(self._target(asked.target), runs, self._house.home, asked.device, asked.template)
        for each in list(self.all):
            if each.wanted.base != wanted.base or asked.device not in ("auto", each.wanted.device):
                continue
            if each.state == "failed":
                await self.close(each)
                continue
            try:
                for run in wanted.runs:
                    await each.load(run)
                return each
            except Unfit as error:
                if error.code != OTHER_PROMPT:
                    raise
        made = Served(wanted, self._house.home)
        self.all.append(made)
        return made

    def _target(self, name: str) -> RunFolder | str:
        try:
            return self._house.run(name)
        except Missing:
            return name

    async def close(self, served: Served) -> None:
        if served in self.all:
            self.all.remove(served)
        served.close()
        await served.ended()


def routes(house: House) -> APIRouter:
    router, opened = APIRouter(tags=["chat"]), Open(house)

    @router.get("/chat")
    async def listed() -> dict[str, Any]:
        """What is open: the names of its voices, and whether it can be asked."""
        return {"open": [each.to_json() for each in opened.all]}

    @router.post("/chat")
    async def open_one(asked: OpenRequest) -> dict[str, Any]:
        """Load a model or a run; what shares its base with one that is open goes on that."""
        return (await opened.open(asked)).to_json()

    @router.get("/chat/characters")
    def of_user() -> dict[str, Any]:
        """Those of `characters.yaml` in the page's folder."""
        known = characters.known(house.home)
        return {"characters": [each.model_dump(exclude_none=True) for each in known]}

    @router.post("/chat/rows")
    def keep(asked: RowRequest) -> dict[str, Any]:
        """Write a row to train on behind those of a file in `uploads`."""
        return append(house, asked)

    @router.delete("/chat/{id}")
    async def close(id: str) -> dict[str, Any]:
        """End a model's process and free its memory."""
        await opened.close(opened.find(id))
        return {"id": id, "closed": True}

    @router.post("/chat/{id}/adapters")
    async def load(id: str, asked: AdapterRequest) -> dict[str, Any]:
        """Put the adapter of a run on."""
        served = opened.find(id)
        await served.load(house.run(asked.run).path)
        return served.to_json()

    @router.delete("/chat/{id}/adapters/{name}")
    async def unload(id: str, name: str) -> dict[str, Any]:
        """Take an adapter off, once it has finished what it is writing."""
        served = opened.find(id)
        await served.unload(name)
        return served.to_json()

    @router.post("/chat/{id}/mix")
    async def mix(id: str, asked: MixRequest) -> dict[str, Any]:
        """The voice of adapters with strengths; nothing is loaded for it."""
        served = opened.find(id)
        return {"voice": await served.mix(asked.strengths), "voices": served.voices}

    @router.post("/chat/{id}/completions")
    async def complete(id: str, request: Request) -> Response:
        """A chat request of OpenAI's API, with the name of a voice as `model`; streamed or whole, and told apart from
        the page's other answers by its errors, which have OpenAI's shape too."""
        return await relay(opened.find(id), request)

    return router


# ---------------------------------------------------------------------------------------------------- answers


async def relay(served: Served, request: Request) -> Response:
    """What the process of a model answers, as it comes. A client that goes away ends its answer there."""
    served.require()
    body = await request.body()
    line = served.line()
    asked = line.build_request(
        "POST", "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    try:
        answer = await while_asked(request, line.send(asked, stream=True))
    except Gone:
        await line.aclose()
        return Response(status_code=GONE)
    except httpx2.HTTPError as error:
        await line.aclose()
        raise Busy(Problem("web.chat_ended", value=served.wanted.target, values={"lines": "-"})) from error
    return Relayed(line, answer)


class Relayed(StreamingResponse):
    """An answer that comes from elsewhere; the line to there is closed however it ends."""

    def __init__(self, line: httpx2.AsyncClient, answer: httpx2.Response) -> None:
        self._line = line
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        kind = answer.headers.get("content-type", "application/json")
        super().__init__(answer.aiter_raw(), answer.status_code, headers, kind)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except httpx2.HTTPError:
            pass  # it ended in the middle; the page sees that the answer is not whole
        finally:
            await self._line.aclose()


# ---------------------------------------------------------------------------------------------------- rows


def append(house: House, asked: RowRequest) -> dict[str, Any]:
    """Write a row behind those that the file has.

    Raises:
        DataError: training could not read it. RunError: the file holds rows of another kind, or cannot be written.
    """
    path = house.home / UPLOADS / f"{safe_name(asked.file.removesuffix('.jsonl'))}.jsonl"
    row = asked.row()
    try:
        wellformed.parse(FORMATS[FORMAT_OF[asked.kind]].parse, row)
    except RowFault as fault:
        raise DataError(fault.problem(path.name)) from fault
    with user_errors(path):
        path.parent.mkdir(exist_ok=True)
        with open(house.inside(path), "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            held = file.read()
            lines = held.splitlines()
            if lines and _keys(lines[0]) != row.keys():
                raise RunError(Problem("web.rows_of_another_kind", where=path.name))
            torn = b"" if held.endswith(b"\n") or not held else b"\n"
            file.write(torn + json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    return {"path": f"{UPLOADS}/{path.name}", "rows": len(lines) + 1}


def _keys(line: bytes) -> set[str]:
    try:
        return set(json.loads(line))
    except (ValueError, TypeError):
        return set()
