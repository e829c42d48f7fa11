"""URLs of webhooks: which are refused, and how they are told without what may be secret."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from eventstore.errors import ConfigurationError

__all__ = ["check_url", "credentials_of", "secrets_of", "shown"]

SHORTEST_SECRET = 6
"""Characters; a value of the query that is shorter is not looked for in what a receiver answers."""


def check_url(url: str) -> None:
    """Refuse what cannot be posted to (`ConfigurationError`)."""
    # Neither the URL nor the parser's words: a part of the password may be in them.
    if not url.isprintable() or set(url) & set(' "<>\\^`{|}'):
        raise ConfigurationError(
            'the URL of a webhook holds a space, a control character or one of "<>\\^`{|}; percent-encode it'
        )
    if "#" in url:
        raise ConfigurationError("the URL of a webhook must not have a fragment (#), which is never sent")
    try:
        parts = urlsplit(url)
        malformed = parts.port == 0
    except ValueError:
        malformed = True
    if malformed:
        raise ConfigurationError("the URL of a webhook is malformed: look at its host and port")
    if not parts.hostname:
        raise ConfigurationError("the URL of a webhook needs a host, such as https://shop.example/events")


def shown(url: str) -> str:
    """Return *url* without what may be secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    _, at, host = parts.netloc.rpartition("@")
    query = "?***" if parts.query else ""
    return parts._replace(netloc=f"***@{host}" if at else host, query="", fragment="").geturl() + query


def credentials_of(url: str) -> tuple[str, str] | None:
    """Return user and password, if *url* has them."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return (user, password) if user or password else None


def secrets_of(url: str) -> list[str]:
    """Return what `shown` leaves out, in each form that a receiver may quote; the longest first."""
    parts, credentials = urlsplit(url), credentials_of(url)
    values = [value for _, value in parse_qsl(parts.query) if len(value) >= SHORTEST_SECRET]
    found = {parts.query, *values, *(quote(value, safe="") for value in values)}
    if credentials is not None:
        found |= {credentials[1], parts.password or "", b64encode(":".join(credentials).encode()).decode()}
    return sorted(found - {""}, key=len, reverse=True)
