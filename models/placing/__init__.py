"""Tensors cut over devices in any way, and what is computed on them.

placement   which block of a tensor each device holds
resharding  from one placement to another: who sends what to whom
exchanges   those that one collective does
moving      a resharding as nodes of one rank
cuts        where one node is computed, and which part each device has
choosing    what of a node is cut, given how its tensors are to lie
node        one node on one device
rank_graph  the graph of one rank while it is written
lower       a graph whose tensors are placed, as that of one rank
file        the same as a file, its weights beside it
"""
