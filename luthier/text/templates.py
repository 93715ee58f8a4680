"""Messages of the area `templates`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    # ------------------------------------------------------------------------------------------ the tokenizer
    "templates.tokenizer_missing.rule": (
        "this folder holds no tokenizer",
        "该文件夹里没有分词器",
    ),
    "templates.tokenizer_missing.remedy": (
        "put tokenizer.json and tokenizer_config.json from the model's page beside the weights",
        "请把模型主页上的 tokenizer.json 和 tokenizer_config.json 放到权重旁边",
    ),
    "templates.tokenizer_unreadable.rule": (
        "the tokenizer cannot be read: {reason}",
        "无法读取分词器：{reason}",
    ),
    "templates.tokenizer_unreadable.remedy": (
        "download tokenizer.json and tokenizer_config.json again; tokenizers that need remote code are not run",
        "请重新下载 tokenizer.json 和 tokenizer_config.json；需要远程代码的分词器不会被执行",
    ),
    "templates.tokenizer_slow.rule": (
        "this tokenizer ({kind}) cannot say where its tokens stand in the text, so answers cannot be "
        "marked for training",
        "该分词器（{kind}）无法给出词元在文本中的位置，因此无法标出要训练的回答",
    ),
    "templates.tokenizer_slow.remedy": (
        "use a copy of the model that has a tokenizer.json",
        "请使用带有 tokenizer.json 的模型副本",
    ),
    # ------------------------------------------------------------------------------------------- the template
    "templates.none.rule": (
        "this model has no chat template, so nobody knows how a conversation should look to it",
        "该模型没有对话模板，无法得知对话应以什么形式呈现给它",
    ),
    "templates.none.remedy": (
        "set data.template to chatml, alpaca, or the path of a Jinja file; the choice is saved with the result",
        "请把 data.template 设为 chatml、alpaca 或某个 Jinja 文件的路径；所选模板会随结果一起保存",
    ),
    "templates.file_missing.rule": (
        "there is no such template: {reason}",
        "没有这个模板：{reason}",
    ),
    "templates.file_missing.remedy": (
        "choose model (the model's own), chatml, alpaca, or the path of a Jinja file",
        "可选：model（模型自带）、chatml、alpaca，或某个 Jinja 文件的路径",
    ),
    "templates.invalid.rule": (
        "the chat template is not valid Jinja: {reason}",
        "对话模板不是有效的 Jinja：{reason}",
    ),
    "templates.invalid.remedy": (
        "mend the template, or set data.template to chatml, alpaca or a Jinja file",
        "请修正模板，或把 data.template 设为 chatml、alpaca 或某个 Jinja 文件",
    ),
    "templates.refused.rule": (
        "the chat template refuses this conversation ({shape}): {reason}",
        "对话模板拒绝该对话（{shape}）：{reason}",
    ),
    "templates.refused.remedy": (
        "change the rows to what the template accepts, or set data.template to chatml or a Jinja file",
        "请把数据行改成模板接受的形式，或把 data.template 设为 chatml 或某个 Jinja 文件",
    ),
    "templates.no_place_for_tools.rule": (
        "the row brings tools, but the chat template has no place for them: the model would never see them",
        "该行带有工具，但对话模板没有放置工具的位置：模型将看不到它们",
    ),
    "templates.no_place_for_tools.remedy": (
        "set data.template to a Jinja file that writes `tools`, take the tools out of the rows, or accept it with "
        "data.accept_unread: [tools]",
        "请把 data.template 设为会写出 `tools` 的 Jinja 文件，从数据行中去掉工具，"
        "或用 data.accept_unread: [tools] 表示接受",
    ),
    "templates.unusable_character.rule": (
        "the text holds the character {code}, which stands for no character in Unicode",
        "文本中含有字符 {code}，它在 Unicode 中不代表任何字符",
    ),
    "templates.unusable_character.remedy": (
        "take the character out of the row",
        "请从该行中删除此字符",
    ),
    # -------------------------------------------------------------------------------------------- stop tokens
    "templates.no_stop.rule": (
        "the template {name} ends answers without a token that this tokenizer knows, so the model could not "
        "learn to stop",
        "模板 {name} 在回答结尾没有此分词器认识的词元，模型无法学会停止",
    ),
    "templates.no_stop.remedy": (
        "set data.stop_token to a token of the tokenizer, for instance {eos}",
        "请把 data.stop_token 设为分词器中的某个词元，例如 {eos}",
    ),
    "templates.token_known.rule": (
        "the tokenizer has this token already, so it is not added",
        "分词器已有该词元，因此不再添加",
    ),
    "templates.token_known.remedy": (
        "Take it from the list, or leave it: nothing depends on it.",
        "可以从列表中删去，也可保留，没有影响。",
    ),
    "templates.stop_unknown.rule": (
        "the stop token has to be one control token of this tokenizer",
        "停止词元必须是此分词器中的一个控制词元",
    ),
    "templates.stop_unknown.remedy": ("choose one of: {known}", "可选：{known}"),
    "templates.stop_not_used.rule": (
        "the chat template cannot be made to end answers with this token",
        "无法让该对话模板用此词元结束回答",
    ),
    "templates.stop_not_used.remedy": (
        "set data.template to chatml, or to a Jinja file that writes the token after each answer",
        "请把 data.template 设为 chatml，或设为在每个回答后写出该词元的 Jinja 文件",
    ),
    "templates.stop_untrained.rule": (
        "the token that ends an answer was never trained in this model ({reason}), and its row stays frozen: the model "
        "would not learn to stop",
        "结束回答的词元在该模型中从未训练过（{reason}），且其对应的行保持冻结：模型将学不会停止",
    ),
    "templates.stop_untrained.remedy": (
        "set data.stop_token to {eos}, or train the row: tune.modules_to_save: [embed_tokens, lm_head]",
        "请把 data.stop_token 设为 {eos}，或训练该行：tune.modules_to_save: [embed_tokens, lm_head]",
    ),
    "templates.same_row": ("its row equals that of {token!r}", "它的行与 {token!r} 的行相同"),
    "templates.odd_norm": (
        "its row is {ratio:.2g} times as long as the median row",
        "它的行长度是中位行长度的 {ratio:.2g} 倍",
    ),
    "templates.another_token": ("a token that the model knows", "模型认识的某个词元"),
    "templates.no_eos.rule": (
        "the tokenizer has no end-of-text token, so the end of a text cannot be marked",
        "分词器没有文本结束词元，无法标记文本的结尾",
    ),
    "templates.no_eos.remedy": (
        'add "eos_token" to the model\'s tokenizer_config.json',
        '请在模型的 tokenizer_config.json 中加入 "eos_token"',
    ),
    # ----------------------------------------------------------------------------------------------- the laws
    "templates.prompt_differs.rule": (
        "training would show the model another prompt than chat ({shape}): before answer {turn}, chat has {prompt!r} "
        "where training has {training!r}",
        "训练时的提示与聊天时不同（{shape}）：在第 {turn} 个回答之前，聊天时为 {prompt!r}，训练时为 {training!r}",
    ),
    "templates.prompt_differs.remedy": (
        "set data.template to chatml, or to a Jinja file that writes the same prompt in both",
        "请把 data.template 设为 chatml，或设为在两处写出相同提示的 Jinja 文件",
    ),
    "templates.rewrites_history.rule": (
        "the chat template changes an answer once it is given ({shape}): answer {turn} reads {alone!r} at the end of "
        "the conversation and {later!r} before another turn, and neither way it can be learnt",
        "回答给出之后，对话模板会改写它（{shape}）：第 {turn} 个回答在对话结尾处为 {alone!r}，"
        "后面还有内容时变为 {later!r}，两种形式都无法学习",
    ),
    "templates.rewrites_history.remedy": (
        "set data.template to chatml or to a Jinja file that ends each answer with a stop token",
        "请把 data.template 设为 chatml，或设为以停止词元结束每个回答的 Jinja 文件",
    ),
    "templates.field_unread.rule": (
        "the chat template leaves out this field of the rows, or a part of it ({shape}): the model would never see it",
        "对话模板遗漏了数据行中的该字段或其一部分（{shape}）：模型将看不到它",
    ),
    "templates.field_unread.remedy": (
        "set data.template to a Jinja file that writes it, take it out of the rows, or accept it with "
        "data.accept_unread: [{field}]",
        "请把 data.template 设为会写出该字段的 Jinja 文件，从数据行中去掉该字段，"
        "或用 data.accept_unread: [{field}] 表示接受",
    ),
    "templates.own_field_unread.rule": (
        "your own format brings this field, and the chat template leaves it out ({shape})",
        "自定义格式带有该字段，但对话模板没有写出它（{shape}）",
    ),
    "templates.own_field_unread.remedy": (
        "set data.template to a Jinja file that writes {field}, or leave it out of the messages that your function "
        "gives",
        "请把 data.template 设为会写出 {field} 的 Jinja 文件，或不要让自己的函数给出该字段",
    ),
    "templates.turn_without_stop.rule": (
        "the chat template writes no stop token after answer {turn} ({shape}), so the model could not learn to "
        "stop there",
        "对话模板在第 {turn} 个回答后没有写停止词元（{shape}），模型无法在那里学会停止",
    ),
    "templates.turn_without_stop.remedy": (
        "set method.train_on: last if only earlier answers are concerned, or data.template to chatml or a Jinja file "
        "that ends each answer with {stop}",
        "若只涉及较早的回答，请设 method.train_on: last；"
        "否则把 data.template 设为 chatml 或以 {stop} 结束每个回答的 Jinja 文件",
    ),
    "templates.prompt_law.rule": (
        "the prompt's tokens in chat are not the beginning of the training tokens ({shape}): they part at token {at}, "
        "{prompt!r} in chat and {training!r} in training",
        "聊天时提示的词元不是训练词元的开头（{shape}）："
        "从第 {at} 个词元起不同，聊天时为 {prompt!r}，训练时为 {training!r}",
    ),
    "templates.prompt_law.remedy": (
        "set data.template to chatml or to a Jinja file whose prompt ends with a control token or a line break",
        "请把 data.template 设为 chatml，或设为提示以控制词元或换行结尾的 Jinja 文件",
    ),
    "templates.double_bos.rule": (
        "the rendered conversation begins with two {bos} tokens ({shape})",
        "渲染后的对话以两个 {bos} 词元开头（{shape}）",
    ),
    "templates.double_bos.remedy": (
        "write the token once in the template; the tokenizer adds none to a conversation",
        "模板中只写一次该词元；分词器不会再为对话添加",
    ),
    "templates.generation_tags.rule": (
        "the template's own {{% generation %}} tags mark other words as the answer than rendering shows ({shape}): "
        "token {at}, {token!r}",
        "模板自身的 {{% generation %}} 标签所标记的回答与实际渲染不符（{shape}）：第 {at} 个词元 {token!r}",
    ),
    "templates.generation_tags.remedy": (
        "make the tags enclose the answer from its first character through its stop token, or remove them",
        "请让标签从回答的第一个字符一直包到停止词元，或去掉标签",
    ),
    # ------------------------------------------------------------------------------------------------- saving
    "templates.changed.rule": (
        "the tokenizer in this folder gives other tokens than it gave in training",
        "该文件夹中的分词器给出的词元与训练时不同",
    ),
    "templates.changed.remedy": (
        "put back the tokenizer files and the chat template that training saved, or use the transformers version named "
        "in the run's manifest",
        "请恢复训练时保存的分词器文件和对话模板，或使用该运行清单中记录的 transformers 版本",
    ),
}
