"""Opening runs and models for answering, and talking to them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from luthier import answering, cli, proof, writing
from luthier import chat as chatting
from luthier.data import check
from luthier.data.formats import Completion, Message, Text
from luthier.engine import loop
from luthier.errors import DataError, ModelError, RunError, TrainingFailed
from luthier.methods import supervised
from luthier.models import hub_huggingface
from luthier.models.cache import BLOCK
from luthier.models.decoder import Decoder
from luthier.run import Run
from luthier.sampling import Chosen, Sampling
from luthier.session import Session, chat_of, open_session
from luthier.text import say, set_language
from luthier.training import train
from luthier.writing import Reply

QUESTIONS = ["Say amber", "Say birch and cedar, slowly", "你好", "Count to seven, please, and then count back again"]
SHORT = Sampling(max_tokens=12)
ROWS = [{"instruction": f"Say {i}", "output": f"{i} 好的 é {'yes ' * (i % 5)}"} for i in range(24)]


def recipe_of(base: Path, rows: Path, runs: Path, name: str, tune) -> dict:
    return {
        "model": {"path": str(base), "dtype": "float32"},
        "data": {"train": str(rows), "validation": 0.0},
        "tune": tune,
        "optim": {"lr": 2e-2, "steps": 6, "batch": 8},
        "run": {"name": name, "device": "cpu", "dir": str(runs)},
    }


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory) -> Path:
    """A folder with `runs/lora` and `runs/full`, the rows, and `base`, a copy of a tiny model of their own."""
    folder = tmp_path_factory.mktemp("sessions")
    shutil.copytree(tiny_model("qwen2", seed=5), folder / "base")
    rows = folder / "rows.json"
    rows.write_text(json.dumps(ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
        train(recipe_of(folder / "base", rows, folder / "runs", "lora", {"kind": "lora", "rank": 4}))
        train(recipe_of(folder / "base", rows, folder / "runs", "full", "full"))
    return folder


@pytest.fixture
def copied(place, tmp_path) -> Path:
    """The same, to spoil; the runs know their base by its path in `place`."""
    shutil.copytree(place, tmp_path / "copy")
    return tmp_path / "copy"


# -------------------------------------------------------------------------------------------------------- opening


def test_a_model_folder_a_run_folder_and_a_run_name(place, monkeypatch):
    monkeypatch.chdir(place)
    model = open_session(place / "base", device="cpu")
    assert (model.adapter, model.label, model.base) == (None, str(place / "base"), model.decoder)
    folder, name = open_session(place / "runs" / "lora"), open_session("lora")
    assert folder.adapter == name.adapter == "default" and name.label == "lora"
    assert folder.answers(QUESTIONS, SHORT) == name.answers(QUESTIONS, SHORT)
    assert folder.answers(QUESTIONS, SHORT, tuned=False) == model.answers(QUESTIONS, SHORT)
    assert folder.answers(QUESTIONS, SHORT) != model.answers(QUESTIONS, SHORT)


def test_a_run_of_whole_weights_can_stand_beside_its_base(place):
    alone = open_session(place / "runs" / "full")
    assert alone.base is None and alone.adapter is None
    both = open_session(place / "runs" / "full", compare=True)
    assert both.answers(QUESTIONS, SHORT) == alone.answers(QUESTIONS, SHORT)
    base = open_session(place / "base", device="cpu")
    assert both.answers(QUESTIONS, SHORT, tuned=False) == base.answers(QUESTIONS, SHORT)


def test_a_run_of_whole_weights_outlives_its_base(copied):
    recipe = copied / "runs" / "full" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(recipe_model(recipe), str(copied / "gone")))
    assert open_session(copied / "runs" / "full").answers(["Say 3"], SHORT)
    with pytest.raises(ModelError):
        open_session(copied / "runs" / "full", compare=True)


def recipe_model(recipe: Path) -> str:
    return Run(recipe.parent).config.model.path


@pytest.mark.parametrize(("name", "compare"), [("lora", False), ("full", True)])
def test_a_base_that_was_changed_is_not_answered_with(copied, name, compare):
    recipe = copied / "runs" / name / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(recipe_model(recipe), str(copied / "base")))
    open_session(copied / "runs" / name, compare=compare)
    weights = copied / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        open_session(copied / "runs" / name, compare=compare)
    (problem,) = caught.value.problems
    assert problem.id == "models.base_changed" and problem.where == str(copied / "base")
    assert "manifest.json" in str(caught.value)


def test_a_run_without_a_result_says_so_in_both_languages(place, monkeypatch, tmp_path):
    nan = torch.full((), torch.nan, requires_grad=True)
    monkeypatch.setattr(supervised.Supervised, "loss", lambda *_: loop.Loss({"nll": nan * 1}, {}))
    recipe = recipe_of(place / "base", place / "rows.json", tmp_path, "broken", "lora")
    with pytest.raises(TrainingFailed):
        train(recipe)
    for language, words in (("en", ("broken", "failed", "luthier runs resume")), ("zh", ("还没有结果", "broken"))):
        set_language(language)
        with pytest.raises(RunError) as caught:
            open_session(tmp_path / "broken")
        assert caught.value.problems[0].id == "runs.no_result"
        assert all(word in str(caught.value) for word in words)


def test_what_is_neither_run_nor_model_is_a_model_error(tmp_path):
    with pytest.raises(ModelError):
        open_session(tmp_path / "nothing-here")


def test_a_mistyped_run_asks_no_network_and_names_the_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(hub_huggingface, "fetch", lambda *_: pytest.fail("asked a hub"))
    for target, near in (("loar", "runs/lora"), ("runs/ful", "runs/full"), ("runs/loar", "runs/lora")):
        with pytest.raises(ModelError, match="Did you mean") as caught:
            open_session(target)
        assert near in str(caught.value) and caught.value.problems[0].value == target
    with pytest.raises(ModelError) as caught:
        open_session("runs/qqqqqq")
    assert f"no model or run {place / 'runs' / 'qqqqqq'}" in str(caught.value)
    with pytest.raises(ModelError) as caught:
        open_session("qqqqqq")
    assert caught.value.problems[0].id == "hub.unknown"


def test_a_model_without_a_template_needs_one(tiny_model):
    bare = tiny_model("llama", template=False)
    with pytest.raises(ModelError, match="chatml"):
        open_session(bare, device="cpu").answers(["hi"], SHORT)
    assert open_session(bare, device="cpu", template="chatml").answers(["hi"], SHORT)


# Root may write and read anywhere, so this is done as nobody; but the first time as root, because nobody may not read
# the modules that are imported only when they are needed.
READER = """
import json, os, sys
from luthier.generate import Sampling
from luthier.session import open_session, run_path
folder, home, closed = sys.argv[1:]
open_session(folder, device="cpu").answers(["Say amber"], Sampling(max_tokens=4))
os.setgid(65534); os.setuid(65534)
try:
    open(os.path.join(folder, "probe"), "w")
except PermissionError:
    pass
else:
    sys.exit("the folder is writable")
os.environ["HOME"] = home
answers = open_session(folder, device="cpu").answers(["Say amber"], Sampling(max_tokens=4))
print(json.dumps([answers, run_path(closed)]))
"""


def test_a_read_only_model_folder_answers_and_a_closed_one_is_no_run(place, open_to_all):
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folder, home, closed = open_to_all / "model", open_to_all / "home", open_to_all / "closed"
    shutil.copytree(place / "base", folder)
    home.mkdir(mode=0o777)
    closed.mkdir(mode=0o700)
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(path.name for path in folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder), str(home), str(closed)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = open_session(folder, device="cpu").answers(["Say amber"], Sampling(max_tokens=4))
    assert json.loads(done.stdout) == [expected, None]
    assert sorted(path.name for path in folder.iterdir()) == before


# ------------------------------------------------------------------------------------------------------ answering


@pytest.mark.parametrize("tuned", [True, False])
def test_a_batch_answers_like_one_by_one(place, tuned):
    session = open_session(place / "runs" / "lora")
    together = session.answers(QUESTIONS, SHORT, tuned=tuned)
    assert together == [session.answer(question, SHORT, tuned=tuned) for question in QUESTIONS]
    assert session.answers([], SHORT) == []


def test_questions_messages_and_mappings_are_one_thing(place):
    session = open_session(place / "runs" / "lora")
    forms = ["Say 3", [Message("user", "Say 3")], [{"role": "user", "content": "Say 3"}]]
    assert all(chat_of(form).messages == (Message("user", "Say 3"),) for form in forms)
    assert len(set(session.answers(forms, SHORT))) == 1


def test_tool_calls_and_tools_reach_the_template_as_in_a_data_file():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    chat = chat_of({"messages": turns, "tools": tools})
    assert chat.messages[1].content == "" and chat.messages[1].extra["tool_calls"][0]["function"]["name"] == "add"
    assert [each["function"]["name"] for each in chat.tools] == ["add"]


def test_a_message_with_a_misspelt_key_is_refused_by_name():
    with pytest.raises(DataError, match="contnet"):
        chat_of([{"role": "user", "contnet": "hello"}])


@pytest.mark.parametrize("seed", range(6))
def test_streamed_pieces_make_the_answer_in_whole_characters(place, seed):
    """Hot sampling from a byte-level vocabulary writes broken characters, also at the very end."""
    session = open_session(place / "runs" / "lora")
    pieces: list[str] = []
    hot = Sampling(max_tokens=20, temperature=3.0, seed=seed)
    answer = session.answer("你好", hot, on_text=pieces.append)
    assert "".join(pieces) == answer and all(pieces)
    assert answer == session.answer("你好", hot)
    answer.encode("utf-8")


def test_the_end_of_a_stream_is_not_held_back(place, monkeypatch):
    """An answer cut in the middle of a character ends as the answer itself does."""
    session = open_session(place / "runs" / "lora")
    cut = [*session.renderer.prompt((Message("user", "é"),))]
    cut = next(cut[: at + 1] for at in range(len(cut)) if session.renderer.decode(cut[: at + 1]).endswith("\ufffd"))

    class Canned:
        def __init__(self, *_, **__):
            pass

        def add(self, request):
            for token in cut:
                request.chosen.append(Chosen(token))
                request.on_token(request.chosen[-1])
            request.finish = "length"

        def step(self):
            return False

    monkeypatch.setattr(writing, "Generator", Canned)
    pieces: list[str] = []
    answer = session.answer("x", on_text=pieces.append)
    assert answer.endswith("\ufffd") and "".join(pieces) == answer


# ---------------------------------------------------------------------------------------------------------- chat


@pytest.fixture
def asked(monkeypatch) -> list[tuple[bool, tuple[Message, ...]]]:
    """What is put to the model in a chat: (tuned, history)."""
    seen = []
    reply = Session.reply

    def told(self, conversation, sampling=None, *, tuned=True, voice=None, on_text=None):
        if on_text is not None:
            seen.append((tuned, tuple(conversation)))
        return reply(self, conversation, sampling, tuned=tuned, voice=voice, on_text=on_text)

    monkeypatch.setattr(Session, "reply", told)
    return seen


def talk(target, lines, *, compare=False, **settings) -> tuple[int, str]:
    written: list[str] = []
    session = open_session(target, compare=compare)
    count = chatting.chat(session, lines, written.append, sampling=SHORT, compare=compare, **settings)
    return count, "".join(written)


def test_a_conversation_is_remembered_until_a_new_one_begins(place, asked):
    count, text = talk(place / "runs" / "lora", ["Say 1\n", "\n", "  Say 2 ", "/new", "Say 3", "/quit", "Say 4"])
    assert count == 3
    histories = [history for _, history in asked]
    assert [[m.content for m in h if m.role == "user"] for h in histories] == [["Say 1"], ["Say 1", "Say 2"], ["Say 3"]]
    session = open_session(place / "runs" / "lora")
    first = session.answer("Say 1", SHORT)
    assert histories[1][1] == Message("assistant", first)
    second = session.answer(histories[1], SHORT)
    greeting, *shown = text.split("\n", 1)
    assert "lora" in greeting and shown[0].startswith(f"{first}\n{second}\n")
    assert say("chat.new") in text


def test_a_slash_and_a_word_is_no_question(place, asked):
    count, text = talk(place / "runs" / "lora", ["/help", "/exit", "what is 1/2?"])
    assert count == len(asked) == 1 and text.count("/new (start over)") == 2


def test_a_system_prompt_opens_every_conversation(place, asked):
    talk(place / "runs" / "lora", ["Say 1", "/new", "Say 2"], system="Be brief.")
    assert [history[0] for _, history in asked] == [Message("system", "Be brief.")] * 2


def test_both_sides_of_a_comparison_have_histories_of_their_own(place, asked):
    count, text = talk(place / "runs" / "lora", ["Say 1", "Say 2"], compare=True)
    assert count == 2 and [tuned for tuned, _ in asked] == [True, False, True, False]
    tuned, base = asked[2][1], asked[3][1]
    session = open_session(place / "runs" / "lora")
    assert tuned[1].content == session.answer("Say 1", SHORT)
    assert base[1].content == session.answer("Say 1", SHORT, tuned=False) != tuned[1].content
    assert text.count("[lora] ") == 2 and text.count(f"[{place / 'base'}] ") == 2


def test_the_chat_speaks_chinese(place):
    set_language("zh")
    _, text = talk(place / "runs" / "lora", ["/new"])
    assert "正在与" in text and "新的对话" in text


# ----------------------------------------------------------------------------------------- prompts and raw text


PROMPTS = [{"prompt": f"Count {i}:", "completion": f" {i} and {i + 1}"} for i in range(24)]
TEXTS = [{"text": f"Line {i}. And {i + 1} follows it, as it does."} for i in range(24)]


@pytest.fixture(scope="module")
def raw(tiny_model, tmp_path_factory) -> Path:
    """`runs/prompts` of a base with a chat template; `runs/bare` of one without; `runs/texts` in full."""
    folder = tmp_path_factory.mktemp("raw")
    for name, rows in (("prompts", PROMPTS), ("texts", TEXTS)):
        (folder / f"{name}.json").write_text(json.dumps(rows))
    with_template, without = (tiny_model("qwen2", seed=5, template=each) for each in (True, False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
        train(recipe_of(with_template, folder / "prompts.json", folder / "runs", "prompts", "lora"))
        train(recipe_of(without, folder / "prompts.json", folder / "runs", "bare", "lora"))
        texts = recipe_of(with_template, folder / "texts.json", folder / "runs", "texts", "full")
        train({**texts, "method": "pretrain"})
    return folder


@pytest.fixture
def sent(monkeypatch) -> list[list[int]]:
    """The prompts that reach the model."""
    seen: list[list[int]] = []
    real = writing.Generator.add

    def told(self, request):
        seen.append(list(request.prompt))
        real(self, request)

    monkeypatch.setattr(writing.Generator, "add", told)
    return seen


@pytest.mark.parametrize("name", ["prompts", "bare", "texts"])
def test_a_bare_question_is_the_prompt_that_raw_rows_were_trained_on(raw, sent, name):
    session = open_session(raw / "runs" / name)
    assert session.continues_text
    session.answer("Count 3:", SHORT)
    Run(raw / "runs" / name).chat("Count 3:", max_tokens=2)
    session.answers(["Count 3:"], SHORT)
    row = Completion("Count 3:", " 3") if name != "texts" else Text("Count 3:")
    ids, weights = session.renderer.train(row)
    learnt = [at for at, weight in enumerate(weights) if weight]
    trained = ids[: learnt[0]] if name != "texts" else ids[:-1]  # a text is learnt whole, its end token last
    assert sent == [trained.tolist()] * 3


def test_messages_keep_the_template_where_there_is_one(raw, sent):
    session = open_session(raw / "runs" / "prompts")
    session.answer([Message("user", "Count 3:")], SHORT)
    assert sent == [session.renderer.prompt([Message("user", "Count 3:")])]
    with pytest.raises(DataError, match="raw text"):
        open_session(raw / "runs" / "bare").answer([Message("user", "Count 3:")], SHORT)


def test_the_shape_of_the_rows_stands_beside_the_weights(raw, place):
    shapes = {}
    for run in (raw / "runs" / "prompts" / "adapter", raw / "runs" / "texts" / "model", place / "runs/lora/adapter"):
        shapes[run.parent.name] = json.loads((run / "renderer.json").read_text())["trained"]
    assert shapes == {"prompts": "completion", "texts": "text", "lora": "chat"}
    assert open_session(raw / "runs" / "texts" / "model").continues_text, "the folder alone knows it too"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_chat_with_raw_text_says_so_once_and_sends_each_line_alone(raw, sent, language):
    set_language(language)
    session = open_session(raw / "runs" / "bare", compare=True)
    written: list[str] = []
    lines = ["Count 1: \n", "\n", "Count 2:\n"]
    assert chatting.chat(session, lines, written.append, sampling=SHORT, compare=True) == 2
    text = "".join(written)
    assert text.count(say("chat.greeting_text", label="bare", quit="/quit")) == 1
    expected = [session.renderer.prompt_text(line) for line in ("Count 1: ", "Count 2:")]
    assert sent == [expected[0], expected[0], expected[1], expected[1]]


def test_a_system_prompt_and_an_empty_text_cannot_be_continued(raw):
    session = open_session(raw / "runs" / "bare")
    with pytest.raises(RunError, match="--system"):
        chatting.chat(session, ["x"], print, system="Be brief.")
    with pytest.raises(DataError, match="empty"):
        session.answer("", SHORT)


def test_a_model_folder_without_a_template_names_the_option(tiny_model):
    bare = tiny_model("llama", template=False)
    with pytest.raises(ModelError) as caught:
        open_session(bare, device="cpu")
    assert f"luthier chat {bare} --template chatml" in str(caught.value)


# ------------------------------------------------------------------------------------------- what cannot be meant


def test_a_run_takes_no_other_template(place, tmp_path):
    for template in ("chatml", str(tmp_path / "none.jinja")):
        with pytest.raises(RunError) as caught:
            open_session(place / "runs" / "lora", template=template)
        (problem,) = caught.value.problems
        assert problem.id == "chat.template_of_run" and problem.value == template


def test_what_is_no_conversation_is_refused_in_words(place):
    session = open_session(place / "runs" / "full")
    for wrong in (5, None, [5], b"bytes", {"question": "x"}):
        with pytest.raises(DataError):
            session.answer(wrong, SHORT)
    for wrong in ("Say 3", {"messages": []}, 5):
        with pytest.raises(DataError, match="list"):
            session.answers(wrong, SHORT)
    with pytest.raises(DataError):
        Run(place / "runs" / "full").chat(5)


def test_the_base_of_whole_weights_has_to_be_asked_for(place):
    with pytest.raises(RunError, match="compare=True"):
        open_session(place / "runs" / "full").answer("Say 3", SHORT, tuned=False)


# ------------------------------------------------------------------------------------------------------ Ctrl-C


def stopping(monkeypatch, pieces: list[str], seconds: list[float]) -> list[tuple[Message, ...]]:
    """Every answer says `pieces` and is then interrupted; `seconds` are what the clock shows whenever it is looked at.
    What is put to the model comes back."""
    seen: list[tuple[Message, ...]] = []

    def told(self, conversation, sampling=None, *, tuned=True, voice=None, on_text=None):
        seen.append(conversation)
        for piece in pieces:
            on_text(piece)
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "reply", told)
    clock = iter(seconds)
    monkeypatch.setattr(chatting, "time", SimpleNamespace(monotonic=lambda: next(clock), perf_counter=lambda: 0.0))
    return seen


def test_ctrl_c_ends_the_answer_and_keeps_the_chat(place, monkeypatch):
    session = open_session(place / "runs" / "lora")
    seen = stopping(monkeypatch, ["half an", " answer"], [100.0, 100.0, 200.0, 200.0])
    written: list[str] = []
    assert chatting.chat(session, ["Say 1", "Say 2"], written.append) == 2
    assert "".join(written).count(say("chat.stopped")) == 2
    assert [message.content for message in seen[1]] == ["Say 1", "half an answer", "Say 2"], "what was said stays said"


def test_ctrl_c_twice_or_at_the_prompt_ends_the_chat(place, monkeypatch):
    session = open_session(place / "runs" / "lora")

    def typed():
        yield "Say 1"
        raise KeyboardInterrupt

    assert chatting.chat(session, typed(), lambda text: None, sampling=SHORT) == 1
    stopping(monkeypatch, ["half"], [100.0, 100.0, 100.5, 100.5])
    assert chatting.chat(session, ["Say 1", "Say 2", "Say 3"], lambda text: None) == 2


# ------------------------------------------------------------------------------------------------ several adapters


@pytest.fixture(scope="module")
def second(place) -> Path:
    """Another run of the same base."""
    rows = place / "others.json"
    rows.write_text(json.dumps([{"instruction": f"Say {i}", "output": f"no {i}"} for i in range(24)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
        train(recipe_of(place / "base", rows, place / "runs", "second", {"kind": "lora", "rank": 2}))
    return place / "runs" / "second"


def test_another_run_s_adapter_answers_beside_the_first_as_by_itself(place, second):
    session = open_session(place / "runs" / "lora")
    alone = {name: open_session(place / "runs" / name).answers(QUESTIONS, SHORT) for name in ("lora", "second")}
    assert session.load(second) == "second" and list(session.voices) == ["lora", str(place / "base"), "second"]
    for name, expected in alone.items():
        assert session.answers(QUESTIONS, SHORT, voice=name) == expected
    assert alone["lora"] != alone["second"] and session.answers(QUESTIONS, SHORT) == alone["lora"]
    base = session.answers(QUESTIONS, SHORT, tuned=False)
    assert session.answers(QUESTIONS, SHORT, voice=session.mix({"second": 0})) == base
    assert session.answers(QUESTIONS, SHORT, voice=session.mix({"second": 1})) == alone["second"]
    both = session.mix({"lora": 0.5, "second": 0.5})
    session.unload("second")
    assert list(session.voices) == ["lora", str(place / "base")] and session.decoder.adapters == {"default"}
    for gone in ("second", both):
        with pytest.raises(RunError, match="lora"):
            session.answer("Say 3", SHORT, voice=gone)


def test_an_adapter_can_be_put_on_a_bare_base(place, second):
    session = open_session(place / "base", device="cpu")
    assert session.load(second, "dry") == "dry"
    expected = open_session(second).answers(QUESTIONS, SHORT)
    assert session.answers(QUESTIONS, SHORT, voice="dry") == expected
    with pytest.raises(RunError, match="already"):
        session.load(second, "dry")
    with pytest.raises(RunError):
        session.unload(str(place / "base"))


def test_an_adapter_of_another_base_or_template_is_refused(place, second, tiny_model):
    with pytest.raises(RunError, match="other weights"):
        open_session(tiny_model("qwen2", seed=6), device="cpu").load(second)
    other = open_session(place / "base", device="cpu", template="chatml")
    with pytest.raises(RunError) as caught:
        other.load(second)
    assert "template" in str(caught.value)
    with pytest.raises(RunError, match="no adapter"):
        other.load(place / "runs" / "full")
    with pytest.raises(RunError, match="no adapter"):
        other.load(place / "nowhere")


def test_commands_switch_dial_save_and_retry(place, second, tmp_path):
    session = open_session(place / "runs" / "lora")
    session.load(second)
    saved = tmp_path / "said.jsonl"
    lines = [
        "Say 1",
        "/adapter second",
        "Say 1",
        "/adapter second 0.5",
        "/adapter second 9",
        "/adapter nobody",
        "/base",
    ]
    lines += [
        "/set top_k=3",
        "/set nothing=1",
        "/new",
        "Say 2",
        "/retry",
        "/system Be brief.",
        "Say 3",
        f"/save {saved}",
    ]
    written: list[str] = []
    turns = chatting.talk(session, lines, written.append, chatting.Manner(sampling=SHORT))
    assert [turn.adapter for turn in turns if turn.role == "assistant"] == [
        "lora",
        "second",
        *[str(place / "base")] * 3,
    ]
    text = "".join(written)
    for part in ("second*0.5", "between 0 and 1.5", "nobody", "top_k is 3", "nothing=1", "Saved 3"):
        assert part in text
    row = json.loads(saved.read_text())
    assert [each["role"] for each in row["messages"]] == ["system", "user", "assistant"]


@pytest.fixture
def read(monkeypatch) -> list[list[int]]:
    """Tokens that went through the model, for each pass and part."""
    counts: list[list[int]] = []
    extend = Decoder.extend

    def told(self, parts, cache):
        counts.append([len(part.ids) for part in parts])
        return extend(self, parts, cache)

    monkeypatch.setattr(Decoder, "extend", told)
    return counts


@pytest.mark.parametrize("width", [0, 120], ids=["in turn", "beside each other"])
def test_a_turn_reads_its_new_tokens_only(place, second, read, sent, width):
    """With two sides and two adapters, each with a history of its own."""
    session = open_session(place / "runs" / "lora")
    lines = [f"Say {number} and then a few words more, to have something to read" for number in range(4)]
    manner = chatting.Manner("base", sampling=SHORT, width=width)
    turns = chatting.talk(session, lines, lambda text: None, manner)
    assert len(sent) == 8 and len(turns) == 12
    prompts = [sent[0::2], sent[1::2]]
    assert len(prompts[0][-1]) > 4 * BLOCK, "long enough to tell"
    # What is new in a turn, the answer itself, and what of a block cannot be shared.
    new = [len(now[-1]) for now in prompts]
    most = sum(new) + 8 * (SHORT.max_tokens + BLOCK)
    assert sum(map(sum, read)) <= most
    assert sum(map(sum, read)) < sum(map(len, sent)) - 4 * BLOCK, "less than all of it anew in each turn"
    # The same words as from a session that reads everything.
    again = open_session(place / "runs" / "lora")
    history: tuple = ()
    for number, line in enumerate(lines):
        history = (*history, Message("user", line))
        answer = again.answer(history, SHORT)
        assert answer == turns[3 * number + 1].content
        history = (*history, Message("assistant", answer))
    assert session._writer is None, "nothing is held once the chat is over"


def test_what_was_read_goes_with_an_interruption_and_with_an_adapter(place, second):
    session = open_session(place / "runs" / "lora")
    history = (Message("user", "Say 1 and then a few words more, to have something to read, and to know again"),)
    wanted = session.answer(history, SHORT)

    def stop(text: str) -> None:
        raise KeyboardInterrupt

    with session.remembering():
        assert session.answer(history, SHORT) == wanted
        with pytest.raises(KeyboardInterrupt):
            session.answer(history, SHORT, on_text=stop)
        assert session.answer(history, SHORT) == wanted, "nothing of the stopped answer goes on"
        session.load(second, "name")
        other = session.answer(history, SHORT, voice="name")
        session.unload("name")
        session.load(place / "runs" / "lora", "name")
        assert other != session.answer(history, SHORT, voice="name") == wanted


def test_stop_texts_are_set_and_settings_are_shown(place):
    session = open_session(place / "runs" / "lora")
    plain = session.answer("Say 1", SHORT)
    first, second = plain[2:4], plain[5:7]
    lines = [f"/set stop={second}, never", "/set", "Say 1", "/new", f"/set stop={json.dumps([first, 'a,b'])}"]
    lines += ["Say 1", "/set stop=[1]", "/set stop=[", "/set stop=", "/new", "Say 1"]
    written: list[str] = []
    turns = chatting.talk(session, lines, written.append, chatting.Manner(sampling=SHORT))
    said = [turn.content for turn in turns if turn.role == "assistant"]
    assert said == [plain[: plain.index(second)], plain[: plain.index(first)], plain]
    text = "".join(written)
    assert f"stop={json.dumps([second, 'never'], ensure_ascii=False)}  seed=0" in text and "temperature=0.0" in text
    assert text.count("no setting of sampling") == 2


ASKED = [{"prompt": question} for question in QUESTIONS] + [{"messages": [{"role": "user", "content": "Say 3"}]}]


def asked_of(folder: Path) -> tuple[Path, Path]:
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ASKED) + "not json\n")
    return source, folder / "out.jsonl"


def texts_of(target: Path, voice: str) -> list[list[str]]:
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    return [[each["text"] for each in row["answers"] if each["voice"] == voice] for row in rows]


def test_a_file_is_answered_and_gone_on_with(place, second, tmp_path):
    source, target = asked_of(tmp_path)
    session = open_session(place / "runs" / "lora")
    session.load(second)
    voices = ["lora", "second", "base"]
    done = answering.answer_file(session, source, target, SHORT, voices=voices)
    assert (done.made, done.kept, len(done.bad)) == (5, 0, 1) and ":6" in done.bad[0].where
    questions = [*QUESTIONS, "Say 3"]
    for voice in ("lora", "second"):
        assert texts_of(target, voice) == [[text] for text in session.answers(questions, SHORT, voice=voice)]
    assert texts_of(target, "base") == [[text] for text in session.answers(questions, SHORT, tuned=False)]
    whole = target.read_bytes()
    target.write_bytes(whole[: whole.index(b"\n") + 40])  # killed in the middle of the second line
    again = answering.answer_file(session, source, target, SHORT, voices=voices)
    assert (again.made, again.kept) == (4, 1) and target.read_bytes() == whole
    with pytest.raises(RunError, match="max_tokens 12 -> 3"):
        answering.answer_file(session, source, target, Sampling(max_tokens=3), voices=voices)
    source.write_text(json.dumps({"prompt": "Other"}) + "\n")
    with pytest.raises(RunError, match="other rows"):
        answering.answer_file(session, source, target, SHORT, voices=voices)


def test_chance_is_each_answer_s_own(place, tmp_path):
    """Whatever stands beside it, an answer is the one that its seed gives by itself; and all of them differ."""
    source, target = asked_of(tmp_path)
    session = open_session(place / "runs" / "lora")
    hot = Sampling(max_tokens=12, temperature=2.0, top_k=50, min_p=1e-4, repetition_penalty=1.1, seed=3)
    answering.answer_file(session, source, target, hot, n=2)
    seeds = set()
    for line in target.read_text().splitlines():
        row = json.loads(line)
        for answer in row["answers"]:
            seeds.add(answer["seed"])
            alone = session.reply(row["prompt"], dataclasses.replace(hot, seed=answer["seed"]))
            assert (alone.text, alone.tokens, alone.finish) == (answer["text"], answer["tokens"], answer["finish"])
        assert row["answers"][0]["text"] != row["answers"][1]["text"]
    assert len(seeds) == 10
    several = session.answers(QUESTIONS, hot)
    ways = [dataclasses.replace(hot, seed=3 + index) for index in range(len(QUESTIONS))]
    assert several == [session.answer(each, way) for each, way in zip(QUESTIONS, ways, strict=True)]


def test_answers_of_weights_that_are_others_now_are_not_gone_on_with(place, second, tmp_path):
    source, target = asked_of(tmp_path)
    session = open_session(place / "runs" / "lora")
    answering.answer_file(session, source, target, SHORT)
    with torch.no_grad():
        next(iter(session.decoder.units.values())).deltas["default"].B.view(-1)[0] += 1
    with pytest.raises(RunError, match="lora"):
        answering.answer_file(session, source, target, SHORT)
    target.unlink()
    session.load(second)
    answering.answer_file(session, source, target, SHORT, voices=[session.mix({"second": 0.5})])
    with pytest.raises(RunError, match="second"):
        answering.answer_file(session, source, target, SHORT, voices=[session.mix({"second": 0.25})])
    for file in (target, answering.how_file(target)):
        file.write_text("something of the user's\n")
        with pytest.raises(RunError, match="no answers"):
            answering.answer_file(session, source, target, SHORT)
        assert file.read_text() == "something of the user's\n"


def test_a_stop_text_ends_an_answer_before_it(place):
    session = open_session(place / "runs" / "lora")
    hot = Sampling(max_tokens=20, temperature=3.0, seed=1)
    whole = session.reply("Say amber", hot)
    at = next(at for at in range(1, len(whole.text)) if whole.text.find(whole.text[at : at + 2]) == at)
    stop = whole.text[at : at + 2]
    pieces: list[str] = []
    cut = session.reply("Say amber", dataclasses.replace(hot, stop=("never", stop)), on_text=pieces.append)
    assert cut.text == "".join(pieces) == whole.text[:at] and cut.finish == "stop" and cut.tokens <= whole.tokens


def test_a_killed_command_goes_on_to_the_same_bytes(place, tmp_path, capsys):
    """Killed by the kernel between any two lines, whatever else was under way then."""
    source, whole, target = (tmp_path / name for name in ("in.jsonl", "whole.jsonl", "out.jsonl"))
    source.write_text("".join(json.dumps({"prompt": f"Say {i} {'and more ' * (i % 7)}"}) + "\n" for i in range(400)))

    def asked(output: Path) -> list[str]:
        line = f"generate {place / 'runs' / 'lora'} {source} -o {output} --temperature 1 --max-tokens 24 --seed 5"
        return [*line.split(), "--stop", "zz", "--min-p", "0.001"]

    def begin(output: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "luthier", *asked(output)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    assert cli.run(asked(whole)) == 0, capsys.readouterr().err
    killed = begin(target)
    while not target.exists() or target.read_bytes().count(b"\n") < 20:
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    there = target.read_bytes().count(b"\n")
    assert 20 <= there < 400
    again = begin(target)
    assert again.wait(timeout=120) == 0 and f"{400 - there} rows answered, {there} were there" in again.stdout.read()
    assert target.read_bytes() == whole.read_bytes()
    assert answering.how_file(target).read_bytes() == answering.how_file(whole).read_bytes()


def test_compared_answers_stand_in_two_columns_and_are_those_given_alone(place, second):
    session = open_session(place / "runs" / "lora")
    session.load(second)
    written: list[str] = []
    manner = chatting.Manner(compare="second", sampling=SHORT, width=200)
    turns = chatting.talk(session, ["Say 1", "/retry", "/compare", "/compare base", "Say 2"], written.append, manner)
    said = [(turn.adapter, turn.content) for turn in turns if turn.role == "assistant"]
    alone = [(name, session.answer("Say 1", SHORT, voice=name)) for name in ("lora", "second")]
    assert said[:2] == said[2:4] == alone and alone[0][1] != alone[1][1]
    assert [name for name, _ in said[4:]] == ["lora", session.base_label]
    history = [Message("user", "Say 1"), Message("assistant", alone[0][1]), Message("user", "Say 2")]
    assert said[5][1] == session.answer(history, SHORT, tuned=False)
    text = "".join(written)
    assert "[second]" in text and text.count("│") >= 6


def test_a_saved_conversation_is_training_data(place, tmp_path, monkeypatch):
    session = open_session(place / "base", device="cpu")

    def told(self, conversation, sampling=None, *, tuned=True, voice=None, on_text=None):
        on_text("It is fine weather today.")
        return Reply("It is fine weather today.", 6, "stop")

    monkeypatch.setattr(Session, "reply", told)
    saved = tmp_path / "said.jsonl"
    chatting.chat(session, ["How is the weather?", f"/save {saved}", "And now?", f"/save {saved}"], lambda text: None)
    assert len(check.check_path(str(saved)).train) == 2
