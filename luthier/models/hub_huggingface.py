"""Fetching from the Hugging Face hub, or a mirror of it.

What goes in: `org/name`, a revision, where the hub and its cache are. What comes out: the folder in the hub's own cache
that holds the wanted files at one commit. The client's settings (HF_HOME, HF_ENDPOINT, HF_TOKEN, proxies) hold as they
do for every other program; large files go on where an earlier attempt broke off, and are checked against their hash.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, tqdm  # type: ignore[attr-defined]

from luthier.config.load import Environment
from luthier.errors import ModelError, Problem
from luthier.models import hub_files

RESUMABLE_BYTES = 8 * 2**20
"""From this size on a file is worth going on with after an interruption; smaller ones are fetched whole by the client,
which starts afresh in every process."""
WORKERS = 4
"""Files fetched at a time. One connection rarely fills a fast line; chosen, not tuned."""
HASH_CHUNK_BYTES = 8 * 2**20
"""Read at once while hashing; chosen, not tuned."""
SHA256 = re.compile(r"[0-9a-f]{64}")
NEAREST = 3
"""Suggestions in an error; more would not be read."""


class _Stopped(Exception):
    """Ends the other downloads when one failed or the user pressed Ctrl-C."""


class _Meter:
    """Counts the bytes of all files for `Progress`; shared by the threads."""

    def __init__(self, progress: hub_files.Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def add(self, count: int) -> None:
        if self.stop.is_set():
            raise _Stopped
        with self.lock:
            self.done = min(self.done + count, self.total)
            if self.progress is not None:
                self.progress(self.done, self.total)

    def finish(self) -> None:
        """All is there, whatever was counted (a file that another process fetched meanwhile was not)."""
        self.add(self.total - self.done)


class _Bar(tqdm):
    """The client's progress bar, made to show nothing and to pass the bytes on."""

    def __init__(self, *args: Any, meter: _Meter, initial: int = 0, **settings: Any) -> None:
        super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]
        self.meter = meter
        meter.add(initial)

    def update(self, n: float | None = 1) -> None:
        self.meter.add(int(n or 0))


def fetch(
    name: str, revision: str | None, environment: Environment, progress: hub_files.Progress | None, weights: bool
) -> tuple[Path, str, tuple[Problem, ...]]:
    """The folder of `name` at `revision`, its commit, and notes for the user.

    A commit that was fetched whole needs no network. A branch is asked for at the hub, because it moves; where the hub
    does not answer, the copy that was fetched last is used and said so.

    Raises:
        ModelError: not found, no access, no network, no room; says what to do.
    """
    cached = _cached(name, revision, weights)
    host = str(environment.to_json()["hf_endpoint"])  # as it may be shown, without a password
    if environment.hf_offline or constants.is_offline_mode():
        if cached is None:
            raise ModelError(_offline(name, revision, weights))
        return cached, cached.name, ()
    if cached is not None and cached.name == revision and _was_fetched(name, revision):
        return cached, revision, ()
    try:
        folder = _download(name, revision, host, progress, weights)
        return folder, folder.name, ()
    except (httpx2.HTTPError, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        if cached is not None and _is_outage(cause):
            values = {"commit": cached.name[:12], "host": host}
            return cached, cached.name, (Problem("hub.cached", field="model.path", value=name, values=values),)
        problem = _explain(cause, name, revision, host)
        if problem is None:
            raise
        raise ModelError(problem) from error


def card(name: str, environment: Environment) -> tuple[int | None, str | None]:
    """Bytes of the weights, and the licence; None for what the hub does not say, or where it does not answer."""
    if environment.hf_offline or constants.is_offline_mode():
        return None, None
    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (httpx2.HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    weights = [sizes[each] for each in hub_files.wanted(list(sizes)) if each.endswith(".safetensors")]
    licence = next((tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")), None)
    return sum(weights) or None, licence


def _download(name: str, revision: str | None, host: str, progress: hub_files.Progress | None, weights: bool) -> Path:
    """The snapshot folder, whose name is the commit."""
    commit, sizes = _listing(name, revision)
    names = hub_files.wanted(list(sizes), weights)
    _check_complete(name, f"{host}/{name}", names, sizes, weights)
    snapshot = _storage(name) / "snapshots" / commit
    ahead = {each: sizes[each] for each in names if not (snapshot / each).is_file()}
    _check_disk(sum(ahead.values()))
    meter = _Meter(progress, sum(sizes[each] for each in names))
    meter.add(meter.total - sum(ahead.values()))
    _fetch_all(name, commit, ahead, meter)
    meter.finish()
    _remember(name, revision, commit, hub_files.wanted(list(sizes), weights=False))
    return snapshot


def _listing(name: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit that a revision means now, and the size of each of its files.

    Raises:
        ValueError: the answer is JSON but not a hub's; the client's own errors otherwise.
    """
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        commit, siblings = info.sha, info.siblings
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"unexpected answer: {error!r}") from error
    if commit is None or siblings is None:
        raise ValueError("no commit or no list of files in the answer")
    return commit, {sibling.rfilename: sibling.size or 0 for sibling in siblings}


def _fetch_all(name: str, commit: str, sizes: dict[str, int], meter: _Meter) -> None:
    """Fetch the files, several at a time; the first failure, or Ctrl-C, ends the others at their next chunk."""
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(_fetch_file, name, each, commit, size, meter) for each, size in sizes.items()]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            meter.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_file(name: str, filename: str, commit: str, size: int, meter: _Meter) -> None:
    if RESUMABLE_BYTES <= size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
        _fetch_blob(name, filename, commit, meter)
    # Puts the file, or the blob that now lies there, at its place in the cache.
    hf_hub_download(
        name,
        filename,
        revision=commit,
        etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
        tqdm_class=functools.partial(_Bar, meter=meter),  # type: ignore[call-overload]  # a factory will do
    )


def _fetch_blob(name: str, filename: str, commit: str, meter: _Meter) -> None:
    """Fetch a large file into the cache's blobs; what arrives stays on disk for the next attempt.

    The client itself begins anew in every process, and a killed download of a 5 GB shard would be lost.
    """
    url = hf_hub_url(name, filename, revision=commit)
    metadata = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if metadata.etag is None:
        return
    blob = _storage(name) / "blobs" / metadata.etag
    partial = blob.with_name(blob.name + ".luthier.incomplete")
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / _storage(name).name / f"{metadata.etag}.lock"
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        partial.touch()
        with partial.open("r+b") as file:
            there = file.seek(0, os.SEEK_END)
            http_get(
                url,
                file,
                resume_size=there,
                headers=build_hf_headers(),
                expected_size=metadata.size,
                tqdm_class=functools.partial(_Bar, meter=meter),  # type: ignore[arg-type]
            )
        if SHA256.fullmatch(metadata.etag) and _sha256(partial) != metadata.etag:
            partial.unlink()
            raise OSError(errno.EIO, "hash differs", filename)
        os.replace(partial, blob)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------- the cache


def _storage(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def _cached(name: str, revision: str | None, weights: bool) -> Path | None:
    """The copy that the cache holds of a revision, where no weights are missing."""
    folder = _cached_folder(name, revision)
    return folder if folder is not None and not hub_files.missing(folder, weights) else None


def _cached_folder(name: str, revision: str | None) -> Path | None:
    """The snapshot that a revision meant when it was last asked for, whole or not."""
    commit = revision or constants.DEFAULT_REVISION
    with contextlib.suppress(OSError):
        commit = (_storage(name) / "refs" / commit).read_text(encoding="utf-8").strip()
    folder = _storage(name) / "snapshots" / commit
    return folder if folder.is_dir() else None


def _record(name: str, commit: str) -> Path:
    """Where it is written which files of a commit belong together: other programs fetch some of them only."""
    return _storage(name) / "luthier" / f"{commit}.json"


def _remember(name: str, revision: str | None, commit: str, names: tuple[str, ...]) -> None:
    """That this commit was fetched, and what the branch or tag meant now (in the cache's own form)."""
    texts = {_record(name, commit): json.dumps(names)}
    if revision != commit:
        texts[_storage(name) / "refs" / (revision or constants.DEFAULT_REVISION)] = commit
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _was_fetched(name: str, commit: str) -> bool:
    """Whether everything but the weights is there; those are found by their index."""
    try:
        names = json.loads(_record(name, commit).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((_storage(name) / "snapshots" / commit / each).is_file() for each in names)


def _check_disk(needed: int) -> None:
    folder = Path(constants.HF_HUB_CACHE).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        values = {"need": f"{needed / 1e9:.1f}", "free": f"{free / 1e9:.1f}"}
        raise ModelError(Problem("hub.disk", where=constants.HF_HUB_CACHE, values=values))


def _check_complete(name: str, page: str, names: tuple[str, ...], sizes: dict[str, int], weights: bool) -> None:
    """The repository must hold what Luthier reads."""
    lacking = [] if "config.json" in names else ["config.json"]
    if weights and not any(each.endswith(".safetensors") for each in names):
        lacking.append("*.safetensors")
    if lacking:
        has = ", ".join(sorted(sizes)[:8]) or "-"
        values = {"lacking": ", ".join(lacking), "has": has, "page": page}
        kind = "hub.is_adapter" if "adapter_config.json" in sizes else "hub.incomplete"
        raise ModelError(Problem(kind, field="model.path", value=name, values=values))


# ------------------------------------------------------------------------------------------------ what went wrong


def _offline(name: str, revision: str | None, weights: bool) -> Problem:
    folder = _cached_folder(name, revision)
    lacking = ", ".join(hub_files.missing(folder, weights)) if folder is not None else ""
    return Problem(
        "hub.offline_partly" if folder is not None else "hub.offline",
        field="model.path",
        value=name if revision is None else f"{name}@{revision}",
        values={"cache": constants.HF_HUB_CACHE, "lacking": lacking},
    )


def _is_outage(error: BaseException) -> bool:
    """The hub is away, rather than unwilling."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError)


def _explain(error: BaseException, name: str, revision: str | None, host: str) -> Problem | None:
    """What an error of the client means for the user; None where it is none of theirs."""
    values: dict[str, Any] = {
        "page": f"{host}/{name}",
        "host": host,
        "tokens": f"{host}/settings/tokens",
        "cache": constants.HF_HUB_CACHE,
    }
    field, value = "model.path", name
    if isinstance(error, RevisionNotFoundError):
        field, value = "model.revision", revision or constants.DEFAULT_REVISION
        values["near"] = ", ".join(_near_revisions(name, value)) or "-"
    elif isinstance(error, HfHubHTTPError):
        values["status"] = error.response.status_code
    else:
        values["reason"] = _reason(error)
    kind = _kind(error)
    if kind in ("hub.not_found", "hub.not_found_no_token"):
        values["near"] = ", ".join(_near_models(name)) or "-"
    return Problem(kind, field=field, value=value, values=values) if kind else None


def _kind(error: BaseException) -> str | None:
    """The message for an error of the client; the first fitting line decides, so the narrower kinds come first."""
    token = bool(get_token())
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    kinds = (
        (isinstance(error, GatedRepoError) and token, "hub.gated"),
        (isinstance(error, GatedRepoError), "hub.gated_no_token"),
        (isinstance(error, RevisionNotFoundError), "hub.no_revision"),
        (isinstance(error, RepositoryNotFoundError) and not token, "hub.not_found_no_token"),
        (isinstance(error, RepositoryNotFoundError), "hub.not_found"),
        (status == 401 and not token, "hub.not_found_no_token"),  # hubs answer so to hide private names
        (status == 401, "hub.bad_token"),
        (status == 403, "hub.forbidden"),
        (status == 429, "hub.busy"),
        (status > 0, "hub.status"),
        (isinstance(error, OfflineModeIsEnabled), "hub.offline"),
        (isinstance(error, httpx2.ProxyError), "hub.proxy"),
        (isinstance(error, httpx2.TransportError), "hub.unreachable"),
        (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT), "hub.disk_full"),
        (isinstance(error, PermissionError) or getattr(error, "errno", 0) == errno.EROFS, "hub.cache_unwritable"),
        (isinstance(error, FileMetadataError), "hub.not_a_hub"),
        (isinstance(error, OSError) and error.errno in (None, errno.EIO), "hub.broken"),
        (isinstance(error, HFValidationError), "hub.bad_id"),
        (isinstance(error, ValueError), "hub.not_a_hub"),
    )
    return next((kind for fits, kind in kinds if fits), None)


def _reason(error: BaseException) -> str:
    """The client's words in one line, without what must not be shown: a token, or a password in a proxy's address."""
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    words = re.sub(r"//[^/@\s]+@", "//", words)
    token = get_token()
    return words.replace(token, "***") if token else words


def _near_models(name: str) -> list[str]:
    """Names on the hub that look alike: a slip in the model's name, or in the organisation's."""
    owner, model = name.split("/")
    found = [
        *(_ask("/api/models", author=owner, limit=200) or ()),
        *(_ask("/api/models", search=model, limit=20) or ()),
    ]
    return difflib.get_close_matches(name, {str(each["id"]) for each in found}, n=NEAREST, cutoff=0.5)


def _near_revisions(name: str, revision: str) -> list[str]:
    """Branches and tags that look alike, or else the first few."""
    refs = _ask(f"/api/models/{name}/refs") or {}
    known = [str(ref["name"]) for ref in (*refs.get("branches", ()), *refs.get("tags", ()))]
    return difflib.get_close_matches(revision, known, n=NEAREST, cutoff=0.3) or known[:NEAREST]


def _ask(path: str, **parameters: Any) -> Any:
    """What the hub's API answers; None where it does not, because a suggestion is left out of an error that stands
    without it."""
    try:
        answer = get_session().get(
            constants.ENDPOINT + path,
            params=parameters,
            headers=build_hf_headers(),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        return answer.json() if answer.status_code == 200 else None
    except (httpx2.HTTPError, OSError, ValueError):
        return None
