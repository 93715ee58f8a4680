"""An adapter alone as a GGUF LoRA file: on its base in a real llama.cpp it says what PEFT's model says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_gguf_write import TEXTS, model

from luthier import cli
from luthier.arch import families
from luthier.config.schema import Lora
from luthier.errors import ModelError, RunError
from luthier.export.gguf import lora, verify, write
from luthier.export.gguf.export import export
from luthier.export.receipt import ExportReceipt
from luthier.export.weights import open_source
from luthier.models import adapters

ALL = "all-linear"
NOISE = 3e-2
"""In log-probabilities of the 20 likeliest tokens. Found: 0.014 with such adapters; 1 and more with a wrong one."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"target_modules": ALL, "lora_alpha": 6}),
    "llama3": ("llama_llama3", {"target_modules": ["q_proj", "k_proj"], "lora_alpha": 16}),
    "rslora": ("qwen2", {"target_modules": ALL, "use_rslora": True, "r": 3, "lora_alpha": 5}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"k_proj": 20, "1.mlp.down_proj": 0.5},
            "lora_alpha": 5,
        },
    ),
    "qwen3": ("qwen3", {"target_modules": ["k_proj", "o_proj", "gate_proj"]}),
}


def adapted(case: str, folder: Path, **options: Any) -> tuple[Any, Any]:
    """(PEFT's model, tokenizer), with folders `model` and `adapter`."""
    made, tokenizer = model(case, folder / "model")
    peft = get_peft_model(made, LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for each in peft.parameters():
            if each.requires_grad:
                each.add_(0.2 * torch.randn_like(each))
    peft.save_pretrained(folder / "adapter")
    settings = folder / "adapter" / "adapter_config.json"
    named = {**json.loads(settings.read_text()), "base_model_name_or_path": str(folder / "model")}
    settings.write_text(json.dumps(named))
    return peft, tokenizer


def write_base(folder: Path) -> None:
    source = open_source([(folder / "model", 1.0)])
    write.write(source, write.plan(source, ["f32"]), {"f32": folder / "base.gguf"}, name="base")


def write_adapter(folder: Path, path: Path, wanted: str, *, name: str) -> None:
    lora.write_file(lora.plan(open_source([(folder, 1.0)]), lora.Wanted(wanted)), path, name=name)


def alone(target: Path, wanted: str, out: Path, base: Path | None = None) -> ExportReceipt:
    return export(target, [], out, adapter=lora.Wanted(wanted, base)).receipt


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with an adapter, and its base as a GGUF file."""
    folder = tmp_path_factory.mktemp("llama")
    adapted("llama", folder, target_modules=["q_proj", "k_proj"])
    write_base(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_says_what_pefts_model_says(case: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    name, options = CASES[case]
    peft, tokenizer = adapted(name, tmp_path, **options)
    base, file = tmp_path / "base.gguf", tmp_path / "adapter.gguf"
    write_base(tmp_path)
    write_adapter(tmp_path / "adapter", file, "f32", name="adapter")
    prompts = [tokenizer(text, add_special_tokens=False).input_ids[:20] for text in TEXTS[:2]]
    asked = {"file": str(base), "adapter": str(file), "texts": [], "messages": [], "prompts": prompts}
    told = verify.ask({**asked, "top": 20, "tokens": 6})
    assert isinstance(told, dict), told
    tops = iter(told["tops"])
    moved = 0.0
    for prompt, answer in zip(prompts, told["answers"], strict=True):
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        with torch.no_grad():
            logp, (without,) = peft(ids).logits[0].log_softmax(-1), _without(peft, ids)
        for at in range(len(prompt) - 1, ids.shape[1]):
            top = next(tops)
            assert max(abs(float(logp[at, token]) - value) for token, value in top) < NOISE
            assert float(logp[at].max() - logp[at, top[0][0]]) < NOISE
            moved = max(moved, max(abs(float(without[at, token]) - value) for token, value in top))
    assert moved > 0.3, "the adapter has to matter"


@torch.no_grad()
def _without(peft: Any, ids: torch.Tensor) -> Any:
    with peft.disable_adapter():
        return peft(ids).logits.log_softmax(-1)


def test_file_holds_what_the_format_says(llama: Path, tmp_path: Path) -> None:
    for wanted, dtype in (("f16", np.float16), ("f32", np.float32)):
        write_adapter(llama / "adapter", tmp_path / wanted, wanted, name="mine")
        read = gguf.GGUFReader(tmp_path / wanted)
        fields = {key: each.contents() for key, each in read.fields.items() if not key.startswith("GGUF.")}
        assert fields == {
            "general.architecture": "llama",
            "general.type": "adapter",
            "adapter.type": "lora",
            "adapter.lora.alpha": 8.0,
            "general.name": "mine",
            "general.file_type": int(lora.TYPES[wanted]),
        }
        parts = {f"blk.{n}.attn_{each}.weight.lora_{side}" for n in range(3) for each in "qk" for side in "ab"}
        assert {each.name for each in read.tensors} == parts
        assert {each.data.dtype for each in read.tensors} == {np.dtype(dtype)}


def test_scales_are_kept_to_the_last_bit_where_one_alpha_says_them(tmp_path: Path) -> None:
    model("qwen2", tmp_path / "model")
    for number, options in enumerate(({"rslora": True, "rank": 3}, {"rank": 5, "alpha": 7}, {"rank": 4, "alpha": 8})):
        folder = tmp_path / f"adapter-{number}"
        arch = families.read(tmp_path / "model")
        file = _saved(arch, tmp_path / "model", folder, Lora(**options))
        alpha, pairs = lora.with_one_alpha(file)
        for unit, a_RI, b_OR, scale, _ in file.deltas():
            assert torch.equal(pairs[unit][0], a_RI) and torch.equal(pairs[unit][1], b_OR)
            assert alpha / len(a_RI) == pytest.approx(scale, rel=1e-6)


def _saved(arch: Any, model_folder: Path, folder: Path, section: Lora) -> adapters.AdapterFile:
    from luthier.models import weights

    decoder = weights.load(model_folder, arch, dtype=torch.float32)
    adapters.attach(decoder, arch, section)
    adapters.save_adapter(decoder, folder, section, str(model_folder))
    return adapters.read_file(folder, arch)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "gguf.lora_dora"),
        ({"modules_to_save": ["lm_head", "model.norm"]}, "gguf.lora_saved"),
        ({"trainable_token_indices": {"embed_tokens": [3, 9], "lm_head": [3, 9]}}, "gguf.lora_tokens"),
        ({"use_dora": True, "modules_to_save": ["lm_head"]}, "gguf.lora_saved"),
    ],
)
def test_what_the_file_cannot_hold_is_refused_by_name(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    adapted("llama", tmp_path, target_modules=["q_proj"], **options)
    with pytest.raises(ModelError) as found:
        alone(tmp_path / "adapter", "f16", tmp_path / "out")
    assert named in [each.id for each in found.value.problems]
    assert not (tmp_path / "out").exists()


def test_whole_models_other_types_and_other_files_are_refused(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    noise, adapter = tmp_path / "noise.gguf", tmp_path / "a.gguf"
    noise.write_bytes(b"noise")
    write_adapter(llama / "adapter", adapter, "f16", name="a")
    for target, wanted, base, named in (
        (llama / "model", "f16", None, "gguf.lora_whole"),
        (llama / "adapter", "q8_0", None, "gguf.type"),
        (llama / "adapter", "f16", tmp_path / "absent.gguf", "gguf.lora_base"),
        (llama / "adapter", "f16", noise, "gguf.lora_base"),
        (llama / "adapter", "f16", adapter, "gguf.lora_base"),
    ):
        with pytest.raises(ModelError) as found:
            alone(target, wanted, out, base)
        assert [each.id for each in found.value.problems] == [named]
    assert not out.exists()


def test_a_full_disk_and_a_folder_that_is_not_empty(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(write, "HEAD_BYTES", 2**60)
        with pytest.raises(RunError):
            alone(llama / "adapter", "f16", out)
    assert not list(tmp_path.iterdir())
    alone(llama / "adapter", "f16", out)
    before = {each.name: each.read_bytes() for each in out.iterdir()}
    assert before.keys() == {"adapter-lora-f16.gguf", "receipt.json", "receipt.md"}
    with pytest.raises(ModelError) as found:
        alone(llama / "adapter", "f16", out)
    assert [each.id for each in found.value.problems] == ["models.not_empty"]
    assert {each.name: each.read_bytes() for each in out.iterdir()} == before


def test_everything_together_is_one_folder_with_one_receipt(llama: Path, tmp_path: Path) -> None:
    wanted = lora.Wanted("f16", llama / "base.gguf")
    done = export(llama / "adapter", ["f16", "q8_0"], tmp_path / "out", adapter=wanted, check=False, ollama=True)
    files = {f"adapter-{each}.gguf" for each in ("f16", "q8_0", "lora-f16")} | {"Modelfile-f16", "Modelfile-q8_0"}
    assert set(done.receipt.files) == files
    assert {each.name for each in done.path.iterdir()} == {*files, "receipt.json", "receipt.md"}
    assert len(done.receipt.checks) == 9 and {each.status for each in done.receipt.checks} == {"not run"}
    with pytest.raises(ModelError):  # an adapter's file cannot be had of a model; then there is no other file either
        export(llama / "model", ["f16"], tmp_path / "none", adapter=lora.Wanted("f16"))
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_receipt_says_what_was_checked(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    made = alone(llama / "adapter", "f16", tmp_path / "good", llama / "base.gguf")
    assert [(each.name, each.status) for each in made.checks] == [("gguf_lora_f16", "pass")], made.checks
    assert made.kind == "lora-gguf" and made.files.keys() == {"adapter-lora-f16.gguf"}
    made = alone(llama / "adapter", "f16", tmp_path / "unasked")
    assert [each.status for each in made.checks] == ["not run"]
    _saved(families.read(llama / "model"), llama / "model", tmp_path / "idle", Lora())
    made = alone(tmp_path / "idle", "f16", tmp_path / "idle-gguf", llama / "base.gguf")
    assert [each.status for each in made.checks] == ["not run"], "an adapter that changes nothing cannot be seen"
    right = lora.with_one_alpha
    monkeypatch.setattr(lora, "with_one_alpha", lambda file: (2 * right(file)[0], right(file)[1]))
    made = alone(llama / "adapter", "f32", tmp_path / "bad", llama / "base.gguf")
    assert [each.status for each in made.checks] == ["fail"], made.checks


def test_command(llama: Path, tmp_path: Path) -> None:
    def run(*given: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "luthier", "export", str(llama / "adapter"), *given]
        return subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)

    done = run("--lora-gguf", "F16", "-o", str(tmp_path / "out"), "--json")
    assert done.returncode == cli.OK, done.stderr
    assert list(json.loads(done.stdout)["receipt"]["files"]) == ["adapter-lora-f16.gguf"]
    assert run().returncode == 2
    unused = run("--gguf", "f16", "--base-gguf", str(llama / "base.gguf"), "-o", str(tmp_path / "more"))
    assert unused.returncode == 2 and "--base-gguf" in unused.stderr
