"""Data sets of LLaMA-Factory and axolotl recipes: the sources that they become, and that these read the same rows.

The catalogues, recipes and rows here are our own, with the keys that those programs document. What a row means there
is written out by hand beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.config.load import load
from luthier.data import check
from luthier.data.examples import Chat, Example, Labelled, Preference, Text, misfit
from luthier.importing import axolotl_data, catalogue
from luthier.importing.draft import Draft
from luthier.importing.translate import Imported, translate

CALL = '{"name": "clock", "arguments": {"zone": "Lima"}}'
TOOLS = '[{"type": "function", "function": {"name": "clock", "parameters": {}}}]'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def factory(desk: Path, entries: dict[str, Any], **more: Any) -> Imported:
    """A LLaMA-Factory recipe that trains on all entries of a catalogue."""
    (desk / "data" / catalogue.FILE).write_text(json.dumps(entries))
    recipe = {"model_name_or_path": "nano", "dataset": ",".join(entries), "template": "qwen", **more}
    (desk / "theirs.json").write_text(json.dumps(recipe))
    return loaded(desk, translate(desk / "theirs.json"))


def tolotl(desk: Path, *entries: Any, **more: Any) -> Imported:
    """An axolotl recipe with these data sets."""
    recipe = {"base_model": "nano", "datasets": list(entries), "adapter": "lora", **more}
    (desk / "theirs.json").write_text(json.dumps(recipe))
    return loaded(desk, translate(desk / "theirs.json"))


def loaded(desk: Path, done: Imported) -> Imported:
    """What was written loads, and says what the translation holds."""
    (desk / "ours.yaml").write_text(done.text)
    assert load(desk / "ours.yaml") == done.config
    return done


def told(done: Imported, start: str) -> dict[str, str]:
    """Key below a place in the file -> why it has no equal."""
    return {each.key.removeprefix(start): each.reason for each in done.findings if each.key.startswith(start)}


def sources(done: Imported) -> list[dict[str, Any]]:
    return list(done.settings["data.train"])


def read(done: Imported) -> list[Example]:
    """Every row of the recipe's data, as training reads it."""
    checked = check.inspect(done.config)
    found = list(check.examples(checked.given))
    refused = {misfit(type(each), done.config.method.kind) for each in found} - {""}
    assert not checked.excluded and {each.id for each in checked.problems} == refused
    return found


def said(example: Example) -> list[tuple[str, str]]:
    """(role, words) of each turn; a tool call stands as the name of the tool."""
    assert isinstance(example, Chat)
    calls = [[call["function"]["name"] for call in turn.extra.get("tool_calls", ())] for turn in example.messages]
    turns = zip(example.messages, calls, strict=True)
    return [(turn.role, ",".join(call) if call else turn.content) for turn, call in turns]


# ------------------------------------------------------------------------------------------------ LLaMA-Factory

ANSWERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "columns of every kind under other names": (
        {
            "columns": {
                "prompt": "aufgabe",
                "query": "eingabe",
                "response": "antwort",
                "system": "rolle",
                "history": "bisher",
            }
        },
        {"aufgabe": "Add.", "eingabe": "2 3", "antwort": "5", "rolle": "Be brief.", "bisher": [["Hi", "Hello"]]},
        {
            "format": "alpaca",
            "columns": {
                "instruction": "aufgabe",
                "input": "eingabe",
                "output": "antwort",
                "system": "rolle",
                "history": "bisher",
            },
        },
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Add.\n2 3"), ("assistant", "5")],
    ),
    "an input that is not named is not read": (
        {"columns": {"prompt": "instruction", "query": "", "response": "output"}},
        {"instruction": "Add.", "input": "a note to the annotators", "output": "5"},
        {"format": "qa", "columns": {"question": "instruction", "answer": "output"}},
        [("user", "Add."), ("assistant", "5")],
    ),
    "names that another format reads for itself": (
        {"columns": {"prompt": "prompt", "response": "completion"}},
        {"prompt": "2 + 3?", "completion": "5", "question": "which?", "answer": "none"},
        {"format": "qa", "columns": {"question": "prompt", "answer": "completion"}},
        [("user", "2 + 3?"), ("assistant", "5")],
    ),
    "a question in `query` alone": (
        {"columns": {"query": "frage", "response": "antwort"}},
        {"frage": "2 + 3?", "antwort": "5"},
        {"format": "qa", "columns": {"question": "frage", "answer": "antwort"}},
        [("user", "2 + 3?"), ("assistant", "5")],
    ),
    "the usual columns": (
        {},
        {"instruction": "Add.", "input": "2 3", "output": "5"},
        {"format": "alpaca"},
        [("user", "Add.\n2 3"), ("assistant", "5")],
    ),
    "tags for every role": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "system": "setting", "tools": "functions"},
            "tags": {
                "role_tag": "speaker",
                "content_tag": "said",
                "user_tag": "kunde",
                "assistant_tag": "berater",
                "observation_tag": "ergebnis",
                "function_tag": "aufruf",
                "system_tag": "regel",
            },
        },
        {
            "setting": "Be brief.",
            "functions": TOOLS,
            "talk": [
                {"speaker": "kunde", "said": "What time is it?"},
                {"speaker": "aufruf", "said": CALL},
                {"speaker": "ergebnis", "said": "10:05"},
                {"speaker": "berater", "said": "Five past ten."},
            ],
        },
        {
            "format": "messages",
            "columns": {
                "messages": "talk",
                "system": "setting",
                "tools": "functions",
                "role": "speaker",
                "content": "said",
            },
            "roles": {
                "kunde": "user",
                "berater": "assistant",
                "ergebnis": "tool",
                "aufruf": "function_call",
                "regel": "system",
            },
        },
        [
            ("system", "Be brief."),
            ("user", "What time is it?"),
            ("assistant", "clock"),
            ("tool", "10:05"),
            ("assistant", "Five past ten."),
        ],
    ),
    "turns as usual": (
        {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}},
        {
            "tools": TOOLS,
            "conversations": [
                {"from": "human", "value": "What time is it?"},
                {"from": "function_call", "value": CALL},
                {"from": "observation", "value": "10:05"},
                {"from": "gpt", "value": "Five past ten."},
            ],
        },
        {"format": "sharegpt"},
        [
            ("user", "What time is it?"),
            ("assistant", "clock"),
            ("tool", "10:05"),
            ("assistant", "Five past ten."),
        ],
    ),
    "names of roles that would be read as others": (
        {
            "formatting": "sharegpt",
            "columns": {"messages": "conversations"},
            "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "assistant", "assistant_tag": "tool"},
        },
        {"conversations": [{"from": "assistant", "value": "2 + 3?"}, {"from": "tool", "value": "5"}]},
        {"format": "sharegpt", "roles": {"assistant": "user", "tool": "assistant"}},
        [("user", "2 + 3?"), ("assistant", "5")],
    ),
    "one key of either spelling": (
        {
            "formatting": "openai",
            "columns": {"messages": "messages"},
            "tags": {"role_tag": "role", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"},
        },
        {
            "messages": [
                {"role": "user", "value": "2 + 3?", "content": "a draft"},
                {"role": "assistant", "value": "5", "content": "a draft"},
            ]
        },
        {"format": "messages", "columns": {"content": "value"}},
        [("user", "2 + 3?"), ("assistant", "5")],
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_columns_and_tags_are_read_as_the_catalogue_says(case: str, desk: Path) -> None:
    entry, row, expected, turns = ANSWERS[case]
    lines(desk / "data" / "rows.jsonl", [row, row])
    done = factory(desk, {"mine": {"file_name": "rows.jsonl", **entry}})
    (made,) = sources(done)
    columns = expected.get("columns", {})
    named = {ours: theirs for ours, theirs in made.get("columns", {}).items() if ours != theirs}
    assert (made["path"], made["format"], named) == ("data/rows.jsonl", expected["format"], columns)
    assert made.get("roles", {}) == expected.get("roles", {})
    assert told(done, f"{catalogue.FILE}: mine.") == {}
    assert [said(each) for each in read(done)] == [turns, turns]


def test_pairs_and_judgements_of_a_catalogue(desk: Path) -> None:
    lines(desk / "data" / "pairs.jsonl", [{"q": "2 + 3?", "ctx": "Add.", "good": "5", "bad": "6"}])
    talk = [{"who": "human", "what": "2 + 3?"}]
    better, worse = {"who": "gpt", "what": "5"}, {"who": "gpt", "what": "6"}
    lines(desk / "data" / "talks.jsonl", [{"talk": talk, "yes": better, "no": worse, "prompt": "an index"}])
    lines(desk / "data" / "judged.jsonl", [{"talk": [*talk, better], "liked": False}])
    lines(desk / "data" / "single.jsonl", [{"q": "2 + 3?", "a": "6", "liked": True}])
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "human", "assistant_tag": "gpt"}
    done = factory(
        desk,
        {
            "pairs": {
                "file_name": "pairs.jsonl",
                "ranking": True,
                "columns": {"prompt": "ctx", "query": "q", "chosen": "good", "rejected": "bad"},
            },
            "talks": {
                "file_name": "talks.jsonl",
                "ranking": True,
                "formatting": "sharegpt",
                "columns": {"messages": "talk", "chosen": "yes", "rejected": "no"},
                "tags": tags,
            },
            "judged": {
                "file_name": "judged.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "talk", "kto_tag": "liked"},
                "tags": tags,
            },
            "single": {
                "file_name": "single.jsonl",
                "columns": {"prompt": "q", "response": "a", "kto_tag": "liked"},
            },
        },
        stage="dpo",
    )
    assert not done.missed
    assert [each["format"] for each in sources(done)] == ["preference", "preference", "labelled", "labelled"]
    assert told(done, catalogue.FILE) == {}
    pairs, talks, judged, single = read(done)
    assert isinstance(pairs, Preference) and isinstance(talks, Preference)
    assert [each.content for each in (*pairs.messages, *pairs.chosen, *pairs.rejected)] == ["Add.\n2 + 3?", "5", "6"]
    assert [each.content for each in (*talks.messages, *talks.chosen, *talks.rejected)] == ["2 + 3?", "5", "6"]
    assert isinstance(judged, Labelled) and isinstance(single, Labelled)
    assert [judged.messages[0].content, judged.answer[0].content, judged.label] == ["2 + 3?", "5", False]
    assert [single.messages[0].content, single.answer[0].content, single.label] == ["2 + 3?", "6", True]


def test_data_sets_of_a_hub(desk: Path) -> None:
    done = factory(
        desk,
        {
            "web": {
                "hf_hub_url": "someone/web",
                "ms_hub_url": "someone/web",
                "subset": "small",
                "split": "test",
                "revision": "v1",
                "columns": {"prompt": "q", "response": "a"},
            },
            "plain": {"hf_hub_url": "someone/plain", "split": "train"},
            "cut": {"hf_hub_url": "someone/cut", "split": "train[:10%]", "folder": "en", "num_samples": 100},
            "scope": {"ms_hub_url": "someone/scope", "subset": "small"},
            "code": {"script_url": "someone/code"},
            "cloud": {"cloud_file_name": "s3://bucket/rows.json"},
        },
    )
    web, plain, cut, scope, code, cloud = sources(done)
    assert web == {
        "path": "hub:someone/web",
        "subset": "small",
        "split": "test",
        "revision": "v1",
        "format": "qa",
        "columns": {"question": "q", "answer": "a"},
    }
    assert plain == {"path": "hub:someone/plain", "format": "alpaca"}
    assert cut == {"path": "hub:someone/cut", "format": "alpaca"}
    assert [each["path"] for each in (scope, code, cloud)] == ["someone/scope", "someone/code", "s3://bucket/rows.json"]
    assert told(done, f"{catalogue.FILE}: ") == {
        "web.ms_hub_url": "same_data",
        "cut.split": "split_part",
        "cut.folder": "data_part",
        "cut.num_samples": "max_samples",
        "scope.ms_hub_url": "other_hub",
        "scope.subset": "data_part",
        "code.script_url": "script",
        "cloud.cloud_file_name": "elsewhere",
    }


def test_without_a_catalogue_names_are_those_of_the_hub(desk: Path) -> None:
    done = factory(desk, {}, dataset="someone/alpaca,someone/more", dataset_dir="ONLINE")
    assert [each["path"] for each in sources(done)] == ["hub:someone/alpaca", "hub:someone/more"]
    assert told(done, "dataset.") == {}
    done = factory(desk, {}, dataset="alpaca", dataset_dir="REMOTE:someone/catalogue")
    assert told(done, "dataset.") == {"alpaca": "no_catalogue"}


def test_a_folder_and_several_files(desk: Path) -> None:
    rows = [{"q": f"{n} + 1?", "a": str(n + 1)} for n in range(4)]
    lines(desk / "data" / "parts" / "a.jsonl", rows[:1])
    lines(desk / "data" / "parts" / "b.jsonl", rows[1:2])
    lines(desk / "data" / "held.jsonl", rows[2:3])
    columns = {"columns": {"prompt": "q", "response": "a"}}
    entries = {"parts": {"file_name": "parts", **columns}, "held": {"file_name": "held.jsonl", **columns}}
    done = factory(desk, entries, dataset="parts", eval_dataset="held", mix_strategy="interleave_once")
    assert [said(each)[0][1] for each in read(done)] == ["0 + 1?", "1 + 1?", "2 + 1?"]
    assert done.settings["data.validation"][0]["columns"] == {"question": "q", "answer": "a"}
    assert told(done, "mix_strategy") == {"": "always"}
    done = factory(desk, entries, dataset="parts,held", mix_strategy="interleave_over", interleave_probs="0.5,0.5")
    assert told(done, "mix_strategy") == {"": "mixing"} and told(done, "interleave_probs") == {"": "mixing"}


def test_what_an_entry_says_and_a_source_cannot_say_is_told(desk: Path) -> None:
    done = factory(
        desk,
        {
            "odd": {
                "file_name": "odd.json",
                "file_sha1": "abc",
                "split": "train[:5]",
                "subset": "x",
                "tags": {"role_tag": "role"},
                "mystery": 1,
                "columns": {
                    "prompt": "q",
                    "response": "a",
                    "tools": "t",
                    "images": "i",
                    "messages": "m",
                    "wonder": "w",
                    "system": 3,
                },
            },
            "short": {"file_name": "short.json", "columns": {"prompt": "q"}},
            "shape": {"file_name": "shape.json", "formatting": "csv", "columns": {"prompt": "q"}},
            "twice": {
                "file_name": "twice.json",
                "formatting": "sharegpt",
                "tags": {"user_tag": "x", "assistant_tag": "x", "function_tag": "gpt"},
            },
        },
    )
    assert [each.get("format") for each in sources(done)] == ["qa", None, None, "sharegpt"]
    assert sources(done)[3]["roles"] == {"x": "user", "gpt": "function_call"}
    assert told(done, f"{catalogue.FILE}: ") == {
        "odd.file_sha1": "hashed",
        "odd.split": "split_part",
        "odd.subset": "without_effect",
        "odd.tags": "without_effect",
        "odd.mystery": "unknown",
        "odd.columns.tools": "no_tools",
        "odd.columns.images": "media",
        "odd.columns.messages": "without_effect",
        "odd.columns.wonder": "unknown",
        "odd.columns.system": "value",
        "short.columns": "value",
        "shape.formatting": "value",
        "shape.columns": "without_effect",
        "twice.tags.assistant_tag": "value",
    }


def test_columns_that_only_our_format_reads_are_told(desk: Path) -> None:
    row = {"question": "2 + 3?", "answer": "5", "system": "Be brief.", "history": []}
    lines(desk / "data" / "rows.jsonl", [row])
    done = factory(desk, {"mine": {"file_name": "rows.jsonl", "columns": {"prompt": "question", "response": "answer"}}})
    assert told(done, f"{catalogue.FILE}: mine.") == {"system": "read_too"}
    lines(desk / "rows.jsonl", [{"instruction": "2 + 3?", "output": "5", "system": "Be brief."}])
    done = tolotl(desk, {"path": "rows.jsonl", "type": "alpaca"})
    assert told(done, "datasets.0.") == {"type": "alpaca_prompt", "system": "read_too"}


def test_plain_text_of_a_catalogue(desk: Path) -> None:
    lines(desk / "data" / "web.jsonl", [{"content": "Lima is a city.", "title": "Lima"}])
    (desk / "data" / "lines.txt").write_text("One.\n\nTwo.\n")
    done = factory(
        desk,
        {
            "web": {"file_name": "web.jsonl", "columns": {"prompt": "content", "query": "title"}},
            "lines": {"file_name": "lines.txt", "columns": {"prompt": "text"}},
        },
        stage="pt",
    )
    assert sources(done) == [
        {"path": "data/web.jsonl", "format": "text", "columns": {"text": "content"}},
        {"path": "data/lines.txt", "format": "text"},
    ]
    assert told(done, f"{catalogue.FILE}: ") == {"web.columns.query": "joined_text", "lines.file_name": "text_lines"}
    assert [each.text for each in read(done) if isinstance(each, Text)] == ["Lima is a city.", "One.", "Two."]


# ------------------------------------------------------------------------------------------------ axolotl

TALK = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]
ENTRIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "fields and keys of turns": (
        {
            "type": "chat_template",
            "field_messages": "dialog",
            "field_system": "setting",
            "field_tools": "functions",
            "message_field_role": "who",
            "message_field_content": "what",
            "roles": {"user": ["kunde"], "assistant": ["berater", "gpt"], "tool": ["ergebnis"]},
            "roles_to_train": ["berater"],
            "train_on_eos": "turn",
        },
        {
            "setting": "Be brief.",
            "functions": json.loads(TOOLS),
            "dialog": [{"who": "kunde", "what": "2 + 3?"}, {"who": "berater", "what": "5"}],
        },
        {
            "format": "messages",
            "columns": {
                "messages": "dialog",
                "system": "setting",
                "tools": "functions",
                "role": "who",
                "content": "what",
            },
            "roles": {"kunde": "user", "berater": "assistant", "ergebnis": "tool"},
        },
        [("system", "Be brief."), ("user", "2 + 3?"), ("assistant", "5")],
    ),
    "properties of messages": (
        {
            "type": "chat_template",
            "field_messages": "conversations",
            "message_property_mappings": {"role": "from", "content": "value", "tool_calls": "calls"},
        },
        {
            "conversations": [
                {"from": "human", "value": "What time is it?"},
                {"from": "gpt", "value": "", "calls": [{"type": "function", "function": json.loads(CALL)}]},
                {"from": "tool", "value": "10:05"},
                {"from": "gpt", "value": "Five past ten."},
            ]
        },
        {"format": "sharegpt", "columns": {"tool_calls": "calls"}},
        [
            ("user", "What time is it?"),
            ("assistant", "clock"),
            ("tool", "10:05"),
            ("assistant", "Five past ten."),
        ],
    ),
    "sharegpt with names of roles": (
        {"type": "sharegpt", "field_human": "USER", "field_model": "BOT"},
        {"conversations": [{"from": "USER", "value": "2 + 3?"}, {"from": "BOT", "value": "5"}]},
        {"format": "sharegpt", "roles": {"USER": "user", "BOT": "assistant"}},
        [("user", "2 + 3?"), ("assistant", "5")],
    ),
    "guanaco": (
        {"type": "sharegpt.load_guanaco"},
        {"conversations": [{"role": "prompter", "text": "2 + 3?"}, {"role": "assistant", "text": "5"}]},
        {"format": "sharegpt", "columns": {"role": "role", "content": "text"}, "roles": {"prompter": "user"}},
        [("user", "2 + 3?"), ("assistant", "5")],
    ),
    "open orca": (
        {"type": "alpaca_w_system.load_open_orca"},
        {"system_prompt": "Be brief.", "question": "2 + 3?", "response": "5"},
        {"format": "qa", "columns": {"question": "question", "answer": "response", "system": "system_prompt"}},
        [("system", "Be brief."), ("user", "2 + 3?"), ("assistant", "5")],
    ),
    "gpteacher": (
        {"type": "gpteacher"},
        {"instruction": "Add.", "input": "2 3", "response": "5"},
        {"format": "alpaca", "columns": {"output": "response"}},
        [("user", "Add.\n2 3"), ("assistant", "5")],
    ),
    "a prompt of the file's own": (
        {
            "type": {
                "field_instruction": "task",
                "field_input": "context",
                "field_output": "reply",
                "field_system": "setting",
                "format": "{instruction}\n{input}",
            }
        },
        {"task": "Add.", "context": "2 3", "reply": "5", "setting": "Be brief."},
        {
            "format": "alpaca",
            "columns": {"instruction": "task", "input": "context", "output": "reply", "system": "setting"},
        },
        [("system", "Be brief."), ("user", "Add.\n2 3"), ("assistant", "5")],
    ),
}
TOLD = {
    "fields and keys of turns": {"roles_to_train": "always", "train_on_eos": "always"},
    "open orca": {"type": "alpaca_prompt"},
    "gpteacher": {"type": "alpaca_prompt"},
    "a prompt of the file's own": {"type.format": "own_prompt"},
}


@pytest.mark.parametrize("case", ENTRIES)
def test_types_and_fields_are_read_as_the_data_set_says(case: str, desk: Path) -> None:
    entry, row, expected, turns = ENTRIES[case]
    lines(desk / "data" / "rows.jsonl", [row, row])
    done = tolotl(desk, {"path": "data/rows.jsonl", **entry})
    (made,) = sources(done)
    columns = {ours: theirs for ours, theirs in expected.get("columns", {}).items() if ours != theirs}
    assert (made["path"], made["format"]) == ("data/rows.jsonl", expected["format"])
    assert (made.get("columns", {}), made.get("roles", {})) == (columns, expected.get("roles", {}))
    assert told(done, "datasets.0.") == TOLD.get(case, {})
    assert [said(each) for each in read(done)] == [turns, turns]


def test_marks_and_thoughts_of_turns(desk: Path) -> None:
    talk = [
        {"role": "user", "content": "2 + 3?"},
        {"role": "assistant", "content": "5", "training": False},
        {"role": "user", "content": "Plus one?"},
        {"role": "assistant", "content": "6", "training": True, "why": "5 + 1"},
    ]
    lines(desk / "rows.jsonl", [{"messages": talk, "system": "Be brief."}])
    entry = {"path": "rows.jsonl", "type": "chat_template", "message_field_training": "training"}
    done = tolotl(desk, {**entry, "field_thinking": "why"})
    assert told(done, "datasets.0.") == {}
    (example,) = read(done)
    assert isinstance(example, Chat)
    assert [each.weight for each in example.messages if each.role == "assistant"] == [0, 1]
    assert [example.messages[0].content, example.messages[4].extra["reasoning_content"]] == ["Be brief.", "5 + 1"]
    done = tolotl(
        desk,
        {
            **entry,
            "roles_to_train": [],
            "train_on_eos": "all",
            "message_field_training_detail": "parts",
            "split_thinking": True,
            "drop_system_message": True,
            "template_thinking_key": "thoughts",
            "message_property_mappings": {"mood": "m"},
            "roles": {"narrator": ["voice"], "ipython": ["shell"], "system": "all"},
            "mystery": 1,
        },
    )
    assert told(done, "datasets.0.") == {
        "roles_to_train": "unmarked",
        "train_on_eos": "stop_tokens",
        "message_field_training_detail": "turn_parts",
        "split_thinking": "split_thoughts",
        "drop_system_message": "system_kept",
        "template_thinking_key": "thinking_key",
        "message_property_mappings.mood": "turn_key",
        "roles.narrator": "role",
        "mystery": "unknown",
    }
    done = tolotl(desk, {**entry, "roles_to_train": ["assistant", "user"]})
    assert told(done, "datasets.0.") == {"roles_to_train": "loss_on_prompt"}


PLACES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, str]]] = {
    "a data set of a hub": (
        {"path": "someone/talks", "name": "en", "split": "test", "revision": "v1"},
        [{"path": "hub:someone/talks", "subset": "en", "split": "test", "revision": "v1"}],
        {},
    ),
    "a name with a dot": ({"path": "someone/talks-v1.5"}, [{"path": "hub:someone/talks-v1.5"}], {}),
    "several subsets": (
        {"path": "someone/talks", "name": ["en", "de"]},
        [{"path": "hub:someone/talks", "subset": "en"}, {"path": "hub:someone/talks", "subset": "de"}],
        {},
    ),
    "a part of a split": (
        {"path": "someone/talks", "split": "validation[:5%]"},
        [{"path": "hub:someone/talks", "split": "validation"}],
        {"split": "split_part"},
    ),
    "files of a hub": (
        {"path": "someone/talks", "data_files": ["a.jsonl", "b.jsonl"], "revision": "v1"},
        [{"path": "someone/talks/a.jsonl"}, {"path": "someone/talks/b.jsonl"}],
        {"data_files": "hub_files", "revision": "without_effect"},
    ),
    "a kind and its files": (
        {"path": "json", "data_files": ["data/a.jsonl", "other/b.json"], "split": "train"},
        [{"path": "data/a.jsonl"}, {"path": "other/b.json"}],
        {},
    ),
    "files in a folder": (
        {"path": "data", "ds_type": "json", "data_files": ["a.jsonl", "data/b.jsonl"]},
        [{"path": "data/a.jsonl"}, {"path": "data/b.jsonl"}],
        {},
    ),
    "a file of a folder, named as from here": (
        {"path": "data", "data_files": "here.jsonl"},
        [{"path": "here.jsonl"}],
        {},
    ),
    "a whole folder": ({"path": "data"}, [{"path": "data"}], {}),
    "a folder that is not here": ({"path": "./rows", "ds_type": "json"}, [{"path": "./rows"}], {}),
    "a part of a file": (
        {"path": "data/a.jsonl", "split": "train[:5]", "name": "x"},
        [{"path": "data/a.jsonl"}],
        {"split": "split_part", "name": "without_effect"},
    ),
    "an ending that says another kind": (
        {"path": "data/a.txt", "ds_type": "json"},
        [{"path": "data/a.txt"}],
        {"ds_type": "ending", "path": "text_lines"},
    ),
    "files of a web site": (
        {"path": "json", "data_files": ["https://example.org/a.jsonl"]},
        [{"path": "https://example.org/a.jsonl"}],
        {"data_files": "elsewhere"},
    ),
    "a bucket": ({"path": "s3://bucket/a.jsonl"}, [{"path": "s3://bucket/a.jsonl"}], {"path": "elsewhere"}),
}


@pytest.mark.parametrize("case", PLACES)
def test_places_of_data_sets(case: str, desk: Path) -> None:
    entry, expected, reasons = PLACES[case]
    (desk / "here.jsonl").write_text("")
    done = tolotl(desk, {"type": "chat_template", **entry})
    assert sources(done) == [{**each, "format": "messages"} for each in expected]
    assert told(done, "datasets.0.") == reasons


def test_held_out_data_sets(desk: Path) -> None:
    done = tolotl(
        desk,
        {"path": "someone/talks", "type": "chat_template"},
        test_datasets=[{"path": "someone/talks", "type": "chat_template", "field_messages": "dialog"}],
    )
    (made,) = done.settings["data.validation"]
    assert made == {
        "path": "hub:someone/talks",
        "split": "test",
        "format": "messages",
        "columns": {"messages": "dialog"},
    }


@pytest.mark.parametrize(
    ("type", "reason"),
    [
        ("input_output", "own_rows"),
        ("context_qa.load_v2", "own_rows"),
        ("completion", "text_beside"),
        ("nobody_knows", "prompt_type"),
        (None, "prompt_type"),
    ],
)
def test_types_without_an_equal_are_told(type: str | None, reason: str, desk: Path) -> None:
    done = tolotl(desk, {"path": "a.jsonl", "type": type}, {"path": "b.jsonl", "type": "chat_template"})
    assert sources(done)[0] == {"path": "a.jsonl"}
    assert told(done, "datasets.0.") == {"type": reason}


def test_plain_text_of_another_column(desk: Path) -> None:
    lines(desk / "rows.jsonl", [{"body": "Lima is a city.", "text": "a headline"}])
    for done in (
        tolotl(desk, {"path": "rows.jsonl", "type": "completion", "field": "body"}),
        tolotl(desk, datasets=None, pretraining_dataset=[{"path": "rows.jsonl", "text_column": "body"}], max_steps=9),
    ):
        assert sources(done) == [{"path": "rows.jsonl", "format": "text", "columns": {"text": "body"}}]
        assert [each.text for each in read(done) if isinstance(each, Text)] == ["Lima is a city."]


def test_pairs_and_judgements_of_axolotl(desk: Path) -> None:
    lines(desk / "pairs.jsonl", [{"dialog": TALK[:1], "good": TALK[1], "bad": {"role": "assistant", "content": "6"}}])
    lines(desk / "intel.jsonl", [{"system": "Add.", "question": "2 + 3?", "chosen": "5", "rejected": "6"}])
    lines(desk / "own.jsonl", [{"q": "2 + 3?", "chosen": "5", "worse": "6"}])
    done = tolotl(
        desk,
        {
            "path": "pairs.jsonl",
            "type": "chat_template.default",
            "field_messages": "dialog",
            "field_chosen": "good",
            "field_rejected": "bad",
        },
        {"path": "intel.jsonl", "type": "chatml.intel"},
        {"path": "own.jsonl", "type": {"field_prompt": "q", "field_rejected": "worse", "prompt_format": "[{prompt}]"}},
        rl="dpo",
    )
    assert not done.missed and {each["format"] for each in sources(done)} == {"preference"}
    assert told(done, "datasets.") == {"2.type.prompt_format": "own_prompt"}
    found = [each for each in read(done) if isinstance(each, Preference)]
    assert [[turn.content for turn in (*each.messages, *each.chosen, *each.rejected)] for each in found] == [
        ["2 + 3?", "5", "6"],
        ["Add.", "2 + 3?", "5", "6"],
        ["2 + 3?", "5", "6"],
    ]
    lines(desk / "bt.jsonl", [{"system": "Add.", "input": "2 + 3?", "chosen": "5", "rejected": "6"}])
    done = tolotl(desk, {"path": "bt.jsonl", "type": "bradley_terry.chat_template"}, reward_model=True)
    (compared,) = read(done)
    assert isinstance(compared, Preference) and done.config.method.kind == "reward"
    assert [turn.content for turn in (*compared.messages, *compared.chosen, *compared.rejected)] == [
        "Add.",
        "2 + 3?",
        "5",
        "6",
    ]
    lines(desk / "judged.jsonl", [{"q": "2 + 3?", "a": "5", "liked": True}])
    entry = {"field_prompt": "q", "field_completion": "a", "field_label": "liked"}
    (example,) = read(tolotl(desk, {"path": "judged.jsonl", "type": entry}, rl="kto"))
    assert isinstance(example, Labelled)
    assert [example.messages[0].content, example.answer[0].content, example.label] == ["2 + 3?", "5", True]


def test_the_template_of_all_data_sets_is_the_recipes(desk: Path) -> None:
    entry = {"path": "a.jsonl", "type": "chat_template", "chat_template": "chatml"}
    done = tolotl(desk, entry, {**entry, "path": "b.jsonl"})
    assert done.config.data.template == "chatml" and told(done, "datasets.") == {}
    done = tolotl(desk, entry, {**entry, "path": "b.jsonl", "chat_template": "llama3"})
    assert told(done, "datasets.") == {"0.chat_template": "one_template", "1.chat_template": "one_template"}
    done = tolotl(desk, entry, {"path": "b.jsonl", "type": "chat_template"}, chat_template="chatml")
    assert done.config.data.template == "chatml" and told(done, "datasets.") == {}


# ------------------------------------------------------------------------------------------------ nothing is dropped

ENTRY_KEYS = {
    "LLaMA-Factory": {
        *catalogue.REASONS,
        *catalogue.HUBS,
        *("file_name", "formatting", "ranking", "columns", "tags", "nobody_knows_this"),
    },
    "axolotl": {
        *axolotl_data.ENTRY_REASONS,
        *axolotl_data.TURN_FIELDS,
        *axolotl_data.PAIR_FIELDS,
        *("type", "data_files", "ds_type", "split", "roles", "roles_to_train", "train_on_eos", "train_on_eot"),
        *("message_property_mappings", "nobody_knows_this"),
    },
}
INNER = st.dictionaries(
    st.sampled_from([*catalogue.OURS, *catalogue.ROLES, "role_tag", "role", "content", "user", "field_output", "odd"]),
    st.sampled_from(["x", "", "user", 3, None, ["a", "b"], True]),
    max_size=6,
)
KINDS_OF_TYPE = [
    *axolotl_data.TALKS,
    *axolotl_data.ANSWERED,
    *axolotl_data.OWN_ROWS,
    *axolotl_data.TEXTS,
    "chatml.intel",
    "?",
]
VALUES = st.one_of(
    st.sampled_from(["x", "", "a/b", "train", "train[:3]", "sharegpt", "openai", 0, 3, True, False, 1.5, None]),
    st.sampled_from([[], ["a", "b"], [3]]),
    INNER,
)


@pytest.mark.parametrize("program", ENTRY_KEYS)
def test_every_key_of_a_data_set_is_translated_or_told(
    program: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[Draft] = []
    part = Draft.part

    def kept(self: Draft, given: Any, place: str) -> Draft:
        parts.append(part(self, given, place))
        return parts[-1]

    monkeypatch.setattr(Draft, "part", kept)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(
        st.dictionaries(st.sampled_from(sorted(ENTRY_KEYS[program])), VALUES, max_size=8),
        st.sampled_from(KINDS_OF_TYPE),
        st.sampled_from(["sft", "pt", "dpo", "kto"]),
    )
    def holds(entry: dict[str, Any], type: str, stage: str) -> None:
        parts.clear()
        if program == "axolotl":
            rl = {"rl": stage} if stage in ("dpo", "kto") else {}
            done = tolotl(desk, {"path": "a/b", "type": type, **entry}, **rl)
        else:
            done = factory(desk, {"mine": entry}, stage=stage)
        named = {each.key for each in done.findings}
        for each in parts:
            silent = [
                key
                for key in each.given.keys() - each.used
                if not any(f"{name}.".startswith(f"{each.place}{key}.") for name in named)
            ]
            assert not silent, (each.place, silent)

    holds()
