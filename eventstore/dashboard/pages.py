"""The pages: what each is given in the URL, and what it reads for that. One function is page, JSON and live part.

A page's ``read`` takes the store, the parameters of its URL, and what it returned a moment ago, by which rates are
told; it may be None. What it returns is the ``data`` of its templates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from eventstore.dashboard.contents import (
    COUNTED,
    ORDERS,
    PARKED_STATES,
    TIMES,
    ActionsPage,
    EventsPage,
    NodesPage,
    OneSubscription,
    RequestsPage,
    RewindPage,
    StreamPage,
    StreamsPage,
    SubscriptionsPage,
)
from eventstore.dashboard.parameters import MAX_BIGINT, Parameters, parse_place
from eventstore.dashboard.refusals import InvalidParameter, Refused, refused
from eventstore.dashboard.sampler import Points
from eventstore.errors import CheckpointAheadOfLog, ConfigurationError, InvalidEvent
from eventstore.reports.actions import list_actions
from eventstore.reports.explaining import repeated
from eventstore.reports.overview import Overview, read_nodes, read_overview
from eventstore.reports.requests import read_requests
from eventstore.reports.streams import (
    EventDetail,
    EventSearch,
    Timeline,
    list_streams,
    read_event,
    read_timeline,
    search_events,
)
from eventstore.reports.subscriptions import (
    STATUSES,
    Detail,
    Order,
    Status,
    list_subscriptions,
    read_subscription,
)
from eventstore.reports.topics import Topics, read_topics
from eventstore.store import EventStore
from eventstore.subscriptions.model import Parked

__all__ = ["PAGES", "PageSpec"]


MAX_LIMIT = 200
"""Rows of one page, at most."""

MAX_EVENTS = 100
"""Events of one page: each may be 1 MiB."""

PARTITIONS = 50
PARKED = 25
POINTS = 500

APART = timedelta(minutes=1)
"""Between the time that an event happened and that of its record: more than clocks and queues account for."""

COUNTED_WITHIN = 3.0
PERIODS = {
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
}

ANSWERED_WITHIN = 0.2
"""Seconds that nodes have to tell of their topics."""

SEARCHED_WITHIN = 0.2
"""Seconds after which a search for events returns what it has found, and where to go on."""


@dataclass(frozen=True, slots=True)
class PageSpec:
    """A page.

    Attributes:
        title: what it is called in the navigation.
        read: reads its data.
        live: whether its part is rendered again while somebody watches.
        points: the values of its charts, out of its data.
        takes: the parameters of its URL; others are refused.
        compares: what was read before tells rates.
        named: returns what the page is about, for its heading; by default that is the title.
    """

    name: str
    title: str
    read: Callable[[EventStore, Parameters, Any], Awaitable[Any]]
    takes: tuple[str, ...] = ()
    live: bool = True
    compares: bool = False
    points: Callable[[Any], Points] | None = None
    named: Callable[[Any], str] | None = None


# -- overview


async def _overview(store: EventStore, _parameters: Parameters, before: Overview | None) -> Overview:
    return await read_overview(store.database, before)


def _overview_points(data: Overview) -> Points:
    worst = data.waiting[0] if data.waiting else None
    return {
        "events_per_second": data.log.per_second,
        "horizon_age": data.log.held_for,
        "worst_lag": worst.seconds if worst else 0.0,
        "worst_behind": float(worst.behind) if worst else 0.0,
    }


# -- subscriptions


async def _subscriptions(store: EventStore, parameters: Parameters, _before: object) -> SubscriptionsPage:
    search, node = parameters.text("search"), parameters.uuid("node")
    status, order = parameters.choice("status", STATUSES), parameters.choice("order", ORDERS, "name")
    offset, limit = (
        parameters.count("offset", 0, most=10_000_000),
        parameters.count("limit", 50, least=1, most=MAX_LIMIT),
    )
    found = await list_subscriptions(
        store.database,
        search=search,
        status=cast(Status, status) if status else None,
        node=node,
        order=cast(Order, order),
        offset=offset,
        limit=limit,
    )
    previous, following = _beside(offset, limit, found.total)
    return SubscriptionsPage(found, search, status, order, node, offset, limit, previous, following)


def _beside(offset: int, limit: int, total: int) -> tuple[int | None, int | None]:
    """Return the offsets of the pages before and after this one."""
    previous = max(0, min(offset, total) - limit) if offset > 0 else None
    return previous, offset + limit if offset + limit < total else None


async def _subscription(store: EventStore, parameters: Parameters, _before: object) -> OneSubscription:
    name, key = parameters.needed("name"), parameters.text("key")
    state = parameters.choice("parked_state", PARKED_STATES, "parked")
    after = parameters.count("parked_after", 0)
    first = parameters.count("partition", 0, most=1024)
    detail = await read_subscription(store.database, name)
    parked: list[Parked] = []
    if detail.parked or detail.skipped or detail.discarded:
        parked = await store.subscriptions.parked(
            name,
            state=cast(Any, state),
            key=key or None,
            after=after,
            limit=PARKED + 1,
        )
    total = len(detail.partitions)
    previous, following = _beside(first, PARTITIONS, total)
    return OneSubscription(
        name=name,
        detail=_with_partitions(detail, first),
        partitions_total=total,
        partitions_from=first,
        partitions_previous=previous,
        partitions_next=following,
        parked=parked[:PARKED],
        parked_state=state,
        parked_next=parked[PARKED - 1].position if len(parked) > PARKED else None,
        parked_after=after,
        key=key,
    )


def _with_partitions(detail: Detail, first: int) -> Detail:
    return replace(detail, partitions=detail.partitions[first : first + PARTITIONS])


def _subscription_points(data: OneSubscription) -> Points:
    return {"behind": float(data.detail.behind), "seconds": data.detail.seconds}


async def _rewind(store: EventStore, parameters: Parameters, _before: object) -> RewindPage:
    name, to = parameters.needed("name"), parameters.needed("to")
    stored = await store.subscriptions.get(name)
    try:
        place = parse_place("to", to)
        found = await repeated(store.database, stored, place, limit=COUNTED, within=COUNTED_WITHIN)
    except (CheckpointAheadOfLog, ConfigurationError, InvalidParameter) as error:
        refusal = refused(error)
        refusal.back = "subscriptions", name
        raise refusal from None
    by = "event" if isinstance(place, UUID) else "time" if isinstance(place, datetime) else "position"
    (aside,) = await store.database.rows("set_aside_v1", name)
    return RewindPage(name, to, by, found.after, found.events, aside["parked"])


# -- streams and events


async def _streams(store: EventStore, parameters: Parameters, _before: object) -> StreamsPage:
    prefix, category = parameters.text("prefix"), parameters.text("category")
    deleted = parameters.text("deleted") in ("1", "on", "true", "yes")
    if prefix and category:
        raise InvalidParameter("category", "does not go together with prefix")
    found = await list_streams(
        store.database,
        prefix=prefix,
        category=category,
        after=parameters.text("after"),
        limit=parameters.count("limit", 50, least=1, most=MAX_LIMIT),
        include_deleted=deleted,
    )
    return StreamsPage(found.streams, prefix, category, deleted, found.after)


async def _stream(store: EventStore, parameters: Parameters, _before: object) -> StreamPage:
    name, before = parameters.needed("name"), parameters.whole("before", least=1)
    limit = parameters.count("limit", 25, least=1, most=MAX_EVENTS)
    try:
        timeline = await read_timeline(store.database, name, limit=POINTS)
    except InvalidEvent:  # no stream can have that name
        timeline = None
    if timeline is None:
        raise Refused(404, "StreamNotFound", f"there is no stream {name!r}")
    by = parameters.choice("by", TIMES) or ("happened" if _imported(timeline) else "recorded")
    events = [one async for one in store.read(name, before=before, backwards=True, limit=limit + 1)]
    older = events[limit - 1].version if len(events) > limit else None
    return StreamPage(name, timeline.stream, timeline, by, events[:limit], older, before is None)


def _imported(timeline: Timeline) -> bool:
    """Whether the events were recorded at another time than they happened."""
    return any(abs(one.recorded_at - one.created_at) > APART for one in timeline.points)


async def _events(store: EventStore, parameters: Parameters, _before: object) -> EventsPage:
    before = parameters.whole("before", least=1)
    search = EventSearch(
        stream=parameters.text("stream") or None,
        category=parameters.text("category") or None,
        types=parameters.many("type", "types"),
        tags=parameters.many("tag", "tags"),
        since=parameters.time("since"),
        until=parameters.time("until"),
    )
    limit = parameters.count("limit", 25, least=1, most=MAX_EVENTS)
    found = await search_events(store.database, search, before=before, limit=limit, within=SEARCHED_WITHIN)
    return EventsPage(found, search, found.before, before is None)


async def _event(store: EventStore, parameters: Parameters, _before: object) -> EventDetail:
    which = _event_asked(parameters.needed("event"))
    found = await read_event(store.database, which)
    if found is None:
        what = f"at position {which:,}" if isinstance(which, int) else f"with the id {which}"
        raise Refused(404, "EventNotFound", f"there is no event {what}")
    return found


def _event_asked(text: str) -> int | UUID:
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_BIGINT:
        return int(text)
    try:
        return UUID(text)
    except ValueError:
        raise Refused(404, "EventNotFound", "an event is named by its position or its id") from None


# -- the rest


async def _nodes(store: EventStore, _parameters: Parameters, _before: object) -> NodesPage:
    return NodesPage(*await read_nodes(store.database, limit=MAX_LIMIT))


async def _pubsub(store: EventStore, _parameters: Parameters, before: Topics | None) -> Topics:
    return await read_topics(store.pubsub, before, within=ANSWERED_WITHIN)


async def _requests(store: EventStore, parameters: Parameters, _before: object) -> RequestsPage:
    period = parameters.choice("period", tuple(PERIODS), "15m")
    report = await read_requests(store.database, last=PERIODS[period])
    return RequestsPage(report, period, tuple(PERIODS))


def _requests_points(data: RequestsPage) -> Points:
    # The last step has only begun.
    whole = data.report.series[-2] if len(data.report.series) > 1 else None
    return {"requests_per_second": whole.per_second if whole else None}


async def _actions(store: EventStore, parameters: Parameters, _before: object) -> ActionsPage:
    subject, limit = parameters.text("subject"), parameters.count("limit", 50, least=1, most=MAX_LIMIT)
    found = await list_actions(
        store.database, subject=subject or None, before=parameters.whole("before", least=1), limit=limit + 1
    )
    return ActionsPage(found[:limit], subject, found[limit - 1].id if len(found) > limit else None)


def _of_stream(data: StreamPage) -> str:
    return data.name


PAGES: dict[str, PageSpec] = {
    one.name: one
    for one in (
        PageSpec("overview", "Overview", _overview, compares=True, points=_overview_points),
        PageSpec(
            "subscriptions",
            "Subscriptions",
            _subscriptions,
            ("search", "status", "node", "order", "offset", "limit"),
        ),
        PageSpec(
            "subscription",
            "Subscription",
            _subscription,
            ("name", "partition", "parked_state", "parked_after", "key"),
            points=_subscription_points,
            named=lambda data: str(data.name),
        ),
        PageSpec("rewind", "Rewind", _rewind, ("name", "to"), live=False, named=lambda data: f"Rewind {data.name}"),
        PageSpec("streams", "Streams", _streams, ("prefix", "category", "deleted", "after", "limit"), live=False),
        PageSpec("stream", "Stream", _stream, ("name", "before", "by", "limit"), named=_of_stream),
        PageSpec(
            "events",
            "Events",
            _events,
            ("stream", "category", "type", "types", "tag", "tags", "since", "until", "before", "limit"),
        ),
        PageSpec("event", "Event", _event, ("event",), live=False, named=lambda data: f"Event {data.position}"),
        PageSpec("nodes", "Nodes", _nodes),
        PageSpec("pubsub", "PubSub", _pubsub, compares=True),
        PageSpec("requests", "Requests", _requests, ("period",), points=_requests_points),
        PageSpec("actions", "Actions", _actions, ("subject", "before", "limit")),
    )
}
"""By the name that their templates have."""
