from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventstore import (
    All,
    EventPayload,
    EventStore,
    EventType,
    NewEvent,
    Stream,
    SubscriptionExists,
    SubscriptionNotFound,
    Tags,
)
from eventstore.errors import CheckpointAheadOfLog, ConfigurationError, LeaseLost
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Claim

NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def joined(store: EventStore, ttl: float = 60) -> UUID:
    node = uuid4()
    await store.subscriptions.register(node, "a node", ttl)
    return node


@pytest.fixture
def ledger(store: EventStore) -> Ledger:
    return store.subscriptions


async def test_a_subscription_is_stored_with_its_checkpoints(store: EventStore) -> None:
    made = await store.subscribe("billing", EventType("A") & Tags("t"), pool_size=3)
    assert made == await store.subscriptions.get("billing")
    assert (made.selector, made.pool_size, made.after, made.state) == (EventType("A") & Tags("t"), 3, 0, "active")
    assert [(p.number, p.checkpoint, p.epoch, p.state) for p in made.partitions] == [
        (n, 0, 0, "idle") for n in range(3)
    ]


async def test_subscribing_again_returns_the_stored_one(store: EventStore) -> None:
    first = await store.subscribe("s", EventType("B", "A"), pool_size=2)
    assert await store.subscribe("s", EventType("A", "B"), pool_size=5) == first


@pytest.mark.parametrize(("change", "field"), [({"selector": All()}, "selector"), ({"after": "current"}, "after")])
async def test_a_differing_definition_is_refused_and_names_the_field(
    store: EventStore, change: dict[str, Any], field: str
) -> None:
    await store.subscribe("s", Stream("x"))
    with pytest.raises(SubscriptionExists) as caught:
        await store.subscribe(**{"name": "s", "selector": Stream("x"), **change})
    assert caught.value.fields == (field,)


async def test_many_nodes_agree_on_one_start(store: EventStore) -> None:
    async def append() -> None:
        for _ in range(30):
            await store.append("s", [NewEvent(type="A")])

    made, _ = await asyncio.gather(
        asyncio.gather(*(store.subscribe("s", All(), after="current") for _ in range(16))), append()
    )
    assert len({one.start_position for one in made}) == 1


async def test_a_time_resolves_to_just_before_the_first_event_after_it(store: EventStore) -> None:
    for kind in "AB":
        await store.append("s", [NewEvent(type=kind)])
    first, second = [event async for event in store.read("s")]
    made = await store.subscribe("s", All(), after=first.recorded_at)
    assert (made.start_position, made.after) == (second.position - 1, first.recorded_at)
    late = await store.subscribe("late", All(), after=second.recorded_at)
    assert late.start_position == second.position


@pytest.mark.parametrize(
    "options",
    [
        {"after": 1},
        {"after": -1},
        {"after": "yesterday"},
        {"after": datetime.now(UTC) + timedelta(days=1)},
        {"after": datetime(2020, 1, 1)},
        {"pool_size": 0},
        {"pool_size": 1025},
        {"pool_size": True},
        {"name": ""},
        {"name": "x" * 513},
        {"name": "a\0"},
    ],
)
async def test_a_bad_definition_is_refused_and_leaves_nothing(store: EventStore, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await store.subscribe(**{"name": "s", "selector": All(), **options})
    assert await store.subscriptions.list() == []


async def test_an_unknown_subscription_is_named(store: EventStore) -> None:
    for call in (store.subscriptions.get, store.unsubscribe):
        with pytest.raises(SubscriptionNotFound, match="nothing"):
            await call("nothing")
        for name in ("a\0", "\ud800", ""):
            with pytest.raises(ConfigurationError):
                await call(name)


async def test_deleting_makes_room_for_a_new_definition(store: EventStore) -> None:
    await store.subscribe("s", All())
    await store.unsubscribe("s")
    assert (await store.subscribe("s", EventPayload({"a": 1}))).selector == EventPayload({"a": 1})


async def test_a_partition_has_one_owner_and_every_new_one_raises_the_epoch(store: EventStore, ledger: Ledger) -> None:
    await store.subscribe("s", All(), pool_size=4)
    one, two = await joined(store), await joined(store)
    claims = await asyncio.gather(ledger.claim(one, ["s"]), ledger.claim(two, ["s"]))
    assert sorted(claim.partition for claim in claims[0] + claims[1]) == [0, 1, 2, 3]
    await ledger.leave(one)
    await ledger.leave(two)
    third = await ledger.claim(await joined(store), ["s"])
    assert {claim.epoch for claim in third} == {2}


async def test_times_of_records_are_times_in_utc(store: EventStore, ledger: Ledger) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    await store.subscribe("s", All())
    await ledger.claim(await joined(store, ttl=60), ["s"])
    made = await ledger.get("s")
    lease_until = made.partitions[0].lease_until
    assert lease_until is not None
    assert before < made.created_at < lease_until < before + timedelta(minutes=10)


async def test_nothing_is_claimed_of_other_subscriptions(store: EventStore, ledger: Ledger) -> None:
    await store.subscribe("s", All())
    assert await ledger.claim(await joined(store), ["t"]) == []


async def test_checkpoints_move_forward_only(store: EventStore, ledger: Ledger) -> None:
    await store.subscribe("s", All())
    node = await joined(store)
    (claim,) = await ledger.claim(node, ["s"])
    for position in (5, 3):
        assert await ledger.settle(node, [(claim, position)]) == {claim.key}
    assert (await ledger.get("s")).partitions[0].checkpoint == 5


async def stale(store: EventStore, sql: asyncpg.Connection) -> tuple[UUID, Claim]:
    """A node whose lease ran out and whose partition another node took."""
    await store.subscribe("s", All())
    node = await joined(store)
    (claim,) = await store.subscriptions.claim(node, ["s"])
    await sql.execute(
        "update eventstore.nodes set lease_until = now() - interval '1 second' where incarnation = $1", node
    )
    assert len(await store.subscriptions.claim(await joined(store), ["s"])) == 1
    return node, claim


async def test_a_stale_owner_settles_nothing(store: EventStore, sql: asyncpg.Connection) -> None:
    node, claim = await stale(store, sql)
    assert await store.subscriptions.settle(node, [(claim, 99)]) == set()
    assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 0


async def test_a_stale_owner_neither_renews_nor_claims(store: EventStore, sql: asyncpg.Connection) -> None:
    node, _ = await stale(store, sql)
    assert not await store.subscriptions.renew(node, 60)
    with pytest.raises(LeaseLost):
        await store.subscriptions.claim(node, ["s"])


async def test_an_unfenced_settlement_would_be_caught(store: EventStore, sql: asyncpg.Connection) -> None:
    """The planted bug: the same update without owner and epoch moves the checkpoint that a fenced one leaves alone."""
    _, claim = await stale(store, sql)
    await sql.execute("update eventstore.checkpoints set position = 99 where partition = $1", claim.partition)
    assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 99


async def test_the_old_epoch_of_the_same_owner_settles_nothing(store: EventStore, ledger: Ledger, sql: Any) -> None:
    await store.subscribe("s", All())
    node = await joined(store)
    (claim,) = await ledger.claim(node, ["s"])
    await sql.execute("update eventstore.checkpoints set epoch = epoch + 1")
    assert await ledger.settle(node, [(claim, 9)]) == set()


async def test_the_time_of_a_lease_is_the_databases(store: EventStore, sql: asyncpg.Connection) -> None:
    node = uuid4()
    query = "select lease_until from eventstore.nodes where incarnation = $1"
    await sql.execute("select eventstore.register_node_v1($1, 'n', 10, $2)", node, NOW)
    assert await sql.fetchval(query, node) == NOW + timedelta(seconds=10)
    assert await sql.fetchval("select eventstore.renew_node_v1($1, 10, $2)", node, NOW + timedelta(seconds=9))
    late = NOW + timedelta(seconds=19)
    assert not await sql.fetchval("select eventstore.renew_node_v1($1, 10, $2)", node, late)


async def test_what_a_deleted_subscription_owned_is_settled_no_more(store: EventStore, ledger: Ledger) -> None:
    await store.subscribe("s", All())
    node = await joined(store)
    (claim,) = await ledger.claim(node, ["s"])
    await store.unsubscribe("s")
    await store.subscribe("s", All())
    assert await ledger.settle(node, [(claim, 9)]) == set()
    assert await ledger.owned(node) == set()


async def test_a_checkpoint_beyond_the_log_is_named(store: EventStore, ledger: Ledger, sql: asyncpg.Connection) -> None:
    await store.subscribe("s", All())
    await sql.execute("update eventstore.checkpoints set position = 7")
    (claim,) = await ledger.claim(await joined(store), ["s"])
    with pytest.raises(CheckpointAheadOfLog, match="checkpoint at 7, but the log ends at 0"):
        claim.check_log()
