"""Sending files to a hub: the real client against a stand-in that keeps what arrives."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from push_server import NAME, Stand, at, serving

from luthier.config.load import Environment
from luthier.errors import ModelError
from luthier.models import hub_upload


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    yield from serving(monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {"a.safetensors": b"a" * 100_000, "b.safetensors": b"b" * 100_000, "config.json": b"{}"}
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in made}


def test_looks_first_then_sends_and_knows_what_is_there(stand: Stand, files: dict[str, Path]) -> None:
    planned = hub_upload.look(NAME, files, at(stand))
    assert planned.private is None and set(planned.changes.values()) == {"new"} and stand.writes == 0
    assert hub_upload.send(NAME, files, at(stand), public=False, message="m") == "c" * 40
    assert stand.repo == {name: path.read_bytes() for name, path in files.items()} and stand.private
    files["config.json"].write_bytes(b"[]")
    stand.repo["other.txt"] = b"x"
    planned = hub_upload.look(NAME, files, at(stand))
    assert planned.changes == {"a.safetensors": "same", "b.safetensors": "same", "config.json": "changed"}
    assert planned.others == ("other.txt",) and planned.private


def test_an_interrupted_upload_goes_on(stand: Stand, files: dict[str, Path]) -> None:
    lost = hashlib.sha256(files["b.safetensors"].read_bytes()).hexdigest()
    stand.fail = {f"/put/{lost}": 400}
    with pytest.raises(ModelError, match="not sent again"):
        hub_upload.send(NAME, files, at(stand), public=False, message="m")
    assert stand.repo == {} and len(stand.puts) == 1
    stand.fail = {}
    hub_upload.send(NAME, files, at(stand), public=False, message="m")
    assert len(stand.puts) == 2 and set(stand.repo) == set(files), "what had arrived was not sent again"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "bad_token"), (403, "forbidden"), (404, "not_found"), (409, "conflict"), (500, "status")]
)
def test_refusals_are_named(stand: Stand, files: dict[str, Path], status: int, kind: str) -> None:
    stand.fail = {"/api/models/": status}
    for call in (
        lambda: hub_upload.look(NAME, files, at(stand)),
        lambda: hub_upload.send(NAME, files, at(stand), public=False, message="m"),
    ):
        with pytest.raises(ModelError) as caught:
            call()
        assert caught.value.problems[0].id == f"hub.push_{kind}" and "hf_test" not in str(caught.value)


def test_no_token_no_name_no_network(stand: Stand, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tuned", "me/a b", "a/b/c"):
        with pytest.raises(ModelError, match="cannot be the name"):
            hub_upload.look(name, files, at(stand))
    away = dataclasses.replace(at(stand), hf_endpoint="http://127.0.0.1:9")
    with pytest.raises(ModelError, match="connection"):
        hub_upload.look(NAME, files, away)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        hub_upload.look(NAME, files, dataclasses.replace(at(stand), hf_offline=True))
    monkeypatch.setattr(hub_upload, "get_token", lambda: None)
    with pytest.raises(ModelError, match="needs a token"):
        hub_upload.look(NAME, files, at(stand))


def test_what_the_client_cannot_do_is_said_without_the_token(
    stand: Stand, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def problem(environment: Environment, call: str = "look") -> str:
        with pytest.raises(ModelError) as caught:
            if call == "look":
                hub_upload.look(NAME, files, environment)
            else:
                hub_upload.send(NAME, files, environment, public=False, message="m")
        assert "hf_" not in str(caught.value) and str(caught.value)
        return caught.value.problems[0].id

    stand.fail = {"/commit/": 409}
    assert problem(at(stand), "send") == "hub.push_conflict"
    stand.fail = {"/commit/": 404}
    assert problem(at(stand), "send") == "hub.push_not_found"
    stand.fail = {}
    files["gone.json"] = files["config.json"].with_name("gone.json")
    assert problem(at(stand), "send") == "hub.push_failed"
    stand.repo = {"gone.json": b""}
    assert problem(at(stand)) == "hub.push_failed", "hashing a file that has gone"
    del files["gone.json"]
    with monkeypatch.context() as patch:  # as xet's uploads end after their own tries
        patch.setattr(hub_upload.HfApi, "create_commit", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("x")))
        assert problem(at(stand), "send") == "hub.push_unreachable"
    monkeypatch.setenv("HF_TOKEN", "hf_t\u00e9st")
    assert problem(at(stand)) == "hub.push_failed"
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert problem(dataclasses.replace(at(stand), hf_endpoint="not an address")).startswith("hub.push_")


def test_a_licence_is_what_a_card_says(stand: Stand) -> None:
    stand.cards = {"org/base": {"license": "apache-2.0"}, "org/odd": {"license": "a\nb: c"}, "org/none": {}}
    found = {name: hub_upload.licence(name, at(stand)) for name in (*stand.cards, "org/absent")}
    assert found == {"org/base": "apache-2.0", "org/odd": None, "org/none": None, "org/absent": None}
    assert hub_upload.licence("org/base", dataclasses.replace(at(stand), hf_endpoint="http://127.0.0.1:9")) is None
