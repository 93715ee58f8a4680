"""Messages of the area `queue`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "queue.not_waiting.rule": ("this run does not wait for its turn", "该运行不在队列中"),
    "queue.not_waiting.remedy": (
        "`luthier runs queue` lists those that do; `luthier runs resume {run} --detach` puts one in.",
        "`luthier runs queue` 列出队列；`luthier runs resume {run} --detach` 将其加入队列。",
    ),
    "queue.no_supervisor.rule": (
        "the process that starts queued runs does not start; the run keeps its place",
        "负责启动排队运行的进程未能启动；该运行仍在队列中",
    ),
    "queue.no_supervisor.remedy": ("This log says why.", "原因见此日志。"),
    "queue.put": (
        "{name} waits for its turn, number {place} in the queue; it starts by itself and needs no terminal.",
        "{name} 已加入队列，排在第 {place} 位；它会自行开始，无需保持终端打开。",
    ),
    "queue.put_behind": (
        "{name} starts once {after} is finished; number {place} in the queue.",
        "{name} 将在 {after} 完成后开始；排在第 {place} 位。",
    ),
    "queue.not_put": ("{name} need not wait: {state}.", "{name} 无需排队：{state}。"),
    "queue.next": (
        "Watch it with `luthier runs watch {path}`, end it with `luthier runs stop {path}`.",
        "用 `luthier runs watch {path}` 查看，用 `luthier runs stop {path}` 停止。",
    ),
    "queue.withdrawn": ("{name} was taken out of the queue; it had not started.", "{name} 已移出队列；它尚未开始。"),
    "queue.left_waiting": (
        "{name} goes on waiting for it to be finished; `luthier runs stop {path}` takes that out of the queue.",
        "{name} 会继续等待它完成；`luthier runs stop {path}` 可将其移出队列。",
    ),
    "queue.empty": ("Nothing waits.", "队列为空。"),
    "queue.place": ("place", "位置"),
    "queue.run": ("run", "运行"),
    "queue.folder": ("folder", "目录"),
    "queue.waited": ("waits since", "已等待"),
    "queue.waits_for": ("waits for", "等待"),
    "queue.turn": ("its turn", "轮到自己"),
    "queue.died": ("ended without a word: {how}; its last lines:", "意外终止：{how}；最后的输出："),
    "queue.died_signal": ("signal {signal}", "信号 {signal}"),
    "queue.died_code": ("exit code {code}", "退出码 {code}"),
    "queue.died_unknown": ("nobody saw how", "原因不明"),
    "queue.watching": (
        "Watching {name}; Ctrl-C ends the watching, not the run.",
        "正在查看 {name}；Ctrl-C 只结束查看，不会停止运行。",
    ),
    "queue.watch_waits": ("{name} waits for: {why}.", "{name} 正在等待：{why}。"),
    "queue.watch_ended": ("{name}: {state}.", "{name}：{state}。"),
}
