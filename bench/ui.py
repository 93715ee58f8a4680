"""What the page's server costs: a long run opened cold, and many who watch one that goes on.

    python bench/ui.py [WATCHERS] [SECONDS] [STEPS_PER_S]     # 50 60 5

A run of 100,000 step events is asked for by a server that has just been started: seconds of its processor and until the
answer is whole. Then a run is written at so many steps a second, and every watcher follows its events and the overview,
as one open page does; the server's processor seconds are told as a share of one core, and that nobody missed anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.config import load
from luthier.runs.store import RunFolder

EVENTS = 100_000


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used, all threads and both modes."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def facts(step: int) -> dict[str, float]:
    speed = {"tokens": 4096, "tokens_per_s": 12_345.6, "computed_tokens": 4000, "memory_bytes": 1_234_567_890}
    return {
        "loss": 2 / step + 0.123456,
        "lr": 1e-4,
        "grad_norm": 1.23,
        "epoch": step / 1e3,
        "num_steps": EVENTS,
        **speed,
    }


def run(name: str) -> RunFolder:
    config = load.settle(load.load(None, {"model": "nano", "data.train": "rows.json", "run.name": name}))
    return RunFolder.claim(config, load.dump(config))


def write_long() -> None:
    with run("long") as folder:
        folder.emit("started", {"num_steps": EVENTS})
        lines = []
        for step in range(1, EVENTS + 1):
            event = {"format": 1, "run": "long", "seq": step + 1, "attempt": 1, "time_s": 1.7e9 + step, "step": step}
            lines.append(json.dumps({**event, "kind": "step", "data": facts(step)}))
    with open(folder.path / "events.jsonl", "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


@contextmanager
def server() -> Iterator[tuple[int, int]]:
    """Its process and its port."""
    command = [sys.executable, "-m", "luthier", "ui", "--no-open", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            port = int(re.findall(r":(\d+)/", process.stderr.readline())[0])
            yield process.pid, port
        finally:
            process.terminate()


def cold() -> None:
    with server() as (pid, port):
        used_s, began_s = cpu_s(pid), time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/runs/long/history") as answer:
            size = len(answer.read())
        took_s = time.perf_counter() - began_s
        told = f"{EVENTS:,} events opened cold: {cpu_s(pid) - used_s:.2f} s of processor time, {took_s:.2f} s"
        print(f"{told}; {size:,} bytes; server started in {used_s:.2f} s of processor time", flush=True)


class Watcher:
    """One open page: two streams."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.steps = self.bytes = self.overviews = 0

    async def follow(self) -> None:
        await asyncio.gather(self._stream("runs/going/events?after=0"), self._stream("overview"))

    async def _stream(self, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        writer.write(f"GET /api/{path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        async for line in reader:
            self.bytes += len(line)
            self.steps += line.startswith(b"id: ")
            self.overviews += line.startswith(b'data: {"runs"')


async def watched(port: int, pid: int, watchers: int, seconds: float, rate: float) -> None:
    with run("going") as folder:
        folder.emit("started", {"num_steps": EVENTS})
        everybody = [Watcher(port) for _ in range(watchers)]
        following = [asyncio.create_task(each.follow()) for each in everybody]
        await asyncio.sleep(3)
        used_s, began_s, step = cpu_s(pid), time.monotonic(), 0
        while time.monotonic() - began_s < seconds:
            step += 1
            folder.emit("step", facts(step), step)
            await asyncio.sleep(max(began_s + step / rate - time.monotonic(), 0))
        share = (cpu_s(pid) - used_s) / (time.monotonic() - began_s)
        await asyncio.sleep(2)
        for each in following:
            each.cancel()
        assert {each.steps for each in everybody} == {step + 1}, "everybody was told everything"
        sent = sum(each.bytes for each in everybody) / seconds / 1e6
        overviews = sum(each.overviews for each in everybody) / seconds / watchers
        told = f"{watchers} watchers, {step} steps in {seconds:g} s, {overviews:.1f} overviews a second each"
        print(f"{told}, {sent:.2f} MB/s: {100 * share:.2f} % of one core", flush=True)


def main() -> None:
    watchers, seconds, rate = (float(given) for given in (sys.argv[1:] + ["50", "60", "5"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LUTHIER_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        write_long()
        cold()
        with server() as (pid, port):
            asyncio.run(watched(port, pid, int(watchers), seconds, rate))


if __name__ == "__main__":
    main()
