"""A real PgBouncer in front of the tests' server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

__all__ = ["POOL", "PgBouncer", "pgbouncer"]

POOL = 10
"""Connections to a database that one has, unless it is told otherwise."""

CONFIG = """
[databases]
* = host={host} port={port} user=postgres

[pgbouncer]
listen_addr =
unix_socket_dir = {directory}
listen_port = 6432
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
admin_users = postgres
server_login_retry = 0.1
logfile = {directory}/log
pidfile = {directory}/pid
"""


AS_NOBODY = (
    "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override", "--",
)  # fmt: skip
"""It refuses to run as root, and has to enter the directory of the server's socket, which is root's."""


class PgBouncer:
    """A running one. It pools connections to whatever database is asked for."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory, self.process = directory, process

    def dsn(self, direct: str) -> str:
        """Return how to reach, through it, the database of a DSN of the tests."""
        return f"postgresql://postgres@{urlsplit(direct).path}?host={self.directory}&port=6432"

    def point_to(self, host: str, port: int | str) -> None:
        """Lead to another server from now on; clients stay connected."""
        config = self.directory / "ini"
        lines = [f"* = host={host} port={port} user=postgres" if line.startswith("* =") else line
                 for line in config.read_text().splitlines()]  # fmt: skip
        config.write_text("\n".join(lines))
        with psycopg.connect(
            f"postgresql://postgres@/pgbouncer?host={self.directory}&port=6432", autocommit=True
        ) as admin:
            admin.execute("reload")


def _listens(path: Path) -> bool:
    """Tell whether somebody accepts connections: the file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


@contextmanager
def pgbouncer(dsn: str, mode: str = "transaction", size: int = POOL) -> Iterator[PgBouncer]:
    """Run one in front of the server of *dsn*.

    Raises:
        FileNotFoundError: it is not installed.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise FileNotFoundError("there is no pgbouncer: apt-get install pgbouncer")
    asked = parse_qs(urlsplit(dsn).query)
    host, port = asked["host"][0], asked["port"][0]
    directory = Path(mkdtemp(prefix="pgb-"))
    config = directory / "ini"
    config.write_text(CONFIG.format(host=host, port=port, directory=directory, mode=mode, size=size))
    command = [program, "-q", str(config)]
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        command = [*AS_NOBODY, *command]
    quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)
    try:
        while not _listens(directory / ".s.PGSQL.6432"):
            assert process.poll() is None, (directory / "log").read_text()
            time.sleep(0.005)
        yield PgBouncer(directory, process)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(directory)
