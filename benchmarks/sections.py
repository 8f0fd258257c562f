"""The report on real data, ``real.md``: each program writes the section of its own, and leaves the others be."""

from __future__ import annotations

import sys
import time
from pathlib import Path

HEAD = "# {name}: on real data\n\nWritten by the programs named below, on strain that is not part of the project.\n"


def put(path: Path, title: str, body: str) -> None:
    """Write section ``title`` in the file at ``path``, in place of the one of that title if there is one."""
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD.format(name=path.parent.name)
    path.write_text(replaced(text, title, body), encoding="utf-8")


def replaced(text: str, title: str, body: str) -> str:
    """``text`` with section ``title`` replaced or, where it has none, added; sections in the order of their titles."""
    head, *sections = text.split("\n## ")
    found = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in sections}
    found[title] = body.strip()
    return head.strip() + "\n" + "".join(f"\n## {name}\n\n{found[name]}\n" for name in sorted(found))


class Run:
    """Says by what command, of which model and in how long a section came to be."""

    def __init__(self, program: str, model: str = "") -> None:
        self._program = program
        self._model = f", model {model[:12]}" if model else ""
        self._began = time.monotonic()

    def __str__(self) -> str:
        words = [self._program, *sys.argv[1:]]
        return (
            f"`python benchmarks/{' '.join(words)}`{self._model}, {(time.monotonic() - self._began) / 60:.1f} minutes."
        )
