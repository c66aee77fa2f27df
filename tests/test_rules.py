"""The rules of operators: which dims pass, and that they run on parts as on the whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import defs
from operators import OPERATORS, Operator

from rankwise import InferenceSession
from rankwise.collectives import Communicator, local
from rankwise.models.graph import load
from rankwise.models.mesh import Mesh
from rankwise.models.sharding.analysis import Analysis, analyse
from rankwise.models.sharding.axes import Axis, find
from rankwise.models.sharding.candidates import shardable
from rankwise.models.sharding.coverage import BODY, RULE, UNKNOWN, WHOLE, coverage
from rankwise.models.sharding.decompose import DECOMPOSED
from rankwise.models.sharding.layout import Layout, is_opaque
from rankwise.models.sharding.rules import RULES
from rankwise.models.sharding.rules.replicated import REPLICATED
from rankwise.models.sharding.search import Choice
from rankwise.models.sharding.write import Sharding, write_part


def test_every_operator_has_a_rule_a_body_or_a_reason() -> None:
    found = coverage("")
    assert found[UNKNOWN] == []
    names = {schema.name for schema in defs.get_all_schemas() if not schema.domain}
    assert sum(map(len, found.values())) == len(names) > 200


def test_no_operator_is_listed_twice_or_does_not_exist() -> None:
    tables = (set(RULES), set(DECOMPOSED), set(REPLICATED))
    names = {schema.name for schema in defs.get_all_schemas_with_history() if not schema.domain}
    assert set.union(*tables) <= names
    assert sum(map(len, tables)) == len(set.union(*tables))
    assert set(coverage("")) == {RULE, BODY, WHOLE, UNKNOWN}


def cuts(analysis: Analysis, size: int, op_type: str) -> list[Axis]:
    """Return the atoms along which a node of this operator runs on parts."""
    return [
        atom
        for atom, _, sites in shardable(analysis, size)
        for site in sites
        if site.node.op_type == op_type and not is_opaque(site, _layout(atom, size))
    ]


def _layout(atom: Axis, size: int) -> Layout:
    return Layout(frozenset([atom]), size)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_dims_that_pass_are_those_that_may(name: str) -> None:
    op_type, analysis = name.split()[0], analyse(load(OPERATORS[name].model))
    if op_type in DECOMPOSED:
        assert op_type not in {site.node.op_type for site in analysis.sites}
        return
    found = cuts(analysis, 2, op_type)
    obstacles = [site.obstacle for site in analysis.sites if site.obstacle]
    assert sorted(find(atom).size.first for atom in found) == OPERATORS[name].passes, obstacles


@pytest.mark.parametrize("size", (2, 3))
@pytest.mark.parametrize("name", OPERATORS)
def test_parts_give_what_the_whole_gives(name: str, size: int, tmp_path: Path) -> None:
    case = OPERATORS[name]
    whole = onnxruntime.InferenceSession(case.model.SerializeToString())
    expected = whole.run(None, case.feeds)
    assert all(np.ptp(np.asarray(out, np.float64)) > 0 for out in expected if out.size > 1)
    analysis = analyse(load(case.model))
    for k, (atom, _, _) in enumerate(shardable(analysis, size)):
        choice = Choice((), _layout(atom, size), 0.0, ())
        folder = tmp_path / str(k)
        folder.mkdir()
        for got in outputs(Sharding(analysis, Mesh(tp=size), choice), case, folder):
            for a, b in zip(got, expected, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                np.testing.assert_allclose(
                    a, b, rtol=1e-4, atol=1e-5 if a.dtype.kind == "f" else 0
                )


def outputs(sharding: Sharding, case: Operator, folder: Path) -> list[list[Any]]:
    """Return the outputs of every rank."""
    for part in sharding.parts:
        write_part(sharding, part, folder / f"{part.rank}.onnx", lambda done, total: None)
    # A part that does not communicate would be sharded once more.
    is_alone = not sharding.parts[0].collectives
    return local.run(1 if is_alone else sharding.mesh.size, partial(answer, folder, case))


def answer(folder: Path, case: Operator, comm: Communicator) -> list[Any]:
    with InferenceSession(folder / f"{comm.rank}.onnx", comm=comm) as session:
        return session.run(None, case.feeds)
