"""What vLLM's server looks like from outside, for a test: it speaks OpenAI's API and answers with what it was asked.

    python stand_in_vllm.py FOLDER serve MODEL --host ... --port ...

FOLDER gets `started.json` (arguments and key), a line of `asked.jsonl` for each request, and `ended` on SIGTERM. A file
`die` there ends it at once, `die-later` with the next request, `silent` keeps it from answering.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER, ARGUMENTS = Path(sys.argv[1]), sys.argv[2:]
BEGAN = time.monotonic()
WORDS = ["I", " heard", " you"]


def value(option: str) -> str:
    return ARGUMENTS[ARGUMENTS.index(option) + 1]


def names() -> list[str]:
    made = [value("--served-model-name")]
    if "--lora-modules" in ARGUMENTS:
        made += [each.partition("=")[0] for each in ARGUMENTS[ARGUMENTS.index("--lora-modules") + 1 :]]
    return made


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def tell(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def may(self) -> bool:
        fits = self.headers.get("authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"
        if not fits:
            self.tell(401, {"error": "Unauthorized"})
        return fits

    def do_GET(self) -> None:
        if self.path == "/health":
            self.tell(200 if time.monotonic() - BEGAN > 0.5 and not (FOLDER / "silent").exists() else 503, {})
        elif self.may():
            self.tell(200, {"object": "list", "data": [{"id": name} for name in names()]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.may():
            return
        with (FOLDER / "asked.jsonl").open("a") as file:
            file.write(json.dumps({"path": self.path, **asked}) + "\n")
        if (FOLDER / "die-later").exists():
            print("CUDA error: an illegal memory access", flush=True)
            os._exit(3)
        if asked.get("min_p") == 0.125:
            self.tell(400, {"error": {"message": "min_p is not for you", "type": "BadRequestError", "code": 400}})
        elif asked.get("stream"):
            self.stream(asked)
        else:
            self.tell(200, self.whole(asked))

    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)}

    def choice(self, index: int, key: str, text: Any, reason: str | None) -> dict[str, Any]:
        return {"index": index, key: text, "finish_reason": reason, "logprobs": None, "stop_reason": None}

    def head(self, asked: Any) -> dict[str, Any]:
        kind = "chat.completion" if "messages" in asked else "text_completion"
        kind += ".chunk" if asked.get("stream") and "messages" in asked else ""
        return {"id": "x", "object": kind, "created": 1, "model": asked["model"]}

    def whole(self, asked: Any) -> dict[str, Any]:
        chat, text = "messages" in asked, "".join(WORDS)
        key, made = ("message", {"role": "assistant", "content": text}) if chat else ("text", text)
        many = range(asked.get("n", 1) * (1 if chat else len(asked["prompt"])))
        choices = [self.choice(index, key, made, "stop") for index in many]
        if asked.get("logprobs") is True:
            top = [{"token": each, "logprob": -1.0, "bytes": None} for each in "abc"][: asked["top_logprobs"]]
            choices[0]["logprobs"] = {"content": [{"token": "I", "logprob": -1.0, "bytes": None, "top_logprobs": top}]}
        return {**self.head(asked), "choices": choices, "usage": self.usage()}

    def stream(self, asked: Any) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        key = "delta" if "messages" in asked else "text"
        events = []
        for at, word in enumerate(WORDS):
            made = {"content": word} if key == "delta" else word
            events.append({**self.head(asked), "choices": [self.choice(0, key, made, "stop" if at == 2 else None)]})
        events.append({**self.head(asked), "choices": [], "usage": self.usage()})
        try:
            for event in events:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.3 if asked["max_tokens"] > 100 else 0)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            (FOLDER / "left").touch()
        self.close_connection = True


def main() -> None:
    print("INFO: loading", flush=True)
    if (FOLDER / "die").exists():
        print("ValueError: no GPU here", flush=True)
        sys.exit(1)
    kept = {"arguments": ARGUMENTS, "telemetry": os.environ.get("VLLM_NO_USAGE_STATS"), "pid": os.getpid()}
    if "--chat-template" in ARGUMENTS:
        kept["template"] = Path(value("--chat-template")).read_text()
    (FOLDER / "started.json").write_text(json.dumps(kept))

    def end(*_: Any) -> None:
        (FOLDER / "ended").touch()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    ThreadingHTTPServer((value("--host"), int(value("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
