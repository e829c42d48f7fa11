"""Tables and statements of the Postgres adapter.

``pubsub_keys`` holds the secret of each PubSub: NOTIFY knows no privileges, tables do. ``pubsub_spill`` holds, for a
minute, what is too large for a notification; it is unlogged, because messages do not survive a crash either.

Where there are tenants, a policy shows a role its tenant's rows alone. The statements name the tenant all the same, for
policies do not hold for superusers.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from eventstore.errors import ConfigurationError
from eventstore.pubsub.frames import Frame
from eventstore.schema import quoted
from eventstore.tenants import SETTING

__all__ = ["Tables"]

KEPT = 60
"""Seconds after which a stored body may be deleted."""

BATCH = 500
"""Rows that are deleted at once."""


class Tables:
    """What is stored in one schema, by one tenant where it has them, and the statement that notifies.

    Raises:
        ConfigurationError: the schema's name is unusable.
    """

    def __init__(self, schema: str, tenant: str | None = None) -> None:
        name = quoted(schema)
        self._tenant = tenant
        # In transactions that have said which tenant they are.
        self._ours = "" if tenant is None else f" and tenant = (select {name}.current_tenant_v1())"
        self._name, self._keys, self._spill = name, f"{name}.pubsub_keys", f"{name}.pubsub_spill"
        # The key of `migrations/env.py`, so that neither comes in the way of the other.
        self._lock = f"eventstore:{schema}"
        self._schema = f"create schema if not exists {name}"
        self._tables = (
            f"create table if not exists {self._keys} (name text primary key, key bytea not null);\n"
            f"create unlogged table if not exists {self._spill} (id uuid primary key, body bytea not null, "
            "created_at timestamptz not null default clock_timestamp())"
        )
        self._notify = (
            "select count(pg_notify(n.channel, n.text)) from unnest($1::text[], $2::text[]) n (channel, text)"
        )
        # One row, evaluated once. A message is worth no fsync, which the transaction id of a NOTIFY would make the
        # commit wait for. For this transaction only: a pooler hands settings of a session on.
        self._hasty = ", (select set_config('synchronous_commit', 'off', true) offset 0) hasty"
        bodies, whose = "unnest($3::uuid[], $4::bytea[]) b (id, body)", f"select set_config('{SETTING}', $5, true)"
        self._store = (
            f"with stored as (insert into {self._spill} (id, body) select b.id, b.body from {bodies}) "
            if tenant is None
            # What is inserted holds what was set, so that it is set before anything is inserted.
            else f"with stored as (insert into {self._spill} (tenant, id, body)"
            f" select t.tenant, b.id, b.body from ({whose} as tenant offset 0) t, {bodies}) "
        )
        self._body = (
            f"select body from {self._spill} where id = $1"
            if tenant is None
            else f"select b.body from (select set_config('{SETTING}', $2, true) as tenant offset 0) t,"
            f" lateral (select s.body from {self._spill} s where s.id = $1 and s.tenant = t.tenant offset 0) b"
        )

    # -- starting

    async def prepare(self, connection: Any, name: str, *, create: bool) -> bytes:
        """Make sure of the tables, and return the key of the PubSub *name*.

        Raises:
            ConfigurationError: the tables are missing and not to be created; or a right is missing, and the message
                holds the SQL that would grant it; or a tenant is named and there are none, or the other way round.
        """
        try:
            if create:
                await self._ensure(connection)
            elif not await self._complete(connection):
                raise ConfigurationError(
                    f"nobody uses PubSub in the schema {self._name}: its tables are not there. Is that the schema, and "
                    "the database? `eventstore migrate`, or the first node, creates them"
                )
            if not await self._allowed(connection):
                raise asyncpg.InsufficientPrivilegeError(f"permission denied for table {self._spill}")
            await self._check_tenant(connection)
            async with self._as_tenant(connection):
                return await self._key(connection, name)
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(f"PubSub cannot start: {error}. {await self._cure(connection)}") from error

    async def _ensure(self, connection: Any) -> None:
        if await self._complete(connection):
            return
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", self._lock)
            if await self._complete(connection):
                return
            # Asked for first: creating a schema that exists needs the right to create one all the same.
            if await connection.fetchval("select to_regnamespace($1) is null", self._name):
                await connection.execute(self._schema)
            await connection.execute(self._tables)

    async def _complete(self, connection: Any) -> bool:
        both = "select to_regclass($1) is not null and to_regclass($2) is not null"
        return bool(await connection.fetchval(both, self._keys, self._spill))

    async def _allowed(self, connection: Any) -> bool:
        """Tell about the rights that only large messages need: their lack is to be known at once."""
        rights = "select bool_and(has_table_privilege($1, r)) from unnest('{select,insert,update,delete}'::text[]) r"
        return bool(await connection.fetchval(rights, self._spill))

    async def _check_tenant(self, connection: Any) -> None:
        apart = await connection.fetchval("select relrowsecurity from pg_class where oid = to_regclass($1)", self._keys)
        if apart != (self._tenant is not None):
            raise ConfigurationError(
                f"the schema {self._name} has tenants, and PubSub needs to know which one this is: tenant=…"
                if apart
                else f"the schema {self._name} has no tenants: leave out tenant={self._tenant!r}"
            )

    @asynccontextmanager
    async def _as_tenant(self, connection: Any) -> AsyncIterator[None]:
        if self._tenant is None:
            yield
            return
        async with connection.transaction():
            await self._become(connection)
            yield

    async def _become(self, connection: Any) -> None:
        if self._tenant is not None:
            await connection.execute("select set_config($1, $2, true)", SETTING, self._tenant)

    async def _key(self, connection: Any, name: str) -> bytes:
        select = f"select key from {self._keys} where name = $1{self._ours}"
        if (found := await connection.fetchval(select, name)) is None:
            # Whoever comes first decides; all others read what that one stored.
            insert = f"insert into {self._keys} (name, key) values ($1, $2) on conflict do nothing"
            await connection.execute(insert, name, secrets.token_bytes(32))
            found = await connection.fetchval(select, name)
        return bytes(found)

    async def _cure(self, connection: Any) -> str:
        role = await connection.fetchval("select quote_ident(current_user)")
        return (
            f"Have this run by a role that may:\n{self._schema};\n{self._tables};\n"
            f"grant usage on schema {self._name} to {role};\n"
            f"grant select, insert on {self._keys} to {role};\n"
            f"grant select, insert, update, delete on {self._spill} to {role};"
        )

    # -- sending

    async def notify(self, connection: Any, frames: Sequence[tuple[str, Frame]], *, hasty: bool) -> None:
        """Store what is to be stored and notify each channel of its frame, in this order, in one statement.

        Args:
            hasty: do not wait until the commit is on disk; never in a caller's transaction, which would not either.
        """
        statement = self._statement(frames) + (self._hasty if hasty else "")
        arguments: list[Any] = [[channel for channel, _ in frames], [frame.text for _, frame in frames]]
        arguments += self._bodies(frames)
        await connection.execute(statement, *arguments)

    async def notify_in(self, connection: Any, frames: Sequence[tuple[str, Frame]], name: str, key: bytes) -> None:
        """As `notify`, in the transaction of a caller's connection, if that leads to this very PubSub.

        Raises:
            ConfigurationError: it leads to another database.
        """
        arguments: list[Any] = [[channel for channel, _ in frames], [frame.text for _, frame in frames]]
        arguments += self._bodies(frames)
        n = len(arguments) + 1
        here = f" where exists (select from {self._keys} k where k.name = ${n} and k.key = ${n + 1}{self._ours})"
        statement = self._statement(frames) + here
        try:
            await self._become(connection)
            notified = await connection.fetchval(statement, *arguments, name, key)
        except asyncpg.UndefinedTableError:
            notified = 0
        if notified != len(frames):
            raise ConfigurationError(
                "connection= leads to another database than this PubSub's nodes use: nobody would get the message"
            )

    def _statement(self, frames: Sequence[tuple[str, Frame]]) -> str:
        return (self._store if self._bodies(frames) else "") + self._notify

    def _bodies(self, frames: Sequence[tuple[str, Frame]]) -> list[Any]:
        """Return the arguments that store bodies; none if there is none to be stored."""
        spills = [frame.spill for _, frame in frames if frame.spill is not None]
        if not spills:
            return []
        whose = [] if self._tenant is None else [self._tenant]
        return [[spill.id for spill in spills], [spill.body for spill in spills], *whose]

    # -- stored bodies

    async def body(self, connection: Any, id: UUID) -> bytes | None:
        """Return the body stored as *id*, None if it is gone."""
        whose = [] if self._tenant is None else [self._tenant]
        found = await connection.fetchval(self._body, id, *whose)
        return None if found is None else bytes(found)

    async def purge(self, connection: Any) -> bool:
        """Delete some of what expired, by the database's clock, and tell whether there may be more.

        Rows that another node is deleting are left to it.
        """
        expired = (
            f"select id from {self._spill} where created_at < clock_timestamp() - interval '{KEPT} s'{self._ours} "
            f"limit {BATCH} for update skip locked"
        )
        statement = f"delete from {self._spill} where id = any(array({expired})){self._ours}"
        async with self._as_tenant(connection):
            return bool(await connection.execute(statement) == f"DELETE {BATCH}")
