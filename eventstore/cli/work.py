"""``eventstore work``: the handlers of an application, run until asked to stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.failures import Terminated
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.store import EventStore

__all__ = ["command"]


@click.command()
@click.option("--app", required=True, metavar="MODULE:NAME", help="An EventStore, or a function that returns one.")
@shared_options
def command(session: Session, app: str) -> None:
    """Run the handlers of an application.

    Imports MODULE with the current directory in reach, opens its EventStore and delivers events to the handlers
    registered with it. SIGTERM lets handlers finish; Ctrl-C stops at once, and what was unfinished is delivered
    again. -v prints a line for every partition that is claimed.

    A store built without a DSN takes --dsn, --data-dir and --schema, or their environment variables; one that names
    its own database keeps it.

    \b
    Examples:
      eventstore work --app orders:store
      eventstore work --app shop.events:make_store -v --dsn postgresql://user@host/database
    """
    session.log_to_stderr()
    store = _load(app)
    _place(session, store)
    session.run(_run(store))


async def _run(store: EventStore) -> None:
    async with store:
        await store.run()


def _load(app: str) -> EventStore:
    from eventstore.store import EventStore

    found = _attribute(app)
    if callable(found) and not isinstance(found, EventStore):
        _check_factory(app, found)
        found = found()
    if not isinstance(found, EventStore):
        raise click.UsageError(f"--app {app} is no EventStore but {type(found).__name__}")
    return found


def _check_factory(app: str, factory: Callable[..., Any]) -> None:
    try:
        signature(factory).bind()
    except TypeError as error:
        raise click.UsageError(f"--app {app}: a factory is called without arguments: {error}") from None


def _attribute(app: str) -> Any:
    module, _, path = app.partition(":")
    if not module or not path:
        raise click.UsageError(f"--app {app!r} must look like module:store")
    sys.path.insert(0, os.getcwd())
    found = _imported(app, module)
    try:
        return reduce(getattr, path.split("."), found)
    except AttributeError as error:
        raise click.UsageError(f"--app {app}: {error}") from error


def _imported(app: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except Terminated:
        raise
    except Exception as error:  # whatever the application's own code does wrong
        cause = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise click.UsageError(f"--app {app}: cannot import {module}: {cause}") from error


def _place(session: Session, store: EventStore) -> None:
    """Tell a store built without a database where it is; options that it could not follow are refused."""
    from eventstore.schema import DEFAULT_SCHEMA

    if not store.placed:
        dsn, data_dir = session.location
        schema = session.schema_name if store.schema == DEFAULT_SCHEMA else session.schema
        store.place(dsn, data_dir=data_dir, schema=schema)
    elif session.dsn or session.data_dir or session.schema:
        raise click.UsageError("the store names its own database; leave out --dsn, --data-dir and --schema")
