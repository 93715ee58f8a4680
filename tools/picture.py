"""Turns what a command printed into a picture for the documentation.

    ./run demo 2>&1 | tee demo.txt;  python tools/picture.py demo.txt docs/demo.svg "./run demo"

What goes in: a text file. What comes out: an SVG of a terminal window, which needs no fonts or scripts from elsewhere.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 112
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Rich names web fonts; a picture in a repository should load nothing."""


def main(source: str, target: str, title: str) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in Path(source).read_text(encoding="utf-8").splitlines():
        console.print(Text(line), overflow="ellipsis", no_wrap=True)
    picture = FONT.sub("", console.export_svg(title=title))
    Path(target).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:4])
