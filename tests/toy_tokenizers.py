"""Small tokenizers and chat templates of the kinds that real models have.

What goes in: a folder and the kind wanted. What comes out: tokenizer files as a model folder holds them. Trained here
from a few sentences, so that tests need no download; the templates keep only what makes each kind different.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "Hello there, how are you today? I am fine, thank you.",
    "The capital of France is Paris. The capital of Japan is Tokyo.",
    "user assistant system tool instruction response",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "你好，世界。今天天气很好。",
    "assistant\n\n\nHello\n\n\n  there\n\n",
    "naïve café: 3.14 and 2,718 are numbers; émigré Ångström.",
] * 4

CHATML_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3_SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SENTENCEPIECE_SPECIALS = ["<unk>", "<s>", "</s>"]

CHATML = """{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- if tools %}
{{- '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role }}
{%- if message.content or not message.tool_calls %}{{- '\\n' + message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n' }}{{ call.function | tojson }}{{ '\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

TAGGED = """{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

# Thoughts stay in the last answer only, and an answer without any gets empty ones.
THINKING = """{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' %}
{%- set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > ns.last %}
{%- set content = '<think>\\n' + thought + '\\n</think>\\n\\n' + content %}
{%- endif %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

INST = """{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{%- if loop.index0 % 2 %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{- ' ' + message['content'] + eos_token }}
{%- else %}
{{- raise_exception('only user and assistant') }}
{%- endif %}
{%- endfor %}"""

# The end-of-text token closes a conversation that is over, so an answer that others follow ends differently.
CLOSED = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""

ENDLESS = """{%- for message in messages %}{{- message.role + ': ' + message.content + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}"""


SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen and Llama 3 cut text into words: line breaks stay together, whatever follows."""


@functools.cache
def _byte_level(words: str) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    if words == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return str(tokenizer.to_str())


@functools.cache
def _sentencepiece(scheme: str) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[*SENTENCEPIECE_SPECIALS, *bytes_], show_progress=False, max_token_length=8
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    loaded = json.loads(tokenizer.to_str())
    loaded["added_tokens"] = [each for each in loaded["added_tokens"] if each["content"] in SENTENCEPIECE_SPECIALS]
    return json.dumps(loaded)


def byte_level(specials: list[str], words: str, **names: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the control tokens given; `names`: bos_token, eos_token..."""
    tokenizer = Tokenizer.from_str(_byte_level(words))
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def chatml(template: str | None = CHATML, words: str = "qwen") -> PreTrainedTokenizerFast:
    """As Qwen has it: no BOS; the end of a turn is not the end of text."""
    made = byte_level(CHATML_SPECIALS, words, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    made.chat_template = template
    return made


def llama3(template: str | None = LLAMA3, words: str = "qwen") -> PreTrainedTokenizerFast:
    """The tokenizer puts a BOS before every text, and trims spaces off its character offsets. With `words="gpt2"` the
    last of several line breaks goes with the word that follows."""
    made = byte_level(LLAMA3_SPECIALS, words, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    bos = ("<|begin_of_text|>", made.bos_token_id)
    made.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[bos]),
        ]
    )
    made.chat_template = template
    return made


def sentencepiece(scheme: str = "first", template: str | None = INST) -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it; `legacy` puts a space after every control token, `first` only before the text."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_sentencepiece(scheme)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
    )
    made.chat_template = template
    return made


def save(tokenizer: Any, folder: Path) -> Path:
    """Write the tokenizer's files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    return folder
