"""The one decoder, driven by data: every family of `luthier.arch` runs through it.

What goes in: an `Architecture`, then flat micro-batches. What comes out: log-probabilities of the scored rows,
differentiable as the method asks, or logits of next tokens with a key/value cache. It computes nothing for rows that
are not scored beyond the last layer's keys and values, nothing across documents, and no gradient below the lowest
trainable weight. A policy per layer says what is kept for the backward pass; no bit of the result depends on it.

    ids ─> embedding ─> [norm q k v rotary ─> attention ─> o + h ─> norm gate up down + h] x L ─> scored rows ─> head

Shape legend: N flat tokens, M scored rows, U distinct rows among them, D hidden, V vocabulary, H heads, K key/value
heads, E features per head, B sequences, T cached tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.arch.spec import Architecture, Attention, DecoderSpec, Rope, Unit
from luthier.arch.spec import Layer as LayerSpec
from luthier.arch.values import SCORE
from luthier.batch import Batch, Ints
from luthier.config.schema import ON_DEVICE, Policy
from luthier.kernels import autograd, divergence, head, rotary, sizes
from luthier.kernels.attention import Attend, Layout
from luthier.kernels.blocks import MlpShape, QkvShape
from luthier.kernels.dropout import Dropout, DropoutKey, site, token_hashes
from luthier.kernels.host import to_device as _to_device
from luthier.kernels.linear import Linear, Weight, split
from luthier.kernels.norm import wide
from luthier.kernels.offload import Mover, Offload, copies
from luthier.kernels.step import Round
from luthier.models import quick
from luthier.models.cache import BLOCK, Cache
from luthier.models.modules import AdapterLinear, Copy, Delta, TokenRows, Weighted
from luthier.models.quick import Quick, Where
from luthier.models.reading import Part, Reading

__all__ = [
    "AdapterLinear",
    "Below",
    "Cache",
    "Copy",
    "Decoder",
    "Delta",
    "DropoutKey",
    "Part",
    "Scores",
    "TokenRows",
    "Want",
    "Weighted",
]

CAPS = frozenset({"prefix", "entropy", "hidden", "cache"})
"""What this model can do: shared prompts (segments with a parent), entropies, hidden states, cached generation."""

SITES = {"q": 0, "k": 0, "v": 0, "o": 1, "gate": 2, "up": 2, "down": 3}
"""Role -> which of a layer's inputs it reads; dropout is drawn once per input."""
SITES_PER_LAYER = 4

Mix = Callable[[int, Tensor, Tensor, Tensor], Sequence[Tensor]]
"""(layer, q, k, v) -> attended values of the queries in consecutive pieces [n, H * E]."""


@dataclass(frozen=True)
class Want:
    """What a method wants of the scored rows.

    mode: how log-probabilities are differentiable, see `luthier.kernels.head`; None wants none. coefficients: [M] of
    linear mode, on the decoder's device. entropy, hidden, value: also return these. lesson: learn from a teacher, see
    `luthier.kernels.divergence`; the coefficients are those of that sum, and `total` is all that is differentiable.
    """

    mode: head.Mode | None = "unit"
    coefficients: Tensor | None = None
    entropy: bool = False
    hidden: bool = False
    value: bool = False
    lesson: divergence.Lesson | None = None


@dataclass(frozen=True)
class Scores:
    """What comes of the M scored rows, in the batch's order.

    logp: float32 [M]; differentiable in modes unit and recompute; empty where none is wanted. total: sum(coefficients *
    logp), differentiable, in linear mode. entropy: float32 [M] in nats, not differentiable. hidden: [M, D] after the
    final norm, differentiable. value: float32 [M], what the scalar head (`luthier.arch.values`) makes of each row,
    differentiable. divergence: float32 [M] in nats, of a lesson.
    """

    logp: Tensor
    total: Tensor | None = None
    entropy: Tensor | None = None
    hidden: Tensor | None = None
    value: Tensor | None = None
    divergence: Tensor | None = None


class Below(NamedTuple):
    """What enters layer `layers`, [N, D], in the batch's order: the layers below need not be computed."""

    layers: int
    h_ND: Tensor


@dataclass
class _Pass:
    """What one forward pass shares among its layers. rows_U: of the last layer, where only some are computed there."""

    positions_N: Tensor
    adapter: str | None
    mix: Mix
    token_N: Tensor | None = None
    dropout: DropoutKey | None = None
    policies: Sequence[Policy] = ()
    rows_U: Tensor | None = None
    offload: Offload | None = None
    below: Below | None = None
    stretches: Sequence[tuple[str, slice]] | None = None
    """Where tokens are generated: the adapters and the rows that go through each."""
    angles: dict[Rope, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def angles_of(self, mixer: Attention, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        if mixer.rope is None:
            return None
        if mixer.rope not in self.angles:
            self.angles[mixer.rope] = rotary.tables(mixer.rope, self.positions_N, mixer.head_dim, dtype)
        return self.angles[mixer.rope]

    def linear(self, unit: AdapterLinear, dtype: torch.dtype) -> Linear:
        if self.stretches is not None:
            return unit.served(self.adapter, self.stretches, dtype)
        return unit.linear(self.adapter)

    def linears(self, units: Sequence[AdapterLinear], dtype: torch.dtype) -> list[Linear]:
        """One for each role that the rows of these play."""
        return [part for unit in units for part in split(self.linear(unit, dtype), unit.parts)]

    def policy(self, index: int) -> Policy:
        return self.policies[index] if self.policies else "keep"

    def drop(self, *projections: AdapterLinear, rows_U: Tensor | None = None) -> Dropout | None:
        """The dropout on the adapters' input, which projections of one input share; of some rows only where given."""
        if self.dropout is None or self.token_N is None:
            return None
        shares = {share for each in projections if (share := each.dropout(self.adapter)) is not None}
        if not shares:
            return None
        assert len(shares) == 1, f"projections that read one input need one dropout, not {sorted(shares)}"
        dropped = site(self.token_N, self.dropout, projections[0].site, shares.pop())
        return dropped if dropped is None or rows_U is None else dropped.at(rows_U)


class _Given(NamedTuple):
    """What the caller says of a forward pass besides its batch."""

    adapter: str | None
    dropout: DropoutKey | None = None
    policies: Sequence[Policy] = ()
    below: Below | None = None


class Layer(nn.Module):
    """Attention and MLP with their norms, each added to the residual stream."""

    def __init__(self, spec: LayerSpec, norm_eps: float, plus_one: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.eps = norm_eps
        self.plus_one = plus_one
        self.self_attn = nn.Module()
        self.mlp = nn.Module()

    def forward(self, index: int, h_ND: Tensor, run: _Pass, rows_U: Tensor | None = None) -> Tensor:
        """[N, D] -> [N, D]; or [U, D], the rows that are asked for, each once."""
        policy = run.policy(index)
        tables = run.angles_of(self.spec.mixer, h_ND.dtype) or ()
        kept, away = ON_DEVICE.get(policy, policy), run.offload if policy in ON_DEVICE else None
        with away.layer(tables) if away is not None else nullcontext():
            if kept == "keep":
                return self._compute(index, h_ND, run, rows_U, "all")
            if kept == "drop_mlp":
                return self._compute(index, h_ND, run, rows_U, "input")

            def compute(h_ND: Tensor, again: bool) -> Tensor:
                return self._compute(index, h_ND, run, rows_U, "unread" if again else "input")

            return autograd.recomputed(compute, h_ND, self._trained(run.adapter))

    def _compute(self, index: int, h_ND: Tensor, run: _Pass, rows_U: Tensor | None, keep: autograd.MlpKeep) -> Tensor:
        q, k, v = self._attention_inputs(h_ND, run, rows_U)
        attended = run.mix(index, q, k, v)
        o = _unit(self.self_attn, "o_proj")
        h_UD = h_ND if rows_U is None else h_ND[rows_U]
        fused, drop = self._fused(self.spec.norms.after_attention), run.drop(o, rows_U=rows_U)
        y_UD = autograd.attention_output(attended, h_UD if fused else None, run.linear(o, h_UD.dtype), drop)
        h_UD = y_UD if fused else self._added(h_UD, y_UD, self.spec.norms.after_attention, run)
        return self._mlp(h_UD, run, rows_U, keep)

    def _attention_inputs(self, h_ND: Tensor, run: _Pass, rows_U: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mixer, adapter = self.spec.mixer, run.adapter
        units = _units(self.self_attn, ("qkv_proj",), ("q_proj", "k_proj", "v_proj"))
        qk_norms = None
        if mixer.qk_norm:
            q_norm, k_norm = (_child(self.self_attn, name) for name in ("q_norm", "k_norm"))
            qk_norms = (
                _factor(q_norm, adapter, h_ND.dtype, self.plus_one),
                _factor(k_norm, adapter, h_ND.dtype, self.plus_one),
            )
        return autograd.attention_inputs(
            h_ND,
            self._norm(self.spec.norms.before_attention, run, h_ND.dtype),
            qk_norms,
            run.angles_of(mixer, h_ND.dtype),
            run.linears(units, h_ND.dtype),
            QkvShape(self.eps, mixer.head_dim, mixer.rope, run.drop(*units), rows_U),
        )

    def _mlp(self, h_UD: Tensor, run: _Pass, rows_U: Tensor | None, keep: autograd.MlpKeep) -> Tensor:
        units, down = _units(self.mlp, ("gate_up_proj",), ("gate_proj", "up_proj")), _unit(self.mlp, "down_proj")
        drop, drop_down = run.drop(*units, rows_U=rows_U), run.drop(down, rows_U=rows_U)
        after = self.spec.norms.after_mlp
        fused = self._fused(after)
        if keep == "unread" and after is not None:
            keep = "all"  # a norm reads what comes out
        y_UD = autograd.mlp(
            h_UD,
            self._norm(self.spec.norms.before_mlp, run, h_UD.dtype),
            run.linears((*units, down), h_UD.dtype),
            MlpShape(self.eps, self.spec.ffn.act, drop, drop_down, fused),
            keep,
        )
        return y_UD if fused else self._added(h_UD, y_UD, after, run)

    def _fused(self, after: str | None) -> bool:
        """Whether what comes out is added to the residual stream as it is, by the product that makes it."""
        return after is None and self.spec.residual == 1

    def _added(self, h_UD: Tensor, y_UD: Tensor, after: str | None, run: _Pass) -> Tensor:
        weight_D = self._norm(after, run, h_UD.dtype)
        if weight_D is not None:
            y_UD = autograd.rms_norm(y_UD, weight_D, self.eps)
        return torch.add(h_UD, y_UD, alpha=self.spec.residual)

    def _norm(self, name: str | None, run: _Pass, dtype: torch.dtype) -> Tensor | None:
        return None if name is None else _factor(_child(self, name), run.adapter, dtype, self.plus_one)

    def _trained(self, adapter: str | None) -> list[Tensor]:
        """What trains among the tensors that apply under an adapter."""
        tensors: list[Tensor | Weight | None] = []
        for module in self.modules():
            if isinstance(module, AdapterLinear):
                linear = module.linear(adapter)
                tensors += [linear.weight_OI, linear.bias_O, linear.a_RI, linear.b_OR]
            elif isinstance(module, Weighted):
                tensors.append(module.weight_for(adapter))
        return [each for each in tensors if isinstance(each, Tensor) and each.requires_grad]


class Decoder(nn.Module):
    """A decoder-only transformer whose modules and parameters are named as in the checkpoint.

    Args:
        arch: from a family file.
        compute_dtype: of activations, frozen weights and matmuls.
        device: where (empty) weights are created; `meta` for a loader that assigns them.
        unit_device: the same for the weights of units, where it is another one.
    """

    def __init__(
        self,
        arch: Architecture,
        compute_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "meta",
        unit_device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        spec = arch.spec
        self.arch = arch
        self.compute_dtype = compute_dtype
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(Layer(layer, spec.norm_eps, spec.norm_plus_one) for layer in spec.layers)
        self.units: dict[str, AdapterLinear] = {}
        for unit in arch.units:
            self.units[unit.name] = _new_unit(unit, compute_dtype, device, unit_device)
            _place(self, unit.name, self.units[unit.name])
        unit_tensors = {f"{unit.name}.{kind}" for unit in arch.units for kind in ("weight", "bias")}
        for name, shape in arch.tensors.items():
            if name not in unit_tensors:
                module = name.removesuffix(".weight")
                kept = torch.float32 if module == SCORE else compute_dtype
                _place(self, module, Weighted(shape, kept, device))
        self._weighted = [module for module in self.modules() if isinstance(module, Weighted)]
        self._quick: Quick | None = None

    @property
    def spec(self) -> DecoderSpec:
        return self.arch.spec

    @property
    def caps(self) -> frozenset[str]:
        return CAPS

    @property
    def device(self) -> torch.device:
        return self._embedding.weight.device

    @property
    def weighted(self) -> dict[str, Weighted]:
        """Every module of the checkpoint that holds a weight, by name: units, norms, embedding, head."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Weighted)}

    @property
    def adapters(self) -> frozenset[str]:
        """Names of the adapters that are attached."""
        names = frozenset[str]()
        for module in self._weighted:
            names = names.union(module.copies, module.deltas if isinstance(module, AdapterLinear) else ())
        return names

    def moved(self) -> None:
        """Told that weights have changed since the last answer: what was made of them for answers is made anew."""
        self._quick = None
        for unit in self.units.values():
            for name in self.adapters:
                delta = unit.deltas.get(name)
                if delta is not None:
                    delta.forget()

    def head_mode(self, adapter: str | None) -> head.Mode:
        """How log-probabilities can be differentiated where their coefficients are not known beforehand."""
        own = self._head.rows.get(adapter)
        trains = self._head.weight_for(adapter).requires_grad or (own is not None and own.weight.requires_grad)
        return "recompute" if trains else "unit"

    def pack(self, spare_bytes: int) -> int:
        """Lay weights out for passes of few rows as far as memory goes, the head first; the bytes that took. Nothing
        on a GPU, where it makes no difference."""
        used, ready = 0, self._quick_layers()
        for module in (self._head, *(self.units.values() if ready is None else ())):
            if used + module.weight.nbytes > spare_bytes:
                return used
            if not isinstance(module, AdapterLinear) or module.frozen is None:
                used += module.pack()
        return used if ready is None else used + ready.pack(spare_bytes - used)

    def unpack(self) -> None:
        """Keep the weights as they are only."""
        self._quick = None
        for module in (self._head, *self.units.values()):
            module.unpack()

    def forget_dense(self) -> None:
        """Keep no quantised weight dense any more: less memory, the same bits."""
        for unit in self.units.values():
            if unit.frozen is not None:
                unit.frozen.forget()

    def forward(
        self,
        batch: Batch,
        want: Want,
        *,
        adapter: str | None = None,
        dropout: DropoutKey | None = None,
        policies: Sequence[Policy] = (),
        below: Below | None = None,
    ) -> Scores:
        """Score the batch's rows.

        Args:
            adapter: name of the adapter that applies; None is exactly the base.
            dropout: what masks are drawn from; None for none.
            policies: what each layer keeps for the backward pass; empty: all of them `keep`. `offload` is `keep` on a
                CPU.
            below: what comes out of the lowest layers, where that is known.
        """
        layout, given = Layout.of(batch.segments), _Given(adapter, dropout, policies, below)
        rows_M = layout.rows(batch.rows)
        rows_U, tokens = np.unique(rows_M), batch.num_tokens
        fill_N, fill_U = sizes.fillers(tokens, len(rows_U)) if self._fills else (0, 0)
        if 0 < len(rows_U) < tokens:
            computed_U = np.concatenate([rows_U, np.arange(tokens, tokens + fill_U)])
            h_UD = self._body(batch, layout, given, computed_U, fill_N)
            rows_M = np.searchsorted(rows_U, rows_M)
        else:
            h_UD = self._body(batch, layout, given, fill=fill_N)
        return self._scores(h_UD, rows_M, batch.targets, want, adapter)

    def hidden(self, batch: Batch, *, adapter: str | None = None, dropout: DropoutKey | None = None) -> Tensor:
        """Hidden states of every row after the final norm, [N, D], in the batch's order, differentiable."""
        layout = Layout.of(batch.segments)
        h_ND = self._body(batch, layout, _Given(adapter, dropout))
        if layout.order is not None:
            h_ND = h_ND[_to_device(layout.rows(np.arange(batch.num_tokens)), self.device)]
        return self._final_norm(h_ND, adapter)

    @torch.no_grad()
    def read(self, ids: Ints, places: Ints, adapter: str | None = None) -> Tensor:
        """Hidden states after the final norm, [M, D], at some places of one sequence by itself."""
        h_TD = self.below(ids, len(self.spec.layers), adapter)
        return self._final_norm(h_TD[_to_device(places, self.device)], adapter)

    def head_weight(self, adapter: str | None = None) -> Tensor:
        """[V, D], what the logits are made with; for those who form them themselves."""
        assert self._head.rows_for(adapter) is None, "new tokens have rows of their own"
        return self._head.weight_for(adapter)

    @torch.no_grad()
    def below(self, ids: Ints, layers: int, adapter: str | None = None) -> Tensor:
        """What enters layer `layers`, [T, D], for one sequence by itself; of the base, where no adapter is named."""
        attend = Attend(Layout(None, np.zeros(1, dtype=np.int64), np.array([len(ids)]), np.array([-1])))

        def mix(index: int, q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
            mixer = self.spec.layers[index].mixer
            return attend(q, k, v, mixer.window, mixer.scale, softcap=mixer.softcap)

        return self._layers(ids, _Pass(_to_device(np.arange(len(ids)), self.device), adapter, mix), until=layers)

    @torch.no_grad()
    def extend(self, parts: Sequence[Part], cache: Cache) -> Tensor:
        """Append tokens to sequences, each under its own adapter; logits [B, V], float32, of what follows the last
        token of each part that wants them, in their order.

        Sequences go through one pass together, except those under adapters that have weights of their own for whole
        modules or for new tokens: each of these adapters is a pass.
        """
        alone = {name for name in {part.adapter for part in parts} if not self._low_rank_only(name)}
        groups = [[at for at, part in enumerate(parts) if part.adapter not in alone]]
        groups += [[at for at, part in enumerate(parts) if part.adapter == name] for name in alone]
        logits: dict[int, Tensor] = {}
        for group in filter(None, groups):
            # Rows of one adapter lie together.
            ordered = sorted(group, key=lambda at: parts[at].adapter or "")
            wanted = [at for at in ordered if parts[at].wanted]
            logits.update(zip(wanted, self._extend([parts[at] for at in ordered], cache), strict=True))
        if not logits:
            return torch.empty((0, self.spec.vocab), dtype=torch.float32, device=self.device)
        # Adapters with tokens of their own have more logits than others.
        width = max(len(row) for row in logits.values())
        rows = [F.pad(logits[at], (0, width - len(logits[at])), value=-torch.inf) for at in sorted(logits)]
        return torch.stack(rows)

    def _low_rank_only(self, adapter: str | None) -> bool:
        if adapter is None:
            return True
        return not any(adapter in own for each in self._weighted for own in (each.copies, each.rows) if len(own))

    def _extend(self, parts: Sequence[Part], cache: Cache) -> Tensor:
        counts = np.array([len(part.ids) for part in parts], dtype=np.int64)
        ends = np.cumsum(counts)
        starts = ends - counts
        adapters = list(dict.fromkeys(part.adapter for part in parts))
        whole = adapters[0] if len(adapters) == 1 else None
        assert all(name is None or name in self.adapters for name in adapters), f"not all of {adapters} are attached"
        stretches = []
        for name in filter(None, adapters):
            at = [index for index, part in enumerate(parts) if part.adapter == name]
            stretches.append((name, slice(int(starts[at[0]]), int(ends[at[-1]]))))
        before = [part.place.length for part in parts]
        positions = np.concatenate([np.arange(b, b + c) for b, c in zip(before, counts, strict=True)])
        rows: list[int] = []
        for part, first, count in zip(parts, before, counts.tolist(), strict=True):
            rows += part.place.rows(first, first + count)
        at_N = np.asarray(rows, dtype=np.int64)
        ids_N = np.concatenate([np.asarray(part.ids, dtype=np.int64) for part in parts])
        ready = self._quick_layers() if len(ids_N) == len(parts) else None
        if ready is not None and ready.serves(whole):
            lengths_B = positions + 1
            table_BP = cache.listed([part.place for part in parts], -(-int(lengths_B.max()) // BLOCK))
            where = Where(Round(at_N, lengths_B, table_BP), torch.from_numpy(positions), cache.addresses, stretches)
            h_ND = ready.run(self._embed(ids_N, whole), where)
        else:
            reading = Reading(parts, before, starts, ends, cache, self.device)
            rows_N = _to_device(at_N, self.device)

            def mix(index: int, q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
                mixer = self.spec.layers[index].mixer
                cache.keys[index].index_copy_(0, rows_N, k)
                cache.values[index].index_copy_(0, rows_N, v)
                return (reading.attend(index, q, k, v, mixer),)

            run = _Pass(_to_device(positions, self.device), whole, mix, stretches=stretches)
            h_ND = self._layers(ids_N, run)
        for part in parts:
            part.place.length += len(part.ids)
        last = np.array([end - 1 for part, end in zip(parts, ends, strict=True) if part.wanted], dtype=np.int64)
        if not len(last):
            return torch.empty((0, self.spec.vocab), dtype=torch.float32, device=self.device)
        return self._next_logits(h_ND[_to_device(last, self.device)], whole)

    def _quick_layers(self) -> Quick | None:
        """The layers made ready for single tokens, as the weights are now; None where they cannot be."""
        if self._quick is None or not self._quick.stands:
            self._quick = quick.of(self._layer_modules, self.spec, self.compute_dtype, self.device)
        return self._quick

    # ------------------------------------------------------------------------------------------------ parts

    @property
    def _fills(self) -> bool:
        """Whether micro-batches are filled up to numbers of rows that are multiplied fast. In float32 nothing is won,
        and on a GPU it is not studied."""
        return self.device.type == "cpu" and self.compute_dtype in (torch.bfloat16, torch.float16)

    def _scores(self, h_UD: Tensor, rows_M: Ints, targets_M: Ints, want: Want, adapter: str | None) -> Scores:
        """Norm and head for the scored rows, which may be filled up as well; filler has no weight in any sum."""
        scored = len(rows_M)
        fill = sizes.filled(scored) - scored if self._fills and want.lesson is None else 0
        rows_M, targets_M = (np.pad(each, (0, fill)) for each in (rows_M, targets_M))
        coefficients = (
            want.coefficients if not fill or want.coefficients is None else F.pad(want.coefficients, (0, fill))
        )
        x_MD = self._final_norm(h_UD[_to_device(rows_M, self.device)], adapter)
        hidden = x_MD[:scored] if want.hidden else None
        value = self._value(x_MD[:scored], adapter) if want.value else None
        if want.mode is None:
            return Scores(x_MD.new_zeros(0, dtype=torch.float32), hidden=hidden, value=value)
        top, targets = self._head, _to_device(targets_M, self.device)
        weight_VD, rows = top.weight_for(adapter), top.rows_for(adapter)
        scaled_MD, softcap = self._scaled(x_MD, self.spec.logit_scale), self.spec.logit_softcap
        if want.lesson is not None:
            assert rows is None and coefficients is not None, "teacher and student have the same tokens"
            assert softcap is None, "capped logits are not distilled"
            taught = divergence.distil(scaled_MD, weight_VD, targets, coefficients, *want.lesson)
            return Scores(taught.logp_M, taught.total, divergence=taught.divergence_M)
        made = head.score(scaled_MD, weight_VD, targets, want.mode, coefficients, want.entropy, rows, softcap)
        logp, entropy = made.logp_M[:scored], made.entropy_M
        return Scores(logp, made.total, None if entropy is None else entropy[:scored], hidden, value)

    def _value(self, x_MD: Tensor, adapter: str | None) -> Tensor:
        """The scalar head, in float32: it is a vector, and what it gives is compared."""
        weight_1D = _child(self, SCORE).weight_for(adapter)
        return (x_MD.to(wide(x_MD.dtype)) @ weight_1D.to(wide(x_MD.dtype)).T)[:, 0]

    def _body(
        self,
        batch: Batch,
        layout: Layout,
        given: _Given,
        rows: Ints | None = None,
        fill: int = 0,
    ) -> Tensor:
        """The residual stream after the last layer, in the layout's order: [N, D], or [U, D] of some rows, ascending
        and each once. `fill` more rows lie behind those of the batch: tokens that nothing attends to or is learnt
        of."""
        adapter, dropout, policies, below = given
        assert batch.inject is None and not batch.segments.adapter.any(), "one adapter per batch, tokens only"
        assert not policies or len(policies) == len(self.spec.layers), "one policy per layer"
        attend = Attend(layout, None if rows is None else rows[rows < batch.num_tokens])
        rows_U = None if rows is None else _to_device(rows, self.device)

        def mix(index: int, q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
            mixer = self.spec.layers[index].mixer
            chosen_U = rows_U if index == len(self.spec.layers) - 1 else None
            return attend(q, k, v, mixer.window, mixer.scale, chosen_U, mixer.softcap)

        def placed(array: Ints) -> Tensor:
            return _to_device(np.pad(layout.place(array), (0, fill)), self.device)

        token_N = None
        if dropout is not None:
            token_N = token_hashes(placed(batch.key))
        positions_N = placed(batch.positions)
        run = _Pass(positions_N, adapter, mix, token_N, dropout, policies, rows_U)
        if below is not None:
            h_ND = below.h_ND if layout.order is None else below.h_ND[_to_device(layout.order, self.device)]
            run.below = Below(below.layers, F.pad(h_ND, (0, 0, 0, fill)))
        if not ON_DEVICE.keys().isdisjoint(policies) and (mover := self._mover()) is not None:
            run.offload = Offload(mover, self.parameters())
        return self._layers(np.pad(layout.place(batch.ids), (0, fill)), run)

    def _mover(self) -> Mover | None:
        """On a CPU there is no other memory."""
        return copies() if self.device.type == "cuda" else None

    def _layers(self, ids: Ints, run: _Pass, until: int | None = None) -> Tensor:
        """From the embedding, or from what is known of the lowest layers, to the last layer, or as far as `until`."""
        assert run.adapter is None or run.adapter in self.adapters, f"no adapter named {run.adapter!r}"
        first, h_ND = run.below or (0, self._embed(ids, run.adapter))
        last = len(self.spec.layers) - 1
        for index, layer in enumerate(self._layer_modules):
            if first <= index < (last + 1 if until is None else until):
                h_ND = layer(index, h_ND, run, run.rows_U if index == last else None)
        return h_ND

    def _embed(self, ids: Ints, adapter: str | None) -> Tensor:
        """Rows of the embedding in the compute dtype; of new tokens the adapter's own."""
        weight_VD, own = self._embedding.weight_for(adapter), self._embedding.rows.get(adapter)
        known_N = _to_device(np.minimum(ids, len(weight_VD) - 1), self.device)
        h_ND = autograd.embedding(known_N, weight_VD, self.compute_dtype)
        new = ids >= len(weight_VD) if own is None else np.isin(ids, own.ids)
        if not new.any():
            return self._scaled(h_ND, self.spec.embed_scale)
        places = _to_device(np.flatnonzero(new), self.device)
        if own is None:
            # Without the adapter that has a row for it, such a token is what it starts as.
            start_D = weight_VD.detach().mean(0, dtype=torch.float32)
            rows_ND = start_D.expand(len(places), -1)
        else:
            rows_ND = F.embedding(_to_device(np.searchsorted(own.ids, ids[new]), self.device), own.weight)
        return self._scaled(h_ND.index_copy(0, places, rows_ND.to(self.compute_dtype)), self.spec.embed_scale)

    @staticmethod
    def _scaled(x_ND: Tensor, factor: float) -> Tensor:
        """Times the factor, which is first rounded to the compute dtype as Gemma's own code rounds it."""
        return x_ND if factor == 1 else x_ND * torch.tensor(factor, dtype=x_ND.dtype, device=x_ND.device)

    def _final_norm(self, h_ND: Tensor, adapter: str | None) -> Tensor:
        factor_D = _factor(_child(self.model, "norm"), adapter, h_ND.dtype, self.spec.norm_plus_one)
        return autograd.rms_norm(h_ND, factor_D, self.spec.norm_eps)

    @property
    def _head(self) -> Weighted:
        """A tied head stays tied under an adapter that trains its own copy, or rows, of the embedding."""
        return self._embedding if self.spec.tied else _child(self, "lm_head")

    def _next_logits(self, h_BD: Tensor, adapter: str | None) -> Tensor:
        top, x_BD = self._head, self._final_norm(h_BD, adapter)
        layout = top.packed_for(adapter) if top.weight.dtype == x_BD.dtype else None
        x_BD = self._scaled(x_BD, self.spec.logit_scale)
        made_BV = head.logits(x_BD, top.weight_for(adapter), top.rows_for(adapter), layout)
        return head.capped(made_BV, self.spec.logit_softcap)

    @property
    def _embedding(self) -> Weighted:
        return _child(self.model, "embed_tokens")

    @property
    def _layer_modules(self) -> Iterator[Layer]:
        return (cast(Layer, layer) for layer in cast(nn.ModuleList, self.model.layers))


def _new_unit(
    unit: Unit, dtype: torch.dtype, device: torch.device | str, weight_device: torch.device | str | None
) -> AdapterLinear:
    number = unit.layer * SITES_PER_LAYER + SITES[unit.parts[0].role]
    made = AdapterLinear(unit.in_features, unit.out_features, unit.bias, number, dtype, device, weight_device)
    made.parts = tuple(part.rows for part in unit.parts)
    return made


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module under its dotted name, with empty modules on the way where there are none."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


def _factor(norm: Weighted, adapter: str | None, dtype: torch.dtype, plus_one: bool) -> Tensor:
    """What normed rows are multiplied by. The sum with 1 is in float32: in bfloat16 it would lose small weights."""
    weight_D = norm.rounded_for(adapter, dtype)
    return weight_D.to(torch.promote_types(dtype, torch.float32)) + 1 if plus_one else weight_D


def _units(parent: nn.Module, fused: Sequence[str], apart: Sequence[str]) -> list[AdapterLinear]:
    """Those that the checkpoint has: one for all roles, or one for each."""
    return [_unit(parent, name) for name in (fused if fused[0] in parent._modules else apart)]


def _unit(parent: nn.Module, name: str) -> AdapterLinear:
    return cast(AdapterLinear, parent._modules[name])


def _child(parent: nn.Module, name: str) -> Weighted:
    return cast(Weighted, parent._modules[name])
