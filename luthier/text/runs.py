"""Messages of the area `runs`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    # ------------------------------------------------------------------------------------------ disk
    "runs.no_room.rule": (
        "no room on the disk ({reason}): {needed} to write, {free} free; everything saved before is intact",
        "磁盘空间不足（{reason}）：需要写入 {needed}，剩余 {free}；之前保存的内容完好",
    ),
    "runs.no_room.remedy": (
        "Free some space (old runs, `luthier cache clear`), or lower run.keep; the same command then goes on.",
        "请清理空间（旧的运行、`luthier cache clear`）或减小 run.keep；之后同一命令会继续。",
    ),
    "runs.no_room_left.rule": (
        "no room on the disk ({reason}): the {free} that are free, or allowed, were not enough; everything saved "
        "before is intact",
        "磁盘空间不足（{reason}）：剩余（或允许使用）的 {free} 不够；之前保存的内容完好",
    ),
    "runs.no_room_left.remedy": (
        "Free some space (old runs, `luthier cache clear`), or lower run.keep; the same command then goes on.",
        "请清理空间（旧的运行、`luthier cache clear`）或减小 run.keep；之后同一命令会继续。",
    ),
    "runs.not_a_folder.rule": (
        "this is a file, and a folder has to be here",
        "这是一个文件，而这里需要的是目录",
    ),
    "runs.not_a_folder.remedy": (
        "Choose another run.dir or run.name, or move the file away.",
        "请换一个 run.dir 或 run.name，或移走该文件。",
    ),
    "runs.refused.rule": ("the system refuses: {reason}", "系统拒绝访问：{reason}"),
    "runs.refused.remedy": (
        "Check the owner and the permissions, or set run.dir to a folder that you may write.",
        "请检查所有者和权限，或把 run.dir 设为可写的目录。",
    ),
    "runs.file_missing.rule": ("the file is not there", "文件不存在"),
    "runs.file_missing.remedy": (
        "Put it back from a copy; `luthier runs verify` lists everything that is wrong with a run.",
        "请从备份恢复；`luthier runs verify` 会列出该运行的全部问题。",
    ),
    "runs.file_damaged.rule": ("the file is damaged: {reason}", "文件已损坏：{reason}"),
    "runs.file_damaged.remedy": (
        "Put it back from a copy, or start anew under another run.name.",
        "请从备份恢复，或换一个 run.name 重新开始。",
    ),
    "runs.file_torn.rule": (
        "the file is incomplete: {found} instead of {expected}",
        "文件不完整：应为 {expected}，实为 {found}",
    ),
    "runs.file_torn.remedy": (
        "Nothing to do: the checkpoint before it is used. Look at the disk if this happens again.",
        "无需处理：将使用上一个检查点。若再次发生，请检查磁盘。",
    ),
    "runs.file_altered.rule": (
        "the file is not what was written (its hash differs)",
        "文件内容与写入时不同（哈希不一致）",
    ),
    "runs.file_altered.remedy": (
        "Nothing to do for a checkpoint: the one before it is used. For a result, train again or use a copy.",
        "若是检查点则无需处理：将使用上一个。若是结果文件，请重新训练或使用备份。",
    ),
    "runs.format_newer.rule": (
        "a newer Luthier wrote this (format {format})",
        "该文件由更新版本的 Luthier 写入（格式 {format}）",
    ),
    "runs.format_newer.remedy": ("Update Luthier to open it.", "请升级 Luthier 后再打开。"),
    # ------------------------------------------------------------------------------------------ which run
    "runs.name.rule": (
        "a run's name is a folder: letters, digits, '.', '_' and '-', not starting with a dot",
        "运行名就是目录名：只能用文字、数字、“.”、“_”、“-”，且不能以点开头",
    ),
    "runs.name.remedy": (
        "Use run.name={safe}; run.dir sets the folder that runs are in.",
        "可用 run.name={safe}；存放运行的目录由 run.dir 设置。",
    ),
    "runs.not_a_run.rule": ("there is no run here (no recipe.yaml)", "这里没有运行（缺少 recipe.yaml）"),
    "runs.not_a_run.remedy": (
        "`luthier runs list` shows the runs there are.",
        "`luthier runs list` 可列出已有的运行。",
    ),
    "runs.unknown.rule": (
        "no run of this name in {folder}; there are: {names}",
        "{folder} 中没有此运行；现有：{names}",
    ),
    "runs.unknown.remedy": (
        "Give one of these names, or the path of a run's folder.",
        "请给出上述名称之一，或运行目录的路径。",
    ),
    "runs.occupied.rule": (
        "the folder holds files that belong to no run: {files}",
        "该目录中有不属于任何运行的文件：{files}",
    ),
    "runs.occupied.remedy": ("Choose another run.name or run.dir.", "请换一个 run.name 或 run.dir。"),
    "runs.exists.rule": ("there is a run named {name} already", "名为 {name} 的运行已存在"),
    "runs.exists.remedy": ("Add run.name={free} for a new one.", "要新建请加 run.name={free}。"),
    "runs.finished.rule": ("the run {name} is finished", "运行 {name} 已完成"),
    "runs.finished.remedy": (
        "Add run.name={free} for a new run, or train this one further with `luthier runs extend {name}`.",
        "要新建运行请加 run.name={free}；要继续训练请用 `luthier runs extend {name}`。",
    ),
    "runs.locked.rule": (
        "another process is writing this run (process {pid} on {host})",
        "另一个进程正在写入此运行（{host} 上的进程 {pid}）",
    ),
    "runs.locked.remedy": (
        "Watch it with `luthier runs show {name}`, end it with `luthier runs stop {name}`, or choose another run.name.",
        "可用 `luthier runs show {name}` 查看，用 `luthier runs stop {name}` 停止，或换一个 run.name。",
    ),
    "runs.changed.rule": (
        "was {old} when this run began, is {new} now",
        "此运行开始时为 {old}，现在为 {new}",
    ),
    "runs.changed.remedy": (
        "Put it back; or add run.name={free} for a new run; or run.on_change=continue to go on with the change.",
        "请改回原值；或加 run.name={free} 新建运行；或加 run.on_change=continue 带着改动继续。",
    ),
    "runs.changed_length.rule": (
        "was {old} when this run began, is {new} now; the learning-rate schedule depends on it",
        "此运行开始时为 {old}，现在为 {new}；学习率计划取决于它",
    ),
    "runs.changed_length.remedy": (
        "Use `luthier runs extend {name}` to train longer, put it back, or add run.name={free} for a new run.",
        "要延长训练请用 `luthier runs extend {name}`；或改回原值；或加 run.name={free} 新建运行。",
    ),
    "runs.stages_placed.rule": (
        "a recipe with stages starts the processes of each stage itself",
        "多阶段配方会为每个阶段自行启动进程",
    ),
    "runs.stages_placed.remedy": (
        "Run `luthier train` once, without torchrun; run.devices says how many are used.",
        "请直接运行一次 `luthier train`，不要用 torchrun；用 run.devices 指定设备数。",
    ),
    "runs.merged_stale.rule": (
        "this folder is not what {run} merges to now",
        "该目录不是由当前的 {run} 合并得到的",
    ),
    "runs.merged_stale.remedy": (
        "Delete it to have it made again; or add run.on_change=continue.",
        "删除它即可重新生成；或加 run.on_change=continue。",
    ),
    "runs.not_running.rule": ("the run is not running ({state})", "该运行没有在进行（{state}）"),
    "runs.not_running.remedy": ("There is nothing to stop.", "无需停止。"),
    "runs.not_finished.rule": ("the run is not finished ({state})", "该运行尚未完成（{state}）"),
    "runs.not_finished.remedy": (
        "Finish it first: the same command again, or `luthier runs resume`.",
        "请先完成它：再次运行同一命令，或用 `luthier runs resume`。",
    ),
    "runs.other_inputs.rule": (
        "was {old} when the run was trained, is {new} now: to train on it would repeat another run",
        "训练时为 {old}，现在为 {new}：据此训练就不是重复这次运行了",
    ),
    "runs.other_inputs.remedy": (
        "Put back what it was (manifest.json lists the hashes); `luthier runs verify` shows what else differs.",
        "请恢复原来的内容（manifest.json 中有哈希值）；`luthier runs verify` 会显示其他差异。",
    ),
    "runs.repeats_revised.rule": (
        "was changed from {old} to {new} while the run was under way; the repetition has the later value from its "
        "first step, so other bits are to be expected",
        "在运行途中由 {old} 改为 {new}；重复运行从第一步起就用后来的值，因此结果很可能逐位不同",
    ),
    "runs.repeats_revised.remedy": (
        "To compare bits, train with one recipe from beginning to end.",
        "若要逐位比较，请始终用同一份配方从头训练到尾。",
    ),
    "runs.no_checkpoint.rule": ("the run has no whole checkpoint", "该运行没有完整的检查点"),
    "runs.no_checkpoint.remedy": (
        "Train it again; `luthier runs verify` shows what is damaged.",
        "请重新训练；`luthier runs verify` 会显示损坏之处。",
    ),
    "runs.no_result.rule": (
        "the run {name} has no result ({state}): neither adapter nor model is there",
        "运行 {name} 还没有结果（{state}）：既无 adapter 也无 model",
    ),
    "runs.no_result.remedy": (
        "The same command again, or `luthier runs resume {name}`, goes on from the last checkpoint and writes it.",
        "再次运行同一命令，或用 `luthier runs resume {name}`，会从最后的检查点继续并写出结果。",
    ),
    "runs.not_fitted.rule": ("this Tuner was not fitted yet", "此 Tuner 尚未训练"),
    "runs.not_fitted.remedy": ("Call fit() first.", "请先调用 fit()。"),
    "runs.extend_one.rule": ("give either steps or epochs", "请给出 steps 或 epochs 其中之一"),
    "runs.extend_one.remedy": (
        "The number is the new total: `--steps 500` or `--epochs 5`.",
        "数值是新的总量：`--steps 500` 或 `--epochs 5`。",
    ),
    "runs.extend_unit.rule": (
        "the run's length is given in steps, and it never started, so that nobody knows how many make an epoch",
        "该运行的长度以步数给出，且从未开始，因此不知道一轮有多少步",
    ),
    "runs.extend_unit.remedy": ("Give `--steps`.", "请用 `--steps`。"),
    "runs.extend_shorter.rule": (
        "{new} {unit} is not longer than the run is now ({old})",
        "{new} {unit} 并不比当前（{old}）更长",
    ),
    "runs.extend_shorter.remedy": (
        "The number is the new total, not what is added to it.",
        "数值是新的总量，而不是增加的量。",
    ),
    "runs.unit.steps": ("steps", "步"),
    "runs.unit.epochs": ("epochs", "轮"),
    "runs.compare_one.rule": ("a comparison needs at least two runs", "比较至少需要两个运行"),
    "runs.compare_one.remedy": (
        "Name two or more; `luthier runs list` shows them.",
        "请给出两个或更多；`luthier runs list` 可列出。",
    ),
    # ------------------------------------------------------------------------------------------ trackers
    "runs.tracker_missing.rule": ("the package {package} is not installed", "未安装软件包 {package}"),
    "runs.tracker_missing.remedy": (
        "pip install {package}, or leave it out: everything is in the run folder anyway.",
        "请 pip install {package}，或去掉它：运行目录中本来就有全部记录。",
    ),
    "runs.tracker_failed": (
        "the tracker {name} failed and is left alone from here on: {reason}",
        "跟踪器 {name} 出错，之后不再使用：{reason}",
    ),
    # ------------------------------------------------------------------------------------------ words
    "runs.state.new": ("not started", "未开始"),
    "runs.state.queued": ("waiting", "排队中"),
    "runs.state.running": ("running", "进行中"),
    "runs.state.finished": ("finished", "已完成"),
    "runs.state.interrupted": ("interrupted", "已中断"),
    "runs.state.failed": ("failed", "失败"),
    "runs.state.died": ("died", "意外终止"),
    "runs.state.damaged": ("damaged", "已损坏"),
    "runs.status.pass": ("pass", "通过"),
    "runs.status.fail": ("FAIL", "未通过"),
    "runs.status.not run": ("not run", "未检查"),
    # ------------------------------------------------------------------------------------------ checks
    "runs.check.rows_counted": (
        "No row was lost silently: rows kept + rows left out = rows read.",
        "没有数据行被悄悄丢弃：保留 + 排除 = 读取。",
    ),
    "runs.check.prompt_law": (
        "Chat sends the model exactly the prompt that it was trained on.",
        "对话时的提示与训练时的提示完全一致。",
    ),
    "runs.check.stop_token": (
        "The token that ends an answer was learnt, so answers end.",
        "模型学到了结束标记，因此回答会结束。",
    ),
    "runs.check.memory_plan": ("Memory stayed within the plan.", "内存占用未超出计划。"),
    "runs.check.base_untouched": (
        "Training left the base model as it was.",
        "训练没有改变基础模型。",
    ),
    "runs.check.adapter_reload": (
        "The saved files, loaded by a fresh process, answer like the model that was trained.",
        "由新进程加载保存的文件，其回答与训练出的模型一致。",
    ),
    "runs.check.effect": ("Tuning changed how the model answers.", "微调改变了模型的回答。"),
    "runs.check.validation": (
        "The weights with the lowest validation loss predict unseen rows better than the base.",
        "验证损失最低的权重对未见过的数据的预测优于基础模型。",
    ),
    "runs.check.data_unchanged": ("The data files are still what was trained on.", "数据文件与训练时相同。"),
    "runs.check.checkpoints": ("Every checkpoint is whole.", "所有检查点都完整。"),
    "runs.check.outputs": (
        "Results and records are still what the receipt lists.",
        "结果与记录文件仍与凭证所列一致。",
    ),
    "runs.check.events": ("The event log has no gap and no damaged line.", "事件记录没有缺口，也没有损坏的行。"),
    "runs.check.receipt": (
        "The receipt, written anew from the folder, says the same.",
        "根据运行目录重新生成的凭证内容相同。",
    ),
    "runs.check.plugins": ("The user's own functions are unchanged.", "用户自定义函数没有改变。"),
    "runs.check.source": ("This is the Luthier that trained the run.", "当前 Luthier 就是训练时所用的版本。"),
    "runs.check.base_unchanged": (
        "The base model's weights and config.json are still those that were trained on.",
        "基础模型的权重与 config.json 与训练时相同。",
    ),
    "runs.check.parent": (
        "The adapter that training went on from is unchanged.",
        "作为起点的适配器没有改变。",
    ),
    "runs.check.tokenizer": (
        "The saved tokenizer and template are those that the rows were rendered with.",
        "保存的分词器和模板与训练时所用的相同。",
    ),
    "runs.bound.rows": ("equal for every file", "每个文件都相等"),
    "runs.bound.validation": ("lower than before step 1", "低于第 1 步之前"),
    "runs.bound.same_hash": ("equal SHA-256", "SHA-256 相同"),
    "runs.bound.same": ("equal", "相同"),
    "runs.evidence.rows": (
        "{kept:,} kept + {excluded:,} left out = {read:,} read; {lines:,} lines in excluded.jsonl",
        "保留 {kept:,} + 排除 {excluded:,} = 读取 {read:,}；excluded.jsonl 有 {lines:,} 行",
    ),
    "runs.evidence.no_validation": ("no rows were held out", "没有留出验证数据"),
    "runs.evidence.validation": (
        "{before:.4f} before, {after:.4f} at step {step:,}",
        "之前 {before:.4f}，第 {step:,} 步 {after:.4f}",
    ),
    "runs.evidence.counted": ("{good} of {all}", "{all} 个中的 {good} 个"),
    "runs.evidence.differ": ("differ: {names}", "不同：{names}"),
    "runs.evidence.missing": ("not here any more: {names}", "已不在此处：{names}"),
    "runs.evidence.origin": (
        "from {source}, split {split}, commit {commit}",
        "来自 {source}，{split} 部分，提交 {commit}",
    ),
    "runs.evidence.absent": ("there is none", "没有"),
    "runs.evidence.same_files": ("as in manifest.json: {where}", "与 manifest.json 一致：{where}"),
    "runs.evidence.fingerprints": ("{then} then, {now} now", "当时 {then}，现在 {now}"),
    "runs.evidence.lines": ("damaged or out of order: line {lines}", "损坏或顺序有误：第 {lines} 行"),
    "runs.evidence.events": ("{count:,} events", "{count:,} 个事件"),
    "runs.evidence.running": ("the run is still being written", "该运行仍在写入"),
    # ------------------------------------------------------------------------------------------ the receipt's page
    "runs.page.title": ("Receipt: {run}", "凭证：{run}"),
    "runs.page.headline.finished": (
        "**{model}** was tuned ({tune}) on {examples} examples from {files}: {steps} steps, {tokens} tokens in {time}.",
        "**{model}** 在来自 {files} 的 {examples} 个样本上完成微调（{tune}）："
        "{steps} 步，{tokens} 个词元，用时 {time}。",
    ),
    "runs.page.headline.unfinished": (
        "**{model}** is being tuned ({tune}) on {examples} examples from {files}. Not finished: so far {steps} steps, "
        "{tokens} tokens in {time}.",
        "**{model}** 正在来自 {files} 的 {examples} 个样本上微调（{tune}）。"
        "尚未完成：目前 {steps} 步，{tokens} 个词元，用时 {time}。",
    ),
    "runs.page.tally": (
        "✔ {passed} passed · ✘ {failed} failed · ○ {not_run} not run",
        "✔ 通过 {passed} · ✘ 未通过 {failed} · ○ 未检查 {not_run}",
    ),
    "runs.page.footer": (
        "`luthier runs verify {run}` recomputes every hash and check on this page; `luthier runs reproduce {run}` "
        "trains again and compares the bits.",
        "`luthier runs verify {run}` 会重新计算本页的每个哈希和检查；"
        "`luthier runs reproduce {run}` 会重新训练并逐位比较。",
    ),
    "runs.page.checks": ("What was checked", "检查了什么"),
    "runs.page.material": ("What went in", "用了什么"),
    "runs.page.training": ("How it was trained", "如何训练"),
    "runs.page.validation": ("Before and after", "训练前后"),
    "runs.page.history": ("What happened", "经过"),
    "runs.page.results": ("What came out", "产出"),
    "runs.page.made_with": ("Made with", "所用软件"),
    "runs.page.bound": ("had to hold: {bound}", "条件：{bound}"),
    "runs.page.unchecked": ("nobody checked this", "没有进行此项检查"),
    "runs.page.fact.base": ("base model", "基础模型"),
    "runs.page.fact.commit": ("commit on the hub", "模型库提交"),
    "runs.page.fact.weights": ("its weights", "权重哈希"),
    "runs.page.fact.config": ("its config.json", "config.json 哈希"),
    "runs.page.fact.template": ("chat template", "对话模板"),
    "runs.page.own_template": ("the model's own", "模型自带"),
    "runs.page.fact.stop": ("answers end with", "回答结束标记"),
    "runs.page.fact.tokenizer": ("tokenizer", "分词器"),
    "runs.page.fact.parent": ("goes on from", "起点"),
    "runs.page.fact.method": ("method", "方法"),
    "runs.page.fact.tune": ("tuning", "微调方式"),
    "runs.page.fact.trainable": ("weights trained", "可训练参数"),
    "runs.page.fact.optimizer": ("optimizer", "优化器"),
    "runs.page.fact.precision": ("kept between steps", "各步之间的保存方式"),
    "runs.page.fact.lr": ("peak learning rate", "最高学习率"),
    "runs.page.fact.length": ("length", "长度"),
    "runs.page.fact.seed": ("seed", "随机种子"),
    "runs.page.fact.machine": ("computed on", "计算设备"),
    "runs.page.fact.tokens": ("tokens", "词元"),
    "runs.page.fact.time": ("training time", "训练用时"),
    "runs.page.fact.speed": ("speed", "速度"),
    "runs.page.fact.planned": ("memory planned", "计划内存"),
    "runs.page.fact.measured": ("memory measured", "实测内存"),
    "runs.page.data.file": ("file", "文件"),
    "runs.page.data.source": ("data set of a hub", "平台数据集"),
    "runs.page.data.subset": ("subset", "子集"),
    "runs.page.data.split": ("split", "部分"),
    "runs.page.data.revision": ("revision asked for", "指定的版本"),
    "runs.page.data.commit": ("commit", "提交"),
    "runs.page.data.read": ("rows read", "读取行数"),
    "runs.page.data.kept": ("kept", "保留"),
    "runs.page.data.excluded": ("left out", "排除"),
    "runs.page.data.sequences": ("sequences", "序列数"),
    "runs.page.data.seen": ("seen in training", "训练中出现次数"),
    "runs.page.mix": ("How often each file came, over the whole run:", "整个训练中各文件出现的次数："),
    "runs.page.data.size": ("size", "大小"),
    "runs.page.data.sha256": ("SHA-256 begins", "SHA-256 开头"),
    "runs.page.reasons": (
        "Rows left out, by reason (each of them is in `excluded.jsonl`):",
        "被排除的行及原因（逐行见 `excluded.jsonl`）：",
    ),
    "runs.page.reason": ("reason", "原因"),
    "runs.page.rows": ("rows", "行数"),
    "runs.page.first": ("the first of them", "其中第一行"),
    "runs.page.plugin": ("own function", "自定义函数"),
    "runs.page.tune.lora": ("LoRA, rank {rank}", "LoRA，秩 {rank}"),
    "runs.page.tune.qlora": ("QLoRA, rank {rank}, base kept in {base}", "QLoRA，秩 {rank}，底座以 {base} 保存"),
    "runs.page.tune.single": ("{base}", "{base}"),
    "runs.page.tune.double": ("{base} with double quantisation", "{base}（双重量化）"),
    "runs.page.tune.beside": ("{tune}, base kept in {base}", "{tune}，底座以 {base} 保存"),
    "runs.page.tune.freeze": ("top {layers} layers", "顶部 {layers} 层"),
    "runs.page.tune.further": ("LoRA, the adapter of {parent} trained further", "LoRA，继续训练 {parent} 的适配器"),
    "runs.page.tune.full": ("all weights", "全部参数"),
    "runs.page.share": ("{trainable} of {total} ({percent} %)", "{total} 中的 {trainable}（{percent} %）"),
    "runs.page.optimizer_is": (
        "{kind}, {schedule} schedule, {batch} examples per step",
        "{kind}，{schedule} 计划，每步 {batch} 个样本",
    ),
    "runs.page.precision_is": (
        "weights {weights}, optimizer state {states}",
        "权重 {weights}，优化器状态 {states}",
    ),
    "runs.page.length_is": ("{steps} steps ({epochs:g} epochs asked)", "{steps} 步（设定 {epochs:g} 轮）"),
    "runs.page.length_steps": ("{steps} steps", "{steps} 步"),
    "runs.page.speed_is": ("{rate} tokens/s", "每秒 {rate} 个词元"),
    "runs.page.no_validation": (
        "No rows were held out, so nothing tells whether unseen rows are predicted better.",
        "没有留出验证数据，因此无法判断对未见数据的预测是否变好。",
    ),
    "runs.page.measure.name": ("measured on the rows held out", "在留出数据上的测量"),
    "runs.page.measure.before": ("before training (95 % interval)", "训练前（95% 区间）"),
    "runs.page.measure.after": ("of the weights that ship", "最终权重"),
    "runs.page.measure.count": ("examples", "样本数"),
    "runs.page.step": ("step", "步"),
    "runs.page.validation_loss": ("validation loss", "验证损失"),
    "runs.page.best": ("best: these weights were kept", "最佳：保留此权重"),
    "runs.page.before": ("before training", "训练前"),
    "runs.page.attempt.number": ("attempt", "次数"),
    "runs.page.attempt.started": ("started", "开始时间"),
    "runs.page.attempt.from": ("from step", "起始步"),
    "runs.page.attempt.to": ("to step", "结束步"),
    "runs.page.attempt.end": ("ended", "结果"),
    "runs.page.revised": (
        "changed on the way: {field}: {old} → {new} ({reason})",
        "中途改动：{field}：{old} → {new}（{reason}）",
    ),
    "runs.page.memory": (
        "memory ran out after step {step} and what was under way was done again with less: {field}: {old} → {new} "
        "({error})",
        "第 {step} 步之后内存不足，当时的计算以更少的占用重做：{field}：{old} → {new}（{error}）",
    ),
    "runs.page.fault": (
        "step {step}: the {what} was not finite, the update was left out; rows {rows}",
        "第 {step} 步：{what} 不是有限数，已跳过该次更新；数据行 {rows}",
    ),
    "runs.page.more_files": ("… and {count} more in `receipt.json`.", "……另有 {count} 个，见 `receipt.json`。"),
    "runs.page.modified": ("(modified)", "（有改动）"),
    "runs.page.source": ("source", "源码"),
    # ------------------------------------------------------------------------------------------ commands
    "runs.list.empty": (
        "No runs in {folder} yet. `luthier train recipe.yaml` makes one.",
        "{folder} 中还没有运行。可用 `luthier train recipe.yaml` 新建。",
    ),
    "runs.list.name": ("run", "运行"),
    "runs.list.state": ("state", "状态"),
    "runs.list.model": ("model", "模型"),
    "runs.list.method": ("method", "方法"),
    "runs.list.step": ("step", "步"),
    "runs.list.loss": ("loss", "损失"),
    "runs.list.validation": ("best validation", "最佳验证损失"),
    "runs.list.updated": ("last sign of life", "最近活动"),
    "runs.list.ago": ("{time} ago", "{time} 前"),
    "runs.show.writer": ("written by process {pid} on {host}", "由 {host} 上的进程 {pid} 写入"),
    "runs.show.folder": ("folder", "目录"),
    "runs.show.model": ("model", "模型"),
    "runs.show.data": ("data", "数据"),
    "runs.show.method": ("method", "方法"),
    "runs.show.state": ("state", "状态"),
    "runs.show.progress": ("progress", "进度"),
    "runs.show.progress_is": ("step {step} of {steps}", "第 {step} 步，共 {steps} 步"),
    "runs.show.loss": ("loss", "损失"),
    "runs.show.validation": ("validation", "验证损失"),
    "runs.show.validation_is": (
        "{before} before, best {best} at step {step}",
        "之前 {before}，最佳 {best}（第 {step} 步）",
    ),
    "runs.show.tokens": ("tokens", "词元"),
    "runs.show.tokens_are": ("{tokens} in {time}, {rate}/s", "{tokens}，用时 {time}，每秒 {rate}"),
    "runs.shared": (
        "{computed} of them computed, since beginnings that examples share are computed once",
        "其中实际计算 {computed} 个，因为各样本共有的开头只计算一次",
    ),
    "runs.show.memory": ("memory", "内存"),
    "runs.show.checkpoints": ("checkpoints", "检查点"),
    "runs.show.attempts": ("attempts", "运行次数"),
    "runs.show.faults": ("updates left out", "跳过的更新"),
    "runs.show.checks": ("receipt", "凭证"),
    "runs.compare.same": ("The recipes are the same.", "配方相同。"),
    "runs.compare.field": ("field", "字段"),
    "runs.compare.result": ("result", "结果"),
    "runs.compare.steps": ("steps", "步数"),
    "runs.compare.loss": ("last loss", "最后损失"),
    "runs.compare.validation": ("best validation loss", "最佳验证损失"),
    "runs.compare.tokens": ("tokens", "词元"),
    "runs.compare.time": ("time", "用时"),
    "runs.compare.speed": ("tokens/s", "词元/秒"),
    "runs.compare.memory": ("memory", "内存"),
    "runs.compare.material": ("went in", "输入"),
    "runs.stop.asked": (
        "Asked {name} (process {pid}) to save and stop; it does so after the step it is in.",
        "已请求 {name}（进程 {pid}）保存并停止；它会在当前步结束后执行。",
    ),
    "runs.extend.done": (
        "{name}: {field} {old} → {new}. `luthier runs resume {name}` trains on from step {step}; the learning rate "
        "follows the longer schedule from there.",
        "{name}：{field} {old} → {new}。用 `luthier runs resume {name}` 从第 {step} 步继续；学习率将按更长的计划变化。",
    ),
    "runs.verify.good": ("Everything that could be checked holds.", "所有可检查的项目都成立。"),
    "runs.verify.bad": ("{count} checks failed.", "{count} 项检查未通过。"),
    # ------------------------------------------------------------------------------------------ progress
    "runs.progress.data": (
        "data    {kept} rows kept, {excluded} left out; {train} to train, {validation} held out; {tokens} tokens",
        "数据    保留 {kept} 行，排除 {excluded} 行；训练 {train}，验证 {validation}；{tokens} 个词元",
    ),
    "runs.progress.model": (
        "model   {trainable} of {total} weights train ({percent} %)",
        "模型    {total} 个参数中训练 {trainable} 个（{percent} %）",
    ),
    "runs.progress.plan": (
        "plan    {device}, {dtype}, {budget} tokens at once, about {memory} of memory; activations: {activations}",
        "计划    {device}，{dtype}，每次 {budget} 个词元，约需内存 {memory}；激活值：{activations}",
    ),
    "runs.progress.plan_each": (
        "plan    {device}, {dtype}, {budget} tokens at once on each, about {memory} of memory each; activations: "
        "{activations}",
        "计划    {device}，{dtype}，每个设备每次 {budget} 个词元，各约需内存 {memory}；激活值：{activations}",
    ),
    "runs.progress.resumed": ("going on from step {step} (attempt {attempt})", "从第 {step} 步继续（第 {attempt} 次）"),
    "runs.progress.validation": ("step {step}  validation loss {loss}", "第 {step} 步  验证损失 {loss}"),
    "runs.progress.validation_best": (
        "step {step}  validation loss {loss}  best so far",
        "第 {step} 步  验证损失 {loss}  目前最佳",
    ),
    "runs.progress.fault": (
        "step {step}  the {what} is not finite: update left out; rows {rows}",
        "第 {step} 步  {what} 不是有限数：跳过更新；数据行 {rows}",
    ),
    "runs.progress.memory": (
        "memory ran out after step {step}; less is held from here on, and nothing is lost ({error})",
        "第 {step} 步之后内存不足；此后占用更少，未丢失任何内容（{error}）",
    ),
    "runs.progress.revised": ("changed: {field}: {old} → {new}", "改动：{field}：{old} → {new}"),
    "runs.progress.alarm": ("alarm at step {step}: {text}", "第 {step} 步警报：{text}"),
    "runs.progress.note": ("note: {text}", "说明：{text}"),
    "runs.progress.loss": ("loss {loss}", "损失 {loss}"),
    "runs.progress.speed": ("{rate} tok/s", "{rate} 词元/秒"),
    "runs.progress.left": ("{time} left", "剩余 {time}"),
    "runs.progress.step": ("step {step}/{steps}", "第 {step}/{steps} 步"),
    "runs.progress.finished": (
        "finished: {steps} steps, {tokens} tokens in {time}, {rate} tokens/s",
        "完成：{steps} 步，{tokens} 个词元，用时 {time}，每秒 {rate} 个词元",
    ),
    "runs.progress.interrupted": ("stopped at step {step}; everything is saved", "已在第 {step} 步停止；一切都已保存"),
    "runs.progress.failed": ("failed at step {step}", "在第 {step} 步失败"),
}
