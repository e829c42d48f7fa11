"""The command line: `main` and the table of its commands.

Nothing but click is imported until a command runs. Each command lives in a module of its own, named in `COMMANDS`,
and is that module's ``command``; such a module imports what it needs inside its functions. What commands share:

- `eventstore.cli.session`: ``@shared_options``, opening the store, running async code;
- `eventstore.cli.output`: rows, results, progress;
- `eventstore.cli.values`: JSON, times, positions and names as option types;
- `eventstore.cli.selecting`: ``@selector_options``;
- `eventstore.cli.asking`: confirmation of what could hurt;
- `eventstore.cli.recording`: the record of what was done by hand;
- `eventstore.cli.failures`: exit codes, and how errors are printed.
"""

from __future__ import annotations

try:
    import click

    import eventstore
    from eventstore.cli.failures import EXIT_CODES_HELP
    from eventstore.cli.group import LazyGroup
    from eventstore.cli.session import Session, shared_options
except ModuleNotFoundError as error:
    if error.name not in ("click", "rich"):
        raise
    raise SystemExit("the command line needs more packages: pip install '.[cli]' in a checkout") from None
except KeyboardInterrupt:  # Ctrl-C before there is anything that could answer it
    raise SystemExit(130) from None

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "actions": ("eventstore.cli.actions", "Show what operators did."),
    "append": ("eventstore.cli.append", "Append events to a stream."),
    "dashboard": ("eventstore.cli.dashboard", "Serve the dashboard as a web page, until Ctrl-C."),
    "demo": ("eventstore.cli.demo", "See the event store at work, on a small shop or a file of yours."),
    "dev": ("eventstore.cli.dev", "Run the embedded Postgres until Ctrl-C."),
    "doctor": ("eventstore.cli.doctor", "Check the database, the subscriptions and the nodes, and say what to do."),
    "evidence": (
        "eventstore.cli.evidence",
        "Chain events by hashes, so that `eventstore verify` finds what was tampered with.",
    ),
    "export": ("eventstore.cli.exporting", "Write events to a file as NDJSON."),
    "import": ("eventstore.cli.importing", "Import the rows of a CSV or NDJSON file as events."),
    "migrate": ("eventstore.cli.migrate", "Create the schema, or bring it up to date."),
    "nodes": ("eventstore.cli.nodes", "Show who runs handlers, and what each of them holds."),
    "parked": ("eventstore.cli.parked", "Show events that were set aside, replay or discard them."),
    "pubsub": ("eventstore.cli.pubsub", "Publish to topics, watch them, see what the nodes count."),
    "read": ("eventstore.cli.read", "Read one stream, or the whole log by selector."),
    "requests": ("eventstore.cli.requests", "Show what web applications answered, and drop old months of it."),
    "roles": ("eventstore.cli.roles", "Print, apply or check roles that may do no more than they need."),
    "scavenge": ("eventstore.cli.scavenge", "Remove for good what the limits of streams hide."),
    "seal": ("eventstore.cli.seal", "Sign what the log holds, up to the horizon."),
    "stream": ("eventstore.cli.stream", "Show a stream, set its limits, delete or tombstone it."),
    "streams": ("eventstore.cli.streams", "List streams by name."),
    "subscription": ("eventstore.cli.subscription", "Create, show, update, pause, rewind and resize subscriptions."),
    "tail": ("eventstore.cli.tail", "Follow the log live, until Ctrl-C."),
    "tenants": ("eventstore.cli.tenants", "Print, apply or check what keeps the tenants of one schema apart."),
    "top": ("eventstore.cli.top", "Watch the overview live, until q or Ctrl-C."),
    "verify": ("eventstore.cli.verify", "Find out whether the log is as it was written."),
    "work": ("eventstore.cli.work", "Run the handlers of an application, and sinks."),
}
"""Name → (module, short help); the help page is written from here, without importing any of them."""


@click.group(cls=LazyGroup, commands_table=COMMANDS, epilog=EXIT_CODES_HELP)
@click.version_option(eventstore.__version__, prog_name="eventstore")
@shared_options
def main(_session: Session) -> None:
    """An event store on Postgres.

    Options shown here can be given before or after the command. Without a DSN the embedded Postgres is used.

    \b
    Examples:
      eventstore dev
      eventstore append order-1 --type OrderPlaced --data '{"total": 9}'
      eventstore read order-1 --json
      eventstore tail --type OrderPlaced
    """
