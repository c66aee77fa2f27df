"""The models of the zoo in plain numpy, in float64, written apart from the graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": silu,
    "swish": silu,
    "tanh": np.tanh,
}


def mlp(x: Array, layers: Sequence[tuple[Array, Array]], activation: str) -> Array:
    """Apply layers of (weight [in, out], bias), the activation between them."""
    *inner, last = layers
    for weight, bias in inner:
        x = ACTIVATIONS[activation](x @ weight + bias)
    return x @ last[0] + last[1]


def cnn(x: Array, layers: Sequence[tuple[Array, Array]]) -> Array:
    """Apply convolutions without padding, each with a bias and a Relu, window by window."""
    for kernel, bias in layers:
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
        x = np.einsum("bchwij,fcij->bfhw", windows, kernel, optimize=True)
        x = np.maximum(x + bias[:, None, None], 0)
    return x


class Bert:
    """A BERT whose tensors have Hugging Face's names, without a prefix."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        self.config = config
        self.tensors = {name: np.asarray(t, np.float64) for name, t in tensors.items()}

    def __call__(self, ids: Array, mask: Array, types: Array) -> tuple[Array, Array]:
        """Return last_hidden_state and sentence_embedding, sentence by sentence without padding.

        So padding is proved to have no influence; the states of padding itself are NaN here.
        """
        hidden = self.config["hidden_size"]
        states = np.full((*ids.shape, hidden), np.nan)
        embeddings = np.empty((len(ids), hidden))
        for b, real in enumerate(mask.astype(bool)):
            states[b, real] = self.encode(ids[b, real], types[b, real], np.flatnonzero(real))
            mean = states[b, real].mean(axis=0)
            embeddings[b] = mean / np.linalg.norm(mean)
        return states, embeddings

    def encode(self, ids: Array, types: Array, positions: Array) -> Array:
        table = {
            part: self.tensors[f"embeddings.{part}_embeddings.weight"]
            for part in ("word", "token_type", "position")
        }
        x = table["word"][ids] + table["token_type"][types] + table["position"][positions]
        x = self.norm("embeddings.LayerNorm", x)
        for k in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{k}"
            attended = self.dense(f"{name}.attention.output.dense", self.attention(name, x))
            x = self.norm(f"{name}.attention.output.LayerNorm", x + attended)
            inner = self.dense(f"{name}.intermediate.dense", x)
            inner = ACTIVATIONS[self.config["hidden_act"]](inner)
            x = self.norm(
                f"{name}.output.LayerNorm", x + self.dense(f"{name}.output.dense", inner)
            )
        return x

    def attention(self, name: str, x: Array) -> Array:
        query, key, value = (
            np.split(self.dense(f"{name}.attention.self.{part}", x), self.heads, axis=-1)
            for part in ("query", "key", "value")
        )
        return np.concatenate(
            [
                softmax(q @ k.T / math.sqrt(q.shape[-1])) @ v
                for q, k, v in zip(query, key, value, strict=True)
            ],
            axis=-1,
        )

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    def dense(self, name: str, x: Array) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + self.config["layer_norm_eps"])
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
