"""Messages of the area `data`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    # ---- places and words
    "data.row": ("{at} (row {number})", "{at}（第 {number} 条）"),
    "data.turn": ("turn {number} ({role})", "第 {number} 轮（{role}）"),
    "data.type_null": ("null", "null"),
    "data.hint_column": (
        " If {old} is what is meant, rename it to {new}, or add to the source in the recipe:\n        {line}",
        "如果是指 {old}，请改名为 {new}，或在配方的数据源中加入：\n        {line}",
    ),
    "data.hint_roles": (
        " Or say in the recipe who is who, beside the file's path:\n        {line}",
        "或在配方中文件路径旁说明各角色：\n        {line}",
    ),
    "data.hint_lines": (
        "Add to the source in the recipe, beside the file's path:\n        {lines}\n    Or: ",
        "请在配方中文件路径旁加入：\n        {lines}\n    或者：",
    ),
    "data.hint_near": (" Did you mean {near}?", "是否是指 {near}？"),
    # ---- the file
    "data.no_file.rule": ("there is no such file; {near}", "文件不存在；{near}"),
    "data.no_file.remedy": (
        "Correct the path in data.train or data.validation.",
        "请更正 data.train 或 data.validation 中的路径。",
    ),
    "data.near_names": ("beside it are: {names}", "同一文件夹中有：{names}"),
    "data.names_there": ("{folder} has: {files}", "{folder} 中有：{files}"),
    "data.no_folder": (
        "its folder {folder} does not exist either (the nearest that does is {there})",
        "所在文件夹 {folder} 也不存在（最近的现有文件夹是 {there}）",
    ),
    "data.no_data_files": ("no data files", "没有数据文件"),
    "data.folder_empty.rule": (
        "there is no data file in this folder; files of other kinds: {names}",
        "此文件夹中没有数据文件；其他文件：{names}",
    ),
    "data.folder_empty.remedy": (
        "Files that are read end in: {endings}; .gz or .zst may follow.",
        "可读取的扩展名：{endings}；其后可加 .gz 或 .zst。",
    ),
    "data.glob_empty.rule": ("no file matches this pattern", "没有文件符合此模式"),
    "data.glob_empty.remedy": (
        "Correct the pattern: * stands for anything within a name, ** for any folders.",
        "请更正模式：* 代表名称中的任意内容，** 代表任意层文件夹。",
    ),
    "data.folder_read.rule": (
        "{files} files are read; {skipped} others are not: {names}",
        "读取 {files} 个文件；另有 {skipped} 个未读取：{names}",
    ),
    "data.folder_read.remedy": (
        "In a folder, hidden files, descriptions (README, LICENSE, dataset_info) and files of other kinds are left "
        "aside; name one by its path to read it.",
        "在文件夹中，隐藏文件、说明文件（README、LICENSE、dataset_info）和其他类型的文件不会读取；如需读取请写出其路径。",
    ),
    "data.hub_split.rule": ("is not the name of one split", "不是单个部分的名称"),
    "data.hub_split.remedy": (
        "Name one split, such as train; several splits are several sources.",
        "请写一个部分的名称，如 train；多个部分请写成多个数据源。",
    ),
    "data.hub_extra.rule": (
        "data sets of the hub need the package datasets, which is not installed",
        "读取数据集库需要 datasets 包，当前未安装",
    ),
    "data.hub_extra.remedy": (
        "Install it: .venv/bin/python -m pip install datasets. Or download the files and give their folder.",
        "请安装：.venv/bin/python -m pip install datasets。或下载文件后给出其文件夹。",
    ),
    "data.hub_refused.rule": ("the data set cannot be had: {reason}", "无法获取数据集：{reason}"),
    "data.hub_refused.remedy": (
        "Check name, subset, split and revision, your connection, and for private data sets HF_TOKEN; HF_ENDPOINT "
        "names a mirror.",
        "请检查名称、subset、split、revision 和网络；私有数据集需要 HF_TOKEN；HF_ENDPOINT 可指定镜像。",
    ),
    "data.hub_read.rule": (
        "{rows} rows of split {split} in {files} files, commit {commit}",
        "{split} 部分共 {rows} 条，{files} 个文件，提交 {commit}",
    ),
    "data.hub_read.remedy": (
        "revision: COMMIT beside the path keeps a later run on the same rows.",
        "在路径旁写 revision: 提交号，可使以后的运行使用相同数据。",
    ),
    "data.not_a_file.rule": (
        "this is no file but a folder, a pipe or a device, which cannot be read as one",
        "这不是普通文件，而是文件夹、管道或设备，无法作为文件读取",
    ),
    "data.not_a_file.remedy": ("Write its content to a file first.", "请先把内容写入文件。"),
    "data.unreadable.rule": ("the system does not let this file be read: {reason}", "系统不允许读取此文件：{reason}"),
    "data.unreadable.remedy": (
        "Check who owns the file and its folders and who may read them (ls -l).",
        "请检查文件及其所在文件夹的所有者和读取权限（ls -l）。",
    ),
    "data.empty_file.rule": ("the file is empty", "文件为空"),
    "data.empty_file.remedy": (
        "Write the rows again; the export may have failed.",
        "请重新导出数据；上次导出可能失败了。",
    ),
    "data.row_too_large.rule": (
        "the first row has more than {most} MiB; so much is not looked at here",
        "第一行超过 {most} MiB；此处不会查看这么大的内容",
    ),
    "data.row_too_large.remedy": (
        "`luthier data check` reads the whole file. A row of that size is most often a file without line breaks.",
        "`luthier data check` 会读取整个文件。这么大的一行通常说明文件中没有换行。",
    ),
    "data.no_rows.rule": ("the file holds no rows", "文件中没有任何数据行"),
    "data.no_rows.remedy": ("Add rows, or take the file out of the recipe.", "请补充数据，或从配方中去掉该文件。"),
    "data.packed.rule": ("this is a {kind} file, which is not read", "这是 {kind} 文件，无法读取"),
    "data.packed.remedy": (
        "Unpack it (or pack it with gzip or Zstandard); save an Excel workbook as CSV in UTF-8.",
        "请解压（或改用 gzip 或 Zstandard 压缩）；Excel 工作簿请另存为 UTF-8 编码的 CSV。",
    ),
    "data.utf16.rule": ("the text is UTF-16; UTF-8 is needed", "文本编码是 UTF-16，需要 UTF-8"),
    "data.utf16.remedy": (
        "Save it as UTF-8: iconv -f UTF-16 -t UTF-8 OLD > NEW.",
        "请另存为 UTF-8：iconv -f UTF-16 -t UTF-8 旧文件 > 新文件。",
    ),
    "data.ending.rule": ("files with this ending are not read", "不支持这种扩展名的文件"),
    "data.ending.remedy": (
        "Give the file the ending of what it holds: {endings}; .gz or .zst may follow.",
        "请按内容改用以下扩展名：{endings}；其后可加 .gz 或 .zst。",
    ),
    "data.damaged.rule": (
        "the file is damaged or cut short after row {read}: {reason}",
        "文件在第 {read} 条之后损坏或被截断：{reason}",
    ),
    "data.damaged.remedy": (
        "Copy or download it again; no row of it is used as it is.",
        "请重新复制或下载；当前文件中的数据不会被使用。",
    ),
    "data.changed.rule": ("the file was changed while it was read", "文件在读取过程中被修改"),
    "data.changed.remedy": ("Wait until it is complete, then start again.", "请等文件写完后再运行。"),
    "data.file_twice.rule": ("the file is given more than once", "同一个文件被列出多次"),
    "data.file_twice.remedy": (
        "Give it once; weight: 2 shows each of its rows twice per epoch.",
        "请只列出一次；weight: 2 会让每条数据在每轮中出现两次。",
    ),
    # ---- encodings and JSON
    "data.not_utf8.rule": (
        "the text is not UTF-8: byte {byte} of the file",
        "文本不是 UTF-8 编码：文件的第 {byte} 字节",
    ),
    "data.not_utf8.remedy": (
        'Save the file as UTF-8 (Excel: "CSV UTF-8"), or convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW for '
        "western European text, -f GB18030 for Chinese. Then look at a few words: a wrong guess gives other letters.",
        "请把文件另存为 UTF-8（Excel：“CSV UTF-8”），或转换编码：中文用 iconv -f GB18030 -t UTF-8 旧文件 > 新文件，西欧"
        "文字用 -f WINDOWS-1252。之后请检查几个词：编码猜错会变成别的字。",
    ),
    "data.json_syntax.rule": ("not valid JSON: {reason}", "不是合法的 JSON：{reason}"),
    "data.json_syntax.remedy": (
        "Mend the line at the place named; each line must hold one whole JSON value, with double quotes and without "
        "trailing commas.",
        "请修改所指位置；每行必须是一个完整的 JSON 值，使用双引号，末尾不能有多余逗号。",
    ),
    "data.json_array_broken.rule": (
        "the JSON list breaks off here, after {read} whole rows: {reason}",
        "JSON 列表在此处中断，之前有 {read} 条完整数据：{reason}",
    ),
    "data.json_array_broken.remedy": (
        "Mend this place (missing comma or bracket, single quotes, a file cut short); nothing after it can be read.",
        "请修改此处（缺少逗号或括号、单引号、文件被截断）；之后的内容无法读取。",
    ),
    "data.duplicate_key.rule": ("the key {key} occurs twice in one object", "同一对象中键 {key} 出现两次"),
    "data.duplicate_key.remedy": (
        "Keep the one that is meant; programs differ in which of the two they take.",
        "请只保留需要的一个；不同程序会取不同的值。",
    ),
    "data.not_finite.rule": ("{number} is not a number in JSON", "{number} 不是合法的 JSON 数字"),
    "data.not_finite.remedy": (
        "Write null, a finite number, or text in quotes.",
        "请改为 null、有限的数字或带引号的文本。",
    ),
    "data.too_deep.rule": ("nested more than {limit} levels deep", "嵌套超过 {limit} 层"),
    "data.too_deep.remedy": (
        "Flatten the row; real data needs about ten levels.",
        "请减少嵌套；真实数据一般不超过十层。",
    ),
    "data.half_pair.rule": (
        "the text holds half of a surrogate pair, which is no character",
        "文本含有不成对的代理字符，不是合法字符",
    ),
    "data.half_pair.remedy": (
        "Write the character again (often an emoji that was cut in two).",
        "请重新写入该字符（常见原因是表情符号被截断）。",
    ),
    "data.one_object.rule": (
        "the file holds one object spread over several lines; a list of rows is needed",
        "文件是一个跨多行的对象；需要由多条数据组成的列表",
    ),
    "data.one_object.remedy": (
        "Put the rows in [ ], or each in one line (jq -c . OLD > NEW.jsonl). An object around the list is read where "
        "the list is its last key ({wrappers}) and nothing but texts and numbers stands before it.",
        "请把数据放入 [ ]，或每条一行（jq -c . 旧文件 > 新文件.jsonl）。若列表是对象的最后一个键（{wrappers}），"
        "且之前只有文本和数字，则可直接读取。",
    ),
    "data.not_json.rule": ("the file is no JSON: it begins with {start}", "文件不是 JSON：开头是 {start}"),
    "data.not_json.remedy": (
        "JSON rows begin with [ or {{. Give the file the ending of what it holds (.csv, .txt).",
        "JSON 数据以 [ 或 {{ 开头。请按实际内容修改扩展名（.csv、.txt）。",
    ),
    # ---- tables
    "data.csv_syntax.rule": ("the quotes are not those of CSV: {reason}", "引号不符合 CSV 规则：{reason}"),
    "data.csv_syntax.remedy": (
        'A cell with quotes, commas or line breaks stands in "quotes", and a quote within it is doubled: "".',
        '含引号、逗号或换行的单元格要用 "引号" 括起，其中的引号写两次：""。',
    ),
    "data.csv_open_quote.rule": (
        "a quote that opens in this row is never closed",
        "从此行开始的引号没有闭合",
    ),
    "data.csv_open_quote.remedy": (
        'Close it, or double a quote that is meant as text: "". Nothing after it can be read.',
        '请闭合引号；若引号是文本内容，请写两次：""。之后的内容无法读取。',
    ),
    "data.csv_cells.rule": (
        "the row has {got} cells, the header has {wanted}: {columns}",
        "此行有 {got} 个单元格，表头有 {wanted} 个：{columns}",
    ),
    "data.csv_cells.remedy": (
        'Put cells that hold commas or line breaks in "quotes".',
        '含逗号或换行的单元格请用 "引号" 括起。',
    ),
    "data.column_twice.rule": ("two columns are named {column}", "有两列同名：{column}"),
    "data.column_twice.remedy": ("Rename or remove one of them.", "请改名或删除其中一列。"),
    "data.cell.rule": ("a cell cannot be read: {reason}", "单元格无法读取：{reason}"),
    "data.cell.remedy": ("Write the column as UTF-8 text.", "请把该列写为 UTF-8 文本。"),
    # ---- formats
    "data.why_given": ("as the recipe says", "由配方指定"),
    "data.why_whole": ("plain text; the file is one document", "纯文本；整个文件是一篇文档"),
    "data.why_blocks": ("plain text; blank lines separate the documents", "纯文本；文档之间以空行分隔"),
    "data.why_lines": ("plain text without blank lines; each line is a document", "没有空行的纯文本；每行是一篇文档"),
    "data.why_list": ("each row is a list of messages", "每条数据都是消息列表"),
    "data.why_keys": ("{count} of the first {rows} rows have: {keys}", "前 {rows} 条中有 {count} 条含有：{keys}"),
    "data.format_unknown.rule": (
        "the rows have the keys {keys}, which fit no format; nearest is {nearest}, missing: {missing}",
        "数据的键为 {keys}，不符合任何格式；最接近的是 {nearest}，缺少：{missing}",
    ),
    "data.format_unknown.remedy": (
        "{lines}rename the keys to those of a format ({formats}), or write your own: data.format: module:function.",
        "{lines}请按某种格式改键名（{formats}），或自己编写：data.format: 模块:函数。",
    ),
    "data.column_target.rule": ("is no name that a format reads", "不是任何格式所读取的名称"),
    "data.column_target.remedy": (
        "On the left stands the format's name, on the right the file's: {{instruction: question}}.{hint}",
        "左侧为格式中的名称，右侧为文件中的列名：{{instruction: question}}。{hint}",
    ),
    "data.column_absent.rule": ("is no column of the file; it has: {present}", "不是文件中的列；现有：{present}"),
    "data.column_absent.remedy": ("Correct the name.{hint}", "请更正列名。{hint}"),
    "data.role_target.rule": ("is no role", "不是角色"),
    "data.role_target.remedy": (
        "Use system, user, assistant or tool.{hint}",
        "请使用 system、user、assistant 或 tool。{hint}",
    ),
    "data.row_type.rule": ("the row is no object but {got}", "此条数据不是对象，而是 {got}"),
    "data.row_type.remedy": (
        'A row is an object with named fields, like {{"instruction": "...", "output": "..."}}.',
        '每条数据应为带字段名的对象，如 {{"instruction": "...", "output": "..."}}。',
    ),
    "data.missing_field.rule": ("is missing; the row has: {present}", "缺少此字段；现有字段：{present}"),
    "data.missing_field.remedy": ("Add it, or remove the row.{hint}", "请补充该字段，或删除此条。{hint}"),
    "data.null_field.rule": ("is null", "为 null"),
    "data.null_field.remedy": ("Write its text, or remove the row.", "请填写文本，或删除此条。"),
    "data.wrong_type.rule": ("is {got}, {wanted} is needed", "类型是 {got}，需要 {wanted}"),
    "data.wrong_type.remedy": ('Change it; text stands in quotes: "42".', '请修改；文本要加引号："42"。'),
    "data.json_field.rule": ("holds no usable JSON: {reason}", "内容不是可用的 JSON：{reason}"),
    "data.json_field.remedy": ("Write it as a JSON list or object.", "请写为 JSON 列表或对象。"),
    "data.history.rule": ("is no pair of two texts", "不是由两段文本组成的一对"),
    "data.history.remedy": (
        'history is a list of pairs: [["question", "answer"], ...].',
        'history 是成对文本的列表：[["问题", "回答"], ...]。',
    ),
    # ---- turns
    "data.unknown_role.rule": ("is no role that is known", "不是已知的角色"),
    "data.unknown_role.remedy": ("Use one of: {roles}.{hint}", "请使用：{roles}。{hint}"),
    "data.weights_twice.rule": ("says its weight more than once: {keys}", "权重写了多次：{keys}"),
    "data.weights_twice.remedy": ("Keep one of them.", "请只保留一个。"),
    "data.bad_weight.rule": ("is no weight", "不是合法的权重"),
    "data.bad_weight.remedy": (
        "A weight is a number from 0 up, or true/false; 0 leaves the turn out of the loss.",
        "权重应为不小于 0 的数，或 true/false；0 表示该轮不计入损失。",
    ),
    "data.weight_role.rule": (
        "asks to learn a turn of {role}; only the assistant's turns are learnt",
        "要求学习 {role} 的内容；只有 assistant 的内容会被学习",
    ),
    "data.weight_role.remedy": ("Set it to 0, or remove it.", "请设为 0 或删除。"),
    "data.part_kind.rule": ("is a kind of content that is not read", "是不支持的内容类型"),
    "data.part_kind.remedy": (
        "Kinds that are: {kinds}. Remove rows with images or sound.",
        "支持的类型：{kinds}。请删除含图像或声音的数据。",
    ),
    "data.part_order.rule": ("comes too late within its turn", "在该轮中的位置过晚"),
    "data.part_order.remedy": (
        "Templates render a turn as reasoning, then text, then tool calls; put the parts in this order, or split the "
        "turn.",
        "模板按推理、文本、工具调用的顺序渲染；请按此顺序排列，或拆成多轮。",
    ),
    "data.part_twice.rule": ("is given both as a part of the content and beside it", "既写在内容中，又写在内容之外"),
    "data.part_twice.remedy": ("Keep one of the two.", "请只保留一处。"),
    "data.calls_twice.rule": ("stands beside tool_calls", "与 tool_calls 同时出现"),
    "data.calls_twice.remedy": ("Keep one of the two.", "请只保留一处。"),
    "data.tool_call.rule": ("is no tool call", "不是工具调用"),
    "data.tool_call.remedy": (
        'A call is {{"name": "...", "arguments": {{...}}}}, or a list of such.',
        '调用的形式是 {{"name": "...", "arguments": {{...}}}} 或其列表。',
    ),
    "data.empty_conversation.rule": ("the conversation has no turns", "对话没有任何轮次"),
    "data.empty_conversation.remedy": ("Remove the row.", "请删除此条。"),
    "data.empty_question.rule": ("is empty: there is nothing to answer", "为空：没有可回答的内容"),
    "data.empty_question.remedy": ("Write the question, or remove the row.", "请填写问题，或删除此条。"),
    "data.empty_answer.rule": ("is empty: there is nothing to learn", "为空：没有可学习的内容"),
    "data.empty_answer.remedy": ("Write the answer, or remove the row.", "请填写回答，或删除此条。"),
    "data.empty_text.rule": ("is empty", "为空"),
    "data.empty_text.remedy": ("Remove the row.", "请删除此条。"),
    "data.no_answer.rule": (
        "the assistant never speaks: there is nothing to learn",
        "没有 assistant 的内容：没有可学习的内容",
    ),
    "data.no_answer.remedy": ("Add an answer, or remove the row.", "请补充回答，或删除此条。"),
    "data.nothing_to_learn.rule": ("every turn of the assistant has weight 0", "assistant 的每一轮权重都是 0"),
    "data.nothing_to_learn.remedy": (
        "Give one of them a weight, or remove the row.",
        "请至少给其中一轮设置权重，或删除此条。",
    ),
    "data.system_late.rule": (
        "a system prompt stands first in a conversation, not after other turns",
        "系统提示必须在对话开头，不能在其他轮次之后",
    ),
    "data.system_late.remedy": ("Move it to the front, or into the question.", "请移到开头，或并入问题。"),
    "data.system_twice.rule": ("stands beside the turns and among them", "既单独给出，又出现在对话中"),
    "data.system_twice.remedy": ("Keep one of the two.", "请只保留一处。"),
    "data.answer_first.rule": ("answers before anybody asked", "在提问之前就作答"),
    "data.answer_first.remedy": (
        "Put the question before it; a greeting can go into the system prompt.",
        "请在前面补充提问；问候语可放入系统提示。",
    ),
    "data.tool_first.rule": ("is a tool's result that no assistant asked for", "是工具结果，但之前没有 assistant 调用"),
    "data.tool_first.remedy": ("Put the call before it.", "请在前面补充调用。"),
    "data.same_role.rule": ("follows another turn of {role}", "紧跟在另一个 {role} 轮次之后"),
    "data.same_role.remedy": (
        "Join the two, or add the turn that is missing between them.",
        "请合并两轮，或补充中间缺少的一轮。",
    ),
    # ---- pairs, labels and prompts
    "data.prompt_differs.rule": (
        "is another prompt than the one that the conversations under {other} begin with",
        "与 {other} 中对话开头的提示不同",
    ),
    "data.prompt_differs.remedy": ("Correct it, or remove it.", "请更正或删除。"),
    "data.same_answers.rule": ("is the same as {other}: there is nothing to prefer", "与 {other} 相同：无从比较"),
    "data.same_answers.remedy": ("Write another answer, or remove the row.", "请改写其中一个回答，或删除此条。"),
    "data.no_shared_prompt.rule": (
        "and {other} share no beginning that both answer",
        "与 {other} 没有共同的、供两者作答的开头",
    ),
    "data.no_shared_prompt.remedy": (
        "Both must begin with the same turns, up to one of the assistant; or give the prompt under a key of its own.",
        "两段对话须以相同的轮次开头，直到 assistant 的一轮为止；或把提示单独写在一个键下。",
    ),
    "data.prompt_end.rule": (
        "ends the prompt, but nothing is asked in it",
        "位于提示末尾，但没有提出可回答的内容",
    ),
    "data.prompt_end.remedy": (
        "A prompt ends with a turn of the user or of a tool; the answers stand apart.",
        "提示应以 user 或 tool 的一轮结尾；回答另外给出。",
    ),
    "data.bad_choice.rule": ("is neither 0 nor 1", "既不是 0 也不是 1"),
    "data.bad_choice.remedy": (
        "Write 0 where response_0 is the better answer, 1 where response_1 is, or remove the row.",
        "response_0 较好时写 0，response_1 较好时写 1，或删除此条。",
    ),
    "data.bad_label.rule": ("is neither true nor false", "既不是 true 也不是 false"),
    "data.bad_label.remedy": (
        "Write true for an answer that is wanted, else false.",
        "期望的回答写 true，否则写 false。",
    ),
    # ---- the user's own format
    "data.answers_cut.rule": (
        "every answer was cut before it ended (finish: length)",
        "所有回答都在结束前被截断（finish: length）",
    ),
    "data.answers_cut.remedy": (
        "Generate again with a larger --max-tokens; or leave such rows out with data.bad_rows: drop.",
        "请用更大的 --max-tokens 重新生成；或用 data.bad_rows: drop 略去这些行。",
    ),
    "data.own_name.rule": ("is no module:function", "不是“模块:函数”的形式"),
    "data.own_name.remedy": (
        "Write the module without .py, with dots for folders: my_formats.tickets:to_chat.",
        "请写模块名（不含 .py，文件夹用点号）：my_formats.tickets:to_chat。",
    ),
    "data.own_module.rule": ("the module cannot be imported: {reason}", "无法导入模块：{reason}"),
    "data.own_module.remedy": (
        "It must lie in {folder} or be installed, and import without errors.",
        "模块须位于 {folder} 或已安装，且导入时不报错。",
    ),
    "data.own_function.rule": (
        "{module} has no such function; it has: {functions}",
        "{module} 中没有该函数；现有：{functions}",
    ),
    "data.own_function.remedy": ("Correct the name after the colon.", "请更正冒号后的名称。"),
    "data.own_signature.rule": (
        "the function cannot be called with one row: {reason}",
        "该函数不能以一条数据为参数调用：{reason}",
    ),
    "data.own_signature.remedy": ("Write it as def name(row): ...", "请写成 def 函数名(row): ..."),
    "data.own_no_source.rule": ("the module does not come from a file", "该模块不是来自文件"),
    "data.own_no_source.remedy": (
        "Put the function into a Python file, so that the manifest can name what was run.",
        "请把函数放入 Python 文件，以便清单记录运行的代码。",
    ),
    "data.own_raised.rule": ("raised {reason} ({line})", "抛出 {reason}（{line}）"),
    "data.own_raised.remedy": ("Mend the function, or the row.", "请修改函数或此条数据。"),
    "data.own_result.rule": ("gave {got}", "返回了 {got}"),
    "data.own_result.remedy": (
        'It must give a Chat, Text or Completion of luthier.data.formats, or a row like {{"messages": [...]}}.',
        '应返回 luthier.data.formats 中的样本（Chat、Text、Preference 等），或形如 {{"messages": [...]}} 的数据。',
    ),
    "data.not_plain.rule": (
        "tools or extra fields hold what JSON cannot: {reason}",
        "tools 或附加字段含有 JSON 无法表示的内容：{reason}",
    ),
    "data.not_plain.remedy": ("Use text, numbers, lists and objects only.", "请只使用文本、数字、列表和对象。"),
    # ---- whole files
    "data.more.rule": ("{rows} more rows: {kind}", "另有 {rows} 条：{kind}"),
    "data.more.remedy": ("", ""),
    "data.stopped.rule": (
        "{rows} of {read} rows cannot be used; nothing is trained and nothing is left out without your word",
        "{read} 条中有 {rows} 条无法使用；未经你同意不会训练，也不会丢弃数据",
    ),
    "data.stopped.remedy": (
        "Mend them, or leave them out with data.bad_rows=drop (each is listed in excluded.jsonl with its reason).",
        "请修正，或用 data.bad_rows=drop 排除（每条及原因都会写入 excluded.jsonl）。",
    ),
    "data.nothing_left.rule": ("no row can be used", "没有可用的数据"),
    "data.nothing_left.remedy": (
        "See what is wrong with each: luthier data check FILE.",
        "请查看每条的问题：luthier data check 文件。",
    ),
    "data.sft_on_text.rule": (
        "method sft learns answers, but {rows} rows are plain text without any (first: {places})",
        "sft 方法学习回答，但有 {rows} 条是没有回答的纯文本（最前：{places}）",
    ),
    "data.sft_on_text.remedy": (
        "Use method=pretrain for plain text, or bring the rows into questions and answers.",
        "纯文本请用 method=pretrain，或改写为问答。",
    ),
    "data.pretrain_on_chat.rule": (
        "method pretrain learns plain text, but {rows} rows are questions and answers (first: {places})",
        "pretrain 方法学习纯文本，但有 {rows} 条是问答（最前：{places}）",
    ),
    "data.pretrain_on_chat.remedy": (
        'Use method=sft, or bring the rows into the form {{"text": "..."}}.',
        '请用 method=sft，或改写为 {{"text": "..."}} 的形式。',
    ),
    "data.preference.rule": (
        "method {method} learns no comparisons, but {rows} rows (format {format}) each hold a better and a worse "
        "answer (first: {places})",
        "{method} 方法不学习答案对比，但有 {rows} 条（格式 {format}）各含一个较好和一个较差的回答（最前：{places}）",
    ),
    "data.preference.remedy": (
        "Learn from them with method=dpo (or ipo, simpo, orpo, cpo), or make a judge of them with method=reward.{hint}",
        "请用 method=dpo（或 ipo、simpo、orpo、cpo）学习它们，或用 method=reward 训练评判者。{hint}",
    ),
    "data.feedback.rule": (
        "method {method} learns no judgements, but {rows} rows (format {format}) are answers marked true or false, "
        "good and bad ones together (first: {places})",
        "{method} 方法不学习评价，但有 {rows} 条（格式 {format}）是标为 true 或 false 的回答，好坏混在一起（最前："
        "{places}）",
    ),
    "data.feedback.remedy": (
        "Learn from them with method=kto. To imitate the good "
        "answers, keep their rows alone and remove the label; a format that does not read it (data.format=messages for "
        "conversations) learns good and bad answers alike.",
        "请用 method=kto 学习它们。若要模仿好的回答，请只保留这些数据并删除标签；不读取标签的格式"
        "（如对话用 data.format=messages）会把好坏回答一并学习。",
    ),
    "data.prompt_only.rule": (
        "method {method} learns from given answers, but {rows} rows (format {format}) hold a prompt alone "
        "(first: {places})",
        "{method} 方法从已有回答中学习，但有 {rows} 条（格式 {format}）只有提示而没有要学习的回答（最前：{places}）",
    ),
    "data.prompt_only.remedy": (
        "They are for methods in which the model answers itself (method=grpo or ppo, with method.rewards); a prompt "
        "alone holds no answer to learn from.{hint}",
        "这类数据用于由模型自己作答的方法（method=grpo 或 ppo，并设置 method.rewards）；单独的提示中没有可学习的回答。"
        "{hint}",
    ),
    "data.not_judged.rule": (
        "method {method} learns from judged answers, but {rows} rows (format {format}) hold answers that nobody "
        "compared or marked (first: {places})",
        "{method} 方法从评判过的回答中学习，但有 {rows} 条（格式 {format}）的回答没有对比或标记（最前：{places}）",
    ),
    "data.not_judged.remedy": (
        "Use method=sft (pretrain for plain text), or give each row `chosen` and `rejected` answers (kto: a `label`).",
        "请用 method=sft（纯文本用 pretrain），或为每条提供 `chosen` 和 `rejected` 回答（kto：提供 `label`）。",
    ),
    "data.hint_imitate": (
        " To imitate the better answers (or the references), write data.train: {{path: FILE, {lines}}}.",
        "若要模仿较好的回答（或参考答案），请写 data.train: {{path: 文件, {lines}}}。",
    ),
    # ---- notes
    "data.for_method.rule": (
        "{rows} rows (format {format}) are learnt with method={methods}",
        "{rows} 条（格式 {format}）用 method={methods} 学习",
    ),
    "data.for_method.remedy": (
        "luthier train model=... data.train=FILE method={first}",
        "luthier train model=... data.train=文件 method={first}",
    ),
    "data.left_out.rule": (
        "{rows} of {read} rows are left out because they cannot be used",
        "{read} 条中有 {rows} 条因无法使用而被排除",
    ),
    "data.left_out.remedy": (
        "excluded.jsonl in the run's folder lists each with its reason.",
        "运行文件夹中的 excluded.jsonl 列出每条及原因。",
    ),
    "data.unfilled.rule": (
        "{rows} rows hold placeholders that nobody filled in: {words} (first: {places})",
        "{rows} 条含有未填写的占位符：{words}（最前：{places}）",
    ),
    "data.unfilled.remedy": (
        "Replace them in the file, or the model will learn to say them; data.allow_unfilled=true accepts them.",
        "请在文件中替换，否则模型会学着说出它们；data.allow_unfilled=true 表示接受。",
    ),
    "data.unanswered.rule": (
        "{rows} conversations do not end with the assistant (first: {places})",
        "{rows} 段对话不是以 assistant 结尾（最前：{places}）",
    ),
    "data.unanswered.remedy": (
        "The turns after its last answer teach nothing; remove them to save time.",
        "最后一次回答之后的轮次学不到任何内容；删除可节省时间。",
    ),
    "data.unread_keys.rule": (
        "keys that the format does not read are not used: {words} ({rows} rows)",
        "格式不读取以下键，不会使用：{words}（{rows} 条）",
    ),
    "data.unread_keys.remedy": (
        "Nothing need be done unless something to learn stands there.",
        "若其中没有需要学习的内容，则无需处理。",
    ),
    "data.duplicates.rule": (
        "{rows} of {all} rows repeat an earlier one exactly (first: {places})",
        "{all} 条中有 {rows} 条与前面的完全相同（最前：{places}）",
    ),
    "data.duplicates.remedy": (
        "Repeats weigh more than other rows; remove them unless that is meant.",
        "重复的数据权重更大；若非本意请删除。",
    ),
    "data.few_distinct.rule": (
        "ONLY {distinct} OF {all} ROWS ARE DIFFERENT: the data is a few rows repeated (first: {places})",
        "{all} 条中只有 {distinct} 条互不相同：数据只是少数几条的重复（最前：{places}）",
    ),
    "data.few_distinct.remedy": (
        "The model will learn these by heart and nothing else. Look at how the file was made.",
        "模型只会背下这几条。请检查文件的生成过程。",
    ),
    "data.leak.rule": (
        "{rows} rows for validation are also trained on (first: {places})",
        "{rows} 条验证数据也在训练数据中（最前：{places}）",
    ),
    "data.leak.remedy": (
        "Validation loss will look better than it is; remove them from one of the files.",
        "验证损失会偏低；请从其中一个文件中删除。",
    ),
    "data.too_few_to_hold_out.rule": (
        "no rows are held out for validation: {rows} rows are fewer than {least}",
        "不留出验证数据：{rows} 条少于 {least} 条",
    ),
    "data.too_few_to_hold_out.remedy": (
        "data.validation=0.1 holds some out all the same; without it, overfitting cannot be seen.",
        "data.validation=0.1 可强制留出；没有验证数据就看不出过拟合。",
    ),
    "data.nothing_held_out.rule": (
        "no rows can be held out for validation: {rows} were wanted, but rows that repeat stay together and no group "
        "of them is small enough",
        "无法留出验证数据：需要 {rows} 条，但重复的数据不能分开，且没有足够小的组",
    ),
    "data.nothing_held_out.remedy": (
        "Remove repeated rows, or name a file of your own in data.validation.",
        "请删除重复数据，或在 data.validation 中指定单独的文件。",
    ),
    "data.copies_held_out.rule": (
        "{copies} of the {rows} rows held out for validation are copies of others of them, kept out of training too",
        "留出的 {rows} 条验证数据中有 {copies} 条是其他验证数据的副本，同样不参与训练",
    ),
    "data.copies_held_out.remedy": (
        "Nothing need be done; a row in both would make validation look better than it is.",
        "无需处理；同一条若两边都有，验证结果会偏好。",
    ),
    "data.near_parted.rule": (
        "rows that are nearly the same stand on both sides of the split ({rows} rows are held out): their groups are "
        "so large that hardly any could be held out whole",
        "划分的两边有几乎相同的数据（留出 {rows} 条）：它们的组太大，几乎没有一组能整体留出",
    ),
    "data.near_parted.remedy": (
        "Validation will look better than it is; name a file of your own in data.validation.",
        "验证结果会偏好；请在 data.validation 中指定单独的文件。",
    ),
    "data.near_not_searched.rule": (
        "of more than {most:,} rows, the split keeps equal ones on one side, but not those that are nearly the same",
        "数据超过 {most:,} 条：划分时相同的数据在同一边，几乎相同的则未必",
    ),
    "data.near_not_searched.remedy": (
        "`luthier data check` looks for near duplicates in a sample; where there are many, name a file of your own in "
        "data.validation.",
        "`luthier data check` 会在抽样中查找近似重复；若很多，请在 data.validation 中指定单独的文件。",
    ),
    # ---- the report
    "data.line_file": (
        "{path}: {read} rows read = {kept} kept + {excluded} left out",
        "{path}：读取 {read} 条 = 保留 {kept} 条 + 排除 {excluded} 条",
    ),
    "data.line_format": ("format {format}: {why}", "格式 {format}：{why}"),
    "data.line_split": ("training {train} rows, validation {validation} rows", "训练 {train} 条，验证 {validation} 条"),
    # -------------------------------------------------------------------------------------------- rows shown marked
    "data.show_title": ("Rows as the model will see them", "模型所见的数据"),
    "data.show_row": ("{where}: {tokens} tokens, {learned} learnt", "{where}：{tokens} 个词元，学习其中 {learned} 个"),
    "data.show_part": ("sequence {number} of {of} of this row", "该行的第 {number} 个序列，共 {of} 个"),
    "data.show_learnt": ("learnt", "学习"),
    "data.show_stop": ("control token, learnt", "学习的控制词元"),
    "data.show_context": ("context", "上下文"),
    "data.show_special": ("control token", "控制词元"),
    "data.show_weight": ("weight of the loss, where it is not 1", "损失权重（不为 1 时）"),
    "data.show_brackets": (
        "{open}learnt{close}; everything else is context. {open}×0.5 learnt{close} with a weight of the loss other "
        "than 1. {token}control token{end}.",
        "{open}学习{close}，其余为上下文；{open}×0.5 学习{close} 表示损失权重不为 1。{token}控制词元{end}。",
    ),
    "data.show_fact_model": ("Model", "模型"),
    "data.show_fact_template": ("Template", "模板"),
    "data.show_fact_sequences": ("Sequences", "序列数"),
}
