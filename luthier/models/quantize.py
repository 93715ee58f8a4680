"""Frozen weights in 4 or 8 bits: the one door to bitsandbytes.

What goes in: a weight as it lies in the checkpoint. What comes out: a `Weight` of `luthier.kernels.linear` that holds
codes and scales, and gives the values they stand for where a matmul needs them. Only the library's functions are used,
none of its modules: those repack their weights in evaluation mode on some processors, and gradients are wrong after it.

The codes are those of the file's own values, whatever is computed in: the quantised base is the same on every machine
of a kind. int8 is of weights only, by rows (`int8_vectorwise_quant`, the weights' half of LLM.int8, arXiv 2208.07339).
The library's `Linear8bitLt` also rounds the input of each matmul to 8 bits, outliers aside, and its gradient is that of
another function than the one it computed; here the matmul is in the compute dtype, and the gradient is its own.

Shape legend: I in, O out.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from luthier.arch.quantised import BLOCK, PIECE, SCALE_BLOCK
from luthier.config.schema import Qlora
from luthier.errors import ConfigError, Problem


def installed() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def require() -> None:
    """Find out before anything heavy is loaded whether bitsandbytes is installed.

    Raises:
        ConfigError: it is not; with the command that installs it.
    """
    if not installed():
        raise ConfigError(Problem("models.no_bitsandbytes", field="tune.kind", value="qlora"))


class Quantised(nn.Module):
    """Codes and scales of one weight. shape: of the weight; kept: its values, where there is memory for them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.kept: Tensor | None = None

    def keep(self, dtype: torch.dtype) -> None:
        """Keep the values at hand from now on, which changes none of them."""
        self.kept = self.dense(dtype)

    def forget(self) -> None:
        """Make the values whenever they are needed, from now on."""
        self.kept = None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The values, [O, I]."""
        return self._made(dtype) if self.kept is None or self.kept.dtype != dtype else self.kept

    def _made(self, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError

    def overflows(self, dtype: torch.dtype) -> bool:
        """Whether values are beyond what the dtype holds, or were beyond what quantising them can take."""
        raise NotImplementedError


class Nf4(Quantised):
    """4-bit NormalFloat in blocks of 64, with scales in float32 or in 8 bits (`double`)."""

    def __init__(self, weight_OI: Tensor, double: bool) -> None:
        super().__init__(tuple(weight_OI.shape))
        functional = _functional()
        flat = weight_OI.reshape(-1)
        codes, scales = [], []
        for piece in torch.split(flat, PIECE):
            code, state = functional.quantize_4bit(piece, blocksize=BLOCK, quant_type="nf4")
            codes.append(code)
            scales.append(state.absmax)
        absmax, self.nested = torch.cat(scales), double
        largest = absmax.max()
        self.codes: Tensor
        self.absmax: Tensor
        self.offset: Tensor
        self.outer: Tensor
        self.register_buffer("codes", torch.cat(codes), persistent=False)
        if double:
            offset = absmax.mean()
            absmax, state = functional.quantize_blockwise(absmax - offset, blocksize=SCALE_BLOCK)
            self.register_buffer("offset", offset, persistent=False)
            self.register_buffer("outer", state.absmax, persistent=False)
        self.register_buffer("absmax", absmax, persistent=False)
        self.most = float(largest)

    def overflows(self, dtype: torch.dtype) -> bool:
        return not self.most <= torch.finfo(dtype).max

    def _made(self, dtype: torch.dtype) -> Tensor:
        functional, device = _functional(), self.codes.device
        inner: dict[str, Any] = {}
        if self.nested:
            code = _scale_codes(device)
            outer = functional.QuantState(self.outer, code=code, blocksize=SCALE_BLOCK, dtype=torch.float32)
            inner = {"offset": self.offset, "state2": outer}
        # The CPU kernel of bitsandbytes 0.50 takes blocks to begin anew with each row, which is wrong where a row is no
        # whole number of them.
        rows = self.shape if self.shape[1] % BLOCK == 0 else (1, math.prod(self.shape))
        state = functional.QuantState(self.absmax, torch.Size(rows), _nf4_codes(device), BLOCK, "nf4", dtype, **inner)
        return cast(Tensor, functional.dequantize_4bit(self.codes, state).view(self.shape))


class Int8(Quantised):
    """8-bit integers with a float32 scale for each row."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__(tuple(weight_OI.shape))
        functional = _functional()
        values, scales = [], []
        for piece_OI in torch.split(weight_OI, self._rows):
            # In float16, as bitsandbytes quantises weights: it has 11 bits where 7 are going to be left.
            value, scale, _ = functional.int8_vectorwise_quant(piece_OI.to(torch.float16))
            values.append(value)
            scales.append(scale)
        self.values: Tensor
        self.scales: Tensor
        self.register_buffer("values", torch.cat(values), persistent=False)
        self.register_buffer("scales", torch.cat(scales), persistent=False)

    def overflows(self, dtype: torch.dtype) -> bool:
        return not bool(self.scales.isfinite().all())

    @property
    def _rows(self) -> int:
        return max(PIECE // self.shape[1], 1)

    def _made(self, dtype: torch.dtype) -> Tensor:
        functional = _functional()
        dense_OI = torch.empty(self.shape, dtype=dtype, device=self.values.device)
        for start in range(0, len(dense_OI), self._rows):
            rows = slice(start, start + self._rows)
            dense_OI[rows] = functional.int8_vectorwise_dequant(self.values[rows], self.scales[rows])
        return dense_OI


def quantised(weight_OI: Tensor, tune: Qlora) -> Quantised:
    """A weight in the form that a recipe asks for, on the device it is on.

    Args:
        weight_OI: as in the file; float64 is rounded to float32 first.
    """
    if weight_OI.dtype == torch.float64:
        weight_OI = weight_OI.float()
    return Int8(weight_OI) if tune.base == "int8" else Nf4(weight_OI, tune.double_quant)


def held_bytes(module: nn.Module) -> int:
    """Bytes of everything quantised inside a module, and of the tables that all of it shares."""
    found = [each for each in module.modules() if isinstance(each, Quantised)]
    sizes = [buffer.nbytes for each in found for buffer in each.buffers()]
    nf4 = [each for each in found if isinstance(each, Nf4)]
    tables = [_nf4_codes(nf4[0].codes.device)] if nf4 else []
    tables += [_scale_codes(nf4[0].codes.device)] if nf4 and nf4[0].nested else []
    return sum(sizes) + sum(table.nbytes for table in tables)


@functools.cache
def _nf4_codes(device: torch.device) -> Tensor:
    return cast(Tensor, _functional().get_4bit_type("nf4", device=device))


@functools.cache
def _scale_codes(device: torch.device) -> Tensor:
    return cast(Tensor, _functional().create_dynamic_map().to(device))


@functools.cache
def _functional() -> Any:
    with _alone():
        import bitsandbytes.functional as functional  # an extra, and seconds to load
    return functional


@contextmanager
def _alone() -> Iterator[None]:
    """While bitsandbytes is imported. On processors with bfloat16 instructions it then fetches compiled code from a hub
    where the package `kernels` is installed, and warns where it is not. That code would be for its modules, which are
    not used; and nothing that is fetched is ever run."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    missing = object()
    before, level = sys.modules.get("kernels", missing), logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before  # type: ignore[assignment]
