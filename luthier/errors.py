"""The exception tree.

What goes in: a message id with the values it speaks of. What comes out: an exception whose text a person can act on:
what is wrong, where, the rule it breaks and the remedy, in the reader's language (`luthier.text`).
Rank 0: imports nothing but the message tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from luthier.text import say


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing wrong with what the user gave.

    Attributes:
        id: message id, `area.name`; its rule and remedy stand in `luthier/text/<area>.py` as `id + ".rule"` and
            `id + ".remedy"`, in every language.
        where: the place, as precise as known: `recipe.yaml:4`, `data.jsonl:117`, `command line`, a folder.
        field: dotted name of the recipe's field, or of the column; empty where none applies.
        value: the offending value as the user wrote it, shortened; empty where none applies.
        values: what the message's placeholders are filled with.
    """

    id: str
    where: str = ""
    field: str = ""
    value: str = ""
    values: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def rule(self) -> str:
        return say(self.id + ".rule", **self.values)

    @property
    def remedy(self) -> str:
        return say(self.id + ".remedy", **self.values)

    def __str__(self) -> str:
        subject = f"{self.field} = {self.value}" if self.field and self.value else self.field or self.value
        head = ": ".join(part for part in (self.where, subject) if part)
        return "\n    ".join(line for line in (f"{head}: {self.rule}" if head else self.rule, self.remedy) if line)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "where": self.where,
            "field": self.field,
            "value": self.value,
            "rule": self.rule,
            "remedy": self.remedy,
        }


class LuthierError(Exception):
    """Base of all errors that Luthier raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(LuthierError):
    """The user's input cannot be used; carries every problem found, not just the first."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        assert self.problems, "a UserError needs at least one problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigError(UserError):
    """A recipe or an override is wrong."""


class DataError(UserError):
    """A data file or its rows are wrong."""


class ModelError(UserError):
    """A base model, tokenizer, template or adapter cannot be used."""


class RunError(UserError):
    """A run folder cannot be used as asked."""


class EngineFailed(RunError):
    """The program that was to answer for a server has ended, or never began to."""

    exit_code = 1


class TrainingFailed(LuthierError):
    """Training had to stop by itself; nothing that was saved is lost."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


class PeerLost(TrainingFailed):
    """Another process of the same run has ended, so this one cannot go on. Checkpoints are whole."""

    def __init__(self, reason: str) -> None:
        super().__init__(Problem("engine.peer_lost", values={"reason": reason}))


class Interrupted(LuthierError):
    """A signal ended the run after a full checkpoint."""

    def __init__(self, signal_number: int, checkpoint: str) -> None:
        self.exit_code = 128 + signal_number
        self.checkpoint = checkpoint
        super().__init__(say("engine.interrupted", checkpoint=checkpoint))
