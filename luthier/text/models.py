"""Messages of the area `models`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "models.no_score.rule": (
        "this model gives no rewards: it has no scalar head (`score.weight`)",
        "该模型不能打分：它没有标量输出头（`score.weight`）",
    ),
    "models.no_score.remedy": (
        "Give a run that was trained with method=reward, or a model folder with such a head.",
        "请给出用 method=reward 训练的运行，或带有这种输出头的模型文件夹。",
    ),
    "models.only_scores.rule": (
        "this is a reward model: it gives an answer a number, and writes none",
        "这是奖励模型：它只给回答打分，不会写回答",
    ),
    "models.only_scores.remedy": (
        "It judges: method.rewards=model:{judge} (grpo, ppo), luthier generate MODEL FILE --n 8 --judge {judge}, or "
        "open_judge of luthier.session. For other programs, luthier merge writes a folder that transformers reads with "
        "AutoModelForSequenceClassification.",
        "它用于打分：method.rewards=model:{judge}（grpo、ppo），luthier generate MODEL FILE --n 8 --judge {judge}，"
        "或 luthier.session 的 open_judge。要给其他程序使用，luthier merge 会写出可由 transformers 的 "
        "AutoModelForSequenceClassification 读取的文件夹。",
    ),
    # ------------------------------------------------------------------------------------------ config.json
    "models.no_folder.rule": ("there is no such folder", "没有这个文件夹"),
    "models.no_folder.remedy": (
        "Give the folder that holds the model's config.json, or a hub id such as Qwen/Qwen2.5-0.5B-Instruct.",
        "请给出包含模型 config.json 的文件夹，或模型库 id，例如 Qwen/Qwen2.5-0.5B-Instruct。",
    ),
    "models.no_config.rule": (
        "this folder has no config.json, so it is not a model",
        "该文件夹里没有 config.json，不是模型",
    ),
    "models.no_config.remedy": (
        "Give the folder with config.json and the *.safetensors files; if the download broke off, start it again.",
        "请给出同时包含 config.json 和 *.safetensors 的文件夹；如果下载中断，请重新下载。",
    ),
    "models.is_adapter.rule": ("this is an adapter, not a base model", "这是适配器，不是基础模型"),
    "models.is_adapter.remedy": (
        "Give the base model as `model` (adapter_config.json names it), and to train the adapter further set"
        " tune.from to this folder.",
        "请把基础模型填入 `model`（名称见 adapter_config.json）；要继续训练该适配器，请把 tune.from 设为此文件夹。",
    ),
    "models.bad_config.rule": (
        "the file is not a readable JSON object: {reason}",
        "该文件不是可读的 JSON 对象：{reason}",
    ),
    "models.bad_config.remedy": (
        "Copy or download the file again; it is only a few kilobytes.",
        "请重新复制或下载该文件，它只有几 KB。",
    ),
    "models.no_model_type.rule": ("the file does not say which family the model is of", "文件没有说明模型属于哪个系列"),
    "models.no_model_type.remedy": (
        'Set "model_type" to one of: {known}.',
        '请把 "model_type" 设为以下之一：{known}。',
    ),
    "models.unknown_family.rule": ("Luthier has no such model family", "Luthier 不支持该模型系列"),
    "models.unknown_family.remedy": (
        "Families: {known} (nearest: {nearest}). Choose a model of one of these.",
        "支持的系列：{known}（最接近：{nearest}）。请选择其中之一的模型。",
    ),
    "models.config_missing_field.rule": ("the field is missing", "缺少该字段"),
    "models.config_missing_field.remedy": (
        "Every model of this family has it: copy or download config.json again.",
        "该系列的模型都有此字段：请重新复制或下载 config.json。",
    ),
    "models.config_most.rule": (
        "no model has so much; at most {most} can be read",
        "没有模型会这么大；最多可读 {most}",
    ),
    "models.config_most.remedy": (
        "The file is damaged: fetch the model again.",
        "该文件已损坏：请重新获取模型。",
    ),
    "models.config_integer.rule": (
        "must be a whole number, {least} or more",
        "必须是不小于 {least} 的整数",
    ),
    "models.config_integer.remedy": (
        "Restore the value of the original config.json.",
        "请恢复原始 config.json 中的值。",
    ),
    "models.config_number.rule": ("must be a number above 0", "必须是大于 0 的数"),
    "models.config_number.remedy": (
        "Restore the value of the original config.json.",
        "请恢复原始 config.json 中的值。",
    ),
    "models.config_flag.rule": ("must be true or false", "必须是 true 或 false"),
    "models.config_flag.remedy": ("Restore the value of the original config.json.", "请恢复原始 config.json 中的值。"),
    "models.config_object.rule": ("must be an object with names and values", "必须是由名称和值组成的对象"),
    "models.config_object.remedy": (
        "Restore the value of the original config.json.",
        "请恢复原始 config.json 中的值。",
    ),
    "models.quantized.rule": ("the weights in this folder are already quantised", "该文件夹中的权重已被量化"),
    "models.quantized.remedy": (
        "Use the original 16-bit or 32-bit model: training starts from its full precision.",
        "请使用原始的 16 位或 32 位模型：训练要从完整精度开始。",
    ),
    "models.not_causal.rule": (
        "this is not a text-generating model (a class that ends in ForCausalLM)",
        "这不是文本生成模型（类名应以 ForCausalLM 结尾）",
    ),
    "models.not_causal.remedy": (
        "Choose the generating model of the same series; embedding, reward and vision models have another head.",
        "请选择同系列的生成模型；向量、奖励和视觉模型的输出层不同。",
    ),
    "models.activation.rule": ("this activation function is not built in", "不支持该激活函数"),
    "models.activation.remedy": ("Known: {known}.", "支持：{known}。"),
    "models.kv_heads.rule": (
        "{heads} attention heads cannot be shared out evenly over {kv_heads} key/value heads",
        "{heads} 个注意力头无法平均分给 {kv_heads} 个键/值头",
    ),
    "models.kv_heads.remedy": ("Restore the original config.json.", "请恢复原始 config.json。"),
    "models.heads.rule": (
        "hidden_size {width} is not a multiple of it, and head_dim is not given",
        "hidden_size {width} 不是它的倍数，且没有给出 head_dim",
    ),
    "models.heads.remedy": ("Restore the original config.json.", "请恢复原始 config.json。"),
    "models.head_dim_odd.rule": (
        "rotary positions need an even number of features per head, here {head_dim}",
        "旋转位置编码要求每个头的特征数为偶数，这里是 {head_dim}",
    ),
    "models.head_dim_odd.remedy": ("Restore the original config.json.", "请恢复原始 config.json。"),
    "models.layer_types.rule": (
        "must list one of {known} for each of the {count} layers",
        "必须为 {count} 层逐一给出 {known} 之一",
    ),
    "models.layer_types.remedy": ("Restore the original config.json.", "请恢复原始 config.json。"),
    "models.rope_kind.rule": ("this kind of rotary scaling is not built in", "不支持这种旋转位置缩放方式"),
    "models.rope_kind.remedy": (
        "Known: {known}. Where the text stays within the original length, scaling can be removed from a copy of"
        " config.json (rope_scaling: null).",
        "支持：{known}。如果文本不超过原始长度，可在 config.json 的副本中去掉缩放（rope_scaling: null）。",
    ),
    "models.rope_partial.rule": (
        "rotating only a part of each head is not built in for this family",
        "该系列不支持只旋转每个头的一部分",
    ),
    "models.rope_partial.remedy": (
        "Only 1.0 is possible; restore the original config.json.",
        "只能为 1.0；请恢复原始 config.json。",
    ),
    "models.rope_per_layer.rule": (
        "rotary settings that differ by layer are not built in",
        "不支持按层不同的旋转位置设置",
    ),
    "models.rope_per_layer.remedy": (
        "This family has one setting for all layers; restore the original config.json.",
        "该系列所有层共用一个设置；请恢复原始 config.json。",
    ),
    "models.no_such_cap.rule": (
        "this family's own code has no cap on attention scores and would ignore it",
        "该系列的官方实现没有注意力分数上限，会忽略此项",
    ),
    "models.no_such_cap.remedy": ("Set it to null.", "请设为 null。"),
    "models.bidirectional.rule": (
        "in this model every token sees all others, so that it cannot write text",
        "该模型的每个 token 都能看到其他所有 token，不能用于生成文本",
    ),
    "models.bidirectional.remedy": (
        "Choose the text-generating model of the same series.",
        "请选择同系列的文本生成模型。",
    ),
    # ------------------------------------------------------------------------------------------ what trains
    "models.too_many_layers.rule": ("the model has only {layers} layers", "模型只有 {layers} 层"),
    "models.too_many_layers.remedy": (
        "Choose 1 to {layers}, or tune=full.",
        "请选择 1 到 {layers}，或使用 tune=full。",
    ),
    "models.no_such_layer.rule": ("the model has the layers 0 to {last}", "模型的层号为 0 到 {last}"),
    "models.no_such_layer.remedy": (
        "Name at least one of these, or leave the field out for all layers.",
        "请至少给出其中一层；不填则表示所有层。",
    ),
    "models.no_bitsandbytes.rule": (
        "needs the package bitsandbytes, which is not installed",
        "需要 bitsandbytes 包，但尚未安装",
    ),
    "models.no_bitsandbytes.remedy": (
        "Install it: .venv/bin/python -m pip install bitsandbytes. Or write tune.kind: lora, which needs no more than "
        "memory for the base.",
        "请安装：.venv/bin/python -m pip install bitsandbytes。或写 tune.kind: lora，那只需要放得下底座的内存。",
    ),
    "models.no_such_module.rule": ("matches no module of this model", "与模型的任何模块都不匹配"),
    "models.no_such_module.remedy": (
        "There are: {known} (nearest: {nearest}).",
        "可选：{known}（最接近：{nearest}）。",
    ),
    "models.target_not_linear.rule": (
        "is not one of the linear modules that can carry an adapter",
        "不是可以挂接适配器的线性模块",
    ),
    "models.target_not_linear.remedy": (
        "There are: {known}. To train embed_tokens, lm_head or norms whole, list them in tune.modules_to_save.",
        "可选：{known}。要完整训练 embed_tokens、lm_head 或归一化层，请列入 tune.modules_to_save。",
    ),
    "models.bad_pattern.rule": ("is not a regular expression: {reason}", "不是正则表达式：{reason}"),
    "models.bad_pattern.remedy": (
        "A module name such as q_proj or layers.0.self_attn.q_proj is one too.",
        "模块名（如 q_proj 或 layers.0.self_attn.q_proj）也可以直接使用。",
    ),
    "models.tied_head.rule": (
        "in this model the head and embed_tokens are one matrix, so the head cannot train alone",
        "该模型的输出层与 embed_tokens 是同一个矩阵，输出层无法单独训练",
    ),
    "models.tied_head.remedy": (
        "Name embed_tokens: it trains both at once.",
        "请填写 embed_tokens：两者会一起训练。",
    ),
    # ------------------------------------------------------------------------------------------ the picture
    "models.structure_model": (
        "Model: {family}, {layers} layers, width {width:,}, vocabulary {vocab:,}",
        "模型：{family}，{layers} 层，宽度 {width:,}，词表 {vocab:,}",
    ),
    "models.structure_layers": ("layers {layers} ({count} alike)", "第 {layers} 层（{count} 层相同）"),
    "models.structure_more": (
        "... and {count} layers of {kinds} more kinds",
        "……另有 {kinds} 种共 {count} 层",
    ),
    "models.structure_attention": (
        "attention: {heads} heads of {dim}, {kv_heads} for keys and values",
        "注意力：{heads} 个头，每头 {dim}，键和值 {kv_heads} 个头",
    ),
    "models.structure_window": (", window of {window:,} tokens", "，窗口 {window:,} 个 token"),
    "models.structure_bias": (", with biases", "，带偏置"),
    "models.structure_mlp": ("MLP: width {width:,}, {act}", "MLP：宽度 {width:,}，{act}"),
    "models.structure_frozen": ("frozen", "冻结"),
    "models.structure_trained": ("trained", "训练"),
    "models.structure_saved": ("trained, as a copy beside the base", "训练（作为基础模型旁的副本）"),
    "models.adapter_tokens.rule": (
        "rows for single tokens are read where embedding and head have the same, in ascending order, without a gap",
        "单个词元的行：嵌入层和输出层须相同，按升序排列，且没有空缺",
    ),
    "models.adapter_tokens.remedy": (
        "Merge the adapter into its base with PEFT, and use the merged model.",
        "请用 PEFT 将适配器合并进基础模型，然后使用合并后的模型。",
    ),
    "models.adapter_tokens_differ.rule": (
        "this adapter has rows for {count} new tokens that data.new_tokens does not add in the same way",
        "该适配器含有 {count} 个新词元的行，与 data.new_tokens 添加的不一致",
    ),
    "models.adapter_tokens_differ.remedy": (
        "Give data.new_tokens as in the run that made the adapter.",
        "请让 data.new_tokens 与生成该适配器的运行一致。",
    ),
    "models.structure_tokens": (
        "frozen, {count} rows for new tokens trained beside it",
        "冻结，另训练 {count} 行新词元",
    ),
    "models.structure_shared": ("shared with embed_tokens", "与 embed_tokens 共享"),
    "models.structure_adapter": (
        "frozen + adapter of rank {rank}, alpha {alpha}: {parameters}",
        "冻结 + 适配器，秩 {rank}，alpha {alpha}：{parameters}",
    ),
    "models.structure_counts": (
        "Trains {trainable} of {total} parameters ({percent} %)",
        "训练 {trainable} / {total} 个参数（{percent} %）",
    ),
    # ------------------------------------------------------------------------------------------ weight files
    "models.no_weights.rule": (
        "there are no *.safetensors weights in this folder",
        "该文件夹里没有 *.safetensors 权重",
    ),
    "models.no_weights.remedy": (
        "If the download broke off, start it again. To train from fresh weights, set model.init=random.",
        "如果下载中断，请重新下载。要从随机权重开始训练，请设置 model.init=random。",
    ),
    "models.only_bin.rule": (
        "the weights are in the old *.bin format, which can run code when it is opened",
        "权重是旧的 *.bin 格式，打开时可能执行代码",
    ),
    "models.only_bin.remedy": (
        'Convert it once, if you trust its source: python -c "from transformers import AutoModelForCausalLM as M;'
        " M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}')\"",
        '如果信任来源，请转换一次：python -c "from transformers import AutoModelForCausalLM as M;'
        " M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}')\"",
    ),
    "models.bad_index.rule": ("the list of weight files cannot be used: {reason}", "权重文件清单无法使用：{reason}"),
    "models.bad_index.remedy": ("Download this file again.", "请重新下载该文件。"),
    "models.shard_missing.rule": ("weight files are missing: {files}", "缺少权重文件：{files}"),
    "models.shard_missing.remedy": (
        "Start the download again; it fetches only what is missing.",
        "请重新开始下载，只会下载缺少的部分。",
    ),
    "models.damaged.rule": ("the file is damaged or incomplete: {reason}", "文件已损坏或不完整：{reason}"),
    "models.damaged.remedy": ("Delete this file and download or copy it again.", "请删除该文件并重新下载或复制。"),
    "models.missing_tensors.rule": ("{count} weights are missing: {names}", "缺少 {count} 个权重：{names}"),
    "models.missing_tensors.remedy": (
        "The weights do not belong to this config.json, or a file is missing: download the model again.",
        "权重与 config.json 不匹配，或缺少文件：请重新下载模型。",
    ),
    "models.unexpected_tensors.rule": (
        "{count} weights have no place in this model: {names}",
        "{count} 个权重在该模型中没有位置：{names}",
    ),
    "models.unexpected_tensors.remedy": (
        "config.json does not describe these weights (biases, or another family?); use the config.json they came with.",
        "config.json 与这些权重不符（是否有偏置，或属于其他系列？）；请使用它们原配的 config.json。",
    ),
    "models.wrong_shapes.rule": (
        "{count} weights have another shape than config.json says: {names}",
        "{count} 个权重的形状与 config.json 不符：{names}",
    ),
    "models.wrong_shapes.remedy": (
        "Use the config.json that these weights came with (vocab_size changes when tokens are added).",
        "请使用这些权重原配的 config.json（增加 token 会改变 vocab_size）。",
    ),
    "models.weight_dtype.rule": (
        "{count} weights are not plain floating-point numbers: {names}",
        "{count} 个权重不是普通浮点数：{names}",
    ),
    "models.weight_dtype.remedy": (
        "Use the original 16-bit or 32-bit model instead of a quantised one.",
        "请使用原始的 16 位或 32 位模型，而不是量化模型。",
    ),
    "models.head_differs.rule": (
        "config.json says that lm_head shares its weights with embed_tokens, but the file holds a different lm_head",
        "config.json 声明 lm_head 与 embed_tokens 共享权重，但文件中的 lm_head 不同",
    ),
    "models.head_differs.remedy": (
        "If the head was trained by itself, set tie_word_embeddings to false in config.json.",
        "如果输出层是单独训练的，请在 config.json 中把 tie_word_embeddings 设为 false。",
    ),
    "models.overflow.rule": (
        "weights too large for float16: {names}",
        "权重超出 float16 的范围：{names}",
    ),
    "models.overflow.remedy": ("Set model.dtype=float32 or bfloat16.", "请设置 model.dtype=float32 或 bfloat16。"),
    "models.base_changed.rule": (
        "files of the base model are not those that this run was trained on: {files}",
        "基础模型的文件与这次训练时使用的不同：{files}",
    ),
    "models.base_changed.remedy": (
        "Put the original files back (manifest.json in the run folder has their hashes), or train again on these.",
        "请恢复原来的文件（其哈希值见训练文件夹中的 manifest.json），或在当前权重上重新训练。",
    ),
    "models.same_folder.rule": (
        "is the folder of the base model, which is never changed",
        "是基础模型所在的文件夹，不会被修改",
    ),
    "models.same_folder.remedy": ("Choose another output folder.", "请选择其他输出文件夹。"),
    "models.not_empty.rule": ("is there already and not empty", "已存在且不为空"),
    "models.not_empty.remedy": (
        "Choose another folder, or clear this one yourself.",
        "请选择其他文件夹，或自行清空该文件夹。",
    ),
    "models.being_written.rule": ("another process is writing this", "另一个进程正在写入它"),
    "models.being_written.remedy": ("Wait for it, or choose another folder.", "请等待其完成，或选择其他文件夹。"),
    # ------------------------------------------------------------------------------------------ adapters
    "models.no_adapter.rule": (
        "this folder has no adapter_config.json, so it is not an adapter",
        "该文件夹里没有 adapter_config.json，不是适配器",
    ),
    "models.no_adapter.remedy": (
        "Give a run, or the folder with adapter_config.json and adapter_model.safetensors.",
        "请给出一次训练（run），或包含 adapter_config.json 和 adapter_model.safetensors 的文件夹。",
    ),
    "models.adapter_type.rule": ("only LoRA adapters can be used", "只能使用 LoRA 适配器"),
    "models.adapter_type.remedy": (
        "Merge this adapter into its base with the program that made it, and use the result as the model.",
        "请用生成它的程序把适配器合并进基础模型，再把结果作为模型使用。",
    ),
    "models.adapter_task.rule": (
        "the adapter was made for another task than text generation",
        "该适配器不是为文本生成而训练的",
    ),
    "models.adapter_task.remedy": (
        "Only adapters with task_type CAUSAL_LM can be used.",
        "只能使用 task_type 为 CAUSAL_LM 的适配器。",
    ),
    "models.adapter_init.rule": (
        "an adapter made with this initialisation belongs to a changed base, not to the original one",
        "用这种方式初始化的适配器属于被改动过的基础模型，而不是原始模型",
    ),
    "models.adapter_init.remedy": (
        "Save it again in PEFT with save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes it"
        " an ordinary adapter.",
        "请在 PEFT 中用 save_pretrained(..., path_initial_model_for_weight_conversion=...) 重新保存，"
        "使其成为普通适配器。",
    ),
    "models.adapter_feature.rule": (
        "the adapter uses a feature that Luthier does not have",
        "该适配器使用了 Luthier 没有的功能",
    ),
    "models.adapter_feature.remedy": (
        "Merge this adapter into its base with the program that made it, and use the result as the model.",
        "请用生成它的程序把适配器合并进基础模型，再把结果作为模型使用。",
    ),
    "models.adapter_dora.rule": (
        "the adapter is a DoRA adapter, which Luthier merges but does not train or answer with",
        "该适配器是 DoRA 适配器：Luthier 可以合并它，但不能用它训练或回答",
    ),
    "models.adapter_dora.remedy": (
        "Merge it first (luthier merge ADAPTER-FOLDER -o FOLDER) and use the merged model.",
        "请先合并（luthier merge 适配器文件夹 -o 文件夹），再使用合并后的模型。",
    ),
    "models.adapter_value.rule": ("this value cannot be used", "该值无法使用"),
    "models.adapter_value.remedy": ("Restore the original adapter_config.json.", "请恢复原始 adapter_config.json。"),
    "models.adapter_pattern.rule": (
        "a pattern is not a regular expression: {reason}",
        "某个模式不是正则表达式：{reason}",
    ),
    "models.adapter_pattern.remedy": ("Restore the original adapter_config.json.", "请恢复原始 adapter_config.json。"),
    "models.adapter_selects_nothing.rule": (
        "the adapter fits no module of this model",
        "该适配器与模型的任何模块都不匹配",
    ),
    "models.adapter_selects_nothing.remedy": (
        "It was made for another base model; adapter_config.json names it.",
        "它是为另一个基础模型制作的；名称见 adapter_config.json。",
    ),
    "models.adapter_target.rule": (
        "adapters on the embedding, the norms or the head are not supported",
        "不支持挂在嵌入层、归一化层或输出层上的适配器",
    ),
    "models.adapter_target.remedy": (
        "Merge this adapter into its base with the program that made it, and use the result as the model.",
        "请用生成它的程序把适配器合并进基础模型，再把结果作为模型使用。",
    ),
    "models.adapter_saves.rule": (
        "only the embedding, the head and norms can be saved whole beside an adapter",
        "只有嵌入层、输出层和归一化层可以完整保存在适配器旁",
    ),
    "models.adapter_saves.remedy": (
        "Merge this adapter into its base with the program that made it, and use the result as the model.",
        "请用生成它的程序把适配器合并进基础模型，再把结果作为模型使用。",
    ),
    "models.adapter_unties.rule": (
        "the adapter trains only one of embed_tokens and lm_head, which are one matrix in this model",
        "该适配器只训练了 embed_tokens 和 lm_head 之一，而它们在该模型中是同一个矩阵",
    ),
    "models.adapter_unties.remedy": (
        "Train it with ensure_weight_tying=True, or on a base whose tie_word_embeddings is false.",
        "请用 ensure_weight_tying=True 训练，或使用 tie_word_embeddings 为 false 的基础模型。",
    ),
    "models.adapter_halves_differ.rule": (
        "the adapter holds two different matrices for embed_tokens and lm_head, which are one in this model",
        "该适配器中 embed_tokens 与 lm_head 是两个不同的矩阵，而它们在该模型中是同一个",
    ),
    "models.adapter_halves_differ.remedy": (
        "Train it with ensure_weight_tying=True, or on a base whose tie_word_embeddings is false.",
        "请用 ensure_weight_tying=True 训练，或使用 tie_word_embeddings 为 false 的基础模型。",
    ),
    "models.adapter_only_bin.rule": (
        "the adapter's weights are in the old *.bin format, which can run code when it is opened",
        "适配器权重是旧的 *.bin 格式，打开时可能执行代码",
    ),
    "models.adapter_only_bin.remedy": (
        "Load and save it once with PEFT, if you trust its source: save_pretrained writes adapter_model.safetensors.",
        "如果信任来源，请用 PEFT 加载并保存一次：save_pretrained 会写出 adapter_model.safetensors。",
    ),
    "models.adapter_no_weights.rule": ("adapter_model.safetensors is missing", "缺少 adapter_model.safetensors"),
    "models.adapter_no_weights.remedy": (
        "Copy or download the whole adapter folder again.",
        "请重新复制或下载整个适配器文件夹。",
    ),
    "models.adapter_missing_tensors.rule": (
        "{count} tensors of the adapter are missing: {names}",
        "适配器缺少 {count} 个张量：{names}",
    ),
    "models.adapter_missing_tensors.remedy": (
        "The adapter is incomplete, or was made for another base model; adapter_config.json names it.",
        "适配器不完整，或是为另一个基础模型制作的；名称见 adapter_config.json。",
    ),
    "models.adapter_unexpected_tensors.rule": (
        "{count} tensors of the adapter have no place in this model: {names}",
        "适配器的 {count} 个张量在该模型中没有位置：{names}",
    ),
    "models.adapter_unexpected_tensors.remedy": (
        "The adapter was made for another base model, or its adapter_config.json was changed.",
        "适配器是为另一个基础模型制作的，或 adapter_config.json 被改动过。",
    ),
    "models.adapter_wrong_shapes.rule": (
        "{count} tensors of the adapter have the wrong shape: {names}",
        "适配器有 {count} 个张量形状不符：{names}",
    ),
    "models.adapter_wrong_shapes.remedy": (
        "The adapter was made for another base model, or its adapter_config.json was changed.",
        "适配器是为另一个基础模型制作的，或 adapter_config.json 被改动过。",
    ),
    "models.adapter_absent.rule": (
        "no adapter of this name is loaded; there are: {there}",
        "没有加载这个名称的适配器；已有：{there}",
    ),
    "models.adapter_absent.remedy": ("Load it first, or name one of these.", "请先加载它，或使用上述名称之一。"),
    "models.adapter_loaded_twice.rule": ("an adapter of this name is loaded already", "已加载同名适配器"),
    "models.adapter_loaded_twice.remedy": ("Give it another name.", "请换一个名称。"),
}
