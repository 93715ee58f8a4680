"""Rows as the model will see them, with what it learns marked: for a terminal, and as a page.

What goes in: a renderer and examples with their places. What comes out: `Shown` sequences in pieces, and these as lines
(in colour, or in brackets where there is none), as JSON values, or as one HTML page that needs nothing else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

from luthier.batch import Floats
from luthier.data.formats import Example
from luthier.data.templates import Renderer
from luthier.data.vocabulary import Vocabulary
from luthier.errors import Problem
from luthier.text import language, say

OPEN, CLOSE = "⟦", "⟧"
TOKEN, END = "‹", "›"
"""Around what is learnt, and around control tokens, where there is no colour; hardly any text holds these."""
RESET = "\x1b[0m"
COLOURS = {"trained": "\x1b[32m", "trained special": "\x1b[1;4;32m", "context": "", "special": "\x1b[2;34m"}
WEIGHT_COLOUR = "\x1b[33m"
# Line breaks and tabs are laid out; every other control character is spelt, so that no row steers the terminal.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


Kind = Literal["trained", "context", "special"]


class Piece(NamedTuple):
    """Neighbouring tokens of one kind.

    Attributes:
        weight: of the loss of each; 0 is context.
        special: whether they are control tokens.
        tokens: how many.
    """

    text: str
    weight: float
    special: bool
    tokens: int

    @property
    def kind(self) -> Kind:
        if self.weight:
            return "trained"
        return "special" if self.special else "context"


def pieces_of(vocabulary: Vocabulary, ids: Sequence[int], weights: Floats) -> Iterator[Piece]:
    """A training sequence in pieces; their texts make up the whole."""
    # Each piece is what it adds to the whole: decoded alone, some tokenizers drop a leading space.
    before, end = "", 0
    for (weight, special), group in groupby(
        zip(weights.tolist(), ids, strict=True), key=lambda pair: (pair[0], int(pair[1]) in vocabulary.special)
    ):
        count = sum(1 for _ in group)
        end += count
        text = vocabulary.decode([int(each) for each in ids[:end]], skip_special=False)
        yield Piece(text[len(before) :], weight, special, count)
        before = text


@dataclass(frozen=True)
class Shown:
    """One training sequence of a row.

    Attributes:
        where: the row, `file:number`.
        number, of: which of the row's sequences; several where the template rewrites what was said before.
        tokens, learned: how many there are, and how many carry loss.
    """

    where: str
    number: int
    of: int
    pieces: tuple[Piece, ...]

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def learned(self) -> int:
        return sum(piece.tokens for piece in self.pieces if piece.weight)

    def head(self) -> str:
        """What is said above it."""
        head = say("data.show_row", where=self.where, tokens=self.tokens, learned=self.learned)
        return head if self.of == 1 else f"{head} ({say('data.show_part', number=self.number, of=self.of)})"

    def to_json(self) -> dict[str, Any]:
        pieces = [{"text": each.text, "kind": each.kind, "weight": each.weight} for each in self.pieces]
        return {
            "where": self.where,
            "sequence": self.number,
            "sequences": self.of,
            "tokens": self.tokens,
            "learned": self.learned,
            "pieces": pieces,
        }


def sequences(renderer: Renderer, example: Example, where: str) -> list[Shown] | Problem:
    """The sequences that a row becomes, or why it becomes none."""
    made = renderer.train_many([example])[0]
    if isinstance(made, Problem):
        return replace(made, where=where)
    return [
        Shown(where, number, len(made), tuple(pieces_of(renderer.vocabulary, ids.tolist(), weights)))
        for number, (ids, weights) in enumerate(made, 1)
    ]


# ------------------------------------------------------------------------------------------------------- terminal


def lines(shown: Iterable[Shown], *, colour: bool) -> Iterator[str]:
    """For people: a legend, then each sequence under its place."""
    if colour:
        named = {"trained": "learnt", "trained special": "stop", "context": "context", "special": "special"}
        words = [_coloured(say(f"data.show_{name}"), kind) for kind, name in named.items()]
        yield " · ".join([*words, f"{WEIGHT_COLOUR}×0.5{RESET} {say('data.show_weight')}"])
    else:
        yield say("data.show_brackets", open=OPEN, close=CLOSE, token=TOKEN, end=END)
    for each in shown:
        yield ""
        yield f"\x1b[1m{each.head()}{RESET}" if colour else each.head()
        yield "".join(map(_in_colour if colour else _in_brackets, stretches(each.pieces)))


def stretches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Neighbours that are learnt with the same weight belong together, whatever tokens they are made of."""
    stretch: list[Piece] = []
    for piece in pieces:
        if stretch and (piece.weight != stretch[-1].weight or not piece.weight):
            yield stretch
            stretch = []
        stretch.append(piece)
    if stretch:
        yield stretch


def _in_colour(stretch: list[Piece]) -> str:
    weight = _weight(stretch[0])
    label = f"{WEIGHT_COLOUR}{weight}{RESET}" if weight else ""
    return label + "".join(_coloured(visible(piece.text), _look(piece)) for piece in stretch)


def _coloured(text: str, look: str) -> str:
    """Coloured line by line, so that a pager which shows a part of it keeps the colour."""
    begin = COLOURS[look]
    return "\n".join(f"{begin}{line}{RESET}" if begin and line else line for line in text.split("\n"))


def _in_brackets(stretch: list[Piece]) -> str:
    text = "".join(f"{TOKEN}{visible(each.text)}{END}" if each.special else visible(each.text) for each in stretch)
    weight = _weight(stretch[0])
    return f"{OPEN}{weight + ' ' if weight else ''}{text}{CLOSE}" if stretch[0].weight else text


def _look(piece: Piece) -> str:
    return "trained special" if piece.weight and piece.special else piece.kind


def _weight(piece: Piece) -> str:
    """The weight of the loss, where it is none of the usual two."""
    return f"×{piece.weight:.4g}" if piece.weight not in (0.0, 1.0) else ""


def visible(text: str) -> str:
    """The text with control characters, and those that turn the direction of writing, spelt out."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


# ----------------------------------------------------------------------------------------------------------- page


def page(shown: Sequence[Shown], template: str, model: str) -> str:
    """A page that stands alone: no script, nothing fetched, light or dark as the reader's system is."""
    title = say("data.show_title")
    facts = {"model": model, "template": template, "sequences": len(shown)}
    listed = "".join(
        f"<dt>{_escape(say(f'data.show_fact_{name}'))}</dt><dd>{_escape(str(value))}</dd>"
        for name, value in facts.items()
    )
    legend = " ".join(
        f'<span class="{look}">{_escape(say(f"data.show_{name}"))}</span>'
        for look, name in (("t", "learnt"), ("t s", "stop"), ("c", "context"), ("s", "special"))
    )
    legend += f' <span><b class="w">×0.5</b> {_escape(say("data.show_weight"))}</span>'
    rows = "".join(
        f'<section><h2>{_escape(each.head())}</h2><div class="row" dir="auto">'
        f"{''.join(map(_in_html, stretches(each.pieces)))}</div></section>\n"
        for each in shown
    )
    return PAGE.format(language=language(), title=_escape(title), facts=listed, legend=legend, rows=rows, style=STYLE)


def _in_html(stretch: list[Piece]) -> str:
    weight = _weight(stretch[0])
    label = f'<b class="w">{weight}</b>' if weight else ""
    inner = "".join(
        f'<span class="s">{_breaks(piece.text)}</span>' if piece.special else _breaks(piece.text) for piece in stretch
    )
    return f'{label}<mark class="t">{inner}</mark>' if stretch[0].weight else inner


def _breaks(text: str) -> str:
    """Escaped; line breaks are seen as well as made."""
    return _escape(text).replace("\n", '<i aria-hidden="true">↵</i>\n')


def _escape(text: str) -> str:
    return html.escape(visible(text))


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --soft: #60646c; --line: #dde1e6;
  --learnt: #d3f3dc; --learnt-ink: #0b5128; --mark: #33589f; --mark-paper: #e9effb; --weight: #8a4b00; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e7eb; --soft: #9aa1ab; --line: #2d333b;
  --learnt: #12402a; --learnt-ink: #b6f2ca; --mark: #9db8f2; --mark-paper: #1e2a42; --weight: #ffb65c; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .75rem; }
h2 { font-size: .9rem; font-weight: 600; color: var(--soft); margin: 1.75rem 0 .4rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0 0 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .5rem 1rem; font-size: .9rem; padding: .6rem 0;
  border-block: 1px solid var(--line); position: sticky; top: 0; background: var(--paper); }
.row { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.65 ui-monospace, monospace;
  border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; }
.t { background: var(--learnt); color: var(--learnt-ink); border-radius: .2rem; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; padding: .1em 0; }
.s { color: var(--mark); background: var(--mark-paper); border-radius: .2rem; padding: 0 .15em; }
.t .s, .t.s { background: none; color: var(--learnt-ink); text-decoration: underline; font-weight: 700; }
.legend .t.s { background: var(--learnt); }
.w { color: var(--weight); font-size: .85em; margin-inline-end: .2em; }
i { color: var(--soft); opacity: .6; font-style: normal; user-select: none; }
"""
PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><h1>{title}</h1>
<dl>{facts}</dl>
<p class="legend">{legend}</p>
{rows}</body></html>
"""
