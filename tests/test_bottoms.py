"""What the frozen bottom makes of each sequence is computed once, kept within bounds, and changes nothing but the
arithmetic."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_decoder import flop_counter
from test_prefix import rendered

import luthier
import luthier.proof
from luthier.arch import families, flops
from luthier.config import load as config_load
from luthier.config.schema import Lora
from luthier.data import bottoms, cache, pack
from luthier.data.bottoms import Bottoms
from luthier.methods.supervised import Supervised
from luthier.models import adapters, weights
from luthier.models.bottom import Bottom
from luthier.models.decoder import Decoder, Layer

BOUND = 1e-5
WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]
ABOUT = {"model": "m", "layers": 2}
IDS = [np.arange(length) for length in (3, 1, 7)]


def rows_of(ids: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed + len(ids)).integers(0, 256, (len(ids), 8), dtype=np.uint8)


def filled(folder: Path, room_bytes: int = 1000) -> Bottoms:
    kept = Bottoms(folder, 8, room_bytes, ABOUT)
    for ids in IDS:
        assert kept.get(ids) is None
        kept.put(ids, rows_of(ids))
    return kept


def found(folder: Path) -> list[bool]:
    """Which of the sequences another process finds; what it finds is right."""
    kept = Bottoms(folder, 8, 0, ABOUT)
    rows = [kept.get(ids) for ids in IDS]
    assert all(each is None or np.array_equal(each, rows_of(ids)) for each, ids in zip(rows, IDS, strict=True))
    return [each is not None for each in rows]


# ---------------------------------------------------------------------------------------------------- the store


def test_rows_are_found_at_once_and_by_others_when_published(tmp_path: Path) -> None:
    other = Bottoms(tmp_path / "f", 8, 0, ABOUT)
    kept = filled(tmp_path / "f")
    assert np.array_equal(kept.get(IDS[2]), rows_of(IDS[2])) and found(tmp_path / "f") == [False] * 3
    kept.close()
    assert found(tmp_path / "f") == [True] * 3
    assert np.array_equal(other.get(IDS[0]), rows_of(IDS[0])), "one that was open before finds it too"
    assert isinstance(other.get(IDS[0]), np.memmap) and other.get(np.arange(1, 4)) is None


def test_a_process_adds_no_more_than_it_has_room_for(tmp_path: Path) -> None:
    filled(tmp_path, room_bytes=4 * 8 + 2 * bottoms.INDEX.itemsize).close()
    assert found(tmp_path) == [True, True, False]


def test_large_rows_are_published_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottoms, "FILE_BYTES", 32)
    filled(tmp_path)
    assert found(tmp_path) == [True, True, False] or found(tmp_path) == [True] * 3
    assert len(list(tmp_path.glob("*.rows"))) == 2


@pytest.mark.parametrize("place", ["cut", "cut to nothing", "end", "index", "rows"])
def test_a_file_that_is_torn_or_flipped_is_not_there(tmp_path: Path, place: str) -> None:
    filled(tmp_path).close()
    (path,) = tmp_path.glob("*.rows")
    data = bytearray(path.read_bytes())
    at = {"end": -1, "index": -bottoms.END.itemsize - 1, "rows": 0}
    if place in at:
        data[at[place]] ^= 1
    else:
        del data[(0 if place == "cut to nothing" else len(data) - 5) :]
    path.write_bytes(data)
    expected = [False, True, True] if place == "rows" else [False] * 3
    assert found(tmp_path) == expected
    filled_again = Bottoms(tmp_path, 8, 1000, ABOUT)
    for ids in IDS:
        if filled_again.get(ids) is None:
            filled_again.put(ids, rows_of(ids))
    filled_again.close()
    assert sum(found(tmp_path)) == 3


def test_what_is_taken_away_under_a_reader_is_made_again(tmp_path: Path) -> None:
    kept = filled(tmp_path / "f")
    kept.close()
    assert kept.get(IDS[0]) is not None
    shutil.rmtree(tmp_path / "f")
    assert kept.get(IDS[0]) is None
    kept.put(IDS[0], rows_of(IDS[0]))
    kept.close()
    assert found(tmp_path / "f") == [True, False, False]


def test_a_full_disk_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    kept = filled(tmp_path)
    monkeypatch.setattr(bottoms, "fsync_file", refuse)
    kept.close()
    assert kept.get(IDS[0]) is None and not list(tmp_path.glob("*.rows")) and not list(tmp_path.glob(".writing-*"))


def test_the_cache_lists_bounds_and_clears_it(tmp_path: Path) -> None:
    facts = {"base": "a"}
    folder = bottoms.folder_of(tmp_path, facts)
    assert folder != bottoms.folder_of(tmp_path, {"base": "b"})
    filled(folder).close()
    (entry,) = cache.entries(tmp_path)
    assert (entry.sequences, entry.tokens, entry.layers, entry.data) == (3, 11, 2, "m")
    assert entry.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert "3 sequences through 2 frozen layers" in cache.lines([entry])[0]
    assert cache.trim(tmp_path, 0) == [], "it has just been used"
    assert cache.clear(tmp_path, [entry.key]) == [entry] and not folder.exists()


# -------------------------------------------------------------------------------------------------- the decoder


@pytest.fixture
def decoder(tiny_model: Callable[..., Path]) -> Decoder:
    """Four layers; adapters on the upper two."""
    folder = tiny_model("qwen2", num_hidden_layers=4)
    made = weights.load(folder, families.read(folder), dtype=torch.float32, device="cpu")
    adapters.attach(made, made.arch, Lora(rank=2, layers=(2, 3)), name="a", seed=0)
    return made


def losses_of(decoder: Decoder, batch: Any, bottom: Bottom | None) -> tuple[float, dict[str, torch.Tensor]]:
    decoder.zero_grad()
    total = Supervised("a", 0, bottom=bottom).loss(decoder, batch, 0).sums["nll"]
    total.backward()
    return float(total.detach()), {name: p.grad.clone() for name, p in decoder.named_parameters() if p.grad is not None}


def test_beginnings_that_sequences_share_are_filled_from_the_one_they_are_counted_to(decoder, tmp_path) -> None:
    """Nested beginnings, one sequence that ends within another, lengths that the layout puts in another order."""
    torch.manual_seed(0)
    for parameter in (p for p in decoder.parameters() if p.requires_grad):
        parameter.data.normal_(0, 0.1)
    long, short = list(range(30, 60)), list(range(30, 45))
    ids = [[*long, 1, 2, 3], [*long, 7, 8, 9, 4], [9, 8, 7, 6, 5], [*short, 5, 6, 7], short, [3, 4]]
    examples = [rendered(uid, each) for uid, each in enumerate(ids)]
    (batch,) = pack.microbatches(examples, 10**6, call_tokens=1)
    assert (batch.segments.parent >= 0).any() and len(np.unique(batch.segments.owner)) < len(batch.segments)
    kept = Bottoms(tmp_path, decoder.spec.d * 4, 10**9, ABOUT)
    bottom = Bottom(decoder, 2, kept)
    plain, gradients = losses_of(decoder, batch, None)
    for _ in ("computed", "kept"):
        loss, own = losses_of(decoder, batch, bottom)
        assert abs(loss - plain) <= BOUND * abs(plain) and own.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert float((own[name] - gradient).abs().max()) <= BOUND * float(gradient.abs().max()), name


# ------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(autouse=True)
def own_cache(no_fresh_process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of the test's own; the check of the saved files without a process of its own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


LORA = {"kind": "lora", "rank": 4, "dropout": 0.1, "layers": [2, 3]}
FREEZE = {"kind": "freeze", "layers": 2}
TOKEN_BYTES = 32 * 4
"""Of the tiny model in float32."""
STEPS = 6
"""Of twelve rows, four a step, twice."""


@pytest.fixture
def recipe(tiny_model, write_rows, runs_dir) -> dict[str, Any]:
    """Two epochs of three steps, adapters on the upper two of four layers, in float32."""
    made = [
        {"instruction": f"{WORDS[i % 12]} {i}", "output": " ".join(WORDS[j % 12] for j in range(i, i + 1 + i % 7))}
        for i in range(15)
    ]
    return {
        "model": {"path": str(tiny_model("qwen2", num_hidden_layers=4)), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.json", made)), "validation": 0.2, "max_tokens": 256},
        "tune": LORA,
        "optim": {"lr": 1e-3, "epochs": 2, "batch": 4, "budget_tokens": 300},
        "run": {"name": "on", "device": "cpu", "dir": str(runs_dir), "save_every": 1},
    }


def named(recipe: dict[str, Any], name: str, **sections: Any) -> dict[str, Any]:
    return {**recipe, **sections, "run": {**recipe["run"], "name": name}}


def losses(run: luthier.Run) -> list[float]:
    return [event.data["loss"] for event in run.events if event.kind in ("step", "validation")]


def final(run: luthier.Run) -> dict[str, torch.Tensor]:
    folder = run.path / "checkpoints" / f"step-{STEPS}"
    return {**load_file(folder / "trainable.safetensors"), **load_file(folder / "optim.safetensors")}


def same_bits(one: luthier.Run, other: luthier.Run) -> bool:
    a, b = final(one), final(other)
    return losses(one) == losses(other) and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def layers_kept(run: luthier.Run) -> int:
    return json.loads((run.path / "plan.json").read_text()).get("bottom_layers", 0)


@pytest.fixture
def sharing(recipe, write_rows) -> dict[str, Any]:
    """The same behind one system prompt, which a step computes once."""
    system = "Answer with the words that come next, in their order, and nothing else. " * 2
    rows = [{"instruction": WORDS[i % 12], "output": WORDS[i % 7] + str(i), "system": system} for i in range(15)]
    return {**recipe, "data": {**recipe["data"], "train": str(write_rows("system.json", rows))}}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the sequences that went through the bottom by themselves."""
    seen: list[int] = []
    below = Decoder.below

    def watched(self: Decoder, ids: Any, layers: int) -> Any:
        seen.append(len(ids))
        return below(self, ids, layers)

    monkeypatch.setattr(Decoder, "below", watched)
    return seen


def bottom_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "bottoms").glob("*/*.rows"))


@pytest.mark.parametrize(("tune", "rows"), [(LORA, "recipe"), (FREEZE, "recipe"), (LORA, "sharing")])
def test_a_run_learns_what_it_learns_without(tune, rows, request, monkeypatch, computed) -> None:
    recipe = request.getfixturevalue(rows)
    run = luthier.train(named(recipe, "on", tune=tune))
    assert layers_kept(run) == 2 and computed
    assert any("nothing in the lowest 2 of 4 layers trains" in e.data["text"] for e in run.events if e.kind == "note")
    computed.clear()
    monkeypatch.setenv("LUTHIER_CACHE_GB", "0.00001")
    off = luthier.train(named(recipe, "off", tune=tune))
    assert layers_kept(off) == 0 and not computed
    for one, other in zip(losses(run), losses(off), strict=True):
        assert abs(one - other) <= BOUND * abs(other)
    one, other = (
        load_file(each.path / "checkpoints" / f"step-{STEPS}" / "trainable.safetensors") for each in (run, off)
    )
    for name, tensor in other.items():
        assert float((one[name] - tensor).abs().max()) <= BOUND * float(tensor.abs().max()), name


@pytest.mark.parametrize("rows", ["recipe", "sharing"])
def test_cold_warm_and_partly_filled_are_one_to_the_bit(rows, request, tmp_path, computed) -> None:
    recipe = request.getfixturevalue(rows)
    cold = luthier.train(named(recipe, "cold"))
    sequences = len(computed)
    assert sequences == len(set(computed_ids(tmp_path))), "each once, whatever epoch and validation ask for"
    computed.clear()
    warm = luthier.train(named(recipe, "warm"))
    assert not computed and same_bits(cold, warm)
    (path,) = bottom_files(tmp_path)
    keep_half(path)
    partly = luthier.train(named(recipe, "partly"))
    assert 0 < len(computed) < sequences and same_bits(cold, partly)
    shutil.rmtree(tmp_path / "cache")
    assert luthier.reproduce(cold.path)["same"]


def computed_ids(tmp_path: Path) -> list[bytes]:
    return [entry["key"].tobytes() for path in bottom_files(tmp_path) for entry in bottoms.index(path)]


def keep_half(path: Path) -> None:
    """The same file with every other entry."""
    data, rows = path.read_bytes(), {}
    for entry in bottoms.index(path)[::2]:
        tokens, offset = int(entry["tokens"]), int(entry["offset"])
        raw = np.frombuffer(data, np.uint8, tokens * TOKEN_BYTES, offset)
        rows[entry["key"].tobytes()] = raw.reshape(tokens, TOKEN_BYTES)
    path.unlink()
    bottoms._publish(path.parent, rows)


class Killed(Exception):
    """Stands for a kill: nothing more is written."""


@pytest.mark.parametrize("step", [2, 5])
def test_killed_and_resumed_it_is_the_same_run(recipe, tmp_path, monkeypatch, computed, step) -> None:
    straight = luthier.train(named(recipe, "straight"))
    shutil.rmtree(tmp_path / "cache")

    def kill(event: Any) -> None:
        if (event.kind, event.step) == ("step", step):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Bottoms, "close", lambda self: None)  # what a killed process has not published is gone
        with pytest.raises(Killed):
            luthier.train(named(recipe, "killed"), on_event=kill)
    assert not bottom_files(tmp_path)
    # Less room than it began with changes nothing: the plan is obeyed.
    monkeypatch.setenv("LUTHIER_CACHE_GB", "0.00001")
    computed.clear()
    resumed = luthier.resume(tmp_path / "runs" / "killed")
    assert layers_kept(resumed) == 2 and computed
    assert sum(entry.bytes for entry in cache.entries(tmp_path / "cache") if entry.layers) <= 10_000
    a, b = final(straight), final(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_other_weights_and_other_arithmetic_never_meet_what_is_kept(recipe, tmp_path, computed) -> None:
    luthier.train(named(recipe, "first"))
    first = len(computed)
    edited = shutil.copytree(recipe["model"]["path"], tmp_path / "edited")
    (file,) = edited.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.q_proj.weight"] *= 1.5
    save_file(tensors, file, {"format": "pt"})
    others = {
        "edited": {"model": {**recipe["model"], "path": str(edited)}},
        "bf16": {"model": {**recipe["model"], "dtype": "bfloat16"}},
        "higher": {"tune": {**LORA, "layers": [3]}},
    }
    for place, (name, sections) in enumerate(others.items()):
        computed.clear()
        luthier.train(named(recipe, name, **sections))
        assert len(computed) == first, name
        assert len({path.parent for path in bottom_files(tmp_path)}) == place + 2, "a folder of its own"
    found = cache.entries(config_load.environment().cache_dir)
    assert sum(entry.layers > 0 for entry in found) == 4


def test_it_stays_off_where_it_would_be_wrong_or_no_use(recipe, monkeypatch, computed) -> None:
    offs: dict[str, dict[str, Any]] = {
        "one-epoch": {"optim": {**recipe["optim"], "epochs": 1}},
        "all-layers": {"tune": {"kind": "lora", "rank": 4}},
        "embedding": {"tune": {**LORA, "modules_to_save": ["embed_tokens"]}},
        "new-tokens": {"data": {**recipe["data"], "new_tokens": ["<new>"]}},
    }
    for name, sections in offs.items():
        run = luthier.train(named(recipe, name, **sections))
        assert layers_kept(run) == 0 and not computed, name


def test_the_bound_of_the_cache_is_kept(recipe, tmp_path, monkeypatch) -> None:
    """What is older goes; what there is no room for is computed again, and the result has the same bits."""
    straight = luthier.train(named(recipe, "straight"))
    (path,) = bottom_files(tmp_path)
    size = sum(entry.bytes for entry in cache.entries(tmp_path / "cache"))
    monkeypatch.setenv("LUTHIER_CACHE_GB", repr((size + 50_000) / 1e9))
    luthier.train(named(recipe, "other", tune={**LORA, "layers": [3]}))
    assert sum(entry.bytes for entry in cache.entries(tmp_path / "cache")) <= size + 50_000
    shutil.rmtree(path.parent)
    assert same_bits(straight, luthier.train(named(recipe, "again")))


def test_the_second_epoch_multiplies_less_by_what_the_bottom_takes(recipe, monkeypatch) -> None:
    """Exactly, as torch counts; and no layer of the bottom is called any more."""
    recipe["data"]["validation"] = 0.0
    called: list[int] = []
    forward = Layer.forward

    def watched(self: Layer, index: int, *arguments: Any) -> Any:
        called.append(index)
        return forward(self, index, *arguments)

    def counted(name: str) -> tuple[list[int], list[int], list[set[int]], luthier.Run]:
        totals, tokens, layers = list[int](), list[int](), list[set[int]]()

        def note(event: Any) -> None:
            if event.kind in ("plan", "step"):
                totals.append(counter.get_total_flops())
                layers.append(set(called))
                called.clear()
            if event.kind == "step":
                tokens.append(event.data["computed_tokens"])

        with flop_counter() as counter:
            run = luthier.train(named(recipe, name), on_event=note)
        return np.diff(totals).tolist(), tokens, layers[1:], run

    monkeypatch.setattr(Layer, "forward", watched)
    on, tokens, layers, run = counted("on")
    monkeypatch.setenv("LUTHIER_CACHE_GB", "0")
    off, tokens_off, layers_off, _ = counted("off")
    arch = families.read(Path(recipe["model"]["path"]))
    bottom = 2 * sum(unit.in_features * unit.out_features for unit in arch.units if unit.layer < 2)
    rows = flops.Rows([100], 10), flops.Rows([100], 10, known=2)
    all_of, rest = (flops.step(arch, Lora(rank=4, layers=(2, 3)), each) for each in rows)
    assert all_of.linear - rest.linear == 100 * bottom and rest.adapters == all_of.adapters
    assert tokens == tokens_off and len(on) == 8 and layers_kept(run) == 2
    assert set.union(*layers[:4]) == {0, 1, 2, 3} and all(each == {0, 1, 2, 3} for each in layers_off)
    assert all(each == {2, 3} for each in layers[4:])
    for one, other, computed in list(zip(on, off, tokens, strict=True))[4:]:
        assert one == other - bottom * computed
