"""How long base and adapter take to become three GGUF files: python bench/gguf_export.py [LAYERS] [WIDTH] [THREADS]

What goes in: a shape (24 layers, 896 wide: Qwen2.5-0.5B's, random bf16 weights, as a Llama) with a LoRA adapter of rank
16 on every projection. What comes out: the seconds of `luthier export --gguf q4_k_m,q5_k_m,q8_0` (one pass over base
and adapter, no merged copy) beside the way without it: PEFT merges and writes a folder, a converter makes an f16 GGUF
of that, and llama.cpp's `llama_model_quantize` runs three times on it, on as many threads. Each step is told apart, and
the ratio with and without the merge. Then one epoch of training of the same model (`--rows N`, 0 for none), and
processor time per value of our tensor operations and of ggml's quantiser.

It needs `xllamacpp`, `peft`, and `cyllama==0.2.18` (`pip install --no-deps`), whose `model_quantize` is llama.cpp's.
llama.cpp's own converter is no module on PyPI, and knows tokenizers by a hash that the one here is not in: `--convert
PATH/convert_hf_to_gguf.py --outtype f16` runs it where there is one; otherwise our own f16 writer stands in for it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import luthier
from luthier.export.gguf import native, quants, write
from luthier.export.weights import open_source
from luthier.nano import make

QUANTS = {"q4_k_m": 15, "q5_k_m": 17, "q8_0": 7}
VOCABULARY = 32_000
RANK = 16
NANO = Path(make.__file__).parent / "base"


def make_model(folder: Path, layers: int, width: int) -> None:
    """base and adapter; nano's tokenizer, the rest of the vocabulary unused."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=-(-width * 27 // 10 // 256) * 256,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(NANO).save_pretrained(folder / "base")
    wrapped = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", init_lora_weights=False)
    )
    wrapped.save_pretrained(folder / "adapter")


def ours(folder: Path) -> None:
    source = open_source([(folder / "adapter", 1.0)], str(folder / "base"))
    planned = write.plan(source, list(QUANTS))
    write.write(source, planned, {each: folder / f"ours-{each}.gguf" for each in QUANTS}, name="ours")


def merge(folder: Path) -> None:
    """As PEFT's documentation has it."""
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "merged")


def convert(folder: Path, script: Path | None) -> None:
    out = folder / "f16.gguf"
    if script is None:
        source = open_source([(folder / "merged", 1.0)])
        write.write(source, write.plan(source, ["f16"]), {"f16": out}, name="theirs")
        return
    command = [sys.executable, str(script), str(folder / "merged"), "--outtype", "f16", "--outfile", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def three_runs(folder: Path, threads: int) -> None:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    for quant, number in QUANTS.items():
        params = llama_cpp.LlamaModelQuantizeParams()
        params.ftype, params.nthread = number, threads
        llama_cpp.model_quantize(str(folder / "f16.gguf"), str(folder / f"theirs-{quant}.gguf"), params)


def epoch(folder: Path, rows: int) -> None:
    """LoRA on `rows` rows of about a hundred tokens."""
    sentence = "the river was low and the children walked across it to the other side of the field "
    data = [{"instruction": f"Say it {n} times", "output": sentence * 4} for n in range(rows)]
    (folder / "rows.json").write_text(json.dumps(data), encoding="utf-8")
    luthier.train(
        {
            "model": {"path": str(folder / "base")},
            "data": {"train": str(folder / "rows.json"), "template": "alpaca", "max_tokens": 256},
            "tune": {"kind": "lora", "rank": RANK},
            "optim": {"epochs": 1},
            "run": {"name": "epoch", "dir": str(folder / "runs"), "device": "cpu"},
        }
    )


def per_value(width: int, library: native.Native) -> None:
    values = torch.randn(max(1, (1 << 22) // width), width)
    for kind in ("Q4_K", "Q5_K", "Q6_K", "Q8_0"):
        for name, each in (("tensor operations", None), ("ggml", library)):
            started = time.process_time()
            quants.quantise(values, kind, native=each)
            used = (time.process_time() - started) / values.numel()
            print(f"{kind} {name}: {used * 1e9:.1f} ns of processor time per value")


def timed(name: str, run: Callable[[], None]) -> float:
    started, used = time.perf_counter(), time.process_time()
    run()
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.2f} s ({time.process_time() - used:.2f} s of processor time)", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("layers", 24), ("width", 896), ("threads", 2)):
        parser.add_argument(name, type=int, nargs="?", default=default)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--convert", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    library = native.find(asked.threads)
    assert library is not None, "needs xllamacpp"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, asked.layers, asked.width)
        made = timed("one pass over base and adapter", lambda: ours(folder))
        merged = timed("PEFT merges and writes", lambda: merge(folder))
        by = "llama.cpp's converter" if asked.convert else "our f16 writer, in place of llama.cpp's converter"
        converted = timed(by, lambda: convert(folder, asked.convert))
        three = timed("three runs of llama_model_quantize", lambda: three_runs(folder, asked.threads))
        print(
            f"ratio {(converted + three) / made:.2f} without the merge, {(merged + converted + three) / made:.2f} with"
        )
        if asked.rows:
            trained = timed(f"one epoch of {asked.rows} rows", lambda: epoch(folder, asked.rows))
            print(f"training takes {trained / made:.1f} times as long as the export")
    per_value(-(-asked.width // 256) * 256, library)


if __name__ == "__main__":
    main()
