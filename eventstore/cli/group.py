"""A click group that imports a command's module when the command is used, and ends with the documented exit codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from eventstore.cli.failures import Interrupted, exit_code

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands are named in a table: name → (module, short help).

    A module's command is its attribute ``command``.
    """

    def __init__(self, *args: Any, commands_table: Mapping[str, tuple[str, str]], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self._table = commands_table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the table."""
        return sorted(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of *cmd_name* and return its command."""
        if cmd_name not in self._table:
            return None
        found: click.Command = import_module(self._table[cmd_name][0]).command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that help imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; click itself would answer Ctrl-C with an empty line, even where errors are to be JSON."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line and exit with the code that `eventstore.cli.failures` documents."""
        given = list(sys.argv[1:] if args is None else args)
        run = super().main
        sys.exit(exit_code(lambda: run(given, prog_name, complete_var, standalone_mode=False, **extra), given))
