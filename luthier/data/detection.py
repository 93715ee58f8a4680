"""Which format a file has.

What goes in: the values of its first rows. What comes out: the name of the format that fits most of them and the
reason, or a `RowFault` that lists the keys seen and the formats there are; also the keys that a format leaves unread.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.data.formats import FORMATS, TURN_KEYS, Format, RowFault, type_word
from luthier.data.strict_json import shorten
from luthier.text import say

COMPARISONS = ("chosen", "rejected", "chosen_messages", "rejected_messages")
"""Keys of preference pairs, which are no examples to imitate."""


def detect(rows: Sequence[Any]) -> tuple[str, str]:
    """The format of some rows, and a sentence that says why.

    Raises:
        RowFault: no format fits, or the rows are for another method.
    """
    records = [row for row in rows if isinstance(row, dict)]
    if len(records) < len(rows) and all(isinstance(row, list) for row in rows):
        return "messages", say("data.why_list")
    keys = list(dict.fromkeys(str(key) for record in records for key in record))
    if not keys:
        raise RowFault("data.row_type", value=shorten(repr(rows[0])[:200]), got=type_word(rows[0]))
    compared = [key for key in keys if key in COMPARISONS]
    if compared:
        raise RowFault("data.preference", keys=", ".join(compared))
    fits = {name: _best(form, records) for name, form in FORMATS.items()}
    name = max(fits, key=lambda each: fits[each][0])
    count, required = fits[name]
    if not count:
        raise _unknown(keys)
    if any(isinstance(record.get("label"), bool) for record in records):
        raise RowFault("data.feedback", keys="label")
    return name, say("data.why_keys", keys=", ".join(required), count=count, rows=len(rows))


def _best(form: Format, records: Sequence[Mapping[str, Any]]) -> tuple[int, tuple[str, ...]]:
    """How many records have the keys of a format's best alternative, and which that is."""
    counts = [(sum(all(key in record for key in keys) for record in records), keys) for keys in form.required]
    return max(counts, key=lambda each: each[0])


def _unknown(seen: Sequence[str]) -> RowFault:
    """No format fits: the nearest one and what it lacks, then all of them."""

    def likeness(keys: Sequence[str]) -> float:
        lowered = [key.lower() for key in seen]
        return sum(max(difflib.SequenceMatcher(None, key, other).ratio() for other in lowered) for key in keys) / len(
            keys
        )

    name, keys = max(
        ((name, keys) for name, form in FORMATS.items() for keys in form.required), key=lambda each: likeness(each[1])
    )
    table = "; ".join(
        f"{name}: {' / '.join(' + '.join(keys) for keys in form.required)}" for name, form in FORMATS.items()
    )
    missing = ", ".join(key for key in keys if key not in seen)
    return RowFault(
        "data.format_unknown", keys=shorten(", ".join(seen), 200), nearest=name, missing=missing, formats=table
    )


@functools.cache
def _known(name: str) -> frozenset[str]:
    form = FORMATS[name]
    return frozenset(key for keys in (*form.required, form.optional) for key in keys)


def unmapped(name: str, row: Any) -> Iterator[str]:
    """Keys of a row, and `[].key` of its turns, that its format does not read and that hold something."""
    if isinstance(row, dict) and not row.keys() <= _known(name):
        yield from (key for key in row if key not in _known(name) and row[key] is not None)
    turns = row.get(FORMATS[name].required[0][0]) if isinstance(row, dict) else row
    if isinstance(turns, list):
        for turn in turns:
            if isinstance(turn, dict) and not turn.keys() <= TURN_KEYS:
                yield from (f"[].{key}" for key in turn if key not in TURN_KEYS and turn[key] is not None)
