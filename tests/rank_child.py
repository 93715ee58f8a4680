"""A process of a run that several train, for `test_ranks.py`: imports no more than that needs, because it is started
often (the fork server has it loaded).
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import unmeasured
from safetensors.torch import save_file

import luthier
from luthier import finish
from luthier.batch import Batch, Step
from luthier.engine import backend, loop, optim
from luthier.errors import Interrupted, TrainingFailed
from luthier.samples import Sample, Sampler


def train(
    recipe: dict[str, Any], place: dict[str, str], gradients: str, *, finishes: bool, short: bool = False
) -> None:
    """Train in a place that the environment gives, as under torchrun; rank 0 keeps the gradients of its last step.
    finishes: whether the result is written and checked; short: whether rank 1 has no memory for its second step when it
    makes it first, nor for the first answers."""
    os.environ.update(place)
    torch.set_num_threads(1)
    backend._measured = unmeasured.products
    clip = optim.clip

    def keep(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
        if place.get("RANK", "0") == "0":
            save_file({str(i): p.grad.contiguous() for i, p in enumerate(parameters) if p.grad is not None}, gradients)
        return clip(parameters, limit)

    optim.clip = keep
    if short and place.get("RANK") == "1":
        objective, failures = loop._objective, iter([MemoryError("not enough memory")])

        def no_room(job: loop.Job, step: Step, batch: Batch, measures: loop.Measures | None = None) -> torch.Tensor:
            if job.run.has_begun and step.index == 1:
                for failure in failures:
                    raise failure
            return objective(job, step, batch, measures)

        loop._objective = no_room
        answer, unanswered = Sampler.__call__, iter([MemoryError("not enough memory")])

        def no_answers(sampler: Sampler) -> dict[int, Sample]:
            for failure in unanswered:
                raise failure
            return answer(sampler)

        Sampler.__call__ = no_answers
    if not finishes:
        finish.finish = lambda *_: None
    try:
        luthier.train(recipe)
    except (Interrupted, TrainingFailed) as error:
        sys.exit(error.exit_code)
