"""An event store for teams that already run Postgres.

The names of everyday use are importable from here. All errors are in `eventstore.errors`, all records of subscriptions
in `eventstore.subscriptions`; `eventstore.pubsub` and `eventstore.tracker` have names of their own. Each is loaded when
it is first used, so that importing a package (and the command line's ``--help``) costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.lazily import lazy

if TYPE_CHECKING:
    from eventstore.conditions import AppendCondition
    from eventstore.errors import (
        AppendConditionFailed,
        DatabaseUnavailable,
        DuplicateEventId,
        EventStoreError,
        InvalidEvent,
        InvalidSelector,
        MigrationRequired,
        OutcomeUnknown,
        StreamDeleted,
        SubscriptionExists,
        SubscriptionNotFound,
        TransactionConflict,
        UnreadableEvent,
        WrongExpectedVersion,
    )
    from eventstore.event_types import event_type, upcaster
    from eventstore.events import ANY, NO_STREAM, STREAM_EXISTS, AppendResult, Event, NewEvent
    from eventstore.log.append import StreamAppend
    from eventstore.log.streams import StreamInfo, StreamMetadata
    from eventstore.selectors import All, EventPattern, EventPayload, EventType, Selector, Stream, Tags
    from eventstore.settings import Settings
    from eventstore.store import EventStore
    from eventstore.subscriptions.delivery import Delivery
    from eventstore.subscriptions.model import Subscription
    from eventstore.subscriptions.policy import FailurePolicy

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "All",
    "AppendCondition",
    "AppendConditionFailed",
    "AppendResult",
    "DatabaseUnavailable",
    "Delivery",
    "DuplicateEventId",
    "Event",
    "EventPattern",
    "EventPayload",
    "EventStore",
    "EventStoreError",
    "EventType",
    "FailurePolicy",
    "InvalidEvent",
    "InvalidSelector",
    "MigrationRequired",
    "NewEvent",
    "OutcomeUnknown",
    "Selector",
    "Settings",
    "Stream",
    "StreamAppend",
    "StreamDeleted",
    "StreamInfo",
    "StreamMetadata",
    "Subscription",
    "SubscriptionExists",
    "SubscriptionNotFound",
    "Tags",
    "TransactionConflict",
    "UnreadableEvent",
    "WrongExpectedVersion",
    "event_type",
    "upcaster",
]

__version__ = "0.1.0"

_HOMES = {
    "eventstore.conditions": ("AppendCondition",),
    "eventstore.event_types": ("event_type", "upcaster"),
    "eventstore.events": ("ANY", "NO_STREAM", "STREAM_EXISTS", "AppendResult", "Event", "NewEvent"),
    "eventstore.log.append": ("StreamAppend",),
    "eventstore.log.streams": ("StreamInfo", "StreamMetadata"),
    "eventstore.selectors": ("All", "EventPattern", "EventPayload", "EventType", "Selector", "Stream", "Tags"),
    "eventstore.settings": ("Settings",),
    "eventstore.store": ("EventStore",),
    "eventstore.subscriptions.delivery": ("Delivery",),
    "eventstore.subscriptions.model": ("Subscription",),
    "eventstore.subscriptions.policy": ("FailurePolicy",),
}

if not TYPE_CHECKING:  # or checkers would take any name for one of the package
    __getattr__, __dir__ = lazy(globals(), _HOMES)
