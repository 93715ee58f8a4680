"""How long the page's server takes to start, and a run with many steps to be drawn; how long the page is deaf at most.

    python bench/page.py [STEPS]

Writes a run of that many steps (100,000), serves it by `luthier ui`, and opens it in a Chromium that has shown another
run before: the seconds until its curve is drawn and the longest task of the page's main thread, with a server that has
just been started, with one that has read the log, and while 5,000 further steps come at once; and what that took of the
processor, by the server and by all. A task's time is told by the clock and of the processor: on a machine that does
other things only what is told of the processor is the page's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import web_written
from playwright.sync_api import sync_playwright

BURST = 5000
CATEGORIES = ["toplevel", "devtools.timeline", "v8"]
WATCH = """
window.drawn = {};
new MutationObserver(() => {
  const label = document.querySelector("[data-chart=loss] .chart-host")?.getAttribute("aria-label");
  const step = label?.match(/at Step ([0-9,]+);/)?.[1];
  if (step) window.drawn[step] ??= Date.now();
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label"] });
"""
"""When the curve was first drawn up to which step: who waits for it from without looks every half second only."""


@contextmanager
def server(port: int) -> Iterator[tuple[str, float, int]]:
    """Its address, the seconds from the command to the answer of a first request, and its process."""
    began = time.monotonic()
    command = [sys.executable, "-m", "luthier", "ui", "--no-open", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = re.findall(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())[0]
            with urllib.request.urlopen(url) as answer:
                answer.read()
            yield url, time.monotonic() - began, process.pid
        finally:
            process.terminate()


def spent_s(*roots: int) -> float:
    """Processor seconds of these processes and of all that they started and that are still there."""
    told = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            told[int(path.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found = set(roots)
    while more := {pid for pid, (parent, _) in told.items() if parent in found} - found:
        found |= more
    return sum(told[pid][1] for pid in found if pid in told)


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        os.environ["LUTHIER_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        with web_written.begun(Path("runs"), "short", BURST) as short:
            web_written.long_log(short, BURST)
        run = servers.enter_context(web_written.begun(Path("runs"), "long", steps + BURST))
        web_written.long_log(run, steps)
        browser = servers.enter_context(sync_playwright()).chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        window = browser.new_page()
        window.add_init_script(WATCH)

        def drawn(what: str, last: int, action: Callable[[], object]) -> None:
            browser.start_tracing(page=window, categories=CATEGORIES)
            began, server_s, all_s = time.time(), spent_s(pid), spent_s(os.getpid())
            action()
            window.locator(f"[data-chart=loss] .chart-host[aria-label*='at Step {last:,};']").wait_for()
            server_s, all_s = spent_s(pid) - server_s, spent_s(os.getpid()) - all_s
            seconds = window.evaluate(f"window.drawn['{last:,}'] / 1000") - began
            clock, processor = longest(json.loads(browser.stop_tracing())["traceEvents"], url)
            print(
                f"{what}: {seconds:.2f} s (server {server_s:.2f} s of the processor, all {all_s:.2f}); "
                f"longest task {clock:.0f} ms, {processor:.0f} ms of the processor"
            )

        with server(0) as (url, first, pid):
            drawn(f"{BURST:,} steps, a browser just started", BURST, lambda: window.goto(f"{url}#/run/short"))
        window.goto("about:blank")
        with server(int(url.rstrip("/").rpartition(":")[2])) as (url, again, pid):
            print(f"`luthier ui` answers after {first:.2f} and {again:.2f} s")
            drawn(f"{steps:,} steps, log unread", steps, lambda: window.goto(f"{url}#/run/long"))
            drawn("again, log read", steps, window.reload)
            drawn(f"{BURST:,} more at once", steps + BURST, lambda: web_written.long_log(run, BURST, steps))
            browser.close()


def longest(events: list[dict[str, Any]], url: str) -> tuple[float, float]:
    """Milliseconds by the clock and of the processor of the longest task, by each, of the page at this address."""
    names = {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == "thread_name"}
    ours = {each["pid"] for each in events if url in json.dumps(each.get("args", {}))}
    tasks = [
        each
        for each in events
        if each["name"].endswith("RunTask")
        and each["ph"] == "X"
        and each["pid"] in ours
        and names.get((each["pid"], each["tid"])) == "CrRendererMain"
    ]
    return max(each["dur"] for each in tasks) / 1000, max(each.get("tdur", 0) for each in tasks) / 1000


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
