"""A handler that blocks the event loop is named, and costs its node the lease."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from eventstore import All, Delivery, Event, EventStore
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, settled
from tests.subscriptions.test_run import fill, running


async def test_a_blocked_loop_loses_the_partition_and_what_it_settles_afterwards_counts_for_nothing(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal()
    async with EventStore(db, settings=replace(QUICK, lease_ttl=0.4)) as store:

        @store.handler("s", All())
        async def blocking(event: Event, delivery: Delivery) -> None:
            await journal.note(event, delivery)
            if len(journal.events) == 1:
                time.sleep(5 * 0.4)  # noqa: ASYNC251 - that is the point

        await fill(store, 3, streams=1)
        lost = store._pools.moments.next("lost")
        with caplog.at_level(logging.ERROR, "eventstore.subscriptions.watchdog"):
            async with running(store):
                claim = await asyncio.wait_for(lost, 30)
                # Until somebody claims the partition nobody is harmed by what its last owner settles.
                await asyncio.wait_for(store._pools.moments.next("claimed"), 30)
                assert not await store._ledger.settle_one(claim, 3)
                await settled(store, "s", 3)
    assert "the event loop is blocked" in caplog.text
    assert "s/0 at 1" in caplog.text
    assert "in blocking" in caplog.text
    assert set(journal.epochs[-3:]) == {2}
    assert journal.positions[-3:] == [1, 2, 3]
