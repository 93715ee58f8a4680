"""The server, asked by OpenAI's own client; what it refuses, how it ends, and what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from waiting import until

from luthier import proof
from luthier.data.formats import Message
from luthier.errors import EngineFailed, RunError, UserError
from luthier.generate import Sampling
from luthier.serving import house, listen
from luthier.serving.answers import Voice
from luthier.serving.door import Keys
from luthier.serving.front import Events, Front
from luthier.serving.limits import Limits
from luthier.serving.protocol import ChatRequest
from luthier.serving.start import serve
from luthier.serving.tools import Begun, Call, More, Parser, style_of
from luthier.serving.voices import MIXES, Voices
from luthier.session import open_session
from luthier.training import train

QUESTION = [{"role": "user", "content": "Say birch and cedar, slowly"}]
ROWS = [{"instruction": f"Say {i}", "output": f"{i} 好的 é {'yes ' * (i % 5)}"} for i in range(24)]
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Answer with <tool_call>{...}</tool_call>.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def recipe_of(base: Path, rows: Path, runs: Path, name: str, seed: int) -> dict:
    return {
        "model": {"path": str(base), "dtype": "float32"},
        "data": {"train": str(rows), "validation": 0.0},
        "tune": {"kind": "lora", "rank": 4},
        "optim": {"lr": 2e-2, "steps": 6, "batch": 8},
        "run": {"name": name, "device": "cpu", "dir": str(runs), "seed": seed},
    }


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory) -> Path:
    """A folder with `base`, `runs/first` and `runs/second`."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_model("qwen2", seed=5), folder / "base")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "reload_in_fresh_process", lambda run: "not made in this test")
        for seed, name in enumerate(("first", "second")):
            train(recipe_of(folder / "base", folder / "rows.json", folder / "runs", name, seed))
    return folder


class House:
    """A server on a thread of this process. log: what it wrote about requests."""

    def __init__(self, targets: list[str], keys: list[str], limits: Limits, device: str = "cpu") -> None:
        self.log = io.StringIO()
        self._listener = listen.bind("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.voices = Voices(open_session(targets[0], device=device))
        for target in targets[1:]:
            self.voices.load(target)
        self.server, self.engine = house.assemble(self.voices, Keys(keys), limits, self.log)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self._listener])))

    def __enter__(self) -> House:
        self.engine.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(30)
        self.engine.close()
        self._listener.close()

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def served(place) -> Iterator[House]:
    with House([str(place / "runs" / "first"), str(place / "runs" / "second")], [], Limits(), "auto") as made:
        yield made


def slowly(made: House, seconds: float = 0.02) -> None:
    """Every round of the generator takes at least this long."""
    step = made.engine._generator.step

    def wait() -> bool:
        time.sleep(seconds)
        return step()

    made.engine._generator.step = wait


@contextlib.contextmanager
def asking(made: House, asked: dict) -> Iterator[None]:
    """A client that asks, reads nothing, and goes away at the end."""
    body = json.dumps(asked).encode()
    with socket.create_connection(("127.0.0.1", made.port)) as line:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield


# -------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(("model", "tuned"), [("first", True), ("base", False)])
def test_answers_are_those_of_the_session_token_for_token(served, place, model, tuned):
    session = open_session(place / "runs" / "first")
    wanted = session.answer([Message("user", QUESTION[0]["content"])], Sampling(max_tokens=24), tuned=tuned)
    client = served.client()
    got = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=24, logprobs=True, top_logprobs=3)
    (choice,) = got.choices
    assert choice.message.content == wanted and choice.message.role == "assistant"
    tokens = choice.logprobs.content
    assert len(tokens) == got.usage.completion_tokens and len(tokens[0].top_logprobs) == 3
    assert b"".join(bytes(each.bytes) for each in tokens).decode("utf-8", "replace") == wanted
    assert all(each.logprob == max(top.logprob for top in each.top_logprobs) for each in tokens), "greedy"
    assert choice.finish_reason == ("length" if len(tokens) == 24 else "stop")
    prompt = session.renderer.prompt([Message("user", QUESTION[0]["content"])])
    assert got.usage.prompt_tokens == len(prompt)


def test_a_stream_says_the_same_as_the_whole(served):
    client = served.client()
    how = dict(model="first", messages=QUESTION, max_tokens=24, n=3, temperature=1.0, seed=7, logprobs=True)
    whole = client.chat.completions.create(**how)
    texts, tokens, reasons, usage = [""] * 3, [[], [], []], [None] * 3, None
    for chunk in client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            tokens[choice.index] += [each.token for each in choice.logprobs.content] if choice.logprobs else []
    assert texts == [each.message.content for each in whole.choices] and len(set(texts)) == 3
    assert reasons == [each.finish_reason for each in whole.choices]
    assert tokens == [[token.token for token in each.logprobs.content] for each in whole.choices]
    assert usage == whole.usage and usage.completion_tokens == sum(map(len, tokens))
    assert [each.message.content for each in client.chat.completions.create(**how).choices] == texts, "the seed"
    other = client.chat.completions.create(**{**how, "seed": 8})
    assert [each.message.content for each in other.choices] != texts


def test_stop_strings_cut_exactly_and_nothing_of_them_is_shown(served):
    client = served.client()
    how = dict(model="first", prompt="Say", max_tokens=40)
    full = client.completions.create(**how).choices[0].text
    assert len(full) > 12
    for start in range(2, len(full) - 3):
        stop = full[start : start + 3]
        wanted = full[: full.index(stop)]
        got = client.completions.create(**how, stop=[stop, "\x00never"]).choices[0]
        assert (got.text, got.finish_reason) == (wanted, "stop"), stop
    pieces = [each.choices[0].text for each in client.completions.create(**how, stop=stop, stream=True)]
    shown = ""
    for piece in pieces:
        shown += piece
        assert wanted.startswith(shown), "a beginning of the stop string has leaked"
    assert shown == wanted


def test_completions_of_texts_and_of_ids(served, place):
    client = served.client()
    ids = served.voices.session.renderer.prompt_text("Say 3")
    got = client.completions.create(model="second", prompt=["Say 3", "Say"], max_tokens=8, logprobs=2)
    same = client.completions.create(model="second", prompt=ids, max_tokens=8)
    assert [each.index for each in got.choices] == [0, 1] and got.choices[0].text == same.choices[0].text
    assert len(got.choices[0].logprobs.tokens) == len(got.choices[0].logprobs.token_logprobs)


def test_embeddings_are_the_mean_of_the_hidden_states(served, place):
    from transformers import AutoModel, AutoTokenizer

    torch = pytest.importorskip("torch")
    model = AutoModel.from_pretrained(place / "base", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    texts = ["three old boats", "你好, river"]
    got = served.client().embeddings.create(model="base", input=texts)
    plain = served.client().embeddings.create(model="base", input=texts, encoding_format="float")
    assert served.client().embeddings.create(model="first", input=texts).data[0].embedding != got.data[0].embedding
    for text, binary, numbers in zip(texts, got.data, plain.data, strict=True):
        ids = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            mean = model(**ids).last_hidden_state[0].mean(0)
        mean = mean / mean.norm()
        for each in (binary.embedding, numbers.embedding):
            assert torch.allclose(torch.tensor(each), mean, atol=1e-5)
    assert got.usage.prompt_tokens == sum(len(tokenizer(text)["input_ids"]) for text in texts)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_json_is_held_to_its_schema(served, temperature):
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["oak", "好"]}},
        "required": ["age", "kind"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "tree", "schema": schema}}
    how = dict(model="first", messages=QUESTION, max_tokens=60, temperature=temperature, seed=1)
    got = served.client().chat.completions.create(**how, response_format=wanted, n=3)
    for choice in got.choices:
        made = json.loads(choice.message.content)
        assert choice.finish_reason == "stop" and set(made) == {"age", "kind"}
        assert 0 <= made["age"] <= 99 and made["kind"] in ("oak", "好")
    free = served.client().chat.completions.create(**how, response_format={"type": "json_object"}).choices[0]
    assert free.message.content.startswith("{")
    if free.finish_reason == "stop":
        json.loads(free.message.content)
    with pytest.raises(openai.BadRequestError) as caught:
        bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
        served.client().chat.completions.create(**how, response_format=bad)
    assert caught.value.param == "response_format"


# -------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("extra", "parameter"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"extra_body": {"mirostat": 2}}, "mirostat"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias"),
        ({"temperature": 3.0}, "temperature"),
        ({"n": 0}, "n"),
        ({"tools": [TOOL]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 100_000}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"messages": [{"role": "assistant"}]}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(served, extra, parameter):
    with pytest.raises(openai.BadRequestError) as caught:
        served.client().chat.completions.create(**{"model": "first", "messages": QUESTION, "max_tokens": 2, **extra})
    body = caught.value.body
    assert caught.value.status_code == 400 and body["param"] == parameter and body["message"]
    assert body["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_taken(served):
    neutral = {
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "user": "me",
        "store": False,
        "stop": None,
    }
    assert served.client().chat.completions.create(model="first", messages=QUESTION, max_tokens=2, **neutral).choices
    with pytest.raises(openai.NotFoundError) as caught:
        served.client().chat.completions.create(model="third", messages=QUESTION)
    assert "first, base, second" in caught.value.body["message"]


def test_keys_sizes_and_queues(place):
    limits = Limits(body_bytes=2000, queue=2, time_s=3.0)
    with House([str(place / "runs" / "first")], ["secret-1", "secret-2"], limits) as made:
        for key, fits in (
            ("secret-1", True),
            ("secret-2", True),
            ("secret-", False),
            ("", False),
            ("secret-12", False),
        ):
            got = httpx2.get(f"{made.url}/v1/models", headers={"authorization": f"Bearer {key or chr(45)}"})
            assert got.status_code == (200 if fits else 401), key
        assert httpx2.get(f"{made.url}/v1/models").status_code == 401
        assert httpx2.get(f"{made.url}/metrics").status_code == 401
        assert httpx2.get(f"{made.url}/health").json() == {"status": "ok"}
        client = made.client("secret-2")
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model="first", prompt="x" * 3000)
        assert caught.value.status_code == 413
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="first", prompt="x", n=3)
        slowly(made, 0.1)
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model="first", prompt="x", max_tokens=200, temperature=2.0, seed=1, stop=["\x00"])
        assert caught.value.status_code == 504
        assert until(lambda: made.engine.open_jobs == 0), "what ran out of time goes on being written"
    log = made.log.getvalue()
    assert "secret" not in log and "xxx" not in log and "POST /v1/completions 413" in log


def test_without_a_key_only_this_machine_is_spoken_to(served):
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        assert httpx2.get(f"{served.url}/v1/models", headers=headers).status_code == 403
    with pytest.raises(RunError) as caught:
        serve("nano", host="0.0.0.0")
    assert caught.value.problems[0].id == "serve.no_keys"


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(RunError) as caught:
        serve("nano")
    assert "luthier[serve]" in caught.value.problems[0].remedy and "fastapi" in caught.value.problems[0].rule


# -------------------------------------------------------------------------------------------------- adapters


def test_adapters_come_and_go_while_it_serves(place):
    with House([str(place / "base")], [], Limits()) as made:
        client, url = made.client(), f"{made.url}/v1/adapters"
        before = client.completions.create(model="base", prompt="Say 3", max_tokens=12).choices[0].text
        got = httpx2.post(url, json={"path": str(place / "runs" / "second"), "name": "two"})
        assert got.status_code == 200 and [each.id for each in client.models.list()] == ["base", "two"]
        session = open_session(place / "runs" / "second", device="cpu")
        wanted = session.answer([Message("user", QUESTION[0]["content"])], Sampling(max_tokens=16))
        said = client.chat.completions.create(model="two", messages=QUESTION, max_tokens=16).choices[0].message.content
        assert said == wanted
        assert client.completions.create(model="base", prompt="Say 3", max_tokens=12).choices[0].text == before
        assert httpx2.post(url, json={"path": str(place / "runs" / "first"), "name": "two"}).status_code == 409
        assert httpx2.post(url, json={"path": str(place / "nowhere")}).status_code == 404
        assert httpx2.delete(f"{url}/two").status_code == 200
        assert httpx2.delete(f"{url}/two").status_code == httpx2.delete(f"{url}/base").status_code == 404
        assert not [name for name in made.voices.session.decoder.state_dict() if "delta" in name], "its memory is free"


def test_an_adapter_leaves_while_others_speak(place):
    with House([str(place / "runs" / "first"), str(place / "runs" / "second")], [], Limits()) as made:
        client = made.client()
        how = dict(model="first", prompt="Say", max_tokens=40, temperature=1.0, seed=3)
        wanted = client.completions.create(**how).choices[0].text
        slowly(made)
        stream = client.completions.create(**how, stream=True)
        text = next(iter(stream)).choices[0].text
        assert httpx2.delete(f"{made.url}/v1/adapters/second", timeout=20).status_code == 200
        assert made.engine.open_jobs == 1, "it did not wait for an answer of another"
        text += "".join(each.choices[0].text for each in stream)
        assert text == wanted and httpx2.get(f"{made.url}/health").status_code == 200
        with pytest.raises(openai.NotFoundError):
            client.completions.create(**{**how, "model": "second"})


def test_an_adapter_that_is_unloaded_while_it_speaks_ends_its_answers_first(place):
    with House([str(place / "runs" / "first"), str(place / "runs" / "second")], [], Limits()) as made:
        client = made.client()
        how = dict(model="second", prompt="Say", max_tokens=40, temperature=1.0, seed=3)
        wanted = client.completions.create(**how).choices[0].text
        slowly(made)
        stream = client.completions.create(**how, stream=True)
        text = next(iter(stream)).choices[0].text
        gone: list[int] = []
        url = f"{made.url}/v1/adapters/second"
        asking = threading.Thread(target=lambda: gone.append(httpx2.delete(url, timeout=60).status_code))
        asking.start()
        assert until(lambda: "second" not in made.voices.names)
        with pytest.raises(openai.NotFoundError):
            client.completions.create(**how)
        assert not gone and "second" in made.voices.session.voices, "it is held while an answer is written with it"
        assert text + "".join(each.choices[0].text for each in stream) == wanted
        asking.join(20)
        assert gone == [200] and "second" not in made.voices.session.voices


def test_a_client_that_goes_away_while_it_waits_leaves_the_others_alone(place):
    with House([str(place / "base")], [], Limits(sequences=1)) as made:
        client = made.client()
        how = dict(model="base", prompt="Say", max_tokens=60, temperature=2.0, seed=1, stop=["\x00"])
        wanted = client.completions.create(**how).choices[0].text
        slowly(made)
        stream = client.completions.create(**how, stream=True)
        text = next(iter(stream)).choices[0].text
        with asking(made, {**how, "seed": 2}):
            assert until(lambda: made.engine.figures["waiting"] == 1)
        assert until(lambda: made.engine.open_jobs == 1, 3), "it no longer waits"
        assert text + "".join(each.choices[0].text for each in stream) == wanted
        assert until(lambda: made.engine.open_jobs == 0)


def test_an_adapter_of_another_base_or_template_is_refused(place, tiny_model, tmp_path):
    voices = Voices(open_session(tiny_model("qwen2", seed=6), device="cpu"))
    with pytest.raises(RunError) as caught:
        voices.load(str(place / "runs" / "first"))
    assert caught.value.problems[0].id == "chat.other_base"
    shutil.copytree(place / "runs" / "first", tmp_path / "first")
    template = tmp_path / "first" / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant \n"))
    voices = Voices(open_session(place / "base", device="cpu"))
    with pytest.raises(RunError) as caught:
        voices.load(str(tmp_path / "first"))
    assert caught.value.problems[0].id == "chat.other_template"


def test_mixes_of_adapters_are_those_of_the_session(served, place):
    session = open_session(place / "runs" / "first")
    session.load(place / "runs" / "second")
    client, url = served.client(), f"{served.url}/v1/mixes"

    def said(model: str) -> str:
        made = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=16)
        return made.choices[0].message.content

    asked = [Message("user", QUESTION[0]["content"])]
    for strengths in ({"first": 0.5, "second": 1.25}, {"second": 0.3}, {"first": 1}):
        name = httpx2.post(url, json={"strengths": strengths}).json()["id"]
        assert said(name) == session.answer(asked, Sampling(max_tokens=16), voice=session.mix(strengths)), name
        assert httpx2.post(url, json={"strengths": strengths}).json()["id"] == name
    assert said(name) == said("first")
    nothing = httpx2.post(url, json={"strengths": {"first": 0}}).json()["id"]
    assert said(nothing) == said("base")
    for wrong, status in (
        ({"first": 1.6}, 400),
        ({"first": -0.1}, 400),
        ({}, 400),
        ({"base": 1}, 400),
        ({name: 0.5}, 400),
        ({"third": 1}, 404),
    ):
        assert httpx2.post(url, json={"strengths": wrong}).status_code == status, wrong
    for each in (name, nothing):
        assert httpx2.delete(f"{served.url}/v1/adapters/{each}").status_code == 200
        with pytest.raises(openai.NotFoundError):
            said(each)
    assert said("first") and httpx2.delete(f"{served.url}/v1/adapters/{name}").status_code == 404


def test_a_mix_leaves_with_its_adapter_once_nobody_speaks_with_it(place):
    with House([str(place / "base"), str(place / "runs" / "first")], [], Limits()) as made:
        client = made.client()
        name = httpx2.post(f"{made.url}/v1/mixes", json={"strengths": {"first": 0.5}}).json()["id"]
        how = dict(model=name, prompt="Say", max_tokens=40, temperature=1.0, seed=3)
        wanted = client.completions.create(**how).choices[0].text
        slowly(made)
        stream = client.completions.create(**how, stream=True)
        text = next(iter(stream)).choices[0].text
        gone: list[int] = []
        url = f"{made.url}/v1/adapters/first"
        asking = threading.Thread(target=lambda: gone.append(httpx2.delete(url, timeout=60).status_code))
        asking.start()
        assert until(lambda: list(made.voices.names) == ["base"])
        assert not gone and text + "".join(each.choices[0].text for each in stream) == wanted
        asking.join(20)
        assert gone == [200] and list(made.voices.session.voices) == [str(place / "base")]
        assert not [each for each in made.voices.session.decoder.state_dict() if "delta" in each], "its memory is free"


def test_of_many_mixes_the_last_are_kept(place):
    with House([str(place / "runs" / "first")], [], Limits()) as made:
        ids = [
            httpx2.post(f"{made.url}/v1/mixes", json={"strengths": {"first": number / 100}}).json()["id"]
            for number in [*range(1, MIXES + 1), 1, MIXES + 1]
        ]
        assert made.voices.names.keys() == {"first", "base", ids[0], *ids[2:]}
        assert until(lambda: ids[1] not in made.voices.session.voices), "the one that was asked for longest ago"
        assert len(made.voices.session.decoder.adapters) == MIXES + 1


# -------------------------------------------------------------------------------------------------- clients that go


def test_a_client_that_goes_away_ends_its_answer(place):
    with House([str(place / "base")], [], Limits()) as made:
        slowly(made, 0.05)
        ask = {"model": "base", "prompt": "Say", "max_tokens": 200, "temperature": 2.0, "seed": 1}
        for stream in (True, False):
            with asking(made, {**ask, "stream": stream}):
                assert until(lambda: made.engine.figures["running"] == 1)
            assert until(lambda: made.engine.open_jobs == 0, 3), stream
        assert "luthier_cancelled_total 2.0" in httpx2.get(f"{made.url}/metrics").text


def test_a_stream_that_nobody_began_to_read_ends_its_answers(served):
    """A client may be gone before the first line is written."""

    async def gone() -> None:
        asked = ChatRequest(model="first", messages=QUESTION, max_tokens=200, stream=True)
        front = Front(served.voices, served.engine, Limits(), keyed=False)
        answering = await front.answers.chat(asked)
        cancelled.extend(answering.jobs)

        async def chunks():
            yield {}

        async def receive() -> dict:
            return {"type": "http.disconnect"}

        async def send(_: dict) -> None:
            raise OSError("gone")

        with contextlib.suppress(BaseException):
            await Events(front, chunks(), answering.jobs)({"type": "http"}, receive, send)
        assert await asyncio.wait_for(asyncio.to_thread(until, lambda: served.engine.open_jobs == 0), 20)

    cancelled: list = []
    asyncio.run(gone())
    assert [each.request.finish for each in cancelled] == ["cancelled"]


def many(url: str, streams: int) -> list[str]:
    """That many streams at once; the text of each."""

    async def one(client: openai.AsyncOpenAI, seed: int) -> str:
        how = dict(model="first", prompt="Say", max_tokens=12, temperature=1.0, seed=seed)
        return "".join([each.choices[0].text async for each in await client.completions.create(**how, stream=True)])

    async def all_of() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(one(client, seed) for seed in range(streams)))

    return asyncio.run(all_of())


def test_many_streams_at_once_and_none_is_lost(served):
    alone = [
        served.client().completions.create(model="first", prompt="Say", max_tokens=12, temperature=1.0, seed=seed)
        for seed in range(4)
    ]
    made = many(served.url, 16)
    assert len(made) == 16 and made[:4] == [each.choices[0].text for each in alone]
    assert served.engine.open_jobs == 0


def test_what_the_server_holds_does_not_grow(place):
    """Blocks of the cache are touched once and used again (LOG.md); everything else is given back with its answer."""
    with House([str(place / "runs" / "first")], [], Limits(queue=64)) as made:
        generator, cache = made.engine._generator, made.engine._generator._cache
        jobs: list[weakref.ref] = []
        job_of = made.engine._job

        def noted(*arguments):
            made_now = job_of(*arguments)
            jobs.append(weakref.ref(made_now))
            return made_now

        made.engine._job = noted

        def round_of_all() -> None:
            many(made.url, 12)
            client = made.client()
            how = dict(model="first", prompt="Say", max_tokens=40, temperature=1.0)
            next(iter(client.completions.create(**how, stream=True))).choices  # noqa: B018  read, and left
            client.close()
            client = made.client()
            client.chat.completions.create(model="first", messages=QUESTION, max_tokens=4, n=3, logprobs=True)
            client.embeddings.create(model="first", input="Say")
            client.close()
            assert until(lambda: made.engine.open_jobs == 0)

        def held() -> int:
            gc.collect()
            only = [tracemalloc.Filter(True, f"*/luthier/{part}*") for part in ("serving/", "generate", "models/cache")]
            return sum(each.size for each in tracemalloc.take_snapshot().filter_traces(only).statistics("filename"))

        tracemalloc.start()
        try:
            for _ in range(3):
                round_of_all()
            before = held()
            for _ in range(5):
                round_of_all()
            grown = held() - before
        finally:
            tracemalloc.stop()
        assert grown < 20_000, grown
        assert (generator.running, generator.waiting, generator.cached_tokens) == (0, 0, 0)
        assert not made.engine._jobs and not made.engine._leaving and made.engine._commands.empty()
        assert sorted([*cache._free, *cache._idle]) == list(range(cache.num_blocks)) and not any(cache._users)
        assert set(cache._idle) == set(cache._digest_of) == set(cache._known.values())
        made.engine._commands.put(lambda: None)  # whose turn lets go of the command before
        assert until(made.engine._commands.empty)
        gc.collect()
        assert len(jobs) > 100 and not [each for each in jobs if each() is not None]


@pytest.mark.long
def test_64_streams_again_and_again_with_memory_flat(served):
    if os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY") != "0":
        # oneDNN keeps compiled code for each number of rows, 1024 of them: it grows for a while and is not ours.
        node = f"{__file__}::test_64_streams_again_and_again_with_memory_flat"
        command = [sys.executable, "-m", "pytest", "-q", "--long", "-p", "no:cacheprovider", node]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "0"
        done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        return
    trim = ctypes.CDLL(None).malloc_trim

    def resident() -> int:
        gc.collect()
        trim(0)  # what the allocator keeps for later is not held: it grows with chance, up to its threads' most
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    cache = served.engine._generator._cache
    for each in (*cache.keys, *cache.values):
        each.zero_()  # its pages come with their first use, which is not what may grow
    for _ in range(3):
        many(served.url, 64)
    before = resident()
    for _ in range(10):
        assert len(many(served.url, 64)) == 64
    assert resident() - before < 64 * 2**20
    assert served.engine.open_jobs == 0


def test_a_fault_of_the_generator_ends_answers_but_not_the_server(place, capsys):
    with House([str(place / "base")], [], Limits()) as made:
        generator = made.engine._generator
        step, rooms = generator.step, [each.data_ptr() for each in generator._cache.keys]

        def fail() -> bool:
            step()
            generator.step = step
            generator._cache.keys[0].fill_(float("nan"))
            raise ValueError("planted: a secret path")

        wanted = made.client().completions.create(model="base", prompt="Say", max_tokens=4).choices[0].text
        generator.step = fail
        with pytest.raises(openai.InternalServerError) as caught:
            made.client().completions.create(model="base", prompt="Say", max_tokens=4)
        assert "planted" not in str(caught.value)
        assert made.client().completions.create(model="base", prompt="Say", max_tokens=4).choices[0].text == wanted
        assert [each.data_ptr() for each in generator._cache.keys] == rooms, "no second cache, not even for a moment"
        assert len(generator._cache._free) == generator._cache.num_blocks
    assert "planted" in capsys.readouterr().err, "the operator is told"


def test_a_text_that_cannot_be_finished_fails_alone(place, capsys):
    with House([str(place / "base")], [], Limits()) as made:
        job_of = made.engine._job

        def broken(*arguments):
            made_now = job_of(*arguments)
            made_now.finish_text = lambda: 1 / 0
            return made_now

        made.engine._job = broken
        with pytest.raises(openai.InternalServerError):
            made.client().completions.create(model="base", prompt="Say", max_tokens=4)
        made.engine._job = job_of
        assert made.client().completions.create(model="base", prompt="Say", max_tokens=4).choices
        assert httpx2.get(f"{made.url}/health").status_code == 200 and made.engine.open_jobs == 0
    assert "ZeroDivisionError" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- the process


def start(place: Path, *words: str, code: str = "", stdin: int | None = None) -> subprocess.Popen:
    """`luthier serve` in a process of its own, after this code."""
    run = f"import os, sys\n{code}\nfrom luthier.cli import main\nsys.argv[0] = 'luthier'\nmain()"
    command = [sys.executable, "-c", run, "serve", *words, "--port", "0"]
    return subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True, cwd=place)


def address(process: subprocess.Popen, *said: str) -> str:
    """Where it serves, once it says so, and this."""
    line = process.stderr.readline()
    assert all(each in line for each in ("Serving", *said)), line + process.stderr.read()
    return line.split("at ")[1].split("/v1")[0]


def test_sigterm_finishes_what_runs_and_takes_nothing_new(place):
    code = (
        "import time\nfrom luthier.serving import engine\nstep = engine.Generator.step\n"
        "def slow(self):\n    time.sleep(0.05)\n    return step(self)\nengine.Generator.step = slow"
    )
    process = start(place, "runs/first", code=code)
    try:
        url = address(process)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
        how = dict(model="first", prompt="Say", max_tokens=40, temperature=1.0, seed=3)
        wanted = client.completions.create(**how)
        assert wanted.usage.completion_tokens > 10
        stream = client.completions.create(**how, stream=True)
        text = next(iter(stream)).choices[0].text
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
            client.completions.create(**how)
        text += "".join(each.choices[0].text for each in stream)
        assert text == wanted.choices[0].text
        assert process.wait(20) == 143
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_a_server_ends_with_the_program_that_started_it(place):
    """A pipe is closed however its program ends, also by SIGKILL."""
    reading, writing = os.pipe()
    words = ("runs/first", "--end-with-stdin", "--grace", "1")
    process = start(place, *words, stdin=reading)
    try:
        url = address(process)
        os.write(writing, b"nothing of this is read\n")
        assert httpx2.get(f"{url}/health").status_code == 200 and process.poll() is None
        os.close(writing)
        assert process.wait(20) == 143 and "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        os.close(reading)


def test_llama_cpp_behind_the_same_front(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    from luthier.export.gguf.export import export

    monkeypatch.chdir(tmp_path)
    export("nano", ["f16"], tmp_path / "files", check=False)
    (tmp_path / "keys").write_text("a-key\n")
    session = open_session("nano", device="cpu")
    wanted = session.answer([Message("user", "Say birch")], Sampling(max_tokens=12))
    more = ["--engine", "llama.cpp", "--device", "cpu", "--api-key-file", "keys", "--sequences", "4"]
    process = start(tmp_path, "files/nano-f16.gguf", *more)
    try:
        url = address(process, "Serving nano-f16")
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="a-key", max_retries=0, timeout=120)
        how = dict(model="nano-f16", messages=[{"role": "user", "content": "Say birch"}], max_tokens=12)
        whole = client.chat.completions.create(**how)
        assert whole.choices[0].message.content == wanted, "greedy, as this program's own engine"
        chunks = list(client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
        assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == wanted
        reasons = [choice.finish_reason for each in chunks for choice in each.choices if choice.finish_reason]
        assert reasons == [whole.choices[0].finish_reason] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
        for wrong in ({"n": 2}, {"extra_body": {"mirostat": 2}}, {"frequency_penalty": 0.5}):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(**how, **wrong)
            assert caught.value.param in ("n", "mirostat", "frequency_penalty")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**{**how, "model": "other"})
        assert httpx2.get(f"{url}/v1/models").status_code == 401
    finally:
        process.terminate()
        assert process.wait(30) == 143, process.stderr.read()


def test_llama_cpp_is_given_one_file(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"none")
    for targets, how in ((["nano"], {}), ([tmp_path / "x.gguf"], {}), ([tmp_path / "x.gguf"] * 2, {})):
        with pytest.raises(RunError) as caught:
            serve(targets, engine="llama.cpp", **how)
        assert caught.value.problems[0].id == "serve.gguf"
    with pytest.raises(RunError) as caught:
        serve("nano", engine="other")
    assert caught.value.problems[0].id == "serve.engine"


STAND_IN = Path(__file__).with_name("stand_in_vllm.py")


def vllm(place: Path, folder: Path, *more: str) -> subprocess.Popen:
    """`luthier serve --engine vllm` with a stand-in for vLLM, which keeps what it is told in a folder."""
    command = f"{sys.executable} {STAND_IN} {folder}"
    return start(place, "runs/first", "--engine", "vllm", "--vllm-command", command, *more)


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM is not for Windows")
def test_vllm_behind_the_same_front(place, tmp_path):
    (tmp_path / "keys").write_text("a-key\n")
    process = vllm(place, tmp_path, "runs/second", "--api-key-file", str(tmp_path / "keys"), "--sequences", "4")
    try:
        url = address(process, "Serving first, second, base", "stand-in")
        begun = json.loads((tmp_path / "started.json").read_text())
        told = begun["arguments"]
        assert told[:2] == ["serve", str(place / "base")] and told[told.index("--max-num-seqs") + 1] == "4"
        adapters = [f"{name}={(place / 'runs' / name / 'adapter').resolve()}" for name in ("first", "second")]
        assert told[told.index("--lora-modules") + 1 :] == adapters and told[told.index("--max-lora-rank") + 1] == "8"
        session = open_session(place / "runs" / "first", device="cpu")
        assert begun["template"] == session.renderer.template_source and begun["telemetry"] == "1"
        assert "a-key" not in json.dumps(begun)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="a-key", max_retries=0, timeout=60)
        assert {each.id for each in client.models.list()} == {"first", "second", "base"}
        how = dict(model="second", messages=QUESTION, max_tokens=12)
        made = client.chat.completions.create(**how, n=2, seed=-1, logprobs=True, top_logprobs=2)
        assert [each.message.content for each in made.choices] == ["I heard you"] * 2 and made.model == "second"
        assert len(made.choices[0].logprobs.content[0].top_logprobs) == 2
        none = client.chat.completions.create(**how, logprobs=True)
        assert none.choices[0].logprobs.content[0].top_logprobs == []
        for usage in (True, False):
            options = {"stream_options": {"include_usage": True}} if usage else {}
            chunks = list(client.chat.completions.create(**how, stream=True, **options))
            assert "".join(each.choices[0].delta.content for each in chunks if each.choices) == "I heard you"
            assert bool(chunks[-1].usage) == usage == (chunks[-1].choices == [])
        texts = client.completions.create(model="base", prompt=["Say 3", "Say"], max_tokens=3, logprobs=1)
        assert [each.text for each in texts.choices] == ["I heard you"] * 2
        first, *_, last = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
        assert last["prompt"] == [session.renderer.prompt_text(each) for each in ("Say 3", "Say")]
        assert first["stop_token_ids"] == list(session.renderer.stop_ids) and first["seed"] == 2**63 - 1
        wanted = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "n": 2}
        assert {name: first[name] for name in wanted} == wanted
        for wrong, name in (
            ({"frequency_penalty": 0.5}, "frequency_penalty"),
            ({"extra_body": {"mirostat": 2}}, "mirostat"),
            ({"tools": [TOOL]}, "tools"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(**how, **wrong)
            assert caught.value.param == name
        with pytest.raises(openai.BadRequestError, match="min_p is not for you"):
            client.chat.completions.create(**how, extra_body={"min_p": 0.125})
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**{**how, "model": "other"})
        assert httpx2.get(f"{url}/v1/models").status_code == 401
        figures = httpx2.get(f"{url}/metrics", headers={"authorization": "Bearer a-key"}).text
        assert "luthier_generated_tokens_total 15.0" in figures, "streams are counted, asked for or not"
        # A client that goes away ends its answer there; SIGTERM finishes what runs and ends both.
        stream = client.chat.completions.create(**{**how, "max_tokens": 200}, stream=True)
        next(iter(stream))
        stream.close()
        assert until((tmp_path / "left").exists)
        stream = client.chat.completions.create(**{**how, "max_tokens": 200}, stream=True)
        text = next(iter(stream)).choices[0].delta.content
        process.send_signal(signal.SIGTERM)
        assert text + "".join(each.choices[0].delta.content for each in stream) == "I heard you"
        assert process.wait(30) == 143 and (tmp_path / "ended").exists()
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM is not for Windows")
@pytest.mark.parametrize(("how", "shown"), [("die", "no GPU here"), ("silent", "INFO: loading")])
def test_vllm_that_does_not_come_is_told_with_its_last_lines(place, tmp_path, how, shown):
    (tmp_path / how).touch()
    command = f"{sys.executable} {STAND_IN} {tmp_path}"
    with pytest.raises(EngineFailed) as caught:
        serve(place / "runs" / "first", engine="vllm", port=0, vllm_command=command, vllm_wait_s=3)
    assert shown in str(caught.value) and ("within 3 s" in str(caught.value)) == (how == "silent")
    if how == "silent":
        with pytest.raises(ProcessLookupError):
            os.kill(json.loads((tmp_path / "started.json").read_text())["pid"], 0)


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM is not for Windows")
def test_vllm_ends_with_its_front_and_the_front_with_it(place, tmp_path):
    process = vllm(place, tmp_path)
    try:
        url = address(process)
        (tmp_path / "die-later").touch()
        with pytest.raises(openai.InternalServerError):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
            client.completions.create(model="first", prompt="Say", max_tokens=3)
        assert process.wait(60) == 1
        last = process.stderr.read()
        assert "illegal memory access" in last and "Traceback" not in last
    finally:
        process.kill()
    (tmp_path / "silent").touch()
    (tmp_path / "started.json").unlink()
    process = vllm(place, tmp_path)
    try:
        assert until((tmp_path / "started.json").exists, 60)
        time.sleep(0.3)  # until the file is whole
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143, "also before it serves"
        with pytest.raises(ProcessLookupError):
            os.kill(json.loads((tmp_path / "started.json").read_text())["pid"], 0)
    finally:
        process.kill()


def test_what_vllm_would_do_otherwise_is_refused_before_it_starts(place, tmp_path):
    shutil.copytree(place / "runs" / "second", tmp_path / "more")
    kept = tmp_path / "more" / "adapter" / "adapter_config.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "use_dora": True}))
    shutil.copytree(place / "runs" / "second", tmp_path / "other")
    template = tmp_path / "other" / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    first = str(place / "runs" / "first")
    for targets, how, id in (
        ([first], {"vllm_command": "/nowhere/vllm"}, "serve.no_vllm"),
        ([first], {"device": "cpu"}, "serve.own_device"),
        ([first, first], {}, "serve.name_taken"),
        ([first, str(tmp_path / "more")], {}, "serve.vllm_adapter"),
        ([first, str(tmp_path / "other")], {}, "chat.other_template"),
        ([first], {"engine": "luthier", "vllm_command": "vllm"}, "serve.no_other_command"),
    ):
        with pytest.raises(UserError) as caught:
            serve(targets, port=0, **{"engine": "vllm", **how})
        assert caught.value.problems[0].id == id


@pytest.mark.skipif(sys.platform != "linux", reason="drops root's rights, as Linux does")
def test_offline_from_a_folder_that_cannot_be_written(place, open_to_all):
    """Nothing but the listening address is ever connected to, and the model's folder stays as it was."""
    tmp_path = open_to_all
    shutil.copytree(place, tmp_path / "kept")
    recipe = tmp_path / "kept" / "runs" / "first" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(place / "base"), str(tmp_path / "kept" / "base")))
    manifest = recipe.with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace(str(place / "base"), str(tmp_path / "kept" / "base")))
    (tmp_path / "kept").chmod(0o755)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*")}
    for path in [*before, tmp_path / "kept"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)  # another's, whom it cannot be taken from either
    code = (
        "import ctypes, socket, encodings.idna, luthier.cli, luthier.serving.house\n"
        "luthier.serving.house.open_session('runs/first').answer('x', luthier.Sampling(max_tokens=2))\n"
        "def denied(*arguments, **options): raise SystemExit('the network was asked for')\n"
        "socket.socket.connect = socket.socket.connect_ex = denied\n"
        # Root without its rights, not another user: the project may lie where nobody else can read it.
        "if os.geteuid() == 0:\n"
        "    head, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
        "    assert ctypes.CDLL(None).capset(head, rights) == 0\n"
        "assert not any(os.access(each, os.W_OK) for each in ('.', 'runs/first', 'runs/first/recipe.yaml'))\n"
        "os.environ['HOME'] = '/nonexistent'"
    )
    process = start(tmp_path / "kept", "runs/first", code=code)
    try:
        url = address(process)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
        schema = {"type": "json_object"}
        assert client.chat.completions.create(model="first", messages=QUESTION, max_tokens=4, response_format=schema)
        assert client.embeddings.create(model="first", input="x").data
    finally:
        process.terminate()
        assert process.wait(20) == 143, process.stderr.read()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*")} == before


# -------------------------------------------------------------------------------------------------- parts


def test_the_document_says_what_the_server_does(served):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    named = {}
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def judge(case) -> None:
            got = case.call(timeout=30)
            assert got.status_code < 500, (case.body, got.text)
            case.validate_response(got)
            if not isinstance(case.body, dict) or "model" not in case.body:
                return
            # As it is, but for a model that there is: what the document cannot say of two parameters together, or of
            # the length of a text, is then refused.
            case.body["model"] = "first"
            got = case.call(timeout=30)
            assert got.status_code < 500, (case.body, got.text)
            named[case.path] = named.get(case.path, 0) + (got.status_code == 200)
            case.validate_response(got, excluded_checks=[positive_data_acceptance])

        judge()
        seen.add((operation.method.upper(), operation.path))
    answered = {
        ("POST", f"/v1/{each}") for each in ("chat/completions", "completions", "embeddings", "adapters", "mixes")
    }
    assert {*answered, ("DELETE", "/v1/adapters/{name}"), ("GET", "/health"), ("GET", "/v1/models")} <= seen
    assert any(named.values()) and len(named) == 3, "some of what fits the document is answered"
    assert served.client().models.list().data[0].id == "first", "nothing was unloaded that is there"


CALLS = ('{"name": "f", "arguments": {"x": "好 </b>"}}', '{"name": "g", "arguments": {}}')
HERMES = "Let me see.\n" + "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in CALLS)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("style", "text", "wanted"),
    [
        ("hermes", HERMES, ["Let me see.", Call("f", '{"x": "好 </b>"}'), Call("g", "{}")]),
        ("hermes", "a <tool_cal no\n\nb", ["a <tool_cal no\n\nb"]),
        ("hermes", "<tool_call>{broken</tool_call>", ["<tool_call>{broken</tool_call>"]),
        ("llama3", '{"name": "f", "parameters": {"x": 1}}', [Call("f", '{"x": 1}')]),
        ("llama3", '{"a": 1} is JSON', ['{"a": 1} is JSON']),
        (
            "llama3",
            '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
            [Call("f", "{}"), Call("g", "{}")],
        ),
        ("llama3", "Hello {", ["Hello {"]),
        # Arguments first, or as a text: told once they are whole.
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [Call("f", '{"a": 1}')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [Call("f", '{"a": 1}')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": [{}]}}', [Call("f", '{"a": [{}]}')]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": </tool_call>b', [Call("f", '{"a": '), "b"]),
        ("llama3", '{"type": "function", "name": "f", "parameters": {"x": 1}}', [Call("f", '{"x": 1}')]),
        ("llama3", '{"name": "f", "parameters": {"x": "\\\\"}}\nDone', [Call("f", '{"x": "\\\\"}'), "Done"]),
    ],
)
def test_tool_calls_are_told_from_text(style, text, wanted, size):
    assert parsed(style, text, size) == wanted


def parsed(style, text: str, size: int) -> list:
    """What is told of a text that comes in pieces of this size, whole."""
    parser, made = Parser(style), []
    for start in range(0, len(text), size):
        made += parser.push(text[start : start + size])
    joined: list = []
    for each in [*made, *parser.flush()]:
        if isinstance(each, Begun):
            joined.append(Call(each.name, ""))
        elif isinstance(each, More):
            joined[-1] = joined[-1]._replace(arguments=joined[-1].arguments + each.text)
        elif joined and type(joined[-1]) is str:
            joined[-1] += each
        else:
            joined.append(each)
    return joined


def test_arguments_are_told_as_they_come():
    parser = Parser("hermes")
    assert parser.push('<tool_call>\n{"name": "f", "arguments": ') == []
    assert parser.push('{"x": ') == [Begun("f"), More('{"x": ')]
    assert parser.push('"</tool_call>\\"') == [More('"</tool_call>\\"')], "a tag in a text ends nothing"
    assert parser.push('"}') == [More('"}')] and parser.push("}\n</tool_call>\nDone") == ["\nDone"]
    assert parser.flush() == []


def test_tools_of_a_model_that_knows_them(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model("qwen2", seed=5, max_position_embeddings=1024), tmp_path / "tools")
    (tmp_path / "tools" / "chat_template.jinja").write_text(TOOLS_TEMPLATE)
    assert style_of(TOOLS_TEMPLATE) == "hermes"
    with House([str(tmp_path / "tools")], [], Limits()) as made:
        # A model that says what a tuned one would: each token is the only one that may come.
        renderer = made.voices.session.renderer
        script = [*renderer.vocabulary.ids(HERMES), renderer.stop_ids[0]]
        submit = made.engine.submit

        def scripted(*arguments, **options):
            import torch

            def only(ids):
                mask = torch.zeros(made.voices.session.decoder.spec.vocab, dtype=torch.bool)
                mask[script[len(ids)]] = True
                return mask

            return submit(*arguments, **{**options, "allowed": lambda: only})

        monkeypatch.setattr(made.engine, "submit", scripted)
        how = dict(model="tools", messages=QUESTION, tools=[TOOL], max_tokens=150)
        choice = made.client().chat.completions.create(**how).choices[0]
        calls = [(each.function.name, json.loads(each.function.arguments)) for each in choice.message.tool_calls]
        assert calls == [("f", {"x": "好 </b>"}), ("g", {})] and choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."
        with made.client().chat.completions.stream(**how) as stream:
            final = stream.get_final_completion().choices[0]
        told = [(each.function.name, each.function.arguments) for each in final.message.tool_calls]
        assert told == [(each.function.name, each.function.arguments) for each in choice.message.tool_calls]
        assert final.finish_reason == "tool_calls"
        deltas = [
            call
            for chunk in made.client().chat.completions.create(**how, stream=True)
            for call in chunk.choices[0].delta.tool_calls or []
        ]
        for index, name in enumerate("fg"):
            first, *rest = [each for each in deltas if each.index == index]
            assert (first.function.name, first.function.arguments, first.type) == (name, "", "function") and first.id
            assert all((each.id, each.function.name) == (None, None) for each in rest)
            assert "".join(each.function.arguments for each in rest) == told[index][1]
        assert sum(each.index == 0 for each in deltas) > 3, "in pieces"
        # Turns that a client sends back: the call, and what the tool said.
        back = [
            *QUESTION,
            choice.message.model_dump(),
            *({"role": "tool", "tool_call_id": each.id, "content": "42"} for each in choice.message.tool_calls),
        ]
        assert made.client().chat.completions.create(**{**how, "messages": back, "tool_choice": "none"}).choices


def test_a_call_at_the_token_limit_is_cut_off_by_length():
    voice = Voice("hermes")
    voice.push('<tool_call>{"name": "f", "argu')
    assert voice.finish("") == [{"content": '<tool_call>{"name": "f", "argu'}] and voice.reason("length") == "length"


SAIL = {
    "type": "function",
    "function": {
        "name": "sail",
        "parameters": {
            "type": "object",
            "properties": {"to": {"$ref": "#/$defs/port"}, "knots": {"type": "integer", "minimum": 1, "maximum": 30}},
            "required": ["to", "knots"],
            "additionalProperties": False,
            "$defs": {"port": {"enum": ["Rügen", "好"]}},
        },
    },
}
REST = {"type": "function", "function": {"name": "rest"}}


@pytest.fixture(scope="module", params=["tags of text", "tags of one token", "llama3"])
def with_tools(request, tiny_model, tmp_path_factory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("tools") / "tools"
    shutil.copytree(tiny_model("qwen2", seed=5, max_position_embeddings=1024, vocab_size=324), folder)
    template = TOOLS_TEMPLATE
    if request.param == "llama3":
        template = template.replace("<tool_call>", "").replace("</tool_call>", "") + '{# ipython "parameters" #}'
    (folder / "chat_template.jinja").write_text(template)
    if request.param == "tags of one token":
        add_tokens(folder, ["<tool_call>", "</tool_call>"])
    with House([str(folder)], [], Limits()) as made:
        made.style = style_of(template)
        yield made


def add_tokens(folder: Path, texts: list[str]) -> None:
    """Control tokens with these texts."""
    kept = json.loads((folder / "tokenizer.json").read_text())
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    for text in texts:
        place = max([*kept["model"]["vocab"].values(), *(each["id"] for each in kept["added_tokens"])]) + 1
        kept["added_tokens"].append({"id": place, "content": text, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_call_that_has_to_come_comes(with_tools, temperature):
    client = with_tools.client()
    how = dict(model="tools", messages=QUESTION, max_tokens=240, temperature=temperature, seed=2, tools=[REST, SAIL])
    named = {"type": "function", "function": {"name": "sail"}}
    for n, choice in ((2, named), (2, "required")):
        for made in client.chat.completions.create(**how, n=n, tool_choice=choice).choices:
            calls = made.message.tool_calls
            # A model of chance may go on with calls until the limit cuts one off.
            assert calls and (made.finish_reason == "tool_calls" or choice == "required")
            assert made.message.content is None or (
                made.finish_reason == "length" and made.message.content.strip()[:1] in ("", "<")
            )
            assert {each.function.name for each in calls} <= ({"sail"} if choice is named else {"sail", "rest"})
            for call in calls if made.finish_reason == "tool_calls" else calls[:-1]:
                given = json.loads(call.function.arguments)
                assert given == {} if call.function.name == "rest" else set(given) == {"to", "knots"}
                assert call.function.name == "rest" or (given["to"] in ("Rügen", "好") and 1 <= given["knots"] <= 30)
            assert choice != named or (len(calls) == 1 and made.finish_reason == "tool_calls")


def test_calls_and_a_format_are_held_to_together_where_calls_have_a_mark(with_tools):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    how = dict(model="tools", messages=QUESTION, max_tokens=200, temperature=2.0, tools=[REST], response_format=wanted)
    if with_tools.style == "llama3":
        with pytest.raises(openai.BadRequestError) as caught:
            with_tools.client().chat.completions.create(**how)
        assert caught.value.param == "response_format"
        return
    called, formed = 0, 0
    for made in with_tools.client().chat.completions.create(**how, n=24, seed=1).choices:
        called += bool(made.message.tool_calls)
        if made.finish_reason == "stop":
            formed += 1
            assert json.loads(made.message.content)["a"] in (1, 2)
    assert called and formed, "either may come"


@pytest.mark.parametrize(
    ("tools", "choice", "parameter"),
    [
        ([REST], {"type": "function", "function": {"name": "swim"}}, "tool_choice"),
        (None, "required", "tool_choice"),
        ([{**REST, "function": {"name": "x", "parameters": {"type": "nonsense"}}}], "required", "tools"),
        ([{**REST, "function": {"name": "\ud800", "parameters": {"type": "object"}}}], "required", None),
    ],
)
def test_a_choice_that_cannot_be_held_to_is_refused(with_tools, tools, choice, parameter):
    given = {"model": "tools", "messages": QUESTION, "max_tokens": 9, "tool_choice": choice}
    body = json.dumps({**given, "tools": tools} if tools else given)
    got = httpx2.post(
        f"{with_tools.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert got.status_code == 400, got.text
    assert parameter is None or got.json()["error"]["param"] == parameter
