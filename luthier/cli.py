"""The command line: parses, calls, prints.

What goes in: arguments. What comes out: lines for people or one JSON object on stdout, problems and progress on stderr,
and an exit code: 0 ok, 1 failed, 2 bad input, 130 and 143 after Ctrl-C and SIGTERM. Everything heavy is imported inside
the command that needs it, so that help and a recipe's mistakes come at once; `COMMANDS` is the table of all commands.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from luthier.config.load import dump, environment, load, resolved, settle, stages
from luthier.errors import ConfigError, LuthierError, ModelError, Problem, UserError
from luthier.outcome import BAD_INPUT, FAILED, INTERRUPTED, OK, Outcome, Shell, failed, outcome_of, show
from luthier.text import say, set_language

if TYPE_CHECKING:
    from luthier.config.schema import RunConfig
    from luthier.config.stages import Stage
    from luthier.data.templates import Renderer
    from luthier.run import Run
    from luthier.runs.store import RunFolder
    from luthier.runs.tables import Answer
    from luthier.sampling import Sampling
    from luthier.session import Session
    from luthier.staged import At

What = Literal["adapter", "model", "gguf"]
FLAGS = ("--json", "--debug")
"""Taken by every command, anywhere on the line."""
TELL_S = 5.0
"""How often a long command tells how far it is."""


# ---------------------------------------------------------------------------------------------------- recipes

RecipeArguments = Annotated[list[str], typer.Argument(metavar="RECIPE|NAME=VALUE", help="shell.option.recipe")]
DataArguments = Annotated[list[str], typer.Argument(metavar="FILE|RECIPE|NAME=VALUE", help="shell.option.data")]


Detach = Annotated[bool, typer.Option("--detach", help="shell.option.detach")]


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The recipe, which has no `=`, and the overrides."""
    if arguments and "=" not in arguments[0]:
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def train(
    context: typer.Context,
    arguments: RecipeArguments,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="shell.option.dry_run")] = False,
    detach: Detach = False,
) -> Outcome:
    recipe, overrides = split(arguments)
    parts = stages(recipe, overrides)
    config = None if parts else load(recipe, overrides)
    if dry_run and config is None:
        shown = [line for each in parts for line in ("---", f"# {stage_line(each)}", *dump(each.config).splitlines())]
        return Outcome({"stages": [facts(each) | {"recipe": resolved(each.config)} for each in parts]}, shown)
    if dry_run and config is not None:
        return Outcome({"recipe": resolved(config)}, dump(config).splitlines())
    if detach:
        from luthier import queue

        if config is None:
            return queued(queue.submit_stages(parts))
        return queued([queue.submit(settle(config))])
    from luthier.training import train as start

    with progress(context.obj) as listen:

        def tell(at: At) -> None:
            which = {"number": at.number, "count": at.of, "about": stage_line(at.stage)}
            print(say("shell.stage_done" if at.done else "shell.stage", **which), file=context.obj.logs, flush=True)

        given: tuple[Any, list[str]] = (recipe, overrides) if config is None else (config, [])
        return trained(start(*given, on_event=listen, on_download=downloading(context.obj), on_stage=tell))


def stage_line(stage: Stage) -> str:
    """A stage in a line."""
    values = {"name": stage.name, "folder": stage.folder, "came": stage.from_, "model": stage.config.model.path}
    return say(f"shell.stage_{stage.start}", **values)


def facts(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, "from": stage.from_, "start": stage.start, "run": str(stage.folder)}


def plan(
    arguments: RecipeArguments,
    device: Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="shell.option.plan_device")] = None,
) -> Outcome:
    from luthier.paper import lines, outlook

    recipe, overrides = split(arguments)
    parts = stages(recipe, overrides)
    if not parts:
        config = load(recipe, overrides)
        made = outlook.plan(config, device)
        return Outcome(made.to_json(), lines.lines(made, config), OK if made.fits else BAD_INPUT)
    several = [(each, outlook.plan(each.planned, device)) for each in parts]
    shown = [line for each, made in several for line in (stage_line(each), "", *lines.lines(made, each.planned), "")]
    most, largest = max(several, key=lambda pair: (not pair[1].fits, pair[1].memory.peak_bytes))
    value = {
        "stages": [facts(each) | made.to_json() for each, made in several],
        "largest": {"stage": most.name, "peak_bytes": largest.memory.peak_bytes},
        "fits": largest.fits,
    }
    shown.append(lines.largest(most.name, largest))
    return Outcome(value, shown, OK if largest.fits else BAD_INPUT)


def init(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="FILE|NAME=VALUE", help="shell.option.init")] = None,
) -> Outcome:
    from luthier.config import recipe

    file, overrides = split(arguments or [])
    path = Path(file or "recipe.yaml")
    config = recipe.write(path, overrides)
    return Outcome({"file": str(path), "recipe": resolved(config)}, [say("shell.init_done", path=path)])


def bring(
    file: Annotated[str, typer.Argument(metavar="FILE", help="shell.option.foreign")],
    output: Annotated[str, typer.Option("-o", "--output", help="shell.option.output")] = "recipe.yaml",
    devices: Annotated[int, typer.Option("--devices", min=1, help="shell.option.devices")] = 1,
) -> Outcome:
    from luthier.importing import translate

    done = translate.bring(Path(file), Path(output), devices)
    value = {
        "file": output,
        "program": done.program,
        "recipe": resolved(done.config),
        "same_training": not done.missed,
        "findings": [each.to_json() for each in done.findings],
    }
    counts = {"program": done.program, "path": output, "fields": len(done.settings), "findings": len(done.findings)}
    lines = [say("importing.done", **counts), *translate.account(done.findings), say("importing.next", path=output)]
    return Outcome(value, [*([say("importing.missed")] if done.missed else []), *lines], FAILED if done.missed else OK)


def explain(
    field: Annotated[str | None, typer.Argument(metavar="SETTING", help="shell.option.field")] = None,
) -> Outcome:
    from luthier.config import fields, recipe

    found = recipe.find(field) if field else list(fields.FIELDS.values())
    shown = [line for each in found for line in (*recipe.lines(each), "")][:-1] if field else recipe.listing()
    return Outcome({"fields": [recipe.values(each) for each in found]}, shown)


# ---------------------------------------------------------------------------------------------------- data


def data_check(
    arguments: DataArguments,
    format: Annotated[str, typer.Option("--format", help="shell.option.format")] = "auto",
    html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="shell.option.html")] = None,
) -> Outcome:
    from luthier import __version__
    from luthier.data import check, report, report_page
    from luthier.data.findings import Findings

    files = [each for each in arguments if not is_recipe(each)]
    if files and len(arguments) > 1:
        values = {"files": ",".join(files), "changes": "".join(f" {each}" for each in arguments if "=" in each)}
        raise UserError(Problem("shell.file_alone", value=files[0], values=values))
    if files:
        source = load(None, {"model": "-", "data.train": {"path": arguments[0], "format": format}}).data.train[0]
        look = report.Look(Findings(), None, say("findings.no_model"))
        checked = check.check_path(source.path, source.format, look)
    else:
        recipe, overrides = split(arguments)
        config = load(recipe, overrides if format == "auto" else [*overrides, "=".join(("data.format", format))])
        # Plain text longer than the bound becomes several sequences.
        findings = Findings(None if config.method.kind == "pretrain" else config.data.max_tokens, config.data.too_long)
        look = report.Look(findings, *tokenizer_of(config))
        checked = check.inspect(config, look)
    made = report.make(checked, look)
    lines = report.lines(made)
    if html is not None:
        write_page(html, report_page.page(made, __version__))
        lines.append(say("findings.written", file=html))
    return Outcome(report.to_json(made), lines, BAD_INPUT if made.stops else OK)


def tokenizer_of(config: RunConfig) -> tuple[Renderer | None, str]:
    """What counts tokens for a recipe, or why nothing can; whatever is wrong with a model is for `train` to say. No
    weights are fetched for it."""
    from luthier.data.templates import load_renderer
    from luthier.models import hub

    try:
        found = hub.resolve(config.model.path, config.model.revision, environment(), weights=False)
        return load_renderer(found.folder, config), ""
    except ModelError as error:
        return None, error.problems[0].rule


def write_page(file: str, page: str) -> None:
    """Raises UserError where it cannot be written."""
    try:
        Path(file).write_text(page, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(Problem("findings.not_written", file, values={"reason": reason})) from error


def data_show(
    context: typer.Context,
    arguments: RecipeArguments,
    rows: Annotated[int, typer.Option("--rows", min=1, help="shell.option.rows")] = 3,
    first: Annotated[int, typer.Option("--first", min=1, help="shell.option.first")] = 1,
    html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="shell.option.html")] = None,
) -> Outcome:
    config = load(*split(arguments))
    from luthier.data import check, marked
    from luthier.data.templates import load_renderer
    from luthier.models import hub

    there = check.check_sources(config).train
    if first > len(there):
        problem = Problem("shell.past_the_end", field="--first", value=str(first), values={"rows": len(there)})
        return failed([problem], BAD_INPUT)
    items = list(itertools.islice(there, first - 1, first - 1 + rows))
    # The tokenizer is enough: no weights are read or fetched.
    folder = hub.resolve(config.model.path, config.model.revision, environment(), weights=False).folder
    renderer = load_renderer(folder, config)
    made = [marked.sequences(renderer, item.example, item.where) for item in items]
    problems = [each for each in made if isinstance(each, Problem)]
    if problems:
        return failed(problems, BAD_INPUT)
    shown = [each for several in made if not isinstance(several, Problem) for each in several]
    value = {"rows": [each.to_json() for each in shown], "html": html}
    if html is None:
        return Outcome(value, list(marked.lines(shown, colour=context.obj.colour)))
    write_page(html, marked.page(shown, renderer.template_name, config.model.path))
    return Outcome(value, [say("shell.page_done", path=html)])


def is_recipe(argument: str) -> bool:
    """Whether an argument of `data check` is a recipe or an override, and not a data file."""
    return ("=" in argument and not os.path.exists(argument)) or argument.endswith((".yaml", ".yml"))


# ---------------------------------------------------------------------------------------------------- runs

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="shell.option.run")]
Dir = Annotated[str, typer.Option("--dir", help="shell.option.dir")]


def find(run: str, directory: str) -> RunFolder:
    from luthier.runs import commands

    return commands.find(run, directory)


def runs_list(directory: Dir = "runs") -> Outcome:
    from luthier.runs import commands

    answer = commands.list_runs(directory)
    return Outcome({"runs": answer.value}, answer.lines())


def runs_show(run: RunArgument, directory: Dir = "runs") -> Outcome:
    from luthier.runs import commands

    return answered(commands.show(find(run, directory)))


def runs_compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="shell.option.runs")], directory: Dir = "runs"
) -> Outcome:
    from luthier.runs import commands

    return answered(commands.compare([find(run, directory) for run in runs]))


def runs_resume(context: typer.Context, run: RunArgument, directory: Dir = "runs", detach: Detach = False) -> Outcome:
    folder = find(run, directory)
    if detach:
        from luthier import queue

        return queued([queue.again(folder)])
    from luthier.training import resume

    with progress(context.obj) as listen:
        return trained(resume(folder.path, on_event=listen))


def runs_extend(
    run: RunArgument,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="shell.option.steps")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", min=0, help="shell.option.epochs")] = None,
    directory: Dir = "runs",
) -> Outcome:
    from luthier.runs import commands

    return answered(commands.extend(find(run, directory), steps=steps, epochs=epochs))


def runs_stop(run: RunArgument, directory: Dir = "runs") -> Outcome:
    from luthier import queue
    from luthier.runs import commands

    folder = find(run, directory)
    if folder.state == "queued":
        queue.withdraw(folder)
        value, lines = {"run": folder.name, "state": folder.state}, [say("queue.withdrawn", name=folder.name)]
    else:
        asked = commands.stop(folder)
        value, lines = asked.value, [*asked.lines()]
    behind = queue.behind(folder.path)
    lines += [say("queue.left_waiting", name=path.name, path=path) for path in behind]
    return Outcome({**value, "behind": [str(path) for path in behind]}, lines)


def runs_watch(context: typer.Context, run: RunArgument, directory: Dir = "runs") -> Outcome:
    folder = find(run, directory)
    from luthier.runs import commands, events, turns

    print(say("queue.watching", name=folder.name), file=context.obj.logs, flush=True)
    if folder.state == "queued":
        first = turns.waits_for(folder.path)
        why = say("queue.turn") if first is None else commands.awaited(first.name, turns.state(first))
        print(say("queue.watch_waits", name=folder.name, why=why), file=context.obj.logs, flush=True)
    with progress(context.obj) as listen, contextlib.suppress(KeyboardInterrupt):
        for event in events.follow(folder.path / "events.jsonl", ended=lambda: not folder.active):
            listen(event)
    state = folder.state
    text = say("queue.watch_ended", name=folder.name, state=say(f"runs.state.{state}"))
    value = {"run": folder.name, "state": state}
    return Outcome(value, [text, *commands.said(folder)], FAILED if state in ("failed", "died") else OK)


def runs_queue(
    first: Annotated[str | None, typer.Option("--first", metavar="RUN", help="shell.option.queue_first")] = None,
    directory: Dir = "runs",
) -> Outcome:
    from luthier import queue
    from luthier.runs import commands, tables

    def why(after: dict[str, str] | None) -> str:
        return say("queue.turn") if after is None else commands.awaited(after["name"], after["state"])

    if first is not None:
        queue.first(find(first, directory))
    waiting = queue.listing()
    if not waiting:
        return Outcome({"waiting": []}, [say("queue.empty")])
    header = [say("queue.place"), say("queue.run"), say("queue.waited"), say("queue.waits_for"), say("queue.folder")]
    rows = [
        [str(place), each["name"], tables.span(time.time() - each["asked_s"]), why(each["after"]), each["run"]]
        for place, each in enumerate(waiting, start=1)
    ]
    return Outcome({"waiting": waiting}, tables.columns(header, rows, right=(0,)))


def queued(runs: Sequence[RunFolder]) -> Outcome:
    """What to say of a run that was put into the queue, or of the stages of a recipe; whoever starts them is there
    afterwards."""
    from luthier import queue, supervisor

    listed = {each["run"]: (place, each["after"]) for place, each in enumerate(queue.listing(), start=1)}
    for folder in {run.path.parent for run in runs}:
        supervisor.ensure(folder)
    values: list[dict[str, Any]] = []
    lines: list[str] = []
    for run in runs:
        path, state = str(run.path.resolve()), run.state
        place, after = listed.get(path, (None, None))
        values.append({"run": run.name, "path": str(run.path), "state": "queued" if place else state, "place": place})
        if place is None:
            lines.append(say("queue.not_put", name=run.name, state=say(f"runs.state.{state}")))
        elif after is None:
            lines.append(say("queue.put", name=run.name, place=place))
        else:
            lines.append(say("queue.put_behind", name=run.name, place=place, after=after["name"]))
        values[-1]["after"] = after
    lines.append(say("queue.next", path=next((run.path for run in runs if run.active), runs[-1].path)))
    return Outcome(values[0] if len(runs) == 1 else {"stages": values}, lines)


def runs_verify(run: RunArgument, directory: Dir = "runs") -> Outcome:
    from luthier.runs import commands

    folder = find(run, directory)
    from luthier import checks

    return answered(commands.verify(folder, checks.again(folder)))


def runs_reproduce(context: typer.Context, run: RunArgument, directory: Dir = "runs") -> Outcome:
    folder = find(run, directory)
    from luthier.training import reproduce

    with progress(context.obj) as listen:
        found = reproduce(folder.path, on_event=listen)
    values = {
        "tensors": found["tensors"],
        "different": len(found["different"]),
        "largest": found["largest_difference"],
    }
    text = say("shell.reproduced" if found["same"] else "shell.not_reproduced", **values)
    revised = [say("shell.reproduced_revised", field=field, old=old, new=new) for field, old, new in found["revised"]]
    return Outcome(found, [text, *revised], OK if found["same"] else FAILED)


# ---------------------------------------------------------------------------------------------------- the rest


Adapters = Annotated[list[str] | None, typer.Option("--adapter", metavar="RUN", help="shell.option.adapter")]
ComparedWith = Annotated[str | None, typer.Option("--compare", metavar="NAME", help="shell.option.compare")]
Template = Annotated[str, typer.Option("--template", help="shell.option.template")]
Device = Annotated[str, typer.Option("--device", help="shell.option.device")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="shell.option.max_tokens")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="shell.option.temperature")]
TopP = Annotated[float, typer.Option("--top-p", min=1e-6, max=1, help="shell.option.top_p")]
TopK = Annotated[int, typer.Option("--top-k", min=0, help="shell.option.top_k")]
MinP = Annotated[float, typer.Option("--min-p", min=0, max=1, help="shell.option.min_p")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", min=1e-6, help="shell.option.repetition_penalty")]
Stop = Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="shell.option.stop")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="shell.option.seed")]
SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "seed")
"""Options that say how tokens are chosen."""


def chat(  # noqa: PLR0913  one parameter for each option
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="shell.option.target")],
    adapter: Adapters = None,
    compare: ComparedWith = None,
    character: Annotated[str | None, typer.Option("--character", help="shell.option.character")] = None,
    strength: Annotated[float, typer.Option("--strength", min=0, max=1.5, help="shell.option.strength")] = 1.0,
    system: Annotated[str | None, typer.Option("--system", help="shell.option.system")] = None,
    template: Template = "model",
    device: Device = "auto",
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
) -> Outcome:
    from luthier.config import characters

    who = characters.find(character) if character else None
    ways = sampling_of(context, who.sampling.model_dump(exclude_none=True) if who else {})
    session = session_of(context, target, device=device, template=template, compare=compare)
    from luthier.chat import Manner, comparable, talk

    loaded = [session.load(each) for each in adapter or ()]
    voice = loaded[-1] if loaded and session.adapter is None else None
    if strength != 1:
        voice = session.mix({voice or session.label: strength})
    manner = Manner(
        comparable(session, compare) if compare else None,
        voice,
        system or (who.system if who else None),
        who.greeting if who else "",
        ways,
        speed=context.obj.colour,
        width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 0,
    )
    turns = talk(session, questions(), (lambda text: None) if context.obj.json else speak, manner)
    return Outcome({"turns": [asdict(turn) for turn in turns]}, [])


def answer(  # noqa: PLR0913  one parameter for each option
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="shell.option.target")],
    source: Annotated[str, typer.Argument(metavar="FILE", help="shell.option.prompts")],
    output: Annotated[str, typer.Option("-o", "--output", help="shell.option.answers")],
    adapter: Adapters = None,
    compare: ComparedWith = None,
    template: Template = "model",
    device: Device = "auto",
    n: Annotated[int, typer.Option("--n", min=1, help="shell.option.n")] = 1,
    judge: Annotated[str | None, typer.Option("--judge", metavar="RUN", help="shell.option.judge")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
) -> Outcome:
    ways = sampling_of(context, {})
    session = session_of(context, target, device=device, template=template, compare=compare)
    from luthier.answering import answer_file
    from luthier.chat import comparable
    from luthier.session import open_judge

    judging = open_judge(judge, device=device) if judge else None
    loaded = [session.load(each) for each in adapter or ()]
    # A bare model is there for the adapters; it answers where it is asked for, or there is nothing else.
    voices = loaded if loaded and session.adapter is None else [session.label, *loaded]
    if compare:
        voices = [*voices, comparable(session, compare)]
    told_s = time.monotonic()

    def tell(rows: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TELL_S:
            told_s = time.monotonic()
            print(say("chat.file_at", rows=rows), file=context.obj.logs, flush=True)

    done = answer_file(session, Path(source), Path(output), ways, n=n, voices=voices, judge=judging, on_row=tell)
    for problem in done.bad:
        print(problem, file=context.obj.logs)
    bad = [problem.to_json() for problem in done.bad]
    text = say("chat.file_done", made=done.made, kept=done.kept, bad=len(bad), file=output)
    value = {"file": output, "made": done.made, "kept": done.kept, "bad": bad}
    return Outcome(value, [text], BAD_INPUT if bad else OK)


def sampling_of(context: typer.Context, character: Mapping[str, Any]) -> Sampling:
    """How tokens are chosen: by the command line, where it says nothing by the character."""
    given = {name for name in SAMPLING if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    ways = {name: context.params[name] for name in SAMPLING}
    ways.update({name: value for name, value in character.items() if name not in given})
    ways["stop"] = tuple(ways["stop"] or ())
    if not all(ways["stop"]):
        raise ConfigError(Problem("chat.empty_stop", field="--stop"))
    from luthier.sampling import Sampling

    return Sampling(**ways)


def session_of(context: typer.Context, target: str, *, device: str, template: str, compare: str | None) -> Session:
    load(None, {"model": "-", "data.train": "-", "run.device": device})  # only to judge the device's name
    from luthier.session import open_session

    return open_session(
        target, device=device, compare=compare == "base", template=template, on_download=downloading(context.obj)
    )


def questions() -> Iterator[str]:
    """Lines from stdin, with a prompt and line editing where a person types them."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # not on Windows
        import readline  # noqa: F401  gives `input` its line editing
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ")


def speak(text: str) -> None:
    """Print at once: an answer is read while it is made."""
    sys.stdout.write(text)
    sys.stdout.flush()


def cache_list() -> Outcome:
    from luthier.data import cache

    found = cache.entries(environment().cache_dir)
    return Outcome({"stores": [asdict(each) for each in found]}, cache.lines(found))


def cache_clear(
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="shell.option.keys")] = None,
) -> Outcome:
    from luthier.data import cache

    gone = cache.clear(environment().cache_dir, keys or ())
    text = say("tokens.cache_cleared", stores=len(gone), size=sum(each.bytes for each in gone) / 1e6)
    return Outcome({"cleared": [asdict(each) for each in gone]}, [text])


def doctor() -> Outcome:
    from luthier.doctor import doctor as look

    diagnosis = look()
    return Outcome(diagnosis.to_json(), diagnosis.lines(), FAILED if diagnosis.problems else OK)


def demo(context: typer.Context, directory: Dir = "runs") -> Outcome:
    from luthier import demo as show_piece

    with progress(context.obj) as listen:
        done = show_piece.demo(directory, on_event=listen)
    value = {
        "run": str(done.run.path),
        "base_score": done.base_score,
        "tuned_score": done.tuned_score,
        "examples": [asdict(each) for each in done.examples],
        "merged": str(done.merged_path),
        "merged_agrees": list(done.merged_agrees),
        "seconds": done.seconds,
    }
    return Outcome(value, show_piece.lines(done), FAILED if done.run.receipt.failed else OK)


def merge(
    context: typer.Context,
    targets: Annotated[
        list[str], typer.Argument(metavar="RUN|ADAPTER[=STRENGTH]...", help="shell.option.merge_targets")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="shell.option.merge_out")] = None,
    base: Annotated[str | None, typer.Option("--base", help="shell.option.merge_base")] = None,
    force: Annotated[bool, typer.Option("--force", help="shell.option.merge_force")] = False,
    device: Annotated[str, typer.Option("--device", help="shell.option.device")] = "auto",
) -> Outcome:
    load(None, {"model": "-", "data.train": "-", "run.device": device})  # only to judge the device's name
    from luthier.export import merge as merging
    from luthier.runs import receipt_page

    told, given = writing(context.obj), [with_strength(each) for each in targets]
    done = merging.merge(given, out, base=base, force=force, device=device, on_progress=told)
    shown = [say("export.merged", path=done.path), "", *receipt_page.check_lines(done.receipt.checks)]
    return Outcome(
        {"path": str(done.path), "receipt": done.receipt.to_json()}, shown, FAILED if done.receipt.failed else OK
    )


def with_strength(target: str) -> tuple[str, float]:
    """`runs/one=0.5` as (path, strength); a name that holds an equals sign itself is taken whole where it is there."""
    name, mark, number = target.rpartition("=")
    if not mark or os.path.exists(target):
        return target, 1.0
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not name or not math.isfinite(strength):
        raise ModelError(Problem("export.bad_strength", value=target))
    return name, strength


def push(
    targets: Annotated[list[str], typer.Argument(metavar="RUN|FOLDER|FILE...", help="shell.option.push_targets")],
    repo: Annotated[str, typer.Option("--repo", metavar="USER/NAME", help="shell.option.push_repo")],
    what: Annotated[What | None, typer.Option("--what", help="shell.option.push_what")] = None,
    public: Annotated[bool, typer.Option("--public", help="shell.option.push_public")] = False,
    add: Annotated[bool, typer.Option("--add", help="shell.option.push_add")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="shell.option.push_dry_run")] = False,
) -> Outcome:
    from luthier.export import push as pushing

    done = pushing.push(targets, repo, what=what, public=public, add=add, dry_run=dry_run)
    return Outcome(asdict(done), done.lines())


def export(  # noqa: PLR0913  one parameter for each option
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="shell.option.target")],
    gguf: Annotated[str | None, typer.Option("--gguf", metavar="TYPE,...", help="shell.option.gguf")] = None,
    lora_gguf: Annotated[str | None, typer.Option("--lora-gguf", metavar="TYPE", help="shell.option.lora_gguf")] = None,
    base_gguf: Annotated[Path | None, typer.Option("--base-gguf", help="shell.option.base_gguf")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="shell.option.export_out")] = None,
    base: Annotated[str | None, typer.Option("--base", help="shell.option.merge_base")] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="shell.option.no_verify")] = False,
    ollama: Annotated[bool, typer.Option("--ollama", help="shell.option.ollama")] = False,
) -> Outcome:
    types = [each.strip() for each in (gguf or "").lower().split(",") if each.strip()]
    if not types and (gguf is not None or lora_gguf is None):
        raise ModelError(Problem("gguf.nothing_wanted", where=target))
    if ollama and gguf is None:
        raise ModelError(Problem("gguf.ollama_alone", "--ollama"))
    if base_gguf is not None and (lora_gguf is None or no_verify):
        raise ModelError(Problem("gguf.base_unused", "--base-gguf", value=str(base_gguf)))
    from luthier.export.gguf import lora
    from luthier.export.gguf.export import export as write
    from luthier.runs import receipt_page

    adapter = lora.Wanted(lora_gguf.lower(), base_gguf) if lora_gguf is not None else None
    done = write(
        target,
        types,
        out,
        base=base,
        adapter=adapter,
        check=not no_verify,
        ollama=ollama,
        on_progress=writing(context.obj),
    )
    shown = [say("gguf.written", path=done.path / name) for name in done.receipt.files]
    shown += ["", *receipt_page.check_lines(done.receipt.checks)]
    values = {"path": str(done.path), "receipt": done.receipt.to_json()}
    return Outcome(values, shown, FAILED if done.receipt.failed else OK)


def writing(shell: Shell) -> Callable[[int, int], None]:
    """A line on the log stream at every tenth of the tensors."""

    def show(done: int, total: int) -> None:
        if 10 * done // total > 10 * (done - 1) // total:
            print(say("gguf.progress", percent=100 * done // total), file=shell.logs, flush=True)

    return show


def serve(  # noqa: PLR0913  one parameter for each option
    context: typer.Context,
    targets: Annotated[list[str], typer.Argument(metavar="RUN|MODEL [RUN ...]", help="shell.option.serve_targets")],
    host: Annotated[str, typer.Option("--host", help="shell.option.host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="shell.option.port")] = 8000,
    api_key_file: Annotated[
        str | None, typer.Option("--api-key-file", metavar="FILE", help="shell.option.api_key_file")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="shell.option.engine")] = "luthier",
    vllm_command: Annotated[
        str | None, typer.Option("--vllm-command", metavar="COMMAND", help="shell.option.vllm_command")
    ] = None,
    vllm_wait: Annotated[float, typer.Option("--vllm-wait", min=1, help="shell.option.vllm_wait")] = 900,
    template: Annotated[str, typer.Option("--template", help="shell.option.template")] = "model",
    device: Annotated[str, typer.Option("--device", help="shell.option.device")] = "auto",
    max_body: Annotated[int, typer.Option("--max-body", min=1024, help="shell.option.max_body")] = 4 * 2**20,
    queue: Annotated[int, typer.Option("--queue", min=1, help="shell.option.queue")] = 256,
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="shell.option.sequences")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="shell.option.timeout")] = 600,
    grace: Annotated[float, typer.Option("--grace", min=1, help="shell.option.grace")] = 30,
    end_with_stdin: Annotated[bool, typer.Option("--end-with-stdin", help="shell.option.end_with_stdin")] = False,
) -> Outcome:
    load(None, {"model": "-", "data.train": "-", "run.device": device})  # only to judge the device's name
    from luthier.serving import start
    from luthier.serving.limits import Limits

    if end_with_stdin:
        start.end_with_stdin()
    limits = Limits(body_bytes=max_body, queue=queue, sequences=sequences, time_s=timeout, grace_s=grace)
    number = start.serve(
        targets,
        host=host,
        port=port,
        api_key_file=api_key_file,
        engine=engine,
        vllm_command=vllm_command,
        vllm_wait_s=vllm_wait,
        limits=limits,
        log=context.obj.logs,
        template=template,
        device=device,
        on_download=downloading(context.obj),
    )
    return Outcome({"ended_by": number}, [], 128 + number if number else OK)


def ui(
    context: typer.Context,
    host: Annotated[str, typer.Option("--host", help="shell.option.ui_host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="shell.option.port")] = 7860,
    directory: Dir = "runs",
    base_path: Annotated[str, typer.Option("--base-path", metavar="PATH", help="shell.option.base_path")] = "/",
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="shell.option.token_file")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="shell.option.no_open")] = False,
) -> Outcome:
    from luthier.web.start import ui as start

    page = start(
        directory,
        host=host,
        port=port,
        base_path=base_path,
        token_file=token_file,
        open_page=not no_open,
        log=context.obj.logs,
    )
    return Outcome({"ended_by": page.ended_by}, [], 128 + page.ended_by if page.ended_by else OK)


def answered(answer: Answer) -> Outcome:
    return Outcome(answer.value, answer.lines(), OK if answer.good else FAILED)


def trained(run: Run) -> Outcome:
    """What to say at the end of training; a check that failed makes the command fail."""
    receipt = run.receipt
    counts = {"passed": receipt.passed, "failed": receipt.failed, "not_run": receipt.not_run}
    output = run.adapter_path or run.model_path
    value = {
        "run": run.name,
        "path": str(run.path),
        "state": run.state,
        "output": str(output) if output else None,
        "checks": counts,
        "receipt": receipt.to_json(),
    }
    if run.stages:
        value["stages"] = {name: str(each.path) for name, each in run.stages.items()}
    lines = [say("shell.train_done", path=run.path, **counts), say("shell.train_next", path=run.path)]
    return Outcome(value, lines, FAILED if receipt.failed else OK)


@contextlib.contextmanager
def progress(shell: Shell) -> Iterator[Callable[[Any], None]]:
    """A bar on the log stream where that is a terminal, plain lines elsewhere."""
    from luthier.progress import Progress

    with Progress(shell.logs, terminal=shell.logs.isatty(), colour=not shell.environment.no_color) as listen:
        yield listen


def downloading(shell: Shell) -> Callable[[int, int], None]:
    """A line on the log stream whenever another twentieth of a model has come, and when it is whole."""
    shown = -1

    def show(there: int, total: int) -> None:
        nonlocal shown
        twentieth = 20 * there // max(total, 1)
        if twentieth > shown:
            shown = twentieth
            print(say("shell.downloading", there=there / 1e6, total=total / 1e6), file=shell.logs, flush=True)

    return show


# ---------------------------------------------------------------------------------------------------- the app


def help_in_our_words(text: str) -> str:
    """The words that the library itself puts into help, in the chosen language."""
    for word, ours in WORDS.items():
        text = text.replace(word, say(ours))
    return text


WORDS = {
    "Usage:": "shell.word.usage",
    "Options:": "shell.word.options",
    "Arguments:": "shell.word.arguments",
    "Commands:": "shell.word.commands",
    "Show this message and exit.": "shell.word.help",
    "default: ": "shell.word.default",
    "[required]": "shell.word.required",
    "[OPTIONS]": "shell.word.any_options",
    "COMMAND [ARGS]...": "shell.word.any_command",
}


def reason_in_our_words(text: str) -> str:
    """What the library finds wrong with a command line, in the chosen language; as it is where it is not known."""
    for pattern, ours in REASONS.items():
        found = re.fullmatch(pattern, text)
        if found:
            return say(ours, **{name: reason_in_our_words(part) for name, part in found.groupdict().items()})
    return text


REASONS = {
    r"Missing argument '(?P<name>.+)'\.": "shell.reason.missing_argument",
    r"Missing command\.": "shell.reason.missing_command",
    r"Invalid value for '(?P<name>.+?)': (?P<reason>.+)": "shell.reason.invalid",
    r"No such option: (?P<name>\S+) \(Possible options: (?P<near>.+)\)": "shell.reason.no_option_near",
    r"No such option: (?P<name>.+)": "shell.reason.no_option",
    r"No such command '(?P<name>.+)'\. Did you mean (?P<near>.+)\?": "shell.reason.no_command_near",
    r"No such command '(?P<name>.+)'\.": "shell.reason.no_command",
    r"Got unexpected extra argument\(s\) \((?P<names>.+)\)": "shell.reason.extra",
    r"Option '(?P<name>.+)' requires an argument\.": "shell.reason.value_wanted",
    r"Option '(?P<name>.+)' does not take a value\.": "shell.reason.no_value_wanted",
    r"Input should be a valid integer.*": "shell.reason.whole_number",
    r"Input should be a valid number.*": "shell.reason.number",
    r"Input should be greater than or equal to (?P<limit>.+)": "shell.reason.at_least",
    r"Input should be less than or equal to (?P<limit>.+)": "shell.reason.at_most",
}
"""The library's and pydantic's words about a command line -> ours; the first that fits."""


class Command(TyperCommand):
    """A command whose help is in the chosen language."""

    def get_help(self, ctx: Any) -> str:
        return help_in_our_words(super().get_help(ctx))


class Group(TyperGroup):
    """A group of commands whose help is in the chosen language."""

    def get_help(self, ctx: Any) -> str:
        return help_in_our_words(super().get_help(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table."""
        return list(self.commands)


COMMANDS: dict[str, Callable[..., Outcome]] = {
    "train": train,
    "plan": plan,
    "init": init,
    "import": bring,
    "help": explain,
    "chat": chat,
    "merge": merge,
    "push": push,
    "export": export,
    "generate": answer,
    "data check": data_check,
    "data show": data_show,
    "runs list": runs_list,
    "runs show": runs_show,
    "runs compare": runs_compare,
    "runs resume": runs_resume,
    "runs extend": runs_extend,
    "runs stop": runs_stop,
    "runs watch": runs_watch,
    "runs queue": runs_queue,
    "runs verify": runs_verify,
    "runs reproduce": runs_reproduce,
    "serve": serve,
    "ui": ui,
    "cache list": cache_list,
    "cache clear": cache_clear,
    "doctor": doctor,
    "demo": demo,
}
"""What is typed -> function; its help is `shell.help.<name>`."""

TRAINING = ("train", "runs resume")
"""Commands that go on where they were stopped."""


def application() -> typer.Typer:
    """All commands, with help in the chosen language."""
    settings: dict[str, Any] = {
        "cls": Group,
        "add_completion": False,
        "pretty_exceptions_enable": False,
        "rich_markup_mode": None,
        "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
        "epilog": say("shell.epilog"),
    }
    app = typer.Typer(help=say("shell.about"), **settings)
    app.callback()(about)
    groups: dict[str, typer.Typer] = {}
    for name, function in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group and group not in groups:
            groups[group] = typer.Typer(help=say(f"shell.help.{group}"), **settings)
            app.add_typer(groups[group], name=group)
        help_id = f"shell.help.{name.replace(' ', '_')}"
        owner = groups[group] if group else app
        owner.command(last, cls=Command, help=say(help_id), short_help=say(help_id), epilog=say("shell.epilog"))(
            function
        )
    return app


def print_version(wanted: bool) -> None:
    if wanted:
        from luthier import __version__

        typer.echo(f"luthier {__version__}")
        raise typer.Exit


def about(
    version: Annotated[
        bool, typer.Option("--version", help="shell.option.version", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Options of `luthier` itself."""


def translate(command: Any) -> None:
    """Replace the message ids that stand for the help of options, in a command and all below it."""
    for parameter in command.params:
        if getattr(parameter, "help", None) and parameter.help.startswith("shell."):
            parameter.help = say(parameter.help)
    for inner in getattr(command, "commands", {}).values():
        translate(inner)


# ---------------------------------------------------------------------------------------------------- running


def main() -> None:
    """The `luthier` script."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # A terminal without the characters shows question marks instead of ending the command.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code, never raises except with `--debug`."""
    settings = environment()
    set_language(settings.language)
    rest = [each for each in arguments if each not in FLAGS]
    wants_help = not rest or any(each in ("-h", "--help", "--version") for each in rest)
    shell = Shell("--json" in arguments and not wants_help, "--debug" in arguments, settings, sys.stderr)
    try:
        return show(shell, attempt(shell, rest or ["--help"]))
    except BrokenPipeError:
        # Whoever read the output has gone away (`luthier runs list | head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def attempt(shell: Shell, arguments: list[str]) -> Outcome:
    """Call the command; whatever goes wrong becomes an outcome with problems."""
    try:
        return call(shell, arguments)
    except BrokenPipeError:
        raise
    except typer.TyperException as error:
        values = {"reason": reason_in_our_words(error.format_message()), "command": usage_of(error)}
        return failed([Problem("shell.usage", values=values)], BAD_INPUT)
    except (Exception, KeyboardInterrupt) as error:  # the one place that answers for every fault
        if shell.debug and not isinstance(error, (LuthierError, KeyboardInterrupt, typer.Abort)):
            raise
        if isinstance(error, (KeyboardInterrupt, typer.Abort)):
            begun = " ".join(arguments).startswith(TRAINING)
            return failed([Problem("shell.stopped_run" if begun else "shell.stopped")], INTERRUPTED)
        return outcome_of(error)


def call(shell: Shell, arguments: list[str]) -> Outcome:
    import typer.main

    command = typer.main.get_command(application())
    translate(command)
    # With --json, stdout belongs to the one object; what a library prints goes where logs go.
    quiet = contextlib.redirect_stdout(shell.logs) if shell.json else contextlib.nullcontext()
    with quiet:
        result = command.main(args=arguments, prog_name="luthier", standalone_mode=False, obj=shell)
    if isinstance(result, Outcome):
        return result
    if result == INTERRUPTED:  # the library's word for Ctrl-C
        raise KeyboardInterrupt
    return Outcome(None, [], int(result or OK))


def usage_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "luthier"
