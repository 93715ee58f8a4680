"""GGUF files of tiny models in a real llama.cpp: token ids and next-token log-probabilities equal transformers'."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import config_of
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from toy_tokenizers import CHATML_SPECIALS, SENTENCES, save, sentencepiece
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import luthier
from luthier import cli
from luthier.arch.families import FAMILIES
from luthier.errors import ModelError, RunError
from luthier.export.gguf import architectures, vocabulary, write
from luthier.export.gguf.export import export
from luthier.export.weights import open_source
from luthier.models import shards

pytest.importorskip("xllamacpp")
TEXTS = [
    "Hello there, how are you?",
    "naïve café: 3.14 你好，世界",
    "  two  spaces\n\n\n and tabs\t\t",
    "it's I'LL 12345",
]
ASK = """
import json, sys, urllib.request
import xllamacpp as x
path, texts, prompt = json.load(sys.stdin)
p = x.CommonParams(); p.model.path = path; p.n_ctx = 64; p.n_parallel = 1; p.warmup = False; p.verbosity = -1
p.cpuparams.n_threads = 1; p.cpuparams_batch.n_threads = 1; p.n_gpu_layers = 0
p.cache_type_k = p.cache_type_v = 0  # float32
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # rounds to 16 bits
s = x.Server(p); url = s.listening_address
def post(path, **k):
    q = urllib.request.Request(url + path, json.dumps(k).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(q, timeout=60))
ids = [post("/tokenize", content=t, add_special=False, parse_special=True)["tokens"] for t in texts]
forced = [[ids[0][0], 1000.0]]  # a token that ends within a character would come without probabilities
r = post("/completion", prompt=prompt, n_predict=1, temperature=0, logit_bias=forced, n_probs=20)
top = [[t["id"], t["logprob"]] for t in r["completion_probabilities"][0]["top_logprobs"]]
print("ANSWER" + json.dumps([ids, top]), flush=True)
del s
"""


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(vocabulary._QWEN2), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(CHATML_SPECIALS)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")


def ask(path: Path, texts: list[str], prompt: list[int]) -> Any:
    given = json.dumps([str(path), texts, prompt])
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=given, capture_output=True, text=True, timeout=120, check=False
    )
    line = next((each for each in done.stdout.splitlines() if each.startswith("ANSWER")), None)
    assert line is not None, done.stderr[-2000:]
    return json.loads(line.removeprefix("ANSWER"))


AS_RELEASED: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3": {"query_pre_attn_scalar": 16, "num_hidden_layers": 7, "layer_types": None},
    "gemma3_capped": {"query_pre_attn_scalar": 8, "tie_word_embeddings": True, "sliding_window": 16},
}
"""What the tiny models have otherwise than llama.cpp has built in."""


def model(case: str, folder: Path) -> tuple[Any, Any]:
    tokenizer = sentencepiece("legacy") if case.startswith("mistral") else qwen_tokenizer()
    config = {**config_of(case), **AS_RELEASED.get(case, {}), "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32).eval()
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
            else:
                parameter.copy_(0.3 * torch.randn(parameter.shape) + (0 if key.endswith("bias") else 1))
    made.save_pretrained(folder)
    save(tokenizer, folder)
    return made, tokenizer


CASES = (
    *("llama", "llama_tied", "llama_llama3", "llama_linear", "mistral_plain", "qwen2", "qwen2_tied", "qwen2_yarn"),
    *("qwen3", "gemma", "gemma2", "gemma3", "gemma3_capped", "phi3", "olmo2", "granite"),
)


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case: str, tmp_path: Path) -> None:
    made, tokenizer = model(case, tmp_path / "model")
    out = tmp_path / "m-f32.gguf"
    source = open_source([(tmp_path / "model", 1.0)])
    write.write(source, write.plan(source, ["f32"]), {"f32": out}, name="m")
    prompt = tokenizer(TEXTS[0] + TEXTS[1], add_special_tokens=False).input_ids[:40]
    ids, top = ask(out, TEXTS, prompt)
    assert ids == [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    with torch.no_grad():
        logp = made(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    assert max(abs(float(logp[token]) - value) for token, value in top) < 1e-2
    assert top[0][0] == int(logp.argmax())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("case", "field"),
    [("gemma2", "query_pre_attn_scalar"), ("gemma3", "layer_types"), ("gemma3_capped", "tie_word_embeddings")],
)
def test_what_llama_cpp_has_built_in_otherwise_is_refused_by_name(case: str, field: str) -> None:
    arch = FAMILIES[config_of(case)["model_type"]](config_of(case), "here")
    with pytest.raises(ModelError, match=field):
        architectures.architecture_of(arch, "here")


@pytest.mark.parametrize("name", ["beta_fast", "attention_factor"])
def test_a_yarn_with_numbers_of_its_own_is_refused_by_name(name: str) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, name: 3.0}
    spec = FAMILIES["qwen2"]({**config_of("qwen2"), "rope_scaling": yarn}, "here").spec
    with pytest.raises(ModelError, match=rf"rope_scaling\.{name}"):
        architectures.add_rope(gguf.GGUFWriter(None, "qwen2"), spec, "here")


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "su"])
def test_ropes_that_change_with_the_length_of_a_text_are_refused_by_name(kind: str) -> None:
    scaling = {"type": kind, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2.0}
    with pytest.raises(ModelError, match=kind):
        FAMILIES["phi3"]({**config_of("phi3"), "rope_scaling": scaling}, "here")


def test_unknown_cut_is_refused_by_name() -> None:
    state = {"pre_tokenizer": {"type": "Whitespace"}, "model": {}}
    with pytest.raises(ModelError, match="Whitespace"):
        vocabulary.cut_of(state, "here")


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_space_that_llama_cpp_would_double_is_refused_by_name(scheme: str) -> None:
    steps = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    with pytest.raises(ModelError, match=scheme):
        vocabulary._begins_with_space({"pre_tokenizer": steps}, [], "here")
    never = {"pre_tokenizer": {**steps, "prepend_scheme": "never"}}
    assert vocabulary._begins_with_space(never, [], "here") is False


def test_unknown_normalizers_are_refused_by_name() -> None:
    lower = {"type": "Lowercase"}
    with pytest.raises(ModelError, match="Lowercase"):
        vocabulary._begins_with_space({"normalizer": {"type": "Sequence", "normalizers": [lower]}}, [], "here")
    with pytest.raises(ModelError, match="Lowercase"):
        vocabulary.cut_of({"normalizer": lower, "pre_tokenizer": {"type": "ByteLevel"}, "model": {}}, "here")


def tensors(path: Path) -> dict[str, bytes]:
    return {each.name: np.ascontiguousarray(each.data).tobytes() for each in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_run_is_exported_as_its_merged_folder_is(
    tune: str, write_rows: Any, tmp_path: Path, runs_dir: Path, no_fresh_process: None, capsys: Any
) -> None:
    """From base and adapter the same bytes as from the merged folder, rows of new tokens too; llama.cpp agrees."""
    rows = write_rows("rows.jsonl", [{"instruction": f"say {n}", "output": f"<it> is {n}"} for n in range(24)])
    data = {"train": str(rows), "max_tokens": 64, **({"new_tokens": ["<it>"]} if tune == "lora" else {})}
    recipe = {
        "model": "nano",
        "data": data,
        "tune": tune,
        "optim": {"steps": 3, "lr": 0.003, "warmup": 0},
        "run": {"name": "small", "dir": str(runs_dir), "device": "cpu"},
    }
    run = luthier.train(recipe)
    assert cli.run(["export", str(run.path), "--gguf", "q4_k_m, f16", "-o", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in told["receipt"]["checks"]] == ["pass"] * 4
    whole = run.merge() if tune == "lora" else run.model_path
    assert whole is not None
    again = export(whole, ["q4_k_m", "f16"], tmp_path / "again", check=False)
    for kind in ("q4_k_m", "f16"):
        one = tensors(tmp_path / "out" / f"small-{kind}.gguf")
        assert one == tensors(again.path / f"{whole.name}-{kind}.gguf")
    if tune == "full":
        assert run.export(["f16"], check=False) == run.path.with_name("small-gguf")


def test_a_file_of_other_weights_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model("qwen2", tmp_path / "model")
    real = write.as_ggml
    monkeypatch.setattr(
        write, "as_ggml", lambda values, name, *rest: real(values, name, *rest) * (1.3 - 0.3 * ("norm" in name))
    )
    made = export(tmp_path / "model", ["f16"], tmp_path / "out").receipt
    assert [each.status for each in made.checks] == ["pass", "fail"]


def test_a_full_disk_and_a_writer_that_fails_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model("qwen2", tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr(write, "HEAD_BYTES", 2**60)
        with pytest.raises(RunError):
            export(tmp_path / "model", ["f16"], tmp_path / "out", check=False)
    with monkeypatch.context() as patch:
        patch.setattr(write, "as_ggml", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(tmp_path / "model", ["f16"], tmp_path / "out", check=False)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    made = export(tmp_path / "model", ["f16"], tmp_path / "out", check=False)
    assert {each.status for each in made.receipt.checks} == {"not run"}
    with pytest.raises(ModelError):
        export(tmp_path / "model", ["f16"], tmp_path / "out", check=False)


CHILD = """
import resource, sys, os, signal
from luthier.export.gguf import write
from luthier.export.gguf.export import export
how, model, out = sys.argv[1:]
if how == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
def progress(done, total):
    if how == "killed" and done == total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
export(model, ["f16", "q8_0"], out, check=False, on_progress=progress)
"""


@pytest.mark.parametrize("how", ["killed", "full"])
def test_after_a_kill_and_a_full_disk_the_same_command_works(how: str, tmp_path: Path) -> None:
    model("qwen2", tmp_path / "model")
    command = [sys.executable, "-c", CHILD, how, str(tmp_path / "model"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 1), done.stderr
    assert how == "killed" or "RunError" in done.stderr
    assert not (tmp_path / "out").exists()
    export(tmp_path / "model", ["f16", "q8_0"], tmp_path / "out", check=False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model", "out"]


def test_a_shard_that_is_cut_is_named(tmp_path: Path) -> None:
    model("qwen2", tmp_path / "model")
    path = tmp_path / "model" / shards.SINGLE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=shards.SINGLE):
        export(tmp_path / "model", ["f16"], tmp_path / "out", check=False)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_an_export_that_is_still_running_loses_nothing(tmp_path: Path) -> None:
    model("qwen2", tmp_path / "model")
    refused = []

    def meanwhile(done: int, total: int) -> None:
        if done == total // 2:
            with pytest.raises(ModelError) as error:
                export(tmp_path / "model", ["f16"], tmp_path / "out", check=False)
            refused.extend(each.id for each in error.value.problems)

    made = export(tmp_path / "model", ["f16"], tmp_path / "out", check=False, on_progress=meanwhile)
    assert refused == ["models.being_written"]
    assert len(gguf.GGUFReader(made.path / "model-f16.gguf").tensors)
