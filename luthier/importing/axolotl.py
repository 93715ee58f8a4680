"""An axolotl recipe, key by key.

What goes in: the settings of an axolotl YAML file. What comes out: a draft of the same training. Imports no torch.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from luthier.importing import trainer
from luthier.importing.draft import Draft, Reasons, Translated, names, number, positive, switch, text, whole, word

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
RL_METHODS: dict[str, str] = {}
"""`rl` -> our method. None of theirs is here yet."""
TOO_LONG: dict[str, str] = {"drop": "drop", "truncate": "truncate", "raise": "stop"}
TEMPLATES: dict[str, str] = {"tokenizer_default": "model", "alpaca": "alpaca", "chatml": "chatml"}
"""Templates that render the same here; any other is the model's own."""

TYPES: dict[str, tuple[str, str]] = {
    "alpaca": ("alpaca", "alpaca"),
    "chat_template": ("messages", "model"),
    "sharegpt": ("sharegpt", "model"),
    "alpaca_chat.load_qa": ("qa", "alpaca"),
    "completion": ("text", ""),
    "pretrain": ("text", ""),
}
"""Their `type` -> (our format, our template; none for plain text)."""

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
    "kto_desirable_weight": ("not yet", "preference"),
    "kto_undesirable_weight": ("not yet", "preference"),
    "liger_cross_entropy": ("not needed", "kernels"),
    "liger_fused_linear_cross_entropy": ("not needed", "kernels"),
    "liger_glu_activation": ("not needed", "kernels"),
    "liger_layer_norm": ("not needed", "kernels"),
    "liger_rms_norm": ("not needed", "kernels"),
    "liger_rope": ("not needed", "kernels"),
    "lisa_n_layers": ("not yet", "optimizer"),
    "llama4_linearized_experts": ("not yet", "architecture"),
    "load_in_4bit": ("not yet", "quantised"),
    "load_in_8bit": ("not yet", "quantised"),
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
    "max_prompt_len": ("not yet", "preference"),
    "mean_resizing_embeddings": ("not needed", "mean_rows"),
    "min_sample_len": ("not yet", "data_part"),
    "mlflow_experiment_name": ("not yet", "tracker"),
    "mlflow_tracking_uri": ("not yet", "tracker"),
    "model_config": ("not yet", "architecture"),
    "model_type": ("not needed", "family"),
    "multipack_real_batches": ("not needed", "packing"),
    "orpo_alpha": ("not yet", "preference"),
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
    "process_reward_model": ("not yet", "preference"),
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
    "reward_model": ("not yet", "preference"),
    "rl_beta": ("not yet", "preference"),
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
    "simpo_gamma": ("not yet", "preference"),
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
    "trl": ("not yet", "preference"),
    "unfrozen_parameters": ("not yet", "frozen_parts"),
    "unsloth_lora_mlp": ("not needed", "kernels"),
    "unsloth_lora_o": ("not needed", "kernels"),
    "unsloth_lora_qkv": ("not needed", "kernels"),
    "use_mlflow": ("not yet", "tracker"),
    "use_pose": ("not yet", "architecture"),
    "vllm": ("not yet", "preference"),
    "wandb_entity": ("not yet", "tracker_names"),
    "wandb_log_model": ("not yet", "tracker_names"),
    "wandb_mode": ("not yet", "tracker_names"),
    "wandb_name": ("not yet", "tracker_names"),
    "wandb_project": ("not yet", "tracker_names"),
    "wandb_run_id": ("not yet", "tracker_names"),
    "wandb_watch": ("not yet", "tracker_names"),
    "xformers_attention": ("not needed", "kernels"),
}

ENTRY_REASONS: Reasons = {
    "conversation": ("not needed", "template"),
    "drop_system_message": ("not yet", "data_part"),
    "field_chosen": ("not yet", "preference"),
    "field_human": ("not yet", "column"),
    "field_model": ("not yet", "column"),
    "field_rejected": ("not yet", "preference"),
    "field_thinking": ("not yet", "column"),
    "input_format": ("not yet", "column"),
    "input_transform": ("not yet", "column"),
    "message_field_training": ("not yet", "column"),
    "message_field_training_detail": ("not yet", "column"),
    "name": ("not yet", "data_part"),
    "preprocess_shards": ("not needed", "workers"),
    "revision": ("not yet", "data_part"),
    "roles": ("not yet", "role"),
    "shards": ("not yet", "data_part"),
    "shards_idx": ("not yet", "data_part"),
    "skip": ("not yet", "data_part"),
    "split": ("not yet", "data_part"),
    "split_thinking": ("not yet", "column"),
    "trust_remote_code": ("not needed", "no_code"),
}
"""Keys of one data set."""
FILE_TYPES = ("json", "csv", "parquet", "arrow", "text")
"""Values of `path` that only name a kind of file; the files are in `data_files` then."""


def translate(given: Mapping[str, Any], devices: int) -> Draft:
    """Args:
    devices: how many devices the recipe was meant for.
    """
    draft = Draft(given, DEFAULTS)
    draft.translate(TRANSLATED)
    _data(draft)
    _tune(draft)
    trainer.new_tokens(draft, "tokens")
    trainer.optimizer(draft, "optimizer")
    _batch(draft, devices)
    trainer.length(draft, "num_epochs")
    trainer.schedule(draft, "lr_scheduler")
    if draft.has("cosine_min_lr_ratio"):
        draft.translate({"cosine_min_lr_ratio": ("optim.min_lr_ratio", number)})
    trainer.precision(draft, half=("fp16", "float16"), brain=("bf16", "bfloat16"))
    trainer.output(draft)
    _reports(draft)
    draft.explain(REASONS)
    return draft


def _batch(draft: Draft, devices: int) -> None:
    """`batch_size`, where it is given, is that of one device with accumulation."""
    whole_batch = draft.take("batch_size", positive)
    if whole_batch is None:
        trainer.batch(draft, BATCH_KEY, devices)
        return
    draft.put("optim.batch", whole_batch * devices, "batch_size")
    for key in (BATCH_KEY, "gradient_accumulation_steps"):
        if draft.has(key):
            draft.note(key, "not needed", "memory")


def _tune(draft: Draft) -> None:
    adapter = draft.take("adapter", word) or ""
    kind = ADAPTERS.get(adapter, "lora") if adapter else "full"
    if adapter and adapter not in ADAPTERS:
        draft.miss("adapter", "tuning", tuning=adapter)
    draft.put("tune.kind", kind, "adapter")
    if adapter == "qlora":
        draft.note("adapter", "not yet", "quantised")
    further = draft.take("lora_model_dir", word)
    if kind == "lora" and further:
        draft.put("tune.from", further, "lora_model_dir")
        draft.translate({"lora_dropout": LORA["lora_dropout"]})
    elif kind == "lora":
        draft.translate(LORA)
        _targets(draft)
    reason = "from_settles" if further else "other_kind"
    draft.leave((*LORA, "lora_target_modules", "lora_target_linear"), reason, tuning=kind)


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


def _data(draft: Draft) -> None:
    plain = draft.has(PRETRAIN_KEY)
    entries = _entries(draft, PRETRAIN_KEY if plain else DATA_KEY)
    types = {_type(entry) for _, entry in entries}
    plain = plain or types == {"completion"}
    method = draft.take("rl", word)
    if method and method not in RL_METHODS:
        draft.miss("rl", "stage", stage=method)
    else:
        draft.put("method.kind", "pretrain" if plain else "sft", PRETRAIN_KEY if plain else DATA_KEY)
    key = PRETRAIN_KEY if draft.has(PRETRAIN_KEY) else DATA_KEY
    draft.put("data.train", [_source(draft, place, entry, plain) for place, entry in entries], key)
    _validation(draft, plain)
    _template(draft, plain, types)
    strategy = draft.take("excess_length_strategy", word)
    if strategy is not None and not plain and strategy in TOO_LONG:
        draft.put("data.too_long", TOO_LONG[strategy], "excess_length_strategy")
    elif strategy is not None:
        draft.note("excess_length_strategy", "not needed", "chunks" if plain else "too_long")
    elif not plain and draft.has("sequence_len"):
        draft.note("sequence_len", "changed", "too_long_dropped")
    if draft.has("special_tokens"):
        _special_tokens(draft)


def _validation(draft: Draft, plain: bool) -> None:
    share = draft.take("val_set_size", number)
    if draft.has("test_datasets"):
        entries = _entries(draft, "test_datasets")
        draft.put("data.validation", [_source(draft, place, entry, plain) for place, entry in entries], "test_datasets")
        draft.translate({"eval_steps": ("run.validate_every", positive)})
    else:
        trainer.evaluation(draft, share, "val_set_size")


def _entries(draft: Draft, key: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, entry) of each data set; a bare name is one."""
    value = draft.take(key)
    value = value if isinstance(value, list) else [value]
    found = []
    for index, entry in enumerate(value):
        entry = {"path": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and (entry.get("path") or entry.get("data_files")):
            found.append((f"{key}.{index}", entry))
        else:
            draft.note(f"{key}.{index}", "unknown", "value", entry)
    return found


def _type(entry: Mapping[str, Any]) -> str:
    given = entry.get("type")
    return given.partition(":")[0] if isinstance(given, str) else ""


def _source(draft: Draft, place: str, entry: Mapping[str, Any], plain: bool) -> dict[str, Any]:
    path, files = str(entry.get("path") or ""), entry.get("data_files")
    files = [files] if isinstance(files, str) else files
    if isinstance(files, list) and files:
        first = str(files[0])
        path = first if path in ("", *FILE_TYPES) else posixpath.join(path, first)
        for other in files[1:]:
            draft.note(f"{place}.data_files", "not yet", "more_files", other)
    elif not entry.get("ds_type") and not path.startswith((".", "/", "~")) and not posixpath.splitext(path)[1]:
        draft.note(f"{place}.path", "not yet", "hub_data", path)
    chosen = _format(draft, place, entry, plain)
    known = ("path", "data_files", "ds_type", "type", "field", "text_column", "chat_template", "chat_template_jinja")
    for key, value in entry.items():
        if key not in known and key not in MESSAGE_KEYS and value is not None:
            kind, reason = ENTRY_REASONS.get(key, ("unknown", "unknown"))
            if key in ("roles_to_train", "train_on_eos"):
                same = value in (["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"], "turn", "all")
                kind, reason = ("not needed", "always") if same else ("not yet", "loss_on_prompt")
            elif (key, value) == ("split", "train") or (key == "roles" and _are_read(value)):
                kind, reason = "not needed", "always"
            draft.unless_off(f"{place}.{key}", kind, reason, value)
    return {"path": path} if chosen == "auto" else {"path": path, "format": chosen}


def _are_read(roles: Any) -> bool:
    """Whether the names of roles are read as what they are mapped to."""
    return isinstance(roles, dict) and all(
        isinstance(names, list) and {*names} <= ROLES.get(role, set()) for role, names in roles.items()
    )


ROLES: dict[str, set[str]] = {
    "system": {"system", "developer"},
    "user": {"user", "human"},
    "assistant": {"assistant", "gpt", "chatgpt", "bot", "model"},
    "tool": {"tool", "function", "observation", "ipython"},
}
"""Role -> the names of it that our formats read."""
MESSAGE_KEYS: dict[str, str] = {
    "field_messages": "messages",
    "message_field_role": "role",
    "message_field_content": "content",
    "field_tools": "tools",
    "message_property_mappings": "",
}
"""Keys that say where the turns are -> what they say where they are left out."""
READ_AS: dict[tuple[str, str, str], str] = {
    ("messages", "role", "content"): "messages",
    ("conversations", "from", "value"): "sharegpt",
}
"""(column, key of the role, key of the words) -> our format."""


def _format(draft: Draft, place: str, entry: Mapping[str, Any], plain: bool) -> str:
    given = entry.get("type")
    if plain:
        column = entry.get("text_column") or entry.get("field") or "text"
        if column != "text":
            draft.note(f"{place}.{'field' if entry.get('field') else 'text_column'}", "not yet", "column", column)
        return "text" if column == "text" else "auto"
    if _type(entry).startswith("chat_template"):
        return _chat_format(draft, place, entry)
    known = TYPES.get(_type(entry)) or TYPES.get(_type(entry).partition(".")[0])
    if known is None:
        reason = "own_prompt" if isinstance(given, dict) else "prompt_type"
        draft.note(f"{place}.type", "not yet", reason, given if given is not None else "-")
        return "auto"
    return known[0] if known[1] else "auto"


def _chat_format(draft: Draft, place: str, entry: Mapping[str, Any]) -> str:
    mapping = entry.get("message_property_mappings")
    mapping = mapping if isinstance(mapping, dict) else {}
    turn = (
        entry.get("field_messages") or "messages",
        mapping.get("role") or entry.get("message_field_role") or "role",
        mapping.get("content") or entry.get("message_field_content") or "content",
    )
    chosen = READ_AS.get(turn, "auto")
    for key in MESSAGE_KEYS:
        if chosen == "auto" and entry.get(key) is not None and key != "field_tools":
            draft.note(f"{place}.{key}", "not yet", "column", entry[key])
    if entry.get("field_tools") not in (None, "tools"):
        draft.note(f"{place}.field_tools", "not yet", "column", entry["field_tools"])
    return chosen


def _template(draft: Draft, plain: bool, types: set[str]) -> None:
    given, own = draft.take("chat_template", word), draft.take("chat_template_jinja", word)
    system = draft.take("default_system_message", word)
    if plain:
        for key in ("chat_template", "chat_template_jinja", "default_system_message", "train_on_inputs"):
            if draft.has(key):
                draft.note(key, "not needed", "no_template")
        return
    if own and str(own).endswith((".jinja", ".jinja2", ".j2")):
        draft.put("data.template", own, "chat_template_jinja")
    elif own:
        draft.note("chat_template_jinja", "not yet", "inline_template")
    elif given:
        draft.put("data.template", TEMPLATES.get(given, "model"), "chat_template")
        if given not in TEMPLATES:
            draft.note("chat_template", "changed", "template")
    else:
        wanted = {TYPES[each][1] for each in types if each in TYPES}
        if wanted == {"alpaca"}:
            draft.put("data.template", "alpaca", DATA_KEY)
            draft.note(DATA_KEY, "changed", "alpaca_prompt", ", ".join(sorted(types)))
    if system:
        draft.put("data.system", system, "default_system_message")


def _special_tokens(draft: Draft) -> None:
    given = draft.take("special_tokens")
    if not isinstance(given, dict):
        draft.note("special_tokens", "unknown", "value")
        return
    reasons = {"pad_token": "packing", "eos_token": "stop_token"}
    for name, value in given.items():
        if value is not None:
            draft.note(f"special_tokens.{name}", "not needed", reasons.get(name, "own_tokens"), value)
