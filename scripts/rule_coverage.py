"""Print how much of each operator set is covered by rules of sharding.

    python scripts/rule_coverage.py            # counts
    python scripts/rule_coverage.py --names    # and the operators

Exit code 1 if an operator of ai.onnx has no rule, no body and no reason.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rankwise.models.sharding.coverage import UNKNOWN, coverage, domains
from rankwise.models.sharding.rules import find_rule
from rankwise.models.table import aligned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", action="store_true", help="name the operators")
    given = parser.parse_args()
    found = {domain: coverage(domain) for domain in domains()}
    kinds = list(found[""])
    rows: list[Sequence[object]] = [("domain", *kinds)]
    rows += [(domain or "ai.onnx", *map(len, kind.values())) for domain, kind in found.items()]
    print(aligned(rows))
    if given.names:
        for domain, by_kind in found.items():
            for kind, names in by_kind.items():
                for name in names:
                    rule = find_rule(domain, name)
                    why = f" ({rule.reason})" if rule and rule.reason else ""
                    print(f"{domain or 'ai.onnx'}: {name}: {kind}{why}")
    return 1 if found[""][UNKNOWN] else 0


if __name__ == "__main__":
    sys.exit(main())
