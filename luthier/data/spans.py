"""Conversations to tokens, with the exact place of every answer.

What goes in: messages. What comes out: token ids, and for each answer the stretch from its first token through its stop
token. Answers are found by rendering, never by searching for marker text: the prompt before an answer is the
conversation so far with the beginning of an assistant turn, and the answer is what follows it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.data.formats import Message
from luthier.data.layout import Answer, Layout
from luthier.data.learnt import REMEMBERED, SHORT, LearntByWords, Weighted
from luthier.data.sandbox import Rendering, Template, TemplateFault
from luthier.data.shapes import Shapes
from luthier.data.vocabulary import UNUSABLE, Guard, Tokens, Vocabulary
from luthier.errors import Problem

EXCERPT = 40
"""Characters of text quoted in a message: enough to recognise the place."""
MAX_ROLES = 12
"""Roles spelt out when a conversation's shape is described."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens first..stop (inclusive) are one learnt answer; before `bound` the text still belongs to it."""

    first: int
    stop: int
    bound: int
    answer: Answer


@dataclasses.dataclass(frozen=True)
class Encoded:
    """layout: its positions are those of the text that was tokenised; end: that text's length."""

    layout: Layout
    tokens: Tokens
    end: int

    def at(self, char: int) -> int:
        return self.tokens.at(char, self.end)


class Conversations:
    """Renders and tokenises conversations with one template.

    Args:
        guard: knows which tokens only the template may write.
        stop_ids: tokens that may end an answer; the first is the template's own.
        needs_tools: refuse tools that the template has no place for.
    """

    def __init__(
        self,
        template: Template,
        vocabulary: Vocabulary,
        guard: Guard,
        stop_ids: Sequence[int],
        *,
        needs_tools: bool = True,
    ) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self._guard = guard
        self._stop_ids = frozenset(stop_ids)
        self._needs_tools = needs_tools
        self._stretches: dict[tuple[str, tuple[int, ...], bool], list[int]] = {}
        self._stop = vocabulary.decode([stop_ids[0]], skip_special=False)
        self._shapes = Shapes(self._rendered)
        self._stops = [vocabulary.added.get(each) for each in stop_ids]

    @functools.cached_property
    def _by_words(self) -> LearntByWords | None:
        words, stops = self._vocabulary.words, self._stops
        return None if words is None or None in stops else LearntByWords(words, [s for s in stops if s])

    @property
    def goes_by_words(self) -> bool:
        """Whether `by_words` tells anything."""
        return self._vocabulary.words is not None and self._by_words is not None

    def distrust_words(self) -> None:
        """From here on the tokenizer alone is asked."""
        self._vocabulary.words = None

    def by_words(self, layouts: Sequence[Layout]) -> list[Weighted | None]:
        """The training sequences of layouts; None for those that `encode` and `spans` have to tell."""
        if not self.goes_by_words or self._by_words is None:
            return [None] * len(layouts)
        return self._by_words.sequences(layouts)

    def text(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, generation_prompt: bool = False) -> str:
        """The conversation as the template writes it, nothing wrapped.

        Raises:
            TemplateFault: the template refuses it.
        """
        return self._template.render(plain(messages), tools, generation_prompt=generation_prompt).text

    def arrange(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any],
        weights: Mapping[int, float],
        *,
        generation_prompt: bool = False,
    ) -> Layout | Problem:
        """Render a conversation and find its answers.

        Args:
            weights: index of an assistant message -> weight of its loss; what is absent is context.
            generation_prompt: end with the beginning of an assistant turn.
        """
        if not tools and not generation_prompt and not any(message.extra for message in messages):
            said = "\0".join(message.content for message in messages)
            harmless = (said.isascii() or UNUSABLE.search(said) is None) and not self._guard.touches(said)
            known = self._shapes.layout(messages, weights) if harmless else None
            if known is not None:
                return known
        rows, shape = plain(messages), describe(messages, tools)
        found = unusable(rows) or unusable(list(tools))
        if found:
            return Problem("templates.unusable_character", values={"code": found})
        if tools and self._needs_tools and not self._template.reads_tools:
            return Problem("templates.no_place_for_tools")
        marked = self._guard.touches(rows) or self._guard.touches(list(tools))
        if marked:
            rows, tools = self._guard.mark(rows), self._guard.mark(list(tools))
        try:
            whole = self._template.render(rows, tools, generation_prompt=generation_prompt)
            answers = self._answers(rows, tools, weights, whole, shape)
        except TemplateFault as fault:
            return Problem("templates.refused", values={"shape": shape, "reason": str(fault)})
        if isinstance(answers, Problem):
            return answers
        return Layout(whole.text, marked, answers, whole.generated, shape)

    def _rendered(self, messages: Sequence[Message], weights: Mapping[int, float]) -> Layout | None:
        """`arrange` of a conversation that needs no checks; None where something is wrong with it."""
        rows, shape = plain(messages), describe(messages)
        try:
            whole = self._template.render(rows)
            answers = self._answers(rows, (), weights, whole, shape)
        except TemplateFault:
            return None
        return None if isinstance(answers, Problem) else Layout(whole.text, False, answers, whole.generated, shape)

    def _answers(
        self,
        rows: list[dict[str, Any]],
        tools: Sequence[Any],
        weights: Mapping[int, float],
        whole: Rendering,
        shape: str,
    ) -> tuple[Answer, ...] | Problem:
        answers: list[Answer] = []
        spoken = [index for index, row in enumerate(rows) if row["role"] == "assistant"]
        for number, index in enumerate(spoken, 1):
            weight = weights.get(index, 0.0)
            try:
                prompt = self._template.render(rows[:index], tools, generation_prompt=True).text
            except TemplateFault:
                # Some templates cannot begin with an answer, or with nothing: fatal only where that answer is learnt.
                if weight:
                    raise
                continue
            if not whole.text.startswith(prompt):
                if not weight:
                    continue
                chat, training = _parting(prompt, whole.text)
                values = {"shape": shape, "turn": number, "prompt": chat, "training": training}
                return Problem("templates.prompt_differs", values=values)
            answer = Answer(index, number, len(prompt), len(whole.text), weight)
            answers.append(self._bounded(answer, rows, tools, whole.text) if weight else answer)
        return tuple(answers)

    def _bounded(self, answer: Answer, rows: list[dict[str, Any]], tools: Sequence[Any], whole: str) -> Answer:
        """How far the text reads as if the conversation ended with this answer."""
        if answer.message == len(rows) - 1:
            return answer
        alone = self._template.render(rows[: answer.message + 1], tools).text
        same = _common(alone, whole)
        if same == len(alone):
            return answer._replace(bound=same)
        excerpts = _parting(alone, whole)
        return answer._replace(bound=same, whole=False, alone=excerpts[0], later=excerpts[1])

    def encode(self, layouts: Sequence[Layout]) -> list[Encoded]:
        """Tokenise, in one batch where nothing has to be guarded.

        A tokenizer may join the last characters of a prompt with the first of the answer, or split the prompt
        differently because of what follows. No model that was given the prompt could have written that: there the
        text is tokenised in two pieces.
        """
        free = [index for index, layout in enumerate(layouts) if not layout.marked]
        batch = iter(self._vocabulary.encode_many([layouts[index].text for index in free]))
        encoded = []
        for layout in layouts:
            if layout.marked:
                encoded.append(self._guarded(layout))
                continue
            tokens = next(batch)
            torn = any(self._torn(tokens, layout.text, answer.start, False) for answer in layout.answers)
            encoded.append(self._guarded(layout) if torn else Encoded(layout, tokens, len(layout.text)))
        return encoded

    def _guarded(self, layout: Layout) -> Encoded:
        text, meant = self._guard.prepare(layout.text)

        def moved(char: int) -> int:
            return len(self._guard.prepare(layout.text[:char])[0])

        answers = tuple(each._replace(start=moved(each.start), bound=moved(each.bound)) for each in layout.answers)
        generated = tuple((moved(start), moved(end)) for start, end in layout.generated)
        tokens = self._guard.encode(text, meant)
        torn = [each.start for each in answers if self._torn(tokens, text, each.start, True)]
        if torn:
            tokens = self._guard.encode(text, meant, torn)
        return Encoded(layout._replace(text=text, answers=answers, generated=generated), tokens, len(text))

    def _torn(self, tokens: Tokens, text: str, start: int, prepared: bool) -> bool:
        """Whether the tokens before an answer are other ones than those of the prompt alone.

        Tokens do not reach across a control token, so the stretch from the last one on decides; it is mostly the same
        few characters in every conversation.
        """
        end = tokens.at(start, len(text))
        opening = next((at for at in range(end - 1, -1, -1) if tokens.ids[at] in self._guard.ids), None)
        first = opening or 0
        stretch = text[0 if opening is None else tokens.start_of(opening) : start]
        meant = () if opening is None else (tokens.ids[opening],)  # prepared, all control tokens look the same
        alone = self._stretches.get((stretch, meant, prepared))
        if alone is None:
            alone = self._guard.encode(stretch, meant).ids if prepared else self._vocabulary.ids(stretch)
            if len(stretch) <= SHORT and len(self._stretches) < REMEMBERED:
                self._stretches[stretch, meant, prepared] = alone
        return alone != tokens.ids[first:end]

    def spans(self, encoded: Encoded) -> tuple[Span, ...] | Problem:
        """The learnt answers in tokens."""
        spans = []
        for answer in encoded.layout.answers:
            if not answer.weight:
                continue
            first, bound = encoded.at(answer.start), encoded.at(answer.bound)
            stops = (at for at in range(first, bound) if encoded.tokens.ids[at] in self._stop_ids)
            stop = next(stops, None)
            values = {"shape": encoded.layout.shape, "turn": answer.number}
            if stop is not None:
                spans.append(Span(first, stop, bound, answer))
            elif answer.whole:
                return Problem("templates.turn_without_stop", values={**values, "stop": self._stop})
            else:
                excerpts = {"alone": answer.alone, "later": answer.later}
                return Problem("templates.rewrites_history", values={**values, **excerpts})
        return tuple(spans)


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the dictionaries that templates read."""
    return [{**message.extra, "role": message.role, "content": message.content} for message in messages]


def describe(messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
    """The shape of a conversation in a few words: its roles in order, and whether it brings tools."""
    roles = [message.role for message in messages]
    shown = roles if len(roles) <= MAX_ROLES else [*roles[:MAX_ROLES], "…"]
    return " > ".join([*(["tools"] if tools else []), *shown])


def unusable(value: Any) -> str:
    """The first character (as U+XXXX) in any string of the value that no text can hold; empty where there is none."""
    if isinstance(value, str):
        found = UNUSABLE.search(value)
        return f"U+{ord(found.group()):04X}" if found else ""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return next((code for code in map(unusable, value) if code), "")
    return ""


def _common(a: str, b: str) -> int:
    """Length of the common beginning, by halving: comparing slices is fast, comparing characters is not."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _parting(a: str, b: str) -> tuple[str, str]:
    """What follows in each text where the two part, with a little of what they share."""
    start = max(_common(a, b) - EXCERPT // 2, 0)
    return a[start : start + EXCERPT], b[start : start + EXCERPT]
