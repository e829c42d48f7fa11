"""What is read from a URL's query and from forms: bounded, checked, and refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from eventstore.dashboard.refusals import InvalidParameter

__all__ = ["MAX_BIGINT", "Parameters", "parse_place"]

MAX_TEXT = 512
"""Characters of a name; longer ones cannot be stored."""

MAX_MANY = 64
"""Values of one parameter."""

MAX_BIGINT = (1 << 63) - 1


class Parameters:
    """The names and values of a query or a form. A name that is given several times counts as its last value.

    Every method raises `InvalidParameter`. Empty values count as not given, for that is what forms send.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = [(name, value) for name, value in pairs if value != ""]

    def __contains__(self, name: str) -> bool:
        return any(given == name for given, _ in self._pairs)

    def text(self, name: str, default: str = "", *, most: int = MAX_TEXT) -> str:
        """Return the value as it was given."""
        values = [value for given, value in self._pairs if given == name]
        return _checked(name, values[-1], most) if values else default

    def needed(self, name: str) -> str:
        """Return a value that has to be given."""
        if not (value := self.text(name)):
            raise InvalidParameter(name, "is missing")
        return value

    def many(self, name: str, listed: str) -> tuple[str, ...]:
        """Return all values of *name*, as they are, and those that *listed* has separated by commas; each once."""
        values = [value for given, value in self._pairs if given == name]
        values += [part.strip() for given, value in self._pairs if given == listed for part in value.split(",")]
        if len(values) > MAX_MANY:
            raise InvalidParameter(name, f"has more than {MAX_MANY} values")
        return tuple(dict.fromkeys(_checked(name, value, MAX_TEXT) for value in values if value))

    def whole(self, name: str, default: int | None = None, *, least: int = 0, most: int = MAX_BIGINT) -> int | None:
        """Return a whole number from *least* to *most*."""
        text = self.text(name)
        return default if text == "" else whole(name, text, least, most)

    def count(self, name: str, default: int, *, least: int = 0, most: int = MAX_BIGINT) -> int:
        """Return a whole number from *least* to *most*, or the default."""
        found = self.whole(name, default, least=least, most=most)
        return default if found is None else found

    def choice(self, name: str, choices: Sequence[str], default: str = "") -> str:
        """Return one of *choices*, or the default."""
        value = self.text(name, default)
        if value != default and value not in choices:
            raise InvalidParameter(name, f"must be one of {', '.join(choices)}, not {value[:40]!r}")
        return value

    def time(self, name: str) -> datetime | None:
        """Return a time; one without a zone is UTC, as all times of the pages are."""
        text = self.text(name)
        return parse_time(name, text) if text else None

    def uuid(self, name: str) -> UUID | None:
        """Return a UUID."""
        text = self.text(name)
        if not text:
            return None
        try:
            return UUID(text)
        except ValueError:
            raise InvalidParameter(name, f"must be a UUID, not {text[:40]!r}") from None


def _checked(name: str, value: str, most: int) -> str:
    if len(value) > most:
        raise InvalidParameter(name, f"is longer than {most} characters")
    # Postgres stores neither, and a browser sends the second in place of what it could not encode.
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidParameter(name, "holds what no text can")
    return value


def whole(name: str, text: str, least: int = 0, most: int = MAX_BIGINT) -> int:
    """Return the whole number that *text* writes down (`InvalidParameter`)."""
    digits = text.strip().replace(",", "").replace("_", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and least <= int(digits) <= most):
        upto = f"to {most:,}" if most < MAX_BIGINT else "on"
        raise InvalidParameter(name, f"must be a whole number from {least:,} {upto}, not {text[:40]!r}")
    return int(digits)


def parse_time(name: str, text: str) -> datetime:
    """Return the time that *text* writes down in ISO 8601, UTC unless it names a zone (`InvalidParameter`)."""
    try:
        time = datetime.fromisoformat(text.strip())
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidParameter(name, f"must be a time like 2025-01-31T10:00, not {text[:40]!r}") from None


def parse_place(name: str, text: str) -> int | datetime | UUID:
    """Return where a rewind is to lead: a position, the id of an event, or a time (`InvalidParameter`)."""
    stripped = text.strip()
    if stripped.replace(",", "").isdigit():
        return whole(name, stripped)
    try:
        return UUID(stripped)
    except ValueError:
        pass
    try:
        return parse_time(name, stripped)
    except InvalidParameter:
        reason = f"must be a position, an event's id, or a time like 2025-01-31T10:00, not {text[:40]!r}"
        raise InvalidParameter(name, reason) from None
