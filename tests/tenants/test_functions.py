"""Every function that a role may call, called by the login of one tenant with what belongs to another one."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventstore.rights import PUBSUB_TABLES, callers
from eventstore.tenants import COVERED
from tests.tenants.conftest import ACME, RIVAL, dsn_as

MARK = "ACME"
"""Stands in everything that one tenant stores, and in nothing that the other one asks for."""

NODES = {ACME: UUID(int=1), RIVAL: UUID(int=2)}

SEED = """
select {s}.append_events('both', '[{{"type": "A{m}", "data": "{m}", "metadata": {{"m": "{m}"}}, "tags": ["t{m}"],
                                    "id": "00000000-0000-0000-0000-0000000000ff"}}]');
select {s}.append_events('both', '[{{"type": "B{m}"}}]');
select {s}.append_events('{only}', '[{{"type": "A{m}", "data": "{m}", "id": "{id}"}}]');
select {s}.append_events('limited-{only}', '[{{"type": "A{m}"}}, {{"type": "A{m}"}}]');
select {s}.set_stream_metadata_v1('limited-{only}', p_max_count => 1, p_custom => '{{"m": "{m}"}}');
select {s}.create_subscription_v1(n, '{{"kind": "all"}}', '0', '{{"sink": "{m}"}}', 2)
  from unnest(array['both', '{only}']) n;
select {s}.register_node_v1('{node}', 'node-{m}', 3600);
select {s}.claim_partitions_v1('{node}', array['both', '{only}'], '{{}}', '{{}}', '{{}}');
select {s}.settle_partition_v1('{node}', c.subscription_id, c.partition, c.epoch, 1, json_build_array(json_build_object(
           'position', 1, 'bucket', c.partition, 'key', 's:both', 'state', 'parked', 'blocking', true, 'replay', true,
           'attempts', 1, 'error', 'E{m}', 'message', '{m}', 'traceback', '{m}'))::text)
  from {s}.owned_partitions_v1('{node}') c where c.partition = 0;
select {s}.insert_requests_v1(array['00000000-0000-0000-0000-0000000000ee'::uuid], '{{GET}}', '{{/{m}}}', '{{200}}',
           '{{1}}', '{{{m}}}', '{{{m}}}', '{{{m}}}', '{{{m}}}', '{{{m}}}', '{{1}}', array['2020-01-15'::timestamptz]);
select {s}.request_address_key_v1();
select {s}.begin_action_v1('{m}', 'cli', '{m}', '{m}');
select {s}.add_seal_v1(1, '"{m}"');
insert into {s}.pubsub_keys (name, key) values ('eventstore', '{m}');
insert into {s}.pubsub_spill (id, body) values ('{node}', '{m}');
"""

CALLS = {
    "ack_subscription_v1": "'theirs', 5",
    "add_seal_v1": "2, '{}'",
    "append_batch_v1": "'{both}', '{-1}', '{1}', array[gen_random_uuid()], '{A}', array['1'::json], null, null,"
    " array[now()]",
    "append_events": "'theirs', '[{\"type\": \"A\"}]'",
    "append_events_v1": "'{both}', '{-1}', null, array['00000000-0000-0000-0000-0000000000fe'::uuid], '{A}',"
    " array['1'::json], null, null, array[now()]",
    "append_one_v1": "'both', -2, gen_random_uuid(), 'A', '1', '{}', null, now()",
    "begin_action_v1": "'me', 'cli', 'a', 'b'",
    "chain_page_v1": "0, 1000, 1000",
    "chain_status_v1": "",
    "chain_streams_v1": "'', 1000",
    "chain_tags_v1": "'', 0, 1000, 1000",
    "claim_partitions_v1": "$1::uuid, array['both', 'theirs'], '{}', '{}', '{}'",
    "closed_keys_v1": "$2::bigint, array['s:both', 's:theirs']",
    "count_matches_v1": "null, 0, 1000",
    "create_subscription_v1": "'theirs', '{\"kind\": \"all\"}', '0', '{}', 1",
    "current_tenant_v1": "",
    "delete_stream_v1": "'theirs'",
    "delete_subscription_v1": "'theirs'",
    "discard_parked_v1": "'both'",
    "drop_request_month_v1": "'request_logs_202001', 1, 0",
    "event_detail_v1": "1, null",
    "explain_page_v1": "null, 0, 1000",
    "finish_action_v1": "1, 'done'",
    "get_subscriptions_v1": "",
    "halt_partition_v1": "$1::uuid, $2::bigint, 0, 1, '{}'",
    "head": "",
    "horizon_v1": "",
    "insert_requests_v1": "array['00000000-0000-0000-0000-0000000000ee'::uuid], '{GET}', '{/}', '{200}', '{1}',"
    " '{x}', '{x}', '{x}', '{x}', '{x}', '{1}', array['2020-01-15'::timestamptz]",
    "lag_v1": "",
    "latest_failures_v1": "",
    "leave_node_v1": "$1::uuid",
    "list_actions_v1": "",
    "list_nodes_v1": "",
    "list_parked_v1": "'both', null",
    "list_seals_v1": "0, 100",
    "list_sinks_v1": "",
    "list_streams_v1": "p_all => true",
    "load_parked_v1": "$2::bigint, 0",
    "log_bounds_v1": "",
    "mark_scavenged_v1": "'{limited-theirs}', '{1}'",
    "missing_subscriptions_v1": "array['both', 'theirs']",
    "node_states_v1": "",
    "overview_v1": "0",
    "owned_partitions_v1": "$1::uuid",
    "parked_counts_v1": "",
    "partition_health_v1": "",
    "pause_subscription_v1": "'both'",
    "read_events_v1": "",
    "read_feed": "",
    "read_stream": "'theirs'",
    "read_stream_v1": "'theirs'",
    "register_node_v1": "gen_random_uuid(), 'n', 10",
    "release_partitions_v1": "$1::uuid, array[$2::bigint], '{0}', '{1}', '{2}'",
    "renew_node_v1": "$1::uuid, 10",
    "replay_parked_v1": "'both'",
    "replayable_v1": "$2::bigint, 0, 100",
    "request_address_key_v1": "",
    "request_months_v1": "",
    "request_report_v1": "'2020-01-01', '2020-02-01', null, 10, 10",
    "resize_subscription_v1": "'both', 3",
    "resume_subscription_v1": "'both'",
    "rewind_position_v1": "'both', '{\"event\": \"00000000-0000-0000-0000-0000000000aa\"}'",
    "rewind_subscription_v1": "'both', '0'",
    "scavenge_v1": "",
    "schema_revision": "",
    "selector_narrows_v1": '\'{"kind": "all"}\'',
    "set_aside_v1": "'both'",
    "set_chain_v1": "true",
    "set_stream_metadata_v1": "'theirs', p_max_count => 1",
    "settle_partition_v1": "$1::uuid, $2::bigint, 0, 1, 5, '[]', '{1}'",
    "settle_partitions_v1": "$1::uuid, array[$2::bigint], '{0}', '{1}', '{5}'",
    "signal_channel_v1": "",
    "store_measures_v1": "",
    "stream_info_v1": "'theirs'",
    "stream_timeline_v1": "'theirs'",
    "subscription_measures_v1": "1000",
    "subscription_page_v1": "",
    "subscription_progress_v1": "'theirs'",
    "time_bounds_v1": "now() - interval '1 hour', now()",
    "tombstone_stream_v1": "'theirs'",
    "update_subscription_v1": "'both', '{}'",
}
"""Function → arguments. $1: the node of the other tenant; $2: a subscription's id of the other tenant."""

IDS = {ACME: "00000000-0000-0000-0000-0000000000aa", RIVAL: "00000000-0000-0000-0000-0000000000bb"}


async def seed(dsn: str, login: str, mark: str, only: str) -> None:
    connection = await asyncpg.connect(dsn_as(dsn, login))
    await connection.execute(SEED.format(s="eventstore", m=mark, only=only, node=NODES[login], id=IDS[login]))
    await connection.close()


async def kept(everything: asyncpg.Connection, tenant: str) -> dict[str, Any]:
    """Return all that a tenant has."""
    return {
        table: [
            row[0] for row in await everything.fetch(
                f"select t::text from eventstore.{table} t where t.tenant = $1 order by 1", tenant
            )
        ]
        for table in COVERED
    }  # fmt: skip


@pytest.fixture
async def two(shared: str) -> str:
    """DSN of a database in which two tenants have rows in every table, with names in common."""
    await seed(shared, ACME, MARK, "theirs")
    await seed(shared, RIVAL, "OTHER", "ours")
    return shared


def test_every_function_that_may_be_called_is_tried() -> None:
    assert sorted(CALLS) == sorted(name for name, roles in callers().items() if roles)


async def test_both_tenants_have_rows_in_every_table(two: str, everything: asyncpg.Connection) -> None:
    for tenant in BOTH:
        assert [table for table, rows in (await kept(everything, tenant)).items() if not rows] == []


BOTH = ("acme", "rival")


async def answers(two: str, everything: asyncpg.Connection) -> dict[str, str]:
    """Return what each function answers the login of the one about the other, errors too."""
    subscription = await everything.fetchval(
        "select id from eventstore.subscriptions where tenant = 'acme' and name = 'both'"
    )
    connection = await asyncpg.connect(dsn_as(two, RIVAL))
    found = {}
    for name, arguments in CALLS.items():
        given = [value for n, value in (("$1", NODES[ACME]), ("$2", subscription)) if n in arguments]
        text = arguments.replace("$2", "$1") if "$1" not in arguments else arguments
        try:
            rows = await connection.fetch(f"select * from eventstore.{name}({text})", *given)
            found[name] = " ".join(str(tuple(row)) for row in rows)
        except asyncpg.PostgresError as error:
            found[name] = f"{error} {error.detail}"
    await connection.close()
    return found


async def test_no_function_shows_or_changes_what_is_another_tenants(two: str, everything: asyncpg.Connection) -> None:
    before = await kept(everything, "acme")
    found = await answers(two, everything)
    assert {name: text for name, text in found.items() if MARK in text} == {}
    assert await kept(everything, "acme") == before


@pytest.mark.parametrize(
    ("planted", "caught"),
    [
        ("alter table eventstore.events disable row level security", "read_feed"),
        ("alter table eventstore.events no force row level security", "read_feed"),
        ("create policy mine on eventstore.subscriptions using (true)", "list_sinks_v1"),
        ("alter role es_tenants_owner bypassrls", "read_feed"),
        ("alter table eventstore.operator_actions disable row level security", "list_actions_v1"),
    ],
)
async def test_a_hole_in_the_wall_is_found(two: str, everything: asyncpg.Connection, planted: str, caught: str) -> None:
    try:
        await everything.execute(planted)
        assert MARK in (await answers(two, everything))[caught]
    finally:
        await everything.execute("alter role es_tenants_owner nobypassrls")


async def test_the_tables_that_roles_touch_show_and_take_nothing_of_anothers(
    two: str, everything: asyncpg.Connection
) -> None:
    before = await kept(everything, "acme")
    connection = await asyncpg.connect(dsn_as(two, RIVAL))
    for table in PUBSUB_TABLES:
        rows = await connection.fetch(f"select * from eventstore.{table}")
        assert {row["tenant"] for row in rows} == {"rival"}
    await connection.execute("update eventstore.pubsub_spill set body = 'changed'")
    await connection.execute("delete from eventstore.pubsub_spill")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await connection.execute(
            "insert into eventstore.pubsub_spill (tenant, id, body) values ('acme', $1, '')", uuid4()
        )
    with pytest.raises(asyncpg.PostgresError, match="row-level security"):
        await connection.execute("set row_security = off; select * from eventstore.pubsub_keys")
    await connection.close()
    assert await kept(everything, "acme") == before


async def test_a_months_requests_are_those_of_the_tenant(two: str) -> None:
    connection = await asyncpg.connect(dsn_as(two, RIVAL))
    (month,) = await connection.fetch("select * from eventstore.request_months_v1()")
    assert (month["name"], month["requests"]) == ("request_logs_202001", 1)
    assert await connection.fetchval("select eventstore.drop_request_month_v1('request_logs_202001', 1, 0)")
    assert not await connection.fetch("select * from eventstore.request_months_v1()")
    assert not await connection.fetchval("select eventstore.drop_request_month_v1('request_logs_202001', 1, 0)")
    await connection.close()
    other = await asyncpg.connect(dsn_as(two, ACME))
    report = await other.fetchval("select eventstore.request_report_v1('2020-01-01', '2020-02-01', null, 1, 1)")
    await other.close()
    assert json.loads(report)["paths"] == 1
