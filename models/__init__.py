"""ONNX graphs as data. Knows no MPI and no onnxruntime.

Graphs:         graph, imports, nodes, bodies, ordering, weights, states, builder, files
What is known:  shapes, body_shapes, scans, contrib, known
Communication:  opset, effects, tokens, groups, mesh, meshes, parallel, unrolling, representations,
                calls
plan/           what one rank does, instruction by instruction
check/          whether the plans of all ranks fit
functions/      collectives as functions over Send and Recv
dialects/       communication of other systems, and ONNX's device configurations
placing/        tensors cut over devices in any way, and from one way to another
sharding/       an ONNX graph in, one for each rank out
zoo/            models to try it on
"""
