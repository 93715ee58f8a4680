"""How rows are laid out and where they lie, as a source of a recipe of ours says it.

What goes in: which column of the file is the question, the answer, the turns and so on, and where the file is. What
comes out: the fields of a source (`path`, `format`, `columns`, `roles`, and `subset`, `split`, `revision` of a hub).
Knows no program. Imports no torch.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data import hub, readers
from luthier.data.formats import FORMATS
from luthier.data.turns import ROLES
from luthier.importing.draft import Draft, word

Names = Mapping[str, str]
"""Our name of a column, or of a key of a turn -> theirs."""

READ_ROLES = {**ROLES, "function_call": "function_call"}
"""Role names that are read without being told -> what as; `function_call` is a role to be told of its own."""
TURN_PAIRS = (("role", "content"), ("from", "value"))
"""Keys of a turn that are read without being told."""
LOOKED_AT = 100
"""Rows of a file whose columns are looked at; chosen, not tuned."""


@dataclass(frozen=True)
class Layout:
    """How the rows of a source are to be read. names: every column that theirs reads, also those of the same name;
    roles: their role name -> our role, where it is not read as that anyway."""

    format: str = "auto"
    names: Names = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """What a source says of it; nothing where it is not known."""
        columns = {ours: theirs for ours, theirs in self.names.items() if ours != theirs}
        said = {"format": self.format if self.format != "auto" else "", "columns": columns, "roles": dict(self.roles)}
        return {key: value for key, value in said.items() if value}


def answered(names: Names) -> Layout:
    """A question and its answer: `instruction`, `output`, perhaps `input`, `system`, `history`. The format `alpaca`
    would read an input that theirs does not ask for, so rows without one are read as `qa`."""
    if "input" in names:
        return Layout("alpaca", names)
    as_qa = {"instruction": "question", "output": "answer"}
    return Layout("qa", {as_qa.get(ours, ours): theirs for ours, theirs in names.items()})


def talk(names: Names, roles: Mapping[str, str]) -> Layout:
    """A conversation: `messages`, `role`, `content`, and what may stand beside them."""
    if names["messages"] != "conversations":
        return Layout("messages", _turns(names), roles)
    return Layout("sharegpt", _turns({"conversations": "conversations", **_without(names, "messages")}), roles)


def compared(names: Names, roles: Mapping[str, str] | None = None) -> Layout:
    """A prompt (`messages`, or `instruction` and perhaps `input`), `chosen` and `rejected`."""
    return Layout("preference", _turns(_asked(names)), roles or {})


def judged(names: Names, roles: Mapping[str, str] | None = None) -> Layout:
    """A prompt and its answer (`messages`, or `instruction`, perhaps `input`, and `output`), and `label`."""
    as_judged = {"output": "completion"}
    names = {as_judged.get(ours, ours): theirs for ours, theirs in _asked(names).items()}
    return Layout("labelled", _turns(names), roles or {})


def _asked(names: Names) -> Names:
    """What is asked, in one column, goes by the name `prompt`, which is looked for first."""
    ours = "messages" if "messages" in names else "instruction"
    if ours not in names or "input" in names:
        return names
    return {"prompt": names[ours], **_without(names, ours)}


def _turns(names: Names) -> Names:
    """Without the keys of a turn where they are those that are read anyway."""
    usual = (names.get("role"), names.get("content")) in TURN_PAIRS
    return _without(names, "role", "content") if usual else names


def _without(names: Names, *ours: str) -> dict[str, str]:
    return {name: theirs for name, theirs in names.items() if name not in ours}


def roles_of(draft: Draft, given: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Their role names -> our roles, where a name is not read as that anyway.

    Args:
        given: (key of theirs, role name, our role); a name that is two roles at once is told of.
    """
    found: dict[str, str] = {}
    for key, name, role in given:
        if found.setdefault(name, role) != role:
            draft.note(key, "unknown", "value", name)
    return {name: role for name, role in found.items() if READ_ROLES.get(name) != role}


# ---------------------------------------------------------------------------------------------------- sources


def on_hub(draft: Draft, name: str, split: str = "train") -> dict[str, Any]:
    """A data set of the Hugging Face hub, with the split and revision that the draft has.

    Args:
        split: theirs where the draft has none.
    """
    revision, given = draft.take("revision", word), draft.take("split", word) or split
    if not hub.SPLIT.fullmatch(given):
        draft.note("split", "not yet", "split_part")
        given = re.split(r"\W", given)[0] or split
    parts = {"split": given if given != "train" else None, "revision": revision}
    draft.use("split", "revision")
    return {"path": f"{hub.PREFIX}{name}", **{key: value for key, value in parts.items() if value}}


def on_disk(draft: Draft) -> None:
    """What a file has no use for: it is its own one split, `train`."""
    split = draft.take("split", word)
    if split not in (None, "train"):
        draft.note("split", "not yet", "split_part")
    draft.use("split")


def source(draft: Draft, at: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The source at a place (`path`, and for a hub `subset`, `split`, `revision`) with that layout. Tells of columns of
    the file that our format reads and theirs does not."""
    for name in _read_too(str(at["path"]), layout):
        draft.note(name, "changed", "read_too", name)
    return {**at, **layout.fields()}


def _read_too(path: str, layout: Layout) -> list[str]:
    """Columns that the first rows of a file hold and our format reads, though theirs has no word of them."""
    if layout.format not in FORMATS or not os.path.isfile(path):
        return []
    first = itertools.islice(readers.read(Path(path)), LOOKED_AT)
    held = [each.value for each in first if isinstance(each, readers.Row) and isinstance(each.value, dict)]
    known = {*layout.names, *layout.names.values()}
    read = [name for name in FORMATS[layout.format].optional if name not in known]
    return [name for name in read if any(row.get(name) for row in held)]
