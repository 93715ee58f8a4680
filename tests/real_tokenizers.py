"""Chat templates and tokenizers of real models, read from the packages that ship them.

What goes in: the installed `trl` (templates) and `mistral_common` (tokenizers). What comes out: model folders with a
tokenizer and its template. Nothing of theirs is copied here; where a package is absent, the test is skipped and says
so. Two formats that no package ships are written down in the few lines that their makers publish.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import toy_tokenizers as toy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GEMMA = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
PHI = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
CHATGLM = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]

DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]

# ChatGLM ends a turn with the mark of the one that follows: behind a call the tool's, behind the last answer the
# user's. Its makers name both as end tokens.
CHATGLM_TEMPLATE = """[gMASK]<sop>
{%- for tool in tools or [] %}{{- '<|system|>\\n' + tool | tojson(ensure_ascii=false) }}{%- endfor %}
{%- for message in messages %}
{%- set marks = {'tool': 'observation'} %}
{{- '<|' + marks.get(message.role, message.role) + '|>\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- call.function.name + '\\n' + call.function.arguments | tojson }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}
{%- elif messages[-1].tool_calls %}{{- '<|observation|>' }}
{%- elif messages[-1].role == 'assistant' %}{{- '<|user|>' }}
{%- endif %}"""

YI_TEMPLATE = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}
{{- '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# The third version of Mistral's format: what the system says stands in the last question.
MISTRAL_TEMPLATE = """{{- bos_token }}
{%- set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if system else messages %}
{%- set asked = turns | selectattr('role', 'equalto', 'user') | list | length %}
{%- set seen = namespace(questions=0) %}
{%- for message in turns %}
{%- if message.role == 'user' %}
{%- set seen.questions = seen.questions + 1 %}
{{- '[INST]' + (system if seen.questions == asked else '') + message.content + '[/INST]' }}
{%- else %}{{- message.content + eos_token }}{%- endif %}
{%- endfor %}"""


def trl_template(name: str) -> str:
    """Source of a template in the trl wheel (trl itself is not imported: it takes seconds)."""
    found = importlib.util.find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("needs trl, whose wheel carries the chat templates")
    return (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def with_specials(specials: list[str], template: str, **names: str) -> PreTrainedTokenizerFast:
    made = toy.byte_level(specials, "qwen", **names)
    made.chat_template = template
    return made


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the control tokens of the family, and its template."""
    if family == "chatglm":
        return with_specials(CHATGLM, CHATGLM_TEMPLATE, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    if family == "yi":
        made = toy.sentencepiece("legacy", YI_TEMPLATE)
        made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        return made
    template = trl_template(family)
    if family.startswith("llama"):
        return toy.llama3(template)
    if family.startswith("gemma"):
        return with_specials(GEMMA, template, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    if family.startswith("deepseek"):
        return with_specials(DEEPSEEK, template, bos_token=DEEPSEEK[0], eos_token=DEEPSEEK[1], pad_token=DEEPSEEK[1])
    if family.startswith("phi"):
        return with_specials(PHI, template, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    return toy.chatml(template)


def save(family: str, folder: Path) -> Path:
    """A model folder of the family, with the end tokens that its makers name besides."""
    made = tekken() if family == "mistral" else tokenizer(family)
    ends = {"chatglm": ["<|endoftext|>", "<|user|>", "<|observation|>"]}.get(family)
    if ends:
        ids = made.convert_tokens_to_ids(ends)
        folder.joinpath("generation_config.json").write_text(json.dumps({"eos_token_id": ids}), encoding="utf-8")
    return toy.save(made, folder)


def _mistral_data() -> Path:
    found = importlib.util.find_spec("mistral_common")
    if found is None or found.origin is None:
        pytest.skip("needs mistral-common, whose wheel carries the tokenizers")
    return Path(found.origin).parent / "data"


@functools.cache
def tekken() -> PreTrainedTokenizerFast:
    """Mistral's byte-level tokenizer of 131,072 tokens, as a fast one: merges are rebuilt from the ranks."""
    raw = json.loads((_mistral_data() / "tekken_240911.json").read_text(encoding="utf-8"))
    config = raw["config"]
    first = config["default_num_special_tokens"]
    words = raw["vocab"][: config["default_vocab_size"] - first]
    ranks = {base64.b64decode(word["token_bytes"]): word["rank"] for word in words}
    merges = [
        (ranks[both], ranks[both[:at]], ranks[both[at:]], both[:at], both[at:])
        for both in ranks
        for at in range(1, len(both))
        if both[:at] in ranks and both[at:] in ranks
    ]
    letters = _letters()
    spelt = {word: "".join(letters[byte] for byte in word) for word in ranks}
    named = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    specials = [*named, *(f"<SPECIAL_{number}>" for number in range(len(named), first))]
    vocabulary = {text: number for number, text in enumerate(specials)}
    vocabulary |= {spelt[word]: first + rank for word, rank in ranks.items()}
    pairs = [(spelt[left], spelt[right]) for *_, left, right in sorted(merges)]
    made = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(config["pattern"]), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in named])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = MISTRAL_TEMPLATE
    return fast


def mistral_oracle() -> Any:
    """mistral-common's own way from messages to ids: one callable for prompts, and its plain tokenizer."""
    _mistral_data()
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.v3(is_tekken=True)


def _letters() -> dict[int, str]:
    """Byte -> the letter that byte-level tokenizers write for it: itself where it can be seen, else one from U+0100."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(0x100 + place) for place, byte in enumerate(unseen)}
