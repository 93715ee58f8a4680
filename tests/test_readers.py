"""Files to rows.

What goes in: good, odd and broken files. What comes out: rows with their places, checked against the standard library
and pyarrow as oracles, and faults that name the place, never an exception.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peaks import PEAK

from luthier.data import strict_json
from luthier.data.readers import Fault, Row, read

Write = Callable[[str, bytes | str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the current folder and gives its relative path, so that places are short."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, content: bytes | str) -> Path:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        return Path(name)

    return make


def rows(path: Path) -> list[Row]:
    found = list(read(path))
    assert all(isinstance(each, Row) for each in found), [each for each in found if isinstance(each, Fault)]
    return [each for each in found if isinstance(each, Row)]


def told(path: Path) -> list[tuple[Any, ...]]:
    """Rows as (number, line, value), faults as (id, where, fatal)."""
    return [
        (each.number, each.line, each.value)
        if isinstance(each, Row)
        else (each.problem.id, each.problem.where, each.fatal)
        for each in read(path)
    ]


# ------------------------------------------------------------------------------------------------------- JSON


def test_an_array_gives_elements_with_their_lines(write: Write) -> None:
    path = write("a.json", '[\n  {"a": 1},\n\n  {"a":\n 2}, {"a": 3}\n]\n')
    assert told(path) == [(1, 2, {"a": 1}), (2, 4, {"a": 2}), (3, 5, {"a": 3})]
    assert [each.where for each in rows(path)] == ["a.json:2 (row 1)", "a.json:4 (row 2)", "a.json:5 (row 3)"]


def test_one_value_per_line(write: Write) -> None:
    path = write("a.jsonl", '{"a": 1}\n\n   \n{"a": 2}')
    assert told(path) == [(1, 1, {"a": 1}), (4, 4, {"a": 2})]
    assert rows(path)[1].where == "a.jsonl:4"


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("lines.json", '{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ("array.jsonl", '[{"a": 1},\n{"a": 2}]', [{"a": 1}, {"a": 2}]),
        ("array_in_one_line.jsonl", '[{"a": 1}, {"a": 2}]\n', [{"a": 1}, {"a": 2}]),
        ("chats.jsonl", '[{"role": "user"}]\n[{"role": "user"}]\n', [[{"role": "user"}], [{"role": "user"}]]),
        ("one_chat.jsonl", '[{"role": "user"}]\n', [[{"role": "user"}]]),
        ("chats.json", '[[{"role": "user"}], [{"role": "user"}]]', [[{"role": "user"}], [{"role": "user"}]]),
        ("wrapped.json", '\n{\n"data": [{"a": 1}, {"a": 2}]\n}\n', [{"a": 1}, {"a": 2}]),
        ("in_one_line.json", '{"version": "1.0", "n": 2, "data": [{"a": 1}, {"a": 2}]}', [{"a": 1}, {"a": 2}]),
        ("spread.json", '{\n "name": "\u00e4 \\" [",\n "of": null,\n "rows": [\n{"a": 1}\n]\n}', [{"a": 1}]),
        ("empty_list.json", '{"version": 1, "data": []}', []),
        ("of_lines.jsonl", '{"id": 1, "data": [{"a": 1}]}\n', [{"id": 1, "data": [{"a": 1}]}]),
        ("of_lines.json", '{"id": 1, "data": []}\n{"id": 2}', [{"id": 1, "data": []}, {"id": 2}]),
        ("texts.json", '{"id": 1, "data": ["q", "a"]}', [{"id": 1, "data": ["q", "a"]}]),
        ("one_row.json", '{"a": 1}', [{"a": 1}]),
        ("empty.json", "[]", []),
        ("blank.json", "\n \n", []),
        ("blank.jsonl", "\n\n", []),
        ("bom.json", b'\xef\xbb\xbf[{"a": "\xc3\xa4"}]', [{"a": "ä"}]),
        ("bom.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n', [{"a": 1}, {"a": 2}]),
        ("scalars.json", "[1, 2.5, null, true, -3]", [1, 2.5, None, True, -3]),
        ("emoji.jsonl", '{"a": "\\ud83d\\ude00 \U0001f600 שלום"}', [{"a": "\U0001f600 \U0001f600 שלום"}]),
    ],
)
def test_the_content_decides_between_array_and_lines(
    write: Write, name: str, content: bytes | str, values: list[Any]
) -> None:
    assert [each.value for each in rows(write(name, content))] == values


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz", "packed_but_not_named.json"])
def test_gzip(write: Write, name: str) -> None:
    assert told(write(name, gzip.compress(b'{"a": 1}\n{"a": 2}\n'))) == [(1, 1, {"a": 1}), (2, 2, {"a": 2})]


BAD_ROWS = [
    ("syntax", "{'a': 1}", "data.json_syntax", ":2"),
    ("two values", '{"a": 1} {"a": 2}', "data.json_syntax", ":10"),
    ("duplicate key", '{"a": {"b": 1, "b": 2}}', "data.duplicate_key", ""),
    ("nan", '{"a": NaN}', "data.not_finite", ""),
    ("infinity", '{"a": [-Infinity]}', "data.not_finite", ""),
    ("overflow", '{"a": 1e999}', "data.not_finite", ""),
    ("thousands of digits", '{"a": ' + "9" * 5000 + "}", "data.not_finite", ""),
    ("deep", "[" * 10_000 + "]" * 10_000, "data.too_deep", ""),
    ("rather deep", '{"a": ' + "[" * 70 + "]" * 70 + "}", "data.too_deep", ""),
    ("half a pair", '{"a": "\\ud83d"}', "data.half_pair", ""),
    ("utf-8", b'{"a": "\xff"}', "data.not_utf8", ""),
]


@pytest.mark.parametrize(("_", "bad", "id", "column"), BAD_ROWS)
def test_a_bad_line_is_named_and_the_others_are_read(
    write: Write, _: str, bad: bytes | str, id: str, column: str
) -> None:
    raw = bad.encode() if isinstance(bad, str) else bad
    path = write("a.jsonl", b'{"a": "[{[{"}\n' + raw + b'\n{"a": 3}\n')
    assert told(path) == [(1, 1, {"a": "[{[{"}), (id, f"a.jsonl:2{column}", False), (3, 3, {"a": 3})]


@pytest.mark.parametrize(("_", "bad", "id", "column"), [case for case in BAD_ROWS if case[2] != "data.json_syntax"])
def test_a_bad_element_is_named_and_the_others_are_read(
    write: Write, _: str, bad: bytes | str, id: str, column: str
) -> None:
    raw = bad.encode() if isinstance(bad, str) else bad
    found = told(write("a.json", b'[\n{"a": 1},\n' + raw + b',\n{"a": 3}\n]'))
    # So deep that no end can be found: the rest is given up, and said so.
    fatal = len(raw) > 10_000 and id == "data.too_deep"
    assert found[:2] == [(1, 2, {"a": 1}), (id, "a.json:3 (row 2)", fatal)]
    assert found[2:] == ([] if fatal else [(3, 4, {"a": 3})])


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('[{"a": 1},\n {"a": 2]', "a.json:2"),
        ('[{"a": 1}, {"a": 2}\n', "a.json:2 (row 3)"),
        ('[{"a": 1}, {"a": 2},\n]', "a.json:2 (row 3)"),
        ('[{"a": 1}\n {"a": 2}]', "a.json:2"),
        ('[{"a": 1}\n]\n[{"a": 2}]', "a.json:3 (row 2)"),
        ('[{"a": 1},\n {"a": "x', "a.json:2"),
        ("[", "a.json:1"),
        ('{"data": [{"a": 1}], "more": 1}', "a.json:1 (row 2)"),
        ('{"version": 1, "data": [{"a": 1}', "a.json:1 (row 2)"),
        ('{\n"version": 1,\n"data": [{"a": 1}],\n"more": 1}', "a.json:3 (row 2)"),
    ],
)
def test_an_array_that_breaks_off_says_where(write: Write, content: str, where: str) -> None:
    *before, last = told(write("a.json", content))
    assert last == ("data.json_array_broken", where, True)
    assert all(isinstance(each[0], int) for each in before)


def test_the_offset_of_a_bad_byte_counts_from_the_start_of_the_file(write: Write) -> None:
    for name, content in (
        ("a.jsonl", b'\xef\xbb\xbf{"a": "\xc3\xa4"}\r\n{"a": "\xff"}'),
        ("a.json", b'\xef\xbb\xbf[{"a": "\xc3\xa4"}, {"a": "\xff"}]'),
        ("a.json", b'\xef\xbb\xbf{"by": "\xc3\xa4",\n"data": [{"a": "\xc3\xa4"}, {"a": "\xff"}]}'),
        ("a.txt", b"\xef\xbb\xbf\xc3\xa4\nb\xff\n"),
        ("a.csv", b'a\n"\xc3\xa4\nb"\nc\xff\n'),
    ):
        faults = [each for each in read(write(name, content)) if isinstance(each, Fault)]
        assert [fault.problem.values["byte"] for fault in faults] == [content.index(b"\xff")]


@pytest.mark.parametrize(
    ("name", "content", "id"),
    [
        ("one.json", '{\n  "instruction": "a",\n  "output": "b"\n}', "data.one_object"),
        ("one.jsonl", '{\n  "instruction": "a"\n}', "data.one_object"),
        ("twice.json", '{\n"data": 1,\n"data": [{"a": 1}]\n}', "data.one_object"),
        ("within.json", '{\n"info": {"v": 1},\n"data": [{"a": 1}]\n}', "data.one_object"),
        ("bad_byte.json", b'{\n"by": "\xff",\n"data": [{"a": 1}]\n}', "data.one_object"),
        ("prose.json", "instruction,output\na,b\n", "data.not_json"),
        ("utf16.json", "[{}]".encode("utf-16"), "data.utf16"),
        ("sheet.csv", b"PK\x03\x04rest", "data.packed"),
        ("rows.jsonl.zst", b"\x28\xb5\x2f\xfdrest", "data.damaged"),
        ("rows.jsonl.bz2", b"BZh9rest", "data.packed"),
        ("rows.xlsx", b"no sheet", "data.ending"),
        ("rows.arrow", b"ARROW1", "data.damaged"),
        ("other.arrow", b"not arrow at all", "data.damaged"),
        ("no_end.arrow", b"\xff\xff\xff\xff", "data.damaged"),
        ("rows", b"abc", "data.ending"),
        ("nothing.json", b"", "data.empty_file"),
        ("nothing.csv", b"\xef\xbb\xbf", "data.empty_file"),
        ("cut.parquet", b"PAR1abcdefgh", "data.damaged"),
        ("other.parquet", b"not parquet at all", "data.damaged"),
    ],
)
def test_files_that_cannot_be_read(write: Write, name: str, content: bytes | str, id: str) -> None:
    assert told(write(name, content)) == [(id, name, True)]


def test_gzip_cut_short(write: Write) -> None:
    whole = gzip.compress("".join(json.dumps({"a": random.Random(i).random()}) + "\n" for i in range(3000)).encode())
    *before, last = told(write("a.jsonl.gz", whole[: len(whole) // 2]))
    assert last == ("data.damaged", "a.jsonl.gz", True)
    assert 100 < len(before) < 3000
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    assert told(write("b.jsonl.gz", bytes(damaged)))[-1][0] in ("data.damaged", "data.not_utf8", "data.json_syntax")


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("name", ["a.json.zst", "a.jsonl.zstd", "packed_but_not_named.json"])
def test_zstandard(write: Write, name: str) -> None:
    """Also in several frames, as parallel tools write it, and with a mark of the byte order."""
    packed = zstd(b'\xef\xbb\xbf{"a": 1}\n') + zstd(b'{"a": 2}\n')
    assert told(write(name, packed)) == [(1, 1, {"a": 1}), (2, 2, {"a": 2})]
    array = zstd(json.dumps([{"a": n} for n in range(20_000)], indent=1).encode())
    assert [each.value["a"] for each in rows(write(name.replace("jsonl", "json"), array))] == list(range(20_000))
    assert [each.value for each in rows(write("a.csv.zst", zstd(b"q,a\n1,2\n")))] == [{"q": "1", "a": "2"}]
    assert rows(write("a.txt.zst", zstd(b"one\n\ntwo")))[1].where == "a.txt.zst:3"


def test_zstandard_cut_short(write: Write) -> None:
    whole = zstd("".join(json.dumps({"a": random.Random(i).random()}) + "\n" for i in range(9000)).encode())
    *before, last = told(write("a.jsonl.zst", whole[: len(whole) // 2]))
    assert last == ("data.damaged", "a.jsonl.zst", True)
    assert len(before) < 9000


def test_a_missing_file_names_what_there_is(write: Write) -> None:
    write("alpaca.jsonl", "{}")
    write("other.csv", "a")
    (fault,) = read(Path("alpaca.json"))
    assert isinstance(fault, Fault) and fault.fatal
    assert (fault.problem.id, fault.problem.values["near"]) == ("data.no_file", "beside it are: alpaca.jsonl")
    (fault,) = read(Path("zzz.json"))
    assert isinstance(fault, Fault) and "alpaca.jsonl, other.csv" in str(fault.problem)
    (fault,) = read(Path("nowhere/deep/a.json"))
    assert isinstance(fault, Fault) and str(Path.cwd()) in str(fault.problem)
    (fault,) = read(Path("bad\0name.json"))
    assert isinstance(fault, Fault) and fault.problem.id == "data.no_file"


def test_a_folder_and_a_pipe_are_no_files(write: Write) -> None:
    Path("folder").mkdir()
    assert told(Path("folder")) == [("data.not_a_file", "folder", True)]
    os.mkfifo("pipe.jsonl")
    assert told(Path("pipe.jsonl")) == [("data.not_a_file", "pipe.jsonl", True)]


def test_no_permission(write: Write) -> None:
    path = write("a.jsonl", "{}").absolute()
    locked = Path("locked").absolute()
    locked.mkdir()
    (locked / "b.jsonl").write_text("{}")
    os.chmod(path, 0)
    os.chmod(locked, 0)
    code = (
        "import os, sys; from pathlib import Path; from luthier.data.readers import read\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "print([each.problem.id for name in sys.argv[1:] for each in read(Path(name))])"
    )
    for folder in path.parents:  # pytest's own folders are closed to others
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(locked / "b.jsonl")], capture_output=True, text=True, check=False
    )
    os.chmod(locked, 0o700)
    assert done.stdout.strip() == "['data.unreadable', 'data.unreadable']", done.stderr


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(JSON_VALUES, max_size=6), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40))
def test_arrays_are_read_as_the_standard_library_reads_them(
    values: list[Any], indent: int | None, ascii: bool, chunk: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "CHUNK_BYTES", chunk)
        found = list(strict_json.elements(io.BytesIO(text.encode())))
    assert [each.value for each in found] == values and all(each.fault is None for each in found)
    assert [each.line for each in found[:1]] == ([1 if indent is None else 2] if values else [])


def test_a_large_array_is_read_in_a_small_window(tmp_path: Path) -> None:
    """Peak memory stays far below the file's size."""
    path = tmp_path / "a.json"
    with open(path, "w") as file:
        file.write("[")
        file.write(",\n".join(json.dumps({"a": "x" * 1000, "n": number}) for number in range(24_000)))
        file.write("]")
    code = PEAK + (
        "import sys; from luthier.data.readers import read\n"
        "before = peak(); total = sum(each.value['n'] for each in read(Path(sys.argv[1])))\n"
        "print(total, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    total, grown_kib = map(int, done.stdout.split())
    assert total == sum(range(24_000))
    assert grown_kib * 1024 < path.stat().st_size // 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_one_row_of_50_megabytes(write: Write, name: str) -> None:
    big, small = "x" * 50_000_000, "y"
    content = {
        "a.jsonl": f'{{"text": "{big}"}}\n{{"text": "{small}"}}\n',
        "a.json": f'[{{"text": "{big}"}}, {{"text": "{small}"}}]',
        "a.csv": f'text\n"{big}"\n{small}\n',
        "a.txt": f"{big}\n{small}\n",
    }[name]
    found = rows(write(name, content))
    assert [len(each.value["text"]) for each in found] == [len(big), len(small)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_many_tiny_rows(write: Write, name: str) -> None:
    count = 100_000
    content = {
        "a.jsonl": '{"text": "a"}\n' * count,
        "a.json": "[" + ",".join(['{"text": "a"}'] * count) + "]",
        "a.csv": "text\n" + "a\n" * count,
        "a.txt": "a\n" * count,
    }[name]
    path = write(name, content)
    found = 0
    for found, each in enumerate(read(path), 1):  # noqa: B007
        assert each.value == {"text": "a"}  # type: ignore[union-attr]
    assert found == count


STRANGE = (
    "שלום \u202eעולם\u202c",
    "مرحبا\u200f",
    "👩\u200d👩\u200d👧\ufe0f🏳️\u200d🌈",
    "e\u0301 ≠ é",
    "a\u2028b\u2029c\x85d\x0be",
    "\ufeffmark",
)


def test_text_of_every_script_comes_back_as_it_is(write: Write) -> None:
    """Also where Python would see the end of a line: only a line feed is one."""
    values = [{"text": each} for each in STRANGE]
    for name in ("a.jsonl", "a.json"):
        for ascii in (True, False):
            lines = [json.dumps(each, ensure_ascii=ascii) for each in values]
            content = "\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]"
            assert [each.value for each in rows(write(name, content))] == values
    table = "text\n" + "".join(f'"{each}"\n' for each in STRANGE)
    assert [each.value for each in rows(write("a.csv", table))] == values
    assert [each.value for each in rows(write("a.txt", "\n".join(STRANGE)))] == values
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), buffer)
    assert [each.value for each in rows(write("a.parquet", buffer.getvalue()))] == values
    assert told(write("a.parquet.gz", gzip.compress(buffer.getvalue()))) == [("data.packed", "a.parquet.gz", True)]


# ------------------------------------------------------------------------------------------------------ tables


def test_csv_counts_lines_of_the_file(write: Write) -> None:
    path = write("a.csv", 'q,a\n"one ""1""","two\r\nlines, and a comma"\n\nthree,four\r\n')
    assert told(path) == [
        (2, 2, {"q": 'one "1"', "a": "two\r\nlines, and a comma"}),
        (5, 5, {"q": "three", "a": "four"}),
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), max_size=8),
            min_size=2,
            max_size=2,
        ),
        max_size=5,
    ),
    st.sampled_from([("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", "|")]),
)
def test_tables_come_back_as_the_standard_library_writes_them(
    tmp_path: Path, cells: list[list[str]], form: tuple[str, str]
) -> None:
    name, delimiter = form
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["q", "a"], *cells])
    (tmp_path / name).write_bytes(text.getvalue().encode())
    assert [list(each.value.values()) for each in rows(tmp_path / name)] == cells


def test_bad_tables(write: Write) -> None:
    found = told(write("a.csv", 'q,a\n1,2,3\n4\n"x"y,z\nfine,row\n"open,row\nlost,row\n'))
    assert found == [
        ("data.csv_cells", "a.csv:2", False),
        ("data.csv_cells", "a.csv:3", False),
        ("data.csv_syntax", "a.csv:4", False),
        (5, 5, {"q": "fine", "a": "row"}),
        ("data.csv_open_quote", "a.csv:6", True),
    ]
    assert told(write("b.csv", "q,q\n1,2\n")) == [("data.column_twice", "b.csv:1", True)]
    assert told(write("c.csv", b"q,a\n1,\xff\n2,3\n"))[1] == (3, 3, {"q": "2", "a": "3"})
    assert told(write("d.csv", "q,a\n")) == []


def test_a_cell_may_be_long(write: Write) -> None:
    assert len(rows(write("a.csv", "q,a\n1," + "x" * 300_000 + "\n"))[0].value["a"]) == 300_000


def test_parquet(write: Write) -> None:
    values = [{"q": "ä", "m": [{"role": "user", "content": None}]}, {"q": None, "m": []}] * 700
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), buffer, row_group_size=300)
    path = write("a.parquet", buffer.getvalue())
    assert [each.value for each in rows(path)] == values
    assert rows(path)[1200].where == "a.parquet (row 1201)"
    assert [each.value for each in rows(write("misnamed.jsonl", buffer.getvalue()))] == values
    assert told(write("cut.parquet", buffer.getvalue()[:-50]))[-1] == ("data.damaged", "cut.parquet", True)


def test_a_parquet_cell_that_is_no_text(write: Write) -> None:
    array = pyarrow.Array.from_buffers(
        pyarrow.string(),
        3,
        [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"a\xffb")],
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": array}), buffer)
    path = write("a.parquet", buffer.getvalue())
    assert told(path) == [
        (1, 0, {"text": "a"}),
        ("data.cell", "a.parquet (row 2)", False),
        (3, 0, {"text": "b"}),
    ]


def arrow(values: list[dict[str, Any]], kind: str, rows: int = 50) -> bytes:
    """An Arrow `file` or `stream` in batches of so many rows."""
    table = pyarrow.Table.from_pylist(values)
    sink = pyarrow.BufferOutputStream()
    make = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow(write: Write, kind: str) -> None:
    values = [{"q": "ä", "m": [{"role": "user", "content": None}]}, {"q": None, "m": []}] * 1200
    path = write("a.arrow", arrow(values, kind, 2000))
    assert [each.value for each in rows(path)] == values
    assert rows(path)[1200].where == "a.arrow (row 1201)"
    assert rows(write("none.arrow", arrow([{"a": 1}], kind, 1)))[0].value == {"a": 1}


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_cut_short(write: Write, kind: str) -> None:
    """Wherever it is cut, also between two batches, where Arrow itself would find nothing wrong."""
    whole = arrow([{"text": f"row {n}"} for n in range(300)], kind)
    for cut in range(1, len(whole) - 1, 97):
        *before, last = told(write("a.arrow", whole[:cut]))
        assert last == ("data.damaged", "a.arrow", True) and len(before) < 300, cut
    assert told(write("a.arrow", whole[:-8]))[-1] == ("data.damaged", "a.arrow", True)


def test_an_arrow_stream_with_a_flipped_length_is_damaged(write: Write) -> None:
    """Found by fuzzing: a buffer's length that asks for more memory than any machine has."""
    whole = arrow([{"text": f"row {n}"} for n in range(300)], "stream")
    for at in (*range(160, 170), *range(848, 858)):
        for byte in (1, 127):
            path = write("a.arrow", whole[:at] + bytes([byte]) + whole[at + 1 :])
            assert all(isinstance(each, (Row, Fault)) for each in read(path))


def test_a_column_that_changes_its_type_half_way(write: Write) -> None:
    """Rows are values of their own: no column has a type that a later row could break."""
    values = [{"a": "text"}] * 200 + [{"a": 3}, {"a": ["x"]}, {"a": {"b": None}}] + [{"a": "text"}] * 200
    path = write("a.jsonl", "".join(json.dumps(each) + "\n" for each in values))
    assert [each.value for each in rows(path)] == values


# -------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.txt", "one\ntwo\n", [(1, "one"), (2, "two")]),
        ("a.txt", "\none\ntwo\n\n", [(2, "one"), (3, "two")]),
        ("a.txt", "one\n  indented\n\n \nthree\n", [(1, "one\n  indented"), (5, "three")]),
        ("a.txt", "one\r\ntwo\r\n\r\nthree", [(1, "one\ntwo"), (4, "three")]),
        ("a.md", "# one\n\ntwo\n", [(1, "# one\n\ntwo")]),
        ("a.md", "\n\n", []),
        # mtime: the content is part of the test's name, which every worker must give alike.
        ("a.txt.gz", gzip.compress(b"one\ntwo", mtime=0), [(1, "one"), (2, "two")]),
    ],
)
def test_documents(write: Write, name: str, content: bytes | str, documents: list[tuple[int, str]]) -> None:
    assert [(each.number, each.value["text"]) for each in rows(write(name, content))] == documents


def test_a_document_with_a_bad_byte_is_named(write: Write) -> None:
    found = told(write("a.txt", b"one\ntwo\xff\n\nthree"))
    assert found == [("data.not_utf8", "a.txt:2", False), (4, 4, {"text": "three"})]


def test_real_files(real_data: Callable[[str], Path]) -> None:
    """The standard library reads the same rows."""
    for name in ("alpaca_en_demo.json", "identity.json", "glaive_toolcall_en_demo.json"):
        path = real_data(name)
        assert [each.value for each in rows(path)] == json.loads(path.read_bytes())
    for name in ("v1_sft_demo.jsonl", "c4_demo.jsonl"):
        path = real_data(name)
        assert [each.value for each in rows(path)] == [json.loads(line) for line in path.read_bytes().splitlines()]
    path = real_data("wiki_demo.txt")
    assert [each.value["text"] for each in rows(path)] == path.read_text("utf-8").strip().split("\n")
