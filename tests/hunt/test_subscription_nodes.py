"""Nodes that deliver, in processes of their own, which are killed, halted, resized, drained and given bad handlers."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventstore import All, Event, EventStore, NewEvent, Subscription
from tests.conftest import QUICK
from tests.faults.figures import note
from tests.faults.test_planted import UNFENCED
from tests.hunt.delivering import ROOT, Hunt, Node, hunting
from tests.hunt.journal import Entry
from tests.hunt.racing import FULL, SEED, edit, stores, times
from tests.hunt.subscription_node import Plan

pytestmark = pytest.mark.hunt

TTL = 0.5

FOLDED = "create table folded (stream text primary key, count bigint, sum bigint, last bigint)"
MISFOLDED = """
select * from (select stream, count(*) count, sum(data::text::bigint) sum, max(version) last
                 from eventstore.events group by stream) log
         full join folded using (stream)
 where (log.count, log.sum, log.last) is distinct from (folded.count, folded.sum, folded.last)
"""


# -- killed


async def test_nodes_killed_again_and_again_lose_and_invert_nothing(db: str, tmp_path: Path) -> None:
    events, streams, kills = times(2_000, 100_000), times(60, 500), times(2, 30)
    async with hunting(db, tmp_path, Plan(run=("plain", "fold"), pause=0.001, settle=0.5, lease_ttl=1.0)) as hunt:
        await hunt.sql.execute(FOLDED)
        nodes = [await hunt.start(name) for name in "abcd"]
        await hunt.until(lambda: each_owns_some(hunt, nodes))
        load = asyncio.create_task(hunt.fill(events, streams, pause=0.05))
        async with hunt.loaded(streams, at_once=10, pause=0.05):  # until the last kill, however fast all that is
            for number in range(kills):
                await (asyncio.sleep(2) if FULL else hunt.settles(40))
                await nodes[number % 4].kill()
                nodes[number % 4] = await hunt.start("abcd"[number % 4])
        await load
        await hunt.settled("plain", "fold", timeout=300)
        await hunt.end()
        assert await hunt.sql.fetch(MISFOLDED) == []
        journals = await hunt.journals()
    assert hunt.checked(journals, "plain", "fold") == {}
    tell_of_repeats(journals, kills, hunt.plan.window)


def tell_of_repeats(journals: list[Entry], kills: int, window: int) -> None:
    begun = Counter(one.id for one in journals if one.kind == "begin")
    repeats = begun.total() - len(begun)
    print(f"{len(begun)} events, {kills} kills: {repeats} repeats ({repeats / kills:.1f} a kill, window {window})")
    note(events=len(begun), kills=kills, repeats=repeats, window=window, anomalies=0)


# -- halted


Sabotage = Callable[[Hunt, list[asyncpg.Record]], Awaitable[None]]

OWNED = """
select c.subscription_id, c.partition, c.epoch, c.position, c.owner
  from eventstore.checkpoints c join eventstore.nodes n on n.incarnation = c.owner where n.name = $1
"""


async def halt_again_and_again(hunt: Hunt, rounds: int, sabotage: Sabotage) -> None:
    """Halt one of two nodes for three leases, so often, under load; the other takes over, then gives back."""
    nodes = [await hunt.start(name) for name in "ab"]
    async with hunt.loaded(20, at_once=5, pause=0.02):
        for number in range(rounds):
            halted, other = nodes[number % 2], nodes[1 - number % 2]
            await hunt.until(lambda: both_own(hunt, nodes))
            before = await hunt.sql.fetch(OWNED, halted.name)
            halted.stop()
            ends = time.monotonic() + 3 * TTL
            await hunt.until(lambda other=other: owns_all(hunt, other))  # type: ignore[misc]
            await hunt.settles(4)
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
            await sabotage(hunt, before)
            halted.go_on()
        await hunt.until(lambda: both_own(hunt, nodes))
    await hunt.settled(*hunt.plan.run)
    await hunt.end()


async def both_own(hunt: Hunt, nodes: list[Node]) -> bool:
    return [await hunt.owns(node) for node in nodes] == [len(hunt.plan.run) * hunt.plan.pool_size // 2] * 2


async def owns_all(hunt: Hunt, node: Node) -> bool:
    return await hunt.owns(node) == len(hunt.plan.run) * hunt.plan.pool_size


async def write_as_before(hunt: Hunt, before: list[asyncpg.Record]) -> None:
    """Try every write of an owner under what the halted one held: none may change anything."""
    head = await hunt.store.head()
    async with hunt.sql.transaction():  # locked, nobody else changes them meanwhile
        await write_under(hunt, before, head)


async def write_under(hunt: Hunt, before: list[asyncpg.Record], head: int) -> None:
    state = (
        "select subscription_id, partition, epoch, owner, halted from eventstore.checkpoints order by 1, 2 for update"
    )
    stored = await hunt.sql.fetch(state)
    for one in before:
        claim = (one["owner"], one["subscription_id"], one["partition"], one["epoch"])
        lists = (one["owner"], [one["subscription_id"]], [one["partition"]], [one["epoch"]], [head])
        for several in ("settle_partitions_v1", "release_partitions_v1"):
            assert await hunt.sql.fetch(f"select * from eventstore.{several}($1, $2, $3, $4, $5)", *lists) == []
        row = '[{"position": 1, "bucket": 0, "key": "s:s0", "state": "parked", "blocking": true, "attempts": 1}]'
        single = "select eventstore.settle_partition_v1($1, $2, $3, $4, $5, $6, '{}')"
        assert not await hunt.sql.fetchval(single, *claim, head, row)
        assert not await hunt.sql.fetchval("select eventstore.halt_partition_v1($1, $2, $3, $4, '{}')", *claim)
    assert await hunt.sql.fetch(state) == stored
    assert await hunt.sql.fetchval("select count(*) from eventstore.parked") == 0


async def test_a_node_that_was_halted_can_write_nothing_and_gets_partitions_again(db: str, tmp_path: Path) -> None:
    plan = Plan(run=("plain", "fold"), pool_size=4, lease_ttl=TTL, pause=0.005)
    async with hunting(db, tmp_path, plan, (400, 1_200)) as hunt:
        await hunt.sql.execute(FOLDED)
        await halt_again_and_again(hunt, rounds := times(2, 200), write_as_before)
        assert await hunt.anomalies(*plan.run) == {}
        assert await hunt.sql.fetch(MISFOLDED) == []
        epochs = await hunt.sql.fetch("select epoch from eventstore.checkpoints")
        note(events=hunt.appended, halts=rounds, epochs=sum(row["epoch"] for row in epochs), stale_writes_taken=0)


async def test_an_owner_of_before_who_may_still_settle_is_caught(db: str, tmp_path: Path) -> None:
    async with hunting(db, tmp_path, Plan(pool_size=4, lease_ttl=TTL)) as hunt:
        await hunt.fill(20, 20)
        first = await hunt.start("a")
        await hunt.until(lambda: owns_all(hunt, first))
        before = await hunt.sql.fetch(OWNED, first.name)
        await first.kill()
        second = await hunt.start("b")
        await hunt.until(lambda: owns_all(hunt, second))
        await write_as_before(hunt, before)
        await hunt.sql.execute(UNFENCED)
        with pytest.raises(AssertionError):
            await write_as_before(hunt, before)
        await hunt.end()


async def write_unfenced(hunt: Hunt, before: list[asyncpg.Record]) -> None:
    """The planted bug: what a halted owner had settled is written where another owner has gone on."""
    one = before[0]
    claim = (one["subscription_id"], one["partition"], one["position"])
    where = "where subscription_id = $1 and partition = $2 and position > $3"
    await hunt.until(lambda: hunt.sql.fetchval(f"select count(*) from eventstore.checkpoints {where}", *claim))
    await hunt.sql.execute(f"update eventstore.checkpoints set position = $3 {where}", *claim)


async def write_unfenced_and_ahead(hunt: Hunt, before: list[asyncpg.Record]) -> None:
    """The planted bug: what a halted owner had in hand is settled, while it is not handled where it belongs now."""
    async with hunt.sql.transaction():
        for number in range(20):
            # To streams that nobody else appends to, whose locks would be taken in another order.
            await hunt.store.append(f"ahead-{number}", [NewEvent("T", 0)], connection=hunt.sql)
            hunt.appended += 1
        await hunt.sql.execute(
            "update eventstore.checkpoints set position = (select max(position) from eventstore.events)"
        )


async def write_an_old_epoch(hunt: Hunt, before: list[asyncpg.Record]) -> None:
    """The planted bug: an epoch is taken over from what a halted owner knew."""
    await hunt.sql.execute("update eventstore.checkpoints set epoch = epoch - 1")


async def test_the_same_hunt_catches_writes_without_a_fence(db: str, tmp_path: Path) -> None:
    planted = [write_unfenced, write_unfenced_and_ahead, write_an_old_epoch]

    async def sabotage(hunt: Hunt, before: list[asyncpg.Record]) -> None:
        await planted.pop(0)(hunt, before)

    async with hunting(db, tmp_path, Plan(pool_size=4, lease_ttl=TTL)) as hunt:
        await halt_again_and_again(hunt, 3, sabotage)
        assert {"checkpoint_fell", "settled_unhandled", "epoch_fell"} <= (await hunt.anomalies("plain")).keys()


# -- created at once


async def test_nodes_that_create_a_subscription_from_now_on_at_once_agree_on_its_start(db: str) -> None:
    rounds = times(3, 500)
    rng = random.Random(SEED)
    # Not the short lease: one loop runs 16 nodes and a thousand partitions, and repeats are not what this is about.
    async with stores(db, 16, replace(QUICK, connections=2, lease_ttl=60.0)) as nodes, asyncio.timeout(times(400, 900)):
        async with appending(nodes[0], db, rng):
            created = [await created_by_all(nodes, f"from now {number}") for number in range(rounds)]
        log = [event async for event in nodes[0].read_all()]
        got = await delivered(nodes[1], created, log)
    for one in created:
        assert got[one.name] == [event.position for event in log if event.position > one.start_position], SEED
    note(nodes=len(nodes), rounds=rounds, events=len(log), missed=0)


async def test_nodes_of_which_each_begins_at_its_own_moment_are_caught(db: str, sql: asyncpg.Connection) -> None:
    own = "do update set start_position = excluded.start_position"
    await edit(sql, "create_subscription_v1", "do nothing", own)
    await edit(sql, "create_subscription_v1", "p_pool_size - 1) n", "p_pool_size - 1) n on conflict do nothing")
    async with stores(db, 8, replace(QUICK, connections=2)) as nodes, appending(nodes[0], db, random.Random(SEED)):
        with pytest.raises(AssertionError):
            await asyncio.wait_for(create_one_after_another(nodes), 300)


async def create_one_after_another(nodes: list[EventStore]) -> None:
    for number in count():
        await created_by_all(nodes, f"from now {number}")


async def created_by_all(nodes: list[EventStore], name: str) -> Subscription:
    """Create it on every node at once; nothing appended afterwards may be missed."""
    found = await asyncio.gather(*(node.subscribe(name, All(), pool_size=2, after="current") for node in nodes))
    result = await nodes[0].append("after", [NewEvent("T")])
    assert len({(one.id, one.key, one.start_position, one.created_at) for one in found}) == 1
    assert {one.after for one in found} == {"current"}
    assert found[0].start_position < result.first_position
    return found[0]


@asynccontextmanager
async def appending(store: EventStore, dsn: str, rng: random.Random) -> Any:
    """Append for as long as the block runs, half of it in transactions that pause before they commit."""
    connection, enough = await asyncpg.connect(dsn), asyncio.Event()

    async def append() -> None:
        while not enough.is_set():
            await store.append(f"s{rng.randrange(10)}", [NewEvent("T")])
            async with connection.transaction():
                await store.append(f"t{rng.randrange(10)}", [NewEvent("T")], connection=connection)
                await asyncio.sleep(rng.random() * 0.01)

    task = asyncio.create_task(append())
    try:
        yield
    finally:
        enough.set()  # and not cancelled: what is under way may be stored all the same, after the log was read
        await task
        await connection.close()


async def delivered(store: EventStore, created: list[Subscription], log: list[Event]) -> dict[str, list[int]]:
    """Return the positions that each subscription delivers, up to the end of the log."""
    got: dict[str, list[int]] = {one.name: [] for one in created}

    def collect(name: str) -> None:
        @store.handler(name, batch_size=100)
        async def handle(events: list[Event], _: object) -> None:
            got[name] += [event.position for event in events]

    for name in got:
        collect(name)
    run = asyncio.create_task(store.run())
    for name in got:
        await store.subscriptions.wait_for(name, log[-1].position, timeout=300)
    run.cancel()
    await asyncio.wait([run])
    return {name: sorted(positions) for name, positions in got.items()}


# -- resized


async def test_resizing_under_load_loses_repeats_and_inverts_nothing(db: str, tmp_path: Path) -> None:
    async with hunting(db, tmp_path, Plan(pool_size=1)) as hunt:
        for name in "ab":
            await hunt.start(name)
        async with hunt.loaded(50, at_once=20, pause=0.01):
            await hunt.stored("plain")
            for _ in range(times(1, 20)):
                for size in (8, 3, 1):
                    await hunt.settles(5)
                    await hunt.store.subscriptions.resize("plain", size, timeout=120)
        await hunt.settled("plain")
        await hunt.end()
        # Partitions are other ones after each resize: their checkpoints say nothing about those before.
        journals = [one for one in await hunt.journals() if one.kind != "moved"]
        print(f"{hunt.appended} events while resized")
        assert hunt.checked(journals, "plain") == {}


# -- parked


FAILING = ("s0", "s1", "s2")
PATIENCE = {"attempts": 2, "delay": 0.01, "delay_max": 0.02}


async def test_keys_that_fail_hold_back_no_others_and_are_replayed_in_order(db: str, tmp_path: Path) -> None:
    events, mended = times(500, 20_000), tmp_path / "mended"
    plan = Plan(failing=FAILING, mended=str(mended), policy=PATIENCE)
    async with hunting(db, tmp_path, plan) as hunt:
        await hunt.fill(events, 100)
        for name in "ab":
            await hunt.start(name)
        await hunt.settled("plain")
        parked = await hunt.store.subscriptions.parked("plain")
        assert [one.position for one in parked] == await positions_of(hunt, FAILING)
        mended.touch()
        assert await hunt.store.subscriptions.replay_parked("plain") == len(parked)
        await hunt.until(lambda: parked_at_most(hunt, 0))
        await hunt.end()
        journals = await hunt.journals()
    assert hunt.checked(journals, "plain") == {}
    # All were handled in the end, in order; parked does not count.
    assert hunt.checked([one for one in journals if one.kind not in ("parked", "moved")], "plain") == {}
    note(events=events, parked_and_replayed=len(parked))


async def test_parked_keys_survive_kills_also_in_the_middle_of_their_replay(db: str, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    plan = Plan(failing=FAILING, mended=str(mended), policy=PATIENCE, pause=0.005, lease_ttl=1.0)
    async with hunting(db, tmp_path, plan) as hunt:
        await hunt.fill(times(400, 20_000), 30)
        nodes = [await hunt.start(name) for name in "ab"]
        await hunt.until(lambda: hunt.sql.fetchval("select count(*) >= 20 from public.moves"))
        await nodes.pop(0).kill()
        nodes.append(await hunt.start("c"))
        await hunt.settled("plain")
        parked = await hunt.store.subscriptions.parked("plain")
        assert [one.position for one in parked] == await positions_of(hunt, FAILING)
        mended.touch()
        await hunt.store.subscriptions.replay_parked("plain")
        await hunt.until(lambda: parked_at_most(hunt, 2 * len(parked) // 3))
        for node in nodes:
            await node.kill()
        await hunt.start("d")
        await hunt.until(lambda: parked_at_most(hunt, 0))
        await hunt.end()
        journals = await hunt.journals()
    assert hunt.checked(journals, "plain") == {}
    assert hunt.checked([one for one in journals if one.kind not in ("parked", "moved")], "plain") == {}


async def positions_of(hunt: Hunt, streams: tuple[str, ...]) -> list[int]:
    query = "select position from eventstore.events where stream = any ($1) order by position"
    return [row["position"] for row in await hunt.sql.fetch(query, list(streams))]


async def parked_at_most(hunt: Hunt, left: int) -> bool:
    return bool(await hunt.sql.fetchval("select count(*) <= $1 from eventstore.parked", left))


EVENTS, STREAMS = 100_000, 1_000
"""So many that the pauses before the last attempts do not count, of which one in a thousand fails."""


@pytest.mark.skipif(not FULL, reason="a figure, which needs the time")
async def test_throughput_beside_keys_that_fail(db: str, tmp_path: Path) -> None:
    bad = FAILING[:1]
    took: dict[tuple[str, ...], list[float]] = {(): [], bad: []}
    async with hunting(db, tmp_path, Plan(policy=PATIENCE, window=1_000)) as hunt:
        await hunt.fill(EVENTS, STREAMS)
        for failing in [(), bad] * 3:
            hunt.plan = replace(hunt.plan, failing=failing)
            node = await hunt.start("a")
            await node.says("ready")
            began = time.monotonic()
            await hunt.settled("plain")
            took[failing].append(time.monotonic() - began)
            await hunt.end()
            await hunt.store.unsubscribe("plain")
    others = EVENTS * (1 - 1 / STREAMS)
    well, beside = EVENTS / min(took[()]), others / min(took[bad])
    note(alone_per_second=round(well), beside_per_second=round(beside), ratio_percent=round(100 * beside / well))
    assert beside / well >= 0.9


# -- drained


async def test_a_node_that_is_asked_to_stop_ends_what_it_has_in_hand_and_the_next_goes_on(
    db: str, tmp_path: Path
) -> None:
    rounds = times(2, 100)
    # A lease that ran out could not be given back.
    async with hunting(db, tmp_path, Plan(run=("batch",), pool_size=4, pause=0.05, lease_ttl=30.0)) as hunt:
        took = await stop_again_and_again(hunt, rounds)
        # Nothing is lost, nothing comes twice, and no checkpoint was ever beyond what was through.
        assert await hunt.anomalies("batch") == {}, SEED
        assert max(took) <= times(30, 10)
        note(stops=rounds, slowest_s=round(max(took), 2), grace_s=hunt.plan.settings.drain_grace, anomalies=0)


async def stop_again_and_again(hunt: Hunt, rounds: int) -> list[float]:
    """Ask a node to stop in the middle of a batch, so often, and let another handle the rest; how long each took."""
    rng, took = random.Random(SEED), []
    for _ in range(rounds):
        node = await hunt.start("a")
        await hunt.fill(times(200, 400), 20)
        await node.says("batch")
        await asyncio.sleep(rng.random() * 0.05)
        began = time.monotonic()
        assert await node.ends(within=hunt.plan.settings.drain_grace) == 0
        took.append(time.monotonic() - began)
        assert await hunt.sql.fetchval("select count(owner) from eventstore.checkpoints") == 0
    await hunt.start("last")
    await hunt.settled(*hunt.plan.run)
    await hunt.end()
    return took


async def test_what_is_settled_before_it_is_handled_is_caught(db: str, tmp_path: Path) -> None:
    async with hunting(db, tmp_path, Plan(run=("hasty",), pool_size=4, pause=60.0)) as hunt:
        await stop_again_and_again(hunt, 1)
        assert "settled_unhandled" in await hunt.anomalies("hasty")


APP = """
from pathlib import Path
from eventstore import EventStore, Settings
from tests.hunt.subscription_node import Noted, Plan, register

store = EventStore(settings=Settings(drain_grace=600.0))
register(store, Plan(pool_size=1, pause=600.0), Noted(Path("work.jsonl"), "work"), ["batch"])
"""


async def test_asked_twice_to_stop_work_stops_at_once_and_settles_nothing(db: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EVENTSTORE_DSN": db}
    async with hunting(db, tmp_path, Plan(run=("batch",))) as hunt:
        await hunt.fill(50, 5)
        for _ in range(times(1, 10)):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "eventstore.cli", "work", "--app", "app:store", "-v", cwd=tmp_path,
                env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            hunt.nodes.append(node := Node("work", process, hunt))
            await node.says("batch")
            node.process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            while b"draining" not in (line := await process.stderr.readline()):
                assert line, "it ended"
            assert await node.ends() == 143
            rows = await hunt.sql.fetch("select position, owner from eventstore.checkpoints")
            assert [tuple(row) for row in rows] == [(0, None)]
    note(stopped_twice=times(1, 10), settled=0)


# -- bad handlers


WRONG = {
    "hangs": NewEvent("Hangs"),
    "raises": NewEvent("Raises"),
    "returns": NewEvent("Returns"),
    "unreadable": NewEvent("Order", {"total": "many"}),
}
ERRORS = {"hangs": "TimeoutError", "raises": "ValueError", "returns": "TypeError", "unreadable": "UnreadableEvent"}
STRICT = PATIENCE | {"timeout": 0.3}


async def append_wrong(hunt: Hunt, *more: NewEvent) -> None:
    """Append what handlers fail on, something after it, and other streams."""
    for stream, event in WRONG.items():
        await hunt.store.append(stream, [event, NewEvent("T")])
    for event in more:
        await hunt.store.append(event.type, [event, NewEvent("T")])
    hunt.appended += 2 * (len(WRONG) + len(more))
    await hunt.fill(200, 40)


async def test_whatever_a_handler_does_wrong_is_recorded_and_holds_back_its_own_stream_only(
    db: str, tmp_path: Path
) -> None:
    plan = Plan(run=("odd",), lease_ttl=TTL, policy=STRICT, mended=str(tmp_path / "blocked"))
    async with hunting(db, tmp_path, plan) as hunt:
        await append_wrong(hunt, NewEvent("Blocks"))
        nodes = [await hunt.start(name) for name in "ab"]
        await hunt.settled("odd")
        for node in nodes:
            hunt.note(Entry("stop", node.name))  # either of them was blocked for longer than its lease
        await hunt.end()
        parked = await hunt.store.subscriptions.parked("odd")
        assert {one.key: one.error for one in parked if one.attempts} == ERRORS
        assert sorted(one.key for one in parked if not one.attempts) == sorted(WRONG)
        journals = await hunt.journals()
    epochs = {one.epoch for one in journals if one.kind == "begin" and one.stream == "Blocks" and one.version == 1}
    assert len(epochs) >= 2  # the lease of the node that was blocked ran out, and it could settle nothing
    assert hunt.checked(journals, "odd") == {}
    note(wrong_handlers=len(ERRORS) + 1, parked=len(parked), anomalies=0)


async def test_a_policy_that_halts_stops_the_partitions_of_what_failed_and_no_others(db: str, tmp_path: Path) -> None:
    plan = Plan(run=("odd",), pool_size=64, policy=STRICT | {"then": "halt"})
    async with hunting(db, tmp_path, plan) as hunt:
        await append_wrong(hunt)
        await hunt.start("a")
        buckets = await hunt.sql.fetch("select distinct stream, bucket from eventstore.events")
        partition = {row["stream"]: row["bucket"] % 64 for row in buckets}
        wrong = {partition[stream]: error for stream, error in ERRORS.items()}
        await hunt.stored("odd")
        await hunt.until(lambda: hunt.sql.fetchval(NOTHING_LEFT))
        await hunt.end()
        stored = (await hunt.store.subscriptions.get("odd")).partitions
        assert (await hunt.anomalies("odd")).keys() == {"unseen"}  # the rest of those partitions
    assert {one.number: one.halted["error"] for one in stored if one.halted} == wrong


NOTHING_LEFT = """
select bool_and(c.halted is not null or c.position >= e.last)
  from (select bucket % 64 partition, max(position) last from eventstore.events group by 1) e
  join eventstore.checkpoints c using (partition)
"""


# -- a file

HEADER = ("case:channel", "case:concept:name", "case:department", "concept:instance", "concept:name",
          "lifecycle:transition", "org:resource", "time:timestamp")  # fmt: skip
ACTIVITIES = ("Confirmation of receipt", "T02 Check", "T03 Adjust", "T04 Determine", "T05 Print", "T10 Stop")
CASE, ACTIVITY = "case:concept:name", "concept:name"
FILE = os.environ.get("HUNT_CSV")
"""A log of cases of one's own to replay; a small one is made otherwise."""


def made_up(path: Path, cases: int, rng: random.Random) -> Path:
    """Write a log of cases whose events come mixed."""
    with path.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(HEADER)
        for number in range(6 * cases):
            case, activity = f"case-{rng.randrange(cases)}", rng.choice(ACTIVITIES)
            at = f"2024-01-{1 + number * 27 // (6 * cases):02} 10:00:00.{number:06}+01:00"
            writer.writerow(("Internet", case, "General", f"task-{number}", activity, "complete", "R1", at))
    return path


async def test_a_file_replayed_through_four_processes_folds_to_what_the_file_says(db: str, tmp_path: Path) -> None:
    file = Path(FILE) if FILE else made_up(tmp_path / "log.csv", times(100, 1_000), random.Random(SEED))
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    async with hunting(db, tmp_path, Plan(run=("cases",), pause=0.05)) as hunt:
        await hunt.sql.execute(
            "create table cases (name text primary key, events int, last text);"
            "create table activities (name text, partition int, count int, primary key (name, partition))"
        )
        await imported(file, db)
        hunt.appended = len(rows)
        case = rows[len(rows) // 2][CASE]
        await hunt.sql.execute(GATE.replace("CASE", case.replace("'", "''")))
        await hunt.sql.execute("select pg_advisory_lock(1)")
        nodes = [await hunt.start(name) for name in "abcd"]
        await hunt.until(lambda: each_owns_some(hunt, nodes))
        await hunt.until(lambda: hunt.sql.fetchval("select sum(events) >= $1 from cases", len(rows) // 2))
        assert await hunt.sql.fetchval("select sum(events) < $1 from cases", len(rows))
        while (owner := await hunt.sql.fetchval(OWNER_OF, case)) is None:
            await asyncio.sleep(0.01)
        await next(node for node in nodes if node.name == owner).kill()
        await hunt.sql.execute("select pg_advisory_unlock(1)")
        await hunt.settled("cases")
        await hunt.end()
        cases = {row["name"]: (row["events"], row["last"]) for row in await hunt.sql.fetch("select * from cases")}
        activities = await hunt.sql.fetch("select name, sum(count)::int from activities group by name")
        assert await hunt.anomalies("cases") == {}
    counts = Counter(row[CASE] for row in rows)
    last = {row[CASE]: row[ACTIVITY] for row in rows}
    print(f"{len(rows)} events of {len(counts)} cases")
    assert cases == {case: (counts[case], last[case]) for case in counts}
    assert dict(map(tuple, activities)) == Counter(row[ACTIVITY] for row in rows)


GATE = """
create function wait_at_the_gate() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(1);
    return new;
end $$;
create trigger gate before insert or update on cases for each row when (new.name = 'CASE')
    execute function wait_at_the_gate();
"""
"""One case is not folded as long as somebody else holds the lock: whoever has it in hand is killed in the middle."""

OWNER_OF = """
select n.name from eventstore.checkpoints c join eventstore.nodes n on n.incarnation = c.owner
 where c.partition = (select bucket % 8 from eventstore.events where stream = $1 limit 1)
"""


async def each_owns_some(hunt: Hunt, nodes: list[Node]) -> bool:
    return all([await hunt.owns(node) for node in nodes])


async def imported(file: Path, dsn: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "eventstore.cli", "import", str(file), "--stream", CASE, "--type", ACTIVITY,
        "--time", "time:timestamp", "--dsn", dsn, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
