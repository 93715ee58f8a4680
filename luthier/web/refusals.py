"""How the page is told that something cannot be done.

What goes in: an exception. What comes out: a status and `{"problems": [...]}`, the shape of every refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.errors import LuthierError, Problem, RunError, TrainingFailed, UserError


class Missing(RunError):
    """What a request names is not there."""


class Busy(RunError):
    """What a request wants cannot be had while something else is the case."""


CONFLICTS = frozenset(
    {"runs.locked", "runs.finished", "runs.exists", "runs.not_running", "runs.changed", "runs.changed_length"}
    | {"runs.occupied", "queue.not_waiting"}
)
"""Problems that are no fault of the request itself."""
STATUSES = {**dict.fromkeys(CONFLICTS, 409), "web.upload_too_large": 413, "web.upload_no_room": 507}
"""Problem -> status; 422 for what is wrong with a request in any other way."""
Told = tuple[int, dict[str, Any]]


def told(problems: Sequence[Problem], status: int) -> Told:
    return status, {"problems": [each.to_json() for each in problems]}


def refusal(error: LuthierError) -> Told:
    """The status and the body for what Luthier raises on purpose."""
    if isinstance(error, Missing):
        return told(error.problems, 404)
    if isinstance(error, Busy):
        return told(error.problems, 409)
    if isinstance(error, UserError):
        statuses = (STATUSES[each.id] for each in error.problems if each.id in STATUSES)
        return told(error.problems, next(statuses, 422))
    assert isinstance(error, TrainingFailed), error
    return told([error.problem], 422)
