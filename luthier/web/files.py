"""Files of the folder that the page works in: chosen from, sent, pasted, looked into, fetched.

What goes in: a `House`. What comes out: routes. No path leads out of the home folder or that of the runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import pydantic
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response, StreamingResponse

from luthier import workspace
from luthier.data import peek
from luthier.data.opening import ending
from luthier.data.readers import READERS
from luthier.data.renaming import Renaming
from luthier.errors import Problem, RunError
from luthier.web.answers import Answer
from luthier.web.house import House
from luthier.web.refusals import Missing

UPLOADS = "uploads"
"""Below the home folder."""
UPLOAD_BYTES = 2 * 2**30
"""Of one file. Larger ones are copied rather than sent through a browser; chosen, not tuned."""
MOST_ROWS, MOST_FIRST = 200, 1_000_000
BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}}
NAMES = pydantic.TypeAdapter(dict[str, str])


class Pasted(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=1000)
    text: str = pydantic.Field(min_length=1)


def routes(house: House, most_bytes: int = UPLOAD_BYTES) -> APIRouter:
    """Args:
    most_bytes: of a file that is sent.
    """
    router = APIRouter(tags=["files"], default_response_class=Answer)
    workspace.tidy(house.home / UPLOADS)
    _taken(router, house)
    _sent(router, house, most_bytes)
    return router


# --------------------------------------------------------------------------------------------------- out


def _taken(router: APIRouter, house: House) -> None:
    @router.get("/files")
    def listing(dir: str = ".") -> dict[str, Any]:
        """What a folder below the home folder holds."""
        folder = _there(house, dir)
        if not folder.is_relative_to(house.home):
            raise RunError(Problem("web.outside", value=dir[:200], values={"home": house.home}))
        if not folder.is_dir():
            raise RunError(Problem("web.no_folder", value=dir[:200]))
        try:
            found, whole = workspace.entries(folder, house.home)
        except OSError as error:
            raise _unreadable(dir, error) from error
        return {
            "dir": _path(house, folder),
            "parent": None if folder == house.home else _path(house, folder.parent),
            "entries": [each.__dict__ for each in found],
            "whole": whole,
        }

    @router.get("/files/content")
    def content(
        path: str,
        first: Annotated[int, Query(ge=1, le=MOST_FIRST)] = 1,
        rows: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 20,
        format: str = "auto",
        columns: Annotated[str, Query(description="as in a recipe, in JSON")] = "{}",
        roles: Annotated[str, Query(description="as in a recipe, in JSON")] = "{}",
    ) -> dict[str, Any]:
        """The first rows of a data file, and what they would be read as."""
        file = _there(house, path)
        if not file.is_file():
            raise Missing(Problem("web.no_file", value=path[:200]))
        names = Renaming(_names("columns", columns), _names("roles", roles))
        made = peek.look(file, format, names, first, rows)
        return {"path": _path(house, file), **made.to_json()}

    @router.get("/files/download", response_class=Response)
    def download(path: str) -> Response:
        """A file as it is, or a folder as ZIP."""
        found = _there(house, path)
        name = found.name if found.is_file() else f"{found.name}.zip"
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name, errors='replace')}"}
        if found.is_file():
            return FileResponse(found, media_type="application/octet-stream", headers=headers)
        return StreamingResponse(_pieces(house, found), media_type="application/zip", headers=headers)


def _pieces(house: House, folder: Path) -> Iterator[bytes]:
    roots = (house.home, house.runs_dir)
    return workspace.zipped(folder, lambda path: any(path.resolve().is_relative_to(root) for root in roots))


def _there(house: House, path: str) -> Path:
    """Raises:
    RunError: it lies outside. Missing: there is none, or it is hidden: keys and settings of other programs are.
    """
    found = house.inside(path)
    root = house.home if found.is_relative_to(house.home) else house.runs_dir
    hidden = any(part.startswith(".") for part in found.relative_to(root).parts)
    if hidden or not found.exists():
        raise Missing(Problem("web.no_file", value=path[:200]))
    return found


def _path(house: House, path: Path) -> str:
    """As a recipe says it: from the home folder where it lies below."""
    return path.relative_to(house.home).as_posix() if path.is_relative_to(house.home) else str(path)


def _names(field: str, given: str) -> dict[str, str]:
    try:
        return NAMES.validate_json(given)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise RunError(Problem("web.invalid", field=field, values={"reason": reason})) from error


def _unreadable(path: str, error: OSError) -> RunError:
    values = {"reason": error.strerror or str(error)}
    return RunError(Problem("web.upload_refused", value=path[:200], values=values))


# --------------------------------------------------------------------------------------------------- in


def _sent(router: APIRouter, house: House, most_bytes: int) -> None:
    @router.post("/files/paste")
    def paste(asked: Pasted) -> dict[str, Any]:
        """A new file of pasted text."""
        data = asked.text.encode("utf-8", "replace")
        with workspace.Incoming(house.inside(UPLOADS), _named(asked), most_bytes, len(data)) as file:
            file.write(data)
            return _kept(house, file)

    @router.put("/files/{name:path}", openapi_extra=BODY)
    async def upload(name: str, request: Request) -> Any:
        """The body as it is becomes the file; `name-2.json` where the name is taken."""
        said = request.headers.get("content-length", "")
        announced = int(said) if said.isdecimal() and len(said) < 20 else 0
        with workspace.Incoming(house.inside(UPLOADS), name, most_bytes, announced) as file:
            # What the disk takes long for must not hold up everybody else's requests.
            async for piece in _gathered(request):
                await run_in_threadpool(file.write, piece)
            return await run_in_threadpool(_kept, house, file)


async def _gathered(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a write."""
    held = bytearray()
    async for piece in request.stream():
        held += piece
        if len(held) >= workspace.PIECE_BYTES:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _kept(house: House, file: workspace.Incoming) -> dict[str, Any]:
    return {"path": _path(house, file.keep()), "bytes": file.bytes}


def _named(asked: Pasted) -> str:
    """With an ending that says what the text is; a name without one gets that of JSON, or of plain text."""
    if ending(Path(workspace.safe_name(asked.name))) in READERS:
        return asked.name
    return f"{asked.name}.json" if asked.text.lstrip()[:1] in ("{", "[") else f"{asked.name}.txt"
