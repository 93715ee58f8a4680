"""How long weights take to become GGUF's block formats: python bench/gguf_export.py [LAYERS] [WIDTH] [THREADS]

What goes in: a shape (24 layers, 896 wide: Qwen2.5-0.5B's, random weights). What comes out: processor time per value of
our tensor operations and of ggml's own quantiser, and the seconds of q4_k_m, q5_k_m and q8_0 made in one pass over the
weights beside three runs of llama.cpp's `llama_model_quantize` on the same file and threads. It needs `xllamacpp` and
`cyllama==0.2.18` (`pip install --no-deps`). Both sides read one bf16 GGUF file; llama.cpp's conversion to it, and
reading base and adapter, are not in these figures yet.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
import torch

from luthier.export.gguf import native, quants, recipe

QUANTS = {"q4_k_m": 15, "q5_k_m": 17, "q8_0": 7}
VOCABULARY = 32_000


def write(path: Path, layers: int, width: int) -> None:
    """A bf16 file with the tensors of a Llama of that shape."""
    inner = -(-width * 27 // 10 // 256) * 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(width // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    shapes = {"token_embd": (VOCABULARY, width)}
    for layer in range(layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{part}"] = (width, width)
        shapes[f"blk.{layer}.ffn_gate"] = shapes[f"blk.{layer}.ffn_up"] = (inner, width)
        shapes[f"blk.{layer}.ffn_down"] = (width, inner)
    torch.manual_seed(0)
    for name, shape in shapes.items():
        values = quants.quantise(0.02 * torch.randn(shape), "BF16")
        writer.add_tensor(f"{name}.weight", values, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def one_pass(source: Path, folder: Path, ours: native.Native) -> None:
    """Each tensor is read once and written in all three types."""
    tensors = {each.name: each for each in gguf.GGUFReader(source).tensors}
    shapes = [(name, tuple(int(size) for size in reversed(each.shape))) for name, each in tensors.items()]
    types = {quant: recipe.tensor_types("llama", quant, shapes) for quant in QUANTS}
    files = {quant: (folder / quant).open("wb") for quant in QUANTS}
    for name, each in tensors.items():
        values = torch.from_numpy(np.array(each.data)).view(torch.bfloat16)
        for quant, file in files.items():
            file.write(quants.quantise(values, types[quant][name], native=ours, name=name).data)
    for file in files.values():
        file.close()


def three_runs(source: Path, folder: Path, threads: int) -> None:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    for quant, number in QUANTS.items():
        params = llama_cpp.LlamaModelQuantizeParams()
        params.ftype, params.nthread = number, threads
        llama_cpp.model_quantize(str(source), str(folder / f"{quant}.gguf"), params)


def per_value(width: int, ours: native.Native) -> None:
    values = torch.randn(max(1, (1 << 22) // width), width)
    for kind in ("Q4_K", "Q5_K", "Q6_K", "Q8_0"):
        for name, library in (("tensor operations", None), ("ggml", ours)):
            started = time.process_time()
            quants.quantise(values, kind, native=library)
            used = (time.process_time() - started) / values.numel()
            print(f"{kind} {name}: {used * 1e9:.1f} ns of processor time per value")


def main() -> None:
    layers, width, threads = (int(given) for given in (*sys.argv[1:], *("24", "896", "2")[len(sys.argv) - 1 :]))
    torch.set_num_threads(threads)
    ours = native.find(threads)
    assert ours is not None, "needs xllamacpp"
    per_value(-(-width // 256) * 256, ours)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "bf16.gguf", layers, width)
        started = time.perf_counter()
        one_pass(folder / "bf16.gguf", folder, ours)
        between = time.perf_counter()
        three_runs(folder / "bf16.gguf", folder, threads)
        ended = time.perf_counter()
    print(f"one pass {between - started:.2f} s, three runs of llama.cpp {ended - between:.2f} s")
    print(f"ratio {(ended - between) / (between - started):.2f}")


if __name__ == "__main__":
    main()
