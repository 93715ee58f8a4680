"""The user's own loss of tokens (`method.loss: module:function` of sft and pretrain).

What goes in: a micro-batch and the function, see `luthier.losses.own`. What comes out: its sum, term `nll`, so that it
is divided by the step's weights as the usual loss is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from luthier.batch import TERM, Batch
from luthier.config.schema import Method, Policy
from luthier.data.own import line_of, spelt
from luthier.engine import memory
from luthier.engine.loop import Loss
from luthier.errors import Problem, TrainingFailed
from luthier.kernels.host import to_device
from luthier.losses import own
from luthier.methods.supervised import Supervised
from luthier.models.bottom import Bottom
from luthier.models.decoder import Decoder


class OwnLoss(Supervised):
    """Args: as of `Supervised`, and the function's name."""

    def __init__(
        self,
        adapter: str | None,
        seed: int,
        policies: Sequence[Policy] = (),
        bottom: Bottom | None = None,
        *,
        name: str,
    ) -> None:
        super().__init__(adapter, seed, policies, bottom)
        self.function = guarded(name)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        assert isinstance(model, Decoder)
        weights, owners = (to_device(each, model.device) for each in (batch.weights[TERM], batch.row_owner))
        logp_M = self.logp(model, batch, step)
        likelihood = (weights * -logp_M.detach()).sum()
        total = self.function(logp_M, weights, owners)
        return Loss({TERM: total}, {"likelihood": (likelihood, float(batch.weights[TERM].sum()))})


def guarded(name: str) -> Callable[..., Tensor]:
    """The user's function; what it raises during training ends the run in words."""
    function = own.load(name)

    def called(*given: Any) -> Tensor:
        try:
            return function(*given)
        except Exception as error:
            if memory.ran_out(error):  # the loop knows what to do
                raise
            values = {"reason": spelt(error), "line": line_of(error)}
            raise TrainingFailed(
                Problem("config.own_loss_raised", field=own.FIELD, value=name, values=values)
            ) from error

    return called


def tried(method: Method) -> dict[str, Any]:
    """The user's own loss and the file it comes from, tried; empty where the loss is one of ours.

    Raises:
        ConfigError: it cannot be used.
    """
    name: str | None = getattr(method, "loss", None)
    if not own.is_own(name):
        return {}
    (own.try_on_tokens if method.kind in ("sft", "pretrain") else own.try_on_pairs)(name)
    return {name: own.source(name)}
