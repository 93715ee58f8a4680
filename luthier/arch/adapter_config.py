"""PEFT's `adapter_config.json`: read into Luthier's settings, and written from them.

What goes in: an adapter folder, or a `Lora` section. What comes out: the `Lora` section that selects exactly the
modules PEFT would, or the dict that makes PEFT select exactly the modules Luthier did. Whatever would change the
arithmetic and is not built here is refused by name, an unknown setting too. Torch-free.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.arch.count import AnyTune, ends_with, matching_pattern, savable_modules, saved_modules, select_units
from luthier.arch.families.fields import shown
from luthier.arch.spec import EMBEDDING, HEAD, Architecture, Unit
from luthier.arch.tokens import beside, token_modules
from luthier.arch.values import SCORE, is_valued
from luthier.config.schema import Lora
from luthier.errors import ModelError, Problem

CONFIG_FILE = "adapter_config.json"
DORA = "use_dora"
STRONGEST = 1.5
"""What an adapter may be overstated to while one talks to it: beyond, answers fall apart rather than say more."""
PEFT_DEFAULT = 8
"""What PEFT means by an absent `r` or `lora_alpha`."""

READ = frozenset(
    {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "ensure_weight_tying",
        "init_lora_weights",
        "trainable_token_indices",
    }
)
"""Settings that are understood here."""

WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "fan_in_fan_out",
        "megatron_config",
        "megatron_core",
        "qalora_group_size",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
    }
)
"""Settings that do not change what a loaded adapter of linear layers computes (of `fan_in_fan_out`, PEFT itself says
so for these layers; the config objects belong to initialisations, which `KEEPS_BASE` judges)."""

CLASSIFIES = "SEQ_CLS"
"""PEFT's task of models with a scalar head."""
KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base as it is. The others (pissa, olora, corda, loftq, lora_ga) change its weights
when the adapter is made, so that A and B alone do not say what was trained; PEFT can convert them while saving."""


def read_settings(folder: Path, arch: Architecture, *, dora: bool = False) -> Lora:
    """The settings of a PEFT adapter, in canonical form: short target names and layer numbers where they say it all,
    full module names where they do not.

    Args:
        dora: whether DoRA is no reason to refuse: it can be merged, not trained or answered with.

    Raises:
        ModelError: no adapter, unreadable, not LoRA, a setting that is not supported, or nothing selected.
    """
    path = folder / CONFIG_FILE
    given = _parse(folder, path)
    given = _of_score(given, arch)
    problems = _refusals(given if not dora else {**given, DORA: False}, str(path))
    if problems:
        raise ModelError(problems)
    try:
        units = [unit for unit in arch.units if _targets(given, unit.name)]
        _refuse_other_targets(given, arch, str(path))
        _token_ids(given, arch, str(path))
        saved = _saved(given, arch, str(path))
        ranks = _patterns(given, "rank_pattern", units, str(path), int)
        alphas = _patterns(given, "alpha_pattern", units, str(path), float)
    except re.error as error:
        raise ModelError(Problem("models.adapter_pattern", str(path), values={"reason": str(error)})) from error
    if not units:
        raise ModelError(Problem("models.adapter_selects_nothing", str(path), "target_modules"))
    targets, layers = _canonical(arch, units)
    settings = Lora(
        rank=_positive(given.get("r", PEFT_DEFAULT), "r", str(path), int),
        alpha=_positive(given.get("lora_alpha", PEFT_DEFAULT), "lora_alpha", str(path), float),
        dropout=float(given.get("lora_dropout") or 0.0),
        targets=targets,
        rslora=bool(given.get("use_rslora")),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        layers=layers,
        modules_to_save=saved,
    )
    assert [unit for unit, _, _ in select_units(arch, settings)] == units, "settings must select what PEFT selects"
    return settings


def settle(tune: AnyTune, arch: Architecture) -> AnyTune:
    """The tuning section as it will really be: with `tune.from`, an adapter's own rank, alpha, targets and saved
    modules stand in place of the recipe's; the recipe's dropout, which belongs to training, stays.

    Raises:
        ModelError: as `read_settings`.
    """
    if not isinstance(tune, Lora) or tune.from_ is None:
        return tune
    settings = read_settings(adapter_folder(Path(tune.from_)), arch)
    own = {key: getattr(settings, key) for key in Lora.model_fields if key not in ("kind", "dropout", "from_")}
    return tune.model_copy(update=own)


def with_score(tune: AnyTune, arch: Architecture) -> AnyTune:
    """An adapter beside a scalar head trains that too."""
    if not isinstance(tune, Lora) or not is_valued(arch) or SCORE in tune.modules_to_save:
        return tune
    return tune.model_copy(update={"modules_to_save": (*tune.modules_to_save, SCORE)})


def is_dora(folder: Path) -> bool:
    """Whether the adapter also scales each row of the adapted weights (DoRA, arXiv 2402.09353).

    Raises:
        ModelError: no adapter, or unreadable.
    """
    return bool(_parse(folder, folder / CONFIG_FILE).get(DORA))


def beyond_low_rank(folder: Path) -> list[str]:
    """The settings by which an adapter is more than products of two matrices beside linear layers.

    Raises:
        ModelError: no adapter, or unreadable.
    """
    given = _parse(folder, folder / CONFIG_FILE)
    return [name for name in (DORA, "modules_to_save", "trainable_token_indices") if given.get(name)]


def greatest_rank(folder: Path) -> int:
    """Of all modules. Raises ModelError as `beyond_low_rank`."""
    given = _parse(folder, folder / CONFIG_FILE)
    return max(int(each) for each in (given.get("r") or PEFT_DEFAULT, *(given.get("rank_pattern") or {}).values()))


def named_base(folder: Path) -> str | None:
    """The base model that the adapter's own settings name.

    Raises:
        ModelError: no adapter, or unreadable.
    """
    named = _parse(folder, folder / CONFIG_FILE).get("base_model_name_or_path")
    return named if isinstance(named, str) and named else None


def is_judge(folder: Path) -> bool:
    """Whether an adapter is for a model with a scalar head.

    Raises:
        ModelError: no adapter, or unreadable.
    """
    return _parse(folder, folder / CONFIG_FILE).get("task_type") == CLASSIFIES


def adapter_folder(path: Path) -> Path:
    """The folder with the adapter's files: the given one, or the `adapter` folder of a run."""
    inside = path / "adapter"
    return inside if not os.path.isfile(path / CONFIG_FILE) and os.path.isdir(inside) else path


def to_json(arch: Architecture, lora: Lora, base: str) -> dict[str, Any]:
    """The content of `adapter_config.json`.

    Args:
        base: what `base_model_name_or_path` says: a hub id or a folder.
    """
    units = [unit for unit, _, _ in select_units(arch, lora)]
    targets, layers = _canonical(arch, units)
    return {
        "peft_type": "LORA",
        "task_type": CLASSIFIES if is_valued(arch) else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": _whole(lora.effective_alpha),
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": list(targets),
        "layers_to_transform": None if layers is None else list(layers),
        "layers_pattern": None,
        "rank_pattern": dict(lora.rank_pattern),
        "alpha_pattern": {key: _whole(value) for key, value in lora.alpha_pattern.items()},
        "modules_to_save": stored_modules(arch, saved_modules(arch, lora)) or None,
        **_token_indices(arch),
    }


def token_ids(folder: Path, arch: Architecture) -> tuple[int, ...]:
    """The tokens that an adapter has rows of its own for.

    Raises:
        ModelError: they are not the same in embedding and head, not in ascending order, or leave a gap after the base's
            last row.
    """
    path = folder / CONFIG_FILE
    return _token_ids(_parse(folder, path), arch, str(path))


def _token_ids(settings: Mapping[str, Any], arch: Architecture, where: str) -> tuple[int, ...]:
    given = settings.get("trainable_token_indices")
    if not given:
        return ()
    by_module = given if isinstance(given, dict) else {_short(EMBEDDING): given}
    expected = {_short(module) for module in token_modules(arch)}
    lists, modules = list(by_module.values()), {_short(module) for module in by_module}
    ids = tuple(lists[0]) if lists and isinstance(lists[0], list) else ()
    is_whole = all(_is_whole(each) and each >= 0 for each in ids)
    same = all(each == list(ids) for each in lists) and (modules - {HEAD} if arch.spec.tied else modules) == expected
    if not ids or not is_whole or not same or beside(arch, ids).new_ids != ids:
        raise ModelError(Problem("models.adapter_tokens", where, "trainable_token_indices", shown(given)))
    return ids


def _token_indices(arch: Architecture) -> dict[str, Any]:
    if not arch.new_ids:
        return {}
    return {"trainable_token_indices": {_short(module): list(arch.new_ids) for module in token_modules(arch)}}


def _short(module: str) -> str:
    return module.rsplit(".", 1)[-1]


def stored_modules(arch: Architecture, saved: Sequence[str]) -> list[str]:
    """Names under which trained modules stand in the file.

    A shared embedding is stored under both of its names: PEFT makes a copy for each module that it saves, and would
    otherwise leave the head with the base's weights. Embedding and head go by their short names, which other programs
    look for; norms by their full ones, because PEFT compares the ends of names without regard to dots (`norm` would
    take every norm).
    """
    names = {EMBEDDING: EMBEDDING.rsplit(".", 1)[-1]}
    stored = [names.get(name, name) for name in saved]
    return [*stored, HEAD] if arch.spec.tied and EMBEDDING in saved else stored


def _parse(folder: Path, path: Path) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise ModelError(Problem("models.no_adapter", str(folder)))
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(Problem("models.bad_config", str(path), values={"reason": str(error)})) from error
    if not isinstance(given, dict):
        raise ModelError(Problem("models.bad_config", str(path), values={"reason": shown(given)}))
    return given


def _of_score(given: dict[str, Any], arch: Architecture) -> dict[str, Any]:
    """PEFT's settings of a model with a scalar head, as those of any other: there it also lists what other families
    call such a head."""
    if not is_valued(arch) or given.get("task_type") != CLASSIFIES:
        return given
    names = given.get("modules_to_save")
    saved = [name for name in names if name != "classifier"] if isinstance(names, list) else names
    return {**given, "task_type": None, "modules_to_save": saved}


def _refusals(given: Mapping[str, Any], where: str) -> list[Problem]:
    """Everything that would make the adapter compute something else than plain LoRA on linear layers."""
    problems = []
    if str(given.get("peft_type", "")).upper() != "LORA":
        problems.append(Problem("models.adapter_type", where, "peft_type", shown(given.get("peft_type"))))
    if given.get("task_type") not in (None, "CAUSAL_LM"):
        problems.append(Problem("models.adapter_task", where, "task_type", shown(given["task_type"])))
    if given.get("init_lora_weights", True) not in KEEPS_BASE:
        problems.append(Problem("models.adapter_init", where, "init_lora_weights", shown(given["init_lora_weights"])))
    for name, value in given.items():
        neutral = not value or (name == "bias" and value == "none")
        if name not in READ and name not in WITHOUT_EFFECT and not neutral:
            message = "models.adapter_dora" if name == DORA else "models.adapter_feature"
            problems.append(Problem(message, where, name, shown(value)))
    for name, is_valid in _VALUES.items():
        if given.get(name) is not None and not is_valid(given[name]):
            problems.append(Problem("models.adapter_value", where, name, shown(given[name])))
    return problems


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_text_or_texts(value: Any) -> bool:
    return isinstance(value, str) or _is_texts(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_VALUES: dict[str, Callable[[Any], bool]] = {
    "target_modules": _is_text_or_texts,
    "exclude_modules": _is_text_or_texts,
    "layers_pattern": _is_text_or_texts,
    "modules_to_save": _is_texts,
    "layers_to_transform": lambda value: _is_whole(value) or (isinstance(value, list) and all(map(_is_whole, value))),
    "rank_pattern": lambda value: isinstance(value, dict),
    "alpha_pattern": lambda value: isinstance(value, dict),
    "lora_dropout": lambda value: isinstance(value, (int, float)) and 0 <= value < 1,
}


def _targets(given: Mapping[str, Any], name: str) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name; a list holds whole names, and ends of names,
    of which only the latter are restricted to `layers_to_transform`."""
    if _listed(given.get("exclude_modules"), name):
        return False
    targets = given.get("target_modules")
    if isinstance(targets, str):
        return targets.lower() == "all-linear" or re.fullmatch(targets, name) is not None
    if name in (targets or ()):
        return True
    return _listed(targets, name) and _in_layers(given, name)


def _listed(targets: str | list[str] | None, name: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(ends_with(name, target) for target in targets or ())


def _in_layers(given: Mapping[str, Any], name: str) -> bool:
    indices = given.get("layers_to_transform")
    if indices is None or indices == []:
        return True
    patterns = given.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    rules = [rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
    for rule in rules:
        match = re.match(rule, name)
        if match is not None:
            return int(match["idx"]) in ([indices] if isinstance(indices, int) else indices)
    return False


def _refuse_other_targets(given: Mapping[str, Any], arch: Architecture, where: str) -> None:
    """An adapter on the embedding or the head would be lost without a word."""
    if str(given.get("target_modules")).lower() == "all-linear":
        return
    others = [name for name in dict.fromkeys((*savable_modules(arch), HEAD)) if _targets(given, name)]
    if others:
        raise ModelError(Problem("models.adapter_target", where, "target_modules", ", ".join(others)))


def _saved(given: Mapping[str, Any], arch: Architecture, where: str) -> tuple[str, ...]:
    """Modules saved whole, by PEFT's rule (plain ends of names, dots or not), as full names.

    A shared embedding must have been trained as one: under both names, or with `ensure_weight_tying`.
    """
    names = given.get("modules_to_save") or ()
    modules = {HEAD: None}
    for tensor in arch.tensors:
        parts = tensor.split(".")[:-1]
        modules.update((".".join(parts[:end]), None) for end in range(1, len(parts) + 1))
    found = [module for module in modules if any(module.endswith(name) for name in names)]
    savable = (*savable_modules(arch), HEAD)
    if any(module not in savable for module in found):
        wrong = ", ".join(module for module in found if module not in savable)
        raise ModelError(Problem("models.adapter_saves", where, "modules_to_save", wrong))
    shared = {EMBEDDING, HEAD} & set(found)
    if arch.spec.tied and shared and shared != {EMBEDDING, HEAD} and not given.get("ensure_weight_tying"):
        raise ModelError(Problem("models.adapter_unties", where, "modules_to_save", ", ".join(sorted(shared))))
    if arch.spec.tied and HEAD in found:
        found = [EMBEDDING, *(name for name in found if name not in (EMBEDDING, HEAD))]
    return tuple(name for name in savable_modules(arch) if name in found)


def _patterns(
    given: Mapping[str, Any], name: str, units: Sequence[Unit], where: str, kind: type[int] | type[float]
) -> dict[str, Any]:
    """Those patterns that decide something, in their order."""
    patterns = given.get(name) or {}
    used = {matching_pattern(list(patterns), unit.name) for unit in units}
    return {key: _positive(value, f"{name}.{key}", where, kind) for key, value in patterns.items() if key in used}


def _canonical(arch: Architecture, units: Sequence[Unit]) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """The shortest (targets, layers) that select exactly these units."""
    shorts = tuple(dict.fromkeys(unit.short_name for unit in units))
    layers = tuple(sorted({unit.layer for unit in units}))
    named = [unit for unit in arch.units if unit.short_name in shorts and unit.layer in layers]
    if named != list(units):
        return tuple(unit.name for unit in units), None
    return shorts, None if len(layers) == len(arch.spec.layers) else layers


def _positive(value: Any, name: str, where: str, kind: type[int] | type[float]) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or kind(value) != value:
        raise ModelError(Problem("models.adapter_value", where, name, shown(value)))
    return kind(value)


def _whole(value: float) -> int | float:
    """3.0 as 3: PEFT's own files hold whole numbers."""
    return int(value) if value == int(value) else value
