"""What a recipe's run holds, for the planner.

What goes in: the recipe, the architecture, the tuning kind as it is settled, the longest example and the size of the
compute dtype. What comes out: a `Workload`. From `config.json` alone; torch-free.
"""

from __future__ import annotations

import math

from luthier import planner
from luthier.arch import count, quantised
from luthier.arch.count import AnyTune
from luthier.arch.spec import EMBEDDING, HEAD, Architecture
from luthier.config.schema import Distill, Lora, OptimSection, Qlora
from luthier.planner import InPlace, Ranks, Workload


def workload(
    optim: OptimSection,
    arch: Architecture,
    tune: AnyTune,
    longest_tokens: int,
    compute_bytes: int,
    device: str,
) -> Workload:
    """Raises:
    ModelError: the tuning kind asks for modules or layers that the model does not have.
    """
    kept = quantised.quantised(arch, tune) if isinstance(tune, Qlora) else None
    trained = planner.trained(
        count.trained_shapes(arch, tune),
        optim.in_backward,
        weights=optim.weights,
        states=optim.states,
        paged=optim.paged,
        slots=2 if optim.kind == "adamw" else int(optim.momentum > 0),
    )
    in_place = 0 if isinstance(tune, Lora) else trained.vectors + sum(trained.matrices)
    named = count.trained_tensors(arch, tune)

    def parameters(module: str) -> int:
        return math.prod(arch.tensors[f"{module}.weight"]) if f"{module}.weight" in named else 0

    return Workload(
        trained=trained,
        frozen_parameters=arch.num_parameters - in_place - (kept.parameters if kept else 0),
        first_trained_layer=count.first_trained_layer(arch, tune),
        compute_bytes=compute_bytes,
        longest_tokens=longest_tokens,
        ranks=ranks(arch, tune),
        dropout=isinstance(tune, Lora) and tune.dropout > 0,
        in_place=_in_place(arch, named),
        casts=optim.weights == "float32",
        head_parameters=parameters(EMBEDDING if arch.spec.tied else HEAD),
        embedding_parameters=parameters(EMBEDDING),
        quantised_bytes=kept.total if kept else 0,
        dense_bytes=kept.working_bytes(compute_bytes) if kept else 0,
        log_sums=device != "cpu",
        layer_dense_bytes=tuple(each * compute_bytes for each in kept.layer_parameters) if kept else (),
    )


def said_bytes(method: object) -> int:
    """Of what is kept of a teacher's words on one token: an id and a log-probability for each of the k most likely."""
    top_k = method.top_k if isinstance(method, Distill) else None
    return 12 * (top_k + 1) if top_k is not None else 0


def _in_place(arch: Architecture, named: frozenset[str]) -> tuple[InPlace, ...]:
    """Weights of the base that train, by layer and block; empty where none does."""
    layers = [[0, 0] for _ in arch.spec.layers]
    for unit in arch.units:
        for tensor in (f"{unit.name}.weight", f"{unit.name}.bias"):
            if tensor in named:
                layers[unit.layer][unit.parts[0].role in ("gate", "up", "down")] += math.prod(arch.tensors[tensor])
    return tuple(InPlace(*each) for each in layers) if any(map(sum, layers)) else ()


def ranks(arch: Architecture, tune: AnyTune) -> tuple[Ranks, ...]:
    """Ranks of each layer's adapters; empty without adapters."""
    if not isinstance(tune, Lora):
        return ()
    layers: list[dict[str, int]] = [{} for _ in arch.spec.layers]
    for unit, rank, _ in count.select_units(arch, tune):
        layers[unit.layer].update((part.role, rank) for part in unit.parts)
    return tuple(Ranks(**roles) for roles in layers)
