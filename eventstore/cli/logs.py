"""Logging to stderr. Errors of the package are told in one line; tracebacks are for errors of the application.

No line holds a secret: DSNs in it are redacted, whoever logged it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from eventstore.errors import EventStoreError
from eventstore.redaction import scrubbed

__all__ = ["configure"]

LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class _Lines(logging.Formatter):
    def __init__(self, debug: bool, secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._debug, self._secrets = debug, tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return scrubbed(super().format(record), self._secrets)

    def formatException(self, ei: Any) -> str:
        if isinstance(ei[1], EventStoreError) and not self._debug:
            return f"{type(ei[1]).__name__}: {ei[1]}"
        return super().formatException(ei)


def configure(verbose: int, debug: bool, secrets: Iterable[str] = ()) -> None:
    """Send the log to stderr: warnings, with *verbose* 1 information, with 2 everything; *secrets* are hidden."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(debug, secrets))
    logging.getLogger("alembic").setLevel(logging.WARNING if verbose < 2 else logging.INFO)
    # asyncpg tells of every reconnection with a traceback; the store says the same in a line.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL if verbose < 2 else logging.INFO)
    logging.basicConfig(level=LEVELS[min(verbose, 2)], handlers=[handler], force=True)
