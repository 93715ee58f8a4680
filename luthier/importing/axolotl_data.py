"""The data sets of an axolotl recipe: where they lie, and how their rows are laid out.

What goes in: an entry of `datasets`. What comes out: sources of a recipe of ours, with their columns and roles; what a
source cannot say is listed. Imports no torch.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.data import opening, readers
from luthier.data.turns import ROLES
from luthier.importing import rows
from luthier.importing.draft import Draft, Reasons, names, section, text, word
from luthier.importing.rows import Layout

ALPACA = {"instruction": "instruction", "input": "input", "output": "output"}
ORCA = {"instruction": "question", "output": "response", "system": "system_prompt"}
ANSWERED: dict[str, dict[str, str]] = {
    "alpaca": ALPACA,
    "alpaca_chat": ALPACA,
    "alpaca_chat.load_camel_ai": {"instruction": "message_1", "output": "message_2"},
    "alpaca_chat.load_concise": ALPACA,
    "alpaca_chat.load_no_prompt": ALPACA,
    "alpaca_chat.load_qa": {"instruction": "question", "output": "answer"},
    "alpaca_instruct": ALPACA,
    "alpaca_w_system": {**ALPACA, "system": "system"},
    "alpaca_w_system.load_chat": {**ALPACA, "system": "system"},
    "alpaca_w_system.load_instruct": {**ALPACA, "system": "system"},
    "alpaca_w_system.load_open_orca": ORCA,
    "alpaca_w_system.load_open_orca_chatml": ORCA,
    "gpteacher": {**ALPACA, "output": "response"},
    "oasst": {"instruction": "INSTRUCTION", "output": "RESPONSE"},
    "summarizetldr": {"instruction": "article", "output": "summary"},
}
"""Types of a question and its answer, each in a prompt of its own -> our names of their columns."""
CHAT_TEMPLATE = {
    "messages": "messages",
    "role": "role",
    "content": "content",
    "system": "system",
    "tools": "tools",
}
SHAREGPT = {"messages": "conversations", "role": "from", "content": "value"}
TALKS: dict[str, dict[str, str]] = {
    "chat_template": CHAT_TEMPLATE,
    "chat_template.default": CHAT_TEMPLATE,
    "sharegpt": SHAREGPT,
    "sharegpt.load_guanaco": {**SHAREGPT, "role": "role", "content": "text"},
    "sharegpt.load_role": {**SHAREGPT, "role": "role"},
}
"""Types of conversations -> our names of their columns and keys."""
SPEAKERS: dict[str, dict[str, str]] = {"sharegpt.load_guanaco": {"prompter": "user"}}
"""Types of conversations -> role names that they know beside the usual ones."""
TEXTS = ("completion", "pretrain")
OWN_ROWS = ("concisechoice", "context_qa", "explainchoice", "input_output", "jeopardy", "reflection")
"""Types, up to a dot, that make a prompt of columns in a way of their own."""
BRADLEY_TERRY = {"instruction": "input", "chosen": "chosen", "rejected": "rejected", "system": "system"}
"""Columns of the types `bradley_terry.*`, of which reward models learn."""
READ_AS_THEY_ARE = ("argilla", "argilla_chat", "icr", "intel", "prompt_pairs", "ultra")
"""Types of such rows, after the dot, whose columns are found by their names."""

KINDS_OF_FILE: dict[str, tuple[str, ...]] = {
    "json": (".json", ".jsonl"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "text": (".txt",),
}
"""Values of `ds_type`, and of a `path` that only names a kind of file -> the endings that say the same."""
TURN_FIELDS: dict[str, str] = {
    "field_messages": "messages",
    "field_system": "system",
    "field_tools": "tools",
    "field_thinking": "reasoning_content",
    "message_field_role": "role",
    "message_field_content": "content",
    "message_field_training": "train",
}
PAIR_FIELDS: dict[str, str] = {"field_chosen": "chosen", "field_rejected": "rejected"}
PROPERTIES = ("role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id")
"""Keys of a turn that can be named in `message_property_mappings`."""
CUSTOM_FIELDS: dict[str, dict[str, str]] = {
    "answer": {
        "field_instruction": "instruction",
        "field_input": "input",
        "field_output": "output",
        "field_system": "system",
    },
    "pair": {"field_prompt": "instruction", "field_system": "system", **PAIR_FIELDS},
    "label": {
        "field_prompt": "instruction",
        "field_system": "system",
        "field_completion": "output",
        "field_label": "label",
    },
}
"""Kind of row -> keys of a prompt of the file's own that name its columns -> our names of these."""
CUSTOM_USUAL: dict[str, dict[str, str]] = {
    "answer": {"instruction": "instruction", "output": "output"},
    "pair": {"instruction": "prompt", "chosen": "chosen", "rejected": "rejected", "system": "system"},
    "label": {"instruction": "prompt", "output": "completion", "label": "label", "system": "system"},
}
"""Kind of row -> the columns that it has where the file names none."""
CUSTOM_REASONS: Reasons = {
    "chosen_format": ("not yet", "own_prompt"),
    "completion_format": ("not yet", "own_prompt"),
    "format": ("not yet", "own_prompt"),
    "no_input_format": ("not yet", "own_prompt"),
    "prompt_format": ("not yet", "own_prompt"),
    "rejected_format": ("not yet", "own_prompt"),
    "system_format": ("not yet", "own_prompt"),
    "system_prompt": ("not yet", "own_system"),
}
ENTRY_REASONS: Reasons = {
    **dict.fromkeys((*TURN_FIELDS, *PAIR_FIELDS), ("not needed", "without_effect")),
    "chat_template": ("not needed", "no_template"),
    "chat_template_jinja": ("not needed", "no_template"),
    "conversation": ("changed", "template"),
    "drop_system_message": ("not yet", "system_kept"),
    "field": ("not needed", "without_effect"),
    "field_human": ("not needed", "without_effect"),
    "field_model": ("not needed", "without_effect"),
    "input_format": ("not yet", "own_prompt"),
    "input_transform": ("not yet", "own_rows"),
    "message_field_training_detail": ("not yet", "turn_parts"),
    "message_property_mappings": ("not needed", "without_effect"),
    "name": ("not needed", "without_effect"),
    "preprocess_shards": ("not needed", "workers"),
    "revision": ("not needed", "without_effect"),
    "roles": ("not needed", "without_effect"),
    "roles_to_train": ("not needed", "without_effect"),
    "shards": ("not yet", "data_part"),
    "shards_idx": ("not yet", "data_part"),
    "skip": ("not yet", "data_part"),
    "split_thinking": ("not yet", "split_thoughts"),
    "strict": ("not needed", "always"),
    "template_thinking_key": ("not yet", "thinking_key"),
    "text_column": ("not needed", "without_effect"),
    "train_on_eos": ("not needed", "without_effect"),
    "train_on_eot": ("not needed", "without_effect"),
    "trust_remote_code": ("not needed", "no_code"),
}
"""Keys of one data set."""


def entries(draft: Draft, key: str) -> dict[str, dict[str, Any]]:
    """Each data set by its place in the file; a bare name is one."""
    value = draft.take(key)
    value = value if isinstance(value, list) else [value]
    found = {}
    for index, entry in enumerate(value):
        entry = {"path": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and (entry.get("path") or entry.get("data_files")):
            found[f"{key}.{index}"] = entry
        else:
            draft.note(f"{key}.{index}", "unknown", "value", entry)
    return found


def type_of(entry: Mapping[str, Any]) -> str:
    given = entry.get("type")
    return given.partition(":")[0] if isinstance(given, str) else ""


def sources(
    draft: Draft, place: str, given: Mapping[str, Any], kind: str, split: str = "train"
) -> list[dict[str, Any]]:
    """A data set: a source for each of its files or subsets.

    Args:
        kind: of its rows: text, answer, pair, label or prompt.
        split: theirs of a data set on a hub where it names none.
    """
    entry = draft.part(given, place)
    layout = _layout(entry, kind)
    made = [rows.source(entry, at, layout) for at in _places(entry, split)]
    entry.explain(ENTRY_REASONS)
    return made


# ---------------------------------------------------------------------------------------------------- places


def _places(entry: Draft, split: str) -> list[dict[str, Any]]:
    """Where the rows of a data set are: files, a folder, or subsets on the hub."""
    path, files = entry.take("path", word) or "", entry.take("data_files", _texts) or []
    entry.use("path", "data_files", "ds_type")
    if any("://" in each for each in (path, *files)):
        entry.note("data_files" if files else "path", "not yet", "elsewhere")
    elif _is_on_hub(entry, path) and not files:
        subsets = entry.take("name", _texts) or []
        entry.use("name")
        at = rows.on_hub(entry, path, split)
        return [{**at, "subset": each} for each in subsets] or [at]
    elif _is_on_hub(entry, path):
        entry.note("data_files", "not yet", "hub_files")
    elif path in KINDS_OF_FILE and not files:
        entry.note("path", "unknown", "value")
    found = [_joined(path, file) for file in files] or [path]
    rows.on_disk(entry)
    _endings(entry, found)
    return [{"path": each} for each in found if each]


def _texts(value: Any) -> list[str]:
    return [text(each) for each in (value if isinstance(value, list) else [value])]


def _is_on_hub(entry: Draft, path: str) -> bool:
    """Whether a path that is not here can be the name of a data set on the hub."""
    local = path in ("", *KINDS_OF_FILE) or path.startswith((".", "/", "~")) or os.path.exists(path)
    file = opening.ending(Path(path)) in readers.READERS or entry.has("ds_type")
    return not local and not file and path.count("/") <= 1


def _joined(path: str, file: str) -> str:
    """A file of `data_files`: in the folder of `path`, unless it says where it is by itself."""
    below = posixpath.normpath(file).startswith(f"{posixpath.normpath(path)}/")
    if below or "://" in file or path in ("", *KINDS_OF_FILE):
        return file
    inside = posixpath.join(path, file)
    return file if os.path.isfile(file) and not os.path.isfile(inside) else inside


def _endings(entry: Draft, paths: list[str]) -> None:
    """Tell of files whose ending says another kind than `ds_type`."""
    kind = entry.take("ds_type", word)
    found = {opening.ending(Path(path)) for path in paths} - {"", *KINDS_OF_FILE.get(kind or "", ())}
    if kind is not None and found & readers.READERS.keys():
        entry.note("ds_type", "not yet", "ending")
    if any(path.endswith(".txt") for path in paths):
        entry.note("path", "changed", "text_lines")


# ---------------------------------------------------------------------------------------------------- layouts


def _layout(entry: Draft, kind: str) -> Layout:
    """How the rows of a data set are to be read; unknown where its type has no equal."""
    given, name = entry.take("type"), type_of(entry.given)
    entry.use("type")
    if kind == "text":
        key = "text_column" if entry.has("text_column") else "field"
        column = entry.take(key, word) or "text"
        entry.use(key)
        return Layout("text", {"text": column})
    entry.use("chat_template", "chat_template_jinja")
    if kind == "prompt":
        entry.note("type", "not yet", "prompt_rows", given if given is not None else "-")
        return Layout()
    if isinstance(given, dict):
        return _custom(entry, given, kind)
    if kind == "pair" and name.partition(".")[0] == "bradley_terry":
        return rows.compared(BRADLEY_TERRY)
    if name in TALKS:
        return _talk(entry, TALKS[name], kind)
    if kind != "answer" and name.rpartition(".")[2] in READ_AS_THEY_ARE:
        names = {"system": "system", **_named(entry, PAIR_FIELDS)}
        return Layout({"pair": "preference", "label": "labelled"}[kind], names)
    if kind == "answer" and name in ANSWERED:
        entry.note("type", "changed", "alpaca_prompt")
        return rows.answered(ANSWERED[name])
    own = "text_beside" if name in TEXTS else "own_rows" if name.partition(".")[0] in OWN_ROWS else "prompt_type"
    entry.note("type", "not yet", own, given if given is not None else "-")
    return Layout()


def _custom(entry: Draft, given: Mapping[str, Any], kind: str) -> Layout:
    """A prompt of the file's own; its columns are taken over, its words are not."""
    custom = entry.part(given, "type")
    names = {**CUSTOM_USUAL[kind], **_named(custom, CUSTOM_FIELDS[kind])}
    custom.explain(CUSTOM_REASONS)
    return {"answer": rows.answered, "pair": rows.compared, "label": rows.judged}[kind](names)


def _named(draft: Draft, fields: Mapping[str, str]) -> dict[str, str]:
    """Our name -> their column, for the keys that are given."""
    given = {key: draft.take(key, text) for key in fields if draft.has(key)}
    draft.use(*given)
    return {fields[key]: column for key, column in given.items() if column}


def _talk(entry: Draft, usual: Mapping[str, str], kind: str) -> Layout:
    """Conversations. usual: columns and keys where the data set names none."""
    names = {**usual, **_named(entry, TURN_FIELDS), **_properties(entry)}
    if entry.given.get("template_thinking_key") == "reasoning_content":
        entry.use("template_thinking_key")
    roles = _roles(entry)
    _learnt(entry, roles)
    if kind == "pair":
        return rows.compared({**names, "chosen": "chosen", "rejected": "rejected", **_named(entry, PAIR_FIELDS)}, roles)
    return rows.judged({**names, "label": "label"}, roles) if kind == "label" else rows.talk(names, roles)


def _properties(entry: Draft) -> dict[str, str]:
    mapping = entry.take("message_property_mappings", section) or {}
    entry.use("message_property_mappings")
    properties = entry.part(mapping, "message_property_mappings")
    named = _named(properties, {key: key for key in PROPERTIES})
    for key in mapping.keys() - {*PROPERTIES}:
        properties.note(key, "not yet", "turn_key")
    return named


def _roles(entry: Draft) -> dict[str, str]:
    """Role names of the file -> our roles."""
    roles = entry.part(entry.take("roles", section) or {}, "roles")
    found = [("type", name, role) for name, role in SPEAKERS.get(type_of(entry.given), {}).items()]
    for target in roles.given:
        called, role = roles.take(target, _texts) or [], ROLES.get(target)
        if role is not None:
            found += [(f"roles.{target}", name, role) for name in called]
        elif not {*called} <= ROLES.keys():
            roles.note(target, "not yet", "role")
    for key, role in (("field_human", "user"), ("field_model", "assistant")):
        name = entry.take(key, word)
        found += [(key, name, role)] if name else []
    entry.use("roles", "field_human", "field_model")
    return rows.roles_of(entry, found)


def _learnt(entry: Draft, roles: Mapping[str, str]) -> None:
    """Which turns carry loss: the answers, each with its stop token."""
    trained = entry.take("roles_to_train")
    if trained == []:
        entry.note("roles_to_train", "not yet", "unmarked")
    elif trained is not None:
        given = entry.take("roles_to_train", names) or []
        same = {roles.get(name) or ROLES.get(name) for name in given} == {"assistant"}
        entry.note("roles_to_train", *(("not needed", "always") if same else ("not yet", "loss_on_prompt")))
    for key in ("train_on_eos", "train_on_eot"):
        if entry.has(key):
            same = entry.take(key) == "turn"
            entry.note(key, *(("not needed", "always") if same else ("not yet", "stop_tokens")))
