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
    "export.check.arithmetic": (
        "The merged weights say what the adapter says on the unquantised base",
        "合并后的权重与适配器加未量化基础模型给出相同的预测",
    ),
    "export.check.as_trained": (
        "The merged weights say what the model said as it was trained, on its base in {base}",
        "合并后的权重与训练时的模型（基础模型为 {base}）给出相近的预测",
    ),
    "export.as_trained.missing": (
        "bitsandbytes, which quantised the base, is not installed here",
        "此处未安装用于量化基础模型的 bitsandbytes",
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
    "export.check.scores": (
        "The exported weights give the rewards that the tuned model gives",
        "导出的权重与调优后的模型给出相同的奖励分数",
    ),
    "export.scores.found": (
        "rewards of {sequences} answers in rows of the run differ by {difference:.1e} (root mean square); among each "
        "other by {spread:.1e}",
        "该运行的数据行中 {sequences} 个回答的奖励分数相差 {difference:.1e}（均方根），彼此之间相差 {spread:.1e}",
    ),
    "export.scores.found_texts": (
        "rewards of {sequences} built-in questions differ by {difference:.1e} (root mean square); among each other by "
        "{spread:.1e}",
        "{sequences} 个内置问题的奖励分数相差 {difference:.1e}（均方根），彼此之间相差 {spread:.1e}",
    ),
    "export.scores.bound": (
        "at most {bound:g} of the rewards' standard deviation",
        "不超过奖励分数标准差的 {bound:g}",
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
    # ------------------------------------------------------------------------------------------------ push
    "export.card.adapter": (
        "An adapter for `{base}`, trained with Luthier. What was checked is below, where a receipt came with it.",
        "由 Luthier 训练的 `{base}` 的适配器。若附有凭证，检查结果见下。",
    ),
    "export.card.model": (
        "A model tuned from `{base}` with Luthier. What was checked is below, where a receipt came with it.",
        "由 Luthier 从 `{base}` 调优的模型。若附有凭证，检查结果见下。",
    ),
    "export.card.gguf": (
        "GGUF files for llama.cpp and its like, from `{base}`, made with Luthier.",
        "供 llama.cpp 等使用的 GGUF 文件，源自 `{base}`，由 Luthier 生成。",
    ),
    "export.push_unknown.rule": ("there is no such run, folder or file", "没有这个运行、文件夹或文件"),
    "export.push_unknown.remedy": ("`luthier runs list` shows the runs.", "`luthier runs list` 可列出运行。"),
    "export.push_no_adapter.rule": ("this run has no adapter", "该运行没有适配器"),
    "export.push_no_adapter.remedy": (
        "It tuned whole weights: --what model, or leave --what out.",
        "它调优了全部权重：请用 --what model，或去掉 --what。",
    ),
    "export.push_no_model.rule": (
        "this run has no whole model, and none was merged from it",
        "该运行没有完整模型，也没有合并得到的模型",
    ),
    "export.push_no_model.remedy": (
        "`luthier merge` makes one, which is found beside the run.",
        "可用 `luthier merge` 合并，结果位于运行旁边。",
    ),
    "export.push_no_gguf.rule": ("no GGUF files were made from this run", "没有由该运行生成的 GGUF 文件"),
    "export.push_no_gguf.remedy": (
        "Make them first, or give the folder or the files themselves.",
        "请先生成，或直接给出文件夹或文件。",
    ),
    "export.push_nothing.rule": ("this holds no {what} that can be sent", "这里没有可上传的 {what}"),
    "export.push_nothing.remedy": (
        "An adapter is adapter_config.json with safetensors, a model config.json with safetensors, and GGUF files end "
        "with .gguf.",
        "适配器由 adapter_config.json 和 safetensors 组成，模型由 config.json 和 safetensors 组成，"
        "GGUF 文件以 .gguf 结尾。",
    ),
    "export.push_not_a_file.rule": ("this is no file", "这不是文件"),
    "export.push_not_a_file.remedy": (
        "Give one run, one folder, or any number of files.",
        "请给出一个运行、一个文件夹，或任意多个文件。",
    ),
    "export.push_not_sent.rule": (
        "files of this kind are not sent: only weights, settings, tokenizers, templates, cards and receipts are",
        "不上传这类文件：只上传权重、配置、分词器、模板、模型卡和凭证",
    ),
    "export.push_not_sent.remedy": (
        "What a run keeps for itself (recipe, events, checkpoints, rows) stays here. Leave it out.",
        "运行自身的内容（配方、事件、检查点、数据行）留在本机。请去掉它。",
    ),
    "export.push_twice.rule": ("{other} has the same name", "{other} 的文件名相同"),
    "export.push_twice.remedy": ("Rename one of them.", "请重命名其中一个。"),
    "export.push_secret.rule": ("the file holds a key or a password of somebody", "该文件中含有密钥"),
    "export.push_secret.remedy": (
        "Take it out (templates, cards and settings are the usual places), and have the key replaced if it was used.",
        "请将其删除（常见于模板、模型卡和配置），若密钥已使用过请更换。",
    ),
    "export.push_public.rule": (
        "the repository is public, and a private one was expected",
        "该仓库是公开的，而默认应为私有",
    ),
    "export.push_public.remedy": (
        "--public sends to it all the same; or make it private on its page, or give another.",
        "加 --public 仍会上传；也可在其页面设为私有，或使用其他仓库。",
    ),
    "export.push_others.rule": ("the repository holds other files: {files}", "该仓库中有其他文件：{files}"),
    "export.push_others.remedy": (
        "--add puts these beside them, which stay; or give another repository.",
        "加 --add 会把文件放在一起，原有文件保留；也可使用其他仓库。",
    ),
    "export.push.to": ("To {url} ({state}, {kind}):", "上传到 {url}（{state}，{kind}）："),
    "export.push.public": ("public", "公开"),
    "export.push.private": ("private", "私有"),
    "export.push.there": ("there already", "已存在"),
    "export.push.absent": ("will be made", "将新建"),
    "export.push.column_change": ("change", "变化"),
    "export.push.column_size": ("size", "大小"),
    "export.push.column_file": ("file", "文件"),
    "export.push.new": ("new", "新增"),
    "export.push.changed": ("changed", "更新"),
    "export.push.same": ("same", "相同"),
    "export.push.kept": ("kept", "保留"),
    "export.push.others": ("Other files there, left as they are: {files}", "仓库中的其他文件保持不变：{files}"),
    "export.push.left_out": ("Not sent: {files}", "不上传：{files}"),
    "export.push.card_kept": (
        "README.md: the card there is kept; put your own beside the files to replace it.",
        "README.md：保留仓库中的模型卡；如需替换，请在文件旁放置自己的模型卡。",
    ),
    "export.push.stays_private": (
        "The repository is private and stays so; make it public on its page.",
        "该仓库是私有的，并保持私有；请在其页面设为公开。",
    ),
    "export.push.without_folders": (
        "{file}: sent as a copy that names no folders of this machine.",
        "{file}：上传的是不含本机文件夹路径的副本。",
    ),
    "export.push.no_base": (
        "The card names no base model of the hub: it came from a folder, or is not known.",
        "模型卡中没有模型库上的基础模型：它来自文件夹，或未知。",
    ),
    "export.push.no_licence": (
        "The card names no licence, the base's was not found; add it (`license:`) before you publish.",
        "模型卡中没有许可，因为未找到基础模型的许可；发布前请补充（`license:`）。",
    ),
    "export.push.failed_checks": (
        "{failed} checks of the run failed; the card says so.",
        "该运行有 {failed} 项检查未通过；模型卡中已注明。",
    ),
    "export.push.message": ("Upload {what} with Luthier", "用 Luthier 上传 {what}"),
    "export.push.dry": ("Dry run: nothing was sent.", "试运行：没有上传任何内容。"),
    "export.push.sent": ("Sent as commit {commit}: {url}", "已上传，提交 {commit}：{url}"),
    "export.push.nothing_new": ("Nothing to send: all of it is there.", "无需上传：内容已全部存在。"),
}
