"""What the DSN says about TLS counts for every connection; the doctor tells what it comes to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventstore import DatabaseUnavailable, EventStore, NewEvent
from eventstore.errors import ConfigurationError
from eventstore.reports.health import Finding, Verdict, examine
from eventstore.reports.security import Doors, Link, Rule, authentication, pinned, sslmode, tls
from eventstore.reports.site import Site
from tests.security.server import Server

LINK = Link("TLSv1.3", "AES", "10.1.2.3", "verify-full")
RULE = Rule(1, "host", "0.0.0.0", "scram-sha-256")


@pytest.fixture
def server(server: Server) -> Server:
    if not server.tls:
        pytest.skip("no Postgres on this machine speaks TLS")
    return server


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.dsn())
    yield connection
    await connection.close()


def verified(server: Server, **more: Any) -> str:
    return server.dsn(sslmode="verify-full", sslrootcert=server.certificate, **more)


async def test_every_connection_of_a_store_is_encrypted(server: Server, admin: asyncpg.Connection) -> None:
    dsn = verified(server)
    await EventStore.migrate(dsn)
    async with EventStore(dsn) as store, store.listen() as events:
        await store.append("s", [NewEvent("A")])
        async for event in events:
            assert event.type == "A"
            break
        await store.pubsub.broadcast("t", {})
        found = await admin.fetch(
            "select a.application_name as name, s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid)"
            " where a.application_name like 'eventstore%'"
        )
    assert {"eventstore", "eventstore listener", "eventstore pubsub notifier"} <= {one["name"] for one in found}
    assert all(one["ssl"] for one in found)


@pytest.mark.parametrize("opening", ["store", "migrate", "doctor"])
async def test_another_certificate_is_refused_wherever_a_connection_is_opened(server: Server, opening: str) -> None:
    dsn = server.dsn(sslmode="verify-full", sslrootcert=server.other)
    openings: dict[str, Callable[[], Awaitable[object]]] = {
        "store": EventStore(dsn).__aenter__,
        "migrate": lambda: EventStore.migrate(dsn),
        "doctor": Site(dsn).__aenter__,
    }
    with pytest.raises(DatabaseUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await openings[opening]()


async def test_a_host_of_another_name_is_refused(server: Server) -> None:
    def elsewhere(dsn: str) -> str:
        return dsn.replace("@127.0.0.1:", "@127.0.0.2:")

    with pytest.raises(DatabaseUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*127\.0\.0\.2"):
        await Site(elsewhere(verified(server))).__aenter__()
    async with Site(elsewhere(server.dsn(sslmode="require"))) as site:
        assert (await site.row("select host(inet_server_addr()) as here"))["here"] == "127.0.0.2"


async def test_a_missing_root_certificate_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.crt', named by sslrootcert,"):
        await EventStore(server.dsn(sslmode="verify-full", sslrootcert=tmp_path / "none.crt")).__aenter__()


async def test_a_missing_default_root_certificate_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"root\.crt.*sslrootcert"):
        await EventStore(server.dsn(sslmode="verify-full")).__aenter__()


async def test_the_doctor_shows_the_encryption_and_who_is_let_in(server: Server) -> None:
    async with Site(verified(server)) as site:
        findings = {one.name: one async for one in examine(site, ["tls", "authentication"])}
    assert findings["tls"].status == "ok"
    assert findings["tls"].found.startswith("TLSv1.")
    assert findings["tls"].facts[0]["sslmode"] == "verify-full"
    assert findings["authentication"].status == "ok"


async def test_who_may_not_read_the_rules_is_told_so(server: Server, admin: asyncpg.Connection) -> None:
    await admin.execute("create role plain login password 'x'")
    try:
        async with Site(server.dsn(user="plain", password="x")) as site:
            (found,) = [one async for one in examine(site, ["authentication"])]
            assert isinstance(found, Finding)
            assert (found.status, "needs rights" in found.found) == ("unknown", True)
            cure = (found.cure or "").strip("`").replace("LOGIN", "plain")
            await admin.execute(cure)
            (cured,) = [one async for one in examine(site, ["authentication"])]
        assert cured.status == "ok"
    finally:
        await admin.execute("drop owned by plain; drop role plain")


@pytest.mark.parametrize(
    ("link", "status"),
    [
        (LINK, "ok"),
        (replace(LINK, sslmode="require"), "warn"),
        (replace(LINK, sslmode="prefer"), "warn"),
        (replace(LINK, version=None), "fail"),
        (replace(LINK, version=None, peer="127.0.0.1"), "ok"),
        (replace(LINK, version=None, peer="::1"), "ok"),
        (replace(LINK, version=None, peer=None), "ok"),
    ],
)
def test_a_connection_that_leaves_the_machine_has_to_be_encrypted_and_checked(link: Link, status: str) -> None:
    assert tls(link).status == status


def judged(*rules: Rule, private: bool = True, listens: bool = True) -> Verdict:
    return authentication(Doors(rules, private, listens))


def test_whoever_is_let_in_unasked_is_found() -> None:
    trusting, here = replace(RULE, method="trust"), Rule(1, "local", None, "trust")
    assert judged(RULE).status == "ok"
    assert judged(trusting).status == "fail"
    assert judged(trusting, listens=False).status == "ok"
    assert judged(replace(trusting, address="all")).status == "fail"
    assert judged(replace(trusting, address="127.0.0.1")).status == "warn"
    assert judged(replace(RULE, method="md5")).status == "warn"
    assert judged(here).status == "ok"
    assert judged(here, private=False).status == "warn"


@pytest.mark.parametrize(
    ("dsn", "default", "mode"),
    [
        ("postgresql://h/db?sslmode=verify-full", "require", "verify-full"),
        ("postgresql://h/db", "require", "require"),
        ("postgresql://h/db", None, "prefer"),
        ("postgresql://[h/db", None, "prefer"),
    ],
)
def test_the_mode_is_the_dsns_then_the_environments(dsn: str, default: str | None, mode: str) -> None:
    assert sslmode(dsn, default) == mode


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("pg_catalog, eventstore, pg_temp", True),
        ('pg_catalog, "my schema", pg_temp', True),
        ("pg_catalog, pg_temp", True),
        ("pg_catalog, eventstore", False),
        ("eventstore, pg_catalog, pg_temp", False),
        ("pg_catalog, public, pg_temp", False),
        ("", False),
        (None, False),
    ],
)
def test_a_path_is_pinned_from_both_ends(path: str | None, good: bool) -> None:
    assert pinned(path) is good
