"""Rotary frequencies against transformers, the rotation against its definition and its own adjoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from luthier.arch.families import FAMILIES
from luthier.arch.spec import Rope
from luthier.kernels import reference, rotary

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-mscale": {
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
    },
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables_equal_those_of_transformers(name: str, dtype: torch.dtype) -> None:
    kind = name.split("-")[0]
    assert kind == "default" or kind in ROPE_INIT_FUNCTIONS
    given = {"rope_type": kind, "rope_theta": 500_000.0, **KINDS[name]}
    config = LlamaConfig(
        vocab_size=8, hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, rope_parameters=given,
    )  # fmt: skip
    positions = torch.tensor([0, 1, 2, 17, 63, 64, 200, 255])
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=dtype), positions[None])
    rope = FAMILIES["llama"](config.to_dict(), "config.json").spec.layers[0].mixer.rope
    assert rope is not None
    cos_NE, sin_NE = rotary.tables(rope, positions, 32, dtype)
    ours = (cos_NE, torch.cat((-sin_NE[:, :16], sin_NE[:, 16:]), -1))
    # One unit in the last place of float32 in a frequency, times the position.
    bound = 255 * 2**-23 if dtype == torch.float32 else 2**-8
    for mine, theirs in zip(ours, (cos, sin), strict=True):
        assert float((mine - theirs[0]).abs().max()) <= bound


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [8, 6])
def test_rotation_is_its_definition_and_backward_its_adjoint(interleaved: bool, dim: int) -> None:
    torch.manual_seed(0)
    rope = Rope("default", 100.0, dim, interleaved, scaling=(("attention_factor", 1.5),))
    positions = torch.arange(5)
    tables = rotary.tables(rope, positions, 8, torch.float64)
    angle = positions[:, None] * 100.0 ** (-torch.arange(0, dim, 2) / dim)
    cos, sin = (1.5 * angle.cos()).double(), (1.5 * angle.sin()).double()
    x = torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(5, 3, 8).double()
    expected = reference.rotate(x, cos, sin, interleaved)
    close = {"atol": 1e-6, "rtol": 1e-6}  # the tables are float32
    torch.testing.assert_close(rotary.rotate(x.detach(), *tables, rope), expected, **close)
    (dx,) = torch.autograd.grad(expected, x, dy)
    torch.testing.assert_close(rotary.rotate(dy, *tables, rope, adjoint=True), dx, **close)
