"""LLaMA-Factory's `dataset_info.json`: what its names of data sets stand for.

What goes in: names, and the catalogue that holds them. What comes out: sources of a recipe of ours, each with the
format that reads its columns and roles as they are; what no format reads is listed. Imports no torch.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.importing.draft import Draft, Kind

FILE = "dataset_info.json"

COLUMNS: dict[str, dict[str, str]] = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
    "openai": {"messages": "messages"},
}
"""Their layout -> the columns that it has where an entry names none."""
TAGS: dict[str, dict[str, str]] = {
    "sharegpt": {"role_tag": "from", "content_tag": "value"},
    "openai": {"role_tag": "role", "content_tag": "content"},
}
"""The same for the keys of a turn."""

READ_AS: tuple[tuple[str, dict[str, str]], ...] = (
    ("alpaca", {"prompt": "instruction", "query": "input", "response": "output"}),
    ("alpaca", {"prompt": "instruction", "response": "output"}),
    ("prompt", {"prompt": "prompt", "response": "completion"}),
    ("qa", {"prompt": "question", "response": "answer"}),
    ("qa", {"prompt": "prompt", "response": "response"}),
    ("qa", {"prompt": "query", "response": "response"}),
    ("qa", {"prompt": "input", "response": "output"}),
)
"""Our format, and the question and answer columns that it reads as they are."""
READ_AS_CHAT: tuple[tuple[str, str, str, str], ...] = (
    ("sharegpt", "conversations", "from", "value"),
    ("messages", "messages", "role", "content"),
)
"""Our format, its column, and the keys of its turns."""
OPTIONAL: dict[str, tuple[str, ...]] = {
    "alpaca": ("system", "history"),
    "qa": ("system",),
    "prompt": (),
    "text": (),
    "sharegpt": ("system", "tools"),
    "messages": ("system", "tools"),
}
"""Our format -> further columns that it reads under this name."""
ROLES: dict[str, tuple[str, ...]] = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call",),
    "system_tag": ("system",),
}
"""Names of roles that our formats read."""
MEDIA = ("images", "videos", "audios")
PAIRS = ("chosen", "rejected", "kto_tag")

REASONS: dict[str, tuple[Kind, str]] = {
    "folder": ("not yet", "data_part"),
    "num_samples": ("not yet", "max_samples"),
    "ranking": ("not yet", "preference"),
    "revision": ("not yet", "data_part"),
    "split": ("not yet", "data_part"),
    "subset": ("not yet", "data_part"),
}
HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


def sources(
    draft: Draft, names: Sequence[str] | None, catalogue: Mapping[str, Any] | None, folder: str
) -> list[dict[str, Any]]:
    """A source for each name. catalogue: None where there is no such file, and names are those of a hub."""
    found = []
    for name in names or ():
        entry = None if catalogue is None else catalogue.get(name)
        if isinstance(entry, Mapping):
            found.append(_source(draft, name, entry, folder))
        else:
            draft.note(f"dataset.{name}", "unknown", "no_such_data" if catalogue is not None else "no_catalogue", name)
            found.append({"path": posixpath.join(folder, name)})
    return found


def _source(draft: Draft, name: str, entry: Mapping[str, Any], folder: str) -> dict[str, Any]:
    place = f"{FILE}: {name}"
    hub = next((key for key in HUBS if entry.get(key)), None)
    if hub is not None:
        path = str(entry[hub])
        draft.note(f"{place}.{hub}", "not yet", "hub_data", path)
    else:
        path = posixpath.join(folder, str(entry.get("file_name") or name))
    for key, value in entry.items():
        if key in REASONS and value and (key, value) != ("split", "train"):
            draft.note(f"{place}.{key}", *REASONS[key], value=value)
        elif key not in (*REASONS, *HUBS, "file_name", "file_sha1", "formatting", "columns", "tags"):
            draft.note(f"{place}.{key}", "unknown", "unknown", value)
    chosen = _format(draft, place, entry, path)
    return {"path": path} if chosen == "auto" else {"path": path, "format": chosen}


def _format(draft: Draft, place: str, entry: Mapping[str, Any], path: str) -> str:
    """Our format for an entry's columns; `auto` where none reads them as they are."""
    layout = str(entry.get("formatting") or "alpaca")
    if layout not in COLUMNS:
        draft.note(f"{place}.formatting", "unknown", "value", layout)
        return "auto"
    # Where an entry names columns, it names all it has: their defaults are gone then.
    columns = _texts(entry.get("columns")) or COLUMNS[layout]
    tags = {**TAGS.get(layout, {}), **_texts(entry.get("tags"))}
    if draft.settings.get("method.kind") == "pretrain":
        return _plain(draft, place, columns, path)
    if layout == "alpaca":
        main = {key: column for key, column in columns.items() if key in COLUMNS["alpaca"]}
        chosen = next((ours for ours, theirs in READ_AS if theirs == main), "auto")
    else:
        main = {"messages": columns.get("messages", "")}
        turn = (main["messages"], tags["role_tag"], tags["content_tag"])
        chosen = next((ours for ours, *theirs in READ_AS_CHAT if tuple(theirs) == turn), "auto")
    _tell(draft, place, chosen, main, columns, tags)
    return chosen


def _tell(
    draft: Draft,
    place: str,
    chosen: str,
    main: Mapping[str, str],
    columns: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """List the columns, keys and role names that the chosen format does not read."""
    for key, column in columns.items():
        where = f"{place}.columns.{key}"
        if key in MEDIA:
            draft.note(where, "not yet", "media", column)
        elif key in PAIRS:
            draft.note(where, "not yet", "preference", column)
        elif (key in main and chosen == "auto") or (
            key not in main and (key not in OPTIONAL.get(chosen, ()) or key != column)
        ):
            draft.note(where, "not yet", "column", column)
    for key, name in tags.items():
        if (key in ROLES and name not in ROLES[key]) or (key in TAGS["sharegpt"] and chosen == "auto"):
            draft.note(f"{place}.tags.{key}", "not yet", "role" if key in ROLES else "column", name)


def _plain(draft: Draft, place: str, columns: Mapping[str, str], path: str) -> str:
    """Plain text is in the column `text`, or is the whole file."""
    if path.endswith(".txt") or columns.get("prompt") == "text":
        return "text"
    for key, column in columns.items():
        draft.note(f"{place}.columns.{key}", "not yet", "column", column)
    return "auto"


def _texts(value: Any) -> dict[str, str]:
    return {str(key): item for key, item in value.items() if isinstance(item, str)} if isinstance(value, dict) else {}
