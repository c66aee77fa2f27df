"""Collectives as ONNX functions over Send and Recv.

ring      one that is generic in rank and size: a loop, and integer arithmetic
writer    nodes, written one after another
lowering  one rank's part of any schedule
"""
