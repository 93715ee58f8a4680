"""What the page's own files hold themselves to: two languages that say the same, no markup made of text, nothing from
elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import luthier.web

STATIC = Path(luthier.web.__file__).parent / "static"
LANGUAGES = ("en", "zh")
CALL = re.compile(r"""\b(?:t|has)\(\s*(?:"([^"]+)"|`([^`]+)`)""")
"""A text that is asked for: an id, or a template whose beginning stands in the file."""
ID = re.compile(r"""["'`]((?:common|home|new|run|compare|chat|export)\.[\w.]+)["'`]""")
"""An id that is handed on, and asked for elsewhere."""
MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\(")
CODE = re.compile(r"new Function|srcdoc|javascript:|setAttribute\(\s*[\"'`](?:on|style)")
ELSEWHERE = re.compile(r"\w+://|[\"'`(=]//\w")
NAMESPACE = '"http://www.w3.org/2000/svg"'
"""A name, not an address."""


def own_files(*suffixes: str) -> list[Path]:
    return [path for path in sorted(STATIC.rglob("*")) if path.suffix in suffixes and "vendor" not in path.parts]


def texts(language: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((STATIC / "i18n" / f"{language}.json").read_text(encoding="utf-8"))
    return found


def asked_for() -> tuple[set[str], set[str]]:
    """Ids, and beginnings of ids that are put together."""
    whole, beginnings = set(), set()
    for path in own_files(".js"):
        source = path.read_text(encoding="utf-8")
        for plain, template in CALL.findall(source):
            if plain:
                whole.add(plain)
            else:
                beginnings.add(template.partition("${")[0])
        whole |= set(ID.findall(source)) & set(texts("en"))
    return whole, beginnings


def test_both_languages_have_the_same_ids_with_the_same_placeholders() -> None:
    english, chinese = (texts(language) for language in LANGUAGES)
    assert english.keys() == chinese.keys()
    holes = re.compile(r"\{\w+\}")
    for id, text in english.items():
        assert sorted(set(holes.findall(text))) == sorted(set(holes.findall(chinese[id]))), id
        assert text.strip() and chinese[id].strip(), id


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_texts_are_sorted(language: str) -> None:
    ids = list(texts(language))
    assert ids == sorted(ids)


def test_every_text_that_is_asked_for_is_there_and_every_text_is_asked_for() -> None:
    whole, beginnings = asked_for()
    known = set(texts("en"))
    assert whole - known == set()
    assert [start for start in beginnings if not any(id.startswith(start) for id in known)] == []
    assert [id for id in sorted(known - whole) if not any(id.startswith(start) for start in beginnings)] == []


@pytest.mark.parametrize("path", own_files(".js", ".html"), ids=lambda path: str(path.relative_to(STATIC)))
def test_text_never_becomes_markup_or_code(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert MARKUP.findall(source) == []
    assert CODE.findall(source) == []


@pytest.mark.parametrize("path", own_files(".js", ".html", ".css", ".json"), ids=lambda p: str(p.relative_to(STATIC)))
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    source = path.read_text(encoding="utf-8").replace(NAMESPACE, "")
    assert ELSEWHERE.findall(source) == []


def test_the_html_has_no_script_and_no_style_of_its_own() -> None:
    source = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", source) == []


def test_every_stylesheet_is_asked_for_once() -> None:
    source = (STATIC / "index.html").read_text(encoding="utf-8")
    asked = re.findall(r'rel="stylesheet" href="([^"]+)"', source)
    assert sorted(asked) == sorted(str(path.relative_to(STATIC)) for path in STATIC.rglob("*.css"))


def test_what_is_from_elsewhere_is_listed_with_version_and_licence() -> None:
    listed = (STATIC / "vendor" / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in (STATIC / "vendor").iterdir()} - {"README.md"}
    assert {name for name in files if f"`{name}`" in listed} == files
    version = re.search(r"\(v([\d.]+)\)", (STATIC / "vendor" / "uPlot.esm.js").read_text(encoding="utf-8"))
    assert version is not None and f"| {version[1]} |" in listed
