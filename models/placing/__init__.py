"""Placements of tensors on devices: moving between them, and nodes that compute on them."""
