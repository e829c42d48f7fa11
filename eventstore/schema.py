"""The database schema: its revision, the text of its SQL functions, and bringing it up to date.

Alembic and SQLAlchemy are imported by `migrate` alone; a node that only checks its schema never loads them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore.errors import ConfigurationError

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "DEFAULT_SCHEMA",
    "REVISION",
    "check_schema_name",
    "function_source",
    "installed_functions",
    "migrate",
    "quoted",
    "signal_channel",
]

DEFAULT_SCHEMA = "eventstore"

REVISION = "0005"
"""The newest revision under `migrations/`, and the one this package needs at least. Revisions sort as text."""

_SQL = Path(__file__).parent / "sql"


def check_schema_name(schema: str) -> str:
    """Return *schema* if Postgres can hold it as a name of its own (`ConfigurationError` otherwise)."""
    if not isinstance(schema, str) or not re.fullmatch(r"\w[\w -]*", schema) or len(schema.encode()) > 63:
        raise ConfigurationError(
            f"schema name {schema!r} must have 1 to 63 bytes of letters, digits, underscores, hyphens and spaces"
        )
    if schema.startswith("pg_") or schema == "information_schema":
        raise ConfigurationError(f"schema name {schema!r} is reserved by Postgres")
    return schema


def quoted(schema: str) -> str:
    """Return *schema*, if `check_schema_name` lets it pass, as a quoted SQL identifier."""
    return f'"{check_schema_name(schema)}"'


def signal_channel(schema: str) -> str:
    """Return the NOTIFY channel of *schema*; the twin of ``signal_channel_v1`` in SQL."""
    return "eventstore_" + hashlib.md5(schema.encode(), usedforsecurity=False).hexdigest()[:16]


def function_source(name: str, schema: str) -> str:
    """Return the SQL that creates the function *name* (a file under ``eventstore/sql``) in *schema*."""
    names = {"@schema@": quoted(schema), "@schema_literal@": f"'{schema}'"}
    text = (_SQL / f"{name}.sql").read_text(encoding="utf-8")
    return re.sub("|".join(names), lambda found: names[found[0]], text)


def installed_functions() -> list[str]:
    """Return the names of the functions that a schema of `REVISION` has."""
    return sorted(path.stem for path in _SQL.glob("*.sql"))


def migrate(dsn: str, schema: str = DEFAULT_SCHEMA, revision: str = "head") -> None:
    """Bring *schema* to *revision*, creating it where it is missing. Blocking; safe to run from many places at once.

    Raises:
        ConfigurationError: the name or DSN is unusable, the role may not create the schema, PUBLIC may create objects
            in it, the database is not in UTF-8, or the schema is newer than this package.
        DatabaseUnavailable: the database cannot be reached, or is read-only.
    """
    from alembic import command
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    from eventstore.database import mapped_errors

    try:
        with _config(dsn, check_schema_name(schema)) as config:
            command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigurationError(
            f"schema {schema!r} is at a revision that this package does not know; is the package older? ({error})"
        ) from error
    except DBAPIError as error:
        # asyncpg's error lies two wrappers deep; it is the one that has a name.
        with mapped_errors():
            raise (error.orig.__cause__ if error.orig else None) or error from None


@contextmanager
def _config(dsn: str, schema: str) -> Iterator[Config]:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_script_location()).replace("%", "%%"))
    config.attributes.update(dsn=dsn, schema=schema)
    yield config


def _script_location() -> Path:
    installed = Path(str(files("eventstore"))) / "migrations"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "migrations"
