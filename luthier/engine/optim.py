"""Optimizers and learning-rate schedules.

What goes in: the named trainable parameters and the recipe's `optim` section. What comes out: a torch optimizer over
fp32 master weights, and the learning rate of any step as a pure function of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from luthier.config.schema import OptimSection

Named = tuple[str, nn.Parameter]


def build(parameters: Iterable[Named], optim: OptimSection, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101; fused where torch has it) or SGD.

    Weight decay applies to matrices only: norms and biases, vectors all, are left alone.
    """
    named = list(parameters)
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optim.kind == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=optim.momentum)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=optim.betas, eps=optim.eps, fused=True)


def rate(step: int, num_steps: int, optim: OptimSection, learning_rate: float) -> float:
    """Learning rate of optimizer step `step` (from 0) of `num_steps`.

    Warm-up rises linearly to the peak over `warmup` steps (a share of all steps where below 1). Afterwards, with p the
    share of the remaining steps done: linear 1 - p; cosine (1 + cos(pi p)) / 2; polynomial (1 - p)^power; inverse
    square root sqrt(w / (w + steps since warm-up)), w = max(warm-up, 1); constant 1. The result runs from the peak
    down to `min_lr_ratio` of it.
    """
    warmup = warmup_steps(num_steps, optim)
    if step < warmup:
        return learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(num_steps - warmup, 1)
    if optim.schedule == "constant":
        factor = 1.0
    elif optim.schedule == "linear":
        factor = 1.0 - progress
    elif optim.schedule == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * progress))
    elif optim.schedule == "polynomial":
        factor = (1.0 - progress) ** optim.power
    else:
        reference = max(warmup, 1)
        factor = math.sqrt(reference / (reference + step - warmup))
    return learning_rate * (optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * factor)


def warmup_steps(num_steps: int, optim: OptimSection) -> int:
    return min(int(optim.warmup * num_steps) if optim.warmup < 1 else int(optim.warmup), num_steps)


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def clip(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their joint 2-norm is at most `limit` (0: leave them); returns the norm before, a scalar
    tensor on the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def state_tensors(optimizer: torch.optim.Optimizer, named: Iterable[Named]) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors `<parameter name>//<slot>`, ready for safetensors."""
    tensors = {}
    for name, parameter in named:
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}//{slot}"] = value.detach()
    return tensors


def load_state_tensors(optimizer: torch.optim.Optimizer, named: Iterable[Named], tensors: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` gave.

    Raises:
        KeyError: a tensor belongs to no trainable parameter.
    """
    parameters = dict(named)
    for key, value in tensors.items():
        name, slot = key.rsplit("//", 1)
        parameter = parameters[name]
        state: dict[str, Any] = optimizer.state[parameter]
        # AdamW's step counter lives on the CPU unless fused on a GPU; where a tensor has the parameter's shape, it
        # follows the parameter.
        state[slot] = value.to(parameter.device) if value.ndim or _fused_on_device(parameter) else value.clone()


def _fused_on_device(parameter: nn.Parameter) -> bool:
    return parameter.device.type == "cuda"
