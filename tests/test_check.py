"""Whole files, checked.

What goes in: recipes with good, bad and odd files. What comes out: the counts, the rows named, the notes and the split,
held against what a few lines of plain Python find in the same files.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from peaks import PEAK

from luthier.config.schema import RunConfig
from luthier.data import check, scan, split
from luthier.data.check import Checked, check_path, check_sources
from luthier.data.formats import Chat, Example, Labelled, Message, Preference, Prompt, Text
from luthier.errors import DataError, Problem
from luthier.text import set_language

WriteRows = Callable[..., Path]


def config(train: Any, **data: Any) -> RunConfig:
    method = data.pop("method", "sft")
    seed = data.pop("seed", 0)
    return RunConfig.model_validate(
        {"model": "nano", "data": {"train": train, **data}, "method": method, "run": {"seed": seed}}
    )


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"instruction": f"question {number}", "output": f"answer {number}"} for number in range(start, start + count)
    ]


def note(checked: Checked, id: str) -> Problem:
    (found,) = [each for each in checked.notes if each.id == id]
    assert found.rule and found.remedy
    return found


def notes(checked: Checked) -> set[str]:
    return {each.id for each in checked.notes}


# ----------------------------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "format", "real_rows"),
    [
        ("alpaca_en_demo.json", "alpaca", 999),
        ("identity.json", "alpaca", 91),
        ("v1_sft_demo.jsonl", "messages", 500),
        ("glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("reason_tool_use_demo_50.jsonl", "messages", 50),
        ("dpo_en_demo.json", "preference", 300),
        ("kto_en_demo.json", "labelled", 300),
        ("c4_demo.jsonl", "text", 300),
        ("wiki_demo.txt", "text", 30),
    ],
)
def test_real_files_are_read_whole(real_data: Callable[[str], Path], name: str, format: str, real_rows: int) -> None:
    path = real_data(name)
    checked = check_path(str(path))
    (file,) = checked.files
    assert not checked.problems and not checked.excluded
    assert file.format == format and file.read == file.kept == len(checked.train)
    if path.parent.name == "data":
        assert file.read == real_rows
    assert file.bytes == path.stat().st_size
    assert check.lines(checked)[0] == f"{path}: {file.read} rows read = {file.read} kept + 0 left out"
    assert json.loads(json.dumps(check.report(checked)))["train"] == file.read


def test_duplicates_of_a_real_file_are_counted(real_data: Callable[[str], Path]) -> None:
    path = real_data("alpaca_en_demo.json")
    values = json.loads(path.read_bytes())
    distinct = len({(row["instruction"], row.get("input", ""), row["output"]) for row in values})
    checked = check_path(str(path))
    assert checked.files[0].distinct == distinct
    if distinct < len(values):
        assert note(checked, "data.duplicates").values["rows"] == len(values) - distinct


def test_placeholders_of_a_real_file_are_told(real_data: Callable[[str], Path]) -> None:
    path = real_data("identity.json")
    hit = [row for row in json.loads(path.read_bytes()) if "{{" in row["output"] + row["instruction"]]
    found = note(check_path(str(path)), "data.unfilled")
    assert found.values["rows"] == len(hit)
    assert {"{{name}}", "{{author}}"} <= set(found.values["words"].split(", "))
    assert str(path) in found.values["places"]
    accepted = check_sources(config(str(path), allow_unfilled=True))
    assert "data.unfilled" not in notes(accepted)


def test_weights_of_a_real_file_are_kept(real_data: Callable[[str], Path]) -> None:
    path = real_data("v1_sft_demo.jsonl")
    values = [json.loads(line) for line in path.read_bytes().splitlines()]
    for item, row in zip(check_path(str(path)).train, values, strict=True):
        assert isinstance(item.example, Chat)
        assert [(each.role, each.content, each.weight) for each in item.example.messages] == [
            (each["role"], each["content"][0]["value"], each["loss_weight"]) for each in row["messages"]
        ]


@pytest.mark.parametrize(
    ("name", "format", "id"),
    [("dpo_en_demo.json", "preference", "data.preference"), ("kto_en_demo.json", "labelled", "data.feedback")],
)
@pytest.mark.parametrize("method", ["sft", "pretrain"])
def test_real_files_for_other_methods_are_refused(
    real_data: Callable[[str], Path], name: str, format: str, id: str, method: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_sources(config(str(real_data(name)), method=method))
    (problem,) = caught.value.problems
    assert problem.id == id
    assert f"method {method} learns" in problem.rule and f"(format {format})" in problem.rule


def test_prompts_alone_are_for_other_methods(write_rows: WriteRows) -> None:
    path = write_rows("p.jsonl", [{"prompt": "What is 6 x 7?", "answer": "42"}] * 2)
    assert check_path(str(path)).files[0].kept == 2
    with pytest.raises(DataError) as caught:
        check_sources(config(str(path)))
    assert [problem.id for problem in caught.value.problems] == ["data.prompt_only"]
    assert "format: qa, columns: {question: prompt}" in caught.value.problems[0].remedy
    named = {"path": str(path), "format": "qa", "columns": {"question": "prompt"}}
    assert len(check_sources(config(named)).train) == 2


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
OTHER = [TURNS[0], {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "qa"),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, "qa"),
        ({"question": "q", "response_j": "a", "response_k": "b"}, "qa"),
        ({"instruction": "q", "input": "x", "chosen": "a", "rejected": "b"}, "alpaca"),
        ({"chosen": TURNS, "rejected": OTHER}, "messages"),
        ({"prompt": "q", "chosen_messages": TURNS, "rejected_messages": OTHER}, "messages"),
        ({"problem": "q", "solution": "a"}, "qa"),
        # none that would be true
        ({"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": OTHER[1]}, ""),
        ({"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": OTHER[1:]}, ""),
        ({"instruction": "q", "output": ["a", "b"]}, ""),
        ({"prompt": "q", "chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, ""),
        ({"system": "s", "chosen": TURNS, "rejected": OTHER, "prompt": "q", "margin": 1}, "messages"),
        ({"prompt": "q"}, ""),
        ({"prompt": "q", "completion": "a", "label": True}, ""),
        ({"messages": TURNS, "label": False}, ""),
    ],
)
def test_what_is_offered_to_imitate_answers_works(write_rows: WriteRows, row: dict[str, Any], named: str) -> None:
    path = str(write_rows("a.jsonl", [row] * 3))
    with pytest.raises(DataError) as caught:
        check_sources(config(path))
    (problem,) = caught.value.problems
    offered = re.search(r"data\.train: (\{.*\})\.$", problem.remedy)
    assert bool(offered) == bool(named)
    method = {"data.preference": "dpo", "data.feedback": "kto", "data.prompt_only": "grpo"}[problem.id]
    assert f"method={method}" in problem.remedy
    (told,) = (each for each in check_path(path).notes if each.id.startswith("data.for_"))
    assert f"method={method}" in str(told)
    with pytest.raises(DataError) as caught:
        check_sources(config(path, method="pretrain"))
    assert "data.train" not in caught.value.problems[0].remedy
    if offered:
        source = {**yaml.safe_load(offered[1]), "path": path}
        assert source["format"] == named
        example = next(iter(check_sources(config(source)).train)).example
        assert isinstance(example, Chat) and example.messages[-1] == Message("assistant", "a")
        assert len(example.messages) == (3 if "system" in row else 2)


# ------------------------------------------------------------------------------------------------------ bad rows


def test_every_bad_row_is_named_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"instruction": "q", "output": "a"}\n{"instruction": "q"}\n{broken\n{"instruction": "q", "output": ""}\n'
    )
    with pytest.raises(DataError) as caught:
        check_sources(config(str(path)))
    assert [(problem.id, problem.where.removeprefix(str(path))) for problem in caught.value.problems] == [
        ("data.missing_field", ":2"),
        ("data.json_syntax", ":3:2"),
        ("data.empty_answer", ":4"),
        ("data.stopped", ""),
    ]
    assert "3 of 4 rows" in caught.value.problems[-1].rule and "data.bad_rows=drop" in str(caught.value)


def test_dropped_rows_are_kept_account_of(tmp_path: Path, write_rows: WriteRows) -> None:
    bad = [{"instruction": "q"}, {"instruction": "q", "output": 3}]
    path = write_rows("a.json", [*rows(150), *bad])
    checked = check_sources(config(str(path), bad_rows="drop", validation=0.0))
    assert len(checked.train) == 150
    assert [(row.path, row.number, row.reason_id) for row in checked.excluded] == [
        (str(path), 151, "data.missing_field"),
        (str(path), 152, "data.wrong_type"),
    ]
    assert checked.files[0].faults == {"data.missing_field": 1, "data.wrong_type": 1}
    assert note(checked, "data.left_out").values == {"rows": 2, "read": 152}
    assert checked.excluded[0].reason.startswith("output: is missing")
    assert any("1 × output: is number, text is needed" in line for line in check.lines(checked))


def test_many_bad_rows_are_counted(write_rows: WriteRows) -> None:
    path = write_rows("a.jsonl", [*rows(30), *[{"instruction": "q", "output": ""}] * 70])
    checked = check_path(str(path))
    named = [problem for problem in checked.problems if problem.id == "data.empty_answer"]
    (more,) = [problem for problem in checked.problems if problem.id == "data.more"]
    assert len(named) == scan.SHOWN and more.values["rows"] == 70 - scan.SHOWN
    assert len(checked.excluded) == 70


def test_nothing_left(write_rows: WriteRows) -> None:
    path = write_rows("a.jsonl", [{"instruction": "q", "output": ""}] * 3)
    with pytest.raises(DataError, match="no row can be used"):
        check_sources(config(str(path), bad_rows="drop"))


@pytest.mark.parametrize(
    ("content", "id"),
    [
        (b"", "data.empty_file"),
        (b"[]", "data.no_rows"),
        (b'[{"instruction": "q", "output": "a"}, {', "data.json_array_broken"),
        (b'[{"title": "t"}]', "data.format_unknown"),
    ],
)
def test_a_file_that_cannot_be_used_stops_even_where_rows_are_dropped(tmp_path: Path, content: bytes, id: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        check_sources(config([str(path), str(tmp_path / "absent.json")], bad_rows="drop"))
    assert [problem.id for problem in caught.value.problems] == [id, "data.no_file"]


def test_the_same_file_twice_is_refused(write_rows: WriteRows) -> None:
    path = write_rows("a.json", rows(3))
    with pytest.raises(DataError, match="more than once"):
        check_sources(config([str(path), str(path)]))


def test_a_file_that_changes_while_it_is_read(write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows("a.jsonl", rows(3))
    real = scan.content_hash

    def writes_meanwhile(example: Any) -> bytes:
        with open(path, "a") as file:
            file.write("\n")
        return real(example)

    monkeypatch.setattr(scan, "content_hash", writes_meanwhile)
    with pytest.raises(DataError, match="changed while it was read"):
        check_sources(config(str(path)))


def test_text_and_chat_belong_to_their_methods(write_rows: WriteRows) -> None:
    text, chat = write_rows("t.jsonl", [{"text": "a b c"}] * 2), write_rows("c.jsonl", rows(2))
    with pytest.raises(DataError) as caught:
        check_sources(config([str(text), str(chat)]))
    assert [problem.id for problem in caught.value.problems] == ["data.sft_on_text"]
    with pytest.raises(DataError) as caught:
        check_sources(config([str(text), str(chat)], method="pretrain"))
    assert [problem.id for problem in caught.value.problems] == ["data.pretrain_on_chat"]
    assert next(iter(check_sources(config(str(text), method="pretrain")).train)).example == Text("a b c")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("dpo_en_demo.json", "dpo"),
        ("kto_en_demo.json", "kto"),
        ("wiki_demo.txt", "pretrain"),
        ("identity.json", None),
    ],
)
def test_a_file_alone_is_told_what_it_is_for(real_data: Callable[[str], Path], name: str, method: str | None) -> None:
    found = [each for each in check_path(str(real_data(name))).notes if each.id.startswith("data.for_")]
    assert [each.id for each in found] == (["data.for_method"] if method else [])
    assert method is None or f"method={method}" in found[0].remedy or method in found[0].rule


@pytest.mark.parametrize("method", ["dpo", "kto", "reward"])
def test_answers_that_nobody_judged_are_for_other_methods(write_rows: WriteRows, method: str) -> None:
    with pytest.raises(DataError) as caught:
        check_sources(config(str(write_rows("a.jsonl", rows(3))), method=method))
    (problem,) = caught.value.problems
    assert problem.id == "data.not_judged" and f"method {method} learns" in problem.rule


def test_a_format_may_be_given_per_file(write_rows: WriteRows) -> None:
    both = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": True}
    judged, plain = write_rows("j.jsonl", [both]), write_rows("p.jsonl", rows(1))
    checked = check_sources(config([{"path": str(judged), "format": "messages"}, str(plain)]))
    assert [(file.format, file.why == "as the recipe says") for file in checked.files] == [
        ("messages", True),
        ("alpaca", False),
    ]
    assert note(checked, "data.unread_keys").values["words"] == "label"
    assert [item.source_index for item in checked.train] == [0, 1]


def test_the_users_own_format(tmp_path: Path, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_check_format.py").write_text(
        "def chat(row):\n    return {'question': row['q'], 'answer': row['a']}\n", encoding="utf-8"
    )
    path = write_rows("a.jsonl", [{"q": "q", "a": "a"}, {"q": "q"}])
    checked = check_sources(config(str(path), format="own_check_format:chat", bad_rows="drop"))
    assert next(iter(checked.train)).example == Chat((Message("user", "q"), Message("assistant", "a")))
    assert checked.plugins == {"own_check_format:chat": tmp_path / "own_check_format.py"}
    (left,) = checked.excluded
    assert left.number == 2 and "KeyError: 'a' (own_check_format.py:2)" in left.reason
    with pytest.raises(DataError, match="no such function"):
        check_sources(config(str(path), format="own_check_format:absent"))


# --------------------------------------------------------------------------------------------- columns and roles


def test_columns_and_roles_of_a_source_are_renamed(write_rows: WriteRows) -> None:
    nested = [{"meta": {"ask": f"q{n}"}, "reply": {"text": "a"}, "output": "other", "id": n} for n in range(3)]
    path = write_rows("a.jsonl", nested)
    columns = {"instruction": "meta.ask", "output": "reply.text"}
    checked = check_sources(config({"path": str(path), "columns": columns}))
    assert checked.files[0].format == "alpaca"
    assert list(checked.train)[2].example == Chat((Message("user", "q2"), Message("assistant", "a")))
    assert note(checked, "data.unread_keys").values["words"] == "id, output"
    turns = [{"speaker": "USER", "text": "q"}, {"speaker": "BOT", "text": "a"}]
    path = write_rows("b.jsonl", [{"talk": turns}, {"talk": json.dumps(turns)}])
    source = {
        "path": str(path),
        "columns": {"messages": "talk", "role": "speaker", "content": "text"},
        "roles": {"USER": "user", "BOT": "assistant"},
    }
    checked = check_sources(config(source))
    assert [item.example for item in checked.train] == [Chat((Message("user", "q"), Message("assistant", "a")))] * 2
    assert not checked.notes or notes(checked) <= {"data.duplicates", "data.too_few_to_hold_out"}


@pytest.mark.parametrize(
    ("names", "id", "said"),
    [
        ({"columns": {"instuction": "q"}}, "data.column_target", "Did you mean instruction?"),
        ({"columns": {"instruction": "Q", "output": "a"}}, "data.column_absent", "Did you mean q?"),
        ({"columns": {"question": "q.x", "answer": "a"}}, "data.column_absent", "it has: q, a"),
        ({"roles": {"BOT": "asistant"}}, "data.role_target", "Did you mean assistant?"),
    ],
)
def test_names_that_do_not_exist_are_answered_with_the_nearest(
    write_rows: WriteRows, names: dict[str, Any], id: str, said: str
) -> None:
    path = write_rows("a.jsonl", [{"q": "q", "a": "a"}])
    with pytest.raises(DataError) as caught:
        check_sources(config({"path": str(path), **names}))
    assert [problem.id for problem in caught.value.problems] == [id]
    assert said in str(caught.value)


# --------------------------------------------------------------------------------------------------------- notes


def test_few_rows_repeated_are_told_loudly(write_rows: WriteRows) -> None:
    checked = check_path(str(write_rows("a.json", rows(2) * 50)))
    assert note(checked, "data.few_distinct").rule.startswith("ONLY 2 OF 100 ROWS")
    assert checked.files[0].distinct == 2


def test_repeats_across_files_are_found(write_rows: WriteRows) -> None:
    one, two = write_rows("1.jsonl", rows(10)), write_rows("2.jsonl", rows(10, start=9))
    found = note(check_sources(config([str(one), str(two)])), "data.duplicates")
    assert (found.values["rows"], found.values["places"]) == (1, f"{two}:1 = {one}:10")


def test_a_conversation_that_ends_with_a_question_is_noted(write_rows: WriteRows) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    assert note(check_path(str(write_rows("a.jsonl", [{"messages": turns}]))), "data.unanswered").values["rows"] == 1


def test_rows_that_are_trained_and_validated_are_noted(write_rows: WriteRows) -> None:
    train, valid = write_rows("t.jsonl", rows(10)), write_rows("v.jsonl", rows(5, start=8))
    checked = check_sources(config(str(train), validation=[str(valid)]))
    assert len(checked.train) == 10 and len(checked.validation) == 5
    assert note(checked, "data.leak").values == {"rows": 2, "places": f"{valid}:1, {valid}:2", "words": ""}
    assert [file.role for file in checked.files] == ["train", "validation"]


def test_files_for_validation_are_checked_too(write_rows: WriteRows) -> None:
    train, valid = write_rows("t.jsonl", rows(10)), write_rows("v.jsonl", [*rows(1), {"instruction": "q"}])
    with pytest.raises(DataError) as caught:
        check_sources(config(str(train), validation=[str(valid)]))
    assert caught.value.problems[0].where == f"{valid}:2"


def test_braces_in_code_are_no_placeholders(write_rows: WriteRows) -> None:
    values = [{"instruction": "q", "output": text} for text in ("f'{{{x}}}'", "{{1, 2}, {3}}", "{ {name} }")]
    assert "data.unfilled" not in notes(check_path(str(write_rows("a.jsonl", values))))


# --------------------------------------------------------------------------------------------------------- split


def parts(checked: Checked) -> tuple[set[str], set[str]]:
    def questions(items: Any) -> set[str]:
        return {item.example.messages[0].content for item in items}

    return questions(checked.train), questions(checked.validation)


@pytest.mark.parametrize(
    ("share", "count", "held_out"),
    [
        ("auto", 99, 0),
        ("auto", 100, 5),
        ("auto", 12_000, 500),
        (0.1, 100, 10),
        (0.01, 10, 1),
        (0.0, 500, 0),
        (0.3, 1, 0),
    ],
)
def test_how_many_rows_are_held_out(share: Any, count: int, held_out: int) -> None:
    assert split.wanted_rows(share, count) == held_out


def test_the_split_depends_on_content_and_seed_alone(write_rows: WriteRows) -> None:
    values = rows(200)
    first = parts(check_sources(config(str(write_rows("a.json", values)), validation=0.1)))
    random.Random(0).shuffle(values)
    shuffled = parts(check_sources(config(str(write_rows("b.jsonl", values)), validation=0.1)))
    other = parts(check_sources(config(str(write_rows("c.json", values)), validation=0.1, seed=1)))
    assert first == shuffled and len(first[1]) == 20
    assert not first[0] & first[1] and len(first[0] | first[1]) == 200
    assert first != other


def test_no_copy_of_a_held_out_row_is_trained(write_rows: WriteRows) -> None:
    values = rows(60) + rows(60)
    checked = check_sources(config(str(write_rows("a.json", values)), validation=0.2))
    train, validation = parts(checked)
    assert not train & validation
    assert len(checked.validation) == 24 and len(validation) == 12
    assert note(checked, "data.copies_held_out").values == {"copies": 12, "rows": 24}


def near_rows(groups: int, of_each: int) -> list[dict[str, str]]:
    """Groups of rows that differ in their last word, and no two groups alike; `question` is the group's number."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2000)]
    answers = [" ".join(rng.choices(words, k=40)) for _ in range(groups)]
    return [
        {"instruction": f"{group}", "output": f"{answers[group]} {rng.choice(words)}"}
        for _ in range(of_each)
        for group in range(groups)
    ]


def test_no_near_duplicate_of_a_held_out_row_is_trained(write_rows: WriteRows) -> None:
    """Sixty groups of five; exact groups alone would part nearly all that have a row held out."""
    values = near_rows(60, 5)
    recipe = config(str(write_rows("a.jsonl", values)), validation=0.1)
    train, validation = parts(check_sources(recipe))
    assert len(validation) == 6 and not train & validation and len(train | validation) == 60
    random.Random(1).shuffle(values)
    assert parts(check_sources(config(str(write_rows("b.json", values)), validation=0.1))) == (train, validation)
    loose_train, loose = parts(check.inspect(recipe))
    assert len(loose_train & loose) > 20


def test_near_duplicates_below_one_long_instruction(write_rows: WriteRows) -> None:
    """A second look at the rows says which ones are alike beside what all share."""
    header = " ".join(f"rule{number}" for number in range(300))
    values = [{"instruction": header + row["instruction"], "output": row["output"]} for row in near_rows(60, 5)]
    train, validation = parts(check_sources(config(str(write_rows("a.jsonl", values)), validation=0.1)))
    assert len(validation) == 6 and not train & validation


def test_a_hundred_copies_with_a_word_changed_stay_on_one_side(write_rows: WriteRows) -> None:
    """What they share stands in a fifth of the rows, as a form does."""
    rows_ = near_rows(401, 1)
    first = rows_.pop()["output"].split()
    words = [row["output"].split()[0] for row in rows_]
    for number in range(100):
        at = 5 + number % 30
        changed = [*first[:at], words[number], *first[at + 1 :]]
        rows_.append({"instruction": "copied", "output": " ".join([*changed, *first[:20][::-1]])})
    for seed in range(5):
        checked = check_sources(config(str(write_rows("a.jsonl", rows_)), validation=0.3, seed=seed))
        train, validation = parts(checked)
        assert len(validation) > 30 and not train & validation


def test_groups_too_large_to_be_held_out_are_parted_and_told(write_rows: WriteRows) -> None:
    checked = check_sources(config(str(write_rows("a.jsonl", near_rows(2, 45))), validation=0.1))
    assert len(checked.validation) == 9
    assert note(checked, "data.near_parted").values == {"rows": 9}
    assert not notes(check_sources(config(str(write_rows("b.jsonl", near_rows(60, 5))), validation=0.1)))


def test_above_the_limit_only_equal_rows_stay_together(write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SAMPLE_ROWS", 299)
    path = str(write_rows("a.jsonl", near_rows(60, 5)))
    checked = check_sources(config(path, validation=0.1))
    assert note(checked, "data.near_not_searched").values == {"most": 299}
    assert parts(checked) == parts(check.inspect(config(path, validation=0.1)))
    assert not notes(check_sources(config(path, validation=0.0)))


def test_nothing_small_enough_to_hold_out(write_rows: WriteRows) -> None:
    checked = check_sources(config(str(write_rows("a.json", rows(2) * 50))))
    assert not len(checked.validation) and len(checked.train) == 100
    assert "data.nothing_held_out" in notes(checked)
    few = check_sources(config(str(write_rows("b.json", rows(20)))))
    assert note(few, "data.too_few_to_hold_out").values == {"rows": 20, "least": 100}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=60), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_laws_of_the_split(numbers: list[int], wanted: int, seed: int) -> None:
    hashes = np.asarray([bytes([number] * scan.HASH_BYTES) for number in numbers], dtype=f"V{scan.HASH_BYTES}")
    found = split.hold_out(split.Groups.equal(hashes), None, wanted, seed)
    held, kept = ([each.tobytes() for each in hashes[mask]] for mask in (found.held_out, ~found.held_out))
    assert not set(held) & set(kept)
    assert len(held) <= wanted and found.copies == len(held) - len(set(held))
    assert kept or not numbers
    backwards = split.hold_out(split.Groups.equal(hashes[::-1]), None, wanted, seed)
    assert sorted(held) == sorted(each.tobytes() for each in hashes[::-1][backwards.held_out])


def test_equal_content_has_one_hash_and_other_content_another() -> None:
    plain = Chat((Message("user", "q"), Message("assistant", "a")))
    assert scan.content_hash(plain) == scan.content_hash(
        Chat((Message("user", "q", extra={}), Message("assistant", "a", 1.0)), ())
    )
    one, two = (Message("user", "q"),), (Message("assistant", "a"),)
    better = Preference(one, two, (Message("assistant", "b"),))
    others: list[Example] = [
        better,
        replace(better, margin=0.0),
        replace(better, chosen=better.rejected, rejected=better.chosen),
        Labelled(one, two, True),
        Labelled(one, two, False),
        Prompt(one),
        Prompt(one, answer="a"),
        Prompt(one, columns={"level": 1}),
        Chat((Message("user", "q"), Message("assistant", "a", 0.5))),
        Chat((Message("user", "q"), Message("assistant", "a", extra={"name": "n"}))),
        Chat(plain.messages, ({"name": "f"},)),
        Text('["chat"]'),
    ]
    assert len({scan.content_hash(each) for each in (plain, *others)}) == 1 + len(others)


# -------------------------------------------------------------------------------------------------------- output


def test_the_report_is_in_both_languages(write_rows: WriteRows) -> None:
    path = str(write_rows("a.jsonl", [*rows(3), {"instruction": "q"}]))
    assert any("missing" in line for line in check.lines(check_path(path)))
    set_language("zh")
    assert any("缺少此字段" in line for line in check.lines(check_path(path)))


def test_a_file_that_changes_between_two_readings_is_noticed(write_rows: WriteRows) -> None:
    path = write_rows("a.jsonl", rows(20))
    checked = check_sources(config(str(path), validation=0.1))
    assert len(list(checked.train)) == 18
    path.write_text(path.read_text().replace("answer 7", "answer 8"))
    with pytest.raises(DataError, match="changed"):
        list(checked.train), list(checked.validation)
    path.write_text("")
    with pytest.raises(DataError, match="changed"):
        list(checked.train)


def test_memory_grows_with_the_number_of_rows_and_not_with_their_size(tmp_path: Path) -> None:
    """100,000 rows of about 1 kB, 100 MB: what is kept is some tens of bytes per row."""
    path = tmp_path / "a.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for number in range(100_000):
            file.write(json.dumps({"instruction": f"question {number}", "output": "word " * 200}) + "\n")
    code = PEAK + (
        "import sys; from luthier.data.check import check_path\n"
        "check_path(sys.argv[2]); before = peak(); kept = check_path(sys.argv[1]).files[0].kept\n"
        "print(kept, peak() - before)"
    )
    small = tmp_path / "b.jsonl"
    small.write_text(json.dumps({"instruction": "q", "output": "a"}))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(small)], capture_output=True, text=True, check=True
    )
    kept, grown_kib = map(int, done.stdout.split())
    assert kept == 100_000 and grown_kib * 1024 < 300 * kept
