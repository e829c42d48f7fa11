"""Operations that fail, with a password that must never be seen: in no message, output, log record or traceback."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner

from eventstore import DatabaseUnavailable, EventStore, NewEvent, Settings
from eventstore.analytics.storing import RequestTable
from eventstore.cli import main
from eventstore.cli.session import Session
from eventstore.pubsub import PubSub
from eventstore.pubsub.postgres import Postgres
from eventstore.redaction import redacted, scrubbed, secrets_of, told
from eventstore.reports.site import Site
from eventstore.roles import apply
from eventstore.schema import migrate
from eventstore.signals import Signals
from tests.faults.figures import note
from tests.security.server import PASSWORD, Server

PIECES = PASSWORD.split("/")
"""What a parser may cut it into."""

ENCODED = PASSWORD.replace("/", "%2F")


def seen(text: str) -> list[str]:
    """Return the pieces of the password that stand in a text."""
    return [piece for piece in PIECES if piece in text]


def test_a_message_that_is_not_redacted_is_caught(server: Server) -> None:
    assert seen(f"cannot connect to {server.dsn()}: no") == PIECES
    assert seen(f"port could not be cast to an integer: {PIECES[0]!r}") == PIECES[:1]


# -- the ways to fail


class _WithoutTls(BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(8)
        self.request.sendall(b"N")


@pytest.fixture(scope="module")
def without_tls() -> Iterator[int]:
    """A port where somebody answers, and has no TLS."""
    with ThreadingTCPServer(("127.0.0.1", 0), _WithoutTls) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield listening.server_address[1]
        listening.shutdown()


@pytest.fixture(scope="module", autouse=True)
def read_only(server: Server) -> None:
    """A database without a schema, in which none can be made."""
    import asyncpg

    async def create() -> None:
        admin = await asyncpg.connect(server.dsn())
        await admin.execute("create database read_only")
        await admin.execute("alter database read_only set default_transaction_read_only to on")
        await admin.close()

    asyncio.run(create())


def failing(server: Server, port: int, tmp_path: Path) -> dict[str, str]:
    """DSNs that cannot be used, each with the password in the user's part or a parameter, or both."""
    here, query = f"127.0.0.1:{server.port}", f"password={ENCODED}&sslpassword={ENCODED}"
    return {
        "port": f"postgresql://u:{ENCODED}@127.0.0.1:1/db?{query}",
        "socket": f"postgresql://u@/db?host=/nowhere&{query}",
        "password": f"postgresql://postgres:{ENCODED}x@{here}/postgres",
        "password in a parameter": f"postgresql://postgres@{here}/postgres?password={ENCODED}x",
        "user": f"postgresql://nobody:{ENCODED}@{here}/postgres",
        "database": server.dsn(database="missing"),
        "schema": server.dsn(sslpassword=PASSWORD, database="read_only"),
        "setting": server.dsn(options=f"-c {PIECES[0]}={PIECES[1]}"),
        "unknown parameter": server.dsn() + f"&pasword={ENCODED}",
        "no tls": f"postgresql://u:{ENCODED}@127.0.0.1:{port}/db?sslmode=require",
        "certificate": server.dsn(sslmode="verify-full", sslrootcert=tmp_path / "none", sslpassword=PASSWORD),
        "mode": server.dsn(sslmode="perhaps"),
        "slash": f"postgresql://u:{PASSWORD}@127.0.0.1:1/db",
        "hash": f"postgresql://u:{PIECES[0]}#{PIECES[1]}@127.0.0.1:1/db",
        "question mark": f"postgresql://u:{PIECES[0]}?{PIECES[1]}@127.0.0.1:1/db",
        "brackets": f"postgresql://u:{PIECES[0]}[{PIECES[1]}@[::1/db",
        "space": f"postgresql://u:{PIECES[0]} {PIECES[1]}@127.0.0.1:1/db",
        "ampersand": f"postgresql://postgres@{here}/postgres?password={PIECES[0]}&{PIECES[1]}=1",
        "no port": f"postgresql://u:{ENCODED}@127.0.0.1:http/db?{query}",
        "scheme": f"mysql://u:{ENCODED}@h/db?{query}",
        "no scheme": f"u:{ENCODED}@127.0.0.1:1/db",
        "hosts": f"postgresql://u@127.0.0.1:1,u2:{PIECES[0]}@127.0.0.1:1/db",
        "each with a password": f"postgresql://u:{PIECES[0]}@127.0.0.1:1,u2:{PIECES[1]}@127.0.0.1:1/db",
        "hosts in a parameter": f"postgresql://u:{ENCODED}@/db?host=127.0.0.1,127.0.0.1&port=1,x&password={ENCODED}",
        "at and colon": f"postgresql://u:{PIECES[0]}@:{PIECES[1]}@127.0.0.1:1/db",
        "backslash": f"postgresql://u:x@{PIECES[0]}:\\{PIECES[1]}@127.0.0.1:1/db",
        "not of a netloc": f"postgresql://u:{PIECES[0]}\u2100{PIECES[1]}@127.0.0.1:1/db",
        "password alone": PASSWORD,
        "part of it alone": PIECES[1],
        "with an at": f"{PASSWORD}@h",
        "keywords": f"host=127.0.0.1 user=u password='{PIECES[0]} {PIECES[1]}'",
    }


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("migrate",),
    ("doctor",),
    ("append", "s", "--type", "A"),
    ("read", "s"),
    ("tail",),
    ("top", "--once"),
    ("streams",),
    ("stream", "info", "s"),
    ("export", "-"),
    ("subscription", "list"),
    ("subscription", "create", "s"),
    ("subscription", "pause", "s"),
    ("subscription", "explain", "s"),
    ("parked", "list", "s"),
    ("scavenge",),
    ("nodes",),
    ("pubsub", "stats"),
    ("pubsub", "subscribe", "t"),
    ("pubsub", "publish", "t", "1"),
    ("requests",),
    ("requests", "prune", "--keep", "90d"),
    ("actions",),
    ("roles", "--apply"),
    ("roles", "--check"),
    ("tenants", "--check"),
    ("verify",),
    ("evidence",),
    ("evidence", "on"),
    ("seal", "--key", "KEY", "--out", "SEALS"),
    ("work",),
    ("dashboard", "--port", "0"),
    ("demo",),
)

PLACES = {
    "open": lambda dsn: _opened(dsn),
    "migrate": lambda dsn: EventStore.migrate(dsn),
    "pubsub": lambda dsn: _pubsub(dsn),
    "engine": lambda dsn: _engine(dsn),
    "requests": lambda dsn: RequestTable(dsn).months(),
    "site": lambda dsn: Site(dsn).__aenter__(),
    "roles": lambda dsn: apply(dsn, "missing schema", "canary"),
}


async def _opened(dsn: str) -> None:
    async with EventStore(dsn, schema="none") as store:
        await store.append("s", [NewEvent("A")])


async def _pubsub(dsn: str) -> None:
    async with PubSub("p", Postgres(dsn, node_name="a", create=False)):
        pass


async def _engine(dsn: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    try:
        engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    except Exception:  # noqa: BLE001 - what SQLAlchemy refuses by itself is between it and the application
        return
    await _pubsub_of(engine)


async def _pubsub_of(engine: Any) -> None:
    async with PubSub("p", Postgres(engine, node_name="a", create=False)):
        pass


# SQLAlchemy hands parameters of a URL on as keywords, and Python names one that is unknown: nothing of ours sees it.
NOT_OURS = {("engine", "ampersand")}

# Nothing is wrong with these.
USABLE = {("site", "schema"), ("listen", "schema")}


DONE = "it did not fail"


def failures_of(work: Callable[[str], Awaitable[object]], dsn: str) -> str:
    """Run what has to fail; return all that can be known of how it did."""

    async def run() -> None:
        async with asyncio.timeout(60):
            await work(dsn)

    try:
        asyncio.run(run())
    except Exception as error:  # noqa: BLE001 - whatever it is, it may show a password
        return f"{error}{error!r}{vars(error)}{traceback.format_exc()}"
    return DONE


@pytest.mark.parametrize("place", PLACES)
def test_no_operation_of_the_library_shows_a_password(
    place: str, server: Server, without_tls: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "sqlalchemy")
    failed = 0
    for name, dsn in failing(server, without_tls, tmp_path).items():
        if (place, name) in NOT_OURS | USABLE:
            continue
        text = failures_of(PLACES[place], dsn)
        assert (name, seen(text)) == (name, [])
        assert place == "engine" or text != DONE, name
        failed += text != DONE
        assert (name, seen(caplog.text)) == (name, [])
        caplog.clear()
    assert failed
    note(operations=failed, found=0)


USAGE = "|".join(
    one.__name__ for one in vars(click.exceptions).values() if click.UsageError in getattr(one, "__mro__", ())
)


def misused(text: str) -> bool:
    """Return whether a command was refused before it came to its DSN."""
    return bool(re.search(rf'Usage:|"error": "({USAGE})"', text))


@pytest.mark.parametrize("args", [("stream", "show"), ("work", "--sinks"), ("pubsub", "nodes", "--json"), ("seal",)])
def test_a_command_that_there_is_not_is_told_from_one_that_fails(args: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, args)
    assert misused(result.output + result.stderr)


class _Warned(logging.Handler):
    """Knows when a task was begun anew."""

    def __init__(self) -> None:
        super().__init__()
        self.once = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "trying again" in record.getMessage():
            self.once.set()


async def _listened(dsn: str, listen_dsn: str) -> None:
    """Listen until that has failed once."""
    warned, signals = _Warned(), Signals(uuid4(), Settings(listen_dsn=listen_dsn))
    logging.getLogger("eventstore").addHandler(warned)
    try:
        await signals.start(dsn, "eventstore")
        await asyncio.wait_for(warned.once.wait(), 60)
        await signals.stop()
    finally:
        logging.getLogger("eventstore").removeHandler(warned)


def test_a_dsn_to_listen_by_that_cannot_be_used_shows_no_password(
    server: Server, without_tls: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dsns = {name: dsn for name, dsn in failing(server, without_tls, tmp_path).items() if ("listen", name) not in USABLE}
    for name, dsn in dsns.items():
        text = failures_of(lambda one: _listened(server.dsn(), one), dsn)
        assert (name, seen(text + caplog.text)) == (name, [])
        assert "listen_dsn: " in text or "listener: " in caplog.text, (name, text, caplog.text)
        caplog.clear()
    note(operations=len(dsns), found=0)


def test_no_command_shows_a_password(
    server: Server, without_tls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsns = list(failing(server, without_tls, tmp_path).items())
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["evidence", "key", "KEY"]).exit_code == 0
    tried = 0
    for number, command in enumerate(COMMANDS):
        # Each command fails in three ways, so that all ways come up in turn.
        for step in range(3):
            name, dsn = dsns[(number * 3 + step) % len(dsns)]
            flags = (("--json",), ("--debug", "-vv"), ())[step]
            if step == 2:
                monkeypatch.setenv("EVENTSTORE_DSN", dsn)
                monkeypatch.setenv("EVENTSTORE_LISTEN_DSN", dsn)
                result = CliRunner().invoke(main, [*flags, *command])
                monkeypatch.delenv("EVENTSTORE_DSN")
                monkeypatch.delenv("EVENTSTORE_LISTEN_DSN")
            else:
                result = CliRunner().invoke(main, ["--dsn", dsn, *command, *flags])
            text = result.output + result.stderr
            assert (command, name, seen(text)) == (command, name, [])
            assert result.exit_code != 0, (command, name, text)
            assert not misused(text), (command, text)
            tried += 1
    assert tried == 3 * len(COMMANDS)
    note(operations=tried, found=0)


@pytest.mark.parametrize("flags", [(), ("--json",), ("--debug", "-vv")])
def test_following_the_log_with_a_malformed_dsn_to_listen_by_is_refused(
    server: Server, without_tls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    asyncio.run(EventStore.migrate(server.dsn(), schema="listening"))
    for name in ("hosts", "slash", "password alone", "no port"):
        monkeypatch.setenv("EVENTSTORE_LISTEN_DSN", failing(server, without_tls, tmp_path)[name])
        result = CliRunner().invoke(main, ["--dsn", server.dsn(), "--schema", "listening", "tail", *flags])
        text = result.output + result.stderr
        assert (name, result.exit_code, "listen_dsn: " in text, seen(text)) == (name, 2, True, [])


def test_an_argument_that_is_repeated_hides_its_password(server: Server) -> None:
    for args in (
        ["read", "s", server.dsn()],
        ["--nonsense", server.dsn()],
        [server.dsn()],
        ["read", f"--{server.dsn()}"],
    ):
        for flags in ([], ["--json"], ["--debug"]):
            result = CliRunner().invoke(main, [*args, *flags])
            assert result.exit_code == 2
            assert seen(result.output + result.stderr) == []


@pytest.mark.parametrize("flags", [[], ["--json"], ["--debug"]])
def test_an_application_that_does_not_load_shows_no_password(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    (tmp_path / "broken_shop.py").write_text(
        f"raise RuntimeError('cannot reach {server.dsn()} (password={ENCODED})')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(main, ["work", "--app", "broken_shop:store", *flags])
    assert result.exit_code != 0
    assert seen(result.output + result.stderr) == []


async def test_a_store_that_loses_its_server_logs_no_password(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    import asyncpg

    caplog.set_level(logging.DEBUG)
    admin = await asyncpg.connect(server.dsn())
    await EventStore.migrate(server.dsn(), schema="lost")
    await admin.execute(f"create role short superuser login password '{PASSWORD}'")
    settings = Settings(append_timeout=0.2, poll_interval=0.05, heartbeat_interval=0.1)
    try:
        async with EventStore(server.dsn(user="short"), schema="lost", settings=settings) as store:
            await admin.execute("alter role short nologin")
            await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'short'")
            with pytest.raises(DatabaseUnavailable, match="not permitted to log in") as refused:
                await store.append("s", [NewEvent("A")])
        text = "".join(traceback.format_exception(refused.value)) + caplog.text
        assert seen(text) == []
    finally:
        await admin.execute("drop role short")
        await admin.close()


def test_nothing_is_shown_by_repr(server: Server) -> None:
    dsn = server.dsn()
    shown = [Settings(listen_dsn=dsn), EventStore(dsn), Session(dsn=dsn), Site(dsn), RequestTable(dsn)]
    shown.append(Postgres(dsn, node_name="a"))
    assert seen(repr(shown)) == []


@pytest.mark.parametrize(
    "wrong", [f"postgresql://u:{ENCODED}@h/db".encode(), {"dsn": f"postgresql://u:{ENCODED}@h/db"}]
)
def test_a_dsn_of_another_type_is_not_repeated(wrong: Any) -> None:
    with pytest.raises(Exception, match="dsn must be") as refused:
        EventStore(wrong)
    assert seen(str(refused.value)) == []


def test_migrations_show_no_password_in_their_causes(server: Server) -> None:
    with pytest.raises(Exception, match="cannot connect") as refused:
        migrate(server.dsn(database="missing"))
    assert seen("".join(traceback.format_exception(refused.value))) == []


# -- redaction by itself


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://h:5432/db?sslmode=require", "postgresql://h:5432/db?sslmode=require"),
        ("postgresql://u@/db?host=/tmp&port=5", "postgresql://u@/db?host=/tmp&port=5"),
        ("postgresql://u:p@h,i:5/db?application_name=a@b", "postgresql://u:***@b"),
        ("postgresql://u@h/db?application_name=a@b", "postgresql://u@h/db?application_name=a@b"),
        ("postgresql://u:p@h/db?search_path=x&user=me", "postgresql://u:***@h/db?search_path=***&user=me"),
        ("postgresql://u@h/db?password=a&b=c", "postgresql://u@h/db?password=***&***"),
        ("postgresql://u@h/db#secret", "postgresql://u@h/db"),
        ("postgresql://u@h:1,v:p@i:1/db", "postgresql://u@h:***@i:1/db"),
        ("host=h password = 'a b' user=u", "***"),
        ("nonsense", "***"),
        ("", ""),
    ],
)
def test_what_is_harmless_stays(dsn: str, shown: str) -> None:
    assert redacted(dsn) == shown


def test_text_around_dsns_stays() -> None:
    text = "cannot connect to postgresql://u:p@h/db: password authentication failed (see https://h/a), password='x y'"
    assert scrubbed(text) == (
        "cannot connect to postgresql://u:***@h/db: password authentication failed (see https://h/a), password=***"
    )
    assert scrubbed("it said hunter2", {"hunter2"}) == "it said ***"


def test_what_is_hidden_leaves_the_sentence_around_it() -> None:
    for dsn in ("postgresql://u@h/db?password=p", "postgresql://u@h/db?password=***", "password=p", "password=***"):
        assert scrubbed(f"no {dsn}: [Errno 111]") == f"no {dsn.removesuffix('p').removesuffix('***')}***: [Errno 111]"


def test_a_password_that_is_also_the_user_is_not_hidden_everywhere() -> None:
    assert secrets_of("postgresql://postgres:postgres@h/db") == set()
    assert secrets_of("postgresql://u:a%20b%2Fc@h/db") == {"a%20b%2Fc", "a b/c"}


def test_a_reason_is_told_unless_it_quotes_a_piece() -> None:
    assert told("no such port: 12", "postgresql://u:p12@h/db") == "no such port: 12"
    assert told("no such port: 12", "postgresql://u:p1:2@h/db") == "no such port: 12"
    for dsn in ("u:12/p@h", "u@h,v:12@i", "u:p@h:1,v:12@i"):
        assert "percent-encoded" in told("no such port: 12", f"postgresql://{dsn}/db")
    assert "percent-encoded" in told("netloc 'u:a\u2100b@h' is invalid", "postgresql://u:a\u2100b@h/db")
    assert "percent-encoded" in told(r"no such port: 'a\\b'", "postgresql://u@h,v:a\\b@h/db")
