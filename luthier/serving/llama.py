"""A llama.cpp server in a process of its own: `python -m luthier.serving.llama` (extra `gguf`).

What goes in (stdin): {file, key, sequences, gpu} as one line of JSON; the process ends where stdin does. What comes out
(stdout): one line of JSON, {address} or {error}. It listens on this machine alone, at a free port, to who has the key.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import xllamacpp


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = asked["file"], {Path(asked["file"]).stem}
    params.api_keys, params.hostnames, params.port = [asked["key"]], ["127.0.0.1"], 0
    params.n_parallel, params.kv_unified, params.n_ctx = asked["sequences"], True, 0
    params.verbosity, params.warmup, params.use_jinja, params.ui = -1, False, True, False
    if not asked["gpu"]:
        params.n_gpu_layers = 0
    told = os.dup(1)  # the library writes where it likes
    os.dup2(2, 1)
    try:
        server = xllamacpp.Server(params)
        answer = {"address": server.listening_address}
    except Exception as error:  # noqa: BLE001  whatever it cannot load
        answer = {"error": str(error)[:300]}
    os.write(told, json.dumps(answer).encode() + b"\n")
    if "address" in answer:
        sys.stdin.read()
    # The library may hang where a process ends with a model still loaded; nothing of it has to be kept.
    os._exit(0)


if __name__ == "__main__":
    main()
