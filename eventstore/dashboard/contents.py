"""What each page shows: its template's ``data``, and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from eventstore.events import Event
from eventstore.log.streams import StreamInfo
from eventstore.reports.actions import Action
from eventstore.reports.overview import NodeState
from eventstore.reports.requests import RequestReport
from eventstore.reports.streams import EventPage, EventSearch, Timeline
from eventstore.reports.subscriptions import STATUSES, Detail, Order, SubscriptionPage
from eventstore.subscriptions.model import Parked

__all__ = [
    "COUNTED",
    "ORDERS",
    "PARKED_STATES",
    "TIMES",
    "ActionsPage",
    "EventsPage",
    "NodesPage",
    "OneSubscription",
    "RequestsPage",
    "RewindPage",
    "StreamPage",
    "StreamsPage",
    "SubscriptionsPage",
]

ORDERS: tuple[Order, ...] = ("name", "behind", "seconds", "parked")
PARKED_STATES = ("parked", "skipped", "discarded")
TIMES = ("recorded", "happened")

COUNTED = 100_000
"""Events that the preview of a rewind counts, at most."""


@dataclass(frozen=True, slots=True)
class SubscriptionsPage:
    """A page of the list of subscriptions.

    Attributes:
        found: the rows, and how many there are.
        previous, next: offsets of the pages beside it; None: there is none.
        statuses, orders: what there is to choose from.
    """

    found: SubscriptionPage
    search: str
    status: str
    order: str
    node: UUID | None
    offset: int
    limit: int
    previous: int | None
    next: int | None
    statuses: Sequence[str] = STATUSES
    orders: Sequence[str] = ORDERS


@dataclass(frozen=True, slots=True)
class OneSubscription:
    """A subscription in full.

    Attributes:
        detail: the subscription; its partitions are those of this page.
        partitions_total: how many it has; *partitions_from*: the number of the first one here; *partitions_previous*,
            *partitions_next*: those of the pages beside it.
        parked: events of *parked_state*, by position; *parked_next*: the position to go on after.
        key: only of this one.
    """

    name: str
    detail: Detail
    partitions_total: int
    partitions_from: int
    partitions_previous: int | None
    partitions_next: int | None
    parked: Sequence[Parked]
    parked_state: str
    parked_next: int | None
    parked_after: int
    key: str
    parked_states: Sequence[str] = PARKED_STATES


@dataclass(frozen=True, slots=True)
class RewindPage:
    """What a rewind would do, before it is done.

    Attributes:
        to: as it was given.
        by: ``position``, ``time`` or ``event``.
        after: the position that its place comes to.
        events: how many would be delivered again; None: more than *counted_at_most*.
        parked: how many events are parked; those after *after* are forgotten, as they come again.
    """

    name: str
    to: str
    by: str
    after: int
    events: int | None
    parked: int
    counted_at_most: int = COUNTED


@dataclass(frozen=True, slots=True)
class StreamsPage:
    """A page of streams, by name.

    Attributes:
        next: the name to go on after; None: these were the last.
    """

    streams: Sequence[StreamInfo]
    prefix: str
    category: str
    deleted: bool
    next: str | None


@dataclass(frozen=True, slots=True)
class StreamPage:
    """A stream.

    Attributes:
        timeline: its newest events without their data.
        by: the time that the timeline goes by: ``happened`` or ``recorded``.
        events: newest first; *older*: the version to go on before.
    """

    name: str
    info: StreamInfo
    timeline: Timeline
    by: str
    events: Sequence[Event]
    older: int | None
    following: bool


@dataclass(frozen=True, slots=True)
class EventsPage:
    """What a search for events found, newest first.

    Attributes:
        found: the events, and down to where it was looked.
        older: the position to go on before; None: there are no more.
        following: the page shows the newest there are, and what comes.
    """

    found: EventPage
    search: EventSearch
    older: int | None
    following: bool

    @staticmethod
    def listed(values: Sequence[str]) -> Sequence[str]:
        """Return those that can stand in a list with commas."""
        return [value for value in values if "," not in value and value == value.strip()]


@dataclass(frozen=True, slots=True)
class NodesPage:
    """The nodes, those alive first; *nodes* may be fewer than *total*."""

    nodes: Sequence[NodeState]
    alive: int
    total: int


@dataclass(frozen=True, slots=True)
class ActionsPage:
    """What operators did, newest first.

    Attributes:
        older: the id to go on before; None: there are no more.
    """

    actions: Sequence[Action]
    subject: str
    older: int | None


@dataclass(frozen=True, slots=True)
class RequestsPage:
    """The requests of the period before now; *periods* are those to choose from."""

    report: RequestReport
    period: str
    periods: Sequence[str]
