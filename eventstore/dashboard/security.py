"""Who may be answered: names of hosts, origins of requests, tokens, and where a server may listen. No I/O.

A page in any browser can send requests to a server on this machine. Three checks stand against that, each of them on
its own: the Host header, which after DNS rebinding still names the attacker's domain; Origin and Sec-Fetch-Site, by
which browsers tell where a request was made; and a token in every form that only our own pages can know.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from eventstore.errors import ConfigurationError

__all__ = [
    "HEADERS",
    "SCOPES",
    "Scope",
    "Token",
    "Tokens",
    "check_binding",
    "check_hosts",
    "host_allowed",
    "is_loopback",
    "made_elsewhere",
    "parse_tokens",
]

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: browsers then send "Origin: null" with our own forms, which says nothing about where they are.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""Sent with every answer."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

MIN_SECRET = 16
"""Characters of a token's secret: what is shorter could be guessed."""


# -- hosts


def _split(host: str) -> tuple[str, str] | None:
    """Return name and port of a Host header; None if it is none."""
    if not host or any(character in host for character in "/@\\?# \t,"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "").rstrip("."), "" if parts.port is None else str(parts.port)
    except ValueError:
        return None


def host_allowed(header: str, hosts: Collection[str], server: str | None = None) -> bool:
    """Whether a request may name the host it is for like that.

    Args:
        header: the Host header.
        hosts: what is allowed beside loopback names: ``name``, with any port, or ``name:port``.
        server: the address that the connection came in at. Named by itself it is no name that somebody could have
            pointed here.

    Loopback names are allowed with any port: through a tunnel it is another one than we listen at.
    """
    found = _split(header)
    if found is None or not found[0]:
        return False
    name, port = found
    if name in LOOPBACK_NAMES or (server is not None and _is_address(server) and name == server.lower()):
        return True
    return any(_split(allowed.lower()) in ((name, port), (name, "")) for allowed in hosts)


def check_hosts(hosts: Collection[str]) -> tuple[str, ...]:
    """Return *hosts* if each is a name, or ``name:port``, that a Host header can have (`ConfigurationError`)."""
    if isinstance(hosts, (str, bytes)):
        raise ConfigurationError("hosts is a list of names, not one text: hosts=['shop.example']")
    for host in hosts:
        found = _split(host) if isinstance(host, str) else None
        if found is None or not found[0] or "*" in host or "//" in host or (host.count(":") > 1 and host[0] != "["):
            raise ConfigurationError(f"hosts holds names, or name:port, as shop.example or [fe80::1], not {host!r}")
    return tuple(hosts)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at *host*."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


# -- origins


def made_elsewhere(headers: Mapping[str, str], scheme: str) -> str | None:
    """Return why a request does not come from one of our own pages; None: nothing says so.

    Clients that are no browser send neither header; they have no cookies of ours that somebody could borrow.

    Args:
        headers: of the request, by lower-case name; its Host has been checked.
        scheme: that the request came with. A proxy may have taken TLS away, so that ``https`` is right too.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        made_with = origin.partition("://")[0] if "://" in origin else None
        if made_with not in {scheme, "https"} or not _same_place(origin, headers, made_with):
            return "its Origin is another one"
    if site is not None and site not in ("same-origin", "none"):
        return f"Sec-Fetch-Site is {site[:20]}"
    return None


def _same_place(origin: str, headers: Mapping[str, str], scheme: str) -> bool:
    default = {"http": "80", "https": "443"}.get(scheme, "")
    places = [_split(origin.partition("://")[2]), _split(headers.get("host", ""))]
    ours = [(place[0], place[1] or default) for place in places if place is not None]
    return len(ours) == 2 and ours[0] == ours[1]


# -- tokens

Scope: TypeAlias = Literal["metrics", "read", "act"]

SCOPES: tuple[Scope, ...] = ("metrics", "read", "act")
"""Each may do what those before it may."""


@dataclass(frozen=True, slots=True)
class Token:
    """A secret that lets somebody in.

    Attributes:
        secret: at least 16 characters; ``openssl rand -hex 32`` makes a good one.
        scope: ``act`` may do everything the dashboard allows, ``read`` may look, ``metrics`` gets ``/metrics`` only.

    Raises:
        ConfigurationError: the secret is too short, or there is no such scope.
    """

    secret: str
    scope: Scope = "act"

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_SECRET or not self.secret.isprintable():
            raise ConfigurationError(f"a token's secret needs {MIN_SECRET} characters or more: openssl rand -hex 32")
        if self.scope not in SCOPES:
            raise ConfigurationError(f"a token's scope is one of {', '.join(SCOPES)}, not {self.scope!r}")

    def __repr__(self) -> str:
        return f"Token(***, {self.scope!r})"

    def allows(self, scope: Scope) -> bool:
        """Whether who has it may do what needs *scope*."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class Tokens:
    """All tokens by name. How long a comparison takes tells nothing about them.

    Args:
        key: random; digests made with it are compared, and kept in sessions.
    """

    def __init__(self, tokens: Mapping[str, str | Token], key: bytes) -> None:
        self._key = key
        self.by_name = {
            _checked_name(name): token if isinstance(token, Token) else Token(token) for name, token in tokens.items()
        }
        self._digests = {name: self._digest(token.secret) for name, token in self.by_name.items()}
        if len(set(self._digests.values())) < len(self._digests):
            raise ConfigurationError("two tokens have the same secret, so that nobody could tell whose it is")

    def __bool__(self) -> bool:
        return bool(self.by_name)

    def _digest(self, secret: str) -> str:
        return hmac.new(self._key, secret.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()

    def match(self, secret: str) -> str | None:
        """Return the name of the token with this secret."""
        given, found = self._digest(secret), None
        for name, digest in self._digests.items():  # all of them, whichever fits
            if hmac.compare_digest(given, digest):
                found = name
        return found

    def fingerprint(self, name: str) -> str | None:
        """Return what changes when the token of that name does; None: there is none any more."""
        return self._digests.get(name)


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= 64 or not name.isprintable():
        raise ConfigurationError(f"a token's name has 1 to 64 printable characters, not {name!r}")
    return name


def parse_tokens(lines: Iterable[str], source: str) -> dict[str, Token]:
    """Read tokens, a line each: ``name secret``, or ``name secret scope``; empty lines and ``#`` comments are skipped.

    Raises:
        ConfigurationError: a line is none, or a name stands twice; what was read is never repeated.
    """
    found: dict[str, Token] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"line {number} of {source}"
        if len(words) not in (2, 3) or (len(words) == 3 and words[2] not in SCOPES):
            raise ConfigurationError(f"{where} is not: name secret [{'|'.join(SCOPES)}]")
        if words[0] in found:
            raise ConfigurationError(f"{where}: a token of that name stands before it")
        try:
            found[words[0]] = Token(words[1], words[2] if len(words) == 3 else "act")  # type: ignore[arg-type]
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    if not found:
        raise ConfigurationError(f"{source} has no token: one line each, name and secret")
    return found


# -- where to listen


def check_binding(host: str, *, tokens: bool, tls: bool, behind_tls_proxy: bool) -> None:
    """Refuse to listen where others could read along, or come in (`ConfigurationError`).

    Args:
        host: to listen at.
        tokens: there are any.
        tls: the server has a certificate.
        behind_tls_proxy: a proxy before it speaks TLS with everybody.
    """
    if is_loopback(host):
        return
    if not tokens:
        raise ConfigurationError(
            f"{host} can be reached from elsewhere, which needs a token: give --token-file, or set "
            "EVENTSTORE_DASHBOARD_TOKEN; or listen at 127.0.0.1"
        )
    if not (tls or behind_tls_proxy):
        raise ConfigurationError(
            f"{host} can be reached from elsewhere, and tokens would be readable on the way: give --tls-cert and "
            "--tls-key, or --behind-tls-proxy if a proxy does that; or listen at 127.0.0.1"
        )
