"""Traces of OpenTelemetry: a span for each append, each page of the feed and each call of a handler.

The metadata of an event carries the trace it was appended in, as ``traceparent`` and ``tracestate`` (W3C Trace
Context), so that what a handler does, on whatever node, belongs to the trace of the append. `docs/metrics.md` tells
which spans and attributes there are.

Needs opentelemetry-api: ``pip install '.[tracing]'`` in a checkout; it is imported by `instrument`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from eventstore import __version__
from eventstore.database import Borrowable
from eventstore.errors import AlreadyStarted, ConfigurationError, PayloadTooLarge
from eventstore.events import AppendResult, Event, NewEvent
from eventstore.log.append import Request
from eventstore.log.read import Page
from eventstore.store import EventStore
from eventstore.subscriptions.delivery import Call, Delivery

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

__all__ = ["instrument"]

MOST_LINKS = 128
"""Traces that the span of a page or a batch refers to; by default an SDK keeps no more."""

_instrumented: WeakSet[EventStore] = WeakSet()


def instrument(store: EventStore, tracer_provider: TracerProvider | None = None) -> None:
    """Trace what *store* does from now on. Call it before `EventStore.run`.

    Spans of handlers are around the middleware of `EventStore.use`. Imports (`EventStore.append_known`) and sinks have
    none; webhooks carry the trace of an event on.

    Args:
        tracer_provider: by default the one set for the process.

    Raises:
        ConfigurationError: opentelemetry-api is missing.
        AlreadyStarted: the store is instrumented already, or its emitters run.
    """
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        raise ConfigurationError("tracing needs opentelemetry-api: pip install '.[tracing]' in a checkout") from None
    if store in _instrumented:
        raise AlreadyStarted("this store is instrumented already")
    if store._pools.active:
        raise AlreadyStarted("instrument() the store before run()")
    traces = _Traces(trace.get_tracer("eventstore", __version__, tracer_provider), store)
    _instrumented.add(store)
    store._append = traces.append
    store._feed.around = traces.feed
    store._middleware.insert(0, traces.handle)


class _Traces:
    """What stands around appends, pages of the feed and handlers."""

    def __init__(self, tracer: Any, store: EventStore) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._store, self._append = tracer, store, store._append
        self._kinds, self._propagator = SpanKind, TraceContextTextMapPropagator()

    async def append(
        self, request: Request, connection: Borrowable | None, timeout: float | None
    ) -> list[AppendResult]:
        events = [event for part in request.parts for event in part.events]
        attributes = self._attributes("append", "send", [part.stream for part in request.parts], events)
        with (
            self._tracer.start_as_current_span(
                "append", kind=self._kinds.PRODUCER, attributes=attributes,
                record_exception=False, set_status_on_exception=False,
            ) as span,
            _failing(span),
        ):  # fmt: skip
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            if carrier:
                request.parts = [
                    replace(part, events=[_carrying(event, carrier) for event in part.events]) for part in request.parts
                ]
            done = await self._append(request, connection, timeout)
            span.set_attribute("eventstore.position", done[-1].position)
            span.set_attribute("eventstore.idempotent", done[0].idempotent)
            return done

    @contextmanager
    def feed(self, page: Page) -> Iterator[None]:
        if not page.events:
            yield
            return
        # Not the current span: emitters that are woken meanwhile would take it for theirs, for ever.
        span = self._tracer.start_span(
            "feed", self._nothing(), self._kinds.CLIENT, links=self._links(page.events),
            attributes=self._attributes("feed", "receive", (), page.events)
            | {"messaging.batch.message_count": len(page.events), "eventstore.position": page.events[-1].position},
        )  # fmt: skip
        try:
            with _failing(span):
                yield
        finally:
            span.end()

    def handle(self, call: Call) -> Call:
        async def traced(events: list[Event], delivery: Delivery, transaction: Any) -> object:
            # One event: a step further in its trace. Several: a trace of its own, which refers to theirs.
            alone = len(events) == 1
            attributes = self._attributes("handle", "process", {event.stream for event in events}, events) | {
                "messaging.consumer.group.name": delivery.subscription,
                "messaging.destination.partition.id": str(delivery.partition),
                "eventstore.attempt": delivery.attempt,
                "eventstore.position": events[-1].position,
            }
            with (
                self._tracer.start_as_current_span(
                    f"handle {delivery.subscription}",
                    self._context(events[0]) if alone else self._nothing(),
                    self._kinds.CONSUMER,
                    attributes=attributes,
                    links=() if alone else self._links(events),
                    record_exception=False,
                    set_status_on_exception=False,
                ) as span,
                _failing(span),
            ):
                returned = await call(events, delivery, transaction)
                if delivery.outcome is not None and delivery.outcome.error is not None:
                    _failed(span, delivery.outcome.error)
                return returned

        return traced

    def _attributes(
        self, name: str, kind: str, streams: Any, events: Sequence[NewEvent] | Sequence[Event]
    ) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "eventstore",
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
            "eventstore.schema": self._store.schema,
        }
        if len(streams) == 1 and (stream := next(iter(streams))) is not None:
            attributes["messaging.destination.name"] = stream
        if len(events) == 1:
            attributes |= {"messaging.message.id": str(events[0].id), "eventstore.type": events[0].type}
        else:
            attributes["messaging.batch.message_count"] = len(events)
        return attributes

    def _nothing(self) -> Any:
        """Return a context without a span, whatever the one of the task that runs this was made in."""
        from opentelemetry.context import Context

        return Context()

    def _context(self, event: Event) -> Any:
        return self._propagator.extract(_carried(event.metadata), self._nothing())

    def _links(self, events: Sequence[Event]) -> list[Link]:
        from opentelemetry.trace import Link, get_current_span

        found: dict[tuple[int, int], Link] = {}
        for event in events:
            if "traceparent" in event.metadata:
                context = get_current_span(self._context(event)).get_span_context()
                if context.is_valid:
                    found[context.trace_id, context.span_id] = Link(context)
                if len(found) == MOST_LINKS:
                    break
        return list(found.values())


def _carrying(event: NewEvent, carrier: Mapping[str, str]) -> NewEvent:
    """Return *event* with the trace in its metadata, unless it brings one of its own or has no room for it."""
    if "traceparent" in event.metadata:
        return event
    try:
        return event.with_metadata({**event.metadata, **carrier})
    except PayloadTooLarge:
        return event


def _carried(metadata: Mapping[str, Any]) -> dict[str, str]:
    both = {name: metadata.get(name) for name in ("traceparent", "tracestate")}
    return {name: value for name, value in both.items() if isinstance(value, str)}


@contextmanager
def _failing(span: Span) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _failed(span, error)
        raise


def _failed(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.record_exception(error)
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, str(error)))
