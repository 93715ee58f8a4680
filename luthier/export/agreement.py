"""Whether exported weights say what the tuned model says.

What goes in: a `Source`, its model as it was trained (base and adapters side by side in the decoder), and the weights
that were written. What comes out: a check with the mean KL divergence and how often the most likely token is the same,
after beginnings of the run's rows and along the tuned model's own answers to them; of a reward model, how far its
numbers are from what they were.

Shape legend: B prompts, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from luthier import generate, proof
from luthier.arch import families
from luthier.arch.values import is_valued
from luthier.config.schema import Qlora
from luthier.data.formats import Message
from luthier.engine import backend
from luthier.engine.backend import Backend
from luthier.export.weights import Source
from luthier.generate import Sampling
from luthier.models import adapters, reward, weights
from luthier.models.decoder import Decoder
from luthier.proof import Logits
from luthier.runs.receipt import Check
from luthier.runs.store import RunFolder
from luthier.text import say

CUTS = (0, 1, 4, 9, 15)
"""Tokens of the answer after which the next one is predicted by both models. Chosen, not tuned."""
BATCH = 8
EXACT_KL, ROUNDED_KL = 1e-5, 1e-2
"""Mean KL in nats per token that is allowed: float32 throughout; a sum that was rounded to 16 bits, or computed in
them."""
TOP1 = 0.95
EXACT_TIE, ROUNDED_TIE = 1e-3, 0.05
"""A lead in nats of the most likely token below which rounding may choose another one."""
TEXTS = (
    "Who are you?",
    "Write one sentence about the sea.",
    "请用一句话介绍你自己。",
    "What is 17 + 25?",
    "def fibonacci(n):",
    "Translate to French: Good morning.",
)
"""Asked where no run says which rows the model was trained on."""
NAME = "exported"
AS_TRAINED_KL, AS_TRAINED_TOP1 = 0.25, 0.75
"""What a merge may differ by from the model as it was trained where its base was quantised: it leaves out the rounding
of the base. About what a 4-bit file may differ by (`luthier.export.gguf.verify`). Chosen, not measured."""
EXACT_SCORE, ROUNDED_SCORE, AS_TRAINED_SCORE = 1e-3, 0.1, 0.5
"""What a reward model's numbers may differ by in the same three cases, as a share of their own standard deviation: what
is compared with one of them are others. Chosen, not measured."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """kl: mean KL in nats per token that is allowed; top1: share of places with the same most likely token, a lead of
    the tuned model's below `tie` nats counted as the same."""

    kl: float
    tie: float
    top1: float = TOP1


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the tuned model says. prompts: beginnings of texts; tuned_BV, base_BV: logits after each of them, with the
    adapters and without (None where the weights themselves were tuned), or a reward model's numbers, [B, 1]; backend:
    what it was computed on."""

    prompts: list[list[int]]
    tuned_BV: Logits
    base_BV: Logits | None
    backend: Backend
    of_run: bool


@dataclasses.dataclass(frozen=True)
class Agreement:
    """mean_kl: KL(tuned || exported) in nats per token; effect_kl: KL(tuned || base); top1: share of positions at which
    both have the same most likely token, near-ties counted as the same."""

    positions: int
    mean_kl: float
    effect_kl: float
    top1: float
    bounds: Bounds
    of_run: bool

    @property
    def good(self) -> bool:
        return self.mean_kl <= self.bounds.kl and self.top1 >= self.bounds.top1

    def check(self, name: str = "agreement", text: str = "") -> Check:
        """As it stands on the receipt."""
        found = say(
            "export.agreement.found" if self.of_run else "export.agreement.found_texts",
            kl=self.mean_kl,
            top1=100 * self.top1,
            positions=self.positions,
            effect=self.effect_kl,
        )
        bound = bound_text(self.bounds)
        return Check(name, "pass" if self.good else "fail", bound, found, text or say("export.check.agreement"))


def bound_text(bounds: Bounds) -> str:
    """What had to hold, as it stands on the receipt."""
    return say("export.agreement.bound", kl=bounds.kl, top1=100 * bounds.top1, tie=bounds.tie)


def reference(
    source: Source,
    device: str = "auto",
    dtype: str = "auto",
    places: Sequence[Sequence[int]] | None = None,
    quantise: Qlora | None = None,
) -> Reference:
    """Load base and adapters side by side and let them answer; the model is given up afterwards.

    Args:
        dtype: what is computed in, as in `model.dtype`.
        places: prompts that another program chose; None takes beginnings and the tuned model's answers to them.
        quantise: how the base is kept beside the adapters; None is as it lies on the disk.

    Raises:
        ModelError: the weights do not fit the compute dtype.
    """
    chosen = backend.choose(device, dtype)
    chosen.apply()
    dtype_of, place = chosen.compute_dtype, chosen.device
    decoder = weights.load(source.folder, source.base.arch, dtype=dtype_of, device=place, quantise=quantise)
    name = _put_on(decoder, source)
    prompts = list(map(list, places)) if places is not None else _answered(decoder, source, name)
    base_BV = None if name is None else _logits(decoder, prompts, None)
    return Reference(prompts, _logits(decoder, prompts, name), base_BV, chosen, _run(source) is not None)


def trained_beside(source: Source) -> Qlora | None:
    """How the base was quantised when the adapters were trained beside it; None where it was not, or not for all of
    them in the same way, or no run says."""
    tunes = [None if each.run is None else RunFolder.open(each.run).config().tune for each in source.voices]
    found = [each for each in tunes if isinstance(each, Qlora)]
    alike = len({(each.base, each.double_quant) for each in found}) == 1
    return found[0] if alike and len(found) == len(tunes) else None


def _answered(decoder: Decoder, source: Source, name: str | None) -> list[list[int]]:
    """Beginnings, and each with a part of the tuned model's answer; of a reward model what it judged."""
    asked = beginnings(source)
    if is_valued(decoder.arch):
        return asked
    answers = generate.generate(decoder, asked, source.renderer.stop_ids, Sampling(max_tokens=max(CUTS)), adapter=name)
    return [
        [*beginning, *answer.ids[:cut]]
        for beginning, answer in zip(asked, answers, strict=True)
        for cut in CUTS
        if cut <= len(answer.ids)
    ]


def exported_logits(expected: Reference, written: Path) -> Logits:
    """Load the folder that was written, as anyone would: its logits [B, V] on the reference's prompts.

    Raises:
        ModelError: the folder cannot be loaded.
    """
    chosen = expected.backend
    decoder = weights.load(written, families.read(written), dtype=chosen.compute_dtype, device=chosen.device)
    return _logits(decoder, expected.prompts, None)


def compare(source: Source, expected: Reference, exported_BV: Logits, bounds: Bounds | None = None) -> Agreement:
    """The measure itself, for logits [B, V] that any program gave on the reference's prompts.

    Args:
        bounds: what is allowed; None is what a merge may differ by.
    """
    if bounds is None:
        bounds = Bounds(EXACT_KL, EXACT_TIE) if _exact(source, expected) else Bounds(ROUNDED_KL, ROUNDED_TIE)
    tuned, exported = (torch.from_numpy(each).double().log_softmax(-1) for each in (expected.tuned_BV, exported_BV))
    kl = float((tuned.exp() * (tuned - exported)).sum(-1).mean())
    chosen = exported.argmax(-1, keepdim=True)
    lead = tuned.max(-1).values - tuned.gather(-1, chosen)[:, 0]
    top1 = float((lead <= bounds.tie).double().mean())
    effect = proof.effect(expected.base_BV, expected.tuned_BV).mean_kl if expected.base_BV is not None else 0.0
    return Agreement(len(expected.prompts), kl, effect, top1, bounds, expected.of_run)


def check(
    source: Source,
    expected: Reference,
    exported_BV: Logits,
    name: str = "agreement",
    text: str = "",
    as_trained: bool = False,
) -> Check:
    """The comparison as it stands on a merge's receipt.

    Args:
        as_trained: the reference's base is quantised, and what was written is not.
    """
    if is_valued(source.arch):
        return _scores_check(source, expected, exported_BV, name, text, as_trained)
    bounds = Bounds(AS_TRAINED_KL, ROUNDED_TIE, AS_TRAINED_TOP1) if as_trained else None
    return compare(source, expected, exported_BV, bounds).check(name, text)


def _scores_check(
    source: Source, expected: Reference, exported_B1: Logits, name: str, text: str, as_trained: bool
) -> Check:
    """Of a reward model: the root mean square of what its numbers differ by, in their own standard deviations."""
    exact = EXACT_SCORE if _exact(source, expected) else ROUNDED_SCORE
    bound = AS_TRAINED_SCORE if as_trained else exact
    apart = np.asarray(expected.tuned_BV, dtype=np.float64) - exported_B1
    spread, difference = float(expected.tuned_BV.std()), float(np.sqrt(np.square(apart).mean()))
    values = {"difference": difference, "spread": spread, "sequences": len(expected.prompts)}
    found = say("export.scores.found" if expected.of_run else "export.scores.found_texts", **values)
    status: Literal["pass", "fail"] = "pass" if difference <= bound * spread else "fail"
    return Check(name, status, say("export.scores.bound", bound=bound), found, text or say("export.check.scores"))


def _exact(source: Source, expected: Reference) -> bool:
    """Whether nothing was rounded to 16 bits."""
    return expected.backend.compute_dtype == torch.float32 and set(source.dtypes.values()) <= _EXACT


_EXACT = {torch.float32, torch.float64}


def _run(source: Source) -> Path | None:
    found = [source.run, *(voice.run for voice in source.voices)]
    return next((each for each in found if each is not None and (each / proof.PROBE).is_file()), None)


def beginnings(source: Source) -> list[list[int]]:
    """Beginnings of rows that the run was trained on; of a model without a run, questions that anyone could ask."""
    run = _run(source)
    if run is not None:
        return proof.Probe.load(RunFolder.open(run)).prompts
    renderer = source.renderer
    if renderer.template_source:
        return [renderer.prompt([Message("user", text)]) for text in TEXTS]
    return [renderer.prompt_text(text) for text in TEXTS]


def _put_on(decoder: Decoder, source: Source) -> str | None:
    """The adapters on the decoder, as one of a name; None where there are none."""
    strengths = {f"{NAME}-{number}": voice.strength for number, voice in enumerate(source.voices)}
    for name, voice in zip(strengths, source.voices, strict=True):
        adapters.load_adapter(decoder, source.base.arch, voice.folder, name, dora=True)
    if list(strengths.values()) == [1]:
        return next(iter(strengths))
    return adapters.blend(decoder, NAME, strengths) if strengths else None


def _logits(decoder: Decoder, prompts: Sequence[Sequence[int]], adapter: str | None) -> Logits:
    """Logits [B, V], a few prompts at a time so that what is cached of them stays small; a reward model's numbers."""
    if is_valued(decoder.arch):
        return np.asarray(reward.scores(decoder, adapter, prompts), dtype=np.float32)[:, None]
    pieces = [prompts[at : at + BATCH] for at in range(0, len(prompts), BATCH)]
    return np.concatenate([proof.next_token_logits(decoder, piece, adapter) for piece in pieces])
