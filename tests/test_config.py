"""Recipes: reading, overrides, all problems at once with place and remedy, and the way back to YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.config import characters
from luthier.config.load import dump, load, loads, resolved, settle
from luthier.config.schema import FORMATS, Freeze, Full, Lora, Pretrain, RunConfig, Sft
from luthier.data.formats import FORMATS as READERS
from luthier.errors import ConfigError, Problem

REPOSITORY = Path(__file__).parents[1]
LEAST = ["model=nano", "data.train=x.json"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes text as recipe.yaml in an empty working directory and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "recipe.yaml") -> str:
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write


def problems(recipe: Any = None, overrides: Any = ()) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(recipe, overrides)
    return list(caught.value.problems)


def only(recipe: Any = None, overrides: Any = ()) -> Problem:
    found = problems(recipe, overrides)
    assert len(found) == 1, [str(each) for each in found]
    return found[0]


# ---------------------------------------------------------------------------------------------------- the plain way


def test_no_file_is_needed() -> None:
    config = load(None, LEAST)
    assert config.model.path == "nano"
    assert [source.path for source in config.data.train] == ["x.json"]
    assert isinstance(config.method, Sft) and isinstance(config.tune, Lora)


def test_the_recipe_of_the_guide(recipe: Any) -> None:
    config = load(
        recipe(
            """
            model: Qwen/Qwen2.5-0.5B-Instruct
            data:
              train: data/alpaca.json
              validation: 0.05
              max_tokens: 2048
            method: sft
            tune: {kind: lora, rank: 16}
            optim: {lr: 2e-4, epochs: 3, batch: 16}
            run: {name: first, seed: 0}
            """
        )
    )
    assert config.optim.lr == 2e-4, "YAML 1.1 would read 2e-4 as text"
    assert config.data.validation == 0.05
    assert config.run.name == "first"


@pytest.mark.parametrize("given_", [["model=", "data="], "model:\ndata:\n", {"model": None, "data": None}])
def test_a_section_that_is_left_empty_is_named_as_one_that_is_not_there(recipe: Any, given_: Any) -> None:
    if isinstance(given_, list):
        found = problems(None, given_)
    else:
        found = problems(recipe(given_) if isinstance(given_, str) else given_)
    assert [(each.id, each.field) for each in found] == [("config.missing", "model"), ("config.missing", "data.train")]


def test_a_single_override_may_stand_alone() -> None:
    assert load({"model": "nano", "data.train": "x.json"}, "tune.rank=3").tune.rank == 3


def test_every_way_to_give_a_recipe_is_the_same(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\ntune: {rank: 8}\n")
    nested = {"model": "nano", "data": {"train": "x.json"}, "tune": {"rank": 8}}
    dotted = {"model": "nano", "data.train": Path("x.json"), "tune.rank": 8}
    expected = load(None, [*LEAST, "tune.rank=8"])
    for given_ in (text, Path(text), nested, dotted, expected):
        assert load(given_) == expected
    assert load(None, dotted) == expected
    assert loads(Path(text).read_text(), "here") == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("3E-4", 3e-4),
        ("1e-3", 1e-3),
        ("2.5e-05", 2.5e-5),
        (".001", 0.001),
        ("1", 1.0),
        ("'3e-4'", 3e-4),
    ],
)
def test_numbers_as_people_write_them(text: str, value: float, recipe: Any) -> None:
    assert load(None, [*LEAST, f"optim.lr={text}"]).optim.lr == value
    assert load(recipe(f"model: nano\ndata: {{train: x}}\noptim:\n  lr: {text}\n")).optim.lr == value


@pytest.mark.parametrize(("text", "name"), [("007", "007"), ("2024-11-22", "2024-11-22"), ("no", "no"), ("1e3", "1e3")])
def test_text_stays_as_written(text: str, name: str, recipe: Any) -> None:
    assert load(None, [*LEAST, f"run.name={text}"]).run.name == name
    assert load(recipe(f"model: nano\ndata: {{train: x}}\nrun: {{name: {text}}}\n")).run.name == name


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("tune.targets=q_proj,v_proj", "targets", ("q_proj", "v_proj")),
        ("tune.targets=[q_proj, self_attn.v_proj]", "targets", ("q_proj", "self_attn.v_proj")),
        ("tune.modules_to_save=lm_head", "modules_to_save", ("lm_head",)),
        ("tune.modules_to_save=lm_head, norm", "modules_to_save", ("lm_head", "norm")),
        ("tune.layers=0,1,5", "layers", (0, 1, 5)),
        ("tune.layers=3", "layers", (3,)),
        ("tune.from=", "from_", None),
        ("tune.rank_pattern={down_proj: 4}", "rank_pattern", {"down_proj": 4}),
        ("tune.rank_pattern.down_proj=4", "rank_pattern", {"down_proj": 4}),
        ("tune.rslora=true", "rslora", True),
    ],
)
def test_values_of_overrides(override: str, field: str, value: Any) -> None:
    assert getattr(load(None, [*LEAST, override]).tune, field) == value


def test_pairs_and_prose_on_the_command_line() -> None:
    config = load(None, [*LEAST, "optim.betas=0.9,0.95", "data.system=You are: a [helper", "data.stop_token=*end"])
    assert config.optim.betas == (0.9, 0.95)
    assert config.data.system == "You are: a [helper"
    assert config.data.stop_token == "*end"


def test_empty_sections_are_as_good_as_none(recipe: Any) -> None:
    assert load(recipe("model: nano\ndata: {train: x.json}\ntune:\noptim:\nrun:\n")) == load(None, LEAST)


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: nano\r\ndata: {train: x.json}\r\n")
    assert load(path).model.path == "nano"


def test_formats_are_those_that_are_read() -> None:
    assert set(FORMATS) == {"auto", *READERS}
    assert load(None, [*LEAST, "data.format=my.module:rows"]).data.format == "my.module:rows"


# ---------------------------------------------------------------------------------------------------- merging


def test_later_wins() -> None:
    assert load(None, [*LEAST, "tune.rank=4", "tune.rank=8"]).tune.rank == 8


def test_overrides_merge_into_bare_kinds(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\nmethod: sft\ntune: lora\n")
    config = load(text, ["method.train_on=last", "tune.rank=8", "model.dtype=float32", "data.train.weight=2"])
    assert config.method == Sft(train_on="last")
    assert config.tune == Lora(rank=8)
    assert (config.model.path, config.model.dtype) == ("nano", "float32")
    assert (config.data.train[0].path, config.data.train[0].weight) == ("x.json", 2)


def test_one_source_of_several_can_be_changed(recipe: Any) -> None:
    text = recipe("model: nano\ndata:\n  train:\n  - a.json\n  - {path: b.json, weight: 3}\n")
    train = load(text, ["data.train.0.weight=2", "data.train.1.path=c.json"]).data.train
    assert [(source.path, source.weight) for source in train] == [("a.json", 2), ("c.json", 3)]
    assert "nothing of this name" in only(text, ["data.train.2.path=d.json"]).rule


def test_sections_merge_and_lists_are_replaced(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: [a, b], max_tokens: 64}\ntune: {rank: 8, targets: [q_proj]}\n")
    config = load(text, {"data": {"train": ["c"]}, "tune": {"targets": ["k_proj"]}})
    assert [source.path for source in config.data.train] == ["c"]
    assert config.data.max_tokens == 64
    assert config.tune == Lora(rank=8, targets=("k_proj",))


@pytest.mark.parametrize("override", ["tune=full", "tune.kind=full", "tune={kind: full}"])
def test_another_kind_takes_the_recipes_fields_along(override: str, recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\ntune: {kind: lora, rank: 8, dropout: 0.1}\n")
    assert load(text, [override]).tune == Full()


def test_a_field_of_the_same_name_and_another_meaning_goes_too(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\ntune: {kind: freeze, layers: 4}\n")
    assert load(text, ["tune=lora"]).tune == Lora()
    assert load(text, ["tune=freeze"]).tune == Freeze(layers=4)


def test_the_users_own_words_are_never_dropped(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\ntune: {kind: lora, rank: 8}\n")
    found = only(text, ["tune.rank=4", "tune=full"])
    assert (found.id, found.where, found.field) == ("config.other_kind", "command line", "tune.rank")
    assert "it belongs to lora" in found.rule


def test_steps_take_the_place_of_the_recipes_epochs_and_back(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\noptim: {epochs: 2}\n")
    config = load(text, ["optim.steps=20"])
    assert config.optim.steps == 20 and "epochs" not in resolved(config)["optim"]
    assert load(config, ["optim.epochs=1"]).optim.steps is None
    assert load(text, ["optim.steps=null"]).optim.epochs == 2


def test_another_model_leaves_the_old_ones_revision(recipe: Any) -> None:
    text = recipe("model: {path: org/a, revision: v1, dtype: float32}\ndata: {train: x.json}\n")
    assert load(text, ["model=org/b"]).model.model_dump() == {
        "path": "org/b",
        "revision": None,
        "init": "pretrained",
        "dtype": "float32",
    }
    assert load(text, ["model=org/a"]).model.revision == "v1"


def test_another_optimizer_leaves_the_old_ones_settings(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x}\noptim: {betas: [0.8, 0.9], schedule: polynomial, power: 3, lr: 1}\n")
    config = load(text, ["optim.kind=sgd", "optim.schedule=linear"])
    assert config.optim.betas == (0.9, 0.999) and config.optim.power == 2.0
    assert load(text, ["optim.kind=adamw"]).optim.betas == (0.8, 0.9)


def test_an_adapter_to_go_on_from_brings_its_own_shape(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\ntune: {rank: 8, dropout: 0.1}\n")
    tune = load(text, ["tune.from=runs/old"]).tune
    assert tune == Lora.model_validate({"from": "runs/old", "dropout": 0.1})


def test_the_recipe_given_from_python_is_left_alone() -> None:
    given_ = {"model": "nano", "data": {"train": ["x.json"]}, "tune": {"rank": 8}}
    before = json.dumps(given_)
    load(given_, {"tune.rank": 4, "data.train.0": "y.json"})
    assert json.dumps(given_) == before


# ---------------------------------------------------------------------------------------------------- problems


def test_everything_at_once_with_its_place(recipe: Any) -> None:
    text = recipe(
        "model: nano\n"
        "data:\n"
        "  train: x.json\n"
        "  trian: y.json\n"
        "method: sftt\n"
        "tune:\n"
        "  rank: zero\n"
        "  rank: 8\n"
        "optim: {steps: 5, epochs: 2}\n"
        "lr: 3e-4\n"
    )
    found = problems(text, ["run.device=gpu", "foo", "optim.batch=0"])
    assert [(each.where, each.field, each.id.removeprefix("config.")) for each in found] == [
        ("recipe.yaml:4", "data.trian", "unknown_key_near"),
        ("recipe.yaml:5", "method.kind", "choice_near"),
        ("recipe.yaml:7", "tune.rank", "whole_number"),
        ("recipe.yaml:8", "tune.rank", "duplicate_key"),
        ("recipe.yaml:9", "optim.epochs", "steps_or_epochs"),
        ("recipe.yaml:10", "lr", "unknown_key_near"),
        ("command line", "", "override_form"),
        ("command line", "run.device", "choice_near"),
        ("command line", "optim.batch", "at_least"),
    ]
    text_of_all = "\n".join(str(each) for each in found)
    for words in ("data.train?", "sft?", "optim.lr?", "cuda?", "at least 1", "line 7", "section.name=value"):
        assert words in text_of_all, words


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("tune.rnak=8", "tune.rank"),
        ("tune.lora_alpha=8", "tune.alpha"),
        ("tune.r=8", "tune.rank"),
        ("learning_rate=1e-4", "optim.lr"),
        ("optim.lrate=1e-4", "optim.lr"),
        ("rank=8", "tune.rank"),
        ("epochs=2", "optim.epochs"),
        ("optim.max_tokens=9", "data.max_tokens"),
        ("num_train_epochs=2", "optim.epochs"),
        ("data.max_token=9", "data.max_tokens"),
        ("datas.train=x", "data"),
        ("optim.warmup_ratio=0.1", "optim.warmup"),
        ("output_dir=x", "run.dir"),
        ("per_device_train_batch_size=4", "optim.batch"),
        ("data.train.weigth=4", "data.train.weight"),
        ("cutoff_len=10", "data.max_tokens"),
    ],
)
def test_nearest_name(override: str, near: str) -> None:
    found = only(None, [*LEAST, override])
    assert (found.id, found.values) == ("config.unknown_key_near", {"near": near})


def test_where_nothing_is_near_the_valid_names_are_listed() -> None:
    found = only(None, [*LEAST, "method.zzz=1"])
    assert found.remedy == "Known here: kind, train_on, loss."


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("method=stf", "sft"),
        ("tune=lroa", "lora"),
        ("optim.schedule=cosin", "cosine"),
        ("optim.kind=Adam", "adamw"),
        ("model.dtype=bf16", "bfloat16"),
        ("run.device=GPU", "cuda"),
        ("data.format=alpacca", "alpaca"),
        ("data.train.format=openai", "messages"),
        ("run.report=[wandb, tensorbord]", "tensorboard"),
    ],
)
def test_nearest_value(override: str, near: str) -> None:
    found = only(None, [*LEAST, override])
    assert (found.id, found.values["near"]) == ("config.choice_near", near)


@pytest.mark.parametrize(
    ("override", "id", "field"),
    [
        ("tune.rank=16.5", "whole_number", "tune.rank"),
        ("tune.rank=true", "not_a_switch", "tune.rank"),
        ("tune.rslora=perhaps", "switch", "tune.rslora"),
        ("optim.lr=fast", "number", "optim.lr"),
        ("optim.lr=.nan", "number", "optim.lr"),
        ("optim.lr=1e999", "number", "optim.lr"),
        ("optim.lr=0", "greater_than", "optim.lr"),
        ("optim.lr=11", "at_most", "optim.lr"),
        ("tune.dropout=1", "less_than", "tune.dropout"),
        ("tune.dropout=-0.1", "at_least", "tune.dropout"),
        ("optim.betas=0.9", "pair", "optim.betas"),
        ("optim.betas=[1,2,3]", "pair", "optim.betas"),
        ("optim.betas=[0.9,1]", "less_than", "optim.betas.1"),
        ("tune.targets=[]", "targets_value", "tune.targets"),
        ("tune.targets=7", "text", "tune.targets.0"),
        ("tune.targets=[q proj]", "module_name", "tune.targets.0"),
        ("tune.layers=[]", "empty", "tune.layers"),
        ("tune.layers=[0,-1]", "at_least", "tune.layers.1"),
        ("tune.rank_pattern=[a]", "mapping", "tune.rank_pattern"),
        ("tune.rank_pattern={'(': 4}", "regex", "tune.rank_pattern.("),
        ("tune.rank_pattern={a: 0}", "at_least", "tune.rank_pattern.a"),
        ("data.validation=false", "validation_value", "data.validation"),
        ("data.validation=null", "validation_value", "data.validation"),
        ("data.validation=[{path: x, weigth: 2}]", "unknown_key_near", "data.validation.0.weigth"),
        ("data.train=[]", "empty", "data.train"),
        ("data.train=[{}]", "missing", "data.train.0.path"),
        ("data.train=", "list", "data.train"),
        ("data.system=[a, b]", "", ""),
        ("optim=5", "section", "optim"),
        ("method=5", "choice", "method"),
        ("tune={rank: 8, rnk: 4}", "unknown_key_near", "tune.rnk"),
        ("tune.rank.x=1", "whole_number", "tune.rank"),
        ("model.path=''", "empty", "model.path"),
        ("run.report=[]", "", ""),
        ("data.max_tokens=1_024", "", ""),
        ("=5", "override_form", ""),
        ("tune..rank=5", "override_form", ""),
        ("tune.rank", "override_form", ""),
    ],
)
def test_what_is_wrong_with_a_value(override: str, id: str, field: str) -> None:
    if not id:
        load(None, [*LEAST, override])
        return
    found = only(None, [*LEAST, override])
    assert (found.id, found.field, found.where) == (f"config.{id}", field, "command line")
    assert found.rule and found.remedy


def test_an_unknown_kind_does_not_hide_the_rest() -> None:
    found = problems(None, [*LEAST, "tune.kind=ful", "tune.rank=x", "tune.own=1"])
    assert [each.field for each in found] == ["tune.kind", "tune.rank"]


def test_a_part_of_a_single_value(recipe: Any) -> None:
    text = recipe("model: nano\ndata: {train: x.json}\ntune: {rank: 8}\n")
    found = only(text, ["tune.rank.x=1"])
    assert (found.id, found.field, found.where) == ("config.no_parts", "tune.rank.x", "command line")


def test_what_must_be_given() -> None:
    assert [(each.field, each.where) for each in problems(None, [])] == [
        ("model", "command line"),
        ("data.train", "command line"),
    ]


@pytest.mark.parametrize("key", ["run.hf_token", "hf_token", "model.api_key", "run.wandb_api_key", "data.password"])
def test_secrets_are_refused_and_never_repeated(key: str) -> None:
    found = problems(None, [*LEAST, f"{key}=hf_abcdefghijklmnopqrstuvwx"])
    assert [each.id for each in found] == ["config.secret"]
    found = problems(None, [*LEAST, "run.x=hf_abcdefghijklmnopqrstuvwx", "tune.rank={a: hf_abcdefghijklmnopqrstuvwx}"])
    assert "hf_a" not in "".join(json.dumps(each.to_json()) for each in found)


@pytest.mark.parametrize(
    ("text", "id", "line"),
    [
        ("model: nano\ndata: {train: x\n", "yaml_syntax", 3),
        ("model: nano\n\tdata: 1\n", "yaml_syntax", 2),
        ("model: nano\ndata: a: b\n", "yaml_syntax", 2),
        ("model: nano\ndata: {train: x}\ntune: {targets: *_proj}\n", "yaml_alias", 3),
        ("- model\n- data\n", "not_a_mapping", 1),
        ("model:nano", "not_a_mapping", 1),
        ("model: nano\ndata: {train: x}\nrun: {name: !x y}\n", "yaml_tag", 3),
        ("model: nano\ndata: {train: x}\n? [a]\n: b\n", "yaml_key", 3),
        ("model: nano\ndata: {train: x}\nmodel: nano\n", "duplicate_key", 3),
        ("model: nano\ndata: {train: x, max_tokens: 9, max_tokens: 9}\n", "duplicate_key", 2),
        ("model: nano\n---\nmodel: nano\n", "yaml_syntax", 2),
    ],
)
def test_files_that_are_no_recipe(text: str, id: str, line: int, recipe: Any) -> None:
    found = only(recipe(text))
    assert (found.id, found.where) == (f"config.{id}", f"recipe.yaml:{line}")


def test_files_that_cannot_be_read(tmp_path: Path, recipe: Any) -> None:
    recipe("model: nano")
    assert only("recpie.yaml").values == {"near": "recipe.yaml"}
    assert only("other.txt").id == "config.no_recipe"
    assert only("no/such/folder.yaml").id == "config.no_recipe"
    assert only(str(tmp_path)).id == "config.unreadable"
    (tmp_path / "latin.yaml").write_bytes(b"model: nano\nrun: {name: caf\xe9}\n")
    assert only("latin.yaml").where == "latin.yaml:2"
    (tmp_path / "zero.yaml").write_bytes(b"model: \0\n")
    assert only("zero.yaml").id == "config.yaml_syntax"
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    assert only("deep.yaml").id == "config.yaml_syntax"


def test_messages_in_chinese(recipe: Any) -> None:
    from luthier.text import set_language

    try:
        set_language("zh")
        found = problems(recipe("model: nano\ndata: {trian: x}\n"), ["tune.rank=x"])
        assert [each.where for each in found] == ["recipe.yaml:2", "recipe.yaml:2", "命令行"]
        assert "是不是 data.train？" in str(found[1])
    finally:
        set_language("en")


# ---------------------------------------------------------------------------------------------------- the way back


def test_resolved_says_what_will_run() -> None:
    plain = resolved(load(None, LEAST))
    assert plain["optim"]["lr"] == 2e-4 and plain["tune"]["alpha"] == 32
    assert plain["data"]["max_tokens"] == 2048
    assert "momentum" not in plain["optim"] and "power" not in plain["optim"]
    plain = resolved(
        load(None, [*LEAST, "tune=full", "model.init=random", "optim.steps=5", "optim.schedule=polynomial"])
    )
    assert plain["optim"]["lr"] == 3e-4 and plain["optim"]["power"] == 2 and "epochs" not in plain["optim"]
    assert resolved(load(None, [*LEAST, "tune=full"]))["optim"]["lr"] == 2e-5
    plain = resolved(load(None, [*LEAST, "tune.from=runs/a"]))
    assert plain["tune"] == {"kind": "lora", "dropout": 0.0, "from": "runs/a"}
    plain = resolved(load(None, [*LEAST, "optim.kind=sgd", "optim.lr=1", "optim.momentum=0.9"]))
    assert plain["optim"]["momentum"] == 0.9 and "betas" not in plain["optim"]
    json.dumps(plain)


def test_a_filled_recipe_comes_back_equal() -> None:
    config = load(
        None,
        [*LEAST, "tune.alpha=8", "optim.lr=1e-5", "run.name='1e-5'", "data.system=no: 是\n", "data.stop_token=on",
         "tune.rank_pattern={'^a\\.b$': 4}", "data.validation=[a.json, '0.1.json']", "run.report=wandb"],
    )  # fmt: skip
    assert loads(dump(config), "again") == config


NAMES = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=12)
PATHS = NAMES.filter(lambda text: text.strip())


def recipes() -> st.SearchStrategy[dict[str, Any]]:
    source = st.fixed_dictionaries({"path": PATHS}, optional={"weight": st.floats(0.1, 9)})
    lora = st.fixed_dictionaries(
        {"kind": st.just("lora")},
        optional={
            "rank": st.integers(1, 512),
            "alpha": st.floats(0.001, 1e6),
            "targets": st.one_of(
                st.just("all-linear"), st.lists(st.from_regex(r"[a-z_.]{1,9}", fullmatch=True), min_size=1)
            ),
            "rank_pattern": st.dictionaries(
                st.from_regex(r"[a-z.]{1,5}", fullmatch=True), st.integers(1, 9), max_size=2
            ),
            "layers": st.one_of(st.none(), st.lists(st.integers(0, 99), min_size=1, max_size=3)),
            "rslora": st.booleans(),
        },
    )
    return st.fixed_dictionaries(
        {
            "model": PATHS,
            "data": st.fixed_dictionaries(
                {"train": st.one_of(PATHS, st.lists(source, min_size=1, max_size=3))},
                optional={
                    "validation": st.one_of(st.just("auto"), st.floats(0, 0.4)),
                    "system": st.one_of(st.none(), NAMES),
                    "max_tokens": st.integers(8, 99999),
                },
            ),
        },
        optional={
            "tune": st.one_of(lora, st.sampled_from(["full", "lora", "freeze"])),
            "optim": st.fixed_dictionaries(
                {}, optional={"lr": st.floats(1e-9, 1), "eps": st.floats(1e-12, 1), "batch": st.integers(1, 999)}
            ),
            "run": st.fixed_dictionaries({}, optional={"name": NAMES, "dir": NAMES}),
        },
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(recipes())
def test_round_trip(recipe: dict[str, Any]) -> None:
    config = load(recipe)
    text = dump(config)
    again = loads(text, "again")
    assert resolved(again) == resolved(config)
    assert dump(again) == text
    assert load(config) == config
    filled = {"optim.lr": config.learning_rate}
    if isinstance(config.tune, Lora):
        filled["tune.alpha"] = config.tune.effective_alpha
    assert again == load(config, filled)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(recipes())
def test_other_readers_see_the_same(recipe: dict[str, Any]) -> None:
    """A dump means the same to a reader of YAML 1.1, except for text that is longer than a line may be."""
    config = load(recipe)
    assert yaml.safe_load(dump(config)) == resolved(config)


WORDS = st.one_of(
    st.sampled_from(
        [*"{}[]:,-=&*!|>'\"#%@`?\n \t.", "model", "data", "train", "tune", "kind", "rank", "nano", "lora", "~", "1e5"]
    ),
    st.text(max_size=3),
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORDS, max_size=20).map("".join), st.lists(st.lists(WORDS, max_size=8).map("".join), max_size=3))
def test_nonsense_is_answered_with_problems(text: str, overrides: list[str]) -> None:
    for call in (lambda: loads(text, "text"), lambda: load(None, [*LEAST, *overrides])):
        try:
            assert isinstance(call(), RunConfig)
        except ConfigError as error:
            assert all(problem.rule and problem.remedy for problem in error.problems)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
NAMED = st.sampled_from(
    ["model", "data", "data.train", "data.validation", "data.train.0", "data.train.0.weight", "method", "method.kind",
     "tune", "tune.kind", "tune.rank", "tune.targets", "tune.layers", "optim", "optim.betas", "run", "run.report", "x"]
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(NAMED, VALUES, max_size=4), st.dictionaries(NAMED, VALUES, max_size=3))
def test_nonsense_from_python_too(recipe: dict[str, Any], overrides: dict[str, Any]) -> None:
    try:
        assert isinstance(load(recipe, overrides), RunConfig)
    except ConfigError as error:
        assert all(problem.rule and problem.remedy for problem in error.problems)


# ---------------------------------------------------------------------------------------------------- in the repository


def recipes_in_the_repository() -> list[Path]:
    """Every YAML file but continuous integration's, hidden folders' and characters of a chat."""
    found = [path for pattern in ("*.yaml", "*.yml") for path in REPOSITORY.rglob(pattern)]
    found = [path for path in found if path.name != characters.FILE]
    inner = [path for path in found if not any(part.startswith(".") for part in path.relative_to(REPOSITORY).parts)]
    return sorted(path for path in inner if path.relative_to(REPOSITORY).parts[0] != "runs")


def test_every_recipe_in_the_repository_loads() -> None:
    for path in recipes_in_the_repository():
        load(path)


def test_learning_rates_follow_the_kind() -> None:
    assert isinstance(load(None, [*LEAST, "method=pretrain"]).method, Pretrain)
    rates = {kind: load(None, [*LEAST, f"tune={kind}"]).learning_rate for kind in ("lora", "full", "freeze")}
    assert rates == {"lora": 2e-4, "full": 2e-5, "freeze": 2e-5}
    assert load(None, [*LEAST, "optim.lr=0.5"]).learning_rate == 0.5


def test_settled_is_what_resolved_says() -> None:
    config = load(None, [*LEAST, "optim.steps=5", "tune.rank=4"])
    settled = settle(config)
    assert (settled.optim.lr, settled.tune) == (2e-4, Lora(rank=4, alpha=8))
    assert settle(settled) == settled and resolved(settled) == resolved(config)
    assert load(settled) == settled, "a settled recipe breaks no rule about fields given twice"
