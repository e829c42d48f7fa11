"""Who may call which function of the schema, in one table; `eventstore.roles` makes SQL of it.

Tables are touched through functions alone, which run with their owner's rights, so that a role is what it may call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["INTERNAL", "NODES", "PUBSUB_TABLES", "RIGHTS", "ROLES", "UNPINNED", "Right", "callers", "needed"]

ROLES = {
    "owner": "owns the schema and all that is in it, and nobody logs in as it; functions run with its rights",
    "migrator": "may become the owner, as `eventstore migrate` does, and nothing else",
    "writer": "appends, stores requests, takes part in PubSub; reads nothing",
    "reader": "reads the log, and sees subscriptions, nodes and reports",
    "worker": "runs subscriptions: reads, declares, claims, settles, parks; takes part in PubSub; appends nothing",
    "admin": "reads, changes and deletes subscriptions and streams, scavenges, replays, seals; takes part in PubSub",
}
"""What each role is for."""

_ALL = ("migrator", "writer", "reader", "worker", "admin")
_SEEING = ("reader", "worker", "admin")


@dataclass(frozen=True, slots=True)
class Right:
    """Something that roles may do, and the functions that it takes."""

    to: str
    roles: tuple[str, ...]
    functions: tuple[str, ...]


RIGHTS = (
    Right("open a store", _ALL, ("current_tenant_v1", "schema_revision", "signal_channel_v1")),
    Right("see how far the log goes", ("writer", *_SEEING), ("head",)),
    Right("append", ("writer",), ("append_batch_v1", "append_events", "append_events_v1", "append_one_v1")),
    Right("store requests", ("writer",), ("insert_requests_v1", "request_address_key_v1")),
    Right(
        "read the log",
        _SEEING,
        (
            "event_detail_v1",
            "horizon_v1",
            "list_streams_v1",
            "log_bounds_v1",
            "read_events_v1",
            "read_feed",
            "read_stream",
            "read_stream_v1",
            "stream_info_v1",
            "stream_timeline_v1",
            "time_bounds_v1",
        ),
    ),
    Right(
        "see subscriptions, nodes and reports",
        _SEEING,
        (
            "count_matches_v1",
            "explain_page_v1",
            "get_subscriptions_v1",
            "lag_v1",
            "latest_failures_v1",
            "list_nodes_v1",
            "list_parked_v1",
            "list_sinks_v1",
            "missing_subscriptions_v1",
            "node_states_v1",
            "overview_v1",
            "parked_counts_v1",
            "partition_health_v1",
            "rewind_position_v1",
            "selector_narrows_v1",
            "set_aside_v1",
            "store_measures_v1",
            "subscription_measures_v1",
            "subscription_page_v1",
            "subscription_progress_v1",
        ),
    ),
    # Handlers that name a selector declare their subscription when they start.
    Right("create subscriptions", ("worker", "admin"), ("create_subscription_v1",)),
    Right(
        "run subscriptions",
        ("worker",),
        (
            "claim_partitions_v1",
            "closed_keys_v1",
            "halt_partition_v1",
            "leave_node_v1",
            "load_parked_v1",
            "owned_partitions_v1",
            "register_node_v1",
            "release_partitions_v1",
            "renew_node_v1",
            "replayable_v1",
            "settle_partition_v1",
            "settle_partitions_v1",
        ),
    ),
    Right(
        "change subscriptions",
        ("admin",),
        (
            "ack_subscription_v1",
            "delete_subscription_v1",
            "discard_parked_v1",
            "pause_subscription_v1",
            "replay_parked_v1",
            "resize_subscription_v1",
            "resume_subscription_v1",
            "rewind_subscription_v1",
            "update_subscription_v1",
        ),
    ),
    Right(
        "limit, delete and scavenge streams",
        ("admin",),
        ("delete_stream_v1", "mark_scavenged_v1", "scavenge_v1", "set_stream_metadata_v1", "tombstone_stream_v1"),
    ),
    Right(
        "verify the log",
        ("reader", "admin"),
        ("chain_page_v1", "chain_status_v1", "chain_streams_v1", "chain_tags_v1", "list_seals_v1"),
    ),
    Right("seal the log, turn the chain on and off", ("admin",), ("add_seal_v1", "set_chain_v1")),
    # What people asked for, and what operators did: personal data, unlike the state of subscriptions.
    Right(
        "see requests, drop old ones", ("admin",), ("drop_request_month_v1", "request_months_v1", "request_report_v1")
    ),
    Right("record and see actions", ("admin",), ("begin_action_v1", "finish_action_v1", "list_actions_v1")),
)
"""Every function that a role may call. A test fails for a function that stands neither here nor in `INTERNAL`."""

INTERNAL = (
    "apply_resize_v1",
    "apply_resizes_v1",
    "broken_by_v1",
    "bucket_v1",
    "bump_parked_v1",
    "chain_before_v1",
    "chain_event_v1",
    "chain_events_v1",
    "chain_periods_v1",
    "chain_state_v1",
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
    "condition_stripes_v1",
    "create_stream_v1",
    "declare_handled_v1",
    "ensure_request_month_v1",
    "event_content_v1",
    "event_record_v1",
    "expected_matches_v1",
    "fair_shares_v1",
    "find_subscription_v1",
    "first_visible_v1",
    "flat_tags_v1",
    "free_unheld_v1",
    "glob_like_v1",
    "json_problem_v1",
    "json_suspect_v1",
    "lock_stream_v1",
    "lock_stripes_v1",
    "lock_subscription_v1",
    "missing_partitions_v1",
    "names_fit_v1",
    "names_problem_v1",
    "park_events_v1",
    "pattern_checks_v1",
    "pattern_problem_v1",
    "pattern_sql_v1",
    "place_in_time_v1",
    "rarest_tag_v1",
    "read_events_sql_v1",
    "record_sql_v1",
    "reject_change_v1",
    "remove_dead_nodes_v1",
    "repeated_append_v1",
    "request_month_v1",
    "scavenge_range_v1",
    "selector_problem_v1",
    "selector_sql_v1",
    "signal_v1",
    "start_position_v1",
    "stripe_v1",
    "stripes_v1",
    "stub_event_v1",
    "stub_tags_v1",
    "subscription_states_v1",
    "tags_sql_v1",
    "text_array_v1",
    "try_stripes_v1",
    "untraced_v1",
    "useful_floors_v1",
    "uuid_v7_v1",
    "version_after_v1",
    "waited_v1",
    "wanted_partitions_v1",
    "write_events_v1",
)
"""Functions that only other functions call: nobody but the owner may."""

UNPINNED = (
    "bucket_v1",
    "chain_before_v1",
    "chain_event_v1",
    "chain_events_v1",
    "check_events_v1",
    "condition_stripes_v1",
    "event_content_v1",
    "event_record_v1",
    "expected_matches_v1",
    "flat_tags_v1",
    "json_suspect_v1",
    "lock_stripes_v1",
    "stripe_v1",
    "stripes_v1",
    "try_stripes_v1",
    "write_events_v1",
)
"""Functions without a search_path of their own, which every append would pay for: they are inlined, or called by it
several times. All are internal and run with their caller's rights, and each caller has pinned the path."""

PUBSUB_TABLES = {"pubsub_keys": "select, insert", "pubsub_spill": "select, insert, update, delete"}
"""The only tables that roles touch themselves (see `eventstore.pubsub.postgres_tables`), and how."""

NODES = ("writer", "worker", "admin")
"""Roles that touch them."""


def callers() -> dict[str, tuple[str, ...]]:
    """Return which roles may call each function; nobody may call those that are internal."""
    granted = {name: right.roles for right in RIGHTS for name in right.functions}
    return granted | dict.fromkeys(INTERNAL, ())


def needed(refusal: str) -> Right | None:
    """Return the right to the function that *refusal*, a message of the server in English, says may not be called."""
    found = re.search(r"permission denied for function (\w+)", refusal)
    return next((right for right in RIGHTS if found and found[1] in right.functions), None)
