"""The one door to Arrow: Parquet and Arrow files, and Zstandard.

What goes in: paths. What comes out: rows as plain values, a few at a time, or the bytes within a packed file. Damage is
raised as one of `DAMAGED`, or as an `OSError` without a number of the system (`is_damage`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

BATCH_ROWS = 1024
"""Rows turned into Python values at a time; chosen, not tuned."""
DAMAGED: tuple[type[Exception], ...] = (pyarrow.ArrowException,)
PARQUET_MAGIC, ARROW_MAGIC, ZSTD_MAGIC = b"PAR1", b"ARROW1", b"\x28\xb5\x2f\xfd"
_STREAM_ENDS = (b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")
"""What a stream of Arrow closes with; the second in files from before 2019."""

Cells = dict[str, Any]


def is_damage(error: OSError) -> bool:
    """Whether Arrow complains of the content: it does so with the exception of the operating system."""
    return error.errno is None


def parquet(path: Path) -> Iterator[Cells | ValueError | OverflowError]:
    """Rows; an exception in place of one that has no Python value. Memory is that of a row group."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from _rows(batch)


def arrow(path: Path) -> Iterator[Cells | ValueError | OverflowError]:
    """Rows of an Arrow file (also Feather) or stream (data sets in the cache of `datasets`).

    Raises:
        ArrowInvalid: the file is cut short or damaged.
    """
    with open(path, "rb") as raw:
        is_file = raw.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        if not is_file:
            raw.seek(-min(8, raw.seek(0, io.SEEK_END)), io.SEEK_END)
            # Arrow itself takes a stream that ends between two of its batches for a whole one.
            if not raw.read().endswith(_STREAM_ENDS):
                raise pyarrow.ArrowInvalid("the stream has no end")
        raw.seek(0)
        with pyarrow.PythonFile(raw, "r") as source:
            for batch in _file_batches(source) if is_file else pyarrow.ipc.open_stream(source):
                # Offsets that point nowhere would be followed without a look.
                batch.validate(full=True)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield from _rows(batch.slice(start, BATCH_ROWS))


def _file_batches(source: Any) -> Iterator[Any]:
    file = pyarrow.ipc.open_file(source)
    for index in range(file.num_record_batches):
        yield file.get_batch(index)


def _rows(batch: Any) -> Iterator[Cells | ValueError | OverflowError]:
    """Rows of a record batch; one by one where a cell of them has no Python value (bad UTF-8, dates out of range)."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = [_row(batch, index) for index in range(batch.num_rows)]
    yield from rows


def _row(batch: Any, index: int) -> Cells | ValueError | OverflowError:
    try:
        row: Cells = batch.slice(index, 1).to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return error
    return row


class Zstandard(io.RawIOBase):
    """The bytes within a Zstandard file of one or more frames. Goes back to the start, and nowhere else."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._at = 0
        self._stream = self._open()

    def _open(self) -> Any:
        return pyarrow.CompressedInputStream(pyarrow.PythonFile(open(self._path, "rb"), "r"), "zstd")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if offset or whence != io.SEEK_SET:
            raise io.UnsupportedOperation("seek")
        self._stream.close()
        self._stream, self._at = self._open(), 0
        return 0

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
