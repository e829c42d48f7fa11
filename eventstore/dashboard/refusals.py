"""What a request is refused with: a status, a name, and a sentence that tells nothing it should not."""

from __future__ import annotations

from collections.abc import Mapping

from eventstore import errors
from eventstore.redaction import scrubbed

__all__ = ["InvalidParameter", "Refused", "refused"]

AGAIN = 5
"""Seconds after which a page that could not be read loads itself again."""

MAX_MESSAGE = 500


class Refused(Exception):
    """An answer that is not what was asked for.

    Attributes:
        status: of HTTP.
        error: a name for programs, such as ``NotFound``.
        message: for people.
        retry: seconds after which to ask again; None: it would be the same.
        back: segments of the page whose form asked for it, which a browser is sent back to; None: there is none.
    """

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        retry: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.error, self.message, self.retry = status, error, message[:MAX_MESSAGE], retry
        self.headers = dict(headers or {})
        self.back: tuple[str, ...] | None = None
        super().__init__(f"{error}: {message}")


class InvalidParameter(Refused):
    """A part of the URL, or a field of a form, is not what it should be."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(400, "InvalidParameter", f"{name} {reason}")


_INVALID = (
    errors.ConfigurationError,
    errors.InvalidEvent,
    errors.InvalidSelector,
    errors.StreamDeleted,
)
_AWAY = (errors.DatabaseUnavailable, errors.BroadcastError, errors.PubSubClosed, TimeoutError, ConnectionError)


def refused(error: Exception) -> Refused:
    """Return what *error* is answered with. What is not foreseen is told without its text, which is in the log."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, errors.SubscriptionNotFound):
        return Refused(404, "SubscriptionNotFound", f"there is no subscription {error.name!r}")
    if isinstance(error, _AWAY) or _is_away(error):
        # What the driver says may name hosts and users.
        what = "did not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
        return Refused(503, "DatabaseUnavailable", f"the database {what}; trying again", retry=AGAIN)
    if isinstance(error, errors.MigrationRequired):
        return Refused(503, "MigrationRequired", scrubbed(str(error)), retry=AGAIN)
    if isinstance(error, errors.ConfigurationError) and (named := _of_the_role(error)) is not None:
        return named
    if isinstance(error, errors.CheckpointAheadOfLog):
        ends = f"position {error.checkpoint:,} lies beyond the log, which ends at {error.last:,}"
        return Refused(400, "CheckpointAheadOfLog", ends)
    if isinstance(error, _INVALID):
        return Refused(400, type(error).__name__, scrubbed(str(error)))
    if isinstance(error, errors.EventStoreError):
        return Refused(409, type(error).__name__, scrubbed(str(error)))
    return Refused(500, "Unexpected", "something unexpected happened; the log of this process tells what")


def _is_away(error: Exception) -> bool:
    """Whether the server says that it cannot: out of memory, connections or disk, or not accepting any."""
    state = getattr(error, "sqlstate", None) or ""
    return state[:2] in ("08", "53", "57") or state == "55000"


def _of_the_role(error: errors.ConfigurationError) -> Refused | None:
    """Return the refusal if *error* is about the role or the schema that the store works with, not about input."""
    state = getattr(error.__cause__, "sqlstate", None) or ""
    if state == "42501":
        return Refused(403, "NotAllowed", "the database role of this process may not do that")
    if state[:2] in ("42", "3F"):
        return Refused(503, "SchemaMismatch", "the schema is not what this release needs; run eventstore migrate")
    return None
