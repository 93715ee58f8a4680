"""Optimizers and learning-rate schedules.

What goes in: the named trainable parameters and the recipe's `optim` section. What comes out: a torch optimizer over
float32 masters (or, where the recipe says so, weights and states in fewer bytes), and the learning rate of any step as
a pure function of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from luthier.config.schema import OptimSection
from luthier.engine import adamw, paged

Named = tuple[str, nn.Parameter]


def build(
    parameters: Iterable[Named], optim: OptimSection, learning_rate: float, seed: int = 0
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101; fused where torch has it; paged where asked for) or SGD.

    Weight decay applies to matrices only: norms and biases, vectors all, are left alone. `optim.weights` and
    `optim.states` concern matrices only, too: vectors are a thousandth of a model. seed: of stochastic rounding.
    """
    named = list(parameters)
    matrices, vectors = [p for _, p in named if p.ndim >= 2], [p for _, p in named if p.ndim < 2]
    kept, exact = {"weights": optim.weights, "states": optim.states}, {"weights": "float32", "states": "float32"}
    groups: list[dict[str, Any]] = [
        {"params": matrices, **kept, "weight_decay": optim.weight_decay},
        {"params": vectors, **exact, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not optim.in_float32:
        names, compact = {p: name for name, p in named}, paged.PagedCompactAdamW if optim.paged else adamw.AdamW
        return compact(groups, lr=learning_rate, betas=optim.betas, eps=optim.eps, names=names, seed=seed)
    if optim.kind == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=optim.momentum)
    of_torch = paged.PagedAdamW if optim.paged else torch.optim.AdamW
    return of_torch(groups, lr=learning_rate, betas=optim.betas, eps=optim.eps, fused=True)


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


def allocate(optimizer: torch.optim.Optimizer) -> None:
    """Make the state that an optimizer otherwise makes in its first step, all zero, so that no step needs memory that
    stays. What is there already is left as it is."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter].update(_start(optimizer, parameter, group))
                if isinstance(optimizer, paged.Paged):
                    optimizer.take_home(parameter)


def _start(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, group: Mapping[str, Any]) -> dict[str, Tensor]:
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] else {}
    if isinstance(optimizer, torch.optim.AdamW):  # as its `_init_group` does, fused
        step = torch.zeros((), device=parameter.device)
        return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    return adamw.start(parameter, group, parameter.device)


def allocate_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gradients of zero, as large as those to come."""
    for parameter in parameters:
        # float32 below weights that are kept in bfloat16
        parameter.grad = torch.zeros_like(parameter, dtype=parameter.grad_dtype or parameter.dtype)


def reserve(optimizer: torch.optim.Optimizer) -> None:
    """Ask for what an update works with and give it back: where memory is short, that shows before a weight moves.
    torch's own optimizers work in place."""
    if isinstance(optimizer, paged.Paged):
        device = next(parameter.device for group in optimizer.param_groups for parameter in group["params"])
        torch.empty(paged.scratch_bytes(optimizer), dtype=torch.uint8, device=device)
    if isinstance(optimizer, adamw.AdamW):
        for device in {parameter.device for group in optimizer.param_groups for parameter in group["params"]}:
            torch.empty(adamw.scratch_bytes(device), dtype=torch.uint8, device=device)


def state_tensors(optimizer: torch.optim.Optimizer, named: Iterable[Named]) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors `<parameter name>//<slot>`, ready for safetensors."""
    tensors = {}
    if isinstance(optimizer, paged.Paged):
        optimizer.settle()
    for name, parameter in named:
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}//{slot}"] = value.detach()
    return tensors


def load_state_tensors(optimizer: torch.optim.Optimizer, named: Iterable[Named], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_tensors` gave.

    Raises:
        KeyError: a tensor belongs to no trainable parameter, or not to the state of this optimizer.
    """
    parameters = dict(named)
    given: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, slot = key.rsplit("//", 1)
        given.setdefault(name, {})[slot] = value
    for name, slots in given.items():
        parameter = parameters[name]
        if {slot: value.dtype for slot, value in slots.items()} != _layout(optimizer, parameter):
            raise KeyError(f"{name}: {sorted(slots)}")
        # A step counter lives on the CPU, except torch's fused AdamW on a GPU; all else follows the parameter.
        fused = parameter.device.type == "cuda" and isinstance(optimizer, torch.optim.AdamW)
        optimizer.state[parameter] = {
            slot: value.to(parameter.device) if value.ndim or fused else value.clone() for slot, value in slots.items()
        }
        if isinstance(optimizer, paged.Paged):
            optimizer.take_home(parameter)


def _layout(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.dtype]:
    """Names and dtypes of a parameter's state once it has made a step."""
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer": torch.float32}
    state = adamw.start(parameter, group_of(optimizer, parameter), "meta")
    return {slot: value.dtype for slot, value in state.items()}


def group_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    """The group of settings that a parameter is in."""
    return next(group for group in optimizer.param_groups if any(each is parameter for each in group["params"]))


@contextmanager
def dropping_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within this block a backward pass frees each gradient as soon as it is whole: `in_backward` without the
    updates."""

    def drop(whole: Tensor) -> None:
        whole.grad = None

    hooks = [
        parameter.register_post_accumulate_grad_hook(drop)  # type: ignore[no-untyped-call]
        for parameter in parameters
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def in_backward(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Iterator[dict[int, Tensor]]:
    """Within this block a backward pass updates each parameter as soon as its gradient is whole, and frees the
    gradient; yields what becomes the norm of each gradient, by place.

    An update reads nothing but its own parameter, gradient and state, so the result is that of `optimizer.step()` to
    the bit. There is no way back: what comes to light later in the pass finds weights changed.
    """
    norms: dict[int, Tensor] = {}
    groups = optimizer.param_groups

    def update(place: int, group: dict[str, Any], parameter: Tensor) -> None:
        assert parameter.grad is not None
        norms[place] = torch.linalg.vector_norm(parameter.grad)
        optimizer.param_groups = [{**group, "params": [parameter]}]
        optimizer.step()
        parameter.grad = None

    hooks = [
        parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            partial(update, place, group_of(optimizer, parameter))
        )
        for place, parameter in enumerate(parameters)
    ]
    try:
        yield norms
    finally:
        optimizer.param_groups = groups
        for hook in hooks:
            hook.remove()
