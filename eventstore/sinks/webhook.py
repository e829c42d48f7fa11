"""``https://…``: one POST for each event."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from eventstore.codec import encode
from eventstore.errors import ConfigurationError, DeliveryFailed
from eventstore.events import Event
from eventstore.sinks.cloudevents import headers_of, source_of, trace_of
from eventstore.sinks.signature import SECRET_PREFIX, Signer
from eventstore.sinks.sink import check_options, escaped
from eventstore.sinks.urls import check_url, secrets_of, shown

if TYPE_CHECKING:
    from eventstore.sinks.client import Answer, Client

__all__ = ["Webhook"]

MAX_TIMEOUT = 600
MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a webhook.

    Attributes:
        source: ``ce-source``, a URI; None: ``urn:eventstore:<subscription>``.
        metadata: also send the metadata, as the header ``ce-metadata``.
        tags: also send the tags, as the header ``ce-tags``.
        secret_env: the environment variable with the secrets to sign by; None: requests are not signed.
        timeout: seconds for a request altogether.
    """

    source: str | None = None
    metadata: bool = False
    tags: bool = False
    secret_env: str | None = None
    timeout: float = 10.0

    def __post_init__(self) -> None:
        source, secret_env, timeout = self.source, self.secret_env, self.timeout
        if source is not None and not (isinstance(source, str) and re.fullmatch(r"[!-~]+", source)):
            raise ConfigurationError(
                "source must be a URI in ASCII without spaces, such as https://shop.example/orders"
            )
        for name in ("metadata", "tags"):
            if type(getattr(self, name)) is not bool:
                raise ConfigurationError(f"{name} must be true or false, not {getattr(self, name)!r}")
        # Not repeated: it may be the secret itself.
        if secret_env is not None and not (isinstance(secret_env, str) and _is_variable(secret_env)):
            raise ConfigurationError(
                "secret_env must be the name of an environment variable, such as ORDERS_SECRET, and not the secret"
            )
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= MAX_TIMEOUT:
            raise ConfigurationError(f"timeout must be seconds above 0 and up to {MAX_TIMEOUT}, not {timeout!r}")


def _is_variable(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)) and not name.startswith(SECRET_PREFIX)


class Webhook:
    """Posts each event to a URL as a CloudEvent in binary mode, signed after Standard Webhooks if there is a secret.

    Raises:
        ConfigurationError: httpx or the environment variable is missing.
    """

    batch_size = 1

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        self._options, self._shown = Options(**options), shown(target)
        variable = self._options.secret_env
        self._signer = None if variable is None else Signer(variable, os.environ)
        self._hidden = secrets_of(target)
        self._client = _client(target, self._shown, self._options.timeout)

    @staticmethod
    def check(target: str, options: Mapping[str, Any]) -> None:
        """Refuse a URL or options that cannot be posted to or by (`ConfigurationError`)."""
        check_url(target)
        check_options(options, [each.name for each in fields(Options)], "a webhook")
        Options(**options)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__()

    async def deliver(self, events: Sequence[Event], *, subscription: str, attempt: int) -> None:
        """Post *events*, one after the other.

        Raises:
            DeliveryFailed: the receiver did not answer with 2xx, or not at all.
        """
        for event in events:
            body = encode(event.data).encode()
            self._judge(await self._client.post(body, self._headers(event, body, subscription)))

    def _headers(self, event: Event, body: bytes, subscription: str) -> dict[str, str]:
        options = self._options
        source = source_of(subscription) if options.source is None else options.source
        headers = headers_of(event, source, metadata=options.metadata, tags=options.tags)
        # Without full stops, because they separate what is signed.
        id = f"{quote(subscription, safe='').replace('.', '%2E')}:{event.id}"
        headers |= {"Content-Type": "application/json", "Idempotency-Key": id, **trace_of(event)}
        if self._signer is not None:
            now = int(time.time())
            signature = self._signer.sign(id, now, body)
            headers |= {"webhook-id": id, "webhook-timestamp": str(now), "webhook-signature": signature}
        return headers

    def _judge(self, answer: Answer) -> None:
        status = answer.status
        if 200 <= status < 300:
            return
        verb = "refused the event with" if 400 <= status < 500 else "answered"
        said = f"{self._shown} {verb} {status} {responses.get(status, '')}".rstrip()
        if 300 <= status < 400:
            location = escaped(shown(answer.headers.get("location", "nowhere")))
            raise DeliveryFailed(f"{said}, to {location}; redirects are not followed", status=status)
        wait = _retry_after(answer.headers.get("retry-after", "")) if status in (429, 503) else None
        if wait is not None:
            said += f", to be tried again in {wait:g} s"
        if text := self._discreet(answer.beginning):
            said += f": {escaped(text)}"
        raise DeliveryFailed(said, status=status, retry_after=wait)

    def _discreet(self, text: str) -> str:
        """Return what a receiver says, without the secrets it may have quoted."""
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"Webhook({self._shown!r})"


def _client(url: str, shown: str, timeout: float) -> Client:
    try:
        from eventstore.sinks.client import Client
    except ImportError:
        raise ConfigurationError("webhooks need httpx: pip install '.[webhooks]' in a checkout") from None
    return Client(url, shown, timeout)


def _retry_after(value: str) -> float | None:
    """Return the seconds of a ``Retry-After``, which is a number or a date, and at most an hour."""
    if re.fullmatch(r"[0-9]{1,10}", value):
        return min(float(value), MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(value)
        seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
