"""What a recipe's run holds, for the planner.

What goes in: the recipe, the architecture, the tuning kind as it is settled, the longest example and the size of the
compute dtype. What comes out: a `Workload`. From `config.json` alone; torch-free.
"""

from __future__ import annotations

import math

from luthier import planner
from luthier.arch import count
from luthier.arch.count import AnyTune
from luthier.arch.families.gated import EMBEDDING, HEAD
from luthier.arch.spec import Architecture
from luthier.config.schema import Lora, OptimSection
from luthier.planner import Ranks, Workload


def workload(
    optim: OptimSection, arch: Architecture, tune: AnyTune, longest_tokens: int, compute_bytes: int
) -> Workload:
    """Raises:
    ModelError: the tuning kind asks for modules or layers that the model does not have.
    """
    trained = planner.trained(
        count.trained_shapes(arch, tune),
        optim.in_backward,
        weights=optim.weights,
        states=optim.states,
        slots=2 if optim.kind == "adamw" else int(optim.momentum > 0),
    )
    in_place = 0 if isinstance(tune, Lora) else trained.vectors + sum(trained.matrices)
    head = (EMBEDDING if arch.spec.tied else HEAD) + ".weight"
    head_trains = head in count.trained_tensors(arch, tune)
    return Workload(
        trained=trained,
        frozen_parameters=arch.num_parameters - in_place,
        first_trained_layer=count.first_trained_layer(arch, tune),
        compute_bytes=compute_bytes,
        longest_tokens=longest_tokens,
        ranks=ranks(arch, tune),
        cast_parameters=in_place if optim.weights == "float32" else trained.vectors,
        head_parameters=math.prod(arch.tensors[head]) if head_trains else 0,
    )


def ranks(arch: Architecture, tune: AnyTune) -> tuple[Ranks, ...]:
    """Ranks of each layer's adapters; empty without adapters."""
    if not isinstance(tune, Lora):
        return ()
    layers: list[dict[str, int]] = [{} for _ in arch.spec.layers]
    for unit, rank, _ in count.select_units(arch, tune):
        (part,) = unit.parts
        layers[unit.layer][part.role] = rank
    return tuple(Ranks(**roles) for roles in layers)
