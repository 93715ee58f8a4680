"""Write what the pre-training recipes of `nano` read: `python -m luthier.nano.make OUT`.

OUT/stage1.jsonl to stage6.jsonl hold the documents of each part, OUT/init/ a Llama checkpoint with a byte-level BPE
tokenizer and the weights of `luthier.nano.start`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from luthier.disk import write_json
from luthier.nano import corpus, start

SEED = 0
TOKENIZER_SEED = 1
PARTS = {
    "stage1": ("stage1", SEED, 12_800),
    "stage2": ("stage2", SEED, 6_000),
    "stage3": ("stage3", SEED, 16_000),
    "stage4": ("stage4", SEED, 20_000),
    "stage5": ("stage4", SEED + 1, 60_000),
    "stage6": ("stage4", SEED + 2, 60_000),
}
"""File -> stage of the corpus, seed, documents: 0.8, 1.3, 3.6, 4.3 and twice 13 million tokens."""

TOKENIZER_DOCUMENTS = 3_000
"""Per stage."""
TOKENIZER_STAGES = ("stage1", "stage2", "stage3")
"""The last stage has no words of its own."""

VOCABULARY = 1536
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    # 1/sqrt(hidden_size): with the customary 0.02 the attention logits of so narrow a model start near zero and its
    # queries and keys get next to no gradient.
    "initializer_range": 0.0625,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}


def main(out: Path) -> None:
    """Write the corpus and the untrained model folder to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for part, (stage, seed, count) in PARTS.items():
        with (out / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            for text in corpus.documents(stage, seed, count):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    write_init(out / "init")


def write_init(folder: Path) -> None:
    """Write configuration, tokenizer and starting weights."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer().save(str(folder / "tokenizer.json"))
    save_file(start.weights(CONFIG, SEED), folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", CONFIG)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIAL_TOKENS[2],
            "pad_token": SPECIAL_TOKENS[0],
            "additional_special_tokens": [SPECIAL_TOKENS[1]],
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
            "chat_template": CHAT_TEMPLATE,
        },
    )
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False})


def train_tokenizer() -> Tokenizer:
    """Train the byte-level BPE tokenizer on documents of every stage; digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterator[str]:
    """Documents for the tokenizer, from another stream than training's; without special tokens, which are no text."""
    streams = (corpus.documents(stage, TOKENIZER_SEED, TOKENIZER_DOCUMENTS) for stage in TOKENIZER_STAGES)
    for text in chain.from_iterable(streams):
        for token in SPECIAL_TOKENS:
            text = text.replace(token, "")
        yield text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
