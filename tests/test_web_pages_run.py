"""Home, run and compare, as a person sees them: in a browser, live, through everything that tears.

Runs are written by the tests themselves, as training would, so that each moment can be chosen; the server and the
browser are real.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import web_written as written
from accessibility import serious
from waiting import until
from web_house import place, server  # noqa: F401  fixtures

from luthier import queue
from luthier.config import load
from luthier.runs import lock
from luthier.runs.store import RunFolder

GOLDEN = Path(__file__).parent / "golden" / "run"
SLOW_MS = 60_000
"""For what takes a second on an idle machine."""
LOADING_S = 180
"""For a training to begin."""
HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>{{7*7}}\u202egnp'
LOOKS = [("en-US", "light", 1280), ("zh-CN", "dark", 390)]
ROWS = "[data-chart=loss] .chart-table tbody tr"


class Window:
    """A browser's window on the page. faults: what went wrong in it."""

    def __init__(self, browser: Any, url: str, **look: Any) -> None:
        self.context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **look})
        self.url, self.faults = url, list[str]()
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW_MS)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self.faults.append(said.text) if "Content Security" in said.text else None)

    def go(self, route: str) -> Any:
        self.page.goto(f"{self.url}#/{route}")
        self.page.locator("h1").wait_for()
        return self.page

    def run(self, name: str) -> Any:
        """The run's page, its curve open as a table."""
        page = self.go(f"run/{name}")
        page.locator("[data-chart=loss] summary").click()
        return page

    def steps(self) -> list[int]:
        """Steps that the loss has a value of, as the table has them."""
        shown = self.page.locator(ROWS).evaluate_all(
            "rows => rows.filter(row => row.cells[1].textContent).map(row => row.cells[0].textContent)"
        )
        return [int(each.replace(",", "")) for each in shown]

    def has_steps(self, last: int) -> None:
        """Every step up to the last one, each once."""
        assert until(lambda: self.steps() == list(range(1, last + 1)), SLOW_MS / 1000), self.steps()

    def says(self, chart: str, words: str) -> None:
        """Who cannot see the chart is told this."""
        host = self.page.locator(f"[data-chart={chart}] .chart-host")
        assert until(lambda: words in (host.get_attribute("aria-label") or ""), SLOW_MS / 1000), words

    def state(self, state: str) -> None:
        self.page.locator(f".page-head .state[data-state={state}]").wait_for()

    def line(self, state: str) -> None:
        self.page.locator(f"#line[data-state={state}]").wait_for()

    def close(self) -> None:
        self.context.close()
        assert self.faults == []


@pytest.fixture
def url(place: Path) -> Iterator[str]:  # noqa: F811
    with server(place) as address:
        yield address


@pytest.fixture
def window(browser: Any, url: str) -> Iterator[Window]:
    opened = Window(browser, url)
    yield opened
    opened.close()


@pytest.fixture
def runs(place: Path) -> Path:  # noqa: F811
    return place / "runs"


def ended(run: RunFolder, step: int) -> None:
    run.emit("interrupted", {"signal": "SIGTERM"}, step=step)
    run.close()


# ------------------------------------------------------------------------------------------------ a run goes on


def test_a_run_is_seen_as_it_goes(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    page = window.run("first")
    window.state("running")
    written.go_on(run, 1, 12, 30, every=10)
    window.has_steps(12)
    loss = written.step_data(12, 30)["loss"]
    window.says("loss", f"Loss: {loss:.4g} at Step 12")
    window.says("loss", "Validation: ")
    for name in ("lr", "grad_norm", "tokens_per_s", "memory_bytes"):
        window.says(name, "at Step 12")
    page.get_by_text("Step 12 of 30").wait_for()
    page.locator(".left", has_text="left").wait_for()
    page.get_by_text("What is the capital").wait_for()
    written.go_on(run, 13, 30, 30, every=10)
    written.finish(run, 30)
    run.close()
    window.state("finished")
    window.has_steps(30)
    page.get_by_text("Finished: 30 steps").wait_for()


def test_a_browser_that_is_closed_in_the_middle_misses_nothing(browser: Any, url: str, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 5, 30)
    before = Window(browser, url)
    before.run("first")
    before.has_steps(5)
    before.close()
    written.go_on(run, 6, 11, 30)
    after = Window(browser, url)
    after.run("first")
    after.has_steps(11)
    written.go_on(run, 12, 14, 30)
    after.has_steps(14)
    after.close()
    run.close()


def test_a_server_that_is_killed_and_started_again_leaves_no_gap(browser: Any, place: Path, runs: Path) -> None:  # noqa: F811
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 5, 30)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with _process(port) as first:
        window = Window(browser, f"http://127.0.0.1:{port}/")
        window.run("first")
        window.has_steps(5)
        os.killpg(first.pid, signal.SIGKILL)
        window.line("lost")
    written.go_on(run, 6, 9, 30)
    with _process(port):
        window.line("open")
        window.has_steps(9)
        written.go_on(run, 10, 12, 30)
        window.has_steps(12)
        window.state("running")
        window.close()
    run.close()


@contextlib.contextmanager
def _process(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The page in a process of its own."""
    command = [sys.executable, "-m", "luthier", "ui", "--no-open", "--port", str(port)]
    started = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: _listens(port), SLOW_MS / 1000)
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def test_a_supervisor_that_is_killed_while_somebody_watches_takes_nothing_along(window: Window, runs: Path) -> None:
    """Real runs: the one under way goes on, and the next start brings a new supervisor, which waits for it."""
    rows = [{"instruction": f"Say {number}", "output": f"{number}"} for number in range(40)]
    (runs.parent / "rows.json").write_text(json.dumps(rows), encoding="utf-8")

    def start(name: str, steps: int) -> None:
        page = window.go("new/settings")
        text = f"model: nano\ndata: {{train: rows.json, validation: 0}}\noptim: {{steps: {steps}, batch: 2}}\n"
        page.locator(".editor textarea").fill(f"{text}run: {{name: {name}, device: cpu}}\n")
        page.locator(".recipe .good").wait_for()
        window.go("new/start")
        page.locator("#start:not([disabled])").click()
        page.wait_for_url(f"**/#/run/{name}")

    start("first", 5000)
    window.page.locator("[data-chart=loss] summary").click()
    assert until(lambda: window.steps()[-1:] > [3], LOADING_S)
    supervisor = lock.last(queue.folder() / "lock")["pid"]
    os.kill(supervisor, signal.SIGKILL)
    assert until(lambda: not lock.held(queue.folder() / "lock"))
    first = RunFolder(runs / "first")
    at = first.summary().step
    assert until(lambda: window.steps()[-1] > at + 20, LOADING_S), "it is trained, and the page goes on"
    window.state("running")
    start("second", 2)
    window.state("queued")
    assert lock.last(queue.folder() / "lock")["pid"] != supervisor, "a new one, which waits for what runs"
    page = window.run("first")
    page.get_by_label("From step").fill(str(max(at - 10, 1)))
    page.get_by_label("To step").fill(str(at + 20))
    page.get_by_label("To step").press("Enter")
    assert until(lambda: window.steps() == list(range(max(at - 10, 1), at + 21))), "without a gap"
    page.get_by_role("button", name="Stop", exact=True).click()
    window.state("interrupted")
    assert [len(first.summary().attempts), first.state] == [1, "interrupted"]
    window.go("run/second").locator(".page-head .state[data-state=finished]").wait_for(timeout=1000 * LOADING_S)


def _listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def test_a_cut_network_is_said_and_made_good(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 3, 30)
    window.run("first")
    window.has_steps(3)
    window.line("open")
    window.context.set_offline(True)
    window.line("lost")
    written.go_on(run, 4, 8, 30)
    window.context.set_offline(False)
    window.line("open")
    window.has_steps(8)
    run.close()


def test_the_line_is_taken_up_where_it_tore(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 3, 30)
    seq = run.events()[-1].seq
    asked: list[str | None] = []
    window.page.on(
        "request", lambda each: asked.append(each.headers.get("last-event-id")) if "first/events" in each.url else None
    )
    window.run("first")
    window.has_steps(3)
    window.context.set_offline(True)
    window.line("lost")
    window.context.set_offline(False)
    window.line("open")
    written.go_on(run, 4, 5, 30)
    window.has_steps(5)
    run.close()
    assert len(asked) > 1 and set(asked) == {str(seq)}


def test_steps_that_come_while_a_history_is_on_its_way_are_drawn(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 5, 30)
    page = window.run("first")
    window.has_steps(5)
    held: list[Any] = []
    page.route("**/history?**", lambda route: held.append((route, route.fetch())))
    page.get_by_label("From step").fill("1")
    page.get_by_label("From step").press("Enter")
    assert until(lambda: page.evaluate("1") and held)  # an answer as of step 5, which has not arrived
    written.go_on(run, 6, 9, 30)
    window.says("loss", "at Step 9")
    ((route, answer),) = held
    with page.expect_response("**/history?**"):
        route.fulfill(response=answer)
    page.wait_for_timeout(1000)
    window.has_steps(9)
    run.close()


@pytest.mark.parametrize("known", [True, False])
def test_a_page_opened_while_the_server_is_away_comes_when_it_is_back(window: Window, runs: Path, known: bool) -> None:
    """known: whether the page's own code was fetched before."""
    written.done(runs, "first", 20)
    page = window.go("")
    window.line("open")
    page.get_by_role("link", name="first", exact=True).wait_for()
    if known:
        page.evaluate("import('./pages/run.js')")
    window.context.set_offline(True)
    page.get_by_role("link", name="first", exact=True).click()
    page.get_by_text("The server cannot be reached.").wait_for()
    window.context.set_offline(False)
    window.state("finished")


def test_what_is_done_again_takes_the_place_of_what_was(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 9, 30, every=4)
    page = window.run("first")
    window.has_steps(9)
    run.emit("died", {"code": None, "signal": "SIGKILL", "said": ["no memory left"]}, step=9)
    page.get_by_text("The process is gone (signal SIGKILL).").wait_for()
    run.emit("resumed", {"from_step": 5, "reason": "checkpoint", "num_steps": 30, "steps_per_epoch": 30})
    window.has_steps(5)
    written.go_on(run, 6, 7, 30, seed=9)
    window.has_steps(7)
    loss = f"{written.step_data(7, 30, seed=9)['loss']:.4g}"
    window.says("loss", f"Loss: {loss} at Step 7")
    page.locator(".left", has_text="left").wait_for()
    assert page.locator(".events .superseded").count() == 0
    page.get_by_label("Checkpoints and validations too").check()
    again = page.locator(".events .superseded").evaluate_all("all => all.map(each => each.dataset.kind)")
    assert sorted(again) == ["checkpoint", "samples", "validation"]  # those of step 8, not those of step 4
    run.close()


def test_another_log_in_its_place_is_told_from_its_beginning(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 9, 30)
    window.run("first")
    window.has_steps(9)
    run.close()
    shutil.rmtree(runs / "first")
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 2, 30)
    window.has_steps(2)
    run.close()


def test_thousands_of_events_at_once_are_all_taken(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 9000)
    window.run("first")
    window.state("running")
    written.long_log(run, 9000)
    window.says("loss", "at Step 9,000")
    run.close()


def test_a_run_of_a_hundred_thousand_steps_is_drawn_in_a_few_points(window: Window, runs: Path) -> None:
    run = written.begun(runs, "long", 100_000)
    written.long_log(run, 100_000)
    run.close()
    answers: list[Any] = []
    window.page.on("response", lambda answer: answers.append(answer) if "/history?" in answer.url else None)
    page = window.run("long")
    window.says("loss", "at Step 100,000")
    (told,) = [answer.json() for answer in answers]
    assert told["steps_total"] == 100_000 and len(told["series"]["step"]) <= 2000
    # A stretch of it, in every detail.
    page.get_by_label("From step").fill("500")
    page.get_by_label("To step").fill("520")
    page.get_by_label("To step").press("Enter")
    assert until(lambda: window.steps() == list(range(500, 521)), SLOW_MS / 1000)
    page.get_by_role("button", name="All", exact=True).click()
    assert until(lambda: window.steps()[-1:] == [100_000], SLOW_MS / 1000)


# ------------------------------------------------------------------------------------------------ several people


def test_two_browsers_see_the_same_and_either_can_stop(browser: Any, url: str, runs: Path) -> None:
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 4, 30)
    one, two = Window(browser, url), Window(browser, url, locale="zh-CN")
    one.run("first")
    two.run("first")
    one.page.get_by_role("button", name="Stop", exact=True).click()
    assert until(lambda: (runs / "first" / "stop").exists())
    one.state("stopping")
    written.go_on(run, 5, 5, 30)
    ended(run, 5)
    for each in (one, two):
        each.state("interrupted")
        each.has_steps(5)
    one.page.get_by_role("button", name="Go on").wait_for()
    two.page.get_by_role("button", name="继续").wait_for()
    one.close()
    two.close()


def test_a_run_is_made_longer(window: Window, runs: Path) -> None:
    written.done(runs, "first", 30, **{"optim.steps": 30})
    page = window.go("run/first")
    page.get_by_role("button", name="Change where it stops").click()
    page.get_by_label("In all").fill("20")
    page.get_by_role("button", name="Change it", exact=True).click()
    page.locator(".toast.bad").get_by_text("30").wait_for()  # shorter than it is: the rule says so
    page.get_by_role("button", name="Change where it stops").click()
    page.get_by_label("In all").fill("50")
    page.get_by_role("button", name="Change it", exact=True).click()
    page.locator(".toast.good").wait_for()
    assert RunFolder.open(runs / "first").config().optim.steps == 50
    window.state("interrupted")
    page.get_by_role("button", name="Go on").wait_for()


def test_the_queue_is_shown_and_turned_round(window: Window, runs: Path) -> None:
    for name in ("one", "two"):
        queue.submit(written.recipe(runs, name, {}))
    page = window.go("")
    waiting = page.locator("section[aria-labelledby=queue-title] li a")
    assert until(lambda: waiting.all_text_contents() == ["one", "two"])
    page.get_by_role("button", name="Let two go first").click()
    assert until(lambda: waiting.all_text_contents() == ["two", "one"])
    page.get_by_role("button", name="Take one out of the queue").click()
    assert until(lambda: waiting.all_text_contents() == ["two"])
    assert [path.name for path in queue.ordered()] == ["two"]


def test_stages_of_a_recipe_are_followed_as_they_wait_for_each_other(window: Window, runs: Path) -> None:
    """c waits for b, which waits for a, which fails."""
    stages = [{"name": "a"}, {"name": "b"}, {"name": "c", "start": "merge"}]
    given = {"model": "nano", "data": {"train": "rows.jsonl"}, "run": {"name": "shop"}, "stages": stages}
    queue.submit_stages(load.stages(given))
    page = window.go("")
    waiting = page.locator("section[aria-labelledby=queue-title] li")
    waiting.nth(1).get_by_text("Waits until shop-a is finished (waiting)").wait_for()
    window.go("run/shop-b")
    links = page.locator(".stages li")
    assert until(lambda: [each.splitlines()[0] for each in links.all_inner_texts()] == ["shop-a", "shop-b", "shop-c"])
    assert page.locator(".stages a[aria-current=page]").inner_text() == "shop-b"
    page.get_by_text("Waits until shop-a is finished (waiting)").wait_for()
    queue.withdraw(RunFolder(runs / "shop-a"))
    run = RunFolder.open(runs / "shop-a", write=True)
    run.emit("started", {"num_steps": 10})
    page.get_by_text("Waits until shop-a is finished (running)").wait_for()
    run.emit("failed", {"problem": None})
    run.close()
    page.get_by_text("Waits until shop-a is finished (failed)").wait_for()
    page.reload()
    page.get_by_text("Waits until shop-a is finished (failed)").wait_for()
    page.wait_for_timeout(1000)
    assert page.get_by_text("Waits until shop-a is finished (failed)").is_visible(), "whatever else is asked for"
    links.nth(0).locator("[data-state=failed]").wait_for()
    assert serious(page) == []
    links.nth(0).get_by_role("link").click()
    window.state("failed")
    assert until(lambda: links.count() == 3)
    window.go("")
    page.locator(".queue .bad", has_text="Waits until shop-a is finished (failed)").wait_for()
    shutil.rmtree(runs / "shop-a")
    page.locator(".queue .bad", has_text="Waits until shop-a is finished (gone)").wait_for()


# ------------------------------------------------------------------------------------------------ home


def test_home_shows_runs_as_they_change_and_compares_those_chosen(window: Window, runs: Path) -> None:
    page = window.go("")
    page.get_by_role("heading", name="Teach a language model your own task").wait_for()
    written.done(runs, "one", 20)
    run = written.begun(runs, "two", 20)
    written.go_on(run, 1, 5, 20)
    row = page.locator("tr[data-run=two]")
    row.get_by_text("5 of 20").wait_for()
    row.locator(".spark polyline").wait_for()
    names = page.locator("tbody tr th a")
    assert names.all_text_contents() == ["two", "one"]
    page.get_by_label("Choose one").check()
    page.get_by_label("Choose two").check()
    written.go_on(run, 6, 8, 20)
    row.get_by_text("8 of 20").wait_for()
    ended(run, 8)
    row.get_by_text("interrupted").wait_for()
    assert page.get_by_label("Choose two").is_checked()
    page.get_by_role("link", name="Compare 2 runs").click()
    page.wait_for_url("**/#/compare/one/two")


def test_the_demonstration_leads_to_its_run_and_its_outcome(window: Window, runs: Path) -> None:
    """The job is made up, because the real one trains; it is run by `test_the_demonstration_for_real`."""
    written.done(runs, "demo", 20)
    asked: list[dict[str, Any]] = []
    example = {"question": "q?", "expected": "right", "base": HOSTILE, "tuned": "right"}
    result = {"base_score": 0.02, "tuned_score": 0.97, "examples": [example], "merged_agrees": [100, 100]}
    job = {"id": "j1", "kind": "demo", "state": "running", "run": None, "result": None, "problems": [], "log": []}

    def answer(route: Any) -> None:
        if route.request.method == "POST":
            asked.append(json.loads(route.request.post_data))
            route.fulfill(json=job)
        elif route.request.url.endswith("/j1"):
            route.fulfill(json={**job, "run": "demo", "state": "done", "result": result})
        else:
            route.fulfill(json={"jobs": [{**job, "run": "demo", "state": "done"}]})

    window.page.route("**/api/jobs**", answer)
    page = window.go("")
    page.get_by_role("button", name="Try it now").first.dblclick()
    page.wait_for_url("**/#/run/demo")
    page.get_by_text("97 %").wait_for()
    assert page.get_by_text(HOSTILE).count() == 1
    assert [each["kind"] for each in asked] == ["demo"]


@pytest.mark.long
def test_the_demonstration_for_real(window: Window, runs: Path) -> None:
    page = window.go("")
    page.get_by_role("button", name="Try it now").first.click()
    page.wait_for_url("**/#/run/demo")
    page.get_by_role("heading", name="Before and after").wait_for(timeout=1_200_000)
    page.get_by_role("cell", name="pass").first.wait_for()
    page.get_by_role("link", name="Chat").first.wait_for()


# ------------------------------------------------------------------------------------------------ results


def test_receipt_results_recipe_and_events_of_a_finished_run(window: Window, runs: Path) -> None:
    shutil.copytree(GOLDEN, runs / "golden")
    receipt = json.loads((runs / "golden" / "receipt.json").read_text(encoding="utf-8"))
    page = window.go("run/golden")
    window.state("finished")
    page.locator("tr[data-check]").first.wait_for()
    shown = page.locator("tr[data-check] .state").all_text_contents()
    assert sorted(shown) == sorted(check["status"] for check in receipt["checks"])
    page.get_by_role("rowheader", name="Memory stayed within the plan.").wait_for()
    page.get_by_text("Recipe", exact=True).click()
    assert page.locator("pre", has_text="model:").text_content() == (runs / "golden" / "recipe.yaml").read_text()
    page.get_by_label("Checkpoints and validations too").check()
    kinds = [json.loads(line)["kind"] for line in (runs / "golden" / "events.jsonl").read_text().splitlines()]
    told = page.locator(".events li").evaluate_all("all => all.map(each => each.dataset.kind)")
    assert told == [kind for kind in reversed(kinds) if kind != "step"]
    page.get_by_text("Log of the process").click()
    page.get_by_text("Nothing was written.").wait_for()


def test_earlier_events_than_the_last_are_loaded_on_demand(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 9000)
    for number in range(1, 2600):
        run.emit("checkpoint" if number % 100 else "note", {"text": f"note {number}"}, step=number)
        if number in (50, 2500):
            run.emit("samples", written.samples(number), step=number)
    page = window.go("run/first")
    page.get_by_text("note 2500").wait_for()
    assert page.get_by_text("note 100", exact=True).count() == 0
    page.get_by_role("button", name="Load earlier ones (604)").click()
    page.get_by_text("note 100", exact=True).wait_for()
    page.get_by_text("9,000 steps").wait_for()
    assert page.get_by_role("button", name="Load earlier ones").count() == 0
    notes = [each for each in page.locator(".events li[data-kind=note]").all_inner_texts()]
    assert [int(each.split()[-1]) for each in notes] == list(range(2500, 0, -100)), "each once, in order"
    assert page.locator("select[aria-label=Compare] option").all_text_contents() == ["Step 50", "Step 2,500"]
    run.emit("note", {"text": "note 2600"})
    page.get_by_text("note 2600").wait_for()
    assert page.get_by_text("note 100", exact=True).count() == 1
    run.close()


def test_what_is_judged_and_what_goes_wrong_is_seen(window: Window, runs: Path) -> None:
    """Alarms with their advice, the last one first; accuracy before step 1 and now; less after going back."""
    run = written.begun(runs, "judged", 20, method="dpo")

    def judge(step: int, accuracy: float) -> None:
        measures = {
            "accuracy": {"mean": accuracy, "count": 40, "low": accuracy - 0.1, "high": accuracy + 0.1},
            "margin": {"mean": 2 * accuracy, "count": 40, "low": None, "high": None},
        }
        run.emit("validation", {"loss": 0.5, "terms": {"preference": 0.5}, "measures": measures}, step=step)

    page = window.go("run/judged")
    panel = page.locator("section", has=page.get_by_role("heading", name="What is judged"))
    page.get_by_text("Training began").wait_for()
    assert not panel.is_visible()
    judge(0, 0.5)
    panel.get_by_text("Before step 1").wait_for()
    written.go_on(run, 1, 9, 20)
    judge(5, 0.625)
    run.emit("alarm", {"alarm": "judged.alarm_chosen", "text": "better answers become unlikely"}, step=6)
    judge(8, 0.75)
    run.emit("alarm", {"alarm": "judged.alarm_longer", "text": HOSTILE}, step=8)
    row = panel.locator("tr[data-measure=accuracy]")
    row.get_by_text("75 % (65 % to 85 %)").wait_for()
    assert row.locator("th, td").all_text_contents() == [
        "Better answers told right", "50 % (40 % to 60 %)", "75 % (65 % to 85 %)",
    ]  # fmt: skip
    assert panel.locator("tr[data-measure=margin] td").all_text_contents() == ["1", "1.5"]
    raised = panel.locator("[data-part=alarms] .notice")
    assert until(lambda: raised.count() == 2, SLOW_MS / 1000)
    assert HOSTILE in raised.first.text_content() and "Step 6 better answers" in raised.last.text_content()
    run.emit("resumed", {"from_step": 6, "reason": "checkpoint", "num_steps": 20, "steps_per_epoch": 20})
    assert until(lambda: raised.count() == 1, SLOW_MS / 1000)
    row.get_by_text("63 % (53 % to 73 %)").wait_for()
    run.close()


def test_runs_are_compared(window: Window, runs: Path) -> None:
    written.done(runs, "one", 40, **{"tune.rank": 8})
    written.done(runs, "two", 60, seed=1, **{"tune.rank": 32})
    page = window.go("compare/one")
    page.get_by_text("Choose at least two runs.").wait_for()
    page.get_by_label("Add a run…").select_option("two")
    page.wait_for_url("**/#/compare/one/two")
    cells = page.locator("tr", has=page.get_by_role("rowheader", name="tune.rank")).locator("td")
    assert until(lambda: cells.all_text_contents() == ["8", "32"])
    loss = page.locator(".chart-host").first
    assert until(lambda: "two: " in (loss.get_attribute("aria-label") or ""))
    page.get_by_role("heading", name="Samples").wait_for()
    assert page.get_by_role("rowheader", name="Steps").locator("xpath=..").locator("td").all_text_contents() == [
        "40",
        "60",
    ]


def test_scores_are_compared(window: Window, runs: Path) -> None:
    """Before and after, with intervals; the best one where that can be said."""
    for name, after, values in (("one", 0.5, {}), ("two", 0.75, {}), ("apart", 0.8, {"method.train_on": "last"})):
        run = written.begun(runs, name, 10, **values)
        for step, mean in ((0, 0.25), (10, after)):
            accuracy = {"mean": mean, "count": 20, "low": mean - 0.125, "high": mean + 0.125}
            margin = {"mean": after * step, "count": 20, "low": None, "high": None}
            run.emit("validation", {"loss": 2 - mean, "measures": {"accuracy": accuracy, "margin": margin}}, step)
        written.finish(run, 10)
        run.close()

    def cells(name: str) -> list[str]:
        row = page.locator("section", has_text="Scores on the rows held out").get_by_role("rowheader", name=name)
        return row.locator("xpath=..").locator("td").all_text_contents()

    page = window.go("compare/one/two")
    page.get_by_role("heading", name="Scores on the rows held out").wait_for()
    share = "25 % (13 % to 38 %) → {}"
    assert cells("Better answers told right") == [
        share.format("50 % (38 % to 63 %)"),
        share.format("75 % (63 % to 88 %)") + "best",
    ]
    assert cells("Validation loss") == ["1.75 → 1.5", "1.75 → 1.25best"]
    assert cells("Margin") == ["0 → 5", "0 → 7.5"], "of what a margin is worth nobody says"
    page = window.go("compare/one/apart")
    assert until(lambda: cells("Validation loss") == ["1.75 → 1.5", "1.75 → 1.2"]), "another method's loss"
    assert cells("Better answers told right")[1].endswith("best")
    assert not serious(page)


def test_a_comparison_follows_a_run_that_is_trained(window: Window, runs: Path) -> None:
    written.done(runs, "one", 60)
    run = written.begun(runs, "two", 40)
    written.go_on(run, 1, 5, 40, every=20)
    page = window.go("compare/one/two")
    page.get_by_label("Smoothing").fill("0")
    losses, validations = page.locator(".chart-host").first, page.locator(".chart-host").nth(1)
    assert until(lambda: "two: " in (losses.get_attribute("aria-label") or ""))
    page.get_by_role("button", name="Log scale").click()
    assert "two: nothing measured yet" in (validations.get_attribute("aria-label") or "")
    written.go_on(run, 6, 20, 40, every=20)
    last = f"two: {written.step_data(20, 40)['loss']:.4g} at Step 20"
    assert until(lambda: last in (losses.get_attribute("aria-label") or ""), SLOW_MS / 1000)
    page.locator(".answers", has_text="Paris. (20)").wait_for()
    assert until(lambda: "two: nothing measured yet" not in (validations.get_attribute("aria-label") or ""))
    cells = page.get_by_role("rowheader", name="Steps").locator("xpath=..").locator("td")
    assert until(lambda: cells.all_text_contents() == ["60", "20"])
    assert page.get_by_role("button", name="Log scale").get_attribute("aria-pressed") == "true"
    written.go_on(run, 21, 40, 40, every=20)
    written.finish(run, 40)
    run.close()
    page.locator(".chosen li", has_text="two").locator("[data-state=finished]").first.wait_for()
    assert until(lambda: cells.all_text_contents() == ["60", "40"], SLOW_MS / 1000)


def test_a_run_that_cannot_be_read_is_taken_out_of_a_comparison(window: Window, runs: Path) -> None:
    for name in ("one", "two", "broken"):
        written.done(runs, name, 10)
    (runs / "broken" / "recipe.yaml").write_text("model: [", encoding="utf-8")
    page = window.go("compare/one/two/broken")
    page.locator(".problem").wait_for()
    page.get_by_role("link", name="Take broken away").click()
    page.get_by_role("heading", name="Results").wait_for()


def test_curves_are_smoothed_laid_over_and_zoomed(window: Window, runs: Path) -> None:
    written.done(runs, "one", 100)
    written.done(runs, "two", 150, seed=3)
    page = window.run("one")
    page.get_by_label("Overlay").select_option("two")
    host = page.locator("[data-chart=loss] .chart-host")
    assert until(lambda: "two: " in (host.get_attribute("aria-label") or ""))
    page.get_by_role("button", name="Take two away").click()
    assert until(lambda: "two: " not in (host.get_attribute("aria-label") or ""))
    page.get_by_label("Smoothing").fill("0.9")
    log = page.get_by_role("button", name="Log scale")
    log.click()
    assert log.get_attribute("aria-pressed") == "true"
    over = page.locator("[data-chart=loss] .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40, steps=5)
    page.mouse.up()
    assert until(lambda: page.get_by_label("From step").input_value() != "")
    first, last = (int(page.get_by_label(label).input_value()) for label in ("From step", "To step"))
    assert 20 < first < 30 and 45 < last < 55
    page.locator("[data-chart=loss] summary").click()
    assert until(lambda: window.steps() == list(range(first, last + 1)))


# ------------------------------------------------------------------------------------------------ its parts

READ = """async ([text, size]) => {
    const { events } = await import("./lib/api.js");
    const bytes = new TextEncoder().encode(text);
    const body = new ReadableStream({ start(pipe) {
        for (let at = 0; at < bytes.length; at += size) pipe.enqueue(bytes.slice(at, at + size));
        pipe.close();
    } });
    const found = [];
    for await (const event of events(body)) found.push([event.type, event.id, event.data]);
    return found;
}"""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_in_whatever_pieces_they_come(window: Window, size: int) -> None:
    whole = 'id: 1\ndata: {"text": "损失"}\n\n: here\n\nid: 2\ndata:one\ndata: two\r\n\r\nevent: end\ndata: {}\n\n'
    told = f"{whole}id: 3\ndata: to"
    found = window.go("").evaluate(READ, [told, size])
    assert found == [["message", "1", '{"text": "损失"}'], ["message", "2", "one\ntwo"], ["end", "", "{}"]]


def test_numbers_read_as_people_write_them(window: Window) -> None:
    names = "bytes count duration number percent"
    said = window.go("").evaluate(
        """async (names) => {
            const format = await import("./lib/format.js");
            const asked = { bytes: [0, 999, 1000, 1.5e9, 135598592, null], count: [1234567, NaN],
                duration: [0.04, 59, 61, 3725, 90000],
                number: [0, 1.23456, 0.00012, 12345678, -0.5, 2.5e-7], percent: [0, 0.456, 1] };
            return names.split(" ").map((name) => asked[name].map((value) => format[name](value)));
        }""",
        names,
    )
    assert said == [
        ["0 B", "999 B", "1.0 kB", "1.5 GB", "136 MB", "–"],
        ["1,234,567", "–"],
        ["0.1 s", "59 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"],
        ["0", "1.235", "1.2e-4", "1.23e7", "-0.5", "2.5e-7"],
        ["0 %", "46 %", "100 %"],
    ]


# ------------------------------------------------------------------------------------------------ hostile, everybody


def test_names_and_texts_with_markup_show_as_text(window: Window, runs: Path) -> None:
    run = written.begun(runs, "first", 10, model=HOSTILE)
    written.go_on(run, 1, 5, 10, every=5)
    run.emit("note", {"text": HOSTILE})
    run.emit("died", {"code": 1, "signal": None, "said": [HOSTILE]}, step=5)
    run.close()
    folder = runs / "<img src=x onerror=window.hurt=1>"
    folder.mkdir()
    (folder / "recipe.yaml").write_text((runs / "first" / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    page = window.go("")
    page.get_by_role("link", name=folder.name).wait_for()
    page.get_by_text(HOSTILE).first.wait_for()
    page.get_by_role("link", name=folder.name).click()
    page.get_by_role("heading", name=folder.name).wait_for()
    page = window.go("run/first")
    page.locator(".events", has_text=HOSTILE).wait_for()
    page.locator(".events pre", has_text=HOSTILE).wait_for()
    page = window.go("compare/first/" + "%3Cb%3Ehurt")
    page.get_by_text("<b>hurt").wait_for()
    assert page.evaluate("window.hurt") is None
    assert page.locator("img:not(.brand img)").count() == 0


@pytest.mark.parametrize(("language", "scheme", "width"), LOOKS)
def test_nothing_stands_in_anyones_way(
    browser: Any,
    url: str,
    runs: Path,
    language: str,
    scheme: str,
    width: int,
) -> None:
    window = Window(browser, url, locale=language, color_scheme=scheme, viewport={"width": width, "height": 844})
    _sound(window, "", ".welcome")
    for name in ("one", "two-" + "long" * 20):
        written.done(runs, name, 60)
    shutil.copytree(GOLDEN, runs / "golden")
    queue.submit(written.recipe(runs, "waiting", {}))
    run = written.begun(runs, "going", 30)
    written.go_on(run, 1, 9, 30)
    for route, there in (("", "tr[data-run=going]"), ("run/going", ".u-over"), ("run/golden", "tr[data-check]")):
        _sound(window, route, there)
    _sound(window, f"compare/one/two-{'long' * 20}", ".u-over")
    _sound(window, "nowhere", ".problem")
    window.go("run/two-" + "long" * 20).locator(".page-head .actions button").click()
    assert serious(window.page) == [] and window.page.get_by_role("dialog").is_visible()
    run.close()
    window.close()


def _sound(window: Window, route: str, there: str) -> None:
    """axe-core finds nothing serious, and the page is not wider than the screen."""
    page = window.go(route)
    page.locator(there).first.wait_for()
    assert serious(page) == [], route
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), route


def test_the_keyboard_is_led_to_the_heading_of_each_page(window: Window, runs: Path) -> None:
    written.done(runs, "one", 20)
    page = window.go("")
    page.get_by_role("link", name="one", exact=True).focus()
    page.keyboard.press("Enter")
    assert until(
        lambda: page.evaluate("document.activeElement.tagName + document.activeElement.textContent") == "H1one"
    )
    assert page.title() == "one · Luthier"
    page.get_by_role("link", name="Skip to the content").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#/run/one")


def test_below_a_path_and_with_a_token(browser: Any, place: Path, runs: Path) -> None:  # noqa: F811
    run = written.begun(runs, "first", 30)
    written.go_on(run, 1, 3, 30)
    with server(place, "/user/me/proxy/", ("secret" * 6,)) as address:
        stranger = Window(browser, address)
        stranger.page.goto(address)
        assert "first" not in stranger.page.content() and stranger.page.locator("h1").count() == 0
        stranger.close()
        window = Window(browser, address)
        window.page.goto(f"{address}?token={'secret' * 6}")
        window.page.get_by_role("link", name="first", exact=True).click()
        window.page.locator("[data-chart=loss] summary").click()
        window.has_steps(3)
        written.go_on(run, 4, 6, 30)
        window.has_steps(6)
        window.close()
    run.close()


LIGHT, DARK = (246, 245, 241), (21, 23, 26)
CURVES = {LIGHT: (150, 71, 15), DARK: (234, 161, 92)}
DRAWN_IN = """(wanted) => {
  const canvas = document.querySelector("[data-chart=loss] canvas");
  if (!canvas) return false;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4)
    if (data[at + 3] === 255 && wanted.every((value, index) => value === data[at + index])) return true;
  return false;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_browsers_or_the_one_that_was_chosen(browser: Any, url: str, runs: Path, scheme: str) -> None:
    """Curves too, which are no part of the document."""
    written.done(runs, "one", 40)
    window = Window(browser, url, color_scheme=scheme)
    page = window.run("one")
    theme = page.locator("#theme")
    own = {"light": LIGHT, "dark": DARK}[scheme]
    for wanted in (own, LIGHT, DARK, own):  # as the browser has it, light, dark, and again
        shown = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert shown == f"rgb{wanted}"
        assert until(lambda wanted=wanted: page.evaluate(DRAWN_IN, CURVES[wanted]))
        theme.click()
    window.close()


def test_language_and_theme_are_kept(window: Window) -> None:
    page = window.go("")
    assert page.locator("html").get_attribute("lang") == "en"
    page.get_by_role("button", name="中文").click()
    page.get_by_role("heading", name="训练运行").wait_for()
    page.get_by_role("button", name="主题：跟随系统").click()
    page.get_by_role("button", name="主题：浅色").click()
    page.reload()
    page.get_by_role("heading", name="训练运行").wait_for()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
