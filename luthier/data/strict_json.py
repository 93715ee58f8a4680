"""JSON, read strictly and one row at a time.

What goes in: the text of one row, or a binary stream that holds one JSON array of any size. What comes out: plain
values with the place they began at, or `Invalid`, which says what is wrong and at which character. Duplicate keys, NaN,
numbers that overflow, half surrogate pairs and deep nesting are refused, because other readers would each make
something else of them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn

MAX_DEPTH = 64
"""Levels of nesting in one row. Real rows with tool schemas have about ten; chosen, not tuned, and far below what
Python's recursion allows, so that everything downstream may recurse."""
CHUNK_BYTES = 1 << 20
"""Read at a time; a window grows by doubling where one element is longer, so no byte is parsed more than twice."""
CUT_MARGIN = 16
"""Characters before the end of the window within which a syntax error, or a number, may come from the cut: the longest
literal, `-Infinity`, has nine."""

_SPACE = re.compile(r"[ \t\r\n]*")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class Invalid(Exception):
    """Text that is no strict JSON. `position` counts characters of the text given; -1 where it is not known."""

    def __init__(self, id: str, position: int = -1, **values: Any) -> None:
        super().__init__(id)
        self.id = id
        self.position = position
        self.values = values


class _Refused(ValueError):
    def __init__(self, id: str, **values: Any) -> None:
        super().__init__(id)
        self.id = id
        self.values = values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _Refused("data.duplicate_key", key=shorten(next(key for key in keys if keys.count(key) > 1)))
    return made


def _no_constant(name: str) -> NoReturn:
    raise _Refused("data.not_finite", number=name)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _Refused("data.not_finite", number=shorten(digits))
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
_LENIENT = json.JSONDecoder(parse_int=str)


def shorten(text: str, width: int = 60) -> str:
    """The text in one line of at most `width` characters, for messages; what cannot be printed is escaped."""
    plain = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[: width + 1])
    return plain if len(text) <= width else plain[: width - 1] + "…"


def loads(text: str) -> Any:
    """The value of a text that holds exactly one.

    Raises:
        Invalid: it does not.
    """
    start = 0 if text[:1] in ("{", "[") else _after_space(text, 0)
    value, end = _decode(text, start)
    if end != len(text) and (rest := _after_space(text, end)) != len(text):
        raise Invalid("data.json_syntax", rest, reason="Extra data")
    return value


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None, "the pattern matches the empty text"
    return found.end()


def _decode(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends.

    Raises:
        Invalid: bad syntax, or a value that strictness refuses.
    """
    try:
        value, end = _STRICT.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise Invalid("data.json_syntax", error.pos, reason=error.msg) from error
    except RecursionError as error:
        raise Invalid("data.too_deep", start, limit=MAX_DEPTH) from error
    except _Refused as error:
        raise Invalid(error.id, **error.values) from error
    except ValueError as error:  # Python refuses integers of thousands of digits
        raise Invalid("data.not_finite", start, number="…") from error
    if _may_be_deep(text, start, end) and _depth(value) > MAX_DEPTH:
        raise Invalid("data.too_deep", start, limit=MAX_DEPTH)
    if _HALF_PAIR.search(text, start, end):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Invalid("data.half_pair") from error
    return value, end


def _may_be_deep(text: str, start: int, end: int) -> bool:
    """Whether there are brackets enough. Lists are looked for first: most rows have none, which is soon seen."""
    lists = text.count("[", start, end) if text.find("[", start, end) >= 0 else 0
    return lists + text.count("{", start, end) > MAX_DEPTH


def _depth(value: Any) -> int:
    """Levels of lists and objects; without recursion."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, (list, dict))]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


# ----------------------------------------------------------------------------------------------------- arrays


class Element(NamedTuple):
    """One element of an array (a named tuple, because millions are made).

    Attributes:
        number: 1-based place in the array.
        line: line of the file that it begins in.
        value: its value; None where `fault` is set.
        fault: why the element cannot be used.
        byte: offset in the file of the byte the fault is at, -1 where it is not known.
        fatal: nothing after it could be read.
    """

    number: int
    line: int
    value: Any = None
    fault: Invalid | None = None
    byte: int = -1
    fatal: bool = False


class _Window:
    """The stretch of a UTF-8 stream that is being parsed. Bad bytes become half surrogates, and `damaged` is set."""

    def __init__(self, stream: BinaryIO) -> None:
        self.text = ""
        self.at = 0
        self.line = 1
        self.damaged = False
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._bytes_before = 0
        self._ended = False

    def more(self) -> bool:
        """Forget what was consumed and read on; False at the end of the stream."""
        if self._ended:
            return False
        self._bytes_before += _byte_length(self.text[: self.at])
        kept = self.text[self.at :]
        data = self._stream.read(max(CHUNK_BYTES, len(kept)))
        self._ended = not data
        new = self._decoder.decode(data, final=self._ended)
        self.damaged = self.damaged or not _is_clean(new)
        self.text, self.at = kept + new, 0
        return True

    def advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def next_character(self) -> str:
        """Skip white space; the next character, still to be consumed, or the empty text at the end."""
        while True:
            self.advance(_after_space(self.text, self.at))
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def byte_at(self, position: int) -> int:
        return self._bytes_before + _byte_length(self.text[:position])

    def line_at(self, position: int) -> int:
        return self.line + self.text.count("\n", self.at, position)

    def bad_byte(self, end: int) -> int:
        """Offset of the first byte before `end` that is no UTF-8, -1 for none."""
        if self.damaged:
            try:
                self.text[self.at : end].encode()
            except UnicodeEncodeError as error:
                return self.byte_at(self.at + error.start)
        return -1

    def cut_at(self, position: int, reason: str) -> bool:
        """Whether a syntax error may be due to the window's end."""
        return "Unterminated string" in reason or position >= len(self.text) - CUT_MARGIN


def _is_clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _byte_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def elements(stream: BinaryIO, skip: int = 0, closing: str = "") -> Iterator[Element]:
    """The elements of the array in a UTF-8 stream (no byte order mark), in constant memory.

    Args:
        skip: characters before the array's bracket.
        closing: what must follow the array's end, besides white space: `}` where an object wraps it.
    """
    window = _Window(stream)
    while len(window.text) < skip and window.more():
        pass
    window.advance(skip)
    assert window.next_character() == "[", "the caller looked at the beginning"
    window.advance(window.at + 1)
    number, expect = 1, "first"
    while (character := window.next_character()) != "]" or expect == "value":
        if expect == "comma":
            if character != ",":
                yield _broken(number, window, "Expecting ',' or ']'" if character else "unexpected end of the file")
                return
            window.advance(window.at + 1)
            expect = "value"
            continue
        element, end = _element(window, number)
        yield element
        if element.fatal:
            return
        window.advance(end)
        number, expect = number + 1, "comma"
    window.advance(window.at + 1)
    for character in closing:
        if window.next_character() != character:
            yield _broken(number, window, f"Expecting '{character}'")
            return
        window.advance(window.at + 1)
    if window.next_character():
        yield _broken(number, window, "Extra data")


def _broken(number: int, window: _Window, reason: str) -> Element:
    fault = Invalid("data.json_array_broken", reason=reason, read=number - 1)
    return Element(number, window.line, fault=fault, byte=window.byte_at(window.at), fatal=True)


def _element(window: _Window, number: int) -> tuple[Element, int]:
    """The element at the window's place and the position where it ends (without meaning where it is fatal)."""
    while True:
        try:
            value, end = _decode(window.text, window.at)
        except Invalid as fault:
            if fault.id == "data.json_syntax":
                if window.cut_at(fault.position, fault.values["reason"]) and window.more():
                    continue
                return _syntax(window, number, fault), -1
            ended = _end_of_refused(window, number, fault)
            if ended is None:
                continue
            return ended
        if not isinstance(value, (dict, list, str)) and end >= len(window.text) - CUT_MARGIN and window.more():
            continue  # a number may go on beyond the window: 1 may be the beginning of 1.5
        if (byte := window.bad_byte(end)) >= 0:
            return Element(number, window.line, fault=Invalid("data.not_utf8", byte=byte), byte=byte), end
        return Element(number, window.line, value), end


def _syntax(window: _Window, number: int, fault: Invalid) -> Element:
    reason, position = fault.values["reason"], fault.position
    values = {"reason": reason, "read": number - 1}
    return Element(
        number,
        window.line_at(position),
        fault=Invalid("data.json_array_broken", position, **values),
        byte=window.byte_at(position),
        fatal=True,
    )


def _end_of_refused(window: _Window, number: int, fault: Invalid) -> tuple[Element, int] | None:
    """Where an element ends that strictness refuses, so that the ones after it can be read; None: read more first."""
    try:
        _, end = _LENIENT.raw_decode(window.text, window.at)
    except json.JSONDecodeError as error:
        if window.cut_at(error.pos, error.msg) and window.more():
            return None
        return _syntax(window, number, Invalid("data.json_syntax", error.pos, reason=error.msg)), -1
    except RecursionError:
        return Element(number, window.line, fault=fault, fatal=True), -1
    return Element(number, window.line, fault=fault), end
