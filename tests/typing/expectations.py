"""What a type checker says of programs that use the package; checked, and never run.

Each mistake stands with the error expected of it: an expectation that does not come true is an error too.
"""

from __future__ import annotations

from typing import Any, assert_type

import asyncpg

import eventstore
import eventstore.pubsub
import eventstore.subscriptions
import eventstore.tracker
from eventstore import Delivery, Event, EventStore
from eventstore.subscriptions import Call, Lag, Node, Parked, Partition, PartitionLag, Rewound, Subscription

store = EventStore()

# -- names that are none


def misspelt() -> None:
    eventstore.EvntStore()  # type: ignore[attr-defined]
    eventstore.pubsub.PubSb()  # type: ignore[attr-defined]
    eventstore.subscriptions.Lagg()  # type: ignore[attr-defined]
    eventstore.tracker.Trackr()  # type: ignore[attr-defined]


# -- handlers


@store.handler("one")
async def one(event: Event, delivery: Delivery) -> None:
    delivery.partition  # noqa: B018


@store.handler("many", batch_size=10)
async def many(events: list[Event], delivery: Delivery) -> None: ...


@store.handler("by hand", ack="manual")
async def by_hand(event: Event, delivery: Delivery) -> None: ...


class Shop:
    async def handle(self, event: Event, delivery: Delivery) -> None: ...

    async def __call__(self, events: list[Event], delivery: Delivery) -> None: ...


store.handler("bound", batch_size=1)(Shop().handle)
store.handler("called", batch_size=2)(Shop())


async def decorated(event: Event, delivery: Delivery) -> None:
    assert_type(await one(event, delivery), None)


@store.handler("without delivery")  # type: ignore[type-var]
async def without_delivery(event: Event) -> None: ...


@store.handler("returns")  # type: ignore[type-var]
async def returns(event: Event, delivery: Delivery) -> int:
    return 1


@store.handler("blocking")  # type: ignore[type-var]
def blocking(event: Event, delivery: Delivery) -> None: ...


@store.handler("a batch", batch_size=10)  # type: ignore[type-var]
async def one_of_a_batch(event: Event, delivery: Delivery) -> None: ...


@store.handler("no batch")  # type: ignore[type-var]
async def no_batch(events: list[Event], delivery: Delivery) -> None: ...


store.handler("by hand", batch_size=10, ack="manual")  # type: ignore[call-overload]

# -- projections


@store.projection("sums")
async def sums(events: list[Event], tx: asyncpg.Connection) -> None: ...


@store.projection("sums and delivery")
async def with_delivery(events: list[Event], tx: Any, delivery: Delivery) -> None: ...


@store.projection("one event")  # type: ignore[type-var]
async def one_event(event: Event, tx: Any) -> None: ...


@store.projection("no connection")  # type: ignore[type-var]
async def no_connection(events: list[Event]) -> None: ...


@store.projection("returns")  # type: ignore[type-var]
async def projection_returns(events: list[Event], tx: Any) -> int:
    return 1


# -- what subscriptions return, and middleware


async def shown() -> None:
    assert_type(await store.subscriptions.get("one"), Subscription)
    lag = (await store.subscriptions.lag("one"))[0]
    assert_type(lag, Lag)
    assert_type(lag.partitions, list[PartitionLag])
    assert_type((await store.subscriptions.get("one")).partitions, list[Partition])
    assert_type(await store.subscriptions.parked("one"), list[Parked])
    assert_type(await store.subscriptions.rewind("one", 0), Rewound)
    assert_type(await store.nodes(), list[Node])


@store.use
def around(call: Call) -> Call:
    return call
