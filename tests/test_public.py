"""The public surface, literally: a change of it is a change of this table, of docs/python.md and of CHANGELOG.md."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luthier

ROOT = Path(__file__).resolve().parents[1]

luthier.train  # noqa: B018  first of all: see the last test

SURFACE = {
    "ConfigError": "(problems: 'Problem | Iterable[Problem]') -> 'None'",
    "DataError": "(problems: 'Problem | Iterable[Problem]') -> 'None'",
    "Interrupted": "(signal_number: 'int', checkpoint: 'str') -> 'None'",
    "LuthierError": "",
    "ModelError": "(problems: 'Problem | Iterable[Problem]') -> 'None'",
    "Run": "(path: 'Path | str') -> 'None'",
    "RunError": "(problems: 'Problem | Iterable[Problem]') -> 'None'",
    "Sampling": (
        "(max_tokens: 'int' = 512, temperature: 'float' = 0.0, top_p: 'float' = 1.0, top_k: 'int' = 0, "
        "repetition_penalty: 'float' = 1.0, seed: 'int' = 0, min_p: 'float' = 0.0, logprobs: 'int | None' = None, "
        "stop: 'tuple[str, ...]' = ()) -> None"
    ),
    "Session": (
        "(decoder: 'Decoder', renderer: 'Renderer', adapter: 'str | None', label: 'str', base: 'Decoder | None', "
        "base_label: 'str', folder: 'Path') -> None"
    ),
    "TrainingFailed": "(problem: 'Problem') -> 'None'",
    "Tuner": "(model: 'str | Mapping[str, Any]', data: 'str | Mapping[str, Any]', **sections: 'Any') -> 'None'",
    "UserError": "(problems: 'Problem | Iterable[Problem]') -> 'None'",
    "merge": (
        "(target: 'str | Path | Sequence[tuple[str | Path, float]]', out: 'str | Path | None' = None, *, "
        "base: 'str | None' = None, force: 'bool' = False, device: 'str' = 'auto', "
        "max_shard_bytes: 'int' = 5000000000, on_progress: 'Callable[[int, int], None] | None' = None) -> 'Merged'"
    ),
    "open_session": (
        "(target: 'str | Path', *, device: 'str' = 'auto', compare: 'bool' = False, template: 'str' = 'model', "
        "on_download: 'Progress | None' = None) -> 'Session'"
    ),
    "reproduce": "(path: 'Path | str', *, on_event: 'Listener | None' = None) -> 'dict[str, Any]'",
    "resume": "(path: 'Path | str', *, on_event: 'Listener | None' = None) -> 'Run'",
    "serve": (
        "(targets: 'str | Path | Sequence[str | Path]', *, host: 'str' = '127.0.0.1', port: 'int' = 8000, "
        "api_key_file: 'str | Path | None' = None, engine: 'str' = 'luthier', vllm_command: 'str | None' = None, "
        "vllm_wait_s: 'float' = 900.0, limits: 'Limits | None' = None, log: 'TextIO | None' = None, **how: 'Any') "
        "-> 'int'"
    ),
    "submit": (
        "(recipe: 'str | Path | Mapping[str, Any] | RunConfig | None' = None, "
        "overrides: 'Sequence[str] | Mapping[str, Any]' = ()) -> 'Run'"
    ),
    "train": (
        "(recipe: 'Recipe' = None, overrides: 'Overrides' = (), *, on_event: 'Listener | None' = None, "
        "on_download: 'Progress | None' = None, on_stage: 'Callable[[staged.At], None] | None' = None) -> 'Run'"
    ),
    "ui": (
        "(runs_dir: 'str | Path' = 'runs', *, host: 'str' = '127.0.0.1', port: 'int' = 7860, base_path: 'str' = '/', "
        "token_file: 'str | Path | None' = None, open_page: 'bool' = True, block: 'bool' = True, "
        "log: 'TextIO | None' = None) -> 'Page'"
    ),
}
"""Name -> signature; empty for what is only caught."""

MEMBERS: dict[type, dict[str, str]] = {
    luthier.Run: {
        "adapter_path": "-> 'Path | None'",
        "chat": "(self, conversation: 'Conversation', **sampling: 'Any') -> 'str'",
        "config": "-> 'RunConfig'",
        "events": "-> 'list[Event]'",
        "export": "(self, gguf: 'Sequence[str]', out: 'Path | str | None' = None, *, check: 'bool' = True) -> 'Path'",
        "generate": (
            "(self, source: 'Path | str', target: 'Path | str', *, n: 'int' = 1, judge: 'Path | str | None' = None, "
            "**sampling: 'Any') -> 'Answered'"
        ),
        "merge": "(self, out: 'Path | str | None' = None, *, force: 'bool' = False) -> 'Path'",
        "model_path": "-> 'Path | None'",
        "name": "-> 'str'",
        "path": "-> 'Path'",
        "push": (
            "(self, repo: 'str', *, what: 'What | None' = None, public: 'bool' = False, add: 'bool' = False, "
            "dry_run: 'bool' = False) -> 'Pushed'"
        ),
        "receipt": "-> 'Receipt'",
        "session": "-> 'Session'",
        "state": "-> 'str'",
    },
    luthier.Sampling: {"plain": "-> 'bool'"},
    luthier.Session: {
        "answer": (
            "(self, conversation: 'Conversation', sampling: 'Sampling | None' = None, *, tuned: 'bool' = True, "
            "voice: 'str | None' = None, on_text: 'Callable[[str], None] | None' = None) -> 'str'"
        ),
        "answers": (
            "(self, conversations: 'Sequence[Conversation]', sampling: 'Sampling | None' = None, *, "
            "tuned: 'bool' = True, voice: 'str | None' = None) -> 'list[str]'"
        ),
        "continues_text": "-> 'bool'",
        "fingerprint": "(self, tuned: 'bool' = True, voice: 'str | None' = None) -> 'str'",
        "load": "(self, target: 'str | Path', name: 'str | None' = None) -> 'str'",
        "mix": "(self, strengths: 'Mapping[str, float]') -> 'str'",
        "prompt": "(self, conversation: 'Conversation') -> 'list[int]'",
        "remembering": "(self) -> 'Iterator[None]'",
        "replies": (
            "(self, conversations: 'Sequence[Conversation]', sampling: 'Sampling | None' = None, *, "
            "tuned: 'bool' = True, voice: 'str | None' = None) -> 'list[Reply]'"
        ),
        "reply": (
            "(self, conversation: 'Conversation', sampling: 'Sampling | None' = None, *, tuned: 'bool' = True, "
            "voice: 'str | None' = None, on_text: 'Callable[[str], None] | None' = None) -> 'Reply'"
        ),
        "speaker": "(self, tuned: 'bool' = True, voice: 'str | None' = None) -> 'tuple[Decoder, str | None]'",
        "unload": "(self, name: 'str') -> 'None'",
        "write": "(self, asks: 'Sequence[Ask]') -> 'list[Reply]'",
    },
    luthier.Tuner: {
        "fit": "(self) -> 'Tuner'",
        "predict": "(self, questions: 'Sequence[Conversation]', **sampling: 'Any') -> 'list[str]'",
        "run": "-> 'Run'",
    },
}
"""Class -> its public methods with signatures, and its properties with what they give."""


def signature_of(value: Any) -> str:
    return str(inspect.signature(value)) if inspect.isfunction(value) or "__init__" in vars(value) else ""


def members_of(owner: type) -> Iterator[tuple[str, str]]:
    for name, member in vars(owner).items():
        if name.startswith("_"):
            continue
        if inspect.isfunction(member):
            yield name, str(inspect.signature(member))
        elif getter := getattr(member, "fget", getattr(member, "func", None)):
            yield name, f"-> {inspect.signature(getter).return_annotation!r}"


def test_names_and_signatures() -> None:
    assert sorted(luthier.__all__) == luthier.__all__ == list(SURFACE)
    found = {}
    for name in SURFACE:
        value = getattr(luthier, name)
        inherited = isinstance(value, type) and issubclass(value, luthier.UserError)
        found[name] = signature_of(luthier.UserError if inherited else value)
    assert found == SURFACE


def test_members_of_classes() -> None:
    assert {owner: dict(sorted(members_of(owner))) for owner in MEMBERS} == MEMBERS
    classes = {getattr(luthier, name) for name in SURFACE if isinstance(getattr(luthier, name), type)}
    assert {each for each in classes if not issubclass(each, Exception)} == set(MEMBERS)


def test_everything_is_explained() -> None:
    for name in SURFACE:
        assert len(inspect.getdoc(getattr(luthier, name)) or "") > 20, name
    for owner, members in MEMBERS.items():
        for name in members:
            if inspect.isfunction(vars(owner)[name]):
                assert inspect.getdoc(vars(owner)[name]), f"{owner.__name__}.{name}"


def test_everything_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in SURFACE:
        assert re.search(rf"luthier\.{name}\b", guide), name
    for owner, members in MEMBERS.items():
        for name in members:
            assert re.search(rf"\b{name}\b", guide), f"{owner.__name__}.{name}"


def process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_importing_loads_no_torch() -> None:
    code = """
import sys
import luthier
luthier.ConfigError, luthier.__version__
assert not {"torch", "transformers", "pydantic"} & sys.modules.keys()
assert not hasattr(luthier, "nonsense")
"""
    process(code)


def test_train_is_the_function_whatever_was_asked_for_before() -> None:
    """A submodule of the same name would take its place as soon as anything imported it."""
    code = """
import luthier
luthier.Tuner, luthier.resume
import luthier.training
print(callable(luthier.train))
"""
    assert process(code) == "True"
