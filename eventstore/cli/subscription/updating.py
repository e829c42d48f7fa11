"""``eventstore subscription update``: another failure policy or sink, from where the subscription stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from eventstore.cli.output import cell, result
from eventstore.cli.recording import recorded
from eventstore.cli.session import Session, shared_options
from eventstore.cli.subscription.creating import delivery_options, policy_of
from eventstore.cli.values import NAME

__all__ = ["update"]


@click.command()
@click.argument("name", type=NAME)
@click.option("--no-sink", is_flag=True, help="Deliver to a handler again.")
@delivery_options(defaults=False)
@click.option("--default-policy", is_flag=True, help="Begin with the usual failure policy, not with the stored one.")
@shared_options
def update(
    session: Session,
    name: str,
    no_sink: bool,
    default_policy: bool,
    policy: dict[str, Any],
    sink: str | None,
    sink_options: dict[str, Any] | None,
) -> None:
    """Change the failure policy or the sink, also while it runs; it keeps its place.

    Only what is given changes: --attempts leaves the pauses as they are, --sink-option the other options of the sink
    there is; --sink begins without options. Deliveries under way are cancelled and come again. Partitions that are
    halted stay so until `eventstore subscription resume`. An application that declares the subscription has to declare
    the same from its next start on.

    \b
    Examples:
      eventstore subscription update billing --attempts 10 --then halt
      eventstore subscription update billing --default-policy
      eventstore subscription update shop --sink https://shop.example/events --sink-option secret_env=ORDERS_SECRET
      eventstore subscription update shop --sink-option timeout=5
      eventstore subscription update shop --no-sink
    """
    if no_sink and (sink is not None or sink_options is not None):
        raise click.UsageError("--no-sink goes without --sink and --sink-option")
    wanted: dict[str, Any] = {"sink": None} if no_sink else {}
    if sink is not None:
        wanted = {"sink": sink, "sink_options": sink_options}
    elif sink_options is not None:
        wanted = {"sink_options": sink_options}
    if not (wanted or policy or default_policy):
        raise click.UsageError("say what to change: a sink, or a part of the failure policy")
    done = session.run(_update(session, name, wanted, policy, default_policy))
    sentence = f"updated subscription {cell(name)}" if done else f"subscription {cell(name)} was so already"
    result(session.json, {"name": name, "updated": done}, sentence)


async def _update(
    session: Session, name: str, wanted: Mapping[str, Any], policy: dict[str, Any], default_policy: bool
) -> bool:
    from eventstore.subscriptions.policy import load

    async with session.store(listen=True) as store:
        options = (await store.subscriptions.get(name)).options
        changes = dict(wanted)
        if policy or default_policy:
            changes["policy"] = policy_of(policy, None if default_policy else load(options.get("policy", {})))
        if wanted.get("sink_options") and "sink" not in wanted:
            changes["sink_options"] = {**options.get("sink_options", {}), **wanted["sink_options"]}
        # What is changed, and not to what: URLs and options of sinks may hold what is secret.
        async with recorded(store.database, "update", name, changed=sorted(changes)):
            return await store.subscriptions.update(name, **changes)
