"""`top`: the picture fits, escapes what others wrote, and goes on when the database goes away."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from rich.cells import cell_len

from eventstore import NewEvent
from eventstore.cli.frame import BLOCKS, Look, frame, plain, sparkline, styled
from eventstore.reports.horizon import Blocker
from eventstore.reports.overview import Failure, LogHead, NodeState, Overview, Waiting
from tests.cli.conftest import Run, Spawn, interrupted, line_with, rows

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HEAD = LogHead(1_000, 1_012, 1_000, 50, False, 2.0, 25.0, None, 0.0)
EMPTY = Overview(NOW, HEAD, {}, [], 0, 0, [], 0, 0, [])


def full(name: str = "n", count: int = 50) -> Overview:
    """An overview with every list as long as it can be."""
    waiting = [Waiting(f"{name}{number}", "behind", 10**9, 90_000.0) for number in range(5)]
    nodes = [NodeState(uuid4(), f"{name}{number}", number > 0, NOW, NOW, 10, 20) for number in range(count)]
    failures = [Failure(NOW, "parked", f"{name}{n}", 0, 10**9, "ValueError", "wrong " * 80) for n in range(10)]
    states = {"active": 9_000, "paused": 100, "halted": 200, "unowned": 300, "behind": 400}
    return replace(EMPTY, subscriptions=states, waiting=waiting, parked=3, parked_subscriptions=2, nodes=nodes,
                   nodes_alive=count - 1, nodes_total=count, failures=failures)  # fmt: skip


def drawn(seen: Overview, width: int = 80, height: int = 24, **given: Any) -> list[str]:
    look = Look(**{"place": "eventstore in here", "overview": seen, "rates": [], "problem": None, "since": NOW} | given)
    return plain(frame(look, width, height)).split("\n")


# -- the picture


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 3), (1, 1), (200, 60)])
@pytest.mark.parametrize("name", ["n", "名前" * 60, "x" * 300])
def test_it_fits_the_terminal_whatever_there_is(width: int, height: int, name: str) -> None:
    lines = drawn(full(name), width, height, rates=[1.0] * 1000, problem="gone " * 50)
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


def test_on_a_usual_terminal_each_list_has_rows() -> None:
    text = "\n".join(drawn(full()))
    assert all(title in text for title in ("FURTHEST BEHIND", "NODES  49 of 50 alive", "LATEST ERRORS"))
    assert "NODES  49 of 50 alive  47 more below" in text
    assert text.count("ValueError: wrong") == 3
    assert "3 events of 2 subscriptions" in text


def test_a_large_terminal_shows_all_of_it() -> None:
    text = "\n".join(drawn(full(count=20), 120, 60))
    assert "more below" not in text
    assert all(f"n{number} " in text for number in range(20))


def test_of_an_empty_log_there_are_no_lists() -> None:
    assert drawn(EMPTY)[0] == "eventstore in here  2026-01-02 03:04:05Z"
    assert drawn(EMPTY)[1:] == ["events/s      25.0", "horizon       1,000  nothing holds it", "subscriptions 0"]


def test_who_holds_the_horizon_stands_beside_it() -> None:
    blocker = Blocker(1_000, 7, None, "ada", "psql", None, "idle", 75.0, "then", None, None, True, None)
    held = drawn(replace(EMPTY, log=replace(HEAD, holder=blocker, held_for=75.0)), 200)[2]
    assert held.startswith("horizon       1,000  12 positions held back for 1 min by pid 7, psql, user ada")
    unseen = drawn(replace(EMPTY, log=replace(HEAD, holder=replace(blocker, seconds=None), held_for=None)), 200)[2]
    assert "12 positions held back by pid 7" in unseen


def test_a_long_place_is_cut_rather_than_the_time() -> None:
    (line, *_) = drawn(EMPTY, 40, place="eventstore in db.internal.example:5432/shop")
    assert line == "eventstore in db.…  2026-01-02 03:04:05Z"


def test_errors_that_are_alike_say_how_many() -> None:
    alike = replace(full(count=1), failures=[Failure(NOW, "parked", "s", 0, 7, "ValueError", "no", 12)])
    assert "parked position 7 and 11 more" in "\n".join(drawn(alike))


def test_a_rate_that_is_a_lower_bound_says_so() -> None:
    assert drawn(replace(EMPTY, log=replace(HEAD, at_least=True)))[1] == "events/s      at least 25.0"
    assert drawn(replace(EMPTY, log=replace(HEAD, per_second=None)))[1] == "events/s      -"


def test_what_others_wrote_commands_no_terminal_and_is_no_markup() -> None:
    evil = "[bold]\x1b[2J\u202e\n[/]"
    seen = full(evil, 1)
    seen = replace(seen, failures=[replace(seen.failures[0], message=evil, error="E\x07", subscription=evil)])
    shown = styled(frame(Look("p", seen, [], evil, NOW), 300, 40)).plain
    assert shown.replace("\n", "").isprintable()
    assert r"[bold]\x1b[2J\u202e\n[/]" in shown


def test_a_sparkline_rises_to_its_highest_value() -> None:
    assert sparkline([0, 1, 2, 4, 7], 5) == "▁▂▃▅█"
    assert sparkline([9, 0, 0], 2) == "▁▁"
    assert sparkline([5.0], 9) == BLOCKS[-1]
    assert sparkline([1, 2], 0) == sparkline([], 5) == ""


# -- the command


def test_once_prints_one_look_with_its_rate(cli: Run, append: Callable[..., None]) -> None:
    append("s", NewEvent(type="A"))
    lines = cli("top", "--once", "--interval", "0.1").stdout.splitlines()
    assert "://" not in lines[0]
    assert lines[0].startswith("eventstore in ")
    assert lines[1:3] == ["events/s      0.0  ▁▁", "horizon       1  nothing holds it"]


@pytest.mark.parametrize("interval", ["nan", "0", "inf"])
def test_an_interval_is_a_number(plain: Run, interval: str) -> None:
    assert plain("top", "--interval", interval).exit_code == 2


def test_where_there_is_no_terminal_it_is_printed_once(cli: Run) -> None:
    assert cli("top", "--interval", "0.1").stdout.count("events/s") == 1


def test_json_once_is_one_object(cli: Run) -> None:
    (one,) = rows(cli("top", "--json", "--once", "--interval", "0.1"))
    assert (one["log"]["events"], one["subscriptions"], "problem" in one) == (0, {}, False)


def test_a_password_is_not_shown(plain: Run, db: str) -> None:
    dsn = db.replace("postgres@", "postgres:secret@")
    assert "secret" not in plain("--dsn", dsn, "top", "--once", "--interval", "0.1").stdout


def test_json_is_a_line_a_look_until_ctrl_c(spawn: Spawn, append: Callable[..., None]) -> None:
    process = spawn("top", "--json", "--interval", "0.1")
    assert json.loads(line_with(process.stdout, "{"))["log"]["per_second"] is None
    append("s", NewEvent(type="A"))
    assert json.loads(line_with(process.stdout, '"events":1'))["log"]["horizon"] == 1
    assert interrupted(process) == (130, "")


def test_it_goes_on_when_the_database_goes_away_and_comes_back(spawn: Spawn, db: str, pg: Any) -> None:
    process = spawn("top", "--json", "--interval", "0.1")
    line_with(process.stdout, "{")
    with psycopg.connect(db.replace(f"/{pg.dbname}?", "/postgres?"), autocommit=True) as admin:
        rename(admin, pg.dbname, f"{pg.dbname}_away")
        assert json.loads(line_with(process.stdout, '"problem":'))["log"]["horizon"] == 0
        rename(admin, f"{pg.dbname}_away", pg.dbname)
    assert any('"problem":' not in line for line in process.stdout or ())
    assert interrupted(process)[0] == 130


def rename(admin: psycopg.Connection[Any], old: str, new: str) -> None:
    """Rename a database, ending who is connected to it until nobody is."""
    while True:
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [old])
        try:
            admin.execute(f'alter database "{old}" rename to "{new}"'.encode())
        except psycopg.errors.ObjectInUse:
            continue
        return


def test_a_database_that_is_not_there_is_an_error(plain: Run) -> None:
    assert plain("--dsn", "postgresql://nobody@127.0.0.1:1/none", "top", "--once").exit_code == 3


class Terminal:
    """`top` on a terminal of its own, of 80 columns and 24 lines."""

    def __init__(self, spawn: Spawn, term: str = "xterm") -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.process = spawn("top", "--interval", "0.1", stdin=theirs, stdout=theirs, env={"TERM": term})

    def wait_for(self, text: str) -> str:
        seen = ""
        while text not in seen:
            seen += os.read(self._ours, 65536).decode(errors="replace")
        return seen

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def ended(self) -> int:
        """The exit code; what is still written is read meanwhile, or the process could not end."""
        while self.process.poll() is None:
            os.set_blocking(self._ours, False)
            try:
                os.read(self._ours, 65536)
            except BlockingIOError:
                continue
        return int(self.process.returncode)

    def restored(self) -> bool:
        return termios.tcgetattr(self._theirs)[3] == self.before[3]

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


def test_on_a_terminal_q_ends_it_and_gives_the_terminal_back(spawn: Spawn) -> None:
    terminal = Terminal(spawn)
    terminal.wait_for("nothing holds it")
    terminal.press("q")
    assert terminal.ended() == 0
    assert terminal.restored()
    terminal.close()


def test_on_a_terminal_ctrl_c_ends_it_as_other_live_commands(spawn: Spawn) -> None:
    terminal = Terminal(spawn)
    terminal.wait_for("nothing holds it")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 130
    assert terminal.restored()
    terminal.close()


def test_on_a_terminal_that_cannot_be_drawn_on_it_is_printed_once(spawn: Spawn) -> None:
    terminal = Terminal(spawn, "dumb")
    terminal.wait_for("nothing holds it")
    assert terminal.ended() == 0
    terminal.close()


def test_help_does_not_need_the_database(spawn_plain: Spawn) -> None:
    process: subprocess.Popen[str] = spawn_plain("top", "--help")
    assert "until q or Ctrl-C" in process.communicate(timeout=120)[0]
