"""Imports point downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "eventstore"

LAYERS = (
    {
        "lazily",
        "counting",
        "redaction",
        "rights",
        "errors",
        "codec",
        "moments",
        "event_types",
        "events",
        "patterns",
        "selectors",
        "router",
        "conditions",
        "settings",
    },
    {
        "mailbox",
        "service",
        "schema",
        "keepalive",
        "poolers",
        "servers",
        "answers",
        "database",
        "roles",
        "tenants",
        "planning",
        "embedded",
        "embedded_supervisor",
        "listening",
        "signals",
    },
    {"pubsub", "tracker", "registry", "lifecycle"},
    {"log", "feed", "relay", "sinks", "presence", "subscriptions", "importing"},
    {"store"},
    {"reports", "analytics", "tracing", "evidence"},
    {"metrics"},
    {"dashboard"},
    {"cli", "demo"},
)
VALUES = LAYERS[0]
FORBIDDEN_TO_VALUES = {"asyncio", "asyncpg", "sqlalchemy", "alembic"}


def layer(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def imports(text: str) -> set[str]:
    """Modules imported at the top of a module; imports inside functions are lazy on purpose and checked as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "eventstore")
    return found


def upward(room: str, text: str) -> list[str]:
    """Rooms above *room* that *text* imports."""
    named = {name.split(".")[1] for name in imports(text) if name.startswith("eventstore.")}
    rooms = {one for group in LAYERS for one in group}
    return sorted(other for other in named & rooms if layer(other) > layer(room))


def modules() -> list[tuple[str, Path]]:
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in sorted(paths)]


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: str(getattr(value, "stem", value)))
def test_no_room_imports_one_above_it(room: str, path: Path) -> None:
    assert not upward(room, path.read_text())


def test_values_know_neither_tasks_nor_the_database() -> None:
    for room in VALUES:
        roots = {name.split(".")[0] for name in imports((PACKAGE / f"{room}.py").read_text())}
        assert not roots & FORBIDDEN_TO_VALUES, room


def test_an_import_upwards_is_caught() -> None:
    assert upward("events", "from eventstore.store import EventStore") == ["store"]
    assert upward("signals", "from eventstore import feed") == ["feed"]
