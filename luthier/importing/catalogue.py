"""LLaMA-Factory's `dataset_info.json`: what its names of data sets stand for.

What goes in: names, and the catalogue that holds them. What comes out: sources of a recipe of ours, with the columns
and roles as the entries name them; what a source cannot say is listed. Imports no torch.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.importing import rows
from luthier.importing.draft import Draft, Reasons, section, switch, text, word
from luthier.importing.rows import Layout

FILE = "dataset_info.json"
ONLINE = "ONLINE"
"""Value of `dataset_dir`: there is no catalogue, and names are those of data sets on the hub."""

COLUMNS: dict[str, dict[str, str]] = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
    "openai": {"messages": "conversations"},
}
"""Their layout -> the columns that it has where an entry names none."""
OURS: dict[str, str] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "messages": "messages",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "label",
}
"""Their word for a column -> ours."""
NEEDED: dict[str, tuple[str, ...]] = {"answer": (), "pair": ("chosen", "rejected"), "label": ("kto_tag",)}
"""Kind of row -> the columns that it has beside what is asked."""
ROLES: dict[str, str] = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""Their key for a role name -> our role."""
TURNS = (("role_tag", "role", "from"), ("content_tag", "content", "value"))
"""Their key, what it names, and what that is called where they do not say."""
HUBS: dict[str, str] = {
    "hf_hub_url": "",
    "ms_hub_url": "other_hub",
    "om_hub_url": "other_hub",
    "script_url": "script",
    "cloud_file_name": "elsewhere",
}
"""Keys for data that is no file here, in the order in which they count -> why it is not fetched."""

REASONS: Reasons = {
    "columns": ("not needed", "without_effect"),
    "file_name": ("not needed", "same_data"),
    "file_sha1": ("not needed", "hashed"),
    "folder": ("not yet", "data_part"),
    "num_samples": ("not yet", "max_samples"),
    "ranking": ("not needed", "without_effect"),
    "revision": ("not yet", "data_part"),
    "split": ("not yet", "data_part"),
    "subset": ("not yet", "data_part"),
    "tags": ("not needed", "without_effect"),
}
COLUMN_REASONS: Reasons = {
    **dict.fromkeys(OURS, ("not needed", "without_effect")),
    **dict.fromkeys(("images", "videos", "audios"), ("not yet", "media")),
    "tools": ("not yet", "no_tools"),
}


def sources(
    draft: Draft, given: Sequence[str] | None, catalogue: Mapping[str, Any] | None, folder: str
) -> list[dict[str, Any]]:
    """A source for each name. catalogue: None where there is no such file; folder: `ONLINE`, or where its files are."""
    found = []
    for name in given or ():
        entry = {"hf_hub_url": name} if folder == ONLINE else (catalogue or {}).get(name)
        if isinstance(entry, Mapping):
            found.append(_source(draft, name, entry, folder))
        else:
            draft.note(f"dataset.{name}", "unknown", "no_such_data" if catalogue is not None else "no_catalogue", name)
            found.append({"path": posixpath.join(folder, name)})
    return found


def _source(draft: Draft, name: str, given: Mapping[str, Any], folder: str) -> dict[str, Any]:
    entry = draft.part(given, f"{FILE}: {name}")
    at = _place(entry, name, folder)
    layout = _layout(entry, str(at["path"]), draft.settings.get("method.kind") == "pretrain")
    made = rows.source(entry, at, layout)
    entry.explain(REASONS)
    return made


def _place(entry: Draft, name: str, folder: str) -> dict[str, Any]:
    """The file of an entry, or its data set on the hub."""
    key = next((key for key in HUBS if entry.given.get(key)), "file_name")
    path = entry.take(key, word) or name
    entry.use(key)
    for other in HUBS:
        if other != key and entry.given.get(other):
            entry.note(other, "not needed", "same_data")
    if key == "hf_hub_url":
        subset = entry.take("subset", word)
        entry.use("subset")
        return {**rows.on_hub(entry, path), **({"subset": subset} if subset else {})}
    if key != "file_name":
        entry.note(key, "not yet", HUBS[key])
        return {"path": path}
    rows.on_disk(entry)
    entry.leave(("subset", "revision"), "without_effect")
    return {"path": posixpath.join(folder, path)}


# ---------------------------------------------------------------------------------------------------- layouts


def _layout(entry: Draft, path: str, plain: bool) -> Layout:
    """How the rows of an entry are to be read; unknown where it does not say enough."""
    form = entry.take("formatting", text) or "alpaca"
    if form not in COLUMNS:
        entry.note("formatting", "unknown", "value")
        return Layout()
    entry.use("formatting", "ranking")
    columns = _columns(entry, form)
    if plain:
        return _plain(entry, columns, path)
    compares = entry.take("ranking", switch)
    kind = "pair" if compares else "label" if columns.has("kto_tag") else "answer"
    found = _read(columns, form, kind)
    turns, roles = _tags(entry, form)
    columns.explain(COLUMN_REASONS)
    if found is None:
        entry.note("columns", "unknown", "value")
        return Layout()
    names = {**found, **turns}
    if kind == "pair":
        return rows.compared(names, roles)
    if kind == "label":
        return rows.judged(names, roles)
    return rows.talk(names, roles) if turns else rows.answered(names)


def _columns(entry: Draft, form: str) -> Draft:
    """The columns of an entry: where it names any, it names all that it has."""
    given = entry.take("columns", section) or {}
    entry.use("columns")
    named = {key: column for key, column in given.items() if column != ""}
    return entry.part(named or COLUMNS[form], "columns")


def _read(columns: Draft, form: str, kind: str) -> dict[str, str] | None:
    """Our names of the columns that rows of a kind have; None where one is missing without which there is no row."""
    if form == "alpaca":
        asked = ("prompt",) if columns.has("prompt") else ("query",)
        needed = (*asked, *(("response",) if kind != "pair" else ()), *NEEDED[kind])
        beside: tuple[str, ...] = ("query", "history", "system", *(("tools",) if kind != "answer" else ()))
    else:
        needed, beside = ("messages", *NEEDED[kind]), ("system", "tools")
    taken = {key: columns.take(key, text) for key in dict.fromkeys((*needed, *beside)) if columns.has(key)}
    columns.use(*taken)
    if not all(taken.get(key) for key in needed):
        return None
    # A question in `query` alone is the whole question.
    ours = OURS if "prompt" in taken else {**OURS, "query": "instruction"}
    return {ours[key]: column for key, column in taken.items() if column}


def _tags(entry: Draft, form: str) -> tuple[dict[str, str], dict[str, str]]:
    """(keys of a turn, roles by name); none where rows have no turns."""
    if form == "alpaca":
        return {}, {}
    given = entry.take("tags", section) or {}
    entry.use("tags")
    tags = entry.part(given, "tags")
    turns = {ours: tags.take(key, text) or theirs for key, ours, theirs in TURNS}
    named = {key: tags.take(key, text) for key in ROLES if tags.has(key)}
    roles = rows.roles_of(tags, ((key, name, ROLES[key]) for key, name in named.items() if name))
    tags.use(*(key for key, *_ in TURNS), *ROLES)
    tags.explain({})
    return turns, roles


def _plain(entry: Draft, columns: Draft, path: str) -> Layout:
    """Plain text: the column of the prompt, or the lines of a file."""
    column = columns.take("prompt", text)
    columns.use("prompt")
    for key in ("query", "history"):
        if columns.has(key):
            columns.note(key, "not yet", "joined_text")
    columns.explain(COLUMN_REASONS)
    if path.endswith(".txt"):
        entry.note("file_name", "changed", "text_lines")
        return Layout("text")
    if column is None:
        entry.note("columns", "unknown", "value")
        return Layout()
    return Layout("text", {"text": column})
