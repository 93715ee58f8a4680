"""Getting models: local folders without network code, the hub through a stand-in that speaks its HTTP interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, Repo

from luthier.config.load import environment
from luthier.errors import ModelError
from luthier.models import hub, hub_files
from luthier.text import hub as hub_text

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"tokenizer": 1}',
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"old" * 100,
    "original/params.json": b"{}",
    "README.md": b"# card",
}
FETCHED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
}
OLD, NEW = "a" * 40, "b" * 40

# Runs in a process of its own, because the client reads its environment once. Chunks and the size from which files are
# resumed are made small, so that a test can break off in between.
CHILD = """
import json, os, sys
from huggingface_hub import constants, file_download
constants.DOWNLOAD_CHUNK_SIZE = 64 * 1024
file_download.time.sleep = lambda seconds: None  # between its attempts
from luthier.config.load import environment
from luthier.errors import ModelError
from luthier.models import hub, hub_huggingface
hub_huggingface.RESUMABLE_BYTES = 100_000
if "--tiny-disk" in sys.argv:
    import shutil, collections
    usage = collections.namedtuple("usage", "total used free")
    hub_huggingface.shutil.disk_usage = lambda folder: usage(10**6, 10**6 - 1000, 1000)
if "--nobody" in sys.argv and os.geteuid() == 0:
    import encodings.idna, stringprep  # looked up by name later, where nobody may not look
    os.setgid(65534)
    os.setuid(65534)
seen = []
try:
    found = hub.resolve(
        sys.argv[1], sys.argv[2] or None, environment(), lambda done, total: seen.append((done, total)),
        weights="--no-weights" not in sys.argv,
    )
except ModelError as error:
    print(json.dumps({"error": str(error), "ids": [problem.id for problem in error.problems]}))
else:
    print(json.dumps({
        "folder": str(found.folder), "id": found.id, "revision": found.revision, "commit": found.commit,
        "notes": [note.id for note in found.notes], "seen": seen,
    }))
"""


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub(org__tiny=Repo(dict(FILES))) as hub_server:
        yield hub_server


@pytest.fixture
def ask(server: Hub, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`ask(name, revision="", *flags, **environment)`: what `resolve` answers in a fresh process."""

    def run(name: str, revision: str = "", *flags: str, **environment: str) -> dict[str, Any]:
        settings = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_ETAG_TIMEOUT": "2",
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", CHILD, name, revision, *flags], env=settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    return run


# --------------------------------------------------------------------------------------------- on this machine


def test_a_local_folder_loads_no_network_code(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    code = (
        "import sys; from luthier.models import hub; from luthier.config.load import environment\n"
        f"found = hub.resolve({str(tmp_path / 'model')!r}, None, environment())\n"
        "print(found.folder, found.commit)\n"
        "print([name for name in ('huggingface_hub', 'httpx2', 'requests', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{tmp_path / 'model'} None", "[]"]


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = hub.resolve("org/name", None, environment())  # a folder wins over a hub id of the same name
    assert (found.folder, found.id, found.commit) == (tmp_path / "org" / "name", "org/name", None)


@pytest.mark.parametrize(
    ("path", "revision", "message"),
    [
        ("nothing-here", None, "hub.unknown"),
        ("./orgs/name", None, "hub.unknown"),
        ("../nowhere", None, "hub.unknown"),
        ("a/b/c", None, "hub.unknown"),
        ("nanoo", None, "hub.near"),
        ("qwen-smal", None, "hub.near"),
        ("org/nmae", None, "hub.not_in_folder"),
        ("weights.gguf", None, "hub.not_a_folder"),
        ("qwen-small", "main", "hub.revision_of_folder"),
        ("modelscope:name", None, "hub.bad_id"),
    ],
)
def test_what_cannot_be_a_model_is_refused(
    path: str, revision: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qwen-small").mkdir()
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "weights.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        hub.resolve(path, revision, environment())
    problem = caught.value.problems[0]
    assert problem.id == message
    assert problem.field in ("model.path", "model.revision") and problem.rule and problem.remedy
    if path == "qwen-smal":
        assert "qwen-small" in str(caught.value)
    if path == "org/nmae":
        assert f"{tmp_path}/org/nmae" in problem.rule and "org/name" in problem.remedy


def test_files_wanted_of_a_repository() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    names = [
        *FILES,
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "onnx/model.onnx",
        "x.gguf",
        "tokenizer.model",
    ]
    assert set(hub_files.wanted(names)) == FETCHED | {"tokenizer.model"}
    sharded = [name for name in names if name != "model.safetensors"] + shards
    assert set(hub_files.wanted(sharded)) == FETCHED - {"model.safetensors"} | {"tokenizer.model", *shards}
    assert set(hub_files.wanted(sharded, weights=False)) == FETCHED - {"model.safetensors"} | {"tokenizer.model"}


def test_missing_files_of_a_folder(tmp_path: Path) -> None:
    assert hub_files.missing(tmp_path) == ("config.json", "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / hub_files.INDEX).write_text('{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}')
    (tmp_path / "y.safetensors").touch()
    assert hub_files.missing(tmp_path) == ("x.safetensors",)
    assert hub_files.missing(tmp_path, weights=False) == ()
    (tmp_path / hub_files.INDEX).write_text("torn")
    assert hub_files.missing(tmp_path) == (hub_files.INDEX,)


# -------------------------------------------------------------------------------------------------- on the hub


def test_fetches_what_is_read_and_pins_the_commit(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    found = ask("org/tiny")
    folder = Path(found["folder"])
    assert {path.name for path in folder.iterdir()} == FETCHED
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (found["commit"], found["revision"], found["notes"]) == (OLD, None, [])
    total = sum(len(FILES[name]) for name in FETCHED)
    assert found["seen"][0][1] == total and found["seen"][-1] == [total, total]
    counts = [done for done, _ in found["seen"]]
    assert counts == sorted(counts) and len(counts) > 5  # progress comes while files come


def test_a_second_time_only_asks_for_the_commit(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    first = ask("org/tiny")
    server.log.clear()
    assert ask("org/tiny")["folder"] == first["folder"]
    assert [each.path for each in server.log] == ["/api/models/org/tiny"]
    server.log.clear()
    assert ask("org/tiny", OLD)["folder"] == first["folder"]
    assert server.log == []  # a commit cannot move


def test_a_partial_copy_of_another_program_is_completed(
    server: Hub, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Weights and configuration are there, the tokenizer is not, and no record says that all was fetched."""
    snapshot = tmp_path / "hf" / "hub" / "models--org--tiny" / "snapshots" / OLD
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(FILES[name])
    assert ask("org/tiny", OLD)["folder"] == str(snapshot)
    assert {path.name for path in snapshot.iterdir()} == FETCHED
    assert server.asked("model.safetensors") == []


def test_revision_names_a_tag_and_a_new_commit_is_fetched(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.repos["org/tiny"].refs["v2"] = NEW
    assert ask("org/tiny", "v2")["commit"] == NEW
    assert ask("org/tiny")["commit"] == OLD
    server.repos["org/tiny"].refs["main"] = NEW
    assert ask("org/tiny")["commit"] == NEW


def test_without_weights(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    found = ask("org/tiny", "", "--no-weights")
    assert {path.name for path in Path(found["folder"]).iterdir()} == FETCHED - {"model.safetensors"}
    assert server.asked("model.safetensors") == []
    assert ask("org/tiny", OLD)["commit"] == OLD and server.asked("model.safetensors")  # the weights follow later


def test_an_interrupted_download_goes_on_where_it_broke_off(
    server: Hub, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    cut = 700_000
    server.cut_after["model.safetensors"] = cut
    broken = ask("org/tiny")
    assert broken["ids"] == ["hub.unreachable"] and "HF_ENDPOINT" in broken["error"]
    partial = next((tmp_path / "hf" / "hub" / "models--org--tiny" / "blobs").glob("*.luthier.incomplete"))
    kept = partial.stat().st_size
    assert cut - 65536 <= kept <= cut
    server.cut_after.clear()
    server.log.clear()
    found = ask("org/tiny")
    assert [each.range for each in server.asked("model.safetensors")] == [f"bytes={kept}-"]
    assert (Path(found["folder"]) / "model.safetensors").read_bytes() == WEIGHTS
    assert not partial.exists()
    total = found["seen"][0][1]
    assert found["seen"][-2] == [total, total]  # what was there already is counted once, and only once


def test_a_connection_that_breaks_once_is_taken_up_in_the_same_process(
    server: Hub, ask: Callable[..., dict[str, Any]]
) -> None:
    server.cut_once["model.safetensors"] = 300_000
    found = ask("org/tiny")
    assert (Path(found["folder"]) / "model.safetensors").read_bytes() == WEIGHTS
    assert [each.range is not None for each in server.asked("model.safetensors")] == [False, True]


def test_altered_bytes_are_noticed_and_fetched_anew(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.corrupt.add("model.safetensors")
    assert ask("org/tiny")["ids"] == ["hub.broken"]
    server.corrupt.clear()
    found = ask("org/tiny")
    assert (Path(found["folder"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_gated_without_token(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.repos["org/tiny"].gated = True
    error = ask("org/tiny")["error"]
    assert f"{server.url}/org/tiny" in error and "licence" in error and "HF_TOKEN" in error


def test_gated_with_a_token_that_was_not_let_in(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.repos["org/tiny"].gated = True
    answer = ask("org/tiny", HF_TOKEN="hf_stranger")
    assert answer["ids"] == ["hub.gated"] and f"{server.url}/org/tiny" in answer["error"]
    assert "hf_stranger" not in answer["error"]


def test_gated_with_access(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.repos["org/tiny"].gated = True
    found = ask("org/tiny", HF_TOKEN="hf_reader")
    assert found["commit"] == OLD and "hf_reader" not in json.dumps(found)
    assert {each.token for each in server.log} == {"hf_reader"}


def test_bad_token(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("org/tiny", HF_TOKEN="hf_mistyped")
    assert answer["ids"] == ["hub.bad_token"] and "hf_mistyped" not in answer["error"]


@pytest.mark.parametrize("name", ["org/tinny", "orgg/tiny"])
@pytest.mark.parametrize(("token", "message"), [(None, "hub.not_found_no_token"), ("hf_reader", "hub.not_found")])
def test_not_found_names_the_nearest(
    ask: Callable[..., dict[str, Any]], name: str, token: str | None, message: str
) -> None:
    answer = ask(name, **({} if token is None else {"HF_TOKEN": token}))
    assert answer["ids"] == [message] and "org/tiny." in answer["error"] and f"/{name}" in answer["error"]


def test_a_private_model_looks_missing_without_a_token(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.repos["org/tiny"].private = True
    answer = ask("org/tiny")
    assert answer["ids"] == ["hub.not_found_no_token"] and "HF_TOKEN" in answer["error"]
    assert ask("org/tiny", HF_TOKEN="hf_reader")["commit"] == OLD


def test_unknown_revision_names_those_there_are(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("org/tiny", "mian")
    assert answer["ids"] == ["hub.no_revision"] and "It has: main" in answer["error"]


@pytest.mark.parametrize(("status", "message"), [(403, "hub.forbidden"), (418, "hub.status"), (500, "hub.status")])
def test_other_refusals(server: Hub, ask: Callable[..., dict[str, Any]], status: int, message: str) -> None:
    server.status = status
    answer = ask("org/tiny")
    assert answer["ids"] == [message] and (status == 403 or str(status) in answer["error"])


def test_a_server_that_is_no_hub(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.status = 200  # JSON, but none of the fields
    assert ask("org/tiny")["ids"] == ["hub.not_a_hub"]


def test_a_slow_hub_names_the_mirror_setting(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    server.delay_s = 3.0
    answer = ask("org/tiny", HF_HUB_ETAG_TIMEOUT="1")
    assert answer["ids"] == ["hub.unreachable"] and "HF_ENDPOINT" in answer["error"] and "folder" in answer["error"]


def test_no_hub_at_all_uses_the_earlier_copy_and_says_so(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    nowhere = "http://127.0.0.1:9"
    assert ask("org/tiny", HF_ENDPOINT=nowhere)["ids"] == ["hub.unreachable"]
    ask("org/tiny")
    found = ask("org/tiny", HF_ENDPOINT=nowhere)
    assert (found["commit"], found["notes"]) == (OLD, ["hub.cached"])
    server.status = 503
    assert ask("org/tiny")["notes"] == ["hub.cached"]


def test_a_proxy_that_is_not_there(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("org/tiny", HF_ENDPOINT="http://hub.invalid", HTTP_PROXY="http://me:secret@127.0.0.1:9")
    assert answer["ids"] in (["hub.unreachable"], ["hub.proxy"]) and "secret" not in answer["error"]


def test_a_password_in_the_endpoint_is_not_shown(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask("org/tiny", HF_ENDPOINT="http://me:secret@127.0.0.1:9")
    assert answer["ids"] == ["hub.unreachable"] and "http://127.0.0.1:9" in answer["error"]
    assert "secret" not in answer["error"]


def test_no_secret_is_repeated_from_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    from luthier.models import hub_huggingface

    monkeypatch.setattr(hub_huggingface, "get_token", lambda: "hf_mine")
    error = httpx2.ProxyError("407 from http://me:secret@proxy.invalid with hf_mine\nmore")
    assert hub_huggingface._reason(error) == "407 from http://proxy.invalid with ***"


def test_a_cache_that_cannot_be_written(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    home = tmp_path / "hf"
    home.mkdir()
    home.chmod(0o555)
    for folder in tmp_path.parents:  # pytest keeps its folders to their owner
        if folder.owner() == Path.cwd().owner() and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    answer = ask("org/tiny", "", "--nobody")
    assert answer["ids"] == ["hub.cache_unwritable"] and "HF_HOME" in answer["error"]


def test_offline(server: Hub, ask: Callable[..., dict[str, Any]]) -> None:
    assert ask("org/tiny", HF_HUB_OFFLINE="1")["ids"] == ["hub.offline"]
    folder = Path(ask("org/tiny")["folder"])
    server.log.clear()
    assert ask("org/tiny", HF_HUB_OFFLINE="1")["commit"] == OLD
    (folder / "model.safetensors").unlink()
    answer = ask("org/tiny", HF_HUB_OFFLINE="1")
    assert answer["ids"] == ["hub.offline_partly"] and "model.safetensors" in answer["error"]
    assert server.log == []


def test_too_small_a_disk_is_noticed_before_anything_is_fetched(
    server: Hub, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    answer = ask("org/tiny", "", "--tiny-disk")
    assert answer["ids"] == ["hub.disk"] and "HF_HOME" in answer["error"]
    assert server.asked("resolve") == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "hub.incomplete"),
        ({"model-q4.gguf": b"x"}, "hub.incomplete"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "hub.is_adapter"),
    ],
)
def test_repositories_that_cannot_be_used(
    server: Hub, ask: Callable[..., dict[str, Any]], files: dict[str, bytes], message: str
) -> None:
    server.repos["org/other"] = Repo(files)
    answer = ask("org/other")
    assert answer["ids"] == [message] and f"{server.url}/org/other" in answer["error"]
    assert server.asked("resolve") == []


def test_every_message_reads_in_both_languages() -> None:
    for message, (english, chinese) in hub_text.TEXT.items():
        assert bool(english) == bool(chinese), message
        assert {part.split("}")[0] for part in english.split("{")[1:]} == {
            part.split("}")[0] for part in chinese.split("{")[1:]
        }, message


# ------------------------------------------------------------------------------------------------- ModelScope

# The client is not installed here: this stands for the few names of it that Luthier uses.
MODELSCOPE = {
    "modelscope/__init__.py": "",
    "modelscope/hub/__init__.py": "",
    "modelscope/hub/errors.py": "\n".join(
        f"class {name}(Exception): pass"
        for name in (
            "NotExistError",
            "NoValidRevisionError",
            "RequestError",
            "NotLoginException",
            "InvalidParameter",
            "FileIntegrityError",
            "FileDownloadError",
        )
    ),
    "modelscope/hub/snapshot_download.py": """
import json, os, pathlib
from modelscope.hub import errors
class Refused(OSError):
    class response:
        status_code = 403
def snapshot_download(model_id, revision=None, allow_patterns=None, local_files_only=False):
    if model_id == "org/none": raise errors.NotExistError("no such model")
    if model_id == "org/closed": raise Refused("403 for url")
    if model_id == "org/down": raise ConnectionError("timed out")
    folder = pathlib.Path(os.environ["MODELSCOPE_CACHE"]) / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if model_id != "org/bare": (folder / "model.safetensors").touch()
    (folder / "call.json").write_text(json.dumps([model_id, revision, allow_patterns, local_files_only]))
    return str(folder)
""",
}


@pytest.fixture
def modelscope(tmp_path: Path) -> dict[str, str]:
    for name, text in MODELSCOPE.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"PYTHONPATH": str(tmp_path / "site"), "MODELSCOPE_CACHE": str(tmp_path / "ms")}


def test_modelscope(
    server: Hub, ask: Callable[..., dict[str, Any]], modelscope: dict[str, str], tmp_path: Path
) -> None:
    found = ask("modelscope:org/tiny", "v1", **modelscope)
    assert (found["folder"], found["id"]) == (str(tmp_path / "ms" / "tiny"), "modelscope:org/tiny")
    model, revision, patterns, offline = json.loads((tmp_path / "ms" / "tiny" / "call.json").read_text())
    assert (model, revision, offline) == ("org/tiny", "v1", False)
    assert "model-*.safetensors" in patterns and not any(pattern.endswith(".bin") for pattern in patterns)
    assert server.log == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/none", "hub.modelscope_not_found"),
        ("org/closed", "hub.modelscope_denied"),
        ("org/down", "hub.modelscope_failed"),
        ("org/bare", "hub.incomplete"),
    ],
)
def test_modelscope_refusals(
    ask: Callable[..., dict[str, Any]], modelscope: dict[str, str], name: str, message: str
) -> None:
    answer = ask(f"modelscope:{name}", **modelscope)
    assert answer["ids"] == [message] and f"modelscope.cn/models/{name}" in answer["error"]


def test_without_the_modelscope_client(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    blocked = tmp_path / "site" / "modelscope.py"  # a module, so that `modelscope.hub` cannot be imported
    blocked.parent.mkdir()
    blocked.touch()
    answer = ask("modelscope:org/tiny", PYTHONPATH=str(blocked.parent))
    assert answer["ids"] == ["hub.no_modelscope"] and "pip install modelscope" in answer["error"]
