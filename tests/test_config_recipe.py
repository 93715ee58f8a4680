"""The recipe that `luthier init` writes, the help of every field, and the environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from luthier.config import recipe
from luthier.config.fields import FIELDS, SECTIONS
from luthier.config.load import environment, load, resolved
from luthier.config.schema import RunConfig
from luthier.errors import ConfigError
from luthier.text import Language, set_language
from luthier.text.config_help import HELP

LANGUAGES = get_args(Language)


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    set_language(request.param)
    yield request.param
    set_language("en")


# ---------------------------------------------------------------------------------------------------- help


def test_help_is_there_for_every_field_and_nothing_else() -> None:
    names = {f"config.help.{name}" for name in (*SECTIONS, *FIELDS)}
    assert HELP.keys() == names


def test_the_table_of_fields_is_the_schema() -> None:
    """Counted by hand from the schema's classes, aliases included."""
    for section, kinds in SECTIONS.items():
        keys = {info.alias or key for kind in kinds.values() for key, info in kind.model_fields.items()}
        assert {
            field.key for field in FIELDS.values() if field.name.count(".") == 1 and field.section == section
        } == keys
    assert set(RunConfig.model_fields) == set(SECTIONS)
    assert FIELDS["tune.from"].kinds == ("lora", "qlora")
    assert FIELDS["tune.layers"].kinds == ("lora", "qlora", "freeze")
    assert FIELDS["method.kind"].choices[:2] == ("sft", "pretrain")
    assert FIELDS["method.label_smoothing"].kinds == ("dpo", "ipo", "simpo", "cpo")
    assert FIELDS["data.train.weight"].default == 1.0


@pytest.mark.parametrize("name", FIELDS)
def test_help_reads_well(name: str, language: str) -> None:
    text = FIELDS[name].help
    assert text.endswith((".", "。")) and "  " not in text
    assert 15 <= recipe.columns(text) <= 700
    lines = recipe.lines(FIELDS[name])
    assert lines[0] == name and all(recipe.columns(line) <= recipe.WIDTH for line in lines[1:-3])


def test_help_does_not_repeat_known_errors() -> None:
    """From the founding texts: LoRA's numbers and names that were wrong there."""
    everything = " ".join(part for texts in HELP.values() for part in texts)
    assert "sequence to sequence" not in everything.lower()
    assert "self-supervised" not in everything.lower()


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("tune.rank", ["tune.rank"]),
        ("rank", ["tune.rank"]),
        ("data.validation.0.weight", ["data.train.weight"]),
        ("learning_rate", ["optim.lr"]),
        ("batch_size", ["optim.batch"]),
        ("layers", ["tune.layers"]),
        ("gamma", ["method.gamma"]),
        ("method", [name for name in FIELDS if name.startswith("method.")]),
        ("kind", ["method.kind", "tune.kind", "optim.kind"]),
    ],
)
def test_fields_are_found(asked: str, names: list[str]) -> None:
    assert [field.name for field in recipe.find(asked)] == names


@pytest.mark.parametrize(("asked", "near"), [("tune.rnak", "tune.rank"), ("epoch", "optim.epochs"), ("zzzz", "")])
def test_fields_that_are_not_there(asked: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe.find(asked)
    assert caught.value.problems[0].values["near"].startswith(near)


def test_every_near_name_in_messages_has_help() -> None:
    from luthier.config.complaints import ELSEWHERE

    assert set(ELSEWHERE.values()) <= FIELDS.keys()


def test_values_of_fields() -> None:
    assert recipe.values(FIELDS["optim.schedule"])["choices"][0] == "linear"
    assert recipe.values(FIELDS["model.path"])["required"] is True
    assert FIELDS["tune.targets"].takes == "all-linear | [text, ...]"
    assert FIELDS["data.validation"].takes == "auto | number | [file, ...]"
    assert FIELDS["data.format"].takes.endswith("text | module:function")
    assert len(recipe.listing()) == len(FIELDS) + 2 * len(SECTIONS) - 1


# ---------------------------------------------------------------------------------------------------- init


def test_a_new_recipe_loads_and_explains_itself(tmp_path: Path, language: str) -> None:
    path = tmp_path / "recipe.yaml"
    written = recipe.write(path)
    assert load(path) == written
    text = path.read_text(encoding="utf-8")
    flat = re.sub(r"\s*\n\s*# ?", "" if language == "zh" else " ", text)
    for name, field in FIELDS.items():
        if field.name.count(".") == 1 and (not field.kinds or {"lora", "sft"} & set(field.kinds)):
            assert re.search(rf"^  #?{field.key}: ", text, re.M), name
            start = field.help[:20]
            assert start in flat or language == "zh", name
    assert all(recipe.columns(line) <= recipe.WIDTH for line in text.splitlines())
    assert ("微调" in text) == (language == "zh")


def test_every_commented_line_may_be_switched_on(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    written = recipe.write(path)
    options = re.findall(r"^  #(\w+: .*)$", path.read_text(encoding="utf-8"), re.M)
    assert len(options) > 35
    for option in options:
        changed = path.read_text(encoding="utf-8").replace(f"  #{option}\n", f"  {option}\n")
        (tmp_path / "one.yaml").write_text(changed, encoding="utf-8")
        assert resolved(load(tmp_path / "one.yaml")) == resolved(written), option
    (tmp_path / "all.yaml").write_text(re.sub(r"^  #(\w+: )", r"  \1", path.read_text(encoding="utf-8"), flags=re.M))
    assert resolved(load(tmp_path / "all.yaml")) == resolved(written)


def test_settings_may_be_given_to_a_new_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    recipe.write(path, ["model=org/name", "data.train=[a.json, {path: b.json, weight: 2}]", "tune=freeze"])
    text = path.read_text(encoding="utf-8")
    assert "\n  path: org/name\n" in text
    assert "\n  train: [a.json, {path: b.json, weight: 2.0}]\n" in text
    assert load(path).tune.kind == "freeze"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("mine")
    with pytest.raises(ConfigError) as caught:
        recipe.write(path)
    assert caught.value.problems[0].id == "config.recipe_exists" and path.read_text() == "mine"
    with pytest.raises(ConfigError) as caught:
        recipe.write(tmp_path / "no" / "recipe.yaml")
    assert caught.value.problems[0].id == "config.unwritable"


def test_bad_settings_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        recipe.write(tmp_path / "recipe.yaml", ["tune.rnak=3"])
    assert list(tmp_path.iterdir()) == []


def test_lines_are_broken_where_they_may_be() -> None:
    assert recipe.wrap("aaa bbb ccc", 7) == ["aaa bbb", "ccc"]
    assert recipe.wrap("中文没有空格，也要换行。", 10) == ["中文没有空", "格，也要换", "行。"]
    assert recipe.wrap("中文没有，也要换行", 9) == ["中文没", "有，也要", "换行"], "no line begins with a comma"
    assert recipe.wrap("word", 2) == ["word"]


# ---------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_ALL": "zh_CN"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
        ({"LANG": "en_GB", "LC_MESSAGES": "zh_CN"}, "zh"),
    ],
)
def test_language_of_the_environment(variables: dict[str, str], language: str) -> None:
    assert environment(variables).language == language


def test_places_follow_the_environment() -> None:
    here = environment({"HOME": "/h"})
    assert (here.hf_home, here.cache_dir) == (Path("/h/.cache/huggingface"), Path("/h/.cache/luthier"))
    assert here.hf_endpoint == "https://huggingface.co" and not here.hf_offline and not here.hf_token_set
    here = environment({"HOME": "/h", "XDG_CACHE_HOME": "/c", "LUTHIER_CACHE": "/l", "HF_HUB_OFFLINE": "1"})
    assert (here.hf_home, here.cache_dir, here.hf_offline) == (Path("/c/huggingface"), Path("/l"), True)
    assert environment({"HOME": "/h", "HF_HOME": "/m", "NO_COLOR": "1"}).hf_home == Path("/m")
    assert environment({"HOME": "/h", "NO_COLOR": ""}).no_color is False, "no-color.org: not empty"


def test_the_hub_library_reads_the_same_variables() -> None:
    """huggingface_hub itself is the oracle of where its files lie and which hub it asks."""
    variables = {"HOME": "/h", "XDG_CACHE_HOME": "/c", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "yes"}
    code = "from huggingface_hub import constants as c; print(c.HF_HOME, c.ENDPOINT, c.HF_HUB_OFFLINE)"
    path = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**path, **variables}, capture_output=True, text=True, check=True
    )
    here = environment(variables)
    assert done.stdout.split() == [str(here.hf_home), here.hf_endpoint, str(here.hf_offline)]


def test_secrets_stay_out_of_sight() -> None:
    here = environment(
        {
            "HOME": "/h",
            "HF_TOKEN": "hf_secret",
            "HF_ENDPOINT": "https://me:pass@mirror.example:8443/hub/",
            "https_proxy": "http://u:pw@proxy:1",
        }
    )
    assert here.hf_token_set and here.proxies == ("HTTPS_PROXY",)
    assert here.hf_endpoint == "https://me:pass@mirror.example:8443/hub"
    shown = repr(here) + str(here.to_json())
    assert not re.search("hf_secret|pass|pw@", shown)
    assert here.to_json()["hf_endpoint"] == "https://mirror.example:8443/hub"
