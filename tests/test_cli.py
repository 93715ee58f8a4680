"""The command line as a contract: exit codes, one JSON object, no tracebacks, and no torch before its time."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier import cli
from luthier.config.load import load
from luthier.errors import Interrupted, LuthierError, Problem, TrainingFailed
from luthier.outcome import Outcome
from luthier.text import say, set_language

LEAST = ["model=nano", "data.train=x.json"]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """English, an empty working directory, and no leftover language."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    set_language("en")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "luthier", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


# ---------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    for name in {name.split()[0] for name in cli.COMMANDS}:
        assert re.search(rf"^  {name} +\S", out, re.M), name
    assert "..." not in out.replace("[ARGS]...", ""), "short help is not cut off"


@pytest.mark.parametrize("language", ["en_GB.UTF-8", "zh_CN.UTF-8"])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command(
    name: str, language: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", language)
    code, out, err = run(capsys, *name.split(), "--help")
    assert (code, err) == (0, "")
    assert "shell." not in out, "message ids were put into words"
    chinese = language.startswith("zh")
    assert ("[OPTIONS]" in out) == (not chinese) and ("[选项]" in out) == chinese
    assert ("用法：" in out) == chinese and ("Usage:" in out) == (not chinese)
    assert bool(re.search("[\u4e00-\u9fff]", out)) == chinese
    assert say(f"shell.help.{name.replace(' ', '_')}").split()[0] in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0 and re.fullmatch(r"luthier \d+\.\d+\.\d+\S*\n", out)


def test_every_option_has_help_in_both_languages() -> None:
    import typer.main

    def walk(command: Any) -> None:
        for parameter in command.params:
            assert getattr(parameter, "help", "") and not parameter.help.startswith("shell."), (command.name, parameter)
        for inner in getattr(command, "commands", {}).values():
            walk(inner)

    command = typer.main.get_command(cli.application())
    cli.translate(command)
    walk(command)


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "tune.rnak=3"], ["tune.rank?", "model", "data.train"]),
        (["train", "recipe.yaml"], ["recipe.yaml: there is no such recipe", "luthier init"]),
        (["train", *LEAST, "tune.rank=x", "--dry-run"], ["tune.rank = x", "whole number"]),
        (["train"], ["luthier train --help"]),
        (["trian"], ["trian", "luthier --help"]),
        (["runs"], ["luthier runs --help"]),
        (["runs", "show"], ["luthier runs show --help"]),
        (["runs", "show", "nothing"], ["nothing"]),
        (["plan", *LEAST, "--device", "H10-80GB"], ["--device", "H100-80GB"]),
        (["runs", "extend", "x", "--steps", "many"], ["--steps", "luthier runs extend --help"]),
        (["chat", "nano", "--bogus"], ["--bogus"]),
        (["chat", "nano", "--device", "gpu"], ["cuda?"]),
        (["help", "rnak"], ["tune.rank"]),
        (["init", "x.yaml", "tune.rnak=3"], ["tune.rank?"]),
        (["data", "check", "missing.jsonl"], ["missing.jsonl"]),
        (["data", "check", "missing.jsonl", "--format", "alpacca"], ["alpaca?"]),
    ],
)
def test_bad_input(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    text = out + err
    assert code == 2
    assert "Traceback" not in text and all(word in text for word in words), text
    code, out, err = run(capsys, *arguments, "--json")
    found = json.loads(out)
    problems = found["error"]["problems"] if "error" in found else found["problems"]
    assert code == 2 and err == ""
    assert all({"id", "where", "field", "value", "rule", "remedy"} == problem.keys() for problem in problems)
    assert all(problem["rule"] for problem in problems)


def test_problems_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = run(capsys, "train", "tune.rnak=3")
    assert out == "" and err.count("\n") == 6


def test_problems_in_chinese(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    _, _, err = run(capsys, "train", *LEAST, "tune.rnak=3")
    assert "命令行: tune.rnak = 3: 没有这个设置项" in err


@pytest.mark.parametrize("language", ["en_GB.UTF-8", "zh_CN.UTF-8"])
@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("chat", "RUN|MODEL"),
        ("runs", ""),
        ("runs extend x --steps many", "--steps"),
        ("runs extend x --steps 0", "1"),
        ("runs extend x --epochs many", "--epochs"),
        ("chat nano --top-p 3", "--top-p"),
        ("chat nano --bogus", "--bogus"),
        ("chat nano --sys", "--system"),
        ("trian", "train"),
        ("qqqq", "qqqq"),
        ("runs show a b", "b"),
        ("chat nano --system", "--system"),
        ("merge nano --force=3", "--force"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_language(
    line: str, word: str, language: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", language)
    _, out, err = run(capsys, *line.split())
    rule = err.splitlines()[0]
    assert out == "" and word in rule
    assert not re.search("Input should|Missing|No such|Got unexpected|requires an|does not take", rule)
    if language.startswith("zh"):
        assert not re.search("[a-z]{4}", re.sub(r"--\w+|qqqq|trian|train", "", rule)), rule


# ---------------------------------------------------------------------------------------------------- what works


def test_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text("model: nano\ndata: {train: x.json}\ntune: {rank: 8}\n")
    code, out, err = run(capsys, "train", "r.yaml", "optim.steps=5", "--dry-run")
    assert (code, err) == (0, "")
    Path("again.yaml").write_text(out)
    assert load("again.yaml").tune.effective_alpha == 16 and load("again.yaml").optim.steps == 5
    code, out, _ = run(capsys, "--json", "train", "r.yaml", "--dry-run")
    assert json.loads(out)["recipe"]["tune"]["alpha"] == 16


def test_init(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "init")
    assert code == 0 and "luthier train recipe.yaml" in out
    assert load("recipe.yaml").model.path == "nano"
    assert run(capsys, "init")[0] == 2
    code, out, _ = run(capsys, "init", "mine.yaml", "model=org/name", "--json")
    assert json.loads(out)["recipe"]["model"]["path"] == "org/name" and load("mine.yaml").model.path == "org/name"


def test_help_of_fields(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "help")
    assert code == 0 and "optim.lr " in out
    code, out, _ = run(capsys, "help", "rank")
    assert out.startswith("tune.rank\n") and "default: 16" in out
    code, out, _ = run(capsys, "help", "optim.lr", "--json")
    assert [field["name"] for field in json.loads(out)["fields"]] == ["optim.lr"]


def test_data_check_takes_a_format_beside_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 3)
    line = ["data", "check", "model=m", "data.train=x.jsonl", "--json"]
    assert json.loads(run(capsys, *line)[1])["files"][0]["format"] == "prompt"
    checked = json.loads(run(capsys, *line, "--format", "alpaca")[1])
    assert checked["files"][0]["format"] == "alpaca" and checked["problems"]


def test_a_data_file_is_checked_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["b.jsonl"], ["data.max_tokens=3"]):
        code, _, err = run(capsys, "data", "check", "a.jsonl", *more)
        assert code == 2 and "a.jsonl" in err and "data.train=[a.jsonl" in err and more[0] in err


def test_data_check(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"Say {n}", "output": str(n)} for n in range(3)]
    Path("x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run(capsys, "data", "check", "x.jsonl")
    assert code == 0 and "x.jsonl" in out
    code, out, _ = run(capsys, "data", "check", "x.jsonl", "--json")
    assert json.loads(out)["train"] == 3
    code, out, _ = run(capsys, "data", "check", "model=nano", "data.train=x.jsonl", "data.validation=0.4", "--json")
    assert code == 0 and json.loads(out)["validation"] == 1
    Path("x.jsonl").write_text('{"instruction": "a", "output": ""}\n')
    code, out, _ = run(capsys, "data", "check", "x.jsonl", "--json")
    assert code == 2 and json.loads(out)["problems"]


def test_runs_list_without_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "runs", "list")[0] == 0
    code, out, _ = run(capsys, "runs", "list", "--json")
    assert (code, json.loads(out)) == (0, {"runs": []})


def test_questions_come_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert list(cli.questions()) == ["one\n", "two\n"]


def test_data_show(capsys: pytest.CaptureFixture[str], tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model()
    rows = [{"instruction": f"Say {n}", "output": f"It is {n}."} for n in range(3)]
    Path("x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"model={folder}", "data.train=x.jsonl", "--rows", "1", "--first", "2"]
    code, out, err = run(capsys, "data", "show", *given, "--json")
    assert code == 0, err
    (shown,) = json.loads(out)["rows"]
    text = "".join(piece["text"] for piece in shown["pieces"])
    learned = "".join(piece["text"] for piece in shown["pieces"] if piece["kind"] == "trained")
    assert shown["where"] == "x.jsonl:2" and "Say 1" in text and learned.startswith("It is 1.")
    assert "Say" not in learned and 0 < shown["learned"] < shown["tokens"]
    assert (shown["sequence"], shown["sequences"]) == (1, 1)
    code, out, _ = run(capsys, "data", "show", *given)
    assert re.search(r"⟦It is 1\.‹<\|im_end\|>›⟧", out) and re.search(r"^Say 1", out, re.M)
    assert "\x1b" not in out and "x.jsonl:2: " in out
    code, _, err = run(capsys, "data", "show", *given[:2], "data.validation=0", "--first", "100")
    assert code == 2 and "--first = 100: there are only 3 rows" in err


def test_data_show_writes_a_page_and_needs_no_weights(
    capsys: pytest.CaptureFixture[str], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model(), tmp_path / "bare")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "config.json").unlink()
    Path("x.jsonl").write_text(json.dumps({"instruction": "<b>Say</b>", "output": "It is."}))
    given = [f"model={folder}", "data.train=x.jsonl"]
    code, out, err = run(capsys, "data", "show", *given, "--html", "rows.html")
    assert code == 0 and "rows.html" in out, err
    page = Path("rows.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;Say&lt;/b&gt;" in page and "<b>Say" not in page and "x.jsonl:1" in page
    code, _, err = run(capsys, "data", "show", *given, "--html", "missing/rows.html")
    assert code == 2 and "missing/rows.html" in err and "Traceback" not in err


def test_data_show_names_the_row_that_the_template_refuses(
    capsys: pytest.CaptureFixture[str], tiny_model: Callable[..., Path]
) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    Path("x.jsonl").write_text(json.dumps({**rows[0], "tools": [{"name": "f"}]}))
    code, _, err = run(capsys, "data", "show", f"model={tiny_model()}", "data.train=x.jsonl")
    assert code == 2 and err.startswith("x.jsonl:1: ") and "no place for them" in err


# ---------------------------------------------------------------------------------------------------- what is called


def test_what_commands_import_is_there() -> None:
    """Imports stand inside the commands, where no other test need meet them; each name must be defined."""
    package = Path(cli.__file__).parent
    for node in ast.walk(ast.parse(Path(cli.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("luthier"):
            parts = str(node.module).split(".")[1:]
            for alias in node.names:
                place = package.joinpath(*parts)
                if (place / f"{alias.name}.py").is_file():
                    continue
                source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
                tree = ast.parse(source.read_text(encoding="utf-8"))
                assert alias.name in {name for each in tree.body for name in defined(each)}, f"{source}: {alias.name}"


def defined(statement: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    names = [each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)]
    return names + [alias.name for alias in getattr(statement, "names", []) if not isinstance(alias, str)]


# ---------------------------------------------------------------------------------------------------- faults


def raises(error: BaseException) -> Any:
    def command() -> None:
        print("a library prints this")
        raise error

    return command


FAULTS = [
    (TrainingFailed(Problem("engine.checkpoint_format")), 1, "engine.checkpoint_format"),
    (Interrupted(signal.SIGINT, "runs/a/checkpoints/step-3"), 130, "engine.interrupted"),
    (Interrupted(signal.SIGTERM, "runs/a/checkpoints/step-3"), 143, "engine.interrupted"),
    (KeyboardInterrupt(), 130, "shell.stopped"),
    (LuthierError("odd"), 1, "shell.unexpected"),
    (ZeroDivisionError("by zero"), 1, "shell.unexpected"),
]


@pytest.mark.parametrize(("error", "expected", "id"), FAULTS, ids=[type(fault[0]).__name__ for fault in FAULTS])
def test_faults(
    error: BaseException,
    expected: int,
    id: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "doctor", raises(error))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = run(capsys, "doctor")
    assert code == expected and "Traceback" not in out + err and 0 < len(err.splitlines()) <= 3
    code, out, err = run(capsys, "doctor", "--json")
    assert code == expected and [each["id"] for each in json.loads(out)["error"]["problems"]] == [id]
    assert err == "a library prints this\n", "stdout belongs to the JSON object"


@pytest.mark.parametrize(("command", "goes_on"), [("train", True), ("doctor", False), ("chat", False)])
def test_only_what_goes_on_is_said_to_go_on(
    command: str, goes_on: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.COMMANDS, command, raises(KeyboardInterrupt()))
    code, _, err = run(capsys, command)
    assert code == 130 and ("A run that had begun" in err) == goes_on


def test_json_is_strict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "doctor", lambda: Outcome({"loss": float("nan"), "path": Path("x")}, []))
    assert json.loads(run(capsys, "doctor", "--json")[1], parse_constant=pytest.fail) == {"loss": None, "path": "x"}


def test_a_fault_is_kept_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "doctor", raises(ZeroDivisionError("by zero")))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, _, err = run(capsys, "doctor")
    assert "ZeroDivisionError: by zero" in err and "--debug" in err
    (file,) = tmp_path.glob("luthier-*.txt")
    assert str(file) in err and "Traceback" in file.read_text()
    with pytest.raises(ZeroDivisionError):
        cli.run(["doctor", "--debug"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert run(capsys, "doctor")[0] == 1


def test_a_reader_that_goes_away() -> None:
    """`luthier help | head -1` ends without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "luthier", "help"], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


# ---------------------------------------------------------------------------------------------------- processes


def test_a_process_of_its_own(tmp_path: Path) -> None:
    done = process("train", "tune.rank=x", env={**os.environ, "LANG": "zh_CN.UTF-8", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and "tune.rank = x" in done.stderr and "Traceback" not in done.stderr
    done = process("init", "r.yaml", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["file"] == "r.yaml"


LIGHT = [
    ["--help"],
    ["train", "--help"],
    ["train", "missing.yaml", "--dry-run"],
    ["train", "tune.rank=x"],
    ["train", *LEAST, "--dry-run"],
    ["init", "light.yaml"],
    ["plan", *LEAST, "run.device=cpu"],
    ["plan", *LEAST, "--device", "8xH100-80GB", "--json"],
    ["help", "rank"],
    ["runs", "list"],
    ["data", "check", "missing.json"],
]


def test_no_torch_before_its_time() -> None:
    """In one process, because starting Python is what takes long: none of these commands loads torch."""
    code = (
        "import sys\n"
        "from luthier import cli\n"
        f"for line in {LIGHT!r}:\n"
        "    cli.run(line)\n"
        "    loaded = {'torch', 'transformers', 'rich.console'} & set(sys.modules)\n"
        "    assert not loaded, (line, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
