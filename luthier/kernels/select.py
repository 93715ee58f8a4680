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
    if torch.device(device).type == "cpu":
        return Choice(
            (
                ("blocks", "torch, tiled rows", "element-wise chains stay in a core's cache"),
                (
                    "attention",
                    "matmuls and softmax per segment, tiles of queries",
                    "measured faster than torch's kernel",
                ),
                ("head", "torch, tiled softmax", "element-wise chains stay in a core's cache"),
            )
        )
    return Choice(
        (
            ("blocks", "torch", "the only one there is"),
            ("attention", "torch scaled_dot_product_attention per segment", "the only one there is"),
            ("head", "torch", "the only one there is"),
        )
    )
