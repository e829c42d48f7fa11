"""Who runs which partition: claims, fair shares, giving back, and changing how many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import All, EventType, Settings
from eventstore.database import Database
from eventstore.errors import CheckpointAheadOfLog, ConfigurationError, LeaseLost, SubscriptionNotFound
from eventstore.schema import signal_channel
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Claim, Claimed, Failed

EXPIRE = "update eventstore.nodes set lease_until = now() - interval '1 second' where incarnation = $1"


@pytest.fixture
async def ledger(db: str) -> AsyncIterator[Ledger]:
    database = Database(Settings(), 6)
    await database.start(db, "eventstore")
    yield Ledger(database)
    await database.stop()


async def joined(ledger: Ledger) -> UUID:
    node = uuid4()
    await ledger.register(node, "a node", 60)
    return node


async def generation(ledger: Ledger) -> int:
    return (await ledger.renew(await joined(ledger), 60)).generation


class Cluster:
    """Nodes that do what nodes do: look at what they own, give back what they should, claim."""

    def __init__(self, ledger: Ledger, names: list[str]) -> None:
        self.ledger, self.names = ledger, names
        self.running: dict[UUID, dict[tuple[int, int], Claim]] = {}

    async def join(self) -> UUID:
        node = await joined(self.ledger)
        self.running[node] = {}
        return node

    async def step(self, node: UUID) -> int:
        """One round of a node; returns how much it changed."""
        running = self.running[node]
        owned = {(one.key, one.epoch): one for one in await self.ledger.owned(node)}
        for claim in [one for one in running.values() if (one.key, one.epoch) not in owned]:
            del running[claim.key]
        back = [running[key] for (key, _), one in owned.items() if one.release and key in running]
        freed = await self.ledger.release(node, [(claim, None) for claim in back])
        for key in freed:
            del running[key]
        got = await self.ledger.claim(node, self.names, running)
        running.update({claim.key: claim for claim in got.claims})
        return len(freed) + len(got.claims) + got.missing

    async def settle_down(self) -> list[int]:
        """Let all take turns until nothing changes; returns how many partitions each runs."""
        quiet = 0
        while quiet < 2:  # in the first round a node may only have said what it handles
            quiet = 0 if sum([await self.step(node) for node in self.running]) else quiet + 1
        return [len(running) for running in self.running.values()]


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
async def test_partitions_are_shared_evenly_and_each_has_one_owner(ledger: Ledger, nodes: int) -> None:
    await ledger.create("s", All(), pool_size=8)
    cluster = Cluster(ledger, ["s"])
    for _ in range(nodes):
        await cluster.join()
        counts = await cluster.settle_down()
        assert max(counts) - min(counts) <= 1
        assert sorted(number for running in cluster.running.values() for _, number in running) == list(range(8))


@pytest.mark.parametrize("nodes", [1, 2, 3])
async def test_a_node_that_joins_makes_the_others_give_back_exactly_the_excess(ledger: Ledger, nodes: int) -> None:
    await ledger.create("s", All(), pool_size=8)
    cluster = Cluster(ledger, ["s"])
    for _ in range(nodes):
        await cluster.join()
        await cluster.settle_down()
    late = await cluster.join()
    assert await ledger.claim(late, ["s"]) == Claimed([], 0)
    left = []
    for node in list(cluster.running)[:-1]:
        owned = sorted(await ledger.owned(node), key=lambda one: one.partition)
        kept = [one.partition for one in owned if one.release is None]
        assert [one.release for one in owned] == [None] * len(kept) + ["share"] * (len(owned) - len(kept))
        left.append(len(kept))
    assert max(left) - min(*left, 8 - sum(left)) <= 1
    assert sorted(await cluster.settle_down()) == sorted([*left, 8 - sum(left)])


async def test_pools_of_one_partition_are_spread_over_the_nodes(ledger: Ledger) -> None:
    names = [f"s{n}" for n in range(60)]
    for name in names:
        await ledger.create(name, All())
    cluster = Cluster(ledger, names)
    for _ in range(3):
        await cluster.join()
    counts = await cluster.settle_down()
    assert sum(counts) == 60
    assert min(counts) >= 8


async def test_a_node_that_leaves_moves_only_its_own_partitions(ledger: Ledger) -> None:
    names = [f"s{n}" for n in range(30)]
    for name in names:
        await ledger.create(name, All())
    cluster = Cluster(ledger, names)
    gone, *_ = [await cluster.join() for _ in range(3)]
    await cluster.settle_down()
    kept = {node: set(running) for node, running in cluster.running.items() if node != gone}
    await ledger.leave(gone)
    del cluster.running[gone]
    assert sum(await cluster.settle_down()) == 30
    assert all(kept[node] <= set(cluster.running[node]) for node in kept)


@pytest.fixture
def plain(db: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(db) as connection:
        yield connection


QUICKLY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def create(plain: psycopg.Connection[Any], size: int) -> int:
    plain.rollback()  # what the example before did
    plain.execute("""select eventstore.create_subscription_v1('s', '{"kind": "all"}', '0', '{}', %s)""", [size])
    found = plain.execute("select id from eventstore.subscriptions").fetchone()
    assert found is not None
    return int(found[0])


@QUICKLY
@given(
    size=st.integers(1, 1024),
    nodes=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=9),
)
def test_the_shares_of_all_candidates_add_up_to_the_pool(
    plain: psycopg.Connection[Any], size: int, nodes: list[tuple[bool, bool, bool]]
) -> None:
    made, ids = create(plain, size), [uuid4() for _ in nodes]
    for node, (alive, handles, fallback) in zip(ids, nodes, strict=True):
        plain.execute("select eventstore.register_node_v1(%s, 'n', %s)", [node, 60 if alive else -1])
        if handles:
            plain.execute("insert into eventstore.node_subscriptions values (%s, %s, %s)", [made, node, fallback])
    live = [node for node, (alive, handles, _) in zip(ids, nodes, strict=True) if alive and handles]
    shares = [share(plain, node) for node in live]
    first = [
        one for one, (alive, handles, fallback) in zip(ids, nodes, strict=True) if alive and handles and not fallback
    ]
    assert sum(shares) == (size if live else 0)
    working = [one for one, node in zip(shares, live, strict=True) if node in (first or live)]
    assert not working or max(working) - min(working) <= 1


def share(plain: psycopg.Connection[Any], node: UUID) -> int:
    found = plain.execute("select share from eventstore.fair_shares_v1(%s, now())", [node]).fetchone()
    return found[0] if found else 0


async def test_two_claimants_share_out_what_is_free_without_waiting(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=9)
    cluster = Cluster(ledger, ["s"])
    nodes = [await cluster.join() for _ in range(3)]
    quiet = 0
    async with asyncio.timeout(60):
        while quiet < 2:  # as in `settle_down`, but all at the same time
            quiet = 0 if sum(await asyncio.gather(*map(cluster.step, nodes))) else quiet + 1
    assert sorted(len(running) for running in cluster.running.values()) == [3, 3, 3]
    assert sorted(number for running in cluster.running.values() for _, number in running) == list(range(9))


async def test_what_another_has_locked_is_counted_as_missing(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await ledger.create("s", All(), pool_size=4)
    node = await joined(ledger)
    async with sql.transaction():
        await sql.execute("select from eventstore.checkpoints where partition = 2 for update")
        async with asyncio.timeout(30):
            got = await ledger.claim(node, ["s"])
    assert ([one.partition for one in sorted(got.claims, key=lambda one: one.partition)], got.missing) == ([0, 1, 3], 1)
    got = await ledger.claim(node, ["s"], [one.key for one in got.claims])
    assert ([one.partition for one in got.claims], got.missing) == ([2], 0)


async def test_nobody_waits_for_a_dead_nodes_settlement(ledger: Ledger, db: str, sql: asyncpg.Connection) -> None:
    await ledger.create("s", All(), pool_size=2)
    dead, heir = await joined(ledger), await joined(ledger)
    claims = (await ledger.claim(dead, ["s"])).claims
    frozen = await asyncpg.connect(db)
    async with frozen.transaction():
        assert await ledger.settle_one(claims[0], 7, on=frozen)
        await sql.execute(EXPIRE, dead)
        async with asyncio.timeout(30):
            first = await ledger.claim(heir, ["s"])
        assert ([one.partition for one in first.claims], first.missing) == ([claims[1].partition], 1)
    (late,) = (await ledger.claim(heir, ["s"], [one.key for one in first.claims])).claims
    assert (late.partition, late.checkpoint, late.epoch) == (claims[0].partition, 7, claims[0].epoch + 1)
    await frozen.close()


FAILED = Failed(3, 0, "s:x", attempts=1, error="E", message="m", traceback="t")


async def test_after_a_takeover_the_old_owner_changes_nothing(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    await sql.execute(EXPIRE, node)
    await ledger.claim(await joined(ledger), ["s"])
    assert not await ledger.settle_one(claim, 9, [FAILED])
    assert not await ledger.halt(claim, ValueError("no"))
    assert await ledger.release(node, [(claim, 9)]) == set()
    assert (await ledger.get("s")).partitions[0].checkpoint == 0
    assert await sql.fetchval("select count(*) from eventstore.parked") == 0


async def test_a_settlement_without_its_fence_would_be_caught(ledger: Ledger, sql: asyncpg.Connection) -> None:
    """The planted bug: the same function without owner and epoch writes what the fenced one refuses."""
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    await ledger.leave(node)
    source = await sql.fetchval("select pg_get_functiondef('eventstore.settle_partition_v1'::regproc)")
    await sql.execute(source.replace("and c.owner = p_incarnation and c.epoch = p_epoch", ""))
    assert await ledger.settle_one(claim, 9)
    assert (await ledger.get("s")).partitions[0].checkpoint == 9


async def test_what_a_node_holds_is_not_claimed_and_what_it_does_not_is_claimed_anew(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    node = await joined(ledger)
    one, two = (await ledger.claim(node, ["s"])).claims
    (again,) = (await ledger.claim(node, ["s"], [one.key])).claims
    assert (again.key, again.epoch) == (two.key, two.epoch + 1)


async def test_what_is_given_back_is_settled_and_free(ledger: Ledger) -> None:
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    assert await ledger.release(node, [(claim, 5)]) == {claim.key}
    assert await ledger.release(node, [(claim, 6)]) == set()
    (partition,) = (await ledger.get("s")).partitions
    assert (partition.checkpoint, partition.state, await ledger.owned(node)) == (5, "idle", [])


async def test_a_fallback_runs_what_nobody_handles_until_somebody_does(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    spare, node = await joined(ledger), await joined(ledger)
    claims = (await ledger.claim(spare, [], fallback=["s"])).claims
    assert len(claims) == 2
    assert await ledger.claim(node, ["s"]) == Claimed([], 0)
    assert [one.release for one in await ledger.owned(spare)] == ["share", "share"]
    await ledger.release(spare, [(claim, None) for claim in claims])
    assert await ledger.claim(spare, [], fallback=["s"]) == Claimed([], 0)
    assert len((await ledger.claim(node, ["s"])).claims) == 2


async def test_a_node_is_told_why_to_give_back(ledger: Ledger) -> None:
    names = ["kept", "paused", "resizing", "not_handled"]
    for name in names:
        await ledger.create(name, All())
    node = await joined(ledger)
    claims = (await ledger.claim(node, names)).claims
    await ledger.pause("paused")
    assert not await ledger.resize("resizing", 2)
    assert await ledger.claim(node, names[:3], [claim.key for claim in claims]) == Claimed([], 0)
    of = {claim.subscription_id: claim.name for claim in claims}
    told = {of[one.subscription_id]: one.release for one in await ledger.owned(node)}
    assert told == {"kept": None, "paused": "paused", "resizing": "resizing", "not_handled": "not_handled"}


async def test_a_paused_subscription_is_not_claimed_until_it_is_resumed(ledger: Ledger) -> None:
    await ledger.create("s", All())
    node = await joined(ledger)
    assert [await ledger.pause("s"), await ledger.pause("s")] == [True, False]
    assert await ledger.claim(node, ["s"]) == Claimed([], 0)
    assert [await ledger.resume("s"), await ledger.resume("s")] == [True, False]
    assert len((await ledger.claim(node, ["s"])).claims) == 1


async def test_a_halted_partition_stays_halted_until_it_is_resumed(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    node = await joined(ledger)
    one, two = (await ledger.claim(node, ["s"])).claims
    assert await ledger.halt(one, ValueError("bad\0 \ud800" + "x" * 20_000))
    assert await ledger.claim(node, ["s"], [two.key]) == Claimed([], 0)
    partition = (await ledger.get("s")).partitions[one.partition]
    assert (partition.state, partition.owner) == ("halted", None)
    assert partition.halted is not None
    assert partition.halted.keys() == {"error", "message", "traceback", "at"}
    assert partition.halted["message"].startswith("bad\ufffd ?x")
    assert max(map(len, partition.halted.values())) <= 10_000
    assert await ledger.resume("s")
    assert [claim.key for claim in (await ledger.claim(node, ["s"], [two.key])).claims] == [one.key]


async def test_every_change_raises_the_generation_and_wakes_who_listens(
    ledger: Ledger, db: str, sql: asyncpg.Connection
) -> None:
    heard: list[str] = []
    await sql.add_listener(signal_channel("eventstore"), lambda *args: heard.append(str(args[3])))
    node, seen = await joined(ledger), await generation(ledger)
    await ledger.create("s", All())
    (claim,) = (await ledger.claim(node, ["s"])).claims
    for change in (
        ledger.halt(claim, ValueError()), ledger.resume("s"), ledger.pause("s"), ledger.rewind("s", 0),
        ledger.update("s", {"sink": "stdout"}), ledger.resize("s", 2), ledger.delete("s"), ledger.leave(node),
    ):  # fmt: skip
        await change
        now = await generation(ledger)
        assert now > seen
        seen = now
    while len(heard) < 10:
        await sql.fetchval("select 1")
    assert set(heard) == {"control"}


async def test_what_changes_nothing_wakes_nobody(ledger: Ledger) -> None:
    await ledger.create("s", All())
    node = await joined(ledger)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    seen = await generation(ledger)
    await ledger.create("s", All())
    await ledger.claim(node, ["s"], [claim.key])
    await ledger.resume("s")
    await ledger.ack("s", 0)
    assert not await ledger.update("s", {})
    await ledger.resize("s", 1)
    await ledger.settle_one(claim, 5)
    await ledger.release(node, [])
    assert await generation(ledger) == seen


async def test_a_renewal_tells_when_the_next_lease_of_another_runs_out(ledger: Ledger, sql: Any) -> None:
    node = await joined(ledger)
    assert (await ledger.renew(node, 60)).next_expiry is None
    other = uuid4()
    await ledger.register(other, "other", 50)
    soon = (await ledger.renew(node, 60)).next_expiry
    assert soon is not None
    assert 0 < soon <= 50
    await sql.execute(EXPIRE, other)
    assert ((await ledger.renew(node, 60)).next_expiry or 1) <= 0
    assert not (await ledger.renew(other, 60)).renewed
    with pytest.raises(LeaseLost):
        await ledger.claim(other, [])


async def waits(sql: asyncpg.Connection, work: asyncio.Task[Any]) -> None:
    """Return once *work* waits for a lock in the database."""
    async with asyncio.timeout(30):
        while not await sql.fetchval("select count(*) from pg_locks where not granted"):
            assert not work.done()


async def test_a_deletion_waits_for_a_settlement_instead_of_meeting_it_in_a_deadlock(ledger: Ledger, sql: Any) -> None:
    await ledger.create("s", All())
    (claim,) = (await ledger.claim(await joined(ledger), ["s"])).claims
    async with sql.transaction():
        await ledger.settle_one(claim, 1, on=sql)
        deleting = asyncio.create_task(ledger.delete("s"))
        await waits(sql, deleting)
        assert await ledger.settle_one(claim, 2, [FAILED], on=sql)
    await deleting
    assert await ledger.list() == []


# -- moving by order of an operator


async def drawn(sql: asyncpg.Connection, position: int) -> None:
    await sql.execute("select setval('eventstore.event_positions', $1)", position)


async def test_an_ack_moves_forward_only_and_under_a_new_epoch(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await drawn(sql, 9)
    await ledger.create("s", All(), pool_size=2)
    node = await joined(ledger)
    claims = sorted((await ledger.claim(node, ["s"])).claims, key=lambda one: one.partition)
    await ledger.settle(node, [(claims[1], 8)])
    assert await ledger.ack("s", 5) == 1
    stored = [(one.checkpoint, one.epoch, one.owner) for one in (await ledger.get("s")).partitions]
    assert stored == [(5, 2, "a node"), (8, 1, "a node")]
    with pytest.raises(CheckpointAheadOfLog, match=r"position 10 .* lies beyond the log, which ends at 9"):
        await ledger.ack("s", 10)


async def test_a_rewind_moves_back_only_and_fences_everything_under_way(ledger: Ledger, sql: Any) -> None:
    await drawn(sql, 9)
    await ledger.create("s", All(), pool_size=2)
    node = await joined(ledger)
    claims = sorted((await ledger.claim(node, ["s"])).claims, key=lambda one: one.partition)
    await ledger.settle(node, [(claims[0], 3), (claims[1], 8)])
    await ledger.halt(claims[0], ValueError("halted"))
    done = await ledger.rewind("s", 5)
    assert (done.after, done.partitions, done.parked) == (5, 1, 0)
    assert [(p.checkpoint, p.epoch, p.halted) for p in (await ledger.get("s")).partitions] == [
        (3, 2, None),
        (5, 2, None),
    ]
    assert not await ledger.settle_one(claims[1], 9)


async def test_a_rewind_leads_to_what_follows_an_event(ledger: Ledger, sql: asyncpg.Connection) -> None:
    for _ in range(3):
        await sql.execute("""select eventstore.append_events('x', '[{"type": "A"}]')""")
    event = await sql.fetchrow("select id, recorded_at from eventstore.events where position = 2")
    assert event is not None
    await ledger.create("s", EventType("A"))
    await ledger.ack("s", 3)
    assert (await ledger.rewind("s", event["id"])).after == 2
    assert (await ledger.rewind("s", event["recorded_at"] - timedelta(microseconds=1))).after == 1


@pytest.mark.parametrize("after", ["current", True, -1, 1.5, None, UUID(int=5)])
async def test_a_rewind_to_nowhere_is_refused(ledger: Ledger, after: Any) -> None:
    await ledger.create("s", All())
    with pytest.raises(ConfigurationError):
        await ledger.rewind("s", after)
    with pytest.raises(CheckpointAheadOfLog):
        await ledger.rewind("s", 1)


async def test_psql_may_not_rewind_to_what_would_skip(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await ledger.create("s", All())
    for after in ('"current"', "null", "[]", "-1"):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await sql.execute("select eventstore.rewind_subscription_v1('s', $1)", after)
        assert caught.value.sqlstate == "ES006"


async def test_operators_are_told_of_an_unknown_name(ledger: Ledger) -> None:
    for call in (
        ledger.pause("no"), ledger.resume("no"), ledger.ack("no", 0), ledger.rewind("no", 0), ledger.resize("no", 1),
        ledger.update("no", {}), ledger.parked("no"), ledger.replay_parked("no"), ledger.discard_parked("no"),
        ledger.lag("no"),
    ):  # fmt: skip
        with pytest.raises(SubscriptionNotFound, match="'no'"):
            await call


async def test_other_options_fence_everything_under_way_and_move_nothing(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    claims = (await ledger.claim(node := await joined(ledger), ["s"])).claims
    await ledger.settle(node, [(claim, 5) for claim in claims])
    assert await ledger.update("s", {"policy": {"attempts": 2}})
    assert [await ledger.settle_one(claim, 9) for claim in claims] == [False, False]
    assert [one.release for one in await ledger.owned(node)] == [None, None]
    again = (await ledger.claim(node, ["s"])).claims
    assert [(one.checkpoint, one.epoch, one.options) for one in again] == [(5, 3, {"policy": {"attempts": 2}})] * 2


async def test_an_update_waits_for_a_settlement_instead_of_meeting_it_in_a_deadlock(ledger: Ledger, sql: Any) -> None:
    await ledger.create("s", All())
    (claim,) = (await ledger.claim(await joined(ledger), ["s"])).claims
    async with sql.transaction():
        await ledger.settle_one(claim, 1, on=sql)
        updating = asyncio.create_task(ledger.update("s", {"sink": "stdout"}))
        await waits(sql, updating)
        assert await ledger.settle_one(claim, 2, [FAILED], on=sql)
    assert await updating


# -- resizing


async def test_a_resize_waits_until_nobody_runs_a_partition(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    node, other = await joined(ledger), await joined(ledger)
    claims = (await ledger.claim(node, ["s"])).claims
    assert not await ledger.resize("s", 3)
    assert await ledger.claim(other, ["s"]) == Claimed([], 0)
    made = await ledger.get("s")
    assert (made.pool_size, made.resize_to) == (2, 3)
    await ledger.release(node, [(claim, 4) for claim in claims])
    got = (await ledger.claim(other, ["s"])).claims + (await ledger.claim(node, ["s"])).claims
    assert sorted((one.partition, one.pool_size, one.checkpoint) for one in got) == [(n, 3, 4) for n in range(3)]
    assert (await ledger.get("s")).resize_to is None


async def test_a_pending_resize_is_taken_back_by_asking_for_the_size_there_is(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    node = await joined(ledger)
    claims = (await ledger.claim(node, ["s"])).claims
    assert [await ledger.resize("s", 5), await ledger.resize("s", 2)] == [False, True]
    assert [one.release for one in await ledger.owned(node)] == [None, None]
    assert await ledger.settle(node, [(claim, 1) for claim in claims]) == {claim.key for claim in claims}


async def test_a_resize_that_finds_a_row_locked_is_counted_as_missing(ledger: Ledger, sql: Any) -> None:
    await ledger.create("s", All(), pool_size=2)
    node = await joined(ledger)
    claims = (await ledger.claim(node, ["s"])).claims
    await ledger.resize("s", 3)
    await ledger.release(node, [(claim, None) for claim in claims])
    async with sql.transaction():
        await sql.execute("select from eventstore.checkpoints where partition = 1 for update")
        assert await ledger.claim(node, ["s"]) == Claimed([], 1)
    assert len((await ledger.claim(node, ["s"])).claims) == 3


async def test_a_partition_that_comes_back_has_a_higher_epoch(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=4)
    epochs = [partition.epoch for partition in (await ledger.get("s")).partitions]
    for size in (1, 4):
        assert await ledger.resize("s", size)
    assert all(p.epoch > before for p, before in zip((await ledger.get("s")).partitions, epochs, strict=True))


@pytest.mark.parametrize("size", [1, 6])
async def test_a_resize_raises_every_epoch_above_all_there_were(ledger: Ledger, size: int, sql: Any) -> None:
    """A stream changes its partition, and whoever fences by epoch outside must not meet a lower one."""
    await ledger.create("s", All(), pool_size=4)
    await sql.execute("update eventstore.checkpoints set epoch = 10 * partition")
    assert await ledger.resize("s", size)
    rows = await sql.fetch("select epoch from eventstore.checkpoints")
    assert [row["epoch"] for row in rows] == [31] * max(size, 4)


async def test_rows_beyond_the_pool_are_seen_by_nobody(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await drawn(sql, 9)
    await ledger.create("s", All(), pool_size=4)
    await ledger.resize("s", 1)
    node = await joined(ledger)
    assert [one.partition for one in (await ledger.claim(node, ["s"])).claims] == [0]
    assert len((await ledger.get("s")).partitions) == 1
    assert len((await ledger.lag("s"))[0].partitions) == 1
    assert await ledger.ack("s", 5) == 1
    assert await sql.fetchval("select count(*) from eventstore.checkpoints") == 4


async def test_a_partition_is_halted_if_one_was_whose_buckets_it_took(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    claims = (await ledger.claim(node := await joined(ledger), ["s"])).claims
    halted = next(claim for claim in claims if claim.partition == 1)
    await ledger.halt(halted, ValueError("why"))
    await ledger.leave(node)
    await ledger.resize("s", 4)
    assert [one.state for one in (await ledger.get("s")).partitions] == ["idle", "halted", "idle", "halted"]


async def test_floors_reach_the_claim_and_a_rewind_lowers_them(ledger: Ledger, sql: asyncpg.Connection) -> None:
    await drawn(sql, 9)
    await ledger.create("s", All(), pool_size=2)
    node = await joined(ledger)
    claims = (await ledger.claim(node, ["s"])).claims
    await ledger.release(node, [(claim, 2 + 6 * claim.partition) for claim in claims])
    await ledger.resize("s", 1)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    assert (claim.checkpoint, claim.floors) == (2, (2, 8) * 512)
    await ledger.rewind("s", 5)
    (claim,) = (await ledger.claim(node, ["s"])).claims
    assert (claim.checkpoint, claim.floors) == (2, (2, 5) * 512)
    await ledger.rewind("s", 2)
    assert (await ledger.claim(node, ["s"])).claims[0].floors is None


SIZES = st.integers(1, 12) | st.integers(1, 1024)


@QUICKLY
@given(size=SIZES, steps=st.lists(st.tuples(SIZES, st.randoms(use_true_random=False)), min_size=1, max_size=5))
def test_no_resize_loses_an_event_or_delivers_one_again(
    plain: psycopg.Connection[Any], size: int, steps: list[tuple[int, Any]]
) -> None:
    """The model: how far each bucket is settled, which progress moves and a resize does not."""
    create(plain, size)
    model, epochs = [0] * 1024, dict.fromkeys(range(size), 0)
    for wanted, rng in steps:
        moved = {number: rng.choice([0, rng.randrange(100)]) for number in range(size)}
        plain.execute(
            "update eventstore.checkpoints set position = position + by"
            " from unnest(%s::int[], %s::bigint[]) as moved(number, by) where partition = number",
            [list(moved), list(moved.values())],
        )
        checkpoints, _, _ = stored(plain)
        model = [max(done, checkpoints[bucket % size]) for bucket, done in enumerate(model)]
        assert plain.execute("select eventstore.resize_subscription_v1('s', %s)", [wanted]).fetchone() == (True,)
        checkpoints, floors, now = stored(plain)
        changed, size = wanted != size, wanted
        assert [max(checkpoints[b % size], floors[b] if floors else 0) for b in range(1024)] == model
        assert not changed or [checkpoints[n] for n in range(size)] == [min(model[n::size]) for n in range(size)]
        assert not changed or all(now[number] > before for number, before in epochs.items())
        epochs = now


def stored(plain: psycopg.Connection[Any]) -> tuple[dict[int, int], list[int] | None, dict[int, int]]:
    rows = plain.execute("select partition, position, epoch from eventstore.checkpoints").fetchall()
    floors = plain.execute("select floors from eventstore.subscriptions").fetchone()
    assert floors is not None
    return {row[0]: row[1] for row in rows}, floors[0], {row[0]: row[2] for row in rows}
