"""What LLaMA-Factory and axolotl have in common: the settings of the trainer that both are built on.

What goes in: a draft. What comes out: its fields `optim.*`, `run.*` and `model.dtype`. Where several keys make one
field there is a function; where one key makes one, a line of `TRANSLATED`; what has no equal has a line of `REASONS`.
Imports no torch.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from luthier.importing.draft import Draft, Reasons, Translated, names, number, positive, switch, text, whole
from luthier.text import say

TRANSLATED: Translated = {
    "learning_rate": ("optim.lr", number),
    "weight_decay": ("optim.weight_decay", number),
    "adam_epsilon": ("optim.eps", number),
    "max_grad_norm": ("optim.clip", number),
    "seed": ("run.seed", whole),
    "logging_steps": ("run.log_every", positive),
    "save_steps": ("run.save_every", positive),
    "save_total_limit": ("run.keep", positive),
}
"""Their key -> (our field, conversion)."""

OPTIMIZERS: dict[str, str] = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_torch_4bit": "adamw",
    "adamw_torch_8bit": "adamw",
    "adamw_8bit": "adamw",
    "adamw_bnb_8bit": "adamw",
    "paged_adamw": "adamw",
    "paged_adamw_32bit": "adamw",
    "paged_adamw_8bit": "adamw",
    "sgd": "sgd",
}
SCHEDULES: dict[str, str] = {
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_min_lr": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "inverse_sqrt": "inverse_sqrt",
    "polynomial": "polynomial",
}
TRACKERS = ("tensorboard", "wandb", "swanlab")

REASONS: Reasons = {
    "accelerator_config": ("not needed", "devices"),
    "auto_find_batch_size": ("not needed", "memory"),
    "data_seed": ("not needed", "one_seed"),
    "dataloader_drop_last": ("not yet", "drop_last"),
    "dataloader_num_workers": ("not needed", "workers"),
    "dataloader_pin_memory": ("not needed", "workers"),
    "dataloader_prefetch_factor": ("not needed", "workers"),
    "ddp": ("not yet", "several_devices"),
    "ddp_find_unused_parameters": ("not needed", "devices"),
    "ddp_timeout": ("not needed", "devices"),
    "deepspeed": ("not yet", "several_devices"),
    "device_map": ("not needed", "devices"),
    "do_eval": ("not needed", "validation"),
    "early_stopping_patience": ("not yet", "early_stop"),
    "eval_accumulation_steps": ("not needed", "memory"),
    "eval_delay": ("not needed", "validation"),
    "eval_on_start": ("not needed", "validation"),
    "evaluation_strategy": ("not needed", "validation"),
    "eval_strategy": ("not needed", "validation"),
    "fp8": ("not yet", "quantised"),
    "fsdp": ("not yet", "several_devices"),
    "fsdp_config": ("not yet", "several_devices"),
    "fsdp_version": ("not yet", "several_devices"),
    "full_determinism": ("not needed", "always"),
    "gradient_checkpointing": ("not needed", "memory"),
    "gradient_checkpointing_kwargs": ("not needed", "memory"),
    "greater_is_better": ("not needed", "best"),
    "group_by_length": ("not needed", "packing"),
    "hf_hub_token": ("not needed", "secrets"),
    "hub_model_id": ("not yet", "push"),
    "hub_strategy": ("not yet", "push"),
    "hub_private_repo": ("not yet", "push"),
    "hub_token": ("not needed", "secrets"),
    "include_num_input_tokens_seen": ("not needed", "events"),
    "include_tokens_per_second": ("not needed", "events"),
    "label_smoothing_factor": ("not yet", "loss"),
    "load_best_model_at_end": ("not needed", "best"),
    "local_rank": ("not needed", "devices"),
    "log_level": ("not needed", "events"),
    "logging_dir": ("not needed", "events"),
    "logging_first_step": ("not needed", "events"),
    "logging_strategy": ("not needed", "events"),
    "low_cpu_mem_usage": ("not needed", "memory"),
    "loraplus_lr_embedding": ("not yet", "adapter"),
    "loraplus_lr_ratio": ("not yet", "adapter"),
    "metric_for_best_model": ("not needed", "best"),
    "neftune_noise_alpha": ("not yet", "noise"),
    "optim_args": ("not yet", "optimizer"),
    "optim_target_modules": ("not yet", "optimizer"),
    "push_to_hub": ("not yet", "push"),
    "ray_num_workers": ("not yet", "several_devices"),
    "remove_unused_columns": ("not needed", "always"),
    "resume_from_checkpoint": ("not needed", "resume"),
    "save_on_each_node": ("not needed", "devices"),
    "save_only_model": ("not needed", "resume"),
    "save_safetensors": ("not needed", "always"),
    "save_strategy": ("not needed", "saving"),
    "skip_memory_metrics": ("not needed", "events"),
    "tf32": ("not needed", "kernels"),
    "torch_compile": ("not needed", "kernels"),
    "torch_compile_backend": ("not needed", "kernels"),
    "torch_compile_mode": ("not needed", "kernels"),
    "torch_empty_cache_steps": ("not needed", "memory"),
    "trust_remote_code": ("not needed", "no_code"),
}
"""Their key -> (what becomes of it, message below `importing.why.`)."""


def token_limit(value: Any) -> int:
    """Tokens of a row; the recipe allows no fewer than 8."""
    return max(positive(value), 8)


def batch(draft: Draft, per_device_key: str, devices: int) -> None:
    """Examples per update: per device x accumulation x devices."""
    per_device, accumulated = (draft.take(key, positive) for key in (per_device_key, "gradient_accumulation_steps"))
    draft.put("optim.batch", per_device * accumulated * devices, per_device_key, "gradient_accumulation_steps")


def length(draft: Draft, epochs_key: str) -> None:
    """Steps take the place of epochs where they are set."""
    epochs, steps = draft.take(epochs_key, number), draft.take("max_steps", whole)
    if steps is not None and steps > 0:
        draft.put("optim.steps", steps, "max_steps")
        if draft.has(epochs_key):
            draft.note(epochs_key, "not needed", "steps_rule")
    else:
        draft.put("optim.epochs", epochs, epochs_key)


def optimizer(draft: Draft, key: str) -> None:
    given = draft.take(key, text)
    kind = OPTIMIZERS.get(given)
    first, second = draft.take("adam_beta1", number), draft.take("adam_beta2", number)
    if kind is None:
        draft.note(key, "not yet", "optimizer")
    else:
        draft.put("optim.kind", kind, key)
        if "8bit" in given or "4bit" in given:
            draft.put("optim.states", "8bit", key)
        if "paged" in given:
            draft.put("optim.paged", True, key)
        if "4bit" in given:
            draft.note(key, "changed", "states")
    if kind != "sgd" and (first, second) != (None, None):
        betas = [0.9 if first is None else first, 0.999 if second is None else second]
        draft.put("optim.betas", betas, "adam_beta1", "adam_beta2")


def schedule(draft: Draft, key: str) -> None:
    """Schedule, warm-up and where it ends."""
    given = draft.take(key, text)
    kind = SCHEDULES.get(given)
    if kind is None:
        draft.note(key, "not yet", "schedule")
    else:
        draft.put("optim.schedule", kind, key)
    steps, ratio = draft.take("warmup_steps", number), draft.take("warmup_ratio", number)
    by_steps = bool(steps) or not draft.has("warmup_ratio")
    name, value = ("warmup_steps", steps) if by_steps and steps is not None else ("warmup_ratio", ratio)
    if given == "constant":
        for each in ("warmup_steps", "warmup_ratio"):
            if draft.has(each):
                draft.note(each, "not needed", "constant_warmup")
        value = 0.0
    if value is not None:
        draft.put("optim.warmup", value, name)
    _schedule_arguments(draft, given)


def _schedule_arguments(draft: Draft, given: str) -> None:
    arguments = draft.take("lr_scheduler_kwargs") or {}
    if not isinstance(arguments, dict):
        draft.note("lr_scheduler_kwargs", "unknown", "value")
        return
    peak = draft.given.get("learning_rate")
    if given == "polynomial":
        draft.put("optim.power", arguments.get("power", 1.0), "lr_scheduler_kwargs")
    for name, value in arguments.items():
        if name == "min_lr_rate":
            draft.put("optim.min_lr_ratio", value, "lr_scheduler_kwargs")
        elif name == "min_lr" and isinstance(value, (int, float)) and isinstance(peak, (int, float)) and peak > 0:
            draft.put("optim.min_lr_ratio", value / peak, "lr_scheduler_kwargs")
        elif (given, name) != ("polynomial", "power"):
            draft.note(f"lr_scheduler_kwargs.{name}", "not yet", "schedule", value)


def new_tokens(draft: Draft, *keys: str) -> None:
    """Tokens to add: only their rows train, so that embedding and head need not be saved whole for their sake."""
    added = [token for key in keys for token in draft.take(key, names) or []]
    if not added:
        return
    draft.put("data.new_tokens", list(dict.fromkeys(added)), *keys)
    saved = draft.settings.get("tune.modules_to_save", [])
    rest = [name for name in saved if name.rpartition(".")[2] not in ("embed_tokens", "lm_head")]
    if rest != saved:
        (key,) = draft.origin["tune.modules_to_save"]
        draft.note(key, "changed", "rows_only")
        draft.settings["tune.modules_to_save"] = rest
    if draft.settings.get("tune.kind") == "freeze":
        draft.refuse("data.new_tokens", say("config.new_tokens_frozen.rule"))


def precision(draft: Draft, half: tuple[str, ...] = ("fp16",), brain: tuple[str, ...] = ("bf16",)) -> None:
    """`model.dtype` from the switches that are on; automatic where none is."""
    for keys, dtype in ((brain, "bfloat16"), (half, "float16")):
        for key in keys:
            value = draft.take(key)
            if value == "auto":
                draft.put("model.dtype", value, key)
            elif value is not None and draft.take(key, switch):
                draft.put("model.dtype", dtype, key)


def output(draft: Draft) -> None:
    """The folder's last part names the run; what stands before it is the folder of runs."""
    folder = draft.take("output_dir", text)
    path = PurePosixPath(folder) if folder else None
    if path is not None and path.name not in ("", ".", ".."):
        draft.put("run.dir", str(path.parent), "output_dir")
        draft.put("run.name", path.name, "output_dir")
    elif path is not None:
        draft.note("output_dir", "unknown", "value")


def evaluation(draft: Draft, share: Any, key: str) -> None:
    """A held-out share of the rows, and how often it is looked at."""
    every = draft.take("eval_steps", positive)
    share = 0.0 if share is None else share
    if share >= 1:
        draft.note(key, "not yet", "share_of_rows")
        return
    draft.put("data.validation", share, key)
    if every is not None and share > 0:
        draft.put("run.validate_every", every, "eval_steps")
    elif draft.has("eval_steps"):
        draft.note("eval_steps", "not needed", "nothing_held_out")


def four_bit(draft: Draft, base: str, kind_key: str, double_key: str) -> None:
    """The kind of 4 bits, and whether their scales are quantised, which both say no more where the base is in 8."""
    if base != "nf4":
        draft.leave((kind_key, double_key), "other_kind", tuning=base)
        return
    if draft.take(kind_key, text) not in (None, "nf4"):
        draft.note(kind_key, "changed", "only_nf4")
    elif draft.has(kind_key):
        draft.use(kind_key)
    if draft.has(double_key):
        draft.put("tune.double_quant", draft.take(double_key, switch), double_key)


def reports(draft: Draft, key: str = "report_to") -> list[str]:
    """Trackers asked for by name."""
    given = draft.take(key)
    if given in (None, "none", "None", []):
        return []
    chosen = list(TRACKERS) if given == "all" else draft.take(key, names) or []
    for name in chosen:
        if name not in (*TRACKERS, "none"):
            draft.note(key, "not yet", "tracker")
    return [name for name in chosen if name in TRACKERS]
