"""Rows to tokens and masks: Luthier's store against `datasets.load_dataset` + `map(apply_chat_template)`.

    python bench/data.py [ROWS]        # 1,000,000 where not given

What goes in: chat rows made by seed, nano's tokenizer, a ChatML template with `{% generation %}` tags, so that the peer
can say what is learnt. What comes out, printed: seconds and peak memory of each side (all of its processes, shared
pages counted once), the ratio, whether ids and masks of every row are the same, and how long opening the finished store
takes. Both sides may use two processes; nothing is cached beforehand. Needs the `hub` extra.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import statistics
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
    """Conversations of one to three questions, about 700 bytes a row. Words are as unlike each other as in real text:
    50,000 of them, the n-th used in proportion to 1/n (Zipf's law), with numbers, commas and paragraphs among them."""
    rng = random.Random(SEED)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(50_000)]
    shares = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def say(length: int) -> str:
        said = rng.choices(words, cum_weights=shares, k=length)
        for place in range(6, length, 9):
            said[place] += rng.choice([",", ".", ":", "\n\n", f" {rng.randint(0, 2000)}", "'s"])
        return " ".join(said).capitalize() + "."

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
    """In a process of its own: prints the seconds it took; for ours also those that opening the store takes."""
    started = time.monotonic()
    {"ours": ours, "peer": peer}[side](model, rows, scratch)
    print(time.monotonic() - started)


def opened_s(scratch: Path) -> float:
    """Median of five, in this process."""
    from luthier.data.store import TokenStore

    (path,) = (scratch / "tokens").iterdir()
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        TokenStore.open(path)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def run(side: str, model: Path, rows: Path, scratch: Path) -> tuple[float, float]:
    """Seconds, and the most memory that the process and its children held together, in MiB."""
    command = [sys.executable, __file__, side, str(model), str(rows), str(scratch)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(proportional_kib, family(process.pid))))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{side} failed: run `{' '.join(command)}` to see why")
    assert process.stdout is not None
    return float(process.stdout.read().split()[-1]), most / 1024


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def proportional_kib(pid: int) -> int:
    """Resident memory, shared pages split among those who share them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


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
            seconds, mib = found[side] = run(side, model, rows, folder / side)
            print(f"{side}: {seconds:.1f} s, {count / seconds:,.0f} rows/s, peak {mib:,.0f} MiB", flush=True)
        print(
            f"ratio {found['peer'][0] / found['ours'][0]:.2f}, memory {found['ours'][1] / found['peer'][1]:.2f}, "
            f"opening the store {opened_s(folder / 'ours'):.3f} s",
            flush=True,
        )
        print(f"{same(model, rows, folder / 'ours', folder / 'peer'):,} of {count:,} rows have the same ids and mask")


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["peer"]):
        measure(sys.argv[1], *map(Path, sys.argv[2:5]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
