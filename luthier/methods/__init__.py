"""Training methods: each turns a micro-batch into a `Loss`."""

from luthier.config.schema import Judged, Kto, Method, Reward
from luthier.methods.given import Given
from luthier.methods.kto import KahnemanTversky
from luthier.methods.preference import Preference
from luthier.methods.reward import RewardModel
from luthier.methods.supervised import Supervised

METHODS = {"pretrain": Supervised, "sft": Supervised}
"""Methods that need nothing but an adapter, a seed, and what layers keep."""

__all__ = ["METHODS", "Given", "KahnemanTversky", "Preference", "RewardModel", "Supervised", "build"]


def build(method: Method, given: Given) -> Supervised | Preference | RewardModel | KahnemanTversky:
    """The method that a section of the recipe asks for."""
    if isinstance(method, Reward):
        return RewardModel(method, given)
    if isinstance(method, Kto):
        return KahnemanTversky(method, given)
    if isinstance(method, Judged):
        return Preference(method, given)
    return METHODS[method.kind](given.adapter, given.seed, given.policies, given.bottom)
