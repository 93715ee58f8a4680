"""What the schema found wrong, in words for people.

What goes in: pydantic's errors and the `Tree` they speak of. What comes out: one `Problem` per place, with the line,
the field's dotted name, the value as written, the rule, and the nearest thing that would be right. Rank 1; imports no
torch.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic_core import ErrorDetails

from luthier.config import tree as trees
from luthier.config.fields import DEFAULT_KINDS, FIELDS, SECTIONS, SOURCES, Field, keys_of, kind_of, plain_name
from luthier.config.tree import Tree, show
from luthier.errors import Problem

TYPES: dict[str, str] = {
    "missing": "config.missing",
    "int_type": "config.whole_number",
    "int_parsing": "config.whole_number",
    "int_from_float": "config.whole_number",
    "float_type": "config.number",
    "float_parsing": "config.number",
    "finite_number": "config.number",
    "bool_type": "config.switch",
    "bool_parsing": "config.switch",
    "string_type": "config.text",
    "string_too_short": "config.empty",
    "too_short": "config.empty",
    "too_long": "config.pair",
    "tuple_type": "config.list",
    "dict_type": "config.mapping",
    "model_type": "config.section",
    "greater_than": "config.greater_than",
    "greater_than_equal": "config.at_least",
    "less_than": "config.less_than",
    "less_than_equal": "config.at_most",
    "regex": "config.regex",
    "module_name": "config.module_name",
    "own_function": "config.own_function",
    "reward_name": "config.reward_name",
}
"""Error type of pydantic, or of the schema's own validators -> message id."""

FIELD_MESSAGES = {
    "data.validation": "config.validation_value",
    "tune.targets": "config.targets_value",
    "run.devices": "config.devices_value",
}
"""Fields that take several shapes, with a message that names them all."""

ELSEWHERE: dict[str, str] = {
    "adam_beta1": "optim.betas",
    "base_model": "model.path",
    "batch_size": "optim.batch",
    "cutoff_len": "data.max_tokens",
    "dataset": "data.train",
    "dataset_dir": "data.train",
    "datasets": "data.train",
    "finetuning_type": "tune.kind",
    "fp16": "model.dtype",
    "bf16": "model.dtype",
    "gradient_accumulation_steps": "optim.batch",
    "learning_rate": "optim.lr",
    "logging_steps": "run.log_every",
    "lora_alpha": "tune.alpha",
    "lora_dropout": "tune.dropout",
    "lora_r": "tune.rank",
    "lora_rank": "tune.rank",
    "lora_target": "tune.targets",
    "lr_scheduler": "optim.schedule",
    "lr_scheduler_type": "optim.schedule",
    "max_grad_norm": "optim.clip",
    "max_length": "data.max_tokens",
    "max_seq_length": "data.max_tokens",
    "max_steps": "optim.steps",
    "micro_batch_size": "optim.batch",
    "model_name_or_path": "model.path",
    "num_epochs": "optim.epochs",
    "num_train_epochs": "optim.epochs",
    "output_dir": "run.dir",
    "per_device_train_batch_size": "optim.batch",
    "r": "tune.rank",
    "report_to": "run.report",
    "save_steps": "run.save_every",
    "save_total_limit": "run.keep",
    "seq_len": "data.max_tokens",
    "sequence_len": "data.max_tokens",
    "stage": "method.kind",
    "target_modules": "tune.targets",
    "torch_dtype": "model.dtype",
    "trainable_layers": "tune.layers",
    "val_set_size": "data.validation",
    "val_size": "data.validation",
    "warmup_ratio": "optim.warmup",
    "warmup_steps": "optim.warmup",
}
"""What other trainers call a field -> what it is called here."""

WORDS_ELSEWHERE: dict[str, str] = {
    "adam": "adamw",
    "adamw_torch": "adamw",
    "bf16": "bfloat16",
    "chatml": "messages",
    "constant_with_warmup": "constant",
    "fp16": "float16",
    "fp32": "float32",
    "gpu": "cuda",
    "half": "float16",
    "json": "auto",
    "openai": "messages",
    "pt": "pretrain",
    "scratch": "random",
}
"""What other trainers call a value -> what it is called here, where the field has it."""

SECRET_KEY = re.compile(
    r"^(hf|hub|huggingface|modelscope|wandb|swanlab|auth|access|api|secret)_?(api_)?(token|key)$|password|secret"
)
"""Keys whose value is never repeated in a message, whatever it looks like."""


def explain(errors: Sequence[ErrorDetails], tree: Tree, origin: str) -> list[Problem]:
    """One problem per place: where a field takes several shapes, pydantic complains once for each; a list with a bad
    item is not also too short."""
    paths = [path_of(error, tree) for error in errors]
    problems: dict[trees.Path, Problem] = {}
    for error, path in zip(errors, paths, strict=True):
        inner = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
        if path not in problems and not inner:
            problems[path] = _problem(error, path, tree, origin)
    return list(problems.values())


def path_of(error: ErrorDetails, tree: Tree) -> trees.Path:
    """Where in the written recipe an error lies: pydantic's location without its names of union members."""
    path: trees.Path = ()
    for part in error["loc"]:
        if trees.has(tree.at(path), part):
            path = (*path, part)
    if error["type"] == "missing" and path != error["loc"]:  # they are equal where a section is written as null
        path = (*path, error["loc"][-1])
    elif error["type"] == "union_tag_invalid":
        path = (*path, "kind")
    return ("data", "train") if path == ("data",) and error["type"] == "missing" else path


def without(errors: Iterable[ErrorDetails], tree: Tree) -> Tree:
    """A copy of the recipe that leaves the wrong fields at their defaults, for judging the rest."""
    rest = copy.deepcopy(tree)
    for error in errors:
        path = path_of(error, tree)
        # A list with a bad item goes as a whole.
        path = path[: next((index for index, part in enumerate(path) if isinstance(part, int)), len(path))]
        holder = rest.at(path[:-1])
        if isinstance(holder, dict):
            holder.pop(path[-1], None)
    for section, key, stand_in in (("model", "path", "-"), ("data", "train", "-")):
        if not isinstance(rest.data.get(section), dict):
            rest.data[section] = {}
        rest.data[section].setdefault(key, stand_in)
    return rest


def with_default_kinds(errors: Iterable[ErrorDetails], tree: Tree) -> Tree | None:
    """A copy of the recipe with unknown kinds made known, for finding what else is wrong; None where all are known."""
    unknown = [path_of(error, tree) for error in errors if error["type"] == "union_tag_invalid"]
    if not unknown:
        return None
    rest = copy.deepcopy(tree)
    for path in unknown:
        rest.replace(path, DEFAULT_KINDS[str(path[0])])
    return rest


def touches(field: str, path: trees.Path) -> bool:
    """Whether a field is, holds, or lies in the place of a problem."""
    parts = tuple(field.split("."))
    length = min(len(parts), len(path))
    return parts[:length] == tuple(map(str, path[:length]))


def in_order(problems: Iterable[Problem], tree: Tree) -> list[Problem]:
    """The recipe's problems by line, then those of the overrides in their order."""
    return sorted(problems, key=lambda problem: _rank(problem, tree))


def _rank(problem: Problem, tree: Tree) -> tuple[bool, int]:
    line = problem.where.rpartition(":")[2]
    if line.isdigit():
        return False, int(line)
    place = tree.place(tuple(problem.field.split(".")))
    return (place.later, place.line) if place else (not problem.field, 0)


def no_recipe(path: Path) -> Problem:
    """The file is not there; the nearest recipe beside it is."""
    folder = path.parent
    names = [each.name for each in folder.glob("*.y*ml")] if folder.is_dir() else []
    near = nearest(path.name, names)
    if near:
        return Problem("config.no_recipe_near", str(path), values={"near": str(folder / near)})
    return Problem("config.no_recipe", str(path))


# ---------------------------------------------------------------------------------------------------- one problem


def _problem(error: ErrorDetails, path: trees.Path, tree: Tree, origin: str) -> Problem:
    name = ".".join(map(str, path))
    place = tree.place(path)
    where = place.text if place else origin
    kind = error["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, tree, where)
    value = "" if kind == "missing" else show(tree.at(path))
    field = FIELDS.get(plain_name(path)) or FIELDS.get(f"{name}.kind")
    if kind == "missing" and isinstance(path[-1], int):
        return Problem("config.pair", where, ".".join(map(str, path[:-1])), show(tree.at(path[:-1])))
    if plain_name(path) in FIELD_MESSAGES and kind != "module_name" and len(path) == 2:
        return Problem(FIELD_MESSAGES[name], where, name, value, {"name": name})
    if kind in ("literal_error", "format_name") or kind.startswith("union_tag"):
        return _choice(field, name, value, where)
    if kind == "switch" and field is not None:
        return Problem("config.not_a_switch", where, name, value, {"takes": field.takes, "name": name})
    limits = {"limit": f"{next(iter(error.get('ctx', {}).values()), ''):g}"} if kind[:4] in ("grea", "less") else {}
    reason = error.get("ctx", {}).get("reason", error["msg"])
    values = {"name": name, "plain": plain_name(path), "reason": reason, **limits}
    return Problem(TYPES.get(kind, "config.invalid"), where, name, value, values)


def _choice(field: Field | None, name: str, value: str, where: str) -> Problem:
    choices = field.choices if field else ()
    near = next((each for each in choices if each == WORDS_ELSEWHERE.get(value.lower())), "") or nearest(value, choices)
    values = {"choices": ", ".join(choices), "near": near, "name": name}
    if not near and field is not None and field.key == "format":
        return Problem("config.format_name", where, name, value, values)
    return Problem("config.choice_near" if near else "config.choice", where, name, value, values)


def _unknown_key(path: trees.Path, tree: Tree, where: str) -> Problem:
    name, key, parent = ".".join(map(str, path)), str(path[-1]), plain_name(path[:-1])
    if SECRET_KEY.search(key):
        return Problem("config.secret", where, name, "***")
    value = show(tree.at(path))
    chosen = kind_of(parent, tree.at(path[:-1]))
    field = FIELDS.get(f"{parent}.{key}")
    if parent in DEFAULT_KINDS and field is not None:
        values = {"kind": chosen, "section": parent, "key": key, "kinds": ", ".join(field.kinds)}
        return Problem("config.other_kind", where, name, value, {**values, "first": field.kinds[0]})
    valid = keys_of("data.train" if parent in SOURCES else parent, chosen)
    near = _nearest_field(key, parent, valid)
    if near:
        return Problem("config.unknown_key_near", where, name, value, {"near": near})
    return Problem("config.unknown_key", where, name, value, {"valid": ", ".join(valid)})


def _nearest_field(key: str, parent: str, valid: Sequence[str]) -> str:
    """The dotted name that an unknown key most likely means: a slip of the pen in the same section, another trainer's
    word, a field of another section, or a slip in one of those."""
    prefix = f"{parent}." if parent else ""
    if "." in key and plain_name(tuple(key.split("."))) in FIELDS:
        return key
    near = nearest(key, valid, cutoff=0.75) or next((each for each in valid if key.startswith(each)), "")
    if near:
        return prefix + near
    if key.lower() in ELSEWHERE:
        return ELSEWHERE[key.lower()]
    by_key: dict[str, str] = {}
    for name, field in FIELDS.items():
        by_key.setdefault(field.key, name)
    if key in by_key:
        return by_key[key]
    near = nearest(key, valid)
    if near:
        return prefix + near
    near = nearest(key, [*by_key, *SECTIONS], cutoff=0.8)
    return by_key.get(near, near)


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """The nearest of `words`, whatever the case; empty where none is near (0.6: difflib's own measure of close)."""
    by_lower = {each.lower(): each for each in words}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else ""
