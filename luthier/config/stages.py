"""One recipe in several stages: pretrain, then sft, then dpo.

What goes in: a recipe's `Tree` with a list under `stages`, and overrides. What comes out: for each stage the tree of an
ordinary recipe. Layers lie over each other: the sections that all stages share, the stage's own, the overrides, and
last what ties a stage to the one that it starts from. Rank 1; imports no torch.

    name     unique; `run.name` of the stage is the recipe's with this behind it
    from     the stage that it starts from; the one before where nothing is said
    start    continue: train on what that one made, its adapter or its weights; merge: put its adapter into its base
             first, and train something new on that; fresh: start from the recipe's own model
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from luthier.config import complaints
from luthier.config.fields import SECTIONS, plain_name
from luthier.config.rules import ADAPTER_SHAPE
from luthier.config.schema import JUDGE, Distill, Full, Lora, Online, RunConfig
from luthier.config.tree import Place, Tree, show
from luthier.errors import Problem

KEY = "stages"
Start = Literal["continue", "merge", "fresh"]
OWN_KEYS = ("name", "from", "start")
NAME = r"[\w-]+"
"""Part of a folder's name, and of an override's: `stages.chat.optim.lr=1e-4`."""
MERGED = "-merged"
"""Behind the folder of a run: its adapter and base as one model, as `luthier merge` names it."""


@dataclass(frozen=True)
class Stage:
    """Attributes:
    from_: name of the stage that it starts from; None: the recipe's model.
    config: its recipe, as it will be trained.
    planned: the same with the model and the shape that are known before any stage is trained; for planning and for
        looking at data.
    """

    name: str
    from_: str | None
    start: Start
    config: RunConfig
    planned: RunConfig

    @property
    def folder(self) -> Path:
        """Of its run."""
        return Path(self.config.run.dir) / str(self.config.run.name)

    @property
    def whole(self) -> bool:
        """Whether its result is a model, and no adapter."""
        return not isinstance(self.config.tune, Lora)


@dataclass
class Draft:
    """A stage as written. own: its sections; said: dotted names of all that is said of this stage alone; place: where
    it stands."""

    name: str
    from_: str | None
    start: Start
    path: tuple[str | int, ...]
    own: dict[str, Any]
    said: set[str]
    place: Place
    problems: list[Problem] = field(default_factory=list)

    def says(self, section: str) -> bool:
        """Whether the stage speaks of this section or field itself."""
        return any(each == section or each.startswith(f"{section}.") for each in self.said)


def drafts(tree: Tree) -> tuple[list[Draft], list[Problem]]:
    """The stages that a recipe lists, and what is wrong with how they are tied together."""
    given = tree.at((KEY,))
    place = tree.place((KEY,)) or Place(False, 0, "")
    if not isinstance(given, list) or not given:
        return [], [Problem("config.stages_list", place.text, KEY, show(given))]
    found: list[Draft] = []
    problems: list[Problem] = []
    for index, each in enumerate(given):
        here = tree.place((KEY, index)) or place
        if not isinstance(each, dict):
            problems.append(Problem("config.stage_section", here.text, f"{KEY}.{index}", show(each)))
            continue
        draft = _draft(tree, index, each, here, found)
        problems += draft.problems
        found.append(draft)
    return found, problems


def _draft(tree: Tree, index: int, given: Mapping[str, Any], place: Place, before: Sequence[Draft]) -> Draft:
    path = (KEY, index)

    def at(key: str) -> str:
        found = tree.place((*path, key))
        return found.text if found else place.text

    problems = [_unknown(key, at(key), given[key]) for key in given if key not in (*OWN_KEYS, *SECTIONS)]
    name, names = str(tree.raw.get((*path, "name"), given.get("name", ""))), [each.name for each in before]
    if not re.fullmatch(NAME, name):
        problems.append(Problem("config.stage_name", at("name"), f"{KEY}.{index}.name", show(name)))
    elif name in names:
        problems.append(Problem("config.stage_twice", at("name"), f"{KEY}.{index}.name", name))
    start = given.get("start", "continue" if before else "fresh")
    if start not in get_args(Start):
        choices = ", ".join(get_args(Start))
        problems.append(Problem("config.stage_start", at("start"), f"{name}.start", show(start), {"choices": choices}))
        start = "fresh"
    came = given.get("from", names[-1] if names and start != "fresh" else None)
    if (came is not None and came not in names) or (came is None and start != "fresh"):
        values = {"names": ", ".join(names) or "-", "start": start}
        problems.append(Problem("config.stage_from", at("from"), f"{name}.from", show(came or ""), values))
        came, start = None, "fresh"
    elif came is not None and start == "fresh":
        problems.append(Problem("config.stage_fresh", at("from"), f"{name}.from", show(came)))
        came = None
    own = {key: value for key, value in given.items() if key in SECTIONS}
    return Draft(name, came, start, path, own, _names(own), place, problems)


def _names(given: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of the fields in nested sections."""
    names: set[str] = set()
    for key, value in given.items():
        inner = _names(value, f"{prefix}{key}.") if isinstance(value, Mapping) else set()
        names |= inner or {f"{prefix}{key}"}
    return names


def _unknown(key: str, where: str, value: Any) -> Problem:
    near = complaints.nearest(key, (*OWN_KEYS, *SECTIONS))
    if near:
        return Problem("config.unknown_key_near", where, key, show(value), {"near": near})
    return Problem("config.unknown_key", where, key, show(value), {"valid": ", ".join((*OWN_KEYS, *SECTIONS))})


# ---------------------------------------------------------------------------------------------------- layers


def layered(shared: Tree, draft: Draft) -> Tree:
    """The shared sections with the stage's own over them, each word with its place in the file."""
    tree = copy.deepcopy(shared)
    del tree.data[KEY]
    _lay(tree, shared, (), draft.own, draft)
    # To the command line, the stage's words are the recipe's.
    tree.places = {path: replace(place, later=False) for path, place in tree.places.items() if path[0] != KEY}
    return tree


def _lay(tree: Tree, shared: Tree, path: tuple[str | int, ...], given: Mapping[str, Any], draft: Draft) -> None:
    """Field by field, so that each keeps its own place; the kind first, because it decides which fields stay."""
    for key in sorted(given, key=lambda each: each != "kind"):
        inner = (*path, key)
        written = shared.place((*draft.path, *inner)) or draft.place
        if isinstance(given[key], dict) and plain_name(inner) in SECTIONS:
            _lay(tree, shared, inner, given[key], draft)
            continue
        tree.put(inner, given[key], replace(written, later=True))
        start = len(draft.path)
        raw = {at[start:]: text for at, text in shared.raw.items() if at[: start + len(inner)] == (*draft.path, *inner)}
        tree.raw |= raw


def _each(overrides: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    """Texts, or the names of a mapping; a single text is one override."""
    return [overrides] if isinstance(overrides, str) else list(overrides)


def overrides_of(name: str, overrides: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any] | Mapping[str, Any]:
    """The overrides that a stage obeys: those of all stages, and `stages.NAME.field`, which come last."""
    prefix = f"{KEY}.{name}."
    if isinstance(overrides, Mapping):
        general = {key: value for key, value in overrides.items() if not str(key).startswith(f"{KEY}.")}
        own = {str(key).removeprefix(prefix): value for key, value in overrides.items() if str(key).startswith(prefix)}
        return {**general, **own}
    texts = _each(overrides)
    general_texts = [each for each in texts if not str(each).startswith(f"{KEY}.")]
    return [*general_texts, *(str(each).removeprefix(prefix) for each in texts if str(each).startswith(prefix))]


def hear(draft: Draft, overrides: Sequence[Any] | Mapping[str, Any]) -> None:
    """Note what overrides say of this stage alone."""
    prefix = f"{KEY}.{draft.name}."
    own = (str(each) for each in _each(overrides) if str(each).startswith(prefix))
    draft.said |= {each.partition("=")[0].removeprefix(prefix) for each in own}


def unknown_overrides(names: Sequence[str], overrides: Sequence[Any] | Mapping[str, Any], where: str) -> list[Problem]:
    """Overrides for stages that there are not."""
    keys = [str(each).partition("=")[0] for each in _each(overrides) if str(each).startswith(f"{KEY}.")]
    wrong = [key for key in keys if key.split(".")[1] not in names or key.count(".") < 2]
    return [Problem("config.stage_unknown", where, key, values={"names": ", ".join(names)}) for key in wrong]


def tie(tree: Tree, draft: Draft, shared_name: str, came: Stage | None) -> list[Problem]:
    """Lay down where the stage's run is and what it starts from; says what cannot be tied."""
    place = Place(False, draft.place.line, draft.place.text)
    if not draft.says("run.name"):
        tree.put(("run", "name"), f"{shared_name}-{draft.name}", place)
    if came is None:
        return []
    whole = _written_kind(tree) in ("full", "freeze")
    values = {"name": draft.name, "came": came.name}
    if draft.says("model"):
        return [Problem("config.stage_model", place.text, f"{draft.name}.model", show(tree.at(("model",))), values)]
    if draft.start == "merge":
        if came.whole:
            return [Problem("config.stage_nothing_to_merge", place.text, f"{draft.name}.start", "merge", values)]
        _start_from(tree, f"{came.folder}{MERGED}", place)
        return []
    if came.whole:
        _start_from(tree, str(came.folder / "model"), place)
        return []
    if whole:
        return [Problem("config.stage_needs_merge", place.text, f"{draft.name}.start", draft.start, values)]
    said = ", ".join(f"tune.{key}" for key in ADAPTER_SHAPE if draft.says(f"tune.{key}"))
    if said:
        where = tree.place(tuple(said.split(", ")[0].split("."))) or place
        return [Problem("config.from_settles_shape", where.text, "tune.from", str(came.folder), {"fields": said})]
    # What the shared sections say of an adapter's shape was said of the first stage.
    tree.put(("tune", "from"), str(came.folder), place)
    base = came.config.model
    tree.put(("model", "path"), base.path, place)
    for key, value in (("revision", base.revision), ("init", base.init)):
        _forget(tree, ("model", key))
        if value not in (None, "pretrained"):
            tree.put(("model", key), value, place)
    return []


def same_run(stage: Stage, before: Sequence[Stage], draft: Draft) -> list[Problem]:
    """A stage whose run would be that of an earlier one."""
    also = [each.name for each in before if each.folder == stage.folder]
    if not also:
        return []
    values = {"name": stage.name, "other": also[0]}
    return [Problem("config.stage_run_twice", draft.place.text, f"{stage.name}.run.name", stage.folder.name, values)]


def _written_kind(tree: Tree) -> str:
    tune = tree.at(("tune",))
    return str(tune.get("kind", "lora") if isinstance(tune, dict) else tune or "lora")


def _start_from(tree: Tree, folder: str, place: Place) -> None:
    """Train on a model that an earlier stage left."""
    _forget(tree, ("model", "revision"))
    _forget(tree, ("model", "init"))
    tree.put(("model", "path"), folder, place)


def _forget(tree: Tree, path: tuple[str | int, ...]) -> None:
    holder = tree.at(path[:-1])
    if isinstance(holder, dict):
        holder.pop(path[-1], None)
        tree.places = {at: place for at, place in tree.places.items() if at[: len(path)] != path}


def planned(config: RunConfig, start: Start, came: Stage | None, earlier: Sequence[Stage]) -> RunConfig:
    """The stage's recipe, as far as that can be known before the stages before it are trained: their base has the
    shape of the first one's, and a continued adapter that of the one it continues. A teacher or a reward model that
    one of them trains has the shape of that one's base."""
    config = _asking_bases(config, earlier)
    if came is None:
        return config
    before = came.planned
    update: dict[str, Any] = {"model": before.model.model_copy(update={"dtype": config.model.dtype})}
    if start == "continue" and not came.whole:
        assert isinstance(config.tune, Lora) and isinstance(before.tune, Lora)
        shape = {key: getattr(before.tune, key) for key in (*ADAPTER_SHAPE, "from_")}
        update["tune"] = config.tune.model_copy(update=shape)
    elif before.model.init == "random" and not isinstance(config.tune, Full):
        update["model"] = update["model"].model_copy(update={"init": "pretrained"})
    if config.data.template == "model":  # what the stage before was trained with comes along
        update["data"] = config.data.model_copy(update={"template": before.data.template})
    return config.model_copy(update=update)


def _asking_bases(config: RunConfig, before: Sequence[Stage]) -> RunConfig:
    def base(asked: str) -> str:
        places = (Path(asked), Path("runs") / asked)
        return next((each.planned.model.path for each in before if each.folder in places), asked)

    method = config.method
    if isinstance(method, Distill):
        return config.model_copy(update={"method": method.model_copy(update={"teacher": base(method.teacher)})})
    if isinstance(method, Online):
        judges = {f"{JUDGE}{name}": f"{JUDGE}{base(name)}" for name in method.judges}
        rewards = tuple(judges.get(name, name) for name in method.rewards)
        return config.model_copy(update={"method": method.model_copy(update={"rewards": rewards})})
    return config
