"""Qwen1.5, Qwen2 and Qwen2.5: Llama's layout with biases on q, k and v.

What goes in: the `config.json` of a `Qwen2ForCausalLM`. What comes out: its `Architecture`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.arch.families import gated
from luthier.arch.families.fields import Fields
from luthier.arch.spec import Architecture

DEFAULT_WINDOW = 4096
DEFAULT_MAX_WINDOW_LAYERS = 28
DEFAULT_KV_HEADS = 32
DEFAULT_POSITIONS = 32768
"""What transformers means by an absent field; the released files name all four."""
LAYER_TYPES = ("full_attention", "sliding_attention")


def architecture(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Raises ModelError naming every field that cannot be used."""
    fields = Fields(config, where)
    return gated.architecture(
        fields,
        "qwen2",
        gated.Differences(
            default_positions=DEFAULT_POSITIONS,
            qkv_bias=True,
            windows=layer_windows(fields),
            default_kv_heads=DEFAULT_KV_HEADS,
        ),
    )


def layer_windows(fields: Fields) -> tuple[int | None, ...]:
    """The window of each layer.

    `use_sliding_window: false` (as in every released file) means none, whatever else is set. Otherwise `layer_types`
    says which layers slide, and without it those from `max_window_layers` on do: the name notwithstanding, it counts
    the lower layers that do *not*.
    """
    count = gated.num_layers(fields)
    if not fields.flag("use_sliding_window"):
        return (None,) * count
    window = fields.integer("sliding_window", DEFAULT_WINDOW)
    first = fields.integer("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS, least=0)
    return listed_windows(fields, window, tuple(window if index >= first else None for index in range(count)))


def listed_windows(fields: Fields, window: int, otherwise: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The window of each layer as `layer_types` has it; `otherwise` where the file has none."""
    count = gated.num_layers(fields)
    if not fields.has("layer_types"):
        return otherwise
    types = fields.config["layer_types"]
    if not isinstance(types, list) or len(types) != count or any(each not in LAYER_TYPES for each in types):
        fields.refuse("models.layer_types", "layer_types", count=count, known=", ".join(LAYER_TYPES))
        return (None,) * count
    return tuple(window if each == "sliding_attention" else None for each in types)
