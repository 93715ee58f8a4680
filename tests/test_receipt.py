"""The receipt and the commands over runs: what is on it, that nothing on it can be altered unseen, both languages."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_runs_store import claim, damage_flip, save

from luthier.errors import RunError
from luthier.runs import commands, manifest, receipt, receipt_page
from luthier.runs.manifest import DataFile
from luthier.runs.receipt import CHECKS, Check, Receipt
from luthier.runs.store import RunFolder
from luthier.runs.tables import columns, decimal, duration, markdown_table, size, span
from luthier.text import set_language

LEFT_OUT = {"path": "rows.jsonl", "number": 3, "reason_id": "data.too_long", "reason": "2,311 tokens | too many"}
GOLDEN = Path(__file__).parent / "golden" / "run"


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """Make a finished run: two attempts, one faulty step, three rows left out, an adapter, some checks."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("{}\n")
    Path("mine.py").write_text("x = 1\n")
    Path("base").mkdir()
    Path("base/config.json").write_text("{}")
    Path("base/model.safetensors").write_bytes(b"base")

    def make(name: str = "first", **changes: Any) -> RunFolder:
        with claim(Path("runs"), run__name=name, data__train="rows.jsonl", **changes) as run:
            facts = manifest.file_fingerprint(Path("rows.jsonl"))
            excluded = {"data.too_long": 2, "data.empty": 1}
            manifest.build(
                name,
                base={"path": "nano", "revision": None, "commit": None, "init": "pretrained"},
                model_folder=Path("base"),
                tokenizer={"fingerprint": "f" * 64, "template": "chatml", "stop_tokens": ["<|im_end|>"]},
                data=[DataFile("rows.jsonl", "train", **facts, read=50, kept=47, excluded=excluded)],
                plugins={"mine:rows": Path("mine.py")},
                seed=0,
            ).save(run)
            run.write_jsonl(
                "excluded.jsonl",
                [LEFT_OUT, {**LEFT_OUT, "number": 5}, {**LEFT_OUT, "number": 8, "reason_id": "data.empty"}],
            )
            plan = {"backend": {"device": "cpu", "dtype": "float32"}, "memory": {"peak_bytes": 2_000_000_000}}
            run.write_json("plan.json", plan)
            run.emit("started", {"num_steps": 4})
            run.emit("data", {"train": 45, "validation": 2, "kept": 47, "read": 50})
            run.emit("model", {"trainable": 1_000, "total": 80_000})
            run.emit("validation", {"loss": 3.25}, step=0)
            _steps(run, 1, 2)
            run.emit("interrupted", {"signal": 15}, step=2)
        with RunFolder.open(run.path, write=True) as run:
            run.emit("resumed", {"from_step": 2, "reason": "checkpoint"})
            _steps(run, 3, 4)
            with run.replace("adapter") as folder:
                (folder / "adapter_model.safetensors").write_bytes(b"adapter")
            receipt.record(run, Check("prompt_law", "pass", "equal", "47 of 47"), Check("effect", "fail", "> 0", "0"))
            receipt.record(run, Check("effect", "pass", "> 0", "KL 0.5"))
            run.emit("finished", {"steps": 4, "tokens": 4_000, "seconds": 90.0, "peak_memory_bytes": 10**9}, step=4)
            made = receipt.build(run)
            receipt.write(run, made, receipt_page.lines(made))
        return RunFolder.open(run.path)

    return make


def _steps(run: RunFolder, first: int, last: int) -> None:
    for step in range(first, last + 1):
        run.emit("step", {"loss": 3.0 / step, "num_steps": 4, "tokens": 1_000, "tokens_per_s": 50.0}, step=step)
        run.emit("validation", {"loss": 3.0 - step / 2}, step=step)
        with run.save_best(step) as folder:
            (folder / "trainable.safetensors").write_bytes(b"best")
        run.prune_best({step})
        run.emit("checkpoint", {"folder": f"checkpoints/step-{step}"}, step=step)
        save(run, step)
    run.emit("fault", {"what": "gradient", "rows": ["rows.jsonl:7"], "in_a_row": 1}, step=first)


# ---------------------------------------------------------------------------------------------------- receipts


def test_receipt_adds_up(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    made = receipt.build(run)
    assert made.state == "finished"
    assert {check.name: check.status for check in made.checks} == {
        **dict.fromkeys(CHECKS, "not run"),
        **dict.fromkeys(("rows_counted", "prompt_law", "effect", "validation"), "pass"),
    }
    assert (made.passed, made.failed, made.not_run) == (4, 0, 4)
    assert made.summary.best == (4, 1.0) and made.summary.validation[0] == (0, 3.25)
    outputs = {"adapter/adapter_model.safetensors", "best/step-4/trainable.safetensors", "best/step-4/hashes.json"}
    assert outputs | {"recipe.yaml", "manifest.json", "plan.json", "excluded.jsonl"} == set(made.hashes)


def test_building_twice_gives_the_same_and_json_reads_back(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    made = receipt.build(run)
    assert receipt.build(run) == made
    assert receipt.load(run) == made
    assert Receipt.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_rows_that_do_not_add_up_fail(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    given = manifest.load(run)
    assert receipt.check_rows(run, given).status == "pass"
    lost = dataclasses.replace(given, data=(dataclasses.replace(given.data[0], kept=46),))
    assert receipt.check_rows(run, lost).status == "fail"
    with open(run.path / "excluded.jsonl", "a") as file:
        file.write("{}\n")
    assert receipt.check_rows(run, given).status == "fail"


def test_validation_that_did_not_improve_fails(finished: Callable[..., RunFolder]) -> None:
    summary = finished().summary()
    assert receipt.check_validation(summary).status == "pass"
    worse = dataclasses.replace(summary, validation=((0, 1.0), (4, 2.0)), best=(4, 2.0))
    assert receipt.check_validation(worse).status == "fail"
    assert receipt.check_validation(dataclasses.replace(summary, validation=(), best=None)).status == "not run"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_says_everything(finished: Callable[..., RunFolder], language: Any) -> None:
    set_language(language)
    run = finished()
    page = (run.path / "receipt.md").read_text()
    assert page.splitlines()[0].startswith("# ") and page.count("\n## ") == len(receipt_page.SECTIONS)
    facts = ("nano", "`rows.jsonl`", "1 min 30 s", "4,000", "2.0 GB", "1.0 GB", "1,000", "1.25 %", "3.2500", "47 of 47")
    for fact in (
        *facts,
        "rows.jsonl:7",
        "rows.jsonl:3: 2,311 tokens \\| too many",
        "chatml",
        "im_end",
        "KL 0.5",
        "✔",
        "○",
    ):
        assert fact in page, fact
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 6
    for table in tables:  # what a Markdown reader needs: the same number of cells in each line
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1


@pytest.mark.parametrize("commit", ["ab" * 20, None])
def test_rows_of_a_hub_are_told_with_their_commit(finished: Callable[..., RunFolder], commit: str | None) -> None:
    """On the page, in the manifest, and where the rows are verified, also when they are gone."""
    run = finished()
    given = manifest.load(run)
    origin = {"source": "hub:org/name", "subset": "en", "split": "train", "revision": None, "commit": commit}
    with RunFolder.open(run.path, write=True) as opened:
        dataclasses.replace(given, data=(dataclasses.replace(given.data[0], origin=origin),)).save(opened)
    assert manifest.load(run).data[0].commit == commit
    made = receipt.build(run)
    page = "\n".join(receipt_page.lines(made))
    assert re.search(r"\| `hub:org/name` +\| `en` +\| `train` +\|", page)
    assert (commit is None) == ("`abab" not in page)
    told = f"from hub:org/name, split train, commit {commit or '-'}"
    for status in ("pass", "not run"):
        check = next(each for each in commands.verify(run).value["checks"] if each["name"] == "data_unchanged")
        assert check["status"] == status and check["evidence"].endswith(told)
        Path("rows.jsonl").unlink(missing_ok=True)


def test_page_of_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    with claim(tmp_path) as run:
        made = receipt.build(run)
        page = "\n".join(receipt_page.lines(made))
    assert "Not finished" in page and made.not_run == len(CHECKS)


def test_long_validation_tables_keep_first_best_and_last(finished: Callable[..., RunFolder]) -> None:
    made = receipt.build(finished())
    curve = tuple((step, 5.0 if step != 7 else 0.5) for step in range(100))
    made = dataclasses.replace(made, summary=dataclasses.replace(made.summary, validation=curve, best=(7, 0.5)))
    page = receipt_page.lines(made)
    table = page[page.index("## Before and after") :]
    rows = [int(line.split("|")[1]) for line in table[4 : table.index("", 4)]]
    assert rows == [0, 7, *range(90, 100)]


# ---------------------------------------------------------------------------------------------------- verify


def statuses(answer: Any) -> dict[str, str]:
    return {check["name"]: check["status"] for check in answer.value["checks"]}


def test_untouched_run_verifies(finished: Callable[..., RunFolder]) -> None:
    answer = commands.verify(finished())
    assert answer.good and set(statuses(answer).values()) == {"pass"}
    assert len(answer.value["checks"]) == 8


def alter(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / path).write_bytes(content)


def append(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / path).write_bytes((run / path).read_bytes() + content)


def doctor_receipt(run: Path) -> None:
    value = json.loads((run / "receipt.json").read_text())
    value["checks"][3]["status"] = "pass"
    (run / "receipt.json").write_text(json.dumps(value))


def other_rate(run: Path) -> None:
    value = json.loads((run / "receipt.json").read_text())
    value["recipe"]["optim"]["lr"] = 0.5
    (run / "receipt.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (alter("../../rows.jsonl", b"[]"), {"data_unchanged"}),
        (alter("../../mine.py", b""), {"plugins"}),
        (append("excluded.jsonl", b"{}\n"), {"rows_counted", "outputs", "receipt"}),
        (append("events.jsonl", b"{}\n"), {"events"}),
        (append("events.jsonl", b'{"half'), set()),
        (append("checkpoints/step-4/trainable.safetensors", b"x"), {"checkpoints"}),
        (lambda run: damage_flip(run / "checkpoints" / "step-3"), {"checkpoints"}),
        (lambda run: damage_flip(run / "best" / "step-4"), {"checkpoints", "outputs"}),
        (alter("adapter/adapter_model.safetensors", b"Adapter"), {"outputs"}),
        (alter("adapter/extra.json", b"{}"), {"outputs"}),
        (append("recipe.yaml", b"# \n"), {"outputs"}),
        (append("plan.json", b" "), {"outputs"}),
        (doctor_receipt, {"receipt"}),
        (other_rate, {"receipt"}),
    ],
)
def test_every_alteration_is_seen(
    finished: Callable[..., RunFolder], change: Callable[[Path], None], failing: set[str]
) -> None:
    run = finished()
    change(run.path)
    answer = commands.verify(run)
    assert {name for name, status in statuses(answer).items() if status == "fail"} == failing
    assert answer.good == (not failing)


def test_what_is_gone_is_not_run(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    Path("rows.jsonl").unlink()
    (run.path / "receipt.json").unlink()
    found = statuses(commands.verify(run))
    assert {name for name, status in found.items() if status == "not run"} == {"data_unchanged", "outputs", "receipt"}


def test_language_of_the_receipt_does_not_matter(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    set_language("zh")
    assert commands.verify(run).good


def test_checks_that_need_torch_are_handed_in(finished: Callable[..., RunFolder]) -> None:
    answer = commands.verify(finished(), {"reload": lambda: Check("adapter_reload", "fail", "1e-5", "0.3")})
    assert not answer.good and statuses(answer)["adapter_reload"] == "fail"
    assert any("0.3" in line for line in answer.lines())


# ---------------------------------------------------------------------------------------------------- commands


def test_list_and_show(finished: Callable[..., RunFolder]) -> None:
    finished()
    finished("second.1")
    answer = commands.list_runs("runs")
    assert [each["name"] for each in answer.value] == ["second.1", "first"]
    assert all(part in answer.lines()[1] for part in ("second.1", "finished", "4/4", "1.0000", "nano"))
    shown = commands.show(commands.find("first"))
    assert shown.value["summary"]["best"] == [4, 1.0] and shown.value["checkpoints"] == [1, 2, 3, 4]
    text = "\n".join(shown.lines())
    assert "3.2500 before, best 1.0000 at step 4" in text and "KL 0.5" in text
    json.dumps([answer.value, shown.value], allow_nan=False)


def test_list_of_nothing(tmp_path: Path) -> None:
    assert commands.list_runs(tmp_path / "none").value == []
    assert "luthier train" in commands.list_runs(tmp_path / "none").lines()[0]


def test_damaged_run_is_listed_with_its_problem(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    (run.path / "recipe.yaml").write_text("model: [")
    answer = commands.list_runs("runs")
    assert answer.value[0]["state"] == "damaged" and "recipe.yaml" in "\n".join(answer.lines()[2:])


def test_find_by_name_path_or_near_name(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    assert commands.find("first").path == run.path
    assert commands.find("runs/first").path == run.path
    with pytest.raises(RunError, match="first"):
        commands.find("frist")


def test_compare_lists_what_differs(finished: Callable[..., RunFolder]) -> None:
    answer = commands.compare([finished(), finished("second", run__seed=7, optim__lr=1e-3)])
    assert answer.value["recipe"] == {"optim.lr": [2e-4, 1e-3], "run.seed": [0, 7]}
    assert answer.value["results"]["validation"] == [1.0, 1.0]
    assert [step for step, _ in answer.value["curves"]["first"]["step"]] == [1, 2, 3, 4]
    assert any(line.split() == ["run.seed", "0", "7"] for line in answer.lines())
    with pytest.raises(RunError, match="two runs"):
        commands.compare([commands.find("first")])


def test_stop_asks_the_writer(tmp_path: Path, finished: Callable[..., RunFolder]) -> None:
    with pytest.raises(RunError, match=r"not running \(finished\)"):
        commands.stop(finished())
    with claim(tmp_path / "runs", run__name="going") as run:
        commands.stop(RunFolder.open(run.path))
        assert run.stop_requested()


def test_extend_makes_a_finished_run_unfinished(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    answer = commands.extend(run, epochs=5)
    assert answer.value == {"run": "first", "changes": [["optim.epochs", 3.0, 5.0]], "from_step": 4}
    assert run.state == "interrupted" and run.config().optim.epochs == 5
    assert run.events()[-1].data == {"changes": [["optim.epochs", 3.0, 5.0]], "reason": "extend"}
    with claim(Path("runs"), run__name="first", data__train="rows.jsonl", optim__epochs=5) as again:
        assert again.events()[-1].kind == "revised"  # the longer recipe is now the run's own


def test_extend_by_steps(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    assert commands.extend(run, steps=9).value["changes"] == [["optim.epochs", 3.0, None], ["optim.steps", None, 9]]
    assert run.config().optim.steps == 9
    with pytest.raises(RunError, match="9 steps is not longer"):
        commands.extend(run, steps=9)


@pytest.mark.parametrize("given", [{}, {"steps": 9, "epochs": 9.0}, {"steps": 4}, {"epochs": 3.0}])
def test_extend_refuses(finished: Callable[..., RunFolder], given: dict[str, Any]) -> None:
    run = finished()
    before = (run.path / "recipe.yaml").read_bytes()
    with pytest.raises(RunError):
        commands.extend(run, **given)
    assert (run.path / "recipe.yaml").read_bytes() == before and run.state == "finished"


# ---------------------------------------------------------------------------------------------------- golden


def test_golden_run_still_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run folder of format 1, as the first release wrote it. Never remake it: add another for another format."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN, "run")
    run = RunFolder.open("run")
    assert run.state == "finished" and run.checkpoints() == [3, 4]
    assert run.newest_valid_checkpoint() == (run.checkpoint_dir(4), [])
    written = receipt.load(run)
    assert written is not None and (written.passed, written.failed, written.not_run) == (4, 0, 4)
    assert manifest.load(run).kept == 47
    found = statuses(commands.verify(run))
    assert found.pop("source") == "not run" and found.pop("data_unchanged") == "not run"
    assert found.pop("plugins") == "not run" and set(found.values()) == {"pass"}
    assert receipt_page.lines(written)[0] == (run.path / "receipt.md").read_text().splitlines()[0]
    with RunFolder.open("run", write=True) as writer:
        assert writer.emit("note", {"text": "opened"}).seq == len(run.events()) == 22


# ---------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (1_940_000_000, "1.9 GB"), (123_456_789, "123 MB"), (None, "–")],
)
def test_sizes(value: float | None, text: str) -> None:
    assert size(value) == text


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 41, 61, 3723, 97445)] == ["0:00", "0:41", "1:01", "1:02:03", "1d 03:04:05"]
    assert [span(s) for s in (0.4, 41, 132, 3723)] == ["0 s", "41 s", "2 min 12 s", "1 h 02 min"]


def test_decimals() -> None:
    assert [decimal(x) for x in (1.23456, 2e-05, 0.0, None, 3, 1e9)] == ["1.2346", "2e-05", "0.0000", "–", "3", "1e+09"]


def test_tables_align_characters_that_are_two_cells_wide() -> None:
    assert columns(["名", "b"], [["a", "1"], ["一二", "22"]], right=(1,)) == ["名     b", "a      1", "一二  22"]
    assert markdown_table(["a", "b"], [["x|y", "1"]], right=(1,)) == [
        "| a    |   b |",
        "| ---- | --: |",
        "| x\\|y |   1 |",
    ]
