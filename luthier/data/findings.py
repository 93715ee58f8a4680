"""What is remarkable about a data set: damage, repeats, leaks, secrets, answers unlike the rest.

What goes in: every kept row once, in order; where a tokenizer is at hand, its length in tokens as well. What comes out:
findings, each with a severity, the number of rows, the first places and a remedy; and statistics. Only small numbers
are kept for a row, never the row (`ledger`, `answers`, `near` say how many bytes).
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.data import secrets, statistics
from luthier.data.answers import Answers, Count, Odd
from luthier.data.defects import defects, unclosed
from luthier.data.examples import Example
from luthier.data.ledger import Ledger
from luthier.data.near import SAMPLE_ROWS, NearIndex, Pairs, content_of, families, settled
from luthier.data.scan import PLACES_SHOWN, Role, Tally
from luthier.data.speech import speech
from luthier.data.statistics import Frequent, Statistics, Tokens
from luthier.errors import Problem
from luthier.text import say

Severity = Literal["error", "warning", "note"]
Mask = NDArray[np.bool_]

FREQUENT_SHOWN = 10
OFTEN_SHARE, OFTEN_LEAST_ANSWERS = 0.2, 20
"""One answer given this often, among so many that are no labels, is what the model will say first. Not tuned."""
RARE_JUDGEMENT = 0.05
"""Share of judged answers below which one of the two judgements hardly occurs; chosen, not tuned."""
NEAR_SHARE = 0.1
"""Share of near duplicates from which they are a warning; chosen, not tuned."""

SEVERITIES: dict[str, Severity] = {
    "data.few_distinct": "warning",
    "data.leak": "warning",
    "data.left_out": "warning",
    "data.unfilled": "warning",
    "findings.not_rendered": "error",
    "findings.near_leak": "warning",
    "findings.question_leak": "warning",
    "findings.damage_control": "warning",
    "findings.damage_mojibake": "warning",
    "findings.damage_lost": "warning",
    "findings.unclosed_think": "warning",
    "findings.unclosed_fence": "warning",
    "findings.secret_private": "warning",
    "findings.secret_key": "warning",
    "findings.secret_card": "warning",
    "findings.nothing_learnt": "warning",
    "findings.frequent_answer": "warning",
    "findings.label_unseen": "warning",
    "findings.judgement_missing": "warning",
    "findings.judgement_rare": "warning",
}
"""Message id -> how bad it is; what is not named is a note."""
RANKS: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """Attributes:
    severity: an error stops training; a warning most likely harms the result; a note should be known.
    rows: how many rows show it, 0 where it is about whole files.
    """

    severity: Severity
    problem: Problem
    rows: int

    @classmethod
    def of(cls, problem: Problem, severity: Severity | None = None) -> Finding:
        rows = problem.values.get("rows", 0)
        return cls(severity or _severity(problem), problem, rows if isinstance(rows, int) else 0)

    def to_json(self) -> dict[str, Any]:
        places = self.problem.values.get("places", "")
        return {"severity": self.severity, "rows": self.rows, "places": places, **self.problem.to_json()}


class Findings:
    """Sees a data set row by row.

    Args:
        max_tokens: the recipe's bound on a row; None where there is none.
        too_long: the recipe's data.too_long.
        sample_rows: different rows that are searched for near duplicates; of more, a sample.
    """

    def __init__(
        self, max_tokens: int | None = None, too_long: str = "stop", *, sample_rows: int = SAMPLE_ROWS
    ) -> None:
        self._max_tokens = max_tokens
        self._policy = too_long
        self._rows = Ledger()
        self._near = NearIndex(sample_rows)
        self._answers = Answers()
        self._tallies: dict[str, Tally] = {}
        self._judged = {"true": Tally(), "false": Tally()}
        self._tokens = array("L")
        self._learnt = self._measured_characters = 0

    def see(self, where: str, path: str, role: Role, example: Example, content_hash: bytes) -> None:
        """A kept row."""
        said, row = speech(example), len(self._rows)
        text = said.all
        content, is_validation = content_of(content_hash), role == "validation"
        self._rows.add(where, path, is_validation, content, said.asked, len(text))
        self._near.add(row, content, said.own_text)
        for defect in defects(text):
            self._tally(f"findings.damage_{defect}", where)
        for left_open in {each for answer in said.answers for each in unclosed(answer)}:
            self._tally(f"findings.unclosed_{left_open}", where)
        if said.label:
            self._judged[said.label].add(where)
        found = secrets.kinds(text)
        for kind, count in found.items():
            self._tally(f"findings.secret_{kind}", where, count)
        for answer in said.answers:
            # Answers are shown later, so nothing secret may be kept of them.
            self._answers.see(row, is_validation, secrets.covered(answer) if found else answer)

    def measured(self, tokens: int, learnt: int, characters: int, where: str = "") -> None:
        """A row in tokens, as it is trained: how many, how many of them carry loss, and of how many characters."""
        self._tokens.append(tokens)
        self._learnt += learnt
        self._measured_characters += characters
        if self._max_tokens is not None and tokens > self._max_tokens:
            self._tally("findings.too_long", where)
        if not learnt:
            self._tally("findings.nothing_learnt", where)

    def not_rendered(self, problem: Problem, where: str) -> None:
        """A row that the template cannot render."""
        self._tally("findings.not_rendered", where, words=problem.rule)

    def alike(self, again: Iterable[Example]) -> Pairs:
        """Rows that are nearly the same. again: every row once more, in the same order; gone through only where many
        rows share a stretch (see `near`)."""
        texts = (speech(example).own_text for example in again)
        self._near = settled(self._near, map(int, self._rows.contents), texts)
        return self._near.pairs()

    def finish(self, held_out: Collection[bytes] = ()) -> tuple[tuple[Finding, ...], Statistics]:
        """All findings, the worst first. held_out: content hashes of rows that are kept for validation."""
        validation = self._rows.validation(map(content_of, held_out))
        pairs = self._near.pairs(frozenset(np.flatnonzero(validation).tolist()))
        made = [Finding.of(problem) for problem in self._problems(validation, pairs)]
        return tuple(ordered(made)), self._statistics(pairs)

    # ---------------------------------------------------------------------------------------------------- findings

    def _tally(self, id: str, where: str, count: int = 1, words: str = "") -> None:
        """Count a row once, and what it holds as often as it does."""
        tally = self._tallies.setdefault(id, Tally())
        tally.add(where)
        tally.words[words] = tally.words.get(words, 0) + count

    def _problems(self, validation: Mask, pairs: Pairs) -> Iterator[Problem]:
        for id, tally in self._tallies.items():
            yield tally.note(id, "", count=sum(tally.words.values()), **self._extra(id))
        yield from self._near_problems(validation, pairs)
        yield from self._question_problems(validation)
        yield from self._answer_problems()
        yield from self._judgement_problems()
        yield from (self._odd_problem(odd) for odd in self._answers.odd())

    def _extra(self, id: str) -> dict[str, Any]:
        return {"max_tokens": self._max_tokens, "policy": self._policy} if id == "findings.too_long" else {}

    def _near_problems(self, validation: Mask, pairs: Pairs) -> Iterator[Problem]:
        across = validation[pairs.later] & ~validation[pairs.earlier]
        within = ~validation[pairs.later] & ~validation[pairs.earlier]
        first_of = families(pairs.only(within), len(self._rows))
        near = np.flatnonzero(first_of != np.arange(len(first_of)))
        leaked, first = np.unique(pairs.later[across], return_index=True)
        values = {"all": pairs.compared, "sampled": self._sampled(pairs)}
        for id, later, earlier in (
            ("findings.near", near, first_of[near]),
            ("findings.near_leak", leaked, pairs.earlier[across][first]),
        ):
            if len(later):
                yield self._pair_note(id, later.tolist(), earlier.tolist(), **values)

    def _sampled(self, pairs: Pairs) -> str:
        return say("findings.of_a_sample", rows=pairs.compared) if pairs.sampled else ""

    def _question_problems(self, validation: Mask) -> Iterator[Problem]:
        """The same question with different answers, within the training rows and across."""
        questions, contents = self._rows.questions, self._rows.contents
        _, group = np.unique(questions, return_inverse=True)
        leader: dict[int, int] = {}
        again: list[int] = []
        leaked: list[int] = []
        sizes = np.bincount(group)
        shared = np.flatnonzero((sizes[group] > 1) & (questions != 0))
        for row in sorted(shared.tolist(), key=lambda row: bool(validation[row])):
            seen = leader.setdefault(int(questions[row]), row)
            if seen != row and contents[row] != contents[seen]:
                if validation[row] and not validation[seen]:
                    leaked.append(row)
                elif not validation[row]:
                    again.append(row)
        for id, rows in (("findings.same_question", again), ("findings.question_leak", leaked)):
            if rows:
                yield self._pair_note(id, rows, [leader[int(questions[row])] for row in rows[:PLACES_SHOWN]])

    def _pair_note(self, id: str, later: Sequence[int], earlier: Sequence[int], **values: Any) -> Problem:
        """A note on rows, each with the one that it is like."""
        shown = zip(later[:PLACES_SHOWN], earlier[:PLACES_SHOWN], strict=True)
        places = [f"{self._rows.place(one)} ≈ {self._rows.place(other)}" for one, other in shown]
        return Tally(len(later), places).note(id, "", **values)

    def _answer_problems(self) -> Iterator[Problem]:
        labels, total = self._answers.labels(), sum(self._answers.answers.values())
        rare = self._answers.rare()
        if rare:
            yield self._label_note("findings.label_rare", rare)
        if all(self._answers.answers.values()):
            unseen = [count for count in labels if not count.train]
            if unseen:
                yield self._label_note("findings.label_unseen", unseen)
        top = self._answers.frequent(1)
        if top and not labels and total >= OFTEN_LEAST_ANSWERS and top[0].all >= OFTEN_SHARE * total:
            values = {"answer": _shown(top[0]), "all": total}
            yield Tally(top[0].all, [self._rows.place(top[0].first)]).note("findings.frequent_answer", "", **values)

    def _judgement_problems(self) -> Iterator[Problem]:
        """Judged answers of which one sort is missing or hardly there."""
        total = sum(tally.rows for tally in self._judged.values())
        for label, tally in self._judged.items():
            if total and tally.rows < RARE_JUDGEMENT * total:
                id = "findings.judgement_rare" if tally.rows else "findings.judgement_missing"
                yield tally.note(id, "", label=label, all=total)

    def _label_note(self, id: str, labels: Sequence[Count]) -> Problem:
        tally = Tally(sum(count.all for count in labels), [self._rows.place(count.first) for count in labels[:3]])
        tally.words.update({f"{_shown(count)} ({count.all})": count.all for count in labels})
        return tally.note(id, "")

    def _odd_problem(self, odd: Odd) -> Problem:
        rows = tuple(dict.fromkeys(odd.rows))
        named = odd.kind in ("script", "ending", "form")
        usual = say(f"findings.kind.{odd.kind}.{odd.usual}") if named else odd.usual
        words = ", ".join(say(f"findings.kind.{odd.kind}.{word}") if named else word for word in odd.words)
        tally = Tally(len(rows), [self._rows.place(row) for row in rows[:PLACES_SHOWN]])
        return tally.note(f"findings.odd_{odd.kind}", "", share=f"{100 * odd.share:.3g}", usual=usual, odd=words)

    # -------------------------------------------------------------------------------------------------- statistics

    def _statistics(self, pairs: Pairs) -> Statistics:
        return Statistics(
            rows=len(self._rows),
            distinct=len(np.unique(self._rows.contents)),
            characters=statistics.lengths(self._rows.characters),
            tokens=self._token_statistics(),
            frequent=tuple(Frequent(_shown(count), count.all) for count in self._answers.frequent(FREQUENT_SHOWN)),
            labels=tuple(Frequent(_shown(count), count.all) for count in self._answers.labels()),
            compared=pairs.compared,
            sampled=pairs.sampled,
        )

    def _token_statistics(self) -> Tokens | None:
        values = np.asarray(self._tokens, dtype=np.int64)
        lengths = statistics.lengths(values)
        if lengths is None:
            return None
        costs = () if self._max_tokens is None else statistics.costs(values, self._max_tokens)
        too_long = 0 if self._max_tokens is None else int((values > self._max_tokens).sum())
        return Tokens(lengths, self._learnt, self._measured_characters, self._max_tokens, too_long, costs)


def _severity(problem: Problem) -> Severity:
    if problem.id == "findings.too_long":
        return "error" if problem.values["policy"] == "stop" else "note"
    many = problem.id == "findings.near" and problem.values["rows"] >= NEAR_SHARE * problem.values["all"]
    return "warning" if many else SEVERITIES.get(problem.id, "note")


def ordered(findings: Collection[Finding]) -> list[Finding]:
    """The worst first, then those with the most rows."""
    return sorted(findings, key=lambda each: (RANKS[each.severity], -each.rows, each.problem.id))


def brief(findings: Sequence[Finding], looked: int, rows: int) -> list[str]:
    """What training says of them: a line for each but the notes, which are counted, and where to see all. looked: at
    how many of how many rows."""
    worse = [finding.problem.rule for finding in findings if finding.severity != "note"]
    id = "findings.brief" if looked == rows else "findings.brief_of_some"
    if not findings and looked == rows:
        return []
    return [*worse, say(id, warnings=len(worse), notes=len(findings) - len(worse), looked=looked, rows=rows)]


def _shown(count: Count) -> str:
    """An answer's beginning in one line."""
    return " ".join(count.excerpt.split())
