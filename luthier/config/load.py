"""From what people write to a checked recipe, and back.

What goes in: a YAML file, a mapping or a `RunConfig`, overrides such as `tune.rank=32`, and the process's environment.
What comes out: a frozen `RunConfig`, or one `ConfigError` with everything that is wrong; a `RunConfig` as YAML that
says what will run; the few environment variables that Luthier obeys, as an `Environment`. Rank 1; imports no torch.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from luthier.config import complaints, rules
from luthier.config import stages as staging
from luthier.config.fields import SOURCES
from luthier.config.schema import Lora, Qlora, RunConfig, is_file
from luthier.config.stages import Stage
from luthier.config.tree import Dumper, Place, Tree, has, show
from luthier.errors import ConfigError, Problem
from luthier.text import Language, say

Recipe = str | Path | Mapping[str, Any] | RunConfig | None
Overrides = Sequence[str] | Mapping[str, Any]


def load(recipe: Recipe = None, overrides: Overrides = ()) -> RunConfig:
    """Read a recipe, lay the overrides over it, check everything.

    What overrides do: later ones win over earlier ones and over the recipe. Sections merge field by field, all other
    values are replaced. `tune=full` (or `tune.kind=full`) changes the kind; the recipe's fields that the new kind does
    not have go with the old one, fields given as overrides stay and are judged. `optim.steps=20` takes the place of
    the recipe's epochs, `model=other` of its revision (see `tree.SUPERSEDES`).

    Args:
        recipe: a YAML file, a mapping (nested or with dotted names), a config, or None where overrides say everything.
        overrides: `["tune.rank=32"]`, values in YAML's notation; a single one as it is; or `{"tune.rank": 32}`. Of a
            recipe with stages, `stage=NAME` picks one, as it can be looked at before those before it are trained.

    Raises:
        ConfigError: everything that is wrong, each problem with its place, field, value, rule and remedy.
    """
    tree = _read(recipe)
    if staging.KEY in tree.data:
        return _one_of(recipe, overrides)
    if tree.problems and not tree.data:
        raise ConfigError(tree.problems)  # nothing could be read; all else would be noise
    put_overrides(tree, overrides)
    config, problems = _check(tree, _origin(recipe, overrides))
    if problems or config is None:
        raise ConfigError(problems)
    return config


def stages(recipe: Recipe = None, overrides: Overrides = ()) -> tuple[Stage, ...]:
    """The stages of a recipe, in order; empty where it has none and is for `load`.

    Args:
        overrides: as of `load`; they hold for every stage, `stages.NAME.tune.rank=32` for one.

    Raises:
        ConfigError: everything that is wrong with any of them.
    """
    shared = _read(recipe)
    return _stages(shared, overrides, _origin(recipe, overrides)) if staging.KEY in shared.data else ()


def _stages(shared: Tree, overrides: Overrides, origin: str) -> tuple[Stage, ...]:
    drafts, problems = staging.drafts(shared)
    names = [draft.name for draft in drafts]
    problems = [*shared.problems, *problems, *staging.unknown_overrides(names, overrides, origin)]
    if problems:
        raise ConfigError(problems)
    made: dict[str, Stage] = {}
    for draft in drafts:
        staging.hear(draft, overrides)
        tree = staging.layered(shared, draft)
        put_overrides(tree, staging.overrides_of(draft.name, overrides))
        came = made[draft.from_] if draft.from_ is not None and draft.from_ in made else None
        found = staging.tie(tree, draft, _shared_name(shared, overrides), came)
        config, wrong = _check(tree, origin) if draft.from_ is None or came is not None else (None, [])
        problems += [each for each in (*found, *wrong) if each not in problems]
        if config is not None and not found:
            planned = staging.planned(config, draft.start, came, list(made.values()))
            stage = Stage(draft.name, draft.from_, draft.start, config, planned)
            problems += staging.same_run(stage, list(made.values()), draft)
            made[draft.name] = stage
    if problems:
        raise ConfigError(problems)
    return tuple(made.values())


def _shared_name(shared: Tree, overrides: Overrides) -> str:
    """What the names of the stages' runs begin with: `run.name`, or the model's own."""
    tree = copy.deepcopy(shared)
    put_overrides(tree, staging.overrides_of("", overrides))
    given = tree.raw.get(("run", "name"), tree.at(("run", "name")))
    model = tree.at(("model",))
    path = str(model.get("path", "") if isinstance(model, dict) else model or "")
    return str(given) if given is not None else Path(path.rsplit(":", 1)[-1]).name


def _one_of(recipe: Recipe, overrides: Overrides) -> RunConfig:
    """The stage that `stage=NAME` picks."""
    pairs = dict(overrides) if isinstance(overrides, Mapping) else None
    texts = [overrides] if isinstance(overrides, str) else list(overrides)
    if pairs is not None:
        chosen = pairs.pop("stage", None)
        rest: Overrides = pairs
    else:
        chosen = next((each.partition("=")[2] for each in texts if str(each).startswith("stage=")), None)
        rest = [each for each in texts if not str(each).startswith("stage=")]
    found = {stage.name: stage for stage in stages(recipe, rest)}
    if chosen not in found:
        values = {"names": ", ".join(found), "first": next(iter(found))}
        raise ConfigError(Problem("config.stages_here", _origin(recipe, overrides), "stages", chosen or "", values))
    return found[chosen].planned


def loads(text: str, where: str) -> RunConfig:
    """A recipe from its text; `where` names it in messages. Raises ConfigError as `load` does."""
    tree = Tree()
    tree.read(text, where)
    config, problems = _check(tree, where)
    if problems or config is None:
        raise ConfigError(problems)
    return config


@dataclass(frozen=True)
class Reading:
    """A recipe as far as it is understood.

    Attributes:
        readable: whether it is YAML, and a recipe's at all.
        values: what is written in it, as plain JSON values: sections as mappings, the files of `data` as lists of
            mappings.
        config: None where something is wrong, or where it has stages.
        stages: of a recipe that has them.
        shared_name: what the names of the stages' runs begin with.
    """

    readable: bool
    values: dict[str, Any]
    config: RunConfig | None
    stages: tuple[Stage, ...]
    problems: tuple[Problem, ...]
    shared_name: str = ""

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """Of each run that is to be trained; empty where something is wrong."""
        return tuple(stage.config for stage in self.stages) if self.config is None else (self.config,)


def read(text: str, where: str, overrides: Overrides = ()) -> Reading:
    """A recipe from its text, whatever is wrong with it; `where` names it in messages."""
    tree = Tree()
    tree.read(text, where)
    if tree.problems and not tree.data:
        return Reading(False, {}, None, (), tuple(tree.problems))
    values = _written(tree)
    if staging.KEY in tree.data:
        try:
            return Reading(True, values, None, _stages(tree, overrides, where), (), _shared_name(tree, overrides))
        except ConfigError as error:
            return Reading(True, values, None, (), error.problems)
    put_overrides(tree, overrides)
    config, problems = _check(tree, where)
    return Reading(True, values, None if problems else config, (), tuple(problems))


def _written(tree: Tree) -> dict[str, Any]:
    values: dict[str, Any] = _json(tree.data)
    data = values.get("data")
    if isinstance(data, dict):
        for key in ("train", "validation"):
            given = data.get(key)
            given = [given] if is_file(given) or (key == "train" and isinstance(given, str)) else given
            if isinstance(given, list):
                data[key] = [{"path": each} if isinstance(each, str) else each for each in given]
    return values


def _json(value: Any) -> Any:
    """A copy; numbers that JSON has no word for as text."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return show(value) if isinstance(value, float) and not math.isfinite(value) else value


def settings_of(path: Path) -> dict[str, Any]:
    """The settings in another program's YAML file, as plain values. Raises ConfigError where they cannot be read."""
    tree = Tree()
    tree.read_mapping(text_of(path), str(path))
    if tree.problems:
        raise ConfigError(tree.problems)
    return tree.data


def resolved(config: RunConfig) -> dict[str, Any]:
    """The recipe as it will run, as plain JSON values: defaults written out, `optim.lr` and `tune.alpha` filled in,
    what has no effect beside the other fields left out. It loads again, to the same resolved form."""
    plain = config.model_dump(mode="json", by_alias=True)
    optim, tune = plain["optim"], plain["tune"]
    optim["lr"] = config.learning_rate
    without_effect = {
        "epochs": config.optim.steps is not None,
        "betas": config.optim.kind == "sgd",
        "eps": config.optim.kind == "sgd",
        "momentum": config.optim.kind != "sgd",
        "power": config.optim.schedule != "polynomial",
    }
    plain["optim"] = {key: value for key, value in optim.items() if not without_effect.get(key)}
    if isinstance(config.tune, Lora):
        tune["alpha"] = config.tune.effective_alpha
        if config.tune.from_ is not None:
            plain["tune"] = {key: value for key, value in tune.items() if key not in rules.ADAPTER_SHAPE}
        if isinstance(config.tune, Qlora) and config.tune.base == "int8":
            del plain["tune"]["double_quant"]
    return plain


def settle(config: RunConfig) -> RunConfig:
    """The recipe with everything filled in that `resolved` fills in; settling it again changes nothing."""
    return loads(dump(config), "recipe")


def dump(config: RunConfig) -> str:
    """`resolved` as YAML."""
    return yaml.dump(resolved(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


# ---------------------------------------------------------------------------------------------------- reading


def _read(recipe: Recipe) -> Tree:
    tree = Tree()
    if isinstance(recipe, (str, Path)):
        tree.read(text_of(Path(recipe)), str(recipe))
    elif isinstance(recipe, RunConfig):
        # Only what was given: a default must not look like somebody's wish.
        given = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
        tree.put((), given, Place(False, 0, say("config.where.recipe")))
    elif isinstance(recipe, Mapping):
        tree.put((), recipe, Place(False, 0, say("config.where.recipe")))
    elif recipe is not None:
        tree.problems.append(Problem("config.recipe_type", say("config.where.recipe"), value=show(repr(recipe))))
    return tree


def text_of(path: Path) -> str:
    """The file's text; a mark of the byte order at its start is no part of it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(complaints.no_recipe(path)) from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(Problem("config.not_utf8", f"{path}:{line}")) from error
    except OSError as error:
        values = {"reason": error.strerror or type(error).__name__}
        raise ConfigError(Problem("config.unreadable", str(path), values=values)) from error


def _origin(recipe: Recipe, overrides: Overrides) -> str:
    """Where to look for what was given nowhere."""
    if isinstance(recipe, (str, Path)):
        return str(recipe)
    if recipe is not None:
        return say("config.where.recipe")
    return say("config.where.overrides" if isinstance(overrides, Mapping) else "config.where.command_line")


def put_overrides(tree: Tree, overrides: Overrides) -> None:
    """Overrides come from Python code too, so their type is not taken on trust."""
    if isinstance(overrides, Mapping):
        tree.put((), overrides, Place(True, 0, say("config.where.overrides")))
        return
    given: Sequence[Any] = overrides if isinstance(overrides, (list, tuple)) else [overrides]
    for number, each in enumerate(given, start=1):
        if isinstance(each, str):
            _override(tree, each, number)
        else:
            tree.problems.append(Problem("config.override_type", say("config.where.overrides"), value=show(repr(each))))


def _override(tree: Tree, text: str, number: int) -> None:
    name, equals, value = text.partition("=")
    where = say("config.where.command_line")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        tree.problems.append(Problem("config.override_form", where, value=text))
    else:
        tree.put_text(name.strip(), value.strip(), Place(True, number, where))


# ---------------------------------------------------------------------------------------------------- checking


def _check(tree: Tree, origin: str) -> tuple[RunConfig | None, list[Problem]]:
    """Check fields, then the rules between them; rules also where fields are wrong, as far as they speak of others."""
    config, errors = _validate(tree)
    known = complaints.with_default_kinds(errors, tree)
    if known is not None:
        # Which fields there are depends on the kind, so only the values of known ones are judged.
        errors += [error for error in _validate(known)[1] if error["type"] != "extra_forbidden"]
    found = [*tree.problems, *complaints.explain(errors, tree, origin)]
    if config is None:
        config, _ = _validate(complaints.without(errors, tree))
    if config is not None:
        wrong = [complaints.path_of(error, tree) for error in errors]
        for rule, problem in rules.problems(config, lambda field: _place_of(field, tree)):
            if not any(complaints.touches(field, path) for field in rule.fields for path in wrong):
                found.append(problem)
    return config if not errors else None, complaints.in_order(found, tree)


def mend(tree: Tree) -> None:
    """Take every value the way its field wants it, where that is only a matter of notation."""
    _validate(tree)


def _validate(tree: Tree) -> tuple[RunConfig | None, list[ErrorDetails]]:
    """The schema's verdict, after mending what is only a matter of notation."""
    while True:
        present = {key: value for key, value in tree.data.items() if value is not None}
        try:
            return RunConfig.model_validate(present), []
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if not [error for error in errors if _mend(error, tree)]:
            return None, errors


def _mend(error: ErrorDetails, tree: Tree) -> bool:
    """Take a value the way its field wants it, where that is beyond doubt: text as it was written (`name: 007`), a
    single value or a list with commas for a list (`layers: 3`, `betas=0.9,0.95`). Says whether anything changed."""
    path = complaints.path_of(error, tree)
    value = tree.at(path)
    if not path or not has(tree.at(path[:-1]), path[-1]) or ".".join(map(str, path)) in SOURCES:
        return False
    if error["type"] == "string_type" and not isinstance(value, str) and path in tree.raw:
        tree.replace(path, tree.raw[path])
    elif error["type"] == "tuple_type" and isinstance(value, (str, int, float)):
        tree.replace(path, [_item(part.strip()) for part in str(value).split(",") if part.strip()])
    else:
        return False
    return True


def _item(text: str) -> Any:
    scratch = Tree()
    scratch.put_text("item", text, Place(True, 0, ""))
    return scratch.data["item"]


def _place_of(field: str, tree: Tree) -> str | None:
    place = tree.places.get(tuple(field.split(".")))
    return place.text if place else None


# ---------------------------------------------------------------------------------------------------- environment


@dataclass(frozen=True)
class Environment:
    """What Luthier takes from environment variables. Secrets themselves are not in it, only whether they are set: the
    libraries that need them read them on their own.

    Attributes:
        language: of everything said to people: LC_ALL, LC_MESSAGES or LANG, the first that is set.
        hf_home: HF_HOME, where hub files are kept; hf_hub_cache: HF_HUB_CACHE, the models among them.
        hf_endpoint: HF_ENDPOINT, the hub or a mirror of it; may hold a password, so it is in no repr.
        hf_offline: HF_HUB_OFFLINE; nothing is asked of the network.
        hf_token_set: whether HF_TOKEN is given.
        modelscope_cache: MODELSCOPE_CACHE.
        cache_dir: LUTHIER_CACHE, for token stores and what frozen layers make of their sequences.
        cache_bytes: LUTHIER_CACHE_GB, the most that these may take up; 50 GB, tens of billions of tokens, where it is
            not given or no number.
        no_color: NO_COLOR, see no-color.org.
        proxies: names of the proxy variables that are set; their values may hold passwords.
        detached: LUTHIER_DETACHED, set by the queue for what it starts.
        display: whether there is a screen that a browser could open on: DISPLAY or WAYLAND_DISPLAY, where windows need
            one of them.
        rank: RANK, where torchrun or its like started several processes for one command; only rank 0 speaks.
    """

    language: Language
    hf_home: Path
    hf_hub_cache: Path
    hf_endpoint: str = field(repr=False)
    hf_offline: bool
    hf_token_set: bool
    modelscope_cache: Path
    cache_dir: Path
    cache_bytes: int
    no_color: bool
    proxies: tuple[str, ...]
    detached: bool
    display: bool
    rank: int

    def to_json(self) -> dict[str, Any]:
        """For manifests and `doctor`: plain values, the endpoint without user and password."""
        parts = urlsplit(self.hf_endpoint)
        address = parts.hostname or ""
        address += f":{parts.port}" if parts.port else ""
        return {
            "language": self.language,
            "hf_home": str(self.hf_home),
            "hf_endpoint": urlunsplit(parts._replace(netloc=address)),
            "hf_offline": self.hf_offline,
            "hf_token_set": self.hf_token_set,
            "modelscope_cache": str(self.modelscope_cache),
            "cache_dir": str(self.cache_dir),
            "cache_bytes": self.cache_bytes,
            "no_color": self.no_color,
            "proxies": list(self.proxies),
        }


CACHE_GB = 50.0
DEFAULT_ENDPOINT = "https://huggingface.co"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
TRUE_WORDS = frozenset({"1", "on", "true", "yes"})
"""What huggingface_hub takes for yes."""


def environment(variables: Mapping[str, str] | None = None) -> Environment:
    """The environment of this process, or of `variables`."""
    given = {key: value for key, value in (os.environ if variables is None else variables).items() if value}
    home = Path(given.get("HOME") or given.get("USERPROFILE") or Path.home())
    caches = Path(given.get("XDG_CACHE_HOME", home / ".cache"))
    hf_home = Path(given.get("HF_HOME", caches / "huggingface")).expanduser()
    locale = given.get("LC_ALL") or given.get("LC_MESSAGES") or given.get("LANG", "")
    return Environment(
        language="zh" if locale.lower().startswith("zh") else "en",
        hf_home=hf_home,
        hf_hub_cache=Path(given.get("HF_HUB_CACHE", hf_home / "hub")).expanduser(),
        hf_endpoint=given.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/"),
        hf_offline=given.get("HF_HUB_OFFLINE", "").lower() in TRUE_WORDS,
        hf_token_set="HF_TOKEN" in given,
        modelscope_cache=Path(given.get("MODELSCOPE_CACHE", caches / "modelscope")).expanduser(),
        cache_dir=Path(given.get("LUTHIER_CACHE", caches / "luthier")).expanduser(),
        cache_bytes=_gigabytes(given.get("LUTHIER_CACHE_GB", "")),
        no_color="NO_COLOR" in given,
        proxies=tuple(name for name in PROXIES if name in given or name.lower() in given),
        detached="LUTHIER_DETACHED" in given,
        display=sys.platform in ("darwin", "win32") or "DISPLAY" in given or "WAYLAND_DISPLAY" in given,
        rank=int(given.get("RANK", "0")) if "LOCAL_RANK" in given and given.get("RANK", "").isdigit() else 0,
    )


def handed_on(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process that works in another folder: what names places relative to this one is made
    absolute; `more` comes on top."""
    made = {**os.environ, **(more or {})}
    if parts := made.get("PYTHONPATH"):
        made["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in parts.split(os.pathsep))
    if cache := made.get("LUTHIER_CACHE"):
        made["LUTHIER_CACHE"] = os.path.abspath(os.path.expanduser(cache))
    return made


def _gigabytes(text: str) -> int:
    try:
        given = float(text)
    except ValueError:
        given = CACHE_GB
    return int(1e9 * (given if given >= 0 else CACHE_GB))
