"""Request analytics: what a web application answered, how fast and to whom, in a table beside the log.

`install` puts it into an application. Its parts work on their own, too: `RequestTracker` (ASGI middleware) makes a
`RequestLog` of each request and broadcasts it by `RequestPubSub`; a `Batcher` gathers them and hands them to a storage,
such as `RequestTable`. `eventstore.reports.requests` reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.lazily import lazy

if TYPE_CHECKING:
    from eventstore.analytics.batching import Batcher, Storage
    from eventstore.analytics.broadcasting import RequestPubSub
    from eventstore.analytics.installing import install
    from eventstore.analytics.logs import RequestLog
    from eventstore.analytics.marking import leave_out
    from eventstore.analytics.storing import RequestTable
    from eventstore.analytics.tracking import RequestTracker

__all__ = [
    "Batcher",
    "RequestLog",
    "RequestPubSub",
    "RequestTable",
    "RequestTracker",
    "Storage",
    "install",
    "leave_out",
]

_HOMES = {
    "eventstore.analytics.batching": ("Batcher", "Storage"),
    "eventstore.analytics.broadcasting": ("RequestPubSub",),
    "eventstore.analytics.installing": ("install",),
    "eventstore.analytics.logs": ("RequestLog",),
    "eventstore.analytics.marking": ("leave_out",),
    "eventstore.analytics.storing": ("RequestTable",),
    "eventstore.analytics.tracking": ("RequestTracker",),
}

if not TYPE_CHECKING:  # or checkers would take any name for one of the package
    __getattr__, __dir__ = lazy(globals(), _HOMES)
