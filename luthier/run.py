"""A run, for Python.

What goes in: a run folder. What comes out: its facts, its receipt, and answers from the tuned model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.answering import Answered, answer_file
from luthier.config.schema import RunConfig
from luthier.export import merge as merging
from luthier.export import push as pushing
from luthier.export.gguf import export as gguf_export
from luthier.export.push import Pushed, What
from luthier.generate import Sampling
from luthier.runs import receipt as receipts
from luthier.runs.events import Event
from luthier.runs.receipt import Receipt
from luthier.runs.store import RunFolder
from luthier.session import Conversation, Session, open_judge, open_session


class Run:
    """What `luthier.train` returns; also made from the path of any run.

    Attributes:
        stages: the runs of all stages by name, in order, where it is the last one of a recipe with stages that was
            just trained; else empty.

    Raises:
        RunError: there is no run at the path.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = RunFolder.open(path)
        self.stages: Mapping[str, Run] = {}

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> str:
        """running, finished, interrupted, failed or died."""
        return self.folder.state

    @property
    def config(self) -> RunConfig:
        """The recipe as run."""
        return self.folder.config()

    @property
    def events(self) -> list[Event]:
        """Everything that happened, in order."""
        return self.folder.events()

    @property
    def receipt(self) -> Receipt:
        """The receipt as the folder stands."""
        return receipts.build(self.folder)

    @property
    def adapter_path(self) -> Path | None:
        """Folder of the adapter in PEFT's format; None where whole weights were tuned or nothing is finished."""
        path = self.path / "adapter"
        return path if path.is_dir() else None

    @property
    def model_path(self) -> Path | None:
        """Folder of the tuned model; None where an adapter was trained or nothing is finished."""
        path = self.path / "model"
        return path if path.is_dir() else None

    @cached_property
    def session(self) -> Session:
        """The tuned model, loaded at the first use and kept."""
        return open_session(self.path)

    def chat(self, conversation: Conversation, **sampling: Any) -> str:
        """One answer of the tuned model.

        Args:
            conversation: a question, or messages with `role` and `content`.
            sampling: fields of `luthier.Sampling`: max_tokens, temperature, top_p, top_k, repetition_penalty, seed.
        """
        return self.session.answer(conversation, Sampling(**sampling))

    def merge(self, out: Path | str | None = None, *, force: bool = False) -> Path:
        """Write adapter and base as one ordinary model folder, held against the tuned model; see `luthier.merge`.

        Args:
            out: None takes the run's own name with `-merged`.
            force: write it also where it does not agree; the receipt in the folder says so.
        """
        return merging.merge(self.path, out, force=force).path

    def export(self, gguf: Sequence[str], out: Path | str | None = None, *, check: bool = True) -> Path:
        """Write GGUF files of the tuned model, each held to it in llama.cpp; the receipt in the folder says how.

        Args:
            gguf: types, such as `q4_k_m`, `q8_0`, `f16`.
            out: None takes the run's own name with `-gguf`.
            check: whether llama.cpp is asked at all.
        """
        return gguf_export.export(self.path, gguf, out, check=check).path

    def push(
        self, repo: str, *, what: What | None = None, public: bool = False, add: bool = False, dry_run: bool = False
    ) -> Pushed:
        """Send the result to a Hugging Face repository, with the token of `HF_TOKEN` or of `hf auth login`.

        Args:
            repo: user/name; made where there is none, private.
            what: adapter, model (also one merged from this run) or gguf; None takes the run's result.
            public: make a public repository, or send to one.
            add: send also to a repository that holds other files.
            dry_run: look only; the answer says what would be sent.
        """
        return pushing.push(self.path, repo, what=what, public=public, add=add, dry_run=dry_run)

    def generate(
        self, source: Path | str, target: Path | str, *, n: int = 1, judge: Path | str | None = None, **sampling: Any
    ) -> Answered:
        """Answer every row of a file into another, as `luthier generate` does; goes on where it was stopped.

        Args:
            n: answers to each row.
            judge: a reward model that puts the best of them first.
        """
        judging = open_judge(judge) if judge is not None else None
        return answer_file(self.session, Path(source), Path(target), Sampling(**sampling), n=n, judge=judging)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.state})"
