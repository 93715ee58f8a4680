"""The routes: OpenAI's, and those for adapters, health and figures.

What goes in: a `Front`. What comes out: a FastAPI application.
"""

from __future__ import annotations

import base64
import functools
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import FastAPI, Request

from luthier.errors import UserError
from luthier.sampling import StopTexts
from luthier.serving.answers import Answering, Voice
from luthier.serving.door import is_loopback
from luthier.serving.embeddings import mean_hidden
from luthier.serving.engine import End, Piece
from luthier.serving.front import Events, Front
from luthier.serving.protocol import (
    AdapterRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    MixRequest,
    refuse,
)
from luthier.serving.routes import add_metrics, document, entry, framed

NOT_LOADED = {
    **dict.fromkeys(("chat.no_adapter", "chat.no_voice"), 404),
    **dict.fromkeys(("serve.name_taken", "chat.voice_taken", "chat.other_base", "chat.other_template"), 409),
}
"""Why an adapter is not loaded or mixed -> the status that says so, where the request itself is right."""


def make(front: Front) -> FastAPI:
    app = framed()
    _health(app, front)
    _models(app, front)
    _adapters(app, front)
    _answers(app, front)
    _embeddings(app, front)
    document(app)
    return app


def _health(app: FastAPI, front: Front) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        if not front.engine.alive:
            raise refuse("serve.internal", 500)
        return {"status": "ok"}

    add_metrics(app, front.metrics)


def _models(app: FastAPI, front: Front) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [entry(name, front.began) for name in front.voices.names]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        front.answers.adapter(model)
        return entry(model, front.began)


def _adapters(app: FastAPI, front: Front) -> None:
    def judge(request: Request) -> None:
        """With a key, which the door has seen; or from this machine."""
        if not front.keyed and not is_loopback(request.client.host if request.client else ""):
            raise refuse("serve.not_here", 403)

    @app.post("/v1/adapters")
    async def load(asked: AdapterRequest, request: Request) -> dict[str, Any]:
        judge(request)
        try:
            name = await front.engine.call(lambda: front.voices.load(asked.path, asked.name))
        except UserError as error:
            problem = error.problems[0]
            status = NOT_LOADED.get(problem.id, 400)
            raise refuse("serve.unusable", status, "path", problem.id, reason=str(problem)) from error
        return entry(name, int(time.time()))

    @app.delete("/v1/adapters/{name}")
    async def unload(name: str, request: Request) -> dict[str, Any]:
        judge(request)
        try:
            adapters = await front.engine.call(lambda: front.voices.take_off(name))
        except KeyError:
            known = ", ".join(each for each, adapter in front.voices.names.items() if adapter)
            raise refuse("serve.no_adapter", 404, "name", name=name[:200], known=known or "-") from None
        await front.engine.unload(adapters, lambda: front.voices.remove(name))
        return {"id": name, "object": "model", "deleted": True}

    @app.post("/v1/mixes")
    async def mix(asked: MixRequest, request: Request) -> dict[str, Any]:
        judge(request)
        try:
            name, surplus = await front.engine.call(lambda: front.voices.mix(asked.strengths))
        except UserError as error:
            problem = error.problems[0]
            status = NOT_LOADED.get(problem.id, 400)
            raise refuse("serve.unusable", status, "strengths", problem.id, reason=str(problem)) from error
        for old, adapters in surplus.items():
            # Not waited for: somebody may be speaking with it.
            front.engine.unload(adapters, functools.partial(front.voices.remove, old))
        return entry(name, int(time.time()))


# ---------------------------------------------------------------------------------------------------- answers


def _answers(app: FastAPI, front: Front) -> None:
    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        began = time.monotonic()
        answering = await front.answers.chat(asked)
        head = _head("chatcmpl-", asked.model)
        if asked.stream:
            return Events(front, _chat_chunks(front, asked, answering, head, began), answering.jobs)
        return await front.within(request, _whole_chat(front, asked, answering, head, began), answering.jobs)

    @app.post("/v1/completions")
    async def complete(asked: CompletionRequest, request: Request) -> Any:
        began = time.monotonic()
        answering = await front.answers.complete(asked)
        head = {**_head("cmpl-", asked.model), "object": "text_completion"}
        if asked.stream:
            return Events(front, _text_chunks(front, asked, answering, head, began), answering.jobs)
        return await front.within(request, _whole_text(front, asked, answering, head, began), answering.jobs)


def _head(prefix: str, model: str) -> dict[str, Any]:
    return {"id": prefix + uuid.uuid4().hex, "created": int(time.time()), "model": model}


async def _whole_chat(front: Front, asked: ChatRequest, answering: Answering, head: Any, began: float) -> Any:
    voices = [Voice(answering.style) for _ in answering.jobs]
    messages: list[dict[str, Any]] = [{"role": "assistant", "content": None} for _ in answering.jobs]
    pieces: list[list[Piece]] = [[] for _ in answering.jobs]
    reasons, tokens = [""] * len(answering.jobs), 0
    async for index, event in front.pieces(began, answering):
        ended = isinstance(event, End)
        deltas = voices[index].finish(event.text) if ended else voices[index].push(event.text)
        for delta in deltas:
            if "content" in delta:
                messages[index]["content"] = (messages[index]["content"] or "") + delta["content"]
            else:
                _add_call(messages[index], *delta["tool_calls"])
        if ended:
            reasons[index], tokens = voices[index].reason(event.reason), tokens + event.tokens
        else:
            pieces[index].append(event)
    choices = []
    for index, message in enumerate(messages):
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
        shown = _out(pieces[index], answering.jobs[index].cutter, ended=True)
        content = [front.answers.chat_logprob(each.chosen) for each in shown]
        logprobs = {"content": content, "refusal": None} if asked.logprobs else None
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reasons[index]})
    usage = front.done(began, answering, tokens)
    return {**head, "object": "chat.completion", "choices": choices, "usage": usage}


def _add_call(message: dict[str, Any], delta: dict[str, Any]) -> None:
    calls = message.setdefault("tool_calls", [])
    if "id" in delta:
        calls.append({name: value for name, value in delta.items() if name != "index"})
    else:
        calls[-1]["function"]["arguments"] += delta["function"]["arguments"]


def _out(held: list[Piece], cutter: StopTexts, *, ended: bool) -> list[Piece]:
    """Take those tokens from the list whose text is out: those before what a stop string has cut off or, while the
    answer has not ended, may still cut off."""
    out = [each for each in held if each.start < cutter.shown or (ended and not cutter.ended)]
    del held[: len(out)]
    return out


async def _chat_chunks(
    front: Front, asked: ChatRequest, answering: Answering, head: Any, began: float
) -> AsyncIterator[dict[str, Any]]:
    usage_wanted = bool(asked.stream_options and asked.stream_options.include_usage)
    tail: dict[str, Any] = {"usage": None} if usage_wanted else {}
    voices = [Voice(answering.style) for _ in answering.jobs]
    held: list[list[Piece]] = [[] for _ in answering.jobs]

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**head, "object": "chat.completion.chunk", "choices": [choice], **tail}

    def logprobs_of(index: int, ended: bool) -> Any:
        if not asked.logprobs:
            return None
        out = _out(held[index], answering.jobs[index].cutter, ended=ended)
        return {"content": [front.answers.chat_logprob(each.chosen) for each in out], "refusal": None}

    for index in range(len(answering.jobs)):
        yield chunk(index, {"role": "assistant", "content": ""})
    tokens = 0
    async for index, event in front.pieces(began, answering):
        if isinstance(event, End):
            tokens += event.tokens
            for delta in voices[index].finish(event.text):
                yield chunk(index, delta)
            yield chunk(index, {}, voices[index].reason(event.reason), logprobs_of(index, True))
            continue
        held[index].append(event)
        for delta in voices[index].push(event.text):
            yield chunk(index, delta, None, logprobs_of(index, False))
    usage = front.done(began, answering, tokens)
    if usage_wanted:
        yield {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def _text_logprobs(front: Front, asked: CompletionRequest, pieces: list[Piece]) -> Any:
    if asked.logprobs is None:
        return None
    name = front.answers.token_text
    return {
        "tokens": [name(each.chosen.id) for each in pieces],
        "token_logprobs": [each.chosen.logprob for each in pieces],
        "top_logprobs": [{name(token): value for token, value in each.chosen.top} for each in pieces],
        "text_offset": [each.start for each in pieces],
    }


async def _whole_text(front: Front, asked: CompletionRequest, answering: Answering, head: Any, began: float) -> Any:
    texts = [""] * len(answering.jobs)
    pieces: list[list[Piece]] = [[] for _ in answering.jobs]
    reasons, tokens = [""] * len(answering.jobs), 0
    async for index, event in front.pieces(began, answering):
        texts[index] += event.text
        if isinstance(event, End):
            reasons[index], tokens = event.reason, tokens + event.tokens
        else:
            pieces[index].append(event)
    choices = []
    for index, text in enumerate(texts):
        shown = _out(pieces[index], answering.jobs[index].cutter, ended=True)
        logprobs = _text_logprobs(front, asked, shown)
        choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reasons[index]})
    return {**head, "choices": choices, "usage": front.done(began, answering, tokens)}


async def _text_chunks(
    front: Front, asked: CompletionRequest, answering: Answering, head: Any, began: float
) -> AsyncIterator[dict[str, Any]]:
    usage_wanted = bool(asked.stream_options and asked.stream_options.include_usage)
    tail: dict[str, Any] = {"usage": None} if usage_wanted else {}
    held: list[list[Piece]] = [[] for _ in answering.jobs]
    tokens = 0
    async for index, event in front.pieces(began, answering):
        ended = isinstance(event, End)
        if ended:
            tokens += event.tokens
        else:
            held[index].append(event)
        if not event.text and not ended:
            continue
        logprobs = _text_logprobs(front, asked, _out(held[index], answering.jobs[index].cutter, ended=ended))
        reason = event.reason if ended else None
        choice = {"index": index, "text": event.text, "logprobs": logprobs, "finish_reason": reason}
        yield {**head, "choices": [choice], **tail}
    usage = front.done(began, answering, tokens)
    if usage_wanted:
        yield {**head, "choices": [], "usage": usage}


# ---------------------------------------------------------------------------------------------------- embeddings


def _embeddings(app: FastAPI, front: Front) -> None:
    @app.post("/v1/embeddings")
    async def embed(asked: EmbeddingRequest, request: Request) -> dict[str, Any]:
        """Mean of the final hidden states over a text's tokens, scaled to length 1. The model was not trained for
        this."""
        decoder = front.voices.session.decoder
        front.answers.adapter(asked.model)  # told before anything is computed
        texts = await front.answers.aside(front.answers.ids_of, asked.input, "input")

        async def vector(ids: list[int]) -> list[float]:
            adapter = front.answers.adapter(asked.model)  # it may have been unloaded since
            return (await front.engine.call(functools.partial(mean_hidden, decoder, [ids], adapter)))[0]

        async def each_of() -> list[list[float]]:
            # One text at a time: answers that are being written go on between two of them.
            return [await vector(ids) for ids in texts]

        vectors = await front.within(request, each_of())

        def shown(vector: list[float]) -> Any:
            if asked.encoding_format == "base64":
                return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
            return vector

        data = [{"object": "embedding", "index": i, "embedding": shown(each)} for i, each in enumerate(vectors)]
        count = sum(map(len, texts))
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "model": asked.model, "usage": usage}
