"""What is done with each operator of an operator set."""

from __future__ import annotations

from onnx import defs

from .decompose import DECOMPOSED
from .rules import find_rule

RULE, BODY, WHOLE, UNKNOWN = "rule", "written out", "whole, for a reason", "nothing known"


def domains() -> list[str]:
    """Return the operator sets that onnx has schemas of, our own left out."""
    found = {schema.domain for schema in defs.get_all_schemas()}
    return sorted(domain for domain in found if not domain.startswith("rankwise"))


def coverage(domain: str) -> dict[str, list[str]]:
    """Return the operators of a domain, deprecated ones too, by what is done with them."""
    names = sorted({s.name for s in defs.get_all_schemas() if s.domain == domain})
    found: dict[str, list[str]] = {RULE: [], BODY: [], WHOLE: [], UNKNOWN: []}
    for name in names:
        found[_treatment(domain, name)].append(name)
    return found


def _treatment(domain: str, name: str) -> str:
    if not domain and name in DECOMPOSED:
        return BODY
    rule = find_rule(domain, name)
    if rule is None:
        return UNKNOWN
    return RULE if rule.reason is None else WHOLE
