"""Planned peak against what the process really takes: python bench/memory.py

Each case is a process of its own: after its imports the resident set is read, then a model with random weights makes
two steps of two micro-batches, and the largest resident set is read again. What comes out: what it grew by, what the
plan said (its tensors, and what a process has beside them), and their ratio; asked is 10 % for shapes above 1 GB. The
allocator keeps what it once had: glibc's is told to give large blocks back at once, as a run that is planned to the
byte has to.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from luthier import planner
from luthier.arch import count
from luthier.arch.families import gated
from luthier.arch.spec import Architecture, Attention, DecoderSpec, Layer, Mlp, Rope
from luthier.batch import TERM, Rendered
from luthier.config.schema import Full, Lora, OptimSection
from luthier.data import pack
from luthier.engine import optim
from luthier.engine.backend import peak_memory_bytes
from luthier.holdings import Tokens
from luthier.methods import METHODS
from luthier.models import adapters, weights
from luthier.paper import target
from luthier.workload import workload

LENGTHS = (512, 256, 768, 512)
CASES: dict[str, tuple[str, Any, torch.dtype, Any]] = {
    "0.5B lora bfloat16 keep": ("0.5B", Lora(), torch.bfloat16, "keep"),
    "0.5B lora bfloat16 drop_mlp": ("0.5B", Lora(), torch.bfloat16, "drop_mlp"),
    "0.5B lora bfloat16 drop_layer": ("0.5B", Lora(), torch.bfloat16, "drop_layer"),
    "135M full bfloat16 keep": ("135M", Full(), torch.bfloat16, "keep"),
    "135M full bfloat16 drop_layer": ("135M", Full(), torch.bfloat16, "drop_layer"),
    "135M lora float32 keep": ("135M", Lora(), torch.float32, "keep"),
}


def architecture(name: str) -> Architecture:
    """The shapes of Qwen2.5-0.5B and SmolLM2-135M."""
    if name == "0.5B":
        layer = Layer(Attention(14, 2, 64, qkv_bias=True, rope=Rope("default", 1e6, 64)), Mlp(4864))
        return gated.assemble(DecoderSpec("qwen2", 151936, 896, (layer,) * 24, True, 1e-6, 32768))
    layer = Layer(Attention(9, 3, 64, rope=Rope("default", 1e5, 64)), Mlp(1536))
    return gated.assemble(DecoderSpec("llama", 49152, 576, (layer,) * 30, True, 1e-5, 8192))


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(case: str) -> None:
    """Runs in a process of its own; prints bytes grown and planned."""
    shape, tune, dtype, policy = CASES[case]
    torch.set_num_threads(1)
    torch.ones(64, 64, dtype=dtype) @ torch.ones(64, 64, dtype=dtype)  # the libraries' own memory
    before = resident_bytes()
    arch, settings = architecture(shape), OptimSection()
    policies, lora = planner.uniform(arch.spec, policy), isinstance(tune, Lora)
    trained = frozenset() if lora else count.trained_tensors(arch, tune)
    decoder = weights.random(arch, 0, dtype=dtype, device="cpu", trainable=trained.__contains__)
    if lora:
        adapters.attach(decoder, arch, tune, name="default", seed=0)
    named = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
    optimizer = optim.build(named, settings, 1e-4, 0)
    method = METHODS["sft"]("default" if lora else None, 0, policies)
    rng = np.random.default_rng(0)
    rows = []
    for uid, length in enumerate(LENGTHS):
        learnt = np.ones(length + 1, np.float32)
        learnt[0] = 0
        rows.append(Rendered(uid, rng.integers(0, arch.spec.vocab, length + 1).astype(np.int32), learnt))
    (batch,) = pack.microbatches(rows, 10**6)
    for step in range(2):
        optimizer.zero_grad(set_to_none=True)
        for _ in range(2):
            method.loss(decoder, batch, step).sums[TERM].backward()  # type: ignore[no-untyped-call]
        optim.clip([p for _, p in named], settings.clip)
        optimizer.step()
    load = workload(settings, arch, tune, Tokens(max(LENGTHS), passed=0), dtype.itemsize, "cpu")
    tensors = planner.at(arch.spec, load, policies, sum(LENGTHS), "cpu", 2**40).peak_bytes
    planned = tensors + target.CPU_RUNTIME_BYTES - before
    print(before, peak_memory_bytes("cpu") - before, planned)


def main() -> None:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    for case in sys.argv[1:] or CASES:
        done = subprocess.run(
            [sys.executable, __file__, "--case", case], env=environment, capture_output=True, text=True, check=True
        )
        before, grown, planned = map(int, done.stdout.split())
        ratio = f"{planned / grown:.3f}"
        print(
            f"{case}: {grown / 1e9:.3f} GB, planned {planned / 1e9:.3f} GB ({ratio}), {before / 1e9:.2f} GB before",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        measure(sys.argv[2])
    else:
        main()
