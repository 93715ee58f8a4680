"""Text to token ids word by word, each different word tokenised once.

What goes in: a byte-level BPE tokenizer, which is what most models have, and text. What comes out: the ids that the
tokenizer gives, several times faster. Such a tokenizer cuts a text at its added tokens, then into words by a regular
expression, and no token reaches across two words: so a word's ids can be remembered.

Nothing is taken on trust. Only tokenizers whose every step is known are read this way (`Words.of` gives None for all
others); ASCII takes Python's `re`, other text `regex`, and a character that is met for the first time is held against
the tokenizer's own cuts; what cannot be told is left to the tokenizer (`split` gives None). Where `luthier.data.native`
was compiled, it cuts instead (`tell`), and is held against the same cuts.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from luthier.batch import Ints
from luthier.data import native
from luthier.data.native import Answers, Told

SHORT, REMEMBERED = 16, 1024
"""Texts between added tokens that are cut once (a template's own): their length, and how many. Not tuned."""
MOST_WORDS, MOST_CHARACTERS = 2**17, 2**22
"""Remembered at most, of different words and of their characters: some 30 MB. Then all are forgotten. Not tuned."""

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The words of a ByteLevel pre-tokenizer (`use_regex`), from the `tokenizers` library."""

_CATEGORY = re.compile(r"\\p\{(\w+)\}")
_ANCHOR = re.compile(r"(?<!\\)(?<!\[)[$^]|\\[AzZGbB]")
_CLASS = re.compile(r"\[\^?(?:\\.|[^\]\\])*\]|\\p\{\w+\}|\\.")
_PROBES = (
    *("a{0}b", "A{0}a{0}A", "1{0}2", " {0} ", ".{0}.", "\n{0}\n", "{0}{0} {0}{0}"),
    "'{0} '{0}{0} 'l{0} 'v{0} 'r{0}",
)
"""Around a new character: everything that expressions ask of their neighbours."""

Cut = Callable[[str], list[str]]
"""Cuts a text into pieces that make it up."""


Mark = tuple[int, int, int, str]
"""An added token in a text: characters first..end, which of the words it is, and its own text."""


class Split(NamedTuple):
    """A text as words; added tokens are words too, and `marks` says which."""

    words: list[str]
    marks: list[Mark]


class Words:
    """Remembers the ids of words for one tokenizer. Made by `Words.of`.

    Attributes:
        native: tells the same faster (`tell`); None where it was not compiled, or cannot say the patterns.

    Args:
        tokenizer: without post-processor, truncation and padding.
        patterns: the regular expressions that cut one after the other.
        added: contents of the added tokens -> ids.
        awkward: contents of those that do more than stand for themselves (they strip spaces, or match whole words).
        composes: whether text is brought into normal form C first.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        patterns: Sequence[str],
        added: Mapping[str, int],
        awkward: Sequence[str],
        *,
        composes: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._full = [_cut(regex.compile(each), regex.compile(f"({each})")) for each in patterns]
        self._ascii = [_ascii_cut(each) or full for each, full in zip(patterns, self._full, strict=True)]
        self._added = added
        self._marks = re.compile(f"({_any_of(added)})")
        self._awkward = re.compile(_any_of(awkward)) if awkward else None
        self._composes = composes
        self._known = set(map(chr, range(128)))
        self._foreign: set[str] = set()
        self._short: dict[str, list[str]] = {}
        # The same model without its cuts: it is given words.
        self._model = Tokenizer(tokenizer.model)
        self._model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._forget()
        self.native = native.of(patterns, added)
        if self.native is not None:
            for character in self._known:
                self.native.meet(character)

    @classmethod
    def of(cls, state: Mapping[str, Any], tokenizer: Tokenizer) -> Words | None:
        """For a tokenizer and its state (`tokenizer.json`); None where words do not stand for themselves."""
        model, normalizer = state["model"], state.get("normalizer")
        affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        patterns = _patterns(state.get("pre_tokenizer"))
        if model.get("type") != "BPE" or model.get("dropout") or affixes or patterns is None:
            return None
        if any(map(_ANCHOR.search, patterns)):
            return None  # the tokenizer's engine takes lines for texts
        if normalizer is not None and normalizer != {"type": "NFC"}:
            return None
        tokens = {token.content: (i, token) for i, token in tokenizer.get_added_tokens_decoder().items()}
        awkward = [content for content, (_, token) in tokens.items() if content and _is_awkward(token)]
        added = {content: i for content, (i, _) in tokens.items() if content and content not in awkward}
        try:
            made = cls(tokenizer, patterns, added, awkward, composes=normalizer is not None)
        except (regex.error, ValueError):
            return None
        return made if all(map(made._is_alike, map(chr, range(128)))) else None

    def split(self, text: str) -> Split | None:
        """The words of a text; None where they cannot be told. They make up the text."""
        if self._awkward is not None and self._awkward.search(text):
            return None
        words: list[str] = []
        marks: list[Mark] = []
        at = 0
        for index, part in enumerate(self._marks.split(text)):
            end = at + len(part)
            if index % 2:  # between the texts that it parts stand the added tokens
                marks.append((at, end, len(words), part))
                words.append(part)
            elif part:
                pieces = self._short.get(part) or self._cut(part)
                if pieces is None:
                    return None
                words += pieces
            at = end
        return Split(words, marks)

    def tokens(self, words: Sequence[str]) -> tuple[NDArray[np.int32], Ints]:
        """ids int32 [T] of the words W of `split`, and where each word's end among them, int64 [W]."""
        if len(self._numbers) != len(self._counts) or len(self._numbers) > MOST_WORDS or self._held > MOST_CHARACTERS:
            self._forget()
        places = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        self._learn()
        counts = np.frombuffer(self._counts, np.int64)[places]
        ends = counts.cumsum()
        # Place in the table of a word's first token, less its place here: what is between counts up alike in both.
        shifts = np.frombuffer(self._begins, np.int64)[places] - (ends - counts)
        total = int(ends[-1]) if len(ends) else 0
        ids = np.frombuffer(self._ids, np.int32)[np.repeat(shifts, counts) + np.arange(total)]
        return ids, ends

    def tell(self, texts: Sequence[str | None], answers: Sequence[Answers], stops: Collection[str]) -> Told | None:
        """The ids of texts, and where answers are in them (`native.NativeWords.tell`); a text that is None is not told.
        None where nothing was compiled."""
        if self.native is None:
            return None
        if not self.native.is_whole or self.native.count > MOST_WORDS or self.native.size > MOST_CHARACTERS:
            self.native.forget()
        readable = [text is not None and self._is_readable(text) for text in texts]
        told = self.native.tell(
            [text if text and ok else "" for text, ok in zip(texts, readable, strict=True)],
            [given if ok else () for given, ok in zip(answers, readable, strict=True)],
            stops,
            self._ids_of,
        )
        return told._replace(told=told.told & np.asarray(readable, np.bool_))

    def many(self, texts: Sequence[str]) -> list[NDArray[np.int32] | None]:
        """ids of each text; None where its words cannot be told."""
        told = self.tell(texts, [()] * len(texts), ())
        if told is not None:
            borders = itertools.pairwise([0, *told.ends.tolist()])
            return [told.ids[start:end] if ok else None for (start, end), ok in zip(borders, told.told, strict=True)]
        splits = [self.split(text) for text in texts]
        counts = [0 if split is None else len(split.words) for split in splits]
        ids, ends = self.tokens([word for split in splits if split is not None for word in split.words])
        borders = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])].tolist()
        parts = [ids[start:end] for start, end in itertools.pairwise(borders)]
        return [None if split is None else part for split, part in zip(splits, parts, strict=True)]

    # ------------------------------------------------------------------------------------------------- the table

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._ids, self._begins, self._counts = array("i"), array("q"), array("q")
        self._held = 0
        for content, identity in self._added.items():
            self._numbers[content] = len(self._numbers)
            self._enter([identity])

    def _learn(self) -> None:
        """The ids of the words that were met for the first time."""
        new, self._numbers.new = self._numbers.new, []
        for word, ids in zip(new, self._ids_of(new), strict=True):
            self._held += len(word)
            self._enter(ids)

    def _ids_of(self, words: list[str]) -> list[list[int]]:
        return [each.ids for each in self._model.encode_batch_fast(words, add_special_tokens=False)]

    def _enter(self, ids: list[int]) -> None:
        self._begins.append(len(self._ids))
        self._counts.append(len(ids))
        self._ids.extend(ids)

    # --------------------------------------------------------------------------------------------------- cutting

    def _cut(self, text: str) -> list[str] | None:
        """The words of a text without added tokens; None where they cannot be told."""
        if text.isascii():
            cuts = self._ascii
        elif self._is_familiar(text):
            cuts = self._full
        else:
            return None
        pieces = _pieces(text, cuts)
        if len(text) <= SHORT and len(self._short) < REMEMBERED:
            self._short[text] = pieces
        return pieces

    def _is_readable(self, text: str) -> bool:
        """Whether a text with added tokens can be told."""
        if self._awkward is not None and self._awkward.search(text):
            return False
        return text.isascii() or self._is_familiar(text)

    def _is_familiar(self, text: str) -> bool:
        """Whether the tokenizer and `regex` take every character of a text for the same kind."""
        characters = set(text) - self._known
        for character in characters - self._foreign:
            (self._known if self._is_alike(character) else self._foreign).add(character)
        if characters and not self._foreign.isdisjoint(characters):
            return False
        return not self._composes or unicodedata.is_normalized("NFC", text)

    def _is_alike(self, character: str) -> bool:
        if unicodedata.category(character) in ("Cn", "Cs"):
            return False  # a later version of Unicode may know better
        for probe in (each.format(character) for each in _PROBES):
            if self._composes and self._tokenizer.normalizer.normalize_str(probe) != probe:
                return False
            cuts = self._tokenizer.pre_tokenizer.pre_tokenize_str(probe)
            words = [probe[start:end] for _, (start, end) in cuts]
            if _pieces(probe, self._full) != words or (probe.isascii() and _pieces(probe, self._ascii) != words):
                return False
        self._introduce(character)
        return True

    def _introduce(self, character: str) -> None:
        """To the compiled part, as far as that cuts like the others."""
        if self.native is None:
            return
        self.native.meet(character)
        for probe in (each.format(character) for each in _PROBES):
            if self.native.pieces(probe) != _pieces(probe, self._full):
                self.native.meet(character, known=False)


def _pieces(text: str, cuts: Sequence[Cut]) -> list[str]:
    """A text cut by one expression after the other."""
    pieces = [text]
    for cut in cuts:
        pieces = cut(pieces[0]) if len(pieces) == 1 else [word for piece in pieces for word in cut(piece)]
    return pieces


class _Numbers(dict[str, int]):
    """word -> its number, given when it is first asked for; `new`: those since they were last taken."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        self.new.append(word)
        return number


def _any_of(contents: Iterable[str]) -> str:
    """Matches the longest of several texts; nothing where there are none."""
    return "|".join(re.escape(each) for each in sorted(contents, key=len, reverse=True)) or r"(?!)"


def _is_awkward(token: AddedToken) -> bool:
    return bool(token.lstrip or token.rstrip or token.single_word or token.normalized)


def _patterns(state: Mapping[str, Any] | None) -> list[str] | None:
    """The regular expressions by which a pre-tokenizer cuts, one after the other; None where it does anything else."""
    if state is None:
        return None
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    found = [_pattern(step) for step in steps[:-1]]
    if None in found:
        return None
    patterns = [each for each in found if each is not None]
    return [*patterns, GPT2] if steps[-1].get("use_regex", True) else patterns


def _pattern(step: Mapping[str, Any]) -> str | None:
    if step["type"] == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        pattern = step["pattern"]
        return str(pattern["Regex"]) if "Regex" in pattern else re.escape(str(pattern["String"]))
    return None


def _cut(pattern: Any, captured: Any) -> Cut:
    """Cuts at every match, and keeps what is between.

    Args:
        captured: the pattern as a group, by which a text can be split without losing anything.

    Raises:
        ValueError: the pattern has groups of its own, or matches nothing.
    """
    if pattern.groups or pattern.match(""):
        raise ValueError(pattern.pattern)
    find, split = pattern.findall, captured.split

    def cut(text: str) -> list[str]:
        words: list[str] = find(text)
        if not words:
            return [text]
        # Mostly the matches are the whole text.
        if len("".join(words)) == len(text):
            return words
        return [piece for piece in split(text) if piece]

    return cut


def _ascii_cut(pattern: str) -> Cut | None:
    """The same cuts for ASCII, by Python's own `re`, which is twice as fast; None where it cannot say the pattern."""
    try:
        plain = _CLASS.sub(_in_ascii, pattern)
        return _cut(re.compile(plain, re.ASCII), re.compile(f"({plain})", re.ASCII))
    except (re.error, ValueError):
        return None


def _in_ascii(found: re.Match[str]) -> str:
    """A character class, or a category that stands alone, with categories spelt out."""
    text = found.group()
    if text.startswith("["):
        spelt = _CATEGORY.sub(lambda each: _ascii_of(each.group(1)), text)
        if "&&" in spelt or "[" in spelt[1:]:
            raise ValueError(text)
        return spelt if spelt not in ("[]", "[^]") else {"[]": "(?!)", "[^]": r"[\s\S]"}[spelt]
    if text.startswith(r"\p{"):
        characters = _ascii_of(text[3:-1])
        return f"[{characters}]" if characters else "(?!)"
    if text[1] in "PpX":
        raise ValueError(text)
    return text


def _ascii_of(category: str) -> str:
    """The ASCII characters of a Unicode category or class of categories, as they stand in a character class.

    Raises:
        ValueError: it is none (a script, or a property).
    """
    if not re.fullmatch(r"[LMNPSZC][a-z]?", category):
        raise ValueError(category)
    return "".join(re.escape(each) for each in map(chr, range(128)) if unicodedata.category(each).startswith(category))
