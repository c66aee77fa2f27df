"""What is known of an operator: how it ties its dims, and what of it changes on a rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..rewrite import Call, Local, ScanWriter
from ..site import Site, Tie


def _unchanged(local: Local) -> Call:
    return local.unchanged()


class Rule(NamedTuple):
    """How an operator ties its dims, and what of it changes on a rank."""

    tie: Tie
    localize: Callable[[Local], Call] = _unchanged
    reason: str | None = None
    """why it is computed whole, whatever its shapes are"""
    write_out: Callable[[ScanWriter, Site], Sequence[str]] | None = None
    """writes a node that gathers by itself; returns the names of its outputs"""


def whole(reason: str) -> Rule:
    """Return the rule of an operator that is computed whole, and why."""
    return Rule(_untied, reason=reason)


def _untied(site: Site) -> None:
    """Say nothing of any dim: all are needed whole."""


def each(names: str, rule: Rule) -> dict[str, Rule]:
    """Give several operators the same rule."""
    return dict.fromkeys(names.split(), rule)
