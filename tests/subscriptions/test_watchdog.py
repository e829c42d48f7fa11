"""A handler that blocks the event loop is named, and costs its node the lease."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from eventstore import All, Delivery, Event, EventStore
from eventstore.subscriptions.model import Claim
from tests.conftest import QUICK
from tests.subscriptions.journal import Journal, settled
from tests.subscriptions.test_run import fill, running


async def test_a_blocked_loop_loses_the_partition_and_what_it_settles_afterwards_counts_for_nothing(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal, losses = Journal(), list[asyncio.Future[Claim]]()
    async with EventStore(db, settings=replace(QUICK, lease_ttl=0.4)) as store:

        @store.handler("s", All())
        async def blocking(event: Event, delivery: Delivery) -> None:
            await journal.note(event, delivery)
            if len(journal.events) == 1:
                losses.append(store._pools.moments.next("lost"))
                until = time.monotonic() + 30
                while "the event loop is blocked" not in caplog.text and time.monotonic() < until:
                    time.sleep(0.01)  # noqa: ASYNC251 - that is the point
                time.sleep(2 * 0.4)  # noqa: ASYNC251

        await fill(store, 3, streams=1)
        with caplog.at_level(logging.ERROR, "eventstore.subscriptions.watchdog"):
            async with running(store):
                await journal.has(1)
                claim = await asyncio.wait_for(losses[0], 30)
                # Until somebody claims the partition nobody is harmed by what its last owner settles.
                await asyncio.wait_for(store._pools.moments.next("claimed"), 30)
                assert not await store._ledger.settle_one(claim, 3)
                await settled(store, "s", 3)
    assert "the event loop is blocked" in caplog.text
    assert "s/0 at 1" in caplog.text
    assert "in blocking" in caplog.text
    again = [position for position, epoch in zip(journal.positions, journal.epochs, strict=True) if epoch > claim.epoch]
    assert journal.epochs[0] == claim.epoch
    assert (again[0], set(again)) == (1, {1, 2, 3})
    assert journal.problems(journal.events, repeats=True) == []
