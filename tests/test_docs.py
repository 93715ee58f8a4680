"""The guides say what the code does: examples run, recipes load, commands and links exist, lists are generated.

`python tests/test_docs.py` writes the generated parts of the guides anew.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
import yaml

from luthier import cli, proof
from luthier.arch.families import FAMILIES
from luthier.config import characters
from luthier.config import recipe as recipes
from luthier.config.fields import FIELDS, REQUIRED, SECTIONS
from luthier.config.load import load, stages
from luthier.config.tree import show_flow
from luthier.data import detection
from luthier.data.formats import FORMATS
from luthier.data.readers import READERS, WRAPPERS
from luthier.importing import translate
from luthier.runs.receipt import CHECKS
from luthier.runs.store import FILES
from luthier.text import say, set_language

ROOT = Path(__file__).resolve().parents[1]
GUIDES = (
    "quickstart",
    "recipe",
    "data",
    "runs",
    "preference",
    "python",
    "how-it-works",
    "models",
    "coming-from",
    "preference",
    "reinforcement",
    "planning",
    "export",
    "chat",
    "serve",
    "ui",
    "stages",
    "distillation",
)
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in GUIDES)]
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
"""In the tests a folder of this name, in the current folder, holds a tiny model: folders win over hub ids."""


class Block(NamedTuple):
    """A piece of code in a page. language: empty for indented blocks. heading: the last one before it."""

    page: str
    line: int
    language: str
    text: str
    heading: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    """Fenced blocks, and runs of lines indented by four columns after an empty line."""
    lines = text_of(page).splitlines()
    heading, at = "", 0
    while at < len(lines):
        line = lines[at]
        fence = re.fullmatch(r"```(\w*)", line)
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if fence or (line.startswith("    ") and not lines[at - 1].strip()):
            start = at + 1 if fence else at
            end = start
            while (lines[end] != "```") if fence else (end < len(lines) and lines[end].startswith("    ")):
                end += 1
            body = textwrap.dedent("\n".join(lines[start:end]))
            yield Block(page, start + 1, fence.group(1) if fence else "", body + "\n", heading)
            at = end
        at += 1


def blocks_of(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


# ------------------------------------------------------------------------------------------------ generated parts


def field_list() -> list[str]:
    """Every field of a recipe: what it takes, its default, and its help."""
    lines: list[str] = []
    for section in SECTIONS:
        lines += ["", f"### {section}", "", say(f"config.help.{section}"), ""]
        for field in (each for each in FIELDS.values() if each.section == section):
            facts = [field.takes, "required" if field.default is REQUIRED else f"default {show_flow(field.default)}"]
            if field.kinds and set(field.kinds) != set(SECTIONS[section]):
                facts.append(f"{section} {', '.join(field.kinds)}")
            item = f"- **`{field.name}`** ({'; '.join(facts)}). {field.help}"
            first, *rest = recipes.wrap(item.replace("*.", "\\*."), 118)
            lines += [first, *(f"  {line}" for line in rest)]
    return [*lines[1:], ""]


GENERATED: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "fields": ("docs/recipe.md", field_list),
    "families": ("docs/models.md", lambda: [", ".join(f"`{name}`" for name in FAMILIES)]),
}
"""Marker -> page, and the lines between `<!-- marker: begin -->` and `<!-- marker: end -->`."""


def regenerated(name: str) -> str:
    page, lines = GENERATED[name]
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    before, _, rest = text_of(page).partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"{page} has no marker {begin}"
    return "\n".join([before + begin, *lines(), end + after])


@pytest.mark.parametrize("name", GENERATED)
def test_generated_parts_are_current(name: str) -> None:
    page = GENERATED[name][0]
    assert text_of(page) == regenerated(name), f"{page} is out of date: python tests/test_docs.py"


# ------------------------------------------------------------------------------------------------ running examples


@pytest.fixture
def desk(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the guides' examples run: a model, data and a recipe under the names they use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(tiny_model("qwen2"), tmp_path / MODEL)
    rows = [{"instruction": f"Say {number}.", "output": "One two three."[: 3 + number % 9]} for number in range(24)]
    (tmp_path / "my-data.json").write_text(json.dumps(rows))
    (tmp_path / "desk.jsonl").write_text("".join(f'{{"ask": "Open at {n}?", "say": "Yes."}}\n' for n in range(8)))
    recipe = {"model": MODEL, "data": {"train": "my-data.json"}, "optim": {"steps": 2}, "run": {"name": "first"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    # The proof of the saved files needs a process of its own, which takes longer than all else here.
    monkeypatch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
    return tmp_path


@pytest.mark.parametrize("page", sorted({block.page for block in blocks_of("python")}))
def test_python_runs(page: str, desk: Path) -> None:
    """The blocks of a page run one after the other; one that begins with a file's name is that file too."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in (each for each in blocks(page) if each.language == "python"):
        named = re.match(r"# (\w+\.py)\n", block.text)
        if named:
            (desk / named.group(1)).write_text(block.text)
        # Padding makes the line numbers of a traceback those of the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / page), "exec"), names)


@pytest.mark.parametrize("block", blocks_of("yaml"), ids=lambda block: block.where)
def test_recipes_load(block: Block) -> None:
    """What leaves out model or data is a part, and loads over the least recipe there is."""
    given = yaml.safe_load(block.text)
    if "stages" in given:
        assert stages(given)
        return
    least = {"model": "nano", "data": {"train": "my-data.json"}}
    if {"model", "data"} <= given.keys():
        load(given)
    load(least, given)


def test_examples_load_and_say_how_to_use_them() -> None:
    paths = sorted(path for path in (ROOT / "examples").glob("*.yaml") if path.name != characters.FILE)
    assert len(paths) >= 5
    for path in paths:
        load(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[1].startswith(f"# luthier train examples/{path.name} "), path
        assert command_problem(lines[1].removeprefix("# ")) is None


def test_the_example_s_characters_can_be_talked_to() -> None:
    path = ROOT / "examples" / characters.FILE
    line = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    assert command_problem(line) is None
    found = characters.find(f"{path}:{line.split()[-1]}")
    assert found.system and found.sampling.temperature == 0.7


def test_the_translated_recipe_is_what_import_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs, catalogue, ours = (block for block in blocks("docs/coming-from.md") if block.language in ("text", "yaml"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(catalogue.text)
    (tmp_path / "theirs.yaml").write_text(theirs.text)
    done = translate.translate(tmp_path / "theirs.yaml")
    assert ours.text in done.text
    kinds = {each.key: each.kind for each in done.findings}
    assert kinds == {
        "use_dora": "not yet",
        "template": "changed",
        "cutoff_len": "changed",
        "flash_attn": "not needed",
    }


# ------------------------------------------------------------------------------------------------ data


def json_rows() -> list[Block]:
    return [block for block in blocks("docs/data.md") if block.language == "json"]


def test_every_format_has_an_example_row() -> None:
    assert [block.heading for block in json_rows()] == list(dict.fromkeys(block.heading for block in json_rows()))
    assert {block.heading for block in json_rows()} == set(FORMATS)


@pytest.mark.parametrize("block", json_rows(), ids=lambda block: block.heading)
def test_example_rows_are_of_their_format(block: Block) -> None:
    row = json.loads(block.text)
    assert detection.detect([row])[0] == block.heading
    FORMATS[block.heading].parse(row)
    assert not list(detection.unmapped(block.heading, row))


def test_json_in_the_other_guides_is_data_too() -> None:
    for block in blocks_of("json"):
        rows = json.loads(block.text)
        for row in rows if isinstance(rows, list) else [rows]:
            FORMATS[detection.detect([row])[0]].parse(row)


def test_lists_in_prose_are_complete() -> None:
    data, runs = text_of("docs/data.md"), text_of("docs/runs.md")
    for ending in READERS.keys() - {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"}:
        assert f"`{ending}`" in data
    assert all(f"`{name}`" in data for name in WRAPPERS)
    for name in CHECKS:
        assert f"| `{name}` |" in runs
    internal = {"lock", "stop", "probe.npz", "trackers"}
    for name in FILES.keys() - internal:
        assert f"`{name}" in runs, name


# ------------------------------------------------------------------------------------------------ commands


def command_lines() -> list[tuple[str, str]]:
    """(place, line) of everything that is written as a command: in code blocks, and in backticks in the text."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("", "sh", "bash", "console"):
                found += [(block.where, line.removeprefix("$ ")) for line in block.text.splitlines()]
        found += [(page, span) for span in re.findall(r"`([^`\n]+)`", text_of(page))]
    return [(place, line) for place, line in found if re.match(r"(luthier|\./run) \S", line)]


def command_problem(line: str) -> str | None:
    """Why a line is no command of ours; None where it is one."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["./run", "test"]:
        return None
    command: Any = typer.main.get_command(cli.application())
    rest = words[1:]
    if rest and rest[0] == "VERB":
        return None
    while rest and hasattr(command, "commands"):
        if rest[0] not in command.commands:
            return f"no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    if hasattr(command, "commands"):
        return None if not rest else f"arguments of a group: {rest}"
    options = {name: each for each in command.params for name in each.opts if name.startswith("-")}
    for word in (each for each in rest if each.startswith("--")):
        if word not in {*options, *cli.FLAGS, "--help"}:
            return f"no option {word}"
    for word in rest:
        name, equals, _ = word.partition("=")
        if equals and command.name != "merge" and not word.startswith("-") and name not in {*FIELDS, *SECTIONS}:
            return f"no field {name}"
    if command.name == "help" and rest and not recipes.find(rest[0]):
        return f"no field {rest[0]}"
    return None


@pytest.mark.parametrize(("place", "line"), command_lines())
def test_commands_exist(place: str, line: str) -> None:
    assert command_problem(line) is None, f"{place}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        "luthier trian recipe.yaml",
        "luthier train --fast",
        "./run train a.yaml tune.rnak=3",
        "luthier runs list all runs x=1",
    ],
)
def test_wrong_commands_are_noticed(line: str) -> None:
    assert command_problem(line) is not None


def test_the_guides_tell_of_every_command() -> None:
    told = " ".join(line for _, line in command_lines())
    missing = [name for name in cli.COMMANDS if not re.search(rf"(luthier|\./run) {name}\b", told)]
    assert not missing


# ------------------------------------------------------------------------------------------------ links and names


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|md|yaml|svg))`", text_of(page)):
        if not name.startswith(("runs/", "./", "/")):
            assert (ROOT / name).exists() or (ROOT / "luthier" / name).exists(), f"{page}: {name}"


def test_named_fields_exist() -> None:
    for page in PAGES:
        for name in re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)(?:[:=][^`]*)?`", text_of(page)):
            assert name in FIELDS or name.endswith((".json", ".jsonl", ".yaml", ".py")), f"{page}: {name}"


def test_the_first_guide_leads_to_every_other() -> None:
    assert "](docs/)" in text_of("README.md")
    linked = set(re.findall(r"\]\(([\w-]+)\.md", text_of("docs/quickstart.md")))
    assert linked == set(GUIDES) - {"quickstart"}


def test_pages_are_narrow_and_clean() -> None:
    for page in PAGES:
        for number, line in enumerate(text_of(page).splitlines(), 1):
            assert len(line) <= 120 or "|" in line, f"{page}:{number}"
            assert line == line.rstrip(), f"{page}:{number}"


if __name__ == "__main__":
    set_language("en")
    for marker, (target, _) in GENERATED.items():
        (ROOT / target).write_text(regenerated(marker), encoding="utf-8")
