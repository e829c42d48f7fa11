"""Connections that are cut, half-open, slow, late and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.reduced import survived
from tests.faults.server import Server
from tests.hunt.racing import SEED

pytestmark = pytest.mark.hunt


@pytest.mark.parametrize(
    "faults",
    [["cut-inside", "refuse"], ["cut", "stall", "end-backends"], ["slow", "delay", "lose", "vanish"]],
    ids=["short", "hasty", "patient"],
)
async def test_whatever_happens_to_connections_nothing_is_lost_doubled_or_out_of_order(
    own: Server, tmp_path: Path, faults: list[str]
) -> None:
    assert await survived(own, tmp_path, faults) == {}, f"HUNT_SEED={SEED}"
