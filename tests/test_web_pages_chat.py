"""Chat and export, as a person sees them: in a browser, with models that really answer.

The oracle of what is written is a session with the same adapters on. Only what takes long, or needs a hub, is answered
by the test in the server's place.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from accessibility import serious
from test_ollama import read
from test_web_pages_run import HOSTILE, LOOKS, Window
from test_web_talk import folder  # noqa: F401  a fixture
from waiting import until
from web_house import GUARD, server

from luthier.data.formats import Message
from luthier.export import ollama
from luthier.sampling import Sampling
from luthier.session import Session, open_session

LOADING_MS = 180_000
QUESTION = "Say birch and cedar, slowly"


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(folder)
        with server(folder) as address:
            yield address


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:  # noqa: F811
    opened = open_session(folder / "runs" / "first")
    opened.load(folder / "runs" / "second")
    return opened


class Chat(Window):
    def open(self, target: str, columns: int) -> Any:
        page = self.go(f"chat?target={target}")
        page.locator(".open-models [data-state=ready]").first.wait_for(timeout=LOADING_MS)
        page.locator(f"[data-column='{columns - 1}']").wait_for()
        self.set("Longest answer", "12")
        return page

    def set(self, label: str, value: str) -> None:
        if self.page.locator("details.panel").get_attribute("open") is None:
            self.page.locator("details.panel > summary").click()
        self.page.get_by_label(label, exact=True).fill(value)

    def ask(self, text: str) -> list[str]:
        """The answers, from left to right."""
        turns = self.page.locator(".turn").count()
        self.page.locator(".composer textarea").fill(text)
        self.page.keyboard.press("Enter")
        return self.answers(turns)

    def answers(self, turn: int) -> list[str]:
        cards = self.page.locator(".turn").nth(turn).locator(".chat-answer")
        cards.first.wait_for()
        assert until(lambda: "writing" not in self.states(turn), LOADING_MS / 1000)
        return [cards.nth(each).locator(".said").text_content() for each in range(cards.count())]

    def states(self, turn: int) -> list[str]:
        return (
            self.page.locator(".turn")
            .nth(turn)
            .locator(".chat-answer")
            .evaluate_all("cards => cards.map(card => card.dataset.state)")
        )

    def act(self, turn: int, column: int, name: str) -> None:
        self.page.locator(".turn").nth(turn).locator(".chat-answer").nth(column).locator(f"[data-act={name}]").click()


@pytest.fixture
def chat(browser: Any, url: str) -> Iterator[Chat]:
    opened = Chat(browser, url)
    yield opened
    opened.close()


def said(session: Session, *turns: str, system: str = "", **how: Any) -> str:
    """What the session answers after these turns, the user's and its own in turn."""
    roles = ("user", "assistant")
    asked = [Message(roles[place % 2], text) for place, text in enumerate(turns)]
    head = [Message("system", system)] if system else []
    return session.answer([*head, *asked], Sampling(max_tokens=12), **how)


# ------------------------------------------------------------------------------------------------ asking


def test_a_run_and_its_base_answer_side_by_side_and_each_goes_on_with_its_own(chat: Chat, session: Session) -> None:
    page = chat.open("first", 2)
    first = chat.ask(QUESTION)
    assert first == [said(session, QUESTION, tuned=False), said(session, QUESTION)]
    assert first[0] != first[1], "or nobody could tell who has answered"
    names = page.locator(".chat-answer .voice-name").all_text_contents()
    assert names == ["base", "first"]
    # One whose answer depends on which of the two came before.
    told = {
        further: [said(session, QUESTION, before, further) for before in first]
        for further in ("And cedar", "And oak", "Count to 7", "Why", "More of it", "Say ash")
    }
    further = next(each for each, (after_base, own) in told.items() if after_base != own)
    second = chat.ask(further)
    assert second == [said(session, QUESTION, first[0], further, tuned=False), told[further][1]]
    page.reload()
    page.locator(".turn").nth(1).wait_for()
    assert chat.answers(0) == first and chat.answers(1) == second, "a reload loses nothing"
    page.locator("#language").click()
    page.get_by_role("heading", name="对话").wait_for()
    assert chat.answers(1) == second, "nor does another language"
    page.get_by_role("button", name="新对话").click()
    assert page.locator(".turn").count() == 0


def test_adapters_are_stacked_with_strengths_and_nothing_is_loaded_for_it(chat: Chat, session: Session) -> None:
    page = chat.open("first&adapters=second", 3)
    third = page.locator("[data-column='2']")
    third.locator("summary").click()
    third.get_by_label("first", exact=True).fill("0.5")
    third.get_by_label("second", exact=True).fill("1.25")
    third.get_by_label("second", exact=True).press("ArrowLeft")
    assert (
        page.locator(".voice select").nth(2).evaluate("box => box.selectedOptions[0].text")
        == "first × 0.5 + second × 1.2"
    )
    voice = session.mix({"first": 0.5, "second": 1.2})
    wanted = [said(session, QUESTION, **how) for how in ({"tuned": False}, {}, {"voice": voice})]
    assert chat.ask(QUESTION) == wanted and len(set(wanted)) == 3
    page.locator(".voice select").nth(0).select_option(label="second")
    answers = chat.ask(QUESTION + " again")
    assert answers[0] == said(session, QUESTION, chat.answers(0)[0], QUESTION + " again", voice="second")
    page.get_by_label("Remove column 2").click()
    assert page.locator(".voice").count() == 2 and chat.answers(1) == [answers[0], answers[2]]
    page.get_by_role("button", name="Add a column").click()
    assert page.locator(".voice select").nth(2).evaluate("box => box.selectedOptions[0].text") == "base (base)"
    assert page.locator(".turn").nth(0).locator(".chat-answer").count() == 2, "it was not asked then"
    assert len(chat.ask("Once more")) == 3


def test_what_is_asked_and_answered_stays_text(chat: Chat) -> None:
    page = chat.open("first", 2)
    chat.ask(HOSTILE)
    assert page.locator(".question .said").text_content() == HOSTILE
    assert page.locator(".turns img, .turns script").count() == 0 and page.evaluate("() => window.hurt") is None
    chat.act(0, 1, "edit")
    page.locator(".chat-answer textarea").fill(HOSTILE)
    page.get_by_role("button", name="Take over").click()
    assert chat.answers(0)[1] == HOSTILE and page.locator(".turns img").count() == 0


def test_characters_and_a_system_prompt_come_before_every_question(chat: Chat, session: Session, folder: Path) -> None:  # noqa: F811
    character = {"name": "Ada", "system": "Count.", "greeting": "One.", "sampling": {"max_tokens": 12}}
    (folder / "characters.yaml").write_text(json.dumps([character]))
    try:
        page = chat.open("first", 2)
        page.get_by_label("Character").select_option("Ada")
        assert page.locator("details.panel textarea").input_value() == "Count."
        assert chat.ask(QUESTION)[1] == said(session, QUESTION, system="Count.")
        chat.set("System prompt", "Be brief.")
        assert chat.ask("And")[1] == said(session, QUESTION, chat.answers(0)[1], "And", system="Be brief.")
    finally:
        (folder / "characters.yaml").unlink()


def test_an_answer_is_stopped_and_asked_again_and_what_is_refused_says_why(chat: Chat, session: Session) -> None:
    page = chat.open("first", 2)
    page.route("**/completions", lambda route: None)  # never answered
    page.locator(".composer textarea").fill(QUESTION)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    assert until(lambda: chat.states(0) == ["stopped", "stopped"], 30)
    page.unroute("**/completions")
    chat.act(0, 1, "again")
    assert until(lambda: chat.states(0) == ["stopped", "done"], 60)
    assert chat.answers(0)[1] == said(session, QUESTION)
    chat.set("Longest answer", "30000")
    chat.ask("And")
    assert chat.states(1) == ["failed", "failed"]
    assert "context" in page.locator(".turn").nth(1).locator(".problem").first.text_content()


# ------------------------------------------------------------------------------------------------ rows


def test_good_answers_become_rows(chat: Chat, folder: Path) -> None:  # noqa: F811
    page = chat.open("first", 2)
    answers = chat.ask(QUESTION)
    page.get_by_label("Name of the files").fill("talk")
    chat.act(0, 0, "vote-down")
    chat.act(0, 1, "vote-up")
    chat.act(0, 1, "prefer")
    page.locator("code", has_text="uploads/talk-preferences.jsonl").wait_for()
    chat.act(0, 1, "edit")
    page.locator(".chat-answer textarea").fill("Birch.")
    page.get_by_role("button", name="Take over").click()
    chat.act(0, 1, "keep")
    page.locator("code", has_text=re.compile(r"uploads/talk\.jsonl")).wait_for()
    chat.act(0, 1, "prefer")
    page.get_by_text("preferences: 3").wait_for()
    page.get_by_role("button", name="Write the votes (2)").click()
    page.get_by_text("votes: 2").wait_for()
    assert page.get_by_role("button", name=re.compile("Write the votes")).count() == 0, "each vote is written once"

    def rows(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / "uploads" / f"{name}.jsonl").read_text().splitlines()]

    asked, turn = [{"role": "user", "content": QUESTION}], lambda text: {"role": "assistant", "content": text}
    assert rows("talk") == [{"messages": [*asked, turn("Birch.")]}]
    assert rows("talk-preferences") == [
        {"prompt": asked, "chosen": [turn(chosen)], "rejected": [turn(rejected)]}
        for chosen, rejected in ((answers[1], answers[0]), ("Birch.", answers[0]), ("Birch.", answers[1]))
    ]
    assert [each["label"] for each in rows("talk-votes")] == [False, True]
    links = page.get_by_role("link", name="Train on these")
    assert [links.nth(n).get_attribute("href") for n in (0, 1)] == [
        f"#/new?data=uploads%2Ftalk{end}.jsonl" for end in ("-preferences", "")
    ]


# ------------------------------------------------------------------------------------------------ models


def test_a_model_that_is_not_there_is_told_and_closed(chat: Chat) -> None:
    page = chat.go("chat")
    if page.locator("form.opener").is_hidden():
        page.get_by_role("button", name="Open a model").click()
    page.get_by_label("Model or run").select_option(label="Another: folder or hub id")
    page.get_by_label("Another: folder or hub id").fill("nowhere-at-all")
    page.get_by_role("button", name="Open", exact=True).click()
    failed = page.locator(".open-models [data-state=failed] .problem")
    failed.wait_for(timeout=LOADING_MS)
    assert "nowhere-at-all" in failed.text_content()
    page.get_by_label(re.compile("Close nowhere-at-all")).click()
    failed.wait_for(state="detached")


def test_an_adapter_comes_and_goes_in_a_chat_that_is_open(chat: Chat) -> None:
    page = chat.open("first", 2)
    row = page.locator(".open-models li").first
    if row.get_by_label("Take second off").count():
        row.get_by_label("Take second off").click()
        row.get_by_label("Take second off").wait_for(state="detached")
    row.get_by_label(re.compile("Add an adapter")).select_option("second")
    row.get_by_label("Take second off").wait_for()
    page.locator(".voice select").nth(1).select_option(label="second")
    assert len(chat.ask(QUESTION)) == 2
    row.get_by_label("Take second off").click()
    page.locator(".voice .warn").wait_for()
    page.locator(".composer textarea").fill(QUESTION)
    page.keyboard.press("Enter")
    left_out = page.locator(".turn").nth(1).locator(".chat-answer").nth(1)
    assert left_out.text_content() == "Was not asked.", "the other column answers"
    row.get_by_label(re.compile("Add an adapter")).select_option("otherwise")
    page.locator("[data-id='web.chat_refused']").wait_for()


@pytest.mark.parametrize(("locale", "scheme", "width"), LOOKS)
def test_anybody_can_use_both_pages(browser: Any, url: str, locale: str, scheme: str, width: int) -> None:
    window = Chat(browser, url, locale=locale, color_scheme=scheme, viewport={"width": width, "height": 844})
    page = window.go("chat?target=first")
    page.locator("[data-column='1']").wait_for(timeout=LOADING_MS)
    page.locator("details.panel > summary").click()
    page.locator(".voice summary").first.click()
    window.ask(QUESTION)
    window.act(0, 0, "vote-up")
    assert serious(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the window"
    page = window.go("export/first")
    for summary in page.locator("main summary").all():
        summary.click()
    assert serious(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    window.close()


# ------------------------------------------------------------------------------------------------ export


class Jobs:
    """Answers for jobs in the server's place. asked: what was ordered."""

    def __init__(self, page: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.listed: list[dict[str, Any]] = []
        page.route("**/api/jobs", self._route)
        page.route("**/api/jobs/*", lambda route: route.fulfill(json=self.answers[-1]))

    def _route(self, route: Any) -> None:
        if route.request.method == "GET":
            return route.fulfill(json={"jobs": self.listed})
        self.asked.append(route.request.post_data_json)
        route.fulfill(json=self.answers[len(self.asked) - 1])


def job(state: str, **more: Any) -> dict[str, Any]:
    plain = {"id": "0" * 16, "kind": "merge", "arguments": {}, "started_s": 0, "ended_s": None, "code": None}
    return {**plain, "state": state, "result": None, "problems": [], "log": [], "run": "first", **more}


def test_a_merge_is_made_and_proved_and_can_be_taken_away(chat: Chat, url: str, folder: Path) -> None:  # noqa: F811
    page = chat.go("export/first")
    page.locator("[data-make=merge]").get_by_role("button", name="Merge").click()
    page.locator("[data-make=merge] [data-check=agreement][data-status=pass]").wait_for(timeout=LOADING_MS)
    made = page.locator("[data-what=merged]")
    made.wait_for()
    path = made.get_by_role("link", name="Download first-merged").get_attribute("href")
    whole = httpx2.get(url + path, headers=GUARD, timeout=60)
    assert whole.status_code == 200 and whole.content.startswith(b"PK"), "a folder comes as a zip"
    made.locator("summary", has_text="Files").click()
    link = made.get_by_role("link", name="config.json", exact=True).get_attribute("href")
    config = (folder / "runs" / "first-merged" / "config.json").read_bytes()
    assert httpx2.get(url + link, headers=GUARD, timeout=60).content == config


def test_a_merge_that_disagrees_is_written_only_when_that_is_asked_for(chat: Chat) -> None:
    jobs = Jobs(chat.page)
    refused = {"id": "export.disagrees", "where": "", "field": "", "value": "", "rule": "it differs", "remedy": "look"}
    failed = [{"name": "agreement", "status": "fail", "bound": "1", "evidence": "2", "text": "agrees"}]
    jobs.answers = [
        job("failed", problems=[refused]),
        job("done", result={"path": "/x/y", "receipt": {"checks": failed}}),
    ]
    page = chat.go("export/first")
    make = page.locator("[data-make=merge]")
    anyway = make.get_by_role("button", name="Write it all the same")
    assert anyway.is_hidden()
    make.get_by_role("button", name="Merge").click()
    make.locator("[data-id='export.disagrees']").wait_for()
    assert "force" not in jobs.asked[0]
    anyway.click()
    make.locator("[data-check=agreement][data-status=fail]").wait_for()
    assert jobs.asked[1]["force"] is True and anyway.is_hidden()


def test_types_are_ordered_with_their_sizes_and_a_job_is_found_again(chat: Chat) -> None:
    jobs = Jobs(chat.page)
    running = job("running", kind="export", arguments={"types": ["q8_0"]}, log=["40 % of the tensors written"])
    jobs.listed, jobs.answers = [running], [running]
    page = chat.go("export/first")
    make = page.locator("[data-make=gguf]")
    make.get_by_text("40 % written").wait_for()
    assert make.locator("progress").get_attribute("value") == "0.4"
    jobs.answers = [job("done", kind="export", result={"path": "/x/first-gguf", "receipt": {"checks": []}})]
    make.get_by_text("Written: first-gguf").wait_for()
    make.get_by_label("q8_0").check()
    make.get_by_text("Modelfile for Ollama").click()
    make.get_by_role("button", name="Write GGUF").click()
    assert until(lambda: len(jobs.asked) == 1, 20)
    assert jobs.asked[0]["types"] == ["q4_k_m", "q8_0"] and jobs.asked[0]["ollama"] is True
    assert jobs.asked[0]["out"].endswith("/first-gguf")


def test_a_model_is_exported_for_ollama(chat: Chat, url: str, folder: Path) -> None:  # noqa: F811
    """Its Modelfile is read as Ollama reads it, and its template run as Go does."""
    page = chat.go("export/first")
    make = page.locator("[data-make=gguf]")
    make.get_by_label("q4_k_m").uncheck()
    make.get_by_label("q8_0").check()
    make.get_by_text("Modelfile for Ollama").click()
    make.get_by_role("button", name="Write GGUF").click()
    make.get_by_text("Written: first-gguf").wait_for(timeout=LOADING_MS)
    make.locator("[data-check=gguf_tokens_q8_0][data-status=pass]").wait_for()
    assert make.locator("[data-check=ollama_template_Modelfile]").get_attribute("data-status") in ("pass", "not run")
    assert make.locator("[data-check=ollama_load_Modelfile]").get_attribute("data-status") == "not run"
    made = page.locator("[data-what=gguf]")
    made.locator("summary", has_text="Files").click()
    link = made.get_by_role("link", name="Modelfile", exact=True).get_attribute("href")
    text = httpx2.get(url + link, headers=GUARD, timeout=60).text
    assert text == (folder / "runs" / "first-gguf" / "Modelfile").read_text(encoding="utf-8")
    found = read(text)
    assert (folder / "runs" / "first-gguf" / found["FROM"][0]).is_file()
    renderer = open_session(folder / "runs" / "first").renderer
    asked = renderer.text([Message("user", QUESTION)], generation_prompt=True)
    said = (*(("system", each) for each in found.get("SYSTEM", ())), ("user", QUESTION))
    assert asked.endswith(ollama.written(found["TEMPLATE"][0], said) or "nothing")


def test_what_ollama_cannot_say_is_told_where_it_was_asked_for(chat: Chat, folder: Path) -> None:  # noqa: F811
    shutil.copytree(folder / "runs" / "first", folder / "runs" / "loud")
    template = folder / "runs" / "loud" / "adapter" / "chat_template.jinja"
    source, content = template.read_text(), "message['content']"
    assert content in source
    template.write_text(source.replace(content, f"({content} | upper)"))
    try:
        page = chat.go("export/loud")
        make = page.locator("[data-make=gguf]")
        make.get_by_text("Modelfile for Ollama").click()
        make.get_by_role("button", name="Write GGUF").click()
        told = make.locator("[data-id='ollama.form']")
        told.wait_for(timeout=LOADING_MS)
        assert "this chat template cannot be said in Ollama's words" in told.inner_text()
        assert "Export without --ollama." in told.inner_text()
        assert not (folder / "runs" / "loud-gguf").exists(), "nothing is written"
        assert page.locator("[data-what=gguf]").count() == 0
        assert serious(page) == []
    finally:
        shutil.rmtree(folder / "runs" / "loud")


def test_nothing_is_sent_to_a_hub_before_it_was_seen(chat: Chat) -> None:
    jobs = Jobs(chat.page)
    seen = {
        "url": "https://hub/me/first",
        "public": False,
        "exists": True,
        "changes": {"a.json": "new"},
        "bytes": {"a.json": 5},
    }
    told = {**seen, "others": ["b"], "left_out": [], "notes": ["careful"], "dry_run": True, "commit": None}
    jobs.answers = [job("done", kind="push", result=told)] * 2 + [
        job("done", kind="push", result={**told, "commit": "c"})
    ]
    page = chat.go("export/first")
    make = page.locator("[data-make=push]")
    send = make.get_by_role("button", name="Send")
    look = make.get_by_role("button", name="Look what would be sent")
    make.get_by_label("Repository", exact=True).fill("me/first")
    assert send.is_hidden()
    look.click()
    make.get_by_text("careful").wait_for()
    make.get_by_label("Public: everybody may see it").check()
    assert send.is_hidden(), "what was seen is not what would be sent"
    look.click()
    send.click()
    make.get_by_text("Sent, in one commit").wait_for()
    assert [(each["dry_run"], each["public"]) for each in jobs.asked] == [(True, False), (True, True), (False, True)]


def test_without_a_name_the_finished_runs_are_offered(chat: Chat) -> None:
    page = chat.go("export")
    page.get_by_role("link", name="second").click()
    page.get_by_role("heading", name="Export second").wait_for()
