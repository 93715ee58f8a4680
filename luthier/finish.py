"""The end of a run: results in the ecosystem's formats, the checks, the receipt.

What goes in: a fitted job. What comes out: `adapter/` or `model/` in the run folder, holding the weights with the
lowest validation loss where validation ran, and a receipt whose checks were made on those files.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from luthier import checks, proof
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
    if state.best_step is not None and state.best_step != state.step:
        shipped = checkpoint.load(run.best_dir(state.best_step), job.named, None)
        assert shipped.step == state.best_step, "the weights that ship are those that the events name"
    output = _save(job, decoder, tune, base, renderer)
    receipt.record(run, *_checks(job, decoder, tune))
    job.emit(
        "finished",
        {
            "steps": state.step,
            "tokens": state.tokens,
            "computed_tokens": state.computed_tokens,
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
    before = proof.Probe.load(job.run)
    adapter = ADAPTER if isinstance(tune, Lora) else None
    probe = dataclasses.replace(before, tuned_BV=proof.said(decoder, before.prompts, adapter))
    probe.save(job.run)
    return [
        checks.base_untouched(probe, decoder if adapter else None),
        checks.reload(probe, proof.reload_in_fresh_process(job.run)),
        checks.effect(probe),
        _memory(job),
    ]


def _memory(job: Job) -> Check:
    planned = int(job.run.read_json("plan.json")["memory"]["peak_bytes"])
    measured = peak_memory_bytes(job.backend.device)
    found = say("engine.check_memory_found", planned=planned / 2**20, measured=measured / 2**20)
    return Check("memory_plan", "not run", say("engine.check_memory_bound"), found)
