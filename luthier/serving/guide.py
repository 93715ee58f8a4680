"""Answers that are JSON for certain: which tokens may come next, by llguidance.

What goes in: the renderer's tokenizer, a JSON schema. What comes out: a function from the ids written so far to a mask
over the vocabulary. The one door to llguidance.

Shape legend: V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from luthier.data.vocabulary import Vocabulary
from luthier.serving.protocol import refuse

SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python's json writes it. Where white space is free, a model may write it until its limit."""

Allowed = Callable[[Sequence[int]], Tensor]


class Guide:
    """Made once for a tokenizer; it may be used from any thread."""

    def __init__(self, vocabulary: Vocabulary, stop_ids: Sequence[int], width: int) -> None:
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
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise refuse(
                "serve.bad_schema", parameter="response_format", reason=matcher.get_error().splitlines()[0][:300]
            )
        return lambda: _allowed(matcher.deep_copy())


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
