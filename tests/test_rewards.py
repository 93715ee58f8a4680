"""Rewards: what each check is worth, what becomes of those that fail, hang or cheat, and their rehearsal."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import ConfigError
from luthier.scoring import sandbox, trial, verifiers
from luthier.scoring.rewards import Answer, Rewards, Scored, plugins, reasons
from luthier.scoring.verifiers import Asked, Unjudged, fits, last_number, make, unknown_keywords


def asked(reference: str | None = None, **columns: Any) -> Asked:
    return Asked([{"role": "user", "content": "What?"}], reference, columns)


# ------------------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7", 7.0),
        ("costs $1,200.50 in all.", 1200.5),
        ("between -3 and -2.5e1", -25.0),
        ("3/4", 0.75),
        ("1/0", None),
        ("none", None),
        ("9" * 400, None),
        (".5", 0.5),
    ],
)
def test_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("name", "answer", "reference", "worth"),
    [
        ("exact", " Paris\n", "Paris", 1),
        ("exact", "paris", "Paris", 0),
        ("numeric", "The answer is 12.", "#### 12", 1),
        ("numeric", "12 apples, so 13", "12", 0),
        ("numeric", "0.3333333", "1/3", 1),
        ("numeric", "", "1", 0),
        ("json", '```json\n{"b": [1], "a": true}\n```', '{"a": true, "b": [1.0]}', 1),
        ("json", '{"a": 1, "b": [1]}', '{"a": true, "b": [1]}', 0),
        ("json", "{", '{"a": 1}', 0),
        ("json", "[" * 100_000, '{"a": 1}', 0),
        ("json", "NaN", "[]", 0),
        ("json_fields", '{"a": 1, "b": 3}', '{"a": 1, "b": 2}', 0.5),
        ("json_fields", '{"a": 1, "b": 2, "c": 3, "d": 4}', '{"a": 1, "b": 2}', 0.5),
        ("json_fields", '{"a": true}', '{"a": 1, "b": 2}', 0),
        ("json_fields", "[1]", '{"a": 1, "b": 2}', 0),
        (r"regex:#### (\d+)", "so #### 12", "12", 1),
        (r"regex:#### (\d+)", "so #### 13", "12", 0),
        (r"regex:^yes", "no, yes", "yes", 0),
        (r"regex:^yes", "yes!", None, 1),
    ],
)
def test_checks(name: str, answer: str, reference: str | None, worth: float) -> None:
    assert make(name, 5.0)(answer, asked(reference)) == worth


@pytest.mark.parametrize(("name", "row"), [("exact", asked()), ("numeric", asked("none")), ("json", asked("{"))])
def test_a_row_without_what_is_needed(name: str, row: Asked) -> None:
    with pytest.raises(Unjudged):
        make(name, 5.0)("1", row)


SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "schema", "holds"),
    [
        ({"name": "Ada", "age": 36}, SCHEMA, True),
        ({"name": "", "age": 36}, SCHEMA, False),
        ({"name": "Ada", "age": True}, SCHEMA, False),
        ({"name": "Ada", "age": 3.0}, SCHEMA, True),
        ({"name": "Ada"}, SCHEMA, False),
        ({"name": "Ada", "age": 1, "x": 0}, SCHEMA, False),
        ([1, 2, 1], {"uniqueItems": True}, False),
        ([1, "1", True], {"uniqueItems": True}, True),
        ([1, 2], {"items": {"enum": [1, 2]}, "maxItems": 2}, True),
        ("b", {"anyOf": [{"const": "a"}, {"pattern": "^b"}]}, True),
        (5, {"oneOf": [{"minimum": 1}, {"maximum": 9}]}, False),
        (0.75, {"multipleOf": 0.25}, True),
        (None, {"not": {"type": "null"}}, False),
        (None, {"type": ["null", "string"]}, True),
        (1, False, False),
    ],
)
def test_schemas_against_their_own_library(value: Any, schema: Any, holds: bool) -> None:
    assert fits(value, schema) == holds
    library = pytest.importorskip("jsonschema")
    assert library.Draft202012Validator(schema).is_valid(value) == holds


def test_a_schema_with_keywords_that_nobody_checks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"properties": {"a": {"items": {"format": "date", "title": "A"}}}}))
    assert list(unknown_keywords(json.loads(file.read_text()))) == ["format"]
    with pytest.raises(ConfigError, match="format"):
        Rewards([f"json_schema:{file}"])


def test_schema_of_the_row() -> None:
    verify = make("json_schema", 5.0)
    assert verify('{"name": "Ada", "age": 1}', asked(schema=SCHEMA)) == 1
    assert verify('{"name": "Ada", "age": 1}', asked(schema='{"type": "array"}')) == 0
    with pytest.raises(Unjudged):
        verify("{}", asked())


# ------------------------------------------------------------------------------------------------------ programs


def test_code_is_worth_its_tests() -> None:
    row = asked(tests=["assert double(2) == 4", "assert double(0) == 1"])
    assert make("code", 5.0)("Here:\n```python\ndef double(x):\n    return 2 * x\n```", row) == 0.5
    assert make("code", 5.0)("def double(x: return", row) == 0


@pytest.mark.parametrize(
    "cheat",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'0 1')\n    except OSError: pass\nos._exit(0)",
        "x = [0] * 10**10",
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        "open('/tmp/luthier-escape', 'w').write('x')",
        "import os; os.remove('/etc/hostname')",
        "import ctypes; ctypes.CDLL(None)",
    ],
)
def test_code_that_cheats_or_breaks_out(cheat: str) -> None:
    outcome = sandbox.run(cheat, ["assert True"], seconds=5.0)
    assert outcome.passed == 0
    assert not os.path.exists("/tmp/luthier-escape")


def test_code_may_write_in_its_own_folder() -> None:
    assert sandbox.run("open('x', 'w').write('1')\ny = open('x').read()", ["assert y == '1'"]).passed == 1


def test_code_that_never_ends_is_ended() -> None:
    began = time.monotonic()
    assert sandbox.run("while True: pass", ["assert True"], seconds=0.5) == sandbox.Outcome(0, 1, "time")
    assert sandbox.run("def f():\n    while True: pass", ["f()"], seconds=0.5).ended == "time"
    assert time.monotonic() - began < 10


def test_code_has_no_network_where_a_process_can_give_it_up() -> None:
    """Past Python's own doors: what the kernel says of the interfaces that the process sees."""
    found = sandbox.run("lines = open('/proc/net/dev').read().split('\\n')[2:]", ["assert len(lines) <= 2"])
    if os.system("unshare -rn true 2>/dev/null") == 0:
        assert found.passed == 1


# ---------------------------------------------------------------------------------------------------- the user's own


OWN = """
import time
def short(answer, row):
    assert row["prompt"][0]["role"] == "user"
    print("this stands nowhere")
    return 1.0 / (1 + len(answer)) + row.get("bonus", 0)
def fails(answer, row):
    if answer == "bad":
        raise ValueError("no good")
    if answer == "slow":
        time.sleep(60)
    if answer == "dies":
        import os; os._exit(3)
    if answer == "nan":
        return float("nan")
    return 1
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_rewards_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    return name


def test_own_functions_and_weights(own: str) -> None:
    rewards = Rewards([f"{own}:short", "exact"], [2.0, 10.0])
    scored = rewards.score([Answer("abc", asked("abc", bonus=1)), Answer("", asked("abc"))])
    assert [each.value for each in scored] == [2 * 1.25 + 10, 2.0]
    assert scored[0].parts == {f"{own}:short": 1.25, "exact": 1.0}
    assert list(plugins(rewards.names)) == [f"{own}:short"]
    rewards.close()


def test_a_reward_that_fails_or_hangs_costs_one_answer(own: str) -> None:
    rewards = Rewards([f"{own}:fails"], seconds=1.0)
    texts = ["good", "bad", "slow", "dies", "nan", "good"]
    scored = rewards.score([Answer(text, asked()) for text in texts])
    assert [each.value for each in scored] == [1.0, None, None, None, None, 1.0]
    assert "no good" in scored[1].reason and scored[2].reason.endswith(": it took more than 1 s")
    assert sum(reasons(scored).values()) == 4
    rewards.close()


def test_a_pattern_that_never_ends_costs_one_answer() -> None:
    rewards = Rewards([r"regex:^(a+)+$"], seconds=1.0)
    scored = rewards.score([Answer("a" * 60 + "b", asked()), Answer("aa", asked())])
    assert [each.value for each in scored] == [None, 1.0]
    rewards.close()


def test_rewards_that_cannot_be_used_are_all_named(own: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Rewards(["nowhere:f", f"{own}:absent", "regex:(", "json_schema:absent.json"])
    assert [each.value for each in caught.value.problems] == [
        "nowhere:f",
        f"{own}:absent",
        "regex:(",
        "json_schema:absent.json",
    ]


def test_a_reward_model_is_asked_for_all_at_once() -> None:
    rewards = Rewards(["model:judge"], models={"model:judge": lambda answers: [len(each.text) for each in answers]})
    assert [each.value for each in rewards.score([Answer("ab", asked()), Answer("", asked())])] == [2.0, 0.0]


# -------------------------------------------------------------------------------------------------------- rehearsal


def test_rehearsal_finds_what_a_reward_can_be_fooled_by(own: str, tmp_path: Path) -> None:
    rows = [asked("Paris"), asked("Rome")]
    honest = trial.rehearse(Rewards(["exact"]), rows)
    assert honest.real == 1 and set(honest.fakes.values()) == {0.0} and honest.fooled_by() == []
    rewards = Rewards([f"{own}:short"])
    fooled = trial.rehearse(rewards, rows)
    assert fooled.fooled_by() == ["empty"]  # the echo is longer than "Rome"
    rewards.close()


def test_rehearsal_without_references_takes_the_models_own_answers() -> None:
    found = trial.Trial(None, {"empty": 0.5, "boast": 0.1}, {}, 4)
    assert found.fooled_by() == [] and found.fooled_by(0.3) == ["empty"]


def test_scored_says_why() -> None:
    rewards = Rewards(["exact"])
    assert rewards.score([Answer("x", asked())]) == [Scored(None, "exact: the row has no reference answer")]


def test_names_of_checks() -> None:
    assert set(verifiers.BUILT_IN) == {"exact", "numeric", "json", "json_fields", "code", "regex", "json_schema"}
