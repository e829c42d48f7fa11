"""``eventstore subscription create``: a selector, where to begin, where to deliver, and what follows a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import click

from eventstore.cli.output import cell, result
from eventstore.cli.selecting import selector_options
from eventstore.cli.session import Session, shared_options
from eventstore.cli.subscription.showing import row_of
from eventstore.cli.values import NAME, After, ParamType, parse_json

if TYPE_CHECKING:
    from eventstore.selectors import Selector
    from eventstore.subscriptions.model import Subscription
    from eventstore.subscriptions.policy import FailurePolicy

__all__ = ["create"]

POLICY = ("attempts", "delay", "delay_max", "factor", "timeout", "then")


class _Attempts(ParamType):
    """A number, or ``forever``; given as a tuple, since None would look like an option that was not given."""

    name = "attempts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None]:
        if value == "forever":
            return (None,)
        try:
            return (int(value),)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'forever'", param, ctx)


class _SinkOption(ParamType):
    """``NAME=JSON``; a word that is no JSON stands for itself."""

    name = "name=json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        if not name or not equals:
            # The value is not repeated: it may be a secret.
            self.fail("an option of a sink is NAME=JSON, such as timeout=5 or secret_env=ORDERS_SECRET", param, ctx)
        try:
            return name, parse_json(text)
        except ValueError as error:
            if not text or text[0] in '{["':
                self.fail(f"the value of {name!r} is not JSON: {error}", param, ctx)
            return name, text


_OPTIONS = (
    click.option("--sink", metavar="TARGET", help="Deliver without a handler: pubsub:TOPIC, https://… or stdout."),
    click.option(
        "--sink-option",
        "sink_options",
        type=_SinkOption(),
        multiple=True,
        metavar="NAME=JSON",
        help="Of the sink; repeatable. Secrets are named only: secret_env=VARIABLE.",
    ),
    click.option(
        "--attempts", type=_Attempts(), metavar="N|forever", help="Deliveries of an event that fails.  [default: 5]"
    ),
    click.option("--delay", type=float, metavar="SECONDS", help="Pause before the second.  [default: 0.1]"),
    click.option("--delay-max", type=float, metavar="SECONDS", help="Longest pause.  [default: 30]"),
    click.option("--factor", type=float, metavar="X", help="Each pause is X times the one before.  [default: 4]"),
    click.option("--timeout", type=float, metavar="SECONDS", help="Longest delivery.  [default: any time]"),
    click.option(
        "--then",
        type=click.Choice(["park_key", "park_event", "skip", "halt"]),
        help="What follows the last attempt.  [default: park_key]",
    ),
)


def _delivery_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says where to deliver and what follows failures; the command gets ``options=``, as of `subscribe`."""

    @wraps(function)
    def command(*args: Any, sink: str | None, sink_options: Iterable[tuple[str, Any]], **given: Any) -> Any:
        policy = {name: given.pop(name) for name in POLICY}
        options = {"policy": _policy(policy), "sink": sink, "sink_options": _sink_options(sink, sink_options)}
        return function(*args, options=options, **given)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _policy(given: dict[str, Any]) -> FailurePolicy | None:
    from eventstore.errors import ConfigurationError
    from eventstore.subscriptions.policy import FailurePolicy

    named = {name: value for name, value in given.items() if value is not None}
    if not named:
        return None
    if "attempts" in named:
        (named["attempts"],) = named["attempts"]
    try:
        return FailurePolicy(**named)
    except ConfigurationError as error:
        # Its fields are called like the options.
        raise ConfigurationError(f"--{str(error).replace('delay_max', 'delay-max')}") from None


def _sink_options(sink: str | None, given: Iterable[tuple[str, Any]]) -> dict[str, Any] | None:
    options: dict[str, Any] = {}
    for name, value in given:
        if sink is None:
            raise click.UsageError("--sink-option goes with --sink")
        if name in options:
            raise click.UsageError(f"--sink-option {name} is given twice")
        options[name] = value
    return options or None


@click.command()
@click.argument("name", type=NAME)
@selector_options
@click.option("--pool-size", type=int, default=1, show_default=True, help="Partitions: events handled at once.")
@click.option(
    "--after", type=After(times=True), default="0", metavar="N|current|TIME", help="Begin after this.  [default: 0]"
)
@_delivery_options
@shared_options
def create(
    session: Session,
    name: str,
    selector: Selector | None,
    pool_size: int,
    after: int | datetime | Literal["current"],
    options: dict[str, Any],
) -> None:
    """Store a subscription; the same one stored already is fine.

    It delivers to the handler that an application has for it, or, with --sink, to a topic, a URL or the standard output
    of whichever `eventstore work` gets its partitions. An event whose delivery fails is delivered again after growing
    pauses. After the last attempt it is parked together with the later events of its stream (park_key), or alone
    (park_event); or it is skipped, or the partition halts.

    \b
    Examples:
      eventstore subscription create billing --type OrderPlaced --pool-size 4
      eventstore subscription create audit --after current --attempts forever
      eventstore subscription create vip --payload '{"tier": "VIP"}' --after 2025-01-31 --then halt
      eventstore subscription create orders --type OrderPlaced --sink pubsub:orders
      eventstore subscription create shop --sink https://shop.example/events --sink-option secret_env=ORDERS_SECRET
    """
    stored = session.run(_create(session, name, selector, pool_size, after, options))
    sentence = f"subscription {cell(name)} begins after position {stored.start_position}"
    if stored.pool_size != pool_size:
        sentence += f"; it was stored before and has {stored.pool_size} partitions: `eventstore subscription resize`"
    result(session.json, row_of(stored), sentence)


async def _create(
    session: Session, name: str, selector: Selector | None, pool_size: int, after: Any, options: dict[str, Any]
) -> Subscription:
    from eventstore.selectors import All

    async with session.store(listen=True) as store:
        return await store.subscribe(name, selector or All(), pool_size=pool_size, after=after, **options)
