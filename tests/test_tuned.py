"""The user's own selection table: what it finds, keeps, refuses and ignores."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from rankwise.collectives.origin import Origin
from rankwise.collectives.tuned import Case, Tuned, user_file

ORIGIN = Origin("2026-11-21T12:00:00+00:00", "here", "none", 2)
CASE = Case("allreduce", 2, "f", "node", ((8, "one_shot"), (65536, "two_shot")), ORIGIN)
OTHER = Case("allgather", 4, "any", "nodes", ((0, "mpi"),), ORIGIN)
FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("nbytes", "name"),
    [
        (0, None),
        (7, None),
        (8, "one_shot"),
        (65535, "one_shot"),
        (65536, "two_shot"),
        (1 << 40, "two_shot"),
    ],
)
def test_the_last_step_that_a_size_reaches_is_taken(nbytes: int, name: str | None) -> None:
    assert Tuned((CASE,)).find("allreduce", nbytes, 2, FLOAT, "node") == name


@pytest.mark.parametrize(
    "asked",
    [
        ("reduce", 100, 2, FLOAT, "node"),
        ("allreduce", 100, 3, FLOAT, "node"),
        ("allreduce", 100, 2, np.dtype(np.int32), "node"),
        ("allreduce", 100, 2, np.dtype(ml_dtypes.bfloat16), "node"),
        ("allreduce", 100, 2, FLOAT, "nodes"),
    ],
)
def test_nothing_is_found_for_what_was_not_measured(
    asked: tuple[str, int, int, np.dtype[np.float32], str],
) -> None:
    assert Tuned((CASE, OTHER)).find(*asked) is None


def test_a_case_of_the_dtype_comes_before_one_of_any() -> None:
    for cases in ((CASE, replace(CASE, dtype="any", steps=((0, "ring"),))), (CASE,)):
        for ordered in (cases, cases[::-1]):
            assert Tuned(ordered).find("allreduce", 100, 2, FLOAT, "node") == "one_shot"
    table = Tuned((CASE, replace(CASE, dtype="any", steps=((0, "ring"),))))
    assert table.find("allreduce", 100, 2, np.dtype(np.int8), "node") == "ring"


def test_what_is_written_is_read_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "collectives.json"
    table = Tuned((CASE, OTHER))
    table.write(path)
    assert Tuned.read(path) == table
    assert json.loads(path.read_text())["format"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["collectives.json"]


def test_a_new_case_replaces_the_one_of_its_kind_and_no_other() -> None:
    newer = replace(CASE, steps=((1, "ring"),))
    others = [
        OTHER,
        replace(CASE, ranks=3),
        replace(CASE, dtype="i"),
        replace(CASE, placement="nodes"),
    ]
    table = Tuned((CASE, *others)).with_case(newer)
    assert set(table.cases) == {newer, *others}


def test_a_missing_file_is_no_table_and_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Tuned.read(tmp_path / "none.json") is None


def broken(**change: object) -> str:
    given = json.loads(Tuned((CASE,)).text())
    given["cases"][0] |= change
    return json.dumps(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "expected other contents"),
        ("{}", "'format', which is missing"),
        ('{"format": 2, "cases": []}', "expected format 1, got 2"),
        ('{"format": 1}', "'cases', which is missing"),
        ('{"format": 1, "cases": [{}]}', "'steps', which is missing"),
        (broken(collective="allreduc"), "a collective of allreduce, .* got 'allreduc'"),
        (broken(ranks=0), "ranks of at least 1, got 0"),
        (broken(ranks=True), "ranks of at least 1, got True"),
        (broken(dtype="float32"), "dtype to be any or one of"),
        (broken(placement="here"), "a placement of node, nodes, got 'here'"),
        (broken(steps=[]), "steps from numbers of bytes"),
        (broken(steps=[{"from_bytes": 0.5, "algorithm": "ring"}]), "steps from numbers of bytes"),
        (broken(steps=[{"from_bytes": -1, "algorithm": "ring"}]), "steps from numbers of bytes"),
        (broken(steps=[{"from_bytes": 8, "algorithm": "ring"}] * 2), "steps whose sizes rise"),
        (broken(steps=[{"from_bytes": 8, "algorithm": "rong"}]), "got 'rong'"),
        (broken(steps=[{"from_bytes": 8, "algorithm": "auto"}]), "got 'auto'"),
        (broken(origin={"when": "now"}), "expected other contents"),
        (broken(colour="red"), "colour"),
    ],
)
def test_a_broken_file_is_ignored_with_a_warning_that_says_why(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "collectives.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=rf"collectives\.json is ignored: .*{message}"):
        assert Tuned.read(path) is None


def test_a_folder_in_its_place_is_ignored_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="is ignored"):
        assert Tuned.read(tmp_path) is None


def test_two_cases_of_one_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="one case for each of its kind"):
        Tuned((CASE, replace(CASE, steps=((0, "ring"),))))


def test_the_environment_says_where_the_table_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("RANKWISE_COLLECTIVES", raising=False)
    assert user_file() == Path("/home/someone/.config/rankwise/collectives.json")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/mine")
    assert user_file() == Path("/etc/mine/rankwise/collectives.json")
    monkeypatch.setenv("RANKWISE_COLLECTIVES", "table.json")
    assert user_file() == Path("table.json")
    monkeypatch.setenv("RANKWISE_COLLECTIVES", "")
    assert user_file() is None
