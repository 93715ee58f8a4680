"""Trackers: what they get, that their failures stay theirs, and (where installed) that they really write."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_runs_store import claim

from luthier.errors import ConfigError
from luthier.runs import reporters
from luthier.runs.store import RunFolder


class Fake:
    """A tracker that keeps what it gets, and fails at what it is told to."""

    made: list[Fake] = []  # noqa: RUF012  emptied by the fixture

    def __init__(self, folder: Path, name: str, identity: str, recipe: Mapping[str, Any], from_step: int) -> None:
        self.folder, self.identity, self.from_step = folder, identity, from_step
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.closed = False
        print("noise")
        if type(self).failing == "start":
            raise RuntimeError("no network")
        type(self).made.append(self)

    failing = ""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.failing == "log":
            raise SystemError("broken")
        self.seen.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed = True
        if self.failing == "close":
            raise OSError("gone")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setitem(reporters.TRACKERS, "tensorboard", ("json", Fake))
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(Fake, "failing", "")
    return Fake


def train(run: RunFolder, first: int = 1) -> None:
    with reporters.opened(run.config(), run) as report:
        kind = "started" if first == 1 else "resumed"
        report(run.emit(kind, {"num_steps": 3, "from_step": first - 1}))
        for step in range(first, first + 2):
            data = {"loss": 1.0 / step, "lr": 1e-3, "grad_norm": None, "num_steps": 3}
            report(run.emit("step", data, step=step))
        report(run.emit("validation", {"loss": 0.25, "terms": {"nll": 0.25}}, step=first + 1))
        report(run.emit("note", {"text": "not for trackers"}))


def test_tracker_gets_numbers_only(tmp_path: Path, fake: type[Fake], capsys: pytest.CaptureFixture[str]) -> None:
    with claim(tmp_path, run__report="tensorboard") as run:
        train(run)
        train(run, first=2)
        one, two = fake.made
        assert one.seen[0] == (1, {"train/loss": 1.0, "train/lr": 1e-3})
        assert one.seen[-1] == (2, {"validation/loss": 0.25})
        assert one.folder == run.path / "trackers" / "tensorboard" and one.closed
        assert (one.from_step, two.from_step) == (0, 1) and one.identity == two.identity
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("moment", ["start", "log", "close"])
def test_failure_is_noted_once_and_the_run_goes_on(tmp_path: Path, fake: type[Fake], moment: str) -> None:
    fake.failing = moment
    with claim(tmp_path, run__report="tensorboard") as run:
        train(run)
        notes = [e.data["text"] for e in run.events() if e.kind == "note" and e.data["text"] != "not for trackers"]
        assert len(notes) == 1 and "tensorboard failed" in notes[0]
        assert [e.step for e in run.events() if e.kind == "step"] == [1, 2]


def test_missing_package_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reporters.TRACKERS, "swanlab", ("no_such_package", Fake))
    with claim(tmp_path, run__report="swanlab") as run:
        with (
            pytest.raises(ConfigError, match="pip install no_such_package") as caught,
            reporters.opened(run.config(), run),
        ):
            pytest.fail("not reached")
        assert caught.value.problems[0].field == "run.report"
        assert run.events() == []


def test_every_tracker_of_the_recipe_is_in_the_table() -> None:
    from luthier.config.schema import RunSection

    allowed = RunSection.model_fields["report"].annotation
    assert set(reporters.TRACKERS) == set(allowed.__args__[0].__args__)  # type: ignore[union-attr]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty home, and a proxy in front of everything outside that nobody may have spoken to."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for each in (name, name.lower()):
                monkeypatch.setenv(each, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        yield
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_tensorboard_reads_back_what_was_written(tmp_path: Path, offline: None) -> None:
    with claim(tmp_path, run__report="tensorboard") as run:
        train(run)
        train(run, first=2)  # step 2 again
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        read = EventAccumulator(str(run.path / "trackers" / "tensorboard"))
        read.Reload()
        assert [(e.step, round(e.value, 4)) for e in read.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
        assert [e.step for e in read.Scalars("validation/loss")] == [3]
    assert "tensorflow" not in sys.modules


def test_wandb_records_offline_without_asking(tmp_path: Path, offline: None) -> None:
    with claim(tmp_path / "runs", run__report="wandb", run__name="a.b") as run:
        train(run)
        assert not [e for e in run.events() if e.kind == "note" and "wandb" in e.data["text"]]
        (data,) = (run.path / "trackers" / "wandb").rglob("*.wandb")
        deadline = time.monotonic() + 30  # its own service process writes a moment later
        while b"train/loss" not in data.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_swanlab_records_offline_and_leaves_ctrl_c_alone(tmp_path: Path, offline: None) -> None:
    before = signal.getsignal(signal.SIGINT), sys.excepthook
    with claim(tmp_path / "runs", run__report="swanlab", run__name="a.b") as run:
        train(run)
        assert not [e for e in run.events() if e.kind == "note" and "swanlab" in e.data["text"]]
        assert list((run.path / "trackers" / "swanlab").rglob("*.swanlab"))
    assert (signal.getsignal(signal.SIGINT), sys.excepthook) == before
