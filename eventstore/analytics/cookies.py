"""The session of a visitor: two cookies, which live for five minutes from each request."""

from __future__ import annotations

import os
import re

__all__ = ["AGE", "next_view", "set_cookies"]

AGE = 300
"""Seconds after which a visit without requests is over."""

LONGEST = 16_384
"""Bytes of a cookie header that are looked at."""

MOST = (1 << 31) - 1
"""Views that can be stored."""

_REST = f"; Max-Age={AGE}; Path=/; HttpOnly; SameSite=Lax"

# A cookie comes from whoever sends it: only what could be one of ours counts. They begin with their names, because a
# search for a fixed beginning is several times faster; `_found` looks at what stands before.
_SESSION = re.compile(rb"pa_session_id=([0-9A-Za-z_.-]{1,64})(?=[; ]|$)")
_VIEWS = re.compile(rb"pa_page_views=([0-9]{1,10})(?=[; ]|$)")


def next_view(cookie: bytes | None) -> tuple[str, int]:
    """Return the session of a request, and which of its requests it is; without usable cookies a new one, and 1."""
    if cookie is not None and (session := _found(_SESSION, cookie)) is not None:
        seen = int(_found(_VIEWS, cookie) or 0)
        return session.decode("ascii"), seen + 1 if seen < MOST else 1
    return os.urandom(16).hex(), 1


def _found(cookie: re.Pattern[bytes], header: bytes) -> bytes | None:
    match = cookie.search(header, 0, LONGEST)
    while match is not None and header[match.start() - 1 : match.start()] not in (b"", b";", b" "):
        match = cookie.search(header, match.end(), LONGEST)
    return None if match is None else match[1]


def set_cookies(session: str, views: int, secure: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers that carry the session on."""
    rest = _REST + "; Secure" if secure else _REST
    return [
        (b"set-cookie", f"pa_session_id={session}{rest}".encode()),
        (b"set-cookie", f"pa_page_views={views}{rest}".encode()),
    ]
