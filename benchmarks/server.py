"""The one server of a run, a database of its own on it, and the facts to print beside every figure."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from eventstore.embedded import EmbeddedPostgres
from eventstore.errors import ConfigurationError

__all__ = ["DATABASE", "SETTINGS", "database", "facts", "in_database"]

DATABASE = "eventstore_benchmarks"
SETTINGS: dict[str, str | int] = {"max_connections": 300, "shared_buffers": "512MB", "max_wal_size": "4GB"}
"""Of the embedded server, beside its durable ones; what the server says is printed."""

_SHOWN = (
    "fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_sync_method", "commit_delay", "shared_buffers",
    "max_wal_size", "max_connections",
)  # fmt: skip
_PACKAGES = ("eventstore-postgres", "asyncpg", "eventsourcing", "psycopg", "message-db-py", "psycopg2-binary")


@asynccontextmanager
async def database(dsn: str | None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield the DSN of an empty database, dropped in the end, and what is known about its disk.

    Without a *dsn*: on a durable embedded server in a temporary directory, which goes with it.
    """
    if dsn is not None:
        async with _own_database(dsn) as made:
            yield made, {}
        return
    directory = Path(tempfile.mkdtemp(prefix="es-bench-", dir=_on_disk()))
    try:
        with EmbeddedPostgres(directory / "data", durable=True, settings=SETTINGS) as server:
            async with _own_database(server.dsn) as made:
                yield made, {"fdatasync_ms": _sync_time(directory)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _own_database(dsn: str) -> AsyncIterator[str]:
    admin = await asyncpg.connect(dsn)
    try:
        try:
            await admin.execute(f"create database {DATABASE}")
        except asyncpg.DuplicateDatabaseError:
            raise ConfigurationError(
                f"the database {DATABASE} exists: another run uses it, or one was killed and left it; "
                f"in the latter case: drop database {DATABASE}"
            ) from None
        try:
            yield in_database(dsn, DATABASE)
        finally:
            await admin.execute(f"drop database {DATABASE} with (force)")
    finally:
        await admin.close()


def in_database(dsn: str, name: str) -> str:
    """Return *dsn* with another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def _on_disk() -> str:
    """A directory for temporary files that is no memory, as far as the system tells."""
    wanted = tempfile.gettempdir()
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return wanted
    inside = [(point, kind) for point, kind in mounts if f"{wanted}/".startswith(f"{point.rstrip('/')}/")]
    kind = max(inside, key=lambda mount: len(mount[0]), default=("", ""))[1]
    return "/var/tmp" if kind in ("tmpfs", "ramfs") else wanted


def _sync_time(directory: Path) -> float:
    """Milliseconds of one 8 kB write and its fdatasync: what every commit waits for."""
    file = os.open(directory / "sync", os.O_RDWR | os.O_CREAT)
    times = []
    try:
        sync = getattr(os, "fdatasync", os.fsync)
        os.write(file, b"x" * 8192 * 64)
        for _ in range(100):
            began = perf_counter()
            os.pwrite(file, b"y" * 8192, 0)
            sync(file)
            times.append(perf_counter() - began)
    finally:
        os.close(file)
    return round(median(times) * 1000, 3)


async def facts(dsn: str) -> dict[str, Any]:
    """Return the machine, the versions and the server's settings, without a name or a path of this machine."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select name, current_setting(name) as value from pg_settings where name = any ($1)", list(_SHOWN)
        )
        server = await connection.fetchval("show server_version")
    finally:
        await connection.close()
    found = {row["name"]: row["value"] for row in rows}
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "python": platform.python_version(),
            "postgres": server,
            **{name: found_version for name in _PACKAGES if (found_version := _version(name))},
        },
        "settings": {name: found[name] for name in _SHOWN if name in found},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        name = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        name = None
    return name[1] if name else platform.processor() or platform.machine()
