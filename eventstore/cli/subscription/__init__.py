"""``eventstore subscription``: stored subscriptions, what becomes of them, and what an operator can do about them.

Each command is a function of one of the modules here, and is added to the group below.
"""

from __future__ import annotations

import click

from eventstore.cli.explaining import explain
from eventstore.cli.session import Session, shared_options
from eventstore.cli.subscription.changing import delete, pause, resize, resume, rewind
from eventstore.cli.subscription.creating import create
from eventstore.cli.subscription.showing import list_, show
from eventstore.cli.subscription.updating import update
from eventstore.cli.subscription.watching import watch

__all__ = ["command"]


@click.group()
@shared_options
def command(_session: Session) -> None:
    """Create, show, update, pause, rewind and resize subscriptions."""


for one in (create, list_, show, explain, update, pause, resume, rewind, resize, delete, watch):
    command.add_command(one)
