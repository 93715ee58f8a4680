"""`luthier doctor`: what it finds, that it fits a screen, and that it tells no secrets."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from luthier import doctor
from luthier.data import native
from luthier.doctor import Diagnosis
from luthier.engine.backend import Probe
from luthier.text import set_language

SCREEN_LINES = 24


@pytest.fixture(scope="module")
def healthy() -> Diagnosis:
    return doctor.doctor()


def fake_nvidia_smi(folder: Path, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


def test_finds_what_is_there(healthy: Diagnosis) -> None:
    assert healthy.versions["torch"] == importlib.metadata.version("torch")
    assert healthy.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert healthy.machine.cores >= 1 and healthy.machine.cpu and healthy.machine.instruction_sets
    assert 0 < healthy.machine.free_bytes <= healthy.machine.total_bytes
    probe = healthy.probes["cpu"]
    assert probe.float32_gflops > 0 and probe.bfloat16_gflops > 0
    assert probe.dtype == ("bfloat16" if probe.bfloat16_gflops > probe.float32_gflops else "float32")
    assert [disk.use for disk in healthy.disks] == ["runs", "hub", "cache"]
    assert healthy.disks[0].folder == Path.cwd() and healthy.disks[0].free_bytes > 0


def test_json_holds_the_same(healthy: Diagnosis) -> None:
    told = json.loads(json.dumps(healthy.to_json()))
    assert told["versions"] == healthy.versions
    assert told["probes"]["cpu"]["dtype"] == healthy.probes["cpu"].dtype
    assert told["problems"] == [problem.to_json() for problem in healthy.problems]
    assert set(told) == {field.name for field in dataclasses.fields(Diagnosis)}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_one_screen_in_both_languages(healthy: Diagnosis, language: str) -> None:
    set_language(language)  # type: ignore[arg-type]
    crowded = dataclasses.replace(
        healthy,
        gpus=(doctor.Gpu("NVIDIA T4", (7, 5), 15 * 10**9, 16 * 10**9),) * 2,
        probes={"cuda": Probe(4000.0, 0.0, "float16", "old"), **healthy.probes},
        extras=tuple(doctor.Extra(name, ("package",)) for name in doctor.EXTRAS),
    )
    lines = crowded.lines()
    assert len(lines) <= SCREEN_LINES
    text = "\n".join(lines)
    assert "NVIDIA T4" in text and "sm_75" in text and "float16" in text and "pip install package" in text
    assert ("可以开始训练" in text) == (language == "zh" and not healthy.problems)


def test_it_says_whether_the_compiled_part_is_there(healthy: Diagnosis) -> None:
    assert healthy.compiled == (native.library() is not None)
    for compiled, words in ((True, "compiled code"), (False, "C compiler")):
        assert words in "\n".join(dataclasses.replace(healthy, compiled=compiled).lines())


def test_a_gpu_that_pytorch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    fake_nvidia_smi(tmp_path, 'echo "GPU 0: NVIDIA T4 (UUID: GPU-1234-secret)"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = doctor.doctor()
    assert found.drivers == ("NVIDIA T4",) and found.gpus == ()
    assert [problem.id for problem in found.problems if problem.id.startswith("engine")] == ["engine.gpu_unusable"]
    text = "\n".join(found.lines())
    assert "NVIDIA T4" in text and "delete .venv" in text and "secret" not in text
    assert [extra.name for extra in found.extras] == ["gpu", "track", "hub"]


def test_a_driver_that_does_not_answer_is_still_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, "exit 9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert doctor._drivers() == ("nvidia-smi",)


def test_wrong_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    true_version = importlib.metadata.version

    def version(package: str) -> str:
        if package == "gguf":
            raise importlib.metadata.PackageNotFoundError(package)
        return "2.3.0" if package == "torch" else true_version(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    problems = {problem.values["package"]: problem for problem in doctor.doctor().problems}
    assert problems["torch"].id == "doctor.version" and "2.10" in problems["torch"].rule
    assert problems["gguf"].id == "doctor.package_missing" and "pip install" in problems["gguf"].remedy
    assert set(problems) == {"torch", "gguf"}


def test_a_nearly_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK_BYTES", 10**18)
    found = doctor.doctor()
    assert {problem.id for problem in found.problems} == {"doctor.little_disk"}
    assert "HF_HOME" in "\n".join(found.lines())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """In a child that is nobody: root may write anywhere."""
    code = (
        "import os, sys; from pathlib import Path; from luthier import doctor\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "disk = doctor._disk('hub', Path('/') / 'nowhere' / 'deep') if os.geteuid() else None\n"
        "print([problem.id for problem in doctor._disk_problems((disk,)) if problem.id == 'doctor.unwritable'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['doctor.unwritable']"


def test_tells_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.invalid")
    found = doctor.doctor()
    text = "\n".join(found.lines()) + json.dumps(found.to_json()) + repr(found)
    assert "secret" not in text
    assert "mirror.invalid" in text and "HTTPS_PROXY" in text and "HF_TOKEN set: yes" in text


def test_every_message_reads_in_both_languages() -> None:
    from luthier.text import doctor as doctor_text

    for message, (english, chinese) in doctor_text.TEXT.items():
        names = [{part.split("}")[0] for part in text.split("{")[1:]} for text in (english, chinese)]
        assert english and chinese and names[0] == names[1], message
