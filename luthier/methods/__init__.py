"""Training methods: each turns a micro-batch into a `Loss`."""

from luthier.methods.supervised import Supervised

METHODS = {"pretrain": Supervised, "sft": Supervised}

__all__ = ["METHODS", "Supervised"]
