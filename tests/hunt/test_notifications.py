"""Notifications that are forged, and a server whose queue of them is full: appends and readers do without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from eventstore import EventStore, NewEvent
from eventstore.errors import BroadcastError
from eventstore.schema import signal_channel
from tests.cli.conftest import Run
from tests.cli.conftest import plain as plain
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.hunt.racing import connection, edit, times
from tests.operating.clusters import Cluster, durable, template

pytestmark = pytest.mark.hunt


async def test_forged_signals_wake_nodes_and_change_nothing(store: EventStore, sql: asyncpg.Connection) -> None:
    count = times(1_000, 10_000)
    forged = (
        "select pg_notify($1, case n % 4 when 0 then 'control' when 1 then n::text when 2 then repeat('x', 7000) || n"
        " else '''; drop table events ' || n end) from generate_series($2::int, $2 + 99) n"
    )
    async with store.listen(after=0) as events, asyncio.timeout(120):
        for first in range(0, count, 100):
            await sql.execute(forged, signal_channel("eventstore"), first)
            result = await store.append("s", [NewEvent("T", first)])
            assert (await anext(events)).position == result.position
    assert await sql.fetchval("select count(*) from eventstore.events") == count // 100
    note(forged=count, events=count // 100, missed=0)


@pytest.fixture(scope="module")
def small() -> Iterator[Cluster]:
    """A server whose queue holds 64 pages, the fewest there can be."""
    with template() as data, durable(data, fsync="off", max_notify_queue_pages="64") as made:
        if int(made.execute("show server_version_num")[0][0]) < 170_000:
            pytest.skip("the size of the queue is fixed before Postgres 17")
        yield made


@asynccontextmanager
async def full(dsn: str) -> AsyncIterator[int]:
    """Fill the queue behind a listener that is in a transaction; yields its pid."""
    async with connection(dsn) as holder, connection(dsn) as other:
        await holder.execute("listen somewhere")
        await holder.execute("begin; select 1")
        for payload in ("repeat('x', 7900) || n", "gen_random_uuid()::text"):  # until not even a short one fits
            with suppress(asyncpg.ProgramLimitExceededError):
                while True:
                    await other.execute(f"select pg_notify('elsewhere', {payload}) from generate_series(1, 3) n")
        yield holder.get_server_pid()
        await holder.execute("rollback")
        async with asyncio.timeout(120):
            # Looking is what makes Postgres give the pages back.
            while await other.fetchval("select pg_notification_queue_usage()") > 0.1:
                await asyncio.sleep(0.01)


async def test_no_append_fails_because_the_queue_of_notifications_is_full(small: Cluster, plain: Run) -> None:
    appends = times(20, 1_000)
    async with EventStore(small.dsn, settings=QUICK) as store, store.listen(after=0) as events:
        async with full(small.dsn) as pid, connection(small.dsn) as own, asyncio.timeout(120):
            for number in range(appends):
                await store.append("s", [NewEvent("T", number)])
            assert [(await anext(events)).data for _ in range(appends)] == list(range(appends))
            # In a caller's own transaction, too, the signal is left out rather than that it undoes his commit.
            async with own.transaction():
                await store.append("own", [NewEvent("T")], connection=own)
            assert (await anext(events)).stream == "own"
            with pytest.raises(BroadcastError):
                await store.pubsub.broadcast("topic", 1)
            told = await asyncio.to_thread(
                plain, "--dsn", small.dsn, "doctor", "--only", "notification_queue", "--json"
            )
            assert '"fail"' in told.stdout
            assert f"pid {pid}" in told.stdout
        notified = store._signals.moments.next("notified")
        await store.append("s", [NewEvent("T")])
        await asyncio.wait_for(notified, 120)
    note(appends=appends, in_own_transaction=1, failed=0)


async def test_a_signal_that_is_sent_into_a_full_queue_is_caught(small: Cluster) -> None:
    async with EventStore(small.dsn, settings=QUICK) as store, connection(small.dsn) as own:
        sound = await own.fetchval("select pg_get_functiondef('eventstore.signal_v1'::regproc)")
        await edit(own, "signal_v1", "where pg_notification_queue_usage() < 0.9", "")
        async with full(small.dsn):
            with pytest.raises(asyncpg.ProgramLimitExceededError):
                async with own.transaction():
                    await store.append("own", [NewEvent("T")], connection=own)
        await own.execute(sound)  # the server is there for the other tests, too
