"""An axolotl recipe, key by key.

What goes in: the settings of an axolotl YAML file. What comes out: a draft of the same training. Imports no torch.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.data import opening, readers
from luthier.data.turns import ROLES
from luthier.importing import rows, trainer
from luthier.importing.draft import (
    Draft,
    Reasons,
    Translated,
    names,
    number,
    positive,
    section,
    switch,
    text,
    whole,
    word,
)
from luthier.importing.rows import Layout

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
RL_METHODS: dict[str, str] = {}
"""`rl` -> our method. None of theirs is here yet."""
TOO_LONG: dict[str, str] = {"drop": "drop", "truncate": "truncate", "raise": "stop"}
TEMPLATES: dict[str, str] = {"tokenizer_default": "model", "alpaca": "alpaca", "chatml": "chatml"}
"""Templates that render the same here; any other is the model's own."""

ALPACA = {"instruction": "instruction", "input": "input", "output": "output"}
ORCA = {"instruction": "question", "output": "response", "system": "system_prompt"}
ANSWERED: dict[str, dict[str, str]] = {
    "alpaca": ALPACA,
    "alpaca_chat": ALPACA,
    "alpaca_chat.load_camel_ai": {"instruction": "message_1", "output": "message_2"},
    "alpaca_chat.load_concise": ALPACA,
    "alpaca_chat.load_no_prompt": ALPACA,
    "alpaca_chat.load_qa": {"instruction": "question", "output": "answer"},
    "alpaca_instruct": ALPACA,
    "alpaca_w_system": {**ALPACA, "system": "system"},
    "alpaca_w_system.load_chat": {**ALPACA, "system": "system"},
    "alpaca_w_system.load_instruct": {**ALPACA, "system": "system"},
    "alpaca_w_system.load_open_orca": ORCA,
    "alpaca_w_system.load_open_orca_chatml": ORCA,
    "gpteacher": {**ALPACA, "output": "response"},
    "oasst": {"instruction": "INSTRUCTION", "output": "RESPONSE"},
    "summarizetldr": {"instruction": "article", "output": "summary"},
}
"""Types of a question and its answer, each in a prompt of its own -> our names of their columns."""
CHAT_TEMPLATE = {
    "messages": "messages",
    "role": "role",
    "content": "content",
    "system": "system",
    "tools": "tools",
}
SHAREGPT = {"messages": "conversations", "role": "from", "content": "value"}
TALKS: dict[str, dict[str, str]] = {
    "chat_template": CHAT_TEMPLATE,
    "chat_template.default": CHAT_TEMPLATE,
    "sharegpt": SHAREGPT,
    "sharegpt.load_guanaco": {**SHAREGPT, "role": "role", "content": "text"},
    "sharegpt.load_role": {**SHAREGPT, "role": "role"},
}
"""Types of conversations -> our names of their columns and keys."""
SPEAKERS: dict[str, dict[str, str]] = {"sharegpt.load_guanaco": {"prompter": "user"}}
"""Types of conversations -> role names that they know beside the usual ones."""
TEXTS = ("completion", "pretrain")
OWN_ROWS = ("concisechoice", "context_qa", "explainchoice", "input_output", "jeopardy", "reflection")
"""Types, up to a dot, that make a prompt of columns in a way of their own."""
COMPARED = ("dpo", "ipo", "orpo", "simpo")
"""Values of `rl` whose rows are a prompt and two answers."""
JUDGED = ("kto",)
"""Values of `rl` whose rows are an answer and whether it is wanted."""
READ_AS_THEY_ARE = ("argilla", "argilla_chat", "icr", "intel", "prompt_pairs", "ultra")
"""Types of such rows, after the dot, whose columns are found by their names."""

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

KINDS_OF_FILE: dict[str, tuple[str, ...]] = {
    "json": (".json", ".jsonl"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "text": (".txt",),
}
"""Values of `ds_type`, and of a `path` that only names a kind of file -> the endings that say the same."""
TURN_FIELDS: dict[str, str] = {
    "field_messages": "messages",
    "field_system": "system",
    "field_tools": "tools",
    "field_thinking": "reasoning_content",
    "message_field_role": "role",
    "message_field_content": "content",
    "message_field_training": "train",
}
PAIR_FIELDS: dict[str, str] = {"field_chosen": "chosen", "field_rejected": "rejected"}
PROPERTIES = ("role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id")
"""Keys of a turn that can be named in `message_property_mappings`."""
CUSTOM_FIELDS: dict[str, dict[str, str]] = {
    "answer": {
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "field_system": "system",
    },
    "pair": {"field_prompt": "instruction", "field_system": "system", **PAIR_FIELDS},
    "label": {
        "field_prompt": "instruction",
        "field_system": "system",
        "field_completion": "output",
        "field_label": "label",
    },
}
"""Kind of row -> keys of a prompt of the file's own that name its columns -> our names of these."""
CUSTOM_USUAL: dict[str, dict[str, str]] = {
    "answer": {"instruction": "instruction", "output": "output"},
    "pair": {"instruction": "prompt", "chosen": "chosen", "rejected": "rejected", "system": "system"},
    "label": {"instruction": "prompt", "output": "completion", "label": "label", "system": "system"},
}
"""Kind of row -> the columns that it has where the file names none."""
CUSTOM_REASONS: Reasons = {
    "chosen_format": ("not yet", "own_prompt"),
    "completion_format": ("not yet", "own_prompt"),
    "format": ("not yet", "own_prompt"),
    "no_input_format": ("not yet", "own_prompt"),
    "prompt_format": ("not yet", "own_prompt"),
    "rejected_format": ("not yet", "own_prompt"),
    "system_format": ("not yet", "own_prompt"),
    "system_prompt": ("not yet", "own_system"),
}
ENTRY_REASONS: Reasons = {
    **dict.fromkeys((*TURN_FIELDS, *PAIR_FIELDS), ("not needed", "without_effect")),
    "chat_template": ("not needed", "no_template"),
    "chat_template_jinja": ("not needed", "no_template"),
    "conversation": ("changed", "template"),
    "drop_system_message": ("not yet", "system_kept"),
    "field": ("not needed", "without_effect"),
    "field_human": ("not needed", "without_effect"),
    "field_model": ("not needed", "without_effect"),
    "input_format": ("not yet", "own_prompt"),
    "input_transform": ("not yet", "own_rows"),
    "message_field_training_detail": ("not yet", "turn_parts"),
    "message_property_mappings": ("not needed", "without_effect"),
    "name": ("not needed", "without_effect"),
    "preprocess_shards": ("not needed", "workers"),
    "revision": ("not needed", "without_effect"),
    "roles": ("not needed", "without_effect"),
    "roles_to_train": ("not needed", "without_effect"),
    "shards": ("not yet", "data_part"),
    "shards_idx": ("not yet", "data_part"),
    "skip": ("not yet", "data_part"),
    "split_thinking": ("not yet", "split_thoughts"),
    "strict": ("not needed", "always"),
    "template_thinking_key": ("not yet", "thinking_key"),
    "text_column": ("not needed", "without_effect"),
    "train_on_eos": ("not needed", "without_effect"),
    "train_on_eot": ("not needed", "without_effect"),
    "trust_remote_code": ("not needed", "no_code"),
}
"""Keys of one data set."""


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


def _data(draft: Draft) -> None:
    key = PRETRAIN_KEY if draft.has(PRETRAIN_KEY) else DATA_KEY
    entries = _entries(draft, key)
    types = {_type(entry) for entry in entries.values()}
    plain = key == PRETRAIN_KEY or types == {"completion"}
    method = draft.take("rl", word)
    if method and method not in RL_METHODS:
        draft.miss("rl", "stage", stage=method)
    else:
        draft.put("method.kind", "pretrain" if plain else "sft", key)
    kind = "text" if plain else _kind(method)
    draft.put("data.train", [each for entry in entries.items() for each in _sources(draft, *entry, kind)], key)
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


def _kind(method: str | None) -> str:
    """The kind of rows that a method learns from."""
    return "pair" if method in COMPARED else "label" if method in JUDGED else "answer"


def _validation(draft: Draft, kind: str) -> None:
    share = draft.take("val_set_size", number)
    if draft.has("test_datasets"):
        entries = _entries(draft, "test_datasets").items()
        found = [each for entry in entries for each in _sources(draft, *entry, kind, split="test")]
        draft.put("data.validation", found, "test_datasets")
        draft.translate({"eval_steps": ("run.validate_every", positive)})
    else:
        trainer.evaluation(draft, share, "val_set_size")


def _entries(draft: Draft, key: str) -> dict[str, dict[str, Any]]:
    """Each data set by its place in the file; a bare name is one."""
    value = draft.take(key)
    value = value if isinstance(value, list) else [value]
    found = {}
    for index, entry in enumerate(value):
        entry = {"path": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and (entry.get("path") or entry.get("data_files")):
            found[f"{key}.{index}"] = entry
        else:
            draft.note(f"{key}.{index}", "unknown", "value", entry)
    return found


def _type(entry: Mapping[str, Any]) -> str:
    given = entry.get("type")
    return given.partition(":")[0] if isinstance(given, str) else ""


def _sources(
    draft: Draft, place: str, given: Mapping[str, Any], kind: str, split: str = "train"
) -> list[dict[str, Any]]:
    """A data set: a source for each of its files or subsets.

    Args:
        kind: of its rows: text, answer, pair or label.
        split: theirs of a data set on a hub where it names none.
    """
    entry = draft.part(given, place)
    layout = _layout(entry, kind)
    made = [rows.source(entry, at, layout) for at in _places(entry, split)]
    entry.explain(ENTRY_REASONS)
    return made


# ---------------------------------------------------------------------------------------------------- places


def _places(entry: Draft, split: str) -> list[dict[str, Any]]:
    """Where the rows of a data set are: files, a folder, or subsets on the hub."""
    path, files = entry.take("path", word) or "", entry.take("data_files", _texts) or []
    entry.use("path", "data_files", "ds_type")
    if any("://" in each for each in (path, *files)):
        entry.note("data_files" if files else "path", "not yet", "elsewhere")
    elif _is_on_hub(entry, path) and not files:
        subsets = entry.take("name", _texts) or []
        entry.use("name")
        at = rows.on_hub(entry, path, split)
        return [{**at, "subset": each} for each in subsets] or [at]
    elif _is_on_hub(entry, path):
        entry.note("data_files", "not yet", "hub_files")
    elif path in KINDS_OF_FILE and not files:
        entry.note("path", "unknown", "value")
    found = [_joined(path, file) for file in files] or [path]
    rows.on_disk(entry)
    _endings(entry, found)
    return [{"path": each} for each in found if each]


def _texts(value: Any) -> list[str]:
    return [text(each) for each in (value if isinstance(value, list) else [value])]


def _is_on_hub(entry: Draft, path: str) -> bool:
    """Whether a path that is not here can be the name of a data set on the hub."""
    local = path in ("", *KINDS_OF_FILE) or path.startswith((".", "/", "~")) or os.path.exists(path)
    file = opening.ending(Path(path)) in readers.READERS or entry.has("ds_type")
    return not local and not file and path.count("/") <= 1


def _joined(path: str, file: str) -> str:
    """A file of `data_files`: in the folder of `path`, unless it says where it is by itself."""
    below = posixpath.normpath(file).startswith(f"{posixpath.normpath(path)}/")
    if below or "://" in file or path in ("", *KINDS_OF_FILE):
        return file
    inside = posixpath.join(path, file)
    return file if os.path.isfile(file) and not os.path.isfile(inside) else inside


def _endings(entry: Draft, paths: list[str]) -> None:
    """Tell of files whose ending says another kind than `ds_type`."""
    kind = entry.take("ds_type", word)
    found = {opening.ending(Path(path)) for path in paths} - {"", *KINDS_OF_FILE.get(kind or "", ())}
    if kind is not None and found & readers.READERS.keys():
        entry.note("ds_type", "not yet", "ending")
    if any(path.endswith(".txt") for path in paths):
        entry.note("path", "changed", "text_lines")


# ---------------------------------------------------------------------------------------------------- layouts


def _layout(entry: Draft, kind: str) -> Layout:
    """How the rows of a data set are to be read; unknown where its type has no equal."""
    given, name = entry.take("type"), _type(entry.given)
    entry.use("type")
    if kind == "text":
        key = "text_column" if entry.has("text_column") else "field"
        column = entry.take(key, word) or "text"
        entry.use(key)
        return Layout("text", {"text": column})
    entry.use("chat_template", "chat_template_jinja")
    if isinstance(given, dict):
        return _custom(entry, given, kind)
    if name in TALKS:
        return _talk(entry, TALKS[name], kind)
    if kind != "answer" and name.rpartition(".")[2] in READ_AS_THEY_ARE:
        names = {"system": "system", **_named(entry, PAIR_FIELDS)}
        return Layout({"pair": "preference", "label": "labelled"}[kind], names)
    if kind == "answer" and name in ANSWERED:
        entry.note("type", "changed", "alpaca_prompt")
        return rows.answered(ANSWERED[name])
    own = "text_beside" if name in TEXTS else "own_rows" if name.partition(".")[0] in OWN_ROWS else "prompt_type"
    entry.note("type", "not yet", own, given if given is not None else "-")
    return Layout()


def _custom(entry: Draft, given: Mapping[str, Any], kind: str) -> Layout:
    """A prompt of the file's own; its columns are taken over, its words are not."""
    custom = entry.part(given, "type")
    names = {**CUSTOM_USUAL[kind], **_named(custom, CUSTOM_FIELDS[kind])}
    custom.explain(CUSTOM_REASONS)
    return {"answer": rows.answered, "pair": rows.compared, "label": rows.judged}[kind](names)


def _named(draft: Draft, fields: Mapping[str, str]) -> dict[str, str]:
    """Our name -> their column, for the keys that are given."""
    given = {key: draft.take(key, text) for key in fields if draft.has(key)}
    draft.use(*given)
    return {fields[key]: column for key, column in given.items() if column}


def _talk(entry: Draft, usual: Mapping[str, str], kind: str) -> Layout:
    """Conversations. usual: columns and keys where the data set names none."""
    names = {**usual, **_named(entry, TURN_FIELDS), **_properties(entry)}
    if entry.given.get("template_thinking_key") == "reasoning_content":
        entry.use("template_thinking_key")
    roles = _roles(entry)
    _learnt(entry, roles)
    if kind == "pair":
        return rows.compared({**names, "chosen": "chosen", "rejected": "rejected", **_named(entry, PAIR_FIELDS)}, roles)
    return rows.judged({**names, "label": "label"}, roles) if kind == "label" else rows.talk(names, roles)


def _properties(entry: Draft) -> dict[str, str]:
    mapping = entry.take("message_property_mappings", section) or {}
    entry.use("message_property_mappings")
    properties = entry.part(mapping, "message_property_mappings")
    named = _named(properties, {key: key for key in PROPERTIES})
    for key in mapping.keys() - {*PROPERTIES}:
        properties.note(key, "not yet", "turn_key")
    return named


def _roles(entry: Draft) -> dict[str, str]:
    """Role names of the file -> our roles."""
    roles = entry.part(entry.take("roles", section) or {}, "roles")
    found = [("type", name, role) for name, role in SPEAKERS.get(_type(entry.given), {}).items()]
    for target in roles.given:
        called, role = roles.take(target, _texts) or [], ROLES.get(target)
        if role is not None:
            found += [(f"roles.{target}", name, role) for name in called]
        elif not {*called} <= ROLES.keys():
            roles.note(target, "not yet", "role")
    for key, role in (("field_human", "user"), ("field_model", "assistant")):
        name = entry.take(key, word)
        found += [(key, name, role)] if name else []
    entry.use("roles", "field_human", "field_model")
    return rows.roles_of(entry, found)


def _learnt(entry: Draft, roles: Mapping[str, str]) -> None:
    """Which turns carry loss: the answers, each with its stop token."""
    trained = entry.take("roles_to_train")
    if trained == []:
        entry.note("roles_to_train", "not yet", "unmarked")
    elif trained is not None:
        given = entry.take("roles_to_train", names) or []
        same = {roles.get(name) or ROLES.get(name) for name in given} == {"assistant"}
        entry.note("roles_to_train", *(("not needed", "always") if same else ("not yet", "loss_on_prompt")))
    for key in ("train_on_eos", "train_on_eot"):
        if entry.has(key):
            same = entry.take(key) == "turn"
            entry.note(key, *(("not needed", "always") if same else ("not yet", "stop_tokens")))


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
    elif all(_type(entry) in ANSWERED for entry in entries.values()):
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
