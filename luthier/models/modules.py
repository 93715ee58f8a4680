"""The modules that hold a decoder's weights: projections, norms, embedding; and what adapters add to them.

What goes in: shapes. What comes out: modules whose `state_dict` keys are the checkpoint's. They hold weights and say
which of them apply under an adapter; the arithmetic is in `luthier.kernels`. Base weights are created frozen in the
compute dtype; a loader puts trainable float32 masters in their place where weights train.

Shape legend: D hidden, I in, O out, R rank, T new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from luthier.kernels import packed
from luthier.kernels.head import Rows
from luthier.kernels.linear import Linear, Span, Weight

M = TypeVar("M", bound=nn.Module)


class Named(nn.Module, Generic[M]):
    """Modules by name. Names may hold any character; torch forbids dots in module names, so they are escaped."""

    def __getitem__(self, name: str) -> M:
        return cast(M, self._modules[_escape(name)])

    def __setitem__(self, name: str, module: M) -> None:
        self.add_module(_escape(name), module)

    def __delitem__(self, name: str) -> None:
        del self._modules[_escape(name)]

    def __contains__(self, name: str) -> bool:
        return _escape(name) in self._modules

    def __iter__(self) -> Iterator[str]:
        return (_unescape(key) for key in self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def get(self, name: str | None) -> M | None:
        return self[name] if name is not None and name in self else None


class Delta(nn.Module):
    """A low-rank adapter of one projection: y += scale * B (A dropout(x)); A and B are float32.

    Args:
        a_RI, b_OR: initial values; parameters are taken as they are, tensors become trainable ones.
        scale: alpha / rank, or alpha / sqrt(rank).
        dropout: share of the input's features dropped during training.
    """

    def __init__(self, a_RI: Tensor, b_OR: Tensor, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        assert a_RI.shape[0] == b_OR.shape[1], "A and B disagree on the rank"
        self.A = _parameter(a_RI)
        self.B = _parameter(b_OR)
        self.scale = scale
        self.dropout = dropout
        self._ready: tuple[object, Tensor, Tensor] | None = None

    def ready(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A and scale * B in a dtype, made once for as long as neither changes: every token that is generated reads
        them."""
        made_of = (self.A._version, self.B._version, self.A.data_ptr(), self.B.data_ptr(), self.scale, dtype)
        if self._ready is None or self._ready[0] != made_of:
            self._ready = made_of, self.A.detach().to(dtype), (self.B.detach() * self.scale).to(dtype)
        return self._ready[1:]

    def forget(self) -> None:
        """Make them anew at the next use: not every optimizer changes a tensor's version with its values."""
        self._ready = None


class Copy(nn.Module):
    """An adapter's own full copy of a module's weight, used in place of the base's (PEFT's `modules_to_save`)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = _parameter(weight)


class TokenRows(nn.Module):
    """An adapter's own rows for the tokens that a recipe adds, used in place of the base's rows or beyond them (PEFT's
    `trainable_token_indices`).

    Args:
        ids: the tokens, ascending.
        weight_TD: initial values.
    """

    def __init__(self, ids: Sequence[int], weight_TD: Tensor) -> None:
        super().__init__()
        self.ids = np.asarray(ids, dtype=np.int64)
        self.register_buffer("ids_T", torch.from_numpy(self.ids).to(weight_TD.device), persistent=False)
        self.weight = _parameter(weight_TD)

    def of(self, size: int) -> Rows:
        """The rows as the head takes them, for a weight of `size` rows."""
        return Rows(cast(Tensor, self.ids_T), self.weight, int(np.searchsorted(self.ids, size)))


class Weighted(nn.Module):
    """A module of the checkpoint with a weight. copies: adapter name -> the adapter's own weight; rows: adapter name ->
    its own rows for new tokens."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
        self.copies: Named[Copy] = Named()
        self.rows: Named[TokenRows] = Named()
        self._packed: tuple[object, Tensor] | None = None

    def pack(self) -> int:
        """Keep a copy of the weight laid out for few rows, where this machine can and there is none; its bytes."""
        if not packed.can(self.weight) or self.packed_for(None) is not None:
            return 0
        self._packed = self._stamp(), packed.pack(self.weight)
        return self.weight.nbytes

    def unpack(self) -> None:
        self._packed = None

    def packed_for(self, adapter: str | None) -> Tensor | None:
        """That copy, where it stands for the weight that applies under an adapter, and has not changed since."""
        if self._packed is None or self._packed[0] != self._stamp() or self.copies.get(adapter) is not None:
            return None
        return self._packed[1]

    def _stamp(self) -> object:
        return self.weight.data_ptr(), self.weight._version, self.weight.dtype

    def weight_for(self, adapter: str | None) -> Tensor:
        """The weight that applies under an adapter; the base's for None."""
        copy = self.copies.get(adapter)
        return self.weight if copy is None else copy.weight

    def rows_for(self, adapter: str | None) -> Rows | None:
        """The rows that stand in place of the weight's under an adapter."""
        rows = self.rows.get(adapter)
        return None if rows is None else rows.of(len(self.weight))

    def rounded_for(self, adapter: str | None, dtype: torch.dtype) -> Tensor:
        """The same in the compute dtype. Norms compute in float32 whatever their weight is, so a float32 master has to
        be rounded first, as the file that is saved will be: the model that is trained is the one that ships."""
        return self.weight_for(adapter).to(dtype)


class Frozen(Weight, Protocol):
    """A weight in fewer bytes, of which a dense copy may be kept."""

    def forget(self) -> None:
        """Keep no dense copy any more."""
        ...


class AdapterLinear(Weighted):
    """A projection of the checkpoint: weight [O, I], bias [O] or None, and its adapters.

    frozen: the weight where it is kept in fewer bytes; `weight` is on no device then.
    site: number of the input it reads; projections of one input share it, and with it the dropout mask.
    parts: how many of its rows play each role, in their order, where they play several.
    deltas: adapter name -> Delta.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        site: int,
        dtype: torch.dtype,
        device: torch.device | str,
        weight_device: torch.device | str | None = None,
    ) -> None:
        super().__init__((out_features, in_features), dtype, device if weight_device is None else weight_device)
        self.bias = (
            nn.Parameter(torch.empty(out_features, dtype=dtype, device=device), requires_grad=False) if bias else None
        )
        self.site = site
        self.parts: tuple[int, ...] = (out_features,)
        self.frozen: Frozen | None = None
        self.deltas: Named[Delta] = Named()

    def pack(self) -> int:
        return super().pack() if len(self.parts) == 1 else 0  # products are with a part at a time

    def linear(self, adapter: str | None) -> Linear:
        """The tensors that apply under an adapter."""
        weight_OI, delta = self.frozen or self.weight_for(adapter), self.deltas.get(adapter)
        if delta is None:
            return Linear(weight_OI, self.bias)
        return Linear(weight_OI, self.bias, delta.A, delta.B, delta.scale)

    def served(self, adapter: str | None, stretches: Sequence[tuple[str, slice]], dtype: torch.dtype) -> Linear:
        """The tensors for rows some of which go through an adapter of their own.

        Args:
            adapter: whose copy of the weight applies to all rows.
            stretches: adapters and their rows.
        """
        spans = [(self.deltas.get(name), rows) for name, rows in stretches]
        made = tuple(Span(rows, *delta.ready(dtype)) for delta, rows in spans if delta is not None)
        if self.frozen is not None:
            return Linear(self.frozen, self.bias, spans=made)
        layout = self.packed_for(adapter) if self.weight.dtype == dtype else None
        return Linear(self.weight_for(adapter), self.bias, spans=made, packed=layout)

    def dropout(self, adapter: str | None) -> float | None:
        """The adapter's dropout; None where it has no delta here."""
        delta = self.deltas.get(adapter)
        return None if delta is None else delta.dropout


def _parameter(values: Tensor) -> nn.Parameter:
    return values if isinstance(values, nn.Parameter) else nn.Parameter(values.to(torch.float32))


def _escape(name: str) -> str:
    # The first character keeps names apart from the attributes of a module (`training`), which torch refuses.
    return "@" + name.replace("%", "%25").replace(".", "%2E")


def _unescape(key: str) -> str:
    return key.removeprefix("@").replace("%2E", ".").replace("%25", "%")
