"""The demo's schema: made anew, and nobody else's is touched."""

from __future__ import annotations

from eventstore.database import connect, mapped_errors
from eventstore.errors import ConfigurationError
from eventstore.schema import quoted
from eventstore.store import EventStore

__all__ = ["recreate"]

OURS = "eventstore_version"
"""The table that every schema of this package has; a schema without it is somebody else's."""


async def recreate(dsn: str, schema: str) -> None:
    """Drop *schema* with all its events, if it is there and of this package, and create it.

    Raises:
        ConfigurationError: a schema of that name holds something else.
        DatabaseUnavailable: the database cannot be reached.
    """
    connection = await connect(dsn)
    try:
        with mapped_errors():
            if await connection.fetchval("select to_regnamespace($1) is not null", quoted(schema)):
                if await connection.fetchval("select to_regclass($1) is null", f"{quoted(schema)}.{OURS}"):
                    raise ConfigurationError(
                        f"schema {schema!r} was not made by eventstore (it has no table {OURS}), so the demo leaves it "
                        "alone; rename or drop it, or use another database"
                    )
                await connection.execute(f"drop schema {quoted(schema)} cascade")
    finally:
        await connection.close()
    await EventStore.migrate(dsn, schema=schema)
