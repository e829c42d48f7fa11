"""What the pages show runs as written, against a real database; and they leave out no public name.

Examples of one page build on one another, in their order. They find an open `store` and its `dsn`. A ``text`` block
behind an example is what it prints, or what psql shows. A literal in a comment behind an expression is its value.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import sys
import tokenize
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import psycopg
import pytest

import eventstore
import eventstore.analytics
import eventstore.lifecycle
import eventstore.pubsub
import eventstore.registry
import eventstore.sinks
import eventstore.tracker
from eventstore import EventStore, FailurePolicy, Settings, errors
from eventstore.cli import COMMANDS, main
from eventstore.event_types import event_types
from eventstore.subscriptions.admin import Subscriptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = re.compile(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
WITHIN = 60.0
"""Seconds for one example."""


@dataclass(frozen=True)
class Example:
    language: str
    source: str
    shown: str | None
    line: int


def examples(page: Path, *languages: str) -> list[Example]:
    text = page.read_text()
    found = [Example(*match.groups(), text.count("\n", 0, match.start()) + 1) for match in EXAMPLE.finditer(text)]
    return [one for one in found if one.language in languages]


def with_examples(*languages: str) -> Any:
    pages = [page for page in PAGES if examples(page, *languages)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


# -- Python


def stated_values(source: str) -> dict[int, str]:
    """Line → the comment at its end, if that is a Python literal."""
    stated = {}
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT and is_literal(text := token.string.lstrip("# ")):
            stated[token.start[0]] = text
    return stated


def is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def checked(source: str, name: str) -> Any:
    """Compile an example; expressions whose value is stated become assertions."""
    tree, stated = ast.parse(source), stated_values(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and (value := stated.get(node.end_lineno or 0)):
            node.value = ast.Call(ast.Name("_equal", ast.Load()), [node.value, ast.parse(value, mode="eval").body], [])
    return compile(ast.fix_missing_locations(tree), name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def _equal(value: object, stated: object) -> None:
    assert value == stated


async def run_python(example: Example, page: str, names: dict[str, Any]) -> None:
    printed = StringIO()
    code = checked("\n" * example.line + example.source, page)
    async with asyncio.timeout(WITHIN):
        with redirect_stdout(printed):
            running = eval(code, names)
            if inspect.iscoroutine(running):
                await running
    if example.shown is not None:
        assert printed.getvalue() == example.shown


# -- SQL


def run_sql(example: Example, connection: psycopg.Connection[Any]) -> None:
    """Run the statements one by one, as psql does. A code behind ``--`` is the error that the last one ends in."""
    *before, last = [one for one in re.split(r"(?<=;)\n", example.source) if one.strip()]
    for statement in before:
        connection.execute(statement.encode())
    stated = re.search(r"; +-- (\w{5})$", example.source, re.MULTILINE)
    shown, state = answer(connection, last)
    assert state == (stated and stated[1]), shown
    if example.shown is not None:
        assert shown == example.shown


def answer(connection: psycopg.Connection[Any], statement: str) -> tuple[str, str | None]:
    try:
        return as_psql_shows(connection.execute(statement.encode()).pgresult), None
    except psycopg.Error as error:
        return as_psql_reports(error), error.sqlstate


def as_psql_reports(error: psycopg.Error) -> str:
    parts = [("ERROR", error.diag.message_primary), ("DETAIL", error.diag.message_detail)]
    parts.append(("HINT", error.diag.message_hint))
    return "".join(f"{name}:  {text}\n" for name, text in parts if text)


NUMBERS = {20, 21, 23, 26, 700, 701, 1700}
"""OIDs of the types that psql puts to the right."""


def as_psql_shows(result: Any) -> str:
    if not result.nfields:
        return ""
    columns = []
    for column in range(result.nfields):
        cells = [(result.get_value(row, column) or b"").decode() for row in range(result.ntuples)]
        head = result.fname(column).decode()
        width = max(map(len, [head, *cells]))
        right = result.ftype(column) in NUMBERS
        lines = [cell.rjust(width) if right else cell.ljust(width) for cell in cells]
        columns.append([f" {head:^{width}} ", *(f" {line} " for line in lines)])
    rows = ["|".join(parts).rstrip() for parts in zip(*columns, strict=True)]
    rule = "+".join("-" * len(column[0]) for column in columns)
    count = f"({result.ntuples} row{'' if result.ntuples == 1 else 's'})"
    return "\n".join([rows[0], rule, *rows[1:], count, ""])


@pytest.fixture
def plain(db: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A connection for the page's SQL; the roles it makes are dropped, because they outlive the database."""
    roles = set(re.findall(r"create role (\w+)", request.getfixturevalue("page").read_text()))
    with psycopg.connect(db, autocommit=True) as connection:
        yield connection
        connection.execute("reset role")
        made = connection.execute("select rolname from pg_roles").fetchall()
        for role in roles & {name for (name,) in made}:
            connection.execute(f"drop owned by {role}; drop role {role}".encode())


# -- the tests


@with_examples("python", "sql")
async def test_examples_run_as_written(
    page: Path, store: EventStore, db: str, plain: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    names = vars(module) | {"store": store, "dsn": db, "_equal": _equal}
    with event_types.isolated():
        for example in examples(page, "python", "sql"):
            if "asyncio.run(" in example.source:
                continue  # a program of its own: tests/test_readme.py
            try:
                if example.language == "sql":
                    run_sql(example, plain)
                else:
                    await run_python(example, page.name, names)
            except Exception as error:
                error.add_note(f"{page.name}, the example at line {example.line}")
                raise


def commands(page: Path) -> list[str]:
    lines = [line for example in examples(page, "sh") for line in example.source.splitlines()]
    return [line for line in lines if line.startswith("eventstore ")]


@with_examples("sh")
def test_commands_take_the_arguments_that_are_shown(page: Path) -> None:
    for line in commands(page):
        understood(main, shlex.split(line, comments=True)[1:])


def understood(command: click.Command, arguments: list[str]) -> None:
    """Parse, and run nothing."""
    context = click.Context(command)
    _, rest, _ = command.make_parser(context).parse_args(arguments)
    if isinstance(command, click.Group) and (rest or not command.invoke_without_command):
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"no command {rest[0]}"
        understood(inner, rest[1:])
    else:
        assert not rest


def test_an_unknown_option_is_caught() -> None:
    with pytest.raises(click.UsageError):
        understood(main, ["read", "order-1", "--sideways"])


@pytest.mark.parametrize("source", ["1 + 1  # 3", "await store.head()  # 7", "for n in (1, 2):\n    n  # 1"])
async def test_a_wrong_value_is_caught(store: EventStore, source: str) -> None:
    with pytest.raises(AssertionError):
        await run_python(Example("python", source, None, 1), "page", {"store": store, "_equal": _equal})


async def test_a_wrong_output_is_caught() -> None:
    with pytest.raises(AssertionError):
        await run_python(Example("python", "print(1)", "2\n", 1), "page", {})


@pytest.mark.parametrize(
    ("source", "shown"),
    [("select 1;", " ?column?\n----------\n        2\n(1 row)\n"), ("select 1/0;", None), ("select 1; -- 22012", None)],
)
def test_a_wrong_answer_in_sql_is_caught(db: str, source: str, shown: str | None) -> None:
    with psycopg.connect(db) as connection, pytest.raises(AssertionError):
        run_sql(Example("sql", source, shown, 1), connection)


ALL = "\n".join(page.read_text() for page in PAGES)
NAMES = {
    "public names": eventstore.__all__,
    "errors": errors.__all__,
    "settings": [one.name for one in fields(Settings)],
    "pubsub": eventstore.pubsub.__all__,
    "tracker": eventstore.tracker.__all__,
    "lifecycle": eventstore.lifecycle.__all__,
    "kinds": list(eventstore.lifecycle.StoreKind),
    "registry": eventstore.registry.__all__,
    "analytics": eventstore.analytics.__all__,
    "operations": [name for name in vars(Subscriptions) if not name.startswith("_")],
    "failure policy": [one.name for one in fields(FailurePolicy)],
    "delivery": ["ack", "attempt", "epoch", "nack", "park", "partition", "subscription"],
    "sinks": eventstore.sinks.__all__,
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_no_public_name_is_left_out(names: list[str]) -> None:
    assert not [name for name in names if not re.search(rf"\b{name}\b", ALL)]


def test_the_table_of_settings_shows_every_default() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("## Settings")[2].partition("\n## ")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", table, re.MULTILINE))
    known = {one.name: getattr(Settings(), one.name) for one in fields(Settings)}
    assert {name: as_shown(value) for name, value in known.items()} == shown


def as_shown(value: Any) -> str:
    return "none" if value is None else f"`{value}`" if isinstance(value, bool) else f"{value:,g}"


def test_no_command_and_no_function_for_other_languages_is_left_out() -> None:
    functions = [path.stem for path in (ROOT / "eventstore" / "sql").glob("*.sql") if not path.stem.endswith("_v1")]
    assert not [name for name in functions if f"eventstore.{name}(" not in ALL]
    assert not [name for name in COMMANDS if not re.search(rf"^eventstore {name}\b", ALL, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not heading or heading in headings(linked), f"{target}#{heading}"


def headings(page: Path) -> list[str]:
    """The names by which headings can be linked to."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in found]
