"""The application: routes, the page's own files, and refusals in one shape.

What goes in: a `House`. What comes out: a FastAPI application, to be put behind the door.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from luthier import __version__
from luthier.errors import LuthierError, Problem
from luthier.web import files, orders, recipes, runs, ship, talk
from luthier.web.house import House
from luthier.web.refusals import refusal, told

STATIC = Path(__file__).parent / "static"
BASE = '<base href="/">'
"""Stands in index.html, and is filled in with the path that a proxy puts before the page's."""
ROUTES = (runs.routes, orders.routes, recipes.routes, files.routes, talk.routes, ship.routes)


def make(house: House) -> FastAPI:
    app = FastAPI(title="Luthier", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    for routes in ROUTES:
        app.include_router(routes(house), prefix="/api")
    app.add_exception_handler(LuthierError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _failed)
    app.add_api_route("/", functools.partial(_index, house.base), include_in_schema=False, response_class=HTMLResponse)
    app.mount("/", StaticFiles(directory=STATIC))
    return app


def _index(base: str) -> HTMLResponse:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert BASE in page
    return HTMLResponse(page.replace(BASE, BASE.replace("/", base)))


async def _refused(_: Request, error: Any) -> Response:
    status, body = refusal(error)
    return JSONResponse(body, status)


async def _invalid(_: Request, error: Any) -> Response:
    """Each thing wrong with a request, by its name."""
    problems = []
    for found in error.errors():
        place = ".".join(str(each) for each in found["loc"][1:])
        problems.append(Problem("web.invalid", field=place, values={"reason": str(found["msg"])[:300]}))
    status, body = told(problems, 422)
    return JSONResponse(body, status)


async def _unrouted(request: Request, error: Any) -> Response:
    values = {"status": error.status_code, "reason": str(error.detail)[:300]}
    path = request.url.path.encode("unicode_escape").decode()[:200]
    status, body = told([Problem("web.no_route", value=path, values=values)], error.status_code)
    return JSONResponse(body, status, headers=error.headers)


async def _failed(_: Request, error: Any) -> Response:
    """The framework raises it again afterwards; the door writes it down."""
    status, body = told([Problem("web.internal")], 500)
    return JSONResponse(body, status)
