"""Architectures of transformers, as large as they are asked to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers
from exports import Export, cached, decoder, encoder, of_pixels


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

    @property
    def grouped(self) -> dict[str, Any]:
        """Those, where several queries share a head of keys and values."""
        return {**self.decoder, "num_key_value_heads": self.kv_heads}


def llama(size: Size) -> Any:
    return transformers.LlamaConfig(**size.grouped)


def qwen(size: Size) -> Any:
    """Biases on queries, keys and values, and tied embeddings."""
    return transformers.Qwen2Config(**size.grouped, tie_word_embeddings=True)


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
        **size.grouped,
        num_local_experts=6,
        experts_implementation="batched_mm",
    )


def phi3(size: Size) -> Any:
    """Queries, keys and values in one matrix, gate and up in another."""
    return transformers.Phi3Config(**size.grouped, pad_token_id=0)


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
        **size.grouped,
        head_dim=size.hidden // size.heads,
        sliding_window=6,
    )


def qwen3(size: Size) -> Any:
    """Norms of every head."""
    return transformers.Qwen3Config(
        **size.grouped,
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
    return encoder(transformers.BertConfig(**size.decoder))


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
    return of_pixels(model, {0: "batch"})


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
    return of_pixels(model, {0: "batch", 2: "height", 3: "width"})


def convnext(size: Size) -> Export:
    """Convolutions by channel, and a scale of each branch."""
    config = transformers.ConvNextConfig(
        hidden_sizes=[size.hidden // 2, size.hidden, size.hidden, 2 * size.hidden],
        depths=[1, 1, size.layers, 1],
        num_labels=10,
    )
    model = transformers.ConvNextForImageClassification(config)
    return of_pixels(model, {0: "batch"})


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
    return of_pixels(transformers.SwinForImageClassification(config), {0: "batch"})


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
