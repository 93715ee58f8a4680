"""AdamW that keeps its numbers in few bytes.

What goes in: parameters with float32 gradients, and how weights and moments of a group are kept. What comes out: the
update of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), computed in float32 from what is kept, piece by piece, so
that no float32 copy of a whole tensor ever exists.

    weights   float32               masters
              bfloat16_stochastic   the nearest two bfloat16, by chance, right on average
              bfloat16_kahan        the nearest bfloat16, and what it lacks in a second one (Kahan's compensation, as
                                    Zamirai et al. 2020, arXiv 2010.06192)
    moments   float32
              bfloat16              rounded by chance: to the nearest, the second moment would never fall, because it
                                    loses 1 - beta2 = 1/1000 in a step and half a unit of bfloat16 is 1/512 at least
              8bit                  one byte and a scale for each block, see `luthier.kernels.rounding`

Chance is a hash of (seed, parameter, its steps so far, element): a resumed run goes on with the same bits.

Shape legend: N elements of a piece.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from luthier.kernels import rounding
from luthier.kernels.reference import mix
from luthier.kernels.rounding import BLOCK
from luthier.kernels.tiles import TILE_BYTES, chunks

FIRST, SECOND, COMPENSATION, SCALE = "exp_avg", "exp_avg_sq", "compensation", "_scale"
"""Names of state, torch's own where it has them."""
BUFFERS = 12
"""Most buffers as large as a piece that an update has at one time: gradient, weight, moments and root, and what their
rounding works with."""
SITES = {"weight": 0, FIRST: 1, SECOND: 2}
"""What random bits are drawn for."""
GPU_PIECE_BYTES = 2**25
"""float32 bytes of a piece on a GPU: large enough that launches do not count, and half a dozen of them are a small part
of what the activations leave free. Chosen, not tuned."""


class AdamW(torch.optim.Optimizer):
    """Each group says how it is kept: `weights` and `states`, as above.

    Args:
        groups: with params, weight_decay, weights and states.
        names: of all parameters; with the seed they key the rounding.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        names: Mapping[nn.Parameter, str],
        seed: int,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self._keys = {parameter: _key(seed, name) for parameter, name in names.items()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if not self.state[parameter]:
                        self.state[parameter].update(start(parameter, group, parameter.device))
                    self._update(parameter, group, self.state[parameter])

    def _update(self, parameter: nn.Parameter, group: dict[str, Any], state: dict[str, Tensor]) -> None:
        state["step"] += 1
        step, (beta1, beta2), rate = int(state["step"]), group["betas"], group["lr"]
        key = mix(self._keys[parameter] ^ step)
        weight, first, second = _kept(parameter, state, group["weights"], key)
        gradient_N = parameter.grad.reshape(-1)  # type: ignore[union-attr]
        for part in pieces(parameter.numel(), parameter.device):
            g_N, w_N, m_N, v_N = gradient_N[part], weight.read(part), first.read(part), second.read(part)
            m_N.lerp_(g_N, 1 - beta1)
            v_N.mul_(beta2).addcmul_(g_N, g_N, value=1 - beta2)
            root_N = v_N.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
            w_N.mul_(1 - rate * group["weight_decay"]).addcdiv_(m_N, root_N, value=-rate / (1 - beta1**step))
            for kept, values_N in ((weight, w_N), (first, m_N), (second, v_N)):
                kept.write(part, values_N)


def start(parameter: Tensor, group: Mapping[str, Any], device: torch.device | str) -> dict[str, Tensor]:
    """The state before the first step: all zero. `device` meta tells names, dtypes and shapes at no cost."""
    state = {"step": torch.zeros((), device="meta" if str(device) == "meta" else "cpu")}
    shape, scales = parameter.shape, rounding.blocks(parameter.numel())
    for slot, codes in ((FIRST, torch.int8), (SECOND, torch.uint8)):
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "8bit": codes}[group["states"]]
        state[slot] = torch.zeros(shape, dtype=dtype, device=device)
        if group["states"] == "8bit":
            state[slot + SCALE] = torch.zeros(scales, device=device)
    if group["weights"] == "bfloat16_kahan":
        state[COMPENSATION] = torch.zeros(shape, dtype=torch.bfloat16, device=device)
    return state


def pieces(count: int, device: torch.device) -> Iterator[slice]:
    """Slices of whole blocks that cover `count` elements: on a CPU they stay in a core's cache."""
    for part in chunks(rounding.blocks(count), 4 * BLOCK, _piece_bytes(device)):
        yield slice(part.start * BLOCK, min(part.stop * BLOCK, count))


def scratch_bytes(device: torch.device) -> int:
    """Most that an update works with beside parameters, gradients and state."""
    return BUFFERS * _piece_bytes(device)


def _piece_bytes(device: torch.device) -> int:
    return TILE_BYTES if device.type == "cpu" else GPU_PIECE_BYTES


# ------------------------------------------------------------------------------------------------- how it is kept


class Kept(Protocol):
    """A tensor as it is kept; read and written as float32 [N]."""

    def read(self, part: slice) -> Tensor: ...

    def write(self, part: slice, values_N: Tensor) -> None: ...


@dataclass(frozen=True)
class Exact:
    """float32: what is read is the memory itself."""

    tensor: Tensor

    def read(self, part: slice) -> Tensor:
        return self.tensor[part]

    def write(self, part: slice, values_N: Tensor) -> None:
        pass


@dataclass(frozen=True)
class Stochastic:
    """bfloat16, rounded by chance."""

    tensor: Tensor
    key: int

    def read(self, part: slice) -> Tensor:
        return self.tensor[part].to(torch.float32)

    def write(self, part: slice, values_N: Tensor) -> None:
        noise_N = rounding.noise(part.start, len(values_N), self.key, values_N.device)
        self.tensor[part] = rounding.stochastic_(values_N, noise_N)


@dataclass(frozen=True)
class Kahan:
    """bfloat16 and what it lacks, together 16 bits of mantissa."""

    tensor: Tensor
    compensation: Tensor

    def read(self, part: slice) -> Tensor:
        return self.tensor[part].to(torch.float32).add_(self.compensation[part])

    def write(self, part: slice, values_N: Tensor) -> None:
        self.tensor[part] = values_N
        self.compensation[part] = values_N.sub_(self.tensor[part])


@dataclass(frozen=True)
class Blocks:
    """One byte, and a scale for each block."""

    codes: Tensor
    scales: Tensor

    def read(self, part: slice) -> Tensor:
        decode = rounding.decode_signed if self.codes.dtype == torch.int8 else rounding.decode_unsigned
        return decode(self.codes[part], self.scales[_blocks(part)])

    def write(self, part: slice, values_N: Tensor) -> None:
        encode = rounding.encode_signed if self.codes.dtype == torch.int8 else rounding.encode_unsigned
        self.codes[part], self.scales[_blocks(part)] = encode(values_N)


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK, rounding.blocks(part.stop))


def _kept(parameter: Tensor, state: Mapping[str, Tensor], weights: str, key: int) -> tuple[Kept, Kept, Kept]:
    """Weight, first and second moment."""
    weight = parameter.view(-1)
    first, second = (_moment(state, slot, mix(key ^ SITES[slot])) for slot in (FIRST, SECOND))
    if weights == "bfloat16_kahan":
        return Kahan(weight, state[COMPENSATION].view(-1)), first, second
    if weights == "bfloat16_stochastic":
        return Stochastic(weight, mix(key ^ SITES["weight"])), first, second
    return Exact(weight), first, second


def _moment(state: Mapping[str, Tensor], slot: str, key: int) -> Kept:
    tensor = state[slot].view(-1)
    if slot + SCALE in state:
        return Blocks(tensor, state[slot + SCALE])
    return Stochastic(tensor, key) if tensor.dtype == torch.bfloat16 else Exact(tensor)


def _key(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
