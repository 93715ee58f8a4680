"""The layout that Llama introduced and its relatives share: pre-norm layers with attention and a gated MLP.

What goes in: the fields of a `config.json` and the few points in which the relatives differ. What comes out: the
`Architecture`: spec, units and tensors, named and ordered as transformers writes them. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.arch.families.fields import Fields
from luthier.arch.families.rotary import rope
from luthier.arch.spec import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    IN_FRONT,
    Architecture,
    Attention,
    DecoderSpec,
    Layer,
    Mlp,
    Norms,
    Part,
    Rope,
    Unit,
)

DEFAULT_NORM_EPS = 1e-6
"""What transformers assumes for these families where the file says nothing."""

ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh", "gelu"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass(frozen=True)
class Differences:
    """In what the relatives differ.

    windows: attention window of each layer, or one for all. ropes: rotary embedding of each layer; empty for the
    file's one. fused: whether q, k and v are one module of the checkpoint, and gate and up. act: what to take for the
    activation whatever `hidden_act` says. model: further fields of the `DecoderSpec`. default_*: what an absent field
    means in transformers; None is as many key/value heads as heads, and hidden size / heads.
    """

    default_positions: int

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["head", "whole"] | None = None
    windows: tuple[int | None, ...] | int | None = None
    ropes: tuple[Rope, ...] = ()
    fused: bool = False
    norms: Norms = IN_FRONT
    residual: float = 1.0
    softcap: float | None = None
    scale: float | None = None
    act: Literal["silu", "gelu_tanh", "gelu"] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    default_kv_heads: int | None = None
    default_head_dim: int | None = None
    default_tied: bool = False
    default_eps: float = DEFAULT_NORM_EPS


MOST_LAYERS = 10_000
"""A hundred times those of the largest models."""


def num_layers(fields: Fields) -> int:
    return fields.integer("num_hidden_layers", most=MOST_LAYERS)


def architecture(fields: Fields, family: str, differences: Differences) -> Architecture:
    """Read the common fields and put the architecture together.

    Raises:
        ModelError: fields are missing, malformed or ask for something unknown; all of them in one error.
    """
    _refuse_unsupported(fields)
    count, width = num_layers(fields), fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    kv_heads = _kv_heads(fields, heads, differences.default_kv_heads)
    head_dim = _head_dim(fields, width, heads, differences.default_head_dim)
    max_positions = fields.integer("max_position_embeddings", differences.default_positions)
    ropes = differences.ropes or (rope(fields, head_dim, max_positions),) * count
    act = differences.act or activation(fields)
    ffn = Mlp(fields.integer("intermediate_size"), act, differences.mlp_bias)
    windows = differences.windows if isinstance(differences.windows, tuple) else (differences.windows,) * count
    layers = tuple(
        Layer(
            Attention(
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                qkv_bias=differences.qkv_bias,
                o_bias=differences.o_bias,
                qk_norm=differences.qk_norm,
                rope=rotary,
                window=window,
                softcap=differences.softcap,
                scale=differences.scale,
            ),
            ffn,
            differences.norms,
            differences.residual,
        )
        for window, rotary in zip(windows, ropes, strict=True)
    )
    spec = DecoderSpec(
        family=family,
        vocab=fields.integer("vocab_size"),
        d=width,
        layers=layers,
        tied=fields.flag("tie_word_embeddings", differences.default_tied),
        norm_eps=fields.number("rms_norm_eps", differences.default_eps),
        max_positions=max_positions,
        initializer_range=fields.number("initializer_range", 0.02),
        **differences.model,
    )
    fields.finish()
    return assemble(spec, differences.fused)


def activation(fields: Fields, name: str = "hidden_act") -> Literal["silu", "gelu_tanh", "gelu"]:
    """The activation of the MLP, by the name that transformers has for it."""
    found = fields.config.get(name, "silu")
    if not isinstance(found, str) or found not in ACTIVATIONS:
        fields.refuse("models.activation", name, known=", ".join(ACTIVATIONS))
        return "silu"
    return ACTIVATIONS[found]


def assemble(spec: DecoderSpec, fused: bool = False) -> Architecture:
    """Units and tensors of a spec, in the order in which transformers writes them."""
    units: list[Unit] = []
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING + ".weight": (spec.vocab, spec.d)}
    for index, layer in enumerate(spec.layers):
        prefix, mixer = f"model.layers.{index}.", layer.mixer
        of_attention, of_mlp = _split(_layer_units(spec, layer, index, fused))
        # Where q, k and v are one module, transformers writes the output projection before it.
        for unit in reversed(of_attention) if fused else of_attention:
            tensors.update(_unit_tensors(unit))
        for name, heads in (("q_norm", mixer.heads), ("k_norm", mixer.kv_heads)):
            if mixer.qk_norm is not None:
                shape = (mixer.head_dim * (heads if mixer.qk_norm == "whole" else 1),)
                tensors[f"{prefix}self_attn.{name}.weight"] = shape
        for unit in of_mlp:
            tensors.update(_unit_tensors(unit))
        for norm in filter(None, layer.norms):
            tensors[f"{prefix}{norm}.weight"] = (spec.d,)
        units += (*of_attention, *of_mlp)
    tensors[FINAL_NORM + ".weight"] = (spec.d,)
    if not spec.tied:
        tensors[HEAD + ".weight"] = (spec.vocab, spec.d)
    return Architecture(spec, tuple(units), tensors)


def _refuse_unsupported(fields: Fields) -> None:
    if fields.has("quantization_config"):
        fields.refuse("models.quantized", "quantization_config")
    classes = fields.config.get("architectures")
    if isinstance(classes, list) and classes and not any(str(name).endswith("ForCausalLM") for name in classes):
        fields.refuse("models.not_causal", "architectures")


def _kv_heads(fields: Fields, heads: int, default: int | None) -> int:
    absent = default if "num_key_value_heads" not in fields.config and default is not None else heads
    kv_heads = fields.integer("num_key_value_heads", absent)
    if not fields.problems and heads % kv_heads:
        fields.refuse("models.kv_heads", "num_key_value_heads", heads=heads, kv_heads=kv_heads)
    return kv_heads


def _head_dim(fields: Fields, width: int, heads: int, default: int | None) -> int:
    if default is not None and "head_dim" not in fields.config:
        return default
    if not fields.problems and not fields.has("head_dim") and width % heads:
        fields.refuse("models.heads", "num_attention_heads", width=width)
    return fields.integer("head_dim", max(width // heads, 1))


def _layer_units(spec: DecoderSpec, layer: Layer, index: int, fused: bool) -> Iterator[Unit]:
    for name, units in _joined(_plain_units(spec, layer, index), fused):
        first = units[0]
        parts = tuple(part for unit in units for part in unit.parts)
        outputs = sum(part.rows for part in parts)
        yield Unit(name, index, first.in_features, outputs, first.bias, parts)


def _joined(units: Iterator[Unit], fused: bool) -> Iterator[tuple[str, Sequence[Unit]]]:
    """The units of a layer as the checkpoint has them: q, k and v in one module, and gate and up, or each apart."""
    everything = list(units)
    if not fused:
        yield from ((unit.name, [unit]) for unit in everything)
        return
    q, k, v, o, gate, up, down = everything
    yield q.name.replace("q_proj", "qkv_proj"), (q, k, v)
    yield o.name, [o]
    yield gate.name.replace("gate_proj", "gate_up_proj"), (gate, up)
    yield down.name, [down]


def _plain_units(spec: DecoderSpec, layer: Layer, index: int) -> Iterator[Unit]:
    mixer, ffn, prefix = layer.mixer, layer.ffn, f"model.layers.{index}."
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    for name, role, inputs, outputs, bias in (
        ("self_attn.q_proj", "q", spec.d, query, mixer.qkv_bias),
        ("self_attn.k_proj", "k", spec.d, key, mixer.qkv_bias),
        ("self_attn.v_proj", "v", spec.d, key, mixer.qkv_bias),
        ("self_attn.o_proj", "o", query, spec.d, mixer.o_bias),
        ("mlp.gate_proj", "gate", spec.d, ffn.width, ffn.bias),
        ("mlp.up_proj", "up", spec.d, ffn.width, ffn.bias),
        ("mlp.down_proj", "down", ffn.width, spec.d, ffn.bias),
    ):
        yield Unit(prefix + name, index, inputs, outputs, bias, (Part(role, outputs),))


def _split(units: Iterator[Unit]) -> tuple[list[Unit], list[Unit]]:
    everything = list(units)
    attention = [unit for unit in everything if ".self_attn." in unit.name]
    return attention, everything[len(attention) :]


def _unit_tensors(unit: Unit) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield unit.name + ".weight", (unit.out_features, unit.in_features)
    if unit.bias:
        yield unit.name + ".bias", (unit.out_features,)
