"""Connections: opening them, calling the SQL functions, and what each failure is called.

`SQLSTATES` is the one table from SQLSTATE to error. The SQL functions raise ES001 and up, with the facts as JSON in
DETAIL.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import UUID

import asyncpg

from eventstore import errors, keepalive
from eventstore.answers import Answers
from eventstore.counting import Reads
from eventstore.moments import hand_over_numbers
from eventstore.poolers import CACHED, Way, moves, spare_settings
from eventstore.redaction import redacted, told
from eventstore.rights import needed
from eventstore.schema import REVISION, quoted
from eventstore.servers import SERVED_BY, TIMELINE, Server, introduced
from eventstore.service import Tasks, to_its_end
from eventstore.settings import Settings
from eventstore.tenants import as_tenant

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

log = logging.getLogger(__name__)

__all__ = [
    "Borrowable",
    "Connection",
    "Database",
    "Usage",
    "borrowed",
    "check_dsn",
    "connect",
    "mapped_errors",
    "not_primary",
    "redacted",
]

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

Borrowable: TypeAlias = "Connection | AsyncConnection | AsyncSession"
"""What a caller can lend with an open transaction on it."""


def _wrong_version(error: asyncpg.PostgresError) -> errors.EventStoreError:
    facts = _facts(error)
    return errors.WrongExpectedVersion(facts["stream"], facts["expected"], facts["actual"])


def _ahead_of_log(error: asyncpg.PostgresError) -> errors.EventStoreError:
    facts = _facts(error)
    return errors.CheckpointAheadOfLog(facts["name"], facts["checkpoint"], facts["last_position"])


def _duplicate(error: asyncpg.PostgresError) -> errors.EventStoreError:
    return errors.DuplicateEventId(map(UUID, json.loads(error.detail or "[]") or []), _message(error))


def _facts(error: asyncpg.PostgresError) -> Any:
    return json.loads(error.detail or "{}")


def _message(error: asyncpg.PostgresError) -> str:
    hint = getattr(error, "hint", None)
    return f"{error.message or error}" + (f" ({hint})" if hint else "")


def _as(kind: type[errors.EventStoreError]) -> Callable[[asyncpg.PostgresError], errors.EventStoreError]:
    return lambda error: kind(_message(error))


def _conflict(error: asyncpg.PostgresError) -> errors.EventStoreError:
    reasons = {"40P01": "a deadlock with another transaction", "55P03": "another transaction held a lock for too long"}
    reason = reasons.get(error.sqlstate or "", "another transaction came in between")
    return errors.TransactionConflict(f"{reason}; roll back and repeat the transaction ({_message(error)})")


def _unprepared(error: asyncpg.PostgresError) -> errors.EventStoreError:
    cure = "behind a pooler in transaction mode statement_cache_size must be 0"
    return errors.ConfigurationError(f"{_message(error)}; {cure}")


def _denied(error: asyncpg.PostgresError) -> errors.EventStoreError:
    right = needed(_message(error))
    cure = f"; to {right.to} takes the role {' or '.join(right.roles)} (see `eventstore roles`)" if right else ""
    return errors.ConfigurationError(_message(error) + cure)


def _read_only(error: asyncpg.PostgresError) -> errors.EventStoreError:
    cure = "connect to the primary (target_session_attrs=read-write)"
    return errors.DatabaseUnavailable(f"{_message(error)}: the server is a standby, or read-only for this role; {cure}")


SQLSTATES: dict[str, Callable[[asyncpg.PostgresError], errors.EventStoreError]] = {
    "ES001": _wrong_version,
    "ES002": _duplicate,
    "ES003": _as(errors.InvalidEvent),
    "ES004": _as(errors.PayloadTooLarge),
    "ES005": _as(errors.InvalidSelector),
    "ES006": _as(errors.ConfigurationError),
    "ES007": lambda error: errors.StreamDeleted(_facts(error)["stream"]),
    "ES008": _as(errors.LeaseLost),
    "ES009": _as(errors.EventStoreError),
    "ES010": _as(errors.DatabaseUnavailable),
    "ES011": _as(errors.TransactionConflict),
    "ES012": lambda error: errors.AppendConditionFailed(_facts(error)["position"]),
    "ES013": lambda error: errors.SubscriptionNotFound(_facts(error)["name"]),
    "ES014": _ahead_of_log,
    "ES015": _as(errors.ConfigurationError),
    "40001": _conflict,
    "40P01": _conflict,
    "55P03": _conflict,
    "42501": _denied,
    "25P02": _as(errors.TransactionConflict),
    "42704": _as(errors.ConfigurationError),
    "3F000": _as(errors.ConfigurationError),
    "42883": _as(errors.ConfigurationError),
    "42P01": _as(errors.ConfigurationError),
    "3D000": _as(errors.DatabaseUnavailable),
    "28000": _as(errors.DatabaseUnavailable),
    "28P01": _as(errors.DatabaseUnavailable),
    "25006": _read_only,
    "54000": _as(errors.DatabaseUnavailable),  # the queue of notifications is full
    "26000": _unprepared,
    "42P05": _unprepared,
}
"""SQLSTATE → error; classes 08 (connection), 53 (no disk, memory or connections left) and 57 (shutdown) are
`DatabaseUnavailable` as a whole, class 22 (a value out of range) is `ConfigurationError`."""

CONSTRAINTS: dict[str, Callable[[asyncpg.PostgresError], errors.EventStoreError]] = {
    "events_id_key": lambda error: errors.DuplicateEventId(
        map(UUID, re.findall(r"\(id\)=\(([0-9a-f-]{36})\)", error.detail or ""))  # not told where there are tenants
    ),
    "event_tags_key": lambda _: errors.InvalidEvent("a tag stands twice in one event"),
    "subscriptions_name_length": lambda _: errors.ConfigurationError("subscription names have 1 to 512 characters"),
    "subscriptions_pool_size": lambda _: errors.ConfigurationError("pool_size must be between 1 and 1024"),
}

# InternalClientError: a connection that the server ended while it lay idle in the pool, found out by using it.
_MISSING = (asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError)

RELEASE_WITHIN = 2.0
"""Seconds a cancelled query may take to end before its connection is cut."""

UNDONE_WITHIN = 5.0
"""Seconds in which a caller's connection has to go back to, or give up, the savepoint around an append."""

ACQUIRE_WITHIN = 60.0
"""Seconds to wait for a free connection of the pool."""

_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.ConnectionDoesNotExistError, OSError)


def _named(error: asyncpg.PostgresError) -> errors.EventStoreError | None:
    state = error.sqlstate or ""
    constraint = CONSTRAINTS.get(getattr(error, "constraint_name", None) or "")
    if constraint:
        return constraint(error)
    if state in SQLSTATES:
        return SQLSTATES[state](error)
    if state[:2] in ("08", "53", "57"):
        return errors.DatabaseUnavailable(_message(error))
    return errors.ConfigurationError(_message(error)) if state.startswith("22") else None


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turn asyncpg's and the system's errors into this package's; what has no name passes through."""
    try:
        yield
    except asyncpg.PostgresError as error:
        named = _named(error)
        if named is None:
            raise
        raise named from error
    except _LOST as error:
        # What asyncpg says about its own state helps nobody.
        said = "it ended" if isinstance(error, asyncpg.InternalClientError) else error or type(error).__name__
        raise errors.DatabaseUnavailable(f"the database connection failed: {said}") from error


def not_primary(error: BaseException) -> bool:
    """Whether *error* says that the server is there, but is a standby or read-only: only another one can help."""
    return getattr(error.__cause__, "sqlstate", None) in ("ES010", "25006")


_REFUSED = (asyncpg.ProtocolViolationError, asyncpg.FeatureNotSupportedError)
"""What poolers say to settings that they do not know."""


async def _nothing(_connection: object) -> None:
    return None


async def connect(dsn: str, *, timeout: float = 10.0, cache: int = 0, name: str = "eventstore") -> Any:
    """Open one asyncpg connection, which by default leaves no statement prepared: a pooler may stand in between.

    Raises:
        ConfigurationError: the DSN is malformed.
        DatabaseUnavailable: the server refuses or cannot be reached within *timeout* seconds.
    """
    options: dict[str, Any] = {"dsn": dsn, "timeout": timeout, "statement_cache_size": cache}
    with _opening(dsn):
        try:
            made = await asyncpg.connect(**options, server_settings={"application_name": name} | keepalive.SESSION)
        except _REFUSED:
            made = await asyncpg.connect(**options, server_settings={"application_name": name})
    keepalive.watch(made)
    return made


def check_dsn(dsn: str, name: str) -> None:
    """Raise `ConfigurationError` if *dsn*, given as *name*, is malformed, before anything is connected to."""
    try:
        with _opening(dsn):
            parts = urlsplit(dsn)
            parse_qsl(parts.query, strict_parsing=bool(parts.query))
            for host in parts.netloc.split("@", 1)[-1].split(","):
                int(re.sub(r"\[.*\]", "", unquote(host)).partition(":")[2] or 0)
    except errors.ConfigurationError as error:
        raise errors.ConfigurationError(f"{name}: {error}") from None


@contextmanager
def _opening(dsn: str) -> Iterator[None]:
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise errors.ConfigurationError("the DSN must begin with postgresql://")  # it may be a password by itself
    try:
        with mapped_errors():
            try:
                yield
            except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
                # A certificate that is refused is a ValueError too, and an OSError.
                if isinstance(error, (errors.EventStoreError, OSError)):
                    raise
                problem = f"DSN {redacted(dsn)!r} is malformed: {told(error, dsn)}"
                if "root certificate" in str(error):
                    problem += "; sslrootcert=FILE names another"
                raise errors.ConfigurationError(problem) from None
    except errors.DatabaseUnavailable as error:
        cause = error.__cause__ or error
        if isinstance(cause, _OF_FILES) and (unreadable := _unreadable_file(dsn)):
            raise errors.ConfigurationError(unreadable) from None
        reason = "timed out" if isinstance(cause, TimeoutError) else told(cause, dsn)
        raise errors.DatabaseUnavailable(f"cannot connect to {redacted(dsn)}: {reason}") from None
    except errors.ConfigurationError as error:
        # What the server says may quote a password that was cut in pieces, as the name of a setting.
        if (reason := told(error, dsn)) == str(error):
            raise
        raise errors.ConfigurationError(f"DSN {redacted(dsn)!r}: {reason}") from None


_OF_FILES = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def _unreadable_file(dsn: str) -> str | None:
    """Return which file for TLS cannot be read, and what names it; the error that says so names neither."""
    given = dict(parse_qsl(urlsplit(dsn).query))
    for name in ("sslrootcert", "sslcrl", "sslcert", "sslkey"):
        setting = name if name in given else f"PG{name.upper()}"
        path = given.get(name) or os.environ.get(setting, "")
        if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            return f"the file {path!r}, named by {setting}, does not exist or cannot be read"
    return None


@dataclass(frozen=True, slots=True)
class Usage:
    """How a pool is used.

    Attributes:
        limit: most connections it may open.
        opened: connections that are open.
        busy: those of them that somebody uses.
        waiting: calls that wait for a connection.
    """

    limit: int
    opened: int
    busy: int
    waiting: int


class _Pooled(Exception):
    """The first connection goes through a pooler."""


_TENANTS = """
    select c.relrowsecurity as apart, r.rolname as owner,
           r.rolsuper or r.rolbypassrls or not c.relforcerowsecurity as unheld
      from pg_class c join pg_roles r on r.oid = c.relowner
     where c.relnamespace = to_regnamespace($1) and c.relname = 'events'
"""

PAGES, SETTLING = "read_events_v1", ("settle_partitions_v1", "settle_partition_v1", "release_partitions_v1")
"""The functions that tell positions which are remembered, and those that store one that was."""


class Database:
    """A pool of connections to one schema, and the only way this package calls SQL.

    Args:
        connections: how many at most; the first one is opened by `start`, unless there is another database beside.
        lent: for code that is not this package's. They are as asyncpg opens them, the first one when it is needed, and
            reset before they are used again.
        reads: counts the pages of the log that are read here; None: nobody looks.
        beside: another one that is started earlier, for the same DSN; what it found out about the way there holds.

    Attributes:
        schema: the schema it was started for.
        tenant: whose rows it sees and writes; None: the schema has no tenants.
        way: how its connections reach the server.
        ended: how many connections ended without being closed.
    """

    def __init__(
        self,
        settings: Settings,
        connections: int,
        *,
        lent: bool = False,
        reads: Reads | None = None,
        beside: Database | None = None,
    ) -> None:
        self._settings, self._connections, self._lent, self._beside = settings, connections, lent, beside
        # What `start` looks for was found by the other one, and a connection costs a server several milliseconds.
        self._lazy = lent or beside is not None
        self._session: dict[str, str] = beside._session if beside else keepalive.SESSION
        self.reads, self.ended = reads or Reads(), 0
        self.way, self._way_known = Way(), True
        self._server: Server = beside._server if beside else Server()
        self._answers: Answers = beside._answers if beside else Answers(self._asking)
        self._answers.on_dead(self._cut_spare)
        self._tasks, self._dsn = Tasks(), ""
        self._server.on_change(self._tell_lost)
        self.schema, self._prefix = "", ""
        self.tenant: str | None = None
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._lost: set[Callable[[], None]] = set()
        # Connections at hand, ahead of the pool's own queue, which costs a call more than many a query does.
        self._spare: list[Any] = []
        self._waiting = 0
        # Backends of connections that led to a standby when they were opened.
        self._standbys: set[int] = set()
        self._statements: dict[tuple[str, int, tuple[str, ...], bool], str] = {}

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* whenever a connection of the pool ends, or the server behind a pooler is another one.

        Returns a function that stops that.
        """
        self._lost.add(callback)
        return lambda: self._lost.discard(callback)

    def on_put_back(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* when events that were read may be gone; see `eventstore.servers`.

        It is called before anything is read from, or stored by, the server that has not got them. Returns a function
        that stops that.
        """
        return self._server.on_put_back(callback)

    def usage(self) -> Usage:
        """Return how the pool is used now."""
        if self._pool is None:
            return Usage(self._connections, 0, 0, 0)
        opened = self._pool.get_size()
        return Usage(self._connections, opened, opened - self._pool.get_idle_size() - len(self._spare), self._waiting)

    def _connection_lost(self, _connection: object) -> None:
        self.ended += self._pool is not None
        self._tell_lost()

    def _cut_spare(self) -> None:
        """Each that is as dead would cost whoever takes it as long to find out; one that is not is opened again."""
        for connection in self._spare:
            with suppress(asyncpg.InterfaceError):  # it has ended, and does not even answer that
                connection.terminate()

    def _tell_lost(self) -> None:
        for callback in tuple(self._lost):
            callback()

    async def _meet(self, connection: Any) -> str:
        """Find out who serves a new connection; return the isolation level of a transaction that names none."""
        keepalive.watch(connection)
        # Before anything else, which would leave prepared statements on a backend that is not this connection's own.
        met = await introduced(connection)
        if not self._way_known and met["backend"] != connection.get_server_pid():
            raise _Pooled
        self._way_known = True
        if self.way.moves:
            spare_settings(connection)
        self._server.follows(met["timeline"])
        if met["timeline"] == "" and not self.way.pooled:
            self._standbys.add(connection.get_server_pid())
        return str(met["isolation"])

    async def _look_again(self, connection: Any) -> None:
        """Find out whether the standby that *connection* leads to was promoted: it stays open then."""
        if (pid := connection.get_server_pid()) not in self._standbys:
            return
        with self._answers.awaited(connection):
            timeline = await connection.fetchval(f"select {TIMELINE}")
        if timeline:
            self._standbys.discard(pid)
            self._server.follows(timeline)

    async def _lend(self, connection: Any) -> None:
        await self._meet(connection)

    async def _prepare(self, connection: Any) -> None:
        isolation = await self._meet(connection)
        connection.add_termination_listener(self._connection_lost)
        await hand_over_numbers(connection)
        # The horizon needs it.
        if isolation == "read committed":
            return
        if self.way.pooled:
            raise errors.ConfigurationError(
                f"the role's transactions are {isolation} by default, which nothing can change for a single connection "
                "behind a pooler: alter role … set default_transaction_isolation to 'read committed'"
            )
        await connection.execute("set default_transaction_isolation to 'read committed'")

    async def start(self, dsn: str, schema: str, tenant: str | None = None) -> None:
        """Open the pool and check that the schema is new enough.

        Args:
            tenant: whose rows to see and write. None: of a schema without tenants all, or those of the tenant that the
                login is bound to; beside another database, what holds for that.

        Raises:
            ConfigurationError, DatabaseUnavailable: as `connect`.
            ConfigurationError: a tenant is named and the schema has none, or nothing keeps its tenants apart; or it has
                tenants and none is named, or another than the login is bound to.
            MigrationRequired: the schema is missing or older than `schema.REVISION`.
        """
        self.schema, self._prefix = schema, quoted(schema)
        self._standbys.clear()
        self.tenant = self._beside.tenant if self._beside else None
        self._statements.clear()
        cache = self._settings.statement_cache_size
        self.way = self._beside.way if self._beside else Way(CACHED if cache is None else cache)
        self._way_known = self._lazy
        if self._beside is None:
            self._server.forget()
        with _opening(dsn):
            try:
                await self._open_somehow(dsn)
            except _Pooled:
                timeout = self._settings.connect_timeout
                moving = await moves(lambda: connect(dsn, timeout=timeout), lambda one: one.close(timeout=timeout))
                self.way, self._way_known = Way(cache or 0, True, moving), True
                log.info("a pooler stands in between; statement_cache_size is %d", self.way.cache)
                await self._open(dsn)
        # Behind a pooler a connection's backend is not the one that works for it.
        if self._beside is None and not self.way.pooled:
            self._dsn = dsn
            self._tasks.supervise("answers", self._answers.look_again_and_again)
        if self._lazy:
            return
        try:
            await self._check_revision(schema)
            if self._beside is None:
                await self._become(tenant)
        except BaseException:
            await self.stop()
            raise

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Any]:
        connection = await connect(self._dsn, timeout=self._settings.connect_timeout)
        try:
            with mapped_errors():
                yield connection
        finally:
            connection.terminate()

    async def _open_somehow(self, dsn: str) -> None:
        self._session = self._beside._session if self._beside else keepalive.SESSION
        try:
            await self._open(dsn)
        except _REFUSED:
            if not self._session:
                raise
            self._session = {}
            await self._open(dsn)

    async def _open(self, dsn: str) -> None:
        self._pool = pool = await asyncpg.create_pool(
            dsn,
            # None is kept up: the pool would log each attempt while the database is away.
            min_size=0,
            max_size=self._connections,
            # Connections are never recycled: one that ends tells that the server may have crashed.
            max_inactive_connection_lifetime=0,
            max_queries=sys.maxsize,
            # Calls leave no session state behind, so there is nothing to reset. Through a pooler nothing can be.
            reset=None if self._lent and not self.way.moves else _nothing,
            init=self._lend if self._lent else self._prepare,
            timeout=self._settings.connect_timeout,
            statement_cache_size=self.way.cache,
            server_settings={"application_name": "eventstore"} | self._session,
        )
        if self._lazy:
            return
        try:
            await pool.release(await pool.acquire())
        except BaseException:
            self._pool = None
            pool.terminate()
            raise

    async def _check_revision(self, schema: str) -> None:
        try:
            found = await self.value("schema_revision")
        except errors.ConfigurationError as error:
            if not isinstance(error.__cause__, _MISSING):
                raise
            found = None
        if found is None or found < REVISION:
            raise errors.MigrationRequired(schema, found, REVISION)

    async def _become(self, tenant: str | None) -> None:
        async with self.acquire() as connection:
            ((apart, owner, unheld),) = await connection.fetch(_TENANTS, self._prefix)
        if not apart and tenant is not None:
            raise errors.ConfigurationError(
                f"schema {self.schema!r} has no tenants: leave out tenant={tenant!r}, or see `eventstore tenants`"
            )
        if apart and unheld:
            raise errors.ConfigurationError(
                f"nothing keeps the tenants of schema {self.schema!r} apart: row-level security does not hold back its "
                f"owner, {owner!r}; see `eventstore tenants --check`"
            )
        if apart:
            # Said to be none, rather than left out: only a login that is bound is somebody then.
            self.tenant = tenant or ""
            self._statements.clear()
            self.tenant = await self.value("current_tenant_v1")

    async def stop(self) -> None:
        """Close every connection; those that do not end within five seconds are cut."""
        await self._tasks.stop()
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(5):
                while self._spare:
                    await self._release(pool, self._spare.pop())
                await pool.close()
        except (TimeoutError, *_LOST):
            pool.terminate()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection of the pool; its errors become this package's."""
        if self._pool is None:
            raise errors.ConfigurationError("the store is not open; use `async with EventStore(...) as store`")
        pool = self._pool
        with mapped_errors():
            connection = await self._taken(pool)
            try:
                if self._standbys:
                    await self._look_again(connection)
                if self._lent:
                    with self._answers.awaited(connection, lent=True):
                        yield connection
                else:
                    yield connection
            except BaseException:
                await to_its_end(self._release(pool, connection))
                raise
            if self._waiting or self._lent or pool is not self._pool:
                await to_its_end(self._release(pool, connection))
            else:
                self._spare.append(connection)

    async def _taken(self, pool: asyncpg.Pool[asyncpg.Record]) -> Any:
        while self._spare:
            connection = self._spare.pop()
            # A connection that ended while nobody used it is detached, and does not even answer that.
            with suppress(asyncpg.InterfaceError):
                if not connection.is_closed():
                    return connection
            await to_its_end(self._release(pool, connection))
        self._waiting += 1
        try:
            # Not by asyncpg's own timeout, which until Python 3.12 can lose a cancellation.
            async with asyncio.timeout(ACQUIRE_WITHIN):
                return await pool.acquire()
        finally:
            self._waiting -= 1

    async def _release(self, pool: asyncpg.Pool[asyncpg.Record], connection: Any) -> None:
        """Give a connection back; what happened on it has happened, so that a failure here is nobody's error."""
        try:
            await pool.release(connection, timeout=RELEASE_WITHIN)
        except Exception:  # the pool has cut it and makes a new one
            log.debug("a connection could not be given back and was cut", exc_info=True)

    def call(
        self, function: str, arguments: int, named: Sequence[str] = (), casts: Mapping[int, str] | None = None
    ) -> str:
        """Return the statement that calls *function* of the schema with numbered, then *named* parameters.

        Behind them comes the tenant, if there is one. *casts* are put behind numbered parameters.
        """
        key = (function, arguments, tuple(named), casts is None)
        if (statement := self._statements.get(key)) is None:
            numbered = [f"${n}{(casts or {}).get(n, '')}" for n in range(1, arguments + 1)]
            by_name = [f"{name} => ${arguments + n}" for n, name in enumerate(named, 1)]
            statement = f"select * from {self._prefix}.{function}({', '.join(numbered + by_name)})"
            parameters = arguments + len(named) + (self.tenant is not None)
            statement = self._watched(function, statement, parameters)
            statement = statement if self.tenant is None else as_tenant(statement, parameters)
            self._statements[key] = statement
        return statement

    def _watched(self, function: str, statement: str, parameters: int) -> str:
        """Behind a pooler, make pages tell who served them, and nothing be settled by what another server said."""
        if self.way.pooled and function == PAGES:
            return statement.replace("select *", f"select *, {SERVED_BY} as served_by", 1)
        if self.way.pooled and function in SETTLING:  # nobody owns anything, if it is another server
            owner = f"case when ${parameters + 1} in ('', {SERVED_BY}) then $1::uuid end"
            return statement.replace("($1,", f"({owner},", 1)
        return statement

    async def _fetched(self, connection: Connection, function: str, statement: str, args: Sequence[Any]) -> Any:
        if not self.way.pooled or function not in (PAGES, *SETTLING):
            if self._lent or connection in self._answers:  # somebody looks after it already
                return await connection.fetch(statement, *args)
            with self._answers.awaited(connection):
                return await connection.fetch(statement, *args)
        if function == PAGES:
            rows = await connection.fetch(statement, *args)
            self._server.met(rows[-1]["served_by"])
        elif not (rows := await connection.fetch(statement, *args, self._server.served_by)) or not rows[0][0]:
            self._server.met(await connection.fetchval(f"select {SERVED_BY}"))
        return rows

    async def rows(
        self,
        function: str,
        *args: Any,
        on: Connection | None = None,
        casts: Mapping[int, str] | None = None,
        **named: Any,
    ) -> list[asyncpg.Record]:
        """Call a set-returning function, on a connection of the pool or on the one given.

        The pool's return times as numbers; see `moments`.
        """
        statement = self.call(function, len(args), tuple(named), casts)
        values = (*args, *named.values()) if self.tenant is None else (*args, *named.values(), self.tenant)
        if on is not None:
            with mapped_errors():
                return list(await self._fetched(on, function, statement, values))
        async with self.acquire() as connection:
            return list(await self._fetched(connection, function, statement, values))

    async def value(self, function: str, *args: Any, on: Connection | None = None, **named: Any) -> Any:
        """Call a function that returns one value."""
        rows = await self.rows(function, *args, on=on, **named)
        return rows[0][0] if rows else None


@asynccontextmanager
async def borrowed(lent: Borrowable) -> AsyncIterator[Connection]:
    """Run a block inside the caller's open transaction, which stays usable when the block fails.

    A block that has come to its end stays in the transaction, even if a cancellation arrives just then.

    The savepoint is sent as SQL: asyncpg's own transaction objects refuse a transaction they did not begin. Through
    SQLAlchemy it is also what makes it send the BEGIN that it puts off until the first statement; without that the
    block would run, and commit, outside the transaction.

    Raises:
        ConfigurationError: *lent* is no connection or session over asyncpg, or has no open transaction.
    """
    raw: Any = lent if hasattr(lent, "is_in_transaction") else await _begun(lent)
    with mapped_errors():
        if not raw.is_in_transaction():
            raise errors.ConfigurationError(
                "connection= needs an open transaction: async with connection.transaction()"
            )
        await raw.execute("savepoint eventstore")
        try:
            yield raw
        except BaseException:
            if not raw.is_closed():
                undo = _soon(raw, "rollback to savepoint eventstore; release savepoint eventstore")
                # A connection that is silent also now has been cut, and its transaction with it.
                with suppress(TimeoutError):
                    await to_its_end(undo)
            raise
        # To its end: cut off in between nobody could tell whether there is still a savepoint to go back to.
        await to_its_end(_soon(raw, "release savepoint eventstore"))


async def _soon(raw: Any, statement: str) -> None:
    """Run a statement that nobody can cancel: so it is cut off, with its connection, when there is no answer."""
    try:
        await raw.execute(statement, timeout=UNDONE_WITHIN)
    except TimeoutError:
        raw.terminate()
        raise


async def _begun(lent: object) -> Any:
    """Return the asyncpg connection below a SQLAlchemy connection or session, its transaction begun in truth."""
    if "sqlalchemy.ext.asyncio" not in sys.modules:
        raise errors.ConfigurationError(f"connection= takes an asyncpg connection, not {type(lent).__name__}")
    from sqlalchemy.exc import DBAPIError, InvalidRequestError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    if isinstance(lent, (AsyncSession, async_scoped_session)):
        try:
            lent = await lent.connection()
        except InvalidRequestError as error:
            raise errors.ConfigurationError(f"connection= needs a usable session: {error}") from error
    if not isinstance(lent, AsyncConnection):
        raise errors.ConfigurationError(
            f"connection= takes an asyncpg connection, an AsyncConnection or an AsyncSession, not {type(lent).__name__}"
        )
    try:
        await lent.exec_driver_sql("select 1")
    except InvalidRequestError as error:
        raise errors.ConfigurationError(f"connection= needs a usable transaction: {error}") from error
    except DBAPIError as error:
        with mapped_errors():
            raise (error.orig.__cause__ if error.orig else None) or error from None
    raw = (await lent.get_raw_connection()).driver_connection
    if not isinstance(raw, asyncpg.Connection):
        raise errors.ConfigurationError(
            f"connection= works over asyncpg only (postgresql+asyncpg://), not over {type(raw).__module__}"
        )
    if not raw.is_in_transaction():
        raise errors.ConfigurationError(
            "connection= needs a transaction, and this connection is in AUTOCOMMIT: nothing could be rolled back"
        )
    return raw
