"""The embedded server from the command line: `dev`, and commands that find it by themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from eventstore.cli.session import Session
from tests.cli.conftest import Run, Spawn, failure, interrupted, rows

pytest.importorskip("fcntl")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def dev(spawn_plain: Spawn, data_dir: Path) -> subprocess.Popen[str]:
    return spawn_plain("dev", "--json", "--data-dir", str(data_dir))


def answers(dsn: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(dsn):
        return True
    return False


def is_stopped(data_dir: Path) -> bool:
    return not (data_dir / "postmaster.pid").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_dev_serves_until_it_is_asked_to_stop(
    dev: subprocess.Popen[str], plain: Run, data_dir: Path, number: int, code: int
) -> None:
    assert dev.stdout
    announced = json.loads(dev.stdout.readline())
    assert (announced["schema"], announced["data_dir"]) == ("eventstore", str(data_dir))
    assert rows(plain("append", "s", "--type", "T", "--json", "--dsn", announced["dsn"]))[0]["version"] == 1
    assert interrupted(dev, number) == (code, "")
    assert is_stopped(data_dir)


def test_a_killed_supervisor_is_replaced_under_the_same_dsn(dev: subprocess.Popen[str], data_dir: Path) -> None:
    assert dev.stdout
    dsn = json.loads(dev.stdout.readline())["dsn"]
    lock = data_dir / "eventstore" / "supervisor"
    killed = lock.read_text()
    os.kill(int(killed), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while lock.read_text() in ("", killed) or not answers(dsn):
        assert time.monotonic() < deadline, "did not come back"
        time.sleep(0.01)
    assert interrupted(dev) == (130, "")
    assert is_stopped(data_dir)


def test_without_a_dsn_commands_use_the_embedded_server_and_leave_nothing_running(plain: Run, data_dir: Path) -> None:
    assert plain("append", "s", "--type", "T", "--data-dir", str(data_dir)).exit_code == 0
    assert [one["type"] for one in rows(plain("read", "--json", "--data-dir", str(data_dir)))] == ["T"]
    assert is_stopped(data_dir)


def test_migrate_without_a_dsn_migrates_the_embedded_server(plain: Run, data_dir: Path) -> None:
    migrated = rows(plain("migrate", "--json", "--schema", "mine", env={"EVENTSTORE_DATA_DIR": str(data_dir)}))
    assert migrated[0]["schema"] == "mine"
    assert is_stopped(data_dir)


def test_dev_refuses_a_dsn_on_the_command_line(plain: Run) -> None:
    assert failure(plain("dev", "--json", "--dsn", "postgresql://x/y")) == (2, "UsageError")


def test_a_dsn_in_the_environment_does_not_concern_dev(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("EVENTSTORE_DSN", "postgresql://x/y")
    monkeypatch.setenv("EVENTSTORE_DATA_DIR", str(data_dir))
    assert Session().embedded().data_dir == data_dir


def test_a_directory_that_holds_something_else_is_refused(plain: Run, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    assert failure(plain("read", "--json", "--data-dir", str(tmp_path))) == (2, "ConfigurationError")
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]
