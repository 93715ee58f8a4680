"""What trains: the units that get adapters, the tensors that train in place, and how many parameters that makes.

What goes in: an `Architecture` and the recipe's tuning kind. What comes out: the chosen units with rank and alpha, the
names of trained tensors, and exact counts; all from `config.json` alone, before any weight is there. Torch-free.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthier.arch.spec import EMBEDDING, FINAL_NORM, HEAD, Architecture, Unit
from luthier.arch.tokens import token_modules
from luthier.arch.values import SCORE
from luthier.config.schema import Freeze, Full, Lora
from luthier.errors import ModelError, Problem

AnyTune = Full | Freeze | Lora

TOP = (FINAL_NORM, HEAD, SCORE)
"""What trains with the top layers."""
ORDER = {"q": 1.0, "k": 1.0, "v": 1.0, "o": 2.0, "gate": 4.0, "up": 4.0, "down": 5.0}
NORMS = {
    "input_layernorm": 0.0,
    "self_attn.q_norm": 1.5,
    "self_attn.k_norm": 1.5,
    "post_attention_layernorm": 3.0,
    "pre_feedforward_layernorm": 3.5,
    "post_feedforward_layernorm": 6.0,
}
"""The order in which a row passes the parts of a layer."""


@dataclass(frozen=True)
class Counts:
    """Parameters. total: the base, plus what the tuning adds to it (adapters, and modules saved beside them)."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        return 100.0 * self.trainable / self.total


def count(arch: Architecture, tune: AnyTune) -> Counts:
    """Trainable and total parameters, counted as PEFT does.

    Raises:
        ModelError: the tuning kind asks for modules or layers that the model does not have.
    """
    trained = sum(map(math.prod, trained_shapes(arch, tune).values()))
    return Counts(trained, arch.num_parameters + (trained if isinstance(tune, Lora) else 0))


def trained_shapes(arch: Architecture, tune: AnyTune) -> dict[str, tuple[int, ...]]:
    """Every tensor that trains, with its shape: those of the checkpoint by their names, adapters beside their units.

    Raises:
        ModelError: as `trained_tensors` and `select_units`.
    """
    shapes = {name: arch.tensors[name] for name in sorted(trained_tensors(arch, tune))}
    if isinstance(tune, Lora):
        for unit, rank, _ in select_units(arch, tune):
            shapes[f"{unit.name}.A"], shapes[f"{unit.name}.B"] = (rank, unit.in_features), (unit.out_features, rank)
        if arch.new_ids:
            shapes.update({f"{module}.rows": (len(arch.new_ids), arch.spec.d) for module in token_modules(arch)})
    return shapes


def trained_tensors(arch: Architecture, tune: AnyTune) -> frozenset[str]:
    """Checkpoint tensors that train.

    full: all of them. freeze: the top layers, the final norm and a head of its own (a tied head stays with the frozen
    embedding). lora: the weights of `modules_to_save`, which train as a copy beside the base.

    Raises:
        ModelError: more layers than there are, or a module that does not exist.
    """
    if isinstance(tune, Full):
        return frozenset(arch.tensors)
    if isinstance(tune, Lora):
        return frozenset(name + ".weight" for name in saved_modules(arch, tune))
    num_layers = len(arch.spec.layers)
    if tune.layers > num_layers:
        raise ModelError(
            Problem(
                "models.too_many_layers", field="tune.layers", value=str(tune.layers), values={"layers": num_layers}
            )
        )
    layers = tuple(f"model.layers.{index}." for index in range(num_layers - tune.layers, num_layers))
    return frozenset(name for name in arch.tensors if name.startswith((*layers, *(f"{each}." for each in TOP))))


def first_trained_layer(arch: Architecture, tune: AnyTune) -> int:
    """The lowest layer whose input needs a gradient kept or computed: nothing below it takes part in the backward pass.
    0 where the embedding trains, or rows of it; the number of layers where only the final norm or the head does.

    Raises:
        ModelError: as `trained_tensors` and `select_units`.
    """
    return max(lowest_trained(arch, tune)[0], 0)


def lowest_trained(arch: Architecture, tune: AnyTune) -> tuple[int, float]:
    """The first thing on a row's way that trains: its layer (-1 before the first, the number of layers behind the last)
    and its place within, in the terms of `ORDER`. What lies below takes no part in the backward pass.

    Raises:
        ModelError: as `trained_tensors` and `select_units`.
    """
    trained = trained_tensors(arch, tune)
    if EMBEDDING + ".weight" in trained or arch.new_ids:
        return (-1, 0.0)
    adapted = {unit.name for unit, _, _ in select_units(arch, tune)} if isinstance(tune, Lora) else set()
    found = [(len(arch.spec.layers), 0.0)]
    for unit in arch.units:
        if unit.name in adapted or not trained.isdisjoint((f"{unit.name}.weight", f"{unit.name}.bias")):
            found.append((unit.layer, ORDER[unit.parts[0].role]))
    for index in range(len(arch.spec.layers)):
        found += [(index, place) for norm, place in NORMS.items() if f"model.layers.{index}.{norm}.weight" in trained]
    return min(found)


def select_units(arch: Architecture, lora: Lora) -> list[tuple[Unit, int, float]]:
    """The units that get an adapter, each with rank and alpha, in checkpoint order.

    A target is a module name or a dotted end of one (`q_proj`, `self_attn.q_proj`); `all-linear` is every linear module
    inside the layers, never the head. A pattern is a regular expression that must match the end of the module name from
    a dot on, and the first that matches wins, as in PEFT.

    Raises:
        ModelError: a target, pattern or layer that matches nothing, or a pattern that is no regular expression.
    """
    problems: list[Problem] = []
    targeted = _targeted(arch, lora, problems)
    chosen = _in_layers(arch, lora, targeted, problems)
    ranks = _checked("tune.rank_pattern", lora.rank_pattern, chosen, problems)
    alphas = _checked("tune.alpha_pattern", lora.alpha_pattern, chosen, problems)
    if problems:
        raise ModelError(problems)
    return [
        (unit, int(_by_pattern(ranks, unit.name, lora.rank)), _by_pattern(alphas, unit.name, lora.effective_alpha))
        for unit in chosen
    ]


def scale_of(lora: Lora, rank: int, alpha: float) -> float:
    """Factor of B(A(x)): alpha / rank (arXiv 2106.09685), or alpha / sqrt(rank) with rsLoRA (arXiv 2312.03732)."""
    return alpha / math.sqrt(rank) if lora.rslora else alpha / rank


def saved_modules(arch: Architecture, lora: Lora) -> tuple[str, ...]:
    """Full names of the modules that train whole and are saved beside the adapter, in checkpoint order.

    Raises:
        ModelError: a name that matches no embedding, head or norm, or the head alone where it shares its weights with
            the embedding.
    """
    existing = savable_modules(arch)
    chosen: set[str] = set()
    problems: list[Problem] = []
    for target in lora.modules_to_save:
        if arch.spec.tied and target == HEAD:
            if not any(ends_with(EMBEDDING, other) for other in lora.modules_to_save):
                problems.append(Problem("models.tied_head", field="tune.modules_to_save", value=target))
            continue
        matching = [name for name in existing if ends_with(name, target)]
        if not matching:
            problems.append(_unmatched("tune.modules_to_save", target, _short_names(existing)))
        chosen.update(matching)
    if problems:
        raise ModelError(problems)
    return tuple(name for name in existing if name in chosen)


def savable_modules(arch: Architecture) -> tuple[str, ...]:
    """Embedding, norms and head: every module with a weight that is not a unit."""
    units = {unit.name for unit in arch.units}
    return tuple(
        module
        for module, _, leaf in (name.rpartition(".") for name in arch.tensors)
        if leaf == "weight" and module not in units
    )


def ends_with(name: str, target: str) -> bool:
    """Whether `target` is the module name or a dotted end of it."""
    return name == target or name.endswith("." + target)


def matching_pattern(patterns: Sequence[str], name: str) -> str | None:
    """The first pattern that matches the end of a module name from a dot on (the rule of PEFT 0.21).

    Raises:
        re.error: a pattern is no regular expression.
    """
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", name):
            return pattern
    return None


def _targeted(arch: Architecture, lora: Lora, problems: list[Problem]) -> list[Unit]:
    if isinstance(lora.targets, str):
        return list(arch.units)
    names = _short_names([unit.name for unit in arch.units])
    for target in lora.targets:
        if not any(ends_with(unit.name, target) for unit in arch.units):
            whole = any(ends_with(module, target) for module in (*savable_modules(arch), HEAD))
            problems.append(
                Problem("models.target_not_linear", field="tune.targets", value=target, values={"known": names})
                if whole
                else _unmatched("tune.targets", target, names)
            )
    return [unit for unit in arch.units if any(ends_with(unit.name, target) for target in lora.targets)]


def _in_layers(arch: Architecture, lora: Lora, units: list[Unit], problems: list[Problem]) -> list[Unit]:
    if lora.layers is None:
        return units
    last = len(arch.spec.layers) - 1
    wrong = [index for index in lora.layers if not 0 <= index <= last]
    if wrong:
        value = ", ".join(map(str, wrong))
        problems.append(Problem("models.no_such_layer", field="tune.layers", value=value, values={"last": last}))
    return [unit for unit in units if unit.layer in lora.layers]


def _checked(
    field: str, patterns: Mapping[str, int] | Mapping[str, float], units: list[Unit], problems: list[Problem]
) -> dict[str, float]:
    """The patterns, each found to work inside PEFT's rule and to match at least one chosen unit."""
    for pattern in patterns:
        try:
            matches = any(matching_pattern([pattern], unit.name) for unit in units)
        except re.error as error:
            problems.append(Problem("models.bad_pattern", field=field, value=pattern, values={"reason": str(error)}))
            continue
        if not matches:
            problems.append(_unmatched(field, pattern, _short_names([unit.name for unit in units])))
    return dict(patterns)


def _by_pattern(patterns: Mapping[str, float], name: str, default: float) -> float:
    pattern = matching_pattern(list(patterns), name)
    return default if pattern is None else patterns[pattern]


def _short_names(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names)) or "-"


def _unmatched(field: str, target: str, known: str) -> Problem:
    close = difflib.get_close_matches(target.rsplit(".", 1)[-1], known.split(", "), n=1, cutoff=0.5)
    return Problem(
        "models.no_such_module",
        field=field,
        value=target,
        values={"known": known, "nearest": close[0] if close else "-"},
    )
