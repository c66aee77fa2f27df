"""Reading models: what is accepted, what is normalised, what is refused and how."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rankwise.models import graph
from rankwise.models.errors import ModelError
from rankwise.models.graph import load
from rankwise.models.weights import Weight, WeightFile


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist"):
        load("nowhere.onnx")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    data = graphs.CNN.model.SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"no (complete )?ONNX model"):
        load(path)


def test_text_is_no_model() -> None:
    with pytest.raises(ModelError, match="no ONNX model"):
        load(b"this is not a protobuf")


def test_nodes_are_sorted_and_otherwise_stay_in_order() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(graphs.MLP.model)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert [n.op_type for n in load(model).nodes] == ["MatMul", "Add", "Relu", "Gemm"]


def test_a_cycle_is_refused_with_its_nodes() -> None:
    model = graphs.build("(float[b] x) => (float[b] y) { y = Relu(x) }")
    model.graph.node[0].input[0] = "z"
    model.graph.node.append(helper.make_node("Neg", ["y"], ["z"]))
    with pytest.raises(ModelError, match=r"cycle.*Relu"):
        load(model)


def test_constants_become_weights() -> None:
    graph = load(graphs.GROUPED_QUERIES.model)
    assert not any(node.op_type == "Constant" for node in graph.nodes)
    assert graph.weights["six"].read().tolist() == [6]


def test_a_small_weight_with_several_readers_gets_a_copy_for_each() -> None:
    graph = load(graphs.PACKED_QKV.model)
    targets = [
        n.input[1] for n in graph.nodes if n.op_type == "Reshape" and n.output[0][1:] == "4"
    ]
    assert len(set(targets)) == 4
    assert all(name in graph.weights or name == "shx" for name in targets)


def test_a_newer_opset_is_brought_down_to_what_runs() -> None:
    model = graphs.build("(float[b,16] x) => (float[b,16] y) { y = Relu(x) }", opset=28)
    model.ir_version = 14
    graph = load(model)
    assert graph.opsets[""] <= 26
    assert graph.ir_version <= 13


def test_the_operator_set_may_go_by_its_other_name() -> None:
    model = graphs.build("(float[b,4] x) => (float[b,4] y) { y = Relu(x) }", opset=17)
    model.opset_import[0].domain = "ai.onnx"
    assert load(model).opsets == {"": 17}


def test_functions_are_inlined() -> None:
    node = helper.make_node("Twice", ["x"], ["y"], domain="local")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "Twice", ["a"], ["b"], body, opsets[:1])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    assert [n.op_type for n in load(model).nodes] == ["Add"]


def _external(tmp_path: Path) -> tuple[Path, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    array = graphs.normal(40, 30)
    with WeightFile(tmp_path / "model.data") as file:
        small = file.append("small", graphs.normal(3))
        large = file.append("w", array)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "small"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [small, large])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=10), path)
    return path, array


def test_external_weights_are_read_in_part_and_small_ones_stay_inline(tmp_path: Path) -> None:
    path, array = _external(tmp_path)
    weights = load(path).weights
    assert weights["w"].is_external
    assert not weights["small"].is_external
    np.testing.assert_array_equal(weights["w"].read(), array)
    rows, columns = np.array([3, 4, 5]), np.array([0, 7, 29])
    np.testing.assert_array_equal(weights["w"].read((rows, columns)), array[3:6][:, columns])
    np.testing.assert_array_equal(weights["w"].read((None, columns)), array[:, columns])


def test_truncated_external_data_is_refused(tmp_path: Path) -> None:
    path, _ = _external(tmp_path)
    data = tmp_path / "model.data"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"'w' needs bytes .* truncated"):
        load(path)
    data.unlink()
    with pytest.raises(ModelError, match="does not exist"):
        load(path)


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    path, _ = _external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../model.data"
    (tmp_path / "inner").mkdir()
    inner = tmp_path / "inner" / "model.onnx"
    inner.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        load(inner)


def test_a_model_given_as_bytes_has_no_external_data(tmp_path: Path) -> None:
    path, _ = _external(tmp_path)
    with pytest.raises(ModelError, match="give its path"):
        load(path.read_bytes())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "bool", "float64", "int4"])
def test_weights_of_every_type_read_as_written(dtype: str, tmp_path: Path) -> None:
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype in ("bfloat16", "int4") else dtype)
    array = (graphs.normal(50, 30) * 3).astype(kind)
    with WeightFile(tmp_path / "w.data") as file:
        proto = file.append("w", array)
    weight = Weight.of(proto, tmp_path)
    assert weight.dtype == kind
    assert weight.nbytes == (750 if dtype == "int4" else array.nbytes)
    np.testing.assert_array_equal(weight.read(), array)


def test_scalars_keep_their_rank() -> None:
    weight = Weight.from_array("s", np.array(3.0, np.float32))
    assert weight.shape == ()
    assert weight.read().shape == ()
    assert numpy_helper.to_array(weight.proto).shape == ()


def test_a_model_that_no_older_opset_can_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter\n for Celu")

    monkeypatch.setattr(graph.version_converter, "convert_version", refuse)
    model = helper.make_model(
        helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 99)]
    )
    with pytest.raises(ModelError, match=r"the model is of opset 99: no adapter for Celu"):
        graph.lowered(model)
