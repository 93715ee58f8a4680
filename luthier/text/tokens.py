"""Messages of the area `tokens`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "tokens.too_long.rule": (
        "{rows} of {total} rows are longer than this many tokens (the longest has {longest}; {over} tokens in "
        "all are over)\n    {table}",
        "共 {total} 行，其中 {rows} 行超过此词元数（最长 {longest}；总共超出 {over} 个词元）\n    {table}",
    ),
    "tokens.too_long.remedy": (
        "set data.max_tokens: {longest} (memory grows with the longest row), data.too_long: drop, or data.too_long: "
        "truncate (cuts the ends off, stop tokens too)",
        "请设 data.max_tokens: {longest}（内存随最长的行增长）、data.too_long: drop，或 data.too_long: truncate"
        "（截去末尾，包括停止词元）",
    ),
    "tokens.cut.rule": (
        "{rows} rows were cut at data.max_tokens, as data.too_long asks; a cut answer has no token that ends it",
        "按 data.too_long 的要求，{rows} 行在 data.max_tokens 处被截断；被截断的回答没有结尾词元",
    ),
    "tokens.cut.remedy": ("A model that learns too many of them may not stop.", "若这样的行过多，模型可能学不会停止。"),
    "tokens.lengths": ("length of rows in tokens: {lengths}", "各行的词元数：{lengths}"),
    "tokens.first_long": ("too long: {named}", "过长的行：{named}"),
    "tokens.more.rule": ("… and {rows} more rows with problems", "……另有 {rows} 行有问题"),
    "tokens.more.remedy": ("", ""),
    "tokens.too_long_dropped": (
        "{tokens} tokens, more than data.max_tokens = {max_tokens}",
        "{tokens} 个词元，超过 data.max_tokens = {max_tokens}",
    ),
    "tokens.answer_cut_off": (
        "nothing to learn is left after cutting it to data.max_tokens = {max_tokens}",
        "截断到 data.max_tokens = {max_tokens} 后没有可学习的内容",
    ),
    "tokens.nothing_learnt": (
        "holds nothing to learn: no answer with a weight above 0",
        "没有可学习的内容：没有权重大于 0 的回答",
    ),
    "tokens.empty.rule": (
        "of {rows} rows none is left to learn from ({excluded} were left out)",
        "{rows} 行中没有可供学习的行（排除了 {excluded} 行）",
    ),
    "tokens.empty.remedy": (
        "raise data.max_tokens, or give the rows answers to learn",
        "请调大 data.max_tokens，或为数据行提供可学习的回答",
    ),
    "tokens.empty_step.rule": (
        "the examples of step {step} have no loss weight at all",
        "第 {step} 步的样本没有任何损失权重",
    ),
    "tokens.empty_step.remedy": (
        "raise the rows' loss weights",
        "请调大这些行的损失权重",
    ),
    "tokens.damaged.rule": (
        "this token store is incomplete or of another version",
        "该词元库不完整或版本不同",
    ),
    "tokens.damaged.remedy": (
        "delete the folder; it is built again from the data",
        "请删除该文件夹；它会根据数据重新生成",
    ),
    "tokens.no_such_store.rule": (
        "no store begins with this; there are: {keys}",
        "没有以此开头的缓存库；现有：{keys}",
    ),
    "tokens.no_such_store.remedy": ("`luthier cache list` shows them all", "用 `luthier cache list` 查看全部"),
    "tokens.cache_store": (
        "{key}  {sequences:,} sequences, {tokens:,} tokens, {size:,.1f} MB, used {days:.1f} days ago: {data}",
        "{key}  {sequences:,} 个序列，{tokens:,} 个词元，{size:,.1f} MB，{days:.1f} 天前使用：{data}",
    ),
    "tokens.cache_bottom": (
        "{key}  {sequences:,} sequences through {layers} frozen layers, {tokens:,} tokens, {size:,.1f} MB, used "
        "{days:.1f} days ago: {data}",
        "{key}  {sequences:,} 个序列经过 {layers} 个冻结层的结果，{tokens:,} 个词元，"
        "{size:,.1f} MB，{days:.1f} 天前使用：{data}",
    ),
    "tokens.cache_begun": (
        "{key}  begun and not finished, {size:,.1f} MB, {days:.1f} days ago",
        "{key}  尚未完成，{size:,.1f} MB，{days:.1f} 天前",
    ),
    "tokens.cache_total": ("{stores} stores, {size:,.1f} MB", "共 {stores} 个缓存库，{size:,.1f} MB"),
    "tokens.cache_cleared": (
        "{stores} stores taken away, {size:,.1f} MB freed; they are built again when needed.",
        "已删除 {stores} 个缓存库，释放 {size:,.1f} MB；需要时会重新生成。",
    ),
    "tokens.disk.rule": (
        "the tokens cannot be written here: {reason}",
        "无法在此写入词元：{reason}",
    ),
    "tokens.disk.remedy": (
        "make room on this disk (`luthier cache clear` takes old token stores away), or choose another place with the "
        "environment variable LUTHIER_CACHE",
        "请清理磁盘空间（`luthier cache clear` 可删除旧的词元库），或用环境变量 LUTHIER_CACHE 另选位置",
    ),
}
