"""The plan names what runs, for every operation and device."""

from __future__ import annotations

import json

import pytest

from luthier.kernels import select


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_operation_is_named_with_a_reason(device: str) -> None:
    chosen = json.loads(json.dumps(select.choose(device).to_json()))
    assert chosen.keys() == {"blocks", "attention", "head"}
    assert all(entry["implementation"] and entry["reason"] for entry in chosen.values())
