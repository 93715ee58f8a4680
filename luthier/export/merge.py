"""Merging: a tuned model as one ordinary folder, which any program reads, and which says what the tuned model says.

What goes in: a run or an adapter's folder, or several with strengths. What comes out: safetensors, config, tokenizer,
template, generation settings, a model card and a receipt, complete or not at all. The weights pass through memory a
tensor at a time; only the proof loads a model, the tuned one first and then the folder that was written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from luthier.arch.values import is_valued
from luthier.config.schema import Qlora
from luthier.errors import ModelError, Problem
from luthier.export import agreement, card, receipt
from luthier.export.receipt import ExportReceipt
from luthier.export.weights import Source, open_source
from luthier.models import quantize, shards, weights
from luthier.runs import files
from luthier.runs.receipt import Check
from luthier.text import say

SMALL_BYTES = 2**24
"""Room for tokenizer, template and papers beside the weights."""


@dataclasses.dataclass(frozen=True)
class Merged:
    """A folder that was written, and the receipt that lies in it."""

    path: Path
    receipt: ExportReceipt


def merge(
    target: str | Path | Sequence[tuple[str | Path, float]],
    out: str | Path | None = None,
    *,
    base: str | None = None,
    force: bool = False,
    device: str = "auto",
    max_shard_bytes: int = shards.DEFAULT_SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Merge adapters into their base, which is read as it lies there, unquantised.

    Args:
        target: a run or an adapter's folder; or several, each with its strength.
        out: the folder to write; must be missing or empty. None takes the target's own name with `-merged`.
        base: of adapters that no run made, where their settings do not name the right one.
        force: write also what does not agree with the tuned model; the receipt says so.
        device: where the proof computes.
        max_shard_bytes: where files are cut.
        on_progress: called with (tensors written, tensors in all).

    Raises:
        ModelError: a base that is not the one of the run any more, an adapter that is none or does not fit, a folder
            that holds something, or a merged model that does not agree.
        RunError: a run without a result, no room, or a refusal of the operating system.
    """
    targets = [(target, 1.0)] if isinstance(target, (str, Path)) else list(target)
    source = open_source(targets, base)
    if not source.voices:
        raise ModelError(Problem("export.nothing_to_merge", value=str(targets[0][0])))
    place = source.place
    assert place is not None, "what has adapters has a place"
    folder = Path(out) if out is not None else place.with_name(f"{place.name}-merged")
    if folder.resolve() in (source.folder.resolve(), *(each.folder.resolve() for each in source.voices)):
        raise ModelError(Problem("models.same_folder", str(folder)))
    with shards.fresh_folder(folder, source.num_bytes + SMALL_BYTES) as fresh:
        made = _fill(fresh, source, force, device, max_shard_bytes, on_progress or (lambda done, total: None))
    return Merged(folder, made)


def _fill(
    fresh: Path, source: Source, force: bool, device: str, max_shard_bytes: int, on_progress: Callable[[int, int], None]
) -> ExportReceipt:
    expected, beside = agreement.reference(source, device), agreement.trained_beside(source)
    trained = None
    if beside is not None and quantize.installed():
        trained = agreement.reference(source, device, places=expected.prompts, quantise=beside)
    weights.write_files(fresh, _told(source, on_progress), source.arch, source.folder, source.dtypes, max_shard_bytes)
    source.renderer.save(fresh)
    checks = [base_check(source), *_agreements(source, expected, trained, beside, fresh)]
    # How far the base's rounding took the model as it was trained is told, not refused: no merge could be nearer.
    failed = [check for check in checks if check.status == "fail" and check.name == "agreement"]
    if failed and not force:
        values = {"found": failed[0].evidence, "bound": failed[0].bound}
        raise ModelError(Problem("export.disagrees", values=values))
    made = receipt.build("merge", source, checks, files.fingerprints(fresh), forced=bool(failed))
    receipt.write(fresh, made)
    named = str(made.base["path"])
    text = say("export.card.text", base=receipt.public(named))
    licence = card.licence_of(source.folder)
    page = card.page("model", text, card.hub_id(named), made, licence, is_valued(source.arch))
    files.write_text(fresh / card.NAME, "\n".join(page) + "\n")
    return made


def _told(source: Source, on_progress: Callable[[int, int], None]) -> Iterator[tuple[str, Tensor]]:
    for done, name in enumerate(source.names, 1):
        yield name, source.tensor(name)
        on_progress(done, len(source.names))


def _agreements(
    source: Source,
    expected: agreement.Reference,
    trained: agreement.Reference | None,
    beside: Qlora | None,
    written: Path,
) -> list[Check]:
    """What was written against the adapters on the base that they are merged into and, where that is not the base that
    they were trained beside, against the model as it was trained."""
    exported_BV = agreement.exported_logits(expected, written)
    if beside is None:
        return [agreement.check(source, expected, exported_BV)]
    exact = agreement.check(source, expected, exported_BV, text=say("export.check.arithmetic"))
    name, text = "agreement_as_trained", say("export.check.as_trained", base=beside.base)
    if trained is None:
        return [exact, Check(name, "not run", "", say("export.as_trained.missing"), text)]
    return [exact, agreement.check(source, trained, exported_BV, name, text, as_trained=True)]


def base_check(source: Source) -> Check:
    """Whether the base is the one that was trained on. `open_source` refuses another, where a run knows it."""
    known = bool(source.voices) and all(each.run is not None for each in source.voices)
    evidence = say("export.base.same" if known else "export.base.unknown")
    return Check("base", "pass" if known else "not run", "", evidence, say("export.check.base"))
