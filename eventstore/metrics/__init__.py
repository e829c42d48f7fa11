"""Metrics for Prometheus: what this node counts, and what its database knows. `docs/metrics.md` has all of them.

Needs prometheus-client: ``pip install '.[metrics]'`` in a checkout. It is imported when something is made of it.

- `app`: an ASGI application for ``/metrics``;
- `exposition`: the same as bytes;
- `collector`: for a registry of your own;
- `serving`: a server of its own, for processes without one, as ``eventstore work --metrics``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from eventstore.errors import ConfigurationError

if TYPE_CHECKING:
    from eventstore.metrics.collecting import StoreCollector
    from eventstore.store import EventStore

__all__ = ["app", "collector", "exposition", "serving"]

MOST = 1_000
"""Subscriptions that have series of their own, unless said otherwise."""

_App = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]


def collector(
    store: EventStore, *, subscriptions: int = MOST, at_head: bool = True, database: bool = True
) -> StoreCollector:
    """Return the metrics of *store* for a registry of prometheus-client: ``registry.register(collector(store))``.

    What this node counts is of now at each scrape. What is read from the database is as ``await
    collector.refresh()`` found it last; `app` and `exposition` call that themselves.

    Args:
        subscriptions: most subscriptions with series of their own, 0 to 100,000: first those with parked events or
            with partitions that do not run, then those furthest behind; of what handlers did on this node, those with
            the most events. Sums are always of all subscriptions.
        at_head: False leaves out subscriptions that are at the horizon and in no trouble.
        database: False leaves out what is read from the database, which every node would tell alike.

    Raises:
        ConfigurationError: prometheus-client is missing, or *subscriptions* is out of range.
    """
    try:
        from eventstore.metrics.collecting import StoreCollector
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise ConfigurationError("metrics need prometheus-client: pip install '.[metrics]' in a checkout") from None
    return StoreCollector(store, subscriptions=subscriptions, at_head=at_head, database=database)


def app(store: EventStore, *, subscriptions: int = MOST, at_head: bool = True, database: bool = True) -> _App:
    """Return an ASGI application that answers GET with the metrics of *store*, under any path.

    A scrape never fails and never hangs: where the database does not answer within two seconds, it is what this node
    counts, and ``eventstore_up 0``. However many scrape, the database is asked once a second at most.

    Args:
        subscriptions, at_head, database: as `collector`, with its errors.
    """
    made = collector(store, subscriptions=subscriptions, at_head=at_head, database=database)
    from eventstore.metrics.web import asgi

    return asgi(made)


async def exposition(
    store: EventStore, *, accept: str = "", subscriptions: int = MOST, at_head: bool = True, database: bool = True
) -> bytes:
    """Return the metrics of *store* as Prometheus reads them; like `app` it never fails for the database.

    Args:
        accept: an HTTP ``Accept`` that may ask for OpenMetrics; by default the text format.
        subscriptions, at_head, database: as `collector`, with its errors.
    """
    made = collector(store, subscriptions=subscriptions, at_head=at_head, database=database)
    from eventstore.metrics.web import rendered

    return (await rendered(made, accept))[0]


def serving(
    store: EventStore,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    subscriptions: int = MOST,
    at_head: bool = True,
    database: bool = True,
) -> AbstractAsyncContextManager[str]:
    """Answer ``GET /metrics`` while the block runs: ``async with serving(store, port=9464) as url``.

    There is no encryption and no password: what is bound to more than loopback is for everybody who can reach it.

    Args:
        port: 0 takes any that is free; the URL tells which.
        subscriptions, at_head, database: as `collector`, with its errors.

    Raises:
        ConfigurationError: as `collector`; on entering: the port is taken.
    """
    made = collector(store, subscriptions=subscriptions, at_head=at_head, database=database)
    from eventstore.metrics.web import answering

    return answering(made, host, port)
