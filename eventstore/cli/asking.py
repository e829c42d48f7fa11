"""What could hurt is asked for first; ``--yes`` does not ask."""

from __future__ import annotations

import sys

import click

__all__ = ["confirm", "yes_option"]

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, nothing: str) -> None:
    """Ask on stderr; any answer but yes, also the end of input, refuses and says that *nothing* was done."""
    # click.confirm reports the end of input and Ctrl-C alike.
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # the end of the input, which moves no terminal to the next line
        click.echo(err=True)
    if answer.strip().lower() not in ("y", "yes"):
        raise click.ClickException(f"not confirmed, nothing was {nothing}; --yes does not ask")
