"""The teacher of a recipe (`method: distill`).

What goes in: a run, a folder or a hub id, and the student's renderer. What comes out: the teacher found, held to the
student's tokens, its fingerprint for the manifest, and, once there is a plan, ready to be asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from luthier.arch import families
from luthier.arch.spec import DecoderSpec
from luthier.config.load import Environment
from luthier.config.schema import Distill, ModelSection, RunConfig
from luthier.data import bottoms, cache, templates
from luthier.data.bottoms import Bottoms
from luthier.data.sequences import Sequences
from luthier.engine.backend import Backend
from luthier.errors import ModelError, Problem
from luthier.models import adapters, weights
from luthier.models.decoder import Decoder
from luthier.models.hub_files import Progress
from luthier.models.teacher import Teacher, row_bytes
from luthier.runs import manifest
from luthier.runs.store import RunFolder
from luthier.session import ADAPTER, Base, find_base, output_folder, run_base, run_path, writes


@dataclasses.dataclass(frozen=True)
class Found:
    """asked: as the recipe names it; adapter: the folder of the one that applies to the base, None without."""

    asked: str
    base: Base
    adapter: Path | None

    def facts(self) -> dict[str, Any]:
        """{path, sha256, config_sha256, adapter}, for the manifest."""
        made = self.base.fingerprint or manifest.weights_fingerprint(self.base.folder)
        own = manifest.parent_fingerprint(self.adapter)["sha256"] if self.adapter is not None else None
        whole = {"path": self.asked, "commit": self.base.commit, "adapter": own}
        return {**whole, "sha256": made["sha256"], "config_sha256": made["config_sha256"]}


def find(config: RunConfig, on_download: Progress | None = None) -> Found | None:
    """The teacher that a recipe asks for.

    Raises:
        ModelError: it is not there; RunError: the run that is meant has no result.
    """
    if not isinstance(config.method, Distill):
        return None
    asked = config.method.teacher
    path = run_path(asked)
    if path is None:
        return Found(asked, find_base(ModelSection(path=asked), on_download), None)
    run = RunFolder(path)
    folder = output_folder(run)
    if folder.name == "adapter":
        return Found(asked, run_base(run), folder)
    return Found(asked, Base(str(folder), folder, None, None, families.read(folder)), None)


def hold_to(found: Found | None, student: DecoderSpec, renderer: templates.Renderer) -> None:
    """Raises ModelError where teacher and student do not have the same tokens, or one of them changes its logits once
    they are made."""
    if found is None:
        return
    writes(found.base.arch, found.asked)
    for spec in (found.base.arch.spec, student):
        if spec.logit_softcap is not None or spec.logit_scale != 1:
            values = {"family": spec.family}
            raise ModelError(Problem("engine.teacher_head", field="method.teacher", value=found.asked, values=values))
    if templates.same_tokenizer(renderer, found.adapter or found.base.folder):
        return
    values = {"folder": str(found.base.folder)}
    raise ModelError(Problem("engine.teacher_tokens", field="method.teacher", value=found.asked, values=values))


def opened(
    found: Found,
    config: RunConfig,
    student: Decoder,
    chosen: Backend,
    facts: dict[str, Any],
    rows: Sequence[Sequences],
    here: Environment,
    ranks: int,
) -> Teacher:
    """The teacher as the run asks it; its weights are loaded at the first question that nothing on disk answers.

    Args:
        facts: of the manifest: `Found.facts`, versions and code.
        rows: all that is computed.
        ranks: processes that share the cache's room.
    """
    method = config.method
    assert isinstance(method, Distill)

    def load() -> tuple[Decoder, str | None]:
        placed: dict[str, Any] = {"dtype": chosen.compute_dtype, "device": chosen.device}
        decoder = weights.load(found.base.folder, found.base.arch, **placed)
        if found.adapter is not None:
            adapters.load_adapter(decoder, found.base.arch, found.adapter, ADAPTER)
        return decoder.requires_grad_(False), ADAPTER if found.adapter is not None else None

    width = min(student.spec.vocab, found.base.arch.spec.vocab)
    if method.top_k is None:
        return Teacher(load, chosen.device)
    kept = _kept(found, method, chosen, facts | {"width": width}, rows, here, ranks)
    return Teacher(load, torch.device(chosen.device), min(method.top_k, width), method.temperature, width, kept)


def _kept(
    found: Found,
    method: Distill,
    chosen: Backend,
    facts: dict[str, Any],
    rows: Sequence[Sequences],
    here: Environment,
    ranks: int,
) -> Bottoms:
    """Where the answers lie: a folder for all that they depend on besides the sequence."""
    assert method.top_k is not None
    token_bytes = row_bytes(min(method.top_k, facts["width"]))
    depends = {
        **facts,
        **chosen.arithmetic,
        "teacher": {part: facts["teacher"][part] for part in ("sha256", "config_sha256", "adapter")},
        "top_k": method.top_k,
        "temperature": method.temperature,
    }
    folder = bottoms.folder_of(here.cache_dir, depends)
    need_bytes = token_bytes * sum(int(each.computed.sum()) for each in rows)  # at most: not all are learnt
    room_bytes = cache.room(here.cache_dir, here.cache_bytes, folder, need_bytes) // ranks
    about = {"model": found.asked, "layers": len(found.base.arch.spec.layers), "dtype": chosen.dtype}
    return Bottoms(folder, token_bytes, room_bytes, about)
