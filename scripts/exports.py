"""What torch.onnx.export is given of a model of transformers: modules, inputs, and open dims.

As they are initialised such models hide mistakes: norms are 1, biases are 0 and left out of the
graph, and a branch may add next to nothing. So vectors are random before the export, and matrices
scaled until every branch counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import transformers

BATCH, LENGTH, PAST = 2, 9, 5
"""Sizes at which a model is traced; the file keeps them open."""


class Export(NamedTuple):
    """What torch.onnx.export is given."""

    model: torch.nn.Module
    inputs: dict[str, Any]
    open_dims: dict[str, Any]
    outputs: list[str]


class Text(torch.nn.Module):
    """A language model whose only output is its first: logits, or the last hidden state."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]


class CachedDecoder(torch.nn.Module):
    """A language model whose keys and values are inputs and outputs."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        cache = transformers.DynamicCache(past)
        made = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache
        )
        present = [each for layer in cache.layers for each in (layer.keys, layer.values)]
        return made.logits, *present


class Vision(torch.nn.Module):
    """A model of images whose only output is its first."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values)[0]


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Make every parameter count; tied ones stay tied."""
    torch.manual_seed(11)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() < 2:
                is_scale = "bias" not in name
                value.copy_(0.3 * torch.randn_like(value) + float(is_scale))
            else:
                fan_in = value[0].numel() if "embed" not in name and "wte" not in name else 1.6**2
                value.copy_(torch.randn_like(value) * 1.6 / fan_in**0.5)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(0.3 * torch.randn_like(value))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand_like(value))
    return model.eval()


def text() -> dict[str, torch.Tensor]:
    ids = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) * 7 % 31
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


OPEN_TEXT = {
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
}


def decoder(config: Any) -> Export:
    model = transformers.AutoModelForCausalLM.from_config(config)
    return Export(Text(randomise(model)), text(), OPEN_TEXT, ["logits"])


def cached(config: Any) -> Export:
    model = randomise(transformers.AutoModelForCausalLM.from_config(config))
    width = config.hidden_size // config.num_attention_heads
    shape = (BATCH, config.num_key_value_heads, PAST, width)
    layers = range(config.num_hidden_layers)
    mask = torch.ones(BATCH, PAST + LENGTH, dtype=torch.int64)
    past = [(torch.randn(shape), torch.randn(shape)) for _ in layers]
    inputs = text() | {"attention_mask": mask, "past": past}
    open_dims = {
        "input_ids": OPEN_TEXT["input_ids"],
        "attention_mask": {0: "batch", 1: "total"},
        "past": [({0: "batch", 2: "past"}, {0: "batch", 2: "past"}) for _ in layers],
    }
    outputs = [f"present.{k}.{part}" for k in layers for part in ("key", "value")]
    return Export(CachedDecoder(model), inputs, open_dims, ["logits", *outputs])


def of_pixels(model: torch.nn.Module, open_dims: Mapping[int, str]) -> Export:
    pixels = {"pixel_values": torch.randn(BATCH, 3, 64, 64)}
    return Export(Vision(randomise(model)), pixels, {"pixel_values": open_dims}, ["logits"])


def encoder(config: Any) -> Export:
    model = randomise(transformers.BertModel(config, add_pooling_layer=False))
    return Export(Text(model), text(), OPEN_TEXT, ["hidden"])
