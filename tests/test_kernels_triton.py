"""Triton's kernels on a CPU, through triton's interpreter, in processes of their own; on a GPU: `test_gpu.py`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from triton_parity import CASES, Compared

HERE = Path(__file__).parent
NEEDS = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton (641 MB, so not among the test requirements): CONTRIBUTING.md says how",
)


@NEEDS
@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_the_plain_chains(case: str) -> None:
    found = interpreted(f"{HERE / 'triton_parity.py'}", case, "cpu")
    compared = [Compared(*each) for each in json.loads(found)]
    assert compared and [each for each in compared if not each.error <= each.bound] == []


def test_triton_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys, torch; from luthier.models import decoder; from luthier.kernels import blocks, select;"
        "select.choose('cpu', torch.float32); blocks.normed(torch.ones(2, 3), torch.ones(3), 1e-5);"
        "print('triton' in sys.modules and 'luthier.kernels.triton_ops' in sys.modules)"
    )
    assert interpreted("-c", code).strip() == "False"


def interpreted(*arguments: str) -> str:
    """What a process says in which triton, if it is imported, runs kernels on CPU tensors."""
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
