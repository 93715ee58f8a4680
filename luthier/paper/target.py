"""What a plan on paper is made for: a device of the table, several of them, or this machine.

What goes in: `--device` and the recipe's own `run.device`. What comes out: a `Target` with its memory and rates, and
where they are from. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier import devices, machine, planner
from luthier.config.schema import RunConfig
from luthier.errors import ConfigError, Problem
from luthier.paper.kept import Kept

CUDA_RUNTIME_BYTES = 600 * 2**20
"""What a CUDA context with its libraries takes beside tensors. Usual on recent cards; not measured here."""
CPU_RUNTIME_BYTES = 600 * 10**6
"""Resident beside tensors: 0.29 GB after importing torch and the rest, and 0.25 to 0.38 more in a run, for compiled
products, pages of the libraries and the allocator's slack (`bench/memory.py`, six cases of 1.8 to 3.8 GB)."""
BFLOAT16_GAIN = 4.0
"""Rate of bfloat16 over float32 on CPUs with instructions for it: 4.3 on a Zen 5 core."""
RATE_LASTS = 20.0
"""Times as long as other answers that a machine's rate is kept: it changes with what else it does."""
A_NODE = 8
"""Devices that a machine has, at most, as a rule."""
SHARE_OF_PEAK = {"cpu": 0.65, "cuda": 0.4}
"""Of the rate of matrix products that a step reaches as a whole. CPU: 0.71 and 0.90 measured (`LOG.md`). GPU: not
measured yet; published runs of others reach 0.26 to 0.41."""


@dataclass(frozen=True)
class Target:
    """Attributes:
    kind: what torch would call it. there, count: alike devices, and how many of them train, a process each.
    free_bytes: of each, for tensors; runtime_bytes: beside them.
    tflops: of matrix products in `dtype`, 10^12 FLOP/s; None where nothing is known. bandwidth_gbs: of its memory.
    own: this machine. host_bytes: that layers on each device may keep in the host's memory; None is not known, and
    taken as enough. notes: (message id, values) on where numbers are from.
    """

    name: str
    there: int
    count: int
    kind: Literal["cpu", "cuda"]
    free_bytes: int
    runtime_bytes: int
    dtype: Literal["float32", "bfloat16", "float16"]
    tflops: float | None
    bandwidth_gbs: float | None
    own: bool
    host_bytes: int | None = None
    notes: tuple[tuple[str, dict[str, Any]], ...] = field(default=())

    @property
    def share(self) -> float:
        return SHARE_OF_PEAK[self.kind]


def find(config: RunConfig, asked: str | None, kept: Kept | None = None) -> Target:
    """Raises:
    ConfigError: no such device is known, or a GPU is asked for and none answers here.
    """
    kept = kept or Kept()
    if asked is not None and asked.strip().lower() != "cpu":
        return _named(config, asked)
    if asked is not None:
        return _cpu(config, kept)
    gpus = kept.ask("gpus", machine.gpus) if config.run.device != "cpu" else ()
    if gpus:
        return _gpu(config, gpus)
    if config.run.device == "cuda":
        raise ConfigError(Problem("plan.no_gpu", field="run.device", value="cuda"))
    return _cpu(config, kept)


def _named(config: RunConfig, asked: str) -> Target:
    device, there = devices.parse(asked)
    count = _train(config, there)
    dtype = _dtype(config, device.dtype)
    return Target(
        name=device.name,
        there=max(there or 1, count),
        count=count,
        kind="cuda",
        free_bytes=device.memory_bytes - CUDA_RUNTIME_BYTES,
        runtime_bytes=CUDA_RUNTIME_BYTES,
        dtype=dtype,
        # Without tensor cores float32 runs at a fraction that the table does not know.
        tflops=None if dtype == "float32" else device.tflops,
        bandwidth_gbs=device.bandwidth_gbs,
        own=False,
        notes=(("plan.note.table", {}), *_idle(there or 1, count), *_nodes(count)),
    )


def _gpu(config: RunConfig, gpus: Sequence[machine.Gpu]) -> Target:
    """The GPUs of this machine that train; the least free of them stands for all."""
    count = _train(config, len(gpus))
    gpu = min(gpus[:count], key=lambda each: each.free_bytes)
    known = devices.like(gpu.name)
    dtype = _dtype(config, "bfloat16" if gpu.capability >= (8, 0) else "float16")
    rate = known.tflops if known is not None and dtype != "float32" else None
    return Target(
        name=gpu.name,
        there=len(gpus),
        count=count,
        kind="cuda",
        free_bytes=gpu.free_bytes - CUDA_RUNTIME_BYTES,
        runtime_bytes=CUDA_RUNTIME_BYTES,
        dtype=dtype,
        tflops=rate,
        bandwidth_gbs=known.bandwidth_gbs if known is not None else None,
        own=True,
        host_bytes=planner.usable(machine.free_memory_bytes()) // count,
        notes=(("plan.note.nvidia_smi", {}), *_idle(len(gpus), count)),
    )


def _cpu(config: RunConfig, kept: Kept) -> Target:
    dtype = _dtype(config, "bfloat16" if machine.has_bfloat16() else "float32")
    gain = BFLOAT16_GAIN if dtype == "bfloat16" and machine.has_bfloat16() else 1.0
    count = _train(config, None)
    parts = (("plan.note.processes", {"count": count}),) if count > 1 else ()
    return Target(
        name="CPU",
        there=count,
        count=count,
        kind="cpu",
        free_bytes=machine.free_memory_bytes() // count - CPU_RUNTIME_BYTES,
        runtime_bytes=CPU_RUNTIME_BYTES,
        dtype=dtype,
        tflops=kept.ask("rate", machine.float32_gflops, RATE_LASTS) * gain / 1000 / count,
        bandwidth_gbs=None,
        own=True,
        notes=(("plan.note.cpu", {"gain": gain}), *parts),
    )


def _train(config: RunConfig, there: int | None) -> int:
    """How many devices train, as `luthier.engine.backend.devices` decides.

    Args:
        there: how many there are; None where as many as are asked for, else one.

    Raises:
        ConfigError: the recipe asks for more.
    """
    asked = config.run.devices
    if asked == "auto":
        return min(there or 1, config.most_devices)
    if there is not None and asked > there:
        values = {"there": there, "asked": asked}
        raise ConfigError(Problem("plan.too_few_devices", field="run.devices", value=str(asked), values=values))
    return asked


def _idle(there: int, count: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    return (("plan.note.idle", {"there": there, "count": count}),) if count < there else ()


def _nodes(count: int) -> tuple[tuple[str, dict[str, Any]], ...]:
    return (("plan.note.nodes", {"most": A_NODE}),) if count > A_NODE else ()


def _dtype(
    config: RunConfig, auto: Literal["float32", "bfloat16", "float16"]
) -> Literal["float32", "bfloat16", "float16"]:
    """As `luthier.planning` decides: weights kept in bfloat16 are computed with as they are."""
    if config.optim.weights != "float32":
        return "bfloat16"
    return auto if config.model.dtype == "auto" else config.model.dtype
