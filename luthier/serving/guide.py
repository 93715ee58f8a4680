"""Answers that are JSON, or calls of tools, for certain: which tokens may come next, by llguidance.

What goes in: the renderer's tokenizer, JSON schemas. What comes out: a function from the ids written so far to a mask
over the vocabulary. The one door to llguidance.

Shape legend: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from luthier.data.vocabulary import Vocabulary
from luthier.serving.protocol import refuse

SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python's json writes it. Where white space is free, a model may write it until its limit."""

Allowed = Callable[[Sequence[int]], Tensor]


class Form(NamedTuple):
    """How a call is written. opening, closing: its tags, or empty; key: what names the arguments; several: whether more
    than one may come."""

    opening: str
    closing: str
    key: str
    several: bool


class Guide:
    """Made once for a tokenizer; it may be used from any thread."""

    def __init__(self, vocabulary: Vocabulary, stop_ids: Sequence[int], width: int) -> None:
        self._vocabulary = vocabulary
        self._tokenizer = LLTokenizer(vocabulary.to_json(), n_vocab=width, eos_token=list(stop_ids))

    def bytes_of(self, token: int) -> list[int]:
        """The bytes that a token stands for."""
        return list(self._tokenizer.decode_bytes([token]))

    def follow(self, schema: Mapping[str, Any]) -> Callable[[], Allowed]:
        """One function for each answer; the schema is read once.

        Raises Refused where the schema is none, or says what cannot be held to.
        """
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACING)
        except ValueError as error:
            raise refuse("serve.bad_schema", parameter="response_format", reason=str(error)) from error
        return self._follow(grammar, "response_format")

    def call(
        self, functions: Sequence[tuple[str, Mapping[str, Any]]], form: Form, otherwise: Mapping[str, Any] | None
    ) -> Callable[[], Allowed]:
        """Calls of these functions, with the schemas of their arguments; `otherwise`, where it is given, JSON of that
        schema instead.

        Raises Refused as `follow`.
        """
        opening, closing = self._tag(form.opening), self._tag(form.closing)
        inner = " | ".join(f"f{at}" for at in range(len(functions)))
        one = f'{opening} "\\n" inner "\\n" {closing}' if form.opening else "inner"
        calls = 'call ("\\n" call)*' if form.several else "call"
        lines = [f"start: {calls}" + (" | answer" if otherwise is not None else ""), f"call: {one}", f"inner: {inner}"]
        for at, (name, schema) in enumerate(functions):
            head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{form.key}": '
            lines += [f'f{at}: {json.dumps(head, ensure_ascii=False)} a{at} "}}"', f"a{at}: {_embedded(schema)}"]
        if otherwise is not None:
            lines.append(f"answer: {_embedded(otherwise)}")
        try:
            return self._follow(LLMatcher.grammar_from_lark("\n".join(lines)), "tools")
        except ValueError as error:
            raise refuse("serve.bad_schema", parameter="tools", reason=str(error)[:300]) from error

    def _tag(self, text: str) -> str:
        """A tag in a grammar: the token that it is, where the library takes it for no text."""
        token = self._vocabulary.single(text) if text else None
        alone = token is not None and self._tokenizer.is_special_token(token)
        return text if alone else json.dumps(text)

    def _follow(self, grammar: str, parameter: str) -> Callable[[], Allowed]:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise refuse("serve.bad_schema", parameter=parameter, reason=matcher.get_error().splitlines()[0][:300])
        return lambda: _allowed(matcher.deep_copy())


def _embedded(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': SPACING})}"


def _allowed(matcher: LLMatcher) -> Allowed:
    taken = 0

    def allowed(ids: Sequence[int]) -> Tensor:
        nonlocal taken
        for token in ids[taken:]:
            matcher.consume_token(token)
        taken = len(ids)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8).bool()

    return allowed
