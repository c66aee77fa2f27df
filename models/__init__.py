"""ONNX graphs as data: builders, sharding, plans. Knows no MPI and no onnxruntime."""
