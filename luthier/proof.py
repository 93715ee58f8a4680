"""Evidence about a finished run: did saving lose anything, did training change anything, is the base untouched.

What goes in: a run folder and a few prompts out of its data. What comes out: the model's next-token logits on them,
before and after training and from a fresh process that knows only the files, and the checks that compare them.
`python -m luthier.proof RUN` is that fresh process.

Shape legend: B prompts, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.arch.values import is_valued
from luthier.data.sequences import Sequences
from luthier.errors import Problem, RunError
from luthier.models import reward
from luthier.models.cache import BLOCK, Cache, Place
from luthier.models.decoder import Decoder, Part
from luthier.runs import files
from luthier.runs.store import RunFolder
from luthier.session import open_any

NUM_PROMPTS, PROMPT_TOKENS = 8, 256
"""Enough to notice a wrong file, small enough to cost nothing beside training. Chosen, not tuned."""
PROBE = "probe.npz"
RELOAD_BOUND = 1e-5
"""Relative difference allowed between the trained model and its reloaded file: float32 rounding; the same bits are
expected."""

Logits = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Effect:
    """How far tuning moved the model on the probe prompts: mean KL(base || tuned) in nats per token, and the share of
    prompts whose most likely next token changed."""

    mean_kl: float
    top1_changed: float


def prompts(store: Sequences) -> list[list[int]]:
    """The beginnings of the first examples: up to their first learnt token (half of the row for plain text)."""
    chosen = []
    for index in range(min(NUM_PROMPTS, len(store))):
        row = store[index]
        chosen.append([int(token) for token in row.ids[: row.opening][-PROMPT_TOKENS:]])
    return chosen


@torch.no_grad()
def next_token_logits(decoder: Decoder, prompts: Sequence[Sequence[int]], adapter: str | None) -> Logits:
    """Logits [B, V] of the token after each prompt, in float32."""
    cache = Cache(decoder, sum(len(prompt) + BLOCK for prompt in prompts))
    places = [Place() for _ in prompts]
    for place, prompt in zip(places, prompts, strict=True):
        reserved = cache.reserve(place, len(prompt))
        assert reserved, "the cache was made for these prompts"
    parts = [Part(prompt, place, adapter) for prompt, place in zip(prompts, places, strict=True)]
    logits_BV = decoder.extend(parts, cache)
    return np.asarray(logits_BV.float().cpu().numpy(), dtype=np.float32)


def said(decoder: Decoder, prompts: Sequence[Sequence[int]], adapter: str | None) -> Logits:
    """What a model says after each prompt: logits [B, V] of the next token; before them the number of a scalar head."""
    logits_BV = next_token_logits(decoder, prompts, adapter)
    if not is_valued(decoder.arch):
        return logits_BV
    numbers_B = np.asarray(reward.scores(decoder, adapter, prompts), dtype=np.float32)
    return np.concatenate([numbers_B[:, None], logits_BV], axis=1)


def effect(base_BV: Logits, tuned_BV: Logits) -> Effect:
    """KL and top-1 change between two models' logits [B, V] on the same prompts, over the tokens that both have."""
    tuned_BV = tuned_BV[:, : base_BV.shape[1]]
    base, tuned = (torch.from_numpy(each).double().log_softmax(-1) for each in (base_BV, tuned_BV))
    kl = (base.exp() * (base - tuned)).sum(-1).mean()
    return Effect(float(kl), float((base.argmax(-1) != tuned.argmax(-1)).double().mean()))


def relative_difference(a_BV: Logits, b_BV: Logits) -> float:
    """max|a-b| / max|b|; 0 for equal ones and infinite where all of b is 0, which is what a collapsed model gives."""
    if np.array_equal(a_BV, b_BV):
        return 0.0
    with np.errstate(invalid="ignore"):  # infinite minus infinite is no number, and no number is no pass
        largest, scale = float(np.abs(a_BV - b_BV).max()), float(np.abs(b_BV).max())
    return largest / scale if scale else math.inf


@dataclasses.dataclass(frozen=True)
class Probe:
    """The prompts, the untouched base's logits [B, V] on them, and once training is over the tuned model's."""

    prompts: list[list[int]]
    base_BV: Logits
    tuned_BV: Logits | None = None

    def save(self, run: RunFolder) -> None:
        """Write `probe.npz` into the run folder, as a whole."""
        arrays = {
            "ids": np.concatenate([np.asarray(prompt, dtype=np.int32) for prompt in self.prompts]),
            "lengths": np.asarray([len(prompt) for prompt in self.prompts], dtype=np.int64),
            "base": self.base_BV,
        }
        if self.tuned_BV is not None:
            arrays["tuned"] = self.tuned_BV
        temp = files.temp_name(run.path / PROBE)
        with files.user_errors(temp):
            with open(temp, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            temp.replace(run.path / PROBE)

    @classmethod
    def load(cls, run: RunFolder) -> Probe:
        """What `save` wrote.

        Raises:
            RunError: it is missing or damaged.
        """
        path = run.path / PROBE
        try:
            with np.load(path) as stored:
                pieces = np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])
                prompts = [[int(token) for token in piece] for piece in pieces]
                return cls(prompts, stored["base"], stored.get("tuned"))
        except FileNotFoundError as error:
            raise RunError(Problem("runs.file_missing", where=str(path))) from error
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            problem = Problem("runs.file_damaged", where=str(path), values={"reason": str(error)})
            raise RunError(problem) from error


def reload_in_fresh_process(run: RunFolder) -> Logits | str:
    """The saved model's logits from a process of its own; a message where that process failed."""
    with tempfile.TemporaryDirectory(prefix="luthier-proof-") as folder:
        result = Path(folder) / "logits.npy"
        # -P: a file of the user's named like a module of ours or of the standard library stays out of the way.
        command = [sys.executable, "-P", "-m", "luthier.proof", str(run.path), str(result)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else f"exit {done.returncode}"
        return np.asarray(np.load(result), dtype=np.float32)


def main(path: str, result: str) -> None:
    """Load the run's saved output as any later command would, and write its logits on the probe prompts to a file."""
    session = open_any(path)
    chosen = Probe.load(RunFolder.open(path)).prompts
    np.save(result, said(session.decoder, chosen, session.adapter))


if __name__ == "__main__":
    main(*sys.argv[1:3])
