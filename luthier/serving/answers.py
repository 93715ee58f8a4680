"""Requests to answers: prompts, sampling, and the text, tool calls and log-probabilities of what comes back.

What goes in: checked requests, and the engine. What comes out: `Answering`, whose choices are events in the order in
which they are written, whole or as they come.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from luthier.errors import UserError
from luthier.sampling import Chosen, Sampling
from luthier.serving.engine import End, Engine, Full, Job, Piece
from luthier.serving.guide import Form, Guide
from luthier.serving.limits import Limits
from luthier.serving.protocol import AsSchema, AsText, ChatRequest, Common, CompletionRequest, NamedTool, as_ids, refuse
from luthier.serving.tools import KEYS, MARKERS, Begun, Event, More, Parser, style_of
from luthier.serving.voices import Voices
from luthier.session import chat_of

OBJECT = {"type": "object"}
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""Of a function whose parameters are left out, by OpenAI's reference."""


@dataclasses.dataclass(frozen=True)
class Answering:
    """prompt_tokens: of all prompts, each counted once; style: how tool calls are told, None where none are offered."""

    jobs: list[Job]
    prompt_tokens: int
    style: Any = None


class Answers:
    """Makes jobs of requests. Prompts are rendered on a thread of their own: the event loop keeps answering."""

    def __init__(self, voices: Voices, engine: Engine, limits: Limits) -> None:
        self.voices, self.engine, self._limits = voices, engine, limits
        self._renderer = voices.session.renderer
        self._context = int(voices.session.decoder.spec.max_positions)
        self._width = int(voices.session.decoder.spec.vocab)
        self._aside = ThreadPoolExecutor(1, "luthier-render")
        self.style = style_of(self._renderer.template_source)

    def adapter(self, model: str) -> str | None:
        try:
            return self.voices.names[model]
        except KeyError:
            known = ", ".join(self.voices.names)
            raise refuse("serve.no_model", 404, "model", "model_not_found", model=model[:200], known=known) from None

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._aside, function, *arguments)

    # ------------------------------------------------------------------------------------------------ requests

    async def chat(self, asked: ChatRequest) -> Answering:
        self._judge(asked)
        style = self._style(asked)
        if asked.top_logprobs and not asked.logprobs:
            raise refuse("serve.needs_logprobs", parameter="top_logprobs")
        prompt = await self.aside(self._chat_prompt, asked, style is not None)
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        if asked.logprobs:
            await self.aside(lambda: self.guide)  # its first time is slow
        allowed = await self.aside(self._allowed, asked, style)
        markers = (
            frozenset(
                each for text in MARKERS.get(style, ()) if (each := self._renderer.vocabulary.single(text)) is not None
            )
            if style
            else frozenset()
        )
        jobs = self._submit(asked, [prompt], asked.asked_tokens, logprobs, markers=markers, allowed=allowed)
        return Answering(jobs, len(prompt), style)

    async def complete(self, asked: CompletionRequest) -> Answering:
        self._judge(asked)
        prompts = await self.aside(self.ids_of, asked.prompt, "prompt")
        jobs = self._submit(asked, prompts, asked.asked_tokens, asked.logprobs)
        return Answering(jobs, sum(map(len, prompts)))

    def _judge(self, asked: Common) -> None:
        """What is told before anything is computed."""
        self.adapter(asked.model)
        if asked.stream_options and not asked.stream:
            raise refuse("serve.needs_stream", parameter="stream_options")

    def _style(self, asked: ChatRequest) -> Any:
        if not asked.tools:
            if asked.tool_choice not in (None, "none"):
                raise refuse("serve.no_tools_given", parameter="tool_choice")
            return None
        if asked.tool_choice == "none":
            return None
        if self.style is None:
            raise refuse("serve.no_tools", parameter="tools")
        named = asked.tool_choice.function.name if isinstance(asked.tool_choice, NamedTool) else None
        if named is not None and named not in (each.function.name for each in asked.tools):
            raise refuse("serve.no_such_tool", parameter="tool_choice", name=named[:200])
        return self.style

    def _chat_prompt(self, asked: ChatRequest, with_tools: bool) -> list[int]:
        messages = [
            {name: value for name, value in each.model_dump(exclude_none=True).items() if name != "annotations"}
            for each in asked.messages
        ]
        row: dict[str, Any] = {"messages": messages}
        if with_tools:
            row["tools"] = [each.model_dump(exclude_none=True) for each in asked.tools or []]
        for each in messages:
            if "content" not in each and "tool_calls" not in each:
                raise refuse("serve.no_content", parameter="messages")
        try:
            chat = chat_of(row)
            return self._renderer.prompt(chat.messages, chat.tools)
        except UserError as error:
            problem = error.problems[0]
            # Where and field, if any, are of the request: `messages[3].content`.
            raise refuse("serve.unusable", parameter="messages", reason=str(problem)) from error

    def ids_of(self, given: Any, parameter: str) -> list[list[int]]:
        """Texts or ids, one or several, as ids that the model can read."""
        made = as_ids(given, self._renderer.prompt_text, parameter, self._limits.choices)
        for ids in made:
            if not ids:
                raise refuse("serve.empty_prompt", parameter=parameter)
            if not all(0 <= each < self._width for each in ids):
                raise refuse("serve.no_token", parameter=parameter, size=self._width)
            if len(ids) > self._context:
                raise refuse(
                    "serve.too_long", 400, parameter, "context_length_exceeded", tokens=len(ids), limit=self._context
                )
        return made

    def _allowed(self, asked: ChatRequest, style: Any) -> Callable[[], Any]:
        """What holds an answer to a format, to calls, or to either; nothing where it is free."""
        wanted, choice = asked.response_format, asked.tool_choice
        must_call = style is not None and choice not in (None, "auto")
        formed = wanted is not None and not isinstance(wanted, AsText)
        if not formed and not must_call:
            return lambda: None
        guide = self.guide
        if guide is None:
            raise refuse("serve.no_guide", parameter="tool_choice" if must_call else "response_format")
        schema = wanted.json_schema.schema_ if isinstance(wanted, AsSchema) else OBJECT
        if style is None:
            return guide.follow(schema)
        if not must_call and style != "hermes":
            raise refuse("serve.format_with_tools", parameter="response_format")
        named = choice.function.name if isinstance(choice, NamedTool) else None
        tools = [each.function for each in asked.tools or [] if named in (None, each.function.name)]
        opening = MARKERS[style] if style == "hermes" else ("", "")
        form = Form(opening[0], opening[1], KEYS[style], several=named is None and style == "hermes")
        return guide.call(
            [(each.name, each.parameters or NO_PARAMETERS) for each in tools], form, None if must_call else schema
        )

    @functools.cached_property
    def guide(self) -> Guide | None:
        """None where the library cannot read the tokenizer."""
        try:
            return Guide(self._renderer.vocabulary, self._renderer.stop_ids, self._width)
        except ValueError:
            return None

    def _submit(
        self,
        asked: Common,
        prompts: Sequence[list[int]],
        max_tokens: int | None,
        logprobs: int | None,
        *,
        markers: frozenset[int] = frozenset(),
        allowed: Callable[[], Any] = lambda: None,
    ) -> list[Job]:
        parameter = "messages" if isinstance(asked, ChatRequest) else "prompt"
        longest, n = max(map(len, prompts)), asked.n or 1
        if not longest:
            raise refuse("serve.empty_prompt", parameter=parameter)
        limit = min(self._context, self.engine.cache_tokens)
        room = limit - longest
        if room < (max_tokens or 1):
            values = {"tokens": longest + (max_tokens or 1), "limit": limit}
            raise refuse("serve.too_long", 400, parameter, "context_length_exceeded", **values)
        if n * len(prompts) > self._limits.choices:
            raise refuse("serve.too_many", parameter="n", limit=self._limits.choices)
        seed = asked.seed % 2**63 if asked.seed is not None else secrets.randbits(62)
        sampling = Sampling(
            max_tokens or min(room, self._limits.max_tokens),
            asked.temperature or 0.0,
            1.0 if asked.top_p is None else asked.top_p,
            asked.top_k or 0,
            1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
            min_p=asked.min_p or 0.0,
            logprobs=logprobs,
        )
        each = [dataclasses.replace(sampling, seed=(seed + place) % 2**63) for _ in prompts for place in range(n)]
        try:
            return self.engine.submit(
                [prompt for prompt in prompts for _ in range(n)],
                each,
                adapter=self.adapter(asked.model),  # it may have been unloaded while the prompt was made
                stops=asked.stops,
                markers=markers,
                allowed=allowed,
            )
        except Full:
            raise refuse("serve.queue_full", 429) from None

    # ------------------------------------------------------------------------------------------------ tokens

    def token_text(self, token: int) -> str:
        return self._renderer.vocabulary.decode([token], skip_special=False)

    def chat_logprob(self, chosen: Chosen) -> dict[str, Any]:
        top = [self._logprob(identity, value) for identity, value in chosen.top]
        return {**self._logprob(chosen.id, chosen.logprob), "top_logprobs": top}

    def _logprob(self, token: int, value: float | None) -> dict[str, Any]:
        guide = self.guide
        return {"token": self.token_text(token), "logprob": value, "bytes": guide and guide.bytes_of(token)}


async def events_of(jobs: Sequence[Job], until: float) -> AsyncIterator[tuple[int, Piece | End] | None]:
    """What all choices write, as it comes; None where they are not done by then, by the monotonic clock. Raises Refused
    where one failed."""
    waiting = {asyncio.ensure_future(job.events.get()): index for index, job in enumerate(jobs)}
    try:
        while waiting:
            left_s = max(until - time.monotonic(), 0)
            done, _ = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
                return
            for task in sorted(done, key=lambda each: waiting[each]):
                index, event = waiting.pop(task), task.result()
                if isinstance(event, End) and event.reason in ("failed", "cancelled"):
                    raise refuse("serve.internal", 500)
                yield index, event
                if not isinstance(event, End):
                    waiting[asyncio.ensure_future(jobs[index].events.get())] = index
    finally:
        for task in waiting:
            task.cancel()


class Voice:
    """One choice of a chat being written: text and calls in OpenAI's deltas."""

    def __init__(self, style: Any) -> None:
        self._parser = Parser(style) if style else None
        self.calls = 0

    def push(self, text: str) -> list[dict[str, Any]]:
        return self._deltas(self._parser.push(text) if self._parser else [text])

    def finish(self, text: str) -> list[dict[str, Any]]:
        return self._deltas([*self._parser.push(text), *self._parser.flush()] if self._parser else [text])

    def _deltas(self, parts: Sequence[Event]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, Begun):
                function = {"name": part.name, "arguments": ""}
                call = {"index": self.calls, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
                made.append({"tool_calls": [{**call, "function": function}]})
                self.calls += 1
            elif isinstance(part, More):
                made.append({"tool_calls": [{"index": self.calls - 1, "function": {"arguments": part.text}}]})
            elif part:
                made.append({"content": part})
        return made

    def reason(self, reason: str) -> str:
        return "tool_calls" if self.calls and reason == "stop" else reason
