"""Runs graphs on ranks: the only room that knows both MPI and onnxruntime."""
