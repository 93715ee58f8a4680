"""The receipt as a page: Markdown that reads well as plain text too.

What goes in: a `Receipt`. What comes out: lines in the chosen language. The page opens with one sentence that says what
happened and with the checks; everything below is evidence.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from luthier.runs.history import Attempt, Summary
from luthier.runs.receipt import Check, Receipt
from luthier.runs.tables import NOTHING, count, decimal, markdown_table, short_hash, size, span
from luthier.text import say

MARKS = {"pass": "✔", "fail": "✘", "not run": "○"}
MAX_VALIDATIONS = 12
"""Longer tables of validations show the first, the best and the last ones."""
ORIGIN = ("source", "subset", "split", "revision", "commit")
"""What is told of rows from a hub."""
MAX_FILES = 40
"""Of results; a sharded model has more, and `receipt.json` lists them all."""


def lines(receipt: Receipt) -> list[str]:
    """The whole page."""
    page = [f"# {say('runs.page.title', run=receipt.run)}", "", headline(receipt), "", tally(receipt), ""]
    for name, section in SECTIONS:
        body = section(receipt)
        if body:
            page += [f"## {say(f'runs.page.{name}')}", "", *body, ""]
    return [*page, say("runs.page.footer", run=receipt.run)]


def headline(receipt: Receipt) -> str:
    """What happened, in one sentence."""
    recipe, summary = receipt.recipe, receipt.summary
    values = {
        "model": recipe["model"]["path"],
        "tune": _tune(recipe["tune"]),
        "examples": count(receipt.data.get("train")),
        "files": ", ".join(f"`{source['path']}`" for source in recipe["data"]["train"]),
        "steps": count(summary.step),
        "tokens": count(summary.tokens),
        "time": span(summary.seconds),
    }
    return say(f"runs.page.headline.{'finished' if receipt.state == 'finished' else 'unfinished'}", **values)


def tally(receipt: Receipt) -> str:
    """How many checks passed, failed, were not run."""
    numbers = {"passed": receipt.passed, "failed": receipt.failed, "not_run": receipt.not_run}
    return f"**{say('runs.page.tally', **numbers)}**"


def check_lines(checks: Sequence[Check]) -> list[str]:
    """Two lines per check, for a terminal: result and promise; what was found and what had to hold."""
    words = [f"{MARKS[check.status]} {_status(check)}" for check in checks]
    width = max((cell_len(word) for word in words), default=0) + 2
    page: list[str] = []
    for check, word in zip(checks, words, strict=True):
        page.append(set_cell_size(word, width) + check.sentence)
        page += [" " * width + line for line in (_found(check),) if line]
    return page


def _status(check: Check) -> str:
    return say(f"runs.status.{check.status}")


def _found(check: Check) -> str:
    """What was found, and what had to hold."""
    bound = say("runs.page.bound", bound=check.bound) if check.bound else ""
    if check.status == "not run" and not check.evidence:
        return say("runs.page.unchecked")
    return " — ".join(part for part in (check.evidence, bound) if part)


# ---------------------------------------------------------------------------------------------------- sections


def _checks(receipt: Receipt) -> list[str]:
    page: list[str] = []
    for check in receipt.checks:
        head = f"- {MARKS[check.status]} **{check.sentence}** {_status(check)}"
        found = _plain_html(_found(check))
        # Two spaces at the end of a line break it in Markdown, and are not seen in a terminal.
        page += [f"{head}  ", f"  {found}"] if found else [head]
    return page


def _material(receipt: Receipt) -> list[str]:
    given = receipt.manifest
    if given is None:
        return []
    base, tokenizer, parent = given["base"], given["tokenizer"], given["parent"]
    facts = [
        ("base", f"`{base.get('path', NOTHING)}`"),
        ("commit", _code(base.get("commit"))),
        ("weights", _code(base.get("sha256"))),
        ("config", _code(base.get("config_sha256"))),
        ("template", _template(tokenizer.get("template"))),
        ("stop", _stops(tokenizer)),
        ("tokenizer", _code(tokenizer.get("fingerprint"))),
        ("parent", f"`{parent['path']}`" if parent else None),
    ]
    files = [
        [
            f"`{f['path']}`",
            *(count(f["read"]), count(f["kept"]), count(f["read"] - f["kept"]), size(f["bytes"])),
            _code(f["sha256"]) or NOTHING,
        ]
        for f in given["data"]
    ]
    header = [say(f"runs.page.data.{name}") for name in ("file", "read", "kept", "excluded", "size", "sha256")]
    page = [*_facts(facts), "", *markdown_table(header, files, right=(1, 2, 3, 4))]
    origins = dict.fromkeys(tuple(f["origin"].get(name) for name in ORIGIN) for f in given["data"] if f.get("origin"))
    if origins:
        cells = [[f"`{value}`" if value else NOTHING for value in each] for each in origins]
        page += ["", *markdown_table([say(f"runs.page.data.{name}") for name in ORIGIN], cells)]
    sources = receipt.data.get("sources", [])
    if len(sources) > 1:
        shares = [[f"`{each['path']}`", count(each["sequences"]), count(each["seen"])] for each in sources]
        page += ["", say("runs.page.mix"), ""]
        page += markdown_table(
            [say(f"runs.page.data.{name}") for name in ("file", "sequences", "seen")], shares, right=(1, 2)
        )
    reasons = _reasons(given["data"])
    if reasons:
        first = receipt.left_out
        rows = [[_reason(reason), count(number), first.get(reason, NOTHING)] for reason, number in reasons.items()]
        page += ["", say("runs.page.reasons"), ""]
        page += markdown_table([say(f"runs.page.{name}") for name in ("reason", "rows", "first")], rows, right=(1,))
    plugins = [(name, f"`{entry['path']}` {_code(entry['sha256'])}") for name, entry in given["plugins"].items()]
    if plugins:
        page += ["", *markdown_table([say("runs.page.plugin"), say("runs.page.data.file")], plugins)]
    return page


def _training(receipt: Receipt) -> list[str]:
    recipe, summary, model = receipt.recipe, receipt.summary, receipt.model
    optim, memory = recipe["optim"], receipt.plan.get("memory", {})
    facts = [
        ("method", recipe["method"]["kind"]),
        ("tune", _tune(recipe["tune"])),
        ("trainable", _share(model)),
        ("optimizer", say("runs.page.optimizer_is", **{k: optim[k] for k in ("kind", "schedule", "batch")})),
        ("precision", _precision(optim)),
        ("lr", decimal(optim["lr"])),
        ("length", _length(receipt)),
        ("seed", str(recipe["run"]["seed"])),
        ("machine", _machine(receipt.plan.get("backend", {}))),
        ("tokens", _tokens(summary)),
        ("time", span(summary.seconds)),
        ("speed", say("runs.page.speed_is", rate=count(summary.tokens_per_s)) if summary.tokens_per_s else None),
        ("planned", size(memory["peak_bytes"]) if "peak_bytes" in memory else None),
        ("measured", size(summary.peak_memory_bytes) if summary.peak_memory_bytes else None),
    ]
    return _facts(facts)


def _tokens(summary: Summary) -> str:
    shared = f"; {say('runs.shared', computed=count(summary.computed_tokens))}" if summary.shares else ""
    return count(summary.tokens) + shared


def _precision(optim: Mapping[str, Any]) -> str | None:
    """How weights and states were kept; a receipt of earlier versions does not say, because there was one way."""
    if "weights" not in optim:
        return None
    return say("runs.page.precision_is", weights=optim["weights"], states=optim["states"])


def _validation(receipt: Receipt) -> list[str]:
    """Loss on the rows held out, before the first step and after."""
    results, best = receipt.summary.validation, receipt.summary.best
    if not results:
        return [say("runs.page.no_validation")]
    shown = results
    if len(results) > MAX_VALIDATIONS:
        last = results[-MAX_VALIDATIONS + 2 :]
        shown = (results[0], *(pair for pair in results[1 : -MAX_VALIDATIONS + 2] if pair == best), *last)
    rows = []
    for step, loss in shown:
        mark = say("runs.page.best") if best and step == best[0] else say("runs.page.before") if step == 0 else ""
        rows.append([count(step), decimal(loss), mark])
    header = [say("runs.page.step"), say("runs.page.validation_loss"), ""]
    return [*markdown_table(header, rows, right=(0, 1)), *_measures(receipt)]


def _measures(receipt: Receipt) -> list[str]:
    """What was measured on those rows, before and after, each with the interval that holds it in 95 of 100 cases."""
    rows = [[name, *map(_with_interval, pair), count(pair[1].get("count"))] for name, pair in receipt.measures.items()]
    header = [say(f"runs.page.measure.{part}") for part in ("name", "before", "after", "count")]
    return ["", *markdown_table(header, rows, right=(1, 2, 3))] if rows else []


def change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """`12.3 → 4.56 (4.1 … 5.0)`."""
    return " → ".join(NOTHING if each is None else _with_interval(each) for each in (before, after))


def _with_interval(measure: Mapping[str, Any]) -> str:
    if measure.get("low") is None:
        return decimal(measure["mean"])
    return f"{decimal(measure['mean'])} ({decimal(measure['low'])} … {decimal(measure['high'])})"


def _revised(revision: Mapping[str, Any], field: str, old: Any, new: Any) -> str:
    change = {"field": field, "old": old, "new": new}
    if revision.get("reason") == "memory":
        return say("runs.page.memory", step=revision["from_step"], error=revision["error"], **change)
    return say("runs.page.revised", reason=revision.get("reason", ""), **change)


def _history(receipt: Receipt) -> list[str]:
    page: list[str] = []
    attempts = receipt.summary.attempts
    if attempts:
        header = [say(f"runs.page.attempt.{name}") for name in ("number", "started", "from", "to", "end")]
        rows = [
            [
                str(a.number),
                _date(a.started_s),
                count(a.from_step),
                count(a.to_step),
                _end(a, a is attempts[-1], receipt),
            ]
            for a in attempts
        ]
        page += markdown_table(header, rows, right=(0, 2, 3))
    changes = [f"- {_revised(revision, *change)}" for revision in receipt.revisions for change in revision["changes"]]
    faults = [
        f"- {say('runs.page.fault', step=each['step'], what=each.get('what'), rows=_some(each.get('rows', ())))}"
        for each in receipt.faults
    ]
    notes = [f"- {' — '.join(line.strip() for line in note.splitlines())}" for note in receipt.notes]
    below = [*changes, *faults, *notes]
    return [*page, "", *below] if below else page


def _results(receipt: Receipt) -> list[str]:
    listed = list(receipt.hashes.items())
    rows = [[f"`{name}`", size(entry["bytes"]), f"`{short_hash(entry['sha256'])}`"] for name, entry in listed]
    header = [say("runs.page.data.file"), say("runs.page.data.size"), say("runs.page.data.sha256")]
    page = markdown_table(header, rows[:MAX_FILES], right=(1,)) if rows else []
    return [*page, "", say("runs.page.more_files", count=len(rows) - MAX_FILES)] if len(rows) > MAX_FILES else page


def _made_with(receipt: Receipt) -> list[str]:
    if receipt.manifest is None:
        return []
    code = receipt.manifest["code"]
    changed = f" {say('runs.page.modified')}" if code.get("modified") else ""
    facts = [f"{name} {version}" for name, version in receipt.manifest["versions"].items()]
    source = f"{say('runs.page.source')} {_code(code.get('source_sha256'))}"
    commit = f"git `{code['commit'][:12]}`{changed}" if code.get("commit") else ""
    return [" · ".join(each for each in (*facts, source, commit) if each)]


SECTIONS = (
    ("checks", _checks),
    ("material", _material),
    ("training", _training),
    ("validation", _validation),
    ("history", _history),
    ("results", _results),
    ("made_with", _made_with),
)

# ---------------------------------------------------------------------------------------------------- pieces


def _facts(facts: Sequence[tuple[str, str | None]]) -> list[str]:
    """A table of the facts that are known."""
    rows = [[say(f"runs.page.fact.{name}"), value] for name, value in facts if value]
    return markdown_table(["", ""], rows)


def _tune(tune: Mapping[str, Any]) -> str:
    if tune.get("from"):
        further = say("runs.page.tune.further", parent=tune["from"])
        return further if tune["kind"] == "lora" else say("runs.page.tune.beside", tune=further, base=_quantised(tune))
    if tune["kind"] == "qlora":
        return say("runs.page.tune.qlora", rank=tune["rank"], base=_quantised(tune))
    if tune["kind"] == "lora":
        return say("runs.page.tune.lora", rank=tune["rank"])
    if tune["kind"] == "freeze":
        return say("runs.page.tune.freeze", layers=tune["layers"])
    return say("runs.page.tune.full")


def _quantised(tune: Mapping[str, Any]) -> str:
    return say("runs.page.tune.double" if tune.get("double_quant") else "runs.page.tune.single", base=tune["base"])


def _length(receipt: Receipt) -> str:
    optim, steps = receipt.recipe["optim"], count(receipt.summary.step)
    if optim.get("steps") is not None:
        return say("runs.page.length_steps", steps=steps)
    return say("runs.page.length_is", steps=steps, epochs=optim["epochs"])


def _share(model: Mapping[str, Any]) -> str | None:
    if not model.get("total"):
        return None
    percent = 100 * model["trainable"] / model["total"]
    return say(
        "runs.page.share", trainable=count(model["trainable"]), total=count(model["total"]), percent=f"{percent:.3g}"
    )


def _machine(backend: Mapping[str, Any]) -> str | None:
    if not backend:
        return None
    device, several = backend.get("device"), int(backend.get("devices", 1))
    facts = (device if several == 1 else f"{several} x {device}", backend.get("dtype"), backend.get("isa"))
    return ", ".join(str(each) for each in facts if each)


def _stops(tokenizer: Mapping[str, Any]) -> str | None:
    """The tokens that end an answer: by their text where it is known, else by number."""
    stops = tokenizer.get("stop_tokens") or tokenizer.get("stop_token") or tokenizer.get("stop_ids")
    if not stops:
        return None
    return ", ".join(f"`{each}`" for each in (stops if isinstance(stops, (list, tuple)) else [stops]))


def _reasons(data: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for file in data:
        for reason, rows in file["excluded"].items():
            reasons[reason] = reasons.get(reason, 0) + rows
    return dict(sorted(reasons.items(), key=lambda item: -item[1]))


def _reason(reason: str) -> str:
    """A reason's id as words: `data.too_long` is too long."""
    return reason.rsplit(".", 1)[-1].replace("_", " ")


def _end(attempt: Attempt, last: bool, receipt: Receipt) -> str:
    if attempt.end is None:
        return say("runs.state.running" if last and receipt.state == "running" else "runs.state.died")
    return say(f"runs.state.{attempt.end}")


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) + " UTC"


def _some(rows: Sequence[Any], most: int = 5) -> str:
    more = f" … ({len(rows)})" if len(rows) > most else ""
    return ", ".join(str(row) for row in rows[:most]) + more


def _plain_html(text: str) -> str:
    """Text in which Markdown sees no tag: special tokens look like one."""
    return text.replace("<", "&lt;")


def _code(digest: str | None) -> str | None:
    return f"`{short_hash(digest)}`" if digest else None


def _template(name: str | None) -> str | None:
    return say("runs.page.own_template") if name == "model" else name
