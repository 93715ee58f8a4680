"""Starting the server: what has to be so before a model is loaded, and nothing that needs the extra.

What goes in: what to serve, where, and who may ask. What comes out: a running server, until it is told to end.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from luthier.errors import Problem, RunError
from luthier.serving.door import Keys, is_loopback
from luthier.serving.limits import Limits

ENGINES = ("luthier", "llama.cpp", "vllm")
VLLM_WAIT_S = 900.0
"""A large model is read from disk and its graphs are captured; minutes are usual. Chosen, not tuned."""
EXTRA = ("fastapi", "uvicorn", "llguidance", "prometheus_client")


def serve(  # noqa: PLR0913  one parameter for each option
    targets: str | Path | Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: str | Path | None = None,
    engine: str = "luthier",
    vllm_command: str | None = None,
    vllm_wait_s: float = VLLM_WAIT_S,
    limits: Limits | None = None,
    log: TextIO | None = None,
    **how: Any,
) -> int:
    """Serve a run or a model, and further runs or PEFT adapters of the same base, until SIGTERM or Ctrl-C.

    Args:
        host: other than loopback only with keys.
        api_key_file: one key per line.
        engine: `luthier`; `llama.cpp` for a GGUF file (extra `gguf`); `vllm` for one from an environment of its own.
        vllm_command: what starts that one, `vllm` where it is None; vllm_wait_s: that it may take to load the model.
        log: where the lines about requests go; stderr.
        how: as in `open_session`: device, template, on_download.

    Returns:
        the signal that ended it.

    Raises:
        RunError: the extra is missing, keys are missing or unusable, the port is taken; ModelError as `open_session`.
    """
    if engine not in ENGINES:
        raise RunError(Problem("serve.engine", field="--engine", value=engine))
    if vllm_command is not None and engine != "vllm":
        raise RunError(Problem("serve.no_other_command", field="--vllm-command", value=vllm_command))
    extra = (*EXTRA, "xllamacpp") if engine == "llama.cpp" else EXTRA
    lacking = missing(extra)
    if lacking:
        raise RunError(Problem("serve.no_extra", values={"missing": ", ".join(lacking)}))
    keys = Keys(read_keys(Path(api_key_file)) if api_key_file is not None else [])
    if not keys and not is_loopback(host):
        raise RunError(Problem("serve.no_keys", field="--host", value=host))
    listed = [str(each) for each in ([targets] if isinstance(targets, (str, Path)) else targets)]
    shared = host, port, keys, limits or Limits(), log or sys.stderr
    if engine == "llama.cpp":
        file = _gguf([Path(each) for each in listed], how)
        beside = importlib.import_module("luthier.serving.beside")
        return int(beside.run(file, *shared, how.get("device")))
    if engine == "vllm":
        if how.get("device", "auto") != "auto":
            raise RunError(Problem("serve.own_device", field="--device", value=how["device"]))
        vllm = importlib.import_module("luthier.serving.vllm")
        return int(vllm.run(listed, *shared, how, vllm_command or "vllm", vllm_wait_s))
    house = importlib.import_module("luthier.serving.house")
    return int(house.run(listed, *shared, how))


def end_with_stdin() -> None:
    """Have this process told to end, as by SIGTERM, when its standard input is at its end. A program that started it
    holds the other end of a pipe, which is closed however that program ends."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock would be held when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="luthier-stdin", daemon=True).start()


def _gguf(targets: Sequence[Path], how: Mapping[str, Any]) -> Path:
    """The file, where it is one and nothing is asked that it decides by itself."""
    if len(targets) != 1 or how.get("template", "model") != "model":
        reason = "--template" if len(targets) == 1 else str(len(targets))
        raise RunError(Problem("serve.gguf", where=str(targets[0]), values={"reason": reason}))
    try:
        with targets[0].open("rb") as file:
            if file.read(4) == b"GGUF":
                return targets[0].resolve()
            raise RunError(Problem("serve.gguf", where=str(targets[0]), values={"reason": "GGUF"}))
    except OSError as error:
        raise RunError(Problem("serve.gguf", where=str(targets[0]), values={"reason": error.strerror})) from error


def missing(extra: Sequence[str]) -> list[str]:
    """Those of an extra's packages that are not installed."""
    return [name for name in extra if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # kept from being imported
        return False


def read_keys(path: Path) -> list[str]:
    """Raises RunError where it cannot be read or has no key."""
    try:
        keys = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(Problem("serve.key_file", where=str(path), values={"reason": str(error)})) from error
    if not keys:
        raise RunError(Problem("serve.key_file", where=str(path), values={"reason": "-"}))
    return keys
