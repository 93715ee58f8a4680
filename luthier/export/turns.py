"""What a chat template writes around messages, found by asking it.

What goes in: a renderer. What comes out: `Turns`, the fixed texts before, between and behind messages of each role, as
far as a template is of that form. Whether it is, only a comparison of whole texts tells: `luthier.export.ollama` makes
it. Nothing of the template's source is read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from luthier.data.examples import Message
from luthier.data.renderer import RowRenderer
from luthier.data.sandbox import TemplateFault

SYSTEM, QUESTION, ANSWER, MORE = "SentinelSystem1", "SentinelQuestion2", "SentinelAnswer3", "SentinelQuestion4"
Turn = tuple[str, str]
"""(role, content)"""

_WHOLE = re.compile(r".*[\n>\]]", re.S)
"""What two texts have in common may end in the middle of a control token; this far it does not."""


class Template:
    """The renderer's template without the run's system prompt, and without the BOS that a runtime puts in front."""

    def __init__(self, renderer: RowRenderer) -> None:
        self._renderer = renderer.bare()
        self._renderer.system = None
        vocabulary = renderer.vocabulary
        self.bos = str(vocabulary.variables.get("bos_token") or "") if vocabulary.begins_with_bos else ""
        self.lacks_bos = False

    def text(self, turns: Sequence[Turn], *, generation_prompt: bool = True) -> str | None:
        """None where the template refuses the messages."""
        messages = [Message(role, content) for role, content in turns]
        try:
            text = self._renderer.text(messages, generation_prompt=generation_prompt)
        except TemplateFault:
            return None
        self.lacks_bos = self.lacks_bos or not text.startswith(self.bos)
        return text.removeprefix(self.bos)


@dataclass(frozen=True)
class System:
    """Attributes:
    where: a turn of its own, inside the first or the last question, or nowhere (`ignored`).
    before, after: around its words.
    skips_empty: whether an empty one counts as none.
    """

    where: Literal["own", "first", "last", "ignored"]
    before: str = ""
    after: str = ""
    skips_empty: bool = False


@dataclass(frozen=True)
class Turns:
    """Attributes:
    start: before the first message; where the system message has a turn of its own, only if there is none.
    user, user_end: around a question; answer, answer_end: around an answer that something follows; opening: of the
        answer that is asked for.
    system: None where the template refuses one; later: around one that is not the first message, None as before.
    """

    start: str
    user: str
    user_end: str
    answer: str
    answer_end: str
    opening: str
    system: System | None
    later: tuple[str, str] | None


def find(template: Template) -> Turns | None:
    """None where the template is not of this form."""
    question, answer, more = ("user", QUESTION), ("assistant", ANSWER), ("user", MORE)
    one = split(template.text([question]), QUESTION)
    two = split(template.text([question, answer, more]), QUESTION, ANSWER, MORE)
    if one is None or two is None or (one[0], one[1]) != (two[0], two[3]):
        return None
    (start, tail), (_, middle, between, _) = one, two
    alone = split(template.text([question], generation_prompt=False), QUESTION)
    answered = split(template.text([question, answer], generation_prompt=False), QUESTION, ANSWER)
    user_end = _whole([tail, middle, alone[-1] if alone else ""])
    answer_end = _whole([between, answered[-1] if answered else ""])
    user = _common_end([between.removeprefix(answer_end), start])
    made = Turns(
        start=start.removesuffix(user),
        user=user,
        user_end=user_end,
        answer=middle.removeprefix(user_end),
        answer_end=between.removesuffix(user),
        opening=tail.removeprefix(user_end),
        system=None,
        later=None,
    )
    system = _system(template, made)
    return Turns(**{**vars(made), "system": system, "later": _later(template, made)})


def split(text: str | None, *marks: str) -> list[str] | None:
    """The parts around the marks; None where these do not stand there in this order, each once."""
    if text is None or any(text.count(each) != 1 for each in marks):
        return None
    parts = []
    for mark in marks:
        part, found, text = text.partition(mark)
        if not found:
            return None
        parts.append(part)
    return [*parts, text]


def _system(template: Template, turns: Turns) -> System | None:
    system, question = ("system", SYSTEM), ("user", QUESTION)
    said, unsaid = template.text([system, question]), template.text([question])
    if said == unsaid:
        return System("ignored")
    parts = split(said, SYSTEM, QUESTION)
    if parts is None:
        return None
    before, after, _ = parts
    empty = template.text([("system", ""), question]) == unsaid
    opening = turns.start + turns.user
    if after.endswith(turns.user) and not (before.startswith(opening) and turns.user):
        return System("own", before, after.removesuffix(turns.user), empty)
    if not before.startswith(opening):
        return None
    more = [("assistant", ANSWER), ("user", MORE)]
    last = split(template.text([system, question, *more]), QUESTION, ANSWER, SYSTEM, MORE) is not None
    return System("last" if last else "first", before.removeprefix(opening), after, empty)


def _later(template: Template, turns: Turns) -> tuple[str, str] | None:
    """Around a system message after others, if it reads the same after a question as after an answer."""
    system, question, more = ("system", SYSTEM), ("user", QUESTION), ("user", MORE)
    found = split(template.text([question, ("assistant", ANSWER), system, more]), QUESTION, ANSWER, SYSTEM, MORE)
    if found is None or not found[2].startswith(turns.answer_end) or not found[3].endswith(turns.user):
        return None
    around = found[2].removeprefix(turns.answer_end), found[3].removesuffix(turns.user)
    asked = [turns.start, turns.user, QUESTION, turns.user_end, around[0], SYSTEM, around[1]]
    whole = "".join([*asked, turns.user, MORE, turns.user_end, turns.opening])
    return around if template.text([question, system, more]) == whole else None


def _whole(texts: Sequence[str]) -> str:
    """The beginning that the texts have in common, up to the end of a line or a control token."""
    found = _WHOLE.match(_common(texts))
    return found[0] if found else ""


def _common_end(texts: Sequence[str]) -> str:
    return _common([each[::-1] for each in texts])[::-1]


def _common(texts: Sequence[str]) -> str:
    """The beginning that the texts have in common."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)
