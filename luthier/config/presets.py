"""Settings to start from: three that suffice.

What goes in: nothing. What comes out: for each name the fields that it sets, all the same ones, so that choosing
another takes back what the one before has set. The learning rate is in none of them: its default knows the method and
the tuning kind. Rank 1; imports no torch.
"""

from __future__ import annotations

from typing import Any

from luthier.text import say

PRESETS: dict[str, dict[str, Any]] = {
    # One pass is the least that sees every row. Half the usual batch makes twice as many updates of it, because a few
    # hundred rows are only a few dozen. Rank 8 halves what the adapter can hold; not studied.
    "quick": {"tune.kind": "lora", "tune.rank": 8, "tune.alpha": 32, "optim.epochs": 1, "optim.batch": 8},
    # The defaults, whose reasons stand in the schema.
    "balanced": {"tune.kind": "lora", "tune.rank": 16, "tune.alpha": None, "optim.epochs": 3, "optim.batch": 16},
    # Rank 64 holds four times as much. Five passes: `luthier help optim.epochs`; the best point of them is kept where
    # rows are held out.
    "thorough": {"tune.kind": "lora", "tune.rank": 64, "tune.alpha": 32, "optim.epochs": 5, "optim.batch": 16},
}
"""Name -> dotted field -> value; None leaves a field open. Alpha is 32 with all of them, twice the usual rank: with a
scale of alpha/rank and one alpha, the best learning rate hardly depends on the rank ("LoRA Without Regret", Thinking
Machines 2025), so that its default fits all three."""


def listing() -> list[dict[str, Any]]:
    """[{id, name, help, values}] for people."""
    return [
        {"id": name, "name": say(f"config.preset.{name}"), "help": say(f"config.preset_help.{name}"), "values": values}
        for name, values in PRESETS.items()
    ]
