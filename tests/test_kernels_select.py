"""The plan names what runs, for every operation and device, and what it names is what is called."""

from __future__ import annotations

import json

import pytest
import torch
from test_kernels_attention import segments_of

from luthier.kernels import chained, flash, select, swept, tiled
from luthier.kernels.attention import Attend, Layout


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


@pytest.mark.parametrize(
    ("width", "capped", "dtype"),
    [(64, False, torch.float32), (64, False, torch.bfloat16), (72, False, torch.float32), (64, True, torch.bfloat16)],
)
def test_what_is_named_for_a_cpu_is_what_attends(
    width: int, capped: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for module, name in ((swept, "swept"), (tiled, "tiled")):
        real = module.attend
        monkeypatch.setattr(module, "attend", lambda *given, real=real, name=name: called.append(name) or real(*given))
    layout = Layout.of(segments_of([(5, -1), (3, -1)]))
    q, k, v = (torch.ones(8, heads, width, dtype=dtype) for heads in (2, 1, 1))
    Attend(layout)(q, k, v, softcap=30.0 if capped else None)
    named = select.choose("cpu", dtype, [select.Heads(width, capped)] * 2).to_json()["attention"]
    assert {select.IN_WORDS[each] for each in called} == {named["implementation"]}
    usual = select.attention("cpu", dtype, select.Heads())
    both = select.choose("cpu", dtype, [select.Heads(), select.Heads(width, capped)]).to_json()["attention"]
    assert (";" in both["implementation"]) is (called[0] != usual[0])
    assert (";" in both["reason"]) is (named["reason"] != usual[1])


def test_flash_attention_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "_refused", lambda dtype: None)
    chosen = select.choose("cuda", torch.bfloat16).to_json()["attention"]
    assert chosen["implementation"].startswith("torch FlashAttention")
    for dtype, width in ((torch.float32, 64), (torch.bfloat16, 288), (torch.float16, 20)):
        assert flash.refusal(dtype, width)
    assert flash.refusal(torch.bfloat16, 256) is None
    monkeypatch.setattr(flash, "_refused", lambda dtype: "it said no")
    assert select.choose("cuda", torch.bfloat16).to_json()["attention"]["reason"] == "it said no"
