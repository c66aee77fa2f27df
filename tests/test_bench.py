"""The verb bench: in one process, what it refuses, and a few real ranks."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from benching import CLUSTER, rows, run, spoil

from rankwise.collectives import Communicator, local
from rankwise.collectives.table import TABLE
from rankwise.collectives.tuned import Tuned
from rankwise.runtime.bench import BenchOptions, parse_bytes
from rankwise.runtime.bench.problem import Problem, cut
from rankwise.runtime.bench.result import Result, Timing, record
from rankwise.runtime.bench.timing import Call, Progress, alternated

COLLECTIVES = [name for name in TABLE if name != "barrier"]
WRONG = 10, 15  # the columns #wrong, out of place and in place


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_algorithm_of_a_collective_gets_a_line_for_each_size(
    collective: str, ranks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ranks, collective=collective, iters=2, warmup=1, root=ranks - 1) == [0] * ranks
    found = rows(capsys)
    assert [row[5] for row in found] == [*TABLE[collective], "auto", "mpi"] * 2
    # An alltoall of 2 elements for 3 ranks has no place to be in.
    uneven = collective == "alltoall" and ranks == 3
    assert {row[10] for row in found} == {"0"}
    assert [row[15] for row in found[: len(found) // 2]] == ["-" if uneven else "0"] * (
        len(found) // 2
    )
    assert {row[15] for row in found[len(found) // 2 :]} == {"0"}


@pytest.mark.parametrize("datatype", ["half", "bfloat16", "int8", "uint64"])
@pytest.mark.parametrize("op", ["sum", "prod", "min", "max"])
def test_results_are_exact_in_every_datatype(datatype: str, op: str) -> None:
    assert run(3, collective="allreduce", datatype=datatype, op=op, iters=1) == [0, 0, 0]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_wrong_result_is_counted_and_the_answer_is_no(
    in_place: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, in_place=in_place)
    names = ("ring", "tree")
    assert run(2, algorithm=names, iters=3, warmup=0, maxbytes="8") == [1, 1]
    found = {row[5]: [row[column] for column in WRONG] for row in rows(capsys)}
    assert found == {"ring": ["0", "0"], "tree": ["0", "3"] if in_place else ["3", "0"]}


def test_without_check_no_result_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, in_place=False)
    assert run(2, algorithm=("tree",), iters=1, check=0, maxbytes="8") == [0, 0]
    assert [row[column] for row in rows(capsys) for column in WRONG] == ["-", "-"]


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
        ({"maxbytes": "1T"}, "expected a number of bytes"),
        ({"stepfactor": 1}, "--stepfactor of at least 2"),
        ({"iters": 0}, "--iters of at least 1"),
        ({"warmup": -1}, "--warmup of at least 0"),
        ({"root": 2}, "expected --root from 0 to 1"),
        ({"ranks": 3}, "-n is 3"),
        ({"csv": "/no/such/folder/a.csv"}, "expected --csv to be a file in a folder that exists"),
        ({"json": "/tmp"}, "expected --json to be a file"),
        ({"plot": "picture.txt"}, "expected --plot of .png, .pdf, .svg, got picture.txt"),
        ({"tune": True, "iters": 7}, "--iters of at least 8 to tune with, got 7"),
        ({"tune": True, "algorithm": ("auto",)}, "expected algorithms to tune with"),
        ({"fit": "a.json", "csv": "a.csv", "tune": True}, "leave --csv, --tune out"),
    ],
)
def test_what_makes_no_sense_is_refused_on_every_rank(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(2, **options)


def test_a_picture_without_matplotlib_is_refused_before_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install rankwise\[plot\]"):
        run(2, plot="picture.png")


def test_sizes_are_read_with_their_units() -> None:
    assert [parse_bytes(text) for text in ("8", "64K", "1m", "2G")] == [8, 65536, 1 << 20, 2 << 30]
    for text in ("", "K", "1.5M", "-8", "8X"):
        with pytest.raises(ValueError, match="expected a number of bytes"):
            parse_bytes(text)


def test_sizes_are_of_whole_elements_and_different() -> None:
    assert BenchOptions(minbytes="1", maxbytes="100", stepfactor=3).sizes == [4, 8, 24, 80]
    assert BenchOptions(minbytes="1", maxbytes="9", datatype="double").sizes == [8]


@pytest.mark.parametrize(
    ("collective", "factor"),
    [("allreduce", 1.5), ("broadcast", 1), ("reduce", 1), ("allgather", 0.75),
     ("reduce_scatter", 0.75), ("alltoall", 0.75), ("gather", 0.75), ("scatter", 0.75)],
)  # fmt: skip
def test_bandwidths_are_those_of_nccl_tests(collective: str, factor: float) -> None:
    result = Result(4000, 1000, "ring", Timing(1e-3), None)
    found = record(BenchOptions(collective), 4, result)
    assert found["out_of_place_algbw"] == pytest.approx(4e6)
    assert found["out_of_place_busbw"] == pytest.approx(4e6 * factor)
    assert found["in_place_algbw"] is None


def test_files_hold_what_the_table_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: str(tmp_path / f"results.{name}") for name in ("csv", "json")}
    assert run(2, iters=5, algorithm=("ring", "mpi"), **paths) == [0, 0]
    shown = rows(capsys)
    with Path(paths["csv"]).open(newline="") as file:
        lines = list(csv.DictReader(file))
    given = json.loads(Path(paths["json"]).read_text())
    assert (given["ranks"], given["options"]["iters"]) == (2, 5)
    assert given["origin"]["cores"] >= 1
    for row, line, result in zip(shown, lines, given["results"], strict=True):
        assert {name: str(value) for name, value in result.items()} == line
        assert row[:6] == [line[name] for name in list(line)[:6]]
        for column, place in ((6, "out_of_place"), (11, "in_place")):
            assert row[column] == f"{1e6 * result[f'{place}_seconds']:.1f}"
            assert result[f"{place}_p99_seconds"] >= result[f"{place}_seconds"]
            assert row[column + 1] == f"{1e6 * result[f'{place}_p99_seconds']:.1f}"
    native = [float(row[6]) for row in shown if row[5] == "mpi"]
    ratios = [float(row[16]) for row in shown if row[5] == "ring"]
    own = [float(row[6]) for row in shown if row[5] == "ring"]
    assert ratios == pytest.approx([n / o for n, o in zip(native, own, strict=True)], rel=0.05)


def test_with_a_cluster_file_the_lower_bound_has_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CLUSTER.write(tmp_path / "cluster.json")
    run(2, iters=1, algorithm=("ring",), cluster=str(tmp_path / "cluster.json"), maxbytes="8")
    bound = rows(capsys)[1]
    # one message, 8 bytes, of which half are reduced
    assert bound[5:8] == ["bound", f"{1e6 * (1e-3 + 8 * 2e-9 + 4 * 1e-9):.1f}", "-"]
    assert [bound[column] for column in WRONG] == ["-", "-"]
    with pytest.raises(ValueError, match="no cluster file"):
        (tmp_path / "cluster.json").write_text("{}")
        run(2, cluster=str(tmp_path / "cluster.json"))


def test_a_picture_shows_every_algorithm(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    CLUSTER.write(tmp_path / "cluster.json")
    for name in ("picture.png", "picture.svg"):
        path, cluster = tmp_path / name, str(tmp_path / "cluster.json")
        assert run(2, iters=1, plot=str(path), cluster=cluster) == [0, 0]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "picture.svg").read_text()
    labels = [*TABLE["allreduce"], "auto", "MPI", "lower bound", "time (us)", "size (bytes)"]
    assert [label for label in labels if f">{label}<" not in drawn] == []


@pytest.mark.parametrize("calls", range(1, 10))
def test_calls_alternate_and_their_memory_rotates(calls: int) -> None:
    seen: list[tuple[str, int]] = []

    def made(name: str) -> Call:
        return Call(lambda turn: seen.append((name, turn % 4)))

    def work(comm: Communicator) -> None:
        named = {str(index): made(str(index)) for index in range(calls)}
        times = alternated(comm, named, 8, 0, Progress(comm), "")
        assert {len(row) for row in times.values()} == {8}

    local.run(1, work)
    names = [name for name, _ in seen]
    forwards = [str(index) for index in range(calls)]
    assert names == (forwards[::-1] + forwards) * 4
    assert all(a[1] != b[1] for a, b in itertools.pairwise(seen))
    for name in forwards:
        assert len({place for own, place in seen if own == name}) == 4


def test_the_time_of_a_call_is_that_of_the_slowest_rank() -> None:
    def work(comm: Communicator) -> float:
        import time

        call = Call(lambda turn: time.sleep(0.02 * comm.rank))
        return float(alternated(comm, {"": call}, 2, 1, Progress(comm), "")[""].min())

    assert min(local.run(2, work)) >= 0.02


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_memory_in_place_is_shared_as_mpi_has_it(collective: str) -> None:
    def work(comm: Communicator) -> None:
        problem = Problem.of(BenchOptions(collective), comm, 48)
        for in_place in (False, True):
            x, out = problem.memory(in_place=in_place)
            if x is not None and out is not None:
                assert np.shares_memory(x, out) == in_place
            if x is not None:
                assert np.array_equal(x, problem.x)
            if out is not None and not in_place:
                assert not out.any()

    local.run(3, work)


def test_parts_are_those_of_array_split() -> None:
    for count in range(9):
        for ranks in range(1, 5):
            parts = np.array_split(np.arange(count), ranks)
            cuts = [np.arange(count)[cut(count, ranks, rank)] for rank in range(ranks)]
            assert [part.tolist() for part in parts] == [own.tolist() for own in cuts]


@pytest.mark.mpi
def test_it_starts_its_own_ranks(mpirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]  # a fixture
    table = tmp_path / "collectives.json"
    monkeypatch.setenv("RANKWISE_COLLECTIVES", str(table))
    for ranks in (2, 3):
        options = ["-e", "4K", "-f", "16", "--iters", "8", "--tune"]
        done = mpirun(ranks, ["-m", "rankwise", "bench", "allreduce", *options])
        assert done.returncode == 0, done.stderr
        assert "# 0 wrong values" in done.stdout
    cases = Tuned.parse(table.read_text()).cases
    assert [case.ranks for case in cases] == [2, 3]
    assert "MPI" in cases[0].origin.mpi


@pytest.mark.mpi
def test_bad_usage_is_one_line_and_exit_code_2(mpirun) -> None:  # type: ignore[no-untyped-def]  # a fixture
    done = mpirun(2, ["-m", "rankwise", "bench", "allgather", "--cluster", "/no/such.json"])
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("rankwise: ")] == [
        "rankwise: no such file or directory: /no/such.json"
    ]
