"""Messages of the area `engine`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "engine.stopping": (
        "Stopping after this step and saving; asked again, it stops at once and without.",
        "将在这一步之后保存并停止；再次要求则立即停止，不保存。",
    ),
    "engine.bottom_kept.rule": (
        "nothing in the lowest {layers} of {all} layers trains: each sequence goes through them once, and what comes "
        "out is kept on disk for the epochs that follow, up to {size:,.1f} MB",
        "全部 {all} 层中最低的 {layers} 层不参与训练：每个序列只经过它们一次，其结果保存在磁盘上供后续轮次使用，"
        "至多 {size:,.1f} MB",
    ),
    "engine.bottom_kept.remedy": (
        "It lies under LUTHIER_CACHE. Begun with a LUTHIER_CACHE_GB too small for it, a run computes those layers with "
        "the rest.",
        "保存在 LUTHIER_CACHE 下；若开始时 LUTHIER_CACHE_GB 不足，则这些层照常计算。",
    ),
    "engine.sampler_differs.rule": (
        "the log-probabilities of the tokens that were sampled differ by {difference:.2g} between the sampler and the "
        "trainer (bound {bound:.2g})",
        "采样端与训练端对同一词元的对数概率相差 {difference:.2g}（上限 {bound:.2g}）",
    ),
    "engine.sampler_differs.remedy": (
        "What is learnt would not be what was sampled. This is a fault of Luthier's: please report it with plan.json.",
        "这样学到的将不是采样得到的内容。这是 Luthier 的缺陷：请附上 plan.json 报告此问题。",
    ),
    "engine.interrupted": (
        "Stopped on request; everything is saved in {checkpoint}. The same command goes on from there.",
        "已按要求停止；一切都保存在 {checkpoint}。再次运行同一命令即可继续。",
    ),
    "engine.peer_lost.rule": (
        "another process of this run has ended, so this one cannot go on ({reason})",
        "本次运行的另一个进程已结束，此进程无法继续（{reason}）",
    ),
    "engine.peer_lost.remedy": (
        "What that process wrote says why. Checkpoints are whole: the same command goes on from the last one.",
        "原因见那个进程的输出。检查点完好：再次运行同一命令即可从最近的检查点继续。",
    ),
    "engine.rank_died.rule": (
        "rank {rank} of {size} ended {how}, so the others were ended too{said}",
        "{size} 个进程中的第 {rank} 号{how}，其余进程也已结束{said}",
    ),
    "engine.rank_died.remedy": (
        "Checkpoints are whole: `{command}` goes on from the last one. What the processes wrote is in {logs}.",
        "检查点完好：运行 `{command}` 即可从最近的检查点继续。各进程的输出在 {logs}。",
    ),
    "engine.rank_died_signal": ("by signal {number} ({name})", "被信号 {number}（{name}）终止"),
    "engine.rank_died_code": ("with exit code {code}", "以退出码 {code} 结束"),
    "engine.devices_of_launcher.rule": (
        "a launcher (torchrun or the like) started {processes} processes of this run",
        "启动器（torchrun 等）为本次运行启动了 {processes} 个进程",
    ),
    "engine.devices_of_launcher.remedy": (
        "Take run.devices away or set it to {processes}; or start without the launcher, Luthier starts its processes "
        "itself.",
        "请删去 run.devices 或将其设为 {processes}；也可以不用启动器，Luthier 会自己启动进程。",
    ),
    "engine.too_few_devices.rule": (
        "PyTorch sees {visible} GPUs here",
        "PyTorch 在这里看到 {visible} 个 GPU",
    ),
    "engine.too_few_devices.remedy": (
        "Set run.devices=auto to take what is there. An unfinished run goes on with another number as well.",
        "请设置 run.devices=auto 以使用现有的 GPU。未完成的运行也可以换一个数量继续。",
    ),
    "engine.float16_on_cpu.rule": (
        "CPUs have no usable float16 arithmetic",
        "CPU 没有可用的 float16 运算",
    ),
    "engine.float16_on_cpu.remedy": (
        "Leave model.dtype at auto, or choose bfloat16 or float32.",
        "请保持 model.dtype 为 auto，或改为 bfloat16 或 float32。",
    ),
    "engine.gpu_unusable.rule": (
        "there is an NVIDIA GPU here or one was asked for, but this PyTorch ({torch}) cannot use it",
        "这里有（或要求使用）NVIDIA GPU，但当前的 PyTorch（{torch}）无法使用它",
    ),
    "engine.gpu_unusable.remedy": (
        "Install the CUDA build of PyTorch (delete .venv and start ./run again), or train on the CPU with "
        "run.device=cpu.",
        "请安装 CUDA 版 PyTorch（删除 .venv 后重新运行 ./run），或用 run.device=cpu 在 CPU 上训练。",
    ),
    "engine.checkpoint_format.rule": (
        "the checkpoint was written in a format that this version does not read",
        "检查点的格式版本与当前程序不符",
    ),
    "engine.checkpoint_format.remedy": (
        "Resume with the version named in the run's manifest.json, or start a new run with another run.name.",
        "请用该运行 manifest.json 中记录的版本继续，或换一个 run.name 重新开始。",
    ),
    "engine.checkpoint_parameters.rule": (
        "the checkpoint holds other trainable weights than this recipe trains",
        "检查点中的可训练权重与此配方不一致",
    ),
    "engine.checkpoint_parameters.remedy": (
        "Use the recipe.yaml in the run folder, or start a new run with another run.name.",
        "请使用运行目录中的 recipe.yaml，或换一个 run.name 重新开始。",
    ),
    "engine.checkpoint_optimizer.rule": (
        "the checkpoint holds the state of another optimizer, or of one that keeps it in another way",
        "检查点中的优化器状态属于另一种优化器，或以另一种方式保存",
    ),
    "engine.checkpoint_optimizer.remedy": (
        "Set optim.kind, optim.weights and optim.states as in the recipe.yaml of the run folder, or start a new run "
        "with another run.name.",
        "请按运行目录中的 recipe.yaml 设置 optim.kind、optim.weights 和 optim.states，或换一个 run.name 重新开始。",
    ),
    "engine.offload_on_cpu.rule": (
        "on a CPU there is no other memory to move anything to: layers keep what {kept} says",
        "在 CPU 上没有别的内存可供转移：各层按 {kept} 保留",
    ),
    "engine.offload_on_cpu.remedy": (
        "Nothing to do: it changes no bit. optim.activations=auto lets the plan choose.",
        "无需处理：结果逐位不变。optim.activations=auto 由计划选择。",
    ),
    "engine.paged_on_cpu.rule": (
        "on a CPU there is no other memory for the moments to lie in, so optim.paged would have no effect",
        "在 CPU 上没有别的内存可以存放动量，因此 optim.paged 不会起作用",
    ),
    "engine.paged_on_cpu.remedy": (
        "Take optim.paged away; optim.states=8bit makes the moments smaller.",
        "请删去 optim.paged；optim.states=8bit 可以使动量更小。",
    ),
    "engine.float16_in_backward.rule": (
        "this device computes in float16, where a step that overflows is done again, and weights that have changed "
        "cannot be taken back",
        "该设备使用 float16 计算，溢出的步会重做，而已经修改的权重无法还原",
    ),
    "engine.float16_in_backward.remedy": (
        "Set model.dtype=float32, or take optim.in_backward away.",
        "请设置 model.dtype=float32，或删去 optim.in_backward。",
    ),
    "engine.step_too_large.rule": (
        "with optim.in_backward a step is one micro-batch: the largest ({tokens} tokens) needs about {need} of memory, "
        "and {free} is free",
        "使用 optim.in_backward 时一步就是一个微批：最大的一步（{tokens} 个词元）约需 {need} 内存，而可用的只有 {free}",
    ),
    "engine.step_too_large.remedy": (
        "Lower optim.batch or data.max_tokens, or take optim.in_backward away.",
        "请减小 optim.batch 或 data.max_tokens，或删去 optim.in_backward。",
    ),
    "engine.split_in_backward.rule": (
        "with optim.in_backward a step is one micro-batch, and the largest step has {tokens} tokens",
        "使用 optim.in_backward 时一步就是一个微批，而最大的一步有 {tokens} 个词元",
    ),
    "engine.split_in_backward.remedy": (
        "Take optim.budget_tokens away, or lower optim.batch until a step fits.",
        "请删去 optim.budget_tokens，或减小 optim.batch 直到一步放得下。",
    ),
    "engine.spoilt_in_backward.rule": (
        "a gradient was not finite after some of the weights had changed (optim.in_backward), so the model in memory "
        "is spoilt; the last checkpoint is whole",
        "部分权重已修改后（optim.in_backward）出现了非有限的梯度，内存中的模型已损坏；最近的检查点是完好的",
    ),
    "engine.spoilt_in_backward.remedy": (
        "Set optim.in_backward=false with run.on_change=continue to go on from there (such a step is then left out), "
        "and look at the rows named here.",
        "请设置 optim.in_backward=false 和 run.on_change=continue 从那里继续（这样的步会被跳过），并检查这里列出的"
        "数据行。",
    ),
    "engine.not_finite.rule": (
        "the {what} was not finite in {steps} steps in a row; the weights before them are kept",
        "{what} 连续 {steps} 步不是有限数；此前的权重已保留",
    ),
    "engine.not_finite.remedy": (
        "Lower optim.lr (a tenth is a good try), set model.dtype=float32, and look at the rows named here.",
        "请降低 optim.lr（可先取十分之一），设 model.dtype=float32，并检查这里列出的数据行。",
    ),
    "engine.row_too_large.rule": (
        "the longest row ({tokens} tokens) needs about {need} of memory in one micro-batch, and {free} is free",
        "最长的一行（{tokens} 个词元）单独一个微批就需要约 {need} 内存，而可用的只有 {free}",
    ),
    "engine.row_too_large.remedy": (
        "End other programs, leave optim.activations at auto, lower data.max_tokens, choose a smaller model, or train "
        "fewer weights (tune.kind=lora, freeze).",
        "请关闭其他程序，保持 optim.activations 为 auto，减小 data.max_tokens，换更小的模型，或训练更少的权重（"
        "tune.kind=lora 或 freeze）。",
    ),
    "engine.budget_too_large.rule": (
        "micro-batches of this many tokens need about {need} of memory, and {free} is free",
        "这么多词元的微批约需 {need} 内存，而可用的只有 {free}",
    ),
    "engine.budget_too_large.remedy": (
        "Leave it out: {most} tokens fit and give the same result.",
        "请去掉此项：{most} 个词元放得下，结果相同。",
    ),
    "engine.out_of_memory.rule": (
        "memory ran out ({reason}), and there is nothing left that could be held less: micro-batches hold one row, and "
        "layers keep as little as they may",
        "内存不足（{reason}），且已无可再节省之处：微批只含一行，各层保留的已是允许的最少",
    ),
    "engine.out_of_memory.remedy": (
        "End other programs and give the same command again. If that does not help: leave optim.activations at auto, "
        "lower data.max_tokens, choose a smaller model, or train fewer weights (tune.kind=lora, freeze); with "
        "optim.in_backward, lower optim.batch or take it away.",
        "请关闭其他程序后再次运行同一命令。若仍不行：保持 optim.activations 为 auto，减小 data.max_tokens，"
        "换更小的模型，或训练更少的权重（tune.kind=lora 或 freeze）；使用 optim.in_backward 时，请减小 optim.batch "
        "或将其删去。",
    ),
    "engine.answers_out_of_memory.rule": (
        "memory ran out while an answer was written ({reason}), and it is written by itself already",
        "生成回答时内存不足（{reason}），且已是一次只生成一个回答",
    ),
    "engine.answers_out_of_memory.remedy": (
        "End other programs and give the same command again. If that does not help: lower method.max_new_tokens or "
        "data.max_tokens, or choose a smaller model.",
        "请关闭其他程序后再次运行同一命令。若仍不行：减小 method.max_new_tokens 或 data.max_tokens，或换更小的模型。",
    ),
    "engine.save_out_of_memory.rule": (
        "memory ran out while a checkpoint was written ({reason}); older checkpoints are whole",
        "写检查点时内存不足（{reason}）；更早的检查点是完好的",
    ),
    "engine.save_out_of_memory.remedy": (
        "End other programs and give the same command again, or keep less: optim.states=8bit, train fewer weights "
        "(tune.kind=lora, freeze), or a smaller model.",
        "请关闭其他程序后再次运行同一命令，或减少占用：optim.states=8bit，训练更少的权重（tune.kind=lora 或 freeze），"
        "或换更小的模型。",
    ),
    "engine.samples_out_of_memory.rule": (
        "memory ran out while held-out examples were answered ({reason}): there are no samples of this step",
        "回答留出的样本时内存不足（{reason}）：这一步没有样例回答",
    ),
    "engine.samples_out_of_memory.remedy": (
        "Nothing else is affected. Lower run.samples or run.sample_tokens, or take run.samples away.",
        "其他一切不受影响。请减小 run.samples 或 run.sample_tokens，或删去 run.samples。",
    ),
    "engine.spoilt_by_memory.rule": (
        "memory ran out while weights were being changed ({reason}), so the model in memory is spoilt; the last "
        "checkpoint is whole",
        "在修改权重的过程中内存不足（{reason}），内存中的模型已损坏；最近的检查点是完好的",
    ),
    "engine.spoilt_by_memory.remedy": (
        "The same command goes on from there, and holds less where it can. If it happens again, end other programs, or "
        "set optim.in_backward=false with run.on_change=continue: such a step is then made again by itself.",
        "再次运行同一命令即可从那里继续，并尽可能少占内存。若再次发生，请关闭其他程序，或设置 "
        "optim.in_backward=false 和 run.on_change=continue：这样的步会自动重做。",
    ),
    "engine.killed_by_memory.rule": (
        "the last attempt was killed by the system because memory ran out; this one holds less ({old} → {new})",
        "上一次运行因内存不足被系统终止；这一次占用更少（{old} → {new}）",
    ),
    "engine.killed_by_memory.remedy": (
        "Nothing to do; other programs that are ended leave more room.",
        "无需处理；关闭其他程序可腾出更多内存。",
    ),
    "engine.killed_by_memory_again.rule": (
        "the last attempt was killed by the system because memory ran out, and there is nothing left that could be "
        "held less",
        "上一次运行因内存不足被系统终止，且已无可再节省之处",
    ),
    "engine.killed_by_memory_again.remedy": (
        "End other programs, lower data.max_tokens, choose a smaller model, or train fewer weights (tune.kind=lora, "
        "freeze).",
        "请关闭其他程序，减小 data.max_tokens，换更小的模型，或训练更少的权重（tune.kind=lora 或 freeze）。",
    ),
    "engine.teacher_head.rule": (
        "models of the family {family} scale or cap their logits, which distillation does not do",
        "{family} 系列模型会缩放或截断 logits，蒸馏尚不支持",
    ),
    "engine.teacher_head.remedy": (
        "Take teacher and model of another family; or train on the teacher's answers: `luthier generate TEACHER "
        "prompts.json -o answers.jsonl`, then method=sft.",
        "请换用其他系列的教师和学生；或学习教师的回答：`luthier generate 教师 prompts.json -o answers.jsonl`，"
        "再用 method=sft。",
    ),
    "engine.teacher_tokens.rule": (
        "the teacher cuts text into other tokens than the model, so what it says of a token cannot be learnt",
        "教师模型与学生模型的分词不同，因此无法逐词元地学习",
    ),
    "engine.teacher_tokens.remedy": (
        "Take a teacher of the model's own family; or let it answer your prompts (`luthier generate TEACHER "
        "prompts.json -o answers.jsonl`) and train on the answers with method=sft.",
        "请选同一系列的教师；或让它回答您的提示（`luthier generate 教师 prompts.json -o answers.jsonl`），"
        "再用 method=sft 学习这些回答。",
    ),
    "engine.parent_whole.rule": (
        "this run tuned the weights themselves, so there is no adapter to train further",
        "该运行调整的是权重本身，没有可继续训练的适配器",
    ),
    "engine.parent_whole.remedy": (
        "Set model={folder} instead, and leave tune.from out.",
        "请改为 model={folder}，并去掉 tune.from。",
    ),
    "engine.parent_base.rule": (
        "the adapter was trained on another base ({then}) than the model here ({now}): their files differ",
        "该适配器的基础模型（{then}）与当前模型（{now}）不同：文件不一致",
    ),
    "engine.parent_base.remedy": (
        "Give the model that the adapter was trained on.",
        "请给出训练该适配器时所用的模型。",
    ),
    "engine.reference_lost.rule": (
        "training goes on from a step where the model is no longer what it began as, and what it thought of the "
        "answers then is gone from the run's folder and from the cache",
        "训练从中途继续，模型已不是开始时的样子，而它当时对各回答的概率已从运行文件夹和缓存中消失",
    ),
    "engine.reference_lost.remedy": (
        "Bring the file back, or train again under another run.name.",
        "请找回该文件，或用另一个 run.name 重新训练。",
    ),
    "engine.parent_unchecked.rule": (
        "no run stands behind this adapter, so nothing tells whether its base ({then}, by its own word) has the same "
        "weights as the model here ({now})",
        "该适配器不来自任何运行，因此无法判断它的基础模型（自称为 {then}）与当前模型（{now}）的权重是否相同",
    ),
    "engine.parent_unchecked.remedy": (
        "Make sure of it yourself; an adapter on another base says nothing sensible.",
        "请自行确认；适配器用在别的基础模型上没有意义。",
    ),
    "engine.parent_template.rule": (
        "the template comes from the adapter that is trained further",
        "模板来自被继续训练的适配器",
    ),
    "engine.parent_template.remedy": (
        "Set data.template for another one.",
        "若要用别的模板，请设置 data.template。",
    ),
    "engine.best_lost.rule": (
        "the best weights so far (step {step}) are damaged or gone; from here on the best are looked for anew",
        "目前最佳的权重（第 {step} 步）已损坏或丢失；从这里起重新寻找最佳权重",
    ),
    "engine.best_lost.remedy": (
        "To have them, put the folder back from a copy before the run goes on.",
        "若需要它们，请在继续运行前从备份恢复该目录。",
    ),
    "engine.check_base_bound": ("the same bits before and after", "训练前后逐位相同"),
    "engine.check_base_trained": (
        "the weights themselves were tuned; the base folder was only read",
        "调整的就是权重本身；基础模型目录只被读取",
    ),
    "engine.check_base_found": (
        "largest difference {difference:g} on {prompts} prompts, adapter off",
        "关闭适配器后，在 {prompts} 个提示上最大差异为 {difference:g}",
    ),
    "engine.check_reload_bound": ("relative difference at most {bound:g}", "相对差异不超过 {bound:g}"),
    "engine.check_reload_found": (
        "{difference:.2g} on {prompts} prompts, files loaded by a fresh process",
        "由新进程加载文件，在 {prompts} 个提示上为 {difference:.2g}",
    ),
    "engine.check_effect_bound": (
        "the tuned model answers differently from the base",
        "调优后的模型与基础模型的回答不同",
    ),
    "engine.check_effect_found": (
        "KL {kl:.3g} nats per token, most likely next token changed on {top1:.0f} % of the prompts",
        "每词元 KL {kl:.3g} nat，{top1:.0f} % 的提示的首选词元改变",
    ),
    "engine.check_memory_bound": (
        "recorded, not judged: the plan leaves out Python, torch and the data",
        "仅记录不评判：计划不含 Python、torch 与数据本身",
    ),
    "engine.check_memory_found": (
        "planned {planned:,.0f} MiB for tensors, the process peaked at {measured:,.0f} MiB",
        "计划张量占用 {planned:,.0f} MiB，进程峰值 {measured:,.0f} MiB",
    ),
    "engine.beyond_positions.rule": (
        "{rows} rows are longer than the {limit} tokens that the base was made for (max_position_embeddings); the "
        "longest has {longest}",
        "有 {rows} 行超过基础模型所支持的 {limit} 个词元（max_position_embeddings）；最长的有 {longest} 个",
    ),
    "engine.beyond_positions.remedy": (
        "Positions beyond that are new to it: expect worse answers there, or set data.max_tokens to {limit}.",
        "超出部分的位置对它是陌生的：那里的回答可能较差；也可将 data.max_tokens 设为 {limit}。",
    ),
    "engine.check_laws_bound": (
        "the prompt's tokens are a prefix of the training tokens",
        "提示的词元是训练词元的前缀",
    ),
    "engine.check_stop_bound": (
        "every learnt answer ends in a token that generation stops at",
        "每个被学习的回答都以生成时会停止的词元结尾",
    ),
    "engine.check_laws_found": (
        "{checked} prompts compared, one for each turn of {shapes} shapes of example",
        "对 {shapes} 种形式的示例逐轮比较了 {checked} 个提示",
    ),
    "engine.check_stop_cut": (
        "{evidence}; {cut} of {all} sequences were cut before it, as data.too_long: truncate asks",
        "{evidence}；按 data.too_long: truncate 的要求，{all} 个序列中有 {cut} 个在其之前被截断",
    ),
    "engine.environment_changed": (
        "{field} was {old} when this run began and is {new} now; the same bits are no longer promised",
        "{field} 在运行开始时为 {old}，现在为 {new}；不再保证逐位相同",
    ),
    "engine.fields_unread.rule": (
        "the chat template leaves this field of the rows out, so the model never sees it; that was accepted",
        "聊天模板没有使用数据行中的这个字段，模型看不到它；已按要求接受",
    ),
    "engine.fields_unread.remedy": (
        "If it matters, choose a template that renders it (data.template).",
        "若它重要，请选择会渲染该字段的模板（data.template）。",
    ),
    "engine.unrolled.rule": (
        "the chat template rewrites earlier answers once others follow, so such conversations were unrolled: each "
        "answer is learnt as it is when it is given; {rows} rows were unrolled into {sequences} sequences",
        "后面还有回答时，聊天模板会改写较早的回答，因此这类对话已展开：每个回答都按其给出时的样子学习；"
        "{rows} 行展开为 {sequences} 个序列",
    ),
    "engine.unrolled.remedy": (
        "Nothing to do; optim.batch counts sequences.",
        "无需处理；optim.batch 按序列计数。",
    ),
}
