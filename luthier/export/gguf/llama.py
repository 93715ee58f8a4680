"""A real llama.cpp, asked in a process of its own: `python -m luthier.export.gguf.llama` (extra `gguf`).

What goes in (stdin): {file, texts, messages, prompts, top, threads} as JSON, and where wanted {adapter, tokens}: a
GGUF LoRA file, and how many tokens each prompt gets (1). What comes out (stdout): {ids, chat, answers, tops}: the
texts' token ids, those of the conversation, the greedy tokens after each prompt, and before each of these (id,
log-probability) of the likeliest. Apart, because the library may hang where a process ends with a model still loaded.
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
    params.n_ctx = 64 + asked.get("tokens", 1) + max(len(prompt) for prompt in asked["prompts"])
    params.cache_type_k = params.cache_type_v = FLOAT32  # else it rounds keys and values to 16 bits
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # so does this
    params.n_parallel, params.warmup, params.verbosity, params.n_gpu_layers = 1, False, -1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    if asked.get("adapter"):
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(asked["adapter"], 1.0)]
    server = xllamacpp.Server(params)

    def post(path: str, **body: Any) -> Any:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def ids(text: str, special: bool) -> Any:
        return post("/tokenize", content=text, add_special=special, parse_special=True)["tokens"]

    # llama.cpp keeps to itself what it knows of a token that ends within a character. So that there is none, another
    # one is forced, which changes nothing of the probabilities told, and the likeliest are taken from these.
    forced = [[ids("a", False)[-1], 1000.0]]

    def likeliest(given: list[int]) -> list[tuple[int, float]]:
        told = post("/completion", prompt=given, n_predict=1, temperature=0, logit_bias=forced, n_probs=asked["top"])
        return [(each["id"], each["logprob"]) for each in told["completion_probabilities"][0]["top_logprobs"]]

    answers: list[list[int]] = []
    tops: list[list[tuple[int, float]]] = []
    for prompt in asked["prompts"]:
        answers.append([])
        for _ in range(asked.get("tokens", 1)):
            tops.append(likeliest([*prompt, *answers[-1]]))
            answers[-1].append(tops[-1][0][0])
    chat = None
    if asked["messages"]:
        chat = ids(post("/apply-template", messages=asked["messages"])["prompt"], True)
    found = {"ids": [ids(text, False) for text in asked["texts"]], "chat": chat, "answers": answers, "tops": tops}
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.stdout.flush()
    server = None  # it has to go before the interpreter does


if __name__ == "__main__":
    main()
