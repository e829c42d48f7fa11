"""Transactions that hold up the log, prepared ones and those of other databases, and a full queue of notifications."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.reduced import survived
from tests.faults.server import Server
from tests.hunt.racing import SEED

pytestmark = pytest.mark.hunt


async def test_whatever_stays_open_nothing_is_lost_doubled_or_out_of_order(own: Server, tmp_path: Path) -> None:
    faults = ["idle-transaction", "prepared-transaction", "foreign-transaction", "fill-queue"]
    assert await survived(own, tmp_path, faults) == {}, f"HUNT_SEED={SEED}"
