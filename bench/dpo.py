"""DPO: this against TRL's defaults, on pairs shaped like real ones.

    python bench/dpo.py [--shape 0.5b|tiny] [--pairs 32] [--epochs 3] [--repeats 3]

What goes in: random weights of a shape, and pairs whose prompts and answers are as long as those of
`shared/data/dpo_en_demo.json` (median 190, 220 and 180 tokens of a Qwen tokenizer; log-normal). What comes out: process
seconds of each per repeat, interleaved, their medians and the ratio. TRL: `DPOTrainer` with a LoRA of rank 16 on all
linear layers, as it comes (padding, prompts twice, the reference in every step, checkpointing, float32 weights under
autocast); this: what `luthier train` does, the reference's pass of the first epoch included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier import methods
from luthier.arch.families import FAMILIES
from luthier.batch import EXAMPLES, TERM, Rendered, Step
from luthier.config.schema import Dpo, Lora
from luthier.data import pack
from luthier.models import adapters, weights

SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512,
    },
}  # fmt: skip
BATCH, RANK, BUDGET_TOKENS = 8, 16, 4096
MEDIANS, SPREAD, LONGEST = (190, 220, 180), 0.7, 1024


class Store:
    """As `luthier.data.sequences.Sequences`, as far as DPO asks."""

    judged = True

    def __init__(self, pairs: int, vocab: int) -> None:
        random = np.random.default_rng(0)
        self.rows: list[Rendered] = []
        for pair in range(pairs):
            lengths = np.clip(np.asarray(MEDIANS) * random.lognormal(0, SPREAD, 3), 4, LONGEST // 2).astype(int)
            prompt = random.integers(5, vocab, lengths[0])
            for side, length in enumerate(lengths[1:].tolist()):
                ids = np.concatenate([prompt, random.integers(5, vocab, length)]).astype(np.int32)
                learnt = np.zeros(len(ids), dtype=np.float32)
                learnt[len(prompt) :] = 1
                self.rows.append(Rendered(2 * pair + side, ids, learnt, 2 * pair, 1 - 2 * side))
        self.firsts = np.arange(0, 2 * pairs, 2)
        self.computed = np.asarray([len(row.ids) - 1 for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, uid: int) -> Rendered:
        return self.rows[uid]

    def members(self, first: int) -> range:
        return range(first, first + 2)

    def first_of(self, uid: int) -> int:
        return uid - uid % 2

    def fingerprint(self) -> str:
        return "bench"


def config_of(shape: str) -> dict[str, Any]:
    return {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096, "rope_theta": 1e6, "tie_word_embeddings": True, **SHAPES[shape],
    }  # fmt: skip


def here(shape: str, store: Store, epochs: int, dtype: torch.dtype) -> tuple[float, float]:
    """(process seconds, last loss)."""
    arch = FAMILIES["qwen2"](config_of(shape), "config.json")
    decoder = weights.random(arch, 0, dtype=dtype)
    adapters.attach(decoder, arch, Lora(rank=RANK), name="a")
    trained = [each for each in decoder.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    call_tokens = pack.call_tokens("cpu")
    with tempfile.TemporaryDirectory() as folder:
        made = methods.Given("a", 0, store, None, Path(folder), Path(folder), call_tokens=call_tokens)  # type: ignore[arg-type]
        method = methods.build(Dpo(), made)
        started = time.process_time()
        method.begin(decoder, BUDGET_TOKENS, 0)
        loss = 0.0
        for index in range(epochs * len(store) // (2 * BATCH)):
            first = index * 2 * BATCH % len(store)
            micro = pack.microbatches(store.rows[first : first + 2 * BATCH], BUDGET_TOKENS, call_tokens)
            step = method.prepare(Step(index, 0, (), micro, {TERM: 1.0, EXAMPLES: float(BATCH)}, 0), decoder)
            optimizer.zero_grad()
            loss = 0.0
            for batch in step.micro:
                found = method.loss(decoder, batch, index)
                objective = sum(value / step.denom[term] for term, value in found.sums.items())
                assert isinstance(objective, torch.Tensor)
                objective.backward()  # type: ignore[no-untyped-call]
                loss += float(objective.detach())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        return time.process_time() - started, loss


def there(shape: str, store: Store, epochs: int) -> tuple[float, float]:
    """The same of TRL as it comes."""
    import datasets
    import peft
    import trl
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    plain = config_of(shape)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(plain.pop("model_type"), **plain))
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    rows = []
    for chosen, rejected in zip(store.rows[::2], store.rows[1::2], strict=True):
        asked = int(np.flatnonzero(chosen.weights)[0])
        ids = {"prompt_ids": chosen.ids[:asked], "chosen_ids": chosen.ids[asked:], "rejected_ids": rejected.ids[asked:]}
        rows.append({name: each.tolist() for name, each in ids.items()})

    class Ready(trl.DPOTrainer):  # type: ignore[misc]
        """The rows are tokens already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    with tempfile.TemporaryDirectory() as folder:
        trainer = Ready(
            model=model,
            args=trl.DPOConfig(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=BATCH,
                report_to=[],
                save_strategy="no",
                use_cpu=True,
                logging_steps=1,
                dataloader_pin_memory=False,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"),
            peft_config=peft.LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        started = time.process_time()
        trainer.train()
        return time.process_time() - started, float(trainer.state.log_history[-1].get("train_loss", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    asked = parser.parse_args()
    store = Store(asked.pairs, SHAPES[asked.shape]["vocab_size"])
    shared = pack.microbatches(store.rows, BUDGET_TOKENS, pack.call_tokens("cpu"))
    print(
        f"{asked.pairs} pairs, {int(store.computed.sum()):,} tokens, "
        f"{sum(batch.num_tokens for batch in shared):,} with prompts once"
    )
    seconds: dict[str, list[float]] = {"luthier": [], "trl": []}
    for _ in range(asked.repeats):
        seconds["luthier"].append(here(asked.shape, store, asked.epochs, getattr(torch, asked.dtype))[0])
        seconds["trl"].append(there(asked.shape, store, asked.epochs)[0])
        print({name: round(each[-1], 1) for name, each in seconds.items()}, flush=True)
    ours, theirs = (statistics.median(each) for each in seconds.values())
    print(f"median process seconds: luthier {ours:.1f}, TRL {theirs:.1f}; {theirs / ours:.2f} times")


if __name__ == "__main__":
    main()
