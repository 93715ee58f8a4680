"""A model that gives a number instead of tokens: a reward.

What goes in: an `Architecture`. What comes out: the same with a scalar head in the place of its own, named as in
transformers' `*ForSequenceClassification`. Torch-free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from luthier.arch.spec import HEAD, Architecture

SCORE = "score"
"""The scalar head: a weight of [1, hidden], applied after the final norm. It starts at 0, and is kept in float32."""
CAUSAL, CLASSIFIES = "ForCausalLM", "ForSequenceClassification"


def valued(arch: Architecture) -> Architecture:
    """With a scalar head. A head of its own for tokens, which nothing asks, goes: classifiers have none."""
    tensors = {name: shape for name, shape in arch.tensors.items() if name != f"{HEAD}.weight"}
    spec = dataclasses.replace(arch.spec, tied=True)
    return dataclasses.replace(arch, spec=spec, tensors={**tensors, f"{SCORE}.weight": (1, arch.spec.d)})


def is_valued(arch: Architecture) -> bool:
    return f"{SCORE}.weight" in arch.tensors


def as_causal(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `config.json` of the language model below one scalar head; None where it describes anything else."""
    classes = config.get("architectures")
    if not isinstance(classes, list) or not classes or not str(classes[0]).endswith(CLASSIFIES):
        return None
    if len(config.get("id2label") or ()) != 1:
        return None
    return {**config, "architectures": [str(classes[0]).removesuffix(CLASSIFIES) + CAUSAL]}


def as_classifier(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers reads as a model with one scalar head."""
    classes = [str(name).replace(CAUSAL, CLASSIFIES) for name in config.get("architectures") or ()]
    return {**config, "architectures": classes, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
