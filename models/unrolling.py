"""ParallelFor taken apart: its body where it stands, for the one id that each rank has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto, helper

from .errors import ModelError
from .nodes import copied, label, renamed
from .opset import DOMAIN, GROUP, is_ours
from .parallel import PARALLEL_FOR, parallel_attributes


class Unroller:
    """Puts the body of a ParallelFor where it stands: every rank has one id, its rank."""

    def __init__(
        self, constants: Mapping[str, int], sizes: Collection[str], ranks: int | None
    ) -> None:
        """Take integers by name, the names of what is the number of all ranks, and that number."""
        self._constants, self._sizes, self._ranks, self._made = constants, sizes, ranks, 0

    def unrolled(self, node: NodeProto) -> list[NodeProto]:
        """Return what takes the place of a node: itself, if it is no ParallelFor.

        Raises ModelError for a count that is not the number of ranks, or that is not known, and
        for a body that does not fit.
        """
        if not is_ours(node) or node.op_type != PARALLEL_FOR:
            return [node]
        values = parallel_attributes(node)
        group = self._group(node, {name: values[name] for name in GROUP if name in values})
        self._made += 1
        stem = f"{node.name or PARALLEL_FOR}.{self._made}"
        body: GraphProto = values["body"]
        number, *formal = [value.name for value in body.input]
        made = {name for inner in body.node for name in inner.output if name}
        made |= {weight.name for weight in body.initializer}
        made |= {weight.values.name for weight in body.sparse_initializer}
        names = {name: f"{stem}/{name}" for name in (number, *made)}
        names |= dict(zip(formal, node.input[1:], strict=True))
        how = {"root": 0} if values["returns"] == "first" else {"dim": values["dim"]}
        op = "Broadcast" if values["returns"] == "first" else "AllGather"
        results = zip(body.output, node.output, strict=True)
        return [
            ours("Rank", [], [names[number]], f"{stem}/id", **group),
            *(_weight(weight, names[weight.name]) for weight in body.initializer),
            *(_sparse(weight, names[weight.values.name]) for weight in body.sparse_initializer),
            *(_inlined(inner, names, stem) for inner in body.node),
            *(
                ours(op, [names.get(v.name, v.name)], [out], f"{stem}/{out}", **how, **group)
                for v, out in results
                if out
            ),
        ]

    def _group(self, node: NodeProto, group: dict[str, Any]) -> dict[str, Any]:
        """Return the group of all that takes part, which has a rank for each id."""
        if node.input[0] in self._sizes and not group:
            return {}
        count = self._constants.get(node.input[0])
        size = group.get("group_size", len(group.get("groups", ()))) or self._ranks
        if count is None or "axis_name" in group or (size is not None and size != count):
            raise ModelError(
                f"{label(node)}: expected an id for each rank of the group, of which there are "
                f"{size or 'unknown'}, got a count of {'unknown' if count is None else count}"
            )
        # Where it is not known how many ranks there are, other numbers of them are refused.
        everyone = {"groups": list(range(count)), "group_size": count}
        return group or ({} if self._ranks == count else everyone)


def _inlined(node: NodeProto, names: Mapping[str, str], stem: str) -> NodeProto:
    """Return a node of a body under other names, its own among them."""
    made = copied(renamed(node, names))
    made.name = f"{stem}/{node.name}" if node.name else ""
    return made


def _weight(tensor: TensorProto, name: str) -> NodeProto:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"weight {tensor.name!r} of a body lies in a file; keep it in the graph")
    return helper.make_node("Constant", [], [name], value=tensor)


def _sparse(tensor: SparseTensorProto, name: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], sparse_value=tensor)


def ours(
    op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **values: Any
) -> NodeProto:
    """Return a node of domain rankwise."""
    return helper.make_node(op, list(inputs), list(outputs), name, domain=DOMAIN, **values)
