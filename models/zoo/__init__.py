"""Models that are built here, with weights given or drawn; each builder returns a ModelProto.

`python -m rankwise.models.zoo` writes them to files.
"""
