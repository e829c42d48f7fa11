"""What tenants need of every schema: who the current one is, and keys that are found by the names of their constraints.

Besides, no function queries the sequence of positions any more (see horizon_v1), nor fills up a queue of notifications.

Revision: 0005
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

from eventstore.schema import function_source, quoted

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = (
    # Empty unless `eventstore tenants` binds a login to a tenant; nobody but the owner touches it.
    """
    create table tenant_logins (
        login    text collate "C" primary key,
        tenant   text collate "C" not null,
        bound_at timestamptz not null default clock_timestamp()
    )
    """,
    # 1 from the first binding on, also if that is rolled back; asking a sequence costs less than asking a table.
    "create sequence tenant_bindings as bigint minvalue 0 start 0 cache 1 no cycle",
    "select setval('tenant_bindings', 0, true)",
)

FUNCTIONS = ("current_tenant_v1",)

CHANGED = (
    "add_seal_v1",
    "append_batch_v1",
    "append_events_v1",
    "append_one_v1",
    "broken_by_v1",
    "changed_v1",
    "check_condition_v1",
    "check_within_log_v1",
    "claim_partitions_v1",
    "create_stream_v1",
    "create_subscription_v1",
    "drop_request_month_v1",
    "ensure_request_month_v1",
    "horizon_v1",
    "lock_stream_v1",
    "log_bounds_v1",
    "rarest_tag_v1",
    "renew_node_v1",
    "request_months_v1",
    "set_chain_v1",
    "signal_v1",
    "version_after_v1",
    "write_events_v1",
)
"""Functions of earlier revisions that have learnt about it; schemas may have them as they were before."""


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    for statement in TABLES:
        op.execute(text(statement))
    for name in FUNCTIONS:
        op.execute(text(function_source(name, schema).replace(":", r"\:")))
    for name in CHANGED:
        source = function_source(name, schema).replace("create function", "create or replace function", 1)
        op.execute(text(source.replace(":", r"\:")))
    op.execute(text(f"revoke all on all functions in schema {quoted(schema)} from public"))


def downgrade() -> None:
    schema = quoted(context.config.attributes["schema"])
    # Refused where there are tenants: the policies of the tables need it.
    op.execute(text(f"drop function {schema}.current_tenant_v1"))
    op.execute(text("drop table tenant_logins"))
    op.execute(text("drop sequence tenant_bindings"))
