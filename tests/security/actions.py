"""What can be tried, and who may: the table behind ``docs/security.md``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg

from eventstore import (
    All,
    AppendCondition,
    Event,
    EventStore,
    EventType,
    FailurePolicy,
    NewEvent,
    Settings,
    StreamMetadata,
)
from eventstore.analytics.logs import RequestLog
from eventstore.analytics.storing import RequestTable
from eventstore.errors import EventStoreError
from eventstore.evidence.switching import read_seals, turn
from eventstore.evidence.verifying import verify
from eventstore.reports.actions import list_actions, recorded
from eventstore.reports.overview import read_overview
from eventstore.reports.requests import read_requests
from eventstore.schema import migrate, signal_channel
from eventstore.subscriptions.delivery import Delivery
from tests.security.conftest import KINDS, PREFIX

ALL = frozenset(KINDS)
MEMBERS = ALL - {"nobody"}
SEEING = frozenset({"owner", "reader", "worker", "admin"})
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def only(*kinds: str) -> frozenset[str]:
    """The owner may do whatever can be done at all."""
    return frozenset({"owner", *kinds})


@dataclass
class Who:
    """A login that tries things: in a store of its own, and by plain SQL."""

    kind: str
    dsn: str
    plain: asyncpg.Connection
    opened: EventStore | EventStoreError
    names: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> EventStore:
        if isinstance(self.opened, EventStoreError):
            raise self.opened
        return self.opened

    def own(self, what: str) -> str:
        """The name of what only this one works on."""
        return f"{what}-{self.kind}"

    async def sql(self, statement: str, *args: Any) -> None:
        """Run a statement and undo it."""
        transaction = self.plain.transaction()
        await transaction.start()
        try:
            await self.plain.fetch(statement, *args)
        finally:
            await transaction.rollback()


async def prepare(store: EventStore, kind: str) -> None:
    """Make what *kind* will try to change."""
    await store.append(f"stream-{kind}", [NewEvent("A"), NewEvent("A")])
    await store.append(f"limited-{kind}", [NewEvent("A"), NewEvent("A")])
    await store.set_stream_metadata(f"limited-{kind}", StreamMetadata(max_count=1))
    for what in ("handled", "changed", "deleted"):
        await store.subscribe(f"{what}-{kind}", EventType("A"))
    await RequestTable(store.database).insert([_request(LONG_AGO)])


# -- what is tried


async def read_all(who: Who) -> None:
    assert [event async for event in who.store.read_all(All())]


async def read_stream(who: Who) -> None:
    assert len([event async for event in who.store.read(who.own("stream"))]) >= 2


async def decided(who: Who) -> None:
    condition = AppendCondition(EventType("Never"))
    await who.store.append(None, [NewEvent("B")], condition=condition)


async def handle(who: Who) -> None:
    who.store  # noqa: B018
    arrived = asyncio.Event()
    async with EventStore(who.dsn, settings=Settings(listen=False, settle_interval=0.01)) as store:

        @store.handler(who.own("handled"))
        async def handler(event: Event, delivery: Delivery) -> None:
            arrived.set()

        async with store.running():
            await arrived.wait()


async def scavenge(who: Who) -> None:
    await who.store.scavenge()


async def record(who: Who) -> None:
    async with recorded(who.store.database, "me", "cli", "pause", "s"):
        pass


async def store_request(who: Who) -> None:
    await RequestTable(who.store.database).insert([_request(_now())])


async def switch_evidence(who: Who) -> None:
    assert (await turn(who.store.database, True)).state == "on"
    assert (await turn(who.store.database, False)).state == "off"


async def verify_log(who: Who) -> None:
    assert (await verify(who.store.database)).intact


async def export_seals(who: Who) -> None:
    async for _ in read_seals(who.store.database):
        pass


async def list_months(who: Who) -> None:
    assert await RequestTable(who.store.database).months(keep_months=1)


async def drop_month(who: Who) -> None:
    (row,) = await who.store.database.rows("drop_request_month_v1", f"request_logs_{LONG_AGO:%Y%m}", 1, 0)
    assert row[0]


async def broadcast(who: Who) -> None:
    """Through the tables of PubSub: without rights on them a store's PubSub reaches its own process only."""
    await who.sql("insert into eventstore.pubsub_spill (id, body) values (gen_random_uuid(), '')")


def _now() -> datetime:
    return datetime.now(UTC)


def _request(at: datetime) -> RequestLog:
    return RequestLog(request_id=uuid4(), method="GET", path="/", status_code=200, duration_ms=1, inserted_at=at)


def statement(text: str) -> Callable[[Who], Awaitable[None]]:
    async def run(who: Who) -> None:
        await who.sql(text)

    return run


INSERT = """
    insert into eventstore.events (position, id, bucket, type, data, metadata, created_at, recorded_at)
    values (1000000, gen_random_uuid(), 0, 'Forged', '{}', '{}', now(), now())
"""


async def start(who: Who) -> None:
    who.store  # noqa: B018


Action = tuple[Callable[[Who], Awaitable[Any]], frozenset[str]]

ACTIONS: dict[str, Action] = {
    "open a store": (start, MEMBERS),
    "append": (lambda w: w.store.append("s", [NewEvent("B")]), only("writer")),
    "append on a condition": (decided, only("writer")),
    "append in SQL": (
        statement("""select * from eventstore.append_events('s', '[{"type": "B"}]')"""),
        only("writer"),
    ),
    "ask for the head": (lambda w: w.store.head(), SEEING | {"writer"}),
    "read a stream": (read_stream, SEEING),
    "read the log": (read_all, SEEING),
    "read the feed in SQL": (statement("select * from eventstore.read_feed()"), SEEING),
    "see a stream's limits": (lambda w: w.store.stream_info(w.own("stream")), SEEING),
    "see subscriptions": (lambda w: w.store.subscriptions.list(), SEEING),
    "see lag": (lambda w: w.store.subscriptions.lag(), SEEING),
    "see parked events": (lambda w: w.store.subscriptions.parked(w.own("changed")), SEEING),
    "see nodes": (lambda w: w.store.nodes(), SEEING),
    "see the overview": (lambda w: read_overview(w.store.database), SEEING),
    "create a subscription": (lambda w: w.store.subscribe(w.own("new"), All()), only("worker", "admin")),
    "run a handler": (handle, only("worker")),
    "pause": (lambda w: w.store.subscriptions.pause(w.own("changed")), only("admin")),
    "resume": (lambda w: w.store.subscriptions.resume(w.own("changed")), only("admin")),
    "rewind": (lambda w: w.store.subscriptions.rewind(w.own("changed"), 0), only("admin")),
    "resize": (lambda w: w.store.subscriptions.resize(w.own("changed"), 2), only("admin")),
    "settle from outside": (lambda w: w.store.subscriptions.ack(w.own("changed"), 1), only("admin")),
    "change a policy": (
        lambda w: w.store.subscriptions.update(w.own("changed"), policy=FailurePolicy(attempts=2)),
        only("admin"),
    ),
    "replay parked events": (lambda w: w.store.subscriptions.replay_parked(w.own("changed")), only("admin")),
    "discard parked events": (lambda w: w.store.subscriptions.discard_parked(w.own("changed")), only("admin")),
    "delete a subscription": (lambda w: w.store.subscriptions.delete(w.own("deleted")), only("admin")),
    "limit a stream": (
        lambda w: w.store.set_stream_metadata(w.own("stream"), StreamMetadata(max_count=5)),
        only("admin"),
    ),
    "scavenge": (scavenge, only("admin")),
    "delete a stream": (lambda w: w.store.delete_stream(w.own("stream")), only("admin")),
    "tombstone a stream": (lambda w: w.store.tombstone_stream(w.own("stream")), only("admin")),
    "store a request": (store_request, only("writer")),
    "report on requests": (
        lambda w: read_requests(w.store.database, since=_now() - timedelta(hours=1), until=_now()),
        only("admin"),
    ),
    "list months of requests": (list_months, only("admin")),
    "drop a month of requests": (drop_month, only("admin")),
    "record an action": (record, only("admin")),
    "list actions": (lambda w: list_actions(w.store.database), only("admin")),
    "verify the log": (verify_log, only("reader", "admin")),
    "export seals": (export_seals, only("reader", "admin")),
    "see seals": (statement("select * from eventstore.chain_status_v1()"), only("reader", "admin")),
    "seal the log": (statement("select eventstore.add_seal_v1(1, '{}')"), only("admin")),
    "turn evidence on and off": (switch_evidence, only("admin")),
    "store a PubSub message": (broadcast, only("writer", "worker", "admin")),
    "read the PubSub secret": (
        statement("select key from eventstore.pubsub_keys"),
        only("writer", "worker", "admin"),
    ),
    "migrate": (lambda w: asyncio.to_thread(migrate, w.dsn), only("migrator")),
    "become the owner": (statement(f"set local role {PREFIX}_owner"), only("migrator")),
    "select from events": (statement("select * from eventstore.events"), only()),
    "insert into events": (statement(INSERT), only()),
    "update events": (statement("update eventstore.events set data = '1'"), frozenset()),
    "delete events": (statement("delete from eventstore.events"), frozenset()),
    "truncate events": (statement("truncate eventstore.events"), frozenset()),
    "delete tags": (statement("truncate eventstore.event_tags"), frozenset()),
    "move a checkpoint": (statement("update eventstore.checkpoints set position = 0"), only()),
    "draw a position": (statement("select nextval('eventstore.event_positions')"), only()),
    "call an internal function": (statement("select eventstore.changed_v1()"), only()),
    "create a function in the schema": (
        statement("create function eventstore.md5(text) returns text language sql return 'x'"),
        only(),
    ),
    "disable the triggers": (statement("alter table eventstore.events disable trigger user"), only()),
    "switch triggers off for the session": (statement("set local session_replication_role = replica"), frozenset()),
    "shadow a table": (statement("create temp table events (position bigint) on commit drop"), ALL),
    "listen and forge a signal": (
        partial(lambda c, w: w.sql("select pg_notify($1, '')", c), signal_channel("eventstore")),
        ALL,
    ),
}


async def outcome(action: Callable[[Who], Awaitable[Any]], who: Who) -> str:
    """Return "allowed", or what it was refused with."""
    try:
        async with asyncio.timeout(60):
            await action(who)
    except (EventStoreError, asyncpg.PostgresError) as error:
        return type(error).__name__
    return "allowed"
