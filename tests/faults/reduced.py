"""A campaign of a few seconds: some faults, one after the other, on few processes; the same checker as the soak's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.campaign import Campaign, Scale, campaign
from tests.faults.server import Server
from tests.faults.soak import strike
from tests.hunt.racing import SEED

__all__ = ["SMALL", "survived", "working"]

SMALL = Scale(nodes=2, writers=2, readers=1, rate=30, lease_ttl=1.5)


@asynccontextmanager
async def working(server: Server, directory: Path, scale: Scale = SMALL) -> AsyncIterator[Campaign]:
    """A campaign in which everybody works; the seed is printed."""
    print(f"HUNT_SEED={SEED}")
    async with asyncio.timeout(600), campaign(server, directory, SEED, scale) as field:
        await field.start_all()
        await field.goes_on()
        yield field


async def survived(
    server: Server, directory: Path, faults: Sequence[str], scale: Scale = SMALL
) -> dict[str, list[str]]:
    """Let each of *faults* come once, in an order of the seed's; returns the anomalies."""
    async with working(server, directory, scale) as field:
        strikes = await strike(field, random.Random(SEED).sample(faults, len(faults)))
        assert {name: fault.times for name, fault in strikes.faults.items()} == dict.fromkeys(faults, 1)
        await field.come_to_rest()
        return (await field.checked())[0]
