"""The names that ONNX's working group on several devices has listed.

It has settled neither a domain nor attributes: the default domain, and the words of ai.onnx. Its
TensorScatter takes one tensor, that of ai.onnx three. One operator it wished to be a function.
"""

from .dialect import Attribute, Dialect, Form

TAG = {"tag": Attribute("tag", 0)}
AXIS = {"axis": Attribute("dim", 0)}
ROOT = {"root": Attribute("root", 0)}
REDUCTION = {"reduction": Attribute("op", "sum")}
TYPE = {"dtype": Attribute("dtype")}

WORKING_GROUP = Dialect(
    "working-group",
    ("", "rankwise"),
    {
        "TensorSend": (Form("Send", ("X", "dest"), (), TAG),),
        "TensorRecv": (
            Form("Recv", ("source",), ("Y",), TAG | TYPE | {"shape": Attribute("shape")}),
        ),
        "TensorScatter": (Form("Scatter", attributes=AXIS | ROOT | TYPE),),
        "TensorAllGather": (Form("AllGather", attributes=AXIS),),
        "TensorAllReduce": (Form("AllReduce", attributes=REDUCTION),),
        "TensorAllScatterReduce": (Form("ReduceScatter", attributes=REDUCTION | AXIS),),
    },
    functions={
        "TensorAllScatterReduce": """
            <domain: "", opset_import: ["" : 13]>
            TensorAllScatterReduce <reduction, axis> (X) => (Y) {
                total = TensorAllReduce <reduction = @reduction> (X)
                Y = TensorScatter <axis = @axis> (total)
            }"""
    },
)  # fmt: skip
