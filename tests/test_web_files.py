"""The page's files: chosen, sent, pasted, looked into, fetched; with hostile names, paths and contents."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow
import pyarrow.parquet
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from web_house import GUARD, client, heavy_after, house, place, server

from luthier import workspace
from luthier.data import detection, peek
from luthier.data.renaming import Renaming
from luthier.errors import RunError
from luthier.web import files

__all__ = ["place"]
ROOT = Path(__file__).resolve().parents[1]
ALPACA = [{"instruction": f"ask {n}", "input": "", "output": f"answer {n}"} for n in range(30)]


@pytest.fixture
def page(place: Path) -> TestClient:
    return client(house(place))


def lines_of(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def content(page: TestClient, path: str, **more: Any) -> dict[str, Any]:
    answer = page.get("/api/files/content", params={"path": path, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


# ------------------------------------------------------------------------------------------------------ listing


def test_a_folder_is_listed(page: TestClient, place: Path) -> None:
    (place / "data" / "in").mkdir(parents=True)
    for name in ("b.jsonl", "A.JSON.gz", "c.csv", "notes.docx", ".secret", "ß中文 名.txt"):
        (place / "data" / name).write_text("123")
    (place / "data" / "in" / "x.parquet").touch()
    os.mkfifo(place / "data" / "pipe.json")
    top = page.get("/api/files").json()
    assert (top["dir"], top["parent"], top["whole"]) == (".", None, True)
    assert [each["path"] for each in top["entries"]] == ["data"]
    made = page.get("/api/files", params={"dir": "data"}).json()
    assert (made["dir"], made["parent"]) == ("data", ".")
    assert [(each["name"], each["folder"], each["data"]) for each in made["entries"]] == [
        ("in", True, False),
        ("A.JSON.gz", False, True),
        ("b.jsonl", False, True),
        ("c.csv", False, True),
        ("notes.docx", False, False),
        ("ß中文 名.txt", False, True),
    ]
    assert made["entries"][1]["bytes"] == 3 and abs(made["entries"][1]["modified_s"] - time.time()) < 100
    assert page.get("/api/files", params={"dir": made["entries"][0]["path"]}).json()["parent"] == "data"


def test_links_are_followed_within_the_home_folder_only(page: TestClient, place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secret.json").write_text("[]")
    (place / "real").mkdir()
    (place / "real" / "rows.json").write_text("[]")
    (place / "inside").symlink_to(place / "real")
    (place / "outside").symlink_to(tmp_path / "out")
    (place / "outside.json").symlink_to(tmp_path / "out" / "secret.json")
    (place / "nowhere").symlink_to(place / "nothing")
    (place / "circle").symlink_to(place / "circle")
    found = page.get("/api/files").json()["entries"]
    assert [each["name"] for each in found] == ["inside", "real"]
    assert page.get("/api/files", params={"dir": "inside"}).json()["entries"][0]["path"] == "real/rows.json"
    for ask, name in (("files", "dir"), ("files/content", "path"), ("files/download", "path")):
        for path in ("outside", "outside/secret.json", "outside.json"):
            assert page.get(f"/api/{ask}", params={name: path}).status_code == 422, path
        assert page.get(f"/api/{ask}", params={name: "nowhere"}).status_code == 404
        assert page.get(f"/api/{ask}", params={name: "circle"}).status_code in (404, 422)


HOSTILE = [
    "..",
    "../",
    "../../etc/passwd",
    "a/../../x",
    "/etc/passwd",
    "/",
    "a\0b",
    "a\0/../x",
    "x" * 5000,
    "a/" * 3000,
    "\\..\\..\\x",
    "..\\x",
    "~",
    "~root/.bashrc",
    "file:///etc/passwd",
    "%2e%2e%2f",
    "..%2f..%2fetc%2fpasswd",
    "\u2025/x",
    "．．／x",
    "CON",
    "a\r\nSet-Cookie: x=1",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_no_path_leads_out(page: TestClient, place: Path, path: str) -> None:
    (place.parent / "x").write_text("secret")
    for ask, name in (("files", "dir"), ("files/content", "path"), ("files/download", "path")):
        answer = page.get(f"/api/{ask}", params={name: path})
        assert answer.status_code in (404, 422), answer.text
        assert answer.json()["problems"][0]["rule"] and b"secret" not in answer.content
        assert b"root:" not in answer.content and "set-cookie" not in answer.headers


def test_what_is_hidden_stays_hidden(page: TestClient, place: Path) -> None:
    (place / ".ssh").mkdir()
    for name in (".ssh/id", ".env.json"):
        (place / name).write_text("secret")
        for ask in ("content", "download"):
            answer = page.get(f"/api/files/{ask}", params={"path": name})
            assert answer.status_code == 404 and b"secret" not in answer.content
    (place / "link.json").symlink_to(place / ".env.json")
    assert page.get("/api/files/download", params={"path": "link.json"}).status_code == 404
    assert page.get("/api/files", params={"dir": ".ssh"}).status_code == 404
    assert page.get("/api/files", params={"dir": "link.json"}).status_code == 404


def test_a_file_is_no_folder_and_a_folder_no_file(page: TestClient, place: Path) -> None:
    (place / "x.json").write_text("[]")
    (place / "d").mkdir()
    assert page.get("/api/files", params={"dir": "x.json"}).json()["problems"][0]["id"] == "web.no_folder"
    assert page.get("/api/files/content", params={"path": "d"}).status_code == 404


def test_names_that_are_no_text_break_nothing(page: TestClient, place: Path) -> None:
    folder = place / "odd"
    folder.mkdir()
    (folder / "good.json").write_text("[]")
    (folder / os.fsdecode(b"bad\xff.json")).write_text("[]")
    assert [each["name"] for each in page.get("/api/files", params={"dir": "odd"}).json()["entries"]] == ["good.json"]
    answer = page.get("/api/files/download", params={"path": "odd"})
    assert zipfile.ZipFile(io.BytesIO(answer.content)).namelist() == ["odd/good.json"]


def test_a_very_full_folder_says_that_there_is_more(
    page: TestClient,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workspace, "MOST_ENTRIES", 3)
    for number in range(5):
        (place / f"{number}.json").touch()
    made = page.get("/api/files").json()
    assert len(made["entries"]) == 3 and made["whole"] is False


# ------------------------------------------------------------------------------------------------------ sending


def put(page: TestClient, name: str, body: Any, **more: Any) -> Any:
    return page.put(f"/api/files/{quote(name, safe='')}", content=body, **more)


def test_a_file_is_kept_as_it_was_sent(page: TestClient, place: Path) -> None:
    body = os.urandom(3 * 2**20 + 17)
    answer = put(page, "rows.jsonl", body)
    assert answer.status_code == 200 and answer.json() == {"path": "uploads/rows.jsonl", "bytes": len(body)}
    assert (place / "uploads" / "rows.jsonl").read_bytes() == body
    assert left(place / "uploads") == ["rows.jsonl"]
    mask = os.umask(0)
    os.umask(mask)
    assert (place / "uploads" / "rows.jsonl").stat().st_mode & 0o777 == 0o666 & ~mask


def test_nothing_is_overwritten(page: TestClient, place: Path) -> None:
    names = [put(page, "rows.jsonl.gz", str(n).encode()).json()["path"] for n in range(3)]
    assert names == ["uploads/rows.jsonl.gz", "uploads/rows-2.jsonl.gz", "uploads/rows-3.jsonl.gz"]
    assert [(place / name).read_text() for name in names] == ["0", "1", "2"]
    assert put(page, "empty", b"").json() == {"path": "uploads/empty", "bytes": 0}


def test_two_who_send_one_name_at_once_both_get_a_file(page: TestClient, place: Path) -> None:
    made: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(put(page, "x.json", b"%d" % n).json())) for n in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({each["path"] for each in made}) == 8
    assert sorted((place / each["path"]).read_text() for each in made) == [str(n) for n in range(8)]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../evil.json", "evil.json"),
        ("/etc/passwd", "passwd"),
        ("C:\\temp\\rows.json", "rows.json"),
        (".htaccess", "htaccess"),
        ("...", "file"),
        ("CON.json", "_CON.json"),
        ("lpt1", "_lpt1"),
        ("console.json", "console.json"),
        ("a\0b.json", "ab.json"),
        ("数据 für mich.jsonl", "数据 für mich.jsonl"),
        ("cafe\u0301.json", "café.json"),
        ('a<b>:"|?*.json', "a_b______.json"),
        ("rows\u202enosj.exe", "rowsnosj.exe"),
        ("trailing. . ", "trailing"),
        ("<img src=x onerror=alert(1)>.json", "_img src=x onerror=alert(1)_.json"),
        (".unfinished-1", "unfinished-1"),
        ("💡.json", "💡.json"),
    ],
)
def test_names_are_made_safe(page: TestClient, place: Path, sent: str, kept: str) -> None:
    assert workspace.safe_name(sent) == kept
    answer = put(page, sent, b"[]")
    assert answer.json()["path"] == f"uploads/{kept}" and left(place / "uploads") == [kept]
    assert left(place) == ["uploads"]


def test_names_that_no_address_can_hold_are_made_safe_too() -> None:
    assert workspace.safe_name("a\r\nb.json") == "ab.json"
    assert {workspace.safe_name(each) for each in ("..", "", "/", "a/..", "\0")} == {"file"}


def test_long_names_keep_their_ending() -> None:
    name = workspace.safe_name("长" * 300 + ".jsonl")
    assert len(name.encode()) <= workspace.NAME_BYTES and name.endswith("长.jsonl")
    assert len(workspace.safe_name("x." + "y" * 900).encode()) <= workspace.NAME_BYTES


@given(st.text(max_size=300))
def test_every_name_becomes_one_that_is_safe(given_: str) -> None:
    name = workspace.safe_name(given_)
    assert name and name == workspace.safe_name(name), "safe names stay as they are"
    assert not set(name) & set('/\\<>:"|?*\0\r\n') and not name.startswith(".") and name[-1] not in ". "
    assert len(name.encode()) <= workspace.NAME_BYTES
    assert name.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


def small(place: Path, most_bytes: int) -> TestClient:
    app = FastAPI()
    app.include_router(files.routes(house(place), most_bytes), prefix="/api")
    from luthier.web.app import _refused

    app.add_exception_handler(RunError, _refused)
    return TestClient(app, headers=GUARD)


def test_what_is_too_large_leaves_nothing(place: Path) -> None:
    page = small(place, 1000)
    assert put(page, "x.json", b"x" * 1000).status_code == 200
    sent = []

    def body() -> Iterator[bytes]:
        for _ in range(5000):
            sent.append(1)
            yield b"x" * 2**16

    for answer in (put(page, "y.json", b"x" * 1001), put(page, "y.json", body())):
        assert answer.status_code == 413
        problem = answer.json()["problems"][0]
        assert problem["id"] == "web.upload_too_large" and "1.0 kB" in problem["rule"]
    assert left(place / "uploads") == ["x.json"]


@pytest.fixture
def little_room() -> Iterator[int]:
    """Files of this process can have 100,000 bytes: the system refuses more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_nothing_is_left(place: Path, little_room: int) -> None:
    page = client(house(place))
    assert put(page, "fits.json", b"x" * 1000).status_code == 200
    for sent in (b"x" * 3 * 2**20, b"x" * (little_room + 1)):  # noticed while it is written, and only at its end
        answer = put(page, "large.json", sent)
        assert answer.status_code == 507, answer.text
        problem = answer.json()["problems"][0]
        assert problem["id"] == "web.upload_no_room" and problem["remedy"] and problem["value"] == "large.json"
    assert left(place / "uploads") == ["fits.json"]


def test_a_full_disk_is_told_before_anything_is_sent(
    page: TestClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "free_bytes", lambda _: 10)
    answer = put(page, "x.json", b"x" * 11)
    assert answer.status_code == 507
    assert answer.json()["problems"][0]["id"] == "web.upload_no_room" and left(place / "uploads") == []
    assert put(page, "x.json", b"x" * 10).status_code == 200


def test_a_folder_that_refuses_is_told_of(page: TestClient, place: Path, tmp_path: Path) -> None:
    (place / "uploads").write_text("a file in the way")
    assert put(page, "x.json", b"[]").json()["problems"][0]["id"] == "web.upload_refused"
    (place / "uploads").unlink()
    (tmp_path / "out").mkdir()
    (place / "uploads").symlink_to(tmp_path / "out")
    assert put(page, "x.json", b"[]").json()["problems"][0]["id"] == "web.outside"
    assert left(tmp_path / "out") == []


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(500):
        if what():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


@pytest.mark.parametrize("head", ["content-length: 100000000", "transfer-encoding: chunked"])
def test_an_upload_that_breaks_off_leaves_nothing(place: Path, head: str) -> None:
    """Over the wire: the connection is cut when a part has arrived."""
    uploads = place / "uploads"
    with server(place) as url:
        at = urlsplit(url)
        with socket.create_connection((str(at.hostname), at.port)) as line:
            line.sendall(
                f"PUT /api/files/x.json HTTP/1.1\r\nhost: {at.netloc}\r\nx-luthier: 1\r\n{head}\r\n\r\n".encode()
            )
            part = b"x" * 3 * 2**20
            line.sendall(b"%x\r\n" % len(part) + part + b"\r\n" if "chunked" in head else part)
            wait_for(lambda: any((uploads / name).stat().st_size > 0 for name in left(uploads)))
            assert left(uploads)[0].startswith(workspace.UNFINISHED)
        wait_for(lambda: left(uploads) == [])


KILLED = """
import os, sys
from pathlib import Path
from luthier.workspace import Incoming
with Incoming(Path("uploads"), "x.json", 1000) as file:
    file.write(b"x")
    print("there", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_server_left_is_taken_away(place: Path) -> None:
    alive, killed = (
        subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    for each in (alive, killed):
        assert each.stdout is not None and each.stdout.readline() == "there\n"
    killed.kill()
    killed.wait()
    assert len(left(place / "uploads")) == 2
    client(house(place))
    assert len(left(place / "uploads")) == 1, "what is still coming stays"
    alive.communicate()
    assert left(place / "uploads") == []


def test_text_is_pasted(page: TestClient, place: Path) -> None:
    def paste(name: str, text: str) -> str:
        answer = page.post("/api/files/paste", json={"name": name, "text": text})
        assert answer.status_code == 200, answer.text
        path = str(answer.json()["path"])
        assert (place / path).read_bytes() == text.encode()
        assert answer.json()["bytes"] == len(text.encode())
        return path

    assert paste("mine.csv", "question,answer\na,b\n") == "uploads/mine.csv"
    assert paste("rows", lines_of(ALPACA)) == "uploads/rows.json"
    assert paste("rows", "[]") == "uploads/rows-2.json"
    assert paste("../story", "Es war einmal\r\n") == "uploads/story.txt"
    assert content(page, "uploads/rows.json")["format"] == "alpaca"
    assert page.post("/api/files/paste", json={"name": "x", "text": ""}).status_code == 422
    assert page.post("/api/files/paste", json={"name": "x" * 2000, "text": "x"}).status_code == 422
    assert page.post("/api/files/paste", json={"name": "x", "text": "x" * 9 * 2**20}).status_code == 413
    half = page.post(
        "/api/files/paste", content='{"name": "h", "text": "\\ud800"}', headers={"content-type": "application/json"}
    )
    assert half.status_code == 422 and half.json()["problems"]


# -------------------------------------------------------------------------------------------------- looking into

HTML = "<script>alert('x')</script><img src=x onerror=alert(1)> & \u2028 \u202e"


def test_rows_come_back_as_they_are(page: TestClient, place: Path) -> None:
    rows = [{"instruction": HTML, "output": f"{HTML}{n}"} for n in range(3)]
    (place / "x.jsonl").write_text(lines_of(rows), encoding="utf-8")
    made = content(page, "x.jsonl")
    assert [json.loads(line) for line in made["lines"]] == rows
    assert made["rows"][1]["turns"] == [
        {"role": "user", "text": HTML, "more": "", "learnt": False, "side": 0},
        {"role": "assistant", "text": f"{HTML}1", "more": "", "learnt": True, "side": 0},
    ]
    answer = page.get("/api/files/content", params={"path": "x.jsonl"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_columns_look_alike_whatever_file_they_are_in(page: TestClient, place: Path) -> None:
    rows = [{"question": f"q{n}", "answer": f"a{n}", "page": str(n)} for n in range(5)]
    (place / "x.json").write_text(json.dumps(rows))
    (place / "x.jsonl.gz").write_bytes(gzip.compress(lines_of(rows).encode()))
    (place / "x.csv").write_text("question;answer;page\n" + "".join(f"q{n};a{n};{n}\n" for n in range(5)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "x.parquet")
    for name in ("x.json", "x.jsonl.gz", "x.csv", "x.parquet"):
        made = content(page, name)
        assert made["columns"] == ["question", "answer", "page"], name
        assert (made["format"], made["whole"], made["problems"]) == ("qa", True, [])
        assert made["why"] == detection.detect(rows)[1] and made["methods"] == ["sft", "distill"]
        assert made["fields"][0] == {
            "name": "question",
            "rows": 5,
            "values": ["q0", "q1", "q2"],
            "reads_as": "question",
        }
        assert made["fields"][2]["reads_as"] is None, "read by nobody"
        assert made["bytes"] == (place / name).stat().st_size
        assert len(made["lines"]) == 5 and json.loads(made["lines"][4]) == rows[4]


def test_columns_under_other_names_are_mended_on_the_spot(page: TestClient, place: Path) -> None:
    rows = [{"Frage": "Wie?", "Antwort": "So.", "meta": {"src": "web", "n": 1}}] * 3
    (place / "x.json").write_text(json.dumps(rows))
    made = content(page, "x.json")
    assert made["format"] == "" and made["problems"][0]["id"] == "data.format_unknown"
    assert made["proposal"] == {"format": "qa", "columns": {"question": "Frage", "answer": "Antwort"}}
    assert made["columns"] == ["Frage", "Antwort", "meta", "meta.src", "meta.n"] and made["rows"][0]["turns"] is None
    taken = {"format": made["proposal"]["format"], "columns": json.dumps(made["proposal"]["columns"])}
    mended = content(page, "x.json", **taken)
    assert mended["problems"] == [] and [each["text"] for each in mended["rows"][0]["turns"]] == ["Wie?", "So."]
    assert [each["reads_as"] for each in mended["fields"]][:3] == ["question", "answer", None]
    wrong = content(page, "x.json", columns=json.dumps({"question": "Fragen"}))
    assert wrong["problems"][0]["id"] == "data.column_absent" and "Frage" in wrong["problems"][0]["rule"]


def test_speakers_under_other_names_are_mended_on_the_spot(page: TestClient, place: Path) -> None:
    turns = [{"from": "customer", "value": "Hi"}, {"from": "BOT7", "value": "Hello"}]
    (place / "x.jsonl").write_text(lines_of([{"conversations": turns}] * 4))
    made = content(page, "x.jsonl")
    assert {each["name"]: (each["rows"], each["role"], each["guess"]) for each in made["speakers"]} == {
        "customer": (4, None, "user"),
        "BOT7": (4, None, "assistant"),
    }
    assert made["rows"][0]["problem"]["id"] == "data.unknown_role"
    mended = content(page, "x.jsonl", roles=json.dumps({"customer": "user", "BOT7": "assistant"}))
    assert [(each["role"], each["learnt"]) for each in mended["rows"][0]["turns"]] == [
        ("user", False),
        ("assistant", True),
    ]
    assert {each["role"] for each in mended["speakers"]} == {"user", "assistant"}


@pytest.mark.parametrize(
    ("row", "methods", "turns"),
    [
        ({"text": "a document"}, ["pretrain"], [("text", True, 0)]),
        ({"prompt": "a", "completion": "b"}, ["sft", "distill"], [("prompt", False, 0), ("completion", True, 0)]),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            ["dpo", "ipo", "simpo", "orpo", "cpo", "reward"],
            [("user", False, 0), ("assistant", True, 1), ("assistant", True, -1)],
        ),
        ({"prompt": "a", "completion": "b", "label": False}, ["kto"], [("user", False, 0), ("assistant", True, -1)]),
        ({"prompt": "a"}, ["grpo", "ppo"], [("user", False, 0)]),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
                          {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
            ["sft", "distill"],
            [("user", False, 0), ("assistant", False, 0), ("user", False, 0), ("assistant", True, 0)],
        ),
    ],
)  # fmt: skip
def test_what_would_be_learnt_is_shown(
    page: TestClient,
    place: Path,
    row: dict[str, Any],
    methods: list[str],
    turns: list[Any],
) -> None:
    (place / "x.jsonl").write_text(lines_of([row]))
    made = content(page, "x.jsonl")
    assert made["methods"] == methods
    assert [(each["role"], each["learnt"], each["side"]) for each in made["rows"][0]["turns"]] == turns


def test_some_rows_of_many(page: TestClient, place: Path) -> None:
    (place / "x.json").write_text(json.dumps([{"text": f"row {n}"} for n in range(1, 501)]))
    made = content(page, "x.json", first=250, rows=2)
    assert made["lines"] == ["row 250", "row 251"] and [each["number"] for each in made["rows"]] == [250, 251]
    assert content(page, "x.json", first=501)["lines"] == []
    for more in ({"first": 0}, {"rows": 0}, {"rows": 10**6}, {"first": "x"}, {"columns": "["}, {"roles": '{"a": 1}'}):
        assert page.get("/api/files/content", params={"path": "x.json", **more}).status_code == 422, more


def test_of_a_large_file_the_beginning_is_looked_at(page: TestClient, place: Path) -> None:
    row = json.dumps({"instruction": "x" * 500, "output": "y" * 500}) + "\n"
    (place / "x.jsonl").write_text(row * 20_000)
    made = content(page, "x.jsonl", first=2000, rows=1)
    assert not made["whole"] and made["format"] == "alpaca" and made["rows"][0]["number"] == 2000
    assert made["bytes"] == 20_000 * len(row)
    end = content(page, "x.jsonl", first=4000, rows=200)
    assert all(each["problem"] is None for each in end["rows"]), "a row that is cut is not shown"


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.txt", "x.csv"])
def test_one_endless_row_is_not_read(page: TestClient, place: Path, name: str) -> None:
    with gzip.open(place / f"{name}.gz", "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"x" * 2**20)
    made = content(page, f"{name}.gz")
    assert not made["whole"] and made["problems"][0]["rule"]


def test_what_holds_no_rows_says_so(page: TestClient, place: Path) -> None:
    cases = {
        "empty.json": (b"", "data.empty_file"),
        "none.jsonl": (b"\n\n", "data.no_rows"),
        "book.json": (b"PK\x03\x04...", "data.packed"),
        "wide.txt": (b"\xff\xfea\0", "data.utf16"),
        "x.docx": (b"abc", "data.ending"),
        "cut.jsonl.gz": (gzip.compress(lines_of(ALPACA).encode())[:60], "data.damaged"),
        "not.parquet": (b"PAR1 nothing", "data.damaged"),
        "word.json": (b"hello", "data.not_json"),
    }
    for name, (data, id) in cases.items():
        (place / name).write_bytes(data)
        made = content(page, name)
        assert [each["id"] for each in made["problems"]] == [id], name
        assert made["problems"][0]["where"].startswith(str(place / name)), "under its own name"


def test_rows_that_cannot_be_read_are_shown_among_the_others(page: TestClient, place: Path) -> None:
    (place / "x.jsonl").write_bytes(
        b'{"text": "a"}\n{"text": \n{"text": "\xff"}\n5\n["x"]\n{"text": ""}\n{"text": "b"}\n'
    )
    made = content(page, "x.jsonl")
    assert [each["number"] for each in made["rows"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [each["problem"] is None for each in made["rows"]] == [True, False, False, False, False, False, True]
    assert made["lines"][0] == "a" and made["lines"][1] == made["rows"][1]["problem"]["rule"]
    large = (b'{"text": "a"}\n{"text": \n' + b'{"text": "b"}\n') * 200_000
    (place / "y.jsonl").write_bytes(large)
    assert str(place / "y.jsonl") in content(page, "y.jsonl")["rows"][1]["problem"]["where"]


def test_values_without_a_word_in_json_are_shown(page: TestClient, place: Path) -> None:
    table = pyarrow.table(
        {
            "text": ["a", None],
            "raw": [b"\xff\0", b"x"],
            "when": pyarrow.array([0, 1], pyarrow.date32()),
            "n": [float("nan"), 1.0],
        }
    )
    pyarrow.parquet.write_table(table, place / "x.parquet")
    made = content(page, "x.parquet")
    assert made["columns"] == ["text", "raw", "when", "n"] and "1970-01-01" in made["lines"][0]


def test_a_format_of_the_user_s_own_is_not_run(page: TestClient, place: Path) -> None:
    (place / "mine.py").write_text("raise SystemExit('ran')\n")
    (place / "x.jsonl").write_text(lines_of(ALPACA))
    made = content(page, "x.jsonl", format="mine:rows")
    assert made["format"] == "mine:rows" and made["rows"][0]["turns"] is None and "mine" not in sys.modules


@given(
    st.binary(max_size=300), st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".parquet", ".arrow"])
)
def test_whatever_bytes_there_are_there_is_an_answer(tmp_path_factory: Any, data: bytes, ending: str) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"x{ending}"
    path.write_bytes(data)
    made = peek.look(path, names=Renaming({"question": "a"}, {"x": "user"}))
    json.dumps(made.to_json())
    assert made.rows or made.problems


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["messages", "conversations", "prompt", "chosen", "rejected", "label", "text", "a", "answers"])


@given(st.lists(VALUES | st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=4))
def test_whatever_rows_there_are_there_is_an_answer(tmp_path_factory: Any, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.jsonl"
    path.write_text(lines_of(rows))
    for names in (Renaming(), Renaming({"prompt": "a"}, {"x": "user"})):
        made = peek.look(path, names=names)
        json.dumps(made.to_json())
        assert made.rows or made.problems


# --------------------------------------------------------------------------------------------------- fetching


def test_a_file_is_fetched_as_it_is(page: TestClient, place: Path) -> None:
    (place / 'Zeug ü"x.html').write_text(HTML, encoding="utf-8")
    answer = page.get("/api/files/download", params={"path": 'Zeug ü"x.html'})
    assert answer.text == HTML and answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''Zeug%20%C3%BC%22x.html"
    part = page.get("/api/files/download", params={"path": 'Zeug ü"x.html'}, headers={"range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, HTML.encode()[:8])


def test_a_folder_is_fetched_as_zip(page: TestClient, place: Path, tmp_path: Path) -> None:
    run = place / "runs" / "first"
    (run / "adapter" / "空").mkdir(parents=True)
    weights = os.urandom(3 * 2**20)
    (run / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    (run / "adapter" / "空" / "notes.txt").write_text("hello")
    (run / "adapter" / ".tmp-1").write_text("unfinished")
    os.utime(run / "adapter" / "空" / "notes.txt", (0, 0))  # before ZIP's time begins
    (tmp_path / "secret").write_text("secret")
    (run / "adapter" / "leak").symlink_to(tmp_path / "secret")
    (run / "adapter" / "own").symlink_to(run / "adapter" / "空" / "notes.txt")
    os.mkfifo(run / "adapter" / "pipe")
    answer = page.get("/api/files/download", params={"path": "runs/first/adapter"})
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''adapter.zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as made:
        assert made.testzip() is None
        assert made.namelist() == ["adapter/adapter_model.safetensors", "adapter/own", "adapter/空/notes.txt"]
        assert made.read("adapter/adapter_model.safetensors") == weights
    (tmp_path / "x.zip").write_bytes(answer.content)
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-t", str(tmp_path / "x.zip")], capture_output=True, text=True
    )
    assert listed.returncode == 0 and "Done" in listed.stdout


def test_a_zip_is_made_while_it_is_sent(tmp_path: Path) -> None:
    """Never more of it is held than a piece."""
    folder = tmp_path / "model"
    folder.mkdir()
    with open(folder / "weights.bin", "wb") as file:
        file.truncate(40 * 2**20)
    sizes = [len(piece) for piece in workspace.zipped(folder, lambda _: True)]
    assert sum(sizes) > 40 * 2**20 and max(sizes) <= workspace.PIECE_BYTES + 1000


def test_a_file_that_goes_meanwhile_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(name)
    pieces = workspace.zipped(folder, lambda _: True)
    data = next(pieces)
    (folder / "b").unlink()
    with zipfile.ZipFile(io.BytesIO(data + b"".join(pieces))) as made:
        assert made.namelist() == ["run/a", "run/c"]


def test_runs_outside_of_the_home_folder_can_be_fetched(place: Path, tmp_path: Path) -> None:
    from luthier.web.house import House

    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "log").write_text("said")
    page = client(House(place, tmp_path / "runs"))
    path = str(tmp_path / "runs" / "one" / "log")
    assert page.get("/api/files/download", params={"path": path}).text == "said"
    assert page.get("/api/files", params={"dir": str(tmp_path / "runs")}).status_code == 422


# -------------------------------------------------------------------------------------------------- nothing heavy

ALL = """
assert page.put("/api/files/x.json", content=b'[{"text": "a"}]').status_code == 200
assert page.post("/api/files/paste", json={"name": "y", "text": "z"}).status_code == 200
for path in ("files", "files/content?path=uploads/x.json", "files/download?path=uploads"):
    assert page.get("/api/" + path).status_code == 200, path
"""


def test_no_route_loads_torch(place: Path) -> None:
    assert heavy_after(ALL) == []
