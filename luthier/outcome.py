"""What a command comes to: values for programs, lines for people, an exit code; for faults too.

What goes in: a command's findings, or the exception that ended it. What comes out: one JSON object on stdout, or lines
there and problems on stderr. Knows no command and no library of the command line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from luthier.config.load import Environment
from luthier.errors import Interrupted, LuthierError, Problem, TrainingFailed, UserError
from luthier.runs.files import plain

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Shell:
    """How this call wants its output. logs: where progress and problems go."""

    json: bool
    debug: bool
    environment: Environment
    logs: TextIO

    @property
    def colour(self) -> bool:
        """Whether stdout shows colours."""
        return not self.json and sys.stdout.isatty() and not self.environment.no_color


@dataclass(frozen=True)
class Outcome:
    """What a command found: value for programs, lines for people, the exit code; lines of problems go to stderr."""

    value: Any
    lines: Sequence[str]
    code: int = OK
    is_problem: bool = False


def show(shell: Shell, outcome: Outcome) -> int:
    """Print an outcome, in the one way or the other; of several processes of one command, the first one does."""
    if shell.environment.rank:
        return outcome.code
    if shell.json:
        print(json.dumps(plain(outcome.value), ensure_ascii=False, allow_nan=False))
    elif outcome.lines:
        print("\n".join(outcome.lines), file=shell.logs if outcome.is_problem else sys.stdout)
    sys.stdout.flush()
    return outcome.code


def errors(problems: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"error": {"problems": list(problems)}}


def failed(problems: Sequence[Problem], code: int) -> Outcome:
    lines = [str(each) for each in problems]
    return Outcome(errors([each.to_json() for each in problems]), lines, code, is_problem=True)


def interruption(error: Interrupted) -> dict[str, Any]:
    """An interruption is no problem of the user's, but programs find it in the same place."""
    shape = {"field": "", "value": "", "remedy": ""}
    return {"id": "engine.interrupted", "where": error.checkpoint, "rule": str(error), **shape}


def outcome_of(error: BaseException) -> Outcome:
    """What an exception comes to; one that nobody foresaw is kept in a file."""
    match error:
        case UserError():
            return failed(error.problems, error.exit_code)
        case TrainingFailed():
            return failed([error.problem], error.exit_code)
        case Interrupted():
            return Outcome(errors([interruption(error)]), [str(error)], error.exit_code, is_problem=True)
    code = error.exit_code if isinstance(error, LuthierError) else FAILED
    return failed([Problem("shell.unexpected", values={"reason": summary(error), "file": keep(error)})], code)


def summary(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def keep(error: BaseException) -> str:
    """Write the traceback to a file, because a fault after hours cannot be had again at will; returns its name."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="luthier-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write(text)
            return file.name
    except OSError:
        return "--debug"
