"""Sending files to a Hugging Face repository, or to a mirror's.

What goes in: `user/name`, and the files by their name there. What comes out: what would change, and the commit once it
did. Nothing is written before `send`. Files that the hub has by hash are not sent again, so that an interrupted upload
goes on where it was; all of them become visible in one commit, or none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from luthier.config.load import Environment
from luthier.errors import ModelError, Problem
from luthier.runs.files import redact

CHUNK_BYTES = 8 * 2**20
"""Read at once while hashing; chosen, not tuned."""
STATUSES = {
    401: "hub.push_bad_token",
    403: "hub.push_forbidden",
    404: "hub.push_not_found",
    409: "hub.push_conflict",
}
Change = Literal["new", "changed", "same"]


@dataclass(frozen=True)
class Planned:
    """What a push would do.

    Attributes:
        private: as the repository is; None where there is none yet.
        changes: name of a file there -> new, changed or same.
        others: files of the repository that the push leaves as they are.
    """

    private: bool | None
    changes: Mapping[str, Change]
    others: tuple[str, ...]


def look(name: str, files: Mapping[str, Path], environment: Environment) -> Planned:
    """What a push of `files` would change; asks the hub and writes nothing.

    Raises:
        ModelError: no token, no such right, no name, no answer; says what to do.
    """
    try:
        api = _client(name, environment)
        info = api.model_info(name, files_metadata=True)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise ModelError(_explain(error, name, environment)) from error
        return Planned(None, dict.fromkeys(files, "new"), ())
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise ModelError(_explain(error, name, environment)) from error
    there = {each.rfilename: (each.lfs.sha256 if each.lfs else each.blob_id) for each in info.siblings or ()}
    changes: dict[str, Change] = {}
    for each, path in files.items():
        try:
            same = each in there and there[each] in (_sha256(path), _git_sha1(path))
        except OSError as error:
            raise ModelError(_explain(error, name, environment)) from error
        changes[each] = "new" if each not in there else "same" if same else "changed"
    return Planned(bool(info.private), changes, tuple(sorted(there.keys() - files.keys())))


def send(name: str, files: Mapping[str, Path], environment: Environment, *, public: bool, message: str) -> str:
    """Make the repository where there is none, send what it lacks, and give the commit.

    The visibility of a repository that is there stays as it is.

    Raises:
        ModelError: as `look`; an upload that broke off is gone on with by the next call.
    """
    try:
        api = _client(name, environment)
        api.create_repo(name, private=not public, exist_ok=True)
        added = [CommitOperationAdd(path_in_repo=each, path_or_fileobj=path) for each, path in files.items()]
        return str(api.create_commit(name, added, commit_message=message).oid)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise ModelError(_explain(error, name, environment)) from error
    except RuntimeError as error:  # the client's wrapping of what befell one large file
        if not isinstance(error.__cause__, httpx2.HTTPError):
            raise
        raise ModelError(_explain(error.__cause__, name, environment)) from error


def licence(name: str, environment: Environment) -> str | None:
    """What a hub's model is licensed under, as its card spells it; None where that cannot be learnt now."""
    try:
        data = _client(name, environment).model_info(name).card_data
    except (ModelError, httpx2.HTTPError, OSError, ValueError):
        return None
    found = data.get("license") if data is not None else None
    return found if isinstance(found, str) and re.fullmatch(r"[\w.+\-]+", found, re.A) else None


def _client(name: str, environment: Environment) -> HfApi:
    if "/" not in name:
        raise ModelError(Problem("hub.push_name", value=name))
    validate_repo_id(name)
    if environment.hf_offline or constants.is_offline_mode():
        raise ModelError(_problem("hub.push_offline", name, environment))
    if not get_token():
        raise ModelError(_problem("hub.push_no_token", name, environment))
    return HfApi(endpoint=environment.hf_endpoint)


def _explain(error: Exception, name: str, environment: Environment) -> Problem:
    if isinstance(error, HFValidationError):
        return Problem("hub.push_name", value=name)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return _problem(STATUSES.get(status, "hub.push_status"), name, environment, status)
    if isinstance(error, (httpx2.HTTPError, ConnectionError, TimeoutError)):  # xet raises the built-in ones
        return _problem("hub.push_unreachable", name, environment)
    # A plain ValueError is the client's own word on a file (a card whose head is no YAML); others may quote the token.
    words = error.strerror if isinstance(error, OSError) else str(error) if type(error) is ValueError else None
    reason = redact(words or type(error).__name__)
    where = str(getattr(error, "filename", None) or "")
    return Problem("hub.push_failed", where=where, value=name, values={"reason": reason})


def _problem(kind: str, name: str, environment: Environment, status: int = 0) -> Problem:
    host = str(environment.to_json()["hf_endpoint"])
    return Problem(kind, value=name, values={"host": host, "tokens": f"{host}/settings/tokens", "status": status})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _git_sha1(path: Path) -> str:
    """The name that git gives the content of an ordinary file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
