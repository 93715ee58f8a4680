"""Messages of the area `chat`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "chat.greeting": (
        "Talking to {label}. {reset} starts over, {quit} ends.",
        "正在与 {label} 对话。{reset} 重新开始，{quit} 结束。",
    ),
    "chat.greeting_text": (
        "{label} was trained on raw text, so it continues what you write; nothing is remembered from line to line. "
        "{quit} ends.",
        "{label} 是用原始文本训练的，会接着您写的内容续写；各行之间互不记忆。{quit} 结束。",
    ),
    "chat.commands": (
        "There are {reset} (start over), /retry, /save FILE, /system TEXT, /adapter NAME [STRENGTH], /base, "
        "/compare [NAME], /set [temperature=0.7], /help and {quit} (end).",
        "可用的命令：{reset}（重新开始）、/retry（重答）、/save 文件、/system 文本、/adapter 名称 [强度]、/base、"
        "/compare [名称]、/set [temperature=0.7]、/help、{quit}（结束）。",
    ),
    "chat.file_done": (
        "{made} rows answered, {kept} were there, {bad} cannot be: {file}",
        "已回答 {made} 行，{kept} 行原已存在，{bad} 行无法回答：{file}",
    ),
    "chat.file_at": ("{rows} rows answered", "已回答 {rows} 行"),
    "chat.no_question.rule": ("this row holds no question that could be answered", "该行没有可回答的问题"),
    "chat.no_question.remedy": ("Give a prompt, a text or messages.", "请给出 prompt、text 或 messages。"),
    "chat.other_settings.rule": (
        "this file holds answers that were made in another way: {different}",
        "该文件中的答案是以其他方式生成的：{different}",
    ),
    "chat.other_settings.remedy": (
        "Name another file, or go on with the settings and the weights that it was begun with.",
        "请换一个文件，或使用最初的设置和权重。",
    ),
    "chat.other_rows.rule": (
        "this file holds answers to other rows: row {row} asks something else now",
        "该文件中的答案对应其他数据：第 {row} 行的问题已改变",
    ),
    "chat.other_rows.remedy": ("Name another file.", "请换一个文件。"),
    "chat.no_answers_file.rule": ("this file is there already and holds no answers", "该文件已存在，且不是答案文件"),
    "chat.no_answers_file.remedy": ("Name another file.", "请换一个文件。"),
    "chat.no_room.rule": (
        "prompt and answer together are longer than there is memory for",
        "提示与回答的总长度超出了可用内存",
    ),
    "chat.no_room.remedy": ("Give a smaller --max-tokens, or leave the row out.", "请减小 --max-tokens，或去掉该行。"),
    "chat.speed": ("{tokens} tokens, {speed:.1f} tokens/s", "{tokens} 个词元，{speed:.1f} 词元/秒"),
    "chat.saved": ("Saved {count} messages to {file}.", "已将 {count} 条消息存入 {file}。"),
    "chat.now": ("Now answering: {label}.", "现在由 {label} 回答。"),
    "chat.comparing": ("Comparing with {label}; /compare ends it.", "正在与 {label} 对比；/compare 结束对比。"),
    "chat.alone": ("No comparison any more.", "不再对比。"),
    "chat.set": ("{name} is {value} now.", "{name} 现为 {value}。"),
    "chat.nothing_to_retry.rule": ("nothing was asked yet", "还没有提过问题"),
    "chat.nothing_to_retry.remedy": ("Ask something first.", "请先提问。"),
    "chat.nothing_to_save.rule": ("there is no answer yet that could be saved", "还没有可保存的回答"),
    "chat.nothing_to_save.remedy": ("Ask something first.", "请先提问。"),
    "chat.file_wanted.rule": ("/save wants the name of a file", "/save 需要文件名"),
    "chat.file_wanted.remedy": ("For example: /save chat.jsonl", "例如：/save chat.jsonl"),
    "chat.not_saved.rule": ("the file cannot be written: {reason}", "无法写入该文件：{reason}"),
    "chat.not_saved.remedy": ("Name another file.", "请换一个文件。"),
    "chat.bad_setting.rule": ("this is no setting of sampling, or out of range", "这不是采样设置，或超出范围"),
    "chat.bad_setting.remedy": (
        "For example: /set temperature=0.7 (also max_tokens, top_p, top_k, min_p, repetition_penalty, seed), "
        '/set stop=END,### or /set stop=["\\n\\n"]',
        "例如：/set temperature=0.7（还有 max_tokens、top_p、top_k、min_p、repetition_penalty、seed）、"
        '/set stop=END,### 或 /set stop=["\\n\\n"]',
    ),
    "chat.bad_strength.rule": ("a strength lies between 0 and {most}", "强度必须在 0 到 {most} 之间"),
    "chat.bad_strength.remedy": ("0 is the base, 1 the adapter as trained.", "0 是基础模型，1 是训练所得的适配器。"),
    "chat.no_character.rule": (
        "there is no character of this name; there are: {there}",
        "没有这个名称的角色；已有：{there}",
    ),
    "chat.no_character.remedy": ("Name one of these.", "请使用上述名称之一。"),
    "chat.bad_characters.rule": ("this is no list of characters: {reason}", "这不是角色列表：{reason}"),
    "chat.bad_characters.remedy": (
        "Each has a name and a system prompt, and may have a greeting and sampling.",
        "每个角色都有 name 和 system，还可以有 greeting 和 sampling。",
    ),
    "chat.empty_stop.rule": ("an empty text would end every answer", "空文本会结束所有回答"),
    "chat.empty_stop.remedy": ("Give at least one character, or leave it out.", "请至少给出一个字符，或去掉它。"),
    "chat.stopped": ("(stopped; Ctrl-C again ends the chat)", "（已停止；再按一次 Ctrl-C 结束对话）"),
    "chat.no_template.rule": (
        "this model has no chat template, so nobody knows how a conversation should look to it",
        "该模型没有对话模板，无法得知对话应以什么形式呈现给它",
    ),
    "chat.no_template.remedy": (
        "luthier chat {model} --template chatml (or alpaca, or a Jinja file); in Python, "
        'open_session(..., template="chatml").',
        "luthier chat {model} --template chatml（或 alpaca、Jinja 文件）；在 Python 中用 "
        'open_session(..., template="chatml")。',
    ),
    "chat.template_of_run.rule": (
        "a run is talked to with the template that it was trained with, which lies beside its weights",
        "与运行结果对话时只能使用训练时的模板，它与权重保存在一起",
    ),
    "chat.template_of_run.remedy": (
        "Leave --template out. To train with another template, set data.template in the recipe.",
        "请去掉 --template。要用别的模板训练，请在配方中设置 data.template。",
    ),
    "chat.no_system.rule": (
        "this model was trained on raw text and continues it; there is no conversation to stand a system prompt before",
        "该模型是用原始文本训练的，只会续写；没有对话可以附加系统提示",
    ),
    "chat.no_system.remedy": (
        "Leave --system out, or write the instruction into the text that is continued.",
        "请去掉 --system，或把该指示直接写进要续写的文本里。",
    ),
    "chat.only_text.rule": (
        "this model was trained on raw text and has no chat template, so messages cannot be put to it",
        "该模型是用原始文本训练的，也没有对话模板，因此不能向它发送消息",
    ),
    "chat.only_text.remedy": ("Give the text that it is to continue.", "请直接给出要续写的文本。"),
    "chat.nothing_to_continue.rule": ("an empty text cannot be continued", "空文本无法续写"),
    "chat.nothing_to_continue.remedy": ("Give at least one character.", "请至少给出一个字符。"),
    "chat.not_a_conversation.rule": (
        "this is neither a question nor a conversation",
        "这既不是问题，也不是对话",
    ),
    "chat.not_a_conversation.remedy": (
        'Give a text, or a list of messages such as {{"role": "user", "content": "..."}}.',
        '请给出一段文本，或消息列表，如 {{"role": "user", "content": "..."}}。',
    ),
    "chat.not_several.rule": (
        "several conversations are answered at once here, so a list of them is wanted",
        "这里一次回答多个对话，因此需要一个列表",
    ),
    "chat.not_several.remedy": ("Put a single one into a list: [...].", "只有一个时也请放进列表：[...]。"),
    "chat.no_base.rule": (
        "this session was opened without the base model, because the run has weights of its own",
        "打开该会话时没有加载基础模型，因为这次运行有自己的完整权重",
    ),
    "chat.no_base.remedy": (
        "Open it with open_session(..., compare=True).",
        "请用 open_session(..., compare=True) 打开。",
    ),
    "chat.no_adapter.rule": (
        "there is no adapter here: neither a finished run with one nor a folder in PEFT's format",
        "这里没有适配器：既不是带有适配器的已完成运行，也不是 PEFT 格式的目录",
    ),
    "chat.no_adapter.remedy": (
        "Name a run that was tuned with LoRA, or a folder with adapter_config.json.",
        "请给出用 LoRA 微调的运行，或含有 adapter_config.json 的目录。",
    ),
    "chat.voice_taken.rule": ("an adapter of this name is loaded already", "已加载同名适配器"),
    "chat.voice_taken.remedy": ("Give it another name.", "请换一个名称。"),
    "chat.voice_stays.rule": (
        "these are the weights that were loaded first; only adapters can be taken off",
        "这是最先加载的权重；只能卸下适配器",
    ),
    "chat.voice_stays.remedy": ("Name an adapter.", "请给出适配器的名称。"),
    "chat.voice_no_adapter.rule": (
        "this is no adapter, so it has no strength to be set",
        "这不是适配器，因此没有可调的强度",
    ),
    "chat.voice_no_adapter.remedy": ("Name an adapter.", "请给出适配器的名称。"),
    "chat.no_voice.rule": ("nothing of this name is loaded; there are: {there}", "没有加载这个名称；已有：{there}"),
    "chat.no_voice.remedy": (
        "Name one of these, or load it with --adapter.",
        "请使用上述名称之一，或用 --adapter 加载。",
    ),
    "chat.other_base.rule": (
        "this adapter was trained on other weights ({other}) than those that are loaded ({base})",
        "该适配器是在另一组权重（{other}）上训练的，而加载的是 {base}",
    ),
    "chat.other_base.remedy": (
        "Open it by itself; adapters share a session only on one base.",
        "请单独打开它；只有同一基础模型上的适配器才能共用一个会话。",
    ),
    "chat.other_template.rule": (
        "this adapter was trained with a prompt that looks otherwise than that of {label}: {differ}",
        "该适配器训练时的提示形式与 {label} 不同：{differ}",
    ),
    "chat.other_template.remedy": (
        "Open it by itself, so that it is asked as it was trained.",
        "请单独打开它，以便按训练时的形式提问。",
    ),
    "chat.unknown.rule": ("there is no run or model of this name", "没有这个名称的运行或模型"),
    "chat.unknown.remedy": ("Did you mean {near}?", "是否想输入 {near}？"),
    "chat.new": ("A new conversation.", "新的对话。"),
}
