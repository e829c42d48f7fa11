"""One database for one test after another: what they wrote is taken away, and a new one is made if more was changed.

To copy a database costs the server ten times what emptying one does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import psycopg

__all__ = ["NAME", "Emptied"]

NAME = "emptying"
"""The application name of the connection that is kept to each database."""

WRITTEN = 5_000
"""Rows written after which a database is not used again: deleted ones take room until then."""

PATIENCE = 60.0
"""Seconds in which the backends of a test must have ended."""

_OTHERS = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"

# Who changes more than rows writes to a catalog, or leaves statistics of a table behind; what belongs to all databases
# is looked at where it speaks of this one. The times tell whether the counts can be trusted.
_CHANGED = """
select (select coalesce(sum(pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid)
                            + pg_stat_get_tuples_deleted(oid)), 0)
          from pg_class where relkind = 'r' and relnamespace = 'pg_catalog'::regnamespace and not relisshared)
     + (select coalesce(sum(pg_stat_get_vacuum_count(oid) + pg_stat_get_autovacuum_count(oid)
                            + pg_stat_get_analyze_count(oid) + pg_stat_get_autoanalyze_count(oid)), 0)
          from pg_class where relkind in ('r', 'm') and not relisshared)
     + (select count(*) from pg_prepared_xacts where database = current_database()),
       (select array[d.xmin::text, pg_stat_get_db_stat_reset_time(d.oid)::text, pg_postmaster_start_time()::text,
                     (select count(*) from pg_db_role_setting s where s.setdatabase = d.oid)::text]
          from pg_database d where d.datname = current_database())
"""

_TABLES = """
select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema') order by 1
"""

_SEQUENCES = """
select format('select setval(%L, %s, %L)', format('%I.%I', schemaname, sequencename),
              coalesce(last_value, start_value), last_value is not null) from pg_sequences
"""

_WRITTEN = "select coalesce(sum(n_tup_ins + n_tup_upd), 0) from pg_stat_user_tables"


class _Open:
    """A database that was just made, and what emptying it takes."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, application_name=NAME)
        self._connection.execute("set session_replication_role = replica")  # no trigger and no foreign key
        tables = self._column(_TABLES)
        self._kept = [table for table in tables if self._one(f"select exists(select from {table})")]
        deletions = [f"delete from {table}" for table in tables if table not in self._kept]
        self._emptying = "; ".join([*deletions, *self._column(_SEQUENCES), "select pg_stat_force_next_flush()"])
        self._contents = self._kept_contents()
        self._written = 0
        self._forget_counts()

    def close(self) -> None:
        self._connection.close()

    def empty(self) -> bool:
        """Take every row away that came since; tell whether the database is as it was."""
        self._quieten()
        changes, state = self._row(_CHANGED)
        self._written += self._one(_WRITTEN)
        if changes or state != self._state or self._written > WRITTEN or self._kept_contents() != self._contents:
            return False
        self._connection.execute(self._emptying.encode())
        self._forget_counts()
        return True

    def _quieten(self) -> None:
        """End all others, and wait until they have counted what they did."""
        self._connection.execute(f"select count(pg_terminate_backend(pid)) from ({_OTHERS}) others".encode())
        deadline = time.monotonic() + PATIENCE
        while self._column(_OTHERS):
            if time.monotonic() > deadline:
                raise TimeoutError("backends of a test do not end")
            time.sleep(0.002)

    def _forget_counts(self) -> None:
        self._connection.execute("select pg_stat_reset()")
        _, self._state = self._row(_CHANGED)

    def _kept_contents(self) -> list[str]:
        return [self._one(f"select string_agg(kept::text, ',' order by kept::text) from {t} kept") for t in self._kept]

    def _row(self, query: str) -> Any:
        return self._connection.execute(query.encode()).fetchone()

    def _one(self, query: str) -> Any:
        return self._row(query)[0]

    def _column(self, query: str) -> list[Any]:
        return [value for (value,) in self._connection.execute(query.encode())]


class Emptied:
    """Lends a database that looks as if it had just been made.

    Args:
        make: makes one, and drops it at the end of its block.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[str]]) -> None:
        self._make, self._made = make, ExitStack()
        self._dsn, self._open = "", None

    @contextmanager
    def lent(self) -> Iterator[str]:
        """DSN of the database, for as long as the block runs."""
        if self._open is None:
            self._dsn = self._made.enter_context(self._make())
            self._open = _Open(self._dsn)
        try:
            yield self._dsn
        finally:
            self._empty()

    def close(self) -> None:
        """Drop the database."""
        if self._open is not None:
            self._open.close()
        self._open = None
        self._made.close()

    def _empty(self) -> None:
        # Whoever ended our connection may have ended the server.
        with suppress(psycopg.OperationalError):
            if self._open is not None and self._open.empty():
                return
        self.close()
