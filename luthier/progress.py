"""What a person sees while a run is going: a bar in a terminal, plain lines elsewhere.

What goes in: the run's events, one by one, from this process or from following another's log. What comes out: text on
one stream. The time left is measured from this attempt's own steps, so it is right after a resume too. A thread of
its own does the writing: a closed terminal, a pipe that nobody reads or Ctrl-S in a terminal never hold up a run.
"""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from luthier.data.strict_json import shorten
from luthier.planner import in_words
from luthier.runs.events import FIRST_OF_ATTEMPT, Event
from luthier.runs.history import Pace
from luthier.runs.tables import count, decimal, duration, size
from luthier.text import say

REFRESHES_PER_SECOND = 4.0
"""Of the bar. Each costs about a millisecond of one core."""
LINE_SECONDS = 10.0
LINE_SHARE = 0.05
"""Plain lines come at most this often: a log of a long run stays readable, and a short run shows about twenty."""
CLOSE_SECONDS = 2.0
"""How long the end of a run waits for what is still to be written."""
NARROWEST_BAR = 10
ANSWER_WIDTH = 90
"""Characters of a sample's answer: a line of a terminal with what stands before it."""
PARTS = ("step", "loss", "left", "speed", "memory")
"""In order of importance: where a terminal is narrow, the last ones go first."""


class Progress:
    """Shows events on a stream; a context manager that leaves the stream clean.

    Args:
        stream: where to write; logs go to stderr where stdout carries JSON.
        terminal: whether it is one; a bar is drawn only there.
        colour: False where NO_COLOR asks for that.
        clock: seconds, for the rhythm of plain lines.
    """

    def __init__(
        self, stream: TextIO, *, terminal: bool, colour: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._painter = _Painter(stream, terminal, colour, clock)
        self._thread = threading.Thread(target=self._paint, name="progress", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Show one event; returns at once."""
        self._events.put(event)

    def close(self) -> None:
        """Wait until all is written (CLOSE_SECONDS at most) and take the bar down."""
        self._events.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _paint(self) -> None:
        try:
            while (event := self._events.get()) is not None:
                self._painter.show(event)
        finally:
            self._painter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Painter:
    """The writing part of `Progress`; lives in its thread."""

    def __init__(self, stream: TextIO, terminal: bool, colour: bool, clock: Callable[[], float]) -> None:
        file = cast(TextIO, _Unbreakable(stream))
        self._console = Console(
            file=file, force_terminal=terminal, no_color=not colour, highlight=False, soft_wrap=True
        )
        self._bar = _Bar() if terminal else None
        self._live: Live | None = None
        self._clock = clock
        self._pace = Pace()
        self._num_steps: int | None = None
        self._last_line: tuple[float, int] | None = None
        self._best: float | None = None

    def close(self) -> None:
        """Take the bar down, as it stands."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, event: Event) -> None:
        if event.kind in FIRST_OF_ATTEMPT:
            self._pace.restart()
            self._last_line = None
        if event.kind == "started":  # another stage's losses are no measure
            self._best = None
        if isinstance(event.data.get("num_steps"), int):
            self._num_steps = event.data["num_steps"]
        if event.kind == "step":
            self._show_step(event)
            return
        if event.kind in ("interrupted", "failed", "finished"):
            self.close()
        line = self._line(event)
        if line:
            self._console.print(Text(line, style=STYLES.get(event.kind, "")))

    # ------------------------------------------------------------------------------------------ steps

    def _show_step(self, event: Event) -> None:
        assert event.step is not None
        self._pace.add(event)
        left = self._pace.seconds_left(self._num_steps - event.step) if self._num_steps else None
        parts = self._parts(event)
        if self._bar is None:
            self._print_step(event.step, {**parts, "left": _left(left)})
            return
        self._bar.update(event.step, self._num_steps, parts, left)
        if self._live is None:
            # The process's own stdout and stderr stay as they are: other code may be exchanging them meanwhile.
            self._live = Live(
                self._bar,
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)

    def _print_step(self, step: int, parts: Mapping[str, str]) -> None:
        now = self._clock()
        if self._last_line is not None and step != self._num_steps:
            then, last = self._last_line
            share = (step - last) / self._num_steps if self._num_steps else 0.0
            if now - then < LINE_SECONDS and share < LINE_SHARE:
                return
        self._last_line = (now, step)
        self._console.print(Text("  ".join(parts[name] for name in PARTS if parts.get(name))))

    def _parts(self, event: Event) -> dict[str, str]:
        assert event.step is not None
        data = event.data
        rate, memory = data.get("tokens_per_s"), data.get("memory_bytes")
        return {
            "step": say("runs.progress.step", step=count(event.step), steps=count(self._num_steps)),
            "loss": say("runs.progress.loss", loss=decimal(data.get("loss"))),
            "speed": say("runs.progress.speed", rate=count(rate)) if rate else "",
            "memory": size(memory) if memory else "",
        }

    # ------------------------------------------------------------------------------------------ other events

    def _line(self, event: Event) -> str:
        """The line of an event that is no step; empty where there is nothing to say."""
        if event.kind == "validation":
            return self._validation(event)
        words = LINES.get(event.kind)
        return words(event) if words else ""

    def _validation(self, event: Event) -> str:
        loss = event.data.get("loss")
        best = loss is not None and bool(event.step) and (self._best is None or loss < self._best)
        if best:
            self._best = loss
        name = "runs.progress.validation_best" if best else "runs.progress.validation"
        return say(name, step=count(event.step), loss=decimal(loss))


def _left(seconds: float | None) -> str:
    return say("runs.progress.left", time=duration(seconds)) if seconds is not None else ""


def _data(event: Event) -> str:
    data = event.data
    excluded = data.get("excluded") or {}
    numbers = {name: count(data.get(name)) for name in ("kept", "train", "validation", "tokens")}
    return say("runs.progress.data", excluded=count(sum(excluded.values())), **numbers)


def _model(event: Event) -> str:
    """The structure in one screen, whose last line holds the counts; the counts alone where there is none."""
    data = event.data
    if data.get("structure"):
        return "\n".join(data["structure"])
    if not data.get("total"):
        return ""
    percent = f"{100 * data['trainable'] / data['total']:.3g}"
    numbers = {"trainable": count(data["trainable"]), "total": count(data["total"]), "percent": percent}
    return say("runs.progress.model", **numbers)


def _plan(event: Event) -> str:
    backend, memory = event.data.get("backend", {}), event.data.get("memory", {})
    if not backend or "peak_bytes" not in memory:
        return ""
    several = int(backend.get("devices", 1))
    device = backend.get("device")
    return say(
        "runs.progress.plan" if several == 1 else "runs.progress.plan_each",
        device=device if several == 1 else f"{several} x {device}",
        dtype=backend.get("dtype"),
        budget=count(event.data.get("budget_tokens")),
        activations=in_words(event.data.get("activations") or ["keep"]),
        memory=size(memory["peak_bytes"]),
    )


def _samples(event: Event) -> str:
    """A line of each answer; `luthier runs show` has all of it."""
    answers = (shorten(each["answer"], ANSWER_WIDTH) for each in event.data.get("samples") or ())
    return "\n".join(say("runs.progress.sample", step=count(event.step), answer=answer) for answer in answers)


def _fault(event: Event) -> str:
    rows = event.data.get("rows") or []
    shown = ", ".join(str(row) for row in rows[:5]) + (f" … ({len(rows)})" if len(rows) > 5 else "")
    return say("runs.progress.fault", step=count(event.step), what=event.data.get("what"), rows=shown)


def _revised(event: Event) -> str:
    changes = event.data.get("changes", ())
    lines = [say("runs.progress.revised", field=field, old=old, new=new) for field, old, new in changes]
    if event.data.get("reason") == "memory":
        lines.insert(0, say("runs.progress.memory", step=count(event.step), error=event.data.get("error")))
    return "\n".join(lines)


def _finished(event: Event) -> str:
    data = event.data
    seconds, tokens = data.get("seconds") or 0.0, data.get("tokens") or 0
    values = {"steps": count(data.get("steps")), "tokens": count(tokens), "time": duration(seconds)}
    line = say("runs.progress.finished", rate=count(tokens / seconds if seconds else None), **values)
    computed = data.get("computed_tokens") or tokens
    return f"{line}; {say('runs.shared', computed=count(computed))}" if computed < tokens else line


LINES: dict[str, Callable[[Event], str]] = {
    "data": _data,
    "model": _model,
    "plan": _plan,
    "resumed": lambda e: say("runs.progress.resumed", step=count(e.data.get("from_step")), attempt=e.attempt),
    "samples": _samples,
    "fault": _fault,
    "revised": _revised,
    "alarm": lambda e: say("runs.progress.alarm", step=count(e.step), text=e.data.get("text", "")),
    "note": lambda e: say("runs.progress.note", text=e.data.get("text", "")),
    "interrupted": lambda e: say("runs.progress.interrupted", step=count(e.step)),
    "failed": lambda e: say("runs.progress.failed", step=count(e.step)),
    "finished": _finished,
}
STYLES = {
    "samples": "dim",
    "fault": "yellow",
    "alarm": "yellow",
    "note": "dim",
    "revised": "yellow",
    "failed": "red",
    "finished": "green",
}


class _Bar:
    """One line: the bar takes the width that the numbers leave; numbers go, last ones first, where it gets narrow. The
    time left counts down between steps."""

    def __init__(self) -> None:
        self._state: tuple[int, int | None, Mapping[str, str], float | None] = (0, None, {}, None)

    def update(self, step: int, steps: int | None, parts: Mapping[str, str], left_s: float | None) -> None:
        """Args: left_s: seconds left from now on."""
        end_s = None if left_s is None else time.monotonic() + left_s
        self._state = (step, steps, parts, end_s)  # one assignment: the drawing thread sees all of it or nothing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        step, steps, parts, end_s = self._state
        parts = {**parts, "left": _left(None if end_s is None else max(end_s - time.monotonic(), 0.0))}
        shown = [name for name in PARTS if parts.get(name)]
        texts = {name: Text(parts[name], style=PART_STYLES[name], no_wrap=True, overflow="crop") for name in shown}
        while len(shown) > 1 and sum(texts[name].cell_len + 2 for name in shown) + NARROWEST_BAR > options.max_width:
            shown.pop()
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(ratio=1)
        for _ in shown:
            grid.add_column(no_wrap=True)
        bar = ProgressBar(total=steps or 1, completed=step, complete_style="cyan", finished_style="green")
        grid.add_row(bar, *(texts[name] for name in shown))
        yield grid


PART_STYLES = {"step": "bold", "loss": "cyan", "left": "", "speed": "dim", "memory": "dim"}


class _Unbreakable(io.TextIOBase):
    """A stream that goes silent instead of failing when what is behind it has gone away."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def _attempt(self, action: Callable[[TextIO], Any]) -> None:
        if self._stream is None:
            return
        try:
            action(self._stream)
        except UnicodeEncodeError:
            return  # a terminal without the characters: this piece is lost, not the stream
        except (OSError, ValueError):
            self._stream = None
