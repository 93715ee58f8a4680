"""Messages of the area `gguf`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "gguf.unknown_family.rule": (
        "this family is not written as GGUF; there are {known}",
        "该模型系列不能写成 GGUF；可用的有 {known}",
    ),
    "gguf.unknown_family.remedy": ("Merge it (luthier merge) instead.", "请改用 luthier merge 合并。"),
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
    "gguf.no_type.rule": ("no type is named", "没有给出类型"),
    "gguf.no_type.remedy": ("Name one or more: `--gguf q4_k_m,q8_0`.", "请给出一种或多种：`--gguf q4_k_m,q8_0`。"),
    "gguf.written": ("Written: {path}", "已写入：{path}"),
}
