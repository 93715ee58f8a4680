"""Messages of the area `web`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "web.ready": (
        "Luthier's page: {url} (Ctrl-C ends the page; runs go on)",
        "Luthier 页面：{url}（按 Ctrl-C 结束页面；运行会继续）",
    ),
    "web.ended": ("The page has ended; what it started goes on.", "页面已结束；由它启动的任务会继续。"),
    "web.no_extra.rule": (
        "the page needs packages that are not installed: {missing}",
        "页面需要尚未安装的软件包：{missing}",
    ),
    "web.no_extra.remedy": ("`pip install 'luthier[ui]'`", "`pip install 'luthier[ui]'`"),
    # ------------------------------------------------------------------------------------------------ the door
    "web.internal.rule": (
        "the server failed at this request; its log says how",
        "服务器处理该请求时出错；详情见其日志",
    ),
    "web.internal.remedy": (
        "Try again; where it fails again, that log is what a report of it needs.",
        "请重试；若再次失败，报告问题时请附上该日志。",
    ),
    "web.no_token.rule": ("this page opens only with its token", "需要令牌才能打开此页面"),
    "web.no_token.remedy": (
        "Open the link that `luthier ui` printed when it started.",
        "请打开 `luthier ui` 启动时显示的链接。",
    ),
    "web.foreign.rule": (
        "without a token this page speaks to this machine only, not to {host}",
        "未设置令牌时，该页面只面向本机，而不是 {host}",
    ),
    "web.foreign.remedy": (
        "Open it under localhost; for other machines, or behind a proxy, start it with --host or --base-path.",
        "请用 localhost 打开；若要供其他机器或经由代理使用，请用 --host 或 --base-path 启动。",
    ),
    "web.no_guard.rule": (
        "a request that changes something needs the header X-Luthier",
        "有改动的请求需要 X-Luthier 请求头",
    ),
    "web.no_guard.remedy": (
        "Send `X-Luthier: 1` with it; pages of others cannot.",
        "请随请求发送 `X-Luthier: 1`；其他网页无法做到。",
    ),
    "web.too_large.rule": ("the request has more than {limit} bytes", "请求超过 {limit} 字节"),
    "web.too_large.remedy": ("Send files with PUT to api/files/NAME.", "文件请用 PUT 发送到 api/files/NAME。"),
    "web.invalid.rule": ("the request cannot be used: {reason}", "请求无法使用：{reason}"),
    "web.invalid.remedy": ("api/openapi.json says what it takes.", "其格式见 api/openapi.json。"),
    "web.no_route.rule": (
        "there is nothing for this request ({status} {reason})",
        "没有与该请求对应的内容（{status} {reason}）",
    ),
    "web.no_route.remedy": ("api/openapi.json lists what can be asked.", "可用的请求见 api/openapi.json。"),
    # ------------------------------------------------------------------------------------------------ runs and files
    "web.no_run.rule": ("there is no such run here", "此处没有该运行"),
    "web.no_run.remedy": ("`luthier runs list` shows those that there are.", "`luthier runs list` 列出现有的运行。"),
    # ------------------------------------------------------------------------------------------------ chat
    "web.no_chat.rule": ("no such model is open", "没有打开该模型"),
    "web.no_chat.remedy": ("Open it again.", "请重新打开。"),
    "web.chat_loading.rule": ("the model is still being loaded", "模型仍在加载"),
    "web.chat_loading.remedy": ("Ask once it is ready.", "请在就绪后提问。"),
    "web.chat_refused.rule": ("the model cannot do this: {reason}", "模型无法这样做：{reason}"),
    "web.chat_refused.remedy": ("Ask for something else, or open another model.", "请改变请求，或打开其他模型。"),
    "web.chat_ended.rule": (
        "the process that held this model has ended; the last lines of its log:\n{lines}",
        "加载该模型的进程已结束；其日志的最后几行：\n{lines}",
    ),
    "web.chat_ended.remedy": (
        "Open it again; where it ends again, mend what they name.",
        "请重新打开；若再次结束，请解决其中指出的问题。",
    ),
    "web.rows_of_another_kind.rule": (
        "this file is there already and holds other rows than these",
        "该文件已存在，且其中的数据与此不同类",
    ),
    "web.rows_of_another_kind.remedy": ("Give another name.", "请换一个名称。"),
    "web.no_file.rule": ("there is no such file or folder here", "此处没有该文件或文件夹"),
    "web.no_file.remedy": ("api/files lists those that there are.", "api/files 列出现有的文件。"),
    "web.no_folder.rule": ("this is no folder", "这不是文件夹"),
    "web.no_folder.remedy": ("Name the folder that it lies in.", "请指定它所在的文件夹。"),
    "web.upload_too_large.rule": (
        "a file that is sent here may have {most} at most",
        "发送到此处的文件不能超过 {most}",
    ),
    "web.upload_too_large.remedy": (
        "Copy it into the folder that the page works in, and choose it there.",
        "请将它复制到页面的工作目录中，再从那里选择。",
    ),
    "web.upload_no_room.rule": (
        "no room on the disk ({reason}): {free} are free; nothing of the file was kept",
        "磁盘空间不足（{reason}）：剩余 {free}；文件没有保留任何部分",
    ),
    "web.upload_no_room.remedy": (
        "Free some space (old runs, `luthier cache clear`), then send it again.",
        "请清理空间（旧的运行、`luthier cache clear`），然后重新发送。",
    ),
    "web.upload_refused.rule": ("the system refuses: {reason}", "系统拒绝访问：{reason}"),
    "web.upload_refused.remedy": (
        "Check the owner and the permissions of this folder.",
        "请检查该文件夹的所有者和权限。",
    ),
    "web.outside.rule": (
        "this lies outside of the folder that the page works in, {home}",
        "该路径位于页面的工作目录 {home} 之外",
    ),
    "web.outside.remedy": (
        "Start `luthier ui` in a folder above it, or bring it in here.",
        "请在其上级目录中启动 `luthier ui`，或将文件移入该目录。",
    ),
    "web.no_job.rule": ("there is no such job", "没有该任务"),
    "web.no_job.remedy": ("api/jobs lists those that there are.", "api/jobs 列出现有的任务。"),
    "web.job_died.rule": (
        "the job ended without a result (exit code {code}); its last lines may say why",
        "任务没有给出结果就结束了（退出码 {code}）；其最后的输出可能说明原因",
    ),
    "web.job_died.remedy": ("Start it again.", "请重新启动该任务。"),
    "web.other_dir.rule": (
        "runs that are made here lie in {folder}",
        "在此新建的运行位于 {folder}",
    ),
    "web.other_dir.remedy": (
        "Leave run.dir out, or start `luthier ui` with that folder as --dir.",
        "请去掉 run.dir，或用 --dir 指定该目录来启动 `luthier ui`。",
    ),
}
