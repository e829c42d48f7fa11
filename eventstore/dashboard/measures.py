"""``/metrics``: what Prometheus reads, behind the same checks as the pages."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp

from eventstore import metrics
from eventstore.dashboard.refusals import Refused
from eventstore.dashboard.site import is_open
from eventstore.errors import ConfigurationError
from eventstore.store import EventStore

__all__ = ["Measures"]


class Measures:
    """The metrics of a store, made when they are asked for first: they need a package of their own."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._made: ASGIApp | None = None

    async def show(self, _request: Request) -> ASGIApp:
        """Answer with the metrics of the store."""
        if not is_open(self._store):
            raise Refused(503, "StoreClosed", "the store is not open", retry=5)
        if self._made is None:
            try:
                self._made = metrics.app(self._store)
            except ConfigurationError as error:
                raise Refused(501, "NotInstalled", str(error)) from None
        return self._made
