"""A primary and a standby of it, which can be killed and promoted."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psycopg

from eventstore.embedded import find_binaries
from eventstore.schema import migrate
from tests.conftest import _shared_memory

__all__ = ["Cluster", "Pair", "durable", "pair", "template"]

SETTINGS = {"listen_addresses": "", "fsync": "off", "max_connections": "60", "shared_buffers": "16MB",
            "wal_level": "replica", "hot_standby": "on", "wal_receiver_status_interval": "100ms"}  # fmt: skip
QUIET: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}


def is_alive(pid: str) -> bool:
    """Whether there is such a process that has not ended yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def as_server(*command: str | Path) -> list[str]:
    """The command, run as somebody whom Postgres does not refuse."""
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"] if os.geteuid() == 0 else []
    return [*nobody, *map(str, command)]


class Cluster:
    """One server; its data and its socket are in one directory.

    Args:
        settings: beside, or instead of, those of all.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory, self._settings = directory, SETTINGS | settings
        self.data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.directory}&port=5432"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = as_server(find_binaries() / "postgres", "-D", self.data, "-k", self.directory, *options)
        with (self.directory / "log").open("ab") as log:
            output: Any = {**QUIET, "stdout": log}
            self._process = subprocess.Popen(command, start_new_session=True, cwd=self.directory, **output)
        self.until("select true")

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            assert self._process.wait() == 0

    def kill(self) -> None:
        """End every process of it without a word."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGSTOP)  # so that it has no more children; each is a session of its own
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(map(is_alive, children)):
            time.sleep(0.001)

    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def until(self, question: str) -> None:
        """Wait until the answer is true."""
        deadline = time.monotonic() + 120
        while True:
            try:
                if self.execute(question)[0][0]:
                    return
            except psycopg.OperationalError:
                running = self._process is not None and self._process.poll() is None
                assert running, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, question
            time.sleep(0.01)

    def promote(self) -> None:
        """Make the standby a primary; returns once it takes writes."""
        self.execute("select pg_promote(true, 120)")


class Pair:
    """A primary and a standby.

    Attributes:
        dsn: of whichever of both takes writes.
    """

    def __init__(self, primary: Cluster, standby: Cluster) -> None:
        self.primary, self.standby = primary, standby
        hosts = f"{primary.directory},{standby.directory}"
        self.dsn = f"postgresql://postgres@/postgres?host={hosts}&port=5432,5432&target_session_attrs=read-write"

    def wait_for_each_other(self) -> None:
        """Replicate synchronously: a commit is acknowledged once the standby has it."""
        self.primary.execute("alter system set synchronous_standby_names = '*'")
        self.primary.execute("select pg_reload_conf()")
        self.primary.until("select count(*) > 0 from pg_stat_replication where sync_state = 'sync'")

    def part(self) -> None:
        """Let the standby have all there is, then nothing more."""
        (end,) = self.primary.execute("select pg_current_wal_flush_lsn()::text")[0]
        self.standby.until(f"select pg_last_wal_replay_lsn() >= '{end}'")
        self.standby.execute("alter system set primary_conninfo = ''")
        self.standby.execute("select pg_reload_conf()")
        self.primary.until("select count(*) = 0 from pg_stat_replication")


@contextmanager
def template() -> Iterator[Path]:
    """Make what pairs are copies of: the data of a server that has a migrated schema and is stopped."""
    root = made_for_server(Path(mkdtemp(prefix="template-", dir=_shared_memory())))
    try:
        origin = Cluster(made_for_server(root / "origin"))
        run(find_binaries() / "initdb", "-D", origin.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
            "--no-instructions", cwd=root)  # fmt: skip
        origin.start()
        try:
            migrate(origin.dsn)
            origin.stop()
        finally:
            origin.kill()
        yield origin.data
    finally:
        shutil.rmtree(root)


@contextmanager
def durable(data: Path, **settings: str) -> Iterator[Cluster]:
    """Start a copy of *data* on a disk, which unless *settings* say otherwise loses nothing that it committed."""
    root = made_for_server(Path(mkdtemp(prefix="durable-")))
    server = Cluster(root, **{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"} | settings)
    try:
        run("cp", "-a", data, server.data, cwd=root)
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(root)


@contextmanager
def pair(data: Path) -> Iterator[Pair]:
    """Start a copy of *data*, and another one that is its standby."""
    root = made_for_server(Path(mkdtemp(prefix="pair-", dir=_shared_memory())))
    primary, standby = (Cluster(made_for_server(root / name)) for name in "ab")
    try:
        for one in (primary, standby):
            run("cp", "-a", data, one.data, cwd=root)
        with (standby.data / "postgresql.conf").open("a") as config:
            config.write(f"\nprimary_conninfo = 'host={primary.directory} port=5432 user=postgres'\n")
        run("touch", standby.data / "standby.signal", cwd=root)
        primary.start()
        standby.start()
        yield Pair(primary, standby)
    finally:
        primary.kill()
        standby.kill()
        shutil.rmtree(root)


def made_for_server(directory: Path) -> Path:
    """Make a directory that the server may use."""
    directory.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return directory


def run(*command: str | Path, cwd: Path) -> None:
    """Run it as the server's user; it must succeed."""
    done = subprocess.run(as_server(*command), capture_output=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr.decode()
