"""The end of a run: results in the ecosystem's formats, the checks, the receipt.

What goes in: a fitted job. What comes out: `adapter/` or `model/` in the run folder, holding the weights with the lowest
validation loss where validation ran, and a receipt whose checks were made on those files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from luthier import proof
from luthier.arch.count import AnyTune
from luthier.config.schema import Lora
from luthier.data.templates import Renderer
from luthier.engine import checkpoint
from luthier.engine.backend import peak_memory_bytes
from luthier.engine.checkpoint import TrainState
from luthier.engine.loop import Job
from luthier.models import adapters, weights
from luthier.models.decoder import Decoder
from luthier.runs import receipt, receipt_page
from luthier.runs.receipt import Check
from luthier.session import ADAPTER, Base
from luthier.text import say


def finish(job: Job, state: TrainState, tune: AnyTune, base: Base, renderer: Renderer) -> None:
    """Save the result, check it, write the receipt and say that the run is finished."""
    run, decoder = job.run, job.model
    assert isinstance(decoder, Decoder)
    if state.best_step not in (None, state.step):
        assert run.best_dir is not None
        checkpoint.load(run.best_dir, job.named, None)
    output = _save(job, decoder, tune, base, renderer)
    receipt.record(run, *_checks(job, decoder, tune))
    job.emit(
        "finished",
        {
            "steps": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "peak_memory_bytes": peak_memory_bytes(job.backend.device),
            "outputs": [output.name],
            "weights_of_step": state.best_step or state.step,
        },
        step=state.step,
    )
    made = receipt.build(run)
    receipt.write(run, made, receipt_page.lines(made))


def _save(job: Job, decoder: Decoder, tune: AnyTune, base: Base, renderer: Renderer) -> Path:
    if isinstance(tune, Lora):
        with job.run.replace("adapter") as folder:
            adapters.save_adapter(decoder, folder, tune, base.path, ADAPTER)
            renderer.save(folder)
        return job.run.path / "adapter"
    with job.run.replace("model") as folder:
        weights.save_model(decoder, base.folder, folder, job.backend.compute_dtype)
        renderer.save(folder)
    return job.run.path / "model"


def _checks(job: Job, decoder: Decoder, tune: AnyTune) -> list[Check]:
    prompts, base_BV = proof.load_probe(job.run.path / proof.PROBE)
    adapter = ADAPTER if isinstance(tune, Lora) else None
    tuned_BV = proof.next_token_logits(decoder, prompts, adapter)
    return [
        _base_untouched(decoder, prompts, base_BV, adapter),
        _reload(job, tuned_BV),
        _effect(base_BV, tuned_BV),
        _memory(job),
    ]


def _base_untouched(decoder: Decoder, prompts: list[list[int]], before_BV: proof.Logits, adapter: str | None) -> Check:
    bound = say("engine.check_base_bound")
    if adapter is None:
        return Check("base_untouched", "not run", bound, say("engine.check_base_trained"))
    after_BV = proof.next_token_logits(decoder, prompts, None)
    same = np.array_equal(before_BV, after_BV)
    found = say("engine.check_base_found", prompts=len(prompts), difference=float(np.abs(before_BV - after_BV).max()))
    return Check("base_untouched", "pass" if same else "fail", bound, found)


def _reload(job: Job, tuned_BV: proof.Logits) -> Check:
    bound = say("engine.check_reload_bound", bound=proof.RELOAD_BOUND)
    found = proof.reload_in_fresh_process(job.run)
    if isinstance(found, str):
        return Check("adapter_reload", "fail", bound, found)
    difference = proof.relative_difference(found, tuned_BV)
    evidence = say("engine.check_reload_found", prompts=len(tuned_BV), difference=difference)
    return Check("adapter_reload", "pass" if difference <= proof.RELOAD_BOUND else "fail", bound, evidence)


def _effect(base_BV: proof.Logits, tuned_BV: proof.Logits) -> Check:
    found = proof.effect(base_BV, tuned_BV)
    evidence = say("engine.check_effect_found", kl=found.mean_kl, top1=100 * found.top1_changed)
    return Check("effect", "pass" if found.mean_kl > 0 else "fail", say("engine.check_effect_bound"), evidence)


def _memory(job: Job) -> Check:
    planned = int(job.run.read_json("plan.json")["memory"]["peak_bytes"])
    measured = peak_memory_bytes(job.backend.device)
    found = say("engine.check_memory_found", planned=planned / 2**20, measured=measured / 2**20)
    return Check("memory_plan", "not run", say("engine.check_memory_bound"), found)
