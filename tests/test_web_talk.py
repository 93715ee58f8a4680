"""Chat behind the page: models that are open in processes of their own, what they answer, and rows that are kept.

The oracle of every answer is a session that has the same adapters on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from test_serve import QUESTION, ROWS, recipe_of
from waiting import until
from web_house import GUARD, client, house, place, server  # noqa: F401  place is a fixture

import luthier.nano
from luthier import cli, proof
from luthier.data.formats import Message
from luthier.runs.store import RunFolder
from luthier.sampling import Sampling
from luthier.session import open_session
from luthier.training import train
from luthier.web import talk
from luthier.web.served import Served, Wanted

LOADING_S = 180
ASKED = [Message("user", QUESTION[0]["content"])]
MISSING = "no-such-model"
LR = {"first": 6e-3, "second": 1e-2}
MIXES = ({"first": 0.5, "second": 1.25}, {"second": 0.3})


class Chat:
    """A server, what it has open, and a client. began: every process that was started."""

    def __init__(self, url: str, began: list[Served]) -> None:
        self.began = began
        self.http = httpx2.Client(base_url=f"{url}api/", headers=GUARD, timeout=LOADING_S, trust_env=False)

    def open(self, target: str, **how: Any) -> dict[str, Any]:
        """Once it answers, or has failed."""
        answer = self.http.post("chat", json={"target": target, **how})
        assert answer.status_code == 200, answer.text
        id = answer.json()["id"]
        assert until(lambda: self.entry(id)["state"] != "loading", LOADING_S), self.entry(id)
        return self.entry(id)

    def entry(self, id: str) -> dict[str, Any]:
        return next(each for each in self.http.get("chat").json()["open"] if each["id"] == id)

    def say(self, id: str, model: str, **how: Any) -> httpx2.Response:
        body = {"model": model, "messages": QUESTION, "max_tokens": 16, **how}
        return self.http.post(f"chat/{id}/completions", json=body)

    def text(self, id: str, model: str, **how: Any) -> str:
        return self.say(id, model, **how).json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A home with `base`, which is nano, and `runs` with `first` and `second` on it, and `otherwise` with another
    prompt. Each says something else."""
    made = tmp_path_factory.mktemp("talk")
    shutil.copytree(Path(luthier.nano.__file__).parent / "base", made / "base")
    (made / "rows.json").write_text(json.dumps(ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
        for seed, name in enumerate(("first", "second")):
            recipe = recipe_of(made / "base", made / "rows.json", made / "runs", name, seed)
            train({**recipe, "optim": {"lr": LR[name], "steps": 4, "batch": 4, "warmup": 0}})
    shutil.copytree(made / "runs" / "first", made / "runs" / "otherwise")
    template = made / "runs" / "otherwise" / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant \n"))
    return made


@pytest.fixture(scope="module")
def chat(folder, tmp_path_factory) -> Iterator[Chat]:
    began: list[Served] = []

    class Seen(Served):
        def __init__(self, wanted: Wanted, home: Path) -> None:
            super().__init__(wanted, home)
            began.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
        patch.chdir(folder)
        patch.setattr(talk, "Served", Seen)
        with server(folder) as url:
            yield Chat(url, began)
    assert not any(each._folder.exists() for each in began), "they leave nothing"
    assert until(lambda: all(each._process.poll() is not None for each in began), 30), "and end with the server"


@pytest.fixture(scope="module")
def both(chat) -> dict[str, Any]:
    """`first`, `second` and their base, in one process."""
    opened = chat.open("first", device="cpu")
    assert (opened["state"], opened["adapters"], opened["base"]) == ("ready", ["first"], "base"), opened
    assert chat.open("base", adapters=["second"])["id"] == opened["id"], "one process for a base"
    opened = chat.open("second")
    assert (opened["adapters"], set(opened["voices"])) == (["first", "second"], {"first", "base", "second"})
    assert len(chat.began) == 1
    return opened


def test_answers_are_those_of_a_session(chat, both, folder):
    session = open_session(folder / "runs" / "first", device="cpu")
    session.load(folder / "runs" / "second")
    wanted = {"first": {}, "second": {"voice": "second"}, "base": {"tuned": False}}
    for strengths in MIXES:
        voice = chat.http.post(f"chat/{both['id']}/mix", json={"strengths": strengths}).json()["voice"]
        wanted[voice] = {"voice": session.mix(strengths)}
    answers = {voice: session.answer(ASKED, Sampling(max_tokens=16), **how) for voice, how in wanted.items()}
    assert len(set(answers.values())) == len(wanted), "or nobody could tell who has answered"
    assert {voice: chat.text(both["id"], voice) for voice in wanted} == answers
    assert chat.entry(both["id"])["voices"] == both["voices"], "a mix is no further choice"


def test_an_answer_comes_byte_for_byte_as_the_model_s_process_gives_it(chat, both):
    own = chat.began[0]
    asked = {"model": "first", "messages": QUESTION, "max_tokens": 12, "temperature": 1.0, "seed": 3, "stream": True}
    headers = {"authorization": f"Bearer {own._key}"}
    direct = httpx2.post(f"{own.address}/v1/chat/completions", json=asked, headers=headers, timeout=60)
    relayed = chat.http.post(f"chat/{both['id']}/completions", json=asked)
    made = re.compile(rb'"id": "[^"]+", "created": \d+')  # of each answer its own
    assert made.sub(b"", relayed.content) == made.sub(b"", direct.content) and relayed.content.endswith(b"[DONE]\n\n")
    assert relayed.headers["content-type"] == direct.headers["content-type"]
    refused = chat.say(both["id"], "first", mirostat=2)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "mirostat"
    assert httpx2.post(f"{own.address}/v1/chat/completions", json=asked, timeout=60).status_code == 401, "without a key"


def test_a_client_that_goes_away_ends_its_answer(chat, both):
    own = chat.began[0]

    def figure(name: str) -> float:
        page = httpx2.get(f"{own.address}/metrics", headers={"authorization": f"Bearer {own._key}"}, timeout=60).text
        return float(re.search(rf"^{name} (\S+)$", page, re.M).group(1))

    before = figure("luthier_cancelled_total")
    asked = {"model": "first", "messages": QUESTION, "max_tokens": 200, "temperature": 2.0, "n": 64, "stop": ["\x00"]}
    with chat.http.stream("POST", f"chat/{both['id']}/completions", json={**asked, "stream": True}) as answer:
        next(answer.iter_lines())
    assert until(lambda: figure("luthier_cancelled_total") == before + 1, 20)
    with pytest.raises(httpx2.TimeoutException):
        chat.http.post(f"chat/{both['id']}/completions", json=asked, timeout=0.5)
    assert until(lambda: figure("luthier_cancelled_total") == before + 2, 20)


def test_an_adapter_leaves_and_comes_back(chat, both):
    at = f"chat/{both['id']}/adapters"
    assert chat.http.delete(f"{at}/second").json()["adapters"] == ["first"]
    refused = chat.http.delete(f"{at}/second")
    assert refused.status_code == 422 and refused.json()["problems"][0]["id"] == "web.chat_refused"
    assert chat.http.post(at, json={"run": "second"}).json()["adapters"] == ["first", "second"]
    assert chat.http.post(at, json={"run": "third"}).status_code == 404
    wrong = chat.http.post(f"chat/{both['id']}/mix", json={"strengths": {"third": 1}})
    assert wrong.status_code == 422 and "third" in wrong.json()["problems"][0]["rule"]


def test_a_run_with_another_prompt_gets_a_process_of_its_own(chat, both):
    answer = chat.http.post("chat", json={"target": "otherwise", "device": "cpu"}).json()
    assert answer["id"] != both["id"] and answer["state"] == "loading"
    asked = chat.say(answer["id"], "otherwise")
    assert asked.status_code == 409 and asked.json()["problems"][0]["id"] == "web.chat_loading"
    own = chat.began[-1]
    assert chat.http.delete(f"chat/{answer['id']}").status_code == 200
    assert own._process.poll() is not None and not own._folder.exists()
    assert chat.http.delete(f"chat/{answer['id']}").status_code == 404
    assert [each["id"] for each in chat.http.get("chat").json()["open"]] == [both["id"]]


@pytest.mark.parametrize("target", [MISSING, "--host=0.0.0.0"])
def test_what_cannot_be_loaded_says_why_in_the_language_of_who_asks(chat, target):
    chat.http.headers["X-Language"] = "zh"
    try:
        failed = chat.open(target)
    finally:
        del chat.http.headers["X-Language"]
    (problem,) = failed["problems"]
    assert failed["state"] == "failed" and problem["id"] in ("hub.unknown", "hub.near") and problem["value"] == target
    assert re.search(r"[\u4e00-\u9fff]", problem["rule"])
    again = chat.http.post("chat", json={"target": target}).json()
    assert again["id"] != failed["id"] and again["state"] == "loading", "it is tried again"
    assert chat.http.delete(f"chat/{again['id']}").status_code == 200
    assert failed["id"] not in [each["id"] for each in chat.http.get("chat").json()["open"]]


def test_requests_that_name_nothing_are_refused(chat, both):
    assert chat.http.post("chat", json={"target": "nano", "adapters": ["nowhere"]}).status_code == 404
    assert chat.http.post("chat", json={"target": "a\x00b"}).status_code == 422
    assert chat.http.post("chat", json={"target": "nano", "device": "--port"}).status_code == 422
    assert chat.http.post("chat/nothing/completions", json={}).status_code == 404


def test_a_model_whose_process_dies_says_so(chat, both):
    """Last: it is the one that the others ask."""
    os.kill(chat.began[0]._process.pid, signal.SIGKILL)
    assert until(lambda: chat.entry(both["id"])["state"] == "failed", 20)
    assert chat.entry(both["id"])["problems"][0]["id"] == "web.chat_ended"
    asked = chat.say(both["id"], "first")
    assert asked.status_code == 409 and "POST /v1/chat/completions" in asked.json()["problems"][0]["rule"], "its log"


def test_models_end_with_a_server_that_is_killed(folder, tmp_path):
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom luthier.web.served import Served, Wanted\n"
        "async def main():\n"
        "    made = Served(Wanted('base', (), 'base', 'cpu', 'model'), Path.cwd())\n"
        "    while made.state == 'loading':\n        await asyncio.sleep(0.1)\n"
        "    print(made.state, made._process.pid, made._folder, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    path = str(Path(__file__).resolve().parents[1])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        state, pid, place = parent.stdout.readline().split()
        assert state == "ready" and Path(f"/proc/{pid}").exists()
        parent.kill()
        assert until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in stat(pid), 30)
    finally:
        parent.kill()
        shutil.rmtree(place, ignore_errors=True)


def stat(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_what_can_share_a_process(folder):
    first, second = (RunFolder(folder / "runs" / name) for name in ("first", "second"))
    base = str((folder / "base").resolve())
    alone = Wanted.of(first, [], folder, "auto", "model")
    assert (alone.target, alone.base, alone.runs) == (str(first.path), base, (first.path,))
    of_base = Wanted.of("base", [second], folder, "auto", "model")
    assert (of_base.target, of_base.base) == (str(second.path), base), "a run brings its template and its base"
    assert Wanted.of("nano", [], folder, "auto", "model").base == "nano"
    assert Wanted.of("org/model", [second], folder, "auto", "model").target == "org/model", "it is refused there"


# -------------------------------------------------------------------------------------------------- rows


TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which tree, 木?"}]
ANSWER = {"role": "assistant", "content": "<b>A birch.</b>"}
KEPT = {
    "sft": {"messages": [*TURNS, ANSWER]},
    "preference": {"messages": TURNS, "chosen": "A birch.", "rejected": "A stone."},
    "labelled": {"messages": [*TURNS, ANSWER], "label": False},
}


@pytest.mark.parametrize("kind", KEPT)
def test_answers_that_are_kept_are_rows_that_training_reads(place, kind, capsys):  # noqa: F811
    asked = client(house(place))
    for number in (1, 2):
        told = asked.post("/api/chat/rows", json={"file": "good", "kind": kind, **KEPT[kind]})
        assert told.status_code == 200 and told.json() == {"path": "uploads/good.jsonl", "rows": number}, told.text
    file = place / "uploads" / "good.jsonl"
    file.write_text(file.read_text().rstrip("\n"))  # as a crash may leave it
    asked.post("/api/chat/rows", json={"file": "good.jsonl", "kind": kind, **KEPT[kind]})
    assert len(file.read_text().splitlines()) == 3
    assert cli.run(["data", "check", "uploads/good.jsonl", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = told["files"]
    assert found["format"] == talk.FORMAT_OF[kind] and found["read"] == 3, found
    for other in KEPT.keys() - {kind}:
        refused = asked.post("/api/chat/rows", json={"file": "good", "kind": other, **KEPT[other]})
        assert refused.status_code == 422 and refused.json()["problems"][0]["id"] == "web.rows_of_another_kind"


def test_rows_that_training_could_not_read_are_not_written(place):  # noqa: F811
    asked = client(house(place))
    for wrong in (
        {"kind": "sft", "messages": [*TURNS, {"role": "assistant", "content": ""}]},
        {"kind": "preference", "messages": TURNS, "chosen": "A birch."},
        {"kind": "labelled", "messages": [*TURNS, ANSWER]},
        {"kind": "sft", "messages": TURNS},
        {"kind": "sft", "messages": []},
    ):
        assert asked.post("/api/chat/rows", json={"file": "good", **wrong}).status_code == 422, wrong
    assert not (place / "uploads").exists()
    outside = asked.post("/api/chat/rows", json={"file": "../../out", "kind": "sft", **KEPT["sft"]})
    assert outside.json()["path"] == "uploads/out.jsonl" and (place / "uploads" / "out.jsonl").is_file()
    (place / "uploads" / "away.jsonl").symlink_to(place.parent / "away.jsonl")
    away = asked.post("/api/chat/rows", json={"file": "away", "kind": "sft", **KEPT["sft"]})
    assert away.status_code == 422 and not (place.parent / "away.jsonl").exists()


def test_characters_are_those_of_the_home_folder(place):  # noqa: F811
    asked = client(house(place))
    assert asked.get("/api/chat/characters").json() == {"characters": []}
    (place / "characters.yaml").write_text("- {name: Ada, system: Count., sampling: {temperature: 0.5}}\n")
    assert asked.get("/api/chat/characters").json()["characters"] == [
        {"name": "Ada", "system": "Count.", "greeting": "", "sampling": {"temperature": 0.5}}
    ]
    (place / "characters.yaml").write_text("Ada")
    assert asked.get("/api/chat/characters").status_code == 422
