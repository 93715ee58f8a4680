"""A decoder-only transformer described by data.

A family file turns a Hugging Face `config.json` into a `DecoderSpec` plus the names of its weights in the checkpoint;
the one `Decoder` module (`luthier.models.decoder`) is driven by it, and so is all arithmetic on parameters, bytes and
FLOPs. Torch-free. Lists per layer, so that hybrids are data and not forks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

EMBEDDING = "model.embed_tokens"
FINAL_NORM = "model.norm"
HEAD = "lm_head"
"""Modules of a checkpoint outside its layers."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

    kind: default | linear | dynamic | llama3 | yarn; `scaling` holds the kind's own numbers as (name, value) pairs.
    dim: rotated features per head (<= head_dim). interleaved: pairs (0,1),(2,3).. instead of halves.
    """

    kind: Literal["default", "linear", "llama3", "yarn"]
    theta: float
    dim: int
    interleaved: bool = False
    scaling: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention. `window` counts the keys a query may see, itself included; None is unlimited."""

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: Literal["head", "whole"] | None = None
    """A norm on each head of q and k, or one on all heads together."""
    rope: Rope | None = None
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    """Multiplier of q.k; None is 1/sqrt(head_dim)."""


@dataclass(frozen=True)
class Mlp:
    """Gated MLP: down(act(gate(x)) * up(x)). `width` is the intermediate size."""

    width: int
    act: Literal["silu", "gelu_tanh", "gelu"] = "silu"
    bias: bool = False


class Norms(NamedTuple):
    """Names of a layer's norms in the checkpoint: of what enters attention and the MLP, and of what comes out of them
    before it is added to the residual stream. None where there is no norm."""

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None


IN_FRONT = Norms()
"""As Llama has them."""


@dataclass(frozen=True)
class Layer:
    """residual: what attention and MLP make is multiplied by it before it is added to the residual stream."""

    mixer: Attention
    ffn: Mlp
    norms: Norms = IN_FRONT
    residual: float = 1.0


@dataclass(frozen=True)
class DecoderSpec:
    """d: hidden size; tied: the head shares the embedding matrix; norm_eps: RMSNorm epsilon;
    max_positions: what the checkpoint was trained for; embed_scale: what embeddings are multiplied by, rounded to the
    compute dtype; logit_scale: the same of logits; logit_softcap: logits are cap * tanh(logits / cap);
    norm_plus_one: norms multiply by 1 + weight."""

    family: str
    vocab: int
    d: int
    layers: tuple[Layer, ...]
    tied: bool
    norm_eps: float
    max_positions: int
    initializer_range: float = 0.02
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    norm_plus_one: bool = False

    @property
    def plain(self) -> bool:
        """Whether layers are built as Llama's are: norms in front only, of whole rows or of each head, and nothing
        scaled or capped."""
        plain = (
            layer.norms == IN_FRONT
            and layer.residual == 1
            and layer.mixer.softcap is None
            and layer.mixer.qk_norm != "whole"
            for layer in self.layers
        )
        return all(plain) and not self.norm_plus_one


@dataclass(frozen=True)
class Part:
    """A slice of a unit's output rows that plays one role in the decoder (`q`, `k`, `v`, `o`, `gate`, `up`, `down`)."""

    role: str
    rows: int


@dataclass(frozen=True)
class Unit:
    """One linear module of the checkpoint: the granularity at which adapters attach.

    name: module name in the checkpoint with the layer number filled in, e.g. `model.layers.3.self_attn.q_proj`;
    in_features, out_features; bias: whether the checkpoint has `name + ".bias"`; parts: the roles its rows play
    (one for llama; three for a fused W_pack).
    """

    name: str
    layer: int
    in_features: int
    out_features: int
    bias: bool
    parts: tuple[Part, ...]

    @property
    def short_name(self) -> str:
        """Last dotted component: what users name as a target (`q_proj`)."""
        return self.name.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Architecture:
    """What a family file returns: the spec, its linear units, and the names of all other tensors.

    tensors: every tensor the checkpoint must hold, name -> shape, units' weights and biases included (a tied head is
    not listed). new_ids: tokens that the recipe adds, ascending: with an adapter they have rows of their own beside the
    base's tensors, otherwise `tensors` counts them (`luthier.arch.tokens`). norms: role -> checkpoint name template is
    in the family file; the decoder names its modules as the checkpoint does, so that `state_dict` keys equal checkpoint
    keys.
    """

    spec: DecoderSpec
    units: tuple[Unit, ...]
    tensors: dict[str, tuple[int, ...]]
    new_ids: tuple[int, ...] = ()

    @property
    def num_parameters(self) -> int:
        total = 0
        for shape in self.tensors.values():
            size = 1
            for extent in shape:
                size *= extent
            total += size
        return total
