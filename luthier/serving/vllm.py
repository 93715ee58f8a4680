"""vLLM, from an environment of its own, behind the same front: its pin of torch is another than ours.

What goes in: a run or a model, adapters of the same base, and the command that starts vLLM. What comes out: the signal
that ended the server. The template is the one of training, as a file; texts are made ids here; stop tokens go with each
request. Tested against a stand-in for vLLM, not against vLLM.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import httpx2

from luthier.arch import adapter_config, families
from luthier.config import load as config_load
from luthier.data.templates import Renderer
from luthier.errors import EngineFailed, ModelError, Problem, RunError
from luthier.runs import manifest
from luthier.runs.store import RunFolder
from luthier.serving.beside import answer
from luthier.serving.door import Keys
from luthier.serving.limits import Limits
from luthier.serving.listen import bind
from luthier.serving.relay import Dialect, Upstream
from luthier.serving.tools import Style, style_of
from luthier.serving.voices import public
from luthier.session import (
    adapter_at,
    adapter_name,
    find_model,
    hold_to_base,
    hold_to_renderer,
    output_folder,
    own_template,
    run_base,
    run_path,
    writes,
)
from luthier.text import say

LAST = 20
"""Lines of its log that are shown where it dies."""
LOOK_S = 0.2
"""Between two looks whether it answers yet."""
END_S = 15.0
"""That it is given to end by itself."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the greatest rank of an adapter."""
PARSERS: dict[Style, str] = {"hermes": "hermes", "llama3": "llama3_json"}
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""Nothing is reported to anybody."""


@dataclasses.dataclass(frozen=True)
class Offer:
    """What is served. folder: of the model, which clients call `name`; adapters: name -> folder."""

    folder: Path
    name: str
    adapters: Mapping[str, Path]
    renderer: Renderer

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.adapters, self.name)


def offer(targets: Sequence[str], how: Mapping[str, Any]) -> Offer:
    """Find all that is served, and hold adapters to the base and the template; no weights are loaded here.

    Raises:
        ModelError, RunError: as `open_session` and `Session.load`; an adapter has weights that vLLM does not apply.
    """
    adapters: dict[str, Path] = {}
    fingerprint: Mapping[str, Any] | None = None
    path = run_path(targets[0])
    if path is None:
        base, renderer = find_model(targets[0], how.get("template", "model"), how.get("on_download"))
        writes(base.arch, targets[0])
        folder, name = base.folder, public(targets[0])
    else:
        with RunFolder.open(path).at_home() as run:
            own_template(run, how.get("template", "model"))
            output = output_folder(run).resolve()
            renderer = Renderer.load(output)
            if output.name == "model":
                writes(families.read(output), targets[0])
                folder, name = output, run.name
            else:
                base = run_base(run)
                writes(base.arch, targets[0])
                folder, name = base.folder.resolve(), public(run.config().model.path)
                fingerprint = base.fingerprint
                adapters[run.name] = output
    for target in targets[1:]:
        run_folder, own = adapter_at(target)
        fingerprint = fingerprint or manifest.weights_fingerprint(folder)
        hold_to_base(run_folder, fingerprint, name)
        hold_to_renderer(own, renderer, name)
        called = adapter_name(target)
        if called in (name, *adapters):
            raise RunError(Problem("serve.name_taken", value=called))
        adapters[called] = own.resolve()
    for own in adapters.values():
        more = adapter_config.beyond_low_rank(own)
        if more:
            raise ModelError(Problem("serve.vllm_adapter", where=str(own), values={"more": ", ".join(more)}))
    return Offer(folder.resolve(), name, adapters, renderer)


def command_of(given: Offer, command: str, port: int, template: Path | None, limits: Limits) -> list[str]:
    """What starts vLLM."""
    made = [*shlex.split(command), "serve", str(given.folder), "--host", "127.0.0.1", "--port", str(port)]
    made += ["--served-model-name", given.name, "--generation-config", "vllm"]
    made += ["--max-num-seqs", str(limits.sequences)]
    if template is not None:
        made += ["--chat-template", str(template), "--chat-template-content-format", "string"]
    if style := style_of(given.renderer.template_source):
        made += ["--enable-auto-tool-choice", "--tool-call-parser", PARSERS[style]]
    if given.adapters:
        most = max(adapter_config.greatest_rank(folder) for folder in given.adapters.values())
        made += ["--enable-lora", "--max-lora-rank", str(next((rank for rank in RANKS if rank >= most), most))]
        made += ["--lora-modules", *(f"{name}={folder}" for name, folder in given.adapters.items())]
    return made


class Child:
    """The process. It has a group of its own: Ctrl-C is for the front, which lets it finish.

    Raises:
        RunError: there is no such command.
    """

    def __init__(self, command: Sequence[str], more: Mapping[str, str]) -> None:
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                env=config_load.handed_on(more),
            )
        except OSError as error:
            values = {"reason": error.strerror or str(error)}
            raise RunError(Problem("serve.no_vllm", value=command[0], values=values)) from error
        self._lines: collections.deque[str] = collections.deque(maxlen=LAST)
        self._reader = threading.Thread(target=self._read, name="luthier-vllm-log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # it has to be read, or it would wait for room to write
            self._lines.append(line.rstrip())

    @property
    def last_lines(self) -> str:
        if self.process.poll() is not None:
            self._reader.join(1)
        return "\n        ".join(self._lines) or "-"

    def end(self) -> None:
        """First asked, then made to end, with all that it started."""
        try:
            self._tell(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
        finally:  # also where a second signal ends the waiting
            self._tell(signal.SIGKILL)
            self.process.wait()
        self._reader.join(1)

    def _tell(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@contextlib.contextmanager
def started(given: Offer, command: str, limits: Limits, wait_s: float) -> Iterator[tuple[Upstream, Child]]:
    """The process, once it answers.

    Raises:
        RunError: there is no such command. EngineFailed: it has ended, or does not answer in time.
    """
    key, port = secrets.token_urlsafe(24), _free_port()
    with tempfile.TemporaryDirectory(prefix="luthier-vllm-") as place, _terminable():
        template = Path(place) / "chat_template.jinja" if given.renderer.template_source else None
        if template is not None:
            template.write_text(given.renderer.template_source, encoding="utf-8")
        child = Child(command_of(given, command, port, template, limits), {**QUIET, "VLLM_API_KEY": key})
        try:
            address = f"http://127.0.0.1:{port}"
            _await(child, address, key, given.names, wait_s)
            dialect = Dialect(seeds=2**63, more={"stop_token_ids": list(given.renderer.stop_ids)})
            tools = style_of(given.renderer.template_source) is not None
            yield Upstream(address, key, given.names, dialect, given.renderer.prompt_text, tools), child
        finally:
            child.end()


def _await(child: Child, address: str, key: str, names: Sequence[str], wait_s: float) -> None:
    """Until it is there with all names; somebody else at its port is not."""
    until = time.monotonic() + wait_s
    with httpx2.Client(base_url=address, timeout=5, trust_env=False) as client:
        while True:
            if child.process.poll() is not None:
                raise EngineFailed(Problem("serve.engine_ended", values={"lines": child.last_lines}))
            with contextlib.suppress(httpx2.HTTPError, ValueError, KeyError, TypeError):
                if client.get("/health").status_code == 200:
                    got = client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).json()
                    if set(names) <= {each["id"] for each in got["data"]}:
                        return
            if time.monotonic() > until:
                values = {"wait": f"{wait_s:g}", "lines": child.last_lines}
                raise EngineFailed(Problem("serve.engine_late", values=values))
            time.sleep(LOOK_S)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds, as Ctrl-C does, so that nothing is left running where it comes before the front is there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    kept = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def run(  # noqa: PLR0913  as `house.run`
    targets: Sequence[str],
    host: str,
    port: int,
    keys: Keys,
    limits: Limits,
    log: TextIO,
    how: Mapping[str, Any],
    command: str,
    wait_s: float,
) -> int:
    with bind(host, port) as listener:
        given = offer(targets, how)
        with started(given, command, limits, wait_s) as (upstream, child):
            ended_by = answer(upstream, child.process, listener, keys, limits, log, say("serve.by_vllm"))
            if not ended_by:
                raise EngineFailed(Problem("serve.engine_ended", values={"lines": child.last_lines}))
        print(say("serve.ended"), file=log, flush=True)
        return ended_by
