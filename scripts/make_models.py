"""Make small ONNX models of known architectures: python scripts/make_models.py -o DIR [NAME ...]

Random weights, nothing from the network. `NAME` is one of --list: models of transformers, written
by torch.onnx.export, and some by the builder of onnxruntime-genai. An environment of its own:

    pip install torch==2.13.0 transformers onnxscript onnxruntime-genai
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    import onnx
    import torch
    import transformers
    from architectures import GENAI, TORCH, Size
    from exports import randomise
    from tokenizers import Tokenizer, models
except ImportError as error:
    sys.exit(
        f"{error.name} is missing: pip install torch==2.13.0 transformers onnxscript "
        "onnxruntime-genai"
    )

BUILDER_S = 600
"""For onnxruntime-genai's builder to write a model."""


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
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=BUILDER_S, check=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"the builder failed at {name}:\n{error.stderr}")
        except subprocess.TimeoutExpired:
            sys.exit(f"the builder took more than {BUILDER_S} s at {name}")
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
