"""What all tests share.

What goes in: the machine as it is. What comes out: a process without network, personal settings or surplus threads,
and fixtures for real data, tiny models and run folders.
"""

from __future__ import annotations

import atexit
import csv
import gc
import gzip
import io
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import leftovers
import pytest
import unmeasured

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# ------------------------------------------------------------------------------------------- a neutral process


def _neutral_environment() -> None:
    """Before any test module is imported: no network, nobody's tokens or settings, English, few threads.

    The tests must say the same on every machine, and child processes inherit what is set here.
    """
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "LUTHIER_", "LC_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ.pop("LANGUAGE", None)
    os.environ["LANG"] = "C.UTF-8"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="luthier-tests-hf-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process that a test starts compiles the package anew
    # One thread: on matrices this small others wait for each other, four times the processor time on a busy machine.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


_neutral_environment()

os.fsync = lambda _: None
"""No test cuts the power, and a training forces a hundred files to the disk. Processes of their own still do."""


_modules = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol() -> None:
    """Collections of garbage, of which every training makes two, need not look through modules: they are put aside,
    those too that a test was the first to import. It was a third of the processor time of a file of trainings."""
    global _modules
    if len(sys.modules) != _modules:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the proofs that take minutes to hours")


DEAREST = (
    "test_web_pages_new.py",
    "test_ranks.py",
    "test_resume.py",
    "test_queue.py",
    "test_peak_runs.py",
    "test_rehearsal.py",
    "test_web_pages_run.py",
    "test_serve.py",
    "test_decoder.py",
    "test_train.py",
    "test_web_pages_chat.py",
    "test_peak.py",
    "test_new_tokens.py",
    "test_offline.py",
    "test_web_recipes.py",
    "test_hub.py",
    "test_bottoms.py",
    "test_session.py",
    "test_docs.py",
    "test_web_talk.py",
    "test_stages.py",
    "test_cli_main_job.py",
    "test_online.py",
    "test_gguf_write.py",
    "test_merge.py",
    "test_distill.py",
    "test_near.py",
    "test_preference_runs.py",
    "test_native.py",
    "test_quantised.py",
    "test_watch.py",
    "test_web_runs.py",
    "test_web_jobs.py",
)
"""The files that take longest come first (`./run test` gives out files in this order), so that none of them is begun
when the rest is nearly done and the other workers have nothing left. Measured; dearest first."""
LONGEST = ("test_mutations.py", "test_fuzz.py")
"""With `--long` each of these takes an hour and more of one worker."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    proofs = config.getoption("--long")
    places = {name: place for place, name in enumerate((LONGEST if proofs else ()) + DEAREST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if proofs:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """`./run test` runs the linters first and says here what they found: it fails the session."""
    if os.environ.get("RUN_CHECKS_FAILED") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    failed = os.environ.get("RUN_CHECKS_FAILED")
    if failed:
        terminalreporter.write_line(f"FAILED before the tests: {failed} (see the top of this output)", red=True)


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests have started ends with them, however they end."""
    watching = leftovers.watch(tmp_path_factory.getbasetemp())
    yield
    watching.communicate()


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    """A test that chooses Chinese does not choose it for the next one."""
    from luthier.text import set_language

    set_language("en")
    yield
    set_language("en")


@pytest.fixture(autouse=True)
def _torchs_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Which library multiplies float32 matrices is not left to a measurement on a busy machine, and a run that chooses
    another does not choose it for the next test."""
    if (backend := sys.modules.get("luthier.engine.backend")) is not None:
        monkeypatch.setattr(backend, "_measured", unmeasured.products)
    yield
    if "luthier.kernels.products" in sys.modules:
        sys.modules["luthier.kernels.products"].use("torch")


# --------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for runs; the working directory is its parent, so that the default `run.dir: runs` is it."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder outside of pytest's own, which it closes to other users each time it starts."""
    folder = Path(tempfile.mkdtemp(prefix="luthier-open-"))
    folder.chmod(0o755)
    yield folder
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)  # what a test has closed can be deleted again
    shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`real_data("identity.json")`: the real file where the shared folder is at hand, else a small one of its form.

    A test must hold for both, so it cannot ask which one it got.
    """
    made = tmp_path_factory.mktemp("made-data")

    def find(name: str) -> Path:
        real = SHARED_DATA / name
        if real.is_file():
            return real
        path = made / name
        if not path.exists():
            path.write_text(MADE_FORMS[name](random.Random(name)), encoding="utf-8")
        return path

    return find


WORDS = ("the", "a", "river", "quietly", "carries", "three", "old", "boats", "past", "green", "hills", "and", "small")


def _sentence(rng: random.Random, words: int = 9) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def _alpaca(rng: random.Random, rows: int = 60) -> str:
    return json.dumps(
        [
            {"instruction": _sentence(rng), "input": _sentence(rng) if row % 3 else "", "output": _sentence(rng, 20)}
            for row in range(rows)
        ],
        ensure_ascii=False,
        indent=2,
    )


def _identity(rng: random.Random) -> str:
    return json.dumps(
        [
            {"instruction": _sentence(rng, 4), "input": "", "output": "I am {{name}}, made by {{author}}. 你好！"}
            for _ in range(30)
        ],
        ensure_ascii=False,
        indent=2,
    )


def _messages_in_parts(rng: random.Random) -> str:
    def message(role: str, weight: float) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "value": _sentence(rng)}], "loss_weight": weight}

    rows = [{"messages": [message("user", 0.0), message("assistant", 1.0)]} for _ in range(40)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _reasoning(rng: random.Random) -> str:
    def part(kind: str) -> dict[str, str]:
        return {"type": kind, "value": _sentence(rng)}

    rows = [
        {
            "messages": [
                {"role": "system", "content": [part("text")]},
                {"role": "user", "content": [part("text")]},
                {"role": "assistant", "content": [part("reasoning"), part("text")]},
            ]
        }
        for _ in range(10)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _tool_calls(rng: random.Random) -> str:
    tools = json.dumps([{"name": "look_up", "description": "finds", "parameters": {"type": "object"}}])
    call = json.dumps({"name": "look_up", "arguments": {"what": "boats"}})

    def turns() -> list[dict[str, str]]:
        said = (("human", _sentence(rng)), ("function_call", call), ("observation", "{}"), ("gpt", _sentence(rng)))
        return [{"from": role, "value": text} for role, text in said]

    return json.dumps([{"conversations": turns(), "tools": tools} for _ in range(300)])


def _preference(rng: random.Random) -> str:
    return json.dumps(
        [
            {
                "conversations": [{"from": "human", "value": _sentence(rng)}],
                "chosen": {"from": "gpt", "value": _sentence(rng)},
                "rejected": {"from": "gpt", "value": _sentence(rng)},
            }
            for _ in range(20)
        ]
    )


def _labelled(rng: random.Random) -> str:
    def turns() -> list[dict[str, str]]:
        return [{"role": role, "content": _sentence(rng)} for role in ("user", "assistant")]

    return json.dumps([{"messages": turns(), "label": bool(row % 2)} for row in range(20)])


def _texts(rng: random.Random) -> str:
    return "".join(json.dumps({"text": _sentence(rng, 120)}) + "\n" for _ in range(40))


def _plain(rng: random.Random) -> str:
    return "".join(" ".join(_sentence(rng) for _ in range(200)) + "\n" for _ in range(5))


MADE_FORMS: dict[str, Callable[[random.Random], str]] = {
    "alpaca_en_demo.json": _alpaca,
    "identity.json": _identity,
    "v1_sft_demo.jsonl": _messages_in_parts,
    "reason_tool_use_demo_50.jsonl": _reasoning,
    "glaive_toolcall_en_demo.json": _tool_calls,
    "dpo_en_demo.json": _preference,
    "kto_en_demo.json": _labelled,
    "c4_demo.jsonl": _texts,
    "wiki_demo.txt": _plain,
}


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """`write_rows("data.jsonl", rows)`: rows (dicts) in the form that the name's ending says: .json, .jsonl,
    .jsonl.gz, .csv."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if name.endswith(".jsonl.gz"):
            path.write_bytes(gzip.compress(lines.encode()))
        elif name.endswith(".jsonl"):
            path.write_text(lines, encoding="utf-8")
        elif name.endswith(".csv"):
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            path.write_text(text.getvalue(), encoding="utf-8")
        else:
            path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return path

    return write


# ------------------------------------------------------------------------------------------------ tiny models

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILY_EXTRAS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8, "head_dim": 8},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
    "phi3": {"sliding_window": 8},
    "olmo2": {},
    "granite": {"embedding_multiplier": 6.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
}
"""What makes each family different from llama, so that a tiny model shows it."""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("qwen2", seed=1, template=False, num_hidden_layers=3)`: a folder as Hugging Face would hold it.

    Random float32 weights from transformers, a byte-level BPE tokenizer (320 ids at most) with ChatML special tokens
    and, unless `template=False`, a ChatML chat template. Made once per session for equal arguments: read it, never
    write into it (`shutil.copytree` first).
    """
    made: dict[str, Path] = {}

    def make(family: str = "llama", *, seed: int = 0, template: bool = True, **config: Any) -> Path:
        key = json.dumps([family, seed, template, config], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"tiny-{family}")
            _write_tiny_model(folder, family, seed, template, config)
            made[key] = folder
        return made[key]

    return make


def _write_tiny_model(folder: Path, family: str, seed: int, template: bool, overrides: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    vocabulary = write_tiny_tokenizer(folder, template)
    ids = {name: vocabulary - len(SPECIAL_TOKENS) + place for place, name in enumerate(SPECIAL_TOKENS)}
    settings: dict[str, Any] = {
        **TINY,
        **FAMILY_EXTRAS[family],
        "vocab_size": vocabulary,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        **overrides,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # Fresh norms are all ones and fresh biases all zero: a reader that drops them would not be seen.
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif "embed" in name or "lm_head" in name:
                    parameter.mul_(10)  # initialised at 0.02, logits are otherwise nearly equal
    model.save_pretrained(folder)


def write_tiny_tokenizer(folder: Path, template: bool = True) -> int:
    """Save a byte-level BPE tokenizer with ChatML special tokens (the last ids) into `folder`; its vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=317, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((_sentence(rng) for _ in range(200)), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    if template:
        fast.chat_template = CHATML
    fast.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


@pytest.fixture
def no_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the saved files without a process of its own, which takes longer than the training in most tests;
    that a fresh one can load them is shown with other runs."""
    from luthier import proof
    from luthier.session import open_any

    def reload(run: Any) -> Any:
        session = open_any(run.path)
        return proof.said(session.decoder, proof.Probe.load(run).prompts, session.adapter)

    monkeypatch.setattr(proof, "reload_in_fresh_process", reload)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; without one, tests are skipped. It ends with its file: a process can have one
    driver, whose event loop counts as running until then."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
