"""The one door to devices (and, when several are used, to torch.distributed).

What goes in: the device and dtype a recipe asks for, or an earlier run's `plan.json`. What comes out: a `Backend`, the
facts that decide bits (device, compute dtype, threads, instruction set), applied to this process. Environment
variables that concern devices are read here and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
import os
import platform
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes
from torch.distributed.elastic.multiprocessing.api import PContext

from luthier import machine
from luthier.errors import ConfigError, PeerLost, Problem
from luthier.kernels import products, select
from luthier.machine import PROBE_REPEATS, PROBE_ROWS, PROBE_WIDTH

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others of its run: as long as rank 0 may take to tokenise or to save. That one has
died shows in its process or its connection, not in time."""
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, or `Workers`, tells a process about its place among the others."""
LAUNCHER_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that torch's launcher takes for itself when it starts processes; they are given back."""


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
    instructions as torch names them, or the GPU's name and compute capability; loss_scaling: fp16 compute; devices: how
    many train, a process each. threads are those of one process. float32_products: what multiplies float32 matrices on
    a CPU; float32_reason: why.
    """

    device: str
    dtype: Literal["float32", "bfloat16", "float16"]
    threads: int
    isa: str
    reason: str
    devices: int = 1
    float32_products: products.Library = "torch"
    float32_reason: str = ""

    @property
    def compute_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def loss_scaling(self) -> bool:
        return self.dtype == "float16"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def arithmetic(self) -> dict[str, Any]:
        """All of it, and of this machine, that the bits of a value depend on, as plain values: what is kept for other
        runs is kept under this."""
        kernels = select.choose(self.device, self.compute_dtype).to_json()
        chosen = [self.device, self.dtype, self.threads, self.isa, machine.has_bfloat16(), self.float32_products]
        return {"backend": chosen, "kernels": kernels}

    def beside(self, saved: Mapping[str, Any]) -> Backend:
        """What computes a model that was trained on another backend in this process: on this device, in its own dtype,
        which is float32 where it comes from a GPU to a CPU."""
        moved = self.device == "cpu" and saved["device"] != "cpu"
        return dataclasses.replace(self, dtype="float32" if moved else saved["dtype"])

    def apply(self) -> None:
        """Put this process into the state the bits are promised for: thread count and deterministic kernels."""
        torch.set_num_threads(self.threads)
        products.use(self.float32_products)
        if self.device.startswith("cuda"):
            # cuBLAS needs a fixed workspace for run-to-run equal bits; it reads this before its first call.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.use_deterministic_algorithms(True, warn_only=True)


def choose(device: str, dtype: str, where: str = "run.device", devices: int = 1) -> Backend:
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
    library, measured = _products(device, chosen)
    return Backend(
        device=device,
        dtype=chosen,  # type: ignore[arg-type]
        threads=_threads(),
        isa=_isa(device),
        reason=probed.reason if dtype == "auto" else f"asked for: {dtype}",
        devices=devices,
        float32_products=library,
        float32_reason=measured,
    )


def restore(
    saved: dict[str, Any], dtype: Literal["bfloat16"] | None = None, devices: int = 1
) -> tuple[Backend, list[str]]:
    """The backend of an earlier attempt as far as this machine can give it, and its fields that differ (none: same
    bits). dtype: the only one that the weights allow; devices: how many there are now."""
    before = Backend(**saved)
    backend = before
    if before.device.startswith("cuda") and not torch.cuda.is_available():
        backend = dataclasses.replace(before, device="cpu", dtype="float32")
    backend = dataclasses.replace(backend, isa=_isa(backend.device), dtype=dtype or backend.dtype)
    if backend.float32_products == "onednn" and not products.can():
        backend = dataclasses.replace(backend, float32_products="torch")
    if devices != before.devices:
        backend = dataclasses.replace(backend, devices=devices, threads=_threads())
    fields = ("device", "dtype", "isa", "devices", "float32_products")
    return backend, [name for name in fields if getattr(before, name) != getattr(backend, name)]


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


def _products(device: str, dtype: str) -> tuple[products.Library, str]:
    """Measured where it matters, once: two runs in one process come out with the same bits."""
    return _measured() if (device, dtype) == ("cpu", "float32") else ("torch", "")


_measured = functools.cache(products.measured)


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
    """Bytes that a process may plan with: free device memory, or its part of what is left of this machine's."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0])
    return machine.free_memory_bytes() // _beside()


def _device(asked: str, where: str) -> str:
    if asked == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda" or shutil.which("nvidia-smi"):
        raise ConfigError(Problem("engine.gpu_unusable", where=where, values={"torch": torch.__version__}))
    return "cpu"


def _threads() -> int:
    """Threads of one process: its part of the cores, where several train on one machine."""
    return max(torch.get_num_threads() // _beside(), 1)


def _beside() -> int:
    """Processes of the same run on this machine."""
    place = placed()
    return place.local_size if place is not None else 1


def _isa(device: str) -> str:
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} sm_{major}{minor}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _gflops(device: str, dtype: torch.dtype) -> float:
    """Measured once, so that all runs of a process choose alike whatever else the machine does meanwhile."""
    return _measured_gflops(device, dtype, torch.get_num_threads())


@functools.cache
def _measured_gflops(device: str, dtype: torch.dtype, threads: int) -> float:
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


# ------------------------------------------------------------------------------------------------ several devices


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a launcher put this process: `rank` of `size`, and the same among those on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def placed() -> Place | None:
    """This process's place among those of its run; None where it was started alone."""
    given = {name: os.environ.get(name, "") for name in PLACE}
    if not all(given.values()):
        return None
    rank, size, local_rank, local_size = (int(given[name]) for name in PLACE[:4])
    return Place(rank, size, local_rank, local_size) if size > 1 else None


def devices(asked: int | Literal["auto"], device: str, most: int, saved: int | None = None) -> int:
    """How many devices train, a process each.

    Args:
        asked, device: the recipe's `run.devices` and `run.device`.
        most: devices beyond which some would have nothing to do.
        saved: what an earlier attempt used; `auto` keeps to it as far as it can be had.

    Raises:
        ConfigError: so many are not there, or a launcher started another number of processes.
    """
    place = placed()
    if place is not None:
        if asked not in ("auto", place.size):
            values = {"processes": place.size}
            raise ConfigError(
                Problem("engine.devices_of_launcher", field="run.devices", value=str(asked), values=values)
            )
        return place.size
    visible = torch.cuda.device_count() if _device(device, "run.device") == "cuda" else None
    if asked == "auto":
        there = visible if visible is not None else saved or 1
        return max(min(saved or there, there, most), 1)
    if visible is not None and asked > visible:
        values = {"visible": visible}
        raise ConfigError(Problem("engine.too_few_devices", field="run.devices", value=str(asked), values=values))
    return asked


class Group:
    """The processes of one run, connected. Tensors on the CPU travel over gloo, those on GPUs over NCCL.

    Raises (all methods):
        PeerLost: another process of the run has ended.
    """

    def __init__(self, device: str) -> None:
        place = placed()
        assert place is not None
        self.rank, self.size = place.rank, place.size
        on_gpu = _device(device, "run.device") == "cuda"
        if on_gpu:
            torch.cuda.set_device(place.local_rank)
        with _peers():
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes: the same bits everywhere."""
        with _peers():
            dist.all_reduce(tensor)
            # NCCL runs beside the host; gloo has finished here.

    def largest(self, tensor: Tensor) -> None:
        with _peers():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        values: list[Any] = [None] * self.size
        with _peers():
            dist.all_gather_object(values, value)
        return values

    def told(self, value: Any) -> Any:
        """Rank 0's value."""
        values = [value]
        with _peers():
            dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        return values[0]

    def leave(self) -> None:
        with _peers():
            dist.destroy_process_group()


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """torch says in many ways, all of them RuntimeErrors, that a process at the other end is gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(str(error).splitlines()[0]) from error


class Workers:
    """Processes of one run on this machine, started as torchrun starts them; see `luthier.launch`.

    Args:
        arguments: of the Python interpreter, the same for all.
        folder: where their output goes.
    """

    def __init__(self, arguments: Sequence[str], count: int, folder: Path) -> None:
        # The parent holds the store that the workers find each other by, so its port is taken, not guessed.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # their end is told by us
        with _own_signals():
            self._context: PContext = start_processes(
                name="luthier",
                entrypoint=sys.executable,
                args={rank: tuple(arguments) for rank in range(count)},
                envs={rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)},
                logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ALL),
            )
        self.pids: Mapping[int, int] = self._context.pids()
        self.exit_codes: dict[int, int] = {}
        """Of those that failed, the first first; negative: the signal that ended it."""

    def ended(self) -> bool:
        """Whether all have ended; as soon as one has failed, the others are ended."""
        found = self._context.wait(0)
        if found is None:
            return False
        failures = sorted(found.failures.values(), key=lambda failure: failure.timestamp)
        self.exit_codes = {failure.local_rank: failure.exitcode for failure in failures}
        return True

    def said(self, rank: int) -> str:
        """The last line that a worker wrote to stderr."""
        try:
            text = Path(self._context.stderrs[rank]).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

    def kill(self) -> None:
        self._context.close(signal.SIGKILL)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Give back the signal handlers that torch's launcher replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in LAUNCHER_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
