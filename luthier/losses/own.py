"""The user's own loss, `method.loss: module:function`.

What goes in: the name. What comes out: the function, tried on a few numbers: that it gives what it should, that its
gradient is that of its value, and that it comes out the same however a step is split. Two signatures:

    sft, pretrain   (logp_M, weights_M, owners_M) -> the sum over rows, a scalar. logp: log p(token) of each learnt
                    token; weights: as the data gives them; owners: which example of the micro-batch each belongs to.
                    What is trained on is this sum divided by that of the weights, both over the whole step.
    dpo             (chosen_G, rejected_G, ref_chosen_G, ref_rejected_G) -> the loss of each pair, [G]. These are
                    log-probabilities of whole answers, of the model and of the reference. What is trained on is the
                    losses' mean over the step.

Shape legend: M learnt tokens, G pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from luthier.data import own
from luthier.errors import ConfigError, Problem

Function = Callable[..., Tensor]
FIELD = "method.loss"
CLOSE = 1e-6
"""Between two ways to the same number in float64; a function may hold constants in float32."""


def is_own(loss: str | None) -> TypeGuard[str]:
    """Whether a loss is the user's own, and not one of ours."""
    return loss is not None and own.is_own(loss)


def load(name: str) -> Function:
    """The user's function.

    Raises:
        ConfigError: no such module or function.
    """
    with own.named_by(FIELD):
        return own.load_function(name)


def source(name: str) -> Path:
    """The file it comes from; the manifest keeps its fingerprint.

    Raises:
        ConfigError: there is none.
    """
    with own.named_by(FIELD):
        return own.source_of(name)


def try_on_tokens(name: str) -> None:
    """Try a loss of tokens on two examples of three tokens each.

    Raises:
        ConfigError: what is wrong with it.
    """
    function, owners = load(name), torch.tensor([0, 0, 0, 1, 1, 1])
    logp = -torch.tensor([0.3, 1.2, 0.7, 2.5, 0.1, 0.9], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 2.0], dtype=torch.float64)

    def made(logp: Tensor, weights: Tensor, owners: Tensor) -> Tensor:
        return _called(name, function, (logp, weights, owners), ())

    whole = made(logp, weights, owners)
    _differentiable(name, lambda each: made(each, weights, owners), (logp,))
    parts = [made(logp[at], weights[at], owners[at] * 0) for at in (owners == 0, owners == 1)]
    if not torch.isclose(whole, parts[0] + parts[1], rtol=CLOSE, atol=CLOSE):
        raise _error("config.own_loss_split", name, whole=float(whole), parts=float(parts[0] + parts[1]))
    nothing = made(logp, torch.zeros_like(weights), owners)
    if float(nothing) != 0:
        raise _error("config.own_loss_filler", name, value=float(nothing))


def try_on_pairs(name: str) -> None:
    """Try a loss of pairs on three of them.

    Raises:
        ConfigError: what is wrong with it.
    """
    function = load(name)
    rows = [[-3.0, -8.5, -1.0], [-4.0, -6.0, -9.0], [-3.5, -8.0, -2.0], [-3.8, -6.5, -8.0]]
    given = tuple(torch.tensor(row, dtype=torch.float64) for row in rows)

    def made(*given: Tensor) -> Tensor:
        return _called(name, function, given, (len(given[0]),))

    whole = made(*given)
    _differentiable(name, lambda chosen, rejected: made(chosen, rejected, *given[2:]), given[:2])
    alone = torch.cat([made(*(each[at : at + 1] for each in given)) for at in range(3)])
    if not torch.allclose(whole, alone, rtol=CLOSE, atol=CLOSE):
        raise _error("config.own_loss_split", name, whole=float(whole.sum()), parts=float(alone.sum()))


def _called(name: str, function: Function, given: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The function's value, of the right shape and finite."""
    try:
        made = function(*given)
    except Exception as error:  # the user's code may raise anything
        raise _error("config.own_loss_raised", name, reason=own.spelt(error), line=own.line_of(error)) from error
    if not isinstance(made, Tensor) or tuple(made.shape) != shape or not made.is_floating_point():
        got = f"{tuple(made.shape)} {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        raise _error("config.own_loss_shape", name, got=got, want=shape)
    if not bool(made.isfinite().all()):
        raise _error("config.own_loss_finite", name, value=made.detach().tolist())
    return made


def _differentiable(name: str, function: Function, given: Sequence[Tensor]) -> None:
    """Hold the gradient that autograd finds to the differences of the value."""
    tracked = [each.clone().requires_grad_() for each in given]
    if not function(*tracked).requires_grad:
        raise _error("config.own_loss_constant", name)
    try:
        torch.autograd.gradcheck(function, tracked)
    except RuntimeError as error:
        raise _error("config.own_loss_gradient", name, reason=str(error).strip().splitlines()[0]) from error


def _error(id: str, name: str, **values: Any) -> ConfigError:
    return ConfigError(Problem(id, field=FIELD, value=name, values=values))
