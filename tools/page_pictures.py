"""Takes the pictures of the page that `docs/ui.md` shows.

    python tools/page_pictures.py FOLDER [NAME...]

What goes in: a folder, in which nano is trained on a few tasks the first time (minutes), and the names of pictures, all
where none is named. What comes out: `docs/pictures/NAME.png`, of Chromium, light, with at most 256 colours.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import luthier
from luthier.nano import task
from luthier.runs.store import RunFolder
from luthier.web.page import Page as Server

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
FACTS = {
    "model": "nano",
    "data": {"train": "people.json", "max_tokens": 256, "bad_rows": "drop", "validation": 0.1},
    "method": "sft",
    "optim": {"lr": 4e-3, "steps": 40, "batch": 8},
    "run": {"samples": 3, "validate_every": 10, "device": "cpu"},
}
JUDGED = {
    "data": {"train": "judged.json", "max_tokens": 512, "validation": 0.2},
    "method": "dpo",
    "optim": {"lr": 1e-3, "steps": 40, "batch": 8},
}
RUNS: dict[str, dict[str, Any]] = {
    "facts": {"tune": {"kind": "lora", "rank": 16}},
    "facts-wide": {"tune": {"kind": "lora", "rank": 64}},
    "judged": {**JUDGED, "tune": {"kind": "lora", "rank": 16}},
    "judged-wide": {**JUDGED, "tune": {"kind": "lora", "rank": 64}},
}
LIVE = {**FACTS, "tune": "full", "optim": {"lr": 1e-3, "steps": 2000, "batch": 8}}
STAGED = """model: nano
run: {name: facts}
stages:
  - name: learn
    method: sft
    data: {train: people.json, bad_rows: drop}
  - name: prefer
    method: dpo
    data: {train: judged.json}
    optim: {lr: 1.0e-5}
"""
MODELS = {
    # name: (licence, bytes of its weights, which take no room: nothing reads them; configuration)
    "llama-3.1-70b": (
        "llama3.1",
        141_107_497_872,
        {
            **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192},
            **{"intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
            **{"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5},
            **{"rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
        },
    ),
    "qwen2.5-0.5b": (
        "apache-2.0",
        988_097_824,
        {
            **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896},
            **{"intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
            **{"num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6},
            **{"rope_theta": 1e6, "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
        },
    ),
}
QUESTIONS = [each["input"] for each in task.examples(7, 2, held_out=True)]
LIVE_STEPS = 150
"""Of the run that is seen while it is trained, before it is seen."""
WAIT_MS = 60_000


# ---------------------------------------------------------------------------------------------------- what is shown


def make(home: Path) -> None:
    """Rows, models and runs; those that are there are kept."""
    rows: list[dict[str, str]] = task.examples(0, 398)
    rows = [*rows[:58], rows[56], *rows[58:], {"instruction": task.INSTRUCTION}]
    (home / "people.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    (home / "judged.json").write_text(json.dumps([*map(judged, task.examples(1, 400))], ensure_ascii=False))
    for name, (licence, size, config) in MODELS.items():
        folder = home / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        (folder / "model.safetensors").touch()
        os.truncate(folder / "model.safetensors", size)
    for name, own in RUNS.items():
        if not (home / "runs" / name / "receipt.json").is_file():
            luthier.train({**FACTS, **own, "run": {**FACTS["run"], "name": name}})


def judged(row: dict[str, str]) -> dict[str, Any]:
    """The right answer, and one in which two facts have changed places."""
    facts = json.loads(row["output"])
    one, other = random.Random(row["input"]).sample(sorted(facts), 2)
    wrong = {**facts, one: facts[other], other: facts[one]}
    prompt = f"{row['instruction']}\n{row['input']}"
    return {"prompt": prompt, "chosen": row["output"], "rejected": json.dumps(wrong, ensure_ascii=False)}


# ---------------------------------------------------------------------------------------------------- pictures


class Window:
    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        page.set_default_timeout(WAIT_MS)

    def go(self, route: str, width: int, height: int) -> Page:
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}#/{route}")
        self.page.locator("h1").wait_for()
        return self.page

    def step(self, name: str, height: int = 900) -> Page:
        page = self.go(f"new/{name}", 1280, height)
        page.locator(".step > .lead").wait_for()
        return page

    def recipe(self, text: str) -> Page:
        page = self.step("settings")
        page.locator(".editor textarea").fill(text)
        page.get_by_text("The recipe is right.").wait_for()
        return page

    def checked(self) -> Page:
        page = self.step("data")
        page.locator(".verdict .strong").wait_for()
        return page

    def taken(self, name: str, *, at: str = "") -> None:
        """at: what is to stand at the top."""
        self.page.evaluate("document.activeElement?.blur()")
        if at:
            self.page.locator(at).first.evaluate(
                "(node) => window.scrollBy(0, node.getBoundingClientRect().top - 72)",
            )
        self.page.mouse.move(2, 2)
        self.page.wait_for_timeout(1500)
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            self.page.screenshot(path=file.name)
            flat = Image.open(file.name).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            flat.save(PICTURES / f"{name}.png", optimize=True)


RECIPE = "model: nano\ndata:\n  train: people.json\n  bad_rows: drop\nmethod: sft\ntune: lora\n"


def new_model(window: Window) -> None:
    window.step("model").evaluate("sessionStorage.clear()")
    page = window.step("model")
    page.locator(".fit:not(.asked)").nth(2).wait_for()
    window.taken("new-model")


def new_data(window: Window) -> None:
    window.recipe(RECIPE)
    window.checked()
    window.taken("new-data", at=".panel:has(.counts)")


def new_rows(window: Window) -> None:
    window.recipe(RECIPE)
    page = window.checked()
    page.get_by_role("button", name="Show the rows").click()
    page.get_by_role("button", name="Next").click()
    page.locator(".mask code", has_text="(row 2)").wait_for()
    window.taken("new-rows", at=".panel:has(.mask)")


def new_settings(window: Window) -> None:
    window.recipe(RECIPE)
    window.checked()
    page = window.step("settings")
    page.locator("summary", has_text="What is trained").click()
    field = page.locator('[data-field="tune.rank"]')
    field.locator("input").first.fill("64")
    field.get_by_text("memory +").wait_for()
    window.taken("new-settings", at="details:has([data-field='tune.rank'])")


def new_plan(window: Window) -> None:
    window.recipe(RECIPE)
    window.checked()
    page = window.step("plan", 1100)
    page.get_by_text("counted by the check").wait_for()
    window.taken("new-plan")


def new_stages(window: Window) -> None:
    window.recipe(STAGED)
    page = window.checked()
    page.get_by_label("Stage that is looked at").select_option("prefer")
    page.locator(".counts > div", has_text="kept").locator("dd", has_text="400").wait_for()
    page = window.step("plan", 1100)
    page.locator("tbody tr[data-stage]").nth(1).wait_for()
    page.get_by_text("counted by the check").wait_for()
    window.taken("new-stages")


def home(window: Window) -> None:
    page = window.go("", 1200, 800)
    page.locator("[data-state=running]").first.wait_for()
    window.taken("home")


def run(window: Window) -> None:
    page = window.go("run/facts-live", 1200, 1080)
    page.locator("[data-chart=loss] .chart-host[aria-label*='Validation: ']").wait_for()
    window.taken("run")


def run_judged(window: Window) -> None:
    page = window.go("run/judged", 1200, 1000)
    page.locator("[data-measure=accuracy]").wait_for()
    window.taken("run-judged")


def compare(window: Window) -> None:
    page = window.go("compare/judged/judged-wide", 1200, 1560)
    page.get_by_role("heading", name="Scores on the rows held out").wait_for()
    window.taken("compare")


def chat(window: Window) -> None:
    page = window.go("chat?target=facts", 1200, 1300)
    page.locator(".open-models [data-state=ready]").first.wait_for()
    if page.locator(".voice").count() < 3:
        page.get_by_role("button", name="Add a column").click()
    page.locator(".voice select").nth(2).select_option(label="facts")
    third = page.locator("[data-column='2']")
    third.locator("details").evaluate("(box) => (box.open = true)")
    third.get_by_label("facts", exact=True).fill("0.5")
    for turn, question in enumerate(QUESTIONS):
        page.locator(".composer textarea").fill(f"{task.INSTRUCTION}\n{question}")
        page.keyboard.press("Enter")
        page.locator(".turn").nth(turn).locator(".chat-answer[data-state=done]").nth(2).wait_for()
    answer = page.locator(".turn").first.locator(".chat-answer").nth(1)
    answer.locator("[data-act=vote-up]").click()
    answer.locator("[data-act=prefer]").click()
    page.locator("#toasts button").first.click()
    window.taken("chat")


def export(window: Window) -> None:
    page = window.go("export/facts", 1200, 1640)
    if not page.locator("[data-what=merged]").count():
        page.locator("[data-make=merge]").get_by_role("button", name="Merge").click()
        page.locator("[data-what=merged]").wait_for()
    if not page.locator("[data-what=gguf]").count():
        make = page.locator("[data-make=gguf]")
        make.get_by_label("q8_0").check()
        make.get_by_role("button", name="Write GGUF").click()
        page.locator("[data-what=gguf]").wait_for()
    page = window.go("export/facts", 1200, 1640)
    page.locator("[data-what=gguf] summary", has_text="Checks").click()
    window.taken("export")


TAKEN: dict[str, Callable[[Window], None]] = {
    **{"new-model": new_model, "new-data": new_data, "new-rows": new_rows, "new-settings": new_settings},
    **{"new-plan": new_plan, "new-stages": new_stages, "home": home, "run": run, "run-judged": run_judged},
    **{"compare": compare, "chat": chat, "export": export},
}


def main(folder: str, *names: str) -> None:
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    os.environ["LUTHIER_CACHE"] = str(place.with_name(f"{place.name}-cache"))
    os.chdir(place)
    make(place)
    server = Server(place / "runs", ("127.0.0.1", 0), "/", (), sys.stderr)
    server.start(open_page=False, block=False)
    live = None
    try:
        if not names or {"home", "run"} & set(names):
            shutil.rmtree(place / "runs" / "facts-live", ignore_errors=True)
            (place / "live.yaml").write_text(json.dumps({**LIVE, "run": {**LIVE["run"], "name": "facts-live"}}))
            live = subprocess.Popen([sys.executable, "-m", "luthier", "train", "live.yaml"], stderr=subprocess.DEVNULL)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            context = chromium.new_context(locale="en-US", color_scheme="light")
            window = Window(context.new_page(), server.url)
            for name in names or TAKEN:
                while name in ("home", "run") and RunFolder(place / "runs" / "facts-live").summary().step < LIVE_STEPS:
                    time.sleep(1)
                TAKEN[name](window)
                print(name, (PICTURES / f"{name}.png").stat().st_size)
            chromium.close()
    finally:
        if live is not None:
            live.terminate()
            live.wait()
        server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
