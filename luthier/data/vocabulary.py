"""Text to token ids and back, safely.

What goes in: a fast tokenizer as `transformers` loaded it, and text. What comes out: ids with the place of every
character, ids in which control tokens that a *user* typed are ordinary text, and text again, whole or as a stream.
Nothing is ever added to the text's own tokens here: who wants a first or last token appends its id.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer

from luthier.data.words import Words

OPEN, CLOSE, CUT = "\ufdd4", "\ufdd5", "\ufdd8"
_ANCHORS = {(False, False): "\ufdd0", (True, False): "\ufdd1", (False, True): "\ufdd2", (True, True): "\ufdd3"}
"""(strips to the left, strips to the right) -> stand-in for a control token that behaves so."""

UNUSABLE = re.compile("[\ud800-\udfff\ufdd0-\ufdd8]")
"""Lone surrogates are no text; the nine noncharacters (never assigned in Unicode) mark places while rendering."""

_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\u(fdd[45])")
"""`OPEN` and `CLOSE` in escapes; a backslash that is itself escaped begins none."""

MAX_PENDING = 16
"""Tokens a stream holds back at most. A character has at most four bytes, so this many are no character any more."""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """ids of a text, and where its characters went.

    Attributes:
        ids: token ids.
        encoding: what the tokenizer reported, about the text with the cuts marked in it.
        cuts: character positions, ascending, at which the text was tokenised in separate pieces.
    """

    ids: list[int]
    encoding: Encoding
    cuts: tuple[int, ...] = ()

    def at(self, char: int, end: int) -> int:
        """Index of the first token that holds a character from `char` on; `end` is the length of the text."""
        for position in range(char, end):
            passed = bisect.bisect_right(self.cuts, position)
            token = self.encoding.char_to_token(position + passed)
            if token is not None:
                return int(token) - passed
        return len(self.ids)

    def start_of(self, token: int) -> int:
        """Character at which a token begins (of a text without cuts)."""
        place = self.encoding.token_to_chars(token)
        return place[0] if place is not None else 0


class Vocabulary:
    """A tokenizer without conventions of its own.

    Attributes:
        size: number of ids; bos_id, eos_id: None where the tokenizer has none.
        document_prefix: ids that the tokenizer itself puts before a text (a BOS, usually, or nothing).
        variables: token names for templates (`bos_token`...).
        added: id -> text of the tokens outside the learnt vocabulary; special: ids of the control tokens among them.
        words: tells ids word by word; None where this tokenizer's words do not stand for themselves.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        # The post-processor would add tokens and trim spaces off the character offsets that the loss spans rest on.
        self._state.update(post_processor=None, truncation=None, padding=None)
        self._take_up()
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        self.eos_token: str | None = tokenizer.eos_token
        self.variables: dict[str, Any] = {name: _plain(value) for name, value in tokenizer.special_tokens_map.items()}
        self.added = {identity: token.content for identity, token in self._tokens.items()}
        self.special = frozenset(identity for identity, token in self._tokens.items() if token.special)
        self.size = max(self._plain.get_vocab_size(), len(tokenizer), *(identity + 1 for identity in self.added), 1)
        self.document_prefix = self._prefix(list(tokenizer("a")["input_ids"]))

    def _take_up(self) -> None:
        """What is made of the state and cannot be pickled."""
        self._plain = Tokenizer.from_str(json.dumps(self._state))
        self._tokens: dict[int, AddedToken] = self._plain.get_added_tokens_decoder()

    @functools.cached_property
    def words(self) -> Words | None:
        """Made when it is first asked for: it takes 60 ms, and most vocabularies of a run encode no rows."""
        return Words.of(self._state, self._plain)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name not in ("_plain", "_tokens", "words")}
        return {**kept, "_goes_by_words": self.words is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        goes_by_words = state.pop("_goes_by_words")
        vars(self).update(state)
        self._take_up()
        if not goes_by_words:
            self.words = None

    @property
    def begins_with_bos(self) -> bool:
        return self.bos_id is not None and self.document_prefix[:1] == (self.bos_id,)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides ids."""
        state = [self._state, self.variables, self.document_prefix]
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def _prefix(self, with_convention: list[int]) -> tuple[int, ...]:
        own = self.ids("a")
        for start in range(len(with_convention) - len(own) + 1):
            if with_convention[start : start + len(own)] == own:
                return tuple(with_convention[:start])
        return ()

    def to_json(self) -> str:
        """The tokenizer without conventions, as `tokenizer.json` holds one."""
        return json.dumps(self._state)

    def ids(self, text: str) -> list[int]:
        """Ids of the text alone; control tokens in it are control tokens."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[Tokens]:
        """Many texts at once, on the tokenizer's own threads."""
        return [Tokens(e.ids, e) for e in self._plain.encode_batch(list(texts), add_special_tokens=False)]

    def ids_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """As `encode_many`, without places: faster, by words where they can be told. One text that was told so is held
        against the tokenizer in every call; should they ever differ, words are not asked again."""
        told = [None] * len(texts) if self.words is None else self.words.many(texts)
        first = next(((each, text) for each, text in zip(told, texts, strict=True) if text and each is not None), None)
        if first is not None and not np.array_equal(first[0], self._ids_of([first[1]])[0]):
            self.words, told = None, [None] * len(texts)
        rest = iter(self._ids_of([text for text, each in zip(texts, told, strict=True) if each is None]))
        return [next(rest) if each is None else each for each in told]

    def _ids_of(self, texts: list[str]) -> list[NDArray[np.int32]]:
        return [
            np.asarray(e.ids, dtype=np.int32) for e in self._plain.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def single(self, text: str) -> int | None:
        """The id of an added token with exactly this text."""
        identity = self._plain.token_to_id(text)
        return identity if identity in self.added else None

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return str(self._plain.decode(list(ids), skip_special_tokens=skip_special))

    def stream(self) -> TextStream:
        return TextStream(self)

    def guard(self, more: Iterable[int] = ()) -> Guard:
        """A guard for all control tokens and the further added tokens named."""
        return Guard(self._state, {i: self._tokens[i] for i in {*self.special, *more}})


def _plain(value: Any) -> Any:
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else str(value)


def with_marks(escaped: str) -> str:
    """Text that JSON or Python has escaped, with the marks around typed control tokens as they were."""
    return _ESCAPED.sub(lambda found: found.group(1) + chr(int(found.group(2), 16)), escaped)


class _Marked(str):
    """Text with marks; they survive where a template writes the list or mapping that holds it as Python does."""

    def __repr__(self) -> str:
        return with_marks(super().__repr__())


class Guard:
    """Tokenises rendered conversations so that control tokens in a message's words stay words.

    `mark` wraps them in the messages before rendering; after rendering, whatever is not wrapped was put there by the
    template. The template's control tokens are replaced by stand-ins that strip the same spaces, the text is tokenised
    as a whole by a twin of the tokenizer that knows no control tokens, and the stand-ins are replaced by their ids. For
    text without wrapped tokens the ids are exactly the tokenizer's own. `ids`: of the tokens that are guarded.
    """

    def __init__(self, state: Mapping[str, Any], tokens: Mapping[int, AddedToken]) -> None:
        self._state = state
        self.ids = frozenset(tokens)
        self._by_text = {token.content: (i, _ANCHORS[token.lstrip, token.rstrip]) for i, token in tokens.items()}
        literals = "|".join(re.escape(text) for text in sorted(self._by_text, key=len, reverse=True) if text) or "(?!)"
        self._literal = re.compile(literals)
        # A template that cuts a text may cut one of the marks off: what the other stands beside are words all the same.
        words = f"{OPEN}({literals}){CLOSE}?|({literals}){CLOSE}"
        self._marked = re.compile(f"{words}|({literals})|[{OPEN}{CLOSE}]")
        self._twin_or_none: Tokenizer | None = None

    @property
    def _twin(self) -> Tokenizer:
        """Made when first needed: a second copy of a large vocabulary takes a second to build."""
        if self._twin_or_none is None:
            added = [
                {**t, "special": t["special"] or t["content"] in self._by_text} for t in self._state["added_tokens"]
            ]
            twin = Tokenizer.from_str(json.dumps({**self._state, "added_tokens": added}))
            twin.encode_special_tokens = True
            anchors = [((False, False), CUT), *_ANCHORS.items()]
            twin.add_tokens(
                [AddedToken(text, lstrip=left, rstrip=right, normalized=False) for (left, right), text in anchors]
            )
            self._twin_or_none = twin
        return self._twin_or_none

    def touches(self, value: Any) -> bool:
        """Whether a control token stands in any string of the value."""
        if isinstance(value, str):
            return self._literal.search(value) is not None
        if isinstance(value, Mapping):
            return any(self.touches(each) for pair in value.items() for each in pair)
        return isinstance(value, (list, tuple)) and any(self.touches(each) for each in value)

    def mark(self, value: Any) -> Any:
        """The value with every control token in its strings wrapped, the keys of mappings among them."""
        if isinstance(value, str):
            return _Marked(self._literal.sub(lambda found: f"{OPEN}{found.group()}{CLOSE}", value))
        if isinstance(value, Mapping):
            return {self.mark(key): self.mark(each) for key, each in value.items()}
        return [self.mark(each) for each in value] if isinstance(value, (list, tuple)) else value

    def prepare(self, text: str) -> tuple[str, list[int]]:
        """Rendered text with wrapped tokens unwrapped and all others replaced by stand-ins, and the ids these mean."""
        meant: list[int] = []

        def replace(found: re.Match[str]) -> str:
            words = found.group(1) or found.group(2)
            if words:
                return words
            if not found.group(3):
                return ""
            identity, anchor = self._by_text[found.group(3)]
            meant.append(identity)
            return anchor

        return self._marked.sub(replace, text), meant

    def encode(self, prepared: str, meant: Sequence[int], cuts: Sequence[int] = ()) -> Tokens:
        """Tokenise prepared text, in separate pieces at the cuts (character positions, ascending)."""
        edges = [0, *cuts, len(prepared)]
        with_cuts = CUT.join(prepared[start:end] for start, end in itertools.pairwise(edges))
        encoding = self._twin.encode(with_cuts, add_special_tokens=False)
        anchors = {self._twin.token_to_id(text) for text in _ANCHORS.values()}
        cut, rest = self._twin.token_to_id(CUT), iter(meant)
        ids = [next(rest) if each in anchors else each for each in encoding.ids if each != cut]
        return Tokens(ids, encoding, tuple(cuts))


class TextStream:
    """Text of a growing token sequence, in pieces of whole characters.

    `push` returns what a token adds to the text; nothing while a character's bytes are incomplete. `flush` returns what
    is still held back at the end.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        # Decoding may depend on the token before (a leading space is dropped at the start), so each piece is the
        # difference between a short window with and without the new tokens.
        self._window = 0
        self._told = 0

    def push(self, token: int) -> str:
        self._ids.append(int(token))
        before, text = self._texts()
        if text.endswith("\ufffd") and len(self._ids) - self._told < MAX_PENDING:
            return ""
        return self._tell(before, text)

    def flush(self) -> str:
        return self._tell(*self._texts())

    def _texts(self) -> tuple[str, str]:
        window = self._ids[self._window :]
        return self._vocabulary.decode(window[: self._told - self._window]), self._vocabulary.decode(window)

    def _tell(self, before: str, text: str) -> str:
        # A token without text of its own (a control token) stays in the window, with the text before it.
        if len(text) > len(before):
            self._window, self._told = self._told, len(self._ids)
        return text[len(before) :]
