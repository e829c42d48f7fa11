"""Real processes: signals, pipes, and what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, Spawn, ended, interrupted, line_with

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")

APP = """
import asyncio

from eventstore import All, EventStore

store = EventStore()

@store.handler("audit", All())
async def audit(event, delivery):
    print("handled", event.position, flush=True)

def make():
    return store

def picky(argument):
    return store

def wrong():
    return 7

slow = EventStore()

@slow.handler("slow", All())
async def handle_slowly(event, delivery):
    print("began", event.position, flush=True)
    try:
        await asyncio.sleep(event.data)
        print("ended", event.position, flush=True)
    except asyncio.CancelledError:
        print("cancelled", event.position, flush=True)
        raise

bare = EventStore()

undeclared = EventStore()

@undeclared.handler("it's")
async def never(event, delivery):
    pass

nowhere = EventStore("postgresql://x@/db?host=/nowhere")
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import not_there")
    (tmp_path / "unreadable.py").write_text("def (")
    (tmp_path / "failing.py").write_text("1 / 0")
    return tmp_path


@pytest.fixture
def work(spawn: Spawn, app: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `work` in the application's directory."""
    here = str(Path(__file__).parents[2])
    return lambda name, *args: spawn("work", "--app", name, *args, cwd=app, env={"PYTHONPATH": here})


@pytest.fixture
def work_here(plain: Run, db: str, app: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `work` in the application's directory, inside this process: for applications that do not get to run."""
    monkeypatch.chdir(app)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield lambda name: plain("work", "--app", name, env={"EVENTSTORE_DSN": db})
    for name in {path.stem for path in app.iterdir()} - before:
        sys.modules.pop(name, None)


def test_tail_prints_history_and_then_what_comes(spawn: Spawn, append: Callable[..., None]) -> None:
    append("s", NewEvent("T", 1))
    tail = spawn("tail", "--after", "0", "--json")
    assert json.loads(tail.stdout.readline())["data"] == 1
    append("s", NewEvent("T", 2))
    assert json.loads(tail.stdout.readline())["data"] == 2
    assert interrupted(tail) == (130, "")


def test_tail_begins_with_what_is_appended_from_now_on(spawn: Spawn, append: Callable[..., None]) -> None:
    append("s", NewEvent("T", "old"))
    tail = spawn("tail", "-v", "--limit", "1")
    line_with(tail.stderr, "following the log")
    append("s", NewEvent("T", "new"))
    code, stdout, _ = ended(tail)
    assert (code, stdout.endswith('"new"\n') or stdout.endswith("new\n")) == (0, True)


def test_tail_wants_only_what_its_selector_matches(spawn: Spawn, append: Callable[..., None]) -> None:
    append("s", NewEvent("A"), NewEvent("B"), NewEvent("A"))
    code, stdout, _ = ended(spawn("tail", "--after", "0", "--type", "A", "--limit", "2", "--json"))
    assert (code, [json.loads(line)["type"] for line in stdout.splitlines()]) == (0, ["A", "A"])


def test_sigterm_ends_tail_without_a_word(spawn: Spawn) -> None:
    tail = spawn("tail", "-v")
    line_with(tail.stderr, "following the log")
    assert interrupted(tail, signal.SIGTERM) == (143, "")


def test_ctrl_c_while_waiting_for_stdin_appends_nothing(spawn: Spawn, cli: Run) -> None:
    process = spawn("append", "s", stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write('{"type": "T"}\n')
    process.stdin.flush()
    # More than a pipe holds: once it is written, the process has begun to read.
    process.stdin.write("\n" * 200_000)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert cli("read").output == ""


def test_a_reader_that_leaves_ends_read_quietly(spawn: Spawn, append: Callable[..., None]) -> None:
    append("s", *[NewEvent("T", "x" * 1000) for _ in range(1000)])
    read = spawn("read", "--json")
    assert read.stdout.readline()
    read.stdout.close()
    assert (read.wait(120), read.stderr.read()) == (0, "")


def test_results_go_to_stdout_and_errors_to_stderr(spawn: Spawn) -> None:
    code, stdout, stderr = ended(spawn("append", "s", "--type", "T", "--json"))
    assert (code, json.loads(stdout)["version"], stderr) == (0, 1, "")
    code, stdout, stderr = ended(spawn("read", "nobody", "--json"))
    assert (code, stdout, json.loads(stderr)["error"]) == (6, "", "StreamNotFound")


def test_bytes_that_are_no_text_are_refused_as_a_name(spawn: Spawn) -> None:
    code, stdout, stderr = ended(spawn("read", b"\xff"))
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith("InvalidEvent: ")


def shell(redirection: str, *args: str, **environment: str) -> tuple[int, str, str]:
    """Run a command with its standard streams redirected as a shell does."""
    words = shlex.join([sys.executable, "-m", "eventstore.cli", *args])
    done = subprocess.run(
        f"{words} {redirection}", shell=True, text=True, capture_output=True, timeout=120, env=os.environ | environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "args", "code", "says"),
    [
        ("<&-", ("append", "s"), 2, "nothing to append"),
        ("<&-", ("import", "-", "--format", "csv", "--stream", "a", "--type", "b"), 2, "there is no header"),
        ("<&-", ("subscription", "delete", "nobody"), 1, "[y/N] \nError: not confirmed"),
        (">&-", ("append", "s", "--type", "T"), 0, ""),
        ("2>&-", ("read", "nobody"), 6, ""),
        ("<&- >&- 2>&-", ("append", "s", "--type", "T"), 0, ""),
    ],
)
def test_closed_standard_streams_are_empty_ones(
    db: str, cli: Run, redirection: str, args: tuple[str, ...], code: int, says: str
) -> None:
    cli("migrate")
    returned, _, stderr = shell(redirection, *args, EVENTSTORE_DSN=db)
    assert (returned, "Traceback" in stderr) == (code, False), stderr
    assert says in stderr


@needs_full
@pytest.mark.parametrize("args", [("streams",), ("export", "-")], ids=" ".join)
def test_a_full_disk_under_standard_output_has_a_name(
    db: str, append: Callable[..., None], args: tuple[str, ...]
) -> None:
    append("s", NewEvent("T"))
    code, _, stderr = shell(">/dev/full", *args, EVENTSTORE_DSN=db)
    assert (code, stderr) == (1, "OutputFailed: cannot write standard output: No space left on device\n")


@needs_full
def test_a_full_disk_under_a_file_is_told_with_the_name_of_the_file(
    cli: Run, append: Callable[..., None], tmp_path: Path
) -> None:
    append("s", NewEvent("T"))
    result = cli("export", "/dev/full")
    assert (result.exit_code, result.stderr) == (1, "OutputFailed: cannot write /dev/full: No space left on device\n")
    (tmp_path / "log.csv").write_text("case,activity\nc1\n")
    columns = ("--stream", "case", "--type", "activity", "--on-error", "skip", "--rejects", "/dev/full")
    result = cli("import", str(tmp_path / "log.csv"), *columns)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "OutputFailed: cannot write /dev/full: No space left on device\n"


def test_ctrl_c_before_the_command_line_is_loaded_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    assert shell("", "--version", PYTHONPATH=str(tmp_path)) == (130, "", "")


def test_json_is_utf_8_whatever_the_locale_says(spawn: Spawn, append: Callable[..., None]) -> None:
    append("größe", NewEvent("T"))
    code, stdout, _ = ended(spawn("streams", "--json", env={"PYTHONIOENCODING": "ascii"}))
    assert (code, json.loads(stdout)["stream"]) == (0, "größe")


@pytest.mark.parametrize("name", ["shop:store", "shop:make"])
def test_work_runs_the_handlers_until_sigterm(work: Spawn, append: Callable[..., None], name: str) -> None:
    append("s", NewEvent("T"))
    worker = work(name, "-v")
    assert worker.stdout.readline() == "handled 1\n"
    code, stderr = interrupted(worker, signal.SIGTERM)
    assert code == 0
    assert "INFO claimed audit, partition 0, epoch 1" in stderr
    assert "Traceback" not in stderr


def test_ctrl_c_ends_work_without_a_traceback(work: Spawn, append: Callable[..., None]) -> None:
    append("s", NewEvent("T"))
    worker = work("shop:store")
    worker.stdout.readline()
    code, stderr = interrupted(worker)
    assert (code, stderr.count("\n")) == (130, 1)


def test_work_says_at_start_who_runs_what_where(work: Spawn, cli: Run) -> None:
    assert cli("subscription", "create", "lines", "--sink", "stdout").exit_code == 0
    worker = work("shop:store")
    line = worker.stderr.readline()
    assert re.fullmatch(r"node \S+: 1 handler and 1 sink, on postgresql://\S+, schema eventstore\n", line)
    assert interrupted(worker, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("shop", 2, "must look like module:store"),
        ("missing:store", 2, "cannot import missing: No module named 'missing'"),
        ("broken:store", 2, "cannot import broken: No module named 'not_there'"),
        ("unreadable:store", 2, "--app unreadable:store: cannot import unreadable: SyntaxError: "),
        ("failing:store", 2, "--app failing:store: cannot import failing: ZeroDivisionError: division by zero"),
        ("shop:missing", 2, "has no attribute 'missing'"),
        ("shop:wrong", 2, "is no EventStore but int"),
        ("shop:APP", 2, "has no attribute 'APP'"),
        ("shop:picky", 2, "a factory is called without arguments: missing a required argument: 'argument'"),
        (
            "shop:undeclared",
            6,
            """there is a handler for subscription "it's", which is not stored: give @store.handler a selector too, """
            """or run `eventstore subscription create 'it'"'"'s'`""",
        ),
        ("shop:nowhere", 3, "DatabaseUnavailable: "),
    ],
)
def test_work_says_what_is_wrong_with_the_application(work_here: Run, name: str, code: int, says: str) -> None:
    result = work_here(name)
    assert (result.exit_code, "Traceback" in result.stderr) == (code, False)
    assert says in " ".join(result.stderr.split())


def test_a_process_says_what_is_wrong_with_its_application(work: Spawn) -> None:
    code, _, stderr = ended(work("broken:store"))
    assert (code, "Traceback" in stderr) == (2, False)
    assert "cannot import broken: No module named 'not_there'" in " ".join(stderr.split())


def test_debug_shows_where_the_application_failed(work: Spawn) -> None:
    code, _, stderr = ended(work("failing:store", "--debug"))
    assert (code, "Traceback" in stderr, 'failing.py", line 1' in stderr) == (2, True, True)


def test_work_refuses_a_dsn_for_a_store_that_has_its_own(work: Spawn, db: str) -> None:
    code, _, stderr = ended(work("shop:nowhere", "--dsn", db))
    assert (code, "names its own database" in stderr) == (2, True)


def test_a_schema_given_to_work_is_the_store_s(work: Spawn) -> None:
    code, _, stderr = ended(work("shop:store", "--schema", "elsewhere"))
    assert (code, stderr.startswith("MigrationRequired: schema 'elsewhere'")) == (4, True)


# -- how work ends


def signalled(process: subprocess.Popen[str], *numbers: int) -> tuple[int, str]:
    """Send signals, the later ones once draining is said; return the exit code and what was printed since."""
    first, *more = numbers
    process.send_signal(first)
    for number in more:
        line_with(process.stderr, "SIGTERM: draining")
        process.send_signal(number)
    code, stdout, stderr = ended(process)
    assert "Traceback" not in stderr
    return code, stdout


@pytest.fixture
def slowly(work: Spawn, append: Callable[..., None]) -> Callable[..., subprocess.Popen[str]]:
    """Start `work` and wait until its handler has an event in hand for so many seconds."""

    def start(seconds: float, *args: str) -> subprocess.Popen[str]:
        append("s", NewEvent("T", seconds))
        process = work("shop:slow", "-v", *args)
        assert process.stdout.readline() == "began 1\n"
        return process

    return start


def test_sigterm_lets_a_handler_finish(slowly: Callable[..., subprocess.Popen[str]], cli: Run) -> None:
    assert signalled(slowly(0.5), signal.SIGTERM) == (0, "ended 1\n")
    assert json.loads(cli("subscription", "show", "slow", "--json").stdout)["settled"] == 1


def test_handlers_get_the_grace_that_was_given(slowly: Callable[..., subprocess.Popen[str]], cli: Run) -> None:
    assert signalled(slowly(60, "--grace", "0.2"), signal.SIGTERM) == (0, "cancelled 1\n")
    assert json.loads(cli("subscription", "show", "slow", "--json").stdout)["settled"] == 0


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(
    slowly: Callable[..., subprocess.Popen[str]], cli: Run, second: int, code: int
) -> None:
    assert signalled(slowly(60), signal.SIGTERM, second) == (code, "cancelled 1\n")
    (shown,) = (json.loads(line) for line in cli("subscription", "show", "slow", "--json").stdout.splitlines())
    assert (shown["settled"], shown["owners"]) == (0, [])


def test_without_an_application_sinks_are_delivered_to(spawn: Spawn, cli: Run, append: Callable[..., None]) -> None:
    append("s", NewEvent("T", 7))
    assert cli("subscription", "create", "lines", "--sink", "stdout").exit_code == 0
    worker = spawn("work", "-v")
    assert json.loads(worker.stdout.readline())["data"] == 7
    code, stderr = interrupted(worker, signal.SIGTERM)
    assert (code, "delivering to the sinks of lines" in stderr, "only sinks" in stderr) == (0, True, True)


def test_a_worker_with_nothing_to_deliver_to_says_what_to_do(work: Spawn, spawn: Spawn) -> None:
    alone, bare = spawn("work"), work("shop:bare")
    line_with(alone.stderr, "no subscription has a sink yet: `eventstore subscription create NAME --sink TARGET`")
    line_with(bare.stderr, "no handler is registered")
    for process in (alone, bare):
        assert interrupted(process, signal.SIGTERM)[0] in (0, 143)


def test_a_grace_that_is_none_is_refused(spawn_plain: Spawn) -> None:
    code, _, stderr = ended(spawn_plain("work", "--grace", "0"))
    assert (code, "--grace" in stderr) == (2, True)
