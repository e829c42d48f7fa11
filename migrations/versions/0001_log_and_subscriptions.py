"""The log (streams, events), subscriptions with their checkpoints, and the nodes that run them.

Revision: 0001
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

from eventstore.schema import function_source, quoted

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    # MINVALUE 0 and is_called: the head of an empty log is 0, the first position 1. CACHE 1: a session that held
    # positions in reserve would hand out numbers below a horizon that readers have passed.
    "create sequence event_positions as bigint minvalue 0 start 0 cache 1 no cycle",
    "select setval('event_positions', 0, true)",
    # Whether events are chained by hashes; what belongs to it comes with a later revision, but appends look here.
    "create sequence event_chain as bigint minvalue 0 start 0 cache 1 no cycle",
    """
    create table streams (
        name            text collate "C" primary key,
        version         bigint not null default 0,
        bucket          smallint not null,
        state           text not null default 'live',
        truncate_before bigint,
        max_count       bigint,
        max_age         double precision,
        metadata        json not null default '{}',
        scavenged_to    bigint not null default 0,
        deleted_to      bigint not null default 0,
        created_at      timestamptz not null default clock_timestamp(),
        constraint streams_state check (state in ('live', 'deleted', 'tombstoned')),
        constraint streams_limits check (truncate_before > 0 and max_count > 0 and max_age > 0)
    )
    """,
    # What scavenging has to look at: few streams have limits.
    """
    create index streams_limited_idx on streams (name)
        where state <> 'live' or truncate_before is not null or max_count is not null or max_age is not null
    """,
    # No default on position: it is drawn inside write_events_v1 only, under the horizon lock.
    # data is null in what scavenging leaves of an event.
    """
    create table events (
        position    bigint not null,
        id          uuid not null,
        stream      text collate "C",
        version     bigint,
        bucket      smallint not null,
        type        text collate "C" not null,
        data        json,
        metadata    json not null,
        tags        text[] not null default '{}',
        created_at  timestamptz not null,
        recorded_at timestamptz not null,
        hash        bytea,
        constraint events_position_key primary key (position),
        constraint events_id_key unique (id),
        constraint events_stream_version_key unique (stream, version),
        constraint events_stream_and_version check ((stream is null) = (version is null))
    )
    """,
    "create index events_type_position_idx on events (type, position)",
    # Times rise nearly with positions, so that block ranges are enough, and cost an append nothing. With the positions
    # beside them, "later than this time, before that position" finds the few ranges where both can be true.
    "create index events_recorded_at_idx on events using brin (recorded_at, position) with (autosummarize = on)",
    """
    create table event_tags (
        tag      text collate "C" not null,
        position bigint not null,
        constraint event_tags_key primary key (tag, position)
    )
    """,
    # Half-empty pages for rows that are updated in place (heap-only tuples) at every append and settlement.
    "alter table streams set (fillfactor = 70)",
    """
    create table subscriptions (
        id             bigint generated always as identity primary key,
        key            text not null,
        name           text collate "C" not null,
        selector       jsonb not null,
        after          jsonb not null,
        options        jsonb not null default '{}',
        pool_size      int not null,
        state          text not null default 'active',
        start_position bigint not null,
        created_at     timestamptz not null default clock_timestamp(),
        resize_to      int,
        floors         bigint[],
        constraint subscriptions_name_key unique (name),
        constraint subscriptions_name_length check (length(name) between 1 and 512),
        constraint subscriptions_pool_size check (pool_size between 1 and 1024),
        constraint subscriptions_resize_to check (resize_to between 1 and 1024),
        constraint subscriptions_floors check (cardinality(floors) = 1024),
        constraint subscriptions_state check (state in ('active', 'paused'))
    )
    """,
    """
    create table nodes (
        incarnation uuid primary key,
        name        text not null,
        started_at  timestamptz not null,
        lease_until timestamptz not null
    )
    """,
    """
    create table checkpoints (
        subscription_id bigint not null references subscriptions (id) on delete cascade,
        partition       int not null,
        position        bigint not null,
        epoch           bigint not null default 0,
        owner           uuid references nodes (incarnation) on delete set null,
        settled_at      timestamptz,
        halted          jsonb,
        parked_revision bigint not null default 0,
        primary key (subscription_id, partition)
    ) with (fillfactor = 70)
    """,
    # Not those without an owner: looking for a free partition of one subscription would find the free ones of all.
    "create index checkpoints_owner_idx on checkpoints (owner) where owner is not null",
    # Which node has a handler for what; fallback: only while no other node has.
    """
    create table node_subscriptions (
        subscription_id bigint not null references subscriptions (id) on delete cascade,
        incarnation     uuid not null references nodes (incarnation) on delete cascade,
        fallback        boolean not null default false,
        primary key (subscription_id, incarnation)
    )
    """,
    "create index node_subscriptions_incarnation_idx on node_subscriptions (incarnation)",
    # One row: the number of changes that every node should look at (changed_v1).
    """
    create table control (
        one        boolean primary key default true,
        generation bigint not null default 0,
        constraint control_one check (one)
    ) with (fillfactor = 10)
    """,
    "insert into control default values",
    # key: 's:' and the stream, or 'e:' and the id of an event without one.
    """
    create table parked (
        subscription_id bigint not null references subscriptions (id) on delete cascade,
        position        bigint not null,
        bucket          smallint not null,
        key             text collate "C" not null,
        state           text not null,
        blocking        boolean not null,
        replay          boolean not null default false,
        attempts        int not null,
        error           text,
        message         text,
        traceback       text,
        first_failed_at timestamptz not null,
        last_failed_at  timestamptz not null,
        primary key (subscription_id, position),
        constraint parked_state check (state in ('parked', 'skipped', 'discarded'))
    )
    """,
    "create index parked_state_idx on parked (subscription_id, state, position)",
    "create index parked_key_idx on parked (subscription_id, key, position)",
    # What is skipped or discarded stays for good and may be much: emitters ask for these two only.
    """
    create index parked_open_idx on parked (subscription_id, key, position) include (bucket)
        where state = 'parked' and (blocking or replay)
    """,
    """
    create index parked_replay_idx on parked (subscription_id, position) include (bucket)
        where state = 'parked' and replay
    """,
    # PubSub works without a store and makes sure of its tables itself: it may have been here first.
    """
    create table if not exists pubsub_keys (
        name text primary key,
        key  bytea not null
    )
    """,
    """
    create unlogged table if not exists pubsub_spill (
        id         uuid primary key,
        body       bytea not null,
        created_at timestamptz not null default clock_timestamp()
    )
    """,
)

FUNCTIONS = (
    "append_events",
    "ack_subscription_v1",
    "append_batch_v1",
    "append_events_v1",
    "append_one_v1",
    "apply_resize_v1",
    "apply_resizes_v1",
    "broken_by_v1",
    "bucket_v1",
    "bump_parked_v1",
    "changed_v1",
    "check_condition_v1",
    "check_events_v1",
    "check_expected_v1",
    "check_first_of_queue_v1",
    "check_known_events_v1",
    "check_sql_v1",
    "check_stream_v1",
    "check_within_log_v1",
    "chosen_parked_v1",
    "claim_partitions_v1",
    "closed_keys_v1",
    "condition_stripes_v1",
    "count_matches_v1",
    "create_stream_v1",
    "create_subscription_v1",
    "declare_handled_v1",
    "delete_stream_v1",
    "delete_subscription_v1",
    "discard_parked_v1",
    "expected_matches_v1",
    "explain_page_v1",
    "fair_shares_v1",
    "find_subscription_v1",
    "first_visible_v1",
    "flat_tags_v1",
    "free_unheld_v1",
    "get_subscriptions_v1",
    "glob_like_v1",
    "halt_partition_v1",
    "head",
    "horizon_v1",
    "json_problem_v1",
    "json_suspect_v1",
    "lag_v1",
    "leave_node_v1",
    "list_nodes_v1",
    "list_parked_v1",
    "list_sinks_v1",
    "list_streams_v1",
    "load_parked_v1",
    "lock_stream_v1",
    "lock_stripes_v1",
    "lock_subscription_v1",
    "log_bounds_v1",
    "mark_scavenged_v1",
    "missing_partitions_v1",
    "missing_subscriptions_v1",
    "names_fit_v1",
    "names_problem_v1",
    "owned_partitions_v1",
    "park_events_v1",
    "parked_counts_v1",
    "partition_health_v1",
    "pattern_checks_v1",
    "pattern_problem_v1",
    "pattern_sql_v1",
    "pause_subscription_v1",
    "place_in_time_v1",
    "read_events_sql_v1",
    "rarest_tag_v1",
    "read_events_v1",
    "read_feed",
    "read_stream",
    "read_stream_v1",
    "record_sql_v1",
    "register_node_v1",
    "reject_change_v1",
    "release_partitions_v1",
    "remove_dead_nodes_v1",
    "renew_node_v1",
    "repeated_append_v1",
    "replay_parked_v1",
    "replayable_v1",
    "resize_subscription_v1",
    "resume_subscription_v1",
    "rewind_position_v1",
    "rewind_subscription_v1",
    "scavenge_range_v1",
    "scavenge_v1",
    "schema_revision",
    "selector_narrows_v1",
    "selector_problem_v1",
    "selector_sql_v1",
    "set_stream_metadata_v1",
    "settle_partition_v1",
    "settle_partitions_v1",
    "signal_channel_v1",
    "signal_v1",
    "start_position_v1",
    "stream_info_v1",
    "stripe_v1",
    "stripes_v1",
    "stub_event_v1",
    "stub_tags_v1",
    "subscription_progress_v1",
    "tags_sql_v1",
    "text_array_v1",
    "tombstone_stream_v1",
    "time_bounds_v1",
    "try_stripes_v1",
    "untraced_v1",
    "useful_floors_v1",
    "update_subscription_v1",
    "uuid_v7_v1",
    "version_after_v1",
    "wanted_partitions_v1",
    "write_events_v1",
)

TRIGGERS = (
    """
    create trigger events_append_only before delete on events
        for each row execute function reject_change_v1()
    """,
    """
    create trigger events_stub_only before update on events
        for each row execute function stub_event_v1()
    """,
    """
    create trigger events_no_truncate before truncate on events
        for each statement execute function reject_change_v1()
    """,
    """
    create trigger event_tags_append_only before update on event_tags
        for each row execute function reject_change_v1()
    """,
    """
    create trigger event_tags_stubs_only before delete on event_tags
        for each row execute function stub_tags_v1()
    """,
    """
    create trigger event_tags_no_truncate before truncate on event_tags
        for each statement execute function reject_change_v1()
    """,
)


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    for statement in TABLES:
        op.execute(text(statement))
    for name in FUNCTIONS:
        op.execute(text(function_source(name, schema).replace(":", r"\:")))
    for statement in TRIGGERS:
        op.execute(text(statement))
    # In the transaction that creates them: nobody but the owner may call anything until it is granted.
    op.execute(text(f"revoke all on all functions in schema {quoted(schema)} from public"))


def downgrade() -> None:
    schema = quoted(context.config.attributes["schema"])
    op.execute(text("drop table pubsub_spill, pubsub_keys"))
    op.execute(text("drop table parked, control, node_subscriptions, checkpoints, subscriptions, nodes"))
    op.execute(text("drop table event_tags, events, streams"))
    op.execute(text("drop sequence event_chain, event_positions"))
    # Every routine here belongs to the schema's revisions; dropped by signature, whatever the arguments.
    op.execute(
        text(
            "do $$ declare f regprocedure; begin for f in select p.oid from pg_proc p"
            f" where p.pronamespace = to_regnamespace('{schema}')"
            " loop execute 'drop function ' || f; end loop; end $$"
        )
    )
