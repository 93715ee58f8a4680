"""The hardest moments of a run, before its first step.

What goes in: a job whose state is restored. What comes out: the same job in the same state, to the bit, and the
knowledge that the longest micro-batch with its gradients, an update's working memory, the largest piece of an
evaluation, and a save fit. Where memory runs out, less is held (`memory.Room`); where that is not possible, or the disk
is full, the run ends here, before anything binds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from luthier.batch import Batch, Step
from luthier.engine import checkpoint, loop, memory, optim
from luthier.engine.checkpoint import TrainState
from luthier.engine.loop import Job
from luthier.errors import PeerLost, RunError, TrainingFailed


def rehearse(job: Job, state: TrainState) -> None:
    """Run and undo a step without its update, an evaluation and a save. All that stays is the optimizer's state, which
    is made here instead of in the first step: zeros.

    Raises:
        RunError: memory runs out, and nothing can be held less; or the disk has no room for a checkpoint.
    """
    try:
        _compute(job, state)
        memory.release()
        if job.ranks.first:
            with memory.saving(), job.run.trial_checkpoint(state.step) as folder:
                checkpoint.save(folder, job.named, job.optimizer, state)
    except PeerLost:  # says nothing of this run's needs: the process that ended does
        raise
    except TrainingFailed as failure:
        raise RunError(failure.problem) from None


def _compute(job: Job, state: TrainState) -> None:
    """What needs memory besides the save."""

    def largest() -> Step:
        return job.stream.largest(state.step, job.optim.in_backward)

    def fullest() -> Batch:
        return max(job.validation, key=lambda batch: batch.num_tokens)

    def undo() -> None:
        job.optimizer.zero_grad(set_to_none=True)

    with _untouched(job):
        loop.within_memory(job, state.step, lambda: _step(job, largest()), undo, lambda: largest().tokens)
        undo()
        if len(job.validation):
            size, how = (lambda: fullest().num_tokens), {"split_only": True}
            loop.within_memory(job, state.step, lambda: _evaluation(job, fullest()), undo, size, **how)


def _step(job: Job, step: Step) -> None:
    """A micro-batch at the time when the gradients of earlier ones are there already, and room for the update. Weights
    do not move."""
    with job.ranks.together():
        optim.allocate(job.optimizer)
    parameters = [parameter for _, parameter in job.named]
    step = job.method.prepare(step, job.model)
    if job.optim.in_backward:
        with optim.dropping_gradients(parameters):
            loop.accumulate(job, step, 1.0)
    else:
        with job.ranks.together():
            optim.allocate_gradients(parameters)
        loop.accumulate(job, step, 1.0)
        optim.clip(parameters, 0.0)
    with job.ranks.together():
        optim.reserve(job.optimizer)


def _evaluation(job: Job, batch: Batch) -> None:
    with torch.no_grad(), job.ranks.together():
        job.method.loss(job.model, batch, -1)


@contextmanager
def _untouched(job: Job) -> Iterator[None]:
    """Puts back what computing may move besides gradients: torch's random numbers, and what the method adapts."""
    adapted = copy.deepcopy(job.method.state_dict())
    devices = [torch.cuda.current_device()] if job.backend.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            job.method.load_state_dict(adapted)
