"""Generation on a CPU: Luthier's generator against `transformers.generate`, the same random weights, bfloat16.

    python bench/generate.py [SHAPE] [ROUNDS]     # smollm2-135m (default), qwen2.5-0.5b, or tiny; 3 rounds

Eight requests at once, prompts of 20 to 160 tokens, greedy. Printed: tokens a second of each side and their ratio, once
where every answer is as long as every other (64 tokens), and once where they differ (16 to 128 tokens, as they do in
use; the peer's batch runs until its longest is done, and what follows an answer's end does not count). In float32 both
have to give the same tokens first, up to a tie (margin below 1e-4 of the logits). Sides run by turns, medians given.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from train import SHAPES

PROMPTS = (20, 40, 60, 80, 100, 120, 140, 160)
EQUAL = (64,) * 8
MIXED = (16, 128, 32, 96, 24, 64, 48, 112)
TIE = 1e-4
SEED = 0


def make(folder: Path, shape: str) -> None:
    """A model folder with random weights that are spread enough for answers not to repeat one token."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(SEED)
    config = AutoConfig.for_model(**SHAPES[shape], tie_word_embeddings=True, initializer_range=0.05)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def prompts(vocabulary: int) -> list[list[int]]:
    stream = torch.Generator().manual_seed(SEED)
    return [torch.randint(10, vocabulary, (length,), generator=stream).tolist() for length in PROMPTS]


def ours(folder: Path, dtype: torch.dtype) -> Callable[[tuple[int, ...]], list[list[int]]]:
    from luthier.arch import families
    from luthier.generate import Generator, Request, Sampling
    from luthier.models import weights

    arch = families.read(folder)
    decoder = weights.load(folder, arch, dtype=dtype)
    asked = prompts(arch.spec.vocab)

    def run(lengths: tuple[int, ...]) -> list[list[int]]:
        generator = Generator(decoder, cache_tokens=8 * 512)
        requests = [Request(p, frozenset(), Sampling(n)) for p, n in zip(asked, lengths, strict=True)]
        for each in requests:
            generator.add(each)
        while generator.step():
            pass
        return [each.ids for each in requests]

    return run


def theirs(folder: Path, dtype: torch.dtype) -> Callable[[tuple[int, ...]], list[list[int]]]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    asked = prompts(model.config.vocab_size)
    longest = max(PROMPTS)
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in asked])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in asked])

    def run(lengths: tuple[int, ...]) -> list[list[int]]:
        model.generation_config.eos_token_id = None
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max(lengths), do_sample=False, pad_token_id=0
            )
        return [row[longest : longest + n].tolist() for row, n in zip(out, lengths, strict=True)]

    return run


def check(folder: Path) -> None:
    """The same tokens in float32; where they part, the two best logits have to be a tie."""
    from transformers import AutoModelForCausalLM

    mine, peers = ours(folder, torch.float32)(EQUAL), theirs(folder, torch.float32)(EQUAL)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    parted = 0
    for prompt, one, other in zip(prompts(model.config.vocab_size), mine, peers, strict=True):
        at = next((index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), None)
        if at is None:
            continue
        parted += 1
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *one[:at]]])).logits[0, -1]
        margin = float((logits[one[at]] - logits[other[at]]).abs() / logits.abs().max())
        assert margin < TIE, f"not a tie: {margin}"
    distinct = len({token for row in mine for token in row})
    equal = len(PROMPTS) - parted
    print(f"float32: {equal} of {len(PROMPTS)} answers equal, {parted} part at a tie; {distinct} tokens")


def main(shape: str = "smollm2-135m", rounds: str = "3") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, shape)
        check(folder)
        sides = {"ours": ours(folder, torch.bfloat16), "transformers": theirs(folder, torch.bfloat16)}
        for title, lengths in (("equal lengths", EQUAL), ("mixed lengths", MIXED)):
            taken: dict[str, list[float]] = {side: [] for side in sides}
            for number in range(int(rounds) + 1):
                for side, run in sides.items():
                    begun = time.perf_counter()
                    run(lengths)
                    if number:
                        taken[side].append(time.perf_counter() - begun)
            rates = {side: sum(lengths) / statistics.median(each) for side, each in taken.items()}
            shown = ", ".join(f"{side} {rate:.1f} tokens/s" for side, rate in rates.items())
            print(f"{shape}, {title}: {shown}, ratio {rates['ours'] / rates['transformers']:.2f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
