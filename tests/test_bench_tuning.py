"""What the verb bench makes of its times: a table of choices, and a cost model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benching import ORIGIN, run, spoil

from rankwise.collectives.cluster import Cluster
from rankwise.collectives.cost import seconds
from rankwise.collectives.table import TABLE
from rankwise.collectives.tuned import Tuned
from rankwise.runtime.bench import fitting, tuning


def test_one_rank_has_nothing_to_tune_or_to_fit(tmp_path: Path) -> None:
    for options in ({"tune": True}, {"fit": str(tmp_path / "cluster.json")}):
        with pytest.raises(ValueError, match="start more with -n"):
            run(1, **options)


def times(seed: int, medians: dict[str, float], spread: float) -> dict[str, np.ndarray]:
    """Twenty calls of each algorithm, that differ by so much."""
    random = np.random.default_rng(seed)
    return {name: m * np.exp(random.normal(0, spread, 20)) for name, m in medians.items()}


def test_a_table_changes_where_another_algorithm_is_clearly_faster() -> None:
    measured = [
        (8 << k, times(k, {"ring": 20 + 2.0**k, "tree": 10 + 4.0**k, "auto": 1.0}, 0.02))
        for k in range(10)
    ]
    # 10 + 4 ** k passes 20 + 2 ** k between k = 1 and k = 2, and by much at k = 3.
    assert tuning.steps(measured) in (((8, "tree"), (32, "ring")), ((8, "tree"), (64, "ring")))


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.5])
def test_a_table_does_not_follow_the_noise(spread: float) -> None:
    for seed in range(20):
        names = dict.fromkeys(TABLE["allreduce"], 1e-5)
        measured = [(8 << k, times(100 * seed + k, names, spread)) for k in range(24)]
        assert len(tuning.steps(measured)) == 1


def test_a_little_at_each_of_many_sizes_is_enough() -> None:
    medians = {"ring": 1.0, "tree": 1.04}
    rest = {"ring": 1.04, "tree": 1.0}
    measured = [(8 << k, times(k, medians if k < 6 else rest, 0.001)) for k in range(12)]
    assert tuning.steps(measured) == ((8, "ring"), (8 << 6, "tree"))


def test_tuning_writes_a_table_and_keeps_what_else_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "collectives.json"
    monkeypatch.setenv("RANKWISE_COLLECTIVES", str(path))
    for ranks, collective in ((2, "allreduce"), (3, "allreduce"), (2, "allgather")):
        assert run(ranks, collective=collective, tune=True, iters=8) == [0] * ranks
        assert f"# written to {path}; to go back, delete it" in capsys.readouterr().out
    table = Tuned.parse(path.read_text())
    keys = [case.key for case in table.cases]
    assert sorted(keys) == [
        ("allgather", 2, "any", "node"), ("allreduce", 2, "f", "node"),
        ("allreduce", 3, "f", "node"),
    ]  # fmt: skip
    old = replace(table.cases[1], steps=((0, "naive"),))
    table.with_case(old).write(path)
    run(2, tune=True, iters=8, algorithm=("ring",))
    again = Tuned.parse(path.read_text())
    assert again.cases[1].steps == ((8, "ring"),)
    assert [again.cases[0], again.cases[2]] == [table.cases[0], table.cases[2]]


def test_wrong_results_are_not_written_as_fast_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "collectives.json"
    monkeypatch.setenv("RANKWISE_COLLECTIVES", str(path))
    spoil(monkeypatch, in_place=False)
    assert run(2, tune=True, iters=8, algorithm=("ring", "tree")) == [1, 1]
    assert not path.exists()


def test_a_table_that_cannot_be_read_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "collectives.json"
    path.write_text('{"format": 2}')
    monkeypatch.setenv("RANKWISE_COLLECTIVES", str(path))
    with pytest.raises(ValueError, match="cannot be added to: expected format 1"):
        run(2, tune=True)
    assert path.read_text() == '{"format": 2}'
    monkeypatch.setenv("RANKWISE_COLLECTIVES", "")
    with pytest.raises(ValueError, match="unset it"):
        run(2, tune=True)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_fit_finds_the_constants_of_exact_times(ranks: int) -> None:
    alpha, beta, gamma, overhead = 1e-5, 3e-10, 1e-10, 7e-6
    samples = []
    for nbytes in (12, 1200, 12000, 120000, 12000000):
        for name in (*fitting.FITTED, *fitting.TRIED):
            algorithm = TABLE["allreduce"][name].algorithm
            cost = seconds(algorithm, ranks, nbytes, alpha=alpha, beta=beta, gamma=gamma)
            samples.append(fitting.Sample(name, nbytes, overhead + cost))
        exchange = overhead + alpha + beta * nbytes
        samples.append(fitting.Sample(fitting.EXCHANGE, nbytes, exchange))
    found = fitting.fitted(samples, ranks, ORIGIN)
    assert [found.alpha, found.beta, found.gamma, found.overhead] == pytest.approx(
        [alpha, beta, gamma, overhead], rel=1e-6
    )
    assert "# largest deviation +0%" in fitting.report(found, samples).replace("-0%", "+0%")


def test_a_fit_has_no_negative_constants() -> None:
    rows = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    exact = fitting.nonnegative(rows, rows @ [2.0, 0.5])
    assert exact == pytest.approx([2.0, 0.5])
    # The slope would be negative: then the best constant is the mean.
    assert fitting.nonnegative(rows, np.array([3.0, 2.0, 1.0])) == pytest.approx([2.0, 0.0])
    assert fitting.nonnegative(rows, np.array([-1.0, -1.0, -1.0])) == pytest.approx([0.0, 0.0])


def test_a_fit_writes_a_cluster_file_and_says_how_far_it_is_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.json"
    assert run(3, fit=str(path), iters=3) == [0, 0, 0]
    assert Cluster.read(path).ranks == 3
    said = capsys.readouterr().out
    assert "# largest deviation" in said
    assert "rabenseifner" in said
