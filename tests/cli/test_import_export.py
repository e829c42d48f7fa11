from __future__ import annotations

import gzip
import json
import subprocess
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, Spawn, failure, rows

COLUMNS = ("--stream", "case", "--type", "activity")
EXACT = {"n": 2**80, "float": 1e16, "zero": -0.0, "text": "\u2028", "list": [None, True, {"a": []}]}


@pytest.fixture
def log(tmp_path: Path) -> str:
    """Three rows of two cases."""
    file = tmp_path / "log.csv"
    file.write_text("case,activity,at,n\nc1,Opened,2025-01-01,1\nc2,Opened,2025-01-02,2\nc1,Closed,2025-01-03,\n")
    return str(file)


def broken(file: str) -> str:
    with open(file, "ab") as stored:
        stored.write(b"c3\nc3,Op\xffned,,\nc3,Opened,,9\n")
    return file


def summary(run: Run, *args: str, **options: Any) -> dict[str, Any]:
    return rows(run("import", *args, "--json", **options))[-1]


def events(run: Run, *args: str) -> list[dict[str, Any]]:
    return rows(run("read", *args, "--json"))


# -- import


def test_columns_become_events(cli: Run, log: str) -> None:
    done = summary(cli, log, *COLUMNS, "--time", "at", "--tag", "n", "--metadata", "at", "--stream-prefix", "case-")
    assert (done["rows"], done["added"], done["known"], done["rejected"]) == (3, 3, 0, 0)
    event = events(cli)[0]
    assert (event["stream"], event["type"], event["tags"]) == ("case-c1", "Opened", ["n:1"])
    assert event["data"] == {"case": "c1", "activity": "Opened", "at": "2025-01-01", "n": "1"}
    assert (event["metadata"], event["created_at"]) == ({"at": "2025-01-01"}, "2025-01-01T00:00:00.000000Z")


def test_importing_again_adds_nothing_and_says_so(cli: Run, log: str) -> None:
    cli("import", log, *COLUMNS)
    again = cli("import", log, *COLUMNS)
    assert "3 rows: 0 events added, 3 already known, 0 rejected" in again.stdout
    assert "events/s" not in again.stdout


def test_data_may_be_chosen_columns_with_inferred_types(cli: Run, log: str) -> None:
    summary(cli, log, *COLUMNS, "--data", "n", "--infer-types")
    assert [event["data"] for event in events(cli)] == [{"n": 1}, {"n": 2}, {}]


def test_a_malformed_row_stops_with_file_line_and_reason(cli: Run, log: str) -> None:
    result = cli("import", broken(log), *COLUMNS, "--batch-size", "2", "--json")
    assert failure(result) == (2, "ImportFailed")
    assert f"{log}, line 5: 1 cells, but the header has 4. The 2 rows" in json.loads(result.stderr)["message"]
    assert len(events(cli)) == 2


def test_malformed_rows_can_be_skipped_into_a_file(cli: Run, log: str, tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.ndjson"
    done = summary(cli, broken(log), *COLUMNS, "--on-error", "skip", "--rejects", str(rejects))
    assert (done["rows"], done["added"], done["rejected"]) == (6, 4, 2)
    short, undecodable = (json.loads(line) for line in rejects.read_text().splitlines())
    assert (short["file"], short["line"], short["row"]) == (log, 5, "c3\n")
    assert (undecodable["line"], undecodable["reason"]) == (6, "invalid UTF-8")
    assert b64decode(undecodable["row_base64"]) == b"c3,Op\xffned,,\n"


def test_a_dry_run_shows_the_first_events_and_needs_no_database(plain: Run, log: str) -> None:
    *shown, counted = rows(plain("import", log, *COLUMNS, "--tag", "n", "--dry-run", "--json"))
    assert (shown[0]["line"], shown[0]["stream"], shown[0]["tags"]) == (2, "c1", ["n:1"])
    assert (len(shown), counted["rows"], counted["dry_run"]) == (3, 3, True)


def test_a_dry_run_stops_at_a_malformed_row_too(plain: Run, log: str) -> None:
    assert "line 5: 1 cells" in plain("import", broken(log), *COLUMNS, "--dry-run").stderr


def test_a_known_row_under_another_mapping_is_a_conflict_with_its_line(cli: Run, log: str) -> None:
    cli("import", log, *COLUMNS)
    result = cli("import", log, *COLUMNS, "--data", "n", "--json")
    assert failure(result) == (5, "DuplicateEventId")
    assert f"{log}, line " in result.stderr


def test_standard_input_is_read_with_a_format(spawn: Spawn, cli: Run) -> None:
    process = spawn("import", "-", "--format", "ndjson", *COLUMNS, "--json", stdin=subprocess.PIPE)
    out, _ = process.communicate('{"case": 1, "activity": "Opened"}\n', timeout=120)
    assert json.loads(out)["added"] == 1
    assert events(cli)[0]["data"] == {"case": 1, "activity": "Opened"}


def test_standard_input_has_no_name_that_could_tell_its_format(plain: Run) -> None:
    assert "cannot tell the format of standard input; give --format" in plain("import", "-", *COLUMNS).stderr


def test_a_column_that_no_ndjson_row_has_is_told(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "log.ndjson"
    file.write_text('{"case": "c1", "activity": "Opened"}\n')
    result = cli("import", str(file), *COLUMNS, "--tag", "grup")
    assert "no row has a column 'grup'" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--stream", "case"), "--stream and --type"),
        (("--exported", "--stream", "case"), "--exported takes every field"),
        ((*COLUMNS, "--on-error", "skip"), "belong together"),
        ((*COLUMNS, "--rejects", "r"), "belong together"),
        ((*COLUMNS, "--delimiter", ";;"), "one character"),
        ((*COLUMNS, "--on-error", "skip", "--rejects", "log.csv"), "the file to import itself"),
        ((*COLUMNS, "--time", "when"), "there is no column 'when'"),
        (("--exported",), "not for CSV"),
    ],
)
def test_unusable_options_are_refused(
    plain: Run, log: str, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(Path(log).parent)
    result = plain("import", "log.csv", *args, "--dry-run")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


# -- export


def test_an_export_imports_into_another_schema_without_loss(
    cli: Run, append: Callable[..., None], tmp_path: Path
) -> None:
    for number, stream in enumerate(("a", "b", "a")):
        append(stream, NewEvent("T", {**EXACT, "i": number}, {"m": 2**70}, tags=["x", 'y"\\']))
    file = str(tmp_path / "all.ndjson.gz")
    assert rows(cli("export", file, "--json"))[0]["events"] == 3
    cli("migrate", "--schema", "copy")
    assert summary(cli, file, "--exported", "--schema", "copy")["added"] == 3
    left, right = (
        [{**event, "recorded_at": None} for event in events(cli, "--schema", schema)]
        for schema in ("eventstore", "copy")
    )
    assert repr(left) == repr(right)
    assert summary(cli, file, "--exported")["known"] == 3


def test_events_without_a_stream_stay_without_one_in_their_order(
    cli: Run, append: Callable[..., None], tmp_path: Path
) -> None:
    for number, stream in enumerate((None, "a", None, "b", "a", None)):
        append(stream, NewEvent("T", number, tags=["x"]))
    file = str(tmp_path / "all.ndjson")
    cli("export", file)
    cli("migrate", "--schema", "copy")
    assert summary(cli, file, "--exported", "--schema", "copy", "--batch-size", "4")["added"] == 6
    copied = [(one["data"], one["stream"], one["version"]) for one in events(cli, "--schema", "copy")]
    assert copied == [(0, None, None), (1, "a", 1), (2, None, None), (3, "b", 1), (4, "a", 2), (5, None, None)]
    assert summary(cli, file, "--exported", "--schema", "copy")["known"] == 6


def test_a_dry_run_shows_that_an_event_has_no_stream(cli: Run, append: Callable[..., None], tmp_path: Path) -> None:
    append(None, NewEvent("T"))
    file = str(tmp_path / "all.ndjson")
    cli("export", file)
    shown, _ = rows(cli("import", file, "--exported", "--dry-run", "--json"))
    assert (shown["type"], shown["stream"]) == ("T", None)


def test_a_row_for_a_stream_closed_for_good_stops_with_its_line(cli: Run, log: str) -> None:
    cli("stream", "tombstone", "c2", "--yes")
    result = cli("import", log, *COLUMNS, "--batch-size", "1", "--json")
    assert failure(result) == (2, "ImportFailed")
    message = json.loads(result.stderr)["message"]
    assert f"{log}, line 3: stream 'c2' is closed for good by a tombstone. The 1 rows before" in message
    assert [event["stream"] for event in events(cli)] == ["c1"]


def test_selectors_and_bounds_choose_what_is_exported(cli: Run, append: Callable[..., None], tmp_path: Path) -> None:
    for number in range(6):
        append(f"s{number % 2}", NewEvent("T", number))
    file = tmp_path / "some.ndjson"
    done = rows(cli("export", str(file), "--stream", "s0", "--after", "1", "--before", "6", "--json"))[0]
    assert [json.loads(line)["data"] for line in file.read_text().splitlines()] == [2, 4]
    assert (done["events"], done["horizon"]) == (2, 6)


def test_standard_output_gets_events_only(cli: Run, append: Callable[..., None]) -> None:
    append("s", NewEvent("T"))
    result = cli("export", "-")
    assert len(rows(result)) == 1
    assert "1 events written" in result.stderr


def test_a_failed_export_leaves_what_was_there_and_nothing_else(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "all.ndjson"
    file.write_text("before")
    assert cli("export", str(file), "--schema", "missing").exit_code == 4
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("all.ndjson", "before")]


def test_an_export_that_breaks_off_midway_leaves_nothing(
    cli: Run, append: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eventstore.cli import exporting

    def fail(_row: Any) -> str:
        raise OSError("the disk is full")

    append("s", NewEvent("T"))
    monkeypatch.setattr(exporting, "json_line", fail)
    assert cli("export", str(tmp_path / "all.ndjson")).exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_the_same_log_exports_to_the_same_bytes(cli: Run, append: Callable[..., None], tmp_path: Path) -> None:
    append("s", NewEvent("T"))
    files = [tmp_path / name for name in ("a.ndjson.gz", "b.ndjson.gz")]
    for file in files:
        cli("export", str(file))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert gzip.decompress(files[0].read_bytes()).endswith(b"}\n")


def test_a_directory_that_is_missing_is_refused(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "all.ndjson"
    result = cli("export", str(file))
    assert result.exit_code == 2
    assert result.stderr == f"ConfigurationError: cannot write {file}: No such file or directory\n"
