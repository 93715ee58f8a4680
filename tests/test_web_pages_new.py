"""The New run page, as a person uses it: from a file to a finished run, with what goes wrong on the way.

A real server, Debian's Chromium, and nano. What the page shows is held against what the command line says, and what it
starts against the run folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accessibility import serious
from playwright.sync_api import expect
from waiting import until
from web_house import place, server  # noqa: F401  fixtures

from luthier.config.fields import FIELDS
from luthier.config.load import load, loads
from luthier.machine import free_memory_bytes
from luthier.runs.store import RunFolder

STATIC = Path(__file__).resolve().parents[1] / "luthier" / "web" / "static"
SLOW_MS = 90_000
"""For a child process to start, read rows and end, on a machine that does other things."""
RUN_S = 300
ROWS = [{"instruction": f"Say the number {n}", "output": f"The number is {n}. " * (1 + n % 5)} for n in range(160)]
UNNAMED = [{"k1": f"Wie {n}?", "k2": f"So {n}."} for n in range(40)]
LONG = "word " * 3000
HOSTILE = [
    '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>',
    "\u202eright to left\u202c \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e9\u05dc\u05d5\u05dd",
    "{{ constructor.constructor('window.hurt=1')() }} ${window.hurt=1} <b>&lt;",
    "\x07\x1b[31mred\x00",
]
STAGED = """model: nano
data: {validation: 0, max_tokens: 128}
optim: {steps: 1, batch: 2}
run: {name: shop, device: cpu}
stages:
  - {name: first, data: {train: words.jsonl}}
  - {name: second, data: {train: answers.jsonl}}
"""
DRAWN = ".fit:not(.asked), .verdict .strong, .editor, .step > .problems, #start"
"""What stands on a step once the server has answered."""
BIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""70 billion weights: more than a machine that tests holds in any way."""


class Seen:
    """A browser's window on the page. faults: what its console complained of."""

    def __init__(self, context: Any, url: str) -> None:
        self.url, self.faults = url, list[str]()
        self.page = context.new_page()
        self.page.set_default_timeout(SLOW_MS)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self.faults.append(said.text) if "Content Security" in said.text else None)

    def step(self, name: str, query: str = "") -> None:
        self.page.goto(f"{self.url}#/new/{name}{query}")
        self.page.locator(f".stepper a[aria-current=step][href='#/new/{name}']").wait_for()
        self.page.locator(".step > .lead").wait_for()

    def upload(self, name: str, content: str) -> None:
        self.step("data")
        files = [{"name": name, "mimeType": "application/octet-stream", "buffer": content.encode()}]
        self.page.locator(".drop input[type=file]").set_input_files(files)
        self.page.locator(".source").filter(has_text=name).wait_for()

    def checked(self) -> None:
        self.page.locator(".verdict .strong").wait_for()

    def recipe(self, text: str) -> None:
        """Types a recipe into the editor, and waits until the page has read it."""
        self.step("settings")
        self.page.locator(".editor textarea").fill(text)

    def text(self) -> str:
        return str(self.page.locator(".editor textarea").input_value())

    def says(self, part: str) -> None:
        """Waits until the recipe's text holds a part."""
        expect(self.page.locator(".editor textarea")).to_have_value(re.compile(re.escape(part)), timeout=SLOW_MS)

    def field(self, name: str) -> Any:
        return self.page.locator(f'[data-field="{name}"]')


@pytest.fixture
def url(place: Path) -> Iterator[str]:  # noqa: F811
    with server(place) as address:
        yield address


@pytest.fixture
def seen(browser: Any, url: str) -> Iterator[Seen]:
    context = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 900})
    window = Seen(context, url)
    yield window
    context.close()
    assert window.faults == []


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def model(folder: Path, **facts: int) -> None:
    """The description of a model, without weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BIG | facts), encoding="utf-8")


def runs(home: Path) -> list[str]:
    return sorted(path.parent.name for path in (home / "runs").glob("*/recipe.yaml"))


# ------------------------------------------------------------------------------------------------ the whole way


def test_from_a_file_to_a_finished_run(seen: Seen, place: Path) -> None:  # noqa: F811
    page = seen.page
    seen.step("model")
    assert page.locator(".model", has_text="nano").first.locator("input").is_checked()
    page.locator(".model .fit.good").first.wait_for()
    seen.upload("numbers.jsonl", jsonl(ROWS))
    seen.checked()
    counts = {
        each.locator("dt").inner_text(): each.locator("dd").inner_text() for each in page.locator(".counts > div").all()
    }
    assert (counts["rows read"], counts["to learn from"], counts["to test on"]) == ("160", "152", "8")
    page.locator(".histogram .bin").first.wait_for()
    page.get_by_role("button", name="Show the rows").click()
    assert page.locator(".mask mark").first.inner_text().find("The number is") >= 0
    page.get_by_role("button", name="Next").click()
    page.locator(".mask code", has_text="row 2").or_(page.locator(".mask code", has_text=":2")).first.wait_for()
    seen.step("settings")
    page.get_by_role("radio", name=re.compile("Quick")).check()
    page.locator(".gutter").wait_for()
    page.locator("[data-section=optim] > summary").click()
    seen.field("optim.steps").locator("input").fill("2")
    seen.says("steps: 2")
    seen.step("plan")
    page.get_by_role("heading", name="It fits", exact=True).wait_for()
    assert page.locator(".table tbody tr").count() >= 5
    page.locator(".why li", has_text="counted by the check").wait_for()
    seen.step("start")
    assert page.locator("[data-field='run.name'] input").get_attribute("placeholder") == "nano-sft-numbers"
    page.locator("#start:not([disabled])").dblclick()
    page.wait_for_url(re.compile("#/run/nano-sft-numbers$"))
    assert runs(place) == ["nano-sft-numbers"]
    run = RunFolder(place / "runs" / "nano-sft-numbers")
    assert until(lambda: run.state in ("finished", "failed"), RUN_S), run.state
    assert run.state == "finished"
    config = load(run.path / "recipe.yaml")
    assert (config.optim.steps, config.tune.kind, config.data.train[0].path) == (2, "lora", "uploads/numbers.jsonl")
    page.locator(".sample .answer").first.wait_for()
    assert config.run.samples == len(run.history().all_of("samples")[-1].data["samples"]), "it answers meanwhile"
    # Another one begins afresh, or with the recipe of this one; its name is a free one.
    seen.step("settings")
    page.reload()
    expect(page.locator(".editor textarea")).not_to_have_value(re.compile("numbers"), timeout=SLOW_MS)
    seen.step("settings", "?from=nano-sft-numbers")
    seen.says("steps: 2")
    seen.step("model", "?data=uploads/numbers.jsonl")
    seen.step("start")
    expect(seen.field("run.name").locator("input")).to_have_attribute(
        "placeholder", "nano-sft-numbers-2", timeout=SLOW_MS
    )


def test_a_file_is_dropped_pasted_or_picked(seen: Seen, place: Path) -> None:  # noqa: F811
    page = seen.page
    (place / "own").mkdir()
    (place / "own" / "mine.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    seen.step("data")
    transfer = page.evaluate_handle(
        "text => { const data = new DataTransfer(); data.items.add(new File([text], 'dropped.jsonl')); return data; }",
        jsonl(ROWS),
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
    page.locator(".source", has_text="dropped.jsonl").wait_for()
    page.get_by_text("Add another file").click()
    page.get_by_role("button", name="Pick from a folder").click()
    page.get_by_role("button", name="own", exact=True).click()
    page.get_by_role("button", name="mine.jsonl").click()
    page.locator(".source", has_text="mine.jsonl").wait_for()
    page.get_by_text("Add another file").click()
    page.get_by_role("button", name="Paste text").click()
    page.get_by_label("Text", exact=True).fill("instruction,output\nSay one,One\nSay two,Two\n")
    page.get_by_role("button", name="Save and use").click()
    page.locator(".source", has_text="pasted.csv").wait_for()
    seen.step("settings")
    made = page.locator(".editor textarea").input_value()
    assert re.findall(r"[\w/]+\.(?:jsonl|csv)", made) == [
        "uploads/dropped.jsonl",
        "own/mine.jsonl",
        "uploads/pasted.csv",
    ]
    assert (place / "uploads" / "pasted.csv").read_text(encoding="utf-8").startswith("instruction,output")


def test_a_recipe_in_stages_is_planned_and_started(seen: Seen, place: Path) -> None:  # noqa: F811
    page = seen.page
    for name in ("words", "answers"):
        (place / f"{name}.jsonl").write_text(jsonl(ROWS[: 40 if name == "words" else 60]), encoding="utf-8")
    seen.recipe(STAGED)
    page.get_by_role("heading", name="A recipe in stages: 2, one after the other").wait_for()
    listed = page.locator(".stage-list li")
    texts = listed.all_inner_texts()
    assert "words.jsonl" in texts[0] and "Starts from nano." in texts[0] and "Its run: shop-first" in texts[0]
    assert "answers.jsonl" in texts[1] and "Trains on what first made." in texts[1]
    seen.step("data")
    seen.checked()
    count = page.locator(".counts > div", has_text="rows read").locator("dd")
    expect(count).to_have_text("40", timeout=SLOW_MS)
    page.get_by_label("Stage that is looked at").select_option("second")
    expect(count).to_have_text("60", timeout=SLOW_MS)
    page.get_by_role("button", name="Show the rows").click()
    page.locator(".mask code", has_text="answers.jsonl").first.wait_for()
    seen.checked()
    seen.step("plan")
    rows = page.locator("tbody tr[data-stage]")
    expect(rows).to_have_count(2, timeout=SLOW_MS)
    pressed = page.locator("tr[data-stage] button[aria-pressed=true]")
    for name in ("first", "second"):
        page.get_by_role("button", name=name, exact=True).click()
        expect(pressed).to_have_text(name, timeout=SLOW_MS)
        peak = rows.filter(has_text=name).locator("td").nth(1).inner_text()
        assert page.locator("tfoot td").first.inner_text() == peak
        lengths = page.locator(".why li", has_text="counted by the check")
        expect(lengths).to_have_count(1, timeout=SLOW_MS)
    page.locator(".strip", has_text=re.compile(r"\(stage (first|second)\)")).wait_for()
    assert serious(page) == []
    seen.step("start")
    expect(seen.field("run.name").locator("input")).to_have_value("shop", timeout=SLOW_MS)
    page.locator("#start:not([disabled])").dblclick()
    page.wait_for_url(re.compile("#/run/shop-first$"))
    assert runs(place) == ["shop-first", "shop-second"]
    page.locator(".stages li", has_text="shop-second").locator("[data-state=finished]").wait_for(timeout=RUN_S * 1000)
    second = RunFolder(place / "runs" / "shop-second")
    assert second.summary().step == 1 and str(second.config().tune.from_) == "runs/shop-first"
    seen.step("start")
    seen.recipe(STAGED)
    seen.step("start")
    page.get_by_role("button", name="Call it shop-2").wait_for()
    expect(page.locator("#start")).to_be_disabled(timeout=SLOW_MS)


def test_a_wrong_recipe_in_stages_says_where(seen: Seen, place: Path) -> None:  # noqa: F811
    (place / "words.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    wrong = STAGED.replace("name: second", "name: second, tune: {rnak: 3}")
    seen.recipe(wrong)
    seen.page.locator(".recipe .problem", has_text="rnak").first.wait_for()
    line = next(at for at, text in enumerate(wrong.split("\n"), 1) if "rnak" in text)
    seen.page.get_by_role("button", name=f"Go to line {line}").first.click()
    seen.step("start")
    expect(seen.page.locator("#start")).to_be_disabled(timeout=SLOW_MS)
    assert runs(place) == []


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_bad_file_says_which_line(seen: Seen) -> None:
    lines = jsonl(ROWS[:20]).split("\n")
    lines[11] = '{"instruction": "broken'
    seen.upload("bad.jsonl", "\n".join(lines))
    seen.checked()
    error = seen.page.locator(".findings .problem.error").first
    error.wait_for()
    assert "bad.jsonl:12" in error.inner_text()
    seen.page.get_by_role("button", name="Set data.bad_rows=drop").click()
    seen.page.locator(".verdict .good").wait_for()
    assert "bad.jsonl:12" in seen.page.locator(".step").inner_text(), "the row left out is still named"


def test_columns_are_named_on_the_spot(seen: Seen) -> None:
    page = seen.page
    seen.upload("odd.jsonl", jsonl([{"frage": f"Wie {n}?", "antwort": f"So {n}."} for n in range(40)]))
    page.get_by_role("button", name="Use these names").click()
    page.locator(".verdict .good").wait_for()
    seen.step("settings")
    assert loads(seen.text(), "recipe.yaml").data.train[0].columns == {"question": "frage", "answer": "antwort"}


def test_columns_are_chosen_where_no_name_tells(seen: Seen) -> None:
    page = seen.page
    seen.upload("odd.jsonl", jsonl(UNNAMED))
    page.locator(".findings .problem.error").first.wait_for()
    page.get_by_label("Layout of the rows").select_option("alpaca")
    page.get_by_label("instruction", exact=False).first.select_option("k1")
    page.get_by_label("output", exact=False).first.select_option("k2")
    page.locator(".verdict .good").wait_for()
    seen.step("settings")
    source = loads(seen.text(), "recipe.yaml").data.train[0]
    assert (source.format, source.columns) == ("alpaca", {"instruction": "k1", "output": "k2"})


class Held:
    """Requests whose answers are kept back: as a slow machine keeps them, and in the order of the test."""

    def __init__(self, page: Any, path: re.Pattern[str]) -> None:
        self.page, self.path, self.keeps, self.routes = page, path, True, list[Any]()
        page.route(path, lambda route: self.routes.append(route) if self.keeps else route.continue_())

    def arrived(self, number: int = 1) -> None:
        assert until(lambda: self.page.evaluate("1") == 1 and len(self.routes) >= number)

    def let_go(self) -> None:
        """Answers what was kept back, and keeps nothing more; the first answer has then been drawn."""
        self.keeps = False
        with self.page.expect_response(self.path) as answer:
            for route in self.routes:
                route.continue_()
        answer.value.finished()
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_what_is_chosen_while_the_page_is_busy_stays_chosen(seen: Seen) -> None:
    page = seen.page
    seen.upload("odd.jsonl", jsonl(UNNAMED))
    page.locator(".findings .problem.error").first.wait_for()
    rows = Held(page, re.compile(r"/files/content\?.*format=alpaca"))
    page.get_by_label("Layout of the rows").select_option("alpaca")
    rows.arrived()
    edits = Held(page, re.compile(r"/recipe$"))
    page.get_by_label("instruction", exact=False).first.select_option("k1")
    edits.arrived()
    page.evaluate("document.activeElement.blur()")
    rows.let_go()  # The rows under the old names come while the new ones are on their way.
    page.get_by_label("output", exact=False).first.select_option("k2")
    edits.let_go()
    page.locator(".verdict .good").wait_for()
    seen.step("settings")
    source = loads(seen.text(), "recipe.yaml").data.train[0]
    assert (source.format, source.columns) == ("alpaca", {"instruction": "k1", "output": "k2"})


def test_a_keyboard_stays_at_the_list_it_has_chosen_from(seen: Seen) -> None:
    page = seen.page
    seen.upload("odd.jsonl", jsonl(UNNAMED))
    layout = page.get_by_label("Layout of the rows")
    layout.focus()
    page.keyboard.type("instruction, i")
    page.get_by_label("instruction", exact=False).first.wait_for()
    expect(layout).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("instruction", exact=False).first).to_have_value("k1")
    page.keyboard.press("Tab")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    page.locator(".verdict .good").wait_for()
    expect(page.get_by_label("output", exact=False).first).to_be_focused()


def test_files_that_come_one_upon_the_other_are_all_there(seen: Seen, place: Path) -> None:  # noqa: F811
    for name in ("a.jsonl", "b.jsonl"):
        (place / name).write_text(jsonl(ROWS[:40]), encoding="utf-8")
    page = seen.page
    seen.step("data")
    page.get_by_role("button", name="Pick from a folder").click()
    edits = Held(page, re.compile(r"/recipe$"))
    page.get_by_role("button", name="a.jsonl").click()
    edits.arrived()
    page.get_by_role("button", name="Pick from a folder").click()
    page.get_by_role("button", name="b.jsonl").click()
    edits.let_go()
    page.locator(".source", has_text="b.jsonl").wait_for()
    seen.step("settings")
    assert [each.path for each in loads(seen.text(), "recipe.yaml").data.train] == ["a.jsonl", "b.jsonl"]


def test_a_plan_does_not_take_back_what_is_being_chosen(seen: Seen, place: Path) -> None:  # noqa: F811
    (place / "a.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    page = seen.page
    plans = Held(page, re.compile(r"/plan$"))
    seen.recipe("model: nano\ndata: {train: a.jsonl}\noptim: {lr: 1e-4}\n")
    plans.arrived()
    page.locator("[data-section=tune] summary").first.click()
    switch = seen.field("tune.rslora").locator("input")
    switch.wait_for()
    assert not switch.is_checked()
    edits = Held(page, re.compile(r"/recipe$"))
    switch.check()
    edits.arrived()
    plans.let_go()
    assert switch.is_checked()
    edits.let_go()
    seen.says("rslora: true")


def test_a_plan_that_does_not_fit_is_mended_with_one_button(seen: Seen, place: Path) -> None:  # noqa: F811
    # Sixteen bytes a weight, where every weight trains, are twice what is free; two, beside an adapter, a quarter.
    layer = 4 * 2048**2 + 3 * 2048 * 5632
    layers = free_memory_bytes() // 8 // layer
    model(place / "large", hidden_size=2048, intermediate_size=5632, num_attention_heads=16, num_hidden_layers=layers)
    (place / "a.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    seen.recipe("model: large\ndata: {train: a.jsonl, max_tokens: 256}\ntune: full\n")
    seen.page.locator(".recipe .good").wait_for()
    seen.step("plan")
    seen.page.get_by_role("heading", name="It does not fit").wait_for()
    change = seen.page.locator(".notice code").inner_text()
    seen.page.locator("#take-remedy").click()
    seen.page.get_by_role("heading", name="It fits", exact=True).wait_for()
    seen.step("settings")
    assert loads(seen.text(), "recipe.yaml") == load(
        {"model": "large", "data": {"train": "a.jsonl", "max_tokens": 256}, "tune": "full"}, change.split()
    )


def test_a_model_that_fits_in_no_way_says_so(seen: Seen, place: Path) -> None:  # noqa: F811
    model(place / "huge")
    (place / "a.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    seen.recipe("model: huge\ndata: {train: a.jsonl}\n")
    seen.step("plan")
    seen.page.get_by_role("heading", name="It does not fit").wait_for()
    seen.page.get_by_role("button", name="Choose another model").click()
    seen.page.wait_for_url(re.compile("#/new/model$"))


def test_hostile_rows_are_text(seen: Seen, place: Path) -> None:  # noqa: F811
    page = seen.page
    rows = [{"instruction": each, "output": f"{each} {n}"} for n in range(8) for each in [*HOSTILE, LONG[:200] * 3]]
    name = '<img src=x onerror="window.hurt=1"> & co.jsonl'
    (place / name).write_text(jsonl(rows), encoding="utf-8")
    seen.step("data")
    page.get_by_role("button", name="Pick from a folder").click()
    page.get_by_role("button", name=name).click()
    page.locator(".source", has_text=name).wait_for()
    seen.checked()
    page.locator(".source details").first.evaluate("node => node.open = true")
    page.get_by_role("button", name="Show the rows").click()
    page.locator(".mask mark").first.wait_for()
    assert HOSTILE[0] in page.locator(".mask").inner_text()
    for _ in range(3):
        page.get_by_role("button", name="Next").click()
    page.locator(".mask", has_text="⟨0007⟩").wait_for()
    assert page.locator(".step img, .step script, .step b").count() == 0
    assert page.evaluate("window.hurt") is None
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# ------------------------------------------------------------------------------------------------ the recipe both ways


def test_form_and_text_follow_each_other(seen: Seen, place: Path) -> None:  # noqa: F811
    page = seen.page
    (place / "a.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    seen.recipe("model: nano\ndata: {train: a.jsonl}\ntune: {kind: lora, rank: 4}\n")
    page.locator("[data-section=tune] > summary").click()
    rank = seen.field("tune.rank").locator("input.amount")
    page.locator(".strip:not(.asking) .memory-bar").wait_for()
    expect(rank).to_have_value("4", timeout=SLOW_MS)
    rank.fill("32")
    seen.says("rank: 32")
    seen.field("tune.rank").locator(".effect", has_text="memory +").wait_for()
    # A wrong value: the same message beside the field and beside the text, with its line.
    rank.fill("many")
    seen.field("tune.rank").locator(".problem", has_text="whole number").wait_for()
    number = next(at for at, line in enumerate(seen.text().split("\n"), 1) if "rank" in line)
    page.get_by_role("button", name=f"Go to line {number}").click()
    assert "rank: many" in page.evaluate(
        "() => { const t = document.activeElement; return t.value.slice(t.selectionStart, t.selectionEnd); }"
    )
    # A text that cannot be read stops the form, which goes on once it can.
    page.locator(".editor textarea").fill("model: nano\n  data: [\n")
    page.locator(".recipe .problem").first.wait_for()
    expect(rank).to_be_disabled(timeout=SLOW_MS)
    page.locator(".editor textarea").fill("model: nano\ndata: {train: a.jsonl}\ntune: {rank: 8}\n")
    expect(rank).to_have_value("8", timeout=SLOW_MS)
    assert rank.is_enabled()
    seen.field("tune.rank").get_by_role("button", name="Back to default").click()
    expect(page.locator(".editor textarea")).not_to_have_value(re.compile("rank"), timeout=SLOW_MS)


def test_a_kind_takes_its_own_fields_along(seen: Seen, place: Path) -> None:  # noqa: F811
    page = seen.page
    (place / "a.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    seen.recipe("model: nano\ndata: {train: a.jsonl}\ntune: {kind: lora, rank: 4}\n")
    page.locator("[data-section=tune] > summary").click()
    page.get_by_role("radio", name=re.compile("^Everything")).check()
    seen.says("tune: full")
    assert seen.field("tune.rank").count() == 0
    page.get_by_label("What it learns from").select_option("distill")
    seen.field("method.teacher").locator("input").wait_for()


def test_a_problem_leads_to_its_field(seen: Seen) -> None:
    page = seen.page
    seen.recipe("model: nano\ndata: {train: a.jsonl, bad_rows: skip}\noptim: {lr: 99}\n")
    page.locator(".recipe .problem").nth(1).wait_for()
    seen.step("plan")
    page.get_by_role("button", name="Go to: Learning rate").click()
    page.wait_for_url(re.compile("#/new/settings$"))
    page.locator(".mend li", has_text="Learning rate").wait_for()
    expect(seen.field("optim.lr").locator("input.amount")).to_be_focused(timeout=SLOW_MS)
    seen.step("plan")
    page.get_by_role("button", name="Go to: Rows that are wrong").click()
    page.wait_for_url(re.compile("#/new/data$"))
    page.locator("h1").focus()
    page.locator(".mend button", has_text="Rows that are wrong").click()
    expect(seen.field("data.bad_rows").locator("input").first).to_be_focused(timeout=SLOW_MS)


# ------------------------------------------------------------------------------------------------ nothing lost


def test_a_reload_keeps_everything(seen: Seen) -> None:
    page = seen.page
    seen.upload("numbers.jsonl", jsonl(ROWS))
    seen.checked()
    seen.recipe("model: nano\ndata:\n  train: uploads/numbers.jsonl\noptim: {lr: 1e-3")
    page.locator(".recipe .problem").first.wait_for()
    page.reload()
    page.locator(".editor textarea").wait_for()
    assert seen.text().endswith("optim: {lr: 1e-3"), "what cannot be read yet is kept too"
    page.locator(".editor textarea").fill(seen.text() + "}\n")
    page.locator(".recipe .good").wait_for()
    page.goto(f"{seen.url}#/new/data")
    page.reload()
    seen.checked()
    jobs = page.evaluate("fetch('api/jobs', {headers: {'X-Luthier': '1'}}).then(answer => answer.json())")["jobs"]
    assert sum(job["kind"] == "check" for job in jobs) <= 2, "a check that is there is not made again"


def test_two_people_cannot_take_one_name(browser: Any, url: str, place: Path) -> None:  # noqa: F811
    (place / "a.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    recipe = "model: nano\ndata: {{train: a.jsonl}}\noptim: {{steps: 1, lr: {lr}}}\nrun: {{name: shared}}\n"
    contexts = [browser.new_context(locale="en-US") for _ in range(2)]
    first, second = (Seen(context, url) for context in contexts)
    for window, lr in ((first, 1e-3), (second, 2e-3)):
        window.recipe(recipe.format(lr=lr))
        window.page.locator(".recipe .good").wait_for()
        window.step("start")
        window.page.locator("#start:not([disabled])").wait_for()
    first.page.locator("#start").click()
    first.page.wait_for_url(re.compile("#/run/shared$"))
    second.page.locator("#start").click()
    second.page.locator(".problem", has_text="shared").first.wait_for()
    assert runs(place) == ["shared"]
    assert load(place / "runs" / "shared" / "recipe.yaml").optim.lr == 1e-3
    second.page.reload()
    second.page.get_by_role("button", name="Call it shared-2").click()
    second.page.locator("#start:not([disabled])").click()
    second.page.wait_for_url(re.compile("#/run/shared-2$"))
    assert runs(place) == ["shared", "shared-2"]
    for context in contexts:
        context.close()


def test_a_server_that_is_gone_is_said_and_nothing_is_lost(seen: Seen) -> None:
    page = seen.page
    seen.recipe("model: nano\n")
    page.context.set_offline(True)
    page.locator("[data-section=tune] > summary").click()
    seen.field("tune.rank").locator("input.amount").fill("32")
    page.locator(".trouble .problem").wait_for()
    page.context.set_offline(False)
    expect(page.locator(".trouble .problem")).to_have_count(0, timeout=SLOW_MS)
    seen.field("tune.rank").locator("input.amount").fill("64")
    seen.says("rank: 64")


# ------------------------------------------------------------------------------------------------ for everybody


@pytest.mark.parametrize(("language", "scheme", "width"), [("en-US", "light", 1280), ("zh-CN", "dark", 390)])
def test_nothing_stands_in_anyones_way(browser: Any, url: str, language: str, scheme: str, width: int) -> None:
    """axe-core finds nothing serious, and no step is wider than the screen."""
    context = browser.new_context(locale=language, color_scheme=scheme, viewport={"width": width, "height": 844})
    window = Seen(context, url)
    bad = [*ROWS[:30], {"instruction": "", "output": ""}]
    window.upload("numbers.jsonl", jsonl(bad))
    window.checked()
    window.recipe("model: nano\ndata: {train: uploads/numbers.jsonl}\noptim: {lr: 99}\n")
    window.page.locator(".recipe .problem").first.wait_for()
    for section in ("model", "data", "method", "tune", "optim", "run"):
        window.page.locator(f"[data-section={section}] > summary").click()
    for step in ("settings", "model", "data", "plan", "start"):
        window.step(step)
        window.page.locator(f":is({DRAWN}):visible").first.wait_for()
        assert serious(window.page) == [], step
        assert window.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), step
    context.close()
    assert window.faults == []


def test_the_keyboard_is_enough(seen: Seen, place: Path) -> None:  # noqa: F811
    page = seen.page
    (place / "a.jsonl").write_text(jsonl(ROWS), encoding="utf-8")
    seen.step("data")
    page.get_by_role("button", name="Pick from a folder").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="a.jsonl").focus()
    page.keyboard.press("Enter")
    page.locator(".source").wait_for()
    seen.step("settings")
    page.get_by_role("radio", name=re.compile("Balanced")).focus()
    page.keyboard.press("ArrowRight")
    seen.says("rank: 64")
    assert page.get_by_role("radio", name=re.compile("Thorough")).is_checked()


def test_every_field_has_a_name_in_both_languages() -> None:
    for language in ("en", "zh"):
        texts = json.loads((STATIC / "i18n" / f"{language}.json").read_text(encoding="utf-8"))
        assert [name for name in FIELDS if f"new.label.{name}" not in texts] == []
