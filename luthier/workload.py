"""What a recipe's run holds, for the planner.

What goes in: the recipe, the architecture, the tuning kind as it is settled, how long texts are, the size of the
compute dtype, and the models beside. What comes out: a `Workload`. From `config.json` alone; torch-free.
"""

from __future__ import annotations

import math

from luthier import auxiliary, holdings, planner
from luthier.arch import count, quantised
from luthier.arch.count import AnyTune
from luthier.arch.spec import EMBEDDING, HEAD, Architecture
from luthier.auxiliary import Models
from luthier.config.schema import Lora, Method, Online, OptimSection, Ppo, Qlora, Reward, Sft
from luthier.holdings import Answering, InPlace, Ranks, Tokens, Workload


def workload(
    optim: OptimSection,
    arch: Architecture,
    tune: AnyTune,
    tokens: Tokens,
    compute_bytes: int,
    device: str,
    method: Method | None = None,
    models: Models | None = None,
) -> Workload:
    """Args:
        tokens: an answer of the model's own included.
        method: None is one of tokens, such as `sft`.
        models: beside it, where there are any.

    Raises:
        ModelError: the tuning kind asks for modules or layers that the model does not have.
    """
    method, models = method or Sft(), models or Models()
    kept = quantised.quantised(arch, tune) if isinstance(tune, Qlora) else None
    kind = planner.kind_of(device)
    own = count.trained_shapes(arch, tune)
    in_place = 0 if isinstance(tune, Lora) else sum(map(math.prod, own.values()))
    trained = holdings.trained(
        own | _critic(arch, tune, method),
        optim.in_backward,
        weights=optim.weights,
        states=optim.states,
        paged=optim.paged,
        slots=2 if optim.kind == "adamw" else int(optim.momentum > 0),
    )
    named = count.trained_tensors(arch, tune)

    def parameters(module: str) -> int:
        return math.prod(arch.tensors[f"{module}.weight"]) if f"{module}.weight" in named else 0

    return Workload(
        trained=trained,
        frozen_parameters=arch.num_parameters - in_place - (kept.parameters if kept else 0),
        first_trained_layer=count.first_trained_layer(arch, tune),
        compute_bytes=compute_bytes,
        tokens=tokens,
        ranks=ranks(arch, tune),
        dropout=isinstance(tune, Lora) and tune.dropout > 0,
        in_place=_in_place(arch, named),
        casts=optim.weights == "float32",
        head_parameters=0 if isinstance(method, Reward) else parameters(EMBEDDING if arch.spec.tied else HEAD),
        embedding_parameters=parameters(EMBEDDING),
        quantised_bytes=kept.total if kept else 0,
        dense_bytes=kept.working_bytes(compute_bytes) if kept else 0,
        log_sums=kind != "cpu",
        layer_dense_bytes=tuple(each * compute_bytes for each in kept.layer_parameters) if kept else (),
        beside=auxiliary.size(arch, tune, method, models, compute_bytes, kind),
        logits=not isinstance(method, Reward),
        passes=2 if isinstance(method, Ppo) and method.critic == "separate" else 1,
        answering=_answering(optim, method, models, tokens.longest, compute_bytes, kind),
    )


def _critic(arch: Architecture, tune: AnyTune, method: Method) -> dict[str, tuple[int, ...]]:
    """What estimates values, with its shapes: a vector, and where the recipe says so an adapter of its own."""
    if not isinstance(method, Ppo):
        return {}
    own = count.trained_shapes(arch, tune) if method.critic == "separate" else {}
    return {"critic.weight": (arch.spec.d,), **{f"critic.{name}": shape for name, shape in own.items()}}


def _answering(
    optim: OptimSection, method: Method, models: Models, longest_tokens: int, compute_bytes: int, kind: str
) -> Answering | None:
    if not isinstance(method, Online):
        return None
    return Answering(
        texts=optim.batch * method.samples,
        samples=method.samples,
        text_tokens=longest_tokens,
        prompt_tokens=max(longest_tokens - method.max_new_tokens, 1),
        judge_dense_bytes=max((each.dense_bytes(compute_bytes, kind) for each in models.judges), default=0),
        judge_feature_bytes=max((each.judged_bytes(compute_bytes, kind) for each in models.judges), default=0),
    )


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
