"""What a server's memory goes into: blocks of the cache that were ever touched, against the process's resident set.

    python bench/serve_memory.py [ROUNDS]     # nano, 64 answers of up to 64 tokens a round, all different

In each round every answer has a new seed, so that no round finds what another has read. Counts and sizes, no times.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from luthier.models.cache import BLOCK, bytes_per_token
from luthier.sampling import Sampling
from luthier.serving.engine import End, Engine, Job
from luthier.session import open_session

STREAMS, TOKENS = 64, 64


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def rounds(engine: Engine, count: int) -> None:
    decoder, renderer = engine.session.decoder, engine.session.renderer
    block_mb = BLOCK * bytes_per_token(decoder.spec, decoder.compute_dtype) / 1e6
    cache, prompt = engine._generator._cache, renderer.prompt_text("Once")
    print(f"room for {cache.num_blocks} blocks, {cache.num_blocks * block_mb:.0f} MB; resident {resident_mb():.0f} MB")

    async def ended(job: Job) -> None:
        while not isinstance(await job.events.get(), End):
            pass

    for number in range(count):
        ways = [Sampling(TOKENS, 1.0, seed=STREAMS * number + at) for at in range(STREAMS)]
        await asyncio.gather(*map(ended, engine.submit([prompt] * STREAMS, ways, adapter=None)))
        touched_mb, all_mb = cache._clean * block_mb, resident_mb()
        told = f"{cache._clean} blocks touched, {touched_mb:.0f} MB; the rest {all_mb - touched_mb:.0f} MB"
        print(f"round {number + 1}: resident {all_mb:.0f} MB, {told}", flush=True)


def main() -> None:
    engine = Engine(open_session("nano", device="cpu"), sequences=STREAMS, most=2 * STREAMS)
    engine.start()
    try:
        asyncio.run(rounds(engine, int(sys.argv[1]) if len(sys.argv) > 1 else 30))
    finally:
        engine.close()


if __name__ == "__main__":
    main()
