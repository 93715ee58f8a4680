"""What leaves the house for a hub: chosen, looked through, shown first, then sent in one commit.

What goes in: a run, a folder or files, and `user/name`. What comes out: what would change there, and the commit once it
did. Only weights, settings, tokenizers, templates and papers are sent, never what a run keeps for itself (its recipe,
events, checkpoints, rows). Nothing of the user's is edited: where a file names a folder of this machine, a copy without
it is sent.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.arch import adapter_config
from luthier.arch.values import as_causal
from luthier.config.load import environment
from luthier.data import secrets
from luthier.errors import ModelError, Problem
from luthier.export import card, receipt
from luthier.export.receipt import ExportReceipt
from luthier.runs import files, manifest
from luthier.runs import receipt as run_receipts
from luthier.runs.receipt import Check
from luthier.runs.store import FILES, RunFolder
from luthier.runs.tables import columns, size
from luthier.session import output_folder, run_path
from luthier.text import say

What = Literal["adapter", "model", "gguf"]
WEIGHTS = (".safetensors", ".gguf")
TEXTS = (".json", ".jinja", ".md", ".txt", ".model", ".tiktoken")
"""Endings of settings, tokenizers, templates and papers."""
NAMES = ("LICENSE", "NOTICE", "Modelfile")
RECEIPTS = ("receipt.json", "receipt.md")
OWN = frozenset({*FILES, "trainer_state.json"}) - {*RECEIPTS, "adapter", "model"}
"""Names that a run keeps for itself; other trainers have the last one."""
SCANNED_BYTES = 2**24
"""Of a weights file: its head, where names, notes and templates stand."""
SECRET = ("key", "private")
GIVEN_BY_HUB = (".gitattributes",)


@dataclass(frozen=True)
class Pushed:
    """What a push does, or did.

    Attributes:
        url: the repository's page; commit: what was made; None for a dry run and where nothing was to be sent.
        public: as the repository is, or will be.
        exists: whether the repository was there before.
        changes: name -> new, changed, same, or kept (a card there, which ours does not replace).
        bytes: name -> size.
        others: files there that it leaves as they are; left_out: files here that are not sent.
        notes: what should be known.
    """

    url: str
    commit: str | None
    dry_run: bool
    public: bool
    exists: bool
    changes: Mapping[str, str]
    bytes: Mapping[str, int]
    others: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        kind = say("export.push.public" if self.public else "export.push.private")
        state = say("export.push.there" if self.exists else "export.push.absent")
        rows = [[say(f"export.push.{change}"), size(self.bytes[name]), name] for name, change in self.changes.items()]
        head = [say(f"export.push.column_{name}") for name in ("change", "size", "file")]
        page = [say("export.push.to", url=self.url, kind=kind, state=state), "", *columns(head, rows, right=(1,))]
        if self.others:
            page += ["", say("export.push.others", files=_some(self.others))]
        if self.left_out:
            page += ["", say("export.push.left_out", files=_some(self.left_out))]
        page += ["", *self.notes] if self.notes else []
        end = "export.push.dry" if self.dry_run else "export.push.sent" if self.commit else "export.push.nothing_new"
        return [*page, "", say(end, commit=self.commit, url=self.url)]


@dataclass(frozen=True)
class Choice:
    """What is to be sent.

    Attributes:
        files: name there -> file here.
        run: the run that made it.
    """

    what: What
    files: Mapping[str, Path]
    left_out: tuple[str, ...] = ()
    run: RunFolder | None = None


def push(
    targets: str | Path | Sequence[str | Path],
    repo: str,
    *,
    what: What | None = None,
    public: bool = False,
    add: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Send an adapter, a model or GGUF files to a Hugging Face repository, with the user's token.

    Args:
        targets: a run, a folder, or files.
        repo: user/name.
        what: which of a run's or a folder's; None takes the run's result, or what the folder holds.
        public: make a public repository, or send to one. The visibility of one that is there is never changed.
        add: send also to a repository that holds other files, which stay.
        dry_run: look only, send nothing.

    Raises:
        ModelError: nothing there to send, a key in a file, a repository that holds other things or is public, or what
            the hub refuses; nothing was sent then.
        RunError: a run without a result, or a file that cannot be read.
    """
    from luthier.models import hub_upload  # its client takes half a second to import and is not always needed

    given = [targets] if isinstance(targets, (str, Path)) else list(targets)
    choice, settings = choose([Path(each) for each in given], what), environment()
    host = str(settings.to_json()["hf_endpoint"])
    with tempfile.TemporaryDirectory(prefix="luthier-") as room:
        chosen, notes = _dressed(choice, Path(room), lambda base: hub_upload.licence(base, settings))
        _search(chosen)
        planned = hub_upload.look(repo, chosen, settings)
        changes: dict[str, str] = dict(planned.changes)
        if card.NAME not in choice.files and changes[card.NAME] == "changed":
            changes[card.NAME] = "kept"
            notes.append(say("export.push.card_kept"))
        others = tuple(each for each in planned.others if each not in GIVEN_BY_HUB)
        problems = _refusals(repo, planned.private, others, public=public, add=add)
        if problems and not dry_run:
            raise ModelError(problems)
        notes += [str(each) for each in problems]
        if planned.private and public:
            notes.append(say("export.push.stays_private"))
        commit = None
        fresh = {name: path for name, path in chosen.items() if changes[name] in ("new", "changed")}
        if fresh and not dry_run:
            message = say("export.push.message", what=choice.what)
            commit = hub_upload.send(repo, fresh, settings, public=public, message=message)
        sizes = {name: path.stat().st_size for name, path in chosen.items()}
    return Pushed(
        url=f"{host}/{repo}",
        commit=commit,
        dry_run=dry_run,
        public=public if planned.private is None else not planned.private,
        exists=planned.private is not None,
        changes=changes,
        bytes=sizes,
        others=others,
        left_out=choice.left_out,
        notes=tuple(notes),
    )


def _refusals(repo: str, private: bool | None, others: Sequence[str], *, public: bool, add: bool) -> list[Problem]:
    """Why nothing should be sent. private: of the repository, None where there is none."""
    problems = []
    if private is False and not public:
        problems.append(Problem("export.push_public", value=repo))
    if others and not add:
        problems.append(Problem("export.push_others", value=repo, values={"files": _some(others)}))
    return problems


# ---------------------------------------------------------------------------------------------------- choosing


def choose(targets: Sequence[Path], what: What | None) -> Choice:
    """Which files are meant.

    Raises:
        ModelError: there is no such thing, or it is not for sending.
        RunError: a run without a result.
    """
    if len(targets) > 1 or os.path.isfile(targets[0]):
        return _these(targets, what)
    path = run_path(targets[0])
    if path is not None:
        return _of_run(RunFolder.open(path), what)
    folder = targets[0]
    if not os.path.isdir(folder):
        raise ModelError(Problem("export.push_unknown", value=str(folder)))
    parent = folder.absolute().parent
    is_result = folder.name in ("adapter", "model") and (parent / "recipe.yaml").is_file()
    return _of_folder(folder, what, RunFolder.open(parent) if is_result else None)


def _of_run(run: RunFolder, what: What | None) -> Choice:
    """The run's result, or what was exported from it under the name that the commands give it."""
    exported = {"model": (run.path / "model", *_beside(run, "merged")), "gguf": _beside(run, "gguf")}
    if what is None:
        return _of_folder(output_folder(run), None, run)
    for folder in exported.get(what, (run.path / "adapter",)):
        if folder.is_dir():
            return _of_folder(folder, what, run if folder.parent == run.path else None)
    raise ModelError(Problem(f"export.push_no_{what}", value=str(run.path)))


def _beside(run: RunFolder, word: str) -> tuple[Path, ...]:
    name = f"{run.path.absolute().name}-{word}"
    return run.path.absolute().with_name(name), Path(name)


def _of_folder(folder: Path, what: What | None, run: RunFolder | None) -> Choice:
    with files.user_errors(folder):
        there = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    for_sending = {each.name: each for each in there if each.is_file() and _is_for_sending(each)}
    found = _holds(for_sending)
    if what == "gguf" and any(name.endswith(".gguf") for name in for_sending):
        for_sending = {name: path for name, path in for_sending.items() if _goes_with_gguf(name)}
        found = "gguf"
    if found is None or what not in (None, found):
        raise ModelError(Problem("export.push_nothing", value=str(folder), values={"what": what or "model"}))
    left_out = tuple(each.name + "/" * each.is_dir() for each in there if each.name not in for_sending)
    return Choice(found, for_sending, left_out, run)


def _these(targets: Sequence[Path], what: What | None) -> Choice:
    problems: list[Problem] = []
    chosen: dict[str, Path] = {}
    for each in targets:
        if not os.path.isfile(each):
            problems.append(Problem("export.push_not_a_file", value=str(each)))
        elif not _is_for_sending(each):
            problems.append(Problem("export.push_not_sent", value=str(each)))
        elif each.name in chosen:
            problems.append(Problem("export.push_twice", value=str(each), values={"other": chosen[each.name]}))
        chosen[each.name] = each
    if problems:
        raise ModelError(problems)
    found = _holds(chosen) or ("gguf" if any(name.endswith(".gguf") for name in chosen) else "model")
    if what not in (None, found):
        raise ModelError(Problem("export.push_nothing", value=str(targets[0]), values={"what": what}))
    return Choice(found, chosen)


def _holds(names: Collection[str]) -> What | None:
    weights = {Path(name).suffix for name in names} & set(WEIGHTS)
    if "adapter_config.json" in names and ".safetensors" in weights:
        return "adapter"
    if "config.json" in names and ".safetensors" in weights:
        return "model"
    return "gguf" if ".gguf" in weights else None


def _is_for_sending(path: Path) -> bool:
    """Whether a file is of a kind that is sent: what a run keeps for itself is not, whatever it ends with."""
    if path.name in OWN or os.path.isfile(path.parent / "recipe.yaml"):
        return False
    return path.suffix in (*WEIGHTS, *TEXTS) or path.name in NAMES


def _goes_with_gguf(name: str) -> bool:
    return name.endswith((".gguf", ".md")) or name in (*NAMES, *RECEIPTS)


# ---------------------------------------------------------------------------------------------------- papers


def _dressed(choice: Choice, room: Path, ask: Callable[[str], str | None]) -> tuple[dict[str, Path], list[str]]:
    """The files to send, with a card, a run's receipt, and copies without this machine's folders; and what to say.

    Args:
        room: a folder for what is made here.
        ask: gives the licence of a hub's model.
    """
    chosen, notes = dict(choice.files), []
    base = _base(choice)
    for name in ("adapter_config.json", "config.json", "receipt.json"):
        if name in chosen and _without_folders(chosen[name], room / name):
            chosen[name] = room / name
            notes.append(say("export.push.without_folders", file=name))
    made = None
    if choice.run is not None:
        made = _receipt(choice, choice.run, chosen)
        receipt.write(room, made)
        chosen |= {name: room / name for name in RECEIPTS}
        if made.failed:
            notes.append(say("export.push.failed_checks", failed=made.failed))
    if card.NAME not in chosen:
        known = card.hub_id(base) if base else None
        licence = (card.licence_of(Path(base)) if base else None) or (ask(known) if known else None)
        if not known:
            notes.append(say("export.push.no_base"))
        if not licence:
            notes.append(say("export.push.no_licence"))
        shown = receipt.public(base) if base else "?"
        text = say(f"export.card.{choice.what}", base=shown)
        page = card.page(choice.what, text, known, made, licence, _is_judge(choice))
        files.write_text(room / card.NAME, "\n".join(page) + "\n")
        chosen[card.NAME] = room / card.NAME
    return chosen, notes


def _is_judge(choice: Choice) -> bool:
    """Whether what is sent is a reward model, or an adapter of one."""
    names = ("adapter_config.json", "config.json")
    adapter, model = (_read(choice.files[name]) if name in choice.files else {} for name in names)
    return adapter.get("task_type") == adapter_config.CLASSIFIES or as_causal(model) is not None


def _base(choice: Choice) -> str | None:
    """The base as the run, a receipt or PEFT's settings name it."""
    if choice.run is not None and choice.run.has("manifest.json"):
        return str(manifest.load(choice.run).base["path"])
    papers = choice.files.get("receipt.json") or next(iter(choice.files.values())).parent / "receipt.json"
    found = _read(papers).get("base")
    if isinstance(found, dict) and isinstance(found.get("path"), str):
        return str(found["path"])
    named = _read(choice.files["adapter_config.json"]) if "adapter_config.json" in choice.files else {}
    return str(named["base_model_name_or_path"]) if named.get("base_model_name_or_path") else None


def _receipt(choice: Choice, run: RunFolder, chosen: Mapping[str, Path]) -> ExportReceipt:
    """What a run's receipt says of the result: the checks and the base; not its recipe and the names of data files."""
    base = manifest.load(run).base if run.has("manifest.json") else {}
    checks: tuple[Check, ...] = run_receipts.build(run).checks
    return ExportReceipt(
        kind=choice.what,
        run=run.name,
        base={
            "path": receipt.public(str(base.get("path", "?"))),
            "commit": base.get("commit"),
            "sha256": base.get("sha256", ""),
            "config_sha256": base.get("config_sha256"),
        },
        adapters=(),
        checks=checks,
        forced=False,
        files={name: files.fingerprint(path) for name, path in chosen.items()},
        versions=manifest.versions(),
    )


def _without_folders(path: Path, to: Path) -> bool:
    """Write a copy that names models of this machine without their place; whether there was one."""
    value = _read(path)
    places: list[tuple[Any, str]] = [
        (value, "base_model_name_or_path"),
        (value, "_name_or_path"),
        (value.get("base"), "path"),
    ]
    adapters = value.get("adapters")
    places += [(each, "target") for each in adapters] if isinstance(adapters, list) else []
    found = False
    for owner, key in places:
        named = owner.get(key) if isinstance(owner, dict) else None
        if isinstance(named, str) and "/" in named and not card.hub_id(named):
            owner[key], found = Path(named).name, True
    if found:
        files.write_json(to, value)
    return found


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _search(chosen: Mapping[str, Path]) -> None:
    """Raises ModelError where a file holds a key; the key itself is never shown."""
    problems = []
    for name, path in chosen.items():
        with files.user_errors(path), path.open("rb") as file:
            text = file.read(SCANNED_BYTES if path.suffix in WEIGHTS else -1).decode("latin-1")
        found = secrets.kinds(text)
        if any(kind in found for kind in SECRET):
            problems.append(Problem("export.push_secret", value=name))
    if problems:
        raise ModelError(problems)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
