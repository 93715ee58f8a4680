"""What fewer bytes for weights and states cost: python bench/optim.py [curves|codes] [STEPS] [SEED] [RATE]

`curves`: nano learns the demonstration's task with every weight training, once for each way to keep weights and states,
all from one beginning, over the same rows, computing in bfloat16. What comes out: the loss on rows held out, and how
far it lies from that of float32 in shares of what was learnt. Plain bfloat16 (torch's AdamW over a model that is
bfloat16 throughout) stands for what happens without care; it is no option.

`codes`: the same training in float32; its gradients feed moments kept in several codes. What comes out: how far the
steps taken from them lie from those of float32, norm of the difference over the norm, for three matrices.

On one thread: beside other work two are slower, and so the figures do not depend on how many there are.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from luthier import training
from luthier.batch import TERM, Batch
from luthier.config.load import load
from luthier.config.schema import RunConfig
from luthier.data import pack
from luthier.data.stream import Stream
from luthier.engine import optim
from luthier.kernels import rounding
from luthier.methods import METHODS
from luthier.models import weights
from luthier.models.decoder import Decoder
from luthier.nano import task
from luthier.session import Base, find_base

RATE, BATCH, ROWS, HELD_OUT, BUDGET_TOKENS = 1e-4, 4, 2000, 64, 4096
PLAIN = "plain bfloat16"
WAYS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16_stochastic": {"weights": "bfloat16_stochastic"},
    "bfloat16_kahan": {"weights": "bfloat16_kahan"},
    "states bfloat16": {"states": "bfloat16"},
    "states 8bit": {"states": "8bit"},
    "bfloat16_stochastic, 8bit": {"weights": "bfloat16_stochastic", "states": "8bit"},
    "bfloat16_kahan, 8bit": {"weights": "bfloat16_kahan", "states": "8bit"},
    PLAIN: {},
}


class Task(NamedTuple):
    """nano, the rows it learns, and those held out."""

    config: RunConfig
    base: Base
    steps: Stream
    held_out: tuple[Batch, ...]


class Curve(NamedTuple):
    """Loss of each step, and on the rows held out before the first and after the last."""

    losses: list[float]
    before: float
    after: float


def prepared(steps: int, seed: int, folder: Path, rate: float = RATE) -> Task:
    rows = folder / "rows.json"
    rows.write_text(json.dumps(task.examples(seed, ROWS)))
    given = {"train": str(rows), "format": "alpaca", "max_tokens": 256, "validation": HELD_OUT / ROWS}
    length = {"lr": rate, "steps": steps, "batch": BATCH, "warmup": 5}
    config = load({"model": "nano", "data": given, "tune": "full", "optim": length, "run": {"seed": seed}})
    base = find_base(config.model, None)
    data = training.prepare(config, base)
    assert data.validation is not None
    held_out = tuple(pack.batches(data.validation, BUDGET_TOKENS))
    return Task(config, base, Stream.of(data.train, config, BUDGET_TOKENS), held_out)


def trained(
    given: Task, dtype: torch.dtype, kept: torch.dtype, made: Callable[[Decoder], torch.optim.Optimizer]
) -> Iterator[tuple[Decoder, float]]:
    """Every step's loss; gradients are still there, clipped, and the update is made."""
    config, arch = given.config, given.base.arch
    everything = set(arch.tensors).__contains__
    decoder = weights.load(given.base.folder, arch, dtype=dtype, trainable=everything, trained_dtype=kept)
    optimizer, method = made(decoder), METHODS["sft"](None, config.run.seed)
    yield decoder, math.nan
    for index in range(given.steps.num_steps):
        step = given.steps.step(index)
        optim.set_rate(optimizer, optim.rate(index, given.steps.num_steps, config.optim, config.learning_rate))
        optimizer.zero_grad()
        total = 0.0
        for batch in step.micro:
            objective = method.loss(decoder, batch, index).sums[TERM] / step.denom[TERM]
            objective.backward()
            total += float(objective.detach())
        optim.clip(list(decoder.parameters()), config.optim.clip)
        optimizer.step()
        yield decoder, total


def held_out_loss(given: Task, decoder: Decoder) -> float:
    method = METHODS["sft"](None, 0)
    with torch.no_grad():
        total = sum(float(method.loss(decoder, batch, -1).sums[TERM]) for batch in given.held_out)
    return total / sum(float(batch.weights[TERM].sum()) for batch in given.held_out)


def curve(given: Task, way: str) -> Curve:
    section = given.config.optim.model_copy(update=WAYS[way])

    def ours(decoder: Decoder) -> torch.optim.Optimizer:
        return optim.build(decoder.named_parameters(), section, given.config.learning_rate, given.config.run.seed)

    def plain(decoder: Decoder) -> torch.optim.Optimizer:
        for parameter in decoder.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
            parameter.grad_dtype = torch.bfloat16
        return torch.optim.AdamW(decoder.parameters(), weight_decay=0.0)

    kept = torch.float32 if section.weights == "float32" and way != PLAIN else torch.bfloat16
    steps = trained(given, torch.bfloat16, kept, plain if way == PLAIN else ours)
    decoder, _ = next(steps)
    before = held_out_loss(given, decoder)
    losses = [loss for _, loss in steps]
    return Curve(losses, before, held_out_loss(given, decoder))


def curves(steps: int, seed: int, rate: float = RATE) -> Iterator[tuple[str, Curve]]:
    """Of every way, float32 first."""
    with tempfile.TemporaryDirectory() as folder:
        given = prepared(steps, seed, Path(folder), rate)
        for way in WAYS:
            yield way, curve(given, way)


def distance(found: Curve, exact: Curve) -> float:
    """How much less was learnt than in float32, as a share of what float32 learnt."""
    return (found.after - exact.after) / (exact.before - exact.after)


# ------------------------------------------------------------------------------------------------- codes

MATRICES = (
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.2.mlp.down_proj.weight",
    "model.embed_tokens.weight",
)
ELEMENTS = 2**17
"""Of each matrix, from its beginning."""
Code = Callable[[Tensor], Tensor]


def power(exponent: float, levels: int) -> Code:
    """x = scale * sign(q) (|q| / levels)^exponent."""

    def kept(x: Tensor) -> Tensor:
        blocks = x.view(-1, rounding.BLOCK)
        scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-38)
        codes = (blocks.abs() / scale).pow(1 / exponent).mul(levels).round()
        if levels == rounding.UNSIGNED:
            codes = codes.maximum(blocks.sign())
        return (blocks.sign() * (codes / levels) ** exponent * scale).flatten()

    return kept


def dynamic(signed: bool) -> Code:
    """Dynamic tree quantisation (Dettmers et al. 2022, arXiv 2110.02861): seven decades, each with twice as many evenly
    spaced numbers as the one below."""
    found = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1)
        means = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        found += [*means, *(-each for each in means if signed)]
    codes = torch.tensor(sorted(found))
    middles = (codes[1:] + codes[:-1]) / 2

    def kept(x: Tensor) -> Tensor:
        blocks = x.view(-1, rounding.BLOCK)
        scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-38)
        return (codes[torch.bucketize(blocks / scale, middles)] * scale).flatten()

    return kept


def stochastic(x: Tensor) -> Tensor:
    noise = torch.randint(-(2**15), 2**15, x.shape, dtype=torch.int16)
    return rounding.stochastic_(x.clone(), noise).float()


CODES: dict[str, tuple[Code, Code]] = {
    "even spacing": (power(1, 127), power(1, 255)),
    "even spacing, second moment by its root": (power(1, 127), power(2, 255)),
    "dynamic tree": (dynamic(True), dynamic(False)),
    "powers 2 and 4 (8bit)": (
        lambda x: rounding.decode_signed(*rounding.encode_signed(x)),
        lambda x: rounding.decode_unsigned(*rounding.encode_unsigned(x)),
    ),
    "powers 3 and 6": (power(3, 127), power(6, 255)),
    "bfloat16, to the nearest": (lambda x: x.bfloat16().float(), lambda x: x.bfloat16().float()),
    "bfloat16, by chance (bfloat16)": (stochastic, stochastic),
}


def step_errors(gradients: list[Tensor], code: tuple[Code, Code]) -> float:
    """Steps from the twentieth on."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    first, second = (torch.zeros_like(gradients[0]) for _ in range(2))
    kept_first, kept_second = first, second
    wrong = whole = 0.0
    for count, gradient in enumerate(gradients, 1):
        steps = []
        first, second = first.lerp(gradient, 1 - beta1), second * beta2 + (1 - beta2) * gradient.square()
        kept_first = kept_first.lerp(gradient, 1 - beta1)
        kept_second = kept_second * beta2 + (1 - beta2) * gradient.square()
        for m, v in ((first, second), (kept_first, kept_second)):
            steps.append(m / (1 - beta1**count) / ((v / (1 - beta2**count)).sqrt() + eps))
        if count > 20:
            wrong += float((steps[1] - steps[0]).square().sum())
            whole += float(steps[0].square().sum())
        kept_first, kept_second = code[0](kept_first), code[1](kept_second)
    return math.sqrt(wrong / whole)


def code_errors(steps: int) -> dict[str, list[float]]:
    gradients: dict[str, list[Tensor]] = {name: [] for name in MATRICES}

    def made(decoder: Decoder) -> torch.optim.Optimizer:
        return optim.build(decoder.named_parameters(), given.config.optim, RATE)

    with tempfile.TemporaryDirectory() as folder:
        given = prepared(steps, 0, Path(folder))
        for decoder, loss in trained(given, torch.bfloat16, torch.float32, made):
            for name in MATRICES if not math.isnan(loss) else ():
                gradient = decoder.get_parameter(name).grad
                assert gradient is not None
                gradients[name].append(gradient.flatten()[:ELEMENTS].clone())
    return {name: [step_errors(gradients[each], code) for each in MATRICES] for name, code in CODES.items()}


def main(what: str = "curves", steps: str = "120", seed: str = "0", rate: str = str(RATE)) -> None:
    torch.set_num_threads(1)
    if what == "codes":
        print("code | attention | MLP | embedding")
        for name, errors in code_errors(int(steps)).items():
            print(name, *(f"{error:.3f}" for error in errors), sep=" | ")
        return
    print("seed | way | training loss, mean of the last 20 steps | held out: before -> after | less learnt", flush=True)
    exact = None
    for way, each in curves(int(steps), int(seed), float(rate)):
        exact = exact or each
        last = sum(each.losses[-20:]) / len(each.losses[-20:])
        held = f"{each.before:.4f} -> {each.after:.4f}"
        print(seed, way, f"{last:.4f}", held, f"{100 * distance(each, exact):+.2f} %", sep=" | ", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
