"""Programs of several ranks, written as ONNX text, and what they check to."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, helper, parser

from rankwise.models.check import Verdict, check
from rankwise.models.plan import build_plan

HEADER = '<ir_version: 10, opset_import: ["" : 20, "rankwise" : 1]>'
ENDS = "(float[4] x) => (y)"


def model(body: str, ends: str = ENDS, mesh: str | None = None) -> ModelProto:
    """Parse one rank's graph; `R.` stands for our domain, FLOAT for its element type."""
    text = body.replace("R.", "rankwise.").replace("FLOAT", "dtype = 1")
    made = parser.parse_model(f"{HEADER} g {ends} {{ {text} }}")
    if mesh is not None:
        helper.set_model_props(made, {"rankwise.mesh": mesh})
    return made


def models(bodies: str | Sequence[str], ranks: int = 2, ends: str = ENDS) -> list[ModelProto]:
    """Parse the graphs of all ranks; one body is that of all."""
    if isinstance(bodies, str):
        return [model(bodies, ends)] * ranks
    return [model(body, ends) for body in bodies]


def checked(
    bodies: str | Sequence[str], ranks: int = 2, ends: str = ENDS, *, rendezvous: bool = False
) -> Verdict:
    """Check a program."""
    plans = [build_plan(one) for one in models(bodies, ranks, ends)]
    return check(plans, rendezvous=rendezvous)
