"""Nothing yet."""

from __future__ import annotations

from fastapi import APIRouter

from luthier.web.house import House


def routes(house: House) -> APIRouter:
    return APIRouter()
