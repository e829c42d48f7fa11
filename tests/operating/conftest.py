"""What stands between nodes and their database, and what happens to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.operating.pgbouncer import PgBouncer, pgbouncer


@pytest.fixture
def bouncer(db: str) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode, in front of the tests' server."""
    try:
        with pgbouncer(db) as running:
            yield running
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def pooled(bouncer: PgBouncer, db: str) -> str:
    """DSN of the fresh database, through the pooler."""
    return bouncer.dsn(db)
