"""Everything from folders, with no network at all: a namespace whose only interface is loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.config.schema import ModelSection
from luthier.session import find_base

ALONE = ["unshare", "-n"] if os.name == "posix" and os.geteuid() == 0 else ["unshare", "-r", "-n"]
FIRST = """
import fcntl, os, socket, struct, sys
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(line, 0x8914, struct.pack("16sh", b"lo", 1 | 64))  # SIOCSIFFLAGS: up and running
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
try:
    socket.create_connection(("1.1.1.1", 53), 2)
    raise SystemExit("there is a network")
except OSError:
    pass
lesser = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]  # root's rights are gone
os.execvp("setpriv", [*lesser, sys.executable, "-c", *sys.argv[1:]])
"""
STEPS = """
import os, subprocess, sys
for name in ("config.json", "model.safetensors", "new"):
    try:
        open(sys.argv[1] + "/base/" + name, "ab")
        raise SystemExit("the model's folder can be written")
    except PermissionError:
        pass
os.chdir(sys.argv[1] + "/work")
run = lambda *words, **how: subprocess.run([sys.executable, "-m", "luthier", *words], check=True, text=True, **how)
run("train", "model=../base", "data.train=rows.json", "data.validation=0.0", "optim.steps=3", "optim.batch=4",
    "run.name=first", "run.device=cpu", "tune.rank=4")
said = run("chat", "runs/first", "--max-tokens", "4", input="Say 3\\n", stdout=subprocess.PIPE).stdout
assert "first" in said, said
run("merge", "runs/first", "-o", "merged")
run("export", "runs/first", "--gguf", "q8_0", "-o", "files")
assert any(name.endswith(".gguf") for name in os.listdir("files")), os.listdir("files")
import httpx2
for target, name in (("merged", "merged"),):
    command = [sys.executable, "-m", "luthier", "serve", target, "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = server.stderr.readline().split("at ")[1].split(" ")[0]
        asked = {"model": name, "messages": [{"role": "user", "content": "Say 3"}], "max_tokens": 4}
        got = httpx2.post(address + "/chat/completions", json=asked, timeout=60)
        assert got.status_code == 200 and got.json()["choices"], got.text
    finally:
        server.terminate()
        assert server.wait(30) == 143
print("all of it")
"""


def refused() -> str:
    """Why the kernel gives no namespace; empty where it does."""
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "setpriv"))):
        return "no unshare and setpriv"
    made = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    return made.stderr.strip()


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_from_training_to_serving_without_a_network(open_to_all):
    if reason := refused():
        pytest.skip(f"the kernel gives no network namespace: {reason}")
    shutil.copytree(find_base(ModelSection(path="nano")).folder, open_to_all / "base")
    work = open_to_all / "work"
    work.mkdir()
    rows = [{"instruction": f"Say {i}", "output": f"{i} yes"} for i in range(12)]
    (work / "rows.json").write_text(json.dumps(rows))
    for path in [*(open_to_all / "base").rglob("*"), open_to_all / "base"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)  # another's, whom it cannot be taken from either
    before = hashes(open_to_all / "base")
    where = dict(HOME=str(work), XDG_CACHE_HOME=str(work / "cache"), TMPDIR=str(work))
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    package = str(Path(__file__).parents[1])
    made = subprocess.run(
        [*ALONE, sys.executable, "-c", FIRST, STEPS, str(open_to_all)],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **where, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    (open_to_all / "base").chmod(0o755)
    assert made.returncode == 0 and "all of it" in made.stdout, made.stdout[-3000:] + made.stderr[-3000:]
    assert hashes(open_to_all / "base") == before
