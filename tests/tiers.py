"""What `make test` leaves to `make slow` and to `make thorough`.

Each tier is a list of names in a file beside this one; a name without brackets stands for all cases of the test, a star
for all tests of the file. A test that no list names is run by `make test`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["TIERS", "tier_of"]

TIERS = {
    tier: frozenset(Path(__file__).with_name(f"{tier}.txt").read_text(encoding="utf-8").splitlines())
    for tier in ("thorough", "slow")
}
"""By tier the names of its tests; of two tiers that name a test it belongs to the first."""


def tier_of(node: str) -> str | None:
    """Return the tier of the test with this node id; None: `make test`."""
    names = {node, node.partition("[")[0], f"{node.partition('::')[0]}::*"}
    return next((tier for tier, listed in TIERS.items() if not names.isdisjoint(listed)), None)
