"""LoRA training: Luthier against TRL + PEFT and torchtune, the same rows and weights; on a GPU Liger and Unsloth too.

    python bench/train.py [SHAPE] [ROUNDS] [--device cpu|cuda] [--rows alpaca|4k] [--sides ours,trl,...] [--python PATH]

First ours and TRL train a few steps in float32 from one adapter, and their losses have to agree (on a GPU in the shape
`tiny`, since not every shape fits in float32); then seconds per optimizer step are measured: each side in a process of
its own, by turns, the first step of each process left out, medians given.

* `ours`: a recipe with nothing set but the rank; `ours qlora`: with a base in nf4.
* `trl`: `SFTTrainer` with its defaults (float32 weights under bf16 autocast, activation checkpointing, padding; on a
  GPU bf16 weights, without which 8B does not fit).
* `trl best`: bf16 weights, no checkpointing, packed; `trl qlora` the same on a base in nf4.
* `liger`: `trl best` with Liger's kernels. `unsloth`: its `FastLanguageModel` under the same trainer, packed, with its
  own checkpointing; `unsloth qlora` on a base in nf4.
* `torchtune`: what its LoRA recipe for one device does: bf16 weights, packed, a chunked loss, no checkpointing, not
  compiled. A side whose packages are not there is left out by name.

torchtune and Unsloth do not go together with the versions of the others: `--python` is the Python of an environment in
which they (torchtune 0.6.1 with torchao 0.14.1) and Luthier are installed, and runs those two.

Rows: eight of 70 to 480 tokens a step, of which about 80 % are learnt (Alpaca's lengths); or `4k`: two of
nearly 4,096, all but a few learnt. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

LENGTHS = ((70, 50), (95, 72), (120, 95), (150, 120), (190, 155), (230, 185), (300, 245), (480, 400))
"""Tokens of a row, and those of its answer."""
ROWS = {"alpaca": LENGTHS, "4k": ((4070, 4060),) * 2}
PACKED = 4096
"""Tokens of a packed row."""
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 4096, "model_type": "llama"},
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152, "model_type": "llama"},
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "model_type": "qwen2"},
    "llama-3.1-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "model_type": "llama"}
    | {"rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False},
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    | {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "model_type": "qwen2"}
    | {"rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": False},
}
SIDES = {
    "cpu": ("ours", "trl", "trl best", "torchtune"),
    "cuda": ("ours", "trl", "trl best", "liger", "unsloth", "torchtune", "ours qlora", "trl qlora", "unsloth qlora"),
}
NEEDS = {"liger": ("liger_kernel",), "unsloth": ("unsloth",), "qlora": ("bitsandbytes",), "torchtune": ("torchtune",)}
"""Word of a side's name -> what has to be installed."""
APART = ("torchtune", "unsloth")
"""Sides that `--python` runs."""
RANK, RATE, SEED = 16, 1e-4, 0
STEPS, CHECKED_STEPS = 3, 4
REPEATS = 31
"""Of a bare product."""
LOSS_BOUND = 1e-5
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# ------------------------------------------------------------------------------------------------------ beginnings


def make(folder: Path, shape: str, rows: str = "alpaca", device: str = "cpu") -> None:
    """A model folder with random weights, an adapter to begin from, and rows as each side wants them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from luthier import nano
    from luthier.config.schema import RunConfig
    from luthier.data.templates import load_renderer

    given = dict(SHAPES[shape])
    config = AutoConfig.for_model(given.pop("model_type"), **{"tie_word_embeddings": True} | given)
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    model.save_pretrained(folder / "model")
    for file in nano.folder().iterdir():
        if file.name != "renderer.json" and not file.name.endswith((".safetensors", "config.json")):
            (folder / "model" / file.name).write_bytes(file.read_bytes())
    (folder / "model" / "tokenizer_config.json").write_bytes((nano.folder() / "tokenizer_config.json").read_bytes())
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR))
    adapted.save_pretrained(folder / "adapter")

    renderer = load_renderer(folder / "model", RunConfig.model_validate({"model": "m", "data": {"train": "x"}}))
    rng = random.Random(SEED)

    def say(tokens: int) -> str:
        words = ""
        while len(renderer.vocabulary.ids(words)) < tokens:
            words += " " + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))
        return words.strip()

    chats = [
        [{"role": "user", "content": say(whole - answer)}, {"role": "assistant", "content": say(answer)}]
        for whole, answer in ROWS[rows]
    ]
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "tokens.json").write_text(json.dumps([tokens_of(renderer, chat) for chat in chats]), encoding="utf-8")


def tokens_of(renderer: Any, chat: list[dict[str, str]]) -> dict[str, list[int]]:
    from luthier.data.formats import Chat, Message

    ids, weights = renderer.train(Chat(tuple(Message(**turn) for turn in chat)))
    return {"input_ids": ids.tolist(), "completion_mask": (weights > 0).astype(int).tolist()}


# ------------------------------------------------------------------------------------------------------------ sides


def ours(folder: Path, side: str, device: str, *, exact: bool) -> tuple[list[float], list[float]]:
    """Losses and seconds of every step."""
    import luthier

    rows = len((folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    fresh = {"kind": "qlora" if side.endswith("qlora") else "lora", "rank": RANK}
    recipe: dict[str, Any] = {
        "model": {"path": str(folder / "model"), **({"dtype": "float32"} if exact else {})},
        "data": {"train": str(folder / "rows.jsonl"), "validation": 0.0, "max_tokens": PACKED},
        "tune": {"kind": "lora", "from": str(folder / "adapter")} if exact else fresh,
        "optim": {"lr": RATE, "schedule": "constant", "warmup": 0, "batch": rows}
        | {"steps": CHECKED_STEPS if exact else 1 + STEPS},
        "run": {"name": "ours", "dir": str(folder / f"runs-{time.time_ns()}"), "device": device, "save_every": 10_000},
    }
    events = [each for each in luthier.train(recipe).events if each.kind == "step"]
    times = [each.time_s for each in events]
    return [each.data["loss"] for each in events], [b - a for a, b in itertools.pairwise(times)]


def peer(folder: Path, side: str, device: str, *, exact: bool) -> tuple[list[float], list[float]]:
    if side.startswith("unsloth"):
        import unsloth  # noqa: F401  it has to be imported before the others, which it changes
    import datasets
    from peft import LoraConfig, PeftModel
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.monotonic() - self.begun)

    seconds: list[float] = []
    packed = side != "trl" and not exact
    rows = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    model = _model(folder, side, device, exact=exact)
    if exact:
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    settings: dict[str, Any] = {"gradient_checkpointing": False} if exact or packed else {}
    if packed:
        settings["packing"] = True
    if side == "liger":
        settings["use_liger_kernel"] = True
    own = (
        None if exact or side.startswith("unsloth") else LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR)
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            use_cpu=device == "cpu",
            bf16=not exact,
            per_device_train_batch_size=-(-sum(len(row["input_ids"]) for row in rows) // PACKED)
            if packed
            else len(rows),
            max_steps=CHECKED_STEPS if exact else 1 + STEPS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            completion_only_loss=True,
            max_length=PACKED,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=own,
        callbacks=[Clock()],
    )
    trainer.train()
    return [each["loss"] for each in trainer.state.log_history if "loss" in each], seconds[1:]


def _model(folder: Path, side: str, device: str, *, exact: bool) -> Any:
    import torch

    quantised = side.endswith("qlora")
    if side.startswith("unsloth"):
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            str(folder / "model"), max_seq_length=PACKED, dtype=torch.bfloat16, load_in_4bit=quantised
        )
        return FastLanguageModel.get_peft_model(model, r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR)
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    wide = exact or (side == "trl" and device == "cpu")
    given: dict[str, Any] = {"dtype": torch.float32 if wide else torch.bfloat16}
    if quantised:
        given["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(folder / "model", device_map=device, **given)


def torchtune(folder: Path, side: str, device: str, *, exact: bool) -> tuple[list[float], list[float]]:
    """The loop of its recipe `lora_finetune_single_device` (0.6.1), with what that builds from a configuration. Its
    only Llama with a tied head scales rotary angles as Llama 3.2 does, so losses there are not the others'."""
    import torch
    from safetensors.torch import load_file
    from torch.nn.utils import clip_grad_norm_
    from torchtune import data, datasets, training
    from torchtune.models import convert_weights, llama3, llama3_2, qwen2
    from torchtune.models.qwen2._convert_weights import qwen2_hf_to_tune
    from torchtune.modules.loss import CEWithChunkedOutputLoss
    from torchtune.modules.peft import get_adapter_params, set_trainable_params

    assert not exact, "its losses are not held to ours"
    shape = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    tied, plain = shape["tie_word_embeddings"], shape["model_type"] == "qwen2"
    build = qwen2.lora_qwen2 if plain else llama3_2.lora_llama3_2 if tied else llama3.lora_llama3
    given = {"tie_word_embeddings": tied} if plain or tied else {}
    with training.set_default_dtype(torch.bfloat16), torch.device(device):
        model = build(
            ["q_proj", "k_proj", "v_proj", "output_proj"],
            apply_lora_to_mlp=True,
            vocab_size=shape["vocab_size"],
            num_layers=shape["num_hidden_layers"],
            num_heads=shape["num_attention_heads"],
            num_kv_heads=shape["num_key_value_heads"],
            embed_dim=shape["hidden_size"],
            intermediate_dim=shape["intermediate_size"],
            max_seq_len=PACKED,
            lora_rank=RANK,
            lora_alpha=2 * RANK,
            **given,
        )
    held: dict[str, Any] = {}
    for file in sorted((folder / "model").glob("*.safetensors")):
        held |= load_file(file, device=device)
    sizes = shape["num_attention_heads"], shape["num_key_value_heads"], shape["hidden_size"]
    convert = qwen2_hf_to_tune if plain else convert_weights.hf_to_tune
    model.load_state_dict(convert(held, *sizes, **({"tie_word_embeddings": tied} if plain else {})), strict=False)
    set_trainable_params(model, get_adapter_params(model))
    loss_of = CEWithChunkedOutputLoss()
    model.set_num_output_chunks(loss_of.num_output_chunks)
    rows = [
        {"tokens": row["input_ids"]}
        | {
            "labels": [
                at if learnt else -100 for at, learnt in zip(row["input_ids"], row["completion_mask"], strict=True)
            ]
        }
        for row in json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    ]
    # It fills packs up to their length, so that of few rows a pack is no longer than they are.
    longest = min(sum(len(row["tokens"]) for row in rows), PACKED)
    packed = datasets.PackedDataset(rows, max_seq_len=longest, padding_idx=0)
    given_batch = data.padded_collate_packed([packed[at] for at in range(len(packed))])
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer, losses, seconds = torch.optim.AdamW(trained, lr=RATE, fused=True), [], []
    for _ in range(1 + STEPS):
        started = time.monotonic()
        batch = {name: each.to(device) for name, each in given_batch.items()}
        labels = batch.pop("labels")
        labels = torch.hstack((labels[..., 1:], torch.full((len(labels), 1), -100, device=device)))
        loss = loss_of(model(**batch), labels)
        loss.backward()
        clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        seconds.append(time.monotonic() - started)
    return losses, seconds[1:]


def one(side: str, folder: Path, device: str, *, exact: bool, python: str | None = None) -> dict[str, Any]:
    """A side in a process of its own.

    Args:
        python: runs the sides that have an environment of their own.
    """
    apart = python is not None and side.split()[0] in APART
    command = [
        python if apart and python else sys.executable,
        __file__,
        "--side",
        side,
        str(folder),
        device,
        "exact" if exact else "fast",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def lacking(side: str, python: str | None) -> list[str]:
    """What a side needs and is not installed, as far as this environment runs it."""
    if python is not None and side.split()[0] in APART:
        return []
    return [each for word in side.split() for each in NEEDS.get(word, ()) if importlib.util.find_spec(each) is None]


def counted(folder: Path) -> tuple[int, int]:
    """FLOPs of our step as counted, and those of attention among them."""
    from luthier.arch import families, flops
    from luthier.config.schema import Lora

    arch = families.read(folder / "model")
    lengths, scored = computed(folder)
    found = flops.step(arch, Lora(rank=RANK), flops.Rows(lengths, scored, last=scored))
    return found.total, found.attention


def computed(folder: Path) -> tuple[list[int], int]:
    """Tokens of each row that enter the model, and how many are learnt. A row's last learnt token is only a target."""
    masks = [row["completion_mask"] for row in json.loads((folder / "tokens.json").read_text(encoding="utf-8"))]
    return [max(at for at, learnt in enumerate(mask) if learnt) for mask in masks], sum(map(sum, masks))


def matmul_rate(folder: Path, device: str, *, filled: bool = False) -> float:
    """FLOP/s at which this machine multiplies matrices of the model's own shapes, in the dtype that is chosen; filled:
    with as many rows as ours are filled up to, which a CPU multiplies faster."""
    import torch

    from luthier.arch import families
    from luthier.engine import backend
    from luthier.kernels import sizes

    dtype, rows = backend.choose(device, "auto").compute_dtype, sum(computed(folder)[0])
    rows = sizes.filled(rows) if filled else rows
    settled = torch.cuda.synchronize if device == "cuda" else lambda: None
    shapes = Counter((unit.in_features, unit.out_features) for unit in families.read(folder / "model").units)
    done = took = 0.0
    for (inputs, outputs), count in shapes.items():
        x, w, y = (
            torch.randn(size).to(dtype).to(device) for size in ((rows, inputs), (outputs, inputs), (rows, outputs))
        )
        times = []
        for _ in range(REPEATS):
            settled()
            started = time.perf_counter()
            torch.mm(x, w.T, out=y)
            settled()
            times.append(time.perf_counter() - started)
        done += count * 2.0 * rows * inputs * outputs
        took += count * statistics.median(times)
    return done / took


def report(side: str, folder: Path, device: str, how: str) -> None:
    from luthier.engine.backend import peak_memory_bytes

    train = ours if side.startswith("ours") else torchtune if side == "torchtune" else peer
    losses, seconds = train(folder, side, device, exact=how == "exact")
    print(json.dumps({"losses": losses, "seconds": seconds, "mib": peak_memory_bytes(device) / 2**20}))


def agree(folder: Path, device: str) -> None:
    """Raises:
    SystemExit: ours and TRL's losses in float32 differ.
    """
    mine, theirs = (one(side, folder, device, exact=True)["losses"] for side in ("ours", "trl"))
    furthest = max(abs(a - b) / b for a, b in zip(mine, theirs, strict=True))
    print(f"losses in float32: ours {mine}, trl {theirs}; they differ by {furthest:.1e} at most", flush=True)
    if furthest > LOSS_BOUND:
        raise SystemExit(f"they should agree to {LOSS_BOUND}: {theirs}")


def main(given: argparse.Namespace) -> None:
    import torch

    from luthier import devices

    shape, rounds, device, lengths = given.shape, given.rounds, given.device, given.rows
    sides = given.sides.split(",") if given.sides else SIDES[device]

    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as name:
        folder = Path(name) / "model"
        folder.mkdir()
        make(folder, shape, lengths, device)
        rows = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        tokens = sum(len(row["input_ids"]) for row in rows)
        learnt = sum(sum(row["completion_mask"]) for row in rows) / tokens
        where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
        print(f"{shape}: {len(rows)} rows, {tokens:,} tokens a step, {learnt:.0%} learnt, {where}")
        if device == "cpu":
            agree(folder, device)
        else:
            (Path(name) / "tiny").mkdir()
            make(Path(name) / "tiny", "tiny")
            agree(Path(name) / "tiny", device)
        for side in sides:
            if missing := lacking(side, given.python):
                print(f"{side}: left out, not installed: {', '.join(missing)}", flush=True)
        found: dict[str, list[float]] = {side: [] for side in sides if not lacking(side, given.python)}
        mib = dict.fromkeys(found, 0.0)
        rates: dict[bool, list[float]] = {False: [], True: []}
        for number in range(rounds):
            for filled, measured in rates.items():
                measured.append(matmul_rate(folder, device, filled=filled))
            for side, seconds in found.items():
                made = one(side, folder, device, exact=False, python=given.python)
                seconds += made["seconds"]
                mib[side] = max(mib[side], made["mib"])
                times = ", ".join(f"{each:.2f}" for each in made["seconds"])
                print(f"round {number + 1} {side}: {times} s; losses {made['losses']}", flush=True)
        middle = {side: statistics.median(seconds) for side, seconds in found.items() if seconds}
        for side in middle:
            speed = f"{tokens / middle[side]:,.0f} tokens/s, {middle['ours'] / middle[side]:.3f} of ours"
            print(f"{side}: {middle[side]:.2f} s a step, {speed}, peak {mib[side]:,.0f} MiB")
        if rounds:
            work, attention = counted(folder)
            print(f"ours: {work / 1e12:.3f} TFLOP a step as counted, {attention / work:.0%} of it attention's")
            for filled, measured in rates.items():
                said = ", ".join(f"{each / 1e9:.0f}" for each in measured)
                share = work / statistics.median(measured) / middle["ours"]
                rows = "filled-up numbers of rows" if filled else "as many rows"
                print(f"      {share:.2f} of it at the rate of bare matmuls of its shapes, {rows}: {said} GFLOP/s")
            known = devices.like(torch.cuda.get_device_name()) if device == "cuda" else None
            if known is not None:
                reached = work / middle["ours"] / 1e12
                print(f"      {reached:.0f} TFLOP/s, {reached / known.tflops:.2f} of the maker's dense bf16 figure")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        report(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
    else:
        asked = argparse.ArgumentParser()
        asked.add_argument("shape", nargs="?", default="smollm2-135m", choices=SHAPES)
        asked.add_argument("rounds", nargs="?", type=int, default=3)
        asked.add_argument("--device", default="cpu", choices=SIDES)
        asked.add_argument("--rows", default="alpaca", choices=ROWS)
        asked.add_argument("--sides")
        asked.add_argument("--python")
        main(asked.parse_args())
