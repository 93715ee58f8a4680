"""The decoder against transformers and PEFT, and the laws it keeps whatever the batch looks like.

transformers' models on tiny random configs are the oracle: logits, loss and every gradient. The laws: neither packing,
splitting nor prompt sharing changes a result; nothing is computed or kept that is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import compiled
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import BOUND, CASES, build, config_of, difference
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from luthier.arch.families import FAMILIES
from luthier.arch.spec import Unit
from luthier.batch import Batch, Ints, Rendered, Segments
from luthier.config.schema import Policy
from luthier.data import pack, prefix
from luthier.kernels import autograd, head, packed, sizes, step
from luthier.models.cache import BLOCK, Cache, Place
from luthier.models.decoder import Copy, Decoder, Delta, DropoutKey, Part, Want

Document = tuple[Ints, Ints]
"""Token ids, and which of its rows are scored (each predicts the next id)."""
LENGTHS = (9, 17, 4, 17, 30)
VOCABULARY = 48
FAMILY_CASES = ["llama_llama3", "mistral_window", "qwen2_tied", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "granite"]
"""One case per family, where a law does not depend on the finer differences."""


def documents(lengths: Sequence[int] = LENGTHS) -> list[Document]:
    """The last two thirds of each document are scored."""
    random = np.random.default_rng(0)
    return [(random.integers(0, VOCABULARY, n), np.arange(n // 3, n - 1)) for n in lengths]


def flat(docs: Sequence[Document]) -> Batch:
    lengths = np.array([len(ids) for ids, _ in docs])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    owners = np.arange(len(docs))
    positions = np.concatenate([np.arange(n) for n in lengths])
    ids = np.concatenate([ids for ids, _ in docs])
    rows = np.concatenate([start + rows for start, (_, rows) in zip(starts, docs, strict=True)])
    return Batch(
        ids=ids,
        positions=positions,
        prev=np.where(positions > 0, np.arange(len(ids)) - 1, -1),
        key=np.concatenate([prefix.keys(ids) for ids, _ in docs]),
        segments=Segments(starts, ends, np.full(len(docs), -1), owners, owners, np.zeros(len(docs), np.int64)),
        rows=rows,
        targets=ids[rows + 1],
        row_owner=np.repeat(owners, [len(rows) for _, rows in docs]),
        weights={"nll": np.ones(len(rows), np.float32)},
        per_owner={},
        uid=owners,
    )


def decoder_of(
    model: Any, name: str, dtype: torch.dtype = torch.float32, trains: Callable[[str], bool] = lambda _: False
) -> Decoder:
    """A decoder with the weights of a transformers model; float32 masters for what trains."""
    decoder = Decoder(FAMILIES[config_of(name)["model_type"]](model.config.to_dict(), "config.json"), dtype, "cpu")
    weights = {key: parameter.detach() for key, parameter in model.named_parameters()}
    decoder.load_state_dict(weights, strict=True)
    for key, parameter in decoder.named_parameters():
        if trains(key):
            parameter.data = weights[key].to(torch.promote_types(dtype, torch.float32)).clone()
            parameter.requires_grad_()
    return decoder


def everything(_: str) -> bool:
    return True


def add_adapter(decoder: Decoder, name: str = "a.b", *, ranks: dict[str, int], dropout: float = 0.0) -> None:
    """Random A and B on the units whose name ends with a key of `ranks`."""
    torch.manual_seed(1)
    for unit_name, unit in decoder.units.items():
        for end, rank in ranks.items():
            if unit_name.endswith(end):
                outputs, inputs = unit.weight.shape
                a, b = torch.randn(rank, inputs) * inputs**-0.5, torch.randn(outputs, rank) * 0.1
                unit.deltas[name] = Delta(a, b, 2.0, dropout)


ALL_LINEAR = {"_proj": 4}


def gradients(decoder: Decoder) -> dict[str, Tensor]:
    """The gradients collected so far, cleared from the decoder."""
    found = {key: p.grad.clone() for key, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad(set_to_none=True)
    return found


def nll(decoder: Decoder, batch: Batch, **options: Any) -> Tensor:
    total = decoder(batch, Want("linear", -torch.from_numpy(batch.weights["nll"])), **options).total
    assert total is not None
    return total


def reference_nll(model: Any, docs: Sequence[Document]) -> Tensor:
    """The same sum by a transformers model, one document at a time."""
    total = torch.zeros((), dtype=model.dtype)
    for ids, rows in docs:
        logp = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0].log_softmax(-1)
        total = total - logp[rows, torch.from_numpy(ids[rows + 1])].sum()
    return total


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], bound: float = BOUND) -> None:
    assert ours.keys() == theirs.keys() and ours
    worst = {key: difference(ours[key], theirs[key]) for key in ours}
    assert max(worst.values()) <= bound, sorted(worst.items(), key=lambda item: -item[1])[:3]


# ------------------------------------------------------------------------------------------------- parity


def assert_equals_transformers(name: str) -> None:
    """Loss and every gradient."""
    model = build(name)
    decoder = decoder_of(model, name, trains=everything)
    docs = documents()
    theirs = reference_nll(model, docs)
    theirs.backward()
    ours = nll(decoder, flat(docs))
    ours.backward()
    assert difference(ours.detach(), theirs.detach()) <= BOUND
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert_same(gradients(decoder), expected)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_equal_transformers(name: str) -> None:
    assert_equals_transformers(name)


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_hidden_states_and_log_probabilities_equal_transformers(name: str) -> None:
    model = build(name)
    decoder = decoder_of(model, name)
    docs = documents()
    hidden = decoder.hidden(flat(docs))
    scores = decoder(flat(docs), Want("unit", entropy=True, hidden=True))
    assert scores.hidden is not None and scores.entropy is not None
    start = scored = 0
    for ids, rows in docs:
        out = model(input_ids=torch.from_numpy(ids)[None], output_hidden_states=True)
        logp = out.logits[0].log_softmax(-1)
        own = slice(scored, scored + len(rows))
        assert difference(hidden[start : start + len(ids)], out.hidden_states[-1][0]) <= BOUND
        assert difference(scores.hidden[own], hidden[start + rows]) <= BOUND
        assert difference(scores.logp[own], logp[rows, torch.from_numpy(ids[rows + 1])]) <= BOUND
        assert difference(scores.entropy[own], -(logp.exp() * logp).sum(-1)[rows]) <= BOUND
        start, scored = start + len(ids), scored + len(rows)


@pytest.mark.parametrize(
    ("name", "targets", "options"),
    [
        ("llama_llama3", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], {}),
        ("qwen2_tied", ["q_proj", "v_proj"], {"use_rslora": True}),
        ("llama_biased", ["k_proj", "o_proj", "down_proj"], {"rank_pattern": {"down_proj": 7}}),
        ("mistral_window", ["up_proj"], {"layers_to_transform": [1, 2]}),
        ("qwen3", ["v_proj", "gate_proj"], {"alpha_pattern": {"gate_proj": 3}}),
        ("phi3", ["qkv_proj", "gate_up_proj"], {}),
    ],
)
def test_lora_equals_peft(name: str, targets: list[str], options: dict[str, Any]) -> None:
    model = build(name)
    decoder = decoder_of(model, name)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, **options))
    torch.manual_seed(2)
    for key, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            b.data.normal_(0, 0.1)
            delta = Delta(a.detach().clone(), b.detach().clone(), module.scaling["default"])
            decoder.units[key].deltas["default"] = delta
    docs = documents()
    theirs = reference_nll(wrapped, docs)
    theirs.backward()
    ours = nll(decoder, flat(docs), adapter="default")
    ours.backward()
    assert difference(ours.detach(), theirs.detach()) <= BOUND
    expected, found = {}, {}
    for key, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            delta = decoder.units[key].deltas["default"]
            found |= {key + ".A": delta.A.grad, key + ".B": delta.B.grad}
            expected |= {
                key + ".A": module.lora_A["default"].weight.grad,
                key + ".B": module.lora_B["default"].weight.grad,
            }
    assert_same(found, expected)
    assert len(gradients(decoder)) == len(expected)


def test_bfloat16_is_as_close_to_the_truth_as_transformers() -> None:
    """Error against float64, root mean square over all gradients and over seeds, at most 1.2 times theirs."""
    ours_squared, theirs_squared = 0.0, 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        name = "llama_llama3"
        half = build(name).to(torch.bfloat16)
        exact = build(name).to(torch.bfloat16).double()
        decoder = decoder_of(half, name, torch.bfloat16, everything)
        docs = documents([23 + seed, 40, 31])
        for run in (half, exact):
            reference_nll(run, docs).backward()
        nll(decoder, flat(docs)).backward()
        found = gradients(decoder)
        for (key, theirs), true in zip(half.named_parameters(), exact.parameters(), strict=True):
            norm = true.grad.norm()
            ours_squared += float(((found[key].double() - true.grad).norm() / norm) ** 2)
            theirs_squared += float(((theirs.grad.double() - true.grad).norm() / norm) ** 2)
    assert math.sqrt(ours_squared) <= 1.2 * math.sqrt(theirs_squared)


# ------------------------------------------------------------------------------------- laws of the flat batch


def _trained(kind: str, name: str) -> tuple[Decoder, dict[str, Any]]:
    if kind == "full":
        return decoder_of(build(name), name, trains=everything), {}
    decoder = decoder_of(build(name), name)
    add_adapter(decoder, ranks=ALL_LINEAR, dropout=0.3)
    return decoder, {"adapter": "a.b", "dropout": DropoutKey(11, 4)}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("name", FAMILY_CASES)
def test_packing_and_splitting_change_nothing(kind: str, name: str) -> None:
    """One step of sixteen examples: 1 x 16, 4 x 4, 16 x 1, 4 x 4 in another order. Dropout, where there is one, is
    keyed by the token, not by where it lies."""
    decoder, options = _trained(kind, name)
    docs = documents([3, 9, 17, 4, 17, 8, 5, 12, 9, 2, 17, 6, 11, 7, 4, 10])
    shuffled = np.random.default_rng(1).permutation(16)
    splits = [[range(16)], np.split(np.arange(16), 4), np.split(np.arange(16), 16), np.split(shuffled, 4)]
    results = []
    for split in splits:
        loss = torch.zeros(())
        for part in split:
            total = nll(decoder, flat([docs[index] for index in part]), **options)
            total.backward()
            loss = loss + total.detach()
        results.append({"loss": loss, **gradients(decoder)})
    for other in results[1:]:
        assert_same(other, results[0])


SETTINGS = ["lora", "lora with dropout", "full", "freeze", "a norm and a bias"]


def _setting(setting: str, name: str, dtype: torch.dtype = torch.float32) -> tuple[Decoder, dict[str, Any]]:
    """Three layers; `freeze` trains the top one, final norm and head."""
    trains = {
        "full": everything,
        "freeze": lambda key: key.startswith(("model.layers.2.", "model.norm.", "lm_head.")),
        "a norm and a bias": lambda key: key.endswith(("1.post_attention_layernorm.weight", "0.self_attn.q_proj.bias")),
    }
    decoder = decoder_of(build(name).to(dtype), name, dtype, trains.get(setting, lambda _: False))
    if not setting.startswith("lora"):
        return decoder, {}
    add_adapter(decoder, ranks=ALL_LINEAR, dropout=0.3 if "dropout" in setting else 0.0)
    return decoder, {"adapter": "a.b", "dropout": DropoutKey(11, 4)}


STACKS = [
    ("drop_mlp",) * 3,
    ("drop_layer",) * 3,
    ("drop_layer", "drop_mlp", "keep"),
    ("keep", "drop_layer", "drop_mlp"),
    ("offload", "offload", "keep"),
    ("offload_input", "offload_input", "drop_layer"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "name",
    ["llama_biased", "mistral_window", "qwen2_tied", "qwen3_biased", "gemma2", "phi3_window", "olmo2", "granite"],
)
def test_no_bit_depends_on_what_layers_keep(name: str, setting: str, dtype: torch.dtype) -> None:
    """Several documents, some of equal length, and a shared prompt; two micro-batches are summed."""
    decoder, options = _setting(setting, name, dtype)
    random = np.random.default_rng(3)
    prompt, _ = shared_prompt(random.integers(0, VOCABULARY, 11), [random.integers(0, VOCABULARY, n) for n in (6, 9)])
    results = []
    for policies in ((), *STACKS):
        losses = []
        for batch in (flat(documents()), prompt):
            loss = nll(decoder, batch, policies=policies, **options)
            loss.backward()
            losses.append(loss.detach())
        results.append({"loss": torch.stack(losses), **gradients(decoder)})
    assert len(results[0]) > 1
    for policies, other in zip(STACKS, results[1:], strict=True):
        assert other.keys() == results[0].keys()
        assert [key for key in other if not torch.equal(other[key], results[0][key])] == [], policies


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["llama_biased", "gemma2"])
def test_an_mlp_works_on_some_rows_at_a_time(
    name: str, setting: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of 16 rows, the last one shorter: gradients are those of all rows at once, and whatever layers keep, no
    bit depends on it."""
    decoder, options = _setting(setting, name, dtype)
    batch = flat(documents())
    assert batch.num_tokens % 16

    def found(policies: tuple[Policy, ...]) -> dict[str, Tensor]:
        nll(decoder, batch, policies=policies, **options).backward()
        return gradients(decoder)

    whole = found(())
    monkeypatch.setattr(sizes, "MLP_BYTES", 1)
    monkeypatch.setattr(sizes, "MLP_STEP", 16)
    results = [found(policies) for policies in ((), *STACKS)]
    bound = 1e-5 if dtype == torch.float32 else 0.02
    for key, gradient in results[0].items():
        assert (gradient - whole[key]).norm() <= bound * whole[key].norm(), key
    for policies, other in zip(STACKS, results[1:], strict=True):
        assert [key for key in other if not torch.equal(other[key], results[0][key])] == [], policies


def test_a_layer_that_trains_nothing_under_this_adapter_is_not_run_again() -> None:
    decoder = decoder_of(build("llama"), "llama")
    add_adapter(decoder, "other", ranks={"layers.0.self_attn.q_proj": 4})
    add_adapter(decoder, ranks={"layers.2.mlp.up_proj": 4})
    batch = flat(documents())
    nll(decoder, batch, adapter="a.b", policies=("drop_layer",) * 3).backward()
    found = gradients(decoder)
    assert len(found) == 2 and all("layers.2.mlp.up_proj" in key for key in found)
    nll(decoder, batch, adapter="a.b").backward()
    assert all(torch.equal(gradient, found[key]) for key, gradient in gradients(decoder).items())


def sparse(docs: Sequence[Document]) -> list[Document]:
    """Scored: one row in three, the last row, none, all, two stretches."""
    made = []
    for index, (ids, _) in enumerate(docs):
        n = len(ids) - 1
        rows = [range(0, n, 3), [n - 1], [], range(n), [*range(1, n // 3), *range(n // 2, n - 2)]][index % 5]
        made.append((ids, np.array(rows, dtype=np.int64)))
    return made


def full_form(decoder: Decoder, batch: Batch, adapter: str | None = None, dropout: DropoutKey | None = None) -> Tensor:
    """`nll` with every row of every layer computed."""
    x_MD = decoder.hidden(batch, adapter=adapter, dropout=dropout)[batch.rows]
    weight_VD = decoder.weighted["model.embed_tokens" if decoder.spec.tied else "lm_head"].weight_for(adapter)
    coefficients_M = -torch.from_numpy(batch.weights["nll"])
    x_MD, cap = x_MD * decoder.spec.logit_scale, decoder.spec.logit_softcap
    targets_M = torch.from_numpy(batch.targets)
    total = head.score(x_MD, weight_VD, targets_M, "linear", coefficients_M, softcap=cap).total
    assert total is not None
    return total


@pytest.mark.parametrize("block", [3, 256])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", [*FAMILY_CASES, "llama_biased", "qwen2_window", "qwen3_biased"])
def test_a_last_layer_of_scored_rows_equals_a_whole_one(
    name: str, setting: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.kernels.attention.CHOSEN_BLOCK", block)
    decoder, options = _setting(setting, name)
    random = np.random.default_rng(3)
    prompt, _ = shared_prompt(
        random.integers(0, VOCABULARY, 11), [random.integers(0, VOCABULARY, n) for n in (6, 9, 1, 6)]
    )
    for batch in (flat(documents()), flat(sparse(documents([20, 9, 7, 9, 30]))), prompt):
        results = []
        for compute in (nll, full_form):
            loss = compute(decoder, batch, **options)
            loss.backward()
            results.append({"loss": loss.detach(), **gradients(decoder)})
        assert_same(*results)


def test_where_every_row_is_scored_nothing_is_chosen() -> None:
    """The plain form, bit for bit."""
    decoder = decoder_of(build("qwen3"), "qwen3", trains=everything)
    (batch,) = pack.microbatches([Rendered(0, np.arange(9, dtype=np.int32), np.ones(9, dtype=np.float32))], 64)
    assert len(batch.rows) == batch.num_tokens
    results = []
    for compute in (nll, full_form):
        compute(decoder, batch).backward()
        results.append(gradients(decoder))
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_dropout_changes_with_the_step_and_without_a_key_there_is_none() -> None:
    decoder, options = _trained("lora", "llama")
    batch = flat(documents())
    with torch.no_grad():
        first, again, next_step, none = (
            nll(decoder, batch, adapter="a.b", dropout=key)
            for key in (options["dropout"], DropoutKey(11, 4), DropoutKey(11, 5), None)
        )
    assert first == again and first != next_step and first != none


def test_projections_share_a_dropout_site_exactly_where_they_share_an_input() -> None:
    decoder = decoder_of(build("llama"), "llama")
    inputs = {"q": 0, "k": 0, "v": 0, "o": 1, "gate": 2, "up": 2, "down": 3}
    by_site: dict[int, set[tuple[int, int]]] = {}
    for unit in decoder.arch.units:
        by_site.setdefault(decoder.units[unit.name].site, set()).add((unit.layer, inputs[unit.parts[0].role]))
    assert len(by_site) == 4 * len(decoder.spec.layers) and all(len(found) == 1 for found in by_site.values())


def shared_prompt(prompt: Ints, answers: Sequence[Ints]) -> tuple[Batch, list[Document]]:
    """A prompt with its continuations, and the same as whole documents. A nested prompt: the second answer's first half
    is a segment of its own with the rest as its child."""
    head, tail = answers[1][:3], answers[1][3:]
    parts = [prompt, answers[0], head, tail, *answers[2:]]
    parents = np.array([-1, 0, 0, 2, *([0] * len(answers[2:]))])
    lengths = np.array([len(part) for part in parts])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    firsts = np.array([0, len(prompt), len(prompt), len(prompt) + 3, *([len(prompt)] * len(answers[2:]))])
    positions = np.concatenate([first + np.arange(n) for first, n in zip(firsts, lengths, strict=True)])
    ids = np.concatenate(parts)
    rows, targets, owners = [], [], []
    for owner, segments in enumerate([[1], [2, 3], *[[s] for s in range(4, len(parts))]]):
        path = [int(ends[0]) - 1, *(row for s in segments for row in range(starts[s], ends[s]))]
        rows += path[:-1]  # the prompt's last row is scored once per answer
        targets += [int(ids[row]) for row in path[1:]]
        owners += [owner] * (len(path) - 1)
    order = np.argsort(rows, kind="stable")
    zeros = np.zeros(len(parts), np.int64)
    batch = Batch(
        ids=ids, positions=positions, prev=positions - 1, key=positions,
        segments=Segments(starts, ends, parents, zeros, zeros, zeros),
        rows=np.array(rows)[order], targets=np.array(targets)[order], row_owner=np.array(owners)[order],
        weights={"nll": np.ones(len(rows), np.float32)}, per_owner={}, uid=np.arange(len(answers)),
    )  # fmt: skip
    whole = [np.concatenate([prompt, answer]) for answer in answers]
    return batch, [(ids, np.arange(len(prompt) - 1, len(ids) - 1)) for ids in whole]


@pytest.mark.parametrize("name", [*FAMILY_CASES, "qwen2_window"])
def test_a_shared_prompt_equals_its_duplicates(name: str) -> None:
    decoder = decoder_of(build(name), name, trains=everything)
    random = np.random.default_rng(3)
    batch, docs = shared_prompt(
        random.integers(0, VOCABULARY, 11), [random.integers(0, VOCABULARY, n) for n in (6, 9, 1, 6)]
    )
    results = []
    for each in (batch, flat(docs)):
        loss = nll(decoder, each)
        loss.backward()
        results.append({"loss": loss.detach(), **gradients(decoder)})
    assert_same(*results)


@pytest.mark.parametrize("head_trains", [False, True])
def test_the_head_modes_agree(head_trains: bool) -> None:
    decoder = decoder_of(build("llama"), "llama", trains=lambda key: head_trains or "lm_head" not in key)
    batch = flat(documents())
    weights = torch.linspace(-1, 1, len(batch.rows))
    results = []
    for mode in ("linear", "recompute") if head_trains else ("linear", "recompute", "unit"):
        scores = decoder(batch, Want(mode, weights if mode == "linear" else None))
        loss = scores.total if mode == "linear" else (weights * scores.logp).sum()
        loss.backward()
        results.append({"loss": loss.detach(), **gradients(decoder)})
    for other in results[1:]:
        assert_same(other, results[0])


def test_a_batch_without_scored_rows_gives_zero_and_no_error() -> None:
    decoder = decoder_of(build("llama"), "llama", trains=everything)
    ids, _ = documents()[0]
    loss = nll(decoder, flat([(ids, np.arange(0))]))
    loss.backward()
    assert loss == 0 and not any(gradient.any() for gradient in gradients(decoder).values())


# ---------------------------------------------------------------------------------------------- least arithmetic


def flop_counter(attention: bool = False) -> FlopCounterMode:
    """torch's counter, which by itself overlooks products that are added in place. Attention is the only one to
    multiply matrices in batches."""
    aten = torch.ops.aten
    mapping: dict[Any, Any] = {aten.addmm_: _addmm_flops, aten.baddbmm_: _addmm_flops}
    if not attention:
        mapping |= dict.fromkeys((aten.bmm, aten.baddbmm, aten.baddbmm_), lambda *_, **__: 0)
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _addmm_flops(_: Any, a_shape: Sequence[int], b_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(a_shape) * b_shape[-1]


def rows_of(unit: Unit, decoder: Decoder, tokens: int, scored: int) -> int:
    """Rows that a projection computes: in the last layer all of k and v, and of the others those with loss."""
    last = unit.layer == len(decoder.spec.layers) - 1
    return scored if last and unit.parts[0].role not in ("k", "v") else tokens


def linear_flops(decoder: Decoder, tokens: int, scored: int, rank: int) -> int:
    """Multiply-adds times two of a LoRA step through all units: x W^T and dy W; for A and B three products each
    (forward, own gradient, gradient passed on). The lowest layer's q, k, v pass no gradient on to their input."""
    total = 0
    for unit in decoder.arch.units:
        rows = rows_of(unit, decoder, tokens, scored)
        inputs, outputs = unit.in_features, unit.out_features
        total += 4 * rows * inputs * outputs + 6 * rows * rank * (inputs + outputs)
        if unit.layer == 0 and unit.parts[0].role in "qkv":
            total -= 2 * rows * inputs * outputs + 2 * rows * rank * inputs
    return total


def attention_flops(decoder: Decoder, lengths: Sequence[int], products: Sequence[int]) -> int:
    """Of `documents`, each within one tile: every token beside every key of its document; in the last layer the rows
    from n // 3 to n - 2 beside the n - 1 keys that the last of them sees. products: of each layer, two forward and five
    backward."""
    width = decoder.spec.layers[0].mixer.heads * decoder.spec.layers[0].mixer.head_dim
    whole = sum(n * n for n in lengths)
    scored = sum((n - 1 - n // 3) * (n - 1) for n in lengths)
    return 2 * width * (whole * sum(products[:-1]) + scored * products[-1])


def again_flops(decoder: Decoder, policy: str, lengths: Sequence[int], scored: int, rank: int) -> int:
    """What a policy computes twice: gate and up, and the inner rows of down; under drop_layer all but down."""
    roles = {"drop_mlp": ("gate", "up"), "drop_layer": ("q", "k", "v", "o", "gate", "up")}.get(policy, ())
    total = 0
    for unit in decoder.arch.units:
        rows, role = rows_of(unit, decoder, sum(lengths), scored), unit.parts[0].role
        if role in roles:
            total += 2 * rows * (unit.in_features * unit.out_features + rank * (unit.in_features + unit.out_features))
        elif roles and role == "down":
            total += 2 * rows * rank * unit.in_features
    layers = len(decoder.spec.layers)
    return total + (attention_flops(decoder, lengths, [2] * layers) if policy == "drop_layer" else 0)


@pytest.mark.parametrize("policy", ["keep", "drop_mlp", "drop_layer"])
@pytest.mark.parametrize("rank", [4, 0])
def test_a_step_does_exactly_the_counted_matmuls(policy: str, rank: int) -> None:
    """LoRA on every projection; and a frozen model below an embedding that trains, for the same without adapters."""
    name = "qwen2" if rank == 0 else "qwen2_tied"
    decoder = decoder_of(build(name), name, trains=lambda key: rank == 0 and "embed_tokens" in key)
    options: dict[str, Any] = {"policies": (policy,) * 3}
    if rank:
        add_adapter(decoder, ranks=ALL_LINEAR)
        options["adapter"] = "a.b"
    batch = flat(documents())
    with flop_counter(attention=True) as counter:
        nll(decoder, batch, **options).backward()
    spec, scored = decoder.spec, len(batch.rows)
    expected = linear_flops(decoder, batch.num_tokens, scored, rank)
    if rank == 0:  # the gradient goes all the way down
        expected += sum(2 * batch.num_tokens * u.in_features * u.out_features for u in decoder.arch.units[:3])
    expected += attention_flops(decoder, LENGTHS, [7, 7, 7])
    expected += again_flops(decoder, policy, LENGTHS, scored, rank)
    expected += 2 * 2 * scored * spec.d * spec.vocab  # scored rows only; the frozen head has no weight gradient
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize("train", ["lora", "freeze"])
def test_below_the_lowest_trained_layer_there_is_only_the_forward_pass(train: str) -> None:
    """Three layers of which the top one trains: the lower two cost their forward matmuls and keep nothing."""
    name, lengths = "llama", (12, 20)
    decoder = decoder_of(build(name), name, trains=lambda key: train == "freeze" and "layers.2." in key)
    options = {}
    if train == "lora":
        add_adapter(decoder, ranks={f"layers.2.{end}": 4 for end in ("self_attn.q_proj", "mlp.down_proj")})
        options["adapter"] = "a.b"
    batch = flat(documents(lengths))
    kept = _KeptBytes(decoder)
    with flop_counter(attention=True) as counter, kept:
        nll(decoder, batch, **options).backward()
    tokens, scored, spec = batch.num_tokens, len(batch.rows), decoder.spec
    products = {
        unit.name: 2 * rows_of(unit, decoder, tokens, scored) * unit.in_features * unit.out_features
        for unit in decoder.arch.units
    }
    top = {key.rsplit(".", 1)[1]: flops for key, flops in products.items() if "layers.2." in key}
    expected = sum(products.values()) + sum(top.values()) + 4 * scored * spec.d * spec.vocab
    expected += attention_flops(decoder, lengths, [2, 2, 7])
    if train == "freeze":  # weight gradients; the layer's own first norm needs the gradient of q, k and v's input
        expected += sum(top.values())
    else:
        expected -= sum(top[key] for key in ("q_proj", "k_proj", "v_proj"))  # no gradient of the layer's input
        expected += 6 * scored * 4 * (spec.d + spec.d) - 2 * scored * 4 * spec.d  # A and B of q; again no input
        expected += 6 * scored * 4 * (spec.layers[2].ffn.width + spec.d)  # of down
    assert counter.get_total_flops() == expected
    width = spec.layers[0].ffn.width
    assert kept.rows_of_width(scored, width) == 2, "gate and up of the top layer's scored rows"
    assert kept.rows_of_width(tokens, width) == 0, "and of no other layer"


class _KeptBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what is kept for the backward pass: each storage once, weights and the batch's tables aside."""

    def __init__(self, decoder: Decoder) -> None:
        self.storages: dict[int, Tensor] = {}
        weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage().data_ptr()
            if storage not in weights:
                self.storages[storage] = tensor
            return tensor

        super().__init__(pack, lambda tensor: tensor)

    @property
    def total_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.storages.values())

    def rows_of_width(self, rows: int, width: int) -> int:
        return sum(tuple(tensor.shape) == (rows, width) for tensor in self.storages.values())


def test_a_lora_step_keeps_exactly_the_counted_bytes() -> None:
    decoder = decoder_of(build("llama"), "llama")
    add_adapter(decoder, ranks=ALL_LINEAR)
    batch = flat(documents([12, 20, 31]))
    kept = _KeptBytes(decoder)
    with kept:
        nll(decoder, batch, adapter="a.b")
    spec, tokens, rows = decoder.spec, batch.num_tokens, len(batch.rows)
    mixer, width = spec.layers[0].mixer, spec.layers[0].ffn.width
    query, key = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    of_tokens = spec.d + 2 * key + 1 + 2 * 4  # h and its reciprocal norm, k, v, their adapters' inner rows
    of_rows = 2 * query  # q and attention's output
    of_rows += spec.d + 1 + 2 * width + 5 * 4  # h and its reciprocal norm, gate, up, the other adapters' inner rows
    layers = 2 * (of_tokens + of_rows) * tokens + of_tokens * tokens + of_rows * rows
    tables = 2 * mixer.head_dim * tokens  # one of cosines and one of sines for all layers
    head = (
        rows * (spec.d + 1) + rows * spec.d + 1
    )  # final norm: rows and their reciprocal norm; the formed gradient; scale
    row_numbers = 2 * 8 * rows  # int64: which rows the last layer computes, and where each scored one is among them
    assert kept.total_bytes == 4 * (layers + tables + head) + row_numbers


def test_only_what_trains_gets_a_gradient() -> None:
    decoder = decoder_of(
        build("qwen3"),
        "qwen3",
        trains=lambda key: key.endswith(("layers.1.self_attn.q_norm.weight", "layers.2.mlp.up_proj.weight")),
    )
    nll(decoder, flat(documents())).backward()
    assert gradients(decoder).keys() == {"model.layers.1.self_attn.q_norm.weight", "model.layers.2.mlp.up_proj.weight"}


@pytest.mark.parametrize(
    ("train", "mode"),
    [(train, mode) for train in ("lora", "lora with dropout") for mode in ("linear", "unit", "recompute")]
    + [("full", "linear"), ("full", "recompute")],  # unit mode needs a frozen head
)
def test_filler_changes_nothing_that_is_learnt(train: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16, 197 tokens in 208 rows, 129 of the last layer in 136: nothing changes by more than rounding."""
    name = "qwen3"
    decoder = decoder_of(build(name), name, torch.bfloat16, trains=lambda key: train == "full" and "embed" not in key)
    options: dict[str, Any] = {}
    if train != "full":
        add_adapter(decoder, ranks=ALL_LINEAR, dropout=0.3 if "dropout" in train else 0.0)
        options = {"adapter": "a.b", "dropout": DropoutKey(1, 2)}
    batch = flat(documents([40, 75, 82]))
    assert (batch.num_tokens, len(batch.rows)) == (197, 129)
    coefficients = torch.linspace(-1, 1, len(batch.rows))
    computed: list[int] = []
    count = autograd.attention_inputs
    monkeypatch.setattr(autograd, "attention_inputs", lambda h, *rest: computed.append(len(h)) or count(h, *rest))

    def run(fills: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
        monkeypatch.setattr(Decoder, "_fills", fills)
        want = Want(mode, coefficients if mode == "linear" else None, entropy=True, hidden=True)
        scores = decoder(batch, want, **options)
        assert scores.entropy is not None and scores.hidden is not None
        total = scores.total if mode == "linear" else (coefficients * scores.logp).sum()
        assert total is not None
        total.backward()
        found = gradients(decoder)
        decoder.zero_grad()
        return [scores.logp.detach(), scores.entropy, scores.hidden.detach(), total.detach()], found

    (plain, plain_grads), (filled, filled_grads) = run(False), run(True)
    assert computed == [197] * 3 + [208] * 3
    for mine, other in zip(filled, plain, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=0.02, atol=0.02)
    assert filled_grads.keys() == plain_grads.keys()
    for key, gradient in plain_grads.items():
        assert (filled_grads[key] - gradient).norm() <= 0.02 * gradient.norm(), key


def test_sizes_are_few_even_and_near() -> None:
    assert [sizes.filled(rows) for rows in (1, 127, 128, 129, 195, 1000, 1739, 4097)] == [
        *(1, 127, 128, 136, 200, 1008, 1760, 4224)
    ]
    every = [sizes.filled(rows) for rows in range(128, 4097)]
    assert len(set(every)) <= 5 * sizes.PER_OCTAVE and all(size % 8 == 0 for size in every)
    assert max(size / rows for size, rows in zip(every, range(128, 4097), strict=True)) < 1.06
    for tokens in range(100, 700, 7):
        for rows in range(1, tokens, 13):
            more, of_rows = sizes.fillers(tokens, rows)
            assert more >= of_rows >= 0 and ((rows + of_rows) % sizes.EVEN == 0 or rows < sizes.LEAST)
            assert more - (sizes.filled(tokens) - tokens) in (0, sizes.EVEN)


def test_trained_weights_stay_float32_under_a_half_compute_dtype() -> None:
    decoder = decoder_of(build("qwen2"), "qwen2", torch.bfloat16, lambda key: "layers.2." in key or "embed" in key)
    nll(decoder, flat(documents())).backward()
    found = gradients(decoder)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert (
        "model.embed_tokens.weight" in found
        and decoder.units["model.layers.0.mlp.up_proj"].weight.dtype == torch.bfloat16
    )


# ------------------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_an_adapter_it_is_bitwise_the_base(dtype: torch.dtype) -> None:
    model = build("llama_biased")
    bare, decoder = decoder_of(model, "llama_biased", dtype), decoder_of(model, "llama_biased", dtype)
    add_adapter(decoder, ranks=ALL_LINEAR, dropout=0.5)
    batch = flat(documents())
    with torch.no_grad():
        base = bare(batch, Want()).logp
        assert torch.equal(decoder(batch, Want(), dropout=DropoutKey(0, 0)).logp, base)
        assert not torch.equal(decoder(batch, Want(), adapter="a.b").logp, base)


def test_adapters_of_any_name_live_side_by_side() -> None:
    decoder = decoder_of(build("llama"), "llama")
    for seed, name in enumerate(("v1.0", "v1%2E0", "v1")):
        add_adapter(decoder, name, ranks={"q_proj": 2})
        torch.manual_seed(seed)
        for unit in decoder.units.values():
            if name in unit.deltas:
                torch.nn.init.normal_(unit.deltas[name].B)
    assert decoder.adapters == {"v1.0", "v1%2E0", "v1"}
    unit = decoder.units["model.layers.0.self_attn.q_proj"]
    assert list(unit.deltas) == ["v1.0", "v1%2E0", "v1"] and len(unit.deltas) == 3
    with torch.no_grad():
        values = {float(nll(decoder, flat(documents()), adapter=name)) for name in decoder.adapters}
    assert len(values) == 3
    del unit.deltas["v1.0"]
    assert "v1.0" not in unit.deltas and "v1%2E0" in unit.deltas
    with pytest.raises(AssertionError, match="no adapter named"):
        nll(decoder, flat(documents()), adapter="v2")


def test_an_adapter_s_own_copy_takes_the_place_of_the_base_s() -> None:
    """A tied head stays tied to the copy of the embedding; the base gets no gradient and answers as before."""
    model = build("qwen2_tied")
    decoder, batch = decoder_of(model, "qwen2_tied"), flat(documents())
    base = nll(decoder, batch)
    changed = {"model.embed_tokens": torch.randn(VOCABULARY, 32) * 0.15, "model.norm": torch.rand(32)}
    for module, weight in changed.items():
        decoder.weighted[module].copies["x.y"] = Copy(weight)
    full = decoder_of(model, "qwen2_tied", trains=lambda key: key.removesuffix(".weight") in changed)
    with torch.no_grad():
        for module, weight in changed.items():
            full.weighted[module].weight.copy_(weight)
    losses = [nll(decoder, batch, adapter="x.y"), nll(full, batch)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for module in changed:
        copied, whole = decoder.weighted[module].copies["x.y"].weight.grad, full.weighted[module].weight.grad
        assert copied is not None and whole is not None and torch.equal(copied, whole)
    assert len(gradients(decoder)) == len(changed)
    assert torch.equal(nll(decoder, batch), base)


def test_state_dict_has_the_checkpoint_s_names() -> None:
    for name in FAMILY_CASES:
        model = build(name)
        arch = FAMILIES[config_of(name)["model_type"]](model.config.to_dict(), "config.json")
        decoder = Decoder(arch)
        assert decoder.device.type == "meta"
        assert decoder.state_dict().keys() == {key for key, _ in model.named_parameters()} == arch.tensors.keys()


# -------------------------------------------------------------------------------------------------- generation


@torch.no_grad()
@pytest.mark.parametrize("name", [*FAMILY_CASES, "qwen2_window", "llama_llama3"])
def test_cached_generation_equals_transformers(name: str) -> None:
    """Three sequences of different lengths, one of them dropped on the way, the rest continued by several tokens."""
    model = build(name)
    decoder = decoder_of(model, name)
    ids = [list(ids) for ids, _ in documents([7, 3, 12])]

    def expected(ids: list[int]) -> Tensor:
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        return logits

    cache = Cache(decoder, 3 * BLOCK)
    places = [Place(), Place(), Place()]
    got = extended(decoder, cache, places, ids)
    for turn in range(6):
        assert got.dtype == torch.float32
        assert difference(got, torch.stack([expected(each) for each in ids])) <= BOUND
        if turn == 2:
            cache.release(places.pop(1))
            ids.pop(1)
        more = [[(turn * 7 + row) % VOCABULARY] for row in range(len(ids))]
        if turn == 4:
            more = [[5, 9, 1], [30]]
        got = extended(decoder, cache, places, more)
        ids = [[*each, *new] for each, new in zip(ids, more, strict=True)]
    assert [place.length for place in places] == [len(each) for each in ids]


def extended(
    decoder: Decoder, cache: Cache, places: list[Place], ids: list[list[int]], adapter: str | None = None
) -> Tensor:
    """Logits of what follows once every place has been given its next tokens."""
    for place, new in zip(places, ids, strict=True):
        assert cache.reserve(place, len(new))
    return decoder.extend([Part(new, place, adapter) for place, new in zip(places, ids, strict=True)], cache)


@torch.no_grad()
def test_generation_applies_the_adapter() -> None:
    decoder = decoder_of(build("llama"), "llama")
    add_adapter(decoder, ranks=ALL_LINEAR)
    ids = documents([9])[0][0]
    for adapter in (None, "a.b"):
        cache, place = Cache(decoder, 9), Place()
        extended(decoder, cache, [place], [ids[:8].tolist()], adapter)
        logits = extended(decoder, cache, [place], [[int(ids[8])]], adapter)
        whole = decoder(flat([(np.append(ids, 0), np.array([8]))]), Want(), adapter=adapter)
        torch.testing.assert_close(logits.log_softmax(-1)[0, 0], whole.logp[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_a_cache_s_memory_held_before_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of different lengths leave room unused, whose contents must not reach the result."""
    decoder = decoder_of(build("llama"), "llama")
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(torch.nan))
    cache, places = Cache(decoder, 2 * BLOCK), [Place(), Place()]
    monkeypatch.undo()
    extended(decoder, cache, places, [[1, 2, 3, 4, 5], [6]])
    assert bool(extended(decoder, cache, places, [[7], [8]]).isfinite().all())


@torch.no_grad()
def test_sequences_under_several_adapters_go_through_one_pass() -> None:
    """Low-rank ones share a pass; one with a copy of a module has a pass of its own; each as if it ran by itself."""
    decoder = decoder_of(build("qwen2_tied"), "qwen2_tied")
    add_adapter(decoder, ranks=ALL_LINEAR)
    decoder.weighted["model.norm"].copies["copied"] = Copy(torch.rand(decoder.spec.d) + 0.5)
    asked = [(None, 5), ("a.b", 1), ("copied", 4), ("a.b", 7), (None, 1), ("copied", 2)]
    rows = [documents([length])[0][0].tolist() for _, length in asked]

    def run(chosen: Sequence[int]) -> list[Tensor]:
        cache, places = Cache(decoder, BLOCK * len(chosen)), [Place() for _ in chosen]
        made = []
        for at in range(3):
            new = [[at + 3] if at else rows[index] for index in chosen]
            for place, each in zip(places, new, strict=True):
                assert cache.reserve(place, len(each))
            named = [asked[index][0] for index in chosen]
            made.append(decoder.extend([Part(*each) for each in zip(new, places, named, strict=True)], cache))
        return made

    passes = []
    once = decoder._extend
    decoder._extend = lambda parts, cache: (passes.append({part.adapter for part in parts}), once(parts, cache))[1]
    mixed = run(range(len(rows)))
    assert passes == [{None, "a.b"}, {"copied"}] * 3
    for index in range(len(rows)):
        for one, several in zip(run([index]), mixed, strict=True):
            assert difference(several[index], one[0]) <= BOUND
    assert difference(mixed[2][1], mixed[2][4]) > BOUND


@torch.no_grad()
def test_an_adapter_that_has_changed_is_used_as_it_is_now() -> None:
    """What generation keeps of adapters must not outlive a step of the optimizer."""
    decoder = decoder_of(build("llama"), "llama")
    add_adapter(decoder, ranks=ALL_LINEAR)

    def logits() -> Tensor:
        return extended(decoder, Cache(decoder, BLOCK), [Place()], [[1, 2, 3]], "a.b")

    first = logits()
    for unit in decoder.units.values():
        unit.deltas["a.b"].B.mul_(3.0)
    changed = logits()
    for unit in decoder.units.values():
        unit.deltas["a.b"].scale *= 2
    again = logits()
    assert difference(first, changed) > BOUND < difference(changed, again)
    whole = decoder(flat([(np.array([1, 2, 3, 0]), np.array([2]))]), Want(), adapter="a.b")
    torch.testing.assert_close(again.log_softmax(-1)[0, 0], whole.logp[0], atol=1e-5, rtol=1e-5)


def test_a_full_cache_has_no_room() -> None:
    cache = Cache(decoder_of(build("llama"), "llama"), 2 * BLOCK)
    place, other = Place(), Place()
    assert not cache.reserve(place, 2 * BLOCK + 1) and place.blocks == [] and cache.free_tokens == 2 * BLOCK
    assert cache.reserve(place, BLOCK + 1) and not cache.reserve(other, 1)
    cache.release(place)
    assert cache.reserve(other, 2 * BLOCK) and cache.used_tokens == 2 * BLOCK


def test_known_beginnings_are_shared_until_their_room_is_needed() -> None:
    cache = Cache(decoder_of(build("llama"), "llama"), 4 * BLOCK)
    ids = list(range(2 * BLOCK + 1))
    first = cache.begin(ids, "a")
    assert first.length == 0 and cache.reserve(first, len(ids))
    first.length = len(ids)
    cache.learn(first, ids, "a")
    second = cache.begin(ids, "a")
    assert second.blocks == first.blocks[:2] and second.length == second.shared == 2 * BLOCK
    assert cache.begin(ids, None).length == cache.begin(ids, "b").length == 0, "another adapter, other values"
    assert cache.begin([5, *ids[1:]], "a").length == 0, "another token before"
    exact = cache.begin(ids[: 2 * BLOCK], "a")
    assert exact.length == BLOCK, "one token has to be computed, for what follows"
    for place in (first, second, exact):
        cache.release(place)
    assert cache.free_tokens == 4 * BLOCK
    again = cache.begin(ids, "a")
    assert again.length == 2 * BLOCK
    cache.release(again)
    cache.forget()
    assert cache.begin(ids, "a").length == 0 and cache.free_tokens == 4 * BLOCK


def test_beginnings_give_way_to_sequences() -> None:
    cache = Cache(decoder_of(build("llama"), "llama"), 2 * BLOCK)
    ids = list(range(BLOCK + 1))
    place = cache.begin(ids)
    assert cache.reserve(place, len(ids))
    place.length = len(ids)
    cache.learn(place, ids, None)
    cache.release(place)
    other = Place()
    assert cache.reserve(other, 2 * BLOCK), "a beginning that nobody uses is no reason to refuse"
    assert cache.begin(ids).length == 0


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["qwen2_tied", "llama_biased"])
@pytest.mark.parametrize("ready", [True, False], ids=["compiled", "plain"])
def test_weights_laid_out_for_few_rows_give_the_same(
    name: str, dtype: torch.dtype, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 the same bits, in float32 up to rounding; also under an adapter, and after the weights change."""
    monkeypatch.setattr(step, "library", compiled.step_library if ready else lambda: None)
    decoder = decoder_of(build(name), name, dtype)
    add_adapter(decoder, ranks=ALL_LINEAR)
    if not packed.can(decoder.units["model.layers.0.mlp.down_proj"].weight):
        pytest.skip("this machine multiplies bfloat16 in another way")

    def logits(adapter: str | None) -> Tensor:
        cache, place = Cache(decoder, 2 * BLOCK), Place()
        first = extended(decoder, cache, [place], [[1, 2, 3]], adapter)
        return torch.cat([first, extended(decoder, cache, [place], [[4]], adapter)])

    plain = {adapter: logits(adapter) for adapter in (None, "a.b")}
    used = decoder.pack(2**40)
    assert used == sum(unit.weight.nbytes for unit in decoder.units.values()) + decoder._head.weight.nbytes
    assert decoder.pack(2**40) == 0
    for adapter, before in plain.items():
        after = logits(adapter)
        assert torch.equal(after, before) if dtype == torch.bfloat16 else difference(after, before) <= BOUND
    decoder.units["model.layers.0.mlp.down_proj"].weight.mul_(2.0)
    changed = logits(None)
    decoder.unpack()
    assert difference(changed, logits(None)) <= (0 if dtype == torch.bfloat16 else BOUND)
    assert difference(changed, plain[None]) > BOUND


def test_no_more_is_laid_out_than_memory_allows() -> None:
    decoder = decoder_of(build("llama"), "llama")
    room = decoder._head.weight.nbytes + 3 * decoder.units["model.layers.0.self_attn.q_proj"].weight.nbytes
    assert decoder._head.weight.nbytes < decoder.pack(room) <= room
    if decoder._quick is not None:
        first = [joint.is_packed for joint in decoder._quick._layers[0].joints]
        assert first[0] and not first[-1]
    assert decoder.units[list(decoder.units)[-1]].packed_for(None) is None
