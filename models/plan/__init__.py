"""A plan: what one rank does, instruction by instruction, to run a graph that communicates.

instructions  what there is to do, and plans made of it
planner       the plan of a model
control       the instructions of nodes that hold bodies
bodies        bodies as models of their own
seal          what tells whether a file still has the communication that it was made with
"""

from .instructions import (
    Branch,
    Communicate,
    Compute,
    Control,
    Instruction,
    ParallelFor,
    Plan,
    Repeat,
    Scan,
    every_step,
    outline,
)
from .planner import build_plan, check_whole, communicates, communicates_within, sealed

__all__ = [
    "Branch",
    "Communicate",
    "Compute",
    "Control",
    "Instruction",
    "ParallelFor",
    "Plan",
    "Repeat",
    "Scan",
    "build_plan",
    "check_whole",
    "communicates",
    "communicates_within",
    "every_step",
    "outline",
    "sealed",
]
