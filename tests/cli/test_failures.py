"""Every refusal: a named error, the documented exit code, no traceback, nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
import pytest

from eventstore import NewEvent, errors
from eventstore.cli import main
from eventstore.cli.failures import exit_code
from tests.cli.conftest import Run, failure, rows

CODES = {
    "AlreadyStarted": 1,
    "AlreadyTracked": 1,
    "AppendConditionFailed": 5,
    "BroadcastError": 3,
    "CheckpointAheadOfLog": 1,
    "ConfigurationError": 2,
    "DataDirectoryMismatch": 2,
    "DatabaseUnavailable": 3,
    "DeliveryFailed": 1,
    "DuplicateEventId": 5,
    "EventStoreError": 1,
    "ImportFailed": 2,
    "InvalidEvent": 2,
    "InvalidMessage": 2,
    "InvalidSelector": 2,
    "LeaseLost": 1,
    "MailboxClosed": 1,
    "MigrationRequired": 4,
    "NoPresence": 1,
    "NoProc": 1,
    "NoPubSub": 1,
    "NoShape": 1,
    "OutcomeUnknown": 3,
    "Overflow": 1,
    "PayloadTooLarge": 2,
    "PubSubClosed": 1,
    "ShapeRemoved": 1,
    "ShardCrashed": 1,
    "StreamDeleted": 5,
    "SubscriptionExists": 5,
    "SubscriptionNotFound": 6,
    "TransactionConflict": 5,
    "UnreadableEvent": 1,
    "WrongExpectedVersion": 5,
}


def raising(error: BaseException) -> int:
    def run() -> None:
        raise error

    return exit_code(run, [])


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_its_stable_exit_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = getattr(errors, name)
    error = kind.__new__(kind, "why")
    assert raising(error) == CODES[name]
    assert capsys.readouterr().err.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (click.Abort(), 130), (KeyError("x"), 1), (TimeoutError(), 3)]
)
def test_what_is_no_error_of_the_package_has_its_code_too(error: BaseException, code: int) -> None:
    assert raising(error) == code


def test_an_unexpected_error_says_how_to_see_where_it_happened(capsys: pytest.CaptureFixture[str]) -> None:
    raising(KeyError("x"))
    assert capsys.readouterr().err == "KeyError: 'x' (unexpected; --debug shows where)\n"


@pytest.mark.parametrize("by", [{"args": ("--debug",)}, {"env": {"EVENTSTORE_DEBUG": "1"}}], ids=str)
def test_the_traceback_is_shown_on_request(by: dict[str, object], plain: Run) -> None:
    result = plain(*by.get("args", ()), "--dsn", "mysql://x", "read", env=by.get("env"))  # type: ignore[misc, call-overload]
    assert "Traceback" in result.stderr
    assert result.exit_code == 2


@pytest.mark.parametrize("value", ["0", "false", "no", "off", ""])
def test_a_debug_variable_that_says_no_shows_no_traceback(plain: Run, value: str) -> None:
    result = plain("--dsn", "mysql://x", "read", env={"EVENTSTORE_DEBUG": value})
    assert (result.exit_code, "Traceback" in result.stderr) == (2, False)


@pytest.mark.parametrize(
    ("dsn", "code", "name"),
    [
        ("mysql://host/db", 2, "ConfigurationError"),
        ("host=/tmp dbname=x", 2, "ConfigurationError"),
        ("postgresql://localhost:port/db", 2, "ConfigurationError"),
        ("postgresql://nobody@127.0.0.1:1/db", 3, "DatabaseUnavailable"),
        ("postgresql://x@/db?host=/nowhere", 3, "DatabaseUnavailable"),
        ("", 2, "UsageError"),
    ],
)
@pytest.mark.parametrize("command", [("read",), ("migrate",), ("append", "s", "--type", "T")], ids=" ".join)
def test_an_unusable_dsn_is_refused(plain: Run, command: tuple[str, ...], dsn: str, code: int, name: str) -> None:
    assert failure(plain(*command, "--json", "--dsn", dsn)) == (code, name)


def test_a_password_is_never_printed(plain: Run) -> None:
    result = plain("read", "--dsn", "postgresql://me:hunter2@127.0.0.1:1/db")
    assert result.exit_code == 3
    assert "hunter2" not in result.output


def test_a_database_that_does_not_exist_is_unavailable(db: str, plain: Run) -> None:
    result = plain("read", "--json", "--dsn", db.replace("@/", "@/missing_"))
    assert failure(result) == (3, "DatabaseUnavailable")


@pytest.mark.parametrize("command", [("read",), ("streams",), ("tail",), ("subscription", "list")], ids=" ".join)
def test_a_missing_schema_needs_a_migration(cli: Run, command: tuple[str, ...]) -> None:
    result = cli("--schema", "elsewhere", *command, "--json")
    assert failure(result) == (4, "MigrationRequired")
    assert "eventstore migrate --schema elsewhere" in json.loads(result.stderr)["message"]


def test_an_old_schema_needs_a_migration(cli: Run, execute: Callable[[str], None]) -> None:
    execute("update eventstore.eventstore_version set version_num = '0000'")
    assert failure(cli("read", "--json")) == (4, "MigrationRequired")


def test_a_dsn_and_a_data_directory_are_not_taken_together(cli: Run) -> None:
    assert failure(cli("read", "--data-dir", "x", "--json")) == (2, "UsageError")


@pytest.mark.parametrize("schema", ["pg_mine", "x" * 64])
def test_an_unusable_schema_name_is_refused(cli: Run, schema: str) -> None:
    assert failure(cli("migrate", "--schema", schema, "--json")) == (2, "ConfigurationError")


def test_a_usage_error_is_json_too(plain: Run) -> None:
    assert failure(plain("read", "--json", "--nonsense")) == (2, "NoSuchOption")


def test_a_stream_called_like_an_option_changes_no_error(cli: Run) -> None:
    result = cli("read", "--", "--json")
    assert result.exit_code == 6
    assert result.stderr.startswith("StreamNotFound: no stream named '--json'")


@pytest.mark.parametrize("name", ["bad\0name", "bad\udcffname"], ids=ascii)
@pytest.mark.parametrize(
    "command",
    [("read",), ("append", "--type", "T"), ("append", "s", "--type"), ("streams", "--prefix"), ("read", "--type"),
     ("read", "--stream"), ("read", "--tag"), ("read", "--pattern"), ("subscription", "show"),
     ("append", "s", "--type", "T", "--unless-tag"), ("subscription", "delete", "--yes"), ("subscription", "create")],
    ids=" ".join,
)  # fmt: skip
def test_names_the_database_cannot_hold_are_refused(cli: Run, command: tuple[str, ...], name: str) -> None:
    result = cli(*command, name)
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert rows(cli("streams", "--json")) == rows(cli("subscription", "list", "--json")) == []


def test_an_append_to_a_stream_closed_for_good_is_a_conflict_that_names_it(cli: Run) -> None:
    cli("stream", "tombstone", "s", "--yes")
    result = cli("append", "s", "--type", "T", "--json")
    assert failure(result) == (5, "StreamDeleted")
    assert "stream 's' is closed for good" in json.loads(result.stderr)["message"]


def test_a_failed_condition_is_a_conflict_that_names_the_position(cli: Run) -> None:
    cli("append", "s", "--type", "T")
    result = cli("append", "s", "--type", "T", "--unless-type", "T", "--json")
    assert failure(result) == (5, "AppendConditionFailed")
    assert "the event at position 1 matches the append condition" in json.loads(result.stderr)["message"]


def test_an_error_printed_by_a_test_runner_leaves_its_signal_handler_alone() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_facts_of_an_error_are_fields_of_its_json(cli: Run, append: Callable[..., None]) -> None:
    append("s", NewEvent("A"))
    result = cli("append", "s", "--type", "B", "--expected", "3", "--json")
    assert result.exit_code == 5
    told = json.loads(result.stderr)
    assert (told["stream"], told["expected"], told["actual"]) == ("s", 3, 1)
