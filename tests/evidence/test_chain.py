"""The chain: whatever appends, every event gets its hash, and an honest log is never accused."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from eventstore import (
    AppendCondition,
    EventType,
    NewEvent,
    StreamAppend,
    StreamMetadata,
    WrongExpectedVersion,
)
from eventstore.errors import TransactionConflict
from tests.evidence.conftest import Evidence


def events(count: int) -> list[NewEvent]:
    return [NewEvent("A", {"n": n}, tags=[f"n:{n}"] if n % 2 else []) for n in range(count)]


async def hashes(chain: Evidence) -> list[int | None]:
    """Lengths of the hashes, by position."""
    found = await chain.sql.fetch("select octet_length(hash) as size from eventstore.events order by position")
    return [one["size"] for one in found]


async def test_nothing_has_a_hash_while_the_chain_is_off(off: Evidence) -> None:
    await off.store.append("s", events(2))
    assert await hashes(off) == [None, None]
    assert (await off.verify()).intact


async def test_the_chain_begins_with_what_is_appended_after_it_was_turned_on(off: Evidence) -> None:
    await off.store.append("s", events(2))
    status = await off.turn(True)
    await off.store.append("s", events(2))
    assert (status.state, status.since, status.periods) == ("on", 2, ((2, None),))
    assert await hashes(off) == [None, None, 48, 48]
    assert (await off.verify()).intact


async def test_on_and_off_and_on_again_leaves_a_gap_that_is_no_break(chain: Evidence) -> None:
    for on in (False, True, False, True):
        await chain.store.append("s", events(1))
        await chain.turn(on)
    await chain.store.append("s", events(1))
    assert await hashes(chain) == [48, None, 48, None, 48]
    assert (await chain.verify()).intact


async def test_turning_on_twice_changes_nothing(chain: Evidence) -> None:
    await chain.store.append("s", events(1))
    assert (await chain.turn(True)).periods == ((0, None),)


async def test_a_switch_that_was_turned_and_not_written_down_is_told_all_the_same(off: Evidence) -> None:
    await off.sql.execute("select eventstore.set_chain_v1(true)")
    assert await off.sql.fetchval("select count(*) from eventstore.chain_periods") == 0
    await off.store.append("s", events(1))
    assert (await off.verify()).intact
    await off.sql.execute("select eventstore.set_chain_v1(false)")
    await off.sql.execute("begin; select eventstore.set_chain_v1(false); rollback")
    await off.store.append("s", events(1))
    assert (await off.verify()).intact
    assert (await off.turn(True)).periods == ((0, 1), (2, None))


async def test_turning_on_waits_for_an_append_in_flight(off: Evidence) -> None:
    async with off.sql.transaction():
        await off.store.append("s", events(1), connection=off.sql)
        turning = asyncio.create_task(off.turn(True))
        while not await off.store.database.value("head"):
            waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            if await off.sql.fetchval(waiting):
                break
        assert not turning.done()
    assert (await turning).since == 1
    assert (await off.verify()).intact


async def test_a_transaction_with_an_old_snapshot_sees_the_switch(off: Evidence) -> None:
    transaction = off.sql.transaction(isolation="repeatable_read")
    await transaction.start()
    await off.sql.fetchval("select 1 from pg_class limit 1")
    await off.turn(True)
    await off.store.append("s", events(1), connection=off.sql)
    await transaction.commit()
    assert await hashes(off) == [48]


async def test_every_way_to_append_is_chained(chain: Evidence, db: str) -> None:
    store = chain.store
    await store.append("s", events(1))
    await store.append("s", events(3))
    await store.append(None, events(2))
    await store.append_many([StreamAppend("s", events(2)), StreamAppend("t", events(2)), StreamAppend(None, events(1))])
    await store.append("t", events(2), condition=AppendCondition(EventType("B")))
    async with chain.sql.transaction():
        await store.append("s", events(1), connection=chain.sql)
        await store.append("s", events(2), connection=chain.sql)
    await chain.sql.execute(
        """select eventstore.append_events('s', '[{"type": "A"}, {"type": "B", "tags": ["ä b"]}]')"""
    )
    assert set(await hashes(chain)) == {48}
    found = await chain.verify()
    assert (found.intact, found.events, found.chained) == (True, 18, 18)


async def test_concurrent_appends_to_few_streams_are_one_chain_each(chain: Evidence) -> None:
    async def some(n: int) -> None:
        for _ in range(5):
            await chain.store.append(f"s{n % 3}", events(1 + n % 3))

    await asyncio.gather(*(some(n) for n in range(12)))
    found = await chain.verify()
    assert (found.intact, found.chained) == (True, 120)


async def test_verifying_sealing_and_scavenging_beside_appends_accuse_nobody(chain: Evidence) -> None:
    await chain.store.set_stream_metadata("s1", StreamMetadata(max_count=2))

    async def appending() -> None:
        for n in range(40):
            await chain.store.append(f"s{n % 2}", events(3))

    appender = asyncio.create_task(appending())
    while not appender.done():
        await chain.store.scavenge(batch=5)
        await chain.seal()
        found = await chain.verify()
        assert found.intact, found.breaks
    await appender
    assert (await chain.verify()).events == 120


async def test_what_is_in_flight_is_sealed_later(chain: Evidence) -> None:
    await chain.store.append("s", events(1))
    async with chain.sql.transaction():
        await chain.store.append("t", events(1), connection=chain.sql)
        await chain.store.append("s", events(1))
        first = await chain.seal()
        assert (await chain.verify()).intact
    second = await chain.seal()
    assert first is not None
    assert second is not None
    assert (first.events, second.events, second.total) == (1, 2, 3)
    assert (await chain.verify()).intact


async def test_a_client_with_another_encoding_makes_the_same_hashes(chain: Evidence, db: str) -> None:
    latin = await asyncpg.connect(db, server_settings={"client_encoding": "latin1", "timezone": "Asia/Tokyo"})
    await latin.execute("set client_encoding to latin1; set datestyle to 'German'")
    await latin.execute("""select eventstore.append_events('gr\\u00fcn', '[{"type": "A", "tags": ["x"]}]')""")
    await latin.close()
    assert (await chain.verify()).chained == 1


async def test_what_was_rolled_back_or_refused_leaves_no_trace_in_the_chain(chain: Evidence) -> None:
    await chain.store.append("s", events(1))
    transaction = chain.sql.transaction()
    await transaction.start()
    await chain.store.append("s", events(3), connection=chain.sql)
    await transaction.rollback()
    with pytest.raises(WrongExpectedVersion):
        await chain.store.append("s", events(1), expected=7)
    await chain.store.append("s", events(2))
    assert (await chain.verify()).intact


async def test_a_repeated_append_adds_no_link(chain: Evidence) -> None:
    same = events(2)
    assert not (await chain.store.append("s", same)).idempotent
    assert (await chain.store.append("s", same)).idempotent
    assert (await chain.verify()).events == 2


async def test_an_import_that_skips_what_is_known_is_chained(chain: Evidence) -> None:
    known, more = events(2), events(3)
    await chain.store.append("s", known)
    await chain.store.append_known(["s"] * 5, [*known, *more])
    assert (await chain.verify()).chained == 5


@pytest.mark.parametrize("on", [True, False])
async def test_scavenging_leaves_stubs_that_verify(off: Evidence, on: bool) -> None:
    await off.store.append("s", events(3))
    await off.turn(True)
    await off.store.append("s", events(4))
    await off.seal()
    await off.turn(on)
    await off.store.set_stream_metadata("s", StreamMetadata(truncate_before=6))
    await off.store.scavenge()
    assert await hashes(off) == [32, 32, 32, 64, 64, 48, 48]
    found = await off.verify()
    assert (found.intact, found.scavenged) == (True, 5)


async def test_what_was_scavenged_before_the_chain_was_on_is_sealed_as_it_is(off: Evidence) -> None:
    await off.store.append("s", events(3))
    await off.store.set_stream_metadata("s", StreamMetadata(max_count=1))
    await off.store.scavenge()
    await off.turn(True)
    await off.seal()
    assert await hashes(off) == [None, None, None]
    assert (await off.verify()).intact


@pytest.mark.parametrize("limits", [StreamMetadata(max_age=1e-6), StreamMetadata(max_count=1)])
async def test_limits_deletion_and_tombstones_break_nothing(chain: Evidence, limits: StreamMetadata) -> None:
    for stream in ("limited", "deleted", "revived", "closed"):
        await chain.store.append(stream, events(3))
    await chain.seal()
    await chain.store.set_stream_metadata("limited", limits)
    await chain.store.delete_stream("deleted")
    await chain.store.delete_stream("revived")
    await chain.store.append("revived", events(2))
    await chain.store.tombstone_stream("closed")
    await chain.store.tombstone_stream("never-there")
    await chain.store.scavenge()
    await chain.seal()
    found = await chain.verify()
    assert found.intact
    assert found.scavenged >= 11


async def test_equal_contents_leave_different_digests(chain: Evidence) -> None:
    await chain.store.append(
        "s", [NewEvent("A", {"email": "ada@example.org"}), NewEvent("A", {"email": "ada@example.org"})]
    )
    await chain.store.append("s", events(1))
    await chain.store.set_stream_metadata("s", StreamMetadata(max_count=1))
    await chain.store.scavenge()
    digests = await chain.sql.fetch("select substr(hash, 1, 32) as digest from eventstore.events where data is null")
    assert len({one["digest"] for one in digests}) == 2


async def test_an_owner_cannot_give_an_event_another_hash(chain: Evidence) -> None:
    await chain.store.append("s", events(1))
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await chain.sql.execute("update eventstore.events set hash = sha256('x')")


async def test_turning_on_gives_up_while_an_append_goes_on(off: Evidence) -> None:
    await off.sql.execute("alter function eventstore.set_chain_v1 set lock_timeout = '20ms'")
    async with off.sql.transaction():
        await off.store.append("s", events(1), connection=off.sql)
        with pytest.raises(TransactionConflict):
            await off.turn(True)
    assert (await off.turn(False)).state == "never"
