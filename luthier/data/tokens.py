"""Data files to token stores.

What goes in: a file, read once from beginning to end, and a renderer. What comes out: a store of token ids and loss
weights in a folder named by the hash of everything that went in (the file's bytes, its format, tokenizer, template),
so that the same file is never tokenised twice, an edited one never meets stale tokens, and another process opens what
one has built. A folder appears complete or not at all; a build that was killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from luthier.batch import Floats
from luthier.data import helpers, laws, own
from luthier.data.blocks import Block, BlockMaker, Rendered, at_fault
from luthier.data.check import Given
from luthier.data.laws import LawReport
from luthier.data.scan import FileScan, Kept, Role, Table, fingerprint
from luthier.data.store import COLUMNS, FORMAT, META, TokenStore, checksum, read_meta, trusted, verified
from luthier.data.templates import Renderer
from luthier.disk import fsync_file, fsync_folder
from luthier.errors import DataError, Problem
from luthier.text import language

__all__ = ["Built", "TokenStore", "build"]

PROBLEMS = 20
"""Problems spelt out before the rest is only counted."""
PROGRESS_S = 5.0
"""Between two notes of how far a build has come; what came after the last one is done again. Chosen, not tuned."""
BUILDING = ".building-"
PROGRESS = "progress.json"
FEW = 4
"""Different weights that are looked for one after the other. Not tuned."""
NO_LAWS = LawReport(0, 0, (), (), ())


@dataclasses.dataclass(frozen=True)
class Built:
    """A file that was read whole, and its tokens.

    Attributes:
        given: the account of its rows.
        store: None where rows are at fault, so that nothing can be trained on it.
        laws: what its shapes of conversation were held to.
        reused: whether the store was there already.
    """

    given: Given
    store: TokenStore | None
    laws: LawReport
    reused: bool


def build(
    scan: FileScan, renderer: Renderer, cache_dir: Path, *, role: Role, source_index: int, drop_bad_rows: bool = False
) -> Built:
    """Tokenise a file into a store below `cache_dir`, or open the store that is already there.

    Args:
        scan: of the file, not begun.
        drop_bad_rows: tokenise although rows are at fault; else such a file is read to its end and not tokenised.

    Raises:
        DataError: rows cannot be rendered, or the disk is full.
        ModelError: the model has no chat template, none that ends answers, or one that training and chat would differ
            by.
    """
    read = _file_hash(scan)
    if read is None:
        scan.exhaust()
        return Built(Given(scan.account, scan.table, role, source_index, scan.names), None, NO_LAWS, False)
    parent = cache_dir / "tokens"
    path = parent / _key(scan, renderer, read)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        store, reused = _reopen(path), True
        if store is None:
            with _sole_builder(path.with_name(f"{BUILDING}{path.name}.lock")):
                store = _reopen(path)  # another process may have built it meanwhile
                if store is None:
                    scan, store = _built(scan, renderer, path, read, drop_bad_rows)
                    reused = False
    except OSError as error:
        values = {"reason": error.strerror or str(error)}
        raise DataError(Problem("tokens.disk", where=str(parent), values=values)) from error
    if store is None:
        return Built(Given(scan.account, scan.table, role, source_index, scan.names), None, NO_LAWS, False)
    account = store.account(str(scan.path))
    given = Given(account, store.table, role, source_index, scan.names)
    if account.excluded and not drop_bad_rows:
        return Built(given, None, NO_LAWS, reused)
    held: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in store.meta["laws"].items()
    }
    return Built(given, store, LawReport(**held), reused)


class _Foreign(Exception):
    """What was written so far is not what this file gives: an earlier process left rows of other bytes, or words were
    told that are none."""


def _built(
    scan: FileScan, renderer: Renderer, path: Path, read: str, drop_bad_rows: bool
) -> tuple[FileScan, TokenStore | None]:
    """A new store at `path`, None where the file is at fault; and the scan that went through the file.

    Args:
        read: SHA-256 of the file, which the key speaks of.
    """
    folder = path.with_name(f"{BUILDING}{path.name}")
    while True:
        try:
            whole = _Writer(folder, renderer, path.name, drop_bad_rows).write(scan, read)
            break
        except _Foreign:  # at most twice: what was there is gone, and words are asked no more
            scan = scan.anew()
    if not whole:
        return scan, None
    folder.rename(path)
    fsync_folder(path.parent)
    store = TokenStore(path)
    trusted(path, store.meta)  # its checksums were told by reading it back
    return scan, store


def _file_hash(scan: FileScan) -> str | None:
    """SHA-256 of the file; None where it, or the user's format, cannot be read."""
    try:
        if own.is_own(scan.format):
            own.load(scan.format)
        return fingerprint(scan.path)[0]
    except (OSError, DataError):
        return None


def _key(scan: FileScan, renderer: Renderer, read: str) -> str:
    """SHA-256 over what decides the content: the file, how it is read, tokenizer and template, and the code."""
    parts: list[Any] = [FORMAT, read, scan.path.suffixes[-2:], scan.format, scan.names.key, _code()]
    if own.is_own(scan.format):
        parts += [fingerprint(file)[0] for file in own.source_files(scan.format)]
    # Reasons are kept in words, so each language has its own.
    parts += [renderer.fingerprint, language()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _code() -> list[str]:
    """What reads, renders and tokenises: this folder's source, and the versions of the libraries that do the rest."""
    folder = Path(__file__).parent
    source = hashlib.sha256(b"".join(file.read_bytes() for file in sorted([*folder.glob("*.py"), *folder.glob("*.c")])))
    return [source.hexdigest(), *map(importlib.metadata.version, ("tokenizers", "transformers", "jinja2", "pyarrow"))]


@contextlib.contextmanager
def _sole_builder(path: Path) -> Iterator[None]:
    """Wait until no other process builds the same; a builder that dies lets go of the lock."""
    while True:
        with open(path, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who had it before has taken the file away: somebody else may hold a lock on a new one.
            try:
                current = path.stat().st_ino
            except FileNotFoundError:
                continue
            if current != os.fstat(file.fileno()).st_ino:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _reopen(path: Path) -> TokenStore | None:
    """The store, if it is there and whole; what is damaged is taken away.

    Raises:
        OSError: it cannot be read, which says nothing about what it holds.
    """
    if not path.exists():
        return None
    try:
        if verified(path, read_meta(path)):
            with contextlib.suppress(OSError):  # somebody else's cache may be used too
                os.utime(path / META)  # when it was last used
            return TokenStore(path)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        pass
    shutil.rmtree(path, ignore_errors=True)
    return None


# ------------------------------------------------------------------------------------------------------ building


class _Writer:
    """Fills one folder; begins where an earlier process stopped."""

    def __init__(self, folder: Path, renderer: Renderer, key: str, drop_bad_rows: bool) -> None:
        self.folder = folder
        self._renderer = renderer
        self._key = key
        self._drop_bad_rows = drop_bad_rows
        self._problems: list[Problem] = []
        self._seen: set[tuple[Any, ...]] = set()
        self._laws = NO_LAWS
        self._tokens = 0
        self._done = 0
        self._rows = 0
        self._by_words = renderer.goes_by_words
        self._said_s = time.monotonic()

    def write(self, scan: FileScan, read: str) -> bool:
        """Render every example. Ends with the folder complete and on the disk; or gone, where the file is at fault."""
        try:
            with contextlib.ExitStack() as stack:
                self._open(stack)
                for block in self._blocks(scan):
                    self._take(scan, block)
            scan.close()
            account = scan.account
            if account.sha256 not in ("", read):
                account.fatal.append(Problem("data.changed", str(scan.path)))
            if at_fault(account, self._drop_bad_rows):
                shutil.rmtree(self.folder)
                return False
            if self._problems:
                rest = len(self._problems) - PROBLEMS
                more = [Problem("tokens.more", values={"rows": rest})] if rest > 0 else []
                raise DataError([*self._problems[:PROBLEMS], *more])
            self._finish(scan)
        except BaseException as error:
            # A build that was interrupted goes on later; one that found a fault starts afresh.
            if not isinstance(error, (KeyboardInterrupt, SystemExit)):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return True

    # ------------------------------------------------------------------------------------------------- files

    def _open(self, stack: contextlib.ExitStack) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / META).unlink(missing_ok=True)
        progress = self._progress()
        self._done, self._tokens = progress["rows"], progress["tokens"]
        self._known = np.fromfile(self.folder / "hashes.bin", COLUMNS["hashes"], self._done) if self._done else None
        self._files: dict[str, BinaryIO] = {}
        for name in ("ids", *COLUMNS):
            self._files[name] = stack.enter_context((self.folder / f"{name}.bin").open("ab"))
            self._files[name].truncate(progress["sizes"].get(name, 0))
        self._weights = stack.enter_context(
            _Weights(self.folder / "weights.bin", progress["sizes"].get("weights", 0), progress["weights"])
        )

    def _progress(self) -> dict[str, Any]:
        """How far an earlier process came."""
        try:
            noted = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
            sizes = {name: (self.folder / f"{name}.bin").stat().st_size for name in noted["sizes"]}
            if all(sizes[name] >= size for name, size in noted["sizes"].items()):
                return dict(noted)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {"rows": 0, "tokens": 0, "sizes": {}, "weights": []}

    def _note_progress(self) -> None:
        # Rows that cannot be rendered are in no file: a build that met one begins anew.
        if self._problems or time.monotonic() - self._said_s < PROGRESS_S:
            return
        for file in (*self._files.values(), self._weights.file):
            file.flush()
            os.fsync(file.fileno())
        sizes = {name: file.tell() for name, file in self._files.items()} | {"weights": self._weights.size}
        noted = {"rows": self._rows, "tokens": self._tokens, "sizes": sizes, "weights": self._weights.table}
        temp = self.folder / f"{PROGRESS}.new"
        temp.write_text(json.dumps(noted), encoding="utf-8")
        temp.replace(self.folder / PROGRESS)
        self._said_s = time.monotonic()

    # ------------------------------------------------------------------------------------------------- rows

    def _blocks(self, scan: FileScan) -> Iterator[Block]:
        """The file in blocks of tokens."""
        raw = scan.blocks()
        first = next(raw, None)
        if first is None:
            return
        self._maker = BlockMaker(first[0], self._renderer, self._drop_bad_rows)
        rows = itertools.chain([first[1]], (block for _, block in raw))
        with contextlib.closing(helpers.made(rows, self._maker, lambda: max(self._done - self._rows, 0))) as blocks:
            yield from blocks

    def _take(self, scan: FileScan, block: Block) -> None:
        scan.add(block.account, block.table)
        first = self._rows
        self._rows += len(block.table)
        # Once a row is at fault there will be no training: the rest is only read.
        if self._maker.only_reads or at_fault(scan.account, self._drop_bad_rows):
            self._maker.only_reads = True
            return
        if not block.by_words and self._by_words:
            self._renderer.distrust_words()  # what was told by words before may be wrong as well
            raise _Foreign
        self._watch(block.new)
        old = min(max(self._done - first, 0), len(block.table))
        if old:
            assert self._known is not None
            if self._known[first : first + old].tobytes() != block.table.hashes[:old].tobytes():
                raise _Foreign
        if old == len(block.table):
            return
        assert block.rendered is not None, "nothing is at fault"
        self._write(block.table, old, block.rendered, first)
        self._note_progress()

    def _write(self, table: Table, old: int, made: Rendered, first: int) -> None:
        """Append a block to the files, less the rows before `old`, which are there."""
        columns: dict[str, Any] = {
            "numbers": table.numbers[old:],
            "lines": table.lines[old:],
            "hashes": table.hashes[old:],
            **made.columns,
        }
        if made.columns:
            columns |= {"ends": made.columns["ends"] + self._tokens, "rows": made.columns["rows"] + first}
        for name, values in columns.items():
            self._files[name].write(np.asarray(values, dtype=COLUMNS[name]).tobytes())
        self._problems += made.problems
        self._tokens += len(made.ids)
        if len(made.ids):
            self._files["ids"].write(made.ids.tobytes())
            self._weights.write(made.weights)

    def _watch(self, new: Sequence[tuple[Kept, set[tuple[Any, ...]]]]) -> None:
        """Hold the first example of every shape to the laws of rendering, as soon as it is met."""
        first = [kept for kept, keys in new if not keys <= self._seen]
        self._seen.update(*(keys for _, keys in new))
        if first:
            report = self._renderer.laws([kept.example for kept in first], [kept.where for kept in first])
            shapes = sum(map(laws.is_shape, self._seen))
            self._laws = dataclasses.replace(laws.joined(self._laws, report), shapes=shapes)

    def _finish(self, scan: FileScan) -> None:
        names = ["ids.bin", "weights.bin", *(f"{name}.bin" for name in COLUMNS)]
        meta = {
            "format": FORMAT,
            "key": self._key,
            "weights": self._weights.table,
            "account": scan.account.to_json(),
            "laws": dataclasses.asdict(self._laws),
            "files": {name: checksum(self.folder / name) for name in names},
        }
        (self.folder / META).write_text(json.dumps(meta), encoding="utf-8")
        for name in [*names, META]:
            fsync_file(self.folder / name)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        fsync_folder(self.folder)


class _Weights:
    """A file of loss weights: one byte per token into a table while there are at most 256 different ones (almost always
    0 and 1), plain float32 from then on.

    Args:
        size, table: of an earlier beginning of the file; the table is None where it holds float32.
    """

    def __init__(self, path: Path, size: int, table: list[float] | None) -> None:
        self._path = path
        self.file = open(path, "ab")  # noqa: SIM115 - closed by __exit__
        self.file.truncate(size)
        self._codes = None if table is None else {value: code for code, value in enumerate(table)}

    def __enter__(self) -> _Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def table(self) -> list[float] | None:
        return None if self._codes is None else list(self._codes)

    @property
    def size(self) -> int:
        return self.file.tell()

    def write(self, weights: Floats) -> None:
        if self._codes is not None:
            codes = self._few(weights)
            if codes is None:
                different, places = np.unique(weights, return_inverse=True)
                for value in different.tolist():
                    self._codes.setdefault(value, len(self._codes))
                if len(self._codes) <= 256:
                    codes = np.asarray([self._codes[value] for value in different.tolist()], dtype=np.uint8)[places]
            if codes is not None:
                self.file.write(codes.tobytes())
                return
            self._spell_out(list(self._codes))
        self.file.write(weights.astype(np.float32).tobytes())

    def _few(self, weights: Floats) -> NDArray[np.uint8] | None:
        """The codes of weights that are all among the first in the table; None where others are: sorting all of them
        takes ten times as long."""
        codes, told = np.zeros(len(weights), dtype=np.uint8), np.zeros(len(weights), dtype=np.bool_)
        for value, code in itertools.islice((self._codes or {}).items(), FEW):
            same = weights == np.float32(value)
            codes[same] = code
            told |= same
        return codes if told.all() else None

    def _spell_out(self, table: list[float]) -> None:
        """Rewrite what is there as float32. A build that is killed from here on begins anew: its note of how far it
        came speaks of the file as it was."""
        self._path.with_name(PROGRESS).unlink(missing_ok=True)
        fsync_folder(self._path.parent)
        self.file.close()
        values, wide = np.asarray(table, dtype=np.float32), self._path.with_suffix(".wide")
        with open(self._path, "rb") as codes, open(wide, "wb") as file:
            while block := codes.read(2**20):
                file.write(values[np.frombuffer(block, dtype=np.uint8)].tobytes())
        wide.replace(self._path)
        self.file = open(self._path, "ab")  # noqa: SIM115 - closed by __exit__
        self._codes = None
