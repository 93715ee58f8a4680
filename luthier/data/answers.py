"""What the answers have in common, and which ones differ.

What goes in: the answers, one after the other. What comes out: the most frequent ones, labels and how often each
occurs, and the answers that differ in length, script, ending or form from nearly all others. Memory: 18 bytes an
answer, and the beginnings of at most `MOST_DIFFERENT` answers.
"""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from luthier.batch import Ints

MOST_DIFFERENT = 50_000
"""Different answers that are counted; where there are more, the rarest are forgotten, and counts are lower bounds."""
EXCERPT = 80
"""Characters of an answer that are shown."""
LEAST_ANSWERS = 50
"""Fewer answers have no style that others could differ from; chosen, not tuned."""
USUAL_SHARE, ODD_SHARE = 0.9, 0.05
"""A kind that nine in ten answers are of is the usual one; kinds with fewer than one in twenty are odd then."""
FAR = 5.0
"""Robust standard deviations of the logarithm of the length (1.4826 x median absolute deviation, at least 0.2, which is
a factor of 1.2) beyond which an answer is odd: one in a million of log-normal lengths."""
LEAST_DEVIATION = 0.2
MOST_LABELS, LABEL_CHARACTERS, LEAST_MEAN = 50, 40, 10
"""Answers are labels where at most 50 different ones, each this short, occur this often on average."""
RARE_SHARE = 0.1
"""A label that occurs less than a tenth as often as labels do on average hardly occurs."""

SCRIPTS = ("latin", "cyrillic", "greek", "arabic", "hebrew", "indic", "thai", "kana", "han", "hangul", "none")
ENDINGS = ("sentence", "word", "other")
FORMS = ("prose", "lists", "code", "json")

_BLOCKS: tuple[tuple[int, str], ...] = (
    (0x0041, "latin"), (0x0370, "greek"), (0x0400, "cyrillic"), (0x0530, "none"), (0x0590, "hebrew"),
    (0x0600, "arabic"), (0x0780, "none"), (0x0900, "indic"), (0x0E00, "thai"), (0x0E80, "none"),
    (0x1100, "hangul"), (0x1200, "none"), (0x1E00, "latin"), (0x1F00, "greek"), (0x2000, "none"),
    (0x3040, "kana"), (0x3100, "none"), (0x3400, "han"), (0xA000, "none"), (0xAC00, "hangul"), (0xD7B0, "none"),
    (0xF900, "han"), (0xFB00, "none"), (0x20000, "han"), (0x32000, "none"),
)  # fmt: skip
"""First character -> script, of the blocks of Unicode; what has no letters is none."""
_STARTS = [start for start, _ in _BLOCKS]
_LISTS = re.compile(r"^[ \t]*(?:[-*+•] |\d+[.)、] ?|#{1,6} |\|)", re.M)
_SENTENCE_END = frozenset(".!?。！？…‥؟।॥։።;；")
_CLOSING = "\"'”’»)）」』】]*_ \t\r\n"


def script(text: str) -> str:
    """The script of most letters among the first 200 characters. Japanese is told by its kana, which come with Han."""
    head = text[:200]
    if head.isascii():
        return "latin" if any(map(str.isalpha, head)) else "none"
    counts = Counter(_BLOCKS[bisect_right(_STARTS, ord(each)) - 1][1] for each in head if each.isalpha())
    if counts["kana"] * 5 >= counts["han"] > 0:
        return "kana"
    # A character of these says as much as two or three letters.
    counts.update({name: counts[name] for name in ("han", "kana", "hangul")})
    return max(SCRIPTS, key=lambda name: counts[name]) if counts.total() else "none"


def ending(text: str) -> str:
    """How a text ends: with a sentence's mark (quotes and brackets may follow), with a word, or otherwise."""
    last = text.rstrip(_CLOSING)[-1:] or text.rstrip()[-1:]
    return "sentence" if last in _SENTENCE_END else "word" if last.isalnum() else "other"


def form(text: str) -> str:
    """json: a JSON object or list, whole; code: begins with or holds a code fence; lists: Markdown's lists, headings or
    tables; prose."""
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] in ("{}", "[]") and _is_json(stripped):
        return "json"
    if "```" in text:
        return "code"
    return "lists" if _LISTS.search(text) else "prose"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(slots=True)
class Count:
    """An answer's occurrences. excerpt: its beginning; first: the row that it came in first."""

    excerpt: str
    first: int
    train: int = 0
    validation: int = 0

    @property
    def all(self) -> int:
        return self.train + self.validation


@dataclass(frozen=True)
class Odd:
    """Answers that differ. kind: length, script, ending or form; usual: what nearly all are; words: what these are."""

    kind: str
    rows: tuple[int, ...]
    share: float
    usual: str
    words: tuple[str, ...]


class Answers:
    """All answers seen so far."""

    def __init__(self) -> None:
        self.answers = {"train": 0, "validation": 0}
        self._counts: dict[str, Count] = {}
        self._forgotten = 0
        self._rows, self._lengths, self._kinds = array("L"), array("L"), array("H")

    def see(self, row: int, is_validation: bool, answer: str) -> None:
        said = answer.strip()
        if not said:
            return
        self.answers["validation" if is_validation else "train"] += 1
        key = said if len(said) <= EXCERPT else f"{said[:EXCERPT]}\0{len(said)}\0{hash(said)}"
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= 2 * MOST_DIFFERENT:
                self._forget()
            count = self._counts[key] = Count(said[:EXCERPT], row)
        if is_validation:
            count.validation += 1
        else:
            count.train += 1
        self._rows.append(row)
        self._lengths.append(len(said))
        kind = SCRIPTS.index(script(said)) * len(ENDINGS) + ENDINGS.index(ending(said))
        self._kinds.append(kind * len(FORMS) + FORMS.index(form(said)))

    def _forget(self) -> None:
        """Keep the most frequent half."""
        ordered = sorted(self._counts.items(), key=lambda pair: -pair[1].all)
        self._forgotten += len(ordered) - MOST_DIFFERENT
        self._counts = dict(ordered[:MOST_DIFFERENT])

    def frequent(self, most: int) -> list[Count]:
        """The answers that occur most often, and more than once."""
        ordered = sorted(self._counts.values(), key=lambda count: (-count.all, count.first))
        return [count for count in ordered[:most] if count.all > 1]

    def labels(self) -> list[Count]:
        """Every label, the most frequent first; none where the answers are no labels."""
        counts = list(self._counts.values())
        short = all(len(count.excerpt) <= LABEL_CHARACTERS for count in counts)
        total = sum(self.answers.values())
        if self._forgotten or not 2 <= len(counts) <= MOST_LABELS or not short or total < LEAST_MEAN * len(counts):
            return []
        return sorted(counts, key=lambda count: (-count.all, count.first))

    def rare(self) -> list[Count]:
        """Labels that hardly occur."""
        labels = self.labels()
        return [count for count in labels if count.all * len(labels) < RARE_SHARE * sum(self.answers.values())]

    def odd(self) -> Iterator[Odd]:
        """Answers that differ from nearly all others, in one respect after the other."""
        if len(self._rows) < LEAST_ANSWERS:
            return
        rows = np.asarray(self._rows, dtype=np.int64)
        yield from self._odd_lengths(rows)
        kinds = np.asarray(self._kinds, dtype=np.int64)
        forms, rest = kinds % len(FORMS), kinds // len(FORMS)
        respects = (
            ("script", SCRIPTS, rest // len(ENDINGS)),
            ("ending", ENDINGS, rest % len(ENDINGS)),
            ("form", FORMS, forms),
        )
        for kind, names, codes in respects:
            found = _odd_kinds(kind, names, codes, rows)
            if found is not None:
                yield found

    def _odd_lengths(self, rows: Ints) -> Iterator[Odd]:
        if self.labels():
            return
        logs = np.log(np.asarray(self._lengths, dtype=np.float64))
        middle = float(np.median(logs))
        deviation = max(1.4826 * float(np.median(np.abs(logs - middle))), LEAST_DEVIATION)
        far = np.abs(logs - middle) > FAR * deviation
        if far.any() and far.mean() < ODD_SHARE:
            low, high = (round(float(np.exp(middle + sign * FAR * deviation))) for sign in (-1, 1))
            lengths = np.asarray(self._lengths, dtype=np.int64)[far]
            words = tuple(str(each) for each in lengths[:3])
            yield Odd("length", tuple(rows[far].tolist()), float(1 - far.mean()), f"{low}–{high}", words)


def _odd_kinds(kind: str, names: tuple[str, ...], codes: Ints, rows: Ints) -> Odd | None:
    counts = np.bincount(codes, minlength=len(names))
    usual = int(counts.argmax())
    share = float(counts[usual] / len(codes))
    seen = [code for code in range(len(names)) if names[code] != "none" and code != usual and counts[code]]
    odd = [code for code in seen if counts[code] < ODD_SHARE * len(codes)]
    if share < USUAL_SHARE or not odd:
        return None
    places = np.isin(codes, odd)
    words = tuple(names[code] for code in sorted(odd, key=lambda code: -int(counts[code])))
    return Odd(kind, tuple(rows[places].tolist()), share, names[usual], words)
