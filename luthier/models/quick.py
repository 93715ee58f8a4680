"""A decoder's layers for one new token of each sequence on a CPU, with as few operations as there can be.

What goes in: the layers' modules; then rows, and where each lies in the cache. What comes out: the residual stream
after the last layer, as the layers themselves give it, up to rounding. Projections of one input are one product,
whatever lies between products is one compiled call (`luthier.kernels.step`), and what does not change from token to
token is looked up once. With the layers' own operations a model of 135M parameters spends more than half of a token on
their starts.

Shape legend: B rows, one new token of each sequence; D hidden, I in, O out of all projections of an input, E features
per head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from luthier.arch.spec import DecoderSpec
from luthier.arch.spec import Layer as LayerSpec
from luthier.kernels import gated, packed, products, rotary, step
from luthier.models.cache import BLOCK
from luthier.models.modules import AdapterLinear, Weighted

Stretches = Sequence[tuple[str, slice]]
"""Adapters and the rows that go through each."""


class Where(NamedTuple):
    """What a pass shares among its layers. rooms: of each layer, where its keys and values lie."""

    round: step.Round
    positions_B: Tensor
    rooms: Sequence[tuple[int, int]]
    stretches: Stretches


class Joint:
    """Projections of one input, side by side."""

    def __init__(self, units: Sequence[AdapterLinear]) -> None:
        self.units = tuple(units)
        self._bias_O: Tensor | None = None
        self._packed: Tensor | None = None

    @property
    def is_packed(self) -> bool:
        return self._packed is not None

    def pack(self) -> None:
        """Lay them out for few rows, as one."""
        self._packed = packed.pack(torch.cat([unit.weight.detach() for unit in self.units]))
        if any(unit.bias is not None for unit in self.units):
            biases = [
                unit.weight.new_zeros(len(unit.weight)) if unit.bias is None else unit.bias for unit in self.units
            ]
            self._bias_O = torch.cat([each.detach() for each in biases])

    def __call__(self, x_BI: Tensor, stretches: Stretches, residual_BO: Tensor | None = None) -> Tensor:
        """[B, O], the residual added."""
        if self._packed is not None:
            y_BO = packed.linear(x_BI, self._packed, self._bias_O, residual_BO)
        elif residual_BO is not None:
            (unit,) = self.units
            y_BO = products.linear(x_BI, unit.weight, unit.bias, residual_BO)
        else:
            y_BO = torch.cat([products.linear(x_BI, unit.weight, unit.bias) for unit in self.units], 1)
        for name, rows in stretches:
            self._adapt(y_BO, x_BI, name, rows)
        return y_BO

    def _adapt(self, y_BO: Tensor, x_BI: Tensor, name: str, rows: slice) -> None:
        column = 0
        for unit in self.units:
            columns = slice(column, column + len(unit.weight))
            column = columns.stop
            if (delta := unit.deltas.get(name)) is not None:
                a_RI, b_OR = delta.ready(x_BI.dtype)
                y_BO[rows, columns].addmm_(x_BI[rows] @ a_RI.T, b_OR.T)


class _Layer:
    """One layer, made ready."""

    def __init__(self, layer: nn.Module, spec: LayerSpec, dtype: torch.dtype, eps: float) -> None:
        def child(path: str) -> nn.Module:
            return layer.get_submodule(path)

        def norm(path: str) -> Tensor:
            return cast(Weighted, child(path)).rounded_for(None, dtype)

        def joint(parent: str, *names: str) -> Joint:
            whole = f"{'_'.join(names) if len(names) == 2 else ''.join(names)}_proj"  # as some checkpoints have them
            own = [whole] if hasattr(child(parent), whole) else [f"{name}_proj" for name in names]
            return Joint([cast(AdapterLinear, child(f"{parent}.{name}")) for name in own])

        self.spec = spec
        self.norm_D, self.mlp_norm_D = (
            step.wide(norm(path)) for path in ("input_layernorm", "post_attention_layernorm")
        )
        qk_norms = (norm("self_attn.q_norm"), norm("self_attn.k_norm")) if spec.mixer.qk_norm else None
        self.mixer = step.Mixer(spec.mixer, dtype, eps, qk_norms)
        self.qkv, self.o = joint("self_attn", "q", "k", "v"), joint("self_attn", "o")
        self.gate_up, self.down = joint("mlp", "gate", "up"), joint("mlp", "down")

    @property
    def joints(self) -> tuple[Joint, ...]:
        return self.qkv, self.o, self.gate_up, self.down


class Quick:
    """The layers of a decoder, made ready as their weights are now. Made by `of`."""

    def __init__(self, layers: Sequence[nn.Module], spec: DecoderSpec, dtype: torch.dtype, does: step.Step) -> None:
        self._does, self._eps, self._dtype = does, spec.norm_eps, dtype
        self._weighted = [each for layer in layers for each in layer.modules() if isinstance(each, Weighted)]
        self._layers = [
            _Layer(layer, each, dtype, spec.norm_eps) for layer, each in zip(layers, spec.layers, strict=True)
        ]
        self._stamp = self._stamped()

    def pack(self, spare_bytes: int) -> int:
        """Lay projections out for few rows as far as memory goes; the bytes that took."""
        used = 0
        for joint in (joint for layer in self._layers for joint in layer.joints if not joint.is_packed):
            size = sum(unit.weight.nbytes for unit in joint.units)
            if used + size > spare_bytes or not packed.can(joint.units[0].weight):
                break
            joint.pack()
            used += size
        return used

    @property
    def stands(self) -> bool:
        """Whether no weight has changed since."""
        return self._stamp == self._stamped()

    def serves(self, adapter: str | None) -> bool:
        """Whether an adapter, where all rows go through it, adds to weights only and has none of its own instead."""
        return adapter is None or not any(adapter in each.copies for each in self._weighted)

    def run(self, h_BD: Tensor, where: Where) -> Tensor:
        """From the embedding to the last layer; keys and values are written to the cache."""
        does, eps, round_ = self._does, self._eps, where.round
        for layer, rooms in zip(self._layers, where.rooms, strict=True):
            told = round_.told(layer.spec.mixer.rope, self._angles(layer.spec, where))
            qkv = layer.qkv(does.norm(h_BD, layer.norm_D, eps), where.stretches)
            attended = does.attend(layer.mixer, told, round_, qkv, rooms)
            h_BD = layer.o(attended, where.stretches, h_BD)
            both = layer.gate_up(does.norm(h_BD, layer.mlp_norm_D, eps), where.stretches)
            h_BD = layer.down(self._gated(both, layer.spec.ffn.act), where.stretches, h_BD)
        return h_BD

    def _gated(self, both: Tensor, act: str) -> Tensor:
        width = both.shape[1] // 2
        return self._does.gate(both) if act == "silu" else gated.forward(both[:, :width], both[:, width:], act)

    def _angles(self, spec: LayerSpec, where: Where) -> Callable[[], tuple[Tensor, Tensor] | None]:
        mixer = spec.mixer
        return lambda: (
            None if mixer.rope is None else rotary.tables(mixer.rope, where.positions_B, mixer.head_dim, self._dtype)
        )

    def _stamped(self) -> list[object]:
        return [each for weighted in self._weighted for each in _stamps(weighted)]


def of(layers: Iterator[nn.Module], spec: DecoderSpec, dtype: torch.dtype, device: torch.device) -> Quick | None:
    """None on a GPU, where nothing was compiled, for layers of another build than Llama's, and where weights are in
    fewer bytes or wait for their first use."""
    if not spec.plain:
        return None
    does = step.of(dtype, BLOCK) if device.type == "cpu" else None
    found = list(layers)
    units = [each for layer in found for each in layer.modules() if isinstance(each, AdapterLinear)]
    if does is None or any(unit.frozen is not None or unit.weight.dtype != dtype for unit in units):
        return None
    return Quick(found, spec, dtype, does)


def _stamps(weighted: Weighted) -> Iterator[object]:
    parameters = weighted._parameters
    for name in ("weight", "bias") if "bias" in parameters else ("weight",):
        if (found := parameters[name]) is not None:
            yield found.data_ptr()
            yield found._version
