"""Each check is shown the fault that it looks for: planted in the database where that is possible, else in a row."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from time import time
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventstore import (
    All,
    DatabaseUnavailable,
    Delivery,
    Event,
    EventPayload,
    EventStore,
    EventType,
    NewEvent,
    Selector,
    Stream,
    SubscriptionNotFound,
    Tags,
)
from eventstore.errors import CheckpointAheadOfLog, ConfigurationError
from eventstore.reports import delivery, explaining, horizon, installed, links, server
from eventstore.reports.explaining import Explanation, explain, plan_lines
from eventstore.reports.health import Finding, Verdict, checks, examine, named
from eventstore.reports.site import Site
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Claim, Failed


@pytest.fixture
async def site(db: str) -> AsyncIterator[Site]:
    async with Site(db) as opened:
        yield opened


@pytest.fixture
async def ledger(site: Site) -> Ledger:
    return await site.ledger()


async def found(site: Site, name: str) -> Finding:
    (finding,) = [one async for one in examine(site, [name])]
    return finding


async def planted(db: str, name: str) -> Finding:
    """What a check finds over connections opened now, with settings as they are now."""
    async with Site(db) as site:
        return await found(site, name)


# -- the whole


async def test_nothing_is_wrong_with_a_fresh_database_but_how_it_writes(site: Site) -> None:
    wrong = [one async for one in examine(site) if one.status != "ok"]
    assert {one.name for one in wrong} <= {"fsync", "full_page_writes", "synchronous_commit"}


async def test_every_check_says_what_it_looks_for_and_faults_what_to_do(db: str) -> None:
    assert all(one.about.endswith(".") for one in checks())
    async with Site(db, "elsewhere") as site:
        findings = [one async for one in examine(site)]
    assert all(one.found and (one.cure or one.status == "ok") for one in findings)


async def test_an_unknown_check_is_named(site: Site) -> None:
    with pytest.raises(ConfigurationError, match="no check 'fsink'"):
        await found(site, "fsink")


async def test_one_check_reads_only_what_it_needs(site: Site) -> None:
    assert (await found(site, "encoding")).status == "ok"
    assert site._database is None


async def test_a_database_that_cannot_be_reached_is_an_error() -> None:
    with pytest.raises(DatabaseUnavailable):
        await Site("postgresql://nobody@127.0.0.1:1/none").__aenter__()


@pytest.fixture
async def stranger(sql: asyncpg.Connection, db: str) -> AsyncIterator[str]:
    """DSN of a role that may connect and nothing else."""
    await sql.execute("drop role if exists stranger; create role stranger login")
    yield db.replace("//postgres@", "//stranger@")
    await sql.execute("drop owned by stranger; drop role stranger")


async def test_to_a_role_without_rights_things_are_unknown(stranger: str) -> None:
    async with Site(stranger) as site:
        by_name = {one.name: one async for one in examine(site)}
    assert {by_name[name].status for name in ("positions", "horizon", "halted", "nodes", "schema")} == {"unknown"}
    assert "pg_monitor" in (by_name["horizon"].cure or "")
    assert "`eventstore roles --apply --to reader=LOGIN`" in (by_name["positions"].cure or "")
    assert {by_name[name].status for name in ("clock", "listen", "pooler", "sequence", "functions", "append_only")} == {
        "ok"
    }


async def test_to_a_role_without_pg_monitor_it_is_unknown_how_long_the_horizon_is_held(
    stranger: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "grant usage on schema eventstore to stranger; grant execute on all functions in schema eventstore to stranger"
    )
    async with Site(stranger) as site, sql.transaction():
        await sql.execute(APPEND)
        finding = await found(site, "horizon")
        (holder,) = (await horizon.read_horizon(site)).blockers
    assert (finding.status, "needs pg_monitor" in finding.found) == ("unknown", True)
    with pytest.raises(ConfigurationError, match="needs pg_monitor"):
        horizon.check_visible(holder)


def test_a_list_of_names_ends_after_a_few() -> None:
    assert named(range(7)) == "0, 1, 2, 3, 4 and 2 more"


# -- the server

FINE = server.Server(
    {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "server_version": "18.1"},
    180001,
    "UTF8",
    False,
    "shop",
)


@pytest.mark.parametrize(
    ("judge", "change", "status"),
    [
        (server.fsync, {"settings": {"fsync": "off"}}, "fail"),
        (server.full_page_writes, {"settings": {"full_page_writes": "off"}}, "fail"),
        (server.synchronous_commit, {"settings": {"synchronous_commit": "off"}}, "warn"),
        (server.synchronous_commit, {"settings": {"synchronous_commit": "local"}}, "ok"),
        (server.server_version, {"version": 130012}, "fail"),
        (server.encoding, {"encoding": "LATIN1"}, "fail"),
        (server.recovery, {"in_recovery": True}, "fail"),
    ],
)
def test_a_fault_of_the_server_is_found(judge: Callable[..., Verdict], change: dict[str, Any], status: str) -> None:
    assert judge(FINE).status == "ok"
    assert judge(replace(FINE, **change)).status == status


@pytest.mark.parametrize(("value", "status"), [("on", "ok"), ("off", "warn")])
async def test_settings_are_those_of_a_session_of_this_role_and_database(
    db: str, sql: asyncpg.Connection, value: str, status: str
) -> None:
    name = await sql.fetchval("select quote_ident(current_database())")
    await sql.execute(f"alter database {name} set synchronous_commit = {value}")
    assert (await planted(db, "synchronous_commit")).status == status


@pytest.mark.parametrize(("used", "status"), [(10, "ok"), (80, "warn"), (95, "fail")])
def test_few_connections_left_are_noticed(used: int, status: str) -> None:
    assert server.connections(server.Connections(used, 100)).status == status


async def test_connections_are_counted(site: Site, sql: asyncpg.Connection) -> None:
    read = await server.read_connections(site)
    assert 2 <= read.used <= read.usable < int(await sql.fetchval("show max_connections"))


SUSPECT = {"pid": 7, "user": "u", "application": "app", "database": "d", "state": "idle in transaction"}


@pytest.mark.parametrize(("usage", "status"), [(0.0, "ok"), (0.01, "warn"), (0.5, "fail")])
def test_a_filling_queue_of_notifications_is_noticed(usage: float, status: str) -> None:
    verdict = server.notification_queue(server.Queue(usage, [SUSPECT | {"wait_event": "ClientRead", "seconds": 9.0}]))
    assert verdict.status == status
    assert status == "ok" or "pid 7" in verdict.found


def test_who_holds_the_queue_may_be_hidden() -> None:
    assert server.notification_queue(server.Queue(0.2, [])).status == "unknown"


async def test_a_listener_in_a_transaction_is_suspected(site: Site, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        await sql.execute("select 1")
        suspects = (await server.read_queue(site)).suspects
    assert sql.get_server_pid() in [one["pid"] for one in suspects]


@pytest.mark.parametrize(
    ("bloat", "status"),
    [
        (server.Bloat([("checkpoints", 10, 500)], True), "ok"),
        (server.Bloat([("checkpoints", 10, 50_000)], True), "warn"),
        (server.Bloat([], False), "warn"),
    ],
)
def test_dead_rows_are_noticed(bloat: server.Bloat, status: str) -> None:
    assert server.vacuum(bloat).status == status


# -- the schema


@pytest.mark.parametrize(
    ("plant", "name", "status", "text"),
    [
        ("update {s}.eventstore_version set version_num = '0000'", "schema", "fail", "revision 0000"),
        ("update {s}.eventstore_version set version_num = '9999'", "schema", "ok", "newer"),
        ("drop function {s}.schema_revision", "schema", "fail", "schema_revision is missing"),
        ("drop function {s}.lag_v1", "functions", "fail", "missing: lag_v1"),
        ("create function {s}.mine() returns int return 1", "functions", "warn", "of no release: mine"),
        (
            "create or replace function {s}.head() returns bigint language sql as 'select 1::bigint'",
            "functions",
            "fail",
            "not as released: head",
        ),
        ("grant create on schema {s} to public", "public_create", "fail", "PUBLIC"),
        (
            "alter table {s}.events disable trigger events_stub_only",
            "append_only",
            "fail",
            "disabled: events_stub_only",
        ),
        ("drop trigger events_no_truncate on {s}.events", "append_only", "fail", "missing: events_no_truncate"),
        ("alter table {s}.parked set unlogged", "logged", "fail", "parked"),
        ("alter sequence {s}.event_positions cache 10", "sequence", "fail", "CACHE is 10"),
        ("alter sequence {s}.event_positions minvalue -5", "sequence", "fail", "MINVALUE"),
        ("grant usage on sequence {s}.event_positions to public", "sequence", "fail", "by PUBLIC"),
        (
            "alter table {s}.events alter position set default nextval('{s}.event_positions')",
            "sequence",
            "fail",
            "events.position draws",
        ),
    ],
)
async def test_a_fault_of_the_schema_is_found(
    site: Site, sql: asyncpg.Connection, plant: str, name: str, status: str, text: str
) -> None:
    assert (await found(site, name)).status == "ok"
    await sql.execute(plant.format(s="eventstore"))
    finding = await found(site, name)
    assert (finding.status, text in finding.found) == (status, True), finding.found


async def test_a_missing_schema_is_named_with_its_cure(db: str) -> None:
    async with Site(db, "elsewhere") as site:
        finding = await found(site, "schema")
    assert (finding.status, finding.cure) == ("fail", "eventstore migrate --schema elsewhere")


async def test_sessions_that_fire_no_triggers_are_noticed(db: str, sql: asyncpg.Connection) -> None:
    name = await sql.fetchval("select quote_ident(current_database())")
    await sql.execute(f"alter database {name} set session_replication_role = replica")
    assert (await planted(db, "append_only")).status == "fail"


async def test_functions_of_any_schema_are_compared(db: str) -> None:
    await EventStore.migrate(db, schema="tenant 1")
    async with Site(db, "tenant 1") as site:
        assert (await found(site, "functions")).status == "ok"


async def test_a_sequence_behind_the_log_is_found(site: Site, sql: asyncpg.Connection) -> None:
    await sql.execute(APPEND)
    await sql.execute(APPEND)
    assert await installed.read_bounds(site) == installed.Bounds(2, 2)
    await sql.execute("select setval('eventstore.event_positions', 1)")
    assert (await found(site, "positions")).status == "fail"


# -- the horizon

APPEND = """select eventstore.append_events('x', '[{"type": "A"}]')"""
LOCK = "select pg_advisory_xact_lock_shared('eventstore.event_positions'::regclass::oid::int, {key})"


async def test_who_holds_the_horizon_is_named(site: Site, sql: asyncpg.Connection) -> None:
    await sql.execute("set application_name = 'billing'")
    async with sql.transaction():
        await sql.execute(APPEND)
        read = await horizon.read_horizon(site)
    assert (read.horizon, read.last_position) == (0, 1)
    holder = read.holder
    assert holder is not None
    assert (holder.place, holder.pid, holder.application, holder.state) == (
        0,
        sql.get_server_pid(),
        "billing",
        "idle in transaction",
    )
    assert "append_events" in (holder.query or "")


@pytest.mark.parametrize(("seconds", "status"), [(1.0, "ok"), (6.0, "warn"), (61.0, "fail"), (None, "unknown")])
async def test_how_long_it_is_held_decides(
    site: Site, sql: asyncpg.Connection, seconds: float | None, status: str
) -> None:
    async with sql.transaction():
        await sql.execute(APPEND)
        read = await horizon.read_horizon(site)
    aged = replace(read, blockers=[replace(one, seconds=seconds) for one in read.blockers])
    verdict = horizon.horizon(aged)
    assert verdict.status == status
    assert status == "ok" or f"pid {sql.get_server_pid()}" in verdict.found


async def test_the_place_of_a_lock_is_rebuilt_beyond_31_bits(site: Site, sql: asyncpg.Connection) -> None:
    last = (1 << 33) + 5
    await sql.execute(f"select setval('eventstore.event_positions', {last})")
    async with sql.transaction():
        await sql.execute(LOCK.format(key=(last - 10) & 0x7FFFFFFF))
        (holder,) = (await horizon.read_horizon(site)).blockers
    assert holder.place == last - 10


async def test_the_one_with_the_lowest_place_holds_it(site: Site, sql: asyncpg.Connection, db: str) -> None:
    other = await asyncpg.connect(db)
    await sql.execute("select setval('eventstore.event_positions', 9)")
    async with sql.transaction(), other.transaction():
        await sql.execute(LOCK.format(key=8))
        await other.execute(LOCK.format(key=3))
        assert [one.place for one in (await horizon.read_horizon(site)).blockers] == [3, 8]
    await other.close()


async def test_a_blocker_is_ended(site: Site, db: str) -> None:
    other = await asyncpg.connect(db)
    await other.execute("begin")
    await other.execute(APPEND)
    (holder,) = (await horizon.read_horizon(site)).blockers
    assert await horizon.terminate(site, holder)
    assert (await horizon.read_horizon(site)).horizon == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await other.execute("commit")


async def test_a_session_that_took_over_the_pid_is_left_alone(site: Site, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        await sql.execute(APPEND)
        (holder,) = (await horizon.read_horizon(site)).blockers
        assert not await horizon.terminate(site, replace(holder, backend_start="2001-01-01"))
    assert not await horizon.terminate(site, holder)
    assert await sql.fetchval("select 1") == 1


@pytest.fixture
async def prepared(sql: asyncpg.Connection) -> AsyncIterator[str]:
    """The name of a prepared transaction that holds the horizon at 0."""
    if await sql.fetchval("select current_setting('max_prepared_transactions')::int") == 0:
        pytest.skip("this server prepares no transactions")
    gid = f"it's {uuid4()}"
    await sql.execute("begin")
    await sql.execute(LOCK.format(key=0))
    await sql.execute(f"prepare transaction '{gid.replace(chr(39), chr(39) * 2)}'")
    await sql.execute(APPEND)
    yield gid
    for (left,) in await sql.fetch("select gid from pg_prepared_xacts where database = current_database()"):
        await sql.execute("rollback prepared '" + left.replace("'", "''") + "'")


async def test_a_prepared_transaction_that_holds_the_horizon_is_named(site: Site, prepared: str) -> None:
    (holder,) = (await horizon.read_horizon(site)).blockers
    assert (holder.pid, holder.gid, holder.state, holder.place) == (None, prepared, "prepared", 0)
    assert holder.seconds is not None
    assert f"the prepared transaction {prepared!r}" in horizon.describe(holder)


async def test_a_prepared_transaction_is_rolled_back(site: Site, prepared: str) -> None:
    (holder,) = (await horizon.read_horizon(site)).blockers
    assert await horizon.terminate(site, holder)
    assert not await horizon.terminate(site, holder)
    assert (await horizon.read_horizon(site)).horizon == 1


# -- what lies in between


async def test_a_clock_that_is_wrong_is_noticed(site: Site) -> None:
    assert links.clock(await links.read_clock(site)).status == "ok"
    assert links.clock(await links.read_clock(site, now=lambda: time() + 3600)).status == "warn"


async def test_a_slow_answer_proves_nothing_about_the_clock() -> None:
    assert links.clock(links.Clock(ahead=2.0, round_trip=3.0)).status == "ok"


async def test_a_notification_that_comes_nowhere_is_noticed(db: str, sql: asyncpg.Connection) -> None:
    elsewhere = db.replace(f"/{await sql.fetchval('select current_database()')}?", "/postgres?")
    async with Site(db, listen_dsn=elsewhere) as site:
        assert links.listen(await links.read_heard(site, within=0.05)).status == "fail"


async def test_a_listener_that_cannot_connect_is_named(db: str) -> None:
    async with Site(db, listen_dsn="postgresql://nobody:secret@127.0.0.1:1/none") as site:
        finding = await found(site, "listen")
    assert (finding.status, "secret" in finding.found) == ("fail", False)


async def test_two_connections_on_one_backend_are_a_pooler(
    site: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lent(_dsn: str | None = None) -> asyncpg.Connection:
        return sql

    monkeypatch.setattr(site, "connect", lent)
    assert links.pooler(await links.read_pooling(site)).status == "warn"


@pytest.mark.parametrize(
    ("pooling", "status"),
    [
        (links.Pooling(1, 2, 1, False), "ok"),
        (links.Pooling(1, 2, 3, False), "warn"),
        (links.Pooling(1, 1, 2, False), "warn"),
        (links.Pooling(1, 2, 1, True), "warn"),
    ],
)
def test_what_gives_a_pooler_away(pooling: links.Pooling, status: str) -> None:
    assert links.pooler(pooling).status == status


# -- subscriptions


async def claimed(ledger: Ledger, *names: str, ttl: float = 600) -> tuple[UUID, list[Claim]]:
    node = uuid4()
    await ledger.register(node, "a node", ttl)
    return node, (await ledger.claim(node, names)).claims


async def test_a_halted_partition_is_named_with_its_error(site: Site, ledger: Ledger) -> None:
    await ledger.create("billing", All())
    _, (claim,) = await claimed(ledger, "billing")
    await ledger.halt(claim, ValueError("no such\ncustomer"))
    finding = await found(site, "halted")
    assert (finding.status, "ValueError: no such customer" in finding.found) == ("fail", True)
    assert "`eventstore subscription resume billing`" in (finding.cure or "")
    await ledger.resume("billing")
    assert (await found(site, "halted")).status == "ok"


async def test_a_partition_that_was_ahead_is_to_be_rewound_and_not_resumed(site: Site, ledger: Ledger) -> None:
    await ledger.create("billing", All())
    _, (claim,) = await claimed(ledger, "billing")
    await ledger.halt(claim, CheckpointAheadOfLog("billing", 9, 3))
    finding = await found(site, "halted")
    assert "`eventstore subscription rewind billing --after 3`" in finding.found
    assert (finding.cure or "").startswith("`eventstore subscription rewind billing --after POSITION`")
    assert "resume" not in (finding.cure or "")
    await ledger.create("mails", All())
    _, (claim,) = await claimed(ledger, "mails")
    await ledger.halt(claim, ValueError("no"))
    assert "resume mails`" in ((await found(site, "halted")).cure or "")


async def test_a_paused_subscription_is_no_fault(site: Site, ledger: Ledger) -> None:
    await ledger.create("billing", All())
    await ledger.pause("billing")
    finding = await found(site, "paused")
    assert (finding.status, "billing" in finding.found) == ("ok", True)
    assert (await found(site, "handled")).status == "ok"


async def test_parked_events_are_counted(site: Site, ledger: Ledger, sql: asyncpg.Connection) -> None:
    await sql.execute(APPEND)
    await ledger.create("billing", All())
    _, (claim,) = await claimed(ledger, "billing")
    await ledger.settle_one(claim, 1, [Failed(1, 0, "s:x", attempts=3, error="E")])
    finding = await found(site, "parked")
    assert finding.status == "warn"
    assert [(one["name"], one["parked"], one["skipped"]) for one in finding.facts] == [("billing", 1, 0)]


async def test_what_was_skipped_is_counted_and_no_fault(site: Site, ledger: Ledger, sql: asyncpg.Connection) -> None:
    await sql.execute(APPEND)
    await ledger.create("billing", All())
    _, (claim,) = await claimed(ledger, "billing")
    await ledger.settle_one(claim, 1, [Failed(1, 0, "s:x", state="skipped", blocking=False, attempts=1)])
    finding = await found(site, "parked")
    assert (finding.status, finding.facts[0]["skipped"]) == ("ok", 1)


async def test_a_subscription_without_a_node_is_named(site: Site, ledger: Ledger) -> None:
    await ledger.create("billing", All())
    assert "billing" in (await found(site, "handled")).found
    await claimed(ledger, "billing")
    assert (await found(site, "handled")).status == "ok"


@pytest.mark.parametrize(("wants", "status"), [(EventType("A"), "fail"), (EventType("B"), "warn")])
async def test_events_that_wait_where_no_node_is_left_are_a_fault(
    site: Site, ledger: Ledger, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, wants: Selector, status: str
) -> None:
    monkeypatch.setattr(delivery, "STILL", 0.0)
    await ledger.create("billing", wants)
    await sql.execute(APPEND)
    finding = await found(site, "handled")
    waits = re.search(r"events wait: billing for \d+ s", finding.found)
    assert (finding.status, waits is not None) == (status, status == "fail")
    assert (await found(site, "stuck")).found.startswith("nobody runs billing" if status == "fail" else "every")


@pytest.mark.parametrize(
    ("change", "status"),
    [({}, "fail"), ({"waiting": 50.0}, "warn"), ({"settled_ago": 50.0}, "warn"), ({"waiting": None}, "warn")],
)
def test_how_long_events_wait_for_a_node_decides(change: dict[str, Any], status: str) -> None:
    part = replace(PART, owner=None, owner_alive=None, owner_age=None, handlers=0, **change)
    assert delivery.handled(delivery.Deliveries([part], [], 9)).status == status


async def test_a_new_subscription_to_old_events_has_not_waited_long(
    site: Site, ledger: Ledger, sql: asyncpg.Connection
) -> None:
    await sql.execute(APPEND)
    await ledger.create("billing", All())
    assert (await found(site, "handled")).status == "warn"


async def test_what_a_sink_may_lack_is_said_where_no_node_delivers_to_one(site: Site, ledger: Ledger) -> None:
    await ledger.create("plain", All())
    assert "sink" not in ((await found(site, "handled")).cure or "")
    await ledger.create("hook", All(), options={"sink": "https://shop.example/"})
    finding = await found(site, "handled")
    assert "the sink of hook a node needs no handler" in (finding.cure or "")
    assert [fact["sink"] for fact in finding.facts] == ["https://shop.example/", None]


async def test_a_partition_that_stays_free_although_nodes_live_is_named(site: Site, ledger: Ledger) -> None:
    await ledger.create("billing", All(), pool_size=2)
    await claimed(ledger, "billing")
    await ledger._database.rows("register_node_v1", uuid4(), "idle", 60)
    await free(site, "billing", 1)
    verdict = delivery.owned(await delivery.read_deliveries(site, again=0))
    assert (verdict.status, "billing/1" in verdict.found) == ("warn", True)


async def free(site: Site, name: str, partition: int) -> None:
    await site.rows(
        "update eventstore.checkpoints c set owner = null from eventstore.subscriptions s"
        " where s.id = c.subscription_id and s.name = $1 and c.partition = $2", name, partition
    )  # fmt: skip


async def test_a_partition_that_is_taken_at_the_second_look_was_only_moving(site: Site, ledger: Ledger) -> None:
    await ledger.create("billing", All())
    node, _ = await claimed(ledger, "billing")
    await free(site, "billing", 0)
    looks = 0

    class Moving(Site):
        async def database(self) -> Any:
            return await site.database()

    parts = delivery._parts

    async def look(database: Any) -> list[delivery.Part]:
        nonlocal looks
        looks += 1
        if looks == 2:
            await ledger.claim(node, ["billing"])
        return await parts(database)

    async with Moving(site.dsn) as moving:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delivery, "_parts", look)
            assert delivery.owned(await delivery.read_deliveries(moving, again=0)).status == "ok"
    assert looks == 2


async def test_a_pending_resize_tells_who_holds_it_up(site: Site, ledger: Ledger) -> None:
    await ledger.create("billing", All())
    await claimed(ledger, "billing")
    assert not await ledger.resize("billing", 4)
    finding = await found(site, "resizing")
    assert (finding.status, "held by a node" in finding.found) == ("warn", True)


async def test_a_checkpoint_beyond_the_log_is_found(site: Site, ledger: Ledger, sql: asyncpg.Connection) -> None:
    await sql.execute(APPEND)
    await ledger.create("billing", All(), after="current")
    await sql.execute("select setval('eventstore.event_positions', 0, true)")
    finding = await found(site, "ahead")
    assert (finding.status, "billing at 1" in finding.found) == ("fail", True)
    assert "`eventstore subscription rewind billing --after 0`" in (finding.cure or "")
    await ledger.rewind("billing", 0)
    assert (await found(site, "ahead")).status == "ok"


@pytest.mark.parametrize(("wants", "status"), [(EventType("A"), "warn"), (EventType("B"), "ok")])
async def test_a_partition_that_does_not_move_although_it_should_is_stuck(
    site: Site, ledger: Ledger, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, wants: Selector, status: str
) -> None:
    monkeypatch.setattr(delivery, "STILL", 0.0)
    await sql.execute(APPEND)
    await ledger.create("billing", wants)
    await claimed(ledger, "billing")
    finding = await found(site, "stuck")
    assert finding.status == status
    assert status == "ok" or "billing on a node" in finding.found


PART = delivery.Part("billing", "active", 1, None, 0, 5, 900.0, None, "one", True, 5000.0, 1, waiting=800.0)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "fail"),
        ({"settled_ago": 300.0}, "warn"),
        ({"settled_ago": None}, "fail"),
        ({"waiting": 20.0}, "ok"),
        ({"owner_age": 20.0}, "ok"),
        ({"settled_ago": 20.0}, "ok"),
        ({"waiting": None}, "ok"),
    ],
)
def test_how_long_a_partition_could_have_moved_decides(change: dict[str, Any], status: str) -> None:
    assert delivery.stuck(delivery.Deliveries([replace(PART, **change)], [], 9)).status == status


async def test_what_there_was_no_time_to_look_into_is_unknown(
    site: Site, ledger: Ledger, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "STILL", 0.0)
    monkeypatch.setattr(delivery, "LOOKED_FOR", 0.0)
    await sql.execute(APPEND)
    await ledger.create("billing", All())
    await claimed(ledger, "billing")
    finding = await found(site, "stuck")
    assert (finding.status, "1 others" in finding.found) == ("unknown", True)


async def test_a_subscription_that_runs_is_well(site: Site, store: EventStore) -> None:
    @store.handler("billing", All(), pool_size=2)
    async def handle(event: Event, delivery: Delivery) -> None:
        pass

    claimed = store._pools.moments.next("claimed")
    running = asyncio.create_task(store.run())
    stored = await store.append("x", [NewEvent("A")])
    async with asyncio.timeout(60):
        await claimed
        await store.subscriptions.wait_for("billing", stored.position)
    names = ("halted", "handled", "owned", "stuck", "nodes", "ahead", "resizing")
    assert {one.status async for one in examine(site, names)} == {"ok"}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_node_that_died_long_ago_is_named(site: Site, ledger: Ledger) -> None:
    await claimed(ledger)
    assert (await found(site, "nodes")).status == "ok"
    read = await delivery.read_nodes(site)
    gone = [replace(one, alive=False, lease_until=read.now - timedelta(hours=1)) for one in read.nodes]
    verdict = delivery.nodes(replace(read, nodes=gone))
    assert (verdict.status, "a node 3600 s ago" in verdict.found) == ("warn", True)


# -- explaining


async def explained(site: Site, subject: Any, **options: Any) -> Explanation:
    subject = await (await site.ledger()).get(subject) if isinstance(subject, str) else subject
    return await explain(await site.database(), subject, **options)


@pytest.fixture
async def log(store: EventStore) -> EventStore:
    """40 events in 8 streams; every fourth is of type Rare, the others of type Often."""
    for n in range(40):
        kind = "Often" if n % 4 else "Rare"
        await store.append(f"order-{n % 8}", [NewEvent(kind, {"n": n}, tags=[f"c:{n % 2}"])])
    return store


@pytest.mark.parametrize(
    ("selector", "key", "residual", "narrows"),
    [
        (All(), "any event", False, False),
        (EventType("Rare"), 'type = "Rare"', False, True),
        (Stream("order-1") & EventPayload({"n": {"$gt": 3}}), 'stream = "order-1"', True, True),
        (EventPayload({"n": 3}), "data.n = 3", False, False),
    ],
)
async def test_it_tells_the_keys_and_whether_an_index_leads_to_the_events(
    site: Site, log: EventStore, selector: Selector, key: str, residual: bool, narrows: bool
) -> None:
    found = await explained(site, selector)
    assert ([one.key for one in found.keys], found.residual, found.plan.narrows) == ([key], residual, narrows)


async def test_the_plan_is_that_of_a_page(site: Site, log: EventStore) -> None:
    found = await explained(site, Tags("c:1"))
    assert any("event_tags_key" in line for line in plan_lines(found.plan))
    assert "event_tags_key" in found.plan.indexes


@pytest.mark.parametrize(("sample", "looked_at", "matched"), [(10_000, 40, 10), (8, 8, 2), (0, 0, 0)])
async def test_the_end_of_the_log_is_sampled(
    site: Site, log: EventStore, sample: int, looked_at: int, matched: int
) -> None:
    found = (await explained(site, EventType("Rare"), sample=sample)).sample
    assert (found.looked_at, found.matched) == (looked_at, matched)
    assert found.ratio == (4.0 if matched else None)


async def test_what_remains_of_a_selector_is_counted_from_where_it_would_begin(site: Site, log: EventStore) -> None:
    found = await explained(site, EventType("Rare"), after=20)
    assert (found.remaining.events, found.remaining.exact) == (5, True)
    assert [event.position for event in found.events] == [21, 25, 29, 33, 37]


async def test_counting_goes_in_windows_and_stops_at_a_limit(
    site: Site, log: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "WINDOW", 4)
    monkeypatch.setattr(explaining.Window, "QUICK", 0.0)
    done: list[int] = []
    found = await explained(site, All(), limit=10, advance=lambda total: done.append)
    assert (found.remaining.events, found.remaining.exact, done) == (12, False, [4, 4, 4])


async def test_what_remains_is_counted_by_partition(site: Site, log: EventStore, ledger: Ledger) -> None:
    await ledger.create("s", EventType("Rare"), pool_size=3)
    node, claims = await claimed(ledger, "s")
    places = {0: 7, 1: 25, 2: 40}
    await ledger.settle(node, [(claim, places[claim.partition]) for claim in claims])
    wanted = [event async for event in log.read_all(EventType("Rare"))]
    left = [event for event in wanted if event.position > places[event.bucket % 3]]
    found = await explained(site, "s", events=100)
    assert found.remaining.partitions == [sum(event.bucket % 3 == n for event in left) for n in range(3)]
    assert [event.id for event in found.events] == [event.id for event in left]


async def test_after_a_resize_what_was_settled_before_does_not_remain(
    site: Site, log: EventStore, ledger: Ledger
) -> None:
    await ledger.create("s", All(), pool_size=2)
    node, claims = await claimed(ledger, "s")
    places = {0: 10, 1: 30}
    await ledger.release(node, [(claim, places[claim.partition]) for claim in claims])
    assert await ledger.resize("s", 3)
    left = [event async for event in log.read_all() if event.position > places[event.bucket % 2]]
    found = await explained(site, "s", events=100)
    assert found.remaining.events == len(left)
    assert [event.id for event in found.events] == [event.id for event in left]


async def test_a_rate_is_known_if_it_moved_while_it_was_watched(
    site: Site, log: EventStore, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.create("s", All())
    await claimed(ledger, "s")

    async def settle(_seconds: float) -> None:
        await ledger.ack("s", 30)

    monkeypatch.setattr(explaining.asyncio, "sleep", settle)
    left = (await explained(site, "s", watch=1.0)).remaining
    assert left.per_second is not None
    assert left.seconds == pytest.approx(40 / left.per_second)


async def test_nothing_is_watched_where_nobody_runs_it(site: Site, log: EventStore, ledger: Ledger) -> None:
    await ledger.create("s", All())
    assert (await explained(site, "s", watch=3000)).remaining.per_second is None


async def test_a_subscription_that_is_deleted_meanwhile_is_named(site: Site, ledger: Ledger) -> None:
    stored = await ledger.create("s", All())
    await ledger.delete("s")
    with pytest.raises(SubscriptionNotFound):
        await explained(site, stored)


@pytest.mark.parametrize("options", [{"after": -1}, {"limit": -1}, {"events": 1.5}, {"sample": -1}, {"watch": -1}])
async def test_bad_arguments_are_refused(site: Site, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await explained(site, All(), **options)
