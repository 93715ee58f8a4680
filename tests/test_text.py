"""Holds the message tables to the code, and the two languages to each other."""

from __future__ import annotations

import ast
import asyncio
import functools
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.config.fields import FIELDS, SECTIONS
from luthier.config.rules import RULES
from luthier.errors import ConfigError, Problem
from luthier.text import TABLES, Language, language, say, set_language, speaking

PACKAGE = Path(__file__).parents[1] / "luthier"
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "text"]
MESSAGES = {message: texts for table in TABLES.values() for message, texts in table.items()}
PARTS = (".rule", ".remedy")
ID = re.compile(rf"^(?:{'|'.join(TABLES)})(?:\.[A-Za-z0-9_ ]+)+$")
CJK = re.compile(r"[\u4e00-\u9fff]")
NO_WORDS = frozenset({"data.type_null", "doctor.use.track"})
"""The same in both languages: names and notation."""


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def spoken() -> Iterator[tuple[str, str, str]]:
    """(place, say or Problem, id) of every literal id handed to either."""
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and called(node) in ("say", "Problem"):
                given = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "id"), None)
                choices = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
                for each in choices:
                    if isinstance(each, ast.Constant):
                        yield f"{path.name}:{node.lineno}", called(node), str(each.value)


def patterns() -> set[str]:
    """f-strings that build an id, as regular expressions; those that leave the whole name open are of no help."""
    found = set()
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.JoinedStr):
                pieces = [re.escape(p.value) if isinstance(p, ast.Constant) else "[A-Za-z0-9_ ]+" for p in node.values]
                if re.match(rf"(?:{'|'.join(TABLES)})\\\.[a-z]", pieces[0]):
                    found.add("".join(pieces))
    return found


def prefixes() -> tuple[str, ...]:
    """Beginnings of ids that are put together from two strings: `"runs.status." + word`."""
    found = set()
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
                found.add(node.left.value)
    return tuple(each for each in found if ID.match(each + "x") and each.count(".") > 1)


def literals() -> set[str]:
    """Every string in the code: tables hand ids on under other names."""
    found = set()
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_id_in_the_code_has_a_text() -> None:
    missing = []
    for place, caller, message in spoken():
        needed = [message + part for part in PARTS] if caller == "Problem" else [message]
        missing += [f"{place}: {each}" for each in needed if each not in MESSAGES]
    assert not missing, missing


def test_every_built_id_has_a_text() -> None:
    lost = [pattern for pattern in patterns() if not any(re.match(f"(?:{pattern})", each) for each in MESSAGES)]
    assert not lost, lost


def test_tables_of_ids_have_texts() -> None:
    for name in RULES:
        assert all(f"config.{name}{part}" in MESSAGES for part in PARTS), name


def test_no_text_is_unused() -> None:
    used = literals() | {message for _, _, message in spoken()}
    built = [re.compile(pattern) for pattern in patterns()]
    used |= {f"config.{name}" for name in RULES}
    used |= {f"config.help.{name}" for name in (*SECTIONS, *FIELDS)}
    beginnings = prefixes()
    unused = []
    for message in MESSAGES:
        stem = next((message.removesuffix(part) for part in PARTS if message.endswith(part)), message)
        known = {message, stem} & used or any(p.fullmatch(message) or p.fullmatch(stem) for p in built)
        if not known and not message.startswith(beginnings):
            unused.append(message)
    assert not unused, unused


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("message", MESSAGES)
def test_languages_agree(message: str) -> None:
    english, chinese = MESSAGES[message]
    assert placeholders(english) == placeholders(chinese)
    assert "" not in placeholders(english), "placeholders have names"
    assert not CJK.search(english)
    words = re.sub(r"\{[^}]*\}|`[^`]*`", "", english)
    if re.search(r"[A-Za-z]{4,}", words) and message not in NO_WORDS:
        assert CJK.search(chinese), f"no Chinese in {chinese!r}"


def test_ids_stand_in_the_table_of_their_area() -> None:
    for area, table in TABLES.items():
        assert all(message.startswith(f"{area}.") for message in table)


def test_every_problem_has_both_parts() -> None:
    rules, remedies = (
        {message.removesuffix(part) for message in MESSAGES if message.endswith(part)} for part in (".rule", ".remedy")
    )
    assert rules == remedies


def test_a_problem_reads_well() -> None:
    problem = Problem("config.at_least", "recipe.yaml:4", "tune.rank", "0", {"limit": "1", "plain": "tune.rank"})
    assert str(problem).splitlines() == [
        "recipe.yaml:4: tune.rank = 0: this must be at least 1",
        "    `luthier help tune.rank` says what values are usual.",
    ]
    assert problem.to_json()["rule"] == "this must be at least 1"
    assert str(ConfigError([problem, problem])).count("tune.rank = 0") == 2


def test_language_is_chosen_once_for_all() -> None:
    assert language() == "en"
    try:
        set_language("zh")
        assert say("config.at_least.rule", limit=1) == "此值至少为 1"
    finally:
        set_language("en")


def test_one_who_is_answered_beside_others_is_answered_in_another_language() -> None:
    async def asks(wanted: Language) -> list[str]:
        with speaking(wanted):
            here = say("config.at_least.rule", limit=1)
            await asyncio.sleep(0)  # the other one asks meanwhile
            return [here, say("config.at_least.rule", limit=1), await asyncio.to_thread(say, "queue.empty")]

    async def both() -> list[list[str]]:
        return await asyncio.gather(asks("zh"), asks("en"))

    chinese, english = asyncio.run(both())
    assert chinese == ["此值至少为 1", "此值至少为 1", "队列为空。"]
    assert english == ["this must be at least 1", "this must be at least 1", "Nothing waits."]
    assert language() == "en"
