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

__all__ = ["create", "delivery_options", "policy_of"]

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


_OPTIONS: dict[tuple[str, ...], dict[str, Any]] = {
    ("--sink",): {"metavar": "TARGET", "help": "Deliver without a handler: pubsub:TOPIC, https://… or stdout."},
    ("--sink-option", "sink_options"): {
        "type": _SinkOption(),
        "multiple": True,
        "metavar": "NAME=JSON",
        "help": "Of the sink; repeatable. Secrets are named only: secret_env=VARIABLE.",
    },
    ("--attempts",): {
        "type": _Attempts(),
        "metavar": "N|forever",
        "help": "Deliveries of an event that fails.  [default: 5]",
    },
    ("--delay",): {"type": float, "metavar": "SECONDS", "help": "Pause before the second.  [default: 0.1]"},
    ("--delay-max",): {"type": float, "metavar": "SECONDS", "help": "Longest pause.  [default: 30]"},
    ("--factor",): {"type": float, "metavar": "X", "help": "Each pause is X times the one before.  [default: 4]"},
    ("--timeout",): {"type": float, "metavar": "SECONDS", "help": "Longest delivery.  [default: any time]"},
    ("--then",): {
        "type": click.Choice(["park_key", "park_event", "skip", "halt"]),
        "help": "What follows the last attempt.  [default: park_key]",
    },
}


def delivery_options(*, defaults: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add what says where to deliver and what follows failures, with or without naming *defaults*.

    The command gets ``policy=``, the fields that were given, ``sink=``, and ``sink_options=``, None if none was.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(*args: Any, sink_options: Iterable[tuple[str, Any]], **given: Any) -> Any:
            policy = {name: value for name in POLICY if (value := given.pop(name)) is not None}
            if "attempts" in policy:
                (policy["attempts"],) = policy["attempts"]
            return function(*args, policy=policy, sink_options=_sink_options(sink_options), **given)

        for flag, words in reversed(_OPTIONS.items()):
            shown = words["help"] if defaults else words["help"].partition("  [default")[0]
            command = click.option(*flag, **{**words, "help": shown})(command)
        return command

    return add


def policy_of(given: dict[str, Any], base: FailurePolicy | None = None) -> FailurePolicy | None:
    """Return *base* with the fields that were given; without any, *base*."""
    from dataclasses import replace

    from eventstore.errors import ConfigurationError
    from eventstore.subscriptions.policy import FailurePolicy

    if not given:
        return base
    try:
        return replace(base or FailurePolicy(), **given)
    except ConfigurationError as error:
        # Its fields are called like the options.
        raise ConfigurationError(f"--{str(error).replace('delay_max', 'delay-max')}") from None


def _sink_options(given: Iterable[tuple[str, Any]]) -> dict[str, Any] | None:
    options: dict[str, Any] = {}
    for name, value in given:
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
@delivery_options(defaults=True)
@shared_options
def create(
    session: Session,
    name: str,
    selector: Selector | None,
    pool_size: int,
    after: int | datetime | Literal["current"],
    policy: dict[str, Any],
    sink: str | None,
    sink_options: dict[str, Any] | None,
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
    if sink is None and sink_options is not None:
        raise click.UsageError("--sink-option goes with --sink")
    options = {"policy": policy_of(policy), "sink": sink, "sink_options": sink_options}
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
