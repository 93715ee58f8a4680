"""The model in one screen of plain words: its parts, their shapes, and which of them train.

What goes in: an `Architecture` and the recipe's tuning kind. What comes out: lines of text, in the reader's language,
with layers that are alike drawn once and the trainable share at the end. Torch-free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.arch.count import AnyTune, count, saved_modules, select_units, trained_tensors
from luthier.arch.spec import EMBEDDING, FINAL_NORM, HEAD, Architecture, Attention, Layer, Mlp
from luthier.arch.tokens import token_modules
from luthier.config.schema import Lora
from luthier.text import say

MAX_KINDS = 3
"""Kinds of layer drawn in full: three of eleven lines each, with the rest, still fit a screen of 40 lines."""
MAX_RANGES = 6
"""Ranges of layer numbers named in one line."""


@dataclass(frozen=True)
class _Row:
    """One module of a layer: name without the layer's prefix, shape, and what happens to it."""

    name: str
    shape: tuple[int, ...]
    state: str


def structure(arch: Architecture, tune: AnyTune) -> list[str]:
    """The lines printed at the start of a run.

    Raises:
        ModelError: the tuning kind asks for modules or layers that the model does not have.
    """
    spec, states = arch.spec, _states(arch, tune)
    lines = [say("models.structure_model", family=spec.family, layers=len(spec.layers), width=spec.d, vocab=spec.vocab)]
    lines.append(_line(1, _Row("embed_tokens", arch.tensors[EMBEDDING + ".weight"], states[EMBEDDING])))
    kinds: dict[tuple[Layer, tuple[_Row, ...]], list[int]] = {}
    for index, layer in enumerate(spec.layers):
        kinds.setdefault((layer, _rows(arch, states, index)), []).append(index)
    for (layer, rows), indices in list(kinds.items())[:MAX_KINDS]:
        lines.append("  " + say("models.structure_layers", layers=_ranges(indices), count=len(indices)))
        lines += _layer_lines(layer, rows)
    hidden = list(kinds.values())[MAX_KINDS:]
    if hidden:
        lines.append("  " + say("models.structure_more", kinds=len(hidden), count=sum(map(len, hidden))))
    lines.append(_line(1, _Row("norm", arch.tensors[FINAL_NORM + ".weight"], states[FINAL_NORM])))
    head = _Row("lm_head", arch.tensors[EMBEDDING + ".weight"], "")
    shared = say("models.structure_shared")
    lines.append(_line(1, _Row(head.name, head.shape, shared if spec.tied else states[HEAD])))
    counts = count(arch, tune)
    lines.append(
        say(
            "models.structure_counts",
            trainable=f"{counts.trainable:,}",
            total=f"{counts.total:,}",
            percent=f"{counts.percent:.4g}",
        )
    )
    return lines


def _states(arch: Architecture, tune: AnyTune) -> dict[str, str]:
    """Module name -> frozen, trained, or its adapter."""
    trained = trained_tensors(arch, tune)
    whole = say("models.structure_trained")
    states = {
        name.rpartition(".")[0]: whole if name in trained else say("models.structure_frozen") for name in arch.tensors
    }
    if isinstance(tune, Lora):
        for unit, rank, alpha in select_units(arch, tune):
            parameters = rank * (unit.in_features + unit.out_features)
            states[unit.name] = say(
                "models.structure_adapter", rank=rank, alpha=f"{alpha:g}", parameters=f"{parameters:,}"
            )
        for name in token_modules(arch) if arch.new_ids else ():
            states[name] = say("models.structure_tokens", count=len(arch.new_ids))
        for name in saved_modules(arch, tune):
            states[name] = say("models.structure_saved")
    return states


def _rows(arch: Architecture, states: dict[str, str], index: int) -> tuple[_Row, ...]:
    prefix = f"model.layers.{index}."
    return tuple(
        _Row(module.removeprefix(prefix), arch.tensors[module + ".weight"], state)
        for module, state in states.items()
        if module.startswith(prefix)
    )


def _layer_lines(layer: Layer, rows: tuple[_Row, ...]) -> list[str]:
    attention = [row for row in rows if row.name.startswith("self_attn.")]
    mlp = [row for row in rows if row.name.startswith("mlp.")]
    norms = [row for row in rows if row not in attention and row not in mlp]
    lines = ["    " + _attention_text(layer.mixer), *(_line(3, row) for row in attention)]
    lines += ["    " + _mlp_text(layer.ffn), *(_line(3, row) for row in mlp)]
    return [*lines, *(_line(2, row) for row in norms)]


def _attention_text(mixer: Attention) -> str:
    text = say("models.structure_attention", heads=mixer.heads, dim=mixer.head_dim, kv_heads=mixer.kv_heads)
    window = say("models.structure_window", window=mixer.window) if mixer.window is not None else ""
    return text + window + (say("models.structure_bias") if mixer.qkv_bias or mixer.o_bias else "")


def _mlp_text(ffn: Mlp) -> str:
    return say("models.structure_mlp", act=ffn.act, width=ffn.width) + (
        say("models.structure_bias") if ffn.bias else ""
    )


def _line(depth: int, row: _Row) -> str:
    name = "  " * depth + row.name.rsplit(".", 1)[-1]
    shape = " x ".join(f"{extent:,}" for extent in row.shape)
    return f"{name:<32}{shape:>18}{math.prod(row.shape):>15,}  {row.state}"


def _ranges(indices: list[int]) -> str:
    """0, 1, 2, 5 -> `0-2, 5`; many ranges end in `...`."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in ranges[:MAX_RANGES]]
    return ", ".join(shown) + (", ..." if len(ranges) > MAX_RANGES else "")
