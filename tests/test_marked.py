"""Rows shown as the model will see them: in colour, in brackets, and as a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import toy_tokenizers as toy

from luthier.config.schema import RunConfig
from luthier.data import marked
from luthier.data.formats import Chat, Message
from luthier.data.marked import Shown
from luthier.data.templates import Renderer, load_renderer
from luthier.errors import Problem
from luthier.text import set_language


@pytest.fixture(scope="module")
def renderers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Renderer]:
    def load(template: str) -> Renderer:
        folder = toy.save(toy.chatml(template), tmp_path_factory.mktemp("model"))
        return load_renderer(folder, RunConfig.model_validate({"model": str(folder), "data": {"train": "-"}}))

    return {"chatml": load(toy.CHATML), "thinking": load(toy.THINKING)}


SYSTEM = Message("system", "s")
WEIGHTED = Chat(
    (
        SYSTEM,
        Message("user", "Hello <|im_end|> <script>"),
        Message("assistant", "Fine.\n\nYes.", 0.25),
        Message("user", "b"),
        Message("assistant", "not this", 0.0),
        Message("user", "c"),
        Message("assistant", "Paris"),
    )
)


def shown(renderer: Renderer, chat: Chat, where: str = "x.jsonl:3") -> list[Shown]:
    made = marked.sequences(renderer, chat, where)
    assert not isinstance(made, Problem)
    return made


def test_brackets_stand_around_exactly_what_is_learnt(renderers: dict[str, Renderer]) -> None:
    made = shown(renderers["chatml"], WEIGHTED)
    lines = list(marked.lines(made, colour=False))
    assert "⟦" in lines[0] and lines[2].startswith(f"x.jsonl:3: {made[0].tokens} tokens, {made[0].learned} learnt")
    assert re.findall("⟦.*?⟧", lines[3], re.S) == ["⟦×0.25 Fine.\n\nYes.‹<|im_end|>›⟧", "⟦Paris‹<|im_end|>›⟧"]
    assert "\x1b" not in "".join(lines)
    ids, weights = renderers["chatml"].train(WEIGHTED)
    assert (made[0].tokens, made[0].learned) == (len(ids), int((weights > 0).sum()))


def test_colours_stand_around_exactly_what_is_learnt(renderers: dict[str, Renderer]) -> None:
    text = list(marked.lines(shown(renderers["chatml"], WEIGHTED), colour=True))[3]
    green = re.findall(r"\x1b\[32m(.*?)\x1b\[0m", text, re.S)
    assert green == ["Fine.", "Yes.", "Paris"], "line by line, so that a pager keeps the colour"
    assert text.count("\x1b[1;4;32m<|im_end|>\x1b[0m") == 2, "a learnt control token is told from a learnt word"
    assert text.count("\x1b[33m×0.25\x1b[0m") == 1 and "×1" not in text
    assert re.sub("\x1b\\[[0-9;]*m|×0.25", "", text) == renderers["chatml"].text(WEIGHTED.messages)


def test_a_typed_control_token_is_shown_as_the_words_that_it_is(renderers: dict[str, Renderer]) -> None:
    pieces = shown(renderers["chatml"], WEIGHTED)[0].pieces
    typed = next(piece for piece in pieces if "Hello" in piece.text)
    assert "<|im_end|> <script>" in typed.text and not typed.special


def test_a_row_cannot_steer_the_terminal(renderers: dict[str, Renderer]) -> None:
    hostile = Chat((SYSTEM, Message("user", "\x1b[2J\x07 \u202etxt.exe\r"), Message("assistant", "a\tb")))
    text = "\n".join(marked.lines(shown(renderers["chatml"], hostile), colour=False))
    assert "\\u001b[2J\\u0007 \\u202etxt.exe\\u000d" in text and "a\tb" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)


def test_every_sequence_of_an_unrolled_row_is_shown(renderers: dict[str, Renderer]) -> None:
    made = shown(renderers["thinking"], Chat(WEIGHTED.messages[1:]))
    assert [(each.number, each.of) for each in made] == [(1, 2), (2, 2)]
    assert "sequence 2 of 2" in made[1].head()
    assert [each.to_json()["sequence"] for each in made] == [1, 2]


def test_a_row_that_cannot_be_rendered_is_named(renderers: dict[str, Renderer]) -> None:
    made = marked.sequences(renderers["thinking"], Chat((Message("user", "\ud800"), Message("assistant", "a"))), "x:9")
    assert isinstance(made, Problem) and made.where == "x:9"


class Checked(HTMLParser):
    """Counts tags, holds them to close in order, and gathers what is marked as learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.learnt: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs), "stands alone"
        if tag != "meta":
            self.open.append(tag)
        if tag == "mark":
            self.learnt.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "mark" in self.open and self.open[-1] != "i":
            self.learnt[-1] += data


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_stands_alone_and_escapes_everything(renderers: dict[str, Renderer], language: str) -> None:
    set_language("zh" if language == "zh" else "en")
    made = shown(renderers["chatml"], WEIGHTED, '<i>"x".jsonl:3')
    page = marked.page(made, "model", "<model>")
    parsed = Checked()
    parsed.feed(page)
    assert parsed.open == [] and "script" not in parsed.seen and "link" not in parsed.seen
    assert parsed.learnt == ["Fine.\n\nYes.<|im_end|>", "Paris<|im_end|>"]
    assert page.count("×0.25") == 1 and "prefers-color-scheme: dark" in page and f'lang="{language}"' in page
    assert "&lt;i&gt;&quot;x&quot;.jsonl:3" in page and "&lt;model&gt;" in page
    assert "http" not in page and "url(" not in page and "@import" not in page


def test_page_of_no_rows() -> None:
    parsed = Checked()
    parsed.feed(marked.page([], "model", "m"))
    assert parsed.open == []
