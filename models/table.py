"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows, the first of which are headings: text to the left, numbers to the right.

    >>> print(aligned([("rank", "bytes"), (0, 1024), (1, 512)]))
    rank  bytes
       0   1024
       1    512
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_number = [all(isinstance(cell, int | float) for cell in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in cells
    )


LABEL = 36
"""Characters of a name in a table."""


def short(name: str) -> str:
    """Keep the end of a long name."""
    return name if len(name) <= LABEL else f"...{name[3 - LABEL :]}"


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) and abs(cell) >= 10_000 else str(cell)
