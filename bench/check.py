"""How long `luthier data check` takes: python bench/check.py [ROWS]

What goes in: a number of rows (100,000). What comes out: rows made by a seed (chat of one to three questions, English
and Chinese, 2 in 100 repeated, 3 in 100 changed in a few words), then the seconds, rows per second and peak memory of
the whole check in a fresh process: reading, every finding, near duplicates and the page.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 0
CHECK = """
import resource, sys, time
started = time.perf_counter()
from luthier.data import check, report, report_page
from luthier.data.findings import Findings
imported = time.perf_counter()
look = report.Look(Findings(), None, "no model")
checked = check.check_path(sys.argv[1], "auto", look)
seen = time.perf_counter()
made = report.make(checked, look)
page = report_page.page(made, "bench")
ended, computed = time.perf_counter(), time.process_time()
rows, peak = made.statistics.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{rows:,} rows in {ended - started:.1f} s: {rows / (ended - started):,.0f} rows/s, peak {peak / 1024:,.0f} MiB")
print(f"    imports {imported - started:.1f} s, rows {seen - imported:.1f} s, summing up {ended - seen:.1f} s")
print(f"    processor time {computed:.1f} s: what it takes where nothing else runs")
print(*("    " + str(each.problem).splitlines()[0] for each in made.findings), sep="\\n")
"""


def rows(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(SEED)
    letters, characters = "abcdefghijklmnopqrstuvwxyz", [chr(0x4E00 + rng.randrange(3000)) for _ in range(2000)]
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]

    def said(least: int, most: int, chinese: bool) -> str:
        size = rng.randint(least, most)
        text = "".join(rng.choices(characters, k=2 * size)) if chinese else " ".join(rng.choices(words, k=size))
        return text.capitalize() + ("。" if chinese else ".")

    earlier: list[dict[str, Any]] = []
    for number in range(count):
        kind = number % 100
        if kind < 2 and earlier:
            yield rng.choice(earlier)
        elif kind < 5 and earlier:
            yield changed(rng.choice(earlier), rng.choice(words))
        else:
            row = {"messages": []}
            for _ in range(rng.randint(1, 3)):
                row["messages"].append({"role": "user", "content": said(5, 25, kind > 90)})
                row["messages"].append({"role": "assistant", "content": said(10, 100, kind > 90)})
            if kind == 50:
                earlier.append(row)
            yield row


def changed(row: dict[str, Any], word: str) -> dict[str, Any]:
    """The row with another first word in its last answer."""
    *before, last = row["messages"]
    return {"messages": [*before, {**last, "content": f"{word} {last['content'].partition(' ')[2]}"}]}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count))
        print(f"{count:,} rows made by seed {SEED}: {path.stat().st_size / 1e6:,.0f} MB", flush=True)
        subprocess.run([sys.executable, "-c", CHECK, str(path)], check=True)


if __name__ == "__main__":
    main()
