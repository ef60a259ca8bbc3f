"""docs/store.md taken apart: its sections, its tables, its SQL."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PAGE", "SECTIONS", "TOP", "cells", "code", "statements"]

PAGE = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")


def sections(level: str) -> dict[str, str]:
    """Title -> text, of all headings of one level."""
    parts = re.split(r"^(#+) (.+)\n", PAGE, flags=re.MULTILINE)
    found = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return {title: text for hashes, title, text in found if hashes == level}


def statements(text: str) -> list[list[str]]:
    """The statements of each SQL block."""
    blocks = re.findall(r"^```sql\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [
        [one.strip() for one in re.split(r";$", block, flags=re.MULTILINE) if one.strip()] for block in blocks
    ]


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in `text`, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = {number for number, row in enumerate(table) if re.fullmatch("[-|]+", "".join(row))}
    return [row for number, row in enumerate(table) if number not in rules and number + 1 not in rules]


def code(text: str) -> list[str]:
    return re.findall("`([^`]+)`", text)


TOP, SECTIONS = sections("##"), sections("###")
"""Title -> text."""
