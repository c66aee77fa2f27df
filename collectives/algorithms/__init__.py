"""Collective algorithms as schedules, one family to a module.

In the docstrings p is the number of ranks, n the bytes of the whole vector (of all p blocks), and
lg the binary logarithm. Bytes are those that the busiest rank sends, for blocks of equal size.
"""
