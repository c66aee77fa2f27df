"""TensorRT's DistCollective, as Polygraphy writes it and TensorRT's parser reads it.

One operator, in the default domain, for all collectives; they work along dim 0.
"""

from typing import Any

from .dialect import Attribute, Dialect, Form

REDUCE_OP = {
    "reduce_op": Attribute(
        "op", "sum", {"sum": "sum", "prod": "prod", "max": "max", "min": "min", "avg": "mean"}
    )
}
ROOT = {"root": Attribute("root", 0)}
NO_ROOT = {"root": -1}
NO_OP = {"reduce_op": "none"}


def form(op: str, operation: str, **fields: Any) -> Form:
    return Form(
        op,
        when={"collective_operation": operation},
        counts={"group_size": 0, "nb_rank": 0},
        total="nb_rank",
        members="groups",
        **fields,
    )


TENSORRT = Dialect(
    "tensorrt",
    ("",),
    {
        "DistCollective": (
            form("AllReduce", "all_reduce", attributes=REDUCE_OP, ignored=NO_ROOT),
            form("AllGather", "all_gather", fixed={"dim": 0}, ignored=NO_ROOT | NO_OP),
            form("Broadcast", "broadcast", attributes=ROOT, ignored=NO_OP),
            form("Reduce", "reduce", attributes=ROOT | REDUCE_OP),
            form(
                "ReduceScatter", "reduce_scatter",
                attributes=REDUCE_OP, fixed={"dim": 0}, ignored=NO_ROOT,
            ),
            form(
                "AllToAll", "all_to_all",
                fixed={"split_dim": 0, "concat_dim": 0}, ignored=NO_ROOT | NO_OP, is_flat=True,
            ),
            form("Gather", "gather", attributes=ROOT, fixed={"dim": 0}, ignored=NO_OP),
            form("Scatter", "scatter", attributes=ROOT, fixed={"dim": 0}, ignored=NO_OP),
        )
    },
)  # fmt: skip
