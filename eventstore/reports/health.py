"""Checks, each a small function from what was read to a `Verdict`; and `examine`, which reads and judges.

A check looks like this; its first line of documentation is what ``eventstore doctor --list`` says::

    @check("fsync", read_server)
    def fsync(server: Server) -> Verdict:
        '''Whether an acknowledged append survives a crash of the machine.'''
        return ok("on") if ... else fail("off", cure="set fsync = on")

Several checks may judge what one reader read, which is read once. What cannot be read for want of rights, or because
the schema is missing, is ``unknown`` and no crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeAlias, TypeVar

import asyncpg

from eventstore.errors import ConfigurationError, DatabaseUnavailable, EventStoreError, MigrationRequired
from eventstore.reports.site import Site

__all__ = ["Check", "Finding", "Verdict", "check", "checks", "examine", "fail", "named", "ok", "unknown", "warn"]

T = TypeVar("T")
Status: TypeAlias = Literal["ok", "unknown", "warn", "fail"]
Reader: TypeAlias = Callable[[Site], Awaitable[T]]

READ_WITHIN = 30.0
"""Seconds after which what could not be read is unknown."""

NEEDS_RIGHTS = (
    "ask as a reader, with a login of its own: `eventstore roles --apply --to reader=LOGIN`, and for what the server "
    "hides `grant pg_monitor to LOGIN`"
)

THEMES = ("server", "security", "installed", "tenants", "horizon", "links", "delivery", "evidence")
"""Modules with checks, in the order in which they are made."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    Attributes:
        cure: what to do about it; None if there is nothing to do.
        facts: rows behind it, plain data.
    """

    status: Status
    found: str
    cure: str | None = None
    facts: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A `Verdict` and whose it is."""

    name: str
    status: Status
    found: str
    cure: str | None
    facts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        about: what it looks for, in one sentence.
        read: reads what `judge` is handed.
        rights: the cure if the role may not read that.
    """

    name: str
    about: str
    read: Reader[Any]
    judge: Callable[[Any], Verdict]
    rights: str = NEEDS_RIGHTS


def ok(found: str, facts: Iterable[Mapping[str, Any]] = ()) -> Verdict:
    """Nothing is wrong."""
    return Verdict("ok", found, None, tuple(facts))


def unknown(found: str, cure: str | None = None, facts: Iterable[Mapping[str, Any]] = ()) -> Verdict:
    """It could not be found out."""
    return Verdict("unknown", found, cure, tuple(facts))


def warn(found: str, cure: str, facts: Iterable[Mapping[str, Any]] = ()) -> Verdict:
    """Something works worse than it could, or will fail."""
    return Verdict("warn", found, cure, tuple(facts))


def fail(found: str, cure: str, facts: Iterable[Mapping[str, Any]] = ()) -> Verdict:
    """Something is lost, or stands still."""
    return Verdict("fail", found, cure, tuple(facts))


def named(names: Iterable[object], most: int = 5) -> str:
    """Return the first *most* names as text, and how many there are besides."""
    all_of_them = [str(name) for name in names]
    more = f" and {len(all_of_them) - most} more" if len(all_of_them) > most else ""
    return ", ".join(all_of_them[:most]) + more


_checks: dict[str, Check] = {}


def check(
    name: str, read: Reader[T], *, rights: str = NEEDS_RIGHTS
) -> Callable[[Callable[[T], Verdict]], Callable[[T], Verdict]]:
    """Make a function a check of what *read* reads; *rights* is the cure if the role may not read that."""

    def add(judge: Callable[[T], Verdict]) -> Callable[[T], Verdict]:
        _checks[name] = Check(name, (judge.__doc__ or "").splitlines()[0], read, judge, rights)
        return judge

    return add


def checks(only: Iterable[str] = ()) -> list[Check]:
    """Return all checks, or those named *only*, in the order in which they are made.

    Raises:
        ConfigurationError: there is no such check.
    """
    for theme in THEMES:
        import_module(f"eventstore.reports.{theme}")
    chosen, known = set(only), sorted(_checks.values(), key=lambda one: _place(one.judge.__module__))
    if absent := sorted(chosen - _checks.keys()):
        raise ConfigurationError(f"there is no check {absent[0]!r}; there are {', '.join(one.name for one in known)}")
    return [one for one in known if not chosen or one.name in chosen]


def _place(module: str) -> int:
    """Return the number of a theme, whichever was imported first; other checks come last."""
    theme = module.removeprefix("eventstore.reports.")
    return THEMES.index(theme) if theme in THEMES else len(THEMES)


async def examine(site: Site, only: Iterable[str] = ()) -> AsyncIterator[Finding]:
    """Make all checks, or those named, and yield what each found.

    Raises:
        ConfigurationError: there is no such check.
    """
    read: dict[Reader[Any], Any] = {}
    for one in checks(only):
        if one.read not in read:
            read[one.read] = await _read(site, one.read, one.rights)
        material = read[one.read]
        verdict = material if isinstance(material, Verdict) else one.judge(material)
        yield Finding(one.name, verdict.status, verdict.found, verdict.cure, verdict.facts)


async def _read(site: Site, reader: Reader[Any], rights: str) -> Any:
    """Return what *reader* reads, or why it cannot."""
    try:
        async with asyncio.timeout(READ_WITHIN):
            return await reader(site)
    except MigrationRequired:
        return unknown("unknown: the schema is missing or too old", "see the check `schema`")
    except TimeoutError:
        return unknown("the database did not answer in time", "ask again when it is less busy")
    except (EventStoreError, asyncpg.PostgresError) as error:
        return _unreadable(error, rights)


def _unreadable(error: Exception, rights: str) -> Verdict:
    if isinstance(error.__cause__ or error, asyncpg.InsufficientPrivilegeError):
        return unknown(f"unknown, needs rights: {error}", rights)
    if getattr(error.__cause__ or error, "sqlstate", None) == "ES015":
        return unknown(f"unknown: {error}", "say whose log is meant: --tenant NAME")
    if isinstance(error, DatabaseUnavailable):
        return unknown(f"unknown: {error}", "see the checks `recovery` and `connections`, and ask again")
    return unknown(f"unknown: {error}", "see the checks `schema` and `functions`")
