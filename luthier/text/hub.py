"""Messages of the area `hub`: id -> (English, Chinese)."""

from __future__ import annotations

HOW_TO_LOG_IN = (
    "Make a token at {tokens} and give it with `hf auth login` or the environment variable HF_TOKEN.",
    "请在 {tokens} 创建令牌，并用 `hf auth login` 或环境变量 HF_TOKEN 提供。",
)
OTHER_WAYS = (
    "Set HF_ENDPOINT to a mirror that you can reach, HTTPS_PROXY to your proxy, or fetch the model on another machine "
    "and give its folder as the model.",
    "请将 HF_ENDPOINT 设为可访问的镜像、将 HTTPS_PROXY 设为你的代理，或在其他机器上下载模型后把文件夹作为 model。",
)
SPELLING = (
    "Names that look alike there: {near}. A model on this machine is given by its folder.",
    "该处相近的名称：{near}。本机上的模型请直接给出文件夹。",
)

TEXT: dict[str, tuple[str, str]] = {
    "hub.unknown.rule": (
        "there is no folder {folder}, and this is no hub id (organisation/name)",
        "没有文件夹 {folder}，也不是模型库名称（组织/名称）",
    ),
    "hub.unknown.remedy": (
        "Give a model folder, a hub id such as Qwen/Qwen2.5-0.5B-Instruct, modelscope:organisation/name, or nano.",
        "请给出模型文件夹、模型库名称（如 Qwen/Qwen2.5-0.5B-Instruct）、modelscope:组织/名称，或 nano。",
    ),
    "hub.near.rule": (
        "there is no folder {folder}, and this is no hub id (organisation/name)",
        "没有文件夹 {folder}，也不是模型库名称（组织/名称）",
    ),
    "hub.near.remedy": ("Did you mean {near}?", "是否想输入 {near}？"),
    "hub.not_in_folder.rule": (
        "there is no model or run {folder}",
        "没有模型或运行 {folder}",
    ),
    "hub.not_in_folder.remedy": (
        "Names that look alike there: {near}. {first} is a folder here, so nothing was asked of a hub; for the hub's "
        "model of this name give model.revision (main, say), or start where there is no such folder.",
        "该处相近的名称：{near}。{first} 是这里的文件夹，因此没有访问模型库；要用模型库中的同名模型，请给出 "
        "model.revision（如 main），或在没有该文件夹的目录下运行。",
    ),
    "hub.not_a_folder.rule": ("this is a file; a model is a folder", "这是一个文件，而模型应是文件夹"),
    "hub.not_a_folder.remedy": (
        "Give the folder that holds config.json, the tokenizer and the safetensors files.",
        "请给出包含 config.json、分词器和 safetensors 文件的文件夹。",
    ),
    "hub.nano_missing.rule": ("the installed package lacks its small base model", "已安装的包中缺少内置的小模型"),
    "hub.nano_missing.remedy": (
        "Install Luthier again (delete .venv and start ./run), or name another model.",
        "请重新安装 Luthier（删除 .venv 后运行 ./run），或使用其他模型。",
    ),
    "hub.revision_of_folder.rule": (
        "a revision exists on a hub only, and the model is a folder on this machine",
        "只有模型库上的模型才有版本，而这里的模型是本机文件夹",
    ),
    "hub.revision_of_folder.remedy": ("Leave model.revision out.", "请去掉 model.revision。"),
    "hub.bad_id.rule": ("this cannot be the name of a model on a hub", "这不可能是模型库中的名称"),
    "hub.bad_id.remedy": (
        "Hub ids have the form organisation/name, such as Qwen/Qwen2.5-0.5B-Instruct.",
        "模型库名称的形式为 组织/名称，如 Qwen/Qwen2.5-0.5B-Instruct。",
    ),
    "hub.gated.rule": (
        "the model's owner lets only those read it who accepted its licence, and your account has not been let in",
        "模型所有者要求先接受许可，而你的账号尚未获准",
    ),
    "hub.gated.remedy": (
        "Open {page} with the account that your token belongs to, accept the licence and wait for access if it says "
        "so. A fine-grained token also needs the right to read gated repositories.",
        "请用令牌所属的账号打开 {page}，接受许可；如需审批请等待。细粒度令牌还需要读取受限仓库的权限。",
    ),
    "hub.gated_no_token.rule": (
        "the model's owner lets only those read it who accepted its licence",
        "模型所有者要求先接受许可才能读取",
    ),
    "hub.gated_no_token.remedy": (
        "Log in at {page} and accept the licence. " + HOW_TO_LOG_IN[0],
        "请登录 {page} 并接受许可。" + HOW_TO_LOG_IN[1],
    ),
    "hub.not_found.rule": (
        "there is no model of this name on {host}, or your account may not see it",
        "{host} 上没有这个名称的模型，或你的账号无权查看",
    ),
    "hub.not_found.remedy": (SPELLING[0] + " Its page would be {page}.", SPELLING[1] + "它的页面应为 {page}。"),
    "hub.not_found_no_token.rule": (
        "there is no model of this name on {host} that can be read without logging in",
        "{host} 上没有无需登录即可读取的同名模型",
    ),
    "hub.not_found_no_token.remedy": (
        SPELLING[0] + " If the model is private, see {page}. " + HOW_TO_LOG_IN[0],
        SPELLING[1] + "如果模型是私有的，请查看 {page}。" + HOW_TO_LOG_IN[1],
    ),
    "hub.no_revision.rule": (
        "the model has no branch, tag or commit of this name",
        "该模型没有这个名称的分支、标签或提交",
    ),
    "hub.no_revision.remedy": (
        "It has: {near}. Leave model.revision out for the newest; see {page}.",
        "现有：{near}。去掉 model.revision 即使用最新版本；见 {page}。",
    ),
    "hub.bad_token.rule": ("{host} does not know the token it was given", "{host} 不认识所提供的令牌"),
    "hub.bad_token.remedy": HOW_TO_LOG_IN,
    "hub.forbidden.rule": ("{host} refuses access to this model", "{host} 拒绝访问该模型"),
    "hub.forbidden.remedy": (
        "See {page} for its licence and who may read it. " + HOW_TO_LOG_IN[0],
        "请在 {page} 查看许可及访问要求。" + HOW_TO_LOG_IN[1],
    ),
    "hub.busy.rule": ("{host} asks for patience: too many requests", "{host} 提示请求过多"),
    "hub.busy.remedy": (
        "Start again in a few minutes; what was fetched is kept. Logged-in users may ask more often. "
        + HOW_TO_LOG_IN[0],
        "请几分钟后重试，已下载的部分会保留。登录用户的限额更高。" + HOW_TO_LOG_IN[1],
    ),
    "hub.status.rule": ("{host} answered with an error (HTTP {status})", "{host} 返回错误（HTTP {status}）"),
    "hub.status.remedy": (
        "Start again later; what was fetched is kept. " + OTHER_WAYS[0],
        "请稍后重试，已下载的部分会保留。" + OTHER_WAYS[1],
    ),
    "hub.unreachable.rule": ("{host} could not be reached ({reason})", "无法连接 {host}（{reason}）"),
    "hub.unreachable.remedy": (
        OTHER_WAYS[0] + " What was fetched is kept, and the same command goes on from there.",
        OTHER_WAYS[1] + "已下载的部分会保留，再次运行同一命令即可继续。",
    ),
    "hub.proxy.rule": ("the proxy did not let the request through ({reason})", "代理未放行请求（{reason}）"),
    "hub.proxy.remedy": (
        "Check HTTP_PROXY and HTTPS_PROXY, or except {host} in NO_PROXY.",
        "请检查 HTTP_PROXY 和 HTTPS_PROXY，或在 NO_PROXY 中排除 {host}。",
    ),
    "hub.not_a_hub.rule": ("{host} does not answer like a model hub ({reason})", "{host} 的响应不像模型库（{reason}）"),
    "hub.not_a_hub.remedy": (
        "Check HF_ENDPOINT; a login page of the network also answers so.",
        "请检查 HF_ENDPOINT；需要网页登录的网络也会这样响应。",
    ),
    "hub.broken.rule": ("a file did not arrive whole ({reason})", "文件下载不完整（{reason}）"),
    "hub.broken.remedy": (
        "Start again: what is damaged is fetched anew, the rest is kept.",
        "请重试：损坏的部分会重新下载，其余保留。",
    ),
    "hub.offline.rule": (
        "HF_HUB_OFFLINE is set, and no copy of this model is in {cache}",
        "已设置 HF_HUB_OFFLINE，而 {cache} 中没有该模型",
    ),
    "hub.offline.remedy": (
        "Unset HF_HUB_OFFLINE once to fetch it, or give a folder as the model.",
        "请取消 HF_HUB_OFFLINE 以下载一次，或将文件夹作为 model。",
    ),
    "hub.offline_partly.rule": (
        "HF_HUB_OFFLINE is set, and the copy in {cache} lacks {lacking}",
        "已设置 HF_HUB_OFFLINE，而 {cache} 中的副本缺少 {lacking}",
    ),
    "hub.offline_partly.remedy": (
        "Unset HF_HUB_OFFLINE once to fetch the rest.",
        "请取消 HF_HUB_OFFLINE 以下载其余部分。",
    ),
    "hub.cached.rule": (
        "{host} does not answer; the copy fetched earlier (commit {commit}) is used",
        "{host} 没有响应；使用之前下载的副本（提交 {commit}）",
    ),
    "hub.cached.remedy": ("", ""),
    "hub.disk.rule": (
        "the model needs {need} GB there, and {free} GB are free",
        "模型需要 {need} GB，而剩余空间只有 {free} GB",
    ),
    "hub.disk.remedy": (
        "Free some (`hf cache ls` shows what lies there), or set HF_HOME to a folder on a larger disk.",
        "请清理空间（`hf cache ls` 可查看已有内容），或将 HF_HOME 设为更大磁盘上的文件夹。",
    ),
    "hub.disk_full.rule": ("the disk of {cache} is full", "{cache} 所在磁盘已满"),
    "hub.disk_full.remedy": (
        "Free some space, or set HF_HOME to a folder on a larger disk; what was fetched is kept.",
        "请清理空间，或将 HF_HOME 设为更大磁盘上的文件夹；已下载的部分会保留。",
    ),
    "hub.cache_unwritable.rule": ("{cache} cannot be written ({reason})", "无法写入 {cache}（{reason}）"),
    "hub.cache_unwritable.remedy": (
        "Set HF_HOME to a folder that you may write, or mend the rights of this one.",
        "请将 HF_HOME 设为可写的文件夹，或修正该文件夹的权限。",
    ),
    "hub.incomplete.rule": (
        "the repository lacks what Luthier reads: {lacking}; it has {has}",
        "仓库缺少 Luthier 需要的文件：{lacking}；现有 {has}",
    ),
    "hub.incomplete.remedy": (
        "Look at {page} for a version in Hugging Face's safetensors form; GGUF and .bin files cannot be trained here.",
        "请在 {page} 查找 Hugging Face safetensors 格式的版本；GGUF 和 .bin 文件无法在此训练。",
    ),
    "hub.is_adapter.rule": ("this is an adapter, not a base model", "这是适配器，不是基础模型"),
    "hub.is_adapter.remedy": (
        "Give the base model that {page} names; to train the adapter further, fetch it and set tune.from to its "
        "folder.",
        "请使用 {page} 中注明的基础模型；若要继续训练该适配器，请下载后将 tune.from 设为其文件夹。",
    ),
    "hub.no_modelscope.rule": (
        "fetching from ModelScope needs a package that is not installed",
        "从 ModelScope 下载需要尚未安装的包",
    ),
    "hub.no_modelscope.remedy": (
        "Install it: .venv/bin/python -m pip install modelscope",
        "请安装：.venv/bin/python -m pip install modelscope",
    ),
    "hub.modelscope_not_found.rule": (
        "ModelScope has no such model or revision ({reason})",
        "ModelScope 上没有该模型或版本（{reason}）",
    ),
    "hub.modelscope_not_found.remedy": (
        "Check the spelling; its page would be {page}.",
        "请检查拼写；它的页面应为 {page}。",
    ),
    "hub.modelscope_denied.rule": ("ModelScope refuses access ({reason})", "ModelScope 拒绝访问（{reason}）"),
    "hub.modelscope_denied.remedy": (
        "Open {page}, apply for access there, then log in with `modelscope login`.",
        "请打开 {page} 申请访问，然后用 `modelscope login` 登录。",
    ),
    "hub.modelscope_failed.rule": ("ModelScope could not deliver ({reason})", "无法从 ModelScope 获取（{reason}）"),
    "hub.modelscope_failed.remedy": (
        "Check the network and proxy and start again; what was fetched is kept. Or fetch {page} on another machine and "
        "give its folder as the model.",
        "请检查网络和代理后重试，已下载的部分会保留。也可在其他机器上下载 {page}，再把文件夹作为 model。",
    ),
    "hub.push_name.rule": ("this cannot be the name of a repository", "这不可能是仓库名称"),
    "hub.push_name.remedy": ("Give user/name or organisation/name.", "请给出 用户/名称 或 组织/名称。"),
    "hub.push_offline.rule": ("HF_HUB_OFFLINE is set, so nothing is sent", "已设置 HF_HUB_OFFLINE，因此不会上传"),
    "hub.push_offline.remedy": ("Unset HF_HUB_OFFLINE and start again.", "请取消 HF_HUB_OFFLINE 后重新开始。"),
    "hub.push_no_token.rule": (
        "sending to {host} needs a token, and none is given",
        "向 {host} 上传需要令牌，但没有给出",
    ),
    "hub.push_no_token.remedy": HOW_TO_LOG_IN,
    "hub.push_bad_token.rule": ("{host} does not accept the token", "{host} 不接受该令牌"),
    "hub.push_bad_token.remedy": HOW_TO_LOG_IN,
    "hub.push_forbidden.rule": (
        "the token may not write to this repository at {host}",
        "该令牌无权写入 {host} 上的这个仓库",
    ),
    "hub.push_forbidden.remedy": (
        "Make a token with write access at {tokens}, or give a repository under your own name.",
        "请在 {tokens} 创建有写权限的令牌，或使用自己名下的仓库。",
    ),
    "hub.push_not_found.rule": (
        "there is no such repository or owner at {host}, or the token may not see it",
        "{host} 上没有这个仓库或所有者，或该令牌无权查看",
    ),
    "hub.push_not_found.remedy": (
        "Check the spelling; where it was removed meanwhile, start again. Tokens and their rights: {tokens}.",
        "请检查拼写；若仓库刚被删除，请重新开始。令牌及其权限：{tokens}。",
    ),
    "hub.push_conflict.rule": (
        "{host} says that the repository is being changed by somebody else",
        "{host} 表示该仓库正被他人修改",
    ),
    "hub.push_conflict.remedy": (
        "Look with --dry-run what is there now, then start again: files that arrived are not sent again.",
        "请用 --dry-run 查看现有内容后重新开始：已上传的文件不会重复发送。",
    ),
    "hub.push_failed.rule": ("nothing could be sent ({reason})", "无法上传（{reason}）"),
    "hub.push_failed.remedy": (
        "Check that the files can be read, HF_ENDPOINT is an address (https://...) and the token has no odd signs.",
        "请检查文件可读、HF_ENDPOINT 是一个地址（https://...），且令牌不含异常字符。",
    ),
    "hub.push_status.rule": ("{host} answered with status {status}", "{host} 返回状态 {status}"),
    "hub.push_status.remedy": (
        "Try again later: files that arrived are not sent again.",
        "请稍后重试：已上传的文件不会重复发送。",
    ),
    "hub.push_unreachable.rule": ("the connection to {host} failed", "与 {host} 的连接失败"),
    "hub.push_unreachable.remedy": (
        "Check the network, HF_ENDPOINT and HTTPS_PROXY, and start again: files that arrived are not sent again.",
        "请检查网络、HF_ENDPOINT 和 HTTPS_PROXY 后重新开始：已上传的文件不会重复发送。",
    ),
}
