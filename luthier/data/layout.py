"""A rendered conversation before tokenisation, and the answers in it.

What goes in: nothing; these are the values that `spans` makes and tokenises. Positions are characters.
"""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """An assistant message within the rendered text (a named tuple, because millions are made).

    Attributes:
        message: its index; number: how many-th answer it is, from 1.
        start: character where it begins; bound: character up to which the text is known to belong to it.
        weight: of its loss; 0 trains nothing.
        whole: whether the text up to here reads the same when the conversation ends with this answer.
        later, alone: excerpts where it does not.
    """

    message: int
    number: int
    start: int
    bound: int
    weight: float
    whole: bool = True
    later: str = ""
    alone: str = ""


class Layout(NamedTuple):
    """A rendered conversation before tokenisation.

    Attributes:
        text: with control tokens that users typed wrapped, where `marked`.
        answers: in order; only those whose prompt is a prefix of the text.
        generated: character ranges that the template itself tags as answers.
        shape: the conversation's shape in words.
    """

    text: str
    marked: bool
    answers: tuple[Answer, ...]
    generated: tuple[tuple[int, int], ...]
    shape: str
