"""The receipt's checks that need the model: made at the end of a run, and again by `luthier runs verify`.

What goes in: a run's probe, and a model or its logits. What comes out: a `Check` each, with bound and evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np

from luthier import parent, proof
from luthier.data.laws import LawReport
from luthier.data.sequences import Sequences
from luthier.data.templates import Renderer
from luthier.errors import Problem, RunError
from luthier.models.decoder import Decoder
from luthier.runs import manifest
from luthier.runs.receipt import Check, Status
from luthier.runs.store import RunFolder
from luthier.session import Base, Session, open_any, output_folder, run_base
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


def beyond_positions(base: Base, stores: Sequence[Sequences | None]) -> list[Problem]:
    """A note where rows are longer than what the base has seen: its rotary angles there are new to it."""
    limit = base.arch.spec.max_positions
    lengths = [store.lengths for store in stores if store is not None]
    rows = sum(int((each > limit).sum()) for each in lengths)
    longest = max(int(each.max()) for each in lengths)
    values = {"rows": rows, "limit": limit, "longest": longest}
    return [Problem("engine.beyond_positions", field="data.max_tokens", values=values)] if rows else []


def base_untouched(probe: proof.Probe, decoder: Decoder | None) -> Check:
    """With the adapter off, the model gives the base's own bits. decoder: None where the weights themselves were
    tuned."""
    bound = say("engine.check_base_bound")
    if decoder is None:
        return Check("base_untouched", "not run", bound, say("engine.check_base_trained"))
    after_BV = proof.said(decoder, probe.prompts, None)
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


# ---------------------------------------------------------------------------------------------------- made again


class Evidence:
    """What the checks of a run are made on, each part opened when the first check needs it: one that is gone spoils
    only the checks that need it."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @cached_property
    def session(self) -> Session:
        return open_any(self.run.path)

    @cached_property
    def probe(self) -> proof.Probe:
        """With the tuned model's logits.

        Raises:
            RunError: missing or damaged, or the run did not get as far.
        """
        found = proof.Probe.load(self.run)
        if found.tuned_BV is None:
            values = {"name": self.run.name, "state": self.run.state}
            raise RunError(Problem("runs.no_result", where=str(self.run.path), values=values))
        return found


def again(run: RunFolder) -> dict[str, Callable[[], Check]]:
    """The checks of a run that need more than its folder, by name, to be made anew. Each may raise a `UserError`, which
    is then what it found."""
    evidence = Evidence(run)
    checks = {
        "base_unchanged": _base_unchanged,
        "parent": _parent_unchanged,
        "tokenizer": _tokenizer_unchanged,
        "base_untouched": _base_untouched_again,
        "adapter_reload": _reload_again,
        "effect": lambda evidence: effect(evidence.probe),
    }
    return {name: partial(check, evidence) for name, check in checks.items()}


def _base_unchanged(evidence: Evidence) -> Check:
    """The base's weights and config.json against the manifest."""
    with evidence.run.at_home() as there:
        base = run_base(there)
    found = say("runs.evidence.same_files", where=base.folder)
    return Check("base_unchanged", "pass", say("runs.bound.same_hash"), found)


def _parent_unchanged(evidence: Evidence) -> Check:
    bound = say("runs.bound.same_hash")
    with evidence.run.at_home() as there:
        given = manifest.load(there).parent
        if given is None:
            return Check("parent", "not run", bound, say("runs.evidence.absent"))
        found = parent.find(there.config().tune)
        assert found is not None, "a manifest with a parent belongs to a recipe with tune.from"
        now = manifest.parent_fingerprint(found.folder)["files"]
    names = [name for name in {**given["files"], **now} if given["files"].get(name) != now.get(name)]
    if names and not now:
        return Check("parent", "not run", bound, say("runs.evidence.missing", names=given["path"]))
    if names:
        return Check("parent", "fail", bound, say("runs.evidence.differ", names=", ".join(names)))
    return Check("parent", "pass", bound, say("runs.evidence.counted", good=len(now), all=len(now)))


def _tokenizer_unchanged(evidence: Evidence) -> Check:
    """Tokenizer and template as saved with the result, against those the rows were rendered with."""
    then = manifest.load(evidence.run).tokenizer["fingerprint"]
    now = Renderer.load(output_folder(evidence.run)).fingerprint
    found = say("runs.evidence.fingerprints", then=then[:12], now=now[:12])
    return Check("tokenizer", "pass" if now == then else "fail", say("runs.bound.same_hash"), found)


def _base_untouched_again(evidence: Evidence) -> Check:
    session = evidence.session
    return base_untouched(evidence.probe, session.decoder if session.adapter is not None else None)


def _reload_again(evidence: Evidence) -> Check:
    session, probe = evidence.session, evidence.probe
    return reload(probe, proof.said(session.decoder, probe.prompts, session.adapter))
