"""Every error this package raises, and what each SQLSTATE becomes.

::

    EventStoreError
    ├── ConfigurationError (also ValueError)    an option, a DSN or the environment is wrong
    │   └── DataDirectoryMismatch               the data directory belongs to another major version of Postgres
    ├── MigrationRequired                       the schema is missing or older than this package
    ├── DatabaseUnavailable                     no usable connection; worth trying again later
    │   └── OutcomeUnknown                      the connection was lost while an append was under way
    ├── TransactionConflict                     deadlock, serialization failure or lock timeout; repeat the transaction
    ├── WrongExpectedVersion                    the stream is not at the version the append expected
    ├── AppendConditionFailed                   an event matches the condition; read and decide again
    ├── StreamDeleted                           the stream is closed for good by a tombstone
    ├── DuplicateEventId                        the id is stored already, with other content
    ├── InvalidEvent (also ValueError)          refused before SQL, or by the SQL functions
    │   └── PayloadTooLarge
    ├── UnreadableEvent                         a stored event cannot be read as a model; its data stays readable
    ├── InvalidSelector (also ValueError)
    ├── ImportFailed                            a row of an imported file is malformed
    ├── SubscriptionExists                      another definition is stored under that name
    ├── SubscriptionNotFound (also LookupError)
    ├── AlreadyStarted                          run() or start() was called twice
    ├── LeaseLost                               this node no longer owns the partition
    ├── CheckpointAheadOfLog                    a checkpoint lies beyond the log: was an older backup restored?
    ├── Overflow                                a bounded mailbox is full
    ├── MailboxClosed                           a mailbox is closed and drained
    ├── InvalidMessage (also ValueError)        a message that would not arrive as it was sent
    ├── BroadcastError                          the adapter could not send; nobody of this node got the message
    ├── PubSubClosed                            the PubSub is not open
    ├── AlreadyTracked                          that owner is present there; update it
    ├── NoPresence (also LookupError)           that owner is not present there
    ├── ShardCrashed                            a tracker's handler failed; its shard began anew without presences
    ├── NoShape (also LookupError)              nothing can be started under that handle
    ├── ShapeRemoved                            its consumer suspended twice over one event; what it served is removed
    ├── NoProc                                  its consumer is dead
    ├── NoPubSub                                an instance was made without a PubSub; there is nothing to subscribe to
    └── DeliveryFailed                          a sink did not take an event; the failure policy decides what follows

Errors carry their facts as attributes; the message says what to do.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from uuid import UUID

__all__ = [
    "AlreadyStarted",
    "AlreadyTracked",
    "AppendConditionFailed",
    "BroadcastError",
    "CheckpointAheadOfLog",
    "ConfigurationError",
    "DataDirectoryMismatch",
    "DatabaseUnavailable",
    "DeliveryFailed",
    "DuplicateEventId",
    "EventStoreError",
    "ImportFailed",
    "InvalidEvent",
    "InvalidMessage",
    "InvalidSelector",
    "LeaseLost",
    "MailboxClosed",
    "MigrationRequired",
    "NoPresence",
    "NoProc",
    "NoPubSub",
    "NoShape",
    "OutcomeUnknown",
    "Overflow",
    "PayloadTooLarge",
    "PubSubClosed",
    "ShapeRemoved",
    "ShardCrashed",
    "StreamDeleted",
    "SubscriptionExists",
    "SubscriptionNotFound",
    "TransactionConflict",
    "UnreadableEvent",
    "WrongExpectedVersion",
]


class EventStoreError(Exception):
    """Root of all errors of this package."""


class ConfigurationError(EventStoreError, ValueError):
    """An option, a DSN or the environment is wrong."""


class DataDirectoryMismatch(ConfigurationError):
    """The data directory was made by another major version of Postgres than the server found."""

    def __init__(self, directory: str, found: str, server: str) -> None:
        self.directory, self.found, self.server = directory, found, server
        super().__init__(
            f"data directory {directory} belongs to PostgreSQL {found}, but the server found is PostgreSQL {server}. "
            f"Use PostgreSQL {found} (EVENTSTORE_PG_BIN), another --data-dir, or upgrade the directory with pg_upgrade."
        )


class MigrationRequired(EventStoreError):
    """The schema is missing or older than this package needs."""

    def __init__(self, schema: str, found: str | None, required: str) -> None:
        self.schema, self.found, self.required = schema, found, required
        state = "holds no event store" if found is None else f"is at revision {found}"
        super().__init__(
            f"schema {schema!r} {state}, but revision {required} is required. "
            f"Run: eventstore migrate --schema {shlex.quote(schema)} --dsn …"
        )


class DatabaseUnavailable(EventStoreError):
    """There is no usable connection to the database; the call may be repeated later."""


class OutcomeUnknown(DatabaseUnavailable):
    """The connection was lost during an append, which may or may not have happened.

    Repeat it with the same event ids: the store answers with the first result if it did.
    """


class TransactionConflict(EventStoreError):
    """A deadlock, a serialization failure or a lock timeout; repeat the whole transaction."""


class WrongExpectedVersion(EventStoreError):
    """The stream is not at the version the append expected; read it again and decide again."""

    def __init__(self, stream: str, expected: object, actual: int) -> None:
        self.stream, self.expected, self.actual = stream, expected, actual
        wanted = "no stream" if expected == 0 else "an existing one" if expected == -2 else f"version {expected}"
        found = f"stream {stream!r} is at version {actual}" if actual else f"there is no stream {stream!r}"
        super().__init__(f"{found}, but the append expected {wanted}; read it and decide again")


class AppendConditionFailed(EventStoreError):
    """An event matches the append's condition; read again, decide again.

    Attributes:
        position: of the first event that broke the condition.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"the event at position {position} matches the append condition; read and decide again")
        self.position = position


class StreamDeleted(EventStoreError):
    """The stream is closed for good by a tombstone; nothing can be appended to it any more.

    Attributes:
        stream: its name.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(f"stream {stream!r} is closed for good by a tombstone; append to another stream")
        self.stream = stream


class DuplicateEventId(EventStoreError):
    """An event id is stored already: with other content, in another order, or only some of the append's ids."""

    def __init__(self, ids: Iterable[UUID], message: str | None = None) -> None:
        self.ids = tuple(ids)
        listed = ", ".join(map(str, self.ids[:3])) + (", …" if len(self.ids) > 3 else "")
        super().__init__(message or f"event id already stored with other content, or only partly: {listed}")


class InvalidEvent(EventStoreError, ValueError):
    """The event is refused; the message names the field and the rule."""


class PayloadTooLarge(InvalidEvent):
    """The encoded data and metadata of one event exceed the limit."""


class UnreadableEvent(EventStoreError):
    """A stored event cannot be read as a model; ``event.data`` stays readable as it was stored."""

    def __init__(self, type: str, schema_version: object, position: int, reason: str) -> None:
        self.type, self.schema_version, self.position, self.reason = type, schema_version, position, reason
        super().__init__(f"event {type!r} of schema version {schema_version} at position {position}: {reason}")


class InvalidSelector(EventStoreError, ValueError):
    """The selector is refused; the message names the part and the rule."""


class ImportFailed(EventStoreError):
    """A row of an imported file cannot become an event."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        self.file, self.line, self.reason = file, line, reason
        super().__init__(f"{file}, line {line}: {reason}")


class SubscriptionExists(EventStoreError):
    """A subscription of that name is stored with another definition."""

    def __init__(self, name: str, fields: Iterable[str]) -> None:
        self.name, self.fields = name, tuple(fields)
        keeps_its_place = {"policy", "sink", "sink_options"}.issuperset(self.fields)
        update = "change it with `eventstore subscription update`, or subscriptions.update()"
        cure = update if keeps_its_place else "delete it first, or choose another name"
        super().__init__(f"subscription {name!r} exists with another {', '.join(self.fields)}; {cure}")


class SubscriptionNotFound(EventStoreError, LookupError):
    """No subscription of that name is stored."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no subscription named {name!r}; `eventstore subscription list` shows those that exist")


class AlreadyStarted(EventStoreError):
    """What was to be started runs already."""


class LeaseLost(EventStoreError):
    """Another node owns the partition now; this node's writes about it change nothing."""


class CheckpointAheadOfLog(EventStoreError):
    """A checkpoint lies beyond the last position of the log, as after restoring an older backup.

    Also of a listener, whose *name* is None: it has returned, or is to begin behind, what the log has not got.
    """

    def __init__(self, name: str | None, checkpoint: int, last: int) -> None:
        self.name, self.checkpoint, self.last = name, checkpoint, last
        if name is None:
            super().__init__(
                f"what a listener has read, up to position {checkpoint}, is not in the log, which ends at {last}. "
                "If an older backup was restored, or a standby promoted that had not got all, listen again after a "
                "position from before"
            )
            return
        super().__init__(
            f"position {checkpoint} of subscription {name!r} lies beyond the log, which ends at {last}. "
            f"If an older backup was restored, rewind it: subscriptions.rewind({name!r}, {last}), or "
            f"`eventstore subscription rewind {shlex.quote(name)} --after {last}`"
        )


class Overflow(EventStoreError):
    """A bounded mailbox is full."""


class MailboxClosed(EventStoreError):
    """The mailbox is closed, and everything that was queued has been taken."""


class InvalidMessage(EventStoreError, ValueError):
    """The message would not arrive as it was sent; nothing was sent."""


class BroadcastError(EventStoreError):
    """The adapter could not send the message; subscribers of this node did not get it either."""


class PubSubClosed(EventStoreError):
    """The PubSub is not open; use it inside ``async with PubSub(...)``."""


class NoShape(EventStoreError, LookupError):
    """Nothing can be started under that handle; raised by ``start_consumer``."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        super().__init__(f"there is nothing to start under the handle {handle!r}")


class ShapeRemoved(EventStoreError):
    """The consumer suspended, and again after it was restarted; what it served is removed."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        super().__init__(f"the consumer of {handle!r} suspended twice over one event, so what it served is removed")


class NoProc(EventStoreError):
    """The consumer of that handle is dead, or its registry is closed; nothing was delivered."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        super().__init__(f"the consumer of {handle!r} is dead; remove_consumer() lets the next publish start another")


class AlreadyTracked(EventStoreError):
    """The owner is present in the topic as that key; `update` changes its meta."""

    def __init__(self, owner: object, topic: str, key: object) -> None:
        self.owner, self.topic, self.key = owner, topic, key
        super().__init__(f"{owner!r} is in {topic!r} as {key!r} already; use update()")


class NoPresence(EventStoreError, LookupError):
    """The owner is not present in the topic as that key."""

    def __init__(self, owner: object, topic: str, key: object) -> None:
        self.owner, self.topic, self.key = owner, topic, key
        super().__init__(f"{owner!r} is not in {topic!r} as {key!r}; use track()")


class ShardCrashed(EventStoreError):
    """The handler of a tracker failed; the shard began anew, and its presences of this node are gone."""


class NoPubSub(EventStoreError):
    """This instance has no PubSub: it tells nobody anything, so there is nothing to subscribe to."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        super().__init__(f"{instance!r} was made without a PubSub (pubsub=None); give it one to subscribe")


class DeliveryFailed(EventStoreError):
    """A sink did not take an event; the failure policy of the subscription decides what follows.

    Attributes:
        status: of the HTTP response, if there was one.
        retry_after: seconds after which the receiver asks to be tried again; None: it did not say.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        self.status, self.retry_after = status, retry_after
        super().__init__(message)
