"""Threads of the compiled parts: torch's own, or others where those cannot be had."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import compiled
import pytest

from luthier.kernels import team

Does = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class Job(ctypes.Structure):
    _fields_ = [("mark", ctypes.c_int64)]


@pytest.fixture(params=["torch's", "others"])
def take(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = compiled.chains_library()
    if found is None:
        pytest.skip("no C compiler")
    if request.param == "others":
        monkeypatch.setattr(team, "_fork", lambda: None)
    elif team._fork() is None:
        assert sys.platform != "linux", "torch for Linux runs on libgomp"
        pytest.skip("torch has other threads")
    return found.luthier_chains_take


@pytest.mark.parametrize(("rows", "threads", "parts"), [(40, 2, 8), (5, 2, 5), (40, 1, 1), (1, 2, 1)])
def test_every_row_is_done_once(take: Any, rows: int, threads: int, parts: int) -> None:
    done, given = [], Job(7)

    def does(job: int, first: int, last: int) -> int:
        done.append((first, last))
        return Job.from_address(job).mark - 7

    team.by_rows(take, Does(does), given, rows, threads)
    assert len(done) == parts
    assert [row for part in sorted(done) for row in range(*part)] == list(range(rows))


def test_threads_work_at_once(take: Any) -> None:
    both = threading.Barrier(2, timeout=60)

    def does(job: int, first: int, last: int) -> int:
        both.wait()  # for whoever does another part meanwhile
        return 0

    team.by_rows(take, Does(does), Job(), 8, 2)
    assert not both.broken


def test_no_memory_for_one_part(take: Any) -> None:
    done = []

    def does(job: int, first: int, last: int) -> int:
        done.append(first)
        return -1 if first == 6 else 0

    with pytest.raises(MemoryError):
        team.by_rows(take, Does(does), Job(), 8, 2)
    assert sorted(done) == list(range(8)), "the others are done all the same"
