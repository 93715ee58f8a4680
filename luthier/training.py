"""Training, assembled.

What goes in: a recipe and overrides. What comes out: a `Run`. `train` is the whole story: settle what is asked, read
the data, open the run folder, build the job, fit it, finish; each line is a function below.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier import checks, finish, planner, proof
from luthier.arch import adapter_config, count
from luthier.arch import tokens as arch_tokens
from luthier.arch.count import AnyTune
from luthier.arch.families.gated import EMBEDDING, HEAD
from luthier.arch.structure import structure
from luthier.config import load as config_load
from luthier.config.schema import Lora, RunConfig
from luthier.data import check, pack, stream, templates, tokens
from luthier.data.laws import LawReport
from luthier.data.store import TokenStore
from luthier.engine import backend, checkpoint, loop, optim
from luthier.engine.backend import Backend
from luthier.engine.checkpoint import TrainState
from luthier.errors import Problem, RunError
from luthier.kernels import select
from luthier.methods import METHODS
from luthier.models import adapters, weights
from luthier.models.decoder import Decoder
from luthier.models.hub_files import Progress
from luthier.run import Run
from luthier.runs import manifest, receipt, reporters
from luthier.runs.events import Event
from luthier.runs.store import RunFolder
from luthier.session import ADAPTER, Base, find_base
from luthier.text import say

Recipe = str | Path | Mapping[str, Any] | RunConfig | None
Overrides = Sequence[str] | Mapping[str, Any]
Listener = Callable[[Event], None]


def train(
    recipe: Recipe = None,
    overrides: Overrides = (),
    *,
    on_event: Listener | None = None,
    on_download: Progress | None = None,
    plan: Mapping[str, Any] | None = None,
) -> Run:
    """Train as the recipe says; an unfinished run of the same name goes on where it stopped.

    Args:
        recipe: a YAML file, a mapping, a `RunConfig`, or None where `overrides` say everything.
        overrides: `["tune.rank=32"]` or `{"tune.rank": 32}`.
        on_event: sees every event as it is written to the run folder.
        on_download: called with (bytes there, bytes in all) while the base comes from a hub.
        plan: `plan.json` of another run to obey, for the same bits.

    Raises:
        ConfigError, DataError, ModelError, RunError: something given cannot be used; nothing was changed.
        Interrupted: stopped on request, with a full checkpoint.
        TrainingFailed: training could not go on; what was saved is kept.
    """
    config = config_load.settle(config_load.load(recipe, overrides))
    RunFolder.refuse_finished(config)
    base = find_base(config.model, on_download)
    tune = adapter_config.settle(config.tune, base.arch)
    count.count(base.arch, tune)  # names targets and layers that do not exist before anything is written
    data = prepare(config, base)
    base = _with_tokens(base, tune, data.renderer.new_ids)
    with open_run(config, base, data, on_event) as desk:
        job, state = assemble(config, base, tune, data, desk, plan)
        state = loop.fit(job, state)
        finish.finish(job, state, tune, base, data.renderer)
    return Run(desk.run.path)


def resume(path: Path | str, *, on_event: Listener | None = None) -> Run:
    """Go on with an unfinished run, as its folder says."""
    with RunFolder.open(path).at_home() as folder:
        return train(_placed(folder), on_event=on_event)


def reproduce(path: Path | str, *, on_event: Listener | None = None) -> dict[str, Any]:
    """Train a run again from its recipe and plan in a temporary folder, and compare the final trained weights.

    Returns:
        {same: whether every bit is equal, tensors, different: names, largest_difference}.

    Raises:
        RunError: the run is not finished, or its last checkpoint is gone.
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
            config = _placed(there, directory=str(scratch))
            again = train(config, on_event=on_event, plan=there.read_json("plan.json"))
        repeated, _ = again.folder.newest_valid_checkpoint()
        assert repeated is not None, "a finished run has its last checkpoint"
        return checkpoint.compare(original, repeated)
    finally:
        shutil.rmtree(scratch)


def _placed(folder: RunFolder, directory: str | None = None) -> RunConfig:
    """The run's recipe, aimed at the folder it lies in (it may have been moved), or at another one."""
    config = folder.config()
    place = {"name": folder.name, "dir": directory or str(folder.path.parent)}
    return config.model_copy(update={"run": config.run.model_copy(update=place)})


# ------------------------------------------------------------------------------------------------------- the data


@dataclasses.dataclass(frozen=True)
class Data:
    """The rows of a run as token stores, and what was found on the way. validation: None where no rows are held out."""

    renderer: templates.Renderer
    train: TokenStore
    validation: TokenStore | None
    checked: check.Checked
    excluded: tuple[check.Excluded, ...]
    laws: LawReport


def prepare(config: RunConfig, base: Base) -> Data:
    """Read and check whole files, render, hold to the laws of rendering, tokenise; no weights are loaded.

    Raises:
        DataError, ModelError: rows, template or tokenizer cannot be used; every problem is listed.
    """
    checked = check.check_sources(config)
    renderer = templates.load_renderer(base.folder, config, _rows_of(base, config))
    items = (*checked.train, *checked.validation)
    laws = renderer.laws([item.example for item in items], [f"{item.path}:{item.number}" for item in items])
    cache = config_load.environment().cache_dir
    train = tokens.build(checked.train, renderer, config, cache)
    held_out = tokens.build(checked.validation, renderer, config, cache) if checked.validation else None
    excluded = (*checked.excluded, *train.excluded, *(held_out.excluded if held_out else ()))
    return Data(renderer, train.store, held_out.store if held_out else None, checked, excluded, laws)


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
def open_run(config: RunConfig, base: Base, rows: Data, on_event: Listener | None) -> Iterator[Desk]:
    """Claim the run folder (this process becomes its one writer), settle what changed since an earlier attempt, and
    write down what goes in.

    Raises:
        RunError: somebody else writes it, it is finished, or what it was started with has changed.
    """
    given = _manifest(config, base, rows)
    with RunFolder.claim(config, config_load.dump(config)) as run, reporters.opened(config, run) as report:

        def emit(kind: str, data: Mapping[str, Any] | None = None, step: int | None = None) -> Event:
            event = run.emit(kind, data, step)
            report(event)
            if on_event is not None:
                on_event(event)
            return event

        if run.has("manifest.json"):
            before = manifest.load(run)
            run.settle(manifest.differences(before, given), config.run.on_change)
            for changed in manifest.environment(before, given):
                emit("note", {"text": say("engine.environment_changed", **changed._asdict())})
        given.save(run)
        run.write_jsonl("excluded.jsonl", [dataclasses.asdict(row) for row in rows.excluded])
        yield Desk(run, emit)


def _manifest(config: RunConfig, base: Base, data: Data) -> manifest.Manifest:
    files = [
        manifest.DataFile(
            report.path, report.role, report.sha256, report.bytes, report.read, report.read - len(left), _reasons(left)
        )
        for report in data.checked.files
        for left in [[row for row in data.excluded if row.path == report.path]]
    ]
    parent = config.tune.from_ if isinstance(config.tune, Lora) else None
    return manifest.build(
        config.run.name or "",
        base={"path": base.path, "revision": base.revision, "commit": base.commit, "init": config.model.init},
        model_folder=base.folder,
        tokenizer=data.renderer.describe(),
        data=files,
        plugins=data.checked.plugins,
        seed=config.run.seed,
        parent=Path(parent) if parent else None,
    )


def _reasons(rows: Sequence[check.Excluded]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.reason_id] = counts.get(row.reason_id, 0) + 1
    return counts


# ------------------------------------------------------------------------------------------------------- the job


def assemble(
    config: RunConfig, base: Base, tune: AnyTune, data: Data, desk: Desk, plan: Mapping[str, Any] | None
) -> tuple[loop.Job, TrainState]:
    """Choose or restore the plan, load weights, attach what trains, and put the latest checkpoint in.

    Raises:
        ConfigError, ModelError: the device, the weights or the targets cannot be used.
    """
    saved = desk.run.read_json("plan.json") if desk.run.has("plan.json") else plan
    chosen = _backend(config, saved, desk)
    counts = count.count(base.arch, tune)
    budget = _plan(config, base, tune, data, desk, chosen, saved)
    decoder = _decoder(config, base, tune, chosen)
    named = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
    assert sum(p.numel() for _, p in named) == counts.trainable, "counted and real trainable parameters differ"
    rate = config.learning_rate
    steps = stream.Stream.of(data.train, config, budget)
    held_out = pack.batches(data.validation, budget) if data.validation is not None else ()
    job = loop.Job(
        model=decoder,
        named=named,
        method=METHODS[config.method.kind](ADAPTER if isinstance(tune, Lora) else None, config.run.seed),
        stream=steps,
        validation=held_out,
        optimizer=optim.build(named, config.optim, rate),
        optim=config.optim,
        learning_rate=rate,
        settings=config.run,
        backend=chosen,
        run=desk.run,
        emit=desk.emit,
        locate=data.train.locate,
    )
    state = _start(job, base, data)
    desk.emit("data", _data_facts(data))
    shape = {"structure": structure(base.arch, tune), "trainable": counts.trainable, "total": counts.total}
    desk.emit("model", {**shape, "percent": counts.percent})
    desk.emit("plan", desk.run.read_json("plan.json"))
    return job, state


def _backend(config: RunConfig, saved: Mapping[str, Any] | None, desk: Desk) -> Backend:
    """The backend of the plan where there is one; a device that is gone is a recorded revision."""
    if saved is None:
        chosen = backend.choose(config.run.device, config.model.dtype)
    else:
        chosen, lost = backend.restore(saved["backend"])
        if lost:
            changes = [[field, saved["backend"][field], getattr(chosen, field)] for field in lost]
            desk.emit("revised", {"changes": changes, "reason": "plan"})
    chosen.apply()
    return chosen


def _plan(
    config: RunConfig,
    base: Base,
    tune: AnyTune,
    data: Data,
    desk: Desk,
    chosen: Backend,
    saved: Mapping[str, Any] | None,
) -> int:
    """The micro-batch budget in tokens; writes `plan.json` unless an earlier attempt did."""
    longest = max(int(store.lengths.max()) for store in (data.train, data.validation) if store is not None)
    trained = count.count(base.arch, tune).trainable
    in_place = 0 if isinstance(tune, Lora) else trained
    head = (EMBEDDING if base.arch.spec.tied else HEAD) + ".weight"
    head_trains = head in count.trained_tensors(base.arch, tune)
    work = planner.Workload(
        trainable_parameters=trained,
        frozen_parameters=base.arch.num_parameters - in_place,
        first_trained_layer=count.first_trained_layer(base.arch, tune),
        compute_bytes=chosen.compute_dtype.itemsize,
        optimizer_slots=2 if config.optim.kind == "adamw" else int(config.optim.momentum > 0),
        longest_tokens=longest,
        inner_features=sum(rank for _, rank, _ in count.select_units(base.arch, tune)) if isinstance(tune, Lora) else 0,
        cast_parameters=in_place,
        head_parameters=math.prod(base.arch.tensors[head]) if head_trains else 0,
    )
    memory = planner.plan(
        base.arch.spec,
        work,
        free_bytes=backend.free_memory_bytes(chosen.device),
        device=chosen.device,
        asked_tokens=int(saved["budget_tokens"]) if saved else config.optim.budget_tokens,
    )
    if not memory.fits:
        need, free = (f"{each / 2**30:.1f} GiB" for each in (memory.peak_bytes, memory.free_bytes))
        values = {"tokens": longest, "need": need, "free": free}
        raise RunError(Problem("engine.row_too_large", field="data.max_tokens", values=values))
    if not desk.run.has("plan.json"):
        facts = {
            "backend": chosen.to_json(),
            "budget_tokens": memory.budget_tokens,
            "memory": memory.to_json(),
            "kernels": select.choose(chosen.device).to_json(),
        }
        desk.run.write_json("plan.json", facts)
    return memory.budget_tokens


def _decoder(config: RunConfig, base: Base, tune: AnyTune, chosen: Backend) -> Decoder:
    """Weights with what trains in float32 and the rest in the compute dtype; adapters attached."""
    # With an adapter nothing of the base trains: modules saved beside it are copies.
    trained = frozenset() if isinstance(tune, Lora) else count.trained_tensors(base.arch, tune)
    dtype, device = chosen.compute_dtype, chosen.device
    if config.model.init == "random":
        seed = config.run.seed
        decoder = weights.random(base.arch, seed, dtype=dtype, device=device, trainable=trained.__contains__)
    else:
        decoder = weights.load(base.folder, base.arch, dtype=dtype, device=device, trainable=trained.__contains__)
        if not isinstance(tune, Lora):
            weights.start_tokens(decoder, base.arch)
    if isinstance(tune, Lora):
        if tune.from_ is not None:
            adapters.load_adapter(decoder, base.arch, Path(tune.from_), ADAPTER, trainable=True, dropout=tune.dropout)
        else:
            adapters.attach(decoder, base.arch, tune, name=ADAPTER, seed=config.run.seed)
    return decoder


def _start(job: loop.Job, base: Base, data: Data) -> TrainState:
    """The newest whole checkpoint, or the beginning; the base's answers to the probe are taken before step 1."""
    assert isinstance(job.model, Decoder)
    folder, problems = job.run.newest_valid_checkpoint()
    state = checkpoint.load(folder, job.named, job.optimizer) if folder is not None else TrainState()
    begun = bool(job.run.events())
    if begun:
        job.emit("resumed", {"from_step": state.step, "reason": "checkpoint" if folder else "no checkpoint yet"})
    else:
        job.emit("started", {"num_steps": job.stream.num_steps})
    unread = [Problem("engine.fields_unread", value=field) for field in data.laws.unused]
    for each in (*base.notes, *data.renderer.notes, *data.checked.notes, *unread, *problems):
        job.emit("note", {"text": str(each)})
    if not job.run.has(proof.PROBE):
        prompts = proof.prompts(data.train)
        proof.Probe(prompts, proof.next_token_logits(job.model, prompts, None)).save(job.run)
    receipt.record(job.run, *checks.laws(data.laws))
    return state


def _data_facts(data: Data) -> dict[str, Any]:
    return {
        "read": sum(report.read for report in data.checked.files),
        "kept": data.train.num_rows + (data.validation.num_rows if data.validation is not None else 0),
        "excluded": _reasons(data.excluded),
        "train": len(data.train),
        "validation": len(data.validation) if data.validation is not None else 0,
        "tokens": data.train.num_tokens,
        "loss_tokens": float(data.train.loss_weight.sum()),
    }
