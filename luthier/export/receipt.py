"""The receipt of what was exported: from what it was made, what was checked, and the hash of every file.

What goes in: where the weights came from, checks of the same kind as a run's, and the files that were written. What
comes out: `receipt.json` and `receipt.md` beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.export.weights import Source
from luthier.runs import files, manifest, receipt_page
from luthier.runs.receipt import Check
from luthier.text import say


@dataclass(frozen=True)
class ExportReceipt:
    """Attributes:
    kind: what was made: `merge`, `gguf`, ...
    run: the run that was exported; None where none was.
    base: {path, commit, sha256, config_sha256} of the model that everything counts from.
    adapters: {target, strength, sha256} of each adapter that went in.
    forced: whether it was written although a check failed.
    files: name -> {sha256, bytes}.
    """

    kind: str
    run: str | None
    base: Mapping[str, Any]
    adapters: tuple[Mapping[str, Any], ...]
    checks: tuple[Check, ...]
    forced: bool
    files: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]

    @property
    def failed(self) -> int:
        return sum(check.status == "fail" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"format": files.FORMAT, **files.plain(dataclasses.asdict(self))}


def build(
    kind: str,
    source: Source,
    checks: Sequence[Check],
    written: Mapping[str, Mapping[str, Any]],
    *,
    forced: bool = False,
) -> ExportReceipt:
    """The receipt of an export of `source`.

    Args:
        written: name -> {sha256, bytes} of every file that was written (`luthier.runs.files.fingerprints`).

    Raises:
        RunError: a file of the base or of an adapter cannot be read.
    """
    now = manifest.weights_fingerprint(source.folder)
    runs = [each.run.name for each in source.voices if each.run is not None]
    run = source.run.name if source.run is not None else ", ".join(runs) or None
    return ExportReceipt(
        kind=kind,
        run=run,
        base={
            "path": source.base.path,
            "commit": source.base.commit,
            "sha256": now["sha256"],
            "config_sha256": now["config_sha256"],
        },
        adapters=tuple(
            {
                "target": each.target,
                "strength": each.strength,
                "sha256": manifest.parent_fingerprint(each.folder)["sha256"],
            }
            for each in source.voices
        ),
        checks=tuple(checks),
        forced=forced,
        files=dict(written),
        versions=manifest.versions(),
    )


def public(path: str) -> str:
    """A model as a page names it that may be published: a hub's name whole, of a folder only its own name."""
    is_hub = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return path if is_hub else Path(path).name


def lines(receipt: ExportReceipt) -> list[str]:
    """`receipt.md`, and the part of a model card that says the same."""
    page = [f"# {say('export.receipt.title')}", ""]
    if receipt.forced:
        page += [f"**{say('export.receipt.forced')}**", ""]
    digest = str(receipt.base["sha256"])[:16]
    page.append(f"- {say('export.receipt.base')}: `{public(receipt.base['path'])}` (sha256 `{digest}`)")
    if receipt.run is not None:
        page.append(f"- {say('export.receipt.run')}: `{receipt.run}`")
    for each in receipt.adapters:
        page.append(f"- {say('export.receipt.adapter')}: `{Path(each['target']).name}` × {each['strength']:g}")
    page += ["", f"## {say('export.receipt.checks')}", ""]
    page += [f"    {line}" for line in receipt_page.check_lines(receipt.checks)]
    page += ["", f"## {say('export.receipt.files')}", ""]
    page += [f"- `{name}`: {each['bytes']:,} B, sha256 `{each['sha256']}`" for name, each in receipt.files.items()]
    return page


def write(folder: Path, receipt: ExportReceipt, stem: str = "receipt") -> None:
    """Write `receipt.json` and `receipt.md`.

    Raises:
        RunError: the operating system refuses.
    """
    files.write_json(folder / f"{stem}.json", receipt.to_json())
    files.write_text(folder / f"{stem}.md", "\n".join(lines(receipt)) + "\n")
