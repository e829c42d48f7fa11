"""After a load run on two nodes every counter agrees with what SQL counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventstore import (
    All,
    AppendCondition,
    AppendConditionFailed,
    Delivery,
    Event,
    EventStore,
    EventType,
    FailurePolicy,
    NewEvent,
    StreamAppend,
    Tags,
    WrongExpectedVersion,
)
from eventstore.metrics import looking
from tests.conftest import QUICK
from tests.metrics.scraping import Scrape, scrape

STEADY = replace(QUICK, lease_ttl=60.0)
"""Nobody loses a lease, however busy the machine is."""

WRONG, BROKEN, REPEATED, ROLLED_BACK = 7, 5, 15, 3
"""Appends that fail by their version and by their condition, that are repeated, and whose transaction is undone."""


class Node:
    """A store whose handlers fail, give up and set aside as the events ask for."""

    def __init__(self, store: EventStore) -> None:
        self.store, self.repaired = store, False
        once = FailurePolicy(attempts=1, then="skip")
        twice = FailurePolicy(attempts=2, delay=0.001, then="park_event")
        store.handler("plain", EventType("A"), pool_size=4)(self.take)
        store.handler("skips", EventType("A"), pool_size=2, policy=once)(self.fail)
        store.handler("parks", EventType("A"), pool_size=2, policy=twice)(self.fail)
        store.handler("batches", EventType("A"), pool_size=2, batch_size=50)(self.take_all)
        store.projection("sums", All(), policy=FailurePolicy(attempts=1, then="skip"))(self.project)

    async def take(self, event: Event, delivery: Delivery) -> None: ...

    async def take_all(self, events: list[Event], delivery: Delivery) -> None: ...

    async def fail(self, event: Event, delivery: Delivery) -> None:
        if event.data["bad"] and not self.repaired:
            raise ValueError

    async def project(self, events: list[Event], tx: Any) -> None:
        if any(event.data["bad"] for event in events):
            raise ValueError


@pytest.fixture
async def nodes(db: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Node]]:
    """Two nodes that run, both with their eyes on the feed before the first event."""
    monkeypatch.setattr(looking, "EVERY", 0.0)
    async with AsyncExitStack() as stack:
        found = []
        for name in ("one", "two"):
            store = await stack.enter_async_context(EventStore(db, settings=STEADY, node_name=name))
            # Somebody who follows the log from its beginning, whatever partitions this node has.
            events = await stack.enter_async_context(store.listen(after=0))
            stack.callback(asyncio.ensure_future(_drained(events)).cancel)
            await _until(lambda store=store: store._feed.position is not None)  # type: ignore[misc]
            found.append(Node(store))
            await stack.enter_async_context(store.running())
        # A partition that changes hands is delivered again from its checkpoint, and rightly counted again.
        await _until(lambda: sorted(len(node.store._pools.emitters) for node in found) == [5, 6])
        yield found


async def _drained(events: AsyncIterator[Event]) -> None:
    async for _ in events:
        pass


async def _until(holds: Any) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


def event(number: int, **options: Any) -> NewEvent:
    return NewEvent("A", {"n": number, "bad": number % 10 == 0}, **options)


async def load(one: EventStore, two: EventStore, sql: asyncpg.Connection) -> None:
    """Append in every way there is."""

    async def caller(number: int) -> None:
        for each in range(8):
            await one.append(f"c-{number}", [event(number * 8 + each)])

    await asyncio.gather(*(caller(number) for number in range(30)))
    for _ in range(10):
        await two.append_many([StreamAppend(f"m-{part}", [event(part), event(part + 1)]) for part in range(5)])
    for number in range(20):
        await one.append(None, [event(number, tags=[f"t:{number}"])], condition=AppendCondition(Tags(f"t:{number}")))
    for number in range(BROKEN):
        with pytest.raises(AppendConditionFailed):
            await one.append(None, [event(number)], condition=AppendCondition(Tags(f"t:{number}")))
    for number in range(WRONG):
        with pytest.raises(WrongExpectedVersion):
            await two.append("c-1", [event(number)], expected=1)
    known = [event(number) for number in range(REPEATED)]
    for again in (False, True):
        for each in known:
            assert (await two.append("repeated", [each])).idempotent == again
    await two.append_known(["imported"] * (REPEATED + 5), [event(n) for n in range(REPEATED + 5)])
    for number in range(10):
        transaction = sql.transaction()
        await transaction.start()
        await two.append(f"lent-{number}", [event(number), event(number + 1)], connection=sql)
        await (transaction.rollback() if number < ROLLED_BACK else transaction.commit())


SUBSCRIPTIONS = ("plain", "skips", "parks", "batches", "sums")


async def settle(store: EventStore) -> None:
    head = await store.head()
    for name in SUBSCRIPTIONS:
        await store.subscriptions.wait_for(name, head, timeout=60)


async def counted_by_sql(sql: asyncpg.Connection) -> dict[str, int]:
    counts = {
        "events": "select count(*) from eventstore.events",
        "own": "select count(*) from eventstore.events where stream is null or not starts_with(stream, 'lent-')",
        "lent": "select count(*) from eventstore.events where starts_with(stream, 'lent-')",
        "head": "select eventstore.head()",
        "partitions": "select count(*) from eventstore.checkpoints where owner is not null",
        "failures": "select sum(attempts) from eventstore.parked p join eventstore.subscriptions s"
        " on s.id = p.subscription_id where s.name in ('skips', 'parks')",
    }
    found = {name: int(await sql.fetchval(query) or 0) for name, query in counts.items()}
    for name in SUBSCRIPTIONS:
        for state in ("parked", "skipped"):
            found[f"{name} {state}"] = await sql.fetchval(
                "select count(*) from eventstore.parked p join eventstore.subscriptions s on s.id = p.subscription_id"
                " where s.name = $1 and p.state = $2", name, state
            )  # fmt: skip
    return found


def disagreements(each: list[Scrape], sql: dict[str, int], *, replayed: int = 0) -> list[str]:
    """Compare what the nodes tell, one by one where both see everything and together elsewhere, with SQL."""
    both = Scrape.sum(each)
    failed = {"AppendConditionFailed": BROKEN, "WrongExpectedVersion": WRONG}
    failures = {
        one: both["eventstore_subscription_failed_deliveries_total", {"subscription": one}]
        for one in ("skips", "parks")
    }
    calls = [("eventstore_appends_total", {"outcome": one}) for one in ("stored", "repeated", "in_transaction")]
    pairs: list[tuple[str, float, float]] = [
        ("own", both["eventstore_appended_events_total", {"transaction": "own"}], sql["own"]),
        ("caller", both["eventstore_appended_events_total", {"transaction": "caller"}], sql["lent"] + 2 * ROLLED_BACK),
        ("repeated", both["eventstore_appends_total", {"outcome": "repeated"}], REPEATED),
        *((one, both["eventstore_append_failures_total", {"error": one}], count) for one, count in failed.items()),
        (
            "appends timed",
            both["eventstore_append_duration_seconds_count"],
            sum(both[call] for call in calls) + BROKEN + WRONG,
        ),
        ("partitions", both["eventstore_owned_partitions"], sql["partitions"]),
        (
            "failures",
            sum(failures.values()),
            sql["failures"],
        ),
    ]  # fmt: skip
    for name in SUBSCRIPTIONS:
        parked, skipped = sql[f"{name} parked"] + (replayed if name == "parks" else 0), sql[f"{name} skipped"]
        outcome = {
            one: both["eventstore_subscription_handled_events_total", {"subscription": name, "outcome": one}]
            for one in ("handled", "parked", "skipped", "replayed")
        }
        pairs += [
            (f"{name} handled", outcome["handled"], sql["events"] - parked - skipped),
            (f"{name} parked", outcome["parked"], parked),
            (f"{name} skipped", outcome["skipped"], skipped),
            (f"{name} replayed", outcome["replayed"], replayed if name == "parks" else 0),
        ]
    for one in ("plain", "skips", "parks"):
        labels = {"subscription": one}
        calls_of = both["eventstore_subscription_handler_duration_seconds_count", labels]
        done = [
            both["eventstore_subscription_handled_events_total", labels | {"outcome": how}]
            for how in ("handled", "replayed")
        ]
        pairs.append((f"{one} calls", calls_of, failures.get(one, 0) + sum(done)))  # fmt: skip
    for number, found in enumerate(each):
        pairs += [
            (f"feed of {number}", found["eventstore_read_events_total", {"reader": "feed"}], sql["events"]),
            (f"horizon of {number}", found["eventstore_horizon_position"], sql["head"]),
            (f"running of {number}", found["eventstore_partitions", {"state": "running"}], sql["partitions"]),
            (f"nodes of {number}", found["eventstore_nodes", {"state": "alive"}], 2),
            (f"parked of {number}", found["eventstore_parked_events", {"state": "waiting"}], sql["parks parked"]),
            *(
                (f"lag of {name}", found["eventstore_subscription_lag_positions", {"subscription": name}], 0)
                for name in SUBSCRIPTIONS
            ),
        ]
    return [f"{what}: {told:g} and not {right:g}" for what, told, right in pairs if told != right]


async def test_metrics_agree_with_what_sql_counts(nodes: list[Node], sql: asyncpg.Connection) -> None:
    one, two = (node.store for node in nodes)
    await load(one, two, sql)
    await settle(one)
    found, counted = [await scrape(one), await scrape(two)], await counted_by_sql(sql)
    assert counted["events"] > 400
    assert counted["parks parked"] > 30
    assert counted["skips skipped"] == counted["sums skipped"] == counted["parks parked"]
    assert disagreements(found, counted) == []

    # A counter that misses one, or counts one twice, is caught.
    for planted in (-1, 1):
        one.counts.events_stored += planted
        assert disagreements([await scrape(one), found[1]], counted) == [
            f"own: {counted['own'] + planted:g} and not {counted['own']:g}"
        ]
        one.counts.events_stored -= planted

    for node in nodes:
        node.repaired = True
    waiting = await one.subscriptions.replay_parked("parks")
    await _until(lambda: sum(dict(node.store.counts.subscriptions)["parks"].replayed for node in nodes) == waiting)
    counted |= {"parks parked": await sql.fetchval("select count(*) from eventstore.parked where state = 'parked'")}
    assert counted["parks parked"] == 0
    assert disagreements([await scrape(one), await scrape(two)], counted, replayed=waiting) == []
