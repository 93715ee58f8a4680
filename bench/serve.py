"""The server under load: many streams at once from a process of its own, asked over HTTP by OpenAI's client.

    python bench/serve.py [TARGET] [STREAMS] [ROUNDS]     # nano, 64 streams, 8 rounds

Each stream asks for 64 tokens at temperature 1 with a seed of its own; one that ends without a `finish_reason` is lost.
Printed: streams lost, tokens a second, how many texts are those of the first round, the median time to a first token,
and the server's resident memory after the first rounds (which fill its cache) and after the last.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai

TOKENS = 64
WARM = 2
"""Rounds before memory is first read."""


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def stream(client: openai.AsyncOpenAI, model: str, seed: int) -> dict[str, Any]:
    """One stream: its text, how it ended, tokens, and seconds to the first piece of text."""
    began, first, text, finish, tokens = time.perf_counter(), None, "", None, 0
    how = {"model": model, "prompt": "Once", "max_tokens": TOKENS, "temperature": 1.0, "seed": seed}
    try:
        usage = {"include_usage": True}
        async for chunk in await client.completions.create(**how, stream=True, stream_options=usage):
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
            for choice in chunk.choices:
                first = first or (time.perf_counter() - began if choice.text else None)
                text, finish = text + choice.text, choice.finish_reason or finish
    except openai.OpenAIError as error:
        text = f"{type(error).__name__}: {error}"
    return {"text": text, "finish": finish, "tokens": tokens, "first_s": first}


async def load(address: str, streams: int, rounds: int, pid: int) -> None:
    client = openai.AsyncOpenAI(base_url=address, api_key="-", max_retries=0, timeout=600)
    model = (await client.models.list()).data[0].id
    kept: list[str] = []
    lost, before_mb, speeds, firsts = 0, 0.0, [], []
    for number in range(rounds):
        began = time.perf_counter()
        made = await asyncio.gather(*(stream(client, model, seed) for seed in range(streams)))
        taken_s = time.perf_counter() - began
        texts = [each["text"] for each in made]
        kept = kept or texts
        same = sum(a == b for a, b in zip(texts, kept, strict=True))
        bad = [each for each in made if each["finish"] is None]
        lost += len(bad)
        speeds.append(sum(each["tokens"] for each in made) / taken_s)
        firsts += [each["first_s"] for each in made if each["first_s"] is not None]
        told = f"lost {len(bad)}, as in round 1 {same} of {streams}, resident {resident_mb(pid):.0f} MB"
        print(f"round {number + 1}: {speeds[-1]:.0f} tokens/s, {told}", flush=True)
        for each in bad[:1]:
            print("   ", each["text"][:200])
        if number + 1 == WARM:
            before_mb = resident_mb(pid)
    print(f"{model}: {streams} streams x {rounds} rounds: {lost} lost, {statistics.median(speeds):.0f} tokens/s,")
    print(f"first token after {statistics.median(firsts):.3f} s (median),")
    print(f"resident {before_mb:.0f} MB after {WARM} rounds, {resident_mb(pid):.0f} MB after {rounds}")
    await client.close()


def main() -> None:
    target = sys.argv[1] if len(sys.argv) > 1 else "nano"
    streams, rounds = (int(sys.argv[at]) if len(sys.argv) > at else value for at, value in ((2, 64), (3, 8)))
    command = [sys.executable, "-m", "luthier", "serve", target, "--port", "0", "--queue", str(2 * streams)]
    with Path(os.devnull).open("w") as nowhere:
        server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=nowhere, text=True)
        assert server.stderr is not None
        found = re.search(r"http://\S+/v1", server.stderr.readline())
        assert found, server.stderr.read()
        # Its log has to be read, or it would wait for room to write.
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=nowhere)
        try:
            asyncio.run(load(found.group(), streams, max(rounds, WARM), server.pid))
        finally:
            server.terminate()
            server.wait()
            drain.wait()


if __name__ == "__main__":
    main()
