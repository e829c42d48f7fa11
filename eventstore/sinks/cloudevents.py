"""Events as CloudEvents 1.0 over HTTP in binary mode: attributes are headers, the data is the body."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from eventstore.codec import encode
from eventstore.events import Event
from eventstore.sinks.sink import iso

__all__ = ["header_value", "headers_of", "source_of", "trace_of"]

# Section 3.1.3.2 of the HTTP binding: percent-encoded are space, double quote, percent, and all beyond ! to ~.
_KEPT: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

_FROM_METADATA: Final = {
    "correlation_id": "ce-correlationid",
    "causation_id": "ce-causationid",
    "schema_version": "ce-schemaversion",
}

# Anybody may have put anything into metadata, and these become headers as they are.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE: Final = re.compile(r"[!-~](?:[ -~]{0,510}[!-~])?")


def source_of(subscription: str) -> str:
    """Return the URI by which events are known to come from *subscription*."""
    return f"urn:eventstore:{quote(subscription, safe='')}"


def trace_of(event: Event) -> dict[str, str]:
    """Return ``traceparent`` and ``tracestate`` of the metadata, as W3C Trace Context has them, if they are there."""
    parent, state = event.metadata.get("traceparent"), event.metadata.get("tracestate")
    if not isinstance(parent, str) or not _TRACEPARENT.fullmatch(parent):
        return {}
    if not isinstance(state, str) or not _TRACESTATE.fullmatch(state):
        return {"traceparent": parent}
    return {"traceparent": parent, "tracestate": state}


def headers_of(event: Event, source: str, *, metadata: bool, tags: bool) -> dict[str, str]:
    """Return the attributes of *event*; *metadata* and *tags* add those, as JSON."""
    attributes: dict[str, object] = {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-type": event.type,
        "ce-source": source,
        "ce-subject": event.stream,
        "ce-time": iso(event.created_at),
        # A text, because an Integer of CloudEvents has 32 bits.
        "ce-position": event.position,
        "ce-streamversion": event.version,
        "ce-recordedtime": iso(event.recorded_at),
    }
    attributes |= {f"ce-{name}": value for name, value in trace_of(event).items()}
    for key, name in _FROM_METADATA.items():
        if type(value := event.metadata.get(key)) in (str, int) and value != "":
            attributes[name] = value
    if metadata:
        attributes["ce-metadata"] = encode(event.metadata, field="metadata")
    if tags:
        attributes["ce-tags"] = encode(list(event.tags), field="tags")
    return {name: header_value(str(value)) for name, value in attributes.items() if value is not None}


def header_value(text: str) -> str:
    """Return *text* as the value of a header; one round of percent-decoding gives it back."""
    return quote(text, safe=_KEPT)
