"""Merging: what comes out is what PEFT's own merge gives, and what the adapter says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import TINY, difference, reference_logits, save, write_config
from transformers import AutoModelForCausalLM

import luthier
from luthier import cli
from luthier.arch import families
from luthier.config.schema import Lora
from luthier.errors import ModelError, UserError
from luthier.export import weights as source
from luthier.models import adapters, shards, weights
from luthier.session import Base

PEFT_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"target_modules": ["q_proj", "v_proj", "up_proj"]}),
    "rslora": ("qwen2", {"target_modules": "all-linear", "use_rslora": True}),
    "patterns": ("qwen2", {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"q_proj": 2}, "lora_alpha": 5}),
    "dora": ("qwen3", {"target_modules": "all-linear", "use_dora": True}),
    "dora_rslora": ("llama_biased", {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "use_rslora": True}),
    "saved": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]}),
    "saved_tied": (
        "qwen2_tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    ),
    "tokens": (
        "llama",
        {"target_modules": ["v_proj"], "trainable_token_indices": {"embed_tokens": [3, 9], "lm_head": [3, 9]}},
    ),
}


def base_of(folder: Path) -> Base:
    return Base(str(folder), folder, None, None, families.read(folder))


def shake(model: Any, seed: int = 0) -> None:
    """Every trained tensor moves, so that nothing is left out unseen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.requires_grad:
                each.mul_(1 + 0.2 * torch.randn_like(each)) if "magnitude" in name else each.add_(
                    0.1 * torch.randn_like(each)
                )


def make_adapter(base: Path, folder: Path, dtype: torch.dtype, seed: int = 0, **settings: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    config = LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", **settings})
    wrapped = get_peft_model(model, config)
    shake(wrapped, seed)
    wrapped.save_pretrained(folder, save_embedding_layers=False)


def make_base(family: str, folder: Path, dtype: torch.dtype) -> None:
    save(family, folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)


def merged_by_peft(base: Path, adapter: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter)
    return dict(model.merge_and_unload().state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("case", PEFT_CASES)
def test_every_tensor_is_that_of_pefts_own_merge(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    family, settings = PEFT_CASES[case]
    make_base(family, tmp_path / "base", dtype)
    make_adapter(tmp_path / "base", tmp_path / "adapter", dtype, **settings)
    expected = merged_by_peft(tmp_path / "base", tmp_path / "adapter", dtype)
    made = source.merged(base_of(tmp_path / "base"), [(tmp_path / "adapter", 1.0)])
    base = load_file(tmp_path / "base" / "model.safetensors")
    moved = 0
    for name in made.names:
        got, want = made.tensor(name), expected[name]
        assert got.dtype == dtype and got.shape == want.shape == made.shapes[name]
        # PEFT rounds the product to the base's dtype before it adds it, and the sum again.
        room = 1e-6 if dtype == torch.float32 else 2**-7
        assert float((got.float() - want.float()).abs().max()) <= room * float(want.float().abs().max()), name
        assert made.changed(name) == (not torch.equal(got, base[name])), name
        moved += made.changed(name)
    assert moved


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.5, 1.25)])
def test_several_adapters_are_pefts_weighted_sum(strengths: tuple[float, float], tmp_path: Path) -> None:
    make_base("qwen2", tmp_path / "base", torch.float32)
    make_adapter(tmp_path / "base", tmp_path / "one", torch.float32, target_modules=["q_proj", "up_proj"])
    make_adapter(tmp_path / "base", tmp_path / "two", torch.float32, 1, target_modules=["q_proj", "up_proj"], r=2)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "one", "one")
    model.load_adapter(tmp_path / "two", "two")
    model.add_weighted_adapter(["one", "two"], list(strengths), "both", combination_type="cat")
    model.set_adapter("both")
    expected = model.merge_and_unload().state_dict()
    voices = [(tmp_path / name, each) for name, each in zip(("one", "two"), strengths, strict=True)]
    made = source.merged(base_of(tmp_path / "base"), voices)
    for name in made.names:
        assert difference(made.tensor(name), expected[name]) <= 2e-6, name


def test_strength_goes_from_the_base_to_the_adapter_for_every_kind(tmp_path: Path) -> None:
    """At 0 the base, at 1 the adapter, in the middle the middle: DoRA, copies and token rows too."""
    for case in ("dora", "saved", "tokens"):
        family, settings = PEFT_CASES[case]
        base, adapter = tmp_path / case / "base", tmp_path / case / "adapter"
        make_base(family, base, torch.float32)
        make_adapter(base, adapter, torch.float32, **settings)
        none, half, whole = (source.merged(base_of(base), [(adapter, each)]) for each in (0.0, 0.5, 1.0))
        stored = load_file(base / "model.safetensors")
        assert not any(none.changed(name) for name in none.names)
        for name in whole.names:
            middle = (stored[name] + whole.tensor(name)) / 2
            assert difference(half.tensor(name), middle) <= 1e-6, name


def test_strips_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base("qwen3", tmp_path / "base", torch.float32)
    make_adapter(tmp_path / "base", tmp_path / "adapter", torch.float32, target_modules="all-linear", use_dora=True)
    made = source.merged(base_of(tmp_path / "base"), [(tmp_path / "adapter", 1.0)])
    at_once = {name: made.tensor(name) for name in made.names}
    monkeypatch.setattr(source, "STRIP_ELEMENTS", 100)
    for name in made.names:
        assert difference(made.tensor(name), at_once[name]) <= 1e-6, name


CHILD = """
import sys
from pathlib import Path
import torch
from luthier.arch import families
from luthier.export.weights import merged
from luthier.models import weights
from luthier.session import Base
torch.set_num_threads(1)
base, adapter, out = map(Path, sys.argv[1:])
def held():  # without pages of mapped files, which the system keeps or drops as it has room
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024
before = most = held()
source = merged(Base(str(base), base, None, None, families.read(base)), [(adapter, 1.0)])
out.mkdir()
def tensors():
    global most
    for name in source.names:
        tensor = source.tensor(name)
        most = max(most, held())
        yield name, tensor
        most = max(most, held())
weights.write_files(out, tensors(), source.arch, base, source.dtypes)
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Four times the layers, the same peak, which is that of a tensor or two."""
    peaks = {}
    for layers in (2, 8):
        folder = tmp_path / str(layers)
        sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": layers}
        write_config(folder / "base", {**TINY, "model_type": "llama", **sizes, "torch_dtype": "bfloat16"})
        arch = families.read(folder / "base")
        zeros = (torch.ones(shape, dtype=torch.bfloat16) for shape in arch.tensors.values())
        shards.write_file(folder / "base" / shards.SINGLE, arch.tensors, torch.bfloat16, zeros)
        decoder = weights.blank(arch, dtype=torch.bfloat16, device="cpu")
        adapters.attach(decoder, arch, Lora(rank=2))
        adapters.save_adapter(decoder, folder / "adapter", Lora(rank=2), "-")
        command = [sys.executable, "-c", CHILD, *(str(folder / name) for name in ("base", "adapter", "out"))]
        # Blocks of tensors go back to the system when they are freed, instead of when the allocator sees fit.
        settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_ARENA_MAX": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=settings)
        peaks[layers] = int(done.stdout)
        size = (folder / "out" / shards.SINGLE).stat().st_size
    assert size > 100e6
    assert peaks[8] < peaks[2] + 10e6, peaks
    assert peaks[8] < size / 2, peaks


# ---------------------------------------------------------------------------------------------------- the whole of it


@pytest.fixture
def tuned(tiny_model: Any, tmp_path: Path) -> Path:
    """A folder with a base and a PEFT adapter for it."""
    make_adapter(tiny_model("qwen2"), tmp_path / "tuned", torch.float32, target_modules="all-linear")
    return tmp_path / "tuned"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_merged_folder_is_an_ordinary_model(tiny_model: Any, dora: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model("qwen2"), base)
    if dtype != torch.float32:
        AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(base)
    make_adapter(base, tmp_path / "tuned", dtype, target_modules="all-linear", use_dora=dora)
    done = luthier.merge(tmp_path / "tuned", tmp_path / "out")
    checks = {check.name: check.status for check in done.receipt.checks}
    assert checks == {"base": "not run", "agreement": "pass"}
    names = {each.name for each in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert {"generation_config.json", "README.md", "receipt.json", "receipt.md"} <= names
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert whole.dtype == dtype
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(plain, tmp_path / "tuned").eval()
    bound = 1e-5 if dtype == torch.float32 else 0.05
    assert difference(reference_logits(whole.float()), reference_logits(tuned)) <= bound
    written = json.loads((tmp_path / "out" / "receipt.json").read_text(encoding="utf-8"))
    assert written["forced"] is False and written["adapters"][0]["strength"] == 1
    for name, entry in written["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
    assert luthier.open_session(tmp_path / "out").answer("hi", luthier.Sampling(max_tokens=2)) is not None


def test_a_merge_that_disagrees_is_not_written_unless_forced(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source.Source, "changed", lambda *_: False)
    with pytest.raises(ModelError) as error:
        luthier.merge(tuned, tmp_path / "out")
    assert [each.id for each in error.value.problems] == ["export.disagrees"]
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    done = luthier.merge(tuned, tmp_path / "out", force=True)
    assert done.receipt.forced and done.receipt.failed == 1
    assert "--force" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_run_is_merged_by_name_and_its_base_is_held_to_its_hash(
    tiny_model: Any, write_rows: Any, tmp_path: Path, runs_dir: Path, no_fresh_process: None, capsys: Any
) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "base")
    rows = write_rows("rows.jsonl", [{"instruction": f"say {n}", "output": f"it is {n}"} for n in range(24)])
    recipe = {
        "model": str(tmp_path / "base"),
        "data": {"train": str(rows), "max_tokens": 64},
        "optim": {"steps": 3, "lr": 0.01, "warmup": 0},
        "run": {"name": "small", "dir": str(runs_dir), "device": "cpu"},
    }
    run = luthier.train(recipe)
    assert cli.run(["merge", str(run.path), "-o", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "100 % of the tensors" in printed.err and printed.err.count("% of the tensors") > 5
    told = json.loads(printed.out)
    assert {check["name"]: check["status"] for check in told["receipt"]["checks"]} == {
        "base": "pass",
        "agreement": "pass",
    }
    again = run.merge()
    assert again == run.path.with_name("small-merged")
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert cli.run(["merge", f"{run.path}=much", "-o", str(tmp_path / "other")]) == 2
    assert cli.run(["merge", str(run.path), "-o", str(tmp_path / "out")]) == 2, "the folder holds something"
    with (tmp_path / "base" / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError) as error:
        run.merge(tmp_path / "third")
    assert [each.id for each in error.value.problems] == ["models.base_changed"]


def test_what_cannot_be_merged_is_refused_in_words(
    tiny_model: Any, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ids(*given: Any, **options: Any) -> list[str]:
        with pytest.raises(UserError) as error:
            luthier.merge(*given, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists() and str(error.value)
        return [each.id for each in error.value.problems]

    assert ids(str(tiny_model("qwen2"))) == ["export.nothing_to_merge"]
    assert ids([(tuned, 1.0), (tiny_model("qwen2"), 1.0)]) == ["export.whole_model"]
    other = tmp_path / "other"
    make_adapter(tiny_model("llama"), other, torch.float32, target_modules=["q_proj"])
    assert ids([(tuned, 1.0), (other, 1.0)]) == ["export.bases_differ"]
    settings = json.loads((other / "adapter_config.json").read_text(encoding="utf-8"))
    (other / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    assert ids(other) == ["export.no_base"]
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert ids(tuned) == ["runs.no_room"]
