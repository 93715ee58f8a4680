"""The one door to base models: what a recipe's `model` names, as a folder on this machine.

What goes in: `nano`, a local folder, a Hugging Face id or `modelscope:org/name`, and a revision. What comes out: a
`Resolved` folder, with the commit that it holds where a hub was asked. Local folders load no network code at all; the
hubs' clients are imported only when an id needs them. Loads no torch.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from luthier.config.load import Environment
from luthier.errors import ModelError, Problem
from luthier.models.hub_files import Progress

NANO = "nano"
MODELSCOPE_PREFIX = "modelscope:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Resolved:
    """A model folder.

    Attributes:
        folder: absolute path; holds config.json, the tokenizer's files and, unless left out, safetensors weights.
        id: the name as the recipe gives it.
        revision: as the recipe gives it; commit: the hub's commit that the folder holds, None without a hub.
        notes: what the user should know, such as that an earlier copy is used because the hub does not answer.
    """

    folder: Path
    id: str
    revision: str | None
    commit: str | None
    notes: tuple[Problem, ...] = ()


def resolve(
    path: str,
    revision: str | None,
    environment: Environment,
    progress: Progress | None = None,
    *,
    weights: bool = True,
    home: Path = Path(),
) -> Resolved:
    """Find or fetch the model that `path` names.

    Args:
        path: `nano`, a folder (`~` is understood), `org/name` on the Hugging Face hub, or `modelscope:org/name`.
        revision: branch, tag or commit on a hub.
        progress: called as files come.
        weights: False leaves weight files on the hub; configuration and tokenizer are enough to plan and to start from
            random weights.
        home: where relative paths start from.

    Raises:
        ModelError: there is no such model, it may not be read, or it could not be fetched; says what to do.
    """
    if path.startswith(MODELSCOPE_PREFIX):
        from luthier.models import hub_modelscope  # the optional client's own door

        name = path.removeprefix(MODELSCOPE_PREFIX)
        if not HUB_ID.fullmatch(name):
            raise ModelError(Problem("hub.bad_id", field="model.path", value=path))
        folder = hub_modelscope.fetch(name, revision, environment, weights)
        return Resolved(folder, path, revision, None)
    local = _packaged() if path == NANO else home / os.path.expanduser(path)
    if path == NANO or os.path.exists(local):
        if revision is not None:
            raise ModelError(Problem("hub.revision_of_folder", field="model.revision", value=revision))
        if not local.is_dir():
            raise ModelError(Problem("hub.not_a_folder", field="model.path", value=path))
        return Resolved(local.resolve(), path, None, None)
    if not HUB_ID.fullmatch(path):
        raise ModelError(_unknown(path, local))
    first = Path(path).parts[0]
    if revision is None and os.path.isdir(home / first):
        # A slip in a path must not wait for the network; a revision exists on a hub only, so it settles what is meant.
        values = {"folder": str(local.absolute()), "first": first, "near": ", ".join(_beside(local)) or "–"}
        raise ModelError(Problem("hub.not_in_folder", field="model.path", value=path, values=values))
    from luthier.models import hub_huggingface  # its client takes half a second to import and is not always needed

    folder, commit, notes = hub_huggingface.fetch(path, revision, environment, progress, weights)
    return Resolved(folder, path, revision, commit, notes)


def card(path: str, environment: Environment) -> tuple[int | None, str | None]:
    """Bytes of a model's weights on the hub, and its licence; None for what the hub does not say, or where it does not
    answer."""
    if path.startswith(MODELSCOPE_PREFIX):
        return None, None
    from luthier.models import hub_huggingface

    return hub_huggingface.card(path, environment)


def _packaged() -> Path:
    folder = Path(str(resources.files("luthier"))) / "nano" / "base"
    if not (folder / "config.json").is_file():
        raise ModelError(Problem("hub.nano_missing", where=str(folder), field="model.path", value=NANO))
    return folder


def _unknown(path: str, local: Path) -> Problem:
    """No folder and no hub id. The likeliest slip is a mistyped folder, so its neighbours are named."""
    near = [NANO] if difflib.get_close_matches(path, [NANO]) else []
    near += _beside(local)
    return Problem(
        "hub.near" if near else "hub.unknown",
        field="model.path",
        value=path,
        values={"folder": str(local.absolute()), "near": ", ".join(near)},
    )


def _beside(local: Path) -> list[str]:
    """Folders with a name like that of one that is not there, in the same place."""
    try:
        beside = [each.name for each in local.absolute().parent.iterdir() if each.is_dir()]
    except (OSError, ValueError):  # a null byte in its name
        return []
    return [str(local.parent / name) for name in difflib.get_close_matches(local.name, beside)]
