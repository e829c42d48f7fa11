"""Checks of the server: what it promises about durability, and how close it is to its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventstore.reports.health import Verdict, check, fail, ok, unknown, warn
from eventstore.reports.site import Site

__all__ = ["Bloat", "Connections", "Queue", "Server", "read_bloat", "read_connections", "read_queue", "read_server"]

OLDEST = 140000
"""The oldest server this package is for, as Postgres numbers its versions."""

CROWDED, FULL = 0.8, 0.95
"""Parts of the connections that ordinary roles may open."""

QUEUE_FILLS, QUEUE_FULL = 0.01, 0.5
"""Parts of the notification queue; at 1 every commit that notifies fails."""


@dataclass(frozen=True, slots=True)
class Server:
    """Settings as a session of this role has them, and what else is known of server and database."""

    settings: Mapping[str, str]
    version: int
    encoding: str
    in_recovery: bool
    database: str


async def read_server(site: Site) -> Server:
    """Read settings and facts that every role may see."""
    row = await site.row(
        "select current_setting('server_version_num')::int as version, pg_is_in_recovery() as in_recovery,"
        " d.datname::text as database, pg_encoding_to_char(d.encoding)::text as encoding"
        " from pg_database d where d.datname = current_database()"
    )
    names = ["fsync", "full_page_writes", "synchronous_commit", "server_version", "autovacuum"]
    settings = await site.rows("select name, setting from pg_settings where name = any($1)", names)
    return Server(settings=dict(map(tuple, settings)), **row)


@check("recovery", read_server)
def recovery(server: Server) -> Verdict:
    """Whether this is the primary: a standby can neither append nor tell the horizon."""
    if server.in_recovery:
        return fail(
            "the server is in recovery: it is a standby, or still starting after a crash",
            "connect to the primary, as with ?target_session_attrs=read-write in the DSN",
        )
    return ok("this is the primary")


@check("fsync", read_server)
def fsync(server: Server) -> Verdict:
    """Whether an acknowledged append survives a crash of the machine."""
    if server.settings["fsync"] == "off":
        return fail(
            "fsync is off: a crash of the machine can lose acknowledged events, and the whole database",
            "set fsync = on in postgresql.conf and reload; then make sure of the data, for none of it was safe",
        )
    return ok("fsync is on")


@check("full_page_writes", read_server)
def full_page_writes(server: Server) -> Verdict:
    """Whether a page that was half written in a crash can be repaired."""
    if server.settings["full_page_writes"] == "off":
        return fail(
            "full_page_writes is off: a crash of the machine can leave pages half written",
            "set full_page_writes = on in postgresql.conf and reload, unless the file system writes pages atomically",
        )
    return ok("full_page_writes is on")


@check("synchronous_commit", read_server)
def synchronous_commit(server: Server) -> Verdict:
    """Whether an append is acknowledged only once it is on disk."""
    value = server.settings["synchronous_commit"]
    if value == "off":
        return warn(
            "synchronous_commit is off for this role in this database: a crash loses what was acknowledged last",
            "set synchronous_commit = on for the server, the database or the role",
        )
    return ok(f"synchronous_commit is {value}")


@check("server_version", read_server)
def server_version(server: Server) -> Verdict:
    """Whether the server is of a version that this package is for."""
    version = server.settings["server_version"]
    if server.version < OLDEST:
        return fail(f"the server is PostgreSQL {version}", f"use PostgreSQL {OLDEST // 10000} or newer")
    return ok(f"PostgreSQL {version}")


@check("encoding", read_server)
def encoding(server: Server) -> Verdict:
    """Whether the database can hold any text."""
    if server.encoding != "UTF8":
        return fail(
            f"database {server.database!r} is encoded in {server.encoding}",
            "create a database with encoding 'UTF8' and move the log into it",
        )
    return ok("UTF8")


# -- connections


@dataclass(frozen=True, slots=True)
class Connections:
    """How many clients are connected to the server.

    Attributes:
        usable: how many ordinary roles may open together.
    """

    used: int
    usable: int


async def read_connections(site: Site) -> Connections:
    """Count the clients; those of other roles without their details, which takes no rights."""
    row = await site.row(
        "select (select count(*) from pg_stat_activity a where coalesce(a.backend_type, case when a.datid is not null"
        "         then 'client backend' end) = 'client backend')::int as used,"
        " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true)::int, 0) as usable"
    )
    return Connections(**row)


@check("connections", read_connections)
def connections(found: Connections) -> Verdict:
    """Whether nodes will still be let in."""
    text = f"{found.used} of {found.usable} connections are in use"
    cure = "lower Settings.connections, close idle clients, put a pooler in between, or raise max_connections"
    facts = [{"used": found.used, "usable": found.usable}]
    if found.used >= FULL * found.usable:
        return fail(text, cure, facts)
    return warn(text, cure, facts) if found.used >= CROWDED * found.usable else ok(text, facts)


# -- the notification queue


@dataclass(frozen=True, slots=True)
class Queue:
    """The server's queue of notifications.

    Attributes:
        usage: the part that is in use, 0 to 1.
        suspects: sessions that may hold it, the likeliest first: a listener takes nothing from the queue while it is in
            a transaction, or while its client does not read. Which sessions listen Postgres does not tell.
    """

    usage: float
    suspects: Sequence[Mapping[str, Any]]


async def read_queue(site: Site) -> Queue:
    """Read how full the queue is, and who may be to blame."""
    usage = (await site.row("select pg_notification_queue_usage() as usage"))["usage"]
    suspects = await site.rows(
        "select a.pid, a.usename::text as user, a.application_name as application, a.datname::text as database,"
        " a.state, a.wait_event, extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds"
        " from pg_stat_activity a where a.pid <> pg_backend_pid() and a.datid is not null"
        " and (a.xact_start is not null or a.wait_event = 'ClientWrite')"
        " order by a.wait_event is not distinct from 'ClientWrite' desc, a.xact_start limit 5"
    )
    return Queue(float(usage), [dict(one) for one in suspects])


@check("notification_queue", read_queue)
def notification_queue(queue: Queue) -> Verdict:
    """Whether a listener holds up the server's queue of notifications; when it is full, commits fail."""
    text = f"{queue.usage:.1%} of the notification queue is in use"
    if queue.usage < QUEUE_FILLS:
        return ok(text)
    if not queue.suspects:
        return unknown(f"{text}; who holds it is unknown, needs pg_monitor", "grant pg_monitor to the role that asks")
    first = queue.suspects[0]
    why = "its client does not read" if first["wait_event"] == "ClientWrite" else f"state {first['state']!r}"
    since = "" if first["seconds"] is None else f", in a transaction for {first['seconds']:.0f} s"
    text += (
        f"; most likely held by pid {first['pid']} ({first['application'] or 'no name'}, {first['user']}): {why}{since}"
    )
    cure = f"end the transaction of that listener, or the session: select pg_terminate_backend({first['pid']})"
    judge = fail if queue.usage >= QUEUE_FULL else warn
    return judge(text, cure, queue.suspects)


# -- vacuum


@dataclass(frozen=True, slots=True)
class Bloat:
    """Dead rows of the tables that are updated all the time.

    Attributes:
        tables: name, live rows, dead rows.
        autovacuum: it is on.
    """

    tables: Sequence[tuple[str, int, int]]
    autovacuum: bool


async def read_bloat(site: Site) -> Bloat:
    """Read the server's own estimates."""
    tables = await site.rows(
        "select relname::text, n_live_tup, n_dead_tup from pg_stat_user_tables where schemaname = $1 order by 1",
        site.schema,
    )
    on = await site.row("select current_setting('autovacuum') = 'on' as autovacuum")
    return Bloat([(name, live, dead) for name, live, dead in tables], on["autovacuum"])


@check("vacuum", read_bloat)
def vacuum(bloat: Bloat) -> Verdict:
    """Whether dead rows are removed, which slow down checkpoints and appends."""
    if not bloat.autovacuum:
        return warn("autovacuum is off", "set autovacuum = on in postgresql.conf and reload")
    heavy = [(name, live, dead) for name, live, dead in bloat.tables if dead > 10_000 + 5 * live]
    if not heavy:
        return ok("dead rows are removed")
    text = ", ".join(f"{name} has {dead:,} dead rows beside {live:,}" for name, live, dead in heavy)
    facts = [{"table": name, "live": live, "dead": dead} for name, live, dead in heavy]
    return warn(text, "end the oldest transactions, which keep dead rows from being removed; then VACUUM", facts)
