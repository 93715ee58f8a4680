"""Recipes while they are made: fields, presets, the text both ways, the plan, the models that there are.

What goes in: a `House`. What comes out: routes. All of them read `luthier.config`, `luthier.paper` and `config.json`;
none loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Query

from luthier.config import load, presets, recipe
from luthier.config.fields import DEFAULT_KINDS, FIELDS, SECTIONS
from luthier.config.load import Reading, environment
from luthier.config.schema import RunConfig
from luthier.config.stages import Stage
from luthier.config.tree import has_comment
from luthier.data.formats import FORMATS
from luthier.data.renaming import TARGETS
from luthier.errors import Problem, UserError
from luthier.models import library
from luthier.paper import lines, outlook
from luthier.paper.kept import Kept
from luthier.paper.rows import RowFacts, of_check
from luthier.runs.recipe import proposed_name
from luthier.text import say
from luthier.web.answers import Answer
from luthier.web.house import House

TEXT_CHARACTERS = 64 * 2**10
"""Of a recipe: one with every field's help as a comment has 18,000. So many settings take 1.5 s to be read."""
PATIENCE_S = 30.0
"""How old an answer of a hub or a GPU's driver may be while a recipe is edited; chosen, not tuned."""
ROLES = ("system", "user", "assistant", "tool", "function_call")
"""What the role names of a file can be mapped to."""

Text = Annotated[str, pydantic.StringConstraints(max_length=TEXT_CHARACTERS)]


def _bounded(given: Any) -> Any:
    if len(json.dumps(given)) > TEXT_CHARACTERS:
        raise ValueError(f"at most {TEXT_CHARACTERS} characters")
    return given


Values = Annotated[dict[str, Any], pydantic.AfterValidator(_bounded)]
Changes = Annotated[dict[str, Any] | list[str], pydantic.AfterValidator(_bounded)]


class _Asked(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class RecipeAsked(_Asked):
    """yaml: the text; values: fields in its place, nested or with dotted names; changes: laid over either as overrides
    are, null leaves a field open."""

    yaml: Text = ""
    values: Values | None = None
    changes: Changes | None = None


class Rows(_Asked):
    """What a check of the data counted: tokens of the longest row, tokens and learnt tokens of a row on average, and
    rows learnt in an epoch."""

    longest: int = pydantic.Field(ge=1)
    tokens: float = pydantic.Field(ge=1)
    scored: float = pydantic.Field(ge=1)
    rows: int = pydantic.Field(ge=1)


class PlanAsked(_Asked):
    """recipe: its text, or its values; device: of the planner's table, this machine's where none is named; rows: of all
    its stages alike, or of each by its name."""

    recipe: Text | Values
    changes: Changes | None = None
    device: str | None = pydantic.Field(default=None, max_length=200)
    rows: Rows | dict[str, Rows] | None = None


def routes(house: House) -> APIRouter:
    router = APIRouter(tags=["recipes"], default_response_class=Answer)
    _tables(router)
    _recipes(router, house)
    _models(router, house)
    return router


def _tables(router: APIRouter) -> None:
    @router.get("/fields")
    def fields() -> dict[str, Any]:
        """Every field of a recipe, by section, with its help in the language of the request."""
        return {"sections": [_section(name, kinds) for name, kinds in SECTIONS.items()]}

    @router.get("/presets")
    def starting_points() -> dict[str, Any]:
        """Three sets of settings to start from, as changes to a recipe."""
        return {"presets": presets.listing()}

    @router.get("/formats")
    def formats() -> dict[str, Any]:
        """The formats of data files, and the names that columns and roles can be given."""
        known = [{"name": name, "required": form.required, "optional": form.optional} for name, form in FORMATS.items()]
        return {"formats": known, "targets": sorted(TARGETS), "roles": ROLES}


def _section(name: str, kinds: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "help": say(f"config.help.{name}"),
        "kinds": [kind for kind in kinds if kind],
        "default_kind": DEFAULT_KINDS.get(name),
        "fields": [{"key": each.key, **recipe.values(each)} for each in FIELDS.values() if each.section == name],
    }


# ---------------------------------------------------------------------------------------------------- recipes


def _recipes(router: APIRouter, house: House) -> None:
    kept = Kept(PATIENCE_S)

    @router.post("/recipe")
    def read(asked: RecipeAsked) -> dict[str, Any]:
        """A recipe with changes laid over it, what it means, and all that is wrong with it."""
        text, unsaid = _text(asked.yaml, asked.values, asked.changes)
        reading = load.read(text, say("config.where.recipe"))
        name, problems = _name(house, reading)
        return {
            "yaml": text,
            "readable": reading.readable,
            "values": reading.values,
            "resolved": load.resolved(reading.config) if reading.config else None,
            "stages": [_stage(stage) for stage in reading.stages],
            "name": name,
            "comments_lost": text != asked.yaml and has_comment(asked.yaml),
            "problems": [_told(each) for each in (*unsaid, *problems)],
        }

    @router.post("/plan")
    def plan(asked: PlanAsked) -> dict[str, Any]:
        """Memory and time of a recipe, before any weight is loaded; of a recipe with stages, of each, and first of
        the one that needs most."""
        given = asked.recipe
        text, unsaid = _text(given, None, asked.changes) if isinstance(given, str) else _text("", given, asked.changes)
        reading = load.read(text, say("config.where.recipe"))
        if unsaid or reading.problems:
            return _unplanned((*unsaid, *reading.problems))
        configs = {stage.name: stage.planned for stage in reading.stages}
        if reading.config is not None:
            configs = {"": reading.config}
        try:
            made = {name: _planned(house, config, asked, name, kept) for name, config in configs.items()}
        except UserError as error:
            return _unplanned(error.problems)
        most = max(made, key=lambda name: (not made[name].fits, made[name].memory.peak_bytes))
        told = {
            name: {"name": name, "plan": plan.to_json(), "lines": lines.lines(plan, configs[name])}
            for name, plan in made.items()
        }
        return {**told[most], "stages": list(told.values()) if reading.stages else [], "problems": []}


def _text(text: str, values: dict[str, Any] | None, changes: Changes | None) -> tuple[str, tuple[Problem, ...]]:
    """A recipe's text with what is to be laid over it."""
    unsaid: tuple[Problem, ...] = ()
    for each in (values, changes):
        if each is not None:
            text, wrong = recipe.changed(text, each, say("config.where.recipe"))
            unsaid += wrong
    return text, unsaid


def _stage(stage: Stage) -> dict[str, Any]:
    """A stage as it will be trained."""
    facts = {"name": stage.name, "from": stage.from_, "start": stage.start, "run": stage.config.run.name}
    return {**facts, "resolved": load.resolved(stage.config)}


def _name(house: House, reading: Reading) -> tuple[str | None, tuple[Problem, ...]]:
    """What the run would be called, with a number where that is taken; and all that is wrong with the recipe."""
    if reading.problems:
        return None, reading.problems
    try:
        return proposed_name(reading, house.runs_dir), ()
    except UserError as error:
        return None, error.problems


def _unplanned(problems: Sequence[Problem]) -> dict[str, Any]:
    told = [_told(each) for each in problems]
    return {"name": None, "plan": None, "lines": [], "stages": [], "problems": told}


def _planned(house: House, config: RunConfig, asked: PlanAsked, stage: str, kept: Kept) -> outlook.Outlook:
    rows = asked.rows.get(stage) if isinstance(asked.rows, dict) else asked.rows
    facts = of_check(config, RowFacts(**rows.model_dump())) if rows else None
    placed = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(house.runs_dir)})})
    return outlook.plan(placed, asked.device, home=house.home, facts=facts, kept=kept)


def _told(problem: Problem) -> dict[str, Any]:
    """A problem, with the line of the recipe that it stands in."""
    line = problem.where.rpartition(":")[2]
    return {**problem.to_json(), "line": int(line) if line.isdigit() else None}


# ---------------------------------------------------------------------------------------------------- models


def _models(router: APIRouter, house: House) -> None:
    @router.get("/models")
    def models() -> dict[str, Any]:
        """The base models on this machine."""
        found = library.find(house.home, house.runs_dir, environment())
        return {"models": [each.to_json() for each in found]}

    @router.get("/models/about")
    def about(path: Annotated[str, Query(min_length=1)]) -> dict[str, Any]:
        """One base model, by what a recipe calls it; of one on a hub the configuration is fetched."""
        return library.about(path, environment(), house.home, house.runs_dir).to_json()
