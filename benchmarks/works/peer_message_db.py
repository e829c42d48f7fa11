"""Beside Message DB, through the package `message-db-py`."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measure import drive, drive_threads
from benchmarks.model import Comparison, Sides, Skip, work
from benchmarks.sides import DATA, TYPE, appender

__all__ = ["message_db"]

CALLERS = 32
DIRECTORIES = ("schema", "tables", "types", "functions", "indexes")
"""Of its SQL, in the order of its installer."""

FUNCTIONS = ("message-store-version", "hash-64", "acquire-lock", "category", "is-category", "id", "cardinal-id")
"""Those that others call; the rest may come in any order."""


@work(15, "message-db", "one event an append, 32 callers, against Message DB", Comparison("ours", "message-db"))
@asynccontextmanager
async def message_db(bench: Bench) -> AsyncIterator[Sides]:
    """Ours: 32 tasks append single events to streams of their own, at the exact version. Message DB: 32 threads write
    single messages of the same data to streams of their own, at the exact version, through `MessageDB.write` with a
    pool of 48 connections. Its SQL is installed as it is, without its role (everything belongs to the same user), its
    views, and the extension pgcrypto, whose only function that it uses has been in Postgres itself since 13. Its lock
    is one a category; every caller has a category of its own, which is the best case."""
    if bench.message_db_sql is None:
        raise Skip(
            "the SQL of Message DB was not given",
            "--message-db-sql DIR names a directory with its tables/, functions/ … (`npm pack @eventide/message-db`)",
        )
    try:
        client = importlib.import_module("message_db")
    except ImportError as error:
        raise Skip(
            f"the peer is not installed: {error}", "pip install psycopg2-binary && pip install --no-deps message-db-py"
        ) from None
    await _install(bench, Path(bench.message_db_sql))
    peer = importlib.import_module("message_db.client").MessageDB.from_url(
        bench.dsn, max_connections=48, options="-c search_path=message_store"
    )
    assert client
    try:
        async with bench.store() as store:
            yield {
                "message-db": partial(drive_threads, [_writer(peer, number) for number in range(CALLERS)]),
                "ours": partial(drive, [appender(store, f"stream-{number}") for number in range(CALLERS)]),
            }
    finally:
        peer.connection_pool.closeall()


async def _install(bench: Bench, directory: Path) -> None:
    files = [file for name in DIRECTORIES for file in sorted((directory / name).glob("*.sql"), key=_turn)]
    if not files:
        raise Skip(
            "the directory has no tables/*.sql", "--message-db-sql DIR names the directory `database` of Message DB"
        )
    async with bench.connection() as connection:
        await connection.execute("set search_path to message_store, public")
        for file in files:
            await connection.execute(file.read_text().replace("CREATE INDEX CONCURRENTLY", "CREATE INDEX"))


def _turn(file: Path) -> int:
    return FUNCTIONS.index(file.stem) if file.stem in FUNCTIONS else len(FUNCTIONS)


def _writer(peer: Any, number: int) -> Callable[[], int]:
    position: int | None = -1

    def write() -> int:
        nonlocal position
        position = peer.write(f"category{number}-1", TYPE, DATA, expected_version=position)
        return 1

    return write
