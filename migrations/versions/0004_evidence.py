"""Tamper evidence: a chain of hashes for each stream, where it was on, and seals.

Revision: 0004
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

from eventstore.schema import function_source, quoted

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    # The switch; see chain_state_v1. The first revision makes it where that is new: appends look at it.
    "create sequence if not exists event_chain as bigint minvalue 0 start 0 cache 1 no cycle",
    """
    create table chain_periods (
        number bigint generated always as identity primary key,
        after  bigint not null,
        upto   bigint,
        constraint chain_periods_upto check (upto >= after)
    )
    """,
    """
    create table seals (
        number    bigint primary key,
        seal      text not null,
        stored_at timestamptz not null default clock_timestamp()
    )
    """,
)

FUNCTIONS = (
    "add_seal_v1",
    "chain_before_v1",
    "chain_event_v1",
    "chain_events_v1",
    "chain_page_v1",
    "chain_periods_v1",
    "chain_state_v1",
    "chain_status_v1",
    "chain_streams_v1",
    "chain_tags_v1",
    "event_content_v1",
    "event_record_v1",
    "list_seals_v1",
    "set_chain_v1",
)

CHANGED = ("append_one_v1", "scavenge_range_v1", "stub_event_v1", "write_events_v1")
"""Functions of the first revision that have learnt about the chain; schemas may have them as they were before."""

TRIGGERS = (
    """
    create trigger seals_append_only before update or delete on seals
        for each row execute function reject_change_v1()
    """,
    """
    create trigger seals_no_truncate before truncate on seals
        for each statement execute function reject_change_v1()
    """,
)


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    for statement in TABLES:
        op.execute(text(statement))
    for name in FUNCTIONS:
        op.execute(text(function_source(name, schema).replace(":", r"\:")))
    for name in CHANGED:
        source = function_source(name, schema).replace("create function", "create or replace function", 1)
        op.execute(text(source.replace(":", r"\:")))
    for statement in TRIGGERS:
        op.execute(text(statement))
    op.execute(text(f"revoke all on all functions in schema {quoted(schema)} from public"))


def downgrade() -> None:
    schema = quoted(context.config.attributes["schema"])
    # The switch stays, off: appends look at it.
    op.execute(text("select setval('event_chain', 0, true)"))
    for name in FUNCTIONS:
        # By name: each exists once.
        op.execute(text(f"drop function {schema}.{name}"))
    op.execute(text("drop table seals, chain_periods"))
