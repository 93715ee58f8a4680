"""What this machine and this installation can do.

What goes in: nothing but the machine. What comes out: a `Diagnosis` with versions, devices and their measured speed,
memory, disks, optional packages and settings, and whatever stands in the way of training with its remedy. It fits one
screen, and `to_json` holds the same for programs; neither holds a token or a password.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from packaging.requirements import Requirement

from luthier.config.load import Environment, environment
from luthier.data import native
from luthier.data.helpers import cores
from luthier.engine import backend
from luthier.engine.backend import Probe
from luthier.errors import Problem
from luthier.text import say

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy")
"""Shown with their versions; the ones that a report of a fault needs. All others are checked too."""
EXTRAS = ("gpu", "track", "hub")
"""The extras that add to what a user can do (gpu: where there is one); the rest are for developers."""
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
"""What decides how fast a CPU trains, as Linux names it."""
LEAST_DISK_BYTES = 5 * 10**9
"""A 0.5B model with its run takes about 3 GB: weights 1 GB, merged copy 1 GB, checkpoints and caches the rest."""
NVIDIA_SMI_TIMEOUT_S = 20


@dataclasses.dataclass(frozen=True)
class Machine:
    system: str
    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    free_bytes: int
    total_bytes: int


@dataclasses.dataclass(frozen=True)
class Gpu:
    """capability: compute capability, such as (8, 0)."""

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int


@dataclasses.dataclass(frozen=True)
class Disk:
    """use: `runs`, `hub` or `cache`; folder: the place itself, which may not exist yet."""

    use: Literal["runs", "hub", "cache"]
    folder: Path
    free_bytes: int
    writable: bool


@dataclasses.dataclass(frozen=True)
class Extra:
    """missing: the packages of the extra that are not installed."""

    name: str
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `luthier doctor` found.

    Attributes:
        versions: package -> version; None where it is not installed.
        gpus: the devices that PyTorch can use; drivers: what nvidia-smi lists, usable or not.
        compiled: whether the compiled part is there, which makes data ready faster.
        probes: device -> measured matmul speed and the compute dtype that follows.
        problems: what stands in the way, each with a remedy.
    """

    versions: dict[str, str | None]
    machine: Machine
    gpus: tuple[Gpu, ...]
    drivers: tuple[str, ...]
    compiled: bool
    probes: dict[str, Probe]
    disks: tuple[Disk, ...]
    extras: tuple[Extra, ...]
    environment: Environment
    problems: tuple[Problem, ...]

    def lines(self) -> list[str]:
        """One screen for people: a label and a fact per line, problems last."""
        return [_labelled(*row) for row in self._rows()] + ["", *(_verdict(self.problems))]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "versions": self.versions,
            "machine": dataclasses.asdict(self.machine),
            "gpus": [dataclasses.asdict(gpu) for gpu in self.gpus],
            "drivers": list(self.drivers),
            "compiled": self.compiled,
            "probes": {device: dataclasses.asdict(probe) for device, probe in self.probes.items()},
            "disks": [{**dataclasses.asdict(disk), "folder": str(disk.folder)} for disk in self.disks],
            "extras": {extra.name: {"missing": list(extra.missing)} for extra in self.extras},
            "environment": self.environment.to_json(),
            "problems": [problem.to_json() for problem in self.problems],
        }

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("versions", " · ".join(f"{name} {version or '-'}" for name, version in self.versions.items()))]
        rows += _machine_rows(self.machine)
        rows += [("gpu", _gpu_text(gpu)) for gpu in self.gpus] or [
            ("gpu", ", ".join(self.drivers) or say("doctor.no_gpu"))
        ]
        rows += [("devices", _devices_text(len(self.gpus)))]
        rows += [("speed", _probe_text(device, probe)) for device, probe in self.probes.items()]
        rows += [("data", say("doctor.compiled" if self.compiled else "doctor.not_compiled"))]
        rows += [("disk", _disk_text(disk)) for disk in self.disks]
        settings = self.environment.to_json()
        hub = say(
            "doctor.hub",
            endpoint=settings["hf_endpoint"],
            token=_yes(self.environment.hf_token_set),
            offline=_yes(self.environment.hf_offline),
            proxies=", ".join(self.environment.proxies) or say("doctor.none"),
        )
        return [*rows, ("hub", hub), *(("extras", _extra_text(extra)) for extra in self.extras)]


def doctor() -> Diagnosis:
    """Look at the machine and the installation; measures matmul speed for some tenths of a second."""
    settings = environment()
    drivers = _drivers()
    requirements = [Requirement(text) for text in importlib.metadata.requires("luthier") or ()]
    disks = (_disk("runs", Path.cwd()), _disk("hub", settings.hf_home), _disk("cache", settings.cache_dir))
    usable = torch.cuda.is_available()
    problems = [*_version_problems(requirements), *_disk_problems(disks)]
    if drivers and not usable:
        problems.append(Problem("engine.gpu_unusable", where=", ".join(drivers), values={"torch": torch.__version__}))
    return Diagnosis(
        versions={"luthier": _version("luthier"), "python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
        machine=_machine(),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())) if usable else (),
        drivers=drivers,
        compiled=native.library() is not None,
        probes={device: backend.probe(device) for device in (["cuda", "cpu"] if usable else ["cpu"])},
        disks=disks,
        extras=tuple(_extra(name, requirements) for name in EXTRAS if name != "gpu" or drivers),
        environment=settings,
        problems=tuple(problems),
    )


# ---------------------------------------------------------------------------------------------------- packages


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version_problems(requirements: list[Requirement]) -> list[Problem]:
    """Dependencies that are missing or of another version than pyproject.toml asks for."""
    problems = []
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        values = {
            "package": requirement.name,
            "version": version,
            "wanted": str(requirement.specifier),
            "command": _pip_install(f'"{requirement.name}{requirement.specifier}"'),
        }
        if version is None:
            problems.append(Problem("doctor.package_missing", values=values))
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(Problem("doctor.version", values=values))
    return problems


def _extra(name: str, requirements: list[Requirement]) -> Extra:
    wanted = [
        each.name
        for each in requirements
        if each.marker is not None and each.marker.evaluate({"extra": name}) and not each.marker.evaluate({"extra": ""})
    ]
    return Extra(name, tuple(package for package in wanted if _version(package) is None))


def _pip_install(*packages: str) -> str:
    python = sys.executable
    with_quotes = f'"{python}"' if " " in python else python
    return f"{with_quotes} -m pip install {' '.join(packages)}"


# ----------------------------------------------------------------------------------------------------- machine


def _machine() -> Machine:
    name, flags = platform.processor() or platform.machine(), set()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if found := re.search(r"^model name\s*: (.+)$", text, re.M):
        name = found[1].strip()
    if found := re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.M):
        flags = set(found[1].split())
    sets = tuple(each for each in INSTRUCTION_SETS if each in flags) or (torch.backends.cpu.get_cpu_capability(),)
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=name,
        cores=cores(),
        instruction_sets=sets,
        free_bytes=backend.free_memory_bytes("cpu"),
        total_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _gpu(index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index), free, total)


def _drivers() -> tuple[str, ...]:
    """GPUs that the NVIDIA driver knows, whether PyTorch can use them or not; `nvidia-smi` where it is there but does
    not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ("nvidia-smi",)
    # `GPU 0: NVIDIA H200 (UUID: GPU-...)`; the serial number is nobody's business.
    names = re.findall(r"^GPU \d+: (.+?)(?: \(UUID.*)?$", listed.stdout, re.M)
    return tuple(names) or ("nvidia-smi",)


def _disk(use: Literal["runs", "hub", "cache"], folder: Path) -> Disk:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return Disk(use, folder, shutil.disk_usage(there).free, os.access(there, os.W_OK | os.X_OK))


def _disk_problems(disks: tuple[Disk, ...]) -> list[Problem]:
    problems = [Problem("doctor.unwritable", where=str(disk.folder)) for disk in disks if not disk.writable]
    for disk in disks:
        if disk.free_bytes < LEAST_DISK_BYTES:
            values = {"free": _gigabytes(disk.free_bytes), "least": round(LEAST_DISK_BYTES / 1e9)}
            problems.append(Problem("doctor.little_disk", where=str(disk.folder), values=values))
    return problems


# -------------------------------------------------------------------------------------------------------- text


def _labelled(label: str, text: str) -> str:
    label = say(f"doctor.label.{label}")
    wide = sum(2 if ord(letter) > 0x2E80 else 1 for letter in label)  # Chinese letters take two columns
    return f"{label}{' ' * (10 - wide)}{text}"


def _verdict(problems: tuple[Problem, ...]) -> list[str]:
    return [line for problem in problems for line in str(problem).splitlines()] or [say("doctor.well")]


def _machine_rows(machine: Machine) -> list[tuple[str, str]]:
    facts = say(
        "doctor.machine",
        system=machine.system,
        cpu=machine.cpu,
        cores=machine.cores,
        isa=" ".join(machine.instruction_sets),
    )
    memory = say("doctor.memory", free=_gigabytes(machine.free_bytes), total=_gigabytes(machine.total_bytes))
    return [("machine", facts), ("memory", memory)]


def _gpu_text(gpu: Gpu) -> str:
    return say(
        "doctor.gpu",
        name=gpu.name,
        capability="".join(map(str, gpu.capability)),
        free=_gigabytes(gpu.free_bytes),
        total=_gigabytes(gpu.total_bytes),
    )


def _devices_text(gpus: int) -> str:
    """What `run.devices: auto` comes to here, and how several would talk to each other."""
    return say("doctor.devices_gpu" if gpus else "doctor.devices_cpu", count=max(gpus, 1))


def _probe_text(device: str, probe: Probe) -> str:
    return say(
        "doctor.speed",
        device=device,
        float32=round(probe.float32_gflops),
        bfloat16=round(probe.bfloat16_gflops),
        dtype=probe.dtype,
    )


def _disk_text(disk: Disk) -> str:
    return say("doctor.disk", free=_gigabytes(disk.free_bytes), folder=disk.folder, use=say(f"doctor.disk.{disk.use}"))


def _extra_text(extra: Extra) -> str:
    use = say(f"doctor.use.{extra.name}")
    if not extra.missing:
        return say("doctor.extra.there", name=extra.name, use=use)
    return say("doctor.extra.missing", name=extra.name, use=use, command=_pip_install(*extra.missing))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}"


def _yes(fact: bool) -> str:
    return say("doctor.yes" if fact else "doctor.no")
