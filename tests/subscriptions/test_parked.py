"""Events that were set aside: written down with the checkpoint, loaded, replayed, discarded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventstore import All, Settings
from eventstore.database import Database
from eventstore.errors import ConfigurationError
from eventstore.subscriptions.ledger import Ledger, described, storable
from eventstore.subscriptions.model import Claim, Failed, ParkedKey, key_of

EVENT = """select position from eventstore.append_events($1, '[{"type": "A", "data": {"n": 1}}]')"""


@pytest.fixture
async def ledger(db: str, sql: asyncpg.Connection) -> AsyncIterator[Ledger]:
    """The ledger of a log with six events: of the streams a, b, a, b, a and of none."""
    for stream in ["a", "b", "a", "b", "a", None]:
        await sql.execute(EVENT, stream)
    database = Database(Settings(), 5)
    await database.start(db, "eventstore")
    yield Ledger(database)
    await database.stop()


@pytest.fixture
async def claim(ledger: Ledger) -> Claim:
    await ledger.create("s", All())
    await ledger.register(node := uuid4(), "a node", 60)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    return claim


def failed(position: int, key: str = "s:a", **fields: Any) -> Failed:
    return Failed(
        position, 5, key, **{"attempts": 1, "error": "ValueError", "message": "m", "traceback": "t", **fields}
    )


def queued(position: int, key: str = "s:a", **fields: Any) -> Failed:
    return Failed(position, 5, key, **fields)


async def test_what_failed_is_written_with_the_checkpoint(ledger: Ledger, claim: Claim) -> None:
    assert await ledger.settle_one(claim, 2, [failed(1, attempts=5)])
    (one,) = await ledger.parked("s")
    assert (one.position, one.partition, one.key, one.state, one.attempts) == (1, 0, "a", "parked", 5)
    assert (one.error, one.message, one.traceback) == ("ValueError", "m", "t")
    assert (one.type, one.stream, one.version, one.data, one.metadata) == ("A", "a", 1, {"n": 1}, {})
    assert isinstance(one.id, UUID)
    assert all(isinstance(time, datetime) for time in (one.first_failed_at, one.last_failed_at, one.recorded_at))
    assert (await ledger.get("s")).partitions[0].checkpoint == 2


async def test_a_settlement_in_a_callers_transaction_is_undone_with_it(
    ledger: Ledger, claim: Claim, sql: asyncpg.Connection
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    assert await ledger.settle_one(claim, 2, [failed(1)], on=sql)
    await transaction.rollback()
    assert await ledger.parked("s") == []
    assert (await ledger.get("s")).partitions[0].checkpoint == 0


async def test_without_a_position_the_checkpoint_stays(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 3)
    assert await ledger.settle_one(claim, None, [failed(5)])
    assert (await ledger.get("s")).partitions[0].checkpoint == 3


async def test_attempts_of_an_event_add_up_and_queueing_it_again_changes_nothing(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 1, [failed(1, attempts=5)])
    (before,) = await ledger.parked("s")
    await ledger.settle_one(claim, 1, [queued(1)])
    assert await ledger.parked("s") == [before]
    await ledger.settle_one(claim, 1, [failed(1, attempts=2, message="later")])
    (after,) = await ledger.parked("s")
    assert (after.attempts, after.message, after.first_failed_at) == (7, "later", before.first_failed_at)
    assert after.last_failed_at > before.last_failed_at


async def test_a_replay_of_a_key_ends_when_its_event_fails_again(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 5, [failed(1), queued(3), failed(2, "s:b")])
    assert await ledger.replay_parked("s") == 3
    await ledger.settle_one(claim, None, [failed(1), queued(5, replay=True)])
    assert [(one.position, one.replay) for one in await ledger.parked("s")] == [
        (1, False), (2, True), (3, False), (5, False),
    ]  # fmt: skip


async def test_what_queues_behind_events_to_be_replayed_is_to_be_replayed_too(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 1, [failed(1), queued(3)])
    assert await ledger.replayable(claim, 10) == []
    await ledger.replay_parked("s", key="a")
    await ledger.settle_one(claim, 5, [queued(5)])
    assert [one.position for one in await ledger.replayable(claim, 10)] == [1, 3, 5]


async def test_what_queues_behind_nothing_since_an_operator_discarded_it_is_to_be_replayed(
    ledger: Ledger, claim: Claim
) -> None:
    await ledger.settle_one(claim, 1, [failed(1)])
    await ledger.discard_parked("s", key="a")
    await ledger.settle_one(claim, 3, [queued(3)])
    assert [one.position for one in await ledger.replayable(claim, 10)] == [3]


async def test_what_was_handled_in_a_replay_is_forgotten(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 5, [failed(1), queued(3)])
    assert await ledger.closed_keys(claim, ["s:a", "s:b"]) == {"s:a"}
    await ledger.settle_one(claim, None, done=[1, 3])
    assert await ledger.parked("s", state=None) == []
    assert await ledger.closed_keys(claim, ["s:a"]) == set()


async def test_what_was_discarded_meanwhile_stays_discarded(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 5, [failed(1)])
    await ledger.replay_parked("s")
    assert await ledger.discard_parked("s") == 1
    await ledger.settle_one(claim, None, [failed(1, replay=True)])
    (one,) = await ledger.parked("s", state=None)
    assert (one.state, one.blocking, one.replay, one.attempts) == ("discarded", False, False, 2)


async def test_an_emitter_begins_with_what_lies_beyond_and_the_first_of_each_closed_key(
    ledger: Ledger, claim: Claim
) -> None:
    await ledger.settle_one(claim, 4, [failed(1), queued(3), failed(2, "s:b", blocking=False)])
    await ledger.settle_one(claim, None, [failed(6, "e:x", state="skipped", blocking=False)])
    assert sorted(await ledger.load_parked(claim), key=lambda one: one.position) == [
        ParkedKey("s:a", True, False, 1), ParkedKey("e:x", False, False, 6),
    ]  # fmt: skip
    await ledger.replay_parked("s", key="b")
    assert ParkedKey("s:b", False, True, 2) in await ledger.load_parked(claim)


@pytest.mark.parametrize(
    ("fields", "position", "told"),
    [
        ({}, 5, True),
        ({"blocking": False}, 5, False),
        ({"blocking": False}, 0, True),
        ({"state": "skipped"}, 5, False),
        ({"blocking": False, "replay": True}, 5, True),
    ],
)
async def test_a_claim_tells_whether_there_is_anything_parked_to_know_of(
    ledger: Ledger, claim: Claim, fields: dict[str, Any], position: int, told: bool
) -> None:
    await ledger.settle_one(claim, position, [failed(1, **fields)])
    (again,) = (await ledger.claim(claim.owner, ["s"])).claims
    assert again.parked is told


async def test_events_to_replay_come_in_order_and_as_they_were_read(
    ledger: Ledger, claim: Claim, sql: asyncpg.Connection
) -> None:
    loose = f"e:{await sql.fetchval('select id from eventstore.events where position = 6')}"
    await ledger.settle_one(claim, 6, [queued(3), failed(1), failed(6, loose)])
    assert await ledger.replayable(claim, 10) == []
    await ledger.replay_parked("s")
    found = await ledger.replayable(claim, 10)
    assert [(one.position, one.key, one.attempts) for one in found] == [(1, "s:a", 1), (3, "s:a", 0), (6, loose, 1)]
    assert [key_of(one.event) for one in found if one.event] == ["s:a", "s:a", loose]
    assert found[:2] == await ledger.replayable(claim, 2)


async def test_what_scavenging_emptied_has_no_event(ledger: Ledger, claim: Claim, sql: asyncpg.Connection) -> None:
    await ledger.settle_one(claim, 5, [failed(1)])
    await ledger.replay_parked("s")
    await sql.execute("update eventstore.streams set truncate_before = 2 where name = 'a'")
    await sql.execute("update eventstore.events set data = null, metadata = '{}', tags = '{}' where position = 1")
    assert [(one.position, one.event) for one in await ledger.replayable(claim, 10)] == [(1, None)]
    (one,) = await ledger.parked("s")
    assert (one.type, one.stream, one.data, one.metadata) == ("A", "a", None, None)


async def test_parked_events_are_listed_by_state_key_and_page(
    ledger: Ledger, claim: Claim, sql: asyncpg.Connection
) -> None:
    loose = str(await sql.fetchval("select id from eventstore.events where position = 6"))
    skipped = failed(2, "s:b", state="skipped", blocking=False)
    await ledger.settle_one(claim, 6, [failed(1), skipped, queued(3), failed(6, f"e:{loose}")])

    async def listed(**options: Any) -> list[int]:
        return [one.position for one in await ledger.parked("s", **options)]

    assert await listed() == [1, 3, 6]
    assert await listed(state=None) == [1, 2, 3, 6]
    assert await listed(state="skipped") == [2]
    assert (await listed(key="a"), await listed(key=loose.upper()), await listed(key="s:a")) == ([1, 3], [6], [])
    assert await listed(after=1, limit=1) == [3]


async def test_one_event_is_replayed_unless_it_waits_behind_another(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 5, [failed(1), queued(3), failed(2, "s:b", blocking=False)])
    with pytest.raises(ConfigurationError, match="position 3 waits behind the one at 1"):
        await ledger.replay_parked("s", position=3)
    assert await ledger.replay_parked("s", position=2) == 1
    assert await ledger.replay_parked("s", position=1) == 1
    assert [one.position for one in await ledger.replayable(claim, 10)] == [1, 2]


async def test_one_in_the_middle_of_a_queue_may_be_discarded(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 5, [failed(1), queued(3), queued(5)])
    assert await ledger.discard_parked("s", position=3) == 1
    assert [one.position for one in await ledger.parked("s")] == [1, 5]
    assert await ledger.closed_keys(claim, ["s:a"]) == {"s:a"}
    assert await ledger.discard_parked("s", key="a") == 2
    assert await ledger.closed_keys(claim, ["s:a"]) == set()


@pytest.mark.parametrize("call", ["replay_parked", "discard_parked"])
async def test_a_position_where_nothing_is_parked_is_refused(ledger: Ledger, claim: Claim, call: str) -> None:
    await ledger.settle_one(claim, 5, [failed(2, state="skipped", blocking=False)])
    for position in (1, 2):
        with pytest.raises(ConfigurationError, match=f"no event is parked at position {position}"):
            await getattr(ledger, call)("s", position=position)
    assert await getattr(ledger, call)("s", key="nothing") == 0
    assert await getattr(ledger, call)("s") == 0


async def test_operators_raise_the_revision_of_the_partitions_concerned(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=4)
    await ledger.register(node := uuid4(), "a node", 60)
    claims = {claim.partition: claim for claim in (await ledger.claim(node, ["s"])).claims}
    await ledger.settle_one(claims[1], 1, [failed(1)])  # of bucket 5
    await ledger.replay_parked("s")
    await ledger.discard_parked("s")
    revisions = {one.partition: one.parked_revision for one in await ledger.owned(node)}
    assert revisions == {0: 0, 1: 2, 2: 0, 3: 0}


async def test_an_operator_waits_for_a_settlement_and_finds_what_it_parked(
    ledger: Ledger, claim: Claim, sql: asyncpg.Connection
) -> None:
    async with sql.transaction():
        await ledger.settle_one(claim, 1, [failed(1)], on=sql)
        replaying = asyncio.create_task(ledger.replay_parked("s"))
        async with asyncio.timeout(30):
            while not await sql.fetchval("select count(*) from pg_locks where not granted"):
                assert not replaying.done()
        await ledger.settle_one(claim, 5, [queued(3)], on=sql)
    assert await replaying == 2


async def test_a_rewind_forgets_what_comes_again(ledger: Ledger, claim: Claim) -> None:
    await ledger.settle_one(claim, 6, [failed(1), queued(3), failed(4, "s:b", state="skipped")])
    assert (await ledger.rewind("s", 2)).parked == 2
    assert [one.position for one in await ledger.parked("s", state=None)] == [1]


async def test_after_a_resize_each_partition_finds_its_own(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=1)
    await ledger.register(node := uuid4(), "a node", 60)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    await ledger.release(node, [(claim, 6)] if await ledger.settle_one(claim, 6, [failed(1)]) else [])
    await ledger.resize("s", 3)
    claims = (await ledger.claim(node, ["s"])).claims
    assert {one.partition for one in claims if one.parked} == {5 % 3}
    assert [one.partition for one in await ledger.parked("s")] == [5 % 3]
    assert {one.partition for one in claims if await ledger.load_parked(one)} == {5 % 3}


@pytest.mark.parametrize(
    ("call", "options"),
    [
        ("parked", {"state": "gone"}),
        ("parked", {"after": -1}),
        ("parked", {"limit": True}),
        ("parked", {"key": "\0"}),
        ("replay_parked", {"position": 1, "key": "a"}),
        ("replay_parked", {"position": -1}),
        ("discard_parked", {"position": "1"}),
        ("discard_parked", {"key": 5}),
        ("lag", {"name": ""}),
        ("ack", {"position": -1}),
        ("resize", {"pool_size": 1025}),
    ],
)
async def test_bad_arguments_are_refused_before_sql(call: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await getattr(Ledger(None), call)(**{"name": "s", **options})  # type: ignore[arg-type]


async def test_lag_is_counted_in_positions_and_in_the_age_of_the_first_event_after(
    ledger: Ledger, claim: Claim, sql: asyncpg.Connection
) -> None:
    await ledger.settle_one(claim, 4)
    (one,) = await ledger.lag()
    assert (one.name, one.head, one.behind, one.partitions[0].checkpoint) == ("s", 6, 2, 4)
    five_later = "select recorded_at + interval '5 s' from eventstore.events where position = 5"
    assert await sql.fetchval(f"select seconds from eventstore.lag_v1('s', ({five_later}))") == 5
    await ledger.settle_one(claim, 6)
    assert [(one.behind, one.seconds) for one in await ledger.lag("s")] == [(0, 0)]


def test_any_error_can_be_stored() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert described(Unspeakable())[:2] == ("Unspeakable", "its message cannot be told: RuntimeError")
    assert storable("a\0\ud800é") == "a\ufffd?é"
    cut = storable("b" + "x" * 20_000 + "e")
    assert (len(cut) <= 10_000, cut[0], cut[-1]) == (True, "b", "e")
