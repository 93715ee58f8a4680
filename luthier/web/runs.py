"""Runs over HTTP: what there is, how it goes, and what can be asked of it.

What goes in: a `House`. What comes out: routes; each action is the queue's, or one of `luthier runs`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from luthier import __version__, queue, supervisor
from luthier.config import load
from luthier.config.load import Reading
from luthier.errors import ConfigError, Problem, RunError, UserError
from luthier.runs import commands, files, turns
from luthier.runs import receipt as receipts
from luthier.runs.recipe import difference, proposed_name, run_name
from luthier.runs.store import RunFolder
from luthier.text import language
from luthier.web.answers import Answer
from luthier.web.house import House
from luthier.web.refusals import Busy, Missing
from luthier.web.ship import made
from luthier.web.tail import Stream

POINTS = 1500
"""Of a curve: more than a screen has columns."""
LOG_BYTES = 64 * 2**10
RECIPE = "recipe.yaml"
"""What a recipe that is sent is called in messages."""


class Submission(BaseModel):
    """recipe: its YAML text, or its values. key: made by the client; the same key is the same run."""

    model_config = ConfigDict(extra="forbid")
    recipe: str | dict[str, Any]
    key: str = Field(min_length=8, max_length=200)


class Length(BaseModel):
    """The new number of steps or of epochs, in all."""

    model_config = ConfigDict(extra="forbid")
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, ge=0, allow_inf_nan=False)


def routes(house: House) -> APIRouter:
    router = APIRouter()
    _overview(router, house)
    _one(router, house)
    _told(router, house)
    _actions(router, house)
    return router


def _overview(router: APIRouter, house: House) -> None:
    board = house.board

    @router.get("/state")
    def state() -> Answer:
        value = {
            "version": __version__,
            "language": language(),
            "home": str(house.home),
            "runs_dir": str(house.runs_dir),
            "base": house.base,
            "devices": board.devices(),
            "disk": board.disk(),
            "extras": {"gguf": find_spec("xllamacpp") is not None},
        }
        return Answer(value)

    @router.get("/overview", response_class=StreamingResponse)
    async def overview() -> Stream:
        """{runs, devices, disk, jobs}, at once and whenever something has changed."""
        return board.stream()

    @router.get("/runs")
    def runs() -> Answer:
        return Answer(files.plain({"runs": board.runs()}))

    @router.get("/compare")
    def compare(
        run: Annotated[list[str], Query(max_length=20)], points: Annotated[int, Query(ge=10, le=20_000)] = POINTS
    ) -> Answer:
        """What differs between runs: in their recipes, in what went in, and in what came out. Curves of steps are
        thinned to so many points."""
        runs = [house.run(each) for each in run]
        logs = [house.tails.of(each.name).look(lambda history: commands.told(history, points)) for each in runs]
        return Answer(commands.compare(runs, logs).value)


# ---------------------------------------------------------------------------------------------------- one run


def _one(router: APIRouter, house: House) -> None:
    @router.get("/runs/{name}")
    def run(name: str) -> Answer:
        return Answer(files.plain(_whole(house, house.run(name))))

    @router.get("/runs/{name}/receipt")
    def receipt(name: str) -> Answer:
        """Its checks with what each promises, in the language of the request."""
        folder = house.run(name)
        found = receipts.load(folder)
        if found is None:
            raise Missing(Problem("runs.file_missing", where="receipt.json"))
        checks = [{**asdict(check), "sentence": check.sentence} for check in found.checks]
        return Answer({"receipt": {**found.to_json(), "checks": checks}, "markdown": _text_of(folder, "receipt.md")})

    @router.get("/runs/{name}/log")
    def log(name: str, bytes: Annotated[int, Query(ge=1, le=2**23)] = LOG_BYTES) -> Answer:
        """The last lines of what its processes said, where the queue started them."""
        return Answer({"text": supervisor.last_words(house.run(name).path, bytes)})


def _whole(house: House, run: RunFolder) -> dict[str, Any]:
    problems: list[Problem] = []
    value = house.board.run(run.name)
    try:
        config = load.resolved(run.config())
    except UserError as error:
        config, problems = None, [*error.problems]
    kept: dict[str, Any] = {}
    for name in ("manifest.json", "plan.json"):
        try:
            kept[name] = run.read_json(name) if run.has(name) else None
        except RunError as error:
            kept[name], problems = None, [*problems, *error.problems]
    return {
        **value,
        "config": config,
        "yaml": _text_of(run, "recipe.yaml"),
        "manifest": kept["manifest.json"],
        "plan": kept["plan.json"],
        "outputs": [{name: each[name] for name in ("what", "path", "bytes")} for each in made(run)],
        "attempts": [asdict(each) for each in house.tails.of(run.name).numbers().summary.attempts],
        "checkpoints": run.checkpoints(),
        "best_steps": run.bests(),
        "problems": [each.to_json() for each in problems],
    }


def _text_of(run: RunFolder, name: str) -> str:
    try:
        return (run.path / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ---------------------------------------------------------------------------------------------------- its story


def _told(router: APIRouter, house: House) -> None:
    @router.get("/runs/{name}/history")
    def history(
        name: str,
        points: Annotated[int, Query(ge=10, le=20_000)] = POINTS,
        first: Annotated[int | None, Query(alias="from")] = None,
        last: Annotated[int | None, Query(alias="to")] = None,
    ) -> Answer:
        """Steps as columns, thinned to so many points between two steps, the lowest and the highest losses among them;
        validations and rollouts; the last of all other events, and how many there are before them; `last`, to follow
        the events from."""
        return Answer(house.tails.of(house.run(name).name).shown(points, first, last))

    @router.get("/runs/{name}/told")
    def told(name: str, before: Annotated[int, Query(ge=1, le=2**62)]) -> Answer:
        """The last events that are no steps before the one of this number, and how many there are before them."""
        return Answer(house.tails.of(house.run(name).name).before(before))

    @router.get("/runs/{name}/events", response_class=StreamingResponse)
    async def events(
        name: str, after: str = "0", last_event_id: Annotated[str | None, Header(max_length=30)] = None
    ) -> Stream:
        """Each event behind the one of this number, and new ones as they come; `event: end` where all is told."""
        given = last_event_id if last_event_id is not None else after
        known = int(given) if given.isascii() and given.isdigit() and len(given) < 19 else 0
        return house.tails.stream(house.run(name).name, known)


# ---------------------------------------------------------------------------------------------------- actions


def _actions(router: APIRouter, house: House) -> None:
    desk = Desk(house)

    @router.post("/runs")
    def submit(asked: Submission) -> dict[str, Any]:
        """Put a run into the queue, or a run for each stage of a recipe. The same key, or the same recipe under the
        same name, is the same run."""
        return desk.submit(asked.recipe, asked.key)

    @router.post("/runs/{name}/stop")
    def stop(name: str) -> dict[str, Any]:
        """Have it save and stop after its current step; one that waits leaves the queue."""
        run = house.run(name)
        if not (run.state == "queued" and queue.withdraw(run)):
            commands.stop(run)
        return {"state": run.state}

    @router.post("/runs/{name}/resume")
    def resume(name: str) -> dict[str, Any]:
        run = house.run(name)
        if not run.active:
            queue.again(run)
        supervisor.ensure(house.runs_dir)
        return {"state": run.state}

    @router.post("/runs/{name}/first")
    def first(name: str) -> dict[str, Any]:
        """Bring one that waits to the front."""
        run = house.run(name)
        queue.first(run)
        return {"state": run.state}

    @router.post("/runs/{name}/extend")
    def extend(name: str, asked: Length) -> dict[str, Any]:
        """Make it longer; a resume then trains on."""
        run = house.run(name)
        commands.extend(run, steps=asked.steps, epochs=asked.epochs)
        return {"state": run.state}


class Desk:
    """Takes submissions, one at a time."""

    def __init__(self, house: House) -> None:
        self._house, self._guard = house, threading.Lock()

    def submit(self, recipe: str | Mapping[str, Any], key: str) -> dict[str, Any]:
        """name: of the run; of a recipe with stages, of the first one that is not finished. place: in the queue. runs:
        of all stages, in order.

        Raises UserError where it cannot be used; Busy where another run has its name."""
        kept = self._house.cache / "keys" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        with self._guard:
            known = self._runs_of(kept)
            if known is None:
                known = self._put(self._placed(recipe), kept)
        supervisor.ensure(self._house.runs_dir)
        waiting = [each["run"] for each in queue.listing()]
        run = next((each for each in known if not turns.done(each)), known[-1])
        place = waiting.index(str(run.path)) + 1 if str(run.path) in waiting else None
        return {"name": run.name, "place": place, "runs": [each.name for each in known]}

    def _runs_of(self, kept: Path) -> list[RunFolder] | None:
        """The runs that a key has made; None where there were none, or one is gone."""
        try:
            return [self._house.run(str(name)) for name in files.read_json(kept)["runs"]]
        except (RunError, KeyError, TypeError):
            return None

    def _put(self, reading: Reading, kept: Path) -> list[RunFolder]:
        runs = [RunFolder(self._house.runs_dir / run_name(config)) for config in reading.configs]
        active = [run.has("recipe.yaml") and run.active for run in runs]
        for run, config, is_active in zip(runs, reading.configs, active, strict=True):
            if is_active and difference(run.config(), load.settle(config)):
                values = {"name": run.name, "free": proposed_name(reading, self._house.runs_dir)}
                raise Busy(Problem("runs.exists", where=str(run.path), field="run.name", values=values))
        if reading.config is None:
            queue.submit_stages(reading.stages, self._house.home)
        elif not active[0]:
            queue.submit(load.settle(reading.config), self._house.home)
        # Afterwards: where this is cut off in between, asking again finds the runs by their names.
        with files.user_errors(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(kept, {"runs": [run.name for run in runs]})
        return runs

    def _placed(self, recipe: str | Mapping[str, Any]) -> Reading:
        """The recipe, aimed at the folder whose runs are shown; told as the recipe would, from the home folder, so
        that the whole can be moved."""
        home, runs_dir = self._house.home, self._house.runs_dir
        text = recipe if isinstance(recipe, str) else json.dumps(recipe)  # which is YAML too
        found = load.read(text, RECIPE)
        if found.problems:
            raise ConfigError(found.problems)
        for config in found.configs:
            given = config.run.dir
            if "dir" in config.run.model_fields_set and (home / given).resolve() != runs_dir:
                raise ConfigError(Problem("web.other_dir", field="run.dir", value=given, values={"folder": runs_dir}))
        near = runs_dir.is_relative_to(home) and Path.cwd() == home
        return load.read(text, RECIPE, {"run.dir": str(runs_dir.relative_to(home)) if near else str(runs_dir)})
