"""GGUF files of tiny models in a real llama.cpp: token ids and next-token log-probabilities equal transformers'."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import config_of
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from toy_tokenizers import CHATML_SPECIALS, SENTENCES, save, sentencepiece
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from luthier.errors import ModelError, RunError
from luthier.export.gguf import vocabulary, write
from luthier.export.weights import open_source

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
s = x.Server(p); url = s.listening_address
def post(path, **k):
    q = urllib.request.Request(url + path, json.dumps(k).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(q, timeout=60))
ids = [post("/tokenize", content=t, add_special=False, parse_special=True)["tokens"] for t in texts]
r = post("/completion", prompt=prompt, n_predict=1, temperature=0, top_k=1, ignore_eos=True, n_probs=20)
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


def model(case: str, folder: Path) -> tuple[Any, Any]:
    tokenizer = sentencepiece("legacy") if case.startswith("mistral") else qwen_tokenizer()
    config = {**config_of(case), "vocab_size": len(tokenizer)}
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


CASES = ("llama", "llama_tied", "llama_llama3", "llama_linear", "mistral_plain", "qwen2", "qwen2_tied", "qwen3")


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case: str, tmp_path: Path) -> None:
    made, tokenizer = model(case, tmp_path / "model")
    out = tmp_path / "m-f32.gguf"
    write.convert(open_source([(tmp_path / "model", 1.0)]), {"f32": out}, name="m")
    prompt = tokenizer(TEXTS[0] + TEXTS[1], add_special_tokens=False).input_ids[:40]
    ids, top = ask(out, TEXTS, prompt)
    assert ids == [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    with torch.no_grad():
        logp = made(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    assert max(abs(float(logp[token]) - value) for token, value in top) < 1e-2
    assert top[0][0] == int(logp.argmax())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_unknown_cut_is_refused_by_name() -> None:
    state = {"pre_tokenizer": {"type": "Whitespace"}, "model": {}}
    with pytest.raises(ModelError, match="Whitespace"):
        vocabulary.cut_of(state, "here")


def test_a_full_disk_and_a_writer_that_fails_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model("qwen2", tmp_path / "model")
    source, out = open_source([(tmp_path / "model", 1.0)]), tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    (out.parent / ".m.gguf.tmp-1").write_text("what a killed writer left")
    with monkeypatch.context() as patch:
        patch.setattr(write, "HEAD_BYTES", 2**60)
        with pytest.raises(RunError):
            write.convert(source, {"f16": out}, name="m")
    with monkeypatch.context() as patch:
        patch.setattr(source, "tensor", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write.convert(source, {"f16": out}, name="m")
    assert not list(out.parent.iterdir())
    write.convert(source, {"f16": out}, name="m")
    before = out.read_bytes()
    with pytest.raises(ModelError):
        write.convert(source, {"f16": out}, name="m")
    assert out.read_bytes() == before
