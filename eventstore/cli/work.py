"""``eventstore work``: the handlers of an application, and sinks, run until asked to stop."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import reduce
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.failures import Terminated
from eventstore.cli.output import cell
from eventstore.cli.session import Session, shared_options
from eventstore.errors import SubscriptionNotFound

if TYPE_CHECKING:
    from eventstore.store import EventStore

__all__ = ["command"]

log = logging.getLogger(__name__)

Shown = AbstractAsyncContextManager[None]
"""What serves the metrics, if anything does."""

NAMED = 10
"""How many of the subscriptions with a sink are named at start."""


@click.command()
@click.option(
    "--app", metavar="MODULE:NAME", help="An EventStore, or a function that returns one.  [default: only sinks]"
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0, min_open=True, max=1e6, max_open=True),
    metavar="SECONDS",
    help="How long handlers may finish after SIGTERM.  [default: Settings.drain_grace]",
)
@click.option(
    "--metrics",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Answer Prometheus at http://127.0.0.1:PORT/metrics; 0 takes a free port.",
)
@click.option("--metrics-host", metavar="ADDRESS", help="Where --metrics listens.  [default: 127.0.0.1]")
@shared_options
def command(
    session: Session, app: str | None, grace: float | None, metrics: int | None, metrics_host: str | None
) -> None:
    """Run the handlers of an application, and sinks.

    Imports MODULE with the current directory in reach, opens its EventStore and delivers events to the handlers
    registered with it, and to the sinks that subscriptions are stored with. Without --app only sinks are delivered to.

    SIGTERM drains: handlers finish what they have in hand, it is settled, and the exit code is 0. A second SIGTERM, or
    Ctrl-C, stops at once; what was unfinished is delivered again. A line at start tells the node, its handlers and
    sinks, and the database; -v prints one for every partition that is claimed, released, lost or halted.

    A store built without a DSN takes --dsn, --data-dir and --schema, or their environment variables; one that names
    its own database keeps it.

    \b
    Examples:
      eventstore work --app orders:store
      eventstore work --app shop.events:make_store -v --dsn postgresql://user@host/database
      eventstore work --grace 5
      eventstore work --app orders:store --metrics 9464
    """
    session.log_to_stderr()
    if metrics_host is not None and metrics is None:
        raise click.UsageError("--metrics-host goes with --metrics PORT")
    store = _only_sinks(session) if app is None else _load(app)
    if app is not None:
        _place(session, store)
    shown = nullcontext() if metrics is None else _showing(store, metrics_host or "127.0.0.1", metrics)
    session.run(_run(store, grace, shown, alone=app is None))


async def _run(store: EventStore, grace: float | None, shown: Shown, *, alone: bool) -> None:
    import asyncio

    from eventstore.service import on_sigterm

    grace = store.settings.drain_grace if grace is None else grace
    task, running, draining, terminated = asyncio.current_task(), False, False, False
    assert task is not None

    def terminate() -> None:
        nonlocal draining, terminated
        if running and not draining:  # `run` hears it as well, and drains
            draining = True
            log.info("SIGTERM: draining, for at most %g s; once more stops at once", grace)
        else:
            terminated = True
            task.cancel()

    # Until everything is closed.
    with on_sigterm(terminate):
        try:
            async with shown, store:
                await _tell_what_runs(store)
                if alone:
                    await _tell_sinks(store)
                running = True
                steady = asyncio.ensure_future(_steady(store))
                try:
                    await store.run(drain_grace=grace)
                finally:
                    steady.cancel()
        except SubscriptionNotFound as error:
            error.args = (_how_to_store(error.name),)
            raise
        except asyncio.CancelledError:
            if terminated:
                raise Terminated from None
            raise


def _how_to_store(name: str) -> str:
    return (
        f"there is a handler for subscription {name!r}, which is not stored: give @store.handler a selector too, "
        f"or run `eventstore subscription create {shlex.quote(name)}` with one"
    )


@asynccontextmanager
async def _showing(store: EventStore, host: str, port: int) -> AsyncIterator[None]:
    """Serve the metrics, also while the store opens and closes."""
    from eventstore.metrics import serving

    async with serving(store, host, port) as url:
        click.echo(f"metrics: {url}", err=True)
        yield


def _only_sinks(session: Session) -> EventStore:
    from eventstore.store import EventStore

    dsn, data_dir = session.location
    return EventStore(dsn, schema=session.schema_name, tenant=session.tenant_name, data_dir=data_dir)


async def _tell_what_runs(store: EventStore) -> None:
    """Say in a line who runs what on which database, with or without -v."""
    from eventstore.database import redacted

    handlers = len(store._handlers)
    sinks = len((await store._ledger.sinks()).keys() - store._handlers.keys())
    if store._dsn is not None:
        where = redacted(store._dsn)
    else:
        where = "the embedded Postgres" + (f" in {store._data_dir}" if store._data_dir is not None else "")
    told = f"{handlers} handler{'' if handlers == 1 else 's'} and {sinks} sink{'' if sinks == 1 else 's'}"
    click.echo(f"node {cell(store.node_name)}: {told}, on {cell(where)}, schema {cell(store.schema)}", err=True)


async def _tell_sinks(store: EventStore) -> None:
    sinks = [one.name for one in await store.subscriptions.list() if "sink" in one.options]
    if sinks:
        more = f" and {len(sinks) - NAMED} more" if len(sinks) > NAMED else ""
        log.info("delivering to the sinks of %s%s", ", ".join(map(cell, sinks[:NAMED])), more)
    else:
        log.warning("no subscription has a sink yet: `eventstore subscription create NAME --sink TARGET`")


async def _steady(store: EventStore) -> None:
    """Let the garbage collector forget what stays, once the partitions are claimed: with many it is half of its work.

    This is for the process to decide, so it is done here and not in `EventStore.run`.
    """
    await store._pools.moments.next("round")
    gc.collect()
    gc.freeze()


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
        tenant = session.tenant_name if store.tenant is None else session.tenant
        store.place(dsn, data_dir=data_dir, schema=schema, tenant=tenant)
    elif session.dsn or session.data_dir or session.schema or session.tenant:
        raise click.UsageError("the store names its own database; leave out --dsn, --data-dir, --schema and --tenant")
