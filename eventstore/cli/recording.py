"""What was done by hand is recorded, with who did it; ``eventstore actions`` lists it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventstore.database import Database

__all__ = ["recorded"]

log = logging.getLogger(__name__)


@asynccontextmanager
async def recorded(database: Database, action: str, subject: str, **arguments: Any) -> AsyncIterator[None]:
    """Record what the block does, as `eventstore.reports.actions.recorded`; what is None among *arguments* is left out.

    A role that may not record does it all the same, with a warning: the command line is the way in when nothing else
    works.
    """
    from eventstore.errors import ConfigurationError
    from eventstore.reports.actions import begin, finishing, operator

    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        number = await begin(database, operator(), "cli", action, subject, given)
    except ConfigurationError as error:
        yield
        log.warning("this is not recorded in `eventstore actions`: %s", error)
        return
    async with finishing(database, number):
        yield
