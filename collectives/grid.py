"""Print a schedule: a line to a round, a column to a rank.

>1:3        send block 3 to rank 1
<3:2        receive block 2 from rank 3; <3:2+ reduces it
0~4         copy block 0 to block 4
@1:3        load block 3 of rank 1; @1:3+ reduces it, @1:3~7 puts it into block 7
>1:0-3      blocks 0, 1, 2, 3; >1:3,0 are blocks 3 and 0, in this order
.           idle
"""

from __future__ import annotations

from collections.abc import Sequence

from .schedule import Blocks, Copy, Load, Round, Send, Step

WIDTH = 99
MARK = "!!"


def grid(
    ranks: Sequence[Sequence[Round]],
    *,
    mark: tuple[int, int] | None = None,
    window: range | None = None,
) -> str:
    """The text of a schedule, given the rounds of every rank.

    `mark` puts !! before the cell (round, rank); `window` limits the rounds. Ranks that do not fit
    into a line follow in bands below.
    """
    if window is None:
        window = range(max(map(len, ranks), default=0))
    columns = [
        [f"rank {rank}"]
        + [(MARK if mark == (k, rank) else "") + cell(steps[k]) for k in window if k < len(steps)]
        for rank, steps in enumerate(ranks)
    ]
    labels = ["round", *map(str, window)]
    return "\n\n".join(band(labels, group) for group in fitting(columns)) + "\n"


def cell(steps: Round) -> str:
    """One rank's round."""
    return " ".join(map(word, steps)) or "."


def word(step: Step) -> str:
    """One step."""
    if isinstance(step, Copy):
        return f"{numbers(step.source)}~{numbers(step.dest)}"
    if isinstance(step, Send):
        return f">{step.peer}:{numbers(step.blocks)}"
    plus = "+" if step.reduce else ""
    if isinstance(step, Load):
        into = "" if step.dest == step.blocks else f"~{numbers(step.dest)}"
        return f"@{step.peer}:{numbers(step.blocks)}{into}{plus}"
    return f"<{step.peer}:{numbers(step.blocks)}{plus}"


def numbers(blocks: Blocks) -> str:
    """Blocks in message order, runs as first-last."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def fitting(columns: Sequence[list[str]]) -> list[list[list[str]]]:
    """Cut columns into bands that are no wider than a line, of at least one column."""
    bands: list[list[list[str]]] = [[]]
    used = len("round")
    for column in columns:
        width = max(map(len, column)) + 2
        if bands[-1] and used + width > WIDTH:
            bands.append([])
            used = len("round")
        bands[-1].append(column)
        used += width
    return bands


def band(labels: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    """The lines of one band; a rank that stops early leaves blanks."""
    table = [labels, *columns]
    widths = [max(map(len, column)) for column in table]
    lines = (
        (column[k] if k < len(column) else "" for column in table) for k in range(len(labels))
    )
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
