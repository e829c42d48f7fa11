"""One node that delivers: ``python -m tests.hunt.subscription_node DSN JOURNAL NAME PLAN``, the plan in JSON.

Its journal: each partition claimed, released and lost, each call of a handler, each event it is through with. On stdout
it says "ready" when it has a lease, and "batch" when one is in hand.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import sleep
from typing import Any

import asyncpg
from pydantic import BaseModel

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, Settings, event_type
from tests.faults.clocks import mend_datetimes, set_clock
from tests.hunt.journal import Entry, Journal, now

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What a node does.

    Attributes:
        run: names of `HANDLERS`, each the name of its subscription too.
        pause: seconds a handler takes for an event, and a batch for all of its.
        failing: streams that "plain" refuses, or "picky" where that runs, as long as the file `mended` is not there.
        clock: of `tests.faults.clocks.CLOCKS`; the journal is in true time.
    """

    run: tuple[str, ...] = ("plain",)
    pool_size: int = 8
    lease_ttl: float = 2.0
    window: int = 100
    settle: float = 0.05
    pause: float = 0.0
    failing: tuple[str, ...] = ()
    mended: str = ""
    policy: dict[str, Any] = field(default_factory=dict)
    listen_dsn: str | None = None
    clock: str = ""

    def json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def settings(self) -> Settings:
        return Settings(
            connections=4,
            lease_ttl=self.lease_ttl,
            window=self.window,
            poll_interval=0.5,
            claim_interval=0.1,
            settle_interval=self.settle,
            drain_grace=60.0,
            listen_dsn=self.listen_dsn,
        )


class Noted:
    """The journal of this node."""

    def __init__(self, path: Path, name: str) -> None:
        self._journal, self._name = Journal(path), name

    def note(self, kind: Any, **fields: Any) -> None:
        self._journal.note(Entry(kind, self._name, at=now(), **fields))

    def event(self, kind: Any, event: Event, delivery: Delivery) -> None:
        self.note(
            kind, id=str(event.id), position=event.position, stream=event.stream or "", version=event.version or 0,
            subscription=delivery.subscription, partition=delivery.partition, epoch=delivery.epoch,
            attempt=delivery.attempt, bucket=event.bucket,
        )  # fmt: skip

    @contextmanager
    def handling(self, events: list[Event], delivery: Delivery) -> Iterator[None]:
        """Note that a handler begins with *events*, and how it ends."""
        for event in events:
            self.event("begin", event, delivery)
        try:
            yield
        except BaseException:
            for event in events:
                self.event("failed", event, delivery)
            raise
        for event in events:
            self.event("handled", event, delivery)

    def watch(self, store: EventStore) -> None:
        """Note what becomes of partitions."""
        moments = store._pools.moments
        reach = moments.reach

        def noting(name: str, value: Any = None) -> None:
            if name in ("claimed", "released", "lost"):
                self.note(
                    name, subscription=value.name, partition=value.partition, epoch=value.epoch,
                    position=value.checkpoint, pool_size=value.pool_size,
                )  # fmt: skip
            elif name == "registered":
                print("ready", flush=True)
            reach(name, value)

        moments.reach = noting  # type: ignore[method-assign]


def plain(store: EventStore, plan: Plan, noted: Noted) -> None:
    """One event a call."""
    singly("plain", store, plan, noted, () if "picky" in plan.run else plan.failing)


def picky(store: EventStore, plan: Plan, noted: Noted) -> None:
    """As plain, and refuses some streams."""
    singly("picky", store, plan, noted, plan.failing)


def singly(name: str, store: EventStore, plan: Plan, noted: Noted, failing: Iterable[str]) -> None:
    policy = FailurePolicy(**plan.policy)
    refused, mended = set(failing), Path(plan.mended or "/nowhere")

    @store.handler(name, All(), pool_size=plan.pool_size, policy=policy)
    async def handle(event: Event, delivery: Delivery) -> None:
        with noted.handling([event], delivery):
            await asyncio.sleep(plan.pause)
            if event.stream in refused and not mended.exists():
                raise ValueError(f"no {event.stream}")


def batch(store: EventStore, plan: Plan, noted: Noted) -> None:
    """Many events a call."""

    @store.handler("batch", All(), pool_size=plan.pool_size, batch_size=20)
    async def handle(events: list[Event], delivery: Delivery) -> None:
        with noted.handling(events, delivery):
            print("batch", flush=True)
            await asyncio.sleep(plan.pause)


def hasty(store: EventStore, plan: Plan, noted: Noted) -> None:
    """A planted bug: events count as handled as soon as they are there; what is under way then is forgotten."""
    under_way = set[asyncio.Task[None]]()

    async def handle_later(events: list[Event], delivery: Delivery) -> None:
        await asyncio.sleep(plan.pause)
        for event in events:
            noted.event("handled", event, delivery)

    @store.handler("hasty", All(), pool_size=plan.pool_size, batch_size=20)
    async def handle(events: list[Event], delivery: Delivery) -> None:
        print("batch", flush=True)
        under_way.add(asyncio.create_task(handle_later(events, delivery)))


def fold(store: EventStore, plan: Plan, noted: Noted) -> None:
    """Count, sum and last version of each stream, exactly once."""

    @store.projection("fold", All(), pool_size=plan.pool_size, batch_size=50)
    async def project(events: list[Event], tx: asyncpg.Connection, delivery: Delivery) -> None:
        await tx.execute(
            """
            insert into folded as f (stream, count, sum, last)
            select stream, count(*), sum(n), max(version)
              from unnest($1::text[], $2::bigint[], $3::bigint[]) t(stream, n, version) group by stream
                on conflict (stream) do update
               set count = f.count + excluded.count, sum = f.sum + excluded.sum, last = excluded.last
            """,
            [event.stream for event in events],
            [event.data for event in events],
            [event.version for event in events],
        )
        for event in events:
            noted.event("handled", event, delivery)
        await asyncio.sleep(plan.pause)


def cases(store: EventStore, plan: Plan, noted: Noted) -> None:
    """Events and last activity of each case, and how often there was each activity."""

    @store.projection("cases", All(), pool_size=plan.pool_size, batch_size=10)
    async def project(events: list[Event], tx: asyncpg.Connection, delivery: Delivery) -> None:
        for event in events:
            await tx.execute(
                "insert into cases as c (name, events, last) values ($1, 1, $2)"
                " on conflict (name) do update set events = c.events + 1, last = excluded.last",
                event.stream, event.type,
            )  # fmt: skip
            await tx.execute(  # a row of its own for each partition: they do not wait for each other
                "insert into activities as a (name, partition, count) values ($1, $2, 1)"
                " on conflict (name, partition) do update set count = a.count + 1",
                event.type, delivery.partition,
            )  # fmt: skip
            noted.event("handled", event, delivery)
        await asyncio.sleep(plan.pause)


class Order(BaseModel):
    total: int


def odd(store: EventStore, plan: Plan, noted: Noted) -> None:
    """Everything that a handler can do wrong, by the event's type."""
    policy = FailurePolicy(**plan.policy)
    event_type("Order")(Order)  # here, since the registry is of the whole process, also where a test imports this

    @store.handler("odd", All(), pool_size=plan.pool_size, policy=policy)
    async def handle(event: Event, delivery: Delivery) -> Any:
        noted.event("begin", event, delivery)
        match event.type:
            case "Blocks" if not Path(plan.mended).exists():
                Path(plan.mended).touch()
                sleep(5 * plan.lease_ttl)  # noqa: ASYNC251 - it is what is tested
            case "Hangs":
                await asyncio.Event().wait()
            case "Raises":
                raise ValueError("as it is meant to")
            case "Returns":
                return 7
            case "Order":
                event.as_model()
        noted.event("handled", event, delivery)


HANDLERS: dict[str, Callable[[EventStore, Plan, Noted], None]] = {
    one.__name__: one for one in (plain, picky, batch, hasty, fold, cases, odd)
}


def register(store: EventStore, plan: Plan, noted: Noted, names: Iterable[str]) -> None:
    for name in names:
        HANDLERS[name](store, plan, noted)


async def note_halts(noted: Noted, most: float) -> None:
    """Note whenever this process did nothing for *most* seconds: a busy machine halts it as a signal does."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(most / 4)
        if loop.time() - began > most:
            noted.note("stop")


async def main(dsn: str, path: str, name: str, plan: Plan) -> None:
    set_clock(plan.clock)
    mend_datetimes()
    noted = Noted(Path(path), name)
    async with EventStore(dsn, settings=plan.settings, node_name=name) as store:
        noted.watch(store)
        register(store, plan, noted, plan.run)
        halts = asyncio.create_task(note_halts(noted, plan.lease_ttl / 2))
        await store.run()
        halts.cancel()
    noted.note("end")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], Plan(**json.loads(sys.argv[4]))))
