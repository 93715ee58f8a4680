"""Built-in checks of answers.

What goes in: an answer and the row that asked for it, with its reference answer. What comes out: a reward from 0 to 1;
`Unjudged` where the row has nothing to judge by. Nothing an answer holds can make a check fail: what cannot be read is
worth 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.examples import Chat
from luthier.scoring import sandbox

NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?")
LONGEST_NUMBER = 100
FENCED = re.compile(r"```[A-Za-z0-9_+-]*\n(.*?)```", re.DOTALL)
RELATIVE = 1e-6
"""Difference allowed between an answer's number and the reference's."""
SCHEMA_COLUMN, TESTS_COLUMN = "schema", "tests"


class Unjudged(Exception):
    """A row without what a check needs; the text is its name."""


@dataclass(frozen=True)
class Asked:
    """A row that was answered. prompt: the turns, {role, content} each; reference: the answer to judge by, where there
    is one; columns: the rest of the row; chat: the conversation whole, with its tools and calls, for reward models."""

    prompt: Sequence[Mapping[str, Any]]
    reference: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    chat: Chat | None = None


Verifier = Callable[[str, Asked], float]


def exact(answer: str, asked: Asked) -> float:
    """1 where the answer is the reference, apart from white space at the ends."""
    return float(answer.strip() == _reference(asked).strip())


def numeric(answer: str, asked: Asked) -> float:
    """1 where the last number of the answer is the last number of the reference."""
    wanted = last_number(_reference(asked))
    if wanted is None:
        raise Unjudged("number in the reference answer")
    found = last_number(answer)
    return float(found is not None and math.isclose(found, wanted, rel_tol=RELATIVE, abs_tol=1e-9))


def last_number(text: str) -> float | None:
    """The last number of a text: 1,200.5, -3e4, 3/4; None where there is none."""
    last = None
    for match in NUMBER.finditer(text):
        last = match
    if last is None or last.end() - last.start() > LONGEST_NUMBER:
        return None
    over, _, under = last.group().replace(",", "").partition("/")
    value = float(over) / (float(under) if under else 1.0) if not under or float(under) else math.nan
    return value if math.isfinite(value) else None


def json_equal(answer: str, asked: Asked) -> float:
    """1 where the answer is the reference's JSON value; the order of keys and the layout do not count."""
    wanted = parsed(_reference(asked))
    if wanted is MISSING:
        raise Unjudged("JSON in the reference answer")
    return float(same(parsed(answer), wanted))


def json_fields(answer: str, asked: Asked) -> float:
    """The share of the reference object's fields that the answer, a JSON object with no others, has right."""
    wanted, found = parsed(_reference(asked)), parsed(answer)
    if not isinstance(wanted, dict) or not wanted:
        raise Unjudged("JSON object in the reference answer")
    if not isinstance(found, dict):
        return 0.0
    right = sum(key in found and same(found[key], value) for key, value in wanted.items())
    return right / max(len(wanted), len(wanted.keys() | found.keys()))


def regex(pattern: str) -> Verifier:
    """1 where the pattern is found; with a group and a reference, where what the group holds is the reference."""
    compiled = re.compile(pattern, re.DOTALL)

    def verify(answer: str, asked: Asked) -> float:
        found = compiled.search(answer)
        if found is None or not compiled.groups or asked.reference is None:
            return float(found is not None)
        return float((found.group(1) or "").strip() == asked.reference.strip())

    return verify


def json_schema(schema: Any = None) -> Verifier:
    """1 where the answer is JSON that fits the schema; that of the row's column `schema` where none is given."""

    def verify(answer: str, asked: Asked) -> float:
        wanted = schema if schema is not None else asked.columns.get(SCHEMA_COLUMN)
        wanted = parsed(wanted) if isinstance(wanted, str) else wanted
        if not isinstance(wanted, (dict, bool)):
            raise Unjudged(f"column {SCHEMA_COLUMN}")
        value = parsed(answer)
        return float(value is not MISSING and fits(value, wanted))

    return verify


def code(seconds: float) -> Verifier:
    """The share of the row's tests (column `tests`, a text or a list of texts) that hold once the answer, or the last
    fenced block in it, has run; see `luthier.scoring.sandbox`."""

    def verify(answer: str, asked: Asked) -> float:
        tests = asked.columns.get(TESTS_COLUMN)
        tests = [tests] if isinstance(tests, str) else tests
        if not isinstance(tests, (list, tuple)) or not tests or not all(isinstance(each, str) for each in tests):
            raise Unjudged(f"column {TESTS_COLUMN}")
        outcome = sandbox.run(fenced(answer), tests, seconds=seconds)
        return outcome.passed / outcome.total

    return verify


PLAIN: dict[str, Verifier] = {"exact": exact, "numeric": numeric, "json": json_equal, "json_fields": json_fields}
"""Checks that take no argument and a bounded time."""


# --------------------------------------------------------------------------------------------------------- parts


def _reference(asked: Asked) -> str:
    if asked.reference is None:
        raise Unjudged("reference answer")
    return asked.reference


def fenced(answer: str) -> str:
    """The last fenced block of an answer; the answer where there is none."""
    blocks = FENCED.findall(answer)
    return str(blocks[-1]) if blocks else answer


MISSING = object()


def parsed(text: str) -> Any:
    """The JSON value that a text is, fenced or not; `MISSING` where it is none."""
    try:
        return json.loads(fenced(text), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return MISSING


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# -------------------------------------------------------------------------------------------------- JSON schemas

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}


def _number(value: Any) -> bool:
    return TYPES["number"](value)


KEYWORDS: dict[str, Callable[[Any, Any, Mapping[str, Any]], bool]] = {
    "type": lambda v, given, _: any(TYPES[name](v) for name in ([given] if isinstance(given, str) else given)),
    "enum": lambda v, given, _: any(same(v, each) for each in given),
    "const": lambda v, given, _: same(v, given),
    "minimum": lambda v, given, _: not _number(v) or v >= given,
    "maximum": lambda v, given, _: not _number(v) or v <= given,
    "exclusiveMinimum": lambda v, given, _: not _number(v) or v > given,
    "exclusiveMaximum": lambda v, given, _: not _number(v) or v < given,
    "multipleOf": lambda v, given, _: not _number(v) or math.isclose(v / given, round(v / given), abs_tol=1e-9),
    "minLength": lambda v, given, _: not isinstance(v, str) or len(v) >= given,
    "maxLength": lambda v, given, _: not isinstance(v, str) or len(v) <= given,
    "pattern": lambda v, given, _: not isinstance(v, str) or re.search(given, v) is not None,
    "minItems": lambda v, given, _: not isinstance(v, list) or len(v) >= given,
    "maxItems": lambda v, given, _: not isinstance(v, list) or len(v) <= given,
    "uniqueItems": lambda v, given, _: not given or not isinstance(v, list) or _unique(v),
    "items": lambda v, given, _: not isinstance(v, list) or all(fits(each, given) for each in v),
    "required": lambda v, given, _: not isinstance(v, dict) or all(key in v for key in given),
    "properties": lambda v, given, _: (
        not isinstance(v, dict) or all(fits(v[key], schema) for key, schema in given.items() if key in v)
    ),
    "additionalProperties": lambda v, given, all_: (
        not isinstance(v, dict)
        or all(fits(each, given) for key, each in v.items() if key not in all_.get("properties", {}))
    ),
    "minProperties": lambda v, given, _: not isinstance(v, dict) or len(v) >= given,
    "maxProperties": lambda v, given, _: not isinstance(v, dict) or len(v) <= given,
    "anyOf": lambda v, given, _: any(fits(v, each) for each in given),
    "allOf": lambda v, given, _: all(fits(v, each) for each in given),
    "oneOf": lambda v, given, _: sum(fits(v, each) for each in given) == 1,
    "not": lambda v, given, _: not fits(v, given),
}
"""Keywords of JSON Schema (2020-12) that are known; a schema with others that bind is refused."""
ANNOTATIONS = frozenset(("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"))


def _unique(values: Sequence[Any]) -> bool:
    return not any(same(one, other) for at, one in enumerate(values) for other in values[:at])


def fits(value: Any, schema: Any) -> bool:
    """Whether a JSON value fits a schema that `unknown_keywords` finds nothing in."""
    if isinstance(schema, bool):
        return schema
    return all(KEYWORDS[key](value, given, schema) for key, given in schema.items() if key in KEYWORDS)


def unknown_keywords(schema: Any) -> Iterator[str]:
    """Keywords of a schema, at any depth, that are not known."""
    if not isinstance(schema, dict):
        return
    for key, given in schema.items():
        if key not in KEYWORDS and key not in ANNOTATIONS:
            yield key
        elif key == "properties":
            for each in given.values():
                yield from unknown_keywords(each)
        elif key in ("anyOf", "allOf", "oneOf"):
            for each in given:
                yield from unknown_keywords(each)
        elif key in ("items", "not", "additionalProperties"):
            yield from unknown_keywords(given)


def make(name: str, seconds: float) -> Verifier:
    """The check that a name of `method.rewards` stands for: a name of `PLAIN`, `code`, `regex:PATTERN`, `json_schema`
    or `json_schema:FILE`.

    Raises:
        ValueError, OSError: the pattern or the schema cannot be used; the text says why.
    """
    kind, _, argument = name.partition(":")
    if kind in PLAIN:
        return PLAIN[kind]
    if kind == "code":
        return code(seconds)
    if kind == "regex":
        try:
            return regex(argument)
        except re.error as error:
            raise ValueError(str(error)) from error
    if not argument:
        return json_schema()
    schema = json.loads(Path(argument).expanduser().read_text(encoding="utf-8"))
    unknown = sorted(set(unknown_keywords(schema)))
    if unknown:
        raise ValueError(", ".join(unknown))
    return json_schema(schema)


BUILT_IN = (*PLAIN, "code", "regex", "json_schema")
