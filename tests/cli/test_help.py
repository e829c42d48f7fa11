from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from eventstore import __version__
from eventstore.cli import COMMANDS
from eventstore.cli.failures import EXIT_CODES
from tests.cli.conftest import Run

HEAVY = {"asyncio", "asyncpg", "alembic", "orjson", "pydantic", "rich", "sqlalchemy", "logging.config"}
OURS = sorted(name for name in COMMANDS if name not in ("demo", "export", "import"))

LISTING = """
import os, sys
from eventstore.cli import main
for sys.argv[1:] in [[*line.split(), "--help"] for line in sys.argv[1:]]:
    if not os.fork():
        try:
            main()
        except SystemExit as end:
            print(*([] if end.code else sys.modules), flush=True)
        os._exit(0)
    os.wait()
    print("end", flush=True)
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Modules loaded by the help of each command, in a fresh interpreter that had imported the commands' table."""
    command = [sys.executable, "-c", LISTING, *OURS, ""]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = done.stdout.split("\nend\n")[:-1]
    return {name: set(text.splitlines()[-1].split()) for name, text in zip([*OURS, ""], printed, strict=True)}


def test_help_imports_nothing_but_click_and_no_command(loaded: dict[str, set[str]]) -> None:
    assert "click" in loaded[""]
    assert not loaded[""] & HEAVY
    assert not loaded[""] & {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize("name", OURS)
def test_help_of_a_command_imports_nothing_heavy(loaded: dict[str, set[str]], name: str) -> None:
    assert COMMANDS[name][0] in loaded[name]
    assert not loaded[name] & HEAVY


@pytest.mark.parametrize("name", OURS)
def test_every_command_has_examples_and_the_short_help_of_the_table(name: str, plain: Run) -> None:
    module, short = COMMANDS[name]
    command = import_module(module).command
    assert (command.help or "").splitlines()[0] == short
    commands = getattr(command, "commands", {"": command})
    assert all("Examples:" in plain(*f"{name} {one}".split(), "--help").output for one in commands)


def test_the_shared_options_are_listed_with_every_command(plain: Run) -> None:
    for args in (["read"], ["subscription", "list"], []):
        assert all(option in plain(*args, "--help").output for option in ("--dsn", "--schema", "--data-dir", "--json"))


@pytest.mark.parametrize(
    ("args", "default"),
    [("read", "0"), ("export", "0"), ("tail", "current"), ("append", "any"), ("subscription create", "0")],
)
def test_where_reading_begins_and_what_an_append_expects_have_their_defaults_in_help(
    plain: Run, args: str, default: str
) -> None:
    assert f"[default: {default}" in plain(*args.split(), "--help").output


def test_every_exit_code_is_documented_in_help(plain: Run) -> None:
    text = plain("--help").output
    assert all(f" {code} " in text or f"({code}:" in text for code in set(EXIT_CODES.values()))


def test_version_is_the_package_s(plain: Run) -> None:
    assert plain("--version").output == f"eventstore, version {__version__}\n"


def test_an_unknown_command_is_a_usage_error(plain: Run) -> None:
    result = plain("apend")
    assert result.exit_code == 2
    assert "No such command 'apend'" in result.stderr
