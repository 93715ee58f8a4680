"""Messages of the area `gguf`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "gguf.unknown_family.rule": (
        "this family is not written as GGUF; there are {known}",
        "该模型系列不能写成 GGUF；可用的有 {known}",
    ),
    "gguf.unknown_family.remedy": ("Merge it (luthier merge) instead.", "请改用 luthier merge 合并。"),
    "gguf.built_in.rule": ("llama.cpp has another value built in", "llama.cpp 内置了另一个值"),
    "gguf.built_in.remedy": (
        "Use the safetensors folder; every released model of this family has the value that llama.cpp has.",
        "请使用 safetensors 文件夹；该系列所有已发布的模型都采用 llama.cpp 内置的值。",
    ),
    "gguf.activation.rule": (
        "llama.cpp computes this family with silu only",
        "llama.cpp 对该模型系列只支持 silu",
    ),
    "gguf.activation.remedy": ("Merge it (luthier merge) instead.", "请改用 luthier merge 合并。"),
    "gguf.unknown_tensor.rule": (
        "llama.cpp has no place for this tensor",
        "llama.cpp 没有存放该张量的位置",
    ),
    "gguf.unknown_tensor.remedy": ("Merge it (luthier merge) instead.", "请改用 luthier merge 合并。"),
    "gguf.rope.rule": ("llama.cpp does not scale rope like this", "llama.cpp 不支持这种 rope 缩放"),
    "gguf.rope.remedy": ("Merge it (luthier merge) instead.", "请改用 luthier merge 合并。"),
    "gguf.no_tokenizer.rule": (
        "this tokenizer cannot be read ({reason})",
        "无法读取该分词器（{reason}）",
    ),
    "gguf.no_tokenizer.remedy": ("A model folder needs its tokenizer.json.", "模型目录需要 tokenizer.json。"),
    "gguf.tokenizer.rule": ("only BPE tokenizers can be written as GGUF", "只有 BPE 分词器能写成 GGUF"),
    "gguf.tokenizer.remedy": ("Merge it (luthier merge) instead.", "请改用 luthier merge 合并。"),
    "gguf.cut.rule": (
        "llama.cpp is not known to cut text into words like this, so its tokens would be others",
        "不知道 llama.cpp 有这种切词方式，得到的词元会不同",
    ),
    "gguf.cut.remedy": ("Merge it (luthier merge) instead.", "请改用 luthier merge 合并。"),
    "gguf.type.rule": ("there is no such type; there are {known}", "没有这种类型；可用的有 {known}"),
    "gguf.type.remedy": ("Name others, with commas between.", "请给出其他类型，用逗号分隔。"),
    "gguf.needs_native.rule": (
        "this type is made by llama.cpp's own library only",
        "该类型只能由 llama.cpp 自己的库生成",
    ),
    "gguf.needs_native.remedy": (
        "Install it: `pip install 'luthier[gguf]'`.",
        "请安装：`pip install 'luthier[gguf]'`。",
    ),
    "gguf.too_few_rows.rule": (
        "the tokenizer has {tokens} tokens, the model {rows} rows for them",
        "分词器有 {tokens} 个词元，模型只有 {rows} 行",
    ),
    "gguf.too_few_rows.remedy": (
        "Use the tokenizer that belongs to the model.",
        "请使用与模型配套的分词器。",
    ),
    "gguf.bound.tokens": ("all the same", "全部相同"),
    "gguf.check.tokens": ("{file}: llama.cpp makes the same tokens of texts", "{file}：llama.cpp 得到相同的词元"),
    "gguf.check.agreement": (
        "{file}: llama.cpp answers as the tuned model does",
        "{file}：llama.cpp 的回答与调优后的模型一致",
    ),
    "gguf.evidence.no_llama": ("xllamacpp is not installed (extra gguf)", "未安装 xllamacpp（附加组件 gguf）"),
    "gguf.evidence.broken": ("llama.cpp gave no answer: {reason}", "llama.cpp 没有给出回答：{reason}"),
    "gguf.evidence.tokens": ("{same} of {texts} texts", "{texts} 段文本中 {same} 段"),
    "gguf.evidence.chat_same": (
        "{same} of {texts} texts, and a conversation",
        "{texts} 段文本中 {same} 段，以及一段对话",
    ),
    "gguf.evidence.chat_other": (
        "{same} of {texts} texts, and not of a conversation",
        "{texts} 段文本中 {same} 段，对话不同",
    ),
    "gguf.progress": ("{percent} % of the tensors written", "已写入 {percent} % 的张量"),
    "gguf.evidence.unasked": ("llama.cpp was not asked (--no-verify)", "未询问 llama.cpp（--no-verify）"),
    "gguf.evidence.slow": ("it took more than {seconds} s", "用时超过 {seconds} 秒"),
    "gguf.written": ("Written: {path}", "已写入：{path}"),
    "gguf.lora_whole.rule": (
        "this is a whole model, there is no adapter to write",
        "这是完整模型，没有可写出的适配器",
    ),
    "gguf.lora_whole.remedy": ("Write the model itself with --gguf.", "请用 --gguf 写出模型本身。"),
    "gguf.lora_dora.rule": (
        "a GGUF LoRA file has no place for DoRA's magnitudes",
        "GGUF LoRA 文件无法保存 DoRA 的幅值",
    ),
    "gguf.lora_dora.remedy": ("Write the whole model with --gguf.", "请用 --gguf 写出完整模型。"),
    "gguf.lora_saved.rule": (
        "a GGUF LoRA file has no place for modules that were trained whole",
        "GGUF LoRA 文件无法保存整体训练的模块",
    ),
    "gguf.lora_saved.remedy": ("Write the whole model with --gguf.", "请用 --gguf 写出完整模型。"),
    "gguf.lora_tokens.rule": (
        "a GGUF LoRA file has no place for rows of new tokens",
        "GGUF LoRA 文件无法保存新词元的行",
    ),
    "gguf.lora_tokens.remedy": ("Write the whole model with --gguf.", "请用 --gguf 写出完整模型。"),
    "gguf.lora_base.rule": ("this is not a GGUF file of a model", "这不是模型的 GGUF 文件"),
    "gguf.lora_base.remedy": (
        "Name the adapter's base as a GGUF file; `luthier export BASE --gguf f16` writes one.",
        "请给出适配器基础模型的 GGUF 文件；可用 `luthier export BASE --gguf f16` 生成。",
    ),
    "gguf.base_unused.rule": (
        "this file is there only to check --lora-gguf on, which is not asked for",
        "该文件只用于核对 --lora-gguf，而这里没有要求核对",
    ),
    "gguf.base_unused.remedy": (
        "Leave it away, or add --lora-gguf f16 and no --no-verify.",
        "请去掉它，或加上 --lora-gguf f16 且不使用 --no-verify。",
    ),
    "gguf.ollama_alone.rule": (
        "a Modelfile needs a GGUF file of the whole model",
        "Modelfile 需要整个模型的 GGUF 文件",
    ),
    "gguf.ollama_alone.remedy": ("Add --gguf q4_k_m, for instance.", "例如加上 --gguf q4_k_m。"),
    "gguf.nothing_wanted.rule": ("no type to write is named", "没有指定要写出的类型"),
    "gguf.nothing_wanted.remedy": (
        "Add --gguf q8_0 for the whole model or --lora-gguf f16 for the adapter alone.",
        "请加上 --gguf q8_0（完整模型）或 --lora-gguf f16（仅适配器）。",
    ),
    "gguf.check.lora": (
        "{file}: on its base, llama.cpp answers as the tuned model does",
        "{file}：加在基础模型上，llama.cpp 的回答与调优后的模型一致",
    ),
    "gguf.evidence.no_base": (
        "no GGUF file of the base was named (--base-gguf)",
        "没有给出基础模型的 GGUF 文件（--base-gguf）",
    ),
    "gguf.evidence.lora": (
        "on {base}: KL {kl:.1e} (the adapter itself: {effect:.1e}), same greedy token {top1:.0%}, {places} places",
        "在 {base} 上：KL {kl:.1e}（适配器本身：{effect:.1e}），贪心词元相同 {top1:.0%}，{places} 处",
    ),
}
