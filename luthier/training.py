"""Training, assembled.

What goes in: a recipe and overrides. What comes out: a `Run`. `carry_out` is the whole story: gather and check what
goes in, decide the plan, open the run folder, build the job, fit it, finish; each line is a function below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier import (
    auxiliary,
    checks,
    finish,
    frozen,
    launch,
    machine,
    methods,
    parent,
    planning,
    proof,
    reinforcing,
    staged,
    teaching,
    tightening,
)
from luthier.arch import adapter_config, count
from luthier.arch import tokens as arch_tokens
from luthier.arch.count import AnyTune
from luthier.arch.structure import structure
from luthier.arch.values import is_valued
from luthier.config import load as config_load
from luthier.config.schema import Dpo, Kto, Lora, Online, Qlora, Reward, RunConfig
from luthier.config.stages import Stage
from luthier.data import cache as data_cache
from luthier.data import check, findings, laws, pack, rounds, stream, templates, tokens
from luthier.data.laws import LawReport
from luthier.data.sequences import Sequences
from luthier.data.survey import Surveyed, survey
from luthier.engine import backend, checkpoint, loop, memory, optim, rehearsal
from luthier.engine.backend import Backend
from luthier.engine.checkpoint import TrainState
from luthier.engine.ranks import Ranks, joined
from luthier.errors import ConfigError, DataError, Problem, RunError, UserError
from luthier.holdings import Tokens
from luthier.models import adapters, quantize, weights
from luthier.models.decoder import Decoder
from luthier.models.hub_files import Progress
from luthier.models.teacher import Teacher
from luthier.run import Run
from luthier.runs import manifest, receipt, reporters, slots
from luthier.runs.events import Event
from luthier.runs.recipe import Difference, run_name
from luthier.runs.store import RunFolder
from luthier.samples import Sample, Sampler, questions
from luthier.session import ADAPTER, Base, find_base, pinned, with_heads, writes
from luthier.text import say

Recipe = str | Path | Mapping[str, Any] | RunConfig | None
Overrides = Sequence[str] | Mapping[str, Any]
Listener = Callable[[Event], None]

SPARE = 0.5
"""Of the memory that is free: a run that takes no more may keep on a CPU what it frees."""


def train(
    recipe: Recipe = None,
    overrides: Overrides = (),
    *,
    on_event: Listener | None = None,
    on_download: Progress | None = None,
    on_stage: Callable[[staged.At], None] | None = None,
) -> Run:
    """Train as the recipe says; an unfinished run of the same name goes on where it stopped. Of a recipe with stages,
    every one that is not finished; the last one's run is returned, and all are its `stages`.

    Args:
        recipe: a YAML file, a mapping, a `RunConfig`, or None where `overrides` say everything.
        overrides: `["tune.rank=32"]` or `{"tune.rank": 32}`.
        on_event: sees every event as it is written to the run folder.
        on_download: called with (bytes there, bytes in all) while the base comes from a hub.
        on_stage: told before each stage of a recipe that has some.

    Raises:
        ConfigError, DataError, ModelError, RunError: something given cannot be used; nothing was changed.
        Interrupted: stopped on request, with a full checkpoint.
        TrainingFailed: training could not go on; what was saved is kept.
    """
    if stages := config_load.stages(recipe, overrides):
        return _train_stages(stages, on_event, on_download, on_stage)
    config = config_load.settle(config_load.load(recipe, overrides))
    return _train(config, on_event, on_download)


def _train_stages(
    stages: Sequence[Stage],
    on_event: Listener | None,
    on_download: Progress | None,
    on_stage: Callable[[staged.At], None] | None,
) -> Run:
    if backend.placed() is not None:  # each would merge, and skip, by itself
        raise RunError(Problem("runs.stages_placed", field="stages"))

    def run(config: RunConfig) -> Run:
        return _train(config, on_event, on_download)

    return staged.carry_out(stages, run, lambda config: look(config, on_download), on_stage)[stages[-1].name]


def look(config: RunConfig, on_download: Progress | None = None) -> None:
    """Read and check the rows of a recipe, as its run will.

    Raises:
        DataError, ModelError: rows, template or tokenizer cannot be used.
    """
    prepare(config, find_base(config.model, on_download))


def _train(
    config: RunConfig,
    on_event: Listener | None,
    on_download: Progress | None = None,
    plan: Mapping[str, Any] | None = None,
    original: RunFolder | None = None,
) -> Run:
    """Train here; or, where several devices are to train, check everything here and watch over a process for each.

    Args:
        original: the run that this one is to repeat; other inputs than its own are refused.
    """
    devices = _devices(config, _saved(config, plan))
    if backend.placed() is not None or devices == 1:
        return carry_out(config, on_event, on_download, plan, original)
    _gather(config, on_download, original)
    return Run(launch.run(config, devices, on_event, plan, original))


def carry_out(
    config: RunConfig,
    on_event: Listener | None,
    on_download: Progress | None = None,
    plan: Mapping[str, Any] | None = None,
    original: RunFolder | None = None,
) -> Run:
    """The whole story, in each of the processes that train. What can be refused is refused before the run folder is
    claimed; rank 0 alone claims it."""
    with joined(config.run.device) as ranks:
        with ranks.in_turn():
            given = _gather(config, on_download, original)
        saved = _saved(config, plan)
        devices = _devices(config, saved)
        decided, told = ranks.told(_decided(config, given, saved, devices) if ranks.first else None)
        given = dataclasses.replace(given, notes=(*given.notes, *told))
        with open_run(config, given, on_event) if ranks.first else beside(config) as desk:
            with contextlib.ExitStack() as at_end:
                job, state = assemble(config, given, desk, decided, ranks, at_end)
                state = loop.fit(job, state)
            if ranks.first:
                finish.finish(job, state, given.tune, given.base, given.data.renderer)
    return Run(desk.run.path)


@dataclasses.dataclass(frozen=True)
class Given:
    """What goes into a run, found and checked. notes: what to know about it."""

    base: Base
    tune: AnyTune
    data: Data
    manifest: manifest.Manifest
    notes: tuple[Problem, ...]
    teacher: teaching.Found | None = None


def _gather(config: RunConfig, on_download: Progress | None, original: RunFolder | None) -> Given:
    RunFolder.refuse_finished(config)
    if isinstance(config.method, Online):
        reinforcing.open_rewards(config).close()  # one that cannot be used is told of before rows are read
    reporters.require(config.run.report)
    if isinstance(config.tune, Qlora):
        quantize.require()
    base = with_heads(_base(config, RunFolder.begun(config), on_download), config)
    if not isinstance(config.method, Reward):
        writes(base.arch, base.path)
    came_from = parent.find(config.tune)
    tune = adapter_config.with_score(adapter_config.settle(parent.placed(config.tune, came_from), base.arch), base.arch)
    count.count(base.arch, tune)  # names targets and layers that do not exist before anything is written
    own_loss = methods.tried(config.method)
    teacher = teaching.find(config, on_download)
    rendering = parent.with_template(config, came_from, base.folder)
    data = prepare(rendering, base)
    if config.run.samples and data.validation is None:  # `auto` holds nothing out of few rows
        raise ConfigError(Problem("config.samples_of_nothing", field="run.samples", value=str(config.run.samples)))
    teaching.hold_to(teacher, base.arch.spec, data.renderer)
    went_in = _manifest(config, base, data, came_from, teacher, own_loss)
    notes = [*parent.notes(came_from, went_in.base, rendering.data.template), *_repeated(original, went_in)]
    return Given(_with_tokens(base, tune, data.renderer.new_ids), tune, data, went_in, tuple(notes), teacher)


def _saved(config: RunConfig, plan: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The plan to obey: that of the unfinished run, or of one that the kernel ended; or the one that was asked for."""
    last = RunFolder.begun(config) or tightening.killed_attempt(config)
    return last.read_json("plan.json") if last is not None and last.has("plan.json") else plan


def _decided(
    config: RunConfig, given: Given, saved: Mapping[str, Any] | None, devices: int
) -> tuple[planning.Plan, tuple[Problem, ...]]:
    """The plan, and what to know about it."""
    died = tightening.killed_attempt(config)
    tokens, models = _tokens(config, given.data), auxiliary.find(config)
    decided = planning.decide(config, given.base, given.tune, tokens, saved, devices, models)
    arch, rows = given.base.arch, given.data.rows
    layers = frozen.layers(config, arch, given.tune, rows, decided, config_load.environment())
    decided = dataclasses.replace(decided, bottom_layers=layers)
    notes = [*planning.told(config, decided), *frozen.told(arch, decided, rows)]
    if died is None:
        return decided, tuple(notes)
    decided, told = tightening.after_kill(decided)
    return decided, (told, *notes)


def _devices(config: RunConfig, saved: Mapping[str, Any] | None) -> int:
    before = int(saved["backend"].get("devices", 1)) if saved is not None else None
    found = backend.devices(config.run.devices, config.run.device, config.most_devices, before)
    # More than that only where a launcher has started so many.
    if found > 1 and config.optim.in_backward:
        raise ConfigError(Problem("config.in_backward_alone", field="optim.in_backward", value="true"))
    if found > 1 and isinstance(config.method, Online):
        values = {"method": config.method.kind}
        raise ConfigError(Problem("config.answers_alone", field="run.devices", value=str(found), values=values))
    return found


def resume(path: Path | str, *, on_event: Listener | None = None) -> Run:
    """Go on with an unfinished run, as its folder says. A stage of the queue that trains on a merged model has that
    made first, where it is missing."""
    staged.make_ready(RunFolder.open(path))
    with RunFolder.open(path).at_home() as folder:
        return train(folder.placed(), on_event=on_event)


def reproduce(path: Path | str, *, on_event: Listener | None = None) -> dict[str, Any]:
    """Train a run again from its recipe and plan in a temporary folder, and compare the final trained weights.

    Returns:
        {same: whether every bit is equal, tensors, different: names, largest_difference, revised: [[field, old, new]]
        of what was changed while the run was under way, which a repetition does not go through}.

    Raises:
        RunError: the run is not finished, its last checkpoint is gone, or base, data, tokenizer, plug-ins or parent are
            not what they were.
    """
    folder = RunFolder.open(path)
    if folder.state != "finished":
        raise RunError(Problem("runs.not_finished", where=str(folder.path), values={"state": folder.state}))
    original, problems = folder.newest_valid_checkpoint()
    if original is None:
        raise RunError(problems or [Problem("runs.no_checkpoint", where=str(folder.path))])
    scratch = Path(tempfile.mkdtemp(prefix="luthier-reproduce-"))
    try:
        with folder.at_home() as there:
            config = _repeating(there, str(scratch))
            again = _train(config, on_event, plan=there.read_json("plan.json"), original=there)
        repeated, _ = again.folder.newest_valid_checkpoint()
        assert repeated is not None, "a finished run has its last checkpoint"
        return {**checkpoint.compare(original, repeated), "revised": _revised(folder)}
    finally:
        shutil.rmtree(scratch)


def _repeating(folder: RunFolder, directory: str) -> RunConfig:
    """The run's recipe, to repeat it in another folder: with the base's commit and without trackers."""
    config = folder.placed(directory)
    run = config.run.model_copy(update={"report": ()})
    return config.model_copy(update={"run": run, "model": pinned(config.model, manifest.load(folder).base)})


def _base(config: RunConfig, begun: RunFolder | None, on_download: Progress | None) -> Base:
    """The base; an unfinished run gets the commit that it began with, wherever the branch is now."""
    model = config.model
    if begun is not None and begun.has("manifest.json"):
        model = pinned(model, manifest.load(begun).base)
    return dataclasses.replace(find_base(model, on_download), revision=config.model.revision)


def _repeated(original: RunFolder | None, given: manifest.Manifest) -> list[Problem]:
    """What to know about a repetition.

    Raises:
        RunError: what goes in now is not what went in then; every difference is listed.
    """
    if original is None:
        return []
    then, where = manifest.load(original), str(original.path)
    changed = manifest.differences(then, given)
    if changed:
        raise RunError(Problem("runs.other_inputs", where, each.field, values=each._asdict()) for each in changed)
    return [
        Problem("runs.repeats_revised", where, field, values={"old": old, "new": new})
        for field, old, new in _revised(original)
    ]


def _revised(run: RunFolder) -> list[list[Any]]:
    """[field, old, new] of what was changed on the way, apart from what may change freely, and from budgets, which a
    repetition changes at the same steps."""
    revisions = (event.data["changes"] for event in run.events() if event.kind == "revised")
    repeated = {planning.BUDGET} if "budgets" in run.read_json("plan.json") else set()
    changes = (change for revision in revisions for change in revision if change[0] not in repeated)
    return [change for change in changes if not Difference(*change).free]


# ------------------------------------------------------------------------------------------------------- the data


@dataclasses.dataclass(frozen=True)
class Data:
    """The rows of a run as token sequences, and what was found on the way. validation: None where no rows are held
    out."""

    renderer: templates.Renderer
    train: Sequences
    validation: Sequences | None
    checked: check.Checked
    excluded: tuple[check.Excluded, ...]
    laws: LawReport
    surveyed: Surveyed

    @property
    def rows(self) -> tuple[Sequences, ...]:
        """All that are computed."""
        return (self.train,) if self.validation is None else (self.train, self.validation)

    @property
    def truncated(self) -> int:
        """Sequences that were cut at `data.max_tokens`."""
        return self.train.truncated + (self.validation.truncated if self.validation is not None else 0)


def prepare(config: RunConfig, base: Base) -> Data:
    """Read and check whole files, render, hold to the laws of rendering, tokenise; no weights are loaded.

    Raises:
        DataError, ModelError: rows, template or tokenizer cannot be used; every problem is listed.
    """
    data, drop = config.data, config.data.bad_rows == "drop"
    renderer = templates.load_renderer(base.folder, config, _rows_of(base, config))
    cache = config_load.environment().cache_dir
    found = check.scans(data)
    built = [
        tokens.build(scan, renderer, cache, role=role, source_index=index, drop_bad_rows=drop)
        for scan, role, index in found.files
    ]
    surveyed, files = survey(built), [each.given for each in built]
    alike = surveyed.alike if surveyed is not None else None
    checked = check.judge(data, config.run.seed, config.method.kind, found, files, alike)
    if checked.problems:
        raise DataError(checked.problems)
    assert surveyed is not None, "files without problems are tokenised"

    store_of = {id(each.given): each.store for each in built}

    def sequences(rows: check.Rows) -> Sequences:
        stores = [store_of[id(file)] for file in rows.files]
        there = [store for store in stores if store is not None]
        ends = isinstance(config.method, Reward)  # a reward is read off the end of an answer
        return Sequences(rows, there, data.max_tokens, data.too_long, ends=ends)

    train = sequences(checked.train)
    held_out = sequences(checked.validation) if len(checked.validation) else None
    data_cache.trim(cache, config_load.environment().cache_bytes)
    excluded = (*checked.excluded, *train.excluded, *(held_out.excluded if held_out else ()))
    held = laws.joined(*(each.laws for each in built))
    return Data(renderer.trained_on(held.trained), train, held_out, checked, excluded, held, surveyed)


def _with_tokens(base: Base, tune: AnyTune, ids: Sequence[int]) -> Base:
    """The base with the recipe's new tokens: in rows beside it where an adapter trains, else in its own matrices."""
    extend = arch_tokens.beside if isinstance(tune, Lora) else arch_tokens.widened
    return dataclasses.replace(base, arch=extend(base.arch, ids))


def _rows_of(base: Base, config: RunConfig) -> Callable[[Sequence[int]], Any] | None:
    """Reads rows of the base's head, for the check of the stop token; a base without weights has none to look at."""
    if config.model.init == "random":
        return None
    return lambda ids: weights.embedding_rows(base.folder, base.arch, ids)


# ------------------------------------------------------------------------------------------------- the run folder


@dataclasses.dataclass(frozen=True)
class Desk:
    """An open run: its folder, whether it goes on from an earlier attempt, and how it tells what happens."""

    run: RunFolder
    emit: loop.Emit


@contextmanager
def open_run(config: RunConfig, given: Given, on_event: Listener | None) -> Iterator[Desk]:
    """Claim the run folder (this process becomes its one writer), settle what changed since an earlier attempt, and
    write down what goes in. An error that ends the block is written down too.

    Raises:
        RunError: somebody else writes it, it is finished, or what it was started with has changed.
    """
    watching = on_event is not None
    with RunFolder.claim(config, config_load.dump(config)) as run, reporters.opened(config, run) as report:

        def emit(kind: str, data: Mapping[str, Any] | None = None, step: int | None = None) -> Event:
            nonlocal watching
            event = run.emit(kind, data, step)
            report(event)
            if watching and on_event is not None:
                try:
                    on_event(event)
                except OSError:  # the terminal was closed, or the pipe: the run does not depend on who watches
                    watching = False
            return event

        if run.has("manifest.json"):
            before = manifest.load(run)
            run.settle(manifest.differences(before, given.manifest), config.run.on_change)
            for changed in manifest.environment(before, given.manifest):
                emit("note", {"text": say("engine.environment_changed", **changed._asdict())})
        given.manifest.save(run)
        run.write_jsonl("excluded.jsonl", map(dataclasses.asdict, given.data.excluded))
        try:
            yield Desk(run, emit)
        except UserError as error:
            with contextlib.suppress(RunError):  # a full disk may refuse this line too
                emit("failed", {"problem": error.problems[0].to_json()}, step=run.summary().step)
            raise


@contextmanager
def beside(config: RunConfig) -> Iterator[Desk]:
    """The run as the processes other than rank 0 have it: they read its folder and tell nothing."""
    run = RunFolder(Path(config.run.dir) / run_name(config))

    def silent(kind: str, data: Mapping[str, Any] | None = None, step: int | None = None) -> Event:
        return Event(run.name, 0, 0, 0.0, step, kind, {})

    yield Desk(run, silent)


def _manifest(
    config: RunConfig,
    base: Base,
    data: Data,
    came_from: parent.Parent | None,
    teacher: teaching.Found | None,
    own_loss: Mapping[str, Path],
) -> manifest.Manifest:
    left: dict[str, dict[str, int]] = {report.path: {} for report in data.checked.files}
    for row in data.excluded:
        left[row.path][row.reason_id] = left[row.path].get(row.reason_id, 0) + 1
    files = [
        manifest.DataFile(
            report.path,
            report.role,
            report.sha256,
            report.bytes,
            report.read,
            report.read - sum(left[report.path].values()),
            left[report.path],
            dataclasses.asdict(report.origin) if report.origin is not None else None,
        )
        for report in data.checked.files
    ]
    made_by = parent.behind(base.folder)
    behind = {"made_by": made_by} if made_by is not None else {}
    made = manifest.build(
        config.run.name or "",
        base={"path": base.path, "revision": base.revision, "commit": base.commit, "init": config.model.init, **behind},
        model_folder=base.folder,
        tokenizer=data.renderer.describe(),
        data=files,
        plugins={**data.checked.plugins, **own_loss, **reinforcing.plugins(config)},
        seed=config.run.seed,
        parent=(came_from.asked, came_from.folder) if came_from is not None else None,
    )
    return made if teacher is None else dataclasses.replace(made, teacher=teacher.facts())


def _reasons(rows: Sequence[check.Excluded]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.reason_id] = counts.get(row.reason_id, 0) + 1
    return counts


# ------------------------------------------------------------------------------------------------------- the job


def assemble(
    config: RunConfig,
    given: Given,
    desk: Desk,
    plan: planning.Plan,
    ranks: Ranks,
    at_end: contextlib.ExitStack,
) -> tuple[loop.Job, TrainState]:
    """Apply the plan, load weights, attach what trains, put the latest checkpoint in, and rehearse.

    Args:
        at_end: learns what has to be closed when nothing is computed any more.

    Raises:
        ModelError: the weights cannot be used.
        TrainingFailed, RunError: memory or disk do not suffice.
    """
    base, tune, data, chosen = given.base, given.tune, given.data, plan.backend
    chosen.apply()
    if chosen.device == "cpu" and plan.memory.peak_bytes <= plan.memory.free_bytes * SPARE:
        at_end.enter_context(memory.pages_kept())
    counts = count.count(base.arch, tune)
    decoder = _decoder(config, base, tune, chosen, plan.memory.dense_layers)
    named = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
    assert sum(p.numel() for _, p in named) == counts.trainable, "counted and real trainable parameters differ"
    if isinstance(config.method, Online):
        reinforcing.attach_critic(config, base, tune, decoder)
        named = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
    rate = config.learning_rate
    optimizer = optim.build(named, config.optim, rate, config.run.seed)
    state, lost = ranks.told(_restored(desk.run, named, optimizer) if ranks.first else None)
    if state.step and not ranks.first:  # where rank 0 begins, this process begins too
        checkpoint.load(desk.run.checkpoint_dir(state.step), named, optimizer)
    plan = plan.starting(state.step)
    if plan.changes:
        desk.emit("revised", {"changes": [list(change) for change in plan.changes], "reason": "plan"})
    if ranks.first:
        plan.save(desk.run)
    call_tokens = pack.call_tokens(chosen.device)
    held_out = None
    method: Any
    steps: stream.Stream | rounds.Rounds
    if isinstance(config.method, Online):
        rows = reinforcing.Rows(data.train, data.validation, data.checked, data.renderer)
        made_of = (base, tune, decoder, plan, desk.emit)
        method, steps = reinforcing.build(config, rows, *made_of, lambda *why: room.write_fewer(*why))
    else:
        steps = stream.Stream.of(data.train, config, plan.budgets, call_tokens, (ranks.index, ranks.size))
        if data.validation is not None:
            held_out = pack.batches(data.validation, plan.budget_tokens, call_tokens)
        method = methods.build(config.method, _method_given(config, given, desk, decoder, plan, ranks))
    at_end.callback(method.close)
    answers = steps.largest(state.step, False).micro if isinstance(steps, rounds.Rounds) and data.validation else ()
    room = tightening.Tightening(
        plan, desk.run if ranks.first else None, desk.emit, steps, held_out, method, decoder.forget_dense
    )
    job = loop.Job(
        model=decoder,
        named=named,
        method=method,
        stream=steps,
        validation=held_out or answers,
        room=room,
        optimizer=optimizer,
        optim=config.optim,
        learning_rate=rate,
        settings=config.run,
        backend=chosen,
        run=desk.run,
        emit=desk.emit,
        locate=data.train.locate,
        ranks=ranks,
        updated=method.updated if isinstance(config.method, Online) else None,
        samples=_samples(config, given, decoder, method, room, ranks) if config.run.samples else None,
    )
    desk.emit("rehearsal", {"kernel_kills": machine.kernel_kills()})
    rehearsal.rehearse(job, state)
    begun = loop.begin(job, state, lambda: room.plan.budget_tokens)
    if not ranks.first:
        return job, state
    _start(job, state, given, lost)
    if begun is not None:
        desk.emit("rewards" if isinstance(config.method, Online) else "reference", begun)
    desk.emit("data", _data_facts(config, data, steps))
    shape = {"structure": structure(base.arch, tune), "trainable": counts.trainable, "total": counts.total}
    desk.emit("model", {**shape, "percent": counts.percent})
    desk.emit("plan", desk.run.read_json("plan.json"))
    return job, state


def _samples(
    config: RunConfig, given: Given, decoder: Decoder, method: Any, room: tightening.Tightening, ranks: Ranks
) -> Callable[[], Mapping[int, Sample]]:
    """What answers some of the held-out examples; a method that learns from answers has written them already."""
    if isinstance(config.method, Online):
        return lambda: method.samples(config.run.samples)
    data, run = given.data, config.run
    assert data.validation is not None, "refused where nothing is held out"
    return Sampler(
        decoder,
        ADAPTER if isinstance(given.tune, Lora) else None,
        data.renderer,
        questions(data.validation, run.samples, run.sample_tokens),
        run.sample_tokens,
        lambda: room.plan.memory.activations + room.plan.memory.head,
        ranks,
    )


def _method_given(
    config: RunConfig, given: Given, desk: Desk, decoder: Decoder, plan: planning.Plan, ranks: Ranks
) -> methods.Given:
    """What the method is made of."""
    tune, here = given.tune, config_load.environment()
    fresh = isinstance(tune, Lora) and tune.from_ is None
    return methods.Given(
        adapter=ADAPTER if isinstance(tune, Lora) else None,
        seed=config.run.seed,
        train=given.data.train,
        validation=given.data.validation,
        run=desk.run.path,
        cache=here.cache_dir,
        fresh=fresh,
        policies=plan.policies,
        bottom=frozen.opened(decoder, tune, given.manifest, plan, given.data.rows, here, ranks.size),
        call_tokens=pack.call_tokens(plan.backend.device),
        ranks=ranks,
        facts=frozen.model_facts(given.base.arch, tune, given.manifest, plan)
        | {"parent": (given.manifest.parent or {}).get("files"), "init": [config.model.init, config.run.seed]},
        teacher=_teacher(config, given, decoder, plan, ranks),
    )


def _teacher(config: RunConfig, given: Given, student: Decoder, plan: planning.Plan, ranks: Ranks) -> Teacher | None:
    """What the method learns from, where it has a teacher."""
    if given.teacher is None:
        return None
    went_in, here = given.manifest, config_load.environment()
    facts = {"teacher": went_in.teacher, "versions": dict(went_in.versions), "source": went_in.code["source_sha256"]}
    return teaching.opened(given.teacher, config, student, plan.backend, facts, given.data.rows, here, ranks.size)


def _tokens(config: RunConfig, data: Data) -> Tokens:
    """What one micro-batch has to hold, the longest row, or the largest step where steps cannot be split; and the most
    that it may come to."""
    method, stores = config.method, [store for store in (data.train, data.validation) if store is not None]
    longest = max(int(store.lengths.max()) for store in stores)
    if isinstance(method, Online):
        whole = longest + method.max_new_tokens
        most = config.optim.batch * method.samples * whole
        return Tokens(whole, most, most)
    asked = stores if isinstance(method, Dpo | Kto) else stores[1:]
    sums = [(int(store.computed.sum()), int(store.learnt.sum())) for store in asked]
    passed, passed_scored = map(max, zip((0, 0), *sums, strict=True))
    if config.optim.in_backward:
        largest = max(longest, stream.Stream.of(data.train, config, longest).most_tokens)
        return Tokens(largest, largest, passed, passed_scored=passed_scored)
    most, scored = stream.Stream.of(data.train, config, longest).fullest_tokens
    return Tokens(longest, max(longest, most), passed, scored, passed_scored)


def _decoder(config: RunConfig, base: Base, tune: AnyTune, chosen: Backend, dense_layers: int) -> Decoder:
    """Weights with what trains as `optim.weights` says and the rest in the compute dtype; adapters attached."""
    # With an adapter nothing of the base trains: modules saved beside it are copies.
    trained = frozenset() if isinstance(tune, Lora) else count.trained_tensors(base.arch, tune)
    placed: dict[str, Any] = {
        "dtype": chosen.compute_dtype,
        "device": chosen.device,
        "trainable": trained.__contains__,
        "trained_dtype": torch.float32 if config.optim.weights == "float32" else torch.bfloat16,
    }
    if config.model.init == "random":
        decoder = weights.random(base.arch, config.run.seed, **placed)
    else:
        quantise = tune if isinstance(tune, Qlora) else None
        decoder = weights.load(base.folder, base.arch, **placed, quantise=quantise, dense_layers=dense_layers)
        if not isinstance(tune, Lora):
            weights.start_tokens(decoder, base.arch)
    if isinstance(tune, Lora):
        if tune.from_ is not None:
            adapters.load_adapter(decoder, base.arch, Path(tune.from_), ADAPTER, trainable=True, dropout=tune.dropout)
            if is_valued(base.arch):
                adapters.add_score(decoder, ADAPTER)
        else:
            adapters.attach(decoder, base.arch, tune, name=ADAPTER, seed=config.run.seed)
    return decoder


def _restored(
    run: RunFolder, named: Sequence[optim.Named], optimizer: torch.optim.Optimizer
) -> tuple[TrainState, list[Problem]]:
    """The newest whole checkpoint, or the beginning; and what was found damaged."""
    folder, problems = run.newest_valid_checkpoint()
    state = checkpoint.load(folder, named, optimizer) if folder is not None else TrainState()
    return state, [*problems, *_without_lost_best(run, state)]


def _start(job: loop.Job, state: TrainState, given: Given, lost: Sequence[Problem]) -> None:
    """Say that the attempt begins, and from where; the base's answers to the probe are taken before step 1."""
    base, data, notes = given.base, given.data, (*given.notes, *lost)
    assert isinstance(job.model, Decoder)
    length = {"num_steps": job.stream.num_steps, "steps_per_epoch": job.stream.steps_per_epoch}
    if job.run.has_begun:
        reason = "checkpoint" if job.run.checkpoints() else "no checkpoint yet"
        job.emit("resumed", {"from_step": state.step, "reason": reason, **length})
    else:
        job.emit("started", length)
    unread = [Problem("engine.fields_unread", value=field) for field in data.laws.unused]
    cut = [Problem("tokens.cut", values={"rows": data.truncated})] if data.truncated else []
    far = checks.beyond_positions(base, (data.train, data.validation))
    rows = (*data.checked.notes, *cut, *unread, *_unrolled(data), *far)
    for each in (*base.notes, *notes, *data.renderer.notes, *rows):
        job.emit("note", {"text": str(each)})
    for line in findings.brief(data.surveyed.findings, data.surveyed.looked, data.surveyed.rows):
        job.emit("note", {"text": line})
    if not job.run.has(proof.PROBE):
        prompts = proof.prompts(data.train)
        proof.Probe(prompts, proof.said(job.model, prompts, None)).save(job.run)
    receipt.record(job.run, *checks.laws(data.laws, len(data.train), data.train.truncated))


def _without_lost_best(run: RunFolder, state: TrainState) -> list[Problem]:
    """Forget the best weights of a state where they are damaged or gone: the next validation then begins anew."""
    if state.best_step is None or not (problems := slots.verify_folder(run.best_dir(state.best_step))):
        return []
    lost, state.best_loss, state.best_step = state.best_step, None, None
    return [*problems, Problem("engine.best_lost", where=str(run.best_dir(lost)), values={"step": lost})]


def _unrolled(data: Data) -> Iterator[Problem]:
    """How many rows and sequences there are, where the template makes several sequences of a conversation."""
    stores = [store for store in (data.train, data.validation) if store is not None]
    rows, sequences = sum(store.num_rows for store in stores), sum(len(store) for store in stores)
    if data.laws.unrolled:
        yield Problem("engine.unrolled", values={"rows": rows, "sequences": sequences})


def _data_facts(config: RunConfig, data: Data, steps: stream.Stream | rounds.Rounds) -> dict[str, Any]:
    sequences = np.bincount(data.train.sources, minlength=len(config.data.train)).tolist()
    seen = steps.per_source_counts
    return {
        "sources": [
            {"path": source.path, "sequences": count, "seen": seen.get(index, 0)}
            for index, (source, count) in enumerate(zip(config.data.train, sequences, strict=True))
        ],
        "read": sum(report.read for report in data.checked.files),
        "kept": data.train.num_rows + (data.validation.num_rows if data.validation is not None else 0),
        "excluded": _reasons(data.excluded),
        "train": len(data.train),
        "validation": len(data.validation) if data.validation is not None else 0,
        "truncated": data.truncated,
        "tokens": data.train.num_tokens,
        "loss_tokens": float(data.train.loss_weight.sum()),
    }
