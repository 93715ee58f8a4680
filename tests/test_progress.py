"""What is shown while a run is going: the right time left, few lines, and never anything that holds up the run."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterable
from typing import Any, TextIO

import pytest
from rich.console import Console

import luthier.progress
from luthier.progress import LINE_SECONDS, Progress, _Bar
from luthier.runs.events import Event
from luthier.runs.history import WINDOW_STEPS, Pace
from luthier.text import set_language


def event(kind: str, step: int | None = None, at: float = 0.0, attempt: int = 1, **data: Any) -> Event:
    return Event("x", 1, attempt, at, step, kind, data)


def step(number: int, at: float = 0.0, **data: Any) -> Event:
    given = {"loss": 1.23456, "tokens": 1_000, "tokens_per_s": 250.0, "memory_bytes": 1_900_000_000, "num_steps": 100}
    return event("step", number, at, **{**given, **data})


def shown(events: Iterable[Event], stream: TextIO | None = None, **options: Any) -> str:
    stream = stream or io.StringIO()
    with Progress(stream, **{"terminal": False, **options}) as progress:
        for each in events:
            progress(each)
    return stream.getvalue() if isinstance(stream, io.StringIO) else ""


# ---------------------------------------------------------------------------------------------------- time left


def test_time_left_by_hand() -> None:
    pace = Pace()
    assert pace.seconds_left(10) is None
    pace.add(step(1, at=100.0))
    assert pace.seconds_left(10) == 40.0  # one step: 1,000 tokens at 250 per second
    pace.add(step(2, at=103.0))
    pace.add(step(3, at=104.0))
    assert pace.seconds_left(10) == 20.0  # two steps in four seconds


def test_time_left_follows_the_last_steps() -> None:
    pace = Pace()
    for number in range(100):
        pace.add(step(number, at=float(number)))
    for number in range(100, 100 + WINDOW_STEPS + 1):
        pace.add(step(number, at=100.0 + 9.0 * (number - 100)))
    assert pace.seconds_left(2) == 18.0


def test_steps_that_are_not_all_logged_count_too() -> None:
    pace = Pace()
    for number in (10, 20, 30):
        pace.add(step(number, at=float(number)))
    assert pace.seconds_left(7) == 7.0


def test_time_left_is_right_after_a_resume() -> None:
    """The first attempt took 1 s per step; a day later another machine takes 4 s."""
    first = [event("started", num_steps=100), *(step(n, at=float(n)) for n in range(1, 51))]
    resumed = event("resumed", at=90_000.0, attempt=2, from_step=50)
    text = shown([*first, resumed, step(51, at=90_010.0), *(step(n, at=90_010.0 + 4 * (n - 51)) for n in (56, 61))])
    lines = text.splitlines()
    place = next(i for i, line in enumerate(lines) if "going on from step 50 (attempt 2)" in line)
    assert "step 51/100" in lines[place + 1] and "3:16 left" in lines[place + 1]  # 49 steps of 4 s
    assert "step 61/100" in lines[-1] and "2:36 left" in lines[-1]  # 39 steps of 4 s
    assert "0:49 left" not in "".join(lines[place:])


# ---------------------------------------------------------------------------------------------------- plain lines


def test_plain_lines_hold_the_numbers() -> None:
    (line,) = shown([event("started", num_steps=100), step(1)]).splitlines()
    assert line == "step 1/100  loss 1.2346  6:36 left  250 tok/s  1.9 GB"


def test_plain_lines_are_few() -> None:
    text = shown(step(number, at=float(number)) for number in range(1, 101))
    numbers = [int(line.split("/")[0].removeprefix("step ")) for line in text.splitlines()]
    assert numbers == [1, *range(6, 100, 5), 100]


def test_slow_runs_say_something_every_few_seconds() -> None:
    clock = iter(range(0, 10_000, 4))
    stream = io.StringIO()
    with Progress(stream, terminal=False, clock=lambda: float(next(clock))) as progress:
        for number in range(1, 31):
            progress(step(number, num_steps=10_000))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10 and LINE_SECONDS == 10.0  # every third of 30 steps of 4 s each


def test_other_events_have_their_lines() -> None:
    text = shown(
        [
            event("data", kept=47, excluded={"a": 2, "b": 1}, train=45, validation=2, tokens=9_999),
            event("model", trainable=10, total=1_000),
            event(
                "plan",
                backend={"device": "cpu", "dtype": "bfloat16"},
                budget_tokens=4096,
                activations=["drop_layer", "drop_mlp", "drop_mlp", "keep"],
                memory={"peak_bytes": 3e9},
            ),
            event("validation", 0, loss=3.0),
            event("validation", 4, loss=2.0),
            event("validation", 8, loss=2.5),
            event("samples", 8, samples=[{"answer": "one\ntwo"}, {"answer": "a" * 99}]),
            event("fault", 8, what="loss", rows=[f"f:{i}" for i in range(9)], in_a_row=1),
            event("revised", changes=[["optim.lr", 1, 2]]),
            event("note", text="[bold]as it is[/bold]"),
            event("checkpoint", 8, folder="checkpoints/step-8"),
            event("finished", 8, steps=8, tokens=800, seconds=4.0),
        ]
    )
    assert text.splitlines() == [
        "data    47 rows kept, 3 left out; 45 to train, 2 held out; 9,999 tokens",
        "model   10 of 1,000 weights train (1 %)",
        "plan    cpu, bfloat16, 4,096 tokens at once, about 3.0 GB of memory; "
        "activations: drop_layer x 1, drop_mlp x 2, keep x 1",
        "step 0  validation loss 3.0000",
        "step 4  validation loss 2.0000  best so far",
        "step 8  validation loss 2.5000",
        "step 8  answer: one\\ntwo",
        f"step 8  answer: {'a' * 89}…",
        "step 8  the loss is not finite: update left out; rows f:0, f:1, f:2, f:3, f:4 … (9)",
        "changed: optim.lr: 1 → 2",
        "note: [bold]as it is[/bold]",
        "finished: 8 steps, 800 tokens in 0:04, 200 tokens/s",
    ]


def test_the_structure_is_shown_whole_and_its_counts_once() -> None:
    screen = ["llama: 2 layers", "  layers 0-1 [of 2]", "Trains 10 of 1,000 parameters (1 %)"]
    for terminal in (False, True):
        text = shown([event("model", structure=screen, trainable=10, total=1_000, percent=1.0)], terminal=terminal)
        assert text.splitlines() == screen


def test_loss_that_is_no_number() -> None:
    assert "loss –" in shown([step(1, loss=None, tokens_per_s=None, memory_bytes=None)])


def test_chinese() -> None:
    set_language("zh")
    assert shown([step(1)]).startswith("第 1/100 步  损失 1.2346")


def test_plain_text_has_no_control_characters() -> None:
    text = shown([step(1), event("fault", 1, what="loss", rows=[]), event("finished", 1, tokens=1, seconds=1.0)])
    assert "\x1b" not in text and "\r" not in text


# ---------------------------------------------------------------------------------------------------- the bar


def test_terminal_gets_a_bar() -> None:
    text = shown([step(1), step(2), event("finished", 2, steps=2, tokens=1, seconds=1.0)], terminal=True)
    assert "━" in text and "step 2/100" in text and "\x1b[" in text
    assert "\x1b[32mfinished" in text.rstrip().splitlines()[-1]


def test_no_colour_on_request() -> None:
    text = shown([step(50), event("failed", 50)], terminal=True, colour=False)
    assert "━" in text and "\x1b[3" not in text  # cursor movements stay, colours go


@pytest.mark.parametrize(("width", "names"), [(120, 5), (60, 4), (40, 2), (12, 1)])
def test_narrow_terminals_lose_the_least_important_numbers(width: int, names: int) -> None:
    bar = _Bar()
    parts = {"step": "step 50/100", "loss": "loss 1.2345", "speed": "9,999 tok/s", "memory": "1.9 GB"}
    bar.update(50, 100, parts, left_s=61.4)
    console = Console(width=width, file=io.StringIO(), force_terminal=True, no_color=True)
    with console.capture() as capture:
        console.print(bar)
    (line,) = capture.get().splitlines()
    order = ("step 50", "loss 1.2345", "1:01 left", "9,999 tok/s", "1.9 GB")
    assert [name in line for name in order] == [i < names for i in range(5)]


# ---------------------------------------------------------------------------------------------------- bad streams


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("terminal", [False, True])
def test_stream_that_breaks_is_left_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", problems.append)
    shown([step(1), step(50), event("finished", 100)], Gone(), terminal=terminal)
    closed = io.StringIO()
    closed.close()
    with Progress(closed, terminal=terminal) as progress:
        progress(step(1))
    assert problems == []


def test_pipe_that_nobody_reads_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more events than a pipe holds are taken at once; the end waits a moment, not for ever."""
    monkeypatch.setattr(luthier.progress, "CLOSE_SECONDS", 0.2)
    read, write = os.pipe()
    stream = os.fdopen(write, "w")
    progress = Progress(stream, terminal=False)
    for number in range(5_000):
        progress(event("note", text=f"{number} " + "x" * 100))
    progress.close()
    assert progress._thread.is_alive()  # still held up by the pipe; nothing else is
    os.close(read)  # and now it breaks: the thread comes to its end
    progress._thread.join(10)
    assert not progress._thread.is_alive()
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_terminal_without_the_characters() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as stream:
        set_language("zh")
        shown([step(1)], stream)
        set_language("en")
        shown([step(1)], stream)
        stream.flush()
        assert raw.getvalue().startswith(b"step 1/100")
