"""Messages of the area `config`: id -> (English, Chinese)."""

from __future__ import annotations

from luthier.text.config_help import HELP, PRESETS, UNSET

MESSAGES: dict[str, tuple[str, str]] = {
    # ------------------------------------------------------------------------------------------------ places, values
    "config.where.recipe": ("recipe", "配方"),
    "config.where.overrides": ("overrides", "覆盖项"),
    "config.where.command_line": ("command line", "命令行"),
    "config.takes.switch": ("true | false", "true | false（真 | 假）"),
    "config.takes.whole": ("whole number", "整数"),
    "config.takes.number": ("number", "数字"),
    "config.takes.text": ("text", "文本"),
    "config.takes.nothing": ("null", "null（空）"),
    "config.takes.source": ("file", "文件"),
    # ------------------------------------------------------------------------------------------------ recipes, help
    "config.recipe.intro": (
        "A recipe for `luthier train`. Lines such as `#rank: 16` show a setting with its default: take the # away to "
        "change it. All others are explanations. `luthier train {file} --dry-run` shows what would run.",
        "供 `luthier train` 使用的配方。形如 `#rank: 16` 的行是带默认值的设置项：去掉 # 即可修改。其余注释均为说明。"
        "用 `luthier train {file} --dry-run` 查看实际将运行的内容。",
    ),
    "config.guide.takes": ("takes: {takes}", "可取：{takes}"),
    "config.guide.default": ("default: {default}", "默认：{default}"),
    "config.guide.required": ("must be given", "必须给出"),
    "config.guide.kinds": ("only with {section}.kind: {kinds}", "仅用于 {section}.kind：{kinds}"),
    "config.recipe_exists.rule": ("this file is already there, and is left as it is", "该文件已存在，未作改动"),
    "config.recipe_exists.remedy": ("Give another name.", "请换一个文件名。"),
    "config.unwritable.rule": ("the file cannot be written: {reason}", "无法写入该文件：{reason}"),
    "config.unwritable.remedy": (
        "Check that the folder is there, and that you may write to it.",
        "请确认目录存在，并且您有写入权限。",
    ),
    "config.unknown_field.rule": ("there is no such setting", "没有这个设置项"),
    "config.unknown_field.remedy": (
        "`luthier help` lists all of them. Nearest: {near}.",
        "用 `luthier help` 列出全部设置项。最接近的是：{near}。",
    ),
    # ------------------------------------------------------------------------------------------------ reading
    "config.no_recipe.rule": ("there is no such recipe", "找不到这个配方文件"),
    "config.no_recipe.remedy": (
        "`luthier init recipe.yaml` writes one with comments; `luthier train model=nano data.train=x.json` needs none.",
        "用 `luthier init recipe.yaml` 生成一份带注释的配方；或直接运行 `luthier train model=nano data.train=x.json`。",
    ),
    "config.no_recipe_near.rule": ("there is no such recipe", "找不到这个配方文件"),
    "config.no_recipe_near.remedy": ("Did you mean {near}?", "是不是 {near}？"),
    "config.unreadable.rule": ("the file cannot be read: {reason}", "无法读取该文件：{reason}"),
    "config.unreadable.remedy": (
        "Check that it is a file, and that you may read it.",
        "请确认它是一个文件，并且您有读取权限。",
    ),
    "config.not_utf8.rule": ("a recipe is text in UTF-8, and this line is not", "配方必须是 UTF-8 文本，而这一行不是"),
    "config.not_utf8.remedy": ("Save the file as UTF-8 in your editor.", "请在编辑器中将文件另存为 UTF-8 编码。"),
    "config.yaml_syntax.rule": ("this is not valid YAML: {reason}", "这不是有效的 YAML：{reason}"),
    "config.yaml_syntax.remedy": (
        "Write `name: value` with a space after the colon, indent with spaces (never tabs), and put text that holds "
        "`: ` or `#` in quotes.",
        "写成 `名称: 值`（冒号后留空格），用空格缩进（不要用制表符），含有 `: ` 或 `#` 的文本请加引号。",
    ),
    "config.yaml_alias.rule": (
        "a value that begins with * is an alias in YAML, and recipes have none",
        "YAML 中以 * 开头的值是别名，配方里不使用别名",
    ),
    "config.yaml_alias.remedy": ("Write the value out, or put it in quotes.", "请直接写出值，或给它加上引号。"),
    "config.yaml_tag.rule": ("tags such as !this mean nothing in a recipe", "配方中不使用 !标签"),
    "config.yaml_tag.remedy": ("Take the tag away, or put the value in quotes.", "请去掉标签，或给值加上引号。"),
    "config.yaml_key.rule": ("a name must be plain text", "名称必须是普通文本"),
    "config.yaml_key.remedy": ("Write `name: value`.", "请写成 `名称: 值`。"),
    "config.not_a_mapping.rule": ("a recipe is a list of `name: value` lines", "配方由若干行 `名称: 值` 组成"),
    "config.not_a_mapping.remedy": (
        "`luthier init recipe.yaml` writes one to start from.",
        "用 `luthier init recipe.yaml` 生成一份作为起点。",
    ),
    "config.duplicate_key.rule": ("this name is already given on line {line}", "该名称在第 {line} 行已经出现过"),
    "config.duplicate_key.remedy": ("Keep one of the two.", "请只保留其中一处。"),
    "config.override_form.rule": ("an override has the form section.name=value", "覆盖项的形式是 部分.名称=值"),
    "config.override_form.remedy": (
        "For example tune.rank=32. A recipe file comes first, before the overrides.",
        "例如 tune.rank=32。配方文件要写在最前面，覆盖项在其后。",
    ),
    "config.override_type.rule": (
        "an override is a text such as tune.rank=32, or an entry of a mapping",
        "覆盖项应是 tune.rank=32 这样的文本，或映射中的一项",
    ),
    "config.override_type.remedy": (
        'Give a list such as ["tune.rank=32"], or {{"tune.rank": 32}}.',
        '请给出列表（如 ["tune.rank=32"]）或 {{"tune.rank": 32}}。',
    ),
    "config.recipe_type.rule": (
        "a recipe is the path of a YAML file, a mapping of sections, or a RunConfig",
        "配方应是 YAML 文件的路径、由各部分组成的映射，或 RunConfig",
    ),
    "config.recipe_type.remedy": (
        'For example "recipe.yaml", or {{"model": "nano", "data": {{"train": "x.json"}}}}.',
        '例如 "recipe.yaml"，或 {{"model": "nano", "data": {{"train": "x.json"}}}}。',
    ),
    "config.no_parts.rule": ("there is nothing of this name inside {around}", "{around} 里没有这样的部分"),
    "config.no_parts.remedy": (
        "Set {around} itself, or one of the names that `luthier help` lists.",
        "请直接设置 {around}，或使用 `luthier help` 列出的名称。",
    ),
    # ------------------------------------------------------------------------------------------------ names
    "config.unknown_key_near.rule": ("there is no such setting", "没有这个设置项"),
    "config.unknown_key_near.remedy": (
        "Did you mean {near}? `luthier help {near}` explains it.",
        "是不是 {near}？用 `luthier help {near}` 查看说明。",
    ),
    "config.unknown_key.rule": ("there is no such setting", "没有这个设置项"),
    "config.unknown_key.remedy": ("Known here: {valid}.", "这里可用的有：{valid}。"),
    "config.other_kind.rule": (
        "{section} of kind {kind} has no {key}; it belongs to {kinds}",
        "类型为 {kind} 的 {section} 没有 {key}，它属于 {kinds}",
    ),
    "config.other_kind.remedy": (
        "Take it away, or choose {section}.kind={first}.",
        "请删去它，或选择 {section}.kind={first}。",
    ),
    "config.secret.rule": ("tokens and passwords never go into a recipe", "令牌和密码绝不能写进配方"),
    "config.secret.remedy": (
        "Take it away and set an environment variable instead (HF_TOKEN, WANDB_API_KEY), or log in with "
        "`hf auth login`.",
        "请删去它，改用环境变量（HF_TOKEN、WANDB_API_KEY），或运行 `hf auth login` 登录。",
    ),
    "config.missing.rule": ("this must be given", "必须给出此项"),
    "config.missing.remedy": (
        "Write it into the recipe, or add {name}=... to the command. `luthier help {plain}` explains it.",
        "请写进配方，或在命令后加上 {name}=...。用 `luthier help {plain}` 查看说明。",
    ),
    # ------------------------------------------------------------------------------------------------ values
    "config.whole_number.rule": ("this must be a whole number", "此处必须是整数"),
    "config.whole_number.remedy": (
        "For example 16. `luthier help {plain}` explains the setting.",
        "例如 16。用 `luthier help {plain}` 查看说明。",
    ),
    "config.number.rule": ("this must be a number", "此处必须是数字"),
    "config.number.remedy": (
        "For example 0.05 or 2e-4. `luthier help {plain}` explains the setting.",
        "例如 0.05 或 2e-4。用 `luthier help {plain}` 查看说明。",
    ),
    "config.switch.rule": ("this must be true or false", "此处必须是 true（真）或 false（假）"),
    "config.switch.remedy": (
        "`luthier help {plain}` explains the setting.",
        "用 `luthier help {plain}` 查看说明。",
    ),
    "config.not_a_switch.rule": ("true and false mean nothing here", "此处不能用 true 或 false"),
    "config.not_a_switch.remedy": ("{name} takes: {takes}.", "{name} 可取：{takes}。"),
    "config.text.rule": ("this must be text", "此处必须是文本"),
    "config.text.remedy": (
        "Put it in quotes. `luthier help {plain}` explains the setting.",
        "请加上引号。用 `luthier help {plain}` 查看说明。",
    ),
    "config.empty.rule": ("this must not be empty", "此处不能为空"),
    "config.empty.remedy": (
        "Give at least one value, or take the line away. `luthier help {plain}` explains the setting.",
        "请至少给出一个值，或删去这一行。用 `luthier help {plain}` 查看说明。",
    ),
    "config.pair.rule": ("this must be two numbers", "此处必须是两个数字"),
    "config.pair.remedy": ("For example [0.9, 0.999].", "例如 [0.9, 0.999]。"),
    "config.list.rule": ("this must be a list", "此处必须是列表"),
    "config.list.remedy": (
        "For example [a, b]. `luthier help {plain}` explains the setting.",
        "例如 [a, b]。用 `luthier help {plain}` 查看说明。",
    ),
    "config.mapping.rule": ("this must be a table of `name: value`", "此处必须是 `名称: 值` 的表"),
    "config.mapping.remedy": (
        "For example {{q_proj: 8}}. `luthier help {plain}` explains the setting.",
        "例如 {{q_proj: 8}}。用 `luthier help {plain}` 查看说明。",
    ),
    "config.section.rule": ("this is a group of settings", "这是一组设置"),
    "config.section.remedy": (
        "Write its settings below it, each indented on a line of its own. `luthier help {plain}` lists them.",
        "请把其中的设置逐行缩进写在下面。用 `luthier help {plain}` 列出它们。",
    ),
    "config.greater_than.rule": ("this must be more than {limit}", "此值必须大于 {limit}"),
    "config.greater_than.remedy": (
        "`luthier help {plain}` says what values are usual.",
        "用 `luthier help {plain}` 查看常用取值。",
    ),
    "config.at_least.rule": ("this must be at least {limit}", "此值至少为 {limit}"),
    "config.at_least.remedy": (
        "`luthier help {plain}` says what values are usual.",
        "用 `luthier help {plain}` 查看常用取值。",
    ),
    "config.less_than.rule": ("this must be less than {limit}", "此值必须小于 {limit}"),
    "config.less_than.remedy": (
        "`luthier help {plain}` says what values are usual.",
        "用 `luthier help {plain}` 查看常用取值。",
    ),
    "config.at_most.rule": ("this must be at most {limit}", "此值最多为 {limit}"),
    "config.at_most.remedy": (
        "`luthier help {plain}` says what values are usual.",
        "用 `luthier help {plain}` 查看常用取值。",
    ),
    "config.regex.rule": ("this is not a regular expression: {reason}", "这不是有效的正则表达式：{reason}"),
    "config.regex.remedy": (
        "A plain module name such as q_proj works as it is.",
        "直接写模块名（例如 q_proj）即可。",
    ),
    "config.module_name.rule": (
        "a module's name has letters, digits, dots, dashes and underscores only",
        "模块名只能包含字母、数字、点、短横线和下划线",
    ),
    "config.module_name.remedy": (
        "For example q_proj or self_attn.q_proj; several as [q_proj, v_proj].",
        "例如 q_proj 或 self_attn.q_proj；多个写成 [q_proj, v_proj]。",
    ),
    "config.choice.rule": ("this must be one of: {choices}", "此处必须是下列之一：{choices}"),
    "config.choice.remedy": (
        "`luthier help {name}` explains them.",
        "用 `luthier help {name}` 查看说明。",
    ),
    "config.choice_near.rule": ("this must be one of: {choices}", "此处必须是下列之一：{choices}"),
    "config.choice_near.remedy": (
        "Did you mean {near}? `luthier help {name}` explains them.",
        "是不是 {near}？用 `luthier help {name}` 查看说明。",
    ),
    "config.format_name.rule": (
        "this must be one of: {choices}, or a function of your own as module:function",
        "此处必须是下列之一：{choices}，或您自己的函数 模块:函数",
    ),
    "config.format_name.remedy": (
        "Leave it at auto to have the format found from the rows.",
        "保持 auto 即可根据数据自动识别格式。",
    ),
    "config.reward_name.rule": (
        "a reward is exact, numeric, json, json_fields, code, json_schema, json_schema:FILE, regex:PATTERN, or a "
        "function of your "
        "own "
        "as module:function",
        "奖励可为 exact、numeric、json、json_fields、code、json_schema、json_schema:文件、regex:模式，或您自己的函数 "
        "模块:函数",
    ),
    "config.reward_name.remedy": (
        "The guide docs/reinforcement.md says what each of them is worth.",
        "各奖励的含义见 docs/reinforcement.md。",
    ),
    "config.devices_value.rule": (
        "{name} is auto or a whole number from 1 on",
        "{name} 可以是 auto 或不小于 1 的整数",
    ),
    "config.devices_value.remedy": (
        "auto takes every GPU that is there; 2 takes two.",
        "auto 使用所有可用的 GPU；2 表示使用两个。",
    ),
    "config.validation_value.rule": (
        "{name} is auto, a share below 0.5, or files",
        "{name} 可以是 auto、小于 0.5 的比例，或文件",
    ),
    "config.validation_value.remedy": (
        "0.05 holds out 5 % of the rows, 0 none, and a file name takes that file.",
        "0.05 表示留出 5% 的数据，0 表示不留，文件名表示使用该文件。",
    ),
    "config.targets_value.rule": (
        "{name} is all-linear, or a list of module names",
        "{name} 可以是 all-linear，或模块名列表",
    ),
    "config.targets_value.remedy": ("For example [q_proj, v_proj].", "例如 [q_proj, v_proj]。"),
    "config.invalid.rule": ("this value cannot be used: {reason}", "无法使用此值：{reason}"),
    "config.invalid.remedy": (
        "`luthier help {plain}` explains the setting.",
        "用 `luthier help {plain}` 查看说明。",
    ),
    # ------------------------------------------------------------------------------------------------ rules
    "config.random_needs_full.rule": (
        "weights from scratch know nothing, so all of them must train; {kind} trains only a part",
        "从零开始的权重什么都不会，必须全部训练；{kind} 只训练一部分",
    ),
    "config.random_needs_full.remedy": (
        "Set tune=full, or take model.init=random away to start from trained weights.",
        "请设置 tune=full，或去掉 model.init=random 以使用训练好的权重。",
    ),
    "config.float16_on_cpu.rule": ("CPUs have no usable float16 arithmetic", "CPU 没有可用的 float16 运算"),
    "config.float16_on_cpu.remedy": (
        "Leave model.dtype at auto, or choose bfloat16 or float32.",
        "请保持 model.dtype 为 auto，或选择 bfloat16 或 float32。",
    ),
    "config.revision_of_folder.rule": (
        "a revision belongs to a model on a hub, and {path} is a local folder or ships with Luthier",
        "revision 只用于模型库中的模型，而 {path} 是本地目录或随 Luthier 提供",
    ),
    "config.revision_of_folder.remedy": ("Take model.revision away.", "请删去 model.revision。"),
    "config.sft_on_text.rule": (
        "{kind} learns answers, and plain text has none",
        "{kind} 学习的是回答，而纯文本中没有回答",
    ),
    "config.sft_on_text.remedy": (
        "Set method=pretrain to learn plain text, or give rows with questions and answers.",
        "要学习纯文本请设置 method=pretrain，否则请提供带问题和回答的数据。",
    ),
    "config.own_function.rule": ("is no module:function", "不是“模块:函数”的形式"),
    "config.own_function.remedy": (
        "Write the module without .py and the function behind a colon: my_losses:focal. docs/stages.md shows one.",
        "请写模块名（不含 .py）、冒号和函数名：my_losses:focal。示例见 docs/stages.md。",
    ),
    "config.own_loss_raised.rule": ("raised {reason} ({line})", "抛出 {reason}（{line}）"),
    "config.own_loss_raised.remedy": (
        "Mend the function; {kind} calls it with ({arguments}).",
        "请修改该函数；{kind} 以 ({arguments}) 调用它。",
    ),
    "config.own_loss_shape.rule": ("gave {got} where {want} is wanted", "返回了 {got}，应为 {want}"),
    "config.own_loss_shape.remedy": (
        "For sft and pretrain give the sum over tokens, a tensor of shape (); for others the loss of each pair or "
        "answer.",
        "sft 和 pretrain 应返回对词元求和的标量张量（形状为 ()）；其他方法应返回每对（或每个回答）的损失。",
    ),
    "config.own_loss_finite.rule": ("gave {value} for ordinary numbers", "对普通数值返回了 {value}"),
    "config.own_loss_finite.remedy": (
        "Look for a division by zero or the logarithm of a number that is not positive.",
        "请检查除以零，或对非正数取对数。",
    ),
    "config.own_loss_constant.rule": (
        "what it gives does not depend on the model's log-probabilities",
        "返回值与模型的对数概率无关",
    ),
    "config.own_loss_constant.remedy": (
        "Compute with torch on the tensors as they come: no detach, no item, no numpy.",
        "请直接用 torch 对传入的张量计算：不要 detach、item 或转成 numpy。",
    ),
    "config.own_loss_gradient.rule": (
        "its gradient is not that of its value: {reason}",
        "其梯度与函数值不符：{reason}",
    ),
    "config.own_loss_gradient.remedy": (
        "Do not detach parts that the value depends on; where that is meant, train on a value that says so.",
        "不要对参与取值的部分使用 detach；若确实需要，请改写成取值与梯度一致的形式。",
    ),
    "config.own_loss_split.rule": (
        "two examples together give {whole:g}, one by one {parts:g}: the result would depend on how a step is split",
        "两个样本一起得 {whole:g}，分开相加得 {parts:g}：结果会取决于一步如何拆分",
    ),
    "config.own_loss_split.remedy": (
        "Give sums, not means, and mix nothing across examples; Luthier divides by the weights of the whole step.",
        "请返回总和而非平均值，且不要跨样本混合；Luthier 会除以整步的权重之和。",
    ),
    "config.own_loss_filler.rule": (
        "tokens of weight 0 give {value:g}, and should give 0",
        "权重为 0 的词元得到 {value:g}，应为 0",
    ),
    "config.own_loss_filler.remedy": (
        "Multiply what each token gives by its weight.",
        "请将每个词元的值乘以其权重。",
    ),
    "config.distill_new_tokens.rule": (
        "the teacher has never seen new tokens, so it has nothing to say of them",
        "教师模型从未见过新增词元，无法对其给出概率",
    ),
    "config.distill_new_tokens.remedy": (
        "Take data.new_tokens away, or learn them in a stage of its own first (method sft).",
        "请删去 data.new_tokens，或先用单独的 sft 阶段学习它们。",
    ),
    "config.pretrain_on_chat.rule": (
        "pretrain learns plain text, and this format holds questions and answers",
        "pretrain 学习的是纯文本，而该格式包含问题和回答",
    ),
    "config.pretrain_on_chat.remedy": (
        "Set method=sft, or data.format=text for rows with a `text` field.",
        "请设置 method=sft；如果数据行带有 `text` 字段，请设置 data.format=text。",
    ),
    "config.pretrain_without_chat.rule": (
        "pretrain uses no chat template, so {fields} would have no effect",
        "pretrain 不使用对话模板，因此 {fields} 不会起作用",
    ),
    "config.pretrain_without_chat.remedy": (
        "Take {fields} away, or set method=sft.",
        "请删去 {fields}，或设置 method=sft。",
    ),
    "config.pretrain_chunks.rule": (
        "pretrain splits long text into pieces of data.max_tokens, so no row is ever too long",
        "pretrain 会把长文本切成 data.max_tokens 大小的片段，不存在过长的行",
    ),
    "config.pretrain_chunks.remedy": ("Take data.too_long away.", "请删去 data.too_long。"),
    "config.validation_share.rule": (
        "the share held out for validation must be at least 0 and below 0.5",
        "留作验证的比例必须不小于 0 且小于 0.5",
    ),
    "config.validation_share.remedy": (
        "0.05 holds out 5 %. For a number of rows of your choice, put them in a file and name it.",
        "0.05 表示留出 5%。若想自选若干行，请把它们放进一个文件并写出文件名。",
    ),
    "config.validation_in_train.rule": (
        "a file is used both to learn from and to check with, so the check would tell nothing",
        "同一个文件既用于训练又用于验证，这样的验证没有意义",
    ),
    "config.validation_in_train.remedy": (
        "Name another file, or a share such as data.validation=0.05.",
        "请换一个文件，或使用比例，例如 data.validation=0.05。",
    ),
    "config.source_of_hub.rule": (
        "has {fields}, which only a data set on the hub has",
        "设置了 {fields}，只适用于数据集库中的数据集",
    ),
    "config.source_of_hub.remedy": (
        "Remove them, or write the path as hub:organisation/name.",
        "请删除，或把路径写为 hub:组织/名称。",
    ),
    "config.validation_weight.rule": (
        "weights say how often rows are trained on; validation sees each row once",
        "weight 表示训练时每行出现的次数；验证时每行只看一次",
    ),
    "config.validation_weight.remedy": (
        "Take the weight away from data.validation.",
        "请从 data.validation 中删去 weight。",
    ),
    "config.nothing_to_validate.rule": (
        "data.validation is 0, so there is nothing to validate on",
        "data.validation 为 0，没有可用于验证的数据",
    ),
    "config.nothing_to_validate.remedy": (
        "Take run.validate_every away, or set data.validation=auto.",
        "请删去 run.validate_every，或设置 data.validation=auto。",
    ),
    "config.samples_of_nothing.rule": (
        "no rows are held out, so there is no validation at which the model could answer some",
        "没有留出的数据，因此没有可供模型回答的验证",
    ),
    "config.samples_of_nothing.remedy": (
        "Hold rows out (data.validation=0.05, or a file), or take run.samples away.",
        "请留出一些数据（data.validation=0.05，或指定一个文件），或删去 run.samples。",
    ),
    "config.samples_of_scores.rule": (
        "a reward model gives answers a number and writes none",
        "奖励模型只给回答打分，并不写回答",
    ),
    "config.samples_of_scores.remedy": ("Take run.samples away.", "请删去 run.samples。"),
    "config.sample_tokens_unused.rule": (
        "run.samples is 0, so nothing is answered at validations",
        "run.samples 为 0，验证时不会写任何回答",
    ),
    "config.sample_tokens_unused.remedy": (
        "Set run.samples too, for instance to 4, or take run.sample_tokens away.",
        "请同时设置 run.samples（例如 4），或删去 run.sample_tokens。",
    ),
    "config.sample_tokens_of_answers.rule": (
        "{method} shows the answers that it writes to held-out prompts anyway, and method.max_new_tokens bounds those",
        "{method} 展示的是它本来就会对留出的提示写出的回答，其长度由 method.max_new_tokens 限定",
    ),
    "config.sample_tokens_of_answers.remedy": ("Take run.sample_tokens away.", "请删去 run.sample_tokens。"),
    "config.stages_list.rule": ("stages is a list with a section for each stage", "stages 是一个列表，每个阶段一节"),
    "config.stages_list.remedy": (
        "Write `- name: sft` and, below it, what differs from the shared sections.",
        "请写 `- name: sft`，并在其下写出与公共部分不同的设置。",
    ),
    "config.stage_section.rule": ("a stage is a section of settings", "一个阶段是一节设置"),
    "config.stage_section.remedy": (
        "Write `- name: sft` and, below it, what differs from the shared sections.",
        "请写 `- name: sft`，并在其下写出与公共部分不同的设置。",
    ),
    "config.stage_name.rule": (
        "a stage has a name of letters, digits, _ and -",
        "阶段需要一个由字母、数字、_ 和 - 组成的名称",
    ),
    "config.stage_name.remedy": (
        "It becomes the end of the run's name: `name: sft`.",
        "它会成为运行名称的结尾：`name: sft`。",
    ),
    "config.stage_twice.rule": ("an earlier stage has this name", "前面已有同名阶段"),
    "config.stage_twice.remedy": ("Give each stage a name of its own.", "请给每个阶段不同的名称。"),
    "config.stage_run_twice.rule": (
        "the run of stage {other} has this name, in the same folder",
        "阶段 {other} 的运行在同一目录下已使用此名称",
    ),
    "config.stage_run_twice.remedy": (
        "Take run.name away from the stage: it is named after the recipe's run and the stage.",
        "请从该阶段删去 run.name：它会按配方的运行名称和阶段名称自动命名。",
    ),
    "config.stage_start.rule": ("a stage starts in one of these ways: {choices}", "阶段的开始方式只能是：{choices}"),
    "config.stage_start.remedy": (
        "continue trains on what the stage before made; merge puts its adapter into the base first; fresh starts from "
        "the recipe's model.",
        "continue 在前一阶段的结果上继续训练；merge 先把其适配器合并进基础模型；fresh 从配方的模型重新开始。",
    ),
    "config.stage_from.rule": (
        "start: {start} needs a stage that comes before; there are: {names}",
        "start: {start} 需要一个更早的阶段；已有：{names}",
    ),
    "config.stage_from.remedy": (
        "Name an earlier stage, or write `start: fresh`.",
        "请写更早阶段的名称，或写 `start: fresh`。",
    ),
    "config.stage_fresh.rule": (
        "a stage that starts fresh starts from no other",
        "start: fresh 的阶段不从其他阶段开始",
    ),
    "config.stage_fresh.remedy": (
        "Take `from` away, or write `start: continue` or `merge`.",
        "请删去 `from`，或写 `start: continue` 或 `merge`。",
    ),
    "config.stage_model.rule": (
        "{name} starts from what {came} made, so it has no model of its own to choose",
        "{name} 从 {came} 的结果开始，因此不能另选模型",
    ),
    "config.stage_model.remedy": (
        "Take `model` away, or write `start: fresh`.",
        "请删去 `model`，或写 `start: fresh`。",
    ),
    "config.stage_nothing_to_merge.rule": (
        "{came} tunes the weights themselves, so there is no adapter to merge",
        "{came} 调整的是权重本身，没有可合并的适配器",
    ),
    "config.stage_nothing_to_merge.remedy": (
        "Write `start: continue`: {name} then trains on the tuned model.",
        "请写 `start: continue`：{name} 会在调整后的模型上训练。",
    ),
    "config.stage_needs_merge.rule": (
        "{name} trains whole weights and cannot go on with the adapter of {came}",
        "{name} 训练全部权重，不能在 {came} 的适配器上继续",
    ),
    "config.stage_needs_merge.remedy": (
        "Write `start: merge`, or train an adapter (tune.kind lora).",
        "请写 `start: merge`，或改为训练适配器（tune.kind lora）。",
    ),
    "config.stage_unknown.rule": ("no stage has this name; there are: {names}", "没有这个阶段；已有：{names}"),
    "config.stage_unknown.remedy": (
        "Write stages.NAME.section.key=value; without `stages.NAME.` an override holds for all.",
        "请写 stages.名称.节.键=值；不带 `stages.名称.` 的覆盖项对所有阶段生效。",
    ),
    "config.stages_here.rule": (
        "this recipe has stages, and here one of them is meant: {names}",
        "该配方有多个阶段，这里需要指定其中一个：{names}",
    ),
    "config.stages_here.remedy": ("Add stage={first}, or another of them.", "请加上 stage={first}，或其他阶段。"),
    "config.from_settles_shape.rule": (
        "the adapter that tune.from names settles its own shape, so {fields} would have no effect",
        "tune.from 指定的适配器自带结构，因此 {fields} 不会起作用",
    ),
    "config.from_settles_shape.remedy": (
        "Take {fields} away, or take tune.from away to start a new adapter.",
        "请删去 {fields}，或删去 tune.from 以训练新的适配器。",
    ),
    "config.saved_and_adapted.rule": (
        "a module is either trained in full (modules_to_save) or by an adapter (targets)",
        "一个模块要么完整训练（modules_to_save），要么用适配器训练（targets）",
    ),
    "config.saved_and_adapted.remedy": (
        "Take it away from one of the two lists.",
        "请从其中一个列表里删去它。",
    ),
    "config.double_quant_of_int8.rule": (
        "double quantisation is of nf4's scales; int8 has one scale per row",
        "双重量化针对 nf4 的缩放系数；int8 每行只有一个",
    ),
    "config.double_quant_of_int8.remedy": (
        "Leave tune.double_quant out, or write tune.base: nf4.",
        "请去掉 tune.double_quant，或写 tune.base: nf4。",
    ),
    "config.new_tokens_and_saved.rule": (
        "new tokens get rows of their own, and {modules} would train every row",
        "新词元有自己的行，而 {modules} 会训练所有行",
    ),
    "config.new_tokens_and_saved.remedy": (
        "Take {modules} from tune.modules_to_save: the rows of new tokens train without it.",
        "请从 tune.modules_to_save 中删去 {modules}：新词元的行无需它也会训练。",
    ),
    "config.new_tokens_frozen.rule": (
        "freeze leaves the embedding as it is, so that rows of new tokens would never be learnt",
        "freeze 不改动嵌入层，新词元的行永远学不到",
    ),
    "config.new_tokens_frozen.remedy": (
        "tune=lora trains these rows beside the adapter; tune=full trains everything.",
        "tune=lora 会在适配器旁训练这些行；tune=full 会训练全部。",
    ),
    "config.steps_or_epochs.rule": (
        "the length of training is given twice, as epochs and as {steps} steps",
        "训练长度给了两次：轮数和 {steps} 步",
    ),
    "config.steps_or_epochs.remedy": (
        "Keep optim.epochs (passes over the data) or optim.steps (updates).",
        "请只保留 optim.epochs（遍历数据的次数）或 optim.steps（更新次数）之一。",
    ),
    "config.sgd_has_no_moments.rule": (
        "these are settings of adamw, so with sgd {fields} would have no effect",
        "这些是 adamw 的设置，使用 sgd 时 {fields} 不会起作用",
    ),
    "config.sgd_has_no_moments.remedy": (
        "Take {fields} away, or set optim.kind=adamw.",
        "请删去 {fields}，或设置 optim.kind=adamw。",
    ),
    "config.sgd_needs_rate.rule": (
        "the default learning rates are those of adamw; sgd needs one of its own",
        "默认学习率只适合 adamw；sgd 需要自己的学习率",
    ),
    "config.sgd_needs_rate.remedy": (
        "Set optim.lr; with sgd it is usually ten to a hundred times that of adamw.",
        "请设置 optim.lr；sgd 的学习率通常是 adamw 的十到一百倍。",
    ),
    "config.momentum_is_of_sgd.rule": (
        "momentum is a setting of sgd; adamw has betas instead",
        "momentum 是 sgd 的设置；adamw 使用 betas",
    ),
    "config.momentum_is_of_sgd.remedy": (
        "Take optim.momentum away, or set optim.kind=sgd.",
        "请删去 optim.momentum，或设置 optim.kind=sgd。",
    ),
    "config.compact_is_of_adamw.rule": (
        "only adamw keeps its numbers in fewer bytes or elsewhere, so with sgd {fields} would have no effect",
        "只有 adamw 能以更少的字节或在别处保存数值，使用 sgd 时 {fields} 不会起作用",
    ),
    "config.compact_is_of_adamw.remedy": (
        "Take {fields} away, or set optim.kind=adamw.",
        "请删去 {fields}，或设置 optim.kind=adamw。",
    ),
    "config.adapters_stay_float32.rule": (
        "an adapter's weights are few and stay float32; only weights of the model itself can be kept in bfloat16",
        "适配器的权重很少，保持 float32；只有模型自身的权重可以用 bfloat16 保存",
    ),
    "config.adapters_stay_float32.remedy": (
        "Take optim.weights away (optim.states=8bit works with adapters too), or set tune=full.",
        "请删去 optim.weights（optim.states=8bit 也适用于适配器），或设置 tune=full。",
    ),
    "config.bfloat16_computes_in_it.rule": (
        "weights kept in bfloat16 are computed with as they are, and model.dtype={dtype} asks for another arithmetic",
        "以 bfloat16 保存的权重直接用于计算，而 model.dtype={dtype} 要求另一种精度",
    ),
    "config.bfloat16_computes_in_it.remedy": (
        "Take model.dtype away or set it to bfloat16, or take optim.weights away.",
        "请删去 model.dtype 或将其设为 bfloat16，或删去 optim.weights。",
    ),
    "config.in_backward_of_adapters.rule": (
        "an adapter's gradients take next to no memory, so there is nothing to free early",
        "适配器的梯度几乎不占内存，没有可提前释放的部分",
    ),
    "config.in_backward_of_adapters.remedy": (
        "Take optim.in_backward away, or set tune=full or freeze.",
        "请删去 optim.in_backward，或设置 tune=full 或 freeze。",
    ),
    "config.in_backward_unclipped.rule": (
        "clipping (optim.clip={clip}) needs all gradients before any weight changes, and here each is used up at once",
        "梯度裁剪（optim.clip={clip}）需要在修改任何权重之前得到全部梯度，而这里每个梯度一到就被用掉",
    ),
    "config.in_backward_unclipped.remedy": (
        "Set optim.clip=0, or take optim.in_backward away.",
        "请设置 optim.clip=0，或删去 optim.in_backward。",
    ),
    "config.in_backward_unscaled.rule": (
        "in float16 a step that overflows is done again, and weights that have changed cannot be taken back",
        "float16 下溢出的步会重做，而已经修改的权重无法还原",
    ),
    "config.in_backward_unscaled.remedy": (
        "Set model.dtype=bfloat16 or float32, or take optim.in_backward away.",
        "请设置 model.dtype=bfloat16 或 float32，或删去 optim.in_backward。",
    ),
    "config.in_backward_alone.rule": (
        "with several devices a gradient is whole only once all of them are done, and here each is used up before",
        "使用多个设备时，要等所有设备都完成才能得到完整的梯度，而这里每个梯度在此之前就被用掉",
    ),
    "config.in_backward_alone.remedy": (
        "Set run.devices=1, or take optim.in_backward away.",
        "请设置 run.devices=1，或删去 optim.in_backward。",
    ),
    "config.devices_without_examples.rule": (
        "an update has {batch} examples (optim.batch), so more devices than that would have nothing to do",
        "一次更新有 {batch} 个样本（optim.batch），更多的设备将无事可做",
    ),
    "config.devices_without_examples.remedy": (
        "Set run.devices to {batch} or less, or raise optim.batch.",
        "请将 run.devices 设为不大于 {batch}，或增大 optim.batch。",
    ),
    "config.rewards_and_weights.rule": (
        "there are {rewards} rewards and {weights} weights",
        "奖励有 {rewards} 个，而权重有 {weights} 个",
    ),
    "config.rewards_and_weights.remedy": (
        "Give a weight for each reward, in their order, or none.",
        "请按顺序为每个奖励给出权重，或不给权重。",
    ),
    "config.answers_without_dropout.rule": (
        "{method} learns from what the model answers, and with dropout another model answers than the one that is "
        "trained",
        "{method} 从模型自己的回答中学习，而使用 dropout 时作答的模型与被训练的模型不同",
    ),
    "config.answers_without_dropout.remedy": ("Take tune.dropout away.", "请删去 tune.dropout。"),
    "config.answers_alone.rule": (
        "{method} runs on one device in this version",
        "本版本中 {method} 只能在一个设备上运行",
    ),
    "config.answers_alone.remedy": (
        "Set run.devices=1, or take it away; under a launcher such as torchrun, start one process.",
        "请设置 run.devices=1，或删去这一项；使用 torchrun 等启动器时请只启动一个进程。",
    ),
    "config.answers_are_split.rule": (
        "{method} splits what it learns from by the length of the answers, which nobody knows beforehand; "
        "optim.in_backward needs steps that are never split",
        "{method} 按回答长度拆分学习内容，而长度无法预知；optim.in_backward 要求每一步都不拆分",
    ),
    "config.answers_are_split.remedy": ("Take optim.in_backward away.", "请删去 optim.in_backward。"),
    "config.critic_of_its_own.rule": (
        "a critic of its own is an adapter beside the one that trains, and with tune.kind={kind} there is none",
        "独立的 critic 是与被训练适配器并列的另一个适配器，而 tune.kind={kind} 没有适配器",
    ),
    "config.critic_of_its_own.remedy": (
        "Set method.critic=shared, or tune an adapter.",
        "请设置 method.critic=shared，或训练适配器。",
    ),
    "config.kl_is_off.rule": (
        "with method.kl=0 nothing is measured against the model that training began with, so {fields} has no effect",
        "method.kl=0 时不与初始模型比较，因此 {fields} 不起作用",
    ),
    "config.kl_is_off.remedy": ("Take {fields} away, or set method.kl.", "请删去 {fields}，或设置 method.kl。"),
    "config.power_is_of_polynomial.rule": (
        "power is a setting of the polynomial schedule; {schedule} has none",
        "power 是 polynomial 调度的设置；{schedule} 没有这一项",
    ),
    "config.power_is_of_polynomial.remedy": (
        "Take optim.power away, or set optim.schedule=polynomial.",
        "请删去 optim.power，或设置 optim.schedule=polynomial。",
    ),
    "config.constant_has_no_floor.rule": (
        "a constant learning rate does not fall, so it has no lowest value",
        "固定的学习率不会下降，也就没有最低值",
    ),
    "config.constant_has_no_floor.remedy": (
        "Take optim.min_lr_ratio away, or choose another optim.schedule.",
        "请删去 optim.min_lr_ratio，或选择其他 optim.schedule。",
    ),
    "config.warmup_never_ends.rule": (
        "the warm-up is as long as the whole training of {steps} steps, so the full learning rate is never reached",
        "预热与整个训练（{steps} 步）一样长，永远达不到设定的学习率",
    ),
    "config.warmup_never_ends.remedy": (
        "Lower optim.warmup, for example to 0.03 (3 % of the steps).",
        "请减小 optim.warmup，例如 0.03（总步数的 3%）。",
    ),
    "config.smoothing_without_two_ways.rule": (
        "the loss {loss} has no form for pairs that may be the wrong way round",
        "损失 {loss} 没有用于可能标反的成对回答的形式",
    ),
    "config.smoothing_without_two_ways.remedy": (
        "Take method.label_smoothing away, or set method.loss=sigmoid (dpo also has robust).",
        "请删去 method.label_smoothing，或设置 method.loss=sigmoid（dpo 还有 robust）。",
    ),
    "config.robust_needs_share.rule": (
        "the robust loss needs to know which share of the pairs is the wrong way round",
        "robust 损失需要知道标反的成对回答所占的比例",
    ),
    "config.robust_needs_share.remedy": (
        "Set method.label_smoothing, for example to 0.1, or method.loss=sigmoid.",
        "请设置 method.label_smoothing，例如 0.1，或设置 method.loss=sigmoid。",
    ),
    "config.own_loss_has_no_options.rule": (
        "a loss of your own has no place for {fields}",
        "自定义损失用不到 {fields}",
    ),
    "config.own_loss_has_no_options.remedy": (
        "Take it away, and write the number into the function.",
        "请删去它，并把数值直接写进函数里。",
    ),
    "config.ipo_is_by_means.rule": (
        "ipo compares means over the tokens of an answer anyway",
        "ipo 本来就比较每个词元的平均值",
    ),
    "config.ipo_is_by_means.remedy": (
        "Take method.length_normalised away.",
        "请删去 method.length_normalised。",
    ),
    "config.budget_below_row.rule": (
        "one micro-batch must hold the longest row, which may have {max_tokens} tokens",
        "一个微批必须装得下最长的一行，而它可以有 {max_tokens} 个词元",
    ),
    "config.budget_below_row.remedy": (
        "Lower data.max_tokens, or take optim.budget_tokens away and let Luthier choose.",
        "请减小 data.max_tokens，或删去 optim.budget_tokens，让 Luthier 自行选择。",
    ),
}

TEXT: dict[str, tuple[str, str]] = {**MESSAGES, **HELP, **UNSET, **PRESETS}
