"""BERT encoders that embed sentences: the encoder, the mean over the tokens, unit length.

Devlin et al., 2019, for the encoder; Reimers and Gurevych, Sentence-BERT, 2019, for the mean.
A suffix names the dims of a value: B batch, S sequence, T the same of the keys, H hidden,
N heads, D a head's width, F the width inside the MLP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from ..builder import Builder
from .layers import Activation, Array, find_activation, linear

Weights = Mapping[str, Array]

MASKED = -1e9
"""Added to the scores of padding. Finite, so that a sentence of padding alone gives no NaN."""

SMALLEST_COUNT, SMALLEST_NORM = 1e-9, 1e-12
"""What sentence-transformers divides by at least."""

REQUIRED_VALUES = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""Other values, where a configuration has the key, make another graph than this one."""


@dataclass(frozen=True)
class Config:
    """What of a Hugging Face config.json shapes the graph."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float
    activation: Activation

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(
                f"expected hidden_size to be a multiple of num_attention_heads {self.heads}, "
                f"got {self.hidden}"
            )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """Take what is needed, and refuse what the graph would not honour."""
        for key, wanted in REQUIRED_VALUES.items():
            if config.get(key, wanted) != wanted:
                raise ValueError(f"expected {key} to be {wanted!r}, got {config[key]!r}")
        return cls(
            hidden=_size(config, "hidden_size"),
            layers=_size(config, "num_hidden_layers"),
            heads=_size(config, "num_attention_heads"),
            intermediate=_size(config, "intermediate_size"),
            vocabulary=_size(config, "vocab_size"),
            positions=_size(config, "max_position_embeddings"),
            types=_size(config, "type_vocab_size"),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            activation=find_activation(config.get("hidden_act", "gelu")),
        )


def _size(config: Mapping[str, Any], key: str) -> int:
    size = config.get(key)
    if type(size) is not int or size < 1:
        raise ValueError(f"expected {key} to be a positive integer, got {size!r}")
    return size


def build(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> ModelProto:
    """Build the graph of a BERT-shaped config.json with the tensors of its checkpoint.

    Inputs: input_ids, attention_mask, token_type_ids, all int64 [batch, sequence].
    Outputs: last_hidden_state [batch, sequence, hidden] and sentence_embedding [batch, hidden],
    the mean of the hidden states where the mask is 1, at length 1. Both are float32, as are the
    weights, whatever they are in the checkpoint. Tensors have Hugging Face's names, with or
    without "bert." before them; those of a head or a pooler are not used.
    Raises ValueError where a value of the config is not supported or tensors do not fit it.
    """
    c = Config.read(config)
    w = _fitting(tensors, _shapes(c))
    g = Builder("bert")
    ids_bs, mask_bs, types_bs = (
        g.input(name, np.int64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    state_bsh = _embeddings(g, c, w, ids_bs, types_bs)
    mask_bs = g.op("Cast", mask_bs, to=TensorProto.FLOAT)
    bias_b11t = _mask_bias(g, mask_bs)
    for k in range(c.layers):
        with g.scope(f"encoder.layer.{k}"):
            out = "last_hidden_state" if k == c.layers - 1 else None
            state_bsh = _layer(g, c, w, state_bsh, bias_b11t, out)
    _sentence_embedding(g, state_bsh, mask_bs)
    g.output("last_hidden_state", np.float32, ["batch", "sequence", c.hidden])
    g.output("sentence_embedding", np.float32, ["batch", c.hidden])
    return g.model()


def from_checkpoint(directory: str | Path) -> ModelProto:
    """Build from a folder with config.json and model.safetensors.

    Needs the package safetensors, and raises ImportError without it; raises ValueError where a
    file is missing, cannot be read, or does not fit the other.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(f"{error}; to read checkpoints: pip install safetensors") from error
    folder = Path(directory)
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"expected config.json and model.safetensors in {str(folder)!r}, got: {error}"
        ) from error
    return build(config, tensors)


def _shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors that a configuration needs."""
    h, f = c.hidden, c.intermediate
    linears = {
        "attention.self.query": (h, h),
        "attention.self.key": (h, h),
        "attention.self.value": (h, h),
        "attention.output.dense": (h, h),
        "intermediate.dense": (f, h),
        "output.dense": (h, f),
    }
    norms = ["embeddings.LayerNorm"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (c.vocabulary, h),
        "embeddings.position_embeddings.weight": (c.positions, h),
        "embeddings.token_type_embeddings.weight": (c.types, h),
    }
    for layer in (f"encoder.layer.{k}" for k in range(c.layers)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name, shape in linears.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[:1]
    return shapes | {f"{norm}.{part}": (h,) for norm in norms for part in ("weight", "bias")}


def _fitting(tensors: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Return the tensors that are needed, as float32, under their names without a prefix."""
    found = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    missing = [name for name in shapes if name not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"expected the tensors of a BERT, missing {', '.join(missing[:3])}{more}")
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise ValueError(f"expected {name} to be {shape}, got {found[name].shape}")
    return {name: np.asarray(found[name], np.float32) for name in shapes}


def _embeddings(g: Builder, c: Config, w: Weights, ids_bs: str, types_bs: str) -> str:
    with g.scope("embeddings"):
        words_bsh = _lookup(g, w, "word_embeddings", ids_bs)
        types_bsh = _lookup(g, w, "token_type_embeddings", types_bs)
        length = g.op("Squeeze", g.op("Shape", ids_bs, start=1, end=2), g.constant([0]))
        places_s = g.op("Range", g.constant(0), length, g.constant(1))
        places_sh = _lookup(g, w, "position_embeddings", places_s)
        sum_bsh = g.op("Add", g.op("Add", words_bsh, types_bsh), places_sh)
        return _norm(g, c, w, "LayerNorm", sum_bsh)


def _mask_bias(g: Builder, mask_bs: str) -> str:
    """Return what to add to the scores: 0 for a key that counts, MASKED for padding."""
    with g.scope("mask"):
        padding_bt = g.op("Sub", g.constant(1.0, np.float32), mask_bs)
        bias_bt = g.op("Mul", padding_bt, g.constant(MASKED, np.float32))
        return g.op("Unsqueeze", bias_bt, g.constant([1, 2]))


def _layer(g: Builder, c: Config, w: Weights, x_bsh: str, bias_b11t: str, out: str | None) -> str:
    """Add attention and the MLP, each with its residual and its norm after it."""
    with g.scope("attention"):
        attended_bsh = _attention(g, c, w, x_bsh, bias_b11t)
        with g.scope("output"):
            sum_bsh = g.op("Add", _dense(g, w, "dense", attended_bsh), x_bsh)
            x_bsh = _norm(g, c, w, "LayerNorm", sum_bsh)
    with g.scope("intermediate"):
        inner_bsf = c.activation(g, _dense(g, w, "dense", x_bsh))
    with g.scope("output"):
        sum_bsh = g.op("Add", _dense(g, w, "dense", inner_bsf), x_bsh)
        return _norm(g, c, w, "LayerNorm", sum_bsh, out)


def _attention(g: Builder, c: Config, w: Weights, x_bsh: str, bias_b11t: str) -> str:
    width = c.hidden // c.heads
    with g.scope("self"):
        query_bsh, key_bth, value_bth = (
            _dense(g, w, name, x_bsh) for name in ("query", "key", "value")
        )
        query_bsh = g.op("Mul", query_bsh, g.constant(width**-0.5, np.float32))
        query_bnsd = _heads(g, c, query_bsh, perm=(0, 2, 1, 3))
        key_bndt = _heads(g, c, key_bth, perm=(0, 2, 3, 1))
        value_bntd = _heads(g, c, value_bth, perm=(0, 2, 1, 3))
        scores_bnst = g.op("Add", g.op("MatMul", query_bnsd, key_bndt), bias_b11t)
        shares_bnst = g.op("Softmax", scores_bnst, axis=-1)
        mixed_bnsd = g.op("MatMul", shares_bnst, value_bntd)
        mixed_bsnd = g.op("Transpose", mixed_bnsd, perm=(0, 2, 1, 3))
        return g.op("Reshape", mixed_bsnd, g.constant([0, 0, c.hidden]))


def _heads(g: Builder, c: Config, x_bsh: str, perm: tuple[int, ...]) -> str:
    """Cut the hidden dim into heads, then reorder the dims B, S, N, D."""
    sizes = g.constant([0, 0, c.heads, c.hidden // c.heads])
    return g.op("Transpose", g.op("Reshape", x_bsh, sizes), perm=perm)


def _sentence_embedding(g: Builder, state_bsh: str, mask_bs: str) -> None:
    with g.scope("pooling"):
        mask_bs1 = g.op("Unsqueeze", mask_bs, g.constant([2]))
        sum_bh = g.op("ReduceSum", g.op("Mul", state_bsh, mask_bs1), g.constant([1]), keepdims=0)
        count_b1 = g.op("ReduceSum", mask_bs, g.constant([1]), keepdims=1)
        count_b1 = g.op("Max", count_b1, g.constant(SMALLEST_COUNT, np.float32))
        mean_bh = g.op("Div", sum_bh, count_b1)
        norm_b1 = g.op("ReduceL2", mean_bh, g.constant([1]), keepdims=1)
        norm_b1 = g.op("Max", norm_b1, g.constant(SMALLEST_NORM, np.float32))
        g.op("Div", mean_bh, norm_b1, out="sentence_embedding")


def _lookup(g: Builder, w: Weights, name: str, indices: str) -> str:
    with g.scope(name):
        return g.op("Gather", g.weight("weight", w[g.scoped("weight")]), indices)


def _dense(g: Builder, w: Weights, name: str, x: str) -> str:
    """Add a linear layer; checkpoints have its weight transposed."""
    with g.scope(name):
        return linear(g, x, w[g.scoped("weight")].T, w[g.scoped("bias")])


def _norm(g: Builder, c: Config, w: Weights, name: str, x: str, out: str | None = None) -> str:
    with g.scope(name):
        scale, shift = (g.weight(part, w[g.scoped(part)]) for part in ("weight", "bias"))
        return g.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=c.epsilon, out=out)
