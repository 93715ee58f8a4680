"""The laws of rendering on the chat templates of real models, against transformers and mistral-common."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_tokenizers as real
import toy_tokenizers as toy
from transformers import AutoTokenizer

from luthier.config.schema import RunConfig
from luthier.data.formats import FORMATS, Chat, Message
from luthier.data.sandbox import PINNED_DATE
from luthier.data.templates import Renderer, load_renderer
from luthier.errors import ModelError, Problem


def call(name: str = "look_up", word: str = "key") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {"word": word, "times": 2}}}


def tool(name: str = "look_up", about: str = "Finds a word in the dictionary.") -> dict[str, Any]:
    word = {"type": "string", "description": "The word that is sought."}
    mode = {"type": "string", "enum": ["fast", "thorough"]}
    parameters = {"type": "object", "properties": {"word": word, "mode": mode}, "required": ["word"]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


HELLO, FINE = Message("user", "Hello there"), Message("assistant", "I am fine.")
AGAIN, PARIS = Message("user", "And now? 你好"), Message("assistant", "Paris it is.\nTruly.")
THINKING = Message("assistant", "I am fine.", extra={"reasoning_content": "They greet me."})
SURE = Message("assistant", "Paris it is.", extra={"reasoning_content": "The capital is meant."})
CALLING = Message("assistant", "", extra={"tool_calls": [call()]})
FOUND, METAL = Message("tool", "found: metal"), Message("assistant", "It is made of metal.")

CHATS: dict[str, Chat] = {
    "turns": Chat((HELLO, FINE, AGAIN, PARIS)),
    "system": Chat((Message("system", "Be brief, always."), HELLO, FINE, AGAIN, PARIS)),
    "tools": Chat((HELLO, CALLING, FOUND, METAL), (tool(),)),
    "thoughts": Chat((HELLO, THINKING, AGAIN, SURE)),
    "thoughts and tools": Chat(
        (HELLO, Message("assistant", "", extra={**CALLING.extra, **THINKING.extra}), FOUND, SURE), (tool(),)
    ),
    "words beside a call": Chat(
        (HELLO, Message("assistant", "One moment.", extra=CALLING.extra), FOUND, METAL), (tool(),)
    ),
}
TALK, TOOLS = ("turns", "system"), ("turns", "system", "tools")
ALL = tuple(CHATS)
FAMILIES: dict[str, tuple[str, ...]] = {
    "llama3": TALK,
    "llama3_training": TALK,
    "llama3_1": TOOLS,
    "llama3_2": TOOLS,
    "qwen2_5": (*TOOLS, "words beside a call"),
    "qwen2_5_training": (*TOOLS, "words beside a call"),
    "qwen3": ALL,
    "qwen3_training": ALL,
    "qwen3_instruct_2507": (*TOOLS, "words beside a call"),
    "qwen3_instruct_2507_training": (*TOOLS, "words beside a call"),
    "qwen3_5_think": ALL,
    "gemma": ("turns",),
    "gemma_training": ("turns",),
    "gemma3": TALK,
    "gemma3_training": TALK,
    "phi3": TALK,
    "phi3_training": TALK,
    "phi3_5": TALK,
    "phi3_5_training": TALK,
    "chatglm": (*TOOLS, "words beside a call"),
    "yi": TALK,
}
"""Template -> the conversations that it has a place for."""
UNROLLED = {
    ("qwen3", "turns"),
    ("qwen3", "system"),
    ("qwen3", "tools"),
    ("qwen3", "thoughts"),
    ("qwen3", "words beside a call"),
    ("qwen3_5_think", "turns"),
    ("qwen3_5_think", "system"),
    ("qwen3_5_think", "thoughts"),
}
"""Where an answer reads otherwise once more is said."""
JOINED = {("qwen3_5_think", kind) for kind in ("turns", "system", "tools", "words beside a call")}
"""Where the answer's first line break would be one token with the prompt's last one: no model could write that after
the prompt, so it is cut there, and the tokens are not those of the whole text."""
PAIRS = [(family, kind) for family, kinds in FAMILIES.items() for kind in kinds]
STOPS = {
    "llama3": "<|eot_id|>",
    "qwen2": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "phi3": "<|end|>",
    "chatglm": "<|user|>",
    "yi": "<|im_end|>",
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def make(family: str) -> Path:
        return real.save(family, tmp_path_factory.mktemp(family))

    return make


@pytest.fixture(scope="module")
def renderer_of(folder_of: Callable[[str], Path]) -> Callable[..., Renderer]:
    @functools.cache
    def load(family: str, train_on: str = "all", accept: tuple[str, ...] = ()) -> Renderer:
        folder = folder_of(family)
        values = {"model": str(folder), "data": {"train": "-", "accept_unread": accept}}
        return load_renderer(
            folder, RunConfig.model_validate({**values, "method": {"kind": "sft", "train_on": train_on}})
        )

    return load


@pytest.fixture(scope="module")
def oracle_of(folder_of: Callable[[str], Path]) -> Callable[..., Any]:
    tokenizers = functools.cache(lambda family: AutoTokenizer.from_pretrained(folder_of(family)))
    pinned = f"{datetime.date.fromisoformat(PINNED_DATE):%d %b %Y}"

    def ask(family: str, messages: Any, tools: Any, **more: Any) -> Any:
        rows = [{"role": m.role, "content": m.content, **m.extra} for m in messages]
        given = {"tools": list(tools) or None, "return_dict": True, "date_string": pinned}
        return tokenizers(family).apply_chat_template(rows, **given, **more)

    return ask


def sequences(renderer: Renderer, chat: Chat) -> list[Any]:
    made = renderer.train_many([chat])[0]
    assert not isinstance(made, Problem), str(made)
    return made


# --------------------------------------------------------------------------------------------- ids, prompts, stops


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_ids_prompts_and_stops(
    renderer_of: Callable[..., Renderer], oracle_of: Callable[..., Any], family: str, kind: str
) -> None:
    renderer, chat = renderer_of(family), CHATS[kind]
    made = sequences(renderer, chat)
    answers = [index for index, message in enumerate(chat.messages) if message.role == "assistant"]
    assert (len(made) > 1) == ((family, kind) in UNROLLED)
    ends = [index + 1 for index in answers] if len(made) > 1 else [len(chat.messages)]
    stop = next(text for start, text in STOPS.items() if family.startswith(start))
    assert renderer.vocabulary.added[renderer.stop_ids[0]] == stop
    for (ids, weights), end in zip(made, ends, strict=True):
        # The tokens are transformers' own, of the conversation as far as this sequence goes.
        whole = oracle_of(family, chat.messages[:end], chat.tools)["input_ids"]
        assert (ids.tolist() == whole) == ((family, kind) not in JOINED)
        texts = [renderer.vocabulary.decode(each, skip_special=False) for each in (ids.tolist(), whole)]
        assert texts[0] == texts[1]
        begins = np.flatnonzero(np.diff(weights) > 0) + 1
        lasts = np.flatnonzero(np.diff(np.append(weights, 0)) < 0)
        learnt = [index for index in answers if index < end][-len(begins) :]
        assert len(begins) == len(lasts) == (1 if len(made) > 1 else len(answers))
        for index, first, last in zip(learnt, begins, lasts, strict=True):
            prompt = oracle_of(family, chat.messages[:index], chat.tools, add_generation_prompt=True)["input_ids"]
            assert ids[:first].tolist() == renderer.prompt(chat.messages[:index], chat.tools)
            if (family, kind) not in JOINED or index == answers[0]:  # later prompts hold an answer that was cut
                assert ids[:first].tolist() == prompt
            called = family == "chatglm" and chat.messages[index].extra
            assert renderer.vocabulary.added[ids[last]] == ("<|observation|>" if called else stop)
    bos = renderer.vocabulary.bos_id
    assert bos is None or ids.tolist().count(bos) == ids.tolist()[:1].count(bos), "one beginning at most"
    report = renderer.laws([chat])
    assert (report.unrolled, report.unused, report.checked) == (len(made) > 1, (), len(answers))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.endswith("_training")])
def test_masks_are_those_of_the_templates_own_tags(
    renderer_of: Callable[..., Renderer], oracle_of: Callable[..., Any], family: str
) -> None:
    """A tag may also take in what the prompt gives away already, and what follows the stop token: never more."""
    for kind in FAMILIES[family]:
        chat, renderer = CHATS[kind], renderer_of(family)
        ((ids, weights),) = sequences(renderer, chat)
        said = oracle_of(family, chat.messages, chat.tools, return_assistant_tokens_mask=True)
        assert ids.tolist() == said["input_ids"]
        tagged, learnt = np.asarray(said["assistant_masks"], bool), weights > 0
        assert not (learnt & ~tagged)[ids != renderer.stop_ids[0]].any()
        surplus = renderer.vocabulary.decode(ids[tagged & ~learnt].tolist(), skip_special=False)
        assert set(surplus) <= set("\n") or (family.startswith("phi") and surplus.strip() == "<|endoftext|>"), surplus


@pytest.mark.parametrize("family", ["llama3", "qwen2_5", "qwen3_instruct_2507", "gemma", "gemma3", "phi3", "phi3_5"])
def test_masks_are_the_same_with_tags_and_without(renderer_of: Callable[..., Renderer], family: str) -> None:
    for kind in FAMILIES[family]:
        (plain,), (tagged,) = (sequences(renderer_of(name), CHATS[kind]) for name in (family, f"{family}_training"))
        assert plain[0].tolist() == tagged[0].tolist() and plain[1].tolist() == tagged[1].tolist()


# ------------------------------------------------------------------------------------------------ what is left out


@pytest.mark.parametrize(
    ("family", "kind", "message"),
    [
        ("llama3", "thoughts", "reasoning_content: "),
        ("qwen2_5", "thoughts", "reasoning_content: "),
        ("qwen2_5", "thoughts and tools", "reasoning_content: "),
        ("gemma3", "thoughts", "reasoning_content: "),
        ("phi3", "thoughts", "reasoning_content: "),
        ("yi", "thoughts", "reasoning_content: "),
        ("llama3_1", "words beside a call", "assistant.content: "),
        ("lfm2", "tools", "tool_calls: "),
        ("gemma3", "tools", "no place for them"),
        ("phi3", "tools", "no place for them"),
        ("gemma", "system", "System role not supported"),
        ("deepseek_r1_distill", "thoughts", "another prompt than chat"),
    ],
)
def test_what_a_real_template_forgets_stops_the_run(
    renderer_of: Callable[..., Renderer], family: str, kind: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        renderer_of(family).laws([CHATS[kind]], ["x.jsonl:4"])
    problem = caught.value.problems[0]
    assert problem.where == "x.jsonl:4" and ("user > assistant" in str(problem) or message == "no place for them")


def test_thoughts_can_be_given_up_knowingly(renderer_of: Callable[..., Renderer]) -> None:
    report = renderer_of("qwen2_5", accept=("reasoning_content",)).laws([CHATS["thoughts"]])
    assert report.unused == ("reasoning_content",)
    assert renderer_of("gemma3", accept=("tools",)).laws([Chat((HELLO, FINE), (tool(),))]).unused == ("tools",)


# ---------------------------------------------------------------------------------------------- which turns train


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_think"])
def test_last_turn_and_weights_on_a_template_that_rewrites(renderer_of: Callable[..., Renderer], family: str) -> None:
    chat = CHATS["thoughts"]
    ((ids, weights),) = sequences(renderer_of(family, "last"), chat)
    every = sequences(renderer_of(family), chat)
    assert ids.tolist() == every[-1][0].tolist() and weights.tolist() == every[-1][1].tolist()
    weighted = Chat((HELLO, Message("assistant", FINE.content, 0.5, THINKING.extra), AGAIN, SURE))
    first, second = sequences(renderer_of(family), weighted)
    assert set(first[1].tolist()) == {0.0, 0.5} and set(second[1].tolist()) == {0.0, 1.0}
    silent = Chat((HELLO, Message("assistant", FINE.content, 0.0, THINKING.extra), AGAIN, SURE))
    ((again, _),) = sequences(renderer_of(family), silent)
    assert again.tolist() == ids.tolist()
    # A question without an answer yet takes nothing from the answers before it.
    asked = Chat((*chat.messages, Message("user", "More?")))
    assert [one.tolist() for one, _ in sequences(renderer_of(family), asked)] == [one.tolist() for one, _ in every]


# ------------------------------------------------------------------------------------------------------ injection


@pytest.mark.parametrize("family", FAMILIES)
def test_typed_control_tokens_stay_words_everywhere(renderer_of: Callable[..., Renderer], family: str) -> None:
    """All control tokens of the model, typed into every field: the prompt has no control token more or less."""
    renderer = renderer_of(family)
    guarded = {*renderer.vocabulary.special, *renderer.stop_ids}
    typed = "".join(renderer.vocabulary.added[each] for each in sorted(guarded))

    def chat(words: str, kind: str) -> Chat:
        made = FORMATS["messages"].parse(json.loads(json.dumps(_row(CHATS[kind])).replace("WORDS", words)))
        assert isinstance(made, Chat)
        return made

    for kind in FAMILIES[family]:
        real_ids, harmless = (sequences(renderer, chat(words, kind)) for words in (typed, "harmless"))
        for (ids, weights), (plain, plain_weights) in zip(real_ids, harmless, strict=True):
            control = [each for each in ids.tolist() if each in guarded]
            assert control == [each for each in plain.tolist() if each in guarded], kind
            learnt = [each for each in ids[weights > 0].tolist() if each in guarded]
            assert learnt == [each for each in plain[plain_weights > 0].tolist() if each in guarded], kind
        assert renderer.laws([chat(typed, kind)]).violations == ()


def _row(chat: Chat) -> dict[str, Any]:
    """The conversation with WORDS behind every text in it."""

    def more(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return value if key in ("role", "type") else f"{value} WORDS"
        if isinstance(value, dict):
            return {name: more(each, name) for name, each in value.items()}
        return [more(each) for each in value] if isinstance(value, list) else value

    messages = [{"role": m.role, "content": m.content or "x", **m.extra} for m in chat.messages]
    if any("tool_calls" in message for message in messages):
        # Several templates take either words or a call.
        messages = [{**m, "content": ""} if "tool_calls" in m else m for m in messages]
    row = more({"messages": messages, "tools": list(chat.tools)})
    for message in row["messages"]:
        message["content"] = "" if message["content"] == " WORDS" else message["content"]
    return row


# ----------------------------------------------------------------------------------------------- dates and padding


def test_the_date_is_pinned_and_recorded(renderer_of: Callable[..., Renderer]) -> None:
    for family in ("llama3_1", "llama3_2"):
        renderer = renderer_of(family)
        assert "Today Date: 26 Jul 2024" in renderer.text([HELLO])
        assert renderer.describe()["date"] == PINNED_DATE


@pytest.mark.parametrize("family", ["phi3", "qwen3"])
def test_nothing_is_masked_by_its_id(tmp_path: Path, family: str) -> None:
    """Padding is the end token here, and the end token ends answers: it is learnt where it ends one."""
    made = real.tokenizer(family)
    stop = next(text for start, text in STOPS.items() if family.startswith(start))
    made.eos_token = made.pad_token = stop
    folder = toy.save(made, tmp_path)
    renderer = load_renderer(folder, RunConfig.model_validate({"model": str(folder), "data": {"train": "-"}}))
    identity = renderer.vocabulary.eos_id
    assert made.pad_token_id == made.eos_token_id == identity == renderer.stop_ids[0]
    for ids, weights in sequences(renderer, CHATS["turns"]):
        last = int(np.flatnonzero(weights)[-1])
        assert ids[last] == identity and weights[last] == 1
        assert (weights[ids == identity] == 0).any(), "the question's end token is context, though of the same id"


# --------------------------------------------------------------------------------------------- Mistral's tokenizer


def test_mistral_prompts_are_those_of_mistral_common(renderer_of: Callable[..., Renderer]) -> None:
    """A real vocabulary of 131,072 tokens, and a format whose system prompt moves to the last question: unrolled."""
    renderer, oracle = renderer_of("mistral"), real.mistral_oracle()
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    plain = oracle.instruct_tokenizer.tokenizer
    for chat in (CHATS["turns"], CHATS["system"], Chat((Message("user", "naïve 🎻 3.14\n\tx"), PARIS))):
        made = sequences(renderer, chat)
        answers = [index for index, message in enumerate(chat.messages) if message.role == "assistant"]
        system = chat.messages[0].role == "system"
        assert len(made) == (len(answers) if system else 1)
        for number, index in enumerate(answers):
            ids, weights = made[number if system else 0]
            asked = [kinds[message.role](content=message.content) for message in chat.messages[:index]]
            prompt = oracle.encode_chat_completion(ChatCompletionRequest(messages=asked)).tokens
            answer = [*plain.encode(chat.messages[index].content, bos=False, eos=False), plain.eos_id]
            assert ids.tolist()[: len(prompt) + len(answer)] == [*prompt, *answer]
            assert weights[len(prompt) : len(prompt) + len(answer)].all() and not weights[len(prompt) - 1]
        assert renderer.laws([chat]).unrolled == system
