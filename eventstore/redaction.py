"""Secrets kept out of what people read: DSNs, and text that may hold one.

Of a DSN only what is known to be harmless is shown. Malformed ones count too: a password whose ``/`` or ``@`` is not
percent-encoded is cut where a URL ends, and its rest turns up as a host, a port or a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

__all__ = ["place_of", "redacted", "scrubbed", "secrets_of", "told"]

HIDDEN = "***"

HARMLESS = {
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "database",
    "dbname",
    "direct_tls",
    "gsslib",
    "host",
    "hostaddr",
    "krbsrvname",
    "passfile",
    "port",
    "require_auth",
    "service",
    "servicefile",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "target_session_attrs",
    "user",
}
"""Parameters of a DSN whose values are shown; anything else may be a secret, or a part of one."""

_SECRET_NAME = r"\w*(?:password|passwd|passphrase|pwd|secret|token)\w*"
# A colon at the end of what is not quoted is the sentence's.
_VALUE = r"""'(?:[^'\\]|\\.)*(?:'|$)|"[^"]*(?:"|$)|[^\s&'",;)]*?(?=:?(?:[\s&'",;)]|$))"""
_PAIR = re.compile(rf"(?i)\b({_SECRET_NAME})(\s*=\s*)({_VALUE})")
_URL = re.compile(r"[\w+.-]+://[^\s\"'<>]*[^\s\"'<>:]")
_TAKEN_WHOLE = re.compile(r"[\w.~%!$&'()*+;=:,-]*", re.ASCII)
_QUOTED = (
    "the reason quotes a part of the DSN that may be secret; in a password, characters such as / ? # @ and spaces have "
    "to be percent-encoded"
)


def redacted(dsn: str) -> str:
    """Return *dsn* with nothing in it that may be secret: no password, no parameter that is not known to be harmless.

    What comes before the last ``@`` counts as the user's part, so that rather too much is hidden than too little.
    Without a scheme nothing is known: it may be a password that took the DSN's place.
    """
    scheme, user, password, place, query = _split(dsn)
    if not scheme:
        return HIDDEN if dsn else ""
    person = "" if user is None else f"{user}{'' if password is None else f':{HIDDEN}'}@"
    shown = _PAIR.sub(rf"\1\2{HIDDEN}", f"{scheme}{person}{place}")
    return shown if query is None else f"{shown}?{'&'.join(_parameters(query))}"


def place_of(dsn: str) -> str:
    """Return where *dsn* leads, as host, port and database; all of it, redacted, if these cannot be told apart."""
    scheme, _, _, place, _ = _split(dsn)
    shown = place.strip("/") if scheme and re.fullmatch(r"[\w.:\[\],/-]*", place) else ""
    return shown or redacted(dsn)


def scrubbed(text: str, secrets: Iterable[str] = ()) -> str:
    """Return *text* with every DSN or other URL in it redacted, and all *secrets* hidden."""
    text = _URL.sub(lambda found: redacted(found[0]) if "@" in found[0] or "?" in found[0] else found[0], text)
    text = _PAIR.sub(lambda found: found[0] if found[3] in ("", HIDDEN) else f"{found[1]}{found[2]}{HIDDEN}", text)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def secrets_of(dsn: str) -> set[str]:
    """Return the secrets in *dsn*, as they stand and decoded, except what is also its user, host or database."""
    _, user, password, place, query = _split(dsn)
    found = {password} if password else set()
    found |= {value.strip("'\"") for _, _, value in _PAIR.findall(place)}
    for one in _pairs(query or ""):
        name, sign, value = one.partition("=")
        if sign and _name(name) not in HARMLESS:
            found.add(value)
    found |= {unquote(one) for one in found} | {unquote_plus(one) for one in found}
    public = {user or "", *re.split(r"[/:,]", place)}
    return {one for one in found if len(one) > 2 and one not in public}


def told(reason: object, dsn: str) -> str:
    """Return *reason*, why *dsn* cannot be used, unless it quotes a piece of its password."""
    text = str(reason)
    if any(piece in text for piece in _pieces(dsn)):
        return _QUOTED
    return text


def _split(dsn: str) -> tuple[str, str | None, str | None, str, str | None]:
    """Return scheme, user, password, place and query; None: there is none."""
    scheme, sign, rest = dsn.partition("://")
    if not sign:
        scheme, rest = "", dsn
    person, at, _ = rest.rpartition("@")
    if ":" not in person and (mark := re.search(r"[/?#]", person)):  # the last @ is of a parameter
        person, at, _ = rest[: mark.start()].rpartition("@")
    place, mark_of_query, query = rest[len(person + at) :].partition("#")[0].partition("?")
    user, colon, password = person.partition(":")
    return (
        scheme + sign,
        user if at else None,
        password if at and colon else None,
        place,
        query if mark_of_query else None,
    )


def _pairs(query: str) -> list[str]:
    return re.split("[&;]", query)


def _name(raw: str) -> str:
    return unquote_plus(raw).strip().lower()


def _parameters(query: str) -> Iterable[str]:
    pairs = [one.partition("=") for one in _pairs(query)]
    cut = any(re.fullmatch(_SECRET_NAME, _name(name)) for name, _, _ in pairs)
    for name, sign, value in pairs:
        if _name(name) in HARMLESS:
            yield f"{name}{sign}{value}"
        elif cut and not re.fullmatch(_SECRET_NAME, _name(name)):  # maybe the rest of a password with an & in it
            yield HIDDEN
        else:
            yield f"{name}={HIDDEN}"


def _pieces(dsn: str) -> set[str]:
    """Return what may turn up in a message: pieces of a password that is not encoded, and of hidden parameters.

    A password that is encoded is taken for one by every parser, and repeated by none. An ``@`` in the user's part ends
    it for some: what follows is then a list of hosts.
    """
    _, user, password, _, query = _split(dsn)
    pieces: set[str] = set()
    if password is not None and ("@" in (user or "") or not _TAKEN_WHOLE.fullmatch(password)):
        pieces.update(re.split(r"[/?#@:&=,\s\[\]]", password))
    names = [one.partition("=")[0] for one in _pairs(query or "")]
    if any(re.fullmatch(_SECRET_NAME, _name(name)) for name in names):
        for one in _pairs(query or ""):
            name, _, value = one.partition("=")
            if _name(name) not in HARMLESS and not re.fullmatch(_SECRET_NAME, _name(name)):
                pieces.update((name, value))
    for one in _pairs(query or ""):
        name, _, value = one.partition("=")
        if _name(name) not in HARMLESS and not re.fullmatch(_SECRET_NAME, _name(name)):
            pieces.update(piece for piece in re.split(r"[\s=]|--?c?", unquote_plus(value)) if len(piece) > 3)
    forms = {form for one in pieces for form in (one, unquote(one)) if form}
    return forms | {repr(one)[1:-1] for one in forms}
