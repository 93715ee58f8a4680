"""The user's own loss, `method.loss: module:function`.

What goes in: the name, and the method whose loss it is to be. What comes out: the function, tried on a few numbers:
that it gives what it should, that its gradient is that of its value, and that it comes out the same however a step is
split. What it is called with (`CALLED_WITH`), and what it gives:

    sft, pretrain      (logp, weights, owners): log p(token) of each learnt token, [M], the weights that the data gives
                       them, and which example of the micro-batch each belongs to. It gives the sum over tokens, a
                       scalar; what is trained on is that sum divided by that of the weights, over the whole step.
    dpo, ipo           (chosen, rejected, ref_chosen, ref_rejected): log-probabilities of whole answers, of the model
                       and of the reference, [G]; with `length_normalised`, and for ipo, means over tokens.
    simpo, orpo, cpo   (chosen, rejected): of the model; means over tokens for simpo and orpo, sums for cpo.
    kto                (logp, ref, side, z0), [Q]: side is 1 of an answer that is marked good, -1 of a bad one; z0 is
                       the same for all.
    reward             (chosen, rejected, margin): rewards, and how much better the data says the better one is, [G].

All but the first give the loss of each pair or answer; what is trained on is its mean over the step. Options that are
not part of the usual loss itself (the weights of good and bad answers, of the likelihood beside the pairs, of odds, of
rewards off the centre) have their effect.

Shape legend: M learnt tokens, G pairs, Q answers.
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
_PAIRS, _REFERENCE = ("chosen", "rejected"), ("ref_chosen", "ref_rejected")
CALLED_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("sft", "pretrain"), ("logp", "weights", "owners")),
    **dict.fromkeys(("dpo", "ipo"), _PAIRS + _REFERENCE),
    **dict.fromkeys(("simpo", "orpo", "cpo"), _PAIRS),
    "kto": ("logp", "ref", "side", "z0"),
    "reward": (*_PAIRS, "margin"),
}
LEARNT = {"logp", *_PAIRS}
"""What gradients are taken by."""
TRIED_ON: dict[str, tuple[float, ...]] = {
    "chosen": (-3.0, -8.5, -1.0),
    "rejected": (-4.0, -6.0, -9.0),
    "ref_chosen": (-3.5, -8.0, -2.0),
    "ref_rejected": (-3.8, -6.5, -8.0),
    "logp": (-3.0, -8.5, -1.0),
    "ref": (-3.5, -8.0, -2.0),
    "side": (1.0, -1.0, 1.0),
    "z0": (0.25, 0.25, 0.25),
    "margin": (0.0, 1.0, 0.5),
}
"""Of each of three pairs or answers."""
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


def try_on(name: str, kind: str) -> None:
    """Try a loss of a method of this kind.

    Raises:
        ConfigError: what is wrong with it.
    """
    (_try_on_tokens if kind in ("sft", "pretrain") else _try_on_answers)(name, kind)


def _try_on_tokens(name: str, kind: str) -> None:
    """On two examples of three tokens each."""
    function, owners = load(name), torch.tensor([0, 0, 0, 1, 1, 1])
    logp = -torch.tensor([0.3, 1.2, 0.7, 2.5, 0.1, 0.9], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 2.0], dtype=torch.float64)

    def made(logp: Tensor, weights: Tensor, owners: Tensor) -> Tensor:
        return _called(name, kind, function, (logp, weights, owners), ())

    whole = made(logp, weights, owners)
    _differentiable(name, lambda each: made(each, weights, owners), (logp,))
    parts = [made(logp[at], weights[at], owners[at] * 0) for at in (owners == 0, owners == 1)]
    if not torch.isclose(whole, parts[0] + parts[1], rtol=CLOSE, atol=CLOSE):
        raise _error("config.own_loss_split", name, whole=float(whole), parts=float(parts[0] + parts[1]))
    nothing = made(logp, torch.zeros_like(weights), owners)
    if float(nothing) != 0:
        raise _error("config.own_loss_filler", name, value=float(nothing))


def _try_on_answers(name: str, kind: str) -> None:
    """On three pairs, or three answers."""
    function, names = load(name), CALLED_WITH[kind]
    given = [torch.tensor(TRIED_ON[each], dtype=torch.float64) for each in names]
    learnt = sum(each in LEARNT for each in names)

    def made(*given: Tensor) -> Tensor:
        return _called(name, kind, function, given, (len(given[0]),))

    whole = made(*given)
    _differentiable(name, lambda *first: made(*first, *given[learnt:]), given[:learnt])
    alone = torch.cat([made(*(each[at : at + 1] for each in given)) for at in range(3)])
    if not torch.allclose(whole, alone, rtol=CLOSE, atol=CLOSE):
        raise _error("config.own_loss_split", name, whole=float(whole.sum()), parts=float(alone.sum()))


def raised(name: str, kind: str, error: Exception) -> Problem:
    """What to say of a function that raised this."""
    values = {"reason": own.spelt(error), "line": own.line_of(error), "kind": kind}
    values["arguments"] = ", ".join(CALLED_WITH[kind])
    return Problem("config.own_loss_raised", field=FIELD, value=name, values=values)


def _called(name: str, kind: str, function: Function, given: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The function's value, of the right shape and finite."""
    try:
        made = function(*given)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(raised(name, kind, error)) from error
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
