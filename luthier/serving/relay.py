"""Another engine behind the same front: requests are judged here, answered there.

What goes in: the address of a server that speaks OpenAI's API on this machine, and how it wants its parameters. What
comes out: routes. What the engine cannot do, or does otherwise than this program does, is refused by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from fastapi import FastAPI, Request

from luthier.serving.front import Desk, Events
from luthier.serving.limits import Limits
from luthier.serving.protocol import ChatRequest, Common, CompletionRequest, NamedTool, refuse
from luthier.serving.routes import add_metrics, document, entry, framed

SEEDS = 2**32 - 1
"""llama.cpp's seeds have 32 bits, the last of which stands for chance."""
NEUTRAL: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
"""What is meant where a request says nothing; llama.cpp's own defaults are others."""


@dataclasses.dataclass(frozen=True)
class Upstream:
    """The server that answers. name: what clients call the model."""

    address: str
    key: str
    name: str


class Relay(Desk):
    """What the routes share."""

    def __init__(self, upstream: Upstream, limits: Limits, *, keyed: bool) -> None:
        super().__init__(limits, lambda: {"running": self._open}, keyed=keyed)
        self.upstream, self._open = upstream, 0
        headers = {"authorization": f"Bearer {upstream.key}"}
        most = httpx2.Limits(max_connections=None)
        self.client = httpx2.AsyncClient(
            base_url=upstream.address, headers=headers, timeout=None, trust_env=False, limits=most
        )

    def asked(self, asked: Common, **changes: Any) -> dict[str, Any]:
        """The request as the engine is to read it."""
        if asked.model != self.upstream.name:
            name = self.upstream.name
            raise refuse("serve.no_model", 404, "model", "model_not_found", model=asked.model[:200], known=name)
        if (asked.n or 1) > 1:
            raise refuse("serve.unsupported", parameter="n", name="n")
        if isinstance(asked, ChatRequest):
            _judge_tools(asked)
        given = asked.model_dump(exclude_none=True, by_alias=True, exclude={"n", "user", "store", "modalities"})
        if "repetition_penalty" in given:
            given["repeat_penalty"] = given.pop("repetition_penalty")
        if asked.seed is not None:
            given["seed"] = asked.seed % SEEDS
        given.pop("max_completion_tokens", None)
        if given.get("logprobs") and not given.get("top_logprobs"):
            given["top_logprobs"] = 1  # for 0 the engine gives none at all, and without a number twenty
        return {**NEUTRAL, **given, **changes}

    @contextlib.asynccontextmanager
    async def posted(self, path: str, body: dict[str, Any]) -> AsyncIterator[httpx2.Response]:
        """An answer that has begun. It is ended there where it is left here."""
        if self._open >= self.limits.queue:
            raise refuse("serve.queue_full", 429)
        self._open += 1
        try:
            async with self.client.stream("POST", path, json=body) as answer:
                if answer.status_code >= 400:
                    raise _fault(answer.status_code, await answer.aread())
                yield answer
        except httpx2.HTTPError as error:
            raise refuse("serve.engine_gone", 503) from error
        finally:
            self._open -= 1

    async def whole(self, path: str, body: dict[str, Any], began: float) -> Any:
        async with self.posted(path, body) as answer:
            made = json.loads(await answer.aread())
        self._tell(made.get("usage"), began)
        return self._told(made, body)

    def _told(self, made: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """As the client is told: under the name that it asked for, with no more
        log-probabilities than it asked for."""
        wanted = body.get("top_logprobs", 0)
        for choice in made.get("choices", ()):
            for token in (choice.get("logprobs") or {}).get("content") or ():
                token["top_logprobs"] = token["top_logprobs"][:wanted]
        return {**made, "model": self.upstream.name}

    async def chunks(self, path: str, body: dict[str, Any], began: float) -> AsyncIterator[dict[str, Any]]:
        first = True
        async with self.posted(path, body) as answer:
            lines = answer.aiter_lines()
            while True:
                try:
                    left_s = max(began + self.limits.time_s - time.monotonic(), 0)
                    line = await asyncio.wait_for(anext(lines), left_s)
                except StopAsyncIteration:
                    raise refuse("serve.engine_gone", 503) from None  # it ends with [DONE]
                except TimeoutError:
                    raise refuse("serve.time_up", 504, limit=self.limits.time_s) from None
                kind, _, text = line.partition(": ")
                if text == "[DONE]":
                    return
                if kind == "error" or '"error"' in text[:12]:
                    raise _fault(500, text.encode())
                if kind == "data":
                    made = json.loads(text)
                    if first:
                        self.metrics.first_token.observe(time.monotonic() - began)
                        first = False
                    if made.get("usage"):
                        self._tell(made["usage"], began)
                    yield self._told(made, body)

    def _tell(self, usage: Any, began: float) -> None:
        self.metrics.seconds.observe(time.monotonic() - began)
        if isinstance(usage, dict):
            self.metrics.prompt_tokens.inc(usage.get("prompt_tokens", 0))
            self.metrics.generated_tokens.inc(usage.get("completion_tokens", 0))


def _judge_tools(asked: ChatRequest) -> None:
    if not asked.tools:
        if asked.tool_choice not in (None, "none"):
            raise refuse("serve.no_tools_given", parameter="tool_choice")
        return
    if isinstance(asked.tool_choice, NamedTool):  # llama.cpp would take it for `auto`
        raise refuse("serve.unsupported", parameter="tool_choice", name="tool_choice.function")
    if asked.response_format and asked.response_format.type != "text" and asked.tool_choice != "none":
        raise refuse("serve.format_with_tools", parameter="response_format")


def _fault(status: int, body: bytes) -> Exception:
    """A refusal of the engine, in its own words; what is its own fault stays in its log."""
    if status >= 500:
        return refuse("serve.internal", 500)
    try:
        reason = str(json.loads(body)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        reason = str(status)
    return refuse("serve.unusable", 400, reason=reason)


def make(relay: Relay) -> FastAPI:
    app = framed()
    _health(app, relay)
    _answers(app, relay)
    document(app)
    return app


def _health(app: FastAPI, relay: Relay) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        try:
            (await relay.client.get("/health")).raise_for_status()
        except httpx2.HTTPError:
            raise refuse("serve.engine_gone", 503) from None
        return {"status": "ok"}

    add_metrics(app, relay.metrics)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [entry(relay.upstream.name, relay.began)]}


def _answers(app: FastAPI, relay: Relay) -> None:
    async def answer(path: str, body: dict[str, Any], asked: Common, request: Request) -> Any:
        began = time.monotonic()
        if asked.stream_options and not asked.stream:
            raise refuse("serve.needs_stream", parameter="stream_options")
        if not asked.stream:
            return await relay.within(request, relay.whole(path, body, began))
        chunks = relay.chunks(path, body, began)
        first = await anext(chunks)  # what is refused, is before the status is out
        return Events(relay, _after(first, chunks))

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        if asked.top_logprobs and not asked.logprobs:
            raise refuse("serve.needs_logprobs", parameter="top_logprobs")
        most = asked.asked_tokens or relay.limits.max_tokens
        return await answer("/v1/chat/completions", relay.asked(asked, max_tokens=most), asked, request)

    @app.post("/v1/completions")
    async def complete(asked: CompletionRequest, request: Request) -> Any:
        if isinstance(asked.prompt, list) and not all(isinstance(each, int) for each in asked.prompt):
            raise refuse("serve.too_many", parameter="prompt", limit=1)
        if asked.logprobs is not None:
            raise refuse("serve.unsupported", parameter="logprobs", name="logprobs")
        body = relay.asked(asked, max_tokens=asked.max_tokens or 16)
        return await answer("/v1/completions", body, asked, request)


async def _after(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    try:
        yield first
        async for each in rest:
            yield each
    finally:
        await rest.aclose()  # type: ignore[attr-defined]
