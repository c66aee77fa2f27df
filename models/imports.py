"""The operator sets that a model imports."""

from __future__ import annotations

from onnx import ModelProto, helper

from .nodes import with_inner
from .opset import DOMAIN


def with_imports(model: ModelProto) -> ModelProto:
    """Return a model that imports ours and every domain that it uses.

    onnxruntime's own are often left out, or written with a dot before them.
    """
    made = ModelProto()
    made.CopyFrom(model)
    for holder, nodes in ((made, made.graph.node), *((f, f.node) for f in made.functions)):
        kept = {_plain(e.domain): e.version for e in holder.opset_import}
        used = {DOMAIN, *(_plain(node.domain) for node in with_inner(nodes))}
        del holder.opset_import[:]
        for domain, version in (dict.fromkeys(sorted(used), 1) | kept).items():
            holder.opset_import.append(helper.make_opsetid(domain, version))
    return made


def _plain(domain: str) -> str:
    domain = domain.removeprefix(".")
    return "" if domain == "ai.onnx" else domain
