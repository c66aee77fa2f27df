"""What can be wrong with a model, a mesh or a sharding.

ValueError
    ModelError        a file that is no model that we can read
    MeshError         a mesh that cannot be read or does not fit
        MemoryLimitError  a rank of it would hold more than it may
    HintError         a hint that cannot be read, matches nothing, or cannot be kept
    PlacementError    a placement of blocks on devices that is none, or that breaks a rule
RuntimeError
    NothingToShard    a sharding that would leave all the work on every rank
"""


class ModelError(ValueError):
    """Report a model file that is missing parts, truncated, or beyond what onnxruntime takes."""


class MeshError(ValueError):
    """Report a mesh that cannot be read, or that does not fit the number of ranks."""


class MemoryLimitError(MeshError):
    """Report a mesh on which a rank holds more weights than it may, whatever is cut."""


class HintError(ValueError):
    """Report a hint that cannot be read, that matches nothing, or that cannot be kept, and why."""


class PlacementError(ValueError):
    """Report a placement of blocks on devices that is none, or that breaks a rule."""


class NothingToShard(RuntimeError):  # noqa: N818  (it names the answer, not a mistake)
    """Report that no factor of a graph can be split over the ranks that were asked for."""
