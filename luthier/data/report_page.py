"""The report of `luthier data check` as one page of HTML.

What goes in: a `Report`. What comes out: a whole document that needs no other file, no script and no network: charts
are inline SVG, colours follow the reader's light or dark setting. Everything that comes from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from luthier.data.check import FileReport
from luthier.data.findings import Finding
from luthier.data.report import Report, percentiles, searched, tally
from luthier.data.statistics import Bin, Lengths, Statistics, Tokens
from luthier.text import say

LEFT_OUT_SHOWN = 50
"""Rows left out that the page names; `--json` has all."""
LABELS_SHOWN = 20

CHART_WIDTH, CHART_HEIGHT = 880, 220
MARGIN_LEFT, MARGIN_BOTTOM, MARGIN_TOP = 56, 28, 26

STYLE = """
:root { color-scheme: light dark; --page: #f6f5f2; --card: #ffffff; --ink: #23211d; --soft: #6d6a62; --line: #e4e1da;
  --accent: #8a5a2b; --fill: #c98d4d; --pale: #efe3d3; --error: #b3261e; --warning: #9a6700; --note: #4f6478;
  --good: #2f6f4f; }
@media (prefers-color-scheme: dark) { :root { --page: #191816; --card: #23211e; --ink: #ece8e0; --soft: #a39d92;
  --line: #38352f; --accent: #dba66a; --fill: #b98146; --pale: #3a3127; --error: #f2938c; --warning: #e2b04c;
  --note: #9fb4c8; --good: #7cc6a0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC",
  "Microsoft YaHei", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: .95rem; margin: 0 0 .75rem; color: var(--soft); font-weight: 600; }
p { margin: 0; }
.verdict { font-size: 1.1rem; margin-bottom: .25rem; } .verdict.good { color: var(--good); }
.verdict.bad { color: var(--error); } .soft { color: var(--soft); font-size: .9rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.9rem, 1fr)); gap: .6rem; margin: 1.5rem 0 0; }
.fact, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.fact { padding: .6rem .8rem; } .fact b { display: block; font-size: 1.25rem; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; } .fact span { color: var(--soft); font-size: .85rem; }
.card { padding: 1.1rem 1.25rem; margin-bottom: .75rem; overflow-x: auto; }
.finding { display: grid; grid-template-columns: 4.5rem 1fr auto; gap: .25rem 1rem; align-items: start;
  border-left: 4px solid var(--tone); padding: .65rem 1rem; margin-bottom: .5rem; line-height: 1.45; 
  font-size: .95rem; }
.error { --tone: var(--error); } .warning { --tone: var(--warning); } .note { --tone: var(--note); }
.finding .kind { color: var(--tone); font-weight: 650; font-size: .85rem; padding-top: .1rem; }
.finding .what { overflow-wrap: anywhere; white-space: pre-line; } .finding .what p + p { color: var(--soft);
  font-size: .88rem; margin-top: .1rem; }
.finding .rows { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); white-space: nowrap; }
.finding .rows b { color: var(--ink); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .82rem; }
th, td { padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; } td:last-child, th:last-child { padding-right: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; overflow-wrap: normal; }
.share { display: flex; height: 1.6rem; border-radius: 6px; overflow: hidden; background: var(--pale); }
.share i { display: block; background: var(--fill); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin-top: .6rem; font-size: .9rem; }
.legend i { display: inline-block; width: .75rem; height: .75rem; border-radius: 3px; margin-right: .45rem; }
.bar { display: block; height: .55rem; border-radius: 3px; background: var(--fill); min-width: 2px; }
.bars td { vertical-align: middle; } .bars td:first-child { width: 45%; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
svg .bin { fill: var(--fill); } svg .axis { stroke: var(--line); } svg .bound { stroke: var(--error);
  stroke-dasharray: 5 4; stroke-width: 1.5; } svg .bound-word { fill: var(--error); font-weight: 600; }
svg .over { fill: var(--error); }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) { .finding { grid-template-columns: 1fr auto; } .finding .what { grid-column: 1 / -1; } }
"""


def page(report: Report, version: str) -> str:
    """The whole document. version: of Luthier, for the footer."""
    numbers = report.statistics
    body = [
        *_head(report),
        *_findings(report.findings),
        *_lengths(numbers, report.why_no_tokens),
        *_tokens(numbers.tokens),
        *_answers(numbers),
        *_files(report.checked.files),
        *_left_out(report),
        f"<footer>{_say('footer', version=version)}</footer>",
    ]
    head = (
        f'<!doctype html>\n<html lang="{_say("language")}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_say('title')}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    return head + "\n".join(body) + "\n</main>\n</body>\n</html>\n"


# --------------------------------------------------------------------------------------------------------- sections


def _head(report: Report) -> list[str]:
    files, checked, tokens = report.checked.files, report.checked, report.statistics.tokens
    facts = [
        (sum(file.read for file in files), "read"),
        (sum(file.kept for file in files), "kept"),
        (sum(file.excluded for file in files), "excluded"),
        (report.statistics.distinct, "distinct"),
        (len(checked.train), "train"),
        (len(checked.validation), "validation"),
    ]
    if tokens is not None:
        facts.append((tokens.lengths.total, "total_tokens"))
    verdict = _say("stops") if report.stops else _say("clean")
    names = ", ".join(file.path for file in files)
    return [
        f"<h1>{_say('title')}</h1>",
        f'<p class="soft">{escape(names)}</p>',
        f'<p class="verdict {"bad" if report.stops else "good"}">{verdict}</p>',
        f'<p class="soft">{escape(tally(report.findings))}</p>',
        '<div class="facts">',
        *(f'<div class="fact"><b>{value:,}</b><span>{_say(word)}</span></div>' for value, word in facts),
        "</div>",
    ]


def _findings(findings: Sequence[Finding]) -> list[str]:
    shown = [_finding(each) for each in findings] or [f'<div class="card">{escape(say("findings.none"))}</div>']
    return [f"<h2>{_say('findings')}</h2>", *shown]


def _finding(finding: Finding) -> str:
    problem = finding.problem
    subject = " = ".join(part for part in (problem.field, problem.value) if part)
    rule = ": ".join(part for part in (problem.where, subject, problem.rule) if part)
    rows = f"<b>{finding.rows:,}</b> {_say('rows')}" if finding.rows else ""
    remedy = f"<p>{escape(problem.remedy)}</p>" if problem.remedy else ""
    parts = [
        f'<div class="card finding {finding.severity}">',
        f'<span class="kind">{escape(say(f"findings.severity.{finding.severity}"))}</span>',
        f'<div class="what"><p>{escape(rule)}</p>{remedy}</div>',
        f'<span class="rows">{rows}</span></div>',
    ]
    return "".join(parts)


def _lengths(numbers: Statistics, why_no_tokens: str) -> list[str]:
    if numbers.characters is None:
        return []
    shown = [f"<h2>{_say('lengths')}</h2>"]
    if numbers.tokens is not None:
        tokens = numbers.tokens
        chart = histogram(tokens.lengths, tokens.max_tokens)
        shown.append(f'<div class="card"><h3>{_say("lengths_tokens")}</h3>{chart}{_percentiles(tokens.lengths)}</div>')
    else:
        reason = escape(say("findings.line_no_tokens", reason=why_no_tokens))
        chart = histogram(numbers.characters, None)
        shown.append(
            f'<div class="card"><h3>{_say("lengths_characters")}</h3>{chart}{_percentiles(numbers.characters)}'
            f'<p class="soft">{reason}</p></div>'
        )
    return shown


def _tokens(tokens: Tokens | None) -> list[str]:
    if tokens is None:
        return []
    learnt, rest = tokens.learnt, tokens.lengths.total - tokens.learnt
    share = 100 * tokens.learnt_share
    parts = [("fill", "learnt", learnt, share), ("pale", "context", rest, 100 - share)]
    legend = "".join(
        f'<span><i style="background: var(--{colour})"></i>{_say(word)} {count:,} ({part:.1f} %)</span>'
        for colour, word, count, part in parts
    )
    ratio = _say("ratio", ratio=f"{tokens.characters_per_token:.3g}")
    shown = [
        f'<div class="card"><h3>{_say("loss")}</h3><div class="share"><i style="width: {share:.2f}%"></i></div>'
        f'<div class="legend">{legend}<span>{ratio}</span></div></div>'
    ]
    if tokens.costs:
        header = ["data.too_long", _say("touched"), _say("lost")]
        rows = [[escape(cost.policy), f"{cost.rows:,}", f"{cost.tokens:,}"] for cost in tokens.costs]
        shown.append(f'<div class="card"><h3>{_say("too_long")}</h3>{_table(header, rows, right=(1, 2))}</div>')
    elif tokens.max_tokens is not None:
        fits = say("findings.line_fits", max_tokens=f"{tokens.max_tokens:,}")
        shown.append(f'<p class="soft">{escape(fits)}</p>')
    return shown


def _answers(numbers: Statistics) -> list[str]:
    answers, title = (numbers.labels[:LABELS_SHOWN], "labels") if numbers.labels else (numbers.frequent, "answers")
    searched_line = f'<p class="soft">{escape(searched(numbers))}</p>' if numbers.rows else ""
    if not answers:
        return [searched_line]
    bars = _bars([(each.answer, each.rows) for each in answers])
    return [f"<h2>{_say(title)}</h2>", f'<div class="card">{bars}</div>', searched_line]


def _files(files: Sequence[FileReport]) -> list[str]:
    header = [_say(word) for word in ("file", "format", "read", "kept", "excluded", "distinct")]
    rows = [
        [
            f"{escape(file.path)}<br><span class='soft'>{escape(file.why)}</span>",
            escape(file.format),
            *(f"{value:,}" for value in (file.read, file.kept, file.excluded, file.distinct)),
        ]
        for file in files
    ]
    return [f"<h2>{_say('files')}</h2>", f'<div class="card">{_table(header, rows, right=(2, 3, 4, 5))}</div>']


def _left_out(report: Report) -> list[str]:
    excluded = report.checked.excluded
    if not excluded:
        return []
    counts: dict[str, int] = {}
    words: dict[str, str] = {}
    for row in excluded:
        counts[row.reason_id] = counts.get(row.reason_id, 0) + 1
        words.setdefault(row.reason_id, row.reason)
    reasons = sorted(counts.items(), key=lambda pair: -pair[1])
    rows = [[escape(row.where), escape(row.reason)] for row in excluded[:LEFT_OUT_SHOWN]]
    table = _table([_say("place"), _say("reason")], rows)
    more = len(excluded) - LEFT_OUT_SHOWN
    below = f'<p class="soft">{_say("more", rows=f"{more:,}")}</p>' if more > 0 else ""
    return [
        f"<h2>{_say('reasons')}</h2>",
        f'<div class="card">{_bars([(words[id], count) for id, count in reasons])}</div>',
        f'<div class="card"><h3>{_say("left_out_rows")}</h3>{table}{below}</div>',
    ]


# ----------------------------------------------------------------------------------------------------------- charts


def histogram(lengths: Lengths, bound: int | None) -> str:
    """Bars over length, with a line at `bound`; bars beyond it are in the colour of errors."""
    bins = lengths.histogram
    most = max(each.rows for each in bins)
    width = (CHART_WIDTH - MARGIN_LEFT) / len(bins)
    floor = CHART_HEIGHT - MARGIN_BOTTOM
    drawn = [f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{_say("lengths")}">']
    for share in (0.5, 1.0):
        y = floor - share * (floor - MARGIN_TOP)
        drawn.append(f'<line class="axis" x1="{MARGIN_LEFT}" x2="{CHART_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if most * share == int(most * share):
            drawn.append(f'<text x="{MARGIN_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{int(most * share):,}</text>')
    for place, each in enumerate(bins):
        height = each.rows / most * (floor - MARGIN_TOP)
        x = MARGIN_LEFT + place * width
        over = bound is not None and each.low >= bound
        drawn.append(
            f'<rect class="{"over" if over else "bin"}" x="{x + 1:.1f}" y="{floor - height:.1f}" '
            f'width="{max(width - 2, 1):.1f}" height="{height:.1f}" rx="2"><title>{_bin_word(each)}</title></rect>'
        )
    drawn.append(f'<line class="axis" x1="{MARGIN_LEFT}" x2="{CHART_WIDTH}" y1="{floor}" y2="{floor}"/>')
    drawn += _ticks(bins, width)
    if bound is not None:
        drawn += _bound(bins, width, bound)
    return "".join([*drawn, "</svg>"])


def _bin_word(each: Bin) -> str:
    if each.high is None:
        return _say("last_bin", low=f"{each.low:,}", rows=f"{each.rows:,}")
    return _say("bin", low=f"{each.low:,}", high=f"{each.high - 1:,}", rows=f"{each.rows:,}")


def _ticks(bins: Sequence[Bin], width: float) -> Iterable[str]:
    step = max(1, -(-len(bins) // 8))
    for place, each in enumerate(bins):
        last = each.high is None
        crowded = bins[-1].high is None and len(bins) - place <= step
        if last or (place % step == 0 and not crowded):
            word = f"{each.low:,}" + ("+" if last else "")
            x = MARGIN_LEFT + place * width
            yield f'<text x="{x:.1f}" y="{CHART_HEIGHT - 8}" text-anchor="{"end" if last else "start"}">{word}</text>'


def _bound(bins: Sequence[Bin], width: float, bound: int) -> list[str]:
    """The line at max_tokens; beyond the last bar only its word, with an arrow."""
    end = CHART_WIDTH - 4
    place = next((at for at, each in enumerate(bins) if each.high is None or bound < each.high), None)
    if place is None:
        return [f'<text class="bound-word" x="{end}" y="14" text-anchor="end">max_tokens {bound:,} →</text>']
    each = bins[place]
    within = 0.5 if each.high is None else (bound - each.low) / (each.high - each.low)
    x = MARGIN_LEFT + (place + within) * width
    anchor = "end" if x > CHART_WIDTH / 2 else "start"
    gap = -6 if anchor == "end" else 6
    return [
        f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{CHART_HEIGHT - MARGIN_BOTTOM}"/>',
        f'<text class="bound-word" x="{x + gap:.1f}" y="14" text-anchor="{anchor}">max_tokens {bound:,}</text>',
    ]


def _percentiles(lengths: Lengths) -> str:
    pairs = [(say("findings.page.shortest"), lengths.shortest), *percentiles(lengths)]
    pairs.append((say("findings.page.longest"), lengths.longest))
    header = [escape(word) for word, _ in pairs]
    return _table(header, [[f"{value:,}" for _, value in pairs]], right=range(len(pairs)))


def _bars(pairs: Sequence[tuple[str, int]]) -> str:
    most = max(count for _, count in pairs)
    rows = "".join(
        f'<tr><td>{escape(word)}</td><td><i class="bar" style="width: {100 * count / most:.1f}%"></i></td>'
        f'<td class="number">{count:,}</td></tr>'
        for word, count in pairs
    )
    return f'<table class="bars">{rows}</table>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """header and cells are HTML already. right: numbers of the columns that hold numbers."""
    numbers = frozenset(right)

    def line(cells: Sequence[str], tag: str) -> str:
        made = (
            f"<{tag}{' class=number' if place in numbers else ''}>{cell}</{tag}>" for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _say(name: str, **values: str) -> str:
    return escape(say(f"findings.page.{name}", **values))
