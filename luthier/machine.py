"""This machine, as far as it can be known without torch.

What goes in: nothing. What comes out: the memory that is left, whether the CPU has instructions for bfloat16, its rate
of matrix products, and the GPUs that the NVIDIA driver names. Torch-free.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEMINFO, CGROUP, CPUINFO = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/cpuinfo")
"""Where Linux says what memory is available, what a container may use (control groups, version 2), and what the CPU
can do."""
STATUS, VMSTAT = Path("/proc/self/status"), Path("/proc/vmstat")
OWN_GROUP, BOOT = Path("/proc/self/cgroup"), Path("/proc/sys/kernel/random/boot_id")
"""Where it counts what this process used and what its out-of-memory killer did, names this process's control group, and
tells one start of the machine from another."""
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
PROBE_ROWS, PROBE_WIDTH, PROBE_REPEATS = 512, 1024, 3
"""Shape of the product that is timed, here and by `luthier.engine.backend`: tokens of a small micro-batch times the
width of a 0.5B model; 1.1 GFLOP, so that three repeats take tens of milliseconds on a slow core."""
NVIDIA_SMI_TIMEOUT_S = 20
QUERY = ("--query-gpu=name,memory.free,compute_cap,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """As the driver names it. capability: major and minor."""

    name: str
    free_bytes: int
    capability: tuple[int, int]
    total_bytes: int


def free_memory_bytes() -> int:
    """What the kernel says is available (Linux), at most what a container may use; else half of the physical
    memory."""
    try:
        available = _table(MEMINFO).get("MemAvailable:")
    except OSError:
        available = None
    if available is not None:
        return min(available * 1024, _container_limit_bytes())
    return _machine_bytes() // 2


def memory_limit_bytes() -> int:
    """What this process could have at most: the machine's memory, or what its control group may use."""
    with contextlib.suppress(OSError, ValueError):
        return min(_machine_bytes(), int((CGROUP / "memory.max").read_text(encoding="ascii")))
    return _machine_bytes()


def kernel_kills() -> dict[str, Any] | None:
    """How often the kernel has killed for want of memory; None where it does not say.

    Returns:
        {boot: which start of the machine, machine: count; and where it has a control group of its own, group: which,
        in_group: count}. Counts of one boot, or of one group, may be compared. The group's is the sharper one, because
        on a large machine others are killed too.
    """
    try:
        found: dict[str, Any] = {
            "boot": BOOT.read_text(encoding="ascii").strip(),
            "machine": _table(VMSTAT)["oom_kill"],
        }
    except (OSError, KeyError):
        return None
    with contextlib.suppress(OSError, KeyError, StopIteration):
        lines = OWN_GROUP.read_text(encoding="utf-8").splitlines()
        folder = CGROUP / next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        # A container calls its own group `/`, whichever it is.
        group = f"{folder.relative_to(CGROUP)}:{folder.stat().st_ino}"
        found |= {"in_group": _table(folder / "memory.events")["oom_kill"], "group": group}
    return found


def boot() -> str:
    """Which start of the machine this is; empty where the system does not say."""
    try:
        return BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def resident_bytes(pid: int) -> int:
    """Memory that a process holds; 0 where there is none of that number."""
    try:
        return _table(Path(f"/proc/{pid}/status"))["VmRSS:"] * 1024
    except (OSError, KeyError, ValueError):
        return 0


def has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 by instructions of its own."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    found = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.M)
    return found is not None and not BFLOAT16_FLAGS.isdisjoint(found[1].split())


def float32_gflops() -> float:
    """Rate of a matrix product in numpy, in GFLOP/s: the best of a few. Takes tens of milliseconds on a slow core."""
    x, w = np.ones((PROBE_ROWS, PROBE_WIDTH), np.float32), np.ones((PROBE_WIDTH, PROBE_WIDTH), np.float32)
    best_s = float("inf")
    for _ in range(PROBE_REPEATS + 1):  # the first one warms up
        start = time.perf_counter()
        x @ w
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * PROBE_ROWS * PROBE_WIDTH * PROBE_WIDTH / best_s / 1e9


def gpus() -> tuple[Gpu, ...]:
    """What `nvidia-smi` lists; nothing where it is not there or does not answer. The tool takes tens of milliseconds to
    seconds."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        done = subprocess.run([tool, *QUERY], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = re.findall(r"^(.+?), *(\d+), *(\d+)\.(\d+), *(\d+)\s*$", done.stdout, re.M)
    return tuple(
        Gpu(name, int(free) * 2**20, (int(major), int(minor)), int(total) * 2**20)
        for name, free, major, minor, total in rows
    )


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_limit_bytes() -> int:
    """What a control group leaves to this process; a very large number where there is none. Cached files count as
    used there, but the kernel drops them before it refuses memory."""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return 1 << 62
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        cached = _table(CGROUP / "memory.stat").get("inactive_file", 0)
    except OSError:
        return 1 << 62
    return max(int(limit) - used + cached, 0)


def _table(path: Path) -> dict[str, int]:
    """A kernel file of lines `name number ...`."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
