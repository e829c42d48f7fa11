"""Traces: one from the append to whatever its handlers do, on whatever node."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from eventstore import All, Delivery, DuplicateEventId, Event, EventStore, EventType, FailurePolicy, NewEvent
from eventstore.errors import AlreadyStarted, EventStoreError
from eventstore.events import uuid7
from eventstore.log.append import StreamAppend
from eventstore.sinks.cloudevents import headers_of, trace_of
from eventstore.tracing import instrument
from tests.conftest import QUICK

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """The spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    async def ended(self, name: str, count: int = 1) -> list[ReadableSpan]:
        async with asyncio.timeout(30):
            while len(found := self.named(name)) < count:
                await asyncio.sleep(0.005)
        return found


def trace_ids(*spans: ReadableSpan) -> set[int]:
    return {span.context.trace_id for span in spans if span.context is not None}


def span_id(context: SpanContext | None) -> int:
    assert context is not None
    return context.span_id


def metadata(event: Event) -> str:
    return str(event.metadata.get("traceparent"))


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def traced(store: EventStore, spans: Spans) -> EventStore:
    instrument(store, spans.provider)
    return store


@pytest.fixture
async def other(db: str, spans: Spans) -> AsyncIterator[EventStore]:
    """Another node, instrumented too."""
    async with EventStore(db, settings=QUICK, node_name="two") as opened:
        instrument(opened, spans.provider)
        yield opened


async def test_what_a_handler_on_another_node_does_belongs_to_the_trace_of_the_append(
    traced: EventStore, other: EventStore, spans: Spans
) -> None:
    @other.handler("billing", EventType("OrderPlaced"))
    async def bill(event: Event, delivery: Delivery) -> None:
        await other.append("bills", [NewEvent("Billed")])

    await traced.append("order-1", [NewEvent("OrderPlaced")])
    async with other.running():
        (handled,) = await spans.ended("handle billing")
        placed, billed = await spans.ended("append", 2)
    assert len(trace_ids(placed, handled, billed)) == 1
    assert span_id(handled.parent) == span_id(placed.context)
    assert billed.parent == handled.context
    (event,) = [event async for event in other.read("bills")]
    assert f"{span_id(billed.context):016x}" in metadata(event)


async def test_spans_say_what_they_are_about(traced: EventStore, spans: Spans) -> None:
    seen = asyncio.Event()

    @traced.handler("billing", All())
    async def bill(event: Event, delivery: Delivery) -> None:
        seen.set()

    async with traced.running():
        await traced.append("order-1", [event := NewEvent("OrderPlaced")])
        (handled,) = await spans.ended("handle billing")
    (appended,) = spans.named("append")
    common = {"messaging.system": "eventstore", "messaging.destination.name": "order-1", "eventstore.position": 1}
    common |= {"messaging.message.id": str(event.id), "eventstore.type": "OrderPlaced"}
    common |= {"eventstore.schema": "eventstore"}
    assert appended.kind == SpanKind.PRODUCER
    assert appended.attributes == common | {
        "messaging.operation.name": "append", "messaging.operation.type": "send", "eventstore.idempotent": False
    }  # fmt: skip
    assert handled.kind == SpanKind.CONSUMER
    assert handled.attributes == common | {
        "messaging.operation.name": "handle", "messaging.operation.type": "process", "eventstore.attempt": 1,
        "messaging.consumer.group.name": "billing", "messaging.destination.partition.id": "0",
    }  # fmt: skip


async def test_the_span_of_the_feed_refers_to_the_appends_of_its_page(traced: EventStore, spans: Spans) -> None:
    async with traced.listen() as events:
        waiting = asyncio.ensure_future(anext(events))
        await traced._feed.moments.next("read")
        await traced.append_many([StreamAppend("a", [NewEvent("A")]), StreamAppend("b", [NewEvent("A")])])
        await waiting
        (fed,) = await spans.ended("feed")
    (appended,) = spans.named("append")
    assert [link.context.span_id for link in fed.links] == [span_id(appended.context)]
    assert fed.kind == SpanKind.CLIENT
    assert fed.parent is None
    assert fed.attributes is not None
    assert fed.attributes["messaging.batch.message_count"] == 2


async def test_a_batch_has_a_trace_of_its_own_that_refers_to_those_of_its_events(
    traced: EventStore, spans: Spans
) -> None:
    @traced.projection("sums", All())
    async def project(events: list[Event], tx: Any) -> None: ...

    for stream in ("a", "b"):
        await traced.append(stream, [NewEvent("A")])
    async with traced.running():
        (handled,) = await spans.ended("handle sums")
    appends = spans.named("append")
    assert {link.context.span_id for link in handled.links} == {span_id(one.context) for one in appends}
    assert trace_ids(handled).isdisjoint(trace_ids(*appends))
    assert handled.attributes is not None
    assert handled.attributes["messaging.batch.message_count"] == 2


async def test_failures_are_recorded(traced: EventStore, spans: Spans) -> None:
    @traced.handler("billing", All(), policy=FailurePolicy(attempts=2, delay=0.001, then="skip"))
    async def bill(event: Event, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise LookupError("no such customer")
        delivery.nack("still none")

    await traced.append("order-1", [NewEvent("OrderPlaced")])
    with pytest.raises(EventStoreError):
        await traced.append("order-1", [NewEvent("OrderPlaced")], expected=7)
    async with traced.running():
        raised, refused = await spans.ended("handle billing", 2)
    failed = spans.named("append")[1]
    statuses = [(one.status.status_code, one.status.description) for one in (raised, refused)]
    assert statuses == [(StatusCode.ERROR, "no such customer"), (StatusCode.ERROR, "still none")]
    types = [one.attributes["error.type"] for one in (raised, refused, failed) if one.attributes]
    assert types == ["LookupError", "Nacked", "WrongExpectedVersion"]
    assert raised.events[0].name == "exception"


async def test_a_retry_in_another_trace_is_the_same_append(traced: EventStore) -> None:
    event = NewEvent("A", {"n": 1}, metadata={"user": "ada", "n": 1.0})
    first = await traced.append("s", [event])
    again = await traced.append("s", [event])
    assert (again.idempotent, again.position) == (True, first.position)


async def test_a_retry_with_a_trace_is_the_same_append_as_one_without(store: EventStore, spans: Spans) -> None:
    events = [NewEvent("A", metadata={"b": 1, "a": 2}), NewEvent("A")]
    await store.append("s", events)
    instrument(store, spans.provider)
    assert (await store.append("s", events)).idempotent


async def test_only_the_trace_may_differ(traced: EventStore) -> None:
    event = NewEvent("A", metadata={"user": "ada", "n": 1})
    await traced.append("s", [event])
    for other in ({"user": "bob", "n": 1}, {"user": "ada"}, {"n": 1, "user": "ada"}, {"user": "ada", "n": 1.0}):
        with pytest.raises(DuplicateEventId):
            await traced.append("s", [NewEvent("A", metadata=other, id=event.id)])


async def test_an_event_keeps_the_trace_it_brings(traced: EventStore) -> None:
    await traced.append("s", [NewEvent("A", metadata={"traceparent": PARENT})])
    (event,) = [event async for event in traced.read("s")]
    assert event.metadata == {"traceparent": PARENT}


async def test_an_event_at_the_limit_goes_without_its_trace(traced: EventStore) -> None:
    await traced.append("s", [NewEvent("A", "x" * ((1 << 20) - 4))])
    (event,) = [event async for event in traced.read("s")]
    assert event.metadata == {}


async def test_no_task_keeps_a_span_that_was_current_when_it_began(traced: EventStore, spans: Spans) -> None:
    @traced.handler("billing", All())
    async def bill(event: Event, delivery: Delivery) -> None: ...

    with spans.provider.get_tracer("test").start_as_current_span("request"):
        async with traced.running():
            await traced.append("s", [NewEvent("A", metadata={"traceparent": PARENT})])
            (handled,) = await spans.ended("handle billing")
    assert all(fed.parent is None for fed in spans.named("feed"))
    assert PARENT.split("-")[1:3] == [f"{handled.parent.trace_id:032x}", f"{span_id(handled.parent):016x}"]


async def test_a_store_is_instrumented_once_and_before_it_runs(store: EventStore, traced: EventStore) -> None:
    with pytest.raises(AlreadyStarted):
        instrument(traced)
    fresh = EventStore()
    fresh._pools._active = True
    with pytest.raises(AlreadyStarted):
        instrument(fresh)


def test_without_opentelemetry_only_instrumenting_fails() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import eventstore, eventstore.store, eventstore.tracing\n"
        "try: eventstore.tracing.instrument(eventstore.EventStore())\n"
        "except eventstore.errors.ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ".[tracing]" in done.stdout


def test_importing_the_package_imports_no_opentelemetry() -> None:
    program = "import sys, eventstore.store, eventstore.tracing; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def stored(metadata: dict[str, Any]) -> Event:
    event = NewEvent("A")
    return Event(uuid7(), "A", None, metadata, (), "s", 1, 1, 0, event.created_at, event.created_at)


def test_webhooks_carry_the_trace_on() -> None:
    event = stored({"traceparent": PARENT, "tracestate": "vendor=1"})
    assert trace_of(event) == {"traceparent": PARENT, "tracestate": "vendor=1"}
    headers = headers_of(event, "urn:x", metadata=False, tags=False)
    assert (headers["ce-traceparent"], headers["ce-tracestate"]) == (PARENT, "vendor=1")


@pytest.mark.parametrize("value", [None, 7, "", "x\r\nSet-Cookie: a", PARENT.upper(), PARENT + "\n", PARENT + "-1"])
def test_what_is_no_trace_becomes_no_header(value: object) -> None:
    assert trace_of(stored({"traceparent": value, "tracestate": "a=1"})) == {}
    assert trace_of(stored({"traceparent": PARENT, "tracestate": "a=1\r\nx: y"})) == {"traceparent": PARENT}
