"""What `luthier runs ...` does, apart from what trains.

What goes in: names or folders of runs. What comes out: an `Answer`: plain values for `--json`, lines for people. Torch
is never loaded; checks that need it are handed in by the caller.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from luthier.config import load
from luthier.config.schema import RunConfig
from luthier.errors import Problem, RunError
from luthier.runs import events, files, manifest, receipt, receipt_page, turns
from luthier.runs.events import Event
from luthier.runs.history import History, Summary, summarise, thinned
from luthier.runs.recipe import difference, flatten
from luthier.runs.store import RunFolder, RunInfo, index
from luthier.runs.tables import NOTHING, Answer, columns, count, decimal, duration, size, span
from luthier.runs.verify import verify
from luthier.text import say

__all__ = ["Answer", "compare", "extend", "find", "list_runs", "show", "stop", "told", "verify"]


def find(target: str, runs_dir: Path | str = "runs") -> RunFolder:
    """The run that is meant: the path of its folder, or a name below `runs_dir`.

    Raises:
        RunError: there is none; the nearest names are listed.
    """
    for path in (Path(runs_dir) / target, Path(target)):
        if (path / "recipe.yaml").is_file():
            return RunFolder.open(path)
    names = [info.name for info in index(runs_dir)]
    near = difflib.get_close_matches(target, names, n=3, cutoff=0.3) or names[:5]
    values = {"folder": str(runs_dir), "names": ", ".join(near) or NOTHING}
    raise RunError(Problem("runs.unknown", value=target, values=values))


# ---------------------------------------------------------------------------------------------------- list, show


def list_runs(runs_dir: Path | str = "runs") -> Answer:
    """Every run below a folder, the last one that did something first."""
    found = index(runs_dir)
    value = [{**dataclasses.asdict(info), "summary": _numbers(info.summary)} for info in found]
    if not found:
        return Answer(files.plain(value), (say("runs.list.empty", folder=str(runs_dir)),))
    names = ("name", "state", "model", "method", "step", "loss", "validation", "updated")
    header = [say(f"runs.list.{name}") for name in names]
    rows = [_list_row(info) for info in found]
    problems = [info.problem for info in found if info.problem]
    return Answer(files.plain(value), (*columns(header, rows, right=(4, 5, 6)), *problems))


def _list_row(info: RunInfo) -> list[str]:
    summary = info.summary
    if summary is None:
        return [info.name, say("runs.state.damaged"), *[NOTHING] * 6]
    return [
        info.name,
        say(f"runs.state.{info.state}"),
        info.model,
        f"{info.method}, {info.tune}",
        _of(summary.step, summary.num_steps),
        decimal(summary.loss),
        decimal(summary.best[1] if summary.best else None),
        say("runs.list.ago", time=_ago(summary.updated_s)) if summary.updated_s else NOTHING,
    ]


def show(run: RunFolder) -> Answer:
    """One run in a screen; for a finished one its receipt says more."""
    config, summary = run.config(), run.summary()
    state = run.state_of(summary.ended)
    checks = receipt.recorded(run)
    answered = next((e for e in reversed(events.effective(run.events())) if e.kind == "samples"), None)
    given = manifest.load(run) if run.has("manifest.json") else None
    value = {
        "name": run.name,
        "path": str(run.path),
        "state": state,
        "recipe": load.resolved(config),
        "summary": _numbers(summary),
        "checkpoints": run.checkpoints(),
        "best": run.bests(),
        "checks": [dataclasses.asdict(check) for check in checks],
        "samples": _samples(answered),
        "manifest": given.to_json() if given else None,
    }
    behind = f" ({say('runs.show.writer', **run.holder())})" if state == "running" else ""
    if state == "queued" and (first := turns.waits_for(run.path)) is not None:
        behind = f" ({say('runs.show.waits_for', run=awaited(first.name, turns.state(first)))})"
    facts: list[tuple[str, str | None]] = [
        ("folder", str(run.path)),
        ("model", config.model.path),
        ("data", ", ".join(source.path for source in config.data.train)),
        ("method", f"{config.method.kind}, {config.tune.kind}"),
        ("state", say(f"runs.state.{state}") + behind),
        ("progress", _progress(summary)),
        ("loss", decimal(summary.loss)),
        ("validation", _validation(summary)),
        ("tokens", _tokens(summary)),
        ("memory", size(summary.peak_memory_bytes) if summary.peak_memory_bytes else None),
        ("checkpoints", ", ".join(f"step-{step}" for step in run.checkpoints()) or None),
        ("attempts", str(len(summary.attempts))),
        ("faults", str(summary.faults) if summary.faults else None),
    ]
    rows = [[say(f"runs.show.{name}"), text] for name, text in facts if text]
    table = [*columns(["", ""], rows)[1:], *_answers(answered), *said(run)]
    return Answer(files.plain(value), (*table, *([""] if checks else []), *receipt_page.check_lines(checks)))


def _answers(event: Event | None) -> list[str]:
    """What the model answered at the last validation; texts of several lines keep them."""
    if event is None:
        return []
    lines = ["", say("runs.show.samples", step=count(event.step))]
    for each in event.data["samples"]:
        texts = [(say(f"runs.show.sample_{part}"), each[part]) for part in ("prompt", "reference", "answer")]
        rows = [
            [name if not at else "", line]
            for name, text in texts
            if text is not None
            for at, line in enumerate(text.splitlines() or [NOTHING])
        ]
        lines += ["", *(f"    {line}" for line in columns(["", ""], rows)[1:])]
    return lines


def said(run: RunFolder) -> list[str]:
    """How the last attempt died and what it said last; empty where it did not."""
    last = next(iter(run.events()[-1:]), None)
    return ["", *how_it_died(last.data)] if last is not None and last.kind == "died" else []


def how_it_died(data: Mapping[str, Any]) -> list[str]:
    """The data of a `died` event for people."""
    code, signal = data.get("code"), data.get("signal")
    how = say("queue.died_unknown") if code is None else say("queue.died_code", code=code)
    how = say("queue.died_signal", signal=signal) if signal else how
    return [say("queue.died", how=how), *(f"    {line}" for line in data.get("said") or ())]


def awaited(name: str, state: str) -> str:
    """A run that another one waits for, and how far it is."""
    return f"{name} ({say(f'runs.state.{state}')})"


def _progress(summary: Summary) -> str:
    steps = count(summary.num_steps) if summary.num_steps else "?"
    return say("runs.show.progress_is", step=count(summary.step), steps=steps)


def _validation(summary: Summary) -> str | None:
    if summary.best is None:
        return None
    first = summary.validation[0]
    before = decimal(first[1]) if first[0] == 0 else NOTHING
    step, loss = summary.best
    return say("runs.show.validation_is", before=before, best=decimal(loss), step=count(step))


def _tokens(summary: Summary) -> str | None:
    if not summary.tokens:
        return None
    values = {"tokens": count(summary.tokens), "time": duration(summary.seconds), "rate": count(summary.tokens_per_s)}
    shared = f"; {say('runs.shared', computed=count(summary.computed_tokens))}" if summary.shares else ""
    return say("runs.show.tokens_are", **values) + shared


# ---------------------------------------------------------------------------------------------------- compare


class Score(NamedTuple):
    """before, after: {mean}, with an interval also {low, high}; None is not known."""

    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class Told(NamedTuple):
    """What the log of a run says that runs are compared by. curves: (step, loss) of steps and of validations. samples:
    the last ones. scores: see `_scores`."""

    summary: Summary
    curves: dict[str, list[tuple[int | None, float | None]]]
    samples: Event | None
    scores: dict[str, Score]


def told(history: History, points: int | None = None) -> Told:
    """Args:
    points: of the steps' curve, thinned where there are more; all of them without.
    """
    step, loss = (np.array(history.steps.columns[name]) for name in ("step", "loss"))
    kept = thinned(loss, points or len(loss))
    curve: list[tuple[int | None, float | None]] = [
        (int(at), float(value) if math.isfinite(value) else None)
        for at, value in zip(step[kept], loss[kept], strict=True)
    ]
    validation = [(event.step, event.data.get("loss")) for event in history.all_of("validation")]
    samples = next(reversed(history.all_of("samples")), None)
    summary = history.summary()
    return Told(summary, {"step": curve, "validation": validation}, samples, _scores(history, summary))


def _scores(history: History, summary: Summary) -> dict[str, Score]:
    """What was found on the rows held out before step 1 and, as far as is known, with the weights that ship: loss
    (`validation`), its parts (`term.NAME`) where there are several, and measures."""
    found = {event.step or 0: _found(event.data) for event in history.all_of("validation")}
    shipped = summary.best[0] if summary.best else max(found, default=0)
    before, after = found.get(0, {}), found.get(shipped, {}) if shipped else {}
    return {name: Score(before.get(name), after.get(name)) for name in {**after, **before}}


def _found(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Where answers are judged, the loss is the reward with its sign turned."""
    terms, measures = (each if isinstance(each, Mapping) else {} for each in (data.get("terms"), data.get("measures")))
    losses = {} if "reward" in data else {"validation": data.get("loss")}
    losses |= {f"term.{name}": loss for name, loss in terms.items()} if len(terms) > 1 else {}
    told = {name: {"mean": loss} for name, loss in losses.items()} | dict(measures)
    return {name: each for name, each in told.items() if isinstance(each, Mapping) and each.get("mean") is not None}


def _better(recipes: Sequence[Mapping[str, Any]], material: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which of two values is the better one, of what can be compared: losses of one method over the same tokens,
    rewards of the same judges, and all on the same rows held out. Of other scores nobody says."""

    def same(part: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]) -> bool:
        parts = [part(recipe, given) for recipe, given in zip(recipes, material, strict=True)]
        return all(each == parts[0] for each in parts)

    rows = same(_held_out)
    losses = same(lambda recipe, given: (recipe["method"], given.get("tokenizer") or recipe["model"]))
    rewards = same(lambda recipe, _: recipe["method"].get("rewards"))
    defined = {
        "loss": losses and "lower",
        "validation": rows and losses and "lower",
        "accuracy": rows and "higher",
        "reward": rows and rewards and "higher",
        "gain": rows and rewards and "higher",
    }
    return {name: better for name, better in defined.items() if better}


def _held_out(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """What says which rows are held out: files of their own, or a part of those that are learnt from."""
    data = recipe["data"]
    apart = isinstance(data["validation"], Sequence) and not isinstance(data["validation"], str)
    sources = ("validation: ",) if apart else ("validation: ", "train: ")
    told = {name: value for name, value in data.items() if not (apart and name == "train")}
    return told, {name: value for name, value in given.items() if name.startswith(sources)}


def compare(runs: Sequence[RunFolder], logs: Sequence[Told] = ()) -> Answer:
    """What differs between runs: in their recipes, in what went in, and in what came out.

    `scores`: name -> a run's [before, after], each {mean, low, high} or None. `better`: of results and scores, `lower`
    or `higher`, where that can be said.

    Args:
        logs: what their logs say, where they have been read.

    Raises:
        RunError: fewer than two runs, or one that cannot be read.
    """
    if len(runs) < 2:
        raise RunError(Problem("runs.compare_one"))
    whole = [load.resolved(run.config()) for run in runs]
    recipes = [flatten(each) for each in whole]
    material = [_material(run) for run in runs]
    logs = logs or [told(run.history()) for run in runs]
    results = [_results(log.summary) for log in logs]
    value = {
        "runs": [run.name for run in runs],
        "recipe": _differing(recipes),
        "material": _differing(material),
        "results": {name: [found[name][0] for found in results] for name in results[0]},
        "scores": {name: [log.scores.get(name) for log in logs] for name in _names(log.scores for log in logs)},
        "better": _better(whole, material),
        "curves": {run.name: log.curves for run, log in zip(runs, logs, strict=True)},
        "samples": {run.name: _samples(log.samples) for run, log in zip(runs, logs, strict=True)},
    }
    blocks = [
        *_block(say("runs.compare.field"), runs, _differing(recipes), say("runs.compare.same")),
        *_block(say("runs.compare.material"), runs, _differing(material), ""),
        *_block(
            say("runs.compare.result"),
            runs,
            {say(f"runs.compare.{name}"): [found[name][1] for found in results] for name in results[0]},
            "",
        ),
        *_block(
            say("runs.compare.score"),
            runs,
            {
                say("runs.page.validation_loss") if name == "validation" else name: [
                    receipt_page.change(*log.scores[name]) if name in log.scores else None for log in logs
                ]
                for name in _names(log.scores for log in logs)
            },
            "",
        ),
    ]
    return Answer(files.plain(value), tuple(blocks[:-1]))


def _differing(facts: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Facts that are not the same everywhere; None stands for a missing one."""
    names = [name for name in _names(facts) if name not in ("run.name", "run.dir")]
    table = {name: [each.get(name) for each in facts] for name in names}
    return {name: values for name, values in table.items() if any(value != values[0] for value in values)}


def _names(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in tables for name in each))


def _material(run: RunFolder) -> dict[str, Any]:
    if not run.has("manifest.json"):
        return {}
    given = manifest.load(run)
    facts: dict[str, Any] = {"base": given.base.get("sha256"), "tokenizer": given.tokenizer.get("fingerprint")}
    facts.update({f"{file.role}: {file.path}": file.sha256 for file in given.data})
    facts.update(given.versions)
    return {name: value[:12] if isinstance(value, str) and len(value) == 64 else value for name, value in facts.items()}


def _results(summary: Summary) -> dict[str, tuple[Any, str]]:
    best = summary.best[1] if summary.best else None
    return {
        "steps": (summary.step, _of(summary.step, summary.num_steps)),
        "loss": (summary.loss, decimal(summary.loss)),
        "validation": (best, decimal(best)),
        "tokens": (summary.tokens, count(summary.tokens)),
        "time": (summary.seconds, duration(summary.seconds)),
        "speed": (summary.tokens_per_s, count(summary.tokens_per_s)),
        "memory": (summary.peak_memory_bytes, size(summary.peak_memory_bytes)),
    }


def _samples(event: Event | None) -> dict[str, Any] | None:
    return {"step": event.step, **event.data} if event is not None else None


def _block(title: str, runs: Sequence[RunFolder], table: Mapping[str, Sequence[Any]], empty: str) -> list[str]:
    if not table:
        return [empty, ""] if empty else []
    rows = [[name, *(NOTHING if value is None else str(value) for value in values)] for name, values in table.items()]
    return [*columns([title, *(run.name for run in runs)], rows, right=range(1, len(runs) + 1)), ""]


# ---------------------------------------------------------------------------------------------------- stop, extend


def stop(run: RunFolder) -> Answer:
    """Ask the process that writes a run to save and stop after its current step.

    Raises:
        RunError: nobody is writing it.
    """
    state = run.state
    if state != "running":
        values = {"state": say(f"runs.state.{state}")}
        raise RunError(Problem("runs.not_running", where=str(run.path), values=values))
    holder = run.holder()
    run.request_stop()
    return Answer({"run": run.name, **holder}, (say("runs.stop.asked", **holder),))


def extend(run: RunFolder, *, steps: int | None = None, epochs: float | None = None) -> Answer:
    """Make a run longer: its recipe gets the new total, recorded as a revision; a resume then trains on.

    Raises:
        RunError: neither or both are given, the new total is not larger than the old one and than what is done, or
            the run is being written.
    """
    if (steps is None) == (epochs is None):
        raise RunError(Problem("runs.extend_one"))
    field, new = ("steps", steps) if steps is not None else ("epochs", epochs)
    with RunFolder.open(run.path, write=True) as writer:
        config = writer.config()
        old = _length(config, writer, field)
        assert new is not None
        if new <= old:
            values = {"new": new, "old": round(old, 2), "unit": say(f"runs.unit.{field}")}
            raise RunError(Problem("runs.extend_shorter", where=str(run.path), values=values))
        longer = _with_length(config, field, new)
        changes = [list(each) for each in difference(config, longer)]
        writer.write_text("recipe.yaml", load.dump(longer))
        writer.emit("revised", {"changes": changes, "reason": "extend"})
        step = max(writer.checkpoints(), default=0)
    shown = {"name": run.name, "field": f"optim.{field}", "old": round(old, 2), "new": new, "step": count(step)}
    return Answer({"run": run.name, "changes": changes, "from_step": step}, (say("runs.extend.done", **shown),))


def _with_length(config: RunConfig, field: str, new: float) -> RunConfig:
    """The recipe with another length; of steps and epochs only one counts, so the other is taken out."""
    plain = load.resolved(config)
    optim = {key: value for key, value in plain["optim"].items() if key not in ("steps", "epochs")}
    return load.load({**plain, "optim": {**optim, field: new}})


def _length(config: RunConfig, run: RunFolder, field: str) -> float:
    """How long the run is now, in steps or epochs: what its recipe says, or how far it is where that is more.

    Raises:
        RunError: it is known in the other unit only, because the run never started.
    """
    everything = run.events()
    summary = summarise(everything)
    known = (event.data.get("steps_per_epoch") for event in reversed(everything))
    per_epoch: int | None = next((steps for steps in known if steps), None)
    steps, epochs = config.optim.steps, config.optim.epochs
    if field == "steps":
        planned = summary.num_steps if per_epoch is None else math.ceil(epochs * per_epoch)
        return max(steps or planned or 0, summary.step)
    if per_epoch is None:
        if steps is not None:
            raise RunError(Problem("runs.extend_unit", where=str(run.path)))
        return epochs
    return max(epochs if steps is None else steps / per_epoch, summary.step / per_epoch)


# ---------------------------------------------------------------------------------------------------- pieces


def _numbers(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else {**dataclasses.asdict(summary), "tokens_per_s": summary.tokens_per_s}


def _of(step: int, steps: int | None) -> str:
    return f"{count(step)}/{count(steps)}" if steps else count(step)


def _ago(then_s: float | None) -> str:
    return span(max(time.time() - (then_s or 0.0), 0.0))
