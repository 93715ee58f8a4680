"""What a name that is not known most likely means.

What goes in: names of columns and roles as people have them. What comes out: the name that Luthier knows, or nothing,
and the line of a recipe that says so. Guesses are only ever shown, never acted upon.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from luthier.config.tree import show_flow

SAME_MEANING: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "instruction question prompt query problem input ask asked task request user human 问题 指令 提问 "
        "frage anweisung eingabe consigne entrée pregunta instrucción pergunta вопрос запрос 質問 指示 질문",
        "output answer completion response reply say said target solution label_text assistant bot 回答 答案 输出 "
        "antwort ausgabe réponse sortie respuesta salida resposta ответ 出力 応答 답변",
        "text content body document article passage story raw_text 正文 内容 文本 texte texto текст 本文",
        "messages conversations conversation dialogue dialog turns chat chats history thread 对话",
        "chosen chosen_response better preferred good accepted winner win positive response_a",
        "rejected rejected_response worse dispreferred bad declined loser lose negative response_b",
        "system system_prompt sys context_prompt 系统",
        "label kto_tag is_good liked thumbs_up desirable",
        "role from speaker author sender who name_of_speaker 角色",
        "content value text message utterance body said 内容",
    )
)
"""Names that stand for one another in data sets; the last two lines are those of a turn."""

ROLE_WORDS: dict[str, str] = {
    name: role
    for role, names in {
        "user": "prompter customer client question asker patient student person me q usr speaker1 用户 客户 人类",
        "assistant": "ai agent llm answer answerer doctor teacher chatbot helper expert gpt4 claude a speaker2 助手",
        "system": "sys instruction context 系统",
        "tool": "tools function_response function_result tool_response tool_result result api 工具",
    }.items()
    for name in names.split()
}
"""Role names that are not read by themselves -> what they most likely are."""


def column(target: str, keys: Iterable[str]) -> str:
    """The key that most likely holds what `target` names; empty where none does."""
    by_lower, target = {key.lower(): key for key in keys}, target.lower()
    if target in by_lower:
        return by_lower[target]
    near = difflib.get_close_matches(target, by_lower, n=1, cutoff=0.75)
    if near:
        return by_lower[near[0]]
    same = [group for group in SAME_MEANING if target in group]
    return next((key for lower, key in by_lower.items() if any(lower in group for group in same)), "")


def columns(targets: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """Target -> key for each of the targets; empty where one of them cannot be told."""
    left, found = list(keys), {}
    for target in targets:
        key = column(target, left)
        if not key:
            return {}
        left.remove(key)
        found[target] = key
    return found


def role(name: str, known: Mapping[str, str]) -> str:
    """The role that a name most likely means, `known` being those that are read; empty where it cannot be told."""
    lower = name.strip().lower()
    if lower in known:
        return known[lower]
    if lower in ROLE_WORDS:
        return ROLE_WORDS[lower]
    near = difflib.get_close_matches(lower, [*known, *ROLE_WORDS], n=1, cutoff=0.75)
    return (known.get(near[0]) or ROLE_WORDS[near[0]]) if near else ""


def line(field: str, names: Mapping[str, str]) -> str:
    """`columns: {question: Frage}`, as a recipe has it."""
    return f"{field}: {{{', '.join(show_flow({name: meaning})[1:-1] for name, meaning in names.items())}}}"
