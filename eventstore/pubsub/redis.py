"""The adapter over Redis: one connection that is subscribed to the shards' channels, one that publishes.

Redis keeps nothing. What is published while a node's connection is away is missed there; the node is told of the loss.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Any
from uuid import UUID

from eventstore.errors import AlreadyStarted, ConfigurationError, DatabaseUnavailable
from eventstore.pubsub.adapter import Envelope, Receiver
from eventstore.pubsub.arrivals import Arrivals
from eventstore.pubsub.frames import Frames
from eventstore.pubsub.outbox import Outbox
from eventstore.service import Tasks, raise_if_cancelled, to_its_end

__all__ = ["Redis"]

SILENCE = 5.0
"""Seconds without a message after which a node asks whether its connection is alive, and in which it wants an answer.
"""

SEND_WITHIN = 10.0
"""Seconds that Redis may take to accept what one pipeline publishes, to let a node in, or to confirm its channels."""

CLOSE_WITHIN = 1.0
"""Seconds that what is being sent may take when the adapter closes."""


class Redis:
    """Adapter over a Redis server, version 5 or newer, or what speaks its protocol.

    Nodes reach each other if PubSub name, *prefix* and *secret* are equal; the number of the Redis database makes no
    difference. The user needs the commands PUBLISH, SUBSCRIBE and PING, on the channels ``<prefix>:*``.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py takes it.
        node_name: unique among the nodes of one PubSub.
        secret: signs what is sent. Without one the PubSub's name does, which keeps out accidents only: everybody who
            may PUBLISH there is believed.
        prefix: begins the channels' names, and keeps systems on one server apart.

    Attributes:
        counters: ``sent`` and ``received`` (envelopes), ``frames_sent``, ``frames_received``, ``rejected`` (forged, or
            of another release), ``lost``, ``reconnects``.

    Raises:
        ConfigurationError: redis-py is not installed, or an argument cannot be used; on starting: the user may not
            SUBSCRIBE.
        DatabaseUnavailable: on starting: the server cannot be reached, or refuses the password.
    """

    def __init__(
        self, url: str, *, node_name: str, secret: str | bytes | None = None, prefix: str = "eventstore"
    ) -> None:
        if not isinstance(node_name, str) or not node_name:
            raise ConfigurationError("nodes that share a Redis need a node_name each")
        if secret is not None and not secret:
            raise ConfigurationError("an empty secret is none; leave it out, or use a long random one")
        self._client = _client(url)
        self._url, self._node_name, self._secret, self._prefix = url, node_name, secret, prefix
        self._subscribed: Any = None
        self._outbox = Outbox(self._publish)
        self._tasks = Tasks()
        self._running = False
        self.counters = dict.fromkeys(
            ("sent", "received", "frames_sent", "frames_received", "rejected", "lost", "reconnects"), 0
        )

    @property
    def node_name(self) -> str:
        """How this node is called by `direct_broadcast`."""
        return self._node_name

    async def start(self, deliver: Receiver) -> None:
        """Subscribe to the channels of *deliver*'s shards; returns once everything published there will be heard.

        Raises:
            AlreadyStarted: it runs already.
            ConfigurationError, DatabaseUnavailable: see above.
        """
        if self._running:
            raise AlreadyStarted("this adapter runs already; each PubSub needs one of its own")
        # All of it belongs to this event loop: an adapter may be started in one after another.
        self._deliver, self._client, self._outbox = deliver, _client(self._url), Outbox(self._publish)
        self._channels = [_channel(self._prefix, deliver.name, shard) for shard in range(deliver.pool_size)]
        self._frames = Frames(_key(deliver.name, self._secret), limit=None)
        self._arrivals = Arrivals(self._frames, deliver, _nothing, self.counters)
        self._running = True
        try:
            self._subscribed = await self._subscribe()
        except BaseException:
            await self.close()
            raise
        self._tasks.supervise("pubsub sender", self._outbox.run)
        self._tasks.supervise("pubsub receiver", self._arrivals.run)
        self._tasks.supervise("pubsub listener", self._listen)

    async def close(self) -> None:
        """Send what waits, for a second at most, and close both connections; what is left fails."""
        if self._running:
            self._running = False
            await to_its_end(self._end())

    async def _end(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self._outbox.drained()
        await self._tasks.stop()
        self._outbox.close()
        self._subscribed = None
        await self._client.connection_pool.disconnect()

    async def broadcast(self, envelope: Envelope) -> None:
        """Publish *envelope*; returns once Redis has confirmed it.

        Raises:
            InvalidMessage: it is too large.
            DatabaseUnavailable: it was not sent, or nobody knows; it is not tried again.
        """
        if not self._running:
            raise DatabaseUnavailable("the adapter was not started, or is closed")
        self._frames.check(envelope)
        await self._outbox.send(envelope)
        self.counters["sent"] += 1

    async def direct_broadcast(self, node: str, envelope: Envelope) -> None:
        """Publish *envelope*, which names its receiver; see `broadcast`."""
        await self.broadcast(envelope)

    # -- sending

    async def _publish(self, envelopes: list[Envelope]) -> None:
        by_shard: dict[int, list[Envelope]] = {}
        for envelope in envelopes:
            by_shard.setdefault(envelope.shard, []).append(envelope)
        pipeline, frames = self._client.pipeline(transaction=False), 0
        for shard, group in by_shard.items():
            for frame in self._frames.pack(group):
                pipeline.publish(self._channels[shard], frame.text)
                frames += 1
        with self._mapped():
            async with asyncio.timeout(SEND_WITHIN):
                await pipeline.execute()
        self.counters["frames_sent"] += frames

    # -- receiving

    async def _subscribe(self) -> Any:
        """Return a connection that has confirmed the subscription of every channel."""
        pubsub = self._client.pubsub()
        try:
            with self._mapped():
                async with asyncio.timeout(SEND_WITHIN):
                    await pubsub.subscribe(*self._channels)
                    missing = len(self._channels)
                    while missing:
                        message = await pubsub.get_message(timeout=None)
                        self._take(message)
                        missing -= message["type"] == "subscribe"
        except BaseException:
            await pubsub.aclose()
            raise
        return pubsub

    async def _listen(self, healthy: Callable[[], None]) -> None:
        pubsub, self._subscribed = self._subscribed, None  # that of the start, the first time
        if pubsub is None:
            pubsub = await self._subscribe()
            self.counters["reconnects"] += 1
            self._deliver.connection("reconnected")
        healthy()
        try:
            with self._mapped():
                await self._read(pubsub)
        except Exception:
            self._deliver.connection("lost")
            raise
        finally:
            await pubsub.aclose()

    async def _read(self, pubsub: Any) -> None:
        """Return never; raise when the connection ended, or has become silent without an end."""
        asked = False
        while True:
            raise_if_cancelled()
            message = await pubsub.get_message(timeout=SILENCE)
            if message is not None:
                asked = False
                self._take(message)
            elif asked:
                raise DatabaseUnavailable(f"{_where(self._client)} has become silent")
            else:
                asked = True
                await pubsub.ping()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "message":
            data = message["data"]
            # What is not UTF-8 was not signed either.
            self._arrivals(data if isinstance(data, str) else data.decode(errors="replace"))

    # -- inside

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn redis-py's and the system's errors into this package's, without the URL: it may hold a password."""
        errors = _library().exceptions
        try:
            yield
        except errors.NoPermissionError as error:
            raise ConfigurationError(
                f"{_where(self._client)} refuses: {error}; allow the user PUBLISH, SUBSCRIBE and PING on channels: "
                f"ACL SETUSER <user> +publish +subscribe +ping &{self._prefix}:*"
            ) from error
        except (errors.RedisError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise DatabaseUnavailable(f"the connection to {_where(self._client)} failed: {reason}") from error


def _library() -> Any:
    try:
        import redis.asyncio
    except ImportError:
        raise ConfigurationError("the Redis adapter needs redis-py: pip install '.[redis]' in a checkout") from None
    return redis


def _client(url: str) -> Any:
    """Return a client that has not connected yet.

    It never tries again by itself: a connection that came back unseen would hide that messages were missed. Until
    Python 3.12 its sending loses a cancellation that comes as it ends (`asyncio.wait_for`), so whoever uses it looks.
    """
    library = _library()
    try:
        return library.asyncio.Redis.from_url(
            url,
            retry=library.asyncio.retry.Retry(library.backoff.NoBackoff(), 0, supported_errors=()),
            socket_connect_timeout=SEND_WITHIN,
            socket_timeout=SEND_WITHIN,
        )
    except (ValueError, TypeError, AttributeError):
        # Neither the URL nor the parser's words: a part of the password may be in them.
        raise ConfigurationError(
            "the Redis URL is malformed; it must be redis://[user:password@]host[:port], rediss://… or unix://path, "
            "with special characters of user and password percent-encoded"
        ) from None


def _where(client: Any) -> str:
    options = client.connection_pool.connection_kwargs
    if "path" in options:
        return f"Redis at {options['path']}"
    return f"Redis at {options.get('host', 'localhost')}:{options.get('port', 6379)}"


def _channel(prefix: str, name: str, shard: int) -> str:
    # Hashed, because the name may be what signs. The prefix stays readable: access rules are written for it.
    digest = blake2b(json.dumps([prefix, name, shard]).encode(), digest_size=16).hexdigest()
    return f"{prefix}:{digest}"


def _key(name: str, secret: str | bytes | None) -> bytes:
    """Return what signs: made of the name as well, so that nothing signed for one PubSub is believed by another."""
    given = secret.encode() if isinstance(secret, str) else secret or b""
    return blake2b(name.encode(), key=blake2b(given).digest()).digest()


async def _nothing(_id: UUID) -> None:
    """Bodies are never stored elsewhere: a message of Redis has no bound worth mentioning."""
