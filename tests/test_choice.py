"""What `auto` stands for, and how the user's own table changes it."""

from pathlib import Path

import numpy as np
import pytest
from conftest import MpiRun

from rankwise.collectives import Communicator, local
from rankwise.collectives.choice import TWO_SHOT_FROM, Setting, automatic
from rankwise.collectives.origin import Origin
from rankwise.collectives.reduction import reduction
from rankwise.collectives.table import TABLE
from rankwise.collectives.tuned import Case, Tuned

F4 = np.dtype("f4")
SUM = reduction("sum", F4)
MATMUL = reduction(lambda a, b: a @ b, F4)


def case(*steps: tuple[int, str], collective: str = "allreduce", ranks: int = 4) -> Case:
    origin = Origin("2026-11-21", "here", "MPI", 2)
    return Case(collective, ranks, "any", "node", steps, origin)


@pytest.mark.parametrize("collective", TABLE)
@pytest.mark.parametrize("size", [1, 2, 3, 9, 64])
@pytest.mark.parametrize("one_node", [True, False])
def test_every_choice_is_an_algorithm_that_can_do_it(
    collective: str, size: int, one_node: bool
) -> None:
    for shares in {one_node, False}:
        for nbytes in (0, 8, 1 << 14, 1 << 19, 1 << 26):
            for op in (SUM, MATMUL) if "reduce" in collective else (None,):
                setting = Setting(size, one_node, shares)
                name, reason = automatic(setting, collective, nbytes, F4, op)
                entry = TABLE[collective][name]
                assert reason
                assert shares or not entry.shared
                assert op is not MATMUL or (entry.ordered and entry.whole)


def test_memory_that_is_shared_is_used() -> None:
    setting = Setting(4, True, True)
    names = [automatic(setting, "allreduce", n, F4, SUM).algorithm for n in (8, TWO_SHOT_FROM)]
    assert names == ["one_shot", "two_shot"]
    reads = setting._replace(reads=True)
    names = [automatic(reads, "allreduce", n, F4, SUM)[0] for n in (8, TWO_SHOT_FROM, 1 << 24)]
    assert names == ["one_shot", "two_shot", "single_copy"]
    whole = [automatic(setting, "allreduce", n, F4, MATMUL)[0] for n in (0, 8, 1 << 20)]
    assert whole == ["recursive_doubling", "one_shot", "tree"]
    for collective in TABLE.keys() - {"allreduce"}:
        assert automatic(setting, collective, 8, F4).algorithm == "direct"
    # A rank lends an element at least to every other one, and a chunk at most.
    assert automatic(setting, "reduce", 8, np.dtype("V2000000")).algorithm == "tree"


def test_nodes_are_looked_at() -> None:
    assert automatic(Setting(4, False, False), "broadcast", 8, F4).algorithm == "hierarchical"
    sizes = ((4, 8), (4, 16 << 20), (6, 16 << 20))
    found = [automatic(Setting(p, False, False), "allreduce", n, F4, SUM)[0] for p, n in sizes]
    assert found == ["hierarchical", "rabenseifner", "hierarchical"]


def test_a_table_comes_first_where_it_fits() -> None:
    table = Tuned((case((64, "tree"), (1024, "two_shot"), (4096, "mpi")),))
    asked = [
        (automatic(Setting(4, True, True, table), "allreduce", n, F4, op).algorithm)
        for n in (8, 64, 1024, 4096)
        for op in (SUM, MATMUL)
    ]
    assert asked == [
        "one_shot", "one_shot",  # nothing was measured
        "tree", "tree",
        "two_shot", "one_shot",  # keeps the order, but takes pieces
        "mpi", "one_shot",
    ]  # fmt: skip
    for other in (Setting(3, True, True, table), Setting(4, False, False, table)):
        assert automatic(other, "allreduce", 64, F4, SUM).algorithm in ("one_shot", "hierarchical")
    alone = Setting(4, True, False, table)
    assert automatic(alone, "allreduce", 1024, F4, SUM).algorithm == "recursive_doubling"


def test_a_choice_is_explained() -> None:
    def work(comm: Communicator) -> None:
        assert str(comm.explain("allreduce", 8)).startswith("recursive_doubling: has the fewest")
        assert comm.explain("allreduce", 8, algorithm="tree") == ("tree", "asked for")
        name, reason = comm.explain("allreduce", 8, algorithm="mpi")
        assert (name, reason) == (
            "recursive_doubling",
            "MPI has no such allreduce for float32 and sum",
        )
        assert comm.explain("allreduce", 8, algorithm="two_shot")[1] == "the ranks share no memory"
        assert comm.explain("broadcast", 8)[0] == "tree"
        assert comm.explain("allreduce", 8, "f4", lambda a, b: a @ b)[0] == "recursive_doubling"
        with pytest.raises(ValueError, match="expected a collective"):
            comm.explain("allsum", 8)
        with pytest.raises(ValueError, match="expected an algorithm"):
            comm.explain("allreduce", 8, algorithm="rings")
        with pytest.raises(TypeError, match="mean"):
            comm.explain("allreduce", 8, "i4", "mean")

    local.run(3, work)


TUNED = """
import warnings
import numpy as np
from rankwise.collectives import Communicator

warnings.simplefilter("default")  # a broken table is a warning
with Communicator.world() as comm:
    said = [comm.explain("allreduce", 1 << 20).algorithm, comm.explain("allreduce", 8).algorithm,
            comm.explain("allreduce", 8, "bool", "land", "mpi").algorithm,
            str(comm.explain("allreduce", 8, "float16", "sum", "mpi"))]
    comm.allreduce([1])
    before = comm.bytes_sent
    assert (comm.allreduce(np.ones(1 << 18, "f4")) == comm.size).all()
    said.append(str(comm.bytes_sent - before))
    said.append(comm.split(0).explain("allreduce", 1 << 20).algorithm)
    if comm.rank == 1:  # which has not read the file
        print(*said, sep=";", flush=True)
"""


@pytest.mark.mpi
def test_the_users_table_is_that_of_rank_0(
    mpirun: MpiRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    monkeypatch.setenv("RANKWISE_COLLECTIVES", str(path))
    lacks = "one_shot: MPI has no such allreduce for float16 and sum"
    done = mpirun(2, TUNED)
    assert done.returncode == 0, done.stderr
    usual = ["one_shot", "one_shot", "mpi", lacks, f"{1 << 20}", "one_shot"]
    assert done.stdout.strip().split(";") == usual

    Tuned((case((64, "ring"), (1 << 20, "driver"), ranks=2),)).write(path)
    done = mpirun(2, TUNED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split(";") == [
        "driver", "one_shot", "mpi", lacks, f"{1 << 20}", "driver",
    ]  # fmt: skip

    path.write_text("{}")
    done = mpirun(2, TUNED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split(";") == usual
    assert done.stderr.count("is ignored: expected 'format'") == 1
