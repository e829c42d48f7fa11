"""Plans depend on the size of the files, which those of rows that were deleted count for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Databases


@pytest.fixture
def db(databases: Databases, pg: Any) -> Iterator[str]:
    """DSN of a fresh database, migrated."""
    with databases.fresh(f"{pg.dbname}_plans") as dsn:
        yield dsn
