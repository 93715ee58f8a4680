"""Whether a GGUF file answers in llama.cpp as the model that was tuned does.

What goes in: a session of the tuned model and a file. What comes out: checks for the receipt: token ids of awkward
texts and of a conversation, KL and the likeliest next token on prefixes of them.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from luthier.data.examples import Message
from luthier.export.gguf import recipe
from luthier.proof import next_token_logits
from luthier.runs.receipt import Check
from luthier.session import Session
from luthier.text import say

TEXTS = (
    "Hello world, this is a test.",
    "def f(x):\n    return x  +  1\n\n\n# end",
    "naïve café 你好，世界 🙂🚀 Привет",
    "two  spaces and   many    more\t\ttabs",
    "12345 6789 it's I'LL don't",
    "a\r\nb\n \n  c",
    "<unk-ish> [x] {y} ½ €100",
    "Copyright (c) 2020 Foundation. Permission is hereby granted",
)
TOP, PREFIXES, LIMIT_S = 100, 24, 1800
KL = {"F32": 1e-3, "F16": 1e-3, "BF16": 2e-3, "Q8_0": 1e-2, "Q6_K": 2e-2, "Q5_K": 5e-2, "Q4_K": 2e-1}
"""Mean KL in nats: about twice what random models, the worst case, showed; a trained one is 20 to 100 times lower."""
TOP1 = {"F32": 0.95, "F16": 0.95, "BF16": 0.95, "Q8_0": 0.9, "Q6_K": 0.9, "Q5_K": 0.85, "Q4_K": 0.75}
COARSE_KL, COARSE_TOP1 = 1.0, 0.5
"""Types of under five bits whose error nobody measured here."""


def checks(session: Session, file: Path, wanted: str) -> list[Check]:
    """Two checks, `not run` where the extra is not installed."""
    kind = recipe.BASE[wanted]
    kl_bound, top1_bound = KL.get(kind, COARSE_KL), TOP1.get(kind, COARSE_TOP1)
    bounds = say("gguf.bound.tokens"), say("gguf.bound.agreement", kl=kl_bound, top1=top1_bound)
    texts = say("gguf.check.tokens", file=file.name), say("gguf.check.agreement", file=file.name)
    names = f"gguf_tokens_{wanted}", f"gguf_agreement_{wanted}"

    def both(status: Any, evidence: str) -> list[Check]:
        return [Check(n, status, b, evidence, t) for n, b, t in zip(names, bounds, texts, strict=True)]

    if importlib.util.find_spec("xllamacpp") is None:
        return both("not run", say("gguf.evidence.no_llama"))
    renderer = session.renderer
    ours = [renderer.vocabulary.ids(text) for text in TEXTS]
    question = [Message("user", TEXTS[0])]
    chat = renderer.prompt(question) if renderer.template_source and not session.continues_text else None
    spoken = [{"role": "user", "content": TEXTS[0]}] if chat else []
    if spoken and renderer.system is not None:
        spoken.insert(0, {"role": "system", "content": renderer.system})
    rows = [chat or ours[0], ours[1], ours[7]]
    prompts = [row[:end] for row in rows for end in range(max(1, len(row) - PREFIXES // 3 + 1), len(row) + 1)]
    asked = {"file": str(file), "texts": TEXTS, "messages": spoken, "prompts": prompts, "top": TOP}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "luthier.export.gguf.llama"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        told = json.loads(done.stdout.strip().rpartition("\n")[2])
    except (subprocess.TimeoutExpired, ValueError) as error:
        return both("fail", say("gguf.evidence.broken", reason=str(error)[:200]))
    same = sum(a == b for a, b in zip(told["ids"], ours, strict=True))
    good = same == len(TEXTS) and told["chat"] == chat
    kl, top1 = _agreement(session, prompts, told["tops"])
    evidence = say("gguf.evidence.tokens", same=same, texts=len(TEXTS), chat=told["chat"] == chat if chat else "-")
    return [
        Check(names[0], "pass" if good else "fail", bounds[0], evidence, texts[0]),
        Check(
            names[1],
            "pass" if kl <= kl_bound and top1 >= top1_bound else "fail",
            bounds[1],
            say("gguf.evidence.agreement", kl=kl, top1=top1, places=len(prompts)),
            texts[1],
        ),
    ]


def _agreement(session: Session, prompts: list[list[int]], tops: list[list[tuple[int, float]]]) -> tuple[float, float]:
    """Mean KL(tuned || file) with all tokens that llama.cpp does not list as one, which makes it no larger; and how
    often the likeliest token is the same."""
    logits = next_token_logits(session.decoder, prompts, session.adapter)
    total, same = 0.0, 0
    for logp, top in zip(torch.from_numpy(logits).double().log_softmax(-1), tops, strict=True):
        ids, theirs = torch.tensor([each[0] for each in top]), torch.tensor([each[1] for each in top]).double()
        mine = logp[ids]
        rest, other = 1 - mine.exp().sum(), 1 - theirs.exp().sum()
        kl = (mine.exp() * (mine - theirs)).sum() + rest.clamp(min=1e-12) * (
            rest.clamp(min=1e-12).log() - other.clamp(min=1e-12).log()
        )
        total, same = total + float(kl), same + int(int(logp.argmax()) == top[0][0])
    return total / len(prompts), same / len(prompts)
