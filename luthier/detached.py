"""The process of a run that the queue started: trains it, and says in its event log what ended it.

What goes in: the run's folder, as the only argument. What comes out: a trained run, of a stage with what that is made
of; lines for people on stderr, which
is the run's `log`; where something cannot be used before the run has begun, an event that says what, because nobody
sits before a terminal.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from luthier import staged
from luthier.config.load import environment
from luthier.errors import LuthierError, RunError
from luthier.outcome import OK, Outcome, outcome_of
from luthier.progress import Progress
from luthier.runs.events import ENDS
from luthier.runs.store import RunFolder
from luthier.text import set_language
from luthier.training import look, resume


def main(path: str) -> int:
    """The exit code, as of `luthier train`."""
    set_language(environment().language)
    run = RunFolder(Path(path))
    before = len(run.events())
    try:
        if not run.has_begun:
            staged.look_ahead(run, look)
        staged.make_ready(run)
        if not run.has("queued"):  # withdrawn meanwhile
            return OK
        with Progress(sys.stderr, terminal=False, colour=False) as listen:
            resume(path, on_event=listen)
    except LuthierError as error:
        found = outcome_of(error)
        print("\n".join(found.lines), file=sys.stderr, flush=True)
        _tell(run, before, found)
        return found.code
    except Exception as error:  # one that nobody foresaw: the traceback goes into the log
        _tell(run, before, outcome_of(error))
        raise
    return OK


def _tell(run: RunFolder, before: int, found: Outcome) -> None:
    """Into the event log, unless this attempt has said there how it ended, or the run is somebody else's now."""
    if run.locked or any(event.kind in ENDS for event in run.events()[before:]):
        return
    with contextlib.suppress(RunError), RunFolder.open(run.path, write=True) as writer:
        writer.emit("failed", {"problem": found.value["error"]["problems"][0]}, step=writer.summary().step)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
