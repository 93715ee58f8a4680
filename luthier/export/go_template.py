"""The few words of Go's text/template that Modelfiles here are written in: quoted, and executed.

What goes in: a template and messages as Ollama hands them over. What comes out: the text. It knows nothing that
`luthier.export.ollama` does not write; Go itself is the judge of it where Go is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

REFUSAL = '{{ index .Role "the chat template has no place for a message of this role here" }}'
"""Go stops here, as a string has no element of that name, and quotes these words."""

_ACTION = re.compile(r"\{\{ (.*?) \}\}", re.S)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+')
_AWKWARD = re.compile(r'\{\{+|\{\Z|"""+|"\Z|[^ -~]')
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "and": lambda left, right: left and right,
    "not": lambda value: not value,
    "len": len,
    "slice": lambda value, start: value[start:],
}

Node = str | tuple[str, str, list[Any], list[Any]]
"""Text as it stands, or (keyword, expression, body, otherwise)."""
Scope = list[dict[str, Any]]


class Refused(Exception):
    """The template has no place for these messages."""


def literal(text: str) -> str:
    """Fixed text for a template that stands in a Modelfile.

    Ollama's reader of Modelfiles drops characters that cannot be seen and looks for three quotes, Go looks for two
    braces; such stretches are written as strings of Go.
    """

    def spelt(found: re.Match[str]) -> str:
        seen = len(found[0]) == 1 and (found[0].isprintable() or found[0] in "\n\t") and found[0] not in '{"'
        return found[0] if seen else f"{{{{ {quoted(found[0])} }}}}"

    return _AWKWARD.sub(spelt, text)


def quoted(text: str) -> str:
    """A string of Go, in characters that can be seen, without braces or three quotes in a row."""
    made = "".join(
        each
        if each.isprintable() and each not in '{}"\\'
        else f"\\U{ord(each):08x}"
        if ord(each) > 0xFFFF
        else f"\\u{ord(each):04x}"
        for each in text
    )
    return f'"{made}"'


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """The text that Go writes.

    Args:
        messages: each with Role and Content; a system message is one of them.

    Raises:
        Refused: the template refuses them.
    """
    pieces = [(index % 2 == 1, piece) for index, piece in enumerate(_ACTION.split(template))]
    nodes, _ = _parse(iter(pieces))
    root = {"Messages": list(messages)}
    return "".join(_execute(nodes, root, [{"$": root}]))


def _parse(pieces: Iterator[tuple[bool, str]]) -> tuple[list[Node], str]:
    """Nodes as far as the block's end, and the words that ended it: `end`, `else` or `else if ...`."""
    made: list[Node] = []
    for action, piece in pieces:
        word, _, rest = piece.partition(" ") if action else ("", "", "")
        if not action:
            made.append(piece)
        elif word in ("end", "else"):
            return made, piece
        elif word in ("if", "range"):
            made.append(_block(word, rest, pieces))
        else:
            made.append(("", piece, [], []))
    return made, ""


def _block(word: str, expression: str, pieces: Iterator[tuple[bool, str]]) -> Node:
    body, ended = _parse(pieces)
    otherwise: list[Node] = []
    if ended.startswith("else if "):
        otherwise = [_block("if", ended.removeprefix("else if "), pieces)]
    elif ended == "else":
        otherwise, _ = _parse(pieces)
    return word, expression, body, otherwise


def _execute(nodes: Sequence[Node], dot: Any, scopes: Scope) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
            continue
        word, expression, body, otherwise = node
        if word == "if":
            chosen = body if _value(expression, dot, scopes) else otherwise
            yield from _execute(chosen, dot, [*scopes, {}])
        elif word == "range":
            names, _, of = expression.partition(" := ")
            index_name, element_name = names.split(", ")
            for index, element in enumerate(_value(of, dot, scopes)):
                yield from _execute(body, element, [*scopes, {index_name: index, element_name: element}])
        else:
            yield _action(expression, dot, scopes)


def _action(expression: str, dot: Any, scopes: Scope) -> str:
    name, sign, value = expression.partition(" := ")
    if sign and name.startswith("$"):
        scopes[-1][name] = _value(value, dot, scopes)
        return ""
    name, sign, value = expression.partition(" = ")
    if sign and name.startswith("$"):
        next(scope for scope in reversed(scopes) if name in scope)[name] = _value(value, dot, scopes)
        return ""
    return str(_value(expression, dot, scopes))


def _value(expression: str, dot: Any, scopes: Scope) -> Any:
    words = iter(_WORD.findall(expression))
    return _call(words, dot, scopes)


def _call(words: Iterator[str], dot: Any, scopes: Scope) -> Any:
    """A value, or a function's with its arguments, as far as the closing bracket or the end."""
    first, *rest = _arguments(words, dot, scopes)
    if first == "index":
        raise Refused(rest[-1])
    return _FUNCTIONS[first](*rest) if rest else first


def _arguments(words: Iterator[str], dot: Any, scopes: Scope) -> Iterator[Any]:
    for word in words:
        if word == ")":
            return
        yield _call(words, dot, scopes) if word == "(" else _operand(word, dot, scopes)


def _operand(word: str, dot: Any, scopes: Scope) -> Any:
    if word.startswith('"'):
        return json.loads(re.sub(r"\\U([0-9a-f]{8})", lambda found: chr(int(found[1], 16)), word))
    if word.startswith("$."):
        return scopes[0]["$"][word[2:]]
    if word.startswith("$"):
        return next(scope for scope in reversed(scopes) if word in scope)[word]
    if word.startswith("."):
        return dot[word[1:]]
    if word in ("true", "false"):
        return word == "true"
    return word if word in (*_FUNCTIONS, "index") else int(word)
