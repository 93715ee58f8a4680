"""Messages of the area `doctor`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "doctor.label.versions": ("Versions", "版本"),
    "doctor.label.machine": ("Machine", "机器"),
    "doctor.label.memory": ("Memory", "内存"),
    "doctor.label.gpu": ("GPU", "GPU"),
    "doctor.label.devices": ("Devices", "设备"),
    "doctor.label.speed": ("Speed", "速度"),
    "doctor.label.data": ("Data", "数据"),
    "doctor.compiled": ("words are cut by compiled code", "由已编译的代码切分文本"),
    "doctor.not_compiled": (
        "words are cut in Python, slower; with a C compiler, install Luthier again",
        "用 Python 切分文本，较慢；安装 C 编译器后重新安装 Luthier 即可加速",
    ),
    "doctor.label.disk": ("Disk", "磁盘"),
    "doctor.label.hub": ("Hub", "模型库"),
    "doctor.label.extras": ("Extras", "可选组件"),
    "doctor.machine": ("{system}, {cpu}, {cores} cores, {isa}", "{system}，{cpu}，{cores} 核，{isa}"),
    "doctor.memory": ("{free} GB free of {total} GB", "可用 {free} GB，共 {total} GB"),
    "doctor.gpu": (
        "{name}, sm_{capability}, {free} GB free of {total} GB",
        "{name}，sm_{capability}，可用 {free} GB，共 {total} GB",
    ),
    "doctor.no_gpu": ("none; Luthier trains on the CPU", "无；将在 CPU 上训练"),
    "doctor.devices_gpu": (
        "run.devices=auto trains on {count} (gradients over NCCL)",
        "run.devices=auto 使用 {count} 个设备训练（梯度经 NCCL 汇总）",
    ),
    "doctor.devices_cpu": (
        "run.devices=auto trains in {count} process on the CPU; more share its cores (gradients over gloo)",
        "run.devices=auto 在 CPU 上用 {count} 个进程训练；更多进程会分用其核心（梯度经 gloo 汇总）",
    ),
    "doctor.speed": (
        "{device}: float32 {float32}, bfloat16 {bfloat16} GFLOP/s: computes in {dtype}",
        "{device}：float32 {float32}、bfloat16 {bfloat16} GFLOP/s：使用 {dtype} 计算",
    ),
    "doctor.disk": ("{free} GB free in {folder} ({use})", "{folder} 剩余 {free} GB（{use}）"),
    "doctor.disk.runs": ("this folder, for runs", "当前目录，用于训练记录"),
    "doctor.disk.hub": ("models from hubs, HF_HOME", "下载的模型，HF_HOME"),
    "doctor.disk.cache": ("token stores, LUTHIER_CACHE", "词元缓存，LUTHIER_CACHE"),
    "doctor.hub": (
        "{endpoint}, HF_TOKEN set: {token}, offline: {offline}, proxies: {proxies}",
        "{endpoint}，HF_TOKEN 已设置：{token}，离线：{offline}，代理：{proxies}",
    ),
    "doctor.yes": ("yes", "是"),
    "doctor.no": ("no", "否"),
    "doctor.none": ("none", "无"),
    "doctor.extra.there": ("{name}: installed ({use})", "{name}：已安装（{use}）"),
    "doctor.extra.missing": ("{name}: not installed ({use}): {command}", "{name}：未安装（{use}）：{command}"),
    "doctor.use.gpu": ("faster kernels on NVIDIA GPUs", "NVIDIA GPU 上更快的计算"),
    "doctor.use.track": ("TensorBoard, W&B, SwanLab", "TensorBoard、W&B、SwanLab"),
    "doctor.use.hub": ("models from ModelScope", "来自 ModelScope 的模型"),
    "doctor.well": ("Nothing stands in the way of training.", "可以开始训练。"),
    "doctor.version.rule": (
        "{package} {version} is installed; Luthier is made for {package}{wanted}",
        "已安装 {package} {version}；Luthier 需要 {package}{wanted}",
    ),
    "doctor.version.remedy": ("Install the right one: {command}", "请安装正确的版本：{command}"),
    "doctor.package_missing.rule": ("{package} is not installed", "未安装 {package}"),
    "doctor.package_missing.remedy": ("Install it: {command}", "请安装：{command}"),
    "doctor.little_disk.rule": (
        "{free} GB are free there; models and checkpoints soon need {least} GB",
        "只剩 {free} GB；模型和检查点很快就需要 {least} GB",
    ),
    "doctor.little_disk.remedy": (
        "Free some space, or put runs (run.dir), models (HF_HOME) and caches (LUTHIER_CACHE) on another disk.",
        "请清理空间，或将训练记录（run.dir）、模型（HF_HOME）和缓存（LUTHIER_CACHE）放到其他磁盘。",
    ),
    "doctor.unwritable.rule": ("this folder cannot be written", "该文件夹不可写"),
    "doctor.unwritable.remedy": (
        "Work in another folder, or set HF_HOME or LUTHIER_CACHE to one that you may write.",
        "请换一个工作目录，或将 HF_HOME、LUTHIER_CACHE 设为可写的文件夹。",
    ),
}
