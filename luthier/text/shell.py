"""Messages of the area `shell`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    # ------------------------------------------------------------------------------------------------ commands
    "shell.about": (
        "Fine-tune open language models: fast, within your memory, with a receipt.",
        "微调开源语言模型：快速、不超内存、附带凭证。",
    ),
    "shell.epilog": (
        "Every command takes --json (one JSON object on stdout) and --debug (the whole traceback of a fault).",
        "所有命令都支持 --json（在标准输出打印一个 JSON 对象）和 --debug（出现故障时显示完整的调用栈）。",
    ),
    "shell.help.train": (
        "Train as a recipe says; the same command goes on with an unfinished run.",
        "按配方训练；再次运行同一命令会继续未完成的运行。",
    ),
    "shell.help.plan": (
        "Memory and time of a recipe, before any weight is loaded.",
        "在加载任何权重之前估算配方的内存和时间。",
    ),
    "shell.help.init": ("Write a recipe with comments to start from.", "生成一份带注释的配方。"),
    "shell.help.import": (
        "Translate a LLaMA-Factory or axolotl recipe.",
        "转换 LLaMA-Factory 或 axolotl 的配方。",
    ),
    "shell.help.help": (
        "Explain a setting of recipes (`luthier help rank`); without a name, list all.",
        "解释配方中的设置项（如 `luthier help rank`）；不给名称则列出全部。",
    ),
    "shell.help.chat": ("Talk to a run or a model.", "与一次运行的结果或某个模型对话。"),
    "shell.help.merge": (
        "Merge a run's adapter (or several, RUN=0.5) into its base: an ordinary model folder with a receipt.",
        "把运行的适配器（可多个，如 RUN=0.5）合并进基础模型，得到带凭证的普通模型文件夹。",
    ),
    "shell.help.export": (
        "Write GGUF files for llama.cpp and its kin, and hold each against the tuned model.",
        "写出供 llama.cpp 等使用的 GGUF 文件，并逐一与调优后的模型核对。",
    ),
    "shell.option.gguf": ("Types, with commas between: q4_k_m,q8_0,f16.", "类型，用逗号分隔：q4_k_m,q8_0,f16。"),
    "shell.option.lora_gguf": (
        "Write the adapter alone, for a base that llama.cpp has already: f16 or f32.",
        "只写出适配器，供已有基础模型的 llama.cpp 使用：f16 或 f32。",
    ),
    "shell.option.base_gguf": (
        "GGUF file of the base, to check --lora-gguf on.",
        "基础模型的 GGUF 文件，用于核对 --lora-gguf。",
    ),
    "shell.option.export_out": (
        "Folder to write; by default the name with -gguf.",
        "要写入的文件夹；默认为名称加 -gguf。",
    ),
    "shell.option.no_verify": ("Do not run the files in llama.cpp.", "不在 llama.cpp 中运行这些文件。"),
    "shell.option.ollama": (
        "Write a Modelfile beside each file: chat template, system prompt and stop tokens for Ollama.",
        "在每个文件旁写出 Modelfile：供 Ollama 使用的对话模板、系统提示和停止符。",
    ),
    "shell.option.merge_targets": (
        "Runs or folders with PEFT adapters; `=0.5` behind one gives it that strength.",
        "运行或 PEFT 适配器文件夹；后加 `=0.5` 设置强度。",
    ),
    "shell.option.merge_out": (
        "Folder to write; by default the run's name with -merged.",
        "要写入的文件夹；默认为运行名加 -merged。",
    ),
    "shell.option.merge_base": (
        "Base of adapters that no run made, where their settings do not name the right one.",
        "并非由运行生成的适配器的基础模型（当其设置不正确时）。",
    ),
    "shell.option.merge_force": (
        "Write it also where it does not agree with the tuned model.",
        "即使与调优后的模型不一致也写入。",
    ),
    "shell.help.push": (
        "Send an adapter, a model or GGUF files to a Hugging Face repository, private by default.",
        "把适配器、模型或 GGUF 文件上传到 Hugging Face 仓库，默认私有。",
    ),
    "shell.option.push_targets": (
        "A run, a folder, or files. What a run keeps for itself is never sent.",
        "一个运行、一个文件夹，或若干文件。运行自身的内容不会上传。",
    ),
    "shell.option.push_repo": ("Repository; made where there is none.", "仓库；不存在时新建。"),
    "shell.option.push_what": (
        "Which of them: adapter, model (also one merged from the run) or gguf; by default the run's result.",
        "上传哪一种：adapter、model（包括由运行合并的）或 gguf；默认为运行的结果。",
    ),
    "shell.option.push_public": (
        "Make the repository public, or send to a public one.",
        "新建公开仓库，或上传到公开仓库。",
    ),
    "shell.option.push_add": (
        "Send also to a repository that holds other files.",
        "即使仓库中有其他文件也上传。",
    ),
    "shell.option.push_dry_run": ("Show what would be sent, send nothing.", "只显示将上传的内容，不上传。"),
    "shell.help.generate": (
        "Answer a file of prompts into another file.",
        "回答一个文件中的所有提示，写入另一个文件。",
    ),
    "shell.help.data": ("Look at training data.", "查看训练数据。"),
    "shell.help.data_check": (
        "Check whole files: what would be learned, what is wrong and where.",
        "检查整个文件：将学到什么、哪里有问题。",
    ),
    "shell.help.data_show": (
        "Show rows as the model will see them, with the part that is learned marked.",
        "按模型所见显示数据行，并标出将被学习的部分。",
    ),
    "shell.help.runs": ("List, compare and go on with runs.", "列出、比较和继续各次运行。"),
    "shell.help.runs_list": ("All runs, the latest first.", "列出所有运行，最近的在前。"),
    "shell.help.runs_show": ("One run in a screen.", "用一屏显示一次运行。"),
    "shell.help.runs_compare": ("What differs between runs, and what came of it.", "比较各次运行的差异和结果。"),
    "shell.help.runs_resume": ("Go on with an unfinished run.", "继续未完成的运行。"),
    "shell.help.runs_extend": (
        "Make a run longer; `runs resume` then trains on.",
        "延长一次运行；之后用 `runs resume` 继续训练。",
    ),
    "shell.help.runs_stop": ("Ask a running run to save and stop.", "请求正在进行的运行保存并停止。"),
    "shell.help.runs_watch": (
        "Follow a run that is going or waits, as if it had been started here.",
        "跟踪正在进行或排队的运行，如同在此启动。",
    ),
    "shell.help.runs_queue": ("Runs that wait for their turn, in order.", "按顺序列出排队的运行。"),
    "shell.option.queue_first": ("Bring this run to the front.", "将该运行移到队首。"),
    "shell.option.detach": (
        "Put the run into the queue and return: it starts when there is room and needs no terminal.",
        "将运行加入队列后立即返回：有空余资源时自动开始，无需保持终端打开。",
    ),
    "shell.help.runs_verify": (
        "Recompute every hash and check of a run's receipt.",
        "重新计算运行凭证中的每个哈希和检查。",
    ),
    "shell.help.runs_reproduce": (
        "Train a finished run again and compare every bit.",
        "重新训练已完成的运行并逐位比较。",
    ),
    "shell.help.cache": (
        "What is computed once and kept for later runs.",
        "为后续运行保留的计算结果。",
    ),
    "shell.help.cache_list": ("What is kept, and how large it is.", "列出保留的内容及其大小。"),
    "shell.help.cache_clear": (
        "Take what is kept away, all or those named; it is made again when needed.",
        "删除保留的内容（全部或指定的）；需要时会重新生成。",
    ),
    "shell.option.keys": ("Which: the beginnings of their keys.", "要删除的库：其键的开头。"),
    "shell.help.doctor": ("What this machine and installation can do.", "检查本机和安装情况。"),
    "shell.help.demo": (
        "See a small model learn a task, in about a minute.",
        "用大约一分钟观看一个小模型学会一项任务。",
    ),
    # ------------------------------------------------------------------------------------------------ arguments
    "shell.option.recipe": (
        "A recipe file, then changes to it such as tune.rank=32; or changes alone.",
        "配方文件，其后可跟修改项（如 tune.rank=32）；也可以只给修改项。",
    ),
    "shell.option.dry_run": (
        "Only print the recipe as it would run, with every default filled in.",
        "只打印实际将运行的配方（含所有默认值），不训练。",
    ),
    "shell.option.plan_device": (
        "What to plan for, such as H100-80GB or 8xA100-40GB; this machine if none is given.",
        "要规划的设备，如 H100-80GB 或 8xA100-40GB；不给则为本机。",
    ),
    "shell.option.init": (
        "The file to write (recipe.yaml if none is given), and settings for it such as model=nano.",
        "要写入的文件（默认 recipe.yaml），以及其中的设置（如 model=nano）。",
    ),
    "shell.option.foreign": (
        "A LLaMA-Factory or axolotl file (YAML or JSON).",
        "LLaMA-Factory 或 axolotl 的文件（YAML 或 JSON）。",
    ),
    "shell.option.output": ("The recipe to write.", "要写入的配方文件。"),
    "shell.option.devices": (
        "How many devices the file was meant for: its batch is that of one.",
        "原文件面向多少个设备：其批大小是单个设备的。",
    ),
    "shell.option.field": (
        "A setting or section, such as tune.rank or optim.",
        "设置项或部分，如 tune.rank 或 optim。",
    ),
    "shell.option.target": (
        "A run, a model folder, a name on a hub, or nano.",
        "一次运行、模型目录、模型库中的名称，或 nano。",
    ),
    "shell.option.compare": (
        "Put every question to another too: base, or a name given with --adapter.",
        "每个问题也同时问另一个：base，或用 --adapter 给出的名称。",
    ),
    "shell.option.prompts": (
        "Prompts, messages or plain text, in any format that training reads.",
        "提示、消息或纯文本，可用训练支持的任何格式。",
    ),
    "shell.option.answers": (
        "The file to write, as JSON lines; the same command goes on with it.",
        "要写入的文件（JSON 行）；再次执行同一命令会继续。",
    ),
    "shell.option.n": ("How many answers to each.", "每个提示回答几次。"),
    "shell.option.judge": (
        "A reward model (method: reward): each answer gets its reward, and the best one comes first.",
        "奖励模型（method: reward）：给每个回答打分，最好的排在最前。",
    ),
    "shell.option.adapter": (
        "A further run, or a PEFT folder, of the same base to answer with; may be given several times.",
        "用来回答的同一基础模型的另一次运行或 PEFT 目录；可多次给出。",
    ),
    "shell.option.character": (
        "A name in ./characters.yaml, a file, or FILE:NAME.",
        "./characters.yaml 中的名称、文件，或 文件:名称。",
    ),
    "shell.option.strength": (
        "How much of the adapter applies: 0 is the base, 1 what was trained.",
        "适配器的强度：0 为基础模型，1 为训练所得。",
    ),
    "shell.option.system": ("A standing instruction for the conversation.", "对话的系统提示。"),
    "shell.option.template": (
        "For models without a chat template: chatml, alpaca or a Jinja file.",
        "用于没有对话模板的模型：chatml、alpaca 或 Jinja 文件。",
    ),
    "shell.option.device": ("auto, cpu or cuda.", "auto、cpu 或 cuda。"),
    "shell.option.max_tokens": ("The longest answer, in tokens.", "回答的最大长度（词元数）。"),
    "shell.option.temperature": (
        "0 always takes the likeliest word; larger is more varied.",
        "0 表示总取最可能的词；越大越多样。",
    ),
    "shell.option.top_p": (
        "Choose only among the likeliest words that make up this share; 1 is all.",
        "只在累计概率达到此比例的最可能的词中选择；1 表示全部。",
    ),
    "shell.option.top_k": (
        "Choose only among so many likeliest words; 0 is all.",
        "只在最可能的若干个词中选择；0 表示全部。",
    ),
    "shell.option.min_p": (
        "Leave out words less likely than this share of the likeliest; 0 is off.",
        "去掉概率低于最可能词此比例的词；0 表示不用。",
    ),
    "shell.option.stop": (
        "A text that ends an answer and is no part of it; may be given several times.",
        "遇到此文本即结束回答，且不含此文本；可多次给出。",
    ),
    "shell.option.repetition_penalty": (
        "Above 1 makes words that were said less likely.",
        "大于 1 会降低已出现过的词再次出现的可能。",
    ),
    "shell.option.seed": ("The number that chance comes from.", "随机性的来源。"),
    "shell.option.data": (
        "A data file, or a recipe and changes to it.",
        "数据文件，或配方及其修改项。",
    ),
    "shell.option.format": (
        "How the rows of a data file are laid out; auto finds out.",
        "数据文件中各行的格式；auto 表示自动识别。",
    ),
    "shell.file_alone.rule": (
        "a data file is checked alone; several of them, or settings, belong to a recipe",
        "数据文件只能单独检查；多个文件或设置项需要配方",
    ),
    "shell.file_alone.remedy": (
        "write it on the line: `data check model=MODEL data.train=[{files}]{changes}`",
        "请写在命令行上：`data check model=模型 data.train=[{files}]{changes}`",
    ),
    "shell.option.html": ("Write what is shown to this file as a page too.", "同时把所示内容写成网页文件。"),
    "shell.option.rows": ("How many rows to show.", "显示多少行。"),
    "shell.option.first": ("The row to begin with, from 1.", "从第几行开始（从 1 数起）。"),
    "shell.option.run": ("A run's name or folder.", "运行的名称或目录。"),
    "shell.option.runs": ("Names or folders of runs.", "若干运行的名称或目录。"),
    "shell.option.dir": ("The folder that holds the runs.", "存放各次运行的目录。"),
    "shell.option.steps": ("The new number of steps in all.", "新的总步数。"),
    "shell.option.epochs": ("The new number of epochs in all.", "新的总轮数。"),
    "shell.option.version": ("Print the version.", "显示版本号。"),
    # ------------------------------------------------------------------------------------------------ results
    "shell.init_done": (
        "Wrote {path}. Put your model and data into it, then: luthier train {path}",
        "已写入 {path}。填入您的模型和数据后运行：luthier train {path}",
    ),
    "shell.train_done": (
        "Finished: {path}. Checks: {passed} passed, {failed} failed, {not_run} not run (see receipt.md there).",
        "完成：{path}。检查：{passed} 项通过，{failed} 项失败，{not_run} 项未做（详见其中的 receipt.md）。",
    ),
    "shell.stage": ("Stage {number} of {count}: {about}", "第 {number} 阶段（共 {count} 个）：{about}"),
    "shell.stage_done": (
        "Stage {number} of {count}: {about}: finished before, passed over",
        "第 {number} 阶段（共 {count} 个）：{about}：此前已完成，跳过",
    ),
    "shell.stage_fresh": ("{name} ({folder}) starts from {model}", "{name}（{folder}）从 {model} 开始"),
    "shell.stage_continue": (
        "{name} ({folder}) goes on with what {came} has made",
        "{name}（{folder}）在 {came} 的结果上继续训练",
    ),
    "shell.stage_merge": (
        "{name} ({folder}) starts from {came} merged into its base",
        "{name}（{folder}）从合并后的 {came} 开始",
    ),
    "shell.train_next": ("Talk to it: luthier chat {path}", "与它对话：luthier chat {path}"),
    "shell.page_done": ("The page is {path}; open it in a browser.", "页面已写入 {path}，请用浏览器打开。"),
    "shell.reproduced": (
        "The same in every bit: {tensors} tensors.",
        "逐位相同：{tensors} 个张量。",
    ),
    "shell.not_reproduced": (
        "Different in {different} of {tensors} tensors; largest difference {largest}.",
        "{tensors} 个张量中有 {different} 个不同；最大差异 {largest}。",
    ),
    "shell.reproduced_revised": (
        "The run was changed on the way, which its repetition was not: {field}: {old} → {new}.",
        "该运行在途中有改动，重复运行则没有：{field}：{old} → {new}。",
    ),
    # ------------------------------------------------------------------------------------------------ faults
    "shell.usage.rule": ("the command cannot be understood: {reason}", "无法理解该命令：{reason}"),
    "shell.usage.remedy": (
        "`{command} --help` shows how it is written.",
        "用 `{command} --help` 查看写法。",
    ),
    "shell.past_the_end.rule": ("there are only {rows} rows to train on", "训练数据只有 {rows} 行"),
    "shell.past_the_end.remedy": ("Give a number from 1 to {rows}.", "请给出 1 到 {rows} 之间的数。"),
    "shell.stopped.rule": ("stopped on request", "已按要求停止"),
    "shell.stopped.remedy": ("The same command starts over.", "再次执行同一命令即可重新开始。"),
    "shell.stopped_run.rule": ("stopped on request", "已按要求停止"),
    "shell.stopped_run.remedy": (
        "A run that had begun goes on with the same command.",
        "如果运行已经开始，再次执行同一命令即可继续。",
    ),
    "shell.unexpected.rule": (
        "Luthier failed in a way that it should not: {reason}",
        "Luthier 出现了不应有的故障：{reason}",
    ),
    "shell.unexpected.remedy": (
        "Sorry. The details are in {file}; please report them. --debug shows them at once.",
        "抱歉。详情已写入 {file}，请反馈给我们。加上 --debug 可直接显示。",
    ),
    # ------------------------------------------------------------------------------------------------ words of help
    "shell.word.usage": ("Usage:", "用法："),
    "shell.word.options": ("Options:", "选项："),
    "shell.word.arguments": ("Arguments:", "参数："),
    "shell.word.commands": ("Commands:", "命令："),
    "shell.word.help": ("Show this message and exit.", "显示此帮助。"),
    "shell.word.default": ("default: ", "默认："),
    "shell.word.required": ("[required]", "[必填]"),
    "shell.word.any_options": ("[OPTIONS]", "[选项]"),
    "shell.word.any_command": ("COMMAND [ARGS]...", "命令 [参数]..."),
    # ------------------------------------------------------------------------------------------------ wrong usage
    "shell.reason.missing_argument": ("{name} is missing", "缺少 {name}"),
    "shell.reason.missing_command": ("the command's second word is missing", "缺少子命令"),
    "shell.reason.invalid": ("{name}: {reason}", "{name}：{reason}"),
    "shell.reason.no_option": ("there is no option {name}", "没有选项 {name}"),
    "shell.reason.no_option_near": (
        "there is no option {name}; did you mean {near}?",
        "没有选项 {name}；是否想输入 {near}？",
    ),
    "shell.reason.no_command": ("there is no command {name}", "没有命令 {name}"),
    "shell.reason.no_command_near": (
        "there is no command {name}; did you mean {near}?",
        "没有命令 {name}；是否想输入 {near}？",
    ),
    "shell.reason.extra": ("too much is given: {names}", "多余的参数：{names}"),
    "shell.reason.value_wanted": ("{name} wants a value after it", "{name} 后面需要一个值"),
    "shell.reason.no_value_wanted": ("{name} takes no value", "{name} 不接受值"),
    "shell.reason.whole_number": ("this must be a whole number", "此值必须是整数"),
    "shell.reason.number": ("this must be a number", "此值必须是数字"),
    "shell.reason.at_least": ("this must be at least {limit}", "此值至少为 {limit}"),
    "shell.reason.at_most": ("this must be at most {limit}", "此值至多为 {limit}"),
    "shell.downloading": (
        "model   {there:,.0f} of {total:,.0f} MB fetched",
        "模型    已下载 {there:,.0f} / {total:,.0f} MB",
    ),
    # ------------------------------------------------------------------------------------------------ serve
    "shell.help.ui": (
        "Open the page: choose, check, plan, train, watch, compare, chat and export in a browser.",
        "打开网页界面：在浏览器中选择、检查、规划、训练、查看、比较、对话和导出。",
    ),
    "shell.option.ui_host": (
        "address to listen at; other than this machine's own a token is asked for, which is in the link that is shown",
        "监听地址；非本机地址需要令牌，令牌包含在显示的链接中",
    ),
    "shell.option.base_path": (
        "path that a proxy puts before the page's, such as /user/me/proxy/7860/",
        "代理加在页面前面的路径，例如 /user/me/proxy/7860/",
    ),
    "shell.option.token_file": (
        "file with the tokens that open the page, one per line; without it a new one is made at each start where one "
        "is needed",
        "存放令牌的文件，每行一个；不给出时，需要令牌则每次启动新建一个",
    ),
    "shell.option.no_open": ("do not open a browser", "不打开浏览器"),
    "shell.help.serve": (
        "Serve a run or a model, with the adapters of further runs, as OpenAI's API does.",
        "以 OpenAI 兼容的接口提供运行或模型，可同时提供其他运行的适配器。",
    ),
    "shell.option.serve_targets": (
        "a run, a model folder, a hub id or nano; then further runs or PEFT folders of the same base",
        "运行、模型文件夹、模型站编号或 nano；其后可列出同一基础模型的其他运行或 PEFT 文件夹",
    ),
    "shell.option.host": (
        "address to listen at; other than this machine's own only with --api-key-file",
        "监听地址；非本机地址必须同时给出 --api-key-file",
    ),
    "shell.option.port": ("port to listen at; 0 takes a free one", "监听端口；0 表示任选空闲端口"),
    "shell.option.api_key_file": (
        "file with the keys that clients may use, one per line",
        "存放客户端可用密钥的文件，每行一个",
    ),
    "shell.option.engine": (
        "luthier, llama.cpp for one GGUF file, or vllm from an environment of its own",
        "luthier；若为单个 GGUF 文件可用 llama.cpp；或用独立环境中的 vllm",
    ),
    "shell.option.vllm_command": (
        "what starts vLLM, for example /opt/vllm/bin/vllm; without it vllm from PATH",
        "启动 vLLM 的命令，例如 /opt/vllm/bin/vllm；不给出则使用 PATH 中的 vllm",
    ),
    "shell.option.vllm_wait": (
        "seconds that vLLM may take until it answers",
        "等待 vLLM 就绪的时限（秒）",
    ),
    "shell.option.end_with_stdin": (
        "end when standard input ends, and so with the program that started this one",
        "标准输入结束时退出，从而随启动它的程序一起结束",
    ),
    "shell.option.max_body": ("bytes that a request may have", "单个请求的最大字节数"),
    "shell.option.queue": (
        "answers that may wait or run at once; more are refused",
        "同时等待或生成的回答数上限；超出则拒绝",
    ),
    "shell.option.sequences": ("answers that are written at once", "同时生成的回答数"),
    "shell.option.timeout": ("seconds that one request may take", "单个请求的时限（秒）"),
    "shell.option.grace": (
        "seconds that running answers are given when the server is told to end",
        "收到结束信号后，留给正在生成的回答的时间（秒）",
    ),
}
