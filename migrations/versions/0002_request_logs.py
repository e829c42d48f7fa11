"""Requests that web applications answered, a partition for each month.

Revision: 0002
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

from eventstore.schema import function_source, quoted

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = (
    # By months, so that old ones are dropped as a whole; columns that reports read come first, which makes rows cheaper
    # to take apart. The key of a partitioned table has to contain the time; see
    # insert_requests_v1 for why a request is stored once all the same.
    """
    create table request_logs (
        request_id         uuid not null,
        inserted_at        timestamptz not null,
        duration_ms        double precision not null,
        status_code        smallint not null,
        method             text collate "C" not null,
        path               text collate "C" not null,
        device_type        text collate "C",
        session_id         text collate "C",
        session_page_views integer,
        remote_ip          text collate "C",
        referer            text collate "C",
        user_agent         text collate "C",
        constraint request_logs_key primary key (request_id, inserted_at),
        constraint request_logs_status check (status_code between 100 and 599),
        constraint request_logs_duration check (duration_ms >= 0 and duration_ms < 'infinity')
    ) partition by range (inserted_at)
    """,
    # Reports read a period, the newest first.
    "create index request_logs_time_idx on request_logs (inserted_at)",
    # One row, and nobody reads it but request_address_key_v1.
    """
    create table request_keys (
        one        boolean primary key default true,
        key        bytea not null,
        created_at timestamptz not null default clock_timestamp(),
        constraint request_keys_one check (one)
    )
    """,
)

FUNCTIONS = (
    "drop_request_month_v1",
    "ensure_request_month_v1",
    "insert_requests_v1",
    "request_address_key_v1",
    "request_month_v1",
    "request_months_v1",
    "request_report_v1",
)


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    for statement in TABLES:
        op.execute(text(statement))
    for name in FUNCTIONS:
        op.execute(text(function_source(name, schema).replace(":", r"\:")))
    op.execute(text(f"revoke all on all functions in schema {quoted(schema)} from public"))


def downgrade() -> None:
    schema = quoted(context.config.attributes["schema"])
    op.execute(text("drop table request_logs, request_keys"))
    # By name, whatever the arguments.
    names = ", ".join(f"'{name}'" for name in FUNCTIONS)
    op.execute(
        text(
            "do $$ declare f regprocedure; begin for f in select p.oid from pg_proc p"
            f" where p.pronamespace = to_regnamespace('{schema}') and p.proname in ({names})"
            " loop execute 'drop function ' || f; end loop; end $$"
        )
    )
