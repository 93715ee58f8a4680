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
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx2
from fastapi import FastAPI, Request

from luthier.serving.front import Desk, Events
from luthier.serving.limits import Limits
from luthier.serving.protocol import ChatRequest, Common, CompletionRequest, NamedTool, as_ids, refuse
from luthier.serving.routes import add_metrics, document, entry, framed

NEUTRAL: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What is meant where a request says nothing; the engines' own defaults are others."""


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How an engine speaks OpenAI's API. seeds: how many it has; penalty: what it calls a repetition penalty; several:
    whether it takes `n` above 1, several prompts, the function to call by its name, and log-probabilities of
    completions; least_top: of log-probabilities that it is asked for; more: parameters of every request."""

    seeds: int
    penalty: str = "repetition_penalty"
    several: bool = True
    least_top: int = 0
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


LLAMA_CPP = Dialect(
    seeds=2**32 - 1,  # they have 32 bits, the last of which stands for chance
    penalty="repeat_penalty",
    several=False,
    least_top=1,  # for 0 it gives no log-probabilities at all, and without a number twenty
)


@dataclasses.dataclass(frozen=True)
class Upstream:
    """The server that answers. names: what clients call its models; texts: what turns a text into ids, where the
    engine is not to do it by itself; tools: whether its template has tools, where that is known."""

    address: str
    key: str
    names: tuple[str, ...]
    dialect: Dialect = LLAMA_CPP
    texts: Callable[[str], list[int]] | None = None
    tools: bool = True


@dataclasses.dataclass(frozen=True)
class Errand:
    """A request on its way. model: as the client calls it; top: log-probabilities that it asked for; usage: whether a
    stream is to end with the counts of tokens."""

    path: str
    body: dict[str, Any]
    model: str
    began: float
    top: int
    usage: bool


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

    def errand(self, asked: Common, path: str, **changes: Any) -> Errand:
        """The request as the engine is to read it."""
        dialect, names = self.upstream.dialect, self.upstream.names
        if asked.model not in names:
            known = ", ".join(names)
            raise refuse("serve.no_model", 404, "model", "model_not_found", model=asked.model[:200], known=known)
        if (asked.n or 1) > (self.limits.choices if dialect.several else 1):
            raise refuse("serve.unsupported", parameter="n", name="n")
        if asked.stream_options and not asked.stream:
            raise refuse("serve.needs_stream", parameter="stream_options")
        given = asked.model_dump(exclude_none=True, by_alias=True, exclude={"user", "store", "modalities", *changes})
        given = {**NEUTRAL, **given, **dialect.more, **changes}
        given[dialect.penalty] = given.pop("repetition_penalty")
        if asked.seed is not None:
            given["seed"] = asked.seed % dialect.seeds
        given.pop("max_completion_tokens", None)
        top = int(given.get("top_logprobs", 0))
        if isinstance(asked, ChatRequest) and asked.logprobs:
            given["top_logprobs"] = max(top, dialect.least_top)
        if asked.stream:
            given["stream_options"] = {"include_usage": True}  # for the figures
        wanted = bool(asked.stream_options and asked.stream_options.include_usage)
        return Errand(path, given, asked.model, time.monotonic(), top, wanted)

    @contextlib.asynccontextmanager
    async def posted(self, errand: Errand) -> AsyncIterator[httpx2.Response]:
        """An answer that has begun. It is ended there where it is left here."""
        if self._open >= self.limits.queue:
            raise refuse("serve.queue_full", 429)
        self._open += 1
        try:
            async with self.client.stream("POST", errand.path, json=errand.body) as answer:
                if answer.status_code >= 400:
                    raise _fault(answer.status_code, await answer.aread())
                yield answer
        except httpx2.HTTPError as error:
            raise refuse("serve.engine_gone", 503) from error
        finally:
            self._open -= 1

    async def whole(self, errand: Errand) -> Any:
        async with self.posted(errand) as answer:
            made = json.loads(await answer.aread())
        self._tell(made.get("usage"), errand.began)
        return _told(made, errand)

    async def chunks(self, errand: Errand) -> AsyncIterator[dict[str, Any]]:
        first, began = True, errand.began
        async with self.posted(errand) as answer:
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
                    counted = made.get("usage") and not made.get("choices")
                    if counted:
                        self._tell(made["usage"], began)
                    if not errand.usage:
                        made.pop("usage", None)
                    if errand.usage or not counted:
                        yield _told(made, errand)

    def _tell(self, usage: Any, began: float) -> None:
        self.metrics.seconds.observe(time.monotonic() - began)
        if isinstance(usage, dict):
            self.metrics.prompt_tokens.inc(usage.get("prompt_tokens", 0))
            self.metrics.generated_tokens.inc(usage.get("completion_tokens", 0))


def _told(made: dict[str, Any], errand: Errand) -> dict[str, Any]:
    """As the client is told: under the name that it asked for, with no more log-probabilities than it asked for."""
    for choice in made.get("choices", ()):
        for token in (choice.get("logprobs") or {}).get("content") or ():
            token["top_logprobs"] = token["top_logprobs"][: errand.top]
    return {**made, "model": errand.model}


def _judge_chat(asked: ChatRequest, upstream: Upstream) -> None:
    if asked.top_logprobs and not asked.logprobs:
        raise refuse("serve.needs_logprobs", parameter="top_logprobs")
    if not asked.tools:
        if asked.tool_choice not in (None, "none"):
            raise refuse("serve.no_tools_given", parameter="tool_choice")
        return
    if not upstream.tools and asked.tool_choice != "none":
        raise refuse("serve.no_tools", parameter="tools")
    if isinstance(asked.tool_choice, NamedTool) and not upstream.dialect.several:
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
        return {"object": "list", "data": [entry(name, relay.began) for name in relay.upstream.names]}


def _answers(app: FastAPI, relay: Relay) -> None:
    async def answer(errand: Errand, request: Request) -> Any:
        if not errand.body.get("stream"):
            return await relay.within(request, relay.whole(errand))
        chunks = relay.chunks(errand)
        # What is refused, is before the status is out; a client that goes away meanwhile ends it too.
        first = await relay.within(request, anext(chunks, None))
        return Events(relay, _After(first, chunks))

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        _judge_chat(asked, relay.upstream)
        most = asked.asked_tokens or relay.limits.max_tokens
        return await answer(relay.errand(asked, "/v1/chat/completions", max_tokens=most), request)

    @app.post("/v1/completions")
    async def complete(asked: CompletionRequest, request: Request) -> Any:
        upstream = relay.upstream
        if not upstream.dialect.several:
            if isinstance(asked.prompt, list) and not all(isinstance(each, int) for each in asked.prompt):
                raise refuse("serve.too_many", parameter="prompt", limit=1)
            if asked.logprobs is not None:
                raise refuse("serve.unsupported", parameter="logprobs", name="logprobs")
        changes: dict[str, Any] = {"max_tokens": asked.asked_tokens}
        if upstream.texts is not None:
            prompts = changes["prompt"] = as_ids(asked.prompt, upstream.texts, "prompt", relay.limits.choices)
            if not all(prompts):
                raise refuse("serve.empty_prompt", parameter="prompt")
        return await answer(relay.errand(asked, "/v1/completions", **changes), request)


class _After:
    """A stream whose first part is there already; it can be ended before that is read."""

    def __init__(self, first: dict[str, Any] | None, rest: AsyncIterator[dict[str, Any]]) -> None:
        self._first, self._rest = first, rest

    def __aiter__(self) -> _After:
        return self

    async def __anext__(self) -> dict[str, Any]:
        first, self._first = self._first, None
        return first if first is not None else await anext(self._rest)

    async def aclose(self) -> None:
        await self._rest.aclose()  # type: ignore[attr-defined]
