"""Everything Luthier says to people, in English and Chinese.

Each area has a file with one literal table `TEXT: dict[id, (english, chinese)]`. `say(id, **values)` picks the language
and fills the placeholders (`str.format`). The language is chosen once by the command line from `LANG`
(`luthier.config.load.environment`); until then it is English. What answers several people at once chooses it for each
of them (`speaking`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from luthier.text import (
    chat,
    config,
    data,
    demo,
    doctor,
    engine,
    export,
    findings,
    gguf,
    hub,
    importing,
    judged,
    models,
    ollama,
    plan,
    quants,
    queue,
    rewards,
    runs,
    serve,
    shell,
    templates,
    tokens,
    web,
)

Language = Literal["en", "zh"]

TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "chat": chat.TEXT,
    "config": config.TEXT,
    "data": data.TEXT,
    "demo": demo.TEXT,
    "doctor": doctor.TEXT,
    "engine": engine.TEXT,
    "export": export.TEXT,
    "findings": findings.TEXT,
    "gguf": gguf.TEXT,
    "hub": hub.TEXT,
    "importing": importing.TEXT,
    "judged": judged.TEXT,
    "models": models.TEXT,
    "ollama": ollama.TEXT,
    "plan": plan.TEXT,
    "quants": quants.TEXT,
    "queue": queue.TEXT,
    "rewards": rewards.TEXT,
    "runs": runs.TEXT,
    "serve": serve.TEXT,
    "shell": shell.TEXT,
    "templates": templates.TEXT,
    "tokens": tokens.TEXT,
    "web": web.TEXT,
}

_language: Language = "en"
_here: ContextVar[Language | None] = ContextVar("language", default=None)


def set_language(language: Language) -> None:
    """Choose the language of all later messages of this process."""
    global _language
    _language = language


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Choose the language of what is said in this block, and in the tasks that it starts, alone."""
    token = _here.set(language)
    try:
        yield
    finally:
        _here.reset(token)


def language() -> Language:
    return _here.get() or _language


def say(message: str, /, **values: Any) -> str:
    """The text of a message id (`area.name`) in the chosen language, placeholders filled.

    Raises:
        KeyError: the id is in no table (a fault of ours: the tests hold every id used in the code against the tables).
    """
    english, chinese = TABLES[message.split(".", 1)[0]][message]
    return (chinese if language() == "zh" else english).format(**values)
