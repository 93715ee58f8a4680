"""Messages of the area `findings`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    # ---- damage
    "findings.damage_mojibake.rule": (
        "{rows} rows hold text in a wrong encoding, such as Ã© or â€™ (first: {places})",
        "{rows} 条含有编码错误的文本（乱码，如 Ã©、锟斤拷）（最前：{places}）",
    ),
    "findings.damage_mojibake.remedy": (
        "UTF-8 was read as Latin-1 or GBK when the file was made; make it again, or mend the text (ftfy does).",
        "制作文件时把 UTF-8 当作 Latin-1 或 GBK 读取；请重新制作，或修复文本（可用 ftfy）。",
    ),
    "findings.damage_lost.rule": (
        "{rows} rows hold the sign for a lost character, � (first: {places})",
        "{rows} 条含有表示字符丢失的符号 �（最前：{places}）",
    ),
    "findings.damage_lost.remedy": (
        "The model would learn to write it. Take the text from its source again, or remove the rows.",
        "模型会学着输出它。请重新从来源获取文本，或删除这些数据。",
    ),
    "findings.damage_control.rule": (
        "{rows} rows hold control characters (first: {places})",
        "{rows} 条含有控制字符（最前：{places}）",
    ),
    "findings.damage_control.remedy": (
        "They are invisible and mean nothing to a reader; remove them unless they are meant.",
        "它们不可见，对读者没有意义；若非有意请删除。",
    ),
    "findings.unclosed_think.rule": (
        "{rows} rows have an answer with a thought that is opened and never closed (first: {places})",
        "{rows} 条的回答中思考标签只有开头没有结尾（最前：{places}）",
    ),
    "findings.unclosed_think.remedy": (
        "Close it (</think>); such answers were often cut at a length limit.",
        "请补上 </think>；此类回答往往是因长度限制被截断。",
    ),
    "findings.unclosed_fence.rule": (
        "{rows} rows have an answer with a code block that is never closed (first: {places})",
        "{rows} 条的回答中代码块没有结束（最前：{places}）",
    ),
    "findings.unclosed_fence.remedy": (
        "Close it (```); such answers were often cut at a length limit.",
        "请补上 ```；此类回答往往是因长度限制被截断。",
    ),
    # ---- secrets
    "findings.secret_private.rule": (
        "{rows} rows hold a private key (first: {places})",
        "{rows} 条含有私钥（最前：{places}）",
    ),
    "findings.secret_private.remedy": (
        "Remove it and replace the key where it is used: a tuned model can say what it was trained on.",
        "请删除，并更换该密钥：微调后的模型可能说出训练内容。",
    ),
    "findings.secret_key.rule": (
        "{rows} rows hold what looks like an access key or token of a service: {count} in all (first: {places})",
        "{rows} 条含有疑似服务访问密钥或令牌，共 {count} 个（最前：{places}）",
    ),
    "findings.secret_key.remedy": (
        "Remove them and revoke those that are real: a tuned model can say what it was trained on.",
        "请删除，并吊销其中真实的密钥：微调后的模型可能说出训练内容。",
    ),
    "findings.secret_card.rule": (
        "{rows} rows hold numbers with the form and check digit of a payment card: {count} in all (first: {places})",
        "{rows} 条含有符合支付卡格式和校验位的号码，共 {count} 个（最前：{places}）",
    ),
    "findings.secret_card.remedy": (
        "Replace them with invented ones; numbers that are no cards can stay.",
        "请换成虚构的号码；若不是卡号可以保留。",
    ),
    "findings.secret_mail.rule": (
        "{rows} rows hold mail addresses: {count} in all (first: {places})",
        "{rows} 条含有邮箱地址，共 {count} 个（最前：{places}）",
    ),
    "findings.secret_mail.remedy": (
        "Replace those of real people, for instance by name@example.com, unless the model is to know them.",
        "若模型无需知道，请把真实的邮箱替换为 name@example.com 之类。",
    ),
    # ---- repeats
    "findings.near.rule": (
        "{rows} of {all} different rows are nearly the same as another one{sampled} (first: {places})",
        "{all} 条不同的数据中有 {rows} 条与另一条几乎相同{sampled}（最前：{places}）",
    ),
    "findings.near.remedy": (
        "They weigh like repeats; keep one of each group unless that is meant.",
        "它们与重复数据一样会增加权重；若非本意，每组请只保留一条。",
    ),
    "findings.near_leak.rule": (
        "{rows} rows for validation are nearly the same as one that is trained on{sampled} (first: {places})",
        "{rows} 条验证数据与某条训练数据几乎相同{sampled}（最前：{places}）",
    ),
    "findings.near_leak.remedy": (
        "Validation will look better than it is; remove them from one of the two sides.",
        "验证结果会偏好；请从其中一边删除。",
    ),
    "findings.of_a_sample": (" (in a sample of {rows} rows)", "（基于 {rows} 条的抽样）"),
    "findings.same_question.rule": (
        "{rows} rows ask what an earlier one asks, and answer differently (first: {places})",
        "{rows} 条与前面某条问题相同但回答不同（最前：{places}）",
    ),
    "findings.same_question.remedy": (
        "Fine where answers may vary; where one is right, keep that one.",
        "若回答可以多样则无妨；若只有一个正确答案，请只保留它。",
    ),
    "findings.question_leak.rule": (
        "{rows} rows for validation ask what a training row asks, and answer differently (first: {places})",
        "{rows} 条验证数据与某条训练数据问题相同但回答不同（最前：{places}）",
    ),
    "findings.question_leak.remedy": (
        "Validation then measures what was seen; keep all rows of a question on one side.",
        "这样验证的是见过的内容；请把同一问题的数据放在同一边。",
    ),
    # ---- answers
    "findings.frequent_answer.rule": (
        "one answer is given in {rows} of {all} cases: {answer} (first: {places})",
        "{all} 个回答中有 {rows} 个相同：{answer}（最前：{places}）",
    ),
    "findings.frequent_answer.remedy": (
        "The model will give it too often; thin these rows out unless the real share is as large.",
        "模型会过于频繁地给出它；除非实际比例如此，请减少这些数据。",
    ),
    "findings.label_rare.rule": (
        "the answers are labels, and some hardly occur: {words} (first: {places})",
        "回答是标签，其中一些很少出现：{words}（最前：{places}）",
    ),
    "findings.label_rare.remedy": (
        "Look for misspelt ones; a label with few rows will hardly be learnt: add some.",
        "请检查是否有拼写错误；数据过少的标签难以学会，请补充。",
    ),
    "findings.label_unseen.rule": (
        "labels occur in validation that are never trained: {words} (first: {places})",
        "验证数据中有训练数据里没有的标签：{words}（最前：{places}）",
    ),
    "findings.label_unseen.remedy": (
        "The model cannot know them; add training rows, or correct the spelling.",
        "模型不可能学会它们；请补充训练数据或更正拼写。",
    ),
    "findings.judgement_rare.rule": (
        "of {all} judged answers only {rows} are {label} (first: {places})",
        "{all} 个带评价的回答中只有 {rows} 个为 {label}（最前：{places}）",
    ),
    "findings.judgement_missing.rule": (
        "of {all} judged answers none is {label}",
        "{all} 个带评价的回答中没有一个为 {label}",
    ),
    "findings.judgement_missing.remedy": (
        "Methods that learn from judgements need both sorts; add some.",
        "从评价中学习的方法需要两类数据；请补充。",
    ),
    "findings.judgement_rare.remedy": (
        "Methods that learn from judgements need both sorts; add some, or weigh the two sorts.",
        "从评价中学习的方法需要两类数据；请补充，或为两类设置权重。",
    ),
    "findings.odd_length.rule": (
        "{rows} rows have an answer far from the usual {usual} characters, such as {odd} (first: {places})",
        "{rows} 条的回答长度远离通常的 {usual} 个字符，例如 {odd}（最前：{places}）",
    ),
    "findings.odd_length.remedy": (
        "Look at them: cut off, pasted together, or meant? (Rule: 5 robust standard deviations of the log length.)",
        "请查看：是被截断、误拼接，还是有意为之？（规则：对数长度偏离 5 个稳健标准差。）",
    ),
    "findings.odd_script.rule": (
        "{share} % of the answers are in {usual}; {rows} rows are in: {odd} (first: {places})",
        "{share} % 的回答使用{usual}；{rows} 条使用：{odd}（最前：{places}）",
    ),
    "findings.odd_script.remedy": (
        "If the model is to answer in one language, remove or translate them.",
        "若希望模型只用一种语言回答，请删除或翻译这些数据。",
    ),
    "findings.odd_ending.rule": (
        "{share} % of the answers end {usual}; {rows} rows end {odd} (first: {places})",
        "{share} % 的回答以{usual}结尾；{rows} 条以{odd}结尾（最前：{places}）",
    ),
    "findings.odd_ending.remedy": (
        "Some may be cut off in the middle of a sentence; complete or remove those.",
        "其中可能有在句中被截断的回答；请补全或删除。",
    ),
    "findings.odd_form.rule": (
        "{share} % of the answers are {usual}; {rows} rows are {odd} (first: {places})",
        "{share} % 的回答是{usual}；{rows} 条是{odd}（最前：{places}）",
    ),
    "findings.odd_form.remedy": (
        "If a program reads the answers, bring these into the usual form.",
        "若由程序读取回答，请把这些改为通常的形式。",
    ),
    "findings.kind.script.latin": ("Latin letters", "拉丁字母"),
    "findings.kind.script.cyrillic": ("Cyrillic letters", "西里尔字母"),
    "findings.kind.script.greek": ("Greek letters", "希腊字母"),
    "findings.kind.script.arabic": ("Arabic script", "阿拉伯文字"),
    "findings.kind.script.hebrew": ("Hebrew letters", "希伯来字母"),
    "findings.kind.script.indic": ("an Indian script", "印度文字"),
    "findings.kind.script.thai": ("Thai letters", "泰文字母"),
    "findings.kind.script.kana": ("Japanese script", "日文"),
    "findings.kind.script.han": ("Chinese characters", "汉字"),
    "findings.kind.script.hangul": ("Korean letters", "韩文"),
    "findings.kind.script.none": ("no letters (numbers, signs)", "无文字（数字、符号）"),
    "findings.kind.ending.sentence": ("like a sentence", "句末标点"),
    "findings.kind.ending.word": ("with a word or number", "单词或数字"),
    "findings.kind.ending.other": ("with another sign", "其他符号"),
    "findings.kind.form.prose": ("plain text", "普通文本"),
    "findings.kind.form.lists": ("text with lists or headings", "含列表或标题的文本"),
    "findings.kind.form.code": ("text with code blocks", "含代码块的文本"),
    "findings.kind.form.json": ("JSON", "JSON 数据"),
    # ---- tokens
    "findings.too_long.rule": (
        "{rows} rows are longer than data.max_tokens = {max_tokens}, and data.too_long is {policy} (first: {places})",
        "{rows} 条超过 data.max_tokens = {max_tokens}，而 data.too_long 为 {policy}（最前：{places}）",
    ),
    "findings.too_long.remedy": (
        "Raise data.max_tokens, or choose data.too_long=drop or truncate; the table of lengths has what each costs.",
        "请调大 data.max_tokens，或设 data.too_long=drop 或 truncate；长度表列出各自的代价。",
    ),
    "findings.nothing_learnt.rule": (
        "{rows} rows have no token that carries loss (first: {places})",
        "{rows} 条没有任何计入损失的词元（最前：{places}）",
    ),
    "findings.nothing_learnt.remedy": (
        "They are left out of training; give them answers, or remove them.",
        "训练时会排除它们；请补充回答或删除。",
    ),
    "findings.not_rendered.rule": (
        "{rows} rows cannot be rendered with the chat template: {words} (first: {places})",
        "{rows} 条无法用对话模板渲染：{words}（最前：{places}）",
    ),
    "findings.not_rendered.remedy": (
        "Mend the rows, or choose another data.template.",
        "请修正数据，或更换 data.template。",
    ),
    # ---- the report
    "findings.severity.error": ("error", "错误"),
    "findings.severity.warning": ("warning", "警告"),
    "findings.severity.note": ("note", "提示"),
    "findings.none": ("nothing to remark", "没有发现问题"),
    "findings.tally": (
        "{errors} errors, {warnings} warnings, {notes} notes",
        "{errors} 个错误，{warnings} 个警告，{notes} 个提示",
    ),
    "findings.brief": (
        "what stands in the rows: {warnings} warnings, {notes} notes; `luthier data check` shows all, with remedies",
        "数据内容：{warnings} 个警告，{notes} 个提示；`luthier data check` 会列出全部及处理方法",
    ),
    "findings.brief_of_some": (
        "what stands in {looked:,} of {rows:,} rows, the first of each file: {warnings} warnings, {notes} notes; "
        "`luthier data check` looks at all and shows remedies",
        "数据内容（{rows:,} 条中的 {looked:,} 条，每个文件的开头部分）：{warnings} 个警告，{notes} 个提示；"
        "`luthier data check` 会检查全部并给出处理方法",
    ),
    "findings.distinct": ("{distinct} of {rows} rows are different", "{rows} 条中有 {distinct} 条互不相同"),
    "findings.line_characters": (
        "characters per row: {percentiles}; longest {longest}; {total} in all",
        "每条字符数：{percentiles}；最长 {longest}；共 {total}",
    ),
    "findings.line_tokens": (
        "tokens per row: {percentiles}; longest {longest}; {total} in all",
        "每条词元数：{percentiles}；最长 {longest}；共 {total}",
    ),
    "findings.line_learnt": (
        "{share} % of the tokens carry loss; {ratio} characters per token",
        "{share} % 的词元计入损失；每个词元 {ratio} 个字符",
    ),
    "findings.line_fits": (
        "every row fits into max_tokens = {max_tokens}",
        "所有数据都不超过 max_tokens = {max_tokens}",
    ),
    "findings.line_cost": (
        "too_long: {policy} – {rows} rows, {tokens} tokens not trained",
        "too_long: {policy} – {rows} 条，{tokens} 个词元不参与训练",
    ),
    "findings.line_frequent": ("most frequent answers: {answers}", "最常见的回答：{answers}"),
    "findings.line_labels": ("the answers are labels: {answers}", "回答是标签：{answers}"),
    "findings.line_no_tokens": (
        "tokens are not counted: {reason}",
        "未统计词元：{reason}",
    ),
    "findings.none_rendered": ("no row could be rendered", "没有可渲染的数据"),
    "findings.no_model": (
        "no recipe was given, so no model's tokenizer is known",
        "未给出配方，因此没有可用的模型分词器",
    ),
    "findings.near_searched": (
        "{rows} different rows were searched for near duplicates",
        "在 {rows} 条不同的数据中查找了近似重复",
    ),
    "findings.near_sampled": (
        "a sample of {rows} different rows was searched for near duplicates",
        "抽取 {rows} 条不同的数据查找了近似重复",
    ),
    "findings.share": ("{share}: {value}", "{share}：{value}"),
    "findings.written": ("the report as a page: {file}", "网页报告：{file}"),
    # ---- the page
    "findings.page.language": ("en", "zh"),
    "findings.page.title": ("Data report", "数据报告"),
    "findings.page.clean": ("No errors: this data can be trained on.", "没有错误：可以用这些数据训练。"),
    "findings.page.stops": ("Errors: training would stop before it begins.", "有错误：训练在开始前就会停止。"),
    "findings.page.read": ("rows read", "读取"),
    "findings.page.kept": ("kept", "保留"),
    "findings.page.excluded": ("left out", "排除"),
    "findings.page.distinct": ("different", "互不相同"),
    "findings.page.train": ("for training", "训练"),
    "findings.page.validation": ("for validation", "验证"),
    "findings.page.total_tokens": ("tokens", "词元"),
    "findings.page.findings": ("Findings", "发现"),
    "findings.page.rows": ("rows", "条数"),
    "findings.page.lengths": ("Lengths", "长度"),
    "findings.page.lengths_tokens": ("Tokens per row", "每条词元数"),
    "findings.page.lengths_characters": ("Characters per row", "每条字符数"),
    "findings.page.shortest": ("shortest", "最短"),
    "findings.page.longest": ("longest", "最长"),
    "findings.page.median": ("half", "中位"),
    "findings.page.bin": ("{low}–{high}: {rows} rows", "{low}–{high}：{rows} 条"),
    "findings.page.last_bin": ("{low} and more: {rows} rows", "{low} 及以上：{rows} 条"),
    "findings.page.loss": ("Tokens that carry loss", "计入损失的词元"),
    "findings.page.learnt": ("learnt", "学习"),
    "findings.page.context": ("context only", "仅上下文"),
    "findings.page.ratio": ("{ratio} characters per token", "每个词元 {ratio} 个字符"),
    "findings.page.too_long": ("Rows that are too long", "过长的数据"),
    "findings.page.touched": ("rows touched", "涉及条数"),
    "findings.page.lost": ("tokens not trained", "不参与训练的词元"),
    "findings.page.files": ("Files", "文件"),
    "findings.page.file": ("file", "文件"),
    "findings.page.format": ("format", "格式"),
    "findings.page.reasons": ("Why rows are left out", "排除原因"),
    "findings.page.left_out_rows": ("Rows left out", "被排除的数据"),
    "findings.page.place": ("place", "位置"),
    "findings.page.reason": ("reason", "原因"),
    "findings.page.more": ("{rows} more are not shown; --json lists all", "另有 {rows} 条未显示；--json 列出全部"),
    "findings.page.answers": ("Most frequent answers", "最常见的回答"),
    "findings.page.labels": ("Labels", "标签"),
    "findings.page.answer": ("answer", "回答"),
    "findings.page.footer": (
        "Written by luthier data check {version}. Secrets are counted, never shown.",
        "由 luthier data check {version} 生成。只统计敏感信息，不显示其内容。",
    ),
    "findings.not_written.rule": ("the report cannot be written: {reason}", "无法写入报告：{reason}"),
    "findings.not_written.remedy": ("Name a file in a folder that can be written to.", "请指定可写文件夹中的文件。"),
}
