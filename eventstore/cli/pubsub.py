"""``eventstore pubsub``: publish to topics, watch them, and see what the nodes count."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from eventstore.cli.output import Rows, cell, json_line, progress, result, write_line
from eventstore.cli.session import Session, shared_options
from eventstore.cli.values import COUNT, NAME, ParamType, parse_json

if TYPE_CHECKING:
    from eventstore.mailbox import Mailbox
    from eventstore.pubsub.adapter import Envelope, Receiver
    from eventstore.pubsub.hub import PubSub, Stats

__all__ = ["command"]

T = TypeVar("T")

log = logging.getLogger(__name__)

COLUMNS = ("node", "pool_size", "topics", "subscriptions", "broadcasts", "received", "dropped", "rejected")

WAITING = 10_000
"""Messages that may wait to be printed; beyond that the oldest is dropped."""

CHUNK = 1 << 20
MOST_LINE = 16 << 20

STATES = {
    "lost": "the connection was lost; what is sent until it is back is missed",
    "reconnected": "connected again; what was sent in between was missed",
}

QUOTING = """quote it for the shell, and text once more: '{"total": 9}', '"hello"'"""


# -- what is sent and shown


class _Wire(str):
    """A message as it is sent: JSON, in which a tuple is ``{"~t": […]}`` and a model ``{"~m": [name, data]}``."""

    __slots__ = ()


class _WireCodec:
    """A `MessageCodec` that sends and shows JSON as it is on the wire: an application's models are unknown here."""

    def encode(self, message: Any) -> str:
        """Return a `_Wire` as it is; what the PubSub sends by itself is plain data."""
        from eventstore.pubsub.codec import Codec

        return str(message) if type(message) is _Wire else Codec().encode(message)

    def decode(self, text: str) -> Any:
        """Return the JSON value, tags and all; the text of a codec that writes no JSON stays text."""
        try:
            return parse_json(text)
        except ValueError:
            return text


def _wire(text: str | bytes) -> _Wire:
    """Return JSON *text* as it is sent (`ValueError`: it is malformed, or would not arrive as it is)."""
    from eventstore.pubsub.codec import Codec

    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    Codec().encode(value)
    return _Wire(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


class _Message(ParamType):
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _Wire:
        try:
            return _wire(value)
        except ValueError as error:
            self.fail(f"{error}; {QUOTING}", param, ctx)


class _Watched:
    """An adapter whose envelopes take the fastlane: the dispatchers of an application are unknown here."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    async def start(self, deliver: Receiver) -> None:
        await self._adapter.start(_ByFastlane(deliver))


class _ByFastlane:
    def __init__(self, deliver: Receiver) -> None:
        self._deliver = deliver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._deliver, name)

    def __call__(self, envelope: Envelope) -> None:
        self._deliver(replace(envelope, dispatcher="fastlane"))


def _pubsub(session: Session, dsn: str, name: str, *, pool_size: int = 1, watch: bool = False) -> PubSub:
    """Return a PubSub, for ``async with``. It sends on the first shard, which every node hears."""
    import socket

    from eventstore.pubsub.hub import PubSub
    from eventstore.pubsub.postgres import Postgres

    node_name = f"cli-{socket.gethostname()}-{os.getpid()}"
    # In a database of the user's, a name mistyped must not become a schema.
    create = session.location == (None, None)
    adapter: Any = Postgres(
        dsn, node_name=node_name, schema=session.schema_name, tenant=session.tenant_name, create=create
    )
    if watch:
        adapter = _Watched(adapter)
    return PubSub(name, adapter, pool_size=pool_size, broadcast_pool_size=1, codec=_WireCodec())


def _run(session: Session, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Run *work* with the DSN."""
    session.log_to_stderr()
    with session.server() as dsn:
        return session.run(work(dsn))


_name = click.option(
    "--name", type=NAME, default="eventstore", show_default=True, metavar="NAME", help="Of the PubSub."
)
_pool_size = click.option(
    "--pool-size",
    type=click.IntRange(min=1, max=1024),
    default=16,
    show_default=True,
    metavar="N",
    help="Shards to listen on; not fewer than the nodes send on.",
)


@click.group()
@shared_options
def command(_session: Session) -> None:
    """Publish to topics, watch them, see what the nodes count."""


# -- publish


@command.command()
@click.argument("topic", type=NAME)
@click.argument("message", type=_Message(), required=False, metavar="JSON")
@_name
@click.option("--node", type=NAME, metavar="NAME", help="Send to this node only; nothing happens if there is none.")
@click.option("--stdin", "lines", is_flag=True, help="Send each line of standard input, instead of JSON.")
@shared_options
def publish(session: Session, topic: str, message: _Wire | None, name: str, node: str | None, lines: bool) -> None:
    """Send a message to the subscribers of a topic on every node.

    The message is a JSON value. A tuple is written {"~t": […]} and a model {"~m": ["Name", {…}]}, as `subscribe` prints
    them. It is delivered at most once, to who subscribes at that moment: success means that Postgres took it, not that
    anybody got it. With --stdin a failure leaves sent what was sent before.

    \b
    Examples:
      eventstore pubsub publish room:1 '{"text": "hello"}'
      eventstore pubsub publish caches '"flush"' --node web-1
      eventstore pubsub publish room:1 --stdin < messages.ndjson
    """
    if (message is None) != lines:
        raise click.UsageError("give the message as JSON, or --stdin; one of them")
    messages = _lines(sys.stdin.buffer) if message is None else _one(message)
    sent = _run(session, partial(_publish, session, name, node, topic, messages))
    whom = "" if node is None else f" on node {cell(node)}"
    count = "1 message" if sent == 1 else f"{sent} messages"
    result(session.json, {"topic": topic, "node": node, "sent": sent}, f"sent {count} to {cell(topic)}{whom}")


async def _publish(
    session: Session, name: str, node: str | None, topic: str, messages: AsyncIterator[_Wire], dsn: str
) -> int:
    from eventstore.errors import BroadcastError, InvalidMessage

    sent = 0
    async with _pubsub(session, dsn, name) as pubsub:
        with progress("publishing") as done:
            async for message in messages:
                try:
                    if node is None:
                        await pubsub.broadcast(topic, message)
                    else:
                        await pubsub.direct_broadcast(node, topic, message)
                except (BroadcastError, InvalidMessage) as error:
                    raise type(error)(f"{error} ({sent} before it were sent)" if sent else str(error)) from error
                sent += 1
                done(1)
    return sent


async def _one(message: _Wire) -> AsyncIterator[_Wire]:
    yield message


async def _lines(stdin: IO[bytes]) -> AsyncIterator[_Wire]:
    """Yield the messages of the lines as they come; empty lines are none."""
    number, rest, more = 0, b"", True
    while more:
        more = bool(chunk := await _chunk(stdin))
        *lines, rest = (rest + (chunk or b"\n")).split(b"\n")
        for line in lines:
            number += 1
            try:
                if line.strip():
                    yield _wire(line)
            except ValueError as error:
                raise click.UsageError(f"line {number}: {error}; the lines before it were sent") from None
        if len(rest) > MOST_LINE:
            raise click.UsageError(f"line {number + 1} is longer than {MOST_LINE:,} bytes")


async def _chunk(stdin: IO[bytes]) -> bytes:
    """Return what can be read. Meanwhile the event loop runs: who does not read what Postgres sends holds it up."""
    import asyncio

    try:
        file, loop = stdin.fileno(), asyncio.get_running_loop()
    except OSError:  # no file at all
        return stdin.read(CHUNK)
    ready = asyncio.Event()
    try:
        loop.add_reader(file, ready.set)
    except PermissionError:  # a regular file, which never makes anybody wait
        return os.read(file, CHUNK)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(file)
    return os.read(file, CHUNK)


# -- subscribe


@command.command()
@click.argument("topics", type=NAME, nargs=-1, required=True, metavar="TOPIC...")
@_name
@click.option("--limit", type=COUNT, metavar="N", help="Stop after so many messages.")
@_pool_size
@shared_options
def subscribe(session: Session, topics: tuple[str, ...], name: str, limit: int | None, pool_size: int) -> None:
    """Print the messages of topics as they come, until Ctrl-C.

    A line is the topic and the message as JSON; a tuple is shown as {"~t": […]} and a model as {"~m": ["Name", {…}]}.
    Only what is broadcast to other nodes is seen, from now on: -v says when. What is sent while the connection is lost
    is missed, and stderr says so. Topics of events are local to each node; `eventstore tail` follows the log.

    \b
    Examples:
      eventstore pubsub subscribe room:1
      eventstore pubsub subscribe room:1 room:2 --json
      eventstore pubsub subscribe jobs --name workers --limit 1
    """
    if limit != 0:
        _run(session, partial(_subscribe, session, name, list(dict.fromkeys(topics)), pool_size, limit))


async def _subscribe(
    session: Session, name: str, topics: Sequence[str], pool_size: int, limit: int | None, dsn: str
) -> None:
    from eventstore.mailbox import Mailbox
    from eventstore.pubsub.dispatching import Fastlane
    from eventstore.pubsub.hub import CONNECTION

    inbox: Mailbox[Any] = Mailbox(WAITING, name="what waits to be printed")
    try:
        async with _pubsub(session, dsn, name, pool_size=pool_size, watch=True) as pubsub:
            pubsub.subscribe(CONNECTION, inbox)
            for topic in topics:
                # A message does not tell its topic; the lane does.
                pubsub.subscribe(topic, inbox, Fastlane(inbox.put_nowait, partial(_Received, topic)))
            log.info("subscribed to %s", ", ".join(map(cell, topics)))
            await _print(session.json, inbox, limit)
    finally:
        if inbox.dropped:
            log.warning("%d messages came faster than they could be printed, and were dropped", inbox.dropped)


class _Received(NamedTuple):
    topic: str
    message: Any


async def _print(as_json: bool, inbox: Mailbox[Any], limit: int | None) -> None:
    """Print what comes, in another thread: the event loop must go on reading when nobody reads the output."""
    import asyncio

    left = limit
    while left is None or left > 0:
        items = await inbox.take(1000 if left is None else min(left, 1000))
        lines = [_line(item, as_json) for item in items if isinstance(item, _Received)]
        if lines:
            await asyncio.to_thread(write_line, "\n".join(lines), flush=True)
        for state in (item for item in items if not isinstance(item, _Received)):
            log.warning(STATES[state[0]])
        left = None if left is None else left - len(lines)


def _line(received: _Received, as_json: bool) -> str:
    if as_json:
        return json_line(received._asdict())
    message = json.dumps(received.message, ensure_ascii=False, separators=(",", ":"))
    return f"{cell(received.topic)}\t{cell(message)}"


# -- stats


@command.command()
@_name
@click.option(
    "--within",
    type=click.FloatRange(min=0, min_open=True, max=60),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for answers.",
)
@_pool_size
@shared_options
def stats(session: Session, name: str, within: float, pool_size: int) -> None:
    """Ask every node what it counts, and Postgres how full it is.

    Columns: node, shards it listens on, topics, subscriptions of all topics, broadcasts here, messages received from
    other nodes, dropped by full mailboxes, rejected. JSON has the busiest topics and the adapter's counters as well.
    Of Postgres: how full its queue of notifications is (1 = full: sending fails), and what the table of large messages
    holds. A node that is too busy to answer in time is not listed.

    \b
    Examples:
      eventstore pubsub stats
      eventstore pubsub stats --within 2 --json
    """
    nodes, server = _run(session, partial(_stats, session, name, within, pool_size))
    if not session.json:
        for key, value in server.items():
            write_line(f"{key}\t{cell(value)}".expandtabs(28))
    with Rows(session.json, COLUMNS) as rows:
        for node in nodes:
            rows.add(asdict(node))
    if session.json:
        write_line(json_line(server))
    if not nodes:
        click.echo(
            f"no node of {cell(name)} answered within {within:g} s; is this its --name, --schema and database?",
            err=True,
        )


async def _stats(
    session: Session, name: str, within: float, pool_size: int, dsn: str
) -> tuple[list[Stats], dict[str, Any]]:
    async with _pubsub(session, dsn, name, pool_size=pool_size) as pubsub:
        answers = await pubsub.cluster_stats(within=within)
        nodes = [node for node in answers if node.node != pubsub.node_name]
    return nodes, await _server(session, dsn)


async def _server(session: Session, dsn: str) -> dict[str, Any]:
    from eventstore.database import connect, mapped_errors
    from eventstore.schema import quoted
    from eventstore.tenants import as_tenant

    connection = await connect(dsn)
    try:
        with mapped_errors():
            statement = (
                "select pg_notification_queue_usage() as notification_queue_usage, count(*) as spill_rows,"
                " coalesce(sum(octet_length(body)), 0)::bigint as spill_bytes"
                f" from {quoted(session.schema_name)}.pubsub_spill"
            )
            tenant = session.tenant_name
            found = await (
                connection.fetchrow(statement)
                if tenant is None
                else connection.fetchrow(as_tenant(statement, 1), tenant)
            )
    finally:
        await connection.close()
    return dict(found)
