"""A throw-away server in shared memory for each process of a run, and a fresh migrated database per test.

TEST_PG_HOST and TEST_PG_PORT name a server to use instead.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from pytest_postgresql import factories

from eventstore import EventStore, Settings
from eventstore.embedded import find_binaries
from eventstore.schema import migrate
from tests.emptying import Emptied
from tests.introspecting import ask_once
from tests.tiers import tier_of

# Processes that tests start import the same modules again and again: what was compiled is kept, whoever says no.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Started in the background by a shell a run ignores these, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

ask_once()

# How long an example takes tells of the machine: one that was busy for a moment is no reason to fail.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

QUICK = Settings(
    poll_interval=0.5,
    heartbeat_interval=2.0,
    lease_ttl=10.0,
    claim_interval=0.1,
    settle_interval=0.02,
)
"""Short periods, so that tests wait for little; nothing in a test depends on their exact length.

The lease is none of them: what stalls for longer loses its partitions, and handles again what it had handled.
"""


SERVER: dict[str, int | str] = {
    "max_connections": 200,
    "shared_buffers": "16MB",  # the fewer, the cheaper each of the thousands of connections
    "max_prepared_transactions": 10,
    "autovacuum_naptime": 86_400,  # nothing lives long enough for it
}


def _shared_memory() -> str | None:
    enough = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 1 << 30
    return "/dev/shm" if enough else None


def _without_waiting_for_disks() -> dict[str, int | str]:
    said = subprocess.run([find_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)
    version = int(said.stdout.split()[2].split(".")[0])
    return {"io_method": "sync"} if version >= 18 else {}


def pytest_configure(config: pytest.Config) -> None:
    # With several processes each has a server of its own: tests end backends and look at what all of them do.
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    if "TEST_PG_HOST" not in os.environ:
        from eventstore.embedded import EmbeddedPostgres

        root = Path(tempfile.mkdtemp(prefix="es-", dir=_shared_memory()))
        server = EmbeddedPostgres(root / "data", durable=False, settings=SERVER | _without_waiting_for_disks())
        server.start()
        config.stash[_SERVER] = (server, root)
        os.environ.update(TEST_PG_HOST=server.host, TEST_PG_PORT=str(server.port))
    config.option.postgresql_host = os.environ["TEST_PG_HOST"]
    config.option.postgresql_port = os.environ["TEST_PG_PORT"]
    # Several runs may share a server that was given.
    config.option.postgresql_dbname = f"tests_{os.getpid()}"


@pytest.hookimpl(tryfirst=True)  # before what -m leaves out is left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (tier := tier_of(item.nodeid)) is not None:
            item.add_marker(tier)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    gc.disable()  # nothing of what is collected is garbage
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Keep what is there, above all thousands of tests, out of collections: one takes 1 ms instead of 150."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _SERVER in config.stash:
        server, root = config.stash[_SERVER]
        server.stop()
        shutil.rmtree(root)


_SERVER = pytest.StashKey[Any]()


def dsn_of(host: str, port: int | str, user: str, dbname: str) -> str:
    return f"postgresql://{user}@/{dbname}?host={host}&port={port}"


def _migrate(*, host: str, port: int, user: str, dbname: str, **_: Any) -> None:
    migrate(dsn_of(host, port, user, dbname))


pg = factories.postgresql_noproc(load=[_migrate])


class Databases:
    """Databases made as copies of the migrated one, over one connection that is kept."""

    def __init__(self, pg: Any) -> None:
        self._pg = pg
        self._admin: psycopg.Connection[Any] | None = None

    @contextmanager
    def fresh(self, name: str, template: str | None = None) -> Iterator[str]:
        """DSN of a database of this name, for as long as the block runs; *template*: a copy of that one."""
        # Copying files costs the server a third of what writing them to the WAL does.
        self._execute(f'create database "{name}" template "{template or self._pg.template_dbname}" strategy file_copy')
        try:
            yield dsn_of(self._pg.host, self._pg.port, self._pg.user, name)
        finally:
            self._execute(f'drop database if exists "{name}" with (force)')

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()

    def _execute(self, statement: str) -> None:
        if self._admin is None or self._admin.closed:
            dsn = dsn_of(self._pg.host, self._pg.port, self._pg.user, "postgres")
            self._admin = psycopg.connect(dsn, autocommit=True)
        try:
            self._admin.execute(statement.encode())
        except psycopg.OperationalError:
            if not self._admin.closed:
                raise
            self._execute(statement)  # a test ended the connection


@pytest.fixture(scope="session")
def databases(pg: Any) -> Iterator[Databases]:
    """Makes migrated databases."""
    made = Databases(pg)
    yield made
    made.close()


@pytest.fixture(scope="session")
def emptied(databases: Databases, pg: Any) -> Iterator[Emptied]:
    """Lends a migrated database to one test after another."""
    one = Emptied(lambda: databases.fresh(pg.dbname))
    yield one
    one.close()


@pytest.fixture
def db(emptied: Emptied) -> Iterator[str]:
    """DSN of a migrated database in which nothing is stored."""
    with emptied.lent() as dsn:
        yield dsn


@pytest.fixture
async def store(db: str) -> AsyncIterator[EventStore]:
    """An open store with short periods on a fresh database."""
    async with EventStore(db, settings=QUICK, node_name="one") as opened:
        yield opened


@pytest.fixture
async def sql(db: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to the same database, as its owner."""
    connection = await asyncpg.connect(db)
    yield connection
    await connection.close()
