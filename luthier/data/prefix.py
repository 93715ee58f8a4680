"""What token sequences have in common at their beginnings.

What goes in: the token ids of some examples. What comes out: the stretches of tokens of which they are made, each
there once however many examples go through it, as a tree; and a number for every token that stands for it and all
before it. Nothing is known of other examples than those given: a step has few, and finds what they share by sorting
them.

A stretch of its own costs attention a call for itself and one for each that follows it, which can then not run with
others of its length. It is made where the tokens it saves are worth those calls; otherwise its tokens are repeated in
front of each that follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Ints

Ids = NDArray[np.int32]


class Stretch(NamedTuple):
    """Tokens start:end of `example` (and of every other that goes through it).

    parent: the stretch they follow, which comes earlier in the list; -1 for none, and `start` is then 0.
    ends: the examples whose last token is the last of this one, ascending.
    """

    start: int
    end: int
    example: int
    parent: int
    ends: tuple[int, ...]


@dataclass
class _Node:
    """The same with the stretches that follow it, while the tree grows."""

    start: int
    end: int
    ends: list[int] = field(default_factory=list)
    following: list[_Node] = field(default_factory=list)
    example: int = -1


def keys(ids: Ids) -> Ints:
    """int64 [T]: the same for two tokens exactly where they and all tokens before them are the same.

    A running sum of hashes of (position, id); two that should differ agree by chance once in 2^64.
    """
    places = np.arange(len(ids), dtype=np.uint64) << np.uint64(32)
    return np.cumsum(_mixed(places | ids.astype(np.uint64))).view(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def apart(sequences: Sequence[Ids]) -> list[Stretch]:
    """Every example by itself."""
    return [Stretch(0, len(ids), example, -1, (example,)) for example, ids in enumerate(sequences)]


def shared(sequences: Sequence[Ids], call_tokens: int) -> list[Stretch]:
    """The stretches of the examples, none of them empty; without anything in common, `apart`.

    Args:
        call_tokens: how many tokens could be computed in the time that one more call of attention takes.
    """
    root = _tree(sequences)
    _dissolve(root, call_tokens)
    made: list[Stretch] = []
    waiting = [(node, -1) for node in reversed(root.following)]
    while waiting:
        node, parent = waiting.pop()
        waiting += [(after, len(made)) for after in reversed(node.following)]
        made.append(Stretch(node.start, node.end, node.example, parent, tuple(node.ends)))
    return made


def only(stretches: Sequence[Stretch], examples: Sequence[int]) -> list[Stretch]:
    """Those that some of the examples, ascending, are made of, with examples numbered by their place among these. One
    that a single other follows becomes one with it, since nothing is shared there any more."""
    number = {example: place for place, example in enumerate(examples)}
    ends = [tuple(number[example] for example in each.ends if example in number) for each in stretches]
    first = [each[0] if each else len(examples) for each in ends]
    uses = [int(bool(each)) for each in ends]
    for index in range(len(stretches) - 1, -1, -1):
        parent = stretches[index].parent
        if uses[index] and parent >= 0:
            uses[parent] += 1
            first[parent] = min(first[parent], first[index])
    made: list[Stretch] = []
    place: dict[int, tuple[int, int]] = {-1: (-1, 0)}  # index -> where what follows it goes, and begins
    for index, each in enumerate(stretches):
        if not uses[index]:
            continue
        parent, start = place[each.parent]
        if uses[index] == 1 and not ends[index]:
            place[index] = parent, start
            continue
        place[index] = len(made), each.end
        made.append(Stretch(start, each.end, first[index], parent, ends[index]))
    return made


def _tree(sequences: Sequence[Ids]) -> _Node:
    """In sorted order each example goes along with the one before for a while, and then its own way. What follows a
    stretch stands in the order of the examples."""
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].astype(">u4").tobytes())
    root = _Node(0, 0)
    trail = [root]
    for before, index in zip([None, *order], order, strict=False):
        together = 0 if before is None else _common(sequences[before], sequences[index])
        passed = None
        while trail[-1].end > together:
            passed = trail.pop()
        if trail[-1].end < together:
            assert passed is not None, "the one before was at least as long"
            fork = _Node(passed.start, together, following=[passed])
            trail[-1].following[-1] = fork
            passed.start = together
            trail.append(fork)
        if len(sequences[index]) == together and trail[-1] is not root:
            trail[-1].ends.append(index)
            continue
        leaf = _Node(together, len(sequences[index]), [index])
        trail[-1].following.append(leaf)
        trail.append(leaf)
    _put_in_order(root)
    return root


def _put_in_order(root: _Node) -> None:
    """Each stretch is of the first example that goes through it; what follows a stretch stands in that order."""
    for node in reversed(list(_nodes(root))):
        node.ends.sort()
        node.following.sort(key=lambda after: after.example)
        node.example = min([*node.ends[:1], *(after.example for after in node.following[:1])], default=-1)


def _nodes(root: _Node) -> Iterator[_Node]:
    """Each before those that follow it."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.following


def _common(one: Ids, other: Ids) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length


def _dissolve(root: _Node, call_tokens: int) -> None:
    """Repeat the stretches that are not worth their calls in front of what follows them, from the beginning on: one
    further on is then longer, and worth more."""
    for node in _nodes(root):
        kept: list[_Node] = []
        waiting = node.following[::-1]
        while waiting:
            after = waiting.pop()
            uses = len(after.following) + bool(after.ends)
            saved = (after.end - after.start) * (uses - 1)
            if not after.following or saved >= call_tokens * (1 + len(after.following)):
                kept.append(after)
                continue
            for each in after.following:
                each.start = after.start
            if after.ends:
                kept.append(_Node(after.start, after.end, after.ends, example=after.ends[0]))
            waiting += after.following[::-1]
        kept.sort(key=lambda each: each.example)
        node.following = kept
