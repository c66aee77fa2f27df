"""The proof before the run: the plans of all ranks, taken as one program.

values     what is known of a tensor
transfer   what a compute node makes of what is known
events     what a rank communicates
program    a rank's plan, run on what is known
flow       branches and loops
match      the communications of all ranks, matched
alone      one rank's call by itself
calls      one collective, as its ranks call it
order      all collectives of a group
stuck      why ranks do not go on
findings   what is wrong
slim       a plan without large tensors
proof      the passes over all programs
"""

from .findings import Finding, Verdict
from .proof import check
from .slim import slim

__all__ = ["Finding", "Verdict", "check", "slim"]
