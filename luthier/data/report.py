"""The report of `luthier data check`, for a terminal and for programs (`report_page` has it as a page).

What goes in: what was read, and what was found in it. What comes out: a `Report`, as lines and as JSON values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from luthier.batch import Floats
from luthier.data import check
from luthier.data.check import Checked
from luthier.data.examples import Example, parts
from luthier.data.findings import RANKS, Finding, Findings, ordered
from luthier.data.laws import Shapes
from luthier.data.near import Pairs
from luthier.data.scan import Role
from luthier.data.speech import speech
from luthier.data.statistics import Frequent, Lengths, Statistics, Tokens
from luthier.errors import ModelError, Problem
from luthier.text import say

BLOCK_ROWS = 256
"""Rows rendered at once; enough for the tokenizer's threads."""
ANSWERS_SHOWN = 3


class Renders(Protocol):
    """What turns examples into ids and loss weights: `templates.Renderer`."""

    def train_many(self, examples: Sequence[Example]) -> Sequence[Sequence[tuple[Any, Floats]] | Problem]: ...

    def hold(self, shapes: Shapes) -> Any: ...


@dataclass(frozen=True)
class Report:
    """Attributes:
    findings: what stops training, in the order in which it was found, then all else, the worst first.
    why_no_tokens: why tokens were not counted; empty where they were.
    """

    checked: Checked
    findings: tuple[Finding, ...]
    statistics: Statistics
    why_no_tokens: str

    @property
    def stops(self) -> bool:
        """Whether training would stop before its first step."""
        return any(each.severity == "error" for each in self.findings)

    def count(self, severity: str) -> int:
        return sum(each.severity == severity for each in self.findings)


class Look:
    """Takes from every row, while it is read for the check, what the report will say (a `check.Watcher`).

    Args:
        renderer: counts tokens as they will be trained; None where there is none, which `why_no_tokens` says then. One
            that cannot render these rows, for want of a template, is an error among the findings, and so is each law
            of rendering that it breaks on them.
    """

    def __init__(self, findings: Findings, renderer: Renders | None = None, why_no_tokens: str = "") -> None:
        self.findings = findings
        self.why_no_tokens = why_no_tokens
        self.broken: tuple[Problem, ...] = ()
        self._renderer = renderer
        self._shapes = Shapes()
        self._waiting: list[tuple[str, Example]] = []

    def see(self, where: str, path: str, role: Role, example: Example, content_hash: bytes) -> None:
        self.findings.see(where, path, role, example, content_hash)
        if self._renderer is not None:
            self._waiting.append((where, example))
            if len(self._waiting) == BLOCK_ROWS:
                self._measure(self._renderer)

    def alike(self, again: Iterable[Example]) -> Pairs:
        return self.findings.alike(again)

    def close(self) -> bool:
        """Measure the last rows and hold the shapes of all to the laws of rendering. Whether tokens were counted."""
        if self._renderer is not None:
            self._measure(self._renderer)
        if self._renderer is None:
            return False
        try:
            self._renderer.hold(self._shapes)
        except ModelError as error:
            self.broken = error.problems
        return True

    def _measure(self, renderer: Renders) -> None:
        """Tell the findings how many tokens each of the waiting rows has."""
        waiting, self._waiting = self._waiting, []
        try:
            split = [[part for part, _ in parts(example)] for _, example in waiting]
            made = _regrouped(renderer.train_many([part for each in split for part in each]), split)
        except ModelError as error:
            self._renderer, self.broken, self.why_no_tokens = None, error.problems, error.problems[0].rule
            return
        for (where, example), sequences in zip(waiting, made, strict=True):
            if isinstance(sequences, Problem):
                self.findings.not_rendered(sequences, where)
                continue
            self._shapes.add(example, where)
            # A conversation that the template rewrites makes several sequences; it is as long as the longest.
            ids, weights = max(sequences, key=lambda each: len(each[0]))
            self.findings.measured(len(ids), int((weights > 0).sum()), len(speech(example).all), where)


def _regrouped(made: Iterable[Any], split: Sequence[Sequence[Example]]) -> list[Any]:
    """The sequences of each example's parts, or what is wrong with the first of them that has none."""
    results = iter(made)
    found: list[Any] = []
    for each in split:
        own = [next(results) for _ in each]
        wrong = [one for one in own if isinstance(one, Problem)]
        found.append(wrong[0] if wrong else [sequence for one in own for sequence in one])
    return found


def make(checked: Checked, look: Look) -> Report:
    """The report on rows that `look` has seen while `checked` was made."""
    counted = look.close()
    look.alike(check.examples(checked.given))
    # Rows of a validation file are known as such; those that are split off are not, while they are read.
    own_files = any(file.role == "validation" for file in checked.files)
    split_off = frozenset() if own_files else frozenset(checked.validation.hashes())
    found, statistics = look.findings.finish(split_off)
    if not counted:
        statistics = replace(statistics, tokens=None)
    why = look.why_no_tokens
    if statistics.tokens is None and not why:
        why = say("findings.none_rendered")
    stopping = [Finding.of(problem, "error") for problem in (*checked.problems, *look.broken)]
    notes = [Finding.of(problem) for problem in checked.notes]
    return Report(checked, (*stopping, *ordered([*notes, *found])), statistics, why)


# --------------------------------------------------------------------------------------------------------- programs


def to_json(report: Report) -> dict[str, Any]:
    """Everything but the examples, as JSON values."""
    return {
        **check.report(report.checked),
        "findings": [each.to_json() for each in report.findings],
        "statistics": {**asdict(report.statistics), "why_no_tokens": report.why_no_tokens},
    }


# ----------------------------------------------------------------------------------------------------------- people


def lines(report: Report) -> list[str]:
    """The report for a terminal, without colours."""
    return [*check.lines(report.checked), *_numbers(report), "", *_findings(report.findings)]


def tally(findings: Iterable[Finding]) -> str:
    """How many findings there are of each severity."""
    counts = Counter(each.severity for each in findings)
    return say("findings.tally", **{f"{severity}s": counts[severity] for severity in RANKS})


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return [say("findings.none")]
    shown = [f"{say(f'findings.severity.{each.severity}')}: {each.problem}" for each in findings]
    return [*shown, "", tally(findings)]


def _numbers(report: Report) -> list[str]:
    numbers = report.statistics
    if numbers.characters is None:
        return []
    shown = [say("findings.distinct", distinct=f"{numbers.distinct:,}", rows=f"{numbers.rows:,}")]
    if numbers.tokens is None:
        shown.append(_length_line("findings.line_characters", numbers.characters))
        shown.append(say("findings.line_no_tokens", reason=report.why_no_tokens))
    else:
        shown += _token_lines(numbers.tokens)
    shown.append(searched(numbers))
    if numbers.labels:
        shown.append(say("findings.line_labels", answers=_answers(numbers.labels)))
    elif numbers.frequent:
        shown.append(say("findings.line_frequent", answers=_answers(numbers.frequent)))
    return shown


def searched(numbers: Statistics) -> str:
    """How many rows were compared with each other."""
    id = "findings.near_sampled" if numbers.sampled else "findings.near_searched"
    return say(id, rows=f"{numbers.compared:,}")


def percentiles(lengths: Lengths) -> list[tuple[str, int]]:
    """The middle by its name, all others by their share."""
    return [(say("findings.page.median") if each == 50 else f"{each} %", n) for each, n in lengths.percentiles.items()]


def _token_lines(tokens: Tokens) -> list[str]:
    share, ratio = f"{100 * tokens.learnt_share:.3g}", f"{tokens.characters_per_token:.3g}"
    shown = [
        _length_line("findings.line_tokens", tokens.lengths),
        say("findings.line_learnt", share=share, ratio=ratio),
    ]
    if tokens.max_tokens is not None and not tokens.too_long:
        shown.append(say("findings.line_fits", max_tokens=f"{tokens.max_tokens:,}"))
    for cost in tokens.costs:
        values = {"policy": cost.policy, "rows": f"{cost.rows:,}", "tokens": f"{cost.tokens:,}"}
        shown.append(say("findings.line_cost", **values))
    return shown


def _length_line(id: str, lengths: Lengths) -> str:
    shown = ", ".join(say("findings.share", share=share, value=f"{value:,}") for share, value in percentiles(lengths))
    return say(id, percentiles=shown, longest=f"{lengths.longest:,}", total=f"{lengths.total:,}")


def _answers(answers: Sequence[Frequent]) -> str:
    more = " …" if len(answers) > ANSWERS_SHOWN else ""
    return ", ".join(f"{each.answer} ({each.rows:,})" for each in answers[:ANSWERS_SHOWN]) + more
