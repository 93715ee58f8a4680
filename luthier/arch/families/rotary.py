"""Rotary settings of a `config.json`, in both forms that are in use.

What goes in: the fields of a config. What comes out: a `Rope`. transformers 4 wrote `rope_theta` and `rope_scaling`
(whose kind stands under `rope_type` or, older, `type`); transformers 5 writes one object `rope_parameters`. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.arch.families.fields import Fields
from luthier.arch.spec import Rope

DEFAULT_THETA = 10_000.0
"""Base of RoFormer (arXiv 2104.09864), which a config without its own means."""

YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0
"""Defaults of YaRN (Peng et al. 2023, arXiv 2309.00071)."""

KINDS = ("default", "linear", "llama3", "yarn")


def rope(fields: Fields, head_dim: int, max_positions: int) -> Rope:
    """The rotary settings of a model whose heads have `head_dim` features, trained for `max_positions` tokens.

    Unknown kinds, kinds that depend on the length of the text (dynamic, longrope) and rotation of only a part of each
    head are noted as problems by name.
    """
    name = "rope_scaling" if fields.has("rope_scaling") else "rope_parameters"
    given: Any = fields.config.get(name) or {}
    if not isinstance(given, Mapping):
        fields.refuse("models.config_object", name)
        given = {}
    if any(isinstance(value, Mapping) for value in given.values()):
        fields.refuse("models.rope_per_layer", name)
        given = {}
    inner = fields.nested(name, given)
    theta = inner.number("rope_theta") if inner.has("rope_theta") else fields.number("rope_theta", DEFAULT_THETA)
    for owner in (fields, inner):
        if owner.number("partial_rotary_factor", 1.0) != 1.0:
            owner.refuse("models.rope_partial", "partial_rotary_factor")
    if not fields.problems and head_dim % 2:
        fields.refuse("models.head_dim_odd", "head_dim", head_dim=head_dim)
    key = "rope_type" if inner.has("rope_type") else "type"
    kind = given.get(key) or "default"
    original = _original_positions(fields, inner, max_positions)
    if kind == "default":
        return Rope("default", theta, head_dim)
    if kind == "linear":
        return Rope("linear", theta, head_dim, scaling=(("factor", inner.number("factor")),))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        scaling = tuple((each, inner.number(each)) for each in names)
        return Rope("llama3", theta, head_dim, scaling=(*scaling, ("original_max_position_embeddings", original)))
    if kind == "yarn":
        return Rope("yarn", theta, head_dim, scaling=_yarn(inner, max_positions, original))
    inner.refuse("models.rope_kind", key, known=", ".join(KINDS))
    return Rope("default", theta, head_dim)


def _original_positions(fields: Fields, inner: Fields, max_positions: int) -> float:
    """Length the base was trained for before scaling; a top-level field goes before the nested one, as in
    transformers."""
    owner = fields if fields.has("original_max_position_embeddings") else inner
    return float(owner.integer("original_max_position_embeddings", max_positions))


def _yarn(inner: Fields, max_positions: int, original: float) -> tuple[tuple[str, float], ...]:
    """YaRN's numbers with every default filled in; `attention_factor` multiplies cosine and sine."""
    factor = inner.number("factor", max_positions / original)
    if inner.has("attention_factor"):
        attention_factor = inner.number("attention_factor")
    elif inner.has("mscale") and inner.has("mscale_all_dim"):
        attention_factor = _mscale(factor, inner.number("mscale")) / _mscale(factor, inner.number("mscale_all_dim"))
    else:
        attention_factor = _mscale(factor, 1.0)
    return (
        ("factor", factor),
        ("original_max_position_embeddings", original),
        ("beta_fast", inner.number("beta_fast", YARN_BETA_FAST)),
        ("beta_slow", inner.number("beta_slow", YARN_BETA_SLOW)),
        ("truncate", float(inner.flag("truncate", True))),
        ("attention_factor", attention_factor),
    )


def _mscale(factor: float, mscale: float) -> float:
    """YaRN's temperature of attention, equation 22 of the paper in the form of its published code."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
