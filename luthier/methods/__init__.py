"""Training methods: each turns a micro-batch into a `Loss`."""

from luthier.config.schema import Distill, Kto, Method, Orpo, Pairs, Pretrain, Reward, Sft
from luthier.kernels.divergence import How
from luthier.methods.distill import Distilled
from luthier.methods.given import Given
from luthier.methods.kto import KahnemanTversky
from luthier.methods.own import OwnLoss, tried
from luthier.methods.preference import Preference
from luthier.methods.reward import RewardModel
from luthier.methods.supervised import Supervised

METHODS = {"pretrain": Supervised, "sft": Supervised}
"""Methods that need nothing but an adapter, a seed, and what layers keep."""

__all__ = [
    "METHODS",
    "Distilled",
    "Given",
    "KahnemanTversky",
    "OwnLoss",
    "Preference",
    "RewardModel",
    "Supervised",
    "build",
    "tried",
]


def build(method: Method, given: Given) -> Supervised | Preference | RewardModel | KahnemanTversky:
    """The method that a section of the recipe asks for."""
    if isinstance(method, Reward):
        return RewardModel(method, given)
    if isinstance(method, Kto):
        return KahnemanTversky(method, given)
    if isinstance(method, (Pairs, Orpo)):
        return Preference(method, given)
    if isinstance(method, Distill):
        assert given.teacher is not None, "found before anything is planned"
        how = How(method.divergence == "reverse", method.temperature, method.sft_weight)
        return Distilled(given.adapter, given.seed, given.policies, given.bottom, teacher=given.teacher, how=how)
    if isinstance(method, (Sft, Pretrain)) and method.loss is not None:
        return OwnLoss(given.adapter, given.seed, given.policies, given.bottom, method=method)
    return METHODS[method.kind](given.adapter, given.seed, given.policies, given.bottom)
