"""The plan's peak against the bytes that tensors really hold, over a grid of shapes, tuning kinds, dtypes, policies and
ways to keep weights and states: a step that makes the states, then one of two micro-batches, updates included."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from luthier import holdings, planner
from luthier.arch import count
from luthier.arch.families import gated
from luthier.arch.spec import Architecture, Attention, DecoderSpec, Layer, Mlp, Rope
from luthier.batch import Batch, Rendered
from luthier.config.schema import Freeze, Full, Lora, OptimSection
from luthier.data import pack
from luthier.engine import optim
from luthier.holdings import Tokens
from luthier.kernels import select, sizes
from luthier.methods import METHODS
from luthier.models import adapters, weights
from luthier.models.decoder import Decoder
from luthier.workload import workload

LENGTHS = (500, 300, 400)
FLOAT, HALF = torch.float32, torch.bfloat16
EXACT = OptimSection()
IN_BACKWARD = OptimSection(states="8bit", in_backward=True, clip=0)
COMPACT = OptimSection(weights="bfloat16_kahan", states="bfloat16")
TUNES: dict[str, Any] = {
    "lora": Lora(rank=8),
    "lora dropout": Lora(rank=8, dropout=0.1),
    "lora of two projections": Lora(rank=64, targets=("q_proj", "v_proj")),
    "lora on top": Lora(rank=8, layers=(2,)),
    "lora and embedding": Lora(rank=8, modules_to_save=("embed_tokens",)),
    "freeze": Freeze(layers=1),
    "full": Full(),
}
KEPT: dict[str, tuple[torch.dtype, OptimSection]] = {
    "float32": (FLOAT, EXACT),
    "bfloat16": (HALF, EXACT),
    "in backward": (HALF, IN_BACKWARD),
    "compact": (HALF, COMPACT),
}
STACKS = {"keep": ("keep",) * 3, "drop_mlp": ("drop_mlp",) * 3, "mixed": ("drop_layer", "drop_mlp", "keep")}
STACKS["drop_layer"] = ("drop_layer",) * 3
AXES = (TUNES, KEPT, STACKS)


VARIANTS = ((True, "sft", 10), (False, "pretrain", 300))
"""Tied and with q/k norm, a few tokens learnt of each sequence; untied and without, every token that is there."""


def grid() -> list[Any]:
    """Every tuning kind with every policy and dtype; fewer bytes for weights and states where the base trains. Each in
    one of the two variants, in turn, and with `--long` in the other too."""
    cases = [
        each
        for each in itertools.product(TUNES, KEPT, STACKS)
        if not (each[0].startswith("lora") and each[1] in ("in backward", "compact"))
    ]
    places = [sum(list(table).index(name) for table, name in zip(AXES, case, strict=True)) for case in cases]
    return [
        pytest.param(*case, variant, id=", ".join((*case, variant[1])), marks=[pytest.mark.long] * ((place + turn) % 2))
        for case, place in zip(cases, places, strict=True)
        for turn, variant in enumerate(VARIANTS)
    ]


@pytest.mark.parametrize(("tune", "kept", "stack", "variant"), grid())
def test_the_peak_is_as_planned(tune: str, kept: str, stack: str, variant: tuple[bool, str, int]) -> None:
    tied, method, scored = variant
    dtype, settings = KEPT[kept]
    run = Run(architecture(tied), TUNES[tune], settings, dtype, STACKS[stack], method)
    with select.using("torch"):
        measured, planned = run.peak(scored), run.planned(scored)
    assert abs(planned / measured - 1) < 0.05, (measured, planned)


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
@pytest.mark.parametrize("tune", ["lora", "full"])
@pytest.mark.parametrize("stack", ["keep", "drop_layer"])
def test_the_peak_of_another_shape(stack: str, tune: str, kept: str) -> None:
    """More layers, narrow ones, as many heads of keys as of queries, and a vocabulary that outweighs them."""
    mixer, (dtype, settings) = Attention(4, 4, 16, rope=Rope("default", 1e4, 16)), KEPT[kept]
    arch = gated.assemble(DecoderSpec("llama", 24_000, 64, (Layer(mixer, Mlp(96)),) * 7, False, 1e-6, 4096))
    run = Run(arch, TUNES[tune], settings, dtype, STACKS[stack][:1] * 7, "sft")
    with select.using("torch"):
        measured, planned = run.peak(60), run.planned(60)
    assert abs(planned / measured - 1) < 0.05, (measured, planned)


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("stack", STACKS)
def test_compiled_chains_take_less_than_planned_by_their_tiles_at_most(stack: str, dtype: torch.dtype) -> None:
    """The plan counts the three buffers of a plain chain whether or not somebody compiled it: they are small."""
    run = Run(architecture(True), TUNES["lora"], EXACT, dtype, STACKS[stack], "sft")
    measured, planned = run.peak(10), run.planned(10)
    assert planned - 3 * holdings.TILE_BYTES < 1.02 * measured < 1.05 * planned, (measured, planned)


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "compact"])
@pytest.mark.parametrize("tune", ["lora dropout", "full"])
@pytest.mark.parametrize("stack", [*STACKS, "offload_input"])
def test_an_mlp_that_works_on_some_rows_at_a_time(
    stack: str, tune: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten parts of the rows, and inputs of layers that are away from the device, where it is one."""
    monkeypatch.setattr(sizes, "MLP_BYTES", 2**18)
    monkeypatch.setattr(Decoder, "_mover", lambda decoder: Away())
    dtype, settings = KEPT[kept]
    stacks = {**STACKS, "offload_input": ("offload_input", "offload_input", "drop_layer")}
    run = Run(architecture(False), TUNES[tune], settings, dtype, stacks[stack], "sft")
    with select.using("torch"):
        measured, planned = run.peak(10), run.planned(10)
    assert abs(planned / measured - 1) < 0.05, (measured, planned)


class Away:
    """A `Mover` whose host is numpy, which nobody counts."""

    def away(self, near: torch.Tensor) -> Any:
        return near.dtype, near.view(torch.uint8).numpy().copy()

    def back(self, far: Any) -> torch.Tensor:
        dtype, held = far
        near = torch.empty(held.nbytes // dtype.itemsize, dtype=dtype)
        near.view(torch.uint8).numpy()[:] = held
        return near

    def wait(self) -> None:
        pass


def architecture(tied: bool, times: int = 1) -> Architecture:
    """times: how much wider than usual."""
    width, norm = 16 * times, "head" if tied else None
    mixer = Attention(8, 2, width, qkv_bias=not tied, qk_norm=norm, rope=Rope("default", 1e4, width))
    layers = (Layer(mixer, Mlp(352 * times)),) * 3
    return gated.assemble(DecoderSpec("llama", 4096 * times, 128 * times, layers, tied, 1e-6, 4096))


@dataclasses.dataclass(frozen=True)
class Run:
    arch: Architecture
    tune: Any
    optim: OptimSection
    dtype: torch.dtype
    policies: tuple[Any, ...]
    method: str
    device: str = "cpu"

    def planned(self, scored: int) -> int:
        size, device = self.dtype.itemsize, self.device
        load = workload(self.optim, self.arch, self.tune, Tokens(max(LENGTHS), passed=0), size, device)
        rows = scored * len(LENGTHS)
        return planner.at(self.arch.spec, load, self.policies, sum(LENGTHS), device, 2**40, rows).peak_bytes

    def peak(self, scored: int) -> int:
        """Bytes held at most, weights and states included."""
        live = Live() if self.device == "cpu" else Allocated(self.dtype)
        batch = micro_batch(scored, self.arch.spec.vocab)
        lora = isinstance(self.tune, Lora)
        trained = frozenset() if lora else count.trained_tensors(self.arch, self.tune)
        decoder = weights.random(
            self.arch,
            0,
            dtype=self.dtype,
            device=self.device,
            trainable=trained.__contains__,
            trained_dtype=FLOAT if self.optim.weights == "float32" else HALF,
        )
        if lora:
            adapters.attach(decoder, self.arch, self.tune, name="default", seed=0)
        named = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
        parameters, optimizer = [p for _, p in named], optim.build(named, self.optim, 1e-4, 0)
        objective = METHODS[self.method]("default" if lora else None, 0, self.policies)

        def pass_once(step: int) -> None:
            objective.loss(decoder, batch, step).sums["nll"].backward()  # type: ignore[no-untyped-call]

        with live:
            for parameter in decoder.parameters():
                live.hold(parameter)
            for step in range(2):
                optimizer.zero_grad(set_to_none=True)
                if self.optim.in_backward:
                    with optim.in_backward(optimizer, parameters):
                        pass_once(step)
                    continue
                for _ in range(1 + step):
                    pass_once(step)
                optim.clip(parameters, self.optim.clip)
                optimizer.step()
        return live.peak


def micro_batch(scored: int, vocab: int) -> Batch:
    rng, rows = np.random.default_rng(0), []
    for uid, length in enumerate(LENGTHS):
        learnt = np.zeros(length + 1, np.float32)
        learnt[-scored:] = 1
        rows.append(Rendered(uid, rng.integers(0, vocab, length + 1).astype(np.int32), learnt))
    (batch,) = pack.microbatches(rows, 10**6)
    return batch


class Allocated:
    """The most bytes that torch's allocator has given out on a GPU, beyond what it had before; the workspaces of
    libraries, which are no tensors of the run, among the latter."""

    def __init__(self, dtype: torch.dtype) -> None:
        square = torch.ones(64, 64, dtype=dtype, device="cuda")
        torch.nn.functional.linear(square @ square, square, square[0])
        del square
        torch.cuda.synchronize()
        self._before = torch.cuda.memory_allocated()

    def hold(self, tensor: torch.Tensor) -> None:
        pass

    def __enter__(self) -> Allocated:
        torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.peak = torch.cuda.max_memory_allocated() - self._before


class Live(TorchDispatchMode):
    """The most bytes of tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._freed, storage._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                self.hold(each)
        return made

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
