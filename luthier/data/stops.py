"""How an answer ends: which token the template puts after it, and whether the model has ever learnt that token.

What goes in: a template's source and the vocabulary. What comes out: the stop token's id, derived by rendering a small
conversation and looking at what follows the answer; a template that ends answers with another token; or a `ModelError`
that says why no model could learn to stop this way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from luthier.data.sandbox import Template, TemplateFault
from luthier.data.vocabulary import Vocabulary
from luthier.errors import ModelError, Problem
from luthier.text import say

EmbeddingRows = Callable[[Sequence[int]], Any]
"""Token ids -> their rows [n, D] of the matrix that scores tokens (the head; the embedding where the two are tied)."""

ANSWER = "A probe for the end of an answer"
PROBE = ({"role": "user", "content": "A probe for the question"}, {"role": "assistant", "content": ANSWER})

SAMPLE = 512
"""Rows that a stop token's row is compared with; their median norm is stable to a few percent. Chosen, not tuned."""
NORM_RATIO = 10.0
"""A row this many times shorter or longer than the median was not trained: weight decay has shrunk it to nothing, or it
still has its first random values. Trained rows lie within a few times of the median. Chosen, not tuned."""


def after_answer(source: str, vocabulary: Vocabulary) -> tuple[int | None, str]:
    """The first control token that the template puts after an answer, and the text that it puts there.

    Control tokens are those outside the learnt vocabulary, and the end-of-text token. (None, ...) where there is none,
    or where the template refuses even a question with its answer; the refusal is reported when real data meets it.
    """
    try:
        text = Template(source, vocabulary.variables).render(PROBE).text
    except TemplateFault:
        return None, ""
    end = text.rfind(ANSWER) + len(ANSWER)
    tokens = vocabulary.encode_many([text])[0]
    for identity in tokens.ids[tokens.at(end, len(text)) :]:
        if identity in vocabulary.added or identity == vocabulary.eos_id:
            return identity, text[end:]
    return None, text[end:]


def opening_tokens(source: str, vocabulary: Vocabulary) -> frozenset[int]:
    """Added tokens that the template itself writes before an answer: its control tokens, whatever they are flagged."""
    try:
        text = Template(source, vocabulary.variables).render(PROBE[:1], generation_prompt=True).text
    except TemplateFault:
        return frozenset()
    return frozenset(vocabulary.ids(text)) & vocabulary.added.keys()


def with_stop_token(source: str, wanted: str, vocabulary: Vocabulary) -> str:
    """The template, changed so that answers end with `wanted`.

    Everything that will ever render for this model reads the changed source, so training and serving agree. Two edits
    are tried: the ending that the template spells out is replaced wherever it stands, and the `eos_token` that the
    template refers to is set to the wanted token.

    Raises:
        ModelError: `wanted` is no single token of the tokenizer, or neither edit makes answers end with it.
    """
    identity = vocabulary.single(wanted)
    if identity is None:
        known = ", ".join(vocabulary.added[i] for i in sorted(vocabulary.special)[:20])
        raise ModelError(
            Problem("templates.stop_unknown", field="data.stop_token", value=wanted, values={"known": known})
        )
    found, ending = after_answer(source, vocabulary)
    spelt = vocabulary.added[found] if found in vocabulary.added else ending.strip()
    # The empty expression keeps Jinja from swallowing a line break at the start of the template.
    setting = f"{{%- set eos_token = {json.dumps(wanted)} %}}{{{{- '' }}}}"
    replaced = source.replace(spelt, wanted) if spelt else source
    for edited in (source, replaced, setting + source, setting + replaced):
        if after_answer(edited, vocabulary)[0] == identity:
            return edited
    raise ModelError(Problem("templates.stop_not_used", field="data.stop_token", value=wanted))


def check_trained(stop: int, vocabulary: Vocabulary, embedding_rows: EmbeddingRows) -> None:
    """Refuse a stop token whose row was never trained: with that row frozen, the model cannot learn to write it.

    Raises:
        ModelError: the row is far shorter or longer than other rows, or the very same as another token's.
    """
    ordinary = [i for i in range(vocabulary.size) if i not in vocabulary.added]
    sample = ordinary[:: max(len(ordinary) // SAMPLE, 1)]
    others = [i for i in sorted(vocabulary.added) if i != stop][:SAMPLE]
    rows = np.asarray(embedding_rows([stop, *sample, *others]), dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1)
    ratio = float(norms[0] / max(float(np.median(norms[1 : 1 + len(sample)])), 1e-30))
    twins = np.flatnonzero((rows[1:] == rows[0]).all(axis=1))
    if 1 / NORM_RATIO <= ratio <= NORM_RATIO and not len(twins):
        return
    if len(twins):
        twin = [*sample, *others][int(twins[0])]
        reason = say("templates.same_row", token=vocabulary.added.get(twin) or vocabulary.decode([twin]))
    else:
        reason = say("templates.odd_norm", ratio=ratio)
    eos = vocabulary.eos_token if vocabulary.eos_id != stop else None
    values = {"reason": reason, "eos": eos or say("templates.another_token")}
    raise ModelError(
        Problem(
            "templates.stop_untrained", field="data.stop_token", value=vocabulary.added.get(stop, ""), values=values
        )
    )
