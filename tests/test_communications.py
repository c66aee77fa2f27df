"""What inspect says of a model that communicates."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import parser

from rankwise.models.communications import Row, communications
from rankwise.runtime import cli

TEXT = """
<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1, "own" : 1],
 metadata_props: ["rankwise.mesh" : "dp=2,tp=2"]>
g (float[3] x, float16[n] h, bool yes) => (float[3] z) {
    rank = rankwise.Rank()
    a = own.twice(x)
    b = rankwise.AllReduce<axis_name="tp">(h)
    done = rankwise.Barrier()
    z = If (yes) <
        then_branch = t () => (float[3] p) { sent = rankwise.Send(a, rank) p = Identity(x) },
        else_branch = e () => (float[3] q) { q = rankwise.Recv<dtype=1, shape=[3]>(rank) }>
}
<domain: "own", opset_import: ["" : 20, "rankwise" : 1]>
twice (v) => (w) { u = rankwise.AllReduce(v) w = rankwise.AllReduce<op="max">(u) }
"""


def test_nodes_are_counted_by_operator_with_the_bytes_that_are_known() -> None:
    found = communications(parser.parse_model(TEXT))
    assert (found.inputs, found.outputs, found.mesh) == (("x", "h", "yes"), ("z",), "dp=2,tp=2")
    assert {row.name: row for row in found.operators} == {
        "AllReduce": Row("AllReduce", 3, 0, 24, 1),
        "Barrier": Row("Barrier", 1, 0, 0, 0),
        "Send": Row("Send", 1, 1, 12, 0),
        "Recv": Row("Recv", 1, 1, 12, 0),
    }


def test_operators_of_other_systems_are_listed_as_ours() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (float16[8] x) => (float16[m] y) { y = com.microsoft.AllGather<group_size=2>(x) }"""
    (row,) = communications(parser.parse_model(text)).operators
    assert row == Row("AllGather", 1, 0, 16, 0)


def test_distributed_operators_are_listed_as_they_are() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (float[8, 4] x, float[4, 4] w) => (float[8, 4] y) {
            y = com.microsoft.DistributedMatMul<
                input_device_mesh_elements = ["[0,1]", "[0,1]"],
                input_device_mesh_shapes = ["[2]", "[2]"],
                input_shard_specs = ["S[0]R", "RR"],
                output_device_mesh_elements = ["[0,1]"], output_device_mesh_shapes = ["[2]"],
                output_shard_specs = ["S[0]R"]>(x, w) }"""
    assert [row.name for row in communications(parser.parse_model(text)).operators] == [
        "DistributedMatMul"
    ]


def test_inspect_lists_communications_and_not_what_could_be_sharded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(parser.parse_model(TEXT), path)
    assert cli.main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out == (
        "inputs          x, h, yes\n"
        "outputs         z\n"
        "mesh            dp=2,tp=2\n"
        "communications  6\n"
        "\n"
        "operator   nodes  in bodies  bytes\n"
        "AllReduce      3          0  24, 1 unknown\n"
        "Barrier        1          0  0\n"
        "Send           1          1  12\n"
        "Recv           1          1  12\n"
    )
    assert cli.main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["operators"][1]["name"] == "Barrier"
