"""The cluster file: written, read back, and refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankwise.collectives.algorithms.ring import ring_allreduce
from rankwise.collectives.cluster import Cluster
from rankwise.collectives.origin import Origin

ORIGIN = Origin("2026-11-21T12:00:00+00:00", "here", "none", 2)
CLUSTER = Cluster(1e-5, 2e-10, 1e-10, 5e-6, 2, ORIGIN)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    CLUSTER.write(tmp_path / "cluster.json")
    assert Cluster.read(tmp_path / "cluster.json") == CLUSTER


def test_a_call_takes_its_overhead_and_what_the_model_counts() -> None:
    # 2 (p - 1) rounds of n / p bytes, p - 1 of them reduced
    n, block = 4000, 1000
    expected = 5e-6 + 6 * (1e-5 + block * 2e-10) + 3 * block * 1e-10
    assert CLUSTER.seconds(ring_allreduce, 4, n) == pytest.approx(expected)
    assert CLUSTER.lower_bound("allreduce", 4, n) == pytest.approx(
        2e-5 + 1.5 * n * 2e-10 + 0.75 * n * 1e-10
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1e-6}, "alpha in seconds, at least 0, got -1e-06"),
        ({"beta": "fast"}, "beta in seconds"),
        ({"gamma": float("nan")}, "gamma in seconds"),
        ({"ranks": 1}, "ranks of at least 2, got 1"),
        ({"format": 9}, "expected format 1"),
        ({"colour": 1}, "colour"),
        ({"origin": {}}, "missing"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "cluster.json"
    CLUSTER.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"cluster\.json is no cluster file") as caught:
        Cluster.read(path)
    assert message in str(caught.value)
    assert "rankwise bench --fit" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "1", "null"])
def test_other_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(ValueError, match="no cluster file"):
        Cluster.read(tmp_path / "cluster.json")


def test_where_it_was_measured_is_said() -> None:
    here = Origin.here()
    assert here.cores >= 1
    assert here.host in str(here)
    with pytest.raises(ValueError, match="cores of at least 1"):
        Origin("now", "here", "none", 0)
    with pytest.raises(ValueError, match="host to be a text"):
        Origin("now", 7, "none", 1)  # type: ignore[arg-type]  # as JSON may hold it
