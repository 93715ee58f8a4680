"""What the routes of every engine have in common: how refusals look, and the OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from luthier.serving.metrics import CONTENT_TYPE, Metrics
from luthier.serving.protocol import Error, Refused, error_of, refuse

VERSION = "1"
"""Of the routes, as in `/v1`."""
STATUSES = (400, 401, 403, 404, 408, 409, 413, 429, 500, 503, 504)
REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": Error} for status in STATUSES}


def framed() -> FastAPI:
    """An application that tells refusals in OpenAI's shape."""
    app = FastAPI(title="Luthier", version=VERSION, docs_url=None, redoc_url=None, responses=REFUSALS)
    for fault, answer in ((Refused, refused), (RequestValidationError, invalid), (HTTPException, unrouted)):
        app.add_exception_handler(fault, answer)
    return app


def entry(name: str, created: int) -> dict[str, Any]:
    """A model in OpenAI's list."""
    return {"id": name, "object": "model", "created": created, "owned_by": "luthier"}


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics", response_class=Response)
    async def page() -> Response:
        return Response(metrics.page(), media_type=CONTENT_TYPE)


def told(fault: Refused, headers: dict[str, str] | None = None) -> JSONResponse:
    if fault.status in (429, 503):
        headers = {"retry-after": "1"}
    return JSONResponse(error_of(fault), fault.status, headers=headers)


async def refused(_: Request, fault: Any) -> Response:
    return told(fault)


async def invalid(_: Request, fault: Any) -> Response:
    """The first thing wrong with a request, by its name."""
    found = fault.errors()[0]
    place = [str(each) for each in found["loc"] if each != "body"]
    name = place[0] if place else None
    if found["type"] == "extra_forbidden":
        return told(refuse("serve.unsupported", parameter=".".join(place), name=".".join(place)))
    return told(refuse("serve.invalid", parameter=name, name=".".join(place) or "body", reason=str(found["msg"])[:300]))


async def unrouted(_: Request, fault: Any) -> Response:
    return told(Refused(fault.status_code, str(fault.detail)), dict(fault.headers or {}))


def document(app: FastAPI) -> None:
    """The OpenAPI document: a wrong request is answered with 400, not with the framework's 422."""
    made = app.openapi()
    for path in made["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["security"] = [{"key": []}, {}]
    made.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)
