"""Rows to tokens and masks: Luthier's store against `datasets.load_dataset` + `map(apply_chat_template)`.

    python bench/data.py [ROWS]        # 1,000,000 where not given

What goes in: chat rows made by seed, nano's tokenizer, a ChatML template with `{% generation %}` tags, so that the peer
can say what is learnt. What comes out, printed: seconds and peak memory of each side, the ratio, and whether ids and
masks of every row are the same. Both sides may use two processes or threads; nothing is cached beforehand. Needs the
`hub` extra.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = 1_000_000
SEED = 0
PROCESSES = 2
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_rows(path: Path, count: int) -> None:
    """Conversations of one to three questions, about 650 bytes a row."""
    rng = random.Random(SEED)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]

    def say(length: int) -> str:
        return " ".join(rng.choices(words, k=length)).capitalize() + "."

    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            turns = [
                {"role": role, "content": say(rng.randint(low, high))}
                for _ in range(rng.choice((1, 1, 1, 2, 3)))
                for role, low, high in (("user", 5, 25), ("assistant", 10, 60))
            ]
            file.write(json.dumps({"messages": turns}) + "\n")


def ours(model: Path, rows: Path, scratch: Path) -> Any:
    from luthier.config.schema import RunConfig
    from luthier.data import check, tokens
    from luthier.data.sequences import Sequences
    from luthier.data.templates import load_renderer

    config = RunConfig.model_validate({"model": str(model), "data": {"train": str(rows), "validation": 0.0}})
    found = check.scans(config.data)
    renderer = load_renderer(model, config)
    built = [tokens.build(scan, renderer, scratch, role="train", source_index=0) for scan, _, _ in found.files]
    checked = check.judge(config.data, 0, "sft", found, [each.given for each in built])
    stores = [each.store for each in built if each.store is not None]
    return Sequences(checked.train, stores, 1 << 20, "stop")


def peer(model: Path, rows: Path, scratch: Path) -> Any:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)

    def render(row: dict[str, Any]) -> dict[str, Any]:
        made = tokenizer.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": made["input_ids"], "assistant_masks": made["assistant_masks"]}

    loaded = datasets.load_dataset("json", data_files=str(rows), split="train", cache_dir=str(scratch))
    return loaded.map(render, remove_columns=loaded.column_names, num_proc=PROCESSES)


def measure(side: str, model: Path, rows: Path, scratch: Path) -> None:
    """In a process of its own: prints seconds and the peak memory of it and its children, together, in MiB."""
    started = time.monotonic()
    {"ours": ours, "peer": peer}[side](model, rows, scratch)
    seconds = time.monotonic() - started
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # The kernel gives the largest child; the peer has two alike.
    print(json.dumps({"seconds": seconds, "mib": (own + PROCESSES * children) / 1024}))


def same(model: Path, rows: Path, ours_at: Path, peer_at: Path) -> int:
    """How many rows have the same ids and the same mask; the peer's mask has no room for a first token without one."""
    mine, theirs = ours(model, rows, ours_at), peer(model, rows, peer_at)
    assert len(mine) == len(theirs)
    found = 0
    for row, each in enumerate(theirs):
        learnt = [bool(mask) for mask in each["assistant_masks"]]
        found += mine[row].ids.tolist() == each["input_ids"] and (mine[row].weights > 0).tolist() == learnt
    return found


def main(count: int) -> None:
    from luthier import nano

    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as name:
        folder = Path(name)
        model, rows = folder / "model", folder / "rows.jsonl"
        model.mkdir()
        for file in nano.folder().iterdir():
            if not file.name.endswith((".safetensors", ".jinja")) and file.name != "renderer.json":
                (model / file.name).write_bytes(file.read_bytes())
        (model / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        write_rows(rows, count)
        print(f"{count:,} rows, {rows.stat().st_size / 1e6:,.0f} MB")
        found = {}
        for side in ("ours", "peer"):
            command = [sys.executable, __file__, side, str(model), str(rows), str(folder / side)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[side] = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{side}: {found[side]['seconds']:.1f} s, {count / found[side]['seconds']:,.0f} rows/s, "
                f"peak {found[side]['mib']:,.0f} MiB"
            )
        print(
            f"ratio {found['peer']['seconds'] / found['ours']['seconds']:.2f}, "
            f"memory {found['ours']['mib'] / found['peer']['mib']:.2f}"
        )
        print(f"{same(model, rows, folder / 'ours', folder / 'peer'):,} of {count:,} rows have the same ids and mask")


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["peer"]):
        measure(sys.argv[1], *map(Path, sys.argv[2:5]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
