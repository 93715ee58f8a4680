"""Layouts put together from remembered shapes are those of rendering, for every template and any words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import toy_tokenizers as toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_real_templates import FAMILIES, folder_of, renderer_of  # noqa: F401  fixtures
from test_templates import KINDS, chat, config

from luthier.data.formats import Message
from luthier.data.shapes import Shapes
from luthier.data.templates import Renderer, load_renderer
from luthier.data.traced import StandIn

WORDS = st.lists(st.sampled_from([*"ab \n\t<&\"'\\é你🎻", "</think>", "\ue0f0", "\ue0f1", "aZ "]), max_size=8).map(
    "".join
)
REMEMBERED = ["llama3", "qwen2_5", "gemma", "gemma3", "yi"]
"""Real templates that write words as they are, or trimmed."""


class Nothing(Shapes):
    """Remembers nothing, so that every conversation is rendered."""

    def layout(self, messages: object, weights: object) -> None:
        return None


def assert_same(renderer: Renderer, turns: list[str], weights: dict[int, float]) -> None:
    conversations = renderer._conversations
    assert conversations is not None
    messages = chat(*turns).messages
    found = [conversations.arrange(messages, (), weights) for _ in range(2)]
    own, conversations._shapes = conversations._shapes, Nothing(conversations._rendered)
    try:
        expected = conversations.arrange(messages, (), weights)
    finally:
        conversations._shapes = own
    assert found == [expected, expected]


TURNS = st.lists(WORDS, min_size=2, max_size=4).filter(lambda turns: len(turns) % 2 == 0)
WEIGHTS = st.fixed_dictionaries({1: st.sampled_from([0.0, 0.5, 1.0]), 3: st.sampled_from([0.0, 1.0])})


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(TURNS, WEIGHTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_real_templates(renderer_of: Callable[..., Renderer], family: str, turns, weights) -> None:  # noqa: F811
    assert_same(renderer_of(family), turns, {index: each for index, each in weights.items() if index < len(turns)})


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Renderer]:
    folders = {name: toy.save(make(), tmp_path_factory.mktemp(name)) for name, make in KINDS.items()}
    return {name: load_renderer(folder, config(folder)) for name, folder in folders.items()}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(TURNS, WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_toy_templates(toys: dict[str, Renderer], kind: str, turns, weights) -> None:
    assert_same(toys[kind], turns, {index: each for index, each in weights.items() if index < len(turns)})


@pytest.mark.parametrize("family", REMEMBERED)
def test_plain_templates_are_run_once_for_a_shape(
    renderer_of: Callable[..., Renderer],  # noqa: F811
    family: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conversations = renderer_of(family)._conversations
    assert conversations is not None
    for words in ("Hello", "Other words"):
        conversations.arrange(chat(words, "Fine.", "More?", "Yes.").messages, (), {1: 1.0, 3: 1.0})
    monkeypatch.setattr(conversations._template, "render", None)
    again = conversations.arrange(chat("x", " y", "z", "w ").messages, (), {1: 1.0, 3: 0.25})
    assert [answer.weight for answer in again.answers] == [1.0, 0.25]


def jinja(folder: Path, body: str) -> Shapes:
    """The shapes of a template that writes each message with `body`."""
    template = (
        "{% for message in messages %}{% set words = message.content %}<|im_start|>{{ message.role }}\n" + body
    ) + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    renderer = load_renderer(toy.save(toy.chatml(template), folder), config(folder))
    assert renderer._conversations is not None
    return renderer._conversations._shapes


@pytest.mark.parametrize(
    ("body", "remembered"),
    [
        ("{{ words }}", True),
        ("{{ words | trim }}", True),
        ("{{ words.strip() }}", True),
        ("{{ '> ' + words ~ '' }}", True),
        ("{% if words %}{{ words }}{% endif %}", True),
        ("{% if words != '' and words is string %}{{ words }}{% endif %}", True),
        ("{% if words is iterable and words is not mapping %}{{ words }}{% endif %}", True),
        ("{% macro say(it) %}[{{ it }}]{% endmacro %}{{ say(words) }}", True),
        ("{% set line %}-{{ words }}{% endset %}{{ line }}", True),
        ("{% generation %}{{ words }}{% endgeneration %}", True),
        ("{{ '%s' % words }}", False),
        ("{{ [words, ''] | join }}", False),
        ("{% macro say(it) %}[{{ it }}]{% endmacro %}{{ say(words).replace('x', 'y') }}", False),
        ("{% set line %}-{{ words }}{% endset %}{{ line | upper }}", False),
        ("{% set line = '-' ~ words %}{% if 'x' in line %}!{% endif %}{{ words }}", False),
        ("{% set line = '-' + words + '.' %}{% if '.x' in line %}!{% endif %}{{ words }}", False),
        ("{{ words.strip('x') }}", False),
        ("{{ words | lower }}", False),
        ("{{ words | tojson }}", False),
        ("{{ words | e }}", False),
        ("{{ words[:9999] }}", False),
        ("{{ words.split('</think>')[-1] }}", False),
        ("{{ words | replace('x', 'y') }}", False),
        ("{% if 'x' in words %}!{% endif %}{{ words }}", False),
        ("{% if words | length > 3 %}!{% endif %}{{ words }}", False),
        ("{% if words == 'x' %}!{% endif %}{{ words }}", False),
        ("{% if words.startswith('x') %}!{% endif %}{{ words }}", False),
        ("{% for each in words %}{{ each }}{% endfor %}", False),
        ("{{ {words: 1}.get('x', words) }}", False),
    ],
)
def test_words_that_are_looked_into_are_rendered_each_time(tmp_path: Path, body: str, remembered: bool) -> None:
    shapes = jinja(tmp_path, body)
    messages = (Message("user", "Hello"), Message("assistant", "Fine."))
    assert (shapes.layout(messages, {1: 1.0}) is not None) == remembered
    assert shapes.layout((Message("user", " \n"), Message("assistant", "a")), {1: 1.0}) is None, "blank words"


def test_everything_that_a_string_can_do_is_noted_but_what_is_free() -> None:
    seen: list[str] = []
    words = StandIn(0, "", False, seen)
    for free in (str, repr, bool, iter, lambda w: w + "", lambda w: "" + w, lambda w: w.strip(), lambda w: w == ""):
        free(words)
    assert seen == []
    for use in (len, list, hash, lambda w: w[0], lambda w: "a" in w, lambda w: w == "a", lambda w: w.strip().lstrip()):
        before = len(seen)
        use(words)
        assert len(seen) > before
    for name in ("split", "replace", "startswith", "find", "format", "lower", "isspace", "encode", "__lt__", "__mul__"):
        assert getattr(StandIn, name) is not getattr(str, name)
