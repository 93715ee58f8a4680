"""Distillation: the divergence against plain torch and TRL, the teacher's cache, and whole runs."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

import luthier
from luthier import moments
from luthier.batch import TERM
from luthier.cli import run as command
from luthier.config import load as config_load
from luthier.errors import ConfigError, ModelError, RunError
from luthier.kernels import divergence, head
from luthier.kernels.divergence import How, Whole
from luthier.methods.distill import Distilled
from luthier.models.bottom import sequence
from luthier.models.teacher import Teacher
from luthier.runs import manifest

BOUND = 1e-5
HOWS = [How(reverse, t, s) for reverse, t, s in itertools.product((False, True), (1.0, 2.5), (0.0, 0.7))]


def parts(seed: int = 0, rows: int = 7, vocab: int = 11, taught: int = 11, dtype: torch.dtype = torch.float64) -> Any:
    """x, head, targets, coefficients of a student; hidden states and head of a teacher of another width."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    targets = torch.randint(0, vocab, (rows,), generator=draw)
    coefficients = normal(rows).abs().to(torch.promote_types(dtype, torch.float32))
    return normal(rows, 5), normal(vocab, 5), targets, coefficients, Whole(normal(rows, 3), normal(taught, 3))


def plain(x: Tensor, weight: Tensor, targets: Tensor, c: Tensor, logp: Tensor, how: How, outcomes: Any) -> Tensor:
    """The same sum written down as it is defined, for autograd; outcomes: from tokens to outcomes."""
    logits = x @ weight.T
    q, p = outcomes((logits / how.temperature).log_softmax(-1)), logp
    divergence_M = (q.exp() * (q - p)).sum(1) if how.reverse else (p.exp() * (p - q)).sum(1)
    nll_M = F.cross_entropy(logits, targets, reduction="none")
    return (c * (how.temperature**2 * divergence_M + how.sft_weight * nll_M)).sum()


def of_top(ids: Tensor) -> Any:
    def outcomes(logq: Tensor) -> Tensor:
        rest = torch.ones_like(logq).scatter(1, ids, 0)
        return torch.cat([logq.gather(1, ids), (logq.exp() * rest).sum(1, keepdim=True).log()], 1)

    return outcomes


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("k", [None, 1, 4])
@pytest.mark.parametrize("chunk", [1, 2**28])
def test_value_and_every_gradient_are_those_of_plain_torch(how, k, chunk, monkeypatch) -> None:
    monkeypatch.setattr(head, "CHUNK_BYTES", chunk)
    x, weight, targets, c, teacher = parts()
    logits = teacher.x_MD @ teacher.weight_VD.T / how.temperature
    outcomes, logp, taught = (lambda logq: logq), logits.log_softmax(-1), teacher
    if k is not None:
        taught = divergence.most_likely(teacher.x_MD, teacher.weight_VD, k, how.temperature, 11)
        outcomes = of_top(taught.ids_MK)
        logp = outcomes(logp)
        assert torch.allclose(taught.logp_MB, logp, atol=1e-12)
    given = [each.clone().requires_grad_() for each in (x, weight)]
    expected = plain(*given, targets, c, logp, how, outcomes)
    wanted = torch.autograd.grad(expected, given)
    mine = [each.clone().requires_grad_() for each in (x, weight)]
    made = divergence.distil(*mine, targets, c, taught, how)
    assert relative(made.total, expected) < 1e-12
    for got, want in zip(torch.autograd.grad(3 * made.total, mine), wanted, strict=True):
        assert relative(got, 3 * want) < 1e-12
    assert torch.autograd.gradcheck(lambda *each: divergence.distil(*each, targets, c, taught, how).total, mine)
    assert torch.allclose(made.logp_M, (x @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0])


@pytest.mark.parametrize("how", HOWS)
def test_all_tokens_as_outcomes_are_the_full_divergence_and_fewer_are_less(how) -> None:
    x, weight, targets, c, teacher = parts(1)
    full = divergence.distil(x, weight, targets, c, teacher, how).divergence_M
    last = torch.zeros_like(full)
    for k in (1, 3, 6, 11):
        top = divergence.most_likely(teacher.x_MD, teacher.weight_VD, k, how.temperature, 11)
        mine = [each.clone().requires_grad_() for each in (x, weight)]
        made = divergence.distil(*mine, targets, c, top, how)
        assert bool((made.divergence_M >= last - 1e-12).all()), "a finer view of two distributions shows more"
        last = made.divergence_M
        assert all(bool(each.isfinite().all()) for each in torch.autograd.grad(made.total, mine))
    assert torch.allclose(last, full)


def test_the_planner_counts_what_is_made_of_logits() -> None:
    assert moments.LESSON_COPIES == divergence.COPIES


def test_by_hand() -> None:
    """Student (1/2, 1/2), teacher (3/4, 1/4): KL(p||q) = 3/4 ln 3/2 + 1/4 ln 1/2; KL(q||p) = 1/2 ln 2/3 + 1/2 ln 2."""
    x, weight = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    teacher = Whole(torch.ones(1, 1, dtype=torch.float64), torch.tensor([[math.log(3)], [0.0]], dtype=torch.float64))
    one, target = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    forward = divergence.distil(x, weight, target, one, teacher, How()).total
    reverse = divergence.distil(x, weight, target, one, teacher, How(reverse=True)).total
    assert float(forward) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(reverse) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    mixed = divergence.distil(x, weight, target, one, teacher, How(sft_weight=2.0)).total
    assert float(mixed - forward) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(reverse) -> None:
    x, weight, targets, c, _ = parts()
    for taught in (Whole(x, weight), divergence.most_likely(x, weight, 3, 2.0, 11)):
        mine = [each.clone().requires_grad_() for each in (x, weight)]
        made = divergence.distil(*mine, targets, c, taught, How(reverse, 2.0))
        assert float(made.total.detach().abs()) < 1e-12
        assert all(float(each.abs().max()) < 1e-12 for each in torch.autograd.grad(made.total, mine))


@pytest.mark.parametrize("how", [How(False, 1.0), How(True, 1.0), How(False, 2.0), How(True, 2.0)])
def test_equal_to_trl(how) -> None:
    """GKD's loss with beta 0 and 1; TRL takes no T^2."""
    gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    x, weight, targets, c, teacher = parts(2)
    mine = x.clone().requires_grad_()
    made = divergence.distil(mine, weight, targets, torch.ones_like(c), teacher, how).total
    theirs = x.clone().requires_grad_()
    loss = gkd.GKDTrainer.generalized_jsd_loss(
        (theirs @ weight.T)[None],
        (teacher.x_MD @ teacher.weight_VD.T)[None],
        beta=float(how.reverse),
        temperature=how.temperature,
        reduction="sum",
    )
    scale = how.temperature**2
    assert relative(made, scale * loss) < 1e-10
    assert relative(torch.autograd.grad(made, mine)[0], scale * torch.autograd.grad(loss, theirs)[0]) < 1e-10


def test_the_tail_is_trls() -> None:
    served = pytest.importorskip("trl.experimental.async_distillation.async_distillation_trainer")
    _, _, _, _, teacher = parts(3)
    top = divergence.most_likely(teacher.x_MD, teacher.weight_VD, 4, 1.0, 11)
    theirs, _ = served._add_tail_bucket(top.logp_MB[:, :-1], torch.ones(7, 4, dtype=torch.bool))
    assert torch.allclose(top.logp_MB, theirs, atol=1e-9)


@pytest.mark.parametrize(("vocab", "taught"), [(11, 14), (14, 11)])
def test_vocabularies_padded_otherwise_are_compared_where_both_are(vocab, taught) -> None:
    x, weight, targets, c, teacher = parts(4, vocab=vocab, taught=taught)
    targets = targets.clamp_max(10)
    mine = weight.clone().requires_grad_()
    made = divergence.distil(x, mine, targets, c, teacher, How())
    p = (teacher.x_MD @ teacher.weight_VD.T)[:, :11].log_softmax(-1)
    q = (x @ weight.T)[:, :11].log_softmax(-1)
    assert torch.allclose(made.divergence_M, (p.exp() * (p - q)).sum(1))
    (gradient,) = torch.autograd.grad(made.total, mine)
    assert not gradient[11:].any()


@pytest.mark.parametrize("how", [How(True, 2.0, 0.5), How(False, 1.0)])
def test_extreme_logits_stay_finite(how) -> None:
    x, weight, targets, c, teacher = parts(5, dtype=torch.float32)
    for k in (None, 2):
        given = teacher._replace(x_MD=teacher.x_MD * 60)
        taught = given if k is None else divergence.most_likely(given.x_MD, given.weight_VD, k, how.temperature, 11)
        mine = (x * 60).requires_grad_()
        made = divergence.distil(mine, weight, targets, c, taught, how)
        assert math.isfinite(float(made.total)) and bool(torch.autograd.grad(made.total, mine)[0].isfinite().all())


def test_half_precision_is_near_and_small_coefficients_survive() -> None:
    x, weight, targets, c, teacher = parts(6, dtype=torch.float32)
    exact = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(divergence.distil(exact, weight, targets, c, teacher, How()).total, exact)
    half = x.half().requires_grad_()
    made = divergence.distil(half, weight.half(), targets, c * 1e-9, Whole(*(e.half() for e in teacher)), How())
    (got,) = torch.autograd.grad(made.total * 1e9, half)
    assert relative(got.float(), want) < 1e-2


# ---------------------------------------------------------------------------------------------------- whole runs

WORDS = ["amber", "birch", "cedar", "delta", "ember", "flint", "grove", "harbor", "iris", "jasper", "kelp", "lotus"]


@pytest.fixture
def recipe(tiny_model, write_rows, runs_dir, tmp_path, monkeypatch, no_fresh_process) -> dict[str, Any]:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    rows = [
        {"instruction": f"Say {WORDS[i % 12]} {i}", "output": " ".join(WORDS[i % 7 : i % 7 + 3])} for i in range(24)
    ]
    return {
        "model": {"path": str(tiny_model("llama")), "dtype": "float32"},
        "data": {"train": str(write_rows("rows.json", rows)), "validation": 0.0, "max_tokens": 128},
        "method": {
            "kind": "distill",
            "teacher": str(tiny_model("llama", seed=5, hidden_size=64, intermediate_size=80)),
        },
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 1e-2, "epochs": 2, "batch": 4, "warmup": 0},
        "run": {"name": "first", "device": "cpu", "dir": str(runs_dir), "save_every": 2},
    }


def losses(run: luthier.Run) -> list[float]:
    return [event.data["loss"] for event in run.events if event.kind == "step"]


def tensors(run: luthier.Run) -> dict[str, Tensor]:
    assert run.adapter_path is not None
    return load_file(run.adapter_path / "adapter_model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def batches_of(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The micro-batches of a run's steps, in order."""
    seen: list[Any] = []
    loss = Distilled.loss

    def watched(self: Any, model: Any, batch: Any, step: int) -> Any:
        seen.append((step, batch))
        return loss(self, model, batch, step)

    monkeypatch.setattr(Distilled, "loss", watched)
    return seen


@pytest.mark.parametrize("top_k", [None, 5])
def test_the_first_loss_is_that_of_transformers(recipe, top_k, monkeypatch) -> None:
    """Teacher and student by transformers on each row by itself: mean over answer tokens of T^2 KL + s nll."""
    seen = batches_of(recipe, monkeypatch)
    how = {"method.top_k": top_k, "method.temperature": 2.0, "method.sft_weight": 0.5, "optim.steps": 1}
    run = luthier.train(recipe, how)
    student = AutoModelForCausalLM.from_pretrained(recipe["model"]["path"], dtype=torch.float64)
    teacher = AutoModelForCausalLM.from_pretrained(recipe["method"]["teacher"], dtype=torch.float64)
    total = count = 0.0
    _, batch = seen[-1]
    assert len(batch.uid) == 4, "the step is one micro-batch; those before it were the rehearsal's"
    for owner in range(len(batch.uid)):
        scored = np.flatnonzero(batch.row_owner == owner)
        segments = batch.segments
        last = int(np.flatnonzero(segments.owner == owner).max())
        ids = torch.tensor(sequence(batch, last))[None]
        at = torch.tensor(batch.positions[batch.rows[scored]])
        with torch.no_grad():
            z, t = (model(ids).logits[0, at] for model in (student, teacher))
        p, q = ((each / 2).log_softmax(-1) for each in (t, z))
        if top_k is not None:
            outcomes = of_top(p.topk(top_k, 1).indices)
            p, q = outcomes(p), outcomes(q)
        kl = (p.exp() * (p - q)).sum(1)
        nll = F.cross_entropy(z, torch.tensor(batch.targets[scored]), reduction="none")
        weights = torch.tensor(batch.weights[TERM][scored], dtype=torch.float64)
        total += float((weights * (4 * kl + 0.5 * nll)).sum())
        count += float(weights.sum())
    assert losses(run)[0] == pytest.approx(total / count, rel=BOUND)


def test_the_split_into_micro_batches_changes_nothing(recipe) -> None:
    whole = luthier.train(recipe, {"method.sft_weight": 0.3, "run.name": "whole"})
    split = luthier.train(recipe, {"method.sft_weight": 0.3, "run.name": "split", "optim.budget_tokens": 128})
    assert losses(whole) == pytest.approx(losses(split), rel=1e-4)
    for name, want in tensors(whole).items():
        assert relative(tensors(split)[name], want) < 1e-2, name


def test_a_student_becomes_more_like_its_teacher(recipe) -> None:
    run = luthier.train(recipe, {"optim.epochs": 6, "data.validation": 0.2})
    found = losses(run)
    assert sum(found[-3:]) < 0.9 * sum(found[:3])
    assert run.receipt.failed == 0
    given = manifest.load(run.folder).teacher
    assert given is not None and given["path"] == recipe["method"]["teacher"]
    assert given["sha256"] == manifest.weights_fingerprint(Path(given["path"]))["sha256"]


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many sequences the teacher has read."""
    computed, count = Teacher._computed, []

    def watched(self: Any, ids: Any, places: Any, top_k: int) -> Any:
        count.append(len(ids))
        return computed(self, ids, places, top_k)

    monkeypatch.setattr(Teacher, "_computed", watched)
    return count


def test_top_k_is_computed_once_for_all_epochs_and_runs(recipe, asked, tmp_path) -> None:
    recipe["method"]["top_k"] = 5
    first = luthier.train(recipe, {"run.name": "first"})
    once = len(asked)
    assert 24 <= once <= 24 + 4, "two epochs of 24 rows, and the rehearsal's"
    asked.clear()
    again = luthier.train(recipe, {"run.name": "again", "method.divergence": "reverse"})
    assert not asked and losses(again) != losses(first)
    same_again = luthier.train(recipe, {"run.name": "same"})
    assert not asked and same(tensors(same_again), tensors(first))
    luthier.train(recipe, {"run.name": "warmer", "method.temperature": 2.0})
    assert len(asked) == once, "another temperature is another distribution"
    asked.clear()
    shutil.rmtree(tmp_path / "cache" / "bottoms")
    luthier.train(recipe, {"run.name": "anew"})
    assert len(asked) == once


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("top_k", [None, 5])
def test_killed_and_resumed_it_is_the_same_run(recipe, top_k, tmp_path) -> None:
    recipe["method"]["top_k"] = top_k
    straight = luthier.train(recipe, {"run.name": "straight"})
    shutil.rmtree(tmp_path / "cache")

    def kill(event: Any) -> None:
        if (event.kind, event.step) == ("step", 5):
            raise Killed

    with pytest.raises(Killed):
        luthier.train(recipe, on_event=kill)
    assert same(tensors(luthier.train(recipe)), tensors(straight))


def test_another_teacher_under_the_same_name_is_noticed(recipe, tiny_model, tmp_path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(recipe["method"]["teacher"], teacher)
    recipe["method"]["teacher"] = str(teacher)

    def kill(event: Any) -> None:
        if (event.kind, event.step) == ("step", 5):
            raise Killed

    with pytest.raises(Killed):
        luthier.train(recipe, on_event=kill)
    shutil.rmtree(teacher)
    shutil.copytree(tiny_model("llama", seed=6, hidden_size=64, intermediate_size=80), teacher)
    with pytest.raises(RunError) as caught:
        luthier.train(recipe)
    assert [each.field for each in caught.value.problems] == ["teacher.sha256"]


def test_a_tuned_run_teaches_with_its_adapter(recipe) -> None:
    """The run's own adapter on the student's own base: the student begins where its teacher's base is."""
    taught = {**recipe, "method": "sft"}
    teacher = luthier.train(taught, {"run.name": "teacher"})
    for top_k in (None, 5):
        run = luthier.train(
            recipe, {"run.name": f"s{top_k}", "method.teacher": str(teacher.path), "method.top_k": top_k}
        )
        assert losses(run)[0] > 1e-4, "without the adapter the two would be the same"
    given = manifest.load(run.folder).teacher
    assert given is not None and given["adapter"] == manifest.parent_fingerprint(teacher.adapter_path)["sha256"]
    onto_itself = luthier.train(
        recipe, {"run.name": "itself", "method.teacher": recipe["model"]["path"], "optim.steps": 1}
    )
    assert abs(losses(onto_itself)[0]) < 1e-6


def test_whole_weights_learn_from_a_teacher_too(recipe) -> None:
    found = losses(luthier.train(recipe, {"tune": "full", "optim.lr": 1e-3, "optim.epochs": 3}))
    assert found[-1] < found[0]


def test_other_tokens_are_refused(recipe, tiny_model, tmp_path) -> None:
    other = shutil.copytree(recipe["method"]["teacher"], tmp_path / "other")
    file = other / "tokenizer.json"
    plain = json.loads(file.read_text())
    vocabulary = plain["model"]["vocab"]
    a, b = sorted(vocabulary)[40:42]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(plain))
    with pytest.raises(ModelError, match="other tokens") as caught:
        luthier.train(recipe, {"method.teacher": str(other)})
    assert "luthier generate" in str(caught.value)
    with pytest.raises(ConfigError, match="new tokens"):
        config_load.load(recipe, {"data.new_tokens": ["<a>"]})


def test_the_plan_counts_the_teacher(recipe, tmp_path, capsys) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    plans = []
    for change in ("method=distill", "method=sft"):
        assert command(["plan", str(file), change, "--json"]) == 0
        plans.append(json.loads(capsys.readouterr().out)["memory"])
    teacher = sum(
        each.numel() for each in load_file(next(Path(recipe["method"]["teacher"]).glob("*.safetensors"))).values()
    )
    assert plans[0]["teacher"] == 4 * teacher and "teacher" not in plans[1]
    run = luthier.train(recipe, {"optim.steps": 1})
    assert run.folder.read_json("plan.json")["memory"]["teacher"] == 4 * teacher
    assert command(["plan", str(file)]) == 0
    assert "the teacher" in capsys.readouterr().out
