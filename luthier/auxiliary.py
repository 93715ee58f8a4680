"""Auxiliary models: a teacher, a reference, reward models, which lie frozen beside the one that trains.

What goes in: the recipe. What comes out: which they are, by their `config.json` alone, and the bytes that they take,
for the planner. Torch-free.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from luthier import moments
from luthier.arch import adapter_config, count, families, quantised
from luthier.arch.count import AnyTune
from luthier.arch.quantised import Quantised
from luthier.arch.spec import Architecture
from luthier.arch.values import is_valued, valued
from luthier.config import load as config_load
from luthier.config.schema import Distill, Lora, Method, ModelSection, Online, Qlora, Reward, RunConfig
from luthier.holdings import FLOAT32_BYTES, Beside
from luthier.models import hub
from luthier.runs.store import RunFolder

RUNS = (Path(), Path("runs"))
"""Where runs are found by their names: `luthier.session.run_path`."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

Locate = Callable[[ModelSection], Path]
"""The folder with the configuration of a model that is no run."""


class Frozen(NamedTuple):
    """A model that does not train.

    adapter: the one that applies to it, which is kept in float32; quantise: how its weights are kept; compute_bytes: of
    a number on each kind of device, where that is not as many as the trained model's.
    """

    arch: Architecture
    adapter: Lora | None = None
    quantise: Qlora | None = None
    compute_bytes: Mapping[str, int] = MappingProxyType({})

    def num_bytes(self, compute_bytes: int, kind: str) -> int:
        """On a kind of device, with the trained model's numbers of so many bytes."""
        kept = self._quantised
        own = {} if self.adapter is None else count.trained_shapes(self.arch, self.adapter)
        dense = self.arch.num_parameters - (kept.parameters if kept else 0)
        held = dense * self.compute_bytes.get(kind, compute_bytes) + (kept.total if kept else 0)
        return held + FLOAT32_BYTES * sum(map(math.prod, own.values()))

    def dense_bytes(self, compute_bytes: int, kind: str) -> int:
        """What one of its quantised weights takes while a matmul needs it; 0 where none is quantised."""
        kept = self._quantised
        return kept.working_bytes(self.compute_bytes.get(kind, compute_bytes)) if kept is not None else 0

    @property
    def _quantised(self) -> Quantised | None:
        return quantised.quantised(self.arch, self.quantise) if self.quantise is not None else None

    def feature_bytes(self, compute_bytes: int, kind: str) -> int:
        """Most per token in a pass through its layers, which keeps nothing."""
        return moments.feature_bytes(self.arch.spec, self.compute_bytes.get(kind, compute_bytes))

    def judged_bytes(self, compute_bytes: int, kind: str) -> int:
        """The same with the angles of its tokens, which nobody else needs."""
        size = self.compute_bytes.get(kind, compute_bytes)
        return self.feature_bytes(compute_bytes, kind) + moments.angle_bytes(self.arch.spec, size)


class Models(NamedTuple):
    """teacher: the model that is learnt from; judges: those that give rewards."""

    teacher: Frozen | None = None
    judges: tuple[Frozen, ...] = ()


def here(model: ModelSection) -> Path:
    """Asks a hub for a configuration that is not on this machine.

    Raises:
        ModelError: there is no such model.
    """
    return hub.resolve(model.path, model.revision, config_load.environment(), weights=False).folder


def find(config: RunConfig, runs: Sequence[Path] = RUNS, locate: Locate = here) -> Models:
    """Those that a recipe names.

    Args:
        runs: folders in which a run may be.

    Raises:
        ModelError: one of them is not there, or of no known family.
    """
    method = config.method
    teacher = _teacher(method.teacher, runs, locate) if isinstance(method, Distill) else None
    asked = method.judges if isinstance(method, Online) else ()
    return Models(teacher, tuple(_judge(name, runs, locate) for name in asked))


def _teacher(asked: str, runs: Sequence[Path], locate: Locate) -> Frozen:
    """As `luthier.teaching` loads it: dense, in the trained model's dtype."""
    run = _run(asked, runs)
    return Frozen(families.read(locate(ModelSection(path=asked)))) if run is None else _of_run(run, locate)


def _judge(asked: str, runs: Sequence[Path], locate: Locate) -> Frozen:
    """As `luthier.session.open_judge` loads it beside a model that trains: a run in the dtype that it was trained in
    (`luthier.engine.backend.Backend.beside`). A model without a scalar head is the base of a judge that an earlier
    stage is still to train."""
    run = _run(asked, runs)
    if run is None:
        arch = families.read(locate(ModelSection(path=asked)))
        return Frozen(arch if is_valued(arch) else valued(arch))
    found, tune = _of_run(run, locate), run.config().tune
    own = run.read_json("plan.json")["backend"]
    quantise = tune if found.adapter is not None and isinstance(tune, Qlora) else None
    kinds = {"cuda": own["dtype"], "cpu": own["dtype"] if own["device"] == "cpu" else "float32"}
    return found._replace(quantise=quantise, compute_bytes={kind: DTYPE_BYTES[each] for kind, each in kinds.items()})


def _run(asked: str, runs: Sequence[Path]) -> RunFolder | None:
    places = (folder / asked for folder in runs)
    return next((RunFolder(path) for path in places if os.path.isfile(path / "recipe.yaml")), None)


def _of_run(run: RunFolder, locate: Locate) -> Frozen:
    """What a run left: an adapter on its base, or a whole model."""
    if not run.has("adapter"):
        return Frozen(families.read(run.path / "model"))
    config = run.config()
    arch = families.read(locate(config.model.model_copy(update={"path": run.base})))
    arch = valued(arch) if isinstance(config.method, Reward) and not is_valued(arch) else arch
    return Frozen(arch, adapter_config.read_settings(run.path / "adapter", arch))


def size(arch: Architecture, tune: AnyTune, method: Method, models: Models, compute_bytes: int, kind: str) -> Beside:
    """What they take beside a model of numbers of `compute_bytes` on a kind of device.

    A teacher speaks of every token of a micro-batch, and what it says is kept: its last hidden state, and where it says
    that of its k most likely tokens, an id and a log-probability for each. A reference of the policy's own answers is
    the policy itself without its adapter; a copy of the adapter, in float32, where that goes on from another run or has
    rows for new tokens; or a second model where weights of the base train. Methods of judged answers ask theirs before
    step 1, when it is the model itself.
    """
    if isinstance(method, Distill) and models.teacher is not None:
        said = 0 if method.top_k is None else 12 * (method.top_k + 1)
        return Beside(
            teacher=models.teacher.num_bytes(compute_bytes, kind),
            feature_bytes=models.teacher.feature_bytes(compute_bytes, kind),
            row_bytes=models.teacher.arch.spec.d * compute_bytes + said,
            lesson_copies=moments.LESSON_COPIES - (method.top_k is not None),
        )
    if not isinstance(method, Online):
        return Beside()
    return Beside(
        reference=_reference(arch, tune, compute_bytes) if method.kl else 0,
        judges=sum(each.num_bytes(compute_bytes, kind) for each in models.judges),
        feature_bytes=moments.feature_bytes(arch.spec, compute_bytes),
    )


def _reference(arch: Architecture, tune: AnyTune, compute_bytes: int) -> int:
    if not isinstance(tune, Lora):
        return arch.num_parameters * compute_bytes
    copied = tune.from_ is not None or arch.new_ids
    return FLOAT32_BYTES * sum(map(math.prod, count.trained_shapes(arch, tune).values())) if copied else 0
