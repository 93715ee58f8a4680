"""What can be ordered as a job: for each kind its fields, and the command that they come to.

What goes in: checked requests. What comes out: arguments for the command line. None of a request's values can be read
as an option: paths are absolute, all else stands behind the name of its option and an equals sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.web.house import House

RECIPE = "recipe.yaml"
"""In the job's folder, where the request brings a recipe."""
Key = Annotated[str, Field(min_length=8, max_length=200, description="Made by the client: the same key is one job.")]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w.-]+$")]


class Ordered(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: Key


class OfRun(Ordered):
    run: Text

    def target(self, house: House) -> str:
        return str(house.run(self.run).path)


class Check(Ordered):
    """Check a data file, or the data of a recipe (YAML); of one with stages, of one of them."""

    kind: Literal["check"]
    path: Text | None = None
    recipe: str | None = None
    format: Name | None = None
    stage: Name | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Check:
        if (self.path is None) == (self.recipe is None):
            raise ValueError("give either path or recipe")
        if self.stage is not None and self.recipe is None:
            raise ValueError("only a recipe has stages")
        return self

    def command(self, house: House, folder: Path) -> Sequence[str]:
        what = folder / RECIPE if self.path is None else house.inside(self.path)
        return "data", "check", str(what), *given("format", self.format), *of_stage(self.stage)


class Show(Ordered):
    """What of a recipe's rows is learnt, token by token."""

    kind: Literal["show"]
    recipe: str
    first: int = Field(default=1, ge=1)
    rows: int = Field(default=3, ge=1, le=100)
    stage: Name | None = None

    def command(self, house: House, folder: Path) -> Sequence[str]:
        which = (*given("first", self.first), *given("rows", self.rows))
        return "data", "show", str(folder / RECIPE), *which, *of_stage(self.stage)


class Demo(Ordered):
    """Tune the shipped model on shipped rows."""

    kind: Literal["demo"]

    def command(self, house: House, folder: Path) -> Sequence[str]:
        return "demo", *given("dir", house.runs_dir)


class Doctor(Ordered):
    """What this machine has and lacks."""

    kind: Literal["doctor"]

    def command(self, house: House, folder: Path) -> Sequence[str]:
        return ("doctor",)


class Verify(OfRun):
    """Compute the receipt's checks again."""

    kind: Literal["verify"]

    def command(self, house: House, folder: Path) -> Sequence[str]:
        return "runs", "verify", self.target(house)


class Reproduce(OfRun):
    """Train again and compare the bits."""

    kind: Literal["reproduce"]

    def command(self, house: House, folder: Path) -> Sequence[str]:
        return "runs", "reproduce", self.target(house)


class Merge(OfRun):
    """Merge an adapter into its base. out: below the page's folder."""

    kind: Literal["merge"]
    strength: float | None = Field(default=None, allow_inf_nan=False)
    force: bool = False
    out: Text | None = None

    def command(self, house: House, folder: Path) -> Sequence[str]:
        strength = "" if self.strength is None else f"={self.strength}"
        return "merge", self.target(house) + strength, *switch("force", self.force), *below("out", house, self.out)


class Export(OfRun):
    """Write GGUF files. types: of the model; lora_type: of the adapter by itself."""

    kind: Literal["export"]
    types: list[Name] = []
    lora_type: Name | None = None
    ollama: bool = False
    out: Text | None = None

    def command(self, house: House, folder: Path) -> Sequence[str]:
        what = (*given("gguf", ",".join(self.types) or None), *given("lora-gguf", self.lora_type))
        return "export", self.target(house), *what, *switch("ollama", self.ollama), *below("out", house, self.out)


class Push(OfRun):
    """Bring a run to a hub."""

    kind: Literal["push"]
    repo: Text
    what: Literal["adapter", "model", "gguf"] | None = None
    public: bool = False
    add: bool = False
    dry_run: bool = False

    def command(self, house: House, folder: Path) -> Sequence[str]:
        how = (*given("what", self.what), *switch("public", self.public), *switch("add", self.add))
        return "push", self.target(house), *given("repo", self.repo), *how, *switch("dry-run", self.dry_run)


Order = Annotated[
    Check | Show | Demo | Doctor | Verify | Reproduce | Merge | Export | Push, Field(discriminator="kind")
]


def given(option: str, value: object) -> list[str]:
    return [] if value is None else [f"--{option}={value}"]


def switch(option: str, wanted: bool) -> list[str]:
    return [f"--{option}"] if wanted else []


def of_stage(name: str | None) -> list[str]:
    return [] if name is None else [f"stage={name}"]


def below(option: str, house: House, path: str | None) -> list[str]:
    return [] if path is None else given(option, house.inside(path))


def routes(house: House) -> APIRouter:
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs")
    def listed() -> dict[str, Any]:
        """All jobs, the last one first."""
        return {"jobs": [job.to_json() for job in house.jobs.listed(whole=True)]}

    @router.post("/jobs")
    def order(asked: Order) -> dict[str, Any]:
        arguments = asked.model_dump(mode="json", exclude={"key", "kind"}, exclude_unset=True)
        text = asked.recipe if isinstance(asked, (Check, Show)) else None
        job = house.jobs.start(
            asked.kind,
            asked.key,
            arguments,
            lambda folder: asked.command(house, folder),
            {} if text is None else {RECIPE: text},
            asked.run if isinstance(asked, OfRun) else None,
        )
        return job.to_json()

    @router.get("/jobs/{id}")
    def one(id: str) -> dict[str, Any]:
        return house.jobs.one(id).to_json()

    @router.delete("/jobs/{id}")
    def cancel(id: str) -> dict[str, Any]:
        """As Ctrl-C does; asked a second time it is ended at once."""
        return house.jobs.cancel(id).to_json()

    return router
