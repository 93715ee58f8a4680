"""What `luthier data check` finds in rows.

What goes in: clean rows with one fault planted among them. What comes out: that fault, with its rows and a remedy in
both languages, and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data import secrets, statistics
from luthier.data.answers import ending, form, script
from luthier.data.defects import defects, is_misread, unclosed
from luthier.data.examples import Chat, Completion, Example, Labelled, Message, Preference, Prompt, Text
from luthier.data.findings import RANKS, SEVERITIES, Finding, Findings, ordered
from luthier.data.scan import Role, content_hash
from luthier.data.speech import speech
from luthier.data.statistics import Statistics
from luthier.errors import Problem
from luthier.text import TABLES, set_language

WORDS = ("river", "quietly", "carries", "three", "old", "boats", "past", "green", "hills", "towns", "people", "wait")
KEY = "sk-proj-" + "aB3dE5fG7hI9" * 3
CARD = "4539 1488 0343 6467"
"""Invented; its last digit is right."""


def chat(question: str, answer: str, **extra: Any) -> Chat:
    return Chat((Message("user", question), Message("assistant", answer, extra=extra)))


def sentence(rng: random.Random, words: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


def clean(count: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    return [chat(f"{sentence(rng)} {number}", sentence(rng, rng.randint(10, 25))) for number in range(count)]


def look(
    train: Iterable[Example], validation: Iterable[Example] = (), held_out: Sequence[Example] = (), **arguments: Any
) -> tuple[dict[str, Finding], Statistics]:
    findings = Findings(**arguments)
    roles: tuple[tuple[Role, Iterable[Example]], ...] = (("train", train), ("validation", validation))
    for role, examples in roles:
        for number, example in enumerate(examples, 1):
            findings.see(f"{role}.jsonl:{number}", f"{role}.jsonl", role, example, content_hash(example))
    found, numbers = findings.finish({content_hash(each) for each in held_out})
    assert list(found) == ordered(found)
    for each in found:
        assert each.problem.rule and each.problem.remedy
    return {each.problem.id: each for each in found}, numbers


def test_clean_rows_have_no_findings() -> None:
    found, numbers = look(clean(300))
    assert not found
    assert (numbers.rows, numbers.distinct, numbers.compared, numbers.sampled) == (300, 300, 300, False)
    assert numbers.tokens is None and not numbers.frequent and not numbers.labels


def test_no_rows_at_all() -> None:
    assert look([]) == ({}, Statistics(0, 0, None, None, (), (), 0, False))


# ---------------------------------------------------------------------------------------------------- planted faults

PLANTED: dict[str, list[Example]] = {
    "findings.damage_mojibake": [
        chat("What is it?", "Donâ€™t ask, itâ€™s a river of old boats and it carries them all.")
    ],
    "findings.damage_lost": [Text("The old river\ufffd carries three boats past the hills.")],
    "findings.damage_control": [chat("What\x07 is it?", "It is a river that carries three old boats past the hills.")],
    "findings.unclosed_think": [chat("What is it?", "<think>It carries boats, so it is a river, or a sea, or both.")],
    "findings.unclosed_fence": [Completion("Show me:", "Here it is, the code that you wanted.\n~~~python\nprint(1).")],
    "findings.secret_key": [chat(f"My key is {KEY}.", "Thank you, this river carries three old boats to the towns.")],
    "findings.secret_private": [Text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----")],
    "findings.secret_card": [Text(f"Pay with {CARD}, then the boats will come to the town and wait there.")],
    "findings.secret_mail": [Text("Write to john.smith@acme-corp.io when the boats have come to the old town.")],
    "findings.odd_length": [chat("Tell me all.", "All the boats and all the hills and " * 400 + "more.")],
    "findings.odd_script": [chat("你好吗？", "你好，我是一条古老的河，载着三条船经过青山。")],
    "findings.odd_ending": [chat("What is it?", "It is a river that carries three old boats past the green")],
    "findings.odd_form": [chat("What is it?", '{"kind": "river", "boats": 3, "hills": ["green", "old", "far."]}')],
}


@pytest.mark.parametrize("id", PLANTED)
def test_a_planted_fault_is_found(id: str) -> None:
    examples = clean(200)
    examples[100:100] = PLANTED[id]
    found, _ = look(examples)
    assert id in found
    assert found[id].rows == 1 and "train.jsonl:101" in found[id].problem.rule
    allowed = {id, "findings.odd_form", "findings.odd_ending"} if id in ("findings.unclosed_fence",) else {id}
    assert set(found) <= allowed | {"findings.odd_ending"}
    set_language("zh")
    assert "train.jsonl:101" in found[id].problem.rule


def test_a_row_is_counted_once_and_its_secrets_each() -> None:
    row = chat("Who?", "a@acme-corp.io, b@acme-corp.io <think> and <think>\n```\n")
    found, _ = look([row, row])
    mail = found["findings.secret_mail"]
    assert mail.rows == 2 and "4 in all" in mail.problem.rule
    assert found["findings.unclosed_think"].rows == 2


def test_secrets_are_never_shown() -> None:
    """Nor are their beginnings, where an answer is shown that comes often."""
    private = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow" + "A" * 500
    answers = [f"Use {KEY}.", f"Pay {CARD}.", "Ask john.smith@acme-corp.io.", private, "x " * 35 + KEY]
    found, numbers = look([chat("Which?", answer) for answer in answers for _ in range(10)])
    told = repr(numbers) + "".join(f"{each.problem} {each.to_json()}" for each in found.values())
    assert len(numbers.labels or numbers.frequent) == 5
    for secret in (KEY, KEY[:14], CARD, "john.smith", "MIIEow"):
        assert secret not in told, secret
    assert secrets.COVER in told


# ---------------------------------------------------------------------------------------------------------- repeats


def test_near_duplicates_and_where_they_are() -> None:
    examples = clean(100)
    first = examples[10]
    assert isinstance(first, Chat)
    examples.append(chat(first.messages[0].content, first.messages[1].content + " Yes."))
    found, _ = look(examples)
    assert found["findings.near"].rows == 1 and found["findings.near"].severity == "note"
    assert "train.jsonl:101 ≈ train.jsonl:11" in found["findings.near"].problem.rule
    assert found["findings.same_question"].rows == 1


def test_many_near_duplicates_are_a_warning() -> None:
    rng = random.Random(1)
    text = sentence(rng, 80)
    found, _ = look([*clean(50), *(Text(f"{text} {number}") for number in range(50))])
    assert found["findings.near"].rows == 49 and found["findings.near"].severity == "warning"


@pytest.mark.parametrize("by_file", [True, False])
def test_near_duplicates_between_training_and_validation_are_leaks(by_file: bool) -> None:
    rng = random.Random(2)
    text = sentence(rng, 40)
    train, copy = [*clean(60), Text(text)], Text(text + " Yes.")
    found, _ = look(train, [copy]) if by_file else look([copy, *train], held_out=[copy])
    assert found["findings.near_leak"].rows == 1 and found["findings.near_leak"].severity == "warning"
    assert "findings.near" not in found


def test_a_question_that_is_trained_with_another_answer_is_a_leak() -> None:
    found, _ = look([*clean(60), chat("How far is the town?", "Three hills.")], [chat("How far is the town?", "Far.")])
    assert found["findings.question_leak"].rows == 1
    assert "validation.jsonl:1 ≈ train.jsonl:61" in found["findings.question_leak"].problem.rule


def test_equal_rows_are_left_to_the_check_of_equal_rows() -> None:
    found, numbers = look([*clean(60), *clean(60)])
    assert not found and numbers.distinct == 60


def test_a_sample_says_so() -> None:
    rng = random.Random(4)
    words = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(5000)]
    examples = [Text(" ".join(rng.choices(words, k=40))) for _ in range(400)]
    found, numbers = look([*examples, *(Text(each.text + " Yes.") for each in examples)], sample_rows=300)
    assert numbers.sampled and numbers.compared <= 300
    assert f"(in a sample of {numbers.compared} rows)" in found["findings.near"].problem.rule


# ---------------------------------------------------------------------------------------------------------- answers


def test_one_answer_given_too_often() -> None:
    refusal = "I am sorry, but I cannot help with that."
    found, numbers = look([*clean(70), *(chat(f"Question {number}?", refusal) for number in range(30))])
    assert found["findings.frequent_answer"].rows == 30 and refusal in found["findings.frequent_answer"].problem.rule
    assert (numbers.frequent[0].answer, numbers.frequent[0].rows) == (refusal, 30)


def test_labels_that_hardly_occur_or_are_never_trained() -> None:
    rng = random.Random(0)
    train = [chat(sentence(rng), rng.choice(["positive", "negative"])) for _ in range(200)]
    train.append(chat(sentence(rng), "postive"))
    found, numbers = look(train, [chat("So?", "neutral"), chat("And?", "positive")])
    assert "postive (1)" in found["findings.label_rare"].problem.rule
    assert found["findings.label_unseen"].rows == 1 and "neutral (1)" in found["findings.label_unseen"].problem.rule
    assert {each.answer for each in numbers.labels} == {"positive", "negative", "neutral", "postive"}
    assert "findings.frequent_answer" not in found and "findings.odd_length" not in found


@pytest.mark.parametrize(("wanted", "rows"), [(0, 0), (2, 2), (50, None), (100, 0)])
def test_judgements_of_one_sort_only(wanted: int, rows: int | None) -> None:
    """100 judged answers; None: nothing is remarked."""
    rng = random.Random(0)
    judged = [
        Labelled((Message("user", sentence(rng)),), (Message("assistant", sentence(rng)),), number < wanted)
        for number in range(100)
    ]
    found = look(judged)[0].get("findings.judgement_missing" if rows == 0 else "findings.judgement_rare")
    assert (found and found.rows) == rows
    if found:
        assert ("(first: " in found.problem.rule) == bool(rows)
        assert f"{'are' if rows else 'none is'} {'false' if wanted == 100 else 'true'}" in found.problem.rule


def test_mixed_answers_have_no_odd_ones() -> None:
    """Where two kinds are both common, neither is odd."""
    rng = random.Random(0)
    half = [chat(sentence(rng), sentence(rng).rstrip(".")) for _ in range(100)]
    found, _ = look([*clean(100), *half])
    assert "findings.odd_ending" not in found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Hello", "latin"), ("Žluťoučký kůň", "latin"), ("Привет", "cyrillic"), ("Γειά", "greek"), ("مرحبا", "arabic"),
        ("שלום", "hebrew"), ("नमस्ते", "indic"), ("สวัสดี", "thai"), ("こんにちは、世界", "kana"), ("你好 OK", "han"),
        ("안녕하세요", "hangul"), ("42 + 7", "none"), ("", "none"), ("🙂🙂", "none"),
    ],
)  # fmt: skip
def test_scripts(text: str, name: str) -> None:
    assert script(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Yes.", "sentence"), ('He said "yes."', "sentence"), ("好的。", "sentence"), ("(ok!)\n", "sentence"),
        ("yes", "word"), ("42", "word"), ("f(x) {", "other"), ("a,", "other"),
    ],
)  # fmt: skip
def test_endings(text: str, name: str) -> None:
    assert ending(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Yes.", "prose"), ("- a\n- b", "lists"), ("Steps:\n1. go", "lists"), ("# Title\ntext", "lists"),
        ("```py\n1\n```", "code"), ('{"a": 1}', "json"), (' [1, 2]\n', "json"), ("{not json}", "prose"),
        ("[" * 100_000 + "]" * 100_000, "prose"),
    ],
)  # fmt: skip
def test_forms(text: str, name: str) -> None:
    assert form(text) == name


# ------------------------------------------------------------------------------------------------- damage and secrets


@pytest.mark.parametrize(
    "text",
    [
        "café", "CAFÉ’S", "São Paulo, NÃO!", "«À…»", "naïve", "ÅÄÖ", "Việt Nam", "ÉTÉ…", "20 °C", "Ñ°", "你好“世界”",
        "Привет", "¿Qué?", "Ã", "",
    ],
)  # fmt: skip
def test_text_that_is_well(text: str) -> None:
    assert not defects(text)


@pytest.mark.parametrize("text", ["é", "don’t", "你好", "Привет", "emoji 🙂", "20 °C", "ﬁn", "日本語"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_text_that_was_misread(text: str, encoding: str) -> None:
    try:
        misread = text.encode().decode(encoding)
    except UnicodeDecodeError:
        misread = text.encode().decode("latin-1")  # a byte that Windows-1252 does not have
    assert is_misread(f"before {misread} after")
    assert not is_misread(text)


def test_chinese_that_was_misread() -> None:
    assert defects("内容锟斤拷内容") == {"mojibake"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>a</think>b", set()), ("a</think>b", set()), ("<think>a", {"think"}),
        ("use `<think>` here", set()), ("```\na\n```", set()), ("```\na", {"fence"}),
        ("````\n```\n````", set()), ("~~~\n```\n~~~", set()), ("inline ``` is no fence", set()),
        ("<reasoning>\n```\n", {"think", "fence"}),
    ],
)  # fmt: skip
def test_what_is_left_open(text: str, found: set[str]) -> None:
    assert unclosed(text) == found


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("AKIA" + "ABCDEFGH12345678", {"key": 1}),
        ("ghp_" + "a1" * 18, {"key": 1}),
        ("xoxb-1234567890-abcdef", {"key": 1}),
        ("hf_" + "aBcD" * 9, {"key": 1}),
        ("AIza" + "a" * 35, {"key": 1}),
        (f"{KEY} and {KEY}", {"key": 2}),
        ("a.b+c@acme-corp.co.uk", {"mail": 1}),
        (CARD, {"card": 1}),
        (CARD.replace(" ", ""), {"card": 1}),
        ("3782-822463-10005", {"card": 1}),
        # none of these is one
        ("4539 1488 0343 6468", {}),
        ("123456789012345678901234", {}),
        ("0.4539148803436467", {}),
        ("name@example.com, you@mail.example.org, user@domain.com", {}),
        ("decorator @app.route and a@b", {}),
        ("sk-learn, task-force, AKIA, bot, disk-" + "a" * 30, {}),
        ("-----BEGIN PUBLIC KEY-----", {}),
        ("sha256: " + "0123456789abcdef" * 4, {}),
    ],
)
def test_kinds_of_secrets(text: str, kinds: dict[str, int]) -> None:
    assert secrets.kinds(text) == kinds
    assert (secrets.covered(text) == text) == (not kinds)


def test_luhn() -> None:
    """Worked by hand for 79927398713, the usual example: 3+2+7+8+9+6+7+4+9+9+... sums to 70."""
    assert [digit for digit in range(10) if secrets.passes_luhn(f"7992739871{digit}")] == [3]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_anything(text: str) -> None:
    look([Text(text), chat(text, text), Completion(text, text)])
    assert not secrets.kinds(secrets.covered(text))


# ----------------------------------------------------------------------------------------------------------- numbers


def test_lengths_in_tokens() -> None:
    findings = Findings(100, "stop")
    for number, tokens in enumerate((10, 20, 150, 300), 1):
        findings.measured(tokens, tokens // 2, 4 * tokens, f"a:{number}")
    found, numbers = findings.finish()
    tokens = numbers.tokens
    assert tokens is not None
    assert (tokens.lengths.total, tokens.learnt_share, tokens.characters_per_token) == (480, 0.5, 4.0)
    assert tokens.too_long == 2
    costs = {cost.policy: (cost.rows, cost.tokens) for cost in tokens.costs}
    assert costs == {"stop": (4, 480), "drop": (2, 450), "truncate": (2, 250)}
    (finding,) = found
    assert finding.problem.id == "findings.too_long" and finding.severity == "error" and finding.rows == 2
    assert "a:3, a:4" in finding.problem.rule


@pytest.mark.parametrize("policy", ["drop", "truncate"])
def test_long_rows_are_no_error_where_the_recipe_says_what_to_do(policy: str) -> None:
    findings = Findings(100, policy)
    findings.measured(150, 50, 300, "a:1")
    ((finding,), _) = findings.finish()
    assert finding.severity == "note"


def test_rows_that_teach_nothing_or_cannot_be_rendered() -> None:
    findings = Findings(100)
    findings.measured(10, 0, 40, "a:1")
    findings.not_rendered(Problem("templates.none"), "a:2")
    found, _ = findings.finish()
    assert [(each.problem.id, each.severity) for each in found] == [
        ("findings.not_rendered", "error"),
        ("findings.nothing_learnt", "warning"),
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_a_histogram_loses_no_row(values: list[int]) -> None:
    lengths = statistics.lengths(np.asarray(values, dtype=np.int64))
    assert lengths is not None
    assert sum(each.rows for each in lengths.histogram) == len(values)
    for each in lengths.histogram:
        assert each.rows == sum(each.low <= value and (each.high is None or value < each.high) for value in values)
    assert len(lengths.histogram) <= statistics.BINS + 2
    assert set(lengths.percentiles.values()) <= set(values)


def test_round_widths() -> None:
    assert [statistics.round_width(least) for least in (0.1, 1, 1.5, 3, 7, 12, 90, 300)] == [
        1, 1, 2, 5, 10, 20, 100, 500,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- tables


def test_severities_are_of_messages_that_exist() -> None:
    for id, severity in SEVERITIES.items():
        assert f"{id}.rule" in TABLES[id.split(".")[0]] and severity in RANKS


def test_thoughts_and_calls_of_tools_are_read_too() -> None:
    row = chat("q", "a", reasoning_content="t", tool_calls=[{"function": {"name": "n", "arguments": {"x": ["y"]}}}])
    said = speech(Chat((Message("system", "s"), *row.messages, Message("assistant", "w", weight=0.0))))
    assert (said.frame, said.asked, said.answers, said.further) == (("s",), ("q", "w"), ("a",), ("t", "n", "y"))
    assert said.all == "s\nq\nw\na\nt\nn\ny"


def test_every_kind_of_example_is_read_whole() -> None:
    def turn(role: str, text: str) -> Message:
        return Message(role, text)

    asked = (turn("system", "s"), turn("user", "q"), turn("assistant", "earlier"), turn("user", "r"))
    prompt = ("q", "earlier", "r")
    pair = speech(Preference(asked, (turn("assistant", "good"),), (turn("assistant", "bad"),)))
    assert (pair.frame, pair.asked, pair.answers, pair.further) == (("s",), prompt, ("good",), ("bad",))
    judged = speech(Labelled(asked, (turn("assistant", "so"), turn("tool", "t"), turn("assistant", "on")), False))
    assert (judged.asked, judged.answers, judged.label) == ((*prompt, "t"), ("so", "on"), "false")
    assert speech(Prompt(asked)).answers == () and speech(Prompt(asked, (), "42")).answers == ("42",)
