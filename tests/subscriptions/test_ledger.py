from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventstore import (
    All,
    EventPayload,
    EventType,
    Settings,
    Stream,
    SubscriptionExists,
    SubscriptionNotFound,
    Tags,
)
from eventstore.database import Database
from eventstore.errors import CheckpointAheadOfLog, ConfigurationError, LeaseLost
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Claim, Claimed

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
async def ledger(db: str) -> AsyncIterator[Ledger]:
    database = Database(Settings(), 10)
    await database.start(db, "eventstore")
    yield Ledger(database)
    await database.stop()


async def joined(ledger: Ledger, ttl: float = 60) -> UUID:
    node = uuid4()
    await ledger.register(node, "a node", ttl)
    return node


async def test_a_subscription_is_stored_with_its_checkpoints(ledger: Ledger) -> None:
    made = await ledger.create("billing", EventType("A") & Tags("t"), pool_size=3)
    assert made == await ledger.get("billing")
    assert (made.selector, made.pool_size, made.after, made.state) == (EventType("A") & Tags("t"), 3, 0, "active")
    assert [(p.number, p.checkpoint, p.epoch, p.state) for p in made.partitions] == [
        (n, 0, 0, "idle") for n in range(3)
    ]


async def test_subscribing_again_returns_the_stored_one(ledger: Ledger) -> None:
    first = await ledger.create("s", EventType("B", "A"), pool_size=2)
    assert await ledger.create("s", EventType("A", "B"), pool_size=5) == first


@pytest.mark.parametrize(("change", "field"), [({"selector": All()}, "selector"), ({"after": "current"}, "after")])
async def test_a_differing_definition_is_refused_and_names_the_field(
    ledger: Ledger, change: dict[str, Any], field: str
) -> None:
    await ledger.create("s", Stream("x"))
    with pytest.raises(SubscriptionExists) as caught:
        await ledger.create(**{"name": "s", "selector": Stream("x"), **change})
    assert caught.value.fields == (field,)


@pytest.mark.parametrize(
    ("stored", "wanted", "fields", "cure"),
    [
        ({"policy": {"attempts": 2}}, {}, ("policy",), "subscriptions.update"),
        (
            {"sink": "stdout"},
            {"sink": "pubsub:a", "policy": {"attempts": 2}},
            ("policy", "sink"),
            "subscriptions.update",
        ),
        ({"sink": "stdout"}, {}, ("selector", "sink"), "delete it first"),
    ],
    ids=["policy", "both", "selector"],
)
async def test_what_differs_is_named_with_its_cure(
    ledger: Ledger, stored: dict[str, Any], wanted: dict[str, Any], fields: tuple[str, ...], cure: str
) -> None:
    await ledger.create("s", All(), options=stored)
    with pytest.raises(SubscriptionExists, match=cure) as caught:
        await ledger.create("s", Stream("x") if "selector" in fields else All(), options=wanted)
    assert caught.value.fields == fields


EVENT = """select eventstore.append_events('x', '[{"type": "A"}]')"""


async def test_many_nodes_agree_on_one_start(ledger: Ledger, sql: asyncpg.Connection) -> None:
    async def append() -> None:
        for _ in range(30):
            await sql.execute(EVENT)

    made, _ = await asyncio.gather(
        asyncio.gather(*(ledger.create("s", All(), after="current") for _ in range(16))), append()
    )
    assert len({one.start_position for one in made}) == 1


async def test_a_time_resolves_to_just_before_the_first_event_after_it(ledger: Ledger, sql: asyncpg.Connection) -> None:
    for _ in range(2):
        await sql.execute(EVENT)
    times = [
        row["recorded_at"] for row in await sql.fetch("select recorded_at from eventstore.events order by position")
    ]
    made = await ledger.create("s", All(), after=times[0])
    assert (made.start_position, made.after) == (1, times[0])
    late = await ledger.create("late", All(), after=times[1])
    assert late.start_position == 2


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
async def test_a_bad_definition_is_refused_and_leaves_nothing(ledger: Ledger, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await ledger.create(**{"name": "s", "selector": All(), **options})
    assert await ledger.list() == []


async def test_an_unknown_subscription_is_named(ledger: Ledger) -> None:
    for call in (ledger.get, ledger.delete):
        with pytest.raises(SubscriptionNotFound, match="nothing"):
            await call("nothing")
        for name in ("a\0", "\ud800", ""):
            with pytest.raises(ConfigurationError):
                await call(name)


async def test_deleting_makes_room_for_a_new_definition(ledger: Ledger) -> None:
    await ledger.create("s", All())
    await ledger.delete("s")
    assert (await ledger.create("s", EventPayload({"a": 1}))).selector == EventPayload({"a": 1})


async def test_a_partition_has_one_owner_and_every_new_one_raises_the_epoch(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=4)
    one, two = await joined(ledger), await joined(ledger)
    got = await asyncio.gather(ledger.claim(one, ["s"]), ledger.claim(two, ["s"]))
    taken = [claim.partition for each in got for claim in each.claims]
    assert len(taken) == len(set(taken))
    await ledger.leave(one)
    await ledger.leave(two)
    third = (await ledger.claim(await joined(ledger), ["s"])).claims
    assert {claim.partition: claim.epoch for claim in third} == {n: 2 if n in taken else 1 for n in range(4)}


async def test_times_of_records_are_times_in_utc(ledger: Ledger) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    await ledger.create("s", All())
    await ledger.claim(await joined(ledger, ttl=60), ["s"])
    made = await ledger.get("s")
    lease_until = made.partitions[0].lease_until
    assert lease_until is not None
    assert before < made.created_at < lease_until < before + timedelta(minutes=10)


async def test_nothing_is_claimed_of_other_subscriptions(ledger: Ledger) -> None:
    await ledger.create("s", All())
    assert await ledger.claim(await joined(ledger), ["t"]) == Claimed([], 0)


async def test_checkpoints_move_forward_only(ledger: Ledger) -> None:
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    for position in (5, 3):
        assert await ledger.settle(node, [(claim, position)]) == {claim.key}
    assert (await ledger.get("s")).partitions[0].checkpoint == 5


async def stale(ledger: Ledger, sql: asyncpg.Connection) -> tuple[UUID, Claim]:
    """A node whose lease ran out and whose partition another node took."""
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    await sql.execute(
        "update eventstore.nodes set lease_until = now() - interval '1 second' where incarnation = $1", node
    )
    assert len((await ledger.claim(await joined(ledger), ["s"])).claims) == 1
    return node, claim


async def test_a_stale_owner_settles_nothing(ledger: Ledger, sql: asyncpg.Connection) -> None:
    node, claim = await stale(ledger, sql)
    assert await ledger.settle(node, [(claim, 99)]) == set()
    assert (await ledger.get("s")).partitions[0].checkpoint == 0


async def test_a_stale_owner_neither_renews_nor_claims(ledger: Ledger, sql: asyncpg.Connection) -> None:
    node, _ = await stale(ledger, sql)
    assert not (await ledger.renew(node, 60)).renewed
    with pytest.raises(LeaseLost):
        await ledger.claim(node, ["s"])


async def test_an_unfenced_settlement_would_be_caught(ledger: Ledger, sql: asyncpg.Connection) -> None:
    """The planted bug: the same update without owner and epoch moves the checkpoint that a fenced one leaves alone."""
    _, claim = await stale(ledger, sql)
    await sql.execute("update eventstore.checkpoints set position = 99 where partition = $1", claim.partition)
    assert (await ledger.get("s")).partitions[0].checkpoint == 99


async def test_the_old_epoch_of_the_same_owner_settles_nothing(ledger: Ledger, sql: Any) -> None:
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    await sql.execute("update eventstore.checkpoints set epoch = epoch + 1")
    assert await ledger.settle(node, [(claim, 9)]) == set()


async def test_the_time_of_a_lease_is_the_databases(ledger: Ledger, sql: asyncpg.Connection) -> None:
    node = uuid4()
    query = "select lease_until from eventstore.nodes where incarnation = $1"
    await sql.execute("select eventstore.register_node_v1($1, 'n', 10, $2)", node, NOW)
    assert await sql.fetchval(query, node) == NOW + timedelta(seconds=10)
    renew = "select renewed from eventstore.renew_node_v1($1, 10, $2)"
    assert await sql.fetchval(renew, node, NOW + timedelta(seconds=9))
    assert not await sql.fetchval(renew, node, NOW + timedelta(seconds=19))


async def test_what_a_deleted_subscription_owned_is_settled_no_more(ledger: Ledger) -> None:
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    await ledger.delete("s")
    await ledger.create("s", All())
    assert await ledger.settle(node, [(claim, 9)]) == set()
    assert await ledger.owned(node) == []


async def test_a_checkpoint_beyond_the_log_is_named(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await ledger.create("s", All())
    await sql.execute("update eventstore.checkpoints set position = 7")
    (claim,) = (await ledger.claim(await joined(ledger), ["s"])).claims
    with pytest.raises(CheckpointAheadOfLog, match=r"position 7 .* lies beyond the log, which ends at 0"):
        claim.check_log()
