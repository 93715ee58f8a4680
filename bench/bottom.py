"""What it saves to keep what frozen layers make: python bench/bottom.py [SHAPE]

Alpaca's lengths (`bench/train.py`), LoRA on every linear module of the upper layers. What comes out: FLOPs of an epoch
of those rows, counted exactly as the decoder does them (tests hold the count to torch's), for the first epoch and for
each that follows, and the bytes kept per token in bfloat16.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from train import LENGTHS, RANK, SHAPES

from luthier.arch import families, flops
from luthier.config.schema import Lora

SHARES = (1 / 6, 1 / 3, 1 / 2, 2 / 3)
"""Of the layers, that train."""
BFLOAT16_BYTES = 2


def main(*shapes: str) -> None:
    for shape in shapes or ("smollm2-135m", "qwen2.5-0.5b"):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps({"rms_norm_eps": 1e-6, **SHAPES[shape]}))
            arch = families.read(Path(folder))
        lengths, scored = [whole for whole, _ in LENGTHS], sum(answer for _, answer in LENGTHS)
        layers = len(arch.spec.layers)
        for share in SHARES:
            frozen = layers - round(share * layers)
            tune = Lora(rank=RANK, layers=tuple(range(frozen, layers)))
            first, later = (
                flops.step(arch, tune, flops.Rows(lengths, scored, scored, known=known)).total for known in (0, frozen)
            )
            print(
                f"{shape}, {layers - frozen} of {layers} layers train: {first / 1e9:.0f} -> {later / 1e9:.0f} GFLOP "
                f"per epoch ({first / later:.2f}), {arch.spec.d * BFLOAT16_BYTES} bytes kept per token"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
