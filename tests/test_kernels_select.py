"""The plan names what runs, for every operation and device, and what it names is what is called."""

from __future__ import annotations

import json

import pytest
import torch

from luthier.kernels import chained, flash, select


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_operation_is_named_with_a_reason(device: str) -> None:
    chosen = json.loads(json.dumps(select.choose(device, torch.bfloat16).to_json()))
    assert chosen.keys() == {"blocks", "attention", "head"}
    assert all(entry["implementation"] and entry["reason"] for entry in chosen.values())


def test_without_a_device_that_ran_it_triton_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_refused", lambda: "it said no")
    assert select.choose("cuda", torch.bfloat16).to_json()["head"] == {
        "implementation": "torch",
        "reason": "it said no",
    }
    monkeypatch.setattr(select, "_refused", lambda: None)
    assert select.choose("cuda", torch.bfloat16).to_json()["head"]["implementation"] == "triton"


def test_one_table_serves_every_chain_and_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 3)
    usual = select.chains(x)
    assert usual is (select.PLAIN if chained.library() is None else select.COMPILED)
    monkeypatch.setattr(select, "_triton", lambda: "triton's")
    with select.using("triton"):
        assert select.chains(x) == "triton's" and select.chains(x.double()) is select.PLAIN
        assert select.choose("cpu", torch.float32).to_json()["blocks"] == {
            "implementation": "triton",
            "reason": "asked for",
        }
        with select.using("torch"):
            assert select.chains(x) is select.PLAIN
    assert select.chains(x) is usual


def test_flash_attention_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "_refused", lambda dtype: None)
    chosen = select.choose("cuda", torch.bfloat16).to_json()["attention"]
    assert chosen["implementation"].startswith("torch FlashAttention")
    for dtype, width in ((torch.float32, 64), (torch.bfloat16, 288), (torch.float16, 20)):
        assert flash.refusal(dtype, width)
    assert flash.refusal(torch.bfloat16, 256) is None
    monkeypatch.setattr(flash, "_refused", lambda dtype: "it said no")
    assert select.choose("cuda", torch.bfloat16).to_json()["attention"]["reason"] == "it said no"
