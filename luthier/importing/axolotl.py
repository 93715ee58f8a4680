"""An axolotl recipe, key by key.

What goes in: the settings of an axolotl YAML file. What comes out: a draft of the same training. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.importing import axolotl_data, trainer
from luthier.importing.draft import (
    Draft,
    Reasons,
    Translated,
    names,
    number,
    numbers,
    one_of,
    only,
    positive,
    section,
    switch,
    text,
    whole,
    word,
)

NAME = "axolotl"
MODEL_KEY = "base_model"
DATA_KEY = "datasets"
PRETRAIN_KEY = "pretraining_dataset"
BATCH_KEY = "micro_batch_size"

DEFAULTS: dict[str, Any] = {
    "sequence_len": 512,
    "val_set_size": 0.0,
    BATCH_KEY: 1,
    "gradient_accumulation_steps": 1,
    "num_epochs": 1.0,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "cosine",
    "seed": 42,
}
"""Their values where the file says nothing and ours would be another."""


def _start(value: Any) -> str:
    return "random" if switch(value) else "pretrained"


def _layers(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(value)
    return [whole(each) for each in value]


TRANSLATED: Translated = {
    **trainer.TRANSLATED,
    "base_model": ("model.path", text),
    "revision_of_model": ("model.revision", text),
    "sequence_len": ("data.max_tokens", trainer.token_limit),
    "reinit_weights": ("model.init", _start),
}
LORA: Translated = {
    "lora_r": ("tune.rank", whole),
    "lora_alpha": ("tune.alpha", number),
    "lora_dropout": ("tune.dropout", number),
    "peft_use_rslora": ("tune.rslora", switch),
    "lora_modules_to_save": ("tune.modules_to_save", names),
    "peft_layers_to_transform": ("tune.layers", _layers),
}
ADAPTERS: dict[str, str] = {"lora": "lora", "qlora": "lora"}
BITS = ("load_in_8bit", "load_in_4bit")

RL: dict[str, str] = {"dpo": "dpo", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "kto": "kto", "grpo": "grpo"}
"""`rl` -> our method."""
ROWS: dict[str, str] = {
    **dict.fromkeys(("dpo", "ipo", "orpo", "simpo", "reward"), "pair"),
    "kto": "label",
    "grpo": "prompt",
}
"""Our method -> the kind of rows that it learns from; others learn from answers."""
BETAS = ("rl_beta", "orpo_alpha")
"""Keys of the weight that `trl.beta` goes before, in the order in which they count."""
BETA = 0.1
"""Their weight where the file says nothing."""
METHODS: dict[str, Translated] = {
    "dpo": {
        "rpo_alpha": ("method.sft_weight", number),
        "dpo_label_smoothing": ("method.label_smoothing", number),
        "dpo_norm_loss": ("method.length_normalised", switch),
        "dpo_loss_type": ("method.loss", only),
    },
    "simpo": {"simpo_gamma": ("method.gamma", number), "cpo_alpha": ("method.sft_weight", number)},
    "kto": {
        "kto_desirable_weight": ("method.wanted_weight", number),
        "kto_undesirable_weight": ("method.unwanted_weight", number),
    },
    "reward": {"center_rewards_coefficient": ("method.centre", number)},
}
"""Our method -> the keys that only it has."""
SCALES: dict[Any, str] = {True: "group", False: "none", "group": "group", "batch": "batch", "none": "none"}
WEIGHTINGS = {"grpo": "sequence", "bnpo": "token", "dapo": "token", "dr_grpo": "constant"}
TRL: Translated = {
    "num_generations": ("method.samples", positive),
    "max_completion_length": ("method.max_new_tokens", positive),
    "num_iterations": ("method.updates", positive),
    "epsilon": ("method.clip", number),
    "epsilon_high": ("method.clip_high", number),
    "reward_weights": ("method.reward_weights", numbers),
    "scale_rewards": ("method.scale", one_of(SCALES)),
    "loss_type": ("method.weighting", one_of(WEIGHTINGS)),
    "importance_sampling_level": ("method.ratio", text),
}
"""Keys of the section `trl` that `rl: grpo` has."""
SAMPLES = 8
"""Their answers to each prompt where the file says nothing."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "repetition_penalty": (1,),
}
"""Keys of sampling -> the values that leave the policy's own distribution as it is."""
TRL_REASONS: Reasons = {
    "generation_kwargs": ("not yet", "sampling"),
    "log_completions": ("not needed", "events"),
    "mask_truncated_completions": ("not yet", "preference"),
    "multi_objective_aggregation": ("not yet", "preference"),
    "num_completions_to_print": ("not needed", "events"),
    "ref_model_mixup_alpha": ("not yet", "reference"),
    "ref_model_sync_steps": ("not yet", "reference"),
    "rollout_func": ("not yet", "preference"),
    "sync_ref_model": ("not yet", "reference"),
    "use_liger_loss": ("not needed", "kernels"),
    "use_vllm": ("not needed", "sampler"),
}
TOO_LONG: dict[str, str] = {"drop": "drop", "truncate": "truncate", "raise": "stop"}
TEMPLATES: dict[str, str] = {"tokenizer_default": "model", "alpaca": "alpaca", "chatml": "chatml"}
"""Templates that render the same here; any other is the model's own."""

REASONS: Reasons = {
    **trainer.REASONS,
    "activation_offloading": ("not needed", "memory"),
    "axolotl_config_path": ("not needed", "always"),
    "base_model_config": ("not needed", "family"),
    "base_model_ignore_patterns": ("not needed", "cache"),
    "batch_flattening": ("not needed", "packing"),
    "bench_dataset": ("not yet", "generated"),
    "chunked_cross_entropy": ("not needed", "memory"),
    "cloud": ("not yet", "several_devices"),
    "comet_project_name": ("not yet", "tracker"),
    "context_parallel_size": ("not yet", "several_devices"),
    "cosine_constant_lr_ratio": ("not yet", "schedule"),
    "curriculum_sampling": ("not yet", "order"),
    "cut_cross_entropy": ("not needed", "memory"),
    "dataset_exact_deduplication": ("not yet", "duplicates"),
    "dataset_keep_in_memory": ("not needed", "workers"),
    "dataset_num_proc": ("not needed", "workers"),
    "dataset_prepared_path": ("not needed", "cache"),
    "dataset_processes": ("not needed", "workers"),
    "debug": ("not needed", "events"),
    "do_bench_eval": ("not yet", "generated"),
    "do_causal_lm_eval": ("not yet", "generated"),
    "dpo_generate_during_eval": ("not yet", "generated"),
    "dpo_loss_weights": ("not yet", "preference"),
    "dpo_padding_free": ("not needed", "packing"),
    "dpo_use_logits_to_keep": ("not needed", "kernels"),
    "dpo_use_weighting": ("not yet", "preference"),
    "eager_attention": ("not needed", "kernels"),
    "embedding_lr": ("not yet", "optimizer"),
    "embedding_lr_scale": ("not yet", "optimizer"),
    "eot_tokens": ("not needed", "stop_token"),
    "eval_batch_size": ("not needed", "memory"),
    "eval_causal_lm_metrics": ("not yet", "generated"),
    "eval_max_new_tokens": ("not yet", "generated"),
    "eval_sample_packing": ("not needed", "packing"),
    "eval_table_max_new_tokens": ("not yet", "generated"),
    "eval_table_size": ("not yet", "generated"),
    "evals_per_epoch": ("not needed", "validation"),
    "experimental_skip_move_to_device": ("not needed", "memory"),
    "fix_untrained_tokens": ("not needed", "untrained"),
    "flash_attention": ("not needed", "kernels"),
    "attn_implementation": ("not needed", "kernels"),
    "flash_attn_cross_entropy": ("not needed", "kernels"),
    "flash_attn_fuse_mlp": ("not needed", "kernels"),
    "flash_attn_fuse_qkv": ("not needed", "kernels"),
    "flash_attn_rms_norm": ("not needed", "kernels"),
    "flex_attention": ("not needed", "kernels"),
    "gc_steps": ("not needed", "memory"),
    "gptq": ("not yet", "quantised"),
    "gpu_memory_limit": ("not needed", "memory"),
    "heads_k_stride": ("not yet", "several_devices"),
    "hf_use_auth_token": ("not needed", "secrets"),
    "include_tkps": ("not needed", "events"),
    "is_falcon_derived_model": ("not needed", "family"),
    "is_llama_derived_model": ("not needed", "family"),
    "is_mistral_derived_model": ("not needed", "family"),
    "is_qwen_derived_model": ("not needed", "family"),
    "liger_cross_entropy": ("not needed", "kernels"),
    "liger_fused_linear_cross_entropy": ("not needed", "kernels"),
    "liger_glu_activation": ("not needed", "kernels"),
    "liger_layer_norm": ("not needed", "kernels"),
    "liger_rms_norm": ("not needed", "kernels"),
    "liger_rope": ("not needed", "kernels"),
    "lisa_n_layers": ("not yet", "optimizer"),
    "llama4_linearized_experts": ("not yet", "architecture"),
    "lora_fan_in_fan_out": ("not needed", "family"),
    "lora_mlp_kernel": ("not needed", "kernels"),
    "lora_o_kernel": ("not needed", "kernels"),
    "lora_on_cpu": ("not needed", "memory"),
    "lora_qkv_kernel": ("not needed", "kernels"),
    "lora_target_parameters": ("not yet", "adapter"),
    "loss_watchdog_patience": ("not needed", "watchdog"),
    "loss_watchdog_threshold": ("not needed", "watchdog"),
    "lr_groups": ("not yet", "optimizer"),
    "max_memory": ("not needed", "memory"),
    "max_prompt_len": ("not yet", "prompt_length"),
    "mean_resizing_embeddings": ("not needed", "mean_rows"),
    "min_sample_len": ("not yet", "data_part"),
    "mlflow_experiment_name": ("not yet", "tracker"),
    "mlflow_tracking_uri": ("not yet", "tracker"),
    "model_config": ("not yet", "architecture"),
    "model_type": ("not needed", "family"),
    "multipack_real_batches": ("not needed", "packing"),
    "num_labels": ("not needed", "always"),
    "output_router_logits": ("not yet", "architecture"),
    "overrides_of_model_config": ("not yet", "architecture"),
    "pad_to_sequence_len": ("not needed", "packing"),
    "peft": ("not yet", "adapter"),
    "peft_init_lora_weights": ("not yet", "adapter"),
    "peft_layers_pattern": ("not yet", "adapter"),
    "peft_trainable_token_indices": ("not yet", "old_rows"),
    "peft_use_dora": ("not yet", "adapter"),
    "plugins": ("not yet", "plugins"),
    "pretraining_sample_concatenation": ("not needed", "always"),
    "precompute_ref_log_probs": ("not needed", "always"),
    "processor_type": ("not yet", "media"),
    "profiler_steps": ("not needed", "events"),
    "push_dataset_to_hub": ("not yet", "push"),
    "qat": ("not yet", "quantised"),
    "qlora_sharded_model_loading": ("not yet", "several_devices"),
    "relora": ("not yet", "adapter"),
    "relora_steps": ("not yet", "adapter"),
    "relora_warmup_steps": ("not yet", "adapter"),
    "relora_cpu_offload": ("not yet", "adapter"),
    "resize_token_embeddings_to_32x": ("not needed", "resized"),
    "rope_scaling": ("not yet", "architecture"),
    "s2_attention": ("not yet", "architecture"),
    "sample_packing": ("not needed", "packing"),
    "sample_packing_bin_size": ("not needed", "packing"),
    "sample_packing_eff_est": ("not needed", "packing"),
    "sample_packing_group_size": ("not needed", "packing"),
    "sample_packing_sequentially": ("not needed", "packing"),
    "save_first_step": ("not needed", "saving"),
    "saves_per_epoch": ("not needed", "saving"),
    "scaling_softmax": ("not yet", "architecture"),
    "sdp_attention": ("not needed", "kernels"),
    "sequence_parallel_degree": ("not yet", "several_devices"),
    "shuffle_merged_datasets": ("not needed", "always"),
    "skip_prepare_dataset": ("not needed", "cache"),
    "strict": ("not needed", "always"),
    "tensor_parallel_size": ("not yet", "several_devices"),
    "tiled_mlp": ("not needed", "memory"),
    "tokenizer_config": ("not yet", "other_tokenizer"),
    "tokenizer_legacy": ("not needed", "family"),
    "tokenizer_save_jinja_files": ("not needed", "always"),
    "tokenizer_type": ("not needed", "family"),
    "tokenizer_use_fast": ("not needed", "always"),
    "train_on_inputs": ("not yet", "loss_on_prompt"),
    "unfrozen_parameters": ("not yet", "frozen_parts"),
    "unsloth_lora_mlp": ("not needed", "kernels"),
    "unsloth_lora_o": ("not needed", "kernels"),
    "unsloth_lora_qkv": ("not needed", "kernels"),
    "use_mlflow": ("not yet", "tracker"),
    "use_pose": ("not yet", "architecture"),
    "vllm": ("not needed", "sampler"),
    "wandb_entity": ("not yet", "tracker_names"),
    "wandb_log_model": ("not yet", "tracker_names"),
    "wandb_mode": ("not yet", "tracker_names"),
    "wandb_name": ("not yet", "tracker_names"),
    "wandb_project": ("not yet", "tracker_names"),
    "wandb_run_id": ("not yet", "tracker_names"),
    "wandb_watch": ("not yet", "tracker_names"),
    "xformers_attention": ("not needed", "kernels"),
}


def translate(given: Mapping[str, Any], devices: int) -> Draft:
    """Args:
    devices: how many devices the recipe was meant for.
    """
    draft = Draft(given, DEFAULTS)
    draft.translate(TRANSLATED)
    kind = _method(draft)
    _data(draft, kind)
    _tune(draft)
    trainer.new_tokens(draft, "tokens")
    trainer.optimizer(draft, "optimizer")
    _batch(draft, devices, kind)
    trainer.length(draft, "num_epochs")
    trainer.schedule(draft, "lr_scheduler")
    if draft.has("cosine_min_lr_ratio"):
        draft.translate({"cosine_min_lr_ratio": ("optim.min_lr_ratio", number)})
    trainer.precision(draft, half=("fp16", "float16"), brain=("bf16", "bfloat16"))
    trainer.output(draft)
    _reports(draft)
    draft.explain(REASONS)
    return draft


def _batch(draft: Draft, devices: int, kind: str) -> None:
    """`batch_size`, where it is given, is that of one device with accumulation. Theirs counts answers, ours prompts."""
    whole_batch = draft.take("batch_size", positive)
    if whole_batch is None:
        trainer.batch(draft, BATCH_KEY, devices)
    else:
        draft.put("optim.batch", whole_batch * devices, "batch_size")
        for key in (BATCH_KEY, "gradient_accumulation_steps"):
            if draft.has(key):
                draft.note(key, "not needed", "memory")
    if kind == "grpo":
        samples = draft.settings["method.samples"]
        draft.settings["optim.batch"] = max(draft.settings["optim.batch"] // samples, 1)
        draft.note(draft.origin["optim.batch"][0], "changed", "batch_of_prompts", samples=samples)


# ---------------------------------------------------------------------------------------------------- method


def _method(draft: Draft) -> str:
    """Our kind of method; empty where the data sets decide, or it is none of ours."""
    asked = draft.take("rl", word)
    process, reward = (draft.take(key, switch) for key in ("process_reward_model", "reward_model"))
    kind = RL.get(asked or "", "") if asked else "reward" if reward else ""
    if asked and not kind:
        draft.miss("rl", "stage", stage=asked)
    elif process:
        draft.miss("process_reward_model", "stage", stage="process_reward_model")
        kind = ""
    trl = draft.part(draft.take("trl", section) or {}, "trl")
    functions = trl.take("reward_funcs", names) if kind == "grpo" else []
    if kind == "grpo" and not functions:
        draft.miss("rl", "no_rewards")
        kind = ""
    if kind:
        draft.put("method.kind", kind, "rl" if asked else "reward_model")
        _weights(draft, trl, kind)
    if kind == "grpo":
        _answers(trl, [_reward(each) for each in functions])
    for name, value in trl.settings.items():
        draft.put(name, value, "trl")
    shown = kind or "sft"
    trl.leave((*TRL, "beta", "reward_funcs", *NEUTRAL, *TRL_REASONS), "other_method", method=shown)
    trl.leave([key for key in trl.given if key.startswith("vllm_")], "sampler")
    trl.explain({})
    draft.leave((*BETAS, *(key for table in METHODS.values() for key in table)), "other_method", method=shown)
    return kind


def _weights(draft: Draft, trl: Draft, kind: str) -> None:
    """What a method weighs its parts with; what theirs has where the file says nothing, ours would have otherwise."""
    if kind != "reward":
        keys = [key for key in BETAS if kind == "orpo" or key != "orpo_alpha"]
        given = [trl.take("beta", number), *(draft.take(key, number) for key in keys)]
        trl.use(*(("beta",) if trl.has("beta") else ()))
        beta = next((each for each in given if each is not None), None)
        ours, usual = ("method.kl", 0.0) if kind == "grpo" else ("method.beta", BETA)
        draft.put(ours, usual if beta is None else beta, "trl", *keys)
    draft.translate(METHODS.get(kind, {}))
    if kind == "simpo":
        # Their trainer adds the better answers' likelihood to its loss unless it is told not to.
        draft.settings = {"method.gamma": 0.5, "method.sft_weight": 1.0, **draft.settings}
        for name in ("method.gamma", "method.sft_weight"):
            draft.origin.setdefault(name, ("rl",))
    if kind == "reward":
        draft.settings.setdefault("method.centre", 0.0)
        draft.origin.setdefault("method.centre", ("reward_model",))


def _answers(trl: Draft, rewards: list[str]) -> None:
    """How answers are written and judged."""
    trl.translate(TRL)
    trl.settings.setdefault("method.samples", SAMPLES)
    trl.put("method.rewards", rewards, "reward_funcs")
    if any(not each.startswith("model:") for each in rewards):
        trl.note("reward_funcs", "changed", "reward_function")
    for key, values in NEUTRAL.items():
        if trl.has(key):
            trl.note(key, *(("not needed", "always") if trl.take(key) in values else ("not yet", "sampling")))
    trl.leave([key for key in trl.given if key.startswith("vllm_")], "sampler")
    trl.explain(TRL_REASONS)


def _reward(name: str) -> str:
    """A function by its dotted name, or a model by its folder or its name on a hub."""
    module, _, function = name.rpartition(".")
    return f"{module}:{function}" if module and function and "/" not in name else f"model:{name}"


def _tune(draft: Draft) -> None:
    adapter = draft.take("adapter", word) or ""
    kind = ADAPTERS.get(adapter, "lora") if adapter else "full"
    if adapter and adapter not in ADAPTERS:
        draft.miss("adapter", "tuning", tuning=adapter)
    draft.put("tune.kind", kind, "adapter")
    if kind == "lora":
        _quantised(draft, adapter == "qlora")
    further = draft.take("lora_model_dir", word)
    if kind == "lora" and further:
        draft.put("tune.from", further, "lora_model_dir")
        draft.translate({"lora_dropout": LORA["lora_dropout"]})
    elif kind == "lora":
        draft.translate(LORA)
        _targets(draft)
    reason = "from_settles" if further else "other_kind"
    draft.leave((*LORA, "lora_target_modules", "lora_target_linear", *BITS), reason, tuning=kind)


def _quantised(draft: Draft, always: bool) -> None:
    """A base in 8 bits, or in 4, which `adapter: qlora` stands for."""
    eight, four = (draft.take(key, switch) for key in BITS)
    if not (always or eight or four):
        return
    base = "int8" if eight and not (always or four) else "nf4"
    draft.put("tune.kind", "qlora", "adapter", *(key for key in BITS if draft.has(key)))
    draft.put("tune.base", base, *(key for key in BITS if draft.has(key)))
    if not isinstance(draft.given.get("bnb_config_kwargs"), Mapping):
        return
    part = draft.part(draft.take("bnb_config_kwargs"), "bnb_config_kwargs")
    trainer.four_bit(part, base, "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
    part.leave(part.given, "other_kind", tuning=base)
    if "tune.double_quant" in part.settings:
        draft.put("tune.double_quant", part.settings["tune.double_quant"], "bnb_config_kwargs")


def _targets(draft: Draft) -> None:
    every, chosen = draft.take("lora_target_linear", switch), draft.take("lora_target_modules", names)
    if every or chosen == ["all-linear"]:
        draft.put("tune.targets", "all-linear", "lora_target_linear")
    elif chosen:
        draft.put("tune.targets", chosen, "lora_target_modules")


def _reports(draft: Draft) -> None:
    chosen = trainer.reports(draft)
    wanted = {
        "wandb": draft.take("use_wandb") not in (False, "false") and draft.has("wandb_project"),
        "tensorboard": bool(draft.take("use_tensorboard")),
        "swanlab": bool(draft.take("use_swanlab")),
    }
    chosen += [name for name, on in wanted.items() if on and name not in chosen]
    if chosen:
        draft.put("run.report", chosen, "report_to", "use_wandb", "use_tensorboard", "use_swanlab")


# ---------------------------------------------------------------------------------------------------- data


def _data(draft: Draft, method: str) -> None:
    key = PRETRAIN_KEY if draft.has(PRETRAIN_KEY) else DATA_KEY
    entries = axolotl_data.entries(draft, key)
    types = {axolotl_data.type_of(entry) for entry in entries.values()}
    plain = not method and (key == PRETRAIN_KEY or types == {"completion"})
    if not method and not draft.missed:
        draft.put("method.kind", "pretrain" if plain else "sft", key)
    kind = "text" if plain else ROWS.get(method, "answer")
    found = [each for entry in entries.items() for each in axolotl_data.sources(draft, *entry, kind)]
    draft.put("data.train", found, key)
    _validation(draft, kind)
    _template(draft, plain, entries)
    strategy = draft.take("excess_length_strategy", word)
    if strategy is not None and not plain and strategy in TOO_LONG:
        draft.put("data.too_long", TOO_LONG[strategy], "excess_length_strategy")
    elif strategy is not None:
        draft.note("excess_length_strategy", "not needed", "chunks" if plain else "too_long")
    elif not plain and draft.has("sequence_len"):
        draft.note("sequence_len", "changed", "too_long_dropped")
    if draft.has("special_tokens"):
        _special_tokens(draft)


def _validation(draft: Draft, kind: str) -> None:
    share = draft.take("val_set_size", number)
    if draft.has("test_datasets"):
        entries = axolotl_data.entries(draft, "test_datasets").items()
        found = [each for entry in entries for each in axolotl_data.sources(draft, *entry, kind, split="test")]
        draft.put("data.validation", found, "test_datasets")
        draft.translate({"eval_steps": ("run.validate_every", positive)})
    else:
        trainer.evaluation(draft, share, "val_set_size")


# ---------------------------------------------------------------------------------------------------- template


def _template(draft: Draft, plain: bool, entries: Mapping[str, Mapping[str, Any]]) -> None:
    if plain:
        draft.leave(
            ("chat_template", "chat_template_jinja", "default_system_message", "train_on_inputs"), "no_template"
        )
        return
    given, own = (_of_all(draft, entries, key) for key in ("chat_template", "chat_template_jinja"))
    system = draft.take("default_system_message", word)
    if own and own.endswith((".jinja", ".jinja2", ".j2")):
        draft.put("data.template", own, "chat_template_jinja", "chat_template")
    elif own:
        draft.note("chat_template_jinja", "not yet", "inline_template", own)
    elif given:
        draft.put("data.template", TEMPLATES.get(given, "model"), "chat_template")
        if given not in TEMPLATES:
            draft.note("chat_template", "changed", "template", given)
    elif all(axolotl_data.type_of(entry) in axolotl_data.ANSWERED for entry in entries.values()):
        draft.put("data.template", "alpaca", DATA_KEY)
    if system:
        draft.put("data.system", system, "default_system_message")


def _of_all(draft: Draft, entries: Mapping[str, Mapping[str, Any]], key: str) -> str | None:
    """The recipe's template, or that of all its data sets; tells of others."""
    own = draft.take(key, word)
    theirs = [entry.get(key) for entry in entries.values()]
    if own is None and theirs and isinstance(theirs[0], str) and theirs.count(theirs[0]) == len(theirs):
        return theirs[0] or None
    for place, entry in entries.items():
        if entry.get(key) not in (None, own):
            draft.note(f"{place}.{key}", "not yet", "one_template", entry[key])
    return str(own) if own is not None else None


def _special_tokens(draft: Draft) -> None:
    given = draft.take("special_tokens")
    if not isinstance(given, dict):
        draft.note("special_tokens", "unknown", "value")
        return
    reasons = {"pad_token": "packing", "eos_token": "stop_token"}
    for name, value in given.items():
        if value is not None:
            draft.note(f"special_tokens.{name}", "not needed", reasons.get(name, "own_tokens"), value)
