"""Pages: how large they may be."""

from __future__ import annotations

from eventstore.errors import ConfigurationError

__all__ = ["check_limit"]


def check_limit(limit: object, most: int = 500) -> None:
    """Refuse a number of rows that is none, or above *most* (`ConfigurationError`)."""
    if type(limit) is not int or not 1 <= limit <= most:
        raise ConfigurationError(f"limit must be a whole number from 1 to {most:,}, not {limit!r}")
