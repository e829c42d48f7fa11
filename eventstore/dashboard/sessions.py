"""Sessions in a signed cookie, and what hangs on them: the token of forms, and a word about the last action.

Nothing is kept in the process. A session names the token it was opened with by a digest: when that token is changed or
removed, the session ends.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from itsdangerous import BadSignature, URLSafeSerializer

from eventstore.dashboard.view import Flash

__all__ = ["Attempts", "Session", "Sessions"]

LIFETIME = 12 * 3600.0
"""Seconds after which one has to sign in again."""

MAX_FLASH = 300
FLASHED = 60.0
"""Seconds for which a word about an action is true."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session.

    Attributes:
        id: random.
        name: of the token it was opened with; None: nobody signed in, it is for the token of forms only.
        fingerprint: of that token.
        expires: unix seconds.
    """

    id: str
    name: str | None
    fingerprint: str | None
    expires: float


class Sessions:
    """Writes and reads sessions.

    Args:
        key: they are signed with it; processes that share it accept each other's.
        now: unix seconds.
    """

    def __init__(self, key: bytes, now: Callable[[], float]) -> None:
        self._key, self._now = key, now

    def _signed(self, salt: str) -> URLSafeSerializer:
        return URLSafeSerializer(self._key, salt=salt, signer_kwargs={"digest_method": hashlib.sha256})

    def open(self, name: str | None = None, fingerprint: str | None = None) -> Session:
        """Return a new session; every sign-in gets one, so that nobody can have planted its id."""
        return Session(secrets.token_urlsafe(24), name, fingerprint, self._now() + LIFETIME)

    def dump(self, session: Session) -> str:
        """Return the cookie's value."""
        fields = [session.id, session.name, session.fingerprint, session.expires]
        return str(self._signed("eventstore.session").dumps(fields))

    def load(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie; None: it is not ours, or over."""
        match self._read("eventstore.session", cookie):
            case [str(id), str() | None as name, str() | None as fingerprint, float() | int() as expires]:
                return Session(id, name, fingerprint, expires) if expires > self._now() else None
        return None

    def _read(self, salt: str, cookie: str | None) -> Any:
        try:
            return self._signed(salt).loads(cookie) if cookie else None
        except BadSignature:
            return None

    def csrf(self, session: Session) -> str:
        """Return the token that forms of this session carry."""
        return hmac.new(self._key, f"csrf:{session.id}".encode(), hashlib.sha256).hexdigest()

    def csrf_fits(self, session: Session | None, given: str) -> bool:
        """Whether a form was made for this session."""
        return session is not None and hmac.compare_digest(self.csrf(session).encode(), given.encode(errors="replace"))

    def dump_flash(self, flash: Flash) -> str:
        """Return the value of the cookie that carries a word to the next page."""
        fields = [flash.kind, flash.message[:MAX_FLASH], self._now() + FLASHED]
        return str(self._signed("eventstore.flash").dumps(fields))

    def load_flash(self, cookie: str | None) -> Flash | None:
        """Return what the cookie carries; None: nothing, or it is old."""
        match self._read("eventstore.flash", cookie):
            case ["ok" | "error" | "info" as kind, str(message), float() | int() as until] if until > self._now():
                return Flash(kind, message)
        return None


class Attempts:
    """Failed sign-ins by address: after a few of them no more are looked at for a while.

    A token that was right from an address before goes on there, or one neighbour who guesses would lock out all others
    behind the same proxy. That too has a limit, so that nobody can guess that token as fast as he likes.

    Args:
        most: how many fail within *seconds* before an address has to wait.
        flood: how many fail before tokens that were right from there have to wait, too.
        addresses: how many are kept; those that failed longest ago are forgotten first.
        now: seconds.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        most: int = 10,
        flood: int = 200,
        seconds: float = 60.0,
        addresses: int = 1024,
    ) -> None:
        self._now, self._most, self._flood, self._seconds, self._addresses = now, most, flood, seconds, addresses
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._right: OrderedDict[tuple[str, str | None], None] = OrderedDict()

    def wait(self, address: str | None, fingerprint: str | None = None) -> float:
        """Return for how many seconds this address has to wait; 0: it need not.

        Args:
            fingerprint: of the token that is given, if it is one.
        """
        key = _network(address)
        most = self._flood if (key, fingerprint) in self._right else self._most
        times = self._recent(key)
        return times[-most] + self._seconds - self._now() if len(times) >= most else 0.0

    def failed(self, address: str | None) -> None:
        """Note that a sign-in failed."""
        key = _network(address)
        self._failed[key] = [*self._recent(key), self._now()][-max(self._most, self._flood) :]
        self._failed.move_to_end(key)
        while len(self._failed) > self._addresses:
            self._failed.popitem(last=False)

    def right(self, address: str | None, fingerprint: str | None) -> None:
        """Note that a token was right, by its fingerprint."""
        key = _network(address), fingerprint
        self._right[key] = None
        self._right.move_to_end(key)
        while len(self._right) > self._addresses:
            self._right.popitem(last=False)

    def _recent(self, key: str) -> list[float]:
        since = self._now() - self._seconds
        return [time for time in self._failed.get(key, ()) if time > since]


def _network(address: str | None) -> str:
    """Return what counts as one address: of IPv6 the network that a single customer has."""
    try:
        known = ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(ip_network(f"{known}/64", strict=False)) if isinstance(known, IPv6Address) else str(known)
