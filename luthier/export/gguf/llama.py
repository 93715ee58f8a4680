"""A real llama.cpp, asked in a process of its own: `python -m luthier.export.gguf.llama` (extra `gguf`).

What goes in (stdin): {file, texts, messages, prompts, top} as JSON. What comes out (stdout): {ids, chat, tops}: the
texts' token ids, those of the conversation, and (id, log-probability) of the likeliest tokens after each prompt. Apart,
because the library may hang where a process ends with a model still loaded.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import xllamacpp

FLOAT32 = 0
"""ggml's number of the type."""


def main() -> None:
    asked = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path = asked["file"]
    params.n_ctx = 64 + max(len(prompt) for prompt in asked["prompts"])
    params.cache_type_k = params.cache_type_v = FLOAT32  # else it rounds keys and values to 16 bits
    params.n_parallel, params.warmup, params.verbosity, params.n_gpu_layers = 1, False, -1, 0
    server = xllamacpp.Server(params)

    def post(path: str, **body: Any) -> Any:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def ids(text: str, special: bool) -> Any:
        return post("/tokenize", content=text, add_special=special, parse_special=True)["tokens"]

    # What is drawn does not matter, but no probabilities are told of a token that is no whole letter. The bias does
    # not touch them.
    letter = ids("a", False)[-1]
    options = {"n_predict": 1, "temperature": 0, "logit_bias": [[letter, 1e4]], "n_probs": asked["top"]}
    tops = []
    for prompt in asked["prompts"]:
        told = post("/completion", prompt=prompt, **options)
        tops.append([(each["id"], each["logprob"]) for each in told["completion_probabilities"][0]["top_logprobs"]])
    chat = None
    if asked["messages"]:
        chat = ids(post("/apply-template", messages=asked["messages"])["prompt"], True)
    answer = {"ids": [ids(text, False) for text in asked["texts"]], "chat": chat, "tops": tops}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()
    server = None  # it has to go before the interpreter does


if __name__ == "__main__":
    main()
