"""Which device and dtype a run gets, what is restored of an earlier attempt's, and how much memory is free."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from luthier import machine
from luthier.engine import backend
from luthier.engine.backend import Backend, Probe
from luthier.errors import ConfigError


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    """A machine without a usable GPU and without nvidia-smi."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def gpu_without_driver(no_gpu):
    """An NVIDIA tool on the PATH, and a torch that sees no GPU."""
    stub = no_gpu / "nvidia-smi"
    stub.write_text("#!/bin/sh\nexit 0\n")
    stub.chmod(0o755)


# --------------------------------------------------------------------------------------------------------- device


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_it_is_the_cpu(no_gpu, device):
    assert backend.choose(device, "float32").device == "cpu"


def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error(no_gpu):
    with pytest.raises(ConfigError) as caught:
        backend.choose("cuda", "auto")
    (problem,) = caught.value.problems
    assert problem.id == "engine.gpu_unusable" and problem.where == "run.device"
    assert torch.__version__ in problem.rule


def test_a_gpu_that_this_torch_cannot_use_stops_and_says_how_to_go_on(gpu_without_driver):
    """Nobody should find out after a night that it was the CPU that trained."""
    with pytest.raises(ConfigError, match=r"run\.device=cpu") as caught:
        backend.choose("auto", "auto")
    assert "CUDA build" in str(caught.value)
    assert backend.choose("cpu", "float32").device == "cpu"


def test_a_usable_gpu_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test 9000")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(backend, "_gflops", lambda device, dtype: 1.0)
    for asked in ("auto", "cuda"):
        chosen = backend.choose(asked, "auto")
        assert (chosen.device, chosen.dtype, chosen.isa) == ("cuda", "float16", "Test 9000 sm_75")
        assert chosen.loss_scaling and "capability" in chosen.reason
    assert backend.choose("cpu", "float32").device == "cpu"


# ---------------------------------------------------------------------------------------------------------- dtype


@pytest.mark.parametrize(("full", "half", "expected"), [(10.0, 30.0, "bfloat16"), (10.0, 3.0, "float32")])
def test_the_faster_dtype_wins(monkeypatch, full, half, expected):
    rates = {torch.float32: full, torch.bfloat16: half}
    monkeypatch.setattr(backend, "_gflops", lambda device, dtype: rates[dtype])
    assert backend.probe("cpu") == Probe(
        full, half, expected, f"matmul GFLOP/s: float32 {full:.0f}, bfloat16 {half:.0f}"
    )
    chosen = backend.choose("cpu", "auto")
    assert chosen.dtype == expected and "GFLOP/s" in chosen.reason and not chosen.loss_scaling


def test_a_dtype_that_is_asked_for_is_taken(monkeypatch):
    monkeypatch.setattr(backend, "_gflops", lambda device, dtype: 1.0)
    chosen = backend.choose("cpu", "bfloat16")
    assert chosen.compute_dtype == torch.bfloat16 and "bfloat16" in chosen.reason


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="bfloat16 or float32") as caught:
        backend.choose("cpu", "float16")
    assert caught.value.problems[0].field == "model.dtype"


def test_the_probe_measures_something():
    measured = backend.probe("cpu")
    assert measured.float32_gflops > 0.1 and measured.bfloat16_gflops > 0.01
    fastest = "bfloat16" if measured.bfloat16_gflops > measured.float32_gflops else "float32"
    assert measured.dtype == fastest


# ------------------------------------------------------------------------------------------------- apply, restore


def test_apply_sets_the_threads():
    before = torch.get_num_threads()
    try:
        Backend("cpu", "float32", 3, "x", "x").apply()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_backend_comes_back_from_json_as_it_was():
    chosen = backend.choose("cpu", "float32")
    assert backend.restore(json.loads(json.dumps(chosen.to_json()))) == (chosen, [])


def test_threads_and_dtype_are_the_earlier_attempts_own():
    saved = dataclasses.replace(backend.choose("cpu", "float32"), dtype="bfloat16", threads=7)
    assert backend.restore(saved.to_json()) == (saved, [])


def test_other_instructions_are_named_with_what_they_are_now():
    here = backend.choose("cpu", "float32")
    restored, lost = backend.restore(dataclasses.replace(here, isa="s390x ZVECTOR").to_json())
    assert lost == ["isa"] and restored.isa == here.isa


def test_a_gpu_that_is_gone_is_a_cpu_in_float32(no_gpu):
    restored, lost = backend.restore(Backend("cuda", "bfloat16", 4, "Test 9000 sm_90", "x").to_json())
    assert (restored.device, restored.dtype, restored.threads) == ("cpu", "float32", 4)
    assert lost == ["device", "dtype", "isa"]


# --------------------------------------------------------------------------------------------------------- memory


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """`kernel(available_kb=, limit=, used=, cached=)` writes what Linux would say."""

    def write(available_kb=None, limit=None, used=0, cached=0):
        meminfo, group = tmp_path / "meminfo", tmp_path / "cgroup"
        group.mkdir()
        if available_kb is not None:
            meminfo.write_text(f"MemTotal:       99999999 kB\nMemAvailable:   {available_kb} kB\nHugePages_Total: 0\n")
        if limit is not None:
            (group / "memory.max").write_text(f"{limit}\n")
            (group / "memory.current").write_text(f"{used}\n")
            (group / "memory.stat").write_text(f"anon 1\nfile 5\ninactive_file {cached}\n")
        monkeypatch.setattr(machine, "MEMINFO", meminfo)
        monkeypatch.setattr(machine, "CGROUP", group)

    return write


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"available_kb": 1000}, 1000 * 1024),
        ({"available_kb": 1000, "limit": "max"}, 1000 * 1024),
        ({"available_kb": 1000, "limit": 500_000, "used": 100_000}, 400_000),
        ({"available_kb": 1000, "limit": 500_000, "used": 480_000, "cached": 300_000}, 320_000),
        ({"available_kb": 1, "limit": 500_000, "used": 100_000}, 1024),
        ({"available_kb": 1000, "limit": 100, "used": 500}, 0),
    ],
)
def test_free_memory_is_the_least_of_machine_and_container(kernel, said, expected):
    kernel(**said)
    assert backend.free_memory_bytes("cpu") == expected


def test_where_the_kernel_says_nothing_half_of_the_memory_counts(kernel):
    kernel()
    free = backend.free_memory_bytes("cpu")
    assert 2**28 < free < 2**50


def test_the_peak_is_that_of_this_process_and_not_of_its_parent():
    ballast = bytearray(os.urandom(2**20) * 700)  # the child must not begin with this
    code = (
        "from luthier.engine.backend import peak_memory_bytes as peak\n"
        "before = peak('cpu'); block = bytearray(200 * 2**20); after = peak('cpu')\n"
        "print(after - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 100 * 2**20 < int(done.stdout) < 400 * 2**20 and len(ballast) > 2**29


def test_a_model_beside_another_has_its_device_and_a_dtype_of_its_own() -> None:
    here = Backend("cpu", "bfloat16", 2, "avx512", "")
    assert here.beside({"device": "cpu", "dtype": "float32"}) == dataclasses.replace(here, dtype="float32")
    assert here.beside({"device": "cuda:0", "dtype": "bfloat16"}).dtype == "float32"
    gpu = dataclasses.replace(here, device="cuda:0")
    assert gpu.beside({"device": "cpu", "dtype": "float32"}) == dataclasses.replace(gpu, dtype="float32")
    assert gpu.beside({"device": "cuda:0", "dtype": "float16"}).dtype == "float16"
