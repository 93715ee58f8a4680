"""How long a run with many steps takes to be drawn, and how long the page is deaf at most meanwhile.

    python bench/page.py [STEPS]

Writes a run of that many steps (100,000), serves it, and opens it in Chromium: the seconds until its curve is drawn
and the longest task of the page's main thread, with a server that has not read the log yet, with one that has, and
while 5,000 further steps come at once. A task's time is told by the clock and of the processor: on a machine that does
other things only the second is the page's.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import web_written
from playwright.sync_api import sync_playwright

from luthier.web.page import Page

BURST = 5000
CATEGORIES = ["toplevel", "devtools.timeline", "v8"]


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LUTHIER_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        run = web_written.begun(Path("runs"), "long", steps + BURST)
        web_written.long_log(run, steps)
        page = Page(Path("runs"), ("127.0.0.1", 0), "/", (), io.StringIO())
        page.start(open_page=False, block=False)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            window = browser.new_page()

            def drawn(what: str, last: int, action: Callable[[], object]) -> None:
                browser.start_tracing(page=window, categories=CATEGORIES)
                began = time.monotonic()
                action()
                window.locator(f"[data-chart=loss] .chart-host[aria-label*='at Step {last:,};']").wait_for()
                seconds = time.monotonic() - began
                clock, processor = longest(json.loads(browser.stop_tracing())["traceEvents"], page.url)
                print(f"{what}: {seconds:.2f} s; longest task {clock:.0f} ms, {processor:.0f} ms of the processor")

            drawn(f"{steps:,} steps, log unread", steps, lambda: window.goto(f"{page.url}#/run/long"))
            drawn("again, log read", steps, window.reload)
            drawn(f"{BURST:,} more at once", steps + BURST, lambda: web_written.long_log(run, BURST, steps))
            browser.close()
        page.close()
        run.close()


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
