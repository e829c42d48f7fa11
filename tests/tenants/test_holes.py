"""What would let one tenant reach another: it is found, and the cure that is named mends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from eventstore.analytics.storing import RequestTable
from eventstore.errors import ConfigurationError
from eventstore.reports.health import examine
from eventstore.reports.site import Site
from eventstore.reports.tenants import APPLY, Difference, Kept, differences, differing
from eventstore.roles import apply as apply_roles
from eventstore.tenants import apply
from tests.analytics.logs import a_log
from tests.cli.conftest import Run
from tests.cli.conftest import plain as plain
from tests.tenants.conftest import ACME, ANYBODY, PREFIX, RIVAL, dsn_as

COPY = "create function public.copy() returns trigger language plpgsql as 'begin return new; end';"
MONTH = "set role {0}_owner; select eventstore.ensure_request_month_v1('2020-02-01'); reset role;"
PART = "eventstore.request_logs_202002"


async def found(dsn: str) -> list[Difference]:
    async with Site(dsn) as site:
        return await differences(site)


async def verdict(dsn: str) -> str:
    async with Site(dsn) as site:
        (only,) = [one async for one in examine(site, ["tenants"])]
        return only.status


async def cure(dsn: str, text: str, everything: asyncpg.Connection) -> None:
    """Do what is said, word for word."""
    if text.startswith("eventstore roles --apply"):
        await apply_roles(dsn, "eventstore", PREFIX)
    elif text == APPLY:
        await apply(dsn, "eventstore")
    else:
        await everything.execute(text)


@pytest.fixture
async def roles_restored(everything: asyncpg.Connection) -> AsyncIterator[None]:
    """Roles belong to the server, and would outlive the database."""
    yield
    members = f"{PREFIX}_owner, {PREFIX}_migrator, postgres, pg_read_all_data"
    await everything.execute(f"alter role {PREFIX}_owner nobypassrls")
    for login in (ACME, ANYBODY):
        await everything.execute(f"alter role {login} nobypassrls nosuperuser; revoke {members} from {login}")


@pytest.mark.usefixtures("roles_restored")
@pytest.mark.parametrize(
    ("planted", "kind", "name"),
    [
        ("alter table eventstore.events alter tenant set default 'rival'", "default", "events"),
        ("alter table eventstore.nodes alter tenant drop default", "default", "nodes"),
        (
            f"{COPY} create trigger copy before insert on eventstore.events for each row"
            " execute function public.copy()",
            "trigger",
            "events",
        ),
        (
            f"{COPY} drop trigger seals_no_truncate on eventstore.seals; create trigger seals_no_truncate after insert"
            " on eventstore.seals execute function public.copy()",
            "trigger",
            "seals",
        ),
        (
            f"{MONTH}{COPY} create trigger copy before insert on {PART} for each row execute function public.copy()",
            "trigger",
            "request_logs_202002",
        ),
        ("create rule copy as on insert to eventstore.parked do also notify parked", "rule", "parked"),
        (f"{MONTH} grant select on {PART} to {{0}}_reader", "right", "{0}_reader"),
        (f"{MONTH} grant select (path) on {PART} to public", "right", "PUBLIC"),
        (f"{MONTH} alter table {PART} owner to postgres", "owner", "postgres"),
        (
            f"{MONTH} create table aside (like {PART} including all); alter table aside owner to {{0}}_owner; set role"
            " {0}_owner; alter table eventstore.request_logs attach partition public.aside for values from"
            " ('2020-03-01') to ('2020-04-01'); reset role",
            "table",
            "public.aside",
        ),
        ("grant update on eventstore.tenant_logins to {0}_writer", "right", "{0}_writer"),
        ("alter role {0}_anybody bypassrls", "login", "{0}_anybody"),
        ("alter role {0}_owner bypassrls", "owner", "{0}_owner"),
        ("grant {0}_owner to {0}_anybody", "right", "{0}_anybody"),
        ("grant postgres to {0}_anybody", "login", "{0}_anybody"),
        ("grant pg_read_all_data to {0}_acme", "login", "{0}_acme"),
    ],
)
async def test_a_hole_is_found_and_its_cure_mends_it(
    shared: str, everything: asyncpg.Connection, planted: str, kind: str, name: str
) -> None:
    await everything.execute(planted.format(PREFIX))
    wrong = [one for one in await found(shared) if (one.kind, one.name) == (kind, name.format(PREFIX))]
    assert wrong
    assert await verdict(shared) == "fail"
    await cure(shared, wrong[0].cure, everything)
    assert await found(shared) == []


async def test_who_may_not_see_the_bindings_is_not_told_that_all_is_well(
    shared: str, everything: asyncpg.Connection, plain: Run
) -> None:
    stranger = f"{PREFIX}_stranger"
    await everything.execute(f"create role {stranger} login")
    try:
        for login in (stranger, ANYBODY):
            shown = await asyncio.to_thread(plain, "tenants", "--check", "--json", "--dsn", dsn_as(shared, login))
            assert (json.loads(shown.stdout)["kind"], shown.exit_code) == ("unknown", 1)
            assert await verdict(dsn_as(shared, login)) == "unknown"
        assert f"role={PREFIX}_owner in the DSN" in json.loads(shown.stdout)["cure"]
        await everything.execute(f"grant {PREFIX}_migrator to {stranger}")
        assert await found(f"{dsn_as(shared, stranger)}&role={PREFIX}_owner") == []
    finally:
        await everything.execute(f"drop role {stranger}")


@pytest.mark.usefixtures("roles_restored")
@pytest.mark.parametrize(
    ("planted", "cure"),
    [
        ("alter role {0}_anybody bypassrls", "alter role {0}_anybody nosuperuser nobypassrls nocreaterole"),
        ("alter role {0}_anybody superuser", "alter role {0}_anybody nosuperuser nobypassrls nocreaterole"),
        ("grant {0}_owner to {0}_anybody", "revoke {0}_owner from {0}_anybody"),
        ("grant {0}_migrator to {0}_anybody", "revoke {0}_migrator from {0}_anybody"),
    ],
)
async def test_a_login_that_no_policy_holds_back_is_not_bound(
    shared: str, everything: asyncpg.Connection, planted: str, cure: str
) -> None:
    await everything.execute(planted.format(PREFIX))
    with pytest.raises(ConfigurationError, match=rf"cannot be bound: .*\({cure.format(PREFIX)}"):
        await apply(shared, "eventstore", bound=[(ANYBODY, "acme")])


# -- what one may do to others


@pytest.mark.parametrize("time", [datetime.now(UTC) + timedelta(days=400), datetime(1999, 12, 31, tzinfo=UTC)])
async def test_a_tenant_cannot_make_months_without_end(
    shared: str, everything: asyncpg.Connection, time: datetime
) -> None:
    async with RequestTable(dsn_as(shared, ACME)) as table:
        with pytest.raises(ConfigurationError, match="more than a year from now"):
            await table.insert([a_log(inserted_at=time)])
    assert await everything.fetchval("select count(*) from pg_inherits where inhparent::regclass::text ~ 'logs$'") == 0


SEAL = "select eventstore.add_seal_v1(1, '{}')"


async def test_the_seal_of_one_waits_for_nobody_elses(shared: str) -> None:
    mine, others = await asyncpg.connect(dsn_as(shared, ACME)), await asyncpg.connect(dsn_as(shared, RIVAL))
    async with mine.transaction():
        await mine.execute(SEAL)
        await others.execute(f"set lock_timeout = 1; {SEAL}")
    await mine.close()
    await others.close()


async def test_of_two_seals_of_one_number_one_is_refused(shared: str, everything: asyncpg.Connection) -> None:
    first, second = [await asyncpg.connect(dsn_as(shared, ACME)) for _ in range(2)]
    async with first.transaction():
        await first.execute(SEAL)
        waiting = asyncio.create_task(second.execute(SEAL))
        while not await everything.fetchval("select count(*) from pg_locks where not granted"):
            assert not waiting.done()
    with pytest.raises(asyncpg.PostgresError, match="not the next") as refused:
        await waiting
    assert refused.value.sqlstate == "ES011"
    await first.close()
    await second.close()


def test_a_cure_names_a_login_so_that_its_quotes_stay_in_the_name() -> None:
    bound = {"login": 'a"b', "may_log_in": True, "heeded": True, "unheld": "boss", "via": 'v"w'}
    kept = Kept("eventstore", [], owner="eventstore_owner", logins=[bound])
    assert 'revoke "v""w" from "a""b"' in {one.cure for one in differing(kept)}
