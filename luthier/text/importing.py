"""Messages of the area `importing`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "importing.intro": (
        "Translated from {file} ({program}). Keys without an equal are listed at the end.",
        "由 {file}（{program}）转换而来。没有对应项的键列在末尾。",
    ),
    "importing.missed": (
        "NOT THE SAME TRAINING: the file asks for a kind of training that is not supported yet (see the end).",
        "训练方式不同：原文件要求的训练方式目前尚不支持（见末尾）。",
    ),
    "importing.done": (
        "{program} recipe translated into {path}: {fields} settings, {findings} keys without an equal.",
        "已将 {program} 配方转换为 {path}：{fields} 个设置项，{findings} 个键没有对应项。",
    ),
    "importing.next": (
        "Look at the data before training: luthier data check {path}",
        "训练前请先检查数据：luthier data check {path}",
    ),
    # ------------------------------------------------------------------------------------------------ kinds
    "importing.kind.not_yet": ("Not supported yet ({count}):", "尚不支持（{count}）："),
    "importing.kind.unknown": ("Not understood ({count}):", "未能理解（{count}）："),
    "importing.kind.changed": ("Translated, with a difference ({count}):", "已转换但有差异（{count}）："),
    "importing.kind.not_needed": ("Not needed here ({count}):", "此处不需要（{count}）："),
    # ------------------------------------------------------------------------------------------------ not needed
    "importing.why.always": ("it is always so here", "此处始终如此"),
    "importing.why.adapter_folder": ("`tune.from` takes a whole path", "`tune.from` 接受完整路径"),
    "importing.why.best": (
        "the weights with the lowest validation loss are the ones that ship",
        "始终采用验证损失最低的权重",
    ),
    "importing.why.cache": (
        "caches look after themselves (LUTHIER_CACHE, HF_HOME)",
        "缓存自动管理（LUTHIER_CACHE、HF_HOME）",
    ),
    "importing.why.chunks": (
        "long documents are cut into chunks, all of which are learnt",
        "长文档会被切块，每块都会学习",
    ),
    "importing.why.constant_warmup": (
        "the schedule `constant` has no warm-up there; `constant_with_warmup` has",
        "在那里 `constant` 调度没有预热，`constant_with_warmup` 才有",
    ),
    "importing.why.devices": ("how processes find each other is no setting here", "进程间如何通信不是此处的设置"),
    "importing.why.events": (
        "progress, curves and memory are always kept in the run folder",
        "进度、曲线和内存始终记录在运行目录中",
    ),
    "importing.why.family": ("read from the model's own files", "从模型自身的文件中读取"),
    "importing.why.from_settles": ("the adapter that is trained further settles it", "由继续训练的适配器决定"),
    "importing.why.hashed": ("the hash of every file is kept with the run", "每个文件的哈希都随运行记录"),
    "importing.why.inference": ("it is about answering, not about training", "与推理有关，与训练无关"),
    "importing.why.injection": ("text in the data never becomes a control token", "数据中的文本绝不会变成控制标记"),
    "importing.why.kernels": ("the fastest kernels that fit are chosen by themselves", "自动选择合适的最快内核"),
    "importing.why.memory": (
        "memory is planned before training; the result is the same",
        "内存在训练前自动规划，结果不变",
    ),
    "importing.why.no_code": ("no code from a hub is ever run", "从不运行模型库中的代码"),
    "importing.why.no_media": ("text models only", "仅支持文本模型"),
    "importing.why.no_template": ("pre-training learns plain text, without a template", "预训练学习纯文本，不用模板"),
    "importing.why.nothing_held_out": ("no rows are held out", "没有留出验证数据"),
    "importing.why.other_method": ("without meaning for method.kind = {method}", "对 method.kind = {method} 没有意义"),
    "importing.why.sampler": (
        "the weights that train write the answers themselves, without a server",
        "由正在训练的权重直接写回答，无需服务",
    ),
    "importing.why.off": ("switched off there, and absent here", "原文件中已关闭，此处没有"),
    "importing.why.one_seed": ("run.seed decides the order of the data too", "run.seed 也决定数据顺序"),
    "importing.why.mean_rows": ("new rows start as the mean of the rows there are", "新行以现有各行的平均值开始"),
    "importing.why.resized": ("rows are added where the tokens need them", "需要时会自动增加行"),
    "importing.why.rows_only": (
        "only the rows of new tokens train; the others stay as they are",
        "只训练新词元的行，其余不变",
    ),
    "importing.why.other_kind": ("without meaning for tune.kind = {tuning}", "对 tune.kind = {tuning} 没有意义"),
    "importing.why.own_tokens": ("the tokenizer's own are used", "使用分词器自带的标记"),
    "importing.why.packing": ("rows are never padded and never see each other", "各行从不填充，也互不可见"),
    "importing.why.resume": (
        "the same command goes on with an unfinished run; a finished one is never overwritten",
        "同一命令会继续未完成的运行；已完成的运行绝不被覆盖",
    ),
    "importing.why.run_name": ("the run is named after the output folder", "运行以输出目录命名"),
    "importing.why.same_data": ("another key says where this data set is", "另一个键已说明该数据集的位置"),
    "importing.why.saving": (
        "at least one checkpoint per epoch is kept (run.save_every sets the steps)",
        "每轮至少保存一个检查点（run.save_every 设定步数）",
    ),
    "importing.why.secrets": (
        "tokens come from the environment, never from a recipe",
        "密钥来自环境变量，绝不写入配方",
    ),
    "importing.why.steps_rule": ("the number of steps takes its place", "由步数取代"),
    "importing.why.stop_token": (
        "the template decides what ends an answer; data.stop_token sets another",
        "由模板决定回答的结束标记；可用 data.stop_token 另行指定",
    ),
    "importing.why.streaming": ("files are never held in memory whole", "文件从不整个读入内存"),
    "importing.why.template_tools": ("the template decides how tools are written", "由模板决定工具的写法"),
    "importing.why.thinking": (
        "thoughts in the data are rendered as the template writes them",
        "数据中的思考内容按模板渲染",
    ),
    "importing.why.untrained": (
        "a stop token that was never trained is found, and said",
        "会检查并提示从未训练过的结束标记",
    ),
    "importing.why.validation": (
        "rows that are held out are looked at four times per run (run.validate_every sets the steps)",
        "留出的数据每次运行验证四次（run.validate_every 设定步数）",
    ),
    "importing.why.watchdog": (
        "steps that are not finite are left out, and three in a row end the run",
        "非有限的步会被跳过，连续三次则停止",
    ),
    "importing.why.without_effect": ("without effect beside the other settings", "与其他设置并存时不起作用"),
    "importing.why.workers": ("workers and buffers look after themselves", "工作进程与缓冲区自动管理"),
    # ------------------------------------------------------------------------------------------------ changed
    "importing.why.alpaca_prompt": (
        "that type writes its own prompt; data.template: alpaca is the nearest, model is the model's chat template",
        "该类型自带提示词；最接近的是 data.template: alpaca，model 则用模型自带的对话模板",
    ),
    "importing.why.batch_of_prompts": (
        "theirs counts answers; here an update counts prompts, each with {samples} answers",
        "原程序按回答计数；此处一次更新按提示计数，每个提示有 {samples} 个回答",
    ),
    "importing.why.reward_function": (
        "a reward of one's own takes (answer, row) here and gives a number: rewrite it so",
        "自定义奖励函数在此处接受 (answer, row) 并返回一个数：请相应改写",
    ),
    "importing.why.freeze": (
        "the final norm and an untied head are trained too",
        "最后的归一化层和未绑定的输出层也会训练",
    ),
    "importing.why.states": (
        "the optimizer's state has at least 8 bits (optim.states)",
        "优化器状态至少为 8 位（optim.states）",
    ),
    "importing.why.read_too": (
        "the file has this column: it is read here, and was not there",
        "文件中有该列：此处会读取，原程序不读取",
    ),
    "importing.why.template": (
        "the model's own chat template is used, so that chat and training agree",
        "使用模型自带的对话模板，使训练与对话一致",
    ),
    "importing.why.text_lines": (
        "each line is a text there; here blank lines separate texts where there are any",
        "在那里每行是一段文本；此处若有空行则以空行分隔",
    ),
    "importing.why.too_long": (
        "longer rows are cut there; here they stop the run until data.too_long says truncate or drop",
        "原程序会截断过长的行；此处会停止运行，直到 data.too_long 设为 truncate 或 drop",
    ),
    "importing.why.too_long_dropped": (
        "longer rows are dropped there; here they stop the run until data.too_long says drop or truncate",
        "原程序会丢弃过长的行；此处会停止运行，直到 data.too_long 设为 drop 或 truncate",
    ),
    # ------------------------------------------------------------------------------------------------ not yet
    "importing.why.adapter": ("this kind of adapter or its start is not supported", "尚不支持这种适配器或初始化"),
    "importing.why.architecture": ("changes of the architecture are not supported", "尚不支持更改模型结构"),
    "importing.why.data_part": (
        "choosing a part of a data set: make the file of these rows",
        "选取数据集的一部分：请将这些行另存为文件",
    ),
    "importing.why.drop_last": ("the last short step is always kept", "最后不足一批的步始终保留"),
    "importing.why.duplicates": (
        "rows are not deduplicated; `luthier data check` looks at them",
        "不会去重；可用 `luthier data check` 查看",
    ),
    "importing.why.each_set": ("one validation loss is kept for all files", "所有文件共用一个验证损失"),
    "importing.why.elsewhere": (
        "files are not fetched from there: download it, and put its path here",
        "不会从该处下载：请下载后填写路径",
    ),
    "importing.why.early_stop": (
        "there is no early stop; the best weights ship all the same",
        "没有提前停止，但仍采用最佳权重",
    ),
    "importing.why.ending": (
        "the ending of its name decides how a file is read: rename it",
        "按文件名后缀决定读取方式：请重命名文件",
    ),
    "importing.why.export": ("exporting is not part of training", "导出不属于训练"),
    "importing.why.frozen_parts": ("single modules cannot be chosen for training", "尚不能选择单个模块训练"),
    "importing.why.generated": (
        "scoring generated answers or accuracy is not supported",
        "尚不支持对生成结果评分或计算准确率",
    ),
    "importing.why.hub_files": (
        "single files of a data set on a hub: download them to this path",
        "数据集中的单个文件：请下载到该路径",
    ),
    "importing.why.inline_template": (
        "a template inside the recipe: save it as a file and name it in data.template",
        "配方内的模板：请存为文件并填入 data.template",
    ),
    "importing.why.joined_text": ("a text is one column: join them in the file", "文本只取一列：请在文件中合并"),
    "importing.why.loss": ("only the plain likelihood loss is there", "目前只有普通的似然损失"),
    "importing.why.loss_on_prompt": ("only the assistant's words carry loss", "只有助手的内容计入损失"),
    "importing.why.max_samples": (
        "rows cannot be counted off: make a file of the first ones",
        "不能限定行数：请将前若干行另存为文件",
    ),
    "importing.why.media": ("pictures, sound and video are not supported", "尚不支持图像、音频和视频"),
    "importing.why.mixing": (
        "mixing by probability; a source's `weight` in proportion to probability / rows does the same",
        "按概率混合；数据源的 `weight` 取概率除以行数的比例即可等效",
    ),
    "importing.why.no_tools": (
        "tools stand beside turns only, not beside a question and its answer",
        "工具只能与对话轮次并列，不能与问答并列",
    ),
    "importing.why.one_template": ("one template holds for all files", "所有文件共用一个模板"),
    "importing.why.old_rows": (
        "only rows of new tokens are trained by themselves (data.new_tokens)",
        "只有新词元的行会单独训练（data.new_tokens）",
    ),
    "importing.why.token_file": ("list its tokens in data.new_tokens", "请将其中的词元列入 data.new_tokens"),
    "importing.why.noise": ("noise on embeddings is not supported", "尚不支持嵌入噪声"),
    "importing.why.optimizer": ("this optimizer is not there; adamw is used", "没有这种优化器，改用 adamw"),
    "importing.why.order": ("rows are always shuffled", "各行始终会打乱顺序"),
    "importing.why.other_hub": (
        "only data sets of the Hugging Face hub are fetched: download this one, and put its path here",
        "只下载 Hugging Face 上的数据集：请自行下载后填写路径",
    ),
    "importing.why.other_tokenizer": ("the tokenizer comes from the model's folder", "分词器取自模型目录"),
    "importing.why.own_prompt": (
        "a prompt of your own: write a Jinja template or a format (module:function)",
        "自定义提示词：请编写 Jinja 模板或格式（module:function）",
    ),
    "importing.why.own_rows": (
        "such rows are not read: write a format of your own (module:function)",
        "不能读取这种行：请自己编写格式（module:function）",
    ),
    "importing.why.own_system": (
        "data.system holds for all conversations without one: put it there",
        "data.system 用于所有没有系统提示的对话：请填在那里",
    ),
    "importing.why.plugins": ("plugins are programs; none is loaded", "插件是程序，不会加载"),
    "importing.why.preference": (
        "this part of learning from judged answers or rewards is not there",
        "偏好或奖励训练中的这一部分尚不支持",
    ),
    "importing.why.prompt_length": (
        "prompts have no bound of their own: data.max_tokens counts prompt and answer",
        "提示没有单独的长度上限：data.max_tokens 计入提示与回答",
    ),
    "importing.why.prompt_rows": (
        "a function of the file's own makes its prompts: write rows with `prompt`, and beside it what rewards look at",
        "其提示由自带的函数生成：请写成含 `prompt` 的行，并把奖励要用的内容放在旁边的列",
    ),
    "importing.why.reference": (
        "the reference is always the model that this run begins with",
        "参考模型始终是本次运行开始时的模型",
    ),
    "importing.why.own_judge": (
        "it keeps a head of its own kind: train one with method: reward, and name it in method.rewards as model:RUN",
        "其输出头格式特殊：请用 method: reward 训练一个，并在 method.rewards 中写作 model:RUN",
    ),
    "importing.why.no_rewards": (
        "without reward functions nothing can be learnt from its own answers; the recipe says sft",
        "没有奖励函数就无法从自己的回答中学习；配方写的是 sft",
    ),
    "importing.why.sampling": (
        "answers are drawn from the policy's own distribution, which is the one that is trained",
        "回答总是从策略自身的分布中采样，也就是被训练的分布",
    ),
    "importing.why.prompt_type": (
        "this prompt type is not known; the layout of the rows is detected",
        "未知的提示类型；将自动识别行的格式",
    ),
    "importing.why.push": ("nothing is sent to a hub", "不会上传到模型库"),
    "importing.why.quantised": (
        "of quantised bases there are 4 bits (nf4) and 8 bits (int8); the recipe says lora on the base as it is: the "
        "same training, with more memory",
        "量化底座只有 4 位（nf4）和 8 位（int8）；配方写的是在原底座上做 lora：训练相同，但占用更多内存",
    ),
    "importing.why.other_quantiser": (
        "the base is quantised with bitsandbytes while it is loaded",
        "底座在加载时用 bitsandbytes 量化",
    ),
    "importing.why.only_nf4": (
        "of 4 bits there is nf4 only, which is the closer to the original of the two",
        "4 位只有 nf4，它是两者中更接近原模型的一种",
    ),
    "importing.why.role": (
        "role names that are read: user/human, assistant/gpt, system, tool/observation",
        "可识别的角色名：user/human、assistant/gpt、system、tool/observation",
    ),
    "importing.why.schedule": (
        "this schedule is not there; cosine is used where none is set",
        "没有这种调度；未设置时使用 cosine",
    ),
    "importing.why.script": (
        "a loading script is a program and is not run: save its rows as a file",
        "加载脚本是程序，不会运行：请将数据另存为文件",
    ),
    "importing.why.several_adapters": (
        "one adapter is trained further; merge the earlier ones first",
        "只能继续训练一个适配器；请先合并其余的",
    ),
    "importing.why.several_devices": (
        "one device for now; optim.batch stays the same",
        "目前只用一个设备；optim.batch 不变",
    ),
    "importing.why.share_of_rows": (
        "a number of rows: give a share below 0.5, or a file",
        "按行数留出：请给出小于 0.5 的比例或文件",
    ),
    "importing.why.split_part": (
        "a split has one name: make a file of a part of it",
        "划分只能是一个名称：请将其中一部分另存为文件",
    ),
    "importing.why.split_thoughts": (
        "thoughts are not cut out of answers: put them under reasoning_content",
        "不会从回答中分出思考内容：请放在 reasoning_content 中",
    ),
    "importing.why.stage": (
        "training of the kind {stage} is not there; the recipe says sft",
        "没有 {stage} 这种训练；配方写的是 sft",
    ),
    "importing.why.stop_tokens": (
        "the stop token of each learnt answer is learnt, and no other",
        "只学习每个所学回答的结束标记",
    ),
    "importing.why.system_kept": (
        "the system message stays: take it out of the file",
        "系统消息会保留：请从文件中删去",
    ),
    "importing.why.text_beside": (
        "plain text beside conversations: pre-train on it in a run of its own (method: pretrain)",
        "对话之外的纯文本：请另行预训练（method: pretrain）",
    ),
    "importing.why.thinking_key": (
        "templates get thoughts as reasoning_content",
        "模板以 reasoning_content 得到思考内容",
    ),
    "importing.why.tracker": (
        "trackers are tensorboard, wandb and swanlab",
        "支持的跟踪工具：tensorboard、wandb、swanlab",
    ),
    "importing.why.tracker_names": ("the tracker's own environment variables set it", "由跟踪工具自身的环境变量设定"),
    "importing.why.turn_key": ("turns have no such key here", "此处的轮次没有这个键"),
    "importing.why.turn_parts": ("a turn is learnt whole or not at all", "一个轮次要么整体学习，要么不学习"),
    "importing.why.tuning": (
        "tuning of the kind {tuning} is not there; the recipe says lora",
        "没有 {tuning} 这种调优；配方写的是 lora",
    ),
    "importing.why.unmarked": (
        "answers without a mark are learnt too: mark those that are not to be learnt",
        "没有标记的回答也会学习：请标出不应学习的回答",
    ),
    # ------------------------------------------------------------------------------------------------ unknown
    "importing.why.unknown": ("unknown key", "未知的键"),
    "importing.why.value": ("this value cannot be used", "无法使用该值"),
    "importing.why.refused": ("left out: {rule}", "已省略：{rule}"),
    "importing.why.no_such_data": (
        "dataset_info.json has no data set of this name",
        "dataset_info.json 中没有这个数据集",
    ),
    "importing.why.no_catalogue": (
        "there is no dataset_info.json to say which file it is: put the file's path here",
        "找不到 dataset_info.json，无法得知对应文件：请填写文件路径",
    ),
    # ------------------------------------------------------------------------------------------------ faults
    "importing.neither.rule": (
        "this is neither a LLaMA-Factory recipe (model_name_or_path) nor an axolotl one (base_model)",
        "这既不是 LLaMA-Factory 配方（model_name_or_path），也不是 axolotl 配方（base_model）",
    ),
    "importing.neither.remedy": ("Give the YAML file that you train with.", "请给出用于训练的 YAML 文件。"),
    "importing.missing.rule": ("a {program} recipe for training needs this key", "{program} 的训练配方需要这个键"),
    "importing.missing.remedy": (
        "Recipes for inference, export or evaluation have no equal here.",
        "推理、导出或评测的配方在此处没有对应项。",
    ),
    "importing.catalogue.rule": ("this must hold one JSON object", "该文件应包含一个 JSON 对象"),
    "importing.catalogue.remedy": (
        "It maps names of data sets to files, as LLaMA-Factory reads it.",
        "它将数据集名称对应到文件，格式与 LLaMA-Factory 相同。",
    ),
}
