"""Messages of the area `plan`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "plan.largest_fits": (
        "Of the stages, {stage} needs most: {peak} of {free} free. All fit.",
        "各阶段中 {stage} 占用最多：{peak}，空闲 {free}。全部放得下。",
    ),
    "plan.largest_does_not": (
        "Stage {stage} does not fit: {peak} of {free} free.",
        "阶段 {stage} 放不下：需要 {peak}，空闲 {free}。",
    ),
    # ------------------------------------------------------------------------------------------------ problems
    "plan.no_device.rule": ("no such device is in the table", "设备表中没有该设备"),
    "plan.no_device.remedy": (
        "Write a name of the table, with a number before it for several: 8xH100-80GB; or cpu. All of them: {all}.",
        "请写表中的名称，多个设备时在前面加数量，如 8xH100-80GB；也可以写 cpu。全部名称：{all}。",
    ),
    "plan.no_device_near.rule": (
        "no such device is in the table; the nearest: {near}",
        "设备表中没有该设备；最接近的是：{near}",
    ),
    "plan.no_device_near.remedy": (
        "Write a name of the table, with a number before it for several: 8xH100-80GB; or cpu. All of them: {all}.",
        "请写表中的名称，多个设备时在前面加数量，如 8xH100-80GB；也可以写 cpu。全部名称：{all}。",
    ),
    "plan.which_device.rule": ("several devices are called so: {near}", "有多个设备叫这个名称：{near}"),
    "plan.which_device.remedy": ("Write one of these names.", "请写其中一个名称。"),
    "plan.zero_devices.rule": ("the number of devices must be at least 1", "设备数量至少为 1"),
    "plan.zero_devices.remedy": (
        "Write how many there are before the name: 8xH100-80GB.",
        "请在名称前写上数量，如 8xH100-80GB。",
    ),
    "plan.too_few_devices.rule": (
        "the recipe trains on more devices than are planned for ({there})",
        "配方使用的设备多于规划的设备（{there} 个）",
    ),
    "plan.too_few_devices.remedy": (
        "Plan for as many, such as --device {asked}xH100-80GB, or set run.devices=auto to take what is there.",
        "请按同样的数量规划（如 --device {asked}xH100-80GB），或设置 run.devices=auto 以使用现有的设备。",
    ),
    "plan.no_gpu.rule": (
        "a GPU is asked for, and nvidia-smi does not answer here",
        "要求使用 GPU，但本机的 nvidia-smi 没有响应",
    ),
    "plan.no_gpu.remedy": (
        "Name the device to plan for, such as --device H100-80GB, or plan for the CPU with run.device=cpu.",
        "请用 --device 指明要规划的设备（如 --device H100-80GB），或用 run.device=cpu 为 CPU 规划。",
    ),
    # ------------------------------------------------------------------------------------------------ headings
    "plan.model": (
        "{model}: {family}, {parameters} parameters, {trainable} of them train ({kind})",
        "{model}：{family}，{parameters} 个参数，其中 {trainable} 个参与训练（{kind}）",
    ),
    "plan.device": (
        "{name}, {free} for tensors, compute in {dtype}",
        "{name}，有 {free} 可用于张量，以 {dtype} 计算",
    ),
    "plan.devices": (
        "{name}, {free} for tensors in each, compute in {dtype}; the rows of a step are shared out",
        "{name}，每个有 {free} 可用于张量，以 {dtype} 计算；每步的行分给各设备",
    ),
    "plan.note.nodes": (
        "More than {most} devices are several machines: start luthier train under torchrun on each of them. What they "
        "say to each other is not counted.",
        "超过 {most} 个设备即为多台机器：请在每台机器上用 torchrun 启动 luthier train。未计入机器间的通信。",
    ),
    "plan.note.idle": (
        "Of {there} devices {count} train: as many as run.devices says, at most one for each row of a step, and one "
        "alone under optim.in_backward or where the model learns from its own answers.",
        "{there} 个设备中有 {count} 个参与训练：由 run.devices 指定，不超过每步的行数；"
        "使用 optim.in_backward 或从模型自己的回答中学习时只有一个。",
    ),
    "plan.note.processes": (
        "A process for each of {count} parts of this machine's cores and memory.",
        "本机的核心和内存分为 {count} 份，每份一个进程。",
    ),
    "plan.note.table": ("As the maker describes it; nothing was measured.", "依据厂商资料；未作测量。"),
    "plan.note.nvidia_smi": ("As nvidia-smi says what is free now.", "依据 nvidia-smi 报告的当前空闲显存。"),
    "plan.note.cpu": (
        "What this machine has free now; its rate is that of a product in numpy, times {gain:g} for the dtype.",
        "依据本机当前空闲内存；速度按 numpy 矩阵乘法测得，再按数据类型乘以 {gain:g}。",
    ),
    "plan.rows.stores": (
        "Rows: {rows} of {tokens:.0f} tokens on average, the longest {longest} (token stores {stores}, built before).",
        "数据：{rows} 行，平均 {tokens:.0f} 个词元，最长 {longest}（取自已建立的词元库 {stores}）。",
    ),
    "plan.rows.checked": (
        "Rows: {rows} of {tokens:.0f} tokens on average, the longest {longest} (counted by the check of the data).",
        "数据：{rows} 行，平均 {tokens:.0f} 个词元，最长 {longest}（由数据检查统计）。",
    ),
    "plan.rows.assumed": (
        "No token store is there yet: rows are assumed to be as long as data.max_tokens allows, every token learnt.",
        "尚无词元库：假定每行都达到 data.max_tokens 的上限，且每个词元都参与学习。",
    ),
    "plan.rows.missing": (
        "There is no file {path} here: training would stop at that.",
        "这里没有文件 {path}：训练会因此停止。",
    ),
    # ------------------------------------------------------------------------------------------------ the table
    "plan.part": ("part", "部分"),
    "plan.bytes": ("bytes", "大小"),
    "plan.part.weights": ("frozen weights", "冻结的权重"),
    "plan.part.teacher": ("the teacher", "教师模型"),
    "plan.part.reference": ("the reference", "参考模型"),
    "plan.part.judges": ("reward models", "奖励模型"),
    "plan.part.dense": ("the same of some layers, not quantised", "其中部分层的未量化副本"),
    "plan.part.trainable": ("what trains", "参与训练的权重"),
    "plan.part.gradients": ("gradients", "梯度"),
    "plan.part.optimizer": ("optimizer states", "优化器状态"),
    "plan.part.activations": ("layers, at {tokens} tokens", "各层（{tokens} 个词元）"),
    "plan.part.head": ("head and embedding beyond that", "输出层与嵌入层另需"),
    "plan.part.passes": ("going through rows without learning beyond that", "不学习地遍历各行另需"),
    "plan.part.answers": ("writing and judging answers beyond that", "生成与评判回答另需"),
    "plan.part.peak": ("peak of tensors", "张量峰值"),
    "plan.part.runtime": ("runtime beside them (assumed)", "此外的运行时开销（假定）"),
    # ------------------------------------------------------------------------------------------------ the choices
    "plan.budget.given": (
        "Micro-batches of {tokens} tokens, as the recipe says.",
        "微批为 {tokens} 个词元（由配方指定）。",
    ),
    "plan.budget.row": (
        "Micro-batches of {tokens} tokens: what has to go in whole.",
        "微批为 {tokens} 个词元：这是必须整体放入的长度。",
    ),
    "plan.budget.cap": (
        "Micro-batches of {tokens} tokens: larger ones gain nothing.",
        "微批为 {tokens} 个词元：再大也没有收益。",
    ),
    "plan.budget.memory": (
        "Micro-batches of {tokens} tokens: what fills {share:.0%} of the free memory.",
        "微批为 {tokens} 个词元：占用空闲内存的 {share:.0%}。",
    ),
    "plan.micro": (
        "None has more than {tokens}: the longest rows of a step together.",
        "实际不会超过 {tokens} 个：即一步中最长各行之和。",
    ),
    "plan.policies.given": ("Layers keep: {policies} (the recipe says so).", "各层保留：{policies}（由配方指定）。"),
    "plan.policies.no_host": (
        "Layers keep: {policies}. The recipe says {asked}, but a CPU has no other memory to move anything to.",
        "各层保留：{policies}。配方指定 {asked}，但 CPU 没有别的内存可供转移。",
    ),
    "plan.policies.all": (
        "Layers keep everything: nothing is computed again.",
        "各层保留全部中间结果：无需重算。",
    ),
    "plan.policies.some": (
        "Layers keep, from the lowest up: {policies}. Of all that fits this computes least again.",
        "各层保留（自下而上）：{policies}。在放得下的方案中重算最少。",
    ),
    "plan.answers": (
        "Answers of at most {tokens} tokens, {texts} of them written at once.",
        "回答最长 {tokens} 个词元，{texts} 个同时生成。",
    ),
    "plan.answers.some": (
        "Answers of at most {tokens} tokens, {texts} of {count} written at once: what fits into {share:.0%} of the "
        "free memory.",
        "回答最长 {tokens} 个词元，{count} 个中同时生成 {texts} 个：以空闲内存的 {share:.0%} 为限。",
    ),
    "plan.host": (
        "The optimizer's moments ({size}) lie in the host's memory; what it needs there is not checked.",
        "优化器的动量（{size}）放在主机内存中；主机内存是否足够没有检查。",
    ),
    "plan.moved": (
        "What layers keep ({size}) lies in the host's memory, which has room for it.",
        "各层保留的内容（{size}）放在主机内存中，主机内存足够。",
    ),
    "plan.moved.unknown": (
        "What layers keep ({size}) lies in the host's memory; whether the host has as much is not known here.",
        "各层保留的内容（{size}）放在主机内存中；此处不知道主机是否有这么多内存。",
    ),
    "plan.chunk": (
        "The head forms at most {rows} rows of logits at once ({size}).",
        "输出层每次最多形成 {rows} 行 logits（{size}）。",
    ),
    "plan.speed": (
        "A step of {batch} rows: {step}, {rate} tokens/s, if {share:.0%} of {tflops:.3g} TFLOP/s is reached{devices}.",
        "每步 {batch} 行：{step}，{rate} 词元/秒；假定达到 {tflops:.3g} TFLOP/s 的 {share:.0%}{devices}。",
    ),
    "plan.speed.devices": (" on each of {count}, without communication", "（{count} 个设备，不计通信）"),
    "plan.speed.memory": (
        "Reading weights and states takes longer than the arithmetic: fewer, larger micro-batches are faster.",
        "读取权重和状态比计算更慢：微批更少、更大会更快。",
    ),
    "plan.speed.run": ("{steps} steps: {time}.", "共 {steps} 步：{time}。"),
    "plan.speed.answers": (
        "The time is not told: it depends on how long answers become.",
        "无法估计时间：取决于回答有多长。",
    ),
    "plan.speed.unknown": (
        "The time is not told: the rate of this device is not known.",
        "无法估计时间：不知道该设备的速度。",
    ),
    "plan.largest": (
        "Largest that fits, filling {share:.0%}: a context of {context} tokens, with layers keeping least{moved} (the "
        "model was made for {positions}); a micro-batch of {batch} tokens, with layers as above.",
        "占用 {share:.0%} 时最大可用：上下文 {context} 个词元（各层保留最少{moved}；模型设计为 {positions}）；"
        "微批 {batch} 个词元（各层如上）。",
    ),
    "plan.largest.moved": (", {size} of it in the host's memory", "，其中 {size} 放在主机内存中"),
    "plan.largest.none": (
        "Within {share:.0%} of the memory no row fits, however short.",
        "在内存的 {share:.0%} 之内，再短的行也放不下。",
    ),
    # ------------------------------------------------------------------------------------------------ the verdict
    "plan.fits": ("It fits: {peak} of {free}.", "放得下：{free} 中需要 {peak}。"),
    "plan.too_large": (
        "It does not fit: {peak} are needed and {free} are there.",
        "放不下：需要 {peak}，只有 {free}。",
    ),
    "plan.change": (
        "The least change that makes it fit: {changes} (then {peak}).",
        "能放下的最小改动：{changes}（之后为 {peak}）。",
    ),
    "plan.change.proposed": (
        "That trains another model: it is proposed, never done by itself.",
        "这会训练出不同的模型：仅为建议，不会自动采用。",
    ),
    "plan.change.none": (
        "No setting makes it fit here; it takes a smaller model or a larger device.",
        "没有任何设置能让它放下；需要更小的模型或更大的设备。",
    ),
    "plan.sharded": (
        "On paper, split over {devices} devices (weights, gradients and states; not activations): {peak} each, "
        "{verdict}. Cannot be trained yet: this version does not split a model.",
        "纸面上分摊到 {devices} 个设备（权重、梯度和状态，不含激活）：每个 {peak}，{verdict}。"
        "目前还不能训练：此版本不支持拆分模型。",
    ),
    "plan.sharded.fits": ("which fits", "放得下"),
    "plan.sharded.least": ("which fits from {least} devices on", "至少需要 {least} 个设备"),
    "plan.sharded.never": ("which does not fit on any number", "任何数量都放不下"),
}
