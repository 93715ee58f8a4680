"""What involves two fields of a recipe at once.

What goes in: a `RunConfig` whose fields are right one by one. What comes out: the problems between them. `RULES` is the
whole of it, read top-down: the fields a rule speaks of, and a pure predicate that returns the values of its message
where the rule is broken, None where it holds. Rank 1; imports no torch.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from luthier.config.schema import (
    FORMATS,
    DataSection,
    Distill,
    Dpo,
    Lora,
    Online,
    Pairs,
    Qlora,
    Reward,
    RunConfig,
    Section,
    Source,
)
from luthier.errors import Problem

Values = dict[str, Any]

ADAPTER_SHAPE = ("rank", "alpha", "targets", "rslora", "rank_pattern", "alpha_pattern", "layers", "modules_to_save")
"""Fields of `tune` that an existing adapter settles."""
CHAT_FORMATS = frozenset(FORMATS) - {"auto", "text"}
MAX_VALIDATION_SHARE = 0.5
"""Half or more held out would train on the smaller part."""


class Rule(NamedTuple):
    """fields: what the rule speaks of; the problem is shown at the first of them that the user gave.
    broken: values for the message (`value` is shown beside the field) where the rule is broken, else None."""

    fields: tuple[str, ...]
    broken: Callable[[RunConfig], Values | None]


def problems(config: RunConfig, where: Callable[[str], str | None]) -> Iterator[tuple[Rule, Problem]]:
    """Every broken rule.

    Args:
        where: place of a field in the user's input, None where the user did not give it.
    """
    for name, rule in RULES.items():
        values = rule.broken(config)
        if values is not None:
            field = next((each for each in rule.fields if where(each)), rule.fields[0])
            shown = values.pop("value", None) or shown_value(config, field)
            yield rule, Problem(f"config.{name}", where(field) or "", field, shown, values)


def shown_value(config: RunConfig, field: str) -> str:
    """The value at a dotted name, for a message; files by their paths."""
    value = value_of(config, field)
    return ", ".join(source.path for source in sources(value)) or str(value)


def value_of(config: RunConfig, field: str) -> Any:
    """The value at a dotted name (`tune.from` is the schema's `from_`)."""
    value: Any = config
    for key in field.split("."):
        value = getattr(value, "from_" if key == "from" else key)
    return value


def changed(section: Section, *keys: str) -> tuple[str, ...]:
    """Which of these fields differ from their default."""
    return tuple(key for key in keys if getattr(section, key) != type(section).model_fields[key].get_default())


def sources(value: Any) -> tuple[Source, ...]:
    """The files in `data.train` or `data.validation`; none where the latter is a share."""
    return tuple(each for each in value if isinstance(each, Source)) if isinstance(value, tuple) else ()


def formats(data: DataSection) -> set[str]:
    return {data.format, *(source.format for source in (*data.train, *sources(data.validation)))}


# ---------------------------------------------------------------------------------------------------- predicates


def random_needs_full(config: RunConfig) -> Values | None:
    broken = config.model.init == "random" and config.tune.kind != "full"
    return {"kind": config.tune.kind} if broken else None


def float16_on_cpu(config: RunConfig) -> Values | None:
    return {} if config.run.device == "cpu" and config.model.dtype == "float16" else None


def revision_of_folder(config: RunConfig) -> Values | None:
    path = config.model.path
    local = path == "nano" or path.startswith(("/", "./", "../", "~", ".\\", "..\\"))
    return {"path": path} if local and config.model.revision is not None else None


def sft_on_text(config: RunConfig) -> Values | None:
    answers = config.method.kind in ("sft", "distill")
    return {"kind": config.method.kind} if answers and "text" in formats(config.data) else None


def distill_new_tokens(config: RunConfig) -> Values | None:
    return {} if isinstance(config.method, Distill) and config.data.new_tokens else None


def pretrain_on_chat(config: RunConfig) -> Values | None:
    found = sorted(CHAT_FORMATS & formats(config.data))
    return {"value": ", ".join(found)} if config.method.kind == "pretrain" and found else None


def pretrain_without_chat(config: RunConfig) -> Values | None:
    found = changed(config.data, "template", "system", "stop_token")
    return {"fields": ", ".join(f"data.{key}" for key in found)} if config.method.kind == "pretrain" and found else None


def pretrain_chunks(config: RunConfig) -> Values | None:
    return {} if config.method.kind == "pretrain" and config.data.too_long != "stop" else None


def smoothing_without_two_ways(config: RunConfig) -> Values | None:
    method = config.method
    loss = getattr(method, "loss", "")
    broken = isinstance(method, Pairs) and loss in ("hinge", "ipo") and method.label_smoothing > 0
    return {"loss": loss} if broken else None


def robust_needs_share(config: RunConfig) -> Values | None:
    method = config.method
    return {} if isinstance(method, Dpo) and method.loss == "robust" and method.label_smoothing == 0 else None


def ipo_is_by_means(config: RunConfig) -> Values | None:
    method = config.method
    means = isinstance(method, Dpo) and "ipo" in (method.kind, method.loss)
    return {} if means and changed(method, "length_normalised") else None


def own_loss_has_no_options(config: RunConfig) -> Values | None:
    method = config.method
    own = ":" in str(getattr(method, "loss", None))
    found = changed(method, *(key for key in ("label_smoothing", "gamma") if key in type(method).model_fields))
    return {"fields": ", ".join(f"method.{key}" for key in found)} if own and found else None


def rewards_and_weights(config: RunConfig) -> Values | None:
    method = config.method
    if not isinstance(method, Online) or len(method.reward_weights) in (0, len(method.rewards)):
        return None
    return {"rewards": len(method.rewards), "weights": len(method.reward_weights)}


def answers_without_dropout(config: RunConfig) -> Values | None:
    broken = isinstance(config.method, Online) and isinstance(config.tune, Lora) and config.tune.dropout > 0
    return {"method": config.method.kind} if broken else None


def answers_alone(config: RunConfig) -> Values | None:
    broken = isinstance(config.method, Online) and config.run.devices not in ("auto", 1)
    return {"method": config.method.kind} if broken else None


def answers_are_split(config: RunConfig) -> Values | None:
    return {"method": config.method.kind} if isinstance(config.method, Online) and config.optim.in_backward else None


def critic_of_its_own(config: RunConfig) -> Values | None:
    separate = getattr(config.method, "critic", "") == "separate"
    return {"kind": config.tune.kind} if separate and not isinstance(config.tune, Lora) else None


def kl_is_off(config: RunConfig) -> Values | None:
    method = config.method
    if not isinstance(method, Online) or method.kl > 0:
        return None
    keys = [key for key in ("kl_estimator", "kl_target", "kl_horizon") if key in type(method).model_fields]
    found = changed(method, *keys)
    return {"fields": ", ".join(f"method.{key}" for key in found)} if found else None


def validation_share(config: RunConfig) -> Values | None:
    share = config.data.validation
    return {} if isinstance(share, float) and not 0 <= share < MAX_VALIDATION_SHARE else None


def validation_in_train(config: RunConfig) -> Values | None:
    trained = {_rows_of(source) for source in config.data.train}
    both = [each.path for each in sources(config.data.validation) if _rows_of(each) in trained]
    return {"value": ", ".join(both)} if both else None


def _rows_of(source: Source) -> tuple[str, str | None, str, str | None]:
    """What two sources have in common that give the same rows."""
    return posixpath.normpath(source.path), source.subset, source.split, source.revision


def validation_weight(config: RunConfig) -> Values | None:
    weighted = [each.path for each in sources(config.data.validation) if each.weight != 1]
    return {"value": ", ".join(weighted)} if weighted else None


def source_of_hub(config: RunConfig) -> Values | None:
    all_sources = (*config.data.train, *sources(config.data.validation))
    found = {
        key: each.path
        for each in all_sources
        if not each.path.startswith("hub:")
        for key in changed(each, "subset", "split", "revision")
    }
    return {"value": ", ".join(dict.fromkeys(found.values())), "fields": ", ".join(found)} if found else None


def nothing_to_validate(config: RunConfig) -> Values | None:
    return {} if config.data.validation == 0 and config.run.validate_every is not None else None


def samples_of_nothing(config: RunConfig) -> Values | None:
    return {} if config.data.validation == 0 and config.run.samples else None


def samples_of_scores(config: RunConfig) -> Values | None:
    return {} if isinstance(config.method, Reward) and config.run.samples else None


def sample_tokens_unused(config: RunConfig) -> Values | None:
    return {} if changed(config.run, "sample_tokens") and not config.run.samples else None


def sample_tokens_of_answers(config: RunConfig) -> Values | None:
    given = config.run.samples and changed(config.run, "sample_tokens")
    return {"method": config.method.kind} if given and isinstance(config.method, Online) else None


def from_settles_shape(config: RunConfig) -> Values | None:
    tune = config.tune
    if not isinstance(tune, Lora) or tune.from_ is None:
        return None
    given = [key for key in ADAPTER_SHAPE if key in tune.model_fields_set]
    return {"value": tune.from_, "fields": ", ".join(f"tune.{key}" for key in given)} if given else None


def saved_and_adapted(config: RunConfig) -> Values | None:
    tune = config.tune
    if not isinstance(tune, Lora) or tune.targets == "all-linear":
        return None
    both = {name.rpartition(".")[2] for name in tune.targets} & {
        name.rpartition(".")[2] for name in tune.modules_to_save
    }
    return {"value": ", ".join(sorted(both))} if both else None


def double_quant_of_int8(config: RunConfig) -> Values | None:
    tune = config.tune
    return {} if isinstance(tune, Qlora) and tune.base == "int8" and changed(tune, "double_quant") else None


def new_tokens_and_saved(config: RunConfig) -> Values | None:
    if not config.data.new_tokens or not isinstance(config.tune, Lora):
        return None
    whole = [name for name in config.tune.modules_to_save if name.rpartition(".")[2] in ("embed_tokens", "lm_head")]
    return {"modules": ", ".join(whole)} if whole else None


def new_tokens_frozen(config: RunConfig) -> Values | None:
    return {} if config.data.new_tokens and config.tune.kind == "freeze" else None


def steps_or_epochs(config: RunConfig) -> Values | None:
    optim = config.optim
    return {"steps": optim.steps} if optim.steps is not None and "epochs" in optim.model_fields_set else None


def sgd_has_no_moments(config: RunConfig) -> Values | None:
    found = changed(config.optim, "betas", "eps")
    return {"fields": ", ".join(f"optim.{key}" for key in found)} if config.optim.kind == "sgd" and found else None


def sgd_needs_rate(config: RunConfig) -> Values | None:
    return {} if config.optim.kind == "sgd" and config.optim.lr is None else None


def momentum_is_of_sgd(config: RunConfig) -> Values | None:
    return {} if config.optim.kind != "sgd" and config.optim.momentum > 0 else None


def compact_is_of_adamw(config: RunConfig) -> Values | None:
    found = changed(config.optim, "weights", "states", "paged")
    return {"fields": ", ".join(f"optim.{key}" for key in found)} if config.optim.kind != "adamw" and found else None


def adapters_stay_float32(config: RunConfig) -> Values | None:
    return {} if isinstance(config.tune, Lora) and changed(config.optim, "weights") else None


def bfloat16_computes_in_it(config: RunConfig) -> Values | None:
    other = config.model.dtype not in ("auto", "bfloat16")
    return {"dtype": config.model.dtype} if other and changed(config.optim, "weights") else None


def in_backward_of_adapters(config: RunConfig) -> Values | None:
    return {} if config.optim.in_backward and isinstance(config.tune, Lora) else None


def in_backward_unclipped(config: RunConfig) -> Values | None:
    clip = config.optim.clip
    return {"clip": f"{clip:g}"} if config.optim.in_backward and clip > 0 else None


def in_backward_unscaled(config: RunConfig) -> Values | None:
    return {} if config.optim.in_backward and config.model.dtype == "float16" else None


def in_backward_alone(config: RunConfig) -> Values | None:
    devices = config.run.devices
    return {} if config.optim.in_backward and devices not in ("auto", 1) else None


def devices_without_examples(config: RunConfig) -> Values | None:
    devices, batch = config.run.devices, config.optim.batch
    return {"batch": batch} if devices != "auto" and devices > batch else None


def power_is_of_polynomial(config: RunConfig) -> Values | None:
    optim = config.optim
    return {"schedule": optim.schedule} if optim.schedule != "polynomial" and changed(optim, "power") else None


def constant_has_no_floor(config: RunConfig) -> Values | None:
    return {} if config.optim.schedule == "constant" and config.optim.min_lr_ratio > 0 else None


def warmup_never_ends(config: RunConfig) -> Values | None:
    steps, warmup = config.optim.steps, config.optim.warmup
    return {"steps": steps} if steps is not None and warmup >= 1 and warmup >= steps else None


def budget_below_row(config: RunConfig) -> Values | None:
    budget, longest = config.optim.budget_tokens, config.data.max_tokens
    return {"max_tokens": longest} if budget is not None and budget < longest else None


# ---------------------------------------------------------------------------------------------------- the table

RULES: dict[str, Rule] = {
    "random_needs_full": Rule(("tune.kind", "model.init"), random_needs_full),
    "float16_on_cpu": Rule(("model.dtype", "run.device"), float16_on_cpu),
    "revision_of_folder": Rule(("model.revision", "model.path"), revision_of_folder),
    "sft_on_text": Rule(("data.format", "data.train", "method.kind"), sft_on_text),
    "distill_new_tokens": Rule(("data.new_tokens", "method.teacher"), distill_new_tokens),
    "pretrain_on_chat": Rule(("data.format", "data.train", "method.kind"), pretrain_on_chat),
    "pretrain_without_chat": Rule(
        ("data.template", "data.system", "data.stop_token", "method.kind"), pretrain_without_chat
    ),
    "pretrain_chunks": Rule(("data.too_long", "method.kind"), pretrain_chunks),
    "smoothing_without_two_ways": Rule(("method.label_smoothing", "method.loss"), smoothing_without_two_ways),
    "robust_needs_share": Rule(("method.loss", "method.label_smoothing"), robust_needs_share),
    "ipo_is_by_means": Rule(("method.length_normalised", "method.loss"), ipo_is_by_means),
    "own_loss_has_no_options": Rule(("method.label_smoothing", "method.gamma", "method.loss"), own_loss_has_no_options),
    "rewards_and_weights": Rule(("method.reward_weights", "method.rewards"), rewards_and_weights),
    "answers_without_dropout": Rule(("tune.dropout", "method.kind"), answers_without_dropout),
    "answers_alone": Rule(("run.devices", "method.kind"), answers_alone),
    "answers_are_split": Rule(("optim.in_backward", "method.kind"), answers_are_split),
    "critic_of_its_own": Rule(("method.critic", "tune.kind"), critic_of_its_own),
    "kl_is_off": Rule(("method.kl_estimator", "method.kl_target", "method.kl_horizon", "method.kl"), kl_is_off),
    "validation_share": Rule(("data.validation",), validation_share),
    "validation_in_train": Rule(("data.validation", "data.train"), validation_in_train),
    "source_of_hub": Rule(("data.train", "data.validation"), source_of_hub),
    "validation_weight": Rule(("data.validation",), validation_weight),
    "nothing_to_validate": Rule(("run.validate_every", "data.validation"), nothing_to_validate),
    "samples_of_nothing": Rule(("run.samples", "data.validation"), samples_of_nothing),
    "samples_of_scores": Rule(("run.samples", "method.kind"), samples_of_scores),
    "sample_tokens_unused": Rule(("run.sample_tokens", "run.samples"), sample_tokens_unused),
    "sample_tokens_of_answers": Rule(("run.sample_tokens", "method.kind"), sample_tokens_of_answers),
    "from_settles_shape": Rule(("tune.from", *(f"tune.{key}" for key in ADAPTER_SHAPE)), from_settles_shape),
    "saved_and_adapted": Rule(("tune.modules_to_save", "tune.targets"), saved_and_adapted),
    "double_quant_of_int8": Rule(("tune.double_quant", "tune.base"), double_quant_of_int8),
    "new_tokens_and_saved": Rule(("data.new_tokens", "tune.modules_to_save"), new_tokens_and_saved),
    "new_tokens_frozen": Rule(("data.new_tokens", "tune.kind"), new_tokens_frozen),
    "steps_or_epochs": Rule(("optim.epochs", "optim.steps"), steps_or_epochs),
    "sgd_has_no_moments": Rule(("optim.betas", "optim.eps", "optim.kind"), sgd_has_no_moments),
    "sgd_needs_rate": Rule(("optim.kind", "optim.lr"), sgd_needs_rate),
    "momentum_is_of_sgd": Rule(("optim.momentum", "optim.kind"), momentum_is_of_sgd),
    "compact_is_of_adamw": Rule(("optim.weights", "optim.states", "optim.paged", "optim.kind"), compact_is_of_adamw),
    "adapters_stay_float32": Rule(("optim.weights", "tune.kind"), adapters_stay_float32),
    "bfloat16_computes_in_it": Rule(("optim.weights", "model.dtype"), bfloat16_computes_in_it),
    "in_backward_of_adapters": Rule(("optim.in_backward", "tune.kind"), in_backward_of_adapters),
    "in_backward_unclipped": Rule(("optim.in_backward", "optim.clip"), in_backward_unclipped),
    "in_backward_unscaled": Rule(("optim.in_backward", "model.dtype"), in_backward_unscaled),
    "in_backward_alone": Rule(("optim.in_backward", "run.devices"), in_backward_alone),
    "devices_without_examples": Rule(("run.devices", "optim.batch"), devices_without_examples),
    "power_is_of_polynomial": Rule(("optim.power", "optim.schedule"), power_is_of_polynomial),
    "constant_has_no_floor": Rule(("optim.min_lr_ratio", "optim.schedule"), constant_has_no_floor),
    "warmup_never_ends": Rule(("optim.warmup", "optim.steps"), warmup_never_ends),
    "budget_below_row": Rule(("optim.budget_tokens", "data.max_tokens"), budget_below_row),
}
"""Message id below `config.` -> rule."""
