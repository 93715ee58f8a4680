"""Fetching from ModelScope, through the `hub` extra.

What goes in: `org/name` and a revision. What comes out: the folder in ModelScope's own cache. Its client keeps its own
settings (MODELSCOPE_CACHE, MODELSCOPE_DOMAIN, `modelscope login`), shows its own progress and goes on with what an
earlier attempt left.
"""

from __future__ import annotations

import errno
from pathlib import Path

from luthier.config.load import Environment
from luthier.errors import ModelError, Problem
from luthier.models import hub_files

TEXT_PATTERNS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt")
WEIGHT_PATTERNS = ("model.safetensors", "model-*.safetensors")
PAGES = "https://modelscope.cn/models/"


def fetch(name: str, revision: str | None, environment: Environment, weights: bool) -> Path:
    """The folder of `name` at `revision` (its default branch where None).

    Raises:
        ModelError: the client is not installed, or could not fetch; says what to do.
    """
    try:
        from modelscope.hub import errors
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise ModelError(Problem("hub.no_modelscope", field="model.path", value=f"modelscope:{name}")) from error
    failures = (
        OSError,  # all of requests' exceptions are among them
        ValueError,  # not in the cache, while local_files_only
        errors.NotExistError,
        errors.NoValidRevisionError,
        errors.RequestError,
        errors.NotLoginException,
        errors.InvalidParameter,
        errors.FileIntegrityError,
        errors.FileDownloadError,
    )
    try:
        folder = snapshot_download(
            name,
            **({} if revision is None else {"revision": revision}),
            allow_patterns=[*TEXT_PATTERNS, *(WEIGHT_PATTERNS if weights else ())],
            local_files_only=environment.hf_offline,
        )
    except failures as error:
        raise ModelError(_explain(error, name, environment)) from error
    lacking = hub_files.missing(Path(folder), weights)
    if lacking:
        values = {"lacking": ", ".join(lacking), "has": _has(Path(folder)), "page": PAGES + name}
        raise ModelError(Problem("hub.incomplete", field="model.path", value=f"modelscope:{name}", values=values))
    return Path(folder).resolve()


def _has(folder: Path) -> str:
    return ", ".join(sorted(each.name for each in folder.iterdir())[:8]) or "-"


def _explain(error: Exception, name: str, environment: Environment) -> Problem:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = "hub.disk_full"
    elif environment.hf_offline:
        message = "hub.offline"
    elif status == 404 or kind in ("NotExistError", "NoValidRevisionError"):
        message = "hub.modelscope_not_found"
    elif status in (401, 403) or kind == "NotLoginException":
        message = "hub.modelscope_denied"
    else:
        message = "hub.modelscope_failed"
    reason = (str(error).strip() or kind).splitlines()[0]
    values = {"page": PAGES + name, "reason": f"{kind}: {reason}", "cache": environment.modelscope_cache}
    return Problem(message, field="model.path", value=f"modelscope:{name}", values=values)
