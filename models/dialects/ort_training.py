"""onnxruntime's operators for training in com.microsoft: messages in a chain of signals, and NCCL.

Signals are tokens. The gathering and the scattering one take all gradients or weights of a model
at once, laid end to end; each tensor lies in the part of one rank, its owner. So they are a
broadcast of each from its owner, and a reduction of each to its owner.
"""

from .dialect import ABSENT, Attribute, Dialect, Form

TAG = {"tag": Attribute("tag")}

GROUP = {"group_type": Attribute("axis_name", 0, {0: ABSENT, 1: "dp", 4: "tp"})}
"""All ranks, those that hold the same weights, those that share each layer. Groups that follow the
nodes of a cluster have no name here."""

ORT_TRAINING = Dialect(
    "ort-training",
    ("com.microsoft",),
    {
        "Send": (Form("Send", ("token", "dest", "X..."), ("token",), TAG, kinds="element_types"),),
        "Recv": (
            Form(
                "Recv", ("token", "source"), ("token", "Y..."), TAG,
                kinds="element_types", unsaid=("shape",),
            ),
        ),
        "NcclAllReduce": (
            Form("AllReduce", ("X...",), ("Y...",), GROUP, fixed={"op": "sum"}),
        ),
        "NcclAllGather": (Form("Broadcast", ("X...",), ("Y...",), GROUP, is_owned=True),),
        "NcclReduceScatter": (
            Form("Reduce", ("X...",), ("Y...",), GROUP, fixed={"op": "sum"}, is_owned=True),
        ),
    },
)  # fmt: skip
