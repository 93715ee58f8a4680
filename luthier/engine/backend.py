"""The one door to devices (and, when several are used, to torch.distributed).

What goes in: the device and dtype a recipe asks for, or an earlier run's `plan.json`. What comes out: a `Backend`, the
facts that decide bits (device, compute dtype, threads, instruction set), applied to this process. Environment
variables that concern devices are read here and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import resource
import shutil
import sys
import time
from typing import Any, Literal

import torch

from luthier import machine
from luthier.errors import ConfigError, Problem

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
PROBE_ROWS, PROBE_WIDTH = 512, 1024
"""Shape of the probing matmul: tokens of a small micro-batch times the width of a 0.5B model; 1.1 GFLOP, so that
three repeats take tens of milliseconds on a slow core."""
PROBE_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Probe:
    """Measured matmul rates of a device in GFLOP/s, and the dtype they speak for."""

    float32_gflops: float
    bfloat16_gflops: float
    dtype: Literal["float32", "bfloat16", "float16"]
    reason: str


@dataclasses.dataclass(frozen=True)
class Backend:
    """What decides the bits of a run on this machine; stored in `plan.json` and obeyed on resume.

    device: torch device string; dtype: compute dtype; threads: intra-op threads on the CPU; isa: the CPU's vector
    instructions as torch names them, or the GPU's name and compute capability; loss_scaling: fp16 compute.
    """

    device: str
    dtype: Literal["float32", "bfloat16", "float16"]
    threads: int
    isa: str
    reason: str

    @property
    def compute_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def loss_scaling(self) -> bool:
        return self.dtype == "float16"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def apply(self) -> None:
        """Put this process into the state the bits are promised for: thread count and deterministic kernels."""
        torch.set_num_threads(self.threads)
        if self.device.startswith("cuda"):
            # cuBLAS needs a fixed workspace for run-to-run equal bits; it reads this before its first call.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.use_deterministic_algorithms(True, warn_only=True)


def choose(device: str, dtype: str, where: str = "run.device") -> Backend:
    """Choose device and compute dtype for a recipe's `run.device` and `model.dtype`.

    Raises:
        ConfigError: a GPU is asked for or present, but this torch cannot use it; or float16 on a CPU.
    """
    device = _device(device, where)
    probed = probe(device)
    chosen = probed.dtype if dtype == "auto" else dtype
    if device == "cpu" and chosen == "float16":
        raise ConfigError(Problem("engine.float16_on_cpu", field="model.dtype", value="float16"))
    assert chosen in DTYPES, chosen
    return Backend(
        device=device,
        dtype=chosen,  # type: ignore[arg-type]
        threads=torch.get_num_threads(),
        isa=_isa(device),
        reason=probed.reason if dtype == "auto" else f"asked for: {dtype}",
    )


def restore(saved: dict[str, Any], dtype: Literal["bfloat16"] | None = None) -> tuple[Backend, list[str]]:
    """The backend of an earlier attempt as far as this machine can give it, and its fields that differ (none: same
    bits). dtype: the only one that the weights allow."""
    before = Backend(**saved)
    backend = before
    if before.device.startswith("cuda") and not torch.cuda.is_available():
        backend = dataclasses.replace(before, device="cpu", dtype="float32")
    backend = dataclasses.replace(backend, isa=_isa(backend.device), dtype=dtype or backend.dtype)
    return backend, [name for name in ("device", "dtype", "isa") if getattr(before, name) != getattr(backend, name)]


def probe(device: str) -> Probe:
    """Time a matmul in fp32 and bf16 and choose the compute dtype.

    bf16 halves memory, so it wins unless it is clearly slower: CPUs without bf16 instructions emulate it at a fraction
    of the fp32 rate. GPUs below compute capability 8 have no bf16 units and get fp16 with loss scaling.
    """
    if device.startswith("cuda") and torch.cuda.get_device_capability() < (8, 0):
        return Probe(_gflops(device, torch.float32), 0.0, "float16", "compute capability below 8: fp16, loss scaling")
    full, half = _gflops(device, torch.float32), _gflops(device, torch.bfloat16)
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if half > full else "float32"
    return Probe(full, half, dtype, f"matmul GFLOP/s: float32 {full:.0f}, bfloat16 {half:.0f}")


def peak_memory_bytes(device: str) -> int:
    """The most memory used so far: the allocator's peak on a GPU, the process's largest resident set on a CPU. Linux's
    own figure comes first, because what `getrusage` says begins with the size of the process that started this one."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        for line in machine.STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS


def free_memory_bytes(device: str) -> int:
    """Bytes that a run may plan with: free device memory, or what is left of this machine's."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0])
    return machine.free_memory_bytes()


def _device(asked: str, where: str) -> str:
    if asked == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda" or shutil.which("nvidia-smi"):
        raise ConfigError(Problem("engine.gpu_unusable", where=where, values={"torch": torch.__version__}))
    return "cpu"


def _isa(device: str) -> str:
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} sm_{major}{minor}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _gflops(device: str, dtype: torch.dtype) -> float:
    x = torch.ones(PROBE_ROWS, PROBE_WIDTH, dtype=dtype, device=device)
    w = torch.ones(PROBE_WIDTH, PROBE_WIDTH, dtype=dtype, device=device)
    best_s = float("inf")
    for _ in range(PROBE_REPEATS + 1):  # the first one warms up; the best of the rest counts
        start = time.perf_counter()
        y = x @ w.t()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - start)
    del y
    return 2 * PROBE_ROWS * PROBE_WIDTH * PROBE_WIDTH / best_s / 1e9
