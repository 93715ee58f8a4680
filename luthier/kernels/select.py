"""Which implementation of each operation is used on a device, and why.

What goes in: a device. What comes out: a `Choice` that names one implementation per operation with its reason; the
plan of a run records it. There is one implementation of each today; the table is where others will stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Choice:
    """Operation -> (implementation, reason)."""

    operations: tuple[tuple[str, str, str], ...]

    def to_json(self) -> dict[str, dict[str, str]]:
        return {name: {"implementation": which, "reason": why} for name, which, why in self.operations}


def choose(device: torch.device | str) -> Choice:
    """The implementations that run on this device."""
    kind = torch.device(device).type
    softmax = ("torch, 1 MiB tiles", "stays in a core's cache") if kind == "cpu" else ("torch, chunk", "fast memory")
    return Choice(
        (
            ("blocks", "torch", "the same code on every device"),
            ("attention", "torch scaled_dot_product_attention per segment", "no kernel for packed segments on CPU")
            if kind == "cpu"
            else ("attention", "torch scaled_dot_product_attention per segment", "the same code on every device"),
            ("head", *softmax),
        )
    )
