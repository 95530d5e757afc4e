"""The text of the CUDA sources, whole: NVRTC knows no folder of ours, and a cache of what it made sees the headers."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["FOLDER", "OPTIONS", "text"]

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17",)
INCLUDE = re.compile(r'#include "([\w.]+)"')


def text(name: str) -> str:
    """A source such as ``"philox"`` with its headers, each once."""
    return "\n".join(lines(f"{name}.cu", set()))


def lines(file: str, seen: set[str]) -> list[str]:
    """Those of a file and of what it includes, with directives that keep the numbers of lines true."""
    seen.add(file)
    found = [f'#line 1 "{file}"']
    for number, line in enumerate((FOLDER / file).read_text(encoding="utf-8").splitlines(), 1):
        header = INCLUDE.fullmatch(line)
        if header is None:
            found.append(line)
        elif header[1] not in seen:
            found += [*lines(header[1], seen), f'#line {number + 1} "{file}"']
        else:
            found.append("")
    return found
