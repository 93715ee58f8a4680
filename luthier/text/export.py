"""Messages of the area `export`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "export.templates_differ.rule": (
        "this adapter has another tokenizer, template or stop token than {other}",
        "该适配器的分词器、模板或停止符与 {other} 不同",
    ),
    "export.templates_differ.remedy": (
        "Combine adapters only that were trained with the same template and tokens.",
        "请只组合用相同模板和词元训练的适配器。",
    ),
    "export.whole_model.rule": (
        "only adapters can be combined or given a strength, this is a whole model",
        "只有适配器可以组合或设置强度，这是一个完整模型",
    ),
    "export.whole_model.remedy": ("Name it alone, without a strength.", "请单独给出它，不要设置强度。"),
    "export.bases_differ.rule": (
        "this adapter belongs to another base model than {other}",
        "该适配器与 {other} 属于不同的基础模型",
    ),
    "export.bases_differ.remedy": (
        "Combine only adapters of the same base. For an adapter that was moved, name its base with --base.",
        "请只组合同一基础模型的适配器。若适配器被移动过，请用 --base 指明其基础模型。",
    ),
    "export.no_base.rule": (
        "the adapter does not say which base model it is for",
        "该适配器没有说明它的基础模型",
    ),
    "export.no_base.remedy": ("Name the base with --base.", "请用 --base 指明基础模型。"),
    "export.nothing_to_merge.rule": (
        "this is a whole model already, there is nothing to merge",
        "这已经是完整模型，没有可合并的内容",
    ),
    "export.nothing_to_merge.remedy": (
        "Use it as it is; of a run that tuned whole weights, that is its folder `model`.",
        "请直接使用；若一次运行调优了全部权重，结果就是其 `model` 文件夹。",
    ),
    "export.disagrees.rule": (
        "the merged model does not say what the tuned model says, and was not written: {found} (allowed: {bound})",
        "合并后的模型与调优后的模型不一致，未写入：{found}（允许：{bound}）",
    ),
    "export.disagrees.remedy": (
        "Look whether the base is the right one. --force writes it all the same, and its receipt says so.",
        "请检查基础模型是否正确。--force 仍会写入，并在凭证中注明。",
    ),
    "export.check.agreement": (
        "The exported weights say what the tuned model says",
        "导出的权重与调优后的模型给出相同的预测",
    ),
    "export.check.base": ("The base is the one that was trained on", "基础模型就是训练时所用的模型"),
    "export.base.same": (
        "weights and config.json have the hashes that the run wrote down",
        "权重和 config.json 的哈希与运行记录一致",
    ),
    "export.base.unknown": (
        "an adapter that no run of Luthier made does not say which weights it was trained on",
        "并非由 Luthier 运行生成的适配器不记录训练所用的权重",
    ),
    "export.agreement.found": (
        "mean KL {kl:.1e} nats per token, same most likely token at {top1:.1f} % of {positions} places in rows of the "
        "run and answers to them (tuning itself: {effect:.1e} nats)",
        "平均 KL 为每词元 {kl:.1e} nats，在该运行的数据行及其回答的 {positions} 个位置上，最可能词元相同的占 "
        "{top1:.1f} %（调优本身：{effect:.1e} nats）",
    ),
    "export.agreement.found_texts": (
        "mean KL {kl:.1e} nats per token, same most likely token at {top1:.1f} % of {positions} places in built-in "
        "questions and answers to them (tuning itself: {effect:.1e} nats)",
        "平均 KL 为每词元 {kl:.1e} nats，在内置问题及其回答的 {positions} 个位置上，最可能词元相同的占 "
        "{top1:.1f} %（调优本身：{effect:.1e} nats）",
    ),
    "export.agreement.bound": (
        "KL at most {kl:.0e}, the same token at {top1:.0f} % (leads below {tie:.1g} nats may turn)",
        "KL 不超过 {kl:.0e}，词元相同的至少 {top1:.0f} %（领先不足 {tie:.1g} nats 的可以翻转）",
    ),
    "export.receipt.title": ("Receipt of this export", "导出凭证"),
    "export.receipt.forced": (
        "Written although it does not agree with the tuned model (--force).",
        "与调优后的模型不一致，但仍被写入（--force）。",
    ),
    "export.receipt.base": ("base", "基础模型"),
    "export.receipt.run": ("run", "运行"),
    "export.receipt.adapter": ("adapter", "适配器"),
    "export.receipt.checks": ("Checks", "检查"),
    "export.receipt.files": ("Files", "文件"),
    "export.card.title": ("A tuned model", "调优后的模型"),
    "export.card.text": (
        "Adapters merged into `{base}` with Luthier. It is an ordinary checkpoint; what was checked is below.",
        "由 Luthier 将适配器合并到 `{base}` 而成。这是普通的模型文件夹，检查结果见下。",
    ),
    "export.merged": ("Merged model written to {path}.", "合并后的模型已写入 {path}。"),
    "export.bad_strength.rule": ("the strength is not a number", "强度不是数字"),
    "export.bad_strength.remedy": ("Write it like RUN=0.5.", "请写成 RUN=0.5 的形式。"),
}
