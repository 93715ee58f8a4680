"""Examples to flat micro-batches.

What goes in: token sequences and the number of tokens a micro-batch may hold. What comes out: micro-batches without
padding whose union is exactly the sequences. Tokens behind the last learnt one, and that one itself, are left out:
nothing that is learnt looks at them, so they would be computed for nothing. Beginnings that sequences have in common
are there once (`luthier.data.prefix`), and sequences that have much in common go into one micro-batch.

Shape legend: N flat tokens of a micro-batch, M scored rows, Q sequences.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from luthier.batch import MARGIN, SIDE, TERM, Batch, Floats, Ints, Rendered, Segments
from luthier.data import prefix
from luthier.data.prefix import Stretch
from luthier.data.sequences import Sequences
from luthier.data.store import computed_tokens

CALL_TOKENS = {"cpu": 24, "cuda": 256}
"""Tokens that could be computed in the time of one more call of attention. On a CPU measured (`bench/prefix.py`): of
SmolLM2-135M's shape eight rows take as long apart as shared where they share 8 to 16 tokens, which is 6 to 12 tokens a
call; of a toy of two layers 64 wide 50, 25 to 50 a call, and there little is to be lost. On a GPU not measured: some
ten launches a layer more, 50 us, are the matmuls of 250 tokens of a model of 0.5B parameters."""
BLOCK = 4096
"""Sequences of a store that are looked through for common beginnings at one time: sorting them takes a blink, and
reading a whole store before its first sequence is computed does not. Chosen, not tuned."""


def call_tokens(device: str) -> int:
    """`CALL_TOKENS` of a torch device string."""
    return CALL_TOKENS["cuda" if device.startswith("cuda") else "cpu"]


def microbatches(examples: Sequence[Rendered], budget_tokens: int, call_tokens: int | None = None) -> tuple[Batch, ...]:
    """Split examples into micro-batches of at most `budget_tokens` tokens, each stretch that is shared counted once; a
    longer example gets one of its own.

    Without anything shared the split depends on the lengths and their order only; sequences of equal length stand side
    by side, longest first.

    Args:
        call_tokens: as in `luthier.data.prefix.shared`; None shares nothing.
    """
    made = []
    for group, stretches in _parts_of(examples, budget_tokens, call_tokens):
        made.append(assemble([examples[index] for index in group], stretches))
    return tuple(made)


def count(examples: Sequence[Rendered], budget_tokens: int, call_tokens: int | None = None) -> int:
    """How many micro-batches `microbatches` makes."""
    return len(_parts_of(examples, budget_tokens, call_tokens)) if examples else 0


def _parts_of(
    examples: Sequence[Rendered], budget_tokens: int, call_tokens: int | None
) -> list[tuple[list[int], list[Stretch]]]:
    """As `_parts`; sequences of one group stay together, unless they are too long even by themselves."""
    return _parts([_computed(each) for each in examples], budget_tokens, call_tokens, _atoms(examples), parted=True)


def _atoms(examples: Sequence[Rendered]) -> list[list[int]] | None:
    """Places of the sequences of each group, in order; None where every sequence is by itself."""
    found: dict[tuple[bool, int], list[int]] = {}
    for place, each in enumerate(examples):
        found.setdefault((each.group < 0, place if each.group < 0 else each.group), []).append(place)
    return list(found.values()) if len(found) < len(examples) else None


def _computed(example: Rendered) -> NDArray[np.int32]:
    """The tokens that enter the model."""
    return example.ids[: computed_tokens(example.weights)]


def _parts(
    sequences: Sequence[NDArray[np.int32]],
    budget_tokens: int,
    call_tokens: int | None,
    atoms: Sequence[Sequence[int]] | None = None,
    parted: bool = False,
) -> list[tuple[list[int], list[Stretch]]]:
    """Examples of each micro-batch, and the stretches they are made of.

    Args:
        atoms: examples that belong together; parted: those that are too long come one by one nevertheless.
    """
    stretches = prefix.apart(sequences) if call_tokens is None else prefix.shared(sequences, call_tokens)
    if atoms is not None:
        made = _whole_atoms(stretches, atoms, budget_tokens, parted)
        return [(sorted(group), prefix.only(stretches, sorted(group))) for group in made]
    if len(stretches) == len(sequences) and all(each.parent < 0 for each in stretches):
        plain = groups(np.asarray([len(ids) for ids in sequences], dtype=np.int64), budget_tokens)
        return [(group, prefix.apart([sequences[index] for index in group])) for group in plain]
    return [(sorted(group), prefix.only(stretches, sorted(group))) for group in _families(stretches, budget_tokens)]


def _whole_atoms(
    stretches: Sequence[Stretch], atoms: Sequence[Sequence[int]], budget_tokens: int, parted: bool
) -> list[list[int]]:
    """Examples of each micro-batch, atoms whole: clusters of atoms that begin alike together where they fit, and filled
    one after the other where they do not. parted: an atom that is too long by itself comes example by example."""
    made: list[list[int]] = []
    items: list[list[int]] = []
    for cluster in _clusters(stretches, atoms):
        if _tokens(stretches, [example for atom in cluster for example in atom]) <= budget_tokens:
            items.append([example for atom in cluster for example in atom])
            continue
        waiting: list[int] = []
        for atom in cluster:
            if waiting and _tokens(stretches, [*waiting, *atom]) > budget_tokens:
                items.append(waiting)
                waiting = []
            if parted and _tokens(stretches, atom) > budget_tokens:
                made += [[example] for example in atom]
            else:
                waiting = [*waiting, *atom]
        if waiting:
            items.append(waiting)
    costs = np.asarray([_tokens(stretches, item) for item in items], dtype=np.int64)
    return [
        *made,
        *([example for place in group for example in items[place]] for group in groups(costs, budget_tokens)),
    ]


def _clusters(stretches: Sequence[Stretch], atoms: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Atoms that have something in common, directly or through others; in order."""
    root: list[int] = []  # stretch -> the first one of its tree
    of_example: dict[int, int] = {}
    for index, each in enumerate(stretches):
        root.append(root[each.parent] if each.parent >= 0 else index)
        of_example.update(dict.fromkeys(each.ends, root[index]))
    found: dict[int, list[Sequence[int]]] = {}
    of_root: dict[int, int] = {}
    for place, atom in enumerate(atoms):
        roots = {of_example[example] for example in atom}
        joined = sorted({of_root[each] for each in roots if each in of_root})
        target = joined[0] if joined else place
        for other in joined[1:]:
            found[target] += found.pop(other)
            of_root.update({each: target for each, cluster in of_root.items() if cluster == other})
        found.setdefault(target, []).append(atom)
        of_root.update(dict.fromkeys(roots, target))
    return list(found.values())


def _tokens(stretches: Sequence[Stretch], examples: Sequence[int]) -> int:
    return sum(each.end - each.start for each in prefix.only(stretches, sorted(examples)))


def _families(stretches: Sequence[Stretch], budget_tokens: int) -> list[list[int]]:
    """Examples of each micro-batch, from the ends of the tree to its root: what follows a stretch is packed into the
    room that the tokens before leave, and each group so made is packed further up as one."""
    waiting: dict[int, list[tuple[int, list[int]]]] = {}
    for index in range(len(stretches) - 1, -2, -1):
        room = budget_tokens - (stretches[index].end if index >= 0 else 0)
        items = waiting.pop(index, [])[::-1]
        costs = np.asarray([cost for cost, _ in items], dtype=np.int64)
        packed = [
            (int(costs[group].sum()), [example for place in group for example in items[place][1]])
            for group in groups(costs, room)
        ]
        if index < 0:
            return [examples for _, examples in packed]
        each = stretches[index]
        if not packed:
            packed = [(0, [])]
        packed[0][1].extend(each.ends)  # nothing is computed for an example that ends here
        own = each.end - each.start
        waiting.setdefault(each.parent, []).extend((own + cost, examples) for cost, examples in packed[::-1])
    raise AssertionError("the root comes last")


def fullest(store: Sequences, budget_tokens: int, most: int, times: int = 1) -> Batch:
    """A micro-batch that no real one of at most `most` sequences, each at most `times`, has more tokens than: the
    longest sequences, the last of them cut to fill the budget, and what is cut learnt throughout."""
    chosen: list[Rendered] = []
    room = budget_tokens
    order = np.argsort(-store.computed, kind="stable")[: -(-most // times)]
    for place, uid in enumerate(np.repeat(order, times)[:most].tolist()):
        row, length = store[uid], int(store.computed[uid])
        if store.judged:
            row = dataclasses.replace(row, group=place // 2, side=1 - 2 * (place % 2))
        if chosen and length > room:
            learnt = np.ones(room + 1, dtype=np.float32)
            learnt[0] = 0
            row = dataclasses.replace(row, ids=row.ids[: room + 1], weights=learnt)
        chosen.append(row)
        room -= length
        if room <= 0:
            break
    return assemble(chosen)


def largest(numbers: Ints, count: int, times: int = 1) -> Ints:
    """So many of them, the largest, each as often as `times`; fewer, where there are no more."""
    distinct = -(-count // times)
    found = np.partition(numbers, -distinct)[-distinct:] if distinct < len(numbers) else numbers
    return np.repeat(np.sort(found)[::-1], times)[:count]


class Batches(Sequence[Batch]):
    """Micro-batches of a whole store, made when asked for, again and again: validation. Groups are never parted: where
    nothing is kept for a backward pass, a pair takes less than a single answer in training."""

    def __init__(self, store: Sequences, budget_tokens: int, call_tokens: int | None = None) -> None:
        self._store = store
        self._budget_tokens, self._call_tokens = budget_tokens, call_tokens

    def split(self, budget_tokens: int) -> None:
        """From now on in micro-batches of at most so many tokens."""
        self._budget_tokens = budget_tokens
        self.__dict__.pop("_groups", None)

    @cached_property
    def _groups(self) -> list[tuple[Ints, list[Stretch]]]:
        """uids and stretches of each micro-batch. Rows of one length class would part families, so blocks go by uid."""
        made: list[tuple[Ints, list[Stretch]]] = []
        whole = len(self._store.firsts) == len(self._store)
        if self._call_tokens is None and whole:
            plain = groups(self._store.computed, self._budget_tokens)
            return [(np.asarray(group), []) for group in plain]
        firsts = self._store.firsts[::BLOCK].tolist()
        for first, end in itertools.pairwise([*firsts, len(self._store)]):
            uids = np.arange(first, end)
            sequences = [_computed(self._store[uid]) for uid in uids.tolist()]
            parts = _parts(sequences, self._budget_tokens, self._call_tokens, self._atoms(first, first + len(uids)))
            made += [(uids[group], stretches) for group, stretches in parts]
        return made

    def _atoms(self, first: int, end: int) -> list[list[int]] | None:
        """Of the sequences first..end, counted from the first."""
        if len(self._store.firsts) == len(self._store):
            return None
        begins = self._store.firsts
        begins = begins[(begins >= first) & (begins < end)]
        return [list(range(a - first, b - first)) for a, b in itertools.pairwise([*begins.tolist(), end])]

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Batch, ...]: ...
    def __getitem__(self, index: int | slice) -> Batch | tuple[Batch, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        uids, stretches = self._groups[index]
        return assemble([self._store[int(uid)] for uid in uids], stretches)


def batches(store: Sequences, budget_tokens: int, call_tokens: int | None = None) -> Batches:
    """The whole store once, in micro-batches of at most `budget_tokens` tokens."""
    return Batches(store, budget_tokens, call_tokens)


def groups(lengths: Ints, budget_tokens: int) -> list[list[int]]:
    """Indexes of the sequences of each micro-batch: first-fit decreasing, one micro-batch after the other.

    Each group takes the longest sequence left, then again and again the longest that still fits, as many of one length
    as fit. First-fit decreasing needs at most 11/9 of the fewest possible groups plus 6/9 (Dosa 2007).
    """
    order = np.argsort(-lengths, kind="stable")
    waiting: dict[int, list[int]] = {}
    for index in order[::-1]:
        waiting.setdefault(int(lengths[index]), []).append(int(index))
    # Ascending lengths; the indexes of one length lie last first, so that pop() keeps their order.
    left = sorted(waiting)
    made: list[list[int]] = []
    while left:
        group: list[int] = []
        room = max(budget_tokens, left[-1])
        while (place := bisect.bisect_right(left, room) - 1) >= 0:
            length = left[place]
            of_length = waiting[length]
            taken = min(len(of_length), room // length) if length else len(of_length)
            group += [of_length.pop() for _ in range(taken)]
            room -= taken * length
            if not of_length:
                del left[place]
            if room <= 0:
                break
        made.append(group)
    return made


def shared_out(lengths: Ints, ranks: int) -> list[list[int]]:
    """Indexes of the sequences that each of `ranks` processes computes, in their order: a pure function of lengths.

    The longest first, each to the process with the fewest tokens so far; its load is at most 4/3 of the best division
    (Graham 1969). One process gets everything.
    """
    loads = [0] * ranks
    mine: list[list[int]] = [[] for _ in range(ranks)]
    for index in np.argsort(-lengths, kind="stable"):
        least = loads.index(min(loads))
        loads[least] += int(lengths[index])
        mine[least].append(int(index))
    return [sorted(each) for each in mine]


def filler(example: Rendered) -> Batch:
    """A micro-batch that changes nothing: the first token of an example, its loss weighed with 0. What it touches (an
    expert, say), the example itself touches too."""
    first = Rendered(example.uid, example.ids[:2], np.array([0.0, 1.0], dtype=np.float32))
    batch = assemble([first])
    return dataclasses.replace(batch, weights={TERM: np.zeros(1, dtype=np.float32)})


def assemble(examples: Sequence[Rendered], stretches: Sequence[Stretch] = ()) -> Batch:
    """One micro-batch of the examples, in the order given.

    Args:
        stretches: what the examples are made of; empty: each of itself.
    """
    computed = [_computed(example) for example in examples]
    assert computed and all(map(len, computed)), "every sequence needs a learnt token"
    stretches = stretches or prefix.apart(computed)
    lengths = np.asarray([each.end - each.start for each in stretches], dtype=np.int64)
    parent = np.asarray([each.parent for each in stretches], dtype=np.int64)
    end = np.cumsum(lengths)
    start = end - lengths
    segment = np.repeat(np.arange(len(stretches)), lengths)
    first = np.asarray([each.start for each in stretches], dtype=np.int64)
    positions = np.arange(int(end[-1])) + (first - start)[segment]
    # At the start of a stretch the token before is the last of the one it follows.
    prev = np.arange(len(positions)) - 1
    prev[start] = np.where(parent >= 0, end[parent] - 1, -1)
    owner = np.asarray([each.example for each in stretches], dtype=np.int64)
    group, per_owner = _judged(examples)
    keys = [prefix.keys(ids) for ids in computed]
    learnt = _learnt(examples, stretches, start, end)
    return Batch(
        ids=np.concatenate([computed[e.example][e.start : e.end] for e in stretches]).astype(np.int64),
        positions=positions,
        prev=prev,
        key=np.concatenate([keys[e.example][e.start : e.end] for e in stretches]),
        segments=Segments(
            start=start,
            end=end,
            parent=parent,
            owner=owner,
            group=owner if group is None else group[owner],
            adapter=np.zeros_like(owner),
        ),
        rows=learnt.rows,
        targets=learnt.targets,
        row_owner=learnt.owner,
        weights={TERM: learnt.weights.astype(np.float32)},
        per_owner=per_owner,
        uid=np.asarray([example.uid for example in examples], dtype=np.int64),
        group=group,
    )


def _judged(examples: Sequence[Rendered]) -> tuple[Ints | None, dict[str, Floats]]:
    """`Batch.group` and `Batch.per_owner`."""
    numbers = [each.group for each in examples]
    if min(numbers) < 0:
        return None, {}
    found = {
        SIDE: np.asarray([each.side for each in examples], dtype=np.float32),
        MARGIN: np.asarray([each.margin for each in examples], dtype=np.float32),
    }
    order = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
    return np.asarray([order[number] for number in numbers], dtype=np.int64), found


def rows_to(stretches: Sequence[Stretch], start: Ints, end: Ints) -> list[Ints]:
    """Rows from the beginning of an example to the end of each stretch."""
    found: list[Ints] = []
    for index, each in enumerate(stretches):
        own = np.arange(start[index], end[index])
        found.append(np.concatenate([found[each.parent], own]) if each.parent >= 0 else own)
    return found


class _Learnt(NamedTuple):
    """Scored rows, ascending; those of one row by target."""

    rows: Ints
    targets: Ints
    owner: Ints
    weights: NDArray[np.float64]


def _learnt(examples: Sequence[Rendered], stretches: Sequence[Stretch], start: Ints, end: Ints) -> _Learnt:
    """Several examples that learn the same token in the same place learn it once with the sum of their weights; in
    groups, where each has a sum of its own, every one for itself."""
    parts = []
    for each, reached in zip(stretches, rows_to(stretches, start, end), strict=True):
        for example in each.ends:
            ids, weights = examples[example].ids, examples[example].weights
            places = np.flatnonzero(weights[1 : len(reached) + 1])
            owner = np.full(len(places), example)
            parts.append((reached[places], ids[places + 1], owner, weights[places + 1]))
    rows, targets, owner, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((owner, targets, rows))
    rows, targets, owner, weights = (column[order] for column in (rows, targets, owner, weights))
    new = np.concatenate([[True], (np.diff(rows) != 0) | (np.diff(targets) != 0)])
    if min(each.group for each in examples) >= 0:
        new[:] = True
    summed = np.add.reduceat(weights.astype(np.float64), np.flatnonzero(new))
    return _Learnt(rows[new], targets[new].astype(np.int64), owner[new], summed)
