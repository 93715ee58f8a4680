"""Rows to examples.

What goes in: rows of every format, whole and broken, as people have them. What comes out: examples written out by hand
here, and faults that name the field, with a remedy in both languages.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.config import schema
from luthier.data import detection, own, wellformed
from luthier.data.formats import (
    FORMATS,
    Chat,
    Completion,
    Labelled,
    Message,
    Preference,
    Prompt,
    RowFault,
    Text,
)
from luthier.data.renaming import Renaming
from luthier.errors import DataError
from luthier.text import data as texts
from luthier.text import set_language

U, A = Message("user", "q"), Message("assistant", "a")
S = Message("system", "s")
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def parse(format: str, row: Any) -> Any:
    return wellformed.parse(FORMATS[format].parse, row)


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


QA = [turn("user", "q"), turn("assistant", "a")]

GOOD: list[tuple[str, Any, Any]] = [
    ("alpaca", {"instruction": "q", "output": "a"}, Chat((U, A))),
    ("alpaca", {"instruction": "q", "input": None, "output": "a", "system": ""}, Chat((U, A))),
    ("alpaca", {"instruction": "q", "input": "more", "output": "a"}, Chat((Message("user", "q\nmore"), A))),
    ("alpaca", {"instruction": "", "input": "q", "output": "a"}, Chat((U, A))),
    (
        "alpaca",
        {"instruction": "q", "output": "a", "system": "s", "history": [["q1", "a1"], ["q2", "a2"]]},
        Chat(
            (
                S,
                Message("user", "q1"),
                Message("assistant", "a1"),
                Message("user", "q2"),
                Message("assistant", "a2"),
                U,
                A,
            )
        ),
    ),
    ("alpaca", {"instruction": "q", "output": "a", "history": '[["q", "a"]]'}, Chat((U, A, U, A))),
    ("alpaca", {"instruction": " q ", "output": " a\n"}, Chat((Message("user", " q "), Message("assistant", " a\n")))),
    ("messages", {"messages": QA}, Chat((U, A))),
    ("messages", QA, Chat((U, A))),
    (
        "messages",
        {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'},
        Chat((U, A)),
    ),
    ("messages", {"messages": QA, "system": "s"}, Chat((S, U, A))),
    ("messages", {"messages": [turn("developer", "s"), *QA]}, Chat((S, U, A))),
    ("messages", {"messages": [*QA, turn("user", "q")]}, Chat((U, A, U))),
    (
        "messages",
        {
            "messages": [
                turn("user", [{"type": "text", "text": "q"}]),
                turn("assistant", [{"value": "a"}, {"text": "b"}]),
            ]
        },
        Chat((U, Message("assistant", "ab"))),
    ),
    (
        "messages",
        {"messages": [turn("user", "q", loss_weight=0.0), turn("assistant", "a", loss_weight=0.5)]},
        Chat((Message("user", "q", 0.0), Message("assistant", "a", 0.5))),
    ),
    (
        "messages",
        {"messages": [*QA, turn("user", "q", train=False), turn("assistant", "", weight=0)]},
        Chat((U, A, Message("user", "q", 0.0), Message("assistant", "", 0.0))),
    ),
    (
        "messages",
        {"messages": [turn("user", "q", train=None), turn("assistant", "a", train=True, weight=None)]},
        Chat((U, A)),
    ),
    (
        "messages",
        {
            "messages": [
                turn("user", "q"),
                turn("assistant", None, tool_calls=[{"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}]),
                turn("tool", "", tool_call_id="1"),
                turn("assistant", "a", reasoning_content="why", tool_calls=None),
            ],
            "tools": [{"name": "f"}],
        },
        Chat(
            (
                U,
                Message("assistant", "", extra={"tool_calls": [{**CALL, "id": "1"}]}),
                Message("tool", "", extra={"tool_call_id": "1"}),
                Message("assistant", "a", extra={"reasoning_content": "why"}),
            ),
            ({"name": "f"},),
        ),
    ),
    (
        "messages",
        {
            "messages": [
                turn("user", "q"),
                turn(
                    "assistant",
                    [
                        {"type": "reasoning", "value": "why"},
                        {"type": "text", "value": "a"},
                        {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                    ],
                ),
            ]
        },
        Chat((U, Message("assistant", "a", extra={"reasoning_content": "why", "tool_calls": [CALL]}))),
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, Chat((U, A))),
    ("sharegpt", {"conversations": QA, "system": "s", "tools": ""}, Chat((S, U, A))),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name": "f", "arguments": "{\\"x\\": 1}"}'},
                {"from": "function_call", "value": '[{"name": "f", "arguments": {"x": 1}}]'},
                {"from": "observation", "value": "1"},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "a"},
            ],
            "tools": '[{"name": "f"}]',
        },
        Chat(
            (
                U,
                Message("assistant", "", extra={"tool_calls": [CALL]}),
                Message("assistant", "", extra={"tool_calls": [CALL]}),
                Message("tool", "1"),
                Message("tool", "2"),
                A,
            ),
            ({"name": "f"},),
        ),
    ),
    ("messages", {"dialogue": QA}, Chat((U, A))),
    (
        "messages",
        {"messages": [QA[0], turn("assistant", None, function_call={"name": "f", "arguments": '{"x": 1}'})]},
        Chat((U, Message("assistant", "", extra={"tool_calls": [CALL]}))),
    ),
    (
        "messages",
        {"messages": [QA[0], turn("assistant", "a", reasoning_content="why", weight=0.5), turn("user", "q", name="n")]},
        Chat(
            (U, Message("assistant", "a", 0.5, {"reasoning_content": "why"}), Message("user", "q", extra={"name": "n"}))
        ),
    ),
    ("messages", {"conversation": QA, "system": "s"}, Chat((S, U, A))),
    ("messages", {"messages": QA, "tools": '[{"name": "f"}]'}, Chat((U, A), ({"name": "f"},))),
    ("firefly", {"conversation": [{"human": "q", "assistant": "a"}] * 2}, Chat((U, A, U, A))),
    ("firefly", {"conversation": '[{"human": "q", "assistant": "a"}]', "system": "s"}, Chat((S, U, A))),
    ("prompt", {"prompt": "q", "completion": " a"}, Completion("q", " a")),
    ("prompt", {"prompt": [QA[0]], "completion": [QA[1]]}, Chat((U, A))),
    (
        "qa",
        {"query": "q", "response": "a", "history": [["q1", "a1"]]},
        Chat((Message("user", "q1"), Message("assistant", "a1"), U, A)),
    ),
    ("qa", {"question": "q", "answer": "a"}, Chat((U, A))),
    ("qa", {"prompt": "q", "response": "a", "system": "s"}, Chat((S, U, A))),
    ("qa", {"query": "q", "response": "a"}, Chat((U, A))),
    ("qa", {"input": "q", "output": "a"}, Chat((U, A))),
    ("text", {"text": "q\n"}, Text("q\n")),
]


B = Message("assistant", "b")
PAIR = Preference((U,), (A,), (B,))
HUMAN = {"from": "human", "value": "q"}
WORSE = turn("assistant", "b")

PREFERENCES: list[tuple[Any, Preference]] = [
    (
        {"conversations": [HUMAN], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
        PAIR,
    ),
    ({"messages": [QA[0]], "chosen": QA[1], "rejected": WORSE}, PAIR),
    (
        {"messages": [QA[0]], "chosen": [QA[1]], "rejected": [WORSE], "tools": [{"name": "f"}]},
        Preference((U,), (A,), (B,), ({"name": "f"},)),
    ),
    ({"chosen": QA, "rejected": [QA[0], WORSE]}, PAIR),
    ({"chosen_messages": QA, "rejected_messages": [QA[0], WORSE]}, PAIR),
    ({"prompt": "q", "chosen": QA, "rejected": [QA[0], WORSE]}, PAIR),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, PAIR),
    ({"prompt": [QA[0]], "chosen": [QA[1]], "rejected": [WORSE]}, PAIR),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2}, Preference((U,), (A,), (B,), margin=2.0)),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "0.5"}, Preference((U,), (A,), (B,), margin=0.5)),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 8.5, "score_rejected": 6},
        Preference((U,), (A,), (B,), margin=2.5),
    ),
    (
        {"instruction": "q", "input": "x", "chosen": "a", "rejected": "b"},
        Preference((Message("user", "q\nx"),), (A,), (B,)),
    ),
    ({"instruction": "q", "input": "", "output": ["a", "b"]}, PAIR),
    ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, Preference((S, U), (A,), (B,))),
    ({"question": "q", "chosen_response": "a", "rejected_response": "b"}, PAIR),
    ({"prompt": "q", "response_chosen": "a", "response_rejected": "b"}, PAIR),
    ({"question": "q", "response_j": "a", "response_k": "b"}, PAIR),
    ({"question": "q", "response_0": "a", "response_1": "b", "better_response_id": 0}, PAIR),
    ({"prompt": "q", "response_0": "b", "response_1": "a", "better_response_id": "1", "safer_response_id": 0}, PAIR),
    ({"input": {"messages": [QA[0]], "tools": []}, "preferred_output": [QA[1]], "non_preferred_output": [WORSE]}, PAIR),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, PAIR),
    (
        {
            "prompt": '[{"role": "user", "content": "q"}]',
            "chosen": '[{"role": "assistant", "content": "a"}]',
            "rejected": "b",
        },
        PAIR,
    ),
    (
        {"chosen": [*QA, QA[0], QA[1]], "rejected": [*QA, QA[0], WORSE]},
        Preference((U, A, U), (A,), (B,)),
    ),
    (
        {"chosen": [*QA, QA[0], QA[1]], "rejected": [QA[0], WORSE]},
        Preference((U,), (A, U, A), (B,)),
    ),
]
"""Shapes in which pairs are found."""
GOOD += [("preference", row, example) for row, example in PREFERENCES]

GOOD += [
    ("labelled", {"messages": QA, "label": True}, Labelled((U,), (A,), True)),
    ("labelled", {"conversations": QA, "kto_tag": False, "system": "s"}, Labelled((S, U), (A,), False)),
    ("labelled", {"prompt": "q", "completion": "a", "label": False}, Labelled((U,), (A,), False)),
    ("labelled", {"prompt": [QA[0]], "completion": [QA[1]], "label": "True"}, Labelled((U,), (A,), True)),
    ("labelled", {"instruction": "q", "input": "", "output": "a", "kto_tag": True}, Labelled((U,), (A,), True)),
    ("labelled", {"messages": QA, "answer": "reference", "label": True}, Labelled((U,), (A,), True)),
    ("labelled", {"prompt": "q", "completion": "a", "label": 1}, Labelled((U,), (A,), True)),
    ("labelled", {"prompt": "q", "completion": "a", "label": 0}, Labelled((U,), (A,), False)),
    ("labelled", {"messages": QA, "label": 0}, Labelled((U,), (A,), False)),
    ("labelled", {"question": "q", "answer": "a", "label": "0"}, Labelled((U,), (A,), False)),
    ("labelled", {"instruction": "q", "output": "a", "kto_tag": 0.0}, Labelled((U,), (A,), False)),
    ("labelled", {"input": "q", "output": "a", "label": 1}, Labelled((U,), (A,), True)),
    ("messages", {"prompt": "q", "prompt_id": "1", "messages": QA}, Chat((U, A))),
    ("qa", {"prompt": "Answer.", "question": "q", "answer": "a"}, Chat((U, A))),
    ("answers", {"row": 0, "prompt": "q", "answers": [{"text": "a", "finish": "stop"}]}, Chat((U, A))),
    ("answers", {"prompt": [QA[0]], "answers": [{"text": "b", "finish": "length"}, {"text": "a"}]}, Chat((U, A))),
    ("prompt_only", {"prompt": "q"}, Prompt((U,))),
    ("prompt_only", {"prompt": [QA[0]], "tools": []}, Prompt((U,))),
    ("prompt_only", {"messages": [turn("system", "s"), QA[0]]}, Prompt((S, U))),
    ("prompt_only", {"conversations": [HUMAN], "answer": 42}, Prompt((U,), answer="42")),
    (
        "prompt_only",
        {"problem": "q", "solution": "because", "answer": "a", "level": 5},
        Prompt((U,), (), "a", {"solution": "because", "level": 5}),
    ),
]


@pytest.mark.parametrize(("format", "row", "example"), GOOD)
def test_good_rows(format: str, row: Any, example: Any) -> None:
    assert parse(format, row) == example
    assert detection.detect([row])[0] == format


ALPACA = {"instruction": "q", "output": "a"}
FUNCTION_CALL = {"from": "function_call", "value": "f(1)"}

BAD: list[tuple[str, Any, str, str]] = [
    ("alpaca", "text", "data.row_type", ""),
    ("alpaca", {"instruction": "q"}, "data.missing_field", "output"),
    ("alpaca", {"instruction": "q", "Output": "a"}, "data.missing_field", "output"),
    ("alpaca", {**ALPACA, "output": None}, "data.null_field", "output"),
    ("alpaca", {**ALPACA, "output": 3}, "data.wrong_type", "output"),
    ("alpaca", {**ALPACA, "input": ["x"]}, "data.wrong_type", "input"),
    ("alpaca", {**ALPACA, "output": " \n"}, "data.empty_answer", "output"),
    ("alpaca", {**ALPACA, "instruction": ""}, "data.empty_question", "instruction"),
    ("alpaca", {**ALPACA, "history": [["q"]]}, "data.history", "history[0]"),
    ("alpaca", {**ALPACA, "history": [["q", ""]]}, "data.empty_answer", "turn 2 (assistant)"),
    ("alpaca", {**ALPACA, "history": "[["}, "data.json_field", "history"),
    ("alpaca", {**ALPACA, "history": {"q": "a"}}, "data.wrong_type", "history"),
    ("messages", {"messages": None}, "data.null_field", "messages"),
    ("messages", {"messages": []}, "data.empty_conversation", ""),
    ("messages", {"messages": [3]}, "data.wrong_type", "messages[0]"),
    ("messages", {"messages": [*QA, {"content": "q"}]}, "data.missing_field", "messages[2].role"),
    ("messages", {"messages": [{"role": "user"}]}, "data.missing_field", "messages[0].content"),
    ("messages", {"messages": [turn("user", "q"), turn("assistant", None)]}, "data.null_field", "messages[1].content"),
    ("messages", {"messages": [turn("user", "q"), turn("assistant", 1)]}, "data.wrong_type", "messages[1].content"),
    ("messages", {"messages": [turn("usr", "q")]}, "data.unknown_role", "messages[0].role"),
    ("messages", {"messages": [turn("user", "q")]}, "data.no_answer", ""),
    ("messages", {"messages": [turn("user", "q"), turn("assistant", "a", weight=0)]}, "data.nothing_to_learn", ""),
    ("messages", {"messages": [turn("user", "q", weight=1), QA[1]]}, "data.weight_role", "messages[0].weight"),
    ("messages", {"messages": [QA[0], turn("assistant", "a", weight=-1)]}, "data.bad_weight", "messages[1].weight"),
    ("messages", {"messages": [QA[0], turn("assistant", "a", weight="1")]}, "data.bad_weight", "messages[1].weight"),
    (
        "messages",
        {"messages": [QA[0], turn("assistant", "a", weight=1, train=True)]},
        "data.weights_twice",
        "messages[1]",
    ),
    ("messages", {"messages": [QA[1]]}, "data.answer_first", "turn 1 (assistant)"),
    ("messages", {"messages": [turn("system", "s"), QA[1]]}, "data.answer_first", "turn 2 (assistant)"),
    ("messages", {"messages": [QA[0], *QA]}, "data.same_role", "turn 2 (user)"),
    ("messages", {"messages": [*QA, QA[1]]}, "data.same_role", "turn 3 (assistant)"),
    ("messages", {"messages": [*QA, turn("system", "s")]}, "data.system_late", "turn 3 (system)"),
    ("messages", {"messages": [turn("system", "s"), *QA], "system": "s"}, "data.system_twice", "system"),
    ("messages", {"messages": [QA[0], turn("tool", "1"), QA[1]]}, "data.tool_first", "turn 2 (tool)"),
    ("messages", {"messages": [QA[0], turn("assistant", "")]}, "data.empty_answer", "turn 2 (assistant)"),
    ("messages", {"messages": [turn("user", [{"text": " "}]), QA[1]]}, "data.empty_question", "turn 1 (user)"),
    (
        "messages",
        {"messages": [turn("user", [{"type": "image_url", "image_url": "x"}]), QA[1]]},
        "data.part_kind",
        "messages[0].content[0].type",
    ),
    ("messages", {"messages": [turn("user", [{"type": []}]), QA[1]]}, "data.part_kind", "messages[0].content[0].type"),
    ("messages", {"messages": [turn("user", ["q"]), QA[1]]}, "data.wrong_type", "messages[0].content[0]"),
    ("messages", {"messages": [turn("user", [{}]), QA[1]]}, "data.missing_field", "messages[0].content[0].text"),
    (
        "messages",
        {"messages": [QA[0], turn("assistant", [{"text": "a"}, {"type": "reasoning", "text": "why"}])]},
        "data.part_order",
        "messages[1].content[1].type",
    ),
    (
        "messages",
        {"messages": [QA[0], turn("assistant", [{"type": "reasoning", "text": "why"}], reasoning_content="why")]},
        "data.part_twice",
        "messages[1].content",
    ),
    ("messages", [QA[0], turn("assistant", "a", tool_calls=[{}])], "data.tool_call", "messages[1].tool_calls"),
    (
        "messages",
        [QA[0], turn("assistant", "", tool_calls=[{"name": "f"}], function_call={"name": "f"})],
        "data.calls_twice",
        "messages[1].function_call",
    ),
    ("messages", {"messages": QA, "tools": [1]}, "data.wrong_type", "tools[0]"),
    ("messages", {"messages": QA, "tools": "[{]"}, "data.json_field", "tools"),
    ("sharegpt", {"conversations": [QA[0], FUNCTION_CALL]}, "data.json_field", "conversations[1].value"),
    ("sharegpt", {"conversations": [{"from": "human", "value": None}]}, "data.null_field", "conversations[0].value"),
    ("firefly", {"conversation": [{"human": "q"}]}, "data.missing_field", "conversation[0].assistant"),
    ("firefly", {"conversation": ["q"]}, "data.wrong_type", "conversation[0]"),
    ("firefly", {}, "data.missing_field", "conversation"),
    ("preference", {"prompt": "q", "chosen": "a"}, "data.missing_field", "rejected"),
    ("preference", {"chosen": "a", "rejected": "b"}, "data.missing_field", "prompt"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "a"}, "data.same_answers", "rejected"),
    ("preference", {"chosen": QA, "rejected": QA}, "data.same_answers", "rejected"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": ""}, "data.empty_answer", "turn 2 (assistant)"),
    ("preference", {"prompt": "q", "chosen": None, "rejected": "b"}, "data.null_field", "chosen"),
    ("preference", {"prompt": "q", "chosen": 3, "rejected": "b"}, "data.wrong_type", "chosen"),
    ("preference", {"prompt": "q", "chosen": [3], "rejected": "b"}, "data.wrong_type", "chosen[0]"),
    ("preference", {"prompt": "q", "chosen": [], "rejected": "b"}, "data.no_answer", ""),
    (
        "preference",
        {"prompt": "other", "chosen": QA, "rejected": [QA[0], turn("assistant", "b")]},
        "data.prompt_differs",
        "prompt",
    ),
    ("preference", {"chosen": QA, "rejected": [turn("user", "r"), QA[1]]}, "data.no_shared_prompt", "rejected"),
    ("preference", {"messages": QA, "chosen": "a", "rejected": "b"}, "data.prompt_end", "turn 2 (assistant)"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "x"}, "data.wrong_type", "margin"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b", "margin": True}, "data.wrong_type", "margin"),
    ("preference", {"prompt": "q", "messages": QA, "chosen": QA[0], "rejected": QA[1]}, "data.no_answer", ""),
    (
        "preference",
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 2},
        "data.bad_choice",
        "better_response_id",
    ),
    ("labelled", {"messages": QA, "label": "good"}, "data.bad_label", "label"),
    ("labelled", {"messages": QA, "label": 2}, "data.bad_label", "label"),
    ("labelled", {"messages": QA, "label": None}, "data.null_field", "label"),
    ("labelled", {"messages": QA[:1], "label": True}, "data.no_answer", "messages"),
    ("labelled", {"prompt": "q", "completion": " ", "label": True}, "data.empty_answer", "turn 2 (assistant)"),
    ("answers", {"prompt": "q", "answers": [{"text": "a", "finish": "length"}]}, "data.answers_cut", "answers"),
    ("answers", {"prompt": "q", "answers": []}, "data.no_answer", "answers"),
    ("answers", {"prompt": "q", "answers": [{"text": " "}]}, "data.empty_answer", "answers.text"),
    ("answers", {"prompt": "", "answers": [{"text": "a"}]}, "data.empty_question", "prompt"),
    ("prompt_only", {"prompt": ""}, "data.empty_question", "prompt"),
    ("prompt_only", {"prompt": []}, "data.empty_conversation", ""),
    ("prompt_only", {"messages": QA}, "data.prompt_end", "turn 2 (assistant)"),
    ("prompt_only", {"prompt": "q", "answer": ["a"]}, "data.wrong_type", "answer"),
    ("prompt", {"prompt": "q", "completion": ""}, "data.empty_answer", "completion"),
    ("prompt", {"prompt": [], "completion": "a"}, "data.wrong_type", "prompt"),
    ("qa", {"question": "q", "answer": ""}, "data.empty_answer", "answer"),
    ("qa", {"question": "q"}, "data.missing_field", "answer"),
    ("text", {"text": ""}, "data.empty_text", "text"),
]


@pytest.mark.parametrize(("format", "row", "id", "field"), BAD)
def test_bad_rows_name_the_field(format: str, row: Any, id: str, field: str) -> None:
    with pytest.raises(RowFault) as caught:
        parse(format, row)
    assert (caught.value.id, caught.value.field) == (id, field)
    for language in ("en", "zh"):
        set_language(language)
        problem = caught.value.problem("a.jsonl:7")
        assert str(problem).startswith("a.jsonl:7: ") and problem.rule and problem.remedy


def test_an_answer_that_is_json_is_no_turn() -> None:
    """Tables hold turns as JSON text; an answer in JSON that has a `role` says nothing as somebody."""
    better, worse = '{"role": "cook", "person": "Ada"}', '{"from": "Rome"}'
    pair = parse("preference", {"prompt": "q", "chosen": better, "rejected": worse})
    assert isinstance(pair, Preference)
    assert [each.content for each in (*pair.chosen, *pair.rejected)] == [better, worse]
    judged = parse("labelled", {"prompt": "q", "completion": better, "label": True})
    assert isinstance(judged, Labelled) and judged.answer[0].content == better
    said = parse("preference", {"prompt": "q", "chosen": '{"role": "assistant", "content": "a"}', "rejected": worse})
    assert isinstance(said, Preference) and said.chosen[0].content == "a"


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(RowFault) as caught:
        parse("alpaca", {"instruction": "q", "ouput": "a"})
    assert "rename it to output" in caught.value.problem("").remedy
    assert "columns: {output: ouput}" in caught.value.problem("").remedy
    with pytest.raises(RowFault) as caught:
        parse("messages", [turn("USER", "q"), turn("narrator", "a"), turn("Bot", "a"), turn("user", "q")])
    assert "roles: {USER: user, narrator: user | assistant | system | tool, Bot: assistant}" in str(
        caught.value.problem("")
    )
    with pytest.raises(RowFault) as caught:
        parse("messages", [{"speaker": "user", "text": "q"}])
    assert "columns: {role: speaker}" in caught.value.problem("").remedy


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        (
            {"Instruction": "q", "Output": "a"},
            "format: alpaca\n        columns: {instruction: Instruction, output: Output}",
        ),
        ({"ask": "q", "reply": "a", "id": 1}, "columns: {query: ask, response: reply}"),
        ({"问题": "q", "回答": "a"}, "问题"),
        ({"Frage": "q", "Antwort": "a", "id": 1}, ": Antwort}"),
        ({"body": "a b c"}, "format: text\n        columns: {text: body}"),
        ({"Prompt": "q", "good": "a", "bad": "b"}, "format: preference"),
        ({"question": "q", "good": "a", "bad": "b"}, "columns: {chosen: good, rejected: bad}"),
    ],
)
def test_columns_that_are_nearly_right_end_in_the_lines_to_add(row: dict[str, str], lines: str) -> None:
    with pytest.raises(RowFault) as caught:
        detection.detect([row])
    remedy = caught.value.problem("").remedy
    assert lines in remedy
    # What is suggested works.
    written = dict(re.findall(r"(format|columns): (.*)", remedy.split("Or: ")[0]))
    columns = yaml.safe_load(written["columns"])
    assert parse(written["format"], Renaming(columns).apply(row))


@pytest.mark.parametrize("choice", ["winner_id", "preferred_index", "id"])
def test_answers_that_differ_in_a_number_are_not_guessed(choice: str) -> None:
    """Which one is the better stands in another column, row by row."""
    with pytest.raises(RowFault) as caught:
        detection.detect([{"question": "q", "response_0": "a", "response_1": "b", choice: 0}])
    assert "columns:" not in caught.value.problem("").remedy


# ---------------------------------------------------------------------------------------------------- detection


def test_the_recipe_knows_the_same_formats() -> None:
    assert ("auto", *FORMATS) == schema.FORMATS


def test_names_of_turns_do_not_reach_into_tools() -> None:
    schema = [{"name": "f", "description": "Says text.", "text": "no turn", "role": "USER"}]
    row = {"messages": [{"role": "USER", "text": "Hi"}, {"role": "assistant", "text": "Yes"}], "tools": schema}
    made = Renaming({"content": "text"}, {"USER": "user"}).apply(row)
    assert made["tools"] == schema
    assert made["messages"][0] == {"role": "user", "content": "Hi"}


def test_the_format_of_most_rows_is_taken_and_explained() -> None:
    name, why = detection.detect([ALPACA, ALPACA, {"text": "a"}])
    assert (name, why) == ("alpaca", "2 of the first 3 rows have: instruction, output")
    assert detection.detect([{**ALPACA, "text": "both"}])[0] == "alpaca"
    assert detection.detect([{"prompt": "q", "completion": "a", "response": "b"}])[0] == "prompt"


@pytest.mark.parametrize(
    ("row", "id", "said"),
    [
        ({"Instruction": "q", "Output": "a"}, "data.format_unknown", "nearest is alpaca, missing: instruction, output"),
        ({"title": "t", "body": "b"}, "data.format_unknown", "title, body"),
        ({"mesages": []}, "data.format_unknown", "nearest is messages"),
        ({"dialogue": ["q", "a"]}, "data.format_unknown", "dialogue"),
        (3, "data.row_type", "number"),
        ({}, "data.row_type", ""),
    ],
)
def test_rows_of_no_format(row: Any, id: str, said: str) -> None:
    with pytest.raises(RowFault) as caught:
        detection.detect([row])
    assert caught.value.id == id
    assert said in caught.value.problem("").rule
    if id == "data.format_unknown":
        assert all(name in caught.value.problem("").remedy for name in FORMATS)


def test_a_conversation_with_unknown_speakers_is_no_prompt() -> None:
    talk = [{"from": "USER", "value": "q"}, {"from": "BOT", "value": "a"}]
    assert detection.detect([{"conversations": talk}])[0] == "sharegpt"


def test_a_text_label_is_no_judgement() -> None:
    assert detection.detect([{"text": "a", "label": "news"}])[0] == "text"


def test_a_class_in_numbers_is_no_judgement() -> None:
    """Nor is a 1 among other numbers, or beside a question alone."""
    row = {"question": "q", "answer": "a"}
    assert detection.detect([{**row, "label": 2}])[0] == "qa"
    assert detection.detect([{**row, "label": number} for number in (0, 1, 0, 1, 3)])[0] == "qa"
    assert detection.detect([{"messages": QA, "label": str(number)} for number in (0, 1, 3)])[0] == "messages"
    assert detection.detect([{"messages": QA[:1], "label": 1}])[0] == "messages"


@pytest.mark.parametrize(
    ("format", "row", "keys"),
    [
        ("alpaca", {**ALPACA, "input": "", "id": 3, "empty": None}, ["id"]),
        (
            "messages",
            {"messages": [turn("user", "q", date=1), turn("user", "q", audio=None)], "id": 1},
            ["id", "[].date"],
        ),
        ("messages", QA, []),
        ("text", {"text": "a", "url": "b"}, ["url"]),
        (
            "firefly",
            {"conversation": [{"human": "q", "assistant": "a", "score": 1}], "category": "x"},
            ["category", "[].score"],
        ),
        (
            "preference",
            {"instruction": "s", "question": "q", "chosen": "a", "rejected": "b", "n": 1},
            ["question", "n"],
        ),
        ("preference", {"prompt": "q", "chosen": QA, "rejected": QA, "messages": QA}, ["messages"]),
        (
            "preference",
            {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
            ["safer_response_id"],
        ),
        ("labelled", {"prompt": "q", "completion": "a", "answer": "b", "label": True}, ["answer"]),
        ("labelled", {"messages": QA, "answer": "b", "label": True}, ["answer"]),
        ("prompt_only", {"prompt": "q", "level": 3}, []),
    ],
)
def test_keys_that_are_not_read_are_known(format: str, row: Any, keys: list[str]) -> None:
    assert list(detection.unmapped(format, row)) == keys


# --------------------------------------------------------------------------------------------- the user's own

MODULE = """
from luthier.data.formats import Chat, Completion, Message, Text

def chat(row): return Chat((Message("user", row["q"]), Message("assistant", row["a"])))
def known(row, *, option=1): return {"messages": [{"role": "user", "content": row["q"]},
                                                  {"role": "assistant", "content": row["a"]}]}
def nothing(row): return None
def word(row): return "text"
def number(row): return Text(3)
def loose(row): return Chat((("user", "q"),))
def listed(row): return Chat([Message("user", "q")])
def heavy(row): return Chat((Message("user", "q"), Message("assistant", "a", weight=float("nan"))))
def stranger(row): return Chat((Message("narrator", "q"),))
def half(row): return Text("\\ud800")
def two(row, other): return None
CONSTANT = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """A module in the current folder; its name is new each time, because Python remembers modules."""
    name = f"own_format_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.chdir(tmp_path)
    yield lambda function: f"{name}{function}" if function.startswith("_") else f"{name}:{function}"


def test_the_users_own_function(module: Callable[[str], str], tmp_path: Path) -> None:
    for function in ("chat", "known"):
        format = own.load(module(function))
        assert wellformed.parse(format, {"q": "q", "a": "a"}) == Chat((U, A))
    assert own.source_file(module("chat")).parent == tmp_path
    assert own.is_own("a:b") and not own.is_own("alpaca")


@pytest.mark.parametrize(
    ("function", "id"),
    [
        ("missing", "data.own_function"),
        ("CONSTANT", "data.own_function"),
        ("two", "data.own_signature"),
        ("_broken:chat", "data.own_module"),
        ("_absent:chat", "data.own_module"),
        ("_/x:chat", "data.own_name"),
    ],
)
def test_a_function_that_cannot_be_used(module: Callable[[str], str], function: str, id: str) -> None:
    with pytest.raises(DataError) as caught:
        own.load(module(function))
    (problem,) = caught.value.problems
    assert problem.id == id and problem.field == "data.format" and str(caught.value)
    assert id != "data.own_function" or "chat" in problem.rule


@pytest.mark.parametrize(
    ("function", "id", "said"),
    [
        ("chat", "data.own_raised", "KeyError: 'q'"),
        ("nothing", "data.own_result", "NoneType"),
        ("word", "data.own_result", "str"),
        ("number", "data.own_result", "int"),
        ("loose", "data.own_result", "tuple"),
        ("listed", "data.own_result", "Chat"),
        ("heavy", "data.own_result", "weight nan"),
        ("stranger", "data.unknown_role", ""),
    ],
)
def test_what_the_function_does_wrong_is_the_rows_fault(
    module: Callable[[str], str], function: str, id: str, said: str
) -> None:
    with pytest.raises(RowFault) as caught:
        wellformed.parse(own.load(module(function)), {"b": 1})
    assert caught.value.id == id and said in caught.value.problem("").rule
    if id == "data.own_raised":
        assert re.search(r"own_format_\w+\.py:4", caught.value.problem("").rule)


# --------------------------------------------------------------------------------------------------- the texts


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_placeholders() -> None:
    for id, (english, chinese) in texts.TEXT.items():
        assert placeholders(english) == placeholders(chinese), id


def test_every_message_exists_and_every_text_is_used() -> None:
    folder = Path(own.__file__).parent
    used = {
        node.value
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"data\.[a-z_0-9]+", node.value)
    }
    used -= {f"data.{field}" for field in schema.DataSection.model_fields}
    bare = {id.removesuffix(".rule").removesuffix(".remedy") for id in texts.TEXT}
    # Written out as f"data.show_{name}": any text that begins so is taken for used.
    beginnings = tuple(each for each in used if each.endswith("_"))
    assert used - set(beginnings) <= bare
    assert {each for each in bare if not each.startswith(beginnings)} <= used
    assert all(
        f"{id}.remedy" in texts.TEXT
        for id in (each.removesuffix(".rule") for each in texts.TEXT if each.endswith(".rule"))
    )
