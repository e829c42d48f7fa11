"""The log of a tenant where another one has the same: the same names, ids, versions and positions.

Suites of other folders run again here, by the import of their tests. What they take for a database of their own is a
login that is bound to a tenant; whatever that tenant stores a trigger stores again as another one's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from eventstore import EventStore
from eventstore.roles import apply as apply_roles
from eventstore.roles import role_names
from tests.conftest import QUICK, Databases, dsn_of
from tests.tenants.conftest import PREFIX, dsn_as

ROLES = f"{PREFIX}_again"
"""Roles of its own: a member of the owner is a hole to whoever checks those of other tests."""

INSIDER = f"{PREFIX}_insider"
"""A login that is bound to one tenant, and a member of the schema's owner: tests look into tables."""

MIRROR = """
create function mirror() returns trigger language plpgsql security definer as $$
declare
    v_copy record := new;
begin
    v_copy.tenant := 'rival';
    if tg_table_name = 'subscriptions' then
        v_copy.id := nextval('eventstore.subscriptions_id_seq');
        execute 'insert into eventstore.subscriptions overriding system value select ($1).*'
            ' on conflict do nothing' using v_copy;
        insert into eventstore.checkpoints (tenant, subscription_id, partition, position)
            select s.tenant, s.id, n, s.start_position
              from eventstore.subscriptions s, generate_series(0, s.pool_size - 1) n where s.id = v_copy.id;
    else
        -- Tests that empty the tenant's tables leave these.
        execute format('insert into eventstore.%I select ($1).* on conflict do nothing', tg_table_name) using v_copy;
    end if;
    return null;
end $$;
"""
MIRRORED = ("streams", "events", "event_tags", "subscriptions")

OTHERS_TABLES = {
    # They look into tables in a way that takes the name of a stream, or a position, for a key of its own.
    "test_a_conflict_leaves_the_callers_transaction_usable",
    "test_of_many_concurrent_conditional_appends_exactly_one_wins",
    "test_a_refused_duplicate_leaves_a_transaction_of_the_callers_usable",
    "test_replies_lost_under_load_leave_one_copy_of_everything",
    "test_a_reply_lost_after_the_commit_changes_nothing_for_the_caller",
    "test_scavenging_touches_no_other_event_and_no_other_tag",
    # They change the database, or roles.
    "test_a_condition_that_waits_longer_than_lock_timeout_is_refused_as_a_conflict",
    "test_a_lock_timeout_of_the_second_attempt_is_no_answer_about_the_first",
    "test_a_role_without_the_right_is_told_who_has_it",
}
"""Tests that are left out, and why."""

AT_LENGTH = {
    "test_streams",
    "test_idempotency",
    "test_a_bad_append_is_refused_before_sql",
    "test_what_scavenging_left_of_an_event_is_no_event",
    "test_an_append_that_says_nothing_happened_is_right",
    "test_cancelling_an_append_again_and_again_leaves_the_callers_transaction_usable",
    "test_a_matching_event_in_flight_below_a_committed_one_is_waited_for",
    "test_a_condition_breaks_by_the_first_event_that_its_selector_matches",
    "test_whatever_matches_a_condition_cannot_be_in_flight_while_it_is_judged",
    "test_the_time_the_caller_takes_counts_for_no_page",
}
"""Modules and tests that run with HUNT=full alone: they take long."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = {item for item in items if item.path.parent == Path(__file__).parent}
    left_out = {item for item in here if _name(item) in OTHERS_TABLES}
    if os.environ.get("HUNT") != "full":
        left_out |= {item for item in here if AT_LENGTH & {_name(item), item.path.stem}}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


def _name(item: pytest.Item) -> str:
    return getattr(item, "originalname", item.name)


@pytest.fixture(scope="session")
def mirrored_template(databases: Databases, shared_template: str, pg: Any) -> Iterator[str]:
    name = f"tenants_{os.getpid()}_mirrored"
    with databases.fresh(name, template=shared_template) as dsn, psycopg.connect(dsn, autocommit=True) as admin:
        asyncio.run(apply_roles(dsn, "eventstore", ROLES))
        admin.execute(f"create role {INSIDER} login in role {ROLES}_owner".encode())
        admin.execute(f"insert into eventstore.tenant_logins (login, tenant) values ('{INSIDER}', 'acme')".encode())
        admin.execute(b"select setval('eventstore.tenant_bindings', 1)")
        # What tests do that are about none of this.
        admin.execute(f"grant set on parameter session_replication_role to {INSIDER}".encode())
        admin.execute(f"grant create on schema public to {INSIDER}".encode())
        admin.execute(MIRROR.encode())
        for table in MIRRORED:
            admin.execute(
                f"create trigger mirror after insert on eventstore.{table} for each row"
                " when (new.tenant = 'acme') execute function public.mirror()".encode()
            )
        admin.close()
        yield name
    with psycopg.connect(dsn_of(pg.host, pg.port, pg.user, "postgres"), autocommit=True) as admin:
        admin.execute(f"drop owned by {INSIDER}; drop role {INSIDER}, {', '.join(role_names(ROLES).values())}".encode())


@pytest.fixture
def mirrored(databases: Databases, mirrored_template: str) -> Iterator[str]:
    with databases.fresh(f"tenants_{os.getpid()}_again", template=mirrored_template) as dsn:
        yield dsn


@pytest.fixture
def db(mirrored: str) -> str:
    """DSN of the tenant, in place of a database of its own."""
    return dsn_as(mirrored, INSIDER)


@pytest.fixture
async def store(db: str) -> AsyncIterator[EventStore]:
    """An open store of the tenant."""
    async with EventStore(db, tenant="acme", settings=QUICK, node_name="one") as opened:
        yield opened


@pytest.fixture
async def sql(db: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection of the tenant."""
    connection = await asyncpg.connect(db)
    yield connection
    await connection.close()
