"""An outlook in words: the table by part, what was chosen and why, and what to do where it does not fit.

What goes in: an `Outlook` and its recipe. What comes out: lines of text in the reader's language. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator

from luthier import holdings, planner
from luthier.config.schema import ON_DEVICE, Online, RunConfig
from luthier.paper.outlook import Outlook, longest
from luthier.runs.tables import columns, count, size, span
from luthier.text import say

FROZEN = ("weights", "teacher", "reference", "judges", "dense")
PARTS = (*FROZEN, "trainable", "gradients", "optimizer", "activations", "head", "passes", "answers")


def lines(made: Outlook, config: RunConfig) -> list[str]:
    return [
        *_head(made, config),
        "",
        *_table(made),
        "",
        *_choices(made, config),
        *_speed(made, config),
        *_verdict(made),
    ]


def largest(stage: str, made: Outlook) -> str:
    """Which stage of several needs most."""
    values = {"stage": stage, "peak": size(made.memory.peak_bytes), "free": size(made.target.free_bytes)}
    return say("plan.largest_fits" if made.fits else "plan.largest_does_not", **values)


def _head(made: Outlook, config: RunConfig) -> Iterator[str]:
    aim, facts = made.target, made.rows
    numbers = {"parameters": count(made.parameters), "trainable": count(made.trainable)}
    yield say("plan.model", model=made.model, family=made.family, kind=config.tune.kind, **numbers)
    name = f"{aim.count} x {aim.name}" if aim.count > 1 else aim.name
    yield say("plan.devices" if aim.count > 1 else "plan.device", name=name, free=size(aim.free_bytes), dtype=aim.dtype)
    for message, values in aim.notes:
        yield say(message, **values)
    if facts.assumed:
        yield from (say("plan.rows.missing", path=path) for path in facts.missing)
        yield say("plan.rows.assumed")
    else:
        shown = {"rows": count(facts.rows), "longest": count(facts.longest), "stores": ", ".join(facts.stores)}
        yield say("plan.rows.checked" if facts.checked else "plan.rows.stores", tokens=facts.tokens, **shown)


def _table(made: Outlook) -> list[str]:
    memory, tokens = made.memory, count(made.memory.micro_tokens)
    rows = [(say(f"plan.part.{part}", tokens=tokens), size(getattr(memory, part))) for part in PARTS]
    rows = [row for row, part in zip(rows, PARTS, strict=True) if getattr(memory, part)]
    rows.append((say("plan.part.peak"), size(memory.peak_bytes)))
    rows.append((say("plan.part.runtime"), size(made.target.runtime_bytes)))
    return columns((say("plan.part"), say("plan.bytes")), rows, right=(1,))


def _choices(made: Outlook, config: RunConfig) -> Iterator[str]:
    memory, kind = made.memory, made.target.kind
    budget = {"tokens": count(memory.budget_tokens), "share": planner.USABLE}
    if config.optim.budget_tokens == memory.budget_tokens:
        yield say("plan.budget.given", **budget)
    elif memory.budget_tokens == planner.CAP_TOKENS[kind]:
        yield say("plan.budget.cap", **budget)
    elif memory.budget_tokens > made.batch_tokens or memory.budget_tokens == longest(config, made.rows):
        yield say("plan.budget.row", **budget)
    else:
        yield say("plan.budget.memory", **budget)
    if memory.micro_tokens < memory.budget_tokens:
        yield say("plan.micro", tokens=count(memory.micro_tokens))
    policies = planner.in_words(memory.policies)
    asked = config.optim.activations
    if asked in ON_DEVICE and kind == "cpu":
        yield say("plan.policies.no_host", asked=asked, policies=policies)
    elif asked != "auto":
        yield say("plan.policies.given", policies=policies)
    elif set(memory.policies) == {"keep"}:
        yield say("plan.policies.all")
    else:
        yield say("plan.policies.some", policies=policies)
    if isinstance(config.method, Online):
        yield _answers(memory.answer_texts, config.method, config.optim.batch)
    if memory.host:
        yield say("plan.host", size=size(memory.host))
    if memory.moved:
        yield say("plan.moved" if made.target.host_bytes is not None else "plan.moved.unknown", size=size(memory.moved))
    yield say("plan.chunk", rows=count(made.head_rows), size=size(made.head_rows * made.vocab_bytes))
    if not made.context:
        yield say("plan.largest.none", share=planner.USABLE)
        return
    largest = {"context": count(made.context), "batch": count(made.batch_tokens)}
    moved = say("plan.largest.moved", size=size(made.context_moved)) if made.context_moved else ""
    yield say("plan.largest", share=planner.USABLE, positions=count(made.max_positions), moved=moved, **largest)


def _answers(texts: int, method: Online, batch: int) -> str:
    wanted = min(batch * method.samples, holdings.MAX_SEQUENCES)
    values = {"texts": count(texts), "count": count(wanted), "tokens": count(method.max_new_tokens)}
    return say("plan.answers" if texts == wanted else "plan.answers.some", share=planner.USABLE, **values)


def _speed(made: Outlook, config: RunConfig) -> Iterator[str]:
    speed, aim = made.speed, made.target
    if speed is None:
        if made.fits:
            yield say("plan.speed.answers" if isinstance(config.method, Online) else "plan.speed.unknown")
        return
    devices = say("plan.speed.devices", count=aim.count) if aim.count > 1 else ""
    step = f"{speed.step_s:.3g} s" if speed.step_s < 60 else span(speed.step_s)
    rate = count(speed.tokens_per_s)
    yield say(
        "plan.speed",
        batch=config.optim.batch,
        step=step,
        rate=rate,
        share=aim.share,
        tflops=aim.tflops,
        devices=devices,
    )
    if speed.bound == "memory":
        yield say("plan.speed.memory")
    if speed.run_s is not None:
        yield say("plan.speed.run", steps=count(speed.steps), time=span(speed.run_s))


def _verdict(made: Outlook) -> Iterator[str]:
    values = {"peak": size(made.memory.peak_bytes), "free": size(made.memory.free_bytes)}
    yield say("plan.fits" if made.fits else "plan.too_large", **values)
    if made.fits:
        return
    if made.remedy is None:
        yield say("plan.change.none")
    else:
        yield say("plan.change", changes=" ".join(made.remedy.changes), peak=size(made.remedy.memory.peak_bytes))
        if made.remedy.proposed:
            yield say("plan.change.proposed")
    if (sharded := made.sharded) is not None:
        if sharded.fits:
            verdict = say("plan.sharded.fits")
        elif sharded.least is not None:
            verdict = say("plan.sharded.least", least=count(sharded.least))
        else:
            verdict = say("plan.sharded.never")
        yield say("plan.sharded", devices=sharded.devices, peak=size(sharded.peak_bytes), verdict=verdict)
