"""A server that asks for passwords, and speaks TLS if one of the Postgres on this machine can (the wheel's cannot)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eventstore.embedded import find_binaries
from eventstore.embedded_supervisor import server_accounts

PASSWORD = "c4n4ry/S3cret"
"""Of the superuser; with a character that a DSN has to encode."""

_RULES = """
hostnossl all tls_only 127.0.0.0/30 reject
host all all 127.0.0.0/30 scram-sha-256
"""


@dataclass(frozen=True)
class Server:
    """Where it is.

    Attributes:
        certificate: its own, signed by itself, for 127.0.0.1; it listens on 127.0.0.2 as well.
        other: another one, for the same names.
        tls: it speaks TLS.
    """

    port: int
    certificate: Path
    other: Path
    tls: bool

    def dsn(self, *, user: str = "postgres", password: str = PASSWORD, database: str = "postgres", **more: Any) -> str:
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in more.items())
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}?{query}"


@contextmanager
def secured() -> Iterator[Server]:
    """Start it in a directory of its own, on a free port.

    Raises:
        FileNotFoundError: there is no openssl.
        PermissionError: the account that stands in for root cannot run the binaries.
    """
    binaries, tls = _binaries()
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    root = Path(tempfile.mkdtemp(prefix="secured-", dir=shared))
    try:
        certificate, other = _certificate(root, "server"), _certificate(root, "other")
        (root / "password").write_text(PASSWORD)
        account = _account(root)
        data = root / "data"
        run: list[Any] = [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run([*run, f"--pwfile={root / 'password'}"], check=True, capture_output=True, **account)
        (data / "pg_hba.conf").write_text(_RULES)
        settings: dict[str, Any] = {"listen_addresses": "127.0.0.1,127.0.0.2", "unix_socket_directories": ""}
        settings |= {"fsync": "off"}
        if tls:
            settings |= {"ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": root / "server.key"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        process, port = _started([binaries / "postgres", "-D", data, *options], account)
        # A pipe that nobody reads fills, and then a server that logs refusals stands still.
        reading = threading.Thread(target=process.communicate)
        reading.start()
        try:
            yield Server(port, certificate, other, tls)
        finally:
            process.terminate()
            reading.join()
    finally:
        shutil.rmtree(root)


def _started(command: list[Any], account: dict[str, Any]) -> tuple[subprocess.Popen[str], int]:
    """Start a server on a free port: on another one, if somebody took it before the server did."""
    for _ in range(20):
        port, said = _free_port(), []
        process = subprocess.Popen([*command, f"--port={port}"], stderr=subprocess.PIPE, text=True, **account)
        for line in process.stderr or ():
            said.append(line)
            if "ready to accept connections" in line:
                return process, port
        process.communicate()
    raise RuntimeError("".join(said))


def _binaries() -> tuple[Path, bool]:
    newest = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: -float(path.parent.name))
    for directory in (*newest, find_binaries()):
        program = directory / "postgres"
        if program.exists() and b"SSL is not supported by this build" not in program.read_bytes():
            return directory, True
    return find_binaries(), False


def _certificate(root: Path, name: str) -> Path:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", root / f"{name}.key", "-out", root / f"{name}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    return root / f"{name}.crt"


def _account(root: Path) -> dict[str, Any]:
    """Postgres refuses to run as root: hand the directory to an account that may."""
    if os.geteuid() != 0:
        return {}
    account = server_accounts()[-1]
    for path in (root, *root.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
