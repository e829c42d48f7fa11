"""Templates: the environment they are rendered in, and how numbers, times and JSON are written."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from eventstore.dashboard.encoding import beginning, iso, to_json

__all__ = ["STATIC", "TEMPLATES", "environment", "static_version"]

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"
STATIC = HERE / "static"

PRETTY = 50_000
"""Characters of JSON that are broken into lines; what is longer stays in one."""

NOTHING = "–"
"""What stands where there is no value."""


@lru_cache(maxsize=4)
def environment(templates: Path = TEMPLATES) -> Environment:
    """Return the environment: everything is escaped, and a misspelt name fails instead of leaving a gap."""
    made = Environment(
        loader=FileSystemLoader(templates),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= FILTERS
    return made


@lru_cache(maxsize=256)
def static_version(path: str) -> str:
    """Return a short hash of a static file's content; empty if there is none."""
    file = STATIC / path
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else ""


# -- filters


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _rate(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    """Write a duration with its two largest units."""
    if value is None:
        return NOTHING
    if value < 0.9995:
        return "0 s" if value <= 0 else f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 10 and value != int(value) else f"{value:.0f} s"
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    place = next(n for n, (_, length) in enumerate(units) if value >= length)
    (large, length), (small, rest) = units[place], units[place + 1]
    whole, left = divmod(int(value), length)
    return f"{whole:,} {large} {left // rest} {small}" if left // rest else f"{whole:,} {large}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value * 100:.1f} %"


def _iso(value: datetime | None) -> str:
    return "" if value is None else iso(value)


def _clock(value: datetime | None) -> str:
    return NOTHING if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _pretty(value: Any) -> str:
    text = to_json(value)
    # Lines are broken in Python, which takes a second for a large event and holds up everything else.
    return text if len(text) > PRETTY else to_json(value, indent=2)


def _compact(value: Any, most: int | None = None) -> str:
    if most is None:
        return to_json(value)
    text = beginning(value, most)
    return text if len(text) <= most else text[:most] + "…"


def _bytes(value: float | None) -> str:
    if value is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:,.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


FILTERS = {
    "number": _number,
    "rate": _rate,
    "seconds": _seconds,
    "percent": _percent,
    "iso": _iso,
    "clock": _clock,
    "pretty": _pretty,
    "compact": _compact,
    "bytes": _bytes,
    "plural": _plural,
}
