"""The user's own loss (`method.loss: module:function`), see `luthier.losses.own`.

What goes in: the function's name. What comes out: the function, as methods call it; and for sft and pretrain the method
itself, whose sum is the term `nll`, so that it is divided by the step's weights as the usual loss is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from luthier.batch import TERM, Batch
from luthier.config.schema import Kinded, Policy, Pretrain, Sft
from luthier.engine import memory
from luthier.engine.loop import Loss
from luthier.errors import TrainingFailed
from luthier.kernels.host import to_device
from luthier.losses import own
from luthier.methods.supervised import Supervised
from luthier.models.bottom import Bottom
from luthier.models.decoder import Decoder


class OwnLoss(Supervised):
    """Args: as of `Supervised`, and the section that names the function."""

    def __init__(
        self,
        adapter: str | None,
        seed: int,
        policies: Sequence[Policy] = (),
        bottom: Bottom | None = None,
        *,
        method: Sft | Pretrain,
    ) -> None:
        super().__init__(adapter, seed, policies, bottom)
        self.function = guarded(method)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        assert isinstance(model, Decoder)
        weights, owners = (to_device(each, model.device) for each in (batch.weights[TERM], batch.row_owner))
        logp_M = self.logp(model, batch, step)
        likelihood = (weights * -logp_M.detach()).sum()
        total = self.function(logp_M, weights, owners)
        return Loss({TERM: total}, {"likelihood": (likelihood, float(batch.weights[TERM].sum()))})


def guarded(method: Kinded) -> Callable[..., Tensor]:
    """The user's function; what it raises during training ends the run in words."""
    name = named(method)
    assert name is not None
    function = own.load(name)

    def called(*given: Any) -> Tensor:
        try:
            return function(*given)
        except Exception as error:
            if memory.ran_out(error):  # the loop knows what to do
                raise
            raise TrainingFailed(own.raised(name, method.kind, error)) from error

    return called


def named(method: Kinded) -> str | None:
    """What a section calls the user's own loss; None where the loss is one of ours."""
    name: str | None = getattr(method, "loss", None)
    return name if own.is_own(name) else None


def own_or(method: Kinded, usual: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The user's own loss, where a section names one."""
    return usual if named(method) is None else guarded(method)


def tried(method: Kinded) -> dict[str, Any]:
    """The user's own loss and the file it comes from, tried; empty where the loss is one of ours.

    Raises:
        ConfigError: it cannot be used.
    """
    name = named(method)
    if name is None:
        return {}
    own.try_on(name, method.kind)
    return {name: own.source(name)}
