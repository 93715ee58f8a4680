"""Whether a GGUF file answers in llama.cpp as the model that was tuned does.

What goes in: a `Source`, what its tuned model says (float32, base and adapters side by side) and a file. What comes
out: checks for the receipt: token ids of awkward texts and of a conversation, and the same measure that a merge is held
to, on the same prompts: beginnings of the run's rows and the tuned model's answers to them.

Shape legend: B prompts, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier import machine
from luthier.data.formats import Message
from luthier.export import agreement
from luthier.export.agreement import Bounds, Reference
from luthier.export.gguf import recipe
from luthier.export.weights import Source
from luthier.proof import Logits
from luthier.runs.receipt import Check
from luthier.text import say

TEXTS = (
    "Hello world, this is a test.",
    "def f(x):\n    return x  +  1\n\n\n# end",
    "naïve café 你好，世界 🙂🚀 Привет",
    "two  spaces and   many    more\t\ttabs",
    "12345 6789 it's I'LL don't",
    "a\r\nb\n \n  c",
    "<unk-ish> [x] {y} ½ €100",
    "  begins with two spaces, ends with one ",
)
TOP, LIMIT_S = 1000, 1800
"""Tokens that llama.cpp lists; seconds that it may take."""
BOUNDS: dict[str, Bounds] = {
    "F32": Bounds(5e-5, 1e-2),
    "F16": Bounds(1e-4, 1e-2),
    "BF16": Bounds(2e-4, 2e-2),
    "Q8_0": Bounds(4e-3, 0.05),
    "Q6_K": Bounds(2e-2, 0.1, 0.9),
    "Q5_K": Bounds(5e-2, 0.1, 0.85),
    "Q4_K": Bounds(2e-1, 0.2, 0.75),
}
"""Of the type that most of a file has. Two to ten times what nano and
random models, the worst case, showed (LOG.md)."""
COARSE = Bounds(1.0, 0.2, 0.5)
"""Other types."""
FLOAT_BYTES = 4


def why_not(wanted: bool) -> str:
    """Id of the message that says why llama.cpp (extra `gguf`) is not asked; empty where it is."""
    if not wanted:
        return "gguf.evidence.unasked"
    return "" if importlib.util.find_spec("xllamacpp") is not None else "gguf.evidence.no_llama"


def reference(source: Source, places: Sequence[Sequence[int]] | None = None) -> Reference:
    """What the tuned model says, in float32 where it fits into memory.

    Args:
        places: prompts that llama.cpp chose; None lets the tuned model go on with beginnings.

    Raises:
        ModelError: the weights do not fit the compute dtype.
    """
    needed = FLOAT_BYTES * sum(math.prod(shape) for shape in source.shapes.values())
    return agreement.reference(source, "cpu", "float32" if needed <= machine.free_memory_bytes() else "auto", places)


def bounds_for(source: Source, expected: Reference | None, wanted: str) -> Bounds:
    """What a file may differ by: as its type, and no less than a sum that was rounded to 16 bits or a tuned model that
    was computed in them."""
    own = BOUNDS.get(recipe.BASE[wanted], COARSE)
    rounds = bool(source.voices) and any(each.itemsize < FLOAT_BYTES for each in source.dtypes.values())
    if rounds or (expected is not None and expected.backend.compute_dtype != torch.float32):
        rounded = Bounds(agreement.ROUNDED_KL, agreement.ROUNDED_TIE)
        return Bounds(max(own.kl, rounded.kl), max(own.tie, rounded.tie), min(own.top1, rounded.top1))
    return own


def not_run(source: Source, file: Path, wanted: str, reason: str) -> list[Check]:
    """The two checks of a file that llama.cpp was not asked about. reason: id of a message."""
    return _both(file, wanted, bounds_for(source, None, wanted), "not run", say(reason))


def checks(source: Source, expected: Reference, file: Path, wanted: str) -> list[Check]:
    """Two checks: tokens, and what is predicted after the reference's prompts."""
    bounds = bounds_for(source, expected, wanted)
    renderer = source.renderer
    ours = [renderer.vocabulary.ids(text) for text in TEXTS]
    chat, spoken = None, []
    if renderer.template_source and renderer.trained == "chat":
        chat = renderer.prompt([Message("user", TEXTS[0])])
        spoken = [{"role": "user", "content": TEXTS[0]}]
        if renderer.system is not None:
            spoken.insert(0, {"role": "system", "content": renderer.system})
    told = ask({"file": str(file), "texts": TEXTS, "messages": spoken, "prompts": expected.prompts, "top": TOP})
    if isinstance(told, str):
        return _both(file, wanted, bounds, "fail", say("gguf.evidence.broken", reason=told))
    same = sum(a == b for a, b in zip(told["ids"], ours, strict=True))
    good = same == len(TEXTS) and told["chat"] == chat
    evidence = "tokens" if chat is None else "chat_same" if told["chat"] == chat else "chat_other"
    tokens, _ = _both(
        file, wanted, bounds, "pass" if good else "fail", say(f"gguf.evidence.{evidence}", same=same, texts=len(TEXTS))
    )
    found = agreement.compare(source, expected, whole(expected.tuned_BV, told["tops"]), bounds)
    return [tokens, found.check(f"gguf_agreement_{wanted}", say("gguf.check.agreement", file=file.name))]


def whole(tuned_BV: Logits, tops: Sequence[Sequence[tuple[int, float]]]) -> Logits:
    """Log-probabilities [B, V] from those that llama.cpp lists for each prompt. What it gives to all others together is
    shared among them as the tuned model does, so that the KL divergence is that of the listed tokens and one for the
    rest: never larger than the true one."""
    made = np.empty_like(tuned_BV)
    for row, tuned, top in zip(made, tuned_BV, tops, strict=True):
        logp = torch.from_numpy(tuned).double().log_softmax(-1).numpy()
        ids, theirs = np.array([each[0] for each in top]), np.array([each[1] for each in top])
        others = np.ones(len(logp), dtype=bool)
        others[ids] = False
        if others.any():
            mine = np.logaddexp.reduce(logp[others])
            row[others] = logp[others] - mine + math.log(max(1 - math.fsum(np.exp(theirs)), 1e-12))
        row[ids] = theirs
    return made


def _both(file: Path, wanted: str, bounds: Bounds, status: Any, evidence: str) -> list[Check]:
    tokens = say("gguf.bound.tokens"), evidence, say("gguf.check.tokens", file=file.name)
    agree = agreement.bound_text(bounds), evidence, say("gguf.check.agreement", file=file.name)
    return [Check(f"gguf_tokens_{wanted}", status, *tokens), Check(f"gguf_agreement_{wanted}", status, *agree)]


def ask(asked: Mapping[str, Any]) -> dict[str, Any] | str:
    """llama.cpp's answer, or in words why there is none."""
    # -P: a file of the user's named like a module of ours or of the standard library stays out of the way.
    command = [sys.executable, "-P", "-m", "luthier.export.gguf.llama"]
    given = {**asked, "threads": torch.get_num_threads()}
    try:
        done = subprocess.run(
            command, input=json.dumps(given), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return say("gguf.evidence.slow", seconds=LIMIT_S)
    try:
        told = json.loads(done.stdout.strip().rpartition("\n")[2])
        return told if isinstance(told, dict) else str(told)[:200]
    except ValueError:
        return (done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}")[:200]
