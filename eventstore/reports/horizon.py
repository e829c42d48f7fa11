"""The transaction that holds the horizon: who it is, for how long, and how to end it.

An append holds an advisory lock from before it draws a position until it ends; readers see nothing beyond the lowest of
these (see horizon_v1 in SQL). A client that begins an append in a transaction of its own and then does nothing delays
every reader; so does a prepared transaction that nobody commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eventstore.database import Database
from eventstore.errors import ConfigurationError
from eventstore.reports.health import Verdict, check, fail, ok, unknown, warn
from eventstore.reports.site import Site

__all__ = ["Blocker", "Horizon", "check_visible", "describe", "read_blockers", "read_horizon", "terminate"]

HELD, HELD_LONG = 3.0, 60.0
"""Seconds after which a transaction is no append at work any more, and after which readers stand still."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction that holds a lock of the horizon.

    Attributes:
        place: the horizon cannot pass this position while it lasts.
        pid: its backend; None: it is prepared, and has none.
        gid: the name it was prepared under.
        seconds: how long it has lasted, a prepared one since it was prepared; None: this role may not see that.
        since: when the state last changed, as text.
        granted: False: it waits for the lock, which counts as held.
    """

    place: int
    pid: int | None
    gid: str | None
    user: str | None
    application: str | None
    client: str | None
    state: str | None
    seconds: float | None
    since: str | None
    query_start: str | None
    query: str | None
    granted: bool
    backend_start: str | None


@dataclass(frozen=True, slots=True)
class Horizon:
    """The horizon, the last position drawn, and who keeps them apart; the one with the lowest place first."""

    horizon: int
    last_position: int
    blockers: Sequence[Blocker]

    @property
    def holder(self) -> Blocker | None:
        """Who holds the horizon."""
        return self.blockers[0] if self.blockers else None


# A prepared transaction has no backend; what leads to its name is that it holds its own transaction id locked.
_LOCKS = """
select l.objid::bigint as key, l.pid, p.gid, coalesce(p.owner, a.usename)::text as user,
       a.application_name as application, a.client_addr::text as client,
       case when p.gid is not null then 'prepared' else a.state end as state,
       extract(epoch from clock_timestamp() - coalesce(p.prepared, a.xact_start))::float8 as seconds,
       coalesce(p.prepared, a.state_change)::text as since, a.query_start::text as query_start, a.query, l.granted,
       a.backend_start::text as backend_start
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
  left join (pg_prepared_xacts p join pg_locks x on x.locktype = 'transactionid' and x.transactionid = p.transaction)
    on l.pid is null and x.pid is null and x.virtualtransaction = l.virtualtransaction
 where l.locktype = 'advisory' and l.objsubid = 2
   and l.classid = (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where n.nspname = $1 and c.relname = 'event_positions' and c.relkind = 'S')
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
"""


async def read_horizon(site: Site) -> Horizon:
    """Read the locks, and then where horizon and sequence stand."""
    database = await site.database()
    locks = await site.rows(_LOCKS, site.schema)
    (row,) = await database.rows("horizon_v1")
    blockers = [_blocker(dict(lock), row["last_position"]) for lock in locks]
    return Horizon(row["horizon"], row["last_position"], sorted(blockers, key=lambda one: one.place))


async def read_blockers(database: Database, last: int) -> list[Blocker]:
    """Return who holds locks of the horizon, the lowest place first; one query.

    Asked as the role itself: a function of the schema would show every role what its owner may see.

    Args:
        last: the last position drawn.
    """
    async with database.acquire() as connection:
        locks = await connection.fetch(_LOCKS, database.schema)
    return sorted((_blocker(dict(lock), last) for lock in locks), key=lambda one: one.place)


def _blocker(lock: dict[str, Any], last: int) -> Blocker:
    # As horizon_v1: of the place a lock was taken at, its key has the low 31 bits.
    key = lock.pop("key")
    place = last + ((key - last + (1 << 30)) & ((1 << 31) - 1)) - (1 << 30)
    return Blocker(place=place, **lock)


def describe(blocker: Blocker) -> str:
    """Return who it is, in one line."""
    lasted = "for how long is unknown, needs pg_monitor" if blocker.seconds is None else f"for {blocker.seconds:.0f} s"
    if blocker.gid is not None:
        return f"the prepared transaction {blocker.gid!r} of {blocker.user}, {lasted}"
    parts = [f"pid {blocker.pid}", blocker.application or "no application name", f"user {blocker.user}"]
    parts += [f"client {blocker.client}"] if blocker.client else []
    parts += [f"{blocker.state} since {blocker.since}"] if blocker.state else []
    parts += [f"query began {blocker.query_start}"] if blocker.query_start else []
    return f"{', '.join(parts)}; its transaction lasts {lasted}"


@check("horizon", read_horizon)
def horizon(found: Horizon) -> Verdict:
    """Whether a transaction holds the horizon, so that readers do not see what was appended since."""
    holder, waiting = found.holder, found.last_position - found.horizon
    if holder is None:
        return ok(f"nothing holds it: {found.horizon}")
    facts = [asdict(one) for one in found.blockers]
    text = f"held at {found.horizon}, {waiting} positions behind the last one drawn, by {describe(holder)}"
    cure = "end it, or let `eventstore doctor --terminate-blocker` do that"
    if holder.seconds is None:
        return unknown(text, f"grant pg_monitor to the role that asks; {cure}", facts)
    if holder.seconds < HELD:
        return ok(f"{found.horizon}, {waiting} positions behind the last one drawn: appends are at work", facts)
    return (fail if holder.seconds >= HELD_LONG else warn)(text, cure, facts)


async def terminate(site: Site, blocker: Blocker) -> bool:
    """End *blocker*, if it still is the transaction that was read; return whether it was there.

    Raises:
        ConfigurationError: this role may not.
    """
    if blocker.gid is not None:
        return await _roll_back_prepared(site, blocker.gid)
    # The pid may be another session's by now; that one began at another time.
    ended = await site.rows(
        "select pg_terminate_backend(a.pid, 5000) as done from pg_stat_activity a, pg_locks l"
        " where a.pid = $1 and a.backend_start::text is not distinct from $2 and l.pid = a.pid"
        " and l.locktype = 'advisory' and l.classid = $3 and l.objsubid = 2 limit 1",
        blocker.pid,
        blocker.backend_start,
        await site.sequence_oid(),
    )
    return bool(ended and ended[0]["done"])


async def _roll_back_prepared(site: Site, gid: str) -> bool:
    still = await site.rows(
        "select format('rollback prepared %L', gid) as undo from pg_prepared_xacts"
        " where gid = $1 and database = current_database()", gid
    )  # fmt: skip
    if not still:
        return False
    await site.rows(still[0]["undo"])
    return True


def check_visible(blocker: Blocker) -> None:
    """Refuse to end what cannot be shown (`ConfigurationError`)."""
    if blocker.seconds is None:
        raise ConfigurationError(
            f"what holds the horizon is not visible to this role, needs pg_monitor: {describe(blocker)}"
        )
