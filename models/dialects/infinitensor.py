"""InfiniTensor's communication operators, in the default domain.

The other rank of a message is an attribute, and AllGather gives the tensor of each rank by itself.
"""

from .dialect import PRESENT, SELF, Attribute, Dialect, Form

ALL_REDUCE = {"sum": "Sum", "prod": "Prod", "min": "Min", "max": "Max", "mean": "Avg"}

INFINITENSOR = Dialect(
    "infinitensor",
    ("",),
    {
        **{
            f"AllReduce{name}": (Form("AllReduce", fixed={"op": op}),)
            for op, name in ALL_REDUCE.items()
        },
        "ReduceSum": (
            Form(
                "AllReduce", fixed={"op": "sum"}, when={"communicator": PRESENT},
                ignored={"communicator": 0},
            ),
        ),
        "AllGather": (
            Form("AllGather", outputs=("Y...",), fixed={"dim": 0}, is_pieces=True),
        ),
        "Broadcast": (Form("Broadcast", attributes={"root": Attribute("root", 0)}),),
        "Send": (
            Form(
                "Send", outputs=(), attributes={"destination": Attribute("dest")},
                fixed={"tag": 0}, ignored={"source": SELF},
            ),
        ),
        "Recv": (
            Form(
                "Recv", (),
                attributes={
                    "source": Attribute("source"),
                    "dataType": Attribute("dtype"),
                    "shape": Attribute("shape"),
                },
                fixed={"tag": 0}, ignored={"destination": SELF},
            ),
        ),
    },
)  # fmt: skip
