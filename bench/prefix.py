"""What it saves to compute a shared beginning once: python bench/prefix.py [SHAPE] [ROUNDS] [DEVICE]

A step of eight rows of Alpaca's lengths (`bench/train.py`) behind one system prompt, LoRA on every linear module,
forward and backward pass, with and without sharing, by turns. What comes out: FLOPs as counted, seconds (on a CPU of
the process, one thread; the median of the rounds), and the ratios. Then the same for short prompts, over eight and over
two rows: from how many tokens on it pays, which is what `luthier.data.pack.CALL_TOKENS` has to say.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from train import LENGTHS, RANK, SHAPES

from luthier.arch import families, flops
from luthier.batch import TERM, Batch, Rendered
from luthier.config.schema import Lora
from luthier.data import pack
from luthier.models import adapters, weights
from luthier.models.decoder import Decoder, Want

SYSTEM_TOKENS = 200
SHORT = (8, 16, 32, 64, 128, 256, 512)
TUNE = Lora(rank=RANK)
ADAPTER = "default"


class Both(NamedTuple):
    """Of the same step, apart and shared."""

    apart: float
    shared: float

    @property
    def ratio(self) -> float:
        return self.apart / self.shared


def decoder_of(shape: str, dtype: torch.dtype, device: str, folder: Path) -> Decoder:
    """Random weights with an adapter."""
    (folder / "config.json").write_text(json.dumps({"rms_norm_eps": 1e-6, **SHAPES[shape]}))
    decoder = weights.random(families.read(folder), 0, dtype=dtype, device=device, trainable=lambda _: False)
    adapters.attach(decoder, decoder.arch, TUNE, name=ADAPTER, seed=0)
    return decoder


def step(vocabulary: int, system: int, rows: int, call_tokens: int | None) -> Batch:
    """One micro-batch."""
    random = np.random.default_rng(0)
    beginning = random.integers(0, vocabulary, system)
    examples = []
    for uid, (length, answer) in enumerate(LENGTHS[-rows:]):
        ids = np.concatenate([beginning, random.integers(0, vocabulary, length)]).astype(np.int32)
        learnt = np.zeros(len(ids), np.float32)
        learnt[-answer:] = 1
        examples.append(Rendered(uid, ids, learnt))
    (batch,) = pack.microbatches(examples, 1 << 20, call_tokens)
    return batch


def counted(decoder: Decoder, batch: Batch) -> int:
    segments = batch.segments
    lengths, before = (segments.end - segments.start).tolist(), batch.positions[segments.start].tolist()
    rows = flops.Rows(lengths, len(batch.rows), len(np.unique(batch.rows)), before)
    return flops.step(decoder.arch, TUNE, rows).total


def seconds(decoder: Decoder, batch: Batch) -> float:
    cuda = decoder.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    coefficients = -torch.from_numpy(batch.weights[TERM]).to(decoder.device)
    total = decoder(batch, Want("linear", coefficients), adapter=ADAPTER).total
    assert total is not None
    total.backward()
    if cuda:
        torch.cuda.synchronize()
    return clock() - start


def compared(decoder: Decoder, system: int, rows: int, rounds: int) -> tuple[Both, Both, Both]:
    """Tokens, FLOPs and seconds."""
    batches = [step(decoder.spec.vocab, system, rows, call_tokens) for call_tokens in (None, 0)]
    taken: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for which, batch in enumerate(batches):
            taken[which].append(seconds(decoder, batch))
    tokens = Both(*(float(batch.num_tokens) for batch in batches))
    work = Both(*(float(counted(decoder, batch)) for batch in batches))
    return tokens, work, Both(*(statistics.median(each[1:]) for each in taken))


def main(shape: str = "smollm2-135m", rounds: str = "3", device: str = "cpu") -> None:
    if device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        decoder = decoder_of(shape, torch.bfloat16, device, Path(folder))
    for rows in (8, 2):
        for system in (SYSTEM_TOKENS, *SHORT):
            tokens, work, time_s = compared(decoder, system, rows, int(rounds))
            print(
                f"{shape} {device} {rows} rows, {system:4} shared tokens: {tokens.apart:.0f} -> {tokens.shared:.0f} "
                f"tokens, {work.apart / 1e9:.0f} -> {work.shared / 1e9:.0f} GFLOP ({work.ratio:.2f}), "
                f"{time_s.apart:.3f} -> {time_s.shared:.3f} s ({time_s.ratio:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
