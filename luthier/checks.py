"""The receipt's checks that need the model: made at the end of a run, and again by `luthier runs verify`.

What goes in: a run's probe, and a model or its logits. What comes out: a `Check` each, with bound and evidence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luthier import proof
from luthier.data.laws import LawReport
from luthier.models.decoder import Decoder
from luthier.runs.receipt import Check, Status
from luthier.runs.store import RunFolder
from luthier.session import open_session
from luthier.text import say


def laws(report: LawReport, sequences: int, cut: int) -> list[Check]:
    """What the rows were held to before training; a violation has stopped the run already.

    Args:
        sequences, cut: how many are learnt from, and how many of them lost their end to `data.max_tokens`. Where all
            did, no answer's end was learnt.
    """
    evidence = say("engine.check_laws_found", shapes=report.shapes, checked=report.checked)
    status: Status = "pass" if report.checked else "not run"
    ends, found = status, evidence
    if cut:
        ends = "fail" if cut == sequences else status
        found = say("engine.check_stop_cut", evidence=evidence, cut=cut, all=sequences)
    return [
        Check("prompt_law", status, say("engine.check_laws_bound"), evidence),
        Check("stop_token", ends, say("engine.check_stop_bound"), found),
    ]


def base_untouched(probe: proof.Probe, decoder: Decoder | None) -> Check:
    """With the adapter off, the model gives the base's own bits. decoder: None where the weights themselves were
    tuned."""
    bound = say("engine.check_base_bound")
    if decoder is None:
        return Check("base_untouched", "not run", bound, say("engine.check_base_trained"))
    after_BV = proof.next_token_logits(decoder, probe.prompts, None)
    difference = float(np.abs(probe.base_BV - after_BV).max())
    found = say("engine.check_base_found", prompts=len(probe.prompts), difference=difference)
    return Check("base_untouched", "pass" if np.array_equal(probe.base_BV, after_BV) else "fail", bound, found)


def reload(probe: proof.Probe, reloaded: proof.Logits | str) -> Check:
    """The saved files give the trained model's logits. reloaded: those logits, or why there are none."""
    assert probe.tuned_BV is not None
    bound = say("engine.check_reload_bound", bound=proof.RELOAD_BOUND)
    if isinstance(reloaded, str):
        return Check("adapter_reload", "fail", bound, reloaded)
    difference = proof.relative_difference(reloaded, probe.tuned_BV)
    evidence = say("engine.check_reload_found", prompts=len(probe.prompts), difference=difference)
    return Check("adapter_reload", "pass" if difference <= proof.RELOAD_BOUND else "fail", bound, evidence)


def effect(probe: proof.Probe) -> Check:
    """The tuned model is another one than the base."""
    assert probe.tuned_BV is not None
    found = proof.effect(probe.base_BV, probe.tuned_BV)
    evidence = say("engine.check_effect_found", kl=found.mean_kl, top1=100 * found.top1_changed)
    return Check("effect", "pass" if found.mean_kl > 0 else "fail", say("engine.check_effect_bound"), evidence)


def again(run: RunFolder) -> dict[str, Callable[[], Check]]:
    """The checks of a finished run, to be made anew from its files; none where there is no result yet."""
    if not run.has(proof.PROBE) or run.state != "finished":
        return {}
    probe, session = proof.Probe.load(run), open_session(run.path)
    untuned = session.decoder if session.adapter is not None else None
    return {
        "base_untouched": lambda: base_untouched(probe, untuned),
        "adapter_reload": lambda: reload(
            probe, proof.next_token_logits(session.decoder, probe.prompts, session.adapter)
        ),
        "effect": lambda: effect(probe),
    }
