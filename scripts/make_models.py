"""Make small ONNX models of known architectures: python scripts/make_models.py -o DIR [NAME ...]

Random weights, nothing from the network. `NAME` is one of --list: models of transformers, written
by torch.onnx.export, and two by the builder of onnxruntime-genai. An environment of its own:

    pip install torch==2.13.0 transformers onnxscript onnxruntime-genai

As they are initialised such models hide mistakes: norms are 1, biases are 0 and left out of the
graph, and a branch may add next to nothing. So vectors are random before the export, and matrices
scaled until every branch counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

try:
    import onnx
    import torch
    import transformers
    from tokenizers import Tokenizer, models
except ImportError as error:
    sys.exit(
        f"{error.name} is missing: pip install torch==2.13.0 transformers onnxscript "
        "onnxruntime-genai"
    )

BATCH, LENGTH, PAST = 2, 9, 5
"""Sizes at which a model is traced; the file keeps them open."""


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def inner(self) -> int:
        """Width of an MLP: no power of two, and a multiple of int4's blocks of 32."""
        return self.hidden * 11 // 4 // 32 * 32

    @property
    def decoder(self) -> dict[str, Any]:
        """Fields that configurations of recent decoders share."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": 512,
        }


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


def llama(size: Size) -> Any:
    return transformers.LlamaConfig(**size.decoder, num_key_value_heads=size.kv_heads)


def qwen(size: Size) -> Any:
    """Biases on queries, keys and values, and tied embeddings."""
    return transformers.Qwen2Config(
        **size.decoder, num_key_value_heads=size.kv_heads, tie_word_embeddings=True
    )


def gpt2(size: Size) -> Any:
    return transformers.GPT2Config(
        vocab_size=size.vocabulary,
        n_embd=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
        n_positions=512,
    )


def neox(size: Size) -> Any:
    return transformers.GPTNeoXConfig(**size.decoder, use_parallel_residual=True)


def phi(size: Size) -> Any:
    return transformers.PhiConfig(**size.decoder, num_key_value_heads=size.heads)


def mixtral(size: Size) -> Any:
    return transformers.MixtralConfig(
        **size.decoder,
        num_key_value_heads=size.kv_heads,
        num_local_experts=6,
        experts_implementation="batched_mm",
    )


def phi3(size: Size) -> Any:
    """Queries, keys and values in one matrix, gate and up in another."""
    return transformers.Phi3Config(
        **size.decoder, num_key_value_heads=size.kv_heads, pad_token_id=0
    )


def falcon(size: Size) -> Any:
    """One head of keys for all queries, in one matrix with them."""
    return transformers.FalconConfig(
        **size.decoder, multi_query=True, new_decoder_architecture=False
    )


def bloom(size: Size) -> Any:
    """A bias of attention that all layers share; heads of queries, keys and values interleaved."""
    return transformers.BloomConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        n_layer=size.layers,
        n_head=size.heads,
    )


def gemma2(size: Size) -> Any:
    """Norms on both sides of a branch, logits and scores through tanh."""
    return transformers.Gemma2Config(
        **size.decoder,
        num_key_value_heads=size.kv_heads,
        head_dim=size.hidden // size.heads,
        sliding_window=6,
    )


def qwen3(size: Size) -> Any:
    """Norms of every head."""
    return transformers.Qwen3Config(
        **size.decoder,
        num_key_value_heads=size.kv_heads,
        head_dim=size.hidden // size.heads,
    )


def opt(size: Size) -> Any:
    return transformers.OPTConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        ffn_dim=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        word_embed_proj_dim=size.hidden,
        max_position_embeddings=512,
    )


def bert(size: Size) -> Export:
    config = transformers.BertConfig(**size.decoder)
    model = randomise(transformers.BertModel(config, add_pooling_layer=False))
    return Export(Text(model), text(), OPEN_TEXT, ["hidden"])


def vit(size: Size) -> Export:
    config = transformers.ViTConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.inner,
        image_size=64,
        patch_size=16,
        num_labels=10,
    )
    model = transformers.ViTForImageClassification(config)
    return _of_pixels(model, {0: "batch"})


def resnet(size: Size) -> Export:
    widths = [size.hidden * k for k in range(1, size.layers + 1)]
    config = transformers.ResNetConfig(
        embedding_size=size.hidden // 2,
        hidden_sizes=widths,
        depths=[2] * size.layers,
        layer_type="bottleneck",
        num_labels=10,
    )
    model = transformers.ResNetForImageClassification(config)
    return _of_pixels(model, {0: "batch", 2: "height", 3: "width"})


def convnext(size: Size) -> Export:
    """Convolutions by channel, and a scale of each branch."""
    config = transformers.ConvNextConfig(
        hidden_sizes=[size.hidden // 2, size.hidden, size.hidden, 2 * size.hidden],
        depths=[1, 1, size.layers, 1],
        num_labels=10,
    )
    model = transformers.ConvNextForImageClassification(config)
    return _of_pixels(model, {0: "batch"})


def swin(size: Size) -> Export:
    """Attention in windows, some of them shifted, with a table of biases."""
    config = transformers.SwinConfig(
        image_size=64,
        embed_dim=size.hidden // 2,
        depths=[2, 2],
        num_heads=[size.heads // 2, size.heads],
        window_size=4,
        num_labels=10,
        attn_implementation="eager",
    )
    return _of_pixels(transformers.SwinForImageClassification(config), {0: "batch"})


def _of_pixels(model: torch.nn.Module, open_dims: Mapping[int, str]) -> Export:
    pixels = {"pixel_values": torch.randn(BATCH, 3, 64, 64)}
    return Export(Vision(randomise(model)), pixels, {"pixel_values": open_dims}, ["logits"])


TORCH: dict[str, Callable[[Size], Export]] = {
    "llama": lambda size: decoder(llama(size)),
    "llama_cache": lambda size: cached(llama(size)),
    "qwen2_cache": lambda size: cached(qwen(size)),
    "gpt2": lambda size: decoder(gpt2(size)),
    "neox": lambda size: decoder(neox(size)),
    "phi": lambda size: decoder(phi(size)),
    "phi3_cache": lambda size: cached(phi3(size)),
    "falcon": lambda size: decoder(falcon(size)),
    "bloom": lambda size: decoder(bloom(size)),
    "gemma2": lambda size: decoder(gemma2(size)),
    "qwen3_cache": lambda size: cached(qwen3(size)),
    "opt": lambda size: decoder(opt(size)),
    "mixtral": lambda size: decoder(mixtral(size)),
    "bert": bert,
    "vit": vit,
    "resnet": resnet,
    "convnext": convnext,
    "swin": swin,
}
"""Models that torch.onnx.export writes, by the name of their file."""

GENAI = {
    f"{name}_genai_{precision}": (config, precision)
    for name, config in {"llama": llama, "qwen2": qwen}.items()
    for precision in ("fp32", "int4")
}
"""Models of onnxruntime-genai's builder: the configuration and the precision."""


def export(name: str, size: Size, path: Path) -> None:
    """Write a model by torch.onnx.export."""
    given = TORCH[name](size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            given.model,
            (),
            str(path),
            kwargs=given.inputs,
            input_names=_input_names(given.inputs),
            output_names=given.outputs,
            dynamic_shapes=given.open_dims,
            dynamo=True,
            verbose=False,
        )


def _input_names(inputs: Mapping[str, Any]) -> list[str]:
    names = [name for name in inputs if name != "past"]
    layers = range(len(inputs.get("past", ())))
    return [*names, *(f"past.{k}.{part}" for k in layers for part in ("key", "value"))]


def build(name: str, size: Size, path: Path) -> None:
    """Write a model by onnxruntime-genai's builder; int4 products keep float32 activations."""
    config, precision = GENAI[name]
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "source"), Path(folder, "made")
        plain = transformers.AutoModelForCausalLM.from_config(config(size))
        randomise(plain).save_pretrained(source)
        _save_tokenizer(source)
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source)]
        command += ["-o", str(made), "-e", "cpu", "-p", precision, "-c", folder]
        command += ["--extra_options", "hf_token=false"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the builder failed at {name}:\n{done.stderr}")
        data = path.with_name(f"{path.name}.data")
        data.unlink(missing_ok=True)  # onnx would append to it
        model = onnx.load(made / "model.onnx")
        _keep_activations(model)
        onnx.save(model, path, save_as_external_data=True, location=data.name)


def _keep_activations(model: onnx.ModelProto) -> None:
    """Let int4 products compute in float32: rounded to int8, activations differ by 1e-2 anyway."""
    for node in model.graph.node:
        for entry in node.attribute:
            if entry.name == "accuracy_level":
                entry.i = 1


def _save_tokenizer(folder: Path) -> None:
    """The builder copies a tokenizer: one of a single word does."""
    plain = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; without any, all")
    parser.add_argument("-o", "--output", type=Path, help="the folder to write to")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=390)
    given = parser.parse_args()
    known = [*TORCH, *GENAI]
    if given.list:
        print("\n".join(known))
        return 0
    unknown = [name for name in given.names if name not in known]
    if unknown or given.output is None:
        parser.error(f"no model {unknown[0]!r}; see --list" if unknown else "-o DIR is missing")
    size = Size(given.hidden, given.layers, given.heads, given.kv_heads, given.vocabulary)
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.names or known:
        path = given.output / f"{name}.onnx"
        (export if name in TORCH else build)(name, size, path)
        print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
