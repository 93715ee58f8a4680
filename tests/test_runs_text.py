"""Every message of the area `runs` that the code names exists, is used, and says the same in both languages."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import luthier
from luthier.text.runs import TEXT

SOURCE = Path(luthier.__file__).parent


def placeholders(text: str) -> set[str]:
    return {field.split(":")[0] for _, field, _, _ in string.Formatter().parse(text) if field}


@pytest.mark.parametrize("name", sorted(TEXT))
def test_both_languages_have_the_same_placeholders(name: str) -> None:
    english, chinese = TEXT[name]
    assert placeholders(english) == placeholders(chinese)
    assert english.strip() and chinese.strip()


def test_every_named_message_exists_and_every_message_is_named() -> None:
    code = "\n".join(p.read_text() for p in SOURCE.rglob("*.py") if p.parent.name != "text")
    named = set(re.findall(r'Problem\(\s*"(runs\.[a-z_]+)"', code))
    named |= set(re.findall(r'"(runs\.changed\w*)"', code))
    assert {f"{name}.rule" for name in named} | {f"{name}.remedy" for name in named} <= set(TEXT)
    said = set(re.findall(r"""["'](runs\.[a-z_. ]+[a-z_])["']""", code)) - named
    assert said <= set(TEXT), said - set(TEXT)
    beginnings = set(re.findall(r"""["'](runs\.[a-z_.]+\.)\{""", code))
    problems = {f"{name}.{part}" for name in named for part in ("rule", "remedy")}
    unused = [n for n in TEXT if n not in said | problems and not n.startswith(tuple(beginnings))]
    assert unused == []
