"""The process in which a reward is computed that may never end: the user's function, or a pattern.

What goes in: the reward's name as an argument, then one JSON line for each answer. What comes out: one JSON line each,
{"value": number} or {"error": text}. What the user's code prints goes to standard error.
`python -P -m luthier.scoring.worker NAME SECONDS`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.scoring import verifiers
from luthier.scoring.verifiers import Asked, Unjudged

LONGEST = 300
"""Characters of an error that are told."""


def own(name: str) -> Callable[[str, Asked], Any]:
    """The user's `module:function`, called with the answer and the row: {prompt, answer (the reference),
    columns...}."""
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    found = getattr(importlib.import_module(module), function)

    def judge(answer: str, asked: Asked) -> Any:
        return found(answer, {**asked.columns, "prompt": list(asked.prompt), "answer": asked.reference})

    return judge


def main(name: str, seconds: float) -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what is printed must not stand between the answers
    try:
        built_in = name.partition(":")[0] in verifiers.BUILT_IN
        judge = verifiers.make(name, seconds) if built_in else own(name)
    except BaseException as error:  # noqa: BLE001  whatever the user's module raises is told
        out.write(json.dumps({"error": _spelt(error)}) + "\n")
        return
    out.write(json.dumps({"value": None}) + "\n")
    out.flush()
    for line in sys.stdin:
        given = json.loads(line)
        asked = Asked(given["prompt"], given["reference"], given["columns"])
        out.write(json.dumps(_judged(judge, given["text"], asked)) + "\n")
        out.flush()


def _judged(judge: Callable[[str, Asked], Any], text: str, asked: Asked) -> dict[str, Any]:
    try:
        value = float(judge(text, asked))
    except Unjudged as error:
        return {"error": str(error), "unjudged": True}
    except Exception as error:  # noqa: BLE001  the user's code may raise anything
        return {"error": _spelt(error)}
    return {"value": value} if math.isfinite(value) else {"error": f"{value}"}


def _spelt(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST]


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
