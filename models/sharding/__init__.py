"""Sharding: an ONNX graph in, one ONNX graph per rank out.

axes        what dims are made of, and how two of them become one
window      how a kernel goes over the places of an image
site        a node as its rule sees it
rules/      one line per operator, or why there is none
decompose   operators written out as functions of others
coverage    what is done with each operator of a set
analysis    the axes of a whole graph
workload    what a node computes and reads, whole and on one rank
machine     how long that takes, and how long collectives
exchanges   collectives of nodes that communicate in every step of a sequence
candidates  atoms that could be sharded: what they save, what they move, which exclude each other
independent the best of things that exclude each other, exactly
hints       what a person asks of the choice
asked       the same in a model, for ranks that cut as they load
search      the choice among the candidates
heads       groups of queries, where they are fewer than the ranks
kept        states that stay on their ranks from run to run
levels      the places of an image at several resolutions
layout      which indices of a dim a rank holds
halo        what a kernel reads of the places that other ranks have
relayout    between whole and sharded, by nodes of the graph
scopes      where a rank's graph holds its tensors: outside, or in a body
declared    what is told of their sizes
local_site  a node while it is written for one rank
partials    sums that are reduced once they have met
regions     what could run on each rank's rows, between sums
sequence    what of it does: sequence parallelism
part        what one rank runs, and holds
emission    its nodes, and what their communication weighs
holding     its tensors: whole, in part or as a summand
partition   the graph of one rank
rows        a rank's rows, as nodes
spread/     stages and replicas, the other axes of a mesh
plan        the choices for a graph and a mesh, and the best mesh
prediction  what a sharding is predicted to take
write       files and manifest
prices      what became of each candidate and each operator, and why
report      what a person reads of a model and of a choice
"""

from .report import describe, preview
from .write import plan, shard, shard_rank

__all__ = ["describe", "plan", "preview", "shard", "shard_rank"]
