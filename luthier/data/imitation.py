"""How the answers of rows for other methods can be imitated.

What goes in: the first rows of a file of pairs or prompts. What comes out: the format and columns of a recipe with
which these very rows are conversations that end in their better, or reference, answer; nothing where no such are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.data import guesses, wellformed
from luthier.data.examples import Chat, Example, Message, Preference, Prompt, RowFault
from luthier.data.formats import FORMATS
from luthier.data.judged import ASKED, REFERENCES, name_in, pair_in
from luthier.data.renaming import Renaming


def lines(format: str, rows: Sequence[Any]) -> str:
    """`format: qa with columns: {answer: chosen}`, held against every row given; empty where none fits them all."""
    if format not in FORMATS or not rows or not isinstance(rows[0], dict):
        return ""
    for other, columns in _candidates(rows[0]):
        if all(_fits(format, other, Renaming(columns), row) for row in rows):
            return f"format: {other}, {guesses.line('columns', columns)}"
    return ""


def _candidates(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    asked, answer = name_in(record, ASKED), pair_in(record)[0] or name_in(record, REFERENCES)
    if answer:
        yield "alpaca", {"output": answer}
        yield "qa", {target: name for target, name in (("question", asked), ("answer", answer)) if target != name}
        yield "messages", {"messages": answer}


def _fits(format: str, other: str, names: Renaming, row: Any) -> bool:
    """Whether a row read so is what is asked and the answer, no more and no less."""
    try:
        wanted = _imitated(wellformed.parse(FORMATS[format].parse, row))
        return wanted is not None and wellformed.parse(FORMATS[other].parse, names.apply(row)) == wanted
    except RowFault:
        return False


def _imitated(example: Example) -> Chat | None:
    match example:
        case Preference(messages, chosen, _, tools):
            return Chat((*messages, *chosen), tools)
        case Prompt(messages, tools, answer) if answer:
            return Chat((*messages, Message("assistant", answer)), tools)
        case _:
            return None
