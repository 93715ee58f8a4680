"""Which format a file has.

What goes in: the values of its first rows. What comes out: the name of the format that fits most of them and the
reason, or a `RowFault` that lists the keys seen and the formats there are; also the keys that a format leaves unread.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.data import guesses
from luthier.data.examples import RowFault
from luthier.data.formats import FORMATS, Format
from luthier.data.strict_json import shorten
from luthier.data.turns import type_word
from luthier.text import say

ALTERNATIVES_SHOWN = 3
"""Of the sets of keys that a format may have; some have dozens."""


def detect(rows: Sequence[Any]) -> tuple[str, str]:
    """The format of some rows, and a sentence that says why.

    Raises:
        RowFault: no format fits.
    """
    records = [row for row in rows if isinstance(row, dict)]
    if len(records) < len(rows) and all(isinstance(row, list) for row in rows):
        return "messages", say("data.why_list")
    keys = list(dict.fromkeys(str(key) for record in records for key in record))
    if not keys:
        raise RowFault("data.row_type", value=shorten(repr(rows[0])[:200]), got=type_word(rows[0]))
    fits = {name: _best(form, records) for name, form in FORMATS.items()}
    name = max(fits, key=lambda each: fits[each][0])
    count, required = fits[name]
    if not count:
        raise _unknown(keys)
    return name, say("data.why_keys", keys=", ".join(required), count=count, rows=len(rows))


def _best(form: Format, records: Sequence[Mapping[str, Any]]) -> tuple[int, tuple[str, ...]]:
    """How many records have the keys of a format's best alternative, and which that is."""
    counts = [
        (sum(all(key in record for key in keys) and form.holds(record) for record in records), keys)
        for keys in form.required
    ]
    return max(counts, key=lambda each: each[0])


def nearest(seen: Sequence[str]) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Of no format that fits, the nearest: its name, the keys that it needs, and target -> key of those seen, empty
    where it cannot be told which is which."""

    def likeness(keys: Sequence[str]) -> float:
        lowered = [key.lower() for key in seen]
        return sum(max(difflib.SequenceMatcher(None, key, other).ratio() for other in lowered) for key in keys) / len(
            keys
        )

    plain = {keys for form in FORMATS.values() if form.used is None for keys in form.required}
    told = _told_apart(seen)
    choices = [(name, keys, guesses.columns(keys, told)) for name, form in FORMATS.items() for keys in form.required]
    # The most columns that can be told; else the likest of the formats of answers to imitate, which most people have.
    return max(
        (
            each
            for each in choices
            if FORMATS[each[0]].used is None or (each[2] and len(each[1]) > 1 and each[1] not in plain)
        ),
        key=lambda each: (len(each[2]), likeness(each[1])),
    )


def _unknown(seen: Sequence[str]) -> RowFault:
    """No format fits: the nearest one and what it lacks, then all of them; the lines for the recipe where it is clear
    which column is which."""
    name, keys, names = nearest(seen)
    table = "; ".join(
        f"{name}: {' / '.join(' + '.join(keys) for keys in form.required[:ALTERNATIVES_SHOWN])}"
        for name, form in FORMATS.items()
    )
    missing = ", ".join(key for key in keys if key not in seen)
    renamed = {target: key for target, key in names.items() if target != key}
    lines = (
        say("data.hint_lines", lines=f"format: {name}\n        {guesses.line('columns', renamed)}") if renamed else ""
    )
    return RowFault(
        "data.format_unknown",
        keys=shorten(", ".join(seen), 200),
        nearest=name,
        missing=missing,
        formats=table,
        lines=lines,
    )


def _told_apart(keys: Sequence[str]) -> list[str]:
    """The keys that do not differ from another in a number alone: response_0 and response_1 do not say which one is
    the better."""
    stems = Counter(re.sub(r"\d+$", "", key) for key in keys)
    return [key for key in keys if stems[re.sub(r"\d+$", "", key)] == 1]


@functools.cache
def _known(name: str) -> frozenset[str]:
    form = FORMATS[name]
    return frozenset(key for keys in (*form.required, form.optional) for key in keys)


def unmapped(name: str, row: Any) -> Iterator[str]:
    """Keys of a row, and `[].key` of its turns, that its format does not read and that hold something."""
    form, known = FORMATS[name], _known(name)
    if isinstance(row, dict):
        if form.used is not None:
            known = form.used(row)
        if not row.keys() <= known:
            yield from (key for key in row if key not in known and row[key] is not None)
    turns = (
        next((row[key] for keys in form.required for key in keys if key in row), None) if isinstance(row, dict) else row
    )
    if isinstance(turns, list):
        for turn in turns:
            if isinstance(turn, dict) and not turn.keys() <= form.turn_keys:
                yield from (f"[].{key}" for key in turn if key not in form.turn_keys and turn[key] is not None)
