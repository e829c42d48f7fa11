"""The test plan, one row after another: what is done, what has to hold, and which tests show it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ROWS", "Row"]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        promises: which of P1 to P8 it is about.
        done: what is done to the store.
        held: what has to come out; nothing less counts.
        tests: of pytest, by file or by node; they are run at full length.
        minutes: expected on two cores.
        command: run instead of tests, by Python; it says with its exit code whether the row held.
        control: the bugs that are planted to show that what judges the row finds them; empty: there is none.
        caught_by: the tests that plant them.
    """

    number: int
    promises: str
    done: str
    held: str
    tests: tuple[str, ...]
    minutes: float
    command: tuple[str, ...] = ()
    control: str = ""
    caught_by: tuple[str, ...] = ()


def _at(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}::test_{name}" for name in names)


_MISSED, _RACES = "hunt/test_missed_events.py", "hunt/test_append_races.py"
_NODES, _POOLERS = "hunt/test_subscription_nodes.py", "operating/test_poolers.py"
_STALLS = "hunt/test_stalls.py"

_DELIVERIES = _at("hunt/test_checker.py", "a_planted_delivery_bug_is_caught_by_name")
_HISTORIES = _at("hunt/test_checker.py", "a_planted_anomaly_is_caught_by_name",
                 "a_planted_anomaly_of_the_log_is_caught_by_name")  # fmt: skip
_VERSIONS = _at(_RACES, "a_planted_inversion_gap_or_lost_tag_is_caught")
_UNSORTED = _at(_RACES, "appends_that_lock_their_streams_in_any_order_are_caught")
_KEPT = _at(_RACES, "a_connection_that_a_cancelled_call_keeps_is_caught")
_UNFENCED = _at(_NODES, "the_same_hunt_catches_writes_without_a_fence",
                "an_owner_of_before_who_may_still_settle_is_caught")  # fmt: skip
_DELIVERED_WRONG = "events that a journal says were left out, doubled, inverted, or settled before they were handled"

ROWS: tuple[Row, ...] = (
    Row(1, "P3", "64 writers pause up to 250 ms before they commit, roll back every tenth time and lose their sessions;"
        " eight readers want all, a part, or come late",
        "nothing missed, nothing extra, positions only rise; a cursor without a horizon is caught within 30 s",
        _at(_MISSED, "no_reader_misses_an_event_or_sees_a_ghost", "the_same_hunt_catches_a_cursor_without_a_horizon",
            "killing_the_listening_connection_under_load_loses_nothing"), 4,
        control="a cursor without a horizon",
        caught_by=_at(_MISSED, "the_same_hunt_catches_a_cursor_without_a_horizon")),
    Row(2, "P2", "10,000 transactions of callers that write elsewhere before they append",
        "versions follow positions in every stream",
        (*_at(_RACES, "transactions_that_write_elsewhere_first_never_invert_versions"), *_VERSIONS), 2,
        control="versions that are inverted, or have a gap", caught_by=_VERSIONS),
    Row(3, "P3", "a writer in another database, a prepared transaction and an idle one are each left open for 60 s",
        "nothing missed; who holds up readers is named within 5 s; all is read within 2 s after the release",
        ("tests/hunt/test_held_horizon.py",), 4,
        control="a reader that goes on without what is held",
        caught_by=_at("hunt/test_held_horizon.py", "a_reader_that_goes_on_without_what_is_held_is_caught")),
    Row(4, "P2", "20 writers of 500 rounds with any version and with exact ones, from one pool and from four",
        "as many rows as successes, losers get the named error, versions are contiguous",
        (*_at(_RACES, "writers_with_exact_versions_and_with_any_share_streams"), *_VERSIONS), 2,
        control="versions that are inverted, or have a gap", caught_by=_VERSIONS),
    Row(5, "P1 P2", "every process of Postgres is killed 20 times under 32 writers, with fsync on",
        "no acknowledged event lost, no id twice, versions contiguous; writing within 5 s after recovery",
        ("tests/hunt/test_crashes.py",), 6,
        control="a server that acknowledges before what it says is on disk",
        caught_by=_at("hunt/test_crashes.py", "an_acknowledged_event_that_a_crash_lost_is_caught")),
    Row(6, "P2", "the reply to an append is cut off after its commit, 1,000 times, and again under load",
        "one copy, and the first result; the same id with another body is the named error",
        _at("log/test_idempotency.py", "a_reply_lost_after_the_commit_changes_nothing_for_the_caller",
            "replies_lost_under_load_leave_one_copy_of_everything",
            "the_same_ids_with_anything_else_are_refused_and_nothing_is_written",
            "an_append_that_looks_for_no_ids_is_caught"), 2,
        control="an append that looks for no ids: it does nothing on a conflict, or stores a copy",
        caught_by=_at("log/test_idempotency.py", "an_append_that_looks_for_no_ids_is_caught")),
    Row(7, "P3 P4", "one of four nodes is killed every 2 s for 60 s, over 100,000 events of 500 streams",
        "every event handled, none out of order; a projection is the fold of the log; repeats ≤ kills × window",
        (*_at(_NODES, "nodes_killed_again_and_again_lose_and_invert_nothing"), *_DELIVERIES), 5,
        control=_DELIVERED_WRONG, caught_by=_DELIVERIES),
    Row(8, "P5", "the node that holds partitions is halted for three leases and goes on, 200 times",
        "every write under an old epoch is refused; nothing stored falls; a write without a fence is caught",
        (*_at(_NODES, "a_node_that_was_halted_can_write_nothing_and_gets_partitions_again"), *_UNFENCED), 10,
        control="writes without a fence: positions and epochs that fall, a function that believes any owner",
        caught_by=_UNFENCED),
    Row(9, "P3", "16 nodes create one subscription from now on at the same moment, 500 times",
        "one start, and nothing missed after it",
        _at(_NODES, "nodes_that_create_a_subscription_from_now_on_at_once_agree_on_its_start",
            "nodes_of_which_each_begins_at_its_own_moment_are_caught"), 3,
        control="nodes of which each begins at its own moment",
        caught_by=_at(_NODES, "nodes_of_which_each_begins_at_its_own_moment_are_caught")),
    Row(10, "P5", "nodes are killed whose clocks are an hour ahead, an hour behind, stand still, run backwards",
        "no lease is taken before it ran out; another node has it within the lease and 1 s",
        ("tests/hunt/test_clocks.py",), 3,
        control="a partition that is taken before its lease ran out",
        caught_by=_at("hunt/test_clocks.py", "a_partition_taken_before_the_lease_ran_out_is_caught")),
    Row(11, "P5 P7", "handlers block the loop for five leases, hang, raise, and get events they cannot decode",
        "nothing runs twice unfenced; parked after its attempts, and replayed; others at ≥ 90 % of their speed while"
        " one event in a thousand fails",
        (*_at(_NODES, "whatever_a_handler_does_wrong_is_recorded_and_holds_back_its_own_stream_only",
            "a_policy_that_halts_stops_the_partitions_of_what_failed_and_no_others",
            "keys_that_fail_hold_back_no_others_and_are_replayed_in_order",
            "parked_keys_survive_kills_also_in_the_middle_of_their_replay", "throughput_beside_keys_that_fail"),
         *_DELIVERIES), 4,
        control=_DELIVERED_WRONG, caught_by=_DELIVERIES),
    Row(12, "P3 P6", "listening connections fall silent without an end, 50 times, ten at a time",
        "noticed within 15 s; meanwhile events come with the next poll; nothing missed",
        _at(_STALLS, "listeners_that_fall_silent_are_replaced_and_cost_no_more_than_polling",
            "a_listener_that_stays_deaf_is_told"), 3,
        control="a listener that asks for no sign of life; one that does not come back",
        caught_by=_at(_STALLS, "a_listener_that_stays_deaf_is_told")),
    Row(13, "P2 P3 P8", "500 faults at random bytes of all connections: cut, stalled, slowed to 1 kB/s, reset",
        "no call outlasts its timeout, the pool is whole again, no anomaly",
        (*_at(_STALLS, "faults_at_random_bytes_outlast_no_timeout_and_lose_nothing"), *_KEPT, *_HISTORIES), 8,
        control="a connection that never comes back to its pool; events that are lost or doubled in a history; no call"
        " without a timeout is planted", caught_by=(*_KEPT, *_HISTORIES)),
    Row(14, "P5", "the node that holds a partition is cut off from the network 10 times, and comes back",
        "one owner that can write; the one cut off is fenced; its sessions are gone within 30 s",
        ("tests/hunt/test_netsplits.py", *_UNFENCED), 8,
        control="writes without a fence, as in row 8; no session that outlives its node is planted",
        caught_by=_UNFENCED),
    Row(15, "P8", "5,000 calls are cancelled at random turns of the event loop",
        "no connection, lock or open transaction left behind, and no caller forgotten",
        _at(_RACES, "cancelling_calls_anywhere_leaves_nothing_behind_and_loses_nobody",
            "cancelling_waiting_appends_gives_their_connections_back",
            "a_connection_that_a_cancelled_call_keeps_is_caught"), 4,
        control="a cancelled call that keeps its connection; a transaction that is left open", caught_by=_KEPT),
    Row(16, "P3", "a node is asked to stop in the middle of a batch 100 times, and twice in a row",
        "it ends well within its grace, and nothing is acknowledged that was not handled",
        _at(_NODES, "a_node_that_is_asked_to_stop_ends_what_it_has_in_hand_and_the_next_goes_on",
            "asked_twice_to_stop_work_stops_at_once_and_settles_nothing",
            "what_is_settled_before_it_is_handled_is_caught"), 4,
        control="a node that settles events before they are handled",
        caught_by=_at(_NODES, "what_is_settled_before_it_is_handled_is_caught")),
    Row(17, "P6 P8", "messages of 7,999 and 8,000 bytes, 10,000 forged signals, a queue of notifications that is full",
        "no append fails for a notification; what is forged is ignored; doctor names who fills the queue",
        (*_at("pubsub/test_postgres.py", "messages_about_as_large_as_a_notification_arrive_intact",
              "a_payload_of_7999_bytes_passes_and_one_more_does_not", "forged_notifications_are_counted"),
         "tests/hunt/test_notifications.py", "tests/faults/test_full_queue.py"), 3,
        control="a signal that is sent although the queue is full; nothing that believes a forged one is planted",
        caught_by=_at("hunt/test_notifications.py", "a_signal_that_is_sent_into_a_full_queue_is_caught")),
    Row(18, "P3", "a subscriber takes one event a second while 200,000 are appended, beside 1,000 presences",
        "memory grows by ≤ 32 MiB; others are no further behind than without it",
        ("tests/hunt/test_slow_subscriber.py",), 5,
        control="a mailbox that nobody bounds; nothing that delays others is planted",
        caught_by=_at("hunt/test_slow_subscriber.py", "a_mailbox_that_nobody_bounds_is_caught")),
    Row(19, "P3 P4", "rows 1 and 7 through PgBouncer in transaction mode, by polling and by a direct connection",
        "the pooler is noticed at the start; nothing lost or inverted; no lock left behind",
        (*_at(_POOLERS, "a_pooler_is_found_out_and_nothing_is_prepared",
            "without_a_direct_dsn_a_node_polls_and_says_so", "no_reader_behind_a_pooler_misses_an_event",
            "nodes_behind_a_pooler_that_are_killed_lose_and_invert_nothing"), *_DELIVERIES), 9,
        control=_DELIVERED_WRONG + "; no lock that is left behind is planted", caught_by=_DELIVERIES),
    Row(20, "P1 P7", "a standby is promoted under load; an older log is restored under newer checkpoints",
        "writing within 10 s; nothing acknowledged lost with synchronous replication; who is ahead of the log halts",
        ("tests/operating/test_failover.py",
         *_at("operating/test_backup.py",
              "checkpoints_that_an_older_log_left_ahead_halt_by_name_and_a_rewind_cures_them")), 3,
        control="replication that is not synchronous, and has stopped: what was acknowledged since is not there",
        caught_by=_at("operating/test_failover.py",
                      "events_that_an_asynchronous_standby_lost_hide_none_that_come_after_them")),
    Row(21, "P8", "10,000 payloads: NUL, surrogates, NaN, numbers beyond 2^53, depth, 1 MiB and a byte more",
        "equal when read again, types too, or a named error before SQL", ("tests/log/test_payloads.py",), 4,
        control="payloads that come back as other ones, such as 1.0 for 1",
        caught_by=_at("log/test_payloads.py", "a_payload_that_comes_back_as_another_is_caught")),
    Row(22, "P5 P7", "the ledger in memory and the real one get the same calls in any order",
        "same results, same errors; a difference is found", ("tests/simulation/test_model.py",), 6,
        control="a ledger in memory that forgets a resize",
        caught_by=_at("simulation/test_model.py", "a_difference_between_them_is_found")),
    Row(23, "P3 P5", "10,000 simulated histories of nodes, leases, crashes, clocks and lost calls, by seed",
        "always safe; everything is handled once faults stop; a seed is one history", (), 6,
        ("-m", "tests.simulation", "--start", "{seed}"),
        control="ledgers and nodes that fence, claim, settle or replay wrongly",
        caught_by=_at("simulation/test_simulation.py", "a_planted_bug_is_noticed")),
    Row(24, "P6", "presences are merged in any order, nodes are cut off, stopped and killed",
        "all agree in the end; who died is gone after its down period; a state shrinks back",
        ("tests/tracker", "tests/hunt/test_tracker_nodes.py"), 15,
        control="states that resurrect, forget, withhold or hoard; protocols that miss, repeat or never forgive",
        caught_by=(*_at("tracker/test_state.py", "a_law_catches_a_planted_bug",
                        "the_reference_catches_a_planted_bug"),
                   *_at("tracker/test_simulation.py", "a_planted_bug_is_noticed"))),
    Row(25, "P2", "positions beyond 2^31 and 2^53, appends of all forms at once",
        "no overflow, no deadlock, versions contiguous",
        _at(_RACES, "everything_holds_where_positions_outgrow_31_and_53_bits",
            "an_append_in_flight_holds_the_horizon_across_such_a_boundary",
            "single_append_transactions_of_every_form_never_deadlock",
            "appends_that_lock_their_streams_in_any_order_are_caught"), 3,
        control="appends that lock their streams in any order; no position that overflows is planted",
        caught_by=_UNSORTED),
    Row(26, "P8", "every role tries every action, TRUNCATE and shadowed functions among them",
        "exactly what the table says", ("tests/security/test_matrix.py",), 1,
        control="rights too many and too few",
        caught_by=_at("security/test_matrix.py", "a_right_too_many_or_too_few_is_caught")),
    Row(27, "P7", "superusers edit, delete, reorder and insert events and cut the log's end, 1,000 times",
        "all is found with the seals at hand, the first break by name; 100,000 events are verified within 60 s",
        ("tests/evidence/test_tampering.py",), 4,
        control="a verifier that does not compare with seals",
        caught_by=_at("evidence/test_tampering.py", "a_verifier_that_does_not_compare_with_seals_is_caught")),
    Row(28, "P8", "requests without a session, from other sites and names; scripts in data; passwords in 50 failures",
        "all refused, no script runs, no password is shown",
        ("tests/security/test_secrets.py", "tests/dashboard", "tests/browser"), 6,
        control="a message that is not redacted; a page that runs a script; a guard that looks at no origin or host",
        caught_by=(*_at("security/test_secrets.py", "a_message_that_is_not_redacted_is_caught"),
                   *_at("browser/test_reach.py", "a_page_that_does_none_of_it_is_found_out"),
                   *_at("dashboard/test_guard.py", "a_guard_that_looks_at_no_origin_or_no_host_is_caught"))),
)  # fmt: skip
"""Rows 1 to 28; row 29 is the soak, which has a command of its own."""
