"""What is damaged in a text.

What goes in: a text. What comes out: the defects it shows: text in the wrong encoding, characters that were lost,
control characters, thoughts and code that were opened and never closed.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
"""Control characters but tab, line feed, carriage return and NEL."""
_TRAIL = "\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c"
_TRAIL += "\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
"""What Latin-1 and Windows-1252 make of the bytes 80 to BF."""
_MISREAD = re.compile(f"(?:[\u00c2-\u00df][{_TRAIL}]|[\u00e0-\u00ef][{_TRAIL}]{{2}}|[\u00f0-\u00f4][{_TRAIL}]{{3}})+")
_QUOTES = frozenset("‘’“”»…–—")
"""After a capital letter these are usual: CAFÉ’S."""
_GBK_MISREAD = ("锟斤拷", "烫烫烫", "屯屯屯")
"""What GBK makes of UTF-8 replacement characters, and of memory that was never written."""
_THINK = re.compile(r"<(/?)(think|thinking|thought|reasoning)>")
_INLINE = re.compile(r"`[^`\n]*`")
_FENCE = re.compile(r"^[ \t>]*(`{3,}|~{3,})", re.M)


def defects(text: str) -> set[str]:
    """mojibake, lost, control: defects that any text may have."""
    found = set()
    if _CONTROL.search(text):
        found.add("control")
    if not text.isascii():
        if "\ufffd" in text:
            found.add("lost")
        if is_misread(text):
            found.add("mojibake")
    return found


def unclosed(answer: str) -> set[str]:
    """think, fence: what an answer opens and does not close."""
    found = set()
    if "<" in answer:
        depth: dict[str, int] = {}
        for closes, name in _THINK.findall(_INLINE.sub("", answer)):
            depth[name] = max(0, depth.get(name, 0) + (-1 if closes else 1))
        if any(depth.values()):
            found.add("think")
    if ("```" in answer or "~~~" in answer) and _is_open(_FENCE.findall(answer)):
        found.add("fence")
    return found


def is_misread(text: str) -> bool:
    """Whether a stretch of text is UTF-8 that was read as Latin-1 or Windows-1252: Ã© for é, â€™ for ’.

    The stretch must be valid UTF-8 when turned back. Two letters alone can be meant (Ñ°), so a stretch counts where it
    holds a longer sequence, three of two, or one of two that begins with Ã or Â, as all of Western Europe's do.
    """
    if any(each in text for each in _GBK_MISREAD):
        return True
    for match in _MISREAD.finditer(text):
        stretch = match[0]
        long = stretch[0] >= "\u00e0"
        western = stretch[0] in "ÂÃ" and stretch[1] not in _QUOTES
        if (long or western or len(stretch) >= 6) and _turns_back(stretch):
            return True
    return False


def _turns_back(stretch: str) -> bool:
    try:
        b"".join(_byte(character) for character in stretch).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _byte(character: str) -> bytes:
    return character.encode("latin-1" if character <= "\u00ff" else "cp1252")


def _is_open(fences: list[str]) -> bool:
    """Whether the last fence opened is never closed: a fence is closed by one of its kind, at least as long."""
    opened = ""
    for fence in fences:
        if not opened:
            opened = fence
        elif fence[0] == opened[0] and len(fence) >= len(opened):
            opened = ""
    return bool(opened)
