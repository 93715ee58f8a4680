"""Folders of safetensors files: what they hold, and writing one as a whole or not at all.

What goes in: a folder, or a stream of named tensors. What comes out: where each tensor lies in which file, and folders
that appear complete or not at all. The format: 8 bytes of header length, a JSON header (name -> dtype, shape, byte
range), then the bytes of the tensors.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from luthier.disk import fsync_folder, fsync_tree, write_json
from luthier.errors import ModelError, Problem
from luthier.runs.files import user_errors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format itself."""
DEFAULT_SHARD_BYTES = 5 * 10**9
"""Size that transformers cut its files at for years, so that any file system and mirror takes them."""
DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file; begin and end are byte positions in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file.

    Raises:
        ModelError: no safetensors file, or shorter than its own header says (a download that broke off).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, f"{size} bytes, no safetensors header")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        start = 8 + length
        tensors = {
            name: Stored(path, entry["dtype"], tuple(entry["shape"]), *(start + at for at in entry["data_offsets"]))
            for name, entry in entries.items()
        }
        needed = max((stored.end for stored in tensors.values()), default=start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    if needed != size:
        raise _damaged(path, f"{size} bytes of {needed}")
    return tensors


def index(folder: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint folder, from one file or from the shards that its index names.

    Raises:
        ModelError: no weights, only `*.bin` weights, an adapter, a missing or damaged file.
    """
    if (folder / SINGLE).is_file():
        return header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise ModelError(_no_weights(folder))
    files = _shard_files(folder / INDEX)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ModelError(Problem("models.shard_missing", str(folder), values={"files": listed(missing)}))
    tensors: dict[str, Stored] = {}
    for name in files:
        tensors.update(header(folder / name))
    return tensors


Dtypes = torch.dtype | Mapping[str, torch.dtype]
"""What tensors are stored as: all the same, or each by its name."""


def write_file(path: Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Dtypes, tensors: Iterator[Tensor]) -> None:
    """Write one safetensors file, holding one tensor in memory at a time.

    Args:
        shapes: name -> shape of what `tensors` yields, in that order.
        dtypes: what the tensors are stored as.
    """
    offset, entries = 0, {}
    for name, shape in shapes.items():
        dtype = dtype_of(dtypes, name)
        size = _num_elements(shape) * dtype.itemsize
        entries[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    head = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that the first tensor begins at a multiple of 8, as the format wants
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            assert tuple(tensor.shape) == shape, f"{name}: {tuple(tensor.shape)} is not {shape}"
            plain = tensor.detach().to(device="cpu", dtype=dtype_of(dtypes, name)).contiguous().reshape(-1)
            file.write(plain.view(torch.uint8).numpy().data)


def write_checkpoint(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Dtypes,
    tensors: Iterable[tuple[str, Tensor]],
    max_shard_bytes: int,
) -> None:
    """Write `model.safetensors`, or numbered shards with an index where it would be larger than `max_shard_bytes`.

    Args:
        shapes: name -> shape, in the order in which `tensors` yields them.
    """
    sizes = {name: _num_elements(shape) * dtype_of(dtypes, name).itemsize for name, shape in shapes.items()}
    shards = _plan(shapes, sizes, max_shard_bytes)
    stream = _in_order(tensors, shapes)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [SINGLE]
    for file_name, shard in zip(names, shards, strict=True):
        write_file(folder / file_name, shard, dtypes, (next(stream) for _ in shard))
    assert next(stream, None) is None, "more tensors than shapes"
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})


@contextmanager
def fresh_folder(target: Path, needed_bytes: int) -> Iterator[Path]:
    """A folder beside `target` that takes its name and place when the block ends well, and vanishes otherwise.

    Whatever a killed process left half-written is cleared by the next one; what a living one is writing is left alone.

    Args:
        target: must not exist, or be an empty folder.
        needed_bytes: what is going to be written.

    Raises:
        ModelError: `target` holds something, or another process is writing it.
        RunError: too little space, or the operating system refuses.
    """
    partial = target.with_name(f".{target.name}.partial")
    with user_errors(target, needed_bytes):
        _must_be_empty(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(target.parent).free < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lock = _own(partial, target)
        try:
            _must_be_empty(target)  # another process may have finished it since
            for left in partial.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield partial
            fsync_tree(partial)
            if target.exists():
                target.rmdir()
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(lock)
        fsync_folder(target.parent)


def _must_be_empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(Problem("models.not_empty", str(target)))


def _own(partial: Path, target: Path) -> int:
    """Make the folder, or take over what a killed process left of it. The lock goes with the process that holds it."""
    partial.mkdir(exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        busy = True
    except OSError:
        busy = False  # some network file systems lock no folders
    else:
        # Where its owner has just given it its final name, the lock is on that.
        busy = not (partial.exists() and partial.stat().st_ino == os.fstat(lock).st_ino)
    if busy:
        os.close(lock)
        raise ModelError(Problem("models.being_written", str(target)))
    return lock


def dtype_of(dtypes: Dtypes, name: str) -> torch.dtype:
    """What one tensor is stored as."""
    return dtypes if isinstance(dtypes, torch.dtype) else dtypes[name]


def listed(names: Iterable[str], most: int = 8) -> str:
    """A few names for a message; `most` is what fits a line or two."""
    everything = list(names)
    return ", ".join(everything[:most]) + (", ..." if len(everything) > most else "")


def _shard_files(path: Path) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(Problem("models.bad_index", str(path), values={"reason": repr(error)})) from error
    outside = [name for name in files if not isinstance(name, str) or name != Path(name).name]
    if outside or not files:
        raise ModelError(Problem("models.bad_index", str(path), values={"reason": listed(map(repr, outside)) or "{}"}))
    return files


def _no_weights(folder: Path) -> Problem:
    if (folder / "adapter_config.json").is_file():
        return Problem("models.is_adapter", str(folder))
    if any(folder.glob("*.bin")):
        return Problem("models.only_bin", str(folder), values={"folder": str(folder)})
    return Problem("models.no_weights", str(folder))


def _plan(
    shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], max_shard_bytes: int
) -> list[dict[str, tuple[int, ...]]]:
    """Consecutive tensors, as many per file as fit; a tensor larger than the limit has a file of its own."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    used = 0
    for name, shape in shapes.items():
        size = sizes[name]
        if shards[-1] and used + size > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += size
    return shards


def _in_order(tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Tensor]:
    names = iter(shapes)
    for name, tensor in tensors:
        expected = next(names, None)
        assert name == expected, f"{name} comes where {expected} should"
        yield tensor


def _num_elements(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(Problem("models.damaged", str(path), values={"reason": reason}))
