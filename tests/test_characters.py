"""Characters: found by name, in a file, and what is no list of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.config import characters
from luthier.errors import ConfigError

LIST = """
- {name: Ada, system: Be patient., sampling: {temperature: 0.7, stop: ["\\n\\n"]}}
- {name: 小琴, system: 简短。, greeting: 你好}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / characters.FILE
    path.write_text(LIST, encoding="utf-8")
    return path


def test_a_name_a_file_and_both(file: Path) -> None:
    assert characters.find("小琴").greeting == "你好" and characters.find("Ada").sampling.stop == ("\n\n",)
    other = file.rename(file.with_name("others.yaml"))
    assert characters.find(str(other)).name == "Ada"
    assert characters.find(f"{other}:小琴").system == "简短。"


def test_a_name_that_is_not_there_is_answered_with_those_that_are(file: Path) -> None:
    with pytest.raises(ConfigError, match="Ada, 小琴"):
        characters.find("Bob")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: Ada", "list"),
        ("[]", "list"),
        ("- {name: Ada}", "system"),
        ("- {name: A, system: b, mood: c}", "mood"),
        ("- {name: A, system: b, sampling: {top_p: 3}}", "top_p"),
        ("- [", "list of characters"),
    ],
)
def test_what_is_no_list_of_characters_is_told_by_its_place(file: Path, text: str, word: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=word):
        characters.find("Ada")
