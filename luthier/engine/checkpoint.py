"""Exact save and resume of everything a training run is made of.

What goes in: the trainable tensors, the optimizer and a `TrainState`. What comes out: a checkpoint folder
(`trainable.safetensors`, `optim.safetensors`, `state.json`), written by `RunFolder` atomically and with hashes; and the
same things back, bit for bit. Order and dropout are pure functions of (seed, step), so no generator state is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from luthier.engine import optim
from luthier.errors import Problem, RunError

FORMAT = 1
TRAINABLE, OPTIMIZER, STATE = "trainable.safetensors", "optim.safetensors", "state.json"


@dataclasses.dataclass
class TrainState:
    """Where a run stands; the only mutable thing of the loop.

    Attributes:
        step: optimizer steps done, which is the index of the next one.
        tokens, loss_weight: tokens of the examples learnt from, and the sum of loss weights, so far.
        computed_tokens: tokens that went through the model; fewer, where examples share their beginnings.
        seconds: training time over all attempts.
        best_loss, best_step: lowest validation loss and its step; None before the first validation.
        loss_scale, good_steps: fp16 loss scale and the steps since it last changed.
        bad_streak: updates skipped in a row.
        event_seq: sequence number of the last event that belongs to this state.
        method: the method's own state (adaptive coefficients...).
    """

    step: int = 0
    tokens: int = 0
    loss_weight: float = 0.0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    loss_scale: float = 65536.0
    good_steps: int = 0
    bad_streak: int = 0
    event_seq: int = 0
    method: dict[str, Any] = dataclasses.field(default_factory=dict)
    computed_tokens: int = 0


def save(
    folder: Path, named: Sequence[optim.Named], optimizer: torch.optim.Optimizer | None, state: TrainState
) -> None:
    """Write the three files into an existing empty folder. `optimizer` None leaves its file out (the best slot)."""
    save_file({name: p.detach().cpu().contiguous() for name, p in named}, folder / TRAINABLE)
    if optimizer is not None:
        slots = optim.state_tensors(optimizer, named)
        save_file({key: value.cpu().contiguous() for key, value in slots.items()}, folder / OPTIMIZER)
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(state)}, indent=1)
    (folder / STATE).write_text(text + "\n", encoding="utf-8")


def load(folder: Path, named: Sequence[optim.Named], optimizer: torch.optim.Optimizer | None) -> TrainState:
    """Put a checkpoint's tensors into the parameters and the optimizer, and return its state.

    Raises:
        RunError: the checkpoint was written by another format version, or for other parameters or another optimizer.
    """
    fields = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if fields.pop("format") != FORMAT:
        raise RunError(Problem("engine.checkpoint_format", where=str(folder)))
    tensors = load_file(folder / TRAINABLE)
    expected = {name: tuple(p.shape) for name, p in named}
    if {name: tuple(t.shape) for name, t in tensors.items()} != expected:
        raise RunError(Problem("engine.checkpoint_parameters", where=str(folder)))
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(tensors[name])
    if optimizer is not None:
        try:
            optim.load_state_tensors(optimizer, named, load_file(folder / OPTIMIZER))
        except KeyError as error:
            raise RunError(Problem("engine.checkpoint_optimizer", where=str(folder))) from error
    fields.setdefault("computed_tokens", fields["tokens"])  # versions that shared nothing did not count them
    return TrainState(**fields)


def best_step(folder: Path) -> int | None:
    """The step whose weights were the best when a checkpoint was written; None where there was none, or its state
    cannot be read: no run is resumed from such a checkpoint."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found: int | None = json.loads((folder / STATE).read_text(encoding="utf-8"))["best_step"]
        return found
    return None


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Two checkpoints' trained tensors bit by bit: {same, tensors, different (names), largest_difference}."""
    one, other = load_file(first / TRAINABLE), load_file(second / TRAINABLE)
    shared = [name for name in one if name in other and one[name].shape == other[name].shape]
    different = sorted(set(one) ^ set(other) | {name for name in shared if not torch.equal(one[name], other[name])})
    gaps = [float((one[name] - other[name]).abs().max()) for name in shared if one[name].numel()]
    return {
        "same": not different,
        "tensors": len(one),
        "different": different,
        "largest_difference": max(gaps, default=0.0),
    }
