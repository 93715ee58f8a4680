"""A LLaMA-Factory recipe, key by key.

What goes in: the settings of a LLaMA-Factory YAML or JSON file and the `dataset_info.json` that names its data. What
comes out: a draft of the same training. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.importing import trainer
from luthier.importing.catalogue import sources
from luthier.importing.draft import Draft, Kind, Reasons, Translated, names, number, positive, switch, text, whole

NAME = "LLaMA-Factory"
MODEL_KEY = "model_name_or_path"
DATA_KEY = "dataset"
BATCH_KEY = "per_device_train_batch_size"

DEFAULTS: dict[str, Any] = {
    "dataset_dir": "data",
    "stage": "sft",
    "finetuning_type": "lora",
    "cutoff_len": 2048,
    "val_size": 0.0,
    "lora_rank": 8,
    "lora_target": "all",
    "freeze_trainable_layers": 2,
    BATCH_KEY: 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "pref_loss": "sigmoid",
    "num_train_epochs": 3.0,
    "optim": "adamw_torch",
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "seed": 42,
}
"""Their values where the file says nothing and ours would be another."""


def _targets(value: Any) -> Any:
    given = names(value)
    return "all-linear" if given == ["all"] else given


TRANSLATED: Translated = {
    **trainer.TRANSLATED,
    "model_name_or_path": ("model.path", text),
    "model_revision": ("model.revision", text),
    "cutoff_len": ("data.max_tokens", trainer.token_limit),
}
LORA: Translated = {
    "lora_rank": ("tune.rank", whole),
    "lora_alpha": ("tune.alpha", number),
    "lora_dropout": ("tune.dropout", number),
    "lora_target": ("tune.targets", _targets),
    "use_rslora": ("tune.rslora", switch),
    "additional_target": ("tune.modules_to_save", names),
}
QUANTISED = ("quantization_bit", "quantization_type", "quantization_method", "double_quantization")
BASES: dict[Any, str] = {4: "nf4", 8: "int8"}
"""`quantization_bit` -> `tune.base`."""
FREEZE: Translated = {"freeze_trainable_layers": ("tune.layers", positive)}

EACH_ROW_ONCE = ("concat", "interleave_once")
"""Values of `mix_strategy` by which every row comes once per epoch."""
STAGES: dict[str, str] = {"sft": "sft", "pt": "pretrain", "rm": "reward", "kto": "kto"}
LOSSES: dict[str, str] = {"sigmoid": "dpo", "hinge": "dpo", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}
"""`pref_loss` of the stage `dpo` -> our method."""
BETA: Translated = {"pref_beta": ("method.beta", number)}
METHODS: dict[str, Translated] = {
    "dpo": {
        **BETA,
        "pref_ftx": ("method.sft_weight", number),
        "dpo_label_smoothing": ("method.label_smoothing", number),
    },
    "ipo": {**BETA, "pref_ftx": ("method.sft_weight", number)},
    "simpo": {**BETA, "simpo_gamma": ("method.gamma", number), "pref_ftx": ("method.sft_weight", number)},
    "orpo": BETA,
    "kto": {
        **BETA,
        "kto_chosen_weight": ("method.wanted_weight", number),
        "kto_rejected_weight": ("method.unwanted_weight", number),
    },
}
"""Our method -> the keys that it has."""
SIMPO = {"method.beta": 0.1, "method.gamma": 0.5}
"""Their values where the file says nothing; those of other methods are ours."""
KINDS: dict[str, str] = {"lora": "lora", "full": "full", "freeze": "freeze"}
TEMPLATES: dict[str, str] = {"alpaca": "alpaca", "chatml": "chatml"}
"""Templates of ours that render the same; any other is the model's own."""

REASONS: Reasons = {
    **trainer.REASONS,
    "adapter_folder": ("not needed", "adapter_folder"),
    "cache_dir": ("not needed", "cache"),
    "compute_accuracy": ("not yet", "generated"),
    "create_new_adapter": ("not yet", "adapter"),
    "disable_gradient_checkpointing": ("not needed", "memory"),
    "disable_shuffling": ("not yet", "order"),
    "do_predict": ("not yet", "generated"),
    "do_sample": ("not needed", "inference"),
    "early_stopping_steps": ("not yet", "early_stop"),
    "enable_liger_kernel": ("not needed", "kernels"),
    "enable_thinking": ("not needed", "thinking"),
    "eval_num_beams": ("not yet", "generated"),
    "eval_on_each_dataset": ("not yet", "each_set"),
    "export_dir": ("not yet", "export"),
    "flash_attn": ("not needed", "kernels"),
    "freeze_extra_modules": ("not yet", "frozen_parts"),
    "freeze_language_model": ("not yet", "media"),
    "freeze_multi_modal_projector": ("not needed", "no_media"),
    "freeze_original_embeddings": ("not needed", "rows_only"),
    "freeze_vision_tower": ("not needed", "no_media"),
    "ignore_pad_token_for_loss": ("not needed", "packing"),
    "image_max_pixels": ("not yet", "media"),
    "include_effective_tokens_per_second": ("not needed", "events"),
    "infer_backend": ("not needed", "inference"),
    "infer_dtype": ("not needed", "inference"),
    "init_special_tokens": ("not yet", "mean_rows"),
    "interleave_probs": ("not yet", "mixing"),
    "ld_alpha": ("not yet", "preference"),
    "max_samples": ("not yet", "max_samples"),
    "media_dir": ("not needed", "no_media"),
    "mixture_of_depths": ("not yet", "architecture"),
    "moe_aux_loss_coef": ("not yet", "architecture"),
    "max_length": ("not needed", "inference"),
    "max_new_tokens": ("not needed", "inference"),
    "ms_hub_token": ("not needed", "secrets"),
    "neat_packing": ("not needed", "packing"),
    "new_special_tokens_config": ("not yet", "token_file"),
    "num_beams": ("not needed", "inference"),
    "offload_folder": ("not needed", "memory"),
    "om_hub_token": ("not needed", "secrets"),
    "overwrite_cache": ("not needed", "cache"),
    "overwrite_output_dir": ("not needed", "resume"),
    "packing": ("not needed", "packing"),
    "per_device_eval_batch_size": ("not needed", "memory"),
    "pissa_convert": ("not yet", "adapter"),
    "pissa_init": ("not yet", "adapter"),
    "pissa_iter": ("not yet", "adapter"),
    "plot_loss": ("not needed", "events"),
    "pref_bco_weight": ("not yet", "preference"),
    "pref_ftx": ("not yet", "preference"),
    "predict_with_generate": ("not yet", "generated"),
    "preprocessing_batch_size": ("not needed", "workers"),
    "preprocessing_num_workers": ("not needed", "workers"),
    "print_param_status": ("not needed", "events"),
    "quantization_device_map": ("not needed", "memory"),
    "ref_model": ("not yet", "reference"),
    "ref_model_adapters": ("not yet", "reference"),
    "ref_model_quantization_bit": ("not yet", "reference"),
    "repetition_penalty": ("not needed", "inference"),
    "resize_vocab": ("not needed", "resized"),
    "reward_model": ("not yet", "own_judge"),
    "reward_model_adapters": ("not yet", "own_judge"),
    "reward_model_quantization_bit": ("not yet", "own_judge"),
    "reward_model_type": ("not yet", "own_judge"),
    "rope_scaling": ("not yet", "architecture"),
    "shift_attn": ("not yet", "architecture"),
    "split_special_tokens": ("not needed", "injection"),
    "streaming": ("not needed", "streaming"),
    "buffer_size": ("not needed", "streaming"),
    "swanlab_api_key": ("not needed", "secrets"),
    "swanlab_lark_secret": ("not needed", "secrets"),
    "swanlab_lark_webhook_url": ("not needed", "secrets"),
    "swanlab_logdir": ("not yet", "tracker_names"),
    "swanlab_mode": ("not yet", "tracker_names"),
    "swanlab_project": ("not yet", "tracker_names"),
    "swanlab_run_name": ("not yet", "tracker_names"),
    "swanlab_workspace": ("not yet", "tracker_names"),
    "temperature": ("not needed", "inference"),
    "tokenized_path": ("not needed", "cache"),
    "tool_format": ("not needed", "template_tools"),
    "top_k": ("not needed", "inference"),
    "top_p": ("not needed", "inference"),
    "train_on_prompt": ("not yet", "loss_on_prompt"),
    "upcast_layernorm": ("not needed", "always"),
    "upcast_lmhead_output": ("not needed", "always"),
    "use_adam_mini": ("not yet", "optimizer"),
    "use_apollo": ("not yet", "optimizer"),
    "use_badam": ("not yet", "optimizer"),
    "use_dft_loss": ("not yet", "loss"),
    "use_dora": ("not yet", "adapter"),
    "use_eaft_loss": ("not yet", "loss"),
    "use_fast_tokenizer": ("not needed", "always"),
    "use_galore": ("not yet", "optimizer"),
    "use_kv_cache": ("not needed", "inference"),
    "use_llama_pro": ("not yet", "frozen_parts"),
    "use_mca": ("not yet", "several_devices"),
    "use_muon": ("not yet", "optimizer"),
    "use_ray": ("not yet", "several_devices"),
    "use_reentrant_gc": ("not needed", "memory"),
    "use_unsloth": ("not needed", "kernels"),
    "use_unsloth_gc": ("not needed", "memory"),
    "use_v1_kernels": ("not needed", "kernels"),
    "video_max_pixels": ("not yet", "media"),
}
FAMILIES: tuple[tuple[str, tuple[Kind, str]], ...] = (
    ("apollo_", ("not yet", "optimizer")),
    ("badam_", ("not yet", "optimizer")),
    ("galore_", ("not yet", "optimizer")),
    ("oft_", ("not yet", "adapter")),
    ("ppo_", ("not yet", "preference")),
    ("export_", ("not yet", "export")),
    ("vllm_", ("not needed", "inference")),
    ("sglang_", ("not needed", "inference")),
    ("fp8_", ("not yet", "quantised")),
    ("image_", ("not yet", "media")),
    ("video_", ("not yet", "media")),
    ("audio_", ("not yet", "media")),
    ("ray_", ("not yet", "several_devices")),
)
"""Beginnings of keys that share a fate."""


def translate(given: Mapping[str, Any], catalogue: Mapping[str, Any] | None, folder: str, devices: int) -> Draft:
    """Args:
    catalogue: what `dataset_info.json` holds; None where there is none, and names are those of data sets on a hub.
    folder: the folder it lies in, which file names are relative to.
    devices: how many devices the recipe was meant for.
    """
    draft = Draft(given, DEFAULTS)
    draft.translate(TRANSLATED)
    _method(draft)
    _data(draft, catalogue, folder)
    _tune(draft)
    trainer.new_tokens(draft, "add_tokens", "add_special_tokens", "new_special_tokens")
    trainer.optimizer(draft, "optim")
    trainer.batch(draft, BATCH_KEY, devices)
    trainer.length(draft, "num_train_epochs")
    trainer.schedule(draft, "lr_scheduler_type")
    trainer.precision(draft, brain=("bf16", "pure_bf16"))
    trainer.output(draft)
    _reports(draft)
    for key in [key for key in draft.given if key not in REASONS]:
        if draft.dealt_with(key):
            continue
        known = next((fate for beginning, fate in FAMILIES if key.startswith(beginning)), None)
        if known is not None:
            draft.unless_off(key, *known)
    draft.explain(REASONS)
    return draft


def _method(draft: Draft) -> None:
    if draft.has("do_train") and draft.take("do_train", switch) is not False:
        draft.note("do_train", "not needed", "always")
    stage, loss = draft.take("stage", text), draft.take("pref_loss", text)
    kind = LOSSES.get(loss) if stage == "dpo" else STAGES.get(stage)
    if kind is None and stage == "dpo":
        draft.miss("pref_loss", "stage", stage=loss)
    elif kind is None:
        draft.miss("stage", "stage", stage=stage)
    else:
        draft.put("method.kind", kind, "stage", *(("pref_loss",) if stage == "dpo" else ()))
        _weights(draft, kind, loss)
    if draft.has("pref_loss") and stage != "dpo":
        draft.note("pref_loss", "not needed", "other_method", method=kind or "sft")
    keys = [key for table in METHODS.values() for key in table if key != "pref_ftx" or kind not in ("orpo", "kto")]
    draft.leave(keys, "other_method", method=kind or "sft")
    if draft.take("mask_history", switch) and kind == "sft":
        draft.put("method.train_on", "last", "mask_history")


def _weights(draft: Draft, kind: str, loss: str) -> None:
    draft.translate(METHODS.get(kind, {}))
    if loss == "hinge":
        draft.put("method.loss", loss, "pref_loss")
    stated = SIMPO if kind == "simpo" else {"method.centre": 0.0} if kind == "reward" else {}
    for name, value in stated.items():
        if name not in draft.settings:
            draft.put(name, value, "stage")


def _tune(draft: Draft) -> None:
    given = draft.take("finetuning_type", text)
    kind = KINDS.get(given)
    if kind is None:
        draft.miss("finetuning_type", "tuning", tuning=given)
        kind = "lora"
    draft.put("tune.kind", kind, "finetuning_type")
    if draft.take("train_from_scratch", switch):
        draft.put("model.init", "random", "train_from_scratch")
    adapters = draft.take("adapter_name_or_path", names) or []
    if kind == "lora":
        _quantised(draft)
    if kind == "lora" and adapters:
        _further(draft, adapters)
    elif kind == "lora":
        draft.translate(LORA)
    elif kind == "freeze":
        draft.translate(FREEZE)
        draft.note("finetuning_type", "changed", "freeze")
        if draft.has("freeze_trainable_modules"):
            every = draft.take("freeze_trainable_modules") == "all"
            fate: tuple[Kind, str] = ("not needed", "always") if every else ("not yet", "frozen_parts")
            draft.note("freeze_trainable_modules", *fate)
    draft.leave((*LORA, *FREEZE, *QUANTISED, "freeze_trainable_modules"), "other_kind", tuning=kind)


def _quantised(draft: Draft) -> None:
    """A base in 4 or 8 bits; of 4 bits there is only nf4."""
    if not draft.has("quantization_bit"):
        return
    base = BASES.get(draft.take("quantization_bit", whole))
    if base is None:
        draft.note("quantization_bit", "not yet", "quantised")
        return
    draft.put("tune.kind", "qlora", "finetuning_type", "quantization_bit")
    draft.put("tune.base", base, "quantization_bit")
    method = draft.take("quantization_method", text)
    if draft.has("quantization_method"):
        draft.note("quantization_method", *_quantiser(str(method)))
    trainer.four_bit(draft, base, "quantization_type", "double_quantization")


def _quantiser(method: str) -> tuple[Kind, str]:
    return ("not needed", "always") if method.lower() in ("bnb", "bitsandbytes") else ("changed", "other_quantiser")


def _further(draft: Draft, adapters: list[str]) -> None:
    """An adapter that is trained further settles its own shape."""
    draft.put("tune.from", adapters[-1], "adapter_name_or_path")
    if len(adapters) > 1:
        draft.note("adapter_name_or_path", "not yet", "several_adapters")
    draft.translate({"lora_dropout": LORA["lora_dropout"]})
    draft.leave(LORA, "from_settles")


def _reports(draft: Draft) -> None:
    chosen = trainer.reports(draft)
    if draft.take("use_swanlab", switch) and "swanlab" not in chosen:
        chosen.append("swanlab")
    if chosen:
        draft.put("run.report", chosen, "report_to", "use_swanlab")
    if draft.has("run_name"):
        draft.note("run_name", "not needed", "run_name")


# ---------------------------------------------------------------------------------------------------- data


def _data(draft: Draft, catalogue: Mapping[str, Any] | None, folder: str) -> None:
    plain = draft.settings.get("method.kind") == "pretrain"
    draft.take("dataset_dir")
    found = sources(draft, draft.take("dataset", names), catalogue, folder)
    draft.put("data.train", found, "dataset", "dataset_dir")
    share = draft.take("val_size", number)
    if draft.has("eval_dataset"):
        held_out = sources(draft, draft.take("eval_dataset", names) or [], catalogue, folder)
        draft.put("data.validation", held_out, "eval_dataset")
        draft.translate({"eval_steps": ("run.validate_every", positive)})
    else:
        trainer.evaluation(draft, share, "val_size")
    if draft.has("mix_strategy"):
        once = draft.take("mix_strategy") in EACH_ROW_ONCE
        draft.note("mix_strategy", *(("not needed", "always") if once else ("not yet", "mixing")))
        if once:
            draft.leave(["interleave_probs"], "without_effect")
    _template(draft, plain)
    if not plain and "cutoff_len" in draft.given:
        draft.note("cutoff_len", "changed", "too_long")


def _template(draft: Draft, plain: bool) -> None:
    given = draft.take("template", text)
    system = draft.take("default_system", text)
    if plain:
        for key in ("template", "default_system", "train_on_prompt"):
            if draft.has(key):
                draft.note(key, "not needed", "no_template")
        return
    if given is not None:
        draft.put("data.template", TEMPLATES.get(given, "model"), "template")
        if given not in TEMPLATES:
            draft.note("template", "changed", "template")
    if system is not None:
        draft.put("data.system", system, "default_system")
