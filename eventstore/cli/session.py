"""What a command is given: which database, how to print, and how to run async code.

A command is written like this::

    @click.command()
    @click.argument("stream")
    @shared_options
    def command(session: Session, stream: str) -> None:
        '''Short help.'''
        session.run(_count(session, stream))

    async def _count(session: Session, stream: str) -> None:
        async with session.store() as store:
            ...

``@shared_options`` adds ``--dsn``, ``--schema``, ``--tenant``, ``--data-dir``, ``--json``, ``--debug`` and ``-v`` and
hands the `Session` to the command as its first argument. The same options stand before the command's name; what is
given nearer to the command wins, and the command line wins over the environment. Put it last, nearest to the function,
so that these options close the help page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventstore.cli.failures import Terminated

if TYPE_CHECKING:
    from eventstore.embedded import EmbeddedPostgres
    from eventstore.store import EventStore

__all__ = ["Session", "shared_options"]

T = TypeVar("T")


@dataclass
class Session:
    """The shared options of one run.

    Attributes:
        dsn: ``--dsn`` as given on the command line; `location` tells what counts.
        data_dir: ``--data-dir`` as given on the command line.
        schema: ``--schema`` as given on the command line; `schema_name` tells what counts.
        tenant: ``--tenant`` as given on the command line; `tenant_name` tells what counts.
        json: print rows as NDJSON and errors as JSON.
        debug: print tracebacks.
        verbose: how often ``-v`` was given: 0 warnings, 1 information, 2 everything.
    """

    dsn: str | None = field(default=None, repr=False)
    schema: str | None = None
    tenant: str | None = None
    data_dir: str | None = None
    json: bool = False
    debug: bool = False
    verbose: int = 0

    @property
    def location(self) -> tuple[str | None, str | None]:
        """DSN and data directory; both None: the embedded Postgres in its usual place.

        One of them on the command line puts both environment variables out of force.
        """
        # An unset shell variable must not silently mean the embedded Postgres.
        for option, value in (("--dsn", self.dsn), ("--data-dir", self.data_dir)):
            if value == "":
                raise click.UsageError(f"{option} is empty; leave it out for the embedded Postgres")
        if self.dsn is not None or self.data_dir is not None:
            return self.dsn, self.data_dir
        return os.environ.get("EVENTSTORE_DSN") or None, os.environ.get("EVENTSTORE_DATA_DIR") or None

    @property
    def schema_name(self) -> str:
        """``--schema``, or EVENTSTORE_SCHEMA, or ``eventstore``."""
        from eventstore.schema import DEFAULT_SCHEMA

        return self.schema if self.schema is not None else os.environ.get("EVENTSTORE_SCHEMA") or DEFAULT_SCHEMA

    @property
    def tenant_name(self) -> str | None:
        """``--tenant``, or EVENTSTORE_TENANT, or None."""
        return self.tenant if self.tenant is not None else os.environ.get("EVENTSTORE_TENANT") or None

    def of_all_tenants(self) -> None:
        """Refuse ``--tenant``, as a command does that is about the schema as a whole."""
        if self.tenant is not None:
            raise click.UsageError("this is about the schema as a whole; leave out --tenant")

    def store(self, *, listen: bool = False) -> EventStore:
        """Return the store, for ``async with``; opened without a DSN it starts the embedded Postgres and migrates.

        Args:
            listen: keep a connection for signals; only what follows the log live needs it.
        """
        from eventstore.settings import Settings
        from eventstore.store import EventStore

        dsn, data_dir = self.location
        if dsn is not None and data_dir is not None:
            given = self.dsn is not None or self.data_dir is not None
            names = "--dsn and --data-dir" if given else "EVENTSTORE_DSN and EVENTSTORE_DATA_DIR"
            raise click.UsageError(f"{names} name two places: the second is for the embedded Postgres; give one")
        direct = os.environ.get("EVENTSTORE_LISTEN_DSN") or None
        settings = Settings(listen=listen, listen_dsn=direct, connections=10 if listen else 2)
        return EventStore(dsn, schema=self.schema_name, tenant=self.tenant_name, data_dir=data_dir, settings=settings)

    def embedded(self) -> EmbeddedPostgres:
        """Return the embedded Postgres, for ``with``; a DSN in the environment does not count."""
        from eventstore.embedded import EmbeddedPostgres

        _, data_dir = self.location
        return EmbeddedPostgres(data_dir or os.environ.get("EVENTSTORE_DATA_DIR") or None)

    @contextmanager
    def server(self) -> Iterator[str]:
        """Yield the DSN, of the embedded Postgres if there is no other."""
        dsn, _ = self.location
        if dsn is not None:
            yield dsn
            return
        with self.embedded() as postgres:
            yield postgres.dsn

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end. Ctrl-C and SIGTERM cancel it, so that what it opened is closed."""
        import asyncio

        self.log_to_stderr()
        return asyncio.run(_until_sigterm(work))

    def log_to_stderr(self) -> None:
        """Print the log on stderr: warnings, and more with each ``-v``. `run` does this."""
        from eventstore.cli.logs import configure
        from eventstore.redaction import secrets_of

        dsns = (self.dsn or os.environ.get("EVENTSTORE_DSN") or "", os.environ.get("EVENTSTORE_LISTEN_DSN") or "")
        configure(self.verbose, self.debug, set().union(*map(secrets_of, dsns)))


async def _until_sigterm(work: Coroutine[Any, Any, T]) -> T:
    import asyncio
    import signal
    from contextlib import suppress

    loop, task, terminated = asyncio.get_running_loop(), asyncio.current_task(), False
    assert task is not None

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await work
    except asyncio.CancelledError:
        if terminated:
            raise Terminated from None
        raise


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep an option that was given; the callbacks of outer groups run first, so the nearest one wins."""
    session = ctx.ensure_object(Session)
    if value is not None and value is not False and value != 0:
        setattr(session, str(param.name), value)


def _shared(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    return click.option(*names, expose_value=False, callback=_note, **attributes)


_OPTIONS = (
    _shared("--dsn", metavar="DSN", help="postgresql://user@host/database  [env: EVENTSTORE_DSN]"),
    _shared("--schema", metavar="NAME", help="Schema of the log.  [env: EVENTSTORE_SCHEMA; default: eventstore]"),
    _shared("--tenant", metavar="NAME", help="Whose log, in a schema with tenants.  [env: EVENTSTORE_TENANT]"),
    _shared("--data-dir", metavar="DIR", help="Data of the embedded Postgres.  [env: EVENTSTORE_DATA_DIR]"),
    _shared("--json", is_flag=True, help="Print one JSON object a line; errors too."),
    _shared("--debug", is_flag=True, envvar="EVENTSTORE_DEBUG", help="Show tracebacks.  [env: EVENTSTORE_DEBUG]"),
    _shared("--verbose", "-v", count=True, help="Log more to stderr; twice for everything."),
)


def shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command and pass it the `Session` as its first argument."""

    @wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        session = click.get_current_context().ensure_object(Session)
        return function(session, *args, **options)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command
