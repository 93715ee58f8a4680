"""What each setting of a recipe does, for people who have never fine-tuned: id -> (English, Chinese).

`config.help.<section>` introduces a section, `config.help.<section>.<field>` explains a field: what it does, what
larger means, when to change it; `config.unset.<section>.<field>` says what a field means that is left open.
`config.preset.<name>` names a set of settings to start from, `config.preset_help.<name>` says when to take it.
"""

from __future__ import annotations

HELP: dict[str, tuple[str, str]] = {
    # ------------------------------------------------------------------------------------------------ model
    "config.help.model": (
        "The base model: what your tuned model starts from.",
        "基础模型：微调的起点。",
    ),
    "config.help.model.path": (
        "Which model to start from: `nano` (a tiny one that comes with Luthier, good for trying things out), the "
        "folder of a model you have, a name on Hugging Face such as Qwen/Qwen2.5-0.5B-Instruct, or "
        "modelscope:org/name. A larger model can do more but needs more memory and time; start with the smallest "
        "that could do the job. Models called Instruct or Chat already know how to answer; plain base models take "
        "your style more freely but need more examples.",
        "从哪个模型开始：`nano`（随 Luthier 提供的微型模型，适合试用）、已有模型的目录、Hugging Face 上的名称（如 "
        "Qwen/Qwen2.5-0.5B-Instruct），或 modelscope:组织/名称。模型越大能力越强，但需要更多显存和时间；建议先用可"
        "能够用的最小模型。名称带 Instruct 或 Chat 的模型已经会回答问题；纯基座模型更容易学到您的风格，但需要更多样"
        "本。",
    ),
    "config.help.model.revision": (
        "Which version of a model on a hub: a branch, a tag or a commit. Empty takes the newest. Either way the "
        "exact commit is written down with the run, so that it can be repeated.",
        "使用模型库中的哪个版本：分支、标签或提交号。留空则取最新版本。无论哪种情况，确切的提交号都会随运行记录下"
        "来，以便重复。",
    ),
    "config.help.model.init": (
        "`pretrained` starts from what the model already knows, which is what fine-tuning means. `random` throws "
        "that away and keeps only the model's shape: for pre-training from nothing, which needs a great deal of "
        "text.",
        "`pretrained` 从模型已有的知识出发，这正是微调。`random` 丢弃已有知识、只保留模型结构：用于从零预训练，需要"
        "海量文本。",
    ),
    "config.help.model.dtype": (
        "How exactly numbers are kept while computing. float32 is the most exact and takes twice the memory; "
        "bfloat16 is the usual choice on modern hardware; float16 is for older GPUs. `auto` tries the machine out "
        "and takes the fastest that is safe. Change it only if results look unstable (then float32).",
        "计算时数字的精度。float32 最精确，但内存翻倍；bfloat16 是现代硬件的常规选择；float16 用于较旧的 GPU。"
        "`auto` 会测试本机并选择安全且最快的一种。只有在结果不稳定时才需要修改（改为 float32）。",
    ),
    # ------------------------------------------------------------------------------------------------ data
    "config.help.data": (
        "What the model learns from. The quality of these rows decides the result more than any other setting.",
        "模型的学习材料。这些数据的质量比其他任何设置都更能决定结果。",
    ),
    "config.help.data.train": (
        "The file to learn from (JSON, JSONL, CSV, Parquet or plain text), or a list of files, each with a path "
        "and, if you like, its own format and weight. A few hundred good examples teach a style; a few thousand "
        "teach a task. Every row is checked before training begins.",
        "用于学习的文件（JSON、JSONL、CSV、Parquet 或纯文本），也可以是文件列表，每项给出路径，并可单独设置格式和权"
        "重。几百条好样本可以教会一种风格，几千条可以教会一项任务。训练开始前会检查每一行。",
    ),
    "config.help.data.train.path": (
        "Where the file is. Relative paths start from the folder in which you run the command. A folder stands for "
        "all data files below it, a pattern (data/*.jsonl, data/**/*.parquet) for what matches; each is read on its "
        "own with the same settings. hub:organisation/name is a data set of the Hugging Face hub (needs the extra "
        "hub).",
        "文件所在的位置。相对路径以运行命令时所在的目录为起点。文件夹代表其中所有数据文件，模式（data/*.jsonl、"
        "data/**/*.parquet）代表所有匹配的文件；每个文件以相同设置单独读取。hub:组织/名称 是 Hugging Face 上的数据集"
        "（需要 hub 附加组件）。",
    ),
    "config.help.data.train.format": (
        "How the rows of this one file are laid out, where it differs from data.format.",
        "这个文件中各行的格式，仅当与 data.format 不同时才需要给出。",
    ),
    "config.help.data.train.weight": (
        "How often the rows of this file are seen in each pass: 2 shows each row twice, 0.5 half of the rows in "
        "turn. Raise it for a small file that must not drown among larger ones.",
        "每一轮中这个文件的数据出现几次：2 表示每行出现两次，0.5 表示每轮轮流出现一半。若小文件容易被大文件淹没，可"
        "以调大。",
    ),
    "config.help.data.train.columns": (
        "Which column of the file is which, where its names are not those of the format: {{instruction: question, "
        "output: answer}} reads the column question as the instruction. A dotted name reaches into objects "
        "(output: reply.text), and role or content rename keys of each turn. `luthier data check` suggests the line "
        "where names are nearly right.",
        "文件的列名与格式不同时，指明各列的含义：{{instruction: question, output: answer}} 把 question 列作为 "
        "instruction。点号可进入对象内部（output: reply.text），role 或 content 则重命名每一轮中的键。列名接近时，"
        "`luthier data check` 会给出应写的这一行。",
    ),
    "config.help.data.train.roles": (
        "Who is who, where turns name their speakers in another way: {{USER: user, BOT: assistant}}. On the right "
        "stands system, user, assistant or tool, or function_call for turns whose text is the call of a tool in JSON.",
        "对话角色名称不同时，指明各角色：{{USER: user, BOT: assistant}}。右侧为 system、user、assistant 或 tool，"
        "或 function_call（其文本是 JSON 格式的工具调用）。",
    ),
    "config.help.data.train.subset": (
        "Which configuration of a data set on the hub to take, where it has several; null takes its default one.",
        "数据集有多个配置时取哪一个；null 取默认配置。",
    ),
    "config.help.data.train.split": (
        "Which split of a data set on the hub to take: one name, such as train or test.",
        "取数据集的哪个部分：一个名称，如 train 或 test。",
    ),
    "config.help.data.train.revision": (
        "Which state of a data set on the hub to take: a branch, a tag or a commit. A commit makes sure that the data "
        "stays the same; null takes the newest.",
        "取数据集的哪个版本：分支、标签或提交。写提交号可确保数据不变；null 取最新版本。",
    ),
    "config.help.data.validation": (
        "Rows that the model does not learn from and is tested on instead: that is how you see whether it "
        "understands or just learns by heart. A share (0.05 is 5 %), a file of its own, 0 for none, or `auto`: 5 "
        "%, at most 500 rows, none if there are fewer than 100. If the training loss falls while the validation "
        "loss rises, the model is memorising: train for fewer epochs, or find more data.",
        "不用于学习、只用于测试的数据：由此可以看出模型是真正理解还是死记硬背。可以是比例（0.05 即 5%）、单独的文"
        "件、0（不留），或 `auto`：5%，最多 500 行，不足 100 行时不留。如果训练损失下降而验证损失上升，说明模型在死"
        "记硬背：请减少轮数，或增加数据。",
    ),
    "config.help.data.format": (
        "How the rows are laid out. `auto` looks at them and says what it found. alpaca: instruction, input, "
        "output. messages: a list of turns with role and content. sharegpt: conversations with from and value. "
        "firefly: conversation with human and assistant. prompt: prompt and completion, taken as they are. qa: a "
        "question and its answer under the usual names. answers: what luthier generate writes. text: plain text for "
        "pretrain. preference, labelled and "
        "prompt_only (two answers, a judged answer, no answer) are for methods other than these two. Your own: a "
        "Python function named as module:function that turns a row into an example.",
        "数据行的格式。`auto` 会自动识别并告知结果。alpaca：instruction、input、output。messages：由 role 和 "
        "content 组成的多轮对话。sharegpt：由 from 和 value 组成的 conversations。firefly：由 human 和 assistant "
        "组成的 conversation。prompt：prompt 和 completion，原样使用。qa：常见名称下的问题和回答。answers："
        "luthier generate 写出的文件。text：供 pretrain 使用的纯文本。"
        "preference、labelled 和 prompt_only（两个回答、带评价的回答、"
        "没有回答）用于其他方法。自定义：写成 module:function 的 Python 函数，把一行转换为样本。",
    ),
    "config.help.data.max_tokens": (
        "The longest example, counted in tokens (pieces of words: about three quarters of an English word, often "
        "one or two Chinese characters). Longer examples need more memory. Raise it if your examples are longer, "
        "and lower it if memory is short; what happens to longer ones is up to data.too_long.",
        "单个样本的最大长度，以词元计（词的片段：约为四分之三个英文单词，通常为一到两个汉字）。样本越长，所需内存越"
        "多。样本较长时调大，内存不足时调小；超长样本如何处理由 data.too_long 决定。",
    ),
    "config.help.data.bad_rows": (
        "What to do with rows that cannot be used: an empty answer, a missing field, a broken line. `stop` lists "
        "them and asks you, because one wrong row often means that others are wrong too; `drop` leaves them out "
        "and writes them down with the reason. Nothing is ever left out silently.",
        "如何处理无法使用的行：回答为空、缺少字段、行已损坏。`stop`：逐一列出并停下来由您决定，因为一行出错往往意味"
        "着其他行也有问题；`drop`：剔除并记录原因。任何数据都不会被悄悄丢弃。",
    ),
    "config.help.data.too_long": (
        "What to do with examples longer than data.max_tokens. `stop` counts them and asks you; `drop` leaves them "
        "out and lists them; `truncate` cuts off the end, so that the model may learn answers without an ending.",
        "如何处理超过 data.max_tokens 的样本。`stop`：统计数量并停下来由您决定；`drop`：剔除并逐一列出；"
        "`truncate`：截去末尾，模型可能因此学到没有结尾的回答。",
    ),
    "config.help.data.temperature": (
        "Only matters with several files. 1 shows every row equally often, so large files outweigh small ones. Larger "
        "values even that out: with 2 a file a hundred times as large is seen ten times as often, and in the limit all "
        "files are seen equally often. The length of an epoch stays the same.",
        "仅在使用多个文件时有意义。1 表示每行出现的次数相同，因此大文件占主导；数值越大越均衡：设为 2 时，大一百倍的文"
        "件只多出现十倍；再大则趋于各文件同样多。每一轮的总长度不变。",
    ),
    "config.help.data.max_repeats": (
        "The most times one row may come in each pass, whatever weight and temperature ask for. Rows that come many "
        "times are learnt by heart. Empty sets no limit; 4 is a cautious one.",
        "每一轮中同一行最多出现几次，无论 weight 和 temperature 如何设置。重复过多的行会被死记硬背。留空表示不限；4 是"
        "较稳妥的上限。",
    ),
    "config.help.data.template": (
        "How a conversation is written as one text, with marks for who speaks. `model` takes the model's own way, "
        "which is right for every model that has one. A base model without one needs chatml, alpaca, or a Jinja "
        "file of your own. The same template is used when you chat later; that is what makes the model recognise "
        "the situation.",
        "如何把对话写成一段带有说话人标记的文本。`model` 使用模型自带的方式，只要模型带有模板就应使用它。没有模板的"
        "基座模型需要 chatml、alpaca 或您自己的 Jinja 文件。之后聊天时使用同一模板，这样模型才能认出场景。",
    ),
    "config.help.data.system": (
        "A standing instruction placed before every conversation that has none, such as: You are a helpful tax "
        "adviser. The tuned model expects to see the same text when it is used.",
        "放在每个没有系统提示的对话之前的固定说明，例如：你是一名乐于助人的税务顾问。使用微调后的模型时，也应给出同"
        "样的文字。",
    ),
    "config.help.data.stop_token": (
        "The mark by which the model says that its answer is over. Empty takes the template's own. Only needed "
        "when Luthier reports that the template's mark was never trained in this model; the message names "
        "candidates. A wrong mark makes a model that never stops talking.",
        "模型表示回答结束的标记。留空则使用模板自带的标记。只有当 Luthier 提示该标记在模型中从未训练过时才需要设"
        "置，提示中会给出候选。标记不对，模型就会说个不停。",
    ),
    "config.help.data.accept_unread": (
        "Parts of the rows that the chat template may leave out, such as reasoning_content. Whatever else it leaves "
        "out stops the run, because the model would never see it. What you accept here is written on the receipt.",
        "对话模板可以遗漏的数据内容，例如 reasoning_content。遗漏其他任何内容都会停止运行，因为模型将看不到它们。在此"
        "接受的内容会写在凭据上。",
    ),
    "config.help.data.new_tokens": (
        "Words that are to be one token each from now on, for marks of your own such as <|tool|>. They are learnt "
        "as far as your rows (or the template) hold them, so have many such rows. Names that the tokenizer has "
        "already change nothing. The tokenizer is saved beside the result.",
        "从现在起各自作为一个词元的词，用于您自己的标记，例如 <|tool|>。它们能学到多少取决于数据（或模板）中出现多"
        "少，因此应有足够多的此类数据。分词器已有的名称不起作用。分词器会与结果一起保存。",
    ),
    "config.help.data.allow_unfilled": (
        "Rows that still hold a blank such as {{{{name}}}} are usually an accident, so you are warned. true says "
        "that they are meant.",
        "仍含有 {{{{name}}}} 这类空白的行通常是疏漏，因此会发出警告。设为 true 表示这是有意为之。",
    ),
    # ------------------------------------------------------------------------------------------------ method
    "config.help.method": (
        "What the model learns from the rows.",
        "模型从数据中学什么。",
    ),
    "config.help.method.kind": (
        "`sft` (supervised fine-tuning) learns to answer as your examples do; take it unless you know better. "
        "`pretrain` learns to continue plain text: it gives a model the words and facts of a field, usually before "
        "sft. `dpo` learns from pairs of a better and a worse answer, usually after sft; `ipo`, `simpo`, `orpo` and "
        "`cpo` are other ways to do that. `kto` learns from answers marked good or bad. `reward` makes a judge: a "
        "model that gives answers a number. `distill` learns from a larger model, the teacher, how likely it finds "
        "each word of the answers. `grpo` and `ppo` let the model answer prompts and learn from what rewards say of "
        "its answers.",
        "`sft`（有监督微调）让模型学会像样本那样回答，一般就选它。`pretrain` 学习续写纯文本：让模型掌握某个领域的词"
        "汇和知识，通常在 sft 之前进行。`dpo` 从一好一坏的成对回答中学习，通常在 sft 之后；`ipo`、`simpo`、`orpo`、"
        "`cpo` 是同类的其他做法。`kto` 从标为好或坏的回答中学习。`reward` 训练一个评判者：给回答打分的模型。"
        "`distill` 从更大的教师模型学习它认为回答中每个词有多大可能。`grpo` 和 `ppo` 让模型回答提示，并从奖励对其回答"
        "的评判中学习。",
    ),
    "config.help.method.train_on": (
        "Which answers of a conversation are learned: `all` of them, or only the `last`, with the earlier ones as "
        "context. Take `last` if earlier answers in your data are poor, or were written by another model.",
        "学习对话中的哪些回答：`all` 为全部；`last` 只学最后一个，之前的作为上下文。如果数据中较早的回答质量不高，"
        "或出自别的模型，请选 `last`。",
    ),
    "config.help.method.loss": (
        "dpo: how a pair is counted. `sigmoid` suits most data. `ipo` and `hinge` stop pulling once a pair is told "
        "apart well enough, which helps where the model forgets how to write. `robust` is for data in which a known "
        "share of the pairs (`label_smoothing`) is the wrong way round. cpo has `sigmoid` and `hinge`. All of these "
        "methods also take a function of your own, `module:function`; it is tried on a few numbers first.",
        "dpo：成对回答如何计算损失。`sigmoid` 适合多数数据。`ipo` 和 `hinge` 在两个回答已分得足够开时就不再用力，适"
        "合模型越训越不会写的情况。`robust` 用于已知有一定比例（`label_smoothing`）标反了的数据。cpo 有 `sigmoid` "
        "和 `hinge` 两种。这些方法都还可以用您自己的函数 `模块:函数`，会先用几个数值试算。",
    ),
    "config.help.method.beta": (
        "How strongly judged answers pull. For dpo, ipo and kto it is also how closely the model is held to what it "
        "was: smaller lets it go further away. 0.1 is usual; simpo compares means over tokens and takes 2.",
        "评判过的回答用力多大。对 dpo、ipo 和 kto，它也决定模型与原样贴得多近：越小则允许走得越远。通常取 0.1；"
        "simpo 比较的是每个词元的平均值，取 2。",
    ),
    "config.help.method.label_smoothing": (
        "The share of pairs that you take to be the wrong way round. 0 trusts every pair; 0.1 to 0.2 keeps the model "
        "from learning mistakes by heart where people disagreed.",
        "您认为标反了的成对回答所占的比例。0 表示全部可信；评判者意见不一时取 0.1 到 0.2，可避免模型死记错误。",
    ),
    "config.help.method.length_normalised": (
        "dpo: true compares the mean over the tokens of an answer instead of the sum. Take it if the tuned model's "
        "answers become longer and longer.",
        "dpo：设为 true 时比较每个词元的平均值而不是总和。如果训练后的回答越来越长，可以打开它。",
    ),
    "config.help.method.sft_weight": (
        "How much the model also learns to write the better answers, as sft does. Raise it (0.1 to 1) where the "
        "better answers themselves become unlikely. cpo takes 1 by itself, the others 0. distill: how much the words "
        "in your data count beside the teacher's.",
        "在比较之外，模型同时学习写出较好回答（如 sft）的份量。如果较好的回答本身变得越来越不可能，请调高（0.1 到 "
        "1）。cpo 默认为 1，其余为 0。distill：数据中的原文相对于教师意见的份量。",
    ),
    "config.help.method.gamma": (
        "simpo: by how much the better answer has to lead. Usually half of beta; larger pulls the answers further "
        "apart, and too large spoils the language.",
        "simpo：较好的回答需要领先多少。通常取 beta 的一半；越大两者分得越开，过大则会损害语言质量。",
    ),
    "config.help.method.wanted_weight": (
        "kto: weight of the answers marked good. If there are few of them, raise it until weight times number is "
        "about the same for good and bad.",
        "kto：标为好的回答的权重。如果它们较少，请调高，使好坏两类的“权重乘以数量”大致相当。",
    ),
    "config.help.method.unwanted_weight": (
        "kto: weight of the answers marked bad; see wanted_weight.",
        "kto：标为坏的回答的权重，参见 wanted_weight。",
    ),
    "config.help.method.centre": (
        "reward: how firmly the rewards are held around 0. Pairs only say which answer is better, not where the "
        "numbers lie; 0.01 keeps them comparable between runs, 0 leaves them free.",
        "reward：把分数固定在 0 附近的力度。成对数据只说明哪个更好，不说明分数落在哪里；0.01 使不同训练的分数可以"
        "比较，0 表示不约束。",
    ),
    "config.help.method.teacher": (
        "The model to learn from: one of your runs, a folder, or a hub id. It has to cut text into the same tokens as "
        "the model that learns, which models of one family do.",
        "要学习的教师模型：您的某个运行、一个目录或 hub id。它的分词必须与学习的模型相同，同一系列的模型通常如此。",
    ),
    "config.help.method.divergence": (
        "How teacher and student are compared. `forward` makes the student cover all that the teacher finds likely; "
        "`reverse` lets a small student keep to what the teacher finds most likely.",
        "如何比较教师与学生。`forward` 让学生覆盖教师认为可能的一切；`reverse` 让较小的学生集中于教师最看好的部分。",
    ),
    "config.help.method.temperature": (
        "Evens out both distributions before they are compared. 1 leaves them as they are; 2 to 4 show the student "
        "more of the teacher's second and third choices.",
        "比较之前先使两个分布更平缓。1 为保持原样；2 到 4 让学生更多地看到教师的次选。",
    ),
    "config.help.method.top_k": (
        "How many of the teacher's most likely tokens are compared one by one; all others count together. They are "
        "computed once and kept on disk, so that later epochs and runs do not need the teacher. Empty compares all "
        "tokens exactly, and runs the teacher at every step.",
        "逐一比较教师最可能的多少个词元，其余合并计算。它们只计算一次并保存在磁盘上，之后的轮次和运行不再需要教师模"
        "型。留空则精确比较全部词元，每一步都要运行教师模型。",
    ),
    "config.help.method.rewards": (
        "What the model's own answers are judged by; several add up. exact: the answer is the reference. numeric: its "
        "last number is the reference's. json: it is the reference's JSON value; json_fields: the share of its fields "
        "that are right. json_schema:FILE: it is JSON that "
        "fits "
        "the schema (without a file, that of the row's column schema). regex:PATTERN: the pattern is found, and what "
        "its "
        "first group holds is the reference. code: the row's tests hold once the answer has run, in a sandbox. Or your "
        "own function, module:function, called with the answer and the row. A reward model is asked as model:RUN.",
        "模型自己的回答如何评判；多个奖励相加。exact：与参考答案相同。numeric：最后一个数与参考答案的相同。json：与参考"
        "答案是同一 JSON 值。json_fields：正确字段的比例。"
        "json_schema:文件：是符合该模式的 JSON（不给文件则用数据行的 schema 列）。regex:模式：能找"
        "到该模式，且第一个分组的内容等于参考答案。code：在沙箱中运行回答后，数据行的 tests 通过。也可以是您自己的函数 "
        "模块:函数，以回答和数据行调用。奖励模型写作 model:运行。",
    ),
    "config.help.method.reward_weights": (
        "How much each reward counts, in their order; a negative one is a penalty. Empty counts each once.",
        "各奖励的权重，按顺序给出；负数表示惩罚。留空则各计一次。",
    ),
    "config.help.method.reward_seconds": (
        "How long one reward of one answer may take. One that takes longer or fails costs that answer, not the run.",
        "单个回答的单个奖励最多可用的秒数。超时或失败只损失这个回答，不影响运行。",
    ),
    "config.help.method.max_new_tokens": (
        "How long an answer may get. One that is cut is judged as it stands; if many are, an alarm says so.",
        "回答的最大长度。被截断的回答按现状评判；如果很多回答被截断，会发出警报。",
    ),
    "config.help.method.samples": (
        "How many answers are written to each prompt. grpo measures each by the others, so more of them make a better "
        "measure and cost more time; ppo needs one.",
        "每个提示写几个回答。grpo 以同组的其他回答为参照，因此越多越准、也越慢；ppo 只需一个。",
    ),
    "config.help.method.updates": (
        "How many updates are made with the same answers: 1 for grpo, 4 for ppo unless you say otherwise. More use "
        "answers better, until the model has moved too far from what wrote them.",
        "同一批回答用于几次更新：默认 grpo 为 1，ppo 为 4。次数多可充分利用回答，但模型会逐渐远离写下它们时的状态。",
    ),
    "config.help.method.clip": (
        "How far the probability of a token may move within one set of answers: 0.2 is 20 %.",
        "在同一批回答内，词元概率最多可变化多少：0.2 即 20%。",
    ),
    "config.help.method.clip_high": (
        "The same upwards, where it is to be another number. 0.28 keeps the model trying unlikely words for longer.",
        "向上的界限，仅在需要不同取值时给出。0.28 能让模型更久地尝试不常见的词。",
    ),
    "config.help.method.kl": (
        "How strongly the model is held near the one that training began with. 0 holds it not at all and saves a pass "
        "through that model (grpo's default); 0.01 to 0.1 are usual, ppo begins with 0.05.",
        "把模型拉向初始模型的强度。0 为不限制，并省去一次前向计算（grpo 默认）；通常取 0.01 到 0.1，ppo 默认 0.05。",
    ),
    "config.help.method.kl_estimator": (
        "How the distance to that model is estimated from one answer: k1 (plain, may be negative), k2 (squared), k3 "
        "(never negative). grpo takes k3, ppo k1.",
        "如何由单个回答估计与初始模型的距离：k1（直接，可为负）、k2（平方）、k3（非负）。grpo 默认 k3，ppo 默认 k1。",
    ),
    "config.help.method.kl_target": (
        "The distance, in nats per answer, that method.kl is moved to keep. Empty leaves method.kl as it is.",
        "希望保持的距离（每个回答的奈特数），method.kl 会随之调整。留空则 method.kl 不变。",
    ),
    "config.help.method.kl_horizon": (
        "How many answers method.kl takes to follow its target: fewer follow faster.",
        "method.kl 跟随目标所需的回答数：越少跟得越快。",
    ),
    "config.help.method.alarms": (
        "What happens when training goes wrong in a way that is known (the model drifts away, answers lose their "
        "variety, grow or shrink without end, good answers become unlikely, or what is learnt gains nothing on rows "
        "held out): warn writes it down with what to try, stop ends the run.",
        "训练以已知方式出错时（模型偏离、回答失去多样性、越来越长或越来越短、好的回答变得不太可能、学到的东西对留出的"
        "行没有改善）怎么办：warn 写下警报和建议，stop 结束运行。",
    ),
    "config.help.method.scale": (
        "What a reward is divided by once the group's mean is taken away: the spread of its group, of the whole batch, "
        "or none, which treats nearly solved and nearly hopeless prompts like all others.",
        "减去组内均值后，奖励再除以什么：组内的离散程度（group）、整批的离散程度（batch），或不除（none，使几乎已解决和"
        "几乎无望的提示与其他提示同等对待）。",
    ),
    "config.help.method.weighting": (
        "token counts every token the same; sequence every answer, so that a token of a long one counts less; constant "
        "divides by the longest answer there could be.",
        "token：每个词元同等计；sequence：每个回答同等计，因此长回答中的词元权重较小；constant：除以可能的最长长度。",
    ),
    "config.help.method.ratio": (
        "Whether tokens or whole answers are kept within method.clip. Whole answers need a far smaller clip (0.0003).",
        "method.clip 限制的是每个词元还是整个回答。对整个回答需要小得多的 clip（0.0003）。",
    ),
    "config.help.method.resample": (
        "How many times a prompt whose answers are all worth the same is replaced by another one within a step. 0 "
        "leaves the step with fewer prompts to learn from.",
        "某个提示的所有回答得分相同时，在同一步内最多换几次别的提示。0 表示不换，这一步可学习的提示随之减少。",
    ),
    "config.help.method.discount": (
        "How much a reward one token later is worth: 1 judges an answer as a whole.",
        "晚一个词元的奖励折算多少：1 表示回答作为整体评判。",
    ),
    "config.help.method.gae_lambda": (
        "Between trusting the values (0) and trusting the rewards (1). Below 1, early tokens hear of the reward at the "
        "end only through the values, which know nothing at first.",
        "在相信价值估计（0）与相信奖励（1）之间取舍。小于 1 时，靠前的词元只能经由价值估计得知末尾的奖励，"
        "而价值估计起初一无所知。",
    ),
    "config.help.method.value_clip": (
        "How far a value may move within one set of answers.",
        "在同一批回答内，价值估计最多可变化多少。",
    ),
    "config.help.method.value_weight": (
        "How much the loss of the values counts beside that of the answers.",
        "价值损失相对于回答损失的权重。",
    ),
    "config.help.method.critic": (
        "Who estimates how an answer will end: shared is one more output of the model that answers; separate an "
        "adapter "
        "of its own on the same base, which costs another pass and leaves the answers alone.",
        "由谁估计回答的结果：shared 为作答模型的一个附加输出；separate 为同一基础模型上的独立适配器，多一次计算，但不影"
        "响回答。",
    ),
    "config.help.method.whiten": (
        "Bring what is learnt from all answers of a step to one scale.",
        "把一步中所有回答的优势归一到同一尺度。",
    ),
    # ------------------------------------------------------------------------------------------------ tune
    "config.help.tune": (
        "Which part of the model changes.",
        "模型的哪一部分会改变。",
    ),
    "config.help.tune.kind": (
        "`lora` leaves the model as it is and trains small additions, like sticky notes on the pages of a book: "
        "little memory, a file of a few megabytes, hard to spoil the model; take it first. `qlora` is the same beside "
        "a model that is kept in a quarter of the memory, somewhat slower. `freeze` trains only the top layers. `full` "
        "trains every weight: the most room to learn, several times the memory, and the easiest way to forget what "
        "the model knew.",
        "`lora` 不改动模型本身，只训练小块的附加部分，就像在书页上贴便签：省内存，文件只有几兆，不易损坏模型，建议"
        "先用它。`qlora` 与之相同，但模型只占四分之一的内存，稍慢一些。`freeze` 只训练最上面几层。`full` 训练全部权"
        "重：学习空间最大，内存需要数倍，也最容易忘掉原有知识。",
    ),
    "config.help.tune.rank": (
        "lora: how large the additions are. 4 or 8 will do for a simple task or a tone of voice, 16 for most "
        "things, 32 to 128 for much new material. Larger learns more, but takes more memory, makes a larger file, "
        "and learns small data by heart sooner.",
        "lora：附加部分有多大。简单任务或语气用 4 或 8 就够，多数情况用 16，新内容很多时用 32 到 128。越大学得越"
        "多，但更占内存、文件更大，也更容易把小数据集死记下来。",
    ),
    "config.help.tune.alpha": (
        "lora: how strongly the additions act; their effect is multiplied by alpha / rank. Empty is twice the "
        "rank, which suits nearly everyone. Larger makes the tuning stronger, and sooner too strong; smaller keeps "
        "more of the base model. If you would change it, try the learning rate first.",
        "lora：附加部分的作用强度，其效果会乘以 alpha / rank。留空即为 rank 的两倍，几乎适合所有情况。越大微调作用"
        "越强，也越容易过头；越小则保留更多原模型的特点。想改它时，建议先试着调整学习率。",
    ),
    "config.help.tune.dropout": (
        "lora: the share of inputs that the additions are made to do without, at random, at each step, so that "
        "they do not lean on details. 0 is fine for most data; 0.05 to 0.1 helps when there are few examples and "
        "many epochs. Larger holds back memorising, and slows learning.",
        "lora：每一步随机让附加部分忽略的输入比例，避免它过分依赖细节。多数数据用 0 即可；样本少而轮数多时 0.05 到 "
        "0.1 会有帮助。越大越能抑制死记硬背，但学得也越慢。",
    ),
    "config.help.tune.targets": (
        "lora: which parts of each layer get additions. `all-linear` takes all of them and is best in most cases. "
        "A list such as [q_proj, v_proj] takes only those: fewer numbers to train and less memory, usually at some "
        "cost in quality. Names differ between models; a wrong one is answered with the list of right ones.",
        "lora：每层的哪些部分获得附加部分。`all-linear` 表示全部，多数情况下效果最好。像 [q_proj, v_proj] 这样的列"
        "表只选其中几个：训练的参数更少、更省内存，但质量通常略低。不同模型的名称不同；写错时会列出正确的名称。",
    ),
    "config.help.tune.rslora": (
        "lora: keeps the strength of the additions even when rank is large, by dividing alpha by the square root "
        "of rank instead of rank. Worth a try from rank 64 on; it makes tuning stronger at the same alpha.",
        "lora：用 alpha 除以 rank 的平方根（而不是 rank），使 rank 很大时附加部分的强度不致减弱。rank 在 64 以上时"
        "值得一试；alpha 相同时微调作用更强。",
    ),
    "config.help.tune.rank_pattern": (
        "lora: another rank for some parts, by name or regular expression, such as {{down_proj: 32}}. Rarely needed.",
        "lora：按名称或正则表达式为某些部分单独设置 rank，例如 {{down_proj: 32}}。很少需要。",
    ),
    "config.help.tune.alpha_pattern": (
        "lora: another alpha for some parts, by name or regular expression, such as {{down_proj: 64}}. Rarely needed.",
        "lora：按名称或正则表达式为某些部分单独设置 alpha，例如 {{down_proj: 64}}。很少需要。",
    ),
    "config.help.tune.layers": (
        "lora: a list of the layers that get additions, counted from 0; empty is all of them. freeze: how many of "
        "the top layers train. Fewer layers are faster and need less memory, and change less.",
        "lora：哪些层获得附加部分（从 0 数起的列表），留空为全部。freeze：训练最上面的几层。层数越少越快、越省内"
        "存，改变也越小。",
    ),
    "config.help.tune.modules_to_save": (
        "lora: parts that train in full beside the additions and are saved with them, such as embed_tokens and "
        "lm_head. Needed when the data use marks or words that the model has never seen. They are large: expect "
        "far more memory and a far larger file.",
        "lora：除附加部分外还要完整训练并一同保存的部分，例如 embed_tokens 和 lm_head。当数据中有模型从未见过的标记"
        "或词语时才需要。它们很大：内存和文件都会大得多。",
    ),
    "config.help.tune.from": (
        "lora: an adapter to train further, from an earlier run or any folder in PEFT's format, instead of a fresh "
        "one. It brings its own rank, alpha, targets and chat template. Use it to go on with new data without starting "
        "over.",
        "lora：在已有适配器（先前的运行，或任何 PEFT 格式的目录）上继续训练，而不是从新的开始。它自带 rank、alpha、"
        "targets 和对话模板。适合用新数据接着训练，不必从头再来。",
    ),
    "config.help.tune.base": (
        "qlora: how the model is kept. `nf4` takes half a byte per number, `int8` a whole one and is closer to the "
        "original. Take `int8` where it fits.",
        "qlora：模型以什么形式保存。`nf4` 每个数占半个字节，`int8` 占一个字节、更接近原模型。放得下时用 `int8`。",
    ),
    "config.help.tune.double_quant": (
        "qlora with base nf4: also keeps the scales of the numbers in fewer bits, which saves about a tenth more. No "
        "reason is known to switch it off, but to go on with an adapter that was trained without it.",
        "qlora 且 base 为 nf4 时：缩放系数也用更少的位保存，再省约十分之一。除非要接着训练一个当初没有用它的适配器，"
        "否则没有理由关闭。",
    ),
    # ------------------------------------------------------------------------------------------------ optim
    "config.help.optim": (
        "How fast and for how long the model learns.",
        "学得多快、学多久。",
    ),
    "config.help.optim.kind": (
        "The rule by which errors become changes. `adamw` adapts its steps to each number and is the usual choice; "
        "`sgd` is simpler and needs less memory, but its learning rate must be found by trial.",
        "把误差变成修改的规则。`adamw` 会为每个参数自动调整步幅，是通常的选择；`sgd` 更简单、更省内存，但学习率需要"
        "反复试验。",
    ),
    "config.help.optim.lr": (
        "The learning rate: how large each change is at its largest. Empty takes 2e-4 for lora and qlora, 2e-5 for "
        "full and freeze, 3e-4 from scratch. Larger learns faster; too large, and the loss jumps or the answers turn "
        "to nonsense. Smaller is steadier and needs more epochs. This is the first setting to try: halve it if "
        "training is restless, double it if the loss hardly falls.",
        "学习率：每次修改的最大幅度。留空时 lora 和 qlora 取 2e-4，full 和 freeze 取 2e-5，从零训练取 3e-4。越大学得"
        "越快；太大时损失会跳动，或回答变得语无伦次。越小越稳，但需要更多轮数。这是最先应该尝试的设置：训练不稳就减"
        "半，损失几乎不降就加倍。",
    ),
    "config.help.optim.epochs": (
        "How many times the model goes through all rows. 1 to 3 is usual; small data may need 5. More fits the "
        "examples more closely, until the model learns them by heart: watch the validation loss and stop where it "
        "turns up (Luthier keeps the best point). Parts such as 0.5 are fine for a trial.",
        "把全部数据学习几遍。通常为 1 到 3；数据少时可能需要 5。越多越贴近样本，直到死记硬背：请留意验证损失，它回"
        "升时就该停（Luthier 会保留最佳时刻）。试跑可以用 0.5 这样的小数。",
    ),
    "config.help.optim.steps": (
        "How many changes are made in all, in place of epochs. 20 is a good number for a quick trial. Too few "
        "leave the job unfinished, too many learn by heart.",
        "一共修改多少次，用来代替 epochs。快速试跑用 20 就很合适。太少学不完，太多会死记硬背。",
    ),
    "config.help.optim.batch": (
        "How many examples are looked at before each change. Larger is steadier and makes fewer changes per pass; "
        "smaller makes more, less certain ones. 8 to 64 is usual. It does not cost memory here: Luthier splits the "
        "batch to fit, with the same result.",
        "每次修改前参考多少个样本。越大越稳，每轮修改次数越少；越小则修改更频繁、更不确定。通常为 8 到 64。在这里它"
        "不占内存：Luthier 会自动拆分到放得下为止，结果不变。",
    ),
    "config.help.optim.schedule": (
        "How the learning rate changes over time. `cosine` and `linear` fall to the end and are good nearly "
        "always; `constant` stays; `inverse_sqrt` falls slowly, for long runs whose end is open; `polynomial` "
        "falls as optim.power says.",
        "学习率随时间如何变化。`cosine` 和 `linear` 一路下降，几乎总是合适；`constant` 保持不变；`inverse_sqrt` 缓"
        "慢下降，适合没有确定终点的长时间训练；`polynomial` 按 optim.power 下降。",
    ),
    "config.help.optim.warmup": (
        "The learning rate rises from 0 over this stretch, so that the first steps do no harm. Below 1 it is a "
        "share of the whole (0.03 is 3 %), from 1 on a number of steps. Raise it to 0.1 if the loss jumps at the "
        "start.",
        "学习率在这一段从 0 升起，使最初几步不致造成破坏。小于 1 表示占总步数的比例（0.03 即 3%），1 及以上表示步"
        "数。如果一开始损失就跳动，可调到 0.1。",
    ),
    "config.help.optim.min_lr_ratio": (
        "Where the learning rate ends, as a share of its peak. 0 falls to nothing, which is right when you know "
        "how long you train; 0.1 keeps learning alive if you may go on later.",
        "学习率最终降到峰值的多大比例。0 表示降到零，适合训练长度已定的情况；若之后可能继续训练，可设为 0.1。",
    ),
    "config.help.optim.power": (
        "For schedule polynomial: 1 is a straight line, 2 falls fast at first and gently at the end, larger still "
        "more so.",
        "用于 polynomial 调度：1 为直线，2 先快后慢，越大越明显。",
    ),
    "config.help.optim.betas": (
        "For adamw: how long it remembers the direction and the size of earlier changes; nearer to 1 is longer. "
        "Leave as it is; long pre-training often uses [0.9, 0.95].",
        "用于 adamw：对先前修改的方向和大小记多久，越接近 1 记得越久。保持默认即可；长时间预训练常用 [0.9, 0.95]。",
    ),
    "config.help.optim.eps": (
        "For adamw: a tiny number that keeps it from dividing by zero. Leave as it is.",
        "用于 adamw：避免除以零的极小数。保持默认即可。",
    ),
    "config.help.optim.weight_decay": (
        "Pulls weights gently towards 0 at each step, which holds back memorising. 0 suits adapters; 0.01 to 0.1 "
        "is usual for full and for pre-training. Larger holds back more, and learning too.",
        "每一步把权重轻轻拉向 0，以抑制死记硬背。适配器用 0；full 和预训练通常用 0.01 到 0.1。越大抑制越强，学习也"
        "越慢。",
    ),
    "config.help.optim.momentum": (
        "For sgd: how much of the last change is carried into the next; 0.9 is usual, 0 is none.",
        "用于 sgd：上一次修改有多少延续到下一次；通常为 0.9，0 表示不延续。",
    ),
    "config.help.optim.clip": (
        "The largest change that a single step may ask for; whatever is beyond is scaled down, so that one odd "
        "batch cannot wreck the model. 1 is good; lower it (0.3) if training is restless, 0 switches it off.",
        "单步允许的最大修改量，超出的部分会按比例缩小，避免个别异常批次毁掉模型。1 就很好；训练不稳时可调低（"
        "0.3），0 表示关闭。",
    ),
    "config.help.optim.budget_tokens": (
        "How many tokens are computed at once. Empty lets Luthier choose what fits into memory. It changes speed "
        "and memory, not what is learned. Lower it if other programs need memory too.",
        "一次同时计算多少词元。留空则由 Luthier 按内存选择。它只影响速度和内存，不影响学到的内容。其他程序也需要内"
        "存时可以调小。",
    ),
    "config.help.optim.activations": (
        "How much each layer keeps from the forward pass for the backward pass. `keep`: everything, nothing is "
        "computed twice; `drop_mlp`: without the widest part, a third of the memory for about a quarter more "
        "arithmetic; `drop_layer`: only its input, for about a third more; `offload`: everything, but in the host's "
        "memory, and `offload_input` the input alone (GPU only). `auto` keeps everything where that fits, less only in "
        "as many layers as it must, and inputs in the host's memory where nothing else fits. What is learned is the "
        "same to the last bit. Leave as it is.",
        "每层为反向计算保留多少前向计算的结果。`keep`：全部保留，不重复计算；`drop_mlp`：不保留最宽的部分，内存约为三"
        "分之一，计算量约多四分之一；`drop_layer`：只保留输入，计算量约多三分之一；`offload`：全部保留，但放在主机内"
        "存中，`offload_input` 则只放输入（均仅 GPU）。`auto` 在放得下时全部保留，否则只让必要的层少保留，都放不下时把"
        "输入放到主机内存。学到的内容逐位相同。保持默认即可。",
    ),
    "config.help.optim.weights": (
        "How the weights that train are kept from step to step. `float32` is exact and the usual choice. The other two "
        "keep bfloat16, half the memory: a step is then often smaller than the distance between two numbers, and plain "
        "rounding would lose it. `bfloat16_stochastic` rounds up or down by chance, right on average (2 bytes per "
        "weight); `bfloat16_kahan` keeps what is lost in a second number (4 bytes) and is nearly exact. For full and "
        "freeze, where memory is short.",
        "训练的权重在各步之间如何保存。`float32` 精确，是通常的选择。另外两种用 bfloat16 保存，内存减半：此时一步的修"
        "改往往小于两个相邻数字的间隔，普通舍入会把它丢掉。`bfloat16_stochastic` 随机向上或向下舍入，平均而言正确（每"
        "个权重 2 字节）；`bfloat16_kahan` 用第二个数保存丢失的部分（4 字节），几乎精确。用于 full 和 freeze，在内存不"
        "足时使用。",
    ),
    "config.help.optim.states": (
        "How adamw keeps its memory of earlier changes, two numbers per trained weight: `float32` takes 8 bytes for "
        "them, `bfloat16` 4 and `8bit` 2. Fewer bytes are a little less exact. Choose `8bit` where memory is short; "
        "it works with adapters too, where it saves little.",
        "adamw 如何保存对先前修改的记忆（每个训练的权重两个数）：`float32` 共占 8 字节，`bfloat16` 4 字节，`8bit` 2 字"
        "节。字节越少精度略低。内存不足时选 `8bit`；适配器也可以用，但省得不多。",
    ),
    "config.help.optim.paged": (
        "true keeps adamw's moments in the computer's own memory instead of the GPU's, which frees 8 bytes per trained "
        "weight there (2 with `states=8bit`). The result is the same to the bit; each update takes longer, as the "
        "moments travel both ways. For full and freeze on a GPU that is too small; refused on a CPU.",
        "true 表示把 adamw 的动量放在主机内存而不是显存中，每个训练的权重为显存省 8 字节（`states=8bit` 时为 2 字节）。"
        "结果逐位相同；每次更新变慢，因为动量要来回传送。用于显存不足时的 full 和 freeze；在 CPU 上会被拒绝。",
    ),
    "config.help.optim.in_backward": (
        "true changes each weight as soon as its gradient is known and frees the gradient at once, which saves 4 bytes "
        "per trained weight. The result is the same. It needs optim.clip=0 and memory for a whole batch at once, and a "
        "bad row can then end the run instead of being left out. For full and freeze, where memory is short.",
        "true 表示一得到梯度就修改对应的权重并立即释放梯度，每个训练的权重省 4 字节。结果不变。它要求 optim.clip=0，并"
        "且内存一次装得下整个批次；出现坏数据行时运行可能中止，而不是跳过。用于 full 和 freeze，在内存不足时使用。",
    ),
    # ------------------------------------------------------------------------------------------------ run
    "config.help.run": (
        "Where the results go, and how the run behaves.",
        "结果放在哪里，以及运行时的行为。",
    ),
    "config.help.run.name": (
        "The name of the run and of its folder. Empty makes one from the model, the method and the data. The same "
        "name again goes on with an unfinished run; choose a new name for a new attempt.",
        "这次运行及其目录的名称。留空则由模型、方法和数据自动生成。再次使用同一名称会继续未完成的运行；新的尝试请换"
        "一个名称。",
    ),
    "config.help.run.dir": (
        "The folder that holds all runs.",
        "存放所有运行的目录。",
    ),
    "config.help.run.seed": (
        "The number that all chance comes from: the order of rows, the start of the adapter, dropout. The same "
        "seed repeats a run exactly; another one shows how much of a result is luck.",
        "一切随机性的来源：数据顺序、适配器的初始值、dropout。种子相同则可完全重现；换一个种子可以看出结果有多少是"
        "运气。",
    ),
    "config.help.run.device": (
        "What computes. `auto` takes the GPU if there is a usable one, else the processor. `cpu` and `cuda` (an "
        "NVIDIA GPU) insist.",
        "用什么来计算。`auto` 有可用的 GPU 就用 GPU，否则用处理器。`cpu` 和 `cuda`（NVIDIA GPU）表示强制指定。",
    ),
    "config.help.run.devices": (
        "How many devices train together, each with a copy of the model. `auto` takes every GPU that is there, and one "
        "processor. More devices share the examples of an update among them: it is done sooner, and the result is the "
        "same but for the last digits.",
        "一起训练的设备数，每个设备各有一份模型。`auto` 使用所有可用的 GPU；用处理器时为 1。多个设备分担一次更新中的"
        "样本：完成得更快，结果除最后几位数字外相同。",
    ),
    "config.help.run.log_every": (
        "Steps between two entries of loss and speed. 1 shows all; raise it to 10 or more on a fast GPU, where "
        "each look costs a little.",
        "每隔多少步记录一次损失和速度。1 为每步都记；在很快的 GPU 上每次记录都有少许开销，可调到 10 或更大。",
    ),
    "config.help.run.save_every": (
        "Steps between two checkpoints, from which a run that was stopped or killed goes on. Empty makes ten in "
        "all, at least one per epoch, and never waits more than 15 minutes. Smaller loses less work and writes "
        "more.",
        "每隔多少步保存一次检查点，中断的运行可以从那里继续。留空则共保存十次，每轮至少一次，且间隔不超过 15 分钟。"
        "越小损失的进度越少，写盘越多。",
    ),
    "config.help.run.keep": (
        "How many checkpoints stay on disk, besides the best one. More let you go further back and take more space.",
        "除最佳检查点外，磁盘上保留几个检查点。越多可回退得越早，占用空间也越大。",
    ),
    "config.help.run.validate_every": (
        "Steps between two tests on the validation rows. Empty makes four, and one at the end. Smaller shows "
        "sooner when the model begins to memorise, and takes time from training.",
        "每隔多少步在验证数据上测试一次。留空则测试四次，结束时再测一次。越小越早发现死记硬背，但会占用训练时间。",
    ),
    "config.help.run.samples": (
        "How many of the held-out rows the model answers at each test on them, so that you can read how its answers "
        "change: `luthier runs show` has the last ones, and the run's event log all of them. Nothing that is learnt "
        "depends on it. 4 is a good number to begin with; each costs the time of an answer.",
        "每次验证时让模型回答几行留出的数据，便于阅读回答如何变化：`luthier runs show` 显示最近一次的回答，运行的事件"
        "日志保存全部。训练结果不受影响。可以从 4 开始；每个都要花写一个回答的时间。",
    ),
    "config.help.run.sample_tokens": (
        "The most tokens of each such answer. Where your answers are longer, raise it to see how they end.",
        "每个这样的回答最多多少个词元。如果你的回答更长，调大它才能看到结尾。",
    ),
    "config.help.run.report": (
        "Also send the curves to tensorboard, wandb or swanlab, each of which must be installed. The run folder "
        "has everything in any case.",
        "同时把曲线发送到 tensorboard、wandb 或 swanlab（需分别安装）。无论如何，运行目录里都有完整记录。",
    ),
    "config.help.run.on_change": (
        "What to do if recipe or data have changed since an unfinished run of this name was started. `stop` shows "
        "the difference and asks; `continue` goes on and writes the change down.",
        "如果同名的未完成运行开始之后，配方或数据发生了变化，该怎么办。`stop` 显示差异并停下；`continue` 继续运行并"
        "记录变化。",
    ),
}

UNSET: dict[str, tuple[str, str]] = {
    "config.unset.model.revision": ("the newest version", "最新版本"),
    "config.unset.data.train.subset": ("the data set's default one", "数据集的默认配置"),
    "config.unset.data.train.revision": ("the newest version", "最新版本"),
    "config.unset.data.max_repeats": ("no limit", "不限"),
    "config.unset.data.system": ("conversations stay as they are", "对话保持原样"),
    "config.unset.data.stop_token": ("the template's own", "模板自带的标记"),
    "config.unset.method.loss": ("the likelihood of each token", "每个词元的似然"),
    "config.unset.method.top_k": (
        "all tokens; the teacher runs at every step",
        "全部词元；教师模型每一步都要运行",
    ),
    "config.unset.method.clip_high": ("as clip", "与 clip 相同"),
    "config.unset.method.kl_target": ("the weight stays as it is", "权重保持不变"),
    "config.unset.tune.alpha": ("twice the rank", "rank 的两倍"),
    "config.unset.tune.layers": ("all layers", "全部层"),
    "config.unset.tune.from": ("a fresh adapter", "全新的适配器"),
    "config.unset.optim.lr": (
        "by method and tuning kind: 2e-4 for an adapter that learns from answers, 2e-5 for the model itself",
        "取决于方法和微调方式：从回答中学习的适配器为 2e-4，模型本身为 2e-5",
    ),
    "config.unset.optim.steps": ("as long as epochs says", "由 epochs 决定"),
    "config.unset.optim.budget_tokens": ("what fits into memory", "按内存自动选择"),
    "config.unset.run.name": ("made from the model, the method and the data", "由模型、方法和数据生成"),
    "config.unset.run.save_every": (
        "ten in all, at least one per epoch, never more than 15 minutes apart",
        "共十次，每轮至少一次，间隔不超过 15 分钟",
    ),
    "config.unset.run.validate_every": ("four times and at the end", "四次，结束时再一次"),
}

PRESETS: dict[str, tuple[str, str]] = {
    "config.preset.quick": ("Quick", "快速"),
    "config.preset.balanced": ("Balanced", "均衡"),
    "config.preset.thorough": ("Thorough", "充分"),
    "config.preset_help.quick": (
        "One pass over the rows with a small adapter: a first answer in the least time, to see whether data and model "
        "are right.",
        "用小适配器把数据学一遍：用最短的时间得到第一个结果，看看数据和模型是否合适。",
    ),
    "config.preset_help.balanced": (
        "Three passes with an adapter of the usual size. Right for most data; start here if you are not sure.",
        "用常规大小的适配器学三遍。适合大多数数据；不确定时从这里开始。",
    ),
    "config.preset_help.thorough": (
        "Five passes with a large adapter: for small data, or when the result is to be as good as it gets. Takes the "
        "longest. Where rows are held out for validation, the best point on the way is kept, so that going on too long "
        "does no harm.",
        "用大适配器学五遍：适合数据较少，或希望结果尽可能好的情况。耗时最长。如果留有验证数据，途中的最佳时刻会被保留，"
        "学得过久也不要紧。",
    ),
}
