"""Who may come to the page, how much they may send, and what a browser may do with the answer."""

from __future__ import annotations

import hmac
import http.client
import io
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from web_house import GUARD, HERE, client, house, place, server

from luthier.errors import RunError
from luthier.web import door as doors
from luthier.web.app import STATIC, make
from luthier.web.door import BODY_BYTES, HEADERS, Door
from luthier.web.house import House
from luthier.web.start import ui

__all__ = ["place"]
TOKEN = "a-token-that-nobody-guesses"


def ids(answer: Any) -> list[str]:
    return [each["id"] for each in answer.json()["problems"]]


# ---------------------------------------------------------------------------------------------------- this machine


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.9:1"])
def test_this_machine_is_let_in_under_its_own_names(place: Path, host: str) -> None:
    assert client(house(place)).get("/api/state", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:7860", "localhost.evil.example", "", "10.0.0.1:7860", "0:7860"]
)
def test_other_names_are_not(place: Path, host: str) -> None:
    """A page of another site whose name was made to mean this machine."""
    for path in ("/api/state", "/", "/app.js"):
        answer = client(house(place)).get(path, headers={"Host": host})
        assert answer.status_code == 403
    assert ids(client(house(place)).get("/api/state", headers={"Host": host})) == ["web.foreign"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (HERE, 200),
        ("http://127.0.0.1:8888", 403),
        ("http://localhost:7860", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_of_other_servers_are_not_heard(place: Path, origin: str, status: int) -> None:
    assert client(house(place)).get("/api/state", headers={"Origin": origin}).status_code == status


def test_what_a_browser_says_comes_from_another_site_is_not_heard(place: Path) -> None:
    asked = client(house(place))
    assert asked.get("/api/state", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert asked.get("/api/state", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert asked.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200, "a link may lead here"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_what_changes_something_needs_the_header(place: Path, method: str) -> None:
    asked = TestClient(client(house(place)).app, base_url=HERE)
    answer = asked.request(method, "/api/jobs/0123456789abcdef")
    assert answer.status_code == 403 and ids(answer) == ["web.no_guard"]
    assert asked.request(method, "/api/jobs/0123456789abcdef", headers=GUARD).status_code in (404, 405, 422)


# ---------------------------------------------------------------------------------------------------- the token


def test_without_the_token_nothing_is_shown(place: Path) -> None:
    asked = client(house(place, tokens=(TOKEN,)))
    answer = asked.get("/api/state")
    assert answer.status_code == 401 and ids(answer) == ["web.no_token"]
    for path in ("/", "/app.js", "/index.html"):
        answer = asked.get(path)
        assert answer.status_code == 401 and "luthier ui" in answer.text and "<" not in answer.text


@pytest.mark.parametrize("wrong", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 30])
def test_a_wrong_token_opens_nothing(place: Path, wrong: str) -> None:
    asked = client(house(place, tokens=(TOKEN,)))
    assert asked.get("/", params={"token": wrong}).status_code == 401
    assert "set-cookie" not in asked.get("/", params={"token": wrong}).headers
    bearer = f"Bearer {wrong}".encode()
    assert asked.get("/api/state", headers={b"Authorization": bearer}).status_code == 401  # type: ignore[dict-item]
    assert asked.get("/api/state", headers={b"Cookie": b"luthier-7860=" + wrong.encode()}).status_code == 401  # type: ignore[dict-item]


def test_the_link_gives_a_cookie_that_scripts_and_other_sites_cannot_use(place: Path) -> None:
    asked = client(house(place, tokens=(TOKEN,)))
    answer = asked.get("/", params={"token": TOKEN})
    assert answer.status_code == 200 and answer.headers["refresh"] == "0; url=/"
    name, *flags = answer.headers["set-cookie"].split("; ")
    assert name == f"luthier-7860={TOKEN}" and set(flags) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert TOKEN not in answer.text and TOKEN not in answer.headers["refresh"]
    assert asked.get("/api/state").status_code == 200, "the client has kept it"
    assert '<base href="/">' in asked.get("/").text


def test_a_script_may_send_the_token_in_a_header(place: Path) -> None:
    asked = client(house(place, tokens=("other", TOKEN)), Authorization=f"Bearer {TOKEN}")
    assert asked.get("/api/state").status_code == 200
    assert asked.delete("/api/jobs/0123456789abcdef").status_code == 404


def test_with_a_token_any_name_of_the_machine_will_do(place: Path) -> None:
    asked = client(house(place, tokens=(TOKEN,)), Authorization=f"Bearer {TOKEN}", Host="gpu.example:7860")
    assert asked.get("/api/state").status_code == 200
    assert asked.post("/api/runs/x/stop", headers={"X-Luthier": ""}).status_code == 403, "still with the header"


def test_all_tokens_are_compared_in_constant_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    true = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or true(a, b))
    asked = client(house(place, tokens=("one", "two", TOKEN)))
    asked.get("/", params={"token": "one"})
    assert len(compared) == 3 and all(len(a) == len(b) == 32 for a, b in compared)


@pytest.mark.parametrize("how", [{"host": "0.0.0.0"}, {"base_path": "/user/me/proxy/7860/"}])
def test_others_can_only_come_with_a_token(place: Path, how: dict[str, str]) -> None:
    page = ui("runs", port=0, open_page=False, block=False, log=io.StringIO(), **how)  # type: ignore[arg-type]
    try:
        address, _, token = page.url.partition("?token=")
        assert len(token) > 40, "made here, and in the link"
        port = int(address.split(":")[2].split("/")[0])
        line = http.client.HTTPConnection("127.0.0.1", port)
        line.request("GET", "/api/state")
        assert line.getresponse().status == 401
    finally:
        page.close()


def test_tokens_come_from_a_file(place: Path) -> None:
    (place / "tokens").write_text(f"{TOKEN}\nsecond\n")
    page = ui(port=0, token_file="tokens", open_page=False, block=False, log=io.StringIO())
    page.close()
    assert page.url.endswith(f"/?token={TOKEN}")
    (place / "tokens").write_text("\n")
    with pytest.raises(RunError):
        ui(port=0, token_file="tokens", open_page=False, block=False)


# ---------------------------------------------------------------------------------------------------- sizes


def test_a_body_that_says_it_is_too_large_is_not_read(place: Path) -> None:
    answer = client(house(place)).post("/api/runs", content=b"{}", headers={"Content-Length": str(BODY_BYTES + 1)})
    assert answer.status_code == 413 and ids(answer) == ["web.too_large"]


@pytest.mark.parametrize("extra", [0, 1])
def test_a_body_that_does_not_say_is_counted(place: Path, monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    monkeypatch.setattr(doors, "BODY_BYTES", 10_000)
    pieces = iter([b'{"recipe": "', b"x" * (10_000 - 14 + extra), b'"}'])
    answer = client(house(place)).post("/api/runs", content=pieces, headers={"Content-Type": "application/json"})
    assert answer.status_code == (413 if extra else 422)
    assert "key" in answer.text or extra, "read as a whole, and found to lack its key"


# ---------------------------------------------------------------------------------------------------- answers


def test_every_answer_says_what_a_browser_may_do_with_it(place: Path) -> None:
    asked = client(house(place))
    answers = [
        asked.get("/"),
        asked.get("/style/ground.css"),
        asked.get("/api/state"),
        asked.get("/nothing"),
        asked.get("/api/runs/nothing"),
        asked.get("/api/state", headers={"Host": "evil.example"}),
        asked.post("/api/runs", json={}),
    ]
    for answer in answers:
        for name, value in HEADERS:
            assert answer.headers[name.decode()] == value.decode(), answer.url
        kept = answer.headers["cache-control"]
        assert kept == ("no-store" if "/api/" in str(answer.url) else "no-cache")
    assert "script-src" not in dict(HEADERS)[b"content-security-policy"].decode(), "scripts as all else: from here only"


def test_a_fault_is_told_without_its_details(place: Path) -> None:
    log = io.StringIO()
    here = house(place)
    broken = TestClient(Door(make(here), here, 7860, log), base_url=HERE, headers=GUARD, raise_server_exceptions=False)
    here.board.devices = lambda: 1 // 0  # type: ignore[assignment, return-value, method-assign]
    answer = broken.get("/api/state")
    assert answer.status_code == 500 and ids(answer) == ["web.internal"]
    assert "division" not in answer.text and "ZeroDivisionError" in log.getvalue()


def test_refusals_have_one_shape(place: Path) -> None:
    asked = client(house(place))
    for answer in (
        asked.get("/api/runs/none"),
        asked.get("/api/none"),
        asked.post("/api/runs", json={"recipe": 3, "more": 1}),
        asked.post("/api/runs", content=b"{not json"),
        asked.get("/api/runs/x/history?points=many"),
        asked.delete("/api/state"),
    ):
        assert answer.status_code in (404, 405, 422)
        for problem in answer.json()["problems"]:
            assert set(problem) == {"id", "where", "field", "value", "rule", "remedy"} and problem["rule"]
    fields = [each["field"] for each in asked.post("/api/runs", json={"recipe": 3, "more": 1}).json()["problems"]]
    assert "key" in fields and "more" in fields


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({"X-Language": "zh"}, "没有"),
        ({"X-Language": "en", "Accept-Language": "zh-CN"}, "there is no"),
        ({"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}, "没有"),
        ({"Accept-Language": "fr, en-GB;q=0.5, zh"}, "there is no"),
        ({"Accept-Language": "fr"}, "there is no"),
    ],
)
def test_each_request_is_answered_in_its_language(place: Path, headers: dict[str, str], word: str) -> None:
    asked = client(house(place))
    assert word in asked.get("/api/runs/none", headers=headers).json()["problems"][0]["rule"]
    assert "there is no" in asked.get("/api/runs/none").json()["problems"][0]["rule"], "and the next one in its own"


def test_the_interface_describes_itself(place: Path) -> None:
    asked = client(house(place))
    described = asked.get("/api/openapi.json").json()
    assert {"/api/runs", "/api/runs/{name}/events", "/api/jobs"} <= described["paths"].keys()
    assert asked.get("/docs").status_code == 404


# ---------------------------------------------------------------------------------------------------- paths


def test_below_a_base_path_with_and_without_a_proxy_that_takes_it_away(place: Path) -> None:
    base = "/user/me/proxy/7860/"
    asked = client(house(place, base, (TOKEN,)), Authorization=f"Bearer {TOKEN}")
    for path in (base, base.rstrip("/"), "/"):
        assert f'<base href="{base}">' in asked.get(path).text
    for path in (f"{base}api/state", "/api/state"):
        assert asked.get(path).json()["base"] == base
    assert asked.get(f"{base}style/ground.css").status_code == 200
    link = asked.get(base, params={"token": TOKEN})
    assert f"Path={base};" in link.headers["set-cookie"] and link.headers["refresh"] == f"0; url={base}"


def test_a_base_path_is_written_as_addresses_are(place: Path) -> None:
    asked = client(house(place, "/user/me%40x/", (TOKEN,)), Authorization=f"Bearer {TOKEN}")
    assert '<base href="/user/me%40x/">' in asked.get("/user/me%40x/").text
    page = ui(port=0, base_path='a"><script>/../b c', open_page=False, block=False, log=io.StringIO())
    page.close()
    assert page.url.partition("?")[0].endswith("/a%22%3E%3Cscript%3E/../b%20c/")


def test_the_link_names_the_machine_where_all_addresses_are_listened_at(place: Path) -> None:
    page = ui(port=0, host="0.0.0.0", open_page=False, block=False, log=io.StringIO())
    page.close()
    assert page.url.startswith(f"http://{socket.gethostname()}:")


OUTSIDE = [
    "/../app.py",
    "/%2e%2e/app.py",
    "/%2e%2e%2fapp.py",
    "/lib/../../app.py",
    "/..%5capp.py",
    "//etc/passwd",
    "/%00",
    "/app.js%00.css",
    "/lib/%2e%2e/%2e%2e/%2e%2e/errors.py",
    "/api/../../app.py",
    "/" + "a" * 5000,
]


def test_no_path_leads_out_of_the_page_s_own_files(place: Path) -> None:
    with server(place) as url:
        line = http.client.HTTPConnection(url.split("/")[2])
        for path in OUTSIDE:
            line.request("GET", path)
            answer = line.getresponse()
            body = answer.read()
            assert answer.status in (400, 404, 405), path
            assert b"import" not in body and b"root:" not in body, path
        line.request("GET", "/app.js")
        assert line.getresponse().read() == (STATIC / "app.js").read_bytes()


HOSTILE = ["..", "%2e%2e", "a/../../x", "/etc", "a\0b", "--json", ".hidden", "a b", "x" * 5000, "%00", "a%2fb", "\n"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_no_run(place: Path, name: str) -> None:
    here = house(place)
    (place / "recipe.yaml").write_text("model: nano\n")
    (place / "runs").mkdir()
    with pytest.raises(RunError):
        here.run(name)


@pytest.mark.parametrize("name", ["--json", "-x", "a b", ".hidden", "数据", "a=b"])
def test_a_run_may_be_called_anything(place: Path, name: str) -> None:
    """A folder that was renamed by hand."""
    here = house(place)
    (place / "runs" / name).mkdir(parents=True)
    (place / "runs" / name / "recipe.yaml").write_text("model: nano\n")
    assert here.run(name).path == place / "runs" / name
    assert client(here).get(f"/api/runs/{quote(name)}").json()["name"] == name


def test_links_are_judged_by_where_they_lead(place: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "recipe.yaml").write_text("model: nano\n")
    (place / "runs").mkdir()
    (place / "runs" / "linked").symlink_to(outside)
    (place / "circle").symlink_to(place / "circle")
    (place / "rows.json").write_text("[]")
    (place / "inner").symlink_to(place / "rows.json")
    here = house(place)
    for path in (
        "runs/linked/recipe.yaml",
        "../outside",
        str(outside),
        "/etc/passwd",
        "circle/x",
        "a\0b",
        "x" * 5000,
    ):
        with pytest.raises(RunError):
            here.inside(path)
    with pytest.raises(RunError):
        here.run("linked")
    assert here.inside("inner") == place / "rows.json"
    assert here.inside("new/file.json") == place / "new" / "file.json"
    elsewhere = House(place, outside)
    assert elsewhere.inside(outside / "x") == outside / "x", "the folder of runs may lie anywhere"


def test_the_server_never_changes_its_folder(place: Path) -> None:
    """Requests are answered on several threads, which share it."""
    asked = client(house(place))
    asked.get("/api/runs")
    asked.post("/api/runs", json={"recipe": "model: nano", "key": "12345678"})
    assert Path.cwd() == place and os.getcwd() == str(place)
