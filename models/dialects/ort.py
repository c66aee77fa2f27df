"""onnxruntime's collectives in com.microsoft, which its CUDA builds with NCCL run.

Sums over all ranks. Where a node names no axis, onnxruntime fills in its schema's default, 1,
before shapes are inferred and kernels are made, whatever their own defaults are.
"""

from .dialect import Attribute, Dialect, Form
from .sharded_moe import written_out

COUNT = {"group_size": 1}

ORT = Dialect(
    "ort",
    ("com.microsoft",),
    {
        "AllReduce": (Form("AllReduce", ("X...",), ("Y...",), fixed={"op": "sum"}),),
        "AllGather": (
            Form(
                "AllGather", ("X...",), ("Y...",), {"axis": Attribute("dim", 1)}, counts=COUNT
            ),
        ),
        "AllToAll": (
            Form(
                "AllToAll", ("X...",), ("Y...",),
                fixed={"split_dim": 0, "concat_dim": 0}, counts=COUNT, is_flat=True,
            ),
        ),
    },
    written_out={"ShardedMoE": written_out},
)  # fmt: skip
