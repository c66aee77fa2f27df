"""The seal of a file: how many nodes communicate, and a digest of which, in which order.

It lies in metadata_props["rankwise.effects"] of what we write. Optimizers know nothing of effects:
they take away a Send that nobody reads, and make one AllReduce of two. A plan that is not that of
the seal is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from onnx import ModelProto

from ..errors import ModelError
from .instructions import Communicate, Compute, Plan, bodies_of

KEY = "rankwise.effects"


def seal(plan: Plan) -> str:
    """Return the seal of a plan: the number of effects, bodies included, and a digest."""
    effects = list(_effects(plan))
    digest = hashlib.sha256("\n".join(effects).encode()).hexdigest()
    return f"{len(effects)} {digest[:16]}"


def _effects(plan: Plan, within: str = "") -> Iterator[str]:
    """Yield a line for each effect, those of bodies after the node that has them."""
    for step in plan.instructions:
        if isinstance(step, Compute) or step.op in ("Rank", "Size"):
            continue
        attributes = sorted(step.attributes.items()) if isinstance(step, Communicate) else ()
        yield f"{within}{step.op} {step.node_name!r} {attributes!r}"
        for number, body in enumerate(bodies_of(step)):
            yield from _effects(body, f"{within}{step.node_name}.{number} > ")


def seal_of(model: ModelProto) -> str | None:
    """Return the seal that a model has, None without one."""
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def set_seal(model: ModelProto, text: str | None) -> None:
    """Put a seal on a model, in place of the one that it has, or take it away."""
    for entry in [entry for entry in model.metadata_props if entry.key == KEY]:
        model.metadata_props.remove(entry)
    if text is not None:
        model.metadata_props.add(key=KEY, value=text)


def check_seal(plan: Plan) -> None:
    """Raise ModelError for a plan that is not that of its model's seal."""
    wanted = seal_of(plan.model)
    if wanted is None or wanted == (found := seal(plan)):
        return
    first, second = wanted.split(" ")[0], found.split(" ")[0]
    counts = f"expected the {first} nodes that communicate when the file was made, got {second}"
    if first == second:
        counts = f"the {first} nodes that communicate are not those of when the file was made"
    raise ModelError(
        f"{counts}: something has removed, doubled, renamed or reordered them; "
        "make the file again from its source"
    )
