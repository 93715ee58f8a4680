"""Float32 products by oneDNN are those of torch, up to rounding, in every place that has them; and a run keeps to what
it began with."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from test_decoder import (
    ALL_LINEAR,
    add_adapter,
    assert_equals_transformers,
    assert_same,
    decoder_of,
    documents,
    flat,
    gradients,
    nll,
)
from tiny_models import build, difference
from torch import Tensor

from luthier.engine import backend
from luthier.engine.backend import Backend
from luthier.kernels import products

pytestmark = pytest.mark.skipif(not products.can(), reason="this torch has no oneDNN")
CASES = ("llama_biased", "qwen2_tied", "mistral_window", "qwen3")


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (3, 7, 5), (8, 64, 33), (130, 48, 96)])
def test_each_product(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x, weight, dy = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
    bias, residual, added = torch.randn(outputs), torch.randn(rows, outputs), torch.randn(rows, inputs)
    made: list[list[Tensor]] = []
    for library in ("torch", "onednn"):
        products.use(library)
        onto = added.clone()
        assert products.back(dy, weight, onto) is onto
        plain = products.linear(x, weight), products.linear(x, weight, bias), products.linear(x, weight, bias, residual)
        made.append([*plain, products.back(dy, weight), onto, products.outer(dy, x)])
    exact = [x @ weight.T, x @ weight.T + bias, x @ weight.T + bias + residual, dy @ weight, added + dy @ weight]
    for expected, *found in zip([*exact, dy.T @ x], *made, strict=True):
        assert all(each.shape == expected.shape and difference(each, expected) <= 2e-6 for each in found)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_equal_transformers(name: str) -> None:
    products.use("onednn")
    assert_equals_transformers(name)


@pytest.mark.parametrize("name", CASES)
def test_no_bit_depends_on_what_layers_keep(name: str) -> None:
    decoder = decoder_of(build(name), name)
    add_adapter(decoder, ranks=ALL_LINEAR)
    batch, layers, found = flat(documents()), len(decoder.spec.layers), []
    for library in ("torch", "onednn"):
        products.use(library)
        for policy in ("keep", "drop_mlp", "drop_layer"):
            nll(decoder, batch, adapter="a.b", policies=(policy,) * layers).backward()
            found.append(gradients(decoder))
    assert_same(found[3], found[0])
    for each in found[4:]:
        assert all(torch.equal(each[key], found[3][key]) for key in found[3])


def test_other_dtypes_are_torch_s() -> None:
    products.use("onednn")
    for dtype in (torch.bfloat16, torch.float64):
        x, weight = torch.randn(3, 5).to(dtype), torch.randn(4, 5).to(dtype)
        assert torch.equal(products.linear(x, weight), torch.nn.functional.linear(x, weight))


def test_the_faster_by_a_margin_is_chosen_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {True: 1.0, False: 1.2}
    monkeypatch.setattr(products, "_seconds", lambda onednn, *_: taken[onednn])
    assert products.measured()[0] == "torch", "noise does not choose"
    taken[False] = 1.3
    assert products.measured()[0] == "onednn"
    monkeypatch.setattr(products, "can", lambda: False)
    assert products.measured()[0] == "torch"


def test_what_else_a_machine_does_for_a_moment_does_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else slows every third product of oneDNN where that is the faster one, of torch where they are alike."""
    for slowed in (True, False):
        turns = {True: 0, False: 0}

        def seconds(onednn: bool, *_: Any, slowed: bool = slowed, turns: dict[bool, int] = turns) -> float:
            turns[onednn] += 1
            taken = {True: 1.0, False: 2.2 if slowed else 1.0}[onednn]
            return taken * (2.5 if onednn is slowed and turns[onednn] % 3 == 0 else 1.0)

        monkeypatch.setattr(products, "_seconds", seconds)
        assert products.measured()[0] == ("onednn" if slowed else "torch")
        assert turns == {True: products.REPEATS + 1, False: products.REPEATS + 1}


def test_a_run_keeps_to_what_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_measured", lambda: ("onednn", "measured"))
    chosen = backend.choose("cpu", "float32")
    assert (chosen.float32_products, chosen.float32_reason) == ("onednn", "measured")
    assert backend.choose("cpu", "bfloat16").float32_products == "torch", "nothing to choose"
    monkeypatch.setattr(backend, "_measured", lambda: pytest.fail("measured again"))
    assert backend.restore(chosen.to_json()) == (chosen, [])
    before = {key: value for key, value in chosen.to_json().items() if not key.startswith("float32_")}
    assert backend.restore(before)[0].float32_products == "torch", "an older plan"
    monkeypatch.setattr(products, "can", lambda: False)
    assert backend.restore(chosen.to_json())[1] == ["float32_products"]


def test_what_is_kept_for_other_runs_is_kept_by_library() -> None:
    here = Backend("cpu", "float32", 1, "x", "x")
    assert here.arithmetic != dataclasses.replace(here, float32_products="onednn").arithmetic
    assert here.arithmetic == dataclasses.replace(here, reason="another", float32_reason="another").arithmetic


def test_apply_uses_it() -> None:
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    here = Backend("cpu", "float32", torch.get_num_threads(), "x", "x")
    for library in ("onednn", "torch"):
        dataclasses.replace(here, float32_products=library).apply()
        assert products._applies(x, weight) == (library == "onednn")
