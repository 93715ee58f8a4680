"""Weights in and out of the decoder, held against transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import BOUND, CASES, TINY, build, difference, logits_of, reference_logits, save, write_config
from transformers import AutoModelForCausalLM

from luthier.arch import families
from luthier.batch import Rendered
from luthier.data import pack
from luthier.errors import ModelError, RunError
from luthier.models import shards, weights
from luthier.models.decoder import Decoder, Want


def load(folder: Path, **options: Any) -> Decoder:
    return weights.load(folder, families.read(folder), **{"dtype": torch.float32, **options})


def refused(folder: Path, **options: Any) -> list[str]:
    """The ids of the problems that loading names; their texts must form."""
    with pytest.raises(ModelError) as error:
        load(folder, **options)
    assert all(str(problem) for problem in error.value.problems)
    return [problem.id.removeprefix("models.") for problem in error.value.problems]


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Change the tensors of a single-file checkpoint."""
    tensors = load_file(folder / shards.SINGLE)
    change(tensors)
    save_file(tensors, folder / shards.SINGLE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["llama", "qwen2_tied"])
def test_gradients_of_weights_kept_in_bfloat16_are_those_of_masters(name: str, tmp_path: Path) -> None:
    """Of equal value, computed with in bfloat16: every bit, however often a token comes; and they are float32."""
    save(name, tmp_path)
    arch = families.read(tmp_path)
    rng = np.random.default_rng(0)
    ids = np.where(rng.random(200) < 0.8, 7, rng.integers(0, arch.spec.vocab, 200)).astype(np.int32)
    weight = np.ones(200, dtype=np.float32)
    weight[0] = 0
    (batch,) = pack.microbatches([Rendered(0, ids, weight)], 10**6)
    found = []
    for trained_dtype in (torch.bfloat16, torch.float32):
        decoder = load(tmp_path, dtype=torch.bfloat16, trainable=lambda _: True, trained_dtype=trained_dtype)
        for parameter in decoder.parameters():
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)
        for _ in range(2):  # two micro-batches add up
            scores = decoder(batch, Want("linear", coefficients=torch.from_numpy(-batch.weights["nll"])))
            assert scores.total is not None
            scores.total.backward()
        found.append({each: parameter.grad for each, parameter in decoder.named_parameters()})
        matrices = {parameter.dtype for parameter in decoder.parameters() if parameter.ndim > 1}
        assert matrices == {trained_dtype}
    for each, gradient in found[0].items():
        assert gradient is not None and gradient.dtype == torch.float32
        assert torch.equal(gradient, found[1][each]), each


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path)
    assert difference(logits_of(load(tmp_path)), reference_logits(model)) <= BOUND


@pytest.mark.parametrize("name", ["llama_tied", "qwen3"])
def test_shards_load_like_one_file(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path / "one")
    save(name, tmp_path / "many", max_shard_size="12KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    one, many = (dict(load(tmp_path / each).named_parameters()) for each in ("one", "many"))
    theirs = dict(model.named_parameters())
    assert one.keys() == many.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(one[key], value) and torch.equal(many[key], value)


def test_frozen_weights_have_the_compute_dtype_and_trained_ones_are_float32(tmp_path: Path) -> None:
    model = save("qwen2", tmp_path)
    decoder = load(tmp_path, dtype=torch.bfloat16, trainable=lambda name: "layers.2." in name)
    theirs = dict(model.named_parameters())
    for name, parameter in decoder.named_parameters():
        trained = "layers.2." in name
        assert parameter.requires_grad == trained
        assert parameter.dtype == (torch.float32 if trained else torch.bfloat16)
        assert torch.equal(parameter, theirs[name].to(parameter.dtype))


def test_a_checkpoint_in_bfloat16_gives_exact_float32(tmp_path: Path) -> None:
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    theirs = load_file(tmp_path / shards.SINGLE)
    for name, parameter in load(tmp_path).named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, theirs[name].float())


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save("llama_biased", base)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(base, tmp_path / name))

    assert refused(rewrite(copy("missing"), lambda t: t.pop("model.norm.weight"))) == ["missing_tensors"]
    odd = copy("unexpected")
    assert refused(rewrite(odd, lambda t: t.update({"model.extra.weight": torch.ones(1)}))) == ["unexpected_tensors"]
    shape = rewrite(copy("shape"), lambda t: t.update({"lm_head.weight": torch.ones(49, 32)}))
    with pytest.raises(ModelError, match=r"lm_head\.weight \[49, 32\] \(config\.json: \[48, 32\]\)"):
        load(shape)
    ints = rewrite(copy("ints"), lambda t: t.update({"lm_head.weight": torch.ones(48, 32, dtype=torch.int8)}))
    assert refused(ints) == ["weight_dtype"]
    unbiased = write_config(copy("config"), {**json.loads((base / "config.json").read_text()), "mlp_bias": False})
    with pytest.raises(ModelError, match=r"9 weights.*model\.layers\.0\.mlp\.down_proj\.bias.*, \.\.\."):
        load(unbiased)
    both = rewrite(copy("both"), lambda t: t.update({"model.norms": t.pop("model.norm.weight")}))
    assert refused(both) == ["missing_tensors", "unexpected_tensors"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    save("llama", tmp_path / "one")
    file = tmp_path / "one" / shards.SINGLE
    whole = file.read_bytes()
    for content in (
        whole[:-1],
        whole[:100],
        whole[:3],
        b"",
        whole + b"x",
        b"\xff" * 64,
        b"\x08" + b"\0" * 7 + b"[1,2,3] ",
    ):
        file.write_bytes(content)
        assert refused(tmp_path / "one") == ["damaged"], content[:20]
    file.unlink()
    assert refused(tmp_path / "one") == ["no_weights"]
    (tmp_path / "one" / "pytorch_model.bin").write_bytes(b"")
    assert refused(tmp_path / "one") == ["only_bin"]
    (tmp_path / "one" / "adapter_config.json").write_text("{}")
    assert refused(tmp_path / "one") == ["is_adapter"]


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    save("llama", tmp_path, max_shard_size="12KB")
    index = tmp_path / shards.INDEX
    content = json.loads(index.read_text())
    some = sorted(set(content["weight_map"].values()))[1]
    shutil.move(tmp_path / some, tmp_path / "aside")
    with pytest.raises(ModelError, match=some):
        load(tmp_path)
    (tmp_path / some).write_bytes((tmp_path / "aside").read_bytes()[:-4])
    assert refused(tmp_path) == ["damaged"]
    for text in ("{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../model.safetensors"}}'):
        index.write_text(text)
        assert refused(tmp_path) == ["bad_index"], text


def test_rotary_tables_and_a_redundant_head_are_allowed(tmp_path: Path) -> None:
    save("llama_tied", tmp_path)

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    plain = logits_of(load(tmp_path))
    assert torch.equal(logits_of(load(rewrite(tmp_path, add))), plain)
    rewrite(tmp_path, lambda tensors: tensors["lm_head.weight"][0, 0].add_(1))
    assert refused(tmp_path) == ["head_differs"]


def test_weights_too_large_for_float16_are_an_error(tmp_path: Path) -> None:
    save("llama", tmp_path)
    load(tmp_path, dtype=torch.float16)
    rewrite(tmp_path, lambda tensors: tensors["model.norm.weight"][0].fill_(7e4))
    assert refused(tmp_path, dtype=torch.float16) == ["overflow"]
    load(tmp_path, dtype=torch.bfloat16)


def test_fresh_weights_depend_on_seed_and_name_only(tmp_path: Path) -> None:
    wide = {**TINY, "model_type": "qwen2", "vocab_size": 600, "hidden_size": 128}
    three = families.read(write_config(tmp_path / "a", wide))
    two = families.read(write_config(tmp_path / "b", {**wide, "num_hidden_layers": 2, "tie_word_embeddings": True}))
    first, again = (dict(weights.random(three, 1, dtype=torch.float32).named_parameters()) for _ in range(2))
    other = dict(weights.random(three, 2, dtype=torch.float32).named_parameters())
    smaller = dict(weights.random(two, 1, dtype=torch.float32).named_parameters())
    half = dict(weights.random(three, 1, dtype=torch.bfloat16).named_parameters())
    for name, value in first.items():
        assert torch.equal(value, again[name]) and torch.equal(value.bfloat16(), half[name])
        assert name not in smaller or torch.equal(value, smaller[name])
        assert (value.ndim == 1) == torch.equal(value, other[name])
    assert float(first["model.norm.weight"].sum()) == 128 and not first["model.layers.0.self_attn.q_proj.bias"].any()
    embedding = first["model.embed_tokens.weight"]
    assert abs(float(embedding.std()) / 0.02 - 1) < 0.02 and abs(float(embedding.mean())) < 5e-4
    pair = first["model.layers.0.mlp.up_proj.weight"], first["model.layers.1.mlp.up_proj.weight"]
    assert abs(float(torch.corrcoef(torch.stack([each.flatten() for each in pair]))[0, 1])) < 0.05


def test_large_tensors_are_drawn_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arch = families.read(write_config(tmp_path, {**TINY, "model_type": "llama"}))
    whole = dict(weights.random(arch, 3, dtype=torch.float32).named_parameters())
    monkeypatch.setattr(weights, "DRAW_ELEMENTS", 100)
    for name, value in weights.random(arch, 3, dtype=torch.float32).named_parameters():
        assert torch.equal(value, whole[name])


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen3", "llama_biased"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 15_000])
def test_transformers_reads_what_is_saved(name: str, max_shard_bytes: int, tmp_path: Path) -> None:
    model = save(name, tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text('{"eos_token_id": 7}')
    decoder = load(tmp_path / "base")
    with torch.no_grad():
        for ours, theirs in zip(decoder.parameters(), model.parameters(), strict=True):
            ours.mul_(1.25)
            theirs.mul_(1.25)
    out = tmp_path / "out"
    weights.save_model(decoder, tmp_path / "base", out, torch.float32, max_shard_bytes)
    assert (out / shards.INDEX).is_file() == (max_shard_bytes < 10**9)
    assert all(file.stat().st_size < 20_000 for file in out.glob("model-*"))
    read = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert read.dtype == torch.float32 and read.generation_config.eos_token_id == 7
    for key, value in model.state_dict().items():
        assert torch.equal(read.state_dict()[key], value)
    assert torch.equal(logits_of(load(out)), logits_of(decoder))
    stored = shards.index(out)
    assert ("lm_head.weight" in stored) == (name != "qwen2_tied")
    half = tmp_path / "half"
    weights.save_model(decoder, tmp_path / "base", half, torch.bfloat16)
    halved = AutoModelForCausalLM.from_pretrained(half, dtype="auto")
    assert halved.dtype == torch.bfloat16
    for key, value in model.state_dict().items():
        assert torch.equal(halved.state_dict()[key], value.to(torch.bfloat16))


def test_saving_touches_neither_the_base_nor_what_is_there(tmp_path: Path) -> None:
    save("llama", tmp_path / "base")
    decoder = load(tmp_path / "base")
    with pytest.raises(ModelError) as error:
        weights.save_model(decoder, tmp_path / "base", tmp_path / "base" / ".." / "base", torch.float32)
    assert [problem.id for problem in error.value.problems] == ["models.same_folder"]
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(ModelError) as error:
        weights.save_model(decoder, tmp_path / "base", full, torch.float32)
    assert [problem.id for problem in error.value.problems] == ["models.not_empty"]
    assert [each.name for each in full.iterdir()] == ["notes.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    weights.save_model(decoder, tmp_path / "base", empty, torch.float32)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["base", "empty", "full"]


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "left.over").write_text("from a killed process")
    with pytest.raises(KeyboardInterrupt), shards.fresh_folder(tmp_path / "out", 10) as folder:
        assert list(folder.iterdir()) == []
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with shards.fresh_folder(tmp_path / "out", 10) as folder:
        (folder / "whole").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["whole"]
    with pytest.raises(RunError) as error, shards.fresh_folder(tmp_path / "huge", 2**60):
        pass
    assert [problem.id for problem in error.value.problems] == ["runs.no_room"]
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied"])
def test_rows_of_the_scoring_matrix_come_from_the_file(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path, max_shard_size="12KB")
    arch = families.read(tmp_path)
    rows = weights.embedding_rows(tmp_path, arch, [47, 0, 5, 48])
    assert rows.shape == (4, 32) and rows.dtype == "float32" and not rows[3].any()
    assert torch.equal(torch.from_numpy(rows[:3]), model.get_output_embeddings().weight[[47, 0, 5]])
    assert weights.embedding_rows(tmp_path, arch, []).shape == (0, 32)


MEASURE = """
import sys, threading, time, torch
from pathlib import Path
from luthier.arch import families
from luthier.models import weights

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

torch.set_num_threads(1)
folder = Path(sys.argv[1])
arch = families.read(folder)
before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
decoder = weights.load(folder, arch, dtype=torch.bfloat16)
done = True
watcher.join()
print((peak - before) / (arch.num_parameters * 2))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
def test_loading_keeps_no_second_copy(tmp_path: Path) -> None:
    """Private memory grows by the model and little more than its largest tensor, a tenth of it."""
    fields = {
        **TINY,
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    }
    arch = families.read(write_config(tmp_path / "config", fields))
    decoder = weights.random(arch, 0, dtype=torch.bfloat16)
    weights.save_model(decoder, tmp_path / "config", tmp_path / "model", torch.bfloat16)
    del decoder
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model")]
    ratio = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.9 < ratio < 1.3
