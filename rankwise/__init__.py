"""Run ONNX models across MPI processes, with collectives of its own.

The three rooms, in the order in which they may import each other:

    rankwise.collectives    bytes between ranks; knows no ONNX
    rankwise.models         ONNX graphs as data; knows no MPI and no onnxruntime
    rankwise.runtime        runs graphs on ranks

Importing this package loads neither MPI nor onnxruntime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runtime.session import InferenceSession

__version__ = "0.1.0"
__all__ = ["InferenceSession", "__version__"]


def __getattr__(name: str) -> object:
    if name == "InferenceSession":
        from .runtime.session import InferenceSession

        return InferenceSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
