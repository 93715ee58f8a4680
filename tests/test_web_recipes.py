"""The page's recipes: fields as the schema has them, the text both ways, plans, models; nothing heavy is loaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hub_server import Hub, Repo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_house import client, heavy_after, house, place

from luthier import machine
from luthier.config import presets
from luthier.config.fields import FIELDS, REQUIRED, SECTIONS, Bounds, of_kind
from luthier.config.load import load, read, resolved, stages
from luthier.config.recipe import changed
from luthier.config.tree import has_comment
from luthier.data.template_files import BUILT_IN
from luthier.errors import ConfigError, ModelError, Problem
from luthier.models import hub
from luthier.paper import lines, outlook
from luthier.paper.kept import Kept

__all__ = ["place"]
ROOT = Path(__file__).resolve().parents[1]
WHOLE = "model: nano\ndata:\n  train: a.json\n"
LLAMA = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


@pytest.fixture
def page(place: Path) -> TestClient:
    return client(house(place))


@pytest.fixture(autouse=True)
def _rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine can do is measured once where it matters, not in each test."""
    monkeypatch.setattr(machine, "float32_gflops", lambda: 100.0)
    monkeypatch.setattr(machine, "gpus", tuple)


def ask(page: TestClient, what: str, **body: Any) -> dict[str, Any]:
    answer = page.post(f"/api/{what}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def model(folder: Path, **config: Any) -> Path:
    """A model's folder, as far as it is looked at before it is loaded."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


# ------------------------------------------------------------------------------------------------------ fields

KINDS = [(section, kind) for section, kinds in SECTIONS.items() for kind in kinds]
WORDS = {"boolean": "switch", "integer": "whole", "number": "number", "string": "text", "array": "list"}
OPEN = {"format", "template", "rewards"}
"""Fields whose words are in no schema, because they take others too."""


def variants(property: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in property.get("anyOf", [property]) if each.get("type") != "null"]


def type_of(property: dict[str, Any]) -> str:
    """What pydantic's JSON schema says of a field, in the page's words."""
    types = set()
    for each in variants(property):
        if "enum" in each or "const" in each:
            continue
        source = "$ref" in each.get("items", {})
        types.add("source" if source else WORDS.get(each["type"], "other"))
    return next(iter(types)) if len(types) == 1 else "other" if types else "choice"


def words_of(property: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for each in variants(property):
        for inner in (each, each.get("items", {})):
            found |= {*inner.get("enum", []), *([inner["const"]] if "const" in inner else [])}
    return found


def bounds_of(property: dict[str, Any]) -> Bounds:
    limits: dict[str, Any] = {}
    for each in variants(property):
        inner = each.get("items") or next(iter(each.get("prefixItems", [])), None) or each
        for word in ("minimum", "maximum"):
            capital = word.capitalize()
            if word in inner:
                limits |= {word: inner[word]}
            if f"exclusive{capital}" in inner:
                limits |= {word: inner[f"exclusive{capital}"], f"exclusive_{word}": True}
    return Bounds(**limits)


@pytest.mark.parametrize(("section", "kind"), KINDS)
def test_every_field_is_as_the_schema_says(page: TestClient, section: str, kind: str) -> None:
    """Held to the JSON schema that pydantic makes of the same class."""
    answer = next(each for each in page.get("/api/fields").json()["sections"] if each["name"] == section)
    schema = SECTIONS[section][kind].model_json_schema()
    told = {}
    for field in answer["fields"]:
        if not field["kinds"] or kind in field["kinds"]:
            told[field["name"].removeprefix(f"{section}.")] = field | field["by_kind"].get(kind, {})
    properties = dict(schema["properties"])
    if section == "data":
        of_source = schema["$defs"]["Source"]
        properties |= {f"train.{key}": each for key, each in of_source["properties"].items()}
    assert told.keys() == properties.keys()
    required = {*schema.get("required", ()), *(["train.path"] if section == "data" else [])}
    for key, property in properties.items():
        field = told[key]
        words = set(SECTIONS[section]) if key == "kind" and len(SECTIONS[section]) > 1 else words_of(property)
        assert field["type"] == type_of(property), key
        assert set(field["choices"]) == words or field["key"] in OPEN, key
        assert Bounds(**{name: field[name] for name in Bounds.__dataclass_fields__}) == bounds_of(property), key
        assert field["required"] == (key in required), key
        if key != "kind" or len(SECTIONS[section]) == 1:
            assert field["default"] == property.get("default"), key
        assert (field["unset"] is not None) == any(e.get("type") == "null" for e in property.get("anyOf", [])), key


NUMBERS = [
    (section, kind, alias)
    for section, kind in KINDS
    for key, info in SECTIONS[section][kind].model_fields.items()
    if of_kind(f"{section}.{(alias := info.alias or key)}", kind).type in ("whole", "number")
]


@pytest.mark.parametrize(("section", "kind", "alias"), NUMBERS)
def test_bounds_are_where_the_schema_refuses(section: str, kind: str, alias: str) -> None:
    field = of_kind(f"{section}.{alias}", kind)
    required = {"path": "x", "train": "x", "teacher": "x", "rewards": "exact"}
    needed = {each: required[each] for each in required if each in SECTIONS[section][kind].model_fields}

    def takes(value: float) -> bool:
        try:
            SECTIONS[section][kind].model_validate(needed | {alias: value})
        except ValueError:
            return False
        return True

    step = 1 if field.type == "whole" else 1e-6
    low, high = field.bounds.minimum, field.bounds.maximum
    assert low is not None, "no number of a recipe may be whatever it likes"
    assert takes(low) != field.bounds.exclusive_minimum and not takes(low - step) and takes(low + step)
    if high is not None:
        assert takes(high) != field.bounds.exclusive_maximum and not takes(high + step) and takes(high - step)


def test_bounds_of_several_kinds_hold_those_of_each() -> None:
    low, high = Bounds(1, 5), Bounds(0, 9, exclusive_minimum=True)
    assert low.union(high) == high.union(low) == Bounds(0, 9, True)
    assert Bounds(1, 5).union(Bounds(1, 5, True, True)) == Bounds(1, 5)
    assert Bounds(1).union(Bounds()) == Bounds()


def test_words_that_others_may_stand_beside_are_those_that_are_read() -> None:
    assert FIELDS["data.template"].choices == ("model", *BUILT_IN)


def test_fields_are_told_in_the_page_s_language(page: TestClient) -> None:
    for language, word in (("en", "How many times"), ("zh", "几遍"), ("fr", "How many times")):
        answer = page.get("/api/fields", headers={"X-Language": language}).json()
        optim = next(each for each in answer["sections"] if each["name"] == "optim")
        epochs = next(each for each in optim["fields"] if each["key"] == "epochs")
        assert word in epochs["help"]


# ----------------------------------------------------------------------------------------------------- presets


def test_three_presets_suffice(page: TestClient) -> None:
    found = page.get("/api/presets").json()["presets"]
    assert [each["id"] for each in found] == ["quick", "balanced", "thorough"]
    assert all(each["help"] and each["name"] for each in found)
    # Choosing another takes back what the one before has set.
    assert len({tuple(each["values"]) for each in found}) == 1
    assert all(name in FIELDS for each in found for name in each["values"])


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_right_for_nano(page: TestClient, name: str) -> None:
    answer = ask(page, "recipe", yaml=WHOLE, changes=presets.PRESETS[name])
    assert answer["problems"] == []
    flat = {f"{section}.{key}": value for section, of in answer["resolved"].items() for key, value in of.items()}
    for field, value in presets.PRESETS[name].items():
        assert flat[field] == value or (value is None and FIELDS[field].optional), field
    assert ask(page, "plan", recipe=answer["yaml"])["plan"]["memory"]["fits"]


def test_one_preset_after_another_leaves_nothing_behind(page: TestClient) -> None:
    text = WHOLE
    for name in ("thorough", "quick", "balanced"):
        text = ask(page, "recipe", yaml=text, changes=presets.PRESETS[name])["yaml"]
    assert text == WHOLE


@pytest.mark.parametrize("kind", SECTIONS["method"])
def test_presets_go_with_every_method(kind: str) -> None:
    more = {
        "distill": {"method.teacher": "nano"},
        "grpo": {"method.rewards": "exact"},
        "ppo": {"method.rewards": "json"},
    }
    for values in presets.PRESETS.values():
        config = load(None, {"model": "nano", "data.train": "a.json", "method": kind, **more.get(kind, {}), **values})
        assert config.learning_rate > 0


# ------------------------------------------------------------------------------------------------- text, both ways


def recipes() -> Iterator[Any]:
    """Every recipe that the project shows or ships."""
    for path in (*sorted(ROOT.glob("luthier/nano/recipes/*.yaml")), *sorted(ROOT.glob("examples/*.yaml"))):
        if path.name != "characters.yaml":
            yield pytest.param(path.read_text(encoding="utf-8"), id=path.name)
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
        text = page.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.M | re.S)):
            yield pytest.param(textwrap.dedent(block), id=f"{page.name}-{number}")


RECIPES = list(recipes())


def test_there_are_recipes_to_try() -> None:
    assert len(RECIPES) > 25


def essence(answer: dict[str, Any]) -> list[Any]:
    """What a recipe means, or what is wrong with it."""
    problems = sorted([each["id"], each["field"], each["value"]] for each in answer["problems"])
    return [answer["resolved"], answer["stages"], problems, answer["readable"]]


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_comes_back_as_it_went(page: TestClient, text: str) -> None:
    first = ask(page, "recipe", yaml=text)
    assert first["yaml"] == text and not first["comments_lost"]
    made = ask(page, "recipe", values=first["values"])
    assert essence(made) == essence(first)
    again = ask(page, "recipe", values=made["values"])
    assert again["yaml"] == made["yaml"] and again["values"] == made["values"]
    # What was written stays written, with or without a change beside it.
    kept = ask(page, "recipe", yaml=text, changes={})
    assert kept["values"] == first["values"] and essence(kept) == essence(first)
    assert kept["comments_lost"] == has_comment(text)
    if not first["problems"] and not first["stages"]:
        assert resolved(load(first["values"])) == first["resolved"]


def test_a_recipe_is_written_as_people_do(page: TestClient) -> None:
    values = {
        "run.name": "first",
        "optim": {"lr": 2e-4, "epochs": 3, "betas": [0.9, 0.95], "steps": None},
        "tune": "qlora",
        "data.train": [
            {"path": "a.json", "weight": 1.0},
            {"path": "b.json", "weight": 2, "columns": {"output": "Antwort"}},
        ],
        "data.system": "You are kind.\nYou are short.\n",
        "model": {"path": "nano"},
        "method.kind": "sft",
    }
    assert ask(page, "recipe", values=values)["yaml"] == (
        "model: nano\n"
        "data:\n"
        "  train:\n"
        "    - a.json\n"
        "    - path: b.json\n"
        "      weight: 2\n"
        "      columns: {output: Antwort}\n"
        "  system: |\n"
        "    You are kind.\n"
        "    You are short.\n"
        "tune: qlora\n"
        "optim:\n"
        "  lr: 0.0002\n"
        "  betas: [0.9, 0.95]\n"
        "run:\n"
        "  name: first\n"
    )


def test_changes_are_laid_over_a_text_as_overrides_are(page: TestClient) -> None:
    text = (
        "# mine\nmodel: org/name\ntune: {kind: lora, rank: 16}\noptim: {epochs: 3, lr: 2e-4}\ndata: {train: a.json}\n"
    )
    answer = ask(page, "recipe", yaml=text, changes={"tune.kind": "full", "optim.steps": 20})
    assert answer["values"]["tune"] == {"kind": "full"} and answer["values"]["optim"] == {"lr": 2e-4, "steps": 20}
    assert answer["comments_lost"] and "lr: 2e-4" in answer["yaml"], "numbers stay as they were typed"
    answer = ask(page, "recipe", yaml=text, changes={"optim.lr": None, "tune.rank": None})
    assert answer["values"]["optim"] == {"epochs": 3} and answer["values"]["tune"] == {"kind": "lora"}
    typed = ask(page, "recipe", yaml=text, changes=["run.name=007", "optim.betas=0.9,0.95", "optim.lr=3e-5"])
    assert typed["values"]["run"] == {"name": "007"} and typed["name"] == "007"
    assert typed["values"]["optim"]["betas"] == [0.9, 0.95] and "lr: 3e-5" in typed["yaml"]
    expected = load(
        {"model": "org/name", "data.train": "a.json"}, ["run.name=007", "optim.betas=0.9,0.95", "optim.lr=3e-5"]
    )
    assert typed["resolved"] == resolved(expected)


def test_words_equal_to_a_default_stay_where_somebody_wrote_them(page: TestClient) -> None:
    text = "model: nano\ndata:\n  train: a.json\nmethod: sft\ntune:\n  rank: 16\n"
    assert ask(page, "recipe", yaml=text, changes={"optim.batch": 16})["yaml"] == text
    assert "rank" not in ask(page, "recipe", yaml=text.replace("16", "32"), changes={"tune.rank": 16})["yaml"]


def test_a_switch_in_place_of_a_number_is_told_of(page: TestClient) -> None:
    answer = ask(page, "recipe", values={"model": "nano", "data.train": "a.json", "run.log_every": True})
    assert [each["field"] for each in answer["problems"]] == ["run.log_every"]


@pytest.mark.parametrize(
    ("text", "field", "line", "readable"),
    [
        ("model: nano\ndata: {train: a.json}\noptim: {lrr: 1}\n", "optim.lrr", 3, True),
        ("model: nano\ndata: {train: a.json}\noptim:\n  lr: fast\n", "optim.lr", 4, True),
        ("model: nano\ndata: {train: a.json}\noptim: {lr: .nan}\n", "optim.lr", 3, True),
        ("model: nano\ndata: {train: a.json}\ntune: {kind: lorra}\n", "tune.kind", 3, True),
        ("model: nano\ndata: {train: a.json}\nrun:\n  name: ../x\n", "run.name", None, True),
        ("model: nano\n", "data.train", None, True),
        ("model: [nano\n", "", 2, False),
        ("- model\n", "", 1, False),
        ("model: *nano\n", "", 1, False),
        ("model: nano\ndata: {train: a.json}\nmodel: other\n", "model", 3, True),
        ("model: !!python/object:os.system nano\ndata: {train: a.json}\n", "model", 1, True),
        ("model: nano\ndata: {train: a.json}\nstages: 5\n", "stages", 3, True),
    ],
)
def test_what_is_not_understood_is_told_with_its_line(
    page: TestClient, text: str, field: str, line: int | None, readable: bool
) -> None:
    answer = ask(page, "recipe", yaml=text)
    assert answer["readable"] == readable and answer["name"] is None
    problem = next(each for each in answer["problems"] if each["field"] == field)
    assert problem["line"] == line and problem["rule"] and problem["remedy"]
    assert ask(page, "recipe", yaml=text, changes={"optim.batch": 4})["problems"]
    told = ask(page, "plan", recipe=text)
    assert (told["plan"], told["lines"]) == (None, []) or field == "run.name"


def test_an_unreadable_text_is_left_alone(page: TestClient) -> None:
    answer = ask(page, "recipe", yaml="model: [nano\n# mine", changes={"optim.batch": 4})
    assert answer["yaml"] == "model: [nano\n# mine" and not answer["comments_lost"]
    assert len(answer["problems"]) == 1, "said once"


def test_problems_are_told_in_the_page_s_language(page: TestClient) -> None:
    answer = page.post("/api/recipe", json={"yaml": "tune: {rank: x}"}, headers={"X-Language": "zh"}).json()
    assert all(re.search("[\u4e00-\u9fff]", each["rule"]) for each in answer["problems"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*FIELDS, *SECTIONS, "stages", "zzz", "data.train.0.path", "a..b", ""])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.booleans())
def test_whatever_values_come_there_is_an_answer(page: TestClient, changes: dict[str, Any], over: bool) -> None:
    body = {"yaml": WHOLE, "changes": changes} if over else {"values": changes}
    answer = page.post("/api/recipe", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert ask(page, "recipe", values=made["values"])["values"] is not None
    assert page.post("/api/plan", json={"recipe": made["yaml"], "device": "cpu"}).status_code == 200


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.tuples(st.integers(0, 200), st.text(max_size=6)))
def test_whatever_is_typed_there_is_an_answer(page: TestClient, typed: Any) -> None:
    whole = "model: nano\ndata: {train: a.json}\ntune: {kind: lora, rank: 8}\noptim: {lr: 2e-4} # c\n"
    text = typed if isinstance(typed, str) else whole[: typed[0]] + typed[1] + whole[typed[0] :]
    answer = ask(page, "recipe", yaml=text)
    assert answer["resolved"] is not None or answer["problems"]
    ask(page, "recipe", yaml=text, changes={"optim.batch": 4})


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40), st.floats(1e-12, 10, exclude_min=True))
def test_texts_and_numbers_are_written_so_that_they_read_the_same(text: str, rate: float) -> None:
    made, problems = changed(WHOLE, {"data.system": text, "optim.lr": rate, "data.new_tokens": [text]}, "recipe")
    assert not problems
    values = read(made, "recipe").values
    assert values["data"]["system"] == text and values["data"]["new_tokens"] == [text]
    assert values["optim"]["lr"] == rate


@pytest.mark.parametrize(
    "text",
    ["\ud800", "a\0b", "<script>alert(1)</script>", "\u2028", "a\x85b", "x" * 60_000],
)
def test_odd_texts_are_answered(page: TestClient, text: str) -> None:
    body = json.dumps({"yaml": WHOLE, "changes": {"data.system": text}})
    answer = page.post("/api/recipe", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200 and answer.json()["values"]["data"]["system"] == text


def test_what_is_too_much_is_refused(page: TestClient) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    for body in (
        {"yaml": "#" * 70_000},
        {"values": {"data.system": "x" * 70_000}},
        {"yaml": WHOLE, "changes": [f"optim.lr={'1' * 70_000}"]},
        {"recipe": WHOLE},
        {"yaml": 5},
    ):
        answer = page.post("/api/recipe", json=body)
        assert answer.status_code == 422 and answer.json()["problems"][0]["rule"], body.keys()
    for body in ({"values": {"data.system": deep}}, {"yaml": "[" * 20_000}, {"changes": {"x": deep}}):
        answer = page.post("/api/recipe", json=body)
        assert answer.status_code == 200 and answer.json()["problems"], body.keys()
    assert page.post("/api/plan", json={"recipe": "#" * 70_000}).status_code == 422


def test_the_name_of_a_run_is_one_that_is_free(page: TestClient, place: Path) -> None:
    assert ask(page, "recipe", yaml=WHOLE)["name"] == "nano-sft-a"
    (place / "runs" / "nano-sft-a").mkdir(parents=True)
    assert ask(page, "recipe", yaml=WHOLE)["name"] == "nano-sft-a-2"
    (place / "runs" / "nano-sft-a-2").mkdir(parents=True)
    assert ask(page, "recipe", yaml=WHOLE)["name"] == "nano-sft-a-3"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: b # c", True),
        ("# c", True),
        ("a: b#c", False),
        ("a: '# c'", False),
        ('a: "x # c"', False),
        ("a: |\n  # no\n  text\nb: c\n", False),
        ("a: |\n  # no\n# yes\n", True),
        ("a: [b # c", True),
        ("a: '# c", False),
    ],
)
def test_comments_are_told_from_text(text: str, found: bool) -> None:
    assert has_comment(text) == found


# -------------------------------------------------------------------------------------------------------- plans


def test_a_plan_says_what_the_command_line_says(page: TestClient, place: Path) -> None:
    answer = ask(page, "plan", recipe=WHOLE, device="T4")
    config = load({"model": "nano", "data.train": "a.json"})
    made = outlook.plan(config, "T4")
    assert answer["plan"] == json.loads(json.dumps(made.to_json())) and answer["lines"] == lines.lines(made, config)
    assert ask(page, "plan", recipe={"model": "nano", "data.train": "a.json"}, device="T4") == answer
    assert ask(page, "plan", recipe=WHOLE, changes={"tune": "full"}, device="T4")["plan"]["trainable"] == 3_606_784


def test_a_plan_finds_what_a_recipe_names_from_the_home_folder(
    page: TestClient,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model(place / "models" / "small")
    (place / "a.json").write_text("[]")
    text = "model: models/small\ndata: {train: [a.json, b.json]}\nmethod: {kind: distill, teacher: models/small}\n"
    monkeypatch.chdir(tmp_path)
    answer = ask(page, "plan", recipe=text)
    assert answer["plan"]["model"] == {"path": "models/small", "family": "llama", "parameters": 38_048}
    assert answer["plan"]["rows"]["missing"] == ["b.json"] and answer["plan"]["memory"]["teacher"] > 0
    wrong = ask(page, "plan", recipe="model: models/smal\ndata: {train: a.json}\n")
    assert wrong["problems"][0]["field"] == "model.path" and "models/small" in wrong["problems"][0]["remedy"]


def test_an_adapter_is_found_among_the_runs(page: TestClient, place: Path) -> None:
    adapter = place / "runs" / "first" / "adapter"
    adapter.mkdir(parents=True)
    settings_ = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings_))
    answer = ask(page, "plan", recipe=WHOLE, changes={"tune.from": "first"})
    fresh = ask(page, "plan", recipe=WHOLE, changes={"tune.rank": 4, "tune.targets": ["q_proj"]})
    assert answer["problems"] == [] and answer["plan"]["trainable"] == fresh["plan"]["trainable"] > 0


def test_a_plan_takes_what_a_check_has_counted(page: TestClient) -> None:
    rows = {"longest": 3000, "tokens": 40.0, "scored": 10.0, "rows": 320}
    counted = ask(page, "plan", recipe=WHOLE, rows=rows)
    assumed = ask(page, "plan", recipe=WHOLE)
    facts = counted["plan"]["rows"]
    assert (facts["longest"], facts["rows"], facts["checked"], facts["assumed"]) == (2048, 320, True, False)
    assert counted["plan"]["speed"]["steps"] == 60 and assumed["plan"]["speed"]["steps"] is None
    assert any("counted by the check" in line for line in counted["lines"])
    for wrong in ({**rows, "rows": 0}, {**rows, "tokens": "many"}, {"longest": 5}):
        assert page.post("/api/plan", json={"recipe": WHOLE, "rows": wrong}).status_code == 422


def test_a_plan_that_does_not_fit_is_an_answer(page: TestClient, place: Path) -> None:
    shape = {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64}
    model(place / "large", **shape, vocab_size=32000)
    answer = ask(page, "plan", recipe=WHOLE, changes={"model": "large"}, device="T4")
    assert answer["problems"] == [] and not answer["plan"]["memory"]["fits"]
    assert any("does not fit" in line for line in answer["lines"])


def test_of_several_stages_the_largest_is_planned(page: TestClient) -> None:
    """On a device of the table: what is free of this machine changes from question to question."""
    text = f"{WHOLE}stages:\n  - {{name: one, tune: lora}}\n  - {{name: two, tune: full, start: merge}}\n"
    answer = ask(page, "plan", recipe=text, device="L4-24GB")
    assert answer["name"] == "two" and answer["plan"]["trainable"] == 3_606_784
    one, two = answer["stages"]
    assert (two["name"], two["plan"], two["lines"]) == ("two", answer["plan"], answer["lines"])
    alone = ask(page, "plan", recipe=WHOLE, device="L4-24GB")
    assert alone["stages"] == [] and (one["name"], one["plan"], one["lines"]) == ("one", alone["plan"], alone["lines"])


def test_of_several_stages_each_is_planned_with_its_own_rows(page: TestClient) -> None:
    text = f"{WHOLE}stages: [{{name: one}}, {{name: two}}, {{name: three}}]\n"
    rows = {"longest": 100, "tokens": 40.0, "scored": 10.0, "rows": 320}

    def told(rows: Any) -> list[tuple[int, int | None, bool]]:
        plans = [each["plan"]["rows"] for each in ask(page, "plan", recipe=text, rows=rows)["stages"]]
        return [(each["longest"], each["rows"], each["assumed"]) for each in plans]

    assumed = told(None)[0]
    assert assumed[2] and told({"one": rows, "two": {**rows, "rows": 80}}) == [
        (100, 320, False),
        (100, 80, False),
        assumed,
    ]
    assert told(rows) == [(100, 320, False)] * 3
    assert page.post("/api/plan", json={"recipe": text, "rows": {"one": {"longest": 5}}}).status_code == 422


def test_of_several_stages_each_is_told(page: TestClient, place: Path) -> None:
    """As `luthier train --dry-run` tells them; a name is free where none of their runs is there."""
    listed = "[{name: one}, {name: two, run: {name: own}}, {name: three}]"
    text = f"{WHOLE}run: {{name: shop}}\nstages: {listed}\n"
    answer = ask(page, "recipe", yaml=text)
    one, two, _ = answer["stages"]
    assert (one["name"], one["from"], one["start"], one["run"]) == ("one", None, "fresh", "shop-one")
    assert (two["name"], two["from"], two["start"], two["run"]) == ("two", "one", "continue", "own")
    (place / "staged.yaml").write_text(text)
    assert [each["resolved"] for each in answer["stages"]] == [resolved(each.config) for each in stages("staged.yaml")]
    assert answer["name"] == "shop"
    for name, free in (("shop", "shop"), ("own", "shop"), ("shop-one", "shop-2"), ("shop-2-three", "shop-3")):
        (place / "runs" / name).mkdir(parents=True)
        assert ask(page, "recipe", yaml=text)["name"] == free, name


@pytest.mark.parametrize(
    ("changes", "device", "field"),
    [
        ({}, "T5000", ""),
        ({"model": "no-such"}, None, "model.path"),
        ({"model": "a\0/b"}, None, "model.path"),
        ({"model": "x" * 5000}, None, "model.path"),
        ({"model": "~nobody-here/x"}, None, "model.path"),
        ({"tune.targets": ["no_proj"]}, None, "tune.targets"),
        ({"run.device": "cuda"}, None, "run.device"),
        ({"optim.paged": True, "tune": "full"}, "cpu", "optim.paged"),
        ({"tune.from": "x" * 5000}, None, ""),
        ({"tune.from": "no\0where"}, None, ""),
        ({"method": "distill", "method.teacher": "no-such"}, None, "model.path"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(
    page: TestClient, changes: dict[str, Any], device: str | None, field: str
) -> None:
    answer = ask(page, "plan", recipe=WHOLE, changes=changes, device=device)
    assert answer["plan"] is None and answer["lines"] == []
    assert field in [each["field"] for each in answer["problems"]] or not field
    assert all(each["rule"] for each in answer["problems"])


def test_a_file_with_an_impossible_name_is_missing(page: TestClient) -> None:
    for path in ("no\0where", "x" * 5000):
        assert ask(page, "plan", recipe=WHOLE, changes={"data.train": path})["plan"]["rows"]["missing"] == [path]


def test_a_hub_is_not_asked_at_each_change(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(path: str, *_: Any, **__: Any) -> None:
        asked.append(path)
        raise ModelError(Problem("hub.unknown", field="model.path", value=path, values={"folder": path}))

    monkeypatch.setattr(hub, "resolve", refuse)
    for rank in (4, 8, 16):
        answer = ask(page, "plan", recipe=WHOLE, changes={"model": "org/name", "tune.rank": rank})
        assert answer["problems"][0]["id"] == "hub.unknown"
    assert asked == ["org/name"]


def test_an_answer_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    kept, asked = Kept(10.0), []

    def answer() -> int:
        asked.append(now[0])
        return len(asked)

    def at(seconds: float, lasting: float = 1.0) -> int:
        now[0] = seconds
        return kept.ask(f"x{lasting}", answer, lasting)

    assert [at(0), at(9.9), at(10), at(19), at(25)] == [1, 1, 2, 2, 3]
    assert [at(30, 2.0), at(49, 2.0), at(50, 2.0)] == [4, 4, 5]
    never = Kept()
    assert [never.ask("x", answer), never.ask("x", answer)] == [6, 7]


# ------------------------------------------------------------------------------------------------------- models


def test_models_are_found_where_they_may_lie(
    page: TestClient,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = model(tmp_path / "elsewhere" / "linked")
    (elsewhere / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# Linked\n")
    (place / "linked").symlink_to(elsewhere)
    (place / "circle").symlink_to(place)
    model(place / "models" / "org" / "one", tie_word_embeddings=True)
    model(place / "models" / "strange", model_type="bert")
    model(place / ".hidden" / "two")
    model(place / "node_modules" / "three")
    model(place / "deep" / "er" / "and" / "deeper" / "still")
    model(place / "runs" / "full" / "model")
    model(place / "runs" / "first-merged")
    (place / "config.json").write_text("{}")
    cache = tmp_path / "hf" / "hub" / "models--org--name"
    model(cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    (tmp_path / "hf" / "hub" / "models--org--half").mkdir()
    (tmp_path / "hf" / "hub" / "datasets--org--name").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = {each["path"]: each for each in page.get("/api/models").json()["models"]}
    assert {path: each["source"] for path, each in found.items()} == {
        "nano": "shipped",
        "runs/first-merged": "run",
        "runs/full/model": "run",
        "linked": "folder",
        "models/org/one": "folder",
        "models/strange": "folder",
        "org/name": "hub_cache",
    }
    assert found["runs/full/model"]["name"] == "full" and found["linked"]["licence"] == "mit"
    one = found["models/org/one"]
    shown = {key: one[key] for key in ("family", "parameters", "bytes", "context", "template", "supported", "problem")}
    parameters = 320 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 48 + 2 * 32) + 32
    assert shown == {
        "family": "llama",
        "parameters": parameters,
        "bytes": 1000,
        "context": 256,
        "template": True,
        "supported": True,
        "problem": None,
    }
    strange = found["models/strange"]
    assert not strange["supported"] and strange["problem"]["rule"] and strange["parameters"] is None
    # What is listed can be asked for, and planned; the hub's client reads its environment once for all tests.
    for path in found.keys() - {"org/name"}:
        assert page.get("/api/models/about", params={"path": path}).json() == found[path]
        if found[path]["supported"]:
            assert ask(page, "plan", recipe=WHOLE, changes={"model": path})["plan"] is not None


def test_nano_is_described(page: TestClient) -> None:
    about = page.get("/api/models/about", params={"path": "nano"}).json()
    assert (about["family"], about["parameters"], about["context"], about["template"]) == (
        "llama",
        3_606_784,
        1024,
        True,
    )
    assert about["licence"] == "apache-2.0" and about["bytes"] > 7_000_000


@pytest.mark.parametrize("path", ["no-such", "a\0b", "a\0/b", "x" * 5000, "~nobody-here/x", "org/name"])
def test_a_model_that_is_not_there_is_told_of(page: TestClient, path: str) -> None:
    answer = page.get("/api/models/about", params={"path": path})
    assert answer.status_code == 422 and answer.json()["problems"][0]["field"] == "model.path"


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"model_type": 5}',
        b'{"model_type": "llama"}',
        b'{"model_type": "llama", "vocab_size": -1}',
    ]
    + [json.dumps(LLAMA | {key: value}).encode() for key in LLAMA for value in (None, 0, -3, "x", 1e308, [1], 10**30)],
)
def test_a_damaged_model_is_described(page: TestClient, place: Path, config: bytes) -> None:
    model(place / "bad")
    (place / "bad" / "config.json").write_bytes(config)
    (place / "bad" / "tokenizer_config.json").write_bytes(b"[")
    about = page.get("/api/models/about", params={"path": "bad"})
    assert about.status_code == 200, about.text
    assert page.get("/api/models").status_code == 200
    assert (
        ask(page, "plan", recipe=WHOLE, changes={"model": "bad"}, device="cpu")["problems"] or about.json()["supported"]
    )


ABOUT = """
import json
from luthier.config.load import environment
from luthier.models import library
made = library.about("org/tiny", environment())
print(json.dumps(made.to_json()))
"""


def test_a_hub_s_model_is_described_without_its_weights(tmp_path: Path) -> None:
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": bytes(5000), "README.md": b"# card"}
    with Hub(org__tiny=Repo(files, tags=["x", "license:apache-2.0"])) as server:
        variables = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [sys.executable, "-c", ABOUT], env={**os.environ, **variables}, capture_output=True, text=True, check=True
        )
        about = json.loads(done.stdout)
        assert not server.asked("safetensors") and not server.asked("safetensors", "HEAD")
    assert (about["source"], about["licence"], about["bytes"], about["parameters"]) == (
        "hub_cache",
        "apache-2.0",
        5000,
        38_048,
    )


# -------------------------------------------------------------------------------------------------- nothing heavy

ALL = """
text = "model: nano\\ndata: {train: a.json}\\n"
for path in ("fields", "presets", "formats", "models", "models/about?path=nano"):
    assert page.get("/api/" + path).status_code == 200, path
for body in ({"yaml": text}, {"values": {"model": "nano"}}):
    assert page.post("/api/recipe", json=body).status_code == 200
assert page.post("/api/plan", json={"recipe": text}).json()["plan"]
"""


def test_no_route_loads_torch(place: Path) -> None:
    assert heavy_after(ALL) == []


def test_required_fields_have_no_default() -> None:
    assert {name for name, field in FIELDS.items() if field.default is REQUIRED} == {
        "model.path",
        "data.train",
        "data.train.path",
        "method.teacher",
        "method.rewards",
    }
    with pytest.raises(ConfigError):
        load(None, {"model": "nano"})
