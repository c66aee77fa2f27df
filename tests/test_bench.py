"""The verb bench: in one process, and what it refuses."""

from __future__ import annotations

import pytest

from rankwise.collectives import Communicator, local
from rankwise.collectives.table import TABLE
from rankwise.runtime.bench import BenchOptions, bench, parse_bytes


def run(size: int, **options: object) -> list[int]:
    chosen = BenchOptions(**{"minbytes": "8", "maxbytes": "1000", "stepfactor": 12, **options})  # type: ignore[arg-type]  # of any field
    return local.run(size, lambda comm: bench(chosen, comm), timeout=60)


@pytest.mark.parametrize("collective", [name for name in TABLE if name != "barrier"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_algorithm_of_a_collective_gets_a_line_for_each_size(
    collective: str, ranks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ranks, collective=collective, iters=2, warmup=1, root=ranks - 1) == [0] * ranks
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split()[0].isdecimal()]
    names = [*TABLE[collective], "auto", "mpi"]
    assert [row[5] for row in rows] == names * 2
    assert {row[10] for row in rows} == {"0"}
    assert lines[-1] == "# 0 wrong values"


@pytest.mark.parametrize("datatype", ["half", "bfloat16", "int8", "uint64"])
@pytest.mark.parametrize("op", ["sum", "prod", "min", "max"])
def test_results_are_exact_in_every_datatype(datatype: str, op: str) -> None:
    assert run(3, collective="allreduce", datatype=datatype, op=op, iters=1) == [0, 0, 0]


def test_a_wrong_result_is_counted_and_the_answer_is_no(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Communicator.allreduce

    def wrong(comm: Communicator, x, op="sum", **options):  # type: ignore[no-untyped-def]  # a stand-in
        made = right(comm, x, op, **options)
        if options.get("algorithm") == "tree":
            made[0] += comm.rank == 1
        return made

    monkeypatch.setattr(Communicator, "allreduce", wrong)
    assert run(2, collective="allreduce", iters=1, warmup=0, maxbytes="8") == [1, 1]
    assert "# 1 wrong values" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"collective": "allreduc"}, "expected a collective of allreduce"),
        ({"collective": "barrier"}, "expected a collective"),
        ({"algorithm": ("rong",)}, "expected an algorithm of allreduce"),
        ({"datatype": "flaot"}, "expected --datatype of float"),
        ({"op": "mean"}, "expected --op of sum"),
        ({"minbytes": "1M", "maxbytes": "1K"}, "-e of at least -b"),
        ({"minbytes": "0"}, "-b of at least 1"),
        ({"stepfactor": 1}, "--stepfactor of at least 2"),
        ({"iters": 0}, "--iters of at least 1"),
        ({"root": 2}, "expected --root from 0 to 1"),
        ({"ranks": 3}, "-n is 3"),
    ],
)
def test_what_makes_no_sense_is_refused_on_every_rank(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(2, **{"collective": "allreduce", **options})


def test_sizes_are_read_with_their_units() -> None:
    assert [parse_bytes(text) for text in ("8", "64K", "1m", "2G")] == [8, 65536, 1 << 20, 2 << 30]
    for text in ("", "K", "1.5M", "-8", "8X"):
        with pytest.raises(ValueError, match="expected a number of bytes"):
            parse_bytes(text)


@pytest.mark.mpi
def test_it_starts_its_own_ranks(mpirun) -> None:  # type: ignore[no-untyped-def]  # a fixture
    done = mpirun(
        3, ["-m", "rankwise", "bench", "allreduce", "-e", "4K", "-f", "16", "--iters", "3"]
    )
    assert done.returncode == 0, done.stderr
    assert "# 0 wrong values" in done.stdout
