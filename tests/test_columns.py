"""Two growing texts beside each other in a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier import columns

TEXTS = (
    "The quick brown fox jumps over the lazy dog.\n\nA new paragraph, " + "x" * 50,
    "你好，我是小琴，一位制琴师。" * 3,
)


def shown(texts: tuple[str, str], size: int, width: int = 83) -> list[str]:
    lines: list[str] = []
    made = columns.Columns(width, lines.append, ("lora", "base"))
    at = 0
    while at < max(map(len, texts)):
        for side, text in enumerate(texts):
            if text[at : at + size]:
                made.push(side, text[at : at + size])
        at += size
    for side in (0, 1):
        made.close(side)
    return lines


def halves(lines: list[str], width: int = 83) -> tuple[list[str], list[str]]:
    """What stands left and right of the bar, which has the same place in every line, in columns of the terminal."""
    sides: tuple[list[str], list[str]] = ([], [])
    for line in lines:
        left, bar, right = line.rstrip("\n").partition("│")
        assert bar and columns.width_of(left) == (width - 3) // 2 + 1
        assert columns.width_of(line.rstrip("\n")) <= width
        sides[0].append(left.rstrip())
        sides[1].append(right.strip())
    return sides


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_both_stand_in_columns_however_they_come(size: int) -> None:
    left, right = halves(shown(TEXTS, size))
    assert left == [
        "[lora]",
        "The quick brown fox jumps over the lazy",
        "dog.",
        "",
        "A new paragraph,",
        "x" * 40,
        "x" * 10,
    ]
    assert "".join(right) == "[base]" + TEXTS[1] and right[1] == TEXTS[1][:20]


def test_a_line_is_written_as_soon_as_both_halves_are_known() -> None:
    lines: list[str] = []
    made = columns.Columns(83, lines.append, ("a", "b"))
    made.push(0, "one\ntwo\nthree\n")
    assert len(lines) == 1, "the titles"
    made.push(1, "eins\nzwei")
    assert len(lines) == 2
    made.close(1)
    assert len(lines) == 4 and "zwei" in lines[2] and "three" in lines[3]


@given(st.text(alphabet="ab 好é\n", max_size=200), st.integers(4, 30))
def test_nothing_but_spaces_is_lost(text: str, width: int) -> None:
    lines = columns.wrapped(text, width)
    assert all(columns.width_of(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert columns.wrapped("a\x1b[2Jb\rc", 20) == ["a[2Jbc"]
    assert columns.width_of(unicodedata.normalize("NFD", "é")) == 1 and columns.width_of("好a") == 3
