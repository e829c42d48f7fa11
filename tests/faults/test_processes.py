"""Processes that are killed, halted, and whose clocks are wrong; among them all of Postgres."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.reduced import SMALL, survived
from tests.faults.server import Server
from tests.hunt.racing import SEED

pytestmark = pytest.mark.hunt


@pytest.mark.parametrize(
    "faults",
    [["kill-server", "freeze-node"], ["kill-node", "kill-writer", "kill-reader", "move-clock"]],
    ids=["server", "clients"],
)
async def test_whoever_is_killed_or_halted_nothing_is_lost_doubled_or_out_of_order(
    own: Server, tmp_path: Path, faults: list[str]
) -> None:
    assert await survived(own, tmp_path, faults, replace(SMALL, readers=2)) == {}, f"HUNT_SEED={SEED}"
