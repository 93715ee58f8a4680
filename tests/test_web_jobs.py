"""Jobs of the page: commands in processes of their own, which outlive the server that started them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import waiting
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from web_house import client, house, place

from luthier import cli
from luthier.errors import RunError
from luthier.text import speaking
from luthier.web import errand, jobs, orders
from luthier.web.house import House
from luthier.web.jobs import Job, Jobs

__all__ = ["place"]

STAND_IN = """
import json, os, pathlib, signal, sys, time
mode, *rest = sys.argv[1:]
print("hf_" + "a" * 34, file=sys.stderr, flush=True)
pathlib.Path(f"began-{os.getpid()}").touch()
if mode == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    if mode in ("wait", "stubborn"):
        pathlib.Path("waits").touch()
        while not os.path.exists("go"):
            time.sleep(0.01)
except KeyboardInterrupt:
    print(json.dumps({"error": {"problems": [{"id": "shell.stopped"}]}}))
    sys.exit(130)
if mode == "die":
    os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps({"argv": rest, "lang": os.environ["LC_ALL"], "home": os.getcwd()}))
sys.exit(3 if mode == "three" else 0)
"""
"""For the command line: what its first argument says."""


@pytest.fixture
def stand_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command line of which nothing is heavy; the process of a job is the true one. The folder that jobs work in."""
    package = place / "stand-in" / "luthier"
    (package / "web").mkdir(parents=True)
    for name in ("__init__.py", "web/__init__.py"):
        (package / name).touch()
    shutil.copy(errand.__file__, package / "web" / "errand.py")
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return place


def of(folder: Path) -> Jobs:
    return Jobs(folder / "jobs", folder, folder / "runs")


def start(there: Jobs, *argv: str, key: str = "first-key", **arguments: Any) -> Job:
    return there.start("kind", key, arguments or {"mode": argv[0]}, lambda folder: argv, {"in": "put"}, None)


def until(there: Jobs, id: str, state: str) -> Job:
    assert waiting.until(lambda: there.one(id).state == state, 60), there.one(id)
    return there.one(id)


# ---------------------------------------------------------------------------------------------------- their course


def test_a_job_comes_to_the_command_s_result(stand_in: Path) -> None:
    there = of(stand_in)
    job = start(there, "good", "--what=a b")
    assert job.state in ("running", "done") and job.started_s > 0
    done = until(there, job.id, "done")
    assert done.result == {"argv": ["--what=a b", "--json"], "lang": "C.UTF-8", "home": str(stand_in)}
    assert (done.code, done.problems, done.kind, done.arguments) == (0, [], "kind", {"mode": "good"})
    assert done.ended_s is not None and done.ended_s >= done.started_s
    assert (there.folder / job.id / "in").read_text() == "put"
    assert not list(there.folder.glob(".new-*"))


def test_what_it_says_is_told_without_secrets(stand_in: Path) -> None:
    there = of(stand_in)
    done = until(there, start(there, "good").id, "done")
    assert done.log == ["hf_***"]
    lines = "".join(f"line {number}\n" for number in range(100_000))
    (there.folder / done.id / "log").write_text(lines)
    assert there.one(done.id).log == [f"line {number}" for number in range(100_000 - jobs.LOG_LINES, 100_000)]


def test_a_verdict_is_a_result_too(stand_in: Path) -> None:
    there = of(stand_in)
    done = until(there, start(there, "three").id, "done")
    assert done.code == 3 and done.result is not None


def test_one_that_dies_is_told_of(stand_in: Path) -> None:
    there = of(stand_in)
    failed = until(there, start(there, "die").id, "failed")
    assert (failed.code, failed.result) == (-signal.SIGKILL, None)
    assert failed.problems[0]["id"] == "web.job_died" and "-9" in failed.problems[0]["rule"]


def test_the_command_speaks_as_its_reader_does(stand_in: Path) -> None:
    there = of(stand_in)
    with speaking("zh"):
        job = start(there, "good")
    assert until(there, job.id, "done").result["lang"] == "zh_CN.UTF-8"


def test_the_same_key_is_the_same_job(stand_in: Path) -> None:
    there = of(stand_in)
    found: list[str] = []
    several = [threading.Thread(target=lambda: found.append(start(there, "wait").id)) for _ in range(8)]
    for each in several:
        each.start()
    for each in several:
        each.join()
    assert len(set(found)) == 1 and len(there.listed()) == 1
    (stand_in / "go").touch()
    until(there, found[0], "done")
    assert start(there, "wait").id == found[0], "also when it is over"
    assert start(of(stand_in), "wait").id == found[0], "also for another server"
    assert len(list(stand_in.glob("began-*"))) == 1


def test_the_same_order_is_the_job_that_is_under_way(stand_in: Path) -> None:
    there = of(stand_in)
    first = start(there, "wait", key="one")
    assert start(there, "wait", key="another").id == first.id
    other = start(there, "wait", key="third", more=1)
    assert other.id != first.id
    (stand_in / "go").touch()
    until(there, first.id, "done")
    assert start(there, "wait", key="another").id not in (first.id, other.id), "once it is over it can be made again"


def test_another_server_goes_on_with_it(stand_in: Path) -> None:
    """The first server is a process of its own, and killed."""
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from luthier.web.jobs import Jobs\n"
        "there = pathlib.Path.cwd(); jobs = Jobs(there / 'jobs', there, there / 'runs')\n"
        "print(jobs.start('kind', 'first-key', {}, lambda folder: ['wait'], {}, None).id, flush=True)\n"
        "import time; time.sleep(600)"
    )
    root = str(Path(cli.__file__).parents[1])
    with subprocess.Popen([sys.executable, "-P", "-c", code, root], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        id = server.stdout.readline().strip()
        assert waiting.until(lambda: (stand_in / "waits").exists())
        server.kill()
    there = of(stand_in)
    assert there.one(id).state == "running"
    assert [each.id for each in there.listed()] == [id]
    (stand_in / "go").touch()
    assert until(there, id, "done").code == 0


def test_one_whose_first_process_is_gone_runs_as_long_as_its_command(stand_in: Path) -> None:
    there = of(stand_in)
    job = start(there, "wait")
    assert waiting.until(lambda: (stand_in / "waits").exists())
    os.kill(int((there.folder / job.id / "pid").read_text()), signal.SIGKILL)
    assert not waiting.until(lambda: there.one(job.id).state != "running", 0.3)
    (stand_in / "go").touch()
    done = until(there, job.id, "done")
    assert done.code is None, "nobody saw it"


# ---------------------------------------------------------------------------------------------------- ending


def test_what_tests_leave_behind_ends_with_them(tmp_path: Path) -> None:
    """Also where they are killed, which lets nothing clean up."""
    code = (
        "import os, subprocess, sys, time; sys.path.insert(0, sys.argv[1]); import leftovers\n"
        "mine = {'LUTHIER_CACHE': sys.argv[2] + '/cache'}\n"
        "watching = leftovers.watch(sys.argv[2])\n"
        "command = ['sleep', '600']\n"
        "print(*(subprocess.Popen(command, env=each, start_new_session=True).pid for each in (mine, {})), flush=True)\n"
        "time.sleep(600)"
    )
    arguments = [str(Path(__file__).parent), str(tmp_path / "tests")]
    with subprocess.Popen([sys.executable, "-P", "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        ours, other = map(int, tests.stdout.readline().split())
        tests.kill()
    try:
        assert waiting.until(lambda: not _goes_on(ours)) and _goes_on(other)
    finally:
        os.kill(other, signal.SIGKILL)


def _goes_on(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_cancelled_it_ends_as_by_ctrl_c(stand_in: Path) -> None:
    there = of(stand_in)
    job = start(there, "wait")
    assert waiting.until(lambda: (stand_in / "waits").exists())
    of(stand_in).cancel(job.id)
    done = until(there, job.id, "cancelled")
    assert (done.code, done.problems) == (130, [])
    assert there.cancel(job.id) == there.one(job.id), "a second time does nothing"


def test_cancelled_at_once_it_ends_too(stand_in: Path) -> None:
    there = of(stand_in)
    job = start(there, "wait")
    there.cancel(job.id)
    assert waiting.until(lambda: there.one(job.id).state == "cancelled", 30)


def test_one_that_does_not_listen_is_ended_the_second_time(stand_in: Path) -> None:
    there = of(stand_in)
    job = start(there, "stubborn")
    assert waiting.until(lambda: (stand_in / "waits").exists())
    there.cancel(job.id)
    assert not waiting.until(lambda: there.one(job.id).state != "running", 0.3)
    there.cancel(job.id)
    until(there, job.id, "cancelled")


def test_one_that_was_done_before_it_heard_is_done(stand_in: Path) -> None:
    there = of(stand_in)
    done = until(there, start(there, "good").id, "done")
    (there.folder / done.id / "cancelled").touch()
    assert there.one(done.id).state == "done"


# ---------------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("id", ["", "..", "../jobs", "0" * 16, "a" * 15, "A" * 16, "x\0y", "0123456789abcdeg"])
def test_what_is_no_job_is_refused(stand_in: Path, id: str) -> None:
    there = of(stand_in)
    for ask in (there.one, there.cancel):
        with pytest.raises(RunError):
            ask(id)


def test_damaged_folders_hide_none_of_the_others(stand_in: Path) -> None:
    there = of(stand_in)
    done = until(there, start(there, "good").id, "done")
    (there.folder / ("0" * 16)).mkdir()
    (there.folder / ("1" * 16)).mkdir()
    (there.folder / ("1" * 16) / "asked.json").write_text("{")
    (there.folder / "stray").write_text("")
    assert [each.id for each in of(stand_in).listed()] == [done.id]


def test_the_list_leaves_out_what_is_long_unless_it_is_wanted(stand_in: Path) -> None:
    there = of(stand_in)
    done = until(there, start(there, "good").id, "done")
    (short,), (whole,) = there.listed(), there.listed(whole=True)
    assert (short.result, short.log) == (None, []) and short.state == "done"
    assert whole == done


def test_old_ones_are_forgotten(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "KEPT", 2)
    there = of(stand_in)
    ids = []
    for number in range(5):
        ids.append(until(there, start(there, "good", key=f"key-{number}").id, "done").id)
    assert [each.id for each in there.listed()] == ids[:1:-1]


# ---------------------------------------------------------------------------------------------------- the orders


@functools.cache
def application() -> Any:
    return typer.main.get_command(cli.application())


def parsed(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """What the command line makes of it: the command's names and its parameters. It is not run."""
    command = application()
    rest = [each for each in argv if each not in cli.FLAGS]
    names = []
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        names.append(rest[0])
        command, rest = command.commands[rest[0]], rest[1:]
    return names, command.make_context("x", rest).params


def command_of(here: House, **asked: Any) -> tuple[list[str], dict[str, Any]]:
    order: Any = TypeAdapter(orders.Order).validate_python({"key": "12345678", **asked})
    return parsed([*order.command(here, Path("/jobs/one")), "--json"])


@pytest.fixture
def here(place: Path) -> House:
    for name in ("a", "b=0.5"):
        (place / "runs" / name).mkdir(parents=True)
        (place / "runs" / name / "recipe.yaml").write_text("model: nano\n")
    (place / "rows.json").write_text("[]")
    return house(place)


def test_each_order_is_the_command_that_one_would_type(here: House) -> None:
    run = str(here.runs_dir / "a")
    cases: list[tuple[dict[str, Any], list[str], dict[str, Any]]] = [
        ({"kind": "check", "path": "rows.json"}, ["data", "check"], {"arguments": [str(here.home / "rows.json")]}),
        ({"kind": "check", "recipe": "model: x", "format": "alpaca"}, ["data", "check"], {"format": "alpaca"}),
        ({"kind": "check", "recipe": "model: x"}, ["data", "check"], {"arguments": ["/jobs/one/recipe.yaml"]}),
        (
            {"kind": "check", "recipe": "model: x", "stage": "a"},
            ["data", "check"],
            {"arguments": ["/jobs/one/recipe.yaml", "stage=a"]},
        ),
        (
            {"kind": "show", "recipe": "model: x", "stage": "a"},
            ["data", "show"],
            {"arguments": ["/jobs/one/recipe.yaml", "stage=a"], "first": 1},
        ),
        ({"kind": "show", "recipe": "model: x", "first": 7, "rows": 2}, ["data", "show"], {"first": 7, "rows": 2}),
        ({"kind": "demo"}, ["demo"], {"directory": str(here.runs_dir)}),
        ({"kind": "doctor"}, ["doctor"], {}),
        ({"kind": "verify", "run": "a"}, ["runs", "verify"], {"run": run}),
        ({"kind": "reproduce", "run": "a"}, ["runs", "reproduce"], {"run": run}),
        ({"kind": "merge", "run": "a"}, ["merge"], {"targets": [run], "out": None, "force": False}),
        (
            {"kind": "merge", "run": "a", "strength": 0.5, "force": True},
            ["merge"],
            {"targets": [f"{run}=0.5"], "force": True},
        ),
        ({"kind": "merge", "run": "a", "out": "new"}, ["merge"], {"out": here.home / "new"}),
        (
            {"kind": "export", "run": "a", "types": ["q8_0", "q4_k_m"]},
            ["export"],
            {"target": run, "gguf": "q8_0,q4_k_m"},
        ),
        ({"kind": "export", "run": "a", "lora_type": "f16"}, ["export"], {"gguf": None, "lora_gguf": "f16"}),
        (
            {"kind": "export", "run": "a", "types": ["f16"], "ollama": True, "out": "x"},
            ["export"],
            {"ollama": True, "out": here.home / "x"},
        ),
        ({"kind": "push", "run": "a", "repo": "me/it"}, ["push"], {"targets": [run], "repo": "me/it", "public": False}),
        (
            {"kind": "push", "run": "a", "repo": "me/it", "what": "gguf", "public": True, "add": True, "dry_run": True},
            ["push"],
            {"what": "gguf", "public": True, "add": True, "dry_run": True},
        ),
    ]
    for asked, names, params in cases:
        found = command_of(here, **asked)
        assert found[0] == names
        assert {name: found[1][name] for name in params} == params, asked


@pytest.fixture(scope="module")
def one_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("house")
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "recipe.yaml").write_text("model: nano\n")
    return House(folder, folder / "runs")


hostile = st.sampled_from(
    ["--json", "--debug", "--help", "-h", "--out=/etc/x", "-o", "a=b", "--", "-", "x\ny", "$(x)", "é"]
)


@settings(deadline=None)
@given(hostile | st.text(min_size=1, max_size=50))
def test_no_value_is_read_as_an_option(one_house: House, text: str) -> None:
    """A file's name, a repository, an output may be called anything."""
    here = one_house
    for asked, name in (
        ({"kind": "check", "path": text}, "arguments"),
        ({"kind": "push", "run": "a", "repo": text}, "repo"),
        ({"kind": "merge", "run": "a", "out": text}, "out"),
    ):
        try:
            names, params = command_of(here, **asked)
        except RunError:
            continue  # it leads out of the house
        given_there = params[name]
        wanted = text if name == "repo" else here.inside(text)
        assert str(given_there[0] if isinstance(given_there, list) else given_there) == str(wanted)
        assert names == [["data", "check"], ["push"], ["merge"]][["arguments", "repo", "out"].index(name)]
        assert not params.get("force") and not params.get("public") and not params.get("html")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"kind": "none"}, 422),
        ({"kind": "check"}, 422),
        ({"kind": "check", "path": "x", "recipe": "y"}, 422),
        ({"kind": "check", "path": "x", "stage": "y"}, 422),
        ({"kind": "check", "path": "../../etc/passwd"}, 422),
        ({"kind": "merge", "run": "../a"}, 404),
        ({"kind": "merge", "run": "--force"}, 404),
        ({"kind": "merge", "run": "a", "out": "/etc/x"}, 422),
        ({"kind": "merge", "run": "a", "strength": "--force"}, 422),
        ({"kind": "merge", "run": "a", "argv": ["x"]}, 422),
        ({"kind": "export", "run": "a", "types": ["--ollama"]}, 200),
        ({"kind": "export", "run": "a", "types": ["a b"]}, 422),
        ({"kind": "show", "recipe": "x", "rows": 10**9}, 422),
        ({"kind": "demo", "key": "short"}, 422),
    ],
)
def test_what_cannot_be_ordered_starts_nothing(here: House, stand_in: Path, asked: dict[str, Any], status: int) -> None:
    page = client(here)
    answer = page.post("/api/jobs", json={"key": "12345678", **asked})
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["problems"]
        assert page.get("/api/jobs").json() == {"jobs": []}
        assert not list(here.cache.rglob(".new-*"))


# ---------------------------------------------------------------------------------------------------- for real


def finished(page: Any, id: str) -> dict[str, Any]:
    assert waiting.until(lambda: page.get(f"/api/jobs/{id}").json()["state"] != "running", 120)
    return page.get(f"/api/jobs/{id}").json()


def test_the_true_command_line_checks_a_file(place: Path) -> None:
    rows = [{"instruction": f"Say {n}", "output": "yes"} for n in range(5)]
    (place / "rows=5.json").write_text(json.dumps(rows))
    page = client(house(place))
    asked = {"kind": "check", "path": "rows=5.json", "key": "check-1234"}
    job = page.post("/api/jobs", json=asked).json()
    done = finished(page, job["id"])
    assert done["state"] == "done" and done["code"] == 0
    assert page.post("/api/jobs", json=asked).json() == done
    assert page.get("/api/jobs").json()["jobs"] == [done]
    said = subprocess.run(
        [sys.executable, "-m", "luthier", "data", "check", str(place / "rows=5.json"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done["result"] == json.loads(said.stdout)


def test_the_true_command_line_finds_a_recipe_wrong_in_the_reader_s_language(place: Path) -> None:
    page = client(house(place), **{"X-Language": "zh"})
    order = {"kind": "show", "recipe": "model: nano\ndata: {train: none.json}\ntune: {rnak: 3}\n", "key": "show-1234"}
    done = finished(page, page.post("/api/jobs", json=order).json()["id"])
    assert done["state"] == "failed" and done["code"] == 2
    (problem,) = done["problems"]
    assert problem["where"] == "recipe.yaml:3", "without the job's folder"
    assert problem["field"] == "tune.rnak" and any("\u4e00" <= char <= "\u9fff" for char in problem["rule"])


def test_a_demo_s_run_is_known_while_it_is_made(here: House, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = here.jobs.start("demo", "demo-key", {}, lambda folder: ["wait"], {}, None)
    assert waiting.until(lambda: (stand_in / "waits").exists())
    assert here.jobs.one(job.id).run is None
    (writer,) = (int(each.name.split("-")[1]) for each in stand_in.glob("began-*"))
    for name, pid in (("demo", os.getpid()), ("demo-2", writer)):
        (here.runs_dir / name).mkdir()
        (here.runs_dir / name / "lock").write_text(json.dumps({"pid": pid}))
    assert here.jobs.one(job.id).run == "demo-2"
    here.jobs.cancel(job.id)
    until(here.jobs, job.id, "cancelled")
