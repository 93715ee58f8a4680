"""Anything at all in data files.

What goes in: random bytes, whole files with damage, and rows of known keys with any values. What comes out: rows and
faults that name their places, never an exception, and no row lost: read = kept + left out.
"""

from __future__ import annotations

import gzip
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from luthier.data import check, detection, scan, strict_json, wellformed
from luthier.data.formats import FORMATS, RowFault
from luthier.data.readers import READERS, Fault, Row, read
from luthier.data.renaming import Renaming
from luthier.data.turns import ROLES

LONG_S = 3600
"""How long the long test looks for what the short ones miss."""
PASS_EXAMPLES = 1000
"""Examples of one kind between two looks at the clock."""

# --------------------------------------------------------------------------------------------------------- bytes

PIECES = st.sampled_from(
    [b'{"a": 1}', b'"data":', '{"ä": "日本"}'.encode(), b"\xef\xbb\xbf", b"\x1f\x8b", b"PAR1", b"ARROW1", b"(\xb5/\xfd"]
    + [b"\xff\xff\xff\xff", b"\\u12", b"\\ud800", b"NaN", b"1e", b"tru", b"\xc2\xa0", b"\xff", b"\0", b"\r\n"]
    + [bytes([each]) for each in b'[]{}",;\n\t -']
)
BYTES = st.binary(max_size=60) | st.lists(PIECES, max_size=24).map(b"".join)
ENDINGS = st.sampled_from([*READERS, ".jsonl.gz", ".jsonl.zst"])


def _table() -> Any:
    rows = [{"text": f"row {n}", "messages": [{"role": "user", "content": "q"}]} for n in range(50)]
    return pyarrow.Table.from_pylist(rows)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(_table(), buffer, row_group_size=20)
    return buffer.getvalue()


def _arrow(make: Any) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with make(sink, _table().schema) as writer:
        writer.write_table(_table(), max_chunksize=20)
    return bytes(sink.getvalue().to_pybytes())


def _zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return bytes(sink.getvalue().to_pybytes())


LINES = "".join(f'{{"instruction": "q {n} \\"ä\\"", "output": "a"}}\n' for n in range(40)).encode()
WHOLE = {
    ".jsonl": LINES,
    ".json": b"[" + b",".join(LINES.splitlines()) + b"]",
    ".csv": b'instruction,output\n"q ""1"", two",a\n' * 20,
    ".parquet": _parquet(),
    ".arrow": _arrow(pyarrow.ipc.new_file),
    "s.arrow": _arrow(pyarrow.ipc.new_stream),
    ".jsonl.gz": gzip.compress(LINES, mtime=0),
    ".jsonl.zst": _zstd(LINES),
}
"""Ending -> a file in which nothing is wrong."""


def any_bytes(folder: Path, content: bytes, ending: str, chunk: int) -> None:
    path = folder / f"fuzz{ending}"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "CHUNK_BYTES", chunk)
        found = list(read(path))
    fatal = [isinstance(each, Fault) and each.fatal for each in found]
    assert not any(fatal[:-1]), "nothing comes after a fatal fault"
    for each in found:
        text = each.where if isinstance(each, Row) else str(each.problem)
        assert text.startswith(str(path))


def any_damage(folder: Path, ending: str, edits: list[tuple[int, int]], cut: int) -> None:
    """Bytes of a whole file changed, and its end cut off."""
    content = bytearray(WHOLE[ending])
    for place, byte in edits:
        content[place % len(content)] = byte
    any_bytes(folder, bytes(content[: len(content) - cut]), ending, 50)


# ---------------------------------------------------------------------------------------------------------- rows

WORDS = st.sampled_from(
    ["", " ", "q", "a", "5", "true", "{{name}}", '[{"role": "user", "content": "q"}]', '{"x":', "\u202eמ"]
)
SCALARS = WORDS | st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False)
ROLE_NAMES = st.sampled_from([*ROLES, "USER", "narrator"])
TURN_WORDS = ("content", "value", "reasoning_content", "tool_calls", "weight", "train", "human", "assistant", "type")
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "reasoning", "tool_call", "image"]), "text": SCALARS}),
    max_size=3,
)
GOOD_TURNS = st.fixed_dictionaries({"role": ROLE_NAMES, "content": WORDS | PARTS})
TURNS = GOOD_TURNS | st.dictionaries(st.sampled_from(("role", "from", *TURN_WORDS)), SCALARS, max_size=4)
VALUES = st.recursive(
    SCALARS
    | TURNS
    | st.lists(TURNS, max_size=4)
    | st.lists(GOOD_TURNS, max_size=4)
    | st.lists(WORDS, min_size=2, max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=4,
)
KEYS = sorted(
    {key for form in FORMATS.values() for keys in (*form.required, form.optional) for key in keys} | {"id", ""}
)
SHAPES = [keys for form in FORMATS.values() for keys in form.required]


CHATS = st.lists(WORDS, min_size=1, max_size=5).map(
    lambda said: [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
)
TEXTS = st.sampled_from(["q", "a", "b"])
FITTING: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("messages", "conversations", "dialogue", "dialog", "turns"), CHATS),
    "conversation": CHATS | st.just([{"human": "q", "assistant": "a"}]),
    **dict.fromkeys(
        ("prompt", "chosen", "rejected", "chosen_messages", "rejected_messages", "completion"), CHATS | TEXTS
    ),
    **dict.fromkeys(("label", "kto_tag"), st.booleans()),
    "history": st.just([["q", "a"]]),
    "tools": st.just([{"name": "f"}]),
}
"""Key -> values that may well be right; a text where there is none."""


def _of_shape(keys: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """Rows that have the keys of a format, and perhaps others; most of their values fit."""
    whole = {key: FITTING.get(key, TEXTS) for key in keys}
    others = {key: FITTING.get(key, TEXTS) | SCALARS for key in KEYS if key not in keys}
    spoilt = st.sampled_from(keys).flatmap(lambda key: st.fixed_dictionaries({**whole, key: VALUES}))
    return st.fixed_dictionaries(whole) | st.fixed_dictionaries(whole, optional=others) | spoilt


ROWS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5) | st.sampled_from(SHAPES).flatmap(_of_shape) | VALUES


def any_row(row: Any) -> None:
    """Every format takes the row, or says why not; what it takes has a hash and leaves the row as it was."""
    before = json.dumps(row)
    for name, form in FORMATS.items():
        try:
            example = wellformed.parse(form.parse, row)
        except RowFault as fault:
            assert str(fault.problem("a.jsonl:1")).startswith("a.jsonl:1")
            continue
        assert scan.content_hash(example) == scan.content_hash(wellformed.parse(form.parse, json.loads(before)))
        list(detection.unmapped(name, row))
    try:
        name, why = detection.detect([row])
        assert name in FORMATS and why
    except RowFault as fault:
        assert str(fault.problem("a.jsonl"))
    renaming = Renaming({"instruction": "id", "content": "value", "output": "a.b"}, {"USER": "user"})
    renaming.apply(row)
    assert all(str(problem) for problem in renaming.problems([row], "a.jsonl"))
    assert json.dumps(row) == before


def any_file(folder: Path, values: list[Any], broken: int) -> None:
    """Rows are kept or left out, and both lists are whole."""
    lines = [json.dumps(each) for each in values]
    lines[broken % (len(lines) + 1) : 0] = ["{broken"]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    checked = check.check_path(str(path))
    (file,) = checked.files
    assert file.read == file.kept + file.excluded and len(checked.excluded) == file.excluded
    if file.format:
        assert file.read == len(lines)
        numbers = [item.number for item in checked.train] + [each.number for each in checked.excluded]
        assert sorted(numbers) == list(range(1, len(lines) + 1))
    assert checked.problems and check.lines(checked)
    json.dumps(check.report(checked))


# --------------------------------------------------------------------------------------------------------- tests

EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4)
KINDS: dict[str, tuple[Callable[..., None], dict[str, st.SearchStrategy[Any]], int]] = {
    "bytes": (any_bytes, {"content": BYTES, "ending": ENDINGS, "chunk": st.integers(1, 30)}, 600),
    "damage": (any_damage, {"ending": st.sampled_from(list(WHOLE)), "edits": EDITS, "cut": st.integers(0, 400)}, 600),
    "row": (any_row, {"row": ROWS}, 250),
    "file": (any_file, {"values": st.lists(ROWS, max_size=6), "broken": st.integers(0, 6)}, 100),
}
"""Kind -> (what is tried, with which arguments, how often in the suite: about five seconds each)."""


def attempt(kind: str, folder: Path, examples: int) -> Callable[[], None]:
    """A function that tries so many examples of a kind; a folder where the kind writes files."""
    function, arguments, _ = KINDS[kind]
    fixed = {"folder": folder} if kind != "row" else {}

    def one(**drawn: Any) -> None:
        function(**fixed, **drawn)

    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run: Callable[[], None] = settings(max_examples=examples, deadline=None, suppress_health_check=quiet)(
        given(**arguments)(one)
    )
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_anything_gives_rows_and_faults(kind: str, tmp_path: Path) -> None:
    attempt(kind, tmp_path, KINDS[kind][2])()


@pytest.mark.long
def test_anything_for_an_hour(tmp_path: Path) -> None:
    """Another seed in each pass, by turns of the kinds, until the time is over."""
    deadline, passes = time.monotonic() + LONG_S, 0
    while time.monotonic() < deadline:
        for kind in KINDS:
            seed(passes)(attempt(kind, tmp_path, PASS_EXAMPLES))()
        passes += 1
    print(f"{passes} passes of {PASS_EXAMPLES} examples of each kind")
