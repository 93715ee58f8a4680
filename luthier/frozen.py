"""Whether the frozen bottom of a model is computed once and kept, and where.

What goes in: the recipe, the plan, and the data. What comes out: how many layers, and the store of what they make of
each sequence, below LUTHIER_CACHE and within its bound. The decision stands in `plan.json`, because a sequence that
goes through the bottom by itself is rounded otherwise than in a pack; a resume obeys it whatever the store still holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.arch import count
from luthier.arch.count import AnyTune
from luthier.arch.spec import Architecture
from luthier.config.load import Environment
from luthier.config.schema import Online, Qlora, RunConfig
from luthier.data import bottoms, cache
from luthier.data.bottoms import Bottoms
from luthier.data.sequences import Sequences
from luthier.data.stream import Stream
from luthier.disk import free_bytes
from luthier.engine.backend import Backend
from luthier.errors import Problem
from luthier.models.bottom import Bottom
from luthier.models.decoder import Decoder
from luthier.planning import Plan
from luthier.runs.manifest import Manifest

DISK_SHARE = 0.5
"""Of the disk's free space, at most so much is filled: checkpoints and other people's files need room too. Chosen, not
tuned."""


def layers(
    config: RunConfig, arch: Architecture, tune: AnyTune, rows: Sequence[Sequences], plan: Plan, here: Environment
) -> int:
    """How many of the lowest layers are to be computed once per sequence; 0: none.

    They are those below the lowest that trains: none of them has an adapter, so nothing there is drawn at random. It
    pays where rows come again, and only as long as what is made of all of them can be kept: a part would be read and
    thrown away in turns. The last layer is never among them, because it is computed for scored rows only.

    Args:
        rows: those that train first, then those held out.
    """
    if isinstance(config.method, Online):
        return 0  # no sequence comes again
    depth = min(count.first_trained_layer(arch, tune), len(arch.spec.layers) - 1)
    if plan.saved is not None:
        return min(int(plan.saved.get("bottom_layers", 0)), depth)
    steps = Stream.of(rows[0], config, plan.budgets)
    if depth == 0 or steps.num_steps <= steps.steps_per_epoch:
        return 0
    need_bytes = _need_bytes(arch, plan.backend, rows)
    fits = need_bytes <= min(here.cache_bytes, DISK_SHARE * free_bytes(here.cache_dir))
    return depth if fits else 0


def told(arch: Architecture, plan: Plan, rows: Sequence[Sequences]) -> list[Problem]:
    """What to say about it."""
    if not plan.bottom_layers:
        return []
    values = {"layers": plan.bottom_layers, "all": len(arch.spec.layers)}
    return [Problem("engine.bottom_kept", values={**values, "size": _need_bytes(arch, plan.backend, rows) / 1e6})]


def opened(
    decoder: Decoder,
    tune: AnyTune,
    given: Manifest,
    plan: Plan,
    rows: Sequence[Sequences],
    here: Environment,
    ranks: int,
) -> Bottom | None:
    """The bottom of the run's model, with what is known of it; None where it is computed with the rest.

    Args:
        given: says which weights and which code.
        ranks: processes that share the room.
    """
    if not plan.bottom_layers:
        return None
    folder = bottoms.folder_of(here.cache_dir, _facts(decoder.arch, tune, given, plan))
    about = {"model": str(given.base["path"]), "layers": plan.bottom_layers, "dtype": plan.backend.dtype}
    token_bytes = decoder.spec.d * plan.backend.compute_dtype.itemsize
    need_bytes = _need_bytes(decoder.arch, plan.backend, rows)
    room_bytes = cache.room(here.cache_dir, here.cache_bytes, folder, need_bytes) // ranks
    return Bottom(decoder, plan.bottom_layers, Bottoms(folder, token_bytes, room_bytes, about))


def _facts(arch: Architecture, tune: AnyTune, given: Manifest, plan: Plan) -> Mapping[str, Any]:
    """All that a value depends on besides its sequence, the bits of its rounding included."""
    return model_facts(arch, tune, given, plan) | {"layers": plan.bottom_layers}


def model_facts(arch: Architecture, tune: AnyTune, given: Manifest, plan: Plan) -> dict[str, Any]:
    """The base as it is computed with, adapters aside."""
    quantised = [tune.base, tune.double_quant] if isinstance(tune, Qlora) else None
    return {
        **plan.backend.arithmetic,
        "base": [given.base.get("config_sha256"), given.base.get("sha256")],
        "spec": repr(arch.spec),
        "quantised": quantised,
        "versions": dict(given.versions),
        "source": given.code["source_sha256"],
    }


def _need_bytes(arch: Architecture, backend: Backend, rows: Sequence[Sequences]) -> int:
    tokens = sum(int(each.computed.sum()) for each in rows)
    return tokens * arch.spec.d * backend.compute_dtype.itemsize
