"""The printed form of schedules, against files that a reader can check by eye."""

from pathlib import Path

import pytest

from rankwise.collectives.grid import WIDTH, grid
from rankwise.collectives.schedule import Copy, Load, Recv, Send, schedule
from rankwise.collectives.table import lookup

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("collective", "name", "size", "root"),
    [
        ("allreduce", "ring", 4, None),
        ("allreduce", "recursive_doubling", 6, None),
        ("scatter", "tree", 5, 2),
        ("reduce", "ordered_tree", 5, 3),
        ("alltoall", "pairwise", 4, None),
        ("allgather", "ring", 16, None),
        ("allreduce", "one_shot", 3, None),
        ("allreduce", "two_shot", 4, None),
        ("allreduce", "naive", 3, None),
        ("allreduce", "rabenseifner", 6, None),
        ("alltoall", "bruck", 5, None),
        ("broadcast", "chain", 4, 1),
    ],
)
def test_it_looks_as_in_its_file(collective: str, name: str, size: int, root: int | None) -> None:
    text = grid(schedule(lookup(collective, name).algorithm, size, root))
    assert text == (GOLDEN / f"{collective}_{name}_{size}.txt").read_text()


def test_lines_stay_narrow_and_name_every_rank() -> None:
    text = grid(schedule(lookup("allreduce", "ring").algorithm, 64))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(f"rank {rank}" in text for rank in range(64))


def test_a_cell_says_what_is_sent_received_reduced_and_copied() -> None:
    steps = (Send(1, (3, 0, 1)), Recv(2, (5,)), Recv(2, (4,), "left"), Copy((0,), (7,)))
    assert grid([[steps, ()]]) == ("round  rank 0\n0      >1:3,0-1 <2:5 <2:4+ 0~7\n1      .\n")
    loads = (Load(1, (3,)), Load(1, (4,), "left"), Load(0, (1, 2), "right", (7, 8)))
    assert grid([[loads]]) == "round  rank 0\n0      @1:3 @1:4+ @0:1-2~7-8+\n"


def test_a_window_and_a_mark_show_a_place() -> None:
    ranks = schedule(lookup("barrier", "dissemination").algorithm, 8)
    text = grid(ranks, mark=(1, 3), window=range(1, 2))
    assert text.count("\n1 ") == text.count("round") and "\n0 " not in text
    assert text.count("!!") == 1 and "!!>5:3,2" in text
