"""What a dialect is: other systems' communication operators, each as a form of one of ours.

A dialect is a literal table. A form names our operator, says what each input, output and attribute
of theirs is in ours, and how they write which ranks take part. Reading and writing follow the
table; a node that no form fits is not touched, or refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import onnx
from onnx import NodeProto

from ..nodes import attribute

PRESENT = object()
"""Of a condition: the attribute is there, whatever its value."""

SELF = object()
"""Of what is written: the number of this rank."""

ABSENT = object()
"""Of values: ours is left out where theirs has this value."""


class Attribute(NamedTuple):
    """What an attribute of theirs is in ours."""

    ours: str
    """an attribute, or the rank that a message goes to or comes from: dest, source"""
    default: Any = None
    """theirs where a node does not say; None: ours is left out then"""
    values: Mapping[Any, Any] | None = None
    """theirs to ours; None: they are the same"""


@dataclass(frozen=True)
class Form:
    """How an operator of a dialect is said in ours.

    `inputs` and `outputs` name theirs in order: X the operand, Y the result, dest or source the
    other rank, token what orders. The last may end in "..." and stands for any number: there is
    one node of ours for each.
    """

    op: str
    inputs: tuple[str, ...] = ("X",)
    outputs: tuple[str, ...] = ("Y",)
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """attributes of ours that it always has"""
    when: Mapping[str, Any] = field(default_factory=dict)
    """attributes of theirs that tell it from other forms of the same name"""
    ignored: Mapping[str, Any] = field(default_factory=dict)
    """attributes of theirs that say nothing here, and what is written"""
    counts: Mapping[str, int] = field(default_factory=dict)
    """attributes of theirs with the number of ranks, and their defaults; 0 is all"""
    total: str = ""
    """the one of these that is always that of all ranks, if there is one"""
    members: str = ""
    """the attribute of theirs that lists the ranks, if there is one"""
    kinds: str = ""
    """the attribute of theirs that lists the element type of each tensor, if there is one"""
    unsaid: tuple[str, ...] = ()
    """attributes of ours that only check or advise, and that they cannot say"""
    is_flat: bool = False
    """it cuts all elements in the order in which they lie, not those of a dim"""
    is_owned: bool = False
    """each tensor has an owner, by its place among all of them: the root of ours"""
    is_pieces: bool = False
    """the results are pieces, which ours concatenates"""

    def fits(self, node: NodeProto) -> bool:
        """Say whether a node of that name has this form."""
        takes_any = bool(self.inputs) and self.inputs[-1].endswith("...")
        if len(node.input) > len(self.inputs) and not takes_any:
            return False
        found = {name: attribute(node, name) for name in self.when}
        return all(
            found[name] is not None if wanted is PRESENT else found[name] == wanted
            for name, wanted in self.when.items()
        )


@dataclass(frozen=True)
class Dialect:
    """The communication operators of one system."""

    name: str
    domains: tuple[str, ...]
    """where they are found; the first is written"""
    forms: Mapping[str, tuple[Form, ...]]
    """by operator"""
    written_out: Mapping[str, Callable[[NodeProto, str], Iterator[NodeProto]]] = field(
        default_factory=dict
    )
    """operators that are several nodes: yields them, given a name to put before theirs"""
    functions: Mapping[str, str] = field(default_factory=dict)
    """the text of those operators that are functions of others"""

    def speaks(self, node: NodeProto) -> bool:
        """Say whether a node of that name is this dialect's: also one that no form fits."""
        if node.op_type in self.written_out:
            return True
        forms = self.forms.get(node.op_type, ())
        # Some names are also those of operators of ai.onnx, which are left alone.
        return any(form.fits(node) for form in forms) or (
            bool(forms) and not onnx.defs.has(node.op_type, domain=node.domain)
        )


def single(word: str) -> str:
    """Return a word of inputs or outputs without its dots."""
    return word.removesuffix("...")
