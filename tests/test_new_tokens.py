"""New tokens: rows of their own beside an adapter, held against PEFT; in the matrices where everything trains."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_adapters import load, problem_ids, shake, write_merged
from test_decoder import flat, nll
from tiny_models import BOUND, TINY, TOKENS, difference, logits_of, reference_logits, save
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier.arch import families
from luthier.arch.count import count, first_trained_layer
from luthier.arch.spec import Architecture
from luthier.arch.structure import structure
from luthier.arch.tokens import beside, widened
from luthier.config.schema import Full, Lora
from luthier.errors import ConfigError, ModelError
from luthier.kernels import head
from luthier.models import adapters, weights

PLACES: dict[str, tuple[int, ...]] = {"padding": (44, 46), "beyond": (48, 49, 50), "both": (46, 47, 48)}
"""Ids in an embedding of 48 rows, of which a tokenizer uses fewer."""
CASES = [(family, place) for family in ("llama", "qwen2_tied") for place in PLACES]
LORA = Lora(rank=4, targets=("q_proj", "down_proj"))


def with_new(ids: tuple[int, ...]) -> list[int]:
    return [*TOKENS[:4], *ids, *TOKENS[4:8], ids[0]]


def peft_of(base: Path, adapter: Path, ids: tuple[int, ...]) -> Any:
    """As a user of PEFT would load it: a base that is too short is made longer first."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if max(ids) >= 48:
        model.resize_token_embeddings(max(ids) + 1)
    return PeftModel.from_pretrained(model, adapter).eval()


# ------------------------------------------------------------------------------------------------ the head


@pytest.mark.parametrize("ids", [(3, 7), (3, 11, 12), (11,)])
@pytest.mark.parametrize("mode", ["linear", "unit", "recompute"])
def test_rows_in_place_of_the_heads_own(mode: Any, ids: tuple[int, ...]) -> None:
    """Against torch on the assembled matrix, in float64."""
    torch.manual_seed(0)
    make = {"dtype": torch.float64, "requires_grad": True}
    x, values = torch.randn(6, 5, **make), torch.randn(len(ids), 5, **make)
    weight = torch.randn(11, 5, dtype=torch.float64)
    if mode == "unit":
        values.requires_grad_(False)
    targets, c = torch.tensor([3, 7, 0, ids[-1], 10, ids[0]]), torch.randn(6, dtype=torch.float64)
    longer = torch.cat([weight, torch.zeros(max(0, max(ids) - 10), 5, dtype=torch.float64)])
    logits = x @ longer.index_copy(0, torch.tensor(ids), values).T
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    inputs = [x, values] if values.requires_grad else [x]
    wanted = torch.autograd.grad((expected * c).sum(), inputs)

    rows = head.Rows(torch.tensor(ids), values, sum(each < 11 for each in ids))
    scored = head.score(x, weight, targets, mode, c if mode == "linear" else None, entropy=True, rows=rows)
    assert torch.allclose(scored.logp_M, expected)
    total = scored.total if scored.total is not None else (scored.logp_M * c).sum()
    for got, want in zip(torch.autograd.grad(total, inputs), wanted, strict=True):
        assert difference(got, want) < 1e-12
    with torch.no_grad():
        assert torch.allclose(head.logits(x, weight, rows), logits)
        assert torch.allclose(head.score(x, weight, targets, mode, rows=rows).logp_M, expected)


# ------------------------------------------------------------------------------------------------ beside an adapter


@pytest.mark.parametrize(("family", "place"), CASES)
def test_peft_and_a_merged_model_say_what_the_rows_say(family: str, place: str, tmp_path: Path) -> None:
    ids, base = PLACES[place], tmp_path / "base"
    save(family, base)
    arch = beside(families.read(base), ids)
    decoder = weights.load(base, arch, dtype=torch.float32)
    before = logits_of(decoder)
    own = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    adapters.attach(decoder, arch, LORA, name="a", seed=3)
    trained = sum(each.numel() for each in decoder.parameters() if each.requires_grad)
    assert trained == count(arch, LORA).trainable
    shake(decoder, "a")
    prompt = with_new(ids)
    tuned = logits_of(decoder, "a", prompt)
    assert torch.equal(logits_of(decoder), before), "without the adapter it is the base"
    assert all(torch.equal(decoder.state_dict()[name], tensor) for name, tensor in own.items())

    adapters.save_adapter(decoder, tmp_path / "adapter", LORA, str(base), "a")
    peft = peft_of(base, tmp_path / "adapter", ids)
    assert difference(reference_logits(peft, prompt), tuned) <= BOUND

    again = load(base)
    settings = adapters.load_adapter(again, families.read(base), tmp_path / "adapter", "b")
    assert torch.equal(logits_of(again, "b", prompt), tuned)
    adapters.save_adapter(again, tmp_path / "again", settings, str(base), "b")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "adapter" / file).read_bytes()

    write_merged(base, tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert difference(reference_logits(merged, prompt), tuned) <= BOUND
    assert difference(logits_of(load(tmp_path / "merged"), None, prompt), tuned) <= BOUND


@pytest.mark.parametrize("family", ["llama", "qwen2_tied"])
def test_loss_and_gradients_of_a_step_are_pefts(family: str, tmp_path: Path) -> None:
    """From one state: loss, adapters and the rows of new tokens, to 1e-5 in float32."""
    ids, base = PLACES["both"], tmp_path / "base"
    save(family, base)
    arch = beside(families.read(base), ids)
    decoder = weights.load(base, arch, dtype=torch.float32)
    adapters.attach(decoder, arch, LORA, name="a", seed=3)
    shake(decoder, "a")
    adapters.save_adapter(decoder, tmp_path / "adapter", LORA, str(base), "a")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(max(ids) + 1)
    peft = PeftModel.from_pretrained(model, tmp_path / "adapter", is_trainable=True)
    prompt = with_new(ids)
    theirs = peft(input_ids=torch.tensor([prompt]), labels=torch.tensor([prompt])).loss
    theirs.backward()

    document = (np.asarray(prompt), np.arange(len(prompt) - 1))
    ours = nll(decoder, flat([document]), adapter="a") / (len(prompt) - 1)
    ours.backward()
    assert difference(ours, theirs) <= BOUND
    found = {
        name.replace(".default", "").replace(".weight", ""): parameter.grad
        for name, parameter in peft.named_parameters()
        if parameter.grad is not None
    }
    tensors = adapters._file_tensors(decoder, arch, LORA, "a")
    assert len(found) == len(tensors)
    for key, tensor in tensors.items():
        assert tensor.grad is not None
        assert difference(tensor.grad, found[key.replace(".weight", "")]) <= BOUND, key


def test_new_rows_start_as_the_mean_of_those_in_use(tmp_path: Path) -> None:
    """Rows beyond the tokenizer's size were never trained: they do not count."""
    save("llama", tmp_path)
    arch = beside(families.read(tmp_path), (40, 41))
    decoder = weights.load(tmp_path, arch, dtype=torch.float32)
    adapters.attach(decoder, arch, LORA, name="a")
    for name in ("model.embed_tokens", "lm_head"):
        module = decoder.weighted[name]
        assert torch.allclose(module.rows["a"].weight, module.weight[:40].mean(0).expand(2, -1))


def test_shapes_and_counts() -> None:
    spec_of = families.FAMILIES["llama"]
    config = {**TINY, "model_type": "llama"}
    arch: Architecture = spec_of(config, "config.json")
    assert beside(arch, ()) is arch
    assert beside(arch, (50,)).new_ids == (48, 49, 50), "the vocabulary has no gap"
    assert beside(arch, (50,)).tensors == arch.tensors
    grown = widened(arch, (50,))
    assert (grown.spec.vocab, grown.tensors["lm_head.weight"]) == (51, (51, 32))
    assert widened(arch, (44,)).tensors == arch.tensors, "padding is used first"
    more = count(beside(arch, (50,)), LORA).trainable - count(arch, LORA).trainable
    assert more == 3 * 32 * 2
    assert count(grown, Full()).trainable == arch.num_parameters + more
    assert first_trained_layer(beside(arch, (44,)), Lora(layers=(2,))) == 0
    assert any("3 rows for new tokens" in line for line in structure(beside(arch, (50,)), LORA))


UNEQUAL = {"embed_tokens": [3], "lm_head": [4]}


@pytest.mark.parametrize("given", [[5, 3], UNEQUAL, {"embed_tokens": [3]}, [60], ["x"], 3])
def test_rows_that_peft_made_otherwise_are_refused(given: Any, tmp_path: Path) -> None:
    save("llama", tmp_path / "base")
    arch = beside(families.read(tmp_path / "base"), (3,))
    decoder = weights.load(tmp_path / "base", arch, dtype=torch.float32)
    adapters.attach(decoder, arch, LORA, name="a")
    adapters.save_adapter(decoder, tmp_path / "adapter", LORA, "base", "a")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trainable_token_indices": given}))
    with pytest.raises(ModelError) as error:
        adapters.load_adapter(load(tmp_path / "base"), families.read(tmp_path / "base"), tmp_path / "adapter", "b")
    assert problem_ids(error) == ["adapter_tokens"]


def test_an_adapter_that_peft_made_is_read(tmp_path: Path) -> None:
    save("qwen2_tied", tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices=[4, 9], task_type="CAUSAL_LM")
    peft = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    peft.save_pretrained(tmp_path / "adapter")
    decoder = load(tmp_path / "base")
    adapters.load_adapter(decoder, families.read(tmp_path / "base"), tmp_path / "adapter", "b")
    prompt = [*TOKENS[:4], 4, 9]
    assert difference(logits_of(decoder, "b", prompt), reference_logits(peft.eval(), prompt)) <= BOUND


# ------------------------------------------------------------------------------------------------ whole runs

NEW = ("<|tool|>", "<|end_tool|>")


@pytest.fixture
def recipe(tiny_model: Callable[..., Path], write_rows: Any, runs_dir: Path) -> dict[str, Any]:
    made = [{"instruction": f"Call {i} {NEW[0]}", "output": f"{NEW[0]}{i % 3}{NEW[1]}"} for i in range(24)]
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.json", made)), "validation": 0.0, "new_tokens": [*NEW, "<|im_end|>"]},
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 1e-2, "epochs": 2, "batch": 4},
        "run": {"name": "new", "device": "cpu", "dir": str(runs_dir)},
    }


def checks_of(run: luthier.Run) -> dict[str, str]:
    return {check.name: check.status for check in run.receipt.checks}


def test_a_run_in_half_precision(recipe: dict[str, Any], no_fresh_process: None) -> None:
    """Rows are float32 masters, rounded as the file's reader will round them."""
    run = luthier.train({**recipe, "model": {**recipe["model"], "dtype": "bfloat16"}})
    found = checks_of(run)
    assert (found["adapter_reload"], found["base_untouched"]) == ("pass", "pass")


@pytest.mark.parametrize("padding", [0, 8])
def test_a_run_learns_new_tokens(
    padding: int, recipe: dict[str, Any], tiny_model: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    """Saved in PEFT's form with the tokenizer; the fresh process and the untouched base are the receipt's checks."""
    if not padding:
        request.getfixturevalue("no_fresh_process")
    size = json.loads((tiny_model("llama") / "config.json").read_text())["vocab_size"]
    base = tiny_model("llama", vocab_size=size + padding)
    recipe["model"]["path"] = str(base)
    run = luthier.train(recipe)
    found = checks_of(run)
    assert (found["adapter_reload"], found["base_untouched"], found["effect"]) == ("pass", "pass", "pass")
    notes = [event.data["text"] for event in run.events if event.kind == "note"]
    assert sum("<|im_end|>" in note and "already" in note for note in notes) == 1

    tokenizer = AutoTokenizer.from_pretrained(run.adapter_path)
    ids = tokenizer.convert_tokens_to_ids(list(NEW))
    assert ids == [size, size + 1]
    assert tokenizer("a<|tool|>b")["input_ids"].count(size) == 1
    settings = json.loads((run.adapter_path / "adapter_config.json").read_text())
    assert settings["trainable_token_indices"] == {"embed_tokens": ids, "lm_head": ids}
    rows = load_file(run.adapter_path / "adapter_model.safetensors")[
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    assert not torch.equal(rows[0], rows[1]), "both were learnt"

    prompt = [5, 6, *ids, 7]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if not padding:
        model.resize_token_embeddings(size + 2)
    peft = PeftModel.from_pretrained(model, run.adapter_path).eval()
    session = run.session
    assert difference(logits_of(session.decoder, session.adapter, prompt), reference_logits(peft, prompt)) <= BOUND
    assert isinstance(run.chat(f"Call 1 {NEW[0]}", max_tokens=8), str)
    assert isinstance(session.answer(f"Call 1 {NEW[0]}", tuned=False), str), "the base answers too"


def test_a_fresh_process_chats_with_it(recipe: dict[str, Any]) -> None:
    run = luthier.train(recipe)
    done = subprocess.run(
        [sys.executable, "-m", "luthier", "chat", str(run.path), "--compare", "base", "--max-tokens", "6"],
        input=f"Call 1 {NEW[0]}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("tied", [False, True])
def test_full_tuning_makes_the_matrices_longer(
    tied: bool, recipe: dict[str, Any], tiny_model: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    if tied:
        request.getfixturevalue("no_fresh_process")
    base = tiny_model("llama", tie_word_embeddings=tied)
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    run = luthier.train({**recipe, "model": {"path": str(base), "dtype": "float32"}, "tune": "full"})
    assert checks_of(run)["adapter_reload"] == "pass"
    model = AutoModelForCausalLM.from_pretrained(run.model_path, dtype=torch.float32)
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == size + 2
    prompt = [5, size, size + 1, 7]
    assert difference(logits_of(run.session.decoder, None, prompt), reference_logits(model, prompt)) <= BOUND


def test_a_run_with_new_tokens_is_reproduced_to_the_bit(recipe: dict[str, Any], no_fresh_process: None) -> None:
    whole = luthier.train(recipe)
    assert luthier.reproduce(whole.path)["same"]


def test_an_adapter_with_new_tokens_is_trained_further(recipe: dict[str, Any], no_fresh_process: None) -> None:
    first = luthier.train(recipe)
    more = {**recipe, "tune": {"from": str(first.path)}, "run": {**recipe["run"], "name": "more"}}
    second = luthier.train(more)
    key = "base_model.model.lm_head.token_adapter.trainable_tokens_delta"
    one, two = (load_file(run.adapter_path / "adapter_model.safetensors")[key] for run in (first, second))
    assert one.shape == two.shape and not torch.equal(one, two)
    without = {**more["data"], "new_tokens": ["<|other|>"]}
    with pytest.raises(ModelError, match="new tokens"):
        luthier.train({**more, "data": without, "run": {**recipe["run"], "name": "wrong"}})


@pytest.mark.parametrize(
    ("tune", "word"),
    [({"kind": "lora", "modules_to_save": ["embed_tokens"]}, "rows of their own"), ("freeze", "freeze")],
)
def test_what_does_not_go_together(tune: Any, word: str, recipe: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=word):
        luthier.train({**recipe, "tune": tune})
