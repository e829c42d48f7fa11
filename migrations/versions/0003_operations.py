"""What operators did, and the functions behind reports.

Revision: 0003
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

from eventstore.schema import function_source, quoted

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    # Nothing removes rows from here: one for each thing that somebody did by hand.
    """
    create table operator_actions (
        id          bigint generated always as identity primary key,
        at          timestamptz not null default clock_timestamp(),
        who         text not null,
        via         text not null,
        role        text not null default session_user,
        action      text not null,
        subject     text not null,
        arguments   json not null,
        outcome     text not null default 'begun',
        error       text,
        finished_at timestamptz,
        constraint operator_actions_outcome check (outcome in ('begun', 'done', 'failed')),
        constraint operator_actions_finished check ((outcome = 'begun') = (finished_at is null))
    )
    """,
    "create index operator_actions_subject_idx on operator_actions (subject, id)",
    # Reports count and show what waits for an operator, and must not look through all that was ever set aside.
    "create index parked_waiting_idx on parked (subscription_id) where state = 'parked'",
    "create index parked_latest_idx on parked (last_failed_at) where state = 'parked' and error is not null",
    # A checkpoint that moves changes none of its columns, so that its row is still updated in place.
    "create index checkpoints_halted_idx on checkpoints (subscription_id) where halted is not null",
)

FUNCTIONS = (
    "begin_action_v1",
    "event_detail_v1",
    "finish_action_v1",
    "latest_failures_v1",
    "list_actions_v1",
    "node_states_v1",
    "overview_v1",
    "set_aside_v1",
    "stream_timeline_v1",
    "store_measures_v1",
    "subscription_measures_v1",
    "subscription_page_v1",
    "subscription_states_v1",
    "waited_v1",
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
    for name in FUNCTIONS:
        # By name: each exists once.
        op.execute(text(f"drop function {schema}.{name}"))
    op.execute(text("drop index checkpoints_halted_idx, parked_latest_idx, parked_waiting_idx"))
    op.execute(text("drop table operator_actions"))
