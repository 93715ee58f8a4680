"""Messages of the area `serve`: id -> (English, Chinese). Those without rule and remedy go to clients over HTTP."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "serve.ready": (
        "Serving {models} at {where}/v1 (Ctrl-C ends)",
        "正在 {where}/v1 提供 {models}（按 Ctrl-C 结束）",
    ),
    "serve.ended": ("The server has ended.", "服务已结束。"),
    "serve.no_extra.rule": (
        "the server needs packages that are not installed: {missing}",
        "服务需要尚未安装的软件包：{missing}",
    ),
    "serve.no_extra.remedy": ("`pip install 'luthier[serve]'`", "`pip install 'luthier[serve]'`"),
    "serve.no_keys.rule": (
        "other machines could use the model without a key at this address",
        "该地址会让其他机器无需密钥即可使用模型",
    ),
    "serve.no_keys.remedy": (
        "Give --api-key-file FILE (one key per line), or leave --host out to serve this machine only.",
        "请给出 --api-key-file FILE（每行一个密钥），或去掉 --host 只为本机提供服务。",
    ),
    "serve.key_file.rule": ("no key can be read from this file ({reason})", "无法从该文件读取密钥（{reason}）"),
    "serve.key_file.remedy": (
        "Write one key per line into it, for example from: openssl rand -hex 32",
        "请在其中每行写一个密钥，例如由 openssl rand -hex 32 生成。",
    ),
    "serve.port.rule": ("the server cannot listen here: {reason}", "无法在此监听：{reason}"),
    "serve.port.remedy": ("Choose another --port or --host.", "请换一个 --port 或 --host。"),
    "serve.name_taken.rule": ("a model of this name is served already", "已有同名模型在提供服务"),
    "serve.name_taken.remedy": ("Give it another name, or unload the other one.", "请换一个名称，或先卸载已有的模型。"),
    "serve.engine.rule": ("there is no such engine", "没有这样的引擎"),
    "serve.engine.remedy": ("Choose luthier, llama.cpp or vllm.", "请选择 luthier、llama.cpp 或 vllm。"),
    "serve.not_loaded.rule": ("llama.cpp cannot load this file ({reason})", "llama.cpp 无法加载该文件（{reason}）"),
    "serve.not_loaded.remedy": (
        "See whether it is whole, and whether this llama.cpp knows its architecture.",
        "请检查文件是否完整，以及该 llama.cpp 是否支持其架构。",
    ),
    "serve.by_vllm": (
        "- vLLM answers; this hand-over was tested against a stand-in for vLLM, not against vLLM itself",
        "- 由 vLLM 回答；该接口是用 vLLM 的替身测试的，未用 vLLM 本身测试",
    ),
    "serve.no_vllm.rule": ("vLLM cannot be started ({reason})", "无法启动 vLLM（{reason}）"),
    "serve.no_vllm.remedy": (
        "Install vLLM in an environment of its own and name its command: --vllm-command /opt/vllm/bin/vllm",
        "请在独立环境中安装 vLLM，并给出其命令：--vllm-command /opt/vllm/bin/vllm",
    ),
    "serve.vllm_adapter.rule": (
        "vLLM applies LoRA alone; this adapter also has {more}",
        "vLLM 只支持 LoRA；该适配器还包含 {more}",
    ),
    "serve.vllm_adapter.remedy": (
        "Merge it (`luthier merge RUN`) and serve the merged folder.",
        "请先合并（`luthier merge RUN`），再提供合并后的文件夹。",
    ),
    "serve.own_device.rule": ("vLLM chooses its device by itself", "vLLM 自行选择设备"),
    "serve.own_device.remedy": (
        "Leave --device out; CUDA_VISIBLE_DEVICES is passed on.",
        "请去掉 --device；CUDA_VISIBLE_DEVICES 会传给它。",
    ),
    "serve.no_other_command.rule": ("this command is for --engine vllm alone", "该命令只用于 --engine vllm"),
    "serve.no_other_command.remedy": ("Leave it out, or add --engine vllm.", "请去掉它，或加上 --engine vllm。"),
    "serve.engine_ended.rule": (
        "the engine's process has ended; the last lines of its log:\n        {lines}",
        "推理引擎的进程已结束；其日志的最后几行：\n        {lines}",
    ),
    "serve.engine_ended.remedy": (
        "Mend what they name, and start again.",
        "请解决其中指出的问题后重新启动。",
    ),
    "serve.engine_late.rule": (
        "the engine did not answer within {wait} s; the last lines of its log:\n        {lines}",
        "推理引擎在 {wait} 秒内没有响应；其日志的最后几行：\n        {lines}",
    ),
    "serve.engine_late.remedy": (
        "Give it longer with --vllm-wait, or mend what they name.",
        "请用 --vllm-wait 延长等待时间，或解决其中指出的问题。",
    ),
    "serve.gguf.rule": (
        "llama.cpp serves one GGUF file ({reason})",
        "llama.cpp 只提供单个 GGUF 文件（{reason}）",
    ),
    "serve.gguf.remedy": (
        "Name one file, as `luthier export RUN --gguf q4_k_m` writes it, and no --template: the file has its own.",
        "请给出一个文件（如 `luthier export RUN --gguf q4_k_m` 所写），且不要给出 --template：文件自带模板。",
    ),
    # ------------------------------------------------------------------------------------------------ to clients
    "serve.engine_gone": ("The engine does not answer.", "推理引擎没有响应。"),
    "serve.internal": (
        "The server failed at this request; its log says how.",
        "服务器处理该请求时出错；详情见其日志。",
    ),
    "serve.wrong_key": ("No valid API key was given.", "未提供有效的 API 密钥。"),
    "serve.foreign_host": (
        "Without an API key this server speaks to this machine only, not to {host}.",
        "未设置 API 密钥时，该服务只面向本机，而不是 {host}。",
    ),
    "serve.not_here": (
        "Adapters are loaded and unloaded with an API key or from the server's own machine.",
        "加载和卸载适配器需要 API 密钥，或在服务器本机上进行。",
    ),
    "serve.too_large": ("The request has more than {limit} bytes.", "请求超过 {limit} 字节。"),
    "serve.slow_body": ("The request did not come within {limit} seconds.", "请求未在 {limit} 秒内传完。"),
    "serve.time_up": ("The answer was not ready within {limit} seconds.", "回答未在 {limit} 秒内完成。"),
    "serve.gone": ("The client has gone away.", "客户端已断开。"),
    "serve.draining": ("The server is ending and takes nothing new.", "服务正在结束，不再接受新请求。"),
    "serve.queue_full": (
        "As many answers are waiting as this server takes on; try again later.",
        "等待中的回答已达到上限；请稍后再试。",
    ),
    "serve.unsupported": ("Unsupported parameter: {name}", "不支持的参数：{name}"),
    "serve.invalid": ("Invalid value for {name}: {reason}", "{name} 的值无效：{reason}"),
    "serve.no_model": ("There is no model {model}; there are: {known}", "没有模型 {model}；可用的有：{known}"),
    "serve.no_adapter": (
        "There is no adapter {name} that could be unloaded; there are: {known}",
        "没有可卸载的适配器 {name}；现有：{known}",
    ),
    "serve.needs_logprobs": ("top_logprobs needs logprobs: true.", "top_logprobs 需要 logprobs: true。"),
    "serve.needs_stream": ("stream_options needs stream: true.", "stream_options 需要 stream: true。"),
    "serve.no_tools": (
        "The chat template of this model knows no tools, or writes calls in a way that is not known here.",
        "该模型的对话模板不支持工具，或其调用格式不被识别。",
    ),
    "serve.no_tools_given": ("tool_choice needs tools.", "tool_choice 需要同时给出 tools。"),
    "serve.format_with_tools": (
        "response_format cannot be held to while tools may be called here: their calls are JSON without a mark, or "
        "another engine writes them; give one of the two.",
        "此处可能调用工具时无法保证 response_format：其调用是没有标记的 JSON，或由其他引擎生成；请只给出其中之一。",
    ),
    "serve.no_such_tool": (
        "tool_choice names {name}, which is not among the tools.",
        "tool_choice 指定的 {name} 不在 tools 之中。",
    ),
    "serve.no_guide": (
        "Answers in a format need a tokenizer that the library for it can read; this model's is none.",
        "按格式输出需要相应的库能读取分词器；该模型的分词器不支持。",
    ),
    "serve.bad_schema": ("This schema cannot be held to: {reason}", "无法按该模式约束输出：{reason}"),
    "serve.no_content": (
        "A message has neither content nor tool calls.",
        "有一条消息既没有内容也没有工具调用。",
    ),
    "serve.unusable": ("{reason}", "{reason}"),
    "serve.too_many": ("One request may ask for {limit} answers at most.", "一次请求最多可要求 {limit} 个回答。"),
    "serve.empty_prompt": ("An empty text cannot be used.", "空文本无法使用。"),
    "serve.no_token": ("Token ids lie between 0 and {size}.", "词元编号应在 0 与 {size} 之间。"),
    "serve.too_long": (
        "Prompt and answer come to {tokens} tokens; the context holds {limit}.",
        "提示与回答共 {tokens} 个词元；上下文只能容纳 {limit} 个。",
    ),
}
