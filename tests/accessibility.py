"""Whether people who see, hear or move differently can use a page, as far as a program can tell.

What goes in: an open page. What comes out: what axe-core, which comes with axe-playwright-python, finds serious in it.
"""

from __future__ import annotations

from typing import Any

import pytest

IMPACTS = ("serious", "critical")


def serious(page: Any) -> list[str]:
    """One line for each finding: rule, place, what is wrong."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {' '.join(node['target'])}: {node['failureSummary']}"
        for rule in found
        if rule["impact"] in IMPACTS
        for node in rule["nodes"]
    ]
